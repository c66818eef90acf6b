// SPDX-License-Identifier: MIT OR Apache-2.0
//! Texts, lines and rectangles as an SVG document.
//!
//! A document has one unit, the CSS pixel; the origin is its upper left corner.
//! Letters are the reader's own sans-serif, so [`wide`] only estimates how long a text is.

use std::fmt::Write as _;

use crate::markup::esc;

/// Red, green and blue, 0 to 255 each.
pub type Colour = (u8, u8, u8);

/// A place in a document, in pixels from its left and upper edge.
pub type Point = (i32, i32);

/// The colour of words that matter.
pub const INK: Colour = (0x22, 0x22, 0x22);
/// The colour of small print and of axes.
pub const SOFT: Colour = (0x66, 0x66, 0x66);
/// The colour of lines that help to read a value.
pub const GRID: Colour = (0xdd, 0xdd, 0xdd);
/// The colour of the paper and of hatching.
pub const PAPER: Colour = (0xff, 0xff, 0xff);

/// Distance of two lines of hatching, in pixels.
const HATCH: i32 = 6;

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub struct Font {
    /// Its height in pixels, as CSS counts it.
    size: i32,
    colour: Colour,
    bold: bool,
}

/// Letters of ordinary weight, `size` pixels high.
pub const fn plain(size: i32, colour: Colour) -> Font {
    Font {
        size,
        colour,
        bold: false,
    }
}

/// Heavy letters, `size` pixels high.
pub const fn bold(size: i32, colour: Colour) -> Font {
    Font {
        size,
        colour,
        bold: true,
    }
}

/// The point of a text that stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text's middle is there.
    Middle,
    /// The text ends there.
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug)]
pub struct Stroke {
    /// Its colour; every line is one pixel wide.
    pub colour: Colour,
    /// Whether it has gaps.
    pub dashed: bool,
}

impl From<Colour> for Stroke {
    fn from(colour: Colour) -> Stroke {
        Stroke {
            colour,
            dashed: false,
        }
    }
}

/// A document in the making.
#[derive(Debug)]
pub struct Svg {
    text: String,
}

impl Svg {
    /// An empty sheet of this size in pixels.
    pub fn new(width: i32, height: i32) -> Svg {
        let mut out = Svg {
            text: format!(
                "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
                 xmlns=\"http://www.w3.org/2000/svg\">\n<g font-family=\"sans-serif\">\n"
            ),
        };
        out.rect((0, 0), (width, height), PAPER);
        out
    }

    /// The document.
    pub fn finish(mut self) -> String {
        self.text.push_str("</g>\n</svg>\n");
        self.text
    }

    fn put(&mut self, args: std::fmt::Arguments) {
        // A String takes whatever comes.
        let _ = self.text.write_fmt(args);
    }

    /// One line of text, its height centred at `at`.
    pub fn text(&mut self, text: &str, at: Point, font: Font, anchor: Anchor) {
        let anchor = match anchor {
            Anchor::Start => String::new(),
            other => format!(" text-anchor=\"{}\"", other.name()),
        };
        let weight = if font.bold {
            " font-weight=\"bold\""
        } else {
            ""
        };
        self.put(format_args!(
            "<text x=\"{}\" y=\"{}\" dy=\"0.5ex\"{anchor} font-size=\"{}\"{weight} fill=\"{}\">{}</text>\n",
            at.0,
            at.1,
            font.size,
            hex(font.colour),
            esc(text)
        ));
    }

    /// A straight line.
    pub fn line(&mut self, from: Point, to: Point, stroke: impl Into<Stroke>) {
        self.path(&[from, to], stroke);
    }

    /// A line through these points; nothing where there are fewer than two.
    pub fn path(&mut self, points: &[Point], stroke: impl Into<Stroke>) {
        if points.len() < 2 {
            return;
        }
        let stroke = stroke.into();
        let places: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
        let dashes = if stroke.dashed {
            " stroke-dasharray=\"4\""
        } else {
            ""
        };
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"{dashes}/>\n",
            places.join(" "),
            hex(stroke.colour)
        ));
    }

    /// A filled rectangle between two of its corners.
    pub fn rect(&mut self, a: Point, b: Point, colour: Colour) {
        let (left, top) = (a.0.min(b.0), a.1.min(b.1));
        self.put(format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n",
            (a.0 - b.0).abs(),
            (a.1 - b.1).abs(),
            hex(colour)
        ));
    }

    /// The same with lines across it in the colour of the paper, from the lower left to the upper right.
    pub fn hatched(&mut self, a: Point, b: Point, colour: Colour) {
        self.rect(a, b, colour);
        let (left, right) = (a.0.min(b.0), a.0.max(b.0));
        let (top, bottom) = (a.1.min(b.1), a.1.max(b.1));
        let tall = bottom - top;
        let mut places = String::new();
        let mut x = left - tall;
        while x < right {
            // Cut off at both ends.
            let (from, to) = (x.max(left), (x + tall).min(right));
            if from <= to {
                let _ = write!(
                    places,
                    "M{from},{}L{to},{}",
                    bottom - (from - x),
                    bottom - (to - x)
                );
            }
            x += HATCH;
        }
        if !places.is_empty() {
            self.put(format_args!(
                "<path d=\"{places}\" stroke=\"{}\"/>\n",
                hex(PAPER)
            ));
        }
    }
}

