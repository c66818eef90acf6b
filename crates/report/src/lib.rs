// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask report`: what a matrix of `bench` says, as a page, pictures, CSV and JSON.

pub mod cells;
mod compare;
mod computed;
mod detail;
pub mod draw;
pub(crate) mod export;
pub mod figure;
pub(crate) mod figures;
mod headline;
mod html;
pub mod lines;
mod markup;
pub mod metrics;
pub(crate) mod published;
pub mod row;
pub mod sensitivity;
mod split;
mod stacked;
pub mod stats;
mod sum;
pub mod svg;
pub mod sweep;
mod terminal;
pub mod text;
pub mod weights;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;

use cells::Matrix;
use fpt_formats::matrix;
use fpt_geometry::Boot;
use fpt_kit::fail::did_you_mean;
use fpt_kit::say;
use fpt_kit::{code, hash, store, ui, Ctx, ExitCode, Fail, Result};
use fpt_verdict::rundir;
use metrics::{Figures, Of, Table};

/// The means of a matrix, as a report leaves them.
const CSV: &str = "report.csv";

/// Widths in pixels: of a picture that stands alone or on a wide page, and on a narrow page.
const WIDE: i32 = 1000;
const NARROW: i32 = 368;

/// Draw the figures of a matrix of bench: page, SVG, CSV, JSON.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A matrix of bench by its name, or a folder with `cells` in it [default: the newest]
    #[arg(value_name = "NAME|DIR")]
    matrix: Option<String>,
    /// Two matrices beside each other; also folders that a report wrote, such as docs/results/small
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "matrix")]
    compare: Vec<String>,
    /// How much each phase counts where both are taken together
    #[arg(long, value_enum, default_value_t, conflicts_with = "compare")]
    weights: weights::Weights,
    /// Where to write [default: folder `report` of the matrix]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// There is no such matrix, a cell is no result of bench, or a file cannot be written.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    if let [a, b] = args.compare.as_slice() {
        let (a, b) = (
            Side::load(&find(ctx, Some(a))?)?,
            Side::load(&find(ctx, Some(b))?)?,
        );
        let name = format!("compare-{}", a.matrix.name);
        // What is in the docs stays as it is.
        let beside = if b.published {
            matrix::base(ctx)
        } else {
            b.dir.clone()
        };
        let out = args.out.unwrap_or_else(|| beside.join(name));
        return compared(ctx, &a, &b, &out);
    }
    let dir = find(ctx, args.matrix.as_deref())?;
    if !dir.join("cells").is_dir() && dir.join(CSV).is_file() {
        return Err(Fail::usage(
            format!("{} has figures and no cells", dir.display()),
            "a page is drawn from cells",
            format!(
                "compare with it: `cargo xtask report --compare {} B`",
                dir.display()
            ),
        ));
    }
    let matrix = Matrix::load(&dir)?;
    let out = args.out.unwrap_or_else(|| dir.join("report"));
    let page = write(ctx, &matrix, &out, args.weights)?;
    let table = Table::weighted(&matrix, args.weights);
    if ui::is_json() {
        ui::json_or_text(&terminal::json(&table, &page));
    } else {
        say!("\n", "{}", terminal::table(&table));
        ui::path(&page);
    }
    Ok(code::OK)
}

/// What a matrix says, for the end of `bench`: the table of a terminal, and the same as JSON.
///
/// # Errors
/// If `dir` has no results.
pub fn in_short(dir: &Path) -> Result<(String, serde_json::Value)> {
    let matrix = Matrix::load(dir)?;
    let table = Table::new(&matrix);
    Ok((terminal::table(&table), terminal::means(&table)))
}

/// One of two matrices that are compared.
struct Side {
    dir: PathBuf,
    /// Its cells; none if only their figures were kept.
    matrix: Matrix,
    figures: Figures,
    /// There is what a report wrote, as in docs/results, and nothing of the cells.
    published: bool,
}

