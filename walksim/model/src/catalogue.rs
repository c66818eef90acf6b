// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be simulated, what holds each of it, and what its paper says beside what this model says: for the example `status`.

use fpt_geometry::geometry::Mode;

use crate::config::{resolve, Config, ConfigError};
use crate::core::FROM_L1D;
use crate::report::Organisation;
use crate::synthetic::{run, Pattern, Run};

/// The part of a machine that a design is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What fills the TLBs.
    Front,
    /// What walks.
    Organisation,
    /// What caches keep.
    Policy,
}

impl Part {
    /// The word for it on the page.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Front => "front",
            Part::Organisation => "organisation",
            Part::Policy => "policy",
        }
    }
}

/// A figure that was published, and the one that this model has.
pub struct Figure {
    /// What was measured, with its unit.
    pub what: &'static str,
    /// The publication and the place in it.
    pub source: &'static str,
    /// The figure as it is published, with its unit.
    pub published: &'static str,
    /// Measured anew at each call: takes a second or two.
    pub ours: fn() -> Result<f64, ConfigError>,
}

/// A design that can be simulated.
pub struct Design {
    /// The part of a simulated machine that the design changes.
    pub part: Part,
    /// What the configuration calls it.
    pub name: &'static str,
    /// What the design does, in one line.
    pub what: &'static str,
    /// Tests of this crate, as `FILE::TEST` in its folder `tests`.
    pub tests: &'static [&'static str],
    /// Published figures that ours stand beside.
    pub figures: &'static [Figure],
}

const LAWS: &str = "organisations::each_keeps_the_laws_and_repeats";
const GOLDEN: &str = "golden::figures_are_what_they_were";
const SLOW: &str = "reference::fast_and_slow_agree";
const SLOW_DESIGNS: &str = "designs::slow_models_agree";

