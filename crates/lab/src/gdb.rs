// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask gdb`: the guest waits at its first instruction for gdb, which has the kernel's symbols.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use fpt_init::proto::{Ev, Exec};

use super::parts::{self, Parts};
use fpt_geometry::Mode;
use fpt_kbuild::build::{Profile, GDB_SCRIPT};
use fpt_kbuild::modes;
use fpt_kit::{code, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::{self, Spec};
use fpt_vm::vm::Guest;

/// Boot a kernel and attach gdb.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Shape of user page tables: one mode
    #[arg(long, alias = "modes", value_name = "M", value_delimiter = ',', required = true, value_parser = modes::Parser)]
    mode: Vec<Mode>,
    /// Which kernel: only profile gdb has lines and types
    #[arg(long, value_enum, default_value_t = Profile::Gdb)]
    profile: Profile,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    smp: u32,
    /// Memory of the guest
    #[arg(long, default_value = "1G")]
    mem: String,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    /// Command for gdb after it has connected (may be given several times)
    #[arg(short = 'x', long = "execute", value_name = "GDB-COMMAND")]
    execute: Vec<String>,
    /// Leave gdb after these commands
    #[arg(long)]
    batch: bool,
    /// Run this in the guest once it is up
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs the command; its exit code is gdb's.
///
/// # Errors
///
/// A bad option, or a build that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let mode = modes::one(&args.mode)?;
    args.profile.check_mode(mode)?;
    qemu::check_size(&args.mem)?;
    if !Cmd::new("gdb").arg("--version").succeeds() {
        return Err(Fail::infra(
            "gdb does not run",
            "it is not installed",
            "install it: apt-get install gdb",
        ));
    }
    let kernel = parts::kernel(ctx, args.profile)?;
    let qemu = parts::qemu(ctx, false)?;
    let image = parts::image(ctx, |_| Ok(()))?;
    let port = free_port()?;
    let spec = Spec {
        mode: Some(mode.into()),
        smp: args.smp,
        mem: args.mem.clone(),
        append: args.append.clone(),
        gdb: Some(port),
        ..Spec::new(&kernel.vmlinux, &image.path)
    };
    let kept = kernel.vmlinux.parent().unwrap_or(Path::new("/"));
    let mut gdb = Cmd::new("gdb").arg("-q");
    if args.batch {
        gdb = gdb.arg("-batch");
    }
    gdb = gdb
        .args(["-iex", "set pagination off", "-iex"])
        .arg(format!("set auto-load safe-path {}", kept.display()));
    // gdb loads what lies beside it by itself.
    gdb = gdb.arg(&kernel.vmlinux);
    let helpers = kept.join(GDB_SCRIPT);
    gdb = gdb
        .arg("-ex")
        .arg(format!("target remote 127.0.0.1:{port}"));
    for command in &args.execute {
        gdb = gdb.arg("-ex").arg(command);
    }
    if ctx.dry_run {
        ctx.ui
            .command(&spec.command(&qemu, &std::env::temp_dir().join("fpt")));
        ctx.ui.command(&gdb);
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "gdb")?;
    let parts = Parts {
        kernel,
        qemu,
        image,
    };
    parts.record(&run);
    rundir::recorded(&run, || {
        if !helpers.exists() {
            ctx.ui.info("no lx- commands: only profile gdb has them");
        }
        ctx.ui.info(&format!(
            "the guest's console: {}",
            run.path.join("console.log").display()
        ));
        let mut guest = Guest::start(ctx, &run, &parts.qemu, &spec, "")?;
        let debugger = std::thread::spawn(move || gdb.run_foreground());
        while !debugger.is_finished() {
            match guest.poll(Duration::from_millis(100)) {
                Ok(Some(Ev::Ready { .. })) if !args.command.is_empty() => {
                    let id = guest.new_id();
                    guest.start_exec(Exec {
                        id,
                        argv: args.command.clone(),
                        ..Exec::default()
                    })?;
                }
                Ok(_) => {}
                // gdb may end the guest, and it may crash under it: the person in front of gdb sees that.
                Err(_) => break,
            }
        }
        let status = debugger
            .join()
            .map_err(|_| Fail::infra("gdb was lost", "its thread ended", ""))??;
        Ok(status.code().map_or(code::INFRA, ExitCode::Theirs))
    })
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port for gdb")?;
    Ok(listener
        .local_addr()
        .context("cannot find a free port for gdb")?
        .port())
}
