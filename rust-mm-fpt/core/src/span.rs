// SPDX-License-Identifier: GPL-2.0

//! The life of a node below an index page, from its first entry to its last.
//!
//! An *index page* is the ordinary table that software keeps below the entry of a flattened span
//! (the *slot*): its entry `i` points at *slice* `i` of the node, or is none while slice `i` holds
//! nothing. Hardware that honours FLAT in the slot goes to the slices at once.
//!
//! ```text
//!   Ready ----born (T1)----> Flat ------unflat (T4)------> Unflushed --flushed--> Flushed --detach (T5)--> Loose
//!     |                       |                              ^                      |
//!     |                    gather (T7)                       |unflushed             | (nothing more to do)
//!     v                       v                              |                      v
//!  (release)              Gathered <------gather (T7)------ Attached <--------------+
//!                             |
//!                             +----retire--> Ready: pool, or freed
//! ```
//!
//! *Flat*: hardware reads the slices, software the index page; the two agree because only the
//! node's own tables and none may stand in the index page. *Attached*: the slot holds the index page,
//! so both read that, and anything may stand there; new tables still come from the slices. *Loose*:
//! the slices in use are tables like any other, and the rest is freed. A slice that was put back (T3) may
//! still be in a processor's caches until the flush of whoever emptied it, and in an attached span
//! hardware got there by the index page: so a span is detached after a flush of its own, whatever it
//! was before.
//!
//! The way back, of L2+L1 nodes only: *attach* (T8, Ready to Attached) makes a table in use an index page,
//! *adopt* (T9) moves a table into its slice, and *flatten* (T10, Attached to Flat) has hardware read
//! the node once there is nothing else.
//!
//! Slices are PTE tables below a PMD table (L2+L1 nodes), or PMD tables below a PUD table (L3+L2).
//!
//! A state is a value that borrows the span and is handed on by move, so a transition that is not
//! drawn above or below does not compile. In the kernel a span lies in memory that C owns, between
//! transitions, under the lock of the index page; [`Span::view`] turns what lies there into a
//! state.
//!
//! The numbers T1 to T10 are those of the kernel's documentation.

use super::addr::{PhysAddr, PAGE_SIZE};
use super::entry::{Class, Entry, ACCESSED, TABLE_FLAGS};
use super::geometry::{Level, NodeKind, NODE_SHIFT, SLICES};

const WORDS: usize = 8;

/// Lives of a node after which its index page is looked through when it dies. A node that was flat
/// all its life has seen nothing but tables that [`Span`] counts; the look costs about 640
/// instructions.
pub const LOOK_LIVES: u8 = 16;

/// Where a span stands; the values are C's `enum fpt_state`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// In no tree: pooled, or about to be born. Empty.
    Ready = 0,
    /// Hardware reads the node.
    Flat = 1,
    /// The slot leads to the index page.
    Attached = 2,
    /// Out of the tree, waits for the flush.
    Gathered = 3,
    /// No node any more.
    Loose = 4,
}

/// What is about to happen to an entry of an index page, or to one of its tables; the values are
/// C's `enum fpt_event`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Event {
    /// A leaf, or what is left of one (a swap or migration entry), is stored there.
    Leaf = 0,
    /// A table that is not the entry's own slice is stored there.
    Foreign = 1,
    /// hugetlb takes the table: from here on its entries are stored without a word.
    Hugetlb = 2,
    /// The entry's own slice is taken out while it is in use.
    Collapse = 3,
    /// A slice of this node is stored elsewhere.
    MovedAway = 4,
    /// Somebody asks for conventional tables.
    Asked = 5,
}

impl Event {
    /// The event with this number.
    #[inline(always)]
    pub const fn from_u8(n: u8) -> Option<Event> {
        match n {
            0 => Some(Event::Leaf),
            1 => Some(Event::Foreign),
            2 => Some(Event::Hugetlb),
            3 => Some(Event::Collapse),
            4 => Some(Event::MovedAway),
            5 => Some(Event::Asked),
            _ => None,
        }
    }

    /// What the node has to become before the event may take place.
    #[inline(always)]
    pub const fn demands(self) -> State {
        match self {
            // The index page may hold anything while hardware reads it.
            Event::Leaf | Event::Foreign => State::Attached,
            // A slice leaves its slot, or the table its owner.
            Event::Hugetlb | Event::Collapse | Event::MovedAway | Event::Asked => State::Loose,
        }
    }
}

