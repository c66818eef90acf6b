// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mode mixed from the command line: who takes it, who refuses it, and what a guest is then told. The guest is
//! fake-qemu.

use std::process::Stdio;

mod guest_common;
use guest_common::{checkout, finish, qemu_is_gone, xtask, Out};

struct Lab {
    dir: tempfile::TempDir,
}

const LIST: &str = "
[[program]]
name = 'fpt/one'
dir = 'fpt'
argv = ['./one']
timeout_s = 5
";

impl Lab {
    fn new() -> Lab {
        Lab {
            dir: checkout(&[
                ("selftests/list.toml", LIST),
                ("selftests/console-allow.toml", ""),
                ("linux-patches/series", ""),
                ("image.ext4", "no file system"),
            ]),
        }
    }

    fn run(&self, args: &[&str]) -> Out {
        let mut cmd = xtask(self.dir.path(), args);
        cmd.env("FPT_STRESS_IMAGE", self.dir.path().join("image.ext4"))
            .env_remove("FPT_KSELFTESTS")
            // The stand-in has no heartbeat.
            .env("FPT_SILENCE_S", "7")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let out = finish(cmd.spawn().unwrap());
        qemu_is_gone(self.dir.path());
        out
    }
}

#[test]
fn the_kernel_is_told_the_mode_and_the_policy_and_so_is_the_user() {
    let lab = Lab::new();
    lab.run(&["run", "--mode", "mixed", "--", "exit", "7"])
        .is(7, &["mode mixed, policy auto"]);
    lab.run(&["run", "--mode", "l3l2", "--", "exit", "0"])
        .is(0, &["mode l3l2, policy eager"]);
    let args = ["run", "--mode", "mixed", "--append", "fpt.policy=size"];
    lab.run(&[&args[..], &["--", "exit", "0"]].concat())
        .is(0, &["mode mixed, policy size"]);
    lab.run(&["run", "--mode", "mixed", "--dry-run", "--", "true"])
        .is(0, &["fpt=mixed fpt.policy=auto"]);
}

#[test]
fn a_process_mode_brings_mixed_along() {
    let lab = Lab::new();
    let words = ["run", "--process-mode", "l3l2"];
    lab.run(&[&words[..], &["--", "exit", "7"]].concat())
        .is(7, &["mode mixed, policy auto, process mode l3l2"]);
    lab.run(&[&words[..], &["--mode", "radix", "--", "true"]].concat())
        .is(2, &["--process-mode", "--mode"]);
    lab.run(&["run", "--process-mode", "mixed", "--", "true"])
        .is(2, &["no mode 'mixed' here"]);
    lab.run(&["run", "--", "true"]).is(2, &["--mode"]);
}

#[test]
fn commands_about_one_shape_refuse_it_in_a_line() {
    let lab = Lab::new();
    for command in ["walk", "agree", "gdb", "kcount"] {
        let out = lab.run(&[command, "--mode", "mixed"]);
        out.is(2, &["no mode 'mixed' here", "`fuzz` take mixed"]);
        assert_eq!(out.stderr.lines().count(), 1, "{command}: {}", out.stderr);
    }
    lab.run(&["stress", "--mode", "mixt"])
        .is(2, &["did you mean 'mixed'?"]);
}

#[test]
fn the_suite_compares_it_with_radix() {
    let lab = Lab::new();
    lab.run(&["selftest", "--mode", "mixed"])
        .is(0, &["mode mixed, policy auto", " 0 failed"]);
    let what = ["--append", "fake=wrong-mode"];
    lab.run(&[&["selftest", "--mode", "mixed"], &what[..]].concat())
        .is(1, &["the guest is not in mode mixed", "it says 'radix'"]);
}

#[test]
fn under_load_there_are_processes_of_every_mode() {
    let lab = Lab::new();
    for command in ["stress", "fuzz"] {
        let args = ["--mode", "mixed", "--minutes", "0.05", "--seed", "7"];
        let args = [&[command], &args[..]].concat();
        lab.run(&args)
            .is(0, &[" 0 failed", "mode mixed, policy auto"]);
        let taps = std::fs::read_to_string(lab.dir.path().join("runs/latest/results.tap"));
        for kind in ["root", "mid", "bottom"] {
            let line = format!("{kind} nodes were made");
            assert!(taps.as_ref().unwrap().contains(&line), "{command}: {line}");
        }
    }
}
