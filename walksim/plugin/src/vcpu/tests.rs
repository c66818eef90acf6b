// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of a virtual CPU on a machine that is made up.

use super::*;
use crate::args::Options;
use crate::decode::Return;
use crate::symbols::{Event, Symbols};
use fpt_walksim_model::config::{resolve, LINE};
use fpt_walksim_model::report::Report;
use fpt_walksim_model::walk::{is_kernel, Entry, Flush, MAX_ENTRIES};

/// Every page at its own address plus `shift`; QEMU's translation is `lie` further on.
#[derive(Default)]
struct Fake {
    slot: Slot,
    shift: u64,
    lie: u64,
    absent: bool,
    /// The tables' own shift.
    elsewhere: u64,
    root: u64,
    global: bool,
    walks: u64,
    comm: &'static str,
}

impl Host for Fake {
    fn walk(&mut self, va: VirtAddr) -> Option<Walk> {
        let low = va.as_u64() & 0xff_ffff_f000;
        self.walks += 1;
        let mut entries = [Entry::default(); MAX_ENTRIES];
        for (i, e) in entries.iter_mut().take(4).enumerate() {
            let level = 4 - i as u8;
            let pa = (u64::from(level) << 40) + (low >> (12 + 9 * (level - 1))) * 8;
            let pa = pa + self.elsewhere;
            *e = Entry {
                pa: PhysAddr::new(pa),
                level,
                index_bits: 9,
            };
        }
        let page = low + self.shift;
        let walk = Walk {
            va,
            root: PhysAddr::new(self.root),
            entries,
            n: 4,
            page: PhysAddr::new(page),
            size: Size::Small,
            global: self.global,
        };
        (!self.absent).then_some(walk)
    }
    fn translation(&mut self, _info: u32, va: VirtAddr) -> Option<PhysAddr> {
        let pa = (va.as_u64() & 0xff_ffff_ffff) + self.shift + self.lie;
        Some(PhysAddr::new(pa))
    }
    fn bytes(&self, info: u32) -> u64 {
        u64::from(info)
    }
    fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
        let name = format!("{}-{va:x}\0and-older-names", self.comm);
        to.copy_from_slice(name.as_bytes().get(..to.len()).unwrap());
        true
    }
    fn slot(&mut self) -> &mut Slot {
        &mut self.slot
    }
}

fn shared(sets: &[(&str, &str)], vcpus: u32) -> Arc<Shared> {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let mut all = vec![("sim.check_every".to_owned(), "1".to_owned())];
    all.extend(sets.iter().map(own));
    let config = resolve("emt", None, &all).unwrap();
    Arc::new(Shared::new(Options::default(), config, None, vcpus).unwrap())
}

fn cpu(shared: &Arc<Shared>, host: Fake, index: u32) -> Vcpu<Fake> {
    Vcpu::new(host, shared.clone(), index).unwrap()
}

fn done(shared: &Shared) -> Report {
    lock(&shared.results).report(&shared.machines, true)
}

fn access(v: &mut Vcpu<Fake>, va: u64, bytes: u32) {
    let va = VirtAddr::new(va);
    let data = access::pack(is_kernel(va), 0, 0);
    if !v.data_fast(va, bytes, data) {
        v.data(va, bytes, data);
    }
}

fn exec(v: &mut Vcpu<Fake>, va: u64, n: u64) {
    let line = CodeLine {
        va: VirtAddr::new(va),
        pa: PhysAddr::new((va & 0xff_ffff_ffff) + v.host.shift),
    };
    if v.host.slot.fetch_line != va / LINE && !v.fetch_fast(&line) {
        v.fetch(&line);
    }
    let packed = n | n << 32;
    *(if is_kernel(line.va) {
        v.host.slot.kernel_sum += n;
        &mut v.host.slot.kernel
    } else {
        &mut v.host.slot.user
    }) += packed;
}

/// A load phase of a little of everything.
fn busy(v: &mut Vcpu<Fake>) {
    for i in 0..3000u64 {
        exec(v, 0x40_0000 + i % 700 * 32, 3);
        access(v, 0x7000_0000 + i * 200, 8);
        if i % 100 == 0 {
            v.event(Event::Enter(Category::Syscall));
            exec(v, 0xffff_ffff_8100_0000 + i, 10);
            access(v, 0xffff_8880_0000_003c, 8);
            v.event(Event::Enter(Category::PageFault));
            v.function(7, 20);
            exec(v, 0xffff_ffff_8100_4000 + i, 20);
            v.returns(Return::Iret);
            v.returns(Return::Sysret);
        }
    }
}

