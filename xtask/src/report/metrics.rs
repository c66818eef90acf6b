// SPDX-License-Identifier: MIT OR Apache-2.0
//! From cells to figures: the formulas of docs/explanation/evaluation.md, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use fpt_geometry::Mode;
use fpt_walksim_model::config::{self, Config, Cycles};
use fpt_walksim_model::report::{ByCache, Categories, Kind, Organisation, Phase, WASTED_CYCLES};
use serde::{Deserialize, Serialize};

use super::stats;
use super::weights::{self, Weights};
use crate::api::{Fail, Result};
use crate::bench::schema::{self, Cell, SCHEMA};
use crate::bench::settings::{Old, Settings};

/// The order of the paper's figures; others follow by name.
const ORDER: [&str; 12] = [
    "bfs",
    "dfs",
    "dc",
    "sssp",
    "cc",
    "tc",
    "pr",
    "sysbench",
    "gups",
    "redis",
    "memcached",
    "postgres",
];
/// Those that share one program and one kind of input.
pub const GRAPHS: [&str; 7] = ["bfs", "dfs", "dc", "sssp", "cc", "tc", "pr"];
/// The walk through the guest's own tables.
const REAL: &str = "real";
/// Both phases together.
pub const ALL: &str = "all";

/// Part of a phase's instructions below which means leave a count of instructions out.
pub const LITTLE: f64 = 0.005;

/// Every cell of one matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub name: String,
    pub cells: Vec<Cell>,
    /// Names of all cells that were asked for, as far as that is known.
    pub asked: Vec<String>,
}

fn rank(name: &str, order: &[&str]) -> usize {
    order.iter().position(|o| *o == name).unwrap_or(order.len())
}

