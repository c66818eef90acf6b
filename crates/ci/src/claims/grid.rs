// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of documents, cell by cell.

use super::Outcome;
use fpt_geometry::Boot;
use fpt_report::metrics::{Figures, Of};

/// The lines of the first table whose head begins with this cell, as cells.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|c| c.trim().to_owned()).collect()
    };
    let is = |line: &&str| line.starts_with('|') && cells(line).first().is_some_and(|c| c == head);
    let lines = document.lines();
    let from = lines
        .skip_while(|line| !is(line))
        .take_while(|l| l.starts_with('|'));
    // The head and the line below it.
    from.skip(2).map(cells).collect()
}

/// `-0.83`: its value, and half of its last digit.
fn number(text: &str) -> Option<(f64, f64)> {
    let text = text.trim().trim_matches('*');
    let value: f64 = text.parse().ok()?;
    let digits = text.split_once('.').map_or(0, |(_, after)| after.len());
    // "0" stands for what rounds to nothing at all.
    let digits = if value == 0.0 { 2 } else { digits };
    Some((value, 0.5 * 10f64.powi(-(digits as i32))))
}

type Judged = std::result::Result<Outcome, Outcome>;

/// Holds every number of the table against the figures: changes in per cent against radix.
pub fn judge(
    document: &str,
    head: &str,
    figures: &Figures,
    (phase, modes, columns): (&str, &[Boot], &[Of]),
) -> Judged {
    let mut checked = 0;
    for row in table(document, head) {
        let name = row.first().map_or("", |c| c.trim_matches('*'));
        if let Some(mode) = name.strip_prefix("interval, ") {
            checked += intervals(&row, mode, figures, (phase, columns))?;
            continue;
        }
        let is_mean = name == "mean";
        if !is_mean && !figures.names().contains(&name) {
            return Err(Outcome::Fails(format!("there is no workload '{name}'")));
        }
        if row.len() != columns.len() + 1 {
            return Err(Outcome::Fails(format!("{name}: another number of columns")));
        }
        for (cell, of) in row.iter().skip(1).zip(columns) {
            let parts: Vec<&str> = cell.split('/').collect();
            if parts.len() != modes.len() {
                return Err(Outcome::Fails(format!(
                    "{name}: '{cell}' is not of {} modes",
                    modes.len()
                )));
            }
            for (part, mode) in parts.iter().zip(modes) {
                let ratio = if is_mean {
                    figures
                        .mean(&figures.names(), *mode, phase, *of)
                        .map(|m| m.0)
                } else {
                    figures.ratio(name, *mode, phase, *of)
                };
                let said = format!("{name}, {mode}, {}", of.title());
                let (Some(ratio), Some((value, half))) = (ratio, number(part)) else {
                    return Err(Outcome::Fails(format!("{said}: no figure for '{part}'")));
                };
                let found = (ratio - 1.0) * 100.0;
                if (found - value).abs() > half + 1e-9 {
                    return Err(Outcome::Fails(format!("{said}: {found:.3}, not {value}")));
                }
                checked += 1;
            }
        }
    }
    match checked {
        0 => Err(Outcome::Fails(format!("no table begins with '{head}'"))),
        n => Ok(Outcome::Holds(format!("{n} numbers"))),
    }
}

/// A row of intervals of the mean, `low to high`.
fn intervals(
    row: &[String],
    mode: &str,
    figures: &Figures,
    (phase, columns): (&str, &[Of]),
) -> std::result::Result<usize, Outcome> {
    let fails = |why: String| Err(Outcome::Fails(why));
    let Ok(mode) = mode.parse::<Boot>() else {
        return fails(format!("there is no mode '{mode}'"));
    };
    if row.len() != columns.len() + 1 {
        return fails(format!("interval, {mode}: another number of columns"));
    }
    for (cell, of) in row.iter().skip(1).zip(columns) {
        let said = format!("interval, {mode}, {}", of.title());
        let found = figures.mean_range(&figures.names(), mode, phase, *of);
        let ends = cell.split_once(" to ");
        let (Some((low, high)), Some((a, b))) = (found, ends) else {
            return fails(format!("{said}: no interval for '{cell}'"));
        };
        for (ratio, text) in [(low, a), (high, b)] {
            let Some((value, half)) = number(text) else {
                return fails(format!("{said}: '{text}' is no number"));
            };
            let found = (ratio - 1.0) * 100.0;
            if (found - value).abs() > half + 1e-9 {
                return fails(format!("{said}: {found:.3}, not {value}"));
            }
        }
    }
    Ok(2 * columns.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_digits() {
        let close = |text: &str, value: f64, half: f64| {
            let (v, h) = number(text).unwrap();
            assert!(
                (v - value).abs() < 1e-12 && (h - half).abs() < 1e-12,
                "{text}"
            );
        };
        close(" -0.83 ", -0.83, 0.005);
        close("**+6.5**", 6.5, 0.05);
        close("0", 0.0, 0.005);
        assert_eq!(number("no change"), None);
    }

    #[test]
    fn tables_are_found() {
        let text = "| a | b |\n|---|---|\n| x | 1 |\n\n| c | d |\n|---|---|\n| y | 2 |\n| z | 3 |\nend\n| c | e |\n";
        assert_eq!(table(text, "c"), [["y", "2"], ["z", "3"]]);
        assert!(table(text, "e").is_empty());
    }
}
