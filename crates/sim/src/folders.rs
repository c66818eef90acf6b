// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the host the program finds in the guest, and where: at its own path, read-only.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::program::Program;
use fpt_kit::{Fail, Result};
use fpt_vm::initramfs::Tree;
use fpt_vm::qemu::Share;
use fpt_vm::vm::Guest;

/// The guest's folder for what is put in its place only after folders are mounted.
const OWN: &str = "/.sim";
/// Where the guest has the folder of `--stdin`.
const STDIN: &str = "/.sim/stdin";
/// A larger file than this would make the guest's root too large: its folder can be shared.
const MOST_FILE: u64 = 256 << 20;
/// Folders of the guest's own, which nothing may hide.
const GUESTS: [&str; 9] = [
    "/", "/bin", "/dev", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys",
];

/// File systems in the guest's memory that hide what its root has there.
const EMPTY: [&str; 2] = ["/tmp", "/run"];

/// A folder of the host, and where the guest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    host: PathBuf,
    guest: PathBuf,
}

#[derive(Debug, Default)]
pub struct Folders {
    /// A folder comes before those in it.
    mounts: Vec<Mount>,
    files: Vec<PathBuf>,
    cwd: PathBuf,
    stdin: Option<PathBuf>,
}

fn hides(dir: &Path) -> bool {
    GUESTS.iter().any(|g| dir == Path::new(g))
}

impl Folders {
    /// `files` are folders or files. The current folder is shared unless it would hide one of the guest's.
    pub fn new(cwd: &Path, files: &[PathBuf], stdin: Option<&Path>) -> Result<Folders> {
        let mut out = Folders {
            cwd: cwd.to_path_buf(),
            ..Folders::default()
        };
        let mut dirs = Vec::new();
        if !hides(cwd) {
            dirs.push(cwd.to_path_buf());
        }
        for name in files {
            let path = std::path::absolute(cwd.join(name))
                .with_context(|| format!("cannot find {}", name.display()))?;
            let meta = path.metadata().map_err(|e| {
                Fail::usage(
                    format!("cannot share {}", name.display()),
                    e.to_string(),
                    "name an existing folder with --files",
                )
            })?;
            if meta.is_dir() {
                if hides(&path) {
                    return Err(Fail::usage(
                        format!("cannot share {}", path.display()),
                        "it would hide a folder of the guest's own",
                        "name folders below it",
                    ));
                }
                dirs.push(path);
            } else if meta.len() > MOST_FILE {
                return Err(Fail::usage(
                    format!("{} is too large to be copied", path.display()),
                    format!("files have {} MiB at most", MOST_FILE >> 20),
                    "name its folder with --files, which is shared and not copied",
                ));
            } else {
                out.files.push(path);
            }
        }
        dirs.sort();
        dirs.dedup();
        out.mounts = dirs
            .into_iter()
            .map(|dir| Mount {
                host: dir.clone(),
                guest: dir,
            })
            .collect();
        if let Some(name) = stdin {
            let path = cwd.join(name);
            let real = path.canonicalize().ok().filter(|p| p.is_file());
            let found = real
                .as_deref()
                .and_then(|p| Some((p.parent()?, p.file_name()?)));
            let Some((dir, file)) = found else {
                return Err(Fail::usage(
                    format!("cannot read {}", name.display()),
                    "it is no file",
                    "name an existing file with --stdin",
                ));
            };
            out.mounts.push(Mount {
                host: dir.to_path_buf(),
                guest: STDIN.into(),
            });
            out.stdin = Some(Path::new(STDIN).join(file));
        }
        Ok(out)
    }

    /// What QEMU shares with the guest. The first is what every guest has at /host.
    pub fn share(&self) -> Option<Share> {
        let mut dirs = self.mounts.iter().map(|m| m.host.clone());
        Some(Share {
            dir: dirs.next()?,
            writable: false,
            more: dirs.collect(),
        })
    }

    /// Where the guest has the program's standard input.
    pub fn stdin(&self) -> Option<&Path> {
        self.stdin.as_deref()
    }

    /// The program's current folder in the guest.
    pub fn cwd(&self) -> &Path {
        if self.mounts.iter().any(|m| self.cwd.starts_with(&m.guest)) {
            &self.cwd
        } else {
            Path::new("/root")
        }
    }

