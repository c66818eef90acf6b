// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses per second of the model alone, one core: the target is 20 million with the preset `emt`.
// criterion's macros make a public function without a comment.
#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::Tables;
use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use fpt_geometry::Mode;
use fpt_walksim_model::addr::VirtAddr;
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::core::Core;

const N: u64 = 1 << 20;

fn emt(organisations: &str, sample_sets: &str) -> Config {
    let sets = [
        ("organisations", organisations),
        ("sim.sample_sets", sample_sets),
    ];
    resolve(
        "emt",
        None,
        &sets.map(|(k, v)| (k.to_owned(), v.to_owned())),
    )
    .unwrap()
}

const FOUR: &str = "[\"real\", \"radix\", \"ideal\", \"ecpt\"]";

/// As programs do: three fetches from the line before or the next one to each data access; of these most go
/// to a few lines, some stream, some go anywhere in `bytes`. Bit 0 marks fetches.
fn mixed(bytes: u64, random_in_16: u64) -> Vec<u64> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let (mut pc, mut stream) = (0x40_0000u64, 0u64);
    (0..N)
        .map(|i| {
            let r = next();
            if i % 4 != 0 {
                pc = if r % 64 == 0 {
                    0x40_0000 + r % 16384
                } else {
                    0x40_0000 + (pc + 4) % 16384
                };
                return pc & !1 | 1;
            }
            let offset = if r % 16 < random_in_16 {
                next() % bytes
            } else if r % 16 < 10 {
                0x1000 + next() % 2048
            } else {
                stream += 8;
                stream % bytes
            };
            (0x7f00_0000_0000 + offset) & !7
        })
        .collect()
}

fn run(core: &mut Core, tables: &mut Tables, stream: &[u64]) {
    for va in stream {
        if va & 1 != 0 {
            core.fetch(VirtAddr::new(*va), tables);
        } else {
            core.data(VirtAddr::new(*va), tables);
        }
    }
}

/// CPU time of this thread: other load on the host is not the model's.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

fn model(c: &mut Criterion) {
    let mut group = c.benchmark_group("emt");
    group.throughput(Throughput::Elements(N)).sample_size(10);
    let streams = [
        ("small", mixed(1 << 20, 2)),
        ("graph", mixed(1 << 28, 2)),
        // every data access anywhere in 1 GiB
        ("gups", mixed(1 << 30, 16)),
    ];
    for (name, stream) in &streams {
        for (orgs, list, sample_sets) in [
            ("real", "[\"real\"]", "1"),
            ("all", FOUR, "1"),
            // All but the first in a sixteenth of the sets.
            ("sampled", FOUR, "16"),
        ] {
            let mut core = Core::new(&emt(list, sample_sets), None).unwrap();
            let mut tables = Tables::new(Mode::L3L2);
            run(&mut core, &mut tables, stream);
            group.bench_function(format!("{name}/{orgs}"), |b| {
                b.iter_custom(|rounds| {
                    let start = cpu_time();
                    (0..rounds).for_each(|_| run(&mut core, &mut tables, stream));
                    cpu_time() - start
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, model);
criterion_main!(benches);
