// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two matrices beside each other, cell by cell.

use std::collections::BTreeSet;

use fpt_geometry::Boot;
use serde::Serialize;

use super::cells::Matrix;
use super::draw::{Bar, Chart, Group, Key, Part};
use super::html;
use super::markup::{esc, table};
use super::metrics::{Figures, Of};
use super::text::{number, percent, readable, Grid};
use super::Side;

pub const SCHEMA: &str = "fpt-compare/1";

/// A figure in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    pub workload: String,
    pub mode: Boot,
    pub phase: String,
    pub organisation: String,
    pub preset: String,
    pub of: Of,
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// b / a.
    pub ratio: Option<f64>,
}

pub fn pairs(a: &Figures, b: &Figures) -> Vec<Pair> {
    let mut out = Vec::new();
    for left in &a.rows {
        let right = b.rows.iter().find(|r| {
            r.workload == left.workload
                && r.mode == left.mode
                && r.phase == left.phase
                && r.organisation == left.organisation
                && r.preset == left.preset
        });
        let Some(right) = right else { continue };
        for of in Of::ALL {
            let (x, y) = (of.of(left), of.of(right));
            out.push(Pair {
                workload: left.workload.clone(),
                mode: left.mode,
                phase: left.phase.clone(),
                organisation: left.organisation.clone(),
                preset: left.preset.clone(),
                of,
                a: x,
                b: y,
                ratio: x.zip(y).filter(|(x, _)| *x > 0.0).map(|(x, y)| y / x),
            });
        }
    }
    out
}

/// In what two matrices are not alike.
pub struct Unlike {
    /// Facts that differ, or that are not known.
    pub facts: Vec<String>,
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
}

impl Unlike {
    pub fn of(a: &Side, b: &Side) -> Unlike {
        let mut facts = differences(&a.matrix, &b.matrix);
        for side in [a, b].into_iter().filter(|s| s.published) {
            facts.push(format!(
                "what is not known: {} has figures and no cells; its provenance.json says what it was made with",
                side.matrix.name
            ));
        }
        facts.dedup();
        Unlike {
            facts,
            only_a: only(&a.figures, &b.figures),
            only_b: only(&b.figures, &a.figures),
        }
    }
}

/// Workloads and modes that only one of them has figures of.
fn only(a: &Figures, b: &Figures) -> Vec<String> {
    let names = |f: &Figures| -> BTreeSet<String> {
        let rows = f.rows.iter();
        rows.map(|r| format!("{}-{}", r.workload, r.mode)).collect()
    };
    names(a).difference(&names(b)).cloned().collect()
}

/// Facts in which the matrices differ.
fn differences(a: &Matrix, b: &Matrix) -> Vec<String> {
    Matrix::new(
        String::new(),
        a.cells.iter().chain(&b.cells).cloned().collect(),
    )
    .differences()
}

/// Change of one figure from A to B, both phases together, real tables.
pub fn chart(pairs: &[Pair], of: Of, source: &str) -> Chart {
    let mut groups: Vec<Group> = Vec::new();
    for p in pairs {
        if p.of != of || p.phase != super::metrics::ALL || p.organisation != "real" {
            continue;
        }
        let bar = Bar {
            label: p.mode.to_string(),
            parts: p
                .ratio
                .map(|r| Part {
                    value: (r - 1.0) * 100.0,
                    colour: (0x2f, 0x6d, 0xb5),
                })
                .into_iter()
                .collect(),
            range: None,
            text: p.ratio.map_or("no figure".into(), percent),
            hatched: false,
        };
        match groups.iter_mut().find(|g| g.label == p.workload) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group {
                label: p.workload.clone(),
                bars: vec![bar],
            }),
        }
    }
    Chart {
        title: format!("{}: B against A", of.title()),
        note: "Load and run together, real tables.".into(),
        unit: "change from A to B, per cent".into(),
        groups,
        keys: vec![Key {
            label: "B against A".into(),
            colour: (0x2f, 0x6d, 0xb5),
            hatched: false,
        }],
        mark: None,
        source: source.into(),
    }
}

