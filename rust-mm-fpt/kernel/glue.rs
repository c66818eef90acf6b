// SPDX-License-Identifier: GPL-2.0

//! [`KernelNode`]: memory, locks, charges, pools and counters of the kernel, as the core's traits.

use super::fpt_core::addr::{PhysAddr, PAGE_SIZE};
use super::fpt_core::counters::{Counter, KindCounter};
use super::fpt_core::entry::Entry;
use super::fpt_core::geometry::{NodeKind, NODE_BYTES, SLICES};
use super::fpt_core::node::{drain_pool, NodeAlloc, NodeMem, RootShed};
use super::fpt_core::policy::{Budget, Choice, Policy, PromotionFacts, Rest, SpanFacts};
use super::fpt_core::pool::PoolView;
use super::fpt_core::span::Span;
use super::hot::phys_to_virt;
use core::ffi::{c_int, c_ulong, c_void};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// `struct mm_struct`, opaque.
#[repr(C)]
pub struct Mm {
    _opaque: [u8; 0],
}

/// `struct page`, opaque.
#[repr(C)]
pub struct Page {
    _opaque: [u8; 0],
}

/// `struct fpt_node`: the span, which is the core's, and its place, which is C's.
#[repr(C)]
pub struct Node {
    span: Span,
    place: Place,
}

/// Where a node is: the rest of `struct fpt_node`, as far as Rust reads it.
#[repr(C)]
pub(super) struct Place {
    block: u64,
    index: u64,
    mm: *mut Mm,
}

/// A node's two halves, of which one lends out a state while the other is used.
pub(super) struct Parts<'a> {
    pub(super) span: &'a mut Span,
    pub(super) place: &'a Place,
}

impl Node {
    pub(super) fn span(&mut self) -> &mut Span {
        &mut self.span
    }

    pub(super) fn parts(&mut self) -> Parts<'_> {
        Parts {
            span: &mut self.span,
            place: &self.place,
        }
    }

    pub(super) fn kind(&self) -> NodeKind {
        self.span.kind()
    }

    /// Physical address of the 512 slices.
    pub(super) fn block(&self) -> PhysAddr {
        PhysAddr::new(self.place.block)
    }

    /// Physical address of the index page.
    pub(super) fn index(&self) -> PhysAddr {
        PhysAddr::new(self.place.index)
    }

    /// The address space that it is in.
    pub(super) fn mm(&self) -> *mut Mm {
        self.place.mm
    }
}

impl Place {
    /// Stores `entry` into the slot, in place of one that says FLAT.
    pub(super) fn store_slot(&self, entry: Entry) {
        // SAFETY: the place is that of a node in a tree, under the lock of its index page.
        unsafe { fpt_c_store_slot(self, entry.as_u64()) };
    }

    /// Waits until no processor has anything of the span in a TLB, in a paging-structure cache or in a
    /// walk without locks, that it found before.
    pub(super) fn flush(&self) {
        // SAFETY: as above.
        unsafe { fpt_c_flush(self) };
    }

    /// All entries of the index page, in one.
    pub(super) fn look(&self) -> Entry {
        let index = phys_to_virt(PhysAddr::new(self.index));
        // SAFETY: an index page is 512 entries in the direct map.
        let entries = unsafe { core::slice::from_raw_parts(index.cast_const(), 512) };
        Entry::new(entries.iter().fold(0, |any, e| any | e))
    }

    /// Entry `i` of the index page; none for 512 and more.
    pub(super) fn entry(&self, i: u32) -> Entry {
        let index = phys_to_virt(PhysAddr::new(self.index));
        if i >= SLICES {
            return Entry::NONE;
        }
        // SAFETY: within the index page, which hardware may write: hence volatile.
        Entry::new(unsafe { index.add(i as usize).read_volatile() })
    }
}

/// Has the unused slices of a ready node count as waste, or not. A root has no span.
pub(super) fn set_counted(kind: NodeKind, block: &Block, counted: bool) {
    if kind != NodeKind::Root {
        // SAFETY: the node of a block that is in no tree is ours as the block is.
        unsafe { (*fpt_block_node(block.ptr())).span.count(counted) };
    }
}