#[test]
fn a_phase_obeys_the_laws() {
    let s = shared(&[("also", "[\"server\"]")], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'L', 0);
    v.catch_up();
    busy(&mut v);
    assert!(s.end(b'L'));
    v.catch_up();
    let r = done(&s);
    assert_eq!((r.complete, &r.errors[..]), (true, &[][..]));
    let p = &r.phases[0];
    assert_eq!((p.instructions.user, p.instructions.kernel), (9000, 900));
    assert_eq!(p.instructions.kernel_by_category.syscall, 900);
    assert_eq!(p.instructions.kernel_by_innermost_entry.page_fault, 600);
    assert_eq!(p.page_fault_functions[0].instructions, 600);
    // 8 bytes at offset 3c: two lines
    assert_eq!((p.accesses.kernel_data, p.accesses.user_data), (60, 3000));
    assert_eq!(p.organisations.len(), 8);
    assert!(r.checks.walks_checked > 100);
    assert_eq!(r.checks.mismatches, 0);
}

#[test]
fn a_wrong_translation_is_an_error() {
    let s = shared(&[], 1);
    let mut v = cpu(
        &s,
        Fake {
            lie: 4096,
            ..Fake::default()
        },
        0,
    );
    s.begin(b'R', 0);
    v.catch_up();
    access(&mut v, 0x1000, 8);
    s.end(b'R');
    v.catch_up();
    let r = done(&s);
    assert_eq!(r.checks.mismatches, 1);
    assert!(
        r.errors[0].contains("QEMU translated it to 0x2000"),
        "{:?}",
        r.errors
    );
}

#[test]
fn a_lost_invalidation_is_an_error() {
    let s = shared(&[], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'R', 0);
    v.catch_up();
    access(&mut v, 0x10_0000, 8);
    v.host.shift = 0x10_0000;
    (1..=HITS_PER_WALK).for_each(|i| access(&mut v, 0x10_0000 + i * LINE, 8));
    s.end(b'R');
    v.catch_up();
    let r = done(&s);
    // by QEMU's translation, and by the tables
    assert_eq!((r.checks.hits_checked, r.checks.mismatches), (1, 2));
    assert!(r.errors[0].contains("QEMU translated it to 0x200400"));
    assert!(r.errors[1].contains("nothing was invalidated"));
}

#[test]
fn entries_are_compared_and_not_only_the_page() {
    for (fetch, invalidated) in [(false, false), (false, true), (true, false), (true, true)] {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'R', 0);
        v.catch_up();
        let go = |v: &mut Vcpu<Fake>| {
            for i in 0..=HITS_PER_WALK {
                let va = 0x10_0000 + i * LINE;
                if fetch {
                    exec(v, va, 1);
                } else {
                    access(v, va, 8);
                }
            }
        };
        go(&mut v);
        // the same page by other entries
        v.host.elsewhere = 4096;
        go(&mut v);
        if invalidated {
            v.flush(Flush::Page {
                va: VirtAddr::new(0x10_0000),
                pcid: 0,
            });
        }
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        let expected = (2, u64::from(!invalidated), u64::from(invalidated));
        let c = &r.checks;
        assert_eq!((c.entries_checked, c.mismatches, c.stale), expected);
        assert_eq!(r.errors.is_empty(), invalidated, "{:?}", r.errors);
    }
}

#[test]
fn code_of_the_kernel_is_where_it_was_translated() {
    for (va, errors) in [(0xffff_ffff_8100_0000, 1), (0x40_0000, 0)] {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'R', 0);
        v.catch_up();
        let line = CodeLine {
            va: VirtAddr::new(va),
            pa: PhysAddr::new(0x9000),
        };
        assert!(!v.fetch_fast(&line));
        v.fetch(&line);
        v.host.slot.user += 1;
        exec(&mut v, va + 0x1000, 1);
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        assert_eq!(r.checks.mismatches, errors, "{:?}", r.errors);
        assert_eq!(r.checks.fetches_checked, 1 + errors);
        assert_eq!(r.phases[0].untranslated.fetch, 1 - errors);
    }
}

