// SPDX-License-Identifier: MIT OR Apache-2.0
//! The small machine: 3 levels of 4 entries, 64 pages, pages of 4 frames by PS in level 2,
//! flattened nodes of 4 frames below level 3, and flattened roots.

use crate::geometry::{Frame, Geometry, A, D, FLAT, G, P, PS, RW, US};
use crate::memory::GuestMemory;

pub(super) const FRAMES: usize = 32;
pub(super) const ENTRIES: usize = 4;

pub(super) const GEOMETRY: Geometry = Geometry {
    levels: 3,
    index_bits: 2,
    large: &[2],
    flat: &[3],
    flat_root: true,
    physical_bits: 40,
};

/// Roots: two conventional ones, and the page of a flattened one (its block is 4 to 7).
pub(super) const ROOT_A: u64 = 1;
pub(super) const ROOT_B: u64 = 2;
pub(super) const ROOT_F: u64 = 6;
pub(super) const FLAT_LOW: u64 = 4;
/// A level 2 table, a node, level 1 tables.
pub(super) const MID: u64 = 3;
pub(super) const NODE: u64 = 8;
pub(super) const LOW: u64 = 12;
pub(super) const LOW2: u64 = 13;
/// The kernel's half: a level 2 and a level 1 table.
pub(super) const KMID: u64 = 14;
pub(super) const KLOW: u64 = 15;
/// Pages.
pub(super) const PAGE: u64 = 16;
pub(super) const PAGE2: u64 = 17;
pub(super) const PAGE3: u64 = 18;
/// Four frames of a large page.
pub(super) const LARGE: u64 = 20;

/// Flags.
pub(super) const TABLE: u64 = P | RW | US | A;
pub(super) const USER: u64 = P | RW | US | A | D;
pub(super) const READ: u64 = P | US | A;
pub(super) const KERNEL: u64 = P | RW | A | D;
pub(super) const GLOBAL: u64 = KERNEL | G;
pub(super) const BIG: u64 = USER | PS;
pub(super) const NODE_FLAGS: u64 = TABLE | FLAT;

pub(super) const fn to(frame: u64, flags: u64) -> u64 {
    frame << 12 | flags
}

pub(super) const fn entry(frame: u64, index: u64) -> u64 {
    frame << 12 | index << 3
}

/// An address by its indices.
pub(super) const fn va(top: u64, mid: u64, low: u64) -> u64 {
    (top << 4 | mid << 2 | low) << 12
}

pub(super) const fn cr3(root: u64) -> u64 {
    root << 12 | if root == ROOT_F { FLAT } else { 0 }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Memory(pub(super) [[u64; ENTRIES]; FRAMES]);

impl Memory {
    pub(super) fn get(&self, pa: u64) -> Option<u64> {
        let frame = self.0.get(Frame::of(pa).0 as usize)?;
        frame.get((pa & 0xfff) as usize / 8).copied()
    }

    pub(super) fn put(&mut self, pa: u64, value: u64) {
        self.0[(pa >> 12) as usize][(pa & 0xfff) as usize / 8] = value;
    }
}

impl GuestMemory for Memory {
    fn read(&self, pa: u64) -> Option<u64> {
        self.get(pa)
    }
}

/// Both conventional roots lead to the same kernel half; the first leads to two user tables.
pub(super) fn start() -> Memory {
    let mut m = Memory([[0; ENTRIES]; FRAMES]);
    m.put(entry(ROOT_A, 0), to(MID, TABLE));
    m.put(entry(MID, 0), to(LOW, TABLE));
    m.put(entry(LOW, 0), to(PAGE, USER));
    m.put(entry(LOW, 1), to(PAGE2, READ));
    for root in [ROOT_A, ROOT_B, ROOT_F] {
        m.put(entry(root, 2), to(KMID, TABLE));
    }
    m.put(entry(KMID, 0), to(KLOW, TABLE));
    m.put(entry(KLOW, 0), to(PAGE3, GLOBAL));
    m.put(entry(KLOW, 1), to(PAGE3 + 1, KERNEL));
    m.put(entry(FLAT_LOW, 0), to(LOW2, TABLE));
    m.put(entry(LOW2, 0), to(PAGE2, USER));
    for slice in 0..4 {
        m.put(entry(NODE + slice, 0), to(PAGE + slice, USER));
    }
    m
}
