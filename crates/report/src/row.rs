// SPDX-License-Identifier: MIT OR Apache-2.0
//! The row of a table of figures, and the columns that are compared.

use fpt_geometry::Boot;
use serde::{Deserialize, Serialize};

/// Both phases together.
pub const ALL: &str = "all";

/// One organisation in one phase of one cell, or the mean of its runs: a row of the CSV files and of the
/// JSON's `rows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name of the program.
    pub workload: String,
    /// The mode of the guest's kernel.
    pub mode: Boot,
    /// `load`, `run`, or `all`: both.
    pub phase: String,
    /// `real`: the walk through the guest's own tables; others are computed on the same accesses.
    pub organisation: String,
    /// `real` or `counterfactual`.
    pub kind: String,
    /// The preset of the simulated machine.
    pub preset: String,
    /// Instructions in user mode.
    pub instructions_user: u64,
    /// Instructions in kernel mode; each element of a string instruction counts.
    pub instructions_kernel: u64,
    /// A string instruction counts once, whatever its length.
    pub instructions_kernel_strings_once: u64,
    /// Kernel instructions of page faults.
    pub kernel_page_fault: u64,
    /// Kernel instructions of system calls.
    pub kernel_syscall: u64,
    /// Kernel instructions of the timer's interrupts.
    pub kernel_timer: u64,
    /// Kernel instructions of other interrupts.
    pub kernel_interrupt: u64,
    /// Instructions of threads that live in the kernel only.
    pub kernel_thread: u64,
    /// All other kernel instructions.
    pub kernel_other: u64,
    /// Page walks.
    pub walks: u64,
    /// Page-table entries that walks read.
    pub entry_reads: u64,
    /// Those of `entry_reads` that the second-level cache answered.
    pub entry_reads_l2: u64,
    /// Those of `entry_reads` that the last-level cache answered.
    pub entry_reads_llc: u64,
    /// Those of `entry_reads` that memory answered.
    pub entry_reads_memory: u64,
    /// Entries read per walk; none without walks.
    pub accesses_per_walk: Option<f64>,
    /// Cycles per walk.
    pub walk_latency: Option<f64>,
    /// Walks per 1000 instructions.
    pub tlb_mpki: Option<f64>,
    /// Instructions per cycle, string instructions by their elements; none without cycles.
    pub ipc: Option<f64>,
    /// Cycles of the whole machine: the sum of the next four.
    pub cycles: f64,
    /// Cycles of page walks.
    pub cycles_walk: f64,
    /// Cycles of data accesses.
    pub cycles_data: f64,
    /// Cycles of instructions without data access, and of fetches where they are charged.
    pub cycles_instruction: f64,
    /// Cycles of look-ups in the TLBs.
    pub cycles_tlb: f64,
    /// The part of it that every access pays.
    #[serde(default)]
    pub cycles_tlb_hits: Option<f64>,
    /// Bounds of `cycles_walk`: reads that walks do not need for nothing, and charged.
    #[serde(default)]
    pub cycles_walk_low: Option<f64>,
    /// The upper bound; see `cycles_walk_low`.
    #[serde(default)]
    pub cycles_walk_high: Option<f64>,
    /// Data accesses that memory answered.
    #[serde(default)]
    pub data_from_memory: Option<u64>,
    /// All page tables of the guest at the end of the run phase.
    pub page_table_kb: Option<u64>,
    /// Accesses of the phase that are in no figure of a TLB (docs/reference/walksim-schema.md).
    pub untranslated_data: u64,
    /// The same for instruction fetches.
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
    /// Kernel instructions by category, in the order of [`CATEGORIES`].
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

/// What led into the kernel, as people read it.
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
    /// Kernel instructions.
    KernelInstructions,
    /// Kernel instructions of page faults.
    PageFaultInstructions,
    /// Cycles per walk.
    WalkLatency,
    /// Entries read per walk.
    AccessesPerWalk,
    /// Walks per 1000 instructions.
    TlbMpki,
    /// Instructions per cycle.
    Ipc,
    /// Cycles of the whole machine.
    Cycles,
}

impl Of {
    /// Every figure, in the order of the report.
    pub const ALL: [Of; 7] = [
        Of::KernelInstructions,
        Of::PageFaultInstructions,
        Of::WalkLatency,
        Of::AccessesPerWalk,
        Of::TlbMpki,
        Of::Ipc,
        Of::Cycles,
    ];

    /// This figure of a row; none where the row has none.
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

    /// The name that people read, with the unit.
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
