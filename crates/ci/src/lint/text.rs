// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of any text: licence lines, sizes, and what only one machine has.

use super::tree::{Source, Tree};

/// Lines of a file.
const LONGEST: usize = 800;

/// Files that are longer and wait for being split, each with the size that it may not exceed until then. One that has
/// become short enough must leave the list.
const TOO_LONG: [(&str, usize); 2] = [
    ("selftests/fpt/fpt_nodes.c", 850),
    ("selftests/fpt/fpt_traps.c", 1000),
];

/// The same for tests, which nobody has to read from top to bottom.
const LONG_TEST: (&str, usize) = ("xtask/tests/bench_report.rs", 1150);

/// The attribute that lifts clippy's limit of `clippy.toml`.
const LIFTS: &str = concat!("too_many", "_arguments");

/// Files without a licence line: upstream's of this kind have none, and a queue's order is no work.
const UNSIGNED: [&str; 3] = [
    "linux-patches/series",
    "selftests/fpt/config",
    "selftests/fpt/settings",
];

/// What stands in the text of somebody's machine. Split, so that this file is no find.
const MACHINES: [&str; 12] = [
    concat!("/w", "ork/"),
    concat!("/r", "oot/"),
    concat!("/h", "ome/"),
    concat!("/tmp/", "wt"),
    concat!("crates", ".io"),
    concat!("deb.debian", ".org"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted"),
    concat!("proxy.golang", ".org"),
    concat!("static.rust", "-lang.org"),
    concat!("registry.npm", "js"),
    concat!("ghcr", ".io"),
];

/// Each file says its licence in one of its first lines.
pub fn spdx(tree: &Tree) -> Vec<String> {
    let signed = |f: &Source| {
        f.text
            .lines()
            .take(3)
            .any(|l| l.contains("SPDX-License-Identifier:"))
    };
    tree.files
        .iter()
        .filter(|f| !f.is_patch() && !UNSIGNED.contains(&f.path.as_str()))
        .filter(|f| !f.text.is_empty() && !signed(f))
        .map(|f| f.complaint(1, "no SPDX-License-Identifier in the first three lines"))
        .collect()
}

pub fn sizes(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let by_hand = |f: &&Source| f.path != super::markdown::PAGE;
    for file in tree.with(&["rs", "c", "h", "sh", "md"]).filter(by_hand) {
        let lines = file.text.lines().count();
        let waits = TOO_LONG
            .iter()
            .chain([&LONG_TEST])
            .find(|(p, _)| *p == file.path);
        match waits {
            None if lines > LONGEST => {
                found.push(file.complaint(lines, &format!("more than {LONGEST} lines; split it")))
            }
            Some((_, most)) if lines > *most => found.push(file.complaint(
                lines,
                &format!("more than {most} lines; it waits for being split"),
            )),
            Some(_) if lines <= LONGEST => found.push(file.complaint(
                1,
                "short enough; take it off TOO_LONG in crates/ci/src/lint/text.rs",
            )),
            _ => {}
        }
    }
    found
}

/// clippy counts parameters; nobody switches that off.
pub fn parameters(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with(&["rs"]) {
        for (n, _) in file.lines().filter(|(_, l)| l.contains(LIFTS)) {
            found.push(file.complaint(
                n,
                "more than six parameters; give those that belong together a type",
            ));
        }
    }
    found
}

pub fn machines(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for (n, line) in file.lines() {
            // A patch is ours where it adds something.
            if file.is_patch() && !line.starts_with('+') {
                continue;
            }
            if let Some(what) = MACHINES.iter().find(|m| line.contains(**m)) {
                found.push(file.complaint(n, &format!("'{what}' is of one machine or registry")));
            }
        }
    }
    found
}

