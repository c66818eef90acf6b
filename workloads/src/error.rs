// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as one line: what, why, what to do.

use std::fmt;

/// How a program ends without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Wrong command line or input: exit code 2.
    Usage(String),
    /// The result is wrong, or an answer of the server was: exit code 1.
    Wrong(String),
    /// The system refused something: exit code 69.
    System(String),
}

/// A result of a workload.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The exit code of the program.
    pub fn code(&self) -> i32 {
        match self {
            Error::Usage(_) => 2,
            Error::Wrong(_) => 1,
            Error::System(_) => 69,
        }
    }

    /// For `map_err`: the system refused to do `what`.
    pub fn system(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
        move |e| Error::System(format!("cannot {what}: {e}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Error::Usage(text) | Error::Wrong(text) | Error::System(text)) = self;
        f.write_str(&text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl std::error::Error for Error {}

/// `Err(Wrong)` with a text, unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($text:tt)*) => {
        if !$cond {
            return Err($crate::error::Error::Wrong(format!($($text)*)));
        }
    };
}
