// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hash table with one probe for each walk.

use crate::addr::PhysAddr;
use crate::cache::SYNTHETIC;
use crate::org::{Organisation, Port};
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

pub struct Probe;

impl Organisation for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }
    fn reads(&self) -> &'static [&'static str] {
        &["slot"]
    }
    fn walk(&mut self, walk: &Walk, _pcid: u16, port: &mut Port<'_>) {
        let slot = (walk.va.as_u64() >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        let latency = port.read(0, PhysAddr::new(SYNTHETIC + slot * 64));
        port.spend(latency + 2.0);
    }
    fn flush(&mut self, _what: Flush) {}
    fn report(&self, _out: &mut report::Organisation) {}
    fn reset_counters(&mut self) {}
}
