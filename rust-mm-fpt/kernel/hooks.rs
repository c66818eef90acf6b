// SPDX-License-Identifier: GPL-2.0

//! What C calls besides the hooks of hot.rs: prototypes in asm/fpt.h and fpt_internal.h.

use super::fpt_core::counters::{Counter, KindCounter};
use super::fpt_core::entry::Entry;
use super::fpt_core::geometry::{Boot, Mode, NodeKind};
use super::fpt_core::node::{
    acquire_node, attach_node, detach_root, dissolve_node, gather_node, install_root,
    publish_node, release_node, retire_node, shed_root, uncount_node, with_slices, Detached, NodeAlloc,
    Ready, Source,
};
use super::fpt_core::policy::{
    decide, decide_promotion, Decision, Policy, Promotion, Reason, Refusal, Request, SpanFacts,
};
use super::fpt_core::span::{Event, Span, State, View};
use super::glue::{self, Block, KernelNode, Mm, Node, Page, RawBudget, RawPromotion};
use super::hot::phys_to_virt;
use core::ffi::{c_char, c_int, c_ulong};
use core::ptr::{null, null_mut, NonNull};

fn kind_of(kind: u32) -> Option<NodeKind> {
    NodeKind::from_u8(u8::try_from(kind).ok()?)
}

/// T1, first half: a node of `kind` for the span of `addr`, ready to be published, by the head page of
/// its block; null for a conventional table, and in `why` the [`Refusal`].
///
/// # Safety
///
/// `mm` is a live address space, `why` is writable; no page-table lock is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_acquire(
    mm: *mut Mm,
    kind: u32,
    addr: c_ulong,
    why: *mut u8,
) -> *mut Page {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    let Some(facts) = kind_of(kind).and_then(|kind| ops.facts(kind, addr)) else {
        return null_mut();
    };
    let refusal = match decide(&facts) {
        Decision::Flatten => match acquire(&mut ops, &facts, Source::Any) {
            Ok(page) => return page,
            Err(refusal) => refusal,
        },
        Decision::Recycle => match acquire(&mut ops, &facts, Source::Pool) {
            Ok(page) => return page,
            Err(refusal) => refusal,
        },
        Decision::Conventional(Reason::NotInMode) => return null_mut(),
        Decision::Conventional(reason) => {
            let counter =
                if reason.is_cap() { Counter::REFUSED_CAP } else { Counter::REFUSED_POLICY };
            ops.count(counter, 1);
            Refusal::from(reason)
        }
    };
    ops.note_conventional();
    // SAFETY: by the caller.
    unsafe { why.write(refusal as u8) };
    null_mut()
}

fn acquire(
    ops: &mut KernelNode,
    facts: &SpanFacts,
    source: Source,
) -> Result<*mut Page, Refusal> {
    let ready = acquire_node(ops, facts.kind, source)?;
    glue::set_counted(facts.kind, ready.block(), facts.policy == Policy::Auto);
    Ok(ready.into_raw().into_raw())
}

/// A node for a span that has a table already, or that somebody asked for, from NUMA node `nid` or
/// nearby: by the head page of its block, ready to be attached or published. The caps hold, the policy
/// is not asked. On failure null, and the [`Refusal`] in `why`. Its unused slices count as waste if `counted`.
///
/// # Safety
///
/// `mm` does not go, `why` is writable, and the caller may sleep. No lock is needed.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_want(
    mm: *mut Mm,
    nid: c_int,
    counted: bool,
    why: *mut u8,
) -> *mut Page {
    let kind = NodeKind::Bottom;
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) }.at(nid);
    ops.caps();
    match acquire_node(&mut ops, kind, Source::Patient) {
        Ok(ready) => {
            glue::set_counted(kind, ready.block(), counted);
            ready.into_raw().into_raw()
        }
        Err(fallback) => {
            if counted {
                ops.count(Counter::PROMOTE_REFUSED_MEMORY, 1);
            }
            // SAFETY: by the caller.
            unsafe { why.write(Refusal::from(fallback) as u8) };
            null_mut()
        }
    }
}

/// T8: the table at `node`'s index page becomes that of `node`, a ready one, in `mm`.
///
/// # Safety
///
/// `node` is ready, its place is filled in, and the lock of the table is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_attach(mm: *mut Mm, node: *mut Node) {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    if let View::Ready(ready) = node.span().view() {
        // SAFETY: by the caller.
        let mut ops = unsafe { KernelNode::new(mm) };
        let _attached = attach_node(&mut ops, ready);
    }
}

