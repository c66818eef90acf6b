// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The shape of the tree in every mode, as data that the compiler checks.
//!
//! Levels are counted as the architecture does: the root table holds level 4
//! entries (PML4E, Linux' p4d), then 3 (PDPTE, pud), 2 (PDE, pmd), 1 (PTE).
//! A *node* is a flattened table: two levels merged into one 2 MiB block of
//! 2^18 entries. A *slice* is one of its 512 pages of 4 KiB; a slice has exactly
//! the layout of the conventional table that it replaces.

use super::addr::{low_mask, VirtAddr, PAGE_SHIFT, VA_BITS};

/// Page-allocator order of a flattened node.
pub const NODE_ORDER: u32 = 9;
/// log2 of [`NODE_BYTES`]; a node is aligned to its size.
pub const NODE_SHIFT: u32 = PAGE_SHIFT + NODE_ORDER;
/// Size of a flattened node in bytes (2 MiB).
pub const NODE_BYTES: u64 = 1 << NODE_SHIFT;
/// Number of 4 KiB slices in a node.
pub const SLICES: u32 = 1 << NODE_ORDER;
/// log2 of the number of entries in a conventional table.
pub const TABLE_BITS: u32 = 9;
/// log2 of the number of entries in a node.
pub const NODE_BITS: u32 = 18;
/// Entries in a node.
pub const NODE_ENTRIES: u32 = 1 << NODE_BITS;
/// Offset of the conventional L4 page inside a root block: the user half needs
/// the first 1 MiB only, so the L4 page is the first page of the second one.
pub const ROOT_L4_OFFSET: u64 = NODE_BYTES / 2;
/// Slices of a root block that hold user level 3 entries.
pub const ROOT_USER_SLICES: u32 = SLICES / 2;

/// Which table an *entry* lives in, by the architecture's numbering.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// PTE: maps 4 KiB.
    L1 = 1,
    /// PDE (pmd): 2 MiB leaf or pointer to PTEs.
    L2 = 2,
    /// PDPTE (pud): 1 GiB leaf or pointer.
    L3 = 3,
    /// PML4E (p4d, pgd): pointer.
    L4 = 4,
}

impl Level {
    /// 1, 2, 3 or 4.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Level::L1 => 1,
            Level::L2 => 2,
            Level::L3 => 3,
            Level::L4 => 4,
        }
    }

    /// Lowest virtual-address bit that selects an entry of this level.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        match self {
            Level::L1 => 12,
            Level::L2 => 21,
            Level::L3 => 30,
            Level::L4 => 39,
        }
    }

    /// Bytes of address space that one entry of this level covers.
    #[inline(always)]
    pub const fn span_bytes(self) -> u64 {
        match self {
            Level::L1 => 1 << 12,
            Level::L2 => 1 << 21,
            Level::L3 => 1 << 30,
            Level::L4 => 1 << 39,
        }
    }

    /// The 9-bit index of `va` in a conventional table of this level.
    #[inline(always)]
    pub const fn index(self, va: VirtAddr) -> u32 {
        let va = va.as_u64();
        let index = match self {
            Level::L1 => va >> 12,
            Level::L2 => va >> 21,
            Level::L3 => va >> 30,
            Level::L4 => va >> 39,
        };
        (index & 0x1ff) as u32
    }

    /// The architecture's name of an entry of this level.
    #[inline]
    pub const fn entry_name(self) -> &'static str {
        match self {
            Level::L1 => "PTE",
            Level::L2 => "PDE",
            Level::L3 => "PDPTE",
            Level::L4 => "PML4E",
        }
    }
}

/// A kind of flattened node.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum NodeKind {
    /// L4+L3 merged: the root of an address space. Holds level 3 entries.
    Root = 0,
    /// L3+L2 merged ("M"), under a level 4 entry. Holds level 2 entries.
    Mid = 1,
    /// L2+L1 merged ("B"), under a level 3 entry. Holds level 1 entries.
    Bottom = 2,
}

impl NodeKind {
    /// Number of kinds.
    pub const COUNT: usize = 3;
    /// Every kind, in the order of the discriminants.
    pub const ALL: [NodeKind; NodeKind::COUNT] = [NodeKind::Root, NodeKind::Mid, NodeKind::Bottom];

