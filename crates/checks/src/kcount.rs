// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask kcount`: kernel instructions over marked regions of a fixed program, counted exactly by a
//! QEMU plugin: modes compared with radix on the same image and, if asked, radix with the unpatched kernel.
//! How and why: docs/explanation/measuring.md.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use fpt_init::proto::Exec;
use serde::{Deserialize, Serialize};

use fpt_geometry::{Boot, Mode};
use fpt_kbuild::build::{self, Profile, Targets};
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, lanes, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::nodes;
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::build_parts;
use fpt_lab::subject::{Kernels, OtherKernel, Subject};
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::{self, Spec};
use fpt_vm::tables;
use fpt_vm::vm::Guest;

/// The region without work: what the plugin itself would add.
const NOTHING: &str = "nothing";

/// Against the unpatched kernel.
const RADIX_LIMITS: [(&str, f64); 12] = [
    ("vfork_exec_exit", 1.002),
    ("fork_exit", 1.002),
    // A fault asks a plain table nothing, which the unpatched kernel does.
    ("touch_1gib", 0.980),
    ("munmap_1gib", 1.002),
    ("mprotect_512mib", 1.002),
    ("mremap_512mib", 1.002),
    ("file_64mib", 1.002),
    ("mmap_munmap", 1.002),
    ("fork_512mib", 1.002),
    // The iterator steps over empty windows by itself.
    ("sparse_munmap", 1.000),
    ("sparse_mprotect", 1.000),
    ("sparse_fork", 1.000),
];

/// Against radix on the same image, policy eager. Regions that are mostly tables have a limit that
/// says what tables save; all others must cost what radix costs. Where the stack and the mappings of
/// the program lie is another matter in each boot, and with it how many tables exec and fork need: those
/// limits leave room for 2 %.
const MODE_LIMITS: [(Mode, &str, f64); 37] = [
    // Radix saves the same questions, so that no mode saves more at first touch.
    (Mode::L4L3, "touch_1gib", 1.003),
    (Mode::L4L3, "munmap_1gib", 1.002),
    (Mode::L4L3, "vfork_exec_exit", 1.003),
    (Mode::L4L3, "fork_exit", 1.003),
    (Mode::L4L3, "fork_512mib", 1.002),
    (Mode::L4L3, "mprotect_512mib", 1.002),
    (Mode::L4L3, "mmap_munmap", 0.94),
    (Mode::L4L3, "sparse_mprotect", 1.02),
    (Mode::L4L3, "sparse_fork", 1.02),
    (Mode::L3L2, "touch_1gib", 1.005),
    (Mode::L3L2, "munmap_1gib", 1.002),
    (Mode::L3L2, "vfork_exec_exit", 1.00),
    (Mode::L3L2, "fork_exit", 1.00),
    (Mode::L3L2, "fork_512mib", 1.003),
    (Mode::L3L2, "mprotect_512mib", 1.002),
    (Mode::L3L2, "mremap_512mib", 1.05),
    (Mode::L3L2, "file_64mib", 1.004),
    (Mode::L3L2, "mmap_munmap", 0.95),
    (Mode::L3L2, "sparse_touch", 1.00),
    (Mode::L3L2, "sparse_munmap", 1.02),
    (Mode::L3L2, "sparse_mprotect", 1.02),
    (Mode::L3L2, "sparse_fork", 1.02),
    (Mode::L4L3L2L1, "touch_1gib", 1.005),
    // All that tables cost in it is a thousandth of it.
    (Mode::L4L3L2L1, "munmap_1gib", 1.000),
    (Mode::L4L3L2L1, "vfork_exec_exit", 0.98),
    (Mode::L4L3L2L1, "fork_exit", 0.94),
    (Mode::L4L3L2L1, "fork_512mib", 1.00),
    (Mode::L4L3L2L1, "mprotect_512mib", 1.002),
    // The other GiB's node is not made to be given up at once.
    (Mode::L4L3L2L1, "mremap_512mib", 2.2),
    (Mode::L4L3L2L1, "file_64mib", 1.002),
    (Mode::L4L3L2L1, "mmap_munmap", 0.88),
    // A node for a page: zeroing 2 MiB is what it costs. What comes after walks an index page.
    (Mode::L4L3L2L1, "sparse_touch", 70.0),
    (Mode::L4L3L2L1, "sparse_munmap", 1.6),
    (Mode::L4L3L2L1, "sparse_mprotect", 1.02),
    (Mode::L4L3L2L1, "sparse_fork", 1.05),
    (Mode::L4L3, "sparse_touch", 1.05),
    (Mode::L4L3, "sparse_munmap", 1.02),
];

