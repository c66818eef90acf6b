// SPDX-License-Identifier: MIT OR Apache-2.0
//! Organisations that the guest has not.

use fpt_geometry::Boot;

use super::metrics::Table;
use super::svg::Colour;

/// Of organisations that the guest has not, in their order.
pub(crate) const COMPUTED_COLOURS: [Colour; 5] = [
    (0xb0, 0x7a, 0xc0),
    (0x8c, 0x8c, 0x3a),
    (0xc9, 0x6f, 0x8f),
    (0x4f, 0x9a, 0x94),
    (0x8a, 0x6a, 0x52),
];

/// Organisations that the guest has not, computed on radix's accesses: all that walk, but for radix itself, which the
/// guest has.
pub(crate) struct Computed {
    pub(crate) names: Vec<String>,
}

impl Computed {
    pub(crate) fn of(table: &Table) -> Computed {
        let mut names = Vec::new();
        for row in &table.rows {
            let shown = row.mode == Boot::RADIX && row.kind == "counterfactual" && row.walks > 0;
            let new = shown && row.organisation != Boot::RADIX.name();
            if new && !names.contains(&row.organisation) {
                names.push(row.organisation.clone());
            }
        }
        Computed { names }
    }

    pub(crate) fn none() -> Computed {
        Computed { names: Vec::new() }
    }

    /// Each with its colour.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Colour)> {
        let colours = COMPUTED_COLOURS.into_iter().cycle();
        self.names.iter().map(String::as_str).zip(colours)
    }
}
