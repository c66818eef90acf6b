// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest with two CPUs and real page tables, which tells the ledger what it does.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;

use fpt_tlbsan_model::*;

pub const TABLE: u64 = P | RW | US | A;
pub const USER: u64 = P | RW | US | A | D | XD;
pub const READ: u64 = P | US | A | XD;
pub const KERNEL: u64 = P | RW | A | D | G | XD;

#[derive(Clone, Default)]
pub struct Ram(HashMap<u64, u64>);

impl GuestMemory for Ram {
    fn read(&self, pa: u64) -> Option<u64> {
        (pa < 1 << 32).then(|| self.0.get(&pa).copied().unwrap_or(0))
    }
}

/// Tables are handed out from frame 0x1000 on, pages are named by the tests.
pub struct Guest {
    pub ledger: Ledger<Ram>,
    pub root: u64,
    pub other: u64,
    next: u64,
    clock: u64,
}

pub const fn to(frame: u64, flags: u64) -> u64 {
    frame << 12 | flags
}

/// Addresses of the kernel's half begin here.
pub const HIGH: u64 = 0xffff_8880_0000_0000;

impl Guest {
    pub fn new(knobs: Knobs) -> Guest {
        let ledger = Ledger::new(Geometry::x86(true, 40), knobs, 2, Ram::default());
        let mut guest = Guest {
            ledger,
            root: 0,
            other: 0,
            next: 0x1000,
            clock: 0,
        };
        guest.root = guest.table();
        guest.other = guest.table();
        let high = guest.table();
        for root in [guest.root, guest.other] {
            guest.poke(root << 12 | 273 << 3, to(high, TABLE));
        }
        guest
    }

    /// Both CPUs have the first root.
    pub fn loaded(knobs: Knobs) -> Guest {
        let mut guest = Guest::new(knobs);
        guest.load(0, guest.root);
        guest.load(1, guest.root);
        guest
    }

    /// One frame for a table, or 512.
    pub fn table(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn node(&mut self) -> u64 {
        self.next = (self.next + 1024) & !511;
        let node = self.next;
        self.next += 512;
        node
    }

    pub fn by(&mut self, cpu: u8) -> Origin {
        self.clock += 1;
        Origin {
            cpu: CpuId(cpu),
            task: Task(100 + u64::from(cpu)),
            site: Site(self.clock),
            time: self.clock,
        }
    }

    pub fn peek(&mut self, pa: u64) -> u64 {
        self.ledger.memory_mut().0.get(&pa).copied().unwrap_or(0)
    }

    /// Memory changes, and nobody tells.
    pub fn poke(&mut self, pa: u64, value: u64) {
        self.ledger.memory_mut().0.insert(pa, value);
    }

    /// CPU 0 exchanges an entry, as XCHG does.
    pub fn set(&mut self, pa: u64, value: u64) {
        let old = self.peek(pa);
        self.poke(pa, value);
        let by = self.by(0);
        self.ledger.store(&by, pa, Some(old), value).unwrap();
    }

    /// CPU 0 stores to an entry with a plain MOV.
    pub fn mov(&mut self, pa: u64, value: u64) {
        self.poke(pa, value);
        let by = self.by(0);
        self.ledger.store(&by, pa, None, value).unwrap();
    }

    /// The entry of a level for an address, conventional tables made where there are none.
    pub fn entry(&mut self, root: u64, va: u64, level: u32) -> u64 {
        let mut table = root;
        let mut at = 4;
        loop {
            let index = va >> (12 + 9 * (at - 1)) & 511;
            let pa = table << 12 | index << 3;
            if at == level {
                return pa;
            }
            if self.peek(pa) & P == 0 {
                let new = self.table();
                self.set(pa, to(new, TABLE));
            }
            table = self.peek(pa) >> 12 & 0xff_ffff_ffff;
            at -= 1;
        }
    }

    /// Maps a page in the first root and returns its entry.
    pub fn map(&mut self, va: u64, value: u64) -> u64 {
        let pa = self.entry(self.root, va, 1);
        self.set(pa, value);
        pa
    }

    pub fn load(&mut self, cpu: u8, root: u64) -> Ended {
        let by = self.by(cpu);
        self.ledger.load_cr3(&by, Some(root << 12), false).unwrap()
    }

    pub fn cr3(&mut self, cpu: u8, cr3: u64, keep: bool) {
        let by = self.by(cpu);
        self.ledger.load_cr3(&by, Some(cr3), keep).unwrap();
    }

    pub fn flush(&mut self, cpu: u8, what: Invalidation) -> Ended {
        let by = self.by(cpu);
        self.ledger.invalidate(&by, what).unwrap()
    }

    pub fn free(&mut self, frame: u64, n: u64) {
        let by = self.by(0);
        self.ledger
            .free(&by, Frame(frame), n, Release::Freed)
            .unwrap();
    }

    pub fn retire(&mut self, frame: u64, n: u64) {
        let by = self.by(0);
        self.ledger
            .free(&by, Frame(frame), n, Release::Retired)
            .unwrap();
    }

    pub fn freeze(&mut self, frame: u64) {
        let by = self.by(0);
        self.ledger.freeze(&by, Frame(frame)).unwrap();
    }

    pub fn user(&mut self, cpu: u8) {
        let by = self.by(cpu);
        self.ledger.enters_user(&by).unwrap();
    }

    pub fn kernel(&mut self, cpu: u8) {
        let by = self.by(cpu);
        self.ledger.leaves_user(&by).unwrap();
    }

    /// What was found: rules and the CPUs that hold.
    pub fn found(&mut self) -> Vec<(Rule, Vec<u8>)> {
        let findings = self.ledger.take_findings();
        let short = |f: Finding| (f.rule, f.holders.iter().map(|h| h.cpu.0).collect());
        findings.into_iter().map(short).collect()
    }

    pub fn quiet(&mut self) {
        assert_eq!(self.found(), vec![]);
    }
}
