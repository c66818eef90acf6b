// SPDX-License-Identifier: MIT OR Apache-2.0
//! Line charts in panels: values over a footprint.

use crate::draw;
use crate::svg::{bold, plain, wide, wrap, Anchor, Colour, Point, Stroke, Svg, GRID, INK, SOFT};

/// Points of one thing that is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name of the thing.
    pub label: String,
    /// Its colour.
    pub colour: Colour,
    /// Whether its line has gaps.
    pub dashed: bool,
    /// Pairs of x and y, in the order of x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    fn stroke(&self) -> Stroke {
        Stroke {
            colour: self.colour,
            dashed: self.dashed,
        }
    }
}

/// One of the plots of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The words above the plot.
    pub title: String,
    /// The lines in it.
    pub series: Vec<Series>,
}

/// A line across a whole panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where on the axis the line is.
    pub at: f64,
    /// The words beside the line.
    pub label: String,
}

/// A line chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    /// What the chart is about, in bold.
    pub title: String,
    /// What it shows and how to read it, below the title.
    pub note: String,
    /// The plots, in rows; all have the same axes.
    pub panels: Vec<Panel>,
    /// Where the axis has names.
    pub x_ticks: Vec<(f64, String)>,
    /// Lines at a value of y.
    pub across: Vec<Mark>,
    /// Lines at a value of x.
    pub upright: Vec<Mark>,
    /// What y is counted in.
    pub unit: String,
}

const MARK: Colour = (0x9a, 0x9a, 0x9a);
const EDGE: i32 = 12;
const PANEL: i32 = 300;
/// Left of a panel, for the numbers of the axis, and right of it.
const LEFT: i32 = 44;
const RIGHT: i32 = 18;
/// Above and below a panel's plot.
const TOP: i32 = 40;
const BOTTOM: i32 = 30;
/// From this width on two panels beside each other.
const TWO: i32 = 760;

struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    step: f64,
}

impl Scale {
    /// The same for all panels, so that they can be compared.
    fn new(chart: &Lines) -> Scale {
        let points = || {
            let series = chart.panels.iter().flat_map(|p| &p.series);
            series.flat_map(|s| &s.points).copied()
        };
        let low = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
        let high = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::NEG_INFINITY, f64::max);
        let marks = || chart.across.iter().map(|m| m.at);
        let least = marks().fold(low(|p| p.1).min(0.0), f64::min);
        let most = marks().fold(high(|p| p.1).max(0.0), f64::max);
        let step = draw::step(most - least, 6.0);
        let x = (low(|p| p.0), high(|p| p.0));
        Scale {
            // One footprint alone is a point in the middle.
            x: if x.0 < x.1 { x } else { (x.0 - 1.0, x.0 + 1.0) },
            y: ((least / step).floor() * step, (most / step).ceil() * step),
            step,
        }
    }
}

/// The chart as an SVG document of this width in pixels.
pub fn svg(chart: &Lines, width: i32) -> String {
    let inner = width - 2 * EDGE;
    let across = if inner >= TWO { 2 } else { 1 };
    let rows = (chart.panels.len() as i32 + across - 1) / across;
    let title = wrap(&chart.title, inner, 17);
    let note = wrap(&chart.note, inner, 12);
    let top = EDGE + title.len() as i32 * 20 + note.len() as i32 * 16 + 8;
    let keys = keys(chart, inner);
    let height = top + keys.len() as i32 * 18 + rows * PANEL + EDGE;
    let mut sheet = Svg::new(width, height);
    for (n, line) in title.iter().enumerate() {
        let y = EDGE + 8 + n as i32 * 20;
        sheet.text(line, (EDGE, y), bold(15, INK), Anchor::Start);
    }
    for (n, line) in note.iter().enumerate() {
        let y = EDGE + 8 + title.len() as i32 * 20 + n as i32 * 16;
        sheet.text(line, (EDGE, y), plain(12, SOFT), Anchor::Start);
    }
    for (row, some) in keys.iter().enumerate() {
        for (x, series) in some {
            let y = top + row as i32 * 18 + 5;
            sheet.line((*x, y), (x + 22, y), series.stroke());
            sheet.text(&series.label, (x + 28, y), plain(12, INK), Anchor::Start);
        }
    }
    let scale = Scale::new(chart);
    let wide = inner / across;
    for (n, panel) in chart.panels.iter().enumerate() {
        let n = n as i32;
        let at = (
            EDGE + (n % across) * wide,
            top + keys.len() as i32 * 18 + n / across * PANEL,
        );
        one(&mut sheet, chart, panel, &scale, (at, wide));
    }
    sheet.finish()
}

/// Rows of names of series, each name once.
fn keys(chart: &Lines, width: i32) -> Vec<Vec<(i32, &Series)>> {
    let mut rows: Vec<Vec<(i32, &Series)>> = vec![Vec::new()];
    let mut x = EDGE;
    let mut seen: Vec<&str> = Vec::new();
    for series in chart.panels.iter().flat_map(|p| &p.series) {
        if seen.contains(&series.label.as_str()) {
            continue;
        }
        seen.push(&series.label);
        let wide = 28 + wide(&series.label, 12) + 14;
        if x + wide > width && x > EDGE {
            rows.push(Vec::new());
            x = EDGE;
        }
        if let Some(row) = rows.last_mut() {
            row.push((x, series));
        }
        x += wide;
    }
    rows
}

