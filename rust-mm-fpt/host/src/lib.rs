// SPDX-License-Identifier: GPL-2.0

//! Runs `fpt-core` on the host.
//!
//! * [`mem`]: simulated physical memory with a ledger of who owns which frame;
//! * [`world`]: the machine-wide state that the kernel glue has (pools, caps, counters, failure
//!   injection) and the implementation of the core's traits on it;
//! * [`mm`]: a small address-space layer (fault, unmap, protect, fork, move, demote, exit) whose
//!   range walks are written as the kernel's are, sticky folding included;
//! * [`oracle`]: what an address space should contain, as a flat map, and the checks against it;
//! * [`diff`]: random page tables, and QEMU's answer to them compared with the core's;
//! * [`look`]: page tables of a running kernel, in a file that is its memory.
//!
//! # What does not compile
//!
//! A node cannot be duplicated:
//! ```compile_fail
//! fn dup<B>(n: fpt_core::node::Ready<B>) -> fpt_core::node::Ready<B> { n.clone() }
//! ```
//! A node cannot be committed twice:
//! ```compile_fail
//! use fpt_core::node::*;
//! fn twice<O: NodeAlloc + NodeMem>(o: &mut O, n: Ready<O::Block>) {
//!     let _ = commit_node(o, n, 0x67);
//!     let _ = commit_node(o, n, 0x67);
//! }
//! ```
//! A node that is still in the tree, or was never installed, cannot be retired:
//! ```compile_fail
//! use fpt_core::node::*;
//! fn early<O: NodeAlloc + NodeMem>(o: &mut O, n: Ready<O::Block>) { let _ = retire_node(o, n); }
//! ```
//! A detached node cannot be conjured up field by field:
//! ```compile_fail
//! let n = fpt_core::node::Detached { kind: fpt_core::geometry::NodeKind::Mid, tainted: false, block: () };
//! ```
//! A detached node cannot be ignored (where warnings are errors):
//! ```compile_fail
//! #![deny(unused_must_use)]
//! use fpt_core::node::*;
//! fn ignore<B>(n: (B, u8)) { Detached::from_raw(n.0, n.1).ok().unwrap(); }
//! ```
//! And the same calls, used as meant, do compile:
//! ```
//! use fpt_core::node::*;
//! fn fine<O: NodeAlloc + NodeMem>(o: &mut O) -> Option<Retired> {
//!     let ready = acquire_node(o, fpt_core::geometry::NodeKind::Mid).ok()?;
//!     let _ = commit_node(o, ready, fpt_core::entry::TABLE_FLAGS);
//!     let detached = detach_node(o)?;
//!     Some(retire_node(o, detached))
//! }
//! ```

#![forbid(unsafe_code)]

pub mod diff;
pub mod look;
pub mod mem;
pub mod mm;
pub mod oracle;
pub mod race;
pub mod world;
