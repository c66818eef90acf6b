// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses and lines of memory as types of their own: a line is no address, and what is virtual is not physical.

use crate::config::LINE;
pub use fpt_geometry::addr::{PhysAddr, VirtAddr};

const LINE_SHIFT: u32 = LINE.trailing_zeros();
/// Lines in a 4 KiB page.
const PAGE_LINES: u64 = 4096 / LINE;

/// A line of physical memory, which caches hold: the number of its first address in lines of [`LINE`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysLine(u64);

impl PhysLine {
    /// The line of this number.
    #[inline(always)]
    pub const fn new(number: u64) -> PhysLine {
        PhysLine(number)
    }

    /// The line that a physical address is in.
    #[inline(always)]
    pub const fn of(pa: PhysAddr) -> PhysLine {
        PhysLine(pa.as_u64() >> LINE_SHIFT)
    }

    /// The number of the line.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The line after this one, if it is in the same page of 4 KiB.
    #[inline(always)]
    pub const fn next_in_page(self) -> Option<PhysLine> {
        let next = self.0 + 1;
        if next % PAGE_LINES == 0 {
            None
        } else {
            Some(PhysLine(next))
        }
    }
}

/// A line of virtual memory, in which two accesses have one translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct VirtLine(u64);

impl VirtLine {
    /// A line that no address is in.
    pub const NONE: VirtLine = VirtLine(u64::MAX);

    /// The line that a virtual address is in.
    #[inline(always)]
    pub const fn of(va: VirtAddr) -> VirtLine {
        VirtLine(va.as_u64() >> LINE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(PhysLine::of(PhysAddr::new(0x1fff)), PhysLine::new(0x7f));
        assert_eq!(
            PhysLine::of(PhysAddr::new(0x1fbf)).next_in_page(),
            Some(PhysLine::of(PhysAddr::new(0x1fc0)))
        );
        assert_eq!(PhysLine::of(PhysAddr::new(0x1fc0)).next_in_page(), None);
        assert_eq!(
            VirtLine::of(VirtAddr::new(0x1000)),
            VirtLine::of(VirtAddr::new(0x103f))
        );
        assert_ne!(VirtLine::of(VirtAddr::new(u64::MAX)), VirtLine::NONE);
        assert_eq!(size_of::<PhysLine>(), size_of::<u64>());
    }
}
