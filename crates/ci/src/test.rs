// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that CI runs, stage by stage. A stage that cannot run is a failure that says
//! so; nothing is left out silently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use crate::claims::{self, Outcome as Claimed};
use crate::lint;
use fpt_bench::catalogue;
use fpt_checks::agree;
use fpt_checks::fuzz::{self, Fuzz};
use fpt_checks::kcount::{self, Count};
use fpt_checks::list;
use fpt_checks::stress::{self, Site, Stress};
use fpt_checks::suite::Suite;
use fpt_checks::walk;
use fpt_formats::matrix::Scale;
use fpt_geometry::Mode;
use fpt_kbuild::build::{self, Kernel, Profile};
use fpt_kbuild::patch;
use fpt_kbuild::sources::{self, Project};
use fpt_kit::say;
use fpt_kit::{code, fail, proc, store, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::{self, Plan};
use fpt_lab::sanitize;
use fpt_lab::subject::{check_mode, Kernels, Subject};
use fpt_report::cells::Matrix;
use fpt_verdict::remarks::{print_failures, print_remarks};
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_verdict::tap::{self, Status};
use fpt_vm::qemu::Program;
use fpt_vm::vm::Guest;

/// Translations of the differential test.
const TRANSLATIONS: u32 = 120_000;
/// Seconds of stress in each mode; with `--long`.
const STRESS_S: u64 = 60;
const STRESS_LONG_S: u64 = 600;
/// The same of the fuzzer, for the unpatched kernel, too.
const FUZZ_S: u64 = 60;
const FUZZ_LONG_S: u64 = 3600;
/// Programs that `--quick` compares, besides our own.
const QUICK: [&str; 6] = [
    "fpt/",
    "mm/mremap_test",
    "mm/cow",
    "mm/mlock2",
    "mm/soft-dirty",
    "proc/",
];

/// Beyond what the PDPT cache reaches: the workload of the stage `bench` that shows what merging that level saves.
const WIDE: &str = "gups-wide";

/// In the order in which they run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Lint,
    Host,
    Claims,
    Patches,
    Build,
    Differential,
    Qemu,
    Boot,
    Walk,
    Agree,
    Kunit,
    Selftest,
    Stress,
    Fuzz,
    OptionOff,
    Kcount,
    Bench,
}

impl Stage {
    fn all() -> &'static [Stage] {
        <Stage as clap::ValueEnum>::value_variants()
    }

    /// Its name, whether `--quick` has it, what it does.
    fn row(self) -> (&'static str, bool, &'static str) {
        match self {
            Stage::Lint => ("lint", true, "text: format, lints, spelling, licences, links, command lines"),
            Stage::Host => ("host", true, "cargo test of the workspace"),
            Stage::Claims => (
                "claims",
                true,
                "what the documents say was measured, against the committed data",
            ),
            Stage::Patches => ("patches", true, "the patch queues"),
            Stage::Build => ("build", true, "QEMU, two kernels, selftests"),
            Stage::Differential => ("differential", true, "QEMU's walk against the Rust core's"),
            Stage::Qemu => ("qemu", true, "bare-metal programs on QEMU"),
            Stage::Boot => (
                "boot",
                true,
                "every mode on the patched QEMU, radix on the distribution's",
            ),
            Stage::Walk => ("walk", true, "what hardware visits, against pagemap"),
            Stage::Agree => (
                "agree",
                true,
                "core, kernel, QEMU and pagemap on live processes",
            ),
            Stage::Kunit => ("kunit", true, "the kernel's unit tests"),
            Stage::Selftest => (
                "selftest",
                true,
                "selftests: radix compared with the unpatched kernel, modes with radix",
            ),
            Stage::Stress => (
                "stress",
                false,
                "everything at once for a minute a mode; page tables are given back",
            ),
            Stage::Fuzz => (
                "fuzz",
                false,
                "random calls against a model of memory, for a minute a mode and on the unpatched kernel",
            ),
            Stage::OptionOff => (
                "option-off",
                false,
                "code with CONFIG_X86_FPT=n against the unpatched tree",
            ),
            Stage::Kcount => ("kcount", false, "kernel instructions against their limits"),
            Stage::Bench => (
                "bench",
                false,
                "every workload at scale tiny in every mode under the simulator, and their report",
            ),
        }
    }

    fn name(self) -> &'static str {
        self.row().0
    }

    fn is_quick(self) -> bool {
        self.row().1
    }

    fn what(self) -> &'static str {
        self.row().2
    }

    fn parse(word: &str) -> Result<Stage> {
        let named = Stage::all().iter().find(|s| s.name() == word);
        named.copied().ok_or_else(|| {
            let names = Stage::all().iter().map(|s| s.name());
            let hint = match fail::did_you_mean(word, names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "`cargo xtask test --list` shows them".to_string(),
            };
            Fail::usage(format!("unknown stage '{word}'"), "", hint)
        })
    }
}

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these stages (may be given several times); what they need is built
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Leave out the long stages, most upstream selftests and the unpatched kernel
    #[arg(long)]
    quick: bool,
    /// More than CI has time for: the selftests that take minutes, ten minutes of stress and an hour of fuzzing a mode
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Print the stages and stop
    #[arg(long)]
    list: bool,
}

