// SPDX-License-Identifier: MIT OR Apache-2.0
//! TAP and KTAP: what a test program says of itself. Results count only if the plan is there and
//! complete; nested subtests become cases named `parent/child`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a line of TAP says of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// It did not run.
    Skip,
    /// An expected failure (`not ok ... # XFAIL` or `# TODO`).
    Xfail,
    /// Was there in another run and is not in this one.
    Absent,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Skip => "skip",
            Status::Xfail => "xfail",
            Status::Absent => "absent",
        })
    }
}

/// A case that a program named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The name, with those of the groups around it.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// What follows the directive, e.g. the reason of a skip.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a program said in TAP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tap {
    /// The cases, in their order.
    pub cases: Vec<Case>,
    /// The whole program skipped itself (`1..0 # SKIP why`).
    pub skipped: Option<String>,
    /// Why the results cannot be trusted; empty if they can.
    pub problems: Vec<String>,
}

#[derive(Default)]
struct Level {
    indent: usize,
    plan: Option<usize>,
    seen: usize,
    cases: Vec<Case>,
}

/// Removes a printk time stamp, so that results on a console can be read.
pub fn strip_time(line: &str) -> &str {
    let Some(rest) = line.strip_prefix('[') else {
        return line;
    };
    let Some((stamp, rest)) = rest.split_once(']') else {
        return line;
    };
    let stamp = stamp.trim_start();
    let is_time = stamp.contains('.') && stamp.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_time {
        rest.strip_prefix(' ').unwrap_or(rest)
    } else {
        line
    }
}

/// Reads TAP or KTAP, with other output between its lines.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Tap {
    let mut tap = Tap::default();
    let mut levels = vec![Level::default()];
    // Cases of a level that has closed, waiting for their parent's result line.
    let mut children: Vec<Case> = Vec::new();
    for raw in lines {
        let line = strip_time(raw).trim_end();
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        let opens = text.starts_with("KTAP version")
            || text.starts_with("TAP version")
            || text.starts_with("# Subtest:");
        let plan = plan_of(text);
        let result = result_of(text);
        if !opens && plan.is_none() && result.is_none() {
            if let Some(why) = text.strip_prefix("Bail out!").filter(|_| indent == 0) {
                tap.problems.push(format!("bailed out:{why}"));
            }
            continue;
        }
        let top = levels.last().map_or(0, |l| l.indent);
        if indent > top {
            if result.is_some() {
                // Indented text that no subtest announced.
                continue;
            }
            levels.push(Level {
                indent,
                ..Level::default()
            });
        }
        while levels.len() > 1 && levels.last().is_some_and(|l| l.indent > indent) {
            if let Some(closed) = levels.pop() {
                check_plan(&closed, &mut tap.problems);
                children.extend(closed.cases);
            }
        }
        let Some(level) = levels.last_mut() else {
            continue;
        };
        if let Some((count, skip)) = plan {
            if level.plan.is_some_and(|old| old != count) {
                tap.problems.push("two different plans".into());
            }
            level.plan = Some(count);
            if let Some(why) = skip.filter(|_| count == 0 && indent == 0) {
                tap.skipped = Some(why);
            }
        }
        if let Some(case) = result {
            level.seen += 1;
            if children.is_empty() {
                level.cases.push(case);
            } else {
                let failed_child = children.iter().any(|c| c.status == Status::Fail);
                for child in children.drain(..) {
                    level.cases.push(Case {
                        name: format!("{}/{}", case.name, child.name),
                        ..child
                    });
                }
                if case.status == Status::Fail && !failed_child {
                    level.cases.push(case);
                }
            }
        }
    }
    while levels.len() > 1 {
        if let Some(open) = levels.pop() {
            check_plan(&open, &mut tap.problems);
            tap.problems
                .push("a subtest has no result of its own".into());
            children.extend(open.cases);
        }
    }
    if let Some(root) = levels.pop() {
        check_plan(&root, &mut tap.problems);
        tap.cases = root.cases;
    }
    tap.cases.extend(children);
    number_doubles(&mut tap.cases);
    tap
}

fn check_plan(level: &Level, problems: &mut Vec<String>) {
    match level.plan {
        None => problems.push("no plan".into()),
        Some(plan) if plan != level.seen => {
            problems.push(format!("planned {plan} tests, ran {}", level.seen))
        }
        Some(_) => {}
    }
}

/// Equal names get a number, so that every case can be compared with its own counterpart.
fn number_doubles(cases: &mut [Case]) {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for case in cases {
        let count = seen.entry(case.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            case.name = format!("{} [{count}]", case.name);
        }
    }
}

/// `1..N`, with the reason if it is `1..0 # SKIP why`.
fn plan_of(text: &str) -> Option<(usize, Option<String>)> {
    let rest = text.strip_prefix("1..")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let count = rest[..digits].parse().ok()?;
    let rest = rest[digits..].trim();
    let skip = match rest.strip_prefix('#').map(str::trim) {
        None if rest.is_empty() => None,
        Some(note) if note.to_ascii_uppercase().starts_with("SKIP") => {
            Some(note[4..].trim().to_string())
        }
        _ => return None,
    };
    Some((count, skip))
}

