// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks that boot guests. Each is a command, and a stage of `test` that uses the same functions.

pub mod agree;
mod counts;
mod flushes;
pub mod fuzz;
pub mod kcount;
pub mod list;
pub mod ran;
pub mod selftest;
pub mod stress;
pub mod suite;
pub mod tlbsan;
pub mod verdict;
pub mod walk;
