// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask sweep`: the model alone over footprints that no guest here could have. Computed tables, synthetic streams.

mod figure;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use fpt_walksim_machine::config::{self, Config};
use fpt_walksim_machine::report::{Organisation, Phase, WASTED_CYCLES};
use fpt_walksim_machine::run::{Pattern, Run};
use serde::{Deserialize, Serialize};

use crate::{export, lines, svg, text};
use fpt_geometry::Mode;
use fpt_kbuild::build;
use fpt_kit::fail::did_you_mean;
use fpt_kit::say;
use fpt_kit::{code, store, Ctx, ExitCode, Fail, Result};
use fpt_verdict::rundir;

/// Name and version of the format.
pub const SCHEMA: &str = "fpt-sweep/1";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SMALLEST: u64 = 64 * MIB;
const LARGEST: u64 = 128 * GIB;
/// Powers of two, and what lies between them where curves bend.
const SIZES: [u64; 15] = [
    64 * MIB,
    128 * MIB,
    256 * MIB,
    512 * MIB,
    GIB,
    2 * GIB,
    4 * GIB,
    6 * GIB,
    8 * GIB,
    12 * GIB,
    16 * GIB,
    24 * GIB,
    32 * GIB,
    64 * GIB,
    128 * GIB,
];

/// The model alone over footprints up to 128 GiB, without guests.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modelled hardware [default: all presets]
    #[arg(long, value_name = "PRESET", value_delimiter = ',')]
    preset: Vec<String>,
    /// gups, rmat, zipf, sequential [default: all]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pattern: Vec<String>,
    /// Smallest footprint, in MiB
    #[arg(long, value_name = "MIB", default_value_t = SMALLEST / MIB)]
    from: u64,
    /// Largest footprint, in MiB
    #[arg(long, value_name = "MIB", default_value_t = LARGEST / MIB)]
    to: u64,
    /// Accesses of a point that are measured; as many warm up
    #[arg(long, value_name = "N", default_value_t = 400_000,
          value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    accesses: u64,
    /// Where to write [default: target/fpt/sweep]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One organisation at one point: a line of `sweep.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The name of the order of accesses.
    pub pattern: String,
    /// The preset of the machine.
    pub preset: String,
    /// Memory that the accesses go to, in MiB.
    pub footprint_mib: u64,
    /// A mode, or `ecpt`.
    pub tables: String,
    /// Data accesses that were measured.
    pub accesses: u64,
    /// Page walks among them.
    pub walks: u64,
    /// Entries read per walk.
    pub reads_per_walk: f64,
    /// Of the reads, those that memory answered.
    pub reads_from_memory: f64,
    /// With wasted probes charged, where there are any.
    pub cycles_per_walk: f64,
    /// The same with wasted probes for nothing.
    pub cycles_per_walk_low: f64,
    /// Against radix, where walks happen.
    pub change: Option<f64>,
    /// The same of `cycles_per_walk_low`.
    pub change_low: Option<f64>,
}

/// A run and its machine.
struct Job {
    machine: Config,
    run: Run,
}