pub fn main(ctx: &Ctx, args: Args, line: lint::CommandLine) -> Result<ExitCode> {
    if args.list {
        for stage in Stage::all() {
            let (name, quick, what) = stage.row();
            say!(
                "\n",
                "{name:<14}{what}{}",
                if quick { "" } else { " (not with --quick)" }
            );
        }
        return Ok(code::OK);
    }
    let only: Vec<Stage> = (args.only.iter())
        .map(|word| Stage::parse(word))
        .collect::<Result<_>>()?;
    let chosen: Vec<Stage> = (Stage::all().iter().copied())
        .filter(|s| match only.as_slice() {
            [] => s.is_quick() || !args.quick,
            some => some.contains(s),
        })
        .collect();
    if ctx.dry_run {
        for stage in &chosen {
            say!("\n", "{:<14}{}", stage.name(), stage.what());
        }
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "test")?;
    rundir::recorded(&run, || {
        let mut tests = Tests {
            ctx,
            run: &run,
            quick: args.quick,
            long: args.long,
            line,
            parts: None,
        };
        let mut report = Report::default();
        for (n, stage) in chosen.iter().enumerate() {
            let start = Instant::now();
            let (name, _, what) = stage.row();
            ctx.ui
                .info(&format!("--- [{}/{}] {name}: {what}", n + 1, chosen.len()));
            let cases = match tests.stage(*stage) {
                Ok(cases) if cases.is_empty() => {
                    vec![Case::failed(name, "stage", "it checked nothing", 0)]
                }
                Ok(cases) => cases,
                Err(err) => {
                    let (line, _) = fail::report(&err);
                    vec![Case::failed(
                        name,
                        "stage",
                        line,
                        start.elapsed().as_millis() as u64,
                    )]
                }
            };
            let part = Report { cases };
            print_failures(ctx, &part);
            ctx.ui.info(&format!(
                "--- {name}: {} ({})",
                part.summary(),
                fpt_kit::ui::elapsed(start.elapsed())
            ));
            report.cases.extend(part.cases);
            // What is known so far survives an interrupt.
            run.results(&report)?;
        }
        if chosen.len() > 1 && !report.green() {
            ctx.ui.info("--- what failed");
            print_failures(ctx, &report);
        }
        print_remarks(ctx, &report);
        ctx.ui.info(&format!("results: {}", run.path.display()));
        Ok(report.conclude())
    })
}

struct Tests<'a> {
    ctx: &'a Ctx,
    run: &'a RunDir,
    quick: bool,
    long: bool,
    line: lint::CommandLine,
    parts: Option<Parts>,
}

/// The objects on the hot paths hold no call to a hook that should have been inlined.
fn hot_hooks(ctx: &Ctx) -> Case {
    hot_case(parts::kernel(ctx, Profile::Fpt).and_then(|k| {
        let file = k.vmlinux.with_file_name(build::hot::FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Fail::test(
                "the kernel was built without the hooks' bitcode: each hook is a call",
                "clang and rustc are built on different LLVMs, or this kernel is another's (FPT_VMLINUX)",
                "`cargo xtask doctor` names the compilers that belong together; install them and build again",
            )),
            Err(e) => Err(anyhow::Error::new(e).context(format!("cannot read {}", file.display()))),
        }
    }))
}

/// The verdict on what the build noted of these objects; nothing noted is no pass.
fn hot_case(report: Result<String>) -> Case {
    let name = "no call to a Rust hook on the hot paths";
    match report.map(|text| build::hot::problems(&text)) {
        Err(err) => Case::failed("build", name, fail::report(&err).0, 0),
        Ok(none) if none.is_empty() => Case::passed("build", name, 0),
        Ok(some) => Case::failed("build", name, some.join("; "), 0),
    }
}

fn kunit_cases(group: &str, tap: &tap::Tap) -> Vec<Case> {
    let case = |c: &tap::Case| match c.status {
        Status::Pass | Status::Xfail => Case::passed(group, &c.name, 0),
        Status::Skip => Case::skipped(group, &c.name, c.note.clone()),
        Status::Fail | Status::Absent => Case::failed(group, &c.name, c.note.clone(), 0),
    };
    let problem = |p: &String| Case::failed(group, "KTAP", p.clone(), 0);
    let cases = tap.cases.iter().map(case);
    cases.chain(tap.problems.iter().map(problem)).collect()
}

