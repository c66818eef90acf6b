// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases from what others print: libtest, and the kernel's KUnit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fpt_verdict::results::{Case, Outcome};
use fpt_verdict::tap::{self, Status};

pub(super) fn kunit_cases(group: &str, tap: &tap::Tap) -> Vec<Case> {
    let case = |c: &tap::Case| match c.status {
        Status::Pass | Status::Xfail => Case::passed(group, &c.name, 0),
        Status::Skip => Case::skipped(group, &c.name, c.note.clone()),
        Status::Fail | Status::Absent => Case::failed(group, &c.name, c.note.clone(), 0),
    };
    let problem = |p: &String| Case::failed(group, "KTAP", p.clone(), 0);
    let cases = tap.cases.iter().map(case);
    cases.chain(tap.problems.iter().map(problem)).collect()
}

/// KUnit cases that every mode skips: nobody runs them, which is a failure.
pub(super) fn never_run(cases: &[Case]) -> Vec<Case> {
    let mut all = BTreeMap::<&str, bool>::new();
    for case in cases {
        let skipped = all.entry(&case.name).or_insert(true);
        *skipped &= case.outcome == Outcome::Skipped;
    }
    all.into_iter()
        .filter(|(_, skipped)| *skipped)
        .map(|(name, _)| Case::failed("kunit", name, "it was skipped in every mode", 0))
        .collect()
}

/// With one of these a line of a test's output begins that says why the test did nothing.
pub(super) const NOT_RUN: [&str; 2] = ["not run: ", "skipped: "];

/// One case for each `test NAME ... ok` of libtest, grouped by the binary that ran it. A test that says it did not
/// run is a skip, whatever libtest calls it.
pub(super) fn cargo_cases(text: &str) -> Vec<Case> {
    let mut suite = String::from("host");
    let mut cases: Vec<Case> = Vec::new();
    // Whose output follows.
    let mut speaker = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            let binary = rest.rsplit('(').next().unwrap_or("").trim_end_matches(')');
            let name = Path::new(binary)
                .file_name()
                .map(PathBuf::from)
                .unwrap_or_default();
            let name = name.to_string_lossy();
            suite = format!("host {}", name.rsplit_once('-').map_or(&*name, |(n, _)| n));
            speaker.clear();
        } else if let Some(krate) = line.strip_prefix("Doc-tests ") {
            suite = format!("host {krate} doc");
            speaker.clear();
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|r| r.strip_suffix(" stdout ----"))
        {
            speaker = name.to_string();
        } else if let Some(why) = NOT_RUN.iter().find_map(|m| line.strip_prefix(m)) {
            let fits = |c: &&mut Case| {
                c.suite == suite && c.name == speaker && c.outcome == Outcome::Passed
            };
            if let Some(case) = cases.iter_mut().rev().find(fits) {
                *case = Case::skipped(&suite, &speaker, why);
            }
        } else if let Some((name, word)) = line
            .strip_prefix("test ")
            .and_then(|r| r.rsplit_once(" ... "))
        {
            let word = word.trim();
            if word == "ok" {
                cases.push(Case::passed(&suite, name, 0));
            } else if word.starts_with("FAILED") {
                cases.push(Case::failed(&suite, name, "see cargo-test.log", 0));
            } else if word.starts_with("ignored") {
                cases.push(Case::skipped(&suite, name, word));
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_every_mode_skips_is_red() {
        let cases = [
            Case::skipped("kunit/radix", "fpt/a", ""),
            Case::passed("kunit/l3l2", "fpt/a", 0),
            Case::skipped("kunit/radix", "fpt/b", ""),
            Case::skipped("kunit/l3l2", "fpt/b", ""),
        ];
        let red = never_run(&cases);
        assert_eq!(red.len(), 1);
        assert_eq!(red[0].name, "fpt/b");
        assert_eq!(red[0].outcome, Outcome::Failed);
    }

    #[test]
    fn a_test_that_did_not_run_is_a_skip() {
        let cases = cargo_cases(
            "     Running tests/x.rs (target/debug/deps/x-0123)\ntest a ... ok\ntest b ... ok\n\n\
             successes:\n\n---- a stdout ----\nnot run: no browser here\n\n---- b stdout ----\nit is not run: no\n\n\
             successes:\n    a\n    b\n\ntest result: ok. 2 passed\n\
                  Running tests/y.rs (target/debug/deps/y-0123)\ntest a ... ok\nskipped: of nobody\n",
        );
        let list: Vec<_> = cases
            .iter()
            .map(|c| (c.name.as_str(), c.outcome, c.detail.as_str()))
            .collect();
        assert_eq!(
            list,
            [
                ("a", Outcome::Skipped, "no browser here"),
                ("b", Outcome::Passed, ""),
                ("a", Outcome::Passed, "")
            ]
        );
    }

    #[test]
    fn libtest_output() {
        let cases = cargo_cases(
            "     Running unittests src/lib.rs (target/debug/deps/fpt_core-0123)\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, slow\ntest result: FAILED. 1 passed\n",
        );
        let list: Vec<_> = cases
            .iter()
            .map(|c| (c.suite.as_str(), c.name.as_str(), c.outcome))
            .collect();
        assert_eq!(
            list,
            [
                ("host fpt_core", "a::b", Outcome::Passed),
                ("host fpt_core", "c", Outcome::Failed),
                ("host fpt_core", "d", Outcome::Skipped)
            ]
        );
    }
}
