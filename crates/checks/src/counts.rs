// SPDX-License-Identifier: MIT OR Apache-2.0
//! What checks that run for minutes have in common: the guest's counters before and after, and what must be given back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fpt_init::proto::Exec;

use fpt_kit::{Fail, Result};
use fpt_verdict::results::Case;
use fpt_vm::vm::Guest;

/// The outcome of a story that nothing cut short.
pub const IN_ORDER: &str = "ended in order";

/// Page tables that may be more or fewer in the end, in KiB: CPUs count in batches.
const SLACK_KB: i64 = 64;

/// So long the last state may take to become what it was at the start, but no longer than the run was.
pub const SETTLE: Duration = Duration::from_secs(20);

pub type Counts = BTreeMap<String, i64>;

/// `name number` lines.
pub fn counts(text: &str) -> Counts {
    text.lines()
        .filter_map(|l| {
            let (name, n) = l.split_once(' ')?;
            Some((name.to_string(), n.trim().parse().ok()?))
        })
        .collect()
}

pub fn count(counts: &Counts, name: &str) -> i64 {
    counts.get(name).copied().unwrap_or(0)
}

/// What must be in the end as it was at the start.
pub const LEFT: [&str; 5] = [
    "others_root",
    "others_mid",
    "others_bottom",
    "others_bytes",
    "others_kb",
];

/// Is everything given back?
pub fn left_cases(suite: &str, start: &Counts, end: &Counts) -> Vec<Case> {
    let mut cases = Vec::new();
    let left = left_over(start, end);
    for (what, names) in [("nodes", &LEFT[..4]), ("page-table memory", &LEFT[4..])] {
        let name = format!("{what} back at the start's");
        let wrong: Vec<&str> = left
            .iter()
            .filter(|(n, _)| names.contains(n))
            .map(|(_, text)| text.as_str())
            .collect();
        let there = names.iter().any(|n| end.contains_key(*n));
        cases.push(if !wrong.is_empty() {
            Case::failed(suite, &name, wrong.join("; "), 0)
        } else if there {
            Case::passed(suite, &name, 0)
        } else {
            Case::skipped(suite, &name, "this kernel has no such counters")
        });
    }
    if end.contains_key("tainted") {
        let name = "no node came back dirty";
        cases.push(match count(end, "tainted") {
            0 => Case::passed(suite, name, 0),
            _ => Case::failed(suite, name, "recycling has ended", 0),
        });
    }
    cases
}

/// What has changed between two states and must not have.
pub fn left_over(start: &Counts, end: &Counts) -> Vec<(&'static str, String)> {
    LEFT.into_iter()
        .filter_map(|name| {
            let (a, b) = match (start.get(name), end.get(name)) {
                (None, None) => return None,
                (a, b) => (a.copied().unwrap_or(0), b.copied().unwrap_or(0)),
            };
            let slack = if name == "others_kb" { SLACK_KB } else { 0 };
            ((a - b).abs() > slack).then(|| {
                (
                    name,
                    format!("{name} was {a} at the start and is {b} in the end"),
                )
            })
        })
        .collect()
}

/// Change of each counter; states are none.
pub fn change(before: &Counts, after: &Counts) -> Counts {
    let state = |name: &str| {
        LEFT.contains(&name)
            || name.ends_with("_live")
            || name.ends_with("_pool_nodes")
            || name.ends_with("_kb")
            || ["flat_bytes", "can_demote", "injections_left"].contains(&name)
    };
    after
        .iter()
        .filter(|(name, _)| !state(name))
        .map(|(name, n)| (name.clone(), n - count(before, name)))
        .collect()
}

pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A command that must succeed; its output.
pub fn ask(guest: &mut Guest, argv: &[&str]) -> Result<String> {
    let (exit, out) = guest.run(Exec {
        argv: argv.iter().map(|a| a.to_string()).collect(),
        timeout_s: 180,
        ..Exec::default()
    })?;
    if exit.status() == 0 {
        return Ok(out);
    }
    Err(Fail::test(
        format!(
            "'{}' failed in the guest ({})",
            argv.join(" "),
            exit.status()
        ),
        out,
        "see the console log",
    ))
}

pub fn state(guest: &mut Guest) -> Result<Counts> {
    Ok(counts(&ask(guest, &["fpt-init", "state"])?))
}

/// Time enough to do something, and a day at most.
pub fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if (0.05..=1440.0).contains(&n) => Ok(n),
        _ => Err("it takes a number of minutes from 0.05 to 1440".into()),
    }
}

pub fn clock_seed() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |d| d.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over() {
        let state = |text| counts(text);
        let start = state("others_mid 1\nothers_kb 100\n");
        assert!(left_over(&start, &start).is_empty());
        assert!(left_over(&start, &state("others_mid 1\nothers_kb 160\n")).is_empty());
        for end in [
            "others_mid 2\nothers_kb 100\n",
            "others_mid 0\nothers_kb 100\n",
            "others_kb 100\n",
            "others_mid 1\nothers_kb 165\n",
            "others_mid 1\nothers_kb 35\n",
        ] {
            assert_eq!(left_over(&start, &state(end)).len(), 1, "{end}");
        }
    }

    #[test]
    fn minutes_and_nonsense() {
        assert_eq!(minutes("2"), Ok(2.0));
        assert_eq!(minutes("0.5"), Ok(0.5));
        for bad in ["0", "-1", "nan", "inf", "1e9", "", "x", "2m"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