impl Side {
    fn load(dir: &Path) -> Result<Side> {
        let published = !dir.join("cells").is_dir();
        let matrix = if published {
            let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
            Matrix::new(name.unwrap_or_default(), Vec::new())
        } else {
            Matrix::load(dir)?
        };
        let figures = if published {
            Figures::load(dir)?
        } else {
            Table::new(&matrix).figures
        };
        Ok(Side {
            dir: dir.to_path_buf(),
            matrix,
            figures,
            published,
        })
    }
}

/// The folder that a word of the command line means.
fn find(ctx: &Ctx, word: Option<&str>) -> Result<PathBuf> {
    let base = matrix::base(ctx);
    let Some(word) = word else {
        let latest = base.join("latest");
        // A name in the page that still says something tomorrow.
        return latest.canonicalize().map_err(|_| {
            Fail::usage(
                "there is no matrix yet",
                format!("{} does not exist", latest.display()),
                "run `cargo xtask bench`, or name a folder that has results",
            )
        });
    };
    let path = Path::new(word);
    if path.join("cells").is_dir() || path.join(CSV).is_file() {
        return Ok(path.to_path_buf());
    }
    // The docs' own, from any folder.
    let ours = ctx.root.join(path);
    if ours.join(CSV).is_file() {
        return Ok(ours);
    }
    let named = base.join(word);
    let plain = path.components().count() == 1;
    if plain && named.is_dir() {
        return Ok(named);
    }
    let names: Vec<String> = std::fs::read_dir(&base)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    let hint = match did_you_mean(word, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None if names.is_empty() => "run `cargo xtask bench` first".to_string(),
        None => format!("there are: {}", names.join(", ")),
    };
    Err(Fail::usage(
        format!("no matrix '{word}'"),
        format!(
            "neither a folder with cells nor a name in {}",
            base.display()
        ),
        hint,
    ))
}

fn command(ctx: &Ctx) -> String {
    // Paths of this machine say nothing elsewhere.
    rundir::reproducer().replace(&format!("{}/", ctx.root.display()), "")
}

/// What must hold in any sound matrix, whatever the workload: the name of each check, and what was found.
pub fn sane(matrix: &Matrix) -> Vec<(String, Result<String, String>)> {
    let table = Table::new(matrix);
    let mut out = Vec::new();
    for workload in matrix.workloads() {
        let real = table.real(workload, Boot::RADIX, metrics::ALL);
        let made = table.row(workload, Boot::RADIX, metrics::ALL, "radix");
        if let Some((real, made)) = real.zip(made) {
            // The same accesses, the same tables, once read and once computed.
            let close = real.walks == made.walks
                && (made.entry_reads as f64 / real.entry_reads.max(1) as f64 - 1.0).abs() < 0.02;
            let found = format!(
                "{} and {} walks, {} and {} entry reads",
                real.walks, made.walks, real.entry_reads, made.entry_reads
            );
            out.push((
                format!("{workload}: radix computed as read"),
                if close { Ok(found) } else { Err(found) },
            ));
        }
        for mode in matrix.modes().into_iter().filter(|m| *m != Boot::RADIX) {
            let name = format!("{workload}: {mode} reads no more entries per walk than radix");
            let ratio = table.ratio(workload, mode, metrics::ALL, Of::AccessesPerWalk);
            out.push(match ratio {
                // Two guests differ in a few interrupts.
                Some(r) if r <= 1.01 => (name, Ok(text::percent(r))),
                Some(r) => (name, Err(text::percent(r))),
                None => (name, Err("no figure".into())),
            });
        }
    }
    out
}

/// Does a walk of the run phase read at most `limit` of the entries that radix reads there?
pub fn fewer_reads(
    matrix: &Matrix,
    workload: &str,
    mode: impl Into<Boot>,
    limit: f64,
) -> Result<String> {
    let mode = mode.into();
    let ratio = Table::new(matrix).ratio(workload, mode, "run", Of::AccessesPerWalk);
    match ratio {
        Some(r) if r <= limit => Ok(text::percent(r)),
        Some(r) => Err(Fail::test(
            format!("{mode} reads {r:.3} of radix's entries per walk"),
            format!("at most {limit} was expected"),
            "look at entry_reads_by_level in the cells",
        )),
        None => Err(Fail::test("no figure", "a cell has none", "see the cells")),
    }
}

