// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boundary to QEMU: the few functions of its plugin interface (version 4)
//! that are needed, declared by hand, and the callbacks. All `unsafe` of the
//! crate is here. Nothing unwinds into QEMU: each entry point is a
//! `catch_unwind` around code that does not panic.

use crate::decode::{self, Kind, Mark, UNIT};
use crate::record::{self, Profile, Regions, Totals};
use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::fs::File;
use std::io::Write;
use std::panic::catch_unwind;
use std::sync::{Mutex, OnceLock};

type PluginId = u64;

#[repr(C)]
struct Tb {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Insn {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`: one u64 member of a per-CPU entry.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counter {
    score: *mut Scoreboard,
    offset: usize,
}

/// `enum qemu_plugin_op`
const ADD_U64: c_uint = 0;
/// `enum qemu_plugin_cb_flags`
const CB_NO_REGS: c_uint = 0;
/// `enum qemu_plugin_mem_rw`
const MEM_R: c_uint = 1;
const MEM_W: c_uint = 2;

type TbTransCb = extern "C" fn(PluginId, *mut Tb);
type VcpuUdataCb = extern "C" fn(c_uint, *mut c_void);

extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, cb: TbTransCb);
    fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut Insn;
    fn qemu_plugin_insn_data(insn: *const Insn, dest: *mut c_void, len: usize) -> usize;
    fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        cb: VcpuUdataCb,
        flags: c_uint,
        userdata: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut Insn,
        op: c_uint,
        entry: Counter,
        imm: u64,
    );
    fn qemu_plugin_register_vcpu_mem_inline_per_vcpu(
        insn: *mut Insn,
        rw: c_uint,
        op: c_uint,
        entry: Counter,
        imm: u64,
    );
    fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    fn qemu_plugin_scoreboard_find(score: *mut Scoreboard, vcpu_index: c_uint) -> *mut c_void;
    fn qemu_plugin_u64_sum(entry: Counter) -> u64;
}

/// Layout of a scoreboard entry.
#[repr(C)]
struct PerCpu {
    kernel: u64,
    kernel_string: u64,
    user: u64,
}

/// Addresses that a profile can tell apart: a kernel executes far fewer.
const PROFILE_SLOTS: usize = 1 << 20;

/// Counts by address, of one region, on the CPU that runs it.
struct Profiling {
    score: *mut Scoreboard,
    region: u8,
    path: String,
    profile: Mutex<Profile>,
}

struct State {
    profiling: Option<Profiling>,
    kernel: Counter,
    kernel_string: Counter,
    user: Counter,
    out: Mutex<(File, Regions)>,
}

// SAFETY: the scoreboard pointers are only handed back to QEMU, whose functions on
// scoreboards may be called from every CPU thread; they live as long as QEMU.
unsafe impl Send for State {}
// SAFETY: as for Send; everything mutable is behind the mutex.
unsafe impl Sync for State {}

static STATE: OnceLock<State> = OnceLock::new();

/// QEMU reads this symbol to learn which interface the plugin was written for.
#[no_mangle]
pub static qemu_plugin_version: c_int = 4;

fn totals(state: &State) -> Totals {
    // SAFETY: the counters belong to a scoreboard that is never freed.
    unsafe {
        let string = qemu_plugin_u64_sum(state.kernel_string);
        Totals {
            kernel: qemu_plugin_u64_sum(state.kernel).wrapping_add(string),
            kernel_string: string,
            user: qemu_plugin_u64_sum(state.user),
        }
    }
}

impl Profiling {
    /// The counters of a CPU as they are.
    fn now(&self, cpu: c_uint) -> Vec<u64> {
        // SAFETY: the scoreboard is never freed; QEMU returns the CPU's entry.
        let entry = unsafe { qemu_plugin_scoreboard_find(self.score, cpu) };
        if entry.is_null() {
            return Vec::new();
        }
        // SAFETY: an entry is PROFILE_SLOTS numbers long, and only this CPU, which
        // is in this callback, writes to it.
        unsafe { std::slice::from_raw_parts(entry.cast::<u64>(), PROFILE_SLOTS) }.to_vec()
    }

    fn mark(&self, cpu: c_uint, begin: bool) {
        let now = self.now(cpu);
        let Ok(mut profile) = self.profile.lock() else {
            return;
        };
        if begin {
            profile.begin(&now);
        } else {
            profile.end(&now);
            let _ = std::fs::write(&self.path, profile.text());
        }
    }

    /// The counter of an address.
    fn counter(&self, address: u64) -> Option<Counter> {
        let slot = self.profile.lock().ok()?.slot(address)?;
        Some(Counter {
            score: self.score,
            offset: slot.wrapping_mul(size_of::<u64>()),
        })
    }
}

fn on_mark(cpu: c_uint, word: usize) {
    let Some(state) = STATE.get() else { return };
    let now = totals(state);
    let id = (word & 0xff) as u8;
    let begin = word & 0x100 == 0;
    if let Some(profiling) = state.profiling.as_ref().filter(|p| p.region == id) {
        profiling.mark(cpu, begin);
    }
    let Ok(mut guard) = state.out.lock() else {
        return;
    };
    let (file, regions) = &mut *guard;
    if begin {
        regions.begin(id, now);
    } else {
        let line = regions.end(id, now);
        // A short file is noticed by whoever counts its lines.
        let _ = file.write_all(line.as_bytes());
    }
}

extern "C" fn mark_executed(cpu: c_uint, userdata: *mut c_void) {
    let _ = catch_unwind(|| on_mark(cpu, userdata as usize));
}

fn instrument(state: &State, tb: *mut Tb) {
    // SAFETY: tb is valid during the translation callback.
    let n = unsafe { qemu_plugin_tb_n_insns(tb) };
    for index in 0..n {
        // SAFETY: index is below the number of instructions; the handle is valid
        // until the callback returns.
        let insn = unsafe { qemu_plugin_tb_get_insn(tb, index) };
        if insn.is_null() {
            continue;
        }
        let mut buffer = [0u8; 16];
        // SAFETY: insn is valid, the buffer is as long as said.
        let len = unsafe { qemu_plugin_insn_data(insn, buffer.as_mut_ptr().cast(), buffer.len()) };
        let bytes = buffer.get(..len).unwrap_or(&buffer);
        // SAFETY: insn is valid.
        let address = unsafe { qemu_plugin_insn_vaddr(insn) };
        let kernel = decode::is_kernel(address);
        let profiling = state.profiling.as_ref().filter(|_| kernel);
        let by_address = profiling.and_then(|p| p.counter(address));
        let entry = if kernel { state.kernel } else { state.user };
        let string = if kernel {
            state.kernel_string
        } else {
            state.user
        };

        let (rw, imm) = match decode::kind(bytes) {
            Kind::Plain => {
                // SAFETY: insn is valid, the scoreboard is never freed.
                unsafe {
                    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, ADD_U64, entry, UNIT)
                };
                if let Some(entry) = by_address {
                    // SAFETY: as above.
                    unsafe {
                        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                            insn, ADD_U64, entry, UNIT,
                        )
                    };
                }
                if !kernel {
                    let word = match decode::mark(bytes) {
                        Some(Mark::Begin(id)) => usize::from(id),
                        Some(Mark::End(id)) => usize::from(id) | 0x100,
                        None => continue,
                    };
                    let userdata = std::ptr::without_provenance_mut(word);
                    // SAFETY: insn is valid; the userdata is a number, never a pointer.
                    unsafe {
                        qemu_plugin_register_vcpu_insn_exec_cb(
                            insn,
                            mark_executed,
                            CB_NO_REGS,
                            userdata,
                        )
                    };
                }
                continue;
            }
            Kind::RepStores => (MEM_W, UNIT),
            Kind::RepLoads => (MEM_R, UNIT),
            Kind::RepLoadPairs => (MEM_R, UNIT / 2),
        };
        // SAFETY: insn is valid, the scoreboard is never freed.
        unsafe { qemu_plugin_register_vcpu_mem_inline_per_vcpu(insn, rw, ADD_U64, string, imm) };
        if let Some(entry) = by_address {
            // SAFETY: as above.
            unsafe { qemu_plugin_register_vcpu_mem_inline_per_vcpu(insn, rw, ADD_U64, entry, imm) };
        }
    }
}

extern "C" fn translated(_id: PluginId, tb: *mut Tb) {
    let _ = catch_unwind(|| {
        if let Some(state) = STATE.get() {
            instrument(state, tb);
        }
    });
}

fn install(id: PluginId, args: &[String]) -> Result<(), String> {
    let options = record::options(args)?;
    let path = options.out;
    let file = File::create(&path).map_err(|e| format!("cannot write {path}: {e}"))?;
    // SAFETY: called from qemu_plugin_install, where scoreboards may be made.
    let score = unsafe { qemu_plugin_scoreboard_new(size_of::<PerCpu>()) };
    let at = |offset| Counter { score, offset };
    let profiling = options.profile.map(|(path, region)| Profiling {
        // SAFETY: as above.
        score: unsafe { qemu_plugin_scoreboard_new(PROFILE_SLOTS.wrapping_mul(size_of::<u64>())) },
        region,
        path,
        profile: Mutex::new(Profile::new(PROFILE_SLOTS)),
    });
    let state = State {
        profiling,
        kernel: at(std::mem::offset_of!(PerCpu, kernel)),
        kernel_string: at(std::mem::offset_of!(PerCpu, kernel_string)),
        user: at(std::mem::offset_of!(PerCpu, user)),
        out: Mutex::new((file, Regions::new())),
    };
    STATE.set(state).map_err(|_| "loaded twice".to_owned())?;
    // SAFETY: id is this plugin's, the callback lives as long as the library.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    Ok(())
}

/// Called by QEMU when it has loaded the library.
///
/// # Safety
/// `argv` holds `argc` C strings, as QEMU promises.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const c_void,
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
    match catch_unwind(|| install(id, &args)) {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => {
            eprintln!("fpt-kcount: {why}");
            1
        }
        Err(_) => 1,
    }
}
