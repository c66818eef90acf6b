// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run`: a shell in the guest, or one command with its output and exit code.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fpt_init::proto::{Bytes, Exec, Op, Stream};

use super::parts::{self, Parts};
use super::pieces;
use super::process_mode;
use super::sanitize::{self, Sanitize};
use fpt_geometry::{Boot, Mode};
use fpt_kbuild::build::Profile;
use fpt_kbuild::modes;
use fpt_kit::{code, Ctx, ExitCode, Fail, Result};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::elf;
use fpt_vm::qemu::{self, Share, Spec};
use fpt_vm::tables;
use fpt_vm::tty::RawTerminal;
use fpt_vm::vm::{Guest, Requests};

/// Ctrl-]: ends the session from the keyboard when the guest no longer answers.
const ESCAPE: u8 = 0x1d;

/// Boot a kernel: a shell, or one command.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Shape of user page tables: one mode
    #[arg(long, alias = "modes", value_name = "M", value_delimiter = ',', required_unless_present = "process_mode", value_parser = modes::BootParser)]
    mode: Vec<Boot>,
    /// Boot with --mode mixed, and start CMD (or the shell) in a mode of its own
    #[arg(long, value_name = "M", conflicts_with = "mode", value_parser = modes::Parser)]
    process_mode: Option<Mode>,
    /// Virtual CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    smp: u32,
    /// Memory of the guest
    #[arg(long, default_value = "2G")]
    mem: String,
    /// NUMA nodes, each with its part of the CPUs and of the memory; only profiles numa and debug know of them
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "sanitize", value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    numa_nodes: u32,
    /// Run on the distribution's QEMU, which has no FPT: the kernel then uses radix
    #[arg(long)]
    stock_qemu: bool,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// More words for the kernel's command line (may be given several times)
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    /// Host folder that the guest sees at /host, where it cannot write [default: the current one]
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Let the guest write to /host: its processes are root there
    #[arg(long)]
    rw: bool,
    /// Disk image, /dev/vda on (may be given several times); what the guest writes to it is dropped
    #[arg(long, value_name = "IMAGE")]
    disk: Vec<PathBuf>,
    /// Put the programs of workloads/ into the guest, at /workloads
    #[arg(long)]
    workloads: bool,
    /// Leave PERCENT of the guest's free memory without a block of 2 MiB while CMD runs
    #[arg(long, value_name = "PERCENT", requires = "command", value_parser = clap::value_parser!(u32).range(0..=100))]
    fragment: Option<u32>,
    /// Let the guest's clock advance by one nanosecond an instruction, with this seed for what the guest takes as random; one virtual CPU
    #[arg(long, value_name = "SEED", conflicts_with = "smp")]
    icount: Option<u32>,
    /// Seconds without output after which CMD is given up; 0: never [default: 600]
    #[arg(long)]
    timeout: Option<u64>,
    /// Give CMD a terminal
    #[arg(short, long)]
    tty: bool,
    // No doc comment: rustdoc would take the brackets for links.
    #[arg(long, value_name = "tlb", help = sanitize::HELP)]
    sanitize: Option<Sanitize>,
    /// Run this instead of a shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs the command; its exit code is that of the guest's command.
