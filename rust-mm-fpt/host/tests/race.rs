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
    use Actor::*;
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
        // T9 holds mmap_lock for writing, and the mappings of its window.
        (Migrate(_) | Promote(_), Migrate(_) | Promote(_) | Unmap(_) | MoveAway(_)) => false,
        (Migrate(v) | Promote(v), Touch(w) | Huge(w) | Hugetlb(w) | Reclaim(w)) => v != w,
        // T10 and T11 hold it for reading; moves and T9 do for writing.
        (Flatten | Detach, MoveAway(_) | Migrate(_)) => false,
        // A mapping that is taken apart or moved is not found by rmap.
        (Rmap(v), Unmap(w) | MoveAway(w)) => v != w,
        _ => true,
    };
    one(a, b) && one(b, a)
}

/// Is it about the way back, or who it has to do with?
fn is_new(actor: Actor) -> bool {
    use Actor::*;
    matches!(
        actor,
        Rmap(_) | Attach | Migrate(_) | Flatten | Promote(_) | Detach
    )
}

/// State, windows with slices, windows with other tables.
type Beginning = (State, u8, u8);

/// The beginnings in which an actor has something to do. Window 0 is where it acts.
fn beginnings(actor: Actor) -> &'static [Beginning] {
    use Actor::*;
    match actor {
        Attach => &[(State::Ready, 0, 7)],
        Promote(_) => &[(State::Ready, 0, 7), (State::Ready, 0, 4)],
        Migrate(_) => &[(State::Attached, 6, 1), (State::Attached, 4, 3)],
        Flatten => &[(State::Attached, 7, 0), (State::Attached, 6, 0)],
        Detach => &[(State::Flat, 5, 0), (State::Attached, 6, 1)],
        Rmap(_) => &[(State::Flat, 7, 0), (State::Attached, 6, 1)],
        _ => &[],
    }
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

/// Every choice of `n` of these, in order: who is first does not matter.
fn choices(all: &[Actor], n: usize) -> Vec<Vec<Actor>> {
    let mut out = Vec::new();
    let mut pick = vec![0; n];
    loop {
        let actors: Vec<Actor> = pick.iter().map(|i| all[*i]).collect();
        if (0..n).all(|i| (0..i).all(|j| together(actors[i], actors[j]))) {
            out.push(actors);
        }
        let Some(at) = (0..n).rev().find(|i| pick[*i] + 1 < all.len()) else {
            return out;
        };
        let value = pick[at] + 1;
        pick[at..].fill(value);
    }
}

/// Every scene with `n` actors on the way there: windows 0 and 1 are used or not, window 2 is used.
fn scenes(n: usize) -> Vec<Scene> {
    let mut out = Vec::new();
    for actors in choices(&all_actors(), n) {
        let windows: &[u8] = if actors.contains(&Actor::Exit) {
            &[0]
        } else {
            &[4, 5, 6, 7]
        };
        for state in [State::Flat, State::Attached] {
            out.extend(windows.iter().map(|used| Scene {
                actors: actors.clone(),
                state,
                used: *used,
                foreign: 0,
            }));
        }
    }
    out
}

/// Every scene with `n` actors one of which at least is about the way back, from where that has
/// something to do.
fn scenes_back(n: usize) -> Vec<Scene> {
    let mut all = all_actors();
    all.extend([
        Actor::Rmap(0),
        Actor::Attach,
        Actor::Migrate(0),
        Actor::Flatten,
        Actor::Promote(0),
        Actor::Detach,
    ]);
    let mut out = Vec::new();
    for actors in choices(&all, n) {
        let mut from: Vec<Beginning> = Vec::new();
        for actor in &actors {
            from.extend(beginnings(*actor).iter());
        }
        from.sort_by_key(|b| (b.0 as u8, b.1, b.2));
        from.dedup();
        if actors.iter().any(|a| is_new(*a)) && !actors.contains(&Actor::Exit) {
            out.extend(from.into_iter().map(|(state, used, foreign)| Scene {
                actors: actors.clone(),
                state,
                used,
                foreign,
            }));
        }
    }
    out
}

