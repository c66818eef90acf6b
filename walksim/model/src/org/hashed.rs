// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hashed table with one probe for each walk and no collisions: the example of docs/explanation/walksim.md.

use crate::addr::PhysAddr;
use crate::cache::SYNTHETIC;
use crate::config::{Config, ConfigError};
use crate::org::{Organisation, Port};
use crate::parameters;
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

pub struct Hashed(parameters::Hashed);

impl Hashed {
    pub fn new(config: &Config) -> Result<Hashed, ConfigError> {
        Ok(Hashed(parameters::Hashed::of(config)?))
    }
}

impl Organisation for Hashed {
    fn name(&self) -> &'static str {
        "hashed"
    }
    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }
    fn reads(&self) -> &'static [&'static str] {
        &["slot"]
    }
    fn walk(&mut self, walk: &Walk, _pcid: u16, port: &mut Port<'_>) {
        let hash = (walk.va.as_u64() >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = PhysAddr::new(SYNTHETIC).offset((hash >> (64 - self.0.slots_log2)) * 64);
        let latency = port.read(0, slot); // through L2, last level, memory // through L2, last level, memory
        port.spend(latency + self.0.hash_cycles);
    }
    fn flush(&mut self, _what: Flush) {}
    fn report(&self, _out: &mut report::Organisation) {}
    fn reset_counters(&mut self) {}
}
