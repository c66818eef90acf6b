// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sweep's picture: change of walk latency over footprint, a panel for each stream.

use fpt_geometry::{Level, Mode};
use fpt_walksim_machine::config::Pwc;
use fpt_walksim_machine::run::Pattern;

use super::{size, Point};
use crate::figure::colour;
use crate::lines::{Lines, Mark, Panel, Series};
use crate::metrics::{Of, ALL};
use crate::published::PUBLISHED;
use crate::svg::Colour;

/// The width of the picture, in pixels.
pub const WIDE: i32 = 1000;
const ECPT: Colour = (0xb0, 0x7a, 0xc0);
const MIB: u64 = 1 << 20;

/// `points` are of one machine.
pub fn chart(preset: &str, points: &[&Point], pwc: Option<&Pwc>) -> Lines {
    let mut ticks: Vec<u64> = points.iter().map(|p| p.footprint_mib).collect();
    ticks.sort_unstable();
    ticks.dedup();
    // Every second power of two, that their names do not touch.
    let named =
        |mib: &u64| mib.is_power_of_two() && mib.trailing_zeros() % 2 == 0 || ticks.len() < 4;
    Lines {
        title: format!("Walk latency against radix over footprint, machine '{preset}'"),
        note: "Model alone, computed tables, synthetic streams. Below 0: shorter walks. Grey across: published means (EMT, all workloads). \
               Grey upright: what the page-walk caches reach."
            .into(),
        panels: Pattern::ALL
            .into_iter()
            .map(|pattern| panel(pattern, points))
            .filter(|p| !p.series.is_empty())
            .collect(),
        x_ticks: (ticks.iter().filter(|m| named(m)))
            .map(|m| ((*m as f64).log2(), size(*m)))
            .collect(),
        across: published(),
        upright: pwc.map_or(Vec::new(), reaches),
        unit: "change in %".into(),
    }
}

fn panel(pattern: Pattern, points: &[&Point]) -> Panel {
    let line = |tables: &str, label: &str, colour, dashed, of: fn(&Point) -> Option<f64>| {
        let points: Vec<(f64, f64)> = (points.iter())
            .filter(|p| p.pattern == pattern.name() && p.tables == tables)
            .filter_map(|p| Some(((p.footprint_mib as f64).log2(), of(p)? * 100.0)))
            .collect();
        (!points.is_empty()).then(|| Series {
            label: label.to_owned(),
            colour,
            dashed,
            points,
        })
    };
    let modes = (Mode::ALL.into_iter())
        .filter(|m| *m != Mode::Radix)
        .filter_map(|m| {
            line(
                &m.to_string(),
                &m.to_string(),
                colour(m.into()),
                false,
                |p| p.change,
            )
        });
    let ecpt = [
        line("ecpt", "ecpt, wrong probes charged", ECPT, false, |p| {
            p.change
        }),
        line("ecpt", "ecpt, wrong probes for nothing", ECPT, true, |p| {
            p.change_low
        }),
    ];
    Panel {
        title: pattern.name().to_owned(),
        series: modes.chain(ecpt.into_iter().flatten()).collect(),
    }
}

/// Published means of walk latency, of both phases.
fn published() -> Vec<Mark> {
    (PUBLISHED.iter())
        .filter(|p| p.of == Of::WalkLatency && p.phase == ALL && p.low == p.high)
        .map(|p| Mark {
            at: (p.low - 1.0) * 100.0,
            label: p.mode.to_string(),
        })
        .collect()
}

/// The footprint that a level's cached entries cover.
fn reaches(pwc: &Pwc) -> Vec<Mark> {
    let (l2, l3) = match pwc.unified.entries {
        0 => (pwc.l2.entries, pwc.l3.entries),
        n => (n, n),
    };
    [(Level::L2, l2, "PD"), (Level::L3, l3, "PDPT")]
        .into_iter()
        .filter(|(_, n, _)| *n > 0)
        .map(|(level, n, name)| {
            let mib = u64::from(n) * level.span_bytes() / MIB;
            Mark {
                at: (mib as f64).log2(),
                label: format!("{n} {name} entries"),
            }
        })
        .collect()
}
