// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures whose bars are stacks: one for each mode, per workload and phase.

use fpt_geometry::Boot;

use super::draw::{Bar, Chart, Key, Part};
use super::figure::{per_workload, sentence, Figure, PHASES};
use super::metrics::{Range, Row, Table};
use super::svg::Colour;
use super::text::Grid;

/// What all bars of a figure share. `N` is the number of layers.
pub struct Stacked<const N: usize> {
    /// Names files and anchors.
    pub id: &'static str,
    /// The title above the figure.
    pub title: &'static str,
    /// What it shows, how to read it.
    pub text: &'static str,
    /// The unit of the axis.
    pub unit: &'static str,
    /// Names and colours of the layers, from the axis on.
    pub layers: [(&'static str, Colour); N],
    /// Where a line goes across all bars.
    pub mark: Option<f64>,
    /// Columns of the table after workload, phase and mode.
    pub head: Vec<&'static str>,
}

/// One bar.
pub struct Stack<const N: usize> {
    /// How high the layers are; none where there is no figure.
    pub layers: Option<[f64; N]>,
    /// Where the whole may lie.
    pub range: Range,
    /// The number beside the bar.
    pub text: String,
}

impl<const N: usize> Stacked<N> {
    /// The figure, its bars by workload, phase and mode, and the cells below `head` by row.
    pub fn draw(
        self,
        table: &Table,
        source: &str,
        bar: impl Fn(&str, &str, Boot) -> Stack<N>,
        cells: impl Fn(&Row) -> Vec<String>,
    ) -> Figure {
        let modes = table.matrix.modes();
        let stack = |workload: &str, phase: &str, mode: Boot| {
            let stack = bar(workload, phase, mode);
            let part = |(value, (_, colour))| Part { value, colour };
            let parts = (stack.layers.into_iter()).flat_map(|l| l.into_iter().zip(self.layers));
            Bar {
                label: mode.to_string(),
                range: stack.range,
                parts: parts.map(part).collect(),
                text: stack.text,
                hatched: false,
            }
        };
        let key = |(label, colour): (&str, Colour)| Key {
            label: label.into(),
            colour,
            hatched: false,
        };
        let chart = |phase: &'static str| Chart {
            title: self.title.into(),
            note: format!("{}. {}", sentence(phase), self.text),
            unit: self.unit.into(),
            groups: per_workload(table, |w| {
                modes.iter().map(|mode| stack(w, phase, *mode)).collect()
            }),
            keys: self.layers.into_iter().map(key).collect(),
            mark: self.mark,
            source: source.into(),
        };
        let mut rows = Vec::new();
        for workload in table.matrix.workloads() {
            for (phase, _) in PHASES {
                for row in modes.iter().filter_map(|m| table.real(workload, *m, phase)) {
                    let mut line = vec![workload.into(), phase.into(), row.mode.to_string()];
                    line.extend(cells(row));
                    rows.push(line);
                }
            }
        }
        let head = ["workload", "phase", "mode"].into_iter().chain(self.head);
        Figure {
            id: self.id,
            title: self.title,
            text: self.text,
            charts: PHASES.map(|(phase, _)| (phase, chart(phase))).into(),
            table: Grid {
                head: head.map(String::from).collect(),
                rows,
            },
        }
    }
}
