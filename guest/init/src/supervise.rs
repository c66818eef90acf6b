// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread, one poll loop: requests from the host, output of commands, ended children.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fpt_init::proto::{Bytes, Ev, Exec, Op, Stream, HEARTBEAT_S, VERSION};

use crate::sys::{self, Want};

/// After a command ended, how long to wait for output that a left-over process may still hold.
const DRAIN: Duration = Duration::from_millis(200);
const CHUNK: usize = 32 * 1024;
/// A request longer than this is not a request.
const LINE_MAX: usize = 4 << 20;

struct Pipe {
    stream: Stream,
    file: File,
}

struct Job {
    id: u64,
    pid: i32,
    start: Instant,
    deadline: Option<Instant>,
    timeout: bool,
    solo: bool,
    mark: Option<String>,
    pipes: Vec<Pipe>,
    input: Option<Input>,
    ended: Option<(i32, Instant)>,
    /// Bytes of output that may still be passed on.
    output_left: u64,
}

/// Where input goes: a pipe, or the terminal's master side. It never blocks: what the command
/// does not read yet waits here.
struct Input {
    file: File,
    tty: bool,
    queue: Vec<u8>,
    eof: bool,
}

pub struct Supervisor {
    port: File,
    children: File,
    buffer: Vec<u8>,
    jobs: BTreeMap<u64, Job>,
    beat: Instant,
    boot_ms: u64,
    host: bool,
}

impl Supervisor {
    pub fn new(port: File, boot_ms: u64, host: bool) -> io::Result<Self> {
        let children = sys::child_events()?;
        Ok(Self {
            port,
            children,
            buffer: Vec::new(),
            jobs: BTreeMap::new(),
            beat: Instant::now(),
            boot_ms,
            host,
        })
    }

    fn send(&mut self, event: &Ev) -> Result<(), String> {
        let mut line =
            serde_json::to_vec(event).map_err(|e| format!("cannot encode an event: {e}"))?;
        line.push(b'\n');
        self.port
            .write_all(&line)
            .map_err(|e| format!("the host is gone: {e}"))
    }

    /// Runs until the host says so or goes away.
    pub fn run(&mut self) -> String {
        match self.serve() {
            Ok(why) => why,
            Err(why) => why,
        }
    }

    fn serve(&mut self) -> Result<String, String> {
        let ready = Ev::Ready {
            version: VERSION,
            uname: sys::uname(),
            boot_ms: self.boot_ms,
            host: self.host,
        };
        self.send(&ready)?;
        loop {
            let mut fds = vec![
                (self.port.as_raw_fd(), Want::Read),
                (self.children.as_raw_fd(), Want::Read),
            ];
            let mut owners = Vec::new();
            for job in self.jobs.values() {
                let reads = job.pipes.iter().map(|p| (p.file.as_raw_fd(), Want::Read));
                let writes = job
                    .input
                    .iter()
                    .filter(|i| !i.queue.is_empty())
                    .map(|i| (i.file.as_raw_fd(), Want::Write));
                for fd in reads.chain(writes) {
                    fds.push(fd);
                    owners.push((job.id, fd));
                }
            }
            let ready =
                sys::wait_ready(&fds, self.next_timeout()).map_err(|e| format!("poll: {e}"))?;
            for ((id, (fd, want)), _) in owners.iter().zip(&ready[2..]).filter(|(_, hit)| **hit) {
                match want {
                    Want::Read => self.forward(*id, *fd)?,
                    Want::Write => self.jobs.get_mut(id).map_or((), Job::feed),
                }
            }
            if ready[1] {
                self.collect();
            }
            if ready[0] {
                if let Some(why) = self.requests()? {
                    return Ok(why);
                }
            }
            self.timers()?;
        }
    }

    fn next_timeout(&self) -> i32 {
        let now = Instant::now();
        let mut next = self.beat + Duration::from_secs(HEARTBEAT_S);
        for job in self.jobs.values() {
            if let Some(deadline) = job.deadline {
                next = next.min(deadline);
            }
            if let Some((_, at)) = job.ended {
                next = next.min(at + DRAIN);
            }
        }
        // Rounded up, or the loop would spin through the last millisecond.
        next.saturating_duration_since(now).as_millis() as i32 + 1
    }

