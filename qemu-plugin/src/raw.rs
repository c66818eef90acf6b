// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions as QEMU has them.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::scoreboard::Counter;
use crate::{AtExit, Id, OnAccess, OnCpu, OnExec, OnReset, OnTranslation};

#[repr(C)]
pub(crate) struct Tb {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct InsnHandle {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct ScoreboardHandle {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct HwAddr {
    _opaque: [u8; 0],
}

/// The public part of glib's.
#[repr(C)]
pub(crate) struct GByteArray {
    pub(crate) data: *mut u8,
    pub(crate) len: c_uint,
}

/// `qemu_plugin_mem_value`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MemValue {
    pub(crate) kind: c_uint,
    /// A union that is as large as its largest member; smaller ones lie in its first bytes.
    pub(crate) data: [u64; 2],
}

/// The public part of glib's.
#[repr(C)]
pub(crate) struct GArray {
    pub(crate) data: *mut c_char,
    pub(crate) len: c_uint,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct RegisterHandle {
    _opaque: [u8; 0],
}

/// `qemu_plugin_reg_descriptor`
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RegisterDescriptor {
    pub(crate) handle: *mut RegisterHandle,
    pub(crate) name: *const c_char,
    pub(crate) feature: *const c_char,
}

/// `qemu_info_t`
#[repr(C)]
pub(crate) struct RawInfo {
    pub(crate) target_name: *const c_char,
    pub(crate) version_min: c_int,
    pub(crate) version_cur: c_int,
    pub(crate) system_emulation: bool,
    pub(crate) smp_vcpus: c_int,
    pub(crate) max_vcpus: c_int,
}

/// `enum qemu_plugin_op`
pub(crate) const ADD_U64: c_uint = 0;
/// `enum qemu_plugin_cb_flags`
pub(crate) const CB_NO_REGS: c_uint = 0;
pub(crate) const CB_R_REGS: c_uint = 1;
/// `enum qemu_plugin_cond`
pub(crate) const COND_NE: c_uint = 3;

extern "C" {
    pub(crate) fn qemu_plugin_reset(id: Id, cb: OnReset);
    pub(crate) fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, cb: OnTranslation);
    pub(crate) fn qemu_plugin_register_atexit_cb(id: Id, cb: AtExit, userdata: *mut c_void);
    pub(crate) fn qemu_plugin_register_vcpu_init_cb(id: Id, cb: OnCpu);
    pub(crate) fn qemu_plugin_register_vcpu_idle_cb(id: Id, cb: OnCpu);
    pub(crate) fn qemu_plugin_register_vcpu_resume_cb(id: Id, cb: OnCpu);
    pub(crate) fn qemu_plugin_get_registers() -> *mut GArray;
    pub(crate) fn qemu_plugin_read_register(
        handle: *mut RegisterHandle,
        to: *mut GByteArray,
    ) -> c_int;
    pub(crate) fn qemu_plugin_mem_is_store(info: u32) -> bool;
    pub(crate) fn qemu_plugin_mem_get_value(info: u32) -> MemValue;
    pub(crate) fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    pub(crate) fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut InsnHandle;
    pub(crate) fn qemu_plugin_insn_data(
        insn: *const InsnHandle,
        dest: *mut c_void,
        len: usize,
    ) -> usize;
    pub(crate) fn qemu_plugin_insn_vaddr(insn: *const InsnHandle) -> u64;
    pub(crate) fn qemu_plugin_insn_haddr(insn: *const InsnHandle) -> *mut c_void;
    pub(crate) fn qemu_plugin_read_memory_vaddr(
        addr: u64,
        data: *mut GByteArray,
        len: usize,
    ) -> bool;
    pub(crate) fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut InsnHandle,
        cb: OnExec,
        flags: c_uint,
        userdata: *mut c_void,
    );
    pub(crate) fn qemu_plugin_register_vcpu_insn_exec_cond_cb(
        insn: *mut InsnHandle,
        cb: OnExec,
        flags: c_uint,
        cond: c_uint,
        entry: Counter,
        imm: u64,
        userdata: *mut c_void,
    );
    pub(crate) fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut InsnHandle,
        op: c_uint,
        entry: Counter,
        imm: u64,
    );
    pub(crate) fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut InsnHandle,
        cb: OnAccess,
        flags: c_uint,
        rw: c_uint,
        userdata: *mut c_void,
    );
    pub(crate) fn qemu_plugin_register_vcpu_mem_inline_per_vcpu(
        insn: *mut InsnHandle,
        rw: c_uint,
        op: c_uint,
        entry: Counter,
        imm: u64,
    );
    pub(crate) fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    pub(crate) fn qemu_plugin_get_hwaddr(info: u32, vaddr: u64) -> *mut HwAddr;
    pub(crate) fn qemu_plugin_hwaddr_is_io(haddr: *const HwAddr) -> bool;
    pub(crate) fn qemu_plugin_hwaddr_phys_addr(haddr: *const HwAddr) -> u64;
    pub(crate) fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut ScoreboardHandle;
    pub(crate) fn qemu_plugin_scoreboard_find(
        score: *mut ScoreboardHandle,
        vcpu_index: c_uint,
    ) -> *mut c_void;
    pub(crate) fn qemu_plugin_u64_sum(entry: Counter) -> u64;
    pub(crate) fn mmap(
        at: *mut c_void,
        len: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// A function that QEMU, or a library that is part of it, may have.
pub(crate) fn optional(name: &std::ffi::CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle asks the whole program; the name ends with a zero byte.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
