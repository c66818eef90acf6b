// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-table organisations. One is one file with one implementation of [`Organisation`], a line in
//! [`make`], its name in [`ORGANISATIONS`](crate::parameters::ORGANISATIONS), its parameters in
//! [`parameters`](crate::parameters) and an entry in [`DESIGNS`](crate::catalogue::DESIGNS);
//! `docs/tutorial/own-organisation.md` shows how.

mod asap;
mod ecpt;
mod hashed;
mod ideal;
mod nested;
mod radix;
mod real;
mod tree;

use crate::addr::{PhysAddr, PhysLine};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, Cycles};
use crate::memory::Memory;
use crate::parameters::check_org;
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

/// What answers a miss of the second-level TLB.
///
/// It sees the architectural walk of the guest's real tables and decides which entries its own tables would
/// have had to read. Every such read goes through [`Port::read`] and so through the caches of a memory
/// hierarchy that this organisation has for itself; the first-level caches and the TLBs are the same for
/// all, as nothing behind them acts on them.
pub trait Organisation: Send {
    /// As in the configuration and the result.
    fn name(&self) -> &'static str;
    /// Is this what the guest does?
    fn kind(&self) -> Kind;
    /// Names of what it reads, by the `what` of [`Port::read`]; at most [`MAX_READS`].
    fn reads(&self) -> &'static [&'static str];
    /// Does it walk at all?
    fn walks(&self) -> bool {
        true
    }
    /// A TLB miss. Cycles beyond those of the reads go to [`Port::spend`].
    fn walk(&mut self, walk: &Walk, pcid: u16, port: &mut Port<'_>);
    /// The guest invalidates translations.
    fn flush(&mut self, what: Flush);
    /// Adds counters of its own: page-walk caches and `details`.
    fn report(&self, out: &mut report::Organisation);
    /// A phase begins. What is cached stays.
    fn reset_counters(&mut self);
}

/// Most kinds of entries that an organisation tells apart.
pub const MAX_READS: usize = 8;

/// The organisation of this name, with its parameters.
pub fn make(name: &str, config: &Config) -> Result<Box<dyn Organisation>, ConfigError> {
    check_org(name, config)?;
    match name {
        "real" => Ok(Box::new(real::Real::new(config))),
        "radix" => Ok(Box::new(radix::Radix::new(config))),
        "ideal" => Ok(Box::new(ideal::Ideal)),
        "ecpt" => Ok(Box::new(ecpt::Ecpt::new(config))),
        "asap" => Ok(Box::new(asap::Asap::new(config)?)),
        "nested" => Ok(Box::new(nested::Nested::new(config)?)),
        "hashed" => Ok(Box::new(hashed::Hashed::new(config)?)),
        _ => Err(ConfigError(format!("unknown organisation '{name}'"))),
    }
}

/// Counters of a walker.
#[derive(Clone, Copy, Default)]
pub struct WalkStats {
    /// Entries read by all walks.
    pub reads: u64,
    /// Entries read, by what the organisation calls them; see [`Organisation`].
    pub by_what: [u64; MAX_READS],
    /// Reads that found their entry in L1D.
    pub from_l1d: u64,
    /// Cycles that the walks took.
    pub cycles: f64,
}

/// A walker's way to memory.
pub struct Port<'a> {
    memory: &'a mut Memory,
    llc: &'a mut Cache,
    l1d: Option<&'a mut Cache>,
    stats: &'a mut WalkStats,
    cycles: &'a Cycles,
}

impl<'a> Port<'a> {
    /// The way of one walk to its memory: it counts in `stats` and charges what `cycles` says.
    pub fn new(
        memory: &'a mut Memory,
        llc: &'a mut Cache,
        stats: &'a mut WalkStats,
        cycles: &'a Cycles,
    ) -> Port<'a> {
        Port {
            memory,
            llc,
            l1d: None,
            stats,
            cycles,
        }
    }

    /// The same through L1D.
    pub fn through(self, l1d: &'a mut Cache) -> Port<'a> {
        Port {
            l1d: Some(l1d),
            ..self
        }
    }

    /// Reads the entry at `pa` through the caches, counts it, and returns the latency in
    /// cycles, which the caller spends.
    pub fn read(&mut self, what: usize, pa: PhysAddr) -> f64 {
        self.stats.reads += 1;
        if let Some(n) = self.stats.by_what.get_mut(what) {
            *n += 1;
        }
        let line = PhysLine::of(pa);
        if self.l1d.as_mut().is_some_and(|l1d| l1d.access(line)) {
            self.stats.from_l1d += 1;
            return self.cycles.l1;
        }
        match self.memory.walk_read(self.llc, line, what) {
            crate::memory::From::L2 => self.cycles.l2,
            crate::memory::From::Llc => self.cycles.llc,
            crate::memory::From::Memory => self.cycles.memory,
        }
    }

    /// Cycles that the walk takes.
    pub fn spend(&mut self, cycles: f64) {
        self.stats.cycles += cycles;
    }

    /// The latencies, in cycles.
    pub fn cycles(&self) -> &Cycles {
        self.cycles
    }
}
