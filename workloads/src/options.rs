// SPDX-License-Identifier: MIT OR Apache-2.0
//! Command lines: `--name value` options with a default each; anything else is refused.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The options of one program.
#[derive(Debug, Default)]
pub struct Options {
    given: Vec<(String, String)>,
    known: Vec<String>,
}

impl Options {
    /// Reads this process's command line.
    ///
    /// # Errors
    /// `Usage` for an option without a value and for a word that is no option.
    pub fn from_env() -> Result<Options> {
        Options::parse(lexopt::Parser::from_env())
    }

    /// As [`Options::from_env`] for words that are given.
    pub fn from_words(words: &[&str]) -> Result<Options> {
        Options::parse(lexopt::Parser::from_args(words))
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Options> {
        let usage =
            |e: lexopt::Error| Error::Usage(format!("{e}: see docs/reference/workloads.md"));
        let mut given = Vec::new();
        while let Some(arg) = parser.next().map_err(usage)? {
            match arg {
                lexopt::Arg::Long(name) => {
                    let name = name.to_string();
                    let value = parser.value().map_err(usage)?;
                    let value = value.into_string().map_err(|v| {
                        Error::Usage(format!("--{name} {}: not UTF-8", v.to_string_lossy()))
                    })?;
                    given.push((name, value));
                }
                other => return Err(usage(other.unexpected())),
            }
        }
        Ok(Options {
            given,
            known: Vec::new(),
        })
    }

    fn raw(&mut self, name: &str) -> Option<String> {
        self.known.push(name.to_string());
        self.given
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    }

    /// The number after `--name`, or the default.
    ///
    /// # Errors
    /// `Usage` unless it is a number from `low` to `high`.
    pub fn number<T>(&mut self, name: &str, default: T, low: T, high: T) -> Result<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.raw(name) else {
            return Ok(default);
        };
        match text.parse::<T>() {
            Ok(n) if n >= low && n <= high => Ok(n),
            _ => Err(Error::Usage(format!(
                "--{name} {text} is no number from {low} to {high}"
            ))),
        }
    }

    /// The word after `--name`.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.raw(name)
    }

    /// The file name after `--name`.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.raw(name).map(PathBuf::from)
    }

    /// To be called when all options are read.
    ///
    /// # Errors
    /// `Usage` if an option was given that nobody asked for.
    pub fn finish(self) -> Result<()> {
        match self.given.iter().find(|(n, _)| !self.known.contains(n)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Usage(format!(
                "no option --{name}: this program has --{}",
                self.known.join(", --")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_defaults_values_and_refuses_the_rest() {
        let mut o = Options::from_words(&["--scale", "12", "--edges=/x"]).unwrap();
        assert_eq!(o.number("scale", 10u32, 4, 30), Ok(12));
        assert_eq!(o.number("factor", 8u32, 1, 64), Ok(8));
        assert_eq!(o.path("edges"), Some("/x".into()));
        assert_eq!(o.finish(), Ok(()));

        let mut o = Options::from_words(&["--scale", "99", "--what", "1"]).unwrap();
        assert!(matches!(
            o.number("scale", 10u32, 4, 30),
            Err(Error::Usage(_))
        ));
        assert!(matches!(o.finish(), Err(Error::Usage(t)) if t.contains("--what")));

        for bad in [&["word"][..], &["-x"], &["--scale"]] {
            assert!(
                matches!(Options::from_words(bad), Err(Error::Usage(_))),
                "{bad:?}"
            );
        }
    }
}
