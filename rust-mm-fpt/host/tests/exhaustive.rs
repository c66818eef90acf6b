// SPDX-License-Identifier: GPL-2.0

//! Exhaustive tests over small domains: index split and join, geometry, entries, names.

use fpt_core::addr::{low_mask, PhysAddr, VirtAddr};
use fpt_core::counters::{Counter, KindCounter};
use fpt_core::entry::*;
use fpt_core::geometry::*;
use fpt_core::node::Detached;
use fpt_core::pool::PoolView;
use fpt_core::span::{is_own, own_entry};
use fpt_core::walk::{below, cr3_is_valid, hw_walk, slice_below, Below, Cfg, Outcome, PhysMem};
use std::collections::HashSet;

/// Interesting 9-bit fields: the ends, the middle, and single bits.
const FIELDS: [u64; 12] = [0, 1, 2, 3, 4, 128, 254, 255, 256, 257, 510, 511];

fn all_vas(mut f: impl FnMut(VirtAddr, [u64; 4])) {
    for a in FIELDS {
        for b in FIELDS {
            for c in FIELDS {
                for d in FIELDS {
                    let low = a << 39 | b << 30 | c << 21 | d << 12 | 0xabc;
                    f(VirtAddr::new(low).canonicalised(), [a, b, c, d]);
                }
            }
        }
    }
}

#[test]
fn split_and_join_are_inverse() {
    for index in 0..NODE_ENTRIES {
        let (slice, slot) = split_index(index);
        assert!(slice < SLICES && slot < 512);
        assert_eq!(join_index(slice, slot), index);
        // Bits above the index are ignored.
        assert_eq!(split_index(index | 0xfffc_0000), (slice, slot));
    }
    for slice in 0..SLICES {
        for slot in 0..512 {
            assert_eq!(split_index(join_index(slice, slot)), (slice, slot));
        }
    }
}

#[test]
fn a_slice_is_the_table_it_replaces() {
    all_vas(|va, [a, b, c, d]| {
        assert!(va.is_canonical());
        assert_eq!(va.is_user_half(), a < 256);
        let index: Vec<u64> = [Level::L4, Level::L3, Level::L2, Level::L1]
            .iter()
            .map(|l| u64::from(l.index(va)))
            .collect();
        assert_eq!(index, [a, b, c, d]);
        for (kind, upper, lower) in [
            (NodeKind::Root, a, b),
            (NodeKind::Mid, b, c),
            (NodeKind::Bottom, c, d),
        ] {
            assert_eq!(u64::from(node_index(kind, va)), upper << 9 | lower);
            assert_eq!(u64::from(slice_of(kind, va)), upper);
            let base = slice_base(kind, va, slice_of(kind, va));
            let span = kind.entry_level().span_bytes() << 9;
            if va.is_user_half() {
                assert_eq!(base.as_u64(), va.as_u64() & !(span - 1));
                assert_eq!(
                    span_base(kind, va).as_u64(),
                    va.as_u64() & !(span_bytes(kind) - 1)
                );
            }
        }
    });
}

#[test]
fn every_mode_indexes_every_address_once() {
    for mode in Mode::ALL {
        let mut seen = HashSet::new();
        all_vas(|va, _| {
            let mut joined = 0u64;
            let mut path = Vec::new();
            for step in mode.steps() {
                joined |= u64::from(step.index(va)) << step.shift;
                path.push(step.index(va));
            }
            assert_eq!(joined, va.as_u64() & 0xffff_ffff_f000, "{mode:?}");
            assert!(seen.insert(path));
        });
        let reads = mode.steps().len();
        let want = match mode {
            Mode::Radix => 4,
            Mode::L4L3 | Mode::L3L2 => 3,
            Mode::L4L3L2L1 => 2,
        };
        assert_eq!(reads, want);
        assert_eq!(Mode::from_str_bytes(mode.name().as_bytes()), Some(mode));
        assert_eq!(Mode::from_u8(mode as u8), Some(mode));
        for kind in NodeKind::ALL {
            let has = mode
                .steps()
                .iter()
                .any(|s| s.bits == NODE_BITS && s.level == kind.entry_level());
            assert_eq!(mode.flattens(kind), has);
        }
    }
    for bad in [
        &b""[..],
        b"RADIX",
        b"l4l3 ",
        b"l4l3-",
        b"l4l3-l2l1x",
        b"l2l1",
    ] {
        assert_eq!(Mode::from_str_bytes(bad), None);
    }
}

