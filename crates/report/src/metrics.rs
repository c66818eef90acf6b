// SPDX-License-Identifier: MIT OR Apache-2.0
//! From cells to figures: the formulas of docs/explanation/evaluation.md, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use fpt_geometry::Boot;
use fpt_walksim_machine::config::{self, Cycles};

use super::cells::{rank, Matrix, ORDER};
use super::stats;
use super::sum::{machines, means, per, rows};
use super::weights::{self, Weights};
use fpt_kit::{Fail, Result};

pub use super::cells::GRAPHS;
pub use super::row::{Of, Range, Row, ALL, CATEGORIES};

/// The walk through the guest's own tables.
const REAL: &str = "real";

/// Part of a phase's instructions below which means leave a count of instructions out.
pub const LITTLE: f64 = 0.005;

/// Rows to look figures up in: of a matrix, or of the CSV files that a report left.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Means over the runs of a cell: what figures show.
    pub rows: Vec<Row>,
    /// Each run by itself.
    pub each: Vec<Row>,
    /// The most often that a cell was run.
    repeat: u32,
    /// The preset of a cell, where it is not the only one in its rows.
    presets: BTreeMap<(String, Boot), String>,
    /// Cycles of each preset's machine.
    cycles: BTreeMap<String, Cycles>,
}

/// The figures of a matrix.
pub struct Table<'a> {
    /// The cells.
    pub matrix: &'a Matrix,
    /// The figures of all cells.
    pub figures: Figures,
}

impl std::ops::Deref for Table<'_> {
    type Target = Figures;
    fn deref(&self) -> &Figures {
        &self.figures
    }
}

