// SPDX-License-Identifier: GPL-2.0

//! The hooks that page-table walkers call for each FLAT entry: prototypes in asm/fpt.h.
//!
//! Built twice. As a part of fpt_rust.o these are ordinary functions. With clang and rustc on the
//! same LLVM they are also emitted as bitcode (fpt_hot.rs), which clang links into the C objects
//! of mm/ and inlines there: `inline(always)`, because the two languages' target features are
//! not spelt alike and LLVM would refuse otherwise.

use super::fpt_core::addr::{PhysAddr, VirtAddr};
use super::fpt_core::entry::{Entry, FLAT_MID};
use super::fpt_core::geometry::{node_index, NodeKind};
use core::ffi::c_ulong;

#[cfg(CONFIG_DYNAMIC_MEMORY_LAYOUT)]
extern "C" {
    static page_offset_base: c_ulong;
}

/// Where the direct map begins.
#[cfg(CONFIG_DYNAMIC_MEMORY_LAYOUT)]
#[inline(always)]
fn page_offset() -> u64 {
    // SAFETY: written once, before any user address space exists.
    unsafe { page_offset_base }
}

/// Where the direct map begins, with 4-level paging (`__PAGE_OFFSET_BASE_L4`).
#[cfg(not(CONFIG_DYNAMIC_MEMORY_LAYOUT))]
#[inline(always)]
fn page_offset() -> u64 {
    0xffff_8880_0000_0000
}

/// The virtual address of `pa` in the direct map.
#[inline(always)]
pub(super) fn phys_to_virt(pa: PhysAddr) -> *mut u64 {
    pa.as_u64().wrapping_add(page_offset()) as *mut u64
}

/// The entry for `addr` in the node that `val` points at.
#[inline(always)]
fn node_entry(val: u64, kind: NodeKind, addr: c_ulong) -> *mut u64 {
    let base = phys_to_virt(Entry::new(val).addr());
    base.wrapping_add(node_index(kind, VirtAddr::new(addr)) as usize)
}

/// `pud_offset()` below a FLAT p4d entry: the PUD level is merged away.
#[no_mangle]
#[inline(always)]
pub extern "C" fn fpt_pud_offset(p4d: *mut u64, _val: u64, _addr: c_ulong) -> *mut u64 {
    p4d
}

/// `pmd_offset()` of a FLAT entry: a PMD of a merged L3+L2 node if the PUD level was passed
/// through (the entry says so), else the PMD level is the one that is merged away.
#[no_mangle]
#[inline(always)]
pub extern "C" fn fpt_pmd_offset(pud: *mut u64, val: u64, addr: c_ulong) -> *mut u64 {
    if val & FLAT_MID != 0 {
        node_entry(val, NodeKind::Mid, addr)
    } else {
        pud
    }
}

/// `pte_offset_kernel()` of a FLAT entry: a PTE of a merged L2+L1 node.
#[no_mangle]
#[inline(always)]
pub extern "C" fn fpt_pte_offset(_pmd: *mut u64, val: u64, addr: c_ulong) -> *mut u64 {
    node_entry(val, NodeKind::Bottom, addr)
}