/// The same version in the manifest, at the top of the changelog and in the citation.
pub fn version(tree: &Tree) -> Vec<String> {
    let first = |path: &str, start: &str| {
        let file = tree.files.iter().find(|f| f.path == path)?;
        let (n, line) = file.lines().find(|(_, l)| l.starts_with(start))?;
        let rest = line[start.len()..].trim_matches(['"', ' ']);
        Some((file, n, rest.split(' ').next().unwrap_or_default()))
    };
    let Some((_, _, ours)) = first("Cargo.toml", "version = ") else {
        return vec!["Cargo.toml: no version of the workspace".into()];
    };
    let mut found = Vec::new();
    for (path, start) in [("CHANGELOG.md", "## "), ("CITATION.cff", "version: ")] {
        match first(path, start) {
            Some((_, _, theirs)) if theirs == ours => {}
            Some((file, n, theirs)) => {
                found.push(file.complaint(n, &format!("{theirs}, and Cargo.toml says {ours}")))
            }
            None => found.push(format!("{path}: no version")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_differ_are_seen() {
        let tree = |changelog: &str, citation: &str| {
            let mut tree = Tree::of("Cargo.toml", "[workspace.package]\nversion = \"1.2.3\"\n");
            tree.files.extend(Tree::of("CHANGELOG.md", changelog).files);
            tree.files.extend(Tree::of("CITATION.cff", citation).files);
            tree
        };
        let good = tree("# C\n\n## 1.2.3 (a day)\n## 1.2.2\n", "version: 1.2.3\n");
        assert_eq!(version(&good), [""; 0]);
        assert_eq!(version(&tree("## 1.2.2\n", "version: 1.2.3\n")).len(), 1);
        assert_eq!(version(&tree("## 1.2.3\n", "version: 1\n")).len(), 1);
        assert_eq!(version(&tree("", "")).len(), 2);
        assert_eq!(version(&Tree::of("a.md", "")).len(), 1);
    }

    #[test]
    fn a_file_without_a_licence_is_seen() {
        let signed = "// SPDX-License-Identifier: MIT\n";
        assert_eq!(spdx(&Tree::of("a.rs", signed)), [""; 0]);
        assert_eq!(spdx(&Tree::of("a.rs", "fn a() {}\n")).len(), 1);
        assert_eq!(spdx(&Tree::of("a.rs", &format!("\n\n\n{signed}"))).len(), 1);
        assert_eq!(spdx(&Tree::of("a.patch", "+ a\n")), [""; 0]);
    }

    #[test]
    fn a_long_file_is_seen_and_so_is_one_that_is_no_longer_long() {
        let lines = |n: usize| "x\n".repeat(n);
        assert_eq!(sizes(&Tree::of("a.rs", &lines(LONGEST))), [""; 0]);
        assert_eq!(sizes(&Tree::of("a.rs", &lines(LONGEST + 1))).len(), 1);
        let (waits, most) = TOO_LONG[0];
        assert_eq!(sizes(&Tree::of(waits, &lines(most))), [""; 0]);
        assert_eq!(sizes(&Tree::of(waits, &lines(most + 1))).len(), 1);
        assert_eq!(sizes(&Tree::of(waits, &lines(LONGEST))).len(), 1);
    }

    #[test]
    fn nobody_lifts_the_limit_of_parameters() {
        let lifted = format!("#[allow(clippy::{LIFTS})]\n");
        assert_eq!(parameters(&Tree::of("a.rs", &lifted)).len(), 1);
        assert_eq!(parameters(&Tree::of("a.rs", "")), [""; 0]);
    }

    #[test]
    fn paths_and_hosts_of_a_machine_are_seen() {
        for what in MACHINES {
            let text = format!("see {what}x\n");
            assert_eq!(machines(&Tree::of("a.md", &text)).len(), 1, "{what}");
            assert_eq!(machines(&Tree::of("a.patch", &format!(" {text}"))), [""; 0]);
            assert_eq!(machines(&Tree::of("a.patch", &format!("+{text}"))).len(), 1);
        }
        assert_eq!(
            machines(&Tree::of("a.md", "root:x:0:0:root:/root:/bin/sh\n")),
            [""; 0]
        );
    }
}
