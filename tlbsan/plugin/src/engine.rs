// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger, and everything that is kept of a run.

use std::time::Instant;

use fpt_tlbsan_model::{
    CpuId, Ended, Frame, Geometry, GuestMemory, Invalidation, Knobs, Ledger, Origin, Release,
    RunError, Site, Task,
};
use serde_json::{json, Value};

use crate::args::{Options, Tasks};
use crate::askers::{callers, Askers, What};
use crate::canaries::Canaries;
use crate::cases::{Cases, Found};
use crate::report::{Findings, SCHEMA};
use crate::symbols::Symbols;

/// QEMU's CPUs have so many bits.
const PHYSICAL_BITS: u32 = 40;
/// A task that is not known. Nobody returns as this one.
const UNKNOWN: Task = Task(0);
const NOBODY: Task = Task(u64::MAX);
/// Overdue records are looked for so often, in microseconds.
const LOOK: u64 = 100_000;

/// How tasks are told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Switches,
    Cpus,
    Not,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub stores: u64,
    pub roots: u64,
    pub flushes: u64,
    /// The flushes that ended nothing.
    pub idle_flushes: u64,
    pub frees: u64,
    pub frozen: u64,
    pub returns: u64,
    pub switches: u64,
}

pub struct Engine<M> {
    ledger: Ledger<M>,
    geometry: Geometry,
    symbols: Symbols,
    known: Known,
    tasks: Vec<Task>,
    late: Option<u64>,
    looked: u64,
    start: Instant,
    findings: Findings,
    cases: Option<Cases>,
    canaries: Canaries,
    askers: Option<Askers>,
    /// What each CPU has in CR3.
    loaded: Vec<Option<u64>>,
    counts: Counts,
    error: Option<RunError>,
    errors: Vec<String>,
}

impl<M: GuestMemory> Engine<M> {
    pub fn new(options: &Options, symbols: Symbols, cpus: usize, memory: M) -> Engine<M> {
        let knobs = Knobs {
            psc: options.psc,
            strict_kernel: options.strict_kernel,
            ..Knobs::default()
        };
        let geometry = Geometry::x86(options.fpt, PHYSICAL_BITS);
        let known = match (options.tasks, symbols.switch()) {
            (Tasks::Cpu, _) => Known::Cpus,
            (Tasks::Linux, Some(_)) => Known::Switches,
            (Tasks::Linux, None) => Known::Not,
        };
        Engine {
            ledger: Ledger::new(geometry.clone(), knobs, cpus, memory),
            geometry,
            symbols,
            known,
            // Before its first switch a CPU runs a task of its own.
            tasks: (1..=cpus as u64).map(Task).collect(),
            late: options.late.map(|d| d.as_micros() as u64),
            looked: 0,
            start: Instant::now(),
            findings: Findings::default(),
            cases: options.cases.then(Cases::default),
            canaries: Canaries::default(),
            askers: options.flushes.then(Askers::default),
            loaded: vec![None; cpus],
            counts: Counts::default(),
            error: None,
            errors: Vec::new(),
        }
    }

    fn by(&self, cpu: u32, pc: u64) -> Origin {
        let task = match self.known {
            Known::Not => None,
            Known::Switches | Known::Cpus => self.tasks.get(cpu as usize).copied(),
        };
        Origin {
            cpu: CpuId(cpu.min(255) as u8),
            task: task.unwrap_or(UNKNOWN),
            site: Site(pc),
            time: self.start.elapsed().as_micros() as u64,
        }
    }

    fn after<T: Default>(&mut self, result: Result<T, RunError>) -> T {
        for finding in self.ledger.take_findings() {
            match &mut self.cases {
                Some(cases) => cases.found(&finding),
                None if self.canaries.take(&finding) => {}
                None => self.findings.add(&finding, &self.geometry, &self.symbols),
            }
        }
        match result {
            Ok(value) => value,
            Err(error) => {
                if self.error.is_none() {
                    eprintln!("fpt-tlbsan: {error}");
                }
                self.error.get_or_insert(error);
                T::default()
            }
        }
    }

    /// A store was made to the 8 bytes at an address. `old` is what the instruction saw there.
    /// False if this is no table any more.
    pub fn store(&mut self, cpu: u32, pc: u64, pa: u64, old: Option<u64>) -> bool {
        let frame = Frame::of(pa);
        if self.error.is_none() && !self.ledger.watches(frame) {
            return false;
        }
        // What is there now: another CPU may have stored since, and an exchange may have failed.
        let Some(new) = self.ledger.memory_mut().read(pa) else {
            return false;
        };
        self.counts.stores += 1;
        let by = self.by(cpu, pc);
        let result = self.ledger.store(&by, pa, old, new);
        self.after(result);
        true
    }

    /// Walks begin elsewhere.
    pub fn root(&mut self, cpu: u32, cr3: Option<u64>) {
        self.counts.roots += 1;
        let by = self.by(cpu, 0);
        let result = self.ledger.load_cr3(&by, cr3, false);
        let ended = self.after(result);
        let before = self.loaded.get_mut(cpu as usize);
        let before = before.and_then(|b| std::mem::replace(b, cr3));
        if cr3.is_some() && cr3 == before {
            self.flushed(cpu, What::Reload, ended);
        } else if let Some(askers) = &mut self.askers {
            askers.ended(cpu, What::Switch, ended, &self.symbols);
        }
        self.look(&by);
    }

