// SPDX-License-Identifier: GPL-2.0

//! Every interleaving of up to three actors at one span, at the granularity of single loads and stores.
//!
//! The model is one L2+L1 node with [`WINDOWS`] windows: the slot above it, its index page, a word in
//! each slice that stands for its PTEs, the `struct page`s as far as they count, the locks, and what
//! each processor has in its paging-structure caches. What becomes of the node's state is the core's
//! [`Span`]'s decision; the actors ([`actors`]) do around it what the kernel's documentation says. A span
//! may also begin with conventional tables, and the node in the hands of who is going to attach it.
//!
//! States that were seen before are not gone through again, so the search ends. After each step
//! [`Sim::check`] looks at the invariants; a load from a page that is free, a `struct page` that does not
//! name the index page, a page that is freed twice or never, and a deadlock end it, too; so does a dirty
//! bit that nobody takes note of. The same
//! search with one order wrong ([`Wrong`]) has to find something.

pub mod actors;
mod promote;
mod walks;

use actors::Actor;
use fpt_core::addr::PhysAddr;
use fpt_core::entry::{Entry, FLAT, PRESENT, PSE, TABLE_FLAGS};
use fpt_core::geometry::NodeKind;
use fpt_core::span::{is_own, own_entry, Span, State, View};
use std::collections::HashSet;

/// Windows of the span that are modelled.
pub const WINDOWS: usize = 3;
/// Most actors.
pub const ACTORS: usize = 3;

/// Tables that one actor may bring: the second where somebody took the first out meanwhile.
const EACH: usize = 3;
/// The tables that windows have in the beginning come last.
const FIRST_TABLES: usize = ACTORS * EACH;
const FOREIGNS: usize = FIRST_TABLES + WINDOWS;

const BLOCK: PhysAddr = PhysAddr::new(0x20_0000 * 8);
const INDEX: PhysAddr = PhysAddr::new(0x100_0000);
const FOREIGN: PhysAddr = PhysAddr::new(0x300_0000);

/// An order that is not as documented.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wrong {
    /// Nothing: as documented.
    Nothing,
    /// T4: the leaf is stored before the flush.
    LeafBeforeFlush,
    /// T4: the flush comes before the store that it is for.
    FlushBeforeStore,
    /// T4: the leaf is stored, and the entry says FLAT as before.
    LeafBesideFlat,
    /// T5: the slices that are not in use are freed before the flush.
    DetachBeforeFlush,
    /// T5 of a span that is attached already, without a flush.
    DetachUnflushed,
    /// T7: the node is freed before the flush.
    FreeBeforeFlush,
    /// T7: a list of nodes that wait for the flush goes through word 1 of their slices.
    ListInSlice,
    /// The walk believes word 1 without a second look at the slot.
    NoRecheck,
    /// T5: what is in use is told by the index page.
    UsedIgnored,
    /// T3 of a window that stays mapped: the lock is dropped between entry and slice.
    ReclaimPutsLater,
    /// The same, and a slice is given back that was taken again meanwhile.
    PutIgnoresEntry,
    /// T3 without the lock.
    PutUnlocked,
    /// T2 without the lock.
    TakeUnlocked,
    /// T4 and T5 by a flush that does not interrupt, and nothing that waits for walks without locks.
    NoSyncNoRcu,
    /// T5: the slices that are not in use are freed after the flush, without an RCU period.
    FreeWithoutRcu,
    /// T10 soon after T8, without an RCU period in between (I9).
    FlatWithoutRcu,
    /// T10 without a look at what stands in the index page.
    FlatBlindly,
    /// T10 without the lock.
    FlatUnlocked,
    /// T9: the accessed and dirty bits are brought over before the flush.
    MergeBeforeFlush,
    /// T9: the locks are dropped before the accessed and dirty bits are brought over.
    UnlockBeforeMerge,
    /// T9: the old table is freed after the flush, without an RCU period.
    MigrateFreesAtOnce,
    /// T9: the old table is emptied.
    MigrateEmpties,
    /// T9 without the lock of the old table.
    CopyUnlocked,
    /// T9 by a flush that does not interrupt.
    MigrateNoSync,
    /// Linux 6.12 as it is: a walk by rmap does not look at the entry again, once it has the lock of the
    /// table.
    RmapNoRecheck,
    /// GUP-fast does not look at the entry again, and T9's flush does not interrupt.
    FastNoRecheck,
    /// A table that was found without a lock is written to without a second look at its entry, as some
    /// do that hold mmap_lock for reading.
    FaultNoRecheck,
}

