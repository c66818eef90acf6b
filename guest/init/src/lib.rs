// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest's init and the host have in common: the control protocol, and the choice of addresses
//! to compare walks at.
//! Both sides build from this one definition, so they cannot drift apart.
#![forbid(unsafe_code)]

pub mod proto;
pub mod sample;
