// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a kernel in QEMU: the command line, the root file system, the console, and the channel to init.

mod channels;
pub mod console;
pub mod elf;
pub mod initramfs;
mod monitor;
pub mod qemu;
pub mod tables;
pub mod tty;
pub mod vm;
