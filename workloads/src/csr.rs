// SPDX-License-Identifier: MIT OR Apache-2.0
//! Graphs in compressed sparse rows.

use crate::edges::EdgeList;
use crate::rng::mix;

/// What a kernel wants its graph to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Which edges the row of a vertex holds.
    pub edges: Direction,
    /// Without loops and repeated edges, each row sorted.
    pub simple: bool,
    /// Whether edges have weights.
    pub weights: bool,
}

/// Which edges the row of a vertex holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A row holds the targets of a vertex's edges.
    Out,
    /// A row holds the sources of the edges that lead to a vertex.
    In,
    /// Every edge in both rows.
    Both,
    /// Every edge once, in the row of the end with the lower degree: no cycles, short rows.
    Upward,
}

impl Shape {
    /// Rows as the edges came, without weights.
    pub const fn plain(edges: Direction) -> Shape {
        Shape {
            edges,
            simple: false,
            weights: false,
        }
    }
}

/// Row `v` is `targets[offsets[v]..offsets[v + 1]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    offsets: Vec<u64>,
    targets: Vec<u32>,
    /// One weight for each of `targets`, or nothing.
    weights: Vec<u32>,
}

/// The weight of an edge in a graph that has none of its own: 1 to 255, the same both ways.
fn made_weight(a: u32, b: u32) -> u32 {
    let key = u64::from(a.min(b)) << 32 | u64::from(a.max(b));
    mix(key) as u32 % 255 + 1
}

impl Csr {
    /// Builds the rows by counting.
    pub fn build(list: &EdgeList, shape: Shape) -> Csr {
        match shape.edges {
            Direction::Out => Csr::fill::<false>(list, shape, |a, b| (a, b)),
            Direction::In => Csr::fill::<false>(list, shape, |a, b| (b, a)),
            Direction::Both => Csr::fill::<true>(list, shape, |a, b| (a, b)),
            Direction::Upward => {
                let degree = degrees(list);
                let key = |v: u32| (degree[v as usize], v);
                Csr::fill::<false>(
                    list,
                    shape,
                    |a, b| if key(a) < key(b) { (a, b) } else { (b, a) },
                )
            }
        }
    }

    /// `place` gives the row of an edge and its entry there; `BOTH` adds it the other way round.
    fn fill<const BOTH: bool>(
        list: &EdgeList,
        shape: Shape,
        place: impl Fn(u32, u32) -> (u32, u32),
    ) -> Csr {
        let n = list.vertices as usize;
        // Counts one place ahead: after the sum, place v + 1 is where row v begins, and filling
        // row v moves it to where the row ends, which is where it is wanted.
        let mut offsets = vec![0u64; n + 2];
        for (a, b) in &list.pairs {
            let (row, to) = place(*a, *b);
            offsets[row as usize + 2] += 1;
            if BOTH {
                offsets[to as usize + 2] += 1;
            }
        }
        for v in 2..n + 2 {
            offsets[v] += offsets[v - 1];
        }
        let total = offsets[n + 1] as usize;
        let mut targets = vec![0u32; total];
        let mut weights = vec![0u32; if shape.weights { total } else { 0 }];
        for (i, (a, b)) in list.pairs.iter().enumerate() {
            let (row, to) = place(*a, *b);
            let mut put = |row: u32, to: u32| {
                let end = &mut offsets[row as usize + 1];
                let at = *end as usize;
                *end += 1;
                targets[at] = to;
                if shape.weights {
                    weights[at] = match &list.weights {
                        Some(own) => own[i],
                        None => made_weight(*a, *b),
                    };
                }
            };
            put(row, to);
            if BOTH {
                put(to, row);
            }
        }
        offsets.truncate(n + 1);
        let mut csr = Csr {
            offsets,
            targets,
            weights,
        };
        if shape.simple {
            csr.simplify();
        }
        csr
    }

    /// Sorts rows, drops loops and repeats. Only for graphs without weights.
    fn simplify(&mut self) {
        assert!(self.weights.is_empty(), "rows with weights are not sorted");
        let mut put = 0;
        let mut start = 0;
        for v in 0..self.vertices() {
            let end = self.offsets[v as usize + 1] as usize;
            self.targets[start..end].sort_unstable();
            self.offsets[v as usize] = put as u64;
            let mut last = None;
            for at in start..end {
                let to = self.targets[at];
                if to != v && last != Some(to) {
                    self.targets[put] = to;
                    put += 1;
                    last = Some(to);
                }
            }
            start = end;
        }
        let n = self.vertices() as usize;
        self.offsets[n] = put as u64;
        self.targets.truncate(put);
    }

