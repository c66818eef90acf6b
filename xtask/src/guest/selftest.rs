// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask selftest`: the kernel's own test programs on the unpatched kernel, in radix and in a mode of our
//! image, compared case by case: radix with the unpatched kernel, the mode with radix. Only a difference is a
//! failure: what fails in both is not the page tables' fault. Our own programs (`fpt/`) must pass everywhere.
//!
//! Two guests run at a time, each with 2 CPUs, on a host of 2: nearly all programs keep one CPU busy,
//! so the pair takes hardly longer than one, while threads still meet on two CPUs. What then
//! differs is run again with one guest at a time, so that timing noise is not mistaken for a finding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use fpt_init::proto::{Exec, Stream};
use serde::Serialize;

use super::console::{Allow, Splat};
use super::elf;
use super::list::{self, Program};
use super::parts::{self, Parts};
use super::qemu::{self, Spec};
use super::results::{Case, Outcome, Report};
use super::rundir::{self, RunDir};
use super::subject::{Kernels, OtherKernel, Subject};
use super::tap::{self, Status};
use super::verdict::{Outcomes, Pair, Table, Verdict, LIMIT, PREPARE};
use super::vm::{self, Guest};
use crate::api::{code, fail, locked, modes, Ctx, Fail, Mode, Result};
use crate::build::{self, Kernel, Profile};

/// Guests that may die in one mode before the mode is given up.
const DEATHS: usize = 8;
/// Runs of a program whose results differ, after the first one.
const RERUNS: usize = 3;
/// A case of this name stands for results that differed until they were looked at again.
const AT_FIRST: &str = "differed at first";
/// So begins the remark of a case that fails as it does in the reference.
const ALIKE: &str = "fails as in ";
/// The group of cases that no single mode answers for.
const EVERY: &str = "every mode";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Compare this mode with radix, and radix with the unpatched kernel
    #[arg(long, value_parser = modes::Parser)]
    mode: Option<Mode>,
    /// Without --mode: run the programs on this kernel and on no other
    #[arg(long, value_enum, value_name = "KERNEL", conflicts_with_all = ["profile", "same_image"])]
    kernel: Option<OtherKernel>,
    /// Compare with radix of the same image only, and build no second kernel; so it is with every profile but fpt
    #[arg(long)]
    same_image: bool,
    /// Only programs whose name contains this (may be given several times)
    #[arg(long)]
    filter: Vec<String>,
    /// Run each program so many times and compare the sets of outcomes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print the programs and stop
    #[arg(long)]
    list: bool,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory of each guest
    #[arg(long, default_value = "4G")]
    mem: String,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    /// Let this share of order-9 allocations fail at random all the time, so that tables of every shape
    /// mix; PERCENT is 50 if it is left out
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "50", value_parser = clap::value_parser!(u32).range(1..=100))]
    mixed: Option<u32>,
    /// Multiply the programs' time limits: for slow kernels (debug, kasan) and busy hosts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    patience: u64,
}

pub fn main(ctx: &Ctx, args: Args) -> Result<i32> {
    let all = list::programs(&ctx.root.join("selftests/list.toml"))?;
    let mut programs = list::select(all, &args.filter)?;
    for program in &mut programs {
        program.timeout_s = program.timeout_s.saturating_mul(args.patience);
    }
    if args.list {
        for p in &programs {
            say!("\n", "{}  ({} s at most)", p.name, p.timeout_s);
        }
        return Ok(code::OK);
    }
    let subject = match (args.mode, args.kernel) {
        (Some(mode), _) => {
            args.profile.check_mode(mode)?;
            Subject::of(args.profile, mode)
        }
        (None, Some(OtherKernel::Unpatched)) => Subject::Unpatched,
        (None, None) => {
            return Err(Fail::usage(
                "no mode",
                "the tests compare a mode with radix, and radix with the unpatched kernel",
                "name it with --mode, or run --kernel unpatched alone",
            ))
        }
    };
    if subject == Subject::Unpatched {
        programs = for_unpatched(programs)?;
    }
    qemu::check_size(&args.mem)?;
    let plan = Plan {
        smp: args.smp,
        mem: args.mem.clone(),
        append: args.append.clone(),
        repeat: args.repeat as usize,
        mixed: args.mixed,
    };
    let (kernel, unpatched) = kernels(ctx, &args, subject)?;
    let parts = build_parts(ctx, kernel)?;
    let kernels = Kernels {
        ours: &parts.kernel,
        unpatched: unpatched.as_ref(),
    };
    if ctx.dry_run {
        for one in kernels.with_references(std::slice::from_ref(&subject)) {
            ctx.ui.command(
                &plan
                    .spec_of(&parts, kernels.of(one)?, one)
                    .command(&parts.qemu, &std::env::temp_dir().join("fpt")),
            );
        }
        return Ok(code::OK);
    }
    let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
    let run = RunDir::new(ctx, "selftest")?;
    parts.record(&run);
    if let Some(kernel) = &unpatched {
        run.set("kernel_unpatched", parts::kernel_facts(kernel));
    }
    run.set("mode", subject.name());
    if let Some(percent) = args.mixed {
        run.set("mixed_percent", percent);
    }
    rundir::recorded(&run, || {
        let suite = Suite {
            ctx,
            run: &run,
            parts: &parts,
            kernels,
            plan: &plan,
            programs: &programs,
            allow: &allow,
            all_modes: false,
        };
        let report = suite.compare(std::slice::from_ref(&subject))?;
        run.results(&report)?;
        print_failures(ctx, &report);
        print_remarks(ctx, &report);
        Ok(report.conclude())
    })
}

/// The programs that the unpatched kernel can run.
fn for_unpatched(programs: Vec<Program>) -> Result<Vec<Program>> {
    let (there, left): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|p| p.unpatched);
    match (there.is_empty(), left.first()) {
        (true, Some(p)) => Err(Fail::usage(
            format!("{} does not run on the unpatched kernel", p.name),
            &p.reason,
            "choose others with --filter",
        )),
        _ => Ok(there),
    }
}

