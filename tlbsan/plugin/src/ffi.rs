// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callbacks. Nothing unwinds into QEMU: what may panic runs in `catch_unwind`.

use std::cell::{Cell, RefCell};
use std::ffi::{c_uint, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fpt_qemu_plugin::{
    self as qemu, Block, CpuEvent, Data, Id, Info, Insn, Ram, Register, RegisterEvents,
    RegisterList, Rw, Scoreboard,
};
use fpt_tlbsan_model::{Frame, Invalidation, Release, MAX_CPUS};

use crate::args::{self, Options};
use crate::askers::WORDS;
use crate::code::{Kind, Mark, Reader};
use crate::engine::Engine;
use crate::symbols::Symbols;
use crate::watch::{Tables, Watch};

qemu::plugin!("fpt-tlbsan", install);

/// Translations of kernel addresses that a CPU's stores remember.
const PAGES: usize = 1024;

/// What belongs to one CPU, and is used in its context only.
struct Cpu {
    /// Number of the page, the epoch in which its frame was looked up, and the frame.
    pages: Vec<Cell<(u64, u64, u64)>>,
    /// Changes when kernel addresses may mean something else.
    epoch: Cell<u64>,
    /// What an exchange has just loaded: address and value.
    loaded: Cell<(u64, u64)>,
}

/// What QEMU's code looks at: 1 while the CPU executes user code.
#[repr(C)]
struct Slot {
    user: u64,
}

#[derive(Clone, Copy)]
struct Registers {
    rax: Register,
    rdx: Register,
    rsi: Register,
    rsp: Register,
    cs: Register,
    cr0: Register,
}

struct Plugin {
    options: Options,
    score: Scoreboard,
    watch: &'static Watch,
    switch: Option<u64>,
    /// Where a CPU asks others, if that is to be kept.
    sends: Option<u64>,
    registers: OnceLock<Registers>,
    engine: Mutex<Option<Engine<Tables>>>,
    /// For the engine, which begins when the guest has its memory.
    symbols: Mutex<Option<Symbols>>,
    cpus: usize,
    decoder: Mutex<Reader>,
}

// SAFETY: the decoder's factory holds no threads' data; everything else is shareable by itself.
unsafe impl Sync for Plugin {}
// SAFETY: as for Sync.
unsafe impl Send for Plugin {}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();
static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_CPUS];

fn cpu(index: c_uint) -> Option<&'static Cpu> {
    let place = CPUS.get(index as usize)?.load(Ordering::Relaxed);
    // SAFETY: null, or a box that is never freed; only the CPU's own callbacks use it.
    unsafe { place.as_ref() }
}

/// A lock whose holder died still guards data that can be shown.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn guarded(f: impl FnOnce(&'static Plugin)) {
    let Some(plugin) = PLUGIN.get() else { return };
    if catch_unwind(AssertUnwindSafe(|| f(plugin))).is_err() {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Some(engine) = &mut *lock(&plugin.engine) {
                engine.internal("the plugin panicked, see QEMU's output".into());
            }
        }));
    }
}

fn with(f: impl FnOnce(&mut Engine<Tables>)) {
    guarded(|plugin| {
        if let Some(engine) = &mut *lock(&plugin.engine) {
            f(engine);
        }
    });
}

/// Where a store went: from what the CPU remembers, or from QEMU.
#[inline]
fn frame_of(cpu: &Cpu, info: u32, va: u64) -> Option<u64> {
    let page = va >> 12;
    // Low addresses change with every process.
    let slot = match va >> 63 {
        0 => None,
        _ => cpu.pages.get(page as usize % PAGES),
    };
    let epoch = cpu.epoch.get();
    if let Some((known, then, frame)) = slot.map(Cell::get) {
        if (known, then) == (page, epoch) {
            return Some(frame);
        }
    }
    // SAFETY: QEMU reports this access.
    let frame = unsafe { qemu::phys_addr(info, va) }? >> 12;
    if let Some(slot) = slot {
        slot.set((page, epoch, frame));
    }
    Some(frame)
}