#[test]
fn kernel_pages_follow_the_root() {
    let s = shared(&[("organisations", "[\"real\"]")], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    v.host.global = true;
    s.begin(b'R', 0);
    v.catch_up();
    let kernel = 0xffff_8880_0000_0000;
    // code and data, and one to see what the root is
    for (root, walks) in [(0x1000, 3), (0x1000, 1), (0x2000, 3), (0x2000, 1)] {
        v.host.root = root;
        v.host.walks = 0;
        v.flush(Flush::AddressSpace { pcid: 0 });
        exec(&mut v, 0xffff_ffff_8100_0000, 1);
        access(&mut v, kernel, 8);
        assert_eq!(v.host.walks, walks);
    }
    s.end(b'R');
    v.catch_up();
    assert_eq!(done(&s).errors.len(), 0);
}

#[test]
fn lost_kernel_instructions_are_an_error() {
    let s = shared(&[], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'L', 0);
    v.catch_up();
    busy(&mut v);
    v.host.slot.kernel_sum += 1;
    s.end(b'L');
    v.catch_up();
    let r = done(&s);
    assert_eq!(
        r.checks.conservation,
        "load: kernel instructions by category: 900 is not 901"
    );
    assert_eq!(r.errors.len(), 1);
}

#[test]
fn a_kernel_that_the_symbols_are_not_of_shows() {
    let config = resolve("emt", None, &[]).unwrap();
    for (known, errors) in [(true, 0), (false, 1)] {
        let symbols = Some(Symbols::default());
        let new = Shared::new(Options::default(), config.clone(), symbols, 1);
        let s = Arc::new(new.unwrap());
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        for _ in 0..100 {
            exec(&mut v, 0x40_0000, 7);
            if known {
                v.event(Event::Enter(Category::Syscall));
            }
            exec(&mut v, 0xffff_ffff_8100_0000, 3);
            if known {
                v.returns(Return::Sysret);
            }
        }
        s.end(b'L');
        v.catch_up();
        let r = done(&s);
        assert_eq!(r.errors.len(), errors, "{:?}", r.errors);
        assert_eq!(r.checks.lost_entries, 300 * errors as u64);
        let p = &r.phases[0];
        assert_eq!(p.entries.sum(), if known { 100 } else { 0 });
        if !known {
            assert!(r.errors[0].contains("is vmlinux= the kernel"));
            assert_eq!(p.instructions.kernel_by_category.other, 300);
        }
    }
}

#[test]
fn nothing_is_compared_if_nothing_is_to_be() {
    let s = shared(&[("sim.check_every", "0")], 1);
    let lie = Fake {
        lie: 4096,
        ..Fake::default()
    };
    let mut v = cpu(&s, lie, 0);
    s.begin(b'R', 0);
    v.catch_up();
    (0..1000u64).for_each(|i| access(&mut v, 0x1000 + i * 68, 8));
    s.end(b'R');
    v.catch_up();
    let r = done(&s);
    assert_eq!((r.checks.walks_checked, r.checks.hits_checked), (0, 0));
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
}

#[test]
fn invalidation_lets_the_new_page_in() {
    let s = shared(&[], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'R', 0);
    v.catch_up();
    for what in [
        Flush::All,
        Flush::AddressSpace { pcid: 0 },
        Flush::Page {
            va: VirtAddr::new(0x1000),
            pcid: 0,
        },
    ] {
        access(&mut v, 0x1000, 8);
        v.host.shift += 0x10_0000;
        v.flush(what);
    }
    access(&mut v, 0x1000, 8);
    s.end(b'R');
    v.catch_up();
    let r = done(&s);
    assert_eq!(
        (r.checks.mismatches, r.phases[0].organisations[0].walks),
        (0, 4)
    );
}

#[test]
fn stale_accesses_and_code_at_two_addresses_are_told() {
    let s = shared(&[], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'R', 0);
    v.catch_up();
    let line = CodeLine {
        va: VirtAddr::new(0x40_0000),
        pa: PhysAddr::new(0x9000),
    };
    assert!(!v.fetch_fast(&line));
    v.fetch(&line);
    v.host.slot.user += 1;
    v.host.absent = true;
    access(&mut v, 0x5000, 8);
    s.end(b'R');
    v.catch_up();
    let r = done(&s);
    assert_eq!((r.checks.stale, &r.errors[..]), (1, &[][..]));
    let u = r.phases[0].untranslated;
    assert_eq!((u.data, u.fetch, u.fetch_without_address), (1, 1, 0));
}

#[test]
fn warm_up_is_in_no_figure() {
    let s = shared(&[("sim.warmup_accesses", "1000")], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'L', 0);
    v.catch_up();
    busy(&mut v);
    s.end(b'L');
    v.catch_up();
    let r = done(&s);
    let p = &r.phases[0];
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    assert!(
        p.warmup_accesses >= 1000 && p.warmup_accesses < 1010,
        "{}",
        p.warmup_accesses
    );
    assert_eq!(p.accesses.data() + p.warmup_accesses, 3060);
    assert!(p.instructions.user < 9000);
}

#[test]
fn two_cpus_make_one_phase() {
    let s = shared(&[], 2);
    let (mut a, mut b) = (cpu(&s, Fake::default(), 0), cpu(&s, Fake::default(), 1));
    s.begin(b'L', 0);
    a.catch_up();
    busy(&mut b);
    busy(&mut a);
    s.end(b'L');
    a.catch_up();
    b.finish();
    let r = done(&s);
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    let p = &r.phases[0];
    assert!(p.accesses.user_data > 3000 && p.accesses.user_data <= 6000);
    assert_eq!(
        p.instructions.kernel_by_category.sum(),
        p.instructions.kernel
    );
}

#[test]
fn tasks_keep_their_entries_while_they_sleep() {
    let s = shared(&[], 1);
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'L', 0);
    v.catch_up();
    v.leave_task(0x100);
    exec(&mut v, 0x40_0000, 1);
    v.event(Event::Enter(Category::PageFault));
    exec(&mut v, 0xffff_ffff_8100_0000, 5);
    v.take_task(0x200);
    v.event(Event::NewTask);
    v.event(Event::KernelThread);
    exec(&mut v, 0xffff_ffff_8100_0000, 7);
    v.leave_task(0x200);
    v.take_task(0x100);
    exec(&mut v, 0xffff_ffff_8100_0000, 11);
    v.function(1, 16);
    v.returns(Return::Iret);
    s.end(b'L');
    v.catch_up();
    let r = done(&s);
    let p = &r.phases[0];
    assert_eq!(p.instructions.kernel_by_category.page_fault, 16);
    assert_eq!(p.instructions.kernel_by_category.kernel_thread, 7);
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    let tasks: Vec<_> = p
        .tasks
        .iter()
        .map(|t| (t.task.as_str(), t.comm.as_str(), t.kernel))
        .collect();
    assert_eq!(tasks, [("0x100", "", 16), ("0x200", "", 7)]);
}

