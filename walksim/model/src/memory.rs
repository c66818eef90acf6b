// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies behind the first-level caches: L2, last-level cache, memory. Each organisation has its own,
//! as its walks displace other lines.

use crate::cache::{Cache, Class};
use crate::config;
use crate::report::{ByCache, HitMiss};

/// Where a line was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    L2,
    Llc,
    Memory,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub data: ByCache,
    pub fetch: ByCache,
    pub walk: ByCache,
    pub prefetch: ByCache,
    /// How often L2 and the last level were asked, for whatever.
    pub l2: u64,
    pub llc: u64,
}

/// L2, and what was found where. The last level may belong to several cores and is lent to each call.
pub struct Memory {
    l2: Cache,
    pub stats: Stats,
}

fn count(by: &mut ByCache, from: From) {
    match from {
        From::L2 => by.l2 += 1,
        From::Llc => by.llc += 1,
        From::Memory => by.memory += 1,
    }
}

impl Memory {
    pub fn new(config: &config::Caches) -> Memory {
        Memory {
            l2: Cache::replacing(config.l2, config.l2_replacement),
            stats: Stats::default(),
        }
    }

    #[inline(always)]
    fn find(&mut self, llc: &mut Cache, line: u64, class: Class) -> From {
        self.stats.l2 += 1;
        if self.l2.access_for(line, class) {
            return From::L2;
        }
        self.stats.llc += 1;
        if llc.access_for(line, class) {
            From::Llc
        } else {
            From::Memory
        }
    }

    /// See [`Cache::look`].
    #[inline(always)]
    pub fn look(&self, line: u64) -> u32 {
        self.l2.look(line)
    }

    /// A data access that missed L1D.
    #[inline]
    pub fn data(&mut self, llc: &mut Cache, line: u64) {
        let from = self.find(llc, line, Class::Data);
        count(&mut self.stats.data, from);
    }

    /// A fetch that missed L1I.
    #[inline]
    pub fn fetch(&mut self, llc: &mut Cache, line: u64) {
        let from = self.find(llc, line, Class::Data);
        count(&mut self.stats.fetch, from);
    }

    /// The prefetcher of L1D.
    #[inline]
    pub fn prefetch(&mut self, llc: &mut Cache, line: u64) {
        let from = self.find(llc, line, Class::Data);
        count(&mut self.stats.prefetch, from);
    }

    /// An entry of a page table.
    #[inline]
    pub fn walk_read(&mut self, llc: &mut Cache, line: u64) -> From {
        let from = self.find(llc, line, Class::Walk);
        count(&mut self.stats.walk, from);
        from
    }

    /// Hits and misses of (L2, LLC) for these accesses.
    pub fn levels(by: ByCache) -> (HitMiss, HitMiss) {
        let beyond = by.llc + by.memory;
        (
            HitMiss {
                hits: by.l2,
                misses: beyond,
            },
            HitMiss {
                hits: by.llc,
                misses: by.memory,
            },
        )
    }
}