/// The compile-time check of a walk's steps, over every sequence of up to four small steps.
#[test]
fn wrong_geometries_are_refused() {
    let levels = [Level::L4, Level::L3, Level::L2, Level::L1];
    let mut options = Vec::new();
    for level in levels {
        for shift in [12, 21, 30, 39] {
            for bits in [0, 9, 17, 18, 27] {
                options.push(IndexStep { level, shift, bits });
            }
        }
    }
    let mut valid = 0;
    let mut total = 0;
    let mut todo: Vec<Vec<IndexStep>> = vec![vec![]];
    while let Some(steps) = todo.pop() {
        total += 1;
        // Independently: the ranges of bits tile 47..12 from the top.
        let mut bits = Vec::new();
        for s in &steps {
            bits.extend((s.shift..s.shift + s.bits).rev());
        }
        let tiles = bits == (12..48).rev().collect::<Vec<_>>()
            && steps
                .iter()
                .all(|s| s.level.shift() == s.shift && s.bits > 0 && s.bits <= 18);
        assert_eq!(steps_are_valid(&steps), tiles, "{steps:?}");
        valid += u32::from(tiles);
        if steps.len() < 3 || (steps.len() == 3 && tiles_so_far(&steps)) {
            for o in &options {
                let mut next = steps.clone();
                next.push(*o);
                todo.push(next);
            }
        }
    }
    // 4 conventional levels, and every way to merge neighbours: 9999, 18 9 9, 9 18 9, 9 9 18, 18 18.
    assert_eq!(valid, 5, "of {total}");
}

fn tiles_so_far(steps: &[IndexStep]) -> bool {
    let mut top = 48;
    steps.iter().all(|s| {
        let ok = s.shift + s.bits == top;
        top = s.shift;
        ok
    })
}

#[test]
fn entries_round_trip() {
    let addresses = [
        0u64,
        0x1000,
        0x10_0000,
        0x1f_f000,
        0x20_0000,
        0x4000_0000,
        0xf_ffff_ffe0_0000,
        0xf_ffff_ffff_f000,
    ];
    let bits = [
        PRESENT,
        RW,
        USER,
        ACCESSED,
        DIRTY,
        PSE,
        NX,
        FLAT,
        FLAT_SLICE,
        1 << 11,
    ];
    for addr in addresses {
        for mask in 0..1u32 << bits.len() {
            let flags = bits
                .iter()
                .enumerate()
                .filter(|(i, _)| mask & 1 << i != 0)
                .fold(0, |v, (_, b)| v | b);
            let e = Entry::new(addr | flags);
            assert_eq!(e.as_u64(), addr | flags);
            assert_eq!((e.addr().as_u64(), e.flags()), (addr, flags));
            let has = |bit: u64| flags & bit != 0;
            assert_eq!(e.is_present(), has(PRESENT));
            assert_eq!(e.is_none(), addr | (flags & !(ACCESSED | DIRTY)) == 0);
            let flat = has(PRESENT) && has(FLAT) && !has(PSE);
            assert_eq!(e.is_flat(), flat);
            let kinds = [
                None,
                None,
                flat.then_some(NodeKind::Bottom),
                flat.then_some(NodeKind::Mid),
            ];
            for (level, kind) in Level::ALL.into_iter().zip(kinds) {
                assert_eq!(e.node_kind(level), kind);
            }

            // Construction accepts exactly what it should, and decodes to what went in.
            let clean = has(PRESENT) && !has(PSE) && flags & FPT_BITS == 0;
            let aligned = addr & 0x1f_ffff == 0;
            let pa = PhysAddr::new(addr);
            assert_eq!(Entry::table(pa, flags).is_some(), clean);
            for kind in NodeKind::ALL {
                let made = Entry::node(pa, kind, flags);
                assert_eq!(made.is_some(), clean && aligned && kind != NodeKind::Root);
                if let Some(made) = made {
                    let level = kind.parent_level().unwrap();
                    assert_eq!(made.node_kind(level), Some(kind));
                    assert_eq!(made.addr(), pa);
                    assert_eq!(made.flags(), flags | FLAT);
                    assert_eq!(made.classify(level), Class::Node { pa, kind });
                }
            }

            // Classification, told another way round.
            for level in Level::ALL {
                let shift = level.shift();
                let leaf = level == Level::L1 || (has(PSE) && level != Level::L4);
                let want = if !has(PRESENT) {
                    if e.is_none() {
                        Class::None
                    } else {
                        Class::NotPresent
                    }
                } else if leaf {
                    Class::Leaf {
                        pa: PhysAddr::new(addr & !low_mask(shift)),
                        shift,
                    }
                } else if has(PSE) {
                    Class::Bad
                } else if !has(FLAT) || level == Level::L2 {
                    Class::Table { pa }
                } else if aligned {
                    let kind = match level {
                        Level::L4 => NodeKind::Mid,
                        _ => NodeKind::Bottom,
                    };
                    Class::Node { pa, kind }
                } else {
                    Class::Bad
                };
                assert_eq!(e.classify(level), want, "{:#x} at {level:?}", e.as_u64());
            }
        }
    }
}

