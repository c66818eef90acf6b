// SPDX-License-Identifier: GPL-2.0

//! [`KernelNode`]: memory, locks, charges, pools and counters of the kernel, as the core's traits.

use super::fpt_core::addr::PhysAddr;
use super::fpt_core::counters::{Counter, KindCounter};
use super::fpt_core::entry::Entry;
use super::fpt_core::geometry::NodeKind;
use super::fpt_core::node::{drain_pool, NodeAlloc, NodeDemote, NodeMem, RootShed};
use super::fpt_core::policy::{Choice, Policy, SpanFacts};
use super::fpt_core::pool::PoolView;
use super::hot::phys_to_virt;
use core::ffi::{c_int, c_ulong, c_void};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

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

/// `struct mmu_gather`, opaque.
#[repr(C)]
pub struct MmuGather {
    _opaque: [u8; 0],
}

/// `struct fpt_demotion`, opaque.
#[repr(C)]
pub struct Demotion {
    _opaque: [u8; 0],
}

const POOL_MAX: usize = 16;

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
    pad: u32,
    min_span: u64,
    mm_total_vm: u64,
    mm_flat_nodes: u64,
    mm_cap: u64,
    global_cap: u64,
}

// As in fpt_internal.h.
extern "C" {
    fn fpt_c_facts(mm: *mut Mm, kind: u32, addr: c_ulong, facts: *mut Facts);
    fn fpt_c_block_alloc() -> *mut Page;
    fn fpt_c_block_free(page: *mut Page);
    fn fpt_c_slice_ctor(page: *mut Page, kind: u32, slice: u32) -> bool;
    fn fpt_c_slice_dtor(page: *mut Page, kind: u32, slice: u32);
    fn fpt_c_charge(page: *mut Page) -> bool;
    fn fpt_c_uncharge(page: *mut Page);
    fn fpt_c_is_zero(page: *mut Page, kind: u32) -> bool;
    fn fpt_c_page_phys(page: *mut Page) -> u64;
    fn fpt_c_phys_page(pa: u64) -> *mut Page;
    fn fpt_c_virt_phys(va: *const c_void) -> u64;
    fn fpt_c_this_cpu() -> c_int;
    fn fpt_c_pool_lock(cpu: c_int, kind: u32, flags: *mut c_ulong) -> *mut Pool;
    fn fpt_c_pool_unlock(cpu: c_int, flags: c_ulong);
    fn fpt_c_pool_bypassed() -> bool;
    fn fpt_c_mm_lock(mm: *mut Mm);
    fn fpt_c_mm_unlock(mm: *mut Mm);
    fn fpt_c_mm_forbids(mm: *mut Mm, kind: u32) -> bool;
    fn fpt_c_mm_account(mm: *mut Mm, kind: u32, nodes: c_int);
    fn fpt_c_mm_conventional(mm: *mut Mm);
    fn fpt_c_demote_table(d: *mut Demotion) -> u64;
    fn fpt_c_demote_table_free(d: *mut Demotion, pa: u64);
    fn fpt_c_demote_in_use(d: *mut Demotion, slice: u32) -> bool;
    fn fpt_c_demote_split(d: *mut Demotion, page: *mut Page);
    fn fpt_c_demote_account(d: *mut Demotion);
    fn fpt_c_demote_flush(d: *mut Demotion);
    fn fpt_c_demote_free_slice(d: *mut Demotion, page: *mut Page);
    fn fpt_c_root_split(page: *mut Page, l4: u64);
    fn fpt_c_tlb_mm(tlb: *mut MmuGather) -> *mut Mm;
    fn fpt_c_tlb_add(tlb: *mut MmuGather, page: *mut Page, tag: u8, kind: u32, addr: c_ulong);
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
    /// # Safety
    ///
    /// `page` is the head of an order-9 block that the caller owns and gives away.
    pub(super) unsafe fn from_raw(page: NonNull<Page>) -> Self {
        Block(page)
    }

    pub(super) fn into_raw(self) -> NonNull<Page> {
        self.0
    }

    fn ptr(&self) -> *mut Page {
        self.0.as_ptr()
    }
}

/// What the core operates on: one entry of one address space, or neither where only blocks are
/// handled.
pub(super) struct KernelNode {
    mm: *mut Mm,
    slot: *const AtomicU64,
    /// What a demotion needs; null elsewhere.
    demotion: *mut Demotion,
    cpu: c_int,
    /// Caps, from the facts that the policy saw.
    mm_nodes: u64,
    mm_cap: u64,
    global_cap: u64,
}

impl KernelNode {
    /// For an entry of `mm`.
    ///
    /// # Safety
    ///
    /// `mm` is valid for as long as the value lives. `slot` points at an entry of its page
    /// tables, or is null and the core is asked for a root only.
    pub(super) unsafe fn new(mm: *mut Mm, slot: *mut u64) -> Self {
        // SAFETY: no precondition.
        let cpu = unsafe { fpt_c_this_cpu() };
        KernelNode {
            mm,
            slot: slot.cast(),
            demotion: core::ptr::null_mut(),
            cpu,
            mm_nodes: 0,
            mm_cap: 0,
            global_cap: 0,
        }
    }

