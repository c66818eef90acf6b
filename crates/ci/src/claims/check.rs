// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a claim is held against.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::grid;
use super::Outcome;
use fpt_geometry::Boot;
use fpt_kit::Result;
use fpt_report::metrics::{Figures, Of, Row, GRAPHS};
use fpt_report::sweep::{self, Point};
use fpt_report::text::{percent, percent_in};
use fpt_report::weights::Weights;
use fpt_report::{sensitivity, stats};

/// Percentages are of changes against radix unless something else is said.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Check {
    /// A mean over workloads, or one workload's figure.
    Mean {
        at: Which,
        of: Of,
        value: f64,
        /// How far off it may be, in points.
        tolerance: f64,
        shows: Option<Shows>,
    },
    /// Every workload's change of a figure lies between.
    Between {
        at: Which,
        of: Of,
        low: f64,
        high: f64,
    },
    /// A part of radix's or a mode's cycles, in per cent, for every workload.
    Share {
        at: Which,
        part: Part,
        low: f64,
        high: f64,
    },
    /// End-to-end cycles over all assumptions that the counts can answer.
    Sensitivity {
        at: Which,
        low: f64,
        high: f64,
        tolerance: f64,
    },
    /// A table in the document: changes of figures, modes divided by `/`.
    Table {
        matrix: PathBuf,
        phase: String,
        /// First cell of its head.
        head: String,
        modes: Vec<Boot>,
        columns: Vec<Of>,
    },
    /// A point of a sweep.
    Sweep {
        file: PathBuf,
        pattern: String,
        preset: String,
        footprint_mib: u64,
        tables: String,
        of: OfPoint,
        value: f64,
        tolerance: f64,
    },
    /// The claim's command says it.
    Command {},
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// A folder with `report.csv`.
    matrix: PathBuf,
    mode: Boot,
    phase: String,
    /// Workloads; all without it.
    #[serde(default)]
    over: Vec<String>,
    #[serde(default)]
    weights: By,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
enum By {
    #[default]
    Measured,
    Emt,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Shows {
    Change,
    NoChange,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Walks,
    TlbHits,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OfPoint {
    ReadsPerWalk,
    CyclesPerWalk,
    Change,
    /// The change with wasted probes for nothing.
    ChangeLow,
}

/// Files are read once.
pub struct Data {
    root: PathBuf,
    matrices: BTreeMap<(PathBuf, By), Option<Figures>>,
    sweeps: BTreeMap<PathBuf, Option<Vec<Point>>>,
}

impl Data {
    pub fn new(root: &Path) -> Data {
        Data {
            root: root.to_path_buf(),
            matrices: BTreeMap::new(),
            sweeps: BTreeMap::new(),
        }
    }

    fn matrix(&mut self, dir: &Path, by: By) -> Option<&Figures> {
        let path = self.root.join(dir);
        let load = || {
            let mut figures = Figures::load(&path).ok()?;
            figures.weigh(match by {
                By::Measured => Weights::Measured,
                By::Emt => Weights::Emt,
            });
            Some(figures)
        };
        let key = (dir.to_path_buf(), by);
        self.matrices.entry(key).or_insert_with(load).as_ref()
    }

    fn sweep(&mut self, file: &Path) -> Option<&Vec<Point>> {
        let path = self.root.join(file);
        let load = || sweep::load(&path).ok();
        let key = file.to_path_buf();
        self.sweeps.entry(key).or_insert_with(load).as_ref()
    }
}

fn fails(why: impl Into<String>) -> Outcome {
    Outcome::Fails(why.into())
}

fn near(found: f64, value: f64, tolerance: f64) -> bool {
    (found - value).abs() <= tolerance + 1e-9
}

fn points(ratio: f64) -> f64 {
    (ratio - 1.0) * 100.0
}

impl Which {
    fn names<'a>(&'a self, figures: &'a Figures) -> Vec<&'a str> {
        match self.over.as_slice() {
            [] => figures.names(),
            [one] if one == "graphs" => GRAPHS.to_vec(),
            some => some.iter().map(String::as_str).collect(),
        }
    }

    fn figures<'d>(&self, data: &'d mut Data) -> std::result::Result<&'d Figures, Outcome> {
        data.matrix(&self.matrix, self.weights)
            .ok_or_else(|| fails(format!("{} has no report.csv", self.matrix.display())))
    }
}

impl Check {
    /// Its data are not committed: they are there after its command.
    pub fn is_fresh(&self) -> bool {
        let path = match self {
            Check::Mean { at, .. }
            | Check::Between { at, .. }
            | Check::Share { at, .. }
            | Check::Sensitivity { at, .. } => &at.matrix,
            Check::Table { matrix, .. } => matrix,
            Check::Sweep { file, .. } => file,
            Check::Command {} => return true,
        };
        path.starts_with("target")
    }

