// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses, walks, and reads of guest memory.

use std::ffi::c_void;

use crate::raw::{self, GByteArray};

/// log2 of the bytes of an access.
#[inline(always)]
pub fn size_shift(info: u32) -> u32 {
    // SAFETY: no preconditions; `info` is a value.
    unsafe { raw::qemu_plugin_mem_size_shift(info) }
}

/// Was the access a store?
#[inline(always)]
pub fn is_store(info: u32) -> bool {
    // SAFETY: no preconditions; `info` is a value.
    unsafe { raw::qemu_plugin_mem_is_store(info) }
}

/// What was loaded or stored; the low half, if it was 16 bytes.
///
/// # Safety
/// Called while QEMU reports this access.
pub unsafe fn value(info: u32) -> u64 {
    // SAFETY: the caller's promise.
    let value = unsafe { raw::qemu_plugin_mem_get_value(info) };
    let [low, _] = value.data;
    match size_shift(info) {
        shift @ 0..3 => low & ((1 << (8 << shift)) - 1),
        _ => low,
    }
}

/// The physical address of an access; nothing if it is to a device.
///
/// # Safety
/// Called while QEMU reports this access.
pub unsafe fn phys_addr(info: u32, va: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    let found = unsafe { raw::qemu_plugin_get_hwaddr(info, va) };
    // SAFETY: not null; valid until the callback returns.
    if found.is_null() || unsafe { raw::qemu_plugin_hwaddr_is_io(found) } {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { raw::qemu_plugin_hwaddr_phys_addr(found) })
}

/// Entries of a walk at most.
pub const MAX_ENTRIES: usize = 5;

/// `struct qemu_plugin_walk_entry`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WalkEntry {
    /// Physical address of the entry.
    pub paddr: u64,
    /// Its value.
    pub value: u64,
    /// Its level.
    pub level: u8,
    /// Width of the index that selected it.
    pub index_bits: u8,
    reserved: [u8; 6],
}

/// `struct qemu_plugin_walk`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    result: u32,
    n_entries: u32,
    entries: [WalkEntry; MAX_ENTRIES],
    /// The root register.
    pub root: u64,
    /// The physical address.
    pub paddr: u64,
    /// Bytes of the page.
    pub page_size: u64,
    /// Rights in effect.
    pub prot: u64,
}

/// `QEMU_PLUGIN_WALK_PAGE`
const WALK_PAGE: u32 = 0;

impl Walk {
    /// The entries that were read.
    pub fn entries(&self) -> &[WalkEntry] {
        let n = (self.n_entries as usize).min(MAX_ENTRIES);
        self.entries.get(..n).unwrap_or(&[])
    }
}

type WalkFn = unsafe extern "C" fn(u64, *mut Walk) -> bool;

/// QEMU's walk, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Walker(WalkFn);

impl Walker {
    /// Looks for it.
    pub fn find() -> Option<Walker> {
        let found = raw::optional(c"qemu_plugin_walk_vaddr")?;
        // SAFETY: the name determines the type, and the header that declares it the layout.
        Some(Walker(unsafe {
            std::mem::transmute::<*mut c_void, WalkFn>(found)
        }))
    }

    /// Walks an address of the current CPU; nothing if there is no page.
    ///
    /// # Safety
    /// Called in a CPU's context: one of its callbacks, or a translation.
    pub unsafe fn walk(self, va: u64) -> Option<Walk> {
        let mut walk = Walk::default();
        // SAFETY: the caller's promise; `walk` has the layout of QEMU's header.
        let done = unsafe { (self.0)(va, &mut walk) };
        (done && walk.result == WALK_PAGE).then_some(walk)
    }
}

type NewBytesFn = unsafe extern "C" fn() -> *mut GByteArray;

/// Reads of guest memory, and a buffer of glib's that they need. glib is part of every QEMU.
#[derive(Debug)]
pub struct Reader {
    buffer: *mut GByteArray,
}

impl Reader {
    /// Makes a buffer, which is never freed.
    pub fn new() -> Option<Reader> {
        let new = raw::optional(c"g_byte_array_new")?;
        // SAFETY: the name determines the type.
        let new = unsafe { std::mem::transmute::<*mut c_void, NewBytesFn>(new) };
        // SAFETY: no preconditions.
        let buffer = unsafe { new() };
        (!buffer.is_null()).then_some(Reader { buffer })
    }

    /// Reads what is at an address of the current CPU.
    ///
    /// # Safety
    /// Called in a CPU's context.
    pub unsafe fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
        // SAFETY: the buffer is glib's and never freed; QEMU sets its length.
        if !unsafe { raw::qemu_plugin_read_memory_vaddr(va, self.buffer, to.len()) } {
            return false;
        }
        // SAFETY: as above.
        let array = unsafe { &*self.buffer };
        if array.data.is_null() || (array.len as usize) < to.len() {
            return false;
        }
        // SAFETY: glib's array has at least as many bytes.
        let from = unsafe { std::slice::from_raw_parts(array.data, to.len()) };
        to.copy_from_slice(from);
        true
    }
}