/// Every design there is; a test holds the names against those of the configuration.
pub const DESIGNS: &[Design] = &[
    Design {
        part: Part::Organisation,
        name: "real",
        what: "the tables that the guest has",
        tests: &[
            SLOW,
            GOLDEN,
            LAWS,
            "published::gups_with_page_walk_caches_of_32_entries_each",
        ],
        figures: &[
            Figure {
                what: "entries read per walk, 32 entries in each page-walk cache",
                source: "EMT's logs (OSDI'25)",
                published: "1.990",
                ours: || Ok(per_walk(&emt_logs("real", &THIRTY_TWO)?).0),
            },
            Figure {
                what: "cycles per walk, the same",
                source: "EMT's logs (OSDI'25)",
                published: "177.5",
                ours: || Ok(per_walk(&emt_logs("real", &THIRTY_TWO)?).1),
            },
        ],
    },
    Design {
        part: Part::Organisation,
        name: "radix",
        what: "conventional tables for the same mappings",
        tests: &[SLOW, GOLDEN, LAWS],
        figures: &[],
    },
    Design {
        part: Part::Organisation,
        name: "ideal",
        what: "translation for nothing",
        tests: &[GOLDEN, LAWS],
        figures: &[],
    },
    Design {
        part: Part::Organisation,
        name: "ecpt",
        what: "elastic cuckoo page tables",
        tests: &[GOLDEN, LAWS, "published::gups_with_ecpt"],
        figures: &[Figure {
            what: "cycles per walk, wrong probes for nothing",
            source: "EMT's logs (OSDI'25)",
            published: "156.1",
            ours: || Ok(per_walk(&emt_logs("ecpt", &[("ecpt.charge_wasted", "false")])?).1),
        }],
    },
    Design {
        part: Part::Organisation,
        name: "hashed",
        what: "one probe and no collisions: the documentation's example",
        tests: &[LAWS, "organisations::the_example_does_what_it_says"],
        figures: &[],
    },
    Design {
        part: Part::Organisation,
        name: "asap",
        what: "prefetch of the last entries of a walk",
        tests: &[
            SLOW_DESIGNS,
            LAWS,
            "designs::a_prefetch_hides_what_is_read_above",
            "designs::a_prefetch_shortens_walks",
        ],
        figures: &[Figure {
            what: "walks shorter by, in %",
            source: "ASAP (MICRO'19), native, beside other programs",
            published: "25, at most 42",
            ours: || {
                Ok(shorter(
                    walk("real", Mode::Radix, &[])?,
                    walk("asap", Mode::Radix, &[])?,
                ))
            },
        }],
    },
    Design {
        part: Part::Organisation,
        name: "nested",
        what: "walks of a guest under a host's tables",
        tests: &[
            SLOW_DESIGNS,
            LAWS,
            "designs::two_dimensions_without_caches_read_g_times_h_plus_both",
            "designs::two_dimensions_flattened_read_less",
        ],
        figures: &[
            Figure {
                what: "entries read per walk, conventional in both",
                source: "Every Walk's a Hit (ASPLOS'22)",
                published: "4.4",
                ours: || two_dimensions(Mode::Radix),
            },
            Figure {
                what: "entries read per walk, flattened in both",
                source: "Every Walk's a Hit (ASPLOS'22)",
                published: "2.8",
                ours: || two_dimensions(Mode::L4L3L2L1),
            },
        ],
    },
    Design {
        part: Part::Front,
        name: "plain",
        what: "a TLB entry for a page",
        tests: &[SLOW, GOLDEN],
        figures: &[],
    },
    Design {
        part: Part::Front,
        name: "coalescing",
        what: "a TLB entry for a run of pages",
        tests: &[
            "designs::runs_multiply_the_reach",
            "designs::runs_take_misses_away",
        ],
        figures: &[Figure {
            what: "TLB misses gone, in %, popular items anywhere",
            source: "CoLT (MICRO'12), partial contiguity",
            published: "40 to 57",
            ours: || {
                let of = |front| {
                    let set = [("tlb.front", front)];
                    let config = machine("real", &set)?;
                    simulate(&config, Mode::Radix, Pattern::Zipf, 64 << 20)
                };
                Ok(shorter(
                    of("plain")?.walks as f64,
                    of("coalescing")?.walks as f64,
                ))
            },
        }],
    },
    Design {
        part: Part::Policy,
        name: "lru",
        what: "the least recently used goes",
        tests: &[SLOW, GOLDEN],
        figures: &[],
    },
    Design {
        part: Part::Policy,
        name: "page-tables-first",
        what: "lines of page tables stay as long as there are others",
        tests: &["published::page_tables_first_gives_more_than_flattening_and_adds_to_it"],
        figures: &[Figure {
            what: "walks shorter by, in %, in the last level",
            source: "Every Walk's a Hit (ASPLOS'22)",
            published: "no such figure; 6.8 % of performance",
            ours: || {
                let kept = [("cache.llc_replacement", "page-tables-first")];
                Ok(shorter(
                    walk("real", Mode::Radix, &[])?,
                    walk("real", Mode::Radix, &kept)?,
                ))
            },
        }],
    },
    Design {
        part: Part::Policy,
        name: "no-page-tables",
        what: "lines of page tables go past the cache, as past L1D if cache.walks_from is l2",
        tests: &["designs::tables_that_bypass_l1_leave_it_to_data"],
        figures: &[Figure {
            what: "entries that L1D would have had, in %",
            source: "NDPage (2025)",
            published: "no such figure; L1 cannot cover them",
            ours: || {
                let config = machine("real", &[("cache.walks_from", "l1d")])?;
                let o = simulate(&config, Mode::Radix, Pattern::Gups, 8 << 30)?;
                let found = o.details.get(FROM_L1D).copied().unwrap_or(0);
                Ok(found as f64 / o.walk_entry_reads.max(1) as f64 * 100.0)
            },
        }],
    },
];