/// The image, and the unpatched kernel if it takes part.
fn kernels(ctx: &Ctx, args: &Args, subject: Subject) -> Result<(Kernel, Option<Kernel>)> {
    if subject == Subject::Unpatched {
        let kernel = parts::unpatched(ctx)?;
        return Ok((kernel.clone(), Some(kernel)));
    }
    let ours = parts::kernel(ctx, args.profile)?;
    if args.profile != Profile::Fpt {
        ctx.ui.info(&format!(
            "compared with radix of the same image only: profile {} is not configured as the unpatched kernel is",
            args.profile.name()
        ));
        return Ok((ours, None));
    }
    let unpatched = match args.same_image {
        true => None,
        false => Some(parts::unpatched(ctx)?),
    };
    Ok((ours, unpatched))
}

pub fn print_failures(ctx: &Ctx, report: &Report) {
    for case in report.cases.iter().filter(|c| c.outcome == Outcome::Failed) {
        ctx.ui.error(&format!("{}: {}", case.suite, case.name));
        for line in case.detail.lines().take(30) {
            ctx.ui.info(&format!("    | {line}"));
        }
    }
}

/// What is green and worth a look: cases that fail everywhere, and results that were not always the same.
pub fn print_remarks(ctx: &Ctx, report: &Report) {
    let names = |cases: &[&Case]| {
        let names: BTreeSet<&str> = cases.iter().map(|c| c.suite.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let passed = || report.cases.iter().filter(|c| c.outcome == Outcome::Passed);
    let mut alike = BTreeMap::<&str, Vec<&Case>>::new();
    for case in passed() {
        let rest = case.detail.strip_prefix(ALIKE);
        if let Some((base, _)) = rest.and_then(|r| r.split_once(": ")) {
            alike.entry(base).or_default().push(case);
        }
    }
    for (base, cases) in alike {
        ctx.ui.info(&format!(
            "{} of the passed cases fail, as in {base}: {}",
            cases.len(),
            names(&cases)
        ));
    }
    let first: Vec<&Case> = passed().filter(|c| c.name == AT_FIRST).collect();
    if !first.is_empty() {
        ctx.ui.info(&format!(
            "{} programs differed at first and not when run again: {}",
            first.len(),
            names(&first)
        ));
    }
}

/// Kernel, QEMU and an image with all built selftests.
pub fn build_parts(ctx: &Ctx, kernel: build::Kernel) -> Result<Parts> {
    let qemu = parts::qemu(ctx, false)?;
    let tests = match std::env::var_os("FPT_KSELFTESTS") {
        Some(dir) => dir.into(),
        None if std::env::var_os("FPT_INITRD").is_some() => std::path::PathBuf::new(),
        None => build::kselftests(ctx)?,
    };
    let image = parts::image(ctx, |tree| {
        tree.folder("selftests", &tests)?;
        tree.text("bin/fpt-prep", 0o755, include_str!("prep.sh"));
        tree.text("bin/fpt-stress", 0o755, include_str!("stress.sh"));
        // Upstream's scripts are written for it; without, their programs are red.
        let bash = std::path::Path::new("/bin/bash");
        if bash.exists() {
            tree.program("bin/bash", bash)?;
        }
        // No program names it, but the C library loads it when a thread is cancelled.
        if let Some(gcc) = elf::find_library(std::path::Path::new("libgcc_s.so.1")) {
            tree.file("lib64/libgcc_s.so.1", &gcc)?;
            tree.link("lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/libgcc_s.so.1");
        }
        Ok(())
    })?;
    Ok(Parts {
        kernel,
        qemu,
        image,
    })
}

/// How the guests of a comparison are started.
#[derive(Debug, Clone)]
pub struct Plan {
    pub smp: u32,
    pub mem: String,
    pub append: Vec<String>,
    pub repeat: usize,
    /// Percentage of order-9 allocations that fail.
    pub mixed: Option<u32>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            smp: 2,
            mem: "4G".into(),
            append: Vec::new(),
            repeat: 1,
            mixed: None,
        }
    }
}

impl Plan {
    pub fn spec(&self, parts: &Parts, mode: Mode) -> Spec {
        self.spec_of(parts, &parts.kernel, Subject::Ours(mode))
    }

    pub fn spec_of(&self, parts: &Parts, kernel: &Kernel, subject: Subject) -> Spec {
        Spec {
            kernel: kernel.vmlinux.clone(),
            initrd: parts.image.path.clone(),
            mode: subject.mode(),
            smp: self.smp,
            mem: self.mem.clone(),
            append: self.append.clone(),
            share: None,
            plugin: None,
            gdb: None,
            icount: None,
            shared_ram: false,
            drives: Vec::new(),
        }
    }
}

/// One case of one run of a program. Two runs agree if the outcomes are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub name: String,
    pub outcome: String,
    pub status: Status,
}

/// One run of a program.
#[derive(Debug, Clone, Serialize)]
pub struct Ran {
    pub cases: Vec<Seen>,
    /// What it counted, by name, if its entry in the list asks for figures.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, i64>,
    pub ms: u64,
    /// Its complaints with what led to them, or else the end of its output: for a report.
    pub tail: String,
}

impl Ran {
    fn one(name: &str, outcome: impl Into<String>, status: Status, tail: impl Into<String>) -> Ran {
        Ran {
            cases: vec![Seen {
                name: name.into(),
                outcome: outcome.into(),
                status,
            }],
            figures: BTreeMap::new(),
            ms: 0,
            tail: tail.into(),
        }
    }

    fn remark(&self) -> String {
        let count = |s| self.cases.iter().filter(|c| c.status == s).count();
        let mut text = format!("{} ok", count(Status::Pass));
        for (status, word) in [
            (Status::Fail, "failed"),
            (Status::Skip, "skipped"),
            (Status::Xfail, "expected failures"),
        ] {
            match count(status) {
                0 => {}
                n => text.push_str(&format!(", {n} {word}")),
            }
        }
        text
    }
}

