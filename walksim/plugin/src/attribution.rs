// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who causes the walks, of all CPUs: names of programs, and counts by phase.

use fpt_walksim_model::attribution::{Counts, File, SCHEMA};

/// Blocks of memory in a file: beyond them neighbours are put together.
const MOST_BLOCKS: usize = 1 << 16;
/// Programs that are told apart. What runs beyond them counts for the last.
const MOST_PROGRAMS: usize = 1 << 12;

pub struct Attribution {
    /// The first is what ran before a name was known.
    programs: Vec<[u8; 16]>,
    phases: Vec<(String, Counts)>,
}

impl Default for Attribution {
    fn default() -> Attribution {
        Attribution {
            programs: vec![[0; 16]],
            phases: Vec::new(),
        }
    }
}

impl Attribution {
    /// The number of the program with this name.
    pub fn program(&mut self, comm: &[u8; 16]) -> u32 {
        let at = self.programs.iter().position(|p| p == comm);
        let at = at.unwrap_or_else(|| {
            if self.programs.len() < MOST_PROGRAMS {
                self.programs.push(*comm);
            }
            self.programs.len() - 1
        });
        at as u32
    }

    pub fn add(&mut self, phase: &str, counts: &Counts) {
        match self.phases.iter_mut().find(|(name, _)| name == phase) {
            Some((_, sum)) => sum.add(counts),
            None => self.phases.push((phase.to_owned(), counts.clone())),
        }
    }

    pub fn file(&self) -> File {
        let name = |comm: &[u8; 16]| {
            let text = String::from_utf8_lossy(comm);
            text.trim_end_matches('\0').to_owned()
        };
        File {
            schema: SCHEMA.to_owned(),
            programs: self.programs.iter().map(name).collect(),
            phases: self
                .phases
                .iter()
                .map(|(name, counts)| counts.phase(name, MOST_BLOCKS))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_walksim_model::attribution::{Cause, Cost};

    #[test]
    fn programs_and_phases_come_once() {
        let mut all = Attribution::default();
        let name = |text: &str| {
            let mut comm = [0; 16];
            comm.iter_mut()
                .zip(text.bytes())
                .for_each(|(to, b)| *to = b);
            comm
        };
        let numbers: Vec<u32> = ["a", "b", "a"].map(|t| all.program(&name(t))).into();
        assert_eq!(numbers, [1, 2, 1]);
        let mut counts = Counts::default();
        let cost = Cost {
            walks: 1,
            reads: 4,
            cycles: 9.0,
        };
        counts.count(
            Cause { program: 1, pc: 7 },
            fpt_walksim_model::addr::VirtAddr::new(0x1000),
            cost,
        );
        for phase in ["load", "run", "load"] {
            all.add(phase, &counts);
        }
        let file = all.file();
        assert_eq!(file.programs, ["", "a", "b"]);
        let walks: Vec<u64> = file
            .phases
            .iter()
            .map(|p| p.instructions.iter().map(|i| i.2.walks).sum())
            .collect();
        assert_eq!(walks, [2, 1]);
    }

    #[test]
    fn there_may_be_too_many_programs() {
        let mut all = Attribution::default();
        for n in 0..5000u32 {
            let mut comm = [0; 16];
            comm[..4].copy_from_slice(&n.to_le_bytes());
            assert!(all.program(&comm) < MOST_PROGRAMS as u32);
        }
    }
}