fn all_hold(scenes: &[Scene]) -> (usize, usize) {
    let mut states = 0;
    for scene in scenes {
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
    let (scenes, states) = all_hold(&scenes(1));
    assert!(scenes > 150 && states > 1_000, "{scenes} {states}");
}

#[test]
fn two_actors() {
    let (scenes, states) = all_hold(&scenes(2));
    eprintln!("{scenes} scenes, {states} states");
    assert!(scenes > 1_200 && states > 40_000, "{scenes} {states}");
}

#[test]
fn three_actors() {
    let (scenes, states) = all_hold(&scenes(3));
    eprintln!("{scenes} scenes, {states} states");
    assert!(scenes > 8_000 && states > 2_000_000, "{scenes} {states}");
}

#[test]
fn up_to_two_actors_on_the_way_back() {
    let (one, few) = all_hold(&scenes_back(1));
    let (scenes, states) = all_hold(&scenes_back(2));
    eprintln!("{one} and {scenes} scenes, {few} and {states} states");
    assert!(one >= 10 && scenes > 200, "{one} {scenes}");
}

#[test]
fn three_actors_on_the_way_back() {
    let (scenes, states) = all_hold(&scenes_back(3));
    eprintln!("{scenes} scenes, {states} states");
}

/// Each order that is not as documented is seen, and for the reason that it is documented for.
#[test]
fn wrong_orders_are_found() {
    use Actor::*;
    type Case<'a> = (Wrong, &'a [Actor], Beginning, &'a str);
    let cases: &[Case<'_>] = &[
        (
            Wrong::LeafBeforeFlush,
            &[Huge(0), Hardware(0)],
            (State::Flat, 4, 0),
            "I3: ",
        ),
        (
            Wrong::FlushBeforeStore,
            &[Huge(0), Hardware(0)],
            (State::Flat, 4, 0),
            "I3: ",
        ),
        (
            Wrong::LeafBesideFlat,
            &[Huge(0)],
            (State::Flat, 4, 0),
            "I1: ",
        ),
        (
            Wrong::DetachBeforeFlush,
            &[Hugetlb(0), Fast(0)],
            (State::Flat, 4, 0),
            "I7: a walk by value",
        ),
        (
            Wrong::DetachBeforeFlush,
            &[Collapse(0), Hardware(1)],
            (State::Flat, 5, 0),
            "I7: hardware",
        ),
        (
            Wrong::DetachUnflushed,
            &[Unmap(0), Hugetlb(0), Hardware(0)],
            (State::Attached, 5, 0),
            "I7: hardware",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Fast(0)],
            (State::Flat, 0, 0),
            "I7: a walk by value",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Hardware(0)],
            (State::Flat, 0, 0),
            "I7: hardware",
        ),
        (
            Wrong::FreeBeforeFlush,
            &[Exit, Hardware(0)],
            (State::Attached, 0, 0),
            "I7: hardware",
        ),
        // H1
        (
            Wrong::ListInSlice,
            &[Exit, Fast(0)],
            (State::Flat, 0, 0),
            "I7: a walk by value",
        ),
        // H3
        (
            Wrong::NoRecheck,
            &[Read(0), Hugetlb(0)],
            (State::Flat, 4, 0),
            "I2: the walk",
        ),
        (
            Wrong::NoRecheck,
            &[Touch(1), Collapse(0)],
            (State::Flat, 5, 0),
            "I2: the walk",
        ),
        // H4, both orders, and H5
        (
            Wrong::UsedIgnored,
            &[Unmap(0), Hugetlb(1)],
            (State::Flat, 5, 0),
            "a table is freed twice",
        ),
        (
            Wrong::UsedIgnored,
            &[MoveAway(0)],
            (State::Flat, 5, 0),
            "a table that holds something",
        ),
        (
            Wrong::PutUnlocked,
            &[Unmap(0), Hugetlb(1)],
            (State::Flat, 5, 0),
            "slice 0 is lost",
        ),
        (
            Wrong::TakeUnlocked,
            &[Touch(0), Hugetlb(0)],
            (State::Flat, 4, 0),
            "",
        ),
        (
            Wrong::ReclaimPutsLater,
            &[Touch(0), Reclaim(0), Collapse(0)],
            (State::Flat, 4, 0),
            "a table is freed twice",
        ),
        // H14
        (
            Wrong::PutIgnoresEntry,
            &[Touch(0), Reclaim(0)],
            (State::Flat, 4, 0),
            "I4: window 0",
        ),
        // H8
        (
            Wrong::NoSyncNoRcu,
            &[Hugetlb(0), Fast(0)],
            (State::Flat, 4, 0),
            "I7: a walk by value",
        ),
        // I9
        (
            Wrong::FlatWithoutRcu,
            &[Read(0), Detach, Promote(1)],
            (State::Flat, 0, 0),
            "I2: the walk",
        ),
        (
            Wrong::FlatBlindly,
            &[Flatten],
            (State::Attached, 6, 1),
            "I1: window 0",
        ),
        (
            Wrong::FlatUnlocked,
            &[Flatten, Huge(0)],
            (State::Attached, 6, 0),
            "I1: window 0",
        ),
        (
            Wrong::MergeBeforeFlush,
            &[Migrate(0), Hardware(0)],
            (State::Attached, 6, 1),
            "the dirty bit of window 0 is lost",
        ),
        (
            Wrong::UnlockBeforeMerge,
            &[Migrate(0), Hardware(0), Rmap(0)],
            (State::Attached, 6, 1),
            "the dirty bit of window 0 is lost",
        ),
        (
            Wrong::MigrateFreesAtOnce,
            &[Migrate(0), Read(0)],
            (State::Attached, 6, 1),
            "I7: a walk",
        ),
        (
            Wrong::MigrateEmpties,
            &[Migrate(0), Rmap(0)],
            (State::Attached, 6, 1),
            "rmap misses",
        ),
        (
            Wrong::CopyUnlocked,
            &[Migrate(0), Rmap(0)],
            (State::Attached, 6, 1),
            "the page of window 0 was unmapped and is mapped",
        ),
        (
            Wrong::RmapNoRecheck,
            &[Migrate(0), Rmap(0)],
            (State::Attached, 6, 1),
            "the page of window 0 was unmapped and is mapped",
        ),
        (
            Wrong::FastNoRecheck,
            &[Migrate(0), Rmap(0), Fast(0)],
            (State::Attached, 6, 1),
            "a walk by value keeps a page",
        ),
        // Why T9 holds mmap_lock for writing.
        (
            Wrong::FaultNoRecheck,
            &[Migrate(0), Touch(0), Rmap(0)],
            (State::Attached, 6, 1),
            "a page was mapped where nobody finds it",
        ),
    ];
    for (wrong, actors, (state, used, foreign), why) in cases {
        let scene = Scene {
            actors: actors.to_vec(),
            state: *state,
            used: *used,
            foreign: *foreign,
        };
        let found = search(&scene, *wrong).wrong;
        let found = found.unwrap_or_else(|| panic!("{wrong:?} is not noticed in {scene:?}"));
        assert!(found.starts_with(why), "{wrong:?}: {found}");
        // The scene itself is in order.
        assert!(search(&scene, Wrong::Nothing).wrong.is_none(), "{scene:?}");
    }
    let tried: std::collections::HashSet<Wrong> = cases.iter().map(|c| c.0).collect();
    assert_eq!(
        tried.len() + 1 + NEEDED_WITH_ANOTHER.len(),
        Wrong::ALL.len()
    );
}

