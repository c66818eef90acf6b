// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim` from the command line: what goes well, and each way in which a program can go wrong. The guest is fake-qemu,
//! so every figure is made up.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

mod guest_common;
use guest_common::{checkout, finish, qemu_is_gone, xtask, Out};

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            dir: checkout(&[("walksim.so", "no plugin")]),
        }
    }

    fn run(&self, what: &str, args: &[&str]) -> Out {
        let mut cmd = xtask(self.dir.path(), args);
        cmd.env("FPT_WALKSIM", self.dir.path().join("walksim.so"))
            .env("FAKE_QEMU_DO", what)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let out = finish(cmd.spawn().unwrap());
        qemu_is_gone(self.dir.path());
        out
    }

    /// A program of this machine, in the two usual modes.
    fn sim(&self, what: &str) -> Out {
        self.run(what, &["sim", "--", "/bin/true"])
    }

    fn latest(&self, name: &str) -> String {
        let path = self.dir.path().join("runs/latest").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

#[test]
fn figures_and_causes() {
    let lab = Lab::new();
    let out = lab.sim("");
    // Known of the made-up results: entry reads 0.75 and cycles 0.85 of radix's.
    out.is(
        0,
        &[
            "dynamic, with its loader and 1 libraries; its whole run is measured",
            "kernel instructions",
            "-4.0 %",
            "-25.0 %",
            "-15.0 %",
            "page tables at the end",
            "4.0 MiB",
            "walk cycles by function",
            "walk cycles by mapping",
            "[heap] 132 KiB",
            "kernel: direct map",
        ],
    );
    assert!(out.stdout.starts_with("hello\n"), "{}", out.stdout);
    let folded = lab.latest("walks-radix.folded");
    let sum: f64 = folded
        .lines()
        .map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(sum, 5000.0 * 60.0);
    for name in [
        "walks-radix.svg",
        "walks-radix-l4l3-l2l1.svg",
        "memory-l4l3-l2l1.svg",
    ] {
        assert!(lab.latest(name).starts_with("<svg "), "{name}");
    }
    assert_eq!(lab.latest("stdout-radix.txt"), "hello\n");
}

#[test]
fn json_is_all_of_standard_output() {
    let lab = Lab::new();
    let args = [
        "sim",
        "--json",
        "--mode",
        "radix,l3l2,radix",
        "--repeat",
        "2",
        "--",
        "/bin/true",
    ];
    let out = lab.run("", &args);
    out.is(0, &[]);
    let all: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    let result = &all["result"];
    assert_eq!(result["schema"], "fpt-sim/1");
    assert_eq!(result["modes"], serde_json::json!(["radix", "l3l2"]));
    assert_eq!(result["runs"].as_array().unwrap().len(), 4);
    assert_eq!(result["runs"][0]["all"]["walks"], 5000);
    let share = result["causes"]["radix"]["mappings"][0]["share"]
        .as_f64()
        .unwrap();
    assert!((share - 0.75).abs() < 1e-9);
}

#[test]
fn the_programs_end_is_passed_on() {
    let lab = Lab::new();
    lab.sim("exit-7").is(7, &["kernel instructions"]);
    let line = "did not end the same way in every run: radix: exit code 0, l4l3-l2l1: exit code 7";
    lab.sim("exit-7@l4l3-l2l1")
        .is(1, &["kernel instructions", line]);
    lab.sim("segv")
        .is(139, &["kernel instructions", "signal 11 (SIGSEGV)"]);
    lab.sim("out-of-memory")
        .is(137, &["ran out of memory", "--mem", "signal 9 (SIGKILL)"]);
    lab.sim("other-output@l4l3-l2l1")
        .is(0, &["its output in l4l3-l2l1 is another"]);
}

#[test]
fn a_run_without_an_end_is_given_up() {
    let lab = Lab::new();
    let out = lab.run("forever", &["sim", "--timeout", "1", "--", "/bin/true"]);
    out.is(124, &["ran into the time limit", "after 1 s", "--timeout"]);
    lab.sim("panic").is(71, &["crashed"]);
}

#[test]
fn figures_without_a_sound_base_are_none() {
    let lab = Lab::new();
    lab.sim("no-causes").is(1, &["no causes of walks"]);
    lab.sim("lost-walks").is(1, &["do not add up"]);
    lab.sim("wrong-mode").is(1, &["not in mode l4l3-l2l1"]);
}

#[test]
fn bad_input_is_one_line() {
    let lab = Lab::new();
    let put = |name: &str, data: &[u8]| {
        let path = lab.dir.path().join(name);
        std::fs::write(&path, data).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    put("script", b"#!/bin/sh\n");
    put("text", b"hello");
    let mut arm = vec![0; 64];
    arm[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    arm[18] = 183;
    put("arm", &arm);
    for (code, args, words) in [
        (2, &["sim"][..], "no program was named"),
        (
            2,
            &["sim", "--", "./script"],
            "say: sim -- /bin/sh ./script",
        ),
        (2, &["sim", "--", "./text"], "no ELF program"),
        (2, &["sim", "--", "./arm"], "it is for AArch64"),
        (2, &["sim", "--", "./nothing"], "No such file"),
        (
            2,
            &["sim", "--", "nothing-of-this-name"],
            "no folder of PATH",
        ),
        (2, &["sim", "--mem", "10M", "--", "/bin/true"], "too small"),
        (
            2,
            &["sim", "--mem", "nonsense", "--", "/bin/true"],
            "no memory size",
        ),
        (
            69,
            &["sim", "--mem", "90000G", "--", "/bin/true"],
            "do not fit",
        ),
        (2, &["sim", "--env", "X", "--", "/bin/true"], "NAME=VALUE"),
        (2, &["sim", "--set", "x", "--", "/bin/true"], "sets nothing"),
        (
            2,
            &["sim", "--set", "x.y=1", "--", "/bin/true"],
            "unknown key",
        ),
        (
            2,
            &["sim", "--preset", "nothing", "--", "/bin/true"],
            "nothing",
        ),
        (
            2,
            &["sim", "--files", "nothing", "--", "/bin/true"],
            "cannot share",
        ),
        (2, &["sim", "--files", "/", "--", "/bin/true"], "would hide"),
        (
            2,
            &["sim", "--stdin", "nothing", "--", "/bin/true"],
            "cannot read",
        ),
        (
            2,
            &["sim", "--mode", "l3l1", "--", "/bin/true"],
            "did you mean",
        ),
    ] {
        let out = lab.run("", args);
        out.is(code, &[words]);
        let errors = out.stderr.lines().filter(|l| l.contains("error:")).count();
        assert_eq!(errors, 1, "{args:?}: {}", out.stderr);
    }
}

#[test]
fn the_header_is_where_it_says() {
    let lab = Lab::new();
    let out = lab.run("", &["sim", "--header"]);
    out.is(0, &[]);
    assert!(out.stdout.trim().ends_with("workloads/include/fpt_mark.h"));
    let lines = lab.run("", &["sim", "--dry-run", "--", "/bin/true"]);
    lines.is(0, &["fpt=radix", "fpt=l4l3-l2l1", "norandmaps", "walks="]);
}
