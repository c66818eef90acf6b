// SPDX-License-Identifier: MIT OR Apache-2.0
//! English: patterns that stop a reader. Each was found more than once in this repository.

use super::tree::{Source, Tree};

/// A phrase, and what to write in its place.
const PHRASES: [(&str, &str); 11] = [
    ("as a rule", "usually"),
    ("has not what", "lacks what"),
    ("have not what", "lack what"),
    ("the one which", "the one that"),
    ("thereof", "of it"),
    ("whereof", "of which"),
    ("is no part of", "is not part of"),
    ("are no part of", "are not part of"),
    ("is no difference", "does not count as a difference"),
    ("is no multiple", "is not a multiple"),
    ("nor are the", "the ... differ, too"),
];

/// Words with which the second half of a sentence begins.
const PREPOSITIONS: [&str; 14] = [
    "As", "At", "By", "Beside", "For", "From", "In", "Of", "On", "So", "To", "Under", "With",
    "Without",
];

/// A doc comment that begins with one of them is a fragment if its first sentence has no more words than this after it.
const FRAGMENT: usize = 5;

/// Kernel text, which other work changes line by line; its own fragments wait for that.
const OTHERS: &str = "rust-mm-fpt/";

/// Sentences of the docs, of doc comments and of comments.
pub fn patterns(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with(&["md", "rs", "c", "h", "sh", "toml"]) {
        // The phrases themselves.
        if file.path == "crates/ci/src/lint/prose.rs" {
            continue;
        }
        for (n, line) in prose(file) {
            if let Some(what) = slip(line) {
                found.push(file.complaint(n, &what));
            }
        }
    }
    found
}

/// The lines that are for people: all of Markdown but its code, else comments.
fn prose(file: &Source) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut fenced = false;
    for (n, line) in file.lines() {
        let trimmed = line.trim_start();
        if file.has_extension(&["md"]) {
            if trimmed.starts_with("```") {
                fenced = !fenced;
            } else if !fenced && !line.starts_with('\t') {
                lines.push((n, line));
            }
        } else if ["//", "*", "/*", "#"]
            .iter()
            .any(|m| trimmed.starts_with(m))
        {
            lines.push((n, line));
        }
    }
    lines
}

/// What is wrong with a line, if something is.
fn slip(line: &str) -> Option<String> {
    let lower = line.to_lowercase();
    if let Some((phrase, better)) = PHRASES.iter().find(|(p, _)| lower.contains(p)) {
        return Some(format!("'{phrase}': write '{better}'"));
    }
    if let Some(at) = lower.find("radix'") {
        let before = lower[..at].chars().next_back();
        let after = lower[at + "radix'".len()..].chars().next();
        if after != Some('s') && before.is_none_or(|c| c.is_whitespace() || c == '(') {
            return Some("\"radix'\": write \"radix's\"".into());
        }
    }
    no_zero(line).map(|number| format!("'{number}': write the zero before the point"))
}

/// A number that begins with its decimal point.
fn no_zero(line: &str) -> Option<&str> {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        if c == '`' {
            quoted = !quoted;
        }
        let digit = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let before = line[..at].chars().next_back();
        if c == '.'
            && !quoted
            && digit(&line[at + 1..])
            && before.is_none_or(|b| b.is_whitespace() || b == '(' || b == '|')
        {
            let end = line[at..]
                .find(char::is_whitespace)
                .map_or(line.len(), |e| at + e);
            return Some(&line[at..end]);
        }
    }
    None
}

/// A sentence of a page has at most this many words; CONTRIBUTING wants far fewer.
const LONGEST: usize = 60;

/// Pages that are no text to learn from: figures with their dates.
const RECORDS: [&str; 3] = ["docs/log/", "docs/results/", super::markdown::PAGE];

/// Sentences that nobody can hold in mind.
pub fn sentences(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with(&["md"]) {
        if RECORDS.iter().any(|r| file.path.starts_with(r)) {
            continue;
        }
        let mut from = 0;
        let mut text = String::new();
        let end = file.lines().count() + 1;
        let lines = prose(file).into_iter().chain([(end, "")]);
        for (n, line) in lines {
            // Code by indentation ends a sentence as an empty line does.
            let line = if line.starts_with("    ") {
                ""
            } else {
                line.trim()
            };
            let item = ["* ", "- ", "#", "|"].iter().any(|m| line.starts_with(m));
            if line.is_empty() || item {
                let longest = words_of_longest(&text);
                if longest > LONGEST {
                    found.push(file.complaint(
                        from,
                        &format!("a sentence of {longest} words; make it a list, or several"),
                    ));
                }
                text.clear();
                from = n;
            }
            // A row of a table is no sentence.
            if !line.is_empty() && !line.starts_with('|') {
                if text.is_empty() {
                    from = n;
                }
                text.push_str(line);
                text.push(' ');
            }
        }
    }
    found
}

