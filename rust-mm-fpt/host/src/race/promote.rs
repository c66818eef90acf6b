// SPDX-License-Identifier: GPL-2.0

//! The way back: T8 to T10, and who asks for conventional tables.
//!
//! A part of an actor begins at a program counter, and ends the actor or goes on at another one.

use super::actors::{done, event, goto, is_table, lock_pml, next, unflat_lock, wait, Actor, Who};
use super::{own, page, Fault, Local, Sim, Stands, Wrong, A, BLOCK, D, INDEX};
use fpt_core::entry::{Entry, TABLE_FLAGS};
use fpt_core::geometry::NodeKind;
use fpt_core::span::{Event, State, View};

/// Where a part begins, and where it goes on; or the actor ends.
type Part = (u8, Option<u8>);

fn end(sim: &mut Sim, me: usize, to: Option<u8>) -> bool {
    match to {
        Some(pc) => goto(sim, me, pc),
        None => done(sim, me),
    }
}

/// T8. The block is the one that the node was in before, where there was one: the worst that the page
/// allocator may do.
pub(super) fn attach(sim: &mut Sim, (me, _): Who, (from, to): Part) -> bool {
    if sim.locals[me].pc == from {
        return lock_pml(sim, me);
    }
    sim.pml = None;
    let free = sim.leftovers == 0 && sim.slices.iter().all(|slice| !slice.live);
    if sim.state.0 == State::Loose && free {
        sim.state = Stands(State::Ready);
        sim.used = 0;
    }
    let conventional = sim.slot == Entry::table(INDEX, TABLE_FLAGS).map_or(0, Entry::as_u64);
    if sim.state.0 != State::Ready || !conventional {
        return done(sim, me);
    }
    for slice in &mut sim.slices {
        (slice.live, slice.slice, slice.named) = (true, true, true);
    }
    sim.span(|span| match span.view() {
        View::Ready(ready) => drop(ready.attach()),
        _ => unreachable!(),
    });
    sim.fresh = sim.sections();
    end(sim, me, to)
}

/// T9. `mmap_lock` is held for writing, and so are the mappings of the window.
pub(super) fn migrate(
    sim: &mut Sim,
    (me, wrong): Who,
    w: usize,
    (from, to): Part,
    all: &[Actor],
) -> Result<bool, Fault> {
    let Local { pc, a, .. } = sim.locals[me];
    let unlocked = wrong == Wrong::CopyUnlocked;
    let early = wrong == Wrong::UnlockBeforeMerge;
    match pc - from {
        0 => Ok(lock_pml(sim, me)),
        1 => {
            let now = sim.index[w];
            sim.locals[me].a = now;
            let adopted = sim.span(|span| span.adopt(BLOCK, w as u32, Entry::new(now)));
            if adopted.is_none() {
                sim.pml = None;
                return Ok(end(sim, me, to));
            }
            assert!(is_table(now) && adopted.map(Entry::as_u64) == Some(own(w)));
            Ok(next(&mut sim.locals[me]))
        }
        2 if unlocked => Ok(next(&mut sim.locals[me])),
        2 | 3 => {
            let table = sim.table(if pc - from == 2 { a } else { own(w) });
            if !page(table.lock) {
                return Ok(false);
            }
            table.lock = Some(me as u8);
            Ok(next(&mut sim.locals[me]))
        }
        4 => {
            let word = sim.load(a, "T9")?;
            sim.table(own(w)).word = word;
            Ok(next(&mut sim.locals[me]))
        }
        5 => {
            sim.index[w] = own(w);
            Ok(next(&mut sim.locals[me]))
        }
        6 if early => Ok(unlock(sim, me, a, w)),
        6 | 7 if (pc - from == 6) != (wrong == Wrong::MergeBeforeFlush || early) => {
            let sync = !matches!(wrong, Wrong::MigrateNoSync | Wrong::FastNoRecheck);
            if !sim.flush(all, sync) {
                return Ok(false);
            }
            Ok(next(&mut sim.locals[me]))
        }
        8 if !early => Ok(unlock(sim, me, a, w)),
        6..=8 => {
            let bits = sim.load(a, "T9")? & (A | D);
            let word = &mut sim.table(own(w)).word;
            // An entry that is none gets no bits.
            *word |= if *word == 0 { 0 } else { bits };
            Ok(next(&mut sim.locals[me]))
        }
        9 => {
            if wrong == Wrong::MigrateEmpties {
                sim.table(a).word = 0;
            }
            Ok(wait(sim, me))
        }
        _ if sim.locals[me].waits != 0 && wrong != Wrong::MigrateFreesAtOnce => Ok(false),
        _ => {
            // pte_free_defer(): as it is, with what it held.
            sim.table(a).word = 0;
            sim.free(a)?;
            Ok(end(sim, me, to))
        }
    }
}