/// The verdict on one run from its own words and its exit code.
pub fn judge(program: &Program, exit: &vm::Exit, stdout: &str, stderr: &str) -> Ran {
    let mut cases = Vec::new();
    if program.tap {
        let tap = tap::parse(stdout.lines());
        for case in tap.cases {
            cases.push(Seen {
                outcome: case.status.to_string(),
                name: case.name,
                status: case.status,
            });
        }
        if tap.skipped.is_some() {
            cases.push(Seen {
                name: "program".into(),
                outcome: "skip".into(),
                status: Status::Skip,
            });
        }
        let (outcome, status) = if tap.problems.is_empty() {
            ("complete".to_string(), Status::Pass)
        } else {
            (tap.problems.join(", "), Status::Fail)
        };
        cases.push(Seen {
            name: "TAP plan".into(),
            outcome,
            status,
        });
    } else {
        let mut seen = BTreeMap::<String, usize>::new();
        for line in stdout
            .lines()
            .map(str::trim)
            .filter(|l| program.cases.iter().any(|c| l.starts_with(c.as_str())))
        {
            // A result comes before its name in TAP, and a failure is the same case as a success.
            let plain = line.replace("# SKIP ", "");
            let (name, outcome) = match (plain.strip_prefix("ok "), plain.strip_prefix("not ok ")) {
                (Some(name), _) if line.contains("# SKIP") => (name, "skip"),
                (Some(name), _) => (name, "ok"),
                (_, Some(name)) => (name, "failed"),
                _ if line.starts_with("[FAIL]") => (line, "failed"),
                _ => line.split_once("...").unwrap_or((line, "")),
            };
            // Some print a dot for each turn of waiting: that is time, not outcome.
            let outcome = outcome.trim_start_matches(['.', ' ']);
            let low = outcome.to_ascii_lowercase();
            let status = match low {
                ref l if l.contains("fail") || l.contains("error") => Status::Fail,
                ref l if l.contains("skip") => Status::Skip,
                _ => Status::Pass,
            };
            let n = seen.entry(name.trim().to_string()).or_default();
            *n += 1;
            if *n > 1 && program.unique {
                continue;
            }
            let name = if *n > 1 {
                format!("{} [{n}]", name.trim())
            } else {
                name.trim().to_string()
            };
            let outcome = match outcome.trim() {
                "" => "there".to_string(),
                text => text.to_string(),
            };
            cases.push(Seen {
                name,
                outcome,
                status,
            });
        }
    }
    cases.retain(|c| {
        !program
            .ignore_lines
            .iter()
            .any(|i| c.name.contains(i.as_str()))
    });
    let (outcome, status) = match (exit.timeout, exit.signal, exit.code) {
        (true, _, _) => (format!("{LIMIT} of {} s", program.timeout_s), Status::Fail),
        (_, 0, 0) => ("exit code 0".into(), Status::Pass),
        (_, 0, 2) => ("exit code 2".into(), Status::Xfail),
        (_, 0, 4) => ("exit code 4".into(), Status::Skip),
        (_, 0, n) => (format!("exit code {n}"), Status::Fail),
        (_, n, _) => (format!("ended by signal {n}"), Status::Fail),
    };
    cases.push(Seen {
        name: "exit".into(),
        outcome,
        status,
    });
    let tail = excerpt(&stdout.lines().chain(stderr.lines()).collect::<Vec<_>>());
    let figures = if program.figures {
        stdout.lines().filter_map(figure).collect()
    } else {
        BTreeMap::new()
    };
    Ran {
        cases,
        figures,
        ms: exit.ms,
        tail,
    }
}

/// At most 26 lines: around the first complaints; without any, the last ones.
fn excerpt(lines: &[&str]) -> String {
    const MOST: usize = 26;
    let complains = |line: &&str| {
        let low = line.to_ascii_lowercase();
        ["not ok", "expected", "fail", "error", "warn"]
            .iter()
            .any(|word| low.contains(word))
            && !low.contains("fail:0")
    };
    // Children print again what their parent had not written yet.
    let (mut wanted, mut known) = (BTreeSet::new(), BTreeSet::new());
    for (n, line) in lines.iter().enumerate().filter(|(_, l)| complains(l)) {
        if known.insert(*line) {
            wanted.extend(n.saturating_sub(3)..=n);
        }
    }
    if wanted.is_empty() {
        wanted.extend(lines.len().saturating_sub(MOST)..lines.len());
    }
    let kept: Vec<&str> = wanted.into_iter().take(MOST).map(|n| lines[n]).collect();
    kept.join("\n")
}

/// `# figure NAME: N`
fn figure(line: &str) -> Option<(String, i64)> {
    let (name, value) = line.trim().strip_prefix("# figure ")?.rsplit_once(": ")?;
    Some((name.to_string(), value.parse().ok()?))
}

/// The least that the runs in the reference and in the subject counted; a figure that only one has is missing.
fn figures(
    program: &Program,
    base: &Runs,
    subject: &Runs,
) -> BTreeMap<String, (Option<i64>, Option<i64>)> {
    let mut all = BTreeMap::<String, (Option<i64>, Option<i64>)>::new();
    let of = |runs: &Runs| -> Vec<(String, i64)> {
        let runs = runs.get(&program.name).into_iter().flatten();
        runs.flat_map(|r| r.figures.clone()).collect()
    };
    let least = |old: Option<i64>, new: i64| Some(old.map_or(new, |old| old.min(new)));
    for (name, n) in of(base) {
        let pair = all.entry(name).or_default();
        pair.0 = least(pair.0, n);
    }
    for (name, n) in of(subject) {
        let pair = all.entry(name).or_default();
        pair.1 = least(pair.1, n);
    }
    all
}

/// Not larger than in the reference?
fn figure_ok(pair: &(Option<i64>, Option<i64>)) -> bool {
    matches!(pair, (Some(base), Some(subject)) if subject <= base)
}

/// A comparison.
pub struct Suite<'a> {
    pub ctx: &'a Ctx,
    pub run: &'a RunDir,
    pub parts: &'a Parts,
    pub kernels: Kernels<'a>,
    pub plan: &'a Plan,
    pub programs: &'a [Program],
    pub allow: &'a [Allow],
    /// Every mode takes part: what is skipped in all of them is run by nobody.
    pub all_modes: bool,
}

type Runs = BTreeMap<String, Vec<Ran>>;

#[derive(Default)]
struct SubjectRun {
    runs: Runs,
    splats: Vec<Splat>,
    /// Guests that died: during which program, and how.
    deaths: Vec<(String, String)>,
    /// Tables that became conventional because an allocation failed, in guests that lived to their end.
    fallbacks: i64,
    ms: u64,
}

