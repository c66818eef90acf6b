// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds: each returns at once when nothing that it depends on has changed.

mod arch;
pub mod artefact;
mod compare;
mod config;
mod each;
mod gdb;
pub mod hot;
mod kernel;
mod objfile;
mod plugin;
mod qemu;
mod selftests;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::doctor;
use crate::toolchain::find_program;
use fpt_geometry::{Boot, Mode};
use fpt_kit::{Cmd, Ctx, Fail, Result, Work};

pub use crate::toolchain::{Compiler, Toolchain};
pub use arch::archs;
pub use compare::compare_off;
pub use each::each;
pub use gdb::SCRIPT as GDB_SCRIPT;
pub use kernel::{kernel, kernel_with, main as kernel_main, objects, KernelArgs};
pub use plugin::{plugin, sweep};
pub use qemu::{main as qemu_main, qemu, QemuArgs};
pub use selftests::{kselftests, Targets};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The patched tree with all modes built in
    Fpt,
    /// The distribution's tree as it is
    Unpatched,
    /// The patched tree with CONFIG_X86_FPT=n
    OptionOff,
    /// The patched tree with lockdep, DEBUG_VM and page-table checks
    Debug,
    /// The patched tree with KASAN
    Kasan,
    /// fpt, and marks that tell `--sanitize tlb` of frees
    Tlbsan,
    /// unpatched, and the same marks
    UnpatchedTlbsan,
    /// tlbsan, and mistakes that the command line puts in
    Mutants,
    /// fpt, preemptible (PREEMPT, PREEMPT_DYNAMIC)
    Preempt,
    /// fpt with PREEMPT_RT, and so without transparent huge pages
    Rt,
    /// fpt with NUMA balancing, the multi-generational LRU and DAMON
    Numa,
    /// fpt with what gdb wants: lines, types, the commands that begin with lx-
    Gdb,
}

impl Profile {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fpt => "fpt",
            Profile::Unpatched => "unpatched",
            Profile::OptionOff => "option-off",
            Profile::Debug => "debug",
            Profile::Kasan => "kasan",
            Profile::Tlbsan => "tlbsan",
            Profile::UnpatchedTlbsan => "unpatched-tlbsan",
            Profile::Mutants => "mutants",
            Profile::Preempt => "preempt",
            Profile::Rt => "rt",
            Profile::Numa => "numa",
            Profile::Gdb => "gdb",
        }
    }

    /// Is its tree the queue's, or the distribution's?
    pub fn has_queue(self) -> bool {
        match self {
            Profile::Unpatched | Profile::UnpatchedTlbsan => false,
            Profile::Fpt | Profile::OptionOff | Profile::Debug | Profile::Gdb => true,
            Profile::Kasan | Profile::Tlbsan | Profile::Mutants => true,
            Profile::Preempt | Profile::Rt | Profile::Numa => true,
        }
    }

    /// Patches that only this profile has, in `linux-patches/extra`.
    pub fn extra(self) -> &'static [&'static str] {
        match self {
            Profile::UnpatchedTlbsan => MARKS.split_at(1).0,
            Profile::Tlbsan => &MARKS,
            Profile::Mutants => &MUTANTS,
            Profile::Fpt | Profile::Unpatched | Profile::OptionOff => &[],
            Profile::Debug | Profile::Kasan | Profile::Gdb => &[],
            Profile::Preempt | Profile::Rt | Profile::Numa => &[],
        }
    }

    /// Refuses a mode with nodes for a kernel that is built without them.
    pub fn check_mode(self, mode: impl Into<Boot>) -> Result<()> {
        let mode = mode.into();
        let has_fpt = self.has_queue() && self != Profile::OptionOff;
        if has_fpt || mode == Mode::Radix.into() {
            return Ok(());
        }
        Err(Fail::usage(
            format!("profile {} has no mode {mode}", self.name()),
            "it is built without FPT",
            "use --mode radix, or another profile",
        ))
    }
}

/// Marks for the sanitizer; the first one fits the distribution's tree, too.
const MARKS: [&str; 2] = [
    "0001-mm-marks-for-an-emulator-that-watches-TLBs.patch",
    "0002-x86-mm-marks-where-a-pool-gets-flattened-nodes.patch",
];

/// Marks, and mistakes.
const MUTANTS: [&str; 4] = [
    MARKS[0],
    MARKS[1],
    "0003-mm-flushes-that-can-be-left-out.patch",
    "0004-mm-tables-that-can-be-got-wrong.patch",
];

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Uncompressed image with a PVH entry, for QEMU's -kernel.
    pub vmlinux: PathBuf,
    /// The folder with its object files.
    pub build_dir: PathBuf,
    /// The patched tree that it was built from.
    pub src_dir: PathBuf,
    /// The release, as `uname -r` says it.
    pub version: String,
    /// Hash of everything it was built from.
    pub hash: String,
}

