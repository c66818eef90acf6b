// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a person is told of the cases of a run.

use std::collections::BTreeSet;

use super::results::{Case, Outcome, Report};
use fpt_kit::Ctx;

/// A case of this name stands for results that differed until they were looked at again.
pub const AT_FIRST: &str = "differed at first";

/// So begins the remark of a case that fails everywhere, as the list says.
pub const CANNOT: &str = "cannot pass: ";

/// Prints what failed and why, with a limit on the lines.
pub fn print_failures(ctx: &Ctx, report: &Report) {
    for case in report.cases.iter().filter(|c| c.outcome == Outcome::Failed) {
        ctx.ui.error(&format!("{}: {}", case.suite, case.name));
        for line in case.detail.lines().take(30) {
            ctx.ui.info(&format!("    | {line}"));
        }
    }
}

/// What is green and worth a look: cases that cannot pass, and results that were not always the same.
pub fn print_remarks(ctx: &Ctx, report: &Report) {
    let names = |cases: &[&Case]| {
        let names: BTreeSet<&str> = cases.iter().map(|c| c.suite.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let passed = || report.cases.iter().filter(|c| c.outcome == Outcome::Passed);
    let cannot: Vec<&Case> = passed().filter(|c| c.detail.starts_with(CANNOT)).collect();
    if !cannot.is_empty() {
        ctx.ui.info(&format!(
            "{} of the passed cases fail, as the list says they must: {}",
            cannot.len(),
            names(&cannot)
        ));
    }
    let first: Vec<&Case> = passed().filter(|c| c.name == AT_FIRST).collect();
    if !first.is_empty() {
        ctx.ui.info(&format!(
            "{} programs differed at first and not when run again: {}",
            first.len(),
            names(&first)
        ));
    }
}
