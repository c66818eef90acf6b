// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks of walk cycles: folded, one line each, and as a drawing (SVG), of one mode or of the difference of two.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Cycles by stack, outermost first.
pub type Stacks = BTreeMap<Vec<String>, f64>;

const WIDTH: f64 = 1200.0;
const ROW: f64 = 18.0;
const TOP: f64 = 44.0;
/// A box narrower than this is left out, in pixels.
const NARROW: f64 = 0.4;
/// About how wide a letter is.
const LETTER: f64 = 6.6;

/// Input of flame graph programs: `a;b;c COUNT`, and of differences `a;b;c COUNT COUNT`.
pub fn folded(stacks: &Stacks) -> String {
    let mut out = String::new();
    for (stack, cycles) in stacks {
        let _ = writeln!(out, "{} {:.0}", line(stack), cycles);
    }
    out
}

pub fn folded_difference(before: &Stacks, after: &Stacks) -> String {
    let mut out = String::new();
    for (stack, (a, b)) in both(before, after) {
        let _ = writeln!(out, "{} {a:.0} {b:.0}", line(&stack));
    }
    out
}

fn line(stack: &[String]) -> String {
    let clean = |s: &String| s.replace(';', ":").replace('\n', " ");
    stack.iter().map(clean).collect::<Vec<_>>().join(";")
}

fn both(before: &Stacks, after: &Stacks) -> BTreeMap<Vec<String>, (f64, f64)> {
    let mut out: BTreeMap<Vec<String>, (f64, f64)> = BTreeMap::new();
    for (stack, n) in before {
        out.entry(stack.clone()).or_default().0 += n;
    }
    for (stack, n) in after {
        out.entry(stack.clone()).or_default().1 += n;
    }
    out
}

/// A box of the drawing and those on it.
#[derive(Default)]
struct Node {
    /// Before and after.
    cycles: (f64, f64),
    children: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, stack: &[String], cycles: (f64, f64)) {
        self.cycles.0 += cycles.0;
        self.cycles.1 += cycles.1;
        if let [first, rest @ ..] = stack {
            self.children
                .entry(first.clone())
                .or_default()
                .add(rest, cycles);
        }
    }

    /// What decides its width.
    fn size(&self) -> f64 {
        self.cycles.0.max(self.cycles.1)
    }

    fn depth(&self) -> usize {
        self.children
            .values()
            .map(|c| c.depth() + 1)
            .max()
            .unwrap_or(0)
    }
}

/// One mode.
pub fn drawing(title: &str, stacks: &Stacks) -> String {
    let mut root = Node::default();
    for (stack, cycles) in stacks {
        root.add(stack, (*cycles, *cycles));
    }
    svg(title, &root, false)
}

/// Two modes: the width is the second's, red grew and blue shrank against the first.
pub fn difference(title: &str, before: &Stacks, after: &Stacks) -> String {
    let mut root = Node::default();
    for (stack, cycles) in both(before, after) {
        root.add(&stack, cycles);
    }
    svg(title, &root, true)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn svg(title: &str, root: &Node, compares: bool) -> String {
    let height = TOP + ROW * root.depth() as f64 + 8.0;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\">{}</text>\n<text x=\"8\" y=\"36\" fill=\"#555555\">{}</text>",
        escaped(title),
        if compares { "width: the larger of the two; red: more walk cycles, blue: fewer; what a box is says its tooltip" } else { "width: walk cycles; what a box is says its tooltip" }
    );
    let mut x = 0.0;
    let scale = match root.children.values().map(Node::size).sum::<f64>() {
        sum if sum > 0.0 => WIDTH / sum,
        _ => 0.0,
    };
    for (name, child) in &root.children {
        let w = child.size() * scale;
        draw(&mut out, name, child, (x, w), (0, root.cycles, compares));
        x += w;
    }
    out.push_str("</svg>\n");
    out
}

