// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records: entries that are gone, or changed, while CPUs may hold what they were.

use std::collections::{BTreeMap, HashMap};

use crate::cpu::{Class, CpuId, CpuSet, Origin, Seq, Task};
use crate::finding::What;
use crate::geometry::{Frame, Geometry, Level};

/// So many records of one address or memory are looked through for those that are over.
const CROWD: usize = 16;

/// Name of a record.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Id(u64);

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) what: What,
    /// Level of the entry.
    pub(crate) level: Level,
    /// First address that it translated, stripped.
    pub(crate) va: u64,
    /// Physical address of the entry, its value then, and the value of the store.
    pub(crate) entry: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
    pub(crate) pcid: u16,
    /// Who may hold it, unless they have flushed since.
    pub(crate) cpus: CpuSet,
    pub(crate) seq: Seq,
    /// Does somebody owe a flush? Else the record is only there because of what may happen next.
    pub(crate) restrictive: bool,
    /// Was there another page at the address at once?
    pub(crate) replaced: bool,
    /// Was it said to be overdue?
    pub(crate) overdue: bool,
    pub(crate) by: Origin,
}

impl Record {
    pub(crate) fn class(&self) -> Class {
        match self.what {
            What::Table(_) => Class::Table,
            What::Leaf(leaf) if leaf.global => Class::Global,
            What::Leaf(_) => Class::Leaf,
        }
    }
}

/// All records, found by what they are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    all: HashMap<Id, Record>,
    next: u64,
    leaves_at: BTreeMap<u64, Vec<Id>>,
    leaves_of: HashMap<(Level, Frame), Vec<Id>>,
    tables_at: HashMap<(Level, u64), Vec<Id>>,
    tables_of: BTreeMap<Frame, Vec<Id>>,
    of_task: HashMap<Task, Vec<Id>>,
}

impl Records {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Record> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Record> {
        self.all.get_mut(&id)
    }

    pub(crate) fn ids(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.all.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.all.values()
    }

    pub(crate) fn has_tables(&self) -> bool {
        !self.tables_of.is_empty()
    }

    pub(crate) fn has_leaves(&self) -> bool {
        !self.leaves_at.is_empty()
    }

    fn index(&mut self, id: Id, record: &Record) {
        match record.what {
            What::Leaf(leaf) => {
                self.leaves_at.entry(record.va).or_default().push(id);
                let key = (leaf.level, leaf.frame);
                self.leaves_of.entry(key).or_default().push(id);
                if record.restrictive {
                    self.of_task.entry(record.by.task).or_default().push(id);
                }
            }
            What::Table(pointer) => {
                let key = (record.level, record.va);
                self.tables_at.entry(key).or_default().push(id);
                self.tables_of.entry(pointer.frame).or_default().push(id);
            }
        }
    }

    pub(crate) fn insert(&mut self, record: Record) -> Id {
        let id = Id(self.next);
        self.next += 1;
        self.index(id, &record);
        self.all.insert(id, record);
        id
    }

    /// Records of the same address or memory, if they are so many that most must be over: a table or
    /// page that is used again and again would be looked for among all that it ever was. Asked for at powers
    /// of two, as they may not be over.
    pub(crate) fn crowd(&self, of: &Record) -> Vec<Id> {
        let lists = match of.what {
            What::Leaf(leaf) => [
                self.leaves_at.get(&of.va),
                self.leaves_of.get(&(leaf.level, leaf.frame)),
            ],
            What::Table(pointer) => [
                self.tables_at.get(&(of.level, of.va)),
                self.tables_of.get(&pointer.frame),
            ],
        };
        let crowded = lists
            .into_iter()
            .flatten()
            .filter(|l| l.len() >= CROWD && l.len().is_power_of_two());
        crowded.flatten().copied().collect()
    }

    /// Forgets one. What a task owes is looked up when it is asked for.
    pub(crate) fn remove(&mut self, id: Id) {
        let Some(record) = self.all.remove(&id) else {
            return;
        };
        let without = |list: Option<&mut Vec<Id>>| match list {
            Some(list) => {
                list.retain(|other| *other != id);
                list.is_empty()
            }
            None => false,
        };
        match record.what {
            What::Leaf(leaf) => {
                if without(self.leaves_at.get_mut(&record.va)) {
                    self.leaves_at.remove(&record.va);
                }
                let key = (leaf.level, leaf.frame);
                if without(self.leaves_of.get_mut(&key)) {
                    self.leaves_of.remove(&key);
                }
            }
            What::Table(pointer) => {
                let key = (record.level, record.va);
                if without(self.tables_at.get_mut(&key)) {
                    self.tables_at.remove(&key);
                }
                if without(self.tables_of.get_mut(&pointer.frame)) {
                    self.tables_of.remove(&pointer.frame);
                }
            }
        }
    }

