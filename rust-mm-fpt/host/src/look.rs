// SPDX-License-Identifier: GPL-2.0

//! Page tables of a running kernel, seen from outside: guest memory as a file, the core's walks over
//! it, and the same sum over an address space that the kernel's `mm/emt_check.c` makes.

use crate::diff::{render, render_entries};
use fpt_core::addr::{PhysAddr, VirtAddr, PAGE_SIZE};
use fpt_core::entry::{
    root_block, Class, Entry, ACCESSED, CR3_FLAT, DIRTY, FLAT_SLICE, PRESENT, PSE,
};
use fpt_core::geometry::{Level, NodeKind, NODE_SHIFT, ROOT_USER_SLICES, SLICES};
use fpt_core::span::{is_own, Span, State};
use fpt_core::walk::{hw_walk, sw_walk, Cfg, HwWalk, IndexPages, Outcome, PhysMem, SwOutcome};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: u64 = PAGE_SIZE;
const WORDS: usize = 512;
type Page = Box<[u64; WORDS]>;

/// Memory in a file, physical address 0 at its beginning. A page is read once: whoever writes to
/// the file has to stand still meanwhile.
pub struct FileMem {
    file: File,
    size: u64,
    pages: RefCell<HashMap<u64, Page>>,
    failed: RefCell<Option<io::Error>>,
}

impl FileMem {
    /// All of `file`.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(FileMem {
            size: file.metadata()?.len(),
            file,
            pages: RefCell::default(),
            failed: RefCell::default(),
        })
    }

    /// The first error of reading, if there was one: what was looked up since is worth nothing.
    pub fn error(&self) -> Option<io::Error> {
        self.failed.borrow_mut().take()
    }

    fn page(&self, page: u64) -> io::Result<Page> {
        let mut raw = [0; PAGE as usize];
        self.file.read_exact_at(&mut raw, page * PAGE)?;
        let mut out = Box::new([0; WORDS]);
        for (word, bytes) in out.iter_mut().zip(raw.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        }
        Ok(out)
    }
}

impl PhysMem for FileMem {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        let pa = pa.as_u64();
        if pa >= self.size || pa % 8 != 0 {
            return None;
        }
        let (page, word) = (pa / PAGE, (pa % PAGE / 8) as usize);
        if let Some(have) = self.pages.borrow().get(&page) {
            return have.get(word).copied();
        }
        match self.page(page) {
            Ok(read) => {
                let value = read.get(word).copied();
                self.pages.borrow_mut().insert(page, read);
                value
            }
            Err(e) => {
                self.failed.borrow_mut().get_or_insert(e);
                None
            }
        }
    }
}

/// Where the kernel has its `struct page`s: what debugfs `fpt/layout` says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Virtual address of the first.
    pub vmemmap: u64,
    /// Size of one.
    pub page: u64,
    /// Offset of word 1 in it.
    pub word1: u64,
}

impl Layout {
    /// Checks numbers that came from outside.
    pub fn new(vmemmap: u64, page: u64, word1: u64) -> Result<Layout, String> {
        if VirtAddr::new(vmemmap).is_user_half() || vmemmap % 8 != 0 {
            return Err(format!("{vmemmap:#x} is no address of the kernel's"));
        }
        if !(16..=4096).contains(&page) || page % 8 != 0 {
            return Err(format!("{page} is no size of a struct page"));
        }
        if word1 % 8 != 0 || word1 >= page {
            return Err(format!("word 1 at {word1} of {page} bytes"));
        }
        Ok(Layout {
            vmemmap,
            page,
            word1,
        })
    }
}

/// What a traversal of all tables has to know of memory.
pub trait Nodes: PhysMem + IndexPages {
    /// The block of the node whose index page is the table at `table`.
    fn node_of(&self, table: PhysAddr) -> Option<PhysAddr>;
}

/// A stopped guest: its memory, and one address space for the kernel's half.
pub struct Guest {
    /// Its memory.
    pub mem: FileMem,
    /// CR3.
    pub cr3: u64,
    /// The rest of what walks depend on.
    pub cfg: Cfg,
    /// Of a kernel that says so; without it no index page is found.
    pub layout: Option<Layout>,
}

