// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the cycles go.

use super::figure::Figure;
use super::metrics::{Row, Table};
use super::stacked::{Stack, Stacked};
use super::svg::Colour;
use super::text::number;
use fpt_geometry::Boot;

const PARTS: [(&str, Colour); 4] = [
    ("instructions", (0xb0, 0xb0, 0xb0)),
    ("TLB hits", (0xe0, 0xb0, 0x4a)),
    ("data", (0x2f, 0x6d, 0xb5)),
    ("walks", (0xc4, 0x3c, 0x39)),
];

/// Cycles of each part, in the order of [`PARTS`].
pub fn parts(row: &Row) -> [f64; 4] {
    [
        row.cycles_instruction,
        row.cycles_tlb,
        row.cycles_data,
        row.cycles_walk,
    ]
}

/// The figure, and as its table the parts of each row's own cycles.
pub fn figure(table: &Table, source: &str) -> Figure {
    let figure = Stacked {
        id: "cycles-split",
        title: "Where the cycles go",
        text: "Cycles of the model by what they are for, as parts of radix's cycles in the phase. \"TLB hits\" is the cycle that this model \
            charges for each access, a hit of the first-level TLB included, as the published one does: no machine waits for it, and it is \
            in the denominator of every figure of IPC and of end-to-end cycles. The sensitivity table says what they are without it.",
        unit: "per cent of radix's cycles",
        layers: PARTS,
        mark: Some(100.0),
        head: ["cycles"].into_iter().chain(PARTS.map(|p| p.0)).collect(),
    };
    let bar = |workload: &str, phase: &str, mode| {
        let base = table
            .real(workload, Boot::RADIX, phase)
            .map(|r| r.cycles)
            .filter(|b| *b > 0.0);
        let row = table.real(workload, mode, phase);
        let of = |v: f64| base.map_or(0.0, |b| v * 100.0 / b);
        Stack {
            layers: row.map(|row| parts(row).map(of)),
            range: None,
            text: row.map_or("no figure".into(), |r| {
                format!("{:.0} % walks", r.cycles_walk * 100.0 / r.cycles.max(1.0))
            }),
        }
    };
    figure.draw(table, source, bar, |row| {
        let mut cells = vec![number(row.cycles)];
        cells.extend(parts(row).map(|v| match row.cycles {
            all if all > 0.0 => format!("{:.1} %", v * 100.0 / all),
            _ => "-".into(),
        }));
        cells
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{tests::matrix, ALL};
    use fpt_geometry::Mode;

    #[test]
    fn parts_are_the_whole() {
        let matrix = matrix();
        let table = Table::new(&matrix);
        let row = table.real("gups", Mode::L3L2, ALL).unwrap();
        let sum: f64 = parts(row).iter().sum();
        assert!((sum / row.cycles - 1.0).abs() < 1e-9);
        let figure = figure(&table, "made up");
        assert_eq!(figure.charts.len(), 3);
        let bar = &figure.charts[0].1.groups[0].bars[0];
        let all: f64 = bar.parts.iter().map(|p| p.value).sum();
        assert!((all - 100.0).abs() < 1e-6);
        // 60 of 1000 cycles.
        assert_eq!(bar.text, "6 % walks");
        assert_eq!(figure.table.rows.len(), 3 * 3 * 3);
        assert_eq!(figure.table.rows[0][7], "6.0 %");
    }
}
