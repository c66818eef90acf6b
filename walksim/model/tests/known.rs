// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access patterns whose figures follow from the parameters by arithmetic.

mod common;

use common::Tables;
use fpt_geometry::Mode;
use fpt_walksim_model::addr::VirtAddr;
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::core::Core;
use fpt_walksim_model::report::{Organisation, Phase};
use fpt_walksim_model::result::{conservation, finish};

fn emt(sets: &[(&str, &str)]) -> Config {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    resolve("emt", None, &sets.iter().map(own).collect::<Vec<_>>()).unwrap()
}

const BASE: u64 = 0x10_0000_0000;

/// Warms up with one round of the addresses, measures the second.
fn second_round(
    config: &Config,
    mode: Mode,
    addresses: impl Iterator<Item = u64> + Clone,
) -> Phase {
    let mut tables = Tables::new(mode);
    let mut core = Core::new(config, None).unwrap();
    for va in addresses.clone() {
        core.data(VirtAddr::new(va), &mut tables);
    }
    core.reset_counters();
    let mut n = 0;
    for va in addresses {
        core.data(VirtAddr::new(va), &mut tables);
        n += 1;
    }
    let mut phase = Phase {
        organisations: core.report(n, 0),
        ..Phase::default()
    };
    phase.accesses.user_data = n;
    phase.instructions.user = n;
    conservation(&phase).unwrap();
    finish(&mut phase, std::slice::from_ref(config));
    phase
}

fn org<'a>(phase: &'a Phase, name: &str) -> &'a Organisation {
    phase.organisations.iter().find(|o| o.name == name).unwrap()
}

#[test]
fn what_fits_costs_nothing_more() {
    // 16 pages, one line each: everything in L1
    let p = second_round(
        &emt(&[]),
        Mode::Radix,
        (0..16u64).map(|i| BASE + i * 4096 + i * 64),
    );
    let real = org(&p, "real");
    assert_eq!(
        (real.walks, real.tlb.l1d.hits.small, real.caches.l1d.hits),
        (0, 16, 16)
    );
    assert_eq!(real.cycles.total, 16.0 + 16.0 * 2.0 / 8.0);
}

#[test]
fn a_stride_of_pages_beyond_the_tlb_walks_each_time() {
    // 4096 pages in order, twice: LRU has thrown out each one before it comes again
    let pages = 4096u64;
    let stride = (0..pages).map(|i| BASE + i * 4096);
    let config = emt(&[("cache.prefetch", "false")]);
    let p = second_round(&config, Mode::Radix, stride.clone());
    let real = org(&p, "real");
    assert_eq!(real.walks, pages);
    // 8 tables: the PWC holds all their entries, so that each walk reads one entry, 8 to a line
    assert_eq!(real.walk_entry_reads, pages);
    assert_eq!(real.entry_reads_by_level["pt"], pages);
    assert_eq!(real.pwc["pd"].hits, pages);
    assert_eq!(org(&p, "ideal").cycles.walk, 0.0);
    // ECPT: three ways, always three probes
    let ecpt = org(&p, "ecpt");
    assert_eq!(ecpt.walk_entry_reads, 3 * pages);
    assert_eq!(ecpt.details["wasted_probes"], 2 * pages);
}

#[test]
fn merged_levels_save_the_reads_that_the_caches_miss() {
    // a page in each of 256 regions of 1 GiB, five pages in the same set to miss the TLBs: no entry below
    // the root's stays in the walk caches of (2, 4, 32) entries
    let far = (0..2048u64).map(|i| (i % 256) << 30 | (i / 256) << 21 | (i % 16) << 12);
    let config = emt(&[
        ("tlb.stlb.small.entries", "64"),
        ("tlb.stlb.small.ways", "4"),
    ]);
    let reads = |mode| {
        let p = second_round(&config, mode, far.clone());
        let real = org(&p, "real");
        assert_eq!(real.walks, 2048);
        // what the counterfactual conventional tables would do does not depend on the mode
        let radix = org(&p, "radix");
        (real.walk_entry_reads, radix.walk_entry_reads)
    };
    // one PML4E is in the cache: PDPTE, PDE, PTE are read
    assert_eq!(reads(Mode::Radix), (3 * 2048, 3 * 2048));
    // PDE and PTE
    assert_eq!(reads(Mode::L3L2), (2 * 2048, 3 * 2048));
    // the 4 PDPTEs of the cache are others: all three
    assert_eq!(reads(Mode::L4L3), (3 * 2048, 3 * 2048));
    // PDPTE and PTE
    assert_eq!(reads(Mode::L4L3L2L1), (2 * 2048, 3 * 2048));
}