/// Count kernel instructions over marked regions.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes to count, separated by commas [default: all]
    #[arg(long = "mode", alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::Parser)]
    modes: Vec<Mode>,
    /// Count in this kernel, too, and compare radix with it: two boots more
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Option<OtherKernel>,
    /// Runs of each region; the smallest count stands
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// A sixteenth of the work: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let modes = match args.modes.as_slice() {
        [] => Mode::ALL.to_vec(),
        some => modes::each_once(some),
    };
    let kernel = parts::kernel(ctx, Profile::Fpt)?;
    let parts = build_parts(ctx, kernel, &Targets::ours())?;
    let unpatched = match args.kernel {
        Some(OtherKernel::Unpatched) => Some(parts::unpatched(ctx)?),
        None => None,
    };
    let kernels = Kernels {
        ours: &parts.kernel,
        unpatched: unpatched.as_ref(),
    };
    let run_count = Count {
        runs: args.runs,
        quick: args.quick,
    };
    if ctx.dry_run {
        for (placement, subjects) in groups(&modes, kernels) {
            for subject in subjects {
                let spec =
                    run_count.spec(&parts, kernels, (placement, subject), "libfpt_kcount.so")?;
                ctx.ui
                    .command(&spec.command(&parts.qemu, &std::env::temp_dir().join("fpt")));
            }
        }
        return Ok(code::OK);
    }
    ctx.ui.info(&tables::all_described(&modes, &[]));
    let run = RunDir::new(ctx, "kcount")?;
    parts.record(&run);
    if let Some(kernel) = &unpatched {
        run.set("kernel_unpatched", parts::kernel_facts(kernel));
    }
    rundir::recorded(&run, || {
        let counts = run_count.all(ctx, &run, &parts, &modes, kernels)?;
        say!("", "{}", tables(&counts, args.quick));
        let mut report = Report::default();
        if !args.quick {
            report.cases = limits(&counts);
            run.results(&report)?;
            print_failures(ctx, &report);
            say!("\n", "limits: {}", report.summary());
        }
        Ok(
            if args.quick || report.count(fpt_verdict::results::Outcome::Failed) == 0 {
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
    /// The name of the mark.
    pub name: String,
    /// One a run: kernel instructions, elements of string instructions included.
    pub kernel: Vec<u64>,
    /// The same for instructions in user mode.
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

/// Where the kernel places what a process maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Addresses at random, as processes have them. They are the same in every mode of one kernel, for the random numbers are.
    Random,
    /// At the same addresses: for two kernels, whose random addresses are not the same. Whether stack and mappings
    /// share 512 GiB is a table more or less, 2 % of a fork.
    Fixed,
}

/// What was counted alike and may be compared: by subject, references first.
#[derive(Debug, Clone)]
pub struct Counts {
    placement: Placement,
    columns: Vec<(Subject, Vec<Region>)>,
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

/// How to count.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// Runs of each region in each kernel.
    pub runs: u32,
    /// Whether only the regions with limits are counted.
    pub quick: bool,
}

/// Modes with radix, and radix with the unpatched kernel; a subject without anyone to compare it with only if
/// there is no other.
fn groups(modes: &[Mode], kernels: Kernels) -> Vec<(Placement, Vec<Subject>)> {
    let radix = Subject::RADIX;
    let mut ours = vec![radix];
    ours.extend(
        modes
            .iter()
            .cloned()
            .map(Subject::from)
            .filter(|s| *s != radix),
    );
    let alone = ours.len() == 1 && kernels.unpatched.is_some();
    let mut groups = Vec::new();
    if !alone {
        groups.push((Placement::Random, ours));
    }
    if kernels.unpatched.is_some() {
        groups.push((Placement::Fixed, vec![Subject::Unpatched, radix]));
    }
    groups
}

impl Count {
    fn spec(
        &self,
        parts: &Parts,
        kernels: Kernels,
        (placement, subject): (Placement, Subject),
        plugin: &str,
    ) -> Result<Spec> {
        // As quiet as can be without hiding a warning, which is to be seen.
        let words: &[&str] = match placement {
            Placement::Random => &["loglevel=5"],
            Placement::Fixed => &["loglevel=5", "norandmaps"],
        };
        Ok(Spec {
            mode: subject.mode(),
            // A second CPU's work would be counted in.
            smp: 1,
            mem: "3G".into(),
            append: words.iter().map(ToString::to_string).collect(),
            plugin: Some(plugin.to_string()),
            icount: Some(1),
            ..Spec::new(&kernels.of(subject)?.vmlinux, &parts.image.path)
        })
    }

    /// The modes beside radix, then radix beside the unpatched kernel if that is there.
    pub fn all(
        &self,
        ctx: &Ctx,
        run: &RunDir,
        parts: &Parts,
        modes: &[Mode],
        kernels: Kernels,
    ) -> Result<Vec<Counts>> {
        let plugin = match parts::named("FPT_KCOUNT", "plugin")? {
            Some(path) => path,
            None => build::kcount(ctx, &build::qemu(ctx)?)?,
        };
        let mut all = Vec::new();
        for (placement, subjects) in groups(modes, kernels) {
            // Instructions are counted, not time: a guest beside another counts the same.
            let count = |subject: Subject| -> Result<_> {
                let name = match placement {
                    Placement::Random => subject.to_string(),
                    Placement::Fixed => format!("{subject}-fixed"),
                };
                let out = run.path.join(format!("counts-{name}.jsonl"));
                let plugin = format!("{},out={}", qemu::comma(&plugin), qemu::comma(&out));
                let spec = self.spec(parts, kernels, (placement, subject), &plugin)?;
                let stage = ctx.ui.stage(&format!("count kernel instructions: {name}"));
                let mut guest = Guest::start(ctx, run, &parts.qemu, &spec, &name)?;
                guest.wait_ready(Some(&stage))?;
                let regions = self.one(guest, subject, &out)?;
                stage.done("");
                Ok((subject, regions))
            };
            let columns = lanes::try_each(ctx.guests_or(2), subjects, count)?;
            all.push(Counts { placement, columns });
        }
        let columns = all.iter().flat_map(|c| {
            let column = |(subject, regions): &(Subject, Vec<Region>)| {
                serde_json::json!({ "name": subject.name(), "placement": c.placement, "regions": regions })
            };
            c.columns.iter().map(column)
        });
        let text = serde_json::to_string_pretty(&serde_json::json!({
            "schema": 2,
            "runs": self.runs,
            "quick": self.quick,
            "columns": columns.collect::<Vec<_>>(),
        }))?;
        store::write_atomic(&run.path.join("kcount.json"), text.as_bytes())?;
        Ok(all)
    }

    /// The figures of a guest that is up.
    fn one(&self, mut guest: Guest, subject: Subject, out: &Path) -> Result<Vec<Region>> {
        subject.check(&mut guest)?;
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
                    "the counting program failed in {subject} ({})",
                    exit.status()
                ),
                said,
                "see the console log",
            ));
        }
        nodes::check_made(&mut guest, subject.tables())?;
        guest.quit_clean()?;
        let text = std::fs::read_to_string(out)
            .with_context(|| format!("cannot read {}", out.display()))?;
        collect(&list, &text, self.runs).map_err(|why| {
            Fail::test(
                format!("the counts of {subject} are not whole"),
                why,
                format!("see {}", out.display()),
            )
        })
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

impl Counts {
    fn figure(&self, subject: Subject, region: &str) -> Option<u64> {
        let (_, regions) = self.columns.iter().find(|(s, _)| *s == subject)?;
        regions
            .iter()
            .find(|r| r.name == region)
            .map(Region::figure)
    }

    /// The reference of a column, if it was counted in the same way.
    fn base(&self, subject: Subject) -> Option<Subject> {
        subject
            .reference()
            .filter(|base| self.columns.iter().any(|(s, _)| s == base))
    }

    fn ratio(&self, subject: Subject, region: &str) -> Option<f64> {
        let (value, base) = (
            self.figure(subject, region)?,
            self.figure(self.base(subject)?, region)?,
        );
        (base > 0).then(|| value as f64 / base as f64)
    }

    fn table(&self, quick: bool) -> String {
        let head = if quick {
            "quick: 1/16"
        } else {
            "kernel instr."
        };
        let mut out = format!("{head:<18}");
        for (subject, _) in &self.columns {
            out.push_str(&format!("{subject:>15}"));
            if let Some(base) = self.base(*subject) {
                out.push_str(&format!("{:>12}", format!("/{base}")));
            }
            out.push_str(&format!("{:>9}", "spread"));
        }
        out.push('\n');
        for region in self.columns.first().map_or(&[][..], |(_, r)| r) {
            out.push_str(&format!("{:<18}", region.name));
            for (subject, regions) in &self.columns {
                let value = regions.iter().find(|r| r.name == region.name);
                let text = value.map_or("-".into(), |r| grouped(r.figure()));
                out.push_str(&format!("{text:>15}"));
                if self.base(*subject).is_some() {
                    let ratio = self.ratio(*subject, &region.name);
                    let text = ratio.map_or("-".into(), |r| format!("{r:.4}"));
                    out.push_str(&format!("{text:>12}"));
                }
                let text = value.map_or("-".into(), |r| format!("{:.4}", r.spread()));
                out.push_str(&format!("{text:>9}"));
            }
            out.push('\n');
        }
        out
    }

    /// What is to be said of ratios that are far from 1.
    fn remarks(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (subject, regions) in &self.columns {
            let Some(base) = self.base(*subject) else {
                continue;
            };
            for name in regions.iter().map(|r| &r.name) {
                let ratio = self.ratio(*subject, name).filter(|r| *r > REMARKABLE);
                out.extend(
                    ratio.map(|r| {
                        format!("{name} in {subject}, {r:.1} times {base}: {}", why(name))
                    }),
                );
            }
        }
        out
    }

    /// The limits of a column against its reference.
    fn limits_of(&self, subject: Subject) -> Vec<(&'static str, f64)> {
        match (subject, self.base(subject)) {
            (Subject::Unpatched, _) | (_, None) => Vec::new(),
            (Subject::Ours(_), Some(Subject::Unpatched)) => RADIX_LIMITS.to_vec(),
            (Subject::Ours(mode), Some(Subject::Ours(_))) => MODE_LIMITS
                .iter()
                .filter(|l| Boot::from(l.0) == mode)
                .map(|l| (l.1, l.2))
                .collect(),
        }
    }

    fn limits(&self) -> Vec<Case> {
        let mut out = Vec::new();
        for (subject, _) in &self.columns {
            let subject = *subject;
            let suite = format!("kcount {subject}");
            let base = self.base(subject).map_or(String::new(), |b| b.to_string());
            for (region, limit) in self.limits_of(subject) {
                let name = format!("{region} / {base} <= {limit}");
                out.push(match self.ratio(subject, region) {
                    Some(ratio) if ratio <= limit => {
                        let said = format!("{ratio:.4}");
                        Case::new(
                            &suite,
                            &name,
                            fpt_verdict::results::Outcome::Passed,
                            said,
                            0,
                        )
                    }
                    Some(ratio) => Case::failed(&suite, &name, format!("it is {ratio:.4}"), 0),
                    None => Case::failed(&suite, &name, "was not counted", 0),
                });
            }
        }
        out
    }
}

/// Above this a ratio gets a remark.
const REMARKABLE: f64 = 1.5;

/// Why a mode may need much more for a region than radix.
fn why(region: &str) -> &'static str {
    match region {
        "mremap_512mib" => "it moves tables and touches no page, so one node more is much of it",
        "sparse_touch" => "a node of 2 MiB is zeroed for one page",
        "sparse_munmap" => "nodes that hold one page each are walked and freed",
        _ => "docs/explanation/measuring.md says what it does",
    }
}

