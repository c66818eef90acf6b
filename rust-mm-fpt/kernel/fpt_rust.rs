// SPDX-License-Identifier: GPL-2.0

//! Flattened page tables: the kernel side of the Rust core.
//!
//! `fpt_core` decides (geometry, policy, life cycle of a node) and contains no unsafe code; this
//! file's modules lend it the kernel's memory, locks and counters (glue.rs) and are what C calls
//! (hooks.rs, hot.rs). They alone contain `unsafe`.
//!
//! Lock order, outermost first: `mmap_lock` or a VMA lock; the lock of an index page (the PMD lock of a
//! PMD table, `mm->page_table_lock` of a PUD table); `mm->page_table_lock`; the pool locks are leaves.
//!
//! Memory ordering: a node's 2 MiB are zeroed, or were seen to be zero, before the entry that
//! points at it is published; the barrier is that of `pmd_install()`, which generic code has before
//! each `p?d_populate()`. Hardware reaches the node through that entry only, software goes on to the
//! index page by address dependency (entry, `struct page`, table). Whoever clears the entry flushes
//! the TLB before the node is retired. Where an entry that says FLAT is replaced by one that leads to
//! the index page, old and new lead to the same slices, so a walker may have seen either until the
//! flush; nothing else is stored in the index page before that is over.

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
    pub mod span;
    pub mod walk;
}

mod glue;
pub mod hooks;
pub mod hot;
