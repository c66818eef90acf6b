// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shortest paths from one vertex, by Dijkstra's algorithm with a binary heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

const FAR: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Vertex {
    distance: u64,
    parent: u32,
}

struct State {
    root: u32,
    vertices: Slots<Vertex>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

struct Sssp;

impl Kernel for Sssp {
    const NAME: &'static str = "sssp";
    const SHAPE: Shape = Shape {
        edges: Direction::Both,
        simple: false,
        weights: true,
    };
    type State = State;

    fn prepare(graph: &Csr) -> State {
        let none = Vertex {
            distance: FAR,
            parent: u32::MAX,
        };
        State {
            root: graph.hub(),
            vertices: Slots::new(graph.vertices() as usize, none),
            heap: BinaryHeap::new(),
        }
    }

    fn run(graph: &Csr, state: &mut State) {
        let root = state.root;
        state.vertices[root] = Vertex {
            distance: 0,
            parent: root,
        };
        state.heap.push(Reverse((0, root)));
        while let Some(Reverse((distance, v))) = state.heap.pop() {
            if distance > state.vertices[v].distance {
                continue;
            }
            for (to, weight) in graph.weighted(v) {
                let distance = distance + u64::from(weight);
                let other = &mut state.vertices[to];
                if distance < other.distance {
                    *other = Vertex {
                        distance,
                        parent: v,
                    };
                    state.heap.push(Reverse((distance, to)));
                }
            }
        }
    }

    fn verify(graph: &Csr, state: &State) -> Result<String> {
        let all = &state.vertices;
        ensure!(all[state.root].distance == 0, "the root is not at 0");
        let n = graph.vertices();
        let mut reached = 0u64;
        let mut has_parent = vec![false; n as usize];
        has_parent[state.root as usize] = true;
        for v in 0..n {
            let me = all[v];
            if me.distance == FAR {
                continue;
            }
            reached += 1;
            for (to, weight) in graph.weighted(v) {
                let way = me.distance + u64::from(weight);
                // No edge is a short cut: distances are not too long.
                ensure!(
                    all[to].distance <= way,
                    "edge {v} - {to} of {weight} is a short cut: {} and {}",
                    me.distance,
                    all[to].distance
                );
                // A path over parents is as long as the distance: they are not too short.
                if all[to].parent == v && all[to].distance == way {
                    has_parent[to as usize] = true;
                }
            }
        }
        for v in 0..n {
            ensure!(
                has_parent[v as usize] == (all[v].distance != FAR),
                "vertex {v} is at {}, which its parent does not prove",
                all[v].distance
            );
        }
        // Edges of weight 0 could make a circle of parents.
        let mut rooted = vec![false; n as usize];
        rooted[state.root as usize] = true;
        let mut path = Vec::new();
        for start in (0..n).filter(|v| all[*v].distance != FAR) {
            let mut v = start;
            while !rooted[v as usize] {
                path.push(v);
                ensure!(
                    path.len() as u64 <= reached,
                    "the parents of {start} form a circle"
                );
                v = all[v].parent;
            }
            for v in path.drain(..) {
                rooted[v as usize] = true;
            }
        }
        Ok(format!(
            "distances of {reached} reached vertices proved by parents and edges"
        ))
    }

    fn reference(graph: &Csr, state: &State) -> Result<()> {
        let n = graph.vertices();
        let mut distance = vec![FAR; n as usize];
        distance[state.root as usize] = 0;
        let mut changed = true;
        while changed {
            changed = false;
            for v in 0..n {
                for (to, weight) in graph.weighted(v) {
                    let way = distance[v as usize].saturating_add(u64::from(weight));
                    if way < distance[to as usize] {
                        distance[to as usize] = way;
                        changed = true;
                    }
                }
            }
        }
        for v in 0..n {
            ensure!(
                state.vertices[v].distance == distance[v as usize],
                "vertex {v} is at {}, not {}",
                distance[v as usize],
                state.vertices[v].distance
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Sssp>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Sssp>();
    }

    #[test]
    fn wrong_distances_are_found() {
        let other = |s: &State| u32::from(s.root == 0);
        testing::notices::<Sssp>(|s| {
            let v = other(s);
            s.vertices[v].distance = s.vertices[v].distance.wrapping_add(1);
        });
        testing::notices::<Sssp>(|s| {
            let v = s.root;
            s.vertices[v].distance = 1;
        });
    }
}