/// A built QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The file.
    pub bin: PathBuf,
    /// The folder of QEMU's own files, for its option -L.
    pub datadir: PathBuf,
    /// Holds qemu-plugin.h.
    pub include: PathBuf,
    /// QEMU's release.
    pub version: String,
    /// Hash of everything that it was built from.
    pub hash: String,
}

/// The distribution's static busybox.
pub fn busybox(ctx: &Ctx) -> Result<PathBuf> {
    system_program(ctx, "busybox", doctor::For::Guest)
}

/// The distribution's own qemu-system-x86_64.
pub fn stock_qemu(ctx: &Ctx) -> Result<PathBuf> {
    system_program(ctx, "qemu-system-x86_64", doctor::For::StockQemu)
}

fn system_program(ctx: &Ctx, name: &str, for_: doctor::For) -> Result<PathBuf> {
    // What else the command needs may be for a build, and perhaps nothing has to be built.
    if let Some(path) = find_program(name) {
        return Ok(path);
    }
    doctor::require(ctx, for_)?;
    if ctx.dry_run {
        Ok(PathBuf::from(name))
    } else {
        Err(Fail::infra(
            format!("{name} is missing"),
            "",
            "run `cargo xtask setup`",
        ))
    }
}

/// Plugin interface that the counting plugin is written for.
const PLUGIN_API: u32 = 4;

/// The instruction-counting plugin (a shared object), for a QEMU that can load it.
pub fn kcount(ctx: &Ctx, qemu: &Qemu) -> Result<PathBuf> {
    if !ctx.dry_run {
        let header = qemu.include.join("qemu-plugin.h");
        let text = std::fs::read_to_string(&header)
            .with_context(|| format!("cannot read {}", header.display()))?;
        let version = text
            .lines()
            .find_map(|l| l.strip_prefix("#define QEMU_PLUGIN_VERSION "))
            .and_then(|v| v.trim().parse::<u32>().ok());
        if version.is_none_or(|v| v < PLUGIN_API) {
            return Err(Fail::infra(
                "this QEMU cannot load the counting plugin",
                format!(
                    "{} has another plugin interface than {PLUGIN_API}",
                    header.display()
                ),
                "build QEMU 9.2 or newer",
            ));
        }
    }
    let target = cargo(
        ctx,
        "build the counting plugin",
        &["build", "--release", "-p", "fpt-kcount"],
        &[],
    )?;
    Ok(target.join("release/libfpt_kcount.so"))
}

/// The CPU time of [`Profile::Fpt`] and [`Profile::Unpatched`], QEMU, all selftests, the plugins and the workloads, from nothing.
pub fn everything() -> Work {
    let programs = [plugin::WORK, crate::image::programs::WORK];
    let kernels = [kernel::WORK, kernel::WORK, qemu::WORK];
    let all = kernels.into_iter().chain(programs);
    all.chain([Targets::all().work()]).sum()
}

/// Where cargo builds what is for the host.
fn cargo_target(ctx: &Ctx) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| ctx.root.join("target"), PathBuf::from)
}

/// Run cargo on this workspace with the toolchain that runs us; the target folder.
pub fn cargo(ctx: &Ctx, title: &str, args: &[&str], env: &[(&str, &Path)]) -> Result<PathBuf> {
    let target = cargo_target(ctx);
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cmd = Cmd::new(program)
        .args(args)
        .arg("--manifest-path")
        .arg(ctx.root.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TERM_COLOR", "never");
    for (name, value) in env {
        cmd = cmd.env(name, value);
    }
    let stage = ctx.ui.stage(title);
    ctx.step(&stage, &ctx.log_dir().join("cargo.log"), &cmd)?;
    stage.done("");
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::Queue;
    use clap::ValueEnum as _;

    #[test]
    fn patches_beside_the_queue() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for profile in Profile::value_variants() {
            let extra = Queue::extra(&root, profile.extra()).unwrap();
            assert_eq!(extra.len(), profile.extra().len());
        }
        // What everybody uses has none, so that its hash stays what it is.
        assert!(Profile::Fpt.extra().is_empty() && Profile::Unpatched.extra().is_empty());
        assert_eq!(Profile::UnpatchedTlbsan.extra(), [MARKS[0]]);
        let dir = root.join("linux-patches/extra");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .expect("the folder")
            .map(|f| f.expect("a file").file_name().into_string().expect("UTF-8"))
            .collect();
        files.sort();
        assert_eq!(files, MUTANTS);
    }

    #[test]
    fn modes_of_profiles() {
        assert!(Profile::Tlbsan.check_mode(Mode::L3L2).is_ok());
        assert!(Profile::UnpatchedTlbsan.check_mode(Mode::L3L2).is_err());
        assert!(Profile::UnpatchedTlbsan.check_mode(Mode::Radix).is_ok());
        assert!(Profile::OptionOff.check_mode(Mode::L4L3).is_err());
    }
}
