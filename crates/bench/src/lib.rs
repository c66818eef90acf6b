// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: every workload in every mode, each in a guest of its own under the simulator.
//! What comes out and what it means: docs/explanation/evaluation.md.

pub mod catalogue;
mod cell;
mod parts;
pub mod plan;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use anyhow::Context as _;

use catalogue::Workload;
use fpt_formats::cell::{self as schema, Cell};
use fpt_formats::matrix::{self, base, Old, Scale, Settings, Thp};
use fpt_geometry::{Boot, Mode};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, fail, hash, store, ui, Ctx, ExitCode, Fail, Result};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::tables;
use parts::BenchParts;
use plan::{Host, Need};

pub use cell::check_thp;

/// Measure every workload in every mode under the simulator.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Modes, separated by commas; mixed may be one [default: radix,l4l3,l3l2,l4l3-l2l1]
    #[arg(long = "mode", alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::BootParser)]
    pub modes: Vec<Boot>,
    /// Workloads, comma-separated [default: all of workloads/workloads.toml that are not extra]
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// How big [default: small; with --resume as the matrix was made, and so on]
    #[arg(long, value_enum)]
    pub scale: Option<Scale>,
    /// Hardware that is modelled: emt or server [default: emt]
    #[arg(long)]
    pub preset: Option<String>,
    /// Changes to the preset, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Change one value of the preset, e.g. tlb.stlb.small.entries=2048 (may be given several times)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Transparent huge pages of the guest [default: never]
    #[arg(long, value_enum)]
    pub thp: Option<Thp>,
    /// Virtual CPUs: with 1 the clock of the guest counts instructions, and runs nearly repeat [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2))]
    pub vcpus: Option<u32>,
    /// Runs of each cell, each with the guest's memory in another order; figures are means, with the range [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_RUNS))]
    pub repeat: Option<u32>,
    /// Compute ideal, radix and ECPT in every mode, not only on radix's accesses: guests take longer
    #[arg(long)]
    pub all_organisations: bool,
    /// A file of edges that graph workloads read instead of generating a graph; runs only those
    #[arg(long, value_name = "FILE")]
    pub edges: Option<PathBuf>,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Go on with a matrix that was interrupted: what is finished and unchanged is kept
    #[arg(long)]
    pub resume: bool,
    /// Name of the matrix [default: date and scale; with --resume the newest]
    #[arg(long)]
    pub name: Option<String>,
    /// Multiply the workloads' time limits: for a host that is slow or busy
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub patience: u64,
}

impl Args {
    /// As typed without an option, but for these.
    pub fn of(scale: Scale, workloads: &[&str]) -> Args {
        Args {
            modes: Vec::new(),
            workloads: workloads.iter().map(|w| w.to_string()).collect(),
            scale: Some(scale),
            preset: None,
            config: None,
            set: Vec::new(),
            thp: None,
            vcpus: None,
            repeat: None,
            all_organisations: false,
            edges: None,
            // Where stack and mappings lie is drawn anew in each guest. Of small page-walk caches that is
            // a few percent of all reads, more than what modes of a server differ by.
            append: vec!["norandmaps".into()],
            resume: false,
            name: None,
            // Tests run on hosts that do other things, too.
            patience: 5,
        }
    }
}

/// A kernel with less than 512 MiB, its own part not counted, has no transparent huge pages.
const THP_MIB: u64 = 768;

/// Where a guest finds the file of edges. It is the only disk: programs of images read none.
const EDGES_DISK: &str = "/dev/vda";
/// Guest memory with a file of edges: so much, and so many times the file.
const EDGES_MIB: u64 = 512;
const EDGES_MEMORY: u64 = 14;

const MOST_RUNS: i64 = 99;
/// The simulator's configuration in other modes than radix, if it is another.
const CONFIG_OF_OTHERS: &str = "config-others.toml";

/// Guests at a time, unless `--guests` says otherwise.
const JOBS: usize = 2;

/// One cell that is to be run.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The program.
    pub workload: Workload,
    /// How much it works.
    pub size: catalogue::Size,
    /// What the guest's kernel is booted with.
    pub mode: Boot,
    /// The number of the run, from 1. All modes of a run have the same seed.
    pub run: u32,
    /// Hash of everything that the result depends on.
    pub hash: String,
}