/// A node with an index page: which of its slices are tables.
///
/// Slice `i` is in use from [`Span::take`] until [`Span::put`], also while its entry is none
/// already: then it is on its way out, or moved. `repr(C)`: C's `struct fpt_span`.
#[repr(C)]
#[derive(Debug)]
pub struct Span {
    state: State,
    kind: NodeKind,
    lives: u8,
    counted: bool,
    nr_used: u32,
    used: [u64; WORDS],
}

/// In no tree.
#[must_use]
pub struct Ready<'a>(&'a mut Span);
/// Hardware reads the node.
#[must_use]
pub struct Flat<'a>(&'a mut Span);
/// The slot leads to the index page, but a processor may still have what it held before.
#[must_use = "the TLB has to be flushed"]
pub struct Unflushed<'a>(&'a mut Span);
/// The slot leads to the index page, and every processor knows. Slices that were put back since may
/// still be cached.
#[must_use]
pub struct Attached<'a>(&'a mut Span);
/// The slot leads to the index page, and no processor has anything of a slice that is not in use,
/// while the lock of the index page is held.
pub struct Flushed<'a>(&'a mut Span);
/// Out of the tree.
#[must_use]
pub struct Gathered<'a>(&'a mut Span);
/// No node any more, a moment ago.
#[must_use = "the unused slices have to be freed"]
pub struct Loose<'a>(&'a Span);

