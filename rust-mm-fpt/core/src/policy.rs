// SPDX-License-Identifier: GPL-2.0

//! Whether a span that is touched for the first time gets a flattened node.
//!
//! A pure function of facts that the caller gathers; total, and conventional
//! tables are always a correct answer.

use super::geometry::{Mode, NodeKind};

/// The administrator's choice, `fpt.policy`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Policy {
    /// Flatten every span at first touch.
    Eager = 0,
    /// Flatten new spans once the address space has reached `fpt.min_span`.
    Size = 1,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 2] = [Policy::Eager, Policy::Size];

    /// Parses `eager` or `size`; anything else is `None`.
    #[inline]
    pub fn from_str_bytes(s: &[u8]) -> Option<Policy> {
        match s {
            b"eager" => Some(Policy::Eager),
            b"size" => Some(Policy::Size),
            _ => None,
        }
    }

    /// The name that [`Policy::from_str_bytes`] accepts.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Eager => "eager",
            Policy::Size => "size",
        }
    }
}

/// What the parent has in the same span, at fork.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// A flattened node.
    Flat,
    /// Conventional tables.
    Radix,
}

/// Everything that the decision depends on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SpanFacts {
    /// The mode of this address space.
    pub mode: Mode,
    /// The kind of node that would cover the span.
    pub kind: NodeKind,
    /// `fpt.policy`.
    pub policy: Policy,
    /// `fpt.min_span` in bytes; only looked at under [`Policy::Size`].
    pub min_span: u64,
    /// Size of the address space in bytes (`mm->total_vm` pages times 4096).
    pub mm_total_vm: u64,
    /// Huge leaves are wanted there: a VMA in the span is of hugetlb, has MADV_HUGEPAGE, or THP=always
    /// and is eligible. A node could be made, and the first huge leaf would take it out of use.
    pub vma_excluded: bool,
    /// Flattened nodes that this address space has.
    pub mm_flat_nodes: u64,
    /// Most that it may have (`fpt.mm_cap`).
    pub mm_cap: u64,
    /// Flattened nodes of all address spaces.
    pub global_flat_nodes: u64,
    /// Most that there may be (`fpt.cap_percent` of RAM, in nodes).
    pub global_cap: u64,
    /// At fork, the parent's choice for the span; `None` elsewhere.
    pub parent_choice: Option<Choice>,
    /// At fork, the nodes of `kind` that the parent has.
    pub parent_nodes: u32,
    /// At fork, the slices in use of the parent's node there, 0 to 512.
    pub parent_slices: u32,
}

/// A parent with this many nodes of a kind, or more, is not a small process.
pub const FORK_NODES: u32 = 8;
/// A node with fewer slices in use than this is sparse.
pub const FORK_SLICES: u32 = 16;

/// Why a span stays conventional. The discriminants are stable: counters are indexed by them.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Reason {
    /// The mode has no nodes of this kind.
    NotInMode = 0,
    /// A VMA in the span wants huge leaves.
    VmaExcluded = 1,
    /// All address spaces together hold as many nodes as they may.
    GlobalCap = 2,
    /// This address space holds as many nodes as it may.
    MmCap = 3,
    /// The parent has conventional tables there.
    ParentRadix = 4,
    /// The address space is still smaller than `fpt.min_span`.
    BelowMinSpan = 5,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = 6;
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Reason; Reason::COUNT] = [
        Reason::NotInMode,
        Reason::VmaExcluded,
        Reason::GlobalCap,
        Reason::MmCap,
        Reason::ParentRadix,
        Reason::BelowMinSpan,
    ];

    /// The discriminant, for arrays by reason.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Is it a cap that said no (rather than the policy)?
    #[inline(always)]
    pub const fn is_cap(self) -> bool {
        matches!(self, Reason::GlobalCap | Reason::MmCap)
    }
}

/// The answer of [`decide`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Decision {
    /// Try a flattened node (its allocation may still fall back).
    Flatten,
    /// Use a node that is at hand in a pool, else conventional tables.
    Recycle,
    /// Use conventional tables.
    Conventional(Reason),
}

/// Decides for one span at its first touch.
///
/// Order matters: what would be in vain (mode, huge leaves) comes before what protects memory
/// (caps), before what is a matter of taste (fork mirrors the parent, size).
#[inline]
pub const fn decide(f: &SpanFacts) -> Decision {
    if !f.mode.flattens(f.kind) {
        return Decision::Conventional(Reason::NotInMode);
    }
    if f.vma_excluded {
        return Decision::Conventional(Reason::VmaExcluded);
    }
    if f.global_flat_nodes >= f.global_cap {
        return Decision::Conventional(Reason::GlobalCap);
    }
    if f.mm_flat_nodes >= f.mm_cap {
        return Decision::Conventional(Reason::MmCap);
    }
    match f.parent_choice {
        Some(Choice::Radix) => return Decision::Conventional(Reason::ParentRadix),
        // A new block for a sparse node costs far more than the copy of what is in it. A small
        // process gets one all the same: it has few, and what they save at exec and exit is theirs.
        Some(Choice::Flat) if f.parent_nodes >= FORK_NODES && f.parent_slices < FORK_SLICES => {
            return Decision::Recycle
        }
        Some(Choice::Flat) => return Decision::Flatten,
        None => {}
    }
    match f.policy {
        Policy::Eager => Decision::Flatten,
        Policy::Size if f.mm_total_vm >= f.min_span => Decision::Flatten,
        Policy::Size => Decision::Conventional(Reason::BelowMinSpan),
    }
}

/// How many nodes `percent` (clamped to 100) of `ram_bytes` can hold.
#[inline]
pub const fn cap_nodes(ram_bytes: u64, percent: u64) -> u64 {
    let percent = if percent > 100 { 100 } else { percent };
    // Divide first: no overflow, and the loss is below 100 bytes in each percent.
    (ram_bytes / 100).wrapping_mul(percent) >> super::geometry::NODE_SHIFT
}
