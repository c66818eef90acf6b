// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modes and boot choices on the command line. What they are stands in `fpt-geometry`.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;

use fpt_geometry::{Boot, Mode};
use fpt_kit::{code, did_you_mean, Fail, Result};

/// For clap: a mode by its name, or one line that says which name was meant.
#[derive(Clone, Copy, Debug)]
pub struct Parser;

/// The same for a boot choice, which may be mixed.
#[derive(Clone, Copy, Debug)]
pub struct BootParser;

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
            refused(match word.parse::<Boot>() {
                Ok(_) => not_mixed(),
                Err(_) => unknown(&word, &Mode::ALL.map(Mode::name)),
            })
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            Mode::ALL.into_iter().map(|m| PossibleValue::new(m.name())),
        ))
    }
}

impl TypedValueParser for BootParser {
    type Value = Boot;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        word: &OsStr,
    ) -> Result<Boot, clap::Error> {
        let word = word.to_string_lossy();
        word.parse()
            .map_err(|_| refused(unknown(&word, &Boot::ALL.map(Boot::name))))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            Boot::ALL.into_iter().map(|b| PossibleValue::new(b.name())),
        ))
    }
}

/// The one mode, or boot choice, of a command that takes no more.
pub fn one<T: Copy>(modes: &[T]) -> Result<T> {
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
pub fn each_once<T: Copy + PartialEq>(modes: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    for mode in modes {
        if !once.contains(mode) {
            once.push(*mode);
        }
    }
    once
}

fn refused(why: Fail) -> clap::Error {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{why}\n"))
}

fn not_mixed() -> Fail {
    Fail::new(
        code::USAGE,
        "no mode 'mixed' here",
        "this command looks at tables of one shape, and there each process has its own",
        format!(
            "one of: {}; `run`, `sim`, `bench`, `selftest`, `stress` and `fuzz` take mixed",
            Mode::ALL.map(Mode::name).join(", ")
        ),
    )
}

fn unknown(word: &str, names: &[&'static str]) -> Fail {
    let hint = match did_you_mean(word, names.iter().copied()) {
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
        let err = parse("mixed").unwrap_err().to_string();
        assert!(err.starts_with("error: no mode 'mixed' here"), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }

    #[test]
    fn each_boot_choice_by_its_name_and_no_other_word() {
        let parse =
            |word: &str| BootParser.parse_ref(&clap::Command::new("x"), None, OsStr::new(word));
        for boot in Boot::ALL {
            assert_eq!(parse(boot.name()).unwrap(), boot);
        }
        let err = parse("mixt").unwrap_err().to_string();
        assert_eq!(err, "error: unknown mode 'mixt'; did you mean 'mixed'?\n");
    }
}
