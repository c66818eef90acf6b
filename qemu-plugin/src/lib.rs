// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's TCG plugin interface (version 4, with this project's walk and TLB-flush additions): what
//! our plugins need of it, declared by hand once.
//!
//! Handles of the translation callback live as long as the callback, which their lifetime says, so
//! what is done with them is safe. What QEMU allows in a virtual CPU's own callbacks only is `unsafe`.
//!
//! A plugin names its `install` function in [`plugin!`]. Test builds must not use what refers to
//! QEMU's symbols, unless they bring a QEMU of their own, as `tests/fake.rs` does.

mod arguments;
mod memory;
mod ram;
mod raw;
mod registers;
mod scoreboard;
mod start;
mod translate;

pub use arguments::{arguments, fresh, required};
pub use memory::{
    is_store, phys_addr, size_shift, value, Reader, Walk, WalkEntry, Walker, MAX_ENTRIES,
};
pub use ram::Ram;
pub use registers::{Register, RegisterList};
pub use scoreboard::{Counter, Scoreboard};
pub use start::{
    at_exit, install, on_cpu, on_tlb_event, on_tlb_flush, on_translation, reset, CpuEvent, Id,
    Info, RegisterEvents, RegisterFlush, VERSION,
};
pub use translate::{Block, Data, Insn, Rw};

use std::ffi::{c_uint, c_void};

/// Called for each block that is translated.
pub type OnTranslation = extern "C" fn(Id, Block<'_>);
/// Called when an instruction is executed: index of the CPU, user data.
pub type OnExec = extern "C" fn(c_uint, *mut c_void);
/// Called for an access: index of the CPU, what [`size_shift`] and [`phys_addr`] take, address, user data.
pub type OnAccess = extern "C" fn(c_uint, u32, u64, *mut c_void);
/// Called when no CPU runs.
pub type OnReset = extern "C" fn(Id);
/// Called when QEMU ends.
pub type AtExit = extern "C" fn(Id, *mut c_void);
/// Called when a CPU begins to exist, to wait or to run again: its index.
pub type OnCpu = extern "C" fn(Id, c_uint);
/// Called when the guest invalidates: index of the CPU, one of [`FLUSH_ALL`] and its like, address,
/// address-space identifier.
pub type OnFlush = extern "C" fn(Id, c_uint, c_uint, u64, u64);

/// All translations, global ones too.
pub const FLUSH_ALL: c_uint = 0;
/// Those of an address space that are not global.
pub const FLUSH_ASID: c_uint = 1;
/// Those of one address.
pub const FLUSH_PAGE: c_uint = 2;
/// All, by INIT. This and what follows is only for [`on_tlb_event`].
pub const FLUSH_INIT: c_uint = 3;
/// Those of the address of a page fault.
pub const FLUSH_FAULT: c_uint = 4;
/// None: the address is CR3, from which walks begin now, or [`NO_ROOT`].
pub const NEW_ROOT: c_uint = 5;
/// No walk begins anywhere.
pub const NO_ROOT: u64 = u64::MAX;
