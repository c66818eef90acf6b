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

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::LINE;
use crate::core::Core;
use crate::walk::{is_kernel, Entry, Flush, Size, Walk, Walker, MAX_ENTRIES};

/// Pages of 4 KiB whose translations are known; a power of two, and no fewer than a 2 MiB page has.
const KNOWN: usize = 1 << 16;
/// Operations in a batch that the same thread works off: few enough for the host's first-level cache.
const BATCH: usize = 1024;
/// Operations in a batch of a thread: a wake-up costs the virtual CPU microseconds, so it should be rare.
const HELPER_BATCH: usize = 32 * 1024;
/// Batches that may be on their way.
const DEPTH: usize = 4;
/// Mismatches that are told in words.
const MAX_TEXTS: usize = 3;

const LINE_SHIFT: u32 = LINE.trailing_zeros();
/// A virtual line number that no address has.
const NO_LINE: u64 = u64::MAX;

/// An operation is the first address of a line and one of these.
const DATA: u64 = 0;
const FETCH: u64 = 1;
/// The address is physical.
const FETCH_PHYSICAL: u64 = 2;
/// No walk translates it.
const DATA_NOWHERE: u64 = 3;
const FETCH_NOWHERE: u64 = 4;
/// The next of the batch's walks is about to be used.
const LEARN: u64 = 5;
/// The next of the batch's invalidations.
const FLUSH: u64 = 6;
/// The next of the batch's new walks is to be compared with the one that is kept.
const CHECK: u64 = 7;
const TAG: u64 = LINE - 1;

#[derive(Default)]
struct Batch {
    ops: Vec<u64>,
    walks: Vec<Walk>,
    checks: Vec<Walk>,
    flushes: Vec<Flush>,
}

impl Batch {
    fn clear(&mut self) {
        self.ops.clear();
        self.walks.clear();
        self.checks.clear();
        self.flushes.clear();
    }
}

/// A page that an address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The page's first physical address; its size in the low bits.
    packed: u64,
}

impl Place {
    pub fn new(walk: &Walk) -> Place {
        Place {
            packed: walk.page | walk.size as u64,
        }
    }

    #[inline(always)]
    pub fn size(self) -> Size {
        match self.packed & 3 {
            0 => Size::Small,
            1 => Size::Large,
            _ => Size::Huge,
        }
    }

    #[inline(always)]
    pub fn page(self) -> u64 {
        self.packed & !3
    }

    /// Where `va`, which lies in this page, is.
    #[inline(always)]
    pub fn address(self, va: u64) -> u64 {
        self.page() | va & ((1 << self.size().shift()) - 1)
    }
}

#[inline(always)]
fn index(va: u64) -> usize {
    let page = va >> 12;
    (page ^ page >> KNOWN.trailing_zeros()) as usize % KNOWN
}

/// Bits of a page's number in a key: of 57-bit addresses.
const KEY_BITS: u32 = 45;
const GENERATIONS: u64 = 1 << (64 - KEY_BITS);

#[derive(Clone, Copy)]
struct Slot {
    /// Number of the 4 KiB page and the generation; 0: empty.
    key: u64,
    place: Place,
}

const EMPTY: Slot = Slot {
    key: 0,
    place: Place { packed: 0 },
};

/// One half of the address space.
#[derive(Clone, Copy)]
struct Half {
    /// Entries of other generations are void. Starts at 1, in place in the key.
    generation: u64,
    /// There may be entries of such pages.
    large: bool,
    huge: bool,
    local: bool,
}

const HALF: Half = Half {
    generation: 1 << KEY_BITS,
    large: false,
    huge: false,
    local: false,
};

/// Translations of 4 KiB pages, or of what lies there of a larger one; direct-mapped.
struct Known {
    slots: Box<[Slot]>,
    user: Half,
    kernel: Half,
}

impl Known {
    fn new() -> Known {
        Known {
            slots: vec![EMPTY; KNOWN].into_boxed_slice(),
            user: HALF,
            kernel: HALF,
        }
    }

