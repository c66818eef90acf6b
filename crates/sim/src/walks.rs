// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who causes the walks, of each mode: tables, folded stacks, drawings, and what differs between modes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fpt_walksim_machine::attribution::File;
use serde::Serialize;

use crate::causes::{self, Causes, Line};
use crate::cell::Cell;
use crate::{flame, Sim};
use fpt_geometry::Boot;
use fpt_kit::{store, Fail, Result};

/// Lines of a list in a terminal, and in the JSON.
const SHOWN: usize = 8;
const KEPT: usize = 200;

/// The lists of a mode.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lists {
    pub functions: Vec<Line>,
    pub source: Vec<Line>,
    pub mappings: Vec<Line>,
}

impl Lists {
    fn new(causes: &Causes) -> Lists {
        let cut = |mut lines: Vec<Line>| {
            lines.truncate(KEPT);
            lines
        };
        Lists {
            functions: cut(causes.functions()),
            source: cut(causes.source()),
            mappings: cut(causes.mappings()),
        }
    }
}

/// Reads what the simulator wrote of each run, writes the drawings, and returns the lists by mode.
pub fn attribute(sim: &Sim, modes: &[Boot], cells: &[Cell]) -> Result<BTreeMap<Boot, Lists>> {
    let mut all = Vec::new();
    for mode in modes {
        let mine: Vec<&Cell> = cells.iter().filter(|c| c.mode == *mode).collect();
        let mut files: Vec<File> = Vec::new();
        for cell in &mine {
            files.push(file(sim, cell)?);
        }
        let runs = files.iter().zip(mine.iter().map(|c| c.seen.as_slice()));
        let causes = causes::of_runs(runs, sim.program, &sim.parts.kernel.vmlinux);
        all.push((*mode, causes));
    }
    draw(sim, &all)?;
    Ok(all.iter().map(|(m, c)| (*m, Lists::new(c))).collect())
}

/// What the simulator wrote: every walk must be in it once.
fn file(sim: &Sim, cell: &Cell) -> Result<File> {
    let path = sim.walks(&cell.name());
    let file = causes::read(&path).map_err(|e| {
        Fail::test(
            "the simulator left no causes of walks",
            format!("{}: {e}", path.display()),
            "see qemu.log in the run folder",
        )
    })?;
    let by_code = |f: &File| -> u64 {
        let all = f.phases.iter().flat_map(|p| &p.instructions);
        all.map(|i| i.2.walks).sum()
    };
    let by_memory = |f: &File| -> u64 {
        let all = f.phases.iter().flat_map(|p| &p.blocks);
        all.map(|b| b.2.walks).sum()
    };
    let walks = crate::figures::walks(&cell.report);
    let (code, memory) = (by_code(&file), by_memory(&file));
    if code != walks || memory != walks {
        return Err(Fail::test(
            format!("the causes of walks in {} do not add up", cell.name()),
            format!("{walks} walks, {code} by instruction, {memory} by memory"),
            "this is a fault of the simulator",
        ));
    }
    Ok(file)
}

fn draw(sim: &Sim, all: &[(Boot, Causes)]) -> Result<()> {
    let write =
        |name: String, text: String| store::write_atomic(&sim.folder.join(name), text.as_bytes());
    let name = sim
        .program
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let title = |what: &str| format!("{name}: walk cycles by {what}");
    for (mode, causes) in all {
        let (code, memory) = (causes.stacks(), causes.memory_stacks());
        write(format!("walks-{mode}.folded"), flame::folded(&code))?;
        write(
            format!("walks-{mode}.svg"),
            flame::drawing(&format!("{}, {mode}", title("code")), &code),
        )?;
        write(format!("memory-{mode}.folded"), flame::folded(&memory))?;
        write(
            format!("memory-{mode}.svg"),
            flame::drawing(&format!("{}, {mode}", title("mapping")), &memory),
        )?;
    }
    let Some(((first, base), others)) = all.split_first() else {
        return Ok(());
    };
    let before = base.stacks();
    for (mode, causes) in others {
        let after = causes.stacks();
        let what = format!("{}, {first} -> {mode}", title("code"));
        write(
            format!("walks-{first}-{mode}.folded"),
            flame::folded_difference(&before, &after),
        )?;
        write(
            format!("walks-{first}-{mode}.svg"),
            flame::difference(&what, &before, &after),
        )?;
    }
    Ok(())
}

/// Tables for a terminal.
pub fn text(modes: &[Boot], lists: &BTreeMap<Boot, Lists>) -> String {
    type Pick = fn(&Lists) -> &Vec<Line>;
    let kinds: [(&str, Pick); 3] = [
        ("walk cycles by function", |l| &l.functions),
        ("walk cycles by line", |l| &l.source),
        ("walk cycles by mapping", |l| &l.mappings),
    ];
    let mut out = String::new();
    for (title, pick) in kinds {
        let first = modes.first().and_then(|m| lists.get(m)).map(pick);
        let Some(first) = first.filter(|l| !l.is_empty()) else {
            continue;
        };
        let _ = write!(out, "{title:<44}");
        for (n, mode) in modes.iter().enumerate() {
            let _ = write!(out, "  {:>9}", mode.name());
            if n > 0 {
                out.push_str("          ");
            }
        }
        out.push('\n');
        for line in first.iter().take(SHOWN) {
            let _ = write!(out, "{:<44}", shortened(&line.what, 44));
            for (n, mode) in modes.iter().enumerate() {
                let there = lists.get(mode).map(pick);
                let found = there.and_then(|l| l.iter().find(|x| x.what == line.what));
                match found {
                    Some(x) => {
                        let _ = write!(out, "  {:>7.1} %", x.share * 100.0);
                        if n > 0 {
                            let change = (x.cycles / line.cycles - 1.0) * 100.0;
                            let _ = write!(out, "  {:>8}", percent(change));
                        }
                    }
                    None => {
                        let _ = write!(out, "  {:>9}", "-");
                        if n > 0 {
                            out.push_str("          ");
                        }
                    }
                }
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn percent(n: f64) -> String {
    if n.is_finite() {
        format!("{n:+.1} %")
    } else {
        String::new()
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() > most {
        let kept: String = text.chars().take(most - 3).collect();
        format!("{kept}...")
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    #[test]
    fn shares_and_changes() {
        let line = |what: &str, cycles: f64| Line {
            what: what.into(),
            walks: 1,
            reads: 1,
            cycles,
            share: cycles / 100.0,
        };
        let lists = |a: f64, b: f64| Lists {
            functions: vec![line("f (prog)", a), line(&"long".repeat(20), b)],
            ..Lists::default()
        };
        let modes = [Boot::Mode(Mode::Radix), Boot::Mode(Mode::L4L3L2L1)];
        let by = BTreeMap::from([(modes[0], lists(60.0, 40.0)), (modes[1], lists(30.0, 40.0))]);
        let text = text(&modes, &by);
        assert!(text.contains("walk cycles by function"), "{text}");
        assert!(!text.contains("by line"), "{text}");
        let row = text.lines().find(|l| l.starts_with("f (prog)")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["f", "(prog)", "60.0", "%", "30.0", "%", "-50.0", "%"]
        );
        assert!(text.contains("...  "), "{text}");
    }
}
