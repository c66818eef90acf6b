// SPDX-License-Identifier: GPL-2.0

//! Whether a span that is touched for the first time gets a flattened node.
//!
//! A pure function of facts that the caller gathers; total, and conventional
//! tables are always a correct answer.

use super::geometry::{Boot, Mode, NodeKind, SLICES};
use super::node::Fallback;

/// The administrator's choice, `fpt.policy`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Policy {
    /// Flatten every span at first touch.
    Eager = 0,
    /// Flatten new spans once the address space has reached `fpt.min_span`.
    Size = 1,
    /// Flatten what pays for itself: unused slices are kept below a share of what is resident
    /// ([`Budget`]). Makes L2+L1 nodes only, because the other kinds are decided while a process is
    /// small.
    Auto = 2,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 3] = [Policy::Eager, Policy::Size, Policy::Auto];

    /// The policy that a boot choice comes with.
    #[inline]
    pub const fn of_boot(boot: Boot) -> Policy {
        match boot {
            Boot::Mode(_) => Policy::Eager,
            Boot::Mixed => Policy::Auto,
        }
    }

    /// The policy with this discriminant.
    #[inline]
    pub const fn from_u8(v: u8) -> Option<Policy> {
        match v {
            0 => Some(Policy::Eager),
            1 => Some(Policy::Size),
            2 => Some(Policy::Auto),
            _ => None,
        }
    }

    /// Parses `eager`, `size` or `auto`; anything else is `None`.
    #[inline]
    pub fn from_str_bytes(s: &[u8]) -> Option<Policy> {
        match s {
            b"eager" => Some(Policy::Eager),
            b"size" => Some(Policy::Size),
            b"auto" => Some(Policy::Auto),
            _ => None,
        }
    }

    /// The name that [`Policy::from_str_bytes`] accepts.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Eager => "eager",
            Policy::Size => "size",
            Policy::Auto => "auto",
        }
    }
}

/// What a process asks for by prctl(); the numbers are the system call's.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// What the system does.
    System,
    /// This mode, with policy eager.
    Mode(Mode),
    /// The kinds of nodes that policy auto makes.
    Auto,
}

impl Request {
    /// Number of requests.
    pub const COUNT: u8 = 6;

    /// The request with this number.
    #[inline]
    pub const fn from_u8(n: u8) -> Option<Request> {
        match n {
            0 => Some(Request::System),
            5 => Some(Request::Auto),
            n => match Mode::from_u8(n.wrapping_sub(1)) {
                Some(mode) => Some(Request::Mode(mode)),
                None => None,
            },
        }
    }

    /// Can a kernel that was booted with `boot` do it?
    #[inline]
    pub const fn possible(self, boot: Boot) -> bool {
        match self {
            Request::System => true,
            Request::Mode(mode) => boot.offers(mode),
            Request::Auto => boot.allows(NodeKind::Bottom),
        }
    }

    /// Which tables of the process may be flattened. Mixed is L4+L3 and L2+L1 for those who ask for
    /// nothing, or for auto.
    #[inline]
    pub const fn mode(self, boot: Boot) -> Mode {
        match (self, boot) {
            (Request::Mode(mode), _) => mode,
            (Request::System | Request::Auto, Boot::Mode(mode)) => mode,
            (Request::System | Request::Auto, Boot::Mixed) => Mode::L4L3L2L1,
        }
    }

    /// When nodes are made for the process; `system` is `fpt.policy`.
    #[inline]
    pub const fn policy(self, system: Policy) -> Policy {
        match self {
            Request::System => system,
            Request::Mode(_) => Policy::Eager,
            Request::Auto => Policy::Auto,
        }
    }
}

