// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames are tables: a bit for each, that every store looks at without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use fpt_qemu_plugin::Ram;
use fpt_tlbsan_model::{Frame, GuestMemory};

pub struct Watch(Vec<AtomicU64>);

impl Watch {
    /// A watch of the physical addresses below `end`.
    pub fn new(end: u64) -> Watch {
        let words = (end >> 12).div_ceil(64) as usize;
        Watch((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn at(&self, frame: Frame) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get(usize::try_from(frame.0 / 64).ok()?)?;
        Some((word, 1 << (frame.0 % 64)))
    }

    #[inline]
    pub fn has(&self, frame: Frame) -> bool {
        self.at(frame)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    pub fn add(&self, frame: Frame) {
        if let Some((word, bit)) = self.at(frame) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub fn remove(&self, frame: Frame) {
        if let Some((word, bit)) = self.at(frame) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

/// The guest's memory as the ledger reads it. A page that is read as a table is watched from just before
/// that: a store that the reading misses is reported.
pub struct Tables {
    pub ram: Ram,
    pub watch: &'static Watch,
}

impl GuestMemory for Tables {
    fn read(&self, pa: u64) -> Option<u64> {
        self.ram.read(pa)
    }

    fn read_table(&self, pa: u64, to: &mut [u64]) -> bool {
        if self.ram.read(pa).is_none() {
            return false;
        }
        self.watch.add(Frame::of(pa));
        self.ram.read_words(pa, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        let watch = Watch::new(1 << 20);
        for frame in [0, 63, 64, 255].map(Frame) {
            assert!(!watch.has(frame));
            watch.add(frame);
            assert!(watch.has(frame) && !watch.has(frame.plus(1)));
        }
        watch.remove(Frame(63));
        assert!(!watch.has(Frame(63)) && watch.has(Frame(64)));
        // Beyond the memory there are no tables.
        watch.add(Frame(256));
        watch.remove(Frame(u64::MAX));
        assert!(!watch.has(Frame(256)));
    }
}
