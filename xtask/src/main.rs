// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `fpt`, which is also `cargo xtask`; everything else is in the library.

fn main() {
    std::process::exit(xtask::cli::main());
}
