// SPDX-License-Identifier: GPL-2.0

//! What arch/x86 does below the functions by which generic code changes entries above the PTEs: the
//! transitions T1 to T7 of nodes with index pages, each through the core's states only.
//!
//! Names are those of the kernel's functions. Tables that generic code accounts for (`mm_inc_nr_ptes()`
//! and the like) are accounted for here, beside the call.

use crate::mem::SimBlock;
use crate::space::{Mm, MmError, Ops, Parent};
use crate::world::{Request, World};
use fpt_core::addr::{PhysAddr, PAGE_SIZE};
use fpt_core::counters::{Counter, KindCounter};
use fpt_core::entry::{self, Entry, TABLE_FLAGS};
use fpt_core::geometry::{Level, NodeKind};
use fpt_core::node::{self, Detached, NodeAlloc as _, Ready, Source};
use fpt_core::policy::{decide, Decision, Policy, SpanFacts};
use fpt_core::span::{is_own, Event, Span, State, View};
use fpt_core::walk::IndexPages;

const PAGE: i64 = PAGE_SIZE as i64;

/// Nodes that wait for the flush.
pub type Batch = Vec<SimBlock>;

/// The node that a table of entries of `level` would be the index page of.
fn kind_of_index(level: Level) -> Option<NodeKind> {
    match level {
        Level::L3 => Some(NodeKind::Mid),
        Level::L2 => Some(NodeKind::Bottom),
        Level::L4 | Level::L1 => None,
    }
}

impl Mm {
    pub(crate) fn ops<'a>(&'a mut self, world: &'a mut World) -> Ops<'a> {
        Ops { world, mm: self }
    }

    /// T2, T3, T9: `change` takes or puts a slice of the node at `block`.
    pub(crate) fn slices<R>(
        &mut self,
        w: &mut World,
        block: PhysAddr,
        change: impl FnOnce(&mut Span) -> R,
    ) -> R {
        let node = w.node(block);
        let mut span = std::mem::replace(&mut node.span, Span::new(NodeKind::Bottom));
        let result = node::with_slices(&mut self.ops(w), &mut span, change);
        w.node(block).span = span;
        result
    }

    /// Slices in use of the flat node below the one that `slot` is to lead to.
    fn below_slices(&self, w: &World, slot: PhysAddr) -> u32 {
        if slot.as_u64() % PAGE_SIZE == 0 {
            return 0;
        }
        let entry = Entry::new(w.mem.read(PhysAddr::new(slot.as_u64() - 8)));
        let node = w.nodes.get(&entry.addr()).filter(|_| entry.is_flat());
        node.map_or(0, |node| node.span.nr_used())
    }

    /// Stores an entry that is no PTE. In the index page of a flattened span only its own tables and
    /// none may stand, and others only after the flush.
    fn set_entry(&self, w: &mut World, slot: PhysAddr, value: u64) {
        if let Some((block, i)) = w.node_at(slot) {
            let own = value == 0 || is_own(block, i, Entry::new(value));
            if !own {
                assert_eq!(w.node(block).span.state(), State::Attached, "I3");
                assert!(!w.stale, "I3: stored before the flush");
            }
        }
        w.mem.write(slot, value);
    }

    /// T4, and T5 where `to` is `Loose`: the node at `block` becomes what an event demands.
    fn demand(&mut self, w: &mut World, block: PhysAddr, to: State) {
        let mut node = w.nodes.remove(&block).expect("a node");
        let kind = node.span.kind();
        let unflushed = match node.span.view() {
            View::Flat(flat) => {
                let (unflushed, entry) = flat.unflat(node.index).expect("an index page");
                w.mem.write(node.slot.expect("in a tree"), entry.as_u64());
                w.stale = true;
                w.unflats += 1;
                unflushed
            }
            View::Attached(_) if to == State::Attached => {
                w.nodes.insert(block, node);
                return;
            }
            View::Attached(attached) => attached.unflushed(),
            _ => panic!("an index page in the tree is of a flat or an attached span"),
        };
        // flush_tlb_mm_range(), tlb_remove_table_sync_one()
        w.flush();
        let flushed = unflushed.flushed();
        if to == State::Attached {
            w.nodes.insert(block, node);
            return;
        }
        let loose = flushed.detach();
        node::dissolve_node(&mut self.ops(w), &loose);
        w.nodes.insert(block, node);
        w.dissolve(block, kind);
    }

    /// Before an entry of an index page changes.
    pub fn event(&mut self, w: &mut World, slot: PhysAddr, event: Event) -> bool {
        match w.node_at(slot) {
            Some((block, _)) => {
                self.demand(w, block, event.demands());
                true
            }
            None => false,
        }
    }