impl Matrix {
    /// `dir` holds `cells/*.json`.
    pub fn load(dir: &Path) -> Result<Matrix> {
        let cells = dir.join("cells");
        let mut found = Vec::new();
        let entries = std::fs::read_dir(&cells).map_err(|e| {
            Fail::usage(
                format!("no results in {}", dir.display()),
                format!("cannot read {}: {e}", cells.display()),
                "run `cargo xtask bench`, or name a folder that has results",
            )
        })?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot list {}", cells.display()))?
                .path();
            let hidden = path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if hidden || path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            found.push(read(&path)?);
        }
        if found.is_empty() {
            return Err(Fail::usage(
                format!("no results in {}", dir.display()),
                "its folder cells is empty",
                "run `cargo xtask bench`",
            ));
        }
        let name = dir
            .canonicalize()
            .ok()
            .and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default();
        let mut matrix = Matrix::new(name, found);
        if let Some(old) = Old::load(dir)? {
            let Settings {
                workloads, modes, ..
            } = &old.settings;
            matrix.asked = names(workloads, modes, old.settings.repeat);
        }
        Ok(matrix)
    }

    pub fn new(name: String, mut cells: Vec<Cell>) -> Matrix {
        cells.sort_by(|a, b| {
            let key = |c: &Cell| (rank(&c.workload, &ORDER), c.workload.clone(), c.mode, c.run);
            key(a).cmp(&key(b))
        });
        Matrix {
            name,
            cells,
            asked: Vec::new(),
        }
    }

    fn unique<'a, T: PartialEq>(&'a self, of: impl Fn(&'a Cell) -> T) -> Vec<T> {
        let mut out = Vec::new();
        for cell in &self.cells {
            if !out.contains(&of(cell)) {
                out.push(of(cell));
            }
        }
        out
    }

    pub fn workloads(&self) -> Vec<&str> {
        self.unique(|c| c.workload.as_str())
    }

    /// In the order of the design, whatever the first workload has.
    pub fn modes(&self) -> Vec<Mode> {
        let mut modes = self.unique(|c| c.mode);
        modes.sort();
        modes
    }

    /// Every run of a workload in a mode, in order.
    fn runs(&self, workload: &str, mode: Mode) -> Vec<&Cell> {
        (self.cells.iter())
            .filter(|c| c.workload == workload && c.mode == mode)
            .collect()
    }

    /// Its first run that has figures; if none has, its first.
    pub fn cell(&self, workload: &str, mode: Mode) -> Option<&Cell> {
        let runs = self.runs(workload, mode);
        let whole = runs.iter().find(|c| c.figures().is_some());
        whole.or(runs.first()).copied()
    }

    /// One cell for each workload and mode: what is too fine to be averaged is shown of one run.
    pub fn firsts(&self) -> Vec<&Cell> {
        (self.cells.iter())
            .filter(|c| {
                self.cell(&c.workload, c.mode)
                    .is_some_and(|f| f.run == c.run)
            })
            .collect()
    }

    /// The most often that a cell was run.
    pub fn repeat(&self) -> u32 {
        self.cells.iter().map(|c| c.run).max().unwrap_or(1)
    }

    /// Cells that were asked for, or that others would stand beside, and that are not there.
    pub fn missing(&self) -> Vec<String> {
        let mut names = names(&self.workloads(), &self.modes(), self.repeat());
        for name in &self.asked {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names.retain(|n| self.cells.iter().all(|c| c.name() != *n));
        names
    }

    /// Names exactly these results, wherever they are drawn: of what each cell's figures depend on, and when
    /// it was run.
    pub fn hash(&self) -> String {
        let mut inputs = crate::api::hash::Inputs::new();
        for cell in &self.cells {
            inputs.text(&cell.name(), &format!("{} {}", cell.hash, cell.began_utc));
        }
        inputs.finish()
    }

    /// What the cells do not agree on although figures compare them; empty in a sound matrix.
    pub fn differences(&self) -> Vec<String> {
        type Fact = (&'static str, fn(&Cell) -> String);
        let facts: [Fact; 9] = [
            ("scale", |c| c.scale.clone()),
            ("preset", |c| c.preset.clone()),
            ("transparent huge pages", |c| c.thp.clone()),
            ("virtual CPUs", |c| c.vcpus.to_string()),
            ("kernel", |c| c.provenance.kernel_hash.clone()),
            ("QEMU", |c| c.provenance.qemu_hash.clone()),
            ("simulator", |c| c.provenance.plugin_hash.clone()),
            ("configuration", |c| c.provenance.config_hash.clone()),
            ("guest image", |c| c.provenance.initramfs_hash.clone()),
        ];
        let mut out = Vec::new();
        for (what, of) in facts {
            let mut values: Vec<String> = self.cells.iter().map(of).collect();
            values.sort();
            values.dedup();
            if values.len() > 1 {
                let short: Vec<&str> = values.iter().map(|v| crate::api::hash::short(v)).collect();
                out.push(format!("{what}: {}", short.join(", ")));
            }
        }
        out
    }
}

/// The names of all cells of a matrix.
fn names<T: AsRef<str>>(workloads: &[T], modes: &[Mode], repeat: u32) -> Vec<String> {
    (1..=repeat)
        .flat_map(|run| workloads.iter().map(move |w| (run, w)))
        .flat_map(|(run, w)| (modes.iter()).map(move |m| schema::name(w.as_ref(), *m, run)))
        .collect()
}

fn read(path: &Path) -> Result<Cell> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bad = |why: String| {
        Fail::usage(
            format!("{} is no result of bench", path.display()),
            why,
            "remove it, or run `cargo xtask bench --resume`",
        )
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    match value.get("schema").and_then(|s| s.as_str()) {
        Some(SCHEMA) => {}
        Some(other) => {
            return Err(bad(format!(
                "its schema is {other}, this tool reads {SCHEMA}"
            )))
        }
        None => return Err(bad("it has no schema".into())),
    }
    serde_json::from_value(value).map_err(|e| bad(e.to_string()))
}

/// One organisation in one phase of one cell, or the mean of its runs: a row of the CSV files and of the
/// JSON's `rows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub workload: String,
    pub mode: Mode,
    /// `load`, `run`, or `all`: both.
    pub phase: String,
    /// `real`: the walk through the guest's own tables; others are computed on the same accesses.
    pub organisation: String,
    /// `real` or `counterfactual`.
    pub kind: String,
    pub preset: String,
    pub instructions_user: u64,
    pub instructions_kernel: u64,
    /// A string instruction counts once, whatever its length.
    pub instructions_kernel_strings_once: u64,
    pub kernel_page_fault: u64,
    pub kernel_syscall: u64,
    pub kernel_timer: u64,
    pub kernel_interrupt: u64,
    pub kernel_thread: u64,
    pub kernel_other: u64,
    pub walks: u64,
    pub entry_reads: u64,
    pub entry_reads_l2: u64,
    pub entry_reads_llc: u64,
    pub entry_reads_memory: u64,
    pub accesses_per_walk: Option<f64>,
    /// Cycles per walk.
    pub walk_latency: Option<f64>,
    /// Walks per 1000 instructions.
    pub tlb_mpki: Option<f64>,
    pub ipc: Option<f64>,
    pub cycles: f64,
    pub cycles_walk: f64,
    pub cycles_data: f64,
    pub cycles_instruction: f64,
    pub cycles_tlb: f64,
    /// The part of it that every access pays.
    #[serde(default)]
    pub cycles_tlb_hits: Option<f64>,
    /// Bounds of `cycles_walk`: reads that walks do not need for nothing, and charged.
    #[serde(default)]
    pub cycles_walk_low: Option<f64>,
    #[serde(default)]
    pub cycles_walk_high: Option<f64>,
    /// Data accesses that memory answered.
    #[serde(default)]
    pub data_from_memory: Option<u64>,
    /// All page tables of the guest at the end of the run phase.
    pub page_table_kb: Option<u64>,
    /// Accesses of the phase that are in no figure of a TLB (docs/reference/walksim-schema.md).
    pub untranslated_data: u64,
    pub untranslated_fetch: u64,
    /// Which run, or empty in a mean.
    #[serde(default)]
    pub run: Option<u32>,
    /// The number of runs that are in it.
    #[serde(default = "one")]
    pub runs: u64,
}

