// SPDX-License-Identifier: GPL-2.0

//! A small address-space layer on the simulated machine.
//!
//! Tables are reached only through the core's `pud_offset`, `pmd_offset` and `pte_offset`, ranges
//! are walked in windows of at most 2 MiB, and a folded level's pointer does not move: the rules
//! that the kernel's walkers follow. Nodes come and go only through the core's life cycle.

use crate::mem::SimBlock;
use crate::world::{Ops, Request, World};
use fpt_core::addr::{PhysAddr, VirtAddr};
use fpt_core::counters::Counter;
use fpt_core::entry::{self, Class, Entry};
use fpt_core::geometry::{slice_base, span_bytes, Level, Mode, NodeKind, NODE_BYTES, SLICES};
use fpt_core::node::{self, DemoteOutcome, Detached, InstallOutcome};
use fpt_core::policy::{decide, Choice, Decision, SpanFacts};
use fpt_core::walk::{advances, pmd_offset, pte_offset, pud_offset, Next};

/// First address after the user half.
pub const USER_END: u64 = 1 << 47;

/// Why an operation failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum MmError {
    /// No memory for a table of 4 KiB.
    NoMemory,
}

/// An address space.
pub struct Mm {
    /// Its mode.
    pub mode: Mode,
    /// `mm->pgd`.
    pub l4: PhysAddr,
    /// Is the root flattened?
    pub flat_root: bool,
    /// Page-table bytes, the root not counted (as in the kernel).
    pub pgtables_bytes: i64,
    /// Flattened nodes, the root counted.
    pub flat_nodes: u64,
    /// A bad entry was seen.
    pub tainted: bool,
    /// Mapped bytes ever asked for, as a stand-in for `total_vm`.
    pub total_vm: u64,
}

/// A piece of a range walk.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// A level 3 leaf at `slot`.
    Huge {
        /// Where the entry is.
        slot: PhysAddr,
    },
    /// At most 2 MiB from `start`, below the pmd pointer `slot`, which may be a folded one.
    Pmd {
        /// The pmd pointer.
        slot: PhysAddr,
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
    },
}

fn addr_end(addr: u64, end: u64, level: Level) -> u64 {
    let span = level.span_bytes();
    let boundary = (addr & !(span - 1)) + span;
    boundary.min(end)
}

fn table_flags() -> u64 {
    entry::TABLE_FLAGS
}

impl Mm {
    /// A new address space; at fork `parent` says whether the parent's root is flattened.
    pub fn new(world: &mut World, mode: Mode, parent: Option<&Mm>) -> Result<Mm, MmError> {
        let mut mm = Mm {
            mode,
            l4: PhysAddr::new(0),
            flat_root: false,
            pgtables_bytes: 0,
            flat_nodes: 0,
            tainted: false,
            total_vm: parent.map_or(0, |p| p.total_vm),
        };
        let choice = parent.map(|p| {
            if p.flat_root {
                Choice::Flat
            } else {
                Choice::Radix
            }
        });
        let facts = mm.facts(world, NodeKind::Root, false, choice);
        if let Decision::Flatten = decide(&facts) {
            let mut ops = Ops::new(world, &mut mm, PhysAddr::new(0));
            if let Ok(l4) = node::install_root(&mut ops) {
                mm.l4 = l4;
                mm.flat_root = true;
            }
        }
        if !mm.flat_root {
            if !world.allow(Request::Table) {
                return Err(MmError::NoMemory);
            }
            mm.l4 = world.mem.alloc_table(Level::L4);
        }
        // A kernel half, shared by all: one large leaf stands for it.
        let kernel = mm.l4.offset(511 * 8);
        world.mem.write(kernel, KERNEL_PUD_TABLE);
        Ok(mm)
    }

    /// The value of CR3.
    pub fn cr3(&self) -> u64 {
        if self.flat_root {
            entry::cr3_flat(self.l4, 0).expect("the L4 page is in the second half of its block")
        } else {
            self.l4.as_u64()
        }
    }