impl Wrong {
    /// Every one.
    pub const ALL: [Wrong; 28] = [
        Wrong::Nothing,
        Wrong::LeafBeforeFlush,
        Wrong::FlushBeforeStore,
        Wrong::LeafBesideFlat,
        Wrong::DetachBeforeFlush,
        Wrong::DetachUnflushed,
        Wrong::FreeBeforeFlush,
        Wrong::ListInSlice,
        Wrong::NoRecheck,
        Wrong::UsedIgnored,
        Wrong::ReclaimPutsLater,
        Wrong::PutIgnoresEntry,
        Wrong::PutUnlocked,
        Wrong::TakeUnlocked,
        Wrong::NoSyncNoRcu,
        Wrong::FreeWithoutRcu,
        Wrong::FlatWithoutRcu,
        Wrong::FlatBlindly,
        Wrong::FlatUnlocked,
        Wrong::MergeBeforeFlush,
        Wrong::UnlockBeforeMerge,
        Wrong::MigrateFreesAtOnce,
        Wrong::MigrateEmpties,
        Wrong::CopyUnlocked,
        Wrong::MigrateNoSync,
        Wrong::RmapNoRecheck,
        Wrong::FastNoRecheck,
        Wrong::FaultNoRecheck,
    ];
}

/// A page of 4 KiB: a slice, or a table that somebody brings.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
struct Page {
    live: bool,
    /// FPT_SLICE.
    slice: bool,
    /// Does word 1 name the index page?
    named: bool,
    /// The table's lock.
    lock: Option<u8>,
    /// One entry; stands for all: a value, [`A`] and [`D`].
    word: u8,
}

/// Accessed, of a [`Page`]'s entry.
const A: u8 = 0x40;
/// Dirty.
const D: u8 = 0x80;

/// What a processor has in its paging-structure caches.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Cache {
    slot: u64,
    pde: [u64; WINDOWS],
}

/// Where an actor is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Local {
    pc: u8,
    done: bool,
    /// Two registers.
    a: u64,
    b: u64,
    /// In a section that an RCU period waits for.
    rcu: bool,
    /// Interrupts are off, or a walk of hardware's is under way.
    irq_off: bool,
    walks: u8,
    /// Tables that it brought.
    brought: u8,
    cache: Cache,
    /// Actors whose sections the actor's RCU period waits for.
    waits: u8,
    /// The page of its window was not mapped, for a while at least (of walks by rmap).
    absent: bool,
}

/// Where the span stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Stands(State);

impl std::hash::Hash for Stands {
    fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
        (self.0 as u8).hash(to);
    }
}

/// The state of everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sim {
    slot: u64,
    index: [u64; WINDOWS],
    slices: [Page; WINDOWS],
    index_live: bool,
    /// Tables that actors bring.
    foreign: [Page; FOREIGNS],
    /// An entry of a table elsewhere.
    elsewhere: u64,
    state: Stands,
    used: u8,
    /// Windows whose entry is none while their slice moves; hardware may see it until the flush.
    moving: u8,
    /// Windows whose page a processor has written to, and nobody has taken note yet.
    dirty: u8,
    /// Values of entries that software took out.
    gone: u64,
    /// Actors in a section that began before the last attach.
    fresh: u8,
    pml: Option<u8>,
    page_table_lock: Option<u8>,
    /// Slices that wait for an RCU period, and whose sections it waits for.
    leftovers: u8,
    waits: u8,
    locals: [Local; ACTORS],
}

type Fault = String;

fn page(at: Option<u8>) -> bool {
    at.is_none()
}

impl Sim {
    /// The beginning of a scene.
    fn new(scene: &Scene) -> Sim {
        let Scene { state, used, .. } = *scene;
        let blank = Page {
            live: true,
            slice: state != State::Ready,
            named: state != State::Ready,
            lock: None,
            word: 0,
        };
        let mut sim = Sim {
            slot: match state {
                State::Flat => Entry::node(BLOCK, NodeKind::Bottom, TABLE_FLAGS),
                _ => Entry::table(INDEX, TABLE_FLAGS),
            }
            .unwrap()
            .as_u64(),
            index: [0; WINDOWS],
            slices: [blank; WINDOWS],
            index_live: true,
            foreign: [Page {
                live: false,
                slice: false,
                named: false,
                ..blank
            }; FOREIGNS],
            elsewhere: 0,
            state: Stands(state),
            used,
            moving: 0,
            dirty: 0,
            gone: 0,
            fresh: 0,
            pml: None,
            page_table_lock: None,
            leftovers: 0,
            waits: 0,
            locals: [Local::default(); ACTORS],
        };
        for i in (0..WINDOWS).filter(|i| used & 1 << i != 0) {
            sim.index[i] = own(i);
            sim.slices[i].word = 1 + i as u8;
        }
        for i in (0..WINDOWS).filter(|i| scene.foreign & 1 << i != 0) {
            sim.index[i] = foreign(FIRST_TABLES + i);
            sim.foreign[FIRST_TABLES + i].live = true;
            sim.foreign[FIRST_TABLES + i].word = 1 + i as u8;
        }
        sim
    }

