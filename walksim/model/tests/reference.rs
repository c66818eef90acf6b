// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model against another one that is written for simplicity: lists in order of use, no short cuts, no
//! sharing between organisations.

mod common;

use std::collections::BTreeMap;

use common::slow::{Lru, SlowCache};
use common::Tables;
use fpt_geometry::Mode;
use fpt_walksim_model::addr::VirtAddr;
use fpt_walksim_model::config::{resolve, Config, Sets, TlbLevel};
use fpt_walksim_model::core::Core;
use fpt_walksim_model::report::Organisation;
use fpt_walksim_model::stream::{Place, Stream};
use fpt_walksim_model::walk::{Flush, Size, Walk, Walker};
use proptest::prelude::*;

#[derive(Clone, PartialEq, Debug)]
struct Page {
    number: u64,
    size: Size,
    pcid: u16,
    global: bool,
}

/// A TLB with an array per size, or one for all.
struct SlowTlb {
    arrays: [Option<Lru<Page>>; 3],
}

impl SlowTlb {
    fn new(c: &TlbLevel) -> SlowTlb {
        let make = |s: Sets| (s.entries > 0).then(|| Lru::new(s.entries, s.ways));
        SlowTlb {
            arrays: [make(c.small), make(c.large), make(c.huge)],
        }
    }
    fn array(&mut self, size: Size) -> &mut Lru<Page> {
        let mut i = size as usize;
        while self.arrays[i].is_none() {
            i -= 1;
        }
        self.arrays[i].as_mut().unwrap()
    }
    fn hit(&mut self, va: u64, pcid: u16) -> Option<Size> {
        for size in Size::ALL {
            let number = (va & ((1 << 48) - 1)) >> size.shift();
            for (global, pcid) in [(false, pcid), (true, 0), (true, pcid)] {
                let page = Page {
                    number,
                    size,
                    pcid,
                    global,
                };
                if self.array(size).hit(number, &page) {
                    return Some(size);
                }
            }
        }
        None
    }
    fn put(&mut self, walk: &Walk, pcid: u16, pcids: bool) {
        let number = (walk.va.as_u64() & ((1 << 48) - 1)) >> walk.size.shift();
        let pcid = if walk.global && pcids { 0 } else { pcid };
        self.array(walk.size).put(
            number,
            Page {
                number,
                size: walk.size,
                pcid,
                global: walk.global,
            },
        );
    }
    fn flush(&mut self, what: Flush) {
        for array in self.arrays.iter_mut().flatten() {
            array.drop(|p| match what {
                Flush::All => true,
                Flush::AddressSpace { pcid } => !p.global && p.pcid == pcid,
                Flush::Page { va, pcid } => {
                    (va.as_u64() & ((1 << 48) - 1)) >> p.size.shift() == p.number
                        && (p.global || p.pcid == pcid)
                }
            });
        }
    }
}

/// The whole core with the tables as they are, and nothing else.
struct Slow {
    config: Config,
    l1i: SlowTlb,
    l1d: SlowTlb,
    stlb: SlowTlb,
    /// Level, its lowest address bit, which store.
    levels: Vec<(u8, u32, usize)>,
    /// (level, address bits, PCID)
    pwc: Vec<Lru<(u8, u64, u16)>>,
    i: SlowCache,
    d: SlowCache,
    l2: SlowCache,
    llc: SlowCache,
    n: BTreeMap<&'static str, u64>,
}