    fn facts(&self, w: &World, kind: NodeKind, huge: bool, parent: Option<Choice>) -> SpanFacts {
        SpanFacts {
            mode: self.mode,
            kind,
            policy: w.policy,
            min_span: w.min_span,
            mm_total_vm: self.total_vm,
            vma_excluded: huge,
            mm_flat_nodes: self.flat_nodes,
            mm_cap: w.mm_cap,
            global_flat_nodes: w.global_flat,
            global_cap: w.global_cap,
            parent_choice: parent,
        }
    }

    /// `p4d_offset`.
    pub fn p4d(&self, va: u64) -> PhysAddr {
        self.l4
            .offset(u64::from(Level::L4.index(VirtAddr::new(va))) * 8)
    }

    fn populate(
        &mut self,
        w: &mut World,
        slot: PhysAddr,
        child: Level,
        huge: bool,
        parent: Option<Choice>,
    ) -> Result<(), MmError> {
        if !Entry::new(w.mem.read(slot)).is_none() {
            return Ok(());
        }
        let kind = match child {
            Level::L3 => Some(NodeKind::Mid),
            Level::L2 => Some(NodeKind::Bottom),
            _ => None,
        };
        if let Some(kind) = kind {
            match decide(&self.facts(w, kind, huge, parent)) {
                Decision::Flatten => {
                    let mut ops = Ops::new(w, self, slot);
                    match node::install_node(&mut ops, kind, table_flags()) {
                        InstallOutcome::Installed | InstallOutcome::LostRace => return Ok(()),
                        InstallOutcome::Fallback(_) => {}
                    }
                }
                Decision::Conventional(why) => {
                    let counter = if why.is_cap() {
                        Counter::REFUSED_CAP
                    } else {
                        Counter::REFUSED_POLICY
                    };
                    w.counters[counter.index()] += 1;
                }
            }
        }
        if !w.allow(Request::Table) {
            return Err(MmError::NoMemory);
        }
        let pa = w.mem.alloc_table(child);
        self.pgtables_bytes += 4096;
        w.mem
            .write(slot, Entry::table(pa, table_flags()).unwrap().as_u64());
        Ok(())
    }

    /// The pmd pointer for `va`, tables allocated as needed. `huge`: a huge leaf is to go there.
    fn alloc_pmd(
        &mut self,
        w: &mut World,
        va: u64,
        huge: bool,
        parent: [Option<Choice>; 2],
    ) -> Result<PhysAddr, MmError> {
        let p4d = self.p4d(va);
        self.populate(
            w,
            p4d,
            Level::L3,
            huge && self.mode.flattens_bottom(),
            parent[0],
        )?;
        let pud = child(w, Level::L4, p4d, va);
        self.populate(w, pud, Level::L2, huge, parent[1])?;
        Ok(child(w, Level::L3, pud, va))
    }

    fn alloc_pte(
        &mut self,
        w: &mut World,
        va: u64,
        parent: [Option<Choice>; 2],
    ) -> Result<PhysAddr, MmError> {
        let pmd = self.alloc_pmd(w, va, false, parent)?;
        self.populate(w, pmd, Level::L1, false, None)?;
        Ok(child(w, Level::L2, pmd, va))
    }

    /// Maps one page of 4 KiB where nothing is mapped.
    pub fn map(&mut self, w: &mut World, va: u64, leaf: u64) -> Result<(), MmError> {
        self.total_vm += 4096;
        let slot = self.alloc_pte(w, va, [None; 2])?;
        assert_eq!(w.mem.read(slot), 0, "{va:#x} is mapped");
        w.mem.write(slot, leaf);
        Ok(())
    }