    /// Applies the core's transition `f` to the span.
    fn span<R>(&mut self, f: impl FnOnce(&mut Span) -> R) -> R {
        let mut span = Span::new(NodeKind::Bottom);
        if self.state.0 != State::Ready {
            let View::Ready(ready) = span.view() else {
                unreachable!()
            };
            let _ = ready.born(BLOCK).unwrap();
            for i in (0..WINDOWS).filter(|i| self.used & 1 << i != 0) {
                span.take(BLOCK, i as u32).unwrap();
            }
            let View::Flat(flat) = span.view() else {
                unreachable!()
            };
            match self.state.0 {
                State::Ready | State::Flat => {}
                State::Gathered => drop(flat.gather()),
                State::Attached => drop(flat.unflat(INDEX).unwrap().0.flushed()),
                State::Loose => drop(flat.unflat(INDEX).unwrap().0.flushed().detach()),
            }
        }
        assert_eq!(span.state(), self.state.0);
        let result = f(&mut span);
        self.state = Stands(span.state());
        self.used = (0..WINDOWS)
            .filter(|i| span.is_used(*i as u32))
            .fold(0, |used, i| used | 1 << i);
        result
    }

    /// The table that an entry leads to.
    fn table(&mut self, entry: u64) -> &mut Page {
        match table_number(FOREIGN, entry) {
            i if i < FOREIGNS => &mut self.foreign[i],
            _ => &mut self.slices[table_number(BLOCK, entry)],
        }
    }

    /// The same, to look at.
    fn at(&self, entry: u64) -> &Page {
        match table_number(FOREIGN, entry) {
            i if i < FOREIGNS => &self.foreign[i],
            _ => &self.slices[table_number(BLOCK, entry)],
        }
    }

    /// The word in the table that an entry leads to.
    fn load(&mut self, entry: u64, who: &str) -> Result<u8, Fault> {
        let page = self.table(entry);
        if page.live {
            Ok(page.word)
        } else {
            Err(format!("I7: {who} reads a table that is free"))
        }
    }

    /// What is mapped in window `w`: the entry in its table, or none.
    fn mapped(&self, w: usize) -> u8 {
        match self.index[w] & (PRESENT | PSE) {
            PRESENT => self.at(self.index[w]).word,
            _ => 0,
        }
    }

    /// A processor writes by an entry of the table that `entry` leads to, if there is one. False: there
    /// is none.
    fn write(&mut self, entry: u64, w: usize) -> Result<bool, Fault> {
        if self.load(entry, "hardware")? == 0 {
            return Ok(false);
        }
        self.table(entry).word |= A | D;
        self.dirty |= 1 << w;
        Ok(true)
    }

    /// Software takes the entry for window `w` out of the table that `entry` leads to.
    fn zap(&mut self, entry: u64, w: usize) -> Result<(), Fault> {
        let word = std::mem::take(&mut self.table(entry).word);
        if word == 0 {
            return Ok(());
        }
        self.gone |= 1 << (word & !(A | D));
        if self.dirty & 1 << w != 0 {
            if word & D == 0 {
                return Err(format!("the dirty bit of window {w} is lost"));
            }
            self.dirty &= !(1 << w);
        }
        Ok(())
    }

    /// Notes what walks by rmap could see.
    fn observe(&mut self, actors: &[Actor]) {
        for (i, actor) in actors.iter().enumerate() {
            if let Actor::Rmap(w) = actor {
                self.locals[i].absent |= self.mapped(*w) == 0 && !self.locals[i].done;
            }
        }
    }

    fn free(&mut self, entry: u64) -> Result<(), Fault> {
        let page = self.table(entry);
        if !page.live {
            return Err("a table is freed twice".into());
        }
        if page.slice {
            return Err("I6: a slice is freed while it is one".into());
        }
        if page.word != 0 {
            return Err("a table that holds something is freed".into());
        }
        page.live = false;
        // Whoever has the page now writes there.
        page.named = false;
        Ok(())
    }