/// Suite `emt` once more, when processes run: address spaces that the kernel makes while it boots are
/// conventional in every mode. The shell starts no process between its two looks at the counters.
const EMT_AGAIN: &str = r"
sum() { n=0; while read -r k v; do case $k in *_installs) n=$((n + v)) ;; esac; done </sys/kernel/debug/fpt/stats; }
cd /sys/kernel/debug/kunit/emt || exit 1
sum; before=$n; echo >run; sum
echo $((n - before))
cat results
";

fn emt_again(guest: &mut Guest, mode: Mode, group: &str) -> Result<Vec<Case>> {
    let group = format!("{group}, after boot");
    let text = guest.shell(EMT_AGAIN)?;
    let (nodes, results) = text.split_once('\n').unwrap_or((&text, ""));
    let mut cases = kunit_cases(&group, &tap::parse(results.lines()));
    let (name, good) = match mode {
        Mode::Radix => ("its tables are conventional", nodes == "0"),
        Mode::L4L3 | Mode::L3L2 | Mode::L4L3L2L1 => (
            "its tables are flattened",
            nodes.parse().is_ok_and(|n: u64| n > 0),
        ),
    };
    cases.push(match good {
        true => Case::passed(&group, name, 0),
        false => Case::failed(&group, name, format!("{nodes} nodes were made for it"), 0),
    });
    Ok(cases)
}

