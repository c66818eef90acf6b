// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables that are computed, not stored.
#![allow(dead_code)]

use fpt_geometry::geometry::{IndexStep, Level, Mode};
use fpt_walksim_model::pwc::virt;
use fpt_walksim_model::walk::{Entry, Size, Walk, Walker, MAX_ENTRIES};

/// Maps everything: user addresses to frames in the order of pages, with the tables of a mode; above the
/// middle of the address space pages are global, of 2 MiB where `large` says so.
pub struct Tables {
    pub mode: Mode,
    pub large: fn(u64) -> bool,
    pub walks: u64,
}

impl Tables {
    pub fn new(mode: Mode) -> Tables {
        Tables {
            mode,
            large: |_| false,
            walks: 0,
        }
    }
}

/// Frames of tables: a place per level and address, below 2^42.
fn table(step: &IndexStep, va: u64) -> u64 {
    let number = va.checked_shr(step.shift + step.bits).unwrap_or(0) & 0xf_ffff;
    let bytes = 8u64 << step.bits;
    (1 << 41) + (u64::from(step.level.number()) << 38) + number * bytes
}

impl Walker for Tables {
    fn walk(&mut self, va: u64) -> Option<Walk> {
        self.walks += 1;
        let low = va & ((1 << 48) - 1);
        // where L2 and L1 are merged there is no entry for such a page
        let has = |level| self.mode.steps().iter().any(|s| s.level == level);
        let size = if (self.large)(va) && has(Level::L2) {
            Size::Large
        } else {
            Size::Small
        };
        let mut entries = [Entry::default(); MAX_ENTRIES];
        let mut n = 0;
        for step in self.mode.steps() {
            if step.level < size.leaf() {
                break;
            }
            entries[n] = Entry {
                pa: table(step, low) + u64::from(step.index(virt(va))) * 8,
                level: step.level.number() as u8,
                index_bits: step.bits as u8,
            };
            n += 1;
        }
        assert!(n > 0 && u32::from(entries[n - 1].level) == size.leaf().number());
        let shift = size.shift();
        Some(Walk {
            va,
            root: 0x1000,
            entries,
            n: n as u8,
            page: (low >> shift << shift) & ((1 << 40) - 1),
            size,
            global: va >> 63 != 0,
        })
    }
}
