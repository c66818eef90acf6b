// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shape of page tables as a table of numbers, and how an entry is read.
//!
//! Levels are counted as the architecture does: 4 PML4E, 3 PDPTE, 2 PDE, 1 PTE. The tests use a
//! smaller tree of the same kind, which is why the numbers are data.

/// Bit 0: present.
pub const P: u64 = 1 << 0;
/// Bit 1: writable.
pub const RW: u64 = 1 << 1;
/// Bit 2: user.
pub const US: u64 = 1 << 2;
/// Bit 3: write-through, a part of the memory type.
pub const PWT: u64 = 1 << 3;
/// Bit 4: cache disable, a part of the memory type.
pub const PCD: u64 = 1 << 4;
/// Bit 5: accessed.
pub const A: u64 = 1 << 5;
/// Bit 6: dirty.
pub const D: u64 = 1 << 6;
/// Bit 7: a leaf above level 1; in level 1 the third bit of the memory type.
pub const PS: u64 = 1 << 7;
/// Bit 8: global.
pub const G: u64 = 1 << 8;
/// Bit 12 of a large leaf: the third bit of the memory type.
pub const LARGE_PAT: u64 = 1 << 12;
/// Bit 52: the node that the entry, or CR3, points at is flattened.
pub const FLAT: u64 = 1 << 52;
/// Bit 63: no execution.
pub const XD: u64 = 1 << 63;
/// Bits 51..12: the physical address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const KEY_SHIFT: u32 = 59;

/// Number of a physical page of 4 KiB.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame that holds a physical address.
    pub const fn of(pa: u64) -> Frame {
        Frame(pa >> 12)
    }

    /// Its first byte.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }

    /// The n-th frame behind it.
    pub const fn plus(self, n: u64) -> Frame {
        Frame(self.0.wrapping_add(n))
    }
}

/// Level of an entry, 1 the lowest.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Level(pub u8);

/// What a translation allows.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Rights(u8);

impl Rights {
    /// Writes. Of a cached leaf: writes without another walk, so D was set as well.
    pub const WRITE: Rights = Rights(1);
    /// Accesses of user mode.
    pub const USER: Rights = Rights(2);
    /// Execution.
    pub const EXEC: Rights = Rights(4);
    /// Everything.
    pub const ALL: Rights = Rights(7);

    /// What one entry grants.
    pub const fn of(value: u64) -> Rights {
        let mut bits = 0;
        if value & RW != 0 {
            bits |= Rights::WRITE.0;
        }
        if value & US != 0 {
            bits |= Rights::USER.0;
        }
        if value & XD == 0 {
            bits |= Rights::EXEC.0;
        }
        Rights(bits)
    }

    /// What both grant.
    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// What is left without `other`.
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// Is everything that `other` grants granted?
    pub const fn has(self, other: Rights) -> bool {
        other.0 & !self.0 == 0
    }
}

/// A page as a TLB holds it (rule C5).
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Leaf {
    /// First frame.
    pub frame: Frame,
    /// Level of the entry, so the page's size.
    pub level: Level,
    /// The rights of the whole path.
    pub rights: Rights,
    /// Survives a write to CR3.
    pub global: bool,
    /// Index into the PAT.
    pub memory_type: u8,
    /// Protection key; 0 for supervisor pages.
    pub key: u8,
}

/// Where an entry leads to: a paging-structure cache holds this.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pointer {
    /// First frame of the table or node.
    pub frame: Frame,
    /// Frames: 1, or those of a flattened node.
    pub frames: u64,
    /// Level of the entries in it.
    pub level: Level,
    /// The rights of the path so far.
    pub rights: Rights,
}

/// An entry, as the processor reads it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Not present, or a reserved bit is set: nothing is cached (rule C1).
    Nothing,
    /// A page.
    Leaf(Leaf),
    /// A table or a flattened node.
    Table(Pointer),
}

/// What a CR3 value selects; two values with the same tables are one root.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Root {
    /// The page that CR3 points at.
    pub frame: Frame,
    /// CR3.FLAT.
    pub flat: bool,
}

