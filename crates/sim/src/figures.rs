// SPDX-License-Identifier: MIT OR Apache-2.0
//! From runs to figures: sums over phases, means over runs, changes against the first mode.

use std::collections::BTreeMap;

use fpt_walksim_machine::report::{Organisation, Phase, Report};
use serde::Serialize;

use crate::cell::Cell;
use crate::walks::Lists;
use fpt_geometry::Boot;
use fpt_report::stats;

/// The organisation whose figures are shown: the tables that the guest has.
pub const REAL: &str = "real";
pub const SCHEMA: &str = "fpt-sim/1";

/// Which figure. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    UserInstructions,
    KernelInstructions,
    Walks,
    ReadsPerWalk,
    CyclesPerWalk,
    WalkShare,
    Cycles,
    Ipc,
    PageTableBytes,
    Nodes,
    Fallbacks,
}

/// How a figure is written, and what its change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Ratio,
    /// A part of 1; its change is a difference.
    Part,
    Bytes,
}

impl Figure {
    pub const ALL: [Figure; 11] = [
        Figure::UserInstructions,
        Figure::KernelInstructions,
        Figure::Walks,
        Figure::ReadsPerWalk,
        Figure::CyclesPerWalk,
        Figure::WalkShare,
        Figure::Cycles,
        Figure::Ipc,
        Figure::PageTableBytes,
        Figure::Nodes,
        Figure::Fallbacks,
    ];
    /// Those that each phase has.
    pub const OF_PHASE: [Figure; 8] = [
        Figure::UserInstructions,
        Figure::KernelInstructions,
        Figure::Walks,
        Figure::ReadsPerWalk,
        Figure::CyclesPerWalk,
        Figure::WalkShare,
        Figure::Cycles,
        Figure::Ipc,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Figure::UserInstructions => "user instructions",
            Figure::KernelInstructions => "kernel instructions",
            Figure::Walks => "walks",
            Figure::ReadsPerWalk => "reads per walk",
            Figure::CyclesPerWalk => "cycles per walk",
            Figure::WalkShare => "share of cycles in walks",
            Figure::Cycles => "cycles",
            Figure::Ipc => "instructions per cycle",
            Figure::PageTableBytes => "page tables at the end",
            Figure::Nodes => "flattened nodes made",
            Figure::Fallbacks => "fallbacks",
        }
    }

    pub fn unit(self) -> Unit {
        match self {
            Figure::UserInstructions
            | Figure::KernelInstructions
            | Figure::Walks
            | Figure::Cycles
            | Figure::Nodes
            | Figure::Fallbacks => Unit::Count,
            Figure::ReadsPerWalk | Figure::CyclesPerWalk | Figure::Ipc => Unit::Ratio,
            Figure::WalkShare => Unit::Part,
            Figure::PageTableBytes => Unit::Bytes,
        }
    }
}

/// Sums over one or several phases with the same name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    pub user_instructions: u64,
    pub kernel_instructions: u64,
    pub walks: u64,
    pub reads: u64,
    pub walk_cycles: f64,
    pub cycles: f64,
}

impl Sums {
    fn add(&mut self, phase: &Phase) {
        let none = Organisation::default();
        let real = phase.organisations.iter().find(|o| o.name == REAL);
        let real = real.unwrap_or(&none);
        self.user_instructions += phase.instructions.user;
        self.kernel_instructions += phase.instructions.kernel;
        self.walks += real.walks;
        self.reads += real.walk_entry_reads;
        self.walk_cycles += real.walk_cycles;
        self.cycles += real.cycles.total;
    }

    fn get(&self, figure: Figure) -> Option<f64> {
        let over = |a: f64, b: f64| (b > 0.0).then(|| a / b);
        match figure {
            Figure::UserInstructions => Some(self.user_instructions as f64),
            Figure::KernelInstructions => Some(self.kernel_instructions as f64),
            Figure::Walks => Some(self.walks as f64),
            Figure::ReadsPerWalk => over(self.reads as f64, self.walks as f64),
            Figure::CyclesPerWalk => over(self.walk_cycles, self.walks as f64),
            Figure::WalkShare => over(self.walk_cycles, self.cycles),
            Figure::Cycles => Some(self.cycles),
            Figure::Ipc => {
                let all = self.user_instructions + self.kernel_instructions;
                over(all as f64, self.cycles)
            }
            Figure::PageTableBytes | Figure::Nodes | Figure::Fallbacks => None,
        }
    }
}

/// A run's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub mode: Boot,
    pub run: u32,
    pub exit_code: i32,
    /// 0 if none ended it.
    pub signal: i32,
    /// How long it took by the host's clock.
    pub seconds: f64,
    pub all: Sums,
    pub phases: BTreeMap<String, Sums>,
    /// Of the process that had the most when it ended.
    pub page_table_bytes: Option<u64>,
    pub nodes: i64,
    pub fallbacks: i64,
    pub fpt_stats: BTreeMap<String, i64>,
}

