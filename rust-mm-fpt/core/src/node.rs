// SPDX-License-Identifier: GPL-2.0

//! The life cycle of a flattened node, as a state machine.
//!
//! ```text
//!            reserve            prepare 512 slices      charge        publish, under the slot's lock
//!  (nothing) -------> allocated ------------------> Prepared -> Ready ---------------------> in the tree
//!      ^                 ^  pool ---------------------^           | lost race                    | gather
//!      |                 |    ^                                   v                              v
//!      +--- free <-- unprepare +--- uncharge <--------------------+------ after the flush -- Detached
//! ```
//!
//! Everything that can fail happens before any lock is taken ([`acquire_node`]). A block is a linear
//! value: it is handed from state to state by move, the states have private fields and no `Clone`, so
//! a transition that is not drawn above does not compile. While a node is in the tree its entry owns
//! it; what happens to it there is [`super::span`]'s business, until it leaves the tree
//! ([`gather_node`]) or is no node any more ([`dissolve_node`]).
//!
//! A root leaves the tree with its address space; where that outlives its last user, [`shed_root`] splits
//! the block and leaves the L4 page behind.
//!
//! Blocks in a pool are all zero and keep their prepared slices and their index page, but carry no
//! charge. A root's L4 page is the exception: its user half points at the block's own slices for as
//! long as the block is prepared, and its kernel half is whatever was there last.

use super::addr::PhysAddr;
use super::counters::{Counter, KindCounter};
use super::entry::{root_l4, Entry, TABLE_FLAGS};
use super::geometry::{NodeKind, NODE_BYTES, ROOT_USER_SLICES, SLICES};
use super::span;

/// Where blocks come from and go to. No method may panic.
pub trait NodeAlloc {
    /// An order-9 block, owned. Must not be `Clone`; one value per block.
    type Block;

    /// A block of the pool of `kind`: zero, prepared, uncharged.
    fn take_pooled(&mut self, kind: NodeKind) -> Option<Self::Block>;

    /// Gives a zero, prepared, uncharged block to the pool; hands it back if the pool is full.
    fn put_pooled(&mut self, kind: NodeKind, block: Self::Block) -> Result<(), Self::Block>;

    /// True if blocks of `kind` must not be pooled (pool switched off, or freed memory is to be
    /// poisoned or initialised).
    fn pool_bypassed(&self, kind: NodeKind) -> bool;

    /// A zeroed order-9 block from the page allocator; silent on failure, without direct compaction
    /// unless `patient`.
    fn alloc(&mut self, kind: NodeKind, patient: bool) -> Option<Self::Block>;

    /// Gives an unprepared, uncharged block back to the page allocator.
    fn free(&mut self, kind: NodeKind, block: Self::Block);

    /// Physical address of the block, a multiple of 2 MiB.
    fn phys(&self, block: &Self::Block) -> PhysAddr;

    /// Makes slice `slice` (0..512) a page table (page type, lock). False if that failed, in
    /// which case the slice is as before.
    fn prepare_slice(&mut self, kind: NodeKind, block: &Self::Block, slice: u32) -> bool;

    /// Undoes [`NodeAlloc::prepare_slice`].
    fn unprepare_slice(&mut self, kind: NodeKind, block: &Self::Block, slice: u32);

    /// Stores user entry `index` (0..256) of the L4 page at `l4`, inside a root block that no CPU
    /// has in CR3.
    fn store_l4(&mut self, l4: PhysAddr, index: u32, entry: Entry);

    /// Charges the block (memcg, NR_PAGETABLE). False if the charge was refused.
    fn charge(&mut self, kind: NodeKind, block: &Self::Block) -> bool;

    /// Undoes [`NodeAlloc::charge`].
    fn uncharge(&mut self, kind: NodeKind, block: &Self::Block);

    /// False if a debug build found a word of the block that is not zero, other than in the L4 page
    /// of a root. Builds that do not look answer true.
    fn is_zero(&self, kind: NodeKind, block: &Self::Block) -> bool;

    /// Takes over the block at `pa`, of which the tree has just let go.
    fn claim(&mut self, kind: NodeKind, pa: PhysAddr) -> Self::Block;

    /// Adds `delta` to a counter.
    fn count(&mut self, counter: Counter, delta: i64);
}

