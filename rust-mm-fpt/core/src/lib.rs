// SPDX-License-Identifier: GPL-2.0

//! Flattened page tables (FPT) for x86-64: the part that needs no `unsafe`.
//!
//! This crate is the *host* root of the core. The kernel compiles the very same
//! files (all but this one) as submodules of its own root, so they refer to each
//! other by `super::` only, use `core::` paths only and never allocate. Two of them,
//! `addr` and `geometry`, lie in the crate `fpt-geometry`, whose licence is wider.
//!
//! Nothing in here can panic: no indexing, no division by a variable, no plain
//! `+`, `-` or `<<` on run-time values, no `unwrap`. The lints in `Cargo.toml`
//! keep it so.
//!
//! Memory, locks, page structures and accounting are behind traits
//! ([`walk::PhysMem`], [`node::NodeAlloc`], [`node::NodeMem`]); no pointer ever
//! enters the core.

#![no_std]
#![forbid(unsafe_code)]

pub use fpt_geometry::{addr, geometry};

pub mod counters;
pub mod entry;
pub mod node;
pub mod policy;
pub mod pool;
pub mod span;
pub mod walk;