impl Guest {
    fn translate(&self, va: u64) -> Option<PhysAddr> {
        let va = VirtAddr::new(va);
        if va.is_user_half() {
            return None;
        }
        hw_walk(&self.mem, self.cr3, va, &self.cfg).translate(va)
    }

    fn word_at(&self, va: u64) -> Option<u64> {
        self.mem.load(self.translate(va)?)
    }

    /// Word 1 of the `struct page` of the page at `pa`: a pointer, if the page is what one hopes.
    fn word1(&self, pa: PhysAddr) -> Option<u64> {
        let layout = self.layout?;
        let pfn = pa.as_u64() / PAGE;
        let at = pfn.checked_mul(layout.page)?.checked_add(layout.word1)?;
        self.word_at(layout.vmemmap.checked_add(at)?)
    }
}

impl PhysMem for Guest {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        self.mem.load(pa)
    }
}

impl IndexPages for Guest {
    fn index_page(&self, slice: PhysAddr) -> Option<PhysAddr> {
        let index = self.translate(self.word1(slice)?)?;
        index.is_aligned(12).then_some(index)
    }
}

impl Nodes for Guest {
    /// By word 1 of the table, which is the kernel's `struct fpt_node` if it is an index page: a
    /// [`Span`], and the addresses of block and index page. Of another table word 1 may be anything,
    /// also what it was once: hence the checks.
    fn node_of(&self, table: PhysAddr) -> Option<PhysAddr> {
        let node = self.word1(table)?;
        let span = std::mem::size_of::<Span>() as u64;
        let field = |at: u64| self.word_at(node.checked_add(at)?);
        let state = field(0)? as u8;
        let block = PhysAddr::new(field(span)?);
        let living = state == State::Flat as u8 || state == State::Attached as u8;
        let fits = living && block.is_aligned(NODE_SHIFT) && field(span + 8)? == table.as_u64();
        let named = |i: u64| self.index_page(block.offset(i * PAGE)) == Some(table);
        (fits && (0..u64::from(SLICES)).all(named)).then_some(block)
    }
}

/// The lines that QEMU's monitor prints for `info walk`; here refusals say why.
pub fn hardware_text(walk: &HwWalk) -> String {
    match walk.outcome {
        Outcome::BadCr3 => render_entries(walk) + "error bad cr3\n",
        Outcome::NoMemory { pa } => {
            render_entries(walk) + &format!("error no memory at {:#x}\n", pa.as_u64())
        }
        _ => render(walk),
    }
}

/// One line for the kernel's walk: where it ends, and the entry there.
pub fn software_text<M: PhysMem>(mem: &M, outcome: SwOutcome) -> String {
    match outcome {
        SwOutcome::Leaf { slot, entry, shift } => format!(
            "software leaf slot 0x{:016x} value 0x{:016x} shift {shift}\n",
            slot.as_u64(),
            entry.as_u64()
        ),
        SwOutcome::Absent { level, slot } => format!(
            "software absent slot 0x{:016x} value 0x{:016x} level {}\n",
            slot.as_u64(),
            mem.load(slot).unwrap_or(0),
            level.number()
        ),
        SwOutcome::Bad { level } => format!("software bad level {}\n", level.number()),
    }
}

/// Both walks of one address, as text.
pub fn walk_text<M: PhysMem + IndexPages>(mem: &M, cr3: u64, va: u64, cfg: &Cfg) -> String {
    let va = VirtAddr::new(va);
    let software = sw_walk(mem, Entry::new(cr3).addr(), va);
    hardware_text(&hw_walk(mem, cr3, va, cfg)) + &software_text(mem, software)
}

// Linux' software bits on x86-64.
const PROTNONE: u64 = 1 << 8;
const SAVED_DIRTY: u64 = 1 << 58;

/// What a walker of the kernel saw in an address space: `struct emt_seen`.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    /// PTEs in use.
    pub ptes: u64,
    /// Level 2 entries that are no tables.
    pub pmds: u64,
    /// Huge pages in level 3.
    pub puds: u64,
    /// Over addresses and entries, in order; what hardware may change is left out.
    pub hash: u64,
}

