// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the architecture says about an address: the entries that a walk visits, and where the page is.

use fpt_geometry::Level;

use crate::addr::{PhysAddr, VirtAddr};

/// Sizes of pages, as index 0, 1, 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 KiB.
    #[default]
    Small = 0,
    /// 2 MiB.
    Large = 1,
    /// 1 GiB.
    Huge = 2,
}

impl Size {
    /// Every size, the smallest first.
    pub const ALL: [Size; 3] = [Size::Small, Size::Large, Size::Huge];

    /// Level of the entry that maps such a page.
    pub const fn leaf(self) -> Level {
        match self {
            Size::Small => Level::L1,
            Size::Large => Level::L2,
            Size::Huge => Level::L3,
        }
    }

    /// log2 of the size in bytes.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        self.leaf().shift()
    }

    /// Where in its page of this size an address lies, in bytes.
    #[inline(always)]
    pub const fn offset(self, va: VirtAddr) -> u64 {
        va.as_u64() & ((1 << self.shift()) - 1)
    }

    /// The address of `va`, which lies in the page of this size that begins at `page`.
    #[inline(always)]
    pub const fn at(self, page: PhysAddr, va: VirtAddr) -> PhysAddr {
        PhysAddr::new(page.as_u64() | self.offset(va))
    }

    /// The size of this many bytes.
    pub fn from_bytes(bytes: u64) -> Option<Size> {
        Size::ALL
            .into_iter()
            .find(|s| s.leaf().span_bytes() == bytes)
    }
}

/// Bits of a virtual address that select something.
pub const VA_MASK: u64 = (1 << 48) - 1;

/// The lower half of the address space belongs to a process.
pub fn is_kernel(va: VirtAddr) -> bool {
    va.as_u64() >> 63 != 0
}

/// An entry that a walk visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub pa: PhysAddr,
    /// 4: PML4E ... 1: PTE.
    pub level: u8,
    /// Width of the index that selected it: 9, or 18 in a flattened node.
    pub index_bits: u8,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            pa: PhysAddr::new(0),
            level: 0,
            index_bits: 0,
        }
    }
}

/// Most entries that a walk visits.
pub const MAX_ENTRIES: usize = 5;

/// A walk that ended at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What was looked up.
    pub va: VirtAddr,
    /// Identifies the address space: where its root is.
    pub root: PhysAddr,
    /// The entries from the root on; only the first `n` count.
    pub entries: [Entry; MAX_ENTRIES],
    /// How many entries were visited.
    pub n: u8,
    /// Where the page begins.
    pub page: PhysAddr,
    /// The size of the page that was found.
    pub size: Size,
    /// The translation stays when the address space changes.
    pub global: bool,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk {
            va: VirtAddr::new(0),
            root: PhysAddr::new(0),
            entries: [Entry::default(); MAX_ENTRIES],
            n: 0,
            page: PhysAddr::new(0),
            size: Size::default(),
            global: false,
        }
    }
}

impl Walk {
    /// The visited entries, from the root to the one that maps the page.
    #[inline]
    pub fn visited(&self) -> &[Entry] {
        self.entries.get(..usize::from(self.n)).unwrap_or(&[])
    }
}

/// The line that the last entry of a walk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where its entries lead, in their order: the beginning of a page, or nowhere. An entry that differs in
    /// anything else from the walk's own counts as one that leads nowhere.
    pub pages: [Option<PhysAddr>; 8],
}

/// Where walks come from: QEMU, or a test.
pub trait Walker {
    /// The neighbours of the entry that maps the page of `va`; `None` if they are not known.
    fn leaf(&mut self, va: VirtAddr) -> Option<Leaf> {
        let _ = va;
        None
    }
    /// The architectural walk of `va` as things are; `None` if it does not end at a page.
    fn walk(&mut self, va: VirtAddr) -> Option<Walk>;
    /// The same, written where the models want it; false if there is none.
    fn walk_into(&mut self, va: VirtAddr, to: &mut Walk) -> bool {
        match self.walk(va) {
            Some(walk) => {
                *to = walk;
                true
            }
            None => false,
        }
    }
    /// Called with each translation that the second-level TLB gives, so that it can be checked: the page
    /// that holds `va` begins at `page`.
    fn stlb_hit(&mut self, va: VirtAddr, page: PhysAddr, size: Size) {
        let _ = (va, page, size);
    }
}

/// What the guest invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything.
    All,
    /// Everything of an address space but global pages.
    AddressSpace {
        /// The process-context identifier of the address space.
        pcid: u16,
    },
    /// The page that holds the address, global or not.
    Page {
        /// An address in the page.
        va: VirtAddr,
        /// The process-context identifier of its address space.
        pcid: u16,
    },
}
