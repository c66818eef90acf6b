// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask stress`: a guest under everything at once for minutes: stress-ng's vm class, fork and exec
//! storms, memory pressure with swap, merging, compaction, memory taken out and put back, nodes turned into
//! conventional tables, threads that check what they wrote. The second half of the time allocations of nodes
//! fail at random. In the end everything is killed, and page tables must be what they were at the start. A stressor
//! that fails runs again on the unpatched kernel, which tells our failures from stress-ng's and the kernel's own.
//!
//! What runs is decided here, from a seed; `stress.sh` is the guest's side.

mod guest;
mod scenario;
mod story;

use std::collections::BTreeSet;
use std::path::Path;

use fpt_geometry::Boot;
use fpt_kbuild::build::Profile;
use fpt_kbuild::image;
use fpt_kbuild::modes;
use fpt_kit::fail::did_you_mean;
use fpt_kit::say;
use fpt_kit::{code, fail, lanes, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::{self, GuestOptions, Plan};
use fpt_lab::subject::{self, Kernels, OtherKernel, Subject};
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::console::Allow;
use fpt_vm::qemu::Spec;

use super::counts::{clock_seed, minutes, LEFT};
use super::list;
use guest::One;
use scenario::{Scenario, Stressor, Turn, EXCLUDED};
use story::{failed_stressors, on_unpatched, suite, tail_word, Story};

/// The package with the stressors.
const PACKAGE: &str = "stress-ng";

/// What failed has so long on the unpatched kernel, each; and all together.
const AGAIN_S: u64 = 40;
const AGAIN_MOST_S: u64 = 240;

/// Everything at once for minutes in each mode; page tables must all be given back.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', required_unless_present_any = ["kernel", "list"], value_parser = modes::BootParser)]
    mode: Vec<Boot>,
    /// This kernel, too, or alone without --mode
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Option<OtherKernel>,
    /// Minutes of each mode; half of them with failing allocations
    #[arg(long, value_name = "N", default_value = "2", value_parser = minutes, allow_negative_numbers = true)]
    minutes: f64,
    /// Share of order-9 allocations that fail in the second half; 0: none, and no second half
    #[arg(long, value_name = "PERCENT", default_value_t = 50, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=100))]
    fail_order9: u32,
    /// Only this scenario, or this stressor of stress-ng (may be given several times)
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Order of the stressors and their random numbers [default: from the clock]
    #[arg(long)]
    seed: Option<u32>,
    /// Print scenarios and excluded stressors, and stop
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    guests: GuestOptions,
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    if args.list {
        for scenario in Scenario::ALL {
            say!("\n", "{scenario:<10}{}", scenario.about());
        }
        for (name, why) in EXCLUDED {
            say!("\n", "not run: {name}: {why}");
        }
        return Ok(code::OK);
    }
    let subjects = Subject::asked_for(args.guests.profile, &args.mode, args.kernel)?;
    let stress = Stress {
        seconds: (args.minutes * 60.0).round() as u64,
        fail_percent: args.fail_order9,
        choice: choice(&args.only)?,
        seed: args.seed.unwrap_or_else(clock_seed),
        plan: args.guests.plan(ctx)?,
        // The other profiles are configured otherwise: what fails in them need not fail on the unpatched kernel.
        tell_apart: args.guests.profile == Profile::Fpt,
    };
    let (parts, unpatched) = plan::parts_of(ctx, args.guests.profile, &subjects)?;
    let disk = disk(ctx)?;
    let kernels = Kernels {
        ours: &parts.kernel,
        unpatched: unpatched.as_ref(),
    };
    if ctx.dry_run {
        for subject in subjects {
            ctx.ui.command(
                &stress
                    .spec(&parts, kernels, &disk, subject)?
                    .command(&parts.qemu, &std::env::temp_dir().join("fpt")),
            );
        }
        return Ok(code::OK);
    }
    ctx.ui
        .info(&subject::described(&subjects, &args.guests.append));
    let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
    let run = RunDir::new(ctx, "stress")?;
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
            disk: &disk,
            allow: &allow,
        };
        let mut report = stress.all(&site, &subjects)?;
        report.cases.extend(stress.plan.sanitizer_cases(&run));
        run.results(&report)?;
        print_failures(ctx, &report);
        ctx.ui
            .info(&format!("log: {}", run.path.join("stress.txt").display()));
        Ok(report.conclude())
    })
}

/// The disk image with stress-ng. `FPT_STRESS_IMAGE` names one to use as it is.
pub fn disk(ctx: &Ctx) -> Result<std::path::PathBuf> {
    match parts::named("FPT_STRESS_IMAGE", "disk image")? {
        Some(path) => Ok(path),
        None => image::image(ctx, &[PACKAGE]),
    }
}

