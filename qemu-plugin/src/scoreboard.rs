// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that QEMU keeps for each CPU.

use std::ffi::c_uint;

use crate::raw;

/// An entry for each CPU, all bytes zero at first. Never freed.
#[derive(Clone, Copy, Debug)]
pub struct Scoreboard {
    handle: *mut raw::ScoreboardHandle,
    bytes: usize,
}

// SAFETY: the pointer is only handed back to QEMU, whose functions on it may be called from every CPU
// thread; it lives as long as QEMU.
unsafe impl Send for Scoreboard {}
// SAFETY: as for Send.
unsafe impl Sync for Scoreboard {}

impl Scoreboard {
    /// Entries of so many bytes.
    pub fn new(bytes: usize) -> Scoreboard {
        // SAFETY: no preconditions; QEMU ends if there is no memory.
        let handle = unsafe { raw::qemu_plugin_scoreboard_new(bytes) };
        Scoreboard { handle, bytes }
    }

    /// The number at an offset of each entry.
    ///
    /// # Panics
    /// If it lies outside of the entry.
    pub fn counter(&self, offset: usize) -> Counter {
        let inside = offset % size_of::<u64>() == 0 && offset < self.bytes;
        assert!(inside, "no number at {offset} of {} bytes", self.bytes);
        Counter {
            score: self.handle,
            offset,
        }
    }

    /// A CPU's entry. It stays where it is as soon as all CPUs exist, which is so when the first block
    /// is translated.
    pub fn find(&self, cpu: c_uint) -> *mut u8 {
        // SAFETY: the scoreboard is never freed.
        unsafe { raw::qemu_plugin_scoreboard_find(self.handle, cpu) }.cast()
    }

    /// The numbers of a CPU's entry as they are.
    ///
    /// # Safety
    /// Called in a callback of this CPU, as nobody else writes to the entry.
    pub unsafe fn numbers(&self, cpu: c_uint) -> Vec<u64> {
        let entry = self.find(cpu);
        if entry.is_null() {
            return Vec::new();
        }
        // SAFETY: an entry has so many bytes and is aligned for numbers.
        unsafe { std::slice::from_raw_parts(entry.cast::<u64>(), self.bytes / size_of::<u64>()) }
            .to_vec()
    }
}

/// `qemu_plugin_u64`: one number of each CPU's entry.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    score: *mut raw::ScoreboardHandle,
    offset: usize,
}

// SAFETY: as for the scoreboard.
unsafe impl Send for Counter {}
// SAFETY: as for Send.
unsafe impl Sync for Counter {}

impl Counter {
    /// Over all CPUs.
    pub fn sum(self) -> u64 {
        // SAFETY: it belongs to a scoreboard, which is never freed.
        unsafe { raw::qemu_plugin_u64_sum(self) }
    }
}
