// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bar charts, on SVG and on pixels alike. Bars lie, so that names stay readable on a narrow page; a wide
//! page gets two columns. Fonts are embedded: nothing of the host is needed.

use std::sync::Once;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{register_font, FontStyle};

use fpt_kit::{Fail, Result};

pub type Colour = (u8, u8, u8);

#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub value: f64,
    pub colour: Colour,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    pub label: String,
    /// One after the other from the base line; none: there is no figure.
    pub parts: Vec<Part>,
    /// A thin line over it: lowest and highest of several runs.
    pub range: Option<(f64, f64)>,
    /// The number at the bar's right.
    pub text: String,
    /// Computed, not what the guest has.
    pub hatched: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub label: String,
    pub bars: Vec<Bar>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub label: String,
    pub colour: Colour,
    pub hatched: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    pub title: String,
    /// Below the title: what it shows and which way is better.
    pub note: String,
    /// The unit of the axis.
    pub unit: String,
    pub groups: Vec<Group>,
    pub keys: Vec<Key>,
    /// A line across all bars.
    pub mark: Option<f64>,
    /// Small print: where the figures come from.
    pub source: String,
}

pub(super) const INK: Colour = (0x22, 0x22, 0x22);
pub(super) const SOFT: Colour = (0x66, 0x66, 0x66);
pub(super) const GRID: Colour = (0xdd, 0xdd, 0xdd);

const EDGE: i32 = 12;
const GAP: i32 = 28;
const BAR: i32 = 15;
const HEAD: i32 = 20;
const LABEL: i32 = 92;
const VALUE: i32 = 104;
const TITLE: i32 = 15;
/// Height of a line of the title, in pixels.
const LINE: i32 = 20;
/// The least width for two columns, in pixels.
const TWO: i32 = 760;

pub(super) fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A font that cannot be read would be seen by every test that draws.
        let _ = register_font("sans-serif", FontStyle::Normal, ttf_noto_sans::REGULAR);
        let _ = register_font("sans-serif", FontStyle::Bold, ttf_noto_sans::BOLD);
    });
}

pub(super) fn failed(e: impl std::fmt::Display) -> anyhow::Error {
    Fail::infra(
        "cannot draw a figure",
        e.to_string(),
        "this is a fault of the report",
    )
}

