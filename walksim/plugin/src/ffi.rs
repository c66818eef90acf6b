// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callbacks, and what they share. Nothing unwinds into QEMU: what may panic runs in `catch_unwind`. The
//! boundary itself is `fpt-qemu-plugin`, of a QEMU with the walk and TLB-flush additions.

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use fpt_qemu_plugin::{
    self as qemu, Block, Data, Id, Info, OnExec, Reader, RegisterFlush, Rw, Scoreboard, Walker,
};
use fpt_walksim_model::addr::{PhysAddr, VirtAddr};
use fpt_walksim_model::walk::{Entry, Flush, Size, Walk, MAX_ENTRIES};

use crate::args::{self, Empty};
use crate::decode::{Factory, Mark, Return};
use crate::flush::flush;
use crate::kernel::Category;
use crate::output;
use crate::plan::{plan, Action, Counter, Depth, Insn};
use crate::symbols::{Event, Symbols};
use crate::vcpu::{access, lock, CodeLine, Host, Shared, Slot, Vcpu, NO_LINE};

qemu::plugin!("fpt-walksim", install);

const _: () = assert!(MAX_ENTRIES == qemu::MAX_ENTRIES);

/// The bit of a leaf entry that makes its page global.
const PTE_GLOBAL: u64 = 1 << 8;
/// The address in a root register.
const ROOT_MASK: u64 = 0x000f_ffff_ffff_f000;

/// The scoreboard, the walk, and everything that translation needs.
struct Plugin {
    score: Scoreboard,
    walk: Walker,
    register_flush: RegisterFlush,
    shared: Arc<Shared>,
    /// Places of code that translations refer to; they are never freed, as translations may be executed
    /// at any time. A place is kept once.
    lines: Mutex<HashMap<(u64, u64), &'static CodeLine>>,
    /// Set when the first mark was executed.
    everything: AtomicBool,
    /// The id of the first mark.
    first: AtomicU32,
    /// Where the host has the guest's memory, less its physical address: below and beyond 4 GiB.
    bases: [AtomicU64; 2],
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

const MAX_VCPUS: usize = 64;
/// Id of the phase that is the last one.
const RUN: u8 = b'R';
/// Id of the phase that is all of a program's run.
const WHOLE: u8 = b'W';
static VCPUS: [AtomicPtr<Vcpu<Qemu>>; MAX_VCPUS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_VCPUS];
static SLOTS: Once = Once::new();

/// The QEMU side of one virtual CPU.
struct Qemu {
    slot: *mut Slot,
    walk: Walker,
    reader: Option<Reader>,
}

impl Host for Qemu {
    fn walk(&mut self, va: VirtAddr) -> Option<Walk> {
        walk(self.walk, va)
    }

    fn translation(&mut self, info: u32, va: VirtAddr) -> Option<PhysAddr> {
        // SAFETY: called while QEMU reports the access that `info` and `va` belong to.
        unsafe { qemu::phys_addr(info, va.as_u64()) }.map(PhysAddr::new)
    }

    #[inline(always)]
    fn bytes(&self, info: u32) -> u64 {
        1 << (qemu::size_shift(info) & 7)
    }

    fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
        // SAFETY: called in one of this CPU's callbacks.
        let read = |r: &mut Reader| unsafe { r.read(va, to) };
        self.reader.as_mut().is_some_and(read)
    }

    #[inline(always)]
    fn slot(&mut self) -> &mut Slot {
        // SAFETY: set in `slots` before the first callback of a vCPU and never moved after that, as all
        // vCPUs exist by then. Translated code of this vCPU writes to it, and this thread runs that code.
        unsafe { &mut *self.slot }
    }
}

fn walk(walker: Walker, va: VirtAddr) -> Option<Walk> {
    // SAFETY: called in vCPU context.
    let w = unsafe { walker.walk(va.as_u64()) }?;
    let size = Size::from_bytes(w.page_size)?;
    let mut entries = [Entry::default(); MAX_ENTRIES];
    for (to, from) in entries.iter_mut().zip(w.entries()) {
        *to = Entry {
            pa: PhysAddr::new(from.paddr),
            level: from.level,
            index_bits: from.index_bits,
        };
    }
    let leaf = w.entries().last()?;
    Some(Walk {
        va,
        root: PhysAddr::new(w.root & ROOT_MASK),
        entries,
        n: w.entries().len() as u8,
        page: PhysAddr::new(w.paddr & !(w.page_size - 1)),
        size,
        global: leaf.value & PTE_GLOBAL != 0,
    })
}

