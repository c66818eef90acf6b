// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask tlbsan`: are the judges any good? Each mistake that profile `mutants` can make is made once, in
//! the situation that it is about, and must be noticed: missing flushes by the sanitizer and by the rule that
//! was predicted, wrong tables by the fuzzer. And which flushes were for nothing.

use std::path::PathBuf;
use std::time::Instant;

use fpt_init::proto::Exec;

use super::flushes;
use fpt_geometry::Mode;
use fpt_kbuild::build::{artefact, Profile};
use fpt_kit::{code, fail, hash, say, store, Cmd, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::sanitize::{self, Sanitize};
use fpt_verdict::remarks::print_failures;
use fpt_verdict::results::{Case, Outcome, Report};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::Spec;
use fpt_vm::vm::{self, Guest};

/// Make mistakes in the kernel that the sanitizer or the fuzzer must find.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Leave out one flush after the other; the sanitizer must find each
    Mutants(Only),
    /// Get page tables wrong in one way after the other; the fuzzer must find each
    FuzzMutants(Only),
    /// Run a program, and show which of its flushes ended nothing, by the calls that led to them
    Flushes(flushes::Args),
}

#[derive(clap::Args, Debug)]
struct Only {
    /// These numbers only
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',')]
    only: Vec<u32>,
}

impl Only {
    /// Those of the numbers that are wanted; it is an error to want another one.
    fn of<T: Copy>(&self, all: &[T], number: impl Fn(&T) -> u32) -> Result<Vec<T>> {
        let known = |n: &&u32| !all.iter().any(|m| number(m) == **n);
        if let Some(n) = self.only.iter().find(known) {
            return Err(Fail::usage(
                format!("no mutant has the number {n}"),
                "the table in docs/explanation/tlbsan.md has those that there are",
                "leave --only out for all of them",
            ));
        }
        let wanted = |m: &&T| self.only.is_empty() || self.only.contains(&number(m));
        Ok(all.iter().filter(wanted).copied().collect())
    }
}

/// A flush that is left out, and what comes of it.
#[derive(Debug, Clone, Copy)]
struct Mutant {
    number: u32,
    /// The place, and what it leaves out.
    what: &'static str,
    mode: Mode,
    /// A situation of `selftests/fpt/fpt_tlb.c`; or why there is none.
    situation: std::result::Result<&'static str, &'static str>,
    /// The rule that must say so.
    rule: &'static str,
}

