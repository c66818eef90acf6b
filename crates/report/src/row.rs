// SPDX-License-Identifier: MIT OR Apache-2.0
//! The row of a table of figures, and the columns that are compared.

use fpt_geometry::Mode;
use serde::{Deserialize, Serialize};

/// Both phases together.
pub const ALL: &str = "all";

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

/// Where the mean of all runs is with 95 % confidence; nothing of one run.
pub type Range = Option<(f64, f64)>;

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
