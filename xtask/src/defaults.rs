// SPDX-License-Identifier: MIT OR Apache-2.0
//! Defaults from `fpt.toml`: the user's, and the checkout's.
//!
//! What counts, first to last: the option; the environment; `fpt.toml` of the checkout; `fpt.toml` of the user; what
//! is built in.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use fpt_geometry::Mode;
use fpt_kit::{did_you_mean, Fail, Result};

/// The name of the file, in the user's folder and in the checkout.
const FILE: &str = "fpt.toml";

/// A file of defaults. Each key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// The checkout, for calls from elsewhere. Only in the user's file.
    pub root: Option<PathBuf>,
    /// The mode of commands that need one.
    pub mode: Option<Mode>,
    /// Parallel jobs of make, ninja and cargo.
    pub jobs: Option<u16>,
    /// Guests at a time, where a command boots several.
    pub guests: Option<u16>,
    /// Memory of the guest of `run` and `gdb`.
    pub mem: Option<String>,
    /// Virtual CPUs of the guest of `run` and `gdb`.
    pub smp: Option<u32>,
}

const KEYS: [&str; 6] = ["root", "mode", "jobs", "guests", "mem", "smp"];

impl Defaults {
    /// The user's own file, if there is one.
    pub fn of_user() -> Result<Defaults> {
        match user_file() {
            Some(path) => Defaults::load(&path),
            None => Ok(Defaults::default()),
        }
    }

    /// The file of a checkout, and below it what the user's says.
    pub fn of_checkout(root: &Path, user: &Defaults) -> Result<Defaults> {
        let path = root.join(FILE);
        let own = Defaults::load(&path)?;
        if own.root.is_some() {
            return Err(Fail::usage(
                format!("{} names a checkout", path.display()),
                "it lies in one",
                "take `root` out; it belongs into the user's fpt.toml",
            ));
        }
        Ok(Defaults {
            root: user.root.clone(),
            mode: own.mode.or(user.mode),
            jobs: own.jobs.or(user.jobs),
            guests: own.guests.or(user.guests),
            mem: own.mem.or_else(|| user.mem.clone()),
            smp: own.smp.or(user.smp),
        })
    }

    fn load(path: &Path) -> Result<Defaults> {
        match std::fs::read_to_string(path) {
            Ok(text) => Defaults::parse(&text).map_err(|why| {
                Fail::usage(
                    format!("{} is not valid", path.display()),
                    why,
                    format!("it may set {}", KEYS.join(", ")),
                )
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Defaults::default()),
            Err(e) => Err(anyhow::Error::new(e).context(format!("cannot read {}", path.display()))),
        }
    }

    fn parse(text: &str) -> Result<Defaults, String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e
                .span()
                .map_or(1, |s| text[..s.start].lines().count().max(1));
            format!("line {line}: {}", e.message())
        })?;
        if let Some(key) = table.keys().find(|k| !KEYS.contains(&k.as_str())) {
            let near = did_you_mean(key, KEYS).map(|k| format!(", did you mean '{k}'?"));
            return Err(format!("there is no '{key}'{}", near.unwrap_or_default()));
        }
        Defaults::deserialize(table).map_err(|e| e.message().to_string())
    }
}

/// Where the user's file is looked for: `fpt-linux/fpt.toml` in `$XDG_CONFIG_HOME`, else in `~/.config`.
pub fn user_file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    absolute("XDG_CONFIG_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".config")))
        .map(|dir| dir.join("fpt-linux").join(FILE))
}

/// The cache folder: `$FPT_CACHE`, or `fpt-linux` in the user's cache folder.
pub fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    if let Some(dir) = absolute("FPT_CACHE") {
        return Ok(dir);
    }
    if let Some(dir) = absolute("XDG_CACHE_HOME") {
        return Ok(dir.join("fpt-linux"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/fpt-linux")),
        None => Err(Fail::infra(
            "no cache folder",
            "neither FPT_CACHE, XDG_CACHE_HOME nor HOME is an absolute path",
            "set FPT_CACHE to a folder with 15 GB of free space",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_no_other() {
        let all = "root = 'a'\nmode = 'l3l2'\njobs = 3\nguests = 1\nmem = '4G'\nsmp = 1\n";
        let read = Defaults::parse(all).unwrap();
        assert_eq!(read.mode, Some(Mode::L3L2));
        assert_eq!(
            (read.jobs, read.guests, read.smp),
            (Some(3), Some(1), Some(1))
        );
        assert_eq!(all.lines().count(), KEYS.len());
        for (bad, why) in [
            ("moed = 'l3l2'", "there is no 'moed', did you mean 'mode'?"),
            ("\nmode = 'l3l1'", "l3l1"),
            ("jobs = 'x'", "expected u16"),
            ("\n\nmode =", "line 3"),
        ] {
            let said = Defaults::parse(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn the_checkout_comes_before_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let user = Defaults::parse("root = '/x'\nmode = 'l3l2'\njobs = 1\n").unwrap();
        assert_eq!(Defaults::of_checkout(dir.path(), &user).unwrap(), user);
        std::fs::write(dir.path().join(FILE), "mode = 'radix'\n").unwrap();
        let both = Defaults::of_checkout(dir.path(), &user).unwrap();
        assert_eq!((both.mode, both.jobs), (Some(Mode::Radix), Some(1)));
        std::fs::write(dir.path().join(FILE), "root = '/y'\n").unwrap();
        assert!(Defaults::of_checkout(dir.path(), &user).is_err());
    }
}