/// T9: the entry for index `i` in place of `now`, which points at a foreign table; zero if that has to
/// stay.
///
/// # Safety
///
/// As for [`fpt_node_take`].
#[no_mangle]
pub unsafe extern "C" fn fpt_node_adopt(node: *mut Node, i: u32, now: u64) -> u64 {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (block, mm) = (node.block(), node.mm());
    // SAFETY: a node in the tree has an address space.
    let mut ops = unsafe { KernelNode::new(mm) };
    let entry = with_slices(&mut ops, node.span(), |span| span.adopt(block, i, Entry::new(now)));
    match entry {
        Some(entry) => {
            ops.count(Counter::MIGRATED_TABLES, 1);
            entry.as_u64()
        }
        None => 0,
    }
}

/// T10: the entry for the slot by which hardware reads `node` itself; zero if something stands in
/// the index page that it has to read there.
///
/// # Safety
///
/// As for [`fpt_node_take`]; own entries in the index page have their accessed bit.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_flatten(node: *mut Node) -> u64 {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let block = node.block();
    let parts = node.parts();
    let View::Attached(attached) = parts.span.view() else {
        return 0;
    };
    match attached.flatten(block, |i| parts.place.entry(i)) {
        Some((_flat, entry)) => {
            KernelNode::detached(None).count(Counter::REFLATTENED, 1);
            entry.as_u64()
        }
        None => 0,
    }
}

/// Whether the tables of a span in use are to move into a node: [`Promotion`].
///
/// # Safety
///
/// `facts` is readable.
#[no_mangle]
pub unsafe extern "C" fn fpt_promotion_decide(facts: *const RawPromotion) -> u8 {
    // SAFETY: by the caller.
    let answer = decide_promotion(&unsafe { &*facts }.get());
    let counter = match answer {
        Promotion::OverBudget => Some(Counter::PROMOTE_REFUSED_BUDGET),
        Promotion::Huge => Some(Counter::PROMOTE_REFUSED_HUGE),
        _ => None,
    };
    if let Some(counter) = counter {
        KernelNode::detached(None).count(counter, 1);
    }
    answer as u8
}

/// Does an address space have to give up nodes?
///
/// # Safety
///
/// `budget` is readable.
#[no_mangle]
pub unsafe extern "C" fn fpt_budget_overdrawn(budget: *const RawBudget) -> bool {
    // SAFETY: by the caller.
    unsafe { &*budget }.get().overdrawn()
}

/// May `more` slices be wasted?
///
/// # Safety
///
/// `budget` is readable.
#[no_mangle]
pub unsafe extern "C" fn fpt_budget_allows(budget: *const RawBudget, more: u64) -> bool {
    // SAFETY: by the caller.
    unsafe { &*budget }.get().allows(more)
}

/// The unused slices of `node` are nobody's waste any more.
///
/// # Safety
///
/// As for [`fpt_node_take`].
#[no_mangle]
pub unsafe extern "C" fn fpt_node_uncount(node: *mut Node) {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let mm = node.mm();
    // SAFETY: a node in the tree has an address space.
    uncount_node(&mut unsafe { KernelNode::new(mm) }, node.span());
}

/// A node was given up because it wasted too much, or because memory is short.
#[no_mangle]
pub extern "C" fn fpt_trimmed() {
    KernelNode::detached(None).count(Counter::TRIMMED, 1);
}

/// A node of [`fpt_node_acquire`] for which somebody else was faster.
///
/// # Safety
///
/// `page` came from there, of `kind`, and is in no tree; no lock is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_release(page: *mut Page, kind: u32) {
    if let (Some(page), Some(kind)) = (NonNull::new(page), kind_of(kind)) {
        // SAFETY: by the caller, the block comes back to us.
        let ready = Ready::from_raw(kind, unsafe { Block::from_raw(page) });
        let mut ops = KernelNode::detached(None);
        ops.count(Counter::kind(kind, KindCounter::Races), 1);
        release_node(&mut ops, ready);
    }
}

/// Makes `span` one of an empty node of `kind`.
///
/// # Safety
///
/// `span` points at memory for a span that nobody else sees.
#[no_mangle]
pub unsafe extern "C" fn fpt_span_init(span: *mut Span, kind: u32) {
    if let Some(kind) = kind_of(kind) {
        // SAFETY: by the caller.
        unsafe { span.write(Span::new(kind)) };
    }
}

/// The slot's entry for `node`, which gets there now: T1's second half for one that is ready, T6 for
/// one that moves. Zero for one that is in no tree.
///
/// # Safety
///
/// `node` is a node of `mm`, or is to be; the lock of the slot is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_populate(mm: *mut Mm, node: *mut Node) -> u64 {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (block, index) = (node.block(), node.index());
    let span = match node.span().view() {
        View::Ready(span) => span,
        _ => return node.span().slot_entry(block, index).map_or(0, Entry::as_u64),
    };
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    publish_node(&mut ops, span, block).map_or(0, |(_flat, entry)| entry.as_u64())
}

