// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random graphs for the tests of the graph programs, which include this file.

use fpt_workloads::edges::EdgeList;
use fpt_workloads::graph::{self, Kernel};
use proptest::prelude::*;

/// Few vertices, from no edge to many repeated ones.
fn lists() -> impl Strategy<Value = EdgeList> {
    (1u32..40).prop_flat_map(|n| {
        prop::collection::vec((0..n, 0..n, 0u32..9), 0..150).prop_map(move |edges| EdgeList {
            vertices: n,
            pairs: edges.iter().map(|(a, b, _)| (*a, *b)).collect(),
            weights: (n % 2 == 0).then(|| edges.iter().map(|e| e.2).collect()),
        })
    })
}

/// The kernel's own proof and the slow reference agree with it on random graphs.
pub fn right_on_random_graphs<K: Kernel>() {
    proptest!(|(list in lists())| {
        graph::check::<K>(&list).map_err(|e| TestCaseError::fail(e.to_string()))?;
    });
}

/// `spoil` makes a right result wrong; both the proof and the reference must see it.
pub fn notices<K: Kernel>(spoil: impl Fn(&mut K::State)) {
    let list = fpt_workloads::rmat::generate(6, 4, 3);
    let graph = fpt_workloads::csr::Csr::build(&list, K::SHAPE);
    let mut state = K::prepare(&graph);
    K::run(&graph, &mut state);
    K::verify(&graph, &state).unwrap();
    K::reference(&graph, &state).unwrap();
    spoil(&mut state);
    assert!(K::verify(&graph, &state).is_err());
    assert!(K::reference(&graph, &state).is_err());
}
