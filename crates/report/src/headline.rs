// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came out, in one line for each mode, with a verdict against what was published.

use super::cells::Matrix;
use super::markup::{esc, table};
use super::metrics::{Of, Table, ALL};
use super::published::{Over, PUBLISHED};
use super::text::{counted, percent_in, Grid};
use super::{sensitivity, stats};
use fpt_formats::matrix::Scale;
use fpt_geometry::Boot;

/// So far from a published change, as a part of it, an interval may be and still confirm it.
const SLACK: f64 = 0.2;

/// Does a matrix confirm a published ratio?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Confirmed,
    NotConfirmed,
    /// Its programs are smaller by a magnitude.
    OtherRegime,
    /// One run has no interval.
    TooFewRuns,
    Unpublished,
}

impl Verdict {
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Confirmed => "confirmed",
            Verdict::NotConfirmed => "not confirmed",
            Verdict::OtherRegime => "other regime: smaller programs",
            Verdict::TooFewRuns => "one run: no verdict",
            Verdict::Unpublished => "nothing published",
        }
    }

    pub fn of(scale: Scale, interval: Option<(f64, f64)>, published: Option<f64>) -> Verdict {
        let Some(ratio) = published else {
            return Verdict::Unpublished;
        };
        match scale {
            // Programs as large as the published ones
            Scale::Paper => {}
            Scale::Tiny | Scale::Small | Scale::Medium => return Verdict::OtherRegime,
        }
        let Some((low, high)) = interval else {
            return Verdict::TooFewRuns;
        };
        let slack = (ratio - 1.0).abs() * SLACK;
        if low - slack <= ratio && ratio <= high + slack {
            Verdict::Confirmed
        } else {
            Verdict::NotConfirmed
        }
    }
}

/// Modes but radix, the one with the largest effect on walks first.
pub fn by_effect(t: &Table) -> Vec<Boot> {
    let names = t.matrix.workloads();
    let effect = |m: &Boot| {
        let mean = t.mean(&names, *m, ALL, Of::WalkLatency);
        mean.map_or(0.0, |(ratio, _)| (ratio - 1.0).abs())
    };
    let mut modes = t.matrix.modes();
    modes.retain(|m| *m != Boot::RADIX);
    modes.sort_by(|a, b| effect(b).total_cmp(&effect(a)));
    modes
}

/// What one should know of a column of mixed before one believes it; nothing without one.
pub fn mixed(matrix: &Matrix) -> Option<String> {
    let mut whole = matrix.cells.iter().filter(|c| c.figures().is_some());
    let cell = whole.find(|c| c.mode == Boot::Mixed)?;
    let words = cell.provenance.kernel_args.split_whitespace();
    let policy = words
        .filter_map(|w| w.strip_prefix("fpt.policy="))
        .next_back();
    let policy = policy.unwrap_or(Boot::Mixed.policy_name());
    let none = match matrix.without_nodes() {
        cells if cells.is_empty() => "nodes were made in each cell".to_string(),
        cells => format!(
            "no node was made in {}, whose tables were radix's",
            cells.join(", ")
        ),
    };
    Some(format!(
        "Mode mixed has policy {policy} and may have nodes of every kind; {none}."
    ))
}

