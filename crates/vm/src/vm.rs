// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running guest: QEMU's process, the console, the control channel and the monitor.
//!
//! Everything that happens arrives on one queue. A guest that panics, that QEMU leaves, or that is
//! silent for too long ends the run at once; nothing here waits for a wall clock to run out.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fpt_init::proto::{Ev, Exec, Op, Stream, VERSION};

use super::channels::{
    listen, read_console, read_ctl, read_stderr, send, triple_fault, Event, Lines, Writer,
};
use super::console::{self, Allow, Splat};
use super::monitor::Monitor;
use super::qemu::{Program, Spec};
use fpt_kit::proc::{self, Io, Job, RemoveOnExit};
use fpt_kit::{code, locked, Ctx, Fail, Result, Stage};
use fpt_verdict::rundir::RunDir;

/// Without a sign of life for so long (init sends one every few seconds) a guest has hung.
pub const SILENCE: Duration = Duration::from_secs(90);
/// After a panic: time for its last lines and for QEMU's end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// After being told to restart. As with silence, counted time needs more of it.
const FAREWELL: Duration = Duration::from_secs(15);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit status; 0 when a signal ended it.
    pub code: i32,
    /// The signal that ended it; 0 if none did.
    pub signal: i32,
    /// Whether it was killed because it took too long.
    pub timeout: bool,
    /// How long it ran, in milliseconds.
    pub ms: u64,
}

impl Exit {
    /// The exit code, as a shell reports it.
    pub fn status(&self) -> i32 {
        if self.timeout {
            code::TIMEOUT.number()
        } else if self.signal != 0 {
            128 + self.signal
        } else {
            self.code
        }
    }
}

/// What init said when the guest was up.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// The kernel, as `uname -a` says it.
    pub uname: String,
    /// From the start of QEMU to init's first message.
    pub wall: Duration,
    /// The kernel's own clock when init started.
    pub kernel_ms: u64,
    /// Whether the shared folder is at /host.
    pub host: bool,
}

/// A virtual machine that runs.
pub struct Guest {
    /// The name in logs.
    pub name: String,
    /// What init said when the guest was up.
    pub boot: Boot,
    ctx: Ctx,
    job: Job,
    events: Receiver<Event>,
    ctl: Writer,
    monitor: Monitor,
    lines: Lines,
    stderr: Lines,
    stderr_done: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Control events that came while something else was waited for.
    early: VecDeque<Ev>,
    last_sign: Instant,
    silence: Duration,
    /// How long the guest may take for its restart.
    farewell: Duration,
    fatal: Option<Instant>,
    ended: bool,
    booted: bool,
    next_id: u64,
    console_path: String,
    /// What QEMU logs of CPU resets.
    resets: PathBuf,
    // Last: sockets go when QEMU has gone.
    _guard: RemoveOnExit,
    _dir: tempfile::TempDir,
}

/// Was this error the guest's own end (a crash, or a hang)?
pub fn is_guest_end(err: &anyhow::Error) -> bool {
    matches!(
        fpt_kit::fail::report(err).1,
        code::GUEST_CRASHED | code::TIMEOUT
    )
}

/// Set by Ctrl-C and SIGTERM. What then happens is the business of `proc`'s handler.
fn interrupted() -> &'static AtomicBool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Without it an interrupt only says more than it needs to.
            let _ = signal_hook::flag::register(signal, flag.clone());
        }
        flag
    })
}

/// For tests of this tool, and for machines slower than anything known.
fn silence() -> Duration {
    let text = std::env::var("FPT_SILENCE_S").unwrap_or_default();
    text.parse().map_or(SILENCE, Duration::from_secs)
}

impl Guest {
    /// Starts QEMU and waits until init is ready. `name` tells several guests of one run apart.
    pub fn boot(
        ctx: &Ctx,
        run: &RunDir,
        program: &Program,
        spec: &Spec,
        name: &str,
    ) -> Result<Guest> {
        let mut guest = Guest::start(ctx, run, program, spec, name)?;
        let stage = ctx.ui.stage(&guest.title());
        guest.wait_ready(Some(&stage))?;
        stage.done(&format!(
            "kernel {:.2} s",
            guest.boot.kernel_ms as f64 / 1000.0
        ));
        Ok(guest)
    }