fn one() -> u64 {
    1
}

impl Row {
    pub fn categories(&self) -> [u64; 6] {
        [
            self.kernel_page_fault,
            self.kernel_syscall,
            self.kernel_timer,
            self.kernel_interrupt,
            self.kernel_thread,
            self.kernel_other,
        ]
    }
}

pub const CATEGORIES: [&str; 6] = [
    "page faults",
    "system calls",
    "timer",
    "interrupts",
    "kernel threads",
    "other",
];

fn per(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| value / by)
}

/// Sums over phases and runs; every quotient comes from the sums.
#[derive(Clone, Debug, Default)]
struct Sum {
    user: u64,
    kernel: u64,
    once: u64,
    by: Categories,
    walks: u64,
    reads: u64,
    cache: ByCache,
    walk_cycles: f64,
    /// Instructions that the simulator set against its cycles (without warm-up).
    instructions: f64,
    cycles: [f64; 5],
    tlb_hits: f64,
    walk_bounds: [f64; 2],
    data_from_memory: u64,
    untranslated: [u64; 2],
}

impl Sum {
    fn add(&mut self, phase: &Phase, o: &Organisation, machine: &Config) {
        let accesses = phase.accesses.data() + phase.accesses.fetch();
        self.tlb_hits += accesses as f64 * machine.cycles.tlb;
        self.data_from_memory += o.caches.data_misses.memory;
        let wasted = o.details.get(WASTED_CYCLES).copied().unwrap_or(0) as f64;
        let (low, high) = match machine.ecpt.charge_wasted {
            true => (o.walk_cycles - wasted, o.walk_cycles),
            false => (o.walk_cycles, o.walk_cycles + wasted),
        };
        self.walk_bounds[0] += low;
        self.walk_bounds[1] += high;
        let i = &phase.instructions;
        self.untranslated[0] += phase.untranslated.data;
        self.untranslated[1] += phase.untranslated.fetch;
        self.user += i.user;
        self.kernel += i.kernel;
        self.once += i.kernel_strings_once;
        let (by, new) = (&mut self.by, &i.kernel_by_category);
        by.page_fault += new.page_fault;
        by.syscall += new.syscall;
        by.timer += new.timer;
        by.interrupt += new.interrupt;
        by.kernel_thread += new.kernel_thread;
        by.other += new.other;
        self.walks += o.walks;
        self.reads += o.walk_entry_reads;
        self.cache.l2 += o.entry_reads_by_cache.l2;
        self.cache.llc += o.entry_reads_by_cache.llc;
        self.cache.memory += o.entry_reads_by_cache.memory;
        self.walk_cycles += o.walk_cycles;
        self.instructions += o.ipc * o.cycles.total;
        let new = [
            o.cycles.total,
            o.cycles.walk,
            o.cycles.data,
            o.cycles.instruction,
            o.cycles.tlb,
        ];
        for (sum, new) in self.cycles.iter_mut().zip(new) {
            *sum += new;
        }
    }

