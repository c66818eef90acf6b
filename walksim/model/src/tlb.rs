// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLBs: set-associative, true LRU, entries of 4 KiB, 2 MiB and 1 GiB pages, tagged with the PCID.

use crate::config;
use crate::walk::{Flush, Size, VA_MASK};

/// PCID field of a global page's entry. Real PCIDs have 12 bits.
const GLOBAL: u64 = 0xfff;
/// Bit of [`Slot::data`]; the rest is the page's physical address.
const DATA_GLOBAL: u64 = 1;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Page number (48 bits and up), PCID (12 bits from bit 4), size (bits 1 and 2), 1. 0: empty.
    key: u64,
    data: u64,
}

#[inline(always)]
fn key(va: u64, size: Size, pcid: u64) -> u64 {
    (((va & VA_MASK) >> size.shift()) << 16) | (pcid << 4) | ((size as u64) << 1) | 1
}

fn key_size(key: u64) -> usize {
    (key >> 1 & 3) as usize
}

struct Array {
    slots: Box<[Slot]>,
    ways: usize,
    set_mask: u64,
}

impl Array {
    fn new(sets: config::Sets) -> Array {
        let ways = sets.ways.max(1);
        let n = u64::from((sets.entries / ways).max(1)).next_power_of_two();
        Array {
            slots: vec![Slot::default(); n as usize * ways as usize].into_boxed_slice(),
            ways: ways as usize,
            set_mask: n - 1,
        }
    }

    #[inline(always)]
    fn base(&self, key: u64) -> usize {
        ((key >> 16) & self.set_mask) as usize * self.ways
    }

    #[inline(always)]
    fn newest(&self, key: u64) -> Option<u64> {
        match self.slots.get(self.base(key)) {
            Some(slot) if slot.key == key => Some(slot.data),
            _ => None,
        }
    }

    fn access(&mut self, key: u64) -> Option<u64> {
        let base = self.base(key);
        let set = self.slots.get_mut(base..base + self.ways)?;
        let way = set.iter().position(|s| s.key == key)?;
        let mut moving = *set.get(way)?;
        let data = moving.data;
        for place in set.iter_mut().take(way + 1) {
            moving = std::mem::replace(place, moving);
        }
        Some(data)
    }

    /// The evicted key, 0 if none.
    fn fill(&mut self, key: u64, data: u64) -> u64 {
        let base = self.base(key);
        let Some(set) = self.slots.get_mut(base..base + self.ways) else {
            return 0;
        };
        let mut moving = Slot { key, data };
        for place in set {
            moving = std::mem::replace(place, moving);
        }
        moving.key
    }

    /// Empties what `gone` says; the order of the rest stays, and holes are filled last.
    fn retain(&mut self, live: &mut [u32; 3], gone: impl Fn(&Slot) -> bool) {
        for set in self.slots.chunks_exact_mut(self.ways) {
            let mut kept = 0;
            for way in 0..set.len() {
                let Some(slot) = set.get(way).copied() else {
                    break;
                };
                if slot.key == 0 {
                    continue;
                }
                if gone(&slot) {
                    if let Some(n) = live.get_mut(key_size(slot.key)) {
                        *n = n.saturating_sub(1);
                    }
                    continue;
                }
                if let Some(place) = set.get_mut(kept) {
                    *place = slot;
                }
                kept += 1;
            }
            for slot in set.iter_mut().skip(kept) {
                *slot = Slot::default();
            }
        }
    }
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its first physical address.
    pub pa: u64,
    pub size: Size,
    pub global: bool,
}

/// One level of TLB.
pub struct Tlb {
    arrays: Vec<Array>,
    /// Array of each size.
    of_size: [usize; 3],
    /// Entries of each size: sizes without need no lookup.
    live: [u32; 3],
    pcids: bool,
}

impl Tlb {
    pub fn new(level: &config::TlbLevel, pcids: bool) -> Tlb {
        let mut arrays = vec![Array::new(level.small)];
        let mut of_size = [0; 3];
        for (place, sets) in of_size.iter_mut().skip(1).zip([level.large, level.huge]) {
            if sets.entries > 0 {
                arrays.push(Array::new(sets));
            }
            *place = arrays.len() - 1;
        }
        Tlb {
            arrays,
            of_size,
            live: [0; 3],
            pcids,
        }
    }

    #[inline(always)]
    fn array(&self, size: Size) -> Option<&Array> {
        self.arrays.get(*self.of_size.get(size as usize)?)
    }

    fn array_mut(&mut self, size: Size) -> Option<&mut Array> {
        self.arrays.get_mut(*self.of_size.get(size as usize)?)
    }

