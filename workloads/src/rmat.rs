// SPDX-License-Identifier: MIT OR Apache-2.0
//! R-MAT graphs (Chakrabarti, Zhan, Faloutsos 2004) with Graph500's probabilities 0.57 0.19 0.19 0.05.
//!
//! Two levels of the recursion are drawn at once from 12 random bits through a table, since
//! generating is part of the measured loading phase and must not drown it.

use crate::edges::EdgeList;
use crate::rng::Rng;

/// Bits of one draw, and what they stand for: two levels, 16 quadrants.
const DRAW: u32 = 12;
const QUADRANT: [u32; 4] = [57, 19, 19, 5];

type Table = [u8; 1 << DRAW];

fn table() -> Table {
    let mut out = [0; 1 << DRAW];
    let (mut begin, mut sum) = (0, 0);
    for pair in 0..16u32 {
        let (hi, lo) = (pair >> 2, pair & 3);
        sum += QUADRANT[hi as usize] * QUADRANT[lo as usize];
        // Bits of source and target, first level above second.
        let src = ((hi >> 1) << 1) | (lo >> 1);
        let dst = ((hi & 1) << 1) | (lo & 1);
        let end = ((sum << DRAW) / 10_000) as usize;
        out[begin..end].fill((src << 2 | dst) as u8);
        begin = end;
    }
    out
}

/// Spreads vertices of 2^scale, so that a high degree says nothing about the number; a bijection.
fn scatter(v: u32, scale: u32) -> u32 {
    let mask = ((1u64 << scale) - 1) as u32;
    let v = v.wrapping_mul(0x9e37_79b1) & mask;
    let v = v ^ (v >> scale.div_ceil(2));
    v.wrapping_mul(0x85eb_ca6b) & mask
}

/// `factor` x 2^`scale` directed edges between 2^`scale` vertices; loops and repeats can occur.
/// `scale` is from 1 to 31.
pub fn generate(scale: u32, factor: u64, seed: u64) -> EdgeList {
    let table = table();
    let count = factor << scale;
    let mut rng = Rng::new(seed);
    let draws = scale.div_ceil(2);
    let surplus = draws * 2 - scale;
    let pairs = (0..count)
        .map(|_| {
            // Source above, target below.
            let mut both = 0u64;
            let mut left = draws;
            while left > 0 {
                let now = left.min(u64::BITS / DRAW);
                left -= now;
                let mut bits = rng.draw();
                for _ in 0..now {
                    let cell = u64::from(table[bits as usize % (1 << DRAW)]);
                    bits >>= DRAW;
                    both = both << 2 | (cell & 0b1100) << 30 | cell & 0b11;
                }
            }
            let (src, dst) = ((both >> 32) as u32, both as u32);
            (
                scatter(src >> surplus, scale),
                scatter(dst >> surplus, scale),
            )
        })
        .collect();
    EdgeList {
        vertices: 1 << scale,
        pairs,
        weights: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_the_probabilities() {
        let t = table();
        assert_eq!(t.len(), 1 << DRAW);
        let share =
            |f: &dyn Fn(u8) -> bool| t.iter().filter(|c| f(**c)).count() as f64 / t.len() as f64;
        // First level: source bit 3, target bit 1.
        assert!((share(&|c| c & 0b1010 == 0) - 0.57).abs() < 0.002);
        assert!((share(&|c| c & 0b1010 == 0b0010) - 0.19).abs() < 0.002);
        assert!((share(&|c| c & 0b0101 == 0b0101) - 0.05).abs() < 0.005);
    }

    #[test]
    fn scatter_is_a_bijection() {
        for scale in [1, 2, 7, 10, 13] {
            let mut seen = vec![false; 1 << scale];
            for v in 0..1u32 << scale {
                seen[scatter(v, scale) as usize] = true;
            }
            assert!(seen.iter().all(|s| *s), "{scale}");
        }
    }

    #[test]
    fn sizes_seeds_and_skew() {
        let g = generate(11, 8, 1);
        assert_eq!((g.vertices, g.pairs.len()), (2048, 8 * 2048));
        assert!(g.pairs.iter().all(|(a, b)| *a < 2048 && *b < 2048));
        assert_eq!(g.pairs, generate(11, 8, 1).pairs);
        assert_ne!(g.pairs, generate(11, 8, 2).pairs);
        let mut degree = vec![0u32; 2048];
        for (a, _) in &g.pairs {
            degree[*a as usize] += 1;
        }
        // A uniform graph would have at most some 25.
        assert!(*degree.iter().max().unwrap() > 100);
    }
}
