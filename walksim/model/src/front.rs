// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fills the TLBs. One front is one implementation of [`Front`], a line in [`make`] and its name in [`FRONTS`];
//! its parameters are those of `[front.NAME]`, in [`parameters`]. All organisations of a machine have the same front.

use crate::addr::PhysAddr;
use crate::config::{Config, ConfigError};
pub use crate::parameters::FRONTS;
use crate::parameters::{self, check_front};
use crate::tlb::Page;
use crate::walk::{Leaf, Size, Walk};

/// Decides what stands in the TLBs for a walk that ended.
pub trait Front: Send {
    /// Does it want to know the neighbours of a walk's last entry?
    fn wants_leaf(&self) -> bool {
        false
    }
    /// The entry that holds the walk's address: its page, or a run of pages around it.
    fn entry(&mut self, walk: &Walk, leaf: Option<&Leaf>) -> Page;
    /// Counters of its own, under `details` of each organisation.
    fn report(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    /// A phase begins.
    fn reset_counters(&mut self) {}
}

/// The front of this name, with its parameters.
pub fn make(name: &str, config: &Config) -> Result<Box<dyn Front>, ConfigError> {
    check_front(name, config)?;
    match name {
        "plain" => Ok(Box::new(Plain)),
        "coalescing" => Ok(Box::new(Coalescing {
            pages: parameters::Coalescing::of(config)?.pages,
            runs: 0,
        })),
        _ => Err(ConfigError(format!(
            "unknown front '{name}': expected one of {}",
            FRONTS.join(", ")
        ))),
    }
}

/// An entry for each page.
pub struct Plain;

impl Front for Plain {
    #[inline]
    fn entry(&mut self, walk: &Walk, _leaf: Option<&Leaf>) -> Page {
        Page::of(walk)
    }
}

/// `[front.coalescing]`: one entry for an aligned run of pages whose entries, all in the line that the walk has read, map frames
/// that follow each other; as AMD's cores do it with 4 pages, and the TLBs of CoLT (MICRO'12) with up to 8.
pub struct Coalescing {
    /// Pages of a run: 2, 4 or 8.
    pages: u32,
    runs: u64,
}

impl Front for Coalescing {
    fn wants_leaf(&self) -> bool {
        true
    }

    fn entry(&mut self, walk: &Walk, leaf: Option<&Leaf>) -> Page {
        let page = Page::of(walk);
        let Some(leaf) = leaf.filter(|_| walk.size == Size::Small) else {
            return page;
        };
        let pages = self.pages as usize;
        let at = (walk.va.as_u64() >> Size::Small.shift()) as usize % leaf.pages.len();
        let first = at - at % pages;
        let start = (walk.page.as_u64()).wrapping_sub(((at - first) as u64) << Size::Small.shift());
        let run = leaf.pages.iter().skip(first).take(pages);
        let follows = |(i, frame): (u64, &Option<PhysAddr>)| {
            *frame == Some(PhysAddr::new(start.wrapping_add(i << Size::Small.shift())))
        };
        if !(0..).zip(run).all(follows) {
            return page;
        }
        self.runs += 1;
        Page {
            run: self.pages.trailing_zeros() as u8,
            ..page
        }
    }

    fn report(&self) -> Vec<(&'static str, u64)> {
        vec![("coalesced_entries", self.runs)]
    }

    fn reset_counters(&mut self) {
        self.runs = 0;
    }
}
