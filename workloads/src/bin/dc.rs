// SPDX-License-Identifier: MIT OR Apache-2.0
//! Degree centrality: how many edges lead from and to each vertex, as a share of what is possible.

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

#[derive(Clone, Copy)]
struct Vertex {
    from: u32,
    to: u32,
    share: f64,
}

struct Dc;

fn share(graph: &Csr, edges: u64) -> f64 {
    edges as f64 / f64::from(graph.vertices().max(2) - 1)
}

impl Kernel for Dc {
    const NAME: &'static str = "dc";
    const SHAPE: Shape = Shape::plain(Direction::Out);
    type State = Slots<Vertex>;

    fn prepare(graph: &Csr) -> Slots<Vertex> {
        let none = Vertex {
            from: 0,
            to: 0,
            share: 0.0,
        };
        Slots::new(graph.vertices() as usize, none)
    }

    fn run(graph: &Csr, all: &mut Slots<Vertex>) {
        for v in 0..graph.vertices() {
            let row = graph.row(v);
            all[v].from = row.len() as u32;
            for &to in row {
                all[to].to += 1;
            }
        }
        for v in all.iter_mut() {
            v.share = share(graph, u64::from(v.from) + u64::from(v.to));
        }
    }

    fn verify(graph: &Csr, all: &Slots<Vertex>) -> Result<String> {
        // Another way round: the edges sorted by target, then runs of equal ones counted.
        let mut targets: Vec<u32> = (0..graph.vertices())
            .flat_map(|v| graph.row(v).iter().copied())
            .collect();
        targets.sort_unstable();
        let mut rest = targets.as_slice();
        for v in 0..graph.vertices() {
            let to = rest.partition_point(|t| *t == v);
            rest = &rest[to..];
            let me = all[v];
            ensure!(
                u64::from(me.to) == to as u64,
                "{} edges counted to vertex {v}, there are {to}",
                me.to
            );
            ensure!(
                u64::from(me.from) == graph.degree(v),
                "{} edges counted from vertex {v}, there are {}",
                me.from,
                graph.degree(v)
            );
            let want = share(graph, graph.degree(v) + to as u64);
            ensure!(me.share == want, "vertex {v} has {}, not {want}", me.share);
        }
        Ok(format!(
            "degrees of {} vertices counted again by sorting",
            graph.vertices()
        ))
    }

    fn reference(graph: &Csr, all: &Slots<Vertex>) -> Result<()> {
        for v in 0..graph.vertices() {
            let rows = (0..graph.vertices()).map(|u| graph.row(u));
            let to: usize = rows.map(|r| r.iter().filter(|t| **t == v).count()).sum();
            ensure!(
                (all[v].to as usize, all[v].from as usize) == (to, graph.row(v).len()),
                "vertex {v} has other degrees"
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Dc>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Dc>();
    }

    #[test]
    fn wrong_counts_are_found() {
        testing::notices::<Dc>(|s| s[3].to += 1);
        testing::notices::<Dc>(|s| s[3].from += 1);
    }
}
