// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hashed table with one probe for each walk and no collisions: the example of docs/explanation/walksim.md.

use serde::Deserialize;

use crate::cache::SYNTHETIC;
use crate::config::{Config, ConfigError};
use crate::org::{Organisation, Port};
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

/// `[org.hashed]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hashed {
    slots_log2: u32,
    hash_cycles: f64,
}

impl Default for Hashed {
    fn default() -> Self {
        Hashed {
            slots_log2: 20,
            hash_cycles: 2.0,
        }
    }
}

impl Hashed {
    pub fn new(config: &Config) -> Result<Hashed, ConfigError> {
        let this: Hashed = config.org("hashed")?;
        match this.slots_log2 {
            10..=30 => Ok(this),
            n => Err(ConfigError(format!(
                "org.hashed.slots_log2 is {n}: expected 10 to 30"
            ))),
        }
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
        let hash = (walk.va >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = hash >> (64 - self.slots_log2);
        let latency = port.read(0, SYNTHETIC + slot * 64); // through L2, last level, memory
        port.spend(latency + self.hash_cycles);
    }
    fn flush(&mut self, _what: Flush) {}
    fn report(&self, _out: &mut report::Organisation) {}
    fn reset_counters(&mut self) {}
}
