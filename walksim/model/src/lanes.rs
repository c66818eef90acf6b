// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies behind the first level: for each organisation a walker and a memory hierarchy.
//!
//! Nothing in front acts on what happens here, so misses are collected and worked off in batches, by the caller or by
//! a thread of their own ([`Lanes::help`]): results are the same, unless cores share a last level, which sees their misses in blocks. A part of a batch is gone through twice: first the
//! sets of all its lines are only looked at. These are independent loads, so the host fetches many of them at a
//! time, which it cannot do while each miss decides what the next one is.

use std::hint::black_box;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::Cache;
use crate::config::{Config, ConfigError, Cycles, LINE};
use crate::memory::{Memory, Stats};
use crate::org::{self, Organisation, Port, WalkStats};
use crate::walk::{Flush, Walk};

/// Operations that are looked at together: enough for the host to overlap, few enough for its first-level cache.
const WINDOW: usize = 64;
/// Operations in a batch of a thread: a wake-up costs the core tens of microseconds, so it should be rare.
const BATCH: usize = 8192;
/// Batches that may be on their way.
const DEPTH: usize = 4;

/// What the first level asks for. Lines are physical addresses / 64.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A data access missed.
    Data(u64),
    /// A fetch missed.
    Fetch(u64),
    /// L1D's prefetcher wants it.
    Prefetch(u64),
    /// The next of the batch's walks.
    Walk,
    /// The next of the batch's invalidations.
    Flush,
}

#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    walks: Vec<(Walk, u16)>,
    flushes: Vec<Flush>,
}

