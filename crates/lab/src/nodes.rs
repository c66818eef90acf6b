// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the flattened tables of a guest, and whether the ones that its mode promises came to be.

use std::collections::BTreeMap;

use fpt_geometry::{Boot, Mode, NodeKind};
use fpt_kit::{Fail, Result};
use fpt_vm::vm::Guest;

/// Counters of a guest's flattened tables, `fpt/stats` in debugfs; none in a kernel that has none.
pub fn stats(guest: &mut Guest) -> Result<BTreeMap<String, i64>> {
    let text = guest.shell("cat /sys/kernel/debug/fpt/stats 2>/dev/null || true")?;
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeMap<String, i64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// The kinds of nodes that a guest makes. Under mixed there may be reasons for none.
fn promised(boot: Boot) -> impl Iterator<Item = NodeKind> {
    let mode = match boot {
        Boot::Mode(mode) => Some(mode),
        Boot::Mixed => None,
    };
    mode.into_iter().flat_map(Mode::kinds)
}

/// Fails if a guest that was booted in a mode made no node of one of its kinds since then: its figures
/// would be radix's under another name.
pub fn made(boot: Boot, stats: &BTreeMap<String, i64>) -> Result<()> {
    let none = |name: &str| stats.get(name).copied().unwrap_or(0) <= 0;
    let missing = promised(boot).find(|kind| none(&format!("{kind}_installs")));
    match missing {
        None => Ok(()),
        Some(kind) => Err(Fail::test(
            format!("no {kind} node was made in mode {boot}"),
            format!("{kind}_installs of /sys/kernel/debug/fpt/stats is 0 or missing"),
            "does --append set a policy or a cap that forbids them?",
        )),
    }
}

/// As [`made`], of a guest that is about to end.
pub fn check_made(guest: &mut Guest, boot: Boot) -> Result<()> {
    // A guest that promised nothing need not be asked.
    match promised(boot).next() {
        None => Ok(()),
        Some(_) => made(boot, &stats(guest)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_without_its_nodes_is_no_run_of_it() {
        let roots = parse("root_installs 3\nmid_installs 0\nbottom_installs x\n");
        assert!(made(Mode::L4L3.into(), &roots).is_ok());
        for mode in [Mode::L3L2, Mode::L4L3L2L1] {
            assert!(made(mode.into(), &roots).is_err());
            assert!(made(mode.into(), &BTreeMap::new()).is_err());
        }
        assert!(made(Mode::Radix.into(), &BTreeMap::new()).is_ok());
        assert!(made(Boot::Mixed, &BTreeMap::new()).is_ok());
    }
}
