// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stress` from the command line: what is green, and that each leak, failure and warning turns it red. The guest
//! is fake-qemu, which stresses nothing.

use std::path::PathBuf;
use std::process::Stdio;

mod guest_common;
use guest_common::{checkout, finish, qemu_is_gone, xtask, Out};

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            dir: checkout(&[
                ("selftests/console-allow.toml", ""),
                ("linux-patches/series", ""),
                ("image.ext4", "no file system"),
            ]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Out {
        let mut cmd = xtask(self.dir.path(), args);
        cmd.env("FPT_STRESS_IMAGE", self.path("image.ext4"))
            .env_remove("FPT_KSELFTESTS")
            // The stand-in has no heartbeat.
            .env("FPT_SILENCE_S", "7")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(cmd.spawn().unwrap())
    }

    /// Three seconds in l3l2 on a guest that misbehaves so.
    fn stress(&self, what: &str, more: &[&str]) -> Out {
        let fake = format!("fake={what}");
        let mut args = vec![
            "stress",
            "--mode",
            "l3l2",
            "--minutes",
            "0.05",
            "--seed",
            "7",
        ];
        args.extend(["--append", &fake]);
        args.extend(more);
        let out = self.run(&args);
        qemu_is_gone(self.dir.path());
        out
    }

    fn log(&self) -> serde_json::Value {
        let path = self.path("runs/latest/stress.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

#[test]
fn everything_is_logged_and_green() {
    let lab = Lab::new();
    let out = lab.run(&[
        "stress",
        "--mode",
        "radix,l3l2",
        "--minutes",
        "0.05",
        "--seed",
        "7",
    ]);
    out.is(0, &[" 0 failed", "failures injected"]);
    for name in ["results.tap", "results.json", "junit.xml", "stress.txt"] {
        assert!(lab.path("runs/latest").join(name).is_file(), "{name}");
    }
    let log = lab.log();
    assert_eq!(log["modes"][0]["mode"], "radix");
    let story = &log["modes"][1];
    assert_eq!(story["mode"], "l3l2");
    assert_eq!(story["seed"], 7);
    assert_eq!(story["outcome"], "ended in order");
    assert_eq!(story["skipped"]["hotplug"], "kernel without MEMORY_HOTPLUG");
    let phases = story["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    assert_eq!(phases[0]["fail_percent"], 0);
    assert_eq!(phases[1]["fail_percent"], 50);
    let vm = phases[0]["stressors"]["vm"].as_object().unwrap();
    let tally = vm.values().next().unwrap();
    assert_eq!(
        tally["bogo_ops"].as_u64(),
        tally["runs"].as_u64().map(|n| n * 12)
    );
    assert!(!vm.contains_key("watchdog"), "it is excluded");
    assert_eq!(phases[0]["loops"]["compactions"], 3);
    let text = std::fs::read_to_string(lab.path("runs/latest/stress.txt")).unwrap();
    assert!(
        text.contains("seed 7") && text.contains("== l3l2: 20"),
        "{text}"
    );
}

#[test]
fn each_thing_that_is_left_or_wrong_is_red() {
    let lab = Lab::new();
    for (what, words) in [
        ("leak", "others_mid was 0 at the start and is 1"),
        ("leak-kb", "others_kb was 100 at the start and is 600"),
        ("tainted", "no node came back dirty"),
        ("warn", "WARNING: CPU: 0"),
        ("no-injection", "0 injected"),
        ("no-demotion", "demote was at work"),
        ("tables-wrong", "the tables are wrong"),
        ("no-check", "check was at work"),
        ("stressor-fails", "b: wrong contents"),
        ("killed", "not for want of memory"),
        ("panic", "the guest lives to the end"),
        ("hang", "the guest lives to the end"),
        ("wrong-mode", "the guest is not in mode l3l2"),
    ] {
        lab.stress(what, &[]).is(1, &[words, "failed"]);
    }
}

#[test]
fn a_failure_is_held_against_the_unpatched_kernel() {
    let lab = Lab::new();
    for (what, line) in [
        ("stressor-fails", "fails on the unpatched kernel, too: "),
        (
            "stressor-fails-ours",
            "does not fail on the unpatched kernel: ",
        ),
        ("killed", "fails on the unpatched kernel, too: "),
    ] {
        lab.stress(what, &["--only", "b"])
            .is(1, &["failed: vm b; again on the unpatched kernel", line]);
        let log = lab.log();
        let again = &log["modes"][1];
        assert_eq!(
            (&again["mode"], &again["again"]),
            (&"unpatched".into(), &true.into())
        );
        assert!(again["phases"][0]["stressors"]["vm"]["b"]["runs"].as_u64() > Some(0));
        assert_eq!(
            again["phases"][0]["stressors"]["vm"]["a"],
            serde_json::Value::Null
        );
    }
    // The other profiles are configured otherwise.
    let out = lab.stress("stressor-fails", &["--only", "b", "--profile", "debug"]);
    out.is(1, &["b: wrong contents"]);
    assert!(!out.stderr.contains("unpatched kernel"), "{}", out.stderr);
    lab.stress("panic-ours", &["--only", "b"])
        .is(1, &["the guest lives to the end"]);
}

#[test]
fn the_unpatched_kernel_has_no_nodes_and_says_so() {
    let lab = Lab::new();
    let run = |more: &[&str]| {
        let args = ["stress", "--minutes", "0.05", "--seed", "7"];
        lab.run(&[&args[..], more].concat())
    };
    run(&["--kernel", "unpatched"]).is(0, &[" 0 failed"]);
    let log = lab.log();
    let story = &log["modes"][0];
    assert_eq!(log["modes"].as_array().unwrap().len(), 1);
    assert_eq!(story["mode"], "unpatched");
    assert_eq!(
        story["skipped"]["demote"],
        "there are no nodes below the root here"
    );
    run(&["--kernel", "unpatched", "--mode", "l3l2"]).is(0, &[" 0 failed"]);
    assert_eq!(lab.log()["modes"].as_array().unwrap().len(), 2);
    run(&["--kernel", "unpatched", "--append", "fake=not-unpatched"])
        .is(1, &["the guest does not run the unpatched kernel"]);
}

#[test]
fn a_stressor_that_cannot_run_is_skipped() {
    let lab = Lab::new();
    lab.stress("not-here", &["--only", "b", "--fail-order9", "0"])
        .is(0, &["1 skipped"]);
    assert_eq!(lab.log()["modes"][0]["phases"].as_array().unwrap().len(), 1);
}

#[test]
fn only_narrows() {
    let lab = Lab::new();
    lab.stress("", &["--only", "compact"]).is(0, &[]);
    let log = lab.log();
    let phase = &log["modes"][0]["phases"][0];
    assert_eq!(phase["stressors"], serde_json::json!({}));
    assert_eq!(
        phase["loops"],
        serde_json::json!({ "checks": 7, "compactions": 3 })
    );
    lab.stress("", &["--only", "nosuchstressor"])
        .is(1, &["nothing to do in l3l2"]);
}

#[test]
fn wrong_usage_is_2() {
    let lab = Lab::new();
    let all = |more: &[&str]| {
        let mut args = vec!["stress", "--mode", "l3l2"];
        args.extend(more);
        lab.run(&args)
    };
    for minutes in ["0", "-1", "x", "nan", "inf", "1e9", ""] {
        all(&["--minutes", minutes]).is(2, &["--minutes"]);
    }
    for percent in ["101", "-1", "x"] {
        all(&["--fail-order9", percent]).is(2, &["--fail-order9"]);
    }
    all(&["--only", "Compact"]).is(2, &["did you mean 'compact'?"]);
    all(&["--only", "watchdog"]).is(2, &["is excluded", "resets the machine"]);
    all(&["--mem", "12Q"]).is(2, &["no memory size"]);
    lab.run(&["stress"]).is(2, &["--mode"]);
    lab.run(&["stress", "--mode", "l3l2,nope"])
        .is(2, &["unknown mode 'nope'"]);
    assert!(!lab.path("runs").exists(), "nothing was run");
    let mut cmd = xtask(lab.dir.path(), &["stress", "--mode", "l3l2"]);
    cmd.env("FPT_STRESS_IMAGE", "/nonexistent/image")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(cmd.spawn().unwrap()).is(69, &["no disk image at /nonexistent/image"]);
}
