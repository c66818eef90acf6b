// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces of HTML that every page has.

use super::text::Grid;

pub fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// Columns from `text` words on are words, not numbers.
pub fn table(grid: &Grid, text: &[usize]) -> String {
    let class = |n: usize| {
        if text.contains(&n) {
            " class=\"text\""
        } else {
            ""
        }
    };
    let mut out = String::from("<div class=\"scroll\"><table>\n<tr>");
    for (n, head) in grid.head.iter().enumerate() {
        out.push_str(&format!("<th{}>{}</th>", class(n), esc(head)));
    }
    out.push_str("</tr>\n");
    for row in &grid.rows {
        out.push_str("<tr>");
        for (n, cell) in row.iter().enumerate() {
            out.push_str(&format!("<td{}>{}</td>", class(n), esc(cell)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
    out
}