/// The state of a virtual CPU, in one of its callbacks.
#[inline(always)]
fn vcpu(index: c_uint) -> Option<&'static mut Vcpu<Qemu>> {
    let place = VCPUS.get(index as usize)?;
    // SAFETY: null or a leaked box. Only callbacks of this vCPU use it, and those run one after the other
    // on its thread; `started` and `at_exit` run while no vCPU does.
    unsafe { place.load(Ordering::Relaxed).as_mut() }
}

/// Runs code that may panic; a panic makes the run's figures an error and ends nothing.
fn guarded(f: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(f)).is_err() {
        if let Some(plugin) = PLUGIN.get() {
            let shared = &plugin.shared;
            let _ = catch_unwind(AssertUnwindSafe(|| {
                shared.error("internal error of the plugin, see QEMU's output".into())
            }));
        }
    }
}

extern "C" fn accessed(index: c_uint, info: u32, va: u64, data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    let (va, data) = (VirtAddr::new(va), data as usize);
    if !v.data_fast(va, info, data) {
        slow_access(v, info, va, data);
    }
}

#[cold]
#[inline(never)]
fn slow_access(v: &mut Vcpu<Qemu>, info: u32, va: VirtAddr, data: usize) {
    guarded(|| v.data(va, info, data));
}

extern "C" fn fetched(index: c_uint, data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    // SAFETY: the user data of this callback is a leaked CodeLine.
    let line = unsafe { &*data.cast::<CodeLine>() };
    if !v.fetch_fast(line) {
        slow_fetch(v, line);
    }
}

#[inline(never)]
fn slow_fetch(v: &mut Vcpu<Qemu>, line: &CodeLine) {
    guarded(|| v.fetch(line));
}

extern "C" fn in_function(index: c_uint, data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    let data = data as usize;
    guarded(|| v.function((data >> 16) as u32, (data & 0xffff) as u64));
}

extern "C" fn happened(index: c_uint, data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    guarded(|| match unpack(data as usize) {
        Some(Happening::Event(event)) => v.event(*event),
        Some(Happening::Return(how)) => v.returns(*how),
        None => {}
    });
}

enum Happening {
    Event(Event),
    Return(Return),
}

/// What [`happened`] may be told, by number.
const HAPPENINGS: [Happening; 10] = [
    Happening::Event(Event::Enter(Category::PageFault)),
    Happening::Event(Event::Enter(Category::Syscall)),
    Happening::Event(Event::Enter(Category::Timer)),
    Happening::Event(Event::Enter(Category::Interrupt)),
    Happening::Event(Event::Enter(Category::KernelThread)),
    Happening::Event(Event::Enter(Category::Other)),
    Happening::Event(Event::NewTask),
    Happening::Event(Event::KernelThread),
    Happening::Return(Return::Iret),
    Happening::Return(Return::Sysret),
];

fn unpack(number: usize) -> Option<&'static Happening> {
    static ALL: [Happening; 10] = HAPPENINGS;
    ALL.get(number)
}

fn number(wanted: &Happening) -> usize {
    let same = |h: &Happening| match (h, wanted) {
        (Happening::Event(a), Happening::Event(b)) => a == b,
        (Happening::Return(a), Happening::Return(b)) => a == b,
        _ => false,
    };
    HAPPENINGS.iter().position(same).unwrap_or(usize::MAX)
}

extern "C" fn task_left(index: c_uint, _info: u32, va: u64, _data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    guarded(|| v.leave_task(va));
}

extern "C" fn task_taken(index: c_uint, _info: u32, va: u64, _data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    guarded(|| v.take_task(va));
}

extern "C" fn marked(index: c_uint, data: *mut c_void) {
    let (Some(v), Some(plugin)) = (vcpu(index), PLUGIN.get()) else {
        return;
    };
    let word = data as usize;
    let id = (word & 0xff) as u8;
    guarded(|| {
        let shared = &plugin.shared;
        v.look_at_task();
        if word & 0x100 != 0 {
            if shared.end(id) {
                v.catch_up();
                save(plugin, false);
                if matches!(id, RUN | WHOLE) && !shared.always() {
                    pause(plugin);
                }
            }
        } else if plugin.everything.load(Ordering::Relaxed) {
            let executed = v.executed();
            shared.begin(id, executed);
            v.catch_up();
        } else {
            v.look_at_kernel();
            start(plugin, id);
        }
    });
}

static ID: OnceLock<Id> = OnceLock::new();

/// Throws all translations out, so that new ones count everything.
fn start(plugin: &Plugin, first: u8) {
    plugin.everything.store(true, Ordering::Relaxed);
    plugin.first.store(u32::from(first), Ordering::Relaxed);
    translate_anew();
}

