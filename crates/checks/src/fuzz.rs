// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: `selftests/fpt/fpt_fuzz` in guests. Random calls, and a model in the program that says what
//! each page must hold: a judge that shares no code with any kernel. The last quarter of the time is for threads.
//! Each failure is kept once, kernel warnings are failures, and page tables must be back at the start's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use fpt_init::proto::Exec;
use serde::Serialize;

use super::counts::{self, Counts};
use super::list;
use fpt_geometry::Boot;
use fpt_kbuild::modes;
use fpt_kit::{code, fail, lanes, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::{self, GuestOptions, Plan};
use fpt_lab::process_mode;
use fpt_lab::subject::{self, Kernels, OtherKernel, Subject};
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::console::Allow;
use fpt_vm::qemu::Spec;
use fpt_vm::vm::{self, Guest};

/// Where the program stands in the guest.
const FOLDER: &str = "/selftests/fpt";
/// What the first run allocates for good is not to be measured.
const WARM_UP: &str = "300";
/// The program stops at a failure and goes on with another seed, but not for ever.
const FAILURES_MOST: usize = 5;
/// Shrinking takes the program 90 seconds at most, and the runs before and after it some more.
const SHRINK_S: u64 = 400;
/// Under mixed each run has another mode: so many runs, but none shorter than that, in seconds.
const MIXED_TURNS: u64 = 12;
const MIXED_TURN_S: u64 = 3;
/// No kind of call may be more of the steps than that.
const SHARE_MOST: f64 = 0.20;
/// From so many steps on each call must have been made.
const STEPS_FOR_ALL: i64 = 20_000;
/// Those calls that some kernels or processors have not.
const OPTIONAL: [&str; 6] = [
    "demote",
    "madv_flatten",
    "madv_unflatten",
    "pkey_mprotect",
    "pkey_rights",
    "uffd_move",
];

/// Random calls against a model that says what memory must hold.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', required_unless_present = "kernel", value_parser = modes::BootParser)]
    mode: Vec<Boot>,
    /// This kernel, too, or alone without --mode
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Option<OtherKernel>,
    /// Minutes of each mode
    #[arg(long, value_name = "N", default_value = "1", value_parser = counts::minutes, allow_negative_numbers = true)]
    minutes: f64,
    /// Of the random numbers [default: from the clock]
    #[arg(long)]
    seed: Option<u32>,
    #[command(flatten)]
    guests: GuestOptions,
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let subjects = Subject::asked_for(args.guests.profile, &args.mode, args.kernel)?;
    let fuzz = Fuzz {
        seconds: (args.minutes * 60.0).round() as u64,
        seed: args.seed.unwrap_or_else(counts::clock_seed),
        plan: args.guests.plan(ctx)?,
    };
    let (parts, unpatched) = plan::parts_of(ctx, args.guests.profile, &subjects)?;
    let kernels = Kernels {
        ours: &parts.kernel,
        unpatched: unpatched.as_ref(),
    };
    if ctx.dry_run {
        for &subject in &subjects {
            let spec = fuzz.spec(&parts, kernels, subject)?;
            ctx.ui
                .command(&spec.command(&parts.qemu, &std::env::temp_dir().join("fpt")));
        }
        return Ok(code::OK);
    }
    ctx.ui
        .info(&subject::described(&subjects, &args.guests.append));
    let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
    let run = RunDir::new(ctx, "fuzz")?;
    parts.record(&run);
    if let Some(kernel) = &unpatched {
        run.set("kernel_unpatched", parts::kernel_facts(kernel));
    }
    rundir::recorded(&run, || {
        let site = Site {
            ctx,
            run: &run,
            parts: &parts,
            kernels,
            allow: &allow,
        };
        let mut report = fuzz.all(&site, &subjects)?;
        report.cases.extend(fuzz.plan.sanitizer_cases(&run));
        run.results(&report)?;
        print_failures(ctx, &report);
        ctx.ui
            .info(&format!("log: {}", run.path.join("fuzz.txt").display()));
        Ok(report.conclude())
    })
}

/// What is to be done with each subject.
#[derive(Debug, Clone)]
pub struct Fuzz {
    /// How long each guest is busy, in seconds.
    pub seconds: u64,
    /// Where random numbers begin; equal seeds give equal calls.
    pub seed: u32,
    /// The guests.
    pub plan: Plan,
}

