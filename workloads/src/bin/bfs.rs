// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breadth-first search from the vertex with the most edges.

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

const FAR: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Vertex {
    level: u32,
    parent: u32,
}

struct State {
    root: u32,
    vertices: Slots<Vertex>,
    queue: Vec<u32>,
}

struct Bfs;

impl Kernel for Bfs {
    const NAME: &'static str = "bfs";
    const SHAPE: Shape = Shape::plain(Direction::Both);
    type State = State;

    fn prepare(graph: &Csr) -> State {
        let none = Vertex {
            level: FAR,
            parent: FAR,
        };
        State {
            root: graph.hub(),
            vertices: Slots::new(graph.vertices() as usize, none),
            queue: Vec::with_capacity(graph.vertices() as usize),
        }
    }

    fn run(graph: &Csr, state: &mut State) {
        let root = state.root;
        state.vertices[root] = Vertex {
            level: 0,
            parent: root,
        };
        state.queue.push(root);
        let mut next = 0;
        while let Some(&v) = state.queue.get(next) {
            next += 1;
            let level = state.vertices[v].level + 1;
            for &to in graph.row(v) {
                let seen = &mut state.vertices[to];
                if seen.level == FAR {
                    *seen = Vertex { level, parent: v };
                    state.queue.push(to);
                }
            }
        }
    }

    fn verify(graph: &Csr, state: &State) -> Result<String> {
        let all = &state.vertices;
        ensure!(all[state.root].level == 0, "the root is not at level 0");
        let n = graph.vertices();
        let mut reached = 0u64;
        let mut has_parent = vec![false; n as usize];
        has_parent[state.root as usize] = true;
        for v in 0..n {
            let me = all[v];
            reached += u64::from(me.level != FAR);
            for &to in graph.row(v) {
                let other = all[to];
                // The graph has every edge both ways: this bounds levels from above on each path,
                ensure!(
                    (me.level == FAR) == (other.level == FAR)
                        && me.level.abs_diff(other.level) <= 1,
                    "edge {v} - {to} joins levels {} and {}",
                    me.level,
                    other.level
                );
                // and this from below: a path of that length exists.
                if other.parent == v && me.level != FAR && other.level == me.level + 1 {
                    has_parent[to as usize] = true;
                }
            }
        }
        for v in 0..n {
            ensure!(
                has_parent[v as usize] == (all[v].level != FAR),
                "vertex {v} is at level {}, which its parent does not prove",
                all[v].level
            );
        }
        ensure!(
            reached == state.queue.len() as u64,
            "{reached} vertices have a level, {} were visited",
            state.queue.len()
        );
        Ok(format!(
            "levels of {reached} reached vertices proved by parents and edges"
        ))
    }

    fn reference(graph: &Csr, state: &State) -> Result<()> {
        let n = graph.vertices();
        let mut level = vec![FAR; n as usize];
        level[state.root as usize] = 0;
        for round in 0..n {
            for v in 0..n {
                if level[v as usize] == round {
                    for &to in graph.row(v) {
                        let to = &mut level[to as usize];
                        *to = (*to).min(round + 1);
                    }
                }
            }
        }
        for v in 0..n {
            ensure!(
                state.vertices[v].level == level[v as usize],
                "vertex {v} is at level {}, not {}",
                level[v as usize],
                state.vertices[v].level
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Bfs>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Bfs>();
    }

    #[test]
    fn a_wrong_level_is_found() {
        let last = |s: &mut State, new: fn(u32) -> u32| {
            if let Some(&v) = s.queue.last() {
                s.vertices[v].level = new(s.vertices[v].level);
            }
        };
        testing::notices::<Bfs>(|s| last(s, |_| 0));
        testing::notices::<Bfs>(|s| last(s, |l| l - 1));
        testing::notices::<Bfs>(|s| last(s, |l| l + 1));
        testing::notices::<Bfs>(|s| last(s, |_| FAR));
    }
}
