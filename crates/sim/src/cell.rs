// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: boot a guest under the simulator, run the program, collect what both say, doubt it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fpt_init::proto::{Exec, Seen, Stream};
use fpt_walksim_machine::report::Report;
use sha2::{Digest as _, Sha256};

use crate::{figures, signal, Sim};
use fpt_bench::check_thp;
use fpt_geometry::Boot;
use fpt_kit::{code, fail, Fail, Result, Stage};
use fpt_lab::nodes::{self, stats};
use fpt_lab::pieces;
use fpt_lab::subject::check_mode;
use fpt_verdict::rundir::RunDir;
use fpt_vm::qemu::{self, Spec};
use fpt_vm::vm::{Exit, Guest};

/// Bytes of the program's output that are kept.
pub const MOST_OUTPUT: u64 = 16 << 20;
/// Where the guest writes down what it saw of the processes.
const SEEN: &str = "/.sim/seen";

/// What one run came to.
pub struct Cell {
    pub mode: Boot,
    pub run: u32,
    pub exit: Exit,
    pub seconds: f64,
    /// Of what the program wrote, by stream.
    pub output: [String; 2],
    pub output_cut: bool,
    pub out_of_memory: bool,
    /// The first warning of the guest's kernel.
    pub splat: Option<String>,
    pub report: Report,
    /// Counters of the flattened tables, less what they were before the program began.
    pub nodes: BTreeMap<String, i64>,
    pub seen: Vec<Seen>,
}

fn name(mode: Boot, run: u32) -> String {
    match run {
        1 => mode.to_string(),
        n => format!("{mode}.{n}"),
    }
}

impl Cell {
    pub fn name(&self) -> String {
        name(self.mode, self.run)
    }

    /// Passes on what the program wrote. A reader that has gone is no error.
    pub fn replay(&self, sim: &Sim) {
        if fpt_kit::ui::is_json() {
            return;
        }
        let text = |stream| std::fs::read(sim.output(&self.name(), stream)).unwrap_or_default();
        let _ = std::io::stdout().write_all(&text(Stream::Stdout));
        let _ = std::io::stdout().flush();
        let _ = std::io::stderr().write_all(&text(Stream::Stderr));
    }
}

impl Sim<'_> {
    fn output(&self, name: &str, stream: Stream) -> PathBuf {
        self.folder.join(match stream {
            Stream::Stdout => format!("stdout-{name}.txt"),
            Stream::Stderr => format!("stderr-{name}.txt"),
        })
    }

    fn result(&self, name: &str) -> PathBuf {
        self.folder.join(format!("walksim-{name}.json"))
    }

    /// Who causes its walks.
    pub(super) fn walks(&self, name: &str) -> PathBuf {
        self.folder.join(format!("causes-{name}.json"))
    }

    pub(super) fn spec(&self, mode: Boot, run: u32) -> Spec {
        let name = name(mode, run);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Spec {
            mode: Some(mode),
            smp: 1,
            mem: format!("{}M", self.memory_mib),
            append: vec![
                "quiet".into(),
                format!("transparent_hugepage={}", self.args.thp.name()),
                // One program has the same addresses in every mode.
                "norandmaps".into(),
            ],
            share: self.folders.share(),
            plugin: Some(format!(
                "{},config={},out={},walks={},vmlinux={},label={name},helper={}",
                qemu::comma(&self.plugin),
                qemu::comma(&self.config),
                qemu::comma(&self.result(&name)),
                qemu::comma(&self.walks(&name)),
                qemu::comma(&self.parts.kernel.vmlinux),
                if cpus >= self.jobs * 2 { "on" } else { "off" }
            )),
            icount: Some(run),
            ..self.parts.spec()
        }
    }

    fn exec(&self, id: u64) -> Exec {
        let mut argv = ["/init", "mark", "--seen", SEEN].map(String::from).to_vec();
        if self.own_marks() {
            argv.push("--unmarked".into());
        }
        if let Some(file) = self.folders.stdin() {
            argv.extend(["--stdin".into(), file.display().to_string()]);
        }
        argv.push(self.program.path.display().to_string());
        argv.extend(self.args.command.iter().skip(1).cloned());
        Exec {
            id,
            argv: pieces::started(self.args.fragment, argv),
            env: self.env.clone(),
            cwd: Some(self.folders.cwd().display().to_string()),
            most_output: MOST_OUTPUT,
            ..Exec::default()
        }
    }
}

/// The program in one mode.
pub(super) fn run(sim: &Sim, run: &RunDir, mode: Boot, number: u32) -> Result<Cell> {
    let name = name(mode, number);
    let stage = sim.ctx.ui.stage(&name);
    match guest(sim, run, mode, number, &stage) {
        Ok(cell) => {
            stage.done("");
            Ok(cell)
        }
        Err(err) => {
            stage.failed("");
            Err(err)
        }
    }
}

