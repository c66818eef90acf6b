// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger: the events, and what they do to tables, CPUs and records.
//!
//! Its invariant: what a CPU may hold is what a fresh walk of its tree yields, and what is recorded
//! as pending on it; nothing else.

use std::collections::{BTreeMap, VecDeque};

use crate::cpu::{Class, Cpu, CpuId, CpuSet, Ended, Origin, Seq};
use crate::finding::{Finding, RunError, What};
use crate::geometry::{Frame, Geometry, Leaf, Level, Place, Rights, Root, A, D};
use crate::memory::GuestMemory;
use crate::records::{Armed, Record, Records};
use crate::rules::{Broken, Knobs};
use crate::tables::{At, Tables};

/// The largest number of CPUs that the model can hold.
pub const MAX_CPUS: usize = 64;

/// Everything that is known of a guest's page tables and of what its CPUs may hold.
#[derive(Clone, Debug)]
pub struct Ledger<M> {
    pub(crate) geometry: Geometry,
    pub(crate) knobs: Knobs,
    pub(crate) memory: M,
    pub(crate) tables: Tables,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) records: Records,
    /// The roots, by their first frame.
    pub(crate) roots: BTreeMap<Frame, Vec<Root>>,
    pub(crate) idle: VecDeque<Root>,
    pub(crate) armed: Vec<Armed>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) now: Seq,
    sweep_at: usize,
    pub(crate) user_globals: bool,
    /// The entry that is being stored to: memory has the new value already.
    pub(crate) hot: Option<u64>,
    error: Option<RunError>,
}

/// CPUs that reach a table page in the same way.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) cpus: CpuSet,
    pub(crate) pcid: u16,
    pub(crate) above: Rights,
}

/// What takes the place of what was there.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Entry(At),
    Root(Root),
}

/// A store to an entry, at one of the addresses that the entry is for.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    pub(crate) old: At,
    pub(crate) new: At,
}

/// Records to sweep at least.
const SWEEP: usize = 4096;

impl<M: GuestMemory> Ledger<M> {
    /// Nothing is known yet; no CPU has a root.
    pub fn new(geometry: Geometry, knobs: Knobs, cpus: usize, memory: M) -> Ledger<M> {
        Ledger {
            geometry,
            knobs,
            memory,
            tables: Tables::default(),
            cpus: vec![Cpu::default(); cpus.min(MAX_CPUS)],
            records: Records::default(),
            roots: BTreeMap::new(),
            idle: VecDeque::new(),
            armed: Vec::new(),
            findings: Vec::new(),
            now: Seq(0),
            sweep_at: SWEEP,
            user_globals: false,
            hot: None,
            error: None,
        }
    }

    /// The guest's memory.
    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// What was found since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Must stores to this frame be reported?
    pub fn watches(&self, frame: Frame) -> bool {
        self.tables.get(frame).is_some()
    }

