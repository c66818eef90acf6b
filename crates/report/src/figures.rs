// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures: what each shows, from the rows of a matrix.

use fpt_geometry::Boot;

use super::computed::Computed;
use super::draw::{Bar, Chart, Key, Part};
use super::figure::{colour, per_workload, sentence, Figure, PHASES};
use super::metrics::{Of, Range, Row, Table, ALL, CATEGORIES};
use super::split;
use super::stacked::{Stack, Stacked};
use super::svg::Colour;
use super::text::{number, percent, percent_in, Grid};

const CATEGORY_COLOURS: [(&str, Colour); 6] = {
    let [fault, call, timer, interrupt, thread, other] = CATEGORIES;
    [
        (fault, (0x3a, 0x8f, 0x4d)),
        (call, (0xc4, 0x3c, 0x39)),
        (timer, (0x2f, 0x6d, 0xb5)),
        (interrupt, (0x4d, 0xb5, 0xc9)),
        (thread, (0xe0, 0x8a, 0x2e)),
        (other, (0xb0, 0xb0, 0xb0)),
    ]
};
const CACHE_COLOURS: [(&str, Colour); 3] = [
    ("L2", (0x2f, 0x6d, 0xb5)),
    ("LLC", (0xe0, 0xb0, 0x4a)),
    ("memory", (0xc4, 0x3c, 0x39)),
];

fn or_dash<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

fn keys_of_modes(table: &Table, computed: &Computed, but_radix: bool) -> Vec<Key> {
    let mut keys: Vec<Key> = table
        .matrix
        .modes()
        .into_iter()
        .filter(|m| !(but_radix && *m == Boot::RADIX))
        .map(|m| Key {
            label: format!("{m} (real)"),
            colour: colour(m),
            hatched: false,
        })
        .collect();
    keys.extend(computed.all().map(|(name, colour)| Key {
        label: format!("{name} (counterfactual, on radix's accesses)"),
        colour,
        hatched: true,
    }));
    keys
}

/// What a bar shows.
struct Value {
    value: f64,
    range: Range,
    text: String,
}

/// Bars of one workload: each mode's real walk, then the counterfactual ones of radix's cell.
fn bars(
    table: &Table,
    workload: &str,
    phase: &str,
    computed: &Computed,
    but_radix: bool,
    of: impl Fn(&Row) -> Option<Value>,
) -> Vec<Bar> {
    let bar = |label: &str, row: Option<&Row>, colour, hatched| {
        let value = row.and_then(&of);
        Bar {
            label: label.into(),
            text: value
                .as_ref()
                .map_or_else(|| "no figure".into(), |v| v.text.clone()),
            range: value.as_ref().and_then(|v| v.range),
            parts: value
                .map(|Value { value, .. }| Part { value, colour })
                .into_iter()
                .collect(),
            hatched,
        }
    };
    let mut out = Vec::new();
    for mode in table.matrix.modes() {
        if but_radix && mode == Boot::RADIX {
            continue;
        }
        out.push(bar(
            mode.name(),
            table.real(workload, mode, phase),
            colour(mode),
            false,
        ));
    }
    for (name, colour) in computed.all() {
        let row = table.row(workload, Boot::RADIX, phase, name);
        if row.is_some() {
            out.push(bar(name, row, colour, true));
        }
    }
    out
}

/// Columns: each mode, and what it is against radix; one line per workload and phase.
fn grid(table: &Table, of: Of, computed: &Computed) -> Grid {
    let modes = table.matrix.modes();
    let mut head = vec!["workload".to_string(), "phase".to_string()];
    for mode in modes.iter().copied() {
        head.push(mode.to_string());
        if mode != Boot::RADIX {
            head.push("against radix".into());
        }
    }
    head.extend(computed.names.iter().map(|name| format!("{name}*")));
    let mut rows = Vec::new();
    for workload in table.matrix.workloads() {
        for (phase, _) in PHASES {
            let mut row = vec![workload.to_string(), phase.to_string()];
            for mode in modes.iter().copied() {
                let value = table.real(workload, mode, phase).and_then(|r| of.of(r));
                row.push(or_dash(value, number));
                if mode != Boot::RADIX {
                    let ratio = table.ratio(workload, mode, phase, of);
                    let range = table.range(workload, mode, phase, of);
                    row.push(or_dash(ratio, |r| percent_in(r, range)));
                }
            }
            for name in &computed.names {
                let value = table
                    .row(workload, Boot::RADIX, phase, name)
                    .and_then(|r| of.of(r));
                row.push(or_dash(value, number));
            }
            rows.push(row);
        }
    }
    let all = table.matrix.workloads();
    for (phase, _) in PHASES {
        let mut row = vec!["geometric mean".to_string(), phase.to_string()];
        for mode in modes.iter().copied() {
            row.push(String::new());
            if mode != Boot::RADIX {
                let range = table.mean_range(&all, mode, phase, of);
                row.push(or_dash(table.mean(&all, mode, phase, of), |(m, _)| {
                    percent_in(m, range)
                }));
            }
        }
        row.extend(computed.names.iter().map(|_| String::new()));
        rows.push(row);
    }
    Grid { head, rows }
}

