// SPDX-License-Identifier: GPL-2.0

//! Two installers on one entry: every schedule.

use fpt_core::counters::{Counter, KindCounter};
use fpt_core::entry::Entry;
use fpt_core::geometry::{Mode, NodeKind, NODE_BYTES};
use fpt_core::node::{self, Fallback, InstallOutcome};
use fpt_host::mm::Mm;
use fpt_host::race::{all_schedules, Raced};
use fpt_host::world::{Fail, World};

fn setup(configure: impl Fn(&mut World)) -> (World, Mm) {
    let mut world = World::default();
    let mm = Mm::new(&mut world, Mode::L3L2, None).unwrap();
    // Only the installers count.
    world.requests = 0;
    configure(&mut world);
    (world, mm)
}

fn one_winner(raced: &Raced) {
    let live = Entry::new(raced.world.mem.read(raced.slot));
    assert!(live.is_flat());
    assert_eq!(raced.mm.flat_nodes, 1);
    assert_eq!(raced.mm.pgtables_bytes, NODE_BYTES as i64);
}

/// Ends the address space and checks that nothing is left.
fn finish(raced: Raced) {
    let Raced { mut world, mm, .. } = raced;
    world.fail = Fail::Never;
    world.check();
    mm.exit(&mut world);
    world.check_empty();
}

#[test]
fn exactly_one_installs() {
    let mut lost = 0;
    let n = all_schedules(
        NodeKind::Mid,
        || setup(|_| {}),
        |raced| {
            one_winner(&raced);
            let wins = raced
                .outcomes
                .iter()
                .filter(|o| **o == InstallOutcome::Installed)
                .count();
            let losses = raced
                .outcomes
                .iter()
                .filter(|o| **o == InstallOutcome::LostRace)
                .count();
            assert_eq!((wins, losses), (1, 1));
            let count = |c| raced.world.counter(Counter::kind(NodeKind::Mid, c));
            assert_eq!(count(KindCounter::Races), 1);
            assert_eq!(count(KindCounter::Installs), 1);
            assert_eq!(count(KindCounter::Fallbacks), 0);
            lost += usize::from(raced.outcomes[0] == InstallOutcome::LostRace);
            finish(raced);
        },
    );
    eprintln!("{n} schedules, the first installer lost {lost}");
    assert!(n > 200, "{n}");
    assert!(lost > 0 && (lost as u64) < n);
}

#[test]
fn with_one_block_in_the_pool() {
    let mut hits = 0;
    let n = all_schedules(
        NodeKind::Mid,
        || {
            setup(|world| {
                let block = world.mem.alloc_block(NodeKind::Mid);
                for slice in 0..512 {
                    world.mem.set_prepared(&block, NodeKind::Mid, slice, true);
                }
                node::NodeAlloc::put_pooled(world, NodeKind::Mid, block).unwrap();
                world.counters[Counter::kind(NodeKind::Mid, KindCounter::PoolNodes).index()] = 1;
            })
        },
        |raced| {
            one_winner(&raced);
            hits += raced
                .world
                .counter(Counter::kind(NodeKind::Mid, KindCounter::PoolHits));
            finish(raced);
        },
    );
    assert!(hits as u64 >= n);
}

#[test]
fn under_a_cap_of_one() {
    let mut refused = 0;
    all_schedules(
        NodeKind::Mid,
        || setup(|world| world.global_cap = 1),
        |raced| {
            // Never two; a refused one uses a conventional table in the end, or finds the node.
            one_winner(&raced);
            for outcome in raced.outcomes {
                assert!(matches!(
                    outcome,
                    InstallOutcome::Installed
                        | InstallOutcome::LostRace
                        | InstallOutcome::Fallback(Fallback::Cap)
                ));
                refused += u64::from(outcome == InstallOutcome::Fallback(Fallback::Cap));
            }
            finish(raced);
        },
    );
    assert!(refused > 0);
}

/// Each request of the two installers fails once: at most one of them falls back.
#[test]
fn with_one_failure() {
    for k in 0..14 {
        all_schedules(
            NodeKind::Bottom,
            || setup(|world| world.fail = Fail::NodeAt(k)),
            |raced| {
                let fell = raced
                    .outcomes
                    .iter()
                    .filter(|o| matches!(o, InstallOutcome::Fallback(_)))
                    .count();
                assert!(fell <= 1);
                assert!(raced.outcomes.contains(&InstallOutcome::Installed));
                assert_eq!(raced.mm.flat_nodes, 1);
                // A bottom node under a level 4 entry: only its life cycle matters here.
                let Raced {
                    mut world,
                    mut mm,
                    slot,
                    ..
                } = raced;
                world.fail = Fail::Never;
                let detached =
                    node::detach_node(&mut fpt_host::world::Ops::new(&mut world, &mut mm, slot))
                        .unwrap();
                node::retire_node(&mut world, detached);
                mm.exit(&mut world);
                world.check_empty();
            },
        );
    }
}

/// A huge mapping was announced after the policy had said yes: both give up, nothing is left.
#[test]
fn forbidden_at_the_last_moment() {
    all_schedules(
        NodeKind::Mid,
        || setup(|world| world.forbid = true),
        |raced| {
            let forbidden = InstallOutcome::Fallback(Fallback::Forbidden);
            assert_eq!(raced.outcomes, [forbidden; 2]);
            assert_eq!(raced.world.mem.read(raced.slot), 0);
            let count = |c| raced.world.counter(Counter::kind(NodeKind::Mid, c));
            assert_eq!(
                (count(KindCounter::Fallbacks), count(KindCounter::Races)),
                (2, 0)
            );
            assert_eq!((raced.mm.flat_nodes, raced.mm.pgtables_bytes), (0, 0));
            finish(raced);
        },
    );
}
