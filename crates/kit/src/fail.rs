// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors that a person can act on: what, why, what to do; one line, one exit code.

use std::fmt;

use super::Program;

/// How the tool ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// All is well.
    Ok,
    /// A test or a comparison failed.
    TestFailed,
    /// Bad input: an option, a file, a name.
    Usage,
    /// A missing prerequisite, or a build step that failed.
    Infra,
    /// A virtual machine crashed or complained.
    GuestCrashed,
    /// Something took too long.
    Timeout,
    /// Ctrl-C, or a signal that asks to end.
    Interrupted,
    /// Another program's own code, which is passed on: of `run -- CMD`, or of gdb.
    Theirs(i32),
}

impl ExitCode {
    /// Those that are ours, in the order of their numbers.
    pub const OURS: [ExitCode; 7] = [
        ExitCode::Ok,
        ExitCode::TestFailed,
        ExitCode::Usage,
        ExitCode::Infra,
        ExitCode::GuestCrashed,
        ExitCode::Timeout,
        ExitCode::Interrupted,
    ];

    /// The number that the shell sees.
    pub const fn number(self) -> i32 {
        match self {
            ExitCode::Ok => 0,
            ExitCode::TestFailed => 1,
            ExitCode::Usage => 2,
            ExitCode::Infra => 69,
            ExitCode::GuestCrashed => 71,
            ExitCode::Timeout => 124,
            ExitCode::Interrupted => 130,
            ExitCode::Theirs(code) => code,
        }
    }

    /// What it means, as help and docs say it.
    pub const fn about(self) -> &'static str {
        match self {
            ExitCode::Ok => "ok",
            ExitCode::TestFailed => "a test failed, a check did not hold",
            ExitCode::Usage => "wrong usage",
            ExitCode::Infra => "a prerequisite is missing, or a build step failed",
            ExitCode::GuestCrashed => "the guest crashed",
            ExitCode::Timeout => "timeout",
            ExitCode::Interrupted => "interrupted",
            ExitCode::Theirs(_) => "the exit code of the command in the guest, or of gdb",
        }
    }

    /// What a check that ran to its end comes to.
    pub const fn of_check(held: bool) -> ExitCode {
        if held {
            ExitCode::Ok
        } else {
            ExitCode::TestFailed
        }
    }
}

/// The codes by name.
pub mod code {
    use super::ExitCode;

    /// See [`ExitCode::Ok`].
    pub const OK: ExitCode = ExitCode::Ok;
    /// See [`ExitCode::TestFailed`].
    pub const TEST_FAILED: ExitCode = ExitCode::TestFailed;
    /// See [`ExitCode::Usage`].
    pub const USAGE: ExitCode = ExitCode::Usage;
    /// See [`ExitCode::Infra`].
    pub const INFRA: ExitCode = ExitCode::Infra;
    /// See [`ExitCode::GuestCrashed`].
    pub const GUEST_CRASHED: ExitCode = ExitCode::GuestCrashed;
    /// See [`ExitCode::Timeout`].
    pub const TIMEOUT: ExitCode = ExitCode::Timeout;
    /// See [`ExitCode::Interrupted`].
    pub const INTERRUPTED: ExitCode = ExitCode::Interrupted;
}

/// An error for people: one line that says what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    /// The program's exit code.
    pub code: ExitCode,
    /// What did not work.
    pub what: String,
    /// The cause, or empty.
    pub why: String,
    /// What to do, or empty.
    pub fix: String,
}

impl Fail {
    /// An error of these parts; empty parts are left out of the line.
    pub fn new(
        code: ExitCode,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Fail {
        Fail {
            code,
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// A missing prerequisite or a failed build step.
    pub fn infra(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> anyhow::Error {
        Fail::new(code::INFRA, what, why, fix).into()
    }

    /// Bad input on the command line.
    pub fn usage(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> anyhow::Error {
        Fail::new(code::USAGE, what, why, fix).into()
    }

    /// A check ran to its end and did not hold.
    pub fn test(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> anyhow::Error {
        Fail::new(code::TEST_FAILED, what, why, fix).into()
    }
}

/// Newlines in foreign text would break the promise of one line.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", flat(&self.what))?;
        if !self.why.is_empty() {
            write!(f, ": {}", flat(&self.why))?;
        }
        if !self.fix.is_empty() {
            write!(f, "; {}", flat(&self.fix))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fail {}

/// The line and the exit code for any error.
pub fn report(err: &anyhow::Error) -> (String, ExitCode) {
    if let Some(fail) = err.chain().find_map(|e| e.downcast_ref::<Fail>()) {
        return (fail.to_string(), fail.code);
    }
    if let Some(line) = disk_full(err) {
        return (line, code::INFRA);
    }
    let chain: Vec<String> = err.chain().map(|e| flat(&e.to_string())).collect();
    (chain.join(": "), code::INFRA)
}

fn disk_full(err: &anyhow::Error) -> Option<String> {
    let full = err.chain().any(|e| {
        e.downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
    });
    full.then(|| {
        let what = err.to_string();
        Fail::new(
            code::INFRA,
            flat(&what),
            "the disk is full",
            Program::this().free_space,
        )
        .to_string()
    })
}

/// The known word nearest to `word`, if one is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(d, k)| *d <= 2.max(k.len() / 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}
