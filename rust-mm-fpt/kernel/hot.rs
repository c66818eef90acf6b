// SPDX-License-Identifier: GPL-2.0

//! What page-table walkers ask at each entry: prototypes in asm/fpt.h.
//!
//! Built twice. As a part of fpt_rust.o these are ordinary functions. With clang and rustc on the
//! same LLVM they are also emitted as bitcode (fpt_hot.rs), which clang links into the C objects of mm/
//! and inlines there: `inline(always)`, because the two languages' target features are not spelt
//! alike and LLVM would refuse otherwise.

use super::fpt_core::addr::PhysAddr;
use super::fpt_core::entry::Entry;
use super::fpt_core::walk::{below, slice_below, Below};
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

/// Is a slice below the table entry `val`, and not a table?
#[no_mangle]
#[inline(always)]
pub extern "C" fn fpt_below_flat(val: u64) -> bool {
    matches!(below(Entry::new(val), 0), Below::Slice(_))
}

/// Physical address of slice `i` (0 to 511) of the node below the FLAT entry `val`.
#[no_mangle]
#[inline(always)]
pub extern "C" fn fpt_below_slice(val: u64, i: c_ulong) -> u64 {
    slice_below(Entry::new(val), i as u32).as_u64()
}
