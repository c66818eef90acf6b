// SPDX-License-Identifier: MIT OR Apache-2.0
//! Four conventional levels for the same mappings.
//!
//! An entry that the guest's tables have too keeps its address: a slice of a flattened node has the layout
//! of the table that it replaces. Levels that are merged away get tables at synthetic addresses, one for
//! each table that a conventional tree would have. In a guest with conventional tables nothing is synthetic
//! and every figure equals that of `real`.

use std::collections::HashMap;

use fpt_geometry::geometry::{Level, NODE_BITS, TABLE_BITS};

use crate::addr::{PhysAddr, VirtAddr};
use crate::cache::SYNTHETIC;
use crate::config::Config;
use crate::org::tree::{TreeWalker, READS};
use crate::org::{Organisation, Port};
use crate::pwc::virt;
use crate::report::{self, Kind};
use crate::walk::{Entry, Flush, Walk, VA_MASK};

/// Tables remembered; with more the oldest knowledge is given up, which costs a few cold lines.
const MAX_TABLES: usize = 1 << 18;

/// Conventional tables for whatever the guest has.
#[derive(Default)]
pub struct Conventional {
    /// (root, level, address bits above the table) to the number of the synthetic table.
    tables: HashMap<(u64, u8, u64), u64>,
    next: u64,
    /// Entries that the guest's tables do not have.
    pub synthetic: u64,
}

impl Conventional {
    fn synthetic(&mut self, root: PhysAddr, va: VirtAddr, level: Level) -> PhysAddr {
        if self.tables.len() >= MAX_TABLES {
            self.tables.clear();
        }
        let above = (va.as_u64() & VA_MASK) >> (level.shift() + TABLE_BITS);
        let next = &mut self.next;
        let table = *self
            .tables
            .entry((root.as_u64(), level.number() as u8, above))
            .or_insert_with(|| {
                *next += 1;
                *next
            });
        self.synthetic += 1;
        // 2^29 tables fit below the tables of other organisations
        let first = PhysAddr::new(SYNTHETIC + (table % (1 << 29)) * 4096);
        first.offset(u64::from(level.index(virt(va))) * 8)
    }

    /// The entries of a conventional walk.
    pub fn unfold(&mut self, walk: &Walk) -> ([Entry; 4], usize) {
        let mut entries = [Entry::default(); 4];
        let mut n = 0;
        for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
            if level < walk.size.leaf() {
                break;
            }
            let number = level.number() as u8;
            let real = walk.visited().iter().find(|e| e.level == number);
            let pa = match real {
                Some(e) => e.pa,
                None => self.synthetic(walk.root, walk.va, level),
            };
            if let Some(place) = entries.get_mut(n) {
                *place = Entry {
                    pa,
                    level: number,
                    index_bits: TABLE_BITS as u8,
                };
            }
            n += 1;
        }
        (entries, n)
    }
}

// The slices of a node are the tables that it replaces.
const _: () = assert!(NODE_BITS == 2 * TABLE_BITS);

pub struct Radix {
    walker: TreeWalker,
    tree: Conventional,
}

impl Radix {
    pub fn new(config: &Config) -> Radix {
        Radix {
            walker: TreeWalker::new(config),
            tree: Conventional::default(),
        }
    }
}

impl Organisation for Radix {
    fn name(&self) -> &'static str {
        "radix"
    }

    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }

    fn reads(&self) -> &'static [&'static str] {
        &READS
    }

    fn walk(&mut self, walk: &Walk, pcid: u16, port: &mut Port<'_>) {
        let (entries, n) = self.tree.unfold(walk);
        self.walker
            .walk(walk.va, pcid, entries.get(..n).unwrap_or(&[]), port);
    }

    fn flush(&mut self, what: Flush) {
        self.walker.flush(what);
    }

    fn report(&self, out: &mut report::Organisation) {
        self.walker.report(out);
        out.details
            .insert("synthetic_entries".to_owned(), self.tree.synthetic);
    }

    fn reset_counters(&mut self) {
        self.walker.reset_counters();
        self.tree.synthetic = 0;
    }
}
