// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parameters of organisations (`[org.NAME]`) and fronts (`[front.NAME]`) that have some. They stand here and not beside what
//! they steer, so that a tool refuses a wrong one before a guest has booted.

use fpt_geometry::Mode;
use serde::Deserialize;

use crate::config::{Config, ConfigError};

/// Every front there is; `front.rs` of the model makes them.
pub const FRONTS: &[&str] = &["plain", "coalescing"];

/// Every organisation there is; `org/mod.rs` of the model makes them.
pub const ORGANISATIONS: &[&str] = &["real", "radix", "ideal", "ecpt", "hashed", "asap", "nested"];

/// Checks what `[org.NAME]` says.
///
/// # Errors
///
/// A parameter that the organisation does not have, or a value that it does not take.
pub fn check_org(name: &str, config: &Config) -> Result<(), ConfigError> {
    match name {
        "asap" => Asap::of(config).map(drop),
        "nested" => Nested::of(config).map(drop),
        "hashed" => Hashed::of(config).map(drop),
        _ if config.org.contains_key(name) => Err(ConfigError(format!(
            "org.{name}: {name} takes no parameters here"
        ))),
        _ => Ok(()),
    }
}

/// Checks what `[front.NAME]` says.
///
/// # Errors
///
/// A parameter that the front does not have, or a value that it does not take.
pub fn check_front(name: &str, config: &Config) -> Result<(), ConfigError> {
    match name {
        "coalescing" => Coalescing::of(config).map(drop),
        _ if config.front.contains_key(name) => Err(ConfigError(format!(
            "front.{name}: {name} takes no parameters"
        ))),
        _ => Ok(()),
    }
}

/// `[org.asap]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asap {
    /// How many of the last entries are prefetched: 1 or 2.
    pub levels: usize,
    /// Cycles until a prefetch starts.
    pub start_cycles: f64,
}

impl Default for Asap {
    fn default() -> Self {
        Asap {
            levels: 1,
            start_cycles: 1.0,
        }
    }
}

impl Asap {
    /// What a machine says.
    ///
    /// # Errors
    ///
    /// A value out of its range.
    pub fn of(config: &Config) -> Result<Asap, ConfigError> {
        let this: Asap = config.org("asap")?;
        match this.levels {
            1 | 2 if this.start_cycles >= 0.0 => Ok(this),
            n => Err(ConfigError(format!(
                "org.asap.levels is {n} and start_cycles {}: expected 1 or 2, and 0 or more",
                this.start_cycles
            ))),
        }
    }
}

/// Whose tables a nested walk finds in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// The tables that the guest has.
    Real,
    /// Conventional ones for the same mappings.
    Radix,
}

/// `[org.nested]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nested {
    /// The guest's tables.
    pub guest: Guest,
    /// The mode of the host's tables.
    pub host: Mode,
    /// Pages of guest-physical memory that the walker remembers; 0: none.
    pub nested_tlb: usize,
}

/// The same as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NestedText {
    guest: String,
    host: String,
    nested_tlb: usize,
}

impl Default for NestedText {
    fn default() -> Self {
        NestedText {
            guest: "real".to_owned(),
            host: "radix".to_owned(),
            nested_tlb: 16,
        }
    }
}

impl Nested {
    /// What a machine says.
    ///
    /// # Errors
    ///
    /// A word or a value that it does not take.
    pub fn of(config: &Config) -> Result<Nested, ConfigError> {
        let p: NestedText = config.org("nested")?;
        let guest = match p.guest.as_str() {
            "real" => Guest::Real,
            "radix" => Guest::Radix,
            other => {
                return Err(ConfigError(format!(
                    "org.nested.guest is '{other}': expected real or radix"
                )))
            }
        };
        let Some(host) = Mode::ALL.into_iter().find(|m| m.name() == p.host) else {
            let all = Mode::ALL.map(Mode::name).join(", ");
            return Err(ConfigError(format!(
                "org.nested.host is '{}': expected one of {all}",
                p.host
            )));
        };
        if p.nested_tlb > 4096 {
            return Err(ConfigError(format!(
                "org.nested.nested_tlb is {}: expected 0 to 4096 pages",
                p.nested_tlb
            )));
        }
        Ok(Nested {
            guest,
            host,
            nested_tlb: p.nested_tlb,
        })
    }
}

/// `[org.hashed]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hashed {
    /// log2 of the slots of the table: 10 to 30.
    pub slots_log2: u32,
    /// Cycles of the hash function.
    pub hash_cycles: f64,
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
    /// What a machine says.
    ///
    /// # Errors
    ///
    /// A number of slots that it does not take.
    pub fn of(config: &Config) -> Result<Hashed, ConfigError> {
        let this: Hashed = config.org("hashed")?;
        match this.slots_log2 {
            10..=30 => Ok(this),
            n => Err(ConfigError(format!(
                "org.hashed.slots_log2 is {n}: expected 10 to 30"
            ))),
        }
    }
}

/// `[front.coalescing]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coalescing {
    /// Pages of a run: 2, 4 or 8.
    pub pages: u32,
}

impl Default for Coalescing {
    fn default() -> Self {
        Coalescing { pages: 4 }
    }
}

impl Coalescing {
    /// What a machine says.
    ///
    /// # Errors
    ///
    /// A number of pages that it does not take.
    pub fn of(config: &Config) -> Result<Coalescing, ConfigError> {
        let this: Coalescing = config.parameters("front", &config.front, "coalescing")?;
        match this.pages {
            2 | 4 | 8 => Ok(this),
            n => Err(ConfigError(format!(
                "front.coalescing.pages is {n}: expected 2, 4 or 8, as a line has 8 entries"
            ))),
        }
    }
}