/// A table page in a tree: where it is, and which addresses it is for.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Level of its entries.
    pub level: Level,
    /// First address.
    pub va: u64,
    /// First entry that hardware reads (not 0 in the page of a flattened root's kernel half).
    pub first: u16,
}

/// The numbers of a page-table format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Levels of a conventional tree.
    pub levels: u8,
    /// Bits of an index into a conventional table.
    pub index_bits: u32,
    /// Levels whose entries may be leaves by PS.
    pub large: &'static [u8],
    /// Levels whose entries may point at flattened nodes; empty: FLAT is ignored.
    pub flat: &'static [u8],
    /// May CR3 have FLAT set?
    pub flat_root: bool,
    /// Bits of a physical address.
    pub physical_bits: u32,
}

impl Geometry {
    /// x86-64 with 4 levels; `fpt` if the machine has flattened page tables.
    pub const fn x86(fpt: bool, physical_bits: u32) -> Geometry {
        Geometry {
            levels: 4,
            index_bits: 9,
            large: &[2, 3],
            flat: if fpt { &[3, 4] } else { &[] },
            flat_root: fpt,
            physical_bits,
        }
    }

    /// Entries of a table page.
    pub const fn entries(&self) -> usize {
        1 << self.index_bits
    }

    /// Frames of a flattened node.
    pub const fn node_frames(&self) -> u64 {
        1 << self.index_bits
    }

    /// Bits of an address below an entry of this level.
    pub const fn shift(&self, level: Level) -> u32 {
        12 + self.index_bits * (level.0 as u32 - 1)
    }

    /// Bytes that an entry of this level spans.
    pub const fn span(&self, level: Level) -> u64 {
        1 << self.shift(level)
    }

    /// Frames of a page of this level.
    pub const fn page_frames(&self, level: Level) -> u64 {
        1 << (self.shift(level) - 12)
    }

    const fn va_bits(&self) -> u32 {
        12 + self.index_bits * self.levels as u32
    }

    /// An address without the copies of its top bit, which is how the ledger keeps them.
    pub const fn strip(&self, va: u64) -> u64 {
        va & ((1 << self.va_bits()) - 1)
    }

    /// The canonical form of a stripped address.
    pub const fn canonical(&self, va: u64) -> u64 {
        let unused = 64 - self.va_bits();
        (((va << unused) as i64) >> unused) as u64
    }

    /// Is the address in the kernel's half?
    pub const fn kernel_half(&self, va: u64) -> bool {
        va >> (self.va_bits() - 1) & 1 != 0
    }

    /// First address of the entry of this level that translates `va`.
    pub const fn base(&self, level: Level, va: u64) -> u64 {
        va & !(self.span(level) - 1)
    }

    /// Index of `va` in a table page at `place`, if the page is for this address.
    pub fn index(&self, place: Place, va: u64) -> Option<usize> {
        let index = va.checked_sub(place.va)? >> self.shift(place.level);
        let index = usize::try_from(index).ok()?;
        (index < self.entries() && index >= usize::from(place.first)).then_some(index)
    }

    /// First address of entry `index` of a table page.
    pub const fn va_of(&self, place: Place, index: usize) -> u64 {
        place.va + ((index as u64) << self.shift(place.level))
    }

    /// What CR3 selects.
    pub const fn root(&self, cr3: u64) -> Root {
        Root {
            frame: Frame::of(cr3 & ADDRESS),
            flat: self.flat_root && cr3 & FLAT != 0,
        }
    }

    /// Frames that belong to a root: the block of a flattened one.
    pub const fn root_frames(&self, root: Root) -> (Frame, u64) {
        if root.flat {
            let n = self.node_frames();
            (Frame(root.frame.0 & !(n - 1)), n)
        } else {
            (root.frame, 1)
        }
    }

