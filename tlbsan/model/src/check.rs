// SPDX-License-Identifier: MIT OR Apache-2.0
//! The findings: who asks, and what must not be.

use crate::cpu::{Class, CpuId, CpuSet, Mode, Origin, Task};
use crate::finding::{Certainty, Finding, Holder, Rule, RunError, Taken, What, Why};
use crate::geometry::{Frame, Leaf, Place, Reading, Rights, A, ADDRESS, D, P};
use crate::ledger::{Change, Ledger};
use crate::memory::GuestMemory;
use crate::records::{Armed, Id, Record};
use crate::rules::Broken;
use crate::tables::{At, Linked};

/// What became of freed memory.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Release {
    /// The page allocator has it.
    Freed,
    /// A pool of tables has it.
    Retired,
}

/// A table that was linked nowhere, and is now, while CPUs may hold an entry that led to it.
pub(crate) struct Revived {
    frame: Frame,
    place: Place,
    record: Record,
    cpus: CpuSet,
}

impl<M: GuestMemory> Ledger<M> {
    fn holder(&self, cpu: CpuId, pcid: u16) -> Holder {
        let state = self.cpu(cpu);
        Holder {
            cpu,
            pcid,
            mode: state.map_or(Mode::Kernel, |c| c.mode),
            root: state.and_then(|c| c.root()),
            flushes: state.map_or(Vec::new(), |c| c.history().copied().collect()),
        }
    }

    fn taken(&self, record: &Record) -> Taken {
        Taken {
            what: record.what,
            level: record.level,
            va: self.geometry.canonical(record.va),
            entry: record.entry,
            old: record.old,
            new: record.new,
            seq: record.seq,
            by: record.by,
        }
    }

    fn about(&self, rule: Rule, why: Why, record: &Record, frame: Frame, by: &Origin) -> Finding {
        let frames = match record.what {
            What::Leaf(leaf) => self.geometry.page_frames(leaf.level),
            What::Table(_) => 1,
        };
        Finding {
            rule,
            certainty: Certainty::Error,
            why,
            frame,
            frames: if rule == Rule::R3 { frames } else { 1 },
            taken: Some(self.taken(record)),
            holders: Vec::new(),
            by: *by,
        }
    }

    fn report(&mut self, mut finding: Finding, cpus: CpuSet, pcid: u16) {
        finding.holders = cpus.iter().map(|c| self.holder(c, pcid)).collect();
        self.findings.push(finding);
    }

