// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: booting a kernel in QEMU, running commands and tests in it.

pub mod gdb;
pub mod kcount;
pub mod run;
pub mod selftest;
pub mod test;
pub mod walk;
