// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLBs: set-associative, true LRU, entries of 4 KiB, 2 MiB and 1 GiB pages and of runs of 4 KiB pages, tagged with the PCID.

use crate::addr::{PhysAddr, VirtAddr};
use crate::config;
use crate::walk::{Flush, Size, Walk, VA_MASK};

/// PCID field of a global page's entry. Real PCIDs have 12 bits.
const GLOBAL: u64 = 0xfff;
/// Bit of an entry's data; the rest is the page's physical address.
const DATA_GLOBAL: u64 = 1;
/// Kind of an entry in a key: the size of its page, or this for a run of small ones.
const RUN: usize = 3;
const KINDS: usize = 4;

/// Page number (48 bits and up), PCID (12 bits from bit 4), kind (bits 1 and 2), 1. 0: empty.
#[inline(always)]
fn key_at(va: VirtAddr, shift: u32, kind: usize, pcid: u64) -> u64 {
    (((va.as_u64() & VA_MASK) >> shift) << 16) | (pcid << 4) | ((kind as u64) << 1) | 1
}

#[inline(always)]
fn key(va: VirtAddr, size: Size, pcid: u64) -> u64 {
    key_at(va, size.shift(), size as usize, pcid)
}

/// Where the page of an entry's data begins.
#[inline(always)]
fn first(data: u64) -> PhysAddr {
    PhysAddr::new(data & !DATA_GLOBAL)
}

/// Bytes from the beginning of a run to the page of `va`.
fn in_run(va: VirtAddr, shift: u32) -> u64 {
    va.as_u64() & ((1 << shift) - 1) & !0xfff
}

fn key_kind(key: u64) -> usize {
    (key >> 1 & 3) as usize
}

/// Keys and data lie apart: a set of 8 keys is one line of the host's cache. Both are in order of their last use.
struct Array {
    keys: Box<[u64]>,
    data: Box<[u64]>,
    /// Where the first set of keys begins, at a line of the host's.
    start: usize,
    ways: usize,
    set_mask: u64,
}

/// Bytes of a line of the host's cache, and keys in one.
const HOST_LINE: usize = 64;
const KEYS: usize = HOST_LINE / size_of::<u64>();

