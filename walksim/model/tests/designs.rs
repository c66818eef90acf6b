// SPDX-License-Identifier: MIT OR Apache-2.0
//! Designs beyond the tables of the guest, each in three ways: answers that follow by arithmetic, a slow model that is written for
//! simplicity, and the direction that its paper published.

mod common;

use common::slow::{Lru, SlowCache};
use common::Tables;
use fpt_geometry::geometry::Mode;
use fpt_walksim_model::addr::{PhysAddr, VirtAddr};
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::core::{Core, FROM_L1D};
use fpt_walksim_model::report::{Organisation, Phase};
use fpt_walksim_model::result::{conservation, finish};
use fpt_walksim_model::synthetic::{run, Pattern, Run};
use fpt_walksim_model::walk::{Entry, Walk, Walker};

const BASE: u64 = 0x10_0000_0000;

fn machine(organisation: &str, sets: &[(&str, &str)]) -> Config {
    let mut all = vec![("organisations".to_owned(), format!("[\"{organisation}\"]"))];
    all.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    resolve("emt", None, &all).unwrap()
}

/// One round to warm up, one that counts.
fn rounds(
    config: &Config,
    tables: &mut Tables,
    addresses: impl Iterator<Item = u64> + Clone,
) -> Organisation {
    let mut core = Core::new(config, None).unwrap();
    let addresses = addresses.map(VirtAddr::new);
    addresses.clone().for_each(|va| core.data(va, tables));
    core.reset_counters();
    let mut n = 0;
    for va in addresses {
        core.data(va, tables);
        n += 1;
    }
    let mut phase = Phase {
        organisations: core.report(n, 0),
        ..Phase::default()
    };
    phase.accesses.user_data = n;
    conservation(&phase).unwrap();
    finish(&mut phase, std::slice::from_ref(config));
    phase.organisations.remove(0)
}

/// Random updates of a table.
fn gups(config: &Config, mode: Mode, footprint: u64, accesses: u64) -> Organisation {
    let what = Run {
        mode,
        pattern: Pattern::Gups,
        footprint,
        accesses,
        seed: 1,
    };
    run(config, &what).unwrap().organisations.remove(0)
}

fn reads_per_walk(o: &Organisation) -> f64 {
    o.walk_entry_reads as f64 / o.walks as f64
}

const NO_PWC: [(&str, &str); 3] = [
    ("pwc.l4.entries", "0"),
    ("pwc.l3.entries", "0"),
    ("pwc.l2.entries", "0"),
];

fn far() -> impl Iterator<Item = u64> + Clone {
    (0..4096u64).map(|i| BASE + (i % 2048) * ((1 << 21) + 4096))
}

/// Without any cache of translations each of the guest's g entries costs the host's h and itself, and the page the host's h
/// once more: 24 reads of conventional tables by conventional tables, 8 of two folded ones.
#[test]
fn two_dimensions_without_caches_read_g_times_h_plus_both() {
    for (guest, host, reads) in [
        (Mode::Radix, "radix", 24),
        (Mode::L3L2, "radix", 19),
        (Mode::L4L3L2L1, "radix", 14),
        (Mode::Radix, "l4l3-l2l1", 14),
        (Mode::L4L3L2L1, "l4l3-l2l1", 8),
    ] {
        let mut sets = NO_PWC.to_vec();
        sets.extend([("org.nested.host", host), ("org.nested.nested_tlb", "0")]);
        let o = rounds(&machine("nested", &sets), &mut Tables::new(guest), far());
        assert!(o.walks > 0);
        assert_eq!(o.walk_entry_reads, o.walks * reads, "{guest:?} by {host}");
    }
    // The guest's conventional tables cost the same whatever its kernel has built.
    let mut sets = NO_PWC.to_vec();
    sets.extend([
        ("org.nested.guest", "radix"),
        ("org.nested.nested_tlb", "0"),
    ]);
    let o = rounds(
        &machine("nested", &sets),
        &mut Tables::new(Mode::L4L3L2L1),
        far(),
    );
    assert_eq!(o.walk_entry_reads, o.walks * 24);
}

