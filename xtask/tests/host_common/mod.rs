// SPDX-License-Identifier: MIT OR Apache-2.0
//! A made-up checkout with a made-up kernel of a few files, so that the whole path from a
//! tarball to a cached image runs in a second and without a network.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct Lab {
    pub dir: tempfile::TempDir,
}

pub const MERGE: &str = "#!/bin/sh\n\
    # merge_config.sh -m -Q -O OUT FRAGMENT...\n\
    out=$4; shift 4; cat \"$@\" > \"$out/.config\"\n";

/// Stands in for Kconfig and Kbuild: drops the options named in the file `drop`.
pub const MAKEFILE: &str = "\
# SPDX-License-Identifier: GPL-2.0\n\
allnoconfig:\n\
\t@echo asked >> $(O)/questions\n\
\t@grep -v -x -F -f drop $(KCONFIG_ALLCONFIG) > $(KCONFIG_CONFIG)\n\
vmlinux:\n\
\t@test ! -f slow || sleep $$(cat slow)\n\
\t@mkdir -p $(O)/include/config\n\
\t@echo 6.12.999 > $(O)/include/config/kernel.release\n\
\t@cat code.c arch/x86/mm/fpt/*.rs > $(O)/vmlinux\n\
\t@echo map > $(O)/System.map\n\
\t@echo built >> $(O)/builds\n";

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let lab = Lab { dir };
        for name in ["base", "guest", "selftests", "fpt", "debug", "kasan"] {
            lab.write(
                &format!("root/configs/{name}.config"),
                &format!("CONFIG_{}=y\n", name.to_uppercase()),
            );
        }
        lab.write("root/xtask/empty", "");
        lab.write("root/rust-mm-fpt/kernel/fpt_rust.rs", "// root\n");
        lab.write("root/rust-mm-fpt/core/src/lib.rs", "// host only\n");
        lab.write("root/rust-mm-fpt/core/src/entry.rs", "// entry\n");
        lab.write("root/rust-mm-fpt/geometry/src/lib.rs", "// host only\n");
        lab.write("root/rust-mm-fpt/geometry/src/addr.rs", "// addr\n");
        for name in ["linux", "qemu"] {
            lab.write(&format!("root/{name}-patches/series"), "# SPDX\n");
        }
        lab.write(
            "root/linux-patches/BASE",
            "name = 'linux'\nline = '6.12'\ntested = '6.12.999'\n\
             [debian]\npackage = 'linux-source-6.12'\nkind = 'binary'\n",
        );
        lab.write(
            "root/qemu-patches/BASE",
            "name = 'qemu'\nline = '10.0'\ntested = '10.0.1'\n\
             [debian]\npackage = 'qemu'\nkind = 'source'\nsuites = ['trixie']\n",
        );
        lab.write("kernel/linux-6.12.999/Makefile", MAKEFILE);
        lab.write("kernel/linux-6.12.999/code.c", &numbered(60));
        lab.write("kernel/linux-6.12.999/other.c", "int other;\n");
        lab.write("kernel/linux-6.12.999/drop", "");
        lab.script(
            "kernel/linux-6.12.999/scripts/kconfig/merge_config.sh",
            MERGE,
        );
        lab.write("kernel/linux-6.12.999/scripts/checkpatch.pl", "exit 0;\n");
        lab.script("bin/bindgen", "#!/bin/sh\necho bindgen 0.71.1\n");
        lab
    }

    pub fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    pub fn write(&self, rel: &str, text: &str) {
        let path = self.path(rel);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub fn script(&self, rel: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(rel, text);
        fs::set_permissions(self.path(rel), fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    pub fn read(&self, rel: &str) -> String {
        fs::read_to_string(self.path(rel)).unwrap_or_default()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut cmd = Command::new(env!("CARGO_BIN_EXE_fpt"));
        cmd.args(args)
            .env("FPT_ROOT", self.path("root"))
            .env("FPT_CACHE", self.path("cache"))
            .env("FPT_BINDGEN", self.path("bin/bindgen"))
            .env_remove("CARGO_TARGET_DIR")
            .current_dir(self.dir.path());
        cmd
    }

    pub fn run(&self, args: &[&str]) -> Out {
        Out::from(self.command(args).output().expect("xtask starts"))
    }

    /// Pack the kernel's files; path and hash of the tarball.
    pub fn tarball(&self) -> (String, String) {
        let path = self.path("linux-6.12.999.tar.xz");
        let status = Command::new("tar")
            .arg("-C")
            .arg(self.path("kernel"))
            .arg("-cJf")
            .arg(&path)
            .arg("linux-6.12.999")
            .status()
            .expect("tar starts");
        assert!(status.success());
        let hash = sha256(&path);
        (path.display().to_string(), hash)
    }

    /// Make the tarball the source of this lab's kernel.
    pub fn fetched(&self) {
        let (path, hash) = self.tarball();
        let out = self.run(&[
            "fetch",
            "linux",
            "--provider",
            "upstream",
            "--from",
            &path,
            "--sha256",
            &hash,
        ]);
        out.code(0);
    }

    /// The unpacked tree in the cache.
    pub fn tree(&self) -> PathBuf {
        fs::read_dir(self.path("cache/trees"))
            .expect("trees")
            .flatten()
            .map(|e| e.path())
            .find(|p| p.join("Makefile").is_file())
            .expect("an unpacked tree")
    }

    /// Temporary names anywhere in the cache: what an interrupt must not leave.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(".part-") || name.starts_with(".tmp") {
                    out.push(entry.path());
                } else if entry.path().is_dir() && name != ".git" {
                    walk(&entry.path(), out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.path("cache"), &mut out);
        out
    }
}

/// A source file of numbered lines, for patches to hit.
pub fn numbered(lines: usize) -> String {
    (1..=lines).map(|n| format!("int v{n};\n")).collect()
}

pub fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum");
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .next()
        .unwrap_or("")
        .to_string()
}

pub struct Out {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Out {
    fn from(o: Output) -> Out {
        Out {
            code: o.status.code(),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Out {
    #[track_caller]
    pub fn code(&self, want: i32) -> &Out {
        assert_eq!(
            self.code,
            Some(want),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The one line of the error.
    #[track_caller]
    pub fn error(&self) -> &str {
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .filter(|l| l.starts_with("error: "))
            .collect();
        assert_eq!(lines.len(), 1, "one error line in:\n{}", self.stderr);
        lines[0]
    }

    #[track_caller]
    pub fn error_has(&self, words: &[&str]) -> &Out {
        let line = self.error();
        for word in words {
            assert!(line.contains(word), "'{word}' in: {line}");
        }
        self
    }
}
