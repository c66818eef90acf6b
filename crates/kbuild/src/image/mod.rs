// SPDX-License-Identifier: MIT OR Apache-2.0
//! What measured guests need beside the kernel: the static programs of `workloads/`, and root file
//! systems with Debian packages, made without root.

mod debian;
pub mod programs;

pub use debian::image;
pub use programs::programs;
