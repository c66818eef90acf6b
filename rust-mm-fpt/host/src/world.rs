// SPDX-License-Identifier: GPL-2.0

//! What is machine-wide in the kernel: pools, caps, counters; and failure injection.

use crate::mem::{SimBlock, SimMem};
use fpt_core::addr::{PhysAddr, PAGE_SIZE};
use fpt_core::counters::{Counter, KindCounter};
use fpt_core::entry::Entry;
use fpt_core::geometry::{Level, NodeKind, NODE_BYTES, SLICES};
use fpt_core::node::{self, NodeAlloc};
use fpt_core::policy::{Policy, Rest};
use fpt_core::pool::PoolView;
use fpt_core::span::{Span, State};
use std::cell::Cell;
use std::collections::BTreeMap;

/// Requests that may fail, for failure injection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Room under the caps.
    Reserve,
    /// An order-9 block.
    Block,
    /// The index page of a block.
    Index,
    /// Its descriptor.
    Descriptor,
    /// Preparation of a slice.
    Slice,
    /// The charge.
    Charge,
    /// A table of 4 KiB.
    Table,
}

/// Which requests fail.
#[derive(Clone, Debug, Default)]
pub enum Fail {
    /// None.
    #[default]
    Never,
    /// The k-th (from 0) of those that concern nodes; of the 512 slices of a block only the
    /// 1st, 2nd, 256th and 512th count.
    NodeAt(u64),
    /// The k-th of all, 4 KiB tables included.
    AnyAt(u64),
    /// Every order-9 block.
    Blocks,
    /// Each node request with this probability in 256, by a fixed pseudo-random sequence.
    Randomly(u8),
}

/// The descriptor of a node that has an index page: the kernel's `struct fpt_node`.
pub struct Node {
    /// The index page.
    pub index: PhysAddr,
    /// Its life.
    pub span: Span,
    /// Where the entry is that leads to it, while it is in a tree.
    pub slot: Option<PhysAddr>,
}

/// The level of the entries of the index page of a node of `kind`.
pub fn index_level(kind: NodeKind) -> Option<Level> {
    match kind {
        NodeKind::Root => None,
        NodeKind::Mid => Some(Level::L3),
        NodeKind::Bottom => Some(Level::L2),
    }
}

/// Slices of a node that is no more: to be freed after an RCU period.
pub struct Leftover {
    kind: NodeKind,
    slices: Vec<PhysAddr>,
}

/// Slots of a pool.
pub const POOL_MAX: usize = 8;

/// The machine.
pub struct World {
    /// Its memory.
    pub mem: SimMem,
    /// Pools by kind: slots and length.
    pub pools: [([u64; POOL_MAX], u32); NodeKind::COUNT],
    /// `fpt.pool`.
    pub pool_cap: u32,
    /// Pools bypassed, as under page poisoning.
    pub bypass: bool,
    /// Debug builds look for words that are not zero.
    pub check_zero: bool,
    /// Counters by [`Counter::index`].
    pub counters: [i64; Counter::COUNT],
    /// Failure injection.
    pub fail: Fail,
    /// Requests so far.
    pub requests: u64,
    /// State of [`Fail::Randomly`].
    pub seed: u64,
    /// Nodes in use under the caps.
    pub global_flat: u64,
    /// Most that there may be.
    pub global_cap: u64,
    /// Most nodes per address space.
    pub mm_cap: u64,
    /// `fpt.policy`.
    pub policy: Policy,
    /// `fpt.min_span`, bytes.
    pub min_span: u64,
    /// `fpt.waste_permille`.
    pub waste_permille: u64,
    /// Most slices that may lie unused in all address spaces together.
    pub waste_cap: u64,
    /// Are mappings locked, so that their tables are about to be filled?
    pub locked: bool,
    /// Since the last huge page in a span.
    pub rest: Rest,
    /// May most of what is mapped get huge pages?
    pub wants_huge: bool,
    /// Slices that lie unused in all address spaces together.
    pub wasted: i64,
    /// Does the policy hear of huge pages before they come?
    pub hints: bool,
    /// Descriptors by block.
    pub nodes: BTreeMap<PhysAddr, Node>,
    /// Blocks by index page.
    pub blocks: BTreeMap<PhysAddr, PhysAddr>,
    /// A processor may still have an entry with FLAT that is not in its slot any more.
    pub stale: bool,
    /// What waits for an RCU period.
    pub leftovers: Vec<Leftover>,
    /// Spans that hardware was led out of.
    pub unflats: u64,
    /// Tables that came from a node.
    pub owns: u64,
    /// Slices that came back with a word that is not zero, from address spaces that are not tainted.
    pub dirty_puts: u64,
    /// Untainted nodes that came back with a word that is not zero.
    pub dirty_returns: Cell<u64>,
    /// Most blocks that a pool ever held.
    pub pool_high: u32,
}

