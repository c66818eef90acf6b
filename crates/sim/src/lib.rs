// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask sim`: the user's own program in several modes, each in a guest of its own under the simulator.
//! docs/how-to/simulate-my-program.md shows how it is used.

mod causes;
mod cell;
mod figures;
mod flame;
mod folders;
mod maps;
mod program;
mod symbols;
mod table;
mod walks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;

use cell::Cell;
use folders::Folders;
use fpt_formats::matrix::Thp;
use fpt_geometry::{Boot, Mode};
use fpt_kbuild::build::{self, Profile};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, lanes, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu;
use program::Program;

/// Where the header with the marks is, in a checkout.
const HEADER: &str = "workloads/include/fpt_mark.h";
/// Guests at a time, unless `--guests` says otherwise.
const JOBS: usize = 2;
/// Memory of a guest, unless somebody says another: what it does not touch costs the host nothing.
const USUAL_MIB: u64 = 4096;
/// What a guest needs beside the program.
const BASE_MIB: u64 = 160;
const MOST_RUNS: i64 = 99;
/// The modes, unless somebody names others.
const MODES: [Boot; 2] = [Boot::Mode(Mode::Radix), Boot::Mode(Mode::L4L3L2L1)];

/// Run your own program in several modes under the simulator.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Modes, separated by commas [default: radix and l4l3-l2l1]; changes are against the first
    #[arg(long = "mode", alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::BootParser)]
    pub modes: Vec<Boot>,
    /// Hardware that is modelled: emt or server
    #[arg(long, default_value = "emt")]
    pub preset: String,
    /// Change one value of the preset, e.g. tlb.stlb.small.entries=2048 (may be given several times)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A folder, or a file, that the program finds at its own path, read-only (may be given several times)
    #[arg(long, value_name = "DIR")]
    pub files: Vec<PathBuf>,
    /// Standard input of the program [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub stdin: Option<PathBuf>,
    /// A variable of its environment (may be given several times); it inherits none
    #[arg(long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Memory of the guest [default: 4G, more if the program's own segments need it]
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<String>,
    /// Seconds of the host's clock after which a run is given up; 0: never
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub timeout: u64,
    /// Transparent huge pages of the guest
    #[arg(long, value_enum, default_value_t = Thp::Never)]
    pub thp: Thp,
    /// Leave PERCENT of the guest's free memory without a block of 2 MiB
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub fragment: Option<u32>,
    /// Runs in each mode, each with the guest's memory in another order
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_RUNS))]
    pub repeat: u32,
    /// What is measured: the phases that the program marks, or its whole run
    #[arg(long, value_enum, default_value_t = Phases::Auto)]
    pub phases: Phases,
    /// Print the path of the C header with the marks, and do nothing else
    #[arg(long)]
    pub header: bool,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROG")]
    pub command: Vec<String>,
}

/// What is measured.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// As `own` if the program or a library of it has marks, else as `whole`
    Auto,
    /// The phases that are marked by the program or by one that it starts
    Own,
    /// From the start of the program to the end of the last process that came of it
    Whole,
}

/// Everything that the runs share.
pub(crate) struct Sim<'a> {
    ctx: &'a Ctx,
    args: &'a Args,
    /// Its own results: that of the run.
    folder: PathBuf,
    parts: &'a Parts,
    program: &'a Program,
    folders: &'a Folders,
    plugin: PathBuf,
    config: PathBuf,
    env: BTreeMap<String, String>,
    memory_mib: u64,
    jobs: usize,
}

