// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boundary to QEMU: the functions of its plugin interface (version 4 with the walk and TLB-flush
//! additions) that are needed, declared by hand, and the callbacks. All `unsafe` of the crate is here.
//! Nothing unwinds into QEMU: what may panic runs in `catch_unwind`.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use fpt_walksim_model::walk::{Entry, Flush, Size, Walk, MAX_ENTRIES};

use crate::args::{self, Empty};
use crate::decode::{Factory, Mark, Return};
use crate::kernel::Category;
use crate::output;
use crate::plan::{plan, Action, Counter, Depth, Insn};
use crate::symbols::{Event, Symbols};
use crate::vcpu::{access, lock, CodeLine, Host, Shared, Slot, Vcpu, NO_LINE};

type PluginId = u64;

#[repr(C)]
struct Tb {
    _opaque: [u8; 0],
}

#[repr(C)]
struct InsnHandle {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Scoreboard {
    _opaque: [u8; 0],
}

#[repr(C)]
struct HwAddr {
    _opaque: [u8; 0],
}

/// The public part of glib's.
#[repr(C)]
struct GByteArray {
    data: *mut u8,
    len: c_uint,
}

/// `qemu_plugin_u64`
#[repr(C)]
#[derive(Clone, Copy)]
struct U64 {
    score: *mut Scoreboard,
    offset: usize,
}

/// `qemu_info_t`
#[repr(C)]
struct Info {
    target_name: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
    smp_vcpus: c_int,
    max_vcpus: c_int,
}

/// `struct qemu_plugin_walk_entry`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct WalkEntry {
    paddr: u64,
    value: u64,
    level: u8,
    index_bits: u8,
    reserved: [u8; 6],
}

/// `struct qemu_plugin_walk`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PluginWalk {
    result: u32,
    n_entries: u32,
    entries: [WalkEntry; MAX_ENTRIES],
    root: u64,
    paddr: u64,
    page_size: u64,
    prot: u64,
}

const ADD_U64: c_uint = 0;
const CB_NO_REGS: c_uint = 0;
const COND_NE: c_uint = 3;
const MEM_R: c_uint = 1;
const MEM_W: c_uint = 2;
const MEM_RW: c_uint = 3;
const WALK_PAGE: u32 = 0;
/// `enum qemu_plugin_tlb_flush`
const FLUSH_ALL: c_uint = 0;
const FLUSH_ASID: c_uint = 1;
/// Of a leaf entry.
const PTE_GLOBAL: u64 = 1 << 8;
/// The address in a root register.
const ROOT_MASK: u64 = 0x000f_ffff_ffff_f000;

type TbTransCb = extern "C" fn(PluginId, *mut Tb);
type UdataCb = extern "C" fn(c_uint, *mut c_void);
type MemCb = extern "C" fn(c_uint, u32, u64, *mut c_void);
type SimpleCb = extern "C" fn(PluginId);
type AtExitCb = extern "C" fn(PluginId, *mut c_void);
type FlushCb = extern "C" fn(PluginId, c_uint, c_uint, u64, u64);
type WalkFn = unsafe extern "C" fn(u64, *mut PluginWalk) -> bool;
type NewBytesFn = unsafe extern "C" fn() -> *mut GByteArray;
type RegisterFlushFn = unsafe extern "C" fn(PluginId, FlushCb);