fn hex((red, green, blue): Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// What a picture's file says of itself: pairs of name and value.
pub type Facts<'a> = &'a [(&'static str, String)];

/// The document with `facts` in its head.
pub fn stamped(svg: &str, facts: Facts) -> String {
    let Some(end) = svg
        .find("<svg ")
        .and_then(|at| Some(at + svg[at..].find('>')? + 1))
    else {
        return svg.to_string();
    };
    let lines: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{name}: {}", esc(value)))
        .collect();
    format!(
        "{}\n<metadata>\n{}\n</metadata>{}",
        &svg[..end],
        lines.join("\n"),
        &svg[end..]
    )
}

/// The estimated length in pixels of a text of this height in pixels, in the widest of the usual fonts.
pub fn wide(text: &str, size: i32) -> i32 {
    let each = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | ' ' => 0.32,
        'f' | 'r' | 't' | '(' | ')' | '-' => 0.41,
        'm' | 'w' | 'M' | 'W' | '%' => 0.95,
        c if c.is_ascii_uppercase() => 0.72,
        _ => 0.63,
    };
    (text.chars().map(each).sum::<f64>() * f64::from(size)).ceil() as i32
}

/// The text in lines of at most `width` pixels, as far as its words allow.
pub fn wrap(text: &str, width: i32, size: i32) -> Vec<String> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The elements of this name. It panics where the document is not well-formed.
    pub fn elements<'a>(doc: &'a roxmltree::Document, name: &str) -> Vec<roxmltree::Node<'a, 'a>> {
        doc.descendants().filter(|n| n.has_tag_name(name)).collect()
    }

    /// The texts of a document, in order.
    pub fn texts(svg: &str) -> Vec<String> {
        let doc = roxmltree::Document::parse(svg).unwrap();
        elements(&doc, "text")
            .iter()
            .map(|n| n.text().unwrap_or("").to_string())
            .collect()
    }

    #[test]
    fn a_document_is_well_formed_and_has_what_was_drawn() {
        let mut svg = Svg::new(200, 100);
        svg.text("a < b & \"c\"", (5, 6), bold(12, INK), Anchor::End);
        svg.line((1, 2), (3, 4), GRID);
        svg.path(
            &[(0, 0), (5, 5), (9, 1)],
            Stroke {
                colour: SOFT,
                dashed: true,
            },
        );
        svg.path(&[(0, 0)], GRID);
        svg.rect((30, 40), (10, 20), (1, 2, 255));
        let text = svg.finish();
        let doc = roxmltree::Document::parse(&text).unwrap();
        let root = doc.root_element();
        assert_eq!(root.attribute("viewBox"), Some("0 0 200 100"));
        assert_eq!(texts(&text), ["a < b & \"c\""]);
        let word = elements(&doc, "text")[0];
        assert_eq!(word.attribute("text-anchor"), Some("end"));
        assert_eq!(word.attribute("font-weight"), Some("bold"));
        let lines = elements(&doc, "polyline");
        assert_eq!(lines.len(), 2, "one point is no line");
        assert_eq!(lines[0].attribute("points"), Some("1,2 3,4"));
        assert_eq!(lines[0].attribute("stroke-dasharray"), None);
        assert!(lines[1].attribute("stroke-dasharray").is_some());
        let of = |n: &str| elements(&doc, "rect")[1].attribute(n).unwrap().to_string();
        assert_eq!(
            ["x", "y", "width", "height", "fill"].map(of),
            ["10", "20", "20", "20", "#0102ff"]
        );
    }

    #[test]
    fn hatching_stays_within_its_rectangle() {
        for (wide, tall) in [(1, 12), (3, 12), (12, 11), (300, 12), (0, 12)] {
            let mut svg = Svg::new(400, 100);
            svg.hatched((20, 30), (20 + wide, 30 + tall), INK);
            let text = svg.finish();
            let doc = roxmltree::Document::parse(&text).unwrap();
            let paths = elements(&doc, "path");
            let d = paths.first().and_then(|p| p.attribute("d")).unwrap_or("");
            let ends: Vec<i32> = d
                .split(['M', 'L', ','])
                .filter_map(|n| n.parse().ok())
                .collect();
            for pair in ends.chunks(2) {
                assert!((20..=20 + wide).contains(&pair[0]), "{wide}: {d}");
                assert!((30..=30 + tall).contains(&pair[1]), "{wide}: {d}");
            }
            if wide > 0 {
                assert!(ends.len() >= 4, "{wide}: {text}");
            }
        }
    }

    #[test]
    fn facts_stand_in_the_head() {
        let facts = [("Command", "bench — <x>".to_string())];
        let stamped = stamped(&Svg::new(1, 1).finish(), &facts);
        let doc = roxmltree::Document::parse(&stamped).unwrap();
        let head = elements(&doc, "metadata");
        assert_eq!(head.len(), 1);
        assert_eq!(head[0].text(), Some("\nCommand: bench — <x>\n"));
        assert!(stamped.contains("<metadata>\nCommand: bench — &lt;x&gt;\n</metadata>"));
    }
}
