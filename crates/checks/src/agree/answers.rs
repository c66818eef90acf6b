// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of addresses and of whole address spaces, and whether all who were asked agree.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fpt_geometry::geometry::NODE_BITS;
use fpt_geometry::{Level, Mode};
use serde::Serialize;

use crate::walk::{self, End, Walk};

/// Where the kernel's walk ends, by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Software {
    /// The physical address of the entry.
    pub slot: u64,
    /// What the entry holds.
    pub value: u64,
    /// log2 of the page's size; `None`: nothing that the processor can use.
    pub shift: Option<u32>,
    /// Level of the entry.
    pub level: Level,
}

/// Everything that is known of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// The walk of the core, as hardware walks.
    pub core: Walk,
    /// Why the core's walk of the kernel's kind failed, if it did.
    pub software: Result<Software, String>,
    /// The walk of QEMU.
    pub qemu: Walk,
    /// Nothing for addresses of the kernel.
    pub pagemap: Option<u64>,
    /// In a mapping of frames without pages: pagemap takes it for a hole, whatever is there.
    pub pfnmap: bool,
}

/// What lies at an address where all agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// A page of 4 KiB.
    Small,
    /// A page of 2 MiB.
    Large,
    /// A page of 1 GiB.
    Giant,
    /// In memory, and the processor may not.
    Forbidden,
    /// Memory that is swapped out.
    Swapped,
    /// Nothing.
    Hole,
}

pub(super) const FRAME: u64 = 0x000f_ffff_ffff_f000;

pub(super) const PROTNONE: u64 = 1 << 8;

pub(super) const PM_PRESENT: u64 = 1 << 63;

pub(super) const PM_SWAP: u64 = 1 << 62;

pub(super) const PM_FRAME: u64 = (1 << 55) - 1;

pub(super) const PM_ENTRY: u64 = PM_PRESENT | PM_SWAP | PM_FRAME;

/// What Linux' pagemap has to say where its walk ends with this entry.
pub(super) fn pagemap_of(software: &Software, addr: u64) -> (u64, Found) {
    let Software {
        value,
        shift,
        level,
        ..
    } = *software;
    let size = |shift: u32| (1u64 << shift) - 1;
    if let Some(shift) = shift {
        let frame = (value & FRAME & !size(shift) | addr & size(shift)) >> 12;
        let found = match level {
            Level::L1 => Found::Small,
            Level::L2 => Found::Large,
            Level::L3 | Level::L4 => Found::Giant,
        };
        return (PM_PRESENT | frame, found);
    }
    // Accessed and dirty alone are what an erratum leaves in empty entries.
    if value & !0x60 == 0 {
        return (0, Found::Hole);
    }
    if value & PROTNONE != 0 {
        // Not present for the processor: the address bits are inverted, against L1TF.
        let size = size(level.shift());
        let frame = (!value & FRAME & !size | addr & size) >> 12;
        return (PM_PRESENT | frame, Found::Forbidden);
    }
    let (sort, offset) = (value >> 59, !value << 5 >> 14);
    (PM_SWAP | (sort | offset << 5) & PM_FRAME, Found::Swapped)
}

/// Do the walks end at a slice of a flattened node that holds nothing, and at the entry of the index
/// page that would point at this slice?
pub(super) fn both_empty(hardware: &walk::Entry, software: &Software) -> bool {
    let above = Level::from_number(hardware.level.number() + 1);
    let slice = hardware.pa >> 12 & 511;
    hardware.bits == NODE_BITS
        && (hardware.value, software.value) == (0, 0)
        && above == Some(software.level)
        && slice == software.slot >> 3 & 511
}

