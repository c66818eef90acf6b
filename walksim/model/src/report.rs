// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of a simulation: what goes to the output file. `docs/reference/walksim-schema.md` describes each field;
//! change [`SCHEMA`] with every change that an old reader would misunderstand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Name and version of the format.
pub const SCHEMA: &str = "fpt-walksim/1";

/// In `details` of an organisation whose walks read more than they need: the cycles by which walks that are charged
/// for it are longer than walks that are not.
pub const WASTED_CYCLES: &str = "wasted_cycles";

/// One output file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`]
    pub schema: String,
    /// As given to the plugin; empty without.
    pub label: String,
    pub config: Config,
    pub vcpus: u32,
    /// The guest ended and every phase that began has ended.
    pub complete: bool,
    /// What makes the figures unusable; one line each. Empty in a good run.
    pub errors: Vec<String>,
    pub checks: Checks,
    /// In the order in which they began.
    pub phases: Vec<Phase>,
}

/// What the simulation checked about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    /// Walks for data accesses whose page was compared with QEMU's own translation of the access.
    pub walks_checked: u64,
    /// Data accesses to pages walked earlier whose address was compared with QEMU's own translation, and hits of the
    /// second-level TLB that were compared with the walk.
    pub hits_checked: u64,
    /// Kept walks that were compared, entry by entry, with a new one.
    #[serde(default)]
    pub entries_checked: u64,
    /// Walks for fetches whose page was compared with where the code was when QEMU translated it.
    #[serde(default)]
    pub fetches_checked: u64,
    /// Blocks whose place was compared with where QEMU read their code.
    #[serde(default)]
    pub code_checked: u64,
    /// Comparisons that differed. Each is an error.
    pub mismatches: u64,
    /// Accesses that succeeded although the tables no longer map the address: the guest had changed the
    /// entry and not yet invalidated it, which the architecture allows.
    pub stale: u64,
    /// Kernel instructions that followed user ones, or began, without a known entry.
    pub lost_entries: u64,
    /// `ok`, or the law that does not hold.
    pub conservation: String,
}

/// What happened between a begin mark and its end mark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `load`, `run`, `whole` (a program's run from exec to end), or `phase-XX` with the mark's id in hexadecimal.
    pub name: String,
    /// The end mark was seen.
    pub ended: bool,
    /// Instructions that the guest had executed since the first mark when this phase began.
    pub begin_insn: u64,
    /// Accesses of this phase that warmed the models up and are in no figure.
    pub warmup_accesses: u64,
    pub instructions: Instructions,
    /// Entries of the kernel that were seen, by category; nested ones, too.
    #[serde(default)]
    pub entries: Categories,
    /// Instructions of page faults by kernel function, the most expensive first.
    pub page_fault_functions: Vec<Function>,
    pub accesses: Accesses,
    pub untranslated: Untranslated,
    /// By task of the guest, the busiest first.
    pub tasks: Vec<Task>,
    pub organisations: Vec<Organisation>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// Each element of a REP string instruction counts as one instruction.
    pub user: u64,
    /// The same count for kernel mode; see `user`.
    pub kernel: u64,
    /// Kernel instructions when a REP string instruction counts as one, whatever its number of elements.
    pub kernel_strings_once: u64,
    /// By the entry that led from user mode (or a kernel thread) into the kernel.
    pub kernel_by_category: Categories,
    /// By the innermost entry: a page fault inside a system call is a page fault here.
    pub kernel_by_innermost_entry: Categories,
    /// User and kernel instructions that access no data memory (strings once).
    pub without_data_access: u64,
}

/// Kernel instructions by category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Categories {
    pub page_fault: u64,
    pub syscall: u64,
    pub timer: u64,
    pub interrupt: u64,
    pub kernel_thread: u64,
    pub other: u64,
}

impl Categories {
    pub fn sum(&self) -> u64 {
        self.page_fault
            + self.syscall
            + self.timer
            + self.interrupt
            + self.kernel_thread
            + self.other
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    pub name: String,
    pub instructions: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The address of its `task_struct`, in hexadecimal. Another task may get it when this one is gone.
    pub task: String,
    /// The name that the kernel has for it; empty if it is not known.
    #[serde(default)]
    pub comm: String,
    pub user: u64,
    pub kernel: u64,
}

/// Accesses that went into the models. One that crosses a line counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accesses {
    pub user_data: u64,
    pub user_fetch: u64,
    pub kernel_data: u64,
    pub kernel_fetch: u64,
}