    /// For the demotion of the node below an entry of `mm`.
    ///
    /// # Safety
    ///
    /// As for [`KernelNode::new`]; `demotion` is valid for as long as the value lives, and
    /// describes that node.
    pub(super) unsafe fn demoted(mm: *mut Mm, slot: *mut u64, demotion: *mut Demotion) -> Self {
        // SAFETY: by the caller.
        let node = unsafe { KernelNode::new(mm, slot) };
        KernelNode { demotion, ..node }
    }

    /// For blocks alone, with the pool of `cpu`.
    pub(super) fn detached(cpu: Option<c_int>) -> Self {
        // SAFETY: no precondition.
        let cpu = cpu.unwrap_or_else(|| unsafe { fpt_c_this_cpu() });
        KernelNode {
            mm: core::ptr::null_mut(),
            slot: core::ptr::null(),
            demotion: core::ptr::null_mut(),
            cpu,
            mm_nodes: 0,
            mm_cap: 0,
            global_cap: 0,
        }
    }

    /// Gathers what the policy decides by.
    pub(super) fn facts(&mut self, kind: NodeKind, addr: u64) -> Option<SpanFacts> {
        let mut f = Facts::default();
        // SAFETY: `mm` is valid by the invariant of `new`, and `f` is ours.
        unsafe { fpt_c_facts(self.mm, kind as u32, addr, &mut f) };
        self.mm_nodes = f.mm_flat_nodes;
        self.mm_cap = f.mm_cap;
        self.global_cap = f.global_cap;
        Some(SpanFacts {
            mode: super::fpt_core::geometry::Mode::from_u8(f.mode)?,
            kind,
            policy: if f.policy == Policy::Size as u8 { Policy::Size } else { Policy::Eager },
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
        })
    }

    /// Notes that a span of the address space stays conventional.
    pub(super) fn note_conventional(&mut self) {
        // SAFETY: `mm` is valid by the invariant of `new`.
        unsafe { fpt_c_mm_conventional(self.mm) };
    }

    fn slot(&self) -> Option<&AtomicU64> {
        // SAFETY: null, or an aligned entry of a page table that outlives `self` by the contract
        // of `new`. Hardware and C access it concurrently, by single 8-byte accesses.
        unsafe { self.slot.as_ref() }
    }

    fn with_pool<R>(&self, kind: NodeKind, f: impl FnOnce(&mut PoolView<'_, *mut Page>) -> R) -> R {
        let mut flags = 0;
        // SAFETY: `cpu` is a possible CPU; the lock is released below, and nothing in between
        // sleeps or takes it again.
        let pool = unsafe { &mut *fpt_c_pool_lock(self.cpu, kind as u32, &mut flags) };
        let cap = pool.cap;
        let r = f(&mut PoolView::new(&mut pool.slot, &mut pool.len, cap));
        // SAFETY: taken above; `pool` is not used any more.
        unsafe { fpt_c_pool_unlock(self.cpu, flags) };
        r
    }
}

impl NodeAlloc for KernelNode {
    type Block = Block;

    fn take_pooled(&mut self, kind: NodeKind) -> Option<Block> {
        let page = self.with_pool(kind, |pool| pool.pop())?;
        NonNull::new(page).map(Block)
    }

    fn put_pooled(&mut self, kind: NodeKind, block: Block) -> Result<(), Block> {
        match self.with_pool(kind, |pool| pool.push(block.ptr())) {
            Ok(()) => Ok(()),
            Err(_) => Err(block),
        }
    }

    fn pool_bypassed(&self, _kind: NodeKind) -> bool {
        // SAFETY: no precondition.
        TAINTED.load(Ordering::Relaxed) || unsafe { fpt_c_pool_bypassed() }
    }

    fn alloc(&mut self, _kind: NodeKind) -> Option<Block> {
        // SAFETY: no precondition; may be called wherever GFP_NOWAIT allocations may.
        NonNull::new(unsafe { fpt_c_block_alloc() }).map(Block)
    }

