// SPDX-License-Identifier: MIT OR Apache-2.0
//! One core: TLBs and first-level caches, and behind them a memory hierarchy for each organisation.
//!
//! The TLBs and L1 caches see the same stream and the same translations whatever the page tables look like,
//! and nothing behind them acts on them: walks read from L2 on, and no cache is inclusive. They are
//! simulated once for all organisations.

use crate::addr::{PhysAddr, PhysLine, VirtAddr, VirtLine};
use crate::attribution::{Cause, Counts};
use crate::cache::{Cache, PA_END, SYNTHETIC};
use crate::config::{Config, ConfigError, WalksFrom};
use crate::front::{self, Front};
pub use crate::lanes::Shared;
use crate::lanes::{Lane, Lanes, Op};
use crate::memory::Memory;
use crate::report::{self, BySize, HitMiss};
use crate::tlb::Tlb;
use crate::walk::{Flush, Size, Walker};

/// Entries that walks found in L1D, where they go through it: the name in `details`.
pub const FROM_L1D: &str = "entry_reads_from_l1d";

#[derive(Clone, Copy, Default)]
struct TlbStats {
    hits: [u64; 3],
    misses: [u64; 3],
}

/// First-level TLB and cache of one kind of access.
struct Side {
    tlb: Tlb,
    cache: Cache,
    /// Virtual line of the last access: another one to it changes nothing.
    last: VirtLine,
    last_size: usize,
    stats: TlbStats,
    cached: HitMiss,
    /// Accesses that no walk could translate.
    untranslated: u64,
    /// The part of them whose physical address is not known otherwise.
    uncached: u64,
}

impl Side {
    fn new(tlb: &crate::config::TlbLevel, pcids: bool, cache: crate::config::Cache) -> Side {
        Side {
            tlb: Tlb::new(tlb, pcids),
            cache: Cache::new(cache),
            last: VirtLine::NONE,
            last_size: 0,
            stats: TlbStats::default(),
            cached: HitMiss::default(),
            untranslated: 0,
            uncached: 0,
        }
    }

    /// Is the outcome of this access known without looking? Counts it, if so.
    #[inline(always)]
    fn is_repeat(&mut self, line: VirtLine) -> bool {
        if line != self.last {
            return false;
        }
        self.hit(self.last_size);
        true
    }

    fn repeats(&mut self, n: u64, size: Size) {
        if let Some(hits) = self.stats.hits.get_mut(size as usize) {
            *hits += n;
        }
        self.cached.hits += n;
    }

    fn nowhere(&mut self) {
        self.last = VirtLine::NONE;
        self.untranslated += 1;
        self.uncached += 1;
    }

    #[inline(always)]
    fn hit(&mut self, size: usize) {
        if let Some(n) = self.stats.hits.get_mut(size) {
            *n += 1;
        }
        self.cached.hits += 1;
    }
}

/// A simulated core: first-level TLBs and caches, and what lies behind them once for each organisation.
pub struct Core {
    config: Config,
    d: Side,
    i: Side,
    stlb: Tlb,
    stlb_stats: TlbStats,
    /// Translations that the second-level TLB was asked for.
    stlb_asked: u64,
    flushes: report::Flushes,
    pcid: u16,
    front: Box<dyn Front>,
    /// Whose access the next one is.
    cause: Cause,
    lanes: Lanes,
    /// Do walks go through L1D, and so before anything that comes after them?
    walks_in_l1d: bool,
    prefetch: bool,
    prefetches: u64,
}

impl Core {
    /// A core with caches of its own, or with a shared last level.
    pub fn new(config: &Config, shared: Option<&Shared>) -> Result<Core, ConfigError> {
        let pcids = config.tlb.pcid;
        Ok(Core {
            config: config.clone(),
            d: Side::new(&config.tlb.l1d, pcids, config.cache.l1d),
            i: Side::new(&config.tlb.l1i, pcids, config.cache.l1i),
            stlb: Tlb::new(&config.tlb.stlb, pcids),
            stlb_stats: TlbStats::default(),
            stlb_asked: 0,
            flushes: report::Flushes::default(),
            pcid: 0,
            front: front::make(&config.tlb.front, config)?,
            walks_in_l1d: config.cache.walks_from == WalksFrom::L1d,
            cause: Cause::default(),
            lanes: Lanes::new(config, shared)?,
            prefetch: config.cache.prefetch,
            prefetches: 0,
        })
    }