pub fn grid(pairs: &[Pair], of: Of) -> Grid {
    Grid {
        head: [
            "workload",
            "phase",
            "mode",
            "organisation",
            "preset",
            "A",
            "B",
            "B against A",
        ]
        .map(String::from)
        .to_vec(),
        rows: pairs
            .iter()
            .filter(|p| p.of == of)
            .map(|p| {
                vec![
                    p.workload.clone(),
                    p.phase.clone(),
                    p.mode.to_string(),
                    p.organisation.clone(),
                    p.preset.clone(),
                    p.a.map_or("-".into(), number),
                    p.b.map_or("-".into(), number),
                    p.ratio.map_or("-".into(), percent),
                ]
            })
            .collect(),
    }
}

/// The page of the matrices of these names; `drawn` holds the pictures of some figures. The last part is the command and the date.
pub fn page(
    (a, b): (&str, &str),
    unlike: &Unlike,
    pairs: &[Pair],
    drawn: &[(Of, html::Drawn)],
    (command, date): (&str, &str),
) -> String {
    let title = format!("Two matrices: {a} (A) and {b} (B)");
    let mut body = format!(
        "<h1>{}</h1>\n<p>Written {} by <code>{}</code>.</p>\n",
        esc(&title),
        esc(&readable(date)),
        esc(command)
    );
    let list = |head: &str, lines: &[String]| match lines {
        [] => String::new(),
        lines => format!(
            "<div class=\"note\"><b>{head}</b> {}</div>\n",
            esc(&lines.join("; "))
        ),
    };
    body.push_str(&list("They differ in:", &unlike.facts));
    body.push_str(&list("Only A has figures of:", &unlike.only_a));
    body.push_str(&list("Only B has figures of:", &unlike.only_b));
    for of in Of::ALL {
        // A heading with nothing below it says nothing.
        if !pairs.iter().any(|p| p.of == of && p.ratio.is_some()) {
            continue;
        }
        body.push_str(&format!("<h2>{}</h2>\n", esc(of.title())));
        for (_, d) in drawn.iter().filter(|(o, _)| *o == of) {
            body.push_str(&html::pictures(d, of.title()));
        }
        body.push_str("<details><summary>The numbers</summary>\n");
        body.push_str(&table(&grid(pairs, of), &[0, 1, 2, 3, 4]));
        body.push_str("</details>\n");
    }
    html::document(&title, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{tests::matrix, Table};

    #[test]
    fn known_differences() {
        let (a, mut b) = (matrix(), matrix());
        b.cells.retain(|c| c.name() != "gups-radix");
        for cell in &mut b.cells {
            cell.provenance.kernel_hash = "new".into();
            for phase in &mut cell.walksim.as_mut().unwrap().phases {
                phase.instructions.kernel = phase.instructions.kernel * 11 / 10;
            }
        }
        let (ta, tb) = (Table::new(&a), Table::new(&b));
        let pairs = pairs(&ta, &tb);
        let kernel = pairs
            .iter()
            .find(|p| p.of == Of::KernelInstructions && p.workload == "bfs" && p.phase == "all")
            .unwrap();
        assert!((kernel.ratio.unwrap() - 1.1).abs() < 1e-6);
        assert!(pairs
            .iter()
            .filter(|p| p.of == Of::WalkLatency)
            .all(|p| p.ratio.is_none_or(|r| r == 1.0)));
        assert_eq!(only(&ta, &tb), ["gups-radix"]);
        assert_eq!(only(&tb, &ta), [""; 0]);
        assert_eq!(differences(&a, &b), ["kernel: , new"]);
        assert_eq!(chart(&pairs, Of::Cycles, "").groups.len(), 3);
    }
}