    /// Counts and cycles per run.
    fn row(&self, cells: &[&Cell], phase: &str, o: &Organisation) -> Option<Row> {
        let cell = *cells.first()?;
        let runs = cells.len() as u64;
        let each = |count: u64| (count + runs / 2) / runs;
        let all = (self.user + self.kernel) as f64;
        let [cycles, cycles_walk, cycles_data, cycles_instruction, cycles_tlb] =
            self.cycles.map(|c| c / runs as f64);
        let tables: Vec<u64> = (cells.iter())
            .filter_map(|c| c.guest.page_tables_kb)
            .collect();
        let count = tables.len() as u64;
        Some(Row {
            workload: cell.workload.clone(),
            mode: cell.mode,
            phase: phase.into(),
            organisation: o.name.clone(),
            kind: match o.kind {
                Kind::Real => "real".into(),
                Kind::Counterfactual => "counterfactual".into(),
            },
            preset: o.preset.clone(),
            instructions_user: each(self.user),
            instructions_kernel: each(self.kernel),
            instructions_kernel_strings_once: each(self.once),
            kernel_page_fault: each(self.by.page_fault),
            kernel_syscall: each(self.by.syscall),
            kernel_timer: each(self.by.timer),
            kernel_interrupt: each(self.by.interrupt),
            kernel_thread: each(self.by.kernel_thread),
            kernel_other: each(self.by.other),
            walks: each(self.walks),
            entry_reads: each(self.reads),
            entry_reads_l2: each(self.cache.l2),
            entry_reads_llc: each(self.cache.llc),
            entry_reads_memory: each(self.cache.memory),
            accesses_per_walk: per(self.reads as f64, self.walks as f64),
            walk_latency: per(self.walk_cycles, self.walks as f64),
            tlb_mpki: per(self.walks as f64 * 1000.0, all),
            ipc: per(self.instructions, cycles * runs as f64),
            cycles,
            cycles_walk,
            cycles_data,
            cycles_instruction,
            cycles_tlb,
            cycles_tlb_hits: Some(self.tlb_hits / runs as f64),
            cycles_walk_low: Some(self.walk_bounds[0] / runs as f64),
            cycles_walk_high: Some(self.walk_bounds[1] / runs as f64),
            data_from_memory: Some(each(self.data_from_memory)),
            page_table_kb: (count > 0).then(|| (tables.iter().sum::<u64>() + count / 2) / count),
            untranslated_data: each(self.untranslated[0]),
            untranslated_fetch: each(self.untranslated[1]),
            run: (runs == 1).then_some(cell.run),
            runs,
        })
    }
}

/// Each organisation of each phase, and of both together: of a cell, or the means of its runs.
fn rows_of(cells: &[&Cell]) -> Vec<Row> {
    let mut sums: Vec<(&str, &Organisation, Sum)> = Vec::new();
    for report in cells.iter().filter_map(|c| c.figures()) {
        let machines = machines(&report.config);
        for phase in &report.phases {
            for o in &phase.organisations {
                let Some(machine) = machines.iter().find(|m| m.preset == o.preset) else {
                    continue;
                };
                for name in [&phase.name, ALL] {
                    let same = |s: &(&str, &Organisation, Sum)| {
                        s.0 == name && s.1.name == o.name && s.1.preset == o.preset
                    };
                    let at = sums.iter().position(same).unwrap_or_else(|| {
                        sums.push((name, o, Sum::default()));
                        sums.len() - 1
                    });
                    if let Some((_, _, sum)) = sums.get_mut(at) {
                        sum.add(phase, o, machine);
                    }
                }
            }
        }
    }
    sums.sort_by_key(|(name, _, _)| *name == ALL);
    (sums.iter())
        .filter_map(|(name, o, sum)| sum.row(cells, name, o))
        .collect()
}

