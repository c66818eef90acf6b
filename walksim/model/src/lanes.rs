// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies behind the first level: for each organisation a walker and a memory hierarchy.
//!
//! Nothing in front acts on what happens here, so misses are collected and worked off in batches: results are the same, unless
//! cores share a last level, which sees their misses in blocks. A part of a batch is gone through twice: first the
//! sets of all its lines are only looked at. These are independent loads, so the host fetches many of them at a
//! time, which it cannot do while each miss decides what the next one is.

use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::PhysLine;
use crate::attribution::{Cause, Cost, Counts};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, Cycles};
use crate::memory::{Memory, Stats};
use crate::org::{self, Organisation, Port, WalkStats};
use crate::report::Kind;
use crate::sample;
use crate::walk::{Flush, Walk};

/// Operations that are looked at together: enough for the host to overlap, few enough for its first-level cache.
const WINDOW: usize = 64;
/// What the first level asks for.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A data access missed.
    Data(PhysLine),
    /// A fetch missed.
    Fetch(PhysLine),
    /// L1D's prefetcher wants it.
    Prefetch(PhysLine),
    /// The next of the batch's walks.
    Walk,
    /// The next of the batch's invalidations.
    Flush,
}

#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    /// As many places as were ever needed; the first `walked` are taken.
    walks: Vec<(Walk, u16, Cause)>,
    walked: usize,
    flushes: Vec<Flush>,
}

impl Batch {
    fn clear(&mut self) {
        self.ops.clear();
        self.walked = 0;
        self.flushes.clear();
    }
}

/// A last-level cache, of one core or of several.
enum Llc {
    Own(Cache),
    Shared(Arc<Mutex<Cache>>),
}

