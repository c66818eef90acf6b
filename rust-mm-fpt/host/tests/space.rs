// SPDX-License-Identifier: GPL-2.0

//! Random sequences of operations against the oracle, in every mode.

use fpt_core::counters::{Counter, KindCounter};
use fpt_core::geometry::{Level, Mode, NodeKind};
use fpt_core::policy::Policy;
use fpt_host::oracle::{Harness, Op, Place, Seen};
use fpt_host::promote::{Promoted, Wish};
use fpt_host::world::{Fail, World};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

fn place() -> impl Strategy<Value = Place> {
    (0..4u8, 0..7u8, 0..7u8, 0..7u8).prop_map(|(a, b, c, d)| Place(a, b, c, d))
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![
        Just(Level::L1),
        Just(Level::L2),
        Just(Level::L3),
        Just(Level::L4)
    ]
}

fn wish(asked: bool) -> Wish {
    if asked {
        Wish::Asked
    } else {
        Wish::Policy
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (place(), 1..5u8).prop_map(|(p, n)| Op::Map(p, n)),
        2 => place().prop_map(Op::MapHuge2M),
        1 => place().prop_map(Op::MapHuge1G),
        4 => (place(), place()).prop_map(|(a, b)| Op::Unmap(a, b)),
        2 => (place(), level()).prop_map(|(p, l)| Op::UnmapSpan(p, l)),
        2 => (place(), place(), any::<bool>()).prop_map(|(a, b, w)| Op::Protect(a, b, w)),
        3 => (place(), place(), 1..5u8).prop_map(|(a, b, n)| Op::Move(a, b, n)),
        3 => (place(), place()).prop_map(|(a, b)| Op::MoveGib(a, b)),
        3 => (place(), place()).prop_map(|(a, b)| Op::MoveWindow(a, b)),
        1 => (place(), any::<bool>()).prop_map(|(p, g)| Op::Hugetlb(p, g)),
        2 => place().prop_map(Op::Collapse),
        1 => place().prop_map(Op::Split),
        1 => place().prop_map(Op::Demote),
        3 => (place(), any::<bool>()).prop_map(|(p, asked)| Op::Flatten(p, wish(asked))),
        3 => Just(Op::Fork),
        2 => any::<bool>().prop_map(|kept| Op::Exit { kept }),
        3 => any::<u8>().prop_map(Op::Switch),
        1 => Just(Op::Taint),
        1 => Just(Op::Drain),
        2 => any::<bool>().prop_map(Op::Starve),
    ]
}

fn setup() -> impl Strategy<Value = (u32, bool, u64, u64, Policy, u64, Fail)> {
    (
        0..4u32,
        prop::bool::weighted(0.1),
        prop_oneof![3 => Just(u64::MAX), 1 => 0..6u64],
        prop_oneof![3 => Just(u64::MAX), 1 => 0..4u64],
        prop_oneof![3 => Just(Policy::Eager), 1 => Just(Policy::Size), 2 => Just(Policy::Auto)],
        prop_oneof![Just(0u64), Just(16384), Just(1 << 21)],
        prop_oneof![
            4 => Just(Fail::Never),
            2 => any::<u8>().prop_map(Fail::Randomly),
            1 => (0..400u64).prop_map(Fail::AnyAt),
        ],
    )
}

fn run(
    mode: Mode,
    (pool_cap, bypass, global_cap, mm_cap, policy, min_span, fail): (
        u32,
        bool,
        u64,
        u64,
        Policy,
        u64,
        Fail,
    ),
    ops: &[Op],
) -> Seen {
    let world = World {
        pool_cap,
        bypass,
        global_cap,
        mm_cap,
        policy,
        min_span,
        fail,
        // Small address spaces have something to waste, every second one.
        waste_permille: if pool_cap % 2 == 0 { 1 << 20 } else { 5 },
        locked: min_span == 0,
        ..World::default()
    };
    let Ok(mut h) = Harness::new(world, mode) else {
        return Seen::default();
    };
    for (i, op) in ops.iter().enumerate() {
        h.step(*op);
        if i % 4 == 3 {
            h.compare();
        }
    }
    h.compare();
    let (world, seen) = h.finish();
    assert!(world.pool_high <= pool_cap);
    if bypass {
        assert_eq!(world.pool_high, 0);
    }
    if mode == Mode::Radix || global_cap == 0 || mm_cap == 0 {
        for kind in NodeKind::ALL {
            assert_eq!(world.counter(Counter::kind(kind, KindCounter::Installs)), 0);
        }
    }
    seen
}

