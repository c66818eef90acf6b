// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that CI runs, stage by stage. A stage that cannot run is a failure that says
//! so; nothing is left out silently.

mod qemu;
mod reading;
mod stage;

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
use fpt_checks::tlbsan;
use fpt_checks::walk;
use fpt_formats::matrix::Scale;
use fpt_geometry::{Boot, Mode};
use fpt_kbuild::build::{self, Kernel, Profile, Targets};
use fpt_kbuild::patch;
use fpt_kbuild::sources::Project;
use fpt_kit::say;
use fpt_kit::{code, fail, proc, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::plan::{self, Plan};
use fpt_lab::sanitize::{Sanitize, Watched};
use fpt_lab::subject::{check_mode, Kernels, Subject};
use fpt_report::cells::Matrix;
use fpt_verdict::remarks::{print_failures, print_remarks};
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_verdict::tap;
use fpt_vm::vm::Guest;
use reading::{cargo_cases, kunit_cases, never_run};
use stage::Stage;

/// Seconds of stress in each mode; with `--long`.
const STRESS_S: u64 = 60;
const STRESS_LONG_S: u64 = 600;
/// The same of the fuzzer, for the unpatched kernel, too.
const FUZZ_S: u64 = 60;
const FUZZ_LONG_S: u64 = 3600;
/// The same under the flush sanitizer.
const TLBSAN_S: u64 = 300;
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

/// Everything that CI runs.
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

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
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
            [] => (s.is_quick() || !args.quick) && (args.long || !s.is_long()),
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

/// Suite `emt` once more, when processes run: address spaces that the kernel makes while it boots are
/// conventional in every mode. The shell starts no process between its two looks at the counters.
const EMT_AGAIN: &str = r"
sum() { n=0; while read -r k v; do case $k in *_installs) n=$((n + v)) ;; esac; done </sys/kernel/debug/fpt/stats; }
cd /sys/kernel/debug/kunit/emt || exit 1
sum; before=$n; echo >run; sum
echo $((n - before))
cat results
";

fn emt_again(guest: &mut Guest, mode: Boot, group: &str) -> Result<Vec<Case>> {
    let group = format!("{group}, after boot");
    let text = guest.shell(EMT_AGAIN)?;
    let (nodes, results) = text.split_once('\n').unwrap_or((&text, ""));
    let mut cases = kunit_cases(&group, &tap::parse(results.lines()));
    let (name, good) = match mode {
        // A small process has conventional tables under the policy of mixed.
        Boot::Mode(Mode::Radix) | Boot::Mixed => ("its tables are conventional", nodes == "0"),
        Boot::Mode(Mode::L4L3 | Mode::L3L2 | Mode::L4L3L2L1) => (
            "its tables are flattened",
            nodes.parse().is_ok_and(|n: u64| n > 0),
        ),
    };
    cases.push(if good {
        Case::passed(&group, name, 0)
    } else {
        Case::failed(&group, name, format!("{nodes} nodes were made for it"), 0)
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
            Stage::Tlbsan => self.tlbsan(),
            Stage::OptionOff => self.option_off(),
            Stage::Kcount => self.kcount(),
            Stage::Bench => self.bench(),
        }
    }

    fn parts(&mut self) -> Result<&Parts> {
        if self.parts.is_none() {
            let kernel = parts::kernel(self.ctx, Profile::Fpt)?;
            let parts = plan::build_parts(self.ctx, kernel, &Targets::all())?;
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
                cases.push(if check.ok() {
                    Case::passed("patches", &check.name, 0)
                } else {
                    Case::failed("patches", &check.name, check.problems.join("\n"), 0)
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
        agree::cases(ctx, run, self.parts()?, &Mode::ALL, None)
    }

    /// Each mode runs the cases that its kinds of nodes can have; radix shows that the rest skips.
    fn kunit(&mut self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for boot in Boot::ALL {
            cases.extend(self.kunit_in(boot)?);
        }
        cases.extend(never_run(&cases));
        Ok(cases)
    }

    fn kunit_in(&mut self, mode: Boot) -> Result<Vec<Case>> {
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
        Ok(suite.compare(&Boot::ALL.map(Subject::Ours))?.cases)
    }

    fn stress(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let disk = stress::disk(ctx)?;
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let seconds = if self.long { STRESS_LONG_S } else { STRESS_S };
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
            .all(&site, &Boot::ALL.map(Subject::Ours))?
            .cases)
    }

    fn fuzz(&mut self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, self.run);
        let unpatched = self.unpatched()?;
        let mut subjects: Vec<Subject> = Boot::ALL.into_iter().map(Subject::Ours).collect();
        // First: what fails there is wrong in the model, or in the distribution's kernel.
        subjects.splice(0..0, unpatched.iter().map(|_| Subject::Unpatched));
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let seconds = if self.long { FUZZ_LONG_S } else { FUZZ_S };
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

    /// Nothing is found in a kernel that is as it should be, and every missing flush in one that is not.
    fn tlbsan(&self) -> Result<Vec<Case>> {
        let (ctx, run) = (self.ctx, &self.run.part("tlbsan")?);
        let parts = plan::build_parts(ctx, parts::kernel(ctx, Profile::Tlbsan)?, &Targets::ours())?;
        let allow = list::allowed(&ctx.root.join("selftests/console-allow.toml"))?;
        let mut fuzz = Fuzz::short(TLBSAN_S);
        fuzz.plan.sanitize = Watched::new(ctx, Some(&Sanitize::default()), &fuzz.plan.mem)?;
        let site = fuzz::Site {
            ctx,
            run,
            parts: &parts,
            kernels: Kernels {
                ours: &parts.kernel,
                unpatched: None,
            },
            allow: &allow,
        };
        let mut cases = fuzz.all(&site, &Boot::ALL.map(Subject::Ours))?.cases;
        cases.extend(fuzz.plan.sanitizer_cases(run));
        cases.extend(tlbsan::cases(ctx, run)?);
        Ok(cases)
    }

    fn option_off(&self) -> Result<Vec<Case>> {
        let start = Instant::now();
        let result = build::compare_off(self.ctx)?;
        let ms = start.elapsed().as_millis() as u64;
        let name = "CONFIG_X86_FPT=n is the unpatched tree's code";
        Ok(vec![if result.same() {
            Case::new("option-off", name, Outcome::Passed, result.to_string(), ms)
        } else {
            Case::failed("option-off", name, result.to_string(), ms)
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
        ctx.ui.info(&kcount::tables(&counts, false));
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

fn case(suite: &str, name: &str, body: impl FnOnce() -> Result<String>) -> Case {
    let start = Instant::now();
    let result = body();
    let ms = start.elapsed().as_millis() as u64;
    match result {
        Ok(detail) => Case::new(suite, name, Outcome::Passed, detail, ms),
        Err(err) => Case::failed(suite, name, fail::report(&err).0, ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_that_nobody_looked_at_are_red() {
        let good: String = build::hot::OBJECTS.map(|o| format!("{o}\n")).concat();
        assert_eq!(hot_case(Ok(good)).outcome, Outcome::Passed);
        for bad in [Ok(String::new()), Err(Fail::test("no bitcode", "", ""))] {
            assert_eq!(hot_case(bad).outcome, Outcome::Failed);
        }
    }
}