impl Sim<'_> {
    /// Does the program mark its phases itself?
    fn own_marks(&self) -> bool {
        match self.args.phases {
            Phases::Auto => self.program.marked,
            Phases::Own => true,
            Phases::Whole => false,
        }
    }
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    if args.header {
        fpt_kit::ui::path(&ctx.root.join(HEADER));
        return Ok(code::OK);
    }
    let Some(name) = args.command.first() else {
        return Err(Fail::usage(
            "no program was named",
            "sim runs one",
            "for example: sim -- ./prog ARG",
        ));
    };
    let cwd = std::env::current_dir().context("cannot find the current folder")?;
    let env = environment(&args.env)?;
    let config = config(&args)?;
    let library_path = env.get("LD_LIBRARY_PATH").map(String::as_str);
    let program = program::load(name, &cwd, library_path)?;
    let folders = Folders::new(&cwd, &args.files, args.stdin.as_deref())?;
    let chosen = match args.modes.as_slice() {
        [] => MODES.to_vec(),
        some => modes::each_once(some),
    };
    let work: Vec<(Boot, u32)> = (1..=args.repeat)
        .flat_map(|run| chosen.iter().map(move |m| (*m, run)))
        .collect();
    let jobs = ctx.guests_or(JOBS).min(work.len());
    let memory_mib = memory(&args, &program, jobs)?;

    let kernel = parts::kernel(ctx, Profile::Fpt)?;
    let qemu = parts::qemu(ctx, false)?;
    let plugin = match parts::named("FPT_WALKSIM", "simulator")? {
        Some(path) => path,
        None => build::plugin(ctx, "build the simulator", "walksim")?,
    };
    let image = parts::image(ctx, |tree| folders.ship(&program, tree))?;
    let parts = Parts {
        kernel,
        qemu,
        image,
    };
    let run = if ctx.dry_run {
        None
    } else {
        Some(RunDir::new(ctx, "sim")?)
    };
    let folder = match &run {
        Some(run) => run.path.clone(),
        None => ctx.root.join("target/fpt/runs/dry-run"),
    };
    let sim = Sim {
        ctx,
        args: &args,
        parts: &parts,
        program: &program,
        folders: &folders,
        plugin,
        config: folder.join("config.toml"),
        folder,
        env,
        memory_mib,
        jobs,
    };
    let Some(run) = run else {
        for (mode, run) in work {
            let spec = sim.spec(mode, run);
            ctx.ui
                .command(&spec.command(&parts.qemu, &std::env::temp_dir().join("fpt")));
        }
        return Ok(code::OK);
    };
    store::write_atomic(&sim.config, config.as_bytes())?;
    parts.record(&run);
    run.set("program", program.path.display().to_string());
    rundir::recorded(&run, || {
        say_what(&sim);
        let cells = run_all(&sim, &run, &work)?;
        finish(&sim, &chosen, &cells)
    })
}

/// What will be measured, for the person.
fn say_what(sim: &Sim) {
    let program = sim.program;
    let kind = match (program.is_dynamic(), program.library_count()) {
        (false, _) => "static".to_string(),
        (true, n) => format!("dynamic, with its loader and {n} libraries"),
    };
    let what = if sim.own_marks() {
        "the phases that it marks are measured"
    } else {
        "its whole run is measured"
    };
    sim.ctx.ui.info(&format!(
        "{}: {kind}; {what}; {} of memory",
        program.path.display(),
        fpt_bench::plan::size(sim.memory_mib)
    ));
}

fn environment(words: &[String]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for word in words {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() && !word.contains('\0') => {
                out.insert(key.to_string(), value.to_string());
            }
            _ => {
                return Err(Fail::usage(
                    format!("--env {word} sets nothing"),
                    "it takes NAME=VALUE",
                    "for example --env OMP_NUM_THREADS=1",
                ))
            }
        }
    }
    Ok(out)
}

/// The simulator's configuration: of the tables that the guest has, unless other organisations are asked for.
fn config(args: &Args) -> Result<String> {
    let mut sets = vec![("organisations".to_string(), "['real']".to_string())];
    for set in &args.set {
        let Some((key, value)) = set.split_once('=') else {
            return Err(Fail::usage(
                format!("--set {set} sets nothing"),
                "there is no = in it",
                "for example --set cycles.memory=200",
            ));
        };
        sets.push((key.trim().to_string(), value.trim().to_string()));
    }
    let config = fpt_walksim_machine::config::resolve(&args.preset, None, &sets).map_err(|e| {
        Fail::usage(
            "the simulator's configuration is not right",
            e.to_string(),
            "",
        )
    })?;
    if !config.organisations.iter().any(|o| o == figures::REAL) {
        return Err(Fail::usage(
            "the simulator's configuration is not right",
            "organisations lacks 'real', the tables that the guest has",
            "add it",
        ));
    }
    Ok(config.to_toml())
}