/// "Every Walk's a Hit" (ASPLOS'22): 4.4 reads in two dimensions become 2.8 if both are flattened, with page-walk caches. Ours at
/// 8 GiB of random updates, with page-walk caches of one array for all levels.
#[test]
fn two_dimensions_flattened_read_less() {
    let of = |guest, host| {
        let mut config = resolve("equal", None, &[]).unwrap();
        config.organisations = vec!["nested".to_owned()];
        let table = format!("host = '{host}'\nnested_tlb = 32").parse().unwrap();
        config.org.insert("nested".to_owned(), table);
        gups(&config, guest, 8 << 30, 200_000)
    };
    let (radix, flat) = (Mode::Radix, Mode::L4L3L2L1);
    let both = [of(radix, "radix"), of(flat, "l4l3-l2l1")];
    let one = [of(flat, "radix"), of(radix, "l4l3-l2l1")];
    let reads: Vec<f64> = both.iter().chain(&one).map(reads_per_walk).collect();
    println!("reads per walk: radix/radix, flat/flat, flat/radix, radix/flat: {reads:.2?}");
    println!("published: 4.4, 2.8");
    let latency = |o: &Organisation| o.walk_latency;
    for o in &one {
        assert!(reads_per_walk(o) < reads[0] && reads_per_walk(o) > reads[1]);
        assert!(latency(o) < latency(&both[0]) && latency(o) > latency(&both[1]));
    }
    assert!(
        (3.0..6.0).contains(&reads[0]) && (2.0..3.5).contains(&reads[1]),
        "{reads:?}"
    );
}

/// Where one entry is read there is nothing to be ahead of. Where the entries above come from L2, the last one waits for no more
/// than its own memory access.
#[test]
fn a_prefetch_hides_what_is_read_above() {
    let near = (0..4096u64).map(|i| BASE + i * 4096);
    let one = rounds(
        &machine("asap", &[]),
        &mut Tables::new(Mode::Radix),
        near.clone(),
    );
    let plain = rounds(&machine("real", &[]), &mut Tables::new(Mode::Radix), near);
    assert_eq!((one.walks, one.walk_entry_reads), (4096, 4096));
    assert_eq!(one.walk_cycles, plain.walk_cycles);
    // A page in each 2 MiB, no page-walk caches, all in L2: the last of four entries is waited for there, prefetched or not.
    let walk = |o: &str, more: &[(&str, &str)]| {
        let mut sets = NO_PWC.to_vec();
        sets.push(("cache.l2", "{ kib = 16384, ways = 16 }"));
        sets.extend(more);
        rounds(&machine(o, &sets), &mut Tables::new(Mode::Radix), far())
    };
    let (plain, asap) = (walk("real", &[]), walk("asap", &[]));
    assert_eq!(plain.entry_reads_by_cache.l2, plain.walks * 4);
    assert_eq!(plain.walk_cycles, plain.walks as f64 * 65.0);
    assert_eq!(asap.walk_cycles, plain.walk_cycles);
    // Where L2 has less, the more is prefetched the better; the slow model below has the sums.
    let small = [("cache.l2", "{ kib = 32, ways = 8 }")];
    let (plain, one) = (walk("real", &small), walk("asap", &small));
    let two = walk("asap", &[small[0], ("org.asap.levels", "2")]);
    assert_eq!(plain.walk_entry_reads, two.walk_entry_reads);
    assert!(two.walk_cycles < one.walk_cycles && one.walk_cycles < plain.walk_cycles);
}

/// ASAP (MICRO'19): walks 25 % shorter on average and 42 % at most, natively, where data of others displace tables from the caches.
#[test]
fn a_prefetch_shortens_walks() {
    let of = |o: &str, levels: &str| {
        let sets = [("org.asap.levels", levels)];
        gups(&machine(o, &sets), Mode::Radix, 8 << 30, 200_000).walk_latency
    };
    let (plain, one, two) = (of("real", "1"), of("asap", "1"), of("asap", "2"));
    let change = |now: f64| (1.0 - now / plain) * 100.0;
    println!(
        "walks {:.1} % and {:.1} % shorter; published 25 %",
        change(one),
        change(two)
    );
    assert!(change(one) > 5.0 && change(two) >= change(one) && change(two) < 42.0);
}

