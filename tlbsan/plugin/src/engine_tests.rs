// SPDX-License-Identifier: MIT OR Apache-2.0

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fpt_tlbsan_model::{A, D, P, RW, US};
use fpt_vmlinux::Symbol;

use super::*;

const ROOT: u64 = 0x1000;
const TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];
const PAGE: u64 = 0x9000;
const LINK: u64 = P | RW | US | A;
const LEAF: u64 = LINK | D;
/// The entry of address 0.
const PTE: u64 = 0x4000;

/// 64 KiB that the test and the engine share.
#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u64>>>);

impl GuestMemory for Memory {
    fn read(&self, pa: u64) -> Option<u64> {
        self.0.borrow().get(pa as usize / 8).copied()
    }
}

struct Guest {
    memory: Memory,
    engine: Engine<Memory>,
}

impl Guest {
    fn new(arguments: &[&str], switch: bool) -> Guest {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let mut options = crate::args::options(&["out=/o".to_owned()]).unwrap();
        if !arguments.is_empty() {
            let all: Vec<String> = [&["out=/o".to_owned()][..], &arguments].concat();
            options = crate::args::options(&all).unwrap();
        }
        let memory = Memory(Rc::new(RefCell::new(vec![0; 0x10000 / 8])));
        let code = [Symbol {
            address: 1 << 63,
            size: 1 << 62,
            name: "__switch_to_asm",
        }];
        let symbols = Symbols::of(if switch { &code } else { &[] });
        let engine = Engine::new(&options, symbols, 2, memory.clone());
        let mut guest = Guest { memory, engine };
        let mut table = ROOT;
        for next in TABLES {
            guest.put(table, next | LINK);
            table = next;
        }
        guest.put(PTE, PAGE | LEAF);
        guest.engine.root(0, Some(ROOT));
        guest.engine.root(1, Some(ROOT));
        guest
    }

    fn put(&mut self, pa: u64, value: u64) {
        self.memory.0.borrow_mut()[pa as usize / 8] = value;
    }

    fn store(&mut self, pa: u64, value: u64) -> bool {
        self.put(pa, value);
        self.engine.store(0, 0x77, pa, None)
    }

