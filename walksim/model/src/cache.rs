// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set-associative cache with true LRU replacement: only which lines are in it.

use crate::addr::PhysLine;
use crate::config::{self, Replacement};
use crate::policy::{self, Class, Policy, Set, WALK};

/// Physical addresses from here on are no memory of the guest's: tables that counterfactual organisations
/// would have. [`PA_END`] bounds both, so that a tag fits in 32 bits.
pub const SYNTHETIC: u64 = 1 << 43;
/// End of physical addresses.
pub const PA_END: u64 = 1 << 44;

/// Bytes of a line of the host's cache.
const HOST_LINE: usize = 64;
/// Tags in one.
const TAGS: usize = HOST_LINE / size_of::<u32>();

/// The ways of a set are kept in order of their last use, so that the most recently used is the first.
/// A set of 16 ways is one line of the host's cache.
pub struct Cache {
    /// 0: empty; otherwise the tag plus one.
    tags: Box<[u32]>,
    /// Where the first set is, at the beginning of a line of the host's.
    start: usize,
    ways: usize,
    set_mask: u64,
    set_bits: u32,
    /// Of lines that are not there; `None`: the least recently used goes.
    policy: Option<Box<dyn Policy>>,
}

impl Cache {
    /// `config` has been checked: the number of sets is a power of two and at least 64.
    pub fn new(config: config::Cache) -> Cache {
        let lines = u64::from(config.kib) * 1024 / config::LINE;
        let ways = u64::from(config.ways.max(1));
        let sets = (lines / ways).next_power_of_two();
        let tags = vec![0u32; (sets * ways) as usize + TAGS - 1].into_boxed_slice();
        Cache {
            start: tags.as_ptr().align_offset(HOST_LINE).min(TAGS - 1),
            tags,
            ways: ways as usize,
            set_mask: sets - 1,
            set_bits: sets.trailing_zeros(),
            policy: None,
        }
    }

    /// The same with another choice of what is kept.
    pub fn replacing(config: config::Cache, replacement: Replacement) -> Cache {
        Cache {
            policy: policy::make(replacement),
            ..Cache::new(config)
        }
    }

    /// Bits of a line's number that choose its set.
    pub fn set_mask(&self) -> u64 {
        self.set_mask
    }

    #[inline(always)]
    fn place(&self, line: PhysLine) -> (usize, u32) {
        let line = line.number();
        let base = self.start + (line & self.set_mask) as usize * self.ways;
        (base, (line >> self.set_bits) as u32 + 1)
    }

    /// Is this line the most recently used of its set? Then an access to it would
    /// change nothing.
    #[inline(always)]
    pub fn is_newest(&self, line: PhysLine) -> bool {
        let (base, tag) = self.place(line);
        self.tags.get(base) == Some(&tag)
    }

    /// Brings the line's set into the host's cache. The result means nothing.
    #[inline(always)]
    pub fn look(&self, line: PhysLine) -> u32 {
        let (base, _) = self.place(line);
        self.tags.get(base).copied().unwrap_or(0)
    }

    /// Makes the line the most recently used one. False if it was not there, and the least recently used
    /// had to go.
    #[inline]
    pub fn access(&mut self, line: PhysLine) -> bool {
        let (base, tag) = self.place(line);
        let Some(set) = self.tags.get_mut(base..base + self.ways) else {
            return false;
        };
        if set.first() == Some(&tag) {
            return true;
        }
        if let Ok(set) = <&mut [u32; 8]>::try_from(&mut *set) {
            return to_front(set, tag);
        }
        if let Ok(set) = <&mut [u32; 16]>::try_from(&mut *set) {
            return to_front(set, tag);
        }
        // Everything before the line's old place, or everything, moves one place back.
        let mut moving = tag;
        for place in set {
            let old = std::mem::replace(place, moving);
            if old == tag {
                return true;
            }
            moving = old;
        }
        false
    }

