// SPDX-License-Identifier: MIT OR Apache-2.0
//! PageRank: ten rounds of pulling along incoming edges, damping 0.85.

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

const ROUNDS: usize = 10;
const DAMPING: f64 = 0.85;

#[derive(Clone, Copy)]
struct Vertex {
    rank: f64,
    /// The rank before the last round, which the proof starts from.
    before: f64,
    /// What each outgoing edge carries.
    gives: f64,
    outgoing: u32,
}

struct Pr;

impl Kernel for Pr {
    const NAME: &'static str = "pr";
    const SHAPE: Shape = Shape::plain(Direction::In);
    type State = Slots<Vertex>;

    fn prepare(graph: &Csr) -> Slots<Vertex> {
        let first = Vertex {
            rank: 1.0 / f64::from(graph.vertices()),
            before: 0.0,
            gives: 0.0,
            outgoing: 0,
        };
        let mut all = Slots::new(graph.vertices() as usize, first);
        for v in 0..graph.vertices() {
            for &from in graph.row(v) {
                all[from].outgoing += 1;
            }
        }
        all
    }

    fn run(graph: &Csr, all: &mut Slots<Vertex>) {
        let n = f64::from(graph.vertices());
        for _ in 0..ROUNDS {
            // What vertices without outgoing edges hold is spread over all.
            let mut spread = 0.0;
            for v in all.iter_mut() {
                v.before = v.rank;
                if v.outgoing == 0 {
                    spread += v.rank;
                } else {
                    v.gives = v.rank / f64::from(v.outgoing);
                }
            }
            let base = (1.0 - DAMPING) / n + DAMPING * spread / n;
            for v in 0..graph.vertices() {
                let sum: f64 = graph.row(v).iter().map(|from| all[*from].gives).sum();
                all[v].rank = base + DAMPING * sum;
            }
        }
    }

    fn verify(graph: &Csr, all: &Slots<Vertex>) -> Result<String> {
        let n = graph.vertices();
        let sum: f64 = all.iter().map(|v| v.rank).sum();
        ensure!((sum - 1.0).abs() < 1e-9, "ranks sum up to {sum}, not 1");
        // The last round again from the graph alone.
        let mut outgoing = vec![0u32; n as usize];
        for v in 0..n {
            for &from in graph.row(v) {
                outgoing[from as usize] += 1;
            }
        }
        let idle = (0..n).filter(|v| outgoing[*v as usize] == 0);
        let spread: f64 = idle.map(|v| all[v].before).sum();
        for v in 0..n {
            let mut want = (1.0 - DAMPING + DAMPING * spread) / f64::from(n);
            for &from in graph.row(v) {
                want += DAMPING * all[from].before / f64::from(outgoing[from as usize]);
            }
            let got = all[v].rank;
            ensure!(
                (got - want).abs() <= 1e-9 * want,
                "vertex {v} has rank {got}, not {want}"
            );
        }
        Ok(format!(
            "ranks of {n} vertices sum up to 1 and follow from the round before"
        ))
    }

    fn reference(graph: &Csr, all: &Slots<Vertex>) -> Result<()> {
        // Powers of the dense matrix.
        let n = graph.vertices() as usize;
        let mut matrix = vec![vec![0.0; n]; n];
        for v in 0..graph.vertices() {
            for &from in graph.row(v) {
                matrix[from as usize][v as usize] += 1.0;
            }
        }
        for row in &mut matrix {
            let sum: f64 = row.iter().sum();
            for cell in row.iter_mut() {
                let share = if sum == 0.0 {
                    1.0 / n as f64
                } else {
                    *cell / sum
                };
                *cell = DAMPING * share + (1.0 - DAMPING) / n as f64;
            }
        }
        let mut rank = vec![1.0 / n as f64; n];
        for _ in 0..ROUNDS {
            rank = (0..n)
                .map(|v| rank.iter().zip(&matrix).map(|(r, row)| r * row[v]).sum())
                .collect();
        }
        for (v, want) in (0..).zip(rank) {
            ensure!(
                (all[v].rank - want).abs() <= 1e-9 * want,
                "vertex {v} has rank {}, not {want}",
                all[v].rank
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Pr>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Pr>();
    }

    #[test]
    fn wrong_ranks_are_found() {
        testing::notices::<Pr>(|s| s[3].rank *= 1.0 + 1e-6);
        // The sum stays 1.
        testing::notices::<Pr>(|s| {
            let (a, b) = (s[3].rank, s[4].rank);
            s[3].rank = a + b / 2.0;
            s[4].rank = b / 2.0;
        });
    }
}