impl Seen {
    fn mix(&mut self, addr: u64, value: u64) {
        const GOLDEN_RATIO_64: u64 = 0x61c8_8646_80b5_83eb;
        self.hash = (self.hash ^ addr).wrapping_mul(GOLDEN_RATIO_64);
        self.hash = (self.hash ^ value).wrapping_mul(GOLDEN_RATIO_64);
    }

    fn old_and_clean(value: u64) -> u64 {
        value & !(ACCESSED | DIRTY | SAVED_DIRTY)
    }

    fn pte(&mut self, addr: u64, entry: Entry) {
        if entry.is_none() {
            return;
        }
        let value = match entry.as_u64() {
            v if v & (PRESENT | PROTNONE) != 0 => Self::old_and_clean(v),
            v => v,
        };
        self.ptes += 1;
        self.mix(addr, value);
    }

    fn pmd(&mut self, addr: u64, entry: Entry) {
        let value = match entry.as_u64() {
            v if v & (PRESENT | PROTNONE | PSE) != 0 => Self::old_and_clean(v),
            v => v,
        };
        self.pmds += 1;
        self.mix(addr, value);
    }

    /// Adds the mapping `start..end` of the address space below the L4 page `l4`. `Err` is the
    /// address at which no kernel could have such an entry.
    pub fn add<M: PhysMem + IndexPages>(
        &mut self,
        mem: &M,
        l4: PhysAddr,
        start: u64,
        end: u64,
    ) -> Result<(), u64> {
        let mut addr = start;
        while addr < end {
            let level = match sw_walk(mem, l4, VirtAddr::new(addr)) {
                SwOutcome::Leaf {
                    slot, shift: 12, ..
                }
                | SwOutcome::Absent {
                    level: Level::L1,
                    slot,
                } => {
                    // The PTEs of a 2 MiB window are neighbours in every shape.
                    let stop = end.min(next(addr, Level::L2));
                    let mut at = slot;
                    while addr < stop {
                        self.pte(addr, Entry::new(mem.load(at).ok_or(addr)?));
                        (addr, at) = (addr + PAGE, at.offset(8));
                    }
                    continue;
                }
                SwOutcome::Leaf {
                    entry, shift: 21, ..
                } => {
                    self.pmd(addr, entry);
                    Level::L2
                }
                SwOutcome::Leaf { entry, .. } => {
                    self.puds += 1;
                    self.mix(addr, Self::old_and_clean(entry.as_u64()));
                    Level::L3
                }
                SwOutcome::Absent { level, slot } => {
                    let entry = Entry::new(mem.load(slot).ok_or(addr)?);
                    match level {
                        _ if entry.is_none() => {}
                        Level::L2 => self.pmd(addr, entry),
                        _ => return Err(addr),
                    }
                    level
                }
                SwOutcome::Bad { .. } => return Err(addr),
            };
            addr = next(addr, level);
        }
        Ok(())
    }
}

/// First address above what the entry of `level` for `addr` covers.
fn next(addr: u64, level: Level) -> u64 {
    let span = level.span_bytes();
    (addr | (span - 1)).saturating_add(1)
}

/// The tables of an address space by kind; only the user half is looked at.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Shape {
    /// 1 if CR3 says that the root is flattened.
    pub root: u64,
    /// L3+L2 nodes, flat or not.
    pub mid: u64,
    /// L2+L1 nodes, flat or not.
    pub bottom: u64,
    /// Conventional tables and index pages below the root; slices of nodes left out.
    pub tables: u64,
}

impl Shape {
    /// Of the tree below `cr3`. `Err` says which entry is bad, or which node has an index page that
    /// does not say what its slices hold.
    pub fn of<M: Nodes>(mem: &M, cr3: u64) -> Result<Shape, String> {
        let l4 = Entry::new(cr3).addr();
        let mut shape = Shape {
            root: u64::from(cr3 & CR3_FLAT != 0),
            ..Shape::default()
        };
        for index in 0..ROOT_USER_SLICES {
            let slot = l4.offset(u64::from(index) << 3);
            let entry = Entry::new(mem.load(slot).ok_or("the root is outside memory")?);
            let slice = root_block(l4).offset(u64::from(index) * PAGE);
            if shape.root == 1 && entry.is_present() && entry.addr() != slice {
                return Err(format!(
                    "entry {index} of the root is {:#x}: not its slice at {:#x}",
                    entry.as_u64(),
                    slice.as_u64()
                ));
            }
            shape.below(mem, entry, Level::L4, None)?;
        }
        Ok(shape)
    }

