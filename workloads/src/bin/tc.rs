// SPDX-License-Identifier: MIT OR Apache-2.0
//! Triangles, by intersection of sorted rows; each edge is kept at its end of lower degree.

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::rng::Rng;
use fpt_workloads::slots::Slots;

struct State {
    /// Triangles whose vertex of lowest rank this is.
    counts: Slots<u64>,
    total: u64,
}

struct Tc;

/// Vertices that are counted again after the run, and pairs of neighbours at most for that.
const SAMPLES: u32 = 2000;
const PAIRS: u64 = 2_000_000;

/// Another way to count: every pair of neighbours, is there an edge?
fn by_pairs(graph: &Csr, v: u32) -> u64 {
    let row = graph.row(v);
    let edge = |a: u32, b: u32| graph.row(a).binary_search(&b).is_ok();
    let mut count = 0;
    for (i, &a) in row.iter().enumerate() {
        for &b in &row[i + 1..] {
            count += u64::from(edge(a, b) || edge(b, a));
        }
    }
    count
}

impl Kernel for Tc {
    const NAME: &'static str = "tc";
    const SHAPE: Shape = Shape {
        edges: Direction::Upward,
        simple: true,
        weights: false,
    };
    type State = State;

    fn prepare(graph: &Csr) -> State {
        State {
            counts: Slots::new(graph.vertices() as usize, 0),
            total: 0,
        }
    }

    fn run(graph: &Csr, state: &mut State) {
        for v in 0..graph.vertices() {
            let mine = graph.row(v);
            let mut count = 0;
            for &to in mine {
                let (mut a, mut b) = (mine, graph.row(to));
                while let ([x, rest_a @ ..], [y, rest_b @ ..]) = (a, b) {
                    count += u64::from(x == y);
                    if x <= y {
                        a = rest_a;
                    }
                    if y <= x {
                        b = rest_b;
                    }
                }
            }
            state.counts[v] = count;
            state.total += count;
        }
    }

    fn verify(graph: &Csr, state: &State) -> Result<String> {
        let sum: u64 = state.counts.iter().sum();
        ensure!(
            sum == state.total,
            "counts sum up to {sum}, not {}",
            state.total
        );
        let n = graph.vertices();
        let mut rng = Rng::new(0x7c);
        let (mut pairs, mut samples) = (0, 0);
        // A small graph is counted again as a whole.
        let all = n <= SAMPLES;
        for i in 0..SAMPLES.min(n) {
            let v = if all {
                i
            } else {
                rng.below(u64::from(n)) as u32
            };
            pairs += graph.degree(v) * graph.degree(v);
            if pairs > PAIRS && !all {
                break;
            }
            samples += 1;
            let want = by_pairs(graph, v);
            ensure!(
                state.counts[v] == want,
                "vertex {v} has {want} triangles, not {}",
                state.counts[v]
            );
        }
        ensure!(samples > 0, "no vertex could be counted again");
        Ok(format!(
            "{} triangles; {samples} of {n} vertices counted again by pairs",
            state.total
        ))
    }

    fn reference(graph: &Csr, state: &State) -> Result<()> {
        let n = graph.vertices() as usize;
        let mut edge = vec![vec![false; n]; n];
        for v in 0..graph.vertices() {
            for &to in graph.row(v) {
                edge[v as usize][to as usize] = true;
                edge[to as usize][v as usize] = true;
            }
        }
        let mut total = 0;
        for a in 0..n {
            for b in a + 1..n {
                for c in b + 1..n {
                    total += u64::from(edge[a][b] && edge[b][c] && edge[a][c]);
                }
            }
        }
        ensure!(
            state.total == total,
            "there are {total} triangles, not {}",
            state.total
        );
        Ok(())
    }
}

fn main() {
    graph::main::<Tc>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Tc>();
    }

    #[test]
    fn wrong_counts_are_found() {
        testing::notices::<Tc>(|s| {
            s.counts[5] += 1;
            s.total += 1;
        });
        testing::notices::<Tc>(|s| s.total += 1);
    }

    #[test]
    fn a_known_number() {
        // The complete graph on 9 vertices: 9 over 3.
        let pairs = (0..9).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        let list = fpt_workloads::edges::EdgeList {
            vertices: 9,
            pairs,
            weights: None,
        };
        let graph = Csr::build(&list, Tc::SHAPE);
        let mut state = Tc::prepare(&graph);
        Tc::run(&graph, &mut state);
        assert_eq!(state.total, 84);
    }
}
