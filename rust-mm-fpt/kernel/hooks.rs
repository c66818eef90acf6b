// SPDX-License-Identifier: GPL-2.0

//! What C calls besides the hooks of hot.rs: prototypes in asm/fpt.h and fpt_internal.h.

use super::fpt_core::counters::{Counter, KindCounter};
use super::fpt_core::entry::Entry;
use super::fpt_core::geometry::{Mode, NodeKind};
use super::fpt_core::node::{
    acquire_node, detach_root, dissolve_node, gather_node, install_root, publish_node,
    release_node, retire_node, shed_root, Detached, NodeAlloc, Ready, Source,
};
use super::fpt_core::policy::{decide, Decision, Policy, Reason};
use super::fpt_core::span::{Event, Span, State, View};
use super::glue::{self, Block, KernelNode, Mm, Node, Page};
use super::hot::phys_to_virt;
use core::ffi::{c_char, c_int, c_ulong};
use core::ptr::{null, null_mut, NonNull};

fn kind_of(kind: u32) -> Option<NodeKind> {
    NodeKind::from_u8(u8::try_from(kind).ok()?)
}

/// T1, first half: a node of `kind` for the span of `addr`, ready to be published, by the head page of
/// its block; null for a conventional table.
///
/// # Safety
///
/// `mm` is a live address space; no page-table lock is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_node_acquire(mm: *mut Mm, kind: u32, addr: c_ulong) -> *mut Page {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm) };
    let Some(facts) = kind_of(kind).and_then(|kind| ops.facts(kind, addr)) else {
        return null_mut();
    };
    match decide(&facts) {
        Decision::Conventional(Reason::NotInMode) => return null_mut(),
        Decision::Conventional(reason) => {
            let counter =
                if reason.is_cap() { Counter::REFUSED_CAP } else { Counter::REFUSED_POLICY };
            ops.count(counter, 1);
        }
        Decision::Flatten => return acquire(&mut ops, facts.kind, Source::Any),
        Decision::Recycle => return acquire(&mut ops, facts.kind, Source::Pool),
    }
    ops.note_conventional();
    null_mut()
}

fn acquire(ops: &mut KernelNode, kind: NodeKind, source: Source) -> *mut Page {
    match acquire_node(ops, kind, source) {
        Ok(ready) => ready.into_raw().into_raw(),
        Err(_) => {
            ops.note_conventional();
            null_mut()
        }
    }
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
    let block = node.block();
    node.span().take(block, i).map_or(0, Entry::as_u64)
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
    let block = node.block();
    let _ = node.span().put(block, i, Entry::new(now));
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
    let (kind, index, mm) = (node.kind(), node.index(), node.mm());
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
    let unused = flushed.detach();
    glue::split(node);
    // SAFETY: a node in the tree has an address space.
    let mut ops = unsafe { KernelNode::new(mm) };
    dissolve_node(&mut ops, kind, unused);
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

/// The mode with this name, or 255.
///
/// # Safety
///
/// `s` points at `len` readable bytes.
#[no_mangle]
pub unsafe extern "C" fn fpt_mode_parse(s: *const c_char, len: usize) -> u8 {
    // SAFETY: by the caller.
    Mode::from_str_bytes(unsafe { bytes(s, len) }).map_or(u8::MAX, |m| m as u8)
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

/// Name of a mode.
#[no_mangle]
pub extern "C" fn fpt_mode_name(mode: u8) -> *const c_char {
    match Mode::from_u8(mode) {
        Some(Mode::L4L3) => c"l4l3".as_ptr(),
        Some(Mode::L3L2) => c"l3l2".as_ptr(),
        Some(Mode::L4L3L2L1) => c"l4l3-l2l1".as_ptr(),
        _ => c"radix".as_ptr(),
    }
}

/// Name of a policy.
#[no_mangle]
pub extern "C" fn fpt_policy_name(policy: u8) -> *const c_char {
    if policy == Policy::Size as u8 {
        c"size".as_ptr()
    } else {
        c"eager".as_ptr()
    }
}