impl Tests<'_> {
    fn stage(&mut self, stage: Stage) -> Result<Vec<Case>> {
        match stage {
            Stage::Lint => lint::cases(self.ctx, self.run, self.line),
            Stage::Host => self.host(),
            Stage::Claims => self.claims(),
            Stage::Patches => self.patches(),
            Stage::Build => self.build(),
            Stage::Differential => self.differential(),
            Stage::Qemu => self.bare_metal(),
            Stage::Boot => self.boot(),
            Stage::Walk => self.walk(),
            Stage::Agree => self.agree(),
            Stage::Kunit => self.kunit(),
            Stage::Selftest => self.selftest(),
            Stage::Stress => self.stress(),
            Stage::Fuzz => self.fuzz(),
            Stage::OptionOff => self.option_off(),
            Stage::Kcount => self.kcount(),
            Stage::Bench => self.bench(),
        }
    }

    fn parts(&mut self) -> Result<&Parts> {
        if self.parts.is_none() {
            let kernel = parts::kernel(self.ctx, Profile::Fpt)?;
            let parts = plan::build_parts(self.ctx, kernel)?;
            parts.record(self.run);
            self.parts = Some(parts);
        }
        self.parts
            .as_ref()
            .ok_or_else(|| Fail::infra("nothing was built", "", ""))
    }

    /// What no bug of ours can reach. `--quick` does without.
    fn unpatched(&self) -> Result<Option<Kernel>> {
        if self.quick {
            self.ctx
                .ui
                .info("--quick: radix is not compared with the unpatched kernel");
            return Ok(None);
        }
        let kernel = parts::unpatched(self.ctx)?;
        self.run
            .set("kernel_unpatched", parts::kernel_facts(&kernel));
        Ok(Some(kernel))
    }

    fn host(&self) -> Result<Vec<Case>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut cmd = Cmd::new(cargo)
            .args([
                "test",
                "--workspace",
                "--locked",
                "--no-fail-fast",
                "--manifest-path",
            ])
            .arg(self.ctx.root.join("Cargo.toml"))
            // A test that could not run says so on its own output.
            .args(["--", "--show-output"])
            .env("CARGO_TERM_COLOR", "never");
        // The tests choose their own files; and this run's jobserver or target is not theirs.
        for name in [
            "FPT_VMLINUX",
            "FPT_VMLINUX_UNPATCHED",
            "FPT_QEMU",
            "FPT_QEMU_DATA",
            "FPT_INITRD",
            "FPT_BUSYBOX",
            "FPT_RUNS",
            "FPT_ROOT",
        ] {
            cmd = cmd.env_remove(name);
        }
        let log = self.run.path.join("cargo-test.log");
        let stage = self.ctx.ui.stage("cargo test");
        let start = Instant::now();
        let status = cmd.run_logged_status(&stage, &log)?;
        let text = std::fs::read_to_string(&log)
            .with_context(|| format!("cannot read {}", log.display()))?;
        let mut cases = cargo_cases(&text);
        let ms = start.elapsed().as_millis() as u64;
        if status.success() {
            stage.done("");
            cases.push(Case::passed("host", "cargo test", ms));
        } else {
            stage.failed("");
            cases.push(Case::failed(
                "host",
                "cargo test",
                format!("{}; see {}", proc::describe(status), log.display()),
                ms,
            ));
        }
        Ok(cases)
    }

    fn claims(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (name, outcome) in claims::all(self.ctx, false)? {
            match outcome {
                Claimed::Holds(_) => cases.push(Case::passed("claims", &name, 0)),
                Claimed::Fails(why) => cases.push(Case::failed("claims", &name, why, 0)),
                // Minutes or hours: other stages run the tests among them.
                Claimed::NotRun => {}
            }
        }
        Ok(cases)
    }

    fn patches(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for project in Project::ALL {
            for check in patch::check(self.ctx, project)? {
                cases.push(match check.ok() {
                    true => Case::passed("patches", &check.name, 0),
                    false => Case::failed("patches", &check.name, check.problems.join("\n"), 0),
                });
            }
        }
        Ok(cases)
    }

    fn build(&mut self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        let mut step = |name: &str, work: &mut dyn FnMut() -> Result<()>| {
            let start = Instant::now();
            let result = work();
            let ms = start.elapsed().as_millis() as u64;
            cases.push(match result {
                Ok(()) => Case::passed("build", name, ms),
                Err(err) => Case::failed("build", name, fail::report(&err).0, ms),
            });
        };
        let ctx = self.ctx;
        step("QEMU", &mut || parts::qemu(ctx, false).map(drop));
        step("kernel", &mut || parts::kernel(ctx, Profile::Fpt).map(drop));
        if !self.quick {
            step("unpatched kernel", &mut || parts::unpatched(ctx).map(drop));
        }
        step("selftests and guest image", &mut || self.parts().map(drop));
        cases.push(hot_hooks(ctx));
        Ok(cases)
    }

    fn differential(&mut self) -> Result<Vec<Case>> {
        let target = build::cargo(
            self.ctx,
            "build the differential test",
            &["build", "--release", "-p", "fpt-host", "--bin", "fpt-diff"],
            &[],
        )?;
        let qemu = parts::qemu(self.ctx, false)?;
        let mut cmd = Cmd::new(target.join("release/fpt-diff"))
            .arg("--qemu")
            .arg(&qemu.bin)
            .args(["--count", &TRANSLATIONS.to_string()]);
        if let Some(dir) = &qemu.datadir {
            cmd = cmd.arg("-L").arg(dir);
        }
        self.program(
            "differential",
            &format!("{TRANSLATIONS} random translations"),
            &cmd,
            |out| {
                let compared = out
                    .split_whitespace()
                    .next()
                    .and_then(|w| w.parse::<u64>().ok())
                    .unwrap_or(0);
                if compared >= u64::from(TRANSLATIONS) && out.contains("all equal") {
                    return Ok(());
                }
                Err(format!("it compared {compared}"))
            },
        )
        .map(|case| vec![case])
    }

    /// Runs a program of the host; its exit code and what `judge` says of its output decide.
    fn program(
        &self,
        suite: &str,
        name: &str,
        cmd: &Cmd,
        judge: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Case> {
        let start = Instant::now();
        let stage = self.ctx.ui.stage(name);
        let out = cmd.output()?;
        let all = format!("$ {}\n{}{}", cmd.quoted(), out.stdout, out.stderr);
        let mut lines = out.stdout.lines();
        let first = lines.next().unwrap_or("");
        let said = lines.find(|l| l.starts_with("PASS: ")).unwrap_or(first);
        let log = format!("{suite}.log");
        self.run.append(&log, &all)?;
        let ms = start.elapsed().as_millis() as u64;
        let verdict = if out.status.success() {
            judge(&out.stdout)
        } else {
            Err(proc::describe(out.status))
        };
        Ok(match verdict {
            Ok(()) => {
                stage.done(said);
                Case::new(suite, name, Outcome::Passed, said, ms)
            }
            Err(why) => {
                stage.failed(&why);
                Case::failed(suite, name, format!("{why}\n{}", tail(&all)), ms)
            }
        })
    }

    /// QEMU's bare-metal programs, built from the patched tree: they need a C compiler and nothing else.
    fn bare_metal(&mut self) -> Result<Vec<Case>> {
        let qemu = parts::qemu(self.ctx, false)?;
        let source = sources::ensure(self.ctx, Project::Qemu)?;
        let lock = patch::tree_lock(self.ctx, Project::Qemu, &source)?;
        let tree = patch::apply(self.ctx, Project::Qemu, &source)?.dir;
        let tcg = tree.join("tests/tcg");
        let system = tcg.join("x86_64/system");
        let out = self.run.path.join("bare-metal");
        store::make_dir(&out)?;
        let cc = |more: &[&str]| {
            Cmd::new("cc")
                .args([
                    "-nostdlib",
                    "-ggdb",
                    "-O0",
                    "-mno-red-zone",
                    "-mgeneral-regs-only",
                    "-m64",
                    "-mcx16",
                ])
                .args([
                    "-ffreestanding",
                    "-fno-stack-protector",
                    "-fno-pie",
                    "-isystem",
                ])
                .arg(tcg.join("minilib"))
                .args(more)
                .cwd(&out)
        };
        cc(&["-Wa,--noexecstack", "-c", "-o", "boot.o"])
            .arg(system.join("boot.S"))
            .read()?;
        cc(&["-c", "-o", "printf.o"])
            .arg(tcg.join("minilib/printf.c"))
            .read()?;
        for (name, source, define) in [
            ("fpt", "fpt.c", "-DFPT_TEST"),
            ("fpt-off", "fpt.c", "-DEXPECT_FPT=0"),
            ("fpt-hold", "fpt.c", "-DHOLD"),
            ("tlbsan", "tlbsan.c", "-DPSC_TCE=0"),
            ("tlbsan-tce", "tlbsan.c", "-DPSC_TCE=1"),
        ] {
            cc(&[define, "-o", name])
                .arg(system.join(source))
                .arg(format!("-Wl,-T{}", system.join("kernel.ld").display()))
                .args([
                    "-Wl,-melf_x86_64",
                    "-static",
                    "-no-pie",
                    "boot.o",
                    "printf.o",
                    "-lgcc",
                ])
                .read()?;
        }
        drop(lock);
        let run = |cpu: &str, smp: &str, name: &str| {
            let mut cmd = Cmd::new(&qemu.bin);
            if let Some(dir) = &qemu.datadir {
                cmd = cmd.arg("-L").arg(dir);
            }
            cmd.args([
                "-M",
                "q35",
                "-nodefaults",
                "-display",
                "none",
                "-vga",
                "none",
                "-no-reboot",
                "-accel",
                "tcg,thread=multi",
            ])
            .args([
                "-chardev",
                "stdio,id=output",
                "-device",
                "isa-debugcon,chardev=output",
            ])
            .args([
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=0x4",
                "-cpu",
                cpu,
                "-smp",
                smp,
                "-kernel",
            ])
            .arg(out.join(name))
        };
        // A triple fault ends QEMU with 0, too: only the line counts.
        let judge = |text: &str| match text
            .lines()
            .find(|l| l.starts_with("PASS: ") && l.ends_with(" 0 failed"))
        {
            Some(_) => Ok(()),
            None => Err("no line 'PASS: N checks, 0 failed'".to_string()),
        };
        let monitor = {
            let mut cmd = Cmd::new(system.join("fpt-monitor.py")).arg(&qemu.bin);
            if let Some(dir) = &qemu.datadir {
                cmd = cmd.arg("-L").arg(dir);
            }
            cmd.arg(out.join("fpt-hold")).cwd(&out)
        };
        Ok(vec![
            self.program(
                "qemu",
                "walks, faults and control registers, two CPUs",
                &run("max,fpt=on", "2", "fpt"),
                judge,
            )?,
            self.program(
                "qemu",
                "nothing changes with the feature off",
                &run("max", "1", "fpt-off"),
                judge,
            )?,
            self.program("qemu", "monitor, memory dump, migration", &monitor, judge)?,
            self.sanitizer_cases(&qemu, &out, ("tlbsan", "psc=intel"))?,
            self.sanitizer_cases(&qemu, &out, ("tlbsan-tce", "psc=tce"))?,
        ])
    }

    /// Page tables that change under two CPUs: the flush sanitizer must find what the program says.
    fn sanitizer_cases(
        &self,
        qemu: &Program,
        dir: &Path,
        (name, psc): (&str, &str),
    ) -> Result<Case> {
        let plugin = sanitize::plugin(self.ctx)?;
        let result = dir.join(format!("{name}.json"));
        let cmd = sanitize::cases_command(qemu, &plugin, (&dir.join(name), psc), &result);
        self.program(
            "qemu",
            &format!("what the flush sanitizer finds, {psc}"),
            &cmd,
            |said| sanitize::judge_cases(said, &result),
        )
    }

    fn boot(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let stock = parts::qemu(ctx, true);
        let parts = self.parts()?;
        let plan = Plan {
            mem: "1G".into(),
            ..Plan::default()
        };
        let mut cases = Vec::new();
        for mode in Mode::ALL {
            cases.push(case("boot", mode.name(), || {
                let mut guest = Guest::boot(
                    ctx,
                    run,
                    &parts.qemu,
                    &plan.spec(parts, mode),
                    &format!("boot-{mode}"),
                )?;
                check_mode(&mut guest, mode)?;
                let boot = guest.boot.clone();
                guest.quit_clean()?;
                run.set(&format!("boot_seconds_{mode}"), boot.wall.as_secs_f64());
                Ok(format!(
                    "{:.2} s to init, {}",
                    boot.wall.as_secs_f64(),
                    boot.uname
                ))
            }));
        }
        // The same image, asked for a flat mode, on a machine that has no FPT.
        cases.push(case("boot", "radix on the distribution's QEMU", || {
            let spec = plan.spec(parts, Mode::L4L3);
            let mut guest = Guest::boot(ctx, run, &stock?, &spec, "boot-stock")?;
            check_mode(&mut guest, Mode::Radix)?;
            let line = guest
                .console()
                .into_iter()
                .find(|l| l.contains("fpt: mode radix"));
            let line = line.ok_or_else(|| {
                Fail::test(
                    "the kernel does not say why it runs radix",
                    "no line 'fpt: mode radix'",
                    "",
                )
            })?;
            guest.quit_clean()?;
            Ok(tap::strip_time(&line).to_string())
        }));
        cases.push(case("boot", "a crashing guest is noticed", || {
            let mut guest = Guest::boot(
                ctx,
                run,
                &parts.qemu,
                &plan.spec(parts, Mode::Radix),
                "boot-crash",
            )?;
            match guest.shell("echo c > /proc/sysrq-trigger") {
                Err(err) if fail::report(&err).1 == code::GUEST_CRASHED => Ok(fail::report(&err).0),
                Err(err) => Err(err),
                Ok(_) => Err(Fail::test(
                    "the guest went on after a forced panic",
                    "",
                    "does the kernel have MAGIC_SYSRQ?",
                )),
            }
        }));
        Ok(cases)
    }

    fn walk(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let parts = self.parts()?;
        let mut cases = Vec::new();
        for mode in Mode::ALL {
            for huge in [false, true] {
                let name = format!("{mode}, {} page", if huge { "2 MiB" } else { "4 KiB" });
                cases.push(case("walk", &name, || {
                    walk::test(ctx, run, parts, mode, huge)
                }));
            }
        }
        Ok(cases)
    }

    fn agree(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        agree::cases(ctx, run, self.parts()?, &Mode::ALL)
    }

    /// Each mode runs the cases that its kinds of nodes can have; radix shows that the rest skips.
    fn kunit(&mut self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for mode in Mode::ALL {
            cases.extend(self.kunit_in(mode)?);
        }
        cases.extend(never_run(&cases));
        Ok(cases)
    }

    fn kunit_in(&mut self, mode: Mode) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let parts = self.parts()?;
        let group = format!("kunit/{mode}");
        let plan = Plan {
            mem: "1G".into(),
            append: vec!["kunit.enable=1".into()],
            ..Plan::default()
        };
        let spec = plan.spec(parts, mode);
        let mut guest = Guest::boot(ctx, run, &parts.qemu, &spec, &format!("kunit-{mode}"))?;
        let lines = guest.console();
        let again = emt_again(&mut guest, mode, &group)?;
        guest.quit()?;
        let start = lines
            .iter()
            .position(|l| tap::strip_time(l).starts_with("KTAP version"));
        let Some(start) = start else {
            return Err(Fail::test(
                "no KUnit results on the console",
                "no line 'KTAP version'",
                "is KUNIT in the kernel's configuration?",
            ));
        };
        let tap = tap::parse(lines.iter().skip(start).map(String::as_str));
        let mut cases = kunit_cases(&group, &tap);
        for suite in ["fpt/", "emt/"] {
            if !tap.cases.iter().any(|c| c.name.starts_with(suite)) {
                cases.push(Case::failed(
                    &group,
                    &format!("suite {suite}"),
                    "it is not there",
                    0,
                ));
            }
        }
        cases.extend(again);
        cases.extend(
            guest
                .splats(&[])
                .iter()
                .map(|s| Case::failed(&group, "kernel warning", s.line.clone(), 0)),
        );
        Ok(cases)
    }

    fn selftest(&mut self) -> Result<Vec<Case>> {
        let (ctx, run, quick, long) = (self.ctx, self.run, self.quick, self.long);
        let all = list::programs(&ctx.root.join("selftests/list.toml"))?;
        let programs: Vec<list::Program> = if quick {
            all.into_iter()
                .filter(|p| QUICK.iter().any(|q| p.name.starts_with(q)))
                .collect()
        } else {
            all.into_iter().filter(|p| long || !p.long).collect()
        };
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let plan = Plan::default();
        let unpatched = self.unpatched()?;
        let parts = self.parts()?;
        let suite = Suite {
            ctx,
            run,
            parts,
            kernels: Kernels {
                ours: &parts.kernel,
                unpatched: unpatched.as_ref(),
            },
            plan: &plan,
            programs: &programs,
            allow: &allow,
            all_modes: true,
        };
        Ok(suite.compare(&Mode::ALL.map(Subject::Ours))?.cases)
    }

    fn stress(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let disk = stress::disk(ctx)?;
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let seconds = match self.long {
            true => STRESS_LONG_S,
            false => STRESS_S,
        };
        let parts = self.parts()?;
        let site = Site {
            ctx,
            run,
            parts,
            kernels: Kernels {
                ours: &parts.kernel,
                unpatched: None,
            },
            disk: &disk,
            allow: &allow,
        };
        Ok(Stress::short(seconds)
            .all(&site, &Mode::ALL.map(Subject::Ours))?
            .cases)
    }

    fn fuzz(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let unpatched = self.unpatched()?;
        let mut subjects: Vec<Subject> = Mode::ALL.into_iter().map(Subject::Ours).collect();
        // First: what fails there is wrong in the model, or in the distribution's kernel.
        subjects.splice(0..0, unpatched.iter().map(|_| Subject::Unpatched));
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let seconds = match self.long {
            true => FUZZ_LONG_S,
            false => FUZZ_S,
        };
        let parts = self.parts()?;
        let site = fuzz::Site {
            ctx,
            run,
            parts,
            kernels: Kernels {
                ours: &parts.kernel,
                unpatched: unpatched.as_ref(),
            },
            allow: &allow,
        };
        Ok(Fuzz::short(seconds).all(&site, &subjects)?.cases)
    }

    fn option_off(&self) -> Result<Vec<Case>> {
        let start = Instant::now();
        let result = build::compare_off(self.ctx)?;
        let ms = start.elapsed().as_millis() as u64;
        let name = "CONFIG_X86_FPT=n is the unpatched tree's code";
        Ok(vec![match result.same() {
            true => Case::new("option-off", name, Outcome::Passed, result.to_string(), ms),
            false => Case::failed("option-off", name, result.to_string(), ms),
        }])
    }

    fn kcount(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let unpatched = self.unpatched()?;
        let parts = self.parts()?;
        let kernels = Kernels {
            ours: &parts.kernel,
            unpatched: unpatched.as_ref(),
        };
        let counts = Count {
            // The smallest of them counts, and the limits are closer than the spread of a few.
            runs: 6,
            quick: false,
        }
        .all(ctx, run, parts, &Mode::ALL, kernels)?;
        ctx.ui.info(&kcount::tables(&counts));
        Ok(kcount::limits(&counts))
    }
}