/// The same sequences in each run, unless `PROPTEST_CASES` or `PROPTEST_RNG_SEED` ask for others.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 250;
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            config.rng_seed = RngSeed::Fixed(0x0f97);
        }
    }
    config
}

macro_rules! sequences {
    ($($name:ident $mode:expr;)*) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $name(setup in setup(), ops in prop::collection::vec(op(), 1..48)) {
                    run($mode, setup, &ops);
                }
            )*
        }
    };
}

sequences! {
    radix Mode::Radix;
    l4l3 Mode::L4L3;
    l3l2 Mode::L3L2;
}

/// The same, and the sequences reach the way back: spans that become flat, those that something else than
/// tables keeps from it, and those that the policy leaves as they are.
#[test]
fn l4l3_l2l1() {
    let total = std::cell::RefCell::new([0u64; 3]);
    let sequences = (setup(), prop::collection::vec(op(), 1..48));
    TestRunner::new(config())
        .run(&sequences, |(setup, ops)| {
            let seen = run(Mode::L4L3L2L1, setup, &ops);
            let new = [seen.flattened, seen.not_flattened, seen.not_promoted];
            for (sum, n) in total.borrow_mut().iter_mut().zip(new) {
                *sum += n;
            }
            Ok(())
        })
        .unwrap();
    let total = total.into_inner();
    eprintln!("flattened, kept by what is there, by policy: {total:?}");
    assert!(total.iter().all(|n| *n > 0), "{total:?}");
}

/// A sequence that touches every kind of operation, for the tests below.
fn scenario() -> Vec<Op> {
    let mut ops = Vec::new();
    for i in 0..4u8 {
        ops.push(Op::Map(Place(i, i, 6 - i, 5), 4));
        ops.push(Op::Map(Place(i, 6, 6, 6), 3));
    }
    ops.extend([
        Op::MapHuge2M(Place(0, 1, 3, 0)),
        Op::Fork,
        Op::Protect(Place(0, 0, 0, 0), Place(1, 3, 3, 3), false),
        Op::Switch(1),
        Op::Move(Place(0, 0, 6, 5), Place(3, 1, 1, 1), 4),
        Op::MoveGib(Place(1, 1, 0, 0), Place(2, 4, 0, 0)),
        Op::Demote(Place(3, 3, 0, 0)),
        Op::Map(Place(3, 3, 4, 4), 2),
        // The child may have conventional tables: a sparse parent is not mirrored.
        Op::Switch(0),
        Op::Demote(Place(2, 2, 0, 0)),
        Op::Switch(1),
        Op::MapHuge1G(Place(3, 4, 0, 0)),
        // A table of its own beside a huge page, in a span that was flat.
        Op::MapHuge2M(Place(0, 6, 2, 0)),
        Op::Map(Place(0, 6, 3, 3), 3),
        Op::Split(Place(0, 6, 2, 0)),
        Op::MoveWindow(Place(0, 6, 6, 0), Place(1, 6, 0, 0)),
        Op::Collapse(Place(1, 6, 6, 0)),
        Op::Hugetlb(Place(2, 6, 0, 0), false),
        Op::Hugetlb(Place(2, 5, 0, 0), true),
        Op::MoveGib(Place(2, 6, 0, 0), Place(0, 5, 0, 0)),
        Op::Flatten(Place(0, 5, 0, 0), Wish::Asked),
        Op::Flatten(Place(1, 6, 0, 0), Wish::Asked),
        Op::Fork,
        Op::UnmapSpan(Place(3, 3, 0, 0), Level::L4),
        Op::Unmap(Place(0, 6, 6, 6), Place(2, 2, 4, 5)),
        Op::Exit { kept: false },
        Op::Fork,
        Op::Exit { kept: true },
        Op::Switch(0),
        Op::Map(Place(2, 2, 2, 2), 2),
        Op::Taint,
        Op::Exit { kept: false },
        Op::Map(Place(1, 1, 1, 1), 1),
        Op::Fork,
    ]);
    ops
}

