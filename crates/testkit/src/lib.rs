// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up results of the simulator, for tests; the stand-in for QEMU is this crate's program.

pub mod causes;
pub mod synthetic;
