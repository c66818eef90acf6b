// SPDX-License-Identifier: GPL-2.0

//! Runs `fpt-core` on the host.
//!
//! * [`mem`]: simulated physical memory with a ledger of who owns which frame;
//! * [`world`]: the machine-wide state that the kernel glue has (pools, caps, counters, failure
//!   injection), and who gives blocks to nodes;
//! * [`space`]: what an address space is, and the implementation of the core's traits on it;
//! * [`mm`]: a small address-space layer (fault, unmap, protect, fork, move, collapse, split, exit)
//!   that walks four ordinary levels, as generic code of the kernel does;
//! * [`arch`]: what arch/x86 does below it: the transitions of nodes with index pages;
//! * [`promote`]: spans in use that become flat;
//! * [`oracle`]: what an address space should contain, as a flat map, and the checks against it;
//! * [`diff`]: random page tables, and QEMU's answer to them compared with the core's;
//! * [`look`]: page tables of a running kernel, in a file that is its memory.
//!
//! # What does not compile
//!
//! A node cannot be duplicated:
//! ```compile_fail,E0599
//! fn dup<B>(n: fpt_core::node::Ready<B>) -> fpt_core::node::Ready<B> { n.clone() }
//! ```
//! A node cannot be published twice:
//! ```compile_fail,E0382
//! use fpt_core::{addr::PhysAddr, node::*, span};
//! fn twice<O: NodeAlloc + NodeMem>(o: &mut O, n: span::Ready<'_>, pa: PhysAddr) {
//!     let _ = publish_node(o, n, pa);
//!     let _ = publish_node(o, n, pa);
//! }
//! ```
//! Nor can what was published be released, or the other way round:
//! ```compile_fail,E0382
//! use fpt_core::node::*;
//! fn both<O: NodeAlloc + NodeMem>(o: &mut O, n: Ready<O::Block>) -> O::Block {
//!     release_node(o, n);
//!     n.into_raw()
//! }
//! ```
//! A node that is still in the tree is not accounted as one that left:
//! ```compile_fail,E0308
//! use fpt_core::{node::*, span};
//! fn early<O: NodeAlloc + NodeMem>(o: &mut O, n: &span::Flat<'_>) { gather_node(o, n); }
//! ```
//! A node that is still in the tree, or was never there, cannot be retired:
//! ```compile_fail,E0308
//! use fpt_core::node::*;
//! fn early<O: NodeAlloc + NodeMem>(o: &mut O, n: Ready<O::Block>) { let _ = retire_node(o, n); }
//! ```
//! A detached node cannot be conjured up field by field:
//! ```compile_fail,E0451
//! let n = fpt_core::node::Detached { kind: fpt_core::geometry::NodeKind::Mid, tainted: false, block: () };
//! ```
//! A detached node cannot be ignored (where warnings are errors):
//! ```compile_fail
//! #![deny(unused_must_use)]
//! use fpt_core::node::*;
//! fn ignore<B>(n: (B, u8)) { Detached::from_raw(n.0, n.1).ok().unwrap(); }
//! ```
//! A span that hardware reads as flat cannot be detached: first hardware is led to the index page, then
//! the TLB is flushed. Nor can one that is attached already, because slices that were put back may be in
//! a processor's caches:
//! ```compile_fail,E0599
//! fn early(span: fpt_core::span::Flat<'_>) { drop(span.detach()) }
//! ```
//! ```compile_fail,E0599
//! fn unflushed(span: fpt_core::span::Unflushed<'_>) { drop(span.detach()) }
//! ```
//! ```compile_fail,E0599
//! fn attached(span: fpt_core::span::Attached<'_>) { drop(span.detach()) }
//! ```
//! Nor can it be gathered between the store and the flush:
//! ```compile_fail,E0599
//! fn unflushed(span: fpt_core::span::Unflushed<'_>) { let _ = span.gather(); }
//! ```
//! The flush cannot be forgotten (where warnings are errors):
//! ```compile_fail
//! #![deny(unused_must_use)]
//! use fpt_core::{addr::PhysAddr, span::Flat};
//! fn forgotten(span: Flat<'_>, index: PhysAddr) { span.unflat(index).unwrap().0; }
//! ```
//! A span is not led out of FLAT twice:
//! ```compile_fail,E0382
//! use fpt_core::{addr::PhysAddr, span::Flat};
//! fn twice(span: Flat<'_>, index: PhysAddr) { let _ = span.unflat(index); let _ = span.unflat(index); }
//! ```
//! One that is being detached is not gathered as well:
//! ```compile_fail,E0382
//! use fpt_core::span::Attached;
//! fn both(span: Attached<'_>) { let _ = span.unflushed().flushed().detach(); let _ = span.gather(); }
//! ```
//! Only what was gathered is retired, and only what is ready is born:
//! ```compile_fail,E0599
//! fn early(span: fpt_core::span::Attached<'_>) -> bool { span.retire(fpt_core::entry::Entry::NONE) }
//! ```
//! ```compile_fail,E0599
//! fn again(span: fpt_core::span::Gathered<'_>) { let _ = span.born(fpt_core::addr::PhysAddr::new(0)); }
//! ```
//! A span in one state cannot be viewed in another meanwhile:
//! ```compile_fail,E0499
//! use fpt_core::span::{Span, View};
//! fn both(span: &mut Span) -> (View<'_>, View<'_>) { let a = span.view(); (a, span.view()) }
//! ```
//! And no slice is taken while a transition is under way:
//! ```compile_fail,E0499
//! use fpt_core::{addr::PhysAddr, span::{Span, View}};
//! fn between(span: &mut Span, pa: PhysAddr) {
//!     let View::Flat(flat) = span.view() else { return };
//!     let Some((unflushed, _)) = flat.unflat(pa) else { return };
//!     let _ = span.take(pa, 0);
//!     let _ = unflushed.flushed();
//! }
//! ```
//! Only a table in use is attached, and only once:
//! ```compile_fail,E0382
//! use fpt_core::{node::*, span};
//! fn twice<O: NodeAlloc + NodeMem>(o: &mut O, n: span::Ready<'_>) {
//!     let _ = attach_node(o, n);
//!     let _ = attach_node(o, n);
//! }
//! ```
//! ```compile_fail,E0308
//! use fpt_core::{node::*, span};
//! fn flat<O: NodeAlloc + NodeMem>(o: &mut O, n: span::Flat<'_>) { let _ = attach_node(o, n); }
//! ```
//! What was attached is not born as well:
//! ```compile_fail,E0382
//! use fpt_core::{addr::PhysAddr, span::Ready};
//! fn both(span: Ready<'_>, pa: PhysAddr) { let _ = span.attach(); let _ = span.born(pa); }
//! ```
//! Hardware is led to a node only from the attached state: not while the flush is missing, not on the way
//! to a detach, not from the pool:
//! ```compile_fail,E0599
//! use fpt_core::{addr::PhysAddr, entry::Entry, span::Unflushed};
//! fn early(span: Unflushed<'_>, pa: PhysAddr) { let _ = span.flatten(pa, |_| Entry::NONE); }
//! ```
//! ```compile_fail,E0599
//! use fpt_core::{addr::PhysAddr, entry::Entry, span::Flushed};
//! fn late(span: Flushed<'_>, pa: PhysAddr) { let _ = span.flatten(pa, |_| Entry::NONE); }
//! ```
//! ```compile_fail,E0599
//! use fpt_core::{addr::PhysAddr, entry::Entry, span::Ready};
//! fn never(span: Ready<'_>, pa: PhysAddr) { let _ = span.flatten(pa, |_| Entry::NONE); }
//! ```
//! What became flat is not detached without the way out of it:
//! ```compile_fail,E0382
//! use fpt_core::{addr::PhysAddr, entry::Entry, span::Attached};
//! fn both(span: Attached<'_>, pa: PhysAddr) { let _ = span.flatten(pa, |_| Entry::NONE); let _ = span.unflushed(); }
//! ```
//! A span that is still a node is not accounted as dissolved:
//! ```compile_fail,E0308
//! use fpt_core::{node::*, span};
//! fn early<O: NodeAlloc + NodeMem>(o: &mut O, n: &span::Attached<'_>) { dissolve_node(o, n); }
//! ```
//! A state cannot be made from nothing:
//! ```compile_fail,E0603
//! fn conjure(span: &mut fpt_core::span::Span) { let _ = fpt_core::span::Attached(span); }
//! ```
//! And the same calls, used as meant, do compile:
//! ```
//! use fpt_core::{addr::PhysAddr, geometry::NodeKind, node::*, span::*};
//! fn node<O: NodeAlloc + NodeMem>(o: &mut O, span: &mut Span) -> Option<Retired> {
//!     let ready = acquire_node(o, NodeKind::Mid, Source::Any).ok()?;
//!     let pa = o.phys(ready.block());
//!     let block = ready.into_raw();
//!     let View::Ready(born) = span.view() else { return None };
//!     let (flat, _entry) = publish_node(o, born, pa)?;
//!     let mut gathered = flat.gather();
//!     gather_node(o, &gathered);
//!     let _ = (gathered.must_look(), gathered.retire(fpt_core::entry::Entry::NONE));
//!     Some(retire_node(o, Detached::from_raw(block, NodeKind::Mid as u8).ok()?))
//! }
//! fn span(span: &mut Span, block: PhysAddr, index: PhysAddr) -> Option<u32> {
//!     let _ = span.take(block, 0);
//!     let View::Flat(flat) = span.view() else { return None };
//!     let (unflushed, _entry) = flat.unflat(index)?;
//!     let flushed: Flushed<'_> = unflushed.flushed();
//!     Some(flushed.detach().nr_unused())
//! }
//! ```

#![forbid(unsafe_code)]

pub mod arch;
mod check;
pub mod diff;
pub mod look;
pub mod mem;
pub mod mm;
pub mod oracle;
pub mod promote;
pub mod race;
pub mod space;
pub mod world;
