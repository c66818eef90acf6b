// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask kcount`: kernel instructions over marked regions of a fixed program, counted exactly by a
//! QEMU plugin, per mode; compared with radix on the same image and, if asked, with the unpatched kernel.
//! How and why: docs/measuring.md.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use fpt_init::proto::Exec;
use serde::{Deserialize, Serialize};

use super::parts::{self, Parts};
use super::qemu::{self, Spec};
use super::results::{Case, Report};
use super::rundir::{self, RunDir};
use super::selftest::{build_parts, check_mode, print_failures};
use super::vm::Guest;
use crate::api::{code, modes, store, Ctx, Fail, Mode, Result};
use crate::build::{self, Kernel, Profile};

/// The region without work: what the plugin itself would add.
const NOTHING: &str = "nothing";

/// Against the unpatched kernel.
const RADIX_LIMITS: [(&str, f64); 9] = [
    ("vfork_exec_exit", 1.002),
    ("fork_exit", 1.002),
    ("touch_1gib", 1.002),
    ("munmap_1gib", 1.002),
    ("mprotect_512mib", 1.002),
    ("mremap_512mib", 1.002),
    ("file_64mib", 1.002),
    ("mmap_munmap", 1.002),
    ("fork_512mib", 1.002),
];

/// Against radix on the same image, policy eager.
const MODE_LIMITS: [(Mode, &str, f64); 15] = [
    (Mode::L4L3, "touch_1gib", 1.002),
    (Mode::L4L3, "munmap_1gib", 1.002),
    (Mode::L4L3, "fork_512mib", 1.002),
    (Mode::L4L3, "mmap_munmap", 1.00),
    (Mode::L3L2, "touch_1gib", 1.000),
    (Mode::L3L2, "munmap_1gib", 1.002),
    (Mode::L3L2, "vfork_exec_exit", 1.00),
    (Mode::L3L2, "fork_exit", 0.98),
    (Mode::L3L2, "mremap_512mib", 1.05),
    (Mode::L4L3L2L1, "touch_1gib", 0.997),
    // All that tables cost in it is a thousandth of it.
    (Mode::L4L3L2L1, "munmap_1gib", 1.000),
    (Mode::L4L3L2L1, "vfork_exec_exit", 1.00),
    (Mode::L4L3L2L1, "fork_exit", 0.98),
    (Mode::L4L3L2L1, "fork_512mib", 1.00),
    (Mode::L4L3L2L1, "mmap_munmap", 1.00),
];

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes to count [default: all]
    #[arg(long, value_delimiter = ',', value_parser = modes::Parser)]
    modes: Vec<Mode>,
    /// Count in this kernel, too
    #[arg(long, value_enum, value_name = "PROFILE")]
    kernel: Option<Unpatched>,
    /// Runs of each region; the smallest count stands
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// A sixteenth of the work: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Unpatched {
    Unpatched,
}

pub fn main(ctx: &Ctx, args: Args) -> Result<i32> {
    let modes = match args.modes.as_slice() {
        [] => Mode::ALL.to_vec(),
        some => some.to_vec(),
    };
    let kernel = parts::kernel(ctx, Profile::Fpt)?;
    let parts = build_parts(ctx, kernel)?;
    let unpatched = match args.kernel {
        Some(Unpatched::Unpatched) => {
            Some(match parts::named("FPT_VMLINUX_UNPATCHED", "kernel")? {
                Some(vmlinux) => Kernel {
                    vmlinux,
                    ..parts.kernel.clone()
                },
                None => build::kernel(ctx, Profile::Unpatched)?,
            })
        }
        None => None,
    };
    let run_count = Count {
        runs: args.runs,
        quick: args.quick,
        in_place: unpatched.is_some(),
    };
    if ctx.dry_run {
        let spec = run_count.spec(&parts.kernel, &parts, Mode::Radix, "libfpt_kcount.so");
        ctx.ui
            .command(&spec.command(&parts.qemu, &std::env::temp_dir().join("fpt")));
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "kcount")?;
    parts.record(&run);
    rundir::recorded(&run, || {
        let counts = run_count.all(ctx, &run, &parts, &modes, unpatched.as_ref())?;
        say!("", "{}", table(&counts));
        let mut report = Report::default();
        if !args.quick {
            report.cases = limits(&counts);
            run.results(&report)?;
            print_failures(ctx, &report);
            say!("\n", "limits: {}", report.summary());
        }
        Ok(
            if args.quick || report.count(super::results::Outcome::Failed) == 0 {
                code::OK
            } else {
                code::TEST_FAILED
            },
        )
    })
}

