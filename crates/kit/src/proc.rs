// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes: each in a process group of its own that dies with its [`Job`], or with
//! the tool on Ctrl-C and SIGTERM, together with every registered temporary file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{kill_process_group, Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{code, Fail, Program, Result, Stage};

/// Time between asking a group to end and making it.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Live {
    groups: BTreeMap<u64, u32>,
    files: BTreeSet<PathBuf>,
}

fn live() -> MutexGuard<'static, Live> {
    static LIVE: OnceLock<Mutex<Live>> = OnceLock::new();
    LIVE.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|e| e.into_inner())
}

/// Set while a child owns the terminal: Ctrl-C is then the child's business.
static FOREGROUND: AtomicBool = AtomicBool::new(false);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Catch Ctrl-C, SIGTERM and SIGHUP: end all jobs, remove temporary files, exit 130.
pub fn handle_signals() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .context("cannot catch signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGINT && FOREGROUND.load(Ordering::SeqCst) {
                continue;
            }
            abandon();
            let _ = writeln!(std::io::stderr(), "\ninterrupted: nothing left running");
            std::process::exit(code::INTERRUPTED.number());
        }
    });
    Ok(())
}

/// End every live job and remove every registered temporary file, for good: the registry
/// stays locked, so that no other thread can start anything more before the exit.
fn abandon() {
    let live = live();
    end(&live);
    std::mem::forget(live);
}

