// SPDX-License-Identifier: MIT OR Apache-2.0
//! Edge lists, and the text files that hold them.
//!
//! Read are SNAP's files (`# comment`, then `FROM TO [WEIGHT]` in lines), LDBC Graphalytics' `.e`
//! files and the comma or bar separated tables with a head line that GraphBIG's data sets have.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{Error, Result};

/// Directed edges between vertices `0..vertices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeList {
    /// The number of vertices; their numbers begin at 0.
    pub vertices: u32,
    /// The two ends of each edge, the source first.
    pub pairs: Vec<(u32, u32)>,
    /// One per pair, if the file has them.
    pub weights: Option<Vec<u32>>,
}

/// Reads a file. Vertices get numbers by the order of their names in the file's numbers.
///
/// # Errors
/// `System` if it cannot be read; `Usage` naming file and line if it is no edge list.
pub fn read(path: &Path) -> Result<EdgeList> {
    let file = File::open(path).map_err(Error::system(format!("open {}", path.display())))?;
    parse(
        BufReader::with_capacity(1 << 20, file),
        &path.display().to_string(),
    )
}

fn parse(mut input: impl BufRead, name: &str) -> Result<EdgeList> {
    let mut raw: Vec<(u64, u64)> = Vec::new();
    let mut weights: Vec<u32> = Vec::new();
    let mut line = Vec::new();
    let mut number = 0u64;
    let mut head_allowed = true;
    loop {
        line.clear();
        let len = input
            .read_until(b'\n', &mut line)
            .map_err(Error::system(format!("read {name}")))?;
        if len == 0 {
            break;
        }
        number += 1;
        let text = line.trim_ascii();
        if text.is_empty() || matches!(text[0], b'#' | b'%') || text.starts_with(b"//") {
            continue;
        }
        let wrong =
            |why: &str| Error::Usage(format!("{name}:{number}: {why}: want FROM TO [WEIGHT]"));
        let mut cells = text
            .split(|c| matches!(c, b' ' | b'\t' | b',' | b'|' | b';'))
            .filter(|c| !c.is_empty());
        let first = cells.next().and_then(integer);
        if first.is_none() && head_allowed && !text[0].is_ascii_digit() && text[0] != b'-' {
            head_allowed = false;
            continue;
        }
        head_allowed = false;
        let from = first.ok_or_else(|| wrong("the first cell is no number"))?;
        let to = cells
            .next()
            .and_then(integer)
            .ok_or_else(|| wrong("the second cell is no number"))?;
        let weight = cells.next().map(weight);
        match weight {
            None if weights.is_empty() => {}
            Some(Some(w)) if weights.len() == raw.len() => weights.push(w),
            Some(None) => return Err(wrong("the third cell is no weight of 0 or more")),
            _ => return Err(wrong("some lines have a weight and some have none")),
        }
        raw.push((from, to));
    }
    if raw.is_empty() {
        return Err(Error::Usage(format!(
            "{name} holds no edge: want lines FROM TO [WEIGHT]"
        )));
    }
    let mut names: Vec<u64> = raw.iter().flat_map(|(a, b)| [*a, *b]).collect();
    names.sort_unstable();
    names.dedup();
    let vertices = u32::try_from(names.len())
        .ok()
        .filter(|n| *n < u32::MAX)
        .ok_or_else(|| {
            Error::Usage(format!(
                "{name} has {} vertices: at most 2^32 - 2 fit",
                names.len()
            ))
        })?;
    // Data sets that number from 0 without gaps need no search.
    let dense = names.last() == Some(&(u64::from(vertices) - 1));
    let place = |v: u64| {
        if dense {
            v as u32
        } else {
            names.partition_point(|n| *n < v) as u32
        }
    };
    Ok(EdgeList {
        vertices,
        pairs: raw.iter().map(|(a, b)| (place(*a), place(*b))).collect(),
        weights: (!weights.is_empty()).then_some(weights),
    })
}

fn integer(cell: &[u8]) -> Option<u64> {
    if cell.len() > 20 {
        return None;
    }
    cell.iter().try_fold(0u64, |n, c| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// Whole weights as they are; LDBC's are fractions such as 0.523, taken in thousandths.
fn weight(cell: &[u8]) -> Option<u32> {
    if let Some(n) = integer(cell) {
        return u32::try_from(n).ok();
    }
    let value: f64 = std::str::from_utf8(cell).ok()?.parse().ok()?;
    let scaled = (value * 1000.0).round();
    (0.0..=f64::from(u32::MAX))
        .contains(&scaled)
        .then_some(scaled as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(t: &str) -> Result<EdgeList> {
        parse(t.as_bytes(), "file")
    }

    #[test]
    fn snap() {
        let g = text("# Nodes: 3\n# From\tTo\n0\t1\n0 2\r\n\n2 1\n").unwrap();
        assert_eq!(g.vertices, 3);
        assert_eq!(g.pairs, [(0, 1), (0, 2), (2, 1)]);
        assert_eq!(g.weights, None);
    }

    #[test]
    fn ldbc_with_gaps_and_fractions() {
        let g = text("6 12 0.5\n12 7 1\n").unwrap();
        assert_eq!(g.vertices, 3);
        assert_eq!(g.pairs, [(0, 2), (2, 1)]);
        assert_eq!(g.weights, Some(vec![500, 1]));
        let g = text("Person.id|Person.id|creationDate\n5|9\n").unwrap();
        assert_eq!(g.pairs, [(0, 1)]);
    }

    #[test]
    fn wrong_files_name_the_line() {
        for (bad, line) in [
            ("0 1\n0\n", "file:2"),
            ("0 1\nx y\n", "file:2"),
            ("head\nhead again\n", "file:2"),
            ("0 1 2\n0 1\n", "file:2"),
            ("0 1\n0 1 2\n", "file:2"),
            ("0 -1\n", "file:1"),
            ("-1 0\n", "file:1"),
            ("0 1 -3\n", "file:1"),
            ("0 1 nan\n", "file:1"),
            ("99999999999999999999 1\n", "file:1"),
            ("# nothing\n", "no edge"),
        ] {
            let e = text(bad).unwrap_err();
            assert!(
                matches!(&e, Error::Usage(t) if t.contains(line)),
                "{bad:?}: {e}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pairs in prop::collection::vec((0u32..50, 0u32..50), 1..200)) {
            let file: String = pairs.iter().map(|(a, b)| format!("{}\t{}\n", a * 3, b * 3)).collect();
            let g = text(&file).unwrap();
            let mut names: Vec<u32> = pairs.iter().flat_map(|p| [p.0, p.1]).collect();
            names.sort_unstable();
            names.dedup();
            let back: Vec<(u32, u32)> =
                g.pairs.iter().map(|(a, b)| (names[*a as usize], names[*b as usize])).collect();
            prop_assert_eq!(back, pairs);
        }

        #[test]
        fn any_bytes_give_a_graph_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes[..], "file");
        }
    }
}