/// Counts of one region in one kernel and mode.
#[derive(Debug, Clone, Serialize)]
pub struct Region {
    pub name: String,
    /// One a run: kernel instructions, elements of string instructions included.
    pub kernel: Vec<u64>,
    pub user: Vec<u64>,
}

impl Region {
    fn figure(&self) -> u64 {
        self.kernel.iter().copied().min().unwrap_or(0)
    }

    /// Largest over smallest run.
    fn spread(&self) -> f64 {
        let (low, high) = (
            self.figure(),
            self.kernel.iter().copied().max().unwrap_or(0),
        );
        if low == 0 {
            1.0
        } else {
            high as f64 / low as f64
        }
    }
}

/// What the kernel was that counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The distribution's kernel.
    Unpatched,
    /// The patched kernel in this mode.
    Mode(Mode),
}

impl Column {
    const RADIX: Column = Column::Mode(Mode::Radix);

    fn name(self) -> &'static str {
        match self {
            Column::Unpatched => "unpatched",
            Column::Mode(mode) => mode.name(),
        }
    }

    /// What its kernel is told.
    fn mode(self) -> Mode {
        match self {
            Column::Unpatched => Mode::Radix,
            Column::Mode(mode) => mode,
        }
    }

    /// What it is compared with, if that was counted.
    fn base(self, counts: &Counts) -> Option<Column> {
        let base = match self {
            Column::Unpatched => return None,
            Column::RADIX => Column::Unpatched,
            Column::Mode(_) => Column::RADIX,
        };
        has(counts, base).then_some(base)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By column, in the order of the program.
pub type Counts = Vec<(Column, Vec<Region>)>;

fn has(counts: &Counts, column: Column) -> bool {
    counts.iter().any(|(c, _)| *c == column)
}

#[derive(Deserialize)]
struct Line {
    region: u32,
    run: u32,
    #[serde(default)]
    kernel: u64,
    #[serde(default)]
    user: u64,
    error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Count {
    pub runs: u32,
    pub quick: bool,
    /// Without random addresses: for two kernels, whose random addresses would not be the same. Whether stack and
    /// mappings share 512 GiB is a table more or less, 2 % of a fork.
    pub in_place: bool,
}

impl Count {
    fn spec(&self, kernel: &Kernel, parts: &Parts, mode: Mode, plugin: &str) -> Spec {
        Spec {
            kernel: kernel.vmlinux.clone(),
            initrd: parts.image.path.clone(),
            mode: Some(mode),
            // A second CPU's work would be counted in.
            smp: 1,
            mem: "3G".into(),
            // As quiet as can be without hiding a warning, which is to be seen.
            append: ["loglevel=5", "norandmaps"]
                .iter()
                .take(1 + usize::from(self.in_place))
                .map(ToString::to_string)
                .collect(),
            share: None,
            plugin: Some(plugin.to_string()),
            gdb: None,
            icount: Some(1),
            shared_ram: false,
            drives: Vec::new(),
        }
    }

    /// Radix first, then each mode, then the unpatched kernel.
    pub fn all(
        &self,
        ctx: &Ctx,
        run: &RunDir,
        parts: &Parts,
        modes: &[Mode],
        unpatched: Option<&Kernel>,
    ) -> Result<Counts> {
        let plugin = match parts::named("FPT_KCOUNT", "plugin")? {
            Some(path) => path,
            None => build::kcount(ctx, &build::qemu(ctx)?)?,
        };
        let mut columns = vec![(Column::RADIX, &parts.kernel)];
        let others = modes.iter().filter(|m| **m != Mode::Radix);
        columns.extend(others.map(|m| (Column::Mode(*m), &parts.kernel)));
        columns.extend(unpatched.map(|k| (Column::Unpatched, k)));
        let mut counts = Counts::new();
        for (column, kernel) in columns {
            let regions = self.one(ctx, run, parts, kernel, column, &plugin)?;
            counts.push((column, regions));
        }
        let text = serde_json::to_string_pretty(&serde_json::json!({
            "schema": 1,
            "runs": self.runs,
            "quick": self.quick,
            "columns": counts.iter().map(|(column, regions)| serde_json::json!({ "name": column.name(), "regions": regions })).collect::<Vec<_>>(),
        }))?;
        store::write_atomic(&run.path.join("kcount.json"), text.as_bytes())?;
        Ok(counts)
    }

    fn one(
        &self,
        ctx: &Ctx,
        run: &RunDir,
        parts: &Parts,
        kernel: &Kernel,
        column: Column,
        plugin: &Path,
    ) -> Result<Vec<Region>> {
        let out = run.path.join(format!("counts-{column}.jsonl"));
        let plugin = format!("{},out={}", qemu::comma(plugin), qemu::comma(&out));
        let stage = ctx
            .ui
            .stage(&format!("count kernel instructions: {column}"));
        let mut guest = Guest::start(
            ctx,
            run,
            &parts.qemu,
            &self.spec(kernel, parts, column.mode(), &plugin),
            column.name(),
        )?;
        guest.wait_ready(Some(&stage))?;
        if let Column::Mode(mode) = column {
            check_mode(&mut guest, mode)?;
        }
        let program = |args: &[&str]| Exec {
            argv: ["./kloops"]
                .iter()
                .chain(args)
                .map(|a| a.to_string())
                .collect(),
            cwd: Some("/selftests/fpt".into()),
            ..Exec::default()
        };
        let (exit, list) = guest.run(program(&["-l"]))?;
        if exit.status() != 0 {
            return Err(Fail::infra(
                "the counting program does not run",
                list,
                "see the console log",
            ));
        }
        let runs = self.runs.to_string();
        let mut args = vec!["-r", runs.as_str()];
        if self.quick {
            args.push("-q");
        }
        let (exit, said) = guest.run(program(&args))?;
        if exit.status() != 0 {
            return Err(Fail::test(
                format!(
                    "the counting program failed in {column} ({})",
                    exit.status()
                ),
                said,
                "see the console log",
            ));
        }
        guest.quit_clean()?;
        let text = std::fs::read_to_string(&out)
            .with_context(|| format!("cannot read {}", out.display()))?;
        let regions = collect(&list, &text, self.runs).map_err(|why| {
            Fail::test(
                format!("the counts of {column} are not whole"),
                why,
                format!("see {}", out.display()),
            )
        })?;
        stage.done("");
        Ok(regions)
    }
}

/// Every listed region must be there with all its runs, and the empty one must be empty.
fn collect(list: &str, lines: &str, runs: u32) -> Result<Vec<Region>, String> {
    let mut found: BTreeMap<u32, BTreeMap<u32, Line>> = BTreeMap::new();
    for text in lines.lines().filter(|l| !l.trim().is_empty()) {
        let line: Line = serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
        if let Some(error) = line.error {
            return Err(format!("region {}: {error}", line.region));
        }
        found.entry(line.region).or_default().insert(line.run, line);
    }
    let mut out = Vec::new();
    for text in list.lines().filter(|l| !l.trim().is_empty()) {
        let mut words = text.split_whitespace();
        let id: u32 = words
            .next()
            .and_then(|w| w.parse().ok())
            .ok_or_else(|| format!("the list says '{text}'"))?;
        let name = words
            .next()
            .ok_or_else(|| format!("the list says '{text}'"))?
            .to_string();
        let all = found
            .get(&id)
            .filter(|all| all.len() == runs as usize)
            .ok_or_else(|| format!("{name} has not {runs} runs"))?;
        let region = Region {
            name,
            kernel: all.values().map(|l| l.kernel).collect(),
            user: all.values().map(|l| l.user).collect(),
        };
        if region.name == NOTHING && region.kernel.iter().any(|k| *k != 0) {
            return Err(format!("the empty region counts {:?}", region.kernel));
        }
        if region.name != NOTHING && region.kernel.contains(&0) {
            return Err(format!("{} counts nothing", region.name));
        }
        out.push(region);
    }
    if out.is_empty() {
        return Err("no region".into());
    }
    Ok(out)
}

fn figure(counts: &Counts, column: Column, region: &str) -> Option<u64> {
    let (_, regions) = counts.iter().find(|(c, _)| *c == column)?;
    regions
        .iter()
        .find(|r| r.name == region)
        .map(Region::figure)
}

fn ratio(counts: &Counts, column: Column, base: Column, region: &str) -> Option<f64> {
    let (value, base) = (
        figure(counts, column, region)?,
        figure(counts, base, region)?,
    );
    (base > 0).then(|| value as f64 / base as f64)
}

pub fn table(counts: &Counts) -> String {
    let mut out = format!("{:<18}", "kernel instr.");
    for (column, _) in counts {
        out.push_str(&format!("{column:>15}"));
        if let Some(base) = column.base(counts) {
            out.push_str(&format!("{:>12}", format!("/{base}")));
        }
        out.push_str(&format!("{:>9}", "spread"));
    }
    out.push('\n');
    for region in counts.first().map_or(&[][..], |(_, r)| r) {
        out.push_str(&format!("{:<18}", region.name));
        for (column, regions) in counts {
            let value = regions.iter().find(|r| r.name == region.name);
            out.push_str(&format!(
                "{:>15}",
                value.map_or("-".into(), |r| r.figure().to_string())
            ));
            if let Some(base) = column.base(counts) {
                let text = ratio(counts, *column, base, &region.name)
                    .map_or("-".into(), |r| format!("{r:.4}"));
                out.push_str(&format!("{text:>12}"));
            }
            out.push_str(&format!(
                "{:>9}",
                value.map_or("-".into(), |r| format!("{:.4}", r.spread()))
            ));
        }
        out.push('\n');
    }
    out
}

/// One case for each limit that applies to what was counted.
pub fn limits(counts: &Counts) -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |column: Column, base: Column, region: &str, limit: f64| {
        let suite = format!("kcount {column}");
        let name = format!("{region} / {base} <= {limit}");
        out.push(match ratio(counts, column, base, region) {
            Some(ratio) if ratio <= limit => Case::new(
                &suite,
                &name,
                super::results::Outcome::Passed,
                format!("{ratio:.4}"),
                0,
            ),
            Some(ratio) => Case::failed(&suite, &name, format!("it is {ratio:.4}"), 0),
            None => Case::failed(&suite, &name, "was not counted", 0),
        });
    };
    if has(counts, Column::Unpatched) {
        for (region, limit) in RADIX_LIMITS {
            add(Column::RADIX, Column::Unpatched, region, limit);
        }
    }
    for (mode, region, limit) in MODE_LIMITS {
        let column = Column::Mode(mode);
        if has(counts, column) {
            add(column, Column::RADIX, region, limit);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "10 nothing no work\n11 fork_exit fork and exit\n";

    fn lines(kernel: u64) -> String {
        let one = |region, run, kernel| {
            format!("{{\"region\":{region},\"run\":{run},\"kernel\":{kernel},\"kernel_string\":0,\"user\":5}}\n")
        };
        [
            one(10, 0, 0),
            one(10, 1, 0),
            one(11, 0, kernel + 1),
            one(11, 1, kernel),
        ]
        .concat()
    }

    #[test]
    fn smallest_run_counts() {
        let regions = collect(LIST, &lines(1000), 2).unwrap();
        assert_eq!(regions[1].figure(), 1000);
        let l3l2 = Column::Mode(Mode::L3L2);
        let counts = vec![
            (Column::RADIX, regions),
            (l3l2, collect(LIST, &lines(990), 2).unwrap()),
        ];
        assert_eq!(ratio(&counts, l3l2, Column::RADIX, "fork_exit"), Some(0.99));
        let cases = limits(&counts);
        // 0.99 is over the limit of 0.98, and what was not counted is no pass.
        assert_eq!(cases.len(), 5);
        assert!(cases
            .iter()
            .all(|c| c.outcome == super::super::results::Outcome::Failed));
        assert!(table(&counts).contains("0.9900"));
    }

    #[test]
    fn broken_counts_are_refused() {
        assert!(collect(LIST, &lines(1000), 3).is_err());
        assert!(collect(LIST, &lines(0), 2).is_err());
        assert!(collect(
            LIST,
            &lines(1).replace(
                "\"region\":10,\"run\":1,\"kernel\":0",
                "\"region\":10,\"run\":1,\"kernel\":7"
            ),
            2
        )
        .is_err());
        assert!(collect(LIST, "{\"region\":11,\"run\":0,\"error\":\"marks\"}\n", 1).is_err());
        assert!(collect("", "", 1).is_err());
    }
}
