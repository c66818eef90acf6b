// SPDX-License-Identifier: GPL-2.0

//! Flattened page tables: the kernel side of the Rust core.
//!
//! `fpt_core` decides (geometry, policy, life cycle of a node) and contains no unsafe code; this
//! file's modules lend it the kernel's memory, locks and counters (glue.rs) and are what C calls
//! (hooks.rs, hot.rs). They alone contain `unsafe`.
//!
//! Lock order, outermost first: `mmap_lock` or a VMA lock; `mm->page_table_lock` (install and
//! publish); the pool locks are leaves and never nest in it. A demotion takes every lock of the
//! address space (`mm_take_all_locks()`) between the two.
//!
//! Memory ordering: a node's 2 MiB are zeroed, or were seen to be zero, before the entry that
//! points at it is published with a release store. Hardware and software walkers reach the node
//! through that entry only (address dependency). Whoever clears an entry flushes the TLB before
//! the node is retired. A demotion publishes the table that replaces a node in the same way; old
//! and new entry lead to the same slices, so a walker may have seen either.

#[forbid(unsafe_code)]
#[allow(dead_code, unreachable_pub)]
mod fpt_core {
    //! The core, placed beside this file; on the host it is the crate `fpt-core`.
    pub mod addr;
    pub mod counters;
    pub mod entry;
    pub mod geometry;
    pub mod node;
    pub mod policy;
    pub mod pool;
}

mod glue;
pub mod hooks;
pub mod hot;
