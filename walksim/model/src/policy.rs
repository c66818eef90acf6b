// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a cache keeps: insertion and replacement by the class of a line. One policy is one implementation of [`Policy`], a
//! variant of [`Replacement`] and a line in [`make`]; `docs/explanation/walksim.md` shows how.

use crate::config::Replacement;

/// What a line is used for, as far as policies tell uses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Data, code, and what a prefetcher brings.
    Data,
    /// Entries of page tables.
    Walk,
}

/// In the tag of a line that a walk brought, where a policy asks.
pub(crate) const WALK: u32 = 1 << 31;

/// A set as a policy sees it: by ways, the most recently used first.
#[derive(Clone, Copy)]
pub struct Set<'a>(pub(crate) &'a [u32]);

impl Set<'_> {
    /// The way that was used longest ago; an empty one, if there is one.
    pub fn oldest(self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// The same among the ways that a line of this class or none is in.
    pub fn oldest_of(self, class: Class) -> Option<usize> {
        self.0.iter().rposition(|tag| match class {
            Class::Data => tag & WALK == 0,
            Class::Walk => tag & WALK != 0 || *tag == 0,
        })
    }
}

/// Decides about lines that a set does not have. What it has and is asked for becomes its most recently used.
pub trait Policy: Send {
    /// The way that a new line of this class takes; `None`: the cache does not keep it.
    fn victim(&self, set: Set<'_>, class: Class) -> Option<usize>;
}

/// The policy of this name; `None` is plain LRU, which the cache does by itself and faster.
pub fn make(replacement: Replacement) -> Option<Box<dyn Policy>> {
    match replacement {
        Replacement::Lru => None,
        Replacement::PageTablesFirst => Some(Box::new(PageTablesFirst)),
        Replacement::NoPageTables => Some(Box::new(NoPageTables)),
    }
}

/// A miss displaces the least recently used line of data; one of page tables only if the set has no other.
struct PageTablesFirst;

impl Policy for PageTablesFirst {
    fn victim(&self, set: Set<'_>, _class: Class) -> Option<usize> {
        Some(set.oldest_of(Class::Data).unwrap_or(set.oldest()))
    }
}

/// Page tables go past the cache: they displace nothing, and are found only if a program read them as data.
struct NoPageTables;

impl Policy for NoPageTables {
    fn victim(&self, set: Set<'_>, class: Class) -> Option<usize> {
        match class {
            Class::Data => Some(set.oldest()),
            Class::Walk => None,
        }
    }
}