    /// Passes on what a command wrote. A pipe at its end is dropped.
    fn forward(&mut self, id: u64, fd: RawFd) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        let Some(at) = job.pipes.iter().position(|p| p.file.as_raw_fd() == fd) else {
            return Ok(());
        };
        let mut raw = vec![0; CHUNK];
        let pipe = &mut job.pipes[at];
        match pipe.file.read(&mut raw) {
            Ok(0) => drop(job.pipes.remove(at)),
            Ok(_) if job.output_left == 0 => {}
            Ok(len) => {
                let len = len.min(usize::try_from(job.output_left).unwrap_or(len));
                job.output_left -= len as u64;
                let event = Ev::Out {
                    id,
                    stream: pipe.stream,
                    data: Bytes::new(&raw[..len]),
                };
                self.send(&event)?;
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            // The master side of a terminal says EIO when its last user is gone.
            Err(_) => drop(job.pipes.remove(at)),
        }
        Ok(())
    }

    fn collect(&mut self) {
        let mut raw = [0; 4096];
        // Only empties the descriptor: several ends may share one notification.
        while matches!(self.children.read(&mut raw), Ok(len) if len > 0) {}
        while let Some((pid, status)) = sys::reap() {
            if let Some(job) = self
                .jobs
                .values_mut()
                .find(|j| j.pid == pid && j.ended.is_none())
            {
                job.ended = Some((status, Instant::now()));
                job.deadline = None;
                if job.solo {
                    // From process 1 this is everyone else.
                    let _ = sys::kill(-1, libc::SIGKILL);
                }
            }
        }
    }

    fn timers(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let mut done = Vec::new();
        for job in self.jobs.values_mut() {
            if job.deadline.is_some_and(|d| now >= d) {
                job.deadline = None;
                job.timeout = true;
                let _ = sys::kill(-job.pid, libc::SIGKILL);
                let _ = sys::kill(job.pid, libc::SIGKILL);
            }
            if let Some((status, at)) = job.ended {
                if job.pipes.is_empty() || now >= at + DRAIN {
                    done.push((job.id, status, at));
                }
            }
        }
        for (id, status, at) in done {
            let Some(job) = self.jobs.get(&id) else {
                continue;
            };
            let (code, signal) = sys::decode_status(status);
            let ms = at.duration_since(job.start).as_millis() as u64;
            let event = Ev::Exit {
                id,
                code,
                signal,
                timeout: job.timeout,
                ms,
            };
            // What is still in the pipes comes before the end.
            for fd in job
                .pipes
                .iter()
                .map(|p| p.file.as_raw_fd())
                .collect::<Vec<_>>()
            {
                self.forward(id, fd)?;
            }
            let job = self.jobs.remove(&id);
            mark("end", job.and_then(|j| j.mark).as_deref());
            self.send(&event)?;
        }
        if now >= self.beat + Duration::from_secs(HEARTBEAT_S) {
            self.beat = now;
            self.send(&Ev::Alive {
                up_ms: sys::uptime_ms(),
            })?;
        }
        Ok(())
    }

    /// Reads what the host sent; `Some` is the reason to end.
    fn requests(&mut self) -> Result<Option<String>, String> {
        let mut raw = vec![0; CHUNK];
        match self.port.read(&mut raw) {
            Ok(0) => return Ok(Some("the host closed the control channel".into())),
            Ok(len) => self.buffer.extend_from_slice(&raw[..len]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Ok(Some(format!("cannot read the control channel: {e}"))),
        }
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            match serde_json::from_slice::<Op>(&line) {
                Ok(Op::Poweroff) => return Ok(Some("done".into())),
                Ok(op) => self.request(op)?,
                Err(e) => self.send(&Ev::Note {
                    text: format!("request not understood: {e}"),
                })?,
            }
        }
        if self.buffer.len() > LINE_MAX {
            return Ok(Some("request without end".into()));
        }
        Ok(None)
    }

