// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much each phase counts where both are taken together.

use fpt_geometry::Boot;

use super::row::{Row, ALL};

/// How much each phase counts where both are taken together.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// As long as each phase was here
    #[default]
    Measured,
    /// As in EMT's scripts: shares of user instructions that they name for each program
    Emt,
}

/// Part of the run phase in all user instructions, as EMT's artifact has it (VM-Bench, ecpt_unified.py and its like).
const EMT: [(&str, f64); 12] = [
    ("bfs", 0.00674),
    ("dfs", 0.0070),
    ("dc", 0.00435),
    ("sssp", 0.0137),
    ("cc", 0.00563),
    ("tc", 0.1268),
    ("pr", 0.0163),
    ("sysbench", 0.9986),
    ("gups", 0.3734),
    ("redis", 0.0802),
    ("memcached", 0.1508),
    ("postgres", 0.7920),
];

/// User instructions that a weighted row is made for.
const INSTRUCTIONS: f64 = 2e9;

/// Replaces rows of both phases by sums in which each phase's figures per user instruction have EMT's weight:
/// r * run / user instructions of run + (1 - r) * load / user instructions of load. Programs without a weight have none.
pub fn apply(rows: &mut Vec<Row>) {
    let phases: Vec<Row> = rows.iter().filter(|r| r.phase != ALL).cloned().collect();
    let mut weighted = Vec::new();
    for run in phases.iter().filter(|r| r.phase == "run") {
        let load = phases
            .iter()
            .find(|r| r.phase == "load" && key(r) == key(run) && r.workload == run.workload);
        let share = EMT.iter().find(|(name, _)| *name == run.workload);
        if let (Some(load), Some((_, share))) = (load, share) {
            let of = |row: &Row, part: f64| match row.instructions_user {
                0 => 0.0,
                user => part * INSTRUCTIONS / user as f64,
            };
            weighted.push(sum(load, of(load, 1.0 - share), run, of(run, *share)));
        }
    }
    rows.retain(|r| r.phase != ALL);
    rows.extend(weighted);
}

fn key(r: &Row) -> (Boot, &str, &str, Option<u32>) {
    (r.mode, &r.organisation, &r.preset, r.run)
}

fn sum(a: &Row, by_a: f64, b: &Row, by_b: f64) -> Row {
    let real = |x: f64, y: f64| x * by_a + y * by_b;
    let count = |x: u64, y: u64| real(x as f64, y as f64).round() as u64;
    let some = |x: Option<u64>, y: Option<u64>| Some(count(x?, y?));
    let cycles = |x: Option<f64>, y: Option<f64>| Some(real(x?, y?));
    let mut out = a.clone();
    out.phase = ALL.into();
    macro_rules! counts {
        ($($field:ident)*) => { $(out.$field = count(a.$field, b.$field);)* };
    }
    counts!(instructions_user instructions_kernel instructions_kernel_strings_once kernel_page_fault
        kernel_syscall kernel_timer kernel_interrupt kernel_thread kernel_other walks entry_reads
        entry_reads_l2 entry_reads_llc entry_reads_memory untranslated_data untranslated_fetch);
    macro_rules! reals {
        ($($field:ident)*) => { $(out.$field = real(a.$field, b.$field);)* };
    }
    reals!(cycles cycles_walk cycles_data cycles_instruction cycles_tlb);
    out.data_from_memory = some(a.data_from_memory, b.data_from_memory);
    out.cycles_tlb_hits = cycles(a.cycles_tlb_hits, b.cycles_tlb_hits);
    out.cycles_walk_low = cycles(a.cycles_walk_low, b.cycles_walk_low);
    out.cycles_walk_high = cycles(a.cycles_walk_high, b.cycles_walk_high);
    let per = |x: f64, y: f64| (y > 0.0).then(|| x / y);
    let instructions = (out.instructions_user + out.instructions_kernel) as f64;
    // Figures per walk, where there are any: an ideal TLB has none.
    let walks = out.walks as f64;
    out.accesses_per_walk = per(out.entry_reads as f64, walks);
    out.walk_latency = per(out.cycles_walk, walks);
    out.tlb_mpki = per(walks * 1000.0, instructions);
    out.ipc = per(instructions, out.cycles);
    out.page_table_kb = b.page_table_kb;
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{tests, Table};

    #[test]
    fn weights_are_of_user_instructions() {
        let mut matrix = tests::matrix();
        // The run phase of bfs has walks of twice the cycles.
        for cell in matrix.cells.iter_mut().filter(|c| c.workload == "bfs") {
            for phase in &mut cell.walksim.as_mut().unwrap().phases {
                if phase.name == "run" {
                    for o in &mut phase.organisations {
                        o.cycles.walk *= 2.0;
                    }
                }
            }
        }
        let table = Table::new(&matrix);
        let mut rows = table.rows.clone();
        let before = rows.len();
        apply(&mut rows);
        assert_eq!(rows.len(), before);
        let find = |phase: &str| {
            rows.iter()
                .find(|r| {
                    r.workload == "bfs"
                        && r.phase == phase
                        && r.organisation == "real"
                        && r.mode == Boot::RADIX
                })
                .unwrap()
        };
        let (load, run, all) = (find("load"), find("run"), find(ALL));
        let per = |r: &Row| r.cycles_walk / r.instructions_user as f64;
        let expected = (1.0 - 0.00674) * per(load) + 0.00674 * per(run);
        assert!((per(all) / expected - 1.0).abs() < 1e-6);
        assert!((all.instructions_user as f64 - INSTRUCTIONS).abs() < 2.0);
        assert!(per(run) > 1.9 * per(load));
    }
}
