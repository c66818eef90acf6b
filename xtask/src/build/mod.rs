// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds: each returns at once when nothing that it depends on has changed.

use std::path::PathBuf;

use crate::api::{Ctx, Fail, Result};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The patched tree with all modes built in.
    Fpt,
    /// The distribution's tree as it is.
    Unpatched,
    /// The patched tree with CONFIG_X86_FPT=n.
    OptionOff,
    /// The patched tree with lockdep, DEBUG_VM and page-table checks.
    Debug,
    /// The patched tree with KASAN.
    Kasan,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fpt => "fpt",
            Profile::Unpatched => "unpatched",
            Profile::OptionOff => "option-off",
            Profile::Debug => "debug",
            Profile::Kasan => "kasan",
        }
    }
}

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Uncompressed image with a PVH entry, for QEMU's -kernel.
    pub vmlinux: PathBuf,
    pub build_dir: PathBuf,
    pub src_dir: PathBuf,
    /// As `uname -r` says it.
    pub version: String,
    /// Hash of everything it was built from.
    pub hash: String,
}

/// A built QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    pub bin: PathBuf,
    /// For -L.
    pub datadir: PathBuf,
    /// Holds qemu-plugin.h.
    pub include: PathBuf,
    pub version: String,
    pub hash: String,
}

fn not_yet<T>() -> Result<T> {
    Err(Fail::infra("not built yet", "", ""))
}

pub fn kernel(_ctx: &Ctx, _profile: Profile) -> Result<Kernel> {
    not_yet()
}

pub fn qemu(_ctx: &Ctx) -> Result<Qemu> {
    not_yet()
}

/// The built selftests of the kernel's tree: one folder with mm, mincore, proc and fpt.
pub fn kselftests(_ctx: &Ctx, _kernel: &Kernel) -> Result<PathBuf> {
    not_yet()
}

/// The distribution's static busybox.
pub fn busybox(_ctx: &Ctx) -> Result<PathBuf> {
    not_yet()
}

/// The distribution's own qemu-system-x86_64.
pub fn stock_qemu(_ctx: &Ctx) -> Result<PathBuf> {
    not_yet()
}

/// The instruction-counting plugin (a shared object).
pub fn kcount(_ctx: &Ctx, _qemu: &Qemu) -> Result<PathBuf> {
    not_yet()
}

#[derive(clap::Args, Debug)]
pub struct QemuArgs {}

#[derive(clap::Args, Debug)]
pub struct KernelArgs {}

pub fn qemu_main(_ctx: &Ctx, _args: QemuArgs) -> Result<i32> {
    not_yet()
}

pub fn kernel_main(_ctx: &Ctx, _args: KernelArgs) -> Result<i32> {
    not_yet()
}