impl Suite<'_> {
    /// Every subject against its reference; one run of a reference serves all. Two guests at a time.
    pub fn compare(&self, subjects: &[Subject]) -> Result<Report> {
        let subjects = self.kernels.with_references(subjects);
        // The unpatched kernel has the fewest programs: last, the lanes end together.
        let mut queue = subjects.clone();
        queue.sort_by_key(|s| *s == Subject::Unpatched);
        let next = Mutex::new(queue.into_iter());
        let done = Mutex::new(BTreeMap::<Subject, Result<SubjectRun>>::new());
        std::thread::scope(|scope| {
            for _ in 0..2.min(subjects.len()) {
                scope.spawn(|| loop {
                    let subject = locked(&next).next();
                    let Some(subject) = subject else { return };
                    let programs = self.programs_of(subject);
                    let result = self.run_in(subject, subject.name(), &programs, self.plan.repeat);
                    locked(&done).insert(subject, result);
                });
            }
        });
        let mut runs = BTreeMap::new();
        for (subject, result) in done.into_inner().unwrap_or_else(|e| e.into_inner()) {
            runs.insert(subject, result?);
        }
        let mut report = Report::default();
        let mut any = false;
        // References come first, so what is wrong with radix itself is told before what is wrong with the modes.
        for subject in subjects {
            let Some(pair) = Pair::of(subject).filter(|p| runs.contains_key(&p.base)) else {
                continue;
            };
            any = true;
            self.compare_pair(pair, &mut runs, &mut report)?;
        }
        for (subject, run) in &runs {
            self.console_cases(subject.name(), run, &mut report);
            self.mixed_case(*subject, run, &mut report);
        }
        if self.all_modes {
            let ours = runs.iter().filter(|(s, _)| **s != Subject::Unpatched);
            let all: Vec<&Runs> = ours.map(|(_, r)| &r.runs).collect();
            for program in self.programs {
                report.cases.extend(never_run(program, &all));
            }
        }
        if !any {
            // By itself: what it says is what it is.
            for (subject, run) in &runs {
                for program in self.programs {
                    let of = run.runs.get(&program.name).into_iter().flatten();
                    for seen in of.flat_map(|r| &r.cases) {
                        report.cases.push(plain_case(*subject, program, seen));
                    }
                }
            }
        }
        Ok(report)
    }

    fn programs_of(&self, subject: Subject) -> Vec<Program> {
        let runs = |p: &&Program| match subject {
            Subject::Unpatched => p.unpatched,
            Subject::Ours(_) => true,
        };
        self.programs.iter().filter(runs).cloned().collect()
    }

    /// What differs at first sight runs again, in both; then the verdict on each case.
    fn compare_pair(
        &self,
        pair: Pair,
        runs: &mut BTreeMap<Subject, SubjectRun>,
        report: &mut Report,
    ) -> Result<()> {
        let name = pair.subject.name();
        let of = |subject: Subject| {
            let run = runs.get(&subject).map(|r| (r.runs.clone(), r.ms));
            run.ok_or_else(|| Fail::infra(format!("{subject} did not run"), "", ""))
        };
        let ((mut base, base_ms), (mut own, ms)) = (of(pair.base)?, of(pair.subject)?);
        let programs = self.programs_of(pair.base);
        let differ = |a: &Runs, b: &Runs| -> Vec<Program> {
            let suspect = |p: &&Program| {
                pair.any_differs(p, &table(p, a, b)) || !figures(p, a, b).values().all(figure_ok)
            };
            programs.iter().filter(suspect).cloned().collect()
        };
        let suspects = differ(&base, &own);
        // What differed at first sight: reruns may not show it again.
        let mut first = serde_json::Map::new();
        if !suspects.is_empty() {
            let names: Vec<&str> = suspects.iter().map(|p| p.name.as_str()).collect();
            self.ctx.ui.info(&format!(
                "different at first sight: {}; each runs {RERUNS} more times in {} and in {name}",
                names.join(", "),
                pair.base,
            ));
            // One after the other: the noise of a busy host is what this is meant to remove.
            for (subject, runs) in [(pair.base, &mut base), (pair.subject, &mut own)] {
                let label = format!("{subject}-again-{name}");
                let again = self.run_in(subject, &label, &suspects, RERUNS)?;
                self.console_cases(&format!("{subject}, again"), &again, report);
                for program in &suspects {
                    let more = again.runs.get(&program.name).cloned().unwrap_or_default();
                    let old = runs.entry(program.name.clone()).or_default();
                    first.insert(
                        format!("{subject}: {}", program.name),
                        serde_json::to_value(&old)?,
                    );
                    if program.must_pass() {
                        // One wrong result is one too many.
                        old.extend(more);
                    } else {
                        // The reruns decide, as sets: the first runs shared the host with each other.
                        *old = more;
                    }
                }
            }
        }
        self.run.set(
            &format!("seconds_{name}"),
            serde_json::json!({ name: ms / 1000, pair.base.name(): base_ms / 1000 }),
        );
        let detail = serde_json::json!({ pair.base.name(): base, name: own, "first": first });
        let text = serde_json::to_string_pretty(&detail)?;
        crate::api::store::write_atomic(
            &self.run.path.join(format!("programs-{name}.json")),
            text.as_bytes(),
        )?;
        let compared = Compared {
            pair,
            base: &base,
            own: &own,
            unpatched: runs
                .get(&Subject::Unpatched)
                .filter(|_| !pair.of_kernels())
                .map(|r| &r.runs),
        };
        for program in &programs {
            compared.cases(program, report);
        }
        let still = differ(&base, &own);
        for program in suspects {
            if still.iter().all(|p| p.name != program.name) {
                report.cases.push(Case::new(
                    &format!("{name}: {}", program.name),
                    AT_FIRST,
                    Outcome::Passed,
                    format!("not in {RERUNS} more runs; programs-{name}.json has both"),
                    0,
                ));
            }
        }
        if let Some(run) = runs.get_mut(&pair.subject) {
            run.runs = own;
        }
        Ok(())
    }

    /// What no other result can make good: a guest that died, or a kernel that warned.
    fn console_cases(&self, subject: &str, run: &SubjectRun, report: &mut Report) {
        let (suite, splats) = (format!("console {subject}"), &run.splats);
        for (program, how) in &run.deaths {
            let name = format!("a guest died (during {program})");
            report
                .cases
                .push(Case::failed(&suite, &name, how.clone(), 0));
        }
        if splats.is_empty() {
            report
                .cases
                .push(Case::passed(&suite, "no kernel warnings", 0));
        }
        for splat in splats {
            let during = if splat.program.is_empty() {
                String::new()
            } else {
                format!(" (during {})", splat.program)
            };
            report.cases.push(Case::failed(
                &suite,
                &format!("kernel warning{during}"),
                splat.line.clone(),
                0,
            ));
        }
    }

    /// With `--mixed`: did tables of other shapes come about?
    fn mixed_case(&self, subject: Subject, run: &SubjectRun, report: &mut Report) {
        if self.plan.mixed.is_none() || !subject.is_flat() {
            return;
        }
        let suite = format!("mixed {subject}");
        let name = "allocations of nodes failed";
        report.cases.push(match run.fallbacks {
            n if n > 0 => Case::new(&suite, name, Outcome::Passed, format!("{n} fallbacks"), 0),
            _ => Case::failed(&suite, name, "no fallbacks: nothing was mixed", 0),
        });
    }

    /// All programs in one subject. A guest that dies is replaced; the program that ran is marked.
    fn run_in(
        &self,
        subject: Subject,
        label: &str,
        programs: &[Program],
        repeat: usize,
    ) -> Result<SubjectRun> {
        let start = std::time::Instant::now();
        let stage = self
            .ctx
            .ui
            .stage(&format!("{} programs in {subject}", programs.len()));
        let mut out = SubjectRun::default();
        let mut deaths = 0;
        let mut guest: Option<Guest> = None;
        // Those of the guest before its first program.
        let mut fallbacks = 0;
        let mut count = 0;
        for (n, program) in programs.iter().enumerate() {
            for _ in 0..repeat {
                let mut fresh = match guest.take() {
                    Some(guest) => guest,
                    None => {
                        count += 1;
                        let name = if count == 1 {
                            label.to_string()
                        } else {
                            format!("{label}.{count}")
                        };
                        let mut fresh = self.fresh(subject, &name)?;
                        fallbacks = self.fallbacks(subject, &mut fresh)?;
                        fresh
                    }
                };
                stage.line(&format!("[{}/{}] {}", n + 1, programs.len(), program.name));
                let ran = match one(&mut fresh, program) {
                    Ok(ran) => {
                        guest = Some(fresh);
                        ran
                    }
                    Err(err) if vm::is_guest_end(&err) => {
                        let (line, _) = fail::report(&err);
                        out.splats.extend(fresh.splats(self.allow));
                        out.deaths.push((program.name.clone(), line.clone()));
                        drop(fresh);
                        deaths += 1;
                        if deaths > DEATHS {
                            return Err(Fail::new(
                                code::GUEST_CRASHED,
                                format!("{deaths} guests died in {subject}"),
                                line,
                                "see the console logs",
                            )
                            .into());
                        }
                        Ran::one("program", "the guest died", Status::Fail, line)
                    }
                    Err(err) => return Err(err),
                };
                let text = format!(
                    "{label} [{}/{}] {}: {} ({:.1} s)",
                    n + 1,
                    programs.len(),
                    program.name,
                    ran.remark(),
                    ran.ms as f64 / 1000.0
                );
                stage.note(&text);
                out.runs.entry(program.name.clone()).or_default().push(ran);
            }
        }
        if let Some(mut guest) = guest {
            out.fallbacks += self.fallbacks(subject, &mut guest)? - fallbacks;
            guest.quit()?;
            out.splats.extend(guest.splats(self.allow));
        }
        out.ms = start.elapsed().as_millis() as u64;
        stage.done("");
        Ok(out)
    }

    /// Nodes that the guest could not have so far; nobody asks without `--mixed`, or where there are none.
    fn fallbacks(&self, subject: Subject, guest: &mut Guest) -> Result<i64> {
        if self.plan.mixed.is_none() || !subject.is_flat() {
            return Ok(0);
        }
        let (exit, said) = guest.run(Exec {
            argv: vec!["fpt-init".into(), "state".into()],
            timeout_s: 60,
            ..Exec::default()
        })?;
        if exit.status() != 0 {
            return Err(Fail::test(
                "the guest does not tell the state of its page tables",
                said,
                "see the console log",
            ));
        }
        let of = |line: &str| {
            let (name, n) = line.split_once(' ')?;
            let n: i64 = n.trim().parse().ok()?;
            name.ends_with("_fallbacks").then_some(n)
        };
        Ok(said.lines().filter_map(of).sum())
    }

    fn fresh(&self, subject: Subject, name: &str) -> Result<Guest> {
        let kernel = self.kernels.of(subject)?;
        let mut spec = self.plan.spec_of(self.parts, kernel, subject);
        // A free GiB in one piece is there at boot and hardly ever later.
        if let Some(n) = self
            .programs
            .iter()
            .map(|p| p.hugepages_1g)
            .max()
            .filter(|n| *n > 0)
        {
            spec.append.push(format!("hugepagesz=1G hugepages={n}"));
        }
        let mut guest = Guest::start(self.ctx, self.run, &self.parts.qemu, &spec, name)?;
        guest.wait_ready(None)?;
        subject.check(&mut guest)?;
        if let Some(percent) = self.plan.mixed {
            // What is saved after this is what each program starts with.
            guest.shell(&format!("fpt-stress inject {percent}"))?;
        }
        guest.shell("fpt-prep save")?;
        Ok(guest)
    }
}

