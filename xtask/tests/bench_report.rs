// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench` and `report` from the command line: what goes well, and each way in which a cell, the host or a
//! person can go wrong. The guest is fake-qemu, so every figure is made up.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod guest_common;
use guest_common::{checkout, finish, qemu_is_gone, xtask, Out};

struct Lab {
    dir: tempfile::TempDir,
}

const WORKLOADS: &str = "
[[workload]]
name = 'bfs'
kind = 'static'
binary = 'graph'
edges = true
scale.tiny = { argv = ['/workloads/graph', 'bfs'], memory_mib = 256, expect_s = 1, timeout_s = 2 }
scale.paper = { argv = ['/workloads/graph', 'bfs'], memory_mib = 99999999, expect_s = 1, timeout_s = 2 }
[[workload]]
name = 'gups'
kind = 'static'
binary = 'gups'
scale.tiny = { argv = ['/workloads/gups'], memory_mib = 256, expect_s = 2, timeout_s = 2 }
[[workload]]
name = 'store'
kind = 'image'
binary = 'store'
packages = ['store-server']
scale.medium = { argv = ['/workloads/store'], memory_mib = 256, disk_mib = 500000000, expect_s = 2, timeout_s = 2 }
[[workload]]
name = 'base'
kind = 'image'
binary = 'base'
packages = ['base-server']
scale.medium = { argv = ['/workloads/base'], memory_mib = 256, disk_mib = 400000000, expect_s = 2, timeout_s = 2 }
";

