// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-walk caches: entries that point at a table, by the address bits that lead to them.

use fpt_geometry::Level;

use crate::addr::VirtAddr;
use crate::config;
use crate::report::HitMiss;
use crate::walk::{Flush, VA_MASK};

/// Levels whose entries are cached, from the root down.
pub const LEVELS: [Level; 3] = [Level::L4, Level::L3, Level::L2];

struct Array {
    /// 0: empty. Address bits from bit 16 up, PCID from bit 4, level from bit 1, 1.
    keys: Box<[u64]>,
    ways: usize,
    set_mask: u64,
}

impl Array {
    fn new(s: config::Sets) -> Array {
        Array {
            keys: vec![0; s.entries as usize].into_boxed_slice(),
            ways: s.ways.max(1) as usize,
            set_mask: u64::from((s.entries / s.ways.max(1)).max(1)) - 1,
        }
    }

    fn set(&mut self, key: u64) -> Option<&mut [u64]> {
        let base = ((key >> 16) & self.set_mask) as usize * self.ways;
        self.keys.get_mut(base..base + self.ways)
    }
}

fn key(level: Level, va: VirtAddr, pcid: u16) -> u64 {
    ((va.as_u64() & VA_MASK) >> level.shift()) << 16
        | u64::from(pcid) << 4
        | u64::from(level.number()) << 1
        | 1
}

/// Entries of one level: in which array they are, and how often it was asked for them.
struct Cached {
    level: Level,
    array: usize,
    stats: HitMiss,
}

/// The caches of all levels: an array for each, or one for all.
pub struct Pwc {
    arrays: Vec<Array>,
    levels: Vec<Cached>,
}

impl Pwc {
    /// Empty caches of the sizes that the configuration names.
    pub fn new(config: &config::Pwc) -> Pwc {
        let mut pwc = Pwc {
            arrays: Vec::new(),
            levels: Vec::new(),
        };
        let unified = config.unified.entries > 0;
        if unified {
            pwc.arrays.push(Array::new(config.unified));
        }
        for (level, s) in LEVELS.into_iter().zip([config.l4, config.l3, config.l2]) {
            if !unified {
                if s.entries == 0 {
                    continue;
                }
                pwc.arrays.push(Array::new(s));
            }
            pwc.levels.push(Cached {
                level,
                array: pwc.arrays.len() - 1,
                stats: HitMiss::default(),
            });
        }
        pwc
    }

    /// Level of the lowest cached entry for `va`: the walk goes on below it. The caches are asked from the
    /// lowest level up until one answers.
    pub fn lookup(&mut self, va: VirtAddr, pcid: u16) -> Option<Level> {
        for cached in self.levels.iter_mut().rev() {
            let key = key(cached.level, va, pcid);
            let set = self.arrays.get_mut(cached.array).and_then(|a| a.set(key));
            let hit = set.is_some_and(|set| match set.iter().position(|k| *k == key) {
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
                cached.stats.hits += 1;
                return Some(cached.level);
            }
            cached.stats.misses += 1;
        }
        None
    }

    /// Adds an entry that a walk has read and that points at a table.
    pub fn fill(&mut self, va: VirtAddr, pcid: u16, level: u8) {
        let mut levels = self.levels.iter();
        let Some(cached) = levels.find(|c| c.level.number() == u32::from(level)) else {
            return;
        };
        let key = key(cached.level, va, pcid);
        if let Some(set) = self.arrays.get_mut(cached.array).and_then(|a| a.set(key)) {
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
        self.levels.iter().map(|c| (level_name(c.level), c.stats))
    }

    /// Sets hits and misses to zero; the cached entries stay.
    pub fn reset_counters(&mut self) {
        for cached in &mut self.levels {
            cached.stats = HitMiss::default();
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
pub fn virt(va: VirtAddr) -> VirtAddr {
    VirtAddr::new(va.as_u64() & VA_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_lowest_level_answers() {
        let mut p = Pwc::new(&Config::default().pwc);
        let va = 0x7f12_3456_7000;
        assert_eq!(p.lookup(VirtAddr::new(va), 0), None);
        p.fill(VirtAddr::new(va), 0, 4);
        assert_eq!(p.lookup(VirtAddr::new(va), 0), Some(Level::L4));
        p.fill(VirtAddr::new(va), 0, 2);
        assert_eq!(p.lookup(VirtAddr::new(va), 0), Some(Level::L2));
        // the next 2 MiB: only the root's entry
        assert_eq!(p.lookup(VirtAddr::new(va + (2 << 20)), 0), Some(Level::L4));
        assert_eq!(p.lookup(VirtAddr::new(va), 1), None);
        // INVLPG anywhere in the address space, and only there
        p.fill(VirtAddr::new(va), 1, 2);
        p.flush(Flush::Page {
            va: VirtAddr::new(0),
            pcid: 0,
        });
        assert_eq!(p.lookup(VirtAddr::new(va), 0), None);
        assert_eq!(p.lookup(VirtAddr::new(va), 1), Some(Level::L2));
        p.fill(VirtAddr::new(va), 3, 3);
        p.flush(Flush::AddressSpace { pcid: 2 });
        assert_eq!(p.lookup(VirtAddr::new(va), 3), Some(Level::L3));
        p.flush(Flush::AddressSpace { pcid: 3 });
        assert_eq!(p.lookup(VirtAddr::new(va), 3), None);
        // entries that map pages are in the TLB, not here
        p.fill(VirtAddr::new(va), 0, 1);
        assert_eq!(p.lookup(VirtAddr::new(va), 0), None);
    }

    #[test]
    fn capacity_is_that_of_the_preset() {
        let mut p = Pwc::new(&Config::default().pwc);
        for i in 0..33u64 {
            p.fill(VirtAddr::new(i << 21), 0, 2);
        }
        // 8 sets of 4 ways: set 0 has five candidates, its first is gone
        assert_eq!(p.lookup(VirtAddr::new(0), 0), None);
        assert_eq!(p.lookup(VirtAddr::new(1 << 21), 0), Some(Level::L2));
    }

    #[test]
    fn one_array_for_all_levels() {
        let set = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let config = config::resolve(
            "equal",
            None,
            &[set("pwc.unified", "{ entries = 4, ways = 4 }")],
        );
        let mut p = Pwc::new(&config.unwrap().pwc);
        // The same address bits at two levels are two entries.
        p.fill(VirtAddr::new(0), 0, 3);
        assert_eq!(p.lookup(VirtAddr::new(0), 0), Some(Level::L3));
        p.fill(VirtAddr::new(0), 0, 2);
        assert_eq!(p.lookup(VirtAddr::new(0), 0), Some(Level::L2));
        // Whatever the level, the one that was used longest ago goes.
        for i in 1..=3u64 {
            p.fill(VirtAddr::new(i << 30), 0, 3);
        }
        assert_eq!(p.lookup(VirtAddr::new(1 << 30), 0), Some(Level::L3));
        assert_eq!(p.lookup(VirtAddr::new(1 << 21), 0), None);
        assert_eq!(p.lookup(VirtAddr::new(0), 0), Some(Level::L2));
        let stats: Vec<_> = p.stats().map(|(name, s)| (name, s.hits)).collect();
        assert_eq!(stats, [("pml4", 0), ("pdpt", 2), ("pd", 2)]);
    }
}
