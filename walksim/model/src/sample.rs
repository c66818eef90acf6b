// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of the sets stands for all: L2 and the last level of an organisation are simulated in one of so many sets, and
//! what falls elsewhere is said to be found where such lines are found in these.
//!
//! Which of them is found where is not random: each class of lines gets, at any time, the shares that the simulated
//! sets have. So all counts add up, and two runs are the same.

use crate::memory::From;

/// Classes of lines whose shares are kept apart: data, fetches, prefetches, and each kind of entry.
pub const KINDS: usize = 3 + crate::org::MAX_READS;
/// Names of what an error is given for; entries of all kinds are one.
pub const NAMES: [&str; 4] = ["data", "fetch", "prefetch", "walk"];
/// Disjoint groups of simulated sets, whose differences tell the error.
const GROUPS: usize = 16;
/// Shares are those of about so many accesses before.
const RECENT: u64 = 1 << 16;

#[derive(Clone, Copy, Default)]
struct Shares {
    /// Where lines of simulated sets were found.
    found: [u64; 3],
    /// What was said of the others.
    said: [u64; 3],
}

impl Shares {
    fn found(&mut self, from: From) {
        if let Some(n) = self.found.get_mut(from as usize) {
            *n += 1;
        }
        if self.found.iter().sum::<u64>() > RECENT {
            self.found.iter_mut().for_each(|n| *n /= 2);
            self.said.iter_mut().for_each(|n| *n /= 2);
        }
    }

    /// The place that is furthest behind its share; memory as long as nothing is known.
    #[inline]
    fn say(&mut self) -> From {
        let all = self.found.iter().sum::<u64>();
        let [l2, llc, memory] = self.found;
        let said = self.said.iter().sum::<u64>() + 1;
        let behind = |found: u64, n: u64| (found * said) as i64 - (n * all) as i64;
        let behind = [
            behind(l2, self.said[0]),
            behind(llc, self.said[1]),
            behind(memory, self.said[2]),
        ];
        let from = if behind[0] > behind[1] && behind[0] > behind[2] {
            From::L2
        } else if behind[1] > behind[2] {
            From::Llc
        } else {
            From::Memory
        };
        self.said[from as usize] += 1;
        from
    }
}

/// What is known from the simulated sets.
pub struct Sample {
    /// Bits of a line's number that choose the set in every cache concerned.
    mask: u64,
    /// Of a hash's 64 bits all but those that choose: sets with 0 there are simulated.
    shift: u32,
    kinds: [Shares; KINDS],
    groups: [[[u64; 3]; NAMES.len()]; GROUPS],
}

impl Sample {
    /// One of `every` sets, a power of two; `mask` has the bits of a line's number that choose L2's set.
    pub fn new(every: u32, mask: u64) -> Sample {
        Sample {
            mask,
            shift: 64 - every.trailing_zeros(),
            kinds: [Shares::default(); KINDS],
            groups: [[[0; 3]; NAMES.len()]; GROUPS],
        }
    }

    #[inline(always)]
    fn hash(&self, line: u64) -> u64 {
        let set = (line & self.mask) + 1;
        let h = set.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (h ^ h >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    /// Is the line's set simulated?
    #[inline(always)]
    pub fn holds(&self, line: u64) -> bool {
        self.hash(line) >> self.shift == 0
    }

    /// A line of a simulated set was found there.
    #[inline]
    pub fn found(&mut self, line: u64, kind: usize, from: From) {
        if let Some(shares) = self.kinds.get_mut(kind) {
            shares.found(from);
        }
        let group = self.hash(line) as usize % GROUPS;
        let by = self
            .groups
            .get_mut(group)
            .and_then(|g| g.get_mut(kind.min(3)));
        if let Some(n) = by.and_then(|by| by.get_mut(from as usize)) {
            *n += 1;
        }
    }

    /// Where a line of another set is said to be.
    #[inline]
    pub fn say(&mut self, kind: usize) -> From {
        self.kinds.get_mut(kind).map_or(From::Memory, Shares::say)
    }

    /// One standard error of the mean latency of each class, in parts per million of it, from the groups' differences;
    /// 0 where nothing was seen.
    pub fn errors(&self, latency: [f64; 3]) -> [u64; NAMES.len()] {
        std::array::from_fn(|class| {
            let of = |group: &[[u64; 3]; NAMES.len()]| {
                let by = group.get(class).copied().unwrap_or_default();
                let n = by.iter().sum::<u64>() as f64;
                let cycles = by
                    .iter()
                    .zip(latency)
                    .map(|(n, l)| *n as f64 * l)
                    .sum::<f64>();
                (n, cycles)
            };
            let all: Vec<(f64, f64)> = self.groups.iter().map(of).filter(|g| g.0 > 0.0).collect();
            let n: f64 = all.iter().map(|g| g.0).sum();
            let cycles: f64 = all.iter().map(|g| g.1).sum();
            if all.len() < 2 || cycles <= 0.0 {
                return 0;
            }
            let mean = cycles / n;
            let off = |g: &(f64, f64)| (g.1 - mean * g.0).powi(2);
            let groups = all.len() as f64;
            let variance = all.iter().map(off).sum::<f64>() * groups / (groups - 1.0) / (n * n);
            (variance.sqrt() / mean * 1e6) as u64
        })
    }

    /// A phase begins: errors are of what comes; shares stay.
    pub fn reset_counters(&mut self) {
        self.groups = [[[0; 3]; NAMES.len()]; GROUPS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_sixteen_sets_is_simulated() {
        for bits in [10, 11, 14] {
            let sample = Sample::new(16, (1 << bits) - 1);
            let held = (0..1u64 << bits).filter(|set| sample.holds(*set)).count() as f64;
            let wanted = f64::from(1u32 << bits) / 16.0;
            assert!((held / wanted - 1.0).abs() < 0.35, "{held} of {wanted}");
            // Bits above the set change nothing.
            assert!((0..1u64 << bits).all(|s| sample.holds(s) == sample.holds(s | 1 << 20)));
        }
    }

    #[test]
    fn shares_are_those_of_what_was_found() {
        let mut shares = Shares::default();
        assert_eq!(shares.say(), From::Memory);
        let mut said = [0u32; 3];
        for i in 0..100_000 {
            shares.found(match i % 10 {
                0 => From::L2,
                1..=3 => From::Llc,
                _ => From::Memory,
            });
            for _ in 0..15 {
                said[shares.say() as usize] += 1;
            }
        }
        let share = said.map(|n| f64::from(n) / 1_500_000.0);
        for (share, wanted) in share.iter().zip([0.1, 0.3, 0.6]) {
            assert!((share - wanted).abs() < 0.001, "{said:?}");
        }
    }

    #[test]
    fn equal_groups_have_no_error() {
        let mut sample = Sample::new(1 << 1, 1023);
        for line in 0..1024 {
            sample.found(line, 0, From::Llc);
        }
        assert_eq!(sample.errors([16.0, 56.0, 180.0]), [0; 4]);
        for line in 0..1024 {
            let from = if line % 3 == 0 {
                From::Memory
            } else {
                From::L2
            };
            sample.found(line, 5, from);
        }
        let [data, fetch, _, walk] = sample.errors([16.0, 56.0, 180.0]);
        assert!(
            data == 0 && fetch == 0 && walk > 1000 && walk < 200_000,
            "{walk}"
        );
    }
}
