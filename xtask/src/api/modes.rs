// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page-table shapes, and which of them the kernel in this checkout has.

use std::fmt;
use std::path::Path;

use super::fail::did_you_mean;
use super::{Fail, Result};

/// All shapes of the design; `configs/modes` lists those that the kernel has.
pub const ALL: [&str; 4] = ["radix", "l4l3", "l3l2", "l4l3-l2l1"];

/// A mode that the kernel of this checkout has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode(String);

impl Mode {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kernel command-line word that selects it.
    pub fn cmdline(&self) -> String {
        format!("fpt={}", self.0)
    }

    /// Check a word from the command line against `configs/modes` of the checkout.
    pub fn parse(root: &Path, word: &str) -> Result<Mode> {
        let have = available(root)?;
        if have.iter().any(|m| m == word) {
            return Ok(Mode(word.to_string()));
        }
        if ALL.contains(&word) {
            return Err(Fail::usage(
                format!("mode '{word}' is not in this kernel"),
                "configs/modes does not list it",
                format!("it has: {}", have.join(", ")),
            ));
        }
        let hint = match did_you_mean(word, have.iter().map(String::as_str)) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("one of: {}", have.join(", ")),
        };
        Err(Fail::usage(format!("unknown mode '{word}'"), "", hint))
    }

    /// Every mode of the kernel, in the order of `configs/modes`.
    pub fn all(root: &Path) -> Result<Vec<Mode>> {
        Ok(available(root)?.into_iter().map(Mode).collect())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn available(root: &Path) -> Result<Vec<String>> {
    let file = root.join("configs/modes");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        Fail::infra(
            format!("cannot read {}", file.display()),
            e.to_string(),
            "the list of the kernel's modes belongs to the checkout: restore it with git",
        )
    })?;
    let modes: Vec<String> = text
        .lines()
        .map(|l| l.split('#').next().unwrap_or("").trim())
        .filter(|l| !l.is_empty())
        .map(str::to_string)
        .collect();
    if modes.is_empty() {
        return Err(Fail::infra(
            format!("{} lists no mode", file.display()),
            "",
            "restore it with git",
        ));
    }
    Ok(modes)
}