extern "C" {
    fn qemu_plugin_reset(id: PluginId, cb: SimpleCb);
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, cb: TbTransCb);
    fn qemu_plugin_register_atexit_cb(id: PluginId, cb: AtExitCb, userdata: *mut c_void);
    fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut InsnHandle;
    fn qemu_plugin_insn_data(insn: *const InsnHandle, dest: *mut c_void, len: usize) -> usize;
    fn qemu_plugin_insn_vaddr(insn: *const InsnHandle) -> u64;
    fn qemu_plugin_insn_haddr(insn: *const InsnHandle) -> *mut c_void;
    fn qemu_plugin_read_memory_vaddr(addr: u64, data: *mut GByteArray, len: usize) -> bool;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut InsnHandle,
        cb: UdataCb,
        flags: c_uint,
        userdata: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cond_cb(
        insn: *mut InsnHandle,
        cb: UdataCb,
        flags: c_uint,
        cond: c_uint,
        entry: U64,
        imm: u64,
        userdata: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut InsnHandle,
        op: c_uint,
        entry: U64,
        imm: u64,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut InsnHandle,
        cb: MemCb,
        flags: c_uint,
        rw: c_uint,
        userdata: *mut c_void,
    );
    fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    fn qemu_plugin_get_hwaddr(info: u32, vaddr: u64) -> *mut HwAddr;
    fn qemu_plugin_hwaddr_is_io(haddr: *const HwAddr) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(haddr: *const HwAddr) -> u64;
    fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    fn qemu_plugin_scoreboard_find(score: *mut Scoreboard, vcpu_index: c_uint) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// QEMU reads this symbol to learn which interface the plugin was written for.
#[no_mangle]
pub static qemu_plugin_version: c_int = 4;

/// The scoreboard, the walk, and everything that translation needs.
struct Plugin {
    score: *mut Scoreboard,
    walk: WalkFn,
    register_flush: RegisterFlushFn,
    shared: Arc<Shared>,
    /// Places of code that translations refer to; they are never freed, as translations may be executed
    /// at any time. A place is kept once.
    lines: Mutex<HashMap<CodeLine, &'static CodeLine>>,
    /// Set when the first mark was executed.
    everything: AtomicBool,
    /// The id of the first mark.
    first: AtomicU32,
    /// Where the host has the guest's memory, less its physical address: below and beyond 4 GiB.
    bases: [AtomicU64; 2],
}

// SAFETY: the scoreboard pointer is only handed back to QEMU, whose functions on it may be called from
// every CPU thread; it lives as long as QEMU.
unsafe impl Send for Plugin {}
// SAFETY: as for Send; what is mutable is behind locks or atomic.
unsafe impl Sync for Plugin {}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

const MAX_VCPUS: usize = 64;
/// Id of the phase that is the last one.
const RUN: u8 = b'R';
static VCPUS: [AtomicPtr<Vcpu<Qemu>>; MAX_VCPUS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_VCPUS];
static SLOTS: Once = Once::new();

/// The QEMU side of one virtual CPU.
struct Qemu {
    slot: *mut Slot,
    walk: WalkFn,
    reader: Option<Reader>,
}

impl Host for Qemu {
    fn walk(&mut self, va: u64) -> Option<Walk> {
        walk(self.walk, va)
    }

    fn translation(&mut self, info: u32, va: u64) -> Option<u64> {
        // SAFETY: called while QEMU reports the access that `info` and `va` belong to.
        let found = unsafe { qemu_plugin_get_hwaddr(info, va) };
        // SAFETY: not null; valid until the callback returns.
        if found.is_null() || unsafe { qemu_plugin_hwaddr_is_io(found) } {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { qemu_plugin_hwaddr_phys_addr(found) })
    }

    #[inline(always)]
    fn bytes(&self, info: u32) -> u64 {
        // SAFETY: no preconditions; `info` is a value.
        1 << (unsafe { qemu_plugin_mem_size_shift(info) } & 7)
    }

    fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
        self.reader.as_mut().is_some_and(|r| r.read(va, to))
    }

    #[inline(always)]
    fn slot(&mut self) -> &mut Slot {
        // SAFETY: set in `slots` before the first callback of a vCPU and never moved after that, as all
        // vCPUs exist by then. Translated code of this vCPU writes to it, and this thread runs that code.
        unsafe { &mut *self.slot }
    }
}