    /// Those of the CPUs on which the record's PCID is in use.
    fn in_use(&self, record: &Record, cpus: CpuSet) -> CpuSet {
        let used = cpus.iter().filter(|c| {
            record.class() == Class::Global
                || self.cpu(*c).is_some_and(|c| c.current == Some(record.pcid))
        });
        used.fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)))
    }

    /// Memory was freed, or given to a pool of tables: findings R0, R1, R2, R6.
    pub fn free(
        &mut self,
        by: &Origin,
        frame: Frame,
        frames: u64,
        how: Release,
    ) -> Result<(), RunError> {
        self.begin(by)?;
        // Pages first: what is right is asked of the trees as they were.
        if how == Release::Freed && self.records.has_leaves() {
            for n in 0..frames {
                self.free_page(by, frame.plus(n));
            }
        }
        for n in 0..frames {
            self.free_roots(by, frame.plus(n));
        }
        for n in 0..frames {
            let one = frame.plus(n);
            if self.tables.get(one).is_some() || self.records.has_tables() {
                self.free_table(by, one);
            }
        }
        self.end()
    }

    fn free_roots(&mut self, by: &Origin, frame: Frame) {
        let block = Frame(frame.0 & !(self.geometry.node_frames() - 1));
        let at = |f: Frame| self.roots.get(&f).cloned().unwrap_or_default();
        let mut roots = at(frame);
        if block != frame {
            roots.extend(at(block).into_iter().filter(|r| r.flat));
        }
        if self.knobs.is_broken(Broken::RootPageOnly) {
            roots.retain(|r| r.frame == frame);
        }
        for root in roots {
            let loaded = self
                .ids()
                .filter(|c| self.cpu(*c).and_then(|c| c.root()) == Some(root));
            let cpus = loaded.fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)));
            if !cpus.is_empty() {
                let (first, frames) = self.geometry.root_frames(root);
                let finding = Finding {
                    rule: Rule::R0,
                    certainty: Certainty::Error,
                    why: Why::Loaded(root),
                    frame: first,
                    frames,
                    taken: None,
                    holders: Vec::new(),
                    by: *by,
                };
                let pcid = cpus
                    .iter()
                    .next()
                    .and_then(|c| self.cpu(c)?.current)
                    .unwrap_or(0);
                self.report(finding, cpus, pcid);
            }
            self.unregister(root);
        }
    }

    fn free_table(&mut self, by: &Origin, frame: Frame) {
        if let Some(table) = self.tables.get(frame) {
            let place = table.places().first().copied();
            if let (Some(place), false) = (place, self.knobs.is_broken(Broken::LinkedIsFine)) {
                self.findings.push(Finding {
                    rule: Rule::R1,
                    certainty: Certainty::Error,
                    why: Why::StillLinked(place),
                    frame,
                    frames: 1,
                    taken: None,
                    holders: Vec::new(),
                    by: *by,
                });
            }
            self.lost_bits(by, frame);
        }
        for id in self.records.tables_of(&self.geometry, frame) {
            let Some(record) = self.records.get(id).cloned() else {
                continue;
            };
            let pending = self.pending(&record);
            let used = self.in_use(&record, pending);
            let finding = self.about(Rule::R1, Why::Pending, &record, frame, by);
            // A PCID that is not in use is not walked for. Its CPU must drop it before it comes back.
            for cpu in pending.without(used).iter() {
                self.arm(cpu, id, finding.clone());
            }
            if !used.is_empty() && !self.knobs.is_broken(Broken::StaleTableIsFine) {
                self.report(finding, used, record.pcid);
            }
            // A node's record stays for its other pages.
        }
        let mut dead = Vec::new();
        self.tables.forget(&self.geometry, frame, &mut dead);
        self.drop_dead(dead);
    }

    fn free_page(&mut self, by: &Origin, frame: Frame) {
        for id in self.records.leaves_of(&self.geometry, frame) {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            let What::Leaf(leaf) = record.what else {
                continue;
            };
            if leaf.rights.has(Rights::USER) || self.knobs.strict_kernel {
                let finding = self.about(Rule::R2, Why::Pending, record, frame, by);
                self.raise(id, &finding);
            }
        }
    }

    /// The contents of a page are taken for stable (finding R5). An address that the kernel has unmapped it
    /// has promised not to use.
    pub fn freeze(&mut self, by: &Origin, frame: Frame) -> Result<(), RunError> {
        self.begin(by)?;
        for id in self.records.leaves_of(&self.geometry, frame) {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            let What::Leaf(leaf) = record.what else {
                continue;
            };
            let promised = !leaf.rights.has(Rights::USER) && !self.knobs.strict_kernel;
            if promised && !self.knobs.is_broken(Broken::FrozenKernel) {
                continue;
            }
            let writes =
                leaf.rights.has(Rights::WRITE) && !self.knobs.is_broken(Broken::FrozenWriters);
            if writes || self.knobs.is_broken(Broken::FrozenReaders) {
                let finding = self.about(Rule::R5, Why::Pending, record, frame, by);
                self.raise(id, &finding);
            }
        }
        self.end()
    }

    /// A finding about a page: at once for what may use it now, armed for the others. Only user code
    /// uses user pages, so a CPU in the kernel, lazy or not, has time to flush.
    fn raise(&mut self, id: Id, finding: &Finding) {
        let Some(record) = self.records.get(id).cloned() else {
            return;
        };
        let What::Leaf(leaf) = record.what else {
            return;
        };
        let mut now = CpuSet::default();
        let pending = self.pending(&record);
        let used = self.in_use(&record, pending);
        for cpu in pending.iter() {
            if !self.is_stale(finding, &record, cpu) {
                continue;
            }
            let user = self.cpu(cpu).is_some_and(|c| c.mode == Mode::User);
            let kernels = !leaf.rights.has(Rights::USER);
            let fires = user || kernels || self.knobs.is_broken(Broken::FreeFiresAtOnce);
            if fires && used.has(cpu) {
                now = now.or(CpuSet::one(cpu));
            } else {
                self.arm(cpu, id, finding.clone());
            }
        }
        if !now.is_empty() {
            self.report(finding.clone(), now, record.pcid);
        }
    }

    fn arm(&mut self, cpu: CpuId, id: Id, finding: Finding) {
        let same = |a: &Armed| {
            (a.cpu, a.id, a.finding.rule, a.finding.frame) == (cpu, id, finding.rule, finding.frame)
        };
        if !self.armed.iter().any(same) {
            self.armed.push(Armed { cpu, id, finding });
        }
    }

    /// Is the CPU's own tree different, in what the finding is about?
    fn is_stale(&self, finding: &Finding, record: &Record, cpu: CpuId) -> bool {
        if self.knobs.is_broken(Broken::CoverIgnored) {
            return true;
        }
        let (What::Leaf(leaf), Some(root)) = (record.what, self.root_for(record, cpu)) else {
            return true;
        };
        let needed = match finding.rule {
            Rule::R2 => leaf.rights.and(Rights::USER),
            Rule::R5 => Rights::WRITE,
            _ => return !self.is_covered(record, cpu),
        };
        let offset = finding.frame.0.saturating_sub(leaf.frame.0) << 12;
        let va = record.va + offset;
        let fresh = self.tables.walk(&self.geometry, root, va).leaf();
        !fresh.is_some_and(|(l, at)| {
            l.frame.plus((va - at.va) >> 12) == finding.frame && l.rights.has(needed)
        })
    }

    /// A CPU does what its armed findings waited for.
    fn trigger(&mut self, cpu: CpuId, wanted: impl Fn(&Record, &Finding) -> bool) {
        let armed = std::mem::take(&mut self.armed);
        for one in armed {
            let Some(record) = self.records.get(one.id).cloned() else {
                continue;
            };
            let pending =
                self.pending(&record).has(one.cpu) || self.knobs.is_broken(Broken::ArmedForever);
            if !pending {
                continue;
            }
            let used = !self.in_use(&record, CpuSet::one(one.cpu)).is_empty();
            if one.cpu != cpu || !used || !wanted(&record, &one.finding) {
                self.armed.push(one);
                continue;
            }
            let is_table = matches!(record.what, What::Table(_));
            if is_table || self.is_stale(&one.finding, &record, cpu) {
                self.report(one.finding, CpuSet::one(cpu), record.pcid);
            }
        }
    }

    /// A CPU loaded a root without dropping what it had under that PCID.
    pub(crate) fn came_back(&mut self, by: &Origin) {
        if !self.armed.is_empty() {
            self.trigger(by.cpu, |record, _| matches!(record.what, What::Table(_)));
        }
    }

    fn uses_user_pages(&mut self, cpu: CpuId) {
        if !self.armed.is_empty() {
            self.trigger(cpu, |_, finding| finding.rule != Rule::R4);
        }
    }

    /// The CPU of `by` begins to execute at CPL 3, running the task of `by`, which has then returned
    /// from whatever it did in the kernel (finding R3).
    pub fn enters_user(&mut self, by: &Origin) -> Result<(), RunError> {
        self.begin(by)?;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.mode = Mode::User;
        }
        self.uses_user_pages(by.cpu);
        self.returned(by, by.task);
        self.end()
    }

    /// It begins to execute at CPL 0. Drops nothing (rule I5).
    pub fn leaves_user(&mut self, by: &Origin) -> Result<(), RunError> {
        self.begin(by)?;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.mode = Mode::Kernel;
        }
        if self.knobs.is_broken(Broken::EntryFlushes) {
            self.invalidate(by, crate::cpu::Invalidation::Everything)?;
        }
        self.end()
    }

    /// It executes STAC: the kernel is about to use user addresses.
    pub fn stac(&mut self, by: &Origin) -> Result<(), RunError> {
        self.begin(by)?;
        self.uses_user_pages(by.cpu);
        self.end()
    }

    /// It stops to execute.
    pub fn halts(&mut self, by: &Origin) -> Result<(), RunError> {
        self.begin(by)?;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.mode = Mode::Halted;
        }
        self.end()
    }

    /// It executes again, in the kernel.
    pub fn resumes(&mut self, by: &Origin) -> Result<(), RunError> {
        self.begin(by)?;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.mode = Mode::Kernel;
        }
        self.trigger(by.cpu, |_, finding| finding.rule == Rule::R4);
        self.end()
    }

    fn returned(&mut self, by: &Origin, task: Task) {
        for id in self.records.owed(task) {
            self.owes(by, id, Why::Returned, Certainty::Error);
        }
    }

    fn owes(&mut self, by: &Origin, id: Id, why: Why, certainty: Certainty) {
        let Some(record) = self.records.get(id) else {
            return;
        };
        let What::Leaf(leaf) = record.what else {
            return;
        };
        // An address that the kernel has unmapped, and has promised not to use, is left to R4.
        let promised = !leaf.rights.has(Rights::USER) && !record.replaced;
        let exempt = promised
            && !self.knobs.strict_kernel
            && !self.knobs.is_broken(Broken::LazyKernelIsLate);
        if exempt || self.knobs.is_broken(Broken::NothingIsLate) {
            return;
        }
        let mut finding = self.about(Rule::R3, why, record, leaf.frame, by);
        finding.certainty = certainty;
        self.raise(id, &finding);
    }

    /// For guests whose tasks are not known: what has been pending for longer than `age` is a warning.
    pub fn late(&mut self, by: &Origin, age: u64) -> Result<(), RunError> {
        self.begin(by)?;
        for id in self.records.ids() {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            let waited = by.time.saturating_sub(record.by.time);
            if record.restrictive && waited > age && self.records.owe_once(id) {
                self.owes(by, id, Why::Overdue { age: waited }, Certainty::Warning);
            }
        }
        self.end()
    }

    /// May hardware set A, or D, in an entry of a table that is linked nowhere, and on which CPU? For
    /// emulators that do so on purpose.
    pub fn may_set_bits(&self, pa: u64, bits: u64) -> Option<CpuId> {
        let frame = Frame::of(pa);
        let table = self.tables.get(frame)?;
        let value = table.value((pa & 0xfff) as usize / 8);
        if !table.is_dead() || value & P == 0 {
            return None;
        }
        let ids = self.records.tables_of(&self.geometry, frame);
        ids.into_iter().find_map(|id| {
            let record = self.records.get(id)?;
            let What::Table(pointer) = record.what else {
                return None;
            };
            let rights = pointer.rights.and(Rights::of(value));
            let allowed = bits & D == 0 || rights.has(Rights::WRITE);
            let pending = self.in_use(record, self.pending(record));
            pending.iter().next().filter(|_| allowed)
        })
    }

    /// The emulator has set A or D in such an entry.
    pub fn bits_set(&mut self, by: &Origin, pa: u64, bits: u64) -> Result<(), RunError> {
        self.begin(by)?;
        let (frame, index) = (Frame::of(pa), (pa & 0xfff) as usize / 8);
        let ids = self.records.tables_of(&self.geometry, frame);
        let place = ids
            .into_iter()
            .find_map(|id| match self.records.get(id)?.what {
                What::Table(pointer) => {
                    let va = self.records.get(id)?.va;
                    let mut pages = self.geometry.tables(pointer, va);
                    pages.find(|(f, _)| *f == frame).map(|(_, place)| place)
                }
                What::Leaf(_) => None,
            });
        let entries = self.geometry.entries();
        if let (Some(place), Some(table)) = (place, self.tables.get_mut(frame)) {
            let value = table.value(index) | bits & (A | D);
            table.marks.push((index, place));
            self.tables.set(frame, index, value, entries);
        }
        self.end()
    }

    /// Finding R6: what hardware marked in a table that goes must be marked where the page is now.
    fn lost_bits(&mut self, by: &Origin, frame: Frame) {
        let Some(table) = self.tables.get(frame) else {
            return;
        };
        let mut lost = Vec::new();
        for (index, place) in &table.marks {
            let value = table.value(*index);
            let va = self.geometry.va_of(*place, *index);
            let reading = self.geometry.read(place.level, value, Rights::ALL);
            let Reading::Leaf(old) = reading else {
                continue;
            };
            let live = self
                .roots
                .values()
                .flatten()
                .filter_map(|root| self.tables.walk(&self.geometry, *root, va).leaf());
            let same = live.filter(|(leaf, at)| leaf.frame.plus((va - at.va) >> 12) == old.frame);
            let bad = |at: &At| {
                let now = self.memory.read(at.entry).unwrap_or(at.value);
                value & (A | D) & !now != 0
            };
            let missing: Vec<At> = same.map(|(_, at)| at).collect();
            if missing.iter().any(bad) {
                lost.push((old.frame, frame.address() + (*index as u64) * 8));
            }
        }
        for (page, entry) in lost {
            self.findings.push(Finding {
                rule: Rule::R6,
                certainty: Certainty::Error,
                why: Why::BitsLost { entry },
                frame: page,
                frames: 1,
                taken: None,
                holders: Vec::new(),
                by: *by,
            });
        }
    }

    /// Finding R1': a value that a walk would follow, in a table that is linked nowhere. Bits of what
    /// is there may change.
    pub(crate) fn overwritten(&mut self, by: &Origin, pa: u64, old: u64, new: u64) {
        let own = old & P != 0 && (old ^ new) & ADDRESS == 0;
        if new & P == 0 || own || self.knobs.is_broken(Broken::OverwriteIsFine) {
            return;
        }
        let why = Why::Overwritten {
            entry: pa,
            value: new,
        };
        for id in self.records.tables_of(&self.geometry, Frame::of(pa)) {
            self.reused(by, id, Frame::of(pa), why, |this, record, cpu| {
                this.leads_home(record, cpu, pa, new)
            });
        }
    }

    /// Does a value, stored at `pa` in a table that the record leads to, lead to a table that the CPU's own
    /// tree has at that address? Then a walk by way of the old entry finds what it would find anyway:
    /// so an index page goes on being kept beside a flattened node.
    fn leads_home(&self, record: &Record, cpu: CpuId, pa: u64, value: u64) -> bool {
        let (What::Table(pointer), Some(root)) = (record.what, self.root_for(record, cpu)) else {
            return false;
        };
        let (frame, index) = (Frame::of(pa), (pa & 0xfff) as usize / 8);
        let mut pages = self.geometry.tables(pointer, record.va);
        let Some((_, place)) = pages.find(|(f, _)| *f == frame) else {
            return false;
        };
        let va = self.geometry.va_of(place, index);
        let Reading::Table(below) = self.geometry.read(place.level, value, Rights::ALL) else {
            return false;
        };
        let home = |(frame, place): (Frame, Place)| {
            let path = self.tables.walk(&self.geometry, root, place.va);
            let mut steps = path.steps();
            steps.any(|s| s.place == Some(place) && Frame::of(s.at.entry) == frame)
        };
        !self.knobs.is_broken(Broken::ShadowNever) && self.geometry.tables(below, va).all(home)
    }

    fn reused(
        &mut self,
        by: &Origin,
        id: Id,
        frame: Frame,
        why: Why,
        fine: impl Fn(&Self, &Record, CpuId) -> bool,
    ) {
        let Some(record) = self.records.get(id).cloned() else {
            return;
        };
        let used = self.in_use(&record, self.pending(&record));
        let used = used
            .iter()
            .filter(|cpu| !fine(self, &record, *cpu))
            .fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)));
        if !used.is_empty() {
            let finding = self.about(Rule::R1Reused, why, &record, frame, by);
            self.report(finding, used, record.pcid);
        }
    }

    /// Which tables that were just linked CPUs held before, by which records.
    pub(crate) fn revived(&self, linked: &Linked) -> Vec<Revived> {
        let mut found = Vec::new();
        if !self.records.has_tables() || self.knobs.is_broken(Broken::RelinkIsFine) {
            return found;
        }
        for (frame, place) in &linked.revived {
            for id in self.records.tables_of(&self.geometry, *frame) {
                let Some(record) = self.records.get(id) else {
                    continue;
                };
                let cpus = self.in_use(record, self.pending(record));
                if !cpus.is_empty() {
                    found.push(Revived {
                        frame: *frame,
                        place: *place,
                        record: record.clone(),
                        cpus,
                    });
                }
            }
        }
        found
    }

    /// Finding R1': tables that nothing led to are linked. That is right where they were, and anywhere
    /// in the tree of whoever may hold the old entry, as moving a table before the flush is.
    pub(crate) fn relinked(&mut self, by: &Origin, revived: Vec<Revived>) {
        for one in revived {
            let foreign = one
                .cpus
                .iter()
                .filter(|c| !self.is_at_home(&one.record, *c, one.frame))
                .fold(CpuSet::default(), |set, c| set.or(CpuSet::one(c)));
            if !foreign.is_empty() {
                let why = Why::Relinked(one.place);
                let finding = self.about(Rule::R1Reused, why, &one.record, one.frame, by);
                self.report(finding, foreign, one.record.pcid);
            }
        }
    }

    fn is_at_home(&self, record: &Record, cpu: CpuId, frame: Frame) -> bool {
        let (What::Table(pointer), Some(root)) = (record.what, self.root_for(record, cpu)) else {
            return true;
        };
        if self.knobs.is_broken(Broken::RelinkNever) {
            return false;
        }
        let half = |va| self.geometry.kernel_half(va);
        let places = self.tables.get(frame).map_or(Vec::new(), |t| t.places());
        places.iter().any(|place| {
            let path = self.tables.walk(&self.geometry, root, place.va);
            let mut steps = path.steps();
            pointer.level == place.level
                && half(record.va) == half(place.va)
                && steps.any(|s| s.place == Some(*place) && Frame::of(s.at.entry) == frame)
        })
    }

    /// Finding R1': a table that is linked nowhere becomes a page.
    pub(crate) fn new_pages(&mut self, by: &Origin, change: &Change) {
        if change.new.value & P == 0
            || !self.records.has_tables()
            || self.knobs.is_broken(Broken::MappingIsFine)
        {
            return;
        }
        let mut hits = Vec::new();
        self.tables
            .visit(&self.geometry, change.new, &mut |at, what| {
                let What::Leaf(leaf) = what else { return };
                let n = self.geometry.page_frames(leaf.level);
                for id in self.records.tables_among(&self.geometry, leaf.frame, n) {
                    hits.extend(self.dead_pages(id, leaf, at.va, &change.old));
                }
            });
        hits.sort_unstable();
        hits.dedup();
        for (id, frame, va) in hits {
            let va = self.geometry.canonical(va);
            self.reused(by, id, frame, Why::Mapped { va }, |_, _, _| false);
        }
    }

    /// Unlinked table pages of a record that a new page has in it and the old entry had not.
    fn dead_pages(&self, id: Id, leaf: Leaf, va: u64, old: &At) -> Vec<(Id, Frame, u64)> {
        let Some(What::Table(pointer)) = self.records.get(id).map(|r| r.what) else {
            return Vec::new();
        };
        let n = self.geometry.page_frames(leaf.level);
        let first = leaf.frame.0.max(pointer.frame.0);
        let end = (leaf.frame.0 + n).min(pointer.frame.0 + pointer.frames);
        let mut found = Vec::new();
        for frame in (first..end).map(Frame) {
            let dead = self.tables.get(frame).is_some_and(|t| t.is_dead());
            let at = va + ((frame.0 - leaf.frame.0) << 12);
            let was = self.tables.follow(&self.geometry, *old, at).leaf();
            let was = was.map(|(l, o)| l.frame.plus((at - o.va) >> 12));
            if dead && was != Some(frame) {
                found.push((id, frame, at));
            }
        }
        found
    }

    /// Finding R4: a kernel address that had no page gets one.
    pub(crate) fn kernel_reuse(&mut self, by: &Origin, cpus: CpuSet, change: &Change) {
        if change.new.value & P == 0
            || !self.records.has_leaves()
            || !self.geometry.kernel_half(change.new.va)
            || self.knobs.is_broken(Broken::ReuseIsFine)
        {
            return;
        }
        let mut hits = Vec::new();
        self.tables
            .visit(&self.geometry, change.new, &mut |at, what| {
                let What::Leaf(leaf) = what else { return };
                if leaf.rights.has(Rights::USER) {
                    return;
                }
                let bytes = self.geometry.span(leaf.level);
                for id in self.records.leaves_in(&self.geometry, at.va, bytes) {
                    let Some(record) = self.records.get(id) else {
                        continue;
                    };
                    let What::Leaf(held) = record.what else {
                        continue;
                    };
                    let va = record.va.max(at.va);
                    let old = self.tables.follow(&self.geometry, change.old, va).leaf();
                    let frame = leaf.frame.plus((va - at.va) >> 12);
                    let differs = held.frame.plus((va - record.va) >> 12) != frame
                        || held.memory_type != leaf.memory_type
                        || self.knobs.is_broken(Broken::ReuseOfSame);
                    if old.is_none() && differs {
                        hits.push((id, frame, va, leaf));
                    }
                }
            });
        for (id, frame, va, leaf) in hits {
            let Some(record) = self.records.get(id).cloned() else {
                continue;
            };
            let va = self.geometry.canonical(va);
            let why = Why::MappedAnew { va, leaf };
            let finding = self.about(Rule::R4, why, &record, frame, by);
            let used = self.in_use(&record, self.pending(&record).and(cpus));
            let mut now = CpuSet::default();
            for cpu in used.iter() {
                if self.cpu(cpu).is_some_and(|c| c.mode == Mode::Halted) {
                    self.arm(cpu, id, finding.clone());
                } else {
                    now = now.or(CpuSet::one(cpu));
                }
            }
            if !now.is_empty() {
                self.report(finding, now, record.pcid);
            }
        }
    }
}
