// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `cargo xtask` program; everything else is in the library.

fn main() {
    std::process::exit(xtask::cli::main());
}
