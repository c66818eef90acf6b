// SPDX-License-Identifier: MIT OR Apache-2.0
//! Markdown: links lead somewhere, and command lines are such that the tool takes them.

use std::collections::BTreeMap;

use clap::error::ErrorKind;

use super::tree::{Source, Tree};
use super::CommandLine;

/// How a command line of ours begins.
const NAMES: [&str; 3] = ["cargo xtask ", "./fpt ", "fpt "];

/// What stands for a placeholder that the tool would not take as it is.
const PLACEHOLDERS: [(&str, &str); 12] = [
    ("KEY=VALUE", "cores.frequency_ghz=3.0"),
    ("M", "l3l2"),
    ("MODE", "l3l2"),
    ("N", "1"),
    ("P", "fpt"),
    ("PERCENT", "50"),
    ("PROFILE", "fpt"),
    ("S", "tiny"),
    ("SECONDS", "1"),
    ("SEED", "1"),
    ("SIZE", "1G"),
    ("STAGE", "host"),
];

/// Each relative link, with its anchor.
pub fn links(tree: &Tree) -> Vec<String> {
    let anchors: BTreeMap<&str, Vec<String>> = tree
        .with(&["md"])
        .map(|f| (f.path.as_str(), headings(f)))
        .collect();
    let mut found = pages_named_elsewhere(tree);
    for file in tree.with(&["md"]) {
        for (n, target) in targets(file) {
            let (to, anchor) = leads_to(file, target);
            if !tree.paths.contains(to.trim_end_matches('/')) {
                found.push(file.complaint(n, &format!("there is no {to}")));
            } else if !anchor.is_empty()
                && anchors
                    .get(to.as_str())
                    .is_some_and(|a| !a.iter().any(|h| h == anchor))
            {
                found.push(file.complaint(n, &format!("{to} has no heading '{anchor}'")));
            }
        }
    }
    found
}

/// The path that a link of a page leads to, and the heading there.
fn leads_to<'a>(page: &Source, target: &'a str) -> (String, &'a str) {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    match path {
        "" => (page.path.clone(), anchor),
        path => (join(&page.path, path), anchor),
    }
}

/// Each link of a page, and the path that it leads to.
pub fn all_links(tree: &Tree) -> Vec<(&str, String)> {
    let mut all = Vec::new();
    for file in tree.with(&["md"]) {
        for (_, target) in targets(file) {
            let (to, _) = leads_to(file, target);
            all.push((file.path.as_str(), to.trim_end_matches('/').to_string()));
        }
    }
    all
}

/// Comments and messages name pages by their path: `docs/` and the rest.
fn pages_named_elsewhere(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let others = tree
        .files
        .iter()
        .filter(|f| !f.has_extension(&["md", "patch"]));
    for file in others.filter(|f| !f.path.starts_with("crates/ci/src/lint/")) {
        for (n, line) in file.lines() {
            let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "/-_.".contains(c)));
            for word in words.filter(|w| w.starts_with("docs/") && w.contains(".md")) {
                let page = word.trim_end_matches(['.', ':']);
                if page.ends_with(".md") && !tree.paths.contains(page) {
                    found.push(file.complaint(n, &format!("there is no {page}")));
                }
            }
        }
    }
    found
}

/// Where the links of a page lead, but for those to other places than this repository.
fn targets(file: &Source) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    for (n, line) in outside_code(file) {
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            let target = &rest[..end];
            if !target.contains("://") && !target.starts_with("mailto:") && !target.contains(' ') {
                all.push((n, target));
            }
        }
    }
    all
}