impl Accesses {
    pub fn data(&self) -> u64 {
        self.user_data + self.kernel_data
    }
    pub fn fetch(&self) -> u64 {
        self.user_fetch + self.kernel_fetch
    }
}

/// Accesses of [`Accesses`] that are in no figure of a TLB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untranslated {
    /// The walk found no page, although the access succeeded: see [`Checks::stale`]. Not in the caches.
    pub data: u64,
    /// Code that QEMU translated at another virtual address of the same physical page, so that the virtual
    /// address of this execution is not known.
    pub fetch: u64,
    /// The part of `fetch` whose physical address is not known either. Not in the caches.
    pub fetch_without_address: u64,
}

/// Is an organisation what the guest has, or a computation of what another would do?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Real,
    Counterfactual,
}

/// One page-table organisation on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Organisation {
    /// `real`, `radix`, `ideal`, `ecpt`
    pub name: String,
    pub kind: Kind,
    pub preset: String,
    pub tlb: Tlbs,
    pub walks: u64,
    pub walks_by_page_size: BySize,
    pub walk_entry_reads: u64,
    pub walk_cycles: f64,
    /// Keys: `pml4`, `pdpt`, `pd`, `pt` (the level of the entry, whatever the node it lives in); `ecpt`
    /// has `pte`, `pmd`, `cwt_pmd`, `cwt_pud`.
    pub entry_reads_by_level: BTreeMap<String, u64>,
    /// Where entry reads found their line.
    pub entry_reads_by_cache: ByCache,
    /// Page-walk caches by the level of the entries that they hold.
    pub pwc: BTreeMap<String, HitMiss>,
    pub caches: Caches,
    pub cycles: Cycles,
    /// `walk_cycles / walks`; 0 without walks.
    pub walk_latency: f64,
    /// Instructions (strings per element) per cycle; 0 without cycles.
    pub ipc: f64,
    /// What only this organisation has, by name.
    pub details: BTreeMap<String, u64>,
}

/// Counts by page size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySize {
    #[serde(rename = "4k")]
    pub small: u64,
    #[serde(rename = "2m")]
    pub large: u64,
    #[serde(rename = "1g")]
    pub huge: u64,
}

impl BySize {
    pub fn sum(&self) -> u64 {
        self.small + self.large + self.huge
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tlbs {
    pub l1i: TlbLevel,
    pub l1d: TlbLevel,
    pub stlb: TlbLevel,
    pub flushes: Flushes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlbLevel {
    pub accesses: u64,
    pub hits: BySize,
    /// By the size of the page that the access turned out to be in.
    pub misses: BySize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushes {
    /// Flushes of everything.
    pub all: u64,
    /// Of an address space: a write to CR3.
    pub address_space: u64,
    /// Flushes of one page: INVLPG.
    pub page: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByCache {
    pub l2: u64,
    pub llc: u64,
    pub memory: u64,
}

impl ByCache {
    pub fn sum(&self) -> u64 {
        self.l2 + self.llc + self.memory
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitMiss {
    pub hits: u64,
    pub misses: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    pub l1i: HitMiss,
    pub l1d: HitMiss,
    /// Instruction and data misses of the first level.
    pub l2: HitMiss,
    pub llc: HitMiss,
    /// Entry reads of walks.
    pub l2_walk: HitMiss,
    pub llc_walk: HitMiss,
    /// Where the misses of L1D found their line.
    pub data_misses: ByCache,
    /// Where the misses of L1I found their line.
    pub fetch_misses: ByCache,
    /// Lines that the next-line prefetcher brought into L1D.
    pub prefetches: u64,
    /// Lines that had to come from memory for it.
    pub prefetches_from_memory: u64,
    /// Where the prefetcher found its lines.
    #[serde(default)]
    pub prefetch_reads: ByCache,
    /// How often L2 and the last level were asked, by whomever.
    #[serde(default)]
    pub l2_lookups: u64,
    #[serde(default)]
    pub llc_lookups: u64,
}

/// Cycles by what they are spent on; `total` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    pub total: f64,
    pub walk: f64,
    pub data: f64,
    pub instruction: f64,
    pub tlb: f64,
}