/// Orders that do no harm alone.
const NEEDED_WITH_ANOTHER: [Wrong; 2] = [Wrong::FreeWithoutRcu, Wrong::MigrateNoSync];

/// The flush of T9 interrupts, and GUP-fast looks a second time: one of the two is enough. T5 frees by RCU
/// for the sake of who knows a table from before; a walk that is led to a freed slice by an old value of
/// the slot sees that the slot is another now, as T10 waits (I9).
#[test]
fn one_of_two_guards_is_enough() {
    for wrong in NEEDED_WITH_ANOTHER {
        for scene in scenes_back(2) {
            let found = search(&scene, wrong).wrong;
            assert!(found.is_none(), "{wrong:?}, {scene:?}: {found:?}");
        }
        let threes: [(&[Actor], Beginning); 3] = [
            (
                &[Actor::Read(0), Actor::Detach, Actor::Promote(1)],
                (State::Flat, 0, 0),
            ),
            (
                &[Actor::Fast(0), Actor::Detach, Actor::Promote(1)],
                (State::Flat, 0, 0),
            ),
            (
                &[Actor::Migrate(0), Actor::Rmap(0), Actor::Fast(0)],
                (State::Attached, 6, 1),
            ),
        ];
        for (actors, (state, used, foreign)) in threes {
            let scene = Scene {
                actors: actors.to_vec(),
                state,
                used,
                foreign,
            };
            let found = search(&scene, wrong).wrong;
            assert!(found.is_none(), "{wrong:?}, {scene:?}: {found:?}");
        }
    }
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