/// What [`Policy::Auto`] may spend. A node costs what its unused slices cost: a full one holds what
/// conventional tables would hold. All in pages of 4 KiB.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Resident pages of the address space; at fork, of the parent.
    pub resident: u64,
    /// Unused slices of its nodes.
    pub wasted: u64,
    /// Share of `resident` that may be wasted, in thousandths (`fpt.waste_permille`).
    pub permille: u64,
    /// Unused slices of all address spaces.
    pub wasted_by_all: u64,
    /// Most that all may waste (`fpt.waste_percent` of RAM).
    pub cap: u64,
}

impl Budget {
    /// May `more` slices lie unused?
    #[inline]
    pub const fn allows(&self, more: u64) -> bool {
        let share = self.resident.saturating_mul(self.permille);
        match self.wasted.saturating_add(more).checked_mul(1000) {
            Some(mine) => mine <= share && self.wasted_by_all.saturating_add(more) <= self.cap,
            // More than any share.
            None => false,
        }
    }

    /// Does the address space waste twice its share? Then nodes are given up until it keeps to it.
    #[inline]
    pub const fn overdrawn(&self) -> bool {
        match self.wasted.checked_mul(500) {
            Some(half) => half > self.resident.saturating_mul(self.permille),
            None => true,
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
    /// Slices in use of the flat node of the span below, if it belongs to the same mapping, 0 to 512;
    /// only looked at under [`Policy::Auto`].
    pub below_slices: u32,
    /// At least half of the span is locked memory, which is about to be populated.
    pub locked: bool,
    /// Only looked at under [`Policy::Auto`].
    pub budget: Budget,
}

/// A parent with this many nodes of a kind, or more, is not a small process.
pub const FORK_NODES: u32 = 8;
/// A node with fewer slices in use than this is sparse.
pub const FORK_SLICES: u32 = 16;
/// A mapping that fills this many slices of a span goes on growing into the next one.
pub const GROWING_SLICES: u32 = 256;
/// A span with fewer tables than this is not promoted.
pub const PROMOTE_TABLES: u32 = 16;

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
    /// The node would waste more than the budget allows.
    OverBudget = 6,
    /// Nothing says that the span is going to be dense.
    TooSparse = 7,
}

/// Why a span got no node, in the words of the tracepoint `fpt_refuse`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// The mode has no nodes of this kind: nothing was refused.
    NotInMode = 0,
    /// A cap was reached.
    Cap = 1,
    /// No order-9 block, or no memory for its slices' locks.
    NoMemory = 2,
    /// The memory cgroup refused the charge.
    NoCharge = 3,
    /// The node would waste more than the budget allows.
    OverBudget = 4,
    /// Nothing says that the span is going to be dense.
    TooSparse = 5,
    /// Huge pages are there, or wanted.
    Huge = 6,
    /// The parent has conventional tables there.
    Parent = 7,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotInMode => Refusal::NotInMode,
            Reason::VmaExcluded => Refusal::Huge,
            Reason::GlobalCap | Reason::MmCap => Refusal::Cap,
            Reason::ParentRadix => Refusal::Parent,
            Reason::BelowMinSpan | Reason::TooSparse => Refusal::TooSparse,
            Reason::OverBudget => Refusal::OverBudget,
        }
    }
}

impl From<Fallback> for Refusal {
    fn from(fallback: Fallback) -> Self {
        match fallback {
            Fallback::Cap => Refusal::Cap,
            Fallback::NoMemory | Fallback::NoSlice | Fallback::BadBlock => Refusal::NoMemory,
            Fallback::NoCharge => Refusal::NoCharge,
            // Only what is in a pool already is free of charge for a sparse span.
            Fallback::NotPooled => Refusal::TooSparse,
        }
    }
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = 8;
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Reason; Reason::COUNT] = [
        Reason::NotInMode,
        Reason::VmaExcluded,
        Reason::GlobalCap,
        Reason::MmCap,
        Reason::ParentRadix,
        Reason::BelowMinSpan,
        Reason::OverBudget,
        Reason::TooSparse,
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
    if matches!(f.policy, Policy::Auto) {
        return decide_auto(f);
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
        // See above.
        Policy::Auto => Decision::Conventional(Reason::TooSparse),
    }
}