/// Spans in use become flat, for who asks and where it pays, and their contents stay.
#[test]
fn spans_in_use_become_flat() {
    let flat = Op::Flatten(Place(0, 0, 0, 0), Wish::Asked);
    let by_policy = Op::Flatten(Place(0, 0, 0, 0), Wish::Policy);
    let auto = || World {
        policy: Policy::Auto,
        ..World::default()
    };
    let promoted = |h: &Harness| h.world.counter(Counter::PROMOTED);
    let moved = |h: &Harness| h.world.counter(Counter::MIGRATED_TABLES);
    // Asked for: two tables, a node that nobody counts as waste.
    let mut h = Harness::new(auto(), Mode::L4L3L2L1).unwrap();
    h.step(flat);
    h.step(Op::Map(Place(0, 0, 0, 0), 3));
    h.step(Op::Map(Place(0, 0, 6, 6), 1));
    assert_eq!((h.procs[0].mm.nodes(&h.world), promoted(&h)), (0, 0));
    h.step(by_policy);
    assert_eq!((h.seen.not_promoted, promoted(&h)), (1, 0));
    h.step(flat);
    h.compare();
    assert_eq!((h.seen.flattened, promoted(&h), moved(&h)), (1, 1, 2));
    assert_eq!(
        (h.procs[0].mm.wasted, h.procs[0].mm.nodes(&h.world)),
        (0, 1)
    );
    assert!(h.seen.short_walks > 0);
    // A huge page leads hardware out of it; once it is gone the way back copies nothing.
    h.step(Op::MapHuge2M(Place(0, 0, 3, 0)));
    h.step(flat);
    assert_eq!((h.seen.not_flattened, h.seen.flattened), (1, 1));
    h.step(Op::Unmap(Place(0, 0, 3, 0), Place(0, 0, 3, 0)));
    h.step(flat);
    h.compare();
    assert_eq!((h.seen.flattened, promoted(&h), moved(&h)), (2, 1, 2));
    h.finish();

    // By policy: 16 tables, and not one page more of waste than the budget has, until they have moved.
    for (pages, yes) in [(512_000 / 5 - 1, false), (512_000 / 5, true)] {
        let mut h = Harness::new(auto(), Mode::L4L3L2L1).unwrap();
        for window in 0..16u64 {
            let p = &mut h.procs[0];
            let leaf = 0x1000 | 0x8000_0000_0000_0025;
            p.mm.map(&mut h.world, window << 21, leaf).unwrap();
        }
        h.procs[0].mm.total_vm = pages * 4096;
        let p = &mut h.procs[0].mm;
        let got = p.promote(&mut h.world, 0, Wish::Policy);
        assert_eq!(got == Promoted::Flat, yes, "{got:?}");
        assert_eq!(p.wasted, if yes { 496 } else { 0 });
        // Who asks for it pays nothing more.
        let _ = p.promote(&mut h.world, 0, Wish::Asked);
        assert_eq!(p.wasted, if yes { 496 } else { 0 });
        assert_eq!(p.nodes(&h.world), 1);
        h.finish();
    }
}

/// What the scenario needs in requests, with nothing failing.
fn requests(mode: Mode, fail: Fail) -> u64 {
    let world = World {
        fail,
        ..World::default()
    };
    let mut h = Harness::new(world, mode).unwrap();
    for op in scenario() {
        h.step(op);
    }
    h.compare();
    assert_eq!(h.seen.no_memory, 0);
    let n = h.world.requests;
    h.finish();
    n
}

