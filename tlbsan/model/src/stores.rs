// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores to table pages: what they take away, and from whom.

use crate::cpu::{CpuSet, Origin};
use crate::finding::{RunError, What};
use crate::geometry::{Frame, Leaf, Place, Reading, Rights, A, D, G, P};
use crate::ledger::{without_clean_write, Change, Group, Ledger, Side};
use crate::memory::GuestMemory;
use crate::records::{Id, Record};
use crate::rules::Broken;
use crate::tables::{At, Linked, Path};

impl<M: GuestMemory> Ledger<M> {
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
        for (child, at) in self.children(&places, index, new) {
            self.link((child, at), &mut linked);
        }
        let mut changes = Vec::new();
        for place in &places {
            let at = |value, above| At {
                entry: pa,
                level: place.level,
                va: self.geometry.va_of(*place, index),
                value,
                above,
            };
            let change = |above| Change {
                old: at(old, above),
                new: at(new, above),
            };
            let groups = self.holders(frame, *place, self.geometry.va_of(*place, index));
            changes.extend(groups.iter().map(|g| (*g, change(g.above))));
            let change = change(Rights::ALL);
            self.new_pages(by, &change);
        }
        let revived = self.revived(&linked);
        for (group, change) in &changes {
            self.kernel_reuse(by, group.cpus, change);
        }
        for (group, change) in &changes {
            self.lose(by, group, change.old, Side::Entry(change.new), new);
        }
        self.born_stale(by, frame, index, new);
        self.set(pa, new);
        self.now_uncovered(by, before, new);
        let user = places.iter().any(|p| !self.geometry.kernel_half(p.va));
        self.user_globals |= linked.user_globals || (user && new & G != 0);
        self.relinked(by, revived);

        let mut dead = Vec::new();
        for (child, at) in self.children(&places, index, old) {
            self.tables.unlink(&self.geometry, child, at, &mut dead);
        }
        self.drop_dead(dead);
        self.end()
    }

    /// The table pages that a value leads to, in each place of its own page.
    fn children(&self, places: &[Place], index: usize, value: u64) -> Vec<(Frame, Place)> {
        let mut found = Vec::new();
        for place in places {
            let va = self.geometry.va_of(*place, index);
            if let Reading::Table(p) = self.geometry.read(place.level, value, Rights::ALL) {
                found.extend(self.geometry.tables(p, va));
            }
        }
        found
    }

    pub(crate) fn link(&mut self, page: (Frame, Place), linked: &mut Linked) {
        let limit = self.knobs.limits.tables;
        self.tables
            .link(&self.geometry, &self.memory, page, linked, limit);
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
    pub(crate) fn missing(
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
                && self.grants(now.rights, wanted.rights);
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
        record.restrictive = !self.covers(&judged, at.va, fresh);
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
}