/// The address space that a node is in, or is to be. No method may panic.
pub trait NodeMem {
    /// Reserves room for one node under the caps of this address space and of all; false if
    /// there is none.
    fn reserve(&mut self, kind: NodeKind) -> bool;

    /// Undoes [`NodeMem::reserve`].
    fn unreserve(&mut self, kind: NodeKind);

    /// Adds [`super::geometry::NODE_BYTES`] to the address space's page-table bytes.
    fn account(&mut self, kind: NodeKind);

    /// Undoes [`NodeMem::account`].
    fn unaccount(&mut self, kind: NodeKind);

    /// A node becomes 4 KiB tables, `unused` (0..=512) of which are taken off the address space's
    /// page-table bytes.
    fn account_dissolved(&mut self, kind: NodeKind, unused: u32);

    /// Adds `slices` to what the address space, and all together, waste.
    fn waste(&mut self, slices: i32);

    /// Was a bad entry seen in this address space, or in any (a bad PTE report, a `*_clear_bad`)? Its
    /// nodes are then never recycled, and it takes none that were.
    fn tainted(&self) -> bool;
}

/// Why an attempt to flatten ended with conventional tables.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// A cap was reached.
    Cap,
    /// No order-9 block.
    NoMemory,
    /// A slice could not be prepared.
    NoSlice,
    /// The charge was refused.
    NoCharge,
    /// The block cannot be expressed as an entry (misaligned, or above 2^52): a bug below us.
    BadBlock,
    /// The pools are empty, and a new block was not wanted ([`Source::Pool`]).
    NotPooled,
}

/// A block with its 512 slices prepared, not yet charged.
#[must_use]
struct Prepared<B> {
    kind: NodeKind,
    block: B,
}

/// A zero, prepared and charged block under a reservation: ready to be installed.
#[must_use = "a ready node has to be committed or released"]
pub struct Ready<B> {
    kind: NodeKind,
    block: B,
}

impl<B> Ready<B> {
    /// For C's hands, between the two halves of T1.
    #[inline]
    pub fn into_raw(self) -> B {
        self.block
    }

    /// Undoes [`Ready::into_raw`], of a node of `kind`.
    #[inline]
    pub fn from_raw(kind: NodeKind, block: B) -> Self {
        Ready { kind, block }
    }

    /// The kind that it was acquired for.
    #[inline]
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// The block.
    #[inline]
    pub fn block(&self) -> &B {
        &self.block
    }
}

/// A node that is out of the tree but may still be in a TLB or in the hands of a lockless
/// walker: to be given to [`retire_node`] after the flush, not before.
#[must_use = "a detached node has to be retired after the TLB flush"]
pub struct Detached<B> {
    kind: NodeKind,
    tainted: bool,
    block: B,
}

impl<B> Detached<B> {
    /// The bit of a tag ([`Detached::into_raw`]) that keeps the node out of the pool.
    pub const TAINTED: u8 = 4;

    /// Its kind.
    #[inline]
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// The block.
    #[inline]
    pub fn block(&self) -> &B {
        &self.block
    }

    /// Keeps the node out of the pool.
    #[inline]
    pub fn taint(&mut self) {
        self.tainted = true;
    }

    /// For a list outside Rust, until the flush: the block, and a tag of three bits that
    /// [`Detached::from_raw`] needs.
    #[inline]
    pub fn into_raw(self) -> (B, u8) {
        let tag = self.kind as u8 | if self.tainted { 4 } else { 0 };
        (self.block, tag)
    }

    /// Undoes [`Detached::into_raw`]; a tag that it cannot have made gives the block back.
    #[inline]
    pub fn from_raw(block: B, tag: u8) -> Result<Self, B> {
        match NodeKind::from_u8(tag & 3) {
            Some(kind) if tag < 8 => Ok(Detached {
                kind,
                tainted: tag & 4 != 0,
                block,
            }),
            _ => Err(block),
        }
    }
}

/// Where [`retire_node`] put the block.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Retired {
    /// In the pool.
    Pooled,
    /// Back to the page allocator: the pool is full or bypassed.
    Freed,
    /// Back to the page allocator because it must not be trusted to be zero.
    FreedTainted,
}

/// Where a node may come from.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A pool, or else the page allocator.
    Any,
    /// A pool.
    Pool,
    /// As [`Source::Any`], by a caller that may wait for memory to be compacted.
    Patient,
}

