// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger: the events, and what they do to tables, CPUs and records.
//!
//! Its invariant: what a CPU may hold is what a fresh walk of its tree yields, and what is recorded
//! as pending on it; nothing else.

use std::collections::{BTreeMap, VecDeque};

use crate::cpu::{Class, Cpu, CpuId, CpuSet, Ended, Flushed, Invalidation, Origin, Past, Seq};
use crate::finding::{Finding, RunError, What};
use crate::geometry::{
    Frame, Geometry, Leaf, Level, Place, Reading, Rights, Root, A, ADDRESS, D, P,
};
use crate::memory::GuestMemory;
use crate::records::{Armed, Id, Record, Records};
use crate::rules::{Broken, Knobs, Psc};
use crate::tables::{At, Linked, Path, Tables};

/// At most so many CPUs.
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
    /// By their first frame.
    pub(crate) roots: BTreeMap<Frame, Vec<Root>>,
    idle: VecDeque<Root>,
    pub(crate) armed: Vec<Armed>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) now: Seq,
    sweep_at: usize,
    user_globals: bool,
    /// The entry that is being stored to: memory has the new value already.
    hot: Option<u64>,
    error: Option<RunError>,
}

/// CPUs that reach a table page in the same way.
#[derive(Clone, Copy)]
struct Group {
    cpus: CpuSet,
    pcid: u16,
    above: Rights,
}

