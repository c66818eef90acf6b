// SPDX-License-Identifier: GPL-2.0

//! What an address space should contain, and a driver that keeps both in step.

use crate::mm::{Mm, MmError, USER_END};
use crate::promote::{Promoted, Wish};
use crate::world::World;
use fpt_core::addr::{PhysAddr, VirtAddr, PAGE_SIZE};
use fpt_core::counters::Counter;
use fpt_core::entry::{ACCESSED, DIRTY, NX, PRESENT, PSE, RW, USER};
use fpt_core::geometry::{Level, Mode};
use fpt_core::span::{Event, State};
use fpt_core::walk::{hw_walk, sw_walk, Cfg, HwWalk, Outcome, Perm, SwOutcome};
use std::collections::BTreeMap;

/// A mapping.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// 1: 4 KiB, 2: 2 MiB, 3: 1 GiB.
    pub level: Level,
    /// Physical address.
    pub pa: u64,
    /// Writable?
    pub write: bool,
}

impl Leaf {
    fn entry(&self) -> u64 {
        let ps = if self.level == Level::L1 { 0 } else { PSE };
        let rw = if self.write { RW } else { 0 };
        self.pa | PRESENT | USER | ACCESSED | DIRTY | NX | ps | rw
    }
}

/// One operation of a random sequence. Addresses are built from [`Place`]s, so that boundaries
/// between tables, nodes and slices are met often.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Map `pages` pages.
    Map(Place, u8),
    /// Map a 2 MiB leaf.
    MapHuge2M(Place),
    /// Map a 1 GiB leaf.
    MapHuge1G(Place),
    /// Map a leaf of hugetlb: 2 MiB, or 1 GiB.
    Hugetlb(Place, bool),
    /// Turn the small pages of a 2 MiB window into one leaf.
    Collapse(Place),
    /// Turn a 2 MiB leaf into small pages.
    Split(Place),
    /// Unmap from one place to another.
    Unmap(Place, Place),
    /// Unmap the whole span of this level around a place.
    UnmapSpan(Place, Level),
    /// Change the writability of a range.
    Protect(Place, Place, bool),
    /// Move up to `pages` pages.
    Move(Place, Place, u8),
    /// Move an aligned GiB by its entry.
    MoveGib(Place, Place),
    /// Move an aligned 2 MiB by its entry.
    MoveWindow(Place, Place),
    /// Make what covers a place conventional.
    Demote(Place),
    /// Make the span around a place flat, because the process asks for it, or if policy auto thinks that
    /// it pays.
    Flatten(Place, Wish),
    /// Fork; the child is kept if there is room for it.
    Fork,
    /// The current process exits; another becomes current.
    Exit {
        /// Does somebody hold on to its address space?
        kept: bool,
    },
    /// Another process becomes current.
    Switch(u8),
    /// A bad entry is reported in the current process.
    Taint,
    /// Pools are drained.
    Drain,
    /// Order-9 blocks: none to be had, or again to be had.
    Starve(bool),
}

/// Indices that an address is built from: each is 0, 1, 2, 255, 256, 510 or 511.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Place(pub u8, pub u8, pub u8, pub u8);

impl Place {
    /// The address.
    pub fn va(self) -> u64 {
        const P4D: [u64; 4] = [0, 1, 254, 255];
        const IDX: [u64; 7] = [0, 1, 2, 255, 256, 510, 511];
        let idx = |i: u8| IDX[usize::from(i) % IDX.len()];
        P4D[usize::from(self.0) % 4] << 39
            | idx(self.1) << 30
            | idx(self.2) << 21
            | idx(self.3) << 12
    }
}

/// A process: an address space and what should be in it.
pub struct Process {
    /// The address space.
    pub mm: Mm,
    /// The truth.
    pub leaves: BTreeMap<u64, Leaf>,
}

impl Process {
    /// Asserts the invariants of the tables.
    fn check(&self, world: &World) {
        let mapped = |a, b| Harness::overlaps(&self.leaves, a, b);
        self.mm.check(world, &mapped);
    }
}