fn walk(function: WalkFn, va: u64) -> Option<Walk> {
    let mut w = PluginWalk::default();
    // SAFETY: called in vCPU context; `w` has the layout of the header that the QEMU was built with.
    if !unsafe { function(va, &mut w) } || w.result != WALK_PAGE {
        return None;
    }
    let size = Size::from_bytes(w.page_size)?;
    let mut entries = [Entry::default(); MAX_ENTRIES];
    let n = (w.n_entries as usize).min(MAX_ENTRIES);
    for (to, from) in entries.iter_mut().zip(&w.entries) {
        *to = Entry {
            pa: from.paddr,
            level: from.level,
            index_bits: from.index_bits,
        };
    }
    let leaf = w.entries.get(n.checked_sub(1)?)?;
    Some(Walk {
        va,
        root: w.root & ROOT_MASK,
        entries,
        n: n as u8,
        page: w.paddr & !(w.page_size - 1),
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
    let data = data as usize;
    if !v.data_fast(va, info, data) {
        slow_access(v, info, va, data);
    }
}

#[cold]
#[inline(never)]
fn slow_access(v: &mut Vcpu<Qemu>, info: u32, va: u64, data: usize) {
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
                if id == RUN && !shared.always() {
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

static ID: OnceLock<PluginId> = OnceLock::new();

/// Throws all translations out, so that new ones count everything.
fn start(plugin: &Plugin, first: u8) {
    plugin.everything.store(true, Ordering::Relaxed);
    plugin.first.store(u32::from(first), Ordering::Relaxed);
    translate_anew();
}

/// What follows the run phase, a proof of the result as a rule, is in no figure: as before the first mark.
fn pause(plugin: &Plugin) {
    plugin.everything.store(false, Ordering::Relaxed);
    plugin.first.store(u32::MAX, Ordering::Relaxed);
    translate_anew();
}

fn translate_anew() {
    if let Some(id) = ID.get() {
        // SAFETY: called in vCPU context with the plugin's own id; `started` is called when no vCPU runs.
        unsafe { qemu_plugin_reset(*id, started) };
    }
}

extern "C" fn started(id: PluginId) {
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

fn register(plugin: &Plugin, id: PluginId) {
    // SAFETY: id is this plugin's; the callbacks live as long as the library.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    // SAFETY: as above.
    unsafe { qemu_plugin_register_atexit_cb(id, at_exit, std::ptr::null_mut()) };
    if plugin.everything.load(Ordering::Relaxed) && plugin.shared.options.empty.is_none() {
        // SAFETY: as above.
        unsafe { (plugin.register_flush)(id, flushed) };
    }
}

extern "C" fn flushed(_id: PluginId, index: c_uint, what: c_uint, va: u64, asid: u64) {
    let Some(v) = vcpu(index) else { return };
    let pcid = (asid & 0xfff) as u16;
    guarded(|| {
        v.flush(match what {
            FLUSH_ALL => Flush::All,
            FLUSH_ASID => Flush::AddressSpace { pcid },
            _ => Flush::Page { va, pcid },
        });
    });
}

extern "C" fn at_exit(_id: PluginId, _data: *mut c_void) {
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
    for error in [written, flame].into_iter().filter_map(Result::err) {
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
    v.host.slot().fetch_line = line.va / fpt_walksim_model::config::LINE;
}

fn member(plugin: &Plugin, offset: usize) -> U64 {
    U64 {
        score: plugin.score,
        offset,
    }
}

fn counter(plugin: &Plugin, counter: Counter) -> U64 {
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

/// A number as user data.
fn word(n: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(n)
}

fn carry_out(plugin: &Plugin, insn: *mut InsnHandle, action: Action, page: &mut CodePage) {
    let same = plugin.shared.options.empty == Some(Empty::Same);
    match action {
        Action::Add(which, n) => {
            // SAFETY: insn is valid during the translation callback; the scoreboard is never freed.
            unsafe {
                qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                    insn,
                    ADD_U64,
                    counter(plugin, which),
                    n,
                );
            }
            if which == (Counter::Packed { kernel: true }) {
                let sum = member(plugin, std::mem::offset_of!(Slot, kernel_sum));
                let n = n & u64::from(u32::MAX);
                // SAFETY: as above.
                unsafe {
                    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, ADD_U64, sum, n)
                };
            }
        }
        Action::Fetch { va, second } => {
            let line = place(plugin, va, page);
            // Once for each page of a block.
            if !second && !std::mem::replace(&mut page.compared, true) {
                compare_code(plugin, insn, line);
            }
            let cb = if same { empty_fetch } else { fetched };
            let last = member(plugin, std::mem::offset_of!(Slot, fetch_line));
            let data = std::ptr::from_ref(line).cast_mut().cast();
            // SAFETY: as above; the user data is read only, and never freed.
            unsafe {
                qemu_plugin_register_vcpu_insn_exec_cond_cb(
                    insn,
                    cb,
                    CB_NO_REGS,
                    COND_NE,
                    last,
                    va / fpt_walksim_model::config::LINE,
                    data,
                );
            }
        }
        Action::Function { function, n } => {
            let inside = member(plugin, std::mem::offset_of!(Slot, in_page_fault));
            let data = word((function as usize) << 16 | n.min(0xffff) as usize);
            let cb = if same { empty_exec } else { in_function };
            // SAFETY: as above; the user data is a number.
            unsafe {
                qemu_plugin_register_vcpu_insn_exec_cond_cb(
                    insn, cb, CB_NO_REGS, COND_NE, inside, 0, data,
                );
            }
        }
        Action::Access {
            kernel,
            loads,
            stores,
            function,
        } => {
            let cb = if same { empty_access } else { accessed };
            let data = |halves| {
                word(access::pack(
                    kernel,
                    halves,
                    if halves > 0 { function } else { 0 },
                ))
            };
            if loads == stores {
                // SAFETY: as above; the user data is a number.
                unsafe {
                    qemu_plugin_register_vcpu_mem_cb(insn, cb, CB_NO_REGS, MEM_RW, data(loads))
                };
            } else {
                // SAFETY: as above.
                unsafe {
                    qemu_plugin_register_vcpu_mem_cb(insn, cb, CB_NO_REGS, MEM_R, data(loads))
                };
                // SAFETY: as above.
                unsafe {
                    qemu_plugin_register_vcpu_mem_cb(insn, cb, CB_NO_REGS, MEM_W, data(stores))
                };
            }
        }
        Action::Event(event) => on_exec(insn, happened, number(&Happening::Event(event))),
        Action::Return(how) => on_exec(insn, happened, number(&Happening::Return(how))),
        Action::Mark(Mark::Begin(id)) => on_exec(insn, marked, usize::from(id)),
        Action::Mark(Mark::End(id)) => on_exec(insn, marked, usize::from(id) | 0x100),
        Action::LeaveTask => {
            // SAFETY: as above.
            unsafe {
                qemu_plugin_register_vcpu_mem_cb(insn, task_left, CB_NO_REGS, MEM_W, word(0))
            };
        }
        Action::TakeTask => {
            // SAFETY: as above.
            unsafe {
                qemu_plugin_register_vcpu_mem_cb(insn, task_taken, CB_NO_REGS, MEM_R, word(0))
            };
        }
    }
}

fn on_exec(insn: *mut InsnHandle, cb: UdataCb, data: usize) {
    // SAFETY: insn is valid during the translation callback; the user data is a number.
    unsafe { qemu_plugin_register_vcpu_insn_exec_cb(insn, cb, CB_NO_REGS, word(data)) };
}

/// The page of the code that is being translated, as most lines of a block are in one page.
#[derive(Default)]
struct CodePage {
    /// Virtual and physical address.
    found: Option<(u64, u64)>,
    compared: bool,
}

/// Where a line of code is now.
fn place(plugin: &Plugin, va: u64, page: &mut CodePage) -> &'static CodeLine {
    let number = va >> 12;
    let pa = match page.found {
        Some((n, pa)) if n == number => pa,
        _ => {
            let found = walk(plugin.walk, va);
            let pa = found.map_or(u64::MAX, |w| {
                (w.page | va & ((1 << w.size.shift()) - 1)) & !0xfff
            });
            *page = CodePage {
                found: Some((number, pa)),
                compared: false,
            };
            pa
        }
    };
    let pa = if pa == u64::MAX { pa } else { pa | va & 0xfff };
    let line = CodeLine { va, pa };
    lock(&plugin.lines)
        .entry(line)
        .or_insert_with(|| Box::leak(Box::new(line)))
}

/// Compares the walk of code with where QEMU reads it. QEMU tells an address of the host's, which is the guest's physical
/// one plus the same number all over its memory, or plus another one beyond 4 GiB.
fn compare_code(plugin: &Plugin, insn: *mut InsnHandle, line: &CodeLine) {
    // SAFETY: insn is valid during the translation callback.
    let host = unsafe { qemu_plugin_insn_haddr(insn) }.addr() as u64;
    if host == 0 || line.pa == u64::MAX || !plugin.shared.checking() {
        return;
    }
    let base = host.wrapping_sub(line.pa);
    let Some(known) = plugin.bases.get(usize::from(line.pa >> 32 != 0)) else {
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
                line.va,
                line.pa,
                base.wrapping_sub(old)
            ));
        }
    }
    lock(&plugin.shared.results).found(found);
}

fn instrument(plugin: &Plugin, tb: *mut Tb) {
    slots(plugin);
    // SAFETY: tb is valid during the translation callback.
    let n = unsafe { qemu_plugin_tb_n_insns(tb) };
    let mut handles = Vec::with_capacity(n);
    let mut code = Vec::with_capacity(n);
    for index in 0..n {
        // SAFETY: index is below the number of instructions; the handle is valid until the callback
        // returns.
        let insn = unsafe { qemu_plugin_tb_get_insn(tb, index) };
        if insn.is_null() {
            return;
        }
        let mut buffer = [0u8; 16];
        // SAFETY: insn is valid, the buffer is as long as said.
        let len = unsafe { qemu_plugin_insn_data(insn, buffer.as_mut_ptr().cast(), buffer.len()) };
        // SAFETY: insn is valid.
        let va = unsafe { qemu_plugin_insn_vaddr(insn) };
        handles.push(insn);
        code.push((va, buffer, len.min(buffer.len())));
    }
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
            // SAFETY: insn is valid during the translation callback.
            unsafe {
                qemu_plugin_register_vcpu_mem_cb(insn, empty_access, CB_NO_REGS, MEM_RW, word(0))
            };
        }
    }
}

