// SPDX-License-Identifier: GPL-2.0

//! Walks that change nothing above the PTEs.

use super::actors::{done, goto, is_table, next, pmd_offset, read_entry, Who};
use super::{own, page, Cache, Fault, Local, Sim, Wrong, A, D};
use fpt_core::entry::{Entry, FLAT};
use fpt_core::walk::{below, Below};

pub(super) fn read(sim: &mut Sim, who: Who, w: usize) -> Result<bool, Fault> {
    let me = who.0;
    match sim.locals[me].pc {
        0..=2 => pmd_offset(sim, who, w),
        3 => {
            pmd_offset(sim, who, w)?;
            // rcu_read_lock() of pte_offset_map()
            sim.locals[me].rcu = true;
            if !is_table(read_entry(sim, me, w)) {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            let entry = sim.locals[me].a;
            sim.load(entry, "a walk")?;
            Ok(done(sim, me))
        }
    }
}

pub(super) fn fast(sim: &mut Sim, (me, wrong): Who, w: usize) -> Result<bool, Fault> {
    let Local { pc, a, b, .. } = sim.locals[me];
    match pc {
        0 => {
            sim.locals[me].irq_off = true;
            sim.locals[me].a = sim.slot;
            if sim.slot == 0 {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        1 => {
            if a & FLAT != 0 && !sim.slices[w].named {
                return Err("I7: a walk by value does not lead to the index page".into());
            }
            Ok(next(&mut sim.locals[me]))
        }
        2 => {
            if !sim.index_live {
                return Err("I7: a walk by value reads an index page that is free".into());
            }
            if !is_table(read_entry(sim, me, w)) {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        3 => {
            let word = sim.load(a, "a walk by value")?;
            if word == 0 {
                return Ok(done(sim, me));
            }
            // try_grab_folio(): who unmaps from here on sees the reference. Is it too late?
            let late = (sim.mapped(w) ^ word) & !(A | D) != 0;
            sim.locals[me].b = u64::from(word) | u64::from(late) << 8;
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            let word = u64::from(sim.load(a, "a walk by value")?);
            let same = sim.index[w] == a || wrong == Wrong::FastNoRecheck;
            if same && word == b & 0xff && b >> 8 != 0 {
                return Err("a walk by value keeps a page that was unmapped".into());
            }
            Ok(done(sim, me))
        }
    }
}

/// `page_vma_mapped_walk()` and `ptep_clear_flush()`.
pub(super) fn rmap(sim: &mut Sim, who: Who, w: usize) -> Result<bool, Fault> {
    let (me, wrong) = who;
    let a = sim.locals[me].a;
    match sim.locals[me].pc {
        0..=2 => pmd_offset(sim, who, w),
        3 => {
            pmd_offset(sim, who, w)?;
            // map_pte()
            sim.locals[me].rcu = true;
            if !is_table(read_entry(sim, me, w)) {
                return Ok(done(sim, me));
            }
            Ok(next(&mut sim.locals[me]))
        }
        4 => {
            if sim.load(a, "rmap")? != 0 {
                return Ok(next(&mut sim.locals[me]));
            }
            if !sim.locals[me].absent {
                return Err("rmap misses a page that is mapped".into());
            }
            Ok(done(sim, me))
        }
        5 => {
            if !page(sim.table(a).lock) {
                return Ok(false);
            }
            sim.table(a).lock = Some(me as u8);
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            sim.table(a).lock = None;
            if sim.index[w] != a && wrong != Wrong::RmapNoRecheck {
                sim.leave(me);
                return Ok(goto(sim, me, 3));
            }
            sim.load(a, "rmap")?;
            sim.zap(a, w)?;
            Ok(done(sim, me))
        }
    }
}

/// Two walks, so that the second uses what the first cached.
pub(super) fn hardware(sim: &mut Sim, me: usize, w: usize) -> Result<bool, Fault> {
    let Local { pc, b, .. } = sim.locals[me];
    match pc {
        0 => {
            sim.locals[me].irq_off = true;
            if sim.locals[me].cache.slot == 0 {
                sim.locals[me].cache.slot = sim.slot;
            }
            if sim.locals[me].cache.slot == 0 {
                return Ok(walked(sim, me, true));
            }
            Ok(next(&mut sim.locals[me]))
        }
        1 => {
            let Cache { slot, pde } = sim.locals[me].cache;
            if let Below::Slice(_) = below(Entry::new(slot), w as u32) {
                let absent = !sim.write(own(w), w)?;
                return Ok(walked(sim, me, absent));
            }
            let mut entry = pde[w];
            if entry == 0 {
                if !sim.index_live {
                    return Err("I7: hardware reads an index page that is free".into());
                }
                entry = sim.index[w];
            }
            if !is_table(entry) {
                return Ok(walked(sim, me, entry == 0));
            }
            sim.locals[me].cache.pde[w] = entry;
            sim.locals[me].b = entry;
            Ok(next(&mut sim.locals[me]))
        }
        _ => {
            let absent = !sim.write(b, w)?;
            Ok(walked(sim, me, absent))
        }
    }
}

/// A walk ends. A fault drops what was cached for its address.
fn walked(sim: &mut Sim, me: usize, fault: bool) -> bool {
    sim.leave(me);
    let local = &mut sim.locals[me];
    if fault {
        local.cache = Cache::default();
    }
    local.b = 0;
    local.pc = 0;
    local.walks += 1;
    local.done = local.walks == 2;
    true
}
