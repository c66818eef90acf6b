// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sixteenth of the sets against all of them, where accesses are spread evenly. Where some lines are much more popular than others
//! the error is larger, and said to be: `docs/explanation/walksim.md` has figures.

use fpt_geometry::Mode;
use fpt_walksim_model::config::{resolve, Config, Cycles};
use fpt_walksim_model::report::{ByCache, Organisation};
use fpt_walksim_model::synthetic::{run, Pattern, Run};

fn all_four(sample_sets: &str) -> Config {
    let set = ("sim.sample_sets".to_owned(), sample_sets.to_owned());
    resolve("emt", None, &[set]).unwrap()
}

fn latency(by: &ByCache, c: &Cycles) -> f64 {
    let cycles = by.l2 as f64 * c.l2 + by.llc as f64 * c.llc + by.memory as f64 * c.memory;
    cycles / by.sum().max(1) as f64
}

/// The mean latency of each class, in percent of what it is with all sets, and what the result says of its error.
fn off(class: &str, sampled: &Organisation, whole: &Organisation, c: &Cycles) -> (f64, f64) {
    let of = |o: &Organisation| match class {
        "data" => latency(&o.caches.data_misses, c),
        "prefetch" => latency(&o.caches.prefetch_reads, c),
        _ => latency(&o.entry_reads_by_cache, c),
    };
    let said = sampled.details[&format!("sampling_error_ppm_{class}")] as f64 / 1e4;
    ((of(sampled) / of(whole) - 1.0) * 100.0, said)
}

#[test]
fn a_part_of_the_sets_stands_for_all() {
    for (pattern, footprint) in [
        (Pattern::Gups, 1 << 30),
        // Entries of the third level are read, and all of them are in one line.
        (Pattern::Gups, 8 << 30),
    ] {
        let what = Run {
            mode: Mode::L3L2,
            pattern,
            footprint,
            accesses: 400_000,
            seed: 1,
        };
        let whole = run(&all_four("1"), &what).unwrap().organisations;
        let sampled = run(&all_four("16"), &what).unwrap().organisations;
        // The first is simulated in full, whatever the others are.
        assert_eq!(sampled[0], whole[0]);
        for (part, all) in sampled.iter().zip(&whole).skip(1) {
            assert_eq!(
                (part.walks, part.walk_entry_reads),
                (all.walks, all.walk_entry_reads)
            );
            assert_eq!((part.tlb, &part.pwc), (all.tlb, &all.pwc));
            for class in ["data", "prefetch", "walk"] {
                if class == "walk" && all.walk_entry_reads == 0 {
                    continue;
                }
                let (off, said) = off(class, part, all, &all_four("1").cycles);
                let name = format!("{} {}: {class}", pattern.name(), part.name);
                println!("{name} is {off:+.2} % off, said to be {said:.2} %");
                assert!(off.abs() < 2.5, "{name}: {off}");
                assert!(off.abs() < 4.0 * said + 0.5, "{name}: {off} for {said}");
            }
        }
    }
}
