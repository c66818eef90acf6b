// SPDX-License-Identifier: MIT OR Apache-2.0
//! A walker of trees, flattened or not, with page-walk caches.

use crate::addr::VirtAddr;
use crate::config::Config;
use crate::org::Port;
use crate::pwc::Pwc;
use crate::report;
use crate::walk::{Entry, Flush};

/// Names by `level - 1`.
pub const READS: [&str; 5] = ["pt", "pd", "pdpt", "pml4", "pml5"];

pub struct TreeWalker {
    pwc: Pwc,
}

impl TreeWalker {
    pub fn new(config: &Config) -> TreeWalker {
        TreeWalker {
            pwc: Pwc::new(&config.pwc),
        }
    }

    /// Visits `entries` (root first, the last maps the page) from below the lowest cached one on.
    #[inline]
    pub fn walk(&mut self, va: VirtAddr, pcid: u16, entries: &[Entry], port: &mut Port<'_>) {
        port.spend(port.cycles().pwc);
        self.visit(va, pcid, entries, |_, entry| {
            let latency = port.read(usize::from(entry.level.wrapping_sub(1)), entry.pa);
            port.spend(latency);
        });
    }

    /// Which of `entries` a walk has to read: each with its place among them.
    #[inline(always)]
    pub fn visit(
        &mut self,
        va: VirtAddr,
        pcid: u16,
        entries: &[Entry],
        mut read: impl FnMut(usize, &Entry),
    ) {
        let below = self.pwc.lookup(va, pcid).map_or(u32::MAX, |l| l.number());
        let leaf = entries.len().wrapping_sub(1);
        for (i, entry) in entries.iter().enumerate() {
            // A cached entry that is a leaf now would be a lost invalidation; the leaf itself is read.
            if u32::from(entry.level) >= below && i != leaf {
                continue;
            }
            read(i, entry);
            if i != leaf {
                self.pwc.fill(va, pcid, entry.level);
            }
        }
    }

    pub fn flush(&mut self, what: Flush) {
        self.pwc.flush(what);
    }

    pub fn report(&self, out: &mut report::Organisation) {
        for (name, stats) in self.pwc.stats() {
            out.pwc.insert(name.to_owned(), stats);
        }
    }

    pub fn reset_counters(&mut self) {
        self.pwc.reset_counters();
    }
}
