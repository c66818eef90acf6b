// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask selftest`: the kernel's own test programs on the unpatched kernel, in radix and in a mode of our
//! image, compared case by case: radix with the unpatched kernel, the mode with radix. Only a difference is a
//! failure: what fails in both is not the page tables' fault. Our own programs (`fpt/`) must pass everywhere.
//!
//! Two guests run at a time, each with 2 CPUs, on a host of 2: nearly all programs keep one CPU busy,
//! so the pair takes hardly longer than one, while threads still meet on two CPUs. What then
//! differs is run again with one guest at a time, so that timing noise is not mistaken for a finding.

use super::list::{self, Program};
use super::suite::Suite;
use fpt_geometry::Boot;
use fpt_kbuild::build::{Kernel, Profile};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts;
use fpt_lab::plan::{build_parts, Plan};
use fpt_lab::sanitize::{self, Sanitize, Watched};
use fpt_lab::subject::{self, Kernels, OtherKernel, Subject};
use fpt_verdict::remarks::{print_failures, print_remarks};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu;

/// Run the kernel selftests and compare them with radix.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Compare these modes, separated by commas, with radix, and radix with the unpatched kernel
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::BootParser)]
    mode: Vec<Boot>,
    /// Without --mode: run the programs on this kernel and on no other
    #[arg(long, value_enum, value_name = "KERNEL", conflicts_with_all = ["profile", "same_image"])]
    kernel: Option<OtherKernel>,
    /// Compare with radix of the same image only, and build no second kernel; so it is with every profile but fpt
    #[arg(long)]
    same_image: bool,
    /// Only programs whose name contains this (may be given several times)
    #[arg(long)]
    filter: Vec<String>,
    /// Run each program so many times and compare the sets of outcomes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print the programs and stop
    #[arg(long)]
    list: bool,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    smp: u32,
    /// Memory of each guest
    #[arg(long, default_value = "4G")]
    mem: String,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    /// Let this share of order-9 allocations fail at random all the time, so that tables of every shape
    /// mix; PERCENT is 50 if it is left out
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "50", value_parser = clap::value_parser!(u32).range(1..=100))]
    mixed: Option<u32>,
    // No doc comment: rustdoc would take the brackets for links.
    #[arg(long, value_name = "tlb", help = sanitize::HELP)]
    sanitize: Option<Sanitize>,
    /// Multiply the programs' time limits: for slow kernels (debug, kasan) and busy hosts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    patience: u64,
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let all = list::programs(&ctx.root.join("selftests/list.toml"))?;
    let mut programs = list::select(all, &args.filter)?;
    for program in &mut programs {
        program.timeout_s = program.timeout_s.saturating_mul(args.patience);
    }
    if args.list {
        for p in &programs {
            say!("\n", "{}  ({} s at most)", p.name, p.timeout_s);
        }
        return Ok(code::OK);
    }
    // A mode takes the unpatched kernel along anyway.
    let alone = args.kernel.filter(|_| args.mode.is_empty());
    let subjects = Subject::asked_for(args.profile, &args.mode, alone)?;
    if subjects.is_empty() {
        return Err(Fail::usage(
            "no mode",
            "the tests compare a mode with radix, and radix with the unpatched kernel",
            "name it with --mode, or run --kernel unpatched alone",
        ));
    }
    if subjects == [Subject::Unpatched] {
        programs = for_unpatched(programs)?;
    }
    qemu::check_size(&args.mem)?;
    let plan = Plan {
        smp: args.smp,
        mem: args.mem.clone(),
        append: args.append.clone(),
        repeat: args.repeat as usize,
        mixed: args.mixed,
        sanitize: Watched::new(ctx, args.sanitize.as_ref(), &args.mem)?,
    };
    let (kernel, unpatched) = kernels(ctx, &args, &subjects)?;
    let parts = build_parts(ctx, kernel, &list::targets(&programs))?;
    let kernels = Kernels {
        ours: &parts.kernel,
        unpatched: unpatched.as_ref(),
    };
    if ctx.dry_run {
        for one in kernels.with_references(&subjects) {
            ctx.ui.command(
                &plan
                    .spec_of(&parts, kernels.of(one)?, one)
                    .command(&parts.qemu, &std::env::temp_dir().join("fpt")),
            );
        }
        return Ok(code::OK);
    }
    ctx.ui.info(&subject::described(
        &kernels.with_references(&subjects),
        &args.append,
    ));
    let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
    let run = RunDir::new(ctx, "selftest")?;
    parts.record(&run);
    if let Some(kernel) = &unpatched {
        run.set("kernel_unpatched", parts::kernel_facts(kernel));
    }
    let names: Vec<&str> = subjects.iter().map(|s| s.name()).collect();
    run.set("mode", names.join(","));
    if let Some(percent) = args.mixed {
        run.set("mixed_percent", percent);
    }
    rundir::recorded(&run, || {
        let suite = Suite {
            ctx,
            run: &run,
            parts: &parts,
            kernels,
            plan: &plan,
            programs: &programs,
            allow: &allow,
            all_modes: false,
        };
        let mut report = suite.compare(&subjects)?;
        report.cases.extend(plan.sanitizer_cases(&run));
        run.results(&report)?;
        print_failures(ctx, &report);
        print_remarks(ctx, &report);
        Ok(report.conclude())
    })
}

/// The programs that the unpatched kernel can run.
fn for_unpatched(programs: Vec<Program>) -> Result<Vec<Program>> {
    let (there, left): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|p| p.unpatched);
    match (there.is_empty(), left.first()) {
        (true, Some(p)) => Err(Fail::usage(
            format!("{} does not run on the unpatched kernel", p.name),
            &p.reason,
            "choose others with --filter",
        )),
        _ => Ok(there),
    }
}

/// The image, and the unpatched kernel if it takes part.
fn kernels(ctx: &Ctx, args: &Args, subjects: &[Subject]) -> Result<(Kernel, Option<Kernel>)> {
    if subjects == [Subject::Unpatched] {
        let kernel = parts::unpatched(ctx)?;
        return Ok((kernel.clone(), Some(kernel)));
    }
    let ours = parts::kernel(ctx, args.profile)?;
    if args.profile != Profile::Fpt {
        ctx.ui.info(&format!(
            "compared with radix of the same image only: profile {} is not configured as the unpatched kernel is",
            args.profile.name()
        ));
        return Ok((ours, None));
    }
    let unpatched = if args.same_image {
        None
    } else {
        Some(parts::unpatched(ctx)?)
    };
    Ok((ours, unpatched))
}
