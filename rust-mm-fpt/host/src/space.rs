// SPDX-License-Identifier: GPL-2.0

//! What an address space is, and the core's traits on it.

use crate::mem::SimBlock;
use crate::world::{Request, World};
use fpt_core::addr::{PhysAddr, PAGE_SIZE};
use fpt_core::counters::Counter;
use fpt_core::entry::{self, Entry};
use fpt_core::geometry::{Mode, NodeKind, NODE_BYTES};
use fpt_core::node::{NodeAlloc, NodeMem, RootShed};
use fpt_core::policy::{Budget, Choice, SpanFacts};

/// Why an operation failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum MmError {
    /// No memory for a table of 4 KiB.
    NoMemory,
}

/// At fork, what the parent has in a span.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Parent {
    /// A node that hardware uses, or not.
    pub choice: Choice,
    /// Its nodes of this kind.
    pub nodes: u32,
    /// Slices in use of the node there.
    pub slices: u32,
}

/// An address space.
pub struct Mm {
    /// Its mode.
    pub mode: Mode,
    /// `mm->pgd`.
    pub l4: PhysAddr,
    /// Is the root flattened?
    pub flat_root: bool,
    /// Page-table bytes, the root not counted (as in the kernel).
    pub pgtables_bytes: i64,
    /// Flattened nodes, the root counted.
    pub flat_nodes: u64,
    /// A bad entry was seen.
    pub tainted: bool,
    /// Mapped bytes ever asked for, as a stand-in for `total_vm`.
    pub total_vm: u64,
    /// Slices of its counted nodes that lie unused.
    pub wasted: i64,
}

impl Mm {
    /// The value of CR3.
    pub fn cr3(&self) -> u64 {
        if self.flat_root {
            entry::cr3_flat(self.l4, 0).expect("the L4 page is in the second half of its block")
        } else {
            self.l4.as_u64()
        }
    }

    /// What the policy is told of a span.
    pub fn facts(
        &self,
        w: &World,
        kind: NodeKind,
        huge: bool,
        parent: Option<Parent>,
    ) -> SpanFacts {
        SpanFacts {
            mode: self.mode,
            kind,
            policy: w.policy,
            min_span: w.min_span,
            mm_total_vm: self.total_vm,
            vma_excluded: huge && w.hints,
            mm_flat_nodes: self.flat_nodes,
            mm_cap: w.mm_cap,
            global_flat_nodes: w.global_flat,
            global_cap: w.global_cap,
            parent_choice: parent.map(|p| p.choice),
            parent_nodes: parent.map_or(0, |p| p.nodes),
            parent_slices: parent.map_or(0, |p| p.slices),
            below_slices: 0,
            locked: w.locked,
            budget: self.budget(w),
        }
    }

    /// Its nodes below the root.
    pub fn nodes(&self, w: &World) -> usize {
        let below = self.flat_nodes - u64::from(self.flat_root);
        assert!(below <= w.nodes.len() as u64);
        below as usize
    }

    /// What it may waste.
    pub fn budget(&self, w: &World) -> Budget {
        let pages = |slices: i64| u64::try_from(slices).expect("waste is never negative");
        Budget {
            resident: self.total_vm / PAGE_SIZE,
            wasted: pages(self.wasted),
            permille: w.waste_permille,
            wasted_by_all: pages(w.wasted),
            cap: w.waste_cap,
        }
    }
}

/// One address space: what the kernel glue builds on the stack for each hook.
pub struct Ops<'a> {
    /// The machine.
    pub world: &'a mut World,
    /// The address space.
    pub mm: &'a mut Mm,
}

impl NodeAlloc for Ops<'_> {
    type Block = SimBlock;

    fn take_pooled(&mut self, kind: NodeKind) -> Option<SimBlock> {
        self.world.take_pooled(kind)
    }
    fn put_pooled(&mut self, kind: NodeKind, block: SimBlock) -> Result<(), SimBlock> {
        self.world.put_pooled(kind, block)
    }
    fn pool_bypassed(&self, kind: NodeKind) -> bool {
        self.world.pool_bypassed(kind)
    }
    fn alloc(&mut self, kind: NodeKind, patient: bool) -> Option<SimBlock> {
        self.world.alloc(kind, patient)
    }
    fn free(&mut self, kind: NodeKind, block: SimBlock) {
        self.world.free(kind, block)
    }
    fn phys(&self, block: &SimBlock) -> PhysAddr {
        block.pa()
    }
    fn prepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) -> bool {
        self.world.prepare_slice(kind, block, slice)
    }
    fn unprepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) {
        self.world.unprepare_slice(kind, block, slice)
    }
    fn store_l4(&mut self, l4: PhysAddr, index: u32, entry: Entry) {
        self.world.store_l4(l4, index, entry)
    }
    fn charge(&mut self, kind: NodeKind, block: &SimBlock) -> bool {
        self.world.charge(kind, block)
    }
    fn uncharge(&mut self, kind: NodeKind, block: &SimBlock) {
        self.world.uncharge(kind, block)
    }
    fn is_zero(&self, kind: NodeKind, block: &SimBlock) -> bool {
        self.world.is_zero(kind, block)
    }
    fn claim(&mut self, kind: NodeKind, pa: PhysAddr) -> SimBlock {
        self.world.claim(kind, pa)
    }
    fn count(&mut self, counter: Counter, delta: i64) {
        self.world.count(counter, delta)
    }
}

impl NodeMem for Ops<'_> {
    fn reserve(&mut self, _kind: NodeKind) -> bool {
        if self.world.global_flat >= self.world.global_cap
            || self.mm.flat_nodes >= self.world.mm_cap
            || !self.world.allow(Request::Reserve)
        {
            return false;
        }
        self.world.global_flat += 1;
        self.mm.flat_nodes += 1;
        true
    }
    fn unreserve(&mut self, _kind: NodeKind) {
        self.world.global_flat -= 1;
        self.mm.flat_nodes -= 1;
    }
    fn account(&mut self, kind: NodeKind) {
        if kind != NodeKind::Root {
            self.mm.pgtables_bytes += NODE_BYTES as i64;
        }
    }
    fn unaccount(&mut self, kind: NodeKind) {
        if kind != NodeKind::Root {
            self.mm.pgtables_bytes -= NODE_BYTES as i64;
        }
    }
    fn account_dissolved(&mut self, kind: NodeKind, unused: u32) {
        assert_ne!(kind, NodeKind::Root);
        self.mm.pgtables_bytes -= i64::from(unused) * PAGE_SIZE as i64;
    }
    fn waste(&mut self, slices: i32) {
        self.mm.wasted += i64::from(slices);
        self.world.wasted += i64::from(slices);
    }
    fn tainted(&self) -> bool {
        self.mm.tainted
    }
}

impl RootShed for Ops<'_> {
    fn split_root(&mut self, block: SimBlock, l4: PhysAddr) {
        self.world.mem.split_root(block, l4);
    }
}
