// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the stream and of its parts.

use std::collections::HashMap;

use super::known::GENERATIONS;
use super::walks::Packed;
use super::*;
use crate::config::resolve;
use crate::org::{Organisation, Port};
use crate::report::{Kind, Organisation as Report};
use crate::walk::{is_kernel, Entry, MAX_ENTRIES};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn va(va: u64) -> VirtAddr {
    VirtAddr::new(va)
}

fn offset(at: u64, size: Size) -> u64 {
    size.offset(va(at))
}

fn walk(at: u64, page: u64, size: Size, global: bool) -> Walk {
    let mut entries = [Entry::default(); MAX_ENTRIES];
    let n = 4 - size as usize;
    for (level, entry) in (1..=4u8).rev().zip(entries.iter_mut().take(n)) {
        let number = (at & 0xffff_ffff_ffff) >> (3 + 9 * u32::from(level));
        *entry = Entry {
            pa: PhysAddr::new((u64::from(level) << 40) + number * 8),
            level,
            index_bits: 9,
        };
    }
    Walk {
        va: va(at),
        root: PhysAddr::new(0x7000),
        entries,
        n: n as u8,
        page: PhysAddr::new(page),
        size,
        global,
    }
}

#[test]
fn walks_survive_packing() {
    for (at, size) in [
        (0x1234, Size::Small),
        (0xff00_0000_0000_0000, Size::Large),
        (0x7fff_c000_0000, Size::Huge),
    ] {
        for global in [false, true] {
            let whole = walk(at, 0x8_0000_0000, size, global);
            let packed = Packed::new(&whole);
            assert!(packed.holds(va(at | 0xfff)) && !packed.holds(va(at ^ 1 << 56)));
            assert_eq!(packed.walk(va(at)), whole);
            assert_eq!((Place::new(&whole).size(), packed.size()), (size, size));
            let last = va(at | 0xff);
            let place = Place::new(&whole).address(last);
            assert_eq!(place, size.at(whole.page, last));
        }
    }
    assert!(!Packed::default().holds(va(0)));
}

/// Where everything is, by first address; which pages there are depends on addresses only.
struct Guest {
    pages: HashMap<u64, u64>,
    next: u64,
    large: bool,
    huge: bool,
}

impl Guest {
    fn new(large: bool, huge: bool) -> Guest {
        Guest {
            pages: HashMap::new(),
            next: 0,
            large,
            huge,
        }
    }

    fn size(&self, va: u64) -> Size {
        match va >> 30 & 7 {
            5 | 6 if self.large => Size::Large,
            7 if self.huge => Size::Huge,
            _ => Size::Small,
        }
    }

    fn first(&self, va: u64) -> u64 {
        va - offset(va, self.size(va))
    }

    fn walk(&mut self, va: u64) -> Walk {
        let first = self.first(va);
        let next = &mut self.next;
        let page = *self.pages.entry(first).or_insert_with(|| {
            *next += 1;
            *next << 30
        });
        walk(va, page, self.size(va), is_global(va))
    }
}

fn is_global(at: u64) -> bool {
    is_kernel(va(at)) && at >> 30 & 1 != 0
}

/// Pages that share places, in both halves.
fn address(state: &mut u64) -> u64 {
    let r = random(state);
    let gib = match r >> 40 & 7 {
        0 => r >> 20 & 15,
        n => 4 + n / 2,
    };
    let (high, page) = (r >> 63, r >> 10 & 1023);
    (high * (0x1ffff << 47)) | gib << 30 | page << 12 | r & 0xff8
}