impl Tests<'_> {
    fn bench(&self) -> Result<Vec<Case>> {
        let folder = self.run.path.join("bench");
        let all = catalogue::load(&self.ctx.root)?;
        let workloads: Vec<&str> = all.iter().map(|w| w.name.as_str()).collect();
        let args = fpt_bench::Args::of(Scale::Tiny, &workloads);
        let (names, failed) = fpt_bench::within(self.ctx, self.run, &args, &folder)?;
        let mut cases: Vec<Case> = names
            .iter()
            .map(|name| match failed.iter().find(|f| f.0 == *name) {
                None => Case::passed("bench", name, 0),
                Some((_, why)) => Case::failed("bench", name, why.line.clone(), 0),
            })
            .collect();
        if !failed.is_empty() {
            return Ok(cases);
        }
        let matrix = Matrix::load(&folder)?;
        for case in fpt_report::sane(&matrix) {
            cases.push(match case {
                (name, Ok(what)) => Case::new("bench", &name, Outcome::Passed, what, 0),
                (name, Err(why)) => Case::failed("bench", &name, why, 0),
            });
        }
        // Merging PML4 and PDPT saves the PML4 entry, which is cached anyway.
        for mode in Mode::ALL.into_iter().filter(|m| m.flattens_below_root()) {
            let name = format!("{WIDE}: {mode} reads fewer entries per walk than radix");
            cases.push(case("bench", &name, || {
                fpt_report::fewer_reads(&matrix, WIDE, mode, 0.9)
            }));
        }
        cases.push(case("bench", "report", || {
            let page = fpt_report::write(
                self.ctx,
                &matrix,
                &folder.join("report"),
                Default::default(),
            )?;
            Ok(format!("{}", page.display()))
        }));
        Ok(cases)
    }
}

