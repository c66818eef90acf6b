// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a kernel in QEMU: the command line, the root file system, the console, and the channel to init.

pub mod console;
pub mod elf;
pub mod initramfs;
pub mod qemu;
pub mod tty;
pub mod vm;