    /// An access within one line, if the first-level TLB has its page; otherwise false, and nothing has happened.
    #[inline(always)]
    fn fast<const FETCH: bool>(&mut self, va: VirtAddr) -> bool {
        let side = if FETCH { &mut self.i } else { &mut self.d };
        if side.is_repeat(VirtLine::of(va)) {
            return true;
        }
        let (page, size) = match side.tlb.newest(va, self.pcid) {
            Some(found) => found,
            None => match side.tlb.access(va, self.pcid) {
                Some(found) => (found.pa, found.size),
                None => return false,
            },
        };
        count(&mut side.stats.hits, size);
        side.last = VirtLine::of(va);
        side.last_size = size as usize;
        let line = PhysLine::of(size.at(page, va));
        if side.cache.is_newest(line) {
            side.cached.hits += 1;
        } else if FETCH {
            self.fetch_line(line);
        } else {
            self.data_line(line);
        }
        true
    }

    /// A data access within one line at a canonical address.
    #[inline]
    pub fn data(&mut self, va: VirtAddr, walker: &mut impl Walker) {
        if !self.fast::<false>(va) {
            self.data_slow(va, walker);
        }
    }

    /// As [`Core::data`] without the short cuts, for tests.
    pub fn data_slow(&mut self, va: VirtAddr, walker: &mut impl Walker) {
        if let Some(line) = self.translate::<false>(va, walker) {
            self.data_line(line);
        }
    }

    #[inline(never)]
    fn data_line(&mut self, line: PhysLine) {
        if self.d.cache.access(line) {
            self.d.cached.hits += 1;
            return;
        }
        self.d.cached.misses += 1;
        self.lanes.push(Op::Data(line));
        // The prefetcher knows physical addresses only: no further than the page.
        let next = line.next_in_page().filter(|_| self.prefetch);
        if let Some(next) = next.filter(|next| self.d.cache.fill_if_absent(*next)) {
            self.prefetches += 1;
            self.lanes.push(Op::Prefetch(next));
        }
    }

    /// An instruction fetch from one line.
    #[inline]
    pub fn fetch(&mut self, va: VirtAddr, walker: &mut impl Walker) {
        if !self.fast::<true>(va) {
            self.fetch_slow(va, walker);
        }
    }

    /// As [`Core::fetch`] without the short cut, for tests.
    pub fn fetch_slow(&mut self, va: VirtAddr, walker: &mut impl Walker) {
        if let Some(line) = self.translate::<true>(va, walker) {
            self.fetch_line(line);
        }
    }

    /// A fetch whose virtual address is not known: the caches without the TLBs.
    pub fn fetch_physical(&mut self, pa: PhysAddr) {
        self.i.last = VirtLine::NONE;
        self.i.untranslated += 1;
        if pa.as_u64() < SYNTHETIC {
            self.fetch_line(PhysLine::of(pa));
        } else {
            self.i.uncached += 1;
        }
    }

    #[inline(never)]
    fn fetch_line(&mut self, line: PhysLine) {
        if self.i.cache.access(line) {
            self.i.cached.hits += 1;
            return;
        }
        self.i.cached.misses += 1;
        self.lanes.push(Op::Fetch(line));
    }

    /// A data access that no walk can translate: nothing but its number is known.
    pub fn data_nowhere(&mut self) {
        self.d.nowhere();
    }

    /// The fetch that is what [`Core::data_nowhere`] is for data.
    pub fn fetch_nowhere(&mut self) {
        self.i.nowhere();
    }

    /// Counts data accesses that are known to be to the same line as the one before, which is in a page of
    /// this size.
    pub fn data_repeats(&mut self, n: u64, size: Size) {
        self.d.repeats(n, size);
    }