    /// Maps a leaf of 2 MiB (`level` 2) or 1 GiB (`level` 3) where nothing is mapped. A flat span
    /// that has no room for such a leaf is demoted; `mapped` tells of a range whether anything
    /// is mapped there.
    pub fn map_huge(
        &mut self,
        w: &mut World,
        va: u64,
        level: Level,
        leaf: u64,
        mapped: &dyn Fn(u64, u64) -> bool,
    ) -> Result<(), MmError> {
        assert_eq!(va % level.span_bytes(), 0);
        self.total_vm += level.span_bytes();
        let p4d = self.p4d(va);
        let slot = if level == Level::L3 {
            // A 1 GiB leaf has no room in an L3+L2 node.
            self.demote(w, p4d, va, mapped)?;
            self.populate(w, p4d, Level::L3, true, None)?;
            let pud = child(w, Level::L4, p4d, va);
            assert_ne!(pud, p4d);
            pud
        } else {
            if Entry::new(w.mem.read(p4d)).is_present() {
                let pud = child(w, Level::L4, p4d, va);
                // A 2 MiB leaf has no room in an L2+L1 node.
                if Entry::new(w.mem.read(pud)).node_kind() == Some(NodeKind::Bottom) {
                    self.demote(w, pud, va, mapped)?;
                }
            }
            self.alloc_pmd(w, va, true, [None; 2])?
        };
        assert_eq!(
            w.mem.read(slot),
            0,
            "a table outlived the last mapping below it"
        );
        w.mem.write(slot, leaf);
        Ok(())
    }

    /// Demotes the node that the entry at `slot`, which covers `va`, points at, if it does.
    pub fn demote(
        &mut self,
        w: &mut World,
        slot: PhysAddr,
        va: u64,
        mapped: &dyn Fn(u64, u64) -> bool,
    ) -> Result<bool, MmError> {
        let entry = Entry::new(w.mem.read(slot));
        let Some(kind) = entry.node_kind() else {
            return Ok(false);
        };
        // As the kernel does: what holds something is a table, and only mappings hold something.
        let used: Vec<bool> = (0..SLICES)
            .map(|slice| {
                let used = !w.mem.frame_is_zero(node::slice_addr(entry.addr(), slice));
                let start = slice_base(kind, VirtAddr::new(va), slice).as_u64();
                assert!(
                    !used || mapped(start, start + (span_bytes(kind) >> 9)),
                    "slice {slice} outside every mapping is not zero"
                );
                used
            })
            .collect();
        let in_use = |slice: u32| used[slice as usize];
        let mut ops = Ops::new(w, self, slot);
        ops.in_use = &in_use;
        match node::demote_node(&mut ops, table_flags()) {
            DemoteOutcome::Demoted => Ok(true),
            DemoteOutcome::NotFlat => Ok(false),
            DemoteOutcome::NoMemory => Err(MmError::NoMemory),
        }
    }

    /// Demotes whatever node covers `va`; answers whether there was one.
    pub fn demote_at(
        &mut self,
        w: &mut World,
        va: u64,
        mapped: &dyn Fn(u64, u64) -> bool,
    ) -> Result<bool, MmError> {
        let p4d = self.p4d(va);
        if !Entry::new(w.mem.read(p4d)).is_present() {
            return Ok(false);
        }
        // Where the level is folded, pud is p4d.
        let pud = child(w, Level::L4, p4d, va);
        self.demote(w, pud, va, mapped)
    }

    /// Calls `f` for each populated window of the range, in order.
    pub fn for_each_window(
        &self,
        w: &mut World,
        start: u64,
        end: u64,
        mut f: impl FnMut(&mut World, Window),
    ) {
        let mut a4 = start;
        let mut p4d = self.p4d(start);
        while a4 < end {
            let n4 = addr_end(a4, end, Level::L4);
            let e4 = Entry::new(w.mem.read(p4d));
            if e4.is_present() {
                let mut a3 = a4;
                let mut pud = child(w, Level::L4, p4d, a4);
                while a3 < n4 && !w.mem.is_blank(pud) {
                    let n3 = addr_end(a3, n4, Level::L3);
                    let e3 = Entry::new(w.mem.read(pud));
                    if e3.is_present() && e3.as_u64() & entry::PSE != 0 {
                        f(w, Window::Huge { slot: pud });
                    } else if e3.is_present() {
                        let mut a2 = a3;
                        let mut pmd = child(w, Level::L3, pud, a3);
                        while a2 < n3 && !w.mem.is_blank(pmd) {
                            let n2 = addr_end(a2, n3, Level::L2);
                            if Entry::new(w.mem.read(pmd)).is_present() {
                                f(
                                    w,
                                    Window::Pmd {
                                        slot: pmd,
                                        start: a2,
                                        end: n2,
                                    },
                                );
                            }
                            pmd = next(pud, pmd);
                            a2 = n2;
                        }
                    }
                    pud = next(p4d, pud);
                    a3 = n3;
                }
            }
            p4d = p4d.offset(8);
            a4 = n4;
        }
    }

