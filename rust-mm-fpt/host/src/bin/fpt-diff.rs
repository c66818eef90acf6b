// SPDX-License-Identifier: GPL-2.0

//! `fpt-diff --qemu PATH [-L DIR] [--count N] [--seed S]`: the differential test as a program.
//!
//! Exit status: 0 all equal, 1 a difference, 2 bad usage, 69 the test could not be made.

use fpt_host::diff::{run, Coverage, Stop};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: fpt-diff --qemu PATH [-L DIR] [--count N] [--seed S]

Compares QEMU's page-table walk (monitor command `info walk`) with fpt-core's on random tables.
  --qemu PATH   qemu-system-x86_64 with FPT
  -L DIR        its firmware directory
  --count N     translations to compare, at least 1 (default 120000)
  --seed S      seed of the tables, decimal or 0x hex (default 1)
Exit status: 0 all equal, 1 a difference, 2 bad usage, 69 the test could not be made.";

struct Args {
    qemu: PathBuf,
    firmware: Option<PathBuf>,
    count: u64,
    seed: u64,
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{name} {text}: not a number from 0 to 2^64-1"))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let (mut qemu, mut firmware, mut count, mut seed) = (None, None, 120_000, 1);
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((n, v)) if n.starts_with("--") => (n.to_string(), Some(v.to_string())),
            _ => (arg, None),
        };
        if name == "-h" || name == "--help" {
            return Ok(None);
        }
        if !["--qemu", "-L", "--count", "--seed"].contains(&name.as_str()) {
            return Err(format!("unknown argument {name}"));
        }
        let value = match inline.or_else(|| args.next()) {
            Some(v) => v,
            None => return Err(format!("{name} needs a value")),
        };
        match name.as_str() {
            "--qemu" => qemu = Some(PathBuf::from(value)),
            "-L" => firmware = Some(PathBuf::from(value)),
            "--count" => count = number("--count", &value)?,
            _ => seed = number("--seed", &value)?,
        }
    }
    if count == 0 {
        return Err("--count 0: nothing would be compared".into());
    }
    match qemu {
        Some(qemu) => Ok(Some(Args {
            qemu,
            firmware,
            count,
            seed,
        })),
        None => Err("--qemu is missing".into()),
    }
}

fn print(seen: &Coverage, seconds: f64) {
    println!(
        "{} translations compared in {seconds:.1} s, all equal ({} controls differ, as they must)",
        seen.translations, seen.controls
    );
    println!(
        "visited: flattened roots {}, L3+L2 nodes {}, L2+L1 nodes {}; mixed walks {}",
        seen.flat_root, seen.mid_node, seen.bottom_node, seen.mixed
    );
    println!(
        "pages: 4 KiB {} (in 2 steps {}, 3 {}, 4 {}), 2 MiB {}, 1 GiB {}, large in a node {}",
        seen.page_4k,
        seen.steps_2,
        seen.steps_3,
        seen.steps_4,
        seen.page_2m,
        seen.page_1g,
        seen.large_in_node
    );
    println!(
        "faults: absent {}, reserved {} (misaligned nodes {}); refused: address {}, CR3 {}",
        seen.absent, seen.reserved, seen.misaligned_node, seen.non_canonical, seen.bad_cr3
    );
    println!(
        "kernel half {}, CR4.FPTE clear {}",
        seen.kernel_half, seen.fpte_off
    );
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("fpt-diff: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    match run(&args.qemu, args.firmware.as_deref(), args.seed, args.count) {
        Ok(seen) => {
            print(&seen, start.elapsed().as_secs_f64());
            match seen.missing() {
                Some(what) if args.count >= 100_000 => {
                    eprintln!("fpt-diff: not one case of: {what}");
                    ExitCode::from(1)
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(Stop::Mismatch(report)) => {
            eprintln!("fpt-diff: QEMU and fpt-core differ\n{report}");
            eprintln!(
                "repeat with: fpt-diff --qemu PATH --count {} --seed {}",
                args.count, args.seed
            );
            ExitCode::from(1)
        }
        Err(Stop::Broken(why)) => {
            eprintln!("fpt-diff: {why}");
            ExitCode::from(69)
        }
    }
}
