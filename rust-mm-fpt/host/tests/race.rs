// SPDX-License-Identifier: GPL-2.0

//! Every interleaving of up to three actors at one span.

use fpt_core::counters::{Counter, KindCounter};
use fpt_core::geometry::{Mode, NodeKind, NODE_BYTES};
use fpt_core::node::Source;
use fpt_core::span::State;
use fpt_host::mm::Mm;
use fpt_host::race::actors::Actor;
use fpt_host::race::{search, Scene, Wrong, WINDOWS};
use fpt_host::world::{Fail, World};

/// Does the kernel let both be under way? Two that are excluded by the locks of the address space are
/// not.
fn together(a: Actor, b: Actor) -> bool {
    use Actor::{Collapse, Exit, Fast, Hardware, MoveAway, Read, Reclaim, Touch, Unmap};
    let one = |a: Actor, b: Actor| match (a, b) {
        // Nobody holds an address space that ends, but who walks without a lock.
        (Exit, other) => matches!(other, Fast(_) | Hardware(_)),
        // A window that is unmapped has no VMA any more: nobody touches, unmaps or moves it, and no
        // file of it is collapsed.
        (Unmap(v), Touch(w) | Read(w) | Unmap(w) | MoveAway(w) | Collapse(w) | Reclaim(w)) => {
            v != w
        }
        // mmap_lock is held for writing.
        (MoveAway(_), MoveAway(_)) => false,
        (MoveAway(v), Touch(w) | Read(w) | Collapse(w) | Reclaim(w)) => v != w,
        _ => true,
    };
    one(a, b) && one(b, a)
}

fn all_actors() -> Vec<Actor> {
    let mut all = vec![Actor::Exit];
    for w in 0..2 {
        all.extend([
            Actor::Touch(w),
            Actor::Unmap(w),
            Actor::Reclaim(w),
            Actor::Huge(w),
            Actor::Hugetlb(w),
            Actor::Collapse(w),
            Actor::MoveAway(w),
            Actor::Read(w),
            Actor::Fast(w),
            Actor::Hardware(w),
        ]);
    }
    all
}

/// Every scene with `n` actors: windows 0 and 1 are used or not, window 2 is used.
fn scenes(n: usize) -> Vec<Scene> {
    let all = all_actors();
    let mut out = Vec::new();
    let mut pick = vec![0; n];
    loop {
        let actors: Vec<Actor> = pick.iter().map(|i| all[*i]).collect();
        let fit = (0..n).all(|i| (0..i).all(|j| together(actors[i], actors[j])));
        if fit {
            let exits = actors.contains(&Actor::Exit);
            for state in [State::Flat, State::Attached] {
                let windows: &[u8] = if exits { &[0] } else { &[4, 5, 6, 7] };
                for used in windows {
                    out.push(Scene {
                        actors: actors.clone(),
                        state,
                        used: *used,
                    });
                }
            }
        }
        // The next choice, in order: who is first does not matter.
        let Some(at) = (0..n).rev().find(|i| pick[*i] + 1 < all.len()) else {
            return out;
        };
        let value = pick[at] + 1;
        pick[at..].fill(value);
    }
}

fn all_hold(n: usize) -> (usize, usize) {
    let scenes = scenes(n);
    let mut states = 0;
    for scene in &scenes {
        let found = search(scene, Wrong::Nothing);
        if let Some(why) = found.wrong {
            panic!("{scene:?}: {why}");
        }
        states += found.states;
    }
    (scenes.len(), states)
}

#[test]
fn one_actor() {
    assert_eq!(WINDOWS, 3);
    let (scenes, states) = all_hold(1);
    assert!(scenes > 150 && states > 1_000, "{scenes} {states}");
}

#[test]
fn two_actors() {
    let (scenes, states) = all_hold(2);
    eprintln!("{scenes} scenes, {states} states");
    assert!(scenes > 1_200 && states > 40_000, "{scenes} {states}");
}

