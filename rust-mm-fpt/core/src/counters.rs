// SPDX-License-Identifier: GPL-2.0

//! The counters that debugfs `fpt/stats` shows: one stable list of names.
//!
//! The core only says *which* counter moves; where it is kept (per CPU, atomic)
//! is the caller's business.

use super::geometry::NodeKind;
use core::ffi::CStr;

/// A counter that exists once per kind of node.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum KindCounter {
    /// Nodes in use by an address space now (gauge).
    Live = 0,
    /// Nodes installed.
    Installs = 1,
    /// Nodes given back to the page allocator.
    Frees = 2,
    /// Attempts that ended with a conventional table for want of memory, charge or cap.
    Fallbacks = 3,
    /// Attempts that found the entry already populated by somebody else.
    Races = 4,
    /// Nodes taken from a pool.
    PoolHits = 5,
    /// Nodes put into a pool.
    PoolPuts = 6,
    /// Nodes in pools now (gauge).
    PoolNodes = 7,
}

impl KindCounter {
    /// Number of counters per kind.
    pub const COUNT: usize = 8;
}

/// Index of a counter in `0..Counter::COUNT`.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Counter(u8);

macro_rules! names {
    ($($name:literal)*) => {
        const C_NAMES: [&CStr; Counter::COUNT] = [$($name),*];
    };
}

names! {
    c"root_live" c"root_installs" c"root_frees" c"root_fallbacks"
    c"root_races" c"root_pool_hits" c"root_pool_puts" c"root_pool_nodes"
    c"mid_live" c"mid_installs" c"mid_frees" c"mid_fallbacks"
    c"mid_races" c"mid_pool_hits" c"mid_pool_puts" c"mid_pool_nodes"
    c"bottom_live" c"bottom_installs" c"bottom_frees" c"bottom_fallbacks"
    c"bottom_races" c"bottom_pool_hits" c"bottom_pool_puts" c"bottom_pool_nodes"
    c"refused_cap" c"refused_policy" c"tainted" c"flat_bytes"
    c"demotions" c"flushes_saved" c"roots_shed" c"promoted"
    c"promote_refused_budget" c"promote_refused_memory" c"promote_refused_huge" c"migrated_tables"
    c"trimmed" c"reflattened"
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = 38;

    /// Spans that stayed conventional because of a cap.
    pub const REFUSED_CAP: Counter = Counter(24);
    /// Spans that stayed conventional because the policy said so.
    pub const REFUSED_POLICY: Counter = Counter(25);
    /// Nodes kept out of the pools because a bad entry was seen in them.
    pub const TAINTED: Counter = Counter(26);
    /// Bytes of flattened nodes in use (gauge).
    pub const FLAT_BYTES: Counter = Counter(27);
    /// Nodes turned into conventional tables (T5).
    pub const DEMOTIONS: Counter = Counter(28);
    /// Nodes whose free needed no flush of its own.
    pub const FLUSHES_SAVED: Counter = Counter(29);
    /// Roots of ended processes of which only the L4 page was kept, because somebody still had it.
    pub const ROOTS_SHED: Counter = Counter(30);
    /// Tables in use that became index pages (T8).
    pub const PROMOTED: Counter = Counter(31);
    /// Spans that were not promoted because they would waste too much.
    pub const PROMOTE_REFUSED_BUDGET: Counter = Counter(32);
    /// Spans that were not promoted for want of memory, charge or cap.
    pub const PROMOTE_REFUSED_MEMORY: Counter = Counter(33);
    /// Spans that were not promoted because of huge pages.
    pub const PROMOTE_REFUSED_HUGE: Counter = Counter(34);
    /// Tables that were moved into a slice (T9).
    pub const MIGRATED_TABLES: Counter = Counter(35);
    /// Nodes given up because they wasted too much, or memory was short (T11).
    pub const TRIMMED: Counter = Counter(36);
    /// Spans in use that hardware reads as a node again (T10).
    pub const REFLATTENED: Counter = Counter(37);

    /// The counter `which` of nodes of `kind`.
    #[inline(always)]
    pub const fn kind(kind: NodeKind, which: KindCounter) -> Counter {
        let base = match kind {
            NodeKind::Root => 0u8,
            NodeKind::Mid => 8,
            NodeKind::Bottom => 16,
        };
        Counter(base | which as u8)
    }

    /// The counter with this index.
    #[inline]
    pub const fn from_index(index: usize) -> Option<Counter> {
        if index < Counter::COUNT {
            Some(Counter(index as u8))
        } else {
            None
        }
    }

    /// Position in an array of `Counter::COUNT`.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Name in debugfs, NUL-terminated for C.
    #[inline]
    pub fn c_name(self) -> &'static CStr {
        C_NAMES.get(self.index()).copied().unwrap_or(c"")
    }

    /// Name in debugfs.
    #[inline]
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or("")
    }
}
