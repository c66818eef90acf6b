// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUs: what they have loaded, and when they last invalidated what.

use std::collections::VecDeque;

use crate::geometry::Root;

/// Number of a CPU, below 64.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u8);

/// A thread of the guest, whatever the caller identifies it by.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Task(pub u64);

/// A place in the guest's code or a stack in the caller's depot.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Site(pub u64);

/// Who did something, where and when.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The CPU that did it.
    pub cpu: CpuId,
    /// What it was running.
    pub task: Task,
    /// The code that the event happened in.
    pub site: Site,
    /// When it happened, in the caller's unit of time.
    pub time: u64,
}

/// Number of an event: later ones are greater.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

/// A set of CPUs.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// Just one.
    pub const fn one(cpu: CpuId) -> CpuSet {
        CpuSet(1 << (cpu.0 & 63))
    }

    /// Is nobody in it?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is this one in it?
    pub const fn has(self, cpu: CpuId) -> bool {
        self.0 & CpuSet::one(cpu).0 != 0
    }

    /// Those of either.
    pub const fn or(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 | other.0)
    }

    /// Those of both.
    pub const fn and(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 & other.0)
    }

    /// Those of `self` that are not in `other`.
    pub const fn without(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 & !other.0)
    }

    /// The members, in order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        (0..64u8).map(CpuId).filter(move |c| self.has(*c))
    }
}

/// What a CPU is doing.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Executing at CPL 0.
    #[default]
    Kernel,
    /// Executing at CPL 3.
    User,
    /// Not executing.
    Halted,
}

/// What a CPU is told to forget (rules I1 to I4). Writes to CR3 are an event of their own.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// All, global pages too: CR4.PGE or FPTE changes, CR4.PCIDE or CR0.PG cleared, INIT, INVPCID 2.
    Everything,
    /// All that is not global, in every PCID: INVPCID 3.
    AllContexts,
    /// All that is not global, of one PCID: INVPCID 1.
    Context(u16),
    /// All that is not global, of the current PCID: CR4.PAE, CR4.SMEP set.
    Current,
    /// INVLPG.
    Page(u64),
    /// INVPCID 0: one address in one PCID.
    PageOf(u16, u64),
    /// A page fault at the address.
    Fault(u64),
}

/// What a CPU did to its caches, for reports.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// An invalidation.
    By(Invalidation),
    /// A write to CR3 that drops the PCID's entries.
    Cr3(Option<Root>),
    /// A write to CR3 with bit 63, that drops nothing.
    Cr3NoFlush(Option<Root>),
}

/// One of a CPU's last invalidations.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Which.
    pub what: Flushed,
    /// When, in the order of events.
    pub seq: Seq,
    /// Who did it.
    pub origin: Origin,
}

/// Which invalidations end a record.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// A page that is not global.
    Leaf,
    /// A global page.
    Global,
    /// An entry of a paging-structure cache.
    Table,
}

/// How many pending entries an invalidation ended. Nothing: no hardware could have needed it.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Ended {
    /// Pending translations of pages.
    pub leaves: u64,
    /// Pending cached tables.
    pub tables: u64,
}

/// What a CPU holds under one PCID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Context {
    pub(crate) pcid: u16,
    pub(crate) root: Root,
    last_leaf: Seq,
    last_table: Seq,
    leaves: u64,
    tables: u64,
}

/// Invalidations that a report can look back on.
const HISTORY: usize = 8;

/// A CPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) mode: Mode,
    /// PCID in use; none while paging is off or somebody else's tables are in use.
    pub(crate) current: Option<u16>,
    pub(crate) contexts: Vec<Context>,
    /// The root whose global pages may be left.
    pub(crate) last_root: Option<Root>,
    last_global: Seq,
    globals: u64,
    history: VecDeque<Past>,
}

impl Cpu {
    pub(crate) fn context(&self, pcid: u16) -> Option<&Context> {
        self.contexts.iter().find(|c| c.pcid == pcid)
    }

    fn context_mut(&mut self, pcid: u16) -> Option<&mut Context> {
        self.contexts.iter_mut().find(|c| c.pcid == pcid)
    }

    pub(crate) fn root(&self) -> Option<Root> {
        self.context(self.current?).map(|c| c.root)
    }

    /// May the CPU still hold what was recorded at `seq`?
    pub(crate) fn pending(&self, class: Class, pcid: u16, seq: Seq) -> bool {
        match class {
            Class::Global => seq > self.last_global,
            Class::Leaf => self.context(pcid).is_some_and(|c| seq > c.last_leaf),
            Class::Table => self.context(pcid).is_some_and(|c| seq > c.last_table),
        }
    }

    /// One more, or one less, pending entry.
    pub(crate) fn count(&mut self, class: Class, pcid: u16, more: bool) {
        let number = match (class, self.context_mut(pcid)) {
            (Class::Global, _) => &mut self.globals,
            (Class::Leaf, Some(context)) => &mut context.leaves,
            (Class::Table, Some(context)) => &mut context.tables,
            _ => return,
        };
        *number = if more {
            number.saturating_add(1)
        } else {
            number.saturating_sub(1)
        };
    }

    pub(crate) fn drop_leaves(&mut self, pcid: u16, now: Seq) -> u64 {
        let Some(context) = self.context_mut(pcid) else {
            return 0;
        };
        context.last_leaf = now;
        std::mem::take(&mut context.leaves)
    }

    pub(crate) fn drop_tables(&mut self, pcid: u16, now: Seq) -> u64 {
        let Some(context) = self.context_mut(pcid) else {
            return 0;
        };
        context.last_table = now;
        std::mem::take(&mut context.tables)
    }

    pub(crate) fn drop_globals(&mut self, now: Seq) -> u64 {
        self.last_global = now;
        std::mem::take(&mut self.globals)
    }

    /// Selects a root. A PCID that was never used holds nothing.
    pub(crate) fn select(&mut self, pcid: u16, root: Root, now: Seq) {
        self.current = Some(pcid);
        self.last_root = Some(root);
        match self.context_mut(pcid) {
            Some(context) => context.root = root,
            None => self.contexts.push(Context {
                pcid,
                root,
                last_leaf: now,
                last_table: now,
                leaves: 0,
                tables: 0,
            }),
        }
    }

    pub(crate) fn remember(&mut self, past: Past) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(past);
    }

    pub(crate) fn history(&self) -> impl Iterator<Item = &Past> {
        self.history.iter()
    }
}