/// What takes the place of what was there.
#[derive(Clone, Copy)]
enum Side {
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
    fn actual(&self, at: &At) -> u64 {
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
            if !same_frame || !same_type || found.key != leaf.key || !found.rights.has(leaf.rights)
            {
                return false;
            }
            at = base + self.geometry.span(found.level);
        }
        true
    }

    /// The contexts whose root leads to a table page at a place.
    fn holders(&self, frame: Frame, place: Place, va: u64) -> Vec<Group> {
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

    /// A store to guest memory, after it was made. `old` is what a read-modify-write saw; nothing for
    /// a plain store, of which A and D are not known and taken for set.
    pub fn store(
        &mut self,
        by: &Origin,
        pa: u64,
        old: Option<u64>,
        new: u64,
    ) -> Result<(), RunError> {
        self.begin(by)?;
        let frame = Frame::of(pa);
        let index = (pa & 0xfff) as usize / 8;
        let Some(table) = self.tables.get(frame) else {
            return Ok(());
        };
        if index >= self.geometry.entries() {
            return Ok(());
        }
        let shadow = table.value(index);
        let mut old = match old {
            Some(value) if (value ^ shadow) & !(A | D) == 0 => value,
            _ if shadow & P != 0 => shadow | A | D,
            _ => shadow,
        };
        if self.knobs.is_broken(Broken::AccessedIgnored) && old & P != 0 {
            old |= A;
        }
        if old == new {
            self.set(pa, new);
            return Ok(());
        }
        let places: Vec<Place> = table
            .places()
            .into_iter()
            .filter(|p| index >= usize::from(p.first))
            .collect();
        if table.is_dead() {
            self.overwritten(by, pa, old, new);
        }
        self.set(pa, old);
        self.hot = Some(pa);
        let before = self.covered_below(&places, index);
        self.hot = None;

        let mut linked = Linked::default();
        let mut changes = Vec::new();
        for place in &places {
            let at = |value, above| At {
                entry: pa,
                level: place.level,
                va: self.geometry.va_of(*place, index),
                value,
                above,
            };
            let all = at(new, Rights::ALL);
            if let Reading::Table(pointer) = self.geometry.read(all.level, new, all.above) {
                for child in self.geometry.tables(pointer, all.va) {
                    let limit = self.knobs.limits.tables;
                    self.tables
                        .link(&self.geometry, &self.memory, child, &mut linked, limit);
                }
            }
            let groups = self.holders(frame, *place, all.va);
            let change = |g: &Group| Change {
                old: at(old, g.above),
                new: at(new, g.above),
            };
            changes.extend(groups.iter().map(|g| (*g, change(g))));
            self.new_pages(
                by,
                &change(&Group {
                    cpus: CpuSet::default(),
                    pcid: 0,
                    above: Rights::ALL,
                }),
            );
        }
        for (group, change) in &changes {
            self.kernel_reuse(by, group.cpus, change);
        }
        for (group, change) in &changes {
            self.lose(by, group, change.old, Side::Entry(change.new), new);
        }
        self.born_stale(by, frame, index, new);
        self.set(pa, new);
        self.now_uncovered(by, before, new);
        self.user_globals |= linked.user_globals
            || (new & crate::geometry::G != 0
                && places.iter().any(|p| !self.geometry.kernel_half(p.va)));
        self.revived(by, &linked);

        let mut dead = Vec::new();
        for place in &places {
            if let Reading::Table(pointer) = self.geometry.read(place.level, old, Rights::ALL) {
                let va = self.geometry.va_of(*place, index);
                for (child, at) in self.geometry.tables(pointer, va) {
                    self.tables.unlink(&self.geometry, child, at, &mut dead);
                }
            }
        }
        self.drop_dead(dead);
        self.end()
    }

    fn set(&mut self, pa: u64, value: u64) {
        let index = (pa & 0xfff) as usize / 8;
        self.tables
            .set(Frame::of(pa), index, value, self.geometry.entries());
    }

    /// Forgets tables that nobody leads to and nobody may hold.
    pub(crate) fn drop_dead(&mut self, dead: Vec<Frame>) {
        for frame in dead {
            let unused = self
                .tables
                .get(frame)
                .is_some_and(|t| t.is_dead() && t.marks.is_empty());
            if unused && self.records.tables_of(&self.geometry, frame).is_empty() {
                self.tables.forget(&self.geometry, frame, &mut Vec::new());
            }
        }
    }

    /// Pending leaf records below an entry whose page is still right, and for whom.
    fn covered_below(&self, places: &[Place], index: usize) -> Vec<(Id, CpuSet)> {
        let mut found = Vec::new();
        for place in places {
            let va = self.geometry.va_of(*place, index);
            let bytes = self.geometry.span(place.level);
            for id in self.records.leaves_in(&self.geometry, va, bytes) {
                let Some(record) = self.records.get(id) else {
                    continue;
                };
                let covered = self
                    .pending(record)
                    .iter()
                    .filter(|c| self.is_covered(record, *c))
                    .fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)));
                if !covered.is_empty() {
                    found.push((id, covered));
                }
            }
        }
        found
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

    fn now_uncovered(&mut self, by: &Origin, before: Vec<(Id, CpuSet)>, new: u64) {
        if self.knobs.is_broken(Broken::PiecesForgotten) {
            return;
        }
        for (id, covered) in before {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            let Some(cpu) = covered.iter().find(|c| !self.is_covered(record, *c)) else {
                continue;
            };
            let root = self.root_for(record, cpu);
            let replaced = root.is_some_and(|r| self.translate(r, record.va).is_some());
            self.records.make_restrictive(id, *by, new, replaced);
        }
    }

    fn side_path(&self, side: Side, va: u64) -> Path {
        match side {
            Side::Entry(at) => self.tables.follow(&self.geometry, at, va),
            Side::Root(root) => self.tables.walk(&self.geometry, root, va),
        }
    }

    /// Records what could be cached by way of `old` and cannot by way of what is there now.
    fn lose(&mut self, by: &Origin, group: &Group, old: At, side: Side, new: u64) {
        let mut lost = Vec::new();
        if let Side::Entry(at) = side {
            if self.same_table(&old, &at) {
                return;
            }
        }
        let direct = matches!(side, Side::Entry(_)).then_some(old.entry);
        let mut look = |at: &At, what: What| {
            if let Some(record) = self.missing(by, at, what, side, direct) {
                lost.push(record);
            }
        };
        self.tables.visit(&self.geometry, old, &mut look);
        for record in lost {
            let record = Record {
                pcid: group.pcid,
                cpus: group.cpus,
                new,
                ..record
            };
            self.note(record);
        }
    }

    /// Do both entries lead to the same table, the new one with no fewer rights?
    fn same_table(&self, old: &At, new: &At) -> bool {
        let read = |at: &At| self.geometry.read(at.level, at.value, at.above);
        match (read(old), read(new)) {
            (Reading::Table(o), Reading::Table(n)) => {
                (o.frame, o.frames, o.level) == (n.frame, n.frames, n.level)
                    && n.rights.has(o.rights)
            }
            _ => false,
        }
    }

    /// A record of what was cached by way of an entry, unless the new side gives just that.
    fn missing(
        &self,
        by: &Origin,
        at: &At,
        what: What,
        side: Side,
        direct: Option<u64>,
    ) -> Option<Record> {
        let path = self.side_path(side, at.va);
        let mut record = Record {
            what,
            level: at.level,
            va: at.va,
            entry: at.entry,
            old: at.value,
            new: 0,
            pcid: 0,
            cpus: CpuSet::default(),
            seq: self.now,
            restrictive: false,
            replaced: path.leaf().is_some(),
            overdue: false,
            by: *by,
        };
        let held = match what {
            What::Table(pointer) => {
                let same = path.steps().any(|s| match s.reading {
                    Reading::Table(n) => {
                        s.at.level == at.level
                            && (n.frame, n.frames, n.level)
                                == (pointer.frame, pointer.frames, pointer.level)
                            && n.rights.has(pointer.rights)
                    }
                    _ => false,
                });
                let empty = self.knobs.is_broken(Broken::EmptyTables) && self.maps_nothing(at);
                return (!same && !empty).then_some(record);
            }
            What::Leaf(leaf) => leaf,
        };
        let is_direct = direct == Some(at.entry);
        let value = if is_direct { at.value } else { self.actual(at) };
        // Rule C1. Below an entry that goes, a walk from a cached upper entry may still set A and D.
        if is_direct && value & A == 0 {
            return None;
        }
        let held = Leaf {
            rights: if self.knobs.is_broken(Broken::LastEntryRights) {
                Rights::of(at.value)
            } else {
                held.rights
            },
            ..held
        };
        let observed = without_clean_write(held, value);
        let kept = if is_direct { observed } else { held };
        let fresh = |va: u64| {
            let path = self.side_path(side, va);
            let (leaf, new) = path.leaf()?;
            let value = if direct == Some(new.entry) {
                new.value
            } else {
                self.actual(&new)
            };
            Some((without_clean_write(leaf, value), new.va))
        };
        if let Some((leaf, new)) = path.leaf() {
            let value_now = if direct == Some(new.entry) {
                new.value
            } else {
                self.actual(&new)
            };
            let same_entry = new.entry == at.entry && !is_direct;
            let now = if same_entry {
                leaf
            } else {
                without_clean_write(leaf, value_now)
            };
            let wanted = if same_entry { held } else { observed };
            let age = value & A != 0 && value_now & A == 0 && !same_entry;
            let age = age && !self.knobs.is_broken(Broken::AgeForgets);
            let same = (now.frame, now.level, now.global) == (held.frame, held.level, held.global)
                && (now.memory_type, now.key) == (held.memory_type, held.key)
                && now.rights.has(wanted.rights);
            if same && !age {
                return None;
            }
        }
        record.what = What::Leaf(kept);
        let judged = if self.knobs.is_broken(Broken::DirtyIgnored) {
            Leaf {
                rights: observed.rights.without(Rights::WRITE),
                ..observed
            }
        } else {
            observed
        };
        record.restrictive =
            !self.covers(&judged, at.va, fresh) || self.knobs.is_broken(Broken::UpgradeIsLate);
        if !record.restrictive && self.knobs.is_broken(Broken::PiecesForgotten) {
            return None;
        }
        Some(record)
    }

    fn maps_nothing(&self, at: &At) -> bool {
        let mut n = 0;
        self.tables.visit(&self.geometry, *at, &mut |_, what| {
            n += u32::from(matches!(what, What::Leaf(_)))
        });
        n == 0
    }

    /// What is stored into a table that a CPU reaches by what it kept can be cached from there at
    /// once (rule C4), and belongs to no tree at that address.
    fn born_stale(&mut self, by: &Origin, frame: Frame, index: usize, new: u64) {
        if new & P == 0 || self.knobs.is_broken(Broken::Unchained) {
            return;
        }
        let mut found = Vec::new();
        for id in self.records.tables_of(&self.geometry, frame) {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            let cpus = self.pending(record);
            let What::Table(pointer) = record.what else {
                continue;
            };
            let (pcid, base) = (record.pcid, record.va);
            let place = self
                .geometry
                .tables(pointer, base)
                .find(|(f, _)| *f == frame)
                .map(|(_, place)| place);
            if let (Some(place), false) = (place, cpus.is_empty()) {
                let at = At {
                    entry: frame.address() + (index as u64) * 8,
                    level: place.level,
                    va: self.geometry.va_of(place, index),
                    value: new,
                    above: pointer.rights,
                };
                found.push((at, cpus, pcid));
            }
        }
        for (at, cpus, pcid) in found {
            self.tables.load_below(&self.geometry, &self.memory, at);
            let mut born = Vec::new();
            self.tables.visit(&self.geometry, at, &mut |at, what| {
                born.push(Record {
                    what,
                    level: at.level,
                    va: at.va,
                    entry: at.entry,
                    old: at.value,
                    new,
                    pcid,
                    cpus,
                    seq: self.now,
                    restrictive: false,
                    replaced: false,
                    overdue: false,
                    by: *by,
                });
            });
            for record in born {
                self.note(record);
            }
        }
    }

    /// Keeps a record, with one of the same contents if there is one.
    fn note(&mut self, mut record: Record) {
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

    /// A CPU loads a root. `keep` is bit 63, which counts where PCIDs do: nothing is dropped. No value:
    /// paging is off, or the tables are nested ones.
    pub fn load_cr3(
        &mut self,
        by: &Origin,
        cr3: Option<u64>,
        keep: bool,
    ) -> Result<Ended, RunError> {
        self.begin(by)?;
        let (now, keep) = (self.now, keep && self.knobs.pcid);
        let root = cr3.map(|v| self.geometry.root(v & (ADDRESS | crate::geometry::FLAT)));
        let mut ended = Ended::default();
        let what = if keep {
            Flushed::Cr3NoFlush(root)
        } else {
            Flushed::Cr3(root)
        };
        let past = Past {
            what,
            seq: now,
            origin: *by,
        };
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.remember(past);
        }
        let before = self.cpu(by.cpu).and_then(Cpu::root);
        if let (Some(root), Some(cr3)) = (root, cr3) {
            let pcid = if self.knobs.pcid {
                (cr3 & 0xfff) as u16
            } else {
                0
            };
            self.register(by, root);
            self.leave(by, root, pcid, keep);
            let globals = self.knobs.is_broken(Broken::Cr3DropsGlobals);
            let tables = !self.knobs.is_broken(Broken::Cr3LeavesTables);
            if let Some(cpu) = self.cpu_mut(by.cpu) {
                if !keep {
                    ended.leaves = cpu.drop_leaves(pcid, now);
                    if tables {
                        ended.tables = cpu.drop_tables(pcid, now);
                    }
                    if globals {
                        cpu.drop_globals(now);
                    }
                }
                cpu.select(pcid, root, now);
            }
        } else if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.current = None;
        }
        if let Some(before) = before {
            self.perhaps_idle(before);
        }
        self.came_back(by);
        self.end()?;
        Ok(ended)
    }

    fn is_registered(&self, root: Root) -> bool {
        let (first, _) = self.geometry.root_frames(root);
        self.roots.get(&first).is_some_and(|r| r.contains(&root))
    }

    fn register(&mut self, by: &Origin, root: Root) {
        self.idle.retain(|r| *r != root);
        if self.is_registered(root) {
            return;
        }
        let (first, _) = self.geometry.root_frames(root);
        self.roots.entry(first).or_default().push(root);
        let mut linked = Linked::default();
        let pages: Vec<(Frame, Place)> = self.geometry.root_tables(root).collect();
        for page in pages {
            let limit = self.knobs.limits.tables;
            self.tables
                .link(&self.geometry, &self.memory, page, &mut linked, limit);
        }
        self.user_globals |= linked.user_globals;
        self.revived(by, &linked);
    }

    /// Forgets a root and what only it led to.
    pub(crate) fn unregister(&mut self, root: Root) {
        let (first, _) = self.geometry.root_frames(root);
        if let Some(roots) = self.roots.get_mut(&first) {
            roots.retain(|r| *r != root);
            if roots.is_empty() {
                self.roots.remove(&first);
            }
        }
        self.idle.retain(|r| *r != root);
        let pages: Vec<(Frame, Place)> = self.geometry.root_tables(root).collect();
        let mut dead = Vec::new();
        for (frame, place) in pages {
            self.tables.unlink(&self.geometry, frame, place, &mut dead);
        }
        self.drop_dead(dead);
    }

    fn perhaps_idle(&mut self, root: Root) {
        let used = |c: &Cpu| c.contexts.iter().any(|x| x.root == root);
        if self.cpus.iter().any(used) || !self.is_registered(root) {
            return;
        }
        self.idle.push_back(root);
        while self.idle.len() > self.knobs.idle_roots {
            if let Some(oldest) = self.idle.pop_front() {
                self.unregister(oldest);
            }
        }
    }

    /// What stays cached of the tree that a CPU leaves: global pages, and everything under a PCID
    /// that gets another root without being dropped.
    fn leave(&mut self, by: &Origin, root: Root, pcid: u16, keep: bool) {
        let Some(cpu) = self.cpu(by.cpu) else { return };
        let last = cpu.last_root.filter(|r| *r != root);
        let other = cpu
            .context(pcid)
            .map(|c| c.root)
            .filter(|r| keep && *r != root);
        let cpus = CpuSet::one(by.cpu);
        let (geometry, user_globals) = (self.geometry.clone(), self.user_globals);
        let mut differing = |from: Root, globals: bool| {
            let wanted = |p: Place| {
                let span = geometry.span(p.level) << geometry.index_bits;
                !globals || user_globals || geometry.kernel_half(p.va + span - 1)
            };
            let group = Group {
                cpus,
                pcid,
                above: Rights::ALL,
            };
            for at in self.tables.root_entries(&self.geometry, from, wanted) {
                if globals && !user_globals && !geometry.kernel_half(at.va) {
                    continue;
                }
                let path = self.tables.walk(&self.geometry, root, at.va);
                let same = path.steps().next().is_some_and(|s| {
                    s.at.level == at.level && (s.at.value ^ at.value) & !(A | D) == 0
                });
                if !same {
                    self.lose_from(by, &group, at, root, globals);
                }
            }
        };
        if let Some(last) = last {
            differing(last, true);
        }
        if let Some(other) = other {
            differing(other, false);
        }
    }

    fn lose_from(&mut self, by: &Origin, group: &Group, old: At, root: Root, globals: bool) {
        let mut lost = Vec::new();
        let mut look = |at: &At, what: What| {
            let global = matches!(what, What::Leaf(leaf) if leaf.global);
            if globals && !global {
                return;
            }
            lost.extend(self.missing(by, at, what, Side::Root(root), None));
        };
        self.tables.visit(&self.geometry, old, &mut look);
        for record in lost {
            // Nobody took anything away; other entries may be found missing later.
            let record = Record {
                pcid: group.pcid,
                cpus: group.cpus,
                restrictive: false,
                ..record
            };
            self.note(record);
        }
    }

    /// A CPU invalidates. Returns what that ended.
    pub fn invalidate(&mut self, by: &Origin, what: Invalidation) -> Result<Ended, RunError> {
        self.begin(by)?;
        let now = self.now;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.remember(Past {
                what: Flushed::By(what),
                seq: now,
                origin: *by,
            });
        }
        let current = self.cpu(by.cpu).and_then(|c| c.current).unwrap_or(0);
        let mut ended = Ended::default();
        match what {
            Invalidation::Everything => {
                let all = self.knobs.is_broken(Broken::AllIsEverybodys);
                let targets: Vec<CpuId> = self.ids().filter(|c| all || *c == by.cpu).collect();
                for target in targets {
                    self.drop_contexts(target, None, &mut ended);
                    let keep = self.knobs.is_broken(Broken::AllLeavesGlobals);
                    if let Some(cpu) = self.cpu_mut(target).filter(|_| !keep) {
                        ended.leaves += cpu.drop_globals(now);
                        cpu.last_root = cpu.root();
                    }
                }
            }
            Invalidation::AllContexts => self.drop_contexts(by.cpu, None, &mut ended),
            Invalidation::Context(pcid) => self.drop_contexts(by.cpu, Some(pcid), &mut ended),
            Invalidation::Current => self.drop_contexts(by.cpu, Some(current), &mut ended),
            Invalidation::Page(va) => {
                let globals = !self.knobs.is_broken(Broken::PageLeavesGlobals);
                self.drop_page(by.cpu, va, current, globals, &mut ended);
                let tce = self.knobs.psc == Psc::Tce;
                if tce != self.knobs.is_broken(Broken::OtherPsc) {
                    self.drop_path(by.cpu, va, current, &mut ended);
                } else if let Some(cpu) = self.cpu_mut(by.cpu) {
                    ended.tables += cpu.drop_tables(current, now);
                }
            }
            Invalidation::PageOf(pcid, va) => {
                self.drop_page(by.cpu, va, pcid, false, &mut ended);
                self.drop_path(by.cpu, va, pcid, &mut ended);
            }
            Invalidation::Fault(_) if self.knobs.is_broken(Broken::FaultDropsNothing) => {}
            Invalidation::Fault(va) => {
                self.drop_page(by.cpu, va, current, true, &mut ended);
                self.drop_path(by.cpu, va, current, &mut ended);
                let all = self.knobs.is_broken(Broken::FaultDropsTables);
                if let Some(cpu) = self.cpu_mut(by.cpu).filter(|_| all) {
                    cpu.drop_tables(current, now);
                }
            }
        }
        self.end()?;
        Ok(ended)
    }

    fn drop_contexts(&mut self, cpu: CpuId, pcid: Option<u16>, ended: &mut Ended) {
        let now = self.now;
        let Some(cpu) = self.cpu_mut(cpu) else { return };
        let all: Vec<u16> = cpu.contexts.iter().map(|c| c.pcid).collect();
        for one in all.into_iter().filter(|p| pcid.is_none_or(|q| q == *p)) {
            ended.leaves += cpu.drop_leaves(one, now);
            ended.tables += cpu.drop_tables(one, now);
        }
    }

    fn drop_page(&mut self, cpu: CpuId, va: u64, pcid: u16, globals: bool, ended: &mut Ended) {
        let level = if self.knobs.is_broken(Broken::PageDropsNeighbours) {
            2
        } else {
            1
        };
        let bytes = self.geometry.span(Level(level));
        let va = self.geometry.base(Level(level), self.geometry.strip(va));
        for id in self.records.leaves_in(&self.geometry, va, bytes) {
            let wanted = self.records.get(id).is_some_and(|r| match r.class() {
                Class::Global => globals,
                _ => r.pcid == pcid,
            });
            if wanted && self.strike(id, cpu) {
                ended.leaves += 1;
            }
        }
    }

    fn drop_path(&mut self, cpu: CpuId, va: u64, pcid: u16, ended: &mut Ended) {
        let va = self.geometry.strip(va);
        for id in self.records.tables_on(&self.geometry, va) {
            let wanted = self.records.get(id).is_some_and(|r| r.pcid == pcid);
            if wanted && self.strike(id, cpu) {
                ended.tables += 1;
            }
        }
    }

    /// Takes a CPU out of a record; was it in there?
    pub(crate) fn strike(&mut self, id: Id, cpu: CpuId) -> bool {
        let Some(record) = self.records.get(id) else {
            return false;
        };
        let (class, pcid) = (record.class(), record.pcid);
        if !self.pending(record).has(cpu) {
            return false;
        }
        if let Some(record) = self.records.get_mut(id) {
            record.cpus = record.cpus.without(CpuSet::one(cpu));
        }
        if let Some(cpu) = self.cpu_mut(cpu) {
            cpu.count(class, pcid, false);
        }
        true
    }
}

/// Rule C5: a write through a page with D=0 walks again.
fn without_clean_write(leaf: Leaf, value: u64) -> Leaf {
    if value & D != 0 {
        return leaf;
    }
    Leaf {
        rights: leaf.rights.without(Rights::WRITE),
        ..leaf
    }
}