    /// `set_pmd_at()`, `set_pud_at()`, `set_huge_pte_at()`: a leaf where nothing is.
    pub fn set_leaf(&mut self, w: &mut World, slot: PhysAddr, leaf: u64, event: Event) {
        self.event(w, slot, event);
        self.set_entry(w, slot, leaf);
    }

    /// A leaf goes.
    pub fn clear_leaf(&mut self, w: &mut World, slot: PhysAddr) {
        self.set_entry(w, slot, 0);
    }

    /// `pmd_populate()`, `pud_populate()`: leads the none entry at `slot` to the table at `table`, which
    /// may come from another entry.
    pub fn set_table(&mut self, w: &mut World, slot: PhysAddr, table: PhysAddr) {
        if let Some(index) = w.mem.index_page(table) {
            let i = (table.as_u64() >> 12) & 511;
            assert_ne!(slot, index.offset(i * 8), "only T2 brings a slice home");
            self.event(w, index, Event::MovedAway);
        }
        self.event(w, slot, Event::Foreign);
        let entry = match w.blocks.get(&table).copied() {
            // T6
            Some(block) => {
                let node = w.node(block);
                node.slot = Some(slot);
                node.span.slot_entry(block, table).expect("in a tree")
            }
            None => Entry::table(table, TABLE_FLAGS).expect("a table"),
        };
        self.set_entry(w, slot, entry.as_u64());
    }

    /// `__pud_alloc()`, `__pmd_alloc()`, `__pte_alloc()`: a table of entries of `child` below `slot`.
    pub fn populate(
        &mut self,
        w: &mut World,
        slot: PhysAddr,
        child: Level,
        huge: bool,
        parent: Option<Parent>,
    ) -> Result<(), MmError> {
        if !Entry::new(w.mem.read(slot)).is_none() || self.take_own(w, slot) {
            return Ok(());
        }
        if let Some(kind) = kind_of_index(child) {
            if self.flatten(w, slot, kind, huge, parent) {
                return Ok(());
            }
        }
        if !w.allow(Request::Table) {
            return Err(MmError::NoMemory);
        }
        let table = w.mem.alloc_table(child);
        self.pgtables_bytes += PAGE;
        self.set_table(w, slot, table);
        Ok(())
    }

    /// T1. False: conventional tables.
    fn flatten(
        &mut self,
        w: &mut World,
        slot: PhysAddr,
        kind: NodeKind,
        huge: bool,
        parent: Option<Parent>,
    ) -> bool {
        let facts = SpanFacts {
            below_slices: self.below_slices(w, slot),
            ..self.facts(w, kind, huge, parent)
        };
        let source = match decide(&facts) {
            Decision::Flatten => Source::Any,
            Decision::Recycle => Source::Pool,
            Decision::Conventional(why) => {
                let counter = if why.is_cap() {
                    Counter::REFUSED_CAP
                } else {
                    Counter::REFUSED_POLICY
                };
                w.counters[counter.index()] += 1;
                return false;
            }
        };
        match self.acquire(w, kind, source) {
            Ok(ready) => {
                self.publish(w, slot, ready);
                true
            }
            Err(_) => false,
        }
    }

    /// T2. False if the table that `slot` lies in brings no tables.
    fn take_own(&mut self, w: &mut World, slot: PhysAddr) -> bool {
        let Some((block, i)) = w.node_at(slot) else {
            return false;
        };
        let Some(entry) = self.slices(w, block, |span| span.take(block, i)) else {
            return false;
        };
        assert!(
            w.mem.frame_is_zero(entry.addr()),
            "a slice that is not zero"
        );
        w.owns += 1;
        self.set_entry(w, slot, entry.as_u64());
        true
    }

    /// T1, its first half: all that can fail.
    pub fn acquire(
        &mut self,
        w: &mut World,
        kind: NodeKind,
        source: Source,
    ) -> Result<Ready<SimBlock>, node::Fallback> {
        node::acquire_node(&mut self.ops(w), kind, source)
    }

    /// T1, its second half, under the lock of the slot. False: somebody else was there first, and the node
    /// is given up.
    pub fn publish(&mut self, w: &mut World, slot: PhysAddr, ready: Ready<SimBlock>) -> bool {
        let kind = ready.kind();
        if w.mem.read(slot) != 0 {
            w.count_kind(kind, KindCounter::Races);
            node::release_node(&mut self.ops(w), ready);
            return false;
        }
        // From here on the entry owns the block.
        let block = ready.into_raw().into_pa();
        let mut node = w.nodes.remove(&block).expect("a node");
        node.span.count(w.policy == Policy::Auto);
        let View::Ready(span) = node.span.view() else {
            panic!("a node that was not born is ready");
        };
        let (_flat, entry) = node::publish_node(&mut self.ops(w), span, block).expect("a block");
        node.slot = Some(slot);
        w.nodes.insert(block, node);
        // mm_inc_nr_pmds(), mm_inc_nr_puds(): the index page.
        self.pgtables_bytes += PAGE;
        self.set_entry(w, slot, entry.as_u64());
        true
    }