extern "C" fn accessed(index: c_uint, info: u32, va: u64, data: *mut c_void) {
    let (Some(plugin), Some(cpu)) = (PLUGIN.get(), cpu(index)) else {
        return;
    };
    if !qemu::is_store(info) {
        // SAFETY: QEMU reports this access.
        let value = unsafe { qemu::value(info) };
        // Only whole entries: of others, bits are not known.
        let whole = qemu::size_shift(info) == 3 && va % 8 == 0;
        cpu.loaded.set(if whole { (va, value) } else { (1, 0) });
        return;
    }
    let Some(frame) = frame_of(cpu, info, va) else {
        return;
    };
    if plugin.watch.has(Frame(frame)) {
        let (at, value) = cpu.loaded.replace((1, 0));
        let old = (at == va).then_some(value);
        let pa = frame << 12 | va & 0xfff;
        let end = pa + (1 << qemu::size_shift(info));
        stored(index, data.addr() as u64, (pa & !7, end), old);
    }
}

#[cold]
fn stored(index: c_uint, pc: u64, (first, end): (u64, u64), old: Option<u64>) {
    guarded(|plugin| {
        let Some(engine) = &mut *lock(&plugin.engine) else {
            return;
        };
        for pa in (first..end).step_by(8) {
            if !engine.store(index, pc, pa, old) {
                // With the lock held nobody makes it a table meanwhile.
                plugin.watch.remove(Frame::of(pa));
            }
        }
    });
}

extern "C" fn tlb_event(_id: Id, index: c_uint, what: c_uint, va: u64, _asid: u64) {
    let forget = |cpu: &Cpu| cpu.epoch.set(cpu.epoch.get() + 1);
    let invalidation = match what {
        qemu::FLUSH_ALL | qemu::FLUSH_INIT => Invalidation::Everything,
        qemu::FLUSH_PAGE => Invalidation::Page(va),
        qemu::FLUSH_FAULT => Invalidation::Fault(va),
        qemu::NEW_ROOT => {
            let root = (va != qemu::NO_ROOT).then_some(va);
            return with(|e| e.root(index, root));
        }
        // The new root comes with it; kernel addresses stay what they are.
        _ => return,
    };
    if !matches!(invalidation, Invalidation::Fault(_)) {
        cpu(index).into_iter().for_each(forget);
    }
    with(|e| {
        e.invalidate(index, invalidation);
        if what == qemu::FLUSH_INIT {
            e.root(index, None);
        }
    });
}

/// Nothing for a CPU that QEMU has not announced: it may wait, or run, before that.
fn slot(plugin: &Plugin, index: c_uint) -> Option<&'static mut u64> {
    cpu(index)?;
    // SAFETY: the CPU's own entry, which nobody else uses while its callback runs, and never freed.
    unsafe { plugin.score.find(index).cast::<u64>().as_mut() }
}

extern "C" fn user_code(index: c_uint, _data: *mut c_void) {
    guarded(|plugin| {
        if let Some(user) = slot(plugin, index) {
            *user = 1;
        }
    });
    with(|e| e.enters_user(index));
}

extern "C" fn kernel_code(index: c_uint, _data: *mut c_void) {
    guarded(|plugin| {
        if let Some(user) = slot(plugin, index) {
            *user = 0;
        }
    });
    with(|e| e.leaves_user(index));
}

extern "C" fn stac(index: c_uint, data: *mut c_void) {
    with(|e| e.stac(index, data.addr() as u64));
}

extern "C" fn waits(_id: Id, index: c_uint) {
    on_wait(index, |e| e.halts(index));
}

extern "C" fn runs(_id: Id, index: c_uint) {
    on_wait(index, |e| e.resumes(index));
}

/// A CPU that is stopped in user mode is none that executed HLT.
fn on_wait(index: c_uint, f: impl FnOnce(&mut Engine<Tables>)) {
    let Some(plugin) = PLUGIN.get() else { return };
    if slot(plugin, index).is_some_and(|user| *user == 0) {
        with(f);
    }
}

extern "C" fn switched(index: c_uint, _data: *mut c_void) {
    guarded(|plugin| {
        let Some(registers) = plugin.registers.get() else {
            return;
        };
        // SAFETY: registered with registers.
        if let Some(task) = unsafe { registers.rsi.read() } {
            if let Some(engine) = &mut *lock(&plugin.engine) {
                engine.switches(index, task);
            }
        }
    });
}

thread_local! {
    /// Reads of guest memory by this thread's CPU.
    static READER: RefCell<Option<qemu::Reader>> = RefCell::new(qemu::Reader::new());
}

/// Reads guest memory of the CPU whose callback this is.
fn read<const N: usize>(va: u64) -> Option<[u8; N]> {
    READER.with_borrow_mut(|reader| {
        let mut bytes = [0; N];
        // SAFETY: only called in a CPU's callback.
        let done = unsafe { reader.as_mut()?.read(va, &mut bytes) };
        done.then_some(bytes)
    })
}

