// SPDX-License-Identifier: GPL-2.0

//! The flush sanitizer reads entries with a table of numbers of its own. Its walks of random page
//! tables must be the core's.

use fpt_core::walk::{HwWalk, Outcome, PhysMem};
use fpt_host::diff::Table;
use fpt_tlbsan_model::{Geometry, Leaf, Level, Reading, Rights};

/// Entries read, as level, physical address and value; and the page.
type Walk = (Vec<(u32, u64, u64)>, Option<(u64, Leaf)>);

fn of_the_sanitizer(table: &Table, va: u64) -> Walk {
    let geometry = Geometry::x86(table.cfg.fpte, table.cfg.phys_bits);
    let stripped = geometry.strip(va);
    let mut entries = Vec::new();
    let (mut frame, mut place) = geometry.start(geometry.root(table.cr3), stripped);
    let mut above = Rights::ALL;
    loop {
        let index = geometry
            .index(place, stripped)
            .expect("a page for this address");
        let pa = frame.address() + index as u64 * 8;
        let value = table
            .load(fpt_core::addr::PhysAddr::new(pa))
            .expect("memory");
        entries.push((u32::from(place.level.0), pa, value));
        match geometry.read(place.level, value, above) {
            Reading::Nothing => return (entries, None),
            Reading::Leaf(leaf) => {
                let Level(level) = leaf.level;
                assert_eq!(level, place.level.0);
                return (entries, Some((geometry.va_of(place, index), leaf)));
            }
            Reading::Table(pointer) => {
                let base = geometry.va_of(place, index);
                above = pointer.rights;
                (frame, place) = geometry.table_for(pointer, base, stripped);
            }
        }
    }
}

fn entries(walk: &HwWalk) -> Vec<(u32, u64, u64)> {
    let steps = walk.steps();
    steps
        .map(|s| (s.level.number(), s.pa.as_u64(), s.value.as_u64()))
        .collect()
}

#[test]
fn walks_are_the_core_s() {
    let (mut pages, mut faults, mut flat) = (0, 0, 0);
    for number in 0..1000 {
        let table = Table::random(20, number, 40);
        for va in &table.queries {
            let core = table.walk(*va);
            let expected = match core.outcome {
                Outcome::Page { base, shift, perm } => Some((base, shift, perm)),
                Outcome::Fault { .. } => None,
                _ => continue,
            };
            let what = || format!("{va:#x} in\n{}", table.describe());
            let (read, page) = of_the_sanitizer(&table, *va);
            assert_eq!(read, entries(&core), "{}", what());
            flat += usize::from(core.steps().any(|s| s.bits == 18));
            match (page, expected) {
                (None, None) => faults += 1,
                (Some((first, leaf)), Some((base, shift, perm))) => {
                    pages += 1;
                    let geometry = Geometry::x86(table.cfg.fpte, 40);
                    assert_eq!(geometry.canonical(first), va & !((1 << shift) - 1));
                    assert_eq!(leaf.frame.address(), base.as_u64(), "{}", what());
                    assert_eq!(geometry.shift(leaf.level), shift);
                    let granted =
                        [Rights::WRITE, Rights::EXEC, Rights::USER].map(|r| leaf.rights.has(r));
                    assert_eq!(granted, [perm.write, perm.exec, perm.user], "{}", what());
                }
                (found, _) => panic!("{found:x?} and {:x?} for {}", core.outcome, what()),
            }
        }
    }
    assert!(
        pages > 5_000 && faults > 5_000 && flat > 5_000,
        "{pages} {faults} {flat}"
    );
}