    fn any_window(&self, w: &mut World, start: u64, end: u64) -> bool {
        let mut any = false;
        self.for_each_window(w, start, end, |_, _| any = true);
        any
    }

    /// Applies `f` to every present leaf of the range; what it returns is stored.
    pub fn for_each_leaf(
        &self,
        w: &mut World,
        start: u64,
        end: u64,
        mut f: impl FnMut(u64) -> u64,
    ) {
        self.for_each_window(w, start, end, |w, window| match window {
            Window::Huge { slot } => {
                let v = w.mem.read(slot);
                w.mem.write(slot, f(v));
            }
            Window::Pmd { slot, start, end } => {
                let pmd = Entry::new(w.mem.read(slot));
                if pmd.as_u64() & entry::PSE != 0 {
                    let v = f(pmd.as_u64());
                    w.mem.write(slot, v);
                    return;
                }
                let mut pte = child(w, Level::L2, slot, start);
                let mut a = start;
                while a < end && !w.mem.is_blank(pte) {
                    let v = w.mem.read(pte);
                    if v & entry::PRESENT != 0 {
                        w.mem.write(pte, f(v));
                    }
                    pte = pte.offset(8);
                    a += 4096;
                }
            }
        });
    }

    /// Removes all leaves of the range, then the tables of the gap `floor..ceiling` around it.
    pub fn unmap(&mut self, w: &mut World, start: u64, end: u64, floor: u64, ceiling: u64) {
        self.for_each_leaf(w, start, end, |_| 0);
        self.free_tables(w, start, end, floor, ceiling);
    }

    /// `free_pgtables`: frees the tables and nodes that lie wholly in the gap and below which the
    /// range has a part. Nodes wait for the flush.
    pub fn free_tables(&mut self, w: &mut World, start: u64, end: u64, floor: u64, ceiling: u64) {
        let mut batch: Vec<(SimBlock, u8)> = Vec::new();
        let mut a = start;
        let mut p4d = self.p4d(start);
        while a < end {
            let n = addr_end(a, end, Level::L4);
            self.free_below(w, Level::L4, p4d, a, n, (floor, ceiling), &mut batch);
            p4d = p4d.offset(8);
            a = n;
        }
        // The flush is here; only now may a block get to the next user.
        for (block, tag) in batch {
            let node = Detached::from_raw(block, tag).unwrap_or_else(|_| panic!("tag {tag}"));
            node::retire_node(w, node);
        }
    }

    /// Frees what is below the entry of `level` at `slot`, for `start..end` within its window.
    #[allow(clippy::too_many_arguments)]
    fn free_below(
        &mut self,
        w: &mut World,
        level: Level,
        slot: PhysAddr,
        start: u64,
        end: u64,
        gap: (u64, u64),
        batch: &mut Vec<(SimBlock, u8)>,
    ) {
        let entry = Entry::new(w.mem.read(slot));
        if !entry.is_present() || (level != Level::L4 && entry.as_u64() & entry::PSE != 0) {
            return;
        }
        let below = match (entry.node_kind(), level) {
            (Some(kind), _) => kind.entry_level(),
            (None, Level::L4) => Level::L3,
            (None, Level::L3) => Level::L2,
            (None, _) => Level::L1,
        };
        if below != Level::L1 {
            let mut a = start;
            while a < end {
                let n = addr_end(a, end, below);
                let mut p = slot;
                let mut l = level;
                while l != below {
                    p = child(w, l, p, a);
                    l = down(l);
                }
                self.free_below(w, below, p, a, n, gap, batch);
                // The rest of an empty slice has nothing to free.
                a = if w.mem.is_blank(p) {
                    addr_end(a, end, up(below))
                } else {
                    n
                };
            }
        }
        let base = start & !(level.span_bytes() - 1);
        let whole = base >= gap.0 && base + level.span_bytes() <= gap.1;
        if !whole || entry.as_u64() & entry::FLAT_SLICE != 0 {
            return;
        }
        if entry.is_flat() {
            let node = node::detach_node(&mut Ops::new(w, self, slot)).expect("flat entry");
            batch.push(node.into_raw());
        } else {
            w.mem.write(slot, 0);
            w.mem.free_table(entry.addr(), below);
            self.pgtables_bytes -= 4096;
        }
    }

