// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that one command writes and another reads: cells and matrices of `bench`.

pub mod cell;
pub mod matrix;