/// The upper left corner of a panel and its width in pixels.
type Place = (Point, i32);

fn one(sheet: &mut Svg, chart: &Lines, panel: &Panel, scale: &Scale, ((left, top), wide): Place) {
    let (x0, x1) = (left + LEFT, left + wide - RIGHT);
    let (y0, y1) = (top + TOP, top + PANEL - BOTTOM);
    let part = |v: f64, (low, high): (f64, f64)| ((v - low) / (high - low)).clamp(0.0, 1.0);
    let x = |v: f64| x0 + (part(v, scale.x) * f64::from(x1 - x0)).round() as i32;
    let y = |v: f64| y1 - (part(v, scale.y) * f64::from(y1 - y0)).round() as i32;
    sheet.text(&panel.title, (x0, top + 8), bold(13, INK), Anchor::Start);
    sheet.text(&chart.unit, (x1, top + 8), plain(11, SOFT), Anchor::End);
    let count = ((scale.y.1 - scale.y.0) / scale.step).round() as i32;
    for n in 0..=count {
        let v = scale.y.0 + f64::from(n) * scale.step;
        sheet.line((x0, y(v)), (x1, y(v)), GRID);
        sheet.text(
            &draw::tick(v, scale.step),
            (x0 - 6, y(v)),
            plain(11, SOFT),
            Anchor::End,
        );
    }
    for (v, name) in &chart.x_ticks {
        sheet.line((x(*v), y1), (x(*v), y1 + 4), SOFT);
        sheet.text(name, (x(*v), y1 + 14), plain(11, SOFT), Anchor::Middle);
    }
    for mark in chart
        .upright
        .iter()
        .filter(|m| (scale.x.0..=scale.x.1).contains(&m.at))
    {
        sheet.line((x(mark.at), y0), (x(mark.at), y1), MARK);
        sheet.text(
            &mark.label,
            (x(mark.at), y0 - 8),
            plain(10, SOFT),
            Anchor::Middle,
        );
    }
    for mark in &chart.across {
        sheet.line((x0, y(mark.at)), (x1, y(mark.at)), MARK);
        sheet.text(
            &mark.label,
            (x1 - 2, y(mark.at) - 7),
            plain(10, SOFT),
            Anchor::End,
        );
    }
    sheet.line((x0, y(0.0)), (x1, y(0.0)), SOFT);
    for series in &panel.series {
        let points: Vec<Point> = series.points.iter().map(|p| (x(p.0), y(p.1))).collect();
        sheet.path(&points, series.stroke());
        for (a, b) in points {
            sheet.rect((a - 2, b - 2), (a + 2, b + 2), series.colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::{elements, texts};

    #[test]
    fn every_point_and_mark_is_drawn() {
        let series = |label: &str, dashed| Series {
            label: label.into(),
            colour: (1, 2, 3),
            dashed,
            points: vec![(1.0, 0.0), (2.0, -10.0), (3.0, -5.0)],
        };
        let chart = Lines {
            title: "A title".into(),
            panels: ["one", "two", "three"]
                .map(|t| Panel {
                    title: t.into(),
                    series: vec![series("plain", false), series("broken", true)],
                })
                .to_vec(),
            x_ticks: vec![(1.0, "first".into())],
            across: vec![Mark {
                at: -13.0,
                label: "published".into(),
            }],
            upright: vec![
                Mark {
                    at: 2.0,
                    label: "reach".into(),
                },
                Mark {
                    at: 9.0,
                    label: "beyond".into(),
                },
            ],
            ..Lines::default()
        };
        for width in [1000, 368] {
            let text = svg(&chart, width);
            let words = texts(&text);
            let doc = roxmltree::Document::parse(&text).unwrap();
            for (word, count) in [
                ("A title", 1),
                ("plain", 1),
                ("broken", 1),
                ("first", 3),
                ("published", 3),
                ("reach", 3),
                ("beyond", 0),
                ("-10.0", 3),
            ] {
                let found = words.iter().filter(|w| *w == word).count();
                assert_eq!(found, count, "{word}: {words:?}");
            }
            // Three points of two series in three panels, each a small square.
            let squares = elements(&doc, "rect")
                .iter()
                .filter(|r| r.attribute("width") == Some("4"))
                .count();
            assert_eq!(squares, 18);
            // Each series is one line of three points; the names' samples have two.
            let lines = elements(&doc, "polyline");
            let of = |dashed: bool, points: usize| {
                let some = lines.iter().filter(|l| {
                    l.attribute("stroke") == Some("#010203")
                        && l.attribute("stroke-dasharray").is_some() == dashed
                        && l.attribute("points").unwrap().split(' ').count() == points
                });
                some.count()
            };
            assert_eq!([of(false, 3), of(true, 3)], [3, 3]);
            assert_eq!([of(false, 2), of(true, 2)], [1, 1]);
        }
    }
}
