// SPDX-License-Identifier: MIT OR Apache-2.0
//! One subject under stress: its guest from the boot to the last look at its counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use fpt_init::proto::{Ev, Exec, Op};

use fpt_kit::{code, fail, Fail, Result};
use fpt_lab::process_mode;
use fpt_lab::subject::Subject;
use fpt_verdict::results::{Case, Outcome};
use fpt_verdict::rundir;
use fpt_vm::vm::{self, Exit, Guest};

use super::scenario::{
    vm_class, Lane, Random, Running, Scenario, Turn, EXCLUDED, GRACE_S, KSM, STORM, SWAP,
};
use super::story::{record, suite, sum, totals, Phase, Story};
use super::{Site, Stress, PACKAGE};
use crate::counts::{
    ask, change, count, counts, last_lines, left_cases, left_over, state, Counts, IN_ORDER, SETTLE,
};

/// The kernel looks at a page twice before it merges it, at its leisure.
pub(super) const MERGE_S: u64 = 12;

/// What a guest works on.
pub(super) struct Load {
    pub(super) lanes: Vec<Lane>,
    /// Loops of `fpt-stress`, each of which runs all the time.
    pub(super) loops: Vec<Scenario>,
    /// Scenarios that had a turn.
    pub(super) done: BTreeSet<Scenario>,
    /// Turns so far.
    pub(super) started: usize,
}

/// One subject.
pub(super) struct One<'a> {
    pub(super) stress: &'a Stress,
    pub(super) site: &'a Site<'a>,
    pub(super) subject: Subject,
    /// The name of its guest and logs.
    pub(super) label: &'a str,
}

