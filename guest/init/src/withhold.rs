// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt-init withhold SIGNAL PROGRAM [ARGS]`: runs a program under ptrace and keeps one signal from it, others
//! pass. For tests that make the kernel send them a signal which they do not expect: since 6.11 MADV_HWPOISON
//! sends SIGBUS to its caller, who dies without a handler, even if he ignores it.

use std::process::Command;

use crate::sys;

/// Signals that may be withheld. SIGTRAP is not: ptrace uses it.
const SIGNALS: [(&str, i32); 2] = [("BUS", libc::SIGBUS), ("SEGV", libc::SIGSEGV)];

pub fn main(args: &[String]) -> i32 {
    let [signal, program, rest @ ..] = args else {
        eprintln!("usage: fpt-init withhold BUS|SEGV PROGRAM [ARGS]");
        return 2;
    };
    let Some((name, signal)) = SIGNALS.iter().find(|(name, _)| name == signal) else {
        eprintln!("withhold: '{signal}' is neither BUS nor SEGV");
        return 2;
    };
    let mut command = Command::new(program);
    command.args(rest);
    sys::be_traced(&mut command);
    let child = match command.spawn() {
        Ok(child) => child.id() as i32,
        Err(error) => {
            eprintln!("withhold: cannot start {program}: {error}");
            return 127;
        }
    };
    match follow(child, *signal) {
        Ok((code, times)) => {
            eprintln!("withhold: SIG{name} withheld {times} times");
            code
        }
        Err(error) => {
            eprintln!("withhold: cannot trace {program}: {error}");
            126
        }
    }
}

/// Exit code of the child (128 and the signal that ended it), and how often the signal came.
fn follow(child: i32, signal: i32) -> std::io::Result<(i32, u32)> {
    let (mut started, mut times) = (false, 0);
    loop {
        let status = sys::wait_for(child)?;
        let Some(stop) = sys::stopped_by(status) else {
            return Ok((sys::shell_code(status), times));
        };
        let pass = if !started && stop == libc::SIGTRAP {
            // It has been executed; this is not a signal of its own.
            started = true;
            sys::end_with_tracer(child)?;
            0
        } else if stop == signal {
            times += 1;
            0
        } else {
            stop
        };
        sys::resume(child, pass)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> i32 {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        main(&words)
    }

    #[test]
    fn one_signal_is_kept_and_all_else_passes() {
        let sh = |signal: &str, line: &str| run(&[signal, "sh", "-c", line]);
        assert_eq!(sh("BUS", "exit 7"), 7);
        assert_eq!(sh("BUS", "kill -BUS $$; kill -BUS $$; exit 7"), 7);
        assert_eq!(sh("SEGV", "kill -SEGV $$; exit 7"), 7);
        assert_eq!(sh("SEGV", "kill -BUS $$; exit 7"), 128 + libc::SIGBUS);
        assert_eq!(sh("BUS", "kill -TRAP $$; exit 7"), 128 + libc::SIGTRAP);
        assert_eq!(run(&["BUS", "/there/is/no/such/program"]), 127);
        assert_eq!(run(&["TRAP", "true"]), 2);
        assert_eq!(run(&["BUS"]), 2);
    }
}
