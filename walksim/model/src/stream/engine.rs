// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches of what was written down, and who works them off.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::walks::Walks;
use crate::config::LINE;
use crate::core::Core;
use crate::walk::{Flush, Walk};

/// Batches that may be on their way.
pub(super) const DEPTH: usize = 4;

/// An operation is the first address of a line and one of these.
pub(super) const DATA: u64 = 0;
pub(super) const FETCH: u64 = 1;
/// The address is physical.
pub(super) const FETCH_PHYSICAL: u64 = 2;
/// No walk translates it.
pub(super) const DATA_NOWHERE: u64 = 3;
pub(super) const FETCH_NOWHERE: u64 = 4;
/// The next of the batch's walks is about to be used.
pub(super) const LEARN: u64 = 5;
/// The next of the batch's invalidations.
pub(super) const FLUSH: u64 = 6;
/// The next of the batch's new walks is to be compared with the one that is kept.
pub(super) const CHECK: u64 = 7;
/// Another program runs: its number is where the address would be.
pub(super) const PROGRAM: u64 = 8;
pub(super) const TAG: u64 = LINE - 1;

#[derive(Default)]
pub(super) struct Batch {
    pub(super) ops: Vec<u64>,
    pub(super) walks: Vec<Walk>,
    pub(super) checks: Vec<Walk>,
    pub(super) flushes: Vec<Flush>,
    /// The instructions of the data accesses, if walks are counted by them.
    pub(super) pcs: Vec<u64>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.ops.clear();
        self.walks.clear();
        self.checks.clear();
        self.flushes.clear();
        self.pcs.clear();
    }
}

/// A page that an address lies in.
/// A machine, and the walks as far as it has come.
pub(super) struct Seat {
    pub(super) core: Core,
    pub(super) walks: Walks,
}

impl Seat {
    fn run(&mut self, batch: &Batch) {
        let Seat { core, walks } = self;
        let mut learnt = batch.walks.iter();
        let mut checks = batch.checks.iter();
        let mut flushes = batch.flushes.iter();
        let mut pcs = batch.pcs.iter();
        for op in &batch.ops {
            let address = op & !TAG;
            match op & TAG {
                DATA => {
                    if let Some(pc) = pcs.next() {
                        core.set_pc(*pc);
                    }
                    core.data(address, walks);
                }
                FETCH => core.fetch(address, walks),
                FETCH_PHYSICAL => core.fetch_physical(address),
                DATA_NOWHERE => core.data_nowhere(),
                FETCH_NOWHERE => core.fetch_nowhere(),
                LEARN => learnt.next().into_iter().for_each(|w| walks.learn(w)),
                CHECK => checks.next().into_iter().for_each(|w| walks.check(w)),
                PROGRAM => core.set_program((op / LINE) as u32),
                _ => flushes.next().into_iter().for_each(|f| {
                    walks.flush(*f);
                    core.flush(*f);
                }),
            }
        }
    }
}

/// All that simulates for a virtual CPU.
pub(super) struct Engine {
    pub(super) seats: Vec<Seat>,
    /// Something panicked: part of a batch is lost.
    pub(super) broken: bool,
}

impl Engine {
    /// Callers come from QEMU, through which nothing may unwind, or are a thread that nobody watches.
    pub(super) fn run(&mut self, batch: &Batch) {
        let all = AssertUnwindSafe(|| self.seats.iter_mut().for_each(|s| s.run(batch)));
        if catch_unwind(all).is_err() {
            self.broken = true;
        }
    }
}

/// A thread that works batches off in their order and hands them back.
pub(super) struct Helper {
    pub(super) todo: Sender<Batch>,
    pub(super) done: Receiver<Batch>,
    /// Batches that it has.
    pub(super) out: usize,
}

impl Helper {
    /// The next empty batch; waits if the thread is behind.
    pub(super) fn empty(&mut self) -> Batch {
        let back = if self.out < DEPTH {
            self.done.try_recv().ok()
        } else {
            self.done.recv().ok()
        };
        if back.is_some() {
            self.out -= 1;
        }
        back.unwrap_or_default()
    }

    /// Waits until nothing is left to do.
    pub(super) fn settle(&mut self) {
        while self.out > 0 && self.done.recv().is_ok() {
            self.out -= 1;
        }
        self.out = 0;
    }
}

pub(super) fn lock(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}
