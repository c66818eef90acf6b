// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--sanitize tlb`: the flush sanitizer watches the guest, and what it finds makes the run red.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::Deserialize;

use super::parts;
use fpt_kbuild::build;
use fpt_kit::{Cmd, Ctx, Fail, Result};
use fpt_verdict::results::{self, Case};
use fpt_verdict::rundir::RunDir;
use fpt_vm::qemu::{self, Program, Spec};

/// Layout of what the plugin writes.
const SCHEMA: &str = "fpt-tlbsan/2";
/// The plugin watches so much memory.
const MOST_MIB: u64 = 32 << 10;

/// The help of the option.
pub const HELP: &str = "Watch for missing TLB flushes: tlb[,psc=tce][,kernel=strict][,late=SECONDS]; docs/explanation/tlbsan.md";

/// What is asked for: `tlb[,psc=tce][,kernel=strict][,late=SECONDS]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sanitize {
    /// Arguments for the plugin.
    arguments: Vec<String>,
}

impl FromStr for Sanitize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Sanitize, String> {
        let mut words = text.split(',');
        if words.next() != Some("tlb") {
            return Err(format!("'{text}': the one sanitizer there is is 'tlb'"));
        }
        let mut arguments = Vec::new();
        for word in words {
            let good = match word.split_once('=') {
                Some(("psc", v)) => ["intel", "tce"].contains(&v),
                Some(("kernel", v)) => ["lazy", "strict"].contains(&v),
                Some(("late", v)) => v.parse::<u64>().is_ok_and(|s| s > 0),
                _ => false,
            };
            if !good {
                return Err(format!(
                    "'{word}' is no option of the sanitizer: psc=intel|tce, kernel=lazy|strict, late=SECONDS"
                ));
            }
            arguments.push(word.to_owned());
        }
        Ok(Sanitize { arguments })
    }
}

/// What the plugin left when QEMU ended.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    schema: String,
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are no errors.
    pub warnings: u64,
    findings: Vec<Finding>,
    /// What became of the bare-metal cases, where they ran.
    pub cases: Option<Cases>,
    canaries: Canaries,
    run_error: Option<String>,
    internal: Vec<String>,
    /// What the sanitizer saw; nothing seen is no result.
    pub events: Events,
    /// Who asked for flushes, if that was kept.
    pub asked: Option<Asked>,
}

/// All flushes, by the calls that led to them.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// Each kind of flush and stack of calls, the most first.
    pub rows: Vec<AskedRow>,
    /// Flushes that are in no row, because there were too many.
    pub lost: u64,
}

/// Flushes of one kind and of one stack of calls.
#[derive(Debug, Deserialize)]
pub struct AskedRow {
    /// The instruction.
    pub what: String,
    /// By an interrupt that another CPU sent; the calls are that one's.
    pub remote: bool,
    /// Functions, innermost first.
    pub stack: Vec<String>,
    /// How often.
    pub count: u64,
    /// Those that ended nothing.
    pub idle: u64,
    /// Translations of pages that were pending.
    pub leaves: u64,
    /// Cached tables that were pending.
    pub tables: u64,
}

#[derive(Debug, Deserialize)]
struct Finding {
    rule: String,
    warning: bool,
    count: u64,
    text: String,
}

/// Cases of a guest that knows what is to be found.
#[derive(Debug, Deserialize)]
pub struct Cases {
    /// How many checks there were.
    pub checks: u64,
    /// How many of them failed.
    pub failed: u64,
    /// What failed, a line each.
    pub failures: Vec<String>,
}

/// Flushes that a kernel with marks leaves out on purpose.
#[derive(Debug, Deserialize)]
pub struct Canaries {
    /// The kernel has marks, and so canaries.
    marked: bool,
    /// It said so before each.
    announced: u64,
    /// Tables, and pages, that were found.
    tables: u64,
    pages: u64,
}