    fn request(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Exec(exec) => {
                let id = exec.id;
                if self.jobs.contains_key(&id) {
                    return self.send(&Ev::Note {
                        text: format!("command {id} is still running"),
                    });
                }
                match start(&exec) {
                    Ok(job) => drop(self.jobs.insert(id, job)),
                    Err(error) => {
                        // As a shell reports it: 127 not found, 126 found but not runnable.
                        let code = if error.kind() == io::ErrorKind::NotFound {
                            127
                        } else {
                            126
                        };
                        let name = exec.argv.first().map_or("", String::as_str);
                        let text = format!("{name}: {error}\n");
                        self.send(&Ev::Out {
                            id,
                            stream: Stream::Stderr,
                            data: Bytes::new(text.as_bytes()),
                        })?;
                        self.send(&Ev::Exit {
                            id,
                            code,
                            signal: 0,
                            timeout: false,
                            ms: 0,
                        })?;
                    }
                }
            }
            Op::In { id, data } => {
                let raw = data.to_vec().unwrap_or_default();
                if let Some(job) = self.jobs.get_mut(&id) {
                    if let Some(input) = job.input.as_mut() {
                        input.queue.extend_from_slice(&raw);
                    }
                    job.feed();
                }
            }
            Op::Eof { id } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    if let Some(input) = job.input.as_mut() {
                        if input.tty {
                            // End of file on a terminal is a character.
                            input.queue.push(4);
                        } else {
                            input.eof = true;
                        }
                    }
                    job.feed();
                }
            }
            Op::Resize { id, rows, cols } => {
                if let Some(input) = self
                    .jobs
                    .get(&id)
                    .and_then(|j| j.input.as_ref())
                    .filter(|i| i.tty)
                {
                    let _ = sys::set_winsize(input.file.as_raw_fd(), rows, cols);
                }
            }
            Op::Signal { id, signal } => {
                if let Some(job) = self.jobs.get(&id) {
                    let _ = sys::kill(-job.pid, signal);
                }
            }
            Op::Poweroff => {}
        }
        Ok(())
    }
}

impl Job {
    /// Hands over as much input as the command takes now.
    fn feed(&mut self) {
        let Some(input) = self.input.as_mut() else {
            return;
        };
        while !input.queue.is_empty() {
            match input.file.write(&input.queue) {
                Ok(len) => drop(input.queue.drain(..len)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // A command that reads no more is its own affair.
                Err(_) => {
                    self.input = None;
                    return;
                }
            }
        }
        if input.eof {
            self.input = None;
        }
    }
}

/// A line in the kernel log at a level that the console always shows.
fn mark(word: &str, name: Option<&str>) {
    if let Some(name) = name {
        let _ = std::fs::write("/dev/kmsg", format!("<3>fpt-init: {word} {name}\n"));
    }
}

fn start(exec: &Exec) -> io::Result<Job> {
    let (name, args) = exec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "empty command"))?;
    let mut command = Command::new(name);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .env("HOME", "/root")
        .env("USER", "root")
        .env("SHELL", "/bin/sh")
        .env("TERM", "linux")
        .envs(&exec.env)
        .current_dir(exec.cwd.as_deref().unwrap_or("/root"));
    // The name is searched in the guest's path, not in init's own (it has none).
    std::env::set_var(
        "PATH",
        exec.env
            .get("PATH")
            .map_or("/bin:/sbin:/usr/bin:/usr/sbin", String::as_str),
    );
    sys::new_session(&mut command, exec.tty);
    mark("begin", exec.mark.as_deref());
    let mut pipes = Vec::new();
    let mut input = None;
    let child = if exec.tty {
        let (master, slave) = sys::open_pty()?;
        if exec.rows > 0 && exec.cols > 0 {
            sys::set_winsize(master.as_raw_fd(), exec.rows, exec.cols)?;
        }
        sys::set_nonblocking(master.as_raw_fd())?;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        let child = command.spawn()?;
        input = Some(Input {
            file: master.try_clone()?,
            tty: true,
            queue: Vec::new(),
            eof: false,
        });
        pipes.push(Pipe {
            stream: Stream::Stdout,
            file: master,
        });
        child
    } else {
        command.stdin(if exec.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        for (stream, fd) in [
            (Stream::Stdout, child.stdout.take().map(OwnedFd::from)),
            (Stream::Stderr, child.stderr.take().map(OwnedFd::from)),
        ] {
            let file = File::from(fd.ok_or_else(|| io::Error::other("pipe is missing"))?);
            sys::set_nonblocking(file.as_raw_fd())?;
            pipes.push(Pipe { stream, file });
        }
        if let Some(pipe) = child.stdin.take() {
            let file = File::from(OwnedFd::from(pipe));
            sys::set_nonblocking(file.as_raw_fd())?;
            input = Some(Input {
                file,
                tty: false,
                queue: Vec::new(),
                eof: false,
            });
        }
        child
    };
    let start = Instant::now();
    Ok(Job {
        id: exec.id,
        pid: child.id() as i32,
        start,
        deadline: (exec.timeout_s > 0).then(|| start + Duration::from_secs(exec.timeout_s)),
        timeout: false,
        solo: exec.solo,
        mark: exec.mark.clone(),
        pipes,
        input,
        ended: None,
        output_left: match exec.most_output {
            0 => u64::MAX,
            most => most,
        },
    })
}
