// SPDX-License-Identifier: GPL-2.0

//! Two walks of one tree: the processor's, and the one that the kernel's C code makes.
//!
//! [`hw_walk`] is the architecture: which entries the processor visits for an address and what
//! comes of it. [`below`] is the decision of the kernel's accessors, and [`sw_walk`] strings four of
//! them together. For every tree that this kernel builds both end at the same page.

use super::addr::{low_mask, PhysAddr, VirtAddr, PAGE_SHIFT};
use super::entry::{
    root_block, Entry, ADDR_MASK, CR3_FLAT, FLAT, NX, PRESENT, PSE, PSE_PAT, RW, USER,
};
use super::geometry::{node_index, Level, NodeKind, NODE_BITS, NODE_SHIFT, TABLE_BITS};

/// Physical memory, as a walk sees it.
pub trait PhysMem {
    /// The 8 bytes at `pa` (a multiple of 8), little endian; `None` if nothing is there.
    fn load(&self, pa: PhysAddr) -> Option<u64>;
}

/// What the processor has and has switched on, as far as walks depend on it. 4-level long mode.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Cfg {
    /// CR4.FPTE.
    pub fpte: bool,
    /// EFER.NXE; without it bit 63 is reserved.
    pub nxe: bool,
    /// Physical address width; address bits from here to 51 are reserved.
    pub phys_bits: u32,
}

/// Error-code bit 0: the fault is not for want of a present entry.
pub const PF_P: u32 = 1 << 0;
/// Error-code bit 3: a reserved bit was set in a visited entry.
pub const PF_RSVD: u32 = 1 << 3;

/// One visited entry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Level of the entry.
    pub level: Level,
    /// Where the entry is.
    pub pa: PhysAddr,
    /// Its value.
    pub value: Entry,
    /// Width of the index that selected it: 9, or 18 in a flattened node (in a flattened root
    /// too, although bit 47 is zero there).
    pub bits: u32,
}

/// Effective rights: what every *visited* entry grants. A merged-away level takes nothing away.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Perm {
    /// R/W in all.
    pub write: bool,
    /// NX in none.
    pub exec: bool,
    /// U/S in all.
    pub user: bool,
}

/// How a walk ends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A translation.
    Page {
        /// First physical address of the page.
        base: PhysAddr,
        /// log2 of its size: 12, 21 or 30.
        shift: u32,
        /// Effective rights.
        perm: Perm,
    },
    /// A page fault; the last step is the offending entry. Only [`PF_P`] and [`PF_RSVD`].
    Fault {
        /// 0 for an absent entry, `PF_P | PF_RSVD` for a reserved bit.
        error_code: u32,
    },
    /// No walk: the address is not canonical.
    NonCanonical,
    /// No walk: CR3 has a value that the processor refuses in this configuration.
    BadCr3,
    /// An entry's address is outside memory (its step is missing).
    NoMemory {
        /// Where the entry should have been.
        pa: PhysAddr,
    },
}

/// A walk: up to four visited entries, and the outcome.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HwWalk {
    steps: [Option<Step>; 4],
    len: u32,
    /// How it ended.
    pub outcome: Outcome,
}

impl HwWalk {
    const fn new() -> Self {
        HwWalk {
            steps: [None; 4],
            len: 0,
            outcome: Outcome::NonCanonical,
        }
    }

    fn push(&mut self, step: Step) {
        if let Some(slot) = self.steps.get_mut(self.len as usize) {
            *slot = Some(step);
            self.len = self.len.wrapping_add(1);
        }
    }

    fn end(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The visited entries, in order.
    #[inline]
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flatten()
    }

    /// Number of visited entries.
    #[inline]
    pub fn visited(&self) -> u32 {
        self.len
    }

    /// The physical address of `va`, if the walk found a page.
    #[inline]
    pub fn translate(&self, va: VirtAddr) -> Option<PhysAddr> {
        match self.outcome {
            Outcome::Page { base, shift, .. } => Some(PhysAddr::new(
                base.as_u64() | (va.as_u64() & low_mask(shift)),
            )),
            _ => None,
        }
    }
}