/// Statistics of a run, so that a test can see that it tested something.
#[derive(Copy, Clone, Default, Debug)]
pub struct Seen {
    /// Translations compared.
    pub walks: u64,
    /// Demotions done.
    pub demoted: u64,
    /// GiBs moved by their entry.
    pub gibs_moved: u64,
    /// Windows of 2 MiB moved by their entry.
    pub windows_moved: u64,
    /// Windows collapsed.
    pub collapsed: u64,
    /// Leaves split.
    pub split: u64,
    /// Pages of 4 KiB that hardware found in spans that had been flat.
    pub attached: u64,
    /// Addresses in whose slices hardware found nothing and software no slice.
    pub hidden: u64,
    /// Spans in use that became flat.
    pub flattened: u64,
    /// Spans that stayed attached for what stands there.
    pub not_flattened: u64,
    /// Spans in use that policy auto left as they are.
    pub not_promoted: u64,
    /// Forks done.
    pub forks: u64,
    /// Operations that ended for want of memory.
    pub no_memory: u64,
    /// Walks of fewer than four steps to a page of 4 KiB.
    pub short_walks: u64,
}

/// The machine with its processes.
pub struct Harness {
    /// The machine.
    pub world: World,
    /// Up to four processes.
    pub procs: Vec<Process>,
    current: usize,
    next_pa: u64,
    mode: Mode,
    /// What happened.
    pub seen: Seen,
}

impl Harness {
    /// One process of this mode.
    pub fn new(mut world: World, mode: Mode) -> Result<Self, MmError> {
        let mm = Mm::new(&mut world, mode, None)?;
        Ok(Harness {
            world,
            procs: vec![Process {
                mm,
                leaves: BTreeMap::new(),
            }],
            current: 0,
            next_pa: 1 << 40,
            mode,
            seen: Seen::default(),
        })
    }

    fn leaf(&mut self, level: Level) -> Leaf {
        let size = level.span_bytes();
        self.next_pa = (self.next_pa + size - 1) & !(size - 1);
        let pa = self.next_pa;
        self.next_pa += size;
        Leaf {
            level,
            pa,
            write: pa >> 12 & 1 == 0,
        }
    }

    /// Does a leaf overlap the range?
    fn overlaps(leaves: &BTreeMap<u64, Leaf>, start: u64, end: u64) -> bool {
        leaves
            .range(..end)
            .next_back()
            .is_some_and(|(va, l)| va + l.level.span_bytes() > start)
    }

    /// The gap around a range in which nothing is mapped once the range is not.
    fn gap(leaves: &BTreeMap<u64, Leaf>, start: u64, end: u64) -> (u64, u64) {
        let floor = leaves
            .range(..start)
            .next_back()
            .map_or(0, |(va, l)| va + l.level.span_bytes());
        let ceiling = leaves.range(end..).next().map_or(USER_END, |(va, _)| *va);
        (floor, ceiling)
    }

    /// Widens a range so that it cuts no huge leaf.
    fn snap(leaves: &BTreeMap<u64, Leaf>, mut start: u64, mut end: u64) -> (u64, u64) {
        if let Some((va, l)) = leaves.range(..=start).next_back() {
            if va + l.level.span_bytes() > start {
                start = *va;
            }
        }
        if let Some((va, l)) = leaves.range(..end).next_back() {
            end = end.max(va + l.level.span_bytes());
        }
        (start, end)
    }

    /// Performs one operation on both sides.
    pub fn step(&mut self, op: Op) {
        if self.procs.is_empty() {
            match Mm::new(&mut self.world, self.mode, None) {
                Ok(mm) => self.procs.push(Process {
                    mm,
                    leaves: BTreeMap::new(),
                }),
                Err(_) => {
                    self.seen.no_memory += 1;
                    return;
                }
            }
        }
        self.current %= self.procs.len();
        let result = self.step_inner(op);
        if result == Err(MmError::NoMemory) {
            self.seen.no_memory += 1;
        }
        self.world.check();
        if let Some(p) = self.procs.get(self.current) {
            p.check(&self.world);
        }
        let there: usize = self.procs.iter().map(|p| p.mm.nodes(&self.world)).sum();
        let pooled = self.world.pooled_below_root();
        assert_eq!(self.world.nodes.len(), there + pooled, "a node in no tree");
    }

