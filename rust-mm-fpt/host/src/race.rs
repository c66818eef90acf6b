// SPDX-License-Identifier: GPL-2.0

//! Every interleaving of two installers.
//!
//! Two threads run the core's `install_node` on the same empty entry. Each call of a trait method
//! that another CPU could observe is a step; a baton decides who makes the next one. All
//! schedules are run, one after the other.

use crate::mem::SimBlock;
use crate::mm::Mm;
use crate::world::{Ops, World};
use fpt_core::addr::PhysAddr;
use fpt_core::counters::Counter;
use fpt_core::entry::{Entry, TABLE_FLAGS};
use fpt_core::geometry::NodeKind;
use fpt_core::node::{install_node, InstallOutcome, NodeAlloc, NodeMem};
use std::sync::{Condvar, Mutex};

/// What both threads share, under the baton.
struct Shared {
    world: World,
    mm: Mm,
    slot: PhysAddr,
    /// Who holds the entry's lock.
    lock: Option<usize>,
    baton: Baton,
}

/// Decides who goes next: a list of choices to follow, then the lowest number, and a record of
/// how many there were to choose from.
struct Baton {
    plan: Vec<usize>,
    taken: Vec<(usize, usize)>,
    waiting: [State; 2],
    turn: Option<usize>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum State {
    /// Not at a step yet.
    Running,
    /// Wants to make a step.
    Ready,
    /// Wants the lock.
    WantsLock,
    /// Finished.
    Done,
}

impl Baton {
    /// Hands the baton on when everybody waits.
    fn dispatch(&mut self, lock: Option<usize>) {
        if self.turn.is_some() || self.waiting.contains(&State::Running) {
            return;
        }
        let able: Vec<usize> = (0..2)
            .filter(|i| match self.waiting[*i] {
                State::Ready => true,
                State::WantsLock => lock.is_none(),
                _ => false,
            })
            .collect();
        if able.is_empty() {
            assert!(self.waiting == [State::Done; 2], "deadlock");
            return;
        }
        let choice = self.plan.get(self.taken.len()).copied().unwrap_or(0);
        self.taken.push((choice, able.len()));
        self.turn = Some(able[choice]);
    }
}

struct Racer<'a> {
    id: usize,
    shared: &'a Mutex<Shared>,
    wake: &'a Condvar,
}

impl Racer<'_> {
    /// Waits for the baton, makes a step, and gives the baton back.
    fn step<R>(&self, want: State, f: impl FnOnce(&mut Shared) -> R) -> R {
        let mut s = self.shared.lock().unwrap();
        s.baton.waiting[self.id] = want;
        let lock = s.lock;
        s.baton.dispatch(lock);
        self.wake.notify_all();
        while s.baton.turn != Some(self.id) {
            s = self.wake.wait(s).unwrap();
        }
        let result = f(&mut s);
        s.baton.turn = None;
        s.baton.waiting[self.id] = State::Running;
        result
    }

    /// Something that nobody else can observe.
    fn local<R>(&self, f: impl FnOnce(&mut Shared) -> R) -> R {
        f(&mut self.shared.lock().unwrap())
    }
}

impl Drop for Racer<'_> {
    /// The end, by return or by panic: the other one must not wait for ever.
    fn drop(&mut self) {
        let mut s = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        s.baton.waiting[self.id] = State::Done;
        let lock = s.lock;
        s.baton.dispatch(lock);
        self.wake.notify_all();
    }
}

fn ops<R>(s: &mut Shared, f: impl FnOnce(&mut Ops<'_>) -> R) -> R {
    f(&mut Ops::new(&mut s.world, &mut s.mm, s.slot))
}

impl NodeAlloc for Racer<'_> {
    type Block = SimBlock;

    fn take_pooled(&mut self, kind: NodeKind) -> Option<SimBlock> {
        self.step(State::Ready, |s| s.world.take_pooled(kind))
    }
    fn put_pooled(&mut self, kind: NodeKind, block: SimBlock) -> Result<(), SimBlock> {
        self.step(State::Ready, |s| s.world.put_pooled(kind, block))
    }
    fn pool_bypassed(&self, kind: NodeKind) -> bool {
        self.local(|s| s.world.pool_bypassed(kind))
    }
    fn alloc(&mut self, kind: NodeKind) -> Option<SimBlock> {
        self.step(State::Ready, |s| s.world.alloc(kind))
    }
    fn free(&mut self, kind: NodeKind, block: SimBlock) {
        self.local(|s| s.world.free(kind, block))
    }
    fn phys(&self, block: &SimBlock) -> PhysAddr {
        block.pa()
    }
    fn prepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) -> bool {
        self.local(|s| s.world.prepare_slice(kind, block, slice))
    }
    fn unprepare_slice(&mut self, kind: NodeKind, block: &SimBlock, slice: u32) {
        self.local(|s| s.world.unprepare_slice(kind, block, slice))
    }
    fn store_l4(&mut self, l4: PhysAddr, index: u32, entry: Entry) {
        self.local(|s| s.world.store_l4(l4, index, entry))
    }
    fn charge(&mut self, kind: NodeKind, block: &SimBlock) -> bool {
        self.local(|s| s.world.charge(kind, block))
    }
    fn uncharge(&mut self, kind: NodeKind, block: &SimBlock) {
        self.local(|s| s.world.uncharge(kind, block))
    }
    fn is_zero(&self, kind: NodeKind, block: &SimBlock) -> bool {
        self.local(|s| s.world.is_zero(kind, block))
    }
    fn claim(&mut self, kind: NodeKind, pa: PhysAddr) -> SimBlock {
        self.local(|s| s.world.claim(kind, pa))
    }
    fn count(&mut self, counter: Counter, delta: i64) {
        self.local(|s| s.world.count(counter, delta))
    }
}

