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
