// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run of anything leaves: cases read from TAP, reports as TAP, JSON and JUnit, and the folder with them.

pub mod remarks;
pub mod results;
pub mod rundir;
pub mod tap;
