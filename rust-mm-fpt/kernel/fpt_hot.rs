// SPDX-License-Identifier: GPL-2.0

//! The hot hooks alone, for bitcode: see hot.rs.

#[forbid(unsafe_code)]
#[allow(dead_code, unreachable_pub)]
mod fpt_core {
    //! As much of the core as the hot hooks need.
    pub mod addr;
    pub mod entry;
    pub mod geometry;
    pub mod walk;
}

#[allow(unreachable_pub, dead_code)]
mod hot;
