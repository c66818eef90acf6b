// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a virtual CPU does, on its way to the models.
//!
//! The virtual CPU itself only makes sure that each address it uses has a translation, and writes the address down. The models
//! ([`Core`]) work through what is written, in batches, in its order: on the same thread, or on one of their own
//! ([`Stream::help`]). The results are the same to the last digit, unless cores share a last level, which sees their
//! accesses in blocks.
//!
//! Translations (`Known`) are kept from the first use of a page to its invalidation, as a processor with a very large TLB
//! would, which is what the architecture promises software that changes tables. The models have a copy of the walks, so that a TLB that
//! misses finds the entries to read. A translation may be forgotten at any time: it is then walked again, which is no walk to
//! the models.

mod engine;
mod known;
#[cfg(test)]
mod tests;
mod walks;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use self::engine::*;
use self::known::Known;
pub use self::known::Place;
pub use self::walks::Compared;
use self::walks::Walks;
use crate::addr::{PhysAddr, VirtAddr, VirtLine};
use crate::core::Core;
use crate::walk::{Flush, Size, Walk};

/// Operations in a batch that the same thread works off: few enough for the host's first-level cache.
const BATCH: usize = 1024;
/// Operations in a batch of a thread: a wake-up costs the virtual CPU microseconds, so it should be rare.
const HELPER_BATCH: usize = 32 * 1024;

/// The stream of one virtual CPU.
pub struct Stream {
    known: Known,
    /// Virtual line of the last data access: another one to it changes nothing.
    last: VirtLine,
    last_size: Size,
    data_repeats: [u64; 3],
    fetch_repeats: [u64; 3],
    batch: Batch,
    full: usize,
    /// Walks are counted by their causes.
    attributes: bool,
    /// Locked by the helper while it works on a batch, by the caller while the helper has none.
    engine: Arc<Mutex<Engine>>,
    helper: Option<Helper>,
}

impl Stream {
    /// A stream for these machines. Every `every`-th hit of a second-level TLB is compared with the walk; 0: none.
    pub fn new(cores: Vec<Core>, every: u64) -> Stream {
        let seat = |core| Seat {
            core,
            walks: Walks::new(every),
        };
        Stream {
            known: Known::new(),
            last: VirtLine::NONE,
            last_size: Size::Small,
            data_repeats: [0; 3],
            fetch_repeats: [0; 3],
            batch: Batch::default(),
            full: BATCH,
            attributes: false,
            engine: Arc::new(Mutex::new(Engine {
                seats: cores.into_iter().map(seat).collect(),
                broken: false,
            })),
            helper: None,
        }
    }

    /// From here on a thread of its own simulates: the same results, in less time on a host with an idle CPU.
    /// The thread ends with `self`.
    ///
    /// # Errors
    /// The system's, if there can be no thread; then all stays as it is.
    pub fn help(&mut self) -> std::io::Result<()> {
        let (todo, work) = channel::<Batch>();
        let (back, done) = channel();
        let engine = self.engine.clone();
        std::thread::Builder::new()
            .name("walksim".to_owned())
            .spawn(move || {
                for mut batch in work {
                    lock(&engine).run(&batch);
                    batch.clear();
                    if back.send(batch).is_err() {
                        return;
                    }
                }
            })?;
        self.settle();
        self.full = HELPER_BATCH;
        self.helper = Some(Helper { todo, done, out: 0 });
        Ok(())
    }

    /// Where the page of `va` was when it was last walked, unless it has been invalidated or forgotten since.
    #[inline(always)]
    pub fn known(&self, va: VirtAddr) -> Option<Place> {
        self.known.find(va)
    }

    /// The walk of a page that is not known.
    pub fn learn(&mut self, walk: &Walk) {
        self.known.learn(walk.va, walk);
        self.batch.walks.push(*walk);
        self.push(Op::bare(Tag::Learn));
    }

    /// A walk of a page that is known, made anew: the one that is kept must be the same, entry by entry.
    pub fn check(&mut self, fresh: &Walk) {
        self.batch.checks.push(*fresh);
        self.push(Op::bare(Tag::Check));
    }

    /// The root of the tables is another one. Pages that keep their translation (global ones) are led to by other entries
    /// now.
    pub fn root_changed(&mut self) {
        self.known.flush(Flush::All);
        self.last = VirtLine::NONE;
    }

    /// Is this data access to the line of the last one? Counts it, if so.
    #[inline(always)]
    pub fn repeats(&mut self, va: VirtAddr) -> bool {
        if VirtLine::of(va) != self.last {
            return false;
        }
        count(&mut self.data_repeats, self.last_size, 1);
        true
    }