/// Do all agree on an address? `Err` says which do not.
pub fn judge(addr: u64, answers: &Answers) -> Result<Found, String> {
    let Answers { core, qemu, .. } = answers;
    if core != qemu {
        return Err("the core's walk is not QEMU's".into());
    }
    let software = match &answers.software {
        Ok(end) => end,
        Err(why) => return Err(format!("the core's walk of the kernel's kind: {why}")),
    };
    let last = core
        .entries
        .last()
        .ok_or("no entry was visited at all")
        .map_err(str::to_string)?;
    // Both walks end at one entry, whatever either skipped on its way.
    if (last.pa, last.value) != (software.slot, software.value) && !both_empty(last, software) {
        return Err("hardware's walk and the kernel's end at different entries".into());
    }
    match (&core.end, software.shift) {
        (End::Page { pa, size, .. }, Some(shift))
            if *size == 1 << shift && *pa == software.value & FRAME & !(size - 1) => {}
        (End::Fault(0), None) => {}
        _ => return Err("hardware's walk and the kernel's differ in what the entry is".into()),
    }
    let (mut want, found) = pagemap_of(software, addr);
    if answers.pfnmap {
        want = 0;
    }
    match answers.pagemap {
        Some(got) if got & PM_ENTRY != want => {
            Err(format!("pagemap says {got:#x}, the entry means {want:#x}"))
        }
        _ => Ok(found),
    }
}

/// An address in full, for a person.
pub fn describe(addr: u64, why: &str, answers: &Answers) -> String {
    let mut out = format!("{addr:#x}: {why}\n");
    let mut walk = |name: &str, walk: &Walk| {
        for e in &walk.entries {
            let _ = writeln!(
                out,
                "  {name:<8} level {} ({} bits) at {:#018x}: {:#018x}",
                e.level.number(),
                e.bits,
                e.pa,
                e.value
            );
        }
        let _ = writeln!(
            out,
            "  {name:<8} {}",
            match &walk.end {
                End::Page { pa, size, perm } => format!("page {pa:#x}, {size} bytes, {perm}"),
                End::Fault(code) => format!("page fault, error code {code:#x}"),
                End::Error(text) => format!("error: {text}"),
            }
        );
    };
    walk("core", &answers.core);
    walk("QEMU", &answers.qemu);
    let _ = match &answers.software {
        Ok(s) => writeln!(
            out,
            "  kernel   ends in level {} at {:#018x}: {:#018x} (the core's reading of its walk)",
            s.level.number(),
            s.slot,
            s.value
        ),
        Err(e) => writeln!(out, "  kernel   {e}"),
    };
    let _ = match answers.pagemap {
        Some(v) => writeln!(out, "  pagemap  {v:#018x}"),
        None => writeln!(out, "  pagemap  has no such address"),
    };
    out
}

/// What one process looked like, by everyone who was asked.
pub(super) struct Look {
    pub(super) answers: BTreeMap<u64, Answers>,
    /// By the core, and by each of the kernel's walkers.
    pub(super) sums: [Sum; 3],
    /// By the core's traversal, and by the kernel's counters.
    pub(super) shapes: [Shape; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub(super) ptes: u64,
    pub(super) pmds: u64,
    pub(super) puds: u64,
    pub(super) hash: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Shape {
    pub(super) root: u64,
    pub(super) mid: u64,
    pub(super) bottom: u64,
    /// All tables, a conventional root left out.
    pub(super) kib: u64,
}

/// What was compared, so that a run in which something never occurred is a failure.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    pub(super) found: BTreeMap<Found, usize>,
    /// Small pages by the number of entries that hardware visits.
    pub(super) visits: BTreeMap<usize, usize>,
    pub(super) kernel_pages: usize,
    pub(super) entries: u64,
}

impl Coverage {
    pub(super) fn of(&self, found: Found) -> usize {
        self.found.get(&found).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Coverage) {
        for (found, n) in &other.found {
            *self.found.entry(*found).or_default() += n;
        }
        for (visits, n) in &other.visits {
            *self.visits.entry(*visits).or_default() += n;
        }
        self.kernel_pages += other.kernel_pages;
        self.entries += other.entries;
    }

