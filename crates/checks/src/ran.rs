// SPDX-License-Identifier: MIT OR Apache-2.0
//! One program of the list in a guest, and the verdict on one run from its own words and its exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fpt_init::proto::{Exec, Stream};
use serde::Serialize;

use super::list::Program;
use super::verdict::{LIMIT, PREPARE};
use fpt_kit::Result;
use fpt_verdict::tap::{self, Status};
use fpt_vm::vm::{self, Guest};

/// One case of one run of a program. Two runs agree if the outcomes are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The name of the case.
    pub name: String,
    /// What the program said of it.
    pub outcome: String,
    /// What that means.
    pub status: Status,
}

/// One run of a program.
#[derive(Debug, Clone, Serialize)]
pub struct Ran {
    /// The cases, in their order.
    pub cases: Vec<Seen>,
    /// What it counted, by name, if its entry in the list asks for figures.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, i64>,
    /// How long the program ran, in milliseconds.
    pub ms: u64,
    /// Its complaints with what led to them, or else the end of its output: for a report.
    pub tail: String,
}

impl Ran {
    /// A program with one case.
    pub fn one(
        name: &str,
        outcome: impl Into<String>,
        status: Status,
        tail: impl Into<String>,
    ) -> Ran {
        Ran {
            cases: vec![Seen {
                name: name.into(),
                outcome: outcome.into(),
                status,
            }],
            figures: BTreeMap::new(),
            ms: 0,
            tail: tail.into(),
        }
    }

    /// How many cases became what, for people.
    pub fn remark(&self) -> String {
        let count = |s| self.cases.iter().filter(|c| c.status == s).count();
        let mut text = format!("{} ok", count(Status::Pass));
        for (status, word) in [
            (Status::Fail, "failed"),
            (Status::Skip, "skipped"),
            (Status::Xfail, "expected failures"),
        ] {
            match count(status) {
                0 => {}
                n => text.push_str(&format!(", {n} {word}")),
            }
        }
        text
    }
}

/// The verdict on one run from its own words and its exit code.
pub fn judge(program: &Program, exit: &vm::Exit, stdout: &str, stderr: &str) -> Ran {
    let mut cases = Vec::new();
    if program.tap {
        let tap = tap::parse(stdout.lines());
        for case in tap.cases {
            cases.push(Seen {
                outcome: case.status.to_string(),
                name: case.name,
                status: case.status,
            });
        }
        if tap.skipped.is_some() {
            cases.push(Seen {
                name: "program".into(),
                outcome: "skip".into(),
                status: Status::Skip,
            });
        }
        let (outcome, status) = if tap.problems.is_empty() {
            ("complete".to_string(), Status::Pass)
        } else {
            (tap.problems.join(", "), Status::Fail)
        };
        cases.push(Seen {
            name: "TAP plan".into(),
            outcome,
            status,
        });
    } else {
        let mut seen = BTreeMap::<String, usize>::new();
        for line in stdout
            .lines()
            .map(str::trim)
            .filter(|l| program.cases.iter().any(|c| l.starts_with(c.as_str())))
        {
            // A result comes before its name in TAP, and a failure is the same case as a success.
            let plain = line.replace("# SKIP ", "");
            let (name, outcome) = match (plain.strip_prefix("ok "), plain.strip_prefix("not ok ")) {
                (Some(name), _) if line.contains("# SKIP") => (name, "skip"),
                (Some(name), _) => (name, "ok"),
                (_, Some(name)) => (name, "failed"),
                _ if line.starts_with("[FAIL]") => (line, "failed"),
                _ if line.starts_with("[SKIP]") => (line, "skipped"),
                _ => line.split_once("...").unwrap_or((line, "")),
            };
            // Some print a dot for each turn of waiting: that is time, not outcome.
            let outcome = outcome.trim_start_matches(['.', ' ']);
            let low = outcome.to_ascii_lowercase();
            let status = match low {
                ref l if l.contains("fail") || l.contains("error") => Status::Fail,
                // khugepaged says that it ran out of time by the colour alone.
                ref l if l.contains("\x1b[31m") => Status::Fail,
                ref l if l.contains("skip") => Status::Skip,
                _ => Status::Pass,
            };
            let n = seen.entry(name.trim().to_string()).or_default();
            *n += 1;
            if *n > 1 && program.unique {
                continue;
            }
            let name = if *n > 1 {
                format!("{} [{n}]", name.trim())
            } else {
                name.trim().to_string()
            };
            let outcome = match outcome.trim() {
                "" => "there".to_string(),
                text => text.to_string(),
            };
            cases.push(Seen {
                name,
                outcome,
                status,
            });
        }
    }
    cases.retain(|c| {
        !program
            .ignore_lines
            .iter()
            .any(|i| c.name.contains(i.as_str()))
    });
    let (outcome, status) = match (exit.timeout, exit.signal, exit.code) {
        (true, _, _) => (format!("{LIMIT} of {} s", program.timeout_s), Status::Fail),
        (_, 0, 0) => ("exit code 0".into(), Status::Pass),
        (_, 0, 2) => ("exit code 2".into(), Status::Xfail),
        (_, 0, 4) => ("exit code 4".into(), Status::Skip),
        (_, 0, n) => (format!("exit code {n}"), Status::Fail),
        (_, n, _) => (format!("ended by signal {n}"), Status::Fail),
    };
    cases.push(Seen {
        name: "exit".into(),
        outcome,
        status,
    });
    let tail = excerpt(&stdout.lines().chain(stderr.lines()).collect::<Vec<_>>());
    let figures = if program.figures {
        stdout.lines().filter_map(figure).collect()
    } else {
        BTreeMap::new()
    };
    Ran {
        cases,
        figures,
        ms: exit.ms,
        tail,
    }
}