fn guest(sim: &Sim, run: &RunDir, mode: Boot, number: u32, stage: &Stage) -> Result<Cell> {
    let name = name(mode, number);
    let begin = Instant::now();
    let spec = sim.spec(mode, number);
    let mut guest = Guest::start(sim.ctx, run, &sim.parts.qemu, &spec, &name)?;
    guest.wait_ready(Some(stage))?;
    check_mode(&mut guest, mode)?;
    check_thp(&mut guest, sim.args.thp)?;
    sim.folders.mount(sim.program, &mut guest)?;
    let before = stats(&mut guest)?;
    let mut files = Vec::new();
    for stream in [Stream::Stdout, Stream::Stderr] {
        let path = sim.output(&name, stream);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        files.push((file, Sha256::new()));
    }
    let mut written = 0;
    let id = guest.new_id();
    guest.start_exec(sim.exec(id))?;
    let limit = (sim.args.timeout > 0).then(|| Duration::from_secs(sim.args.timeout));
    let exit = guest
        .wait_exit(id, None, limit, &mut |stream, data| {
            for line in String::from_utf8_lossy(data).lines() {
                stage.line(line);
            }
            written += data.len() as u64;
            let at = usize::from(stream == Stream::Stderr);
            match files.get_mut(at) {
                Some((file, hash)) => {
                    hash.update(data);
                    file.write_all(data)
                        .context("cannot keep the program's output")
                }
                None => Ok(()),
            }
        })
        .map_err(|err| match fail::report(&err).1 {
            code::TIMEOUT => Fail::new(
                code::TIMEOUT,
                format!("the program ran into the time limit in {name}"),
                format!(
                    "it has not ended after {} s, with all that it started",
                    sim.args.timeout
                ),
                "give it more with --timeout, or none with --timeout 0",
            )
            .into(),
            _ => err,
        })?;
    let after = stats(&mut guest)?;
    nodes::made(mode, &after)?;
    let (_, seen) = guest.run(Exec {
        argv: vec!["cat".into(), SEEN.into()],
        timeout_s: 600,
        ..Exec::default()
    })?;
    guest.quit()?;
    let out_of_memory = guest.out_of_memory().is_some();
    let mut hashes = files
        .into_iter()
        .map(|(_, hash)| format!("{:x}", hash.finalize()));
    let cell = Cell {
        mode,
        run: number,
        exit,
        seconds: (begin.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        output: [(); 2].map(|()| hashes.next().unwrap_or_default()),
        output_cut: written >= MOST_OUTPUT,
        out_of_memory,
        splat: guest.splats(&[]).first().map(|s| s.line.clone()),
        report: read(sim, &name)?,
        nodes: after
            .into_iter()
            .map(|(k, v)| {
                let was = before.get(&k).copied().unwrap_or(0);
                (k, v - was)
            })
            .collect(),
        seen: seen
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect(),
    };
    check(sim, &cell)?;
    Ok(cell)
}

fn read(sim: &Sim, name: &str) -> Result<Report> {
    let text = std::fs::read_to_string(sim.result(name)).map_err(|e| {
        Fail::test(
            "the simulator left no result",
            e.to_string(),
            format!("see qemu-{name}.log in the run folder"),
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

/// Figures that are not whole, or that the simulator itself doubts, are none.
fn check(sim: &Sim, cell: &Cell) -> Result<()> {
    let report = &cell.report;
    let bad = |why: &str, fix: &str| Err(Fail::test("there are no valid figures", why, fix));
    if report.schema != fpt_walksim_machine::report::SCHEMA {
        return bad(
            &format!("schema {}", report.schema),
            "build the simulator again",
        );
    }
    if report.phases.is_empty() {
        return bad(
            &format!("the program marked no phase ({})", how(cell)),
            "measure its whole run with --phases whole",
        );
    }
    if report
        .errors
        .iter()
        .any(|e| e.contains("began inside phase"))
        && !sim.own_marks()
    {
        return bad(
            "the program, or one that it starts, marks phases itself",
            "add --phases own",
        );
    }
    let open = report.phases.iter().find(|p| !p.ended);
    if let (Some(phase), true) = (open, cell.exit.status() != 0) {
        return bad(
            &format!(
                "the program ended within phase '{}' ({})",
                phase.name,
                how(cell)
            ),
            "measure its whole run with --phases whole, or mend it",
        );
    }
    if let Some(error) = report.errors.first() {
        return bad(error, "see the log of QEMU in the run folder");
    }
    if report.checks.mismatches > 0 || report.checks.conservation != "ok" || !report.complete {
        return bad(
            &format!(
                "{} mismatches, conservation: {}",
                report.checks.mismatches, report.checks.conservation
            ),
            "this is a fault of the simulator",
        );
    }
    let real = |p: &fpt_walksim_machine::report::Phase| {
        p.organisations.iter().any(|o| o.name == figures::REAL)
    };
    if !report.phases.iter().all(real) {
        return bad("a phase has no figures of the real tables", "");
    }
    Ok(())
}

fn how(cell: &Cell) -> String {
    match cell.exit.signal {
        0 => format!("exit code {}", cell.exit.code),
        n => signal(n),
    }
}