    /// What the processes of `mode` should have shown and did not.
    pub(super) fn missing(&self, mode: Mode) -> Option<String> {
        let least = [
            (Found::Small, 500),
            (Found::Large, 4),
            (Found::Forbidden, 8),
            (Found::Swapped, 20),
            (Found::Hole, 200),
        ];
        for (found, want) in least {
            if self.of(found) < want {
                return Some(format!(
                    "{} addresses of sort {found:?}, at least {want} were meant",
                    self.of(found)
                ));
            }
        }
        let visits = |n: usize| self.visits.get(&n).copied().unwrap_or(0);
        let short = walk::expected(mode, false);
        if visits(short) < 100 {
            return Some(format!(
                "walks that visit {short} entries: {}",
                visits(short)
            ));
        }
        // Where a node is missing for want of memory the walk is one longer.
        if mode.flattens_below_root() && visits(short + 1) < 5 {
            return Some(format!(
                "conventional tables among flattened nodes: {} walks of {} entries",
                visits(short + 1),
                short + 1
            ));
        }
        (self.kernel_pages == 0).then(|| "pages of the kernel".into())
    }
}

/// Every answer of one process. `Err` shows the first differences.
pub(super) fn compare(look: &Look) -> Result<Coverage, String> {
    let mut coverage = Coverage::default();
    let mut wrong = Vec::new();
    for (&addr, answers) in &look.answers {
        match judge(addr, answers) {
            Err(why) => wrong.push(describe(addr, &why, answers)),
            Ok(Found::Hole) if answers.pagemap.is_none() => {}
            Ok(_) if answers.pagemap.is_none() => coverage.kernel_pages += 1,
            Ok(found) => {
                *coverage.found.entry(found).or_default() += 1;
                if found == Found::Small {
                    *coverage
                        .visits
                        .entry(answers.core.entries.len())
                        .or_default() += 1;
                }
            }
        }
    }
    if !wrong.is_empty() {
        let count = wrong.len();
        wrong.truncate(3);
        return Err(format!(
            "{count} of {} addresses differ, the first of them:\n{}",
            look.answers.len(),
            wrong.join("")
        ));
    }
    let [core, tentry, pagewalk] = look.sums;
    if core != tentry || core != pagewalk {
        return Err(format!(
            "the sums over the whole address space differ:\n  core     {core:x?}\n  tentry   {tentry:x?}\n  pagewalk {pagewalk:x?}\n"
        ));
    }
    coverage.entries = core.ptes + core.pmds + core.puds;
    let [nodes, counted] = look.shapes;
    if nodes != counted {
        return Err(format!(
            "the tables are not those that the kernel counts:\n  core     {nodes:?}\n  kernel   {counted:?}\n"
        ));
    }
    Ok(coverage)
}

/// One process's pagemap under another's tables: how many addresses differ. This comparison can fail.
pub(super) fn crossed(one: &Look, other: &Look) -> usize {
    let mixed = |addr: &u64, a: &Answers| -> Option<Answers> {
        Some(Answers {
            pagemap: a.pagemap,
            pfnmap: a.pfnmap,
            ..other.answers.get(addr)?.clone()
        })
    };
    one.answers
        .iter()
        .filter_map(|(addr, a)| Some((addr, mixed(addr, a)?)))
        .filter(|(addr, a)| judge(**addr, a).is_err())
        .count()
}

#[cfg(test)]
mod tests {
    use super::super::words::software;
    use super::*;

    const ADDR: u64 = 0x1234_5678_9abc;
    const TEXT: &str = "\
entry 4 PML4E pa 0x0000000001234120 value 0x0010000012200067 bits 9
entry 2 PDE pa 0x0000000012212340 value 0x0000000002a00067 bits 18
entry 1 PTE pa 0x0000000002a00c48 value 0x8000000012345867 bits 9
page pa 0x0000000012345000 size 4096 perm rw-u
software leaf slot 0x0000000002a00c48 value 0x8000000012345867 shift 12
";

    fn answers(text: &str, pagemap: u64) -> Answers {
        let line = text.lines().find(|l| l.starts_with("software"));
        Answers {
            core: walk::parse(text).unwrap(),
            software: software(line.unwrap()).unwrap(),
            qemu: walk::parse(text).unwrap(),
            pagemap: Some(pagemap),
            pfnmap: false,
        }
    }