/// What a run of the fuzzer works with.
pub struct Site<'a> {
    /// What every command has.
    pub ctx: &'a Ctx,
    /// The run folder.
    pub run: &'a RunDir,
    /// Kernel, QEMU and root file system.
    pub parts: &'a Parts,
    /// The kernels that are compared.
    pub kernels: Kernels<'a>,
    /// Complaints of the kernel that are allowed.
    pub allow: &'a [Allow],
}

/// A mismatch, with the report of the first time.
#[derive(Debug, Clone, Serialize)]
struct Mismatch {
    times: u32,
    report: String,
}

/// One guest's story.
#[derive(Debug, Clone, Serialize)]
struct Story {
    subject: Subject,
    began_utc: String,
    ended_utc: String,
    uname: String,
    seed: u32,
    /// What the program counted, all runs together.
    counts: Counts,
    /// By what is wrong, without its numbers.
    mismatches: BTreeMap<String, Mismatch>,
    /// Change of the kernel's counters.
    kernel: Counts,
    start: Counts,
    end: Counts,
    outcome: String,
    /// Runs of the program.
    programs: usize,
}

/// The program's lines `fuzz NAME NUMBER`.
fn program_counts(text: &str) -> Counts {
    let lines = text.lines().filter_map(|l| l.strip_prefix("fuzz "));
    counts::counts(&lines.collect::<Vec<_>>().join("\n"))
}

/// What is wrong, without what differs each time; `None`: no mismatch.
fn signature(text: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix("# MISMATCH "))?;
    // `seed N step N (CALL): WHAT; page ...`
    let what = line.split_once("): ").map_or(line, |(_, what)| what);
    let what = what.split(';').next().unwrap_or(what);
    let words = what
        .split_whitespace()
        .filter(|w| !w.contains(|c: char| c.is_ascii_digit()));
    Some(words.collect::<Vec<_>>().join(" "))
}

impl Story {
    /// It begins now.
    fn new(subject: Subject, seed: u32) -> Story {
        Story {
            subject,
            began_utc: rundir::utc(SystemTime::now()),
            ended_utc: String::new(),
            uname: String::new(),
            seed,
            counts: Counts::new(),
            mismatches: BTreeMap::new(),
            kernel: Counts::new(),
            start: Counts::new(),
            end: Counts::new(),
            outcome: String::new(),
            programs: 0,
        }
    }

    fn add(&mut self, text: &str) {
        for (name, n) in program_counts(text) {
            if name != "seed" && name != "mismatch" {
                *self.counts.entry(name).or_insert(0) += n;
            }
        }
        if let Some(what) = signature(text) {
            let report: Vec<&str> = text.lines().filter(|l| !l.starts_with("fuzz ")).collect();
            self.mismatches
                .entry(what)
                .or_insert(Mismatch {
                    times: 0,
                    report: report.join("\n"),
                })
                .times += 1;
        }
    }

    fn calls(&self) -> impl Iterator<Item = (&str, i64)> {
        let calls = self.counts.iter();
        calls.filter_map(|(name, n)| Some((name.strip_prefix("call_")?, *n)))
    }

    fn count(&self, name: &str) -> i64 {
        counts::count(&self.counts, name)
    }
}

impl Fuzz {
    /// What `cargo xtask test` does with each subject.
    pub fn short(seconds: u64) -> Fuzz {
        Fuzz {
            seconds,
            // A change is judged by the same sequences as the one before it; new ones are
            // tried by hand, where the seed is the clock's.
            seed: 1,
            plan: Plan {
                mem: "2G".into(),
                ..Plan::default()
            },
        }
    }

    fn spec(&self, parts: &Parts, kernels: Kernels, subject: Subject) -> Result<Spec> {
        Ok(self.plan.spec_of(parts, kernels.of(subject)?, subject))
    }

