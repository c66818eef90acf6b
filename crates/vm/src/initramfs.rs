// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's root file system: a newc archive written here, so that neither cpio nor root is
//! needed. The same inputs give the same bytes: sorted names, no times, no owners.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::elf;
use fpt_kit::{hash, store, Ctx, Fail, Result};

enum Node {
    Dir(u32),
    File { mode: u32, from: Source },
    Link(String),
    Char { mode: u32, major: u32, minor: u32 },
}

enum Source {
    Path(PathBuf),
    Bytes(Vec<u8>),
}

/// Names are relative to the guest's root, without a leading slash.
#[derive(Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

impl Tree {
    fn insert(&mut self, name: &str, node: Node) {
        let name = name.trim_matches('/');
        let mut end = 0;
        while let Some(at) = name[end..].find('/') {
            end += at;
            self.nodes
                .entry(name[..end].to_string())
                .or_insert(Node::Dir(0o755));
            end += 1;
        }
        self.nodes.insert(name.to_string(), node);
    }

    /// Adds a folder with these permissions.
    pub fn dir(&mut self, name: &str, mode: u32) {
        self.insert(name, Node::Dir(mode));
    }

    /// Adds a file with these permissions and contents.
    pub fn text(&mut self, name: &str, mode: u32, text: &str) {
        self.insert(
            name,
            Node::File {
                mode,
                from: Source::Bytes(text.as_bytes().to_vec()),
            },
        );
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        self.insert(name, Node::Link(to.to_string()));
    }

    /// Whether there is something of this name.
    pub fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name.trim_matches('/'))
    }

    /// A file of the host, executable there or not as here.
    pub fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let meta = path
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mode = if meta.permissions().mode() & 0o111 != 0 {
            0o755
        } else {
            0o644
        };
        self.insert(
            name,
            Node::File {
                mode,
                from: Source::Path(path.to_path_buf()),
            },
        );
        Ok(())
    }

    /// A program of the host with the shared objects it needs.
    pub fn program(&mut self, name: &str, path: &Path) -> Result<()> {
        self.file(name, path)?;
        self.libraries(path)
    }

    /// Every file below a folder of the host, except what only a compiler reads.
    pub fn folder(&mut self, name: &str, dir: &Path) -> Result<()> {
        for rel in hash::files_below(dir)? {
            let skip = rel
                .extension()
                .is_some_and(|e| ["o", "c", "h", "d", "cmd", "mk"].iter().any(|s| e == *s));
            if skip {
                continue;
            }
            let path = dir.join(&rel);
            let target = format!("{name}/{}", rel.display());
            if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
                let to = std::fs::read_link(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.link(&target, &to.to_string_lossy());
            } else {
                self.program(&target, &path)?;
            }
        }
        Ok(())
    }

    fn libraries(&mut self, path: &Path) -> Result<()> {
        let mut todo = vec![path.to_path_buf()];
        let mut seen = BTreeSet::new();
        while let Some(path) = todo.pop() {
            let Some(needs) = elf::needs(&path)? else {
                continue;
            };
            let interp = needs.interp.iter().map(|i| (i.clone(), PathBuf::from(i)));
            let libs = needs
                .libraries
                .iter()
                .map(|l| (format!("lib64/{l}"), PathBuf::from(l)));
            for (target, lib) in interp.chain(libs) {
                if !seen.insert(target.clone()) || self.has(&target) {
                    continue;
                }
                let found = elf::find_library(&lib).ok_or_else(|| {
                    Fail::infra(
                        format!("{} needs {}", path.display(), lib.display()),
                        "it is in none of the library folders of this machine",
                        "install the package that holds it, or link the program statically",
                    )
                })?;
                self.file(&target, &found)?;
                if let Some(name) = lib
                    .file_name()
                    .and_then(|n| n.to_str())
                    .filter(|_| !lib.is_absolute())
                {
                    // Debian's dynamic linker looks in the one folder, others' in the other.
                    self.link(
                        &format!("lib/x86_64-linux-gnu/{name}"),
                        &format!("/lib64/{name}"),
                    );
                }
                todo.push(found);
            }
        }
        Ok(())
    }

    /// The archive.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (ino, (name, node)) in self.nodes.iter().enumerate() {
            let ino = ino as u32 + 1;
            match node {
                Node::Dir(mode) => entry(&mut out, ino, name, S_IFDIR | mode, (0, 0), &[])?,
                Node::Link(to) => {
                    entry(&mut out, ino, name, S_IFLNK | 0o777, (0, 0), to.as_bytes())?
                }
                Node::Char { mode, major, minor } => {
                    entry(&mut out, ino, name, S_IFCHR | mode, (*major, *minor), &[])?
                }
                Node::File {
                    mode,
                    from: Source::Bytes(data),
                } => entry(&mut out, ino, name, S_IFREG | mode, (0, 0), data)?,
                Node::File {
                    mode,
                    from: Source::Path(path),
                } => {
                    let data = std::fs::read(path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    entry(&mut out, ino, name, S_IFREG | mode, (0, 0), &data)?;
                }
            }
        }
        entry(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[])?;
        Ok(out)
    }
}