///
/// # Errors
///
/// A bad option, a build that failed, or a guest that crashed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let mode = match args.process_mode {
        Some(_) => Boot::Mixed,
        None => modes::one(&args.mode)?,
    };
    args.profile.check_mode(mode)?;
    qemu::check_size(&args.mem)?;
    if let Some(sanitize) = &args.sanitize {
        sanitize.check(&args.mem, args.stock_qemu)?;
    }
    let share = match &args.share {
        Some(dir) => dir.clone(),
        None => std::env::current_dir().context("cannot find the current folder")?,
    };
    let share = share
        .canonicalize()
        .ok()
        .filter(|d| d.is_dir())
        .ok_or_else(|| {
            Fail::usage(
                format!("cannot share {}", share.display()),
                "it is no folder",
                "name an existing folder with --share",
            )
        })?;
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(Fail::usage(
            "--tty needs a terminal",
            "standard input is none",
            "leave it out",
        ));
    }
    if let Some(disk) = args.disk.iter().find(|d| !d.is_file()) {
        return Err(Fail::usage(
            format!("no disk image at {}", disk.display()),
            "--disk names it",
            "`cargo xtask build-image PACKAGE...` makes one and prints its path",
        ));
    }
    let smp = if args.icount.is_some() { 1 } else { args.smp };
    if smp % args.numa_nodes != 0 {
        return Err(Fail::usage(
            format!(
                "{smp} CPUs cannot be shared out to {} NUMA nodes",
                args.numa_nodes
            ),
            "each node takes as many as the others",
            "give a multiple with --smp",
        ));
    }
    let kernel = parts::kernel(ctx, args.profile)?;
    let qemu = parts::qemu(ctx, args.stock_qemu)?;
    let programs = if args.workloads {
        fpt_kbuild::image::programs(ctx)?
    } else {
        Vec::new()
    };
    let image = parts::image(ctx, |tree| {
        programs
            .iter()
            .try_for_each(|(name, path)| tree.file(&format!("workloads/{name}"), path))
    })?;
    let plugin = args.sanitize.as_ref().map(|_| sanitize::plugin(ctx));
    let plugin = plugin.transpose()?;
    let mut spec = Spec {
        mode: Some(mode),
        smp,
        mem: args.mem.clone(),
        numa_nodes: args.numa_nodes,
        append: args.append.clone(),
        share: Some(Share {
            dir: share,
            writable: args.rw,
            more: Vec::new(),
        }),
        icount: args.icount,
        drives: args.disk.clone(),
        ..Spec::new(&kernel.vmlinux, &image.path)
    };
    if ctx.dry_run {
        ctx.ui
            .command(&spec.command(&qemu, &std::env::temp_dir().join("fpt")));
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "run")?;
    if let (Some(sanitize), Some(plugin)) = (&args.sanitize, &plugin) {
        sanitize.attach(plugin, &sanitize::result_path(&run), &qemu, &mut spec);
    }
    let parts = Parts {
        kernel,
        qemu,
        image,
    };
    parts.record(&run);
    run.set("mode", mode.name());
    run.set("policy", tables::policy(mode, &args.append));
    if let Some(mode) = args.process_mode {
        run.set("process_mode", mode.name());
    }
    rundir::recorded(&run, || session(ctx, &run, &parts, &spec, &args))
}