fn outside_code(file: &Source) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    file.lines().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The headings, as a forge and mdBook name their anchors.
fn headings(file: &Source) -> Vec<String> {
    outside_code(file)
        .filter_map(|(_, l)| l.strip_prefix('#'))
        .map(|l| {
            l.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// `path` as a page at `from` means it.
pub fn join(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Each command line in code is one that the tool takes.
pub fn command_lines(tree: &Tree, tool: CommandLine) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = 0;
    for file in tree.with(&["md"]) {
        for (n, line, whole) in commands(file) {
            seen += 1;
            if let Err(why) = takes(tool, &line, whole) {
                found.push(file.complaint(n, &format!("`{line}`: {why}")));
            }
        }
    }
    // One page may have none; the docs as a whole have.
    if seen == 0 && tree.paths.contains("README.md") {
        found.push("no page has a command line".into());
    }
    found
}

/// Made by a program: nobody has to read it from top to bottom.
pub const PAGE: &str = "docs/reference/cli.md";

/// The page that is made from the command line's definition is what it would be made to now.
pub fn reference(tree: &Tree, tool: CommandLine) -> Vec<String> {
    let now = (tool.reference)();
    match tree.files.iter().find(|f| f.path == PAGE) {
        Some(file) if file.text == now => Vec::new(),
        _ => vec![format!(
            "{PAGE}: not what it should be; make it by `fpt man --markdown >{PAGE}`"
        )],
    }
}

/// Command lines of a page: its line, the text, and whether it is whole (a block) and not a mention.
fn commands(file: &Source) -> Vec<(usize, String, bool)> {
    let mut all = Vec::new();
    let mut fenced = false;
    for (n, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with('\t') {
            let code = line.split(" #").next().unwrap_or_default();
            all.extend(in_code(code).into_iter().map(|c| (n, c, true)));
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            all.extend(spans.flat_map(in_code).map(|c| (n, c, false)));
        }
    }
    all
}

/// The commands of ours in a line of shell.
fn in_code(code: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = code;
    while let Some((at, name)) = NAMES
        .iter()
        .filter_map(|name| rest.find(name).map(|at| (at, name)))
        .min_by_key(|(at, name)| (*at, usize::MAX - name.len()))
    {
        let begins = begins_a_command(&rest[..at]);
        rest = &rest[at + name.len()..];
        if begins {
            let end = [" && ", "; ", " | ", " >", " 2>", ")"]
                .iter()
                .filter_map(|stop| rest.find(stop))
                .min()
                .unwrap_or(rest.len());
            all.push(rest[..end].trim().to_string());
        }
    }
    all
}

/// Whether a shell takes the next word for a command: only assignments stand before it.
fn begins_a_command(before: &str) -> bool {
    let same = before
        .rsplit(['(', ';', '&', '|'])
        .next()
        .unwrap_or_default();
    let glued = same.is_empty() || same.ends_with(char::is_whitespace);
    glued
        && same
            .split_whitespace()
            .all(|w| w == "$" || w == "time" || w.contains('='))
}

/// Whether the tool takes the line. A mention in running text may lack arguments.
fn takes(tool: CommandLine, line: &str, whole: bool) -> Result<(), String> {
    let words = words(line);
    if words.iter().all(|w| is_placeholder(w)) {
        return Ok(());
    }
    let Err(err) = (tool.takes)(&words) else {
        return Ok(());
    };
    let lacks = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    match err.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
        kind if lacks.contains(&kind) && !whole => Ok(()),
        _ => Err(err
            .to_string()
            .lines()
            .next()
            .unwrap_or("refused")
            .to_string()),
    }
}

fn is_placeholder(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// The words of a line as a shell sees them, with what may be left out and one of each alternative.
fn words(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = if let Some(open) = rest.strip_prefix('\'') {
            open.split_once('\'').unwrap_or((open, ""))
        } else {
            rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
        };
        let quoted = rest.starts_with('\'');
        rest = after.trim_start();
        if quoted {
            all.push(word.to_string());
            continue;
        }
        let word = word.trim_start_matches('[').trim_end_matches("...");
        // `M[,M...]`: one will do.
        let word = word.split(['[', ']']).next().unwrap_or_default();
        let word = word.split(['|', '\\']).next().unwrap_or_default();
        let word = word.trim_end_matches("...").trim_matches('"');
        if word.is_empty() {
            continue;
        }
        let known = PLACEHOLDERS.iter().find(|(p, _)| *p == word);
        all.push(known.map_or(word, |(_, w)| w).to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tool with three commands, and its reference.
    const TOOL: CommandLine = CommandLine {
        takes: |words| {
            let mode = || {
                clap::Arg::new("mode")
                    .long("mode")
                    .required(true)
                    .value_parser(["l3l2"])
            };
            let rest = clap::Arg::new("words").num_args(0..).last(true);
            let commands = ["walk", "run", "build-kernel", "stress"];
            let minutes = clap::Arg::new("minutes").long("minutes");
            let all = commands
                .map(|c| clap::Command::new(c).args([mode(), minutes.clone(), rest.clone()]));
            let tool = clap::Command::new("fpt")
                .subcommand_required(true)
                .subcommands(all);
            let tool = tool.subcommand(clap::Command::new("doctor"));
            let words = ["fpt"].into_iter().chain(words.iter().map(String::as_str));
            tool.try_get_matches_from(words).map(|_| ())
        },
        reference: || "# Command line\n".into(),
    };

    #[test]
    fn a_link_that_leads_nowhere_is_seen() {
        let tree = |text: &str| Tree::of("docs/a.md", text);
        for good in [
            "[a](a.md)",
            "[a](../docs/a.md#on-fpt_stress-and-more)\n# On `fpt_stress`, and more",
            "[a](https://example.org/x)",
            "```\n[a](b.md)\n```",
            "[a](../docs/a.md)",
        ] {
            assert_eq!(links(&tree(good)), [""; 0], "{good}");
        }
        for bad in ["[a](b.md)", "[a](#nothing)", "[a](../a.md)"] {
            assert_eq!(links(&tree(bad)).len(), 1, "{bad}");
        }
        assert_eq!(links(&Tree::of("a.rs", "// See docs/b.md.\n")).len(), 1);
    }

    #[test]
    fn a_command_line_that_the_tool_refuses_is_seen() {
        let page = |text: &str| command_lines(&Tree::of("a.md", text), TOOL);
        for good in [
            "`fpt run --mode l3l2 -- uname -a`",
            "`./fpt ARGS` is `cargo xtask ARGS`",
            "mentions `cargo xtask run`",
            "```sh\n./fpt doctor && ./fpt walk --mode l3l2   # words\n```",
            "\tcargo xtask stress --mode M[,M...] [--minutes N]",
            "`vmlinux=$(cargo xtask build-kernel --mode l3l2)`",
            "`libfpt walks`",
            "```\nmake SRC_PATH=x fpt fpt-off\nmake fpt fpt-on\n```",
        ] {
            assert_eq!(page(good), [""; 0], "{good}");
        }
        for bad in [
            "`fpt walkk --mode l3l2`",
            "`cargo xtask run --mode l3l2 --no-such-option`",
            "```sh\ncargo xtask run\n```",
            "`fpt build-kernel --mode l3l1`",
        ] {
            assert_eq!(page(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_old_reference_is_seen() {
        let page = |text: &str| reference(&Tree::of("docs/reference/cli.md", text), TOOL);
        assert_eq!(page("# Command line\n"), [""; 0]);
        assert_eq!(page("").len(), 1);
        assert_eq!(reference(&Tree::of("a.md", ""), TOOL).len(), 1);
    }

    #[test]
    fn optional_words_and_alternatives() {
        assert_eq!(
            words("stress --mode M[,M...] [--only 'a b'] x|y ..."),
            ["stress", "--mode", "l3l2", "--only", "a b", "x"]
        );
    }
}
