// SPDX-License-Identifier: MIT OR Apache-2.0
//! `workloads/workloads.toml`: which programs there are, and what each needs at each scale.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use fpt_formats::matrix::Scale;
use fpt_kit::fail::did_you_mean;
use fpt_kit::{Fail, Result};

/// Where the catalogue is, from the checkout's root.
pub const FILE: &str = "workloads/workloads.toml";

/// How a program comes into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A static program of this workspace, at /workloads in the guest's root
    Static,
    /// The same, inside a distribution's root file system on a disk of its own
    Image,
}

/// What a workload runs and needs at one scale.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Memory of the guest.
    pub memory_mib: u64,
    /// `image`: the size of the image in the cache.
    #[serde(default)]
    pub disk_mib: u64,
    /// Rough time under the simulator on one CPU of the reference host.
    pub expect_s: u64,
    /// Then it is given up.
    pub timeout_s: u64,
}

/// A program that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The name on the command line.
    pub name: String,
    /// How it comes into the guest.
    pub kind: Kind,
    /// Of the workloads crate: the program, or the driver of the program in the image.
    pub binary: String,
    /// `image`: packages whose programs are in the image.
    #[serde(default)]
    pub packages: Vec<String>,
    /// What it does, in one line.
    #[serde(default)]
    pub about: String,
    /// Not one of the matrix: runs only when it is named.
    #[serde(default)]
    pub extra: bool,
    /// Takes `--edges FILE` instead of what makes its graph.
    #[serde(default)]
    pub edges: bool,
    /// Its sizes; a scale that is missing cannot be asked for.
    pub scale: BTreeMap<Scale, Size>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    workload: Vec<Workload>,
}

/// A mistake in a TOML file that a person wrote: where, what, and the nearest word that would be right.
pub fn toml_mistake(file: &str, text: &str, err: &toml::de::Error) -> anyhow::Error {
    let line = err.span().map_or(0, |s| {
        text[..s.start.min(text.len())].matches('\n').count() + 1
    });
    let message = err.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown "), quoted.next()) {
        (true, Some(word)) => match did_you_mean(word, quoted) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "correct the file; its head explains the keys".to_string(),
        },
        _ => "correct the file; its head explains the keys".to_string(),
    };
    let at = if line > 0 {
        format!("{file}, line {line}")
    } else {
        file.to_string()
    };
    Fail::usage(format!("{at} is not right"), message, hint)
}

/// All workloads of the checkout.
pub fn load(root: &Path) -> Result<Vec<Workload>> {
    let path = root.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Fail::infra(
            format!("cannot read {}", path.display()),
            e.to_string(),
            "the list of workloads belongs to the checkout: restore it with git",
        )
    })?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Workload>> {
    let file: File = toml::from_str(text).map_err(|e| toml_mistake(FILE, text, &e))?;
    let bad = |name: &str, why: &str| {
        Err(Fail::usage(
            format!("{FILE}: workload '{name}' is not right"),
            why,
            "correct the file; its head explains the keys",
        ))
    };
    let mut names = std::collections::BTreeSet::new();
    for w in &file.workload {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        if w.name.is_empty() || !w.name.chars().all(plain) {
            return bad(&w.name, "a name has small letters, digits, - and _ only");
        }
        if !names.insert(&w.name) {
            return bad(&w.name, "its name is there twice");
        }
        if w.binary.is_empty() {
            return bad(&w.name, "binary is empty");
        }
        if w.kind == Kind::Image && w.packages.is_empty() {
            return bad(&w.name, "kind image needs packages");
        }
        if w.scale.is_empty() {
            return bad(&w.name, "it has no scale");
        }
        if w.edges && w.kind != Kind::Static {
            return bad(&w.name, "edges are for kind static");
        }
        for size in w.scale.values() {
            if size.disk_mib > 0 && w.kind != Kind::Image {
                return bad(&w.name, "disk_mib is for kind image");
            }
            if size.argv.is_empty() {
                return bad(&w.name, "argv is empty");
            }
            if size.memory_mib < 128 {
                return bad(
                    &w.name,
                    "memory_mib is below 128, which the guest itself needs",
                );
            }
            if size.timeout_s == 0 || size.expect_s == 0 {
                return bad(&w.name, "expect_s and timeout_s are at least 1");
            }
        }
    }
    Ok(file.workload)
}