    /// A record of the same entry with the same contents, for which `wanted` holds.
    pub(crate) fn same(&self, of: &Record, wanted: impl Fn(&Record) -> bool) -> Option<Id> {
        let ids = match of.what {
            What::Leaf(_) => self.leaves_at.get(&of.va),
            What::Table(_) => self.tables_at.get(&(of.level, of.va)),
        };
        let same = |id: &&Id| {
            self.all.get(id).is_some_and(|r| {
                r.what == of.what && r.level == of.level && r.pcid == of.pcid && wanted(r)
            })
        };
        ids?.iter().find(same).copied()
    }

    /// From now on somebody owes a flush.
    pub(crate) fn make_restrictive(&mut self, id: Id, by: Origin, new: u64, replaced: bool) {
        let Some(record) = self.all.get_mut(&id) else {
            return;
        };
        record.by = by;
        record.new = new;
        record.replaced = replaced;
        record.restrictive = true;
        record.overdue = false;
        self.of_task.entry(by.task).or_default().push(id);
    }

    /// What a task owes; asked once.
    pub(crate) fn owed(&mut self, task: Task) -> Vec<Id> {
        let mut ids = self.of_task.remove(&task).unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| {
            self.all
                .get(id)
                .is_some_and(|r| r.restrictive && r.by.task == task)
        });
        ids
    }

    /// Is this the first time that somebody asks for what a record owes by its age?
    pub(crate) fn owe_once(&mut self, id: Id) -> bool {
        let Some(record) = self.all.get_mut(&id) else {
            return false;
        };
        !std::mem::replace(&mut record.overdue, true)
    }

    /// Leaf records that overlap a span of addresses.
    pub(crate) fn leaves_in(&self, geometry: &Geometry, va: u64, bytes: u64) -> Vec<Id> {
        let mut found: Vec<Id> = self
            .leaves_at
            .range(va..va.saturating_add(bytes))
            .flat_map(|(_, ids)| ids.iter().copied())
            .collect();
        for level in geometry.large.iter().map(|l| Level(*l)) {
            let base = geometry.base(level, va);
            if base != va {
                let larger = self.leaves_at.get(&base).into_iter().flatten().copied();
                found.extend(larger.filter(|id| self.get(*id).is_some_and(|r| r.level >= level)));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Table records on the path of an address.
    pub(crate) fn tables_on(&self, geometry: &Geometry, va: u64) -> Vec<Id> {
        (1..=geometry.levels)
            .map(Level)
            .filter_map(|level| self.tables_at.get(&(level, geometry.base(level, va))))
            .flatten()
            .copied()
            .collect()
    }

    /// Leaf records whose page holds a frame.
    pub(crate) fn leaves_of(&self, geometry: &Geometry, frame: Frame) -> Vec<Id> {
        let levels = std::iter::once(1).chain(geometry.large.iter().copied());
        levels
            .map(Level)
            .filter_map(|level| {
                let base = Frame(frame.0 & !(geometry.page_frames(level) - 1));
                self.leaves_of.get(&(level, base))
            })
            .flatten()
            .copied()
            .collect()
    }

    /// Table records that lead to a frame.
    pub(crate) fn tables_of(&self, geometry: &Geometry, frame: Frame) -> Vec<Id> {
        if self.tables_of.is_empty() {
            return Vec::new();
        }
        let block = Frame(frame.0 & !(geometry.node_frames() - 1));
        let at = |f: Frame| self.tables_of.get(&f).into_iter().flatten().copied();
        let mut found: Vec<Id> = at(frame).collect();
        if block != frame {
            found.extend(at(block).filter(
                |id| matches!(self.get(*id).map(|r| r.what), Some(What::Table(p)) if p.frames > 1),
            ));
        }
        found
    }

    /// Table records that lead into a range of frames.
    pub(crate) fn tables_among(&self, geometry: &Geometry, frame: Frame, n: u64) -> Vec<Id> {
        let mut found = self.tables_of(geometry, frame);
        if n > 1 {
            let rest = self.tables_of.range(frame.plus(1)..frame.plus(n));
            found.extend(rest.flat_map(|(_, ids)| ids.iter().copied()));
        }
        found
    }

    /// Keeps what `keep` says, and makes the indices anew.
    pub(crate) fn sweep(&mut self, keep: impl Fn(&Record) -> bool) {
        let old = std::mem::take(&mut self.all);
        let mut kept: Vec<(Id, Record)> = old.into_iter().filter(|(_, r)| keep(r)).collect();
        kept.sort_unstable_by_key(|(id, _)| *id);
        *self = Records {
            next: self.next,
            ..Records::default()
        };
        for (id, record) in kept {
            self.index(id, &record);
            self.all.insert(id, record);
        }
    }
}

/// A finding that waits until a CPU can do harm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Armed {
    pub(crate) cpu: CpuId,
    pub(crate) id: Id,
    pub(crate) finding: crate::finding::Finding,
}
