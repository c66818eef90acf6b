// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alphabets of events. Each is about some rules, so that all short sequences of it can be tried.

use rand::SeedableRng;

use super::brute::Event::{self, *};
use super::search::{Suite, Tally};
use super::toy::*;
use crate::finding::Rule;
use crate::geometry::{A, D, G, PCD, RW, XD};
use crate::rules::{Knobs, Psc};

fn knobs(psc: Psc) -> Knobs {
    Knobs {
        psc,
        ..Knobs::default()
    }
}

fn loaded() -> Vec<Event> {
    vec![Cr3(0, ROOT_A), Cr3(1, ROOT_A)]
}

/// Upper entries that go, come back, change rights, lead elsewhere; tables that are freed.
fn tables(psc: Psc) -> Suite {
    Suite {
        name: "tables",
        memory: start(),
        knobs: knobs(psc),
        first: loaded(),
        events: vec![
            Store(entry(ROOT_A, 0), 0),
            Store(entry(ROOT_A, 0), to(MID, TABLE)),
            Store(entry(ROOT_A, 0), to(MID, TABLE & !RW)),
            Store(entry(ROOT_A, 1), to(MID, TABLE)),
            Store(entry(ROOT_B, 0), to(LOW, TABLE)),
            Store(entry(ROOT_B, 1), to(MID, TABLE)),
            Store(entry(MID, 0), 0),
            Store(entry(MID, 0), to(LOW, TABLE)),
            Store(entry(MID, 1), to(LOW2, TABLE | XD)),
            Store(entry(MID, 1), to(LOW, TABLE)),
            Store(entry(LOW, 0), 0),
            Store(entry(LOW, 0), to(PAGE, USER)),
            Store(entry(LOW, 2), to(MID, USER)),
            Store(entry(LOW2, 1), to(LOW, READ)),
            Cr3(0, ROOT_A),
            Cr3(1, ROOT_B),
            Page(0, va(0, 0, 0)),
            Page(0, va(0, 1, 0)),
            Page(1, va(0, 0, 1)),
            Fault(0, va(0, 0, 0)),
            Fault(1, va(0, 1, 0)),
            Everything(1),
            Free(MID, 1),
            Free(LOW, 1),
        ],
        depth: 3,
    }
}

/// Pages: rights, frames, types; who frees, who freezes, who returns.
fn pages() -> Suite {
    let it = entry(LOW, 0);
    Suite {
        name: "pages",
        memory: start(),
        knobs: knobs(Psc::Intel),
        first: loaded(),
        events: vec![
            Store(it, 0),
            Store(it, to(PAGE, USER)),
            Store(it, to(PAGE, READ)),
            Store(it, to(PAGE, USER | XD)),
            Store(it, to(PAGE, USER | PCD)),
            Store(it, to(PAGE3, USER)),
            Store(entry(LOW, 1), 0),
            Page(0, va(0, 0, 0)),
            Page(1, va(0, 0, 0)),
            Page(1, va(0, 0, 1)),
            Cr3(1, ROOT_B),
            Fault(0, va(0, 0, 0)),
            User(0),
            User(1),
            Kernel(1),
            Stac(1),
            Free(PAGE, 1),
            Freeze(PAGE),
            Freeze(PAGE2),
        ],
        depth: 4,
    }
}

/// The kernel's half: global pages, reuse of addresses, halted CPUs, promises.
fn kernel() -> Suite {
    let (global, local) = (entry(KLOW, 0), entry(KLOW, 1));
    Suite {
        name: "kernel",
        memory: start(),
        knobs: knobs(Psc::Intel),
        first: loaded(),
        events: vec![
            Store(global, 0),
            Store(global, to(PAGE3, GLOBAL)),
            Store(global, to(PAGE3, GLOBAL & !G)),
            Store(global, to(PAGE, GLOBAL)),
            Store(local, 0),
            Store(local, to(PAGE2, KERNEL)),
            Store(local, to(PAGE3 + 1, KERNEL & !RW)),
            Cr3(0, ROOT_A),
            Cr3(1, ROOT_B),
            Page(0, va(2, 0, 0)),
            Page(1, va(2, 0, 0)),
            Page(1, va(2, 0, 1)),
            Everything(0),
            Everything(1),
            Fault(1, va(2, 0, 0)),
            Halt(1),
            Resume(1),
            User(0),
            Kernel(0),
            Free(PAGE3, 1),
            Freeze(PAGE3),
        ],
        depth: 4,
    }
}