const fn mutant(
    number: u32,
    what: &'static str,
    (mode, situation): (Mode, &'static str),
    rule: &'static str,
) -> Mutant {
    Mutant {
        number,
        what,
        mode,
        situation: Ok(situation),
        rule,
    }
}

const NODES: Mode = Mode::L4L3L2L1;

/// Flushes that can be left out, as the kernel's parameter `tlb_mutant` numbers them.
const MUTANTS: [Mutant; 26] = [
    mutant(1, "T7: lazy CPUs are left out", (NODES, "node-lazy"), "R1"),
    mutant(2, "T7: the node is retired at once", (NODES, "node"), "R1"),
    mutant(3, "tlb_flush_mmu: nodes first", (NODES, "node"), "R1"),
    mutant(4, "T4, T5: no flush", (NODES, "demote"), "R1"),
    mutant(5, "root: nobody leaves it", (Mode::L4L3, "root"), "R0"),
    mutant(
        6,
        "T6, move_normal_pud: no flush",
        (NODES, "move-node"),
        "R3",
    ),
    mutant(
        7,
        "1, with a pool that is not marked",
        (NODES, "node-again"),
        "R1'",
    ),
    mutant(
        8,
        "flush_tlb_multi: never all CPUs",
        (Mode::Radix, "table-lazy"),
        "R1",
    ),
    mutant(
        9,
        "pmdp_collapse_flush: no table is freed",
        (Mode::Radix, "collapse"),
        "R1",
    ),
    mutant(
        10,
        "pte_free_tlb: no table is freed",
        (Mode::Radix, "table-lazy"),
        "R1",
    ),
    mutant(
        11,
        "switch_mm: lazy mode ends without a look",
        (Mode::Radix, "page-lazy"),
        "R2",
    ),
    mutant(
        12,
        "flush_tlb_mm_range: this CPU only",
        (Mode::Radix, "page-used"),
        "R2",
    ),
    mutant(
        13,
        "tlb_flush_mmu: pages first",
        (Mode::Radix, "page-used"),
        "R2",
    ),
    Mutant {
        number: 14,
        what: "tlb_remove_table: no invalidation",
        mode: Mode::Radix,
        situation: Err("tables go this way only below KVM, which flushes without interrupts"),
        rule: "R1",
    },
    mutant(15, "move_ptes: no flush", (Mode::Radix, "move-pages"), "R3"),
    mutant(
        16,
        "try_to_unmap: nothing is pending",
        (Mode::Radix, "reclaim"),
        "R2",
    ),
    mutant(
        17,
        "shrink_folio_list: pages first",
        (Mode::Radix, "reclaim"),
        "R2",
    ),
    mutant(
        18,
        "migrate_pages_batch: no flush",
        (Mode::Radix, "migrate"),
        "R5",
    ),
    mutant(
        19,
        "migrate_vma_collect_pmd: no flush",
        (Mode::Radix, "device"),
        "R3",
    ),
    mutant(
        20,
        "wp_page_copy: no flush",
        (Mode::Radix, "write-copy"),
        "R3",
    ),
    mutant(
        21,
        "change_pte_range: no flush",
        (Mode::Radix, "protect"),
        "R3",
    ),
    mutant(22, "dup_mmap: no flush", (Mode::Radix, "copy-all"), "R3"),
    mutant(
        23,
        "pmd_free_pte_page: no flush",
        (Mode::Radix, "vmap-large"),
        "R1",
    ),
    mutant(
        24,
        "purge of vmalloc: no flush",
        (Mode::Radix, "vmap-again"),
        "R4",
    ),
    mutant(25, "T9: no flush", (NODES, "move-in"), "R1"),
    mutant(
        26,
        "T9: lazy CPUs are left out",
        (NODES, "move-in-lazy"),
        "R1",
    ),
];

/// Page tables that are got wrong, as the kernel's parameter `fpt_mutant` numbers them.
const WRONG: [(u32, &str); 15] = [
    (1, "unmap: a table is empty if its first entry is none"),
    (2, "unmap: the last page of a range is forgotten"),
    (3, "fork: some pages stay writable"),
    (4, "fork: the child lacks the last page of a range"),
    (5, "reclaim: a dirty bit is lost"),
    (6, "T2: the slice beside the right one"),
    (7, "MADV_DONTNEED: the first page keeps its contents"),
    (8, "mremap: some pages are left behind"),
    (9, "mprotect: the last page is forgotten"),
    (10, "mprotect: full tables are forgotten"),
    (11, "copy on write: a shared page is written to"),
    (12, "MADV_DONTNEED: a page too many"),
    (13, "mprotect: some pages stay writable"),
    (14, "T4: the slot keeps its node"),
    (15, "T9: some pages are left behind"),
];

/// The fuzzer under a name that meets no mistake. The processes that it watches have the other one.
const WATCHER: &str = "fuzz";
/// What was found, in the run folder.
const TABLE: &str = "mutants.txt";
/// A mistake must be found in so many seconds.
const FUZZ_S: u64 = 300;

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Flushes(args) => flushes::main(ctx, &args),
        Command::Mutants(only) => {
            let mutants = only.of(&MUTANTS, |m| m.number)?;
            let (stand, plugin) = Stand::of_flushes(ctx)?;
            stand.command("tlbsan", &mutants, |run, m| stand.flush(run, &plugin, m))
        }
        Command::FuzzMutants(only) => {
            let wrong = only.of(&WRONG, |m| m.0)?;
            let stand = Stand::of_tables(ctx)?;
            stand.command("fuzz-mutants", &wrong, |run, m| stand.fuzz(run, m))
        }
    }
}

/// Every mistake once, for a stage of `test`.
pub fn cases(ctx: &Ctx, run: &RunDir) -> Result<Vec<Case>> {
    let (stand, plugin) = Stand::of_flushes(ctx)?;
    let mut report = stand.all(run, &MUTANTS, |run, m| stand.flush(run, &plugin, m))?;
    let stand = Stand::of_tables(ctx)?;
    let tables = stand.all(run, &WRONG, |run, m| stand.fuzz(run, m))?;
    report.cases.extend(tables.cases);
    Ok(report.cases)
}