    fn is_shared(&self, path: &Path) -> bool {
        self.mounts.iter().any(|m| path.starts_with(&m.guest))
    }

    /// Something is mounted over what the guest's root has at this path.
    fn is_hidden(&self, path: &Path) -> bool {
        self.is_shared(path) || EMPTY.iter().any(|dir| path.starts_with(dir))
    }

    /// What the guest's root file system gets: all that the program needs to start.
    pub fn ship(&self, program: &Program, tree: &mut Tree) -> Result<()> {
        tree.dir(OWN, 0o755);
        for (n, (guest, host)) in self.shipped(program).into_iter().enumerate() {
            tree.file(&guest.to_string_lossy(), host)?;
            if self.is_hidden(guest) {
                tree.file(&format!("{OWN}/{n}"), host)?;
            }
        }
        for (name, found) in &program.libraries {
            // The guest's loader has no cache of names: it looks in the usual folders.
            for dir in ["lib64", "lib/x86_64-linux-gnu"] {
                let usual = format!("{dir}/{name}");
                if !name.contains('/') && !tree.has(&usual) {
                    tree.link(&usual, &found.to_string_lossy());
                }
            }
        }
        Ok(())
    }

    fn shipped<'a>(&'a self, program: &'a Program) -> Vec<(&'a Path, &'a Path)> {
        let files = program.files.iter();
        let files = files.map(|(guest, host)| (guest.as_path(), host.as_path()));
        let own = self.files.iter().map(|f| (f.as_path(), f.as_path()));
        files.chain(own).collect()
    }

    /// Puts everything in its place in a guest that has booted.
    pub fn mount(&self, program: &Program, guest: &mut Guest) -> Result<()> {
        let mut lines = vec!["set -e".to_string()];
        for (n, mount) in self.mounts.iter().enumerate() {
            let at = quoted(&mount.guest);
            lines.push(format!("mkdir -p {at}"));
            lines.push(match n {
                0 => format!("mount -o bind /host {at}"),
                n => format!(
                    "mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,access=any files{n} {at}"
                ),
            });
        }
        for (n, (path, _)) in self.shipped(program).into_iter().enumerate() {
            if self.is_hidden(path) {
                if let (false, Some(dir)) = (self.is_shared(path), path.parent()) {
                    lines.push(format!("mkdir -p {}; : > {}", quoted(dir), quoted(path)));
                }
                // From the guest's own memory: the folder is the host's, each of whose pages is asked for.
                lines.push(format!("mount -o bind {OWN}/{n} {}", quoted(path)));
            }
        }
        guest.shell(&lines.join("\n")).map(drop)
    }
}

/// A path as a word of the guest's shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_guest_stay() {
        let root = Folders::new(Path::new("/"), &[], None).unwrap();
        assert!(root.share().is_none());
        assert_eq!(root.cwd(), Path::new("/root"));
        let err = Folders::new(Path::new("/"), &["/proc".into()], None).unwrap_err();
        assert!(fpt_kit::fail::report(&err).0.contains("hide"));
    }

    #[test]
    fn own_paths() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("a b")).unwrap();
        std::fs::write(dir.join("in"), "x").unwrap();
        let some = Folders::new(&dir, &["a b".into(), "in".into()], Some(Path::new("in"))).unwrap();
        let share = some.share().unwrap();
        assert_eq!(share.dir, dir);
        assert_eq!(share.more, [dir.join("a b"), dir.clone()]);
        assert!(!share.writable);
        assert_eq!(some.stdin(), Some(Path::new("/.sim/stdin/in")));
        assert_eq!(some.cwd(), dir);
        assert!(some.is_shared(&dir.join("prog")) && !some.is_hidden(Path::new("/x")));
        assert!(some.is_hidden(Path::new("/tmp/x")) && !some.is_shared(Path::new("/run/x")));
        assert_eq!(quoted(Path::new("/a'b")), "'/a'\\''b'");
        for bad in ["nothing", "in/x"] {
            assert!(Folders::new(&dir, &[bad.into()], None).is_err());
        }
        assert!(Folders::new(&dir, &[], Some(Path::new("a b"))).is_err());
    }
}