impl Canaries {
    /// Why the run proves nothing, if it does not.
    fn missed(&self) -> Option<&'static str> {
        match self {
            Canaries { marked: false, .. } => None,
            Canaries { announced: 0, .. } => Some("the kernel made no canary"),
            Canaries { tables: 0, .. } => Some("it missed the canary that frees a table"),
            Canaries { pages: 0, .. } => Some("it missed the canary that frees a page"),
            Canaries { .. } => None,
        }
    }
}

/// How much was seen.
#[derive(Debug, Deserialize)]
pub struct Events {
    /// Stores to page tables.
    pub stores: u64,
    /// Invalidations.
    pub flushes: u64,
    /// Invalidations that nothing needed.
    pub idle_flushes: u64,
    /// Pages that went back to the allocator.
    pub frees: u64,
    switches: u64,
}

impl Outcome {
    /// Reads a report of the sanitizer.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is of another version.
    pub fn read(path: &Path) -> Result<Outcome> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "the sanitizer left no result in {}: did QEMU end by itself?",
                path.display()
            )
        })?;
        let outcome: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of the sanitizer", path.display()))?;
        if outcome.schema != SCHEMA {
            return Err(Fail::infra(
                format!("{} has another layout", path.display()),
                format!("it says {}, this tool reads {SCHEMA}", outcome.schema),
                "build plugin and tool from one checkout",
            ));
        }
        Ok(outcome)
    }

    /// Why the run judged nothing, if it did not.
    pub fn broken(&self) -> Option<&str> {
        let internal = self.internal.first().map(String::as_str);
        let unseen = (self.events.stores == 0).then_some("it saw no store to a page table");
        self.run_error.as_deref().or(internal).or(unseen)
    }

    /// The same of a guest that is Linux, which has tasks.
    pub fn broken_linux(&self) -> Option<&str> {
        let tasks = (self.events.switches == 0).then_some("it saw no task switch");
        self.broken().or(tasks).or(self.canaries.missed())
    }

    /// Rules that were broken, each once; warnings aside.
    pub fn rules(&self) -> Vec<String> {
        let errors = self.findings.iter().filter(|f| !f.warning);
        let mut rules: Vec<String> = errors.map(|f| f.rule.clone()).collect();
        rules.sort();
        rules.dedup();
        rules
    }

    /// All findings as text.
    pub fn text(&self) -> String {
        let times = |f: &Finding| match f.count {
            1 => String::new(),
            n => format!("  count    {n}\n"),
        };
        let all = self.findings.iter();
        all.map(|f| format!("{}{}\n", f.text, times(f))).collect()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let e = &self.events;
        format!(
            "sanitizer: {} findings, {} warnings; {} stores to tables, {} flushes of which {} ended nothing, {} frees, {}",
            self.errors,
            self.warnings,
            e.stores,
            e.flushes,
            e.idle_flushes,
            e.frees,
            if self.canaries.marked { "both canaries found" } else { "no marks in this kernel" }
        )
    }
}

/// The plugin: a shared object for QEMU.
pub fn plugin(ctx: &Ctx) -> Result<PathBuf> {
    match parts::named("FPT_TLBSAN", "sanitizer")? {
        Some(path) => Ok(path),
        None => build::plugin(ctx, "build the sanitizer", "tlbsan"),
    }
}

/// The plugin's result in a run's folder.
pub fn result_path(run: &RunDir) -> PathBuf {
    run.path.join("tlbsan.json")
}

impl Sanitize {
    /// Keeps who asked for each flush.
    pub fn with_askers() -> Sanitize {
        Sanitize {
            arguments: vec!["flushes=on".into()],
        }
    }