/// Both tests of the k-th request, one mode each so that they run in parallel.
macro_rules! kth {
    ($($name:ident $mode:expr;)*) => {
        mod the_kth_node_request_fails {
            use super::*;
            $(#[test] fn $name() { kth_node($mode) })*
        }
        mod the_kth_request_of_any_kind_fails {
            use super::*;
            $(#[test] fn $name() { kth_any($mode) })*
        }
    };
}

kth! {
    radix Mode::Radix;
    l4l3 Mode::L4L3;
    l3l2 Mode::L3L2;
    l4l3_l2l1 Mode::L4L3L2L1;
}

fn kth_node(mode: Mode) {
    {
        let n = requests(mode, Fail::NodeAt(u64::MAX));
        eprintln!("{n} node requests");
        assert_eq!(n == 0, mode == Mode::Radix);
        for k in 0..n {
            let world = World {
                fail: Fail::NodeAt(k),
                ..World::default()
            };
            let mut h = Harness::new(world, mode).unwrap();
            for op in scenario() {
                h.step(op);
            }
            h.compare();
            assert_eq!(
                h.seen.no_memory, 0,
                "a node request that fails is never an error"
            );
            let fallbacks: i64 = NodeKind::ALL
                .iter()
                .map(|k| h.world.counter(Counter::kind(*k, KindCounter::Fallbacks)))
                .sum();
            assert_eq!(fallbacks, 1, "{mode:?}, request {k}");
            h.finish();
        }
    }
}

fn kth_any(mode: Mode) {
    {
        let n = requests(mode, Fail::AnyAt(u64::MAX));
        eprintln!("{n} requests");
        let mut failed = 0;
        for k in 0..n {
            let world = World {
                fail: Fail::AnyAt(k),
                ..World::default()
            };
            let Ok(mut h) = Harness::new(world, mode) else {
                failed += 1;
                continue;
            };
            for op in scenario() {
                h.step(op);
            }
            h.compare();
            failed += h.seen.no_memory;
            h.finish();
        }
        assert!(failed > 0, "{mode:?}: no 4 KiB allocation failed");
    }
}

#[test]
fn the_scenario_reaches_what_it_is_for() {
    for mode in Mode::ALL {
        let mut h = Harness::new(World::default(), mode).unwrap();
        for op in scenario() {
            h.step(op);
            h.compare();
        }
        let seen = h.seen;
        assert_eq!(seen.forks, 4);
        assert_eq!(seen.gibs_moved, 2);
        assert_eq!((seen.windows_moved, seen.collapsed, seen.split), (1, 1, 1));
        let below_root = mode == Mode::L3L2 || mode == Mode::L4L3L2L1;
        assert_eq!(seen.demoted > 0, below_root);
        assert_eq!(seen.hidden > 0, below_root);
        assert_eq!(seen.attached > 0, below_root);
        assert_eq!(h.world.unflats > 0, below_root);
        assert_eq!(h.world.owns > 0, below_root);
        assert_eq!(seen.short_walks > 0, mode != Mode::Radix);
        let (world, _) = h.finish();
        let (mut fresh, mut frees) = (0, 0);
        for kind in NodeKind::ALL {
            let count = |c| world.counter(Counter::kind(kind, c));
            assert_eq!(count(KindCounter::Installs) > 0, mode.flattens(kind));
            assert_eq!(
                count(KindCounter::PoolHits) > 0,
                mode.flattens(kind),
                "{mode:?} {kind:?}"
            );
            assert_eq!(count(KindCounter::Live), 0);
            assert_eq!(count(KindCounter::PoolNodes), 0);
            fresh += count(KindCounter::Installs) - count(KindCounter::PoolHits);
            frees += count(KindCounter::Frees);
        }
        // Each block from the page allocator went back to it, or was split.
        assert_eq!(fresh, frees + world.counter(Counter::DEMOTIONS));
        assert_eq!(world.counter(Counter::TAINTED) > 0, mode != Mode::Radix);
    }
}

#[test]
fn nothing_is_pooled_when_pools_are_bypassed_or_empty() {
    for (bypass, pool_cap) in [(true, 4), (false, 0)] {
        let mut h = Harness::new(
            World {
                bypass,
                pool_cap,
                ..World::default()
            },
            Mode::L4L3L2L1,
        )
        .unwrap();
        for op in scenario() {
            h.step(op);
        }
        let (world, _) = h.finish();
        assert_eq!(world.pool_high, 0);
        assert_eq!(
            world.counter(Counter::kind(NodeKind::Bottom, KindCounter::PoolHits)),
            0
        );
    }
}

#[test]
fn a_dirty_node_is_seen_and_not_pooled() {
    let mut h = Harness::new(World::default(), Mode::L4L3L2L1).unwrap();
    h.step(Op::Map(Place(0, 0, 0, 0), 1));
    let p = h.procs.pop().unwrap();
    p.mm.leave_dirt(&mut h.world);
    p.mm.exit(&mut h.world);
    assert_eq!(h.world.dirty_returns.get(), 1);
    // The slice was seen to be dirty when it came back, too.
    assert_eq!(h.world.dirty_puts, 1);
    h.world.dirty_puts = 0;
    assert_eq!(h.world.counter(Counter::TAINTED), 1);
    assert_eq!(h.world.pool(NodeKind::Bottom).len(), 0);
    assert_eq!(h.world.pool(NodeKind::Root).len(), 1);
    h.world.dirty_returns.set(0);
    h.world.check_empty();
}

/// After a bad entry was seen nothing comes out of the pools, whatever is in them.
#[test]
fn what_was_pooled_before_a_taint_is_not_used() {
    let hits = |h: &Harness| {
        h.world
            .counter(Counter::kind(NodeKind::Bottom, KindCounter::PoolHits))
    };
    for taint in [false, true] {
        let mut h = Harness::new(World::default(), Mode::L4L3L2L1).unwrap();
        h.step(Op::Map(Place(0, 0, 0, 0), 1));
        h.step(Op::Unmap(Place(0, 0, 0, 0), Place(0, 1, 0, 0)));
        assert_eq!(h.world.pool(NodeKind::Bottom).len(), 1);
        if taint {
            h.step(Op::Taint);
        }
        h.step(Op::Map(Place(0, 0, 0, 0), 1));
        assert_eq!(hits(&h), i64::from(!taint));
        h.compare();
        h.finish();
    }
}

/// The checks of this harness can fail: a table entry changed behind its back is noticed.
#[test]
fn a_wrong_entry_is_noticed() {
    for mode in Mode::ALL {
        let mut h = Harness::new(World::default(), mode).unwrap();
        h.step(Op::Map(Place(1, 1, 1, 1), 2));
        h.compare();
        let va = Place(1, 1, 1, 1).va();
        h.procs[0]
            .mm
            .for_each_leaf(&mut h.world, va, va + 4096, |v| v ^ 0x1000);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || h.compare()));
        assert!(result.is_err(), "{mode:?}");
    }
}

