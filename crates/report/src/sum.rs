// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows from cells: sums over phases and runs, and every quotient from the sums.

use fpt_walksim_machine::config::Config;
use fpt_walksim_machine::report::{ByCache, Categories, Kind, Organisation, Phase, WASTED_CYCLES};

use super::cells::Matrix;
use super::row::{Row, ALL};
use fpt_formats::cell::Cell;

pub fn per(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| value / by)
}

/// Sums over phases and runs; every quotient comes from the sums.
#[derive(Clone, Debug, Default)]
struct Sum {
    user: u64,
    kernel: u64,
    once: u64,
    by: Categories,
    walks: u64,
    reads: u64,
    cache: ByCache,
    walk_cycles: f64,
    /// Instructions that the simulator set against its cycles (without warm-up).
    instructions: f64,
    cycles: [f64; 5],
    tlb_hits: f64,
    walk_bounds: [f64; 2],
    data_from_memory: u64,
    untranslated: [u64; 2],
}

impl Sum {
    fn add(&mut self, phase: &Phase, o: &Organisation, machine: &Config) {
        let accesses = phase.accesses.data() + phase.accesses.fetch();
        self.tlb_hits += accesses as f64 * machine.cycles.tlb;
        self.data_from_memory += o.caches.data_misses.memory;
        let wasted = o.details.get(WASTED_CYCLES).copied().unwrap_or(0) as f64;
        let (low, high) = if machine.ecpt.charge_wasted {
            (o.walk_cycles - wasted, o.walk_cycles)
        } else {
            (o.walk_cycles, o.walk_cycles + wasted)
        };
        self.walk_bounds[0] += low;
        self.walk_bounds[1] += high;
        let i = &phase.instructions;
        self.untranslated[0] += phase.untranslated.data;
        self.untranslated[1] += phase.untranslated.fetch;
        self.user += i.user;
        self.kernel += i.kernel;
        self.once += i.kernel_strings_once;
        let (by, new) = (&mut self.by, &i.kernel_by_category);
        by.page_fault += new.page_fault;
        by.syscall += new.syscall;
        by.timer += new.timer;
        by.interrupt += new.interrupt;
        by.kernel_thread += new.kernel_thread;
        by.other += new.other;
        self.walks += o.walks;
        self.reads += o.walk_entry_reads;
        self.cache.l2 += o.entry_reads_by_cache.l2;
        self.cache.llc += o.entry_reads_by_cache.llc;
        self.cache.memory += o.entry_reads_by_cache.memory;
        self.walk_cycles += o.walk_cycles;
        self.instructions += o.ipc * o.cycles.total;
        let new = [
            o.cycles.total,
            o.cycles.walk,
            o.cycles.data,
            o.cycles.instruction,
            o.cycles.tlb,
        ];
        for (sum, new) in self.cycles.iter_mut().zip(new) {
            *sum += new;
        }
    }

    /// Counts and cycles per run.
    fn row(&self, cells: &[&Cell], phase: &str, o: &Organisation) -> Option<Row> {
        let cell = *cells.first()?;
        let runs = cells.len() as u64;
        let each = |count: u64| (count + runs / 2) / runs;
        let all = (self.user + self.kernel) as f64;
        let [cycles, cycles_walk, cycles_data, cycles_instruction, cycles_tlb] =
            self.cycles.map(|c| c / runs as f64);
        let tables: Vec<u64> = (cells.iter())
            .filter_map(|c| c.guest.page_tables_kb)
            .collect();
        let count = tables.len() as u64;
        Some(Row {
            workload: cell.workload.clone(),
            mode: cell.mode,
            phase: phase.into(),
            organisation: o.name.clone(),
            kind: match o.kind {
                Kind::Real => "real".into(),
                Kind::Counterfactual => "counterfactual".into(),
            },
            preset: o.preset.clone(),
            instructions_user: each(self.user),
            instructions_kernel: each(self.kernel),
            instructions_kernel_strings_once: each(self.once),
            kernel_page_fault: each(self.by.page_fault),
            kernel_syscall: each(self.by.syscall),
            kernel_timer: each(self.by.timer),
            kernel_interrupt: each(self.by.interrupt),
            kernel_thread: each(self.by.kernel_thread),
            kernel_other: each(self.by.other),
            walks: each(self.walks),
            entry_reads: each(self.reads),
            entry_reads_l2: each(self.cache.l2),
            entry_reads_llc: each(self.cache.llc),
            entry_reads_memory: each(self.cache.memory),
            accesses_per_walk: per(self.reads as f64, self.walks as f64),
            walk_latency: per(self.walk_cycles, self.walks as f64),
            tlb_mpki: per(self.walks as f64 * 1000.0, all),
            ipc: per(self.instructions, cycles * runs as f64),
            cycles,
            cycles_walk,
            cycles_data,
            cycles_instruction,
            cycles_tlb,
            cycles_tlb_hits: Some(self.tlb_hits / runs as f64),
            cycles_walk_low: Some(self.walk_bounds[0] / runs as f64),
            cycles_walk_high: Some(self.walk_bounds[1] / runs as f64),
            data_from_memory: Some(each(self.data_from_memory)),
            page_table_kb: (count > 0).then(|| (tables.iter().sum::<u64>() + count / 2) / count),
            untranslated_data: each(self.untranslated[0]),
            untranslated_fetch: each(self.untranslated[1]),
            run: (runs == 1).then_some(cell.run),
            runs,
        })
    }
}

/// Each organisation of each phase, and of both together: of a cell, or the means of its runs.
fn rows_of(cells: &[&Cell]) -> Vec<Row> {
    let mut sums: Vec<(&str, &Organisation, Sum)> = Vec::new();
    for report in cells.iter().filter_map(|c| c.figures()) {
        let machines = machines(&report.config);
        for phase in &report.phases {
            for o in &phase.organisations {
                let Some(machine) = machines.iter().find(|m| m.preset == o.preset) else {
                    continue;
                };
                for name in [&phase.name, ALL] {
                    let same = |s: &(&str, &Organisation, Sum)| {
                        s.0 == name && s.1.name == o.name && s.1.preset == o.preset
                    };
                    let at = sums.iter().position(same).unwrap_or_else(|| {
                        sums.push((name, o, Sum::default()));
                        sums.len() - 1
                    });
                    if let Some((_, _, sum)) = sums.get_mut(at) {
                        sum.add(phase, o, machine);
                    }
                }
            }
        }
    }
    sums.sort_by_key(|(name, _, _)| *name == ALL);
    (sums.iter())
        .filter_map(|(name, o, sum)| sum.row(cells, name, o))
        .collect()
}

/// The modelled machines of a run.
pub fn machines(config: &Config) -> Vec<Config> {
    config.machines().unwrap_or_else(|_| vec![config.clone()])
}

/// Every row of every run.
pub fn rows(matrix: &Matrix) -> Vec<Row> {
    let whole = matrix.cells.iter().filter(|c| c.figures().is_some());
    whole.flat_map(|c| rows_of(&[c])).collect()
}

/// Every row, each the mean of its runs.
pub fn means(matrix: &Matrix) -> Vec<Row> {
    let mut out = Vec::new();
    for first in matrix.firsts() {
        let mut runs = matrix.runs(&first.workload, first.mode);
        runs.retain(|c| c.figures().is_some());
        out.extend(rows_of(&runs));
    }
    out
}
