// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask agree`: four readings of the page tables of live processes, which must be one.
//!
//! * the Rust core's two walks (the processor's and the kernel's) over guest memory, read from outside by
//!   `fpt-look` while the guest stands still;
//! * QEMU's walk (`info walk`) at the same moment;
//! * /proc/PID/pagemap, for every address that is asked for;
//! * the kernel's two generic walkers (debugfs `emt/check`), as a sum over each entry of the address space that
//!   the core has to arrive at, too.

mod answers;
mod words;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fpt_init::proto::Exec;
use fpt_init::sample::TOKEN;

use super::walk;
use fpt_geometry::Mode;
use fpt_kbuild::build::{self, Profile};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, fail, lanes, store, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::sanitize::{self, Sanitize, Watched};
use fpt_lab::subject::check_mode;
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::Spec;
use fpt_vm::tables;
use fpt_vm::vm::Guest;

use answers::{compare, crossed, Coverage, Look, Shape, Sum, PM_ENTRY};
pub use answers::{describe, judge, Answers, Found, Software};
use words::{hex, layout, odd, register, shape, software, sum};

/// Compare four readings of live processes' page tables, in every mode.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas [default: all]
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::Parser)]
    mode: Vec<Mode>,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    // No doc comment: rustdoc would take the brackets for links.
    #[arg(long, value_name = "tlb", help = sanitize::HELP)]
    sanitize: Option<Sanitize>,
}

/// The guests' memory: below the hole for devices, so that the file's offsets are physical addresses.
const MEM: &str = "2G";

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

fn spec(parts: &Parts, mode: Mode) -> Spec {
    Spec {
        mode: Some(mode.into()),
        // One CPU: a process that is in its loop there is the only one.
        smp: 1,
        mem: MEM.into(),
        shared_ram: true,
        ..parts.spec()
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
    watched: Option<&Watched>,
) -> Result<Result<String, String>> {
    let name = format!("agree-{mode}");
    let mut spec = spec(parts, mode);
    if let Some(watched) = watched {
        watched.attach(&run.path, &name, &parts.qemu, &mut spec);
    }
    let mut guest = Guest::start(ctx, run, &parts.qemu, &spec, &name)?;
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

/// Every mode, two guests at a time, under the flush sanitizer if there is one.
pub fn cases(
    ctx: &Ctx,
    run: &RunDir,
    parts: &Parts,
    modes: &[Mode],
    watched: Option<&Watched>,
) -> Result<Vec<Case>> {
    let target = build::cargo(
        ctx,
        "build fpt-look",
        &["build", "--release", "-p", "fpt-host", "--bin", "fpt-look"],
        &[],
    )?;
    let look = target.join("release/fpt-look");
    let mut cases = lanes::each(ctx.guests_or(2), modes.iter().copied(), |mode| {
        let start = Instant::now();
        let result = one(ctx, run, parts, &look, mode, watched);
        let ms = start.elapsed().as_millis() as u64;
        match result {
            Ok(Ok(detail)) => Case::new("agree", mode.name(), Outcome::Passed, detail, ms),
            Ok(Err(why)) => Case::failed("agree", mode.name(), why, ms),
            Err(err) => Case::failed("agree", mode.name(), fail::report(&err).0, ms),
        }
    });
    cases.extend(watched.map_or(Vec::new(), |w| w.cases(&run.path)));
    Ok(cases)
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let modes = match args.mode.as_slice() {
        [] => Mode::ALL.to_vec(),
        some => modes::each_once(some),
    };
    for mode in &modes {
        args.profile.check_mode(*mode)?;
    }
    let watched = Watched::new(ctx, args.sanitize.as_ref(), MEM)?;
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
    ctx.ui.info(&tables::all_described(&modes, &[]));
    let run = RunDir::new(ctx, "agree")?;
    parts.record(&run);
    rundir::recorded(&run, || {
        let report = Report {
            cases: cases(ctx, &run, &parts, &modes, watched.as_ref())?,
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
