// SPDX-License-Identifier: GPL-2.0

//! Who acts on the span, step by step.
//!
//! Each step is one load or store that others can see, or one lock taken. The numbers are program
//! counters; an order that [`Wrong`] names is the same steps at other numbers.

use super::{
    bring, own, page, promote, walks, Fault, Local, Sim, Wrong, BLOCK, INDEX, LEAF, WINDOWS,
};
use fpt_core::entry::{Entry, PRESENT, PSE, TABLE_FLAGS};
use fpt_core::span::{Event, State, View};
use fpt_core::walk::{below, Below};

/// An actor, at a window.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Actor {
    /// Walks to the window, takes a table for it if it has none (T2), and maps a page.
    Touch(usize),
    /// Unmaps the window and gives its table back (T3).
    Unmap(usize),
    /// Gives the window's table back if it is empty, while the window stays mapped: PT_RECLAIM of Linux
    /// 6.14 (T3). There the slice has to be put back before the lock is dropped under which its entry
    /// was cleared.
    Reclaim(usize),
    /// Puts a huge page into the window if it is empty (T4).
    Huge(usize),
    /// The same with hugetlb's (T5).
    Hugetlb(usize),
    /// Takes the window's table out while it is in use, and frees it (T5).
    Collapse(usize),
    /// Moves the window's table elsewhere (T5).
    MoveAway(usize),
    /// Ends the address space, where nothing is mapped (T7).
    Exit,
    /// Walks to the window as `pmd_offset()` does, under a lock that keeps the address space.
    Read(usize),
    /// Walks to the window with interrupts off, by value.
    Fast(usize),
    /// A processor's walks, with what it cached before. It writes to the page.
    Hardware(usize),
    /// Walks to the window as `page_vma_mapped_walk()` does, and takes its page out.
    Rmap(usize),
    /// Makes the table in the slot an index page (T8).
    Attach,
    /// Moves the window's table into its slice (T9).
    Migrate(usize),
    /// Has hardware read the node (T10).
    Flatten,
    /// T8, an RCU period, T9 and T10.
    Promote(usize),
    /// Makes the span conventional (T5).
    Detach,
}

/// Who makes a step, and what is wrong.
pub(super) type Who = (usize, Wrong);

impl Actor {
    /// Its window.
    pub fn window(self) -> Option<usize> {
        match self {
            Actor::Exit | Actor::Attach | Actor::Flatten | Actor::Detach => None,
            Actor::Touch(w)
            | Actor::Unmap(w)
            | Actor::Reclaim(w)
            | Actor::Huge(w)
            | Actor::Hugetlb(w)
            | Actor::Collapse(w)
            | Actor::MoveAway(w)
            | Actor::Read(w)
            | Actor::Fast(w)
            | Actor::Hardware(w)
            | Actor::Rmap(w)
            | Actor::Migrate(w)
            | Actor::Promote(w) => Some(w),
        }
    }

    /// Makes the actor's next step. `Ok(false)`: it has to wait, and `sim` is worth nothing.
    pub(super) fn step(self, sim: &mut Sim, who: Who, all: &[Actor]) -> Result<bool, Fault> {
        match self {
            Actor::Touch(w) => touch(sim, who, w),
            Actor::Unmap(w) => unmap(sim, who, w, all),
            Actor::Reclaim(w) => reclaim(sim, who, w, all),
            Actor::Huge(w) => put_leaf(sim, who, (w, Event::Leaf), all),
            Actor::Hugetlb(w) => put_leaf(sim, who, (w, Event::Hugetlb), all),
            Actor::Collapse(w) => collapse(sim, who, w, all),
            Actor::MoveAway(w) => move_away(sim, who, w, all),
            Actor::Exit => exit(sim, who, all),
            Actor::Read(w) => walks::read(sim, who, w),
            Actor::Fast(w) => walks::fast(sim, who, w),
            Actor::Hardware(w) => walks::hardware(sim, who.0, w),
            Actor::Rmap(w) => walks::rmap(sim, who, w),
            Actor::Attach => Ok(promote::attach(sim, who, (0, None))),
            Actor::Migrate(w) => promote::migrate(sim, who, w, (0, None), all),
            Actor::Flatten => Ok(promote::flatten(sim, who, (0, None))),
            Actor::Promote(w) => promote::promote(sim, who, w, all),
            Actor::Detach => promote::detach(sim, who, all),
        }
    }
}

