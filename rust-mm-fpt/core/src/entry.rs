// SPDX-License-Identifier: GPL-2.0

//! Page-table entries: bits, a typed view, construction and classification.
//!
//! Bit 52 is the hardware's (honoured in PML4E and PDPTE while CR4.FPTE is set);
//! bit 54 is software's and ignored by hardware in table entries.

use super::addr::{low_mask, PhysAddr, PAGE_SHIFT};
use super::geometry::{Level, NodeKind, NODE_SHIFT, ROOT_L4_OFFSET, ROOT_USER_SLICES};

/// Bit 0: present.
pub const PRESENT: u64 = 1 << 0;
/// Bit 1: writable.
pub const RW: u64 = 1 << 1;
/// Bit 2: user.
pub const USER: u64 = 1 << 2;
/// Bit 5: accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Bit 6: dirty.
pub const DIRTY: u64 = 1 << 6;
/// Bit 7: page size; makes a level 3 or level 2 entry a leaf, reserved in level 4.
pub const PSE: u64 = 1 << 7;
/// Bit 12 of a large leaf: PAT; not an address bit there.
pub const PSE_PAT: u64 = 1 << 12;
/// Bit 52: the node that the entry points at is flattened (hardware).
pub const FLAT: u64 = 1 << 52;
/// Bit 54: a level 4 entry that points at a slice of a root block (software).
pub const FLAT_SLICE: u64 = 1 << 54;
/// Bit 63: no execute.
pub const NX: u64 = 1 << 63;
/// Bits 51..12: the physical address.
pub const ADDR_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The bits that FPT adds to entries; what `p?d_bad()` has to ignore.
pub const FPT_BITS: u64 = FLAT | FLAT_SLICE;
/// The flags that Linux gives a user table entry (`_PAGE_TABLE`).
pub const TABLE_FLAGS: u64 = PRESENT | RW | USER | ACCESSED | DIRTY;

/// CR3 bit 52: the root is flattened.
pub const CR3_FLAT: u64 = 1 << 52;
/// CR4 bit 30: FPT enabled.
pub const CR4_FPTE: u64 = 1 << 30;

const _: () = assert!(FPT_BITS & (ADDR_MASK | NX | TABLE_FLAGS | PSE) == 0);

/// One page-table entry, of any level.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Entry(u64);

impl Entry {
    /// The empty entry.
    pub const NONE: Entry = Entry(0);

    /// Wraps a raw value.
    #[inline(always)]
    pub const fn new(value: u64) -> Self {
        Entry(value)
    }

    /// The raw value.
    #[inline(always)]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// An entry that points at the flattened node at `pa`.
    ///
    /// `flags` are the ordinary bits (usually [`TABLE_FLAGS`]); FLAT is added. `None` if `pa` is not a 2 MiB aligned address below 2^52, if `flags` lacks
    /// PRESENT or contains PSE, FPT or address bits, or if `kind` is the root, which no entry
    /// points at.
    #[inline]
    pub const fn node(pa: PhysAddr, kind: NodeKind, flags: u64) -> Option<Entry> {
        if matches!(kind, NodeKind::Root)
            || !pa.is_aligned(NODE_SHIFT)
            || !flags_ok(flags)
            || pa.as_u64() & !ADDR_MASK != 0
        {
            return None;
        }
        Some(Entry(pa.as_u64() | flags | FLAT))
    }

    /// An entry that points at the conventional table at `pa`; `None` as for [`Entry::node`],
    /// but 4 KiB alignment is enough.
    #[inline]
    pub const fn table(pa: PhysAddr, flags: u64) -> Option<Entry> {
        if !flags_ok(flags) || pa.as_u64() & !ADDR_MASK != 0 {
            return None;
        }
        Some(Entry(pa.as_u64() | flags))
    }

    /// The level 4 entry `index` (0..256) that makes software walk slice `index` of the root
    /// block at `block` as an ordinary level 3 table. `None` for an index of the kernel half
    /// or a misaligned block.
    #[inline]
    pub const fn root_slice(block: PhysAddr, index: u32, flags: u64) -> Option<Entry> {
        if index >= ROOT_USER_SLICES || !block.is_aligned(NODE_SHIFT) {
            return None;
        }
        match Entry::table(block.offset((index as u64) << PAGE_SHIFT), flags) {
            Some(e) => Some(Entry(e.0 | FLAT_SLICE)),
            None => None,
        }
    }

