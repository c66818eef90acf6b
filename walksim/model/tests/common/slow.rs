// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of models that are written for simplicity: lists in order of use.

use std::collections::VecDeque;

use fpt_walksim_model::config::Cache;

/// A set-associative LRU store: newest first.
pub struct Lru<K> {
    pub sets: Vec<VecDeque<K>>,
    ways: usize,
}

impl<K: PartialEq + Clone> Lru<K> {
    pub fn new(entries: u32, ways: u32) -> Lru<K> {
        Lru {
            sets: vec![VecDeque::new(); (entries / ways).max(1) as usize],
            ways: ways as usize,
        }
    }
    /// Looks up, makes newest.
    pub fn hit(&mut self, index: u64, key: &K) -> bool {
        let n = self.sets.len() as u64;
        let set = &mut self.sets[(index % n) as usize];
        match set.iter().position(|k| k == key) {
            Some(i) => {
                let key = set.remove(i).unwrap();
                set.push_front(key);
                true
            }
            None => false,
        }
    }
    pub fn put(&mut self, index: u64, key: K) {
        let n = self.sets.len() as u64;
        let ways = self.ways;
        let set = &mut self.sets[(index % n) as usize];
        set.retain(|k| *k != key);
        set.push_front(key);
        set.truncate(ways);
    }
    pub fn drop(&mut self, gone: impl Fn(&K) -> bool) {
        self.sets.iter_mut().for_each(|s| s.retain(|k| !gone(k)));
    }
}

pub struct SlowCache(pub Lru<u64>);

impl SlowCache {
    pub fn new(c: Cache) -> SlowCache {
        SlowCache(Lru::new(c.kib * 16, c.ways))
    }
    pub fn access(&mut self, line: u64) -> bool {
        let hit = self.0.hit(line, &line);
        self.0.put(line, line);
        hit
    }
}