/// Finds the CPUs' entries of the scoreboard: all CPUs exist when the first block is translated.
fn slots(plugin: &Plugin) {
    SLOTS.call_once(|| {
        for index in 0..plugin.shared.vcpus {
            // SAFETY: the scoreboard is never freed.
            let slot = unsafe { qemu_plugin_scoreboard_find(plugin.score, index) }.cast::<Slot>();
            if let Some(v) = vcpu(index) {
                v.host.slot = slot;
                v.host.slot().fetch_line = NO_LINE;
            }
        }
    });
}

extern "C" fn translated(_id: PluginId, tb: *mut Tb) {
    guarded(|| {
        if let Some(plugin) = PLUGIN.get() {
            instrument(plugin, tb);
        }
    });
}

/// Functions of glib and a buffer of its, which QEMU's memory reads need. glib is part of every QEMU.
struct Reader {
    buffer: *mut GByteArray,
}

impl Reader {
    fn new() -> Option<Reader> {
        let new = optional(c"g_byte_array_new")?;
        // SAFETY: the name determines the type.
        let new = unsafe { std::mem::transmute::<*mut c_void, NewBytesFn>(new) };
        // SAFETY: no preconditions.
        let buffer = unsafe { new() };
        (!buffer.is_null()).then_some(Reader { buffer })
    }

