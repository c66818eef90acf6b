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
    /// The parameters of the first machine.
    pub config: Config,
    /// How many virtual CPUs the guest has.
    pub vcpus: u32,
    /// The guest ended and every phase that began has ended.
    pub complete: bool,
    /// What makes the figures unusable; one line each. Empty in a good run.
    pub errors: Vec<String>,
    /// What the simulation compared with QEMU, and what came of it.
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
    /// Instructions that the guest executed in this phase.
    pub instructions: Instructions,
    /// Entries of the kernel that were seen, by category; nested ones, too.
    #[serde(default)]
    pub entries: Categories,
    /// Instructions of page faults by kernel function, the most expensive first.
    pub page_fault_functions: Vec<Function>,
    /// Accesses of this phase that went into the models.
    pub accesses: Accesses,
    /// Accesses of this phase that no TLB was asked for.
    pub untranslated: Untranslated,
    /// By task of the guest, the busiest first.
    pub tasks: Vec<Task>,
    /// One for each organisation of each machine.
    pub organisations: Vec<Organisation>,
}

/// Counts of executed instructions.
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
    /// Page faults.
    pub page_fault: u64,
    /// System calls.
    pub syscall: u64,
    /// Interrupts of the local timer.
    pub timer: u64,
    /// All other interrupts.
    pub interrupt: u64,
    /// Threads that live in the kernel only.
    pub kernel_thread: u64,
    /// Other exceptions, and what ran before the first known entry.
    pub other: u64,
}

impl Categories {
    /// The sum over all categories.
    pub fn sum(&self) -> u64 {
        self.page_fault
            + self.syscall
            + self.timer
            + self.interrupt
            + self.kernel_thread
            + self.other
    }
}

/// A kernel function and what it executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its symbol in the kernel.
    pub name: String,
    /// Instructions executed in it, without those of functions that it calls.
    pub instructions: u64,
}

/// A task of the guest and what it executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The address of its `task_struct`, in hexadecimal. Another task may get it when this one is gone.
    pub task: String,
    /// The name that the kernel has for it; empty if it is not known.
    #[serde(default)]
    pub comm: String,
    /// Instructions in user mode.
    pub user: u64,
    /// Instructions in kernel mode.
    pub kernel: u64,
}

/// Accesses that went into the models. One that crosses a line counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accesses {
    /// Data accesses in user mode.
    pub user_data: u64,
    /// Instruction fetches in user mode.
    pub user_fetch: u64,
    /// Data accesses in kernel mode.
    pub kernel_data: u64,
    /// Instruction fetches in kernel mode.
    pub kernel_fetch: u64,
}

impl Accesses {
    /// Data accesses in both modes.
    pub fn data(&self) -> u64 {
        self.user_data + self.kernel_data
    }
    /// Instruction fetches in both modes.
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
    /// The tables that this guest has.
    #[default]
    Real,
    /// Other tables, computed for the same stream of accesses.
    Counterfactual,
}

/// One page-table organisation on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Organisation {
    /// `real`, `radix`, `ideal`, `ecpt`
    pub name: String,
    /// Whether these are the guest's own tables.
    pub kind: Kind,
    /// The preset of the machine: that of the configuration, or one of its `also`.
    pub preset: String,
    /// Hits and misses of the TLBs; the same for all organisations of a machine.
    pub tlb: Tlbs,
    /// Walks, which are misses of the second-level TLB.
    pub walks: u64,
    /// The same by the size of the page that was found.
    pub walks_by_page_size: BySize,
    /// Entries that walks read; divided by `walks` it is accesses per walk.
    pub walk_entry_reads: u64,
    /// Cycles that walks took.
    pub walk_cycles: f64,
    /// Keys: `pml4`, `pdpt`, `pd`, `pt` (the level of the entry, whatever the node it lives in); `ecpt`
    /// has `pte`, `pmd`, `cwt_pmd`, `cwt_pud`.
    pub entry_reads_by_level: BTreeMap<String, u64>,
    /// Where entry reads found their line.
    pub entry_reads_by_cache: ByCache,
    /// Page-walk caches by the level of the entries that they hold.
    pub pwc: BTreeMap<String, HitMiss>,
    /// Hits and misses of the caches.
    pub caches: Caches,
    /// Cycles of the whole machine under the cost model of `docs/explanation/walksim.md`.
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
    /// Pages of 4 KiB.
    #[serde(rename = "4k")]
    pub small: u64,
    /// Pages of 2 MiB.
    #[serde(rename = "2m")]
    pub large: u64,
    /// Pages of 1 GiB.
    #[serde(rename = "1g")]
    pub huge: u64,
}

impl BySize {
    /// The sum over all sizes.
    pub fn sum(&self) -> u64 {
        self.small + self.large + self.huge
    }
}

/// The TLBs of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tlbs {
    /// First level, for instruction fetches.
    pub l1i: TlbLevel,
    /// First level, for data accesses.
    pub l1d: TlbLevel,
    /// Second level, asked for what the first levels miss.
    pub stlb: TlbLevel,
    /// Invalidations that reached the TLBs.
    pub flushes: Flushes,
}

/// Questions to one TLB and its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlbLevel {
    /// How often it was asked.
    pub accesses: u64,
    /// Hits, by the size of the page of the entry.
    pub hits: BySize,
    /// By the size of the page that the access turned out to be in.
    pub misses: BySize,
}

/// Invalidations by their scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushes {
    /// Flushes of everything.
    pub all: u64,
    /// Of an address space: a write to CR3.
    pub address_space: u64,
    /// Flushes of one page: INVLPG.
    pub page: u64,
}

/// Lines by where they were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByCache {
    /// Found in the second-level cache.
    pub l2: u64,
    /// Found in the last-level cache.
    pub llc: u64,
    /// Found in no cache.
    pub memory: u64,
}

impl ByCache {
    /// The sum over all places.
    pub fn sum(&self) -> u64 {
        self.l2 + self.llc + self.memory
    }
}

/// Answers of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitMiss {
    /// How often it held what was asked for.
    pub hits: u64,
    /// How often it did not.
    pub misses: u64,
}

/// Hits and misses of the data and instruction caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    /// First level, for instruction fetches.
    pub l1i: HitMiss,
    /// First level, for data accesses.
    pub l1d: HitMiss,
    /// Instruction and data misses of the first level.
    pub l2: HitMiss,
    /// Misses of L2 for instructions and data.
    pub llc: HitMiss,
    /// Entry reads of walks.
    pub l2_walk: HitMiss,
    /// Entry reads of walks that L2 missed.
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
    /// How often the last level was asked, by whomever.
    #[serde(default)]
    pub llc_lookups: u64,
}

/// Cycles by what they are spent on; `total` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cycles {
    /// The sum of the other fields.
    pub total: f64,
    /// Page walks.
    pub walk: f64,
    /// Data accesses, divided by the parallelism of the configuration.
    pub data: f64,
    /// Instructions without data access, and fetches where the configuration charges them.
    pub instruction: f64,
    /// Look-ups of the TLBs.
    pub tlb: f64,
}
