// SPDX-License-Identifier: MIT OR Apache-2.0
//! One cell: boot a guest under the simulator, run the program, collect what both say, doubt it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use fpt_init::proto::Exec;
use fpt_walksim_machine::report::Report;

use super::{catalogue, Bench, Planned};
use fpt_formats::cell::{Cell, Guest as Facts, Provenance, SCHEMA};
use fpt_formats::matrix::Thp;
use fpt_geometry::Boot;
use fpt_kit::{code, fail, proc, store, Fail, Result, Stage};
use fpt_lab::nodes::{self, stats};
use fpt_lab::subject::check_mode;
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::{self, Spec};
use fpt_vm::vm::Guest;

impl Bench<'_> {
    pub(super) fn spec(&self, cell: &Planned, config: &Path, out: &Path) -> Spec {
        let mut append = vec![
            "quiet".to_string(),
            format!("transparent_hugepage={}", self.settings.thp.name()),
        ];
        append.extend(self.settings.append.iter().cloned());
        Spec {
            mode: Some(cell.mode),
            smp: self.settings.vcpus,
            mem: format!("{}M", cell.size.memory_mib),
            append,
            plugin: Some(format!(
                "{},config={},out={},flame={},vmlinux={},label={},helper={}",
                qemu::comma(&self.parts.plugin),
                qemu::comma(config),
                qemu::comma(out),
                qemu::comma(&flame_of(out)),
                qemu::comma(&self.parts.guest.kernel.vmlinux),
                cell.name(),
                if self.helper() { "on" } else { "off" }
            )),
            // Counted time takes one thread, that is one CPU.
            icount: (self.settings.vcpus == 1).then_some(cell.run),
            drives: self
                .parts
                .images
                .get(&cell.workload.name)
                .or(self.parts.edges.as_ref())
                .into_iter()
                .cloned()
                .collect(),
            ..self.parts.guest.spec()
        }
    }

    /// Is there a CPU for a second thread of each guest? With one virtual CPU it changes no figure; with
    /// more, the order in which their misses reach the shared last level would be the host's.
    fn helper(&self) -> bool {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.settings.vcpus == 1 && cpus >= self.jobs * 2
    }

    /// A result without figures yet.
    pub(super) fn blank(&self, cell: &Planned) -> Cell {
        let guest = &self.parts.guest;
        let config = self.config_file(cell.mode);
        let spec = self.spec(cell, &config, &config);
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .map_or("", |l| l.trim_start_matches(['\t', ' ', ':']));
        Cell {
            schema: SCHEMA.into(),
            workload: cell.workload.name.clone(),
            mode: cell.mode,
            scale: self.settings.scale,
            preset: self.settings.preset.clone(),
            thp: self.settings.thp,
            vcpus: self.settings.vcpus,
            memory_mib: cell.size.memory_mib,
            run: cell.run,
            error: None,
            began_utc: rundir::utc(SystemTime::now()),
            seconds: 0.0,
            hash: cell.hash.clone(),
            provenance: Provenance {
                command: rundir::reproducer(),
                kernel_version: guest.kernel.version.clone(),
                kernel_hash: guest.kernel.hash.clone(),
                qemu_version: guest.qemu.version.clone(),
                qemu_hash: guest.qemu.hash.clone(),
                initramfs_hash: guest.image.hash.clone(),
                plugin_hash: self.parts.plugin_hash.clone(),
                config_hash: fpt_kit::hash::of_text(&self.settings.config),
                real_only: cell.mode != Boot::RADIX && self.parts.config_of_others.is_some(),
                commit: self.parts.commit.clone(),
                argv: cell.size.argv.clone(),
                edges: self.settings.edges.clone(),
                kernel_args: spec.kernel_args(),
                icount: spec.icount.is_some(),
                host_cpu: cpu.to_string(),
                host_cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            },
            walksim: None,
            guest: Facts::default(),
        }
    }
}

