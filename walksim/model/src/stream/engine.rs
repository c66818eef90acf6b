// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches of what was written down, and who works them off.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::walks::Walks;
use crate::addr::{PhysAddr, VirtAddr};
use crate::config::LINE;
use crate::core::Core;
use crate::walk::{Flush, Walk};

/// Batches that may be on their way.
pub(super) const DEPTH: usize = 4;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Tag {
    Data,
    Fetch,
    /// The address is physical.
    FetchPhysical,
    /// No walk translates it.
    DataNowhere,
    /// The same of a fetch.
    FetchNowhere,
    /// The next of the batch's walks is about to be used.
    Learn,
    /// The next of the batch's invalidations.
    Flush,
    /// The next of the batch's new walks is to be compared with the one that is kept.
    Check,
    /// Another program runs: its number is where the number of the line would be.
    Program,
}

/// An operation: the first address of a line, with a [`Tag`] in the bits below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Op(u64);

impl Op {
    const TAG: u64 = LINE - 1;

    /// An operation at this address, as far as lines go.
    #[inline(always)]
    pub(super) const fn at(address: u64, tag: Tag) -> Op {
        Op(address & !Op::TAG | tag as u64)
    }

    /// An operation that has no address.
    pub(super) const fn bare(tag: Tag) -> Op {
        Op(tag as u64)
    }

    /// Programs are told apart by their numbers.
    pub(super) const fn program(number: u32) -> Op {
        Op((number as u64 * LINE) | Tag::Program as u64)
    }

    #[inline(always)]
    const fn address(self) -> u64 {
        self.0 & !Op::TAG
    }

    #[inline(always)]
    fn tag(self) -> Option<Tag> {
        Some(match self.0 & Op::TAG {
            0 => Tag::Data,
            1 => Tag::Fetch,
            2 => Tag::FetchPhysical,
            3 => Tag::DataNowhere,
            4 => Tag::FetchNowhere,
            5 => Tag::Learn,
            6 => Tag::Flush,
            7 => Tag::Check,
            8 => Tag::Program,
            _ => return None,
        })
    }
}

#[derive(Default)]
pub(super) struct Batch {
    pub(super) ops: Vec<Op>,
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
            let address = op.address();
            // Nothing but `Op` makes operations, so each has a tag.
            let Some(tag) = op.tag() else { continue };
            match tag {
                Tag::Data => {
                    if let Some(pc) = pcs.next() {
                        core.set_pc(*pc);
                    }
                    core.data(VirtAddr::new(address), walks);
                }
                Tag::Fetch => core.fetch(VirtAddr::new(address), walks),
                Tag::FetchPhysical => core.fetch_physical(PhysAddr::new(address)),
                Tag::DataNowhere => core.data_nowhere(),
                Tag::FetchNowhere => core.fetch_nowhere(),
                Tag::Learn => learnt.next().into_iter().for_each(|w| walks.learn(w)),
                Tag::Check => checks.next().into_iter().for_each(|w| walks.check(w)),
                Tag::Program => core.set_program((address / LINE) as u32),
                Tag::Flush => flushes.next().into_iter().for_each(|f| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_keep_what_they_are_made_of() {
        let all: Vec<Tag> = (0..LINE).filter_map(|n| Op(n).tag()).collect();
        assert_eq!((all.len(), all.last()), (9, Some(&Tag::Program)));
        for tag in all {
            let op = Op::at(0x1234_5678, tag);
            assert_eq!((op.address(), op.tag()), (0x1234_5640, Some(tag)));
            assert_eq!(Op::bare(tag).tag(), Some(tag));
        }
        let op = Op::program(u32::MAX);
        assert_eq!(
            (op.address() / LINE, op.tag()),
            (u64::from(u32::MAX), Some(Tag::Program))
        );
    }
}
