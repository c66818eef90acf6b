// SPDX-License-Identifier: MIT OR Apache-2.0

use crate::api::{Ctx, Fail, Result};

#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn main(_ctx: &Ctx, _args: Args) -> Result<i32> {
    Err(Fail::infra("not built yet", "", ""))
}
