// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU TCG plugin: the ledger of `fpt-tlbsan-model`, fed with what a guest does to its page tables.
//!
//! `docs/explanation/tlbsan.md` describes it. Everything but [`ffi`] is plain, safe code that is tested on the host;
//! `ffi` is the only file with `unsafe` and is absent from test builds, whose executables have no QEMU to
//! resolve its symbols.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(dead_code))]

mod args;
mod askers;
mod canaries;
mod cases;
mod code;
mod engine;
mod report;
mod symbols;
mod watch;

#[cfg(not(test))]
#[allow(unsafe_code)]
mod ffi;