/// Keeps the calls that led to a flush.
fn asks(index: c_uint, data: *mut c_void, others: bool) {
    guarded(|plugin| {
        let Some(registers) = plugin.registers.get() else {
            return;
        };
        // SAFETY: registered with registers.
        let Some(rsp) = (unsafe { registers.rsp.read() }) else {
            return;
        };
        // A stack may end before the last word.
        let page = |at: u64| read::<{ WORDS * 2 }>(at).into_iter().flatten();
        let at = (0..4).map(|n| rsp + n * (WORDS as u64 * 2));
        let bytes: Vec<u8> = at.flat_map(page).collect();
        let words = bytes.chunks_exact(8);
        let words: Vec<u64> = words
            .map(|w| w.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
            .collect();
        if let Some(engine) = &mut *lock(&plugin.engine) {
            let pc = data.addr() as u64;
            engine.asks(index, (pc, others), &words, |at| read(at.wrapping_sub(7)));
        }
    });
}

extern "C" fn flushes(index: c_uint, data: *mut c_void) {
    asks(index, data, false);
}

extern "C" fn sends(index: c_uint, data: *mut c_void) {
    asks(index, data, true);
}

/// The user data of a mark is its instruction's address.
fn marked(index: c_uint, data: *mut c_void, f: impl FnOnce(&mut Engine<Tables>, u64, u64, u64)) {
    guarded(|plugin| {
        let Some(registers) = plugin.registers.get() else {
            return;
        };
        // SAFETY: registered with registers.
        let (a, d) = unsafe { (registers.rax.read(), registers.rdx.read()) };
        if let (Some(a), Some(d), Some(engine)) = (a, d, &mut *lock(&plugin.engine)) {
            let _ = index;
            f(engine, data.addr() as u64, a, d);
        }
    });
}

extern "C" fn freed(index: c_uint, data: *mut c_void) {
    marked(index, data, |e, pc, a, d| {
        e.free(index, pc, a, d, Release::Freed);
    });
}

extern "C" fn retired(index: c_uint, data: *mut c_void) {
    marked(index, data, |e, pc, a, d| {
        e.free(index, pc, a, d, Release::Retired);
    });
}

extern "C" fn frozen(index: c_uint, data: *mut c_void) {
    marked(index, data, |e, pc, a, d| e.freeze(index, pc, a, d));
}

extern "C" fn case(index: c_uint, data: *mut c_void) {
    marked(index, data, |e, _, a, d| e.case(a, d));
}

fn instrument(plugin: &'static Plugin, insn: Insn<'_>, bytes: &[u8]) {
    let pc = insn.vaddr();
    let here = Data::number(pc as usize);
    if plugin.switch == Some(pc) {
        insn.on_exec_with_registers(switched, here);
    }
    if plugin.sends == Some(pc) {
        insn.on_exec_with_registers(sends, here);
    }
    match lock(&plugin.decoder).kind(bytes) {
        Kind::Flush if plugin.options.flushes => insn.on_exec_with_registers(flushes, here),
        Kind::Flush | Kind::Other => {}
        Kind::Store => insn.on_access(Rw::W, accessed, here),
        Kind::Exchange => insn.on_access(Rw::RW, accessed, here),
        Kind::Stac => insn.on_exec(stac, here),
        Kind::Mark(mark) => {
            let cb = match mark {
                Mark::Freed => freed,
                Mark::Retired => retired,
                Mark::Frozen => frozen,
                Mark::Case => case,
            };
            insn.on_exec_with_registers(cb, here);
        }
    }
}

extern "C" fn translated(_id: Id, block: Block<'_>) {
    guarded(|plugin| {
        let Some(registers) = plugin.registers.get() else {
            return;
        };
        // A block is translated for one privilege level.
        // SAFETY: this is a translation.
        let (cs, cr0) = unsafe { (registers.cs.read(), registers.cr0.read()) };
        // In real mode a selector is a number.
        let is_user = cs.unwrap_or(0) & 3 == 3 && cr0.unwrap_or(0) & 1 != 0;
        let user = plugin.score.counter(std::mem::offset_of!(Slot, user));
        let mut buffer = [0; 16];
        for (n, insn) in block.insns().enumerate() {
            if is_user {
                // User code reaches no page table.
                insn.on_exec_unless(user, 1, user_code, Data::number(0));
                break;
            }
            if n == 0 {
                insn.on_exec_unless(user, 0, kernel_code, Data::number(0));
            }
            let len = insn.bytes(&mut buffer);
            if let Some(bytes) = buffer.get(..len) {
                instrument(plugin, insn, bytes);
            }
        }
    });
}

extern "C" fn begins(_id: Id, index: c_uint) {
    guarded(|plugin| {
        let cell = |_| Cell::new((0, 0, 0));
        let cpu = Box::new(Cpu {
            pages: (0..PAGES).map(cell).collect(),
            epoch: Cell::new(0),
            loaded: Cell::new((1, 0)),
        });
        if let Some(place) = CPUS.get(index as usize) {
            place.store(Box::into_raw(cpu), Ordering::Relaxed);
        }
        // SAFETY: a CPU begins to exist.
        let list = unsafe { RegisterList::new() };
        let find = |name| list.as_ref().and_then(|l| l.find(name));
        let arguments = (find(c"rax"), find(c"rdx"), find(c"rsi"), find(c"rsp"));
        let level = (find(c"cs"), find(c"cr0"));
        if let ((Some(rax), Some(rdx), Some(rsi), Some(rsp)), (Some(cs), Some(cr0))) =
            (arguments, level)
        {
            let all = Registers {
                rax,
                rdx,
                rsi,
                rsp,
                cs,
                cr0,
            };
            let _ = plugin.registers.set(all);
        } else if let Some(engine) = &mut *lock(&plugin.engine) {
            engine.internal("QEMU does not tell registers".into());
        }
        let mut engine = lock(&plugin.engine);
        let Some(symbols) = lock(&plugin.symbols).take() else {
            return;
        };
        match Ram::of_this_process() {
            Ok(ram) if ram.end() > END_OF_MEMORY => eprintln!(
                "fpt-tlbsan: the guest has {} bytes of memory, more than this plugin watches: give it 32 GiB or less",
                ram.bytes()
            ),
            Ok(ram) => {
                let memory = Tables {
                    ram,
                    watch: plugin.watch,
                };
                *engine = Some(Engine::new(&plugin.options, symbols, plugin.cpus, memory));
            }
            Err(why) => eprintln!("fpt-tlbsan: {why}"),
        }
    });
}

extern "C" fn at_exit(_id: Id, _data: *mut c_void) {
    guarded(|plugin| {
        let Some(engine) = &mut *lock(&plugin.engine) else {
            return;
        };
        let (value, lines) = engine.finish();
        for line in lines {
            eprintln!("{line}");
        }
        let out = &plugin.options.out;
        if let Err(e) = std::fs::write(out, format!("{value:#}\n")) {
            eprintln!("fpt-tlbsan: cannot write {}: {e}", out.display());
        }
    });
}

/// Physical addresses that are watched.
const END_OF_MEMORY: u64 = 34 << 30;

fn install(id: Id, info: Option<Info>, args: &[String]) -> Result<(), String> {
    let info = info.ok_or("QEMU says nothing about itself")?;
    let options = args::options(args)?;
    let cpus = info.machine(MAX_CPUS)?;
    let events = RegisterEvents::find().ok_or(
        "this QEMU does not tell of INIT and page faults: use the QEMU of `fpt build-qemu`",
    )?;
    let symbols = options.vmlinux.as_deref().map(Symbols::load).transpose()?;
    let symbols = symbols.unwrap_or_default();
    qemu::fresh(&options.out)?;
    let plugin = Plugin {
        score: Scoreboard::new(size_of::<Slot>()),
        watch: Box::leak(Box::new(Watch::new(END_OF_MEMORY))),
        switch: symbols.switch(),
        sends: symbols.sends().filter(|_| options.flushes),
        registers: OnceLock::new(),
        engine: Mutex::new(None),
        symbols: Mutex::new(Some(symbols)),
        cpus,
        decoder: Mutex::new(Reader::new()),
        options,
    };
    PLUGIN.set(plugin).map_err(|_| "loaded twice".to_owned())?;
    qemu::on_cpu(id, CpuEvent::Exists, begins);
    qemu::on_cpu(id, CpuEvent::Waits, waits);
    qemu::on_cpu(id, CpuEvent::Runs, runs);
    qemu::on_translation(id, translated);
    qemu::on_tlb_event(id, events, tlb_event);
    qemu::at_exit(id, at_exit);
    Ok(())
}