#[test]
fn another_build_of_the_kernel_is_an_error() {
    let config = resolve("emt", None, &[]).unwrap();
    for (notes, errors) in [("-1000\0and", 0), ("-1000\0AND", 1), ("", 0)] {
        let mut symbols = Symbols::of_task(0, 0);
        symbols.notes = (0x1000, notes.into());
        let new = Shared::new(Options::default(), config.clone(), Some(symbols), 1);
        let s = Arc::new(new.unwrap());
        cpu(&s, Fake::default(), 0).look_at_kernel();
        let told = done(&s).errors;
        let told = told.iter().filter(|e| e.contains("is not the kernel"));
        assert_eq!(told.count(), errors);
    }
}

#[test]
fn tasks_have_names() {
    let config = resolve("emt", None, &[]).unwrap();
    let symbols = Some(Symbols::of_task(0x98, 0x10));
    let new = Shared::new(Options::default(), config, symbols, 1);
    let s = Arc::new(new.unwrap());
    let mut v = cpu(&s, Fake::default(), 0);
    s.begin(b'L', 0);
    v.catch_up();
    v.host.comm = "sh";
    exec(&mut v, 0x40_0000, 1);
    v.leave_task(0x1098);
    v.take_task(0x2098);
    v.host.comm = "bfs";
    exec(&mut v, 0x40_0000, 2);
    // another program
    v.host.comm = "dfs";
    v.look_at_task();
    s.end(b'L');
    v.catch_up();
    let r = done(&s);
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    let tasks: Vec<_> = r.phases[0]
        .tasks
        .iter()
        .map(|t| (t.task.as_str(), t.comm.as_str(), t.user))
        .collect();
    assert_eq!(tasks, [("0x2000", "dfs-2010", 2), ("0x1000", "sh-1010", 1)]);
}

