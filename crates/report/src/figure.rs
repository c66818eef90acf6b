// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one figure is made of.

use fpt_geometry::{Boot, Mode};

use super::draw::{Bar, Chart, Group};
use super::metrics::Table;
use super::row::ALL;
use super::svg::Colour;
use super::text::Grid;

/// One figure, drawn for one or several phases.
pub struct Figure {
    /// Names files and anchors.
    pub id: &'static str,
    /// The title above the figure.
    pub title: &'static str,
    /// What it shows, how to read it.
    pub text: &'static str,
    /// Phase and chart; the first is the one to look at.
    pub charts: Vec<(&'static str, Chart)>,
    /// The same as numbers.
    pub table: Grid,
}

/// Names of phases in files, and as people read them.
pub const PHASES: [(&str, &str); 3] = [
    (ALL, "load and run together"),
    ("load", "load phase"),
    ("run", "run phase"),
];

/// The colour of a mode in every figure.
pub fn colour(mode: Boot) -> Colour {
    match mode {
        Boot::Mode(Mode::Radix) => (0x8c, 0x8c, 0x8c),
        Boot::Mode(Mode::L4L3) => (0x7f, 0xb8, 0xda),
        Boot::Mode(Mode::L3L2) => (0x2f, 0x6d, 0xb5),
        Boot::Mode(Mode::L4L3L2L1) => (0x1b, 0x8a, 0x5a),
        Boot::Mixed => (0xd9, 0x82, 0x2b),
    }
}

/// One group of bars for each workload of the matrix.
pub fn per_workload(table: &Table, bars: impl Fn(&str) -> Vec<Bar>) -> Vec<Group> {
    table
        .matrix
        .workloads()
        .iter()
        .map(|w| Group {
            label: w.to_string(),
            bars: bars(w),
        })
        .collect()
}

fn phase_title(phase: &str) -> &'static str {
    PHASES.iter().find(|p| p.0 == phase).map_or("", |p| p.1)
}

/// The phase as the beginning of a sentence.
pub fn sentence(phase: &str) -> String {
    let text = phase_title(phase);
    let mut chars = text.chars();
    chars
        .next()
        .map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}
