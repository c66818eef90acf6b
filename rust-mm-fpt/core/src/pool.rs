// SPDX-License-Identifier: GPL-2.0

//! Bookkeeping of a bounded stack of recycled blocks, over memory that the caller provides.
//!
//! In the kernel there is one per NUMA node and kind, used under a lock. The most recently
//! freed block is handed out first: its lines are the warmest.

/// A view of one pool. `T` identifies a block (an address, a page frame number).
///
/// # Invariants
///
/// `len <= slots.len()` after every call, whatever the caller put there before.
pub struct PoolView<'a, T> {
    slots: &'a mut [T],
    len: &'a mut u32,
    cap: u32,
}

impl<'a, T: Copy> PoolView<'a, T> {
    /// A view of `slots`, of which the first `len` are in use and at most `cap` may be.
    #[inline]
    pub fn new(slots: &'a mut [T], len: &'a mut u32, cap: u32) -> Self {
        let max = slots.len() as u32;
        if *len > max {
            *len = max;
        }
        PoolView {
            slots,
            len,
            cap: if cap < max { cap } else { max },
        }
    }

    /// Number of blocks in the pool.
    #[inline]
    pub fn len(&self) -> u32 {
        *self.len
    }

    /// Is the pool empty?
    #[inline]
    pub fn is_empty(&self) -> bool {
        *self.len == 0
    }

    /// Has the pool no room?
    #[inline]
    pub fn is_full(&self) -> bool {
        *self.len >= self.cap
    }

    /// Adds a block; hands it back if there is no room.
    #[inline]
    pub fn push(&mut self, block: T) -> Result<(), T> {
        if self.is_full() {
            return Err(block);
        }
        match self.slots.get_mut(*self.len as usize) {
            Some(slot) => {
                *slot = block;
                *self.len = self.len.wrapping_add(1);
                Ok(())
            }
            None => Err(block),
        }
    }

    /// Takes the block that was added last.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let top = self.len.checked_sub(1)?;
        let block = self.slots.get(top as usize).copied()?;
        *self.len = top;
        Some(block)
    }

    /// How many blocks are above `cap`, which may have been lowered.
    #[inline]
    pub fn excess(&self) -> u32 {
        self.len.saturating_sub(self.cap)
    }
}
