// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of it: each turn, each phase, each guest.

use std::collections::BTreeMap;
use std::time::SystemTime;

use fpt_geometry::Boot;
use fpt_lab::subject::Subject;
use fpt_verdict::rundir;
use fpt_vm::vm::Exit;
use serde::Serialize;

use super::scenario::{Running, Scenario, Stressor};
use crate::counts::{count, last_lines, Counts};

/// How one turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// The guest lacks what it needs.
    NotHere,
    /// The kernel killed it for want of memory, or so it says.
    Killed,
    Failed,
}

/// stress-ng's exit codes: 0 ok, 1 wrong use or nothing started, 2 a stressor failed, 3 no resources, 4 not
/// implemented, 5 killed by a signal, 7 ended without telling its counts.
pub(super) fn verdict(scenario: Scenario, exit: &Exit, text: &str) -> Verdict {
    match (exit.timeout, exit.signal, exit.code) {
        // What it refuses to run it calls a success.
        (false, 0, 0 | 1) if text.contains("No stress workers invoked") => Verdict::NotHere,
        (false, 0, 0) => Verdict::Ok,
        (false, 0, 3 | 4) if scenario != Scenario::Threads => Verdict::NotHere,
        (false, 0, 5 | 7) if scenario != Scenario::Threads => Verdict::Killed,
        _ => Verdict::Failed,
    }
}

/// The stressor's count of what it did: `stress-ng: metrc: [PID] NAME COUNT ...`.
pub(super) fn bogo_ops(text: &str, name: &str) -> u64 {
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
pub(super) fn thread_ops(text: &str) -> u64 {
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
pub(super) struct Tally {
    pub(super) runs: u64,
    pub(super) bogo_ops: u64,
    pub(super) ms: u64,
    pub(super) not_here: u64,
    pub(super) killed: u64,
    pub(super) failed: u64,
    /// How each failed turn ended, with its last lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failures: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        self.runs += other.runs;
        self.bogo_ops += other.bogo_ops;
        self.ms += other.ms;
        self.not_here += other.not_here;
        self.killed += other.killed;
        self.failed += other.failed;
        self.failures.extend(other.failures.iter().cloned());
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Phase {
    pub(super) fail_percent: u32,
    pub(super) seconds: u64,
    pub(super) injected: i64,
    /// Tallies by scenario and stressor.
    pub(super) stressors: BTreeMap<Scenario, BTreeMap<String, Tally>>,
    /// What the guest's own loops counted.
    pub(super) loops: Counts,
    /// Change of the kernel's counters.
    pub(super) kernel: Counts,
}

/// One guest's story.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Story {
    #[serde(rename = "mode")]
    pub(super) subject: Subject,
    /// On the unpatched kernel, because of what failed before.
    pub(super) again: bool,
    pub(super) began_utc: String,
    pub(super) ended_utc: String,
    pub(super) uname: String,
    pub(super) seed: u32,
    pub(super) skipped: BTreeMap<Scenario, String>,
    pub(super) phases: Vec<Phase>,
    pub(super) start: Counts,
    pub(super) end: Counts,
    pub(super) outcome: String,
}

impl Story {
    /// It begins now.
    pub(super) fn new(subject: Subject, seed: u32) -> Story {
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

/// The group of a subject's cases.
pub(super) fn suite(subject: Subject) -> String {
    format!("stress/{subject}")
}

/// Over the kinds of nodes that the mode has.
pub(super) fn sum(counts: &Counts, mode: Boot, what: &str) -> i64 {
    mode.kinds()
        .map(|k| count(counts, &format!("{k}_{what}")))
        .sum()
}

/// What failed in a story, and can be tried on another kernel.
pub(super) fn failed_stressors(story: &Story) -> Vec<Stressor> {
    let all = totals(story).into_iter();
    all.filter(|((scenario, _), t)| t.failed > 0 && *scenario != Scenario::Check)
        .map(|(s, _)| s)
        .collect()
}

/// What a stressor did on the unpatched kernel, in a line.
pub(super) fn on_unpatched(story: &Story, stressor: &Stressor) -> String {
    let all = totals(story);
    match all.get(stressor) {
        Some(t) if t.failed > 0 => format!(
            "fails on the unpatched kernel, too: {} of {} turns",
            t.failed, t.runs
        ),
        Some(t) if t.runs > t.not_here => {
            format!("does not fail on the unpatched kernel: {} turns", t.runs)
        }
        // A loop that does not fail leaves no turn.
        None if stressor.1 == "loop" && !story.end.is_empty() => {
            "does not fail on the unpatched kernel".to_string()
        }
        _ => format!("did not run on the unpatched kernel: {}", story.outcome),
    }
}

/// All turns of each stressor. Without a killer at work nothing of theirs may be killed.
pub(super) fn totals(story: &Story) -> BTreeMap<Stressor, Tally> {
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
                all.entry((*scenario, name.clone()))
                    .or_default()
                    .add(&tally);
            }
        }
    }
    all
}

pub(super) fn record(phase: &mut Phase, r: &Running, exit: &Exit) {
    let tally = phase
        .stressors
        .entry(r.turn.scenario)
        .or_default()
        .entry(r.turn.name.clone())
        .or_default();
    tally.runs += 1;
    tally.ms += exit.ms;
    tally.bogo_ops += match r.turn.scenario {
        Scenario::Threads => thread_ops(&r.text),
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

pub(super) fn tail_word(n: u64, word: &str) -> String {
    match n {
        0 => String::new(),
        n => format!(", {n} {word}"),
    }
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
        assert_eq!(
            thread_ops("# mode x, 3 s\n# 12 map\n# 30 touch\nok 1 contents\n"),
            42
        );
    }

    #[test]
    fn exits() {
        let of =
            |scenario, code, signal, timeout| verdict(scenario, &exit(code, signal, timeout), "");
        assert_eq!(of(Scenario::Vm, 0, 0, false), Verdict::Ok);
        assert_eq!(of(Scenario::Vm, 1, 0, false), Verdict::Failed);
        assert_eq!(of(Scenario::Vm, 2, 0, false), Verdict::Failed);
        assert_eq!(of(Scenario::Vm, 3, 0, false), Verdict::NotHere);
        assert_eq!(of(Scenario::Vm, 5, 0, false), Verdict::Killed);
        assert_eq!(of(Scenario::Vm, 0, 9, false), Verdict::Failed);
        assert_eq!(of(Scenario::Vm, 0, 0, true), Verdict::Failed);
        // The codes of a kselftest mean something else.
        assert_eq!(of(Scenario::Threads, 4, 0, false), Verdict::Failed);
        let refused = "stress-ng: error: [7] No stress workers invoked";
        assert_eq!(
            verdict(Scenario::Vm, &exit(0, 0, false), refused),
            Verdict::NotHere
        );
        assert_eq!(
            verdict(Scenario::Vm, &exit(2, 0, false), refused),
            Verdict::Failed
        );
    }
}