/// Those with the names in `wanted` (without any: all that are not extra), which must have `scale`.
pub fn select(all: Vec<Workload>, wanted: &[String], scale: Scale) -> Result<Vec<Workload>> {
    for word in wanted {
        if let Some(w) = all.iter().find(|w| w.name == *word) {
            if !w.scale.contains_key(&scale) {
                let have: Vec<&str> = w.scale.keys().map(|s| s.name()).collect();
                return Err(Fail::usage(
                    format!("workload '{word}' has no scale {}", scale.name()),
                    format!("{FILE} gives it {}", have.join(", ")),
                    "choose one of these",
                ));
            }
            continue;
        }
        let hint = match did_you_mean(word, all.iter().map(|w| w.name.as_str())) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!(
                "one of: {}",
                all.iter()
                    .map(|w| w.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        return Err(Fail::usage(format!("unknown workload '{word}'"), "", hint));
    }
    let chosen: Vec<Workload> = all
        .into_iter()
        .filter(|w| w.scale.contains_key(&scale))
        .filter(|w| {
            if wanted.is_empty() {
                !w.extra
            } else {
                wanted.contains(&w.name)
            }
        })
        .collect();
    if chosen.is_empty() {
        return Err(Fail::usage(
            format!("no workload has scale {}", scale.name()),
            "",
            "choose another with --scale",
        ));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[workload]]\nname='bfs'\nkind='static'\nbinary='graph'\n\
        [workload.scale.tiny]\nargv=['/workloads/graph','bfs']\nmemory_mib=512\nexpect_s=5\ntimeout_s=60\n";

    #[test]
    fn good_and_bad_files() {
        let all = parse(GOOD).unwrap();
        assert_eq!(all[0].scale[&Scale::Tiny].memory_mib, 512);
        for (bad, why) in [
            (format!("{GOOD}{GOOD}"), "twice"),
            (format!("{GOOD}timeot_s=3\n"), "did you mean 'timeout_s'?"),
            (format!("{GOOD}timeot_s=3\n"), "line 10"),
            (
                GOOD.replace("'static'", "'statik'"),
                "did you mean 'static'?",
            ),
            (
                GOOD.replace("scale.tiny", "scale.tinny"),
                "did you mean 'tiny'?",
            ),
            (GOOD.replace("memory_mib=512", "memory_mib=64"), "below 128"),
            (GOOD.replace("=512", "='much'"), "invalid type"),
            (GOOD.replace("timeout_s=60", "timeout_s=0"), "at least 1"),
            (GOOD.replace("'bfs'\nkind", "'../x'\nkind"), "small letters"),
            (
                GOOD.replace("binary='graph'\n", ""),
                "missing field `binary`",
            ),
            (GOOD.replace("'static'", "'image'"), "needs packages"),
            (format!("{GOOD}]"), "line 10"),
        ] {
            let err = parse(&bad).unwrap_err();
            let (line, code) = fpt_kit::fail::report(&err);
            assert!(line.contains(why), "{why}: {line}");
            assert_eq!(code, fpt_kit::code::USAGE);
        }
    }

    #[test]
    fn selection() {
        let all = || parse(&format!("{GOOD}{}", GOOD.replace("bfs", "gups"))).unwrap();
        assert_eq!(select(all(), &[], Scale::Tiny).unwrap().len(), 2);
        assert_eq!(
            select(all(), &["gups".into()], Scale::Tiny).unwrap()[0].name,
            "gups"
        );
        let extra = GOOD.replace("'bfs'\n", "'gups'\nextra=true\n");
        let more = || parse(&format!("{GOOD}{extra}")).unwrap();
        assert_eq!(select(more(), &[], Scale::Tiny).unwrap()[0].name, "bfs");
        assert_eq!(select(more(), &[], Scale::Tiny).unwrap().len(), 1);
        let named = select(more(), &["gups".into()], Scale::Tiny).unwrap();
        assert_eq!(named[0].name, "gups");
        let line = |e: anyhow::Error| fpt_kit::fail::report(&e).0;
        let err = line(select(all(), &["gusp".into()], Scale::Tiny).unwrap_err());
        assert!(err.contains("did you mean 'gups'?"), "{err}");
        let err = line(select(all(), &["gups".into()], Scale::Paper).unwrap_err());
        assert!(err.contains("has no scale paper"), "{err}");
        let err = line(select(all(), &[], Scale::Paper).unwrap_err());
        assert!(err.contains("no workload has scale paper"), "{err}");
    }
}
