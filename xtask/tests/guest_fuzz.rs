// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fuzz` from the command line: what is green, and that each mismatch, leak and warning turns it red. The guest is
//! fake-qemu, which fuzzes nothing.

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
            ]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Out {
        let mut all = vec!["fuzz"];
        all.extend(args);
        let mut cmd = xtask(self.dir.path(), &all);
        cmd.env_remove("FPT_KSELFTESTS")
            // The stand-in has no heartbeat.
            .env("FPT_SILENCE_S", "7")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let out = finish(cmd.spawn().unwrap());
        qemu_is_gone(self.dir.path());
        out
    }

    /// Three seconds of a mode on a guest that misbehaves so.
    fn fuzz(&self, what: &str) -> Out {
        let fake = format!("fake={what}");
        self.run(&[
            "--mode",
            "l3l2",
            "--minutes",
            "0.05",
            "--seed",
            "7",
            "--append",
            &fake,
        ])
    }

    fn log(&self) -> serde_json::Value {
        let path = self.path("runs/latest/fuzz.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

#[test]
fn everything_is_logged_and_green() {
    let lab = Lab::new();
    let args = ["--minutes", "0.05", "--seed", "7"];
    lab.run(
        &[
            &args[..],
            &["--mode", "radix,l3l2", "--kernel", "unpatched"],
        ]
        .concat(),
    )
    .is(0, &[" 0 failed"]);
    for name in [
        "results.tap",
        "results.json",
        "junit.xml",
        "fuzz.txt",
        "fuzz-l3l2.log",
    ] {
        assert!(lab.path("runs/latest").join(name).is_file(), "{name}");
    }
    let log = lab.log();
    let names: Vec<&str> = log["subjects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["subject"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["radix", "l3l2", "unpatched"]);
    let story = &log["subjects"][1];
    assert_eq!(story["seed"], 7);
    assert_eq!(story["outcome"], "ended in order");
    let steps = story["counts"]["steps"].as_u64().unwrap();
    assert!(steps > 400 && steps % 200 == 0, "{steps}");
    let text = std::fs::read_to_string(lab.path("runs/latest/fuzz.txt")).unwrap();
    assert!(
        text.contains("seed 7") && text.contains("== l3l2: 20"),
        "{text}"
    );
}

#[test]
fn each_thing_that_is_left_or_wrong_is_red() {
    let lab = Lab::new();
    for (what, words) in [
        ("mismatch", "again: fpt_fuzz -s 62 -R -r 3,9"),
        ("silent", "'./fpt_fuzz -R"),
        ("not-root", "'./fpt_fuzz -R"),
        ("leak", "others_mid was 0 at the start and is 1"),
        ("leak-kb", "others_kb was 100 at the start and is 600"),
        ("tainted", "no node came back dirty"),
        ("warn", "WARNING: CPU: 0"),
        ("panic", "the guest lives to the end"),
        ("hang", "the guest lives to the end"),
        ("wrong-mode", "the guest is not in mode l3l2"),
    ] {
        lab.fuzz(what).is(1, &[words, "failed"]);
    }
}

#[test]
fn a_mismatch_is_kept_once() {
    let lab = Lab::new();
    lab.fuzz("mismatch").is(1, &["1 failed"]);
    let log = lab.log();
    let found = log["subjects"][0]["mismatches"].as_object().unwrap();
    assert_eq!(found.len(), 1);
    let one = found.values().next().unwrap();
    assert!(one["times"].as_u64() > Some(1), "{one}");
}

#[test]
fn wrong_usage_is_2() {
    let lab = Lab::new();
    for minutes in ["0", "-1", "x", "nan", ""] {
        lab.run(&["--mode", "l3l2", "--minutes", minutes])
            .is(2, &["--minutes"]);
    }
    lab.run(&[]).is(2, &["--mode"]);
    lab.run(&["--mode", "nope"]).is(2, &["nope"]);
    lab.run(&["--mode", "l3l2", "--profile", "unpatched"])
        .is(2, &["has no mode l3l2"]);
    lab.run(&["--kernel", "nope"]).is(2, &["unpatched"]);
}
