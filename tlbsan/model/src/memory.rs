// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the ledger needs of the guest's memory.

/// Reads of guest memory by physical address.
pub trait GuestMemory {
    /// The 8 bytes at `pa`, a multiple of 8; nothing if there is no memory.
    fn read(&self, pa: u64) -> Option<u64>;

    /// The entries at the beginning of a page; false if there is no memory.
    fn read_table(&self, pa: u64, to: &mut [u64]) -> bool {
        for (slot, at) in to.iter_mut().zip((pa..).step_by(8)) {
            match self.read(at) {
                Some(value) => *slot = value,
                None => return false,
            }
        }
        true
    }
}
