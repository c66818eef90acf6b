// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the simulator has, which tests hold it, and published figures beside ours of this moment:
//! `cargo run --release -p fpt-walksim-model --example status`.

use fpt_walksim_model::catalogue::DESIGNS;
use fpt_walksim_model::config::ConfigError;

fn main() -> Result<(), ConfigError> {
    for design in DESIGNS {
        let part = design.part.name();
        println!("{part:<13}{:<18}{}", design.name, design.what);
        for test in design.tests {
            println!("    test      {test}");
        }
        for figure in design.figures {
            let ours = (figure.ours)()?;
            println!("    figure    {}", figure.what);
            println!(
                "              ours {ours:.3}, published {} ({})",
                figure.published, figure.source
            );
        }
    }
    println!("tests: cargo test -p fpt-walksim-model --test FILE TEST");
    println!("figures: made now; random updates of 8 GiB unless they say another");
    Ok(())
}