/// Reserves, takes a block from the pool or the allocator, prepares and charges it. All that can
/// fail in an install fails here; on failure nothing is held.
#[inline]
pub fn acquire_node<O>(
    ops: &mut O,
    kind: NodeKind,
    source: Source,
) -> Result<Ready<O::Block>, Fallback>
where
    O: NodeAlloc + NodeMem,
{
    let result = if ops.reserve(kind) {
        let result = prepare(ops, kind, source).and_then(|p| charge(ops, p));
        if result.is_err() {
            ops.unreserve(kind);
        }
        result
    } else {
        ops.count(Counter::REFUSED_CAP, 1);
        Err(Fallback::Cap)
    };
    match result {
        Ok(_) => {}
        Err(Fallback::NotPooled) => ops.count(Counter::REFUSED_POLICY, 1),
        Err(_) => ops.count(Counter::kind(kind, KindCounter::Fallbacks), 1),
    }
    result
}

fn prepare<O>(ops: &mut O, kind: NodeKind, source: Source) -> Result<Prepared<O::Block>, Fallback>
where
    O: NodeAlloc + NodeMem,
{
    // What was pooled before a bad entry was seen may not be empty either: it waits to be drained.
    if !ops.tainted() {
        if let Some(block) = ops.take_pooled(kind) {
            ops.count(Counter::kind(kind, KindCounter::PoolHits), 1);
            ops.count(Counter::kind(kind, KindCounter::PoolNodes), -1);
            return Ok(Prepared { kind, block });
        }
    }
    if source == Source::Pool {
        return Err(Fallback::NotPooled);
    }
    let block = match ops.alloc(kind, source == Source::Patient) {
        Some(block) => block,
        None => return Err(Fallback::NoMemory),
    };
    for slice in 0..SLICES {
        if !ops.prepare_slice(kind, &block, slice) {
            for done in 0..slice {
                ops.unprepare_slice(kind, &block, done);
            }
            ops.free(kind, block);
            return Err(Fallback::NoSlice);
        }
    }
    if kind == NodeKind::Root {
        // Once for the life of the block: a fork or exec that gets it from the pool stores nothing.
        let pa = ops.phys(&block);
        for index in 0..ROOT_USER_SLICES {
            if let Some(entry) = Entry::root_slice(pa, index, TABLE_FLAGS) {
                ops.store_l4(root_l4(pa), index, entry);
            }
        }
    }
    Ok(Prepared { kind, block })
}

fn charge<O: NodeAlloc>(
    ops: &mut O,
    prepared: Prepared<O::Block>,
) -> Result<Ready<O::Block>, Fallback> {
    let Prepared { kind, block } = prepared;
    if kind != NodeKind::Root && Entry::node(ops.phys(&block), kind, TABLE_FLAGS).is_none() {
        free_prepared(ops, Prepared { kind, block });
        Err(Fallback::BadBlock)
    } else if ops.charge(kind, &block) {
        Ok(Ready { kind, block })
    } else {
        // Never published, hence still zero.
        let _ = pool_or_free(ops, Prepared { kind, block });
        Err(Fallback::NoCharge)
    }
}

/// Gives up a node that was never published.
#[inline]
pub fn release_node<O>(ops: &mut O, ready: Ready<O::Block>)
where
    O: NodeAlloc + NodeMem,
{
    let Ready { kind, block } = ready;
    ops.uncharge(kind, &block);
    ops.unreserve(kind);
    let _ = pool_or_free(ops, Prepared { kind, block });
}

/// T1, its second half: the node at `block` gets into its slot, whose lock is held. From here on the
/// entry owns what [`Ready::into_raw`] gave away. The state, and the entry to store; `None`, and
/// nothing done, if the block cannot be expressed, which [`acquire_node`] excludes.
#[inline]
pub fn publish_node<'a, O>(
    ops: &mut O,
    span: span::Ready<'a>,
    block: PhysAddr,
) -> Option<(span::Flat<'a>, Entry)>
where
    O: NodeAlloc + NodeMem,
{
    let (kind, counted) = (span.kind(), span.is_counted());
    let born = span.born(block)?;
    // Before the entry is visible: whoever sees the node sees it accounted for.
    ops.account(kind);
    installed(ops, kind);
    if counted {
        ops.waste(SLICES as i32);
    }
    Some(born)
}

/// T8: a ready node gets the table of a slot for its index page, whose lock is held.
#[inline]
pub fn attach_node<'a, O>(ops: &mut O, span: span::Ready<'a>) -> span::Attached<'a>
where
    O: NodeAlloc + NodeMem,
{
    let kind = span.kind();
    ops.account(kind);
    installed(ops, kind);
    ops.count(Counter::PROMOTED, 1);
    if span.is_counted() {
        ops.waste(SLICES as i32);
    }
    span.attach()
}

