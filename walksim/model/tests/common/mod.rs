// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables that are computed, not stored.

pub use fpt_walksim_model::synthetic::Tables;
