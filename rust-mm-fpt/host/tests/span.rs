// SPDX-License-Identifier: GPL-2.0

//! The life of a span against a set of numbers and a name for where it stands.

use fpt_core::addr::PhysAddr;
use fpt_core::entry::{Entry, ACCESSED, DIRTY, NX, PRESENT, PSE, TABLE_FLAGS};
use fpt_core::geometry::{NodeKind, SLICES};
use fpt_core::span::{is_own, own_entry, Event, Span, State, View, LOOK_LIVES};
use proptest::prelude::*;
use std::collections::BTreeSet;

const BLOCK: PhysAddr = PhysAddr::new(0x1234_5660_0000);
const INDEX: PhysAddr = PhysAddr::new(0x7777_7000);

/// What stands at an index when a slice comes back.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Now {
    None,
    Own,
    OwnNotAccessed,
    OtherSlice,
    Leaf,
    Huge,
    Swap,
    Foreign,
}

impl Now {
    const ALL: [Now; 8] = [
        Now::None,
        Now::Own,
        Now::OwnNotAccessed,
        Now::OtherSlice,
        Now::Leaf,
        Now::Huge,
        Now::Swap,
        Now::Foreign,
    ];

    fn entry(self, i: u32) -> Entry {
        let own = own_entry(BLOCK, i);
        match self {
            Now::None => Entry::NONE,
            Now::Own => own,
            Now::OwnNotAccessed => Entry::new(own.as_u64() & !ACCESSED),
            Now::OtherSlice => own_entry(BLOCK, i ^ 1),
            Now::Leaf => Entry::new(own.as_u64() | NX | DIRTY),
            Now::Huge => Entry::new(0x4000_0000 | PRESENT | PSE),
            Now::Swap => Entry::new(0x4000_0000),
            Now::Foreign => Entry::new(0x5000_0000 | TABLE_FLAGS),
        }
    }

    fn is_own(self) -> bool {
        matches!(self, Now::Own | Now::OwnNotAccessed)
    }
}

#[derive(Copy, Clone, Debug)]
enum Step {
    Born,
    Take(u32),
    Put(u32, Now),
    Happens(Event),
    Attach,
    Adopt(u32, Now),
    /// With this at one index, and what should be there at the others.
    Flatten(Option<(u32, Now)>),
    Gather,
    Retire(bool),
}

const EVENTS: [Event; 6] = [
    Event::Leaf,
    Event::Foreign,
    Event::Hugetlb,
    Event::Collapse,
    Event::MovedAway,
    Event::Asked,
];

/// What a span is, told otherwise.
struct Model {
    kind: NodeKind,
    state: State,
    used: BTreeSet<u32>,
    /// Lives since the index page was looked through; `None`: it has to be at the end of this one.
    lives: Option<u8>,
}

impl Model {
    fn new(kind: NodeKind) -> Model {
        Model {
            kind,
            state: State::Ready,
            used: BTreeSet::new(),
            lives: Some(0),
        }
    }

    fn in_tree(&self) -> bool {
        matches!(self.state, State::Flat | State::Attached)
    }