    #[inline(always)]
    fn key(&self, va: u64) -> u64 {
        let half = if is_kernel(va) {
            &self.kernel
        } else {
            &self.user
        };
        va << (64 - KEY_BITS - 12) >> (64 - KEY_BITS) | half.generation
    }

    #[inline(always)]
    fn find(&self, va: u64) -> Option<Place> {
        let slot = self.slots.get(index(va))?;
        (slot.key == self.key(va)).then_some(slot.place)
    }

    fn half(&mut self, va: u64) -> &mut Half {
        if is_kernel(va) {
            &mut self.kernel
        } else {
            &mut self.user
        }
    }

    fn learn(&mut self, va: u64, walk: &Walk) {
        let half = self.half(va);
        half.local |= !walk.global;
        half.large |= walk.size == Size::Large;
        half.huge |= walk.size == Size::Huge;
        let key = self.key(va);
        if let Some(slot) = self.slots.get_mut(index(va)) {
            *slot = Slot {
                key,
                place: Place::new(walk),
            };
        }
    }

    fn forget(&mut self, va: u64) {
        if let Some(slot) = self.slots.get_mut(index(va)) {
            *slot = EMPTY;
        }
    }

    fn forget_half(&mut self, va: u64) {
        let half = self.half(va);
        *half = Half {
            generation: half.generation.wrapping_add(1 << KEY_BITS),
            ..HALF
        };
        if half.generation == (GENERATIONS - 1) << KEY_BITS {
            half.generation = 1 << KEY_BITS;
            self.slots.fill(EMPTY);
        }
    }

    fn flush(&mut self, what: Flush) {
        const USER: u64 = 0;
        const KERNEL: u64 = 1 << 63;
        match what {
            Flush::All => {
                self.forget_half(USER);
                self.forget_half(KERNEL);
            }
            Flush::AddressSpace { .. } => {
                self.forget_half(USER);
                if self.kernel.local {
                    self.forget_half(KERNEL);
                }
            }
            Flush::Page { va, .. } => {
                let half = *self.half(va);
                if half.huge {
                    self.forget_half(va);
                } else if half.large {
                    let shift = Size::Large.shift();
                    let first = va >> shift << shift;
                    (0..1u64 << (shift - 12)).for_each(|i| self.forget(first + (i << 12)));
                } else {
                    self.forget(va);
                }
            }
        }
    }
}

/// What the models found when they compared their TLBs with the translations, and these with new walks.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    pub hits: u64,
    /// Kept walks that were compared with new ones.
    pub entries: u64,
    /// Those that differed and were then invalidated: the guest had changed an entry and not yet said so.
    pub stale: u64,
    pub mismatches: u64,
    /// The first few mismatches.
    pub texts: Vec<String>,
}

impl Compared {
    fn mismatch(&mut self, text: impl FnOnce() -> String) {
        self.mismatches += 1;
        if self.texts.len() < MAX_TEXTS {
            self.texts.push(text());
        }
    }
}

/// A walk in one line of the host's cache.
#[derive(Clone, Copy, Default, PartialEq)]
#[repr(align(64))]
struct Packed {
    /// From bit 0: number of the 4 KiB page; from bit 52: visited entries (0: no walk), size, global.
    head: u64,
    page: u64,
    root: u64,
    /// From bit 0: address; from bit 52: level, from bit 56: width of the index.
    entries: [u64; MAX_ENTRIES],
}

const PAGE_NUMBER: u64 = (1 << 52) - 1;

impl Packed {
    fn new(walk: &Walk) -> Packed {
        let one = |e: Entry| {
            e.pa & PAGE_NUMBER | u64::from(e.level & 15) << 52 | u64::from(e.index_bits) << 56
        };
        Packed {
            head: walk.va >> 12
                | u64::from(walk.n) << 52
                | (walk.size as u64) << 56
                | u64::from(walk.global) << 60,
            page: walk.page,
            root: walk.root,
            entries: walk.entries.map(one),
        }
    }