pub fn section(t: &Table) -> String {
    let names = t.matrix.workloads();
    let modes = by_effect(t);
    let scale = match t.matrix.cells.first() {
        Some(cell) if !modes.is_empty() => cell.scale,
        _ => return String::new(),
    };
    let mut rows = Vec::new();
    for mode in &modes {
        let mean = |of| t.mean(&names, *mode, ALL, of);
        let range = |of| t.mean_range(&names, *mode, ALL, of);
        let said = |of| mean(of).map_or("-".into(), |(m, _)| percent_in(m, range(of)));
        let theirs = PUBLISHED.iter().find(|p| {
            Boot::Mode(p.mode) == *mode
                && p.of == Of::WalkLatency
                && p.phase == ALL
                && p.over == Over::All
        });
        let verdict = Verdict::of(scale, range(Of::WalkLatency), theirs.map(|p| p.low));
        rows.push(vec![
            mode.to_string(),
            said(Of::WalkLatency),
            match theirs {
                Some(p) => format!("{}; published {}", verdict.text(), percent_in(p.low, None)),
                None => verdict.text().into(),
            },
            sensitivity::range(t, *mode, ALL).map_or("-".into(), |(low, high, n)| {
                format!(
                    "{} to {} ({n} sets of assumptions)",
                    percent_in(low, None),
                    percent_in(high, None)
                )
            }),
            said(Of::KernelInstructions),
        ]);
    }
    let head = [
        "against radix",
        "walk latency",
        "verdict",
        "cycles, by the model's assumptions",
        "kernel instructions",
    ];
    let n = t.repeat();
    let runs = match n {
        1 => "One run of each cell: no intervals, so nothing here is shown beyond chance.".to_string(),
        n if n < stats::ENOUGH => format!(
            "Means of n = {n} runs with 95 % t-intervals in brackets; {} runs are wanted for a claim.",
            stats::ENOUGH
        ),
        n => format!("Means of n = {n} runs with 95 % t-intervals in brackets."),
    };
    let warning = match scale {
        Scale::Tiny => "<p class=\"bad\">Scale tiny shows that everything works. No conclusion should be drawn from it.</p>\n",
        Scale::Small | Scale::Medium | Scale::Paper => "",
    };
    let mixed = mixed(t.matrix).map_or(String::new(), |line| format!("<p>{}</p>\n", esc(&line)));
    format!(
        "{warning}<div class=\"words\" id=\"headline\">{}</div>\n<p>Scale {}, {}; graph programs count as one in means. {runs}</p>\n{mixed}",
        table(
            &Grid {
                head: head.map(String::from).to_vec(),
                rows,
            },
            &[2, 3]
        ),
        scale.name(),
        counted(names.len(), "workload"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests;
    use fpt_geometry::Mode;

    #[test]
    fn verdicts() {
        let of = Verdict::of;
        let some = Some((0.94, 0.96));
        assert_eq!(of(Scale::Small, some, Some(0.948)), Verdict::OtherRegime);
        assert_eq!(of(Scale::Paper, some, Some(0.948)), Verdict::Confirmed);
        // A fifth of 5 % beside it at most.
        assert_eq!(of(Scale::Paper, some, Some(0.931)), Verdict::Confirmed);
        assert_eq!(of(Scale::Paper, some, Some(0.91)), Verdict::NotConfirmed);
        assert_eq!(of(Scale::Paper, None, Some(0.948)), Verdict::TooFewRuns);
        assert_eq!(of(Scale::Paper, some, None), Verdict::Unpublished);
    }

    #[test]
    fn the_largest_effect_leads() {
        let matrix = tests::repeated();
        let t = Table::new(&matrix);
        assert_eq!(by_effect(&t), [Mode::L4L3L2L1, Mode::L3L2].map(Boot::from));
        let text = section(&t);
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
        assert!(at("l4l3-l2l1") < at(">l3l2"));
        assert!(at("n = 3") > 0 && at("5 runs are wanted") > 0 && at("24 sets") > 0);
        assert!(text.contains("No conclusion"));
    }

    #[test]
    fn a_column_of_mixed_is_explained_and_has_no_verdict() {
        assert_eq!(mixed(&tests::matrix()), None);
        let matrix = tests::with_mixed();
        let t = Table::new(&matrix);
        let modes = [Mode::L4L3L2L1.into(), Boot::Mixed, Mode::L3L2.into()];
        assert_eq!(by_effect(&t), modes);
        let text = section(&t);
        let row = text.split("<tr>").find(|r| r.contains(">mixed<")).unwrap();
        assert!(
            row.contains("nothing published") && row.contains("-10.0 %"),
            "{row}"
        );
        let line = "Mode mixed has policy auto and may have nodes of every kind; \
            no node was made in dfs-mixed, gups-mixed, whose tables were radix's.";
        assert!(text.contains(&crate::markup::esc(line)), "{text}");
        assert!(crate::terminal::table(&t).contains(line));
        let mut all = matrix.clone();
        all.cells.retain(|c| c.workload == "bfs");
        for cell in &mut all.cells {
            cell.provenance.kernel_args += " fpt.policy=size";
        }
        let line = mixed(&all).unwrap();
        assert!(
            line.contains("policy size") && line.contains("in each cell"),
            "{line}"
        );
    }
}