/// At most 26 lines: around the first complaints; without any, the last ones.
fn excerpt(lines: &[&str]) -> String {
    const MOST: usize = 26;
    let complains = |line: &&str| {
        let low = line.to_ascii_lowercase();
        ["not ok", "expected", "fail", "error", "warn"]
            .iter()
            .any(|word| low.contains(word))
            && !low.contains("fail:0")
    };
    // Children print again what their parent had not written yet.
    let (mut wanted, mut known) = (BTreeSet::new(), BTreeSet::new());
    for (n, line) in lines.iter().enumerate().filter(|(_, l)| complains(l)) {
        if known.insert(*line) {
            wanted.extend(n.saturating_sub(3)..=n);
        }
    }
    if wanted.is_empty() {
        wanted.extend(lines.len().saturating_sub(MOST)..lines.len());
    }
    let kept: Vec<&str> = wanted.into_iter().take(MOST).map(|n| lines[n]).collect();
    kept.join("\n")
}

/// `# figure NAME: N`
fn figure(line: &str) -> Option<(String, i64)> {
    let (name, value) = line.trim().strip_prefix("# figure ")?.rsplit_once(": ")?;
    Some((name.to_string(), value.parse().ok()?))
}

/// One program in a guest put back to its first state.
pub fn one(guest: &mut Guest, program: &Program) -> Result<Ran> {
    let state = format!(
        "fpt-prep reset {} {} {}",
        program.hugepages,
        program.hugepages_1g,
        i32::from(program.swap())
    );
    let (exit, said) = guest.run(Exec {
        argv: vec!["sh".into(), "-c".into(), state],
        timeout_s: 120,
        ..Exec::default()
    })?;
    let said = said.trim();
    if let (0, Some(why)) = (exit.status(), said.strip_prefix("skip: ")) {
        return Ok(Ran::one(
            "program",
            format!("skip: {why}"),
            Status::Skip,
            said,
        ));
    }
    if exit.status() != 0 || said != "ok" {
        return Ok(Ran::one(
            PREPARE,
            "the guest could not be prepared",
            Status::Fail,
            said,
        ));
    }
    for file in program.files() {
        let (exit, _) = guest.run(Exec {
            argv: vec!["test".into(), "-e".into(), file.into()],
            timeout_s: 30,
            ..Exec::default()
        })?;
        if exit.status() != 0 {
            return Ok(Ran::one(
                PREPARE,
                format!("no {file}"),
                Status::Fail,
                format!("the program needs {file}, which the guest has not"),
            ));
        }
    }
    let shell = |line: &str| Exec {
        argv: vec!["sh".into(), "-c".into(), line.into()],
        timeout_s: 60,
        ..Exec::default()
    };
    if !program.setup.is_empty() {
        let (exit, text) = guest.run(shell(&program.setup))?;
        if exit.status() != 0 {
            return Ok(Ran::one(PREPARE, "its setup failed", Status::Fail, text));
        }
    }
    let id = guest.new_id();
    guest.start_exec(Exec {
        id,
        argv: program.argv.clone(),
        env: program.env.clone(),
        cwd: Some(format!("/selftests/{}", program.dir)),
        timeout_s: program.timeout_s,
        solo: true,
        mark: Some(program.name.clone()),
        ..Exec::default()
    })?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let hard = Duration::from_secs(program.timeout_s + 120);
    let exit = guest.wait_exit(id, None, Some(hard), &mut |stream, data| {
        match stream {
            Stream::Stdout => stdout.extend_from_slice(data),
            Stream::Stderr => stderr.extend_from_slice(data),
        }
        Ok(())
    })?;
    if !program.teardown.is_empty() {
        let (exit, text) = guest.run(shell(&program.teardown))?;
        if exit.status() != 0 {
            return Ok(Ran::one(PREPARE, "its teardown failed", Status::Fail, text));
        }
    }
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    if let Some(how) = cannot_start(&exit) {
        return Ok(Ran::one(
            PREPARE,
            how,
            Status::Fail,
            format!("{stdout}{stderr}"),
        ));
    }
    Ok(judge(program, &exit, &stdout, &stderr))
}

