// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask agree`: four readings of the page tables of live processes, which must be one.
//!
//! * the Rust core's two walks (the processor's and the kernel's) over guest memory, read from outside by
//!   `fpt-look` while the guest stands still;
//! * QEMU's walk (`info walk`) at the same moment;
//! * /proc/PID/pagemap, for every address that is asked for;
//! * the kernel's two generic walkers (debugfs `emt/check`), as a sum over each entry of the address space that
//!   the core has to arrive at, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fpt_geometry::geometry::NODE_BITS;
use fpt_geometry::{Level, NodeKind};
use fpt_init::proto::Exec;
use fpt_init::sample::TOKEN;
use serde::Serialize;

use super::walk::{self, End, Walk};
use fpt_geometry::Mode;
use fpt_kbuild::build::{self, Profile};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, fail, locked, store, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::subject::check_mode;
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::Spec;
use fpt_vm::vm::Guest;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas [default: all]
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::Parser)]
    mode: Vec<Mode>,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
}

/// Where the kernel's walk ends, by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Software {
    pub slot: u64,
    pub value: u64,
    /// log2 of the page's size; `None`: nothing that the processor can use.
    pub shift: Option<u32>,
    /// Level of the entry.
    pub level: Level,
}

/// Everything that is known of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answers {
    pub core: Walk,
    /// Why the core's walk of the kernel's kind failed, if it did.
    pub software: Result<Software, String>,
    pub qemu: Walk,
    /// Nothing for addresses of the kernel.
    pub pagemap: Option<u64>,
    /// In a mapping of frames without pages: pagemap takes it for a hole, whatever is there.
    pub pfnmap: bool,
}

/// What lies at an address where all agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    Small,
    Large,
    Giant,
    /// In memory, and the processor may not.
    Forbidden,
    Swapped,
    Hole,
}

const FRAME: u64 = 0x000f_ffff_ffff_f000;
const PROTNONE: u64 = 1 << 8;
const PM_PRESENT: u64 = 1 << 63;
const PM_SWAP: u64 = 1 << 62;
const PM_FRAME: u64 = (1 << 55) - 1;
const PM_ENTRY: u64 = PM_PRESENT | PM_SWAP | PM_FRAME;

