// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation for nothing: the bound that no page table can pass.

use crate::org::{Organisation, Port};
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

pub struct Ideal;

impl Organisation for Ideal {
    fn name(&self) -> &'static str {
        "ideal"
    }

    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }

    fn reads(&self) -> &'static [&'static str] {
        &[]
    }

    fn walks(&self) -> bool {
        false
    }

    fn walk(&mut self, _walk: &Walk, _pcid: u16, _port: &mut Port<'_>) {}

    fn flush(&mut self, _what: Flush) {}

    fn report(&self, _out: &mut report::Organisation) {}

    fn reset_counters(&mut self) {}
}
