// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connected components, by hooking and pointer jumping (Shiloach and Vishkin 1982).

use fpt_workloads::csr::{Csr, Direction, Shape};
use fpt_workloads::ensure;
use fpt_workloads::error::Result;
use fpt_workloads::graph::{self, Kernel};
use fpt_workloads::slots::Slots;

struct Cc;

impl Kernel for Cc {
    const NAME: &'static str = "cc";
    const SHAPE: Shape = Shape::plain(Direction::Both);
    /// The component of each vertex, named by its first vertex.
    type State = Slots<u32>;

    fn prepare(graph: &Csr) -> Slots<u32> {
        let mut all = Slots::new(graph.vertices() as usize, 0);
        for (v, label) in (0..).zip(all.iter_mut()) {
            *label = v;
        }
        all
    }

    fn run(graph: &Csr, all: &mut Slots<u32>) {
        let mut changed = true;
        while changed {
            changed = false;
            for v in 0..graph.vertices() {
                for &to in graph.row(v) {
                    let (mine, other) = (all[v], all[to]);
                    // Roots hang themselves below smaller ones only: no circles.
                    if mine < other && all[other] == other {
                        all[other] = mine;
                        changed = true;
                    }
                }
            }
            for v in 0..graph.vertices() {
                while all[all[v]] != all[v] {
                    all[v] = all[all[v]];
                }
            }
        }
    }

    fn verify(graph: &Csr, all: &Slots<u32>) -> Result<String> {
        let n = graph.vertices();
        let mut named = 0u64;
        // Union-find on plain integers counts the components independently.
        let mut root: Vec<u32> = (0..n).collect();
        let mut components = u64::from(n);
        let find = |root: &mut Vec<u32>, mut v: u32| {
            while root[v as usize] != v {
                root[v as usize] = root[root[v as usize] as usize];
                v = root[v as usize];
            }
            v
        };
        for v in 0..n {
            let label = all[v];
            ensure!(
                label <= v && all[label] == label,
                "vertex {v} has label {label}, which is no name"
            );
            named += u64::from(label == v);
            for &to in graph.row(v) {
                ensure!(
                    all[to] == label,
                    "edge {v} - {to} joins components {label} and {}",
                    all[to]
                );
                let (a, b) = (find(&mut root, v), find(&mut root, to));
                if a != b {
                    root[a.max(b) as usize] = a.min(b);
                    components -= 1;
                }
            }
        }
        // Each is in one component (above); that none is shared by two, the count shows.
        ensure!(
            named == components,
            "{named} components found, there are {components}"
        );
        Ok(format!(
            "{components} components of {n} vertices proved by edges and union-find"
        ))
    }

    fn reference(graph: &Csr, all: &Slots<u32>) -> Result<()> {
        let n = graph.vertices();
        let mut label = vec![u32::MAX; n as usize];
        for start in 0..n {
            let mut flood = vec![start];
            while let Some(v) = flood.pop() {
                if label[v as usize] == u32::MAX {
                    label[v as usize] = start;
                    flood.extend_from_slice(graph.row(v));
                }
            }
        }
        for v in 0..n {
            ensure!(
                all[v] == label[v as usize],
                "vertex {v} is in {}, not {}",
                label[v as usize],
                all[v]
            );
        }
        Ok(())
    }
}

fn main() {
    graph::main::<Cc>()
}

#[cfg(test)]
#[path = "../testing.rs"]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_on_random_graphs() {
        testing::right_on_random_graphs::<Cc>();
    }

    #[test]
    fn wrong_labels_are_found() {
        testing::notices::<Cc>(|s| s[9] = 9 * u32::from(s[9] != 9));
        // All in one component would satisfy every edge.
        testing::notices::<Cc>(|s| s.iter_mut().for_each(|l| *l = 0));
    }
}
