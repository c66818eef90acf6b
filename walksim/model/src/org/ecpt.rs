// SPDX-License-Identifier: MIT OR Apache-2.0
//! Elastic cuckoo page tables: a hashed table per page size and address space, with several ways that are
//! probed in parallel, that grow while in use, and cuckoo walk caches that say which tables to probe.
//!
//! A slot is a line of eight neighbouring translations. What the guest maps is learnt from its walks, so
//! that a table holds what was used, and a mapping that goes stays. Tables lie at synthetic addresses.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use fpt_geometry::Level;

use crate::addr::PhysAddr;
use crate::cache::{PA_END, SYNTHETIC};
use crate::config::{self, Config};
use crate::org::{Organisation, Port};
use crate::report::{self, HitMiss, Kind};
use crate::walk::{is_kernel, Flush, Size, Walk, VA_MASK};

const READS: [&str; 5] = ["pte", "pmd", "pud", "cwt_pmd", "cwt_pud"];
const CWT_PMD: usize = 3;
const CWT_PUD: usize = 4;

/// Translations in a slot, as log2.
const CLUSTER: u32 = 3;
/// Headers in a line of a cuckoo walk table, as log2: one byte for 2 MiB or 1 GiB of addresses.
const HEADERS: u32 = 6;
/// Address spaces remembered; more give up the oldest.
const MAX_SPACES: usize = 128;
/// Longest chain of displaced slots.
const MAX_KICKS: u32 = 64;
const MAX_WAYS: usize = 8;

/// Distributes synthetic addresses above those of other organisations.
struct Frames {
    next: u64,
}

impl Frames {
    /// `bytes` is a power of two.
    fn take(&mut self, bytes: u64) -> u64 {
        const FROM: u64 = SYNTHETIC + (1 << 42);
        const SPACE: u64 = PA_END - FROM;
        self.next = self.next.next_multiple_of(bytes.min(4096));
        if self.next + bytes > SPACE {
            self.next = 0;
        }
        let at = FROM + self.next;
        self.next += bytes;
        at
    }
}

/// Maps of the bookkeeping, asked several times a walk: keys are addresses, which no one chooses to collide.
type Map<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Mix>>;

#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        let h = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = h ^ h >> 32;
    }
}

/// A table that can be probed at one slot of each way.
struct Ways {
    /// Key plus one by way and slot; 0: empty.
    slots: Vec<Box<[u64]>>,
    base: Vec<u64>,
    mask: u64,
}

impl Ways {
    fn new(ways: usize, slots: u64, frames: &mut Frames) -> Ways {
        Ways {
            slots: (0..ways).map(|_| vec![0; slots as usize].into()).collect(),
            base: (0..ways)
                .map(|_| frames.take(slots * config::LINE))
                .collect(),
            mask: slots - 1,
        }
    }

    fn at(&mut self, way: usize, slot: u64) -> Option<&mut u64> {
        self.slots.get_mut(way)?.get_mut(slot as usize)
    }
}

