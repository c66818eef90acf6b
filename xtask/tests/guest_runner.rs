// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runner must not lie: each way in which a guest can fail turns the command red, with the right code. The
//! guest is fake-qemu.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod guest_common;
use guest_common::{checkout, finish, qemu_is_gone, xtask, Out};

struct Lab {
    dir: tempfile::TempDir,
}

const LIST: &str = "
[[program]]
name = 'mm/one'
dir = 'mm'
argv = ['./one']
timeout_s = 5
[[program]]
name = 'mm/two'
dir = 'mm'
argv = ['./two']
timeout_s = 5
";

impl Lab {
    fn new() -> Lab {
        Lab {
            dir: checkout(&[
                ("selftests/list.toml", LIST),
                ("selftests/console-allow.toml", ""),
                ("linux-patches/series", ""),
            ]),
        }
    }

    /// Whose programs must pass.
    fn ours() -> Lab {
        let lab = Lab::new();
        let list = LIST.replace("dir = 'mm'", "dir = 'fpt'");
        std::fs::write(lab.path("selftests/list.toml"), list).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut cmd = xtask(self.dir.path(), args);
        cmd.env_remove("FPT_KSELFTESTS");
        cmd
    }

    fn run(&self, args: &[&str]) -> Out {
        finish(
            self.command(args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn latest(&self) -> PathBuf {
        self.path("runs/latest").canonicalize().unwrap()
    }

    /// Neither sockets nor a QEMU are left.
    fn is_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.path("tmp"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        qemu_is_gone(self.dir.path());
    }
}

#[test]
fn output_and_exit_code_pass_through() {
    let lab = Lab::new();
    let out = lab.run(&["run", "--mode", "l3l2", "--", "exit", "7"]);
    out.is(7, &["boot to init"]);
    assert_eq!(out.stdout, "to stdout\n");
    assert!(out.stderr.contains("to stderr\n"));
    for name in ["cmdline.txt", "console.log", "meta.json", "reproduce.txt"] {
        assert!(lab.latest().join(name).is_file(), "{name}");
    }
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.latest().join("meta.json")).unwrap()).unwrap();
    assert_eq!(meta["exit"], 7);
    assert_eq!(meta["kernel"]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(meta["reproduce"], "cargo xtask run --mode l3l2 -- exit 7");
    lab.is_clean();
    // Codes that mean something else when they are the tool's own.
    for code in [0, 1, 2, 69, 71, 124] {
        lab.run(&["run", "--mode", "radix", "--", "exit", &code.to_string()])
            .is(code, &[]);
    }
}

#[test]
fn a_panic_is_71_at_once_with_the_console() {
    let lab = Lab::new();
    for what in ["fake=panic", "fake=panic-boot"] {
        let start = Instant::now();
        lab.run(&["run", "--mode", "radix", "--append", what, "--", "true"])
            .is(
                71,
                &[
                    "the guest crashed",
                    "Kernel panic - not syncing: Fatal exception",
                    "last 4 lines of the console",
                    "NULL pointer",
                ],
            );
        assert!(start.elapsed() < Duration::from_secs(10));
        lab.is_clean();
    }
}

#[test]
fn qemu_ending_without_a_word_is_71() {
    let lab = Lab::new();
    for what in ["fake=triple", "fake=triple-boot"] {
        lab.run(&["run", "--mode", "radix", "--append", what, "--", "true"])
            .is(71, &["triple fault at rip ffffffff81000123 ("]);
        lab.is_clean();
    }
}

#[test]
fn a_hang_is_124() {
    let lab = Lab::new();
    let run = |fault| {
        let words = ["run", "--mode", "radix", "--append", fault, "--", "true"];
        lab.run(&words)
    };
    run("fake=hang").is(124, &["no sign of life for 2 s"]);
    run("fake=hang-boot").is(124, &["no output before init was ready"]);
    lab.is_clean();
    let mut cmd = lab.command(&["run", "--mode", "radix", "--timeout", "1", "--", "sleep"]);
    cmd.env("FPT_SILENCE_S", "60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(cmd.spawn().unwrap()).is(124, &["no output for 1 s"]);
    lab.is_clean();
}

#[test]
fn a_guest_that_ran_out_of_memory_is_told() {
    let lab = Lab::new();
    let run = |fault: &str| {
        let fault = format!("fake={fault}");
        lab.run(&[
            "run", "--mode", "radix", "--mem", "300M", "--append", &fault, "--", "exit", "9",
        ])
    };
    let out = run("out-of-memory");
    out.is(
        9,
        &[
            "ran out of its 300M; --mem gives it more",
            "Killed process 9",
        ],
    );
    let out = run("none");
    out.is(9, &[]);
    assert!(!out.stderr.contains("--mem"), "{}", out.stderr);
}

#[test]
fn what_the_sanitizer_finds_is_red() {
    let lab = Lab::new();
    let plugin = lab.path("plugin.so");
    std::fs::write(&plugin, "").unwrap();
    let run = |args: &[&str], fault: &str, command: &[&str]| {
        let fault = format!("fake={fault}");
        let mut all = args.to_vec();
        all.extend(["--mode", "radix", "--sanitize", "tlb", "--append", &fault]);
        all.extend(command);
        let mut cmd = lab.command(&all);
        cmd.env("FPT_TLBSAN", &plugin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(cmd.spawn().unwrap())
    };
    let good = ["--", "true"];
    run(&["run"], "well", &good).is(0, &["sanitizer: 0 findings"]);
    run(&["run"], "finding", &good).is(1, &["TLBSAN R3", "tlbsan.txt"]);
    // The command's own code stays.
    run(&["run"], "finding", &["--", "exit", "7"]).is(7, &["TLBSAN R3"]);
    run(&["run"], "unseen", &good).is(69, &["it saw no store"]);
    assert_ne!(run(&["run"], "no-findings", &good).code, Some(0));
    let words = ["run", "--mode", "radix", "--sanitize"];
    for bad in [
        &["kasan"][..],
        &["tlb,x=1"],
        &["tlb", "--stock-qemu"],
        &["tlb", "--mem", "64G"],
    ] {
        let all: Vec<&str> = words.iter().chain(bad).chain(&good).copied().collect();
        lab.run(&all).is(2, &["sanitize"]);
    }
    lab.is_clean();
}

#[test]
fn a_qemu_that_is_missing_or_does_not_start_is_69() {
    let lab = Lab::new();
    let mut cmd = lab.command(&["run", "--mode", "radix", "--", "true"]);
    cmd.env("FPT_QEMU", "/nonexistent/qemu")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(cmd.spawn().unwrap()).is(69, &["no QEMU at /nonexistent/qemu"]);
    lab.run(&[
        "run",
        "--mode",
        "radix",
        "--append",
        "fake=no-start",
        "--",
        "true",
    ])
    .is(69, &["could not load kernel"]);
    lab.is_clean();
}

#[test]
fn wrong_usage_is_2() {
    let lab = Lab::new();
    for command in ["run", "walk", "selftest", "gdb", "stress"] {
        lab.run(&[command, "--mode", "l3l1"])
            .is(2, &["unknown mode 'l3l1'", "did you mean 'l3l2'?"]);
        lab.run(&[command, "--mode", "nonsense"])
            .is(2, &["one of: radix, l4l3, l3l2, l4l3-l2l1"]);
        lab.run(&[command, "--mode", ""]).is(2, &[]);
        lab.run(&[command, "--mode", "l3l2", "--profile", "unpatched"])
            .is(2, &["profile unpatched has no mode l3l2"]);
        lab.run(&[command, "--nonsense"]).is(2, &[]);
    }
    lab.run(&["kcount", "--modes", "l3l2,nope"])
        .is(2, &["unknown mode 'nope'"]);
    lab.run(&["kcount", "--runs", "0"]).is(2, &[]);
    lab.run(&["run", "--mode", "radix", "--mem", "12Q"])
        .is(2, &["no memory size"]);
    lab.run(&["run", "--mode", "radix", "--mem", "16M"])
        .is(2, &["too small"]);
    lab.run(&["run", "--mode", "radix", "--smp", "0"])
        .is(2, &[]);
    lab.run(&["run", "--modes", "radix,l3l2", "--", "true"])
        .is(2, &["one mode at a time", "--mode names 2"]);
    lab.run(&["run", "--mode", "radix", "--smp", "64", "--", "true"])
        .is(2, &["1..=8"]);
    lab.run(&["run", "--mode", "radix", "--share", "/nonexistent"])
        .is(2, &["cannot share"]);
    lab.run(&["run", "--mode", "radix", "--tty", "--", "true"])
        .is(2, &["needs a terminal"]);
    lab.run(&["walk", "--mode", "radix", "--addr", "0xffffffff80000000"])
        .is(2, &["not a user address"]);
    lab.run(&["walk", "--mode", "radix", "--addr", "zz"])
        .is(2, &["not a hexadecimal number"]);
    lab.run(&["selftest"])
        .is(2, &["--mode", "--kernel unpatched"]);
    for command in ["selftest", "kcount", "stress"] {
        lab.run(&[command, "--kernel", "unpached"])
            .is(2, &["--kernel", "unpatched"]);
    }
    for more in ["--same-image", "--profile=debug"] {
        lab.run(&["selftest", "--kernel", "unpatched", more])
            .is(2, &["--kernel"]);
    }
    lab.run(&["test", "--quick", "--long"])
        .is(2, &["cannot be used with"]);
    let mut cmd = lab.command(&["selftest", "--mode", "l3l2"]);
    cmd.env("FPT_VMLINUX_UNPATCHED", "/nonexistent/vmlinux")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(cmd.spawn().unwrap()).is(69, &["no kernel at /nonexistent/vmlinux"]);
    for percent in ["0", "101", "x"] {
        lab.run(&["selftest", "--mode", "l3l2", "--mixed", percent])
            .is(2, &["--mixed"]);
    }
    lab.run(&["selftest", "--mode", "l3l2", "--filter", "mm/onne"])
        .is(2, &["did you mean 'mm/one'?"]);
    lab.run(&["test", "--only", "selftst"])
        .is(2, &["did you mean 'selftest'?"]);
    assert!(!lab.path("runs").exists(), "nothing was run");
}

#[test]
fn ctrl_c_leaves_nothing() {
    let lab = Lab::new();
    let mut cmd = lab.command(&["run", "--mode", "radix", "--", "sleep"]);
    cmd.env("FPT_SILENCE_S", "60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = cmd.spawn().unwrap();
    let start = Instant::now();
    while !lab.path("pid").exists() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        std::fs::read_dir(lab.path("tmp")).unwrap().next().is_some(),
        "sockets while it runs"
    );
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = finish(child);
    out.is(130, &["interrupted"]);
    assert!(!out.stderr.contains("of the console"), "{}", out.stderr);
    lab.is_clean();
}

#[test]
fn a_full_disk_is_69_and_says_so() {
    let lab = Lab::new();
    let runs = lab.path("small");
    std::fs::create_dir(&runs).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=128k none {0} && FPT_RUNS={0} exec \"$@\"",
        runs.display()
    );
    let probe = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none"])
        .arg(&runs)
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        // rundir's own test covers the message on every machine.
        eprintln!("not run: this machine lets nobody mount a small file system");
        return;
    }
    let inner = lab.command(&[
        "run",
        "--mode",
        "radix",
        "--append",
        "fake=flood",
        "--",
        "true",
    ]);
    let mut cmd = Command::new("unshare");
    cmd.args(["-rm", "sh", "-c", &mount, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => cmd.env(name, value),
            None => cmd.env_remove(name),
        };
    }
    cmd.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(cmd.spawn().unwrap()).is(69, &["the disk is full"]);
    lab.is_clean();
}

#[test]
fn equal_selftests_are_green() {
    let lab = Lab::new();
    let out = lab.run(&["selftest", "--mode", "l3l2"]);
    out.is(0, &[]);
    // Twice per program two cases, the plan and the exit code; and three clean consoles.
    assert_eq!(out.stdout.lines().last(), Some("19 passed, 0 failed"));
    for name in [
        "results.tap",
        "results.json",
        "junit.xml",
        "programs-radix.json",
        "programs-l3l2.json",
    ] {
        assert!(lab.latest().join(name).is_file(), "{name}");
    }
    lab.is_clean();
    lab.run(&["selftest", "--mode", "l3l2", "--append", "fake=skip"])
        .is(0, &["15 passed, 0 failed, 4 skipped"]);
    // Modes of one image, as before there was anything else to compare with.
    let one_image = ["selftest", "--mode", "l3l2", "--same-image"];
    lab.run(&one_image).is(0, &["10 passed, 0 failed"]);
    assert!(!lab.latest().join("programs-radix.json").exists());
    lab.run(&["selftest", "--mode", "radix"])
        .is(0, &["10 passed, 0 failed"]);
}

#[test]
fn what_fails_everywhere_needs_a_reason_and_must_go_on_failing() {
    let lab = Lab::new();
    let run = |fake: &str| {
        let fake = format!("fake={fake}");
        lab.run(&["selftest", "--mode", "l3l2", "--append", &fake])
    };
    run("not-ok").is(
        1,
        &[
            "radix: mm/one: two",
            "l3l2: mm/two: two",
            "red at first sight: mm/one, mm/two",
            "it fails in the reference, too: mend the guest, or name it under `cannot`",
        ],
    );
    let listed = |cases: &str| {
        let cannot = format!("[[program.cannot]]\ncases = [{cases}]\nwhy = 'no two here'\n");
        let list = LIST.replacen(
            "timeout_s = 5\n[[program]]",
            &format!("timeout_s = 5\n{cannot}[[program]]"),
            1,
        );
        std::fs::write(lab.path("selftests/list.toml"), list + &cannot).unwrap();
    };
    listed("'two'");
    let out = run("not-ok");
    out.is(
        0,
        &["4 of the passed cases fail, as the list says they must: l3l2: mm/one, l3l2: mm/two, radix: mm/one, radix: mm/two"],
    );
    assert_eq!(out.stdout.lines().last(), Some("19 passed, 0 failed"));
    // It does not fail any more, here or everywhere, or is skipped.
    for fake in ["", "skip", "not-ok-m", "not-ok-u"] {
        run(fake).is(1, &["l3l2: mm/one: two"]);
    }
    run("").is(1, &["it did not fail each time: take it out there"]);
    // On one kernel alone.
    let alone = |fake: &str| {
        let fake = format!("fake={fake}");
        lab.run(&["selftest", "--kernel", "unpatched", "--append", &fake])
    };
    alone("not-ok").is(0, &["unpatched: mm/one, unpatched: mm/two"]);
    alone("").is(1, &["unpatched: mm/one: two", "take it out there"]);
    // A list that names what is not there, or gives no reason.
    listed("'two', 'three'");
    run("not-ok").is(1, &["l3l2: mm/one: three", "no run had it"]);
    listed("");
    run("").is(69, &["cannot names no case"]);
}

#[test]
fn what_our_kernel_does_in_every_mode_is_red_and_told_first() {
    let lab = Lab::new();
    for (what, unpatched, ours) in [
        ("not-ok-ours", "pass", "fail"),
        ("not-ok-u", "fail", "pass"),
        ("skip-ours", "pass", "skip"),
        ("skip-u", "skip", "pass"),
    ] {
        let fake = format!("fake={what}");
        let fails = ours == "fail";
        let out = lab.run(&["selftest", "--mode", "l3l2", "--append", &fake]);
        // Equal in both modes, so nothing but the other kernel shows a skip or a pass.
        out.is(
            1,
            &[
                "radix: mm/one: two",
                "our kernel differs from the unpatched one, whatever the modes do",
                &format!("unpatched: {unpatched}"),
                &format!("radix: {ours}"),
                if fails { "4 failed" } else { "2 failed" },
            ],
        );
        let at = |text: &str| out.stderr.find(text);
        match at("l3l2: mm/one: two") {
            // As in radix, and red by itself.
            Some(mode) => assert!(fails && at("radix: mm/one: two").unwrap() < mode),
            None => assert!(!fails, "{}", out.stderr),
        }
        lab.run(&["selftest", "--mode", "radix", "--append", &fake])
            .is(1, &["radix: mm/one: two"]);
        lab.run(&[
            "selftest",
            "--mode",
            "l3l2",
            "--same-image",
            "--append",
            &fake,
        ])
        .is(i32::from(fails), &["failed"]);
        lab.is_clean();
    }
    // A mode that fails and radix that does: the kernel is told of before the mode.
    let lab = Lab::ours();
    let out = lab.run(&["selftest", "--mode", "l3l2", "--append", "fake=not-ok-ours"]);
    out.is(1, &["l3l2: mm/one: two"]);
    let at = |text: &str| out.stderr.find(text).unwrap();
    assert!(at("radix: mm/one: two") < at("l3l2: mm/one: two"));
    // And the mode's own failure says what the unpatched kernel did.
    let lab = Lab::new();
    lab.run(&["selftest", "--mode", "l3l2", "--append", "fake=not-ok-m"])
        .is(1, &["unpatched: pass", "radix: pass", "l3l2: fail"]);
}

#[test]
fn a_difference_of_kernels_that_was_noise_is_told_and_of_ours_red() {
    let args = [
        "selftest",
        "--mode",
        "radix",
        "--append",
        "fake=not-ok-ours-once",
    ];
    let lab = Lab::new();
    lab.run(&args).is(
        0,
        &["1 programs differed at first and not when run again: radix: mm/one"],
    );
    let lab = Lab::ours();
    lab.run(&args)
        .is(1, &["radix: mm/one: two", "fail or pass"]);
}

#[test]
fn a_kernel_by_itself() {
    let lab = Lab::new();
    let run = |what: &str| {
        let fake = format!("fake={what}");
        lab.run(&["selftest", "--kernel", "unpatched", "--append", &fake])
    };
    // In two guests, a program each, and judged as one.
    run("").is(
        0,
        &[
            "unpatched-1 [1/1] mm/one",
            "unpatched-2 [1/1] mm/two",
            "9 passed, 0 failed",
        ],
    );
    let said = std::fs::read_to_string(lab.latest().join("cmdline.txt")).unwrap();
    assert!(
        said.contains("/unpatched ") && !said.contains(" fpt="),
        "{said}"
    );
    run("not-ok-u").is(1, &["unpatched: mm/one: two"]);
    run("warn").is(1, &["console unpatched: kernel warning (during mm/one)"]);
    run("triple").is(1, &["console unpatched: a guest died (during mm/one)"]);
    // A guest that is another kernel, or does not tell, proves nothing.
    for (what, why) in [
        ("not-unpatched", "its debugfs has fpt or emt"),
        ("no-debugfs", "its debugfs is empty"),
    ] {
        run(what).is(1, &["the guest does not run the unpatched kernel", why]);
        let fake = format!("fake={what}");
        lab.run(&["selftest", "--mode", "l3l2", "--append", &fake])
            .is(1, &[why]);
    }
    lab.is_clean();
}

#[test]
fn the_list_says_what_the_unpatched_kernel_runs() {
    let lab = Lab::ours();
    let list = |one: &str, two: &str| {
        let text = LIST.replace("dir = 'mm'", "dir = 'fpt'");
        let text = text.replacen("timeout_s = 5", &format!("timeout_s = 5\n{one}"), 1);
        std::fs::write(lab.path("selftests/list.toml"), format!("{text}{two}\n")).unwrap();
    };
    let compare = |what: &str| {
        let fake = format!("fake={what}");
        lab.run(&["selftest", "--mode", "radix", "--append", &fake])
    };
    list("unpatched = false\nreason = 'a test'", "");
    compare("").is(0, &["1 programs in unpatched", "6 passed, 0 failed"]);
    lab.run(&["selftest", "--kernel", "unpatched", "--filter", "one"])
        .is(
            2,
            &["mm/one does not run on the unpatched kernel", "a test"],
        );
    // A case about our kernel is skipped on the other; if it passes there, it tests nothing.
    list("only_fpt = ['two']", "only_fpt = ['two']");
    compare("skip-u").is(0, &["10 passed, 0 failed"]);
    compare("").is(1, &["radix: mm/one: two"]);
    lab.run(&["selftest", "--kernel", "unpatched"]).is(
        1,
        &["unpatched: mm/one: two", "asks about flattened tables"],
    );
    let skip = ["selftest", "--kernel", "unpatched", "--append", "fake=skip"];
    lab.run(&skip).is(0, &["7 passed, 0 failed, 2 skipped"]);
    list("", "");
    compare("skip-u").is(1, &["radix: mm/one: two"]);
}

#[test]
fn each_difference_is_red() {
    let lab = Lab::new();
    for (what, word) in [
        ("not-ok-m", "mm/one: two"),
        ("skip-m", "mm/one: two"),
        ("no-plan-m", "mm/one: TAP plan"),
        ("short-m", "mm/one: TAP plan"),
        ("timeout-m", "ran into the limit of 5 s"),
        ("panic-m", "the guest died"),
        ("hang-m", "the guest died"),
        ("triple-m", "the guest died"),
    ] {
        let out = lab.run(&[
            "selftest",
            "--mode",
            "l3l2",
            "--filter",
            "one",
            "--append",
            &format!("fake={what}"),
        ]);
        out.is(1, &[word, "failed"]);
        lab.is_clean();
    }
}

#[test]
fn a_guest_that_dies_is_red_whatever_comes_after() {
    for what in ["panic-once", "hang-once", "triple-once"] {
        let lab = Lab::new();
        let fake = format!("fake={what}");
        let args = ["selftest", "--mode", "l3l2", "--append", &fake];
        let out = lab.run(&args);
        out.is(1, &["console l3l2: a guest died (during mm/one)"]);
        lab.is_clean();
        // It was the first time only: the same again is green.
        lab.run(&args).is(0, &["19 passed, 0 failed"]);
    }
    let lab = Lab::new();
    for (mode, word) in [("l3l2", "console l3l2"), ("radix", "console radix")] {
        let word = format!("{word}: a guest died (during mm/one)");
        let args = ["selftest", "--mode", mode, "--append", "fake=triple"];
        lab.run(&args).is(1, &[&word]);
    }
}

#[test]
fn a_result_that_differed_once_is_told_and_of_ours_red() {
    let lab = Lab::new();
    let args = ["selftest", "--mode", "l3l2", "--append", "fake=not-ok-once"];
    lab.run(&args).is(
        0,
        &[
            "1 programs differed at first and not when run again: l3l2: mm/one",
            "22 passed, 0 failed",
        ],
    );
    let lab = Lab::ours();
    lab.run(&args)
        .is(1, &["l3l2: mm/one: two", "fail or pass", "failed"]);
    lab.run(&args).is(0, &["19 passed, 0 failed"]);
}

#[test]
fn a_program_that_never_ran_to_its_end_is_red_in_both_modes() {
    let lab = Lab::new();
    let run = |more: &[&str]| {
        let mut args = vec!["selftest", "--mode", "l3l2", "--filter", "one"];
        args.extend(more);
        lab.run(&args)
    };
    run(&["--append", "fake=cannot-start"]).is(
        1,
        &[
            "mm/one: preparation",
            "it cannot be started",
            "No such file or directory",
        ],
    );
    run(&["--append", "fake=timeout"]).is(1, &["ran into the limit of 5 s"]);
    run(&["--append", "fake=timeout", "--patience", "3"]).is(1, &["ran into the limit of 15 s"]);
    run(&["--patience", "0"]).is(2, &["--patience"]);
    let needs = |file: &str| {
        let list = format!("{LIST}needs = ['files:{file}']\n");
        std::fs::write(lab.path("selftests/list.toml"), list).unwrap();
        lab.run(&["selftest", "--mode", "l3l2", "--filter", "two"])
    };
    needs("/there").is(0, &[]);
    needs("/missing").is(1, &["mm/two: preparation", "needs /missing"]);
}

#[test]
fn mixed_must_have_mixed() {
    let lab = Lab::new();
    let args = ["selftest", "--mode", "l3l2", "--mixed", "--append"];
    let run = |what: &str| lab.run(&[&args[..], &[what]].concat());
    run("fake=").is(0, &["20 passed, 0 failed"]);
    run("fake=no-mixing").is(1, &["mixed l3l2", "nothing was mixed"]);
}

#[test]
fn a_kernel_warning_is_red_in_any_mode() {
    let lab = Lab::new();
    let args = [
        "selftest",
        "--mode",
        "l3l2",
        "--filter",
        "one",
        "--append",
        "fake=warn",
    ];
    lab.run(&args).is(
        1,
        &[
            "console unpatched: kernel warning (during mm/one)",
            "console radix: kernel warning (during mm/one)",
            "console l3l2: kernel warning",
            "at mm/memory.c:1",
        ],
    );
    std::fs::write(
        lab.path("selftests/console-allow.toml"),
        "[[allow]]\npattern = 'at mm/memory.c:1 '\nprograms = ['mm/one']\nreason = 'a test'\n",
    )
    .unwrap();
    lab.run(&args).is(0, &["11 passed, 0 failed"]);
    std::fs::write(
        lab.path("selftests/console-allow.toml"),
        "[[allow]]\npattern = 'at mm/memory.c:1 '\nreason = ''\n",
    )
    .unwrap();
    lab.run(&args).is(69, &["needs a reason"]);
}

#[test]
fn walk_and_kcount_refuse_a_guest_that_warned() {
    let lab = Lab::new();
    let walk = ["walk", "--mode", "l3l2"];
    lab.run(&walk)
        .is(0, &["3 entries visited", "4 entries visited"]);
    lab.run(&[&walk[..], &["--append", "fake=warn"]].concat())
        .is(1, &["the kernel warned", "at mm/memory.c:1"]);
    lab.is_clean();
    std::fs::write(lab.path("plugin.so"), "no plugin").unwrap();
    let kcount = |what: &str| {
        let mut cmd = lab.command(&["kcount", "--modes", "l3l2", "--runs", "1"]);
        cmd.env("FPT_KCOUNT", lab.path("plugin.so"))
            .env("FAKE_QEMU_DO", what)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(cmd.spawn().unwrap())
    };
    kcount("warn").is(1, &["the kernel warned", "at mm/memory.c:1"]);
    // What it says without a warning: the stand-in counts nothing.
    let out = kcount("");
    assert!(!out.stderr.contains("the kernel warned"), "{}", out.stderr);
    lab.is_clean();
    let said = std::fs::read_to_string(lab.latest().join("cmdline.txt")).unwrap();
    assert!(
        said.contains("loglevel=5") && !said.contains("quiet"),
        "{said}"
    );
}

#[test]
fn our_own_programs_must_pass_in_both_modes() {
    let lab = Lab::ours();
    for what in ["fake=not-ok", "fake=no-plan", "fake=timeout"] {
        lab.run(&["selftest", "--mode", "l3l2", "--append", what])
            .is(1, &[]);
    }
    lab.run(&["selftest", "--mode", "l3l2"]).is(0, &[]);
}

#[test]
fn a_guest_in_the_wrong_mode_is_red() {
    let lab = Lab::new();
    lab.run(&["selftest", "--mode", "l3l2", "--append", "fake=wrong-mode"])
        .is(1, &["the guest is not in mode l3l2", "it says 'radix'"]);
}

#[test]
fn dry_run_prints_and_starts_nothing() {
    let lab = Lab::new();
    for command in ["run", "selftest", "walk"] {
        let out = lab.run(&["--dry-run", command, "--mode", "l3l2"]);
        out.is(0, &["fpt=l3l2"]);
        assert!(!lab.path("pid").exists() && !lab.path("runs").exists());
    }
    let guests = |args: &[&str]| {
        let out = lab.run(&[&["--dry-run"], args].concat());
        out.is(0, &[]);
        assert!(!lab.path("pid").exists() && !lab.path("runs").exists());
        let all = format!("{}{}", out.stdout, out.stderr);
        let of = |kernel: &str| all.matches(&format!("/{kernel} -initrd")).count();
        (of("vmlinux"), of("unpatched"))
    };
    assert_eq!(guests(&["selftest", "--mode", "l3l2"]), (2, 1));
    assert_eq!(
        guests(&["selftest", "--mode", "l3l2", "--same-image"]),
        (2, 0)
    );
    assert_eq!(
        guests(&["selftest", "--mode", "l3l2", "--profile", "debug"]),
        (2, 0)
    );
    assert_eq!(guests(&["selftest", "--kernel", "unpatched"]), (0, 1));
    assert_eq!(guests(&["kcount", "--modes", "l3l2"]), (2, 0));
    let both = ["kcount", "--modes", "l3l2", "--kernel", "unpatched"];
    assert_eq!(guests(&both), (3, 1));
}
