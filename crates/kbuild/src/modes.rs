// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modes on the command line. What a mode is stands in `fpt-geometry`.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;

use fpt_geometry::Mode;

use fpt_kit::{code, did_you_mean, Fail, Result};

/// For clap: a mode by its name, or one line that says which name was meant.
#[derive(Clone, Copy, Debug)]
pub struct Parser;

impl TypedValueParser for Parser {
    type Value = Mode;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        word: &OsStr,
    ) -> Result<Mode, clap::Error> {
        let word = word.to_string_lossy();
        word.parse().map_err(|_| {
            let line = format!("{}\n", unknown(&word));
            clap::Error::raw(ErrorKind::InvalidValue, line)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            Mode::ALL.into_iter().map(|m| PossibleValue::new(m.name())),
        ))
    }
}

/// The one mode of a command that takes no more.
pub fn one(modes: &[Mode]) -> Result<Mode> {
    match modes {
        [mode] => Ok(*mode),
        _ => Err(Fail::usage(
            "one mode at a time",
            format!("--mode names {}", modes.len()),
            "run the command once for each",
        )),
    }
}

/// Each of them once, in the order in which they were named.
pub fn each_once(modes: &[Mode]) -> Vec<Mode> {
    let mut once = Vec::new();
    for mode in modes {
        if !once.contains(mode) {
            once.push(*mode);
        }
    }
    once
}

fn unknown(word: &str) -> Fail {
    let names = Mode::ALL.map(Mode::name);
    let hint = match did_you_mean(word, names) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("one of: {}", names.join(", ")),
    };
    Fail::new(code::USAGE, format!("unknown mode '{word}'"), "", hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_by_its_name_and_no_other_word() {
        let parse = |word: &str| Parser.parse_ref(&clap::Command::new("x"), None, OsStr::new(word));
        for mode in Mode::ALL {
            assert_eq!(parse(mode.name()).unwrap(), mode);
        }
        for (word, hint) in [
            ("l3l1", "did you mean 'l3l2'?"),
            ("xyzzyxyzzy", "one of: radix, l4l3, l3l2, l4l3-l2l1"),
        ] {
            let err = parse(word).unwrap_err();
            assert_eq!(err.exit_code(), code::USAGE.number());
            assert_eq!(
                err.to_string(),
                format!("error: unknown mode '{word}'; {hint}\n")
            );
        }
    }
}
