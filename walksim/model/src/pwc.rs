// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-walk caches: entries that point at a table, by the address bits that lead to them.

use fpt_geometry::addr::VirtAddr;
use fpt_geometry::Level;

use crate::config;
use crate::report::HitMiss;
use crate::walk::{Flush, VA_MASK};

/// Levels whose entries are cached, from the root down.
pub const LEVELS: [Level; 3] = [Level::L4, Level::L3, Level::L2];

struct Array {
    level: Level,
    /// 0: empty. Address bits from bit 16 up, PCID from bit 4, 1.
    keys: Box<[u64]>,
    ways: usize,
    set_mask: u64,
    stats: HitMiss,
}

impl Array {
    fn key(&self, va: u64, pcid: u16) -> u64 {
        ((va & VA_MASK) >> self.level.shift()) << 16 | u64::from(pcid) << 4 | 1
    }

    fn set(&mut self, key: u64) -> Option<&mut [u64]> {
        let base = ((key >> 16) & self.set_mask) as usize * self.ways;
        self.keys.get_mut(base..base + self.ways)
    }
}

/// The caches of all levels.
pub struct Pwc {
    arrays: Vec<Array>,
}

impl Pwc {
    pub fn new(config: &config::Pwc) -> Pwc {
        let sets = [config.l4, config.l3, config.l2];
        let arrays = LEVELS
            .into_iter()
            .zip(sets)
            .filter(|(_, s)| s.entries > 0)
            .map(|(level, s)| Array {
                level,
                keys: vec![0; s.entries as usize].into_boxed_slice(),
                ways: s.ways.max(1) as usize,
                set_mask: u64::from((s.entries / s.ways.max(1)).max(1)) - 1,
                stats: HitMiss::default(),
            });
        Pwc {
            arrays: arrays.collect(),
        }
    }

    /// Level of the lowest cached entry for `va`: the walk goes on below it. The caches are asked from the
    /// lowest level up until one answers.
    pub fn lookup(&mut self, va: u64, pcid: u16) -> Option<Level> {
        for array in self.arrays.iter_mut().rev() {
            let key = array.key(va, pcid);
            let hit = array
                .set(key)
                .is_some_and(|set| match set.iter().position(|k| *k == key) {
                    Some(way) => {
                        set.copy_within(0..way, 1);
                        if let Some(first) = set.first_mut() {
                            *first = key;
                        }
                        true
                    }
                    None => false,
                });
            if hit {
                array.stats.hits += 1;
                return Some(array.level);
            }
            array.stats.misses += 1;
        }
        None
    }

    /// Adds an entry that a walk has read and that points at a table.
    pub fn fill(&mut self, va: u64, pcid: u16, level: u8) {
        let found = self
            .arrays
            .iter_mut()
            .find(|a| a.level.number() == u32::from(level));
        let Some(array) = found else { return };
        let key = array.key(va, pcid);
        if let Some(set) = array.set(key) {
            let way = set.iter().position(|k| *k == key).unwrap_or(set.len() - 1);
            set.copy_within(0..way, 1);
            if let Some(first) = set.first_mut() {
                *first = key;
            }
        }
    }

    /// INVLPG takes all entries of its PCID along, whatever the address (SDM vol. 3, 4.10.4.1).
    pub fn flush(&mut self, what: Flush) {
        for array in &mut self.arrays {
            match what {
                Flush::All => array.keys.fill(0),
                Flush::AddressSpace { pcid } | Flush::Page { pcid, .. } => {
                    let pcid = u64::from(pcid);
                    retain(array, |key| key >> 4 & 0xfff == pcid);
                }
            }
        }
    }

    /// By name of the level (`pml4`, `pdpt`, `pd`).
    pub fn stats(&self) -> impl Iterator<Item = (&'static str, HitMiss)> + '_ {
        self.arrays.iter().map(|a| (level_name(a.level), a.stats))
    }

    pub fn reset_counters(&mut self) {
        for array in &mut self.arrays {
            array.stats = HitMiss::default();
        }
    }
}

fn retain(array: &mut Array, gone: impl Fn(u64) -> bool) {
    for set in array.keys.chunks_exact_mut(array.ways) {
        let mut kept = 0;
        for way in 0..set.len() {
            let Some(key) = set.get(way).copied() else {
                break;
            };
            if key == 0 || gone(key) {
                continue;
            }
            if let Some(place) = set.get_mut(kept) {
                *place = key;
            }
            kept += 1;
        }
        for key in set.iter_mut().skip(kept) {
            *key = 0;
        }
    }
}

/// Name of the table that entries of this level are conventionally in.
pub const fn level_name(level: Level) -> &'static str {
    match level {
        Level::L4 => "pml4",
        Level::L3 => "pdpt",
        Level::L2 => "pd",
        Level::L1 => "pt",
    }
}

/// The address as the geometry of the tables wants it.
pub fn virt(va: u64) -> VirtAddr {
    VirtAddr::new(va & VA_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_lowest_level_answers() {
        let mut p = Pwc::new(&Config::default().pwc);
        let va = 0x7f12_3456_7000;
        assert_eq!(p.lookup(va, 0), None);
        p.fill(va, 0, 4);
        assert_eq!(p.lookup(va, 0), Some(Level::L4));
        p.fill(va, 0, 2);
        assert_eq!(p.lookup(va, 0), Some(Level::L2));
        // the next 2 MiB: only the root's entry
        assert_eq!(p.lookup(va + (2 << 20), 0), Some(Level::L4));
        assert_eq!(p.lookup(va, 1), None);
        // INVLPG anywhere in the address space, and only there
        p.fill(va, 1, 2);
        p.flush(Flush::Page { va: 0, pcid: 0 });
        assert_eq!(p.lookup(va, 0), None);
        assert_eq!(p.lookup(va, 1), Some(Level::L2));
        p.fill(va, 3, 3);
        p.flush(Flush::AddressSpace { pcid: 2 });
        assert_eq!(p.lookup(va, 3), Some(Level::L3));
        p.flush(Flush::AddressSpace { pcid: 3 });
        assert_eq!(p.lookup(va, 3), None);
        // entries that map pages are in the TLB, not here
        p.fill(va, 0, 1);
        assert_eq!(p.lookup(va, 0), None);
    }

    #[test]
    fn capacity_is_that_of_the_preset() {
        let mut p = Pwc::new(&Config::default().pwc);
        for i in 0..33u64 {
            p.fill(i << 21, 0, 2);
        }
        // 8 sets of 4 ways: set 0 has five candidates, its first is gone
        assert_eq!(p.lookup(0, 0), None);
        assert_eq!(p.lookup(1 << 21, 0), Some(Level::L2));
    }
}