    fn title(&self) -> String {
        format!(
            "boot {}",
            if self.name.is_empty() {
                "guest"
            } else {
                &self.name
            }
        )
    }

    /// Starts QEMU.
    pub fn start(
        ctx: &Ctx,
        run: &RunDir,
        program: &Program,
        spec: &Spec,
        name: &str,
    ) -> Result<Guest> {
        let dir = tempfile::Builder::new()
            .prefix("fpt-")
            .tempdir()
            .context("cannot create a temporary folder")?;
        let guard = proc::remove_on_exit(dir.path());
        let suffix = if name.is_empty() {
            String::new()
        } else {
            format!("-{name}")
        };
        // Says where a CPU was when it was reset; a guest that dies without a word died of that.
        let resets = run.path.join(format!("resets{suffix}.log"));
        let cmd = spec
            .command(program, dir.path())
            .args(["-d", "cpu_reset", "-D"])
            .arg(&resets);
        run.append("cmdline.txt", &format!("{}\n", cmd.quoted()))?;
        let console_name = format!("console{suffix}.log");
        let console_log = run.log(&console_name)?;
        let qemu_log = run.log(&format!("qemu{suffix}.log"))?;

        interrupted();
        let stop = Arc::new(AtomicBool::new(false));
        let (send, events) = channel();
        let (ctl, monitor) = (Writer::default(), Writer::default());
        listen(&dir.path().join("ctl"), &ctl, &stop, {
            let send = send.clone();
            move |stream| read_ctl(stream, &send)
        })?;
        // The monitor is read where it is asked.
        listen(&dir.path().join("mon"), &monitor, &stop, |_| ())?;
        let (out_r, out_w) = os_pipe::pipe().context("cannot create a pipe")?;
        let (err_r, err_w) = os_pipe::pipe().context("cannot create a pipe")?;
        let job = cmd.spawn(Io::Null, Io::Pipe(out_w), Io::Pipe(err_w))?;
        let (lines, stderr) = (Lines::default(), Lines::default());
        let stderr_done = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let lines = lines.clone();
            move || read_console(out_r, console_log, &lines, &send)
        });
        std::thread::spawn({
            let stderr = stderr.clone();
            let done = stderr_done.clone();
            move || {
                read_stderr(err_r, qemu_log, &stderr);
                done.store(true, Ordering::SeqCst);
            }
        });
        let now = Instant::now();
        Ok(Guest {
            name: name.to_string(),
            boot: Boot::default(),
            ctx: ctx.clone(),
            job,
            events,
            ctl,
            monitor: Monitor::new(monitor),
            lines,
            stderr,
            stderr_done,
            stop,
            early: VecDeque::new(),
            last_sign: now,
            // Under gdb the guest stands still; counted time runs tens of times slower than real time.
            silence: match spec {
                Spec { gdb: Some(_), .. } => Duration::from_secs(365 * 86400),
                Spec {
                    icount: Some(_), ..
                } => silence() * 10,
                _ => silence(),
            },
            farewell: FAREWELL * if spec.icount.is_some() { 10 } else { 1 },
            fatal: None,
            ended: false,
            booted: false,
            next_id: 1,
            console_path: run.path.join(console_name).display().to_string(),
            resets,
            _guard: guard,
            _dir: dir,
        })
    }

    /// Waits for init.
    ///
    /// # Errors
    ///
    /// The guest crashed or said nothing for too long.
    pub fn wait_ready(&mut self, stage: Option<&Stage>) -> Result<()> {
        let start = self.last_sign;
        loop {
            match self.next(None, stage)? {
                Some(Ev::Ready {
                    version,
                    uname,
                    boot_ms,
                    host,
                }) => {
                    if version != VERSION {
                        return Err(Fail::infra(
                            "the guest's init speaks another protocol",
                            format!("version {version}, this tool has {VERSION}"),
                            "unset FPT_INITRD or build it again",
                        ));
                    }
                    self.booted = true;
                    self.boot = Boot {
                        uname,
                        wall: start.elapsed(),
                        kernel_ms: boot_ms,
                        host,
                    };
                    return Ok(());
                }
                Some(other) => self.early.push_back(other),
                None => {}
            }
        }
    }

    /// The next control event; `None` when `until` has passed. Errors are the guest's end.
    fn next(&mut self, until: Option<Instant>, stage: Option<&Stage>) -> Result<Option<Ev>> {
        loop {
            let now = Instant::now();
            let mut limit = self.last_sign + self.silence;
            if let Some(at) = self.fatal {
                limit = limit.min(at + LAST_WORDS);
            }
            if now >= limit {
                return Err(if self.fatal.is_some() {
                    self.death()
                } else {
                    self.silent()
                });
            }
            if until.is_some_and(|u| now >= u) {
                return Ok(None);
            }
            let wait = until
                .map_or(limit, |u| u.min(limit))
                .saturating_duration_since(now);
            let event = match self.events.recv_timeout(wait) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Err(self.death()),
            };
            self.last_sign = Instant::now();
            match event {
                Event::Console(line) => {
                    if console::is_fatal(&line) && self.fatal.is_none() {
                        self.fatal = Some(Instant::now());
                    }
                    if let Some(stage) = stage {
                        stage.line(&line);
                    }
                }
                Event::Ctl(Ev::Alive { .. }) => {}
                Event::Ctl(Ev::Note { text }) => self.ctx.ui.warn(&format!("guest: {text}")),
                Event::Ctl(ev) => return Ok(Some(ev)),
                Event::CtlBad(line) => {
                    return Err(Fail::infra(
                        "the guest's init sent nonsense",
                        line,
                        "unset FPT_INITRD or build it again",
                    ))
                }
                Event::LogFailed(err) => return Err(err),
                Event::CtlEnd => {
                    // Init is gone: the panic, or QEMU's end, follows.
                    self.fatal.get_or_insert_with(Instant::now);
                }
                Event::ConsoleEnd => {
                    self.ended = true;
                    return Err(self.death());
                }
            }
        }
    }

    /// What the guest says next, within `limit`.
    pub fn poll(&mut self, limit: Duration) -> Result<Option<Ev>> {
        self.next_queued(Some(Instant::now() + limit))
    }

    fn next_queued(&mut self, until: Option<Instant>) -> Result<Option<Ev>> {
        match self.early.pop_front() {
            Some(ev) => Ok(Some(ev)),
            None => self.next(until, None),
        }
    }

    fn show_tail(&self) {
        let lines = locked(&self.lines);
        let skip = lines.len().saturating_sub(console::TAIL);
        let who = if self.name.is_empty() {
            String::new()
        } else {
            format!(" of guest {}", self.name)
        };
        self.ctx.ui.info(&format!(
            "last {} lines of the console{who}:",
            lines.len() - skip
        ));
        for line in lines.iter().skip(skip) {
            self.ctx.ui.info(&format!("    | {line}"));
        }
    }

    /// QEMU has ended, or is about to.
    fn death(&mut self) -> anyhow::Error {
        if interrupted().load(Ordering::SeqCst) {
            // Not the guest's fault: the signal handler is ending QEMU and then this process.
            std::thread::sleep(Duration::from_secs(5));
        }
        let status = self.job.wait_timeout(LAST_WORDS).ok().flatten();
        // What the reader threads still hold belongs to the story.
        let give_up = Instant::now() + Duration::from_secs(1);
        while !self.ended && Instant::now() < give_up {
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::ConsoleEnd) => self.ended = true,
                Ok(Event::LogFailed(err)) => return err,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // QEMU's own words come through another pipe, whose reader may be a moment behind.
        while status.is_some()
            && !self.stderr_done.load(Ordering::SeqCst)
            && Instant::now() < give_up
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stderr = locked(&self.stderr).join(" / ");
        let failed = status.is_some_and(|s| !s.success());
        if locked(&self.lines).is_empty() && failed {
            let why = if stderr.is_empty() {
                proc::describe(status.unwrap_or_default())
            } else {
                stderr
            };
            return Fail::infra(
                "QEMU did not start the guest",
                why,
                "the command is in cmdline.txt of the run folder",
            );
        }
        self.show_tail();
        let lines = locked(&self.lines);
        let panic = lines
            .iter()
            .find(|l| console::is_fatal(l))
            .or_else(|| lines.iter().find(|l| console::is_splat(l)));
        let why = match (panic, status) {
            (Some(line), _) => fpt_verdict::tap::strip_time(line).to_string(),
            (None, Some(s)) if !s.success() => {
                format!("QEMU ended with {} {stderr}", proc::describe(s))
            }
            (None, Some(_)) => match triple_fault(&self.resets) {
                Some(at) => format!("triple fault at {at} ({})", self.resets.display()),
                None => {
                    "QEMU ended without a panic: the guest was reset or powered off".to_string()
                }
            },
            (None, None) => "init has gone".to_string(),
        };
        Fail::new(
            code::GUEST_CRASHED,
            self.said("crashed"),
            why,
            format!("its console: {}", self.console_path),
        )
        .into()
    }

    fn said(&self, what: &str) -> String {
        if self.name.is_empty() {
            format!("the guest {what}")
        } else {
            format!("the guest {} {what}", self.name)
        }
    }

    fn silent(&mut self) -> anyhow::Error {
        self.show_tail();
        let stage = if self.booted {
            "no sign of life"
        } else {
            "no output before init was ready"
        };
        let why = format!("{stage} for {} s", self.silence.as_secs());
        Fail::new(
            code::TIMEOUT,
            self.said("hung"),
            why,
            format!(
                "its console: {}; on a busy machine, set FPT_SILENCE_S to more seconds",
                self.console_path
            ),
        )
        .into()
    }

    fn send(&mut self, op: &Op) -> Result<()> {
        if send(&self.ctl, op) {
            return Ok(());
        }
        Err(self.death())
    }

    /// A number for the next command.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Where another thread can write requests, e.g. a person's keystrokes.
    pub fn requests(&self) -> Requests {
        Requests(self.ctl.clone())
    }

    /// Starts a command; its events come through [`Guest::wait_exit`].
    pub fn start_exec(&mut self, exec: Exec) -> Result<()> {
        self.send(&Op::Exec(exec))
    }

    /// Follows command `id` to its end. `idle` limits the time without any output of it.
    pub fn wait_exit(
        &mut self,
        id: u64,
        idle: Option<Duration>,
        hard: Option<Duration>,
        out: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    ) -> Result<Exit> {
        let start = Instant::now();
        let mut last = start;
        loop {
            let limit = [idle.map(|i| last + i), hard.map(|h| start + h)]
                .into_iter()
                .flatten()
                .min();
            match self.next_queued(limit)? {
                Some(Ev::Out {
                    id: from,
                    stream,
                    data,
                }) if from == id => {
                    last = Instant::now();
                    let data = data.to_vec().ok_or_else(|| {
                        Fail::infra(
                            "the guest's init sent nonsense",
                            "broken base64",
                            "build it again",
                        )
                    })?;
                    out(stream, &data)?;
                }
                Some(Ev::Exit {
                    id: from,
                    code,
                    signal,
                    timeout,
                    ms,
                }) if from == id => {
                    return Ok(Exit {
                        code,
                        signal,
                        timeout,
                        ms,
                    });
                }
                Some(_) => {}
                None => {
                    let why = match idle {
                        Some(idle) if last + idle <= Instant::now() => {
                            format!("no output for {} s", idle.as_secs())
                        }
                        _ => format!("not ended after {} s", start.elapsed().as_secs()),
                    };
                    return Err(Fail::new(
                        code::TIMEOUT,
                        "the command ran into the time limit",
                        why,
                        "raise it with --timeout",
                    )
                    .into());
                }
            }
        }
    }

    /// The first line of command `id` that begins with `start`; the command goes on.
    pub fn wait_line(&mut self, id: u64, start: &str, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        let mut text = String::new();
        loop {
            match self.next_queued(Some(until))? {
                Some(Ev::Out { id: from, data, .. }) if from == id => {
                    text.push_str(&String::from_utf8_lossy(&data.to_vec().unwrap_or_default()));
                    let mut lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
                    if let Some(line) = lines.find(|l| l.starts_with(start)) {
                        return Ok(line.trim_end().to_string());
                    }
                }
                Some(Ev::Exit {
                    id: from,
                    code,
                    signal,
                    ..
                }) if from == id => {
                    let status = Exit {
                        code,
                        signal,
                        timeout: false,
                        ms: 0,
                    }
                    .status();
                    return Err(Fail::test(
                        format!("the program in the guest ended ({status})"),
                        text,
                        "",
                    ));
                }
                Some(_) => {}
                None => {
                    let why = format!("'{start}' did not come within {} s", limit.as_secs());
                    return Err(Fail::new(
                        code::TIMEOUT,
                        "the program in the guest is silent",
                        why,
                        "",
                    )
                    .into());
                }
            }
        }
    }

    /// Runs a command and collects its output (both streams, as they came).
    pub fn run(&mut self, mut exec: Exec) -> Result<(Exit, String)> {
        exec.id = self.new_id();
        let id = exec.id;
        // Init enforces the limit; a guest that cannot even do that has hung.
        let hard = (exec.timeout_s > 0).then(|| Duration::from_secs(exec.timeout_s + 60));
        self.start_exec(exec)?;
        let mut text = Vec::new();
        let exit = self.wait_exit(id, None, hard, &mut |_, data| {
            text.extend_from_slice(data);
            Ok(())
        })?;
        Ok((exit, String::from_utf8_lossy(&text).into_owned()))
    }

    /// A line for the guest's shell; its output if it succeeded.
    pub fn shell(&mut self, line: &str) -> Result<String> {
        let (exit, out) = self.run(Exec {
            argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
            timeout_s: 60,
            ..Exec::default()
        })?;
        if exit.status() == 0 {
            return Ok(out);
        }
        Err(Fail::test(
            format!("'{line}' failed in the guest ({})", exit.status()),
            out,
            "see the console log",
        ))
    }

    /// A command of the human monitor; its text.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        self.monitor.command(line)
    }

    /// Asks the guest to end and waits for QEMU.
    pub fn quit(&mut self) -> Result<()> {
        if !send(&self.ctl, &Op::Poweroff) {
            return Err(self.death());
        }
        let give_up = Instant::now() + self.farewell;
        while !self.ended {
            let wait = give_up.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(wait) {
                Ok(Event::Console(line)) if console::is_fatal(&line) => {
                    self.fatal = Some(Instant::now());
                    return Err(self.death());
                }
                Ok(Event::ConsoleEnd) => self.ended = true,
                Ok(Event::LogFailed(err)) => return Err(err),
                Ok(_) => {}
                Err(_) => {
                    self.show_tail();
                    let why = format!(
                        "it did not restart within {} s of being told to",
                        self.farewell.as_secs()
                    );
                    return Err(Fail::new(
                        code::TIMEOUT,
                        self.said("hung"),
                        why,
                        format!("its console: {}", self.console_path),
                    )
                    .into());
                }
            }
        }
        self.job.wait_timeout(Duration::from_secs(5))?;
        Ok(())
    }

    /// Ends the guest and refuses one that warned.
    pub fn quit_clean(&mut self) -> Result<()> {
        self.quit()?;
        match self.splats(&[]).first() {
            None => Ok(()),
            Some(splat) => Err(Fail::test(
                "the kernel warned",
                splat.line.clone(),
                format!("its console: {}", self.console_path),
            )),
        }
    }

    /// Console lines so far.
    pub fn console(&self) -> Vec<String> {
        locked(&self.lines).clone()
    }

    /// What the kernel said when it last killed a process for want of memory.
    pub fn out_of_memory(&self) -> Option<String> {
        let killed = |l: &String| l.contains("Out of memory: Killed process");
        self.console().into_iter().rev().find(killed)
    }

    /// Complaints of the kernel that `allow` does not cover.
    pub fn splats(&self, allow: &[Allow]) -> Vec<Splat> {
        console::scan(locked(&self.lines).iter().map(String::as_str), allow)
    }

    /// The number of QEMU's process.
    pub fn pid(&self) -> u32 {
        self.job.pid()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Nothing in the guest is worth a slow end here: `quit` is the polite way.
        if !matches!(self.job.try_wait(), Ok(Some(_))) {
            self.job.kill();
        }
    }
}

/// Sends requests from another thread.
#[derive(Clone)]
pub struct Requests(Writer);

impl Requests {
    /// False if the guest is gone.
    pub fn send(&self, op: &Op) -> bool {
        send(&self.0, op)
    }
}
