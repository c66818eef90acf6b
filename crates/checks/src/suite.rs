// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of the list in every subject, and each subject compared with its reference.

use std::collections::{BTreeMap, BTreeSet};

use fpt_init::proto::Exec;

use super::list::Program;
use super::ran::{one, Ran, Seen};
use super::verdict::{Outcomes, Pair, Table, Verdict, LIMIT};
use fpt_kit::{code, fail, lanes, Ctx, Fail, Result};
use fpt_lab::nodes;
use fpt_lab::parts::Parts;
use fpt_lab::plan::Plan;
use fpt_lab::subject::{Kernels, Subject};
use fpt_verdict::remarks::{AT_FIRST, CANNOT};
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::RunDir;
use fpt_verdict::tap::Status;
use fpt_vm::console::{Allow, Splat};
use fpt_vm::vm::{self, Guest};

/// Guests that may die in one mode before the mode is given up.
const DEATHS: usize = 8;
/// Guests that run at a time.
const LANES: usize = 2;
/// Runs of a program whose results differ, after the first one.
const RERUNS: usize = 3;
/// The group of cases that no single mode answers for.
const EVERY: &str = "every mode";
/// What to do about a case that is not as the list says.
const UNEXPLAINED: &str =
    "it fails in the reference, too: mend the guest, or name it under `cannot` in selftests/list.toml with the reason";
const UNEXPECTED: &str =
    "selftests/list.toml says that it cannot pass, and it did not fail each time: take it out there";

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
    /// What every command has.
    pub ctx: &'a Ctx,
    /// The run folder.
    pub run: &'a RunDir,
    /// Kernel, QEMU and root file system.
    pub parts: &'a Parts,
    /// The kernels that are compared.
    pub kernels: Kernels<'a>,
    /// The guests.
    pub plan: &'a Plan,
    /// What runs in them.
    pub programs: &'a [Program],
    /// Complaints of the kernel that are allowed.
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

impl SubjectRun {
    fn add(&mut self, other: SubjectRun) {
        self.runs.extend(other.runs);
        self.splats.extend(other.splats);
        self.deaths.extend(other.deaths);
        self.fallbacks += other.fallbacks;
        self.ms += other.ms;
    }
}