/// The small print of each picture.
fn source(matrix: &Matrix, date: &str) -> String {
    let Some(cell) = matrix.cells.first() else {
        return String::new();
    };
    let p = &cell.provenance;
    // A kernel that was given by file has its version in its name only.
    let release = cell.guest.uname.split_whitespace().nth(1);
    let release = release.unwrap_or(&p.kernel_version);
    let mut text = format!(
        "FPT-Linux, matrix {}: scale {}, preset {}, THP {}, {} virtual CPU(s); kernel {} {}, QEMU {}, simulator {}, configuration {}; {date}. \
         Plain bars: the guest's own tables. Hatched bars: computed for the same accesses.",
        matrix.name,
        cell.scale.name(),
        cell.preset,
        cell.thp.name(),
        cell.vcpus,
        release,
        hash::short(&p.kernel_hash),
        hash::short(&p.qemu_hash),
        hash::short(&p.plugin_hash),
        hash::short(&p.config_hash),
    );
    if !matrix.differences().is_empty() {
        text.push_str(" The cells were not all made alike.");
    }
    text
}

/// What each picture's file says of itself.
fn facts(matrices: &[&Matrix], command: &str, date: &str) -> Vec<(&'static str, String)> {
    let each = |of: &dyn Fn(&Matrix) -> String| {
        let all: Vec<String> = matrices.iter().map(|m| of(m)).collect();
        all.join("; ")
    };
    let bench = |m: &Matrix| {
        let first = m.cells.first();
        first.map_or(String::new(), |c| c.provenance.command.clone())
    };
    vec![
        ("Software", "FPT-Linux".into()),
        (
            "Source",
            each(&|m| format!("matrix {} {}", m.name, m.hash())),
        ),
        ("Command", format!("{}; {command}", each(&bench))),
        ("Creation Time", date.into()),
    ]
}

/// Page, pictures, CSV and JSON of a matrix; the page's path.
pub fn write(ctx: &Ctx, matrix: &Matrix, out: &Path, by: weights::Weights) -> Result<PathBuf> {
    let stage = ctx.ui.stage(&format!("report of {}", matrix.name));
    let table = Table::weighted(matrix, by);
    let (date, command) = (rundir::utc(SystemTime::now()), command(ctx));
    let mut source = source(matrix, &date);
    if by == weights::Weights::Emt {
        source.push_str(" Load and run together: weighted as EMT's scripts do.");
    }
    if matrix.repeat() > 1 {
        source.push_str(&format!(
            " Means of n = {} runs; lines over bars are 95 % t-intervals.",
            matrix.repeat()
        ));
    }
    let facts = facts(&[matrix], &command, &date);
    let mut drawn = Vec::new();
    for figure in figures::all(&table, &source) {
        let mut pictures = Vec::new();
        for (phase, chart) in &figure.charts {
            stage.line(&format!("{} {phase}", figure.id));
            let name = match figure.charts.len() {
                1 => figure.id.to_string(),
                _ => format!("{}-{phase}", figure.id),
            };
            pictures.push(picture(out, &name, phase, chart, &facts)?);
        }
        drawn.push((figure, pictures));
    }
    let write = |name: &str, text: String| store::write_atomic(&out.join(name), text.as_bytes());
    write(CSV, export::csv(&table.rows, export::SCHEMA)?)?;
    if matrix.repeat() > 1 {
        write("runs.csv", export::csv(&table.each, export::SCHEMA)?)?;
    }
    let functions = detail::functions(matrix);
    write("functions.csv", export::csv(&functions, export::SCHEMA)?)?;
    write(
        "tasks.csv",
        export::csv(&detail::tasks(matrix), export::SCHEMA)?,
    )?;
    write("report.json", export::json(&table, &command, &date)?)?;
    // Last: who sees the page finds the rest.
    write("index.html", html::page(&table, &drawn, &command, &date))?;
    stage.done("");
    let failed = matrix
        .cells
        .iter()
        .filter(|c| c.figures().is_none())
        .count();
    if failed > 0 {
        ctx.ui.warn(&format!(
            "{failed} of {} cells have no figures; the page names them",
            matrix.cells.len()
        ));
    }
    let missing = matrix.missing().len();
    if missing > 0 {
        ctx.ui.warn(&format!(
            "{missing} cells were not run; `cargo xtask bench --resume --name {}` runs them",
            matrix.name
        ));
    }
    for line in matrix.differences() {
        ctx.ui
            .warn(&format!("the cells were not made alike: {line}"));
    }
    Ok(out.join("index.html"))
}

