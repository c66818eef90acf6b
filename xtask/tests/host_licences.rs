// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is under MIT or Apache-2.0 links nothing of ours that is under the GPL alone.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// A crate of this workspace: its licence, and those of the workspace that it links.
type Crates = BTreeMap<String, (String, Vec<String>)>;

fn crates() -> Crates {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .args(["--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let all: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    list(&all["packages"])
        .iter()
        .map(|p| {
            // Only what is built in: a test may use what it likes.
            let linked = list(&p["dependencies"])
                .iter()
                .filter(|d| d["kind"].is_null() && d["path"].is_string())
                .map(|d| text(&d["name"]))
                .collect();
            (text(&p["name"]), (text(&p["license"]), linked))
        })
        .collect()
}

fn is_permissive(licence: &str) -> bool {
    licence.split(" OR ").any(|l| l == "MIT")
}

/// `a links b` for each permissive crate with a dependency that is not.
fn wrong(crates: &Crates) -> Vec<String> {
    let permissive = |name: &String| is_permissive(&crates[name].0);
    crates
        .iter()
        .filter(|(name, _)| permissive(name))
        .flat_map(|(name, (_, linked))| linked.iter().map(move |other| (name, other)))
        .filter(|(_, other)| !permissive(other))
        .map(|(name, other)| format!("{name} links {other}"))
        .collect()
}

#[test]
fn permissive_crates_link_permissive_crates() {
    let crates = crates();
    assert!(crates.len() >= 9, "{crates:?}");
    assert!(!is_permissive(&crates["fpt-core"].0));
    assert_eq!(
        crates["xtask"].1,
        ["fpt-geometry", "fpt-init", "fpt-walksim-model"]
    );
    assert_eq!(wrong(&crates), [""; 0]);
}

#[test]
fn a_wrong_link_is_seen() {
    let mut crates = crates();
    let linked = &mut crates.get_mut("fpt-walksim-model").expect("it is there").1;
    linked.push("fpt-core".into());
    assert_eq!(wrong(&crates), ["fpt-walksim-model links fpt-core"]);
}