/// `146 684`, as the documents write it.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let threes = rest.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let head = (!head.is_empty()).then(|| head.into());
    head.into_iter().chain(threes).collect::<Vec<_>>().join(" ")
}

/// A table for each group, and remarks on what is unusual in it.
pub fn tables(counts: &[Counts], quick: bool) -> String {
    let text = |c: &Counts| match c.placement {
        Placement::Random => c.table(quick),
        Placement::Fixed => format!("without random addresses\n{}", c.table(quick)),
    };
    let all: Vec<String> = counts.iter().map(text).collect();
    let mut out = all.join("\n");
    if quick {
        out.push_str(
            "\n--quick: a sixteenth of the work that the names say. These are no figures: what a call costs\n\
             whatever its length weighs 16 times as much, in the ratios, too.\n",
        );
    }
    for remark in counts.iter().flat_map(Counts::remarks) {
        out.push_str(&format!("{remark}\n"));
    }
    out
}

/// One case for each limit that applies to what was counted.
pub fn limits(counts: &[Counts]) -> Vec<Case> {
    counts.iter().flat_map(Counts::limits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use fpt_verdict::results::Outcome;

    const RADIX: Subject = Subject::RADIX;
    const FLAT: Subject = Subject::Ours(Boot::Mode(Mode::L3L2));

    fn counted(placement: Placement, columns: &[(Subject, u64)]) -> Counts {
        let regions = |n: u64| collect(LIST, &lines(n), 2).unwrap();
        Counts {
            placement,
            columns: columns.iter().map(|(s, n)| (*s, regions(*n))).collect(),
        }
    }

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
        let counts = counted(Placement::Random, &[(RADIX, 1000), (FLAT, 1010)]);
        assert_eq!(counts.ratio(FLAT, "fork_exit"), Some(1.01));
        assert_eq!(counts.ratio(RADIX, "fork_exit"), None);
        let cases = limits(std::slice::from_ref(&counts));
        // 1.01 is over the limit of 1.00, and what was not counted is no pass.
        let of_flat = MODE_LIMITS.iter().filter(|l| FLAT == Subject::from(l.0));
        assert_eq!(cases.len(), of_flat.count());
        assert!(cases.iter().all(|c| c.outcome == Outcome::Failed));
        let text = tables(&[counts], false);
        assert!(text.contains("1.0100") && text.contains("1 010") && !text.contains("quick"));
    }

    #[test]
    fn short_runs_are_no_figures() {
        let counts = counted(Placement::Random, &[(RADIX, 1000), (FLAT, 14_406)]);
        let text = tables(std::slice::from_ref(&counts), true);
        assert!(text.starts_with("quick: 1/16 "), "{text}");
        assert!(text.contains("These are no figures"), "{text}");
        // Whether short or not, a ratio far from 1 is explained.
        for quick in [false, true] {
            let text = tables(std::slice::from_ref(&counts), quick);
            assert!(
                text.contains("fork_exit in l3l2, 14.4 times radix: "),
                "{text}"
            );
        }
        let even = counted(Placement::Random, &[(RADIX, 1000), (FLAT, 1000)]);
        assert!(!tables(&[even], false).contains("times radix"));
        assert_eq!(
            [0, 7, 999, 1000, 146_684, 4_645_243].map(grouped),
            ["0", "7", "999", "1 000", "146 684", "4 645 243"]
        );
    }

    #[test]
    fn radix_has_its_limits_against_the_other_kernel() {
        let of = |n| counted(Placement::Fixed, &[(Subject::Unpatched, 1000), (RADIX, n)]);
        let good = |counts: &Counts| {
            let cases = counts.limits();
            assert_eq!(cases.len(), RADIX_LIMITS.len());
            assert!(cases.iter().all(|c| c.name.contains("/ unpatched <=")));
            let passed = cases.iter().find(|c| c.outcome == Outcome::Passed);
            passed.is_some_and(|c| c.name.starts_with("fork_exit"))
        };
        assert!(good(&of(1002)) && good(&of(900)) && !good(&of(1003)));
        let text = tables(&[of(1002)], false);
        assert!(
            text.contains("/unpatched") && text.contains("1.0020"),
            "{text}"
        );
    }

    #[test]
    fn two_kernels_are_counted_apart_from_the_modes() {
        let kernel = fpt_kbuild::build::Kernel {
            vmlinux: "/k".into(),
            build_dir: "/".into(),
            src_dir: "/".into(),
            version: String::new(),
            hash: String::new(),
        };
        let of = |modes: &[Mode], unpatched| {
            let kernels = Kernels {
                ours: &kernel,
                unpatched,
            };
            groups(modes, kernels)
        };
        let both = (Placement::Fixed, vec![Subject::Unpatched, RADIX]);
        let modes = (Placement::Random, vec![RADIX, FLAT]);
        let l3l2 = [Mode::L3L2];
        assert_eq!(of(&l3l2, None), std::slice::from_ref(&modes));
        assert_eq!(of(&l3l2, Some(&kernel)), [modes, both.clone()]);
        assert_eq!(of(&[Mode::Radix], Some(&kernel)), [both]);
        assert_eq!(of(&[Mode::Radix], None), [(Placement::Random, vec![RADIX])]);
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