/// Splits the block of a node that is no node any more, and frees the slices that are not in use
/// after an RCU period.
pub(super) fn split(node: *mut Node) {
    // SAFETY: `node` is valid, and the lock of its index page is held.
    unsafe { fpt_c_split(node) };
}

/// Complains, once, and taints: a freed index page held something.
pub(super) fn not_empty() {
    // SAFETY: no precondition.
    unsafe { fpt_c_not_empty() };
}

/// `FPT_POOL_MAX`.
const POOL_MAX: usize = 64;

/// `struct fpt_pool`.
#[repr(C)]
struct Pool {
    len: u32,
    cap: u32,
    slot: [*mut Page; POOL_MAX],
}

/// `struct fpt_facts`.
#[repr(C)]
#[derive(Default)]
struct Facts {
    mode: u8,
    policy: u8,
    vma_excluded: u8,
    parent: u8,
    parent_nodes: u32,
    parent_slices: u32,
    below_slices: u16,
    locked: u8,
    pad: u8,
    min_span: u64,
    mm_total_vm: u64,
    mm_flat_nodes: u64,
    mm_cap: u64,
    global_cap: u64,
    budget: RawBudget,
}

/// `struct fpt_budget`.
#[repr(C)]
#[derive(Default)]
pub struct RawBudget {
    resident: u64,
    wasted: u64,
    permille: u64,
    wasted_by_all: u64,
    cap: u64,
}

impl RawBudget {
    pub(super) fn get(&self) -> Budget {
        Budget {
            resident: self.resident,
            wasted: self.wasted,
            permille: self.permille,
            wasted_by_all: self.wasted_by_all,
            cap: self.cap,
        }
    }
}

/// `struct fpt_promotion`.
#[repr(C)]
pub struct RawPromotion {
    tables: u32,
    leaves: u32,
    attached: bool,
    hugetlb: bool,
    wants_huge: bool,
    rest: u8,
    pad: u32,
    budget: RawBudget,
}

impl RawPromotion {
    pub(super) fn get(&self) -> PromotionFacts {
        PromotionFacts {
            tables: self.tables,
            leaves: self.leaves,
            attached: self.attached,
            hugetlb: self.hugetlb,
            wants_huge: self.wants_huge,
            rest: Rest::from_u8(self.rest).unwrap_or(Rest::Short),
            budget: self.budget.get(),
        }
    }
}

// As in fpt_internal.h.
extern "C" {
    fn fpt_c_caps(mm: *mut Mm, facts: *mut Facts);
    fn fpt_c_facts(mm: *mut Mm, kind: u32, addr: c_ulong, facts: *mut Facts);
    fn fpt_c_block_alloc(kind: u32, nid: c_int, patient: bool) -> *mut Page;
    fn fpt_block_node(page: *const Page) -> *mut Node;
    fn fpt_c_block_free(page: *mut Page, kind: u32);
    fn fpt_c_slice_ctor(page: *mut Page, kind: u32, slice: u32) -> bool;
    fn fpt_c_slice_dtor(page: *mut Page, kind: u32, slice: u32);
    fn fpt_c_charge(page: *mut Page, kind: u32) -> bool;
    fn fpt_c_uncharge(page: *mut Page, kind: u32);
    fn fpt_c_is_zero(page: *mut Page, kind: u32) -> bool;
    fn fpt_c_page_phys(page: *mut Page) -> u64;
    fn fpt_c_phys_page(pa: u64) -> *mut Page;
    fn fpt_c_virt_phys(va: *const c_void) -> u64;
    fn fpt_c_nid() -> c_int;
    fn fpt_c_page_nid(page: *mut Page) -> c_int;
    fn fpt_c_pool_lock(nid: c_int, kind: u32, flags: *mut c_ulong) -> *mut Pool;
    fn fpt_c_pool_unlock(nid: c_int, flags: c_ulong);
    fn fpt_c_pooled(page: *mut Page, kind: u32, sign: c_int);
    fn fpt_c_pool_bypassed() -> bool;
    fn fpt_c_mm_account(mm: *mut Mm, kind: u32, nodes: c_int, bytes: i64);
    fn fpt_c_mm_conventional(mm: *mut Mm);
    fn fpt_c_waste(mm: *mut Mm, slices: i32);
    fn fpt_c_root_split(page: *mut Page, l4: u64);
    fn fpt_c_store_slot(place: *const Place, entry: u64);
    fn fpt_c_flush(place: *const Place);
    fn fpt_c_split(node: *mut Node);
    fn fpt_c_not_empty();
}

