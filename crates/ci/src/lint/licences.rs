// SPDX-License-Identifier: MIT OR Apache-2.0
//! Licences: of every dependency, and what is under MIT or Apache-2.0 links nothing of ours that is under the GPL alone.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

use fpt_kit::{Cmd, Ctx, Result};

/// Licences under which a dependency may be, alone or as a choice.
const GOOD: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// The answer of `cargo metadata`, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Clone, Deserialize)]
struct Package {
    name: String,
    license: Option<String>,
    /// Where it comes from; none for a crate of this repository.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    name: String,
    /// None for what is linked; `dev` and `build` are not.
    kind: Option<String>,
    path: Option<String>,
}

pub fn check(ctx: &Ctx) -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let text = Cmd::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--manifest-path",
        ])
        .arg(ctx.root.join("Cargo.toml"))
        .read()?;
    let all: Metadata = serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
    let mut found = of_others(&all);
    found.extend(of_ours(&all));
    Ok(found)
}

/// `a: L` for each dependency under none of the licences.
fn of_others(all: &Metadata) -> Vec<String> {
    all.packages
        .iter()
        .filter(|p| p.source.is_some())
        .filter_map(|p| match &p.license {
            Some(l) if is_good(l) => None,
            Some(l) => Some(format!(
                "{}: {l} is not in GOOD of crates/ci/src/lint/licences.rs",
                p.name
            )),
            None => Some(format!("{}: it says no licence", p.name)),
        })
        .collect()
}

/// An expression of SPDX, without brackets inside brackets: one choice of each part is good.
fn is_good(licence: &str) -> bool {
    let part = |text: &str| {
        text.split(" OR ")
            .flat_map(|t| t.split('/'))
            .any(|l| GOOD.contains(&l.trim().trim_matches(['(', ')'])))
    };
    licence.split(" AND ").all(part)
}

fn is_permissive(licence: &str) -> bool {
    licence.split(" OR ").any(|l| l == "MIT")
}

/// `a links b` for each permissive crate of ours with a dependency of ours that is not.
fn of_ours(all: &Metadata) -> Vec<String> {
    let ours: BTreeMap<&str, &Package> = (all.packages.iter())
        .filter(|p| p.source.is_none())
        .map(|p| (p.name.as_str(), p))
        .collect();
    let permissive = |p: &Package| p.license.as_deref().is_some_and(is_permissive);
    ours.values()
        .filter(|p| permissive(p))
        .flat_map(|p| p.dependencies.iter().map(move |d| (&p.name, d)))
        .filter(|(_, d)| d.kind.is_none() && d.path.is_some())
        .filter(|(_, d)| ours.get(d.name.as_str()).is_none_or(|p| !permissive(p)))
        .map(|(name, d)| format!("{name} links {}, which is under the GPL alone", d.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "Unlicense OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        ] {
            assert!(is_good(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "Unlicense", "", "MITX"] {
            assert!(!is_good(bad), "{bad}");
        }
    }

    fn package(name: &str, license: &str, links: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency {
            name: name.to_string(),
            kind: None,
            path: Some("x".into()),
        };
        Package {
            name: name.into(),
            license: Some(license.into()),
            source: None,
            dependencies: links.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn a_permissive_crate_that_links_the_gpl_is_seen() {
        let mut all = Metadata {
            packages: vec![
                package("core", "GPL-2.0-only", &["geometry"]),
                package("geometry", "GPL-2.0-only OR MIT OR Apache-2.0", &[]),
                package("tool", "MIT OR Apache-2.0", &["geometry"]),
            ],
        };
        assert_eq!(of_ours(&all), [""; 0]);
        all.packages
            .push(package("plugin", "MIT OR Apache-2.0", &["core"]));
        assert_eq!(
            of_ours(&all),
            ["plugin links core, which is under the GPL alone"]
        );
        all.packages[3].dependencies[0].kind = Some("dev".into());
        assert_eq!(of_ours(&all), [""; 0]);
    }

    #[test]
    fn a_dependency_under_another_licence_is_seen() {
        let mut foreign = package("x", "GPL-3.0", &[]);
        foreign.source = Some("registry".into());
        let silent = Package {
            license: None,
            ..foreign.clone()
        };
        let all = Metadata {
            packages: vec![foreign, silent],
        };
        assert_eq!(of_others(&all).len(), 2);
    }
}
