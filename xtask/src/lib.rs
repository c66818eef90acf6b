// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host-side tool of FPT-Linux: sources, patch queues, builds, guests and tests.
//!
//! `api` is what the other modules share; `sources`, `patch` and `build` turn
//! the queues into a kernel and a QEMU; `guest` runs them; `bench` and `report`
//! measure them and draw the figures; `lint` reads the text of all of it.

#[path = "../../crates/kit/src/lib.rs"]
pub mod api;
#[path = "../../crates/bench/src/lib.rs"]
pub mod bench;
#[path = "../../crates/kbuild/src/build/mod.rs"]
pub mod build;
#[path = "../../crates/ci/src/claims/mod.rs"]
pub mod claims;
#[path = "../../crates/kbuild/src/clean.rs"]
pub mod clean;
pub mod cli;
pub mod defaults;
#[path = "../../crates/kbuild/src/doctor/mod.rs"]
pub mod doctor;
#[path = "../../crates/kbuild/src/editor.rs"]
pub mod editor;
#[path = "../../crates/formats/src/lib.rs"]
pub mod formats;
pub mod guest;
#[path = "../../crates/kbuild/src/image/mod.rs"]
pub mod image;
#[path = "../../crates/ci/src/lint/mod.rs"]
pub mod lint;
#[path = "../../crates/kbuild/src/modes.rs"]
pub mod modes;
#[path = "../../crates/kbuild/src/patch/mod.rs"]
pub mod patch;
#[path = "../../crates/report/src/lib.rs"]
pub mod report;
#[path = "../../crates/kbuild/src/sources/mod.rs"]
pub mod sources;
#[path = "../../crates/report/src/sweep/mod.rs"]
pub mod sweep;
#[path = "../../crates/kbuild/src/toolchain.rs"]
pub mod toolchain;