#[test]
fn entries_refuse_addresses_that_do_not_fit() {
    for pa in [1u64 << 52, 1 << 63, 0x20_0001, 0x20_0800, u64::MAX] {
        let pa = PhysAddr::new(pa);
        assert_eq!(Entry::node(pa, NodeKind::Mid, TABLE_FLAGS), None);
        assert_eq!(Entry::table(pa, TABLE_FLAGS), None);
    }
}

#[test]
fn root_entries_and_cr3() {
    let block = PhysAddr::new(0x1234_5600_0000);
    let l4 = root_l4(block);
    assert_eq!(l4.as_u64(), block.as_u64() + (1 << 20));
    assert_eq!(root_block(l4), block);
    for i in 0..256u32 {
        let e = Entry::root_slice(block, i, TABLE_FLAGS).unwrap();
        // Software's entry leads to the slice that hardware indexes.
        assert_eq!(e.addr().as_u64(), block.as_u64() + u64::from(i) * 4096);
        assert!(!e.is_flat());
        assert_eq!(e.classify(Level::L4), Class::Table { pa: e.addr() });
    }
    for i in [256, 511, 512, u32::MAX] {
        assert_eq!(Entry::root_slice(block, i, TABLE_FLAGS), None);
    }
    assert_eq!(Entry::root_slice(block.offset(4096), 0, TABLE_FLAGS), None);
    let cr3 = cr3_flat(l4, 0xfff).unwrap();
    assert_eq!(cr3, l4.as_u64() | CR3_FLAT | 0xfff);
    assert_eq!(cr3_flat(block, 0), None);
    assert_eq!(cr3_flat(l4, 1 << 12), None);
    for (cr3, fpte, phys_bits, ok) in [
        (cr3, true, 52, true),
        (cr3, false, 52, false),
        (cr3, true, 40, false),
        (block.as_u64() | CR3_FLAT, true, 52, false),
        (block.as_u64(), false, 52, true),
    ] {
        assert_eq!(
            cr3_is_valid(
                cr3,
                &Cfg {
                    fpte,
                    nxe: true,
                    phys_bits
                }
            ),
            ok
        );
    }
}

/// The kernel's text in C of what [`below`] decides, for compilers that do not inline Rust.
fn below_in_c(val: u64, i: u64) -> u64 {
    let pa = val & 0x000f_ffff_ffff_f000;
    if val & FLAT != 0 {
        pa.wrapping_add(i << 12) | 1
    } else {
        pa
    }
}