#[test]
fn a_front_that_wants_neighbours_is_refused() {
    let set = ("tlb.front".to_owned(), "coalescing".to_owned());
    let config = resolve("emt", None, &[set]).unwrap();
    let why = Shared::new(Options::default(), config, None, 1)
        .err()
        .unwrap();
    assert!(why.contains("coalescing") && !why.contains('\n'), "{why}");
}

#[test]
fn walks_have_causes() {
    let config = resolve("emt", None, &[]).unwrap();
    let options = Options {
        walks: Some("/w".into()),
        ..Options::default()
    };
    let symbols = Some(Symbols::of_task(0x98, 0x10));
    let new = Shared::new(options, config, symbols, 1);
    let s = Arc::new(new.unwrap());
    let mut v = cpu(&s, Fake::default(), 0);
    v.host.comm = "two";
    s.begin(b'L', 0);
    v.catch_up();
    v.take_task(0x1098);
    let touch = |v: &mut Vcpu<Fake>, pc: u64, va: u64| {
        let data = access::pack_pc(is_kernel(VirtAddr::new(pc)), 0, pc);
        let va = VirtAddr::new(va);
        if !v.data_fast(va, 8, data) {
            v.data(va, 8, data);
        }
    };
    // Two arrays, each larger than any TLB, by two instructions, and a third by the kernel.
    for i in 0..8000u64 {
        touch(&mut v, 0x40_1000, 0x1000_0000 + i * 4096);
        touch(&mut v, 0x40_2000, 0x4000_0000 + (i % 4000) * 8192);
    }
    for i in 0..3000u64 {
        let pc = 0xffff_ffff_8100_0000;
        touch(&mut v, pc, 0xffff_8880_0000_0000 + i * 4096);
    }
    s.end(b'L');
    v.catch_up();
    let r = done(&s);
    assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    let real = &r.phases[0].organisations[0];
    let file = lock(&s.attribution).file();
    assert_eq!(file.phases.len(), 1);
    let phase = &file.phases[0];
    assert_eq!(phase.name, "load");
    let by = |pc: u64| {
        let mine = phase.instructions.iter().find(|i| i.1 == pc).unwrap();
        assert_eq!(file.programs[mine.0 as usize], "two-1010");
        mine.2
    };
    let costs = [0x40_1000, 0x40_2000, 0xffff_ffff_8100_0000].map(by);
    assert_eq!(costs.map(|c| c.walks), [8000, 8000, 3000]);
    let within = |from: u64, to: u64| -> u64 {
        let some = phase.blocks.iter().filter(|b| (from..to).contains(&b.1));
        some.map(|b| b.2.walks).sum()
    };
    assert_eq!(within(0x1000_0000, 0x4000_0000), 8000);
    assert_eq!(within(0x4000_0000, 0x8000_0000), 8000);
    assert_eq!(costs.iter().map(|c| c.walks).sum::<u64>(), real.walks);
    assert_eq!(
        costs.iter().map(|c| c.reads).sum::<u64>(),
        real.walk_entry_reads
    );
    let cycles: f64 = costs.iter().map(|c| c.cycles).sum();
    assert!((cycles / real.walk_cycles - 1.0).abs() < 1e-9);
}

#[test]
fn an_address_survives_its_packing() {
    for pc in [
        0,
        0x40_1000,
        0x7fff_ffff_ffff,
        0xffff_ffff_8100_0000,
        u64::MAX,
    ] {
        let data = access::pack_pc(is_kernel(VirtAddr::new(pc)), 2, pc);
        assert_eq!(access::pc(data), pc);
        assert_eq!(
            (access::halves(data), access::kernel(data)),
            (2, is_kernel(VirtAddr::new(pc)))
        );
    }
}
