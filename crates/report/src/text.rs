// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers as people read them.

use super::row::Range;
use super::stats;

/// A table: names of columns, rows of cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// Names of the columns.
    pub head: Vec<String>,
    /// The rows, each as long as `head`.
    pub rows: Vec<Vec<String>>,
}

/// `-1.25 %`: how far from 1.
pub fn percent(ratio: f64) -> String {
    let p = (ratio - 1.0) * 100.0;
    // Small differences are what this is about: do not round them away.
    match p.abs() {
        a if a < 0.005 => "0 %".into(),
        a if a < 1.0 => format!("{p:+.2} %"),
        a if a < 100.0 => format!("{p:+.1} %"),
        _ => format!("{p:+.0} %"),
    }
}

/// `-1.25 % (-1.31 to -1.20)`: the mean of several runs and its interval; that no change is shown, where this holds none.
pub fn percent_in(ratio: f64, range: Range) -> String {
    let bare = |r: f64| percent(r).trim_end_matches(" %").to_string();
    match range {
        None => percent(ratio),
        Some((low, high)) if stats::shows_nothing(range) && low < high => {
            format!("no change shown ({} to {})", bare(low), bare(high))
        }
        Some((low, high)) => format!("{} ({} to {})", percent(ratio), bare(low), bare(high)),
    }
}

/// Four significant digits or so.
pub fn number(value: f64) -> String {
    match value.abs() {
        a if !a.is_finite() => "-".into(),
        0.0 => "0".into(),
        a if a >= 1e9 => format!("{:.3} G", value / 1e9),
        a if a >= 1e6 => format!("{:.3} M", value / 1e6),
        a if a >= 1e5 => format!("{:.1} k", value / 1e3),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.2}"),
        a if a >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

/// `1 mode`, `2 modes`.
pub fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// `20261126T200523Z` as `2026-11-26 20:05 UTC`; another text as it is.
pub fn readable(date: &str) -> String {
    let part = |from: usize, to: usize| {
        let text = date.get(from..to)?;
        text.chars().all(|c| c.is_ascii_digit()).then_some(text)
    };
    let parts = (|| {
        let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
        let (hour, minute) = (part(9, 11)?, part(11, 13)?);
        Some(format!("{year}-{month}-{day} {hour}:{minute} UTC"))
    })();
    parts.unwrap_or_else(|| date.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_counts() {
        assert_eq!(readable("20261126T200523Z"), "2026-11-26 20:05 UTC");
        for other in ["now", "", "2026-11-26", "20261126Tab0523Z"] {
            assert_eq!(readable(other), other);
        }
        assert_eq!(counted(1, "mode"), "1 mode");
        assert_eq!(counted(12, "workload"), "12 workloads");
    }
}
