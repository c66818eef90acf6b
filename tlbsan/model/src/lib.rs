// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model of the flush sanitizer: what may a CPU still hold in its TLB and paging-structure
//! caches, however it speculates? `docs/explanation/tlbsan.md` has the rules and their sources.
//!
//! Everything under a loaded root counts as cached. A store that takes something away becomes a
//! record with a set of CPUs, an invalidation takes CPUs out, and each free, reuse or return to user
//! mode asks who is left. [`Ledger`] gets these events, in the order in which the guest made them.

mod check;
mod cpu;
mod finding;
mod flushes;
mod geometry;
mod ledger;
mod memory;
mod records;
mod rules;
mod stores;
mod tables;

#[cfg(test)]
mod oracle;

pub use check::Release;
pub use cpu::{CpuId, CpuSet, Ended, Flushed, Invalidation, Mode, Origin, Past, Seq, Site, Task};
pub use finding::{Certainty, Finding, Holder, Rule, RunError, Taken, What, Why};
pub use geometry::{Frame, Geometry, Leaf, Level, Place, Pointer, Reading, Rights, Root};
pub use geometry::{A, ADDRESS, D, FLAT, G, LARGE_PAT, P, PCD, PS, PWT, RW, US, XD};
pub use ledger::{Ledger, MAX_CPUS};
pub use memory::GuestMemory;
pub use rules::{Knobs, Limits, Psc};
