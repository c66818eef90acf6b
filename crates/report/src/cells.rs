// SPDX-License-Identifier: MIT OR Apache-2.0
//! All cells of a matrix, as `bench` left them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use fpt_geometry::{Boot, NodeKind};

use fpt_formats::cell::{self, Cell, SCHEMA};
use fpt_formats::matrix::{Old, Settings};
use fpt_kit::{Fail, Result};

/// The order of the paper's figures; others follow by name.
pub const ORDER: [&str; 12] = [
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

/// Every cell of one matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The name of its folder.
    pub name: String,
    /// The cells, in the order of the report.
    pub cells: Vec<Cell>,
    /// Names of all cells that were asked for, as far as that is known.
    pub asked: Vec<String>,
}

/// The place of `name` in `order`; names that are not in it come last.
pub fn rank(name: &str, order: &[&str]) -> usize {
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

    /// A matrix of these cells, which it sorts.
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

    /// Names of the workloads, in the order of the report.
    pub fn workloads(&self) -> Vec<&str> {
        self.unique(|c| c.workload.as_str())
    }

    /// In the order of the design, mixed last, whatever the first workload has.
    pub fn modes(&self) -> Vec<Boot> {
        let mut modes = self.unique(|c| c.mode);
        modes.sort();
        modes
    }

    /// Every run of a workload in a mode, in order.
    pub fn runs(&self, workload: &str, mode: impl Into<Boot>) -> Vec<&Cell> {
        let mode = mode.into();
        (self.cells.iter())
            .filter(|c| c.workload == workload && c.mode == mode)
            .collect()
    }

    /// Its first run that has figures; if none has, its first.
    pub fn cell(&self, workload: &str, mode: impl Into<Boot>) -> Option<&Cell> {
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

    /// Cells of mixed in whose guest no node was made while the program ran: the tables there were radix's. In a
    /// mode of its own such a cell has no figures; under mixed a small program is meant to have none.
    pub fn without_nodes(&self) -> Vec<String> {
        let none = |c: &&Cell| NodeKind::ALL.iter().all(|kind| installs(c, *kind) <= 0);
        let mixed = self.cells.iter().filter(|c| c.mode == Boot::Mixed);
        let whole = mixed.filter(|c| c.figures().is_some());
        whole.filter(none).map(Cell::name).collect()
    }

    /// Names exactly these results, wherever they are drawn: of what each cell's figures depend on, and when
    /// it was run.
    pub fn hash(&self) -> String {
        let mut inputs = fpt_kit::hash::Inputs::new();
        for cell in &self.cells {
            inputs.text(&cell.name(), &format!("{} {}", cell.hash, cell.began_utc));
        }
        inputs.finish()
    }

    /// What the cells do not agree on although figures compare them; empty in a sound matrix.
    pub fn differences(&self) -> Vec<String> {
        type Fact = (&'static str, fn(&Cell) -> String);
        let facts: [Fact; 9] = [
            ("scale", |c| c.scale.name().into()),
            ("preset", |c| c.preset.clone()),
            ("transparent huge pages", |c| c.thp.name().into()),
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
                let short: Vec<&str> = values.iter().map(|v| fpt_kit::hash::short(v)).collect();
                out.push(format!("{what}: {}", short.join(", ")));
            }
        }
        out
    }
}

/// Nodes that the kernel made while the program ran.
fn installs(cell: &Cell, kind: NodeKind) -> i64 {
    let name = format!("{kind}_installs");
    let of = |stats: &BTreeMap<String, i64>| stats.get(&name).copied().unwrap_or(0);
    of(&cell.guest.fpt_stats) - of(&cell.guest.fpt_stats_before)
}

/// The names of all cells of a matrix.
fn names<T: AsRef<str>>(workloads: &[T], modes: &[Boot], repeat: u32) -> Vec<String> {
    (1..=repeat)
        .flat_map(|run| workloads.iter().map(move |w| (run, w)))
        .flat_map(|(run, w)| (modes.iter()).map(move |m| cell::name(w.as_ref(), *m, run)))
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