/// Of every index, for each single bit of an entry set and cleared, and for some addresses.
#[test]
fn below_is_what_c_says() {
    let mut entries = vec![0, u64::MAX, TABLE_FLAGS, TABLE_FLAGS | FLAT];
    for pa in [0u64, 0x20_0000, 0x1234_5660_0000, 0xf_ffff_ffe0_0000] {
        for flat in [0, FLAT] {
            entries.extend((0..64).map(|bit| (pa | TABLE_FLAGS | flat) ^ (1 << bit)));
        }
    }
    for value in entries {
        for i in 0..SLICES {
            let e = Entry::new(value);
            let got = below(e, i);
            assert_eq!(
                got.into_raw(),
                below_in_c(value, u64::from(i)),
                "{value:#x}"
            );
            let want = match value & FLAT {
                0 => Below::Table(e.addr()),
                _ => Below::Slice(e.addr().offset(u64::from(i) * 4096)),
            };
            let slice = e.addr().as_u64().wrapping_add(u64::from(i) * 4096);
            assert_eq!(slice_below(e, i).as_u64(), slice);
            assert_eq!(got, want);
        }
    }
}

/// An index page's own entry leads software to the slice that hardware reads, and no other does.
#[test]
fn own_entries_are_told_by_their_address() {
    let block = PhysAddr::new(0x1234_5660_0000);
    let slot = Entry::node(block, NodeKind::Bottom, TABLE_FLAGS).unwrap();
    for i in 0..SLICES {
        let own = own_entry(block, i);
        assert_eq!(Below::Slice(own.addr()), below(slot, i));
        assert_eq!(own.classify(Level::L2), Class::Table { pa: own.addr() });
        assert!(!own.is_flat() && own.as_u64() & ACCESSED != 0);
        for j in 0..SLICES {
            assert_eq!(is_own(block, j, own), i == j);
        }
        for bit in 0..64 {
            let other = Entry::new(own.as_u64() ^ (1 << bit));
            assert_eq!(is_own(block, i, other), 1 << bit == ACCESSED, "bit {bit}");
        }
        assert!(!is_own(block, i, Entry::NONE));
    }
}

#[test]
fn counters_have_the_names_of_debugfs() {
    let kinds = ["root", "mid", "bottom"];
    let each = [
        "live",
        "installs",
        "frees",
        "fallbacks",
        "races",
        "pool_hits",
        "pool_puts",
        "pool_nodes",
    ];
    let which = [
        KindCounter::Live,
        KindCounter::Installs,
        KindCounter::Frees,
        KindCounter::Fallbacks,
        KindCounter::Races,
        KindCounter::PoolHits,
        KindCounter::PoolPuts,
        KindCounter::PoolNodes,
    ];
    let mut names = HashSet::new();
    for (kind, k) in NodeKind::ALL.iter().zip(kinds) {
        assert_eq!(kind.name(), k);
        for (c, name) in which.iter().zip(each) {
            assert_eq!(Counter::kind(*kind, *c).name(), format!("{k}_{name}"));
        }
    }
    for (counter, name) in [
        (Counter::REFUSED_CAP, "refused_cap"),
        (Counter::REFUSED_POLICY, "refused_policy"),
        (Counter::TAINTED, "tainted"),
        (Counter::FLAT_BYTES, "flat_bytes"),
        (Counter::DEMOTIONS, "demotions"),
        (Counter::FLUSHES_SAVED, "flushes_saved"),
        (Counter::ROOTS_SHED, "roots_shed"),
        (Counter::PROMOTED, "promoted"),
        (Counter::PROMOTE_REFUSED_BUDGET, "promote_refused_budget"),
        (Counter::PROMOTE_REFUSED_MEMORY, "promote_refused_memory"),
        (Counter::PROMOTE_REFUSED_HUGE, "promote_refused_huge"),
        (Counter::MIGRATED_TABLES, "migrated_tables"),
        (Counter::TRIMMED, "trimmed"),
        (Counter::REFLATTENED, "reflattened"),
    ] {
        assert_eq!(counter.name(), name);
    }
    for i in 0..Counter::COUNT {
        let counter = Counter::from_index(i).unwrap();
        assert_eq!(counter.index(), i);
        assert!(!counter.name().is_empty() && names.insert(counter.name()));
    }
    assert_eq!(Counter::from_index(Counter::COUNT), None);
}