/// Scenarios are checked; any other word may be a stressor, which only the guest's stress-ng can tell.
fn choice(words: &[String]) -> Result<Choice> {
    for word in words {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some((_, why)) = EXCLUDED.iter().find(|e| e.0 == word) {
            return Err(Fail::usage(
                format!("stressor '{word}' is excluded"),
                *why,
                "`cargo xtask stress --list` shows what is",
            ));
        }
        if word.is_empty() || !word.chars().all(plain) {
            return Err(Fail::usage(
                format!("'{word}' is no scenario and no stressor"),
                "",
                match did_you_mean(word, Scenario::ALL.map(Scenario::name)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => "`cargo xtask stress --list` shows the scenarios".to_string(),
                },
            ));
        }
    }
    Ok(match words {
        [] => Choice::All,
        words => Choice::Words(words.to_vec()),
    })
}

/// What of all that there is runs.
#[derive(Debug, Clone)]
enum Choice {
    All,
    /// Scenarios and stressors.
    Words(Vec<String>),
    Stressors(BTreeSet<Stressor>),
}

impl Choice {
    fn words(&self) -> Vec<String> {
        match self {
            Choice::All => Vec::new(),
            Choice::Words(words) => words.clone(),
            Choice::Stressors(all) => all.iter().map(|(s, name)| format!("{s} {name}")).collect(),
        }
    }
}

/// What is to be done in each subject.
#[derive(Debug, Clone)]
pub struct Stress {
    seconds: u64,
    fail_percent: u32,
    choice: Choice,
    seed: u32,
    plan: Plan,
    /// What fails runs again on the unpatched kernel.
    tell_apart: bool,
}

/// What a run of stress works with.
pub struct Site<'a> {
    /// What every command has.
    pub ctx: &'a Ctx,
    /// The run folder.
    pub run: &'a RunDir,
    /// Kernel, QEMU and root file system.
    pub parts: &'a Parts,
    /// The kernels that are compared.
    pub kernels: Kernels<'a>,
    /// The image of the guests' disk.
    pub disk: &'a Path,
    /// Complaints of the kernel that are allowed.
    pub allow: &'a [Allow],
}

impl Stress {
    /// What `cargo xtask test` does in each mode.
    pub fn short(seconds: u64) -> Stress {
        Stress {
            seconds,
            fail_percent: 50,
            choice: Choice::All,
            seed: clock_seed(),
            plan: Plan {
                mem: "2G".into(),
                ..Plan::default()
            },
            tell_apart: true,
        }
    }

    fn spec(&self, parts: &Parts, kernels: Kernels, disk: &Path, subject: Subject) -> Result<Spec> {
        let mut spec = self.plan.spec_of(parts, kernels.of(subject)?, subject);
        spec.drives.push(disk.to_path_buf());
        if self.wants(Scenario::Hotplug) {
            // Only what cannot hold page tables can be taken out for sure.
            spec.append.insert(0, "movablecore=25%".into());
        }
        Ok(spec)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        match &self.choice {
            Choice::All => true,
            Choice::Words(words) => words.iter().any(|w| w == scenario.name()),
            Choice::Stressors(all) => all.iter().any(|s| s.0 == scenario),
        }
    }

    /// Is this stressor of a scenario chosen?
    fn wants_turn(&self, turn: &Turn) -> bool {
        match &self.choice {
            Choice::All => true,
            Choice::Words(words) => self.wants(turn.scenario) || words.contains(&turn.name),
            Choice::Stressors(all) => all.contains(&(turn.scenario, turn.name.clone())),
        }
    }

    /// Every subject in a guest of its own, two at a time; the log is written in any case.
    pub fn all(&self, site: &Site, subjects: &[Subject]) -> Result<Report> {
        let Site { run, parts, .. } = *site;
        run.set("seed", self.seed);
        let done = lanes::each(site.ctx.guests_or(2), subjects.iter().copied(), |subject| {
            self.one(site, subject, &format!("stress-{subject}"))
        });
        let (mut stories, cases): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let mut report = Report {
            cases: cases.into_iter().flatten().collect(),
        };
        if self.tell_apart {
            stories.extend(self.tell_apart(site, &stories, &mut report));
        }
        let log = serde_json::json!({
            "schema": 1,
            "seconds": self.seconds,
            "fail_order9_percent": self.fail_percent,
            "only": self.choice.words(),
            "kernel": { "version": parts.kernel.version, "hash": parts.kernel.hash },
            "qemu": { "version": parts.qemu.version, "hash": parts.qemu.hash },
            "smp": self.plan.smp,
            "mem": self.plan.mem,
            "reproduce": rundir::reproducer(),
            "modes": stories,
        });
        let text = serde_json::to_string_pretty(&log)?;
        store::write_atomic(
            &run.path.join("stress.json"),
            format!("{text}\n").as_bytes(),
        )?;
        store::write_atomic(
            &run.path.join("stress.txt"),
            self.text(parts, &stories).as_bytes(),
        )?;
        Ok(report)
    }