    /// Sections that an RCU period which begins now waits for.
    fn sections(&self) -> u8 {
        let inside = |l: &Local| l.rcu || l.irq_off;
        let numbers = (0..ACTORS).filter(|i| inside(&self.locals[*i]));
        numbers.fold(0, |all, i| all | 1 << i)
    }

    /// The actor left its section.
    fn leave(&mut self, me: usize) {
        self.locals[me].rcu = false;
        self.locals[me].irq_off = false;
        self.waits &= !(1 << me);
        self.fresh &= !(1 << me);
        for local in &mut self.locals {
            local.waits &= !(1 << me);
        }
    }

    /// A flush, which interrupts: it waits for walks with interrupts off and those of hardware. False:
    /// it has to wait. One that does not interrupt waits for hardware only, by `sync`.
    fn flush(&mut self, actors: &[Actor], sync: bool) -> bool {
        let waits = |(i, actor): (usize, &Actor)| {
            let hardware = matches!(actor, Actor::Hardware(_));
            self.locals[i].irq_off && (sync || hardware)
        };
        if actors.iter().enumerate().any(waits) {
            return false;
        }
        for local in &mut self.locals {
            local.cache = Cache::default();
        }
        true
    }

    /// The RCU period after a detach is over.
    fn grace(&mut self) -> Result<(), Fault> {
        for i in 0..WINDOWS {
            if self.leftovers & 1 << i != 0 {
                self.free(own(i))?;
            }
        }
        self.leftovers = 0;
        Ok(())
    }

    /// Does a processor have the flat entry in its caches?
    fn stale_flat(&self) -> bool {
        self.locals.iter().any(|l| l.cache.slot & FLAT != 0)
    }

    /// What must hold after each step.
    fn check(&self) -> Result<(), Fault> {
        let flat = self.slot & FLAT != 0;
        let in_tree = matches!(self.state.0, State::Flat | State::Attached);
        if flat && self.state.0 == State::Loose {
            return Err("I2: the slot leads to a node that is none".into());
        }
        for i in 0..WINDOWS {
            let (entry, slice, bit) = (self.index[i], &self.slices[i], 1 << i);
            let is_own = is_own(BLOCK, i as u32, Entry::new(entry));
            if flat && self.moving & bit == 0 && !is_own && (entry != 0 || slice.word != 0) {
                return Err(format!("I1: window {i} beside FLAT"));
            }
            if entry != 0 && !is_own && (flat || self.stale_flat()) {
                return Err(format!("I3: window {i} while FLAT is somewhere"));
            }
            if in_tree && is_own && self.used & bit == 0 {
                return Err(format!("I4: window {i} is not in use"));
            }
            if in_tree && self.used & bit == 0 && slice.word != 0 {
                return Err(format!("I4: slice {i} is not in use and not empty"));
            }
            // `ListInSlice` is caught by who reads it.
            if in_tree && !(slice.slice && slice.named && slice.live) {
                return Err(format!("I6: slice {i} of a node in the tree"));
            }
            if self.state.0 == State::Loose && slice.slice {
                return Err(format!("I6: slice {i} of no node"));
            }
            let mapped = self.mapped(i) & !(A | D);
            if mapped != 0 && self.gone & 1 << mapped != 0 {
                return Err(format!("the page of window {i} was unmapped and is mapped"));
            }
            if entry & (PRESENT | PSE) == PRESENT && !self.at(entry).live {
                return Err(format!("window {i} leads to a table that is free"));
            }
        }
        if self.elsewhere != 0 && !self.at(self.elsewhere).live {
            return Err("a table that moved is free".into());
        }
        Ok(())
    }

    /// What must hold when all have ended.
    fn check_end(&self) -> Result<(), Fault> {
        if self.pml.is_some() || self.page_table_lock.is_some() {
            return Err("a lock is held".into());
        }
        for w in (0..WINDOWS).filter(|w| self.dirty & 1 << w != 0) {
            let moved = match self.elsewhere {
                0 => 0,
                entry => self.at(entry).word,
            };
            if (self.mapped(w) | moved) & D == 0 {
                return Err(format!("the dirty bit of window {w} is lost"));
            }
        }
        if self.state.0 != State::Loose {
            return Ok(());
        }
        for i in 0..WINDOWS {
            let led_to = self.index[i] == own(i) || self.elsewhere == own(i);
            if self.slices[i].live != led_to {
                return Err(format!("slice {i} is lost, or led to and free"));
            }
        }
        Ok(())
    }
}