    /// What is below `entry`, which points at `own`'s slice if that is what its table brings.
    fn below<M: Nodes>(
        &mut self,
        mem: &M,
        entry: Entry,
        level: Level,
        own: Option<PhysAddr>,
    ) -> Result<(), String> {
        let kind = match level {
            Level::L4 => NodeKind::Mid,
            _ => NodeKind::Bottom,
        };
        let (table, node) = match entry.classify(level) {
            Class::Bad => return Err(format!("{:#x} in level {}", entry.as_u64(), level.number())),
            Class::Node { pa, .. } => {
                let table = index_of(mem, pa)?;
                agrees(mem, pa, table)?;
                (table, Some(pa))
            }
            Class::Table { pa } if matches!(level, Level::L4 | Level::L3) => (pa, mem.node_of(pa)),
            Class::Table { pa } => (pa, None),
            _ => return Ok(()),
        };
        match (node, kind) {
            (None, _) => {}
            (Some(_), NodeKind::Mid) => self.mid += 1,
            (Some(_), _) => self.bottom += 1,
        }
        // Those of a flattened root and of a node were not allocated one by one.
        let slice = entry.as_u64() & FLAT_SLICE != 0 || own == Some(table);
        self.tables += u64::from(!slice);
        let down = match level {
            Level::L4 => Level::L3,
            Level::L3 => Level::L2,
            _ => return Ok(()),
        };
        for i in 0..u64::from(SLICES) {
            let entry = mem.load(table.offset(i << 3)).ok_or_else(|| {
                let (level, at) = (down.number(), table.as_u64());
                format!("a table of level {level} at {at:#x}, outside memory")
            })?;
            let own = node.map(|block| block.offset(i * PAGE));
            self.below(mem, Entry::new(entry), down, own)?;
        }
        Ok(())
    }
}

/// The index page that all slices of the node at `block` name.
fn index_of<M: IndexPages>(mem: &M, block: PhysAddr) -> Result<PhysAddr, String> {
    let mut all = (0..u64::from(SLICES)).map(|i| mem.index_page(block.offset(i * PAGE)));
    let at = block.as_u64();
    match all.next().flatten() {
        None => Err(format!("the node at {at:#x} has no index page")),
        Some(index) if all.all(|other| other == Some(index)) => Ok(index),
        Some(_) => Err(format!("the slices of {at:#x} name different index pages")),
    }
}

/// Each entry of the index page at `index` points at the slice of the node at `block` that hardware
/// goes to, or is none beside a slice that is zero.
fn agrees<M: PhysMem>(mem: &M, block: PhysAddr, index: PhysAddr) -> Result<(), String> {
    let load = |pa: PhysAddr| {
        mem.load(pa)
            .ok_or_else(|| format!("{:#x} is outside memory", pa.as_u64()))
    };
    for i in 0..SLICES {
        let entry = Entry::new(load(index.offset(u64::from(i) << 3))?);
        let slice = block.offset(u64::from(i) * PAGE);
        let what = || {
            let (index, value, block) = (index.as_u64(), entry.as_u64(), block.as_u64());
            format!("entry {i} of index page {index:#x} is {value:#x} and the node at {block:#x}")
        };
        if is_own(block, i, entry) {
            if entry.as_u64() & ACCESSED == 0 {
                return Err(format!("{}: not accessed", what()));
            }
        } else if entry.as_u64() != 0 {
            return Err(format!("{}: not its slice", what()));
        } else {
            for word in 0..WORDS as u64 {
                if load(slice.offset(word << 3))? != 0 {
                    return Err(format!("{}: the slice is in use", what()));
                }
            }
        }
    }
    Ok(())
}