impl Job {
    /// The organisations of the machine are those that differ in this mode: what others would do on the same accesses is
    /// computed once.
    fn new(machine: &Config, run: Run) -> Job {
        let organisations: &[&str] = match run.mode {
            Mode::Radix => &["real", "ecpt"],
            _ => &["real"],
        };
        Job {
            machine: Config {
                organisations: organisations.iter().map(|o| (*o).to_owned()).collect(),
                ..machine.clone()
            },
            run,
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// A name that is not known, or a file that cannot be written.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let machines = machines(&args.preset)?;
    let patterns = patterns(&args.pattern)?;
    let sizes: Vec<u64> = (SIZES.into_iter())
        .filter(|s| (args.from..=args.to).contains(&(s / MIB)))
        .collect();
    if sizes.is_empty() {
        return Err(Fail::usage(
            format!("no footprint between {} and {} MiB", args.from, args.to),
            format!(
                "there are: {}",
                SIZES.map(|s| (s / MIB).to_string()).join(", ")
            ),
            "choose --from and --to around one of them",
        ));
    }
    let out = args
        .out
        .unwrap_or_else(|| ctx.root.join("target/fpt/sweep"));
    let program = build::sweep(ctx)?;
    if ctx.dry_run {
        say!(
            "\n",
            "{} points, to {}",
            machines.len() * patterns.len() * sizes.len(),
            out.display()
        );
        return Ok(code::OK);
    }
    let mut jobs = Vec::new();
    for machine in &machines {
        for pattern in &patterns {
            for footprint in &sizes {
                for mode in Mode::ALL {
                    let run = Run {
                        mode,
                        pattern: *pattern,
                        footprint: *footprint,
                        accesses: args.accesses,
                        seed: 1,
                    };
                    jobs.push(Job::new(machine, run));
                }
            }
        }
    }
    let began = Instant::now();
    let stage = ctx
        .ui
        .stage(&format!("sweep: {} runs of the model", jobs.len()));
    let phases = model::run(&program, &jobs, ctx.jobs, |done| {
        stage.line(&format!("{done} of {}", jobs.len()));
    })?;
    let points = points(&jobs, &phases);
    stage.done(&format!("in {:.0} s", began.elapsed().as_secs_f64()));
    write(&out, &points, &rundir::reproducer())?;
    say!("\n", "{}", table(&points));
    say!("\n", "{}", out.join("sweep.csv").display());
    Ok(code::OK)
}

/// Presets with every organisation that a sweep shows. Radix's own counterfactual is `real` there.
fn machines(names: &[String]) -> Result<Vec<Config>> {
    let names: Vec<String> = match names {
        [] => config::presets().map(str::to_owned).collect(),
        some => some.to_vec(),
    };
    (names.iter())
        .map(|name| {
            config::resolve(name, None, &[]).map_err(|e| {
                Fail::usage(
                    e.to_string(),
                    "it names no modelled hardware",
                    "see docs/explanation/walksim.md",
                )
            })
        })
        .collect()
}

fn patterns(names: &[String]) -> Result<Vec<Pattern>> {
    if names.is_empty() {
        return Ok(Pattern::ALL.to_vec());
    }
    let one = |word: &String| {
        let found = Pattern::ALL.into_iter().find(|p| p.name() == word);
        found.ok_or_else(|| {
            let all = Pattern::ALL.map(Pattern::name);
            let hint = match did_you_mean(word, all) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("there are: {}", all.join(", ")),
            };
            Fail::usage(format!("unknown pattern '{word}'"), "", hint)
        })
    };
    names.iter().map(one).collect()
}

/// What `phases`, the figures of each of `jobs`, say.
fn points(jobs: &[Job], phases: &[Phase]) -> Vec<Point> {
    let mut points: Vec<Point> = (jobs.iter().zip(phases))
        .flat_map(|(job, phase)| point(job, phase))
        .collect();
    against_radix(&mut points);
    points
}

fn point(job: &Job, phase: &Phase) -> Vec<Point> {
    let one = |o: &Organisation| {
        let walks = o.walks as f64;
        let per = |n: f64| if walks > 0.0 { n / walks } else { 0.0 };
        let wasted = o.details.get(WASTED_CYCLES).copied().unwrap_or(0) as f64;
        let charged = job.machine.ecpt.charge_wasted;
        let (low, high) = if charged {
            (o.walk_cycles - wasted, o.walk_cycles)
        } else {
            (o.walk_cycles, o.walk_cycles + wasted)
        };
        Point {
            pattern: job.run.pattern.name().to_owned(),
            preset: job.machine.preset.clone(),
            footprint_mib: job.run.footprint / MIB,
            tables: match o.name.as_str() {
                "real" => job.run.mode.to_string(),
                other => other.to_owned(),
            },
            accesses: job.run.accesses,
            walks: o.walks,
            reads_per_walk: per(o.walk_entry_reads as f64),
            reads_from_memory: match o.walk_entry_reads {
                0 => 0.0,
                n => o.entry_reads_by_cache.memory as f64 / n as f64,
            },
            cycles_per_walk: per(high),
            cycles_per_walk_low: per(low),
            change: None,
            change_low: None,
        }
    };
    phase.organisations.iter().map(one).collect()
}

type Key = (String, String, u64);

fn key(p: &Point) -> Key {
    (p.pattern.clone(), p.preset.clone(), p.footprint_mib)
}

fn against_radix(points: &mut [Point]) {
    let radix: BTreeMap<Key, f64> = (points.iter())
        .filter(|p| p.tables == Mode::Radix.to_string() && p.cycles_per_walk > 0.0)
        .map(|p| (key(p), p.cycles_per_walk))
        .collect();
    for p in points {
        if let Some(base) = radix.get(&key(p)) {
            p.change = Some(p.cycles_per_walk / base - 1.0);
            p.change_low = Some(p.cycles_per_walk_low / base - 1.0);
        }
    }
}

/// CSV, JSON and the pictures.
fn write(out: &Path, points: &[Point], command: &str) -> Result<()> {
    let file = |name: &str, bytes: &[u8]| store::write_atomic(&out.join(name), bytes);
    file("sweep.csv", export::csv(points, SCHEMA)?.as_bytes())?;
    let date = rundir::utc(SystemTime::now());
    let json = serde_json::json!({
        "schema": SCHEMA,
        "command": command,
        "written_utc": date,
        "points": points,
    });
    let text = serde_json::to_string_pretty(&json).context("cannot encode the sweep")?;
    file("sweep.json", format!("{text}\n").as_bytes())?;
    let facts = [
        ("Software", "FPT-Linux".to_string()),
        ("Command", command.to_string()),
        ("Creation Time", date),
    ];
    let mut presets: Vec<&str> = points.iter().map(|p| p.preset.as_str()).collect();
    presets.dedup();
    for preset in presets {
        let some: Vec<&Point> = points.iter().filter(|p| p.preset == preset).collect();
        let machine = config::resolve(preset, None, &[]).ok();
        let chart = figure::chart(preset, &some, machine.as_ref().map(|m| &m.pwc));
        let svg = svg::stamped(&lines::svg(&chart, figure::WIDE), &facts);
        file(&format!("sweep-{preset}.svg"), svg.as_bytes())?;
    }
    Ok(())
}

/// Reads of a sweep's file, as [`write()`] leaves it.
pub fn load(csv: &Path) -> Result<Vec<Point>> {
    let bad = |e: String| {
        Fail::usage(
            format!("{} is no sweep", csv.display()),
            e,
            "make it with `cargo xtask sweep`",
        )
    };
    let mut reader = csv::Reader::from_path(csv).map_err(|e| bad(e.to_string()))?;
    let rows: std::result::Result<Vec<Point>, _> = reader.deserialize().collect();
    rows.map_err(|e| bad(e.to_string()))
}

/// `8 GiB`.
pub fn size(mib: u64) -> String {
    match mib {
        m if m >= 1024 && m % 1024 == 0 => format!("{} GiB", m / 1024),
        m => format!("{m} MiB"),
    }
}

/// For the terminal: changes of walk latency against radix.
fn table(points: &[Point]) -> String {
    let mut out = format!(
        "{:<12}{:<8}{:>9}{:>14}{:>10}{:>10}{:>10}{:>12}{:>20}",
        "pattern",
        "preset",
        "size",
        "reads, radix",
        "cycles",
        Mode::L4L3.name(),
        Mode::L3L2.name(),
        Mode::L4L3L2L1.name(),
        "ecpt, both bounds"
    );
    let percent = |change: Option<f64>| change.map_or("-".into(), |c| text::percent(1.0 + c));
    let mut seen = Vec::new();
    for p in points {
        if seen.contains(&key(p)) {
            continue;
        }
        seen.push(key(p));
        let of = |tables: &str| {
            points
                .iter()
                .find(|q| key(q) == key(p) && q.tables == tables)
        };
        let change = |tables: &str| of(tables).map_or("-".into(), |q| percent(q.change));
        let radix = of(Mode::Radix.name());
        let ecpt = of("ecpt").map_or("-".into(), |e| {
            format!("{} to {}", percent(e.change_low), percent(e.change))
        });
        out.push_str(&format!(
            "\n{:<12}{:<8}{:>9}{:>14.3}{:>10.1}{:>10}{:>10}{:>12}{:>20}",
            p.pattern,
            p.preset,
            size(p.footprint_mib),
            radix.map_or(0.0, |r| r.reads_per_walk),
            radix.map_or(0.0, |r| r.cycles_per_walk),
            change(Mode::L4L3.name()),
            change(Mode::L3L2.name()),
            change(Mode::L4L3L2L1.name()),
            ecpt
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An organisation whose 100 walks read two entries each and took so many cycles.
    fn organisation(name: &str, cycles: f64, wasted: u64) -> Organisation {
        Organisation {
            name: name.to_owned(),
            walks: 100,
            walk_entry_reads: 200,
            walk_cycles: cycles,
            details: [(WASTED_CYCLES.to_owned(), wasted)].into(),
            ..Organisation::default()
        }
    }

    #[test]
    fn points_of_phases() {
        let machine = config::resolve("emt", None, &[]).unwrap();
        let run = |mode| Run {
            mode,
            pattern: Pattern::Gups,
            footprint: 256 * MIB,
            accesses: 300_000,
            seed: 1,
        };
        let jobs: Vec<Job> = (Mode::ALL.into_iter())
            .map(|mode| Job::new(&machine, run(mode)))
            .collect();
        let cycles = |mode| match mode {
            Mode::Radix => 6000.0,
            _ => 4500.0,
        };
        let phases: Vec<Phase> = (jobs.iter())
            .map(|job| Phase {
                organisations: (job.machine.organisations.iter())
                    .map(|name| match name.as_str() {
                        "ecpt" => organisation(name, 5000.0, 1000),
                        _ => organisation(name, cycles(job.run.mode), 0),
                    })
                    .collect(),
                ..Phase::default()
            })
            .collect();
        let points = points(&jobs, &phases);
        assert_eq!(points.len(), 5);
        let of = |tables: &str| points.iter().find(|p| p.tables == tables).unwrap();
        let radix = of(Mode::Radix.name());
        assert_eq!((radix.reads_per_walk, radix.cycles_per_walk), (2.0, 60.0));
        assert_eq!(radix.change, Some(0.0));
        assert_eq!(of(Mode::L4L3L2L1.name()).change, Some(-0.25));
        let ecpt = of("ecpt");
        let both = (ecpt.cycles_per_walk_low, ecpt.cycles_per_walk);
        let charged = machine.ecpt.charge_wasted;
        assert_eq!(both, if charged { (40.0, 50.0) } else { (50.0, 60.0) });
        // And it can be read back.
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &points, "a test").unwrap();
        assert_eq!(load(&dir.path().join("sweep.csv")).unwrap(), points);
        let svg = std::fs::read_to_string(dir.path().join("sweep-emt.svg")).unwrap();
        assert!(svg.contains("256 MiB") && svg.contains("Command: a test"));
        assert!(table(&points).contains(Mode::L4L3L2L1.name()));
    }

    #[test]
    fn names_are_checked() {
        let bad = patterns(&["gupps".into()]).unwrap_err().to_string();
        assert!(bad.contains("gupps"), "{bad}");
        assert!(machines(&["emd".into()]).is_err());
        assert_eq!(machines(&[]).unwrap().len(), config::presets().count());
    }
}