    /// Brings a line in as the most recently used one, unless it is there: then nothing changes, and false.
    #[inline]
    pub fn fill_if_absent(&mut self, line: PhysLine) -> bool {
        let (base, tag) = self.place(line);
        let Some(set) = self.tags.get_mut(base..base + self.ways) else {
            return false;
        };
        if let Ok(set) = <&mut [u32; 8]>::try_from(&mut *set) {
            let old = *set;
            let found = old.iter().fold(false, |found, t| found | (*t == tag));
            if !found {
                set[1..].copy_from_slice(&old[..7]);
                set[0] = tag;
            }
            return !found;
        }
        if set.contains(&tag) {
            return false;
        }
        set.copy_within(..set.len() - 1, 1);
        if let Some(first) = set.first_mut() {
            *first = tag;
        }
        true
    }

    /// As [`Cache::access`], by what the line is for.
    #[inline(always)]
    pub fn access_for(&mut self, line: PhysLine, class: Class) -> bool {
        if self.policy.is_none() {
            self.access(line)
        } else {
            self.access_by_policy(line, class)
        }
    }

    fn access_by_policy(&mut self, line: PhysLine, class: Class) -> bool {
        let (base, tag) = self.place(line);
        let (Some(set), Some(policy)) = (self.tags.get_mut(base..base + self.ways), &self.policy)
        else {
            return false;
        };
        let found = set.iter().position(|t| t & !WALK == tag);
        let Some(way) = found.or_else(|| policy.victim(Set(set), class)) else {
            return false;
        };
        let mark = match class {
            Class::Walk => WALK,
            Class::Data => 0,
        };
        set.copy_within(0..way, 1);
        if let Some(first) = set.first_mut() {
            *first = tag | mark;
        }
        found.is_some()
    }

    /// Is the line there? Changes nothing.
    pub fn contains(&self, line: PhysLine) -> bool {
        let (base, tag) = self.place(line);
        self.tags
            .get(base..base + self.ways)
            .is_some_and(|set| set.contains(&tag))
    }
}