    /// Counts fetches that are known to be from the same line as the one before, which was in a page of
    /// this size.
    pub fn fetch_repeats(&mut self, n: u64, size: Size) {
        self.i.repeats(n, size);
    }

    /// The physical line of an access, through the TLBs.
    fn translate<const FETCH: bool>(
        &mut self,
        va: VirtAddr,
        walker: &mut impl Walker,
    ) -> Option<PhysLine> {
        let pcid = self.pcid;
        let side = if FETCH { &mut self.i } else { &mut self.d };
        side.last = VirtLine::NONE;
        let page = match side.tlb.access(va, pcid) {
            Some(page) => {
                count(&mut side.stats.hits, page.size);
                page
            }
            None => {
                let page = match self.stlb.access(va, pcid) {
                    Some(page) => {
                        walker.stlb_hit(va, page.pa, page.size);
                        count(&mut self.stlb_stats.hits, page.size);
                        page
                    }
                    None => {
                        let cause = Cause {
                            pc: if FETCH { va.as_u64() } else { self.cause.pc },
                            ..self.cause
                        };
                        let walk = self.lanes.next_walk(pcid, cause);
                        if !walker.walk_into(va, walk) || walk.page.as_u64() >= SYNTHETIC {
                            // Counts as no access of a TLB.
                            side.nowhere();
                            return None;
                        }
                        let leaf = if self.front.wants_leaf() {
                            walker.leaf(va)
                        } else {
                            None
                        };
                        let page = self.front.entry(walk, leaf.as_ref());
                        count(&mut self.stlb_stats.misses, walk.size);
                        if self.walks_in_l1d {
                            // The line of the last data access may have to go.
                            self.d.last = VirtLine::NONE;
                            self.lanes.walk_at_once(&mut self.d.cache);
                        } else {
                            self.lanes.walk();
                        }
                        self.stlb.fill(va, pcid, page);
                        page
                    }
                };
                self.stlb_asked += 1;
                let side = if FETCH { &mut self.i } else { &mut self.d };
                count(&mut side.stats.misses, page.size);
                side.tlb.fill(va, pcid, page);
                page
            }
        };
        let side = if FETCH { &mut self.i } else { &mut self.d };
        side.last = VirtLine::of(va);
        side.last_size = page.size as usize;
        Some(PhysLine::of(page.size.at(page.pa, va)))
    }

    /// The guest invalidates translations of this core.
    pub fn flush(&mut self, what: Flush) {
        match what {
            Flush::All => self.flushes.all += 1,
            Flush::AddressSpace { .. } => self.flushes.address_space += 1,
            Flush::Page { .. } => self.flushes.page += 1,
        }
        for side in [&mut self.d, &mut self.i] {
            side.tlb.flush(what);
            side.last = VirtLine::NONE;
        }
        self.stlb.flush(what);
        self.lanes.flush(what);
    }

    /// The guest switches to another PCID and keeps its entries. Without PCIDs it must also flush.
    pub fn set_pcid(&mut self, pcid: u16) {
        self.pcid = if self.config.tlb.pcid {
            pcid & 0xfff
        } else {
            0
        };
        self.d.last = VirtLine::NONE;
        self.i.last = VirtLine::NONE;
    }

    /// From here on the walks of the guest's own tables are counted by their causes.
    pub fn attribute(&mut self) {
        self.lanes.attribute();
    }

    /// The counts by cause, which start anew; `None` if there are none.
    pub fn take_attribution(&mut self) -> Option<Counts> {
        self.lanes.take_attribution()
    }

    /// Another program runs.
    pub fn set_program(&mut self, program: u32) {
        self.cause.program = program;
    }

    /// The instruction of the next data access.
    #[inline(always)]
    pub fn set_pc(&mut self, pc: u64) {
        self.cause.pc = pc;
    }