impl Planned {
    /// The name of the cell.
    pub fn name(&self) -> String {
        schema::name(&self.workload.name, self.mode, self.run)
    }

    fn need(&self) -> Need {
        Need {
            name: self.name(),
            memory_mib: self.size.memory_mib,
            seconds: self.size.expect_s,
        }
    }
}

/// Names of cells without figures, and why.
pub type Failed = Vec<(String, schema::Failure)>;

/// What a finished matrix says: text for a terminal, and the same as JSON. The crate that knows lies above this one.
pub type InShort = fn(&Path) -> Result<(String, serde_json::Value)>;

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args, in_short: InShort) -> Result<ExitCode> {
    let jobs = ctx.guests_or(JOBS);
    let folder = if ctx.dry_run {
        base(ctx).join("dry-run")
    } else {
        folder(ctx, &args)?
    };
    let old = if args.resume {
        Old::load(&folder)?
    } else {
        None
    };
    let (settings, workloads, modes) = settle(ctx, &args, old.as_ref())?;
    let has_cells = std::fs::read_dir(folder.join("cells")).is_ok_and(|mut d| d.next().is_some());
    if has_cells && !args.resume && !ctx.dry_run {
        return Err(Fail::usage(
            format!("{} has results already", folder.display()),
            "another matrix would replace them",
            "add --resume to go on with it, or choose another --name",
        ));
    }
    // What cannot fit is refused before minutes of building.
    let rough: Vec<Need> = (1..=settings.repeat)
        .flat_map(|run| workloads.iter().map(move |w| (run, w)))
        .flat_map(|(run, w)| modes.iter().map(move |m| (run, w, *m)))
        .filter_map(|(run, w, m)| {
            Some(Need {
                name: schema::name(&w.name, m, run),
                memory_mib: w.scale.get(&settings.scale)?.memory_mib,
                seconds: w.scale.get(&settings.scale)?.expect_s,
            })
        })
        .collect();
    let mut images = parts::images_to_make(ctx, &workloads, settings.scale);
    images.extend(parts::edges_to_copy(ctx, &settings)?);
    plan::fit(&rough, &images, jobs, host(ctx, &base(ctx))?)?;

    let parts = parts::build(ctx, &workloads, &settings)?;
    let bench = Bench {
        ctx,
        args: &args,
        settings: &settings,
        parts: &parts,
        folder: &folder,
        jobs,
        newest: true,
    };
    let planned = bench.cells(&workloads, &modes)?;
    if ctx.dry_run {
        for cell in &planned {
            let config = bench.config_file(cell.mode);
            let spec = bench.spec(cell, &config, &folder.join("out.json"));
            ctx.ui
                .command(&spec.command(&parts.guest.qemu, &std::env::temp_dir().join("fpt")));
        }
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "bench")?;
    parts.guest.record(&run);
    run.set("bench", folder.display().to_string());
    rundir::recorded(&run, || {
        let total = planned.len();
        let failed = bench.matrix(&run, planned)?;
        // Cells that all failed leave nothing to show, and why they did is said below.
        let (text, means) = if failed.len() < total {
            in_short(&folder)?
        } else {
            Default::default()
        };
        if !text.is_empty() {
            say!("\n", "{text}");
        }
        say!("\n", "{}", folder.display());
        let result = serde_json::json!({
            "folder": folder.display().to_string(), "cells": total, "failed": failed.len(), "means": means,
        });
        store::write_atomic(&run.path.join("bench.json"), result.to_string().as_bytes())?;
        if failed.is_empty() {
            return Ok(code::OK);
        }
        let names: Vec<&str> = failed.iter().map(|f| f.0.as_str()).collect();
        Err(Fail::test(
            format!("{} of {total} cells failed", failed.len()),
            names.join(", "),
            "why is above and in their files; the others are kept, and --resume runs only these again",
        ))
    })
}

