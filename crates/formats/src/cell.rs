// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of one cell: `fpt-bench/1`. docs/explanation/evaluation.md describes every field.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fpt_geometry::Mode;
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "fpt-bench/1";

/// Where older files say nothing of runs.
pub(crate) fn one() -> u32 {
    1
}

/// What a cell is called, and its file.
pub fn name(workload: &str, mode: Mode, run: u32) -> String {
    match run {
        1 => format!("{workload}-{mode}"),
        n => format!("{workload}-{mode}.{n}"),
    }
}

/// Edges that graph programs read instead of generating them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    pub file: PathBuf,
    pub sha256: String,
}

/// One run of one workload in one mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub schema: String,
    pub workload: String,
    pub mode: Mode,
    pub scale: String,
    pub preset: String,
    pub thp: String,
    pub vcpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// From 1: which of the repeated runs of this workload in this mode.
    #[serde(default = "one")]
    pub run: u32,
    /// Why there is no valid result; `null` in a finished cell.
    pub error: Option<Failure>,
    pub began_utc: String,
    pub seconds: f64,
    /// Of everything that the figures depend on: a cell with the same hash need not run again.
    pub hash: String,
    pub provenance: Provenance,
    /// The simulator's figures.
    pub walksim: Option<fpt_walksim_model::report::Report>,
    pub guest: Guest,
}

impl Cell {
    pub fn name(&self) -> String {
        name(&self.workload, self.mode, self.run)
    }

    /// The mode, and which run of it unless it is the first.
    pub fn label(&self) -> String {
        match self.run {
            1 => self.mode.to_string(),
            n => format!("{}, run {n}", self.mode),
        }
    }

    /// The simulator's figures, if the cell is whole.
    pub fn figures(&self) -> Option<&fpt_walksim_model::report::Report> {
        self.walksim.as_ref().filter(|_| self.error.is_none())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code that this failure alone would give the tool.
    pub code: i32,
    pub line: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// What was typed.
    pub command: String,
    pub kernel_version: String,
    pub kernel_hash: String,
    pub qemu_version: String,
    pub qemu_hash: String,
    pub initramfs_hash: String,
    pub plugin_hash: String,
    /// Of the resolved configuration of the simulator, with all organisations.
    pub config_hash: String,
    /// Only the real tables were simulated, whatever other organisations the configuration names.
    #[serde(default)]
    pub real_only: bool,
    /// Of the checkout; empty outside of git.
    pub commit: String,
    /// The program in the guest.
    pub argv: Vec<String>,
    /// What graph programs read instead of generating it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Edges>,
    /// The kernel's command line.
    pub kernel_args: String,
    /// Virtual time counts instructions: two runs give nearly the same figures.
    pub icount: bool,
    pub host_cpu: String,
    pub host_cpus: usize,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Guest {
    /// The kernel that answered, as `uname` has it.
    #[serde(default)]
    pub uname: String,
    /// All page tables of the guest (`PageTables` of /proc/meminfo) before the program, those of the shell
    /// that asks among them.
    pub page_tables_before_kb: Option<u64>,
    /// The same, at the end of its run phase.
    pub page_tables_kb: Option<u64>,
    /// Counters of the kernel's flattened tables, before and after.
    #[serde(default)]
    pub fpt_stats_before: BTreeMap<String, i64>,
    #[serde(default)]
    pub fpt_stats: BTreeMap<String, i64>,
    /// The last line of the program: its own check.
    #[serde(default)]
    pub said: serde_json::Value,
}
