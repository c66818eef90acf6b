// SPDX-License-Identifier: GPL-2.0

//! What must hold of the tables of an address space between two operations.

use crate::mm::{down, Mm};
use crate::world::World;
use fpt_core::addr::{PhysAddr, PAGE_SIZE};
use fpt_core::entry::{self, Class, Entry, ACCESSED};
use fpt_core::geometry::{Level, NodeKind, NODE_BYTES, SLICES};
use fpt_core::span::{is_own, State};
use fpt_core::walk::IndexPages;

impl Mm {
    /// Asserts the invariants of each table and node of the user half, that the accounting tells what
    /// is there, and that no table is there without a mapping below it (`mapped`).
    pub fn check(&self, w: &World, mapped: &dyn Fn(u64, u64) -> bool) {
        let mut seen = Seen {
            bytes: 0,
            nodes: u64::from(self.flat_root),
            wasted: 0,
        };
        for (i, value) in w.mem.words(self.l4) {
            if i < 256 {
                let slot = self.l4.offset(u64::from(i) * 8);
                let at = (Level::L4, slot, u64::from(i) << 39);
                check_entry(w, Entry::new(value), at, mapped, &mut seen);
            }
        }
        assert_eq!(seen.bytes, self.pgtables_bytes, "I10: pgtables_bytes");
        assert_eq!(seen.nodes, self.flat_nodes, "flat_nodes");
        assert_eq!(seen.wasted, self.wasted, "waste");
    }
}

struct Seen {
    bytes: i64,
    nodes: u64,
    wasted: i64,
}

impl Seen {
    fn node(&mut self, w: &World, block: PhysAddr) {
        let span = &w.nodes[&block].span;
        self.nodes += 1;
        self.bytes += NODE_BYTES as i64;
        if span.is_counted() {
            self.wasted += i64::from(SLICES - span.nr_used());
        }
    }
}

/// Checks what is below the entry of `level` at `slot`, which covers the addresses from `start` on.
fn check_entry(
    w: &World,
    entry: Entry,
    (level, slot, start): (Level, PhysAddr, u64),
    mapped: &dyn Fn(u64, u64) -> bool,
    seen: &mut Seen,
) {
    let table = match entry.classify(level) {
        Class::None | Class::Leaf { .. } => return,
        Class::Node { pa, kind } => {
            let index = w.mem.index_page(pa).expect("I6: the head names no page");
            check_node(w, pa, (State::Flat, kind, slot, index));
            seen.node(w, pa);
            index
        }
        Class::Table { pa } => {
            if let Some(block) = w.blocks.get(&pa) {
                let kind = match level {
                    Level::L4 => NodeKind::Mid,
                    _ => NodeKind::Bottom,
                };
                check_node(w, *block, (State::Attached, kind, slot, pa));
                seen.node(w, *block);
            }
            pa
        }
        other => panic!("{other:?} at level {level:?}"),
    };
    let of_root = entry.as_u64() & entry::FLAT_SLICE != 0;
    let own = match w.mem.index_page(table) {
        Some(index) => {
            let i = (table.as_u64() >> 12) & 511;
            assert_eq!(index.offset(i * 8), slot, "a slice away from its place");
            true
        }
        None => false,
    };
    if !of_root && !own {
        seen.bytes += PAGE_SIZE as i64;
    }
    assert!(
        of_root || mapped(start, start + level.span_bytes()),
        "nothing is mapped below the level {level:?} entry of {start:#x}"
    );
    let lower = down(level);
    if lower == Level::L1 {
        return;
    }
    for (i, value) in w.mem.words(table) {
        let slot = table.offset(u64::from(i) * 8);
        let at = (lower, slot, start + u64::from(i) * lower.span_bytes());
        check_entry(w, Entry::new(value), at, mapped, seen);
    }
}

/// I1, I2, I4, I6 and I8 of the node at `block`, which should be in this state in this slot.
fn check_node(
    w: &World,
    block: PhysAddr,
    (state, kind, slot, index): (State, NodeKind, PhysAddr, PhysAddr),
) {
    let node = w.nodes.get(&block).expect("a node has a descriptor");
    assert_eq!((node.span.state(), node.span.kind()), (state, kind));
    assert_eq!((node.slot, node.index), (Some(slot), index), "I2");
    let want = node.span.slot_entry(block, index).expect("in the tree");
    assert_eq!(Entry::new(w.mem.read(slot)), want, "I2");
    let mut used = 0;
    for i in 0..SLICES {
        let slice = block.offset(u64::from(i) * PAGE_SIZE);
        let entry = Entry::new(w.mem.read(index.offset(u64::from(i) * 8)));
        let own = is_own(block, i, entry);
        assert_eq!(w.mem.index_page(slice), Some(index), "I6, slice {i}");
        // Nothing is on its way out between operations.
        assert_eq!(node.span.is_used(i), own, "I4, slice {i}");
        assert!(own || w.mem.frame_is_zero(slice), "I1, slice {i}");
        if state == State::Flat {
            assert!(own || entry.as_u64() == 0, "I1, entry {i}");
        }
        assert!(!own || entry.as_u64() & ACCESSED != 0, "I8, entry {i}");
        used += u32::from(own);
    }
    assert_eq!(node.span.nr_used(), used);
}
