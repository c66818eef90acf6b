// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callbacks, and what they share. Nothing unwinds into QEMU: each entry
//! point is a `catch_unwind` around code that does not panic. The boundary itself
//! is `fpt-qemu-plugin`.

use crate::decode::{self, Kind, Mark, UNIT};
use crate::record::{self, Profile, Regions, Totals};
use fpt_qemu_plugin::{Block, Counter, Data, Id, Info, Rw, Scoreboard};
use std::ffi::{c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::panic::catch_unwind;
use std::sync::{Mutex, OnceLock};

fpt_qemu_plugin::plugin!("fpt-kcount", install);

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
    score: Scoreboard,
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

static STATE: OnceLock<State> = OnceLock::new();

fn totals(state: &State) -> Totals {
    let string = state.kernel_string.sum();
    Totals {
        kernel: state.kernel.sum().wrapping_add(string),
        kernel_string: string,
        user: state.user.sum(),
    }
}

impl Profiling {
    /// The counters of a CPU as they are.
    fn now(&self, cpu: c_uint) -> Vec<u64> {
        // SAFETY: this CPU is in its callback.
        unsafe { self.score.numbers(cpu) }
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
        Some(self.score.counter(slot.wrapping_mul(size_of::<u64>())))
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

fn instrument(state: &State, block: Block<'_>) {
    for insn in block.insns() {
        let mut buffer = [0u8; 16];
        let len = insn.bytes(&mut buffer);
        let bytes = buffer.get(..len).unwrap_or(&buffer);
        let address = insn.vaddr();
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
                insn.add(entry, UNIT);
                if let Some(entry) = by_address {
                    insn.add(entry, UNIT);
                }
                if !kernel {
                    let word = match decode::mark(bytes) {
                        Some(Mark::Begin(id)) => usize::from(id),
                        Some(Mark::End(id)) => usize::from(id) | 0x100,
                        None => continue,
                    };
                    insn.on_exec(mark_executed, Data::number(word));
                }
                continue;
            }
            Kind::RepStores => (Rw::W, UNIT),
            Kind::RepLoads => (Rw::R, UNIT),
            Kind::RepLoadPairs => (Rw::R, UNIT / 2),
        };
        insn.add_on_access(rw, string, imm);
        if let Some(entry) = by_address {
            insn.add_on_access(rw, entry, imm);
        }
    }
}

extern "C" fn translated(_id: Id, block: Block<'_>) {
    let _ = catch_unwind(|| {
        if let Some(state) = STATE.get() {
            instrument(state, block);
        }
    });
}

fn install(id: Id, _info: Option<Info>, args: &[String]) -> Result<(), String> {
    let options = record::options(args)?;
    let path = options.out;
    let file = File::create(&path).map_err(|e| format!("cannot write {path}: {e}"))?;
    let score = Scoreboard::new(size_of::<PerCpu>());
    let profiling = options.profile.map(|(path, region)| Profiling {
        score: Scoreboard::new(PROFILE_SLOTS.wrapping_mul(size_of::<u64>())),
        region,
        path,
        profile: Mutex::new(Profile::new(PROFILE_SLOTS)),
    });
    let state = State {
        profiling,
        kernel: score.counter(std::mem::offset_of!(PerCpu, kernel)),
        kernel_string: score.counter(std::mem::offset_of!(PerCpu, kernel_string)),
        user: score.counter(std::mem::offset_of!(PerCpu, user)),
        out: Mutex::new((file, Regions::new())),
    };
    STATE.set(state).map_err(|_| "loaded twice".to_owned())?;
    fpt_qemu_plugin::on_translation(id, translated);
    Ok(())
}