    /// Makes one step on both sides; steps that the types exclude are left out.
    fn step(&mut self, span: &mut Span, step: Step) {
        match step {
            Step::Born => {
                if let View::Ready(ready) = span.view() {
                    let (_, entry) = ready.born(BLOCK).unwrap();
                    assert_eq!(Some(entry), Entry::node(BLOCK, self.kind, TABLE_FLAGS));
                    self.state = State::Flat;
                }
            }
            Step::Take(i) => {
                let want = (self.in_tree() && i < SLICES).then(|| own_entry(BLOCK, i));
                assert_eq!(span.take(BLOCK, i), want);
                if want.is_some() {
                    self.used.insert(i);
                }
            }
            Step::Put(i, now) => {
                let want = !now.is_own() && self.used.contains(&i);
                assert_eq!(span.put(BLOCK, i, now.entry(i)), want);
                if want {
                    self.used.remove(&i);
                }
            }
            Step::Happens(event) => self.happens(span, event),
            Step::Attach => {
                if let View::Ready(ready) = span.view() {
                    let _attached = ready.attach();
                    assert_eq!(self.state, State::Ready);
                    self.state = State::Attached;
                    self.lives = None;
                }
            }
            Step::Adopt(i, now) => {
                let yes = self.state == State::Attached
                    && self.kind == NodeKind::Bottom
                    && now == Now::Foreign
                    && i < SLICES
                    && !self.used.contains(&i);
                let want = yes.then(|| own_entry(BLOCK, i));
                assert_eq!(span.adopt(BLOCK, i, now.entry(i)), want);
                if yes {
                    self.used.insert(i);
                }
            }
            Step::Flatten(odd) => self.flatten(span, odd),
            Step::Gather => {
                let was = self.in_tree();
                match span.view() {
                    View::Flat(span) => drop(span.gather()),
                    View::Attached(span) => drop(span.gather()),
                    View::Ready(_) | View::Gathered(_) | View::Loose => assert!(!was),
                }
                if was {
                    self.state = State::Gathered;
                }
            }
            Step::Retire(dirt) => {
                let View::Gathered(mut gathered) = span.view() else {
                    assert_ne!(self.state, State::Gathered);
                    return;
                };
                assert_eq!(self.state, State::Gathered);
                let look = self.lives.is_none_or(|lives| lives + 1 >= LOOK_LIVES);
                assert_eq!(gathered.must_look(), look);
                self.lives = match self.lives {
                    Some(lives) if !look => Some(lives + 1),
                    _ => Some(0),
                };
                let seen = Entry::new(if dirt { PRESENT } else { 0 });
                let empty = self.used.is_empty() && !dirt;
                assert_eq!(gathered.retire(seen), empty);
                if empty {
                    self.state = State::Ready;
                }
            }
        }
        self.compare(span);
    }

    fn flatten(&mut self, span: &mut Span, odd: Option<(u32, Now)>) {
        let View::Attached(attached) = span.view() else {
            assert_ne!(self.state, State::Attached);
            return;
        };
        assert_eq!(self.state, State::Attached);
        let mut asked = 0;
        let got = attached.flatten(BLOCK, |i| {
            asked += 1;
            match (odd, self.used.contains(&i)) {
                (Some((at, now)), _) if at == i => now.entry(i),
                (_, true) => own_entry(BLOCK, i),
                (_, false) => Entry::NONE,
            }
        });
        let fits = odd.is_none_or(|(i, now)| {
            i >= SLICES
                || if self.used.contains(&i) {
                    now.is_own()
                } else {
                    now == Now::None
                }
        });
        let want = Entry::node(BLOCK, self.kind, TABLE_FLAGS).filter(|_| fits);
        assert_eq!(got.map(|(_, entry)| entry), want);
        if fits {
            assert_eq!(asked, SLICES);
            self.state = State::Flat;
        }
    }

    fn happens(&mut self, span: &mut Span, event: Event) {
        let to = event.demands();
        let was = self.state;
        let unflushed = match span.view() {
            View::Flat(flat) => {
                let (unflushed, entry) = flat.unflat(INDEX).unwrap();
                assert_eq!(Some(entry), Entry::table(INDEX, TABLE_FLAGS));
                assert_eq!(was, State::Flat);
                self.lives = None;
                unflushed
            }
            View::Attached(attached) => {
                assert_eq!(was, State::Attached);
                attached.unflushed()
            }
            View::Ready(_) | View::Gathered(_) | View::Loose => {
                assert!(!self.in_tree());
                return;
            }
        };
        let flushed = unflushed.flushed();
        self.state = to;
        if to == State::Loose {
            let unused = flushed.detach().nr_unused();
            assert_eq!(unused as usize, 512 - self.used.len());
            assert_eq!(span.nr_unused(), unused);
        }
    }

    fn compare(&self, span: &Span) {
        assert_eq!((span.state(), span.kind()), (self.state, self.kind));
        assert_eq!(span.nr_used() as usize, self.used.len());
        let slot = match self.state {
            State::Flat => Entry::node(BLOCK, self.kind, TABLE_FLAGS),
            State::Attached => Entry::table(INDEX, TABLE_FLAGS),
            State::Ready | State::Gathered | State::Loose => None,
        };
        assert_eq!(span.slot_entry(BLOCK, INDEX), slot);
    }