impl Run {
    fn new(cell: &Cell) -> Run {
        let mut all = Sums::default();
        let mut phases: BTreeMap<String, Sums> = BTreeMap::new();
        for phase in &cell.report.phases {
            all.add(phase);
            phases.entry(phase.name.clone()).or_default().add(phase);
        }
        let sum = |end: &str| {
            let counters = cell.nodes.iter().filter(|(name, _)| name.ends_with(end));
            counters.map(|(_, n)| n).sum()
        };
        Run {
            mode: cell.mode,
            run: cell.run,
            exit_code: cell.exit.code,
            signal: cell.exit.signal,
            seconds: cell.seconds,
            all,
            phases,
            page_table_bytes: cell.seen.iter().map(|s| s.page_tables_kb * 1024).max(),
            nodes: sum("_installs"),
            fallbacks: sum("_fallbacks"),
            fpt_stats: cell.nodes.clone(),
        }
    }

    /// Of one phase, or of all together.
    fn get(&self, phase: Option<&str>, figure: Figure) -> Option<f64> {
        match (figure, phase) {
            (Figure::PageTableBytes, None) => self.page_table_bytes.map(|b| b as f64),
            (Figure::Nodes, None) => Some(self.nodes as f64),
            (Figure::Fallbacks, None) => Some(self.fallbacks as f64),
            (_, None) => self.all.get(figure),
            (_, Some(name)) => self.phases.get(name)?.get(figure),
        }
    }
}

/// A mean, and how it compares with the first mode's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Value {
    pub mean: f64,
    /// The mean of the runs' ratios to the first mode's, less 1; of a part, the difference.
    pub change: Option<f64>,
    /// From where to where the change is with 95 % confidence; of several runs.
    pub interval: Option<(f64, f64)>,
}

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Result {
    pub schema: &'static str,
    pub modes: Vec<Boot>,
    pub phases: Vec<String>,
    pub runs: Vec<Run>,
    /// Who causes the walks.
    pub causes: BTreeMap<Boot, Lists>,
}

/// Walks through the tables that the guest has, of all phases.
pub fn walks(report: &Report) -> u64 {
    let all = report.phases.iter().flat_map(|p| &p.organisations);
    all.filter(|o| o.name == REAL).map(|o| o.walks).sum()
}

impl Result {
    pub fn new(modes: &[Boot], cells: &[Cell], causes: BTreeMap<Boot, Lists>) -> Result {
        let runs: Vec<Run> = cells.iter().map(Run::new).collect();
        let mut phases: Vec<String> = Vec::new();
        for phase in cells.iter().flat_map(|c| &c.report.phases) {
            if !phases.contains(&phase.name) {
                phases.push(phase.name.clone());
            }
        }
        Result {
            schema: SCHEMA,
            modes: modes.to_vec(),
            phases,
            runs,
            causes,
        }
    }

    fn of(&self, mode: Boot) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |r| r.mode == mode)
    }

    /// `None` if a run has no such figure.
    pub fn value(&self, phase: Option<&str>, figure: Figure, mode: Boot) -> Option<Value> {
        let get =
            |m: Boot| -> Option<Vec<f64>> { self.of(m).map(|r| r.get(phase, figure)).collect() };
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let mine = get(mode).filter(|v| !v.is_empty())?;
        let first = *self.modes.first()?;
        let changes: Option<Vec<f64>> = match get(first) {
            Some(base) if first != mode && base.len() == mine.len() => base
                .iter()
                .zip(&mine)
                .map(|(b, m)| match figure.unit() {
                    Unit::Part => Some(m - b),
                    _ => (*b != 0.0).then(|| m / b - 1.0),
                })
                .collect(),
            _ => None,
        };
        Some(Value {
            mean: mean(&mine),
            change: changes.as_deref().map(mean),
            interval: changes.as_deref().and_then(stats::interval),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    fn run(mode: Boot, number: u32, walks: u64, cycles: f64) -> Run {
        Run {
            mode,
            run: number,
            exit_code: 0,
            signal: 0,
            seconds: 1.0,
            all: Sums {
                user_instructions: 1000,
                kernel_instructions: 500,
                walks,
                reads: walks * 2,
                walk_cycles: cycles,
                cycles: 4.0 * cycles,
            },
            phases: BTreeMap::new(),
            page_table_bytes: None,
            nodes: 3,
            fallbacks: 0,
            fpt_stats: BTreeMap::new(),
        }
    }

    #[test]
    fn means_and_changes() {
        let flat = Boot::Mode(Mode::L4L3L2L1);
        let result = Result {
            schema: SCHEMA,
            modes: vec![Boot::Mode(Mode::Radix), flat],
            phases: vec![],
            runs: vec![
                run(Boot::Mode(Mode::Radix), 1, 10, 600.0),
                run(flat, 1, 10, 480.0),
                run(Boot::Mode(Mode::Radix), 2, 20, 1200.0),
                run(flat, 2, 20, 960.0),
            ],
            causes: BTreeMap::new(),
        };
        let v = result.value(None, Figure::CyclesPerWalk, flat).unwrap();
        assert_eq!(v.mean, 48.0);
        assert!((v.change.unwrap() + 0.2).abs() < 1e-9);
        assert!(v.interval.is_some_and(|(a, b)| (a - b).abs() < 1e-9));
        let radix = result
            .value(None, Figure::Walks, Boot::Mode(Mode::Radix))
            .unwrap();
        assert_eq!((radix.mean, radix.change), (15.0, None));
        assert_eq!(result.value(None, Figure::PageTableBytes, flat), None);
        assert_eq!(
            result.value(None, Figure::WalkShare, flat).unwrap().change,
            Some(0.0)
        );
        assert_eq!(
            result.value(None, Figure::Fallbacks, flat).unwrap().change,
            None
        );
    }
}