    /// The kind with this discriminant.
    #[inline]
    pub const fn from_u8(v: u8) -> Option<NodeKind> {
        match v {
            0 => Some(NodeKind::Root),
            1 => Some(NodeKind::Mid),
            2 => Some(NodeKind::Bottom),
            _ => None,
        }
    }

    /// The discriminant, for arrays by kind.
    #[inline(always)]
    pub const fn index(self) -> usize {
        match self {
            NodeKind::Root => 0,
            NodeKind::Mid => 1,
            NodeKind::Bottom => 2,
        }
    }

    /// Lower-case name, as in debugfs.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            NodeKind::Root => "root",
            NodeKind::Mid => "mid",
            NodeKind::Bottom => "bottom",
        }
    }

    /// Level of the entries that the node holds.
    #[inline(always)]
    pub const fn entry_level(self) -> Level {
        match self {
            NodeKind::Root => Level::L3,
            NodeKind::Mid => Level::L2,
            NodeKind::Bottom => Level::L1,
        }
    }

    /// Level of the entry that points at the node; `None` for the root, at which CR3 points.
    #[inline(always)]
    pub const fn parent_level(self) -> Option<Level> {
        match self {
            NodeKind::Root => None,
            NodeKind::Mid => Some(Level::L4),
            NodeKind::Bottom => Some(Level::L3),
        }
    }
}

/// Bytes of address space below one node: 128 TiB (the user half), 512 GiB, 1 GiB.
#[inline(always)]
pub const fn span_bytes(kind: NodeKind) -> u64 {
    match kind {
        NodeKind::Root => 1 << 47,
        NodeKind::Mid => 1 << 39,
        NodeKind::Bottom => 1 << 30,
    }
}

/// First address of the span of `kind` that holds `va`.
#[inline(always)]
pub const fn span_base(kind: NodeKind, va: VirtAddr) -> VirtAddr {
    VirtAddr::new(va.as_u64() & !span_bytes(kind).wrapping_sub(1))
}

/// The 18-bit index of `va` in a node: `VA[47:30]`, `VA[38:21]` or `VA[29:12]`.
#[inline(always)]
pub const fn node_index(kind: NodeKind, va: VirtAddr) -> u32 {
    let va = va.as_u64();
    let index = match kind {
        NodeKind::Root => va >> 30,
        NodeKind::Mid => va >> 21,
        NodeKind::Bottom => va >> 12,
    };
    (index & 0x3_ffff) as u32
}

/// The slice (0..512) of a node that holds the entry of `va`.
#[inline(always)]
pub const fn slice_of(kind: NodeKind, va: VirtAddr) -> u32 {
    split_index(node_index(kind, va)).0
}

/// Splits an 18-bit node index in (slice, slot within the slice); higher bits are ignored.
#[inline(always)]
pub const fn split_index(index: u32) -> (u32, u32) {
    ((index >> 9) & 0x1ff, index & 0x1ff)
}

/// The 18-bit node index of a slot (0..512) in a slice (0..512); higher bits are ignored.
#[inline(always)]
pub const fn join_index(slice: u32, slot: u32) -> u32 {
    ((slice & 0x1ff) << 9) | (slot & 0x1ff)
}

/// First address below slice `slice` (0..512) of the node of `kind` that covers `va`.
#[inline(always)]
pub const fn slice_base(kind: NodeKind, va: VirtAddr, slice: u32) -> VirtAddr {
    let slice = (slice & 0x1ff) as u64;
    let offset = match kind {
        NodeKind::Root => slice << 39,
        NodeKind::Mid => slice << 30,
        NodeKind::Bottom => slice << 21,
    };
    VirtAddr::new(span_base(kind, va).as_u64() | offset)
}

/// One step of a walk: `bits` bits of the address from bit `shift` up select an entry of `level`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct IndexStep {
    /// Level of the selected entry.
    pub level: Level,
    /// Lowest address bit of the index.
    pub shift: u32,
    /// Width of the index.
    pub bits: u32,
}

impl IndexStep {
    const fn table(level: Level) -> Self {
        Self {
            level,
            shift: level.shift(),
            bits: TABLE_BITS,
        }
    }

    const fn node(kind: NodeKind) -> Self {
        let level = kind.entry_level();
        Self {
            level,
            shift: level.shift(),
            bits: NODE_BITS,
        }
    }

