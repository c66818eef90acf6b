// SPDX-License-Identifier: MIT OR Apache-2.0
//! One record per vertex, 256 bytes apart, as graph frameworks keep a vertex with its properties in an
//! object of its own (GraphBIG: some kilobytes). A dense array of small integers would need a graph of
//! hundreds of millions of edges before it outgrew the reach of a TLB and its page-walk caches.

use std::ops::{Index, IndexMut};

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(256))]
struct Record<T>(T);

/// A record for each vertex, indexed by vertex.
#[derive(Debug, Clone)]
pub struct Slots<T>(Vec<Record<T>>);

impl<T: Copy> Slots<T> {
    /// `n` copies of `value`; writes all of them, so that their memory is there.
    pub fn new(n: usize, value: T) -> Slots<T> {
        Slots(vec![Record(value); n])
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The records, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|l| &l.0)
    }

    /// The records, in their order, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|l| &mut l.0)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        std::mem::size_of_val(self.0.as_slice()) as u64
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;
    fn index(&self, v: u32) -> &T {
        &self.0[v as usize].0
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, v: u32) -> &mut T {
        &mut self.0[v as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apart() {
        let mut s = Slots::new(3, 7u32);
        s[1] = 9;
        assert_eq!(s.iter().copied().collect::<Vec<_>>(), [7, 9, 7]);
        assert_eq!((s.len(), s.bytes()), (3, 768));
        assert_eq!(std::ptr::from_ref(&s[1]) as usize % 256, 0);
    }
}
