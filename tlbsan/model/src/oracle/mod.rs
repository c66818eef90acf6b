// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger against a brute-force CPU: a small tree, two CPUs, and for each the set of *all*
//! entries that its caches could hold, computed anew after each event by walking from everything
//! that it holds. There are no records, no epochs and no roles in it, and it has a walk of its own.
//!
//! Any subset of that set is a possible content of the caches, as entries can be dropped at any
//! time and more of them never prevent others: `contents.rs` shows it with all contents spelled out.

mod brute;
mod contents;
mod mutants;
mod search;
mod suites;
mod toy;
