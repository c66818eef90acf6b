// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who causes the walks: counts by the instruction that made the access, and by the page that it was to.
//!
//! The counts are those of one organisation, so their sums are its walks, its entry reads and its walk cycles.

use std::collections::HashMap;

use fpt_geometry::addr::VirtAddr;
use serde::{Deserialize, Serialize};

/// Name and version of the format of [`File`].
pub const SCHEMA: &str = "fpt-walks/1";

/// Whose access it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause {
    /// Number of the program that ran; see [`File::programs`].
    pub program: u32,
    /// Virtual address of the instruction; of a fetch that of its line.
    pub pc: u64,
}

/// What walks took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// How many walks there were.
    pub walks: u64,
    /// Entries read.
    pub reads: u64,
    /// The cycles that they took.
    pub cycles: f64,
}

impl Cost {
    /// Adds the counts of another cause.
    pub fn add(&mut self, other: Cost) {
        self.walks += other.walks;
        self.reads += other.reads;
        self.cycles += other.cycles;
    }
}

/// Counts since they were last taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    by_pc: HashMap<Cause, Cost>,
    /// By program and number of the 4 KiB page.
    by_page: HashMap<(u32, u64), Cost>,
}

const PAGE: u64 = 4096;

impl Counts {
    /// A walk for `va`.
    pub fn count(&mut self, cause: Cause, va: VirtAddr, cost: Cost) {
        self.by_pc.entry(cause).or_default().add(cost);
        let page = (cause.program, va.as_u64() / PAGE);
        self.by_page.entry(page).or_default().add(cost);
    }

    /// Adds those of another core, or of another phase with the same name.
    pub fn add(&mut self, other: &Counts) {
        for (cause, cost) in &other.by_pc {
            self.by_pc.entry(*cause).or_default().add(*cost);
        }
        for (page, cost) in &other.by_page {
            self.by_page.entry(*page).or_default().add(*cost);
        }
    }

    /// As it is written: sorted, and pages in blocks if there are more than `most`.
    pub fn phase(&self, name: &str, most: usize) -> Phase {
        let mut instructions: Vec<Instruction> = self
            .by_pc
            .iter()
            .map(|(cause, cost)| Instruction(cause.program, cause.pc, *cost))
            .collect();
        instructions.sort_by_key(|i| (i.0, i.1));
        let mut pages: Vec<Block> = self
            .by_page
            .iter()
            .map(|((program, page), cost)| Block(*program, page * PAGE, *cost))
            .collect();
        pages.sort_by_key(|b| (b.0, b.1));
        let mut bytes = PAGE;
        while pages.len() > most.max(1) && bytes < 1 << 40 {
            bytes *= 2;
            pages = merge(&pages, bytes);
        }
        Phase {
            name: name.to_owned(),
            instructions,
            block_bytes: bytes,
            blocks: pages,
        }
    }
}

fn merge(pages: &[Block], bytes: u64) -> Vec<Block> {
    let mut out: Vec<Block> = Vec::new();
    for Block(program, at, cost) in pages {
        let at = at & !(bytes - 1);
        match out.last_mut() {
            Some(last) if (last.0, last.1) == (*program, at) => last.2.add(*cost),
            _ => out.push(Block(*program, at, *cost)),
        }
    }
    out
}

/// Program, address of the instruction, cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instruction(pub u32, pub u64, pub Cost);

/// Program, first address of a block of memory, cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block(pub u32, pub u64, pub Cost);

/// All phases with one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The name of the phase, as in the [`crate::report::Phase`] of the same run.
    pub name: String,
    /// What the walks of each instruction cost.
    pub instructions: Vec<Instruction>,
    /// The size of each of `blocks`, in bytes: a power of two, 4096 or more.
    pub block_bytes: u64,
    /// What the walks for each block of memory cost.
    pub blocks: Vec<Block>,
}

/// The file of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// [`SCHEMA`]
    pub schema: String,
    /// Names that the kernel has for what ran, by number.
    pub programs: Vec<String>,
    /// One for each phase of the run, in order of their beginning.
    pub phases: Vec<Phase>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(cycles: f64) -> Cost {
        Cost {
            walks: 1,
            reads: 2,
            cycles,
        }
    }

    #[test]
    fn counts_add_up_by_both() {
        let mut counts = Counts::default();
        for i in 0..100u64 {
            let cause = Cause {
                program: (i % 2) as u32,
                pc: 0x40_0000 + i % 3,
            };
            counts.count(cause, VirtAddr::new(0x1000_0000 + i * 1000), cost(10.0));
        }
        let mut twice = counts.clone();
        twice.add(&counts);
        for (counts, n) in [(&counts, 100), (&twice, 200)] {
            for most in [1000, 10, 1] {
                let phase = counts.phase("run", most);
                let pc: u64 = phase.instructions.iter().map(|i| i.2.walks).sum();
                let page: u64 = phase.blocks.iter().map(|b| b.2.walks).sum();
                assert_eq!((pc, page, phase.instructions.len()), (n, n, 6));
                assert!(phase.blocks.iter().all(|b| b.1 % phase.block_bytes == 0));
            }
        }
        // 25 pages; the last one has one access, and so one program.
        assert_eq!(counts.phase("", 1000).blocks.len(), 49);
        assert_eq!(counts.phase("", 1).blocks.len(), 2);
    }

    #[test]
    fn a_file_survives() {
        let mut counts = Counts::default();
        let kernel = Cause {
            program: 0,
            pc: 0xffff_ffff_8100_0001,
        };
        counts.count(kernel, VirtAddr::new(u64::MAX), cost(0.5));
        let file = File {
            schema: SCHEMA.to_owned(),
            programs: vec!["a".to_owned()],
            phases: vec![counts.phase("run", 10)],
        };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(serde_json::from_str::<File>(&text).unwrap(), file);
    }
}