    /// `pmd_clear()` and `pte_free_tlb()`, or the same above: the table at `table`, of entries of
    /// `level` and empty, goes out of `slot`.
    pub fn free_below(
        &mut self,
        w: &mut World,
        slot: PhysAddr,
        (table, level): (PhysAddr, Level),
        batch: &mut Batch,
    ) {
        self.set_entry(w, slot, 0);
        if let Some(block) = w.blocks.get(&table).copied() {
            batch.push(self.gather(w, block));
        } else if let Some(index) = w.mem.index_page(table) {
            self.put_own(w, index, table);
        } else {
            w.mem.free_table(table, level);
        }
        // mm_dec_nr_ptes() and the like.
        self.pgtables_bytes -= PAGE;
    }

    /// T3
    fn put_own(&mut self, w: &mut World, index: PhysAddr, slice: PhysAddr) {
        if !w.mem.frame_is_zero(slice) && !self.tainted {
            w.dirty_puts += 1;
        }
        let (block, _) = w.node_at(index).expect("word 1 names an index page");
        let i = ((slice.as_u64() >> 12) & 511) as u32;
        let now = Entry::new(w.mem.read(index.offset(u64::from(i) * 8)));
        assert!(self.slices(w, block, |span| span.put(block, i, now)));
        // Its table was not counted when it came.
        self.pgtables_bytes += PAGE;
    }

    /// T7: its slot is none by now.
    fn gather(&mut self, w: &mut World, block: PhysAddr) -> SimBlock {
        let mut node = w.nodes.remove(&block).expect("a node");
        let kind = node.span.kind();
        let gathered = match node.span.view() {
            View::Flat(span) => span.gather(),
            View::Attached(span) => span.gather(),
            _ => panic!("a node in the tree is flat or attached"),
        };
        node::gather_node(&mut self.ops(w), &gathered);
        node.slot = None;
        w.nodes.insert(block, node);
        w.stale = true;
        w.claim(kind, block)
    }

    /// T7 after the flush: the nodes get to their next users.
    pub fn retire(&mut self, w: &mut World, batch: Batch) {
        w.flush();
        for block in batch {
            let pa = block.pa();
            let (kind, index) = (w.node(pa).span.kind(), w.node(pa).index);
            let mut tag = kind as u8;
            if self.tainted {
                tag |= Detached::<SimBlock>::TAINTED;
            }
            let mut node = Detached::from_raw(block, tag).unwrap_or_else(|_| panic!("tag {tag}"));
            let all = w.mem.words(index).iter().fold(0, |all, (_, w)| all | w);
            assert!(all == 0 || self.tainted, "a table outlived its node");
            let View::Gathered(mut span) = w.node(pa).span.view() else {
                panic!("what was gathered is gathered");
            };
            let seen = if span.must_look() { all } else { 0 };
            if !span.retire(Entry::new(seen)) {
                assert!(self.tainted, "slices in use outlived their node");
                node.taint();
            }
            node::retire_node(w, node);
        }
    }

    /// `pmdp_collapse_flush()`: takes the table out of `slot`, in use, so that nobody walks it any more.
    /// What it was.
    pub fn collapse_flush(&mut self, w: &mut World, slot: PhysAddr) -> PhysAddr {
        let table = Entry::new(w.mem.read(slot)).addr();
        if w.mem.index_page(table).is_some() {
            self.event(w, slot, Event::Collapse);
        }
        assert!(w.mem.is_table(table, Level::L1), "a table of its own");
        self.set_entry(w, slot, 0);
        w.flush();
        table
    }

    /// `pmd_clear()`, `pud_clear()`: what was there, without its flags.
    pub fn take_table(&self, w: &mut World, slot: PhysAddr) -> PhysAddr {
        let entry = Entry::new(w.mem.read(slot));
        self.set_entry(w, slot, 0);
        if entry.as_u64() & entry::FLAT == 0 {
            return entry.addr();
        }
        w.stale = true;
        // pud_pgtable() of a flat entry.
        w.mem.index_page(entry.addr()).expect("a node's slice")
    }
}