fn entry(
    out: &mut Vec<u8>,
    ino: u32,
    name: &str,
    mode: u32,
    dev: (u32, u32),
    data: &[u8],
) -> Result<()> {
    let size = u32::try_from(data.len()).map_err(|_| {
        Fail::infra(
            format!("'{name}' is too big for the guest's root"),
            "newc stops at 4 GiB",
            "share it through /host",
        )
    })?;
    let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
    let fields = [
        ino,
        mode,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        dev.0,
        dev.1,
        name.len() as u32 + 1,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// What every guest has: init, busybox with its applets, a few files of /etc.
pub fn base(init: &Path, busybox: &Path, applets: &[String]) -> Result<Tree> {
    let mut tree = Tree::default();
    for dir in [
        "proc", "sys", "dev", "run", "etc", "host", "mnt", "sbin", "usr/bin", "usr/sbin", "var",
    ] {
        tree.dir(dir, 0o755);
    }
    tree.dir("tmp", 0o1777);
    tree.dir("var/tmp", 0o1777);
    tree.dir("root", 0o700);
    // The kernel opens the console before init can mount anything.
    tree.insert(
        "dev/console",
        Node::Char {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    tree.insert(
        "dev/null",
        Node::Char {
            mode: 0o666,
            major: 1,
            minor: 3,
        },
    );
    tree.file("init", init)?;
    tree.program("bin/busybox", busybox)?;
    for applet in applets {
        let name = format!("bin/{applet}");
        if !tree.has(&name) {
            tree.link(&name, "busybox");
        }
    }
    tree.link("bin/fpt-init", "/init");
    tree.link("bin/fptctl", "/init");
    tree.text(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    tree.text("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    tree.text("etc/hosts", 0o644, "127.0.0.1 localhost fpt\n");
    tree.text("etc/profile", 0o644, "PS1='\\u@\\h:\\w\\$ '\nexport PS1\n");
    tree.link("etc/mtab", "/proc/self/mounts");
    Ok(tree)
}

/// Writes the archive where its content says, unless it is there.
pub fn write(ctx: &Ctx, tree: &Tree) -> Result<Image> {
    let data = tree.archive()?;
    let mut inputs = hash::Inputs::new();
    let hash = inputs.bytes("initramfs", &data).finish();
    let path = ctx
        .root
        .join("target/fpt/initramfs")
        .join(format!("{}.cpio", hash::short(&hash)));
    if path
        .metadata()
        .map_or(true, |m| m.len() != data.len() as u64)
    {
        store::write_atomic(&path, &data)?;
    }
    Ok(Image { path, hash })
}

/// A root file system in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// Hash of what it holds.
    pub hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An independent reader: (name, mode, data).
    fn read(mut raw: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&raw[..6], b"070701");
            let field = |n: usize| {
                u32::from_str_radix(
                    std::str::from_utf8(&raw[6 + 8 * n..14 + 8 * n]).unwrap(),
                    16,
                )
                .unwrap() as usize
            };
            let (mode, size, namesize) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&raw[110..110 + namesize - 1])
                .unwrap()
                .to_string();
            assert_eq!(raw[110 + namesize - 1], 0);
            let start = (110 + namesize).next_multiple_of(4);
            let end = (start + size).next_multiple_of(4);
            at += end;
            if name == "TRAILER!!!" {
                assert_eq!(raw.len(), end, "nothing after the trailer (offset {at})");
                return out;
            }
            out.push((name, mode as u32, raw[start..start + size].to_vec()));
            raw = &raw[end..];
        }
    }

    #[test]
    fn archive_is_sorted_complete_and_stable() {
        let make = || {
            let mut tree = Tree::default();
            tree.text("b/c/d.txt", 0o644, "hello");
            tree.link("a", "b/c");
            tree.insert(
                "dev/console",
                Node::Char {
                    mode: 0o600,
                    major: 5,
                    minor: 1,
                },
            );
            tree.archive().unwrap()
        };
        let raw = make();
        assert_eq!(raw, make());
        let list = read(&raw);
        let names: Vec<&str> = list.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, ["a", "b", "b/c", "b/c/d.txt", "dev", "dev/console"]);
        assert_eq!(list[0], ("a".into(), 0o120777, b"b/c".to_vec()));
        assert_eq!(list[1].1, 0o040755);
        assert_eq!(list[3], ("b/c/d.txt".into(), 0o100644, b"hello".to_vec()));
        assert_eq!(list[5].1, 0o020600);
    }

    #[test]
    fn shared_objects_come_along() {
        let sh = Path::new("/bin/sh");
        let mut tree = Tree::default();
        tree.program("bin/sh", sh).unwrap();
        if elf::needs(sh).unwrap().is_some_and(|n| n.interp.is_some()) {
            assert!(
                tree.nodes.keys().any(|k| k.starts_with("lib64/libc.so")),
                "{:?}",
                tree.nodes.keys()
            );
            assert!(tree.nodes.keys().any(|k| k.contains("ld-linux")));
        }
    }
}