/// What follows the run phase, usually a proof of the result, is in no figure: as before the first mark.
fn pause(plugin: &Plugin) {
    plugin.everything.store(false, Ordering::Relaxed);
    plugin.first.store(u32::MAX, Ordering::Relaxed);
    translate_anew();
}

fn translate_anew() {
    if let Some(id) = ID.get() {
        // SAFETY: called in vCPU context; `started` is called when no vCPU runs.
        unsafe { qemu::reset(*id, started) };
    }
}

extern "C" fn started(id: Id) {
    guarded(|| {
        let Some(plugin) = PLUGIN.get() else { return };
        let cpus = || (0..plugin.shared.vcpus).filter_map(vcpu);
        if let Ok(first) = u8::try_from(plugin.first.load(Ordering::Relaxed)) {
            // Invalidations of a pause were not seen.
            cpus().for_each(|v| v.flush(Flush::All));
            let executed = cpus().next().map_or(0, Vcpu::executed);
            plugin.shared.begin(first, executed);
        }
        cpus().for_each(Vcpu::catch_up);
        register(plugin, id);
    });
}

fn register(plugin: &Plugin, id: Id) {
    qemu::on_translation(id, translated);
    qemu::at_exit(id, at_exit);
    if plugin.everything.load(Ordering::Relaxed) && plugin.shared.options.empty.is_none() {
        qemu::on_tlb_flush(id, plugin.register_flush, flushed);
    }
}

extern "C" fn flushed(_id: Id, index: c_uint, what: c_uint, va: u64, asid: u64) {
    let Some(v) = vcpu(index) else { return };
    if let Some(what) = flush(what, va, asid) {
        guarded(|| v.flush(what));
    }
}

extern "C" fn at_exit(_id: Id, _data: *mut c_void) {
    guarded(|| {
        let Some(plugin) = PLUGIN.get() else { return };
        // Nothing was executed, if nothing was translated.
        let vcpus = if SLOTS.is_completed() {
            plugin.shared.vcpus
        } else {
            0
        };
        for index in 0..vcpus {
            if let Some(v) = vcpu(index) {
                v.finish();
            }
        }
        save(plugin, true);
    });
}

fn save(plugin: &Plugin, at_exit: bool) {
    let shared = &plugin.shared;
    if shared.options.empty.is_some() {
        return;
    }
    let results = lock(&shared.results);
    let report = results.report(&shared.machines, at_exit);
    if at_exit {
        for error in &report.errors {
            eprintln!("fpt-walksim: {error}");
        }
    }
    let written = serde_json::to_string_pretty(&report)
        .map_err(|e| format!("cannot write the result: {e}"))
        .and_then(|text| output::write(&shared.options.out, &(text + "\n")));
    let flame = match &shared.options.flame {
        Some(path) => output::write(path, &results.flame()),
        None => Ok(()),
    };
    let walks = match &shared.options.walks {
        Some(path) if at_exit => serde_json::to_string(&lock(&shared.attribution).file())
            .map_err(|e| format!("cannot write who causes the walks: {e}"))
            .and_then(|text| output::write(path, &(text + "\n"))),
        _ => Ok(()),
    };
    for error in [written, flame, walks].into_iter().filter_map(Result::err) {
        eprintln!("fpt-walksim: {error}");
    }
}

extern "C" fn empty_access(_index: c_uint, _info: u32, _va: u64, _data: *mut c_void) {}

extern "C" fn empty_exec(_index: c_uint, _data: *mut c_void) {}

/// Does what the inline filter needs, so that it filters as in the simulation.
extern "C" fn empty_fetch(index: c_uint, data: *mut c_void) {
    let Some(v) = vcpu(index) else { return };
    // SAFETY: as in `fetched`.
    let line = unsafe { &*data.cast::<CodeLine>() };
    v.host.slot().fetch_line = line.va.as_u64() / fpt_walksim_model::config::LINE;
}

fn member(plugin: &Plugin, offset: usize) -> qemu::Counter {
    plugin.score.counter(offset)
}

fn counter(plugin: &Plugin, counter: Counter) -> qemu::Counter {
    use std::mem::offset_of;
    member(
        plugin,
        match counter {
            Counter::Packed { kernel: false } => offset_of!(Slot, user),
            Counter::Packed { kernel: true } => offset_of!(Slot, kernel),
            Counter::Strings { kernel: false } => offset_of!(Slot, user_strings),
            Counter::Strings { kernel: true } => offset_of!(Slot, kernel_strings),
            Counter::Second { kernel: false } => offset_of!(Slot, user_second),
            Counter::Second { kernel: true } => offset_of!(Slot, kernel_second),
        },
    )
}

