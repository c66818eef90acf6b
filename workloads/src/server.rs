// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers under test: started, waited for, ended.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The unprivileged user of images.
pub const USER: u32 = 1000;

/// How long a server may take until it answers. A guest under a simulator is slow.
const START: Duration = Duration::from_secs(300);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

/// `path`, searched where distributions keep programs.
pub fn program(name: &str) -> Result<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| {
            Error::System(format!(
                "no {name} here: add its package to `packages` in workloads.toml"
            ))
        })
}

/// A command with a plain environment, as the unprivileged user.
pub fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C")
        .env("HOME", "/tmp")
        .current_dir("/tmp")
        .stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    command
}

impl Server {
    /// Starts `command`, whose output goes to a file in /tmp.
    pub fn start(name: &str, mut command: Command) -> Result<Server> {
        let log = PathBuf::from(format!("/tmp/{name}.log"));
        let file =
            File::create(&log).map_err(Error::system(format!("create {}", log.display())))?;
        let copy = file
            .try_clone()
            .map_err(Error::system("copy a descriptor"))?;
        let child = command
            .stdout(file)
            .stderr(copy)
            .spawn()
            .map_err(Error::system(format!("start {name}")))?;
        Ok(Server {
            name: name.to_string(),
            child,
            log,
        })
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// A connection to the socket that the server listens on.
    ///
    /// # Errors
    /// `System` with the server's last words if it ended or does not answer.
    pub fn connect(&mut self, socket: &Path) -> Result<Connection> {
        let start = Instant::now();
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Connection::new(stream),
                Err(e) if start.elapsed() > START => {
                    return Err(Error::System(format!(
                        "{} does not answer at {} ({e}); it said: {}",
                        self.name,
                        socket.display(),
                        self.last_words()
                    )))
                }
                Err(_) => {}
            }
            self.alive()?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// # Errors
    /// `System` with its last words if the server has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::System(format!(
                "{} ended ({status}); it said: {}",
                self.name,
                self.last_words()
            ))),
            Err(e) => Err(Error::System(format!(
                "cannot look after {}: {e}",
                self.name
            ))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both directions of a connection, each with a buffer.
#[derive(Debug)]
pub struct Connection {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Connection {
    /// A connection over this socket.
    pub fn new(stream: UnixStream) -> Result<Connection> {
        // A server that hangs must not hang the run.
        stream
            .set_read_timeout(Some(START))
            .and_then(|()| stream.set_write_timeout(Some(START)))
            .map_err(Error::system("set a time limit"))?;
        let output = stream
            .try_clone()
            .map_err(Error::system("copy a connection"))?;
        Ok(Connection {
            input: BufReader::with_capacity(256 << 10, stream),
            output,
        })
    }

    /// Sends all of these bytes.
    ///
    /// # Errors
    ///
    /// The other side is gone.
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.output
            .write_all(data)
            .map_err(Error::system("send to the server"))
    }

    /// What the server sends.
    pub fn input(&mut self) -> &mut BufReader<UnixStream> {
        &mut self.input
    }
}

/// The next line without its `\r\n`, of at most 64 KiB.
///
/// # Errors
/// `System` if the server hangs up or times out; `Wrong` for anything that is no such line.
pub fn read_line<'a>(input: &mut impl std::io::BufRead, line: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    line.clear();
    std::io::BufRead::read_until(&mut input.by_ref().take(1 << 16), b'\n', line)
        .map_err(Error::system("read from the server"))?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text),
        None if line.is_empty() => Err(Error::System("the server hung up".into())),
        None => Err(Error::Wrong(format!(
            "answer '{}' is no line",
            String::from_utf8_lossy(line).trim_end()
        ))),
    }
}

/// Exactly `out.len()` bytes.
pub fn read_exact(input: &mut impl Read, out: &mut [u8]) -> Result<()> {
    input
        .read_exact(out)
        .map_err(Error::system("read from the server"))
}

/// The number in `text`, for lengths in answers.
///
/// # Errors
/// `Wrong` unless it is one, up to `limit`.
pub fn length(text: &[u8], limit: usize) -> Result<usize> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse::<usize>().ok())
        .filter(|n| *n <= limit)
        .ok_or_else(|| Error::Wrong(format!("'{}' is no length", String::from_utf8_lossy(text))))
}