/// Fills `made`; an error says why it has no valid figures.
pub(super) fn run(
    bench: &Bench,
    run: &RunDir,
    cell: &Planned,
    stage: &Stage,
    made: &mut Cell,
) -> Result<()> {
    let name = cell.name();
    // The simulator's own file is an intermediate: what counts goes into the cell.
    let out = bench.folder.join(format!(".{name}.walksim.json"));
    let (flame, kept) = (flame_of(&out), bench.file(&name).with_extension(FLAME));
    let _guards = [proc::remove_on_exit(&out), proc::remove_on_exit(&flame)];
    for old in [&out, &flame, &kept] {
        if old.exists() {
            std::fs::remove_file(old)
                .with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    let spec = bench.spec(cell, &bench.config_file(cell.mode), &out);
    let result = guest(bench, run, cell, stage, &spec, &mut made.guest);
    let figures = figures(&out);
    // Also of a guest that died: they may tell how far it came.
    made.walksim = figures.as_ref().ok().cloned();
    let result = result.and_then(|()| check(&figures?)).and_then(|()| {
        std::fs::rename(&flame, &kept).map_err(|e| {
            Fail::test(
                "the simulator left no file of the page-fault path",
                e.to_string(),
                "see qemu.log in the run folder",
            )
        })
    });
    for old in [&out, &flame] {
        if old.exists() {
            let _ = std::fs::remove_file(old);
        }
    }
    result
}

/// What the files with the stacks of page faults are called, beside the cells.
const FLAME: &str = "folded";

fn flame_of(out: &Path) -> PathBuf {
    out.with_extension(FLAME)
}

fn guest(
    bench: &Bench,
    run: &RunDir,
    cell: &Planned,
    stage: &Stage,
    spec: &Spec,
    facts: &mut Facts,
) -> Result<()> {
    let mut guest = Guest::start(bench.ctx, run, &bench.parts.guest.qemu, spec, &cell.name())?;
    guest.wait_ready(Some(stage))?;
    check_mode(&mut guest, cell.mode)?;
    check_thp(&mut guest, bench.settings.thp)?;
    facts.uname = guest.boot.uname.clone();
    facts.fpt_stats_before = stats(&mut guest)?;
    facts.page_tables_before_kb = page_tables(&mut guest)?;
    let limit = Duration::from_secs(cell.size.timeout_s.saturating_mul(bench.args.patience));
    let exec = Exec {
        id: guest.new_id(),
        argv: cell.size.argv.clone(),
        ..Exec::default()
    };
    let id = exec.id;
    guest.start_exec(exec)?;
    let mut text = Vec::new();
    // The host's clock: the guest's counts instructions.
    let exit = guest
        .wait_exit(id, None, Some(limit), &mut |_, data| {
            text.extend_from_slice(data);
            for line in String::from_utf8_lossy(data).lines() {
                stage.line(line);
            }
            Ok(())
        })
        .map_err(|err| match fail::report(&err).1 {
            code::TIMEOUT => Fail::new(
                code::TIMEOUT,
                format!("{} ran into its time limit", cell.name()),
                format!("not ended after {} s", limit.as_secs()),
                format!(
                    "give it more with --patience, or raise timeout_s in {}",
                    catalogue::FILE
                ),
            )
            .into(),
            _ => err,
        })?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let _ = store::write_atomic(
        &run.path.join(format!("program-{}.log", cell.name())),
        text.as_bytes(),
    );
    let last = text
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("");
    facts.said = serde_json::from_str(last).unwrap_or(serde_json::Value::Null);
    let passed = facts.said.get("ok") == Some(&serde_json::Value::Bool(true));
    if exit.status() != 0 || !passed {
        let why = match facts.said.get("check").and_then(|c| c.as_str()) {
            Some(check) => check,
            None => last,
        };
        return Err(Fail::test(
            format!(
                "{} failed its own check ({})",
                cell.name(),
                said_status(exit.status())
            ),
            why,
            format!(
                "its output: {}",
                run.path
                    .join(format!("program-{}.log", cell.name()))
                    .display()
            ),
        ));
    }
    facts.page_tables_kb = facts
        .said
        .get("page_tables_kb")
        .and_then(serde_json::Value::as_u64);
    facts.fpt_stats = stats(&mut guest)?;
    nodes::made(cell.mode, &facts.fpt_stats)?;
    guest.quit()?;
    match guest.splats(&[]).first() {
        None => Ok(()),
        Some(splat) => Err(Fail::test(
            format!("the kernel warned in {}", cell.name()),
            splat.line.clone(),
            "see its console log",
        )),
    }
}

fn said_status(status: i32) -> String {
    match status {
        0 => "it says so, with exit code 0".into(),
        n => format!("exit code {n}"),
    }
}

/// The kernel may think otherwise, for example that the guest is too small for huge pages.
pub fn check_thp(guest: &mut Guest, wanted: Thp) -> Result<()> {
    let text =
        guest.shell("cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null || true")?;
    let set = text.split_once('[').and_then(|(_, t)| t.split_once(']'));
    match set.map(|(set, _)| set) {
        Some(set) if set == wanted.name() => Ok(()),
        None if wanted == Thp::Never => Ok(()),
        other => Err(Fail::test(
            format!(
                "the guest's transparent huge pages are not '{}'",
                wanted.name()
            ),
            match other {
                Some(set) => format!("it says '{set}'"),
                None => "its kernel has none".into(),
            },
            "see its console log",
        )),
    }
}

/// All page tables of the guest now.
fn page_tables(guest: &mut Guest) -> Result<Option<u64>> {
    let text = guest.shell("cat /proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("PageTables:"));
    Ok(line.and_then(|l| l.split_whitespace().next()?.parse().ok()))
}

fn figures(out: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(out).map_err(|e| {
        Fail::test(
            "the simulator left no result",
            e.to_string(),
            "see qemu.log in the run folder",
        )
    })?;
    serde_json::from_str(&text).map_err(|e| {
        Fail::test(
            "the simulator's result cannot be read",
            e.to_string(),
            format!("this tool reads {}", fpt_walksim_machine::report::SCHEMA),
        )
    })
}

/// Of this many accesses at most one may find its page gone from the tables (`stale`), and of this many kernel
/// instructions at most one may be without a known entry (`lost_entries`). Sound cells have none of either;
/// two CPUs may meet a few.
const STALE_ONE_IN: u64 = 100_000;
const LOST_ONE_IN: u64 = 1000;

/// Figures that are not whole, that the simulator itself doubts, or for which nothing was checked, are none.
pub(super) fn check(report: &Report) -> Result<()> {
    let bad = |why: String| {
        Err(Fail::test(
            "the simulator's figures are not valid",
            why,
            "this is a fault of the simulator or of the marks of the program",
        ))
    };
    if report.schema != fpt_walksim_machine::report::SCHEMA {
        return bad(format!("schema {}", report.schema));
    }
    if let Some(error) = report.errors.first() {
        return bad(error.clone());
    }
    if report.checks.mismatches > 0 {
        return bad(format!(
            "{} walks differ from QEMU's own translation",
            report.checks.mismatches
        ));
    }
    if report.checks.conservation != "ok" {
        return bad(report.checks.conservation.clone());
    }
    if !report.complete {
        return bad("a phase has not ended".into());
    }
    for name in ["load", "run"] {
        match report.phases.iter().find(|p| p.name == name) {
            None => return bad(format!("there is no phase '{name}'")),
            Some(p) if p.instructions.user == 0 => {
                return bad(format!("phase '{name}' has no user instruction"))
            }
            Some(p) if !p.organisations.iter().any(|o| o.name == "real") => {
                return bad(format!("phase '{name}' has no figures of the real tables"))
            }
            Some(_) => {}
        }
    }
    let real = || {
        let organisations = report.phases.iter().flat_map(|p| &p.organisations);
        organisations.filter(|o| o.name == "real")
    };
    let walks: u64 = real().map(|o| o.walks).sum();
    if walks == 0 {
        return bad("no walk through the real tables was seen".into());
    }
    let every = report.config.sim.check_every;
    if every > 0 && report.checks.walks_checked == 0 {
        return bad(format!(
            "none of {walks} walks was compared with QEMU's own translation (sim.check_every = {every})"
        ));
    }
    let faults =
        |p: &fpt_walksim_machine::report::Phase| p.instructions.kernel_by_category.page_fault;
    if report
        .phases
        .iter()
        .any(|p| p.name == "load" && faults(p) == 0)
    {
        return bad("phase 'load' has no page fault, although it touches new memory".into());
    }
    let accesses: u64 = report.phases.iter().map(|p| p.accesses.data()).sum();
    let stale = report.checks.stale;
    if stale > accesses / STALE_ONE_IN {
        return bad(format!(
            "{stale} of {accesses} data accesses found their page gone from the tables (stale)"
        ));
    }
    let kernel: u64 = report.phases.iter().map(|p| p.instructions.kernel).sum();
    let lost = report.checks.lost_entries;
    if lost > kernel / LOST_ONE_IN {
        return bad(format!(
            "{lost} of {kernel} kernel instructions have no known entry (lost_entries)"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use fpt_geometry::{Boot, Mode};
    use fpt_testkit::synthetic::{report, spoil};

    #[test]
    fn made_up_results_pass_the_check() {
        for mode in Boot::ALL {
            check(&report(mode, "x")).unwrap();
        }
        let mut bad = report(Mode::Radix, "x");
        bad.checks.mismatches = 1;
        assert!(check(&bad).is_err());
        let mut bad = report(Mode::Radix, "x");
        bad.phases.pop();
        assert!(check(&bad).is_err());
        let mut bad = report(Mode::Radix, "x");
        bad.errors.push("x".into());
        assert!(check(&bad).is_err());
        let mut bad = report(Mode::Radix, "x");
        bad.complete = false;
        assert!(check(&bad).is_err());
        for what in ["no-walks", "nothing-checked", "no-faults", "stale", "lost"] {
            let mut bad = report(Mode::Radix, "x");
            spoil(&mut bad, what);
            assert!(check(&bad).is_err(), "{what}");
        }
        // A few are no fault, and who wants no checks has none.
        let mut good = report(Mode::Radix, "x");
        good.checks.stale = 25;
        good.checks.lost_entries = 2000;
        good.checks.walks_checked = 0;
        good.config.sim.check_every = 0;
        check(&good).unwrap();
    }
}