    /// Refuses what the sanitizer cannot watch, before anything is built.
    pub fn check(&self, mem: &str, stock_qemu: bool) -> Result<()> {
        if stock_qemu {
            return Err(Fail::usage(
                "--sanitize does not go with --stock-qemu",
                "the distribution's QEMU does not tell of INIT and page faults",
                "leave one out",
            ));
        }
        if qemu::mebibytes(mem).is_none_or(|mib| mib > MOST_MIB) {
            return Err(Fail::usage(
                format!("--sanitize does not go with --mem {mem}"),
                "the plugin does not watch so much",
                "give it 32G or less",
            ));
        }
        Ok(())
    }

    /// Lets the plugin watch the guest.
    pub fn attach(&self, plugin: &Path, out: &Path, program: &Program, spec: &mut Spec) {
        let mut argument = format!(
            "{},out={},vmlinux={},fpt={}",
            qemu::comma(plugin),
            qemu::comma(out),
            qemu::comma(&spec.kernel),
            if program.fpt { "on" } else { "off" }
        );
        for more in &self.arguments {
            argument.push(',');
            argument.push_str(more);
        }
        spec.plugin = Some(argument);
        spec.shared_ram = true;
    }

    /// Reads the result of a run that has ended, and keeps it as text. The number of findings.
    pub fn judge(&self, ctx: &Ctx, run: &RunDir) -> Result<u64> {
        let outcome = Outcome::read(&result_path(run))?;
        run.append("tlbsan.txt", &outcome.text())?;
        run.set(
            "sanitizer",
            serde_json::json!({ "errors": outcome.errors, "warnings": outcome.warnings }),
        );
        if let Some(why) = outcome.broken_linux() {
            return Err(Fail::infra(
                "the sanitizer judged nothing",
                why,
                format!("see {}", result_path(run).display()),
            ));
        }
        if outcome.errors > 0 {
            ctx.ui.warn(&format!(
                "{}; all of them in {}",
                outcome.text().lines().next().unwrap_or(""),
                run.path.join("tlbsan.txt").display()
            ));
        }
        ctx.ui.info(&outcome.summary());
        Ok(outcome.errors)
    }
}

/// The sanitizer in several guests of one run, each with a result of its own.
#[derive(Clone, Debug)]
pub struct Watched {
    sanitize: Sanitize,
    plugin: PathBuf,
    /// Guests that it was attached to.
    guests: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    /// Checks what was asked for, and builds the plugin.
    pub fn new(ctx: &Ctx, asked: Option<&Sanitize>, mem: &str) -> Result<Option<Watched>> {
        let Some(sanitize) = asked else {
            return Ok(None);
        };
        sanitize.check(mem, false)?;
        Ok(Some(Watched {
            sanitize: sanitize.clone(),
            plugin: plugin(ctx)?,
            guests: Arc::default(),
        }))
    }

    fn path(run: &Path, guest: &str) -> PathBuf {
        run.join(format!("tlbsan-{guest}.json"))
    }

    /// Lets the plugin watch a guest.
    pub fn attach(&self, run: &Path, guest: &str, program: &Program, spec: &mut Spec) {
        let out = Watched::path(run, guest);
        self.sanitize.attach(&self.plugin, &out, program, spec);
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.push(guest.to_string());
    }

    /// What came of all guests; one that left no result is red.
    pub fn cases(&self, run: &Path) -> Vec<Case> {
        let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let all = guests.iter().map(|guest| {
            let (suite, name) = ("sanitizer", format!("no flush is missing in {guest}"));
            let outcome = match Outcome::read(&Watched::path(run, guest)) {
                Ok(outcome) => outcome,
                Err(e) => return Case::failed(suite, &name, format!("{e:#}"), 0),
            };
            if let Some(why) = outcome.broken_linux() {
                return Case::failed(suite, &name, format!("it judged nothing: {why}"), 0);
            }
            match outcome.errors {
                0 => Case::new(suite, &name, results::Outcome::Passed, outcome.summary(), 0),
                n => Case::failed(suite, &name, format!("{n} findings\n{}", outcome.text()), 0),
            }
        });
        all.collect()
    }
}