/// Of the table that `entry` leads to, from `base` on.
fn table_number(base: PhysAddr, entry: u64) -> usize {
    let pa = Entry::new(entry).addr().as_u64();
    (pa.wrapping_sub(base.as_u64()) / 4096) as usize
}

fn own(i: usize) -> u64 {
    own_entry(BLOCK, i as u32).as_u64()
}

/// The entry that leads to table `n` of those that are no slices.
fn foreign(n: usize) -> u64 {
    let pa = FOREIGN.offset(n as u64 * 4096);
    Entry::table(pa, TABLE_FLAGS).unwrap().as_u64()
}

/// Entry of a table that actor `me` brings now.
fn bring(sim: &mut Sim, me: usize) -> u64 {
    let nth = usize::from(sim.locals[me].brought);
    assert!(nth < EACH, "an actor brings a table once too often");
    sim.locals[me].brought += 1;
    let n = me * EACH + nth;
    sim.foreign[n].live = true;
    foreign(n)
}

/// A leaf of 2 MiB.
const LEAF: u64 = 0x4000_0000 | PRESENT | PSE;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// States gone through.
    pub states: usize,
    /// The first violation, with the steps that lead to it.
    pub wrong: Option<String>,
}

/// A scene: who acts, on what.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The actors, up to [`ACTORS`].
    pub actors: Vec<Actor>,
    /// The span's state at the beginning: flat, attached, or ready where its tables are conventional.
    pub state: State,
    /// Windows that have a slice in use, with something in it.
    pub used: u8,
    /// Windows that have a table which is no slice, with something in it.
    pub foreign: u8,
}

/// Goes through every interleaving.
pub fn search(scene: &Scene, wrong: Wrong) -> Found {
    let mut start = Sim::new(scene);
    for (i, local) in start.locals.iter_mut().enumerate() {
        local.done = i >= scene.actors.len();
        // Hardware begins with what it cached before.
        if let Some(Actor::Hardware(_)) = scene.actors.get(i) {
            local.cache.slot = start.slot;
            local.cache.pde = start.index;
        }
    }
    start.observe(&scene.actors);
    let mut seen = HashSet::new();
    let mut todo = vec![(start, Vec::new())];
    while let Some((sim, path)) = todo.pop() {
        if !seen.insert(sim.clone()) {
            continue;
        }
        let report = |path: &[(usize, u8)], sim: &Sim, why: &str| {
            let steps: Vec<String> = path
                .iter()
                .map(|(who, pc)| match scene.actors.get(*who) {
                    Some(actor) => format!("{actor:?} {pc}"),
                    None => "RCU".into(),
                })
                .collect();
            Some(format!("{why}\nafter {}\n{sim:x?}", steps.join(", ")))
        };
        let mut stuck = true;
        let mut follow = |who: usize, pc: u8, next: Result<Sim, Fault>| {
            stuck = false;
            let mut path = path.clone();
            path.push((who, pc));
            match next.and_then(|next| next.check().map(|()| next)) {
                Ok(mut next) => {
                    next.observe(&scene.actors);
                    todo.push((next, path));
                    None
                }
                Err(why) => report(&path, &sim, &why),
            }
        };
        for (who, actor) in scene.actors.iter().enumerate() {
            if sim.locals[who].done {
                continue;
            }
            let mut next = sim.clone();
            let pc = sim.locals[who].pc;
            let moved = actor.step(&mut next, (who, wrong), &scene.actors);
            let wrong = match moved {
                Ok(false) => None,
                Ok(true) => follow(who, pc, Ok(next)),
                Err(why) => follow(who, pc, Err(why)),
            };
            if wrong.is_some() {
                let states = seen.len();
                return Found { states, wrong };
            }
        }
        if sim.leftovers != 0 && sim.waits == 0 {
            let mut next = sim.clone();
            let result = next.grace().map(|()| next);
            let wrong = follow(ACTORS, 0, result);
            if wrong.is_some() {
                let states = seen.len();
                return Found { states, wrong };
            }
        }
        if stuck {
            let all = sim.locals.iter().all(|l| l.done);
            let end = if all {
                sim.check_end()
            } else {
                Err("deadlock".into())
            };
            if let Err(why) = end {
                let wrong = report(&path, &sim, &why);
                let states = seen.len();
                return Found { states, wrong };
            }
        }
    }
    Found {
        states: seen.len(),
        wrong: None,
    }
}