    /// Every subject in a guest of its own, two at a time; the log is written in any case.
    pub fn all(&self, site: &Site, subjects: &[Subject]) -> Result<Report> {
        site.run.set("seed", self.seed);
        let done = lanes::each(site.ctx.guests_or(2), subjects.iter().copied(), |subject| {
            let one = One {
                fuzz: self,
                site,
                subject,
            };
            one.whole()
        });
        let (stories, cases): (Vec<Story>, Vec<Vec<Case>>) = done.into_iter().unzip();
        let Site { run, parts, .. } = *site;
        let log = serde_json::json!({
            "schema": 1,
            "seconds": self.seconds,
            "kernel": { "version": parts.kernel.version, "hash": parts.kernel.hash },
            "qemu": { "version": parts.qemu.version, "hash": parts.qemu.hash },
            "smp": self.plan.smp,
            "mem": self.plan.mem,
            "reproduce": rundir::reproducer(),
            "subjects": stories,
        });
        let json = format!("{}\n", serde_json::to_string_pretty(&log)?);
        store::write_atomic(&run.path.join("fuzz.json"), json.as_bytes())?;
        let text = self.text(parts, &stories);
        store::write_atomic(&run.path.join("fuzz.txt"), text.as_bytes())?;
        Ok(Report {
            cases: cases.into_iter().flatten().collect(),
        })
    }

    /// The log for people.
    fn text(&self, parts: &Parts, stories: &[Story]) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let _ = writeln!(
            out,
            "kernel {} {}\nqemu {} {}\n{} s each, {} CPUs, {}, seed {}\n{}",
            parts.kernel.version,
            parts.kernel.hash,
            parts.qemu.version,
            parts.qemu.hash,
            self.seconds,
            self.plan.smp,
            self.plan.mem,
            self.seed,
            rundir::reproducer(),
        );
        for story in stories {
            let _ = writeln!(
                out,
                "\n== {}: {} to {}: {}",
                story.subject, story.began_utc, story.ended_utc, story.outcome
            );
            let steps = story.count("steps");
            for name in [
                "steps",
                "checks",
                "full_checks",
                "table_checks",
                "faults",
                "children",
            ] {
                let _ = writeln!(out, "{name:<28}{:>14}", story.count(name));
            }
            for (name, n) in story.calls() {
                let share = 100.0 * n as f64 / steps.max(1) as f64;
                let _ = writeln!(out, "{name:<28}{n:>14} {share:>6.2} %");
            }
            for (name, n) in story.kernel.iter().filter(|(_, n)| **n != 0) {
                let _ = writeln!(out, "{name:<28}{n:>14}");
            }
            for (what, m) in &story.mismatches {
                let _ = writeln!(out, "-- {} times: {what}\n{}", m.times, m.report);
            }
        }
        out
    }
}

/// One subject.
struct One<'a> {
    fuzz: &'a Fuzz,
    site: &'a Site<'a>,
    subject: Subject,
}

