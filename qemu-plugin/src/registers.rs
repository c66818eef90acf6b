// SPDX-License-Identifier: MIT OR Apache-2.0
//! The CPU's registers.

use std::cell::Cell;
use std::ffi::{c_uint, c_void, CStr};

use crate::raw::{self, GByteArray, RegisterDescriptor, RegisterHandle};

type NewBytesFn = unsafe extern "C" fn() -> *mut GByteArray;
type SetSizeFn = unsafe extern "C" fn(*mut GByteArray, c_uint) -> *mut GByteArray;

/// A register. The same one on every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    handle: *mut RegisterHandle,
    new: NewBytesFn,
    set_size: SetSizeFn,
}

// SAFETY: the handle is a number in disguise, the rest are functions.
unsafe impl Send for Register {}
// SAFETY: as for Send.
unsafe impl Sync for Register {}

thread_local! {
    /// glib's buffer of this thread, never freed.
    static BUFFER: Cell<*mut GByteArray> = const { Cell::new(std::ptr::null_mut()) };
}

impl Register {
    /// Its value; nothing if it has more than 8 bytes.
    ///
    /// # Safety
    /// Called in a CPU's context whose registers are in memory: a callback of
    /// [`Insn::on_exec_with_registers`](crate::Insn::on_exec_with_registers), or a translation.
    pub unsafe fn read(self) -> Option<u64> {
        let mut buffer = BUFFER.get();
        if buffer.is_null() {
            // SAFETY: no preconditions.
            buffer = unsafe { (self.new)() };
            BUFFER.set(buffer);
        }
        // SAFETY: the buffer is this thread's own.
        unsafe { (self.set_size)(buffer, 0) };
        // SAFETY: the caller's promise.
        unsafe { raw::qemu_plugin_read_register(self.handle, buffer) };
        // SAFETY: as above.
        let array = unsafe { &*buffer };
        let len = array.len as usize;
        if array.data.is_null() || len == 0 || len > 8 {
            return None;
        }
        // SAFETY: glib's array has so many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(array.data, len) };
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }
}

/// All registers that QEMU knows by name.
#[derive(Debug)]
pub struct RegisterList(&'static [RegisterDescriptor], NewBytesFn, SetSizeFn);

impl RegisterList {
    /// Asks QEMU for it. Never freed.
    ///
    /// # Safety
    /// Called when a CPU begins to exist.
    pub unsafe fn new() -> Option<RegisterList> {
        let new = raw::optional(c"g_byte_array_new")?;
        let set_size = raw::optional(c"g_byte_array_set_size")?;
        // SAFETY: the names determine the types.
        let (new, set_size) = unsafe {
            (
                std::mem::transmute::<*mut c_void, NewBytesFn>(new),
                std::mem::transmute::<*mut c_void, SetSizeFn>(set_size),
            )
        };
        // SAFETY: the caller's promise.
        let list = unsafe { raw::qemu_plugin_get_registers().as_ref() }?;
        if list.data.is_null() {
            return None;
        }
        // SAFETY: glib's array holds so many descriptors, and nobody frees it.
        let all = unsafe { std::slice::from_raw_parts(list.data.cast(), list.len as usize) };
        Some(RegisterList(all, new, set_size))
    }

    /// The register of a name.
    pub fn find(&self, name: &CStr) -> Option<Register> {
        let named = |d: &&RegisterDescriptor| {
            // SAFETY: QEMU's strings end with a zero byte and are never freed.
            !d.name.is_null() && unsafe { CStr::from_ptr(d.name) } == name
        };
        self.0.iter().find(named).map(|d| Register {
            handle: d.handle,
            new: self.1,
            set_size: self.2,
        })
    }
}
