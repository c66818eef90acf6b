// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the ledger and the oracle side by side.

use std::collections::BTreeSet;

use crate::check::Release;
use crate::cpu::{CpuId, Invalidation, Origin, Site, Task};
use crate::finding::{Rule, What};
use crate::geometry::Frame;
use crate::ledger::Ledger;
use crate::rules::Knobs;

use super::brute::{Brute, Event, Found, Item, CPUS};
use super::toy::{self, Memory};

/// Both, after the same events.
#[derive(Clone)]
pub(super) struct Pair {
    ledger: Ledger<Memory>,
    brute: Brute,
}

fn by(cpu: u8) -> Origin {
    Origin {
        cpu: CpuId(cpu),
        task: Task(u64::from(cpu)),
        site: Site(0),
        time: 0,
    }
}

/// Is one part of the other? Then it allows nothing that the other does not.
fn within(small: &Item, large: &Item) -> bool {
    if (small.0, small.1) != (large.0, large.1) {
        return false;
    }
    match (small.2, large.2) {
        (What::Leaf(s), What::Leaf(l)) => {
            l.rights.has(s.rights)
                && (s.frame, s.level, s.global, s.memory_type)
                    == (l.frame, l.level, l.global, l.memory_type)
        }
        (What::Table(s), What::Table(l)) => {
            l.rights.has(s.rights) && (s.frame, s.frames, s.level) == (l.frame, l.frames, l.level)
        }
        _ => false,
    }
}

fn all_within<'a>(a: impl Iterator<Item = &'a Item>, b: &BTreeSet<Item>) -> Option<Item> {
    let mut a = a;
    a.find(|s| !b.contains(s) && !b.iter().any(|l| within(s, l)))
        .copied()
}

/// R1 of a linked table says all that the holders say.
fn normal(mut found: Found) -> Found {
    if found.contains(&(Rule::R1, None)) {
        found.retain(|f| f.0 != Rule::R1 || f.1.is_none());
    }
    found
}

impl Pair {
    pub(super) fn new(memory: Memory, knobs: Knobs) -> Pair {
        let brute = Brute::new(memory.clone(), knobs.psc);
        Pair {
            ledger: Ledger::new(toy::GEOMETRY, knobs, CPUS, memory),
            brute,
        }
    }

    fn feed(&mut self, event: Event) -> Found {
        let l = &mut self.ledger;
        let result = match event {
            Event::Store(pa, value) => {
                let old = l.memory_mut().get(pa);
                l.memory_mut().put(pa, value);
                l.store(&by(0), pa, old, value)
            }
            Event::Hardware(pa, bits) => {
                let value = l.memory_mut().get(pa).unwrap_or(0);
                if value & crate::geometry::P != 0 {
                    l.memory_mut().put(pa, value | bits);
                }
                Ok(())
            }
            Event::Cr3(cpu, root) => l
                .load_cr3(&by(cpu), Some(toy::cr3(root)), false)
                .map(|_| ()),
            Event::Everything(cpu) => l.invalidate(&by(cpu), Invalidation::Everything).map(|_| ()),
            Event::Page(cpu, va) => l.invalidate(&by(cpu), Invalidation::Page(va)).map(|_| ()),
            Event::Fault(cpu, va) => l.invalidate(&by(cpu), Invalidation::Fault(va)).map(|_| ()),
            Event::Free(frame, n) => l.free(&by(0), Frame(frame), n, Release::Freed),
            Event::Freeze(frame) => l.freeze(&by(0), Frame(frame)),
            Event::User(cpu) => l.enters_user(&by(cpu)),
            Event::Kernel(cpu) => l.leaves_user(&by(cpu)),
            Event::Stac(cpu) => l.stac(&by(cpu)),
            Event::Halt(cpu) => l.halts(&by(cpu)),
            Event::Resume(cpu) => l.resumes(&by(cpu)),
        };
        result.expect("no limit is near");
        let mut found = Found::new();
        for finding in l.take_findings() {
            if finding.holders.is_empty() {
                found.insert((finding.rule, None));
            }
            for holder in &finding.holders {
                found.insert((finding.rule, Some(holder.cpu.0)));
            }
        }
        found
    }