/// The chart as an SVG document of this width in pixels.
pub fn svg(chart: &Chart, width: u32) -> Result<String> {
    fonts();
    let mut text = String::new();
    {
        let layout = Layout::new(chart, width as i32);
        let area =
            SVGBackend::with_string(&mut text, (width, layout.height as u32)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        Pen { area: &area, k: 1 }.chart(chart, &layout)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// Facts for who finds the file alone: name and value.
pub type Facts<'a> = &'a [(&'static str, String)];

/// An SVG document with `facts` in its head.
pub fn stamped(svg: &str, facts: Facts) -> String {
    let Some(end) = svg
        .find("<svg ")
        .and_then(|at| Some(at + svg[at..].find('>')? + 1))
    else {
        return svg.to_string();
    };
    let lines: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{name}: {}", super::markup::esc(value)))
        .collect();
    format!(
        "{}\n<metadata>\n{}\n</metadata>{}",
        &svg[..end],
        lines.join("\n"),
        &svg[end..]
    )
}

/// The chart as a PNG file: twice as many pixels as the SVG of this width has. `facts` are its text chunks.
pub fn png(chart: &Chart, width: u32, facts: Facts) -> Result<Vec<u8>> {
    fonts();
    let layout = Layout::new(chart, width as i32);
    let size = (width * 2, layout.height as u32 * 2);
    // White, as the paper is.
    let mut pixels = vec![0xff; size.0 as usize * size.1 as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        Pen { area: &area, k: 2 }.chart(chart, &layout)?;
        area.present().map_err(failed)?;
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (name, value) in facts {
        // Such a chunk holds Latin-1.
        let plain = value.replace(|c: char| !(' '..='~').contains(&c), "?");
        encoder
            .add_text_chunk(name.to_string(), plain)
            .map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

/// About how wide a text is in the widest of the usual fonts: who reads an SVG has a font of his own.
pub(super) fn wide(text: &str, size: i32) -> i32 {
    let each = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | ' ' => 0.32,
        'f' | 'r' | 't' | '(' | ')' | '-' => 0.41,
        'm' | 'w' | 'M' | 'W' | '%' => 0.95,
        c if c.is_ascii_uppercase() => 0.72,
        _ => 0.63,
    };
    (text.chars().map(each).sum::<f64>() * f64::from(size)).ceil() as i32
}

/// Lines of at most `width` pixels.
pub(super) fn wrap(text: &str, width: i32, size: i32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if wide(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// Distances between ticks that people can count in: about `count` of them over `span`.
pub(super) fn step(span: f64, count: f64) -> f64 {
    let raw = span / count.max(1.0);
    if !(raw.is_finite() && raw > 0.0) {
        return 1.0;
    }
    let ten = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|f| f * ten)
        .find(|s| *s >= raw * 0.999)
        .unwrap_or(10.0 * ten)
}

/// The axis: from, to, distance of ticks. It always holds 0.
fn axis(chart: &Chart, count: f64) -> (f64, f64, f64) {
    let (mut low, mut high) = (0f64, 0f64);
    for bar in chart.groups.iter().flat_map(|g| &g.bars) {
        let sum: f64 = bar
            .parts
            .iter()
            .map(|p| p.value)
            .filter(|v| v.is_finite())
            .sum();
        let (least, most) = bar.range.unwrap_or((sum, sum));
        low = low.min(sum).min(least);
        high = high.max(sum).max(most);
    }
    if let Some(mark) = chart.mark {
        low = low.min(mark);
        high = high.max(mark);
    }
    if high - low <= 0.0 {
        high = 1.0;
    }
    let step = step(high - low, count);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    (low, high, step)
}

pub(super) fn tick(value: f64, step: f64) -> String {
    let digits = if step >= 1.0 && step.fract() == 0.0 {
        0
    } else {
        (-step.log10()).ceil().max(1.0) as usize + usize::from(step.to_string().contains("25"))
    };
    let text = format!("{value:.digits$}");
    // "-0" is no number that people write.
    match text
        .trim_start_matches('-')
        .chars()
        .all(|c| c == '0' || c == '.')
    {
        true => "0".into(),
        false => text,
    }
}

struct Column {
    x: i32,
    /// First group and one past the last.
    groups: (usize, usize),
}

struct Layout {
    width: i32,
    height: i32,
    title: Vec<String>,
    note: Vec<String>,
    source: Vec<String>,
    /// Rows of keys, each with its left edges.
    keys: Vec<Vec<(i32, usize)>>,
    columns: Vec<Column>,
    column_width: i32,
    axis: (f64, f64, f64),
    y_keys: i32,
    y_bars: i32,
    y_axis: i32,
}

impl Layout {
    fn new(chart: &Chart, width: i32) -> Layout {
        let inner = width - 2 * EDGE;
        // Bold letters are wider.
        let title = wrap(&chart.title, inner, TITLE + 2);
        let note = wrap(&chart.note, inner, 12);
        let source = wrap(&chart.source, inner, 10);
        let mut keys: Vec<Vec<(i32, usize)>> = vec![Vec::new()];
        let mut x = EDGE;
        for (n, key) in chart.keys.iter().enumerate() {
            let wide = 18 + wide(&key.label, 12) + 14;
            if x + wide > width - EDGE && x > EDGE {
                keys.push(Vec::new());
                x = EDGE;
            }
            if let Some(row) = keys.last_mut() {
                row.push((x, n));
            }
            x += wide;
        }
        let y_keys = EDGE + title.len() as i32 * LINE + 4 + note.len() as i32 * 16 + 4;
        let y_bars = y_keys + keys.len() as i32 * 18 + 4;
        let tall = |g: &Group| HEAD + g.bars.len() as i32 * BAR + 10;
        let total: i32 = chart.groups.iter().map(tall).sum();
        let two = width >= TWO && chart.groups.len() > 1;
        let mut cut = chart.groups.len();
        if two {
            let mut sum = 0;
            cut = chart
                .groups
                .iter()
                .position(|g| {
                    sum += tall(g);
                    2 * sum >= total
                })
                .map_or(cut, |at| at + 1);
        }
        let column_width = if two { (inner - GAP) / 2 } else { inner };
        let mut columns = vec![Column {
            x: EDGE,
            groups: (0, cut),
        }];
        if cut < chart.groups.len() {
            columns.push(Column {
                x: EDGE + column_width + GAP,
                groups: (cut, chart.groups.len()),
            });
        }
        let tallest = columns
            .iter()
            .map(|c| {
                chart.groups[c.groups.0..c.groups.1]
                    .iter()
                    .map(tall)
                    .sum::<i32>()
            })
            .max()
            .unwrap_or(0);
        let y_axis = y_bars + tallest;
        let bars = column_width - LABEL - VALUE;
        Layout {
            width,
            title,
            height: y_axis + 36 + source.len() as i32 * 14 + EDGE,
            note,
            source,
            keys,
            columns,
            column_width,
            axis: axis(chart, (f64::from(bars) / 60.0).clamp(2.0, 6.0)),
            y_keys,
            y_bars,
            y_axis,
        }
    }
}

/// How a text looks.
#[derive(Clone, Copy)]
pub(super) struct Font {
    /// Its height in pixels, as CSS counts it.
    size: i32,
    colour: Colour,
    bold: bool,
}

pub(super) const fn plain(size: i32, colour: Colour) -> Font {
    Font {
        size,
        colour,
        bold: false,
    }
}

pub(super) const fn bold(size: i32, colour: Colour) -> Font {
    Font {
        size,
        colour,
        bold: true,
    }
}

pub(super) struct Pen<'a, DB: DrawingBackend> {
    pub area: &'a DrawingArea<DB, plotters::coord::Shift>,
    /// Pixels of the backend per pixel of the layout.
    pub k: i32,
}

impl<DB: DrawingBackend> Pen<'_, DB> {
    pub(super) fn text(&self, text: &str, at: (i32, i32), font: Font, h: HPos) -> Result<()> {
        let colour = RGBColor(font.colour.0, font.colour.1, font.colour.2);
        let style = if font.bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        // The font's height, which plotters takes for the size, is 1.24 times what CSS calls so.
        let size = f64::from(font.size * self.k) * 1.24;
        let style = ("sans-serif", size, style)
            .into_text_style(self.area)
            .color(&colour)
            .pos(Pos::new(h, VPos::Center));
        self.area
            .draw(&Text::new(
                text.to_string(),
                (at.0 * self.k, at.1 * self.k),
                style,
            ))
            .map_err(failed)
    }

    pub(super) fn line(&self, from: (i32, i32), to: (i32, i32), colour: Colour) -> Result<()> {
        let (r, g, b) = colour;
        let points = vec![
            (from.0 * self.k, from.1 * self.k),
            (to.0 * self.k, to.1 * self.k),
        ];
        let style = RGBColor(r, g, b).stroke_width(self.k as u32);
        self.area
            .draw(&PathElement::new(points, style))
            .map_err(failed)
    }

    pub(super) fn rect(
        &self,
        a: (i32, i32),
        b: (i32, i32),
        colour: Colour,
        hatched: bool,
    ) -> Result<()> {
        let (red, green, blue) = colour;
        let corners = [(a.0 * self.k, a.1 * self.k), (b.0 * self.k, b.1 * self.k)];
        self.area
            .draw(&Rectangle::new(
                corners,
                RGBColor(red, green, blue).filled(),
            ))
            .map_err(failed)?;
        if hatched {
            let (left, right) = (a.0.min(b.0), a.0.max(b.0));
            let (top, bottom) = (a.1.min(b.1), a.1.max(b.1));
            let tall = bottom - top;
            let mut x = left - tall;
            while x < right {
                // From the lower left to the upper right, cut off at both ends.
                let from = if x < left {
                    (left, bottom - (left - x))
                } else {
                    (x, bottom)
                };
                let to = if x + tall > right {
                    (right, bottom - (right - x))
                } else {
                    (x + tall, top)
                };
                if from.0 <= to.0 {
                    self.line(from, to, (0xff, 0xff, 0xff))?;
                }
                x += 6;
            }
        }
        Ok(())
    }

    fn chart(&self, chart: &Chart, at: &Layout) -> Result<()> {
        for (n, line) in at.title.iter().enumerate() {
            let y = EDGE + 8 + n as i32 * LINE;
            self.text(line, (EDGE, y), bold(TITLE, INK), HPos::Left)?;
        }
        for (n, line) in at.note.iter().enumerate() {
            let y = EDGE + 8 + at.title.len() as i32 * LINE + n as i32 * 16;
            self.text(line, (EDGE, y), plain(12, SOFT), HPos::Left)?;
        }
        for (row, keys) in at.keys.iter().enumerate() {
            let y = at.y_keys + row as i32 * 18;
            for (x, n) in keys {
                let key = &chart.keys[*n];
                self.rect((*x, y), (x + 12, y + 11), key.colour, key.hatched)?;
                self.text(&key.label, (x + 17, y + 5), plain(12, INK), HPos::Left)?;
            }
        }
        for column in &at.columns {
            self.column(chart, at, column)?;
        }
        for (n, line) in at.source.iter().enumerate() {
            let y = at.y_axis + 42 + n as i32 * 14;
            self.text(line, (EDGE, y), plain(10, SOFT), HPos::Left)?;
        }
        Ok(())
    }

    fn column(&self, chart: &Chart, at: &Layout, column: &Column) -> Result<()> {
        let groups = &chart.groups[column.groups.0..column.groups.1];
        let (left, right) = (
            column.x + LABEL,
            (column.x + at.column_width - VALUE).min(at.width),
        );
        let (low, high, step) = at.axis;
        let x = |v: f64| {
            let part = ((v - low) / (high - low)).clamp(0.0, 1.0);
            left + (part * f64::from(right - left)).round() as i32
        };
        let tall: i32 = groups
            .iter()
            .map(|g| HEAD + g.bars.len() as i32 * BAR + 10)
            .sum();
        let bottom = at.y_bars + tall;
        let count = ((high - low) / step).round() as i32;
        for n in 0..=count {
            let v = low + f64::from(n) * step;
            self.line((x(v), at.y_bars), (x(v), bottom), GRID)?;
            self.text(
                &tick(v, step),
                (x(v), bottom + 10),
                plain(11, SOFT),
                HPos::Center,
            )?;
        }
        self.text(
            &chart.unit,
            ((left + right) / 2, bottom + 25),
            plain(11, SOFT),
            HPos::Center,
        )?;
        let mut y = at.y_bars;
        for group in groups {
            self.text(&group.label, (column.x, y + 11), bold(13, INK), HPos::Left)?;
            y += HEAD;
            for bar in &group.bars {
                let middle = y + BAR / 2 - 1;
                self.text(&bar.label, (left - 6, middle), plain(11, INK), HPos::Right)?;
                let mut from = 0.0;
                for part in &bar.parts {
                    let to = from + part.value;
                    if part.value != 0.0 && to.is_finite() {
                        let (a, b) = (x(from), x(to));
                        // Something that is there is seen.
                        let b = if a == b { a + 1 } else { b };
                        self.rect((a, y), (b, y + BAR - 3), part.colour, bar.hatched)?;
                        from = to;
                    }
                }
                if let Some((least, most)) = bar.range {
                    let (a, b) = (x(least), x(most));
                    self.line((a, middle), (b, middle), INK)?;
                    for end in [a, b] {
                        self.line((end, middle - 3), (end, middle + 3), INK)?;
                    }
                }
                self.text(&bar.text, (right + 6, middle), plain(11, INK), HPos::Left)?;
                y += BAR;
            }
            y += 10;
        }
        self.line((x(0.0), at.y_bars), (x(0.0), bottom), SOFT)?;
        if let Some(mark) = chart.mark {
            self.line((x(mark), at.y_bars), (x(mark), bottom), INK)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(groups: usize) -> Chart {
        let bar = |label: &str, values: &[f64]| Bar {
            label: label.into(),
            parts: values
                .iter()
                .map(|v| Part {
                    value: *v,
                    colour: (1, 2, 3),
                })
                .collect(),
            range: (label == "b").then_some((-5.5, -3.0)),
            text: "x & y".into(),
            hatched: label == "b",
        };
        Chart {
            title: "A <title>".into(),
            note: "word ".repeat(40),
            unit: "%".into(),
            groups: (0..groups)
                .map(|n| Group {
                    label: format!("group{n}"),
                    bars: vec![bar("a", &[1.0, 2.0]), bar("b", &[-4.0]), bar("c", &[])],
                })
                .collect(),
            keys: vec![Key {
                label: "key".into(),
                colour: (1, 2, 3),
                hatched: true,
            }],
            mark: None,
            source: "from here".into(),
        }
    }

    #[test]
    fn both_forms_at_both_widths() {
        for width in [380, 1000] {
            let chart = chart(3);
            let svg = svg(&chart, width).unwrap();
            assert!(svg.contains(&format!("width=\"{width}\"")), "{svg}");
            assert!(svg.contains("A &lt;title&gt;") && svg.contains("x &amp; y"));
            for n in 0..3 {
                assert!(svg.contains(&format!("group{n}")));
            }
            let facts = [("Command", "bench — <x>".to_string())];
            let stamped = stamped(&svg, &facts);
            assert!(stamped.contains("<metadata>\nCommand: bench — &lt;x&gt;\n</metadata>"));
            assert_eq!(stamped.matches("<metadata>").count(), 1);
            let png = png(&chart, width, &facts).unwrap();
            let text: &[u8] = b"tEXtCommand\0bench ? <x>";
            assert!(png.windows(text.len()).any(|w| w == text));
            assert_eq!(&png[1..4], b"PNG");
            assert_eq!(
                png,
                super::png(&chart, width, &facts).unwrap(),
                "the same input, the same bytes"
            );
        }
    }

    #[test]
    fn nothing_to_draw_is_no_panic() {
        for chart in [Chart::default(), chart(0), chart(1)] {
            svg(&chart, 380).unwrap();
            png(&chart, 1000, &[]).unwrap();
        }
        let mut odd = chart(1);
        odd.groups[0].bars[0].parts[0].value = f64::NAN;
        odd.groups[0].bars[1].parts[0].value = f64::INFINITY;
        svg(&odd, 1000).unwrap();
    }

    #[test]
    fn axes() {
        // -5.5: what one run had is on the axis, too.
        assert_eq!(axis(&chart(1), 4.0), (-7.5, 5.0, 2.5));
        assert_eq!(step(1.0, 5.0), 0.2);
        assert_eq!(step(0.0, 5.0), 1.0);
        assert_eq!(tick(0.0, 0.2), "0");
        assert_eq!(tick(-0.0, 1.0), "0");
        assert_eq!(tick(0.25, 0.25), "0.25");
        assert_eq!(tick(0.6, 0.2), "0.6");
        assert_eq!(tick(2.5, 2.5), "2.5");
        assert_eq!(tick(150.0, 50.0), "150");
        assert_eq!(tick(0.002, 0.002), "0.002");
    }
}