impl Lab {
    fn new() -> Lab {
        Lab {
            dir: checkout(&[
                ("workloads/workloads.toml", WORKLOADS),
                ("walksim.so", "no plugin"),
            ]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bench` runs two modes, which is enough, unless something else is said.
    fn command(&self, args: &[&str]) -> Command {
        let mut args = args.to_vec();
        if args.contains(&"bench") && !args.contains(&"--modes") && !args.contains(&"--resume") {
            args.extend(["--modes", "radix,l3l2"]);
        }
        self.plain(&args)
    }

    /// The command as somebody types it.
    fn plain(&self, args: &[&str]) -> Command {
        let mut cmd = xtask(self.dir.path(), args);
        cmd.env("FPT_WALKSIM", self.path("walksim.so"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        cmd
    }

    fn run(&self, args: &[&str]) -> Out {
        finish(self.command(args).spawn().unwrap())
    }

    /// `bench` at scale tiny under a name.
    fn bench(&self, more: &[&str]) -> Out {
        let mut args = vec!["bench", "--scale", "tiny", "--name", "m"];
        args.extend(more);
        self.run(&args)
    }

    fn cells(&self) -> PathBuf {
        self.path("target/fpt/bench/m/cells")
    }

    fn cell(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read(self.cells().join(format!("{name}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[track_caller]
    fn is_clean(&self) {
        for dir in [self.path("tmp"), self.path("target/fpt/bench/m")] {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let name = entry.unwrap().file_name().to_string_lossy().into_owned();
                let known = [
                    "cells",
                    "matrix.json",
                    "config.toml",
                    "config-others.toml",
                    "report",
                ];
                let expected = known.contains(&name.as_str());
                assert!(expected, "{name} is left in {}", dir.display());
            }
        }
        qemu_is_gone(self.dir.path());
    }
}

const ALL: [&str; 4] = ["bfs-radix", "bfs-l3l2", "gups-radix", "gups-l3l2"];

#[test]
fn a_matrix_runs_and_says_what_it_costs() {
    let lab = Lab::new();
    let out = lab.bench(&[]);
    out.is(
        0,
        &[
            "4 cells, about 3.0s, 1.5 GiB of memory",
            "4 of 4 cells have results",
        ],
    );
    let folder = lab.path("target/fpt/bench/m").display().to_string();
    assert_eq!(out.stdout.lines().last(), Some(folder.as_str()));
    assert!(out.stdout.contains("walk latency"), "{}", out.stdout);
    for name in ALL {
        let cell = lab.cell(name);
        assert_eq!(cell["schema"], "fpt-bench/1");
        assert_eq!(cell["error"], serde_json::Value::Null);
        assert_eq!(cell["walksim"]["label"], name);
        assert_eq!(cell["guest"]["page_tables_before_kb"], 100);
        assert_eq!(cell["guest"]["page_tables_kb"], 4112);
        assert_eq!(cell["guest"]["fpt_stats"]["flat_bytes"], 6291456);
        assert_eq!(cell["provenance"]["icount"], true);
        // Only radix's accesses are worth a computation of what other tables would do.
        let organisations = cell["walksim"]["phases"][0]["organisations"].as_array();
        let radix = name.ends_with("radix");
        assert_eq!(organisations.unwrap().len(), if radix { 4 } else { 1 });
        assert_eq!(cell["provenance"]["real_only"], !radix);
        let stacks = read(lab.cells().join(format!("{name}.folded")));
        assert_eq!(stacks, "load;page_fault;handle_mm_fault 40000\n");
    }
    assert_eq!(
        lab.cell("bfs-radix")["provenance"]["config_hash"],
        lab.cell("bfs-l3l2")["provenance"]["config_hash"],
        "they are made alike"
    );
    lab.is_clean();
    // A second run under the same name would replace results.
    lab.bench(&[]).is(2, &["has results already", "--resume"]);
}

#[test]
fn resume_runs_only_what_is_missing_or_changed() {
    let lab = Lab::new();
    lab.bench(&[]).is(0, &[]);
    std::fs::remove_file(lab.cells().join("gups-radix.json")).unwrap();
    std::fs::write(lab.cells().join("bfs-l3l2.json"), "{\"schema\":").unwrap();
    let before = lab.cell("bfs-radix");
    lab.bench(&["--resume"]).is(
        0,
        &[
            "2 of 4 cells are finished",
            "2 cells, about",
            "4 of 4 cells have",
        ],
    );
    assert_eq!(lab.cell("bfs-radix"), before);
    // Without a name the newest; nothing is left to do.
    lab.run(&["bench", "--scale", "tiny", "--resume"])
        .is(0, &["4 of 4 cells are finished and unchanged"]);
    // Neither does it take the scale, which the matrix knows.
    lab.run(&["bench", "--resume"])
        .is(0, &["4 of 4 cells are finished and unchanged"]);
    lab.bench(&["--resume", "--modes", "radix"])
        .is(0, &["2 of 2 cells are finished and unchanged"]);
    lab.run(&["bench", "--resume"])
        .is(0, &["4 of 4 cells are finished and unchanged"]);
    let empty = Lab::new();
    empty
        .run(&["bench", "--scale", "tiny", "--resume"])
        .is(2, &["there is no matrix to resume"]);
    empty
        .run(&["bench", "--resume", "--name", "nope"])
        .is(2, &["there is no matrix 'nope' to resume"]);
}

#[test]
fn cells_are_repeated_and_averaged() {
    let lab = Lab::new();
    let dry = ["--dry-run", "bench", "--scale", "tiny", "--repeat", "2"];
    let out = lab.run(&dry);
    out.is(0, &[]);
    for (label, seed) in [("bfs-radix", 1), ("bfs-radix.2", 2), ("gups-l3l2.2", 2)] {
        let line = |l: &&str| l.contains(&format!("label={label},"));
        let line = out.stdout.lines().find(line).unwrap();
        assert!(line.contains(&format!("-seed {seed} ")), "{line}");
    }
    lab.bench(&["--repeat", "2", "--append", "fake=panic@gups-l3l2.2"])
        .is(1, &["8 cells, about", "1 of 8 cells failed: gups-l3l2.2"]);
    assert_eq!(lab.cell("bfs-l3l2")["run"], 1);
    let second = lab.cell("bfs-l3l2.2");
    assert_eq!(second["run"], 2);
    assert_ne!(second["hash"], lab.cell("bfs-l3l2")["hash"]);
    lab.run(&["report"])
        .is(0, &["1 of 8 cells have no figures"]);
    let report = lab.path("target/fpt/bench/m/report");
    let lines = |name: &str, start: &str| {
        let text = read(report.join(name));
        text.lines().filter(|l| l.starts_with(start)).count()
    };
    assert_eq!(lines("report.csv", "bfs,l3l2,all,real,"), 1);
    assert_eq!(lines("runs.csv", "bfs,l3l2,all,real,"), 2);
    assert_eq!(lines("runs.csv", "gups,l3l2,all,real,"), 1);
    assert!(read(report.join("index.html")).contains("means of n = 2 runs of each cell"));
    // More runs can be added, and fewer take none away.
    lab.bench(&["--resume", "--repeat", "3"])
        .is(1, &["7 of 12 cells are finished", "failed: gups-l3l2.2"]);
    lab.bench(&["--resume", "--repeat", "1"])
        .is(1, &["11 of 12 cells are finished"]);
    lab.is_clean();
}

#[test]
fn resume_does_not_make_another_matrix_of_it() {
    let lab = Lab::new();
    lab.bench(&["--set", "cycles.memory=190"]).is(0, &[]);
    let before = ALL.map(|name| lab.cell(name));
    let scale = "matrix 'm' was made with another --scale: tiny, not small";
    lab.run(&["bench", "--resume", "--scale", "small"])
        .is(2, &[scale, "choose another --name"]);
    std::fs::write(lab.path("e"), "1 2\n").unwrap();
    for (args, word) in [
        (
            vec!["--preset", "server"],
            "another --preset: emt, not server",
        ),
        (vec!["--thp", "always"], "another --thp: never, not always"),
        (vec!["--vcpus", "2"], "another --vcpus: 1, not 2"),
        (
            vec!["--set", "cycles.memory=200"],
            "another --set or --config: ",
        ),
        (vec!["--append", "x"], "another --append: '', not 'x'"),
        (
            vec!["--all-organisations"],
            "another --all-organisations: off, not on",
        ),
        (vec!["--edges", "e"], "another --edges: none, not "),
    ] {
        let mut all = vec!["--resume"];
        all.extend(args);
        lab.bench(&all).is(2, &[word]);
    }
    // Of a version that left no matrix.json: the cells say enough.
    std::fs::rename(lab.path("target/fpt/bench/m/matrix.json"), lab.path("kept")).unwrap();
    lab.bench(&["--resume", "--thp", "always"])
        .is(2, &["another --thp: never, not always"]);
    std::fs::rename(lab.path("kept"), lab.path("target/fpt/bench/m/matrix.json")).unwrap();
    assert_eq!(ALL.map(|name| lab.cell(name)), before);
    lab.bench(&["--resume", "--set", "cycles.memory=190"])
        .is(0, &["4 of 4 cells are finished and unchanged"]);
    // Nothing is lost where nothing is.
    std::fs::remove_dir_all(lab.cells()).unwrap();
    lab.bench(&["--resume", "--thp", "always"])
        .is(0, &["4 of 4 cells have results"]);
    assert_eq!(lab.cell("bfs-radix")["thp"], "always");
}

#[test]
fn all_organisations_only_when_asked_for() {
    let lab = Lab::new();
    let count = |name: &str| {
        let cell = lab.cell(name);
        let all = cell["walksim"]["phases"][1]["organisations"].as_array();
        all.map(Vec::len)
    };
    lab.bench(&["--all-organisations"]).is(0, &[]);
    assert_eq!((count("bfs-radix"), count("bfs-l3l2")), (Some(4), Some(4)));
    assert_eq!(lab.cell("bfs-l3l2")["provenance"]["real_only"], false);
    std::fs::remove_dir_all(lab.path("target/fpt/bench/m")).unwrap();
    // What was chosen by hand stays.
    lab.bench(&["--set", "organisations=[\"real\", \"ecpt\"]"])
        .is(0, &[]);
    assert_eq!((count("bfs-radix"), count("bfs-l3l2")), (Some(2), Some(2)));
}

#[test]
fn graphs_can_come_from_a_file() {
    let lab = Lab::new();
    std::fs::write(lab.path("graph.txt"), "# a graph\n1 2\n2 3\n").unwrap();
    let out = lab.run(&[
        "--dry-run",
        "bench",
        "--scale",
        "tiny",
        "--modes",
        "radix",
        "--edges",
        "graph.txt",
    ]);
    out.is(0, &["label=bfs-radix", "graph.txt,if=none,id=disk0"]);
    assert_eq!(out.stdout.lines().count(), 1, "only what reads edges");
    lab.bench(&["--edges", "graph.txt"])
        .is(0, &["2 of 2 cells have results"]);
    let cell = lab.cell("bfs-l3l2");
    let p = &cell["provenance"];
    assert_eq!(p["argv"].as_array().unwrap()[1..], ["--edges", "/dev/vda"]);
    let sum = "sha256";
    assert_eq!(p["edges"][sum].as_str().map(str::len), Some(64));
    // A disk has whole sectors.
    let copies = lab.path("cache/artefacts/edges");
    let made = std::fs::read_dir(&copies).unwrap().next().unwrap().unwrap();
    let text = read(made.path().join("edges"));
    assert!(text.len() == 512 && text.trim_end() == "# a graph\n1 2\n2 3");
    lab.run(&["bench", "--resume"])
        .is(0, &["2 of 2 cells are finished and unchanged"]);
    // Another file is another graph.
    std::fs::write(lab.path("graph.txt"), "1 2\n2 4\n").unwrap();
    lab.run(&["bench", "--resume"]).is(0, &["2 cells, about"]);
    assert_ne!(lab.cell("bfs-l3l2")["hash"], cell["hash"]);
    for (args, word) in [
        (
            ["--edges", "none.txt", "--modes", "radix"],
            "cannot read none.txt",
        ),
        (
            ["--edges", "workloads", "--modes", "radix"],
            "it is no file",
        ),
        (
            ["--edges", "graph.txt", "--workloads", "gups"],
            "'gups' reads no edges",
        ),
    ] {
        let mut all = vec!["bench", "--scale", "tiny"];
        all.extend(args);
        lab.run(&all).is(2, &[word]);
    }
}

#[test]
fn one_failed_cell_does_not_lose_the_others() {
    for (what, code, words) in [
        ("panic", 71, "Kernel panic - not syncing"),
        ("triple", 71, "triple fault"),
        (
            "check-fails",
            1,
            "failed its own check (exit code 1): made up",
        ),
        ("silent", 1, "failed its own check"),
        (
            "forever",
            124,
            "ran into its time limit: not ended after 2 s",
        ),
        ("mismatch", 1, "3 walks differ from QEMU's own translation"),
        ("no-figures", 1, "the simulator left no result"),
        ("half-figures", 1, "the simulator's result cannot be read"),
        ("no-run", 1, "there is no phase 'run'"),
        ("no-walks", 1, "no walk through the real tables was seen"),
        (
            "nothing-checked",
            1,
            "none of 5000 walks was compared with QEMU's own translation",
        ),
        ("no-faults", 1, "phase 'load' has no page fault"),
        (
            "stale",
            1,
            "26 of 2500000 data accesses found their page gone",
        ),
        (
            "lost",
            1,
            "2001 of 1960000 kernel instructions have no known entry",
        ),
        ("no-flame", 1, "left no file of the page-fault path"),
        ("wrong-mode", 1, "the guest is not in mode l3l2"),
        (
            "no-thp",
            1,
            "transparent huge pages are not 'always': it says 'never'",
        ),
        ("no-nodes", 1, "no mid node was made in mode l3l2"),
        ("warn", 1, "the kernel warned in gups-l3l2: WARNING: CPU: 0"),
        ("no-start", 69, "could not load kernel"),
    ] {
        let lab = Lab::new();
        let fake = format!("fake={what}@gups-l3l2");
        let out = lab.bench(&["--append", &fake, "--thp", "always"]);
        out.is(
            1,
            &[
                "1 of 4 cells failed: gups-l3l2",
                words,
                "3 of 4 cells have results",
            ],
        );
        let last = out.stderr.lines().last().unwrap();
        assert!(
            last.contains("error: 1 of 4 cells failed"),
            "one line: {last}"
        );
        assert_eq!(lab.cell("gups-l3l2")["error"]["code"], code, "{what}");
        for name in &ALL[..3] {
            assert_eq!(lab.cell(name)["error"], serde_json::Value::Null);
        }
        lab.is_clean();
        // The failed one, and only that, runs again.
        lab.bench(&["--append", &fake, "--thp", "always", "--resume"])
            .is(1, &["3 of 4 cells are finished"]);
    }
}

#[test]
fn mistakes_are_2_with_a_hint() {
    let lab = Lab::new();
    for (args, words) in [
        (vec!["--preset", "emd"], vec!["did you mean 'emt'?"]),
        (
            vec!["--set", "cycles.memroy=1"],
            vec!["did you mean 'cycles.memory'?"],
        ),
        (vec!["--set", "cycles.memory"], vec!["there is no ="]),
        (
            vec!["--set", "cycles.memory=fast"],
            vec!["expected a float"],
        ),
        (
            vec!["--config", "/nonexistent"],
            vec!["cannot read /nonexistent"],
        ),
        (vec!["--modes", "l3l1"], vec!["did you mean 'l3l2'?"]),
        (
            vec!["--modes", "radix,nonsense"],
            vec!["unknown mode 'nonsense'", "l4l3-l2l1, mixed"],
        ),
        (vec!["--workloads", "bsf"], vec!["did you mean 'bfs'?"]),
        (vec!["--scale", "huge"], vec!["tiny"]),
        (vec!["--thp", "maybe"], vec!["never"]),
        (vec!["--vcpus", "3"], vec!["1..=2"]),
        (vec!["--repeat", "0"], vec!["1..=99"]),
        (vec!["--name", "../x"], vec!["is no name"]),
        (vec!["--jobs", "0"], vec![]),
    ] {
        let mut all = vec!["bench"];
        if args[0] != "--scale" {
            all.extend(["--scale", "tiny"]);
        }
        all.extend(args);
        lab.run(&all).is(2, &words);
    }
    lab.run(&["bench", "--workloads", "gups", "--scale", "paper"])
        .is(2, &["'gups' has no scale paper"]);
    for (from, to, word) in [
        ("timeout_s", "timeot_s", "did you mean 'timeout_s'?"),
        (
            "kind = 'static'",
            "kind = 'statik'",
            "did you mean 'static'?",
        ),
        ("scale.tiny", "scale.tyny", "did you mean 'tiny'?"),
        ("[[workload]]", "[[workloads]]", "did you mean 'workload'?"),
        ("name = 'gups'", "name = 'bfs'", "twice"),
        ("= 'gups'", "= ", "line "),
    ] {
        std::fs::write(
            lab.path("workloads/workloads.toml"),
            WORKLOADS.replace(from, to),
        )
        .unwrap();
        lab.bench(&[]).is(2, &["workloads/workloads.toml", word]);
    }
    assert!(!lab.path("target/fpt/bench").exists(), "nothing was run");
    assert!(!lab.path("pid").exists());
}

#[test]
fn a_configuration_file_is_read_strictly() {
    let lab = Lab::new();
    std::fs::write(lab.path("c.toml"), "[cycles]\nmemory = 190\n").unwrap();
    lab.bench(&["--config", "c.toml", "--modes", "radix"])
        .is(0, &[]);
    let text = std::fs::read_to_string(lab.path("target/fpt/bench/m/config.toml")).unwrap();
    assert!(text.contains("memory = 190"), "{text}");
    std::fs::write(lab.path("c.toml"), "[cylces]\nmemory = 190\n").unwrap();
    lab.bench(&["--config", "c.toml"])
        .is(2, &["did you mean 'cycles'?"]);
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_built() {
    let lab = Lab::new();
    lab.run(&["bench", "--scale", "paper"]).is(
        69,
        &[
            "bfs-radix does not fit into this host's memory",
            "smaller --scale",
        ],
    );
    // All images are made first: their sizes are added, the largest is there twice.
    let sum = format!("it needs {:.1} GiB", (1_400_000_000f64 + 16.0) / 1024.0);
    lab.run(&["bench", "--scale", "medium"])
        .is(69, &["does not fit onto the disk", &sum]);
    // What is in the cache already takes no more.
    let there = lab.path("cache/artefacts/image/x");
    std::fs::create_dir_all(&there).unwrap();
    std::fs::write(
        there.join("meta.json"),
        "{\"packages\":\"dash store-server\"}",
    )
    .unwrap();
    let sum = format!("it needs {:.1} GiB", (800_000_000f64 + 16.0) / 1024.0);
    lab.run(&["bench", "--scale", "medium"]).is(69, &[&sum]);
    assert!(!lab.path("pid").exists() && !lab.path("runs").exists());
}

#[test]
fn missing_things_are_69() {
    let lab = Lab::new();
    let mut cmd = lab.command(&["bench", "--scale", "tiny"]);
    finish(cmd.env("FPT_WALKSIM", "/nonexistent/x.so").spawn().unwrap())
        .is(69, &["no simulator at /nonexistent/x.so"]);
    std::fs::remove_file(lab.path("workloads/workloads.toml")).unwrap();
    lab.run(&["bench", "--scale", "tiny"])
        .is(69, &["cannot read", "restore it with git"]);
}

#[test]
fn every_mode_is_measured_when_none_is_named() {
    let lab = Lab::new();
    let args = [
        "bench",
        "--scale",
        "tiny",
        "--name",
        "m",
        "--workloads",
        "bfs",
    ];
    finish(lab.plain(&args).spawn().unwrap()).is(0, &["4 of 4 cells have results"]);
    for mode in ["radix", "l4l3", "l3l2", "l4l3-l2l1"] {
        let cell = lab.cell(&format!("bfs-{mode}"));
        assert_eq!(cell["mode"], mode);
        assert_eq!(cell["error"], serde_json::Value::Null);
    }
    let matrix = read(lab.path("target/fpt/bench/m/matrix.json"));
    let matrix: serde_json::Value = serde_json::from_str(&matrix).unwrap();
    let modes = serde_json::json!(["radix", "l4l3", "l3l2", "l4l3-l2l1"]);
    assert_eq!(matrix["modes"], modes);
}

#[test]
fn mixed_is_a_column_of_its_own() {
    let lab = Lab::new();
    // Without nodes its figures are radix's, which is right for a small program.
    let fake = ["--append", "fake=no-nodes@gups-mixed"];
    let out = lab.bench(&[&fake[..], &["--modes", "radix,mixed,l3l2,mixed"]].concat());
    let tables = "mode radix, policy eager; mode mixed, policy auto; mode l3l2, policy eager";
    out.is(0, &["6 of 6 cells have results", tables]);
    let none = "no node was made in bfs-mixed, gups-mixed";
    assert!(out.stdout.contains(none), "{}", out.stdout);
    let cell = lab.cell("bfs-mixed");
    assert_eq!(cell["mode"], "mixed");
    assert_eq!(cell["provenance"]["real_only"], true);
    let args = cell["provenance"]["kernel_args"].as_str().unwrap();
    assert!(args.contains("fpt=mixed fpt.policy=auto"), "{args}");
    lab.run(&["bench", "--resume"])
        .is(0, &["6 of 6 cells are finished and unchanged"]);
    lab.run(&["report", "m"]).is(0, &[none]);
    let report = lab.path("target/fpt/bench/m/report");
    let csv = read(report.join("report.csv"));
    // 10 % of 60 cycles a walk.
    let line = |l: &str| l.starts_with("bfs,mixed,all,real,real,emt,") && l.contains(",54.0,");
    assert!(csv.lines().any(line), "{csv}");
    let page = read(report.join("index.html"));
    for word in [none, "3 modes", "mixed (real)", "<th>mixed</th>"] {
        assert!(page.contains(word), "{word}");
    }
    let svg = read(report.join("figures/figure4-walk-latency-all.svg"));
    assert!(svg.contains(">mixed<"), "{svg}");
    let out = lab.run(&["report", "--compare", "m", "m", "--out", "c"]);
    out.is(0, &[]);
    assert!(read(lab.path("c/compare.csv")).contains("gups,mixed,all,"));
    // A kernel that can make none is another than was asked for.
    let lab = Lab::new();
    let fake = ["--append", "fake=wrong-mode@gups-mixed"];
    lab.bench(&[&fake[..], &["--modes", "radix,mixed"]].concat())
        .is(1, &["gups-mixed", "the guest is not in mode mixed"]);
    lab.bench(&["--modes", "mixt"])
        .is(2, &["did you mean 'mixed'?"]);
    lab.is_clean();
}

#[test]
fn two_cpus_have_no_counted_clock() {
    let lab = Lab::new();
    lab.bench(&["--vcpus", "2", "--modes", "radix"]).is(0, &[]);
    let cell = lab.cell("bfs-radix");
    assert_eq!(cell["provenance"]["icount"], false);
    assert_eq!(cell["vcpus"], 2);
}

#[test]
fn dry_run_prints_and_starts_nothing() {
    let lab = Lab::new();
    let out = lab.run(&["--dry-run", "bench", "--scale", "tiny", "--thp", "always"]);
    out.is(
        0,
        &[
            "fpt=l3l2",
            "transparent_hugepage=always",
            "label=gups-l3l2",
            "-icount",
        ],
    );
    assert_eq!(out.stdout.lines().count(), 4);
    assert!(!lab.path("pid").exists() && !lab.path("runs").exists());
    assert!(!lab.path("target/fpt/bench").exists());
}

#[test]
fn ctrl_c_keeps_what_is_finished_and_leaves_nothing_else() {
    let lab = Lab::new();
    // bfs ends at once, gups never.
    let child = lab
        .command(&[
            "bench",
            "--scale",
            "tiny",
            "--name",
            "m",
            "--modes",
            "radix",
            "--append",
            "fake=forever@gups-radix",
        ])
        .env("FPT_SILENCE_S", "60")
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !(lab.cells().join("bfs-radix.json").exists()
        && std::fs::read_dir(lab.path("tmp")).unwrap().count() == 1)
    {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child).is(130, &["interrupted"]);
    lab.is_clean();
    assert!(!lab.cells().join("gups-radix.json").exists());
    lab.bench(&[
        "--modes",
        "radix",
        "--append",
        "fake=forever@gups-radix",
        "--resume",
    ])
    .is(1, &["1 of 2 cells are finished"]);
}

#[test]
fn an_interrupted_matrix_is_the_newest() {
    let lab = Lab::new();
    // An older one, whole.
    lab.run(&["bench", "--scale", "tiny", "--name", "old"])
        .is(0, &[]);
    let child = lab
        .command(&[
            "bench",
            "--scale",
            "tiny",
            "--modes",
            "radix",
            "--name",
            "m",
            "--thp",
            "always",
            "--workloads",
            "gups",
            "--append",
            "fake=forever@gups-radix",
        ])
        .env("FPT_SILENCE_S", "60")
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !lab.path("pid").exists()
        || std::fs::read_link(lab.path("target/fpt/bench/latest")).unwrap()
            != std::path::Path::new("m")
        || std::fs::read_dir(lab.path("tmp")).unwrap().count() != 1
    {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child).is(130, &["interrupted"]);
    // Without a word more: what it was, though no cell was finished.
    let matrix = lab.path("target/fpt/bench/m/matrix.json");
    let text = read(matrix.clone()).replace("fake=forever@gups-radix", "x");
    std::fs::write(matrix, text).unwrap();
    lab.run(&["bench", "--resume"])
        .is(0, &["1 of 1 cells have results", "bench/m"]);
    assert_eq!(lab.cell("gups-radix")["thp"], "always");
    assert_eq!(lab.cell("gups-radix")["scale"], "tiny");
}

#[test]
fn a_full_disk_is_69_and_says_so() {
    let lab = Lab::new();
    let small = lab.path("target/fpt/bench");
    std::fs::create_dir_all(&small).unwrap();
    let probe = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none"])
        .arg(&small)
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("not run: this machine lets nobody mount a small file system");
        return;
    }
    // Big enough to begin, too small to end: a file takes the rest while the first guest waits for it.
    let script = format!(
        "mount -t tmpfs -o size=24m none {0} || exit 99\n\
         (while [ ! -e {1} ]; do sleep 0.02; done; dd if=/dev/zero of={0}/other bs=4k 2>/dev/null; : >{1}.full) &\n\
         \"$@\"; code=$?; kill $! 2>/dev/null; wait; exit $code",
        small.display(),
        lab.path("pid").display()
    );
    let args = ["bench", "--scale", "tiny", "--name", "m", "--jobs", "1"];
    let inner = lab.command(&[&args[..], &["--append", "fake=until-full"]].concat());
    let mut cmd = Command::new("unshare");
    cmd.args(["-rm", "sh", "-c", &script, "sh"])
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
    let out = finish(cmd.spawn().unwrap());
    out.is(69, &["the disk is full"]);
    assert!(!out.stderr.contains("cells failed"), "{}", out.stderr);
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_report_is_one_page_and_its_files() {
    let lab = Lab::new();
    lab.bench(&[]).is(0, &[]);
    let out = lab.run(&["report"]);
    out.is(0, &[]);
    let dir = lab.path("target/fpt/bench/m/report");
    let page = dir.join("index.html").canonicalize().unwrap();
    assert_eq!(out.stdout.lines().last(), page.to_str());
    assert!(out.stdout.starts_with("against radix"), "{}", out.stdout);
    let page = read(dir.join("index.html"));
    for word in ["src=", "href=\"http", "url(", "<script", "<link", "@import"] {
        assert!(
            !page.contains(word),
            "the page needs something from elsewhere: {word}"
        );
    }
    for word in [
        "Figure 3",
        "Figure 6",
        "-0.30 %",
        "counterfactual",
        "OSDI",
        "fpt=radix",
    ] {
        assert!(page.contains(word), "{word}");
    }
    // The published figure of the run phase stands beside ours of the run phase.
    let run = "<td class=\"text\">l4l3-l2l1: cycles, end to end, run phase</td><td>-6.4 %</td>";
    assert!(page.contains(run), "{page}");
    // 5 % of 60 cycles a walk.
    let csv = read(dir.join("report.csv"));
    assert!(
        csv.lines()
            .any(|l| l.starts_with("bfs,l3l2,all,real,real,emt,") && l.contains(",57.0,")),
        "{csv}"
    );
    let json: serde_json::Value = serde_json::from_str(&read(dir.join("report.json"))).unwrap();
    assert_eq!(json["schema"], "fpt-report/2");
    assert_eq!(json["command"], "cargo xtask report");
    let functions = read(dir.join("functions.csv"));
    assert!(
        functions.starts_with("workload,mode,phase,function,instructions,schema\n")
            && functions.contains("gups,l3l2,run,handle_mm_fault,156800,fpt-report/2\n"),
        "{functions}"
    );
    let tasks = read(dir.join("tasks.csv"));
    assert!(
        tasks.starts_with("workload,mode,phase,task,name,instructions_user,")
            && tasks.contains(",load,0xffff888000001000,")
            && tasks.contains(",999000,399000,fpt-report/2\n"),
        "{tasks}"
    );
    for word in [
        "Page-fault path by function",
        "handle_mm_fault",
        "Instructions by process",
    ] {
        assert!(page.contains(word), "{word}");
    }
    for name in [
        "figure3-kernel-instructions-all",
        "figure4-walk-latency-run",
        "page-table-bytes",
    ] {
        let svg = read(dir.join(format!("figures/{name}.svg")));
        assert!(
            svg.contains("FPT-Linux, matrix m:"),
            "each says where it comes from"
        );
        let hash = json["matrix_hash"].as_str().unwrap();
        for (name, value) in [
            ("Source", format!("matrix m {hash}")),
            (
                "Command",
                "cargo xtask bench --scale tiny --name m --modes radix,l3l2; cargo xtask report"
                    .into(),
            ),
            (
                "Creation Time",
                json["written_utc"].as_str().unwrap().into(),
            ),
        ] {
            assert!(svg.contains(&format!("\n{name}: {value}\n")), "{svg}");
        }
    }
    // By name, by folder, elsewhere.
    lab.run(&["report", "m", "--out", "x"]).is(0, &[]);
    lab.run(&["report", "target/fpt/bench/m", "--out", "y"])
        .is(0, &[]);
    assert!(lab.path("x/index.html").is_file() && lab.path("y/index.html").is_file());
}

#[test]
fn a_report_shows_what_is_missing() {
    let lab = Lab::new();
    lab.bench(&["--append", "fake=panic@gups-l3l2"]).is(1, &[]);
    lab.run(&["report", "m"])
        .is(0, &["1 of 4 cells have no figures"]);
    let page = read(lab.path("target/fpt/bench/m/report/index.html"));
    assert!(
        page.contains("gups-l3l2: the guest gups-l3l2 crashed"),
        "{page}"
    );
    std::fs::remove_file(lab.cells().join("bfs-l3l2.json")).unwrap();
    let mut other = lab.cell("gups-radix");
    other["mode"] = "l3l2".into();
    other["provenance"]["config_hash"] = "another".into();
    std::fs::write(lab.cells().join("gups-l3l2.json"), other.to_string()).unwrap();
    lab.run(&["report", "m"])
        .is(0, &["the cells were not made alike: configuration"]);
    let page = read(lab.path("target/fpt/bench/m/report/index.html"));
    assert!(
        page.contains("Cells that were not made alike") && page.contains("not run:</b> bfs-l3l2")
    );
    // An interrupted matrix may have no cell of a workload.
    std::fs::remove_file(lab.cells().join("bfs-radix.json")).unwrap();
    lab.run(&["report", "m"]).is(
        0,
        &["2 cells were not run; `cargo xtask bench --resume --name m` runs them"],
    );
    let page = read(lab.path("target/fpt/bench/m/report/index.html"));
    assert!(page.contains("not run:</b> bfs-radix, bfs-l3l2"), "{page}");
}

#[test]
fn two_matrices_are_compared() {
    let lab = Lab::new();
    lab.bench(&[]).is(0, &[]);
    lab.run(&[
        "bench",
        "--scale",
        "tiny",
        "--name",
        "n",
        "--workloads",
        "bfs",
        "--thp",
        "always",
    ])
    .is(0, &[]);
    lab.run(&["report", "--compare", "m", "n", "--out", "c"])
        .is(0, &[]);
    let page = read(lab.path("c/index.html"));
    for word in [
        "transparent huge pages: always, never",
        "Only A has figures of:",
        "gups-radix",
    ] {
        assert!(page.contains(word), "{word}");
    }
    let csv = read(lab.path("c/compare.csv"));
    assert!(
        csv.contains("bfs,radix,all,real,emt,walk_latency,60.0,60.0,1.0,fpt-compare/1"),
        "{csv}"
    );
    lab.run(&[
        "bench",
        "--scale",
        "tiny",
        "--name",
        "o",
        "--workloads",
        "gups",
    ])
    .is(0, &[]);
    lab.run(&["report", "--compare", "n", "o"])
        .is(2, &["have no cell in common"]);
    // What a report wrote is enough of one.
    lab.run(&["report", "m", "--out", "kept"]).is(0, &[]);
    let out = lab.run(&["report", "--compare", "kept", "n", "--out", "d"]);
    out.is(0, &["kept has figures and no cells"]);
    assert!(out.stdout.starts_with("B against A"), "{}", out.stdout);
    lab.run(&["report", "kept"])
        .is(2, &["a page is drawn from cells", "--compare"]);
}

#[test]
fn a_report_of_nothing_is_2() {
    let lab = Lab::new();
    lab.run(&["report"]).is(2, &["there is no matrix yet"]);
    lab.run(&["report", "m"])
        .is(2, &["no matrix 'm'", "run `cargo xtask bench`"]);
    lab.bench(&["--modes", "radix"]).is(0, &[]);
    lab.run(&["report", "mm"]).is(2, &["did you mean 'm'?"]);
    lab.run(&["report", "--compare", "m"]).is(2, &[]);
    for (text, word) in [
        ("{}", "it has no schema"),
        (
            "{\"schema\":\"fpt-bench/99\"}",
            "its schema is fpt-bench/99",
        ),
        ("{\"schema\":\"fpt-bench/1\"}", "missing field"),
        ("{", "EOF"),
    ] {
        std::fs::write(lab.cells().join("bfs-radix.json"), text).unwrap();
        lab.run(&["report", "m"])
            .is(2, &["is no result of bench", word]);
    }
    std::fs::remove_dir_all(lab.cells()).unwrap();
    std::fs::create_dir(lab.cells()).unwrap();
    lab.run(&["report", "m"])
        .is(2, &["its folder cells is empty"]);
}

/// A browser without a screen; `None` only where somebody has said that there is none.
fn browser() -> Option<PathBuf> {
    let found = fpt_kbuild::doctor::BROWSERS
        .iter()
        .flat_map(|name| ["/usr/bin", "/usr/local/bin"].map(|dir| PathBuf::from(dir).join(name)))
        .find(|path| path.is_file());
    assert!(
        found.is_some() || std::env::var_os("FPT_NO_BROWSER").is_some(),
        "no browser to look at the page with: `cargo xtask setup` installs one \
         (apt-get install {}); FPT_NO_BROWSER=1 skips this test",
        fpt_kbuild::doctor::BROWSERS[0]
    );
    found
}

/// The page in a real browser: nothing is wider than the window, and something is drawn on it.
#[test]
fn the_page_fits_wide_and_narrow_windows() {
    let Some(browser) = browser() else {
        // Past the test harness, which shows only what failing tests write.
        let text = "skipped: the report's page in a browser (FPT_NO_BROWSER is set)\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
        return;
    };
    let lab = Lab::new();
    lab.bench(&[]).is(0, &[]);
    lab.run(&["report", "m", "--out", "x"]).is(0, &[]);
    let page = read(lab.path("x/index.html"));
    let probe = "<script>for (const d of document.querySelectorAll('details')) d.open = true;\
        const shown = [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0);\
        document.title = ['probe', document.documentElement.scrollWidth, shown.length,\
        Math.min(...shown.map(s => s.getBoundingClientRect().width)),\
        shown.reduce((n, s) => n + [...s.querySelectorAll('text')].filter(t => {\
            const b = t.getBBox(); return b.x < 0 || b.x + b.width > s.viewBox.baseVal.width; }).length, 0),\
        document.getElementById('headline').getBoundingClientRect().bottom\
        ].join(' ');</script>";
    std::fs::write(
        lab.path("x/probe.html"),
        page.replace("</body>", &format!("{probe}</body>")),
    )
    .unwrap();
    for width in [1280, 400] {
        let run = |more: &[String]| {
            let out = Command::new(&browser)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                ])
                .arg(format!("--window-size={width},2000"))
                .arg(format!("--user-data-dir={}", lab.path("profile").display()))
                .args(more)
                .arg(format!("file://{}", lab.path("x/probe.html").display()))
                .env("HOME", lab.dir.path())
                .output()
                .unwrap();
            (
                String::from_utf8_lossy(&out.stdout).into_owned(),
                String::from_utf8_lossy(&out.stderr).into_owned(),
            )
        };
        let (dom, err) = run(&["--dump-dom".into()]);
        let title = dom
            .split("<title>")
            .nth(1)
            .and_then(|t| t.split("</title>").next())
            .unwrap_or_else(|| panic!("no page: {err}"));
        let words: Vec<f64> = title
            .split(' ')
            .skip(1)
            .map(|w| w.parse().unwrap())
            .collect();
        assert!(title.starts_with("probe "), "{title}");
        assert!(words[0] <= f64::from(width), "{title}: wider than {width}");
        // Each picture once: the other width is hidden.
        assert_eq!(words[1], 25.0, "{title}");
        assert!(words[2] > 300.0, "{title}: a picture too small to read");
        assert_eq!(words[3], 0.0, "{title}: texts that the picture's edge cuts");
        assert!(
            words[4] < 800.0,
            "{title}: what came out is not on the first screen"
        );
        let shot = lab.path("shot.png");
        run(&[format!("--screenshot={}", shot.display())]);
        let decoder =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&shot).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.width, width);
        let bytes = info.color_type.samples();
        let mut colours: Vec<&[u8]> = pixels.chunks(bytes).collect();
        colours.sort_unstable();
        colours.dedup();
        // The bars' colours among them.
        for colour in [[0x2f, 0x6d, 0xb5], [0xe0, 0xb0, 0x4a], [0xff, 0xff, 0xff]] {
            assert!(
                colours.iter().any(|c| c[..3] == colour),
                "{colour:?} is not on the page"
            );
        }
    }
}
