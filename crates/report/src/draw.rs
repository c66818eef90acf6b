// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bar charts. Bars lie, so that names stay readable on a narrow page; a wide page gets two columns.

use crate::svg::{bold, plain, wide, wrap, Anchor, Colour, Point, Svg, GRID, INK, SOFT};

/// A piece of a bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its length, in the unit of the axis.
    pub value: f64,
    /// Its colour.
    pub colour: Colour,
}

/// One bar: pieces one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// The word at its left.
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

/// Bars that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The word above them.
    pub label: String,
    /// The bars, from the top down.
    pub bars: Vec<Bar>,
}

/// What a colour means.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The meaning.
    pub label: String,
    /// The colour.
    pub colour: Colour,
    /// Whether it is for hatched bars.
    pub hatched: bool,
}

/// A bar chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What the chart is about, in bold.
    pub title: String,
    /// Below the title: what it shows and which way is better.
    pub note: String,
    /// The unit of the axis.
    pub unit: String,
    /// The groups, from the top down.
    pub groups: Vec<Group>,
    /// What the colours mean.
    pub keys: Vec<Key>,
    /// A line across all bars.
    pub mark: Option<f64>,
    /// Small print: where the figures come from.
    pub source: String,
}

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

/// The chart as an SVG document of this width in pixels.
pub fn svg(chart: &Chart, width: i32) -> String {
    let layout = Layout::new(chart, width);
    let mut sheet = Svg::new(width, layout.height);
    draw(&mut sheet, chart, &layout);
    sheet.finish()
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
    if text
        .trim_start_matches('-')
        .chars()
        .all(|c| c == '0' || c == '.')
    {
        "0".into()
    } else {
        text
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

fn fill(sheet: &mut Svg, a: Point, b: Point, (colour, hatched): (Colour, bool)) {
    if hatched {
        sheet.hatched(a, b, colour);
    } else {
        sheet.rect(a, b, colour);
    }
}

fn draw(sheet: &mut Svg, chart: &Chart, at: &Layout) {
    for (n, line) in at.title.iter().enumerate() {
        let y = EDGE + 8 + n as i32 * LINE;
        sheet.text(line, (EDGE, y), bold(TITLE, INK), Anchor::Start);
    }
    for (n, line) in at.note.iter().enumerate() {
        let y = EDGE + 8 + at.title.len() as i32 * LINE + n as i32 * 16;
        sheet.text(line, (EDGE, y), plain(12, SOFT), Anchor::Start);
    }
    for (row, keys) in at.keys.iter().enumerate() {
        let y = at.y_keys + row as i32 * 18;
        for (x, n) in keys {
            let key = &chart.keys[*n];
            fill(sheet, (*x, y), (x + 12, y + 11), (key.colour, key.hatched));
            sheet.text(&key.label, (x + 17, y + 5), plain(12, INK), Anchor::Start);
        }
    }
    for column in &at.columns {
        draw_column(sheet, chart, at, column);
    }
    for (n, line) in at.source.iter().enumerate() {
        let y = at.y_axis + 42 + n as i32 * 14;
        sheet.text(line, (EDGE, y), plain(10, SOFT), Anchor::Start);
    }
}

fn draw_column(sheet: &mut Svg, chart: &Chart, at: &Layout, column: &Column) {
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
        sheet.line((x(v), at.y_bars), (x(v), bottom), GRID);
        sheet.text(
            &tick(v, step),
            (x(v), bottom + 10),
            plain(11, SOFT),
            Anchor::Middle,
        );
    }
    sheet.text(
        &chart.unit,
        ((left + right) / 2, bottom + 25),
        plain(11, SOFT),
        Anchor::Middle,
    );
    let mut y = at.y_bars;
    for group in groups {
        sheet.text(
            &group.label,
            (column.x, y + 11),
            bold(13, INK),
            Anchor::Start,
        );
        y += HEAD;
        for bar in &group.bars {
            let middle = y + BAR / 2 - 1;
            sheet.text(&bar.label, (left - 6, middle), plain(11, INK), Anchor::End);
            let mut from = 0.0;
            for part in &bar.parts {
                let to = from + part.value;
                if part.value != 0.0 && to.is_finite() {
                    let (a, b) = (x(from), x(to));
                    // Something that is there is seen.
                    let b = if a == b { a + 1 } else { b };
                    fill(sheet, (a, y), (b, y + BAR - 3), (part.colour, bar.hatched));
                    from = to;
                }
            }
            if let Some((least, most)) = bar.range {
                let (a, b) = (x(least), x(most));
                sheet.line((a, middle), (b, middle), INK);
                for end in [a, b] {
                    sheet.line((end, middle - 3), (end, middle + 3), INK);
                }
            }
            sheet.text(
                &bar.text,
                (right + 6, middle),
                plain(11, INK),
                Anchor::Start,
            );
            y += BAR;
        }
        y += 10;
    }
    sheet.line((x(0.0), at.y_bars), (x(0.0), bottom), SOFT);
    if let Some(mark) = chart.mark {
        sheet.line((x(mark), at.y_bars), (x(mark), bottom), INK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::{elements, texts};

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
    fn everything_is_drawn_at_both_widths() {
        for width in [380, 1000] {
            let text = svg(&chart(3), width);
            let doc = roxmltree::Document::parse(&text).unwrap();
            let root = doc.root_element();
            assert_eq!(root.attribute("width"), Some(width.to_string().as_str()));
            let words = texts(&text);
            let count = |word: &str| words.iter().filter(|w| *w == word).count();
            for (word, times) in [
                ("A <title>", 1),
                ("key", 1),
                ("from here", 1),
                ("group0", 1),
                ("group1", 1),
                ("group2", 1),
                ("a", 3),
                ("b", 3),
                ("c", 3),
                ("x & y", 9),
                // Once for each column: the unit of the axis and its numbers.
                ("%", if width == 1000 { 2 } else { 1 }),
                ("0", if width == 1000 { 2 } else { 1 }),
            ] {
                assert_eq!(count(word), times, "{word}: {words:?}");
            }
            let filled = |colour: &str| {
                let all = elements(&doc, "rect");
                let some = all.iter().filter(|r| r.attribute("fill") == Some(colour));
                some.count()
            };
            // The key, and in each group two parts of one bar and one of another.
            assert_eq!(filled("#010203"), 1 + 3 * 3);
            // The key and one bar of each group are hatched.
            assert_eq!(elements(&doc, "path").len(), 1 + 3);
            // The range of one bar of each group: a line with an end on either side.
            let lines = elements(&doc, "polyline");
            let ink = |n: &&roxmltree::Node| n.attribute("stroke") == Some("#222222");
            assert_eq!(lines.iter().filter(ink).count(), 3 * 3);
            assert_eq!(
                text,
                svg(&chart(3), width),
                "the same input, the same bytes"
            );
        }
    }

    #[test]
    fn lengths_are_as_the_numbers() {
        let mut chart = chart(1);
        chart.keys.clear();
        chart.mark = Some(1.0);
        let text = svg(&chart, 380);
        let doc = roxmltree::Document::parse(&text).unwrap();
        let bars: Vec<(i32, i32)> = elements(&doc, "rect")
            .iter()
            .filter(|r| r.attribute("fill") == Some("#010203"))
            .map(|r| ["x", "width"].map(|n| r.attribute(n).unwrap().parse().unwrap()))
            .map(|[x, width]: [i32; 2]| (x, width))
            .collect();
        let [(a, one), (b, two), (c, four)] = bars[..] else {
            panic!("{bars:?}");
        };
        assert_eq!(a + one, b, "parts stand one after the other");
        // 160 pixels for the axis; each end is rounded.
        let (low, high, _) = axis(&chart, 160.0 / 60.0);
        let unit = 160.0 / (high - low);
        for (length, value) in [(one, 1.0), (two, 2.0), (four, 4.0)] {
            assert!((f64::from(length) - value * unit).abs() <= 1.0, "{bars:?}");
        }
        assert_eq!(c + four, a, "what is negative lies left of the base line");
        // The mark at 1 is where the first part ends.
        let ends = format!("{b},");
        assert!(elements(&doc, "polyline").iter().any(|l| {
            l.attribute("stroke") == Some("#222222")
                && l.attribute("points").unwrap().starts_with(&ends)
        }));
    }

    #[test]
    fn nothing_to_draw_is_no_panic() {
        let mut odd = chart(1);
        odd.groups[0].bars[0].parts[0].value = f64::NAN;
        odd.groups[0].bars[1].parts[0].value = f64::INFINITY;
        for chart in [Chart::default(), chart(0), chart(1), odd] {
            for width in [380, 1000] {
                roxmltree::Document::parse(&svg(&chart, width)).unwrap();
            }
        }
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
