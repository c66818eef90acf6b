// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests of this project: what they are made of, which tables they are asked for, who watches them; `run` and `gdb`.

pub mod gdb;
pub mod nodes;
pub mod parts;
pub mod pieces;
pub mod plan;
pub mod process_mode;
pub mod ready;
pub mod run;
pub mod sanitize;
pub mod subject;