/// The unused slices of `span`, in the tree, are no waste any more: somebody asked for the node.
#[inline]
pub fn uncount_node<O: NodeMem>(ops: &mut O, span: &mut span::Span) {
    if span.is_counted() {
        ops.waste((span.nr_unused() as i32).wrapping_neg());
        span.count(false);
    }
}

/// T2, T3, T9: `change` takes or puts a slice of `span`, and what is wasted follows.
#[inline(always)]
pub fn with_slices<O: NodeMem, R>(
    ops: &mut O,
    span: &mut span::Span,
    change: impl FnOnce(&mut span::Span) -> R,
) -> R {
    let before = span.nr_unused();
    let r = change(span);
    if span.is_counted() {
        ops.waste((span.nr_unused() as i32).wrapping_sub(before as i32));
    }
    r
}

/// T7: a node has left its slot. The caller flushes the TLB and then calls [`retire_node`] on what
/// [`Detached::from_raw`] makes of its block.
#[inline]
pub fn gather_node<O>(ops: &mut O, span: &span::Gathered<'_>)
where
    O: NodeAlloc + NodeMem,
{
    left(ops, span.kind());
    if span.is_counted() {
        ops.waste((span.nr_unused() as i32).wrapping_neg());
    }
}

/// T5: the node of `span` is no node any more, and its unused slices are to be freed. The block is
/// split by now, so each slice in use is a table of its own, with the charge that it brought.
#[inline]
pub fn dissolve_node<O>(ops: &mut O, span: &span::Loose<'_>)
where
    O: NodeAlloc + NodeMem,
{
    let (kind, unused) = (span.kind(), span.nr_unused());
    if span.is_counted() {
        ops.waste((unused as i32).wrapping_neg());
    }
    ops.account_dissolved(kind, unused);
    ops.unreserve(kind);
    ops.count(Counter::kind(kind, KindCounter::Live), -1);
    ops.count(Counter::FLAT_BYTES, (NODE_BYTES as i64).wrapping_neg());
    ops.count(Counter::DEMOTIONS, 1);
}

/// After the flush: the block goes to the pool, or back to the page allocator.
#[inline]
pub fn retire_node<O: NodeAlloc>(ops: &mut O, node: Detached<O::Block>) -> Retired {
    let Detached {
        kind,
        tainted,
        block,
    } = node;
    ops.uncharge(kind, &block);
    let prepared = Prepared { kind, block };
    if tainted || !ops.is_zero(kind, &prepared.block) {
        ops.count(Counter::TAINTED, 1);
        free_prepared(ops, prepared);
        return Retired::FreedTainted;
    }
    pool_or_free(ops, prepared)
}

/// Frees up to `max` nodes of the pool of `kind`; returns how many.
#[inline]
pub fn drain_pool<O: NodeAlloc>(ops: &mut O, kind: NodeKind, max: u32) -> u32 {
    for done in 0..max {
        match ops.take_pooled(kind) {
            Some(block) => {
                ops.count(Counter::kind(kind, KindCounter::PoolNodes), -1);
                free_prepared(ops, Prepared { kind, block });
            }
            None => return done,
        }
    }
    max
}

/// Makes a flattened root: acquires a block, the user half of whose L4 page points at the block's
/// own slices, so that software walks four ordinary levels. Returns the L4 page (`mm->pgd`); the
/// caller copies the whole kernel half there, before anybody else can see it. On failure use a
/// conventional root.
///
#[inline]
pub fn install_root<O>(ops: &mut O) -> Result<PhysAddr, Fallback>
where
    O: NodeAlloc + NodeMem,
{
    let kind = NodeKind::Root;
    let ready = acquire_node(ops, kind, Source::Any)?;
    let block = ops.phys(&ready.block);
    if Entry::root_slice(block, 0, TABLE_FLAGS).is_none() {
        release_node(ops, ready);
        ops.count(Counter::kind(kind, KindCounter::Fallbacks), 1);
        return Err(Fallback::BadBlock);
    }
    ops.account(kind);
    forget_block(ready);
    installed(ops, kind);
    Ok(root_l4(block))
}

/// Takes back the root block whose L4 page is `l4`. No CPU has this root in CR3 any more, so
/// [`retire_node`] may follow at once.
#[inline]
pub fn detach_root<O>(ops: &mut O, l4: PhysAddr) -> Detached<O::Block>
where
    O: NodeAlloc + NodeMem,
{
    detached(ops, NodeKind::Root, super::entry::root_block(l4))
}

/// What making a root conventional needs beyond [`NodeAlloc`].
pub trait RootShed: NodeAlloc {
    /// Splits an unprepared, uncharged root block: the page at `l4` lives on as a conventional root,
    /// the others go back to the page allocator. Cannot fail.
    fn split_root(&mut self, block: Self::Block, l4: PhysAddr);
}

/// Makes the flattened root whose L4 page is `l4` a conventional one with an empty user half, and
/// frees the rest of its block. Whatever the block holds, nothing of it is pooled.
///
/// Nothing is mapped in the address space any more, and nobody can map. No CPU has the root in
/// CR3; one that loads it later takes it for conventional, for no entry says that it is a slice.
#[inline]
pub fn shed_root<O>(ops: &mut O, l4: PhysAddr)
where
    O: NodeAlloc + NodeMem + RootShed,
{
    let Detached { kind, block, .. } = detached(ops, NodeKind::Root, super::entry::root_block(l4));
    for index in 0..ROOT_USER_SLICES {
        ops.store_l4(l4, index, Entry::NONE);
    }
    ops.uncharge(kind, &block);
    for slice in 0..SLICES {
        ops.unprepare_slice(kind, &block, slice);
    }
    ops.split_root(block, l4);
    ops.count(Counter::kind(kind, KindCounter::Frees), 1);
    ops.count(Counter::ROOTS_SHED, 1);
}

fn installed<O: NodeAlloc>(ops: &mut O, kind: NodeKind) {
    ops.count(Counter::kind(kind, KindCounter::Installs), 1);
    ops.count(Counter::kind(kind, KindCounter::Live), 1);
    ops.count(Counter::FLAT_BYTES, NODE_BYTES as i64);
}

fn left<O>(ops: &mut O, kind: NodeKind)
where
    O: NodeAlloc + NodeMem,
{
    ops.unaccount(kind);
    ops.unreserve(kind);
    ops.count(Counter::kind(kind, KindCounter::Live), -1);
    ops.count(Counter::FLAT_BYTES, (NODE_BYTES as i64).wrapping_neg());
}

fn detached<O>(ops: &mut O, kind: NodeKind, pa: PhysAddr) -> Detached<O::Block>
where
    O: NodeAlloc + NodeMem,
{
    left(ops, kind);
    let tainted = ops.tainted();
    Detached {
        kind,
        tainted,
        block: ops.claim(kind, pa),
    }
}

fn pool_or_free<O: NodeAlloc>(ops: &mut O, node: Prepared<O::Block>) -> Retired {
    let Prepared { kind, block } = node;
    let block = if ops.pool_bypassed(kind) {
        block
    } else {
        match ops.put_pooled(kind, block) {
            Ok(()) => {
                ops.count(Counter::kind(kind, KindCounter::PoolPuts), 1);
                ops.count(Counter::kind(kind, KindCounter::PoolNodes), 1);
                return Retired::Pooled;
            }
            Err(block) => block,
        }
    };
    free_prepared(ops, Prepared { kind, block });
    Retired::Freed
}

fn free_prepared<O: NodeAlloc>(ops: &mut O, node: Prepared<O::Block>) {
    let Prepared { kind, block } = node;
    for slice in 0..SLICES {
        ops.unprepare_slice(kind, &block, slice);
    }
    ops.free(kind, block);
    ops.count(Counter::kind(kind, KindCounter::Frees), 1);
}

/// The block now belongs to an entry of the tree: its destructor must not run.
fn forget_block<B>(ready: Ready<B>) {
    core::mem::forget(ready.block);
}
