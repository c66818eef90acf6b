// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the measured programs share. Each program is one file in `src/bin/`; it marks its two
//! phases (loading and running), proves its own result afterwards and ends with one line of JSON.

#![deny(unsafe_code)]

pub mod csr;
pub mod edges;
pub mod error;
pub mod graph;
pub mod image;
pub mod kv;
pub mod mark;
pub mod options;
pub mod outcome;
pub mod rmat;
pub mod rng;
pub mod server;
pub mod slots;