/// Cases of a program of ours that each run in each mode skipped, though the list does not say that they may.
fn never_run(program: &Program, all: &[&Runs]) -> Vec<Case> {
    if !program.must_pass() {
        return Vec::new();
    }
    let mut cases = BTreeMap::<&str, bool>::new();
    let runs = all.iter().filter_map(|runs| runs.get(&program.name));
    for seen in runs.flatten().flat_map(|r| &r.cases) {
        let skipped = cases.entry(&seen.name).or_insert(true);
        *skipped &= seen.status == Status::Skip;
    }
    cases
        .into_iter()
        .filter(|(name, skipped)| *skipped && !program.may_skip.iter().any(|m| m == name))
        .map(|(name, _)| {
            let suite = format!("{EVERY}: {}", program.name);
            Case::failed(&suite, name, "it was skipped in every mode", 0)
        })
        .collect()
}

fn plain_case(subject: Subject, program: &Program, seen: &Seen) -> Case {
    let about_fpt = subject == Subject::Unpatched && program.only_fpt.contains(&seen.name);
    let (outcome, detail) = match seen.status {
        Status::Skip => (Outcome::Skipped, seen.outcome.clone()),
        _ if about_fpt => (
            Outcome::Failed,
            format!("{}, but it asks about flattened tables", seen.outcome),
        ),
        Status::Pass | Status::Xfail => (Outcome::Passed, seen.outcome.clone()),
        Status::Fail | Status::Absent => (Outcome::Failed, seen.outcome.clone()),
    };
    let suite = format!("{subject}: {}", program.name);
    Case::new(&suite, &seen.name, outcome, detail, 0)
}