/// A figure of plain values, with the change against radix beside each.
fn values(
    table: &Table,
    source: &str,
    (id, title, text, unit): (&'static str, &'static str, &'static str, &str),
    of: Of,
    computed: &Computed,
) -> Figure {
    let charts = PHASES
        .iter()
        .map(|(phase, _)| {
            let groups = per_workload(table, |w| {
                let base = table.real(w, Boot::RADIX, phase).and_then(|r| of.of(r));
                bars(table, w, phase, computed, false, |row| {
                    let value = of.of(row)?;
                    let change = base
                        .filter(|b| {
                            *b > 0.0 && (row.mode != Boot::RADIX || row.organisation != "real")
                        })
                        .map(|b| format!(" ({})", percent(value / b)))
                        .unwrap_or_default();
                    Some(Value {
                        value,
                        range: table.range_of(row, of),
                        text: format!("{}{change}", number(value)),
                    })
                })
            });
            let chart = Chart {
                title: title.into(),
                note: format!("{}. {text}", sentence(phase)),
                unit: unit.into(),
                groups,
                keys: keys_of_modes(table, computed, false),
                mark: None,
                source: source.into(),
            };
            (*phase, chart)
        })
        .collect();
    Figure {
        id,
        title,
        text,
        charts,
        table: grid(table, of, computed),
    }
}

/// A figure of changes against radix, in per cent.
fn changes(
    table: &Table,
    source: &str,
    (id, title, text): (&'static str, &'static str, &'static str),
    of: Of,
    computed: &Computed,
) -> Figure {
    let charts = PHASES
        .iter()
        .map(|(phase, _)| {
            let groups = per_workload(table, |w| {
                let base = table.real(w, Boot::RADIX, phase).and_then(|r| of.of(r));
                bars(table, w, phase, computed, true, |row| {
                    let base = base.filter(|b| *b > 0.0)?;
                    let ratio = of.of(row)? / base;
                    let change = |ratio: f64| (ratio - 1.0) * 100.0;
                    // The ratios of single runs are those of real tables.
                    let range = match row.organisation.as_str() {
                        "real" => table.range(w, row.mode, phase, of),
                        _ => None,
                    };
                    Some(Value {
                        value: change(ratio),
                        range: range.map(|(low, high)| (change(low), change(high))),
                        text: percent(ratio),
                    })
                })
            });
            let chart = Chart {
                title: title.into(),
                note: format!("{}. {text}", sentence(phase)),
                unit: "change against radix, per cent".into(),
                groups,
                keys: keys_of_modes(table, computed, true),
                mark: None,
                source: source.into(),
            };
            (*phase, chart)
        })
        .collect();
    Figure {
        id,
        title,
        text,
        charts,
        table: grid(table, of, computed),
    }
}

fn distribution(table: &Table, source: &str) -> Figure {
    let of = Of::KernelInstructions;
    let figure = Stacked {
        id: "figure3-kernel-instructions",
        title: "Figure 3: distribution of kernel instructions",
        text: "Kernel instructions by the entry that led into the kernel, as parts of radix's total. \
            Every instruction is counted; all are real, the same kernel image ran in each mode. Fewer is better. \
            Radix here is radix of that image, which may take fewer instructions than an unpatched kernel.",
        unit: "radix = 1",
        layers: CATEGORY_COLOURS,
        mark: Some(1.0),
        head: (["kernel", "against radix"].into_iter())
            .chain(CATEGORIES)
            .chain(["strings once", "user"])
            .collect(),
    };
    let bar = |workload: &str, phase: &str, mode| {
        let whole = |r: &Row| r.instructions_kernel as f64;
        let base = table.real(workload, Boot::RADIX, phase).map(whole);
        let row = table.real(workload, mode, phase);
        let found = row.zip(base.filter(|b| *b > 0.0));
        Stack {
            layers: found.map(|(row, base)| row.categories().map(|n| n as f64 / base)),
            range: table.range(workload, mode, phase, of),
            text: match (found, mode) {
                (None, _) => "no figure".into(),
                (Some((row, _)), Boot::RADIX) => number(whole(row)),
                (Some((row, base)), _) => percent(whole(row) / base),
            },
        }
    };
    figure.draw(table, source, bar, |row| {
        let ratio = table.ratio(&row.workload, row.mode, &row.phase, of);
        let range = table.range(&row.workload, row.mode, &row.phase, of);
        let ratio = ratio.filter(|_| row.mode != Boot::RADIX);
        let mut cells = vec![
            row.instructions_kernel.to_string(),
            or_dash(ratio, |r| percent_in(r, range)),
        ];
        cells.extend(row.categories().iter().map(u64::to_string));
        cells.push(row.instructions_kernel_strings_once.to_string());
        cells.push(row.instructions_user.to_string());
        cells
    })
}

fn hit_levels(table: &Table, source: &str) -> Figure {
    let parts = |row: &Row| {
        [
            row.entry_reads_l2,
            row.entry_reads_llc,
            row.entry_reads_memory,
        ]
        .map(|n| n as f64 * 100.0 / row.entry_reads as f64)
    };
    let figure = Stacked {
        id: "entry-reads",
        title: "Hit level of entry reads",
        text: "Where the reads of page-table entries found their line, as parts of each mode's own reads; \
            the number is the entry reads per walk. Reads start at L2.",
        unit: "per cent of the mode's entry reads",
        layers: CACHE_COLOURS,
        mark: None,
        head: vec!["walks", "entry reads", "L2", "LLC", "memory"],
    };
    let bar = |workload: &str, phase: &str, mode| {
        let found = table.real(workload, mode, phase);
        let row = found.filter(|r| r.entry_reads > 0);
        Stack {
            layers: row.map(parts),
            range: None,
            text: row.and_then(|r| r.accesses_per_walk).map_or_else(
                || found.map_or("no figure", |_| "no walks").into(),
                |a| format!("{} per walk", number(a)),
            ),
        }
    };
    figure.draw(table, source, bar, |row| {
        let mut cells = vec![row.walks.to_string(), row.entry_reads.to_string()];
        cells.extend(parts(row).map(|part| match row.entry_reads {
            0 => "-".into(),
            _ => format!("{part:.1} %"),
        }));
        cells
    })
}

/// `None` if no program said how big its tables were.
fn page_tables(table: &Table, source: &str) -> Option<Figure> {
    const TEXT: &str =
        "Page tables of all processes of the guest, the first one included, at the end of the run phase. \
        Flattened nodes are 2 MiB each, whatever part of them is used: this is the price in memory.";
    let kb = |w: &str, m: Boot| table.real(w, m, ALL)?.page_table_kb;
    let modes = table.matrix.modes();
    let workloads = table.matrix.workloads();
    if !workloads
        .iter()
        .any(|w| modes.iter().any(|m| kb(w, *m).is_some()))
    {
        return None;
    }
    let groups = per_workload(table, |w| {
        modes
            .iter()
            .copied()
            .map(|mode| {
                let value = kb(w, mode);
                Bar {
                    label: mode.to_string(),
                    range: None,
                    parts: value
                        .map(|v| Part {
                            value: v as f64 / 1024.0,
                            colour: colour(mode),
                        })
                        .into_iter()
                        .collect(),
                    text: or_dash(value, |v| format!("{:.2} MiB", v as f64 / 1024.0)),
                    hatched: false,
                }
            })
            .collect()
    });
    let chart = Chart {
        title: "Page-table bytes".into(),
        note: TEXT.into(),
        unit: "MiB".into(),
        groups,
        keys: keys_of_modes(table, &Computed::none(), false),
        mark: None,
        source: source.into(),
    };
    let mut head = vec!["workload".to_string()];
    head.extend(modes.iter().map(|m| format!("{m}, KiB")));
    let rows = workloads
        .iter()
        .map(|w| {
            let mut row = vec![w.to_string()];
            row.extend(modes.iter().map(|m| or_dash(kb(w, *m), |v| v.to_string())));
            row
        })
        .collect();
    Some(Figure {
        id: "page-table-bytes",
        title: "Page-table bytes",
        text: TEXT,
        charts: vec![(ALL, chart)],
        table: Grid { head, rows },
    })
}

/// Every figure of a matrix. `source` goes into each.
pub fn all(table: &Table, source: &str) -> Vec<Figure> {
    let computed = &Computed::of(table);
    let mut out = vec![
        split::figure(table, source),
        distribution(table, source),
        values(
            table,
            source,
            (
                "figure4-walk-latency",
                "Figure 4: page-walk latency",
                "Cycles of page walks, divided by walks. Lower is better.",
                "cycles per walk",
            ),
            Of::WalkLatency,
            computed,
        ),
        changes(
            table,
            source,
            (
                "figure5-ipc",
                "Figure 5: IPC against radix",
                "Instructions (user and kernel) per cycle. Higher is better. \
                 What is counterfactual has radix's kernel instructions; its own would be others.",
            ),
            Of::Ipc,
            computed,
        ),
        changes(
            table,
            source,
            (
                "figure6-end-to-end",
                "Figure 6: cycles, end to end",
                "All cycles of the phase: the kernel's work and the walks together. Lower is better. \
                 What is counterfactual has radix's kernel instructions; its own would be others.",
            ),
            Of::Cycles,
            computed,
        ),
        values(
            table,
            source,
            (
                "accesses-per-walk",
                "Accesses per walk",
                "Page-table entries read per walk, after the page-walk caches. Lower is better.",
                "entry reads per walk",
            ),
            Of::AccessesPerWalk,
            computed,
        ),
        hit_levels(table, source),
        values(
            table,
            source,
            (
                "tlb-mpki",
                "TLB misses",
                "Page walks (misses of the second-level TLB) per 1000 instructions. The tables' shape does not change \
                 what a TLB holds, so modes should be close to each other.",
                "walks per 1000 instructions",
            ),
            Of::TlbMpki,
            &Computed::none(),
        ),
    ];
    out.extend(page_tables(table, source));
    out
}

#[cfg(test)]
mod tests {
    use super::super::computed::COMPUTED_COLOURS;
    use super::*;
    use crate::metrics::tests::matrix;

    #[test]
    fn numbers_are_readable() {
        for (ratio, text) in [
            (0.9875, "-1.2 %"),
            (1.0, "0 %"),
            (1.0312, "+3.1 %"),
            (0.9964, "-0.36 %"),
            (3.5, "+250 %"),
        ] {
            assert_eq!(percent(ratio), text);
        }
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.500"),
            (61.4, "61.40"),
            (177.0, "177"),
            (118.5e6, "118.500 M"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_may_be_chance_is_no_change() {
        assert_eq!(
            percent_in(0.95, Some((0.94, 0.96))),
            "-5.0 % (-6.0 to -4.0)"
        );
        assert_eq!(
            percent_in(0.99, Some((0.97, 1.01))),
            "no change shown (-3.0 to +1.0)"
        );
        assert_eq!(percent_in(0.99, None), "-1.0 %");
        // Runs that agree to the last digit.
        assert_eq!(percent_in(1.0, Some((1.0, 1.0))), "0 % (0 to 0)");
    }

    #[test]
    fn figures_hold_the_known_answers() {
        let matrix = matrix();
        let table = Table::new(&matrix);
        let figures = all(&table, "made up");
        let ids: Vec<&str> = figures.iter().map(|f| f.id).collect();
        assert_eq!((ids.len(), ids[0]), (9, "cycles-split"));
        let three = &figures[1].charts[0].1;
        let l3l2 = &three.groups[0].bars[1];
        assert_eq!(
            (l3l2.label.as_str(), l3l2.text.as_str()),
            ("l3l2", "-2.0 %")
        );
        let sum: f64 = l3l2.parts.iter().map(|p| p.value).sum();
        assert!((sum - 0.98).abs() < 1e-9);
        let four = &figures[2].charts[0].1.groups[0].bars;
        assert_eq!(four[0].text, "60.00");
        assert_eq!(four[2].text, "51.00 (-15.0 %)");
        let ecpt = four.last().unwrap();
        assert!(ecpt.hatched && ecpt.text == "48.00 (-20.0 %)", "{ecpt:?}");
        let six = &figures[4].charts[0].1.groups[0].bars;
        assert_eq!(six[1].text, "-0.90 %");
        assert!((six[1].parts[0].value + 0.9).abs() < 1e-9);
        let grid = &figures[2].table;
        assert!(grid.rows.iter().all(|r| r.len() == grid.head.len()));
        assert_eq!(
            grid.rows[0][..6],
            ["bfs", "all", "60.00", "57.00", "-5.0 %", "51.00"].map(String::from)
        );
        for figure in &figures {
            assert!(
                figure
                    .table
                    .rows
                    .iter()
                    .all(|r| r.len() == figure.table.head.len()),
                "{}",
                figure.id
            );
        }
    }

    #[test]
    fn mixed_has_a_bar_and_a_column_in_every_figure() {
        let matrix = crate::metrics::tests::with_mixed();
        let figures = all(&Table::new(&matrix), "made up");
        for figure in &figures {
            let bars = &figure.charts[0].1.groups[0].bars;
            let bar = bars.iter().find(|b| b.label == "mixed");
            assert!(bar.is_some_and(|b| !b.parts.is_empty()), "{}", figure.id);
            let grid = &figure.table;
            let head = grid.head.iter().any(|h| h.starts_with("mixed"));
            let lines = grid.rows.iter().any(|r| r.iter().any(|c| c == "mixed"));
            assert!(head != lines, "{}: {grid:?}", figure.id);
        }
        let mut colours = Boot::ALL.map(colour).to_vec();
        colours.extend(COMPUTED_COLOURS);
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), Boot::COUNT + COMPUTED_COLOURS.len());
    }

    #[test]
    fn every_counterfactual_organisation_is_shown() {
        let matrix = matrix();
        let mut table = Table::new(&matrix);
        let like = |name: &str, walks: u64| {
            let of_ecpt = |r: &&Row| r.organisation == "ecpt" && r.mode == Boot::RADIX;
            let rows = table.rows.iter().filter(of_ecpt);
            let named = rows.map(|r| Row {
                organisation: name.into(),
                walks: r.walks * walks,
                ..r.clone()
            });
            named.collect::<Vec<Row>>()
        };
        // One that does not walk has nothing to show, and radix is there as it is.
        let new = [like("probe", 1), like("nothing", 0), like("radix", 1)].concat();
        assert!(!new.is_empty());
        table.figures.rows.extend(new);
        let figures = all(&table, "made up");
        let of = |id: &str| figures.iter().find(|f| f.id == id).unwrap();
        for id in [
            "figure4-walk-latency",
            "figure5-ipc",
            "figure6-end-to-end",
            "accesses-per-walk",
        ] {
            let figure = of(id);
            for (_, chart) in &figure.charts {
                let hatched = chart.keys.iter().filter(|k| k.hatched);
                let colours: Vec<Colour> = hatched.map(|k| k.colour).collect();
                assert_eq!(colours, COMPUTED_COLOURS[..2], "{id}");
                for group in &chart.groups {
                    let labels: Vec<&str> = (group.bars.iter().filter(|b| b.hatched))
                        .map(|b| b.label.as_str())
                        .collect();
                    assert_eq!(labels, ["ecpt", "probe"], "{id}");
                }
            }
            let columns = figure.table.head.iter().filter(|h| h.ends_with('*'));
            assert_eq!(columns.collect::<Vec<_>>(), ["ecpt*", "probe*"], "{id}");
            let width = figure.table.head.len();
            assert!(figure.table.rows.iter().all(|r| r.len() == width), "{id}");
        }
        let keys = &of("tlb-mpki").charts[0].1.keys;
        assert!(keys.iter().all(|k| !k.hatched));
    }

    #[test]
    fn several_runs_show_their_range() {
        let matrix = crate::metrics::tests::repeated();
        let table = Table::new(&matrix);
        let figures = all(&table, "made up");
        let four = &figures[2].charts[0].1.groups[0].bars;
        let (low, high) = four[1].range.unwrap();
        // Mean 1.00333, deviation 0.015275: 4.303 / sqrt 3 of it on each side.
        let (mean, half) = (57.0 * 1.003_333, 57.0 * 0.037_948);
        assert!((low - (mean - half)).abs() < 0.01 && (high - (mean + half)).abs() < 0.01);
        assert_eq!(figures[2].table.rows[0][4], "-4.7 % (-8.3 to -1.1)");
        let six = &figures[4].charts[0].1.groups[0].bars[0];
        let (low, high) = six.range.unwrap();
        let value = six.parts[0].value;
        assert!(low < value && value < high, "{low} {value} {high}");
    }

    #[test]
    fn without_radix_there_are_values_and_no_ratios() {
        let mut matrix = matrix();
        matrix.cells.retain(|c| c.mode != Boot::RADIX);
        let table = Table::new(&matrix);
        let figures = all(&table, "");
        assert_eq!(figures[1].charts[0].1.groups[0].bars[0].text, "no figure");
        assert_eq!(figures[2].charts[0].1.groups[0].bars[0].text, "57.00");
    }
}
