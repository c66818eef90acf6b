// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask stress`: a guest under everything at once for minutes: stress-ng's vm class, fork and exec
//! storms, memory pressure with swap, merging, compaction, memory taken out and put back, nodes turned into
//! conventional tables, threads that check what they wrote. The second half of the time allocations of nodes
//! fail at random. In the end everything is killed, and page tables must be what they were at the start. A stressor
//! that fails runs again on the unpatched kernel, which tells our failures from stress-ng's and the kernel's own.
//!
//! What runs is decided here, from a seed; `stress.sh` is the guest's side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fpt_init::proto::{Ev, Exec, Op};
use serde::Serialize;

use super::list;
use fpt_geometry::Mode;
use fpt_kbuild::build::Profile;
use fpt_kbuild::image;
use fpt_kbuild::modes;
use fpt_kit::fail::did_you_mean;
use fpt_kit::say;
use fpt_kit::{code, fail, locked, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::{self, Plan};
use fpt_lab::sanitize::{self, Sanitize, Watched};
use fpt_lab::subject::{Kernels, OtherKernel, Subject};
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::console::Allow;
use fpt_vm::qemu::{self, Spec};
use fpt_vm::vm::{self, Exit, Guest};

/// The outcome of a story that nothing cut short.
pub(super) const IN_ORDER: &str = "ended in order";

/// The package with the stressors.
const PACKAGE: &str = "stress-ng";

/// A scenario, and what it is.
const SCENARIOS: [(&str, &str); 9] = [
    ("vm", "stress-ng's class vm"),
    ("storm", "processes that are made and replaced"),
    ("swap", "more memory than a group may have, with swap"),
    ("ksm", "pages that are merged and unmerged"),
    ("threads", "fpt_stress: threads that check what they wrote"),
    ("compact", "compaction of all memory, again and again"),
    ("hotplug", "blocks of memory taken out and put back"),
    ("demote", "nodes turned into conventional tables"),
    (
        CHECK,
        "the tables of every process verified, whatever else runs",
    ),
];

/// The scenario that only judges: it runs whatever was chosen.
const CHECK: &str = "check";

/// Members of class vm that do not run, and why.
const EXCLUDED: [(&str, &str); 2] = [
    (
        "mlockmany",
        "stress-ng itself holds it back: it may hang a machine",
    ),
    (
        "watchdog",
        "stress-ng itself holds it back: it is about a device that resets the machine",
    ),
];

/// Not as root: madvise would poison its own pages and call the SIGBUS a failure, in radix too; the others refuse.
const AS_USER: [&str; 3] = ["madvise", "exec", "spawn"];

/// stress-ng's makers of processes.
const STORM: [&str; 5] = ["fork", "vfork", "clone", "exec", "spawn"];

/// stress-ng in a memory cgroup that is smaller than what it uses.
const SWAP: [(&str, &[&str]); 2] = [
    ("vm", &["--vm-bytes", "160M", "--vm-keep"]),
    ("mmap", &["--mmap-bytes", "160M"]),
];

/// Pages with equal contents, for merging.
const KSM: (&str, &[&str]) = (
    "vm",
    &[
        "--vm-bytes",
        "32M",
        "--vm-madvise",
        "mergeable",
        "--vm-method",
        "zero-one",
        // Once written, nothing changes it but merging.
        "--vm-hang",
        "0",
    ],
);

/// Page tables that may be more or fewer in the end, in KiB: CPUs count in batches.
const SLACK_KB: i64 = 64;
/// So long the last state may take to become what it was at the start, but no longer than the run was.
pub(super) const SETTLE: Duration = Duration::from_secs(20);
/// The kernel looks at a page twice before it merges it, at its leisure.
const MERGE_S: u64 = 12;
/// What failed has so long on the unpatched kernel, each; and all together.
const AGAIN_S: u64 = 40;
const AGAIN_MOST_S: u64 = 240;
/// After its own time a stressor may clean up so long.
const GRACE_S: u64 = 100;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', required_unless_present_any = ["kernel", "list"], value_parser = modes::Parser)]
    mode: Vec<Mode>,
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
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    smp: u32,
    /// Memory of each guest
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    mem: String,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    // No doc comment: rustdoc would take the brackets for links.
    #[arg(long, value_name = "tlb", help = sanitize::HELP)]
    sanitize: Option<Sanitize>,
}

/// Time enough to do something, and a day at most.
pub(super) fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if (0.05..=1440.0).contains(&n) => Ok(n),
        _ => Err("it takes a number of minutes from 0.05 to 1440".into()),
    }
}

pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    if args.list {
        for (name, what) in SCENARIOS {
            say!("\n", "{name:<10}{what}");
        }
        for (name, why) in EXCLUDED {
            say!("\n", "not run: {name}: {why}");
        }
        return Ok(code::OK);
    }
    let subjects = Subject::asked_for(args.profile, &args.mode, args.kernel)?;
    qemu::check_size(&args.mem)?;
    let stress = Stress {
        seconds: (args.minutes * 60.0).round() as u64,
        fail_percent: args.fail_order9,
        choice: choice(&args.only)?,
        seed: args.seed.unwrap_or_else(clock_seed),
        plan: Plan {
            smp: args.smp,
            mem: args.mem.clone(),
            append: args.append.clone(),
            sanitize: Watched::new(ctx, args.sanitize.as_ref(), &args.mem)?,
            ..Plan::default()
        },
        // The other profiles are configured otherwise: what fails in them need not fail on the unpatched kernel.
        tell_apart: args.profile == Profile::Fpt,
    };
    let unpatched = match subjects.contains(&Subject::Unpatched) {
        true => Some(parts::unpatched(ctx)?),
        false => None,
    };
    // Without a mode nobody needs the image.
    let ours = match unpatched.clone().filter(|_| subjects.len() == 1) {
        Some(kernel) => kernel,
        None => parts::kernel(ctx, args.profile)?,
    };
    let parts = plan::build_parts(ctx, ours)?;
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
                match did_you_mean(word, SCENARIOS.iter().map(|s| s.0)) {
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

pub(super) fn clock_seed() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |d| d.as_secs() as u32)
}

