// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU TCG plugin: exact counts of guest kernel instructions over regions that
//! a guest program marks.
//!
//! `-plugin libfpt_kcount.so,out=FILE` writes one JSON object a line:
//! `{"region":3,"run":0,"kernel":123,"kernel_string":45,"user":6}`, flushed at
//! each end mark. `docs/explanation/measuring.md` describes the method.
//!
//! Everything but `ffi` is plain, safe code without panics and is tested on
//! the host; `ffi` is the only file with `unsafe` and is absent from test
//! builds, whose executables have no QEMU to resolve the symbols that it uses.
#![deny(unsafe_code)]

mod decode;
mod record;

#[cfg(not(test))]
#[allow(unsafe_code)]
mod ffi;
