// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs streams through the model for `fpt sweep`: jobs as JSON on standard input, a line of JSON for each on standard output,
//! as they end. A program of its own, so that `fpt` need not link the model.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use fpt_walksim_machine::config;
use fpt_walksim_machine::run::{Done, Job, Jobs};
use fpt_walksim_model::synthetic;

fn main() -> ExitCode {
    match serde_json::from_reader(std::io::stdin().lock()) {
        Ok(jobs) => all(&jobs),
        Err(e) => {
            eprintln!(
                "error: standard input holds no jobs: {e}; this program is called by `fpt sweep`"
            );
            ExitCode::from(64)
        }
    }
}

/// Every job, some at a time.
fn all(jobs: &Jobs) -> ExitCode {
    let next = AtomicUsize::new(0);
    let work = || loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let Some(job) = jobs.jobs.get(n) else {
            return Ok(());
        };
        let done = Done {
            job: n,
            phase: one(job).map_err(|e| e.to_string()),
        };
        let line = format!("{}\n", serde_json::to_string(&done)?);
        std::io::stdout().lock().write_all(line.as_bytes())?;
    };
    let ended: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.threads.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        let died = |_| std::io::Error::other("a thread died");
        (threads.into_iter())
            .map(|t| t.join().map_err(died).and_then(|ended| ended))
            .collect()
    });
    match ended.into_iter().find_map(Result::err) {
        None => ExitCode::SUCCESS,
        Some(e) => {
            eprintln!("error: {e}");
            ExitCode::from(74)
        }
    }
}

fn one(job: &Job) -> Result<fpt_walksim_machine::report::Phase, config::ConfigError> {
    synthetic::run(&config::parse(&job.config)?, &job.run)
}