fn words_of_longest(paragraph: &str) -> usize {
    let sentences = paragraph.split_inclusive([' ', '\n']);
    let (mut longest, mut now) = (0, 0);
    for word in sentences.map(str::trim).filter(|w| !w.is_empty()) {
        now += 1;
        longest = longest.max(now);
        if word
            .trim_end_matches([')', '*', '"'])
            .ends_with(['.', '!', '?'])
        {
            now = 0;
        }
    }
    longest
}

/// A doc comment stands without the name below it.
pub fn doc_comments(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with(&["rs"]).filter(|f| !f.path.starts_with(OTHERS)) {
        let mut inside = false;
        for (n, line) in file.lines() {
            let line = line.trim_start();
            let doc = line
                .strip_prefix("/// ")
                .or_else(|| line.strip_prefix("//! "));
            if let (false, Some(text)) = (inside, doc) {
                if is_fragment(text) {
                    found.push(file.complaint(
                        n,
                        &format!("'{text}' says nothing without the name below it"),
                    ));
                }
            }
            inside = line.starts_with("///") || line.starts_with("//!");
        }
    }
    found
}

fn is_fragment(text: &str) -> bool {
    let sentence = text.split(". ").next().unwrap_or_default();
    let mut words = sentence.split_whitespace();
    let first = words.next().unwrap_or_default();
    PREPOSITIONS.contains(&first) && words.count() <= FRAGMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen() {
        for bad in [
            "It is so as a rule.",
            "as parts of radix' total",
            "a range of .01 points",
            "| vfork | .97 |",
            "damping .85.",
        ] {
            let text = format!("{bad}\n");
            assert_eq!(patterns(&Tree::of("a.md", &text)).len(), 1, "{bad}");
            assert_eq!(
                patterns(&Tree::of("a.rs", &format!("// {text}"))).len(),
                1,
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_right_or_no_prose_is_let_through() {
        for good in [
            "radix's total, 0.97 of it, in `.5` and a.1",
            "it says 'radix' and nothing else",
            "see section 1.2.",
        ] {
            assert_eq!(patterns(&Tree::of("a.md", good)), [""; 0], "{good}");
        }
        assert_eq!(
            patterns(&Tree::of("a.md", "```\nx .5\n```\n\tx .5\n")),
            [""; 0]
        );
        assert_eq!(patterns(&Tree::of("a.rs", "let x = a\n    .0;\n")), [""; 0]);
    }

    #[test]
    fn a_sentence_that_does_not_end_is_seen() {
        let of = |words: usize| format!("{}end.\nAnd more.\n", "word ".repeat(words - 1));
        assert_eq!(sentences(&Tree::of("a.md", &of(LONGEST))), [""; 0]);
        let found = sentences(&Tree::of("a.md", &format!("# A\n\n{}", of(LONGEST + 1))));
        assert_eq!(
            found,
            ["a.md:3: a sentence of 61 words; make it a list, or several"]
        );
        // What is no sentence.
        let row = format!("| {}|\n", "word ".repeat(99));
        let items = "* some words of an item\n".repeat(20);
        let code = format!("```\n{}\n```\n", "word ".repeat(99));
        let indented = format!("    {}\n", "word ".repeat(99));
        for text in [row, items, code, indented] {
            assert_eq!(sentences(&Tree::of("a.md", &text)), [""; 0], "{text}");
        }
        assert_eq!(
            sentences(&Tree::of("docs/log/a.md", &of(LONGEST + 9))),
            [""; 0]
        );
    }

    #[test]
    fn fragments_are_seen() {
        for bad in [
            "Of the axis.",
            "At its right.",
            "For -L.",
            "In order.",
            "As typed.",
        ] {
            assert!(is_fragment(bad), "{bad}");
            assert_eq!(
                doc_comments(&Tree::of("a.rs", &format!("/// {bad}\nx: u8,\n"))).len(),
                1
            );
        }
        for good in [
            "The place at its right.",
            "In a run, mode and radix have the same seed, which the plan chose.",
            "From cells to the figures of the report, and nothing else.",
        ] {
            assert_eq!(
                doc_comments(&Tree::of("a.rs", &format!("/// A line.\n/// {good}\n"))),
                [""; 0]
            );
        }
    }
}
