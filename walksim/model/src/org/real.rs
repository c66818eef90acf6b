// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables that the guest has: conventional, flattened, or mixed as the kernel built them.

use crate::config::Config;
use crate::org::tree::{TreeWalker, READS};
use crate::org::{Organisation, Port};
use crate::report::{self, Kind};
use crate::walk::{Flush, Walk};

pub struct Real {
    walker: TreeWalker,
    /// Visited entries that were in a flattened node.
    flat: u64,
}

impl Real {
    pub fn new(config: &Config) -> Real {
        Real {
            walker: TreeWalker::new(config),
            flat: 0,
        }
    }
}

impl Organisation for Real {
    fn name(&self) -> &'static str {
        "real"
    }

    fn kind(&self) -> Kind {
        Kind::Real
    }

    fn reads(&self) -> &'static [&'static str] {
        &READS
    }

    fn walk(&mut self, walk: &Walk, pcid: u16, port: &mut Port<'_>) {
        let node =
            |e: &&crate::walk::Entry| u32::from(e.index_bits) == fpt_geometry::geometry::NODE_BITS;
        self.flat += walk.visited().iter().filter(node).count() as u64;
        self.walker.walk(walk.va, pcid, walk.visited(), port);
    }

    fn flush(&mut self, what: Flush) {
        self.walker.flush(what);
    }

    fn report(&self, out: &mut report::Organisation) {
        self.walker.report(out);
        out.details
            .insert("entries_in_flattened_nodes".to_owned(), self.flat);
    }

    fn reset_counters(&mut self) {
        self.walker.reset_counters();
        self.flat = 0;
    }
}