    fn small() -> Answers {
        // Soft-dirty, exclusive and file bits are nothing that the tables' entry says.
        answers(TEXT, PM_PRESENT | 1 << 61 | 1 << 56 | 1 << 55 | 0x12345)
    }

    /// An absent entry of level 1 or 2.
    fn absent(value: u64, level: u32, pagemap: u64) -> Answers {
        let text = format!(
            "entry 3 PDPTE pa 0x1000 value 0x2067 bits 18\nentry {level} PTE pa 0x2000 value {value:#x} bits 9\n\
             fault error_code 0x0\nsoftware absent slot 0x2000 value {value:#x} level {level}\n"
        );
        answers(&text, pagemap)
    }

    #[test]
    fn all_sorts_agree() {
        assert_eq!(judge(ADDR, &small()), Ok(Found::Small));
        assert_eq!(judge(ADDR, &absent(0, 1, 1 << 55)), Ok(Found::Hole));
        assert_eq!(judge(ADDR, &absent(0x60, 2, 0)), Ok(Found::Hole));
        // PROT_NONE: frame 0x12345 inverted; a large page of which ADDR is frame 0x89.
        let forbidden = !0x1234_5000u64 & FRAME | PROTNONE | 0x20;
        assert_eq!(
            judge(ADDR, &absent(forbidden, 1, PM_PRESENT | 0x12345)),
            Ok(Found::Forbidden)
        );
        let large = !0x1220_0000u64 & FRAME & !0x1f_ffff | PROTNONE | 0x80;
        let frame = 0x12200 + (ADDR >> 12 & 0x1ff);
        assert_eq!(
            judge(ADDR, &absent(large, 2, PM_PRESENT | frame)),
            Ok(Found::Forbidden)
        );
        // Swap device 3, slot 0x777.
        let swap = 3 << 59 | !0x777u64 << 14 >> 5;
        assert_eq!(
            judge(ADDR, &absent(swap, 1, PM_SWAP | 3 | 0x777 << 5)),
            Ok(Found::Swapped)
        );
        let large = "\
entry 3 PDPTE pa 0x1000 value 0x0000000002a00067 bits 18
entry 2 PDE pa 0x2000 value 0x80000000122000e7 bits 9
page pa 0x0000000012200000 size 2097152 perm rw-u
software leaf slot 0x2000 value 0x80000000122000e7 shift 21
";
        assert_eq!(
            judge(ADDR, &answers(large, PM_PRESENT | frame)),
            Ok(Found::Large)
        );
    }

    /// Each of the four, changed in one bit or one field, is noticed and shown.
    #[test]
    fn each_answer_counts() {
        let refused = |what: &str, change: &dyn Fn(&mut Answers)| {
            let mut wrong = small();
            change(&mut wrong);
            let why = judge(ADDR, &wrong).expect_err(what);
            let text = describe(ADDR, &why, &wrong);
            assert!(text.starts_with("0x123456789abc: "), "{text}");
            for who in ["core", "QEMU", "kernel", "pagemap"] {
                assert!(text.contains(&format!("\n  {who}")), "{who} in {text}");
            }
        };
        for bit in (0..55).chain([62, 63]) {
            refused("pagemap", &|a| a.pagemap = a.pagemap.map(|v| v ^ 1 << bit));
        }
        for bit in 0..64 {
            refused("entry", &|a| a.core.entries[2].value ^= 1 << bit);
            refused("entry of both", &|a| {
                a.core.entries[2].value ^= 1 << bit;
                a.qemu.entries[2].value ^= 1 << bit;
            });
            refused("QEMU's entry", &|a| a.qemu.entries[0].value ^= 1 << bit);
            refused("kernel's", &|a| {
                a.software.as_mut().unwrap().value ^= 1 << bit
            });
        }
        refused("width", &|a| a.qemu.entries[1].bits = 9);
        refused("place", &|a| a.core.entries[1].pa += 8);
        refused("order", &|a| a.qemu.entries.swap(0, 1));
        refused("length", &|a| a.core.entries.truncate(2));
        refused("slot", &|a| a.software.as_mut().unwrap().slot += 8);
        refused("size", &|a| a.software.as_mut().unwrap().shift = Some(21));
        refused("nothing", &|a| a.software.as_mut().unwrap().shift = None);
        refused("bad", &|a| {
            a.software = Err("a bad entry in level 4".into())
        });
        refused("end", &|a| a.qemu.end = End::Fault(0));
        refused("fault of both", &|a| {
            a.qemu.end = End::Fault(9);
            a.core.end = End::Fault(9);
        });
        refused("rights", &|a| {
            if let End::Page { perm, .. } = &mut a.qemu.end {
                *perm = "r--u".into();
            }
        });
        refused("no entries", &|a| {
            a.core.entries.clear();
            a.qemu.entries.clear();
        });
    }