impl Array {
    fn new(sets: config::Sets) -> Array {
        let ways = sets.ways.max(1);
        let n = u64::from((sets.entries / ways).max(1)).next_power_of_two();
        let places = n as usize * ways as usize;
        let keys = vec![0u64; places + KEYS - 1].into_boxed_slice();
        Array {
            start: keys.as_ptr().align_offset(HOST_LINE).min(KEYS - 1),
            keys,
            data: vec![0; places].into_boxed_slice(),
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
        let base = self.base(key);
        match self.keys.get(self.start + base) {
            Some(found) if *found == key => self.data.get(base).copied(),
            _ => None,
        }
    }

    /// The keys and the data of a set.
    #[inline(always)]
    fn set(&mut self, base: usize) -> Option<(&mut [u64], &mut [u64])> {
        let first = self.start + base;
        let keys = self.keys.get_mut(first..first + self.ways)?;
        Some((keys, self.data.get_mut(base..base + self.ways)?))
    }

    #[inline]
    fn access(&mut self, key: u64) -> Option<u64> {
        let (keys, all) = self.set(self.base(key))?;
        let way = keys.iter().position(|k| *k == key)?;
        let data = *all.get(way)?;
        keys.copy_within(0..way, 1);
        all.copy_within(0..way, 1);
        *keys.first_mut()? = key;
        *all.first_mut()? = data;
        Some(data)
    }

    /// The evicted key, 0 if none.
    #[inline]
    fn fill(&mut self, key: u64, data: u64) -> u64 {
        let Some((keys, all)) = self.set(self.base(key)) else {
            return 0;
        };
        let old = keys.last().copied().unwrap_or(0);
        keys.copy_within(..keys.len() - 1, 1);
        all.copy_within(..all.len() - 1, 1);
        if let (Some(k), Some(d)) = (keys.first_mut(), all.first_mut()) {
            (*k, *d) = (key, data);
        }
        old
    }

    /// Empties what `gone` says of keys and data; the order of the rest stays, and holes are filled last.
    fn retain(&mut self, live: &mut [u32; KINDS], gone: impl Fn(u64, u64) -> bool) {
        for base in (0..self.data.len()).step_by(self.ways) {
            let Some((keys, all)) = self.set(base) else {
                break;
            };
            let mut kept = 0;
            for way in 0..keys.len() {
                let (Some(key), Some(data)) = (keys.get(way).copied(), all.get(way).copied())
                else {
                    break;
                };
                if key == 0 {
                    continue;
                }
                if gone(key, data) {
                    if let Some(n) = live.get_mut(key_kind(key)) {
                        *n = n.saturating_sub(1);
                    }
                    continue;
                }
                if let (Some(k), Some(d)) = (keys.get_mut(kept), all.get_mut(kept)) {
                    (*k, *d) = (key, data);
                }
                kept += 1;
            }
            keys.iter_mut().skip(kept).for_each(|key| *key = 0);
        }
    }

    /// Empties the first entry with one of these keys, which are of one set. Was there any?
    fn drop_one(&mut self, wanted: [u64; 2]) -> bool {
        let Some((keys, all)) = self.set(self.base(wanted[0])) else {
            return false;
        };
        let Some(way) = keys.iter().position(|k| wanted.contains(k)) else {
            return false;
        };
        keys.copy_within(way + 1.., way);
        all.copy_within(way + 1.., way);
        if let Some(last) = keys.last_mut() {
            *last = 0;
        }
        true
    }
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it begins.
    pub pa: PhysAddr,
    /// The size of the page.
    pub size: Size,
    /// Whether its entry outlives a change of the address space.
    pub global: bool,
    /// log2 of the pages of a run that the entry stands for: small pages that follow each other in both address spaces,
    /// the first at a multiple of the run's length. 0: one page. All entries of runs of a TLB have the same.
    pub run: u8,
}

impl Page {
    /// Of the walk that ended at it.
    pub fn of(walk: &Walk) -> Page {
        Page {
            pa: walk.page,
            size: walk.size,
            global: walk.global,
            run: 0,
        }
    }
}

/// One level of TLB.
pub struct Tlb {
    arrays: Vec<Array>,
    /// Array of each size.
    of_size: [usize; 3],
    /// Entries of each kind: kinds without need no lookup.
    live: [u32; KINDS],
    /// log2 of the pages of a run.
    run: u8,
    pcids: bool,
}

impl Tlb {
    /// An empty TLB; `pcids` says whether its entries are tagged with the PCID.
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
            live: [0; KINDS],
            run: 0,
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

    fn holds(&self, kind: usize) -> bool {
        self.live.get(kind).is_some_and(|n| *n > 0)
    }

    fn run_shift(&self) -> u32 {
        Size::Small.shift() + u32::from(self.run)
    }

    /// Physical address of the page, if its entry is the most recently used of its set: then an access
    /// would change nothing.
    #[inline(always)]
    pub fn newest(&self, va: VirtAddr, pcid: u16) -> Option<(PhysAddr, Size)> {
        let pcid = u64::from(pcid);
        if let Some(data) = self.array(Size::Small)?.newest(key(va, Size::Small, pcid)) {
            return Some((first(data), Size::Small));
        }
        if self.live[1] > 0 {
            let data = self
                .array(Size::Large)?
                .newest(key(va, Size::Large, pcid))?;
            return Some((first(data), Size::Large));
        }
        None
    }