static COUNTERS: [AtomicI64; Counter::COUNT] = [const { AtomicI64::new(0) }; Counter::COUNT];

/// Nodes reserved or in use, of all address spaces: what the global cap bounds.
static NODES: AtomicI64 = AtomicI64::new(0);

/// A bad entry was reported: contents of freed nodes are not trusted any more.
static TAINTED: AtomicBool = AtomicBool::new(false);

pub(super) fn taint() {
    TAINTED.store(true, Ordering::Relaxed);
}

pub(super) fn counter(index: usize) -> i64 {
    COUNTERS.get(index).map_or(0, |c| c.load(Ordering::Relaxed))
}

pub(super) fn pool_nodes() -> i64 {
    NodeKind::ALL.iter().fold(0i64, |sum, kind| {
        sum.wrapping_add(counter(Counter::kind(*kind, KindCounter::PoolNodes).index()))
    })
}

/// An order-9 block, owned: the head page of 512 that are not compound.
pub(super) struct Block(NonNull<Page>);

impl Block {
    fn ptr(&self) -> *mut Page {
        self.0.as_ptr()
    }

    pub(super) fn into_raw(self) -> *mut Page {
        self.ptr()
    }

    /// # Safety
    ///
    /// `page` came from [`Block::into_raw`], once.
    pub(super) unsafe fn from_raw(page: NonNull<Page>) -> Self {
        Block(page)
    }
}

/// What the core operates on: an address space, or blocks alone.
pub(super) struct KernelNode {
    mm: *mut Mm,
    /// Where blocks are to come from, if not from this CPU's.
    nid: Option<c_int>,
    /// Caps, from the facts that the policy saw.
    mm_nodes: u64,
    mm_cap: u64,
    global_cap: u64,
}

impl KernelNode {
    /// For `mm`.
    ///
    /// # Safety
    ///
    /// `mm` is valid for as long as the value lives.
    pub(super) unsafe fn new(mm: *mut Mm) -> Self {
        KernelNode { mm, ..KernelNode::detached(None) }
    }

    /// For blocks alone, with the pool of NUMA node `nid`, or of this CPU's.
    pub(super) fn detached(nid: Option<c_int>) -> Self {
        KernelNode {
            mm: core::ptr::null_mut(),
            nid,
            mm_nodes: 0,
            mm_cap: 0,
            global_cap: 0,
        }
    }

    /// Finds out what the caps leave, for who does not ask the policy.
    pub(super) fn caps(&mut self) {
        let mut f = Facts::default();
        // SAFETY: `mm` is valid by the invariant of `new`, and `f` is ours.
        unsafe { fpt_c_caps(self.mm, &mut f) };
        self.note_caps(&f);
    }

    fn note_caps(&mut self, f: &Facts) {
        self.mm_nodes = f.mm_flat_nodes;
        self.mm_cap = f.mm_cap;
        self.global_cap = f.global_cap;
    }

    /// Gathers what the policy decides by.
    pub(super) fn facts(&mut self, kind: NodeKind, addr: u64) -> Option<SpanFacts> {
        let mut f = Facts::default();
        // SAFETY: `mm` is valid by the invariant of `new`, and `f` is ours.
        unsafe { fpt_c_facts(self.mm, kind as u32, addr, &mut f) };
        self.note_caps(&f);
        Some(SpanFacts {
            mode: super::fpt_core::geometry::Mode::from_u8(f.mode)?,
            kind,
            policy: Policy::from_u8(f.policy)?,
            min_span: f.min_span,
            mm_total_vm: f.mm_total_vm,
            vma_excluded: f.vma_excluded != 0,
            mm_flat_nodes: f.mm_flat_nodes,
            mm_cap: f.mm_cap,
            global_flat_nodes: NODES.load(Ordering::Relaxed) as u64,
            global_cap: f.global_cap,
            parent_choice: match f.parent {
                1 => Some(Choice::Radix),
                2 => Some(Choice::Flat),
                _ => None,
            },
            parent_nodes: f.parent_nodes,
            parent_slices: f.parent_slices,
            below_slices: u32::from(f.below_slices),
            locked: f.locked != 0,
            budget: f.budget.get(),
        })
    }