    /// The table pages of a root.
    pub fn root_tables(&self, root: Root) -> impl Iterator<Item = (Frame, Place)> + '_ {
        let top = Level(self.levels);
        let half = self.node_frames() / 2;
        let slices = if root.flat { half } else { 0 };
        let page = Place {
            level: top,
            va: 0,
            first: slices as u16,
        };
        let (block, _) = self.root_frames(root);
        let below = Level(self.levels - 1);
        let user = (0..slices).map(move |slice| {
            let place = Place {
                level: below,
                va: slice << self.shift(top),
                first: 0,
            };
            (block.plus(slice), place)
        });
        user.chain(std::iter::once((root.frame, page)))
    }

    /// The table page that a walk of `va` from a root reads first.
    pub fn start(&self, root: Root, va: u64) -> (Frame, Place) {
        let top = Level(self.levels);
        if root.flat && !self.kernel_half(va) {
            let (block, _) = self.root_frames(root);
            let slice = va >> self.shift(top);
            let place = Place {
                level: Level(self.levels - 1),
                va: slice << self.shift(top),
                first: 0,
            };
            return (block.plus(slice), place);
        }
        let first = if root.flat { self.entries() / 2 } else { 0 };
        let place = Place {
            level: top,
            va: 0,
            first: first as u16,
        };
        (root.frame, place)
    }

    /// The table pages behind a pointer in an entry for the span at `va`.
    pub fn tables(&self, pointer: Pointer, va: u64) -> impl Iterator<Item = (Frame, Place)> + '_ {
        let step = self.span(pointer.level) << self.index_bits;
        (0..pointer.frames).map(move |slice| {
            let place = Place {
                level: pointer.level,
                va: va + slice * step,
                first: 0,
            };
            (pointer.frame.plus(slice), place)
        })
    }

    /// The table page behind a pointer that a walk of `va` reads.
    pub fn table_for(&self, pointer: Pointer, base: u64, va: u64) -> (Frame, Place) {
        let shift = self.shift(pointer.level) + self.index_bits;
        let slice = (va - base) >> shift;
        let place = Place {
            level: pointer.level,
            va: base + (slice << shift),
            first: 0,
        };
        (pointer.frame.plus(slice), place)
    }

    /// Reads an entry; `above` is what the entries above grant.
    pub fn read(&self, level: Level, value: u64, above: Rights) -> Reading {
        let beyond = ADDRESS & !((1 << self.physical_bits) - 1);
        if value & P == 0 || value & beyond != 0 {
            return Reading::Nothing;
        }
        let rights = above.and(Rights::of(value));
        let large = value & PS != 0 && level.0 > 1;
        if level.0 == 1 || large {
            let low = ADDRESS & (self.span(level) - 1) & !LARGE_PAT;
            if large && (!self.large.contains(&level.0) || value & low != 0) {
                return Reading::Nothing;
            }
            let third = if large { LARGE_PAT } else { PS };
            let key = (value >> KEY_SHIFT & 15) as u8;
            return Reading::Leaf(Leaf {
                frame: Frame::of(value & ADDRESS & !(self.span(level) - 1)),
                level,
                rights,
                global: value & G != 0,
                memory_type: u8::from(value & PWT != 0)
                    | u8::from(value & PCD != 0) << 1
                    | u8::from(value & third != 0) << 2,
                key: if rights.has(Rights::USER) { key } else { 0 },
            });
        }
        let frame = Frame::of(value & ADDRESS);
        if value & FLAT == 0 || !self.flat.contains(&level.0) {
            return Reading::Table(Pointer {
                frame,
                frames: 1,
                level: Level(level.0 - 1),
                rights,
            });
        }
        let frames = self.node_frames();
        if frame.0 & (frames - 1) != 0 {
            return Reading::Nothing;
        }
        Reading::Table(Pointer {
            frame,
            frames,
            level: Level(level.0 - 2),
            rights,
        })
    }

    /// The architecture's name of an entry.
    pub const fn entry_name(level: Level) -> &'static str {
        match level.0 {
            1 => "PTE",
            2 => "PDE",
            3 => "PDPTE",
            _ => "PML4E",
        }
    }
}
