// SPDX-License-Identifier: MIT OR Apache-2.0
//! Line charts in panels: values over a footprint. Drawn with the pen of the bar charts.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::draw::{self, bold, plain, Colour, Pen, GRID, INK, SOFT};
use fpt_kit::Result;

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub label: String,
    pub colour: Colour,
    pub dashed: bool,
    /// Pairs of x and y, in the order of x.
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    pub title: String,
    pub series: Vec<Series>,
}

/// A line across a whole panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub at: f64,
    pub label: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    pub title: String,
    pub note: String,
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
pub fn svg(chart: &Lines, width: u32) -> Result<String> {
    draw::fonts();
    let inner = width as i32 - 2 * EDGE;
    let across = if inner >= TWO { 2 } else { 1 };
    let rows = (chart.panels.len() as i32 + across - 1) / across;
    let title = draw::wrap(&chart.title, inner, 17);
    let note = draw::wrap(&chart.note, inner, 12);
    let top = EDGE + title.len() as i32 * 20 + note.len() as i32 * 16 + 8;
    let keys = keys(chart, inner);
    let height = top + keys.len() as i32 * 18 + rows * PANEL + EDGE;
    let mut text = String::new();
    {
        let size = (width, height.max(1) as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(draw::failed)?;
        let pen = Pen { area: &area, k: 1 };
        for (n, line) in title.iter().enumerate() {
            pen.text(
                line,
                (EDGE, EDGE + 8 + n as i32 * 20),
                bold(15, INK),
                HPos::Left,
            )?;
        }
        let below = EDGE + 8 + title.len() as i32 * 20;
        for (n, line) in note.iter().enumerate() {
            pen.text(
                line,
                (EDGE, below + n as i32 * 16),
                plain(12, SOFT),
                HPos::Left,
            )?;
        }
        for (row, some) in keys.iter().enumerate() {
            for (x, series) in some {
                let y = top + row as i32 * 18 + 5;
                stroke(&pen, (*x, y), (x + 22, y), series)?;
                pen.text(&series.label, (x + 28, y), plain(12, INK), HPos::Left)?;
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
            one(&pen, chart, panel, &scale, (at, wide))?;
        }
        area.present().map_err(draw::failed)?;
    }
    Ok(text)
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
        let wide = 28 + draw::wide(&series.label, 12) + 14;
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

type Place = ((i32, i32), i32);

fn one<DB: DrawingBackend>(
    pen: &Pen<'_, DB>,
    chart: &Lines,
    panel: &Panel,
    scale: &Scale,
    ((left, top), wide): Place,
) -> Result<()> {
    let (x0, x1) = (left + LEFT, left + wide - RIGHT);
    let (y0, y1) = (top + TOP, top + PANEL - BOTTOM);
    let part = |v: f64, (low, high): (f64, f64)| ((v - low) / (high - low)).clamp(0.0, 1.0);
    let x = |v: f64| x0 + (part(v, scale.x) * f64::from(x1 - x0)).round() as i32;
    let y = |v: f64| y1 - (part(v, scale.y) * f64::from(y1 - y0)).round() as i32;
    pen.text(&panel.title, (x0, top + 8), bold(13, INK), HPos::Left)?;
    pen.text(&chart.unit, (x1, top + 8), plain(11, SOFT), HPos::Right)?;
    let count = ((scale.y.1 - scale.y.0) / scale.step).round() as i32;
    for n in 0..=count {
        let v = scale.y.0 + f64::from(n) * scale.step;
        pen.line((x0, y(v)), (x1, y(v)), GRID)?;
        pen.text(
            &draw::tick(v, scale.step),
            (x0 - 6, y(v)),
            plain(11, SOFT),
            HPos::Right,
        )?;
    }
    for (v, name) in &chart.x_ticks {
        pen.line((x(*v), y1), (x(*v), y1 + 4), SOFT)?;
        pen.text(name, (x(*v), y1 + 14), plain(11, SOFT), HPos::Center)?;
    }
    for mark in chart
        .upright
        .iter()
        .filter(|m| (scale.x.0..=scale.x.1).contains(&m.at))
    {
        pen.line((x(mark.at), y0), (x(mark.at), y1), MARK)?;
        pen.text(
            &mark.label,
            (x(mark.at), y0 - 8),
            plain(10, SOFT),
            HPos::Center,
        )?;
    }
    for mark in &chart.across {
        pen.line((x0, y(mark.at)), (x1, y(mark.at)), MARK)?;
        pen.text(
            &mark.label,
            (x1 - 2, y(mark.at) - 7),
            plain(10, SOFT),
            HPos::Right,
        )?;
    }
    pen.line((x0, y(0.0)), (x1, y(0.0)), SOFT)?;
    for series in &panel.series {
        for pair in series.points.windows(2) {
            if let [a, b] = pair {
                stroke(pen, (x(a.0), y(a.1)), (x(b.0), y(b.1)), series)?;
            }
        }
        for (a, b) in &series.points {
            let (a, b) = (x(*a), y(*b));
            pen.rect((a - 2, b - 2), (a + 2, b + 2), series.colour, false)?;
        }
    }
    Ok(())
}

/// A line of a series, in pieces if it is dashed.
fn stroke<DB: DrawingBackend>(
    pen: &Pen<'_, DB>,
    a: (i32, i32),
    b: (i32, i32),
    series: &Series,
) -> Result<()> {
    if !series.dashed {
        return pen.line(a, b, series.colour);
    }
    let (dx, dy) = (f64::from(b.0 - a.0), f64::from(b.1 - a.1));
    let pieces = (dx.hypot(dy) / 4.0).ceil().max(1.0) as i32;
    let at = |n: i32| {
        let part = f64::from(n) / f64::from(pieces);
        (a.0 + (dx * part) as i32, a.1 + (dy * part) as i32)
    };
    for n in (0..pieces).step_by(2) {
        pen.line(at(n), at(n + 1), series.colour)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let svg = svg(&chart, width).unwrap();
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
                assert_eq!(
                    svg.matches(&format!("{word}\n")).count(),
                    count,
                    "{word}: {svg}"
                );
            }
            // Three points of two series in three panels, each a small square.
            assert_eq!(svg.matches("width=\"4\" height=\"4\"").count(), 18);
        }
    }
}
