// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks and instructions, while they are translated.

use std::ffi::{c_uint, c_void};
use std::marker::PhantomData;

use crate::raw;
use crate::scoreboard::Counter;
use crate::{OnAccess, OnExec};

/// A block that is being translated.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Block<'a> {
    handle: *mut raw::Tb,
    while_translated: PhantomData<&'a ()>,
}

impl<'a> Block<'a> {
    /// Its instructions.
    pub fn insns(self) -> impl Iterator<Item = Insn<'a>> {
        // SAFETY: the handle is valid during the translation callback.
        let n = unsafe { raw::qemu_plugin_tb_n_insns(self.handle) };
        (0..n).filter_map(move |index| {
            // SAFETY: as above; index is below the number of instructions.
            let handle = unsafe { raw::qemu_plugin_tb_get_insn(self.handle, index) };
            (!handle.is_null()).then_some(Insn {
                handle,
                while_translated: PhantomData,
            })
        })
    }
}

/// What a callback is given back.
#[derive(Clone, Copy, Debug)]
pub struct Data(*mut c_void);

impl Data {
    /// A number.
    pub fn number(n: usize) -> Data {
        Data(std::ptr::without_provenance_mut(n))
    }

    /// Something that is never freed: translations are executed at any time.
    pub fn of<T: Sync>(what: &'static T) -> Data {
        Data(std::ptr::from_ref(what).cast_mut().cast())
    }
}

/// `enum qemu_plugin_mem_rw`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rw {
    /// Loads.
    R = 1,
    /// Stores.
    W = 2,
    /// Both.
    RW = 3,
}

/// An instruction of a block.
#[derive(Clone, Copy)]
pub struct Insn<'a> {
    handle: *mut raw::InsnHandle,
    while_translated: PhantomData<&'a ()>,
}

impl Insn<'_> {
    /// Its bytes: puts them into the buffer, and says how many they are.
    pub fn bytes(self, buffer: &mut [u8]) -> usize {
        let len = buffer.len();
        // SAFETY: the handle is valid during the translation callback, the buffer is as long as said.
        let found =
            unsafe { raw::qemu_plugin_insn_data(self.handle, buffer.as_mut_ptr().cast(), len) };
        found.min(len)
    }

    /// Its address.
    pub fn vaddr(self) -> u64 {
        // SAFETY: as above.
        unsafe { raw::qemu_plugin_insn_vaddr(self.handle) }
    }

    /// Where the host has it; 0 if nowhere.
    pub fn haddr(self) -> u64 {
        // SAFETY: as above.
        unsafe { raw::qemu_plugin_insn_haddr(self.handle) }.addr() as u64
    }

    /// Calls back when it is executed.
    pub fn on_exec(self, cb: OnExec, data: Data) {
        // SAFETY: as above; the callback is a function of a library that is never unloaded.
        unsafe {
            raw::qemu_plugin_register_vcpu_insn_exec_cb(self.handle, cb, raw::CB_NO_REGS, data.0);
        }
    }

    /// Calls back when it is executed; the callback may read [`Register`](crate::Register)s.
    pub fn on_exec_with_registers(self, cb: OnExec, data: Data) {
        // SAFETY: as above.
        unsafe {
            raw::qemu_plugin_register_vcpu_insn_exec_cb(self.handle, cb, raw::CB_R_REGS, data.0);
        }
    }

    /// Calls back when it is executed and the CPU's number is not this one.
    pub fn on_exec_unless(self, number: Counter, is: u64, cb: OnExec, data: Data) {
        // SAFETY: as above; the scoreboard is never freed.
        unsafe {
            raw::qemu_plugin_register_vcpu_insn_exec_cond_cb(
                self.handle,
                cb,
                raw::CB_NO_REGS,
                raw::COND_NE,
                number,
                is,
                data.0,
            );
        }
    }

    /// Adds to the CPU's number when it is executed.
    pub fn add(self, number: Counter, n: u64) {
        // SAFETY: as above.
        unsafe {
            raw::qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                self.handle,
                raw::ADD_U64,
                number,
                n,
            );
        }
    }

    /// Calls back at each of its accesses.
    pub fn on_access(self, rw: Rw, cb: OnAccess, data: Data) {
        // SAFETY: as above.
        unsafe {
            raw::qemu_plugin_register_vcpu_mem_cb(
                self.handle,
                cb,
                raw::CB_NO_REGS,
                rw as c_uint,
                data.0,
            );
        }
    }

    /// Adds to the CPU's number at each of its accesses.
    pub fn add_on_access(self, rw: Rw, number: Counter, n: u64) {
        // SAFETY: as above.
        unsafe {
            raw::qemu_plugin_register_vcpu_mem_inline_per_vcpu(
                self.handle,
                rw as c_uint,
                raw::ADD_U64,
                number,
                n,
            );
        }
    }
}
