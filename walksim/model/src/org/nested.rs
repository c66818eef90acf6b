// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks in two dimensions: the guest as a virtual machine, under a host whose tables are computed. Each entry of the guest's
//! tables that a walk reads lies at a guest-physical address, which the host's tables translate first; so does the page.
//!
//! Both walkers have page-walk caches of their own (`[pwc]` of the machine), and the host's has a small TLB of pages of
//! guest-physical memory. The host maps all of it with 4 KiB pages, one to one. TLBs in front hold, as anywhere in this model, the
//! guest's pages: in a guest with larger pages they would have to be of the host's size, so figures are for small pages.

use fpt_geometry::geometry::Mode;

use crate::addr::{PhysAddr, VirtAddr};
use crate::cache::SYNTHETIC;
use crate::config::{Config, ConfigError};
use crate::org::radix::Conventional;
use crate::org::tree::TreeWalker;
use crate::org::{Organisation, Port};
use crate::parameters::{self, Guest};
use crate::report::{self, Kind};
use crate::walk::{Entry, Flush, Walk, MAX_ENTRIES};

const READS: [&str; 8] = [
    "guest pt",
    "guest pd",
    "guest pdpt",
    "guest pml4",
    "host pt",
    "host pd",
    "host pdpt",
    "host pml4",
];
const HOST: usize = 4;
/// Host tables: above what [`Conventional`] makes up.
const TABLES: u64 = SYNTHETIC + (1 << 42);

/// The host's side.
struct Host {
    mode: Mode,
    walker: TreeWalker,
    /// Numbers of guest-physical pages, newest first.
    pages: Vec<u64>,
    capacity: usize,
    hits: u64,
}

impl Host {
    /// Where the entry of this level for a guest-physical address is: entries of a level lie in the order of what they map.
    fn entries(&self, gpa: PhysAddr) -> ([Entry; MAX_ENTRIES], usize) {
        let mut entries = [Entry::default(); MAX_ENTRIES];
        let mut n = 0;
        for (step, place) in self.mode.steps().iter().zip(&mut entries) {
            let level = step.level.number();
            *place = Entry {
                pa: PhysAddr::new(
                    TABLES + (u64::from(level) << 38) + (gpa.as_u64() >> step.shift) * 8,
                ),
                level: level as u8,
                index_bits: step.bits as u8,
            };
            n += 1;
        }
        (entries, n)
    }

    /// The cycles until a guest-physical address is translated.
    fn translate(&mut self, gpa: PhysAddr, port: &mut Port<'_>) {
        let page = gpa.as_u64() >> 12;
        if let Some(at) = self.pages.iter().position(|p| *p == page) {
            self.pages.remove(at);
            self.pages.insert(0, page);
            self.hits += 1;
            return;
        }
        port.spend(port.cycles().pwc);
        let (entries, n) = self.entries(gpa);
        let entries = entries.get(..n).unwrap_or(&[]);
        // The page-walk caches of this side are asked by guest-physical addresses.
        let at = VirtAddr::new(gpa.as_u64());
        self.walker.visit(at, 0, entries, |_, entry| {
            let what = HOST + usize::from(entry.level.wrapping_sub(1));
            let latency = port.read(what, entry.pa);
            port.spend(latency);
        });
        if self.capacity > 0 {
            self.pages.truncate(self.capacity - 1);
            self.pages.insert(0, page);
        }
    }
}

pub struct Nested {
    walker: TreeWalker,
    /// Conventional tables, unless the guest's own are walked.
    tree: Option<Conventional>,
    host: Host,
}

impl Nested {
    pub fn new(config: &Config) -> Result<Nested, ConfigError> {
        let p = parameters::Nested::of(config)?;
        let tree = match p.guest {
            Guest::Real => None,
            Guest::Radix => Some(Conventional::default()),
        };
        Ok(Nested {
            walker: TreeWalker::new(config),
            tree,
            host: Host {
                mode: p.host,
                walker: TreeWalker::new(config),
                pages: Vec::new(),
                capacity: p.nested_tlb,
                hits: 0,
            },
        })
    }
}

impl Organisation for Nested {
    fn name(&self) -> &'static str {
        "nested"
    }

    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }

    fn reads(&self) -> &'static [&'static str] {
        &READS
    }

    fn walk(&mut self, walk: &Walk, pcid: u16, port: &mut Port<'_>) {
        let unfolded = self.tree.as_mut().map(|tree| tree.unfold(walk));
        let entries = match &unfolded {
            Some((entries, n)) => entries.get(..*n).unwrap_or(&[]),
            None => walk.visited(),
        };
        let host = &mut self.host;
        port.spend(port.cycles().pwc);
        self.walker.visit(walk.va, pcid, entries, |_, entry| {
            host.translate(entry.pa, port);
            let latency = port.read(usize::from(entry.level.wrapping_sub(1)), entry.pa);
            port.spend(latency);
        });
        host.translate(walk.size.at(walk.page, walk.va), port);
    }

    /// The guest's invalidations leave the host's translations alone.
    fn flush(&mut self, what: Flush) {
        self.walker.flush(what);
    }

    fn report(&self, out: &mut report::Organisation) {
        self.walker.report(out);
        let own = |n: &str| n.to_owned();
        out.details.insert(own("nested_tlb_hits"), self.host.hits);
    }

    fn reset_counters(&mut self) {
        self.walker.reset_counters();
        self.host.walker.reset_counters();
        self.host.hits = 0;
    }
}