/// Flattened nodes and roots, and conventional tables in their place.
fn flat() -> Suite {
    let mut memory = start();
    memory.put(entry(ROOT_A, 0), to(NODE, NODE_FLAGS));
    // The conventional table that a node can become: its slices stay.
    memory.put(entry(MID, 0), to(NODE, TABLE));
    memory.put(entry(MID, 1), to(NODE + 1, TABLE));
    memory.put(entry(MID, 2), 0);
    Suite {
        name: "flat",
        memory,
        knobs: knobs(Psc::Intel),
        first: vec![Cr3(0, ROOT_A), Cr3(1, ROOT_F)],
        events: vec![
            Store(entry(ROOT_A, 0), 0),
            Store(entry(ROOT_A, 0), to(MID, TABLE)),
            Store(entry(ROOT_A, 0), to(NODE, NODE_FLAGS)),
            // The table goes on as the node's index page, or becomes something else.
            Store(entry(MID, 2), to(NODE + 2, TABLE)),
            Store(entry(MID, 2), to(LOW2, TABLE)),
            Store(entry(FLAT_LOW, 0), 0),
            Store(entry(FLAT_LOW, 0), to(LOW2, TABLE)),
            Store(entry(FLAT_LOW + 1, 0), to(NODE + 2, TABLE)),
            Store(entry(NODE + 1, 0), 0),
            Store(entry(NODE + 2, 1), to(PAGE, USER)),
            Store(entry(LOW2, 0), 0),
            Cr3(0, ROOT_F),
            Cr3(1, ROOT_A),
            Cr3(1, ROOT_B),
            Page(0, va(0, 1, 0)),
            Page(0, va(0, 2, 0)),
            Fault(0, va(0, 3, 0)),
            Fault(1, va(0, 0, 0)),
            Free(NODE, 4),
            Free(NODE + 2, 1),
            Free(4, 4),
            Free(4, 1),
            Free(LOW2, 1),
        ],
        depth: 3,
    }
}

/// Large pages, their pieces, promotion and demotion in place.
fn large() -> Suite {
    let mut memory = start();
    memory.put(entry(MID, 0), to(LOW, TABLE));
    for n in 0..4 {
        memory.put(entry(LOW, n), to(LARGE + n, USER));
    }
    Suite {
        name: "large",
        memory,
        knobs: knobs(Psc::Intel),
        first: loaded(),
        events: vec![
            Store(entry(MID, 0), to(LARGE, BIG)),
            Store(entry(MID, 0), to(LARGE, BIG & !RW)),
            Store(entry(MID, 0), to(LOW, TABLE)),
            Store(entry(MID, 0), 0),
            Store(entry(LOW, 1), to(LARGE + 1, READ)),
            Store(entry(LOW, 1), 0),
            Page(0, va(0, 0, 0)),
            Page(0, va(0, 0, 1)),
            Page(1, va(0, 0, 2)),
            Fault(0, va(0, 0, 1)),
            Cr3(1, ROOT_A),
            User(0),
            User(1),
            Kernel(0),
            Free(LARGE + 1, 1),
            Free(LOW, 1),
            Freeze(LARGE + 2),
        ],
        depth: 4,
    }
}

/// Accessed and dirty bits, which software clears and hardware sets. No table is unlinked here: below
/// one, the ledger takes both bits for set.
fn marks() -> Suite {
    let it = entry(LOW, 0);
    Suite {
        name: "marks",
        memory: start(),
        knobs: knobs(Psc::Intel),
        first: loaded(),
        events: vec![
            Store(it, 0),
            Store(it, to(PAGE, USER)),
            Store(it, to(PAGE, USER & !A)),
            Store(it, to(PAGE, USER & !D)),
            Store(it, to(PAGE, READ)),
            Store(it, to(PAGE, READ & !A)),
            Hardware(it, A),
            Hardware(it, A | D),
            Page(0, va(0, 0, 0)),
            Page(1, va(0, 0, 0)),
            User(0),
            User(1),
            Kernel(1),
            Free(PAGE, 1),
            Freeze(PAGE),
        ],
        depth: 4,
    }
}

pub(super) fn all() -> Vec<Suite> {
    vec![
        tables(Psc::Intel),
        tables(Psc::Tce),
        pages(),
        kernel(),
        flat(),
        large(),
        marks(),
    ]
}

/// Everything but accessed and dirty bits at once, for random sequences.
fn mixture(psc: Psc) -> Suite {
    let parts = [tables(psc), pages(), kernel(), flat(), large()];
    let mut memory = start();
    memory.put(entry(MID, 1), to(LOW2, TABLE));
    Suite {
        name: "mixture",
        memory,
        knobs: knobs(psc),
        first: vec![],
        events: parts.into_iter().flat_map(|s| s.events).collect(),
        depth: 0,
    }
}

#[test]
fn every_short_sequence() {
    let mut tally = Tally::default();
    for suite in all() {
        let start = std::time::Instant::now();
        let before = tally.sequences;
        if let Err((path, why)) = suite.exhaust(&mut tally) {
            panic!("{} after {path:x?}: {why}", suite.name);
        }
        println!(
            "{}: {} sequences, {:?}",
            suite.name,
            tally.sequences - before,
            start.elapsed()
        );
    }
    assert!(tally.alarms * 100 > tally.sequences, "{tally:?}");
}

#[test]
fn long_random_sequences() {
    let mut tally = Tally::default();
    // More by hand: TLBSAN_SEEDS=100000 cargo test -p fpt-tlbsan-model long_random
    let seeds = std::env::var("TLBSAN_SEEDS").map_or(2000, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        let psc = if seed % 2 == 0 { Psc::Intel } else { Psc::Tce };
        let suite = mixture(psc);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        if let Err((path, why)) = suite.stroll(&mut rng, 60, &mut tally) {
            let short = suite.shrink(&path);
            panic!(
                "seed {seed}, {psc:?}, after {short:x?} (or all of {}): {why}",
                path.len()
            );
        }
    }
    println!("{tally:?}");
    for rule in [
        Rule::R0,
        Rule::R1,
        Rule::R1Reused,
        Rule::R2,
        Rule::R3,
        Rule::R4,
        Rule::R5,
    ] {
        assert!(tally.findings.contains(&rule), "{rule:?} was never met");
    }
}