    /// A data access within one line of a page that is known to be of this size.
    #[inline(always)]
    pub fn data(&mut self, va: VirtAddr, size: Size) {
        self.last = VirtLine::of(va);
        self.last_size = size;
        self.push(Op::at(va.as_u64(), Tag::Data));
    }

    /// As [`Stream::data`], by the instruction at `pc`.
    #[inline(always)]
    pub fn data_by(&mut self, va: VirtAddr, size: Size, pc: u64) {
        if self.attributes {
            self.batch.pcs.push(pc);
        }
        self.data(va, size);
    }

    /// From here on the walks of the guest's own tables are counted by their causes; data accesses come by
    /// [`Stream::data_by`]. Of several machines the first counts.
    pub fn attribute(&mut self) {
        self.settle();
        self.attributes = true;
        if let Some(seat) = lock(&self.engine).seats.first_mut() {
            seat.core.attribute();
        }
    }

    /// Another program runs.
    pub fn program(&mut self, number: u32) {
        self.push(Op::program(number));
    }

    /// A data access that no walk can translate.
    pub fn data_nowhere(&mut self) {
        self.last = VirtLine::NONE;
        self.push(Op::bare(Tag::DataNowhere));
    }

    /// A fetch within one line of a page that is known.
    #[inline(always)]
    pub fn fetch(&mut self, va: VirtAddr) {
        self.push(Op::at(va.as_u64(), Tag::Fetch));
    }

    /// A fetch whose virtual address is not known: the caches without the TLBs.
    pub fn fetch_physical(&mut self, pa: PhysAddr) {
        self.push(Op::at(pa.as_u64(), Tag::FetchPhysical));
    }

    /// A fetch that no walk can translate.
    pub fn fetch_nowhere(&mut self) {
        self.push(Op::bare(Tag::FetchNowhere));
    }

    /// Counts fetches that are known to be from the same line as the one before, which was in a page of
    /// this size.
    pub fn fetch_repeats(&mut self, n: u64, size: Size) {
        count(&mut self.fetch_repeats, size, n);
    }

    /// The guest invalidates translations.
    pub fn flush(&mut self, what: Flush) {
        self.known.flush(what);
        self.last = VirtLine::NONE;
        self.batch.flushes.push(what);
        self.push(Op::bare(Tag::Flush));
    }

    #[inline(always)]
    fn push(&mut self, op: Op) {
        self.batch.ops.push(op);
        if self.batch.ops.len() >= self.full {
            self.hand_over();
        }
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
                // The thread died: this one does its work again.
                Err(unsent) => {
                    self.batch = unsent.0;
                    self.helper = None;
                    self.full = BATCH;
                }
            }
        }
        lock(&self.engine).run(&self.batch);
        self.batch.clear();
    }

    /// Works off what is left.
    fn settle(&mut self) {
        self.hand_over();
        if let Some(helper) = &mut self.helper {
            helper.settle();
        }
        let mut engine = lock(&self.engine);
        for (i, size) in Size::ALL.into_iter().enumerate() {
            let take = |by: &mut [u64; 3]| by.get_mut(i).map_or(0, std::mem::take);
            let (data, fetch) = (take(&mut self.data_repeats), take(&mut self.fetch_repeats));
            for seat in &mut engine.seats {
                seat.core.data_repeats(data, size);
                seat.core.fetch_repeats(fetch, size);
            }
        }
    }

    /// What `f` makes of the machines and of what they compared since the last time, with nothing left to do.
    pub fn settled<T>(&mut self, f: impl FnOnce(&mut [&mut Core], Vec<Compared>) -> T) -> T {
        self.settle();
        let mut engine = lock(&self.engine);
        let mut cores = Vec::new();
        let mut compared = Vec::new();
        for seat in &mut engine.seats {
            compared.push(seat.walks.compared());
            cores.push(&mut seat.core);
        }
        f(&mut cores, compared)
    }

    /// Are figures worth anything? Not after an organisation panicked.
    pub fn broken(&self) -> bool {
        lock(&self.engine).broken
    }

    /// A phase begins: counters start at 0, what is cached stays.
    pub fn reset_counters(&mut self) {
        self.settle();
        for seat in &mut lock(&self.engine).seats {
            seat.core.reset_counters();
        }
    }
}

#[inline(always)]
fn count(by: &mut [u64; 3], size: Size, n: u64) {
    if let Some(sum) = by.get_mut(size as usize) {
        *sum += n;
    }
}