fn result_of(text: &str) -> Option<Case> {
    let (ok, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let rest = rest.trim_start();
    // A number is optional in TAP, but prose may start with "ok": require one.
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: usize = rest[..digits].parse().ok()?;
    if !rest[digits..].is_empty() && !rest[digits..].starts_with(' ') {
        return None;
    }
    let rest = rest[digits..].trim_start();
    let rest = rest.strip_prefix("- ").unwrap_or(rest);
    let mut status = if ok { Status::Pass } else { Status::Fail };
    let (mut name, mut note) = (rest, String::new());
    for (at, _) in rest.match_indices('#') {
        let directive = rest[at + 1..].trim_start();
        let word = directive
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or("");
        let new = match (word.to_ascii_uppercase().as_str(), ok) {
            ("SKIP", _) => Status::Skip,
            ("XFAIL" | "TODO", _) => Status::Xfail,
            ("TIMEOUT" | "ERROR", _) => Status::Fail,
            _ => continue,
        };
        status = new;
        name = &rest[..at];
        note = directive[word.len()..].trim().to_string();
        break;
    }
    let name = name.trim().trim_start_matches("- ").trim();
    let name = if name.is_empty() {
        format!("#{number}")
    } else {
        name.to_string()
    };
    Some(Case { name, status, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Tap {
        parse(text.lines())
    }

    fn list(tap: &Tap) -> Vec<(&str, Status)> {
        tap.cases
            .iter()
            .map(|c| (c.name.as_str(), c.status))
            .collect()
    }

    #[test]
    fn plain() {
        let tap = of("TAP version 13\n1..4\nok 1 one\nnot ok 2 two\nok 3 # SKIP no memory\nnot ok 4 - four # XFAIL known\n# Totals: pass:1\n");
        assert!(tap.problems.is_empty(), "{tap:?}");
        assert_eq!(
            list(&tap),
            [
                ("one", Status::Pass),
                ("two", Status::Fail),
                ("#3", Status::Skip),
                ("four", Status::Xfail)
            ]
        );
        assert_eq!(tap.cases[2].note, "no memory");
    }

    #[test]
    fn missing_and_short_plans_are_problems() {
        assert_eq!(of("TAP version 13\nok 1 a\n").problems, ["no plan"]);
        assert_eq!(
            of("TAP version 13\n1..3\nok 1 a\nok 2 b\n").problems,
            ["planned 3 tests, ran 2"]
        );
        assert_eq!(of("").problems, ["no plan"]);
        assert_eq!(
            of("1..1\nok 1 a\nok 2 b\n").problems,
            ["planned 1 tests, ran 2"]
        );
        assert!(!of("1..2\nok 1 a\nBail out! no memory\n")
            .problems
            .is_empty());
    }

    #[test]
    fn nested_kunit_with_time_stamps() {
        let tap = of("\
[    0.1] KTAP version 1
[    0.1] 1..2
[    0.1]     KTAP version 1
[    0.1]     # Subtest: fpt
[    0.1]     # module: fpt
[    0.1]     1..2
[    0.1]     ok 1 geometry
[    0.1] random: crng init done
[    0.1]     not ok 2 node
[    0.1] # fpt: pass:1 fail:1 skip:0 total:2
[    0.1] not ok 1 fpt
[    0.1]     KTAP version 1
[    0.1]     # Subtest: list
[    0.1]     1..1
[    0.1]         KTAP version 1
[    0.1]         # Subtest: deep
[    0.1]         ok 1 x
[    0.1]         ok 2 y
[    0.1]         1..2
[    0.1]     ok 1 deep
[    0.1] ok 2 list
");
        assert!(tap.problems.is_empty(), "{tap:?}");
        assert_eq!(
            list(&tap),
            [
                ("fpt/geometry", Status::Pass),
                ("fpt/node", Status::Fail),
                ("list/deep/x", Status::Pass),
                ("list/deep/y", Status::Pass)
            ]
        );
    }

    #[test]
    fn failed_parent_without_failed_child_is_seen() {
        let tap =
            of("KTAP version 1\n1..1\n    KTAP version 1\n    1..1\n    ok 1 a\nnot ok 1 suite\n");
        assert_eq!(
            list(&tap),
            [("suite/a", Status::Pass), ("suite", Status::Fail)]
        );
    }

    #[test]
    fn subtest_cut_short() {
        let tap = of("KTAP version 1\n1..1\n    KTAP version 1\n    1..3\n    ok 1 a\n");
        assert!(tap.problems.len() >= 2, "{tap:?}");
    }

    #[test]
    fn prose_is_no_result() {
        let tap = of(
            "1..1\nok then, here we go\n  ok 7 indented prose\nokay\nok 1 real # not a directive\n",
        );
        assert_eq!(list(&tap), [("real # not a directive", Status::Pass)]);
        assert!(tap.problems.is_empty());
    }

    #[test]
    fn whole_program_skip_and_doubles() {
        let tap = of("TAP version 13\n1..0 # SKIP needs swap\n");
        assert_eq!(tap.skipped.as_deref(), Some("needs swap"));
        assert!(tap.problems.is_empty());
        let tap = of("1..2\nok 1 a\nok 2 a\n");
        assert_eq!(list(&tap), [("a", Status::Pass), ("a [2]", Status::Pass)]);
    }

    #[test]
    fn times() {
        assert_eq!(strip_time("[   12.345678] ok 1 a"), "ok 1 a");
        assert_eq!(strip_time("[   12.3]     ok 1 a"), "    ok 1 a");
        assert_eq!(strip_time("[RUN] x"), "[RUN] x");
    }
}