    /// Makes an event happen to both. True: go on. False: there is a finding, the same one.
    pub(super) fn event(&mut self, event: Event) -> Result<bool, String> {
        let want = normal(self.brute.event(event));
        let got = normal(self.feed(event));
        if want != got {
            return Err(format!("the oracle finds {want:?}, the ledger {got:?}"));
        }
        if !want.is_empty() {
            return Ok(false);
        }
        self.same_contents()?;
        Ok(true)
    }

    /// What a CPU may hold is what its tree gives and what is pending.
    fn same_contents(&self) -> Result<(), String> {
        for cpu in 0..CPUS {
            let mut ledger = self.brute.fresh(cpu);
            ledger.extend(self.ledger.pending_on(CpuId(cpu as u8)));
            let oracle = &self.brute.cpus[cpu].cache;
            if let Some(item) = all_within(oracle.iter(), &ledger) {
                return Err(format!(
                    "CPU {cpu} may hold {item:x?}, the ledger does not know"
                ));
            }
            if let Some(item) = all_within(ledger.iter(), oracle) {
                return Err(format!(
                    "the ledger says that CPU {cpu} may hold {item:x?}, which it cannot"
                ));
            }
        }
        Ok(())
    }
}

/// A starting point, and what may happen then.
#[derive(Clone)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) memory: Memory,
    pub(super) knobs: Knobs,
    pub(super) first: Vec<Event>,
    pub(super) events: Vec<Event>,
    /// All sequences up to this length are tried.
    pub(super) depth: usize,
}

/// Sequences tried, and findings met.
#[derive(Default, Debug)]
pub(super) struct Tally {
    pub(super) sequences: u64,
    pub(super) findings: BTreeSet<Rule>,
    pub(super) alarms: u64,
}

/// A sequence after which they differ, and in what.
pub(super) type Difference = (Vec<Event>, String);

impl Suite {
    pub(super) fn begin(&self) -> Result<Pair, Difference> {
        let mut pair = Pair::new(self.memory.clone(), self.knobs.clone());
        for event in &self.first {
            pair.event(*event)
                .map_err(|why| (self.first.clone(), why))?;
        }
        Ok(pair)
    }

    /// Every sequence of events up to the depth.
    pub(super) fn exhaust(&self, tally: &mut Tally) -> Result<(), Difference> {
        let pair = self.begin()?;
        let mut path = Vec::new();
        self.deeper(&pair, self.depth, &mut path, tally)
    }

    fn deeper(
        &self,
        pair: &Pair,
        depth: usize,
        path: &mut Vec<Event>,
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        if depth == 0 {
            return Ok(());
        }
        for event in &self.events {
            let mut next = pair.clone();
            path.push(*event);
            tally.sequences += 1;
            let go_on = next.event(*event).map_err(|why| (path.clone(), why))?;
            if go_on {
                self.deeper(&next, depth - 1, path, tally)?;
            } else {
                tally.alarms += 1;
            }
            path.pop();
        }
        Ok(())
    }

    /// Leaves out events as long as there is a difference.
    pub(super) fn shrink(&self, path: &[Event]) -> Vec<Event> {
        let differs = |events: &[Event]| {
            let Ok(mut pair) = self.begin() else {
                return false;
            };
            for event in events {
                match pair.event(*event) {
                    Ok(true) => {}
                    Ok(false) => return false,
                    Err(_) => return true,
                }
            }
            false
        };
        let mut short = path.to_vec();
        let mut n = 0;
        while n < short.len() {
            let mut less = short.clone();
            less.remove(n);
            if differs(&less) {
                short = less;
                n = 0;
            } else {
                n += 1;
            }
        }
        short
    }

    /// One random sequence.
    pub(super) fn stroll(
        &self,
        rng: &mut impl rand::Rng,
        length: usize,
        tally: &mut Tally,
    ) -> Result<(), Difference> {
        let mut pair = self.begin()?;
        let mut path = Vec::new();
        for _ in 0..length {
            let event = self.events[rng.random_range(0..self.events.len())];
            path.push(event);
            // What the oracle finds says which rules the walk has met.
            let found = pair.brute.clone().event(event);
            tally.findings.extend(found.iter().map(|f| f.0));
            tally.sequences += 1;
            if !pair.event(event).map_err(|why| (path.clone(), why))? {
                tally.alarms += 1;
                return Ok(());
            }
        }
        Ok(())
    }
}
