// SPDX-License-Identifier: GPL-2.0

//! What C calls besides the hooks of hot.rs: prototypes in asm/fpt.h and fpt_internal.h.

use super::fpt_core::counters::Counter;
use super::fpt_core::entry::TABLE_FLAGS;
use super::fpt_core::geometry::{Mode, NodeKind};
use super::fpt_core::node::{
    demote_node, detach_node, detach_root, install_node, install_root, retire_node, shed_root,
    DemoteOutcome, Detached, InstallOutcome, NodeAlloc, NodeMem,
};
use super::fpt_core::policy::{decide, Decision, Policy, Reason};
use super::glue::{self, Block, Demotion, KernelNode, Mm, MmuGather, Page};
use super::hot::phys_to_virt;
use core::ffi::{c_char, c_int, c_ulong};
use core::ptr::{null, null_mut, NonNull};

/// Tries to install a node of `kind` at `slot`; true if the entry is populated afterwards.
///
/// # Safety
///
/// `mm` and `slot` as for [`KernelNode::new`]; no page-table lock is held.
unsafe fn table_alloc(mm: *mut Mm, slot: *mut u64, kind: NodeKind, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(mm, slot) };
    let Some(facts) = ops.facts(kind, addr) else {
        return false;
    };
    match decide(&facts) {
        Decision::Conventional(Reason::NotInMode) => false,
        Decision::Conventional(reason) => {
            let counter =
                if reason.is_cap() { Counter::REFUSED_CAP } else { Counter::REFUSED_POLICY };
            ops.count(counter, 1);
            ops.note_conventional();
            false
        }
        Decision::Flatten => match install_node(&mut ops, kind, TABLE_FLAGS) {
            InstallOutcome::Installed => true,
            // Populated by somebody else, or refused at the last moment.
            InstallOutcome::LostRace => !ops.load().is_none(),
            InstallOutcome::Fallback(_) => {
                ops.note_conventional();
                false
            }
        },
    }
}

/// `arch_pud_alloc_flat()`.
///
/// # Safety
///
/// `mm` is a live address space, `p4d` an entry of its tables; no page-table lock is held.
#[no_mangle]
pub unsafe extern "C" fn fpt_pud_alloc(mm: *mut Mm, p4d: *mut u64, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    unsafe { table_alloc(mm, p4d, NodeKind::Mid, addr) }
}

/// `arch_pmd_alloc_flat()`.
///
/// # Safety
///
/// As for [`fpt_pud_alloc`], with a PUD entry.
#[no_mangle]
pub unsafe extern "C" fn fpt_pmd_alloc(mm: *mut Mm, pud: *mut u64, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    unsafe { table_alloc(mm, pud, NodeKind::Bottom, addr) }
}

/// Takes the node below `slot` out of the tree and hands it to `tlb`.
///
/// # Safety
///
/// `tlb` is valid, `slot` an entry of the tables of its address space below which nothing is
/// mapped any more and nobody can map.
unsafe fn table_free(tlb: *mut MmuGather, slot: *mut u64, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::new(glue::tlb_mm(tlb), slot) };
    let Some(node) = detach_node(&mut ops) else {
        return false;
    };
    let kind = node.kind();
    let (block, tag) = node.into_raw();
    ops.count(Counter::FLUSHES_SAVED, 1);
    // SAFETY: `tlb` by the caller; the block is out of the tree.
    unsafe { glue::tlb_add(tlb, block, tag, kind, addr) };
    true
}

/// `arch_pud_free_flat()`.
///
/// # Safety
///
/// `tlb` is valid, `p4d` an entry of its address space below which nothing is mapped.
#[no_mangle]
pub unsafe extern "C" fn fpt_pud_free(tlb: *mut MmuGather, p4d: *mut u64, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    unsafe { table_free(tlb, p4d, addr) }
}

/// `arch_pmd_free_flat()`.
///
/// # Safety
///
/// As for [`fpt_pud_free`], with a PUD entry.
#[no_mangle]
pub unsafe extern "C" fn fpt_pmd_free(tlb: *mut MmuGather, pud: *mut u64, addr: c_ulong) -> bool {
    // SAFETY: by the caller.
    unsafe { table_free(tlb, pud, addr) }
}

/// Turns the node below `slot` into conventional tables; false if there is none, or no table.
///
/// # Safety
///
/// `slot` is an entry of the tables of `mm`, `demotion` describes the node below it, and every
/// lock of `mm` under which a pointer into its tables may be held is taken.
#[no_mangle]
pub unsafe extern "C" fn fpt_demote_node(
    mm: *mut Mm,
    slot: *mut u64,
    demotion: *mut Demotion,
) -> bool {
    // SAFETY: by the caller.
    let mut ops = unsafe { KernelNode::demoted(mm, slot, demotion) };
    let demoted = demote_node(&mut ops, TABLE_FLAGS) == DemoteOutcome::Demoted;
    if demoted {
        ops.note_conventional();
    }
    demoted
}

/// A flattened root for `mm`: the L4 page inside it, with the user half filled and anything in the
/// kernel half; null to use a conventional one.
///
/// # Safety
///
/// `mm` is an address space that nobody else sees yet.
#[no_mangle]
pub unsafe extern "C" fn fpt_root_alloc(mm: *mut Mm) -> *mut u64 {
    // SAFETY: by the caller; a root has no slot.
    let mut ops = unsafe { KernelNode::new(mm, null_mut()) };
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
    // SAFETY: by the caller; a root has no slot.
    let mut ops = unsafe { KernelNode::new(mm, null_mut()) };
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
    // SAFETY: by the caller; a root has no slot.
    let mut ops = unsafe { KernelNode::new(mm, null_mut()) };
    shed_root(&mut ops, glue::virt_to_phys(pgd));
}

/// Pools or frees a node after the flush.
///
/// # Safety
///
/// `page` and `tag` are what [`table_free`] gave to the mmu_gather, once.
#[no_mangle]
pub unsafe extern "C" fn fpt_retire(page: *mut Page, tag: u8) {
    let Some(page) = NonNull::new(page) else {
        return;
    };
    // SAFETY: by the caller, the block comes back to us.
    let block = unsafe { Block::from_raw(page) };
    if let Ok(node) = Detached::from_raw(block, tag) {
        let _ = retire_node(&mut KernelNode::detached(None), node);
    }
}

/// Frees up to `max_nodes` nodes of the pools of `cpu`.
#[no_mangle]
pub extern "C" fn fpt_drain(cpu: c_int, max_nodes: c_ulong) -> c_ulong {
    glue::drain(cpu, max_nodes)
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