impl Suite<'_> {
    /// Every subject against its reference; one run of a reference serves all. Two guests at a time.
    pub fn compare(&self, subjects: &[Subject]) -> Result<Report> {
        let subjects = self.kernels.with_references(subjects);
        let jobs = self.jobs(&subjects);
        let done = lanes::each(LANES, jobs, |(subject, label, programs)| {
            let result = self.run_in(subject, &label, &programs, self.plan.repeat);
            (subject, result)
        });
        let mut runs = BTreeMap::<Subject, SubjectRun>::new();
        for (subject, result) in done {
            runs.entry(subject).or_default().add(result?);
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

    /// What each guest runs. The unpatched kernel comes last, and if the lanes would not end together in two guests.
    fn jobs(&self, subjects: &[Subject]) -> Vec<(Subject, String, Vec<Program>)> {
        let mut queue = subjects.to_vec();
        queue.sort_by_key(|s| *s == Subject::Unpatched);
        let mut jobs = Vec::new();
        for subject in queue {
            let programs = self.programs_of(subject);
            let halves = subject == Subject::Unpatched && subjects.len() % LANES == 1;
            if halves && programs.len() > 1 {
                for lane in 0..LANES {
                    let half: Vec<Program> =
                        programs.iter().skip(lane).step_by(LANES).cloned().collect();
                    jobs.push((subject, format!("{subject}-{}", lane + 1), half));
                }
            } else {
                jobs.push((subject, subject.to_string(), programs));
            }
        }
        jobs
    }

    fn programs_of(&self, subject: Subject) -> Vec<Program> {
        let runs = |p: &&Program| match subject {
            Subject::Unpatched => p.unpatched,
            Subject::Ours(_) => true,
        };
        self.programs.iter().filter(runs).cloned().collect()
    }

    /// What is red at first sight runs again, in both; then the verdict on each case.
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
                pair.any_doubt(p, &table(p, a, b)) || !figures(p, a, b).values().all(figure_ok)
            };
            programs.iter().filter(suspect).cloned().collect()
        };
        let suspects = differ(&base, &own);
        // What was red at first sight: reruns may not show it again.
        let mut first = serde_json::Map::new();
        if !suspects.is_empty() {
            let names: Vec<&str> = suspects.iter().map(|p| p.name.as_str()).collect();
            self.ctx.ui.info(&format!(
                "red at first sight: {}; each runs {RERUNS} more times in {} and in {name}",
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
        fpt_kit::store::write_atomic(
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
            nodes::check_made(&mut guest, subject.tables())?;
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
        self.plan.watch(self.run, name, &self.parts.qemu, &mut spec);
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
    let cannot = program.cannot_pass(&seen.name);
    let about_fpt = subject == Subject::Unpatched && program.only_fpt.contains(&seen.name);
    let as_listed = seen.status == Status::Fail && !seen.outcome.starts_with(LIMIT);
    let (outcome, detail) = match seen.status {
        _ if cannot.is_some() && !as_listed => {
            (Outcome::Failed, format!("{UNEXPECTED}\n{}", seen.outcome))
        }
        Status::Fail if cannot.is_some() => (
            Outcome::Passed,
            format!("{CANNOT}{}", cannot.unwrap_or_default()),
        ),
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
            let verdict = self.pair.verdict(program, &table, name);
            let why = || self.why(program, name, in_base, in_subject);
            let (outcome, detail) = match verdict {
                Verdict::Differs | Verdict::Bad => (Outcome::Failed, why()),
                Verdict::Unexplained => (Outcome::Failed, format!("{UNEXPLAINED}\n{}", why())),
                Verdict::Unexpected => (Outcome::Failed, format!("{UNEXPECTED}\n{}", why())),
                Verdict::Cannot => {
                    let reason = program.cannot_pass(name).unwrap_or_default();
                    (Outcome::Passed, format!("{CANNOT}{reason}"))
                }
                Verdict::Skipped => (Outcome::Skipped, "in both".to_string()),
                Verdict::Passed => (Outcome::Passed, String::new()),
                Verdict::Alike => (Outcome::Passed, format!("{text}, in both")),
            };
            report
                .cases
                .push(Case::new(&suite, name, outcome, detail, ms));
        }
        for name in program.all_that_cannot() {
            if !table.contains_key(name) {
                let why = format!("{UNEXPECTED}\nno run had it");
                report.cases.push(Case::failed(&suite, name, why, 0));
            }
        }
        for (name, pair) in figures(program, self.base, self.own) {
            let text = |n: Option<i64>| n.map_or("none".to_string(), |n| n.to_string());
            let detail = format!("{}, {base} {}", text(pair.1), text(pair.0));
            let outcome = if figure_ok(&pair) {
                Outcome::Passed
            } else {
                Outcome::Failed
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

#[cfg(test)]
mod tests {
    use super::super::ran::judge;
    use super::super::ran::tests::{exit, program};
    use super::*;
    use fpt_geometry::Mode;

    fn runs(list: &[Ran]) -> Runs {
        [("mm/x".to_string(), list.to_vec())].into()
    }

    #[test]
    fn what_a_failed_case_said() {
        let good = Ran::one("a", "ok", Status::Pass, "good");
        let bad = Ran::one("a", "no", Status::Fail, "bad");
        let text = |radix: &[&Ran], mode: &[&Ran]| {
            let of = |list: &[&Ran]| runs(&list.iter().copied().cloned().collect::<Vec<_>>());
            let (radix, mode) = (of(radix), of(mode));
            said(
                "a",
                (Subject::RADIX, &radix),
                (Subject::from(Mode::L3L2), &mode),
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
