// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up results with known figures, for the tests of this tool: the stand-in for QEMU writes them, and
//! the report's tests know what must come out. Nothing of this is measured.

use fpt_geometry::{Boot, Mode};
use fpt_walksim_machine::config::Config;
use fpt_walksim_machine::report::{
    Accesses, ByCache, BySize, Categories, Checks, Cycles, Function, Instructions, Kind,
    Organisation, Phase, Report, TlbLevel, Tlbs, Untranslated, SCHEMA,
};
use serde_json::json;

/// Kernel instructions, entry reads and cycles of `mode` as parts of radix's.
pub struct Known {
    /// Kernel instructions, as a part of radix's.
    pub kernel: f64,
    /// Entries read per walk, as a part of radix's.
    pub reads: f64,
    /// Cycles per walk, as a part of radix's.
    pub walk: f64,
}

/// The figures that the made-up cells of a mode have.
pub fn known(mode: impl Into<Boot>) -> Known {
    let (kernel, reads, walk) = match mode.into() {
        Boot::Mode(Mode::L3L2) => (0.98, 0.9, 0.95),
        Boot::Mode(Mode::L4L3) => (0.99, 1.0, 0.98),
        Boot::Mode(Mode::L4L3L2L1) => (0.96, 0.75, 0.85),
        Boot::Mode(Mode::Radix) => (1.0, 1.0, 1.0),
        Boot::Mixed => (0.97, 0.8, 0.9),
    };
    Known {
        kernel,
        reads,
        walk,
    }
}

fn of(part: f64, whole: u64) -> u64 {
    (part * whole as f64).round() as u64
}

/// Walks of each organisation in a phase of `unit` walks.
fn organisation(name: &str, unit: u64, instructions: u64, reads: f64, walk: f64) -> Organisation {
    let walks = if name == "ideal" { 0 } else { unit };
    let entry_reads = of(reads * 1.5, walks);
    let walk_cycles = walk * 60.0 * walks as f64;
    let cycles = Cycles {
        walk: walk_cycles,
        data: 400.0 * unit as f64,
        instruction: 500.0 * unit as f64,
        tlb: 40.0 * unit as f64,
        total: walk_cycles + 940.0 * unit as f64,
    };
    let level = |accesses, misses| TlbLevel {
        accesses,
        hits: BySize {
            small: accesses - misses,
            ..BySize::default()
        },
        misses: BySize {
            small: misses,
            ..BySize::default()
        },
    };
    Organisation {
        name: name.into(),
        kind: if name == "real" {
            Kind::Real
        } else {
            Kind::Counterfactual
        },
        preset: "emt".into(),
        tlb: Tlbs {
            l1d: level(100 * unit, 2 * unit),
            stlb: level(2 * unit, unit),
            ..Tlbs::default()
        },
        walks,
        walks_by_page_size: BySize {
            small: walks,
            ..BySize::default()
        },
        walk_entry_reads: entry_reads,
        walk_cycles,
        entry_reads_by_level: [("pt".to_string(), entry_reads)].into(),
        entry_reads_by_cache: ByCache {
            l2: entry_reads / 2,
            llc: entry_reads / 4,
            memory: entry_reads - entry_reads / 2 - entry_reads / 4,
        },
        walk_latency: if walks > 0 {
            walk_cycles / walks as f64
        } else {
            0.0
        },
        ipc: instructions as f64 / cycles.total,
        cycles,
        ..Organisation::default()
    }
}

