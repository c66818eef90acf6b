// SPDX-License-Identifier: MIT OR Apache-2.0

use crate::api::{Ctx, Fail, Result};

#[derive(clap::Args, Debug)]
pub struct DoctorArgs {}

#[derive(clap::Args, Debug)]
pub struct SetupArgs {}

pub fn doctor(_ctx: &Ctx, _args: DoctorArgs) -> Result<i32> {
    Err(Fail::infra("not built yet", "", ""))
}

pub fn setup(_ctx: &Ctx, _args: SetupArgs) -> Result<i32> {
    Err(Fail::infra("not built yet", "", ""))
}
