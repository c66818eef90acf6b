// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each rule broken on purpose: the comparison with the oracle must notice.

use super::search::Tally;
use super::suites;
use crate::rules::Broken;

/// The shortest sequences of all suites first.
fn notices(broken: Broken) -> Option<String> {
    for depth in 1..=4 {
        for mut suite in suites::all() {
            suite.knobs.broken = Some(broken);
            if depth > suite.depth {
                continue;
            }
            suite.depth = depth;
            if let Err((path, why)) = suite.exhaust(&mut Tally::default()) {
                return Some(format!("{} after {path:x?}: {why}", suite.name));
            }
        }
    }
    None
}

#[test]
fn every_broken_rule_is_noticed() {
    let mut missed = Vec::new();
    for broken in Broken::ALL {
        match notices(broken) {
            Some(how) => println!("{broken:?}: {how}"),
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "nobody notices {missed:?}");
}
