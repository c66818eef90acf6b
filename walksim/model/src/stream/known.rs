// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations that the virtual CPU keeps from the first use of a page to its invalidation.

use crate::addr::{PhysAddr, VirtAddr};
use crate::walk::{is_kernel, Flush, Size, Walk};

/// Pages of 4 KiB whose translations are known; a power of two, and no fewer than a 2 MiB page has.
pub(super) const KNOWN: usize = 1 << 16;

/// Where a page is: what a finished walk leaves to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the page begins; its size in the low bits.
    packed: u64,
}

impl Place {
    /// The place that a walk found.
    pub fn new(walk: &Walk) -> Place {
        Place {
            packed: walk.page.as_u64() | walk.size as u64,
        }
    }

    /// The size of the page.
    #[inline(always)]
    pub fn size(self) -> Size {
        match self.packed & 3 {
            0 => Size::Small,
            1 => Size::Large,
            _ => Size::Huge,
        }
    }

    /// Where the page begins.
    #[inline(always)]
    pub fn page(self) -> PhysAddr {
        PhysAddr::new(self.packed & !3)
    }

    /// Where `va`, which lies in this page, is.
    #[inline(always)]
    pub fn address(self, va: VirtAddr) -> PhysAddr {
        self.size().at(self.page(), va)
    }
}

#[inline(always)]
pub(super) fn index(va: VirtAddr) -> usize {
    let page = va.as_u64() >> 12;
    (page ^ page >> KNOWN.trailing_zeros()) as usize % KNOWN
}

/// Bits of a page's number in a key: of 57-bit addresses.
pub(super) const KEY_BITS: u32 = 45;
pub(super) const GENERATIONS: u64 = 1 << (64 - KEY_BITS);

#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// Number of the 4 KiB page and the generation; 0: empty.
    key: u64,
    place: Place,
}

pub(super) const EMPTY: Slot = Slot {
    key: 0,
    place: Place { packed: 0 },
};

/// One half of the address space.
#[derive(Clone, Copy)]
pub(super) struct Half {
    /// Entries of other generations are void. Starts at 1, in place in the key.
    generation: u64,
    /// There may be entries of such pages.
    large: bool,
    huge: bool,
    local: bool,
}

pub(super) const HALF: Half = Half {
    generation: 1 << KEY_BITS,
    large: false,
    huge: false,
    local: false,
};

/// Translations of 4 KiB pages, or of what lies there of a larger one; direct-mapped.
pub(super) struct Known {
    slots: Box<[Slot]>,
    user: Half,
    kernel: Half,
}

impl Known {
    pub(super) fn new() -> Known {
        Known {
            slots: vec![EMPTY; KNOWN].into_boxed_slice(),
            user: HALF,
            kernel: HALF,
        }
    }

    #[inline(always)]
    fn key(&self, va: VirtAddr) -> u64 {
        let half = if is_kernel(va) {
            &self.kernel
        } else {
            &self.user
        };
        va.as_u64() << (64 - KEY_BITS - 12) >> (64 - KEY_BITS) | half.generation
    }

    #[inline(always)]
    pub(super) fn find(&self, va: VirtAddr) -> Option<Place> {
        let slot = self.slots.get(index(va))?;
        (slot.key == self.key(va)).then_some(slot.place)
    }

    fn half(&mut self, va: VirtAddr) -> &mut Half {
        if is_kernel(va) {
            &mut self.kernel
        } else {
            &mut self.user
        }
    }

    pub(super) fn learn(&mut self, va: VirtAddr, walk: &Walk) {
        let half = self.half(va);
        half.local |= !walk.global;
        half.large |= walk.size == Size::Large;
        half.huge |= walk.size == Size::Huge;
        let key = self.key(va);
        if let Some(slot) = self.slots.get_mut(index(va)) {
            *slot = Slot {
                key,
                place: Place::new(walk),
            };
        }
    }

    fn forget(&mut self, va: VirtAddr) {
        if let Some(slot) = self.slots.get_mut(index(va)) {
            *slot = EMPTY;
        }
    }

    fn forget_half(&mut self, va: VirtAddr) {
        let half = self.half(va);
        *half = Half {
            generation: half.generation.wrapping_add(1 << KEY_BITS),
            ..HALF
        };
        if half.generation == (GENERATIONS - 1) << KEY_BITS {
            half.generation = 1 << KEY_BITS;
            self.slots.fill(EMPTY);
        }
    }

    pub(super) fn flush(&mut self, what: Flush) {
        const USER: VirtAddr = VirtAddr::new(0);
        const KERNEL: VirtAddr = VirtAddr::new(1 << 63);
        match what {
            Flush::All => {
                self.forget_half(USER);
                self.forget_half(KERNEL);
            }
            Flush::AddressSpace { .. } => {
                self.forget_half(USER);
                if self.kernel.local {
                    self.forget_half(KERNEL);
                }
            }
            Flush::Page { va, .. } => {
                let half = *self.half(va);
                if half.huge {
                    self.forget_half(va);
                } else if half.large {
                    let shift = Size::Large.shift();
                    let first = va.as_u64() >> shift << shift;
                    (0..1u64 << (shift - 12))
                        .for_each(|i| self.forget(VirtAddr::new(first + (i << 12))));
                } else {
                    self.forget(va);
                }
            }
        }
    }
}