/// The modelled machines of a run.
fn machines(config: &Config) -> Vec<Config> {
    config.machines().unwrap_or_else(|_| vec![config.clone()])
}

/// Every row of every run.
fn rows(matrix: &Matrix) -> Vec<Row> {
    let whole = matrix.cells.iter().filter(|c| c.figures().is_some());
    whole.flat_map(|c| rows_of(&[c])).collect()
}

/// Every row, each the mean of its runs.
fn means(matrix: &Matrix) -> Vec<Row> {
    let mut out = Vec::new();
    for first in matrix.firsts() {
        let mut runs = matrix.runs(&first.workload, first.mode);
        runs.retain(|c| c.figures().is_some());
        out.extend(rows_of(&runs));
    }
    out
}

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
    presets: BTreeMap<(String, Mode), String>,
    /// Cycles of each preset's machine.
    cycles: BTreeMap<String, Cycles>,
}

/// The figures of a matrix.
pub struct Table<'a> {
    pub matrix: &'a Matrix,
    pub figures: Figures,
}

impl std::ops::Deref for Table<'_> {
    type Target = Figures;
    fn deref(&self) -> &Figures {
        &self.figures
    }
}

/// Where the mean of all runs is with 95 % confidence; nothing of one run.
pub type Range = Option<(f64, f64)>;