    fn one(&self, site: &Site, subject: Subject, label: &str) -> (Story, Vec<Case>) {
        let one = One {
            stress: self,
            site,
            subject,
            label,
        };
        one.whole()
    }

    /// Whose failure is it? What failed in one of our modes runs again on the unpatched kernel, and its case says what
    /// came of that. It stays red: what fails there, too, belongs into the list of the excluded, with its reason.
    fn tell_apart(&self, site: &Site, stories: &[Story], report: &mut Report) -> Option<Story> {
        let ours = |s: &&Story| s.subject != Subject::Unpatched;
        let suites: BTreeSet<String> = (stories.iter().filter(ours))
            .map(|s| suite(s.subject))
            .collect();
        let ours = stories.iter().filter(ours);
        let failed: BTreeSet<Stressor> = ours.flat_map(failed_stressors).collect();
        if failed.is_empty() {
            return None;
        }
        let list: Vec<String> = failed
            .iter()
            .map(|(s, name)| format!("{s} {name}"))
            .collect();
        site.ctx.ui.info(&format!(
            "failed: {}; again on the unpatched kernel",
            list.join(", ")
        ));
        let seconds = (failed.len() as u64 * AGAIN_S).min(AGAIN_MOST_S);
        let again = Stress {
            // As long as it was, if that was less: a short run has short turns.
            seconds: seconds.min(self.seconds),
            choice: Choice::Stressors(failed.clone()),
            tell_apart: false,
            ..self.clone()
        };
        let story = parts::unpatched(site.ctx).map(|kernel| {
            let site = Site {
                kernels: Kernels {
                    ours: site.kernels.ours,
                    unpatched: Some(&kernel),
                },
                ..*site
            };
            again
                .one(&site, Subject::Unpatched, "stress-unpatched-again")
                .0
        });
        for stressor in &failed {
            let line = match &story {
                Err(err) => format!(
                    "nobody knows about the unpatched kernel: {}",
                    fail::report(err).0
                ),
                Ok(story) => on_unpatched(story, stressor),
            };
            let name = format!("{} {}", stressor.0, stressor.1);
            let of_ours = |c: &&mut Case| {
                c.name == name && c.outcome == Outcome::Failed && suites.contains(&c.suite)
            };
            for case in report.cases.iter_mut().filter(of_ours) {
                case.detail = format!("{line}\n{}", case.detail);
            }
        }
        story.ok().map(|story| Story {
            again: true,
            ..story
        })
    }

    /// The log for people.
    fn text(&self, parts: &Parts, stories: &[Story]) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let _ = writeln!(
            out,
            "kernel {} {}\nqemu {} {}\n{} s a mode, {} CPUs, {}, seed {}, {} % of order-9 allocations fail in the second half\n{}",
            parts.kernel.version,
            parts.kernel.hash,
            parts.qemu.version,
            parts.qemu.hash,
            self.seconds,
            self.plan.smp,
            self.plan.mem,
            self.seed,
            self.fail_percent,
            rundir::reproducer(),
        );
        for story in stories {
            let again = if story.again { ", again" } else { "" };
            let _ = writeln!(
                out,
                "\n== {}{}: {} to {}: {}",
                story.subject, again, story.began_utc, story.ended_utc, story.outcome
            );
            for (name, why) in &story.skipped {
                let _ = writeln!(out, "skipped {name}: {why}");
            }
            for (n, phase) in story.phases.iter().enumerate() {
                let _ = writeln!(
                    out,
                    "-- phase {}: {} s, {} % fail, {} failures injected",
                    n + 1,
                    phase.seconds,
                    phase.fail_percent,
                    phase.injected
                );
                for (scenario, list) in &phase.stressors {
                    for (name, t) in list {
                        let _ = writeln!(
                            out,
                            "{scenario:<9}{name:<14}{:>4} runs {:>12} bogo ops {:>7.1} s{}{}{}",
                            t.runs,
                            t.bogo_ops,
                            t.ms as f64 / 1000.0,
                            tail_word(t.not_here, "not here"),
                            tail_word(t.killed, "out of memory"),
                            tail_word(t.failed, "FAILED"),
                        );
                    }
                }
                let happened = phase.kernel.iter().filter(|(_, n)| **n != 0);
                for (name, n) in phase.loops.iter().chain(happened) {
                    let _ = writeln!(out, "{name:<28}{n:>14}");
                }
            }
            let _ = writeln!(out, "-- start and end, without process 1's own");
            for name in LEFT.iter().chain(&["free_kb", "page_tables_kb"]) {
                if let (Some(a), Some(b)) = (story.start.get(*name), story.end.get(*name)) {
                    let _ = writeln!(out, "{name:<28}{a:>14}{b:>14}");
                }
            }
        }
        out
    }
}
