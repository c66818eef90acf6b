// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host-side tool of FPT-Linux: sources, patch queues, builds, guests and tests.
//!
//! `api` is what the other modules share; `sources`, `patch` and `build` turn
//! the queues into a kernel and a QEMU; `guest` runs them; `bench` and `report`
//! measure them and draw the figures; `lint` reads the text of all of it.

pub mod api;
pub mod bench;
pub mod build;
pub mod claims;
pub mod clean;
pub mod cli;
pub mod defaults;
pub mod doctor;
pub mod editor;
pub mod formats;
pub mod guest;
pub mod image;
pub mod lint;
#[path = "api/modes.rs"]
pub mod modes;
pub mod patch;
pub mod report;
pub mod sources;
pub mod sweep;
#[path = "build/toolchain.rs"]
pub mod toolchain;