/// The same for a set of a usual size, all places at once and without a branch: what a miss of a large cache finds
/// cannot be predicted.
#[inline(always)]
fn to_front<const N: usize>(set: &mut [u32; N], tag: u32) -> bool {
    let old = *set;
    let mut at = [0u32; N];
    for i in 0..N {
        at[i] = if old[i] == tag { i as u32 + 1 } else { 0 };
    }
    let at = at.iter().fold(0, |a, b| a | b);
    // places up to this one move
    let last = at.wrapping_sub(1);
    let mut before = [tag; N];
    before[1..].copy_from_slice(&old[..N - 1]);
    for i in 0..N {
        set[i] = if i as u32 <= last { before[i] } else { old[i] };
    }
    at != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;

    #[test]
    fn the_least_recently_used_goes() {
        // 64 sets of 3 ways
        let mut c = Cache::new(config::Cache { kib: 12, ways: 3 });
        let line = |i: u64| PhysLine::new(i * 64 + 5);
        for i in 0..3 {
            assert!(!c.access(line(i)));
        }
        assert!(c.access(line(0)));
        assert!(c.is_newest(line(0)) && !c.is_newest(line(2)));
        assert!(!c.access(line(3)));
        assert!(!c.contains(line(1)));
        assert!(c.contains(line(0)) && c.contains(line(2)) && c.contains(line(3)));
        assert!(!c.contains(PhysLine::new(6)));
    }

    #[test]
    fn sets_of_usual_sizes_are_lists() {
        for ways in [8, 12, 16] {
            let kib = ways * 4;
            let mut c = Cache::new(config::Cache { kib, ways });
            let mut list: Vec<u64> = Vec::new();
            let mut ran = 1u64;
            for _ in 0..20_000 {
                ran = ran.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let line = (ran >> 40) % (u64::from(ways) * 2) * 64 + 7;
                let at = list.iter().position(|l| *l == line);
                let found = PhysLine::new(line);
                assert_eq!(c.contains(found), at.is_some());
                assert_eq!(c.access(found), at.is_some());
                if let Some(at) = at {
                    list.remove(at);
                }
                list.insert(0, line);
                list.truncate(ways as usize);
            }
        }
    }

    #[test]
    fn page_tables_stay_when_data_come() {
        let config = config::Cache { kib: 64, ways: 8 };
        let mut c = Cache::replacing(config, Replacement::PageTablesFirst);
        // The same by a list: newest first, (line, is of a page table).
        let mut list: Vec<(u64, bool)> = Vec::new();
        let mut ran = 9u64;
        let (mut hits, mut walk_hits) = (0, 0);
        for n in 0..40_000 {
            ran = ran.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let walk = ran >> 60 < 4;
            // All in one of 128 sets; page tables are other lines than data.
            let number = (ran >> 40) % if walk { 10 } else { 20 };
            let line = (number * 2 + u64::from(walk)) * 128 + 3;
            let class = if walk { Class::Walk } else { Class::Data };
            let at = list.iter().position(|l| l.0 == line);
            assert_eq!(
                c.access_for(PhysLine::new(line), class),
                at.is_some(),
                "access {n}"
            );
            hits += u64::from(at.is_some() && !walk);
            walk_hits += u64::from(at.is_some() && walk);
            match at {
                Some(at) => drop(list.remove(at)),
                None if list.len() == 8 => {
                    let data = list.iter().rposition(|l| !l.1);
                    list.remove(data.unwrap_or(7));
                }
                None => {}
            }
            list.insert(0, (line, walk));
        }
        // Ten lines of page tables in eight ways take nearly all there is.
        assert!(walk_hits > 3 * hits, "{walk_hits} {hits}");
    }

    #[test]
    fn page_tables_go_past() {
        let config = config::Cache { kib: 64, ways: 8 };
        let mut c = Cache::replacing(config, Replacement::NoPageTables);
        assert!(
            !c.access_for(PhysLine::new(3), Class::Walk)
                && !c.access_for(PhysLine::new(3), Class::Walk)
        );
        assert!(
            !c.access_for(PhysLine::new(3), Class::Data)
                && c.access_for(PhysLine::new(3), Class::Walk)
        );
        (1..8u64).for_each(|i| assert!(!c.access_for(PhysLine::new(3 + i * 128), Class::Data)));
        (8..99u64).for_each(|i| assert!(!c.access_for(PhysLine::new(3 + i * 128), Class::Walk)));
        assert!((0..8u64).all(|i| c.access_for(PhysLine::new(3 + i * 128), Class::Data)));
    }

    #[test]
    fn a_prefetch_is_a_look_and_a_fill() {
        for ways in [2, 3, 8, 16] {
            let config = config::Cache {
                kib: ways * 4,
                ways,
            };
            let (mut one, mut two) = (Cache::new(config), Cache::new(config));
            let mut ran = 5u64;
            for _ in 0..20_000 {
                ran = ran.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let line = PhysLine::new((ran >> 40) % (u64::from(ways) * 2) * 64 + 9);
                if ran >> 63 == 0 {
                    assert_eq!(one.access(line), two.access(line));
                } else {
                    let absent = !two.contains(line);
                    if absent {
                        two.access(line);
                    }
                    assert_eq!(one.fill_if_absent(line), absent);
                }
            }
        }
    }

    #[test]
    fn sets_begin_at_lines_of_the_host() {
        for kib in [32, 512, 16384] {
            let c = Cache::new(config::Cache { kib, ways: 16 });
            assert_eq!(c.tags[c.start..].as_ptr() as usize % HOST_LINE, 0);
        }
    }

    #[test]
    fn tags_keep_all_addresses_apart() {
        let mut c = Cache::new(config::Cache { kib: 32, ways: 8 });
        assert!(!c.access(PhysLine::new(0)));
        assert!(!c.access(PhysLine::new((PA_END - 64) / 64 - 64)));
        assert!(!c.access(PhysLine::of(PhysAddr::new(SYNTHETIC))));
        assert!(c.access(PhysLine::new(0)));
    }
}