    fn compare_all(&self, span: &Span) {
        for i in 0..2 * SLICES {
            assert_eq!(span.is_used(i), self.used.contains(&i));
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let index = prop_oneof![
        4 => 0..SLICES,
        2 => prop::sample::select(vec![0u32, 63, 64, 65, 255, 256, 448, 511]),
        1 => prop::sample::select(vec![512u32, 513, 1024, 1 << 31, u32::MAX]),
    ];
    let index2 = 0..SLICES;
    prop_oneof![
        2 => Just(Step::Born),
        12 => index.clone().prop_map(Step::Take),
        8 => (index.clone(), 0..8usize).prop_map(|(i, n)| Step::Put(i, Now::ALL[n])),
        4 => (index2, 0..8usize).prop_map(|(i, n)| Step::Put(i, Now::ALL[n])),
        1 => Just(Step::Attach),
        6 => (index.clone(), 0..8usize).prop_map(|(i, n)| Step::Adopt(i, Now::ALL[n])),
        2 => Just(Step::Flatten(None)),
        1 => (index, 0..8usize).prop_map(|(i, n)| Step::Flatten(Some((i, Now::ALL[n])))),
        1 => (0..6usize).prop_map(|n| Step::Happens(EVENTS[n])),
        1 => Just(Step::Gather),
        2 => any::<bool>().prop_map(Step::Retire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence(mid in any::<bool>(), steps in prop::collection::vec(step(), 1..200)) {
        let kind = if mid { NodeKind::Mid } else { NodeKind::Bottom };
        let (mut span, mut model) = (Span::new(kind), Model::new(kind));
        for step in steps {
            model.step(&mut span, step);
        }
        model.compare_all(&span);
    }
}

/// Every sequence of up to five steps of a small alphabet.
#[test]
fn every_short_sequence() {
    let alphabet = [
        Step::Take(0),
        Step::Take(511),
        Step::Put(0, Now::None),
        Step::Put(0, Now::Own),
        Step::Put(511, Now::Leaf),
        Step::Happens(Event::Leaf),
        Step::Happens(Event::Hugetlb),
        Step::Gather,
        Step::Retire(false),
        Step::Retire(true),
        Step::Born,
        Step::Attach,
        Step::Adopt(0, Now::Foreign),
        Step::Flatten(None),
        Step::Flatten(Some((0, Now::Huge))),
    ];
    let n = alphabet.len();
    let mut ends = [0u32; 5];
    for mut code in 0..n.pow(5) {
        let (mut span, mut model) = (Span::new(NodeKind::Bottom), Model::new(NodeKind::Bottom));
        for _ in 0..5 {
            model.step(&mut span, alphabet[code % n]);
            code /= n;
        }
        ends[model.state as usize] += 1;
        assert_eq!(span.is_used(0), model.used.contains(&0));
        assert_eq!(span.is_used(511), model.used.contains(&511));
    }
    assert!(ends.iter().all(|n| *n > 0), "{ends:?}");
}

/// The index page is looked through after an unflat, and after so many lives without one.
#[test]
fn looks_are_rare_and_do_not_fail_to_come() {
    let mut span = Span::new(NodeKind::Bottom);
    let mut life = |unflat: bool| {
        let View::Ready(ready) = span.view() else {
            panic!("ready")
        };
        let (flat, _) = ready.born(BLOCK).unwrap();
        if unflat {
            let _ = flat.unflat(INDEX).unwrap().0.flushed();
        }
        let mut gathered = match span.view() {
            View::Flat(span) => span.gather(),
            View::Attached(span) => span.gather(),
            _ => panic!("in the tree"),
        };
        let looked = gathered.must_look();
        assert!(gathered.retire(Entry::NONE));
        looked
    };
    for _ in 0..3 {
        for _ in 1..LOOK_LIVES {
            assert!(!life(false));
        }
        assert!(life(false));
    }
    assert!(!life(false));
    assert!(life(true));
    for _ in 1..LOOK_LIVES {
        assert!(!life(false));
    }
    assert!(life(false));
}

/// Blocks that no entry can express are refused, and nothing is done.
#[test]
fn odd_addresses_are_refused() {
    for block in [0x20_1000, 0x20_0800, 1 << 52, u64::MAX] {
        let mut span = Span::new(NodeKind::Mid);
        let View::Ready(ready) = span.view() else {
            panic!("ready")
        };
        assert!(ready.born(PhysAddr::new(block)).is_none());
        assert_eq!(span.state(), State::Ready);
    }
    for index in [0x20_0800, 1 << 52] {
        let mut span = Span::new(NodeKind::Mid);
        let View::Ready(ready) = span.view() else {
            panic!("ready")
        };
        let (flat, _) = ready.born(BLOCK).unwrap();
        assert!(flat.unflat(PhysAddr::new(index)).is_none());
        assert_eq!(span.state(), State::Flat);
    }
}

#[test]
fn numbers_are_stable() {
    // C has the same.
    let states = [
        State::Ready,
        State::Flat,
        State::Attached,
        State::Gathered,
        State::Loose,
    ];
    for (n, state) in states.into_iter().enumerate() {
        assert_eq!(state as usize, n);
    }
    for (n, event) in EVENTS.into_iter().enumerate() {
        assert_eq!(event as usize, n);
        assert_eq!(Event::from_u8(n as u8), Some(event));
    }
    assert!((6..=255).all(|n| Event::from_u8(n).is_none()));
    // State, kind, lives and a byte; a number; 512 bits.
    assert_eq!(std::mem::size_of::<Span>(), 8 + 64);
    assert!(!is_own(BLOCK, 0, Entry::NONE));
}

/// Nothing of a node's own, or that is no table, is adopted; nor anything while hardware reads the node.
#[test]
fn only_foreign_tables_are_adopted() {
    let attached = |kind| {
        let mut span = Span::new(kind);
        let View::Ready(ready) = span.view() else {
            panic!("ready")
        };
        let _ = ready.attach();
        span
    };
    for i in [0, 1, 255, 511] {
        for now in Now::ALL {
            let mut span = attached(NodeKind::Bottom);
            let yes = now == Now::Foreign;
            assert_eq!(span.adopt(BLOCK, i, now.entry(i)).is_some(), yes, "{now:?}");
            assert_eq!(span.is_used(i), yes);
            // It has its table now, and L3+L2 nodes never get one.
            assert_eq!(span.adopt(BLOCK, i, Now::Foreign.entry(i)).is_some(), !yes);
            assert!(attached(NodeKind::Mid)
                .adopt(BLOCK, i, now.entry(i))
                .is_none());
        }
        // The tables just before and behind the node are others'.
        for pa in [BLOCK.as_u64() - 4096, BLOCK.as_u64() + (2 << 20)] {
            let entry = Entry::new(pa | TABLE_FLAGS);
            assert!(attached(NodeKind::Bottom).adopt(BLOCK, i, entry).is_some());
        }
    }
    assert!(attached(NodeKind::Bottom)
        .adopt(BLOCK, 512, Now::Foreign.entry(0))
        .is_none());
    let mut span = attached(NodeKind::Bottom);
    let View::Attached(at) = span.view() else {
        panic!("attached")
    };
    assert!(at.flatten(BLOCK, |_| Entry::NONE).is_some());
    assert!(span.adopt(BLOCK, 0, Now::Foreign.entry(0)).is_none());
}

/// A block that no entry can express is not flattened.
#[test]
fn odd_blocks_are_not_flattened() {
    let mut span = Span::new(NodeKind::Bottom);
    let View::Ready(ready) = span.view() else {
        panic!("ready")
    };
    let attached = ready.attach();
    assert!(attached
        .flatten(PhysAddr::new(0x20_1000), |_| Entry::NONE)
        .is_none());
    assert_eq!(span.state(), State::Attached);
}