/// What the simulator would write for `mode`: a load phase of 1000 walks and a run phase of 4000.
pub fn report(mode: impl Into<Boot>, label: &str) -> Report {
    let known = known(mode);
    let phase = |name: &str, unit: u64| {
        let by = Categories {
            page_fault: of(known.kernel, 300 * unit),
            syscall: of(known.kernel, 60 * unit),
            timer: of(known.kernel, 30 * unit),
            interrupt: 0,
            kernel_thread: 0,
            other: of(known.kernel, 10 * unit),
        };
        let instructions = Instructions {
            user: 1000 * unit,
            kernel: by.sum(),
            kernel_strings_once: by.sum() / 2,
            kernel_by_category: by,
            kernel_by_innermost_entry: by,
            without_data_access: 700 * unit,
        };
        let all = instructions.user + instructions.kernel;
        Phase {
            name: name.into(),
            ended: true,
            instructions,
            organisations: vec![
                organisation("real", unit, all, known.reads, known.walk),
                organisation("radix", unit, all, 1.0, 1.0),
                organisation("ideal", unit, all, 0.0, 0.0),
                organisation("ecpt", unit, all, 0.7, 0.8),
            ],
            accesses: Accesses {
                user_data: 400 * unit,
                user_fetch: 300 * unit,
                kernel_data: 100 * unit,
                kernel_fetch: 80 * unit,
            },
            page_fault_functions: [
                ("clear_page_orig", 100.0, 1.0),
                ("handle_mm_fault", 40.0, known.kernel),
            ]
            .map(|(name, each, part)| Function {
                name: name.into(),
                instructions: of(part, (each * unit as f64) as u64),
            })
            .to_vec(),
            tasks: [
                ("0xffff888000001000", "bfs", 999 * unit, by.sum() - unit),
                ("0xffff888000002000", "kworker/0:1", unit, unit),
            ]
            .into_iter()
            .filter_map(|(task, comm, user, kernel)| {
                let text = json!({"task": task, "comm": comm, "user": user, "kernel": kernel});
                serde_json::from_value(text).ok()
            })
            .collect(),
            untranslated: Untranslated {
                fetch: unit / 1000,
                ..Untranslated::default()
            },
            ..Phase::default()
        }
    };
    Report {
        schema: SCHEMA.into(),
        label: label.into(),
        config: Config::default(),
        vcpus: 1,
        complete: true,
        errors: Vec::new(),
        checks: Checks {
            walks_checked: 50,
            conservation: "ok".into(),
            ..Checks::default()
        },
        phases: vec![phase("load", 1000), phase("run", 4000)],
    }
}

/// What the stand-in for QEMU leaves where the simulator would, by the plugin's options, with the fault
/// `what`. A full disk is one of the things to be tested: nothing is said of errors.
pub fn leave(option: impl Fn(&str) -> Option<String>, mode: Boot, what: &str) {
    let (Some(config), Some(out)) = (option("config="), option("out=")) else {
        return;
    };
    let mut report = report(mode, &option("label=").unwrap_or_default());
    let text = std::fs::read_to_string(config).unwrap_or_default();
    if let Ok(config) = fpt_walksim_machine::config::parse(&text) {
        for phase in &mut report.phases {
            phase
                .organisations
                .retain(|o| config.organisations.contains(&o.name));
        }
        report.config = config;
    }
    match what {
        "no-figures" => return,
        "half-figures" => {
            let _ = std::fs::write(out, "{\"schema\":");
            return;
        }
        _ => spoil(&mut report, what),
    }
    if let (Some(flame), true) = (option("flame="), what != "no-flame") {
        let _ = std::fs::write(flame, "load;page_fault;handle_mm_fault 40000\n");
    }
    let _ = serde_json::to_string(&report).map(|text| std::fs::write(out, text));
}

/// Figures as a fault of the simulator would make them.
pub fn spoil(report: &mut Report, what: &str) {
    match what {
        "mismatch" => report.checks.mismatches = 3,
        "no-run" => report.phases.truncate(1),
        "no-walks" => {
            let all = report.phases.iter_mut().flat_map(|p| &mut p.organisations);
            all.for_each(|o| o.walks = 0);
        }
        "nothing-checked" => report.checks.walks_checked = 0,
        "no-faults" => {
            let by = &mut report.phases[0].instructions.kernel_by_category;
            by.other += std::mem::take(&mut by.page_fault);
        }
        "stale" => report.checks.stale = 26,
        "lost" => report.checks.lost_entries = 2001,
        _ => {}
    }
}