/// What Linux' pagemap has to say where its walk ends with this entry.
fn pagemap_of(software: &Software, addr: u64) -> (u64, Found) {
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
fn both_empty(hardware: &walk::Entry, software: &Software) -> bool {
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
struct Look {
    answers: BTreeMap<u64, Answers>,
    /// By the core, and by each of the kernel's walkers.
    sums: [Sum; 3],
    /// By the core's traversal, and by the kernel's counters.
    shapes: [Shape; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Sum {
    ptes: u64,
    pmds: u64,
    puds: u64,
    hash: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Shape {
    root: u64,
    mid: u64,
    bottom: u64,
    /// All tables, a conventional root left out.
    kib: u64,
}

fn odd(what: &str, text: &str) -> anyhow::Error {
    Fail::infra(
        format!("{what} is not understood"),
        format!("'{}'", text.trim()),
        "are kernel, QEMU and this tool of one checkout?",
    )
}

/// `WORD pte 1 pmd 2 pud 3 hash 4` by word.
fn sum(line: &str) -> Option<(&str, Sum)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [who, "pte", ptes, "pmd", pmds, "pud", puds, "hash", hash] => Some((
            who,
            Sum {
                ptes: ptes.parse().ok()?,
                pmds: pmds.parse().ok()?,
                puds: puds.parse().ok()?,
                hash: u64::from_str_radix(hash, 16).ok()?,
            },
        )),
        _ => None,
    }
}

/// `root 1 mid 2 bottom 3`, and `VmPTE: 4 kB` or `kib 4`.
fn shape(text: &str) -> Option<Shape> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(Shape {
        root: value(NodeKind::Root.name())?,
        mid: value(NodeKind::Mid.name())?,
        bottom: value(NodeKind::Bottom.name())?,
        kib: value("VmPTE:").or_else(|| value("kib"))?,
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// `software leaf|absent slot S value V shift|level N`, or `software bad level N`.
fn software(line: &str) -> Option<Result<Software, String>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["software", sort, "slot", slot, "value", value, key, n] => {
            let n: u32 = n.parse().ok()?;
            let (shift, level) = match (*sort, *key) {
                ("leaf", "shift") => (Some(n), Level::from_shift(n)?),
                ("absent", "level") => (None, Level::from_number(n)?),
                _ => return None,
            };
            Some(Ok(Software {
                slot: hex(slot)?,
                value: hex(value)?,
                shift,
                level,
            }))
        }
        ["software", "bad", "level", n] => Some(Err(format!("a bad entry in level {n}"))),
        _ => None,
    }
}

/// `vmemmap 0xADDR page N word1 N`: where the kernel has its `struct page`s, for `fpt-look`.
fn layout(text: &str) -> Option<[String; 3]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["vmemmap", vmemmap, "page", page, "word1", word1] = words.as_slice() else {
        return None;
    };
    hex(vmemmap)?;
    let decimal = |word: &str| word.parse::<u64>().ok();
    (decimal(page)? > decimal(word1)?).then(|| [vmemmap, page, word1].map(|w| w.to_string()))
}

/// The value of a register in `info registers`.
fn register(text: &str, name: &str) -> Option<u64> {
    let at = text.find(&format!("{name}="))? + name.len() + 1;
    let end = text[at..]
        .find(|c: char| !c.is_ascii_hexdigit())
        .map_or(text.len(), |n| at + n);
    u64::from_str_radix(&text[at..end], 16).ok()
}

/// The file that is the guest's memory: an open one of QEMU's.
fn memory(pid: u32) -> Result<PathBuf> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let context = || format!("cannot look into {}", dir.display());
    for entry in std::fs::read_dir(&dir).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let link = std::fs::read_link(&path).unwrap_or_default();
        if link.to_string_lossy().contains("memory-backend-memfd") {
            return Ok(path);
        }
    }
    Err(Fail::infra(
        "QEMU's guest memory is not found",
        format!("no memory-backend-memfd in {}", dir.display()),
        "",
    ))
}

/// Some addresses of the kernel: they are in every process's tables, and no flattened root covers them.
const KERNEL: [u64; 8] = [
    0xffff_8880_0000_0000,
    0xffff_8880_0123_4567,
    0xffff_8880_7fff_f000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8100_0000,
    0xffff_ffff_8123_4567,
    0xffff_ffff_ff60_0000,
    0xffff_ffff_ffff_f000,
];

struct Session<'a> {
    run: &'a RunDir,
    look: &'a Path,
    guest: Guest,
    mode: Mode,
    phys_bits: u32,
    /// Numbers of debugfs `fpt/layout`.
    layout: [String; 3],
}

/// What the guest says of a process; equal before and after means that it stood still.
#[derive(PartialEq, Eq)]
struct Said {
    areas: Vec<(u64, u64)>,
    pfnmaps: Vec<(u64, u64)>,
    pages: Vec<(u64, u64)>,
    sums: [Sum; 2],
    shape: Shape,
}

impl Said {
    /// The first difference.
    fn change(&self, after: &Said) -> String {
        let page = self.pages.iter().zip(&after.pages).find(|(a, b)| a != b);
        match page {
            _ if self.areas != after.areas => "other mappings".into(),
            Some(((addr, a), (_, b))) => format!("pagemap of {addr:#x}: {a:#x}, {b:#x}"),
            None => format!(
                "{:x?} {:?}, {:x?} {:?}",
                self.sums, self.shape, after.sums, after.shape
            ),
        }
    }
}