#[test]
fn three_actors() {
    let (scenes, states) = all_hold(3);
    eprintln!("{scenes} scenes, {states} states");
    assert!(scenes > 8_000 && states > 2_000_000, "{scenes} {states}");
}

/// Each order that is not as documented is seen, and for the reason that it is documented for.
#[test]
fn wrong_orders_are_found() {
    use Actor::*;
    let cases: &[(Wrong, &[Actor], State, u8, &str)] = &[
        (
            Wrong::LeafBeforeFlush,
            &[Huge(0), Hardware(0)],
            State::Flat,
            4,
            "I3: ",
        ),
        (
            Wrong::FlushBeforeStore,
            &[Huge(0), Hardware(0)],
            State::Flat,
            4,
            "I3: ",
        ),
        (Wrong::LeafBesideFlat, &[Huge(0)], State::Flat, 4, "I1: "),
        (
            Wrong::DetachBeforeFlush,
            &[Hugetlb(0), Fast(0)],
            State::Flat,
            4,
            "I7: a walk by value",
        ),
        (
            Wrong::DetachBeforeFlush,
            &[Collapse(0), Hardware(1)],
            State::Flat,
            5,
            "I7: hardware",
        ),
        (
            Wrong::DetachUnflushed,
            &[Unmap(0), Hugetlb(0), Hardware(0)],
            State::Attached,
            5,
            "I7: hardware",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Fast(0)],
            State::Flat,
            0,
            "I7: a walk by value",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Hardware(0)],
            State::Flat,
            0,
            "I7: hardware",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Hardware(0)],
            State::Attached,
            0,
            "I7: hardware",
        ),
        // H1
        (
            Wrong::ListInSlice,
            &[Exit, Fast(0)],
            State::Flat,
            0,
            "I7: a walk by value",
        ),
        // H3
        (
            Wrong::NoRecheck,
            &[Read(0), Hugetlb(0)],
            State::Flat,
            4,
            "I2: the walk",
        ),
        (
            Wrong::NoRecheck,
            &[Touch(1), Collapse(0)],
            State::Flat,
            5,
            "I2: the walk",
        ),
        // H4, both orders, and H5
        (
            Wrong::UsedIgnored,
            &[Unmap(0), Hugetlb(1)],
            State::Flat,
            5,
            "a table is freed twice",
        ),
        (
            Wrong::UsedIgnored,
            &[MoveAway(0)],
            State::Flat,
            5,
            "a table that holds something",
        ),
        (
            Wrong::PutUnlocked,
            &[Unmap(0), Hugetlb(1)],
            State::Flat,
            5,
            "slice 0 is lost",
        ),
        (
            Wrong::TakeUnlocked,
            &[Touch(0), Hugetlb(0)],
            State::Flat,
            4,
            "",
        ),
        (
            Wrong::ReclaimPutsLater,
            &[Touch(0), Reclaim(0), Collapse(0)],
            State::Flat,
            4,
            "a table is freed twice",
        ),
        // H14
        (
            Wrong::PutIgnoresEntry,
            &[Touch(0), Reclaim(0)],
            State::Flat,
            4,
            "I4: window 0",
        ),
        // H8
        (
            Wrong::NoSyncNoRcu,
            &[Hugetlb(0), Fast(0)],
            State::Flat,
            4,
            "I7: a walk by value",
        ),
    ];
    for (wrong, actors, state, used, why) in cases {
        let scene = Scene {
            actors: actors.to_vec(),
            state: *state,
            used: *used,
        };
        let found = search(&scene, *wrong).wrong;
        let found = found.unwrap_or_else(|| panic!("{wrong:?} is not noticed in {scene:?}"));
        assert!(found.starts_with(why), "{wrong:?}: {found}");
        // The scene itself is in order.
        assert!(search(&scene, Wrong::Nothing).wrong.is_none(), "{scene:?}");
    }
    let tried: std::collections::HashSet<Wrong> = cases.iter().map(|c| c.0).collect();
    assert_eq!(tried.len() + 1, Wrong::ALL.len());
}