/// The matrix of `args` into `folder`, as a part of another command: names of the planned cells, and
/// what failed.
pub fn within(
    ctx: &Ctx,
    run: &RunDir,
    args: &Args,
    folder: &Path,
) -> Result<(Vec<String>, Failed)> {
    let (settings, workloads, modes) = settle(ctx, args, None)?;
    let parts = parts::build(ctx, &workloads, &settings)?;
    let bench = Bench {
        ctx,
        args,
        settings: &settings,
        parts: &parts,
        folder,
        jobs: JOBS,
        newest: false,
    };
    let planned = bench.cells(&workloads, &modes)?;
    let names = planned.iter().map(Planned::name).collect();
    Ok((names, bench.matrix(run, planned)?))
}

/// Options, workloads and modes of this call.
fn settle(
    ctx: &Ctx,
    args: &Args,
    old: Option<&Old>,
) -> Result<(Settings, Vec<Workload>, Vec<Boot>)> {
    let modes = chosen_modes(args, old);
    let mut settings = settings::resolve(args, old)?;
    let workloads = chosen(ctx, args, &settings, old)?;
    let names = workloads.iter().map(|w| w.name.clone()).collect();
    settings.asked(old, &modes, names);
    Ok((settings, workloads, modes))
}

fn chosen(ctx: &Ctx, args: &Args, settings: &Settings, old: Option<&Old>) -> Result<Vec<Workload>> {
    let mut all = catalogue::load(&ctx.root)?;
    let wanted = match (args.workloads.as_slice(), old) {
        ([], Some(old)) => &old.settings.workloads,
        (given, _) => given,
    };
    if let Some(edges) = &settings.edges {
        let reads = |name: &String| all.iter().any(|w| w.name == *name && !w.edges);
        if let Some(other) = wanted.iter().find(|w| reads(w)) {
            return Err(Fail::usage(
                format!("workload '{other}' reads no edges"),
                format!("--edges {} was given", edges.file.display()),
                "name graph workloads, or leave --workloads out to run them all",
            ));
        }
        all.retain(|w| w.edges);
        let mib = edges.file.metadata().map_or(0, |m| m.len() >> 20);
        for size in all.iter_mut().flat_map(|w| w.scale.values_mut()) {
            size.argv.truncate(1);
            size.argv.extend(["--edges", EDGES_DISK].map(String::from));
            size.memory_mib = size.memory_mib.max(EDGES_MIB + mib * EDGES_MEMORY);
        }
    }
    let mut workloads = catalogue::select(all, wanted, settings.scale)?;
    if settings.thp != Thp::Never {
        for size in workloads.iter_mut().flat_map(|w| w.scale.values_mut()) {
            size.memory_mib = size.memory_mib.max(THP_MIB);
        }
    }
    Ok(workloads)
}

fn chosen_modes(args: &Args, old: Option<&Old>) -> Vec<Boot> {
    match (args.modes.as_slice(), old) {
        ([], Some(old)) if !old.settings.modes.is_empty() => old.settings.modes.clone(),
        ([], _) => Mode::ALL.map(Boot::from).to_vec(),
        (asked, _) => modes::each_once(asked),
    }
}

/// The folder of this matrix, new or, with `--resume`, an old one.
fn folder(ctx: &Ctx, args: &Args) -> Result<PathBuf> {
    let base = base(ctx);
    let name = match (&args.name, args.resume) {
        (Some(name), _) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(Fail::usage(
                    format!("'{name}' is no name for a matrix"),
                    "it becomes the name of a folder",
                    "use letters, digits, -, _ and dots",
                ));
            }
            if args.resume && !base.join(name).is_dir() {
                return Err(Fail::usage(
                    format!("there is no matrix '{name}' to resume"),
                    format!("{} does not exist", base.join(name).display()),
                    known_matrices(&base, name),
                ));
            }
            name.clone()
        }
        (None, true) => {
            let latest = base.join("latest");
            match std::fs::read_link(&latest) {
                Ok(to) => to.to_string_lossy().into_owned(),
                Err(_) => {
                    return Err(Fail::usage(
                        "there is no matrix to resume",
                        format!("{} does not exist", latest.display()),
                        "run it without --resume",
                    ))
                }
            }
        }
        (None, false) => {
            let scale = args.scale.unwrap_or(Scale::Small);
            let stem = format!("{}-{}", rundir::utc(SystemTime::now()), scale.name());
            let mut name = stem.clone();
            let mut n = 1;
            while base.join(&name).exists() {
                n += 1;
                name = format!("{stem}.{n}");
            }
            name
        }
    };
    Ok(base.join(&name))
}