/// End every live job and remove every registered temporary file.
fn end(live: &Live) {
    for pgid in live.groups.values() {
        signal_group(*pgid, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while live.groups.values().any(|p| group_alive(*p)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    for pgid in live.groups.values() {
        signal_group(*pgid, Signal::KILL);
    }
    for path in &live.files {
        remove(path);
    }
}

fn remove(path: &Path) {
    let _ = match path.symlink_metadata() {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
}

fn signal_group(pgid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pgid).ok().and_then(Pid::from_raw) {
        // No such group: it has ended already.
        let _ = kill_process_group(pid, signal);
    }
}

fn group_alive(pgid: u32) -> bool {
    i32::try_from(pgid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| answers(rustix::process::test_kill_process_group(pid)))
}

/// Is there a process that signal 0 was sent to? One that may not be signalled is there, too.
fn answers(sent: rustix::io::Result<()>) -> bool {
    matches!(sent, Ok(()) | Err(rustix::io::Errno::PERM))
}

/// A file or folder that is removed when the tool is interrupted.
#[derive(Debug)]
#[must_use]
pub struct RemoveOnExit(PathBuf);

/// Removes `path`, a file or a folder, when the value goes or the program is interrupted.
pub fn remove_on_exit(path: &Path) -> RemoveOnExit {
    live().files.insert(path.to_path_buf());
    RemoveOnExit(path.to_path_buf())
}

impl Drop for RemoveOnExit {
    fn drop(&mut self) {
        live().files.remove(&self.0);
    }
}

/// A command to run.
#[derive(Clone, Debug)]
pub struct Cmd {
    argv: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    cwd: Option<PathBuf>,
    stdin: Option<PathBuf>,
}

/// Where a job's input comes from or its output goes.
#[derive(Debug, Default)]
pub enum Io {
    /// Nothing to read; what is written is dropped.
    #[default]
    Null,
    /// The stream of this program.
    Inherit,
    /// This file.
    File(File),
    /// The end of a pipe, to write into.
    Pipe(os_pipe::PipeWriter),
    /// The end of a pipe, to read from.
    PipeIn(os_pipe::PipeReader),
}

impl Cmd {
    /// A command without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Cmd {
        Cmd {
            argv: vec![program.as_ref().to_os_string()],
            env: BTreeMap::new(),
            cwd: None,
            stdin: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.argv.push(arg.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.argv
            .extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// Sets a variable of the command's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.env.insert(
            name.as_ref().to_os_string(),
            Some(value.as_ref().to_os_string()),
        );
        self
    }

    /// Takes a variable out of the command's environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Cmd {
        self.env.insert(name.as_ref().to_os_string(), None);
        self
    }

    /// The folder to run in.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.cwd = Some(dir.as_ref().to_path_buf());
        self
    }

    /// Read standard input from a file; for the forms that run to the end.
    pub fn stdin(mut self, file: impl AsRef<Path>) -> Cmd {
        self.stdin = Some(file.as_ref().to_path_buf());
        self
    }

    fn open_stdin(&self) -> Result<Io> {
        Ok(match &self.stdin {
            Some(path) => Io::File(
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?,
            ),
            None => Io::Null,
        })
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[OsString] {
        &self.argv
    }

    fn program(&self) -> String {
        self.argv
            .first()
            .map(|p| p.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// The command as a line that a shell would run the same way.
    pub fn quoted(&self) -> String {
        let mut words = Vec::new();
        let set: Vec<_> = self
            .env
            .iter()
            // What is not set need not be unset.
            .filter(|(k, v)| v.is_some() || std::env::var_os(k).is_some())
            .map(|(k, v)| match v {
                Some(v) => format!("{}={}", k.to_string_lossy(), quote(v)),
                None => format!("-u {}", k.to_string_lossy()),
            })
            .collect();
        if set.iter().any(|s| s.starts_with("-u ")) {
            words.push("env".to_string());
            words.extend(set.iter().filter(|s| s.starts_with("-u ")).cloned());
            words.extend(set.iter().filter(|s| !s.starts_with("-u ")).cloned());
        } else {
            words.extend(set);
        }
        words.extend(self.argv.iter().map(|a| quote(a)));
        if let Some(file) = &self.stdin {
            words.push(format!("<{}", quote(file.as_os_str())));
        }
        let line = words.join(" ");
        match &self.cwd {
            Some(dir) => format!("(cd {} && {line})", quote(dir.as_os_str())),
            None => line,
        }
    }

    fn expression(&self, own_group: bool) -> duct::Expression {
        let mut expr = duct::cmd(
            self.argv.first().cloned().unwrap_or_default(),
            self.argv.iter().skip(1),
        )
        .unchecked();
        if let Some(dir) = &self.cwd {
            expr = expr.dir(dir);
        }
        for (name, value) in &self.env {
            expr = match value {
                Some(value) => expr.env(name, value),
                None => expr.env_remove(name),
            };
        }
        if own_group {
            expr = expr.before_spawn(|c| {
                c.process_group(0);
                Ok(())
            });
        }
        expr
    }

    /// Start it in a process group of its own.
    pub fn spawn(&self, stdin: Io, stdout: Io, stderr: Io) -> Result<Job> {
        let mut expr = self.expression(true);
        expr = match stdin {
            Io::Null => expr.stdin_null(),
            Io::Inherit => expr,
            Io::File(f) => expr.stdin_file(f),
            Io::Pipe(p) => expr.stdin_file(p),
            Io::PipeIn(p) => expr.stdin_file(p),
        };
        expr = match stdout {
            Io::Null => expr.stdout_null(),
            Io::Inherit => expr,
            Io::File(f) => expr.stdout_file(f),
            Io::Pipe(p) => expr.stdout_file(p),
            Io::PipeIn(p) => expr.stdout_file(p),
        };
        expr = match stderr {
            Io::Null => expr.stderr_null(),
            Io::Inherit => expr,
            Io::File(f) => expr.stderr_file(f),
            Io::Pipe(p) => expr.stderr_file(p),
            Io::PipeIn(p) => expr.stderr_file(p),
        };
        // Registered before the handler can look: no child escapes an interrupt.
        let mut live = live();
        let handle = expr.start().map_err(|e| self.cannot_start(e))?;
        let pgid = handle.pids().first().copied().unwrap_or(0);
        let id = NEXT_ID.fetch_add(1, Ordering::SeqCst);
        live.groups.insert(id, pgid);
        Ok(Job { handle, pgid, id })
    }

    fn cannot_start(&self, err: std::io::Error) -> anyhow::Error {
        let program = self.program();
        if err.kind() == std::io::ErrorKind::NotFound {
            return Fail::infra(
                format!("cannot start '{program}'"),
                "no such program",
                Program::this().install,
            );
        }
        anyhow::Error::new(err).context(format!("cannot start '{program}'"))
    }

    /// Run to the end with the terminal's input and output, which the child owns meanwhile.
    pub fn run_foreground(&self) -> Result<ExitStatus> {
        let was = FOREGROUND.swap(true, Ordering::SeqCst);
        let result = self.expression(false).run();
        FOREGROUND.store(was, Ordering::SeqCst);
        Ok(result.map_err(|e| self.cannot_start(e))?.status)
    }

    /// Run to the end and return stdout, status and stderr.
    pub fn output(&self) -> Result<Output> {
        let (mut out_r, out_w) = os_pipe::pipe().context("cannot create a pipe")?;
        let (mut err_r, err_w) = os_pipe::pipe().context("cannot create a pipe")?;
        let job = self.spawn(self.open_stdin()?, Io::Pipe(out_w), Io::Pipe(err_w))?;
        let reader = std::thread::spawn(move || {
            let mut err = Vec::new();
            std::io::Read::read_to_end(&mut err_r, &mut err).map(|_| err)
        });
        let mut stdout = Vec::new();
        std::io::Read::read_to_end(&mut out_r, &mut stdout)
            .with_context(|| format!("cannot read the output of '{}'", self.program()))?;
        let stderr = reader
            .join()
            .unwrap_or_else(|_| Ok(Vec::new()))
            .with_context(|| format!("cannot read the output of '{}'", self.program()))?;
        let status = job.wait()?;
        Ok(Output {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Run to the end; its standard output if it succeeded.
    pub fn read(&self) -> Result<String> {
        let out = self.output()?;
        if out.status.success() {
            return Ok(out.stdout);
        }
        let said = if out.stderr.trim().is_empty() {
            &out.stdout
        } else {
            &out.stderr
        };
        let tail: Vec<&str> = said.trim().lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(Fail::infra(
            format!("'{}' failed ({})", self.quoted(), describe(out.status)),
            tail.join(" / "),
            "",
        ))
    }

    /// Whether it runs and exits with 0.
    pub fn succeeds(&self) -> bool {
        self.output().is_ok_and(|o| o.status.success())
    }

    /// Run with all output to the stage's window and to the end of `log`.
    pub fn run_logged(&self, stage: &Stage, log: &Path) -> Result<()> {
        // The log may hold what earlier commands said, and why they failed.
        let before = log.metadata().map_or(0, |m| m.len());
        let status = self.run_logged_status(stage, log)?;
        if status.success() {
            return Ok(());
        }
        let said = text_from(log, before).unwrap_or_default();
        if said.contains("No space left on device") {
            return Err(Fail::infra(
                format!("'{}' failed", self.program()),
                "the disk is full",
                Program::this().free_space,
            ));
        }
        Err(Fail::infra(
            format!("'{}' failed ({})", self.program(), describe(status)),
            "its last lines are above",
            format!("the whole log: {}", log.display()),
        ))
    }

    /// Runs the command with its output in `log` and its last line beside `stage`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the program was interrupted. Any status of the command is a result.
    pub fn run_logged_status(&self, stage: &Stage, log: &Path) -> Result<ExitStatus> {
        if let Some(dir) = log.parent() {
            super::store::make_dir(dir)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let writes = |e| anyhow::Error::new(e).context(format!("cannot write {}", log.display()));
        writeln!(file, "$ {}", self.quoted()).map_err(writes)?;
        let (reader, writer) = os_pipe::pipe().context("cannot create a pipe")?;
        let writer2 = writer.try_clone().context("cannot create a pipe")?;
        let job = self.spawn(self.open_stdin()?, Io::Pipe(writer), Io::Pipe(writer2))?;
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = reader
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read the output of '{}'", self.program()))?;
            if n == 0 {
                break;
            }
            file.write_all(&line).map_err(writes)?;
            stage.line(String::from_utf8_lossy(&line).trim_end());
        }
        job.wait()
    }
}

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to standard error, in the same way.
    pub stderr: String,
}

/// A running child and its process group; dropped, the whole group is ended.
#[derive(Debug)]
pub struct Job {
    handle: duct::Handle,
    pgid: u32,
    id: u64,
}

impl Job {
    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.pgid
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<ExitStatus> {
        let out = self.handle.wait().context("cannot wait for a child")?;
        Ok(out.status)
    }

    /// How it ended; none while it runs.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let out = self.handle.try_wait().context("cannot wait for a child")?;
        Ok(out.map(|o| o.status))
    }

    /// Wait at most so long; `None` if it still runs.
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ask the group to end, then make it.
    pub fn kill(&self) {
        signal_group(self.pgid, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        loop {
            // Reaps the leader; the others are init's.
            let reaped = !matches!(self.handle.try_wait(), Ok(None));
            if reaped && !group_alive(self.pgid) {
                return;
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        signal_group(self.pgid, Signal::KILL);
        let _ = self.handle.wait();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let ended = !matches!(self.handle.try_wait(), Ok(None));
        if !ended || group_alive(self.pgid) {
            self.kill();
        }
        live().groups.remove(&self.id);
    }
}

/// The file from this offset to its end.
fn text_from(path: &Path, offset: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    Ok(String::from_utf8_lossy(&raw).into_owned())
}

/// `exit code 2` or `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(c), _) => format!("exit code {c}"),
        (None, Some(s)) => format!("signal {s}"),
        (None, None) => "no exit code".to_string(),
    }
}

/// Quote one word for a POSIX shell.
pub fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_lines_say_that_the_disk_is_full() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("x.log");
        std::fs::write(&log, b"cc: \xff No space left on device\n").expect("written");
        let stage = super::super::Ui::quiet().stage("x");
        let why = |line: &str| {
            let cmd = Cmd::new("sh").args(["-c", line]);
            let err = cmd.run_logged(&stage, &log).expect_err("it failed");
            super::super::fail::report(&err).0
        };
        assert!(!why("exit 3").contains("disk is full"));
        assert!(why("echo No space left on device; exit 3").contains("disk is full"));
    }

    #[test]
    fn who_may_not_be_signalled_is_alive() {
        assert!(answers(Ok(())));
        assert!(answers(Err(rustix::io::Errno::PERM)));
        assert!(!answers(Err(rustix::io::Errno::SRCH)));
    }
}