/// A state that was found in memory.
pub enum View<'a> {
    /// See [`State::Ready`].
    Ready(Ready<'a>),
    /// See [`State::Flat`].
    Flat(Flat<'a>),
    /// See [`State::Attached`].
    Attached(Attached<'a>),
    /// See [`State::Gathered`].
    Gathered(Gathered<'a>),
    /// See [`State::Loose`].
    Loose,
}

/// Address of slice `i` of the node at `block`.
#[inline(always)]
const fn slice(block: PhysAddr, i: u32) -> PhysAddr {
    block.offset((i as u64).wrapping_mul(PAGE_SIZE))
}

/// The entry of an index page that points at slice `i` of the node at `block`.
#[inline(always)]
pub const fn own_entry(block: PhysAddr, i: u32) -> Entry {
    Entry::new(slice(block, i).as_u64() | TABLE_FLAGS)
}

/// Does `entry`, found at index `i`, point at the node's own slice? The accessed bit is hardware's
/// and reclaim's.
#[inline(always)]
pub const fn is_own(block: PhysAddr, i: u32, entry: Entry) -> bool {
    (entry.as_u64() ^ own_entry(block, i).as_u64()) & !ACCESSED == 0
}

impl Span {
    /// A span of an empty node of `kind`.
    pub const fn new(kind: NodeKind) -> Span {
        Span {
            state: State::Ready,
            kind,
            lives: 0,
            counted: false,
            nr_used: 0,
            used: [0; WORDS],
        }
    }

    /// Its state.
    #[inline(always)]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The kind of its node.
    #[inline(always)]
    pub const fn kind(&self) -> NodeKind {
        self.kind
    }

    /// Slices in use, 0 to 512.
    #[inline(always)]
    pub const fn nr_used(&self) -> u32 {
        self.nr_used
    }

    /// Slices that are not in use, 1 to 512, or none.
    #[inline(always)]
    pub const fn nr_unused(&self) -> u32 {
        SLICES.wrapping_sub(self.nr_used)
    }

    /// Do its unused slices count as waste ([`super::policy::Budget`])?
    #[inline(always)]
    pub const fn is_counted(&self) -> bool {
        self.counted
    }

    /// Sets whether its unused slices count as waste, of a node in no tree.
    #[inline(always)]
    pub fn count(&mut self, counted: bool) {
        self.counted = counted;
    }

    /// Is slice `i` in use?
    #[inline(always)]
    pub fn is_used(&self, i: u32) -> bool {
        let (word, bit) = place(i);
        self.used.get(word).is_some_and(|w| w & bit != 0)
    }

    /// The state that lies in memory, to go on from.
    #[inline(always)]
    pub fn view(&mut self) -> View<'_> {
        match self.state {
            State::Ready => View::Ready(Ready(self)),
            State::Flat => View::Flat(Flat(self)),
            State::Attached => View::Attached(Attached(self)),
            State::Gathered => View::Gathered(Gathered(self)),
            State::Loose => View::Loose,
        }
    }

    /// What the slot holds (T1, and T6 where it is another slot): FLAT and the node, or the index
    /// page. `None` in no tree.
    #[inline(always)]
    pub fn slot_entry(&self, block: PhysAddr, index: PhysAddr) -> Option<Entry> {
        match self.state {
            State::Flat => Entry::node(block, self.kind, TABLE_FLAGS),
            State::Attached => Entry::table(index, TABLE_FLAGS),
            State::Ready | State::Gathered | State::Loose => None,
        }
    }

    /// T2: the table for index `i`, whose entry is none, under the lock of the index page. The slice
    /// is zero: it has been so since the node became visible, or since its last user emptied it and
    /// flushed. `None` if the node brings no tables (any more).
    ///
    /// A slice that is on its way out is taken from under its last user, whose [`Span::put`] then
    /// finds the entry and leaves the slice in use.
    #[inline(always)]
    pub fn take(&mut self, block: PhysAddr, i: u32) -> Option<Entry> {
        if !matches!(self.state, State::Flat | State::Attached) {
            return None;
        }
        let (word, bit) = place(i);
        let w = self.used.get_mut(word)?;
        if *w & bit == 0 {
            *w |= bit;
            self.nr_used = self.nr_used.wrapping_add(1);
        }
        Some(own_entry(block, i))
    }

    /// T9: slice `i` takes the place of the foreign table that `now` points at, under the lock of the
    /// index page. The caller copies the table first, stores the entry that this answers, and flushes
    /// before the table is freed. `None` if hardware reads the node, if `now` is no table, if it is
    /// a slice of the node, or while the slice is in use: it is on its way out then.
    #[inline(always)]
    pub fn adopt(&mut self, block: PhysAddr, i: u32, now: Entry) -> Option<Entry> {
        let foreign = match now.classify(Level::L2) {
            Class::Table { pa } => (pa.as_u64() ^ block.as_u64()) >> NODE_SHIFT != 0,
            _ => false,
        };
        if !matches!(self.state, State::Attached)
            || !matches!(self.kind, NodeKind::Bottom)
            || !foreign
            || self.is_used(i)
        {
            return None;
        }
        self.take(block, i)
    }

    /// T3: slice `i` is empty, and the entry that led to it was cleared; `now` is what stands at its
    /// index, under the lock of the index page. True if the slice is not in use any more.
    #[inline(always)]
    pub fn put(&mut self, block: PhysAddr, i: u32, now: Entry) -> bool {
        if is_own(block, i, now) {
            return false;
        }
        let (word, bit) = place(i);
        match self.used.get_mut(word) {
            Some(w) if *w & bit != 0 => {
                *w &= !bit;
                self.nr_used = self.nr_used.wrapping_sub(1);
                true
            }
            _ => false,
        }
    }
}

/// Word and bit of index `i`; no word for 512 and more.
#[inline(always)]
const fn place(i: u32) -> (usize, u64) {
    ((i >> 6) as usize, 1u64.wrapping_shl(i & 63))
}

impl<'a> Ready<'a> {
    /// The kind of its node.
    #[inline(always)]
    pub fn kind(&self) -> NodeKind {
        self.0.kind
    }

    /// As [`Span::is_counted`].
    #[inline(always)]
    pub fn is_counted(&self) -> bool {
        self.0.counted
    }

    /// T1: the node gets into a slot that is none, under the lock of that slot. The entry to store;
    /// `None`, and nothing done, if the block cannot be expressed.
    #[inline(always)]
    pub fn born(self, block: PhysAddr) -> Option<(Flat<'a>, Entry)> {
        let entry = Entry::node(block, self.0.kind, TABLE_FLAGS)?;
        self.0.state = State::Flat;
        Some((Flat(self.0), entry))
    }

    /// T8: the table in a slot becomes the node's index page, under the lock of that table, whatever
    /// stands there. The slot keeps its entry, so hardware sees no difference.
    #[inline(always)]
    pub fn attach(self) -> Attached<'a> {
        self.0.state = State::Attached;
        self.0.lives = LOOK_LIVES;
        Attached(self.0)
    }
}

impl<'a> Flat<'a> {
    /// T4: under the lock of the index page. The entry for the slot, which leads hardware to the
    /// index page: valid at any time, because what stands there leads to the same slices.
    #[inline(always)]
    pub fn unflat(self, index: PhysAddr) -> Option<(Unflushed<'a>, Entry)> {
        let entry = Entry::table(index, TABLE_FLAGS)?;
        self.0.state = State::Attached;
        // Others may stand in the index page from here on.
        self.0.lives = LOOK_LIVES;
        Some((Unflushed(self.0), entry))
    }

    /// T7: the slot was cleared; nothing is mapped below, and nobody can map.
    #[inline(always)]
    pub fn gather(self) -> Gathered<'a> {
        self.0.state = State::Gathered;
        Gathered(self.0)
    }
}

