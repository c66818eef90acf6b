// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be chosen about a run, and its limits.

/// What INVLPG does to the paging-structure caches (rule I1).
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Psc {
    /// Drops all of the current PCID, as the SDM says.
    #[default]
    Intel,
    /// Drops what lies on the path of the address, as AMD says of EFER.TCE.
    Tce,
}

/// The choices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knobs {
    /// INVLPG and paging-structure caches.
    pub psc: Psc,
    /// Are PCIDs told apart? Else every write to CR3 drops what is not global.
    pub pcid: bool,
    /// Do unmapped kernel pages that are freed count as findings R2 and R3, as 4.10.4.4 says by the letter?
    pub strict_kernel: bool,
    /// Roots that no CPU has loaded and that stay known. 0 where nobody reports frees: such a page
    /// may have become something else.
    pub idle_roots: usize,
    /// The run's limits.
    pub limits: Limits,
    /// A rule that is broken on purpose, so that tests can be shown to notice.
    #[cfg(test)]
    pub(crate) broken: Option<Broken>,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs {
            psc: Psc::Intel,
            pcid: false,
            strict_kernel: false,
            idle_roots: 1024,
            limits: Limits::default(),
            #[cfg(test)]
            broken: None,
        }
    }
}

impl Knobs {
    /// Is this rule broken on purpose? Never outside of tests.
    #[cfg(test)]
    pub(crate) fn is_broken(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    /// Is this rule broken on purpose? Never outside of tests.
    #[cfg(not(test))]
    #[inline(always)]
    pub(crate) fn is_broken(&self, _: Broken) -> bool {
        false
    }
}

/// Reaching one of these is an error of the run, never silence.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Records with pending CPUs; about 200 bytes each.
    pub records: usize,
    /// Table pages; up to 4 KiB and some each.
    pub tables: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            records: 1 << 19,
            tables: 1 << 17,
        }
    }
}

/// Ways to get a rule wrong. The tests try each and must fail.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[allow(dead_code)]
pub(crate) enum Broken {
    /// C1: an entry that was never accessed counts as cached.
    AccessedIgnored,
    /// C1: clearing A is taken for an invalidation.
    AgeForgets,
    /// C2: only the CPU that stores may hold what it takes away.
    OnlyTheStorer,
    /// C3: a table that maps nothing is not cached.
    EmptyTables,
    /// C4: a change in an unlinked table concerns nobody.
    Unchained,
    /// C5: rights of the last entry alone.
    LastEntryRights,
    /// C5: D does not matter.
    DirtyIgnored,
    /// C5: the memory type does not matter.
    MemoryTypeIgnored,
    /// C6: INVLPG drops all that lies in the surrounding large page.
    PageDropsNeighbours,
    /// C6: pieces from before a promotion are forgotten.
    PiecesForgotten,
    /// C7: of a flattened node only the first page counts.
    FirstSlice,
    /// I1: the other flavour of INVLPG.
    OtherPsc,
    /// I1: INVLPG leaves global pages.
    PageLeavesGlobals,
    /// I2: a write to CR3 drops global pages.
    Cr3DropsGlobals,
    /// I2: a write to CR3 leaves paging-structure caches.
    Cr3LeavesTables,
    /// I3: a full flush leaves global pages.
    AllLeavesGlobals,
    /// I3: a full flush reaches every CPU.
    AllIsEverybodys,
    /// I4: a page fault drops nothing.
    FaultDropsNothing,
    /// I4: a page fault drops all paging-structure entries.
    FaultDropsTables,
    /// I5: entering the kernel drops everything.
    EntryFlushes,
    /// N1: more rights are a restriction.
    UpgradeIsLate,
    /// N1: nothing is late.
    NothingIsLate,
    /// R0: only the first frame of a root counts.
    RootPageOnly,
    /// R1: linked tables may be freed.
    LinkedIsFine,
    /// R1: pending table records do not count.
    StaleTableIsFine,
    /// R1': relinking under another root is fine.
    RelinkIsFine,
    /// R1': relinking within a root is not fine.
    RelinkNever,
    /// R1': overwriting is fine.
    OverwriteIsFine,
    /// R1': mapping a dead table is fine.
    MappingIsFine,
    /// R2: fires at the free.
    FreeFiresAtOnce,
    /// R2: a flush in between does not silence.
    ArmedForever,
    /// R2: a page that is mapped again at the place counts.
    CoverIgnored,
    /// R3: kernel pages that were unmapped count.
    LazyKernelIsLate,
    /// R4: any frame will do.
    ReuseIsFine,
    /// R4: the same page again counts.
    ReuseOfSame,
    /// R5: readers count.
    FrozenReaders,
    /// R5: writers do not count.
    FrozenWriters,
    /// R5: kernel pages count.
    FrozenKernel,
    /// R1': entries of an index page beside a node count.
    ShadowNever,
}

#[cfg(test)]
impl Broken {
    pub(crate) const ALL: [Broken; 39] = [
        Broken::AccessedIgnored,
        Broken::AgeForgets,
        Broken::OnlyTheStorer,
        Broken::EmptyTables,
        Broken::Unchained,
        Broken::LastEntryRights,
        Broken::DirtyIgnored,
        Broken::MemoryTypeIgnored,
        Broken::PageDropsNeighbours,
        Broken::PiecesForgotten,
        Broken::FirstSlice,
        Broken::OtherPsc,
        Broken::PageLeavesGlobals,
        Broken::Cr3DropsGlobals,
        Broken::Cr3LeavesTables,
        Broken::AllLeavesGlobals,
        Broken::AllIsEverybodys,
        Broken::FaultDropsNothing,
        Broken::FaultDropsTables,
        Broken::EntryFlushes,
        Broken::UpgradeIsLate,
        Broken::NothingIsLate,
        Broken::RootPageOnly,
        Broken::LinkedIsFine,
        Broken::StaleTableIsFine,
        Broken::RelinkIsFine,
        Broken::RelinkNever,
        Broken::OverwriteIsFine,
        Broken::MappingIsFine,
        Broken::FreeFiresAtOnce,
        Broken::ArmedForever,
        Broken::CoverIgnored,
        Broken::LazyKernelIsLate,
        Broken::ReuseIsFine,
        Broken::ReuseOfSame,
        Broken::FrozenReaders,
        Broken::FrozenWriters,
        Broken::FrozenKernel,
        Broken::ShadowNever,
    ];
}
