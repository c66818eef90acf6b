// SPDX-License-Identifier: MIT OR Apache-2.0
//! SysBench memory: Debian's sysbench writes a block of memory again and again, in order.
//!
//! It allocates and clears the block before it says that its thread has started: that is the loading
//! phase; the running phase ends with its report.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};

use fpt_workloads::ensure;
use fpt_workloads::error::{Error, Result};
use fpt_workloads::image;
use fpt_workloads::mark;
use fpt_workloads::options::Options;
use fpt_workloads::outcome::{self, Outcome};
use fpt_workloads::server;

const STARTED: &str = "Threads started!";
const REPORT: &str = "Total operations:";

/// Reads lines into `all` up to the one that begins with `wanted`, and returns that.
fn read_to(input: &mut BufReader<ChildStdout>, wanted: &str, all: &mut String) -> Result<String> {
    loop {
        let begin = all.len();
        let len = input
            .read_line(all)
            .map_err(Error::system("read what sysbench says"))?;
        if len == 0 {
            let last: Vec<&str> = all.lines().rev().take(4).collect();
            return Err(Error::System(format!(
                "sysbench ended without '{wanted}'; it said: {}",
                last.into_iter().rev().collect::<Vec<_>>().join(" / ")
            )));
        }
        if all[begin..].trim_start().starts_with(wanted) {
            return Ok(all[begin..].trim().to_string());
        }
    }
}

/// The number in `Total operations: 6 (  2.5 per second)`.
fn operations(line: &str) -> Option<u64> {
    line.strip_prefix(REPORT)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The number in `96.00 MiB transferred (40.32 MiB/sec)`.
fn transferred(line: &str) -> Option<f64> {
    line.split_once(" MiB transferred")?.0.trim().parse().ok()
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let block = options.number("block-mib", 16u64, 1, 1 << 20)?;
    let passes = options.number("passes", 3u64, 1, 1 << 20)?;
    let device = image::wanted(&mut options);
    options.finish()?;
    if !block.is_power_of_two() {
        return Err(Error::Usage(format!(
            "--block-mib {block} is no power of two, which sysbench wants"
        )));
    }
    image::enter(device.as_deref())?;
    let mut command = server::unprivileged(&server::program("sysbench")?);
    command
        .arg("memory")
        .arg(format!("--memory-block-size={block}M"))
        .arg(format!("--memory-total-size={}M", block * passes))
        .args([
            "--memory-oper=write",
            "--memory-access-mode=seq",
            "--threads=1",
            "--time=0",
        ])
        .arg("run")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut all = String::new();
    let (mut child, mut input) = mark::load(|| -> Result<_> {
        let mut child = command.spawn().map_err(Error::system("start sysbench"))?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Error::System("sysbench has no output".into()))?;
        let mut input = BufReader::new(stdout);
        read_to(&mut input, STARTED, &mut all)?;
        Ok((child, input))
    })?;
    let report = mark::run(|| read_to(&mut input, REPORT, &mut all))?;
    let amount = read_to(
        &mut input,
        &format!("{}.00 MiB transferred", block * passes),
        &mut all,
    )?;
    let status = child.wait().map_err(Error::system("wait for sysbench"))?;
    ensure!(status.success(), "sysbench ended with {status}");
    ensure!(
        operations(&report) == Some(passes),
        "sysbench reports '{report}', not {passes} operations"
    );
    ensure!(
        transferred(&amount) == Some((block * passes) as f64),
        "sysbench reports '{amount}', not {} MiB",
        block * passes
    );
    Ok(Outcome::new(format!(
        "sysbench reports {passes} passes over {block} MiB as asked"
    ))
    .figure("block_bytes", block << 20)
    .figure("passes", passes))
}

fn main() {
    outcome::end("sysbench", measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report() {
        assert_eq!(
            operations("Total operations: 6 (    2.48 per second)"),
            Some(6)
        );
        assert_eq!(operations("Total operations: x"), None);
        assert_eq!(
            transferred("96.00 MiB transferred (40.32 MiB/sec)"),
            Some(96.0)
        );
        assert_eq!(transferred("nothing"), None);
    }
}
