// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of the plugin.

use std::path::PathBuf;

use fpt_qemu_plugin::{arguments, required};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Complete configuration, TOML.
    pub config: PathBuf,
    /// Result, JSON.
    pub out: PathBuf,
    /// The guest's kernel, for symbols.
    pub vmlinux: Option<PathBuf>,
    /// Folded stacks of page faults.
    pub flame: Option<PathBuf>,
    /// Who causes the walks, JSON.
    pub walks: Option<PathBuf>,
    pub label: String,
    /// Instead of the simulation: callbacks that do nothing, to measure what callbacks cost.
    pub empty: Option<Empty>,
    /// A thread of its own for each virtual CPU and machine simulates what lies behind the first level.
    pub helper: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// The callbacks that the simulation registers.
    Same,
    /// One for each instruction and each access.
    Each,
}

pub const USAGE: &str =
    "expected config=FILE,out=FILE[,vmlinux=FILE][,flame=FILE][,walks=FILE][,label=TEXT][,empty=same|each][,helper=on|off]";

pub fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options::default();
    arguments(args, USAGE, |key, value| {
        match (key, value) {
            ("config", v) if !v.is_empty() => o.config = v.into(),
            ("out", v) if !v.is_empty() => o.out = v.into(),
            ("vmlinux", v) if !v.is_empty() => o.vmlinux = Some(v.into()),
            ("flame", v) if !v.is_empty() => o.flame = Some(v.into()),
            ("walks", v) if !v.is_empty() => o.walks = Some(v.into()),
            ("label", v) => o.label = v.to_owned(),
            ("empty", "same") => o.empty = Some(Empty::Same),
            ("empty", "each") => o.empty = Some(Empty::Each),
            ("helper", v @ ("on" | "off")) => o.helper = v == "on",
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    required(&[("config", &o.config), ("out", &o.out)], USAGE)?;
    Ok(o)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Options, String> {
        options(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_accepted() {
        let o = of(&[
            "config=/c",
            "out=/o",
            "vmlinux=/v",
            "label=a=b",
            "empty=each",
            "helper=on",
        ])
        .unwrap();
        assert_eq!(o.config, PathBuf::from("/c"));
        assert_eq!(o.label, "a=b");
        assert_eq!((o.empty, o.helper), (Some(Empty::Each), true));
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            &["out=/o"][..],
            &["config=/c"],
            &["config=/c", "out="],
            &["config=/c", "out=/o", "x=1"],
            &["config=/c", "out=/o", "helper=2"],
        ] {
            assert!(of(bad).unwrap_err().contains("expected config=FILE"));
        }
    }
}