/// A guest in the wrong mode would compare radix with radix and find everything equal.
pub fn check_mode(guest: &mut Guest, mode: Mode) -> Result<()> {
    let (exit, text) = guest.run(Exec {
        argv: vec!["cat".into(), "/sys/kernel/debug/fpt/mode".into()],
        timeout_s: 30,
        ..Exec::default()
    })?;
    let found = text.trim();
    // A kernel without flattened tables can only be radix.
    if (exit.status() == 0 && found == mode.name())
        || (exit.status() != 0 && mode == Mode::Radix)
        || std::env::var_os("FPT_ANY_MODE").is_some()
    {
        return Ok(());
    }
    let found = if exit.status() == 0 {
        format!("it says '{found}'")
    } else {
        format!("it does not say: {found}")
    };
    Err(Fail::test(
        format!("the guest is not in mode {mode}"),
        found,
        "look for the line 'fpt: mode' in the console log",
    ))
}

/// The runs of a pair, for the verdicts.
struct Compared<'a> {
    pair: Pair,
    base: &'a Runs,
    own: &'a Runs,
    /// Those of the unpatched kernel, if it is not the reference: for what is said of a failure.
    unpatched: Option<&'a Runs>,
}

impl Compared<'_> {
    /// A case for each case of a program, and one for each figure.
    fn cases(&self, program: &Program, report: &mut Report) {
        let (base, subject) = (self.pair.base, self.pair.subject);
        let suite = format!("{subject}: {}", program.name);
        let table = table(program, self.base, self.own);
        let runs = self.own.get(&program.name);
        let first_ms = runs.and_then(|r| r.first()).map_or(0, |r| r.ms);
        if table.is_empty() {
            report
                .cases
                .push(Case::failed(&suite, "program", "no result at all", 0));
        }
        for (n, (name, (in_base, in_subject))) in table.iter().enumerate() {
            let ms = if n == 0 { first_ms } else { 0 };
            let text = outcome_text(in_subject);
            let (outcome, detail) = match self.pair.verdict(program, &table, name) {
                Verdict::Differs | Verdict::Bad => (
                    Outcome::Failed,
                    self.why(program, name, in_base, in_subject),
                ),
                Verdict::Skipped => (Outcome::Skipped, "in both".to_string()),
                Verdict::Passed => (Outcome::Passed, String::new()),
                Verdict::FailsAlike => (Outcome::Passed, format!("{ALIKE}{base}: {text}")),
                Verdict::Alike => (Outcome::Passed, format!("{text}, in both")),
            };
            report
                .cases
                .push(Case::new(&suite, name, outcome, detail, ms));
        }
        for (name, pair) in figures(program, self.base, self.own) {
            let text = |n: Option<i64>| n.map_or("none".to_string(), |n| n.to_string());
            let detail = format!("{}, {base} {}", text(pair.1), text(pair.0));
            let outcome = match figure_ok(&pair) {
                true => Outcome::Passed,
                false => Outcome::Failed,
            };
            let name = format!("figure {name}");
            report
                .cases
                .push(Case::new(&suite, &name, outcome, detail, 0));
        }
    }

    /// What a red case did everywhere, and what it said.
    fn why(&self, program: &Program, case: &str, base: &Outcomes, own: &Outcomes) -> String {
        let mut lines = Vec::new();
        if self.pair.of_kernels() && base != own {
            lines.push(
                "our kernel differs from the unpatched one, whatever the modes do".to_string(),
            );
        }
        if let Some(runs) = self.unpatched.filter(|_| program.unpatched) {
            let set = outcomes(runs.get(&program.name).map_or(&[][..], Vec::as_slice), case);
            lines.push(format!("{}: {}", Subject::Unpatched, outcome_text(&set)));
        }
        lines.push(format!("{}: {}", self.pair.base, outcome_text(base)));
        lines.push(format!("{}: {}", self.pair.subject, outcome_text(own)));
        let base = (self.pair.base, self.base);
        let own = (self.pair.subject, self.own);
        lines.push(said(case, base, own, &program.name));
        lines.join("\n")
    }
}

fn outcome_text(set: &Outcomes) -> String {
    let all: Vec<&str> = set.iter().map(|s| s.0.as_str()).collect();
    all.join(" or ")
}

/// From a run in which this case failed, for the last one may be a good one.
fn said(case: &str, base: (Subject, &Runs), own: (Subject, &Runs), program: &str) -> String {
    let failed = |r: &&Ran| {
        r.cases
            .iter()
            .any(|c| c.name == case && c.status == Status::Fail)
    };
    let of = |(name, runs): (Subject, &Runs)| {
        let ran = runs.get(program).map_or(&[][..], Vec::as_slice);
        let tail = |r: &Ran| format!("from what it said in {name}:\n{}", r.tail);
        (
            ran.iter().rev().find(failed).map(tail),
            ran.last().map(tail),
        )
    };
    let ((in_own, last), (in_base, _)) = (of(own), of(base));
    in_own.or(in_base).or(last).unwrap_or_default()
}