/// The pool against a plain vector, over every sequence of eight pushes and pops, capacity and cap.
#[test]
fn pools_are_bounded_stacks() {
    for slots in 0..4usize {
        for cap in 0..5u32 {
            for sequence in 0..256u32 {
                let mut memory = vec![0u64; slots];
                let mut len = 0;
                let mut model: Vec<u64> = Vec::new();
                for i in 0..8 {
                    let mut pool = PoolView::new(&mut memory, &mut len, cap);
                    if sequence & 1 << i != 0 {
                        let block = 100 + i;
                        let room = model.len() < slots.min(cap as usize);
                        assert_eq!(pool.is_full(), !room);
                        assert_eq!(pool.push(block), if room { Ok(()) } else { Err(block) });
                        if room {
                            model.push(block);
                        }
                    } else {
                        assert_eq!(pool.pop(), model.pop());
                    }
                    assert_eq!(pool.len() as usize, model.len());
                    assert_eq!(pool.is_empty(), model.is_empty());
                    assert_eq!(pool.excess(), 0);
                }
            }
        }
    }
    // A cap that was lowered, and a length that is nonsense.
    let mut memory = [1u64, 2, 3, 4];
    let mut len = 9;
    let mut pool = PoolView::new(&mut memory, &mut len, 1);
    assert_eq!((pool.len(), pool.excess()), (4, 3));
    assert_eq!(pool.push(7), Err(7));
    assert_eq!(pool.pop(), Some(4));
}

#[test]
fn detached_nodes_survive_a_list() {
    for tag in 0..=255u8 {
        match Detached::from_raw(42, tag) {
            Ok(node) => {
                assert!(tag < 8 && tag & 3 < 3);
                assert_eq!(node.kind() as u8, tag & 3);
                assert_eq!(node.into_raw(), (42, tag));
            }
            Err(block) => {
                assert!(tag >= 8 || tag & 3 == 3);
                assert_eq!(block, 42);
            }
        }
    }
    let mut node = Detached::from_raw((), 1).ok().unwrap();
    node.taint();
    assert_eq!(node.into_raw().1, 5);
}

struct OneWord(u64, u64);

impl PhysMem for OneWord {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        Some(if pa.as_u64() == self.0 { self.1 } else { 0 })
    }
}

/// Each single address bit of an entry at each level: reserved, or not, as the manual says.
#[test]
fn reserved_bits_one_by_one() {
    for phys_bits in [36, 40, 46, 52] {
        for fpte in [false, true] {
            for bit in 12..52u32 {
                for (flags, shift, flat) in [
                    (PRESENT, 0, false),
                    (PRESENT | PSE, 0, false),
                    (PRESENT | FLAT, 0, true),
                    (PRESENT | FLAT | PSE, 0, false),
                    (PRESENT, 30, false),
                ] {
                    // Level 3 in a flattened root where `shift` is 30, level 4 otherwise.
                    let cfg = Cfg {
                        fpte,
                        nxe: true,
                        phys_bits,
                    };
                    let in_root = shift == 30 && fpte;
                    let (cr3, slot) = if in_root {
                        (0x10_0000 | CR3_FLAT, 0)
                    } else {
                        (0x1000, 0x1000)
                    };
                    let mem = OneWord(slot, flags | 1 << bit);
                    let walk = hw_walk(&mem, cr3, VirtAddr::new(0), &cfg);
                    let rsvd = bit >= phys_bits || flags & PSE != 0 || (flat && fpte && bit < 21);
                    match walk.outcome {
                        Outcome::Fault { error_code: 9 } => {
                            assert!(rsvd, "bit {bit} of {flags:#x}")
                        }
                        _ => assert!(!rsvd, "bit {bit} of {flags:#x}"),
                    }
                }
            }
        }
    }
    // NX is reserved without EFER.NXE.
    for nxe in [false, true] {
        let cfg = Cfg {
            fpte: true,
            nxe,
            phys_bits: 40,
        };
        let walk = hw_walk(
            &OneWord(0x1000, PRESENT | NX),
            0x1000,
            VirtAddr::new(0),
            &cfg,
        );
        assert_eq!(walk.outcome == Outcome::Fault { error_code: 9 }, !nxe);
    }
    for va in [1u64 << 47, 0xffff_0000_0000_0000, u64::MAX >> 1] {
        let cfg = Cfg {
            fpte: true,
            nxe: true,
            phys_bits: 40,
        };
        let walk = hw_walk(&OneWord(0, 0), 0x1000, VirtAddr::new(va), &cfg);
        assert_eq!((walk.outcome, walk.visited()), (Outcome::NonCanonical, 0));
    }
}