impl Session<'_> {
    fn read(&mut self, pid: u32) -> Result<Said> {
        let (exit, text) = self.guest.run(Exec {
            argv: vec!["/init".into(), "agree-read".into(), pid.to_string()],
            timeout_s: 60,
            ..Exec::default()
        })?;
        let (mut areas, mut pfnmaps, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let pair = |a, b| Some((hex(a)?, hex(b)?));
            let put = match words.as_slice() {
                ["end"] => {
                    ended = true;
                    Some(())
                }
                // hugetlb has walks of its own in the kernel, which pagemap shows.
                ["hugetlb", ..] => Some(()),
                ["area", a, b] => pair(a, b).map(|p| areas.push(p)),
                ["pfnmap", a, b] => pair(a, b).map(|p| {
                    areas.push(p);
                    pfnmaps.push(p);
                }),
                // The other bits tell of the page, not of the entry: who else maps it, among others.
                ["page", a, b] => pair(a, b).map(|(a, v)| pages.push((a, v & PM_ENTRY))),
                _ => None,
            };
            put.ok_or_else(|| odd("the guest's list of pages", line))?;
        }
        if exit.status() != 0 || !ended {
            return Err(odd("the guest's list of pages", &text));
        }
        let text = self.guest.shell(&format!(
            "cd /sys/kernel/debug; echo {pid} >emt/check; cat emt/check"
        ))?;
        let of = |who: &str| {
            text.lines()
                .filter_map(sum)
                .find(|(name, _)| *name == who)
                .map(|(_, sum)| sum)
                .ok_or_else(|| odd("emt/check", &text))
        };
        let sums = [of("tentry")?, of("pagewalk")?];
        let said = match text.lines().last() {
            Some("equal") => sums[0] == sums[1],
            Some("differ") => sums[0] != sums[1],
            _ => false,
        };
        if !said {
            return Err(odd("emt/check", &text));
        }
        let text = self.guest.shell(&format!(
            "cd /sys/kernel/debug/fpt; echo {pid} >mm; cat mm; grep VmPTE /proc/{pid}/status"
        ))?;
        let shape = shape(&text).ok_or_else(|| odd("fpt/mm", &text))?;
        Ok(Said {
            areas,
            pfnmaps,
            pages,
            sums,
            shape,
        })
    }

    /// Stops the guest when process `pid` is on the CPU, in its loop; the registers.
    fn stop(&mut self, pid: u32) -> Result<String> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            self.guest.monitor("stop")?;
            let registers = self.guest.monitor("info registers")?;
            let token = Some(TOKEN | u64::from(pid));
            if registers.contains("CPL=3") && register(&registers, "R12") == token {
                return Ok(registers);
            }
            self.guest.monitor("cont")?;
            // Another length each time: the scheduler's clock must not be in step with this one.
            let ms = 3 + start.elapsed().subsec_micros() % 11;
            std::thread::sleep(Duration::from_millis(u64::from(ms)));
        }
        Err(Fail::test(
            format!("process {pid} was never seen on the CPU"),
            "it should be in a loop in user mode",
            "see the console log",
        ))
    }

    /// All that is known of a process at one moment.
    fn look(&mut self, pid: u32, who: &str) -> Result<Look> {
        let mut before = self.read(pid)?;
        let mut moved = String::new();
        for _ in 0..4 {
            // It runs only while it is looked for: the CPU is the readers' else.
            self.guest.shell(&format!("kill -CONT {pid}"))?;
            let registers = self.stop(pid)?;
            let seen = self.outside(&registers, &before, who);
            self.guest.monitor("cont")?;
            let seen = seen?;
            self.guest.shell(&format!("kill -STOP {pid}"))?;
            let after = self.read(pid)?;
            if before == after {
                return Ok(seen);
            }
            moved = before.change(&after);
            before = after;
        }
        Err(Fail::test(
            format!("the page tables of process {pid} never stand still"),
            format!("the kernel said before and after the last look: {moved}"),
            "",
        ))
    }

    /// The core and QEMU, while the guest stands still.
    fn outside(&mut self, registers: &str, said: &Said, who: &str) -> Result<Look> {
        let value = |name: &str| {
            register(registers, name)
                .ok_or_else(|| odd("the monitor's list of registers", registers))
        };
        let (cr3, cr4, efer) = (value("CR3")?, value("CR4")?, value("EFER")?);
        let pagemap: BTreeMap<u64, u64> = said.pages.iter().copied().collect();
        let addresses: Vec<u64> = pagemap.keys().copied().chain(KERNEL).collect();

        let mut ask = String::new();
        for addr in &addresses {
            let _ = writeln!(ask, "walk {addr:#x}");
        }
        for (start, end) in &said.areas {
            let _ = writeln!(ask, "area {start:#x} {end:#x}");
        }
        ask.push_str("sum\nshape\n");
        let file = self.run.path.join(format!("agree-{}-{who}.ask", self.mode));
        store::write_atomic(&file, ask.as_bytes())?;
        let cmd = Cmd::new(self.look)
            .arg(memory(self.guest.pid())?)
            .args([cr3, cr4, efer].map(|v| format!("{v:#x}")))
            .arg(self.phys_bits.to_string())
            .args(&self.layout)
            .stdin(&file);
        let text = cmd.read()?;
        let mut blocks = text.split_inclusive("ok\n");
        let mut block = || match blocks.next() {
            Some(b) if b.ends_with("ok\n") && !b.contains("error: ") => Ok(b),
            other => Err(Fail::test(
                format!("{}, {who}: the core refuses these tables", self.mode),
                other.unwrap_or("no answer").trim().to_string(),
                format!("its questions: {}", file.display()),
            )),
        };

        let mut answers = BTreeMap::new();
        for addr in addresses {
            let text = block()?;
            let line = text.lines().find(|l| l.starts_with("software"));
            let software = line
                .and_then(software)
                .ok_or_else(|| odd("fpt-look's answer", text))?;
            let qemu = self
                .guest
                .monitor(&format!("info walk {addr:#x} {cr3:#x} {cr4:#x}"))?;
            answers.insert(
                addr,
                Answers {
                    core: walk::parse(text)?,
                    software,
                    qemu: walk::parse(&qemu)?,
                    pagemap: pagemap.get(&addr).copied(),
                    pfnmap: said.pfnmaps.iter().any(|(a, b)| (*a..*b).contains(&addr)),
                },
            );
        }
        for _ in &said.areas {
            block()?;
        }
        let text = block()?;
        let (_, core) = text
            .lines()
            .find_map(sum)
            .ok_or_else(|| odd("fpt-look's sum", text))?;
        let text = block()?;
        let mut nodes = shape(text).ok_or_else(|| odd("fpt-look's shape", text))?;
        // Each transparent huge page keeps a table that is in no tree, for the time when it is split.
        nodes.kib += 4 * core.pmds;
        let [tentry, pagewalk] = said.sums;
        Ok(Look {
            answers,
            sums: [core, tentry, pagewalk],
            shapes: [nodes, said.shape],
        })
    }
}

