// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame of every graph program: options, loading, running, proof of the result.

use crate::csr::{Csr, Shape};
use crate::error::Result;
use crate::mark;
use crate::options::Options;
use crate::outcome::{self, Outcome};
use crate::{edges, rmat};

/// One graph algorithm.
pub trait Kernel {
    /// The name of the program.
    const NAME: &'static str;
    /// How the graph is laid out for it.
    const SHAPE: Shape;
    /// Properties of the vertices, and work lists.
    type State;

    /// Part of the loading phase: makes the properties.
    fn prepare(graph: &Csr) -> Self::State;

    /// The running phase.
    fn run(graph: &Csr, state: &mut Self::State);

    /// Shows from the graph alone that the result is right, in about linear time; says how.
    ///
    /// # Errors
    /// `Wrong`, naming what does not hold.
    fn verify(graph: &Csr, state: &Self::State) -> Result<String>;

    /// Compares with a slow and plain computation; only for small graphs.
    ///
    /// # Errors
    /// `Wrong`, naming what differs.
    fn reference(graph: &Csr, state: &Self::State) -> Result<()>;
}

/// Scale of the graph on which the program compares itself with its reference before it starts.
const SMALL: u32 = 7;

/// Runs the kernel on a list of edges and checks it in both ways; for tests and the first check.
///
/// # Errors
/// `Wrong`, naming what does not hold.
pub fn check<K: Kernel>(list: &edges::EdgeList) -> Result<()> {
    let graph = Csr::build(list, K::SHAPE);
    let mut state = K::prepare(&graph);
    K::run(&graph, &mut state);
    K::verify(&graph, &state)?;
    K::reference(&graph, &state)
}

fn measured<K: Kernel>() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let scale = options.number("scale", 10u32, 1, 31)?;
    let factor = options.number("factor", 8u64, 1, 256)?;
    let seed = options.number("seed", 1u64, 0, u64::MAX)?;
    let file = options.path("edges");
    options.finish()?;

    check::<K>(&rmat::generate(SMALL, 6, seed))?;

    let (graph, mut state) = mark::load(|| -> Result<_> {
        let list = match &file {
            Some(path) => edges::read(path)?,
            None => rmat::generate(scale, factor, seed),
        };
        let graph = Csr::build(&list, K::SHAPE);
        drop(list);
        let state = K::prepare(&graph);
        Ok((graph, state))
    })?;
    mark::run(|| K::run(&graph, &mut state));
    let check = K::verify(&graph, &state)?;
    Ok(Outcome::new(format!(
        "{check}; equal to the slow reference at scale {SMALL}"
    ))
    .figure("vertices", graph.vertices())
    .figure("edges", graph.edges())
    .figure("graph_bytes", graph.bytes()))
}

/// The `main` of a graph program.
pub fn main<K: Kernel>() -> ! {
    outcome::end(K::NAME, measured::<K>)
}