/// KUnit cases that every mode skips: nobody runs them, which is a failure.
fn never_run(cases: &[Case]) -> Vec<Case> {
    let mut all = BTreeMap::<&str, bool>::new();
    for case in cases {
        let skipped = all.entry(&case.name).or_insert(true);
        *skipped &= case.outcome == Outcome::Skipped;
    }
    all.into_iter()
        .filter(|(_, skipped)| *skipped)
        .map(|(name, _)| Case::failed("kunit", name, "it was skipped in every mode", 0))
        .collect()
}

fn case(suite: &str, name: &str, body: impl FnOnce() -> Result<String>) -> Case {
    let start = Instant::now();
    let result = body();
    let ms = start.elapsed().as_millis() as u64;
    match result {
        Ok(detail) => Case::new(suite, name, Outcome::Passed, detail, ms),
        Err(err) => Case::failed(suite, name, fail::report(&err).0, ms),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// With one of these a line of a test's output begins that says why the test did nothing.
const NOT_RUN: [&str; 2] = ["not run: ", "skipped: "];

/// One case for each `test NAME ... ok` of libtest, grouped by the binary that ran it. A test that says it did not
/// run is a skip, whatever libtest calls it.
fn cargo_cases(text: &str) -> Vec<Case> {
    let mut suite = String::from("host");
    let mut cases: Vec<Case> = Vec::new();
    // Whose output follows.
    let mut speaker = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            let binary = rest.rsplit('(').next().unwrap_or("").trim_end_matches(')');
            let name = Path::new(binary)
                .file_name()
                .map(PathBuf::from)
                .unwrap_or_default();
            let name = name.to_string_lossy();
            suite = format!("host {}", name.rsplit_once('-').map_or(&*name, |(n, _)| n));
            speaker.clear();
        } else if let Some(krate) = line.strip_prefix("Doc-tests ") {
            suite = format!("host {krate} doc");
            speaker.clear();
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|r| r.strip_suffix(" stdout ----"))
        {
            speaker = name.to_string();
        } else if let Some(why) = NOT_RUN.iter().find_map(|m| line.strip_prefix(m)) {
            let fits = |c: &&mut Case| {
                c.suite == suite && c.name == speaker && c.outcome == Outcome::Passed
            };
            if let Some(case) = cases.iter_mut().rev().find(fits) {
                *case = Case::skipped(&suite, &speaker, why);
            }
        } else if let Some((name, word)) = line
            .strip_prefix("test ")
            .and_then(|r| r.rsplit_once(" ... "))
        {
            let word = word.trim();
            if word == "ok" {
                cases.push(Case::passed(&suite, name, 0));
            } else if word.starts_with("FAILED") {
                cases.push(Case::failed(&suite, name, "see cargo-test.log", 0));
            } else if word.starts_with("ignored") {
                cases.push(Case::skipped(&suite, name, word));
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_every_mode_skips_is_red() {
        let cases = [
            Case::skipped("kunit/radix", "fpt/a", ""),
            Case::passed("kunit/l3l2", "fpt/a", 0),
            Case::skipped("kunit/radix", "fpt/b", ""),
            Case::skipped("kunit/l3l2", "fpt/b", ""),
        ];
        let red = never_run(&cases);
        assert_eq!(red.len(), 1);
        assert_eq!(red[0].name, "fpt/b");
        assert_eq!(red[0].outcome, Outcome::Failed);
    }

    #[test]
    fn hooks_that_nobody_looked_at_are_red() {
        let good: String = build::hot::OBJECTS.map(|o| format!("{o}\n")).concat();
        assert_eq!(hot_case(Ok(good)).outcome, Outcome::Passed);
        for bad in [Ok(String::new()), Err(Fail::test("no bitcode", "", ""))] {
            assert_eq!(hot_case(bad).outcome, Outcome::Failed);
        }
    }

    #[test]
    fn a_test_that_did_not_run_is_a_skip() {
        let cases = cargo_cases(
            "     Running tests/x.rs (target/debug/deps/x-0123)\ntest a ... ok\ntest b ... ok\n\n\
             successes:\n\n---- a stdout ----\nnot run: no browser here\n\n---- b stdout ----\nit is not run: no\n\n\
             successes:\n    a\n    b\n\ntest result: ok. 2 passed\n\
                  Running tests/y.rs (target/debug/deps/y-0123)\ntest a ... ok\nskipped: of nobody\n",
        );
        let list: Vec<_> = cases
            .iter()
            .map(|c| (c.name.as_str(), c.outcome, c.detail.as_str()))
            .collect();
        assert_eq!(
            list,
            [
                ("a", Outcome::Skipped, "no browser here"),
                ("b", Outcome::Passed, ""),
                ("a", Outcome::Passed, "")
            ]
        );
    }

    #[test]
    fn libtest_output() {
        let cases = cargo_cases(
            "     Running unittests src/lib.rs (target/debug/deps/fpt_core-0123)\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, slow\ntest result: FAILED. 1 passed\n",
        );
        let list: Vec<_> = cases
            .iter()
            .map(|c| (c.suite.as_str(), c.name.as_str(), c.outcome))
            .collect();
        assert_eq!(
            list,
            [
                ("host fpt_core", "a::b", Outcome::Passed),
                ("host fpt_core", "c", Outcome::Failed),
                ("host fpt_core", "d", Outcome::Skipped)
            ]
        );
    }
}
