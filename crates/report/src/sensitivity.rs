// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of end-to-end cycles under other assumptions of the model, from the same counts: nothing is run again.

use fpt_walksim_machine::config::Cycles;

use super::metrics::{Figures, Row};
use super::text::{percent, Grid};
use fpt_geometry::Boot;

/// Assumptions in the place of a preset's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Cycles of a TLB hit.
    pub tlb: f64,
    /// Walks that are under way at a time.
    pub walks: f64,
    /// Data accesses that are under way at a time.
    pub data: f64,
    /// Cycles of memory.
    pub memory: f64,
}

const TLB: [f64; 2] = [1.0, 0.0];
const WALKS: [f64; 3] = [1.0, 2.0, 4.0];
const DATA: [f64; 2] = [8.0, 4.0];
const MEMORY: [f64; 2] = [180.0, 300.0];

impl Case {
    /// Every combination.
    pub fn all() -> Vec<Case> {
        let mut all = Vec::new();
        for tlb in TLB {
            for walks in WALKS {
                for data in DATA {
                    for memory in MEMORY {
                        all.push(Case {
                            tlb,
                            walks,
                            data,
                            memory,
                        });
                    }
                }
            }
        }
        all
    }

    /// Cycles of a row under these assumptions. A row of an older report does not say how many data accesses memory
    /// answered, and then another latency of it has no figure.
    pub fn cycles(&self, row: &Row, machine: &Cycles) -> Option<f64> {
        let hits = match row.cycles_tlb_hits {
            Some(cycles) => cycles,
            None if machine.stlb == 0.0 => row.cycles_tlb,
            None => return None,
        };
        let per_hit = if machine.tlb > 0.0 {
            hits / machine.tlb
        } else {
            return None;
        };
        let later = self.memory - machine.memory;
        let from_memory = match (later == 0.0, row.data_from_memory) {
            (true, _) => 0.0,
            (false, Some(n)) => n as f64,
            (false, None) => return None,
        };
        let tlb = row.cycles_tlb - hits + per_hit * self.tlb;
        let walk = row.cycles_walk + later * row.entry_reads_memory as f64;
        let data = row.cycles_data * machine.data_parallelism + later * from_memory;
        Some(tlb + walk / self.walks + data / self.data + row.cycles_instruction)
    }

    fn label(&self) -> String {
        format!(
            "TLB hit {}, walks at a time {}, data accesses at a time {}, memory {}",
            self.tlb, self.walks, self.data, self.memory
        )
    }
}

/// Means of end-to-end cycles against radix under every case that the counts can answer.
fn means(figures: &Figures, mode: Boot, phase: &str) -> Vec<(Case, f64)> {
    let names = figures.names();
    let all = figures.mean_by(&names, mode, phase, &|r| Some(r.cycles));
    Case::all()
        .into_iter()
        .filter_map(|case| {
            let of = |row: &Row| case.cycles(row, figures.machine(row)?);
            let (mean, n) = figures.mean_by(&names, mode, phase, &of)?;
            // Of fewer workloads it would be another mean.
            (Some(n) == all.map(|a| a.1)).then_some((case, mean))
        })
        .collect()
}

/// Smallest and largest change of mean cycles under all cases, and how many these are.
pub fn range(figures: &Figures, mode: Boot, phase: &str) -> Option<(f64, f64, usize)> {
    let means = means(figures, mode, phase);
    let low = means.iter().map(|m| m.1).fold(f64::INFINITY, f64::min);
    let high = means.iter().map(|m| m.1).fold(f64::NEG_INFINITY, f64::max);
    (!means.is_empty()).then_some((low, high, means.len()))
}

/// A line for each case, columns by mode and phase.
pub fn table(figures: &Figures, modes: &[Boot], phases: &[&str]) -> Grid {
    let mut head = vec!["assumptions".to_string()];
    let mut columns = Vec::new();
    for mode in modes {
        for phase in phases {
            head.push(format!("{mode}, {phase}"));
            columns.push(means(figures, *mode, phase));
        }
    }
    let rows = Case::all()
        .into_iter()
        .map(|case| {
            let mut row = vec![case.label()];
            row.extend(columns.iter().map(|c| {
                let found = c.iter().find(|(k, _)| *k == case);
                found.map_or("-".into(), |(_, mean)| percent(*mean))
            }));
            row
        })
        .collect();
    Grid { head, rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{tests, Table, ALL};
    use fpt_geometry::Mode;

    #[test]
    fn cases_by_hand() {
        let matrix = tests::matrix();
        let table = Table::new(&matrix);
        let row = table.real("bfs", Mode::Radix, ALL).unwrap();
        let machine = table.machine(row).unwrap();
        let case = |tlb, walks, data, memory| Case {
            tlb,
            walks,
            data,
            memory,
        };
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-6, "{a:?} {b}");
        // The synthetic rows' TLB cycles need not be accesses times one: only differences count.
        let hits = row.cycles_tlb_hits.unwrap();
        let same = row.cycles - hits * (1.0 - 1.0 / machine.tlb);
        close(case(1.0, 1.0, 8.0, 180.0).cycles(row, machine), same);
        close(
            case(0.0, 1.0, 8.0, 180.0).cycles(row, machine),
            row.cycles - hits,
        );
        close(
            case(1.0, 2.0, 4.0, 180.0).cycles(row, machine),
            same - row.cycles_walk / 2.0 + row.cycles_data,
        );
        let more = 120.0 * row.entry_reads_memory as f64
            + 120.0 / 8.0 * row.data_from_memory.unwrap() as f64;
        close(case(1.0, 1.0, 8.0, 300.0).cycles(row, machine), same + more);
        let old = Row {
            data_from_memory: None,
            ..row.clone()
        };
        assert_eq!(case(1.0, 1.0, 8.0, 300.0).cycles(&old, machine), None);
        assert!(case(1.0, 1.0, 8.0, 180.0).cycles(&old, machine).is_some());
        assert_eq!(Case::all().len(), 24);
        let (low, high, n) = range(&table, Mode::L4L3L2L1.into(), ALL).unwrap();
        assert!(n == 24 && low < high && high < 1.0);
    }
}