/// What was compared, so that a run in which something never occurred is a failure.
#[derive(Debug, Default)]
struct Coverage {
    found: BTreeMap<Found, usize>,
    /// Small pages by the number of entries that hardware visits.
    visits: BTreeMap<usize, usize>,
    kernel_pages: usize,
    entries: u64,
}

impl Coverage {
    fn of(&self, found: Found) -> usize {
        self.found.get(&found).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Coverage) {
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
    fn missing(&self, mode: Mode) -> Option<String> {
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
fn compare(look: &Look) -> Result<Coverage, String> {
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
fn crossed(one: &Look, other: &Look) -> usize {
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

fn spec(parts: &Parts, mode: Mode) -> Spec {
    Spec {
        kernel: parts.kernel.vmlinux.clone(),
        initrd: parts.image.path.clone(),
        mode: Some(mode),
        // One CPU: a process that is in its loop there is the only one.
        smp: 1,
        // Below the hole for devices, so that the file's offsets are physical addresses.
        mem: "2G".into(),
        append: Vec::new(),
        share: None,
        plugin: None,
        gdb: None,
        icount: None,
        shared_ram: true,
        drives: Vec::new(),
    }
}

/// Swap, huge pages, and order-9 allocations that fail for tasks that ask for it.
const PREPARE: &str = "\
echo 256M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0 &&
echo 3 >/proc/sys/vm/nr_hugepages && echo madvise >/sys/kernel/mm/transparent_hugepage/enabled &&
cd /sys/kernel/debug/fail_page_alloc && echo Y >task-filter && echo 9 >min-order && echo -1 >times &&
echo 1 >interval && echo 0 >verbose && echo 100 >probability";

/// One mode: the processes of `agree-target`. The inner error is a difference, in full.
fn one(
    ctx: &Ctx,
    run: &RunDir,
    parts: &Parts,
    look: &Path,
    mode: Mode,
) -> Result<Result<String, String>> {
    let name = format!("agree-{mode}");
    let mut guest = Guest::start(ctx, run, &parts.qemu, &spec(parts, mode), &name)?;
    guest.wait_ready(None)?;
    check_mode(&mut guest, mode)?;
    guest.shell(PREPARE)?;
    let bits = guest.shell("grep -m1 'address sizes' /proc/cpuinfo")?;
    let bits = bits
        .split_once(':')
        .and_then(|(_, b)| b.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| odd("/proc/cpuinfo", &bits))?;
    let text = guest.shell("cat /sys/kernel/debug/fpt/layout")?;
    let layout = layout(&text).ok_or_else(|| odd("fpt/layout", &text))?;
    let id = guest.new_id();
    guest.start_exec(Exec {
        id,
        argv: vec!["/init".into(), "agree-target".into()],
        ..Exec::default()
    })?;
    let line = guest.wait_line(id, "targets ", Duration::from_secs(120))?;
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let mut targets = Vec::new();
    for pair in words.chunks(2) {
        match pair {
            [who, pid] if pid.parse::<u32>().is_ok() => targets.push((*who, pid.parse::<u32>()?)),
            _ => return Err(odd("the program in the guest", &line)),
        }
    }
    let mut session = Session {
        run,
        look,
        guest,
        mode,
        phys_bits: bits,
        layout,
    };
    for (_, pid) in &targets {
        session.guest.shell(&format!("kill -STOP {pid}"))?;
    }
    let mut looks = Vec::new();
    for (who, pid) in targets {
        looks.push((who, session.look(pid, who)?));
    }
    let mut said = Vec::new();
    let mut all = Coverage::default();
    for (who, look) in &looks {
        let coverage = match compare(look) {
            Ok(coverage) => coverage,
            Err(why) => {
                let text = serde_json::to_string(&look.answers)?;
                let file = run.path.join(format!("agree-{mode}-{who}.json"));
                store::write_atomic(&file, text.as_bytes())?;
                return Ok(Err(format!("{who}: {why}all answers: {}", file.display())));
            }
        };
        let visits: Vec<String> = coverage
            .visits
            .iter()
            .map(|(n, count)| format!("{count} in {n}"))
            .collect();
        said.push(format!(
            "{who}: {} addresses (4 KiB pages by entries visited: {}; large {}, forbidden {}, swapped {}, holes {}), {} entries in the sum",
            look.answers.len(),
            visits.join(", "),
            coverage.of(Found::Large) + coverage.of(Found::Giant),
            coverage.of(Found::Forbidden),
            coverage.of(Found::Swapped),
            coverage.of(Found::Hole),
            coverage.entries,
        ));
        all.add(&coverage);
    }
    if let Some(what) = all.missing(mode) {
        return Ok(Err(format!("too little to compare: {what}")));
    }
    let [(_, first), (_, second), ..] = looks.as_slice() else {
        return Err(odd("the program in the guest", &line));
    };
    let differ = crossed(first, second);
    if differ == 0 {
        let why =
            "the comparison sees nothing: the parent's pagemap agrees with the child's tables";
        return Ok(Err(why.into()));
    }
    said.push(format!(
        "{differ} differ between parent and child, as they must"
    ));
    session.guest.quit_clean()?;
    Ok(Ok(said.join("; ")))
}

/// Every mode, two guests at a time.
pub fn cases(ctx: &Ctx, run: &RunDir, parts: &Parts, modes: &[Mode]) -> Result<Vec<Case>> {
    let target = build::cargo(
        ctx,
        "build fpt-look",
        &["build", "--release", "-p", "fpt-host", "--bin", "fpt-look"],
        &[],
    )?;
    let look = target.join("release/fpt-look");
    let next = Mutex::new(modes.iter().copied());
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..ctx.guests_or(2).min(modes.len()) {
            scope.spawn(|| loop {
                let mode = locked(&next).next();
                let Some(mode) = mode else { return };
                let start = Instant::now();
                let result = one(ctx, run, parts, &look, mode);
                let ms = start.elapsed().as_millis() as u64;
                let case = match result {
                    Ok(Ok(detail)) => Case::new("agree", mode.name(), Outcome::Passed, detail, ms),
                    Ok(Err(why)) => Case::failed("agree", mode.name(), why, ms),
                    Err(err) => Case::failed("agree", mode.name(), fail::report(&err).0, ms),
                };
                locked(&done).insert(mode, case);
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    let missing = |mode: &Mode| Case::failed("agree", mode.name(), "it did not run", 0);
    Ok(modes
        .iter()
        .map(|m| done.remove(m).unwrap_or_else(|| missing(m)))
        .collect())
}

pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let modes = match args.mode.as_slice() {
        [] => Mode::ALL.to_vec(),
        some => modes::each_once(some),
    };
    for mode in &modes {
        args.profile.check_mode(*mode)?;
    }
    let parts = Parts {
        kernel: parts::kernel(ctx, args.profile)?,
        qemu: parts::qemu(ctx, false)?,
        image: parts::image(ctx, |_| Ok(()))?,
    };
    if ctx.dry_run {
        for mode in &modes {
            ctx.ui.command(
                &spec(&parts, *mode).command(&parts.qemu, &std::env::temp_dir().join("fpt")),
            );
        }
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "agree")?;
    parts.record(&run);
    rundir::recorded(&run, || {
        let report = Report {
            cases: cases(ctx, &run, &parts, &modes)?,
        };
        run.results(&report)?;
        for case in report.cases.iter().filter(|c| c.outcome == Outcome::Passed) {
            say!("\n", "{}:", case.name);
            for part in case.detail.split("; ") {
                say!("\n", "  {part}");
            }
        }
        print_failures(ctx, &report);
        Ok(report.conclude())
    })
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn lines() {
        assert_eq!(
            sum("tentry   pte 10 pmd 2 pud 0 hash 00000000000000ff\n"),
            Some((
                "tentry",
                Sum {
                    ptes: 10,
                    pmds: 2,
                    puds: 0,
                    hash: 255
                }
            ))
        );
        assert_eq!(sum("equal"), None);
        let text =
            "EAX=1 CR3=0010000012345000 CR4=40000020\nR12=46500000000000ff\nEFER=0000000000000d01";
        assert_eq!(register(text, "CR3"), Some(0x0010_0000_1234_5000));
        assert_eq!(register(text, "R12"), Some(TOKEN | 0xff));
        assert_eq!(register(text, "EFER"), Some(0xd01));
        assert_eq!(register(text, "CR8"), None);
        assert!(software("software leaf slot 0x1 value 0x2 level 1").is_none());
        assert!(software("software bad level 4").unwrap().is_err());
        assert!(software("").is_none());
        let numbers = ["0xffffea0000000000", "64", "8"].map(String::from);
        let line = "vmemmap 0xffffea0000000000 page 64 word1 8\n";
        assert_eq!(layout(line), Some(numbers));
        for bad in [
            "",
            "vmemmap 0xffffea0000000000 page 64",
            "vmemmap ffffea0000000000 page 64 word1 8",
            "vmemmap 0xffffea0000000000 page 64 word1 64",
            "cat: can't open 'layout': No such file or directory",
        ] {
            assert_eq!(layout(bad), None, "{bad}");
        }
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