impl<'a> Table<'a> {
    pub fn new(matrix: &'a Matrix) -> Table<'a> {
        Table::weighted(matrix, Weights::Measured)
    }

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
        let each = match dir.join("runs.csv").is_file() {
            true => read("runs.csv")?,
            false => Vec::new(),
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

    pub fn repeat(&self) -> u32 {
        self.repeat
    }

    /// An organisation on the machine of the cell's own preset: in one run, or the mean of all.
    fn find(
        &self,
        run: Option<u32>,
        workload: &str,
        mode: Mode,
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

    pub fn row(&self, workload: &str, mode: Mode, phase: &str, organisation: &str) -> Option<&Row> {
        self.find(None, workload, mode, phase, organisation)
    }

    pub fn real(&self, workload: &str, mode: Mode, phase: &str) -> Option<&Row> {
        self.row(workload, mode, phase, REAL)
    }

    /// `of` in a mode over `of` in radix.
    pub fn ratio(&self, workload: &str, mode: Mode, phase: &str, of: Of) -> Option<f64> {
        self.ratio_in(None, workload, mode, phase, &|row| of.of(row))
    }

    /// In a run, mode and radix have the same seed.
    fn ratio_in(
        &self,
        run: Option<u32>,
        workload: &str,
        mode: Mode,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Option<f64> {
        let value = of(self.find(run, workload, mode, phase, REAL)?)?;
        let base = of(self.find(run, workload, Mode::Radix, phase, REAL)?)?;
        per(value, base)
    }

    fn runs(&self) -> impl Iterator<Item = Option<u32>> {
        (1..=self.repeat).map(Some)
    }

    /// The interval of the ratio, from those of the single runs.
    pub fn range(&self, workload: &str, mode: Mode, phase: &str, of: Of) -> Range {
        let ratios: Vec<f64> = (self.runs())
            .filter_map(|run| self.ratio_in(run, workload, mode, phase, &|row| of.of(row)))
            .collect();
        stats::interval(&ratios)
    }

    /// The ratios of the single runs.
    pub fn dots(&self, workload: &str, mode: Mode, phase: &str, of: Of) -> Vec<f64> {
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
        self.real(workload, Mode::Radix, phase).is_some_and(|r| {
            let all = r.instructions_user + r.instructions_kernel;
            of.of(r).is_some_and(|n| n >= LITTLE * all as f64)
        })
    }

    /// Geometric mean of the ratios of those `workloads` that have one worth its name, and how many they are. The graph
    /// programs share one program and one graph: where others stand beside them they count as one.
    pub fn mean(
        &self,
        workloads: &[&str],
        mode: Mode,
        phase: &str,
        of: Of,
    ) -> Option<(f64, usize)> {
        let weighing = self.weighing(workloads, phase, of);
        self.mean_in(None, &weighing, mode, phase, &|row| of.of(row))
    }

    fn weighing<'w>(&self, workloads: &[&'w str], phase: &str, of: Of) -> Vec<&'w str> {
        let all = workloads.iter().copied();
        all.filter(|w| self.weighs(w, phase, of)).collect()
    }

    fn mean_in(
        &self,
        run: Option<u32>,
        workloads: &[&str],
        mode: Mode,
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
    pub fn mean_range(&self, workloads: &[&str], mode: Mode, phase: &str, of: Of) -> Range {
        let weighing = self.weighing(workloads, phase, of);
        self.mean_range_by(&weighing, mode, phase, &|row| of.of(row))
    }

    /// As [`Figures::mean`], of whatever can be said of a row.
    pub fn mean_by(
        &self,
        workloads: &[&str],
        mode: Mode,
        phase: &str,
        of: &dyn Fn(&Row) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        self.mean_in(None, workloads, mode, phase, of)
    }

    /// As [`Figures::mean_range`], of whatever can be said of a row.
    pub fn mean_range_by(
        &self,
        workloads: &[&str],
        mode: Mode,
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

/// A figure that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    KernelInstructions,
    PageFaultInstructions,
    WalkLatency,
    AccessesPerWalk,
    TlbMpki,
    Ipc,
    Cycles,
}

impl Of {
    pub const ALL: [Of; 7] = [
        Of::KernelInstructions,
        Of::PageFaultInstructions,
        Of::WalkLatency,
        Of::AccessesPerWalk,
        Of::TlbMpki,
        Of::Ipc,
        Of::Cycles,
    ];

    pub fn of(self, row: &Row) -> Option<f64> {
        match self {
            Of::KernelInstructions => Some(row.instructions_kernel as f64),
            Of::PageFaultInstructions => Some(row.kernel_page_fault as f64),
            Of::WalkLatency => row.walk_latency,
            Of::AccessesPerWalk => row.accesses_per_walk,
            Of::TlbMpki => row.tlb_mpki,
            Of::Ipc => row.ipc,
            Of::Cycles => Some(row.cycles),
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Of::KernelInstructions => "kernel instructions",
            Of::PageFaultInstructions => "page-fault instructions",
            Of::WalkLatency => "walk latency (cycles)",
            Of::AccessesPerWalk => "accesses per walk",
            Of::TlbMpki => "TLB misses per 1000 instructions",
            Of::Ipc => "IPC",
            Of::Cycles => "cycles, end to end",
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::schema::{Guest, Provenance};
    use crate::bench::synthetic;

    pub fn cell(workload: &str, mode: Mode) -> Cell {
        Cell {
            schema: SCHEMA.into(),
            workload: workload.into(),
            mode,
            scale: "tiny".into(),
            preset: "emt".into(),
            thp: "never".into(),
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
                cells.push(cell(workload, mode));
            }
        }
        Matrix::new("made-up".into(), cells)
    }

    #[test]
    fn known_answers() {
        let matrix = matrix();
        assert_eq!(matrix.workloads(), ["bfs", "dfs", "gups"]);
        assert_eq!(matrix.modes(), [Mode::Radix, Mode::L3L2, Mode::L4L3L2L1]);
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
                let factor = match (cell.mode, run) {
                    (Mode::L3L2, 2) => 1.02,
                    (Mode::L3L2, 3) => 0.99,
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
        first.unwrap().error = Some(crate::bench::schema::Failure {
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
            .filter(|c| c.workload == "gups" && c.mode == Mode::L3L2)
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
        matrix.cells[0].error = Some(crate::bench::schema::Failure {
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
