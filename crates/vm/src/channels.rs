// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest says and how: its console, the channel to its init, QEMU's own words. Each is read by a thread.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use fpt_init::proto::{Ev, Op};

use fpt_kit::{locked, Result};
use fpt_verdict::rundir::Log;

pub(crate) enum Event {
    Console(String),
    ConsoleEnd,
    LogFailed(anyhow::Error),
    Ctl(Ev),
    CtlBad(String),
    CtlEnd,
}

pub(crate) type Lines = Arc<Mutex<Vec<String>>>;

pub(crate) type Writer = Arc<Mutex<Option<UnixStream>>>;

pub(crate) fn send(writer: &Writer, op: &Op) -> bool {
    let Ok(mut line) = serde_json::to_vec(op) else {
        return false;
    };
    line.push(b'\n');
    locked(writer)
        .as_mut()
        .is_some_and(|s| s.write_all(&line).is_ok())
}

/// The instruction pointer of the triple fault in QEMU's log, if there is one.
pub(crate) fn triple_fault(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, after) = text.split_once("Triple fault")?;
    let (_, rip) = after.split_once("RIP=")?;
    rip.split_whitespace()
        .next()
        .map(|word| format!("rip {word}"))
}

/// Waits in a thread for QEMU to connect, keeps a writer, then serves the connection.
pub(crate) fn listen(
    path: &Path,
    writer: &Writer,
    stop: &Arc<AtomicBool>,
    serve: impl FnOnce(UnixStream) + Send + 'static,
) -> Result<()> {
    let context = || format!("cannot listen on {}", path.display());
    let listener = UnixListener::bind(path).with_context(context)?;
    listener.set_nonblocking(true).with_context(context)?;
    let (writer, stop) = (writer.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let both = stream
                        .set_nonblocking(false)
                        .and_then(|()| stream.try_clone());
                    if let Ok(copy) = both {
                        *locked(&writer) = Some(copy);
                        serve(stream);
                    }
                    return;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(3)),
            }
        }
    });
    Ok(())
}

pub(crate) fn read_ctl(stream: UnixStream, send: &Sender<Event>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(len) if len > 0 => {}
            _ => break,
        }
        let event = match serde_json::from_slice(&line) {
            Ok(ev) => Event::Ctl(ev),
            Err(e) => Event::CtlBad(format!(
                "{e}: {}",
                String::from_utf8_lossy(&line).trim_end()
            )),
        };
        if send.send(event).is_err() {
            return;
        }
    }
    let _ = send.send(Event::CtlEnd);
}

pub(crate) fn read_console(
    pipe: os_pipe::PipeReader,
    mut log: Log,
    lines: &Lines,
    send: &Sender<Event>,
) {
    let mut reader = BufReader::new(pipe);
    let mut raw = Vec::new();
    let mut log_ok = true;
    loop {
        raw.clear();
        match reader.read_until(b'\n', &mut raw) {
            Ok(len) if len > 0 => {}
            _ => break,
        }
        if log_ok {
            if let Err(err) = log.write(&raw) {
                log_ok = false;
                let _ = send.send(Event::LogFailed(err));
            }
        }
        let line: String = String::from_utf8_lossy(&raw)
            .trim_end()
            .chars()
            .filter(|c| !c.is_control() || *c == '\t')
            .collect();
        locked(lines).push(line.clone());
        let _ = send.send(Event::Console(line));
    }
    let _ = send.send(Event::ConsoleEnd);
}

pub(crate) fn read_stderr(pipe: os_pipe::PipeReader, mut log: Log, lines: &Lines) {
    let mut reader = BufReader::new(pipe);
    let mut raw = Vec::new();
    while matches!(reader.read_until(b'\n', &mut raw), Ok(len) if len > 0) {
        let _ = log.write(&raw);
        locked(lines).push(String::from_utf8_lossy(&raw).trim_end().to_string());
        raw.clear();
    }
}