impl Slow {
    fn new(c: &Config) -> Slow {
        let one = |s: Sets| Lru::new(s.entries, s.ways);
        let unified = c.pwc.unified.entries > 0;
        Slow {
            config: c.clone(),
            l1i: SlowTlb::new(&c.tlb.l1i),
            l1d: SlowTlb::new(&c.tlb.l1d),
            stlb: SlowTlb::new(&c.tlb.stlb),
            levels: (0..3)
                .map(|i| {
                    (
                        2 + i as u8,
                        21 + 9 * i,
                        if unified { 0 } else { i as usize },
                    )
                })
                .collect(),
            pwc: if unified {
                vec![one(c.pwc.unified)]
            } else {
                vec![one(c.pwc.l2), one(c.pwc.l3), one(c.pwc.l4)]
            },
            i: SlowCache::new(c.cache.l1i),
            d: SlowCache::new(c.cache.l1d),
            l2: SlowCache::new(c.cache.l2),
            llc: SlowCache::new(c.cache.llc),
            n: BTreeMap::new(),
        }
    }
    fn count(&mut self, what: &'static str) {
        *self.n.entry(what).or_default() += 1;
    }
    fn beyond(&mut self, line: u64) -> &'static str {
        if self.l2.access(line) {
            "l2"
        } else if self.llc.access(line) {
            "llc"
        } else {
            "memory"
        }
    }
    fn access(&mut self, va: u64, fetch: bool, pcid: u16, tables: &mut Tables) {
        let pcids = self.config.tlb.pcid;
        let walk = tables.walk(VirtAddr::new(va)).unwrap();
        let first = if fetch { &mut self.l1i } else { &mut self.l1d };
        if first.hit(va, pcid).is_none() {
            if self.stlb.hit(va, pcid).is_none() {
                self.count("walks");
                let low = va & ((1 << 48) - 1);
                let mut below = 9;
                for (level, shift, store) in &self.levels {
                    let bits = low >> shift;
                    if self.pwc[*store].hit(bits, &(*level, bits, pcid)) {
                        below = *level;
                        break;
                    }
                }
                let last = walk.visited().last().unwrap().level;
                for e in walk.visited() {
                    if e.level >= below && e.level != last {
                        continue;
                    }
                    self.count("reads");
                    match self.beyond(e.pa.as_u64() / 64) {
                        "l2" => self.count("walk l2"),
                        "llc" => self.count("walk llc"),
                        _ => self.count("walk memory"),
                    }
                    if e.level != last {
                        for (level, shift, store) in &self.levels {
                            let bits = low >> shift;
                            if *level == e.level {
                                self.pwc[*store].put(bits, (*level, bits, pcid));
                            }
                        }
                    }
                }
                self.stlb.put(&walk, pcid, pcids);
            } else {
                self.count("stlb hits");
            }
            let first = if fetch { &mut self.l1i } else { &mut self.l1d };
            first.put(&walk, pcid, pcids);
        }
        let line = (walk.page.as_u64() | va & ((1 << walk.size.shift()) - 1)) / 64;
        let first = if fetch { &mut self.i } else { &mut self.d };
        if first.access(line) {
            self.count(if fetch { "l1i hits" } else { "l1d hits" });
            return;
        }
        match self.beyond(line) {
            "l2" => self.count("l2"),
            "llc" => self.count("llc"),
            _ => self.count("memory"),
        }
        if !fetch
            && self.config.cache.prefetch
            && (line + 1) % 64 != 0
            && !self.d.0.sets.iter().flatten().any(|l| *l == line + 1)
        {
            self.d.access(line + 1);
            self.beyond(line + 1);
            self.count("prefetches");
        }
    }
    fn flush(&mut self, what: Flush) {
        for tlb in [&mut self.l1i, &mut self.l1d, &mut self.stlb] {
            tlb.flush(what);
        }
        // The SDM: INVLPG invalidates "all entries in all paging-structure caches associated with the current PCID,
        // regardless of the linear addresses to which they correspond".
        for store in &mut self.pwc {
            store.drop(|(_, _, p)| match what {
                Flush::All => true,
                Flush::AddressSpace { pcid } | Flush::Page { pcid, .. } => *p == pcid,
            });
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Data(u64),
    Fetch(u64),
    Flush(Flush),
    Pcid(u16),
}

/// Addresses that collide in sets and share pages, lines and tables.
fn address() -> impl Strategy<Value = u64> {
    let near =
        (0u64..400, 0u64..64).prop_map(|(page, line)| 0x7f00_0000_0000 + page * 4096 + line * 64);
    let far = (0u64..2000).prop_map(|i| i << 21 | (i % 512) << 12);
    let strided = (0u64..200).prop_map(|i| 0x10_0000_0000 + (i << 16));
    let kernel =
        (0u64..300, 0u64..4096).prop_map(|(i, o)| 0xffff_8880_0000_0000 + (i << 21) + o * 64);
    prop_oneof![4 => near, 2 => far, 2 => strided, 2 => kernel]
}

fn step() -> impl Strategy<Value = Step> {
    let flush = prop_oneof![
        Just(Flush::All),
        (0u16..3).prop_map(|pcid| Flush::AddressSpace { pcid }),
        (address(), 0u16..3).prop_map(|(va, pcid)| Flush::Page {
            va: VirtAddr::new(va),
            pcid
        }),
    ];
    prop_oneof![
        60 => address().prop_map(Step::Data),
        30 => address().prop_map(Step::Fetch),
        1 => flush.prop_map(Step::Flush),
        1 => (0u16..3).prop_map(Step::Pcid),
    ]
}

/// How accesses get to the fast model.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// One by one.
    Core,
    /// Through a stream, as the plugin does it.
    Stream,
    /// And a thread.
    Helper,
}

enum Fast {
    Core(Box<Core>),
    Stream(Box<Stream>),
}

impl Fast {
    fn new(config: &Config, by: By) -> Fast {
        let core = Core::new(config, None).unwrap();
        if by == By::Core {
            return Fast::Core(core.into());
        }
        let mut stream = Stream::new(vec![core], 1);
        if by == By::Helper {
            stream.help().unwrap();
        }
        Fast::Stream(stream.into())
    }