/// A program that touches one page in every GiB stays under the cap.
#[test]
fn a_sparse_toucher_stays_under_the_caps() {
    for (global_cap, mm_cap) in [(5, u64::MAX), (u64::MAX, 5)] {
        let world = World {
            global_cap,
            mm_cap,
            ..World::default()
        };
        let mut h = Harness::new(world, Mode::L4L3L2L1).unwrap();
        for p4d in 0..4 {
            for pud in 0..7 {
                h.step(Op::Map(Place(p4d, pud, 0, 0), 1));
            }
        }
        h.compare();
        assert_eq!(h.procs[0].mm.flat_nodes, 5);
        assert_eq!(h.world.counter(Counter::REFUSED_CAP), 28 - 4);
        h.finish();
    }
}

/// The child of a sparse parent gets the nodes that are in a pool, and no new block.
#[test]
fn a_sparse_parent_s_child_takes_what_is_pooled() {
    for (gibs, pages, fresh) in [(7, 1, 7), (8, 1, 2), (8, 16, 8)] {
        let mut h = Harness::new(World::default(), Mode::L4L3L2L1).unwrap();
        // Two nodes that go to the pool.
        for pud in 0..2 {
            h.step(Op::Map(Place(3, pud, 0, 0), 1));
        }
        for pud in 0..gibs as u64 {
            for window in 0..pages {
                let va = pud << 30 | window << 21;
                let p = &mut h.procs[0];
                let leaf = 0x1000 | 0x8000_0000_0000_0025;
                p.mm.map(&mut h.world, va, leaf).unwrap();
            }
        }
        let (start, end) = (Place(3, 0, 0, 0).va(), 1 << 47);
        let p = &mut h.procs[0];
        p.mm.unmap(&mut h.world, start, end, 1 << 39, end);
        h.procs[0].leaves.clear();
        assert_eq!(h.world.pool(NodeKind::Bottom).len(), 2);
        let child = h.procs[0].mm.fork(&mut h.world).unwrap();
        assert_eq!(child.nodes(&h.world), fresh, "{gibs} {pages}");
        child.exit(&mut h.world);
        h.finish();
    }
}