/// As init and every shell report it.
fn cannot_start(exit: &vm::Exit) -> Option<&'static str> {
    match (exit.timeout, exit.signal, exit.code) {
        (false, 0, 126) => Some("it cannot be started (exit code 126)"),
        (false, 0, 127) => Some("it cannot be started, not found (exit code 127)"),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn program(tap: bool) -> Program {
        let text = format!(
            "name='mm/x'\ndir='mm'\nargv=['./x']\ntimeout_s=5\ntap={tap}\n{}",
            if tap { "" } else { "cases=['Testing ']\n" }
        );
        toml::from_str(&text).unwrap()
    }

    pub fn exit(code: i32, signal: i32, timeout: bool) -> vm::Exit {
        vm::Exit {
            code,
            signal,
            timeout,
            ms: 1,
        }
    }

    #[test]
    fn what_is_kept_of_an_output() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(excerpt(&lines).starts_with("line 74\n") && excerpt(&lines).ends_with("line 99"));
        lines[50] = "# a.c:7:case:Expected 0 (0) == x (1)";
        assert_eq!(
            excerpt(&lines),
            format!("line 47\nline 48\nline 49\n{}", lines[50])
        );
        assert_eq!(excerpt(&[]), "");
        assert_eq!(excerpt(&["not ok 1 a"; 99]).lines().count(), 1);
        let many: Vec<String> = (0..99).map(|n| format!("not ok {n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(excerpt(&many).lines().count(), 26);
    }

    #[test]
    fn a_failing_line_is_the_same_case_as_a_passing_one() {
        let mut program = program(false);
        program.cases = ["ok ", "not ok ", "["].map(String::from).to_vec();
        let said = "ok 1 a\nnot ok 2 b\nok 3 # SKIP c\n[OK]\tfine\n[FAIL]\tnot so\n[SKIP]\tno CS\n";
        let ran = judge(&program, &exit(0, 0, false), said, "");
        let list: Vec<(&str, Status)> = ran
            .cases
            .iter()
            .map(|c| (c.name.as_str(), c.status))
            .collect();
        assert_eq!(
            list,
            [
                ("1 a", Status::Pass),
                ("2 b", Status::Fail),
                ("3 c", Status::Skip),
                ("[OK]\tfine", Status::Pass),
                ("[FAIL]\tnot so", Status::Fail),
                ("[SKIP]\tno CS", Status::Skip),
                ("exit", Status::Pass),
            ]
        );
    }

    #[test]
    fn plan_and_exit_are_cases() {
        let ran = judge(
            &program(true),
            &exit(0, 0, false),
            "TAP version 13\n1..2\nok 1 a\n",
            "",
        );
        let failed: Vec<&str> = ran
            .cases
            .iter()
            .filter(|c| c.status == Status::Fail)
            .map(|c| c.name.as_str())
            .collect();
        assert_eq!(failed, ["TAP plan"]);
        let ran = judge(&program(true), &exit(0, 9, true), "1..1\nok 1 a\n", "");
        assert_eq!(ran.cases.last().unwrap().status, Status::Fail);
        let ran = judge(&program(true), &exit(4, 0, false), "1..0 # SKIP x\n", "");
        assert!(ran
            .cases
            .iter()
            .any(|c| c.name == "program" && c.status == Status::Skip));
    }

    #[test]
    fn lines_are_cases() {
        let said = "Testing a on anon... done\nTesting b... skipped [reason: x]\nnoise\n\
                    Testing a on anon... failed\nTesting c.... \x1b[31mTimeout\x1b[0m\n";
        let ran = judge(&program(false), &exit(0, 0, false), said, "");
        let list: Vec<(&str, &str, Status)> = ran
            .cases
            .iter()
            .map(|c| (c.name.as_str(), c.outcome.as_str(), c.status))
            .collect();
        assert_eq!(
            list,
            [
                ("Testing a on anon", "done", Status::Pass),
                ("Testing b", "skipped [reason: x]", Status::Skip),
                ("Testing a on anon [2]", "failed", Status::Fail),
                ("Testing c", "\x1b[31mTimeout\x1b[0m", Status::Fail),
                ("exit", "exit code 0", Status::Pass)
            ]
        );
    }

    #[test]
    fn a_repeated_line_counts_once_where_the_list_says_so() {
        let mut program = program(false);
        let said = "Testing a... done\nTesting a... done\n";
        let count = |p: &Program| judge(p, &exit(0, 0, false), said, "").cases.len();
        assert_eq!(count(&program), 3);
        program.unique = true;
        assert_eq!(count(&program), 2);
    }
}