/// T2: the entry for index `i`; zero if the node brings no tables.
///
/// # Safety
///
/// `node` is valid, and the lock of its index page is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_take(node: *mut Node, i: u32) -> u64 {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (block, mm) = (node.block(), node.mm());
    // SAFETY: a node in the tree has an address space.
    let mut ops = unsafe { KernelNode::new(mm) };
    with_slices(&mut ops, node.span(), |span| span.take(block, i)).map_or(0, Entry::as_u64)
}

/// T3: slice `i` is empty and out of its entry, which is `now`.
///
/// # Safety
///
/// As for [`fpt_node_take`].
#[no_mangle]
pub unsafe extern "C" fn fpt_node_put(node: *mut Node, i: u32, now: u64) {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (block, mm) = (node.block(), node.mm());
    // SAFETY: a node in the tree has an address space.
    let mut ops = unsafe { KernelNode::new(mm) };
    let _ = with_slices(&mut ops, node.span(), |span| span.put(block, i, Entry::new(now)));
}

/// T4 and T5, as far as `event` demands.
///
/// # Safety
///
/// As for [`fpt_node_take`]; the node is in the tree, or no node any more.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_event(node: *mut Node, event: u8) {
    let Some(event) = Event::from_u8(event) else {
        return;
    };
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (index, mm) = (node.index(), node.mm());
    let parts = node.parts();
    let loose = event.demands() == State::Loose;
    let unflushed = match parts.span.view() {
        View::Flat(flat) => {
            let Some((unflushed, entry)) = flat.unflat(index) else {
                return;
            };
            parts.place.store_slot(entry);
            unflushed
        }
        // Slices that were put back may still be in a TLB.
        View::Attached(attached) if loose => attached.unflushed(),
        View::Attached(_) | View::Ready(_) | View::Gathered(_) | View::Loose => return,
    };
    parts.place.flush();
    let flushed = unflushed.flushed();
    if !loose {
        return;
    }
    // SAFETY: a node in the tree has an address space.
    let mut ops = unsafe { KernelNode::new(mm) };
    dissolve_node(&mut ops, &flushed.detach());
    glue::split(node);
    ops.note_conventional();
}

/// T7: the node is out of its slot. False, and nothing done, if it is no node any more.
///
/// # Safety
///
/// `node` is a node of `mm`, below which nothing is mapped and nobody can map.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_gather(mm: *mut Mm, node: *mut Node) -> bool {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let gathered = match node.span().view() {
        View::Flat(flat) => flat.gather(),
        View::Attached(attached) => attached.gather(),
        View::Ready(_) | View::Gathered(_) | View::Loose => return false,
    };
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    gather_node(&mut ops, &gathered);
    ops.count(Counter::FLUSHES_SAVED, 1);
    true
}

/// After the flush that follows [`fpt_node_gather`]: pools or frees the node.
///
/// # Safety
///
/// `node` was gathered, and nobody can reach it any more.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_retire(node: *mut Node) {
    // SAFETY: by the caller.
    let node = unsafe { &mut *node };
    let (kind, pa) = (node.kind(), node.block());
    let parts = node.parts();
    let View::Gathered(mut gathered) = parts.span.view() else {
        return;
    };
    let seen = if gathered.must_look() { parts.place.look() } else { Entry::NONE };
    let empty = gathered.retire(seen);
    if !empty {
        glue::not_empty();
    }
    let mut ops = KernelNode::detached(None);
    let block = ops.claim(kind, pa);
    let tag = kind as u8 | if empty { 0 } else { Detached::<Block>::TAINTED };
    if let Ok(node) = Detached::from_raw(block, tag) {
        let _ = retire_node(&mut ops, node);
    }
}

/// A flattened root for `mm`: the L4 page inside it, with the user half filled and anything in the
/// kernel half; null to use a conventional one.
///
/// # Safety
///
/// `mm` is an address space that nobody else sees yet.
#[no_mangle]
pub unsafe extern "C" fn fpt_root_alloc(mm: *mut Mm) -> *mut u64 {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    let Some(facts) = ops.facts(NodeKind::Root, 0) else {
        return null_mut();
    };
    if decide(&facts) != Decision::Flatten {
        return null_mut();
    }
    match install_root(&mut ops) {
        Ok(l4) => phys_to_virt(l4),
        Err(_) => null_mut(),
    }
}

/// Takes back a root made by [`fpt_root_alloc`].
///
/// # Safety
///
/// `pgd` is the L4 page of such a root of `mm`, and no CPU uses it.
#[no_mangle]
pub unsafe extern "C" fn fpt_root_free(mm: *mut Mm, pgd: *mut u64) {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    let node = detach_root(&mut ops, glue::virt_to_phys(pgd));
    let _ = retire_node(&mut ops, node);
}

