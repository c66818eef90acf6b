// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a matrix says, as text for a terminal: the page has it in more detail.

use std::path::Path;

use fpt_formats::matrix::Scale;
use fpt_geometry::Boot;
use serde_json::{json, Value};

use super::compare::Pair;
use super::metrics::{Of, Table, ALL};
use super::text::{percent, percent_in};
use super::{export, headline};

/// Figures of the table, in its order.
const SHOWN: [Of; 5] = [
    Of::AccessesPerWalk,
    Of::WalkLatency,
    Of::Ipc,
    Of::Cycles,
    Of::KernelInstructions,
];

/// Workloads that have a line of their own in a comparison, at most.
const LINES: usize = 24;

/// The change of each figure against radix, mode by mode, and what one should know before one believes it.
pub fn table(t: &Table) -> String {
    let names = t.matrix.workloads();
    let modes = headline::by_effect(t);
    let mut rows = vec![vec!["against radix".to_string()]];
    rows[0].extend(modes.iter().map(Boot::to_string));
    for of in SHOWN {
        let mut row = vec![of.title().to_string()];
        for mode in &modes {
            let mean = t.mean(&names, *mode, ALL, of);
            let range = t.mean_range(&names, *mode, ALL, of);
            row.push(mean.map_or("-".into(), |(m, _)| percent_in(m, range)));
        }
        rows.push(row);
    }
    let mut out = if modes.is_empty() {
        "Only radix was run: there is nothing to compare it with.\n".into()
    } else {
        columns(&rows)
    };
    let cells = t.matrix.cells.len();
    let whole = (t.matrix.cells.iter())
        .filter(|c| c.figures().is_some())
        .count();
    out.push_str(&format!(
        "{}; {whole} of {cells} cells have figures; {}.\n",
        match names.len() {
            1 => format!("Workload {}, load and run together", names[0]),
            n => format!("Geometric means of {n} workloads, load and run together"),
        },
        match t.repeat() {
            1 => "one run of each, so nothing is shown beyond chance".to_string(),
            n => format!("{n} runs of each, 95 % t-intervals in brackets"),
        },
    ));
    if let Some(line) = headline::mixed(t.matrix) {
        out.push_str(&line);
        out.push('\n');
    }
    if t.matrix
        .cells
        .first()
        .is_some_and(|c| c.scale == Scale::Tiny)
    {
        out.push_str(
            "Scale tiny shows that everything works. No conclusion should be drawn from it.\n",
        );
    }
    out.pop();
    out
}

/// What [`table`] shows, of all phases, for a program.
pub fn means(t: &Table) -> Value {
    serde_json::to_value(export::means(t)).unwrap_or_default()
}

/// The result of `report --json`.
pub fn json(t: &Table, page: &Path) -> String {
    let failed = (t.matrix.cells.iter())
        .filter(|c| c.figures().is_none())
        .count();
    json!({
        "path": page.display().to_string(),
        "matrix": t.matrix.name,
        "cells": t.matrix.cells.len(),
        "failed": failed,
        "means": means(t),
    })
    .to_string()
}

/// The change from A to B of the real tables, both phases together.
pub fn compared(pairs: &[Pair]) -> String {
    let mut cells: Vec<(&str, Boot)> = Vec::new();
    for p in pairs {
        if !cells.contains(&(p.workload.as_str(), p.mode)) {
            cells.push((&p.workload, p.mode));
        }
    }
    let mut rows = vec![vec!["B against A".to_string(), "mode".to_string()]];
    rows[0].extend(SHOWN.map(|of| of.title().to_string()));
    for (workload, mode) in cells.iter().take(LINES) {
        let mut row = vec![workload.to_string(), mode.to_string()];
        for of in SHOWN {
            let found = pairs.iter().find(|p| {
                p.workload == *workload
                    && p.mode == *mode
                    && p.of == of
                    && p.phase == ALL
                    && p.organisation == "real"
            });
            row.push(found.and_then(|p| p.ratio).map_or("-".into(), percent));
        }
        rows.push(row);
    }
    let mut out = columns(&rows);
    if cells.len() > LINES {
        out.push_str(&format!("and {} more\n", cells.len() - LINES));
    }
    out.pop();
    out
}

/// Rows with their cells below each other; numbers at the right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|r| r.get(n));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = (row.iter().enumerate())
            .map(|(n, cell)| match n {
                0 => format!("{cell:<w$}", w = width(0)),
                n => format!("{cell:>w$}", w = width(n)),
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pairs;
    use crate::metrics::tests;

    #[test]
    fn a_matrix_on_a_terminal() {
        let matrix = tests::repeated();
        let t = Table::new(&matrix);
        let text = table(&t);
        let line = |start: &str| {
            let found = text.lines().find(|l| l.starts_with(start));
            found
                .unwrap_or_else(|| panic!("{start}: {text}"))
                .to_string()
        };
        assert!(line("against radix").ends_with("l3l2"), "{text}");
        assert!(line("walk latency").contains(" %"), "{text}");
        assert!(text.contains("3 runs of each"), "{text}");
        assert!(text.ends_with("drawn from it."), "{text}");
        let value: Value = serde_json::from_str(&json(&t, Path::new("a/b"))).unwrap();
        assert_eq!(value["path"], "a/b");
        assert!(value["means"].as_array().unwrap().len() > 10);
        assert_eq!(value["failed"], 0);
    }

    #[test]
    fn two_matrices_on_a_terminal() {
        let matrix = tests::matrix();
        let t = Table::new(&matrix);
        let text = compared(&pairs(&t, &t));
        assert_eq!(text.lines().count(), 1 + 9, "{text}");
        assert!(text.lines().skip(1).all(|l| l.contains("0 %")), "{text}");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [
            vec!["a".into(), "10".into()],
            vec!["long".into(), "1".into()],
        ];
        assert_eq!(columns(&rows), "a     10\nlong   1\n");
    }
}