    /// The index of `va` at this step.
    #[inline]
    pub const fn index(&self, va: VirtAddr) -> u32 {
        match va.as_u64().checked_shr(self.shift) {
            Some(v) => (v & low_mask(self.bits)) as u32,
            None => 0,
        }
    }
}

/// Which levels are flattened where nothing falls back.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Conventional tables only.
    Radix = 0,
    /// L4 and L3 merged.
    L4L3 = 1,
    /// L3 and L2 merged.
    L3L2 = 2,
    /// L4 and L3 merged, L2 and L1 merged.
    L4L3L2L1 = 3,
}

impl Mode {
    /// Number of modes.
    pub const COUNT: usize = 4;
    /// Every mode, in the order of the discriminants.
    pub const ALL: [Mode; Mode::COUNT] = [Mode::Radix, Mode::L4L3, Mode::L3L2, Mode::L4L3L2L1];

    /// The mode with this discriminant.
    #[inline]
    pub const fn from_u8(v: u8) -> Option<Mode> {
        match v {
            0 => Some(Mode::Radix),
            1 => Some(Mode::L4L3),
            2 => Some(Mode::L3L2),
            3 => Some(Mode::L4L3L2L1),
            _ => None,
        }
    }

    /// Parses `radix`, `l4l3`, `l3l2` or `l4l3-l2l1`; anything else is `None`.
    #[inline]
    pub fn from_str_bytes(s: &[u8]) -> Option<Mode> {
        match s {
            b"radix" => Some(Mode::Radix),
            b"l4l3" => Some(Mode::L4L3),
            b"l3l2" => Some(Mode::L3L2),
            b"l4l3-l2l1" => Some(Mode::L4L3L2L1),
            _ => None,
        }
    }

    /// The name that [`Mode::from_str_bytes`] accepts.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Radix => "radix",
            Mode::L4L3 => "l4l3",
            Mode::L3L2 => "l3l2",
            Mode::L4L3L2L1 => "l4l3-l2l1",
        }
    }

    /// Does the mode merge L4 and L3?
    #[inline(always)]
    pub const fn flattens_root(self) -> bool {
        matches!(self, Mode::L4L3 | Mode::L4L3L2L1)
    }

    /// Does the mode merge L3 and L2?
    #[inline(always)]
    pub const fn flattens_mid(self) -> bool {
        matches!(self, Mode::L3L2)
    }

    /// Does the mode merge L2 and L1?
    #[inline(always)]
    pub const fn flattens_bottom(self) -> bool {
        matches!(self, Mode::L4L3L2L1)
    }

    /// Does the mode use nodes of this kind?
    #[inline(always)]
    pub const fn flattens(self, kind: NodeKind) -> bool {
        match kind {
            NodeKind::Root => self.flattens_root(),
            NodeKind::Mid => self.flattens_mid(),
            NodeKind::Bottom => self.flattens_bottom(),
        }
    }

    /// The steps of a walk of a user address, from the root down, where nothing fell back.
    #[inline]
    pub const fn steps(self) -> &'static [IndexStep] {
        match self {
            Mode::Radix => RADIX_STEPS,
            Mode::L4L3 => L4L3_STEPS,
            Mode::L3L2 => L3L2_STEPS,
            Mode::L4L3L2L1 => L4L3_L2L1_STEPS,
        }
    }
}

/// What a kernel is booted with, `fpt=`: one mode for all processes, or nodes of every kind.
///
/// It is no mode: under [`Boot::Mixed`] each process has a mode of its own. The policy, which decides
/// when a node is made, is a third thing.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Boot {
    /// Each process has this mode, unless it asks for conventional tables.
    Mode(Mode),
    /// Nodes of every kind are possible.
    Mixed,
}

impl Boot {
    /// Number of choices.
    pub const COUNT: usize = 5;
    /// Every choice, in the order of [`Boot::as_u8`].
    pub const ALL: [Boot; Boot::COUNT] = [
        Boot::Mode(Mode::Radix),
        Boot::Mode(Mode::L4L3),
        Boot::Mode(Mode::L3L2),
        Boot::Mode(Mode::L4L3L2L1),
        Boot::Mixed,
    ];
    /// What a kernel does that is told nothing.
    pub const DEFAULT: Boot = Boot::Mixed;

    /// 0 to 3: the mode's discriminant; 4: mixed.
    #[inline]
    pub const fn as_u8(self) -> u8 {
        match self {
            Boot::Mode(mode) => mode as u8,
            Boot::Mixed => 4,
        }
    }