    /// The frames whose stores must be reported.
    pub fn watched(&self) -> impl Iterator<Item = Frame> + '_ {
        self.tables.frames()
    }

    /// Entries that CPUs may hold although they are gone: pages and tables, once for each CPU.
    pub fn pending_count(&self) -> Ended {
        let mut sum = Ended::default();
        for record in self.records.iter() {
            let n = u64::from(self.pending(record).0.count_ones());
            match record.what {
                What::Leaf(_) => sum.leaves += n,
                What::Table(_) => sum.tables += n,
            }
        }
        sum
    }

    /// What a CPU may hold of what is gone: the address (stripped), its level, and the entry.
    pub fn pending_on(&self, cpu: CpuId) -> Vec<(u64, Level, What)> {
        let mut found: Vec<(u64, Level, What)> = self
            .records
            .iter()
            .filter(|r| self.pending(r).has(cpu))
            .map(|r| (r.va, r.level, r.what))
            .collect();
        found.sort_unstable();
        found
    }

    pub(crate) fn begin(&mut self, by: &Origin) -> Result<(), RunError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if usize::from(by.cpu.0) >= self.cpus.len() {
            return Err(self.fail(RunError::NoSuchCpu(by.cpu)));
        }
        self.now.0 += 1;
        Ok(())
    }

    fn fail(&mut self, error: RunError) -> RunError {
        self.error = Some(error);
        error
    }

    pub(crate) fn end(&mut self) -> Result<(), RunError> {
        if self.tables.size() > self.knobs.limits.tables {
            let limit = self.knobs.limits.tables;
            self.error.get_or_insert(RunError::TooManyTables(limit));
        }
        self.error.map_or(Ok(()), Err)
    }

    pub(crate) fn cpu(&self, id: CpuId) -> Option<&Cpu> {
        self.cpus.get(usize::from(id.0))
    }

    pub(crate) fn cpu_mut(&mut self, id: CpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(usize::from(id.0))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = CpuId> {
        (0..self.cpus.len() as u8).map(CpuId)
    }

    /// The CPUs that may still hold what was recorded.
    pub(crate) fn pending(&self, record: &Record) -> CpuSet {
        let class = record.class();
        let pending = record.cpus.iter().filter(|c| {
            self.cpu(*c)
                .is_some_and(|cpu| cpu.pending(class, record.pcid, record.seq))
        });
        pending.fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)))
    }

    /// The page at an address, its WRITE only if D is set.
    pub(crate) fn translate(&self, root: Root, va: u64) -> Option<(Leaf, u64)> {
        let (leaf, at) = self.tables.walk(&self.geometry, root, va).leaf()?;
        Some((self.with_dirty(leaf, &at), at.va))
    }

    /// An entry as it is in memory, as hardware sets bits on its own.
    pub(crate) fn actual(&self, at: &At) -> u64 {
        match self.memory.read(at.entry) {
            Some(value) if (value ^ at.value) & !(A | D) == 0 && self.hot != Some(at.entry) => {
                value
            }
            _ => at.value,
        }
    }

    fn with_dirty(&self, leaf: Leaf, at: &At) -> Leaf {
        without_clean_write(leaf, self.actual(at))
    }

    /// Does `fresh` give all of a page the same frames, with at least its rights?
    pub(crate) fn covers(
        &self,
        leaf: &Leaf,
        va: u64,
        fresh: impl Fn(u64) -> Option<(Leaf, u64)>,
    ) -> bool {
        let end = va + self.geometry.span(leaf.level);
        let mut at = va;
        while at < end {
            let Some((found, base)) = fresh(at) else {
                return false;
            };
            let same_frame =
                found.frame.plus((at - base) >> 12) == leaf.frame.plus((at - va) >> 12);
            let same_type = found.memory_type == leaf.memory_type
                || self.knobs.is_broken(Broken::MemoryTypeIgnored);
            let granted = self.grants(found.rights, leaf.rights);
            if !same_frame || !same_type || found.key != leaf.key || !granted {
                return false;
            }
            at = base + self.geometry.span(found.level);
        }
        true
    }

    /// Rule N1: more rights on the same frame need no flush.
    pub(crate) fn grants(&self, now: Rights, before: Rights) -> bool {
        now.has(before) && (now == before || !self.knobs.is_broken(Broken::UpgradeIsLate))
    }

    /// The contexts whose root leads to a table page at a place.
    pub(crate) fn holders(&self, frame: Frame, place: Place, va: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (id, cpu) in self.ids().zip(&self.cpus) {
            for context in &cpu.contexts {
                let path = self.tables.walk(&self.geometry, context.root, va);
                let found = path
                    .steps()
                    .find(|s| s.place == Some(place) && Frame::of(s.at.entry) == frame);
                let Some(step) = found else { continue };
                let above = step.at.above;
                let same = |g: &&mut Group| g.pcid == context.pcid && g.above == above;
                match groups.iter_mut().find(same) {
                    Some(group) => group.cpus = group.cpus.or(CpuSet::one(id)),
                    None => groups.push(Group {
                        cpus: CpuSet::one(id),
                        pcid: context.pcid,
                        above,
                    }),
                }
            }
        }
        groups
    }

    /// The root that decides what is right for a record on a CPU.
    pub(crate) fn root_for(&self, record: &Record, cpu: CpuId) -> Option<Root> {
        let cpu = self.cpu(cpu)?;
        if record.class() == Class::Global {
            return cpu.root();
        }
        cpu.context(record.pcid).map(|c| c.root)
    }

    /// Would a walk give the CPU what the record says it may hold?
    pub(crate) fn is_covered(&self, record: &Record, cpu: CpuId) -> bool {
        let (What::Leaf(leaf), Some(root)) = (record.what, self.root_for(record, cpu)) else {
            return false;
        };
        self.covers(&leaf, record.va, |va| self.translate(root, va))
    }

    /// Keeps a record, with one of the same contents if there is one.
    pub(crate) fn note(&mut self, mut record: Record) {
        if self.knobs.is_broken(Broken::OnlyTheStorer) {
            record.cpus = record.cpus.and(CpuSet::one(record.by.cpu));
        }
        if record.cpus.is_empty() {
            return;
        }
        if record.class() == Class::Global {
            record.pcid = 0;
        }
        if let (What::Table(p), true) = (&mut record.what, self.knobs.is_broken(Broken::FirstSlice))
        {
            p.frames = 1;
        }
        let (class, pcid) = (record.class(), record.pcid);
        let same = self.records.same(&record, |r| !self.pending(r).is_empty());
        let known = same
            .and_then(|id| self.records.get(id))
            .map_or(CpuSet::default(), |r| self.pending(r));
        let added = record.cpus.without(known);
        for cpu in added.iter() {
            if let Some(cpu) = self.cpu_mut(cpu) {
                cpu.count(class, pcid, true);
            }
        }
        let Some(id) = same else {
            for id in self.records.crowd(&record) {
                let over = |r: &Record| self.pending(r).is_empty();
                if self.records.get(id).is_some_and(over) {
                    self.records.remove(id);
                }
            }
            if self.make_room() {
                self.records.insert(record);
            }
            return;
        };
        if let Some(old) = self.records.get_mut(id) {
            old.cpus = known.or(record.cpus);
            old.seq = record.seq;
            old.entry = record.entry;
            old.old = record.old;
        }
        // What waited for a CPU that has flushed since is silenced.
        self.armed.retain(|a| a.id != id || !added.has(a.cpu));
        if record.restrictive {
            self.records
                .make_restrictive(id, record.by, record.new, record.replaced);
        }
    }

    fn make_room(&mut self) -> bool {
        let limit = self.knobs.limits.records;
        if self.records.len() >= self.sweep_at.min(limit) {
            self.sweep();
        }
        if self.records.len() >= limit {
            self.error.get_or_insert(RunError::TooManyRecords(limit));
            return false;
        }
        true
    }

    /// Forgets records that nobody can hold, and tables that only they led to.
    fn sweep(&mut self) {
        let mut records = std::mem::take(&mut self.records);
        records.sweep(|r| !self.pending(r).is_empty());
        self.records = records;
        self.sweep_at = (self.records.len() * 2).max(SWEEP);
        let frames: Vec<Frame> = self.tables.frames().collect();
        self.drop_dead(frames);
    }
}

/// Rule C5: a write through a page with D=0 walks again.
pub(crate) fn without_clean_write(leaf: Leaf, value: u64) -> Leaf {
    if value & D != 0 {
        return leaf;
    }
    Leaf {
        rights: leaf.rights.without(Rights::WRITE),
        ..leaf
    }
}