#[test]
fn a_pointer_chase_has_the_latency_of_where_it_hits() {
    // lines in a full cycle, each step far from the one before; one page size up, so that TLBs are no matter
    let chase = |lines: u64| (0..lines).map(move |i| BASE + (i * 97 % lines) * 64);
    let config = emt(&[
        ("cache.prefetch", "false"),
        ("organisations", "[\"ideal\"]"),
    ]);
    let latency = |lines: u64| {
        let p = second_round(&config, Mode::Radix, chase(lines));
        org(&p, "ideal").cycles.data * 8.0 / lines as f64
    };
    assert_eq!(latency(256), 2.0);
    assert_eq!(latency(4096), 16.0); // 256 KiB: L2
    assert_eq!(latency(65536), 56.0); // 4 MiB: LLC
    assert_eq!(latency(1 << 19), 180.0); // 32 MiB: memory
}

#[test]
fn the_prefetcher_halves_the_misses_of_a_stream() {
    let stream = (0..1u64 << 16).map(|i| BASE + i * 64);
    let p = second_round(&emt(&[]), Mode::Radix, stream);
    let c = &org(&p, "real").caches;
    assert_eq!(c.l1d.misses, 1 << 15);
    assert_eq!(c.prefetches, 1 << 15);
}

#[test]
fn large_pages_have_reach() {
    let mut tables = Tables::new(Mode::Radix);
    tables.large = |_| true;
    let mut core = Core::new(&emt(&[]), None).unwrap();
    // 64 MiB in steps of a page
    for round in 0..2 {
        if round == 1 {
            core.reset_counters();
        }
        for i in 0..16384u64 {
            core.data(VirtAddr::new(BASE + i * 4096), &mut tables);
        }
    }
    let real = &core.report(16384, 0)[0];
    assert_eq!(real.walks, 0);
    assert_eq!(real.tlb.l1d.hits.large, 16384);
}

#[test]
fn two_cores_may_share_the_last_level() {
    use fpt_walksim_model::core::Shared;
    let config = emt(&[]);
    let shared = Shared::new(&config);
    let mut tables = Tables::new(Mode::Radix);
    let mut a = Core::new(&config, Some(&shared)).unwrap();
    let mut b = Core::new(&config, Some(&shared)).unwrap();
    a.data(VirtAddr::new(BASE), &mut tables);
    b.data(VirtAddr::new(BASE), &mut tables);
    assert_eq!(a.report(1, 0)[0].caches.data_misses.memory, 1);
    assert_eq!(b.report(1, 0)[0].caches.data_misses.llc, 1);
}

#[test]
fn broken_counters_are_found() {
    let mut p = second_round(&emt(&[]), Mode::Radix, (0..100u64).map(|i| BASE + i * 4096));
    p.organisations[0].walks += 1;
    assert!(conservation(&p).unwrap_err().contains("walks"));
}