    fn holds(&self, va: u64) -> bool {
        self.head & PAGE_NUMBER == va >> 12 && self.head >> 52 != 0
    }

    fn size(&self) -> Size {
        match self.head >> 56 & 3 {
            0 => Size::Small,
            1 => Size::Large,
            _ => Size::Huge,
        }
    }

    /// The walk of `va`, which it holds.
    fn walk(&self, va: u64) -> Walk {
        let one = |e: u64| Entry {
            pa: e & PAGE_NUMBER,
            level: (e >> 52 & 15) as u8,
            index_bits: (e >> 56) as u8,
        };
        Walk {
            va,
            root: self.root,
            entries: self.entries.map(one),
            n: (self.head >> 52 & 15) as u8,
            page: self.page,
            size: self.size(),
            global: self.head >> 60 & 1 != 0,
        }
    }
}

/// The walks of what [`Known`] has, at the same places.
struct Walks {
    walks: Box<[Packed]>,
    /// Every so many hits of a second-level TLB are compared.
    every: u64,
    hits: u64,
    compared: Compared,
    /// Walks that differ from the tables. The guest may not have invalidated them yet, as it must.
    suspects: Vec<Walk>,
}

/// Suspects beyond these are not waited for.
const MAX_SUSPECTS: usize = 16;

impl Walks {
    fn find(&self, va: u64) -> Option<&Packed> {
        self.walks.get(index(va)).filter(|walk| walk.holds(va))
    }

    fn learn(&mut self, walk: &Walk) {
        if let Some(place) = self.walks.get_mut(index(walk.va)) {
            *place = Packed::new(walk);
        }
    }

    /// `fresh` is how things are now, at an address whose walk is kept.
    fn check(&mut self, fresh: &Walk) {
        self.compared.entries += 1;
        let kept = self.find(fresh.va).copied().unwrap_or_default();
        if kept == Packed::new(fresh) {
            return;
        }
        let kept = kept.walk(fresh.va);
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.push(kept);
        } else {
            self.differs(&kept);
        }
    }

    fn differs(&mut self, kept: &Walk) {
        self.compared.mismatch(|| {
            format!(
                "the tables changed and nothing was invalidated: {:#x} was led by {:x?} to {:#x}",
                kept.va,
                kept.visited(),
                kept.page
            )
        });
    }

    /// The guest invalidates: what differed may do so.
    fn flush(&mut self, what: Flush) {
        let before = self.suspects.len();
        self.suspects.retain(|s| match what {
            Flush::All => false,
            Flush::AddressSpace { .. } => s.global,
            Flush::Page { va, .. } => va >> s.size.shift() != s.va >> s.size.shift(),
        });
        self.compared.stale += (before - self.suspects.len()) as u64;
    }

    /// What was found since the last time. What differs and has not been invalidated by now is a mismatch.
    fn compared(&mut self) -> Compared {
        for suspect in std::mem::take(&mut self.suspects) {
            self.differs(&suspect);
        }
        std::mem::take(&mut self.compared)
    }
}

impl Walker for Walks {
    fn walk(&mut self, va: u64) -> Option<Walk> {
        let found = self.find(va).map(|walk| walk.walk(va));
        if found.is_none() {
            self.compared
                .mismatch(|| format!("{va:#x} was used before it was translated"));
        }
        found
    }

    fn stlb_hit(&mut self, va: u64, page: u64, size: Size) {
        self.hits += 1;
        if self.every == 0 || self.hits % self.every != 0 {
            return;
        }
        // What shares the place may have displaced it.
        let Some(walk) = self.find(va) else { return };
        let (ours, theirs) = (page | offset(va, size), walk.page | offset(va, walk.size()));
        self.compared.hits += 1;
        if ours != theirs {
            self.compared.mismatch(|| {
                format!("the TLB holds {ours:#x} for {va:#x}, the tables lead to {theirs:#x}")
            });
        }
    }
}

fn offset(va: u64, size: Size) -> u64 {
    va & ((1 << size.shift()) - 1)
}