    /// Linux' `p?d_none`: zero but for the accessed and dirty bits, which an erratum of some
    /// processors sets in empty entries.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 & !(ACCESSED | DIRTY) == 0
    }

    /// Is the present bit set?
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// The physical address in the entry, bits 51..12.
    #[inline(always)]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr::new(self.0 & ADDR_MASK)
    }

    /// The entry's bits outside the address field.
    #[inline(always)]
    pub const fn flags(self) -> u64 {
        self.0 & !ADDR_MASK
    }

    /// Does a level 4 or level 3 entry point at a flattened node? Present, not a leaf, FLAT.
    ///
    /// A leaf may carry bit 52 for software, and so may an entry that is not present (a swap
    /// entry); neither is flat.
    #[inline(always)]
    pub const fn is_flat(self) -> bool {
        self.0 & (PRESENT | PSE | FLAT) == PRESENT | FLAT
    }

    /// The kind of the node that an entry of `level` points at; `None` where it is not flat.
    #[inline(always)]
    pub const fn node_kind(self, level: Level) -> Option<NodeKind> {
        match level {
            Level::L4 if self.is_flat() => Some(NodeKind::Mid),
            Level::L3 if self.is_flat() => Some(NodeKind::Bottom),
            _ => None,
        }
    }

    /// What an entry found at `level` is, for software. Reserved bits are not looked at; see
    /// [`super::walk::hw_walk`] for what hardware makes of it.
    #[inline]
    pub const fn classify(self, level: Level) -> Class {
        if !self.is_present() {
            return if self.is_none() {
                Class::None
            } else {
                Class::NotPresent
            };
        }
        let pse = self.0 & PSE != 0;
        match level {
            Level::L1 => Class::Leaf {
                pa: self.addr(),
                shift: 12,
            },
            Level::L2 if pse => Class::Leaf {
                pa: self.large_addr(21),
                shift: 21,
            },
            Level::L3 if pse => Class::Leaf {
                pa: self.large_addr(30),
                shift: 30,
            },
            Level::L4 if pse => Class::Bad,
            Level::L2 => Class::Table { pa: self.addr() },
            Level::L3 | Level::L4 => {
                if self.0 & FLAT == 0 {
                    return Class::Table { pa: self.addr() };
                }
                let kind = match level {
                    Level::L4 => NodeKind::Mid,
                    _ => NodeKind::Bottom,
                };
                if !self.addr().is_aligned(NODE_SHIFT) {
                    Class::Bad
                } else {
                    Class::Node {
                        pa: self.addr(),
                        kind,
                    }
                }
            }
        }
    }

    const fn large_addr(self, shift: u32) -> PhysAddr {
        PhysAddr::new(self.0 & ADDR_MASK & !low_mask(shift))
    }
}

const fn flags_ok(flags: u64) -> bool {
    flags & PRESENT != 0 && flags & (ADDR_MASK | PSE | FPT_BITS) == 0
}

/// What an entry is; see [`Entry::classify`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Empty.
    None,
    /// Not present but not empty: a swap or migration entry, or PROT_NONE.
    NotPresent,
    /// Maps `1 << shift` bytes at `pa`.
    Leaf {
        /// First physical address.
        pa: PhysAddr,
        /// log2 of the size: 12, 21 or 30.
        shift: u32,
    },
    /// Points at a conventional 4 KiB table.
    Table {
        /// Address of the table.
        pa: PhysAddr,
    },
    /// Points at a flattened node.
    Node {
        /// Address of the node, 2 MiB aligned.
        pa: PhysAddr,
        /// Its kind.
        kind: NodeKind,
    },
    /// Nothing that this kernel writes: PS in level 4, a misaligned node.
    Bad,
}

/// A value of CR3 for an address space whose root is flattened: `l4` is the physical address of
/// the L4 page, which lies in the second half of its root block; `low` are CR3 bits 11..0 (PCID)
/// and any of bits 63..61. `None` if `l4` is in the first half of a block (the processor
/// would raise #GP) or `low` has bits elsewhere.
#[inline]
pub const fn cr3_flat(l4: PhysAddr, low: u64) -> Option<u64> {
    if l4.as_u64() & ROOT_L4_OFFSET == 0
        || l4.as_u64() & !ADDR_MASK != 0
        || low & !(low_mask(12) | 0xe000_0000_0000_0000) != 0
    {
        return None;
    }
    Some(l4.as_u64() | CR3_FLAT | low)
}

/// The L4 page of the root block at `block`.
#[inline(always)]
pub const fn root_l4(block: PhysAddr) -> PhysAddr {
    block.offset(ROOT_L4_OFFSET)
}

/// The root block that the L4 page `l4` of a flattened root lies in.
#[inline(always)]
pub const fn root_block(l4: PhysAddr) -> PhysAddr {
    PhysAddr::new(l4.as_u64() & !low_mask(NODE_SHIFT))
}