    #[test]
    fn holes_are_not_pages() {
        for pagemap in [PM_PRESENT | 1, PM_SWAP | 1, 1] {
            assert!(judge(ADDR, &absent(0, 1, pagemap)).is_err());
        }
        let hidden = |pagemap| Answers {
            pfnmap: true,
            ..answers(TEXT, pagemap)
        };
        assert_eq!(judge(ADDR, &hidden(0)), Ok(Found::Small));
        assert!(judge(ADDR, &hidden(PM_PRESENT | 0x12345)).is_err());
        let swap = 3 << 59 | !0x777u64 << 14 >> 5;
        for pagemap in [0, PM_PRESENT | 3 | 0x777 << 5, PM_SWAP | 4 | 0x777 << 5] {
            assert!(judge(ADDR, &absent(swap, 1, pagemap)).is_err());
        }
    }

    fn look() -> Look {
        let sum = Sum {
            ptes: 1,
            pmds: 0,
            puds: 0,
            hash: 7,
        };
        let nodes = Shape {
            root: 0,
            mid: 1,
            bottom: 0,
            kib: 2048,
        };
        Look {
            answers: [(ADDR, small())].into(),
            sums: [sum; 3],
            shapes: [nodes; 2],
        }
    }

    #[test]
    fn sums_and_shapes_count() {
        let coverage = compare(&look()).unwrap();
        assert_eq!(coverage.of(Found::Small), 1);
        assert!(coverage.missing(Mode::L3L2).is_some());
        for n in 0..3 {
            let mut wrong = look();
            wrong.sums[n].hash ^= 1;
            assert!(compare(&wrong).unwrap_err().contains("sums"));
            let mut wrong = look();
            wrong.shapes[n % 2].mid += 1;
            assert!(compare(&wrong).unwrap_err().contains("counts"));
        }
        let mut other = look();
        assert_eq!(crossed(&look(), &other), 0);
        other.answers.insert(ADDR, absent(0, 1, 0));
        assert_eq!(crossed(&look(), &other), 1);
    }

    /// Hardware sees an empty slice where the kernel sees no table.
    #[test]
    fn empty_slices_are_holes() {
        let slot = |i: u64| 0x5000 + i * 8;
        let answers = |bits: u32, value: u64, slot: u64, level: u32| {
            let entries = "entry 3 PDPTE pa 0x1000 value 0x0010000000200067 bits 9\n";
            let last = format!("entry 1 PTE pa 0x203040 value {value:#x} bits {bits}\n");
            let end = "fault error_code 0x0\n";
            let walk = walk::parse(&format!("{entries}{last}{end}")).unwrap();
            Answers {
                core: walk.clone(),
                software: Ok(Software {
                    slot,
                    value: 0,
                    shift: None,
                    level: Level::from_number(level).unwrap(),
                }),
                qemu: walk,
                pagemap: Some(0),
                pfnmap: false,
            }
        };
        assert_eq!(judge(ADDR, &answers(18, 0, slot(3), 2)), Ok(Found::Hole));
        for (bits, value, slot, level) in [
            // A conventional table, another slice, another level, and something in the slice.
            (9, 0, slot(3), 2),
            (18, 0, slot(4), 2),
            (18, 0, slot(3), 3),
            (18, 0, slot(3), 1),
            (18, 2, slot(3), 2),
        ] {
            assert!(judge(ADDR, &answers(bits, value, slot, level)).is_err());
        }
    }
}
