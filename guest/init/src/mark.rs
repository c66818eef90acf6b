// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt-init mark [--unmarked] [--seen FILE] [--stdin FILE] PROGRAM [ARGS]`: runs a program and marks its whole run, from exec to the
//! end of the last process that comes of it, as phase `whole` of the simulator. `--unmarked` leaves the marks to the program.
//!
//! The processes are followed by ptrace, which stops them where they end and where they multiply. At the end of a process its
//! mappings and the size of its page tables go to FILE, a JSON object per line. The phase is interrupted for that.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use fpt_init::proto::Seen;

use crate::sys::{self, Traced};

/// Processes whose end is written down. Each interrupts the phase.
const MOST_SEEN: usize = 16;

struct Options<'a> {
    marks: bool,
    seen: Option<&'a str>,
    stdin: Option<&'a str>,
    command: &'a [String],
}

fn options(args: &[String]) -> Option<Options<'_>> {
    let mut options = Options {
        marks: true,
        seen: None,
        stdin: None,
        command: args,
    };
    loop {
        match options.command {
            [word, rest @ ..] if word == "--unmarked" => {
                options.marks = false;
                options.command = rest;
            }
            [word, file, rest @ ..] if word == "--seen" => {
                options.seen = Some(file);
                options.command = rest;
            }
            [word, file, rest @ ..] if word == "--stdin" => {
                options.stdin = Some(file);
                options.command = rest;
            }
            [] => return None,
            _ => return Some(options),
        }
    }
}

pub fn main(args: &[String]) -> i32 {
    let Some(options) = options(args) else {
        eprintln!("usage: fpt-init mark [--unmarked] [--seen FILE] [--stdin FILE] PROGRAM [ARGS]");
        return 2;
    };
    let result = start(&options).and_then(|child| follow(child, &options));
    match result {
        Ok((code, 0)) => code,
        Ok((_, signal)) => {
            // Ends as the program did; should that fail, as a shell would say it.
            sys::end_by(signal);
            128 + signal
        }
        Err(error) => {
            eprintln!("mark: cannot follow the program: {error}");
            126
        }
    }
}

/// `fpt-init mark-exec WORD PROGRAM [ARGS]`: the other side. The phase begins in the process that becomes the program.
pub fn exec(args: &[String]) -> i32 {
    let [word, program, rest @ ..] = args else {
        return 2;
    };
    let mut command = Command::new(program);
    command.args(rest);
    if word == MARKS {
        sys::whole_begins();
    }
    let error = command.exec();
    eprintln!("{program}: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}

const MARKS: &str = "marks";

/// The process in which the program will run, stopped.
fn start(options: &Options) -> io::Result<i32> {
    let word = if options.marks { MARKS } else { "no-marks" };
    let stdin = options.stdin.map(File::open).transpose()?;
    let command = || -> io::Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["mark-exec", word]).args(options.command);
        if let Some(file) = &stdin {
            command.stdin(file.try_clone()?);
        }
        Ok(command)
    };
    let mut traced = command()?;
    sys::be_traced(&mut traced);
    let child = match traced.spawn() {
        Ok(child) => child.id() as i32,
        // Somebody traces this process and what comes of it: then ends are waited for, and not looked at.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            sys::adopt_orphans()?;
            return Ok(command()?.spawn()?.id() as i32);
        }
        Err(e) => return Err(e),
    };
    sys::wait_for(child)?;
    sys::follow_all(child)?;
    sys::resume(child, 0)?;
    Ok(child)
}

/// Exit code and signal of the program.
fn follow(child: i32, options: &Options) -> io::Result<(i32, i32)> {
    let mut file = options.seen.map(File::create).transpose()?;
    let mut known = BTreeSet::from([child]);
    let mut left = MOST_SEEN;
    let mut ended = (0, 0);
    while let Some((pid, status)) = sys::wait_any()? {
        let signal = match sys::traced(status) {
            Traced::Ended => {
                known.remove(&pid);
                if pid == child {
                    ended = sys::decode_status(status);
                }
                continue;
            }
            Traced::Ends => {
                if let Some(file) = file.as_mut().filter(|_| left > 0) {
                    left -= usize::from(look(pid, options.marks, file)?);
                }
                0
            }
            Traced::Event => 0,
            // A new process stops once before it runs.
            Traced::Signal(signal) if known.insert(pid) && signal == libc::SIGSTOP => 0,
            Traced::Signal(signal) => signal,
        };
        // It may have been killed meanwhile, which the next status says.
        let _ = sys::resume(pid, signal);
    }
    if options.marks {
        sys::whole_ends();
    }
    Ok(ended)
}

/// Writes down what a process that is about to end has; false for a thread that is not the first.
fn look(pid: i32, marks: bool, file: &mut File) -> io::Result<bool> {
    if marks {
        sys::whole_ends();
    }
    let seen = seen(pid);
    if let Some(seen) = &seen {
        let mut line = serde_json::to_vec(seen)?;
        line.push(b'\n');
        file.write_all(&line)?;
    }
    if marks {
        sys::whole_begins();
    }
    Ok(seen.is_some())
}

fn seen(pid: i32) -> Option<Seen> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_string)
    };
    let kib = |name: &str| field(name)?.parse::<u64>().ok();
    if field("Tgid:")? != pid.to_string() {
        return None;
    }
    // Behind the name a process may have chosen spaces.
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Seen {
        pid,
        comm: comm.trim_end_matches('\n').to_string(),
        page_tables_kb: kib("VmPTE:").unwrap_or(0),
        most_resident_kb: kib("VmHWM:").unwrap_or(0),
        maps: std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn options_come_first() {
        let all = words("--unmarked --seen /f prog --seen x");
        let o = options(&all).unwrap();
        assert_eq!((o.marks, o.seen), (false, Some("/f")));
        assert_eq!(o.command, ["prog", "--seen", "x"]);
        assert!(options(&[]).is_none());
        assert!(options(&words("--seen")).is_some_and(|o| o.command == ["--seen"]));
    }

    #[test]
    fn this_process_can_be_seen() {
        let pid = std::process::id() as i32;
        let seen = seen(pid).unwrap();
        assert!(seen.page_tables_kb > 0 && seen.most_resident_kb > 0);
        assert!(seen.maps.contains("[stack]") || seen.maps.contains("r-xp"));
    }
}