/// Numbers for the order; the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            list.swap(n, self.below(n + 1));
        }
    }
}

/// A scenario and a stressor in it; a scenario's own loop is called "loop".
type Stressor = (String, String);

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
    pub ctx: &'a Ctx,
    pub run: &'a RunDir,
    pub parts: &'a Parts,
    pub kernels: Kernels<'a>,
    pub disk: &'a Path,
    pub allow: &'a [Allow],
}

/// One command for a slice of time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    scenario: &'static str,
    name: String,
    /// In what surroundings: "swap" is the small cgroup, "user" is not root.
    place: Option<&'static str>,
    args: &'static [&'static str],
}

impl Turn {
    fn new(scenario: &'static str, name: &str) -> Turn {
        Turn {
            scenario,
            name: name.into(),
            place: AS_USER.contains(&name).then_some("user"),
            args: &[],
        }
    }

    fn exec(&self, id: u64, seconds: u64, seed: u32) -> Exec {
        let (s, seed) = (seconds.to_string(), seed.to_string());
        let mut argv: Vec<&str> = Vec::new();
        let option = format!("--{}", self.name);
        let mut cwd = None;
        if self.scenario == "threads" {
            argv.extend(["./fpt_stress", "-t", &s, "-s", &seed, "-j", "3"]);
            cwd = Some("/selftests/fpt".to_string());
        } else {
            argv.extend(["fpt-stress", "image"]);
            argv.extend(self.place);
            // Swap files need a file system on a block device.
            let temp = if self.name == "swap" {
                "/var/tmp"
            } else {
                "/tmp"
            };
            argv.extend(["stress-ng", &option, "1"]);
            argv.extend(self.args);
            argv.extend(["--timeout", &s, "--metrics-brief", "--verify", "--oomable"]);
            argv.extend(["--seed", &seed, "--temp-path", temp]);
        }
        Exec {
            id,
            argv: argv.into_iter().map(str::to_string).collect(),
            cwd,
            timeout_s: seconds + GRACE_S,
            mark: Some(format!("stress/{}", self.name)),
            ..Exec::default()
        }
    }
}

/// How one turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// The guest lacks what it needs.
    NotHere,
    /// The kernel killed it for want of memory, or so it says.
    Killed,
    Failed,
}

/// stress-ng's exit codes: 0 ok, 1 wrong use or nothing started, 2 a stressor failed, 3 no resources, 4 not
/// implemented, 5 killed by a signal, 7 ended without telling its counts.
fn verdict(scenario: &str, exit: &Exit, text: &str) -> Verdict {
    match (exit.timeout, exit.signal, exit.code) {
        // What it refuses to run it calls a success.
        (false, 0, 0 | 1) if text.contains("No stress workers invoked") => Verdict::NotHere,
        (false, 0, 0) => Verdict::Ok,
        (false, 0, 3 | 4) if scenario != "threads" => Verdict::NotHere,
        (false, 0, 5 | 7) if scenario != "threads" => Verdict::Killed,
        _ => Verdict::Failed,
    }
}

/// The stressor's count of what it did: `stress-ng: metrc: [PID] NAME COUNT ...`.
fn bogo_ops(text: &str, name: &str) -> u64 {
    text.lines()
        .filter(|l| l.starts_with("stress-ng: metrc:"))
        .filter_map(|l| l.split_once("] ").map(|(_, rest)| rest))
        .find_map(|rest| {
            let mut words = rest.split_whitespace();
            (words.next() == Some(name))
                .then(|| words.next().and_then(|n| n.parse().ok()))
                .flatten()
        })
        .unwrap_or(0)
}

/// What fpt_stress counts: `# N map`.
fn thread_ops(text: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.strip_prefix("# "))
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let n: u64 = words.next()?.parse().ok()?;
            (words.count() == 1).then_some(n)
        })
        .sum()
}

/// All turns of one stressor in one phase.
#[derive(Debug, Clone, Default, Serialize)]
struct Tally {
    runs: u64,
    bogo_ops: u64,
    ms: u64,
    not_here: u64,
    killed: u64,
    failed: u64,
    /// How each failed turn ended, with its last lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.runs += other.runs;
        self.bogo_ops += other.bogo_ops;
        self.ms += other.ms;
        self.not_here += other.not_here;
        self.killed += other.killed;
        self.failed += other.failed;
        self.failures.extend(other.failures.iter().cloned());
    }
}

pub(super) type Counts = BTreeMap<String, i64>;

/// `name number` lines.
pub(super) fn counts(text: &str) -> Counts {
    text.lines()
        .filter_map(|l| {
            let (name, n) = l.split_once(' ')?;
            Some((name.to_string(), n.trim().parse().ok()?))
        })
        .collect()
}