impl Batch {
    fn clear(&mut self) {
        self.ops.clear();
        self.walks.clear();
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

/// The last-level caches that the cores of one machine share, one per organisation.
#[derive(Clone)]
pub struct Shared(Vec<Arc<Mutex<Cache>>>);

impl Shared {
    pub fn new(config: &Config) -> Shared {
        let one = |_: &String| Arc::new(Mutex::new(Cache::new(config.cache.llc)));
        Shared(config.organisations.iter().map(one).collect())
    }
}

/// An organisation, its hierarchy, its walks.
pub struct Lane {
    pub org: Box<dyn Organisation>,
    memory: Memory,
    llc: Llc,
    pub walk: WalkStats,
    pub walks: [u64; 3],
}

impl Lane {
    pub fn stats(&self) -> &Stats {
        &self.memory.stats
    }

    fn run(&mut self, batch: &Batch, cycles: &Cycles) {
        let mut held = self.llc.hold();
        let llc = match &mut held {
            Held::Own(cache) => &mut **cache,
            Held::Shared(guard) => &mut **guard,
        };
        let mut walks = batch.walks.iter();
        let mut flushes = batch.flushes.iter();
        for ops in batch.ops.chunks(WINDOW) {
            let mut seen = 0u32;
            let mut ahead = walks.clone();
            let mut look = |line| seen ^= self.memory.look(line) ^ llc.look(line);
            for op in ops {
                match *op {
                    Op::Data(line) | Op::Fetch(line) | Op::Prefetch(line) => look(line),
                    Op::Walk => {
                        let visited = ahead.next().map_or(&[][..], |(walk, _)| walk.visited());
                        visited.iter().for_each(|entry| look(entry.pa / LINE));
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
                        let Some((walk, pcid)) = walks.next() else {
                            continue;
                        };
                        if self.org.walks() {
                            if let Some(n) = self.walks.get_mut(walk.size as usize) {
                                *n += 1;
                            }
                        }
                        let mut port = Port::new(&mut self.memory, llc, &mut self.walk, cycles);
                        self.org.walk(walk, *pcid, &mut port);
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

/// All lanes of a core.
struct Row {
    cycles: Cycles,
    lanes: Vec<Lane>,
    /// An organisation panicked: part of a batch is lost.
    broken: bool,
}

impl Row {
    /// Callers come from QEMU, through which nothing may unwind, or are a thread that nobody watches.
    fn run(&mut self, batch: &Batch) {
        let all = AssertUnwindSafe(|| {
            for lane in &mut self.lanes {
                lane.run(batch, &self.cycles);
            }
        });
        if catch_unwind(all).is_err() {
            self.broken = true;
        }
    }
}

/// A thread that works batches off in their order and hands them back.
struct Helper {
    todo: Sender<Batch>,
    done: Receiver<Batch>,
    /// Batches that it has.
    out: usize,
}

impl Helper {
    /// The next empty batch; waits if the thread is behind.
    fn empty(&mut self) -> Batch {
        let back = if self.out < DEPTH {
            self.done.try_recv().ok()
        } else {
            self.done.recv().ok()
        };
        if back.is_some() {
            self.out -= 1;
        }
        back.unwrap_or_default()
    }

    /// Waits until nothing is left to do.
    fn settle(&mut self) {
        while self.out > 0 && self.done.recv().is_ok() {
            self.out -= 1;
        }
        self.out = 0;
    }
}

/// The organisations, and what they have still to do.
pub struct Lanes {
    /// Locked by the helper while it works on a batch, by the caller while the helper has none.
    row: Arc<Mutex<Row>>,
    batch: Batch,
    full: usize,
    helper: Option<Helper>,
}

impl Lanes {
    pub fn new(config: &Config, shared: Option<&Shared>) -> Result<Lanes, ConfigError> {
        let mut lanes = Vec::new();
        for (i, name) in config.organisations.iter().enumerate() {
            let org = org::make(name, config)
                .ok_or_else(|| ConfigError(format!("unknown organisation '{name}'")))?;
            let llc = match shared.and_then(|s| s.0.get(i)) {
                Some(cache) => Llc::Shared(cache.clone()),
                None => Llc::Own(Cache::new(config.cache.llc)),
            };
            lanes.push(Lane {
                org,
                memory: Memory::new(&config.cache),
                llc,
                walk: WalkStats::default(),
                walks: [0; 3],
            });
        }
        Ok(Lanes {
            row: Arc::new(Mutex::new(Row {
                cycles: config.cycles.clone(),
                lanes,
                broken: false,
            })),
            batch: Batch::default(),
            full: WINDOW,
            helper: None,
        })
    }

    /// From here on a thread of its own does the work. It ends with `self`.
    ///
    /// # Errors
    /// The system's, if there can be no thread; then all stays as it is.
    pub fn help(&mut self) -> std::io::Result<()> {
        let (todo, work) = channel::<Batch>();
        let (back, done) = channel();
        let row = self.row.clone();
        std::thread::Builder::new()
            .name("walksim".to_owned())
            .spawn(move || {
                for mut batch in work {
                    lock(&row).run(&batch);
                    batch.clear();
                    if back.send(batch).is_err() {
                        return;
                    }
                }
            })?;
        self.settle();
        self.full = BATCH;
        self.helper = Some(Helper { todo, done, out: 0 });
        Ok(())
    }

    #[inline]
    pub fn push(&mut self, op: Op) {
        self.batch.ops.push(op);
        if self.batch.ops.len() >= self.full {
            self.hand_over();
        }
    }

    #[inline]
    pub fn walk(&mut self, walk: Walk, pcid: u16) {
        self.batch.walks.push((walk, pcid));
        self.push(Op::Walk);
    }

    pub fn flush(&mut self, what: Flush) {
        self.batch.flushes.push(what);
        self.push(Op::Flush);
    }

    #[inline(never)]
    fn hand_over(&mut self) {
        if let Some(helper) = &mut self.helper {
            let empty = helper.empty();
            let batch = std::mem::replace(&mut self.batch, empty);
            match helper.todo.send(batch) {
                Ok(()) => {
                    helper.out += 1;
                    return;
                }
                // The thread died: this core does its work again.
                Err(unsent) => {
                    self.batch = unsent.0;
                    self.helper = None;
                    self.full = WINDOW;
                }
            }
        }
        lock(&self.row).run(&self.batch);
        self.batch.clear();
    }

    /// Works off what is left.
    fn settle(&mut self) {
        self.hand_over();
        if let Some(helper) = &mut self.helper {
            helper.settle();
        }
    }

    /// What `f` makes of the organisations, with nothing left to do.
    pub fn settled<T>(&mut self, f: impl FnOnce(&[Lane]) -> T) -> T {
        self.settle();
        f(&lock(&self.row).lanes)
    }

    /// Is what the organisations say worth anything? Not after one of them panicked.
    pub fn broken(&self) -> bool {
        lock(&self.row).broken
    }

    /// A phase begins: counters start at 0, what is cached stays.
    pub fn reset_counters(&mut self) {
        self.settle();
        for lane in &mut lock(&self.row).lanes {
            lane.memory.stats = Stats::default();
            lane.walk = WalkStats::default();
            lane.walks = [0; 3];
            lane.org.reset_counters();
        }
    }
}

fn lock(row: &Mutex<Row>) -> MutexGuard<'_, Row> {
    row.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Kind, Organisation as Report};
    use crate::walk::{Entry, Size, MAX_ENTRIES};

    fn walk(n: u64) -> Walk {
        let mut entries = [Entry::default(); MAX_ENTRIES];
        for (level, entry) in (1..=4u8).rev().zip(&mut entries) {
            entry.pa = (u64::from(level) << 30) + n % (1 << (20 - 4 * level)) * 8;
            entry.level = level;
            entry.index_bits = 9;
        }
        Walk {
            va: n << 12,
            root: 4 << 30,
            entries,
            n: 4,
            page: n << 12,
            size: Size::Small,
            global: false,
        }
    }

    /// More than fits in all batches that may be on their way, with walks and invalidations between.
    fn much(lanes: &mut Lanes) {
        let mut ran = 1u64;
        for i in 0..BATCH as u64 * (DEPTH as u64 + 3) {
            ran = ran.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let line = ran >> 44;
            match i % 8 {
                0..=2 => lanes.push(Op::Data(line)),
                3 => lanes.push(Op::Prefetch(line + 1)),
                4 => lanes.push(Op::Fetch(line)),
                _ => lanes.walk(walk(line % 5000), 0),
            }
            if i % 1000 == 0 {
                lanes.flush(Flush::All);
            }
        }
    }

    #[test]
    fn help_changes_no_figure() {
        let config = crate::config::resolve("emt", None, &[]).unwrap();
        let counters = |helped: bool| {
            let mut lanes = Lanes::new(&config, None).unwrap();
            if helped {
                lanes.help().unwrap();
            }
            much(&mut lanes);
            assert!(!lanes.broken());
            lanes.settled(|lanes| {
                let one = |lane: &Lane| format!("{:?} {:?}", lane.stats(), lane.walk.by_what);
                lanes.iter().map(one).collect::<Vec<_>>()
            })
        };
        let alone = counters(false);
        assert_eq!(alone.len(), 4);
        assert_ne!(alone[0], alone[2], "ideal does not walk");
        assert_eq!(alone, counters(true));
    }

    struct Bad;

    impl Organisation for Bad {
        fn name(&self) -> &'static str {
            "bad"
        }
        fn kind(&self) -> Kind {
            Kind::Counterfactual
        }
        fn reads(&self) -> &'static [&'static str] {
            &[]
        }
        fn walk(&mut self, _: &Walk, _: u16, _: &mut Port<'_>) {
            panic!("as it should");
        }
        fn flush(&mut self, _: Flush) {}
        fn report(&self, _: &mut Report) {}
        fn reset_counters(&mut self) {}
    }

    #[test]
    fn panics_are_kept_in_mind() {
        for helped in [false, true] {
            let mut lanes =
                Lanes::new(&crate::config::resolve("emt", None, &[]).unwrap(), None).unwrap();
            lock(&lanes.row).lanes[1].org = Box::new(Bad);
            if helped {
                lanes.help().unwrap();
            }
            much(&mut lanes);
            lanes.reset_counters();
            assert!(lanes.broken());
        }
    }
}