    fn nid(&self) -> c_int {
        // SAFETY: no precondition.
        self.nid.unwrap_or_else(|| unsafe { fpt_c_nid() })
    }

    /// Takes blocks from NUMA node `nid`.
    pub(super) fn at(mut self, nid: c_int) -> Self {
        self.nid = Some(nid);
        self
    }

    /// Notes that a span of the address space stays conventional.
    pub(super) fn note_conventional(&mut self) {
        // SAFETY: `mm` is valid by the invariant of `new`.
        unsafe { fpt_c_mm_conventional(self.mm) };
    }

    fn with_pool<R>(
        nid: c_int,
        kind: NodeKind,
        f: impl FnOnce(&mut PoolView<'_, *mut Page>) -> R,
    ) -> R {
        let mut flags = 0;
        // SAFETY: `nid` is a possible node; the lock is released below, and nothing in between
        // sleeps or takes it again.
        let pool = unsafe { &mut *fpt_c_pool_lock(nid, kind as u32, &mut flags) };
        let cap = pool.cap;
        let r = f(&mut PoolView::new(&mut pool.slot, &mut pool.len, cap));
        // SAFETY: taken above; `pool` is not used any more.
        unsafe { fpt_c_pool_unlock(nid, flags) };
        r
    }
}

impl NodeAlloc for KernelNode {
    type Block = Block;

    fn take_pooled(&mut self, kind: NodeKind) -> Option<Block> {
        let page = NonNull::new(Self::with_pool(self.nid(), kind, |pool| pool.pop())?)?;
        // SAFETY: a valid page.
        unsafe { fpt_c_pooled(page.as_ptr(), kind as u32, -1) };
        Some(Block(page))
    }

    fn put_pooled(&mut self, kind: NodeKind, block: Block) -> Result<(), Block> {
        // SAFETY: a valid page.
        let nid = unsafe { fpt_c_page_nid(block.ptr()) };
        match Self::with_pool(nid, kind, |pool| pool.push(block.ptr())) {
            Ok(()) => {
                // SAFETY: a valid page; it may be in use again by now, but it is still there.
                unsafe { fpt_c_pooled(block.ptr(), kind as u32, 1) };
                Ok(())
            }
            Err(_) => Err(block),
        }
    }

    fn pool_bypassed(&self, _kind: NodeKind) -> bool {
        // SAFETY: no precondition.
        TAINTED.load(Ordering::Relaxed) || unsafe { fpt_c_pool_bypassed() }
    }

    fn alloc(&mut self, kind: NodeKind, patient: bool) -> Option<Block> {
        // SAFETY: no precondition; may be called wherever GFP_NOWAIT allocations may, and where a
        // caller is patient, wherever it may sleep.
        NonNull::new(unsafe { fpt_c_block_alloc(kind as u32, self.nid(), patient) }).map(Block)
    }

    fn free(&mut self, kind: NodeKind, block: Block) {
        // SAFETY: the block is owned, and no entry points at it.
        unsafe { fpt_c_block_free(block.ptr(), kind as u32) };
    }

    fn phys(&self, block: &Block) -> PhysAddr {
        // SAFETY: a valid page.
        PhysAddr::new(unsafe { fpt_c_page_phys(block.ptr()) })
    }

    fn prepare_slice(&mut self, kind: NodeKind, block: &Block, slice: u32) -> bool {
        // SAFETY: the block is owned, `slice` < 512 by the trait.
        unsafe { fpt_c_slice_ctor(block.ptr(), kind as u32, slice) }
    }