impl<'a> Table<'a> {
    /// The figures of a matrix, its phases weighted by how long they were.
    pub fn new(matrix: &'a Matrix) -> Table<'a> {
        Table::weighted(matrix, Weights::Measured)
    }

    /// The figures of a matrix with these weights of its phases.
    pub fn weighted(matrix: &'a Matrix, by: Weights) -> Table<'a> {
        let cells = || matrix.cells.iter().filter_map(|c| c.figures());
        let all = cells().flat_map(|r| machines(&r.config));
        let mut figures = Figures {
            rows: means(matrix),
            each: rows(matrix),
            repeat: matrix.repeat(),
            presets: (matrix.cells.iter())
                .map(|c| ((c.workload.clone(), c.mode), c.preset.clone()))
                .collect(),
            cycles: all.map(|m| (m.preset, m.cycles)).collect(),
        };
        figures.weigh(by);
        Table { matrix, figures }
    }
}

impl Figures {
    /// What `report` wrote into a folder: `report.csv` and, if cells were repeated, `runs.csv`.
    pub fn load(dir: &Path) -> Result<Figures> {
        let read = |name: &str| -> Result<Vec<Row>> {
            let path = dir.join(name);
            let bad = |e: csv::Error| {
                Fail::usage(
                    format!("{} has no figures of a report", path.display()),
                    e.to_string(),
                    "name a folder that `cargo xtask report` wrote",
                )
            };
            let mut reader = csv::Reader::from_path(&path).map_err(bad)?;
            let rows: std::result::Result<Vec<Row>, _> = reader.deserialize().collect();
            rows.map_err(bad)
        };
        let rows = read("report.csv")?;
        let each = if dir.join("runs.csv").is_file() {
            read("runs.csv")?
        } else {
            Vec::new()
        };
        let presets: Vec<&str> = rows.iter().map(|r| r.preset.as_str()).collect();
        let known = |name: &&str| Some((name.to_string(), config::resolve(name, None, &[]).ok()?));
        Ok(Figures {
            repeat: each.iter().filter_map(|r| r.run).max().unwrap_or(1),
            presets: BTreeMap::new(),
            cycles: (presets.iter().filter_map(known))
                .map(|(name, machine)| (name, machine.cycles))
                .collect(),
            rows,
            each,
        })
    }

    /// Lets both phases together count by these weights.
    pub fn weigh(&mut self, by: Weights) {
        if by == Weights::Emt {
            weights::apply(&mut self.rows);
            weights::apply(&mut self.each);
        }
    }

    /// The cycles of the machine that a row's figures are of.
    pub fn machine(&self, row: &Row) -> Option<&Cycles> {
        self.cycles.get(&row.preset)
    }

    /// Names of workloads in the order of the paper.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|r| r.workload.as_str()).collect();
        names.sort_by_key(|n| (rank(n, &ORDER), *n));
        names.dedup();
        names
    }

    /// How often each cell was run.
    pub fn repeat(&self) -> u32 {
        self.repeat
    }

    /// An organisation on the machine of the cell's own preset: in one run, or the mean of all.
    fn find(
        &self,
        run: Option<u32>,
        workload: &str,
        mode: Boot,
        phase: &str,
        organisation: &str,
    ) -> Option<&Row> {
        let preset = self.presets.get(&(workload.to_owned(), mode));
        let rows = if run.is_some() {
            &self.each
        } else {
            &self.rows
        };
        rows.iter().find(|r| {
            r.workload == workload
                && r.mode == mode
                && r.phase == phase
                && r.organisation == organisation
                && preset.is_none_or(|p| r.preset == *p)
                && (run.is_none() || r.run == run)
        })
    }

    /// The mean of a cell's runs for a phase and an organisation.
    pub fn row(
        &self,
        workload: &str,
        mode: impl Into<Boot>,
        phase: &str,
        organisation: &str,
    ) -> Option<&Row> {
        self.find(None, workload, mode.into(), phase, organisation)
    }

    /// The same of the guest's own tables.
    pub fn real(&self, workload: &str, mode: impl Into<Boot>, phase: &str) -> Option<&Row> {
        self.row(workload, mode, phase, REAL)
    }

    /// `of` in a mode over `of` in radix.
    pub fn ratio(&self, workload: &str, mode: impl Into<Boot>, phase: &str, of: Of) -> Option<f64> {
        self.ratio_in(None, workload, mode.into(), phase, &|row| of.of(row))
    }

    /// In a run, mode and radix have the same seed.
    fn ratio_in(
        &self,
        run: Option<u32>,
        workload: &str,
        mode: Boot,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Option<f64> {
        let value = of(self.find(run, workload, mode, phase, REAL)?)?;
        let base = of(self.find(run, workload, Boot::RADIX, phase, REAL)?)?;
        per(value, base)
    }

    fn runs(&self) -> impl Iterator<Item = Option<u32>> {
        (1..=self.repeat).map(Some)
    }

    /// The interval of the ratio, from those of the single runs.
    pub fn range(&self, workload: &str, mode: impl Into<Boot>, phase: &str, of: Of) -> Range {
        let mode = mode.into();
        let ratios: Vec<f64> = (self.runs())
            .filter_map(|run| self.ratio_in(run, workload, mode, phase, &|row| of.of(row)))
            .collect();
        stats::interval(&ratios)
    }

    /// The ratios of the single runs.
    pub fn dots(&self, workload: &str, mode: impl Into<Boot>, phase: &str, of: Of) -> Vec<f64> {
        let mode = mode.into();
        (self.runs())
            .filter_map(|run| self.ratio_in(run, workload, mode, phase, &|row| of.of(row)))
            .collect()
    }

    /// The interval of the value, from those of the single runs.
    pub fn range_of(&self, row: &Row, of: Of) -> Range {
        let values: Vec<f64> = (self.runs())
            .filter_map(|run| {
                let one = self.find(run, &row.workload, row.mode, &row.phase, &row.organisation);
                of.of(one?)
            })
            .collect();
        stats::interval(&values)
    }

    /// Is there enough of it for its ratio to say something? In few instructions one timer tick is a lot.
    fn weighs(&self, workload: &str, phase: &str, of: Of) -> bool {
        if !matches!(of, Of::KernelInstructions | Of::PageFaultInstructions) {
            return true;
        }
        self.real(workload, Boot::RADIX, phase).is_some_and(|r| {
            let all = r.instructions_user + r.instructions_kernel;
            of.of(r).is_some_and(|n| n >= LITTLE * all as f64)
        })
    }

    /// Geometric mean of the ratios of those `workloads` that have one worth its name, and how many they are. The graph
    /// programs share one program and one graph: where others stand beside them they count as one.
    pub fn mean(
        &self,
        workloads: &[&str],
        mode: impl Into<Boot>,
        phase: &str,
        of: Of,
    ) -> Option<(f64, usize)> {
        let weighing = self.weighing(workloads, phase, of);
        self.mean_in(None, &weighing, mode.into(), phase, &|row| of.of(row))
    }

    fn weighing<'w>(&self, workloads: &[&'w str], phase: &str, of: Of) -> Vec<&'w str> {
        let all = workloads.iter().copied();
        all.filter(|w| self.weighs(w, phase, of)).collect()
    }

    fn mean_in(
        &self,
        run: Option<u32>,
        workloads: &[&str],
        mode: Boot,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        let ratios: Vec<(&str, f64)> = workloads
            .iter()
            .filter_map(|w| Some((*w, self.ratio_in(run, w, mode, phase, of)?)))
            .filter(|(_, r)| *r > 0.0)
            .collect();
        let (graphs, others): (Vec<_>, Vec<_>) =
            ratios.iter().partition(|(w, _)| GRAPHS.contains(w));
        let sum = |some: &[&(&str, f64)]| some.iter().map(|(_, r)| r.ln()).sum::<f64>();
        let (mut total, mut strata) = (sum(&others), others.len());
        if !graphs.is_empty() {
            total += sum(&graphs) / graphs.len() as f64;
            strata += 1;
        }
        (strata > 0).then(|| ((total / strata as f64).exp(), ratios.len()))
    }

    /// The interval of the mean, from those of the single runs that have all that is in the mean.
    pub fn mean_range(
        &self,
        workloads: &[&str],
        mode: impl Into<Boot>,
        phase: &str,
        of: Of,
    ) -> Range {
        let weighing = self.weighing(workloads, phase, of);
        self.mean_range_by(&weighing, mode.into(), phase, &|row| of.of(row))
    }

    /// As [`Figures::mean`], of whatever can be said of a row.
    pub fn mean_by(
        &self,
        workloads: &[&str],
        mode: Boot,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        self.mean_in(None, workloads, mode, phase, of)
    }

    /// As [`Figures::mean_range`], of whatever can be said of a row.
    pub fn mean_range_by(
        &self,
        workloads: &[&str],
        mode: Boot,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Range {
        let (_, whole) = self.mean_in(None, workloads, mode, phase, of)?;
        let means: Vec<f64> = (self.runs())
            .filter_map(|run| self.mean_in(run, workloads, mode, phase, of))
            .filter(|(_, count)| *count == whole)
            .map(|(mean, _)| mean)
            .collect();
        stats::interval(&means)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use fpt_formats::cell::{Cell, Guest, Provenance, SCHEMA};
    use fpt_formats::matrix::{Scale, Thp};
    use fpt_geometry::Mode;
    use fpt_testkit::synthetic;

    pub fn cell(workload: &str, mode: Boot) -> Cell {
        Cell {
            schema: SCHEMA.into(),
            workload: workload.into(),
            mode,
            scale: Scale::Tiny,
            preset: "emt".into(),
            thp: Thp::Never,
            vcpus: 1,
            memory_mib: 512,
            run: 1,
            error: None,
            began_utc: "20261123T150000Z".into(),
            seconds: 1.0,
            hash: "h".into(),
            provenance: Provenance::default(),
            walksim: Some(synthetic::report(mode, "x")),
            guest: Guest {
                page_tables_before_kb: Some(100),
                page_tables_kb: Some(4212),
                ..Guest::default()
            },
        }
    }

    pub fn matrix() -> Matrix {
        let mut cells = Vec::new();
        for workload in ["gups", "bfs", "dfs"] {
            for mode in [Mode::L4L3L2L1, Mode::L3L2, Mode::Radix] {
                cells.push(cell(workload, mode.into()));
            }
        }
        Matrix::new("made-up".into(), cells)
    }

    /// With a column of mixed, whose bfs made a node while it ran; the others' were there before.
    pub fn with_mixed() -> Matrix {
        let mut matrix = matrix();
        for workload in ["bfs", "dfs", "gups"] {
            let mut cell = cell(workload, Boot::Mixed);
            let made = |n| [("bottom_installs".to_string(), n)].into();
            cell.guest.fpt_stats_before = made(1);
            cell.guest.fpt_stats = made(if workload == "bfs" { 2 } else { 1 });
            cell.provenance.kernel_args = "fpt=mixed fpt.policy=auto quiet".into();
            matrix.cells.push(cell);
        }
        Matrix::new("made-up".into(), matrix.cells)
    }

    #[test]
    fn mixed_is_a_column_beside_the_modes() {
        let matrix = with_mixed();
        let modes = [Mode::Radix, Mode::L3L2, Mode::L4L3L2L1].map(Boot::from);
        assert_eq!(matrix.modes(), [&modes[..], &[Boot::Mixed]].concat());
        assert_eq!(matrix.without_nodes(), ["dfs-mixed", "gups-mixed"]);
        let table = Table::new(&matrix);
        let ratio = table.ratio("bfs", Boot::Mixed, ALL, Of::WalkLatency);
        assert!((ratio.unwrap() - 0.9).abs() < 1e-12);
        let csv = crate::export::csv(&table.rows, crate::export::SCHEMA).unwrap();
        assert!(csv.contains("\nbfs,mixed,all,real,real,emt,"), "{csv}");
        // What others read: each line, and mixed is no line of another mode.
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("report.csv"), csv).unwrap();
        let read = Figures::load(dir.path()).unwrap();
        assert_eq!(read.rows.len(), table.rows.len());
        let again = read.ratio("bfs", Boot::Mixed, ALL, Of::WalkLatency);
        assert!((again.unwrap() - 0.9).abs() < 1e-12);
        // The other columns say what they say without it.
        let (alone, without) = (super::tests::matrix(), Boot::Mixed);
        let alone = Table::new(&alone);
        let rest: Vec<&Row> = table.rows.iter().filter(|r| r.mode != without).collect();
        assert_eq!(rest, alone.rows.iter().collect::<Vec<_>>());
        assert!(table.real("bfs", Mode::L3L2, ALL) != table.real("bfs", Boot::Mixed, ALL));
    }

    #[test]
    fn known_answers() {
        let matrix = matrix();
        assert_eq!(matrix.workloads(), ["bfs", "dfs", "gups"]);
        let modes = [Mode::Radix, Mode::L3L2, Mode::L4L3L2L1].map(Boot::from);
        assert_eq!(matrix.modes(), modes);
        let table = Table::new(&matrix);
        let radix = table.real("bfs", Mode::Radix, ALL).unwrap();
        assert_eq!(radix.walks, 5000);
        assert_eq!(radix.entry_reads, 7500);
        assert_eq!(radix.accesses_per_walk, Some(1.5));
        assert_eq!(radix.walk_latency, Some(60.0));
        // 5000 walks in 5000 x (1000 user + 400 kernel) instructions.
        assert!((radix.tlb_mpki.unwrap() - 1000.0 / 1400.0).abs() < 1e-12);
        assert_eq!(radix.cycles, 5000.0 * 1000.0);
        assert!((radix.ipc.unwrap() - 1.4).abs() < 1e-12);
        assert_eq!(
            radix.categories().iter().sum::<u64>(),
            radix.instructions_kernel
        );
        for phase in ["load", "run", ALL] {
            let ratio = |of| table.ratio("bfs", Mode::L4L3L2L1, phase, of).unwrap();
            assert!((ratio(Of::KernelInstructions) - 0.96).abs() < 1e-12);
            assert!((ratio(Of::WalkLatency) - 0.85).abs() < 1e-12);
            assert!((ratio(Of::AccessesPerWalk) - 0.75).abs() < 1e-12);
            // 60 of 1000 cycles are walks: 0.15 x 60 fewer.
            assert!((ratio(Of::Cycles) - 0.991).abs() < 1e-12);
        }
        let (mean, n) = table
            .mean(&["bfs", "dfs", "none"], Mode::L3L2, ALL, Of::WalkLatency)
            .unwrap();
        assert!((mean - 0.95).abs() < 1e-12 && n == 2);
        assert_eq!(
            table.mean(&["none"], Mode::L3L2, ALL, Of::WalkLatency),
            None
        );
        let ideal = table.row("bfs", Mode::Radix, ALL, "ideal").unwrap();
        assert_eq!(ideal.kind, "counterfactual");
        assert_eq!((ideal.walk_latency, ideal.accesses_per_walk), (None, None));
        assert_eq!(table.rows.len(), 9 * 4 * 3);
        assert_eq!((radix.untranslated_data, radix.untranslated_fetch), (0, 5));
        let mut other = matrix.clone();
        assert_eq!(other.hash(), matrix.hash());
        other.cells[0].hash = "other".into();
        assert_ne!(other.hash(), matrix.hash());
        assert!(matrix.differences().is_empty());
    }

    /// Three runs whose walk latency is, in l3l2, 95 % of radix's, 2 per cent more, 1 less.
    pub fn repeated() -> Matrix {
        let mut cells = Vec::new();
        for run in [1, 2, 3] {
            for mut cell in matrix().cells {
                cell.run = run;
                let factor = match (cell.mode.mode(), run) {
                    (Some(Mode::L3L2), 2) => 1.02,
                    (Some(Mode::L3L2), 3) => 0.99,
                    _ => 1.0,
                };
                for phase in &mut cell.walksim.as_mut().unwrap().phases {
                    let real = &mut phase.organisations[0];
                    let (more, total) = (real.walk_cycles * (factor - 1.0), real.cycles.total);
                    real.walk_cycles += more;
                    real.cycles.walk += more;
                    real.cycles.total += more;
                    real.ipc *= total / real.cycles.total;
                }
                cells.push(cell);
            }
        }
        // As a folder gives them.
        cells.reverse();
        Matrix::new("made-up".into(), cells)
    }

    #[test]
    fn runs_are_averaged_and_their_range_is_kept() {
        let (one, three) = (matrix(), repeated());
        let (once, table) = (Table::new(&one), Table::new(&three));
        assert_eq!(table.rows.len(), once.rows.len());
        assert_eq!(table.each.len(), 3 * once.rows.len());
        assert_eq!((once.rows[0].run, once.rows[0].runs), (Some(1), 1));
        let radix = table.real("bfs", Mode::Radix, ALL).unwrap();
        assert_eq!((radix.run, radix.runs), (None, 3));
        assert_eq!((radix.walks, radix.walk_latency), (5000, Some(60.0)));
        assert_eq!(radix.ipc, once.real("bfs", Mode::Radix, ALL).unwrap().ipc);
        assert_eq!(radix.page_table_kb, Some(4212));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let of = Of::WalkLatency;
        close(
            table.ratio("bfs", Mode::L3L2, "run", of).unwrap(),
            0.95 * (1.0 + 1.02 + 0.99) / 3.0,
        );
        for (low, high) in [
            table.range("bfs", Mode::L3L2, "run", of).unwrap(),
            table
                .mean_range(&["bfs", "dfs"], Mode::L3L2, "run", of)
                .unwrap(),
        ] {
            // Mean 1.00333, deviation 0.01528 of three: 4.303 / sqrt 3 on each side.
            close((low + high) / 2.0, 0.95 * 3.01 / 3.0);
            let half: f64 = 4.303 * (0.00070 / 3.0 / 2.0 * 2.0_f64).sqrt() / 3f64.sqrt();
            assert!(
                ((high - low) / 2.0 / 0.95 - half).abs() < 2e-4,
                "{low} {high} {half}"
            );
        }
        let l3l2 = table.real("bfs", Mode::L3L2, "load").unwrap();
        let (low, high) = table.range_of(l3l2, of).unwrap();
        close((low + high) / 2.0, 57.0 * 3.01 / 3.0);
        assert_eq!(table.dots("bfs", Mode::L3L2, "load", of).len(), 3);
        assert_eq!(once.range("bfs", Mode::L3L2, "run", of), None);
        assert_eq!(three.firsts().len(), 9);
        assert!(three.missing().is_empty() && three.differences().is_empty());
    }

    #[test]
    fn a_run_that_failed_is_not_in_the_mean() {
        let mut matrix = repeated();
        let first = matrix.cells.iter_mut().find(|c| c.name() == "bfs-l3l2");
        first.unwrap().error = Some(fpt_formats::cell::Failure {
            code: 71,
            line: "the guest crashed".into(),
        });
        matrix.cells.retain(|c| c.name() != "gups-radix.2");
        assert_eq!(matrix.missing(), ["gups-radix.2"]);
        assert_eq!(matrix.cell("bfs", Mode::L3L2).unwrap().run, 2);
        let table = Table::new(&matrix);
        let of = Of::WalkLatency;
        assert_eq!(table.real("bfs", Mode::L3L2, ALL).unwrap().runs, 2);
        let (low, high) = table.range("bfs", Mode::L3L2, ALL, of).unwrap();
        // Of two runs: mean 1.005, deviation 0.0212.
        assert!(((low + high) / 2.0 - 0.95 * 1.005).abs() < 1e-12);
        assert!(((high - low) / 2.0 - 0.95 * 12.706 * 0.015).abs() < 1e-9);
        // Only the third run has all three workloads: of one there is no range.
        let all = ["bfs", "dfs", "gups"];
        assert_eq!(table.mean_range(&all, Mode::L3L2, ALL, of), None);
        assert_eq!(table.mean(&all, Mode::L3L2, ALL, of).unwrap().1, 3);
    }

    #[test]
    fn graphs_count_as_one() {
        let mut matrix = matrix();
        for cell in matrix
            .cells
            .iter_mut()
            .filter(|c| c.workload == "gups" && c.mode == Mode::L3L2.into())
        {
            for phase in &mut cell.walksim.as_mut().unwrap().phases {
                phase.organisations[0].walk_cycles *= 0.5;
            }
        }
        let table = Table::new(&matrix);
        let mean = |names: &[&str]| table.mean(names, Mode::L3L2, ALL, Of::WalkLatency).unwrap();
        let (gups, _) = mean(&["gups"]);
        let (graphs, n) = mean(&["bfs", "dfs"]);
        assert!(n == 2 && (graphs - 0.95).abs() < 1e-12 && gups < 0.5);
        let (all, n) = mean(&["bfs", "dfs", "gups"]);
        assert!(n == 3 && (all - (graphs * gups).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn few_instructions_are_in_no_mean() {
        let matrix = matrix();
        let mut table = Table::new(&matrix);
        let of = Of::KernelInstructions;
        let both = table.mean(&["bfs", "dfs"], Mode::L3L2, "run", of);
        assert_eq!(both.map(|(_, n)| n), Some(2));
        for row in table
            .figures
            .rows
            .iter_mut()
            .filter(|r| r.workload == "bfs")
        {
            row.instructions_user *= 100;
        }
        let one = table.mean(&["bfs", "dfs"], Mode::L3L2, "run", of);
        assert_eq!(one.map(|(_, n)| n), Some(1));
        // The workload's own figure stays, and other means do not change.
        assert!(table.ratio("bfs", Mode::L3L2, "run", of).is_some());
        let cycles = table.mean(&["bfs", "dfs"], Mode::L3L2, "run", Of::Cycles);
        assert_eq!(cycles.map(|(_, n)| n), Some(2));
    }

    #[test]
    fn a_failed_cell_has_no_figures() {
        let mut matrix = matrix();
        matrix.cells[0].error = Some(fpt_formats::cell::Failure {
            code: 71,
            line: "the guest crashed".into(),
        });
        matrix.cells[1].provenance.kernel_hash = "other".into();
        let table = Table::new(&matrix);
        assert!(table.real("bfs", Mode::Radix, ALL).is_none());
        assert!(table.ratio("bfs", Mode::L3L2, ALL, Of::Cycles).is_none());
        assert!(table.ratio("dfs", Mode::L3L2, ALL, Of::Cycles).is_some());
        assert_eq!(matrix.differences().len(), 1);
    }
}
