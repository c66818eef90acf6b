// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walks of what is known, for TLBs that miss, and what comparing them with the machine's own finds.

use super::known::{index, KNOWN};
use crate::addr::{PhysAddr, VirtAddr};
use crate::walk::{Entry, Flush, Size, Walk, Walker, MAX_ENTRIES};

/// Mismatches that are told in words.
pub(super) const MAX_TEXTS: usize = 3;

/// What the models found when they compared their TLBs with the translations, and these with new walks.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// How many entries were compared.
    pub hits: u64,
    /// Kept walks that were compared with new ones.
    pub entries: u64,
    /// Those that differed and were then invalidated: the guest had changed an entry and not yet said so.
    pub stale: u64,
    /// How many of them differed.
    pub mismatches: u64,
    /// The first few mismatches.
    pub texts: Vec<String>,
}

impl Compared {
    fn mismatch(&mut self, text: impl FnOnce() -> String) {
        self.mismatches += 1;
        if self.texts.len() < MAX_TEXTS {
            self.texts.push(text());
        }
    }
}

/// A walk in one line of the host's cache.
#[derive(Clone, Copy, Default, PartialEq)]
#[repr(align(64))]
pub(super) struct Packed {
    /// From bit 0: number of the 4 KiB page; from bit 52: visited entries (0: no walk), size, global.
    head: u64,
    page: u64,
    root: u64,
    /// From bit 0: address; from bit 52: level, from bit 56: width of the index.
    entries: [u64; MAX_ENTRIES],
}

pub(super) const PAGE_NUMBER: u64 = (1 << 52) - 1;

impl Packed {
    pub(super) fn new(walk: &Walk) -> Packed {
        let one = |e: Entry| {
            e.pa.as_u64() & PAGE_NUMBER
                | u64::from(e.level & 15) << 52
                | u64::from(e.index_bits) << 56
        };
        Packed {
            head: walk.va.as_u64() >> 12
                | u64::from(walk.n) << 52
                | (walk.size as u64) << 56
                | u64::from(walk.global) << 60,
            page: walk.page.as_u64(),
            root: walk.root.as_u64(),
            entries: walk.entries.map(one),
        }
    }

    pub(super) fn holds(&self, va: VirtAddr) -> bool {
        self.head & PAGE_NUMBER == va.as_u64() >> 12 && self.head >> 52 != 0
    }

    pub(super) fn size(&self) -> Size {
        match self.head >> 56 & 3 {
            0 => Size::Small,
            1 => Size::Large,
            _ => Size::Huge,
        }
    }

    /// The walk of `va`, which it holds.
    pub(super) fn walk(&self, va: VirtAddr) -> Walk {
        let mut walk = Walk::default();
        self.write(va, &mut walk);
        walk
    }

    /// The same, written to `to`.
    #[inline]
    fn write(&self, va: VirtAddr, to: &mut Walk) {
        to.va = va;
        to.root = PhysAddr::new(self.root);
        for (entry, packed) in to.entries.iter_mut().zip(self.entries) {
            *entry = Entry {
                pa: PhysAddr::new(packed & PAGE_NUMBER),
                level: (packed >> 52 & 15) as u8,
                index_bits: (packed >> 56) as u8,
            };
        }
        to.n = (self.head >> 52 & 15) as u8;
        to.page = PhysAddr::new(self.page);
        to.size = self.size();
        to.global = self.head >> 60 & 1 != 0;
    }
}

/// The walks of what [`Known`](super::known::Known) has, at the same places.
pub(super) struct Walks {
    walks: Box<[Packed]>,
    /// Every so many hits of a second-level TLB are compared.
    every: u64,
    hits: u64,
    compared: Compared,
    /// Walks that differ from the tables. The guest may not have invalidated them yet, as it must.
    suspects: Vec<Walk>,
}

/// Suspects beyond these are not waited for.
pub(super) const MAX_SUSPECTS: usize = 16;

impl Walks {
    /// Every `every`-th hit of a second-level TLB is compared; 0: none.
    pub(super) fn new(every: u64) -> Walks {
        Walks {
            walks: vec![Packed::default(); KNOWN].into_boxed_slice(),
            every,
            hits: 0,
            compared: Compared::default(),
            suspects: Vec::new(),
        }
    }

    fn find(&self, va: VirtAddr) -> Option<&Packed> {
        self.walks.get(index(va)).filter(|walk| walk.holds(va))
    }

    pub(super) fn learn(&mut self, walk: &Walk) {
        if let Some(place) = self.walks.get_mut(index(walk.va)) {
            *place = Packed::new(walk);
        }
    }

    /// `fresh` is how things are now, at an address whose walk is kept.
    pub(super) fn check(&mut self, fresh: &Walk) {
        self.compared.entries += 1;
        let kept = self.find(fresh.va).copied().unwrap_or_default();
        if kept == Packed::new(fresh) {
            return;
        }
        let kept = kept.walk(fresh.va);
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.push(kept);
        } else {
            self.differs(&kept);
        }
    }

    fn differs(&mut self, kept: &Walk) {
        self.compared.mismatch(|| {
            format!(
                "the tables changed and nothing was invalidated: {:#x} was led by {:x?} to {:#x}",
                kept.va.as_u64(),
                kept.visited(),
                kept.page.as_u64()
            )
        });
    }

    /// The guest invalidates: what differed may do so.
    pub(super) fn flush(&mut self, what: Flush) {
        let before = self.suspects.len();
        self.suspects.retain(|s| match what {
            Flush::All => false,
            Flush::AddressSpace { .. } => s.global,
            Flush::Page { va, .. } => {
                let page = |va: VirtAddr| va.as_u64() >> s.size.shift();
                page(va) != page(s.va)
            }
        });
        self.compared.stale += (before - self.suspects.len()) as u64;
    }

    /// What was found since the last time. What differs and has not been invalidated by now is a mismatch.
    pub(super) fn compared(&mut self) -> Compared {
        for suspect in std::mem::take(&mut self.suspects) {
            self.differs(&suspect);
        }
        std::mem::take(&mut self.compared)
    }
}

impl Walker for Walks {
    fn walk(&mut self, va: VirtAddr) -> Option<Walk> {
        let mut walk = Walk::default();
        self.walk_into(va, &mut walk).then_some(walk)
    }

    fn walk_into(&mut self, va: VirtAddr, to: &mut Walk) -> bool {
        match self.find(va) {
            Some(walk) => {
                walk.write(va, to);
                true
            }
            None => {
                self.compared
                    .mismatch(|| format!("{:#x} was used before it was translated", va.as_u64()));
                false
            }
        }
    }

    fn stlb_hit(&mut self, va: VirtAddr, page: PhysAddr, size: Size) {
        self.hits += 1;
        if self.every == 0 || self.hits % self.every != 0 {
            return;
        }
        // What shares the place may have displaced it.
        let Some(walk) = self.find(va) else { return };
        let ours = size.at(page, va).as_u64();
        let theirs = walk.size().at(PhysAddr::new(walk.page), va).as_u64();
        self.compared.hits += 1;
        if ours != theirs {
            self.compared.mismatch(|| {
                format!(
                    "the TLB holds {ours:#x} for {:#x}, the tables lead to {theirs:#x}",
                    va.as_u64()
                )
            });
        }
    }
}