#[test]
fn what_is_known_is_true() {
    let mut state = 7;
    for (large, huge) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut guest = Guest::new(large, huge);
        let mut known = Known::new();
        let mut found = 0;
        for _ in 0..600_000u64 {
            let at = address(&mut state);
            match random(&mut state) % 10_000 {
                0 => {
                    known.flush(Flush::All);
                    guest.pages.clear();
                }
                // Linux unmaps, and then invalidates
                1..=20 => {
                    guest.pages.remove(&guest.first(at));
                    known.flush(Flush::Page {
                        va: va(at),
                        pcid: 0,
                    });
                }
                21 => {
                    guest.pages.retain(|first, _| is_global(*first));
                    known.flush(Flush::AddressSpace { pcid: 0 });
                }
                _ => {
                    let walk = guest.walk(at);
                    match known.find(va(at)) {
                        Some(place) => {
                            found += 1;
                            assert_eq!(place.address(va(at)), walk.size.at(walk.page, va(at)));
                        }
                        None => known.learn(va(at), &walk),
                    }
                }
            }
        }
        assert!(found > 25_000, "{found}");
    }
}

#[test]
fn generations_end() {
    let mut known = Known::new();
    for at in [0x1000, 1 << 63] {
        known.learn(va(at), &walk(at, 0x2000, Size::Small, false));
        assert!(known.find(va(at)).is_some());
    }
    for _ in 0..GENERATIONS * 2 {
        known.flush(Flush::AddressSpace { pcid: 0 });
        assert!(known.find(va(0x1000)).is_none() && known.find(va(1 << 63)).is_none());
    }
}

fn core(organisations: &str) -> Core {
    let set = ("organisations".to_owned(), organisations.to_owned());
    Core::new(&resolve("emt", None, &[set]).unwrap(), None).unwrap()
}

fn access(stream: &mut Stream, guest: &mut Guest, at: u64) {
    if stream.repeats(va(at)) {
        return;
    }
    let place = stream.known(va(at)).unwrap_or_else(|| {
        let walk = guest.walk(at);
        stream.learn(&walk);
        Place::new(&walk)
    });
    stream.data(va(at), place.size());
}

/// More than fits in all batches that may be on their way.
fn much(stream: &mut Stream) -> Vec<Compared> {
    let mut guest = Guest::new(true, true);
    let mut state = 99;
    for i in 0..HELPER_BATCH as u64 * (DEPTH as u64 + 2) {
        let at = address(&mut state);
        access(stream, &mut guest, at);
        if i % 4 == 0 {
            access(stream, &mut guest, at ^ 8);
            stream.fetch_physical(PhysAddr::new(at & 0xff_ffff_ffff));
        }
        if i % 5000 == 0 {
            guest.pages.remove(&guest.first(at));
            stream.flush(Flush::Page {
                va: va(at),
                pcid: 0,
            });
        }
    }
    stream.settled(|_, compared| compared)
}

#[test]
fn help_changes_no_figure() {
    let figures = |helped: bool| {
        let all = "[\"real\", \"radix\", \"ecpt\"]";
        let mut stream = Stream::new(vec![core(all), core("[\"real\"]")], 1);
        if helped {
            stream.help().unwrap();
        }
        let compared = much(&mut stream);
        assert!(compared.iter().all(|c| c.hits > 1000));
        assert!(compared.iter().all(|c| c.mismatches == 0));
        assert!(!stream.broken());
        stream.settled(|cores, _| {
            let reports = cores.iter_mut().map(|c| format!("{:?}", c.report(0, 0)));
            reports.collect::<Vec<_>>()
        })
    };
    let alone = figures(false);
    assert_eq!(alone.len(), 2);
    assert_eq!(alone, figures(true));
}

#[test]
fn a_lost_invalidation_shows() {
    let mut stream = Stream::new(vec![core("[\"real\"]")], 1);
    let mut guest = Guest::new(true, true);
    access(&mut stream, &mut guest, 0x1000);
    // out of the first level, not of the second
    (1..100u64).for_each(|i| access(&mut stream, &mut guest, 0x1000 + (i << 12)));
    guest.pages.clear();
    stream.known.flush(Flush::All);
    access(&mut stream, &mut guest, 0x1000);
    let compared = stream.settled(|_, compared| compared);
    assert_eq!(compared[0].mismatches, 1);
    assert!(compared[0].texts[0].contains("the tables lead to"));
}