/// What one case did over all runs; a run that has it not counts as `absent`.
fn outcomes(runs: &[Ran], case: &str) -> Outcomes {
    let outcome = |r: &Ran| match r.cases.iter().find(|c| c.name == case) {
        Some(c) => (c.outcome.clone(), c.status),
        None => ("absent".to_string(), Status::Absent),
    };
    runs.iter().map(outcome).collect()
}

fn table(program: &Program, base: &Runs, own: &Runs) -> Table {
    let of = |runs: &'_ Runs| runs.get(&program.name).cloned().unwrap_or_default();
    let (base, own) = (of(base), of(own));
    let cases = base.iter().chain(&own).flat_map(|r| &r.cases);
    let names: BTreeSet<&String> = cases.map(|c| &c.name).collect();
    let pair = |name: &String| (outcomes(&base, name), outcomes(&own, name));
    names.into_iter().map(|n| (n.clone(), pair(n))).collect()
}

/// One program in a guest put back to its first state.
fn one(guest: &mut Guest, program: &Program) -> Result<Ran> {
    let state = format!(
        "fpt-prep reset {} {} {}",
        program.hugepages,
        program.hugepages_1g,
        i32::from(program.swap())
    );
    let (exit, said) = guest.run(Exec {
        argv: vec!["sh".into(), "-c".into(), state],
        timeout_s: 120,
        ..Exec::default()
    })?;
    let said = said.trim();
    if let (0, Some(why)) = (exit.status(), said.strip_prefix("skip: ")) {
        return Ok(Ran::one(
            "program",
            format!("skip: {why}"),
            Status::Skip,
            said,
        ));
    }
    if exit.status() != 0 || said != "ok" {
        return Ok(Ran::one(
            PREPARE,
            "the guest could not be prepared",
            Status::Fail,
            said,
        ));
    }
    for file in program.files() {
        let (exit, _) = guest.run(Exec {
            argv: vec!["test".into(), "-e".into(), file.into()],
            timeout_s: 30,
            ..Exec::default()
        })?;
        if exit.status() != 0 {
            return Ok(Ran::one(
                PREPARE,
                format!("no {file}"),
                Status::Fail,
                format!("the program needs {file}, which the guest has not"),
            ));
        }
    }
    let shell = |line: &str| Exec {
        argv: vec!["sh".into(), "-c".into(), line.into()],
        timeout_s: 60,
        ..Exec::default()
    };
    if !program.setup.is_empty() {
        let (exit, text) = guest.run(shell(&program.setup))?;
        if exit.status() != 0 {
            return Ok(Ran::one(PREPARE, "its setup failed", Status::Fail, text));
        }
    }
    let id = guest.new_id();
    guest.start_exec(Exec {
        id,
        argv: program.argv.clone(),
        env: program.env.clone(),
        cwd: Some(format!("/selftests/{}", program.dir)),
        timeout_s: program.timeout_s,
        solo: true,
        mark: Some(program.name.clone()),
        ..Exec::default()
    })?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let hard = Duration::from_secs(program.timeout_s + 120);
    let exit = guest.wait_exit(id, None, Some(hard), &mut |stream, data| {
        match stream {
            Stream::Stdout => stdout.extend_from_slice(data),
            Stream::Stderr => stderr.extend_from_slice(data),
        }
        Ok(())
    })?;
    if !program.teardown.is_empty() {
        let (exit, text) = guest.run(shell(&program.teardown))?;
        if exit.status() != 0 {
            return Ok(Ran::one(PREPARE, "its teardown failed", Status::Fail, text));
        }
    }
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    if let Some(how) = cannot_start(&exit) {
        return Ok(Ran::one(
            PREPARE,
            how,
            Status::Fail,
            format!("{stdout}{stderr}"),
        ));
    }
    Ok(judge(program, &exit, &stdout, &stderr))
}