    fn found(&mut self) -> Vec<String> {
        let (value, _) = self.engine.finish();
        let all = value["findings"].as_array().unwrap().iter();
        all.map(|f| f["rule"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_freed_table_that_is_pending_is_found() {
    let mut guest = Guest::new(&[], false);
    assert!(guest.store(0x3000, 0));
    guest.engine.free(0, 0x88, 4, 1, Release::Retired);
    assert_eq!(guest.found(), ["R1"]);
    let (value, lines) = guest.engine.finish();
    assert_eq!(value["findings"][0]["taken"]["by"]["site"], "0x77");
    assert_eq!(value["findings"][0]["by"]["site"], "0x88");
    assert_eq!(value["findings"][0]["holders"].as_array().unwrap().len(), 2);
    assert!(
        lines[0].contains("docs/explanation/tlbsan.md#r1") && lines[0].contains("PDE at 0x3000")
    );
}

#[test]
fn each_event_reaches_the_ledger() {
    type Event = fn(&mut Engine<Memory>, u32);
    let events: [(&str, Event, bool); 8] = [
        ("root", |e, cpu| e.root(cpu, Some(ROOT)), true),
        (
            "all",
            |e, cpu| e.invalidate(cpu, Invalidation::Everything),
            true,
        ),
        (
            "page",
            |e, cpu| e.invalidate(cpu, Invalidation::Page(0)),
            true,
        ),
        (
            "fault",
            |e, cpu| e.invalidate(cpu, Invalidation::Fault(0)),
            true,
        ),
        (
            "elsewhere",
            |e, cpu| e.invalidate(cpu, Invalidation::Fault(1 << 40)),
            false,
        ),
        ("halts", |e, cpu| e.halts(cpu), false),
        ("user", |e, cpu| e.enters_user(cpu), false),
        ("kernel", |e, cpu| e.leaves_user(cpu), false),
    ];
    for (name, event, drops) in events {
        let mut guest = Guest::new(&[], false);
        guest.store(0x3000, 0);
        event(&mut guest.engine, 0);
        event(&mut guest.engine, 1);
        guest.engine.free(0, 0, 4, 1, Release::Freed);
        assert_eq!(guest.found().is_empty(), drops, "{name}");
    }
}

#[test]
fn pages_wait_for_user_mode_or_stac() {
    for (stac, silent) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut guest = Guest::new(&[], false);
        guest.store(PTE, 0);
        guest.engine.free(0, 0, PAGE >> 12, 1, Release::Freed);
        assert!(guest.found().is_empty());
        if silent {
            guest.engine.invalidate(1, Invalidation::Page(0));
        }
        if stac {
            guest.engine.stac(1, 0)
        } else {
            guest.engine.enters_user(1)
        }
        assert_eq!(guest.found().is_empty(), silent);
    }
}

#[test]
fn frozen_pages_and_exchanges() {
    let mut guest = Guest::new(&[], false);
    guest.store(PTE, PAGE | LEAF & !RW);
    guest.engine.freeze(0, 0, (PAGE >> 12) - 1, 2);
    guest.engine.enters_user(1);
    assert_eq!(guest.found(), ["R5"]);
    // What an exchange saw was clean: nobody writes through it without another walk.
    let mut guest = Guest::new(&[], false);
    guest.put(PTE, PAGE | LEAF & !D & !RW);
    guest.engine.store(0, 0, PTE, Some(PAGE | LEAF & !D));
    guest.engine.freeze(0, 0, PAGE >> 12, 1);
    guest.engine.enters_user(1);
    assert!(guest.found().is_empty());
}

#[test]
fn tasks_are_told_apart_by_their_switch() {
    // The task that stored comes back, on whatever CPU; another does not count.
    for (back, late) in [(0xa000, true), (0xb000, false)] {
        let mut guest = Guest::new(&[], true);
        guest.engine.switches(0, 0xa000);
        guest.store(PTE, PAGE | LEAF & !RW);
        guest.engine.switches(0, 0xc000);
        guest.engine.switches(1, back);
        guest.engine.enters_user(1);
        assert_eq!(guest.found().is_empty(), !late);
        assert_eq!(guest.engine.finish().0["events"]["switches"], 3);
    }
    // Without symbols nobody comes back, but time goes by.
    let mut guest = Guest::new(&[], false);
    guest.engine.switches(0, 0xa000);
    guest.store(PTE, PAGE | LEAF & !RW);
    guest.engine.enters_user(0);
    assert!(guest.found().is_empty());
    let mut guest = Guest::new(&["tasks=cpu"], false);
    guest.store(PTE, PAGE | LEAF & !RW);
    guest.engine.enters_user(1);
    assert!(guest.found().is_empty());
    guest.engine.enters_user(0);
    assert_eq!(guest.found(), ["R3"]);
}

#[test]
fn what_is_late_is_a_warning() {
    let mut guest = Guest::new(&["late=1"], false);
    guest.store(PTE, PAGE | LEAF & !RW);
    guest.engine.enters_user(1);
    std::thread::sleep(Duration::from_millis(1100));
    guest.engine.root(0, Some(ROOT));
    let (value, _) = guest.engine.finish();
    assert_eq!(
        (&value["errors"], &value["warnings"]),
        (&0.into(), &1.into())
    );
}

#[test]
fn equal_findings_are_counted() {
    let mut guest = Guest::new(&[], false);
    for _ in 0..3 {
        guest.put(0x4000, PAGE | LEAF);
        guest.store(0x3000, 0x4000 | LINK);
        guest.store(0x3000, 0);
        guest.engine.free(0, 0x88, 4, 1, Release::Freed);
        guest.engine.invalidate(0, Invalidation::Everything);
        guest.engine.invalidate(1, Invalidation::Everything);
    }
    let (value, lines) = guest.engine.finish();
    assert_eq!((&value["errors"], lines.len()), (&3.into(), 1));
    assert_eq!(value["findings"][0]["count"], 3);
    assert!(lines[0].contains("and 2 more"));
}

#[test]
fn flushes_that_end_nothing_are_counted() {
    let mut guest = Guest::new(&[], false);
    guest.engine.invalidate(0, Invalidation::Page(0));
    guest.store(PTE, 0);
    guest.engine.invalidate(0, Invalidation::Page(0));
    guest.engine.invalidate(1, Invalidation::Fault(0));
    let (value, _) = guest.engine.finish();
    let events = &value["events"];
    assert_eq!(
        (&events["flushes"], &events["idle_flushes"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&events["stores"], &events["roots"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn what_is_no_table_any_more() {
    let mut guest = Guest::new(&[], false);
    assert!(!guest.store(PAGE, 1));
    guest.store(0x3000, 0);
    guest.engine.invalidate(0, Invalidation::Everything);
    guest.engine.invalidate(1, Invalidation::Everything);
    guest.engine.free(0, 0, 4, 1, Release::Freed);
    assert!(!guest.store(PTE, 1));
    // Beyond the memory.
    assert!(!guest.engine.store(0, 0, 1 << 40, None));
}

#[test]
fn cases_take_the_findings() {
    let mut guest = Guest::new(&["cases=on"], false);
    guest.engine.case(1, 2 | 3 << 8);
    guest.store(0x3000, 0);
    guest.engine.free(0, 0, 4, 1, Release::Freed);
    guest.engine.case(crate::cases::END, 0);
    let (value, lines) = guest.engine.finish();
    assert_eq!(
        (&value["cases"]["checks"], &value["cases"]["failed"]),
        (&1.into(), &0.into())
    );
    assert!(lines.is_empty() && value["errors"] == 0);
}

#[test]
fn a_run_that_cannot_be_judged_says_so() {
    let mut guest = Guest::new(&[], false);
    guest.engine.enters_user(9);
    let (value, _) = guest.engine.finish();
    assert!(value["run_error"].as_str().unwrap().contains("CPU 9"));
    guest.engine.internal("broken".into());
    assert_eq!(guest.engine.finish().0["internal"][0], "broken");
}