/// Memory of each guest, in MiB.
fn memory(args: &Args, program: &Program, jobs: usize) -> Result<u64> {
    let own = (program.memory >> 20) + BASE_MIB;
    let free = fpt_bench::memory_free_mib()?;
    let Some(text) = &args.mem else {
        let most = free * 3 / 4 / jobs as u64;
        if own > most {
            return Err(Fail::infra(
                format!("{} needs {own} MiB", program.path.display()),
                format!("this machine can give {most} MiB to each of {jobs} guests"),
                "run it on a larger machine, or with --guests 1",
            ));
        }
        return Ok(USUAL_MIB.max(own * 3 / 2).min(most));
    };
    qemu::check_size(text)?;
    let mib = qemu::mebibytes(text).unwrap_or(0);
    if own > mib {
        return Err(Fail::usage(
            format!(
                "{} needs more memory than --mem {text}",
                program.path.display()
            ),
            format!("its own segments and the guest's system take {own} MiB"),
            format!("give it more, e.g. --mem {}M", own * 3 / 2),
        ));
    }
    if mib * jobs as u64 > free {
        return Err(Fail::infra(
            format!("{jobs} guests of --mem {text} do not fit"),
            format!("{free} MiB of this machine's memory are free"),
            "give less, or take --guests 1",
        ));
    }
    Ok(mib)
}

/// The runs, some at a time, in their order. The first error ends all.
fn run_all(sim: &Sim, run: &RunDir, work: &[(Boot, u32)]) -> Result<Vec<Cell>> {
    lanes::try_each(sim.jobs, work, |(mode, number)| {
        cell::run(sim, run, *mode, *number)
    })
}

/// Says what came out, and how the program ended.
fn finish(sim: &Sim, modes: &[Boot], cells: &[Cell]) -> Result<ExitCode> {
    if let Some(first) = cells.first() {
        first.replay(sim);
    }
    let lists = walks::attribute(sim, modes, cells)?;
    let causes = walks::text(modes, &lists);
    let result = figures::Result::new(modes, cells, lists);
    let text = serde_json::to_string_pretty(&result).context("cannot encode the result")?;
    store::write_atomic(&sim.folder.join("sim.json"), format!("{text}\n").as_bytes())?;
    say!("", "{}{causes}", table::text(&result));
    say!("\n", "results and flame graphs: {}", sim.folder.display());
    for line in notes(sim, cells) {
        sim.ctx.ui.warn(&line);
    }
    ended(cells)
}

/// What a reader of the figures should know.
fn notes(sim: &Sim, cells: &[Cell]) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(cell) = cells.iter().find(|c| c.out_of_memory) {
        out.push(format!(
            "the guest of {} ran out of memory and its kernel killed a process: give it more than {} with --mem",
            cell.name(),
            fpt_bench::plan::size(sim.memory_mib)
        ));
    }
    if cells.iter().any(|c| c.output_cut) {
        out.push(format!(
            "the program wrote more than {} MiB; what came after them was dropped",
            cell::MOST_OUTPUT >> 20
        ));
    }
    let first = cells.first().map(|c| &c.output);
    if let Some(other) = cells.iter().find(|c| Some(&c.output) != first) {
        out.push(format!(
            "its output in {} is another than in the first run: the runs may not have done the same work",
            other.name()
        ));
    }
    for cell in cells {
        if let Some(line) = &cell.splat {
            out.push(format!("the kernel warned in {}: {line}", cell.name()));
        }
    }
    out
}

/// The exit code: the program's, if it is the same in every run.
fn ended(cells: &[Cell]) -> Result<ExitCode> {
    let Some(first) = cells.first() else {
        return Ok(code::OK);
    };
    match cells
        .iter()
        .find(|c| c.exit.status() != first.exit.status())
    {
        None => {
            let status = first.exit.status();
            if first.exit.signal != 0 {
                return Err(Fail::new(
                    ExitCode::Theirs(status),
                    format!("the program was ended by {}", signal(first.exit.signal)),
                    "it was so in every run",
                    "the figures hold for what it did until then",
                )
                .into());
            }
            Ok(ExitCode::Theirs(status))
        }
        Some(other) => Err(Fail::test(
            "the program did not end the same way in every run",
            format!(
                "{}: {}, {}: {}",
                first.name(),
                how(first),
                other.name(),
                how(other)
            ),
            "its output in each is in the run folder",
        )),
    }
}

fn how(cell: &Cell) -> String {
    match cell.exit.signal {
        0 => format!("exit code {}", cell.exit.code),
        n => signal(n),
    }
}

/// A signal by number and name.
pub(crate) fn signal(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        n => return format!("signal {n}"),
    };
    format!("signal {number} ({name})")
}