/// A program of `selftests/fpt`, static, by the host's compiler: it needs nothing of the kernel's tree.
fn compiled(ctx: &Ctx, name: &str, parts: &[&str]) -> Result<PathBuf> {
    let dir = ctx.root.join("selftests/fpt");
    let mut inputs = hash::Inputs::new();
    inputs.text("program", name).tree("fpt", &dir)?;
    let hash = inputs.finish();
    let target = artefact::dir(ctx, "selftest", &hash).join(name);
    if target.is_file() {
        return Ok(target);
    }
    let stage = ctx.ui.stage(&format!("compile {name}"));
    let sources = parts.iter().map(|p| dir.join(format!("{name}_{p}.c")));
    let new = store::NewDir::new(&artefact::dir(ctx, "selftest", &hash))?;
    let gcc = Cmd::new("gcc")
        .args(["-O2", "-Wall", "-static", "-o"])
        .arg(new.path().join(name))
        .arg(dir.join(format!("{name}.c")))
        .args(sources)
        .arg("-lpthread");
    ctx.step(&stage, &ctx.log_dir().join("selftest.log"), &gcc)?;
    if !ctx.dry_run {
        new.commit()?;
    }
    stage.done("");
    Ok(target)
}

/// Where mutants are tried.
struct Stand<'a> {
    ctx: &'a Ctx,
    parts: Parts,
}

/// What is said of one mutant.
struct Verdict {
    number: u32,
    what: &'static str,
    expected: String,
    case: Case,
}