const THIRTY_TWO: [(&str, &str); 3] = [
    ("pwc.l4", "{ entries = 32, ways = 4 }"),
    ("pwc.l3", "{ entries = 32, ways = 4 }"),
    ("pwc.l2", "{ entries = 32, ways = 4 }"),
];

fn machine(organisation: &str, sets: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut all = vec![("organisations".to_owned(), format!("[\"{organisation}\"]"))];
    all.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    resolve("emt", None, &all)
}

/// The figures of the only organisation.
fn simulate(
    config: &Config,
    mode: Mode,
    pattern: Pattern,
    footprint: u64,
) -> Result<Organisation, ConfigError> {
    let what = Run {
        mode,
        pattern,
        footprint,
        accesses: 300_000,
        seed: 1,
    };
    let mut all = run(config, &what)?.organisations;
    all.pop()
        .ok_or_else(|| ConfigError("the machine has no organisation".to_owned()))
}

/// Entries read and cycles of a walk.
fn per_walk(o: &Organisation) -> (f64, f64) {
    let walks = o.walks.max(1) as f64;
    (o.walk_entry_reads as f64 / walks, o.walk_cycles / walks)
}

/// Random updates of 8 GiB with the memory of EMT's logs.
fn emt_logs(organisation: &str, sets: &[(&str, &str)]) -> Result<Organisation, ConfigError> {
    let mut all = sets.to_vec();
    all.push(("cycles.memory", "200"));
    let config = machine(organisation, &all)?;
    simulate(&config, Mode::Radix, Pattern::Gups, 8 << 30)
}

/// Cycles of a walk, random updates of 8 GiB.
fn walk(organisation: &str, mode: Mode, sets: &[(&str, &str)]) -> Result<f64, ConfigError> {
    let config = machine(organisation, sets)?;
    let o = simulate(&config, mode, Pattern::Gups, 8 << 30)?;
    Ok(per_walk(&o).1)
}

/// How much less `now` is than `before`, in percent.
fn shorter(before: f64, now: f64) -> f64 {
    (1.0 - now / before) * 100.0
}

/// Entries read per walk with the same tables in guest and host, one page-walk cache for all levels, 32 pages in the nested TLB.
fn two_dimensions(mode: Mode) -> Result<f64, ConfigError> {
    let sets = [
        ("organisations".to_owned(), "[\"nested\"]".to_owned()),
        ("org.nested.host".to_owned(), format!("'{}'", mode.name())),
        ("org.nested.nested_tlb".to_owned(), "32".to_owned()),
    ];
    let config = resolve("equal", None, &sets)?;
    let o = simulate(&config, mode, Pattern::Gups, 8 << 30)?;
    Ok(per_walk(&o).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ORGANISATIONS;
    use crate::front::FRONTS;

    fn names(part: Part) -> Vec<&'static str> {
        let of = DESIGNS.iter().filter(|d| d.part == part);
        of.map(|d| d.name).collect()
    }

    #[test]
    fn every_design_is_listed_and_can_be_asked_for() {
        let mut all = ORGANISATIONS.to_vec();
        let mut listed = names(Part::Organisation);
        all.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, all);
        assert_eq!(names(Part::Front), FRONTS);
        for name in names(Part::Policy) {
            machine("real", &[("cache.llc_replacement", name)]).unwrap();
        }
    }

    #[test]
    fn every_test_that_is_named_exists() {
        for design in DESIGNS {
            assert!(!design.tests.is_empty(), "{}", design.name);
            for test in design.tests {
                let (file, name) = test.split_once("::").unwrap();
                let path = format!("{}/tests/{file}.rs", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(path).unwrap();
                assert!(text.contains(&format!("fn {name}(")), "{test}");
            }
        }
    }

    #[test]
    fn figures_can_be_made() {
        for figure in DESIGNS.iter().flat_map(|d| d.figures) {
            let ours = (figure.ours)().unwrap();
            println!("{}: {ours:.2}, published {}", figure.what, figure.published);
            assert!(ours.is_finite() && ours > 0.0, "{}", figure.what);
        }
    }
}