pub(super) fn count(counts: &Counts, name: &str) -> i64 {
    counts.get(name).copied().unwrap_or(0)
}

#[derive(Debug, Clone, Default, Serialize)]
struct Phase {
    fail_percent: u32,
    seconds: u64,
    injected: i64,
    /// Tallies by scenario and stressor.
    stressors: BTreeMap<String, BTreeMap<String, Tally>>,
    /// What the guest's own loops counted.
    loops: Counts,
    /// Change of the kernel's counters.
    kernel: Counts,
}

/// One guest's story.
#[derive(Debug, Clone, Serialize)]
struct Story {
    #[serde(rename = "mode")]
    subject: Subject,
    /// On the unpatched kernel, because of what failed before.
    again: bool,
    began_utc: String,
    ended_utc: String,
    uname: String,
    seed: u32,
    skipped: BTreeMap<String, String>,
    phases: Vec<Phase>,
    start: Counts,
    end: Counts,
    outcome: String,
}

impl Story {
    /// It begins now.
    fn new(subject: Subject, seed: u32) -> Story {
        Story {
            subject,
            again: false,
            began_utc: rundir::utc(SystemTime::now()),
            ended_utc: String::new(),
            uname: String::new(),
            seed,
            skipped: BTreeMap::new(),
            phases: Vec::new(),
            start: Counts::new(),
            end: Counts::new(),
            outcome: String::new(),
        }
    }
}

/// Turns of one kind, one at a time, over and over.
struct Lane {
    turns: VecDeque<Turn>,
    slice: u64,
    running: Option<Running>,
}

/// What a guest works on.
struct Load {
    lanes: Vec<Lane>,
    /// Loops of `fpt-stress`, each of which runs all the time.
    loops: Vec<&'static str>,
    /// Scenarios that had a turn.
    done: BTreeSet<&'static str>,
}

struct Running {
    id: u64,
    turn: Turn,
    text: String,
}

impl Lane {
    fn new(turns: Vec<Turn>, slice: u64) -> Lane {
        Lane {
            turns: turns.into(),
            slice,
            running: None,
        }
    }