    fn holds(&self, size: Size) -> bool {
        self.live.get(size as usize).is_some_and(|n| *n > 0)
    }

    /// Physical address of the page, if its entry is the most recently used of its set: then an access
    /// would change nothing.
    #[inline(always)]
    pub fn newest(&self, va: u64, pcid: u16) -> Option<(u64, Size)> {
        let pcid = u64::from(pcid);
        if let Some(data) = self.array(Size::Small)?.newest(key(va, Size::Small, pcid)) {
            return Some((data & !DATA_GLOBAL, Size::Small));
        }
        if self.live[1] > 0 {
            let data = self
                .array(Size::Large)?
                .newest(key(va, Size::Large, pcid))?;
            return Some((data & !DATA_GLOBAL, Size::Large));
        }
        None
    }

    /// The page that holds `va`; its entry becomes the most recently used.
    pub fn access(&mut self, va: u64, pcid: u16) -> Option<Page> {
        for size in Size::ALL {
            if !self.holds(size) {
                continue;
            }
            let pcids = self.pcids;
            let array = self.array_mut(size)?;
            let mut data = array.access(key(va, size, u64::from(pcid)));
            if pcids && data.is_none() {
                data = array.access(key(va, size, GLOBAL));
            }
            if let Some(data) = data {
                return Some(Page {
                    pa: data & !DATA_GLOBAL,
                    size,
                    global: data & DATA_GLOBAL != 0,
                });
            }
        }
        None
    }

    /// Adds the translation of a page that is not there.
    pub fn fill(&mut self, va: u64, pcid: u16, page: Page) {
        let Page { pa, size, global } = page;
        let tag = if global && self.pcids {
            GLOBAL
        } else {
            u64::from(pcid)
        };
        let new = key(va, size, tag);
        let Some(array) = self.array_mut(size) else {
            return;
        };
        let old = array.fill(new, pa | if global { DATA_GLOBAL } else { 0 });
        if old != 0 {
            if let Some(n) = self.live.get_mut(key_size(old)) {
                *n = n.saturating_sub(1);
            }
        }
        if let Some(n) = self.live.get_mut(size as usize) {
            *n += 1;
        }
    }

