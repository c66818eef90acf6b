// SPDX-License-Identifier: MIT OR Apache-2.0
//! Depth-first search of the whole graph, from the vertex with the most edges first.

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

const NONE: u32 = u32::MAX;

/// Numbers are places in one sequence of 2n events: `enter` and `leave` of each vertex.
#[derive(Clone, Copy)]
struct Vertex {
    enter: u64,
    leave: u64,
    /// Next edge of the row to look at.
    next: u64,
    parent: u32,
}

const UNSEEN: u64 = u64::MAX;

struct State {
    root: u32,
    vertices: Slots<Vertex>,
    path: Vec<u32>,
}

struct Dfs;

impl Kernel for Dfs {
    const NAME: &'static str = "dfs";
    const SHAPE: Shape = Shape::plain(Direction::Both);
    type State = State;

    fn prepare(graph: &Csr) -> State {
        let none = Vertex {
            enter: UNSEEN,
            leave: UNSEEN,
            next: 0,
            parent: NONE,
        };
        State {
            root: graph.hub(),
            vertices: Slots::new(graph.vertices() as usize, none),
            path: Vec::new(),
        }
    }

    fn run(graph: &Csr, state: &mut State) {
        let mut time = 0;
        for start in std::iter::once(state.root).chain(0..graph.vertices()) {
            if state.vertices[start].enter != UNSEEN {
                continue;
            }
            let mut enter = Some((start, NONE));
            loop {
                if let Some((v, parent)) = enter.take() {
                    state.vertices[v] = Vertex {
                        enter: time,
                        leave: UNSEEN,
                        next: graph.range(v).start as u64,
                        parent,
                    };
                    time += 1;
                    state.path.push(v);
                }
                let Some(&v) = state.path.last() else {
                    break;
                };
                let end = graph.range(v).end as u64;
                let mut next = state.vertices[v].next;
                while next < end && enter.is_none() {
                    let to = graph.target(next as usize);
                    next += 1;
                    if state.vertices[to].enter == UNSEEN {
                        enter = Some((to, v));
                    }
                }
                state.vertices[v].next = next;
                if enter.is_none() {
                    state.vertices[v].leave = time;
                    time += 1;
                    state.path.pop();
                }
            }
        }
    }

    fn verify(graph: &Csr, state: &State) -> Result<String> {
        let all = &state.vertices;
        let n = graph.vertices();
        let mut event = vec![false; 2 * n as usize];
        let mut trees = 0u64;
        let mut has_parent = vec![false; n as usize];
        for v in 0..n {
            let me = all[v];
            for at in [me.enter, me.leave] {
                ensure!(
                    event.get(at as usize) == Some(&false),
                    "vertex {v}: event {at} is out of range or there twice"
                );
                event[at as usize] = true;
            }
            ensure!(
                me.enter < me.leave,
                "vertex {v} is left before it is entered"
            );
            if me.parent == NONE {
                trees += 1;
            } else {
                ensure!(me.parent < n, "vertex {v} has a parent of no number");
                let parent = all[me.parent];
                ensure!(
                    parent.enter < me.enter && me.leave < parent.leave,
                    "vertex {v} is not inside its parent {}",
                    me.parent
                );
            }
            // What makes it depth first: no vertex is left while a neighbour is still to be entered.
            for &to in graph.row(v) {
                if all[to].parent == v {
                    has_parent[to as usize] = true;
                }
                ensure!(
                    all[to].enter < me.leave,
                    "vertex {v} was left before its neighbour {to} was entered"
                );
                let (first, last) = if me.enter < all[to].enter {
                    (me, all[to])
                } else {
                    (all[to], me)
                };
                ensure!(
                    last.leave <= first.leave,
                    "edge {v} - {to} joins two branches"
                );
            }
        }
        for v in 0..n {
            ensure!(
                has_parent[v as usize] == (all[v].parent != NONE),
                "there is no edge from the parent of {v} to it"
            );
        }
        Ok(format!(
            "{n} vertices in {trees} trees proved by nesting and edges"
        ))
    }

    fn reference(graph: &Csr, state: &State) -> Result<()> {
        fn visit(graph: &Csr, v: u32, time: &mut u64, seen: &mut [(u64, u64)]) {
            seen[v as usize].0 = *time;
            *time += 1;
            for &to in graph.row(v) {
                if seen[to as usize].0 == UNSEEN {
                    visit(graph, to, time, seen);
                }
            }
            seen[v as usize].1 = *time;
            *time += 1;
        }
        let mut seen = vec![(UNSEEN, UNSEEN); graph.vertices() as usize];
        let mut time = 0;
        for v in std::iter::once(state.root).chain(0..graph.vertices()) {
            if seen[v as usize].0 == UNSEEN {
                visit(graph, v, &mut time, &mut seen);
            }
        }
        for v in 0..graph.vertices() {
            let me = state.vertices[v];
            ensure!(
                (me.enter, me.leave) == seen[v as usize],
                "vertex {v} has events {} and {}, the recursive search has {:?}",
                me.enter,
                me.leave,
                seen[v as usize]
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Dfs>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Dfs>();
    }

    #[test]
    fn wrong_orders_are_found() {
        testing::notices::<Dfs>(|s| s.vertices[3].leave += 1);
        testing::notices::<Dfs>(|s| {
            let (a, b) = (s.vertices[5].enter, s.vertices[6].enter);
            s.vertices[5].enter = b;
            s.vertices[6].enter = a;
        });
    }
}
