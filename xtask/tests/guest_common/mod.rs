// SPDX-License-Identifier: MIT OR Apache-2.0
//! A checkout of nothing, in which the commands find fake-qemu for a QEMU.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// What a command said, and its exit code.
pub struct Out {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    #[track_caller]
    pub fn is(&self, code: i32, words: &[&str]) -> &Out {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        for word in words {
            assert!(all.contains(word), "'{word}' is not in:\n{all}");
        }
        assert!(!all.contains("panicked at"), "{all}");
        self
    }
}

pub fn finish(child: Child) -> Out {
    let out = child.wait_with_output().unwrap();
    Out {
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// The stand-in, built here: it is a crate of its own, which nobody installs.
fn fake_qemu() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let fpt = Path::new(env!("CARGO_BIN_EXE_fpt"));
        let (profile, target) = (fpt.parent().unwrap(), fpt.ancestors().nth(2).unwrap());
        let mut cmd = Command::new(env!("CARGO"));
        cmd.args(["build", "--quiet", "--locked", "--package", "fpt-testkit"])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .arg("--target-dir")
            .arg(target);
        if profile.ends_with("release") {
            cmd.arg("--release");
        }
        assert!(cmd.status().expect("cargo runs").success());
        profile.join("fake-qemu")
    };
    BUILT.get_or_init(build).clone()
}

/// The checkout, with `files` besides what every command needs.
pub fn checkout(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let always = [
        ("xtask/README", ""),
        ("vmlinux", "no kernel"),
        ("unpatched", "no other kernel"),
        ("initrd", "no files"),
    ];
    for (name, text) in always.iter().chain(files) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    dir
}

/// xtask in that checkout.
pub fn xtask(dir: &Path, args: &[&str]) -> Command {
    let mut cmd = Command::new(env!("CARGO_BIN_EXE_fpt"));
    cmd.args(args)
        .env("FPT_ROOT", dir)
        .env("FPT_CACHE", dir.join("cache"))
        .env("FPT_RUNS", dir.join("runs"))
        .env("FPT_VMLINUX", dir.join("vmlinux"))
        .env("FPT_VMLINUX_UNPATCHED", dir.join("unpatched"))
        .env("FPT_INITRD", dir.join("initrd"))
        .env("FPT_QEMU", fake_qemu())
        .env("FPT_SILENCE_S", "2")
        .env("FPT_PLAIN", "1")
        .env("TMPDIR", dir.join("tmp"))
        .env("FAKE_QEMU_PID", dir.join("pid"))
        .env_remove("FPT_ANY_MODE")
        .current_dir(dir)
        .stdin(Stdio::null());
    cmd
}

/// No QEMU is left.
#[track_caller]
pub fn qemu_is_gone(dir: &Path) {
    if let Ok(pid) = std::fs::read_to_string(dir.join("pid")) {
        let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!cmdline.contains("fake-qemu"), "{pid} still runs");
    }
}
