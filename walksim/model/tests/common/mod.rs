// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests share.
#![allow(dead_code)] // Each test is a crate of its own, and none uses all.

pub mod slow;

pub use fpt_walksim_model::synthetic::Tables;
