// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated core of FPT-Linux' evaluation: `docs/explanation/walksim.md`.

pub mod addr;
pub mod cache;
pub mod catalogue;
pub mod core;
pub mod front;
pub mod lanes;
pub mod memory;
pub mod org;
pub mod policy;
pub mod pwc;
pub mod result;
pub mod sample;
pub mod stream;
pub mod synthetic;
pub mod tlb;
pub mod walk;

pub use fpt_walksim_machine::{attribution, config, parameters, report};
