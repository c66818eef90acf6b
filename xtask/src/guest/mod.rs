// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: booting a kernel in QEMU, running commands and tests in it.

pub mod agree;
pub mod console;
pub mod elf;
pub mod fuzz;
pub mod gdb;
pub mod initramfs;
pub mod kcount;
pub mod list;
pub mod parts;
pub mod plan;
pub mod qemu;
pub mod ran;
pub mod remarks;
pub mod results;
pub mod run;
pub mod rundir;
pub mod sanitize;
pub mod selftest;
pub mod stress;
pub mod subject;
pub mod suite;
pub mod tap;
pub mod test;
pub mod tty;
pub mod verdict;
pub mod vm;
pub mod walk;