impl One<'_> {
    /// The story and the cases, also of a guest that died.
    fn whole(&self) -> (Story, Vec<Case>) {
        let start = Instant::now();
        let suite = format!("fuzz/{}", self.subject);
        let mut story = Story::new(self.subject, self.fuzz.seed);
        let mut guest = None;
        let result = self.story(&mut guest, &mut story);
        let mut cases = model_cases(&suite, &story);
        match result {
            Ok(()) => {
                story.outcome = counts::IN_ORDER.into();
                cases.extend(self.end_cases(&suite, &story));
            }
            Err(err) => {
                let name = if vm::is_guest_end(&err) {
                    "the guest lives to the end"
                } else {
                    "guest"
                };
                story.outcome = fail::report(&err).0;
                cases.push(Case::failed(&suite, name, story.outcome.clone(), 0));
            }
        }
        if let Some(guest) = guest {
            cases.extend(self.warnings(&suite, &guest));
        }
        if let Some(first) = cases.first_mut() {
            first.ms = start.elapsed().as_millis() as u64;
        }
        let failed = cases.iter().filter(|c| c.outcome == Outcome::Failed);
        let failed = failed.count();
        if failed > 0 && story.outcome == counts::IN_ORDER {
            story.outcome = format!("{failed} cases failed");
        }
        story.ended_utc = rundir::utc(SystemTime::now());
        (story, cases)
    }

    fn story(&self, slot: &mut Option<Guest>, story: &mut Story) -> Result<()> {
        let Site {
            ctx,
            run,
            parts,
            kernels,
            ..
        } = *self.site;
        let mut spec = self.fuzz.spec(parts, kernels, self.subject)?;
        let label = format!("fuzz-{}", self.subject);
        self.fuzz.plan.watch(run, &label, &parts.qemu, &mut spec);
        let stage = ctx.ui.stage(&format!(
            "fuzz {} for {} s",
            self.subject, self.fuzz.seconds
        ));
        let guest = slot.insert(Guest::start(ctx, run, &parts.qemu, &spec, &label)?);
        guest.wait_ready(None)?;
        self.subject.check(guest)?;
        story.uname = guest.boot.uname.clone();
        counts::ask(guest, &["fpt-fuzz", "setup"])?;
        self.program(guest, story, &["-n", WARM_UP, "-s", "1"], 60)?;
        story.start = counts::state(guest)?;
        let begin = Instant::now();
        let threads_from = self.fuzz.seconds - self.fuzz.seconds / 4;
        for (threads, until) in [("1", threads_from), ("3", self.fuzz.seconds)] {
            let mut n = 0;
            while story.mismatches.len() < FAILURES_MOST {
                let left = until.saturating_sub(begin.elapsed().as_secs());
                if left == 0 {
                    break;
                }
                let left = left.min(self.turn_s());
                let (left_s, seed) = (left.to_string(), self.fuzz.seed.wrapping_add(n).to_string());
                self.program(
                    guest,
                    story,
                    &["-j", threads, "-t", &left_s, "-s", &seed],
                    left,
                )?;
                stage.note(&format!(
                    "{}: {} steps, {} checks, {} mismatches",
                    self.subject,
                    story.count("steps"),
                    story.count("checks"),
                    story.mismatches.values().map(|m| m.times).sum::<u32>(),
                ));
                n += 1;
            }
        }
        story.kernel = counts::change(&story.start, &counts::state(guest)?);
        // Everything but process 1 ends here.
        guest.run(Exec {
            argv: vec!["true".into()],
            solo: true,
            timeout_s: 60,
            ..Exec::default()
        })?;
        counts::ask(guest, &["fpt-fuzz", "finish"])?;
        let give_up = Instant::now() + counts::SETTLE;
        loop {
            story.end = counts::state(guest)?;
            if counts::left_over(&story.start, &story.end).is_empty() || Instant::now() >= give_up {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        guest.quit()?;
        stage.done("");
        Ok(())
    }

    /// Seconds of one run at most: under mixed every mode has its turns.
    fn turn_s(&self) -> u64 {
        match self.subject.tables() {
            Boot::Mode(_) => self.fuzz.seconds,
            Boot::Mixed => (self.fuzz.seconds / MIXED_TURNS).max(MIXED_TURN_S),
        }
    }

    /// One run of the program: 0 is good, 1 a mismatch that it reports, everything else a mistake.
    fn program(
        &self,
        guest: &mut Guest,
        story: &mut Story,
        args: &[&str],
        seconds: u64,
    ) -> Result<()> {
        let mut argv = vec!["./fpt_fuzz".to_string(), "-R".to_string()];
        argv.extend(args.iter().map(|a| a.to_string()));
        let argv = process_mode::dealt(self.subject.tables(), story.programs, argv);
        story.programs += 1;
        let line = argv.join(" ");
        let (exit, text) = guest.run(Exec {
            argv,
            cwd: Some(FOLDER.into()),
            timeout_s: seconds + SHRINK_S,
            mark: Some("fuzz".into()),
            ..Exec::default()
        })?;
        let log = format!("fuzz-{}.log", self.subject);
        self.site.run.append(&log, &format!("$ {line}\n{text}"))?;
        let judged = matches!((exit.status(), signature(&text)), (0, None) | (1, Some(_)));
        if !judged || !text.contains("\nfuzz mismatches ") {
            return Err(Fail::test(
                format!("'{line}' ended with {}", exit.status()),
                counts::last_lines(&text),
                format!("see {log} in the run folder"),
            ));
        }
        story.add(&text);
        Ok(())
    }

    /// Were flattened tables there, and is everything given back?
    fn end_cases(&self, suite: &str, story: &Story) -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in self.subject.tables().kinds() {
            let name = format!("{kind} nodes were made");
            let n = counts::count(&story.kernel, &format!("{kind}_installs"));
            cases.push(if n > 0 {
                Case::new(suite, &name, Outcome::Passed, n.to_string(), 0)
            } else {
                Case::failed(suite, &name, "none", 0)
            });
        }
        if self.subject.is_flat() {
            let name = "tables were verified";
            cases.push(match story.count("table_checks") {
                n if n > 0 => Case::new(suite, name, Outcome::Passed, n.to_string(), 0),
                _ => Case::failed(suite, name, "fpt/check was never read (too short?)", 0),
            });
        }
        let swapped = counts::count(&story.kernel, "pswpout");
        cases.push(if swapped > 0 {
            Case::new(
                suite,
                "pages were swapped",
                Outcome::Passed,
                swapped.to_string(),
                0,
            )
        } else {
            Case::failed(suite, "pages were swapped", "none (too short?)", 0)
        });
        cases.extend(counts::left_cases(suite, &story.start, &story.end));
        cases
    }

    /// Each kernel warning once, however often it came.
    fn warnings(&self, suite: &str, guest: &Guest) -> Vec<Case> {
        let mut lines: BTreeMap<String, (String, u32)> = BTreeMap::new();
        for splat in guest.splats(self.site.allow) {
            let words = splat.line.split_whitespace();
            let words = words.filter(|w| !w.contains(|c: char| c.is_ascii_digit()));
            let key = words.collect::<Vec<_>>().join(" ");
            lines.entry(key).or_insert((splat.line, 0)).1 += 1;
        }
        if lines.is_empty() {
            return vec![Case::passed(suite, "no kernel warnings", 0)];
        }
        let case = |(line, n): (String, u32)| {
            Case::failed(suite, "kernel warning", format!("{n} times: {line}"), 0)
        };
        lines.into_values().map(case).collect()
    }
}