    /// In vCPU context only.
    fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
        // SAFETY: the buffer is glib's and never freed; QEMU sets its length.
        if !unsafe { qemu_plugin_read_memory_vaddr(va, self.buffer, to.len()) } {
            return false;
        }
        // SAFETY: as above.
        let array = unsafe { &*self.buffer };
        if array.data.is_null() || (array.len as usize) < to.len() {
            return false;
        }
        // SAFETY: glib's array has at least as many bytes.
        let from = unsafe { std::slice::from_raw_parts(array.data, to.len()) };
        to.copy_from_slice(from);
        true
    }
}

/// A function of QEMU that an older one does not have.
fn optional(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle asks the whole program; the name ends with a zero byte.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

fn install(id: PluginId, info: &Info, args: &[String]) -> Result<(), String> {
    let options = args::options(args)?;
    if !info.system_emulation {
        return Err(
            "this is user-mode emulation: a page table is walked in system emulation only".into(),
        );
    }
    let too_old =
        "this QEMU's plugin interface has no page-table walks: use the QEMU of `fpt build-qemu`";
    if info.version_cur < qemu_plugin_version || info.version_min > qemu_plugin_version {
        return Err(format!(
            "this QEMU has plugin interface {} to {}, not {qemu_plugin_version}: use the QEMU of `fpt build-qemu`",
            info.version_min, info.version_cur
        ));
    }
    let walk = optional(c"qemu_plugin_walk_vaddr").ok_or(too_old)?;
    let register_flush = optional(c"qemu_plugin_register_vcpu_tlb_flush_cb").ok_or(too_old)?;
    // SAFETY: the name determines the type, and the header that declares it the layout.
    let walk = unsafe { std::mem::transmute::<*mut c_void, WalkFn>(walk) };
    // SAFETY: as above.
    let register_flush =
        unsafe { std::mem::transmute::<*mut c_void, RegisterFlushFn>(register_flush) };

    let shown = options.config.display();
    let text = std::fs::read_to_string(&options.config)
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    let config = fpt_walksim_model::config::parse(&text).map_err(|e| format!("{shown}: {e}"))?;
    let symbols = options.vmlinux.as_deref().map(Symbols::load).transpose()?;
    // A result of an earlier run must not be taken for this one's.
    let _ = std::fs::remove_file(&options.out);
    output::write(&options.out, "")?;
    std::fs::remove_file(&options.out)
        .map_err(|e| format!("cannot write {}: {e}", options.out.display()))?;
    let vcpus = u32::try_from(info.max_vcpus.max(info.smp_vcpus))
        .unwrap_or(1)
        .max(1);
    if vcpus as usize > MAX_VCPUS {
        return Err(format!(
            "{vcpus} vCPUs: this plugin knows {MAX_VCPUS} at most"
        ));
    }
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
        // SAFETY: called from qemu_plugin_install, where scoreboards may be made.
        score: unsafe { qemu_plugin_scoreboard_new(size_of::<Slot>()) },
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

/// Called by QEMU when it has loaded the library.
///
/// # Safety
/// `info` is null or points at a `qemu_info_t`; `argv` holds `argc` C strings. QEMU promises both.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const c_void,
    argc: c_int,
    argv: *mut *mut c_char,
) -> c_int {
    let args: Vec<String> = (0..usize::try_from(argc).unwrap_or(0))
        .map(|i| {
            // SAFETY: i < argc; QEMU's strings end with a zero byte.
            let arg = unsafe { CStr::from_ptr(*argv.add(i)) };
            arg.to_string_lossy().into_owned()
        })
        .collect();
    // SAFETY: null, or as QEMU promises.
    let info = unsafe { info.cast::<Info>().as_ref() };
    let installed = catch_unwind(|| match info {
        Some(info) => install(id, info, &args),
        None => Err("QEMU says nothing about itself".to_owned()),
    });
    match installed {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => {
            eprintln!("fpt-walksim: {why}");
            1
        }
        Err(_) => 1,
    }
}
