// SPDX-License-Identifier: MIT OR Apache-2.0
//! `in-image DEVICE CMD...`: runs a command inside the root file system of a disk image.

use std::os::unix::process::CommandExt;

use fpt_workloads::error::{Error, Result};
use fpt_workloads::image;

fn enter_and_run(words: &[String]) -> Result<()> {
    let [device, program, args @ ..] = words else {
        return Err(Error::Usage("usage: in-image DEVICE CMD...".into()));
    };
    image::enter(Some(device))?;
    // Returns only if it failed.
    let error = std::process::Command::new(program).args(args).exec();
    Err(Error::System(format!(
        "cannot run {program} in the image: {error}"
    )))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = enter_and_run(&words) {
        eprintln!("in-image: {error}");
        std::process::exit(error.code());
    }
}
