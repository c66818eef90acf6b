// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crates of the host's tools: which may import which, and how much of the whole each may be.

use super::tree::{Source, Tree};

/// The page whose table names the crates, from the ground up.
const PAGE: &str = "ARCHITECTURE.md";

/// A crate holds at most one part in so many of the host's code.
const PARTS: usize = 4;

/// The crate of `crates/NAME/...`; the command line is one, too.
fn room(path: &str) -> Option<&str> {
    match path.strip_prefix("crates/") {
        Some(rest) => rest.split('/').next(),
        None => path.starts_with("xtask/").then_some("xtask"),
    }
}

/// The crates in the order of the page's table.
fn order(tree: &Tree) -> Vec<&str> {
    let page = tree.files.iter().find(|f| f.path == PAGE);
    let rows = page.into_iter().flat_map(|f| f.text.lines());
    rows.filter_map(|l| l.strip_prefix("| `crates/")?.split('`').next())
        .collect()
}

/// The crates of ours that a manifest links, tests not counted: line and name.
fn links(manifest: &Source) -> Vec<(usize, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for (n, line) in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if section == "[dependencies]" {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            found.extend(line[..end].strip_prefix("fpt-").map(|name| (n, name)));
        }
    }
    found
}

/// A crate imports only what stands above it in the table; the first knows nothing of ours.
pub fn walls(tree: &Tree) -> Vec<String> {
    let order = order(tree);
    let place = |name: &str| order.iter().position(|o| *o == name);
    let mut found = Vec::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_suffix("/Cargo.toml").and_then(room) else {
            continue;
        };
        if name == "xtask" {
            continue;
        }
        let Some(own) = place(name) else {
            let what = format!("'{name}' is not in the table of crates in {PAGE}");
            found.push(file.complaint(1, &what));
            continue;
        };
        for (n, other) in links(file) {
            let there = place(other);
            if own == 0 {
                let what = format!("it knows nothing of this project, and links fpt-{other}");
                found.push(file.complaint(n, &what));
            } else if there.is_some_and(|o| o >= own) {
                let what = format!("fpt-{other} does not stand above it in {PAGE}");
                found.push(file.complaint(n, &what));
            }
        }
    }
    found
}

/// No crate holds more than its part of the lines of all; programs of tests are not counted.
pub fn shares(tree: &Tree) -> Vec<String> {
    let mut sizes: Vec<(&str, usize)> = Vec::new();
    for file in tree.with(&["rs"]).filter(|f| !f.path.contains("/tests/")) {
        let Some(name) = room(&file.path) else {
            continue;
        };
        let lines = file.text.lines().count();
        match sizes.iter_mut().find(|s| s.0 == name) {
            Some(size) => size.1 += lines,
            None => sizes.push((name, lines)),
        }
    }
    let all: usize = sizes.iter().map(|s| s.1).sum();
    (sizes.iter())
        .filter(|(_, lines)| lines * PARTS > all)
        .map(|(name, lines)| {
            format!("crates/{name}: {lines} of {all} lines of the host's code; split it")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| `crates/kit` | a |\n| `crates/vm` | b |\n| `crates/lab` | c |\n";

    fn tree(manifest: (&str, &str)) -> Tree {
        let mut tree = Tree::of(PAGE, TABLE);
        let other = Tree::of(manifest.0, manifest.1);
        tree.files.extend(other.files);
        tree
    }

    #[test]
    fn an_import_upwards_is_seen() {
        let found = |name: &str, text: &str| {
            walls(&tree((&format!("crates/{name}/Cargo.toml"), text))).len()
        };
        let links = |name: &str| format!("[dependencies]\nfpt-{name}.workspace = true\n");
        for (name, other, wrong) in [
            ("lab", "vm", 0),
            ("vm", "kit", 0),
            ("vm", "lab", 1),
            ("vm", "vm", 1),
            // Below all crates, but not for the one that knows nothing of us.
            ("vm", "geometry", 0),
            ("kit", "geometry", 1),
            ("new", "kit", 1),
        ] {
            assert_eq!(found(name, &links(other)), wrong, "{name} {other}");
        }
        let dev = "[dependencies]\nserde.workspace = true\n[dev-dependencies]\nfpt-lab.workspace = true\n";
        assert_eq!(found("vm", dev), 0);
    }

    #[test]
    fn a_crate_that_holds_too_much_is_seen() {
        let mut tree = Tree::of("crates/a/src/lib.rs", &"\n".repeat(26));
        for name in ["b", "c", "d"] {
            let path = format!("crates/{name}/src/lib.rs");
            tree.files.extend(Tree::of(&path, &"\n".repeat(26)).files);
        }
        assert_eq!(shares(&tree), [""; 0]);
        tree.files.extend(Tree::of("crates/a/src/b.rs", "\n").files);
        assert_eq!(shares(&tree).len(), 1);
        // Programs of tests do not count, nor does what is no host tool.
        let mut tree = Tree::of("rust-mm-fpt/core/src/lib.rs", "\n");
        assert_eq!(shares(&tree), [""; 0]);
        tree.files
            .extend(Tree::of("crates/a/tests/x.rs", "\n").files);
        assert_eq!(shares(&tree), [""; 0]);
    }
}