impl Default for World {
    fn default() -> Self {
        World {
            mem: SimMem::default(),
            pools: [([0; POOL_MAX], 0); NodeKind::COUNT],
            pool_cap: 2,
            bypass: false,
            check_zero: true,
            counters: [0; Counter::COUNT],
            fail: Fail::Never,
            requests: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            global_flat: 0,
            global_cap: u64::MAX,
            mm_cap: u64::MAX,
            policy: Policy::Eager,
            min_span: 0,
            waste_permille: 5,
            waste_cap: u64::MAX,
            locked: false,
            rest: Rest::None,
            wants_huge: false,
            wasted: 0,
            hints: false,
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            stale: false,
            leftovers: Vec::new(),
            unflats: 0,
            owns: 0,
            dirty_puts: 0,
            dirty_returns: Cell::new(0),
            pool_high: 0,
        }
    }
}

impl World {
    /// May this request succeed? Counts it.
    pub fn allow(&mut self, request: Request) -> bool {
        let node = request != Request::Table;
        if matches!(self.fail, Fail::NodeAt(_)) && !node {
            return true;
        }
        let nth = self.requests;
        self.requests += 1;
        match self.fail {
            Fail::Never => true,
            Fail::NodeAt(k) | Fail::AnyAt(k) => nth != k,
            Fail::Blocks => request != Request::Block,
            Fail::Randomly(p) => {
                self.seed = self
                    .seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                !node || ((self.seed >> 33) & 255) as u8 >= p
            }
        }
    }

    /// The pool of a kind.
    pub fn pool(&mut self, kind: NodeKind) -> PoolView<'_, u64> {
        let (slots, len) = &mut self.pools[kind.index()];
        PoolView::new(slots, len, self.pool_cap)
    }

    /// Nodes with an index page in pools.
    pub fn pooled_below_root(&mut self) -> usize {
        (self.pool(NodeKind::Mid).len() + self.pool(NodeKind::Bottom).len()) as usize
    }

    /// Value of a counter.
    pub fn counter(&self, counter: Counter) -> i64 {
        self.counters[counter.index()]
    }

    /// The node whose index page the entry at `slot` is in, and its index there.
    pub fn node_at(&self, slot: PhysAddr) -> Option<(PhysAddr, u32)> {
        let page = PhysAddr::new(slot.as_u64() & !(PAGE_SIZE - 1));
        let block = *self.blocks.get(&page)?;
        Some((block, (slot.as_u64() % PAGE_SIZE / 8) as u32))
    }

    /// The descriptor of the node at `block`.
    pub fn node(&mut self, block: PhysAddr) -> &mut Node {
        self.nodes
            .get_mut(&block)
            .unwrap_or_else(|| panic!("{block:x?} is no node"))
    }

    /// Flushes the TLB and the paging-structure caches of all processors.
    pub fn flush(&mut self) {
        self.stale = false;
    }

    /// The block is split: the slices in use are tables, and the others go after an RCU period.
    pub fn dissolve(&mut self, block: PhysAddr, kind: NodeKind) {
        assert!(!self.stale, "split before the flush");
        let node = self.nodes.remove(&block).expect("a node");
        self.blocks.remove(&node.index);
        self.mem.split_block(block, kind);
        let unused = (0..SLICES).filter(|i| !node.span.is_used(*i));
        let slices = unused.map(|i| block.offset(u64::from(i) * PAGE_SIZE));
        self.leftovers.push(Leftover {
            kind,
            slices: slices.collect(),
        });
    }

    /// An RCU period passes.
    pub fn grace_period(&mut self) {
        for Leftover { kind, slices } in std::mem::take(&mut self.leftovers) {
            for pa in slices {
                assert!(self.mem.frame_is_zero(pa), "unused slice is not zero");
                self.mem.free_table(pa, kind.entry_level());
            }
        }
    }

    /// One more of this counter.
    pub fn count_kind(&mut self, kind: NodeKind, which: KindCounter) {
        self.counters[Counter::kind(kind, which).index()] += 1;
    }

    /// Empties all pools.
    pub fn drain(&mut self) {
        for kind in NodeKind::ALL {
            node::drain_pool(self, kind, u32::MAX);
        }
    }

    /// Asserts that a pooled block can be used again as it is.
    fn assert_clean(&self, pa: PhysAddr, kind: NodeKind) {
        assert!(self.mem.is_zero(pa, kind), "pooled block is not zero");
        if kind == NodeKind::Root {
            assert!(self.mem.is_linked(pa), "pooled root without its slices");
            return;
        }
        let node = &self.nodes[&pa];
        assert!(self.mem.frame_is_zero(node.index), "pooled index page");
        assert_eq!((node.span.state(), node.span.nr_used()), (State::Ready, 0));
        assert_eq!((node.span.kind(), node.slot), (kind, None));
        assert!((0..SLICES).all(|i| !node.span.is_used(i)));
    }

    /// Asserts what must hold between any two operations.
    pub fn check(&mut self) {
        self.grace_period();
        assert!(!self.stale, "a flush is missing");
        assert_eq!(
            (self.dirty_returns.get(), self.dirty_puts),
            (0, 0),
            "an untainted node or slice came back dirty"
        );
        assert_eq!(self.nodes.len(), self.blocks.len());
        for kind in NodeKind::ALL {
            let len = self.pool(kind).len();
            assert!(len <= self.pool_cap, "pool of {kind:?} over its bound");
            assert_eq!(
                i64::from(len),
                self.counter(Counter::kind(kind, KindCounter::PoolNodes))
            );
            let blocks: Vec<u64> = self.pools[kind.index()].0[..len as usize].to_vec();
            for pa in blocks {
                let pa = PhysAddr::new(pa);
                self.mem.assert_block(pa, kind, false);
                self.assert_clean(pa, kind);
            }
        }
        let live: i64 = NodeKind::ALL
            .iter()
            .map(|k| self.counter(Counter::kind(*k, KindCounter::Live)))
            .sum();
        assert_eq!(
            live as u64, self.global_flat,
            "reservations and live nodes differ"
        );
        assert_eq!(self.counter(Counter::FLAT_BYTES), live * NODE_BYTES as i64);
        assert!(self.global_flat <= self.global_cap);
    }

    /// Asserts that everything is back where it was: for the end of a test, when no address
    /// space is left. Empties the pools.
    pub fn check_empty(&mut self) {
        self.check();
        assert_eq!((self.global_flat, self.wasted), (0, 0));
        self.drain();
        self.check();
        assert_eq!(
            self.mem.in_use(),
            (0, 0),
            "4 KiB tables, order-9 blocks left"
        );
    }
}