/// NDPage (2025): entries of page tables find little in L1 and displace data there, so they go past it.
#[test]
fn tables_that_bypass_l1_leave_it_to_data() {
    let of = |from: &str| {
        let sets = [("cache.walks_from", from)];
        gups(&machine("real", &sets), Mode::Radix, 8 << 30, 200_000)
    };
    let (through, past) = (of("l1d"), of("l2"));
    let leaf = through.entry_reads_by_level["pt"] as f64;
    let above = through.walk_entry_reads as f64 - leaf;
    // Found there are entries above the last level, at most: a PTE's line is gone before its next use.
    let found = through.details[FROM_L1D] as f64;
    println!(
        "L1D has {:.1} % of entries; published: next to none of the last level",
        found / (leaf + above) * 100.0
    );
    assert!(found < above * 1.02 && found < 0.6 * (leaf + above));
    assert_eq!(through.walks, past.walks);
    assert!(!past.details.contains_key(FROM_L1D));
    assert!(past.caches.l1d.misses <= through.caches.l1d.misses);
    // Where tables and data fit, L1D is the nearer place: a bypass is for those that do not.
    let fits = (0..3u64).flat_map(|_| (0..96u64).map(|i| BASE + i * 4096 + (i % 64) * 64));
    let misses = |from: &str| {
        let sets = [
            ("cache.walks_from", from),
            ("cache.prefetch", "false"),
            ("tlb.stlb.small.entries", "8"),
            ("tlb.l1d.small.entries", "4"),
        ];
        let o = rounds(
            &machine("real", &sets),
            &mut Tables::new(Mode::Radix),
            fits.clone(),
        );
        (o.caches.l1d.misses, o.walk_latency)
    };
    assert_eq!(misses("l2").0, 0);
    assert!(misses("l1d").1 < misses("l2").1);
}

/// A line of eight entries that lead to neighbours is one entry of the TLB.
#[test]
fn runs_multiply_the_reach() {
    let addresses = |pages: u64| (0..pages).map(|i| BASE + i * 4096);
    let of = |front: &str, pages: &str, frame: fn(u64) -> u64, n: u64| {
        let mut sets = vec![("tlb.front", front)];
        if front == "coalescing" {
            sets.push(("front.coalescing.pages", pages));
        }
        let mut tables = Tables::new(Mode::Radix);
        tables.frame = frame;
        rounds(&machine("real", &sets), &mut tables, addresses(n))
    };
    let whole: fn(u64) -> u64 = |page| page;
    // Eight times the pages of the second level; walks without runs.
    assert_eq!(of("plain", "", whole, 8192).walks, 8192);
    assert_eq!(of("coalescing", "8", whole, 8192).walks, 0);
    assert_eq!(of("coalescing", "4", whole, 8192).walks, 2048);
    assert_eq!(of("coalescing", "4", whole, 4096).walks, 0);
    // Frames in pieces of four: no run of eight, and runs of four as before.
    let fours: fn(u64) -> u64 = |page| page / 4 * 12 + page % 4;
    let eights = of("coalescing", "8", fours, 8192);
    assert_eq!(
        (eights.walks, eights.details["coalesced_entries"]),
        (8192, 0)
    );
    assert_eq!(of("coalescing", "4", fours, 8192).walks, 2048);
    // Nothing follows anything: as without.
    let apart: fn(u64) -> u64 = |page| page * 2;
    let none = of("coalescing", "2", apart, 8192);
    assert_eq!(none.details["coalesced_entries"], 0);
    assert_eq!(none.walk_cycles, of("plain", "", apart, 8192).walk_cycles);
}

/// CoLT (MICRO'12): 40 to 57 % of TLB misses go on average with the contiguity that systems had. Here it is whole: three of four
/// go from a stream, fewer where what is popular lies anywhere.
#[test]
fn runs_take_misses_away() {
    let gone = |pattern| {
        let of = |front: &str| {
            let what = Run {
                mode: Mode::Radix,
                pattern,
                footprint: 64 << 20,
                accesses: 1 << 20,
                seed: 1,
            };
            let config = machine("real", &[("tlb.front", front)]);
            run(&config, &what).unwrap().organisations.remove(0).walks as f64
        };
        (1.0 - of("coalescing") / of("plain")) * 100.0
    };
    let (zipf, stream) = (gone(Pattern::Zipf), gone(Pattern::Sequential));
    println!("{zipf:.0} and {stream:.0} % of misses gone; published 40 to 57 %");
    assert_eq!(stream, 75.0);
    assert!((20.0..57.0).contains(&zipf));
}

/// What a slow walker has behind it.
struct Slow {
    config: Config,
    l1d: SlowCache,
    l2: SlowCache,
    llc: SlowCache,
    guest: [Lru<u64>; 3],
    host: [Lru<u64>; 3],
    pages: Lru<u64>,
    cycles: f64,
    reads: u64,
}

impl Slow {
    fn new(config: &Config) -> Slow {
        let pwc = || {
            let p = &config.pwc;
            [p.l2, p.l3, p.l4].map(|s| Lru::new(s.entries, s.ways))
        };
        Slow {
            l1d: SlowCache::new(config.cache.l1d),
            l2: SlowCache::new(config.cache.l2),
            llc: SlowCache::new(config.cache.llc),
            guest: pwc(),
            host: pwc(),
            pages: Lru::new(16, 16),
            cycles: 0.0,
            reads: 0,
            config: config.clone(),
        }
    }

