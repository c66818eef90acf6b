// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::api::{code, fail, proc, Ctx, ExitCode, Fail, Result};
use crate::{bench, build, claims, clean, doctor, guest, image, patch, report, sources, sweep};

/// The end of the help.
fn after_help() -> String {
    let codes: String = ExitCode::OURS
        .iter()
        .map(|c| format!("  {:<5}{}\n", c.number(), c.about()))
        .collect();
    format!(
        "Exit codes:\n{codes}  `run -- CMD` passes the exit code of CMD on.\n\n\
         Long output goes to log files in the cache folder ($FPT_CACHE, else\n\
         $XDG_CACHE_HOME/fpt-linux, else ~/.cache/fpt-linux)."
    )
}

#[derive(Parser, Debug)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, runs and tests FPT-Linux",
    version,
    after_help = after_help(),
    propagate_version = true
)]
struct Cli {
    /// Print the commands, shell-quoted, instead of running them
    #[arg(long, global = true)]
    dry_run: bool,
    /// Say more (twice: also the small commands)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Parallel jobs of make, ninja and cargo [default: number of CPUs]
    #[arg(short, long, global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Say what is installed, what is missing and the line that installs it
    Doctor(doctor::DoctorArgs),
    /// Install what is missing
    Setup(doctor::SetupArgs),
    /// Get the sources of the kernel and of QEMU
    Fetch(sources::Args),
    /// Apply, refresh or check the patch queues
    Patch(patch::Args),
    /// Build the patched QEMU
    BuildQemu(build::QemuArgs),
    /// Build a kernel
    BuildKernel(build::KernelArgs),
    /// Build the selftests of the kernel's tree and ours
    BuildSelftests,
    /// Make a disk image with Debian packages for guests, and print its path
    BuildImage {
        /// Debian packages
        #[arg(required = true, value_name = "PACKAGE")]
        packages: Vec<String>,
    },
    /// Boot a kernel: a shell, or one command
    Run(guest::run::Args),
    /// Show which page-table entries hardware visits for an address
    Walk(guest::walk::Args),
    /// Compare four readings of live processes' page tables, in every mode
    Agree(guest::agree::Args),
    /// Run the kernel selftests and compare them with radix
    Selftest(guest::selftest::Args),
    /// Everything at once for minutes in each mode; page tables must all be given back
    Stress(guest::stress::Args),
    /// Random calls against a model that says what memory must hold
    Fuzz(guest::fuzz::Args),
    /// Everything that CI runs
    Test(guest::test::Args),
    /// Boot a kernel and attach gdb
    Gdb(guest::gdb::Args),
    /// Count kernel instructions over marked regions
    Kcount(guest::kcount::Args),
    /// Measure every workload in every mode under the simulator
    Bench(bench::Args),
    /// Draw the figures of a matrix of bench: page, SVG, PNG, CSV, JSON
    Report(report::Args),
    /// Hold what the documents say was measured against the data
    Claims(claims::Args),
    /// The model alone over footprints up to 128 GiB, without guests
    Sweep(sweep::Args),
    /// Remove caches
    Clean(clean::Args),
}

/// Whether the tool takes these words, which are those after its name.
pub fn parse(words: &[String]) -> Result<(), clap::Error> {
    let name = std::iter::once("fpt".to_string());
    Cli::try_parse_from(name.chain(words.iter().cloned())).map(drop)
}

/// Parse, run, report; the process's exit code.
pub fn main() -> i32 {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code.number(),
        Err(err) => {
            let (line, code) = fail::report(&err);
            crate::api::Ui::from_env().error(&line);
            code.number()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    proc::handle_signals()?;
    let mut ctx = Ctx::new(&find_root()?)?;
    ctx.dry_run = cli.dry_run;
    ctx.verbose = cli.verbose;
    if let Some(jobs) = cli.jobs {
        ctx.jobs = usize::from(jobs);
    }
    match cli.command {
        Command::Doctor(args) => doctor::doctor(&ctx, args),
        Command::Setup(args) => doctor::setup(&ctx, args),
        Command::Fetch(args) => sources::main(&ctx, args),
        Command::Patch(args) => patch::main(&ctx, args),
        Command::BuildQemu(args) => build::qemu_main(&ctx, args),
        Command::BuildKernel(args) => build::kernel_main(&ctx, args),
        Command::BuildSelftests => {
            let dir = build::kselftests(&ctx)?;
            if !ctx.dry_run {
                println!("{}", dir.display());
            }
            Ok(code::OK)
        }
        Command::BuildImage { packages } => {
            let path = image::image(&ctx, &packages)?;
            if !ctx.dry_run {
                println!("{}", path.display());
            }
            Ok(code::OK)
        }
        Command::Run(args) => guest::run::main(&ctx, args),
        Command::Walk(args) => guest::walk::main(&ctx, args),
        Command::Agree(args) => guest::agree::main(&ctx, args),
        Command::Selftest(args) => guest::selftest::main(&ctx, args),
        Command::Stress(args) => guest::stress::main(&ctx, args),
        Command::Fuzz(args) => guest::fuzz::main(&ctx, args),
        Command::Test(args) => guest::test::main(&ctx, args),
        Command::Gdb(args) => guest::gdb::main(&ctx, args),
        Command::Kcount(args) => guest::kcount::main(&ctx, args),
        Command::Bench(args) => bench::main(&ctx, args, cli.jobs),
        Command::Report(args) => report::main(&ctx, args),
        Command::Claims(args) => claims::main(&ctx, args),
        Command::Sweep(args) => sweep::main(&ctx, args),
        Command::Clean(args) => clean::main(&ctx, args),
    }
}

/// The checkout: cargo says where the crate is; a copied binary looks upwards from here.
fn find_root() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("FPT_ROOT") {
        return Ok(PathBuf::from(dir));
    }
    let here = std::env::current_dir()?;
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let is_root = |p: &Path| p.join("xtask/Cargo.toml").is_file();
    let starts = from_cargo.as_deref().into_iter().chain([here.as_path()]);
    for dir in starts.flat_map(Path::ancestors) {
        if is_root(dir) {
            return Ok(dir.to_path_buf());
        }
    }
    Err(Fail::usage(
        "not in a checkout of FPT-Linux",
        format!("no parent folder of {} is one", here.display()),
        "change into the checkout",
    ))
}
