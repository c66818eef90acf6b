// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a program ends: one line of JSON as the last line of its output, and its exit code.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a program found out about itself.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was checked, for people.
    pub check: String,
    /// Sizes and counts.
    pub figures: Map<String, Value>,
}

impl Outcome {
    /// A result that was proved by this check.
    pub fn new(check: impl Into<String>) -> Outcome {
        Outcome {
            check: check.into(),
            figures: Map::new(),
        }
    }

    /// Adds a figure to the result.
    pub fn figure(mut self, name: &str, value: impl Into<Value>) -> Outcome {
        self.figures.insert(name.to_string(), value.into());
        self
    }
}

/// Page tables of the whole guest at the end of the running phase, in KiB; 0: not known.
static PAGE_TABLES_KB: AtomicU64 = AtomicU64::new(0);

/// Keeps the size of all page tables for the last line. Outside of every phase, as reading it is work of
/// the kernel. Of the whole guest, as a server under test is another process.
pub fn note_page_tables() {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    PAGE_TABLES_KB.store(page_tables(&text).unwrap_or(0), Ordering::Relaxed);
}

fn page_tables(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("PageTables:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn line(workload: &str, outcome: &Result<Outcome>) -> String {
    let mut out = Map::new();
    out.insert("workload".into(), workload.into());
    out.insert("ok".into(), outcome.is_ok().into());
    match outcome {
        Ok(o) => {
            out.insert("check".into(), o.check.as_str().into());
            out.insert("figures".into(), Value::Object(o.figures.clone()));
        }
        Err(e) => {
            out.insert("check".into(), e.to_string().into());
        }
    }
    match PAGE_TABLES_KB.load(Ordering::Relaxed) {
        0 => {}
        kb => {
            out.insert("page_tables_kb".into(), kb.into());
        }
    }
    Value::Object(out).to_string()
}

/// The body of every `main`: runs `work`, prints the last line, ends the process.
pub fn end(workload: &str, work: impl FnOnce() -> Result<Outcome>) -> ! {
    let outcome = work();
    let mut code = match &outcome {
        Ok(_) => 0,
        Err(e) => {
            eprintln!("{workload}: {e}");
            e.code()
        }
    };
    let mut stdout = std::io::stdout().lock();
    let told = writeln!(stdout, "{}", line(workload, &outcome)).and_then(|()| stdout.flush());
    if told.is_err() && code == 0 {
        // A result that nobody could read is none.
        code = Error::System(String::new()).code();
    }
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tables_are_found() {
        assert_eq!(page_tables("PageTables:        16692 kB\n"), Some(16692));
        assert_eq!(
            page_tables("SecPageTables:         0 kB\nMemFree: 1 kB\n"),
            None
        );
    }

    #[test]
    fn last_line_is_json_in_both_cases() {
        let good = line("bfs", &Ok(Outcome::new("all \"levels\"").figure("n", 3)));
        let value: Value = serde_json::from_str(&good).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["check"], "all \"levels\"");
        assert_eq!(value["figures"]["n"], 3);
        let bad = line("bfs", &Err(Error::Wrong("vertex 3\nis wrong".into())));
        assert!(!bad.contains('\n'));
        let value: Value = serde_json::from_str(&bad).unwrap();
        assert_eq!(value["ok"], false);
    }
}