impl<'a> Stand<'a> {
    fn new(ctx: &'a Ctx, (name, program): &(&str, PathBuf)) -> Result<Stand<'a>> {
        let kernel = parts::kernel(ctx, Profile::Mutants)?;
        let qemu = parts::qemu(ctx, false)?;
        let image = parts::image(ctx, |tree| {
            tree.text(
                "bin/fpt-fuzz",
                0o755,
                include_str!("../../../guest/fuzz.sh"),
            );
            tree.file(&format!("selftests/fpt/{name}"), program)
        })?;
        let parts = Parts {
            kernel,
            qemu,
            image,
        };
        Ok(Stand { ctx, parts })
    }

    /// For missing flushes, with the plugin that must find them.
    fn of_flushes(ctx: &'a Ctx) -> Result<(Stand<'a>, PathBuf)> {
        let program = ("fpt_tlb", compiled(ctx, "fpt_tlb", &[])?);
        Ok((Stand::new(ctx, &program)?, sanitize::plugin(ctx)?))
    }

    /// For tables that are got wrong, with the fuzzer.
    fn of_tables(ctx: &'a Ctx) -> Result<Stand<'a>> {
        let parts = ["model", "range", "map", "advice", "sys", "task"];
        Stand::new(ctx, &(WATCHER, compiled(ctx, "fpt_fuzz", &parts)?))
    }

    fn spec(&self, mode: Mode, append: &[String]) -> Spec {
        Spec {
            mode: Some(mode.into()),
            smp: 2,
            mem: "1G".into(),
            append: append.to_vec(),
            ..self.parts.spec()
        }
    }

    /// Tries them in a run of their own.
    fn command<T>(
        &self,
        name: &'static str,
        mutants: &[T],
        one: impl Fn(&RunDir, &T) -> Verdict,
    ) -> Result<ExitCode> {
        if self.ctx.dry_run {
            let spec = self.spec(Mode::Radix, &[]);
            self.ctx
                .ui
                .command(&spec.command(&self.parts.qemu, &std::env::temp_dir().join("fpt")));
            return Ok(code::OK);
        }
        let run = RunDir::new(self.ctx, name)?;
        self.parts.record(&run);
        rundir::recorded(&run, || {
            let report = self.all(&run, mutants, one)?;
            run.results(&report)?;
            say!("", "{}", std::fs::read_to_string(run.path.join(TABLE))?);
            print_failures(self.ctx, &report);
            Ok(report.conclude())
        })
    }

    /// Tries them one after the other, and keeps a table.
    fn all<T>(
        &self,
        run: &RunDir,
        mutants: &[T],
        one: impl Fn(&RunDir, &T) -> Verdict,
    ) -> Result<Report> {
        let mut report = Report::default();
        let head = format!(
            "{:>6}  {:<56}{:<12}{:<12}{:>7}\n",
            "mutant", "what", "expected", "caught by", "seconds"
        );
        run.append(TABLE, &head)?;
        for mutant in mutants {
            let v = one(run, mutant);
            let caught = match v.case.outcome {
                Outcome::Passed => v.case.detail.lines().next().unwrap_or("").to_string(),
                Outcome::Failed => "NOTHING".into(),
                Outcome::Skipped => "not here".into(),
            };
            let line = format!(
                "{:>6}  {:<56}{:<12}{:<12}{:>7.1}\n",
                v.number,
                v.what,
                v.expected,
                caught,
                v.case.ms as f64 / 1000.0
            );
            self.ctx.ui.info(line.trim_end());
            run.append(TABLE, &line)?;
            report.cases.push(v.case);
        }
        Ok(report)
    }

    fn flush(&self, run: &RunDir, plugin: &std::path::Path, m: &Mutant) -> Verdict {
        let start = Instant::now();
        let name = format!("{} {}", m.number, m.what);
        let case = match m.situation {
            Err(why) => Case::skipped("tlbsan", &name, why),
            Ok(situation) => {
                let found = self.situation(run, plugin, (m, situation));
                let ms = start.elapsed().as_millis() as u64;
                match found {
                    Ok(rules) if rules.iter().any(|r| r == m.rule) => {
                        Case::new("tlbsan", &name, Outcome::Passed, rules.join(" "), ms)
                    }
                    Ok(rules) if rules.is_empty() => {
                        Case::failed("tlbsan", &name, "nothing was found", ms)
                    }
                    Ok(rules) => {
                        let why = format!("found {} instead of {}", rules.join(" "), m.rule);
                        Case::failed("tlbsan", &name, why, ms)
                    }
                    Err(e) => Case::failed("tlbsan", &name, format!("{e:#}"), ms),
                }
            }
        };
        Verdict {
            number: m.number,
            what: m.what,
            expected: m.rule.into(),
            case,
        }
    }

    /// The rules that were broken. A guest that dies of the mistake has been watched up to then.
    fn situation(
        &self,
        run: &RunDir,
        plugin: &std::path::Path,
        (m, situation): (&Mutant, &str),
    ) -> Result<Vec<String>> {
        let label = format!("mutant-{}", m.number);
        let out = run.path.join(format!("tlbsan-{label}.json"));
        let mut spec = self.spec(m.mode, &[]);
        Sanitize::default().attach(plugin, &out, &self.parts.qemu, &mut spec);
        let mut guest = Guest::start(self.ctx, run, &self.parts.qemu, &spec, &label)?;
        guest.wait_ready(None)?;
        let number = m.number.to_string();
        let argv = ["./fpt_tlb", situation, &number].map(String::from);
        let done = guest.run(Exec {
            argv: argv.to_vec(),
            cwd: Some("/selftests/fpt".into()),
            timeout_s: 60,
            ..Exec::default()
        });
        let ended = match done {
            Ok((exit, _)) if exit.status() == 0 => guest.quit(),
            Ok((exit, text)) => {
                guest.quit()?;
                return Err(Fail::test(
                    format!("fpt_tlb {situation} ended with {}", exit.status()),
                    text,
                    format!("see {}", run.path.display()),
                ));
            }
            Err(e) => Err(e),
        };
        match ended {
            Err(e) if !vm::is_guest_end(&e) => return Err(e),
            _ => drop(guest),
        }
        let outcome = sanitize::Outcome::read(&out)?;
        run.append(&format!("tlbsan-{label}.txt"), &outcome.text())?;
        if let Some(why) = outcome.broken_linux() {
            return Err(Fail::infra(
                "the sanitizer judged nothing",
                why,
                format!("see {}", out.display()),
            ));
        }
        Ok(outcome.rules())
    }

    fn fuzz(&self, run: &RunDir, &(number, what): &(u32, &'static str)) -> Verdict {
        let start = Instant::now();
        let found = self.fuzzed(run, number);
        let ms = start.elapsed().as_millis() as u64;
        let name = format!("{number} {what}");
        let case = match found {
            Ok(Some(how)) => Case::new("fuzz", &name, Outcome::Passed, how, ms),
            Ok(None) => Case::failed("fuzz", &name, format!("not in {FUZZ_S} s"), ms),
            Err(e) => Case::failed("fuzz", &name, format!("{e:#}"), ms),
        };
        Verdict {
            number,
            what,
            expected: "any".into(),
            case,
        }
    }

    /// How the fuzzer notices a kernel's mistake; nothing if it does not.
    fn fuzzed(&self, run: &RunDir, number: u32) -> Result<Option<String>> {
        let label = format!("wrong-{number}");
        let spec = self.spec(NODES, &[format!("fpt_mutant={number}")]);
        let mut guest = Guest::start(self.ctx, run, &self.parts.qemu, &spec, &label)?;
        guest.wait_ready(None)?;
        guest.shell("fpt-fuzz setup")?;
        // It is to be found; a shortest sequence takes minutes more.
        let line = format!("./{WATCHER} -R -x -t {FUZZ_S} -s 1");
        let done = guest.run(Exec {
            argv: line.split(' ').map(String::from).collect(),
            cwd: Some("/selftests/fpt".into()),
            timeout_s: FUZZ_S + 120,
            ..Exec::default()
        });
        let warned = !guest.splats(&[]).is_empty();
        let how = match done {
            Ok((exit, text)) => {
                run.append(&format!("{label}.log"), &format!("$ {line}\n{text}"))?;
                match exit.status() {
                    _ if text.contains("# MISMATCH ") => Some("mismatch"),
                    _ if warned => Some("warning"),
                    0 => None,
                    // A program that hangs or dies is no program that passes.
                    _ => Some("the end"),
                }
            }
            Err(e) if vm::is_guest_end(&e) => {
                run.append(&format!("{label}.log"), &fail::report(&e).0)?;
                Some("crash")
            }
            Err(e) => return Err(e),
        };
        if how != Some("crash") {
            // What it broke may show when it ends; it has been noticed before that.
            let _ = guest.quit();
        }
        Ok(how.map(String::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (n, m) in MUTANTS.iter().enumerate() {
            assert_eq!(m.number as usize, n + 1, "{}", m.what);
            assert!(["R0", "R1", "R1'", "R2", "R3", "R4", "R5"].contains(&m.rule));
        }
        assert!(WRONG.iter().zip(1..).all(|(m, n)| m.0 == n));
        let only = |only: &[u32]| Only {
            only: only.to_vec(),
        };
        assert_eq!(only(&[]).of(&MUTANTS, |m| m.number).unwrap().len(), 26);
        let some = only(&[3, 2]).of(&MUTANTS, |m| m.number).unwrap();
        assert_eq!(some.iter().map(|m| m.number).collect::<Vec<_>>(), [2, 3]);
        assert!(only(&[27]).of(&MUTANTS, |m| m.number).is_err());
    }

    /// Each place that the kernel's patches number is in a table, and the other way round.
    #[test]
    fn patches_and_tables() {
        let dir =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linux-patches/extra");
        for (file, word, last) in [
            (
                "0003-mm-flushes-that-can-be-left-out.patch",
                "tlb_mutant(",
                26,
            ),
            (
                "0004-mm-tables-that-can-be-got-wrong.patch",
                "fpt_mutant(",
                15,
            ),
        ] {
            let text = std::fs::read_to_string(dir.join(file)).unwrap();
            let added = text.lines().filter(|l| l.starts_with('+'));
            let mut numbers: Vec<u32> = added
                .flat_map(|l| l.split(word).skip(1))
                .filter_map(|rest| rest.split(')').next()?.parse().ok())
                .collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{file}");
        }
        let situations =
            std::fs::read_to_string(dir.join("../../selftests/fpt/fpt_tlb.c")).unwrap();
        for m in &MUTANTS {
            if let Ok(name) = m.situation {
                assert!(situations.contains(&format!("\"{name}\"")), "{name}");
            }
        }
    }
}
