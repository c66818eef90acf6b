// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of the sets stands for all: L2 and the last level of an organisation are simulated in one of so many sets, and
//! what falls elsewhere is said to be found where such lines are found in these.
//!
//! Which of them is found where is not random: each class of lines gets, at any time, the shares that the simulated
//! sets have. So all counts add up, and two runs are the same. Entries near the root are few lines, most of them in no
//! simulated set, but asked for all the time: an entry whose line was read a short while ago is in L2, and counts in no share.

use crate::addr::PhysLine;
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

/// Counts of a kind by group of sets.
type Groups = [[u64; 3]; GROUPS];

/// Lines of entries that are remembered with the time of their last use.
const RECENT_LINES: usize = 256;

/// What is known from the simulated sets.
pub struct Sample {
    /// Bits of a line's number that choose the set in every cache concerned.
    mask: u64,
    /// Of a hash's 64 bits all but those that choose: sets with 0 there are simulated.
    shift: u32,
    kinds: [Shares; KINDS],
    groups: [Groups; KINDS],
    /// Answers by shares.
    said: [u64; KINDS],
    recent: [(PhysLine, u64); RECENT_LINES],
    /// A line that was used no more than so many accesses ago is in L2.
    near: u64,
}

impl Sample {
    /// One of `every` sets, a power of two; `mask` has the bits of a line's number that choose the set in L2 and beyond,
    /// `lines` is what L2 holds.
    pub fn new(every: u32, mask: u64, lines: u64) -> Sample {
        Sample {
            mask,
            shift: 64 - every.trailing_zeros(),
            kinds: [Shares::default(); KINDS],
            groups: [[[0; 3]; GROUPS]; KINDS],
            said: [0; KINDS],
            recent: [(PhysLine::new(u64::MAX), 0); RECENT_LINES],
            near: lines / 2,
        }
    }

