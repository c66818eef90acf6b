// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated core of FPT-Linux' evaluation: `docs/walksim.md`.

pub mod config;
pub mod report;