/// Each law with a count that breaks it.
#[test]
fn each_law_can_be_broken() {
    use fpt_walksim_model::report::Phase as P;
    type Break = (&'static str, fn(&mut P));
    fn real(p: &mut P) -> &mut Organisation {
        &mut p.organisations[0]
    }
    fn pwc<'a>(p: &'a mut P, level: &str) -> &'a mut u64 {
        &mut real(p).pwc.get_mut(level).unwrap().misses
    }
    let all: [Break; 27] = [
        ("kernel instructions by category", |p| {
            p.instructions.kernel_by_category.other += 1;
        }),
        ("kernel instructions by innermost entry", |p| {
            p.instructions.kernel_by_innermost_entry.other += 1;
        }),
        ("kernel instructions by category", |p| {
            p.instructions.kernel += 1;
        }),
        ("L1D TLB hits + misses", |p| real(p).tlb.l1d.hits.small += 1),
        ("L1D TLB hits + misses", |p| real(p).tlb.l1d.accesses += 1),
        ("L1I TLB hits + misses", |p| real(p).tlb.l1i.hits.small += 1),
        ("L1I TLB hits + misses", |p| real(p).tlb.l1i.accesses += 1),
        ("second-level TLB hits + misses", |p| {
            real(p).tlb.stlb.hits.small += 1;
        }),
        ("second-level TLB accesses", |p| {
            real(p).tlb.l1d.misses.small += 1;
            real(p).tlb.l1d.accesses += 1;
        }),
        ("walks", |p| real(p).walks += 1),
        ("walks of 4 KiB pages", |p| {
            real(p).walks_by_page_size.small += 1;
        }),
        ("walks of 2 MiB pages", |p| {
            real(p).walks_by_page_size.large += 1;
        }),
        ("walks of 1 GiB pages", |p| {
            real(p).walks_by_page_size.huge += 1;
        }),
        ("page-walk cache pd", |p| *pwc(p, "pd") += 1),
        ("page-walk cache pdpt", |p| *pwc(p, "pdpt") += 1),
        ("page-walk cache pml4", |p| *pwc(p, "pml4") += 1),
        ("L1D accesses", |p| real(p).caches.l1d.hits += 1),
        ("L1D accesses", |p| p.untranslated.data += 1),
        ("L1I accesses", |p| real(p).caches.l1i.hits += 1),
        ("L1D misses", |p| real(p).caches.data_misses.llc += 1),
        ("L1I misses", |p| real(p).caches.fetch_misses.llc += 1),
        ("prefetches", |p| real(p).caches.prefetches += 1),
        ("entry reads by level", |p| {
            *real(p).entry_reads_by_level.get_mut("pt").unwrap() += 1;
        }),
        ("entry reads by cache", |p| {
            real(p).entry_reads_by_cache.l2 += 1;
        }),
        ("L2 lookups", |p| real(p).caches.l2_lookups += 1),
        ("LLC lookups", |p| real(p).caches.llc_lookups += 1),
        ("L1D accesses", |p| p.accesses.kernel_data += 1),
    ];
    let p = second_round(&emt(&[]), Mode::Radix, (0..9000).map(|i| BASE + i * 4096));
    for (law, break_it) in all {
        let mut broken = p.clone();
        break_it(&mut broken);
        let why = conservation(&broken).unwrap_err();
        assert!(why.contains(law), "{law}: {why}");
    }
}

/// What a core counts itself, without the sums of a caller: accesses that it was not given, reads that an organisation
/// has no name for.
#[test]
fn a_lost_access_is_found() {
    let mut tables = Tables::new(Mode::L3L2);
    let mut core = Core::new(&emt(&[]), None).unwrap();
    (0..5000u64).for_each(|i| core.data(VirtAddr::new(BASE + i * 4096), &mut tables));
    (0..300u64).for_each(|i| core.fetch(VirtAddr::new(BASE + i * 4096), &mut tables));
    let mut check = |data, fetch| {
        let mut phase = Phase {
            organisations: core.report(data, fetch),
            ..Phase::default()
        };
        (phase.accesses.user_data, phase.accesses.user_fetch) = (data, fetch);
        conservation(&phase)
    };
    check(5000, 300).unwrap();
    assert!(check(5001, 300).unwrap_err().contains("L1D TLB hits"));
    assert!(check(5000, 299).unwrap_err().contains("L1I TLB hits"));
}
