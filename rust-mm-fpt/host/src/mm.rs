// SPDX-License-Identifier: GPL-2.0

//! A small address-space layer on the simulated machine.
//!
//! This is generic code: it walks four ordinary levels in every mode, and what it changes above the
//! PTEs it changes through [`crate::arch`].

use crate::arch::Batch;
use crate::space::Ops;
pub use crate::space::{Mm, MmError, Parent};
use crate::world::{Request, World};
use fpt_core::addr::{PhysAddr, VirtAddr, PAGE_SIZE};
use fpt_core::entry::{self, Entry};
use fpt_core::geometry::{Level, Mode, NodeKind};
use fpt_core::node;
use fpt_core::policy::{decide, Choice, Decision};
use fpt_core::span::Event;
use fpt_core::walk::{below, Below, IndexPages};

/// First address after the user half.
pub const USER_END: u64 = 1 << 47;

/// A piece of a range walk.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// A level 3 leaf at `slot`.
    Huge {
        /// Where the entry is.
        slot: PhysAddr,
    },
    /// At most 2 MiB from `start`, below the level 2 entry `slot`.
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
            wasted: 0,
        };
        let choice = parent.map(|p| Parent {
            choice: if p.flat_root {
                Choice::Flat
            } else {
                Choice::Radix
            },
            nodes: u32::from(p.flat_root),
            slices: 0,
        });
        let facts = mm.facts(world, NodeKind::Root, false, choice);
        if let Decision::Flatten = decide(&facts) {
            let mut ops = Ops { world, mm: &mut mm };
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

    /// `p4d_offset`.
    pub fn p4d(&self, va: u64) -> PhysAddr {
        self.l4
            .offset(u64::from(Level::L4.index(VirtAddr::new(va))) * 8)
    }

    /// The entry of level 2 for `va`, tables allocated as needed. `huge`: a huge leaf is to go there.
    fn alloc_pmd(
        &mut self,
        w: &mut World,
        va: u64,
        huge: bool,
        parent: [Option<Parent>; 2],
    ) -> Result<PhysAddr, MmError> {
        let p4d = self.p4d(va);
        let huge_mid = huge && self.mode.flattens_bottom();
        self.populate(w, p4d, Level::L3, huge_mid, parent[0])?;
        let pud = child(w, Level::L4, p4d, va);
        self.populate(w, pud, Level::L2, huge, parent[1])?;
        Ok(child(w, Level::L3, pud, va))
    }

    fn alloc_pte(&mut self, w: &mut World, va: u64) -> Result<PhysAddr, MmError> {
        let pmd = self.alloc_pmd(w, va, false, [None; 2])?;
        self.populate(w, pmd, Level::L1, false, None)?;
        Ok(child(w, Level::L2, pmd, va))
    }

    /// Maps one page of 4 KiB where nothing is mapped.
    pub fn map(&mut self, w: &mut World, va: u64, leaf: u64) -> Result<(), MmError> {
        self.total_vm += PAGE_SIZE;
        let slot = self.alloc_pte(w, va)?;
        assert_eq!(w.mem.read(slot), 0, "{va:#x} is mapped");
        w.mem.write(slot, leaf);
        Ok(())
    }

    /// Maps a leaf of 2 MiB (`level` 2) or 1 GiB (`level` 3) where nothing is mapped. `event`: a huge
    /// page like any other, or hugetlb's.
    pub fn map_huge(
        &mut self,
        w: &mut World,
        va: u64,
        level: Level,
        leaf: u64,
        event: Event,
    ) -> Result<(), MmError> {
        assert_eq!(va % level.span_bytes(), 0);
        self.total_vm += level.span_bytes();
        let slot = if level == Level::L3 {
            let p4d = self.p4d(va);
            self.populate(w, p4d, Level::L3, true, None)?;
            child(w, Level::L4, p4d, va)
        } else {
            self.alloc_pmd(w, va, true, [None; 2])?
        };
        assert_eq!(
            w.mem.read(slot),
            0,
            "a table outlived the last mapping below it"
        );
        self.set_leaf(w, slot, leaf, event);
        Ok(())
    }

    /// The entry of `level` for `va`, if all above it are tables.
    pub fn lookup(&self, w: &World, va: u64, level: Level) -> Option<PhysAddr> {
        let mut slot = self.p4d(va);
        let mut at = Level::L4;
        while at != level {
            let entry = Entry::new(w.mem.read(slot));
            let leaf = entry.as_u64() & entry::PSE != 0;
            if !entry.is_present() || leaf {
                return None;
            }
            slot = child(w, at, slot, va);
            at = down(at);
        }
        Some(slot)
    }

    /// Makes whatever node covers `va` conventional; answers whether there was one.
    pub fn demote_at(&mut self, w: &mut World, va: u64) -> bool {
        let mut done = false;
        for level in [Level::L3, Level::L2] {
            if let Some(slot) = self.lookup(w, va, level) {
                done |= self.event(w, slot, Event::Asked);
            }
        }
        done
    }

    /// Turns the small pages of the 2 MiB around `va` into one leaf (khugepaged). False if there is
    /// no table of them.
    pub fn collapse(&mut self, w: &mut World, va: u64, leaf: u64) -> bool {
        let Some(slot) = self.lookup(w, va, Level::L2) else {
            return false;
        };
        let entry = Entry::new(w.mem.read(slot));
        if !entry.is_present() || entry.as_u64() & entry::PSE != 0 {
            return false;
        }
        let table = self.collapse_flush(w, slot);
        for (i, _) in w.mem.words(table) {
            w.mem.write(table.offset(u64::from(i) * 8), 0);
        }
        self.set_leaf(w, slot, leaf, Event::Leaf);
        // pte_free_defer()
        w.mem.free_table(table, Level::L1);
        self.pgtables_bytes -= PAGE_SIZE as i64;
        true
    }

    /// Turns the leaf of 2 MiB at `va` into a table of `leaf(0..512)` that was made beforehand.
    pub fn split_huge(
        &mut self,
        w: &mut World,
        va: u64,
        leaf: &dyn Fn(u64) -> u64,
    ) -> Result<(), MmError> {
        let slot = self.lookup(w, va, Level::L2).expect("a leaf");
        if !w.allow(Request::Table) {
            return Err(MmError::NoMemory);
        }
        let table = w.mem.alloc_table(Level::L1);
        self.pgtables_bytes += PAGE_SIZE as i64;
        for i in 0..512 {
            w.mem.write(table.offset(i * 8), leaf(i));
        }
        w.flush();
        self.set_table(w, slot, table);
        Ok(())
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
        while a4 < end {
            let n4 = addr_end(a4, end, Level::L4);
            let p4d = self.p4d(a4);
            if Entry::new(w.mem.read(p4d)).is_present() {
                let mut a3 = a4;
                let mut pud = child(w, Level::L4, p4d, a4);
                while a3 < n4 && !w.mem.is_blank(pud) {
                    let n3 = addr_end(a3, n4, Level::L3);
                    let e3 = Entry::new(w.mem.read(pud));
                    if e3.is_present() && e3.as_u64() & entry::PSE != 0 {
                        f(w, Window::Huge { slot: pud });
                    } else if e3.is_present() {
                        let pmd = child(w, Level::L3, pud, a3);
                        pmd_windows(w, pmd, (a3, n3), &mut f);
                    }
                    pud = pud.offset(8);
                    a3 = n3;
                }
            }
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
        let mut batch = Batch::new();
        let mut a = start;
        while a < end {
            let n = addr_end(a, end, Level::L4);
            let p4d = self.p4d(a);
            self.free_range(w, (Level::L4, p4d), (a, n), (floor, ceiling), &mut batch);
            a = n;
        }
        self.retire(w, batch);
    }

    /// Frees what is below the entry of `level` at `slot`, for `start..end` within its window.
    fn free_range(
        &mut self,
        w: &mut World,
        (level, slot): (Level, PhysAddr),
        (start, end): (u64, u64),
        gap: (u64, u64),
        batch: &mut Batch,
    ) {
        let entry = Entry::new(w.mem.read(slot));
        if !entry.is_present() || (level != Level::L4 && entry.as_u64() & entry::PSE != 0) {
            return;
        }
        let lower = down(level);
        let first = child(w, level, slot, start);
        if lower != Level::L1 {
            let (mut a, mut at) = (start, first);
            while a < end && !w.mem.is_blank(first) {
                let n = addr_end(a, end, lower);
                self.free_range(w, (lower, at), (a, n), gap, batch);
                at = at.offset(8);
                a = n;
            }
        }
        let base = start & !(level.span_bytes() - 1);
        let whole = base >= gap.0 && base + level.span_bytes() <= gap.1;
        if whole && entry.as_u64() & entry::FLAT_SLICE == 0 {
            let table = PhysAddr::new(first.as_u64() & !(PAGE_SIZE - 1));
            self.free_below(w, slot, (table, lower), batch);
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

    /// What a child is told of the parent's entry.
    fn parent_of(&self, w: &World, entry: Entry) -> Parent {
        let node = w.nodes.get(&entry.addr()).filter(|_| entry.is_flat());
        Parent {
            choice: match node {
                Some(_) => Choice::Flat,
                None => Choice::Radix,
            },
            // One kind below the root in every mode.
            nodes: self.nodes(w) as u32,
            slices: node.map_or(0, |node| node.span.nr_used()),
        }
    }

    /// The child has what the parent has: nodes, where hardware uses them.
    fn copy_to(&self, w: &mut World, dst: &mut Mm) -> Result<(), MmError> {
        for a4 in (0..256u64).map(|i| i << 39) {
            let n4 = a4 + Level::L4.span_bytes();
            let (s4, d4) = (self.p4d(a4), dst.p4d(a4));
            let e4 = Entry::new(w.mem.read(s4));
            // A flattened root has all its level 4 entries; only those with contents count (the
            // kernel goes by VMAs).
            if !e4.is_present() || !self.any_window(w, a4, n4) {
                continue;
            }
            dst.populate(w, d4, Level::L3, false, Some(self.parent_of(w, e4)))?;
            let (s3, d3) = (child(w, Level::L4, s4, a4), child(w, Level::L4, d4, a4));
            for i in 0..512 {
                let start = a4 + (i << 30);
                self.copy_pud(w, dst, s3.offset(i * 8), d3.offset(i * 8), start)?;
            }
        }
        Ok(())
    }

    fn copy_pud(
        &self,
        w: &mut World,
        dst: &mut Mm,
        s3: PhysAddr,
        d3: PhysAddr,
        start: u64,
    ) -> Result<(), MmError> {
        let e3 = Entry::new(w.mem.read(s3));
        if !e3.is_present() {
            return Ok(());
        }
        if e3.as_u64() & entry::PSE != 0 {
            dst.set_leaf(w, d3, e3.as_u64(), Event::Leaf);
            return Ok(());
        }
        if !self.any_window(w, start, start + Level::L3.span_bytes()) {
            return Ok(());
        }
        dst.populate(w, d3, Level::L2, false, Some(self.parent_of(w, e3)))?;
        let (s2, d2) = (
            child(w, Level::L3, s3, start),
            child(w, Level::L3, d3, start),
        );
        let words = w.mem.words(s2);
        for (i, e2) in words {
            let d2 = d2.offset(u64::from(i) * 8);
            if e2 & entry::PSE != 0 {
                dst.set_leaf(w, d2, e2, Event::Leaf);
            } else {
                copy_ptes(w, dst, Entry::new(e2).addr(), d2)?;
            }
        }
        Ok(())
    }

    /// Moves the page at `from` to `to`, where nothing is mapped.
    pub fn move_page(&mut self, w: &mut World, from: u64, to: u64) -> Result<(), MmError> {
        let dst = self.alloc_pte(w, to)?;
        let mut moved = 0;
        self.for_each_leaf(w, from, from + 4096, |v| {
            moved = v;
            0
        });
        assert_eq!(w.mem.read(dst), 0);
        w.mem.write(dst, moved);
        Ok(())
    }

    /// Moves what is below the entry of `level` (2 or 3) for `from` by moving the entry: a leaf, a
    /// table or an index page alike. `Ok(false)`: nothing there, or the destination is populated;
    /// nothing changed.
    pub fn move_entry(
        &mut self,
        w: &mut World,
        from: u64,
        to: u64,
        level: Level,
    ) -> Result<bool, MmError> {
        let Some(src) = self.lookup(w, from, level) else {
            return Ok(false);
        };
        if !Entry::new(w.mem.read(src)).is_present() {
            return Ok(false);
        }
        let dst = if level == Level::L2 {
            self.alloc_pmd(w, to, true, [None; 2])?
        } else {
            let d4 = self.p4d(to);
            self.populate(w, d4, Level::L3, true, None)?;
            child(w, Level::L4, d4, to)
        };
        if w.mem.read(dst) != 0 {
            return Ok(false);
        }
        let entry = w.mem.read(src);
        if entry & entry::PSE != 0 {
            self.clear_leaf(w, src);
            w.flush();
            self.set_leaf(w, dst, entry, Event::Leaf);
        } else {
            let table = self.take_table(w, src);
            self.set_table(w, dst, table);
            w.flush();
        }
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
            let mm = &mut self;
            node::shed_root(&mut Ops { world: w, mm }, l4);
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
            let mm = &mut self;
            let node = node::detach_root(&mut Ops { world: w, mm }, l4);
            node::retire_node(w, node);
        } else {
            w.mem.write(self.l4.offset(511 * 8), 0);
            w.mem.free_table(self.l4, Level::L4);
        }
        assert_eq!((self.flat_nodes, self.wasted), (0, 0), "nodes left");
    }
}

/// A present level 4 entry for the kernel half; nothing in the tests follows it.
pub const KERNEL_PUD_TABLE: u64 = 0x63 | 0x10_0000;

/// The level below.
pub(crate) fn down(level: Level) -> Level {
    match level {
        Level::L4 => Level::L3,
        Level::L3 => Level::L2,
        _ => Level::L1,
    }
}

/// The pointer one level below `slot`, which is of `level`: `p?d_offset`.
pub fn child(w: &World, level: Level, slot: PhysAddr, va: u64) -> PhysAddr {
    let entry = Entry::new(w.mem.read(slot));
    let i = down(level).index(VirtAddr::new(va));
    let table = match level {
        Level::L4 | Level::L3 => match below(entry, i) {
            Below::Table(pa) => pa,
            Below::Slice(pa) => w.mem.index_page(pa).expect("a slice names its index page"),
        },
        Level::L2 | Level::L1 => entry.addr(),
    };
    table.offset(u64::from(i) * 8)
}

/// Those of a level 2 table, from the entry `pmd` for the first address on.
fn pmd_windows(
    w: &mut World,
    mut pmd: PhysAddr,
    (mut start, end): (u64, u64),
    f: &mut impl FnMut(&mut World, Window),
) {
    while start < end && !w.mem.is_blank(pmd) {
        let stop = addr_end(start, end, Level::L2);
        if Entry::new(w.mem.read(pmd)).is_present() {
            let slot = pmd;
            let end = stop;
            f(w, Window::Pmd { slot, start, end });
        }
        pmd = pmd.offset(8);
        start = stop;
    }
}

/// Copies the table of the parent at `from` to the child's entry `to`.
fn copy_ptes(w: &mut World, dst: &mut Mm, from: PhysAddr, to: PhysAddr) -> Result<(), MmError> {
    let words = w.mem.words(from);
    let present: Vec<_> = words
        .into_iter()
        .filter(|(_, v)| v & entry::PRESENT != 0)
        .collect();
    if present.is_empty() {
        return Ok(());
    }
    dst.populate(w, to, Level::L1, false, None)?;
    let table = Entry::new(w.mem.read(to)).addr();
    for (i, v) in present {
        w.mem.write(table.offset(u64::from(i) * 8), v);
    }
    Ok(())
}