impl<'a> Unflushed<'a> {
    /// The TLB and the paging-structure caches of every processor are flushed, and no walk without
    /// locks is under way that began before.
    #[inline(always)]
    pub fn flushed(self) -> Flushed<'a> {
        Flushed(self.0)
    }
}

impl<'a> Flushed<'a> {
    /// T5: under the lock of the index page, which was held over the flush. From here on the slices in
    /// use are ordinary tables and the index page is one too. The others, those that
    /// [`Span::is_used`] denies, are to be freed.
    #[inline(always)]
    pub fn detach(self) -> Loose<'a> {
        self.0.state = State::Loose;
        Loose(self.0)
    }
}

impl Loose<'_> {
    /// The kind that its node had.
    #[inline(always)]
    pub fn kind(&self) -> NodeKind {
        self.0.kind
    }

    /// Slices to be freed.
    #[inline(always)]
    pub fn nr_unused(&self) -> u32 {
        self.0.nr_unused()
    }

    /// As [`Span::is_counted`].
    #[inline(always)]
    pub fn is_counted(&self) -> bool {
        self.0.counted
    }
}

impl<'a> Attached<'a> {
    /// On the way to T5: a flush is needed that begins now, under the lock of the index page.
    #[inline(always)]
    pub fn unflushed(self) -> Unflushed<'a> {
        Unflushed(self.0)
    }

    /// T10: hardware is to read the node, under the lock of the index page. `entry` gives the entries of
    /// the index page, by index. The entry for the slot; no flush is needed, as both lead to the same
    /// tables. `None`, and nothing done, if something else than own tables and none stands there,
    /// or if a slice without an entry is in use.
    ///
    /// An RCU period has to lie between the attach and this (I9): a walk that found the slot flat
    /// before the span had lost its last node compares with a slot that looks the same again.
    #[inline(always)]
    pub fn flatten(
        self,
        block: PhysAddr,
        mut entry: impl FnMut(u32) -> Entry,
    ) -> Option<(Flat<'a>, Entry)> {
        for i in 0..SLICES {
            let e = entry(i);
            let own = is_own(block, i, e);
            if own != self.0.is_used(i) || !(own || e.as_u64() == 0) {
                return None;
            }
        }
        let entry = Entry::node(block, self.0.kind, TABLE_FLAGS)?;
        self.0.state = State::Flat;
        Some((Flat(self.0), entry))
    }

    /// T7, as [`Flat::gather`].
    #[inline(always)]
    pub fn gather(self) -> Gathered<'a> {
        self.0.state = State::Gathered;
        Gathered(self.0)
    }
}

impl Gathered<'_> {
    /// The kind of its node.
    #[inline(always)]
    pub fn kind(&self) -> NodeKind {
        self.0.kind
    }

    /// Slices that are not in use: all, of a node that left as it should.
    #[inline(always)]
    pub fn nr_unused(&self) -> u32 {
        self.0.nr_unused()
    }

    /// As [`Span::is_counted`].
    #[inline(always)]
    pub fn is_counted(&self) -> bool {
        self.0.counted
    }

    /// Is the index page to be looked through before the node is trusted to be empty?
    #[inline(always)]
    pub fn must_look(&mut self) -> bool {
        self.0.lives = self.0.lives.saturating_add(1);
        if self.0.lives < LOOK_LIVES {
            return false;
        }
        self.0.lives = 0;
        true
    }

    /// After the flush. `seen` is the disjunction of all entries of the index page, or none if nobody
    /// looked. True if the node may be used again.
    #[inline(always)]
    pub fn retire(self, seen: Entry) -> bool {
        let empty = self.0.nr_used == 0 && seen.as_u64() == 0;
        if empty {
            self.0.state = State::Ready;
        }
        empty
    }
}
