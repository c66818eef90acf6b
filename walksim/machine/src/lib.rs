// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the simulator is told and what it says: machines, streams, results. Nothing here simulates.
//!
//! Tools that only read results link this crate and not the model, which is large and slow to compile.

pub mod attribution;
pub mod config;
pub mod parameters;
pub mod report;
pub mod run;
