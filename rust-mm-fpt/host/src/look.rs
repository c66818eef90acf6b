// SPDX-License-Identifier: GPL-2.0

//! Page tables of a running kernel, seen from outside: guest memory as a file, the core's walks over
//! it, and the same sum over an address space that the kernel's `mm/emt_check.c` makes.

use crate::diff::{render, render_entries};
use fpt_core::addr::{PhysAddr, VirtAddr, PAGE_SIZE};
use fpt_core::entry::{root_block, Class, Entry, ACCESSED, CR3_FLAT, DIRTY, PRESENT, PSE};
use fpt_core::geometry::{Level, NODE_ENTRIES, ROOT_USER_SLICES};
use fpt_core::walk::{hw_walk, sw_walk, Cfg, HwWalk, Outcome, PhysMem, SwOutcome};
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
pub fn walk_text<M: PhysMem>(mem: &M, cr3: u64, va: u64, cfg: &Cfg) -> String {
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
    pub fn add<M: PhysMem>(
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
    /// L3+L2 nodes.
    pub mid: u64,
    /// L2+L1 nodes.
    pub bottom: u64,
    /// Conventional tables below the root, slices of a flattened root left out.
    pub tables: u64,
}

impl Shape {
    /// Of the tree below `cr3`. `Err` says which entry is bad.
    pub fn of<M: PhysMem>(mem: &M, cr3: u64) -> Result<Shape, String> {
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
            shape.below(mem, entry, Level::L4)?;
        }
        if shape.root == 1 {
            // All of them are there from the beginning, and none was allocated.
            shape.tables = shape.tables.saturating_sub(u64::from(ROOT_USER_SLICES));
        }
        Ok(shape)
    }

    fn below<M: PhysMem>(&mut self, mem: &M, entry: Entry, level: Level) -> Result<(), String> {
        let (pa, entries, down) = match (entry.classify(level), level) {
            (Class::Bad, _) => {
                return Err(format!("{:#x} in level {}", entry.as_u64(), level.number()))
            }
            (Class::Node { pa, .. }, Level::L4) => {
                self.mid += 1;
                (pa, NODE_ENTRIES, Level::L2)
            }
            (Class::Node { .. }, _) => {
                self.bottom += 1;
                return Ok(());
            }
            (Class::Table { pa }, _) => {
                self.tables += 1;
                match level {
                    Level::L4 => (pa, WORDS as u32, Level::L3),
                    Level::L3 => (pa, WORDS as u32, Level::L2),
                    _ => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        for index in 0..entries {
            let slot = pa.offset(u64::from(index) << 3);
            let entry = mem.load(slot).ok_or_else(|| {
                format!(
                    "a table of level {} at {:#x}, outside memory",
                    down.number(),
                    pa.as_u64()
                )
            })?;
            self.below(mem, Entry::new(entry), down)?;
        }
        Ok(())
    }
}
