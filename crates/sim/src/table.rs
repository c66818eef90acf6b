// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures as text: a line for each, a column for each mode, bars where there is room.

use std::fmt::Write as _;

use crate::figures::{Figure, Result, Unit, Value};
use fpt_report::stats;

/// Characters of a bar, which is full at the first mode's value.
const BAR: usize = 20;

/// A count of any size in at most seven characters.
fn short(n: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let step = STEPS.into_iter().find(|(from, _)| n.abs() >= *from);
    match step {
        Some((from, unit)) => match n / from {
            x if x.abs() < 10.0 => format!("{x:.2}{unit}"),
            x => format!("{x:.1}{unit}"),
        },
        None => format!("{n:.0}"),
    }
}

fn bytes(n: f64) -> String {
    const STEPS: [(f64, &str); 3] = [
        (1_073_741_824.0, " GiB"),
        (1_048_576.0, " MiB"),
        (1024.0, " KiB"),
    ];
    match STEPS.into_iter().find(|(from, _)| n >= *from) {
        Some((from, unit)) => format!("{:.1}{unit}", n / from),
        None => format!("{n:.0} B"),
    }
}

pub fn value(unit: Unit, n: f64) -> String {
    match unit {
        Unit::Count => short(n),
        Unit::Ratio => format!("{n:.3}"),
        Unit::Part => format!("{:.1} %", n * 100.0),
        Unit::Bytes => bytes(n),
    }
}

fn change(unit: Unit, v: &Value) -> String {
    let Some(change) = v.change else {
        return String::new();
    };
    let what = if unit == Unit::Part { "pt" } else { "%" };
    let interval = v.interval.map(|(a, b)| (1.0 + a, 1.0 + b));
    match v.interval {
        Some(_) if stats::shows_nothing(interval) => "no change shown".into(),
        Some((low, high)) => format!(
            "{:+.1} {what} \u{b1}{:.1}",
            change * 100.0,
            (high - low) * 50.0
        ),
        None => format!("{:+.1} {what}", change * 100.0),
    }
}

fn bar(part: f64) -> String {
    let full = ((part * BAR as f64).round().max(0.0) as usize).min(BAR);
    format!("{}{}", "#".repeat(full), ".".repeat(BAR - full))
}

/// The tables: of each phase, if there are several, and of all together.
pub fn text(result: &Result) -> String {
    let mut out = String::new();
    if result.phases.len() > 1 {
        for phase in &result.phases {
            table(result, Some(phase), &Figure::OF_PHASE, &mut out);
        }
    }
    table(result, None, &Figure::ALL, &mut out);
    out
}

fn title(result: &Result, phase: Option<&str>) -> String {
    let what = match (phase, result.phases.as_slice()) {
        (Some(name), _) => format!("phase {name}"),
        (None, [only]) if only == "whole" => "the whole run".to_string(),
        (None, [only]) => format!("phase {only}"),
        (None, _) => "all phases".to_string(),
    };
    match result.runs.iter().map(|r| r.run).max() {
        Some(n) if n > 1 => format!("{what}, means of {n} runs"),
        _ => what,
    }
}

fn table(result: &Result, phase: Option<&str>, figures: &[Figure], out: &mut String) {
    let mut head = vec![title(result, phase)];
    for (n, mode) in result.modes.iter().enumerate() {
        head.push(mode.to_string());
        if n > 0 {
            head.push(String::new());
        }
    }
    let two = result.modes.len() == 2;
    let mut rows = vec![head];
    for figure in figures {
        let unit = figure.unit();
        let mut row = vec![figure.title().to_string()];
        let mut part = None;
        for (n, mode) in result.modes.iter().enumerate() {
            let v = result.value(phase, *figure, *mode);
            row.push(v.map_or("-".into(), |v| value(unit, v.mean)));
            if n > 0 {
                row.push(v.map_or(String::new(), |v| change(unit, &v)));
                part = v.and_then(|v| v.change).filter(|_| unit != Unit::Part);
            }
        }
        if let (true, Some(change)) = (two, part) {
            row.push(bar(1.0 + change));
        }
        rows.push(row);
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|t| t.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    for row in &rows {
        let mut line = String::new();
        for (c, (text, width)) in row.iter().zip(&widths).enumerate() {
            match c {
                0 => {
                    let _ = write!(line, "{text:<width$}");
                }
                _ => {
                    let _ = write!(line, "  {text:>width$}");
                }
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1234.0, "1.23 k"),
            (630.5e6, "630.5 M"),
            (3.97e9, "3.97 G"),
            (2e12, "2.00 T"),
        ] {
            assert_eq!(short(n), text);
        }
        assert_eq!(bytes(4112.0 * 1024.0), "4.0 MiB");
        assert_eq!(value(Unit::Part, 0.123), "12.3 %");
        assert_eq!(bar(0.5), "##########..........");
        assert_eq!(bar(7.0).len(), BAR);
    }

    #[test]
    fn a_change_that_is_none_is_called_so() {
        let v = |change, interval| Value {
            mean: 1.0,
            change: Some(change),
            interval,
        };
        assert_eq!(change(Unit::Count, &v(-0.026, None)), "-2.6 %");
        assert_eq!(
            change(Unit::Count, &v(-0.01, Some((-0.03, 0.01)))),
            "no change shown"
        );
        assert_eq!(
            change(Unit::Count, &v(-0.02, Some((-0.03, -0.01)))),
            "-2.0 % \u{b1}1.0"
        );
        assert_eq!(change(Unit::Part, &v(-0.05, None)), "-5.0 pt");
    }
}