    fn access(&mut self, va: u64, fetch: bool, tables: &mut Tables) {
        let at = VirtAddr::new(va);
        let stream = match self {
            Fast::Core(core) if fetch => return core.fetch(at, tables),
            Fast::Core(core) => return core.data(at, tables),
            Fast::Stream(stream) => stream,
        };
        if !fetch && stream.repeats(at) {
            return;
        }
        let place = stream.known(at).unwrap_or_else(|| {
            let walk = tables.walk(VirtAddr::new(va)).unwrap();
            stream.learn(&walk);
            Place::new(&walk)
        });
        if fetch {
            stream.fetch(at);
        } else {
            stream.data(at, place.size());
        }
    }

    fn flush(&mut self, what: Flush) {
        match self {
            Fast::Core(core) => core.flush(what),
            Fast::Stream(stream) => stream.flush(what),
        }
    }

    fn report(&mut self, data: u64, fetch: u64) -> Vec<Organisation> {
        match self {
            Fast::Core(core) => core.report(data, fetch),
            Fast::Stream(stream) => stream.settled(|cores, compared| {
                assert_eq!(compared[0].mismatches, 0);
                cores[0].report(data, fetch)
            }),
        }
    }
}

fn compare(config: &Config, mode: Mode, steps: &[Step], by: By) {
    let mut tables = Tables::new(mode);
    tables.large = |va| va >> 63 != 0 && va >> 21 & 1 == 0;
    let mut fast = Fast::new(config, by);
    let mut slow = Slow::new(config);
    let mut pcid = 0;
    let (mut data, mut fetch) = (0, 0);
    for step in steps {
        match *step {
            Step::Data(va) => {
                fast.access(va, false, &mut tables);
                slow.access(va, false, pcid, &mut tables);
                data += 1;
            }
            Step::Fetch(va) => {
                fast.access(va, true, &mut tables);
                slow.access(va, true, pcid, &mut tables);
                fetch += 1;
            }
            Step::Flush(what) => {
                let what = match what {
                    Flush::AddressSpace { .. } if !config.tlb.pcid => {
                        Flush::AddressSpace { pcid: 0 }
                    }
                    Flush::Page { va, .. } if !config.tlb.pcid => Flush::Page { va, pcid: 0 },
                    other => other,
                };
                fast.flush(what);
                slow.flush(what);
            }
            Step::Pcid(p) => {
                if let (Fast::Core(core), true) = (&mut fast, config.tlb.pcid) {
                    pcid = p;
                    core.set_pcid(p);
                }
            }
        }
    }
    let n = |what| slow.n.get(what).copied().unwrap_or(0);
    let report = fast.report(data, fetch);
    let real = &report[0];
    assert_eq!(real.walks, n("walks"));
    assert_eq!(real.walk_entry_reads, n("reads"));
    assert_eq!(real.tlb.stlb.hits.sum(), n("stlb hits"));
    assert_eq!(real.entry_reads_by_cache.l2, n("walk l2"));
    assert_eq!(real.entry_reads_by_cache.llc, n("walk llc"));
    assert_eq!(real.entry_reads_by_cache.memory, n("walk memory"));
    assert_eq!(real.caches.l1d.hits, n("l1d hits"));
    assert_eq!(real.caches.l1i.hits, n("l1i hits"));
    assert_eq!(real.caches.l2.hits, n("l2"));
    assert_eq!(real.caches.llc.hits, n("llc"));
    assert_eq!(real.caches.llc.misses, n("memory"));
    assert_eq!(real.caches.prefetches, n("prefetches"));
    if mode == Mode::Radix {
        let radix = report.iter().find(|o| o.name == "radix").unwrap();
        assert_eq!(radix.walk_cycles, real.walk_cycles);
        assert_eq!(radix.caches, real.caches);
        assert_eq!(radix.details["synthetic_entries"], 0);
    }
}

/// Small enough that everything is displaced all the time.
fn small(preset: &str, pcid: bool) -> Config {
    let set = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    resolve(
        preset,
        None,
        &[
            set("tlb.pcid", if pcid { "true" } else { "false" }),
            set("tlb.stlb.small.entries", "128"),
            set("cache.l1d.kib", "8"),
            set("cache.l1d.ways", "2"),
            set("cache.l1i.kib", "12"),
            set("cache.l1i.ways", "3"),
            set("cache.l2.kib", "32"),
            set("cache.l2.ways", "4"),
            set("cache.llc.kib", "64"),
            set("cache.llc.ways", "8"),
        ],
    )
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn fast_and_slow_agree(
        steps in prop::collection::vec(step(), 1..3000),
        mode in prop::sample::select(Mode::ALL.to_vec()),
        preset in prop::sample::select(vec!["emt", "equal", "server"]),
        pcid in any::<bool>(),
        by in prop::sample::select(vec![By::Core, By::Stream, By::Helper]),
    ) {
        let config = small(preset, pcid);
        compare(&config, mode, &steps, by);
    }
}