#[test]
fn a_changed_entry_shows_unless_it_is_invalidated() {
    let find = |change: fn(&mut Walk), then: Option<Flush>| {
        let mut stream = Stream::new(vec![core("[\"real\"]")], 1);
        let mut guest = Guest::new(true, true);
        access(&mut stream, &mut guest, 0x1000);
        access(&mut stream, &mut guest, 0x9000);
        let mut fresh = guest.walk(0x1000);
        change(&mut fresh);
        stream.check(&fresh);
        if let Some(what) = then {
            stream.flush(what);
        }
        stream.settled(|_, compared| compared[0].clone())
    };
    let same = find(|_| {}, None);
    assert_eq!((same.entries, same.mismatches, same.stale), (1, 0, 0));
    let changes: [fn(&mut Walk); 6] = [
        |w| w.entries[1].pa = w.entries[1].pa.offset(8),
        |w| w.entries[3].index_bits = 18,
        |w| w.root = w.root.offset(4096),
        |w| w.page = w.page.offset(4096),
        |w| w.n -= 1,
        |w| w.global = true,
    ];
    let page = |at| {
        Some(Flush::Page {
            va: va(at),
            pcid: 0,
        })
    };
    for change in changes {
        let lost = find(change, None);
        assert_eq!((lost.mismatches, lost.stale), (1, 0));
        assert!(lost.texts[0].contains("nothing was invalidated"));
        for what in [
            page(0x1fff),
            Some(Flush::All),
            Some(Flush::AddressSpace { pcid: 0 }),
        ] {
            let late = find(change, what);
            assert_eq!((late.mismatches, late.stale), (0, 1));
        }
        assert_eq!(find(change, page(0x2000)).mismatches, 1);
    }
}

/// An organisation that reads what it has no name for.
struct Nameless;

impl Organisation for Nameless {
    fn name(&self) -> &'static str {
        "nameless"
    }
    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }
    fn reads(&self) -> &'static [&'static str] {
        &["slot"]
    }
    fn walk(&mut self, walk: &Walk, _: u16, port: &mut Port<'_>) {
        port.read(usize::from(walk.va.as_u64() > 0x4000), walk.page);
    }
    fn flush(&mut self, _: Flush) {}
    fn report(&self, _: &mut Report) {}
    fn reset_counters(&mut self) {}
}

#[test]
fn an_organisation_cannot_hide_reads() {
    for (pages, good) in [(5, true), (6, false)] {
        let mut core = core("[\"real\"]");
        core.lanes().replace(0, Box::new(Nameless));
        let mut stream = Stream::new(vec![core], 1);
        let mut guest = Guest::new(false, false);
        (0..pages).for_each(|i| access(&mut stream, &mut guest, i << 12));
        let mut phase = crate::report::Phase {
            organisations: stream.settled(|cores, _| cores[0].report(pages, 0)),
            ..Default::default()
        };
        phase.accesses.user_data = pages;
        let law = crate::result::conservation(&phase);
        assert_eq!(law.is_ok(), good, "{law:?}");
    }
}

struct Bad;

impl Organisation for Bad {
    fn name(&self) -> &'static str {
        "bad"
    }
    fn kind(&self) -> Kind {
        Kind::Counterfactual
    }
    fn reads(&self) -> &'static [&'static str] {
        &[]
    }
    fn walk(&mut self, _: &Walk, _: u16, _: &mut Port<'_>) {
        panic!("as it should");
    }
    fn flush(&mut self, _: Flush) {}
    fn report(&self, _: &mut Report) {}
    fn reset_counters(&mut self) {}
}

#[test]
fn panics_are_kept_in_mind() {
    for helped in [false, true] {
        let mut core = core("[\"real\", \"radix\"]");
        core.lanes().replace(1, Box::new(Bad));
        let mut stream = Stream::new(vec![core], 1);
        if helped {
            stream.help().unwrap();
        }
        much(&mut stream);
        stream.settle();
        assert!(stream.broken());
        assert_eq!(stream.settled(|cores, _| cores[0].report(0, 0).len()), 2);
    }
}