impl NodeMem for Racer<'_> {
    fn reserve(&mut self, kind: NodeKind) -> bool {
        self.step(State::Ready, |s| ops(s, |o| o.reserve(kind)))
    }
    fn unreserve(&mut self, kind: NodeKind) {
        self.step(State::Ready, |s| ops(s, |o| o.unreserve(kind)))
    }
    fn lock(&mut self) {
        let id = self.id;
        self.step(State::WantsLock, |s| {
            assert_eq!(s.lock, None);
            s.lock = Some(id);
        })
    }
    fn unlock(&mut self) {
        let id = self.id;
        self.step(State::Ready, |s| {
            assert_eq!(s.lock, Some(id));
            s.lock = None;
        })
    }
    fn load(&mut self) -> Entry {
        let id = self.id;
        self.step(State::Ready, |s| {
            assert_eq!(s.lock, Some(id), "recheck without the lock");
            Entry::new(s.world.mem.read(s.slot))
        })
    }
    fn still_allowed(&mut self, _kind: NodeKind) -> bool {
        let id = self.id;
        self.local(|s| {
            assert_eq!(s.lock, Some(id));
            !s.world.forbid
        })
    }
    fn publish(&mut self, entry: Entry) {
        let id = self.id;
        self.step(State::Ready, |s| {
            assert_eq!(s.lock, Some(id), "publish without the lock");
            assert_eq!(s.world.mem.read(s.slot), 0, "a flat entry is write-once");
            let kind = entry.node_kind().expect("a flat entry");
            // Prepared, charged, zero: whoever sees the entry may use it.
            s.world.mem.assert_block(entry.addr(), kind, true);
            assert!(s.world.mem.is_zero(entry.addr(), kind));
            s.world.mem.write(s.slot, entry.as_u64());
        })
    }
    fn clear(&mut self) {
        self.step(State::Ready, |s| s.world.mem.write(s.slot, 0))
    }
    fn account(&mut self, kind: NodeKind) {
        self.local(|s| ops(s, |o| o.account(kind)))
    }
    fn unaccount(&mut self, kind: NodeKind) {
        self.local(|s| ops(s, |o| o.unaccount(kind)))
    }
    fn tainted(&self) -> bool {
        self.local(|s| s.mm.tainted)
    }
}

/// One schedule: both outcomes, and what is left.
pub struct Raced {
    /// How each installer ended.
    pub outcomes: [InstallOutcome; 2],
    /// The machine.
    pub world: World,
    /// The address space.
    pub mm: Mm,
    /// The entry.
    pub slot: PhysAddr,
}

/// Runs two installers of `kind` through every schedule. `setup` makes the machine and an empty
/// address space; `check` judges each end. Answers how many schedules there are.
pub fn all_schedules(
    kind: NodeKind,
    setup: impl Fn() -> (World, Mm),
    mut check: impl FnMut(Raced),
) -> u64 {
    let mut plan = Vec::new();
    let mut schedules = 0;
    loop {
        let (world, mm) = setup();
        let slot = mm.p4d(0);
        let baton = Baton {
            plan: plan.clone(),
            taken: Vec::new(),
            waiting: [State::Running; 2],
            turn: None,
        };
        let shared = Mutex::new(Shared {
            world,
            mm,
            slot,
            lock: None,
            baton,
        });
        let wake = Condvar::new();
        let mut outcomes = Vec::new();
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..2)
                .map(|id| {
                    let mut racer = Racer {
                        id,
                        shared: &shared,
                        wake: &wake,
                    };
                    scope.spawn(move || install_node(&mut racer, kind, TABLE_FLAGS))
                })
                .collect();
            outcomes = handles.into_iter().map(|h| h.join().unwrap()).collect();
        });
        let s = shared.into_inner().unwrap();
        schedules += 1;
        let taken = s.baton.taken;
        check(Raced {
            outcomes: [outcomes[0], outcomes[1]],
            world: s.world,
            mm: s.mm,
            slot,
        });
        // The next schedule in depth-first order.
        plan = taken.iter().map(|(choice, _)| *choice).collect();
        loop {
            match plan.pop() {
                None => return schedules,
                Some(choice) if choice + 1 < taken[plan.len()].1 => {
                    plan.push(choice + 1);
                    break;
                }
                Some(_) => {}
            }
        }
    }
}
