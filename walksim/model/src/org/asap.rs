// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetch of the last entries of a walk, as in "Prefetched Address Translation" (ASAP, MICRO'19): where tables of a level lie
//! in the order of what they map, the address of an entry follows from that of the access, and its line is on the way while the
//! walk still reads the entries above. The walk itself is that of the guest's tables, and reads what it would read.
//!
//! That the tables lie so is taken for granted: no kernel here orders them.

use crate::config::{Config, ConfigError};
use crate::org::tree::TreeWalker;
use crate::org::{Organisation, Port};
use crate::parameters;
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk, MAX_ENTRIES};

const READS: [&str; 6] = ["pt", "pd", "pdpt", "pml4", "pml5", "unused"];
/// A prefetched entry that the page-walk caches had.
const UNUSED: usize = 5;

pub struct Asap {
    parameters: parameters::Asap,
    walker: TreeWalker,
}

impl Asap {
    pub fn new(config: &Config) -> Result<Asap, ConfigError> {
        Ok(Asap {
            parameters: parameters::Asap::of(config)?,
            walker: TreeWalker::new(config),
        })
    }
}

impl Organisation for Asap {
    fn name(&self) -> &'static str {
        "asap"
    }

    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }

    fn reads(&self) -> &'static [&'static str] {
        &READS
    }

    fn walk(&mut self, walk: &Walk, pcid: u16, port: &mut Port<'_>) {
        let entries = walk.visited();
        let mut needed = [false; MAX_ENTRIES];
        self.walker.visit(walk.va, pcid, entries, |i, _| {
            if let Some(needed) = needed.get_mut(i) {
                *needed = true;
            }
        });
        let ahead = entries.len().saturating_sub(self.parameters.levels);
        let mut arrives = [0.0; MAX_ENTRIES];
        let each = || entries.iter().zip(needed).enumerate();
        for (i, (entry, needed)) in each().skip(ahead) {
            let level = usize::from(entry.level.wrapping_sub(1));
            let latency = port.read(if needed { level } else { UNUSED }, entry.pa);
            if let Some(arrives) = arrives.get_mut(i) {
                *arrives = self.parameters.start_cycles + latency;
            }
        }
        // The walk finds a prefetched line in L2, once it is there.
        let mut now = port.cycles().pwc;
        for (i, (entry, _)) in each().filter(|(_, (_, needed))| *needed) {
            now = match arrives.get(i) {
                Some(arrives) if i >= ahead => f64::max(now + port.cycles().l2, *arrives),
                _ => now + port.read(usize::from(entry.level.wrapping_sub(1)), entry.pa),
            };
        }
        port.spend(now);
    }

    fn flush(&mut self, what: Flush) {
        self.walker.flush(what);
    }

    fn report(&self, out: &mut report::Organisation) {
        self.walker.report(out);
    }

    fn reset_counters(&mut self) {
        self.walker.reset_counters();
    }
}
