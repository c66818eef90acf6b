// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests are built from: sources, patch queues, kernels, QEMU, images, and what the host needs for them.
//!
//! Inside, imports go down this list: `build`, `image`, `editor`; `patch`; `sources`; `doctor`; `toolchain`, `toml_file`.

pub mod build;
pub mod clean;
pub mod doctor;
pub mod editor;
pub mod image;
pub mod modes;
pub mod patch;
pub mod sources;
mod toml_file;
pub mod toolchain;