impl One<'_> {
    /// The story and the cases, also of a guest that died.
    pub(super) fn whole(&self) -> (Story, Vec<Case>) {
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

    pub(super) fn story(&self, slot: &mut Option<Guest>, story: &mut Story) -> Result<()> {
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
        for scenario in [
            Scenario::Compact,
            Scenario::Hotplug,
            Scenario::Demote,
            Scenario::Ksm,
            Scenario::Check,
        ] {
            if !self.stress.wants(scenario) && scenario != Scenario::Check {
                continue;
            }
            let said = ask(guest, &["fpt-stress", "ready", scenario.name()])?;
            match said.trim() {
                "ok" if scenario == Scenario::Demote
                    && !self.subject.tables().flattens_below_root() =>
                {
                    let why = "there are no nodes below the root here";
                    story.skipped.insert(scenario, why.into());
                }
                "ok" => loops.push(scenario),
                why => drop(story.skipped.insert(scenario, why.to_string())),
            }
        }
        let mut load = Load {
            lanes: self.lanes(&vm_class, &loops)?,
            loops,
            done: BTreeSet::new(),
            started: 0,
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
    pub(super) fn lanes(&self, vm_class: &[String], loops: &[Scenario]) -> Result<Vec<Lane>> {
        let mut random = Random(u64::from(self.stress.seed));
        let mut vm: Vec<Turn> = vm_class
            .iter()
            .filter(|n| !EXCLUDED.iter().any(|e| e.0 == n.as_str()))
            .map(|n| Turn::new(Scenario::Vm, n))
            .collect();
        let mut rest: Vec<Turn> = STORM
            .iter()
            .map(|n| Turn::new(Scenario::Storm, n))
            .collect();
        rest.extend(SWAP.iter().map(|(name, args)| Turn {
            place: Some("swap"),
            args,
            ..Turn::new(Scenario::Swap, name)
        }));
        if loops.contains(&Scenario::Ksm) {
            rest.push(Turn {
                args: KSM.1,
                ..Turn::new(Scenario::Ksm, KSM.0)
            });
        }
        rest.push(Turn::new(Scenario::Threads, "fpt_stress"));
        vm.retain(|t| self.stress.wants_turn(t));
        rest.retain(|t| self.stress.wants_turn(t));
        if vm.is_empty()
            && rest.is_empty()
            && loops.iter().all(|l| *l == Scenario::Check)
            && !self.stress.wants(Scenario::Check)
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
            let first = [
                Scenario::Ksm,
                Scenario::Swap,
                Scenario::Threads,
                Scenario::Storm,
            ];
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
    pub(super) fn phase(
        &self,
        guest: &mut Guest,
        load: &mut Load,
        phase: &mut Phase,
        last: bool,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        let Load {
            lanes,
            loops,
            done,
            started,
        } = load;
        let start = Instant::now();
        let end = start + Duration::from_secs(phase.seconds);
        let mut looping: BTreeMap<u64, (Scenario, String)> = BTreeMap::new();
        for scenario in loops.iter().copied() {
            let id = guest.new_id();
            guest.start_exec(Exec {
                id,
                argv: vec![
                    "fpt-stress".into(),
                    scenario.to_string(),
                    phase.seconds.to_string(),
                ],
                timeout_s: phase.seconds + GRACE_S,
                ..Exec::default()
            })?;
            looping.insert(id, (scenario, String::new()));
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
                    .is_some_and(|t| last && !done.contains(&t.scenario));
                if !time && !first && start.elapsed().as_secs() > 0 {
                    continue;
                }
                let Some(turn) = lane.next() else { continue };
                done.insert(turn.scenario);
                let id = guest.new_id();
                progress(&format!("{} {}", turn.scenario, turn.name));
                let seconds = match turn.scenario {
                    Scenario::Ksm => lane.slice.max(MERGE_S),
                    _ => lane.slice,
                };
                let seconds = seconds.min(phase.seconds);
                let mut exec = turn.exec(id, seconds, self.stress.seed);
                exec.argv = process_mode::dealt(self.subject.tables(), *started, exec.argv);
                *started += 1;
                guest.start_exec(exec)?;
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
                    if let Some((scenario, said)) = looping.remove(&id) {
                        phase.loops.extend(counts(&said));
                        if exit.status() != 0 {
                            let tally = phase
                                .stressors
                                .entry(scenario)
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

    pub(super) fn stuck(
        &self,
        guest: &mut Guest,
        lanes: &[Lane],
        looping: &BTreeMap<u64, (Scenario, String)>,
    ) -> anyhow::Error {
        let names: Vec<String> = lanes
            .iter()
            .filter_map(|l| l.running.as_ref())
            .map(|r| format!("{} {}", r.turn.scenario, r.turn.name))
            .chain(looping.values().map(|(scenario, _)| scenario.to_string()))
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

    pub(super) fn stressor_cases(&self, suite: &str, story: &Story) -> Vec<Case> {
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
    pub(super) fn end_cases(&self, suite: &str, story: &Story) -> Vec<Case> {
        let total = |name: &str| -> i64 {
            let of = |c: &Counts| count(c, name);
            story
                .phases
                .iter()
                .map(|p| of(&p.loops) + of(&p.kernel))
                .sum()
        };
        let mut cases = Vec::new();
        let at_work = |scenario: Scenario, counter: &str, what: &str| {
            let name = format!("{scenario} was at work");
            match (story.skipped.get(&scenario), total(counter)) {
                // A mode with nodes below the root can detach them; nothing else shows that this is lost.
                (Some(why), _)
                    if scenario == Scenario::Demote
                        && self.subject.tables().flattens_below_root() =>
                {
                    Case::failed(suite, &name, why.clone(), 0)
                }
                (Some(why), _) if scenario == Scenario::Check && self.subject.is_flat() => {
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
            (Scenario::Swap, "pswpout", "pages swapped out"),
            // How many of them are merged depends on the time that a busy host leaves; the log has it.
            (Scenario::Ksm, "ksm_scanned", "pages looked at for merging"),
            (Scenario::Compact, "compactions", "compactions"),
            (Scenario::Hotplug, "offlined", "blocks taken out"),
            (Scenario::Demote, "demotions", "nodes demoted"),
            (Scenario::Check, "checks", "address spaces verified"),
        ] {
            if self.stress.wants(scenario) || scenario == Scenario::Check {
                cases.push(at_work(scenario, counter, what));
            }
        }
        for scenario in [Scenario::Vm, Scenario::Storm, Scenario::Threads] {
            if self.stress.wants(scenario) {
                let ops: u64 = story
                    .phases
                    .iter()
                    .filter_map(|p| p.stressors.get(&scenario))
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