    /// The choice with this number.
    #[inline]
    pub const fn from_u8(v: u8) -> Option<Boot> {
        match v {
            4 => Some(Boot::Mixed),
            mode => match Mode::from_u8(mode) {
                Some(mode) => Some(Boot::Mode(mode)),
                None => None,
            },
        }
    }

    /// Parses the name of a mode, or `mixed`; anything else is `None`.
    #[inline]
    pub fn from_str_bytes(s: &[u8]) -> Option<Boot> {
        match s {
            b"mixed" => Some(Boot::Mixed),
            mode => Mode::from_str_bytes(mode).map(Boot::Mode),
        }
    }

    /// The name that [`Boot::from_str_bytes`] accepts.
    #[inline]
    pub const fn name(self) -> &'static str {
        match self {
            Boot::Mode(mode) => mode.name(),
            Boot::Mixed => "mixed",
        }
    }

    /// The name of the policy that it comes with, where `fpt.policy` does not say another.
    #[inline]
    pub const fn policy_name(self) -> &'static str {
        match self {
            Boot::Mode(_) => "eager",
            Boot::Mixed => "auto",
        }
    }

    /// The mode of all processes; `None` where each has its own.
    #[inline(always)]
    pub const fn mode(self) -> Option<Mode> {
        match self {
            Boot::Mode(mode) => Some(mode),
            Boot::Mixed => None,
        }
    }

    /// May there be nodes of this kind?
    #[inline(always)]
    pub const fn allows(self, kind: NodeKind) -> bool {
        match self {
            Boot::Mode(mode) => mode.flattens(kind),
            Boot::Mixed => true,
        }
    }

    /// May a process have this mode? Its kinds of nodes must all be possible, so each may have radix.
    #[inline]
    pub const fn offers(self, mode: Mode) -> bool {
        (self.allows(NodeKind::Root) || !mode.flattens_root())
            && (self.allows(NodeKind::Mid) || !mode.flattens_mid())
            && (self.allows(NodeKind::Bottom) || !mode.flattens_bottom())
    }
}

const RADIX_STEPS: &[IndexStep] = &[
    IndexStep::table(Level::L4),
    IndexStep::table(Level::L3),
    IndexStep::table(Level::L2),
    IndexStep::table(Level::L1),
];
const L4L3_STEPS: &[IndexStep] = &[
    IndexStep::node(NodeKind::Root),
    IndexStep::table(Level::L2),
    IndexStep::table(Level::L1),
];
const L3L2_STEPS: &[IndexStep] = &[
    IndexStep::table(Level::L4),
    IndexStep::node(NodeKind::Mid),
    IndexStep::table(Level::L1),
];
const L4L3_L2L1_STEPS: &[IndexStep] = &[
    IndexStep::node(NodeKind::Root),
    IndexStep::node(NodeKind::Bottom),
];

/// Do the steps cover every address bit from 47 down to 12 exactly once, in order, with tables
/// no larger than a node?
#[inline]
pub const fn steps_are_valid(steps: &[IndexStep]) -> bool {
    let mut top = VA_BITS;
    let mut rest = steps;
    while let [step, tail @ ..] = rest {
        if step.shift.wrapping_add(step.bits) != top
            || step.shift != step.level.shift()
            || step.bits == 0
            || step.bits > NODE_BITS
        {
            return false;
        }
        top = step.shift;
        rest = tail;
    }
    top == PAGE_SHIFT
}

// A wrong table of steps does not compile.
const _: () = assert!(steps_are_valid(RADIX_STEPS));
const _: () = assert!(steps_are_valid(L4L3_STEPS));
const _: () = assert!(steps_are_valid(L3L2_STEPS));
const _: () = assert!(steps_are_valid(L4L3_L2L1_STEPS));
const _: () = assert!((8 << NODE_BITS) == NODE_BYTES);
const _: () = assert!(span_bytes(NodeKind::Mid) == Level::L2.span_bytes() << NODE_BITS);
const _: () = assert!(span_bytes(NodeKind::Bottom) == Level::L1.span_bytes() << NODE_BITS);
const _: () = assert!(span_bytes(NodeKind::Root) * 2 == Level::L3.span_bytes() << NODE_BITS);
const _: () = assert!(ROOT_USER_SLICES as u64 * 4096 == ROOT_L4_OFFSET);