/// A machine, and the walks as far as it has come.
struct Seat {
    core: Core,
    walks: Walks,
}

impl Seat {
    fn run(&mut self, batch: &Batch) {
        let Seat { core, walks } = self;
        let mut learnt = batch.walks.iter();
        let mut checks = batch.checks.iter();
        let mut flushes = batch.flushes.iter();
        for op in &batch.ops {
            let address = op & !TAG;
            match op & TAG {
                DATA => core.data(address, walks),
                FETCH => core.fetch(address, walks),
                FETCH_PHYSICAL => core.fetch_physical(address),
                DATA_NOWHERE => core.data_nowhere(),
                FETCH_NOWHERE => core.fetch_nowhere(),
                LEARN => learnt.next().into_iter().for_each(|w| walks.learn(w)),
                CHECK => checks.next().into_iter().for_each(|w| walks.check(w)),
                _ => flushes.next().into_iter().for_each(|f| {
                    walks.flush(*f);
                    core.flush(*f);
                }),
            }
        }
    }
}

/// All that simulates for a virtual CPU.
struct Engine {
    seats: Vec<Seat>,
    /// Something panicked: part of a batch is lost.
    broken: bool,
}

impl Engine {
    /// Callers come from QEMU, through which nothing may unwind, or are a thread that nobody watches.
    fn run(&mut self, batch: &Batch) {
        let all = AssertUnwindSafe(|| self.seats.iter_mut().for_each(|s| s.run(batch)));
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

/// The stream of one virtual CPU.
pub struct Stream {
    known: Known,
    /// Virtual line of the last data access: another one to it changes nothing.
    last: u64,
    last_size: Size,
    data_repeats: [u64; 3],
    fetch_repeats: [u64; 3],
    batch: Batch,
    full: usize,
    /// Locked by the helper while it works on a batch, by the caller while the helper has none.
    engine: Arc<Mutex<Engine>>,
    helper: Option<Helper>,
}

impl Stream {
    /// A stream for these machines. Every `every`-th hit of a second-level TLB is compared with the walk; 0: none.
    pub fn new(cores: Vec<Core>, every: u64) -> Stream {
        let seat = |core| Seat {
            core,
            walks: Walks {
                walks: vec![Packed::default(); KNOWN].into_boxed_slice(),
                every,
                hits: 0,
                compared: Compared::default(),
                suspects: Vec::new(),
            },
        };
        Stream {
            known: Known::new(),
            last: NO_LINE,
            last_size: Size::Small,
            data_repeats: [0; 3],
            fetch_repeats: [0; 3],
            batch: Batch::default(),
            full: BATCH,
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
    pub fn known(&self, va: u64) -> Option<Place> {
        self.known.find(va)
    }

    /// The walk of a page that is not known.
    pub fn learn(&mut self, walk: &Walk) {
        self.known.learn(walk.va, walk);
        self.batch.walks.push(*walk);
        self.push(LEARN);
    }

    /// A walk of a page that is known, made anew: the one that is kept must be the same, entry by entry.
    pub fn check(&mut self, fresh: &Walk) {
        self.batch.checks.push(*fresh);
        self.push(CHECK);
    }

    /// The root of the tables is another one. Pages that keep their translation (global ones) are led to by other entries
    /// now.
    pub fn root_changed(&mut self) {
        self.known.flush(Flush::All);
        self.last = NO_LINE;
    }

    /// Is this data access to the line of the last one? Counts it, if so.
    #[inline(always)]
    pub fn repeats(&mut self, va: u64) -> bool {
        if va >> LINE_SHIFT != self.last {
            return false;
        }
        count(&mut self.data_repeats, self.last_size, 1);
        true
    }

    /// A data access within one line of a page that is known to be of this size.
    #[inline(always)]
    pub fn data(&mut self, va: u64, size: Size) {
        self.last = va >> LINE_SHIFT;
        self.last_size = size;
        self.push(va & !TAG | DATA);
    }

    /// A data access that no walk can translate.
    pub fn data_nowhere(&mut self) {
        self.last = NO_LINE;
        self.push(DATA_NOWHERE);
    }

    /// A fetch within one line of a page that is known.
    #[inline(always)]
    pub fn fetch(&mut self, va: u64) {
        self.push(va & !TAG | FETCH);
    }

    /// A fetch whose virtual address is not known: the caches without the TLBs.
    pub fn fetch_physical(&mut self, pa: u64) {
        self.push(pa & !TAG | FETCH_PHYSICAL);
    }

    /// A fetch that no walk can translate.
    pub fn fetch_nowhere(&mut self) {
        self.push(FETCH_NOWHERE);
    }

    /// Counts fetches that are known to be from the same line as the one before, which was in a page of
    /// this size.
    pub fn fetch_repeats(&mut self, n: u64, size: Size) {
        count(&mut self.fetch_repeats, size, n);
    }

    /// The guest invalidates translations.
    pub fn flush(&mut self, what: Flush) {
        self.known.flush(what);
        self.last = NO_LINE;
        self.batch.flushes.push(what);
        self.push(FLUSH);
    }

    #[inline(always)]
    fn push(&mut self, op: u64) {
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

fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::resolve;
    use crate::org::{Organisation, Port};
    use crate::report::{Kind, Organisation as Report};

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn walk(va: u64, page: u64, size: Size, global: bool) -> Walk {
        let mut entries = [Entry::default(); MAX_ENTRIES];
        let n = 4 - size as usize;
        for (level, entry) in (1..=4u8).rev().zip(entries.iter_mut().take(n)) {
            let number = (va & 0xffff_ffff_ffff) >> (3 + 9 * u32::from(level));
            *entry = Entry {
                pa: (u64::from(level) << 40) + number * 8,
                level,
                index_bits: 9,
            };
        }
        Walk {
            va,
            root: 0x7000,
            entries,
            n: n as u8,
            page,
            size,
            global,
        }
    }

    #[test]
    fn walks_survive_packing() {
        for (va, size) in [
            (0x1234, Size::Small),
            (0xff00_0000_0000_0000, Size::Large),
            (0x7fff_c000_0000, Size::Huge),
        ] {
            for global in [false, true] {
                let whole = walk(va, 0x8_0000_0000, size, global);
                let packed = Packed::new(&whole);
                assert!(packed.holds(va | 0xfff) && !packed.holds(va ^ 1 << 56));
                assert_eq!(packed.walk(va), whole);
                assert_eq!((Place::new(&whole).size(), packed.size()), (size, size));
                let at = Place::new(&whole).address(va | 0xff);
                assert_eq!(at, whole.page | offset(va | 0xff, size));
            }
        }
        assert!(!Packed::default().holds(0));
    }

    /// Where everything is, by first address; which pages there are depends on addresses only.
    struct Guest {
        pages: HashMap<u64, u64>,
        next: u64,
        large: bool,
        huge: bool,
    }

    impl Guest {
        fn new(large: bool, huge: bool) -> Guest {
            Guest {
                pages: HashMap::new(),
                next: 0,
                large,
                huge,
            }
        }

        fn size(&self, va: u64) -> Size {
            match va >> 30 & 7 {
                5 | 6 if self.large => Size::Large,
                7 if self.huge => Size::Huge,
                _ => Size::Small,
            }
        }

        fn first(&self, va: u64) -> u64 {
            va - offset(va, self.size(va))
        }

        fn walk(&mut self, va: u64) -> Walk {
            let first = self.first(va);
            let next = &mut self.next;
            let page = *self.pages.entry(first).or_insert_with(|| {
                *next += 1;
                *next << 30
            });
            walk(va, page, self.size(va), is_global(va))
        }
    }

    fn is_global(va: u64) -> bool {
        is_kernel(va) && va >> 30 & 1 != 0
    }

    /// Pages that share places, in both halves.
    fn address(state: &mut u64) -> u64 {
        let r = random(state);
        let gib = match r >> 40 & 7 {
            0 => r >> 20 & 15,
            n => 4 + n / 2,
        };
        let (high, page) = (r >> 63, r >> 10 & 1023);
        (high * (0x1ffff << 47)) | gib << 30 | page << 12 | r & 0xff8
    }

    #[test]
    fn what_is_known_is_true() {
        let mut state = 7;
        for (large, huge) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut guest = Guest::new(large, huge);
            let mut known = Known::new();
            let mut found = 0;
            for _ in 0..600_000u64 {
                let va = address(&mut state);
                match random(&mut state) % 10_000 {
                    0 => {
                        known.flush(Flush::All);
                        guest.pages.clear();
                    }
                    // Linux unmaps, and then invalidates
                    1..=20 => {
                        guest.pages.remove(&guest.first(va));
                        known.flush(Flush::Page { va, pcid: 0 });
                    }
                    21 => {
                        guest.pages.retain(|first, _| is_global(*first));
                        known.flush(Flush::AddressSpace { pcid: 0 });
                    }
                    _ => {
                        let walk = guest.walk(va);
                        match known.find(va) {
                            Some(place) => {
                                found += 1;
                                assert_eq!(place.address(va), walk.page | offset(va, walk.size));
                            }
                            None => known.learn(va, &walk),
                        }
                    }
                }
            }
            assert!(found > 25_000, "{found}");
        }
    }

    #[test]
    fn generations_end() {
        let mut known = Known::new();
        for va in [0x1000, 1 << 63] {
            known.learn(va, &walk(va, 0x2000, Size::Small, false));
            assert!(known.find(va).is_some());
        }
        for _ in 0..GENERATIONS * 2 {
            known.flush(Flush::AddressSpace { pcid: 0 });
            assert!(known.find(0x1000).is_none() && known.find(1 << 63).is_none());
        }
    }

    fn core(organisations: &str) -> Core {
        let set = ("organisations".to_owned(), organisations.to_owned());
        Core::new(&resolve("emt", None, &[set]).unwrap(), None).unwrap()
    }

    fn access(stream: &mut Stream, guest: &mut Guest, va: u64) {
        if stream.repeats(va) {
            return;
        }
        let place = stream.known(va).unwrap_or_else(|| {
            let walk = guest.walk(va);
            stream.learn(&walk);
            Place::new(&walk)
        });
        stream.data(va, place.size());
    }

    /// More than fits in all batches that may be on their way.
    fn much(stream: &mut Stream) -> Vec<Compared> {
        let mut guest = Guest::new(true, true);
        let mut state = 99;
        for i in 0..HELPER_BATCH as u64 * (DEPTH as u64 + 2) {
            let va = address(&mut state);
            access(stream, &mut guest, va);
            if i % 4 == 0 {
                access(stream, &mut guest, va ^ 8);
                stream.fetch_physical(va & 0xff_ffff_ffff);
            }
            if i % 5000 == 0 {
                guest.pages.remove(&guest.first(va));
                stream.flush(Flush::Page { va, pcid: 0 });
            }
        }
        stream.settled(|_, compared| compared)
    }

    #[test]
    fn help_changes_no_figure() {
        let figures = |helped: bool| {
            let all = "[\"real\", \"radix\", \"ecpt\"]";
            let mut stream = Stream::new(vec![core(all), core("[\"real\"]")], 1);
            if helped {
                stream.help().unwrap();
            }
            let compared = much(&mut stream);
            assert!(compared.iter().all(|c| c.hits > 1000));
            assert!(compared.iter().all(|c| c.mismatches == 0));
            assert!(!stream.broken());
            stream.settled(|cores, _| {
                let reports = cores.iter_mut().map(|c| format!("{:?}", c.report(0, 0)));
                reports.collect::<Vec<_>>()
            })
        };
        let alone = figures(false);
        assert_eq!(alone.len(), 2);
        assert_eq!(alone, figures(true));
    }

    #[test]
    fn a_lost_invalidation_shows() {
        let mut stream = Stream::new(vec![core("[\"real\"]")], 1);
        let mut guest = Guest::new(true, true);
        access(&mut stream, &mut guest, 0x1000);
        // out of the first level, not of the second
        (1..100u64).for_each(|i| access(&mut stream, &mut guest, 0x1000 + (i << 12)));
        guest.pages.clear();
        stream.known.flush(Flush::All);
        access(&mut stream, &mut guest, 0x1000);
        let compared = stream.settled(|_, compared| compared);
        assert_eq!(compared[0].mismatches, 1);
        assert!(compared[0].texts[0].contains("the tables lead to"));
    }

    #[test]
    fn a_changed_entry_shows_unless_it_is_invalidated() {
        let find = |change: fn(&mut Walk), then: Option<Flush>| {
            let mut stream = Stream::new(vec![core("[\"real\"]")], 1);
            let mut guest = Guest::new(true, true);
            access(&mut stream, &mut guest, 0x1000);
            access(&mut stream, &mut guest, 0x9000);
            let mut fresh = guest.walk(0x1000);
            change(&mut fresh);
            stream.check(&fresh);
            if let Some(what) = then {
                stream.flush(what);
            }
            stream.settled(|_, compared| compared[0].clone())
        };
        let same = find(|_| {}, None);
        assert_eq!((same.entries, same.mismatches, same.stale), (1, 0, 0));
        let changes: [fn(&mut Walk); 6] = [
            |w| w.entries[1].pa += 8,
            |w| w.entries[3].index_bits = 18,
            |w| w.root += 4096,
            |w| w.page += 4096,
            |w| w.n -= 1,
            |w| w.global = true,
        ];
        let page = |va| Some(Flush::Page { va, pcid: 0 });
        for change in changes {
            let lost = find(change, None);
            assert_eq!((lost.mismatches, lost.stale), (1, 0));
            assert!(lost.texts[0].contains("nothing was invalidated"));
            for what in [
                page(0x1fff),
                Some(Flush::All),
                Some(Flush::AddressSpace { pcid: 0 }),
            ] {
                let late = find(change, what);
                assert_eq!((late.mismatches, late.stale), (0, 1));
            }
            assert_eq!(find(change, page(0x2000)).mismatches, 1);
        }
    }

    /// An organisation that reads what it has no name for.
    struct Nameless;

    impl Organisation for Nameless {
        fn name(&self) -> &'static str {
            "nameless"
        }
        fn kind(&self) -> Kind {
            Kind::Counterfactual
        }
        fn reads(&self) -> &'static [&'static str] {
            &["slot"]
        }
        fn walk(&mut self, walk: &Walk, _: u16, port: &mut Port<'_>) {
            port.read(usize::from(walk.va > 0x4000), walk.page);
        }
        fn flush(&mut self, _: Flush) {}
        fn report(&self, _: &mut Report) {}
        fn reset_counters(&mut self) {}
    }

    #[test]
    fn an_organisation_cannot_hide_reads() {
        for (pages, good) in [(5, true), (6, false)] {
            let mut core = core("[\"real\"]");
            core.lanes().replace(0, Box::new(Nameless));
            let mut stream = Stream::new(vec![core], 1);
            let mut guest = Guest::new(false, false);
            (0..pages).for_each(|i| access(&mut stream, &mut guest, i << 12));
            let mut phase = crate::report::Phase {
                organisations: stream.settled(|cores, _| cores[0].report(pages, 0)),
                ..Default::default()
            };
            phase.accesses.user_data = pages;
            let law = crate::result::conservation(&phase);
            assert_eq!(law.is_ok(), good, "{law:?}");
        }
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
            let mut core = core("[\"real\", \"radix\"]");
            core.lanes().replace(1, Box::new(Bad));
            let mut stream = Stream::new(vec![core], 1);
            if helped {
                stream.help().unwrap();
            }
            much(&mut stream);
            stream.settle();
            assert!(stream.broken());
            assert_eq!(stream.settled(|cores, _| cores[0].report(0, 0).len()), 2);
        }
    }
}