/// As init and every shell report it.
fn cannot_start(exit: &vm::Exit) -> Option<&'static str> {
    match (exit.timeout, exit.signal, exit.code) {
        (false, 0, 126) => Some("it cannot be started (exit code 126)"),
        (false, 0, 127) => Some("it cannot be started, not found (exit code 127)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(tap: bool) -> Program {
        let text = format!(
            "name='mm/x'\ndir='mm'\nargv=['./x']\ntimeout_s=5\ntap={tap}\n{}",
            if tap { "" } else { "cases=['Testing ']\n" }
        );
        toml::from_str(&text).unwrap()
    }

    fn exit(code: i32, signal: i32, timeout: bool) -> vm::Exit {
        vm::Exit {
            code,
            signal,
            timeout,
            ms: 1,
        }
    }

    fn runs(list: &[Ran]) -> Runs {
        [("mm/x".to_string(), list.to_vec())].into()
    }

    #[test]
    fn what_a_failed_case_said() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(excerpt(&lines).starts_with("line 74\n") && excerpt(&lines).ends_with("line 99"));
        lines[50] = "# a.c:7:case:Expected 0 (0) == x (1)";
        assert_eq!(
            excerpt(&lines),
            format!("line 47\nline 48\nline 49\n{}", lines[50])
        );
        assert_eq!(excerpt(&[]), "");
        assert_eq!(excerpt(&["not ok 1 a"; 99]).lines().count(), 1);
        let many: Vec<String> = (0..99).map(|n| format!("not ok {n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(excerpt(&many).lines().count(), 26);

        let good = Ran::one("a", "ok", Status::Pass, "good");
        let bad = Ran::one("a", "no", Status::Fail, "bad");
        let text = |radix: &[&Ran], mode: &[&Ran]| {
            let of = |list: &[&Ran]| runs(&list.iter().copied().cloned().collect::<Vec<_>>());
            let (radix, mode) = (of(radix), of(mode));
            said(
                "a",
                (Subject::RADIX, &radix),
                (Subject::Ours(Mode::L3L2), &mode),
                "mm/x",
            )
        };
        let (g, b) = (&good, &bad);
        assert!(text(&[g], &[b, g]).ends_with("l3l2:\nbad"));
        assert!(text(&[b, g], &[g]).ends_with("radix:\nbad"));
        assert!(text(&[g], &[g]).ends_with("l3l2:\ngood"));
        assert_eq!(text(&[b], &[]), "from what it said in radix:\nbad");
        assert_eq!(text(&[g], &[]), "");
    }

    #[test]
    fn a_failing_line_is_the_same_case_as_a_passing_one() {
        let mut program = program(false);
        program.cases = ["ok ", "not ok ", "["].map(String::from).to_vec();
        let said = "ok 1 a\nnot ok 2 b\nok 3 # SKIP c\n[OK]\tfine\n[FAIL]\tnot so\n";
        let ran = judge(&program, &exit(0, 0, false), said, "");
        let list: Vec<(&str, Status)> = ran
            .cases
            .iter()
            .map(|c| (c.name.as_str(), c.status))
            .collect();
        assert_eq!(
            list,
            [
                ("1 a", Status::Pass),
                ("2 b", Status::Fail),
                ("3 c", Status::Skip),
                ("[OK]\tfine", Status::Pass),
                ("[FAIL]\tnot so", Status::Fail),
                ("exit", Status::Pass),
            ]
        );
    }

    #[test]
    fn what_every_mode_skips_is_red_unless_the_list_says_why() {
        let mut program = program(true);
        let ran = |text: &str| judge(&program, &exit(0, 0, false), text, "");
        let skips = runs(&[ran("1..1\nok 1 a # SKIP\n")]);
        let runs_it = runs(&[ran("1..1\nok 1 a\n")]);
        // Of upstream's programs radix decides.
        assert!(never_run(&program, &[&skips, &skips]).is_empty());
        program.dir = "fpt".into();
        let red = never_run(&program, &[&skips, &skips]);
        assert_eq!(red.len(), 1);
        assert_eq!(
            (red[0].name.as_str(), red[0].outcome),
            ("a", Outcome::Failed)
        );
        assert!(never_run(&program, &[&skips, &runs_it]).is_empty());
        program.may_skip = vec!["a".into()];
        assert!(never_run(&program, &[&skips, &skips]).is_empty());
    }

    #[test]
    fn plan_and_exit_are_cases() {
        let ran = judge(
            &program(true),
            &exit(0, 0, false),
            "TAP version 13\n1..2\nok 1 a\n",
            "",
        );
        let failed: Vec<&str> = ran
            .cases
            .iter()
            .filter(|c| c.status == Status::Fail)
            .map(|c| c.name.as_str())
            .collect();
        assert_eq!(failed, ["TAP plan"]);
        let ran = judge(&program(true), &exit(0, 9, true), "1..1\nok 1 a\n", "");
        assert_eq!(ran.cases.last().unwrap().status, Status::Fail);
        let ran = judge(&program(true), &exit(4, 0, false), "1..0 # SKIP x\n", "");
        assert!(ran
            .cases
            .iter()
            .any(|c| c.name == "program" && c.status == Status::Skip));
    }

    #[test]
    fn lines_are_cases() {
        let ran = judge(&program(false), &exit(0, 0, false), "Testing a on anon... done\nTesting b... skipped [reason: x]\nnoise\nTesting a on anon... failed\n", "");
        let list: Vec<(&str, &str, Status)> = ran
            .cases
            .iter()
            .map(|c| (c.name.as_str(), c.outcome.as_str(), c.status))
            .collect();
        assert_eq!(
            list,
            [
                ("Testing a on anon", "done", Status::Pass),
                ("Testing b", "skipped [reason: x]", Status::Skip),
                ("Testing a on anon [2]", "failed", Status::Fail),
                ("exit", "exit code 0", Status::Pass)
            ]
        );
    }

    #[test]
    fn figures_may_not_exceed_those_of_radix() {
        let mut program = program(true);
        let ran = |p: &Program, n: &str| {
            let said = format!("TAP version 13\n1..1\n# figure flushes of a: b: {n}\nok 1 a\n");
            judge(p, &exit(0, 0, false), &said, "")
        };
        assert!(ran(&program, "3").figures.is_empty());
        program.figures = true;
        let of = |radix: &[&str], mode: &[&str]| {
            let runs =
                |list: &[&str]| runs(&list.iter().map(|n| ran(&program, n)).collect::<Vec<_>>());
            let all = figures(&program, &runs(radix), &runs(mode));
            assert!(all.keys().all(|k| k == "flushes of a: b"));
            !all.is_empty() && all.values().all(figure_ok)
        };
        assert!(of(&["3"], &["3"]));
        assert!(of(&["3"], &["9", "2"]));
        assert!(!of(&["3"], &["4", "9"]));
        assert!(!of(&["9", "3"], &["4"]));
        assert!(!of(&["3"], &["x"]));
        assert!(!of(&["x"], &["3"]));
        assert!(!of(&["x"], &["x"]));
    }

    #[test]
    fn a_repeated_line_counts_once_where_the_list_says_so() {
        let mut program = program(false);
        let said = "Testing a... done\nTesting a... done\n";
        let count = |p: &Program| judge(p, &exit(0, 0, false), said, "").cases.len();
        assert_eq!(count(&program), 3);
        program.unique = true;
        assert_eq!(count(&program), 2);
    }

    #[test]
    fn a_skip_or_a_pass_too_much_is_a_difference() {
        let ok = judge(&program(true), &exit(0, 0, false), "1..1\nok 1 a\n", "");
        let skip = judge(
            &program(true),
            &exit(0, 0, false),
            "1..1\nok 1 a # SKIP\n",
            "",
        );
        let one = std::slice::from_ref::<Ran>;
        let differs = |a: &[Ran], b: &[Ran]| {
            table(&program(true), &runs(a), &runs(b))
                .values()
                .any(|(x, y)| x != y)
        };
        assert!(differs(one(&ok), one(&skip)));
        assert!(differs(one(&skip), one(&ok)));
        assert!(!differs(one(&ok), one(&ok)));
        // Flaky in both: the sets agree.
        assert!(!differs(
            &[ok.clone(), skip.clone()],
            &[skip, ok.clone(), ok.clone()]
        ));
        let crash = Ran::one("program", "the guest died", Status::Fail, "");
        assert!(differs(&[ok], &[crash]));
    }
}
