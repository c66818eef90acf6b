// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies behind the first-level caches: L2, last-level cache, memory. Each organisation has its own,
//! as its walks displace other lines.

use crate::addr::PhysLine;
use crate::cache::Cache;
use crate::config;
use crate::policy::Class;
use crate::report::{ByCache, HitMiss};
use crate::sample::Sample;

/// Where a line was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The second-level cache held it.
    L2 = 0,
    /// The last-level cache held it.
    Llc = 1,
    /// No cache held it.
    Memory = 2,
}

/// Classes of lines to [`Sample`]; an entry's is `WALK` and its kind.
const DATA: usize = 0;
const FETCH: usize = 1;
const PREFETCH: usize = 2;
const WALK: usize = 3;

/// Lines that were asked for, by who asked and by where they were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lines that data accesses asked for.
    pub data: ByCache,
    /// Lines that instruction fetches asked for.
    pub fetch: ByCache,
    /// Lines of page-table entries that walks asked for.
    pub walk: ByCache,
    /// Lines that the next-line prefetcher asked for.
    pub prefetch: ByCache,
    /// How often L2 and the last level were asked, for whatever.
    pub l2: u64,
    /// How often the last level was asked, for whatever.
    pub llc: u64,
}

/// L2, and what was found where. The last level may belong to several cores and is lent to each call.
pub struct Memory {
    l2: Cache,
    /// Is only a part of the sets simulated?
    pub sample: Option<Box<Sample>>,
    /// What was found where since the counters were last reset.
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
    /// `every`: one of so many sets is simulated, 1 for all.
    pub fn new(config: &config::Caches, every: u32) -> Memory {
        let l2 = Cache::replacing(config.l2, config.l2_replacement);
        let sample = || {
            let mask = l2.set_mask() & Cache::new(config.llc).set_mask();
            let lines = u64::from(config.l2.kib) * 1024 / config::LINE;
            Box::new(Sample::new(every, mask, lines))
        };
        Memory {
            sample: (every > 1).then(sample),
            l2,
            stats: Stats::default(),
        }
    }

    #[inline(always)]
    fn find(&mut self, llc: &mut Cache, line: PhysLine, kind: usize) -> From {
        let Some(sample) = &mut self.sample else {
            return self.look_up(llc, line, kind);
        };
        let near = kind >= WALK && sample.is_near(line, self.stats.l2);
        if !sample.holds(line) {
            let from = if near { From::L2 } else { sample.say(kind) };
            self.stats.l2 += 1;
            self.stats.llc += u64::from(from != From::L2);
            return from;
        }
        let from = self.look_up(llc, line, kind);
        match &mut self.sample {
            Some(sample) if !near => sample.found(line, kind, from),
            _ => {}
        }
        from
    }

    #[inline(always)]
    fn look_up(&mut self, llc: &mut Cache, line: PhysLine, kind: usize) -> From {
        let class = if kind < WALK {
            Class::Data
        } else {
            Class::Walk
        };
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

    /// Brings the sets of a line that is about to be found into the host's cache: see [`Cache::look`].
    #[inline(always)]
    pub fn look(&self, llc: &Cache, line: PhysLine) -> u32 {
        match &self.sample {
            Some(sample) if !sample.holds(line) => 0,
            _ => self.l2.look(line) ^ llc.look(line),
        }
    }

    /// A data access that missed L1D.
    #[inline]
    pub fn data(&mut self, llc: &mut Cache, line: PhysLine) {
        let from = self.find(llc, line, DATA);
        count(&mut self.stats.data, from);
    }

    /// A fetch that missed L1I.
    #[inline]
    pub fn fetch(&mut self, llc: &mut Cache, line: PhysLine) {
        let from = self.find(llc, line, FETCH);
        count(&mut self.stats.fetch, from);
    }

    /// The prefetcher of L1D.
    #[inline]
    pub fn prefetch(&mut self, llc: &mut Cache, line: PhysLine) {
        let from = self.find(llc, line, PREFETCH);
        count(&mut self.stats.prefetch, from);
    }

    /// An entry of a page table, of the kind that the organisation calls `what`.
    #[inline]
    pub fn walk_read(&mut self, llc: &mut Cache, line: PhysLine, what: usize) -> From {
        let from = self.find(llc, line, WALK + what);
        count(&mut self.stats.walk, from);
        from
    }

    /// A phase begins: counters start at 0, what is cached stays.
    pub fn reset_counters(&mut self) {
        self.stats = Stats::default();
        if let Some(sample) = &mut self.sample {
            sample.reset_counters();
        }
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
