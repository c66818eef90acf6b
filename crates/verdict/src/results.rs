// SPDX-License-Identifier: MIT OR Apache-2.0
//! Results of a run and their forms: TAP, JSON, JUnit, one line per case and a last line that counts.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use fpt_kit::say;
use fpt_kit::{ExitCode, Result};

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not run.
    Skipped,
}

/// One case of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// Group, e.g. `boot` or `mm/cow`.
    pub suite: String,
    /// The name within its suite.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it failed or was skipped; a remark otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

impl Case {
    /// A case of these parts.
    pub fn new(
        suite: &str,
        name: &str,
        outcome: Outcome,
        detail: impl Into<String>,
        ms: u64,
    ) -> Case {
        Case {
            suite: suite.into(),
            name: name.into(),
            outcome,
            detail: detail.into(),
            ms,
        }
    }

    /// A case that passed after `ms` milliseconds.
    pub fn passed(suite: &str, name: &str, ms: u64) -> Case {
        Case::new(suite, name, Outcome::Passed, "", ms)
    }

    /// A case that failed after `ms` milliseconds, and why.
    pub fn failed(suite: &str, name: &str, detail: impl Into<String>, ms: u64) -> Case {
        Case::new(suite, name, Outcome::Failed, detail, ms)
    }

    /// A case that did not run, and why.
    pub fn skipped(suite: &str, name: &str, detail: impl Into<String>) -> Case {
        Case::new(suite, name, Outcome::Skipped, detail, 0)
    }
}

/// All cases of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The cases, in the order in which they ended.
    pub cases: Vec<Case>,
}

impl Report {
    /// The number of cases with this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases.iter().filter(|c| c.outcome == outcome).count()
    }

    /// `N passed, N failed`, with `, N skipped` where there are any.
    pub fn summary(&self) -> String {
        let skipped = match self.count(Outcome::Skipped) {
            0 => String::new(),
            n => format!(", {n} skipped"),
        };
        format!(
            "{} passed, {} failed{skipped}",
            self.count(Outcome::Passed),
            self.count(Outcome::Failed)
        )
    }

    /// Prints the summary, the last line of a test command; returns its exit code.
    pub fn conclude(&self) -> ExitCode {
        say!("\n", "{}", self.summary());
        ExitCode::of_check(self.green())
    }

    /// Green only if something ran and nothing failed.
    pub fn green(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.count(Outcome::Passed) > 0
    }

    /// The report as TAP, version 13.
    pub fn tap(&self) -> String {
        let mut out = format!("TAP version 13\n1..{}\n", self.cases.len());
        for (n, case) in self.cases.iter().enumerate() {
            let ok = if case.outcome == Outcome::Failed {
                "not ok"
            } else {
                "ok"
            };
            // A # in a name would start a directive.
            let name = format!("{}: {}", case.suite, case.name)
                .replace('#', "\\#")
                .replace('\n', " ");
            let note = case.detail.replace('\n', " ");
            match case.outcome {
                Outcome::Skipped => {
                    out.push_str(&format!("{ok} {} - {name} # SKIP {note}\n", n + 1))
                }
                _ => out.push_str(&format!("{ok} {} - {name}\n", n + 1)),
            }
            if case.outcome == Outcome::Failed {
                for line in case.detail.lines() {
                    out.push_str(&format!("# {line}\n"));
                }
            }
        }
        out
    }

    /// The report as `results.json`.
    pub fn json(&self) -> Result<String> {
        let value = serde_json::json!({
            "schema": 1,
            "summary": self.summary(),
            "passed": self.count(Outcome::Passed),
            "failed": self.count(Outcome::Failed),
            "skipped": self.count(Outcome::Skipped),
            "cases": self.cases,
        });
        Ok(format!(
            "{}\n",
            serde_json::to_string_pretty(&value).context("cannot encode the results")?
        ))
    }

    /// The report as JUnit's XML, for the run of this name.
    pub fn junit(&self, name: &str) -> String {
        let mut suites: Vec<&str> = Vec::new();
        for case in &self.cases {
            if !suites.contains(&case.suite.as_str()) {
                suites.push(&case.suite);
            }
        }
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        out.push_str(&format!(
            "<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
            xml(name),
            self.cases.len(),
            self.count(Outcome::Failed),
            self.count(Outcome::Skipped)
        ));
        for suite in suites {
            let cases: Vec<&Case> = self.cases.iter().filter(|c| c.suite == suite).collect();
            let count = |o| cases.iter().filter(|c| c.outcome == o).count();
            let ms: u64 = cases.iter().map(|c| c.ms).sum();
            out.push_str(&format!(
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{}\">\n",
                xml(suite),
                cases.len(),
                count(Outcome::Failed),
                count(Outcome::Skipped),
                ms as f64 / 1000.0
            ));
            for case in cases {
                out.push_str(&format!(
                    "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
                    xml(suite),
                    xml(&case.name),
                    case.ms as f64 / 1000.0
                ));
                let first = case.detail.lines().next().unwrap_or("");
                match case.outcome {
                    Outcome::Passed => out.push_str("/>\n"),
                    Outcome::Failed => {
                        out.push_str(&format!(
                            "><failure message=\"{}\">{}</failure></testcase>\n",
                            xml(first),
                            xml(&case.detail)
                        ));
                    }
                    Outcome::Skipped => out.push_str(&format!(
                        "><skipped message=\"{}\"/></testcase>\n",
                        xml(first)
                    )),
                }
            }
            out.push_str("  </testsuite>\n");
        }
        out.push_str("</testsuites>\n");
        out
    }
}

/// Escaped for XML; characters that XML 1.0 cannot hold become spaces.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if (c as u32) < 0x20 || c == '\u{fffe}' || c == '\u{ffff}' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            cases: vec![
                Case::passed("boot", "radix", 1500),
                Case::failed("mm/cow", "a <b> & #c", "first \"line\"\nsecond\u{1}", 3),
                Case::skipped("mm/hmm", "exit", "no module"),
            ],
        }
    }

    #[test]
    fn forms() {
        let report = report();
        assert_eq!(report.summary(), "1 passed, 1 failed, 1 skipped");
        assert!(!report.green());
        assert!(!Report::default().green(), "nothing ran: not green");
        let tap = report.tap();
        let back = super::super::tap::parse(tap.lines());
        assert!(back.problems.is_empty(), "{back:?}");
        assert_eq!(back.cases.len(), 3);
        let junit = report.junit("test");
        assert!(
            junit.contains("message=\"first &quot;line&quot;\""),
            "{junit}"
        );
        assert!(junit.contains("name=\"a &lt;b&gt; &amp; #c\""));
        assert!(!junit.contains('\u{1}'));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["cases"][1]["outcome"], "failed");
    }
}