    pub fn invalidate(&mut self, cpu: u32, what: Invalidation) {
        let by = self.by(cpu, 0);
        let result = self.ledger.invalidate(&by, what);
        let ended = self.after(result);
        // Nobody asks for what a fault drops.
        match what {
            Invalidation::Fault(_) => {}
            Invalidation::Page(_) => self.flushed(cpu, What::Page, ended),
            _ => self.flushed(cpu, What::Everything, ended),
        }
    }

    /// A CPU did nothing but to flush.
    fn flushed(&mut self, cpu: u32, what: What, ended: Ended) {
        self.counts.flushes += 1;
        self.counts.idle_flushes += u64::from(ended == Ended::default());
        if let Some(askers) = &mut self.askers {
            askers.ended(cpu, what, ended, &self.symbols);
        }
    }

    /// A CPU is about to invalidate, or to ask others for it: the words of its stack, and what reads the seven
    /// bytes before an address.
    pub fn asks(
        &mut self,
        cpu: u32,
        (pc, others): (u64, bool),
        words: &[u64],
        code: impl FnMut(u64) -> Option<[u8; 7]>,
    ) {
        if let Some(askers) = &mut self.askers {
            let stack = callers(pc, words, &self.symbols, code);
            if others {
                askers.asking(cpu, stack)
            } else {
                askers.flushing(cpu, stack)
            }
        }
    }

    pub fn free(&mut self, cpu: u32, pc: u64, frame: u64, frames: u64, how: Release) {
        self.counts.frees += 1;
        let by = self.by(cpu, pc);
        let result = self.ledger.free(&by, Frame(frame), frames, how);
        self.after(result);
    }

    pub fn freeze(&mut self, cpu: u32, pc: u64, frame: u64, frames: u64) {
        self.counts.frozen += 1;
        let by = self.by(cpu, pc);
        for n in 0..frames {
            let result = self.ledger.freeze(&by, Frame(frame).plus(n));
            self.after(result);
        }
    }

    pub fn enters_user(&mut self, cpu: u32) {
        self.counts.returns += 1;
        let mut by = self.by(cpu, 0);
        if self.known == Known::Not {
            by.task = NOBODY;
        }
        let result = self.ledger.enters_user(&by);
        self.after(result);
    }

    pub fn leaves_user(&mut self, cpu: u32) {
        let by = self.by(cpu, 0);
        let result = self.ledger.leaves_user(&by);
        self.after(result);
    }

    pub fn stac(&mut self, cpu: u32, pc: u64) {
        let by = self.by(cpu, pc);
        let result = self.ledger.stac(&by);
        self.after(result);
    }

    pub fn halts(&mut self, cpu: u32) {
        let by = self.by(cpu, 0);
        let result = self.ledger.halts(&by);
        self.after(result);
    }

    pub fn resumes(&mut self, cpu: u32) {
        let by = self.by(cpu, 0);
        let result = self.ledger.resumes(&by);
        self.after(result);
    }

    /// The CPU goes on with another task.
    pub fn switches(&mut self, cpu: u32, task: u64) {
        self.counts.switches += 1;
        if let (Known::Switches, Some(slot)) = (self.known, self.tasks.get_mut(cpu as usize)) {
            *slot = Task(task);
        }
    }

    fn look(&mut self, by: &Origin) {
        let Some(age) = self.late.filter(|_| self.known == Known::Not) else {
            return;
        };
        if by.time.saturating_sub(self.looked) > LOOK {
            self.looked = by.time;
            let result = self.ledger.late(by, age);
            self.after(result);
        }
    }

    /// The guest says what is to be found: a case, or a canary about a frame.
    pub fn case(&mut self, id: u64, expected: u64) {
        match &mut self.cases {
            Some(cases) => cases.begin(id, Found::of(expected)),
            None => self.canaries.announce(id, Found::of(expected)),
        }
    }

    /// The plugin itself is wrong.
    pub fn internal(&mut self, what: String) {
        if self.errors.len() < 100 {
            self.errors.push(what);
        }
    }

    /// The result, and lines for a person.
    pub fn finish(&mut self) -> (Value, Vec<String>) {
        let mut lines = self.findings.texts();
        if let Some(cases) = &mut self.cases {
            cases.finish();
            lines.extend(cases.failures.iter().cloned());
        }
        let c = &self.counts;
        let value = json!({
            "schema": SCHEMA,
            "errors": self.findings.errors(),
            "warnings": self.findings.warnings(),
            "findings": self.findings.json(),
            "cases": self.cases.as_ref().map(|c| json!({
                "checks": c.checks,
                "failed": c.failed,
                "failures": c.failures,
            })),
            "canaries": self.canaries.json(self.symbols.marked()),
            "asked": self.askers.as_ref().map(|a| a.json(&self.symbols)),
            "run_error": self.error.map(|e| e.to_string()),
            "internal": self.errors,
            "events": {
                "stores": c.stores,
                "roots": c.roots,
                "flushes": c.flushes,
                "idle_flushes": c.idle_flushes,
                "frees": c.frees,
                "frozen": c.frozen,
                "returns": c.returns,
                "switches": c.switches,
            },
        });
        (value, lines)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