    fn step_inner(&mut self, op: Op) -> Result<(), MmError> {
        match op {
            Op::Map(place, pages) => {
                for i in 0..u64::from(pages) {
                    let va = place.va() + i * 4096;
                    let leaf = self.leaf(Level::L1);
                    let p = &mut self.procs[self.current];
                    if va >= USER_END || Self::overlaps(&p.leaves, va, va + 4096) {
                        continue;
                    }
                    let result = p.mm.map(&mut self.world, va, leaf.entry());
                    if result.is_ok() {
                        p.leaves.insert(va, leaf);
                    }
                    Self::sweep(&mut self.world, p, va, va + 4096);
                    result?;
                }
            }
            Op::MapHuge2M(place) => return self.map_huge(place.va(), Level::L2, Event::Leaf),
            Op::MapHuge1G(place) => return self.map_huge(place.va(), Level::L3, Event::Leaf),
            Op::Hugetlb(place, giant) => {
                let level = if giant { Level::L3 } else { Level::L2 };
                return self.map_huge(place.va(), level, Event::Hugetlb);
            }
            Op::Collapse(place) => self.collapse(place.va()),
            Op::Split(place) => return self.split(place.va()),
            Op::Unmap(a, b) => self.unmap(a.va().min(b.va()), a.va().max(b.va()) + 4096),
            Op::UnmapSpan(place, level) => {
                let start = place.va() & !(level.span_bytes() - 1);
                self.unmap(start, start + level.span_bytes());
            }
            Op::Protect(a, b, write) => {
                let (start, end) = (a.va().min(b.va()), a.va().max(b.va()) + 4096);
                let p = &mut self.procs[self.current];
                let (start, end) = Self::snap(&p.leaves, start, end);
                p.mm.for_each_leaf(&mut self.world, start, end, |v| {
                    if write {
                        v | RW
                    } else {
                        v & !RW
                    }
                });
                for (_, l) in p.leaves.range_mut(start..end) {
                    l.write = write;
                }
            }
            Op::Move(from, to, pages) => {
                for i in 0..u64::from(pages) {
                    let (from, to) = (from.va() + i * 4096, to.va() + i * 4096);
                    let p = &mut self.procs[self.current];
                    match p.leaves.get(&from) {
                        Some(l) if l.level == Level::L1 => {}
                        _ => continue,
                    }
                    if to >= USER_END || Self::overlaps(&p.leaves, to, to + 4096) {
                        continue;
                    }
                    let result = p.mm.move_page(&mut self.world, from, to);
                    if result.is_ok() {
                        let leaf = p.leaves.remove(&from).unwrap();
                        p.leaves.insert(to, leaf);
                    }
                    Self::sweep(&mut self.world, p, from, from + 4096);
                    Self::sweep(&mut self.world, p, to, to + 4096);
                    result?;
                }
            }
            Op::MoveGib(from, to) => {
                let moved = self.move_entry(from.va(), to.va(), Level::L3)?;
                self.seen.gibs_moved += u64::from(moved);
            }
            Op::MoveWindow(from, to) => {
                let moved = self.move_entry(from.va(), to.va(), Level::L2)?;
                self.seen.windows_moved += u64::from(moved);
            }
            Op::Demote(place) => {
                let p = &mut self.procs[self.current];
                let done = p.mm.demote_at(&mut self.world, place.va());
                self.seen.demoted += u64::from(done);
            }
            Op::Flatten(place, wish) => {
                let p = &mut self.procs[self.current];
                // Where something is mapped: at the place or behind it, else before it.
                let mut at = p.leaves.range(place.va()..).chain(&p.leaves);
                let va = at.next().map_or(place.va(), |(va, _)| *va);
                let reflat = self.world.counter(Counter::REFLATTENED);
                match p.mm.promote(&mut self.world, va, wish) {
                    Promoted::Flat => {
                        let now = self.world.counter(Counter::REFLATTENED);
                        self.seen.flattened += (now - reflat) as u64;
                    }
                    Promoted::Attached => self.seen.not_flattened += 1,
                    Promoted::Refused(_) => self.seen.not_promoted += 1,
                    Promoted::NoMemory | Promoted::Nothing => {}
                }
            }
            Op::Fork => {
                if self.procs.len() < 4 {
                    let p = &self.procs[self.current];
                    let mm = p.mm.fork(&mut self.world)?;
                    let leaves = p.leaves.clone();
                    self.procs.push(Process { mm, leaves });
                    self.seen.forks += 1;
                }
            }
            Op::Exit { kept } => {
                let p = self.procs.swap_remove(self.current);
                if p.mm.tainted {
                    p.mm.leave_dirt(&mut self.world);
                }
                if kept {
                    p.mm.exit_kept(&mut self.world);
                } else {
                    p.mm.exit(&mut self.world);
                }
            }
            Op::Switch(n) => self.current = usize::from(n) % self.procs.len(),
            Op::Taint => self.procs[self.current].mm.tainted = true,
            Op::Drain => self.world.drain(),
            Op::Starve(on) => {
                use crate::world::Fail;
                match (&self.world.fail, on) {
                    (Fail::Never, true) => self.world.fail = Fail::Blocks,
                    (Fail::Blocks, false) => self.world.fail = Fail::Never,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Frees the tables that an operation left where nothing is mapped, as the kernel does when
    /// the VMA goes. Does nothing where something is mapped.
    fn sweep(world: &mut World, p: &mut Process, start: u64, end: u64) {
        if !Self::overlaps(&p.leaves, start, end) {
            let gap = Self::gap(&p.leaves, start, end);
            p.mm.free_tables(world, start, end, gap.0, gap.1);
        }
    }

    fn map_huge(&mut self, va: u64, level: Level, event: Event) -> Result<(), MmError> {
        let va = va & !(level.span_bytes() - 1);
        let leaf = self.leaf(level);
        let p = &mut self.procs[self.current];
        if Self::overlaps(&p.leaves, va, va + level.span_bytes()) {
            return Ok(());
        }
        let result =
            p.mm.map_huge(&mut self.world, va, level, leaf.entry(), event);
        if result.is_ok() {
            p.leaves.insert(va, leaf);
        }
        Self::sweep(&mut self.world, p, va, va + level.span_bytes());
        result
    }

    fn collapse(&mut self, va: u64) {
        let size = Level::L2.span_bytes();
        let va = va & !(size - 1);
        let leaf = self.leaf(Level::L2);
        let p = &mut self.procs[self.current];
        if p.mm.collapse(&mut self.world, va, leaf.entry()) {
            p.leaves.retain(|at, _| !(va..va + size).contains(at));
            p.leaves.insert(va, leaf);
            self.seen.collapsed += 1;
        }
    }

    fn split(&mut self, va: u64) -> Result<(), MmError> {
        let va = va & !(Level::L2.span_bytes() - 1);
        let p = &mut self.procs[self.current];
        let huge = match p.leaves.get(&va) {
            // Each makes 512 leaves to compare.
            Some(l) if l.level == Level::L2 && p.leaves.len() < 1024 => *l,
            _ => return Ok(()),
        };
        let small = |i: u64| Leaf {
            level: Level::L1,
            pa: huge.pa + i * PAGE_SIZE,
            write: huge.write,
        };
        p.mm.split_huge(&mut self.world, va, &|i| small(i).entry())?;
        p.leaves
            .extend((0..512).map(|i| (va + i * PAGE_SIZE, small(i))));
        self.seen.split += 1;
        Ok(())
    }

    fn move_entry(&mut self, from: u64, to: u64, level: Level) -> Result<bool, MmError> {
        let size = level.span_bytes();
        let (from, to) = (from & !(size - 1), to & !(size - 1));
        let p = &mut self.procs[self.current];
        if from == to
            || Self::overlaps(&p.leaves, to, to + size)
            || !Self::overlaps(&p.leaves, from, from + size)
        {
            return Ok(false);
        }
        let moved = p.mm.move_entry(&mut self.world, from, to, level);
        if moved == Ok(true) {
            let inside: Vec<u64> = p
                .leaves
                .range(from..from + size)
                .map(|(va, _)| *va)
                .collect();
            for va in inside {
                let leaf = p.leaves.remove(&va).unwrap();
                p.leaves.insert(va - from + to, leaf);
            }
        }
        Self::sweep(&mut self.world, p, from, from + size);
        Self::sweep(&mut self.world, p, to, to + size);
        moved
    }

    fn unmap(&mut self, start: u64, end: u64) {
        let p = &mut self.procs[self.current];
        let (start, end) = Self::snap(&p.leaves, start, end);
        let gap = Self::gap(&p.leaves, start, end);
        p.mm.unmap(&mut self.world, start, end, gap.0, gap.1);
        p.leaves.retain(|va, _| *va < start || *va >= end);
    }

    /// Compares every process with its oracle, at each leaf and around it.
    pub fn compare(&mut self) {
        let cfg = Cfg {
            fpte: true,
            nxe: true,
            phys_bits: 52,
        };
        for p in &self.procs {
            p.check(&self.world);
            let mut probes: Vec<u64> = Vec::new();
            for (va, l) in &p.leaves {
                let size = l.level.span_bytes();
                probes.extend([*va, va + size / 2, va + size - 1]);
                probes.extend([va.wrapping_sub(1), va + size]);
                // Same slot of the neighbouring slice, of the neighbouring node.
                probes.extend([va ^ (1 << 21), va ^ (1 << 30), va ^ (1 << 39)]);
            }
            for va in probes.into_iter().filter(|va| *va < USER_END) {
                self.seen.walks += 1;
                let want = p
                    .leaves
                    .range(..=va)
                    .next_back()
                    .filter(|(base, l)| *base + l.level.span_bytes() > va);
                let mem = &self.world.mem;
                let hw = hw_walk(mem, p.mm.cr3(), VirtAddr::new(va), &cfg);
                let sw = sw_walk(mem, p.mm.l4, VirtAddr::new(va));
                match want {
                    Some((base, l)) => {
                        let perm = Perm {
                            write: l.write,
                            exec: false,
                            user: true,
                        };
                        let shift = l.level.shift();
                        let page = Outcome::Page {
                            base: PhysAddr::new(l.pa),
                            shift,
                            perm,
                        };
                        assert_eq!(hw.outcome, page, "hardware walk of {va:#x}");
                        assert_eq!(
                            hw.translate(VirtAddr::new(va)).map(PhysAddr::as_u64),
                            Some(l.pa + (va - base))
                        );
                        let last = hw.steps().last().unwrap();
                        let leaf = SwOutcome::Leaf {
                            slot: last.pa,
                            entry: last.value,
                            shift,
                        };
                        assert_eq!(sw, leaf, "software walk of {va:#x}");
                        if l.level == Level::L1 && hw.visited() < 4 {
                            self.seen.short_walks += 1;
                        }
                        let mut tables = hw.steps().map(|s| s.value.addr());
                        if tables.any(|pa| self.world.blocks.contains_key(&pa)) {
                            self.seen.attached += 1;
                        }
                    }
                    None => {
                        assert_eq!(hw.outcome, Outcome::Fault { error_code: 0 }, "{va:#x}");
                        let slot = match sw {
                            SwOutcome::Absent { slot, .. } => slot,
                            other => panic!("software walk of {va:#x}: {other:?}"),
                        };
                        self.seen.hidden += u64::from(absent(&self.world, va, &hw, slot));
                    }
                }
            }
        }
    }

    /// Ends all processes and checks that nothing is left.
    pub fn finish(mut self) -> (World, Seen) {
        for p in self.procs.drain(..) {
            p.mm.exit(&mut self.world);
        }
        self.world.check_empty();
        (self.world, self.seen)
    }
}

/// Asserts that both walks of `va` find nothing at one place: in one entry, or hardware in a slice of a
/// flat span whose entry, where software ends, is none. True in the second case.
fn absent(world: &World, va: u64, hw: &HwWalk, slot: PhysAddr) -> bool {
    let last = hw.steps().last().unwrap();
    if last.pa == slot {
        return false;
    }
    let (block, i) = world
        .node_at(slot)
        .unwrap_or_else(|| panic!("{va:#x}: the walks end at {:x?} and {slot:x?}", last.pa));
    assert_eq!(world.nodes[&block].span.state(), State::Flat, "{va:#x}");
    assert_eq!(world.mem.read(slot), 0, "{va:#x}");
    let slice = last.pa.as_u64() & !(PAGE_SIZE - 1);
    assert_eq!(slice, block.as_u64() + u64::from(i) * PAGE_SIZE, "{va:#x}");
    true
}