    /// Copies everything to a new address space (fork). On failure the child is destroyed.
    pub fn fork(&self, w: &mut World) -> Result<Mm, MmError> {
        let mut dst = Mm::new(w, self.mode, Some(self))?;
        match self.copy_to(w, &mut dst) {
            Ok(()) => Ok(dst),
            Err(e) => {
                dst.exit(w);
                Err(e)
            }
        }
    }

    /// Two trees in lock-step: either side may be folded where the other is not.
    fn copy_to(&self, w: &mut World, dst: &mut Mm) -> Result<(), MmError> {
        let choice = |e: Entry| {
            Some(if e.is_flat() {
                Choice::Flat
            } else {
                Choice::Radix
            })
        };
        for i in 0..256u64 {
            let a4 = i << 39;
            let n4 = a4 + Level::L4.span_bytes();
            let (s4, d4) = (self.p4d(a4), dst.p4d(a4));
            let e4 = Entry::new(w.mem.read(s4));
            // A flattened root has all its level 4 entries; only those with contents count (the
            // kernel goes by VMAs).
            if !e4.is_present() || !self.any_window(w, a4, n4) {
                continue;
            }
            dst.populate(w, d4, Level::L3, false, choice(e4))?;
            let (mut s3, mut d3) = (child(w, Level::L4, s4, a4), child(w, Level::L4, d4, a4));
            let mut a3 = a4;
            while a3 < n4 {
                let n3 = addr_end(a3, n4, Level::L3);
                self.copy_pud(w, dst, s3, d3, d3 == d4, a3, n3)?;
                s3 = next(s4, s3);
                d3 = next(d4, d3);
                a3 = n3;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn copy_pud(
        &self,
        w: &mut World,
        dst: &mut Mm,
        s3: PhysAddr,
        d3: PhysAddr,
        dst_folded: bool,
        start: u64,
        end: u64,
    ) -> Result<(), MmError> {
        let e3 = Entry::new(w.mem.read(s3));
        if !e3.is_present() {
            return Ok(());
        }
        if e3.as_u64() & entry::PSE != 0 {
            assert!(
                !dst_folded,
                "fork mirrors the parent: no folded pud for a huge leaf"
            );
            w.mem.write(d3, e3.as_u64());
            return Ok(());
        }
        if !self.any_window(w, start, end) {
            return Ok(());
        }
        let mirror = match e3.node_kind() {
            Some(NodeKind::Bottom) => Some(Choice::Flat),
            Some(_) => None,
            None => Some(Choice::Radix),
        };
        dst.populate(w, d3, Level::L2, false, mirror)?;
        let (mut s2, mut d2) = (
            child(w, Level::L3, s3, start),
            child(w, Level::L3, d3, start),
        );
        let mut a = start;
        while a < end {
            let n = addr_end(a, end, Level::L2);
            let e2 = Entry::new(w.mem.read(s2));
            if e2.is_present() {
                let s2_leaf = s2 != s3 && e2.as_u64() & entry::PSE != 0;
                if s2_leaf {
                    assert_ne!(
                        d2, d3,
                        "fork mirrors the parent: no folded pmd for a huge leaf"
                    );
                    w.mem.write(d2, e2.as_u64());
                } else {
                    self.copy_ptes(w, dst, s2, d2, a, n)?;
                }
            }
            s2 = next(s3, s2);
            d2 = next(d3, d2);
            a = n;
        }
        Ok(())
    }

    fn copy_ptes(
        &self,
        w: &mut World,
        dst: &mut Mm,
        s2: PhysAddr,
        d2: PhysAddr,
        start: u64,
        end: u64,
    ) -> Result<(), MmError> {
        let mut s1 = child(w, Level::L2, s2, start);
        let mut d1 = None;
        let mut a = start;
        let mut i = 0u64;
        while a < end && !w.mem.is_blank(s1) {
            let v = w.mem.read(s1);
            if v & entry::PRESENT != 0 {
                let base = match d1 {
                    Some(base) => base,
                    None => {
                        dst.populate(w, d2, Level::L1, false, None)?;
                        *d1.insert(child(w, Level::L2, d2, start))
                    }
                };
                w.mem.write(base.offset(i * 8), v);
            }
            s1 = s1.offset(8);
            i += 1;
            a += 4096;
        }
        Ok(())
    }

    /// Moves the page at `from` to `to`, where nothing is mapped.
    pub fn move_page(&mut self, w: &mut World, from: u64, to: u64) -> Result<(), MmError> {
        let dst = self.alloc_pte(w, to, [None; 2])?;
        let mut moved = 0;
        self.for_each_leaf(w, from, from + 4096, |v| {
            moved = v;
            0
        });
        assert_eq!(w.mem.read(dst), 0);
        w.mem.write(dst, moved);
        Ok(())
    }

    /// Moves an aligned GiB by moving its level 3 entry, table or flat node alike. `Ok(false)`:
    /// not possible here (a folded level, or the destination is populated), nothing changed.
    pub fn move_gib(&mut self, w: &mut World, from: u64, to: u64) -> Result<bool, MmError> {
        let (s4, d4) = (self.p4d(from), self.p4d(to));
        if !Entry::new(w.mem.read(s4)).is_present() {
            return Ok(false);
        }
        let s3 = child(w, Level::L4, s4, from);
        if s3 == s4 {
            return Ok(false);
        }
        self.populate(w, d4, Level::L3, false, None)?;
        let d3 = child(w, Level::L4, d4, to);
        if d3 == d4 || w.mem.read(d3) != 0 || !Entry::new(w.mem.read(s3)).is_present() {
            return Ok(false);
        }
        let v = w.mem.read(s3);
        w.mem.write(s3, 0);
        w.mem.write(d3, v);
        Ok(true)
    }

    /// Leaves words that are not zero beside leaves of 4 KiB: what a bad entry report is about.
    pub fn leave_dirt(&self, w: &mut World) {
        self.for_each_window(w, 0, USER_END, |w, window| {
            if let Window::Pmd { slot, start, .. } = window {
                if w.mem.read(slot) & entry::PSE == 0 {
                    let pte = child(w, Level::L2, slot, start);
                    let dirt = pte.offset(8 * 77);
                    if !w.mem.is_blank(pte) && w.mem.read(dirt) == 0 {
                        w.mem.write(dirt, 0xbad0_0000_0000_0000);
                    }
                }
            }
        });
    }

    /// `exit_mmap` and the root.
    pub fn exit(mut self, w: &mut World) {
        self.exit_mmap(w);
        self.free_root(w);
    }

    /// As [`Mm::exit`], but somebody keeps the address space for a while.
    pub fn exit_kept(mut self, w: &mut World) {
        self.exit_mmap(w);
        let blocks = w.mem.in_use().1;
        if self.flat_root {
            let l4 = self.l4;
            node::shed_root(&mut Ops::new(w, &mut self, l4), l4);
            self.flat_root = false;
            assert_eq!(w.mem.in_use().1, blocks - 1, "the root keeps its block");
        }
        assert_eq!(self.cr3(), self.l4.as_u64());
        for index in 0..256 {
            assert_eq!(w.mem.read(self.l4.offset(index * 8)), 0);
        }
        assert_eq!(w.mem.read(self.l4.offset(511 * 8)), KERNEL_PUD_TABLE);
        self.free_root(w);
    }

    fn exit_mmap(&mut self, w: &mut World) {
        self.unmap(w, 0, USER_END, 0, USER_END);
        assert_eq!(self.pgtables_bytes, 0, "non-zero pgtables_bytes");
    }

    fn free_root(mut self, w: &mut World) {
        // What a conventional table holds is gone when it is freed; the kernel half of a root stays.
        if self.flat_root {
            let l4 = self.l4;
            let node = node::detach_root(&mut Ops::new(w, &mut self, l4), l4);
            node::retire_node(w, node);
        } else {
            w.mem.write(self.l4.offset(511 * 8), 0);
            w.mem.free_table(self.l4, Level::L4);
        }
        assert_eq!(self.flat_nodes, 0, "nodes left");
    }

    /// Asserts that the accounting tells what is in the tree, and that no table or node of the
    /// user half is there without a mapping below it (`mapped`).
    pub fn check(&self, w: &World, mapped: &dyn Fn(u64, u64) -> bool) {
        let mut bytes = 0;
        let mut nodes = u64::from(self.flat_root);
        self.check_below(
            w,
            Level::L4,
            self.l4,
            0,
            256,
            mapped,
            &mut bytes,
            &mut nodes,
        );
        assert_eq!(bytes, self.pgtables_bytes, "pgtables_bytes");
        assert_eq!(nodes, self.flat_nodes, "flat_nodes");
    }

    #[allow(clippy::too_many_arguments)]
    fn check_below(
        &self,
        w: &World,
        level: Level,
        table: PhysAddr,
        base: u64,
        entries: u64,
        mapped: &dyn Fn(u64, u64) -> bool,
        bytes: &mut i64,
        nodes: &mut u64,
    ) {
        if level == Level::L1 {
            return;
        }
        for i in (0..entries).filter(|i| !w.mem.is_blank(table.offset((i & !511) * 8))) {
            let entry = Entry::new(w.mem.read(table.offset(i * 8)));
            let start = base + i * level.span_bytes();
            let (pa, below, n) = match entry.classify(level) {
                Class::None | Class::Leaf { .. } => continue,
                Class::Node { pa, kind } => {
                    *nodes += 1;
                    *bytes += NODE_BYTES as i64;
                    (pa, kind.entry_level(), 1 << 18)
                }
                Class::Table { pa } => {
                    *bytes += if entry.as_u64() & entry::FLAT_SLICE != 0 {
                        0
                    } else {
                        4096
                    };
                    (pa, down(level), 512)
                }
                other => panic!("{other:?} at level {level:?}"),
            };
            let slice = entry.as_u64() & entry::FLAT_SLICE != 0;
            assert!(
                slice || mapped(start, start + level.span_bytes()),
                "nothing is mapped below the level {level:?} entry of {start:#x}"
            );
            self.check_below(w, below, pa, start, n, mapped, bytes, nodes);
        }
    }
}

/// A present level 4 entry for the kernel half; nothing in the tests follows it.
pub const KERNEL_PUD_TABLE: u64 = 0x63 | 0x10_0000;

fn up(level: Level) -> Level {
    match level {
        Level::L1 => Level::L2,
        Level::L2 => Level::L3,
        _ => Level::L4,
    }
}

fn down(level: Level) -> Level {
    match level {
        Level::L4 => Level::L3,
        Level::L3 => Level::L2,
        _ => Level::L1,
    }
}

/// The pointer one level below `slot`, which is of `level`: `p?d_offset`.
pub fn child(w: &World, level: Level, slot: PhysAddr, va: u64) -> PhysAddr {
    let entry = Entry::new(w.mem.read(slot));
    let va = VirtAddr::new(va);
    let next = match level {
        Level::L4 => pud_offset(entry, va),
        Level::L3 => pmd_offset(entry, va),
        _ => pte_offset(entry, va),
    };
    match next {
        Next::PassThrough => slot,
        Next::Table { pa, index } => pa.offset(u64::from(index) * 8),
    }
}

/// `pud_next` / `pmd_next`.
fn next(parent: PhysAddr, slot: PhysAddr) -> PhysAddr {
    if advances(parent, slot) {
        slot.offset(8)
    } else {
        slot
    }
}
