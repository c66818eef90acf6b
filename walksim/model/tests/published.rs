// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures that EMT's artifact has in its own logs (VM-Bench, drcachesim, March 2024), with the parameters of these logs, as known
//! answers of this model: the same program at the same size, by computed tables and no guest.

use fpt_geometry::Mode;
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::report::Organisation;
use fpt_walksim_model::synthetic::{run, Pattern, Run};

fn config(sets: &[(&str, &str)]) -> Config {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    resolve("emt", None, &sets.iter().map(own).collect::<Vec<_>>()).unwrap()
}

/// Random updates of a table of 8 GiB: an organisation's figures after all of it was touched.
fn gups_8g(config: &Config, organisation: &str) -> Organisation {
    let what = Run {
        mode: Mode::Radix,
        pattern: Pattern::Gups,
        footprint: 8 << 30,
        accesses: 1_000_000,
        seed: 1,
    };
    let all = run(config, &what).unwrap().organisations;
    all.into_iter().find(|o| o.name == organisation).unwrap()
}

fn within_3_per_cent(what: &str, ours: f64, theirs: f64) {
    println!("{what}: {ours:.3}, published {theirs}");
    let off = (ours / theirs - 1.0) * 100.0;
    assert!(
        off.abs() < 3.0,
        "{what}: {ours:.3} for {theirs}: {off:+.1} %"
    );
}

fn per_walk(o: &Organisation) -> (f64, f64) {
    let walks = o.walks as f64;
    (o.walk_entry_reads as f64 / walks, o.walk_cycles / walks)
}

#[test]
fn gups_with_page_walk_caches_of_32_entries_each() {
    let thirty_two = "{ entries = 32, ways = 4 }";
    let config = config(&[
        ("organisations", "[\"real\"]"),
        ("cycles.memory", "200"),
        ("pwc.l4", thirty_two),
        ("pwc.l3", thirty_two),
        ("pwc.l2", thirty_two),
    ]);
    let (reads, cycles) = per_walk(&gups_8g(&config, "real"));
    within_3_per_cent("reads per walk", reads, 1.990);
    within_3_per_cent("cycles per walk", cycles, 177.5);
}

#[test]
fn gups_with_the_published_page_walk_caches() {
    let config = config(&[("organisations", "[\"real\"]"), ("cycles.memory", "200")]);
    let (reads, _) = per_walk(&gups_8g(&config, "real"));
    within_3_per_cent("reads per walk", reads, 2.519);
}

/// There only the right probe goes through the caches, so the bound without wasted probes is the one to compare.
#[test]
fn gups_with_ecpt() {
    let config = config(&[
        ("organisations", "[\"ecpt\"]"),
        ("cycles.memory", "200"),
        ("ecpt.charge_wasted", "false"),
    ]);
    let (_, cycles) = per_walk(&gups_8g(&config, "ecpt"));
    within_3_per_cent("cycles per walk", cycles, 156.1);
}
