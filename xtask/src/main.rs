// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `fpt`, which is also `cargo xtask`: the command line, and nothing else.

mod cli;
mod defaults;

fn main() {
    std::process::exit(cli::main());
}