/// [`decide`] under [`Policy::Auto`]: is the span going to be dense, and is there room for what it
/// wastes until then?
const fn decide_auto(f: &SpanFacts) -> Decision {
    let dense = match f.parent_choice {
        Some(Choice::Radix) => return Decision::Conventional(Reason::ParentRadix),
        Some(Choice::Flat) => f.parent_slices >= FORK_SLICES,
        None => f.locked || f.below_slices >= GROWING_SLICES,
    };
    if !dense || !matches!(f.kind, NodeKind::Bottom) {
        Decision::Conventional(Reason::TooSparse)
    } else if !f.budget.allows(SLICES as u64) {
        Decision::Conventional(Reason::OverBudget)
    } else {
        Decision::Flatten
    }
}

/// How long ago the last leaf, or node, went from a table.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rest {
    /// Nobody has noted one.
    None = 0,
    /// Less than a minute ago.
    Short = 1,
    /// A minute ago or more.
    Long = 2,
}

impl Rest {
    /// The value with this discriminant.
    #[inline]
    pub const fn from_u8(v: u8) -> Option<Rest> {
        match v {
            0 => Some(Rest::None),
            1 => Some(Rest::Short),
            2 => Some(Rest::Long),
            _ => None,
        }
    }
}

/// What decides whether the tables of a span in use move into a node.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct PromotionFacts {
    /// PTE tables there, 0 to 512; those that lie in the node already included.
    pub tables: u32,
    /// Entries there that are neither tables nor none: huge pages, or what is left of one.
    pub leaves: u32,
    /// The span has a node already, which gave way to a leaf.
    pub attached: bool,
    /// A mapping of hugetlb lies there.
    pub hugetlb: bool,
    /// More than half of what is mapped there may get huge pages.
    pub wants_huge: bool,
    /// Since the last leaf.
    pub rest: Rest,
    /// What it may cost.
    pub budget: Budget,
}

/// The answer of [`decide_promotion`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[must_use]
#[repr(u8)]
pub enum Promotion {
    /// Move the tables.
    Now = 0,
    /// Look again later.
    Wait = 1,
    /// Note the time, and look again later.
    StartRest = 2,
    /// Too few tables.
    TooSparse = 3,
    /// More waste than allowed.
    OverBudget = 4,
    /// Huge pages have the span.
    Huge = 5,
}

/// Decides for one span in use, under [`Policy::Auto`].
///
/// Huge pages come first: a node would give way to the next one, and a span is copied at most once a
/// minute.
#[inline]
pub const fn decide_promotion(f: &PromotionFacts) -> Promotion {
    if f.hugetlb {
        return Promotion::Huge;
    }
    if f.leaves != 0 {
        return Promotion::StartRest;
    }
    if f.tables < PROMOTE_TABLES && !f.attached {
        return Promotion::TooSparse;
    }
    match f.rest {
        Rest::Short => return Promotion::Wait,
        Rest::None if f.wants_huge => return Promotion::StartRest,
        Rest::None | Rest::Long => {}
    }
    // While tables move, those that have not moved yet and their slices are both there: the budget has
    // to hold at that time, too. The node of an attached span is paid for.
    if !f.attached && !f.budget.allows(SLICES as u64) {
        return Promotion::OverBudget;
    }
    Promotion::Now
}

/// How many nodes `percent` (clamped to 100) of `ram_bytes` can hold.
#[inline]
pub const fn cap_nodes(ram_bytes: u64, percent: u64) -> u64 {
    let percent = if percent > 100 { 100 } else { percent };
    // Divide first: no overflow, and the loss is below 100 bytes in each percent.
    (ram_bytes / 100).wrapping_mul(percent) >> super::geometry::NODE_SHIFT
}
