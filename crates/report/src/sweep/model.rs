// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program that runs the model, `fpt-sweep`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use fpt_kit::proc::{describe, Io};
use fpt_kit::{Cmd, Fail, Result};
use fpt_walksim_machine::report::Phase;
use fpt_walksim_machine::run::{self, Done, Jobs};

use super::Job;

/// The figures of every job, in the order of `jobs`; `threads` run at a time. `progress` gets the number of those that ended.
///
/// # Errors
///
/// The program does not run to its end, or the model says that its figures contradict each other.
pub(super) fn run(
    program: &Path,
    jobs: &[Job],
    threads: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Phase>> {
    // The largest first: they take longest.
    let mut order: Vec<(usize, &Job)> = jobs.iter().enumerate().collect();
    order.sort_by_key(|(_, job)| std::cmp::Reverse(job.run.footprint));
    let one = |(_, job): &(usize, &Job)| run::Job {
        config: job.machine.to_toml(),
        run: job.run,
    };
    let told = Jobs {
        threads,
        jobs: order.iter().map(one).collect(),
    };
    let text = serde_json::to_vec(&told).context("cannot encode the jobs")?;
    let mut phases: Vec<Option<Phase>> = vec![None; jobs.len()];
    let mut ended = 0;
    talk(program, &text, |line| {
        let done: Done = serde_json::from_str(line).map_err(|e| not_known(program, e))?;
        let phase = done.phase.map_err(|e| {
            Fail::infra(
                "the model is at odds with itself",
                e,
                "this is a fault of the simulator",
            )
        })?;
        let place = order.get(done.job).and_then(|(n, _)| phases.get_mut(*n));
        if let Some(place) = place {
            *place = Some(phase);
        }
        ended += 1;
        progress(ended);
        Ok(())
    })?;
    let all: Option<Vec<Phase>> = phases.into_iter().collect();
    all.ok_or_else(|| not_known(program, "a job has no answer"))
}

fn not_known(program: &Path, why: impl std::fmt::Display) -> anyhow::Error {
    Fail::infra(
        format!("{} does not answer as it should", program.display()),
        why.to_string(),
        "this is a fault of the simulator",
    )
}

/// Runs the program with `input` and hands on each line that it says.
fn talk(program: &Path, input: &[u8], mut line: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let pipe = || os_pipe::pipe().context("cannot create a pipe");
    let ((read, mut to), (from, write), (mut errors, error)) = (pipe()?, pipe()?, pipe()?);
    let cmd = Cmd::new(program);
    let job = cmd.spawn(Io::PipeIn(read), Io::Pipe(write), Io::Pipe(error))?;
    // A program that reads no more has a reason, which it tells below.
    let _ = to.write_all(input);
    drop(to);
    for said in BufReader::new(from).lines() {
        line(&said.with_context(|| format!("cannot read the output of '{}'", cmd.quoted()))?)?;
    }
    let mut why = String::new();
    let _ = errors.read_to_string(&mut why);
    let status = job.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(Fail::infra(
        format!("'{}' failed ({})", cmd.quoted(), describe(status)),
        why.trim().lines().last().unwrap_or(""),
        "",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;
    use fpt_walksim_machine::config;
    use fpt_walksim_machine::run::{Pattern, Run};
    use std::os::unix::fs::PermissionsExt as _;

    /// What a program that is this script makes of two jobs, the second of which is larger.
    fn stand_in(script: &str) -> Result<(Vec<Phase>, Vec<usize>)> {
        let dir = tempfile::tempdir()?;
        let program = dir.path().join("fpt-sweep");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let machine = config::resolve("emt", None, &[])?;
        let job = |footprint| {
            let run = Run {
                mode: Mode::Radix,
                pattern: Pattern::Gups,
                footprint,
                accesses: 1000,
                seed: 1,
            };
            Job::new(&machine, run)
        };
        let mut seen = Vec::new();
        let phases = run(&program, &[job(1 << 26), job(1 << 27)], 1, |n| seen.push(n))?;
        Ok((phases, seen))
    }

    /// A line for the job at this place, whose phase has this name.
    fn line(job: usize, name: &str) -> String {
        let phase = Phase {
            name: name.to_owned(),
            ..Phase::default()
        };
        let done = Done {
            job,
            phase: Ok(phase),
        };
        let text = serde_json::to_string(&done).unwrap();
        format!("echo '{text}'")
    }

    #[test]
    fn answers_find_their_jobs() {
        let script = format!("cat >/dev/null\n{}\n{}", line(1, "small"), line(0, "large"));
        let (phases, seen) = stand_in(&script).unwrap();
        let names: Vec<&str> = phases.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["small", "large"]);
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn a_program_that_fails_is_heard() {
        for (script, why) in [
            (
                "echo 'error: no memory' >&2; exit 3".to_owned(),
                "no memory",
            ),
            ("cat >/dev/null; kill -9 $$".to_owned(), "signal 9"),
            (
                format!("cat >/dev/null; {}", line(0, "large")),
                "a job has no answer",
            ),
            ("cat >/dev/null; echo 7".to_owned(), "does not answer"),
            (
                r#"cat >/dev/null; echo '{"job":0,"phase":{"Err":"walks: 1 is not 2"}}'"#
                    .to_owned(),
                "walks: 1 is not 2",
            ),
        ] {
            let said = format!("{:#}", stand_in(&script).unwrap_err());
            assert!(said.contains(why), "{script}: {said}");
        }
    }
}