/// May CR3 hold `cr3` in this configuration? Bit 52 needs FPTE and an L4 page in the second
/// half of its block; address bits beyond the physical width are reserved.
#[inline]
pub const fn cr3_is_valid(cr3: u64, cfg: &Cfg) -> bool {
    if cr3 & ADDR_MASK & !low_mask(cfg.phys_bits) != 0 {
        return false;
    }
    cr3 & CR3_FLAT == 0 || (cfg.fpte && cr3 & (1 << 20) != 0)
}

/// The processor's walk of `va` from CR3 = `cr3`. No side effects: accessed and dirty bits stay.
pub fn hw_walk<M: PhysMem + ?Sized>(mem: &M, cr3: u64, va: VirtAddr, cfg: &Cfg) -> HwWalk {
    let mut walk = HwWalk::new();
    if !cr3_is_valid(cr3, cfg) {
        return walk.end(Outcome::BadCr3);
    }
    if !va.is_canonical() {
        return walk;
    }
    let mut rsvd = ADDR_MASK & !low_mask(cfg.phys_bits);
    if !cfg.nxe {
        rsvd |= NX;
    }

    let l4 = Entry::new(cr3).addr();
    let mut perm = Perm {
        write: true,
        exec: true,
        user: true,
    };
    let (mut level, mut table, mut bits) = if cr3 & CR3_FLAT != 0 && va.is_user_half() {
        (Level::L3, root_block(l4), NODE_BITS)
    } else {
        (Level::L4, l4, TABLE_BITS)
    };

    // Each round goes down at least one level, so four rounds are enough.
    for _ in 0..4 {
        let index = match (bits, level) {
            (NODE_BITS, Level::L3) => node_index(NodeKind::Root, va),
            (NODE_BITS, Level::L2) => node_index(NodeKind::Mid, va),
            (NODE_BITS, _) => node_index(NodeKind::Bottom, va),
            _ => level.index(va),
        };
        let pa = table.offset((index as u64) << 3);
        let value = match mem.load(pa) {
            Some(v) => Entry::new(v),
            None => return walk.end(Outcome::NoMemory { pa }),
        };
        walk.push(Step {
            level,
            pa,
            value,
            bits,
        });
        let raw = value.as_u64();
        if raw & PRESENT == 0 {
            return walk.end(Outcome::Fault { error_code: 0 });
        }
        let large = raw & PSE != 0 && matches!(level, Level::L3 | Level::L2);
        let leaf = large || matches!(level, Level::L1);
        let flat = cfg.fpte && raw & FLAT != 0 && !leaf && matches!(level, Level::L4 | Level::L3);
        let mut bad = raw & rsvd;
        if matches!(level, Level::L4) {
            bad |= raw & PSE;
        }
        if flat {
            bad |= raw & ADDR_MASK & low_mask(NODE_SHIFT);
        }
        if large {
            bad |= raw & ADDR_MASK & low_mask(level.shift()) & !PSE_PAT;
        }
        if bad != 0 {
            return walk.end(Outcome::Fault {
                error_code: PF_P | PF_RSVD,
            });
        }
        perm.write &= raw & RW != 0;
        perm.exec &= raw & NX == 0;
        perm.user &= raw & USER != 0;
        if leaf {
            let shift = level.shift();
            let base = PhysAddr::new(raw & ADDR_MASK & !low_mask(shift));
            return walk.end(Outcome::Page { base, shift, perm });
        }
        table = value.addr();
        (level, bits) = match (level, flat) {
            (Level::L4, false) => (Level::L3, TABLE_BITS),
            (Level::L4, true) => (Level::L2, NODE_BITS),
            (Level::L3, false) => (Level::L2, TABLE_BITS),
            (Level::L3, true) => (Level::L1, NODE_BITS),
            _ => (Level::L1, TABLE_BITS),
        };
    }
    walk
}