fn unlock(sim: &mut Sim, me: usize, a: u64, w: usize) -> bool {
    if sim.table(a).lock == Some(me as u8) {
        sim.table(a).lock = None;
    }
    sim.table(own(w)).lock = None;
    sim.pml = None;
    next(&mut sim.locals[me])
}

/// T10
pub(super) fn flatten(sim: &mut Sim, (me, wrong): Who, (from, to): Part) -> bool {
    let unlocked = wrong == Wrong::FlatUnlocked;
    let unlock = |sim: &mut Sim| {
        if !unlocked {
            sim.pml = None;
        }
        end(sim, me, to)
    };
    match sim.locals[me].pc - from {
        0 if unlocked => next(&mut sim.locals[me]),
        0 => lock_pml(sim, me),
        1 => {
            let early = sim.fresh != 0 && wrong != Wrong::FlatWithoutRcu;
            if sim.state.0 != State::Attached || early {
                return unlock(sim);
            }
            next(&mut sim.locals[me])
        }
        2 => unflat_lock(sim, me),
        3 => {
            let index = sim.index;
            let at = |i: u32| Entry::new(index.get(i as usize).copied().unwrap_or(0));
            let entry = if wrong == Wrong::FlatBlindly {
                sim.state = Stands(State::Flat);
                Entry::node(BLOCK, NodeKind::Bottom, TABLE_FLAGS)
            } else {
                sim.span(|span| match span.view() {
                    View::Attached(span) => span.flatten(BLOCK, at).map(|(_, entry)| entry),
                    _ => None,
                })
            };
            let Some(entry) = entry else {
                sim.page_table_lock = None;
                return unlock(sim);
            };
            sim.locals[me].a = entry.as_u64();
            next(&mut sim.locals[me])
        }
        4 => {
            sim.slot = sim.locals[me].a;
            sim.page_table_lock = None;
            next(&mut sim.locals[me])
        }
        _ => unlock(sim),
    }
}

/// kflatd
pub(super) fn promote(sim: &mut Sim, who: Who, w: usize, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    match sim.locals[me].pc {
        0 | 1 => Ok(attach(sim, who, (0, Some(2)))),
        2 if who.1 == Wrong::FlatWithoutRcu => Ok(goto(sim, me, 4)),
        // synchronize_rcu()
        2 => Ok(wait(sim, me)),
        3 if sim.locals[me].waits != 0 => Ok(false),
        3 => Ok(next(&mut sim.locals[me])),
        4..=19 => migrate(sim, who, w, (4, Some(20)), all),
        _ => Ok(flatten(sim, who, (20, None))),
    }
}

/// T11, or MADV_UNFLATTEN.
pub(super) fn detach(sim: &mut Sim, who: Who, all: &[Actor]) -> Result<bool, Fault> {
    let me = who.0;
    match sim.locals[me].pc {
        0 => Ok(lock_pml(sim, me)),
        1..=4 => event(sim, who, (1, Event::Asked), all),
        _ => {
            sim.pml = None;
            Ok(done(sim, me))
        }
    }
}
