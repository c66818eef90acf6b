// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: what is missing is installed; with `--all`, what the other commands use is built, too.

use fpt_kbuild::build::{self, Profile, Targets};
use fpt_kbuild::doctor::{self, SetupArgs};
use fpt_kbuild::image;
use fpt_kit::{code, Ctx, ExitCode, Result};

use super::{parts, sanitize};

/// Runs the command.
///
/// # Errors
///
/// Something cannot be installed, fetched or built.
pub fn setup(ctx: &Ctx, args: SetupArgs) -> Result<ExitCode> {
    let all = args.all();
    let installed = doctor::setup(ctx, args)?;
    if all && installed == code::OK {
        build_all(ctx)?;
    }
    Ok(installed)
}

/// What is there already is not built again.
fn build_all(ctx: &Ctx) -> Result<()> {
    ctx.ui.info(&format!(
        "now two kernels, QEMU, selftests, the guest's init, plugins and workloads: from nothing {}, and the time to fetch the sources",
        build::everything().about(ctx)
    ));
    let qemu = build::qemu(ctx)?;
    build::busybox(ctx)?;
    parts::init(ctx)?;
    build::kernel(ctx, Profile::Fpt)?;
    build::kcount(ctx, &qemu)?;
    build::plugin(ctx, "build the simulator", "walksim")?;
    sanitize::plugin(ctx)?;
    image::programs(ctx)?;
    build::kernel(ctx, Profile::Unpatched)?;
    build::kselftests(ctx, &Targets::all())?;
    Ok(())
}