    /// The page that holds `va`; its entry becomes the most recently used.
    pub fn access(&mut self, va: VirtAddr, pcid: u16) -> Option<Page> {
        for size in Size::ALL {
            if !self.holds(size as usize) {
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
                    pa: first(data),
                    size,
                    global: data & DATA_GLOBAL != 0,
                    run: 0,
                });
            }
        }
        if self.holds(RUN) {
            return self.access_run(va, pcid);
        }
        None
    }

    /// The page of a run.
    fn access_run(&mut self, va: VirtAddr, pcid: u16) -> Option<Page> {
        let (shift, run, pcids) = (self.run_shift(), self.run, self.pcids);
        let array = self.array_mut(Size::Small)?;
        let mut data = array.access(key_at(va, shift, RUN, u64::from(pcid)));
        if pcids && data.is_none() {
            data = array.access(key_at(va, shift, RUN, GLOBAL));
        }
        data.map(|data| Page {
            pa: first(data).offset(in_run(va, shift)),
            size: Size::Small,
            global: data & DATA_GLOBAL != 0,
            run,
        })
    }

    /// Adds the translation of a page that is not there. `page` is where `va` is; of a run, too.
    pub fn fill(&mut self, va: VirtAddr, pcid: u16, page: Page) {
        let Page {
            pa, size, global, ..
        } = page;
        let tag = if global && self.pcids {
            GLOBAL
        } else {
            u64::from(pcid)
        };
        let (mut new, mut pa, mut kind) = (key(va, size, tag), pa.as_u64(), size as usize);
        if page.run > 0 {
            self.run = page.run;
            let shift = self.run_shift();
            kind = RUN;
            new = key_at(va, shift, RUN, tag);
            pa -= in_run(va, shift);
        }
        let Some(array) = self.array_mut(size) else {
            return;
        };
        let old = array.fill(new, pa | if global { DATA_GLOBAL } else { 0 });
        if old != 0 {
            if let Some(n) = self.live.get_mut(key_kind(old)) {
                *n = n.saturating_sub(1);
            }
        }
        if let Some(n) = self.live.get_mut(kind) {
            *n += 1;
        }
    }

    /// Drops the entries that an invalidation of this kind drops.
    pub fn flush(&mut self, what: Flush) {
        let run_shift = self.run_shift();
        let live = &mut self.live;
        for array in &mut self.arrays {
            match what {
                Flush::All => array.retain(live, |_, _| true),
                Flush::AddressSpace { pcid } => {
                    let pcid = u64::from(pcid);
                    array.retain(live, |key, data| {
                        data & DATA_GLOBAL == 0 && key >> 4 & 0xfff == pcid
                    });
                }
                Flush::Page { va, pcid } => {
                    let kinds = Size::ALL.map(|size| (size.shift(), size as usize));
                    // Of a run nothing stays.
                    let run = (live[RUN] > 0).then_some((run_shift, RUN));
                    for (shift, kind) in kinds.into_iter().chain(run) {
                        let wanted = [u64::from(pcid), GLOBAL];
                        if array.drop_one(wanted.map(|tag| key_at(va, shift, kind, tag))) {
                            if let Some(n) = live.get_mut(kind) {
                                *n = n.saturating_sub(1);
                            }
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
            self.fill(
                VirtAddr::new(va),
                pcid,
                Page {
                    pa: PhysAddr::new(pa),
                    size,
                    global,
                    run: 0,
                },
            );
        }
        fn get(&mut self, va: u64, pcid: u16) -> Option<(u64, Size)> {
            self.access(VirtAddr::new(va), pcid)
                .map(|p| (p.pa.as_u64(), p.size))
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
        assert!(
            t.access(VirtAddr::new(0x1000), 0).is_some()
                && t.access(VirtAddr::new(0x20_0000), 0).is_some()
        );
        // 1 GiB pages share the array of 2 MiB pages
        t.put(0x4000_0000, 0, 0, Size::Huge, false);
        assert!(
            t.access(VirtAddr::new(0x20_0000), 0).is_none()
                && t.access(VirtAddr::new(0x1000), 0).is_some()
        );
    }

    #[test]
    fn replacement_and_newest() {
        let mut t = Tlb::new(&shared(2, 2), false);
        t.put(0x1000, 0, 0, Size::Small, false);
        t.put(0x2000, 0, 0, Size::Small, false);
        assert!(
            t.newest(VirtAddr::new(0x2000), 0).is_some()
                && t.newest(VirtAddr::new(0x1000), 0).is_none()
        );
        assert!(t.access(VirtAddr::new(0x1000), 0).is_some());
        t.put(0x3000, 0, 0, Size::Small, false);
        assert!(
            t.access(VirtAddr::new(0x2000), 0).is_none()
                && t.access(VirtAddr::new(0x1000), 0).is_some()
        );
    }

    #[test]
    fn a_write_to_cr3_spares_global_pages() {
        for pcids in [false, true] {
            let mut t = Tlb::new(&shared(64, 4), pcids);
            t.put(0x1000, 0, 0x1000, Size::Small, false);
            t.put(0xffff_ffff_8100_0000, 0, 0x20_0000, Size::Large, true);
            t.flush(Flush::AddressSpace { pcid: 0 });
            assert!(t.access(VirtAddr::new(0x1000), 0).is_none());
            assert!(t.access(VirtAddr::new(0xffff_ffff_8100_0000), 0).is_some());
            t.flush(Flush::All);
            assert!(t.access(VirtAddr::new(0xffff_ffff_8100_0000), 0).is_none());
            assert_eq!(t.live, [0; KINDS]);
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
                    va: VirtAddr::new(0x1234),
                    pcid: 0,
                });
                assert!(t.access(VirtAddr::new(0x1000), 0).is_none());
                assert!(
                    t.access(VirtAddr::new(0x2000), 0).is_some()
                        && t.access(VirtAddr::new(0x20_0000), 0).is_some()
                );
                t.flush(Flush::Page {
                    va: VirtAddr::new(0x3f_ffff),
                    pcid: 0,
                });
                assert!(t.access(VirtAddr::new(0x20_0000), 0).is_none());
                assert_eq!(t.live, [1, 0, 0, 0]);
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
        assert!(t.access(VirtAddr::new(0xffff_8000_0000_0000), 2).is_some());
        // only one of them is thrown out
        t.flush(Flush::AddressSpace { pcid: 1 });
        assert_eq!(t.get(0x1000, 1), None);
        assert!(t.access(VirtAddr::new(0x1000), 2).is_some());
        t.flush(Flush::Page {
            va: VirtAddr::new(0x1000),
            pcid: 1,
        });
        assert!(t.access(VirtAddr::new(0x1000), 2).is_some());
        t.flush(Flush::Page {
            va: VirtAddr::new(0x1000),
            pcid: 2,
        });
        assert_eq!(t.get(0x1000, 2), None);
        // INVLPG of a global page from any address space
        t.flush(Flush::Page {
            va: VirtAddr::new(0xffff_8000_0000_0000),
            pcid: 7,
        });
        assert!(t.access(VirtAddr::new(0xffff_8000_0000_0000), 2).is_none());
    }

    #[test]
    fn a_run_is_one_entry_and_goes_as_one() {
        let mut t = Tlb::new(&shared(2, 2), false);
        let page = |pa, run| Page {
            pa: PhysAddr::new(pa),
            size: Size::Small,
            global: false,
            run,
        };
        // Pages 8 to 11 of the one space are pages 0x104 to 0x107 of the other; it was page 9 that missed.
        t.fill(VirtAddr::new(0x9123), 0, page(0x10_5000, 2));
        t.fill(VirtAddr::new(0x1000), 0, page(0x7000, 0));
        for i in 0..4u64 {
            assert_eq!(
                t.get(0x8000 + i * 0x1000, 0),
                Some((0x10_4000 + i * 0x1000, Size::Small))
            );
        }
        assert!(
            t.access(VirtAddr::new(0x7000), 0).is_none()
                && t.access(VirtAddr::new(0xc000), 0).is_none()
        );
        assert!(t.access(VirtAddr::new(0x1000), 0).is_some());
        t.flush(Flush::Page {
            va: VirtAddr::new(0xb000),
            pcid: 0,
        });
        assert!(
            t.access(VirtAddr::new(0x9000), 0).is_none()
                && t.access(VirtAddr::new(0x1000), 0).is_some()
        );
        assert_eq!(t.live, [1, 0, 0, 0]);
    }
}
