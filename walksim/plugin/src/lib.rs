// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU TCG plugin: the simulated core of `fpt-walksim-model`, fed with what the guest executes.
//!
//! `docs/explanation/walksim.md` describes it. Everything but `ffi` is plain, safe code that is tested on the host;
//! `ffi` is the only file with `unsafe` and is absent from test builds, whose executables have no QEMU to
//! resolve its symbols.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(dead_code))]

mod args;
mod attribution;
mod decode;
mod flush;
mod kernel;
mod output;
mod plan;
mod symbols;
mod vcpu;

#[cfg(not(test))]
#[allow(unsafe_code)]
mod ffi;