/// Leaves of a root made by [`fpt_root_alloc`] the L4 page, as a conventional root.
///
/// # Safety
///
/// `pgd` is the L4 page of such a root of `mm`, below which nothing is mapped and nobody can map,
/// and no CPU has it in CR3.
#[no_mangle]
pub unsafe extern "C" fn fpt_root_shed(mm: *mut Mm, pgd: *mut u64) {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    shed_root(&mut ops, glue::virt_to_phys(pgd));
}

/// Frees up to `max_nodes` nodes of the pools of NUMA node `nid`.
#[no_mangle]
pub extern "C" fn fpt_drain(nid: c_int, max_nodes: c_ulong) -> c_ulong {
    glue::drain(nid, max_nodes)
}

/// A bad entry was reported.
#[no_mangle]
pub extern "C" fn fpt_taint() {
    glue::taint();
}

/// Value of a counter.
#[no_mangle]
pub extern "C" fn fpt_counter(index: u32) -> i64 {
    glue::counter(index as usize)
}

/// Name of a counter; null past the last.
#[no_mangle]
pub extern "C" fn fpt_counter_name(index: u32) -> *const c_char {
    Counter::from_index(index as usize).map_or(null(), |c| c.c_name().as_ptr())
}

/// Nodes in all pools.
#[no_mangle]
pub extern "C" fn fpt_pool_nodes() -> i64 {
    glue::pool_nodes()
}

/// # Safety
///
/// `s` points at `len` readable bytes.
unsafe fn bytes<'a>(s: *const c_char, len: usize) -> &'a [u8] {
    // SAFETY: by the caller.
    unsafe { core::slice::from_raw_parts(s.cast(), len) }
}

/// The boot choice with this name, or 255.
///
/// # Safety
///
/// `s` points at `len` readable bytes.
#[no_mangle]
pub unsafe extern "C" fn fpt_boot_parse(s: *const c_char, len: usize) -> u8 {
    // SAFETY: by the caller.
    Boot::from_str_bytes(unsafe { bytes(s, len) }).map_or(u8::MAX, Boot::as_u8)
}

/// May there be nodes of `kind`?
#[no_mangle]
pub extern "C" fn fpt_boot_allows(boot: u8, kind: u32) -> bool {
    match (Boot::from_u8(boot), kind_of(kind)) {
        (Some(boot), Some(kind)) => boot.allows(kind),
        _ => false,
    }
}

/// The policy that `boot` comes with.
#[no_mangle]
pub extern "C" fn fpt_boot_policy(boot: u8) -> u8 {
    Policy::of_boot(Boot::from_u8(boot).unwrap_or(Boot::DEFAULT)) as u8
}

/// The mode of a process that asked for `request`; 255 if `boot` cannot do that, or nobody knows it.
#[no_mangle]
pub extern "C" fn fpt_request_mode(request: u8, boot: u8) -> u8 {
    match (Request::from_u8(request), Boot::from_u8(boot)) {
        (Some(request), Some(boot)) if request.possible(boot) => request.mode(boot) as u8,
        _ => u8::MAX,
    }
}

/// Its policy, where that of the system is `system`.
#[no_mangle]
pub extern "C" fn fpt_request_policy(request: u8, system: u8) -> u8 {
    match (Request::from_u8(request), Policy::from_u8(system)) {
        (Some(request), Some(policy)) => request.policy(policy) as u8,
        _ => system,
    }
}

/// The policy with this name, or 255.
///
/// # Safety
///
/// `s` points at `len` readable bytes.
#[no_mangle]
pub unsafe extern "C" fn fpt_policy_parse(s: *const c_char, len: usize) -> u8 {
    // SAFETY: by the caller.
    Policy::from_str_bytes(unsafe { bytes(s, len) }).map_or(u8::MAX, |p| p as u8)
}

/// Name of a boot choice.
#[no_mangle]
pub extern "C" fn fpt_boot_name(boot: u8) -> *const c_char {
    match Boot::from_u8(boot) {
        Some(Boot::Mixed) => c"mixed".as_ptr(),
        Some(Boot::Mode(Mode::L4L3)) => c"l4l3".as_ptr(),
        Some(Boot::Mode(Mode::L3L2)) => c"l3l2".as_ptr(),
        Some(Boot::Mode(Mode::L4L3L2L1)) => c"l4l3-l2l1".as_ptr(),
        Some(Boot::Mode(Mode::Radix)) | None => c"radix".as_ptr(),
    }
}

/// Name of a policy.
#[no_mangle]
pub extern "C" fn fpt_policy_name(policy: u8) -> *const c_char {
    match Policy::from_u8(policy) {
        Some(Policy::Size) => c"size".as_ptr(),
        Some(Policy::Auto) => c"auto".as_ptr(),
        Some(Policy::Eager) | None => c"eager".as_ptr(),
    }
}