    pub fn flush(&mut self, what: Flush) {
        let live = &mut self.live;
        for array in &mut self.arrays {
            match what {
                Flush::All => array.retain(live, |_| true),
                Flush::AddressSpace { pcid } => {
                    let pcid = u64::from(pcid);
                    array.retain(live, |s| {
                        s.data & DATA_GLOBAL == 0 && s.key >> 4 & 0xfff == pcid
                    });
                }
                Flush::Page { va, pcid } => {
                    for size in Size::ALL {
                        let wanted = [key(va, size, u64::from(pcid)), key(va, size, GLOBAL)];
                        let base = array.base(key(va, size, 0));
                        let ways = array.ways;
                        let Some(set) = array.slots.get_mut(base..base + ways) else {
                            continue;
                        };
                        let Some(way) = set.iter().position(|s| wanted.contains(&s.key)) else {
                            continue;
                        };
                        set.copy_within(way + 1.., way);
                        if let Some(last) = set.last_mut() {
                            *last = Slot::default();
                        }
                        if let Some(n) = live.get_mut(size as usize) {
                            *n = n.saturating_sub(1);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sets, TlbLevel};

    impl Tlb {
        fn put(&mut self, va: u64, pcid: u16, pa: u64, size: Size, global: bool) {
            self.fill(va, pcid, Page { pa, size, global });
        }
        fn get(&mut self, va: u64, pcid: u16) -> Option<(u64, Size)> {
            self.access(va, pcid).map(|p| (p.pa, p.size))
        }
    }

    const NONE: Sets = Sets {
        entries: 0,
        ways: 1,
    };

    fn shared(entries: u32, ways: u32) -> TlbLevel {
        TlbLevel {
            small: Sets { entries, ways },
            large: NONE,
            huge: NONE,
        }
    }

    #[test]
    fn all_sizes_in_one_array() {
        let mut t = Tlb::new(&shared(8, 4), false);
        t.put(0x1000, 0, 0xa000, Size::Small, false);
        t.put(0x4000_0000, 0, 0x20_0000, Size::Large, false);
        t.put(0x80_0000_0000, 0, 0x4000_0000, Size::Huge, false);
        assert_eq!(t.get(0x1fff, 0), Some((0xa000, Size::Small)));
        assert_eq!(t.get(0x4012_3456, 0), Some((0x20_0000, Size::Large)));
        assert_eq!(t.get(0x80_3fff_ffff, 0), Some((0x4000_0000, Size::Huge)));
        assert_eq!(t.get(0x2000, 0), None);
        assert_eq!(t.get(0x4020_0000, 0), None);
    }

    #[test]
    fn arrays_of_their_own() {
        let one = Sets {
            entries: 1,
            ways: 1,
        };
        let mut t = Tlb::new(
            &TlbLevel {
                small: one,
                large: one,
                huge: NONE,
            },
            false,
        );
        t.put(0x1000, 0, 0xa000, Size::Small, false);
        t.put(0x20_0000, 0, 0x40_0000, Size::Large, false);
        assert!(t.access(0x1000, 0).is_some() && t.access(0x20_0000, 0).is_some());
        // 1 GiB pages share the array of 2 MiB pages
        t.put(0x4000_0000, 0, 0, Size::Huge, false);
        assert!(t.access(0x20_0000, 0).is_none() && t.access(0x1000, 0).is_some());
    }

    #[test]
    fn replacement_and_newest() {
        let mut t = Tlb::new(&shared(2, 2), false);
        t.put(0x1000, 0, 0, Size::Small, false);
        t.put(0x2000, 0, 0, Size::Small, false);
        assert!(t.newest(0x2000, 0).is_some() && t.newest(0x1000, 0).is_none());
        assert!(t.access(0x1000, 0).is_some());
        t.put(0x3000, 0, 0, Size::Small, false);
        assert!(t.access(0x2000, 0).is_none() && t.access(0x1000, 0).is_some());
    }

    #[test]
    fn a_write_to_cr3_spares_global_pages() {
        for pcids in [false, true] {
            let mut t = Tlb::new(&shared(64, 4), pcids);
            t.put(0x1000, 0, 0x1000, Size::Small, false);
            t.put(0xffff_ffff_8100_0000, 0, 0x20_0000, Size::Large, true);
            t.flush(Flush::AddressSpace { pcid: 0 });
            assert!(t.access(0x1000, 0).is_none());
            assert!(t.access(0xffff_ffff_8100_0000, 0).is_some());
            t.flush(Flush::All);
            assert!(t.access(0xffff_ffff_8100_0000, 0).is_none());
            assert_eq!(t.live, [0; 3]);
        }
    }

    #[test]
    fn invlpg_takes_one_page_global_or_not() {
        for pcids in [false, true] {
            for global in [false, true] {
                let mut t = Tlb::new(&shared(8, 8), pcids);
                t.put(0x1000, 0, 0, Size::Small, global);
                t.put(0x2000, 0, 0, Size::Small, global);
                t.put(0x20_0000, 0, 0, Size::Large, global);
                t.flush(Flush::Page {
                    va: 0x1234,
                    pcid: 0,
                });
                assert!(t.access(0x1000, 0).is_none());
                assert!(t.access(0x2000, 0).is_some() && t.access(0x20_0000, 0).is_some());
                t.flush(Flush::Page {
                    va: 0x3f_ffff,
                    pcid: 0,
                });
                assert!(t.access(0x20_0000, 0).is_none());
                assert_eq!(t.live, [1, 0, 0]);
            }
        }
    }

    #[test]
    fn pcids_keep_address_spaces_apart() {
        let mut t = Tlb::new(&shared(64, 4), true);
        t.put(0x1000, 1, 0xa000, Size::Small, false);
        assert_eq!(t.get(0x1000, 2), None);
        t.put(0x1000, 2, 0xb000, Size::Small, false);
        assert_eq!(t.get(0x1000, 1), Some((0xa000, Size::Small)));
        assert_eq!(t.get(0x1000, 2), Some((0xb000, Size::Small)));
        // a global page is in all of them
        t.put(0xffff_8000_0000_0000, 1, 0xc000, Size::Small, true);
        assert!(t.access(0xffff_8000_0000_0000, 2).is_some());
        // only one of them is thrown out
        t.flush(Flush::AddressSpace { pcid: 1 });
        assert_eq!(t.get(0x1000, 1), None);
        assert!(t.access(0x1000, 2).is_some());
        t.flush(Flush::Page {
            va: 0x1000,
            pcid: 1,
        });
        assert!(t.access(0x1000, 2).is_some());
        t.flush(Flush::Page {
            va: 0x1000,
            pcid: 2,
        });
        assert_eq!(t.get(0x1000, 2), None);
        // INVLPG of a global page from any address space
        t.flush(Flush::Page {
            va: 0xffff_8000_0000_0000,
            pcid: 7,
        });
        assert!(t.access(0xffff_8000_0000_0000, 2).is_none());
    }
}