/// Where software goes from an entry above the last level: what `p?d_offset()` has to know.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Below {
    /// A conventional table.
    Table(PhysAddr),
    /// The slice that the index selects. Software does not walk it: its `struct page` names the
    /// index page, whose entry of the same index points at the slice, or is none.
    Slice(PhysAddr),
}

impl Below {
    /// In one word: the address, with bit 0 set for a slice.
    #[inline(always)]
    pub const fn into_raw(self) -> u64 {
        match self {
            Below::Table(pa) => pa.as_u64(),
            Below::Slice(pa) => pa.as_u64() | 1,
        }
    }
}

/// The pure part of `pud_offset()` and `pmd_offset()`: what is below `entry`, of level 4 or 3, for
/// index `i` (0..512) of the table there. The entry is one that points at a table.
#[inline(always)]
pub const fn below(entry: Entry, i: u32) -> Below {
    if entry.as_u64() & FLAT != 0 {
        Below::Slice(slice_below(entry, i))
    } else {
        Below::Table(entry.addr())
    }
}

/// Slice `i` (0..512) of the node below a FLAT entry.
#[inline(always)]
pub const fn slice_below(entry: Entry, i: u32) -> PhysAddr {
    entry.addr().offset((i as u64) << PAGE_SHIFT)
}

/// What only memory knows: which index page a slice belongs to.
pub trait IndexPages {
    /// The index page that the `struct page` of the slice at `slice` names; `None` if it names none.
    fn index_page(&self, slice: PhysAddr) -> Option<PhysAddr>;
}

/// How the kernel's walk ends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum SwOutcome {
    /// A leaf; the entry is at `slot`.
    Leaf {
        /// Where the leaf entry is.
        slot: PhysAddr,
        /// The leaf entry.
        entry: Entry,
        /// log2 of the size: 12, 21 or 30.
        shift: u32,
    },
    /// The entry of `level` at `slot` is not present.
    Absent {
        /// Level that ended the walk.
        level: Level,
        /// Where the entry is.
        slot: PhysAddr,
    },
    /// An entry is outside memory, or bad.
    Bad {
        /// Level of the entry.
        level: Level,
    },
}

/// The kernel's walk of `va` from the L4 page `l4` (`mm->pgd`): four ordinary levels, with an index
/// page below each FLAT entry. Knows nothing of CR3 or modes.
pub fn sw_walk<M: PhysMem + IndexPages + ?Sized>(mem: &M, l4: PhysAddr, va: VirtAddr) -> SwOutcome {
    let mut table = l4;
    for level in [Level::L4, Level::L3, Level::L2] {
        let slot = table.offset((level.index(va) as u64) << 3);
        let entry = match mem.load(slot) {
            Some(v) => Entry::new(v),
            None => return SwOutcome::Bad { level },
        };
        if !entry.is_present() {
            return SwOutcome::Absent { level, slot };
        }
        if entry.as_u64() & PSE != 0 {
            return match level {
                Level::L3 | Level::L2 => SwOutcome::Leaf {
                    slot,
                    entry,
                    shift: level.shift(),
                },
                Level::L4 | Level::L1 => SwOutcome::Bad { level },
            };
        }
        let i = match level {
            Level::L4 => Level::L3.index(va),
            Level::L3 => Level::L2.index(va),
            // No slice is below level 2.
            Level::L2 | Level::L1 => {
                table = entry.addr();
                continue;
            }
        };
        table = match below(entry, i) {
            Below::Table(pa) => pa,
            Below::Slice(pa) => match mem.index_page(pa) {
                Some(index) => index,
                None => return SwOutcome::Bad { level },
            },
        };
    }
    let slot = table.offset((Level::L1.index(va) as u64) << 3);
    match mem.load(slot) {
        None => SwOutcome::Bad { level: Level::L1 },
        Some(v) if !Entry::new(v).is_present() => SwOutcome::Absent {
            level: Level::L1,
            slot,
        },
        Some(v) => SwOutcome::Leaf {
            slot,
            entry: Entry::new(v),
            shift: 12,
        },
    }
}