pub(super) fn next(local: &mut Local) -> bool {
    local.pc += 1;
    true
}

pub(super) fn goto(sim: &mut Sim, me: usize, pc: u8) -> bool {
    sim.locals[me].pc = pc;
    true
}

pub(super) fn done(sim: &mut Sim, me: usize) -> bool {
    sim.leave(me);
    sim.locals[me].done = true;
    true
}

pub(super) fn is_table(entry: u64) -> bool {
    entry & (PRESENT | PSE) == PRESENT
}

/// Takes the lock of the index page, or waits.
pub(super) fn lock_pml(sim: &mut Sim, me: usize) -> bool {
    if sim.pml.is_some() {
        return false;
    }
    sim.pml = Some(me as u8);
    next(&mut sim.locals[me])
}

/// What [`below`] says, as the address of a `struct page` or of the table. In register `a` the slot's
/// value, in `b` what becomes of it.
pub(super) fn pmd_offset(sim: &mut Sim, (me, wrong): Who, w: usize) -> Result<bool, Fault> {
    let index = INDEX.as_u64();
    let Local { pc, a, .. } = sim.locals[me];
    match pc {
        0 => {
            sim.locals[me].a = sim.slot;
            if sim.slot == 0 {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        1 => match below(Entry::new(a), w as u32) {
            Below::Table(pa) => {
                sim.locals[me].b = pa.as_u64();
                Ok(goto(sim, me, 3))
            }
            Below::Slice(pa) => {
                assert_eq!(pa.as_u64(), own(w) & !0xfff);
                sim.locals[me].b = if sim.slices[w].named { index } else { !0 };
                // preempt_disable_notrace()
                sim.locals[me].rcu = true;
                Ok(next(&mut sim.locals[me]))
            }
        },
        2 => {
            let same = sim.slot == a || wrong == Wrong::NoRecheck;
            if !same {
                sim.locals[me].a = sim.slot;
            }
            sim.leave(me);
            Ok(goto(sim, me, if same { 3 } else { 1 }))
        }
        _ => {
            if sim.locals[me].b != index {
                return Err("I2: the walk does not lead to the index page".into());
            }
            if !sim.index_live {
                return Err("I7: a walk reads an index page that is free".into());
            }
            Ok(true)
        }
    }
}

/// Reads the window's entry; in register `a`.
pub(super) fn read_entry(sim: &mut Sim, me: usize, w: usize) -> u64 {
    sim.locals[me].a = sim.index[w];
    sim.index[w]
}

fn touch(sim: &mut Sim, who: Who, w: usize) -> Result<bool, Fault> {
    let (me, wrong) = who;
    let Local { pc, a, b, .. } = sim.locals[me];
    match pc {
        0..=2 => pmd_offset(sim, who, w),
        3 => {
            pmd_offset(sim, who, w)?;
            sim.leave(me);
            let entry = read_entry(sim, me, w);
            if entry & PSE != 0 {
                return Ok(done(sim, me));
            }
            Ok(goto(sim, me, if entry == 0 { 4 } else { 8 }))
        }
        // pmd_install()
        4 if wrong == Wrong::TakeUnlocked => Ok(next(&mut sim.locals[me])),
        4 => Ok(lock_pml(sim, me)),
        5 => {
            if sim.index[w] != 0 {
                return Ok(goto(sim, me, 7));
            }
            let taken = sim.span(|span| span.take(BLOCK, w as u32));
            let entry = match taken {
                Some(entry) => entry.as_u64(),
                None => {
                    // One that was allocated beforehand; the slot leads to a conventional table.
                    bring(sim, me)
                }
            };
            if sim.load(entry, "T2")? != 0 && wrong == Wrong::Nothing && !in_transit(sim, w) {
                return Err("T2: the table is not zero".into());
            }
            sim.locals[me].a = entry;
            Ok(next(&mut sim.locals[me]))
        }
        6 => {
            sim.index[w] = a;
            Ok(next(&mut sim.locals[me]))
        }
        7 => {
            if wrong != Wrong::TakeUnlocked {
                sim.pml = None;
            }
            sim.locals[me].b = INDEX.as_u64();
            Ok(goto(sim, me, 3))
        }
        // pte_offset_map_lock()
        8 => {
            sim.locals[me].rcu = true;
            let entry = read_entry(sim, me, w);
            sim.locals[me].a = entry;
            if !is_table(entry) {
                sim.leave(me);
                return Ok(goto(sim, me, 3));
            }
            sim.locals[me].b = entry;
            Ok(next(&mut sim.locals[me]))
        }
        9 => {
            sim.load(b, "a fault")?;
            if !page(sim.table(b).lock) {
                return Ok(false);
            }
            sim.table(b).lock = Some(me as u8);
            Ok(next(&mut sim.locals[me]))
        }
        10 => {
            let same = sim.index[w] == b || wrong == Wrong::FaultNoRecheck;
            if same && sim.load(b, "a fault")? == 0 {
                sim.table(b).word = 0x10 + me as u8;
            }
            if same && sim.mapped(w) == 0 {
                return Err("a page was mapped where nobody finds it".into());
            }
            sim.table(b).lock = None;
            sim.leave(me);
            if same {
                return Ok(done(sim, me));
            }
            sim.locals[me].b = INDEX.as_u64();
            Ok(goto(sim, me, 3))
        }
        _ => unreachable!(),
    }
}

/// Is the slice on its way out, so that its last user is not done with it?
fn in_transit(sim: &Sim, w: usize) -> bool {
    sim.used & 1 << w != 0
}

fn unmap(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    let Local { pc, a, .. } = sim.locals[me];
    match pc {
        0 => {
            let entry = read_entry(sim, me, w);
            if !is_table(entry) {
                // A huge page goes under the lock; that is not what this is about.
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        1 => {
            // zap_pte_range()
            sim.load(a, "zap")?;
            if !page(sim.table(a).lock) {
                return Ok(false);
            }
            sim.zap(a, w)?;
            Ok(next(&mut sim.locals[me]))
        }
        // free_pte_range(): pmd_clear()
        2 => {
            sim.index[w] = 0;
            Ok(goto(sim, me, 4))
        }
        _ => pte_free_tlb(sim, who, w, all),
    }
}

fn reclaim(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    let Local { pc, a, .. } = sim.locals[me];
    match pc {
        0 => Ok(lock_pml(sim, me)),
        1 => {
            if !is_table(read_entry(sim, me, w)) {
                sim.pml = None;
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        2 => {
            if !page(sim.table(a).lock) {
                return Ok(false);
            }
            if sim.load(a, "reclaim")? != 0 {
                sim.pml = None;
                return Ok(done(sim, me));
            }
            sim.table(a).lock = Some(me as u8);
            Ok(next(&mut sim.locals[me]))
        }
        3 => {
            sim.index[w] = 0;
            sim.table(a).lock = None;
            if matches!(who.1, Wrong::ReclaimPutsLater | Wrong::PutIgnoresEntry) {
                sim.pml = None;
                return Ok(next(&mut sim.locals[me]));
            }
            Ok(goto(sim, me, 5))
        }
        _ => pte_free_tlb(sim, who, w, all),
    }
}

/// T3, and what becomes of a table that is no slice, from program counter 4 on; the table is in register
/// `a`.
fn pte_free_tlb(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let (me, wrong) = who;
    let Local { pc, a, .. } = sim.locals[me];
    match pc {
        4 if wrong == Wrong::PutUnlocked => {
            sim.locals[me].b = u64::from(sim.table(a).slice);
            Ok(next(&mut sim.locals[me]))
        }
        4 => Ok(lock_pml(sim, me)),
        5 => {
            let slice = match wrong {
                Wrong::PutUnlocked => sim.locals[me].b != 0,
                _ => sim.table(a).slice,
            };
            if slice {
                let now = match wrong {
                    Wrong::PutIgnoresEntry => Entry::NONE,
                    _ => Entry::new(sim.index[w]),
                };
                sim.span(|span| span.put(BLOCK, w as u32, now));
            }
            if wrong != Wrong::PutUnlocked {
                sim.pml = None;
            }
            if slice {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        6 => {
            // tlb_flush_mmu(): also for what was zapped.
            if !sim.flush(all, true) {
                return Ok(false);
            }
            Ok(next(&mut sim.locals[me]))
        }
        // tlb_remove_table(): by RCU where somebody may be there without interrupts off.
        7 => Ok(wait(sim, me)),
        _ if sim.locals[me].waits != 0 => Ok(false),
        _ => {
            sim.free(a)?;
            Ok(done(sim, me))
        }
    }
}

/// An RCU period begins.
pub(super) fn wait(sim: &mut Sim, me: usize) -> bool {
    sim.locals[me].waits = sim.sections() & !(1 << me);
    next(&mut sim.locals[me])
}

/// The steps from the event at an entry to where the entry may change, at program counters `from` to
/// `from + 4`. The lock of the index page is held.
pub(super) fn event(
    sim: &mut Sim,
    who: Who,
    (from, event): (u8, Event),
    all: &[Actor],
) -> Result<bool, Fault> {
    let (me, wrong) = who;
    let loose = event.demands() == State::Loose;
    let flush_first = wrong == Wrong::FlushBeforeStore;
    match sim.locals[me].pc - from {
        // T4: the store, under the lock of the slot. Nothing to do where it was made before.
        0 if sim.state.0 == State::Attached && loose && wrong != Wrong::DetachUnflushed => {
            Ok(goto(sim, me, from + 2))
        }
        0 if sim.state.0 != State::Flat => Ok(goto(sim, me, from + 3)),
        0 if flush_first => unflat_flush(sim, who, all),
        0 => Ok(unflat_lock(sim, me)),
        1 if flush_first => Ok(unflat_lock(sim, me)),
        1 => Ok(unflat_store(sim, me)),
        2 if flush_first && sim.state.0 == State::Flat => Ok(unflat_store(sim, me)),
        2 if wrong == Wrong::DetachBeforeFlush && loose => Ok(next(&mut sim.locals[me])),
        2 => unflat_flush(sim, who, all),
        // T5
        3 if loose && sim.state.0 == State::Attached => {
            detach(sim, wrong);
            Ok(next(&mut sim.locals[me]))
        }
        3 => Ok(next(&mut sim.locals[me])),
        _ => unreachable!(),
    }
}

pub(super) fn unflat_lock(sim: &mut Sim, me: usize) -> bool {
    if sim.page_table_lock.is_some() {
        return false;
    }
    sim.page_table_lock = Some(me as u8);
    next(&mut sim.locals[me])
}

fn unflat_store(sim: &mut Sim, me: usize) -> bool {
    let entry = sim.span(|span| match span.view() {
        View::Flat(flat) => flat.unflat(INDEX).map(|(_, entry)| entry),
        _ => None,
    });
    sim.slot = entry.expect("a flat span").as_u64();
    sim.page_table_lock = None;
    next(&mut sim.locals[me])
}

/// flush_tlb_mm_range() and tlb_remove_table_sync_one().
fn unflat_flush(sim: &mut Sim, (me, wrong): Who, all: &[Actor]) -> Result<bool, Fault> {
    if !sim.flush(all, wrong != Wrong::NoSyncNoRcu) {
        return Ok(false);
    }
    Ok(next(&mut sim.locals[me]))
}

fn detach(sim: &mut Sim, wrong: Wrong) {
    let index = sim.index;
    let kept = |i: usize, used: bool| match wrong {
        Wrong::UsedIgnored => index[i] == own(i),
        _ => used,
    };
    let unused = sim.span(|span| {
        let View::Attached(attached) = span.view() else {
            return 0;
        };
        // Flushed before, or wrong.
        let _ = attached.unflushed().flushed().detach();
        (0..WINDOWS)
            .filter(|i| !kept(*i, span.is_used(*i as u32)))
            .fold(0u8, |all, i| all | 1 << i)
    });
    for slice in &mut sim.slices {
        slice.slice = false;
    }
    sim.leftovers = unused;
    sim.waits = match wrong {
        Wrong::NoSyncNoRcu | Wrong::DetachBeforeFlush | Wrong::FreeWithoutRcu => 0,
        _ => sim.sections(),
    };
}

/// A huge page where nothing is.
fn put_leaf(
    sim: &mut Sim,
    who: Who,
    (w, what): (usize, Event),
    all: &[Actor],
) -> Result<bool, Fault> {
    let (me, wrong) = who;
    match sim.locals[me].pc {
        0 => Ok(lock_pml(sim, me)),
        1 if sim.index[w] != 0 => Ok(goto(sim, me, 7)),
        1 if wrong == Wrong::LeafBesideFlat => Ok(goto(sim, me, 6)),
        1 => Ok(next(&mut sim.locals[me])),
        4 if wrong == Wrong::LeafBeforeFlush => {
            sim.index[w] = LEAF;
            Ok(next(&mut sim.locals[me]))
        }
        5 if wrong == Wrong::LeafBeforeFlush => unflat_flush(sim, who, all),
        2..=5 => event(sim, who, (2, what), all),
        6 => {
            sim.index[w] = LEAF;
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            sim.pml = None;
            Ok(done(sim, me))
        }
    }
}

fn collapse(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    let a = sim.locals[me].a;
    match sim.locals[me].pc {
        0 => Ok(lock_pml(sim, me)),
        1 => {
            if !is_table(read_entry(sim, me, w)) {
                return Ok(goto(sim, me, 12));
            }
            Ok(next(&mut sim.locals[me]))
        }
        2 => {
            sim.load(a, "collapse")?;
            if !page(sim.table(a).lock) {
                return Ok(false);
            }
            sim.table(a).lock = Some(me as u8);
            Ok(next(&mut sim.locals[me]))
        }
        3 if a != own(w) => Ok(goto(sim, me, 7)),
        3..=6 => event(sim, who, (3, Event::Collapse), all),
        7 => {
            sim.index[w] = 0;
            Ok(next(&mut sim.locals[me]))
        }
        8 => {
            if !sim.flush(all, true) {
                return Ok(false);
            }
            Ok(next(&mut sim.locals[me]))
        }
        9 => {
            sim.load(a, "collapse")?;
            sim.zap(a, w)?;
            sim.table(a).lock = None;
            sim.pml = None;
            Ok(next(&mut sim.locals[me]))
        }
        // pte_free_defer()
        10 => Ok(wait(sim, me)),
        11 if sim.locals[me].waits != 0 => Ok(false),
        11 => {
            sim.free(a)?;
            Ok(done(sim, me))
        }
        _ => {
            sim.pml = None;
            Ok(done(sim, me))
        }
    }
}

fn move_away(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    let a = sim.locals[me].a;
    match sim.locals[me].pc {
        0 => Ok(lock_pml(sim, me)),
        1 => {
            if !is_table(read_entry(sim, me, w)) {
                return Ok(goto(sim, me, 9));
            }
            Ok(next(&mut sim.locals[me]))
        }
        2 => {
            sim.index[w] = 0;
            sim.moving |= 1 << w;
            Ok(next(&mut sim.locals[me]))
        }
        3 if a != own(w) => Ok(goto(sim, me, 7)),
        3..=6 => event(sim, who, (3, Event::MovedAway), all),
        7 => {
            let pa = Entry::new(a).addr();
            let entry = Entry::table(pa, TABLE_FLAGS).expect("a table");
            sim.elsewhere = entry.as_u64();
            Ok(next(&mut sim.locals[me]))
        }
        8 => {
            if !sim.flush(all, true) {
                return Ok(false);
            }
            sim.moving &= !(1 << w);
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            sim.pml = None;
            Ok(done(sim, me))
        }
    }
}

fn exit(sim: &mut Sim, (me, wrong): Who, all: &[Actor]) -> Result<bool, Fault> {
    let early = wrong == Wrong::FreeBeforeFlush;
    match sim.locals[me].pc {
        0 => {
            sim.slot = 0;
            Ok(next(&mut sim.locals[me]))
        }
        1 => {
            sim.span(|span| match span.view() {
                View::Flat(span) => drop(span.gather()),
                View::Attached(span) => drop(span.gather()),
                _ => {}
            });
            if wrong == Wrong::ListInSlice {
                sim.slices[0].named = false;
            }
            Ok(next(&mut sim.locals[me]))
        }
        2 | 3 if (sim.locals[me].pc == 2) != early => {
            if !sim.flush(all, true) {
                return Ok(false);
            }
            let end = early;
            if end {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            let seen = sim.index.iter().fold(0, |all, entry| all | entry);
            let empty = sim.span(|span| match span.view() {
                View::Gathered(gathered) => gathered.retire(Entry::new(seen)),
                _ => false,
            });
            if !empty {
                return Err("T7: the node is not empty".into());
            }
            // The worst that may become of it: somebody else's pages.
            sim.index_live = false;
            for slice in &mut sim.slices {
                slice.slice = false;
            }
            for i in 0..WINDOWS {
                sim.free(own(i))?;
            }
            if early {
                return Ok(next(&mut sim.locals[me]));
            }
            Ok(done(sim, me))
        }
    }
}