fn session(ctx: &Ctx, run: &RunDir, parts: &Parts, spec: &Spec, args: &Args) -> Result<ExitCode> {
    let mut guest = Guest::boot(ctx, run, &parts.qemu, spec, "")?;
    let boot = guest.boot.clone();
    ctx.ui.info(&format!(
        "boot to init: {:.2} s ({}; {})",
        boot.wall.as_secs_f64(),
        boot.uname,
        asked_tables(spec, args)
    ));
    run.set("boot", serde_json::json!({ "seconds": boot.wall.as_secs_f64(), "kernel_ms": boot.kernel_ms, "uname": boot.uname }));
    if !boot.host {
        ctx.ui.warn("the guest could not mount the shared folder: the kernel lacks 9p, or QEMU was built without virtfs");
    }
    let shell = args.command.is_empty();
    let tty =
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && (shell || args.tty);
    let command = if shell {
        vec!["/bin/sh".into(), "-l".into()]
    } else {
        args.command.clone()
    };
    let command = match args.process_mode {
        Some(mode) => process_mode::started(mode, command),
        None => command,
    };
    let mut exec = Exec {
        id: guest.new_id(),
        argv: pieces::started(args.fragment, command),
        env: BTreeMap::new(),
        tty,
        stdin: true,
        ..Exec::default()
    };
    if let (true, Ok(term)) = (tty, std::env::var("TERM")) {
        exec.env.insert("TERM".into(), term);
    }
    let id = exec.id;
    let idle = match (args.timeout, tty) {
        (Some(0), _) | (None, true) => None,
        (Some(s), _) => Some(Duration::from_secs(s)),
        (None, false) => Some(Duration::from_secs(600)),
    };
    let raw = if tty {
        ctx.ui
            .info("Ctrl-] ends the session; `exit` leaves the shell");
        let raw = RawTerminal::enter()?;
        (exec.rows, exec.cols) = raw.size();
        Some(raw)
    } else {
        None
    };
    guest.start_exec(exec)?;
    forward_input(guest.requests(), id, tty);
    let exit = guest.wait_exit(id, idle, None, &mut |stream, data| {
        let written = match stream {
            Stream::Stdout => std::io::stdout()
                .write_all(data)
                .and_then(|()| std::io::stdout().flush()),
            Stream::Stderr => std::io::stderr().write_all(data),
        };
        match written {
            // `run -- CMD | head` is no error of ours.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot pass on the guest's output"),
        }
    });
    drop(raw);
    let exit = exit?;
    guest.quit()?;
    run.set("guest_exit", exit.status());
    let found = match &args.sanitize {
        Some(sanitize) => sanitize.judge(ctx, run)?,
        None => 0,
    };
    if let Some(hint) = hint(spec.share.as_ref(), args, exit.status()) {
        ctx.ui.warn(&hint);
    }
    if let Some(line) = guest.out_of_memory() {
        ctx.ui.warn(&format!(
            "the guest ran out of its {}; --mem gives it more. It said: {line}",
            args.mem
        ));
    }
    let splats = guest.splats(&[]);
    if let Some(splat) = splats.first() {
        // The command's own code stays what it is; a person should still know.
        ctx.ui.warn(&format!(
            "{} kernel warning(s) on the console, the first: {}",
            splats.len(),
            splat.line
        ));
        run.set("splats", serde_json::json!(splats));
    }
    match exit.status() {
        0 if found > 0 => Ok(code::TEST_FAILED),
        status => Ok(ExitCode::Theirs(status)),
    }
}

/// What page tables the guest was asked for.
fn asked_tables(spec: &Spec, args: &Args) -> String {
    let guest = spec.mode.map(|boot| tables::described(boot, &spec.append));
    let process = args.process_mode.map(process_mode::described);
    let told: Vec<String> = guest.into_iter().chain(process).collect();
    told.join(", ")
}

/// Why a program that is there may not have started, or could not write.
fn hint(share: Option<&Share>, args: &Args, status: i32) -> Option<String> {
    /// What a shell says of a program that it cannot start.
    const NOT_FOUND: i32 = 127;
    let program = args.command.first()?;
    let below = std::path::Path::new(program).strip_prefix("/host").ok()?;
    let file = share?.dir.join(below);
    if status != NOT_FOUND || !file.is_file() {
        return None;
    }
    let interp = elf::needs(&file).ok()??.interp?;
    Some(format!(
        "{program} is there, but needs {interp} of the host, which the guest lacks; link it with -static, \
         or put its packages on a disk with `cargo xtask build-image`"
    ))
}

/// Keys, or a file, for the command. The thread ends with the process.
fn forward_input(requests: Requests, id: u64, tty: bool) {
    if tty {
        let requests = requests.clone();
        std::thread::spawn(move || {
            let mut signals =
                match signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH]) {
                    Ok(signals) => signals,
                    Err(_) => return,
                };
            for _ in signals.forever() {
                let (rows, cols) = fpt_vm::tty::size();
                if !requests.send(&Op::Resize { id, rows, cols }) {
                    return;
                }
            }
        });
    }
    std::thread::spawn(move || {
        let mut raw = [0; 16 * 1024];
        loop {
            match std::io::stdin().read(&mut raw) {
                Ok(0) | Err(_) => {
                    requests.send(&Op::Eof { id });
                    return;
                }
                Ok(len) => {
                    if tty && raw[..len].contains(&ESCAPE) {
                        // The hang-up that a closed terminal gives; then whatever is left is killed.
                        requests.send(&Op::Signal { id, signal: 1 });
                        std::thread::sleep(Duration::from_millis(300));
                        requests.send(&Op::Signal { id, signal: 9 });
                        return;
                    }
                    if !requests.send(&Op::In {
                        id,
                        data: Bytes::new(&raw[..len]),
                    }) {
                        return;
                    }
                }
            }
        }
    });
}