    #[inline(always)]
    fn hash(&self, line: PhysLine) -> u64 {
        let set = (line.number() & self.mask) + 1;
        let h = set.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (h ^ h >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    /// Is the line's set simulated?
    #[inline(always)]
    pub fn holds(&self, line: PhysLine) -> bool {
        self.hash(line) >> self.shift == 0
    }

    /// Was this line of an entry used a short while ago? `now` counts accesses. It has been used now.
    #[inline]
    pub fn is_near(&mut self, line: PhysLine, now: u64) -> bool {
        let number = line.number();
        let place = (number ^ number >> 8 ^ number >> 16) as usize % RECENT_LINES;
        let Some(recent) = self.recent.get_mut(place) else {
            return false;
        };
        let (last, at) = std::mem::replace(recent, (line, now));
        last == line && now.saturating_sub(at) < self.near
    }

    /// A line of a simulated set was found there.
    #[inline]
    pub fn found(&mut self, line: PhysLine, kind: usize, from: From) {
        if let Some(shares) = self.kinds.get_mut(kind) {
            shares.found(from);
        }
        let group = self.hash(line) as usize % GROUPS;
        let by = self.groups.get_mut(kind).and_then(|g| g.get_mut(group));
        if let Some(n) = by.and_then(|by| by.get_mut(from as usize)) {
            *n += 1;
        }
    }

    /// Where a line of another set is said to be: by the shares of its kind, or of the nearest one of which something is known.
    #[inline]
    pub fn say(&mut self, kind: usize) -> From {
        if let Some(said) = self.said.get_mut(kind) {
            *said += 1;
        }
        let known = |k: &usize| self.kinds.get(*k).is_some_and(|s| s.found != [0; 3]);
        let of = (FIRST_ENTRY..=kind).rev().find(known).unwrap_or(kind);
        self.kinds.get_mut(of).map_or(From::Memory, Shares::say)
    }

    /// One standard error of the latency of each class, in parts per million of its `cycles`: what was said of a kind is wrong
    /// by as much as groups of sets differ. `latency` is that of L2, the last level and memory.
    pub fn errors(&self, latency: [f64; 3], cycles: [f64; NAMES.len()]) -> [u64; NAMES.len()] {
        let mut variance = [0.0; NAMES.len()];
        for (kind, (groups, said)) in self.groups.iter().zip(self.said).enumerate() {
            if let Some(sum) = variance.get_mut(kind.min(FIRST_ENTRY)) {
                *sum += (said as f64 * error(groups, latency)).powi(2);
            }
        }
        let mut errors = [0; NAMES.len()];
        for ((error, variance), cycles) in errors.iter_mut().zip(variance).zip(cycles) {
            if cycles > 0.0 {
                *error = (variance.sqrt() / cycles * 1e6) as u64;
            }
        }
        errors
    }

    /// A phase begins: errors are of what comes; shares stay.
    pub fn reset_counters(&mut self) {
        self.groups = [[[0; 3]; GROUPS]; KINDS];
        self.said = [0; KINDS];
        // Counts of accesses begin anew.
        self.recent.iter_mut().for_each(|r| r.1 = 0);
    }
}

/// Kinds from here on are entries.
const FIRST_ENTRY: usize = NAMES.len() - 1;

/// One standard error of the mean latency of a kind; half of all that is possible if there are not two groups.
fn error(groups: &Groups, latency: [f64; 3]) -> f64 {
    let of = |by: &[u64; 3]| {
        let n = by.iter().sum::<u64>() as f64;
        (
            n,
            by.iter()
                .zip(latency)
                .map(|(n, l)| *n as f64 * l)
                .sum::<f64>(),
        )
    };
    let all: Vec<(f64, f64)> = groups.iter().map(of).filter(|g| g.0 > 0.0).collect();
    let n: f64 = all.iter().map(|g| g.0).sum();
    if all.len() < 2 {
        return (latency[2] - latency[0]) / 2.0;
    }
    let mean = all.iter().map(|g| g.1).sum::<f64>() / n;
    let off = |g: &(f64, f64)| (g.1 - mean * g.0).powi(2);
    let count = all.len() as f64;
    (all.iter().map(off).sum::<f64>() * count / (count - 1.0)).sqrt() / n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_sixteen_sets_is_simulated() {
        for bits in [10, 11, 14] {
            let sample = Sample::new(16, (1 << bits) - 1, 8192);
            let held = (0..1u64 << bits)
                .filter(|set| sample.holds(PhysLine::new(*set)))
                .count() as f64;
            let wanted = f64::from(1u32 << bits) / 16.0;
            assert!((held / wanted - 1.0).abs() < 0.35, "{held} of {wanted}");
            // Bits above the set change nothing.
            let holds = |set| sample.holds(PhysLine::new(set));
            assert!((0..1u64 << bits).all(|s| holds(s) == holds(s | 1 << 20)));
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
    fn errors_are_of_what_was_said() {
        let mut sample = Sample::new(2, 1023, 8192);
        let latency = [16.0, 56.0, 180.0];
        let errors = |s: &Sample| s.errors(latency, [1e6; 4]);
        for line in 0..1024 {
            let (number, line) = (line, PhysLine::new(line));
            sample.found(line, 0, From::Llc);
            let from = if number % 3 == 0 {
                From::Memory
            } else {
                From::L2
            };
            sample.found(line, 5, from);
        }
        assert_eq!(errors(&sample), [0; 4]);
        (0..100).for_each(|_| assert_eq!(sample.say(0), From::Llc));
        assert_eq!(errors(&sample), [0; 4]);
        // 1000 answers of about 70 cycles, each 82 or 0 off, from 1024 lines in 16 groups.
        for _ in 0..1000 {
            sample.say(5);
        }
        let [_, _, _, walk] = errors(&sample);
        assert!((500..10_000).contains(&walk), "{walk}");
        // A kind that was never found is answered as the one before.
        assert!((0..100).any(|_| sample.say(6) == From::L2));
    }

    #[test]
    fn near_is_half_of_l2() {
        let mut sample = Sample::new(16, 1023, 8192);
        let mut near = |line, now| sample.is_near(PhysLine::new(line), now);
        assert!(!near(5, 1));
        assert!(near(5, 4000) && !near(5, 9000));
        assert!(!near(5 + 256 * 256 * 256, 9001) && !near(5, 9002));
    }
}
