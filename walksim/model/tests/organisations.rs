// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every organisation there is, whoever wrote it, and the documentation's example.

use fpt_geometry::Mode;
use fpt_walksim_model::config::{resolve, ORGANISATIONS};
use fpt_walksim_model::synthetic::{run, Pattern, Run};

const WHAT: Run = Run {
    mode: Mode::L3L2,
    pattern: Pattern::Gups,
    footprint: 128 << 20,
    accesses: 50_000,
    seed: 1,
};

fn machine(name: &str, more: &[(&str, &str)]) -> fpt_walksim_model::config::Config {
    let mut sets = vec![("organisations".to_owned(), format!("[\"{name}\"]"))];
    sets.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    resolve("emt", None, &sets).unwrap()
}

/// [`run`] holds the counters against the conservation laws.
#[test]
fn each_keeps_the_laws_and_repeats() {
    for name in ORGANISATIONS {
        let config = machine(name, &[]);
        let (a, b) = (run(&config, &WHAT).unwrap(), run(&config, &WHAT).unwrap());
        assert_eq!(a, b, "{name}");
        let o = a.organisations.first().unwrap();
        assert_eq!(o.name, *name);
        assert!(o.walks > 1000 || *name == "ideal", "{name}");
    }
}

#[test]
fn the_example_does_what_it_says() {
    let config = machine("hashed", &[]);
    let o = run(&config, &WHAT).unwrap().organisations.remove(0);
    assert_eq!(o.walk_entry_reads, o.walks);
    let c = &o.entry_reads_by_cache;
    let by_hand = c.l2 as f64 * 16.0 + c.llc as f64 * 56.0 + c.memory as f64 * 180.0;
    assert_eq!(o.walk_cycles, by_hand + o.walks as f64 * 2.0);
    // A table of 64 KiB is nearer, although its hash takes longer.
    let parameters = [
        ("org.hashed.slots_log2", "10"),
        ("org.hashed.hash_cycles", "5"),
    ];
    let small = run(&machine("hashed", &parameters), &WHAT).unwrap();
    let small = small.organisations.first().unwrap();
    assert!(small.entry_reads_by_cache.l2 > 2 * c.l2 && small.walk_latency < o.walk_latency);
}

#[test]
fn the_documentation_shows_it_as_it_is() {
    let page = include_str!("../../../docs/explanation/walksim.md");
    let source = include_str!("../src/org/hashed.rs");
    assert!(
        page.contains(source),
        "docs/explanation/walksim.md has another org/hashed.rs"
    );
    assert!(source.lines().count() <= 60);
}