/// One hash function per way: the finaliser of MurmurHash3 over the key and the way.
fn hash(key: u64, way: usize) -> u64 {
    let mut h = key ^ (way as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

/// An elastic table: while it grows, slots below `moved` of each way have gone to `next`.
struct Elastic {
    now: Ways,
    next: Option<(Ways, u64)>,
    used: u64,
    /// Chooses ways; any sequence does, and the same one gives the same run.
    turn: u64,
    resizes: u64,
}

impl Elastic {
    fn new(config: &config::Ecpt, frames: &mut Frames) -> Elastic {
        Elastic {
            now: Ways::new(
                config.ways as usize,
                u64::from(config.initial_slots),
                frames,
            ),
            next: None,
            used: 0,
            turn: 0,
            resizes: 0,
        }
    }

    fn ways(&self) -> usize {
        self.now.slots.len()
    }

    /// The slot of a way that may hold the key: (is it in the new table?, slot).
    fn slot(&self, key: u64, way: usize) -> (bool, u64) {
        let h = hash(key, way);
        let slot = h & self.now.mask;
        match &self.next {
            Some((next, moved)) if slot < *moved => (true, h & next.mask),
            _ => (false, slot),
        }
    }

    fn place(&mut self, key: u64, way: usize) -> Option<&mut u64> {
        let (new, slot) = self.slot(key, way);
        match &mut self.next {
            Some((next, _)) if new => next.at(way, slot),
            _ => self.now.at(way, slot),
        }
    }

    fn address(&self, key: u64, way: usize) -> u64 {
        let (new, slot) = self.slot(key, way);
        let ways = match &self.next {
            Some((next, _)) if new => next,
            _ => &self.now,
        };
        ways.base.get(way).copied().unwrap_or(SYNTHETIC) + slot * config::LINE
    }

    fn find(&mut self, key: u64) -> Option<usize> {
        (0..self.ways()).find(|way| self.place(key, *way).is_some_and(|s| *s == key + 1))
    }

    /// Puts a key in; gives back the one that found no place.
    fn put(&mut self, key: u64) -> Result<(), u64> {
        let mut key = key;
        let ways = self.ways() as u64;
        // An empty place first, so that chains are short.
        for way in 0..self.ways() {
            if let Some(place) = self.place(key, way).filter(|p| **p == 0) {
                *place = key + 1;
                return Ok(());
            }
        }
        let mut last = ways;
        for _ in 0..MAX_KICKS {
            self.turn = self
                .turn
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let mut way = (self.turn >> 33) % ways;
            if way == last {
                way = (way + 1) % ways;
            }
            last = way;
            let Some(place) = self.place(key, way as usize) else {
                break;
            };
            let old = std::mem::replace(place, key + 1);
            if old == 0 {
                return Ok(());
            }
            key = old - 1;
        }
        Err(key)
    }

    fn insert(&mut self, key: u64, config: &config::Ecpt, frames: &mut Frames) {
        let mut homeless = self.put(key);
        // Twice is more than enough: each doubles the table.
        for _ in 0..4 {
            let Err(key) = homeless else { break };
            self.grow(frames);
            self.migrate(u64::MAX);
            homeless = self.put(key);
        }
        self.used += 1;
        let slots = (self.now.mask + 1) * self.ways() as u64;
        if self.next.is_none() && self.used as f64 > config.max_load * slots as f64 {
            self.grow(frames);
        }
        self.migrate(u64::from(config.rehash_step));
    }

    fn grow(&mut self, frames: &mut Frames) {
        if self.next.is_none() {
            let slots = (self.now.mask + 1) * 2;
            self.next = Some((Ways::new(self.ways(), slots, frames), 0));
            self.resizes += 1;
        }
    }

    /// Moves up to `steps` slots of each way to the new table.
    fn migrate(&mut self, steps: u64) {
        for _ in 0..steps {
            let Some((_, moved)) = &mut self.next else {
                return;
            };
            if *moved > self.now.mask {
                break;
            }
            let slot = *moved;
            *moved += 1;
            for way in 0..self.ways() {
                let old = self.now.at(way, slot).map_or(0, std::mem::take);
                if old == 0 {
                    continue;
                }
                // The same way of the new table has two places for it, both new and mostly empty.
                let key = old - 1;
                match self.place(key, way) {
                    Some(place) if *place == 0 => *place = old,
                    _ => {
                        if self.put(key).is_err() {
                            self.used = self.used.saturating_sub(1);
                        }
                    }
                }
            }
        }
        if let Some((next, moved)) = self.next.take() {
            if moved > self.now.mask {
                self.now = next;
            } else {
                self.next = Some((next, moved));
            }
        }
    }
}

/// The tables of one address space.
struct Space {
    tables: [Option<Elastic>; 3],
    /// Sizes of pages (bit per size) in each 1 GiB and in each 2 MiB: what the cuckoo walk tables know.
    in_pud: Map<u64, u8>,
    in_pmd: Map<u64, u8>,
    /// Addresses of lines of the cuckoo walk tables.
    cwt: Map<(bool, u64), u64>,
}

impl Space {
    fn new() -> Space {
        Space {
            tables: [None, None, None],
            in_pud: Map::default(),
            in_pmd: Map::default(),
            cwt: Map::default(),
        }
    }
}

/// Fully associative, LRU; a handful of entries.
struct Cwc {
    /// (space, line), newest last.
    lines: VecDeque<(u64, u64)>,
    capacity: usize,
    stats: HitMiss,
}

impl Cwc {
    fn new(capacity: u32) -> Cwc {
        Cwc {
            lines: VecDeque::new(),
            capacity: capacity as usize,
            stats: HitMiss::default(),
        }
    }

    fn access(&mut self, space: u64, line: u64) -> bool {
        let found = self.lines.iter().position(|l| *l == (space, line));
        match found {
            Some(i) => {
                self.lines.remove(i);
                self.stats.hits += 1;
            }
            None => {
                self.stats.misses += 1;
                if self.lines.len() >= self.capacity {
                    self.lines.pop_front();
                }
            }
        }
        self.lines.push_back((space, line));
        found.is_some()
    }
}

pub struct Ecpt {
    config: config::Ecpt,
    spaces: Map<u64, Space>,
    /// Address spaces, oldest first.
    order: VecDeque<u64>,
    frames: Frames,
    pmd: Cwc,
    pud: Cwc,
    wasted: u64,
    /// What probes that turned out wrong cost if they are charged: the distance of the two bounds.
    wasted_cycles: f64,
    resizes: u64,
}

/// The kernel's tables belong to no process.
const KERNEL: u64 = u64::MAX;

impl Ecpt {
    pub fn new(config: &Config) -> Ecpt {
        Ecpt {
            config: config.ecpt,
            spaces: Map::default(),
            order: VecDeque::new(),
            frames: Frames { next: 0 },
            pmd: Cwc::new(config.ecpt.cwc_pmd),
            pud: Cwc::new(config.ecpt.cwc_pud),
            wasted: 0,
            wasted_cycles: 0.0,
            resizes: 0,
        }
    }

    fn space(&mut self, id: u64) -> &mut Space {
        if !self.spaces.contains_key(&id) {
            if self.order.len() >= MAX_SPACES {
                // never the kernel's, which would be the oldest
                if let Some(old) = self.order.pop_front() {
                    if old == KERNEL {
                        self.order.push_back(old);
                    } else {
                        self.spaces.remove(&old);
                    }
                }
            }
            self.order.push_back(id);
        }
        self.spaces.entry(id).or_insert_with(Space::new)
    }
}

impl Organisation for Ecpt {
    fn name(&self) -> &'static str {
        "ecpt"
    }

    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }

    fn reads(&self) -> &'static [&'static str] {
        &READS
    }

    fn walk(&mut self, walk: &Walk, _pcid: u16, port: &mut Port<'_>) {
        let va = walk.va.as_u64() & VA_MASK;
        let id = if is_kernel(walk.va) {
            KERNEL
        } else {
            walk.root.as_u64()
        };
        let size = walk.size as usize;
        let key = va >> (walk.size.shift() + CLUSTER);
        let (pmd, pud) = (va >> Level::L2.shift(), va >> Level::L3.shift());
        let config = self.config;

        // The kernel put the translation in when it mapped the page: no cost of the walk.
        self.space(id);
        let (spaces, frames) = (&mut self.spaces, &mut self.frames);
        let Some(space) = spaces.get_mut(&id) else {
            return;
        };
        let Some(table) = space.tables.get_mut(size) else {
            return;
        };
        let table = table.get_or_insert_with(|| Elastic::new(&config, frames));
        let before = table.resizes;
        let way = match table.find(key) {
            Some(way) => way,
            None => {
                table.insert(key, &config, frames);
                table.find(key).unwrap_or(0)
            }
        };
        self.resizes += table.resizes - before;
        *space.in_pud.entry(pud).or_insert(0) |= 1 << size;
        *space.in_pmd.entry(pmd).or_insert(0) |= 1 << size;

        // Which sizes may it be, and is the way known?
        let mut fetched = [None; 2];
        let line = |is_pmd: bool, number: u64, space: &mut Space, frames: &mut Frames| {
            *space
                .cwt
                .entry((is_pmd, number))
                .or_insert_with(|| frames.take(config::LINE))
        };
        let sizes = if self.pmd.access(id, pmd >> HEADERS) {
            space.in_pmd.get(&pmd).copied()
        } else {
            fetched[0] = Some(line(true, pmd >> HEADERS, space, frames));
            if self.pud.access(id, pud >> HEADERS) {
                space.in_pud.get(&pud).copied()
            } else {
                fetched[1] = Some(line(false, pud >> HEADERS, space, frames));
                None
            }
        };
        let known = sizes.is_some();
        let sizes = sizes.unwrap_or(7) | 1 << size;

        let mut probes = [(0usize, 0u64); 3 * MAX_WAYS];
        let mut n = 0;
        for s in Size::ALL {
            if sizes & 1 << (s as usize) == 0 {
                continue;
            }
            let Some(Some(table)) = space.tables.get(s as usize) else {
                continue;
            };
            let other = va >> (s.shift() + CLUSTER);
            for w in 0..table.ways() {
                let right = s == walk.size && w == way;
                // Headers name the way of a large page; those of 4 KiB pages are too many to name.
                if !right && known && s == walk.size && s != Size::Small {
                    continue;
                }
                if right {
                    continue;
                }
                if let Some(probe) = probes.get_mut(n) {
                    *probe = (s as usize, table.address(other, w));
                    n += 1;
                }
            }
        }
        let home = space
            .tables
            .get(size)
            .and_then(Option::as_ref)
            .map_or(SYNTHETIC, |t| t.address(key, way));
        let mut overlapped = 0.0;
        for (what, pa) in probes.iter().take(n) {
            overlapped += port.read(*what, PhysAddr::new(*pa));
        }
        self.wasted += n as u64;
        for (what, pa) in [CWT_PMD, CWT_PUD].into_iter().zip(fetched) {
            if let Some(pa) = pa {
                overlapped += port.read(what, PhysAddr::new(pa));
            }
        }
        let latency = port.read(size, PhysAddr::new(home));
        let parallelism = port.cycles().data_parallelism;
        port.spend(latency + config.hash_cycles.max(config.cwc_cycles));
        self.wasted_cycles += overlapped / parallelism;
        if config.charge_wasted {
            port.spend(overlapped / parallelism);
        }
    }

    fn flush(&mut self, what: Flush) {
        for cwc in [&mut self.pmd, &mut self.pud] {
            match what {
                // As page-walk caches do.
                Flush::All | Flush::Page { .. } => cwc.lines.clear(),
                Flush::AddressSpace { .. } => cwc.lines.retain(|l| l.0 == KERNEL),
            }
        }
    }

    fn report(&self, out: &mut report::Organisation) {
        out.pwc.insert("cwc_pmd".to_owned(), self.pmd.stats);
        out.pwc.insert("cwc_pud".to_owned(), self.pud.stats);
        out.details.insert("wasted_probes".to_owned(), self.wasted);
        out.details
            .insert(report::WASTED_CYCLES.to_owned(), self.wasted_cycles as u64);
        out.details.insert("resizes".to_owned(), self.resizes);
    }

    fn reset_counters(&mut self) {
        self.pmd.stats = HitMiss::default();
        self.pud.stats = HitMiss::default();
        self.wasted = 0;
        self.wasted_cycles = 0.0;
        self.resizes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_table_loses_nothing() {
        let config = Config::default().ecpt;
        let config = config::Ecpt {
            initial_slots: 16,
            ..config
        };
        let mut frames = Frames { next: 0 };
        let mut table = Elastic::new(&config, &mut frames);
        for key in 0..20_000u64 {
            let key = key * 0x1_0001;
            table.insert(key, &config, &mut frames);
            assert!(table.find(key).is_some(), "{key}");
        }
        for key in 0..20_000u64 {
            assert!(table.find(key * 0x1_0001).is_some(), "{key}");
            assert!(table.find(key * 0x1_0001 + 1).is_none());
        }
        assert_eq!(table.used, 20_000);
        assert!(table.resizes >= 9);
        let slots = (table.now.mask + 1) * 3;
        assert!(table.next.is_some() || table.used as f64 <= config.max_load * slots as f64 + 1.0);
    }

    #[test]
    fn ways_have_lines_of_their_own() {
        let config = Config::default().ecpt;
        let mut frames = Frames { next: 0 };
        let table = Elastic::new(&config, &mut frames);
        let lines: std::collections::HashSet<u64> = (0..3).map(|w| table.address(5, w)).collect();
        assert_eq!(lines.len(), 3);
    }
}