/// What else could have been meant by the name of a matrix.
fn known_matrices(base: &Path, word: &str) -> String {
    let mut names: Vec<String> = std::fs::read_dir(base)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n != "latest" && n != "dry-run")
        .collect();
    names.sort();
    match fail::did_you_mean(word, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None if names.is_empty() => "run it without --resume".to_string(),
        None => format!("there are: {}", names.join(", ")),
    }
}

/// Memory of this machine that programs can get now.
pub fn memory_free_mib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|w| w.parse::<u64>().ok())
        .context("/proc/meminfo does not say what memory is available")?;
    Ok(kib / 1024)
}

/// What is free now: memory that programs can get, and disk below `dir` (its nearest parent that exists)
/// and below the cache, where guest images are.
fn host(ctx: &Ctx, dir: &Path) -> Result<Host> {
    Ok(Host {
        memory_mib: memory_free_mib()?,
        disk_mib: disk_free_mib(dir)?,
        cache_mib: if same_disk(dir, &ctx.cache) {
            None
        } else {
            Some(disk_free_mib(&ctx.cache)?)
        },
    })
}

fn there(dir: &Path) -> &Path {
    dir.ancestors()
        .find(|d| d.exists())
        .unwrap_or(Path::new("/"))
}

fn same_disk(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| there(p).metadata().map(|m| m.dev()).ok();
    device(a) == device(b)
}