/// Draws a chart, writes it as SVG, and gives it for the page.
fn picture(
    out: &Path,
    name: &str,
    phase: &'static str,
    chart: &draw::Chart,
    facts: svg::Facts,
) -> Result<html::Drawn> {
    let wide = draw::svg(chart, WIDE);
    let narrow = draw::svg(chart, NARROW);
    let file = out.join("figures").join(format!("{name}.svg"));
    store::write_atomic(&file, svg::stamped(&wide, facts).as_bytes())?;
    Ok(html::Drawn {
        phase,
        wide,
        narrow,
    })
}

fn compared(ctx: &Ctx, a: &Side, b: &Side, out: &Path) -> Result<ExitCode> {
    let pairs = compare::pairs(&a.figures, &b.figures);
    if pairs.is_empty() {
        return Err(Fail::usage(
            "the matrices have no cell in common",
            format!(
                "A: {}; B: {}",
                a.figures.names().join(", "),
                b.figures.names().join(", ")
            ),
            "choose two that ran the same workloads and modes",
        ));
    }
    let (date, command) = (rundir::utc(SystemTime::now()), command(ctx));
    let source = format!(
        "A: {} B: {}",
        source(&a.matrix, &date),
        source(&b.matrix, &date)
    );
    let facts = facts(&[&a.matrix, &b.matrix], &command, &date);
    let unlike = compare::Unlike::of(a, b);
    let mut drawn = Vec::new();
    for of in [Of::KernelInstructions, Of::WalkLatency, Of::Ipc, Of::Cycles] {
        let name = serde_json::to_value(of)
            .ok()
            .and_then(|v| v.as_str().map(str::to_string))
            .unwrap_or_default();
        let chart = compare::chart(&pairs, of, &source);
        drawn.push((
            of,
            picture(
                out,
                &format!("compare-{name}"),
                metrics::ALL,
                &chart,
                &facts,
            )?,
        ));
    }
    let json = serde_json::json!({
        "schema": compare::SCHEMA,
        "a": a.matrix.name,
        "b": b.matrix.name,
        "written_utc": date,
        "command": command,
        "differences": unlike.facts,
        "only_a": unlike.only_a,
        "only_b": unlike.only_b,
        "pairs": pairs,
    });
    let text = serde_json::to_string_pretty(&json).context("cannot encode the comparison")?;
    store::write_atomic(&out.join("compare.json"), format!("{text}\n").as_bytes())?;
    let csv = export::csv(&pairs, compare::SCHEMA)?;
    store::write_atomic(&out.join("compare.csv"), csv.as_bytes())?;
    let names = (a.matrix.name.as_str(), b.matrix.name.as_str());
    let page = compare::page(names, &unlike, &pairs, &drawn, (&command, &date));
    store::write_atomic(&out.join("index.html"), page.as_bytes())?;
    for line in unlike.facts.iter().filter(|_| !ui::is_json()) {
        ctx.ui.info(&format!("they differ in {line}"));
    }
    say!("\n", "{}", terminal::compared(&pairs));
    ui::path(&out.join("index.html"));
    Ok(code::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_matrices_and_others() {
        let good = metrics::tests::matrix();
        assert!(sane(&good).iter().all(|c| c.1.is_ok()));
        assert_eq!(sane(&good).len(), 9);
        let mut bad = good.clone();
        for cell in &mut bad.cells {
            for phase in &mut cell.walksim.as_mut().unwrap().phases {
                phase.organisations[0].walk_entry_reads *=
                    if cell.mode == Boot::RADIX { 1 } else { 2 };
                phase.organisations[1].walk_entry_reads += 1000;
            }
        }
        assert!(sane(&bad).iter().all(|c| c.1.is_err()));
    }
}
