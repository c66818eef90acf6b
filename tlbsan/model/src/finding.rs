// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was found, with all that a report needs.

use std::fmt;

use crate::cpu::{CpuId, Mode, Origin, Past, Seq};
use crate::geometry::{Frame, Leaf, Level, Place, Pointer, Root};

/// The findings of `docs/explanation/tlbsan.md`.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// A root that a CPU has loaded was freed.
    R0,
    /// A table that a CPU may still walk through was freed.
    R1,
    /// A table that a CPU may still walk through became something else.
    R1Reused,
    /// A page that user code may still access was freed.
    R2,
    /// A flush did not come before the task that owed it went on.
    R3,
    /// A kernel address was mapped anew while a CPU may hold what was there.
    R4,
    /// A page that is taken for stable may still be written to.
    R5,
    /// A dirty or accessed bit that hardware set was lost.
    R6,
}

impl Rule {
    /// Its name, which is its anchor in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::R0 => "R0",
            Rule::R1 => "R1",
            Rule::R1Reused => "R1'",
            Rule::R2 => "R2",
            Rule::R3 => "R3",
            Rule::R4 => "R4",
            Rule::R5 => "R5",
            Rule::R6 => "R6",
        }
    }
}

/// How sure it is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Certainty {
    /// No legal sequence of flushes leads here.
    Error,
    /// Only time says that a flush is missing.
    Warning,
}

/// Why it is a finding.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// CR3 of the holders selects the root.
    Loaded(Root),
    /// A known root leads to the table, at this place.
    StillLinked(Place),
    /// A CPU may have kept the entry that led there.
    Pending,
    /// The table was linked here, where the holders' own trees do not have it.
    Relinked(Place),
    /// An entry of the unlinked table got this value, which a walk would take for an entry.
    Overwritten {
        /// Physical address of the entry.
        entry: u64,
        /// What was stored.
        value: u64,
    },
    /// The unlinked table became a page at this address.
    Mapped {
        /// The address.
        va: u64,
    },
    /// The task that took it away has returned to user mode.
    Returned,
    /// It has been pending for this long.
    Overdue {
        /// How long it has been pending, in the caller's unit of time.
        age: u64,
    },
    /// The address has another page now.
    MappedAnew {
        /// The address.
        va: u64,
        /// What it has.
        leaf: Leaf,
    },
    /// Hardware set bits in this entry of the freed table, and the live entry has not got them.
    BitsLost {
        /// Physical address of the entry.
        entry: u64,
    },
}

/// What a CPU may hold.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum What {
    /// A page.
    Leaf(Leaf),
    /// Where an upper entry led.
    Table(Pointer),
}

/// An entry that was taken away, and who did it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// What CPUs may hold of it.
    pub what: What,
    /// Level of the entry.
    pub level: Level,
    /// First address that it translated, canonical.
    pub va: u64,
    /// Its physical address.
    pub entry: u64,
    /// What it was.
    pub old: u64,
    /// The value of the store that took it away, perhaps of an entry above.
    pub new: u64,
    /// When, in the order of events.
    pub seq: Seq,
    /// Who.
    pub by: Origin,
}

/// A CPU that may use what it should not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Which.
    pub cpu: CpuId,
    /// The PCID under which it is cached.
    pub pcid: u16,
    /// What it was doing.
    pub mode: Mode,
    /// What it has loaded.
    pub root: Option<Root>,
    /// Its last invalidations, the oldest first. None of them helps.
    pub flushes: Vec<Past>,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which rule was broken.
    pub rule: Rule,
    /// How sure that is.
    pub certainty: Certainty,
    /// Why.
    pub why: Why,
    /// The memory that it is about.
    pub frame: Frame,
    /// Frames of it.
    pub frames: u64,
    /// What was taken away; nothing if it is still there.
    pub taken: Option<Taken>,
    /// Who may still use it. Nobody, if a table is linked under a root that nobody has loaded.
    pub holders: Vec<Holder>,
    /// Who freed or reused it, or owed the flush.
    pub by: Origin,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.rule {
            Rule::R0 => "root freed that a CPU has loaded",
            Rule::R1 => "page-table memory freed that a CPU may still walk through",
            Rule::R1Reused => "page-table memory reused that a CPU may still walk through",
            Rule::R2 => "page freed that user code may still access",
            Rule::R3 => "no flush before the task went on",
            Rule::R4 => "kernel address mapped anew without a flush",
            Rule::R5 => "page taken for stable that may still be written to",
            Rule::R6 => "accessed or dirty bit lost",
        };
        write!(f, "{}: {what}: frame {:#x}", self.rule.name(), self.frame.0)?;
        if self.frames > 1 {
            write!(f, "+{}", self.frames)?;
        }
        for holder in &self.holders {
            write!(f, ", CPU {}", holder.cpu.0)?;
        }
        match &self.taken {
            Some(t) => write!(f, ", va {:#x}, was {:#x}", t.va, t.old),
            None => Ok(()),
        }
    }
}

/// Why the run cannot go on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum RunError {
    /// More records than the limit have pending CPUs.
    TooManyRecords(usize),
    /// More table pages than the limit.
    TooManyTables(usize),
    /// A CPU that was not announced.
    NoSuchCpu(CpuId),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::TooManyRecords(n) => write!(
                f,
                "more than {n} entries wait for a flush; the run judges nothing any more: raise the limit of records"
            ),
            RunError::TooManyTables(n) => write!(
                f,
                "the guest's page tables have more than {n} pages; the run judges nothing any more: raise the limit of tables"
            ),
            RunError::NoSuchCpu(cpu) => {
                write!(f, "an event of CPU {}, which the guest does not have", cpu.0)
            }
        }
    }
}

impl std::error::Error for RunError {}