/// How an installer of a node ended (T1).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Installed {
    Yes,
    Lost,
    Fell,
}

/// Two installers of `kind` on one entry, in every order of their steps: all that can fail, then the lock,
/// a look, the store. `check` judges each end. Answers how many orders there are.
fn installers(
    kind: NodeKind,
    configure: impl Fn(&mut World),
    mut check: impl FnMut([Installed; 2], World, Mm),
) -> u32 {
    // Bit i: who makes step i.
    let orders = (0u32..16).filter(|order| order.count_ones() == 2);
    for order in orders.clone() {
        let mut world = World::default();
        let mut mm = Mm::new(&mut world, Mode::L3L2, None).unwrap();
        world.requests = 0;
        configure(&mut world);
        let slot = mm.p4d(0);
        let mut ready = [None, None];
        let mut ends = [None, None];
        for step in 0..4 {
            let who = (order >> step & 1) as usize;
            if ends[who].is_some() {
                continue;
            }
            match ready[who].take() {
                None => match mm.acquire(&mut world, kind, Source::Any) {
                    Ok(node) => ready[who] = Some(node),
                    Err(_) => ends[who] = Some(Installed::Fell),
                },
                Some(node) => {
                    let won = mm.publish(&mut world, slot, node);
                    ends[who] = Some(if won { Installed::Yes } else { Installed::Lost });
                }
            }
        }
        check(ends.map(Option::unwrap), world, mm);
    }
    orders.count() as u32
}

/// Ends the address space and checks that nothing is left.
fn finish(mut world: World, mm: Mm) {
    world.fail = Fail::Never;
    world.check();
    mm.exit(&mut world);
    world.check_empty();
}

#[test]
fn exactly_one_installs() {
    let mut lost = 0;
    let orders = installers(
        NodeKind::Mid,
        |_| {},
        |ends, world, mm| {
            let count = |which| ends.iter().filter(|e| **e == which).count();
            assert_eq!((count(Installed::Yes), count(Installed::Lost)), (1, 1));
            let counter = |c| world.counter(Counter::kind(NodeKind::Mid, c));
            assert_eq!(counter(KindCounter::Installs), 1);
            assert_eq!(counter(KindCounter::Races), 1);
            assert_eq!(counter(KindCounter::Fallbacks), 0);
            assert_eq!(mm.flat_nodes, 1);
            assert_eq!(mm.pgtables_bytes, NODE_BYTES as i64 + 4096);
            lost += u32::from(ends[0] == Installed::Lost);
            finish(world, mm);
        },
    );
    assert_eq!((orders, lost), (6, 3));
}

/// Each request of the two installers fails once: at most one of them falls back.
#[test]
fn with_one_failure() {
    let mut fell = 0;
    for k in 0..18 {
        installers(
            NodeKind::Mid,
            |world| world.fail = Fail::NodeAt(k),
            |ends, world, mm| {
                let count = |which| ends.iter().filter(|e| **e == which).count();
                assert!(count(Installed::Fell) <= 1);
                assert_eq!(count(Installed::Yes), 1);
                fell += count(Installed::Fell);
                assert_eq!(mm.flat_nodes, 1);
                finish(world, mm);
            },
        );
    }
    // Cap, block, index page, descriptor, four slices and the charge, of each.
    assert_eq!(fell, 18 * 6);
}

/// The second finds one reservation taken: it falls back, or finds the node of the first.
#[test]
fn under_a_cap_of_one() {
    let mut fell = 0;
    installers(
        NodeKind::Mid,
        |world| world.global_cap = 1,
        |ends, world, mm| {
            assert!(ends.contains(&Installed::Yes));
            fell += u32::from(ends.contains(&Installed::Fell));
            assert_eq!(mm.flat_nodes, 1);
            finish(world, mm);
        },
    );
    assert_eq!(fell, 6);
}