    /// A phase begins: counters start at 0, what is cached stays.
    pub fn reset_counters(&mut self) {
        for side in [&mut self.d, &mut self.i] {
            side.stats = TlbStats::default();
            side.cached = HitMiss::default();
            side.untranslated = 0;
            side.uncached = 0;
        }
        self.stlb_stats = TlbStats::default();
        self.stlb_asked = 0;
        self.flushes = report::Flushes::default();
        self.prefetches = 0;
        self.front.reset_counters();
        self.lanes.reset_counters();
    }

    /// Accesses of the current phase that are in no figure of a TLB.
    pub fn untranslated(&self) -> report::Untranslated {
        report::Untranslated {
            data: self.d.untranslated,
            fetch: self.i.untranslated,
            fetch_without_address: self.i.uncached,
        }
    }

    /// The organisations, for tests that bring their own.
    #[cfg(test)]
    pub(crate) fn lanes(&mut self) -> &mut Lanes {
        &mut self.lanes
    }

    /// Figures since the counters were reset. `data` and `fetch` are the accesses as counted by the caller.
    pub fn report(&mut self, data: u64, fetch: u64) -> Vec<report::Organisation> {
        let level = |accesses: u64, s: &TlbStats| report::TlbLevel {
            accesses,
            hits: by_size(s.hits),
            misses: by_size(s.misses),
        };
        let tlb = report::Tlbs {
            l1i: level(fetch.saturating_sub(self.i.untranslated), &self.i.stats),
            l1d: level(data.saturating_sub(self.d.untranslated), &self.d.stats),
            stlb: level(self.stlb_asked, &self.stlb_stats),
            flushes: self.flushes,
        };
        let front = self.front.report();
        let one = |lane: &Lane| {
            let stats = lane.stats();
            let mut misses = stats.data;
            misses.l2 += stats.fetch.l2;
            misses.llc += stats.fetch.llc;
            misses.memory += stats.fetch.memory;
            let (l2, llc) = Memory::levels(misses);
            let (l2_walk, llc_walk) = Memory::levels(stats.walk);
            let mut out = report::Organisation {
                name: lane.org.name().to_owned(),
                kind: lane.org.kind(),
                preset: self.config.preset.clone(),
                tlb,
                walks: sum(lane.walks),
                walks_by_page_size: by_size(lane.walks),
                walk_entry_reads: lane.walk.reads,
                walk_cycles: lane.walk.cycles,
                entry_reads_by_cache: stats.walk,
                caches: report::Caches {
                    l1i: self.i.cached,
                    l1d: self.d.cached,
                    l2,
                    llc,
                    l2_walk,
                    llc_walk,
                    data_misses: stats.data,
                    fetch_misses: stats.fetch,
                    prefetches: self.prefetches,
                    prefetches_from_memory: stats.prefetch.memory,
                    prefetch_reads: stats.prefetch,
                    l2_lookups: stats.l2,
                    llc_lookups: stats.llc,
                },
                ..report::Organisation::default()
            };
            for (name, n) in lane.org.reads().iter().zip(lane.walk.by_what) {
                if n > 0 {
                    out.entry_reads_by_level.insert((*name).to_owned(), n);
                }
            }
            lane.org.report(&mut out);
            let own = |(name, n): (&str, u64)| (name.to_owned(), n);
            out.details.extend(front.iter().copied().map(own));
            out.details.extend(lane.sampling(&self.config.cycles));
            if self.walks_in_l1d {
                out.details.insert(FROM_L1D.to_owned(), lane.walk.from_l1d);
            }
            out
        };
        self.lanes.settled(|lanes| lanes.iter().map(one).collect())
    }
}

#[inline(always)]
fn count(by: &mut [u64; 3], size: Size) {
    if let Some(n) = by.get_mut(size as usize) {
        *n += 1;
    }
}

fn sum(n: [u64; 3]) -> u64 {
    n.iter().sum()
}

fn by_size(n: [u64; 3]) -> BySize {
    let [small, large, huge] = n;
    BySize { small, large, huge }
}

// Real and synthetic addresses fit in the caches' tags.
const _: () = assert!(SYNTHETIC * 2 == PA_END);