    fn data(&mut self, line: u64) {
        if !self.l1d.access(line) {
            self.beyond(line);
        }
    }

    fn beyond(&mut self, line: u64) -> f64 {
        let c = &self.config.cycles;
        if self.l2.access(line) {
            c.l2
        } else if self.llc.access(line) {
            c.llc
        } else {
            c.memory
        }
    }

    fn read(&mut self, pa: PhysAddr) -> f64 {
        self.reads += 1;
        self.beyond(pa.as_u64() / 64)
    }

    /// The entries that a walk reads.
    fn needed(pwc: &mut [Lru<u64>; 3], va: u64, entries: &[Entry]) -> Vec<Entry> {
        let bits = |level: usize| va >> (12 + 9 * (level - 1));
        let found = (2..=4).find(|level| pwc[level - 2].hit(bits(*level), &bits(*level)));
        let below = found.unwrap_or(9);
        let last = entries.last().unwrap().level;
        let read = |e: &&Entry| usize::from(e.level) < below || e.level == last;
        let needed: Vec<Entry> = entries.iter().filter(read).copied().collect();
        for e in needed.iter().filter(|e| e.level != last) {
            let level = usize::from(e.level);
            pwc[level - 2].put(bits(level), bits(level));
        }
        needed
    }

    fn asap(&mut self, walk: &Walk) {
        let needed = Slow::needed(&mut self.guest, walk.va.as_u64(), walk.visited());
        let (last, above) = needed.split_last().unwrap();
        let arrives = 1.0 + self.read(last.pa);
        let mut now = 1.0;
        for e in above {
            now += self.read(e.pa);
        }
        self.cycles += f64::max(now + 16.0, arrives);
    }

    fn host(&mut self, gpa: u64) {
        if self.pages.hit(0, &(gpa >> 12)) {
            return;
        }
        self.cycles += 1.0;
        let entry = |level: u64| Entry {
            pa: PhysAddr::new(
                (1 << 43) + (1 << 42) + (level << 38) + (gpa >> (12 + 9 * (level - 1))) * 8,
            ),
            level: level as u8,
            index_bits: 9,
        };
        let entries = [4, 3, 2, 1].map(entry);
        for e in Slow::needed(&mut self.host, gpa, &entries) {
            self.cycles += self.read(e.pa);
        }
        self.pages.put(0, gpa >> 12);
    }

    fn nested(&mut self, walk: &Walk) {
        self.cycles += 1.0;
        for e in Slow::needed(&mut self.guest, walk.va.as_u64(), walk.visited()) {
            self.host(e.pa.as_u64());
            self.cycles += self.read(e.pa);
        }
        self.host(walk.page.as_u64() | walk.va.as_u64() & 0xfff);
    }
}

/// Pages in random order; each access misses both TLBs, which hold one page.
#[test]
fn slow_models_agree() {
    let sets = [
        ("tlb.l1d.small", "{ entries = 1, ways = 1 }"),
        ("tlb.l1i.small", "{ entries = 1, ways = 1 }"),
        ("tlb.stlb.small", "{ entries = 1, ways = 1 }"),
        ("cache.prefetch", "false"),
        ("cache.l2", "{ kib = 64, ways = 8 }"),
        ("cache.llc", "{ kib = 512, ways = 8 }"),
    ];
    for mode in Mode::ALL {
        for name in ["asap", "nested"] {
            let config = machine(name, &sets);
            let mut tables = Tables::new(mode);
            let mut core = Core::new(&config, None).unwrap();
            let mut slow = Slow::new(&config);
            let mut random = 77u64;
            for i in 0..30_000u64 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Never the page before.
                let page = (random >> 33) % 3000 * 2 + i % 2;
                let va = BASE + ((page % 7) << 30) + (page << 12) + (random >> 20) % 64 * 64;
                core.data(VirtAddr::new(va), &mut tables);
                let walk = tables.walk(VirtAddr::new(va)).unwrap();
                match name {
                    "asap" => slow.asap(&walk),
                    _ => slow.nested(&walk),
                }
                slow.data((walk.page.as_u64() | va & 0xfff) / 64);
            }
            let o = core.report(30_000, 0).remove(0);
            assert_eq!(o.walks, 30_000, "{name} {mode:?}");
            assert_eq!(o.walk_entry_reads, slow.reads, "{name} {mode:?}");
            assert_eq!(o.walk_cycles, slow.cycles, "{name} {mode:?}");
        }
    }
}