/// What the program found, and whether it did what it is for.
fn model_cases(suite: &str, story: &Story) -> Vec<Case> {
    let steps = story.count("steps");
    let mut cases: Vec<Case> = story
        .mismatches
        .iter()
        .map(|(what, m)| {
            let detail = format!("{} times; the first:\n{}", m.times, m.report);
            Case::failed(suite, &format!("mismatch: {what}"), detail, 0)
        })
        .collect();
    let name = "memory is what the model says";
    if cases.is_empty() {
        cases.push(match steps {
            0 => Case::failed(suite, name, "no step was made", 0),
            n => {
                let said = format!("{n} steps, {} checks", story.count("checks"));
                Case::new(suite, name, Outcome::Passed, said, 0)
            }
        });
    }
    if steps < STEPS_FOR_ALL {
        return cases;
    }
    let never: Vec<&str> = story
        .calls()
        .filter(|(name, n)| *n == 0 && !OPTIONAL.contains(name))
        .map(|(name, _)| name)
        .collect();
    let often: Vec<&str> = story
        .calls()
        .filter(|(_, n)| *n as f64 > SHARE_MOST * steps as f64)
        .map(|(name, _)| name)
        .collect();
    for (name, wrong) in [
        ("each call was made", never),
        ("no call is too frequent", often),
    ] {
        cases.push(if wrong.is_empty() {
            Case::passed(suite, name, 0)
        } else {
            Case::failed(suite, name, wrong.join(", "), 0)
        });
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "fuzz mismatch 1\n\
        # MISMATCH seed 62 step 639 (mmap_anon): read: expected signal 11, got 0; page 0x1200 (cell 3): none\n\
        # minimal sequence of 4 steps:\nfuzz steps 671\nfuzz call_munmap 30\nfuzz mismatches 1\n";

    #[test]
    fn each_mismatch_is_kept_once() {
        let mut story = Story::new(Subject::Unpatched, 7);
        let other = BAD.replace("0x1200", "0x99000").replace("639", "7");
        for text in [BAD, &other, &BAD.replace("read:", "write:")] {
            story.add(text);
        }
        let times: Vec<u32> = story.mismatches.values().map(|m| m.times).collect();
        assert_eq!(times, [2, 1]);
        assert_eq!(story.count("steps"), 3 * 671);
        assert_eq!(story.calls().collect::<Vec<_>>(), [("munmap", 90)]);
        assert_eq!(signature("fuzz steps 3\nfuzz mismatches 0\n"), None);
    }

    #[test]
    fn what_was_never_called_or_too_often_is_red() {
        let mut story = Story::new(Subject::Unpatched, 7);
        let red = |story: &Story| -> Vec<String> {
            let cases = model_cases("x", story);
            let red = cases.iter().filter(|c| c.outcome == Outcome::Failed);
            red.map(|c| c.name.clone()).collect()
        };
        assert_eq!(red(&story), ["memory is what the model says"]);
        story.add("fuzz steps 30000\nfuzz call_a 6001\nfuzz call_b 0\nfuzz call_demote 0\n");
        assert_eq!(
            red(&story),
            ["each call was made", "no call is too frequent"]
        );
        story.add("fuzz steps 30000\nfuzz call_a 10\nfuzz call_b 1\n");
        assert_eq!(red(&story), [""; 0]);
    }
}