    /// The number of vertices.
    pub fn vertices(&self) -> u32 {
        (self.offsets.len() - 1) as u32
    }

    /// The number of edges, counted in rows.
    pub fn edges(&self) -> u64 {
        self.targets.len() as u64
    }

    /// The places of a vertex's edges among all edges.
    pub fn range(&self, v: u32) -> std::ops::Range<usize> {
        self.offsets[v as usize] as usize..self.offsets[v as usize + 1] as usize
    }

    /// The number of edges in a vertex's row.
    pub fn degree(&self, v: u32) -> u64 {
        self.offsets[v as usize + 1] - self.offsets[v as usize]
    }

    /// The row of a vertex.
    pub fn row(&self, v: u32) -> &[u32] {
        &self.targets[self.range(v)]
    }

    /// Neighbours with weights; nothing if the graph was built without.
    pub fn weighted(&self, v: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let range = self.range(v);
        let weights = self.weights.get(range.clone()).unwrap_or(&[]);
        self.targets[range]
            .iter()
            .copied()
            .zip(weights.iter().copied())
    }

    /// The other end of the edge at this place.
    pub fn target(&self, at: usize) -> u32 {
        self.targets[at]
    }

    /// The vertex with the longest row, the first of them.
    pub fn hub(&self) -> u32 {
        let mut best = (0, 0);
        for v in 0..self.vertices() {
            if self.degree(v) > best.0 {
                best = (self.degree(v), v);
            }
        }
        best.1
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        8 * self.offsets.len() as u64 + 4 * (self.targets.len() + self.weights.len()) as u64
    }
}

fn degrees(list: &EdgeList) -> Vec<u32> {
    let mut degree = vec![0u32; list.vertices as usize];
    for (a, b) in &list.pairs {
        degree[*a as usize] += 1;
        degree[*b as usize] += 1;
    }
    degree
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list() -> impl Strategy<Value = EdgeList> {
        (1u32..40).prop_flat_map(|n| {
            prop::collection::vec((0..n, 0..n), 0..150).prop_map(move |pairs| EdgeList {
                vertices: n,
                pairs,
                weights: None,
            })
        })
    }

    fn pairs_of(csr: &Csr) -> Vec<(u32, u32)> {
        (0..csr.vertices())
            .flat_map(|v| csr.row(v).iter().map(move |t| (v, *t)))
            .collect()
    }

    proptest! {
        #[test]
        fn rows_hold_the_edges(list in list()) {
            let mut want = list.pairs.clone();
            want.sort_unstable();
            let mut got = pairs_of(&Csr::build(&list, Shape::plain(Direction::Out)));
            got.sort_unstable();
            prop_assert_eq!(&got, &want);

            let mut got: Vec<_> = pairs_of(&Csr::build(&list, Shape::plain(Direction::In)))
                .into_iter().map(|(a, b)| (b, a)).collect();
            got.sort_unstable();
            prop_assert_eq!(&got, &want);

            let mut both: Vec<_> = want.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
            both.sort_unstable();
            let mut got = pairs_of(&Csr::build(&list, Shape::plain(Direction::Both)));
            got.sort_unstable();
            prop_assert_eq!(got, both);
        }

        #[test]
        fn simple_rows_are_sets(list in list()) {
            for edges in [Direction::Both, Direction::Upward] {
                let csr = Csr::build(&list, Shape { edges, simple: true, weights: false });
                let got = pairs_of(&csr);
                let set: BTreeSet<_> = got.iter().copied().collect();
                prop_assert_eq!(&got, &set.iter().copied().collect::<Vec<_>>());
                let undirected = |(a, b): (u32, u32)| (a.min(b), a.max(b));
                let want: BTreeSet<_> = list.pairs.iter().copied()
                    .filter(|(a, b)| a != b).map(undirected).collect();
                let have: BTreeSet<_> = got.iter().copied().map(undirected).collect();
                prop_assert_eq!(&have, &want);
                let copies = if edges == Direction::Both { 2 } else { 1 };
                prop_assert_eq!(got.len(), copies * want.len());
            }
        }

        #[test]
        fn weights_are_the_same_both_ways(list in list()) {
            let csr = Csr::build(&list, Shape { edges: Direction::Both, simple: false, weights: true });
            for v in 0..csr.vertices() {
                prop_assert_eq!(csr.weighted(v).count() as u64, csr.degree(v));
                for (to, w) in csr.weighted(v) {
                    prop_assert!((1..=255).contains(&w));
                    prop_assert!(csr.weighted(to).any(|back| back == (v, w)));
                }
            }
        }
    }
}