    pub fn judge(&self, document: &str, data: &mut Data) -> Result<Outcome> {
        let found = match self {
            Check::Mean {
                at,
                of,
                value,
                tolerance,
                shows,
            } => mean(at, *of, (*value, *tolerance), *shows, data),
            Check::Between { at, of, low, high } => between(at, *of, (*low, *high), data),
            Check::Share {
                at,
                part,
                low,
                high,
            } => share(at, *part, (*low, *high), data),
            Check::Sensitivity {
                at,
                low,
                high,
                tolerance,
            } => sensitive(at, (*low, *high), *tolerance, data),
            Check::Table {
                matrix,
                phase,
                head,
                modes,
                columns,
            } => match data.matrix(matrix, By::Measured) {
                None => Err(fails(format!("{} has no report.csv", matrix.display()))),
                Some(figures) => grid::judge(document, head, figures, (phase, modes, columns)),
            },
            Check::Sweep {
                file,
                pattern,
                preset,
                footprint_mib,
                tables,
                of,
                value,
                tolerance,
            } => match data.sweep(file) {
                None => Err(fails(format!("{} is no sweep", file.display()))),
                Some(points) => {
                    let point = points.iter().find(|p| {
                        p.pattern == *pattern
                            && p.preset == *preset
                            && p.footprint_mib == *footprint_mib
                            && p.tables == *tables
                    });
                    Ok(swept(point, *of, *value, *tolerance))
                }
            },
            Check::Command {} => Ok(Outcome::Holds("its command ended well".into())),
        };
        Ok(found.unwrap_or_else(|outcome| outcome))
    }
}

type Judged = std::result::Result<Outcome, Outcome>;

fn mean(
    which: &Which,
    of: Of,
    (value, tolerance): (f64, f64),
    shows: Option<Shows>,
    data: &mut Data,
) -> Judged {
    let figures = which.figures(data)?;
    let names = which.names(figures);
    let Some((ratio, _)) = figures.mean(&names, which.mode, &which.phase, of) else {
        return Err(fails("there is no such figure"));
    };
    let interval = figures.mean_range(&names, which.mode, &which.phase, of);
    let said = format!("{} ({})", percent(ratio), percent_in(ratio, interval));
    if !near(points(ratio), value, tolerance) {
        return Err(fails(format!("{said}, not {value} %")));
    }
    let shown = match (shows, interval) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(Shows::Change), some) => !stats::shows_nothing(some),
        (Some(Shows::NoChange), some) => stats::shows_nothing(some),
    };
    if shown {
        Ok(Outcome::Holds(said))
    } else {
        Err(fails(format!("{said}: the interval says otherwise")))
    }
}

fn between(which: &Which, of: Of, (low, high): (f64, f64), data: &mut Data) -> Judged {
    let figures = which.figures(data)?;
    let all: Vec<f64> = (which.names(figures).into_iter())
        .filter_map(|w| figures.ratio(w, which.mode, &which.phase, of))
        .map(points)
        .collect();
    span(&all, low, high, 0.051)
}

/// Do the values reach from `low` to `high`, as far as their digits say?
fn span(all: &[f64], low: f64, high: f64, digits: f64) -> Judged {
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let said = format!("{least:.2} to {most:.2} %");
    if near(least, low, digits) && near(most, high, digits) {
        Ok(Outcome::Holds(said))
    } else {
        Err(fails(format!("{said}, not {low} to {high}")))
    }
}

fn share(which: &Which, part: Part, (low, high): (f64, f64), data: &mut Data) -> Judged {
    let figures = which.figures(data)?;
    let of = |row: &Row| match part {
        Part::Walks => row.cycles_walk * 100.0 / row.cycles,
        Part::TlbHits => row.cycles_tlb * 100.0 / row.cycles,
    };
    let all: Vec<f64> = (which.names(figures).into_iter())
        .filter_map(|w| figures.real(w, which.mode, &which.phase))
        .map(of)
        .collect();
    span(&all, low, high, 0.51)
}

fn sensitive(which: &Which, (low, high): (f64, f64), tolerance: f64, data: &mut Data) -> Judged {
    let figures = which.figures(data)?;
    let Some((least, most, n)) = sensitivity::range(figures, which.mode, &which.phase) else {
        return Err(fails("there is no such figure"));
    };
    let said = format!("{} to {} over {n} cases", percent(least), percent(most));
    if near(points(least), low, tolerance) && near(points(most), high, tolerance) {
        Ok(Outcome::Holds(said))
    } else {
        Err(fails(format!("{said}, not {low} to {high} %")))
    }
}

fn swept(point: Option<&Point>, of: OfPoint, value: f64, tolerance: f64) -> Outcome {
    let found = point.and_then(|p| match of {
        OfPoint::ReadsPerWalk => Some(p.reads_per_walk),
        OfPoint::CyclesPerWalk => Some(p.cycles_per_walk),
        OfPoint::Change => p.change.map(|c| c * 100.0),
        OfPoint::ChangeLow => p.change_low.map(|c| c * 100.0),
    });
    match found {
        None => fails("the sweep has no such point"),
        Some(n) if near(n, value, tolerance) => Outcome::Holds(format!("{n:.3}")),
        Some(n) => fails(format!("{n:.3}, not {value}")),
    }
}