pub(crate) fn disk_free_mib(dir: &Path) -> Result<u64> {
    let there = there(dir);
    let stat = rustix::fs::statvfs(there)
        .with_context(|| format!("cannot see how much disk {} has", there.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

pub(crate) struct Bench<'a> {
    ctx: &'a Ctx,
    args: &'a Args,
    settings: &'a Settings,
    parts: &'a BenchParts,
    folder: &'a Path,
    jobs: usize,
    /// Is it what `report` and `--resume` take without a name?
    newest: bool,
}

/// What stays the same while cells are worked off.
struct Frame {
    /// Cells of the matrix.
    total: usize,
    /// Those that an earlier run finished.
    kept: usize,
    /// Memory of the host for all guests together.
    budget_mib: u64,
}

struct Queue {
    todo: Vec<Planned>,
    running: Vec<(String, u64, u64, Instant)>,
    /// Estimate and time of each finished cell.
    done: Vec<(u64, f64)>,
    failed: Failed,
    /// What ended the matrix as a whole.
    stop: Option<anyhow::Error>,
}

impl Queue {
    fn left(&self, jobs: usize) -> u64 {
        let running: Vec<(u64, f64)> = self
            .running
            .iter()
            .map(|(_, _, expect, since)| (*expect, since.elapsed().as_secs_f64()))
            .collect();
        let todo: Vec<u64> = self.todo.iter().map(|c| c.size.expect_s).collect();
        plan::left(&self.done, &running, &todo, jobs)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Bench<'_> {
    /// Each cell once, then each cell again: a matrix that is interrupted is whole as early as can be.
    fn cells(&self, workloads: &[Workload], modes: &[Boot]) -> Result<Vec<Planned>> {
        let mut out = Vec::new();
        for run in 1..=self.settings.repeat {
            for workload in workloads {
                let Some(size) = workload.scale.get(&self.settings.scale) else {
                    continue;
                };
                for mode in modes {
                    let mut cell = Planned {
                        workload: workload.clone(),
                        size: size.clone(),
                        mode: *mode,
                        run,
                        hash: String::new(),
                    };
                    cell.hash = self.hash(&cell);
                    out.push(cell);
                }
            }
        }
        Ok(out)
    }

    /// Only radix's accesses are worth a computation of what other tables would do.
    fn config(&self, mode: Boot) -> &str {
        match &self.parts.config_of_others {
            Some(text) if mode != Boot::RADIX => text,
            _ => &self.settings.config,
        }
    }

    fn config_file(&self, mode: Boot) -> PathBuf {
        self.folder.join(match &self.parts.config_of_others {
            Some(_) if mode != Boot::RADIX => CONFIG_OF_OTHERS,
            _ => matrix::CONFIG,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join("cells").join(format!("{name}.json"))
    }

    fn is_done(&self, cell: &Planned) -> bool {
        let Ok(text) = std::fs::read_to_string(self.file(&cell.name())) else {
            return false;
        };
        serde_json::from_str::<Cell>(&text).is_ok_and(|old| {
            old.schema == schema::SCHEMA && old.hash == cell.hash && old.figures().is_some()
        })
    }

    /// Runs what is to be run; the cells that failed, and why.
    fn matrix(&self, run: &RunDir, planned: Vec<Planned>) -> Result<Failed> {
        let total = planned.len();
        let todo: Vec<Planned> = if self.args.resume {
            planned.into_iter().filter(|c| !self.is_done(c)).collect()
        } else {
            planned
        };
        let kept = total - todo.len();
        if kept > 0 {
            self.ctx.ui.info(&format!(
                "{kept} of {total} cells are finished and unchanged"
            ));
        }
        let needs: Vec<Need> = todo.iter().map(Planned::need).collect();
        let host = host(self.ctx, self.folder)?;
        // Images are there by now.
        let cost = plan::fit(&needs, &[], self.jobs, host)?;
        if !todo.is_empty() {
            self.ctx.ui.info(&format!(
                "{}; free: {} of memory, {} of disk",
                cost.line(todo.len()),
                plan::size(host.memory_mib),
                plan::size(host.disk_mib)
            ));
        }
        self.ctx.ui.info(&tables::all_described(
            &self.settings.modes,
            &self.settings.append,
        ));
        store::make_dir(&self.folder.join("cells"))?;
        self.settings.write(self.folder)?;
        if let Some(text) = &self.parts.config_of_others {
            store::write_atomic(&self.folder.join(CONFIG_OF_OTHERS), text.as_bytes())?;
        }
        if self.newest {
            // Before the first cell: an interrupted matrix is the newest, too.
            link_latest(self.folder)?;
        }
        let start = Instant::now();
        let failed = self.run_all(run, todo, total, kept, host.budget_mib())?;
        let names: Vec<&str> = failed.iter().map(|f| f.0.as_str()).collect();
        run.set("failed_cells", serde_json::json!(names));
        self.ctx.ui.info(&format!(
            "{} of {total} cells have results ({})",
            total - failed.len(),
            ui::elapsed(start.elapsed())
        ));
        Ok(failed)
    }

    /// Runs the cells, some at a time; those that failed, and why.
    fn run_all(
        &self,
        run: &RunDir,
        todo: Vec<Planned>,
        total: usize,
        kept: usize,
        budget_mib: u64,
    ) -> Result<Failed> {
        let queue = Mutex::new(Queue {
            todo,
            running: Vec::new(),
            done: Vec::new(),
            failed: Vec::new(),
            stop: None,
        });
        let changed = Condvar::new();
        let frame = Frame {
            total,
            kept,
            budget_mib,
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| self.worker(run, &queue, &changed, &frame));
            }
        });
        let queue = queue.into_inner().unwrap_or_else(|e| e.into_inner());
        match queue.stop {
            Some(err) => Err(err),
            None => Ok(queue.failed),
        }
    }

    fn worker(&self, run: &RunDir, queue: &Mutex<Queue>, changed: &Condvar, frame: &Frame) {
        let Frame {
            total,
            kept,
            budget_mib,
        } = *frame;
        loop {
            let mut state = locked(queue);
            let cell = loop {
                if state.stop.is_some() || state.todo.is_empty() {
                    return;
                }
                let used = state.running.iter().map(|r| r.1).sum();
                let idle = state.running.is_empty();
                match plan::next(&state.todo, used, budget_mib, idle, |c| c.need().host_mib()) {
                    Some(at) => break state.todo.remove(at),
                    None => state = changed.wait(state).unwrap_or_else(|e| e.into_inner()),
                }
            };
            let started = Instant::now();
            let name = cell.name();
            state.running.push((
                name.clone(),
                cell.need().host_mib(),
                cell.size.expect_s,
                started,
            ));
            let number = kept + state.done.len() + state.running.len();
            drop(state);
            let which = match cell.run {
                1 => String::new(),
                n => format!(" run {n}"),
            };
            let stage = self.ctx.ui.stage(&format!(
                "[{number}/{total}] {} {}{which}",
                cell.workload.name, cell.mode
            ));
            let result = self.one(run, &cell, &stage).and_then(|made| {
                let text = serde_json::to_string_pretty(&made).context("cannot encode a result")?;
                store::write_atomic(&self.file(&name), format!("{text}\n").as_bytes())?;
                Ok(made)
            });
            let mut state = locked(queue);
            state.running.retain(|r| r.0 != name);
            state
                .done
                .push((cell.size.expect_s, started.elapsed().as_secs_f64()));
            match result {
                Ok(made) => match made.error {
                    None => {
                        let left = state.left(self.jobs);
                        stage.done(&if left > 0 {
                            let left = std::time::Duration::from_secs(left);
                            format!("about {} left", ui::elapsed(left))
                        } else {
                            String::new()
                        });
                    }
                    Some(failure) => {
                        stage.failed("");
                        self.ctx.ui.error(&format!("{name}: {}", failure.line));
                        state.failed.push((name, failure));
                    }
                },
                Err(err) => {
                    stage.failed("");
                    state.stop.get_or_insert(err);
                }
            }
            changed.notify_all();
        }
    }

    /// One cell. An error here ends the matrix; what ends only the cell is in the result.
    fn one(&self, run: &RunDir, cell: &Planned, stage: &fpt_kit::Stage) -> Result<Cell> {
        let mut made = self.blank(cell);
        let start = Instant::now();
        let result = cell::run(self, run, cell, stage, &mut made);
        made.seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        if let Err(err) = result {
            let (line, code) = fail::report(&err);
            let full = err.chain().any(|e| {
                e.downcast_ref::<std::io::Error>()
                    .is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
            });
            if full || disk_free_mib(self.folder).is_ok_and(|mib| mib == 0) {
                // The next cell would fail in the same way.
                return Err(if full {
                    err
                } else {
                    anyhow::Error::new(std::io::Error::from(std::io::ErrorKind::StorageFull))
                        .context(format!("cannot keep the result of {}", cell.name()))
                });
            }
            made.error = Some(schema::Failure {
                code: code.number(),
                line,
            });
        }
        Ok(made)
    }

    /// QEMU's command line, the kernel's within it, without what only this host's folders decide.
    fn machine(&self, cell: &Planned) -> String {
        let nowhere = Path::new("x");
        let mut spec = self.spec(cell, nowhere, nowhere);
        spec.kernel = nowhere.into();
        spec.initrd = nowhere.into();
        spec.plugin = None;
        spec.drives.fill(nowhere.into());
        let mut qemu = self.parts.guest.qemu.clone();
        qemu.bin = nowhere.into();
        qemu.datadir = None;
        spec.command(&qemu, nowhere).quoted()
    }

    /// Of everything that a cell's figures depend on.
    fn hash(&self, cell: &Planned) -> String {
        let mut inputs = hash::Inputs::new();
        inputs
            .text("schema", schema::SCHEMA)
            .text("kernel", &self.parts.guest.kernel.hash)
            .text("qemu", &self.parts.guest.qemu.hash)
            .text("initramfs", &self.parts.guest.image.hash)
            .text("plugin", &self.parts.plugin_hash)
            .text("config", self.config(cell.mode))
            .text(
                "edges",
                self.settings.edges.as_ref().map_or("", |e| &e.sha256),
            )
            .text("image", &self.parts.image_hash(&cell.workload.name))
            .text("workload", &cell.workload.name)
            .text("argv", &cell.size.argv.join("\n"))
            .text("machine", &self.machine(cell));
        inputs.finish()
    }
}

fn link_latest(folder: &Path) -> Result<()> {
    let (Some(base), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Ok(());
    };
    let link = base.join(format!(".latest-{}", std::process::id()));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(name, &link)
        .and_then(|()| std::fs::rename(&link, base.join("latest")))
        .with_context(|| format!("cannot write {}", base.join("latest").display()))
}
