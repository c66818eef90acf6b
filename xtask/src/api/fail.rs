// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors that a person can act on: what, why, what to do; one line, one exit code.

use std::fmt;

/// Exit codes of the tool; `run -- CMD` passes the guest command's own code on.
pub mod code {
    pub const OK: i32 = 0;
    pub const TEST_FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const INFRA: i32 = 69;
    pub const GUEST_CRASHED: i32 = 71;
    pub const TIMEOUT: i32 = 124;
    pub const INTERRUPTED: i32 = 130;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    pub code: i32,
    pub what: String,
    pub why: String,
    pub fix: String,
}

impl Fail {
    pub fn new(
        code: i32,
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
pub fn report(err: &anyhow::Error) -> (String, i32) {
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
            "free some space (`cargo xtask clean` empties this project's cache) and run the same command again",
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