/// Each invariant of index pages is looked at: what breaks it is noticed.
#[test]
fn broken_invariants_are_noticed() {
    use fpt_core::addr::PhysAddr;
    use fpt_core::entry::{ACCESSED, FLAT, PRESENT, PSE};
    type Break = fn(&mut Harness, PhysAddr);
    let index = |h: &Harness, block: PhysAddr| h.world.nodes[&block].index;
    let breaks: [(&str, Break); 9] = [
        ("I4, slice 3", |h, b| {
            let at = h.world.nodes[&b].index.offset(3 * 8);
            h.world.mem.write(at, b.as_u64() + 3 * 4096 + 0x67);
        }),
        ("I4, slice 0", |h, b| {
            let at = h.world.nodes[&b].index;
            h.world.mem.write(at, 0);
        }),
        ("I1, entry 3", |h, b| {
            let at = h.world.nodes[&b].index.offset(3 * 8);
            h.world.mem.write(at, 0x4000_0000 | PRESENT | PSE);
        }),
        ("I1, slice 3", |h, b| {
            h.world.mem.write(b.offset(3 * 4096 + 8 * 7), 1 << 40);
        }),
        ("I8, entry 0", |h, b| {
            let at = h.world.nodes[&b].index;
            let value = h.world.mem.read(at);
            h.world.mem.write(at, value & !ACCESSED);
        }),
        ("I2", |h, b| {
            let slot = h.world.nodes[&b].slot.unwrap();
            let value = h.world.mem.read(slot);
            h.world.mem.write(slot, value & !ACCESSED);
        }),
        ("state", |h, b| {
            let node = &h.world.nodes[&b];
            let (slot, index) = (node.slot.unwrap(), node.index);
            let flags = h.world.mem.read(slot) & 0xfff;
            h.world.mem.write(slot, index.as_u64() | flags & !FLAT);
        }),
        ("I10", |h, _| h.procs[0].mm.pgtables_bytes += 4096),
        ("waste", |h, _| h.procs[0].mm.wasted += 1),
    ];
    for mode in [Mode::L3L2, Mode::L4L3L2L1] {
        for (what, harm) in &breaks {
            let mut h = Harness::new(World::default(), mode).unwrap();
            h.step(Op::Map(Place(1, 0, 0, 0), 1));
            h.compare();
            let block = *h.world.nodes.keys().next().unwrap();
            assert!(h.world.mem.is_table(
                index(&h, block),
                if mode == Mode::L3L2 {
                    Level::L3
                } else {
                    Level::L2
                }
            ));
            harm(&mut h, block);
            let check =
                std::panic::AssertUnwindSafe(|| h.procs[0].mm.check(&h.world, &|_, _| true));
            let why = std::panic::catch_unwind(check).expect_err(what);
            let text = why
                .downcast_ref::<String>()
                .cloned()
                .unwrap_or_else(|| why.downcast_ref::<&str>().unwrap().to_string());
            assert!(*what == "state" || text.contains(what), "{what}: {text}");
            std::mem::forget(h);
        }
    }
}
