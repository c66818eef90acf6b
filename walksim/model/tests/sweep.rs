// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program that `fpt sweep` calls says what the model says, and the model what a guest did.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use fpt_geometry::Mode;
use fpt_walksim_machine::run::{Done, Job, Jobs};
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::report::{Organisation, WASTED_CYCLES};
use fpt_walksim_model::synthetic::{run, Pattern, Run};

fn program(input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fpt-sweep"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn gups(mode: Mode, footprint: u64, accesses: u64) -> Run {
    Run {
        mode,
        pattern: Pattern::Gups,
        footprint,
        accesses,
        seed: 1,
    }
}

#[test]
fn the_program_says_what_the_model_says() {
    let config = resolve("server", None, &[]).unwrap();
    let runs: Vec<Run> = Mode::ALL.map(|m| gups(m, 64 << 20, 20_000)).into();
    let job = |run: &Run| Job {
        config: config.to_toml(),
        run: *run,
    };
    let mut jobs = Jobs {
        threads: 2,
        jobs: runs.iter().map(job).collect(),
    };
    jobs.jobs.push(Job {
        config: "preset = 'emd'".to_owned(),
        run: runs[0],
    });
    let out = program(&serde_json::to_string(&jobs).unwrap());
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let mut done: Vec<Done> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    done.sort_by_key(|d| d.job);
    assert_eq!(done.len(), runs.len() + 1);
    for (done, run_) in done.iter().zip(&runs) {
        assert_eq!(done.phase, Ok(run(&config, run_).unwrap()));
    }
    let refused = done.pop().unwrap().phase.unwrap_err();
    assert!(refused.contains("did you mean 'emt'?"), "{refused}");

    let out = program("{}");
    assert_eq!(out.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&out.stderr).contains("fpt sweep"));
}

#[test]
fn what_was_measured_in_a_guest() {
    // gups at scale small: 256 MiB, run phase of docs/results/small
    let of = |mode: Mode, organisation: &str| -> Organisation {
        let config = Config {
            organisations: vec![organisation.to_owned()],
            ..resolve("emt", None, &[]).unwrap()
        };
        let phase = run(&config, &gups(mode, 256 << 20, 300_000)).unwrap();
        phase.organisations.into_iter().next().unwrap()
    };
    let cycles = |o: &Organisation| o.walk_cycles / o.walks as f64;
    let radix = of(Mode::Radix, "real");
    let reads = radix.walk_entry_reads as f64 / radix.walks as f64;
    assert!((reads / 1.743 - 1.0).abs() < 0.02, "{radix:?}");
    assert!((cycles(&radix) / 57.1 - 1.0).abs() < 0.05, "{radix:?}");
    let flat = of(Mode::L4L3L2L1, "real");
    let change = cycles(&flat) / cycles(&radix) - 1.0;
    assert!((change + 0.2085).abs() < 0.01, "{change}");
    assert!(of(Mode::Radix, "ecpt").details[WASTED_CYCLES] > 0);
}