    fn unprepare_slice(&mut self, kind: NodeKind, block: &Block, slice: u32) {
        // SAFETY: as above, and the slice was prepared.
        unsafe { fpt_c_slice_dtor(block.ptr(), kind as u32, slice) };
    }

    fn store_l4(&mut self, l4: PhysAddr, index: u32, entry: Entry) {
        // SAFETY: `l4` is the L4 page of a root block that nobody else sees, `index` < 256: the
        // store stays within its 4 KiB of the direct map.
        unsafe {
            phys_to_virt(l4).add(index as usize).write(entry.as_u64());
        }
    }

    fn charge(&mut self, kind: NodeKind, block: &Block) -> bool {
        // SAFETY: the block is owned and carries no charge.
        unsafe { fpt_c_charge(block.ptr(), kind as u32) }
    }

    fn uncharge(&mut self, kind: NodeKind, block: &Block) {
        // SAFETY: the block is owned and carries a charge.
        unsafe { fpt_c_uncharge(block.ptr(), kind as u32) };
    }

    fn is_zero(&self, kind: NodeKind, block: &Block) -> bool {
        // SAFETY: the block is owned: nobody writes to it.
        !TAINTED.load(Ordering::Relaxed) && unsafe { fpt_c_is_zero(block.ptr(), kind as u32) }
    }

    fn claim(&mut self, _kind: NodeKind, pa: PhysAddr) -> Block {
        // SAFETY: `pa` came from an entry that pointed at a node, hence at a block of ours;
        // memory that holds page tables has a struct page.
        let page = unsafe { fpt_c_phys_page(pa.as_u64()) };
        // SAFETY: the vmemmap is in the kernel half, never at zero.
        Block(unsafe { NonNull::new_unchecked(page) })
    }

    fn count(&mut self, counter: Counter, delta: i64) {
        if let Some(c) = COUNTERS.get(counter.index()) {
            c.fetch_add(delta, Ordering::Relaxed);
        }
    }
}

impl NodeMem for KernelNode {
    fn reserve(&mut self, _kind: NodeKind) -> bool {
        if self.mm_nodes >= self.mm_cap {
            return false;
        }
        if NODES.fetch_add(1, Ordering::Relaxed) as u64 >= self.global_cap {
            NODES.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn unreserve(&mut self, _kind: NodeKind) {
        NODES.fetch_sub(1, Ordering::Relaxed);
    }

    fn account(&mut self, kind: NodeKind) {
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_mm_account(self.mm, kind as u32, 1, NODE_BYTES as i64) };
    }

    fn unaccount(&mut self, kind: NodeKind) {
        let bytes = (NODE_BYTES as i64).wrapping_neg();
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_mm_account(self.mm, kind as u32, -1, bytes) };
    }

    fn account_dissolved(&mut self, kind: NodeKind, unused: u32) {
        let bytes = i64::from(unused).wrapping_mul(PAGE_SIZE as i64).wrapping_neg();
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_mm_account(self.mm, kind as u32, -1, bytes) };
    }

    fn waste(&mut self, slices: i32) {
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_waste(self.mm, slices) };
    }

    fn tainted(&self) -> bool {
        TAINTED.load(Ordering::Relaxed)
    }
}

impl RootShed for KernelNode {
    fn split_root(&mut self, block: Block, l4: PhysAddr) {
        // SAFETY: the block is owned, uncharged and unprepared, and `l4` lies in it.
        unsafe { fpt_c_root_split(block.ptr(), l4.as_u64()) };
    }
}

/// The physical address of `va` in the direct map.
pub(super) fn virt_to_phys(va: *const u64) -> PhysAddr {
    // SAFETY: arithmetic on an address of the direct map.
    PhysAddr::new(unsafe { fpt_c_virt_phys(va.cast()) })
}

/// Frees up to `max` nodes of the pools of NUMA node `nid`; returns how many.
pub(super) fn drain(nid: c_int, max: u64) -> u64 {
    let mut ops = KernelNode::detached(Some(nid));
    let mut done = 0u64;
    for kind in NodeKind::ALL {
        let left = max.saturating_sub(done);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        done = done.saturating_add(u64::from(drain_pool(&mut ops, kind, left)));
    }
    done
}
