// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a machine can say of the text of this repository: the stage `lint` of `cargo xtask test`.
//!
//! A check is a function from the tracked files to a list of complaints, `file:line: what`; none means that it
//! holds. [`tools`] runs the programs that others wrote for it.

mod licences;
pub(crate) mod markdown;
mod prose;
mod rooms;
mod text;
mod tools;
pub(crate) mod tree;

use std::time::Instant;

use fpt_kbuild::doctor;
use fpt_kit::{fail, Ctx, Result};
use fpt_verdict::results::{Case, Outcome};
use fpt_verdict::rundir::RunDir;
use tree::Tree;

/// What the command line tells of itself. It lies above this module, which must not import it.
#[derive(Clone, Copy)]
pub struct CommandLine {
    /// Whether it takes these words, which follow the program's name.
    pub takes: fn(&[String]) -> Result<(), clap::Error>,
    /// docs/reference/cli.md as it would be made now.
    pub reference: fn() -> String,
}

/// Complaints of one check that are shown; the rest is counted.
const SHOWN: usize = 30;

/// What a check found, or why it could not look.
type Found = Result<Vec<String>>;

/// A check that needs nothing but the files: its name, and itself.
type Check = (&'static str, fn(&Tree) -> Vec<String>);

const OF_TEXT: [Check; 11] = [
    ("licence lines", text::spdx),
    ("sizes of files", text::sizes),
    ("one version", text::version),
    ("parameters of functions", text::parameters),
    ("imports between crates", rooms::walls),
    ("shares of the host's code", rooms::shares),
    ("no path or host of a machine", text::machines),
    ("prose", prose::patterns),
    ("length of sentences", prose::sentences),
    ("doc comments", prose::doc_comments),
    ("links of the docs", markdown::links),
];

/// One case for each check. The order is that of their cost, so that a slip is told in a second.
pub fn cases(ctx: &Ctx, run: &RunDir, line: CommandLine) -> Result<Vec<Case>> {
    let tree = Tree::read(ctx)?;
    let mut cases: Vec<Case> = OF_TEXT
        .iter()
        .map(|(name, check)| case(name, || Ok(check(&tree))))
        .collect();
    cases.push(case("command lines of the docs", || {
        Ok(markdown::command_lines(&tree, line))
    }));
    cases.push(case("reference of the command line", || {
        Ok(markdown::reference(&tree, line))
    }));
    cases.push(case("licences of what is linked", || licences::check(ctx)));
    match doctor::require(ctx, doctor::For::Lint) {
        Ok(()) => {
            let of_tool = |t: &tools::Tool| case(t.name, || (t.run)(ctx, run, &tree));
            cases.extend(tools::ALL.iter().map(of_tool));
        }
        // What was found so far is still told.
        Err(missing) => cases.push(case("programs for lint", || Err(missing))),
    }
    Ok(cases)
}

fn case(name: &str, check: impl FnOnce() -> Found) -> Case {
    let start = Instant::now();
    let found = check();
    let ms = start.elapsed().as_millis() as u64;
    let (outcome, detail) = match found {
        Ok(none) if none.is_empty() => (Outcome::Passed, String::new()),
        Ok(some) => (Outcome::Failed, excerpt(&some)),
        Err(err) => (Outcome::Failed, fail::report(&err).0),
    };
    Case::new("lint", name, outcome, detail, ms)
}

fn excerpt(found: &[String]) -> String {
    let mut lines: Vec<String> = found.iter().take(SHOWN).cloned().collect();
    if found.len() > SHOWN {
        lines.push(format!("and {} more", found.len() - SHOWN));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_kit::Fail;

    #[test]
    fn a_complaint_is_red_and_so_is_a_check_that_could_not_look() {
        assert_eq!(case("x", || Ok(vec![])).outcome, Outcome::Passed);
        let red = case("x", || Ok(vec!["a:1: b".into()]));
        assert_eq!(
            (red.outcome, red.detail.as_str()),
            (Outcome::Failed, "a:1: b")
        );
        let red = case("x", || Err(Fail::infra("no git", "", "")));
        assert_eq!(
            (red.outcome, red.detail.as_str()),
            (Outcome::Failed, "no git")
        );
    }

    #[test]
    fn long_lists_are_counted() {
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(excerpt(&many).ends_with("29\nand 70 more"));
    }
}