    fn free(&mut self, _kind: NodeKind, block: Block) {
        // SAFETY: the block is owned, and no entry points at it.
        unsafe { fpt_c_block_free(block.ptr()) };
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

    fn charge(&mut self, _kind: NodeKind, block: &Block) -> bool {
        // SAFETY: the block is owned and carries no charge.
        unsafe { fpt_c_charge(block.ptr()) }
    }

    fn uncharge(&mut self, _kind: NodeKind, block: &Block) {
        // SAFETY: the block is owned and carries a charge.
        unsafe { fpt_c_uncharge(block.ptr()) };
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

    fn lock(&mut self) {
        // SAFETY: `mm` is valid; the core unlocks on every path and does not lock twice.
        unsafe { fpt_c_mm_lock(self.mm) };
    }

    fn unlock(&mut self) {
        // SAFETY: locked by `lock`.
        unsafe { fpt_c_mm_unlock(self.mm) };
    }

    fn still_allowed(&mut self, kind: NodeKind) -> bool {
        // SAFETY: `mm` is valid.
        !unsafe { fpt_c_mm_forbids(self.mm, kind as u32) }
    }

    fn load(&mut self) -> Entry {
        Entry::new(self.slot().map_or(0, |s| s.load(Ordering::Relaxed)))
    }

    fn publish(&mut self, entry: Entry) {
        if let Some(slot) = self.slot() {
            // Pairs with the address dependency of every walker, as smp_wmb() in pmd_install().
            slot.store(entry.as_u64(), Ordering::Release);
        }
    }

    fn clear(&mut self) {
        if let Some(slot) = self.slot() {
            // Ordered before the node's reuse by the TLB flush in between.
            slot.store(0, Ordering::Relaxed);
        }
    }

    fn account(&mut self, kind: NodeKind) {
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_mm_account(self.mm, kind as u32, 1) };
    }

    fn unaccount(&mut self, kind: NodeKind) {
        // SAFETY: `mm` is valid.
        unsafe { fpt_c_mm_account(self.mm, kind as u32, -1) };
    }

    fn tainted(&self) -> bool {
        TAINTED.load(Ordering::Relaxed)
    }
}

/// All methods: only [`KernelNode::demoted`] makes a value that the core demotes with.
impl NodeDemote for KernelNode {
    type Table = PhysAddr;

    fn alloc_table(&mut self, _kind: NodeKind) -> Option<PhysAddr> {
        // SAFETY: `demotion` is valid by the contract of `demoted`.
        match unsafe { fpt_c_demote_table(self.demotion) } {
            0 => None,
            pa => Some(PhysAddr::new(pa)),
        }
    }

    fn table_phys(&self, table: &PhysAddr) -> PhysAddr {
        *table
    }

    fn free_table(&mut self, _kind: NodeKind, table: PhysAddr) {
        // SAFETY: as above; the table came from `alloc_table` and is in no tree.
        unsafe { fpt_c_demote_table_free(self.demotion, table.as_u64()) };
    }

    fn store_table(&mut self, table: &PhysAddr, index: u32, entry: Entry) {
        // SAFETY: a 4 KiB table of the direct map that nobody else sees, `index` < 512. What
        // publishes it later is a release store.
        unsafe {
            phys_to_virt(*table).add(index as usize).write(entry.as_u64());
        }
    }

    fn slice_in_use(&mut self, _kind: NodeKind, slice: u32) -> bool {
        // SAFETY: `demotion` is valid, `slice` < 512 by the trait.
        unsafe { fpt_c_demote_in_use(self.demotion, slice) }
    }

    fn split_block(&mut self, _kind: NodeKind, pa: PhysAddr) {
        // SAFETY: `pa` came from the entry, which points at an order-9 block of ours.
        unsafe { fpt_c_demote_split(self.demotion, fpt_c_phys_page(pa.as_u64())) };
    }

    fn account_demoted(&mut self, _kind: NodeKind) {
        // SAFETY: `demotion` is valid.
        unsafe { fpt_c_demote_account(self.demotion) };
    }

    fn flush(&mut self, _kind: NodeKind) {
        // SAFETY: `demotion` is valid.
        unsafe { fpt_c_demote_flush(self.demotion) };
    }

    fn free_slice(&mut self, _kind: NodeKind, pa: PhysAddr) {
        // SAFETY: a page of the split block that no table points at.
        unsafe { fpt_c_demote_free_slice(self.demotion, fpt_c_phys_page(pa.as_u64())) };
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

/// Hands a node to `tlb`, which retires it after its flush.
///
/// # Safety
///
/// `tlb` is valid, and the block is out of the tree.
pub(super) unsafe fn tlb_add(tlb: *mut MmuGather, block: Block, tag: u8, kind: NodeKind, addr: u64) {
    // SAFETY: by the caller.
    unsafe { fpt_c_tlb_add(tlb, block.into_raw().as_ptr(), tag, kind as u32, addr) };
}

/// The address space that `tlb` works on.
///
/// # Safety
///
/// `tlb` is valid.
pub(super) unsafe fn tlb_mm(tlb: *mut MmuGather) -> *mut Mm {
    // SAFETY: by the caller.
    unsafe { fpt_c_tlb_mm(tlb) }
}

/// Frees up to `max` nodes of the pools of `cpu`; returns how many.
pub(super) fn drain(cpu: c_int, max: u64) -> u64 {
    let mut ops = KernelNode::detached(Some(cpu));
    let mut done = 0u64;
    for kind in NodeKind::ALL {
        let left = max.saturating_sub(done);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        done = done.saturating_add(u64::from(drain_pool(&mut ops, kind, left)));
    }
    done
}