    /// The next turn, which will come again after all others.
    fn next(&mut self) -> Option<Turn> {
        let turn = self.turns.pop_front()?;
        self.turns.push_back(turn.clone());
        Some(turn)
    }
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
        if self.wants("hotplug") {
            // Only what cannot hold page tables can be taken out for sure.
            spec.append.insert(0, "movablecore=25%".into());
        }
        Ok(spec)
    }

    fn wants(&self, scenario: &str) -> bool {
        match &self.choice {
            Choice::All => true,
            Choice::Words(words) => words.iter().any(|w| w == scenario),
            Choice::Stressors(all) => all.iter().any(|s| s.0 == scenario),
        }
    }

    /// Is this stressor of a scenario chosen?
    fn wants_turn(&self, turn: &Turn) -> bool {
        match &self.choice {
            Choice::All => true,
            Choice::Words(words) => self.wants(turn.scenario) || words.contains(&turn.name),
            Choice::Stressors(all) => all.contains(&(turn.scenario.to_string(), turn.name.clone())),
        }
    }

    /// Every subject in a guest of its own, two at a time; the log is written in any case.
    pub fn all(&self, site: &Site, subjects: &[Subject]) -> Result<Report> {
        let Site { run, parts, .. } = *site;
        run.set("seed", self.seed);
        let next = Mutex::new(subjects.iter().copied());
        let done = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..site.ctx.guests_or(2).min(subjects.len()) {
                scope.spawn(|| loop {
                    let Some(subject) = locked(&next).next() else {
                        return;
                    };
                    // Before the lock: the other guest must not wait for this one.
                    let result = self.one(site, subject, &format!("stress-{subject}"));
                    locked(&done).insert(subject, result);
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        let mut report = Report::default();
        let mut stories = Vec::new();
        for subject in subjects {
            if let Some((story, cases)) = done.remove(subject) {
                stories.push(story);
                report.cases.extend(cases);
            }
        }
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
        for (scenario, name) in &failed {
            let line = match &story {
                Err(err) => format!(
                    "nobody knows about the unpatched kernel: {}",
                    fail::report(err).0
                ),
                Ok(story) => on_unpatched(story, scenario, name),
            };
            let name = format!("{scenario} {name}");
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

fn tail_word(n: u64, word: &str) -> String {
    match n {
        0 => String::new(),
        n => format!(", {n} {word}"),
    }
}

/// What must be in the end as it was at the start.
const LEFT: [&str; 5] = [
    "others_root",
    "others_mid",
    "others_bottom",
    "others_bytes",
    "others_kb",
];

/// One subject.
struct One<'a> {
    stress: &'a Stress,
    site: &'a Site<'a>,
    subject: Subject,
    /// The name of its guest and logs.
    label: &'a str,
}

impl One<'_> {
    /// The story and the cases, also of a guest that died.
    fn whole(&self) -> (Story, Vec<Case>) {
        let start = Instant::now();
        let suite = suite(self.subject);
        let mut story = Story::new(self.subject, self.stress.seed);
        let mut cases = Vec::new();
        let mut guest = None;
        let result = self.story(&mut guest, &mut story);
        // Stressors that ended say what they have to say, also if the guest did not live to its end.
        cases.extend(self.stressor_cases(&suite, &story));
        match result {
            Ok(()) => {
                story.outcome = IN_ORDER.into();
                cases.extend(self.end_cases(&suite, &story));
            }
            Err(err) => {
                let (line, _) = fail::report(&err);
                let name = if vm::is_guest_end(&err) {
                    "the guest lives to the end"
                } else {
                    "guest"
                };
                story.outcome = line.clone();
                cases.push(Case::failed(&suite, name, line, 0));
            }
        }
        if let Some(guest) = guest {
            let splats = guest.splats(self.site.allow);
            if splats.is_empty() {
                cases.push(Case::passed(&suite, "no kernel warnings", 0));
            }
            for splat in splats {
                let during = match splat.program.as_str() {
                    "" => String::new(),
                    program => format!(" (during {program})"),
                };
                cases.push(Case::failed(
                    &suite,
                    &format!("kernel warning{during}"),
                    splat.line,
                    0,
                ));
            }
        }
        if let Some(first) = cases.first_mut() {
            first.ms = start.elapsed().as_millis() as u64;
        }
        story.ended_utc = rundir::utc(SystemTime::now());
        if story.outcome == IN_ORDER {
            let failed = cases
                .iter()
                .filter(|c| c.outcome == Outcome::Failed)
                .count();
            if failed > 0 {
                story.outcome = format!("{failed} cases failed");
            }
        }
        (story, cases)
    }

    fn story(&self, slot: &mut Option<Guest>, story: &mut Story) -> Result<()> {
        let Site {
            ctx,
            run,
            parts,
            kernels,
            disk,
            ..
        } = *self.site;
        let mut spec = self.stress.spec(parts, kernels, disk, self.subject)?;
        let plan = &self.stress.plan;
        plan.watch(run, self.label, &parts.qemu, &mut spec);
        let stage = ctx.ui.stage(&format!(
            "stress {} for {} s",
            self.subject, self.stress.seconds
        ));
        let guest = slot.insert(Guest::start(ctx, run, &parts.qemu, &spec, self.label)?);
        guest.wait_ready(None)?;
        self.subject.check(guest)?;
        story.uname = guest.boot.uname.clone();
        ask(guest, &["fpt-stress", "setup"])?;
        // Once each, so that what is allocated at a first use is there before it is measured.
        let class = ask(guest, &["fpt-stress", "image", PACKAGE, "--class", "vm?"])?;
        let vm_class = vm_class(&class).map_err(|why| {
            Fail::infra(
                "cannot tell what stress-ng's class vm is",
                why,
                "look at `stress-ng --class vm?` in the image",
            )
        })?;
        let mut loops = Vec::new();
        for name in ["compact", "hotplug", "demote", "ksm", CHECK] {
            if !self.stress.wants(name) && name != CHECK {
                continue;
            }
            let said = ask(guest, &["fpt-stress", "ready", name])?;
            match said.trim() {
                "ok" if name == "demote" && !self.subject.tables().flattens_below_root() => {
                    let why = "there are no nodes below the root here";
                    story.skipped.insert(name.into(), why.into());
                }
                "ok" => loops.push(name),
                why => drop(story.skipped.insert(name.into(), why.to_string())),
            }
        }
        let mut load = Load {
            lanes: self.lanes(&vm_class, &loops)?,
            loops,
            done: BTreeSet::new(),
        };
        let mut last = state(guest)?;
        story.start = last.clone();
        guest.shell("echo 2 >/proc/sys/kernel/randomize_va_space")?;
        let phases = match self.stress.fail_percent {
            0 => vec![(0, self.stress.seconds)],
            percent => {
                let half = self.stress.seconds / 2;
                vec![(0, self.stress.seconds - half), (percent, half)]
            }
        };
        let count_of_phases = phases.len();
        for (n, (percent, seconds)) in phases.into_iter().enumerate() {
            ask(guest, &["fpt-stress", "inject", &percent.to_string()])?;
            let left = count(&state(guest)?, "injections_left");
            let mut phase = Phase {
                fail_percent: percent,
                seconds,
                ..Phase::default()
            };
            let is_last = n + 1 == count_of_phases;
            let progress = |line: &str| {
                stage.line(&format!("{} phase {}: {line}", self.subject, n + 1));
            };
            let result = self.phase(guest, &mut load, &mut phase, is_last, &progress);
            story.phases.push(phase);
            result?;
            let now = state(guest)?;
            if let Some(phase) = story.phases.last_mut() {
                phase.injected = left - count(&now, "injections_left");
                phase.kernel = change(&last, &now);
                stage.note(&format!(
                    "{} phase {}: {} turns, {} nodes made, {} fallbacks, {} demotions, {} failures injected",
                    self.subject,
                    n + 1,
                    phase
                        .stressors
                        .values()
                        .flat_map(|l| l.values())
                        .map(|t| t.runs)
                        .sum::<u64>(),
                    sum(&phase.kernel, self.subject.tables(), "installs"),
                    sum(&phase.kernel, self.subject.tables(), "fallbacks"),
                    count(&phase.kernel, "demotions"),
                    phase.injected
                ));
            }
            last = now;
        }
        // Everything but process 1 ends here.
        guest.run(Exec {
            argv: vec!["true".into()],
            solo: true,
            timeout_s: 60,
            ..Exec::default()
        })?;
        ask(guest, &["fpt-stress", "finish"])?;
        let give_up = Instant::now() + SETTLE.min(Duration::from_secs(self.stress.seconds));
        loop {
            story.end = state(guest)?;
            if left_over(&story.start, &story.end).is_empty() || Instant::now() >= give_up {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        guest.quit()?;
        stage.done("");
        Ok(())
    }

    /// Two lanes share the vm class, a third has the rest.
    fn lanes(&self, vm_class: &[String], loops: &[&str]) -> Result<Vec<Lane>> {
        let mut random = Random(u64::from(self.stress.seed));
        let mut vm: Vec<Turn> = vm_class
            .iter()
            .filter(|n| !EXCLUDED.iter().any(|e| e.0 == n.as_str()))
            .map(|n| Turn::new("vm", n))
            .collect();
        let mut rest: Vec<Turn> = STORM.iter().map(|n| Turn::new("storm", n)).collect();
        rest.extend(SWAP.iter().map(|(name, args)| Turn {
            place: Some("swap"),
            args,
            ..Turn::new("swap", name)
        }));
        if loops.contains(&"ksm") {
            rest.push(Turn {
                args: KSM.1,
                ..Turn::new("ksm", KSM.0)
            });
        }
        rest.push(Turn::new("threads", "fpt_stress"));
        vm.retain(|t| self.stress.wants_turn(t));
        rest.retain(|t| self.stress.wants_turn(t));
        if vm.is_empty()
            && rest.is_empty()
            && loops.iter().all(|l| *l == CHECK)
            && !self.stress.wants(CHECK)
        {
            return Err(Fail::usage(
                format!("nothing to do in {}", self.subject),
                format!(
                    "'{}' fits no scenario and no stressor of it",
                    self.stress.choice.words().join(", ")
                ),
                "`cargo xtask stress --list` shows the scenarios",
            ));
        }
        random.shuffle(&mut vm);
        random.shuffle(&mut rest);
        // One of each scenario comes before the second of any; merging first, which needs time.
        let mut seen = BTreeMap::new();
        rest.sort_by_cached_key(|t| {
            let n = seen.entry(t.scenario).or_insert(0);
            *n += 1;
            let first = ["ksm", "swap", "threads", "storm"];
            (*n, first.iter().position(|f| *f == t.scenario))
        });
        // Each comes at least once if there is time; starting and ending takes some, too.
        let slice = |turns: usize, lanes: u64| {
            let each = lanes * self.stress.seconds / turns.max(1) as u64;
            each.saturating_sub(4).clamp(2, 30)
        };
        let (vm_slice, rest_slice) = (slice(vm.len(), 2), slice(rest.len(), 1));
        let second = vm.split_off(vm.len() / 2);
        Ok(vec![
            Lane::new(vm, vm_slice),
            Lane::new(second, vm_slice),
            Lane::new(rest, rest_slice),
        ])
    }

    /// All lanes and loops until the time is over and the last has ended.
    fn phase(
        &self,
        guest: &mut Guest,
        load: &mut Load,
        phase: &mut Phase,
        last: bool,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        let Load { lanes, loops, done } = load;
        let start = Instant::now();
        let end = start + Duration::from_secs(phase.seconds);
        let mut looping: BTreeMap<u64, (String, String)> = BTreeMap::new();
        for name in loops {
            let id = guest.new_id();
            guest.start_exec(Exec {
                id,
                argv: vec![
                    "fpt-stress".into(),
                    name.to_string(),
                    phase.seconds.to_string(),
                ],
                timeout_s: phase.seconds + GRACE_S,
                ..Exec::default()
            })?;
            looping.insert(id, (name.to_string(), String::new()));
        }
        // Init ends what takes too long; should it not even do that, the guest hangs.
        let give_up = end + Duration::from_secs(2 * GRACE_S);
        loop {
            for lane in lanes.iter_mut().filter(|l| l.running.is_none()) {
                let left = end.saturating_duration_since(Instant::now()).as_secs();
                let time = left >= lane.slice.min(phase.seconds);
                // On a slow host each scenario has its turn all the same.
                let first = lane
                    .turns
                    .front()
                    .is_some_and(|t| last && !done.contains(t.scenario));
                if !time && !first && start.elapsed().as_secs() > 0 {
                    continue;
                }
                let Some(turn) = lane.next() else { continue };
                done.insert(turn.scenario);
                let id = guest.new_id();
                progress(&format!("{} {}", turn.scenario, turn.name));
                let seconds = match turn.scenario {
                    "ksm" => lane.slice.max(MERGE_S),
                    _ => lane.slice,
                };
                let seconds = seconds.min(phase.seconds);
                guest.start_exec(turn.exec(id, seconds, self.stress.seed))?;
                lane.running = Some(Running {
                    id,
                    turn,
                    text: String::new(),
                });
            }
            let idle = lanes.iter().all(|l| l.running.is_none()) && looping.is_empty();
            if idle && Instant::now() >= end {
                return Ok(());
            }
            if Instant::now() >= give_up {
                return Err(self.stuck(guest, lanes, &looping));
            }
            match guest.poll(Duration::from_secs(1))? {
                Some(Ev::Out { id, data, .. }) => {
                    let text = data.to_vec().unwrap_or_default();
                    let text = String::from_utf8_lossy(&text);
                    if let Some((_, said)) = looping.get_mut(&id) {
                        said.push_str(&text);
                    } else if let Some(r) = lanes
                        .iter_mut()
                        .filter_map(|l| l.running.as_mut())
                        .find(|r| r.id == id)
                    {
                        r.text.push_str(&text);
                    }
                }
                Some(Ev::Exit {
                    id,
                    code,
                    signal,
                    timeout,
                    ms,
                }) => {
                    let exit = Exit {
                        code,
                        signal,
                        timeout,
                        ms,
                    };
                    if let Some((name, said)) = looping.remove(&id) {
                        phase.loops.extend(counts(&said));
                        if exit.status() != 0 {
                            let tally = phase
                                .stressors
                                .entry(name.clone())
                                .or_default()
                                .entry("loop".into())
                                .or_default();
                            tally.runs += 1;
                            tally.failed += 1;
                            tally.failures.push(format!(
                                "exit code {}\n{}",
                                exit.status(),
                                last_lines(&said)
                            ));
                        }
                    } else if let Some(r) = lanes
                        .iter_mut()
                        .find(|l| l.running.as_ref().is_some_and(|r| r.id == id))
                        .and_then(|l| l.running.take())
                    {
                        record(phase, &r, &exit);
                    }
                }
                _ => {}
            }
        }
    }

    fn stuck(
        &self,
        guest: &mut Guest,
        lanes: &[Lane],
        looping: &BTreeMap<u64, (String, String)>,
    ) -> anyhow::Error {
        let names: Vec<String> = lanes
            .iter()
            .filter_map(|l| l.running.as_ref())
            .map(|r| format!("{} {}", r.turn.scenario, r.turn.name))
            .chain(looping.values().map(|(name, _)| name.clone()))
            .collect();
        // Who waits for what, into the console log.
        let ids = lanes
            .iter()
            .filter_map(|l| l.running.as_ref())
            .map(|r| r.id)
            .chain(looping.keys().copied());
        for id in ids {
            guest.requests().send(&Op::Signal { id, signal: 9 });
        }
        let _ = guest.shell("echo w >/proc/sysrq-trigger; echo l >/proc/sysrq-trigger; sleep 2");
        Fail::new(
            code::TIMEOUT,
            format!(
                "{} cannot be ended in mode {}",
                names.join(", "),
                self.subject
            ),
            "it was killed and is still there",
            "the console log has the stacks of waiting tasks",
        )
        .into()
    }

    fn stressor_cases(&self, suite: &str, story: &Story) -> Vec<Case> {
        totals(story)
            .iter()
            .map(|((scenario, name), t)| {
                let name = format!("{scenario} {name}");
                let said = format!("{} bogo ops in {} runs", t.bogo_ops, t.runs);
                if t.failed > 0 {
                    Case::failed(suite, &name, t.failures.join("\n"), t.ms)
                } else if t.not_here == t.runs {
                    Case::skipped(suite, &name, "the guest lacks what it needs")
                } else {
                    Case::new(suite, &name, Outcome::Passed, said, t.ms)
                }
            })
            .collect()
    }

    /// Did each scenario do what it is for, and is everything given back?
    fn end_cases(&self, suite: &str, story: &Story) -> Vec<Case> {
        let total = |name: &str| -> i64 {
            let of = |c: &Counts| count(c, name);
            story
                .phases
                .iter()
                .map(|p| of(&p.loops) + of(&p.kernel))
                .sum()
        };
        let mut cases = Vec::new();
        let at_work = |scenario: &str, counter: &str, what: &str| {
            let name = format!("{scenario} was at work");
            match (story.skipped.get(scenario), total(counter)) {
                // A mode with nodes below the root can detach them; nothing else shows that this is lost.
                (Some(why), _)
                    if scenario == "demote" && self.subject.tables().flattens_below_root() =>
                {
                    Case::failed(suite, &name, why.clone(), 0)
                }
                (Some(why), _) if scenario == CHECK && self.subject.is_flat() => {
                    Case::failed(suite, &name, why.clone(), 0)
                }
                (Some(why), _) => Case::skipped(suite, &name, why.clone()),
                (None, n) if n > 0 => {
                    Case::new(suite, &name, Outcome::Passed, format!("{n} {what}"), 0)
                }
                (None, _) => Case::failed(suite, &name, format!("no {what} (too short?)"), 0),
            }
        };
        for (scenario, counter, what) in [
            ("swap", "pswpout", "pages swapped out"),
            // How many of them are merged depends on the time that a busy host leaves; the log has it.
            ("ksm", "ksm_scanned", "pages looked at for merging"),
            ("compact", "compactions", "compactions"),
            ("hotplug", "offlined", "blocks taken out"),
            ("demote", "demotions", "nodes demoted"),
            (CHECK, "checks", "address spaces verified"),
        ] {
            if self.stress.wants(scenario) || scenario == CHECK {
                cases.push(at_work(scenario, counter, what));
            }
        }
        for scenario in ["vm", "storm", "threads"] {
            if self.stress.wants(scenario) {
                let ops: u64 = story
                    .phases
                    .iter()
                    .filter_map(|p| p.stressors.get(scenario))
                    .flat_map(|l| l.values())
                    .map(|t| t.bogo_ops)
                    .sum();
                let name = format!("{scenario} was at work");
                cases.push(match ops {
                    0 => Case::failed(suite, &name, "no stressor did anything (too short?)", 0),
                    n => Case::new(suite, &name, Outcome::Passed, format!("{n} bogo ops"), 0),
                });
            }
        }
        for kind in self.subject.tables().kinds() {
            let name = format!("{kind} nodes were made");
            cases.push(match total(&format!("{kind}_installs")) {
                n if n > 0 => Case::new(suite, &name, Outcome::Passed, n.to_string(), 0),
                _ => Case::failed(suite, &name, "none", 0),
            });
        }
        if let Some(phase) = story.phases.iter().find(|p| p.fail_percent > 0) {
            let name = "allocations of nodes failed";
            let fallbacks = sum(&phase.kernel, self.subject.tables(), "fallbacks");
            cases.push(if !self.subject.is_flat() {
                Case::skipped(suite, name, "there are no nodes here")
            } else if phase.injected > 0 && fallbacks > 0 {
                let said = format!("{} injected, {fallbacks} fallbacks", phase.injected);
                Case::new(suite, name, Outcome::Passed, said, 0)
            } else {
                let why = format!("{} injected, {fallbacks} fallbacks", phase.injected);
                Case::failed(suite, name, why, 0)
            });
        }
        cases.extend(left_cases(suite, &story.start, &story.end));
        cases
    }
}

/// The group of a subject's cases.
fn suite(subject: Subject) -> String {
    format!("stress/{subject}")
}

/// Is everything given back?
pub(super) fn left_cases(suite: &str, start: &Counts, end: &Counts) -> Vec<Case> {
    let mut cases = Vec::new();
    let left = left_over(start, end);
    for (what, names) in [("nodes", &LEFT[..4]), ("page-table memory", &LEFT[4..])] {
        let name = format!("{what} back at the start's");
        let wrong: Vec<&str> = left
            .iter()
            .filter(|(n, _)| names.contains(n))
            .map(|(_, text)| text.as_str())
            .collect();
        let there = names.iter().any(|n| end.contains_key(*n));
        cases.push(if !wrong.is_empty() {
            Case::failed(suite, &name, wrong.join("; "), 0)
        } else if there {
            Case::passed(suite, &name, 0)
        } else {
            Case::skipped(suite, &name, "this kernel has no such counters")
        });
    }
    if end.contains_key("tainted") {
        let name = "no node came back dirty";
        cases.push(match count(end, "tainted") {
            0 => Case::passed(suite, name, 0),
            _ => Case::failed(suite, name, "recycling has ended", 0),
        });
    }
    cases
}

/// What has changed between two states and must not have.
pub(super) fn left_over(start: &Counts, end: &Counts) -> Vec<(&'static str, String)> {
    LEFT.into_iter()
        .filter_map(|name| {
            let (a, b) = match (start.get(name), end.get(name)) {
                (None, None) => return None,
                (a, b) => (a.copied().unwrap_or(0), b.copied().unwrap_or(0)),
            };
            let slack = if name == "others_kb" { SLACK_KB } else { 0 };
            ((a - b).abs() > slack).then(|| {
                (
                    name,
                    format!("{name} was {a} at the start and is {b} in the end"),
                )
            })
        })
        .collect()
}

/// Change of each counter; states are none.
pub(super) fn change(before: &Counts, after: &Counts) -> Counts {
    let state = |name: &str| {
        LEFT.contains(&name)
            || name.ends_with("_live")
            || name.ends_with("_pool_nodes")
            || name.ends_with("_kb")
            || ["flat_bytes", "can_demote", "injections_left"].contains(&name)
    };
    after
        .iter()
        .filter(|(name, _)| !state(name))
        .map(|(name, n)| (name.clone(), n - count(before, name)))
        .collect()
}

/// Over the kinds of nodes that the mode has.
fn sum(counts: &Counts, mode: Mode, what: &str) -> i64 {
    mode.kinds()
        .map(|k| count(counts, &format!("{k}_{what}")))
        .sum()
}

/// What failed in a story, and can be tried on another kernel.
fn failed_stressors(story: &Story) -> Vec<Stressor> {
    let all = totals(story).into_iter();
    all.filter(|((scenario, _), t)| t.failed > 0 && scenario != CHECK)
        .map(|(s, _)| s)
        .collect()
}

/// What a stressor did on the unpatched kernel, in a line.
fn on_unpatched(story: &Story, scenario: &str, name: &str) -> String {
    let all = totals(story);
    match all.get(&(scenario.to_string(), name.to_string())) {
        Some(t) if t.failed > 0 => format!(
            "fails on the unpatched kernel, too: {} of {} turns",
            t.failed, t.runs
        ),
        Some(t) if t.runs > t.not_here => {
            format!("does not fail on the unpatched kernel: {} turns", t.runs)
        }
        // A loop that does not fail leaves no turn.
        None if name == "loop" && !story.end.is_empty() => {
            "does not fail on the unpatched kernel".to_string()
        }
        _ => format!("did not run on the unpatched kernel: {}", story.outcome),
    }
}

/// All turns of each stressor. Without a killer at work nothing of theirs may be killed.
fn totals(story: &Story) -> BTreeMap<Stressor, Tally> {
    let mut all: BTreeMap<Stressor, Tally> = BTreeMap::new();
    for phase in &story.phases {
        for (scenario, list) in &phase.stressors {
            for (name, tally) in list {
                let mut tally = tally.clone();
                if tally.killed > 0 && count(&phase.kernel, "oom_kill") == 0 {
                    tally.failed += tally.killed;
                    tally
                        .failures
                        .push("it was killed, but not for want of memory".into());
                }
                all.entry((scenario.clone(), name.clone()))
                    .or_default()
                    .add(&tally);
            }
        }
    }
    all
}

fn record(phase: &mut Phase, r: &Running, exit: &Exit) {
    let tally = phase
        .stressors
        .entry(r.turn.scenario.into())
        .or_default()
        .entry(r.turn.name.clone())
        .or_default();
    tally.runs += 1;
    tally.ms += exit.ms;
    tally.bogo_ops += match r.turn.scenario {
        "threads" => thread_ops(&r.text),
        _ => bogo_ops(&r.text, &r.turn.name),
    };
    match verdict(r.turn.scenario, exit, &r.text) {
        Verdict::Ok => {}
        Verdict::NotHere => tally.not_here += 1,
        Verdict::Killed => tally.killed += 1,
        Verdict::Failed => {
            tally.failed += 1;
            let how = match (exit.timeout, exit.signal) {
                (true, _) => "it did not end in time".to_string(),
                (_, 0) => format!("exit code {}", exit.code),
                (_, n) => format!("ended by signal {n}"),
            };
            tally
                .failures
                .push(format!("{how}\n{}", last_lines(&r.text)));
        }
    }
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The names after `class 'vm' stressors:`.
fn vm_class(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text
        .lines()
        .find_map(|l| l.split_once("stressors:"))
        .map(|(_, rest)| rest.split_whitespace().map(str::to_string).collect())
        .unwrap_or_default();
    if names.len() < 10 {
        return Err(format!("it says: {text}"));
    }
    Ok(names)
}

/// A command that must succeed; its output.
pub(super) fn ask(guest: &mut Guest, argv: &[&str]) -> Result<String> {
    let (exit, out) = guest.run(Exec {
        argv: argv.iter().map(|a| a.to_string()).collect(),
        timeout_s: 180,
        ..Exec::default()
    })?;
    if exit.status() == 0 {
        return Ok(out);
    }
    Err(Fail::test(
        format!(
            "'{}' failed in the guest ({})",
            argv.join(" "),
            exit.status()
        ),
        out,
        "see the console log",
    ))
}

pub(super) fn state(guest: &mut Guest) -> Result<Counts> {
    Ok(counts(&ask(guest, &["fpt-init", "state"])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32, signal: i32, timeout: bool) -> Exit {
        Exit {
            code,
            signal,
            timeout,
            ms: 1,
        }
    }

    #[test]
    fn what_stress_ng_says() {
        let text = "stress-ng: info:  [7] dispatching hogs: 1 brk\n\
            stress-ng: metrc: [7] stressor       bogo ops real time  usr time\n\
            stress-ng: metrc: [7]                           (secs)    (secs)\n\
            stress-ng: metrc: [7] brk              197663      2.03      0.36\n\
            stress-ng: metrc: [7] miscellaneous metrics:\n\
            stress-ng: metrc: [7] brk                 7255.91 nanosecs per sbrk\n";
        assert_eq!(bogo_ops(text, "brk"), 197_663);
        assert_eq!(bogo_ops(text, "mmap"), 0);
        let list = "class 'vm' stressors: a b c d e f g h i j\n";
        assert_eq!(vm_class(list).unwrap().len(), 10);
        assert!(vm_class("class 'vm' stressors: a\n").is_err());
        assert!(vm_class("error\n").is_err());
        assert_eq!(
            thread_ops("# mode x, 3 s\n# 12 map\n# 30 touch\nok 1 contents\n"),
            42
        );
    }

    #[test]
    fn exits() {
        let of =
            |scenario, code, signal, timeout| verdict(scenario, &exit(code, signal, timeout), "");
        assert_eq!(of("vm", 0, 0, false), Verdict::Ok);
        assert_eq!(of("vm", 1, 0, false), Verdict::Failed);
        assert_eq!(of("vm", 2, 0, false), Verdict::Failed);
        assert_eq!(of("vm", 3, 0, false), Verdict::NotHere);
        assert_eq!(of("vm", 5, 0, false), Verdict::Killed);
        assert_eq!(of("vm", 0, 9, false), Verdict::Failed);
        assert_eq!(of("vm", 0, 0, true), Verdict::Failed);
        // The codes of a kselftest mean something else.
        assert_eq!(of("threads", 4, 0, false), Verdict::Failed);
        let refused = "stress-ng: error: [7] No stress workers invoked";
        assert_eq!(verdict("vm", &exit(0, 0, false), refused), Verdict::NotHere);
        assert_eq!(verdict("vm", &exit(2, 0, false), refused), Verdict::Failed);
    }

    #[test]
    fn what_is_left_over() {
        let state = |text| counts(text);
        let start = state("others_mid 1\nothers_kb 100\n");
        assert!(left_over(&start, &start).is_empty());
        assert!(left_over(&start, &state("others_mid 1\nothers_kb 160\n")).is_empty());
        for end in [
            "others_mid 2\nothers_kb 100\n",
            "others_mid 0\nothers_kb 100\n",
            "others_kb 100\n",
            "others_mid 1\nothers_kb 165\n",
            "others_mid 1\nothers_kb 35\n",
        ] {
            assert_eq!(left_over(&start, &state(end)).len(), 1, "{end}");
        }
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| {
            let mut list: Vec<u32> = (0..20).collect();
            Random(seed).shuffle(&mut list);
            list
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn minutes_and_nonsense() {
        assert_eq!(minutes("2"), Ok(2.0));
        assert_eq!(minutes("0.5"), Ok(0.5));
        for bad in ["0", "-1", "nan", "inf", "1e9", "", "x", "2m"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