impl NodeAlloc for World {
    type Block = SimBlock;

    fn take_pooled(&mut self, kind: NodeKind) -> Option<SimBlock> {
        let pa = PhysAddr::new(self.pool(kind).pop()?);
        self.mem.assert_block(pa, kind, false);
        self.assert_clean(pa, kind);
        Some(SimBlock::from_pa(pa))
    }

    fn put_pooled(&mut self, kind: NodeKind, block: SimBlock) -> Result<(), SimBlock> {
        self.mem.assert_block(block.pa(), kind, false);
        let pa = block.into_pa();
        let result = self.pool(kind).push(pa.as_u64());
        self.pool_high = self.pool_high.max(self.pool(kind).len());
        result.map_err(|pa| SimBlock::from_pa(PhysAddr::new(pa)))
    }

    fn pool_bypassed(&self, _kind: NodeKind) -> bool {
        self.bypass
    }

    fn alloc(&mut self, kind: NodeKind, _patient: bool) -> Option<SimBlock> {
        if !self.allow(Request::Block) {
            return None;
        }
        let Some(level) = index_level(kind) else {
            return Some(self.mem.alloc_block(kind, None));
        };
        if !self.allow(Request::Index) || !self.allow(Request::Descriptor) {
            return None;
        }
        let index = self.mem.alloc_table(level);
        let block = self.mem.alloc_block(kind, Some(index));
        let node = Node {
            index,
            span: Span::new(kind),
            slot: None,
        };
        self.nodes.insert(block.pa(), node);
        self.blocks.insert(index, block.pa());
        Some(block)
    }

    fn free(&mut self, kind: NodeKind, block: SimBlock) {
        if let Some(level) = index_level(kind) {
            let node = self.nodes.remove(&block.pa()).expect("a node");
            assert_eq!(node.slot, None, "freed while in a slot");
            self.blocks.remove(&node.index);
            self.mem.free_table(node.index, level);
        }
        self.mem.free_block(block, kind);
    }

    fn phys(&self, block: &SimBlock) -> PhysAddr {
        block.pa()
    }

    fn prepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) -> bool {
        if matches!(slice, 0 | 1 | 255 | 511) && !self.allow(Request::Slice) {
            return false;
        }
        self.mem.set_prepared(block, kind, slice, true);
        true
    }

    fn unprepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) {
        self.mem.set_prepared(block, kind, slice, false);
    }

    fn store_l4(&mut self, l4: PhysAddr, index: u32, entry: Entry) {
        self.mem
            .write(l4.offset(u64::from(index) * 8), entry.as_u64());
    }

    fn charge(&mut self, kind: NodeKind, block: &SimBlock) -> bool {
        if !self.allow(Request::Charge) {
            return false;
        }
        self.mem.set_charged(block, kind, true);
        true
    }

    fn uncharge(&mut self, kind: NodeKind, block: &SimBlock) {
        self.mem.set_charged(block, kind, false);
    }

    fn is_zero(&self, kind: NodeKind, block: &SimBlock) -> bool {
        // Only asked about blocks that nobody tainted.
        let zero = !self.check_zero || self.mem.is_zero(block.pa(), kind);
        self.dirty_returns
            .set(self.dirty_returns.get() + u64::from(!zero));
        zero
    }

    fn claim(&mut self, kind: NodeKind, pa: PhysAddr) -> SimBlock {
        self.mem.assert_block(pa, kind, true);
        SimBlock::from_pa(pa)
    }

    fn count(&mut self, counter: Counter, delta: i64) {
        self.counters[counter.index()] += delta;
    }
}