/// `at`: left edge and width; `frame`: row, cycles of all, whether two are compared.
fn draw(
    out: &mut String,
    name: &str,
    node: &Node,
    at: (f64, f64),
    frame: (usize, (f64, f64), bool),
) {
    let (x, w) = at;
    let (row, all, compares) = frame;
    if w < NARROW {
        return;
    }
    let y = TOP + ROW * row as f64;
    let (a, b) = node.cycles;
    let percent = |n: f64, of: f64| if of > 0.0 { n / of * 100.0 } else { 0.0 };
    let tip = if compares {
        format!(
            "{name}: {a:.0} -> {b:.0} walk cycles ({:+.1} %)",
            percent(b - a, a)
        )
    } else {
        format!("{name}: {b:.0} walk cycles, {:.2} %", percent(b, all.1))
    };
    let fill = if compares { colour(a, b) } else { shade(name) };
    let _ = write!(
        out,
        "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{:.1}\" fill=\"{fill}\" stroke=\"#ffffff\" stroke-width=\"0.5\"/>",
        escaped(&tip),
        ROW - 1.0
    );
    let room = ((w - 6.0) / LETTER).floor();
    if room >= 3.0 {
        let text: String = name.chars().take(room as usize).collect();
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 3.0,
            y + 12.5,
            escaped(&text)
        );
    }
    out.push_str("</g>\n");
    let sum: f64 = node.children.values().map(Node::size).sum();
    // In a comparison the parts may be more than the whole, whose width is the larger of two sums.
    let scale = if sum > 0.0 {
        w / sum.max(node.size())
    } else {
        0.0
    };
    let mut left = x;
    for (name, child) in &node.children {
        let w = child.size() * scale;
        draw(out, name, child, (left, w), (row + 1, all, compares));
        left += w;
    }
}

/// A colour that the same name always has.
fn shade(name: &str) -> String {
    let sum = name
        .bytes()
        .fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let (g, b) = (130 + sum % 90, 60 + (sum >> 8) % 50);
    format!("#e8{g:02x}{b:02x}")
}

/// Full red or blue at a change by half.
fn colour(before: f64, after: f64) -> String {
    let base = before.max(after);
    let change = if base > 0.0 {
        (after - before) / base
    } else {
        0.0
    };
    let pale = (255.0 * (1.0 - (change.abs() * 2.0).min(1.0) * 0.7)) as u8;
    if change >= 0.0 {
        format!("#ff{pale:02x}{pale:02x}")
    } else {
        format!("#{pale:02x}{pale:02x}ff")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stacks(list: &[(&str, f64)]) -> Stacks {
        let one = |(s, n): &(&str, f64)| (s.split(';').map(str::to_string).collect(), *n);
        list.iter().map(one).collect()
    }

    #[test]
    fn lines_of_stacks() {
        let a = stacks(&[("p;lib;f", 10.0), ("p;lib;g<int>", 30.0)]);
        let b = stacks(&[("p;lib;f", 5.0)]);
        assert_eq!(folded(&a), "p;lib;f 10\np;lib;g<int> 30\n");
        assert_eq!(
            folded_difference(&a, &b),
            "p;lib;f 10 5\np;lib;g<int> 30 0\n"
        );
    }

    #[test]
    fn boxes_are_as_wide_as_their_cycles() {
        let a = stacks(&[("p;f", 10.0), ("p;g<int>", 30.0)]);
        let text = drawing("x & y", &a);
        assert!(text.contains("x &amp; y") && text.contains("g&lt;int&gt;"));
        // The first box is all, then a quarter and three.
        for width in ["width=\"1200.0\"", "width=\"300.0\"", "width=\"900.0\""] {
            assert!(text.contains(width), "{width}: {text}");
        }
        let b = stacks(&[("p;f", 20.0)]);
        let text = difference("", &a, &b);
        assert!(
            text.contains("10 -&gt; 20 walk cycles (+100.0 %)"),
            "{text}"
        );
        assert!(text.contains("30 -&gt; 0"));
        assert!(drawing("", &Stacks::new()).ends_with("</svg>\n"));
        assert_ne!(colour(1.0, 2.0), colour(2.0, 1.0));
    }
}