/// Runs the bare-metal program whose cases say what is to be found. Its CPUs wait for each other all the
/// time, which is quickest if they take turns.
pub fn cases_command(
    qemu: &Program,
    plugin: &Path,
    (program, psc): (&Path, &str),
    result: &Path,
) -> Cmd {
    let mut cmd = Cmd::new(&qemu.bin);
    if let Some(dir) = &qemu.datadir {
        cmd = cmd.arg("-L").arg(dir);
    }
    cmd.args(["-M", "q35,memory-backend=ram", "-m", "128M", "-object"])
        .arg("memory-backend-memfd,id=ram,size=128M,share=on")
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-vga",
            "none",
            "-no-reboot",
        ])
        .args(["-accel", "tcg,thread=single", "-cpu", "max,fpt=on"])
        .args(["-smp", "2", "-chardev", "stdio,id=output"])
        .args(["-device", "isa-debugcon,chardev=output"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"])
        .arg("-kernel")
        .arg(program)
        .arg("-plugin")
        .arg(format!(
            "{},out={},fpt=on,tasks=cpu,cases=on,{psc}",
            qemu::comma(plugin),
            qemu::comma(result)
        ))
}

/// The program went through all its cases, and the plugin found in each what it had to.
pub fn judge_cases(said: &str, result: &Path) -> std::result::Result<(), String> {
    let number = |l: &str| {
        l.strip_prefix("DONE: ")?
            .strip_suffix(" cases")?
            .parse()
            .ok()
    };
    let done: Option<u64> = said.lines().find_map(number);
    let done = done.ok_or("no line 'DONE: N cases'")?;
    let outcome = Outcome::read(result).map_err(|e| format!("{e:#}"))?;
    if let Some(why) = outcome.broken() {
        return Err(format!("the sanitizer judged nothing: {why}"));
    }
    let cases = outcome.cases.ok_or("the sanitizer knows no cases")?;
    if cases.failed > 0 || cases.checks != done || done == 0 {
        return Err(format!(
            "{} of {} cases failed, {done} were made\n{}",
            cases.failed,
            cases.checks,
            cases.failures.join("\n")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Sanitize, String> {
        text.parse()
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(parse("tlb"), Ok(Sanitize::default()));
        let all = parse("tlb,psc=tce,kernel=strict,late=2").unwrap();
        assert_eq!(all.arguments, ["psc=tce", "kernel=strict", "late=2"]);
        for bad in [
            "",
            "kasan",
            "tlb,psc=amd",
            "tlb,late=0",
            "tlb,",
            "tlb,out=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_it_cannot_watch() {
        let it = Sanitize::default();
        assert!(it.check("32G", false).is_ok() && it.check("512M", false).is_ok());
        assert!(it.check("33G", false).is_err() && it.check("1G", true).is_err());
        assert!(it.check("32769M", false).is_err());
    }

    #[test]
    fn every_guest_is_judged() {
        let run = tempfile::tempdir().unwrap();
        let watched = Watched {
            sanitize: Sanitize::default(),
            plugin: "/p.so".into(),
            guests: Arc::default(),
        };
        for (guest, text) in [
            (
                "good",
                result(7, "null", "").replace("\"errors\":2", "\"errors\":0"),
            ),
            ("bad", result(7, "null", "")),
            ("full", result(7, "\"full\"", "")),
        ] {
            watched.guests.lock().unwrap().push(guest.into());
            std::fs::write(Watched::path(run.path(), guest), text).unwrap();
        }
        watched.guests.lock().unwrap().push("dead".into());
        let cases = watched.cases(run.path());
        let red = |c: &Case| c.outcome == results::Outcome::Failed;
        assert_eq!(
            cases.iter().map(red).collect::<Vec<_>>(),
            [false, true, true, true]
        );
        assert!(
            cases[1].detail.contains("2 findings\nTLBSAN R1"),
            "{}",
            cases[1].detail
        );
    }

    #[test]
    fn cases_are_judged() {
        let judged = |said: &str, cases: &str| {
            let path = tempfile::NamedTempFile::new().unwrap();
            let text =
                result(7, "null", "").replace("\"cases\":null", &format!("\"cases\":{cases}"));
            std::fs::write(path.path(), text).unwrap();
            judge_cases(said, path.path())
        };
        let good = r#"{"checks":3,"failed":0,"failures":[]}"#;
        assert_eq!(judged("x\nDONE: 3 cases\n", good), Ok(()));
        let bad = r#"{"checks":3,"failed":1,"failures":["case 0x1: found nothing"]}"#;
        assert!(judged("DONE: 3 cases", bad)
            .unwrap_err()
            .contains("case 0x1"));
        // It stopped early, the plugin missed some, there were none, or no plugin counted.
        for (said, cases) in [
            ("", good),
            ("DONE: 4 cases", good),
            ("DONE: 0 cases", r#"{"checks":0,"failed":0,"failures":[]}"#),
            ("DONE: 3 cases", "null"),
        ] {
            assert!(judged(said, cases).is_err(), "{said} {cases}");
        }
        assert!(judge_cases("DONE: 3 cases", Path::new("/nowhere")).is_err());
    }

    fn outcome(text: &str) -> Result<Outcome> {
        let path = tempfile::NamedTempFile::new()?;
        std::fs::write(path.path(), text)?;
        Outcome::read(path.path())
    }

    fn result(stores: u64, run_error: &str, internal: &str) -> String {
        format!(
            r#"{{"schema":"fpt-tlbsan/2","errors":2,"warnings":0,
            "findings":[{{"rule":"R1","warning":false,"count":2,"text":"TLBSAN R1: x\n  entry y\n"}}],"cases":null,
            "canaries":{{"marked":true,"announced":6,"tables":3,"pages":2}},
            "run_error":{run_error},"internal":[{internal}],
            "events":{{"stores":{stores},"flushes":3,"idle_flushes":1,"frees":0,"switches":1}}}}"#
        )
    }

    #[test]
    fn results() {
        let good = outcome(&result(7, "null", "")).unwrap();
        assert_eq!((good.errors, good.broken()), (2, None));
        assert!(good.text().starts_with("TLBSAN R1: x\n") && good.text().contains("count    2"));
        assert_eq!(good.rules(), ["R1"]);
        assert!(good
            .summary()
            .contains("3 flushes of which 1 ended nothing"));
        // A run that saw nothing, or stopped to judge, is none without findings.
        assert!(outcome(&result(0, "null", "")).unwrap().broken().is_some());
        assert_eq!(good.broken_linux(), None);
        let still = result(7, "null", "").replace("\"switches\":1", "\"switches\":0");
        let still = outcome(&still).unwrap();
        assert_eq!(
            (still.broken(), still.broken_linux().is_some()),
            (None, true)
        );
        for (from, to) in [
            ("\"announced\":6", "\"announced\":0"),
            ("\"tables\":3", "\"tables\":0"),
            ("\"pages\":2", "\"pages\":0"),
        ] {
            let text = result(7, "null", "").replace(from, to);
            assert!(outcome(&text).unwrap().broken_linux().is_some(), "{to}");
            let unmarked = text.replace("\"marked\":true", "\"marked\":false");
            assert_eq!(outcome(&unmarked).unwrap().broken_linux(), None, "{to}");
        }
        let full = outcome(&result(7, "\"full\"", "")).unwrap();
        assert_eq!(full.broken(), Some("full"));
        let panicked = outcome(&result(7, "null", "\"panic\"")).unwrap();
        assert_eq!(panicked.broken(), Some("panic"));
        assert!(outcome("{}").is_err());
        let other = result(7, "null", "").replace("tlbsan/2", "tlbsan/1");
        assert!(outcome(&other).is_err());
        assert!(Outcome::read(Path::new("/nowhere")).is_err());
    }
}
