// SPDX-License-Identifier: MIT OR Apache-2.0
//! What CI runs: the text of the repository, its claims, and every check as a stage of `test`.

pub mod claims;
pub mod docs;
pub mod lint;
pub mod test;
