// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of one cell: `fpt-bench/1`. docs/explanation/evaluation.md describes every field.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fpt_geometry::Boot;
use serde::{Deserialize, Serialize};

use super::matrix::{Scale, Thp};

/// Name and version of the format.
pub const SCHEMA: &str = "fpt-bench/1";

/// Where older files say nothing of runs.
pub(crate) fn one() -> u32 {
    1
}

/// What a cell is called, and its file.
pub fn name(workload: &str, mode: Boot, run: u32) -> String {
    match run {
        1 => format!("{workload}-{mode}"),
        n => format!("{workload}-{mode}.{n}"),
    }
}

/// Edges that graph programs read instead of generating them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    /// The file, as it was named on the command line.
    pub file: PathBuf,
    /// The SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
}

/// One run of one workload in one mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// [`SCHEMA`]
    pub schema: String,
    /// The name of the program.
    pub workload: String,
    /// What the guest's kernel was booted with: a mode, or mixed.
    pub mode: Boot,
    /// How much the program works.
    pub scale: Scale,
    /// The preset of the simulated machine.
    pub preset: String,
    /// Transparent huge pages in the guest.
    pub thp: Thp,
    /// Virtual CPUs of the guest.
    pub vcpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// From 1: which of the repeated runs of this workload in this mode.
    #[serde(default = "one")]
    pub run: u32,
    /// Why there is no valid result; `null` in a finished cell.
    pub error: Option<Failure>,
    /// When the run began, as `YYYYMMDDTHHMMSSZ`.
    pub began_utc: String,
    /// How long the run took on the host, in seconds.
    pub seconds: f64,
    /// Of everything that the figures depend on: a cell with the same hash need not run again.
    pub hash: String,
    /// What the cell was made from.
    pub provenance: Provenance,
    /// The simulator's figures.
    pub walksim: Option<fpt_walksim_machine::report::Report>,
    /// What the guest said of itself.
    pub guest: Guest,
}

impl Cell {
    /// The name of its file, without the ending.
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
    pub fn figures(&self) -> Option<&fpt_walksim_machine::report::Report> {
        self.walksim.as_ref().filter(|_| self.error.is_none())
    }
}

/// Why a run has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code that this failure alone would give the tool.
    pub code: i32,
    /// One line for people.
    pub line: String,
}

/// Everything that a result depends on, by version and by hash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// What was typed.
    pub command: String,
    /// The kernel's release, as `uname -r` says it.
    pub kernel_version: String,
    /// Hash of everything that the kernel was built from.
    pub kernel_hash: String,
    /// QEMU's release.
    pub qemu_version: String,
    /// Hash of everything that QEMU was built from.
    pub qemu_hash: String,
    /// Hash of the guest's root file system.
    pub initramfs_hash: String,
    /// Hash of the simulator's plugin.
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
    /// The host's processor, as it names itself.
    pub host_cpu: String,
    /// Processors of the host.
    pub host_cpus: usize,
}

/// What the guest said of itself.
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
    /// The same counters at the end of the run phase.
    #[serde(default)]
    pub fpt_stats: BTreeMap<String, i64>,
    /// The last line of the program: its own check.
    #[serde(default)]
    pub said: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    #[test]
    fn a_cell_is_named_after_its_boot_choice() {
        assert_eq!(name("bfs", Mode::L4L3L2L1.into(), 1), "bfs-l4l3-l2l1");
        assert_eq!(name("bfs", Boot::Mixed, 1), "bfs-mixed");
        assert_eq!(name("bfs", Boot::Mixed, 2), "bfs-mixed.2");
    }

    #[test]
    fn a_boot_choice_in_a_file_is_its_name() {
        for boot in Boot::ALL {
            let text = serde_json::to_string(&boot).unwrap();
            assert_eq!(text, format!("\"{boot}\""));
            assert_eq!(serde_json::from_str::<Boot>(&text).unwrap(), boot);
        }
        // What older cells say.
        for mode in Mode::ALL {
            let text = serde_json::to_string(&mode).unwrap();
            assert_eq!(serde_json::from_str::<Boot>(&text).unwrap(), mode.into());
        }
        let err = serde_json::from_str::<Boot>("\"mixt\"").unwrap_err();
        let err = err.to_string();
        let names = Boot::ALL.map(|boot| boot.to_string()).join(", ");
        assert!(err.contains("mode 'mixt'") && err.contains(&names), "{err}");
        assert!(serde_json::from_str::<Mode>("\"mixed\"").is_err());
    }
}