/// A last-level cache that is being used.
enum Held<'a> {
    Own(&'a mut Cache),
    Shared(MutexGuard<'a, Cache>),
}

impl Llc {
    fn hold(&mut self) -> Held<'_> {
        match self {
            Llc::Own(cache) => Held::Own(cache),
            // A poisoned lock means that another core's thread died; its cache is still a cache.
            Llc::Shared(cache) => {
                Held::Shared(cache.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }
}

fn llc(config: &Config) -> Cache {
    Cache::replacing(config.cache.llc, config.cache.llc_replacement)
}

/// The last-level caches that the cores of one machine share, one per organisation.
#[derive(Clone)]
pub struct Shared(Vec<Arc<Mutex<Cache>>>);

impl Shared {
    /// Empty caches, one for each organisation of the configuration.
    pub fn new(config: &Config) -> Shared {
        let one = |_: &String| Arc::new(Mutex::new(llc(config)));
        Shared(config.organisations.iter().map(one).collect())
    }
}

/// An organisation, its hierarchy, its walks.
pub struct Lane {
    /// The organisation.
    pub org: Box<dyn Organisation>,
    memory: Memory,
    llc: Llc,
    /// What its walks read and cost.
    pub walk: WalkStats,
    /// Its walks by the size of the page, smallest first.
    pub walks: [u64; 3],
    /// Who causes its walks; if that is wanted.
    attribution: Option<Counts>,
}

impl Lane {
    /// What only a part of the sets tells, if it is so: the errors of its classes.
    pub fn sampling(&self, cycles: &Cycles) -> Vec<(String, u64)> {
        let Some(sample) = &self.memory.sample else {
            return Vec::new();
        };
        let stats = &self.memory.stats;
        let latency = [cycles.l2, cycles.llc, cycles.memory];
        let all = [stats.data, stats.fetch, stats.prefetch, stats.walk].map(|by| {
            by.l2 as f64 * latency[0] + by.llc as f64 * latency[1] + by.memory as f64 * latency[2]
        });
        let errors = sample.errors(latency, all);
        let named = |(name, n): (&str, u64)| (format!("sampling_error_ppm_{name}"), n);
        sample::NAMES.into_iter().zip(errors).map(named).collect()
    }

    /// A walk that finds and leaves lines in L1D.
    fn walk_at_once(
        &mut self,
        (walk, pcid, cause): &(Walk, u16, Cause),
        l1d: &mut Cache,
        cycles: &Cycles,
    ) {
        let mut held = self.llc.hold();
        let llc = match &mut held {
            Held::Own(cache) => &mut **cache,
            Held::Shared(guard) => &mut **guard,
        };
        if self.org.walks() {
            if let Some(n) = self.walks.get_mut(walk.size as usize) {
                *n += 1;
            }
        }
        let before = (self.walk.reads, self.walk.cycles);
        let mut port = Port::new(&mut self.memory, llc, &mut self.walk, cycles).through(l1d);
        self.org.walk(walk, *pcid, &mut port);
        if let Some(counts) = &mut self.attribution {
            counts.count(*cause, walk.va, cost(before, &self.walk));
        }
    }

    /// Where lines were found behind the first level.
    pub fn stats(&self) -> &Stats {
        &self.memory.stats
    }

    fn run(&mut self, batch: &Batch, cycles: &Cycles) {
        let mut held = self.llc.hold();
        let llc = match &mut held {
            Held::Own(cache) => &mut **cache,
            Held::Shared(guard) => &mut **guard,
        };
        let mut walks = batch.walks.iter().take(batch.walked);
        let mut flushes = batch.flushes.iter();
        for ops in batch.ops.chunks(WINDOW) {
            let mut seen = 0u32;
            let mut ahead = walks.clone();
            let mut look = |line| seen ^= self.memory.look(llc, line);
            for op in ops {
                match *op {
                    Op::Data(line) | Op::Fetch(line) | Op::Prefetch(line) => look(line),
                    Op::Walk => {
                        let visited = ahead.next().map_or(&[][..], |(walk, ..)| walk.visited());
                        visited
                            .iter()
                            .for_each(|entry| look(PhysLine::of(entry.pa)));
                    }
                    Op::Flush => {}
                }
            }
            black_box(seen);
            for op in ops {
                match *op {
                    Op::Data(line) => self.memory.data(llc, line),
                    Op::Fetch(line) => self.memory.fetch(llc, line),
                    Op::Prefetch(line) => self.memory.prefetch(llc, line),
                    Op::Walk => {
                        let Some((walk, pcid, cause)) = walks.next() else {
                            continue;
                        };
                        if self.org.walks() {
                            if let Some(n) = self.walks.get_mut(walk.size as usize) {
                                *n += 1;
                            }
                        }
                        let before = (self.walk.reads, self.walk.cycles);
                        let mut port = Port::new(&mut self.memory, llc, &mut self.walk, cycles);
                        self.org.walk(walk, *pcid, &mut port);
                        if let Some(counts) = &mut self.attribution {
                            counts.count(*cause, walk.va, cost(before, &self.walk));
                        }
                    }
                    Op::Flush => {
                        if let Some(what) = flushes.next() {
                            self.org.flush(*what);
                        }
                    }
                }
            }
        }
    }
}

/// What one walk cost, by the reads and cycles before it and the counters after it.
fn cost(before: (u64, f64), after: &WalkStats) -> Cost {
    Cost {
        walks: 1,
        reads: after.reads - before.0,
        cycles: after.cycles - before.1,
    }
}

/// The organisations of a core, and what they have still to do.
pub struct Lanes {
    cycles: Cycles,
    lanes: Vec<Lane>,
    batch: Batch,
}

impl Lanes {
    /// The organisations of `config`; the last-level caches are their own without `shared`.
    ///
    /// # Errors
    ///
    /// The parameters of an organisation are refused.
    pub fn new(config: &Config, shared: Option<&Shared>) -> Result<Lanes, ConfigError> {
        let mut lanes = Vec::new();
        for (i, name) in config.organisations.iter().enumerate() {
            let org = org::make(name, config)?;
            let llc = match shared.and_then(|s| s.0.get(i)) {
                Some(cache) => Llc::Shared(cache.clone()),
                None => Llc::Own(llc(config)),
            };
            lanes.push(Lane {
                org,
                // The first is what the others are held against.
                memory: Memory::new(
                    &config.cache,
                    if i == 0 { 1 } else { config.sim.sample_sets },
                ),
                llc,
                walk: WalkStats::default(),
                walks: [0; 3],
                attribution: None,
            });
        }
        Ok(Lanes {
            cycles: config.cycles.clone(),
            lanes,
            batch: Batch::default(),
        })
    }

    /// Leaves this to the organisations; they do it when enough is there.
    #[inline]
    pub fn push(&mut self, op: Op) {
        self.batch.ops.push(op);
        if self.batch.ops.len() >= WINDOW {
            self.settle();
        }
    }

    /// Where the next walk has to be written before [`Lanes::walk`] or [`Lanes::walk_at_once`].
    #[inline]
    pub fn next_walk(&mut self, pcid: u16, cause: Cause) -> &mut Walk {
        let at = self.batch.walked;
        let walks = &mut self.batch.walks;
        if at == walks.len() {
            walks.push((Walk::default(), pcid, cause));
        }
        let (walk, of, by) = &mut walks[at];
        (*of, *by) = (pcid, cause);
        walk
    }

    /// The walk that was written has to be made.
    #[inline]
    pub fn walk(&mut self) {
        self.batch.walked += 1;
        self.push(Op::Walk);
    }

    /// The same with nothing left to do before it and after it, through L1D.
    pub fn walk_at_once(&mut self, l1d: &mut Cache) {
        let written = self.batch.walks.get(self.batch.walked).copied();
        let Some(one) = written else { return };
        self.settle();
        for lane in &mut self.lanes {
            lane.walk_at_once(&one, l1d, &self.cycles);
        }
    }

    /// Drops what an invalidation of this kind drops, after all that was pushed before it.
    pub fn flush(&mut self, what: Flush) {
        self.batch.flushes.push(what);
        self.push(Op::Flush);
    }

    /// Works off what is left.
    #[inline(never)]
    fn settle(&mut self) {
        // Should an organisation panic, this batch is gone and the next one as good as any.
        let mut batch = std::mem::take(&mut self.batch);
        for lane in &mut self.lanes {
            lane.run(&batch, &self.cycles);
        }
        batch.clear();
        self.batch = batch;
    }

    /// What `f` makes of the organisations, with nothing left to do.
    pub fn settled<T>(&mut self, f: impl FnOnce(&[Lane]) -> T) -> T {
        self.settle();
        f(&self.lanes)
    }

    /// From here on the walks of the guest's own tables are counted by their causes.
    pub fn attribute(&mut self) {
        self.settle();
        let real = |lane: &&mut Lane| lane.org.kind() == Kind::Real;
        if let Some(lane) = self.lanes.iter_mut().find(real) {
            lane.attribution = Some(Counts::default());
        }
    }

    /// The counts by cause, which start anew; `None` if there are none.
    pub fn take_attribution(&mut self) -> Option<Counts> {
        self.settle();
        let mut all = self.lanes.iter_mut().filter_map(|l| l.attribution.as_mut());
        all.next().map(std::mem::take)
    }

    /// A phase begins: counters start at 0, what is cached stays.
    pub fn reset_counters(&mut self) {
        self.settle();
        for lane in &mut self.lanes {
            if let Some(counts) = &mut lane.attribution {
                *counts = Counts::default();
            }
            lane.memory.reset_counters();
            lane.walk = WalkStats::default();
            lane.walks = [0; 3];
            lane.org.reset_counters();
        }
    }

    /// An organisation that is none of this crate's.
    #[cfg(test)]
    pub fn replace(&mut self, lane: usize, org: Box<dyn Organisation>) {
        self.lanes[lane].org = org;
    }
}
