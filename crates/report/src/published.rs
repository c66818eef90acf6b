// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures that others have published, to stand beside ours. As ratios to radix, as in our own tables.

use fpt_geometry::Mode;
use serde::Serialize;

use super::metrics::{Of, ALL};

/// One published figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Published {
    pub source: &'static str,
    pub mode: Mode,
    pub of: Of,
    /// `load`, `run`, or `all`: both.
    pub phase: &'static str,
    /// Which workloads.
    pub over: Over,
    /// Value in the mode over value in radix: from, to.
    pub low: f64,
    pub high: f64,
    pub note: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    All,
    Graphs,
    One(&'static str),
}

const EMT: &str = "EMT (OSDI'25), text";
const CSV: &str = "EMT (OSDI'25), recomputed from its committed csv";

const fn one(
    source: &'static str,
    mode: Mode,
    of: Of,
    over: Over,
    (low, high): (f64, f64),
    note: &'static str,
) -> Published {
    Published {
        source,
        mode,
        of,
        phase: ALL,
        over,
        low,
        high,
        note,
    }
}

const KERNEL: Of = Of::KernelInstructions;

pub const PUBLISHED: [Published; 16] = [
    // "Better by x" is the ratio of latencies, radix over the mode.
    one(
        EMT,
        Mode::L3L2,
        Of::WalkLatency,
        Over::All,
        (1.0 / 1.055, 1.0 / 1.055),
        "5.5 % better",
    ),
    one(
        EMT,
        Mode::L3L2,
        Of::Ipc,
        Over::All,
        (1.010, 1.010),
        "+1.0 %",
    ),
    one(
        EMT,
        Mode::L3L2,
        Of::Cycles,
        Over::All,
        (0.989, 0.989),
        "1.1 % fewer",
    ),
    one(
        EMT,
        Mode::L4L3L2L1,
        Of::WalkLatency,
        Over::All,
        (1.0 / 1.153, 1.0 / 1.153),
        "15.3 % better",
    ),
    one(
        EMT,
        Mode::L4L3L2L1,
        Of::Ipc,
        Over::All,
        (1.036, 1.036),
        "+3.6 %",
    ),
    one(
        EMT,
        Mode::L4L3L2L1,
        Of::Cycles,
        Over::All,
        (0.963, 0.963),
        "3.7 % fewer",
    ),
    Published {
        phase: "run",
        ..one(
            EMT,
            Mode::L4L3L2L1,
            Of::Cycles,
            Over::All,
            (0.936, 0.936),
            "6.4 % fewer",
        )
    },
    one(
        CSV,
        Mode::L3L2,
        KERNEL,
        Over::Graphs,
        (0.971, 0.980),
        "its fault path leaves out locks and rechecks",
    ),
    one(
        CSV,
        Mode::L4L3L2L1,
        KERNEL,
        Over::Graphs,
        (0.964, 0.974),
        "its fault path leaves out locks and rechecks",
    ),
    one(
        CSV,
        Mode::L3L2,
        KERNEL,
        Over::One("sysbench"),
        (1.016, 1.016),
        "",
    ),
    one(
        CSV,
        Mode::L4L3L2L1,
        KERNEL,
        Over::One("sysbench"),
        (1.009, 1.009),
        "",
    ),
    one(
        CSV,
        Mode::L3L2,
        KERNEL,
        Over::One("redis"),
        (1.016, 1.016),
        "",
    ),
    one(
        CSV,
        Mode::L4L3L2L1,
        KERNEL,
        Over::One("redis"),
        (1.008, 1.008),
        "",
    ),
    one(
        CSV,
        Mode::L3L2,
        KERNEL,
        Over::One("postgres"),
        (0.988, 0.988),
        "",
    ),
    one(
        CSV,
        Mode::L4L3L2L1,
        KERNEL,
        Over::One("postgres"),
        (0.984, 0.984),
        "",
    ),
    one(
        CSV,
        Mode::L4L3L2L1,
        KERNEL,
        Over::One("memcached"),
        (0.981, 0.981),
        "",
    ),
];

/// Published figures that are no ratio of ours: cited in words.
pub const CITED: [&str; 5] = [
    "EMT, ECPT over radix: kernel instructions 1.41 to 1.77 times, page-fault instructions 1.74 times; walk latency 23.1 % better, IPC +7.0 %, cycles 2.3 % fewer. The kernel instructions of ECPT are cited only: no kernel with ECPT is run here.",
    "EMT, radix driver against the unmodified kernel: less than 0.5 % on average.",
    "Every Walk's a Hit (ASPLOS'22), flattened, native, with page-walk caches: accesses per walk 1.5 to 1.0; performance +2.3 %, with page-table-first cache replacement +9.2 %.",
    "Accesses per walk in EMT's logs (three page-walk caches of 32 entries, radix): graphs 1.46 to 1.61, GUPS 1.99, sysbench 1.00.",
    "Walk latency in EMT's logs (radix, cycles): graphs 60 to 71, GUPS 177, sysbench 40.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ranges() {
        for p in PUBLISHED {
            assert!(p.low <= p.high && (0.5..2.0).contains(&p.low), "{p:?}");
        }
    }
}