fn carry_out(plugin: &Plugin, insn: qemu::Insn<'_>, action: Action, page: &mut CodePage) {
    let same = plugin.shared.options.empty == Some(Empty::Same);
    match action {
        Action::Add(which, n) => {
            insn.add(counter(plugin, which), n);
            if which == (Counter::Packed { kernel: true }) {
                let sum = member(plugin, std::mem::offset_of!(Slot, kernel_sum));
                insn.add(sum, n & u64::from(u32::MAX));
            }
        }
        Action::Fetch { va, second } => {
            let line = place(plugin, VirtAddr::new(va), page);
            // Once for each page of a block.
            if !second && !std::mem::replace(&mut page.compared, true) {
                compare_code(plugin, insn, line);
            }
            let cb = if same { empty_fetch } else { fetched };
            let last = member(plugin, std::mem::offset_of!(Slot, fetch_line));
            let number = va / fpt_walksim_model::config::LINE;
            insn.on_exec_unless(last, number, cb, Data::of(line));
        }
        Action::Function { function, n } => {
            let inside = member(plugin, std::mem::offset_of!(Slot, in_page_fault));
            let data = Data::number((function as usize) << 16 | n.min(0xffff) as usize);
            let cb = if same { empty_exec } else { in_function };
            insn.on_exec_unless(inside, 0, cb, data);
        }
        Action::Access {
            kernel,
            loads,
            stores,
            function,
        } => {
            let cb = if same { empty_access } else { accessed };
            let attributes = plugin.shared.options.walks.is_some();
            let data = |halves| {
                Data::number(match (attributes, halves) {
                    (true, _) => access::pack_pc(kernel, halves, insn.vaddr()),
                    (false, 0) => access::pack(kernel, 0, 0),
                    (false, _) => access::pack(kernel, halves, function),
                })
            };
            if loads == stores {
                insn.on_access(Rw::RW, cb, data(loads));
            } else {
                insn.on_access(Rw::R, cb, data(loads));
                insn.on_access(Rw::W, cb, data(stores));
            }
        }
        Action::Event(event) => on_exec(insn, happened, number(&Happening::Event(event))),
        Action::Return(how) => on_exec(insn, happened, number(&Happening::Return(how))),
        Action::Mark(Mark::Begin(id)) => on_exec(insn, marked, usize::from(id)),
        Action::Mark(Mark::End(id)) => on_exec(insn, marked, usize::from(id) | 0x100),
        Action::LeaveTask => insn.on_access(Rw::W, task_left, Data::number(0)),
        Action::TakeTask => insn.on_access(Rw::R, task_taken, Data::number(0)),
    }
}

fn on_exec(insn: qemu::Insn<'_>, cb: OnExec, data: usize) {
    insn.on_exec(cb, Data::number(data));
}

/// The page of the code that is being translated, as most lines of a block are in one page.
#[derive(Default)]
struct CodePage {
    /// Virtual and physical address.
    found: Option<(u64, PhysAddr)>,
    compared: bool,
}

/// Where a line of code is now.
fn place(plugin: &Plugin, va: VirtAddr, page: &mut CodePage) -> &'static CodeLine {
    let number = va.as_u64() >> 12;
    let pa = match page.found {
        Some((n, pa)) if n == number => pa,
        _ => {
            let found = walk(plugin.walk, va);
            let pa = found.map_or(CodeLine::NOWHERE, |w| {
                PhysAddr::new(w.size.at(w.page, va).as_u64() & !0xfff)
            });
            *page = CodePage {
                found: Some((number, pa)),
                compared: false,
            };
            pa
        }
    };
    let pa = match pa {
        CodeLine::NOWHERE => pa,
        _ => Size::Small.at(pa, va),
    };
    let line = CodeLine { va, pa };
    lock(&plugin.lines)
        .entry((va.as_u64(), pa.as_u64()))
        .or_insert_with(|| Box::leak(Box::new(line)))
}

/// Compares the walk of code with where QEMU reads it. QEMU tells an address of the host's, which is the guest's physical
/// one plus the same number all over its memory, or plus another one beyond 4 GiB.
fn compare_code(plugin: &Plugin, insn: qemu::Insn<'_>, line: &CodeLine) {
    let host = insn.haddr();
    if host == 0 || line.pa == CodeLine::NOWHERE || !plugin.shared.checking() {
        return;
    }
    let base = host.wrapping_sub(line.pa.as_u64());
    let Some(known) = plugin.bases.get(usize::from(line.pa.as_u64() >> 32 != 0)) else {
        return;
    };
    let mut found = output::Found {
        code: 1,
        ..output::Found::default()
    };
    if let Err(old) = known.compare_exchange(0, base, Ordering::Relaxed, Ordering::Relaxed) {
        if old != base {
            found.mismatch(format!(
                "the tables lead from {:#x} to {:#x}, QEMU reads its code {:#x} bytes from there",
                line.va.as_u64(),
                line.pa.as_u64(),
                base.wrapping_sub(old)
            ));
        }
    }
    lock(&plugin.shared.results).found(found);
}

fn instrument(plugin: &Plugin, translated: Block<'_>) {
    slots(plugin);
    let handles: Vec<_> = translated.insns().collect();
    let code: Vec<_> = handles
        .iter()
        .map(|insn| {
            let mut buffer = [0u8; 16];
            let len = insn.bytes(&mut buffer);
            (insn.vaddr(), buffer, len)
        })
        .collect();
    let block: Vec<Insn<'_>> = code
        .iter()
        .map(|(va, buffer, len)| Insn {
            va: *va,
            bytes: buffer.get(..*len).unwrap_or(&[]),
        })
        .collect();
    let everything = plugin.everything.load(Ordering::Relaxed);
    let each = everything && plugin.shared.options.empty == Some(Empty::Each);
    let depth = if everything && !each {
        Depth::Everything
    } else {
        Depth::Entries
    };
    let mut actions = Vec::new();
    let symbols = plugin.shared.symbols.as_ref();
    plan(&block, symbols, depth, &mut Factory::new(), &mut actions);
    let mut page = CodePage::default();
    for (index, action) in actions {
        if let Some(insn) = handles.get(index) {
            carry_out(plugin, *insn, action, &mut page);
        }
    }
    if each {
        for insn in handles {
            on_exec(insn, empty_exec, 0);
            insn.on_access(Rw::RW, empty_access, Data::number(0));
        }
    }
}

/// Finds the CPUs' entries of the scoreboard: all CPUs exist when the first block is translated.
fn slots(plugin: &Plugin) {
    SLOTS.call_once(|| {
        for index in 0..plugin.shared.vcpus {
            let slot = plugin.score.find(index).cast::<Slot>();
            if let Some(v) = vcpu(index) {
                v.host.slot = slot;
                v.host.slot().fetch_line = NO_LINE;
            }
        }
    });
}

extern "C" fn translated(_id: Id, block: Block<'_>) {
    guarded(|| {
        if let Some(plugin) = PLUGIN.get() {
            instrument(plugin, block);
        }
    });
}

fn install(id: Id, info: Option<Info>, args: &[String]) -> Result<(), String> {
    let info = info.ok_or("QEMU says nothing about itself")?;
    let options = args::options(args)?;
    let vcpus = info.machine(MAX_VCPUS)?;
    let too_old =
        "this QEMU's plugin interface has no page-table walks: use the QEMU of `fpt build-qemu`";
    let walk = Walker::find().ok_or(too_old)?;
    let register_flush = RegisterFlush::find().ok_or(too_old)?;

    let shown = options.config.display();
    let text = std::fs::read_to_string(&options.config)
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    let config = fpt_walksim_model::config::parse(&text).map_err(|e| format!("{shown}: {e}"))?;
    let symbols = options.vmlinux.as_deref().map(Symbols::load).transpose()?;
    qemu::fresh(&options.out)?;
    let vcpus = u32::try_from(vcpus).unwrap_or(1);
    let everything = config.sim.simulate_outside;
    let shared = Arc::new(Shared::new(options, config, symbols, vcpus)?);
    for index in 0..vcpus {
        let host = Qemu {
            slot: std::ptr::null_mut(),
            walk,
            reader: Reader::new(),
        };
        let v = Box::new(Vcpu::new(host, shared.clone(), index)?);
        if let Some(place) = VCPUS.get(index as usize) {
            place.store(Box::into_raw(v), Ordering::Relaxed);
        }
    }
    let plugin = Plugin {
        score: Scoreboard::new(size_of::<Slot>()),
        walk,
        register_flush,
        shared,
        lines: Mutex::new(HashMap::new()),
        everything: AtomicBool::new(everything),
        first: AtomicU32::new(u32::MAX),
        bases: [AtomicU64::new(0), AtomicU64::new(0)],
    };
    let _ = ID.set(id);
    PLUGIN.set(plugin).map_err(|_| "loaded twice".to_owned())?;
    if let Some(plugin) = PLUGIN.get() {
        register(plugin, id);
    }
    Ok(())
}
