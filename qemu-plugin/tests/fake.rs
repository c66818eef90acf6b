// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plugin, and a QEMU that is a few functions: what the plugin asks for must arrive as QEMU's
//! header says, and what QEMU says must arrive at the plugin.

#![allow(unreachable_pub)]

use std::ffi::{c_char, c_int, c_uint, c_void, CString};
use std::sync::Mutex;

use fpt_qemu_plugin::*;

/// Calls that QEMU got, as text.
static CALLS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The fake machine is one for all tests.
static TURN: Mutex<()> = Mutex::new(());

fn call(text: String) {
    CALLS.lock().unwrap().push(text);
}

fn calls() -> Vec<String> {
    std::mem::take(&mut *CALLS.lock().unwrap())
}

mod qemu {
    //! What QEMU has. Numbers are those of its header.
    use super::*;

    pub struct Code {
        pub bytes: Vec<u8>,
        pub va: u64,
    }

    /// `qemu_plugin_u64`
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Number {
        score: *mut Vec<Vec<u64>>,
        offset: usize,
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_tb_n_insns(tb: *const Vec<Code>) -> usize {
        // SAFETY: the tests hand out pointers to blocks.
        unsafe { &*tb }.len()
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_tb_get_insn(tb: *mut Vec<Code>, index: usize) -> *mut Code {
        // SAFETY: as above.
        let block = unsafe { &mut *tb };
        &mut block[index]
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_insn_data(insn: *const Code, dest: *mut u8, len: usize) -> usize {
        // SAFETY: as above.
        let bytes = unsafe { &(*insn).bytes };
        let n = bytes.len().min(len);
        // SAFETY: dest has len bytes.
        unsafe { std::slice::from_raw_parts_mut(dest, n) }.copy_from_slice(&bytes[..n]);
        n
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_insn_vaddr(insn: *const Code) -> u64 {
        // SAFETY: as above.
        unsafe { (*insn).va }
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_insn_haddr(insn: *const Code) -> *mut c_void {
        std::ptr::without_provenance_mut(qemu_plugin_insn_vaddr(insn) as usize + 0x7000)
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, cb: OnTranslation) {
        call(format!(
            "tb_trans {id} {}",
            std::ptr::fn_addr_eq(cb, super::translated as OnTranslation)
        ));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_atexit_cb(id: u64, _cb: AtExit, data: *mut c_void) {
        call(format!("atexit {id} {}", data.is_null()));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_reset(id: u64, _cb: OnReset) {
        call(format!("reset {id}"));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Code,
        cb: OnExec,
        flags: c_uint,
        data: *mut c_void,
    ) {
        call(format!(
            "exec {:#x} flags {flags}",
            qemu_plugin_insn_vaddr(insn)
        ));
        cb(3, data);
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_insn_exec_cond_cb(
        insn: *mut Code,
        cb: OnExec,
        flags: c_uint,
        cond: c_uint,
        number: Number,
        imm: u64,
        data: *mut c_void,
    ) {
        let (va, offset) = (qemu_plugin_insn_vaddr(insn), number.offset);
        call(format!(
            "exec {va:#x} flags {flags} if [{offset}] cond {cond} {imm}"
        ));
        cb(4, data);
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut Code,
        op: c_uint,
        number: Number,
        imm: u64,
    ) {
        let (va, offset) = (qemu_plugin_insn_vaddr(insn), number.offset);
        call(format!("inline {va:#x} op {op} [{offset}] {imm}"));
        // SAFETY: the tests' scoreboards are never freed.
        let score = unsafe { &mut *number.score };
        score[0][offset / 8] += imm;
        score[1][offset / 8] += 100 * imm;
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut Code,
        cb: OnAccess,
        flags: c_uint,
        rw: c_uint,
        data: *mut c_void,
    ) {
        call(format!(
            "mem {:#x} flags {flags} rw {rw}",
            qemu_plugin_insn_vaddr(insn)
        ));
        cb(5, 0x32, 0xabc0, data);
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_mem_inline_per_vcpu(
        insn: *mut Code,
        rw: c_uint,
        op: c_uint,
        number: Number,
        imm: u64,
    ) {
        let (va, offset) = (qemu_plugin_insn_vaddr(insn), number.offset);
        call(format!(
            "mem inline {va:#x} rw {rw} op {op} [{offset}] {imm}"
        ));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_mem_size_shift(info: u32) -> c_uint {
        info >> 4
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_mem_is_store(info: u32) -> bool {
        info & 1 != 0
    }

    /// `qemu_plugin_mem_value`: a union is as large and as aligned as its largest member.
    #[repr(C)]
    pub struct Value {
        kind: c_uint,
        data: Union,
    }

    #[repr(C)]
    union Union {
        byte: u8,
        all: [u64; 2],
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_mem_get_value(info: u32) -> Value {
        // What a smaller member leaves is not defined.
        let mut data = Union { all: [!0; 2] };
        let kind = info >> 4;
        if kind == 0 {
            data.byte = 0xab;
        } else {
            data.all = [0x1122_3344_5566_7788, 0];
        }
        Value { kind, data }
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_init_cb(id: u64, cb: OnCpu) {
        call(format!("init {id}"));
        // SAFETY: an Id is a number.
        cb(unsafe { std::mem::transmute::<u64, Id>(id) }, 1);
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_idle_cb(id: u64, _cb: OnCpu) {
        call(format!("idle {id}"));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_register_vcpu_resume_cb(id: u64, _cb: OnCpu) {
        call(format!("resume {id}"));
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_get_registers() -> *mut c_void {
        std::ptr::null_mut()
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_read_register(_: *mut c_void, _: *mut c_void) -> c_int {
        0
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_get_hwaddr(info: u32, va: u64) -> *mut u64 {
        match info {
            1 => std::ptr::null_mut(),
            _ => Box::leak(Box::new(va | u64::from(info) << 32)),
        }
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_hwaddr_is_io(hwaddr: *const u64) -> bool {
        // SAFETY: from the function above.
        let pa = unsafe { *hwaddr };
        pa >> 32 == 2
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_hwaddr_phys_addr(hwaddr: *const u64) -> u64 {
        // SAFETY: as above.
        unsafe { *hwaddr }
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_scoreboard_new(bytes: usize) -> *mut Vec<Vec<u64>> {
        Box::leak(Box::new(vec![vec![0; bytes / 8]; 2]))
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_scoreboard_find(
        score: *mut Vec<Vec<u64>>,
        cpu: c_uint,
    ) -> *mut c_void {
        // SAFETY: as above.
        let score = unsafe { &mut *score };
        match score.get_mut(cpu as usize) {
            Some(entry) => entry.as_mut_ptr().cast(),
            None => std::ptr::null_mut(),
        }
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_u64_sum(number: Number) -> u64 {
        // SAFETY: as above.
        unsafe { &*number.score }
            .iter()
            .map(|e| e[number.offset / 8])
            .sum()
    }

    #[no_mangle]
    extern "C" fn qemu_plugin_read_memory_vaddr(_: u64, _: *mut c_void, _: usize) -> bool {
        false
    }

    /// `qemu_info_t`
    #[repr(C)]
    pub struct Said {
        pub target_name: *const c_char,
        pub min: c_int,
        pub cur: c_int,
        pub system_emulation: bool,
        pub smp: c_int,
        pub max: c_int,
    }
}

static PLACE: (u64, u64) = (11, 12);

extern "C" fn executed(cpu: c_uint, data: *mut c_void) {
    // SAFETY: the test registers it with PLACE.
    let place = unsafe { &*data.cast::<(u64, u64)>() };
    call(format!("executed on {cpu}: {place:?}"));
}

extern "C" fn counted(cpu: c_uint, data: *mut c_void) {
    call(format!("counted on {cpu}: {}", data as usize));
}

extern "C" fn accessed(cpu: c_uint, info: u32, va: u64, data: *mut c_void) {
    let bytes = 1 << size_shift(info);
    call(format!(
        "accessed on {cpu}: {bytes} at {va:#x}, {}",
        data as usize
    ));
}

extern "C" fn ended(_id: Id, _data: *mut c_void) {}

extern "C" fn started(_id: Id) {}

extern "C" fn translated(_id: Id, block: Block<'_>) {
    let score = Scoreboard::new(32);
    for insn in block.insns() {
        let mut buffer = [0u8; 4];
        let len = insn.bytes(&mut buffer);
        call(format!(
            "{:#x} {:#x}: {:x?}",
            insn.vaddr(),
            insn.haddr(),
            &buffer[..len]
        ));
        insn.on_exec(executed, Data::of(&PLACE));
        insn.on_exec_unless(score.counter(8), 7, counted, Data::number(99));
        insn.add(score.counter(16), 5);
        insn.on_access(Rw::W, accessed, Data::number(6));
        insn.on_exec_with_registers(executed, Data::of(&PLACE));
        insn.add_on_access(Rw::R, score.counter(24), 2);
        insn.on_access(Rw::RW, accessed, Data::number(0));
    }
    call(format!("sum {}", score.counter(16).sum()));
    // SAFETY: the fake CPUs do nothing meanwhile.
    let numbers = [0, 1, 2].map(|cpu| unsafe { score.numbers(cpu) });
    call(format!("{numbers:?}"));
}

fn begin(id: Id, info: Option<Info>, args: &[String]) -> Result<(), String> {
    call(format!("{info:?} {args:?}"));
    match args {
        [what] if what == "panic" => panic!("on purpose"),
        [] => Err("no arguments".into()),
        _ => {
            on_translation(id, translated);
            at_exit(id, ended);
            // SAFETY: the fake QEMU does not mind.
            unsafe { reset(id, started) };
            Ok(())
        }
    }
}

plugin!("test", begin);

fn load(args: &[&str], said: Option<&qemu::Said>) -> c_int {
    let owned: Vec<CString> = args.iter().map(|a| CString::new(*a).unwrap()).collect();
    let mut argv: Vec<*mut c_char> = owned.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let info = said.map_or(std::ptr::null(), |s| std::ptr::from_ref(s).cast());
    // SAFETY: an Id is a number for QEMU; the rest is as it promises.
    unsafe {
        let id = std::mem::transmute::<u64, Id>(42);
        qemu_plugin_install(id, info, argv.len() as c_int, argv.as_mut_ptr())
    }
}

#[test]
fn arguments_and_what_qemu_says_arrive() {
    let _turn = TURN.lock();
    calls();
    let said = qemu::Said {
        target_name: c"x86_64".as_ptr(),
        min: 2,
        cur: 4,
        system_emulation: true,
        smp: 2,
        max: 8,
    };
    assert_eq!(qemu_plugin_version, 4);
    assert_eq!(load(&["a=b", "c"], Some(&said)), 0);
    let info = "Some(Info { versions: (2, 4), system_emulation: true, cpus: (2, 8) })";
    let expected = [
        &format!("{info} [\"a=b\", \"c\"]"),
        "tb_trans 42 true",
        "atexit 42 true",
        "reset 42",
    ];
    assert_eq!(calls(), expected);
}

#[test]
fn a_failed_installation_is_an_exit_code() {
    let _turn = TURN.lock();
    assert_eq!(load(&[], None), 1);
    assert_eq!(load(&["panic"], None), 1);
    assert_eq!(calls(), ["None []", "None [\"panic\"]"]);
}

#[test]
fn instructions_are_instrumented_as_asked() {
    let _turn = TURN.lock();
    calls();
    let mut block = vec![
        qemu::Code {
            bytes: vec![0x90],
            va: 0x10,
        },
        qemu::Code {
            bytes: vec![1, 2, 3, 4, 5],
            va: 0x11,
        },
    ];
    // SAFETY: a Block is a pointer for QEMU.
    let handle = unsafe { std::mem::transmute::<*mut Vec<qemu::Code>, Block<'_>>(&mut block) };
    // SAFETY: an Id is a number.
    translated(unsafe { std::mem::transmute::<u64, Id>(42) }, handle);
    let mut expected = Vec::new();
    for (va, bytes) in [(0x10, "[90]"), (0x11, "[1, 2, 3, 4]")] {
        expected.extend([
            format!("{va:#x} {:#x}: {bytes}", va + 0x7000),
            format!("exec {va:#x} flags 0"),
            "executed on 3: (11, 12)".into(),
            format!("exec {va:#x} flags 0 if [8] cond 3 7"),
            "counted on 4: 99".into(),
            format!("inline {va:#x} op 0 [16] 5"),
            format!("mem {va:#x} flags 0 rw 2"),
            "accessed on 5: 8 at 0xabc0, 6".into(),
            format!("exec {va:#x} flags 1"),
            "executed on 3: (11, 12)".into(),
            format!("mem inline {va:#x} rw 1 op 0 [24] 2"),
            format!("mem {va:#x} flags 0 rw 3"),
            "accessed on 5: 8 at 0xabc0, 0".into(),
        ]);
    }
    expected.push("sum 1010".into());
    expected.push("[[0, 0, 10, 0], [0, 0, 1000, 0], []]".into());
    assert_eq!(calls(), expected);
}

#[test]
#[should_panic(expected = "no number at 32 of 32 bytes")]
fn numbers_lie_within_an_entry() {
    Scoreboard::new(32).counter(32);
}

extern "C" fn happened(_id: Id, cpu: c_uint) {
    call(format!("happened on {cpu}"));
}

#[test]
fn what_happens_to_cpus() {
    let _turn = TURN.lock();
    calls();
    // SAFETY: an Id is a number.
    let id = unsafe { std::mem::transmute::<u64, Id>(42) };
    on_cpu(id, CpuEvent::Exists, happened);
    on_cpu(id, CpuEvent::Waits, happened);
    on_cpu(id, CpuEvent::Runs, happened);
    let expected = ["init 42", "happened on 1", "idle 42", "resume 42"];
    assert_eq!(calls(), expected);
}

#[test]
fn values_are_as_wide_as_the_access() {
    // SAFETY: the fake QEMU has no accesses to begin with.
    let found = [0, 0x10, 0x20, 0x30, 0x40].map(|info| unsafe { value(info) });
    let whole = 0x1122_3344_5566_7788;
    assert_eq!(found, [0xab, 0x7788, 0x5566_7788, whole, whole]);
    assert!(is_store(1) && !is_store(2));
}

#[test]
fn accesses_to_devices_have_no_address() {
    // SAFETY: the fake QEMU has no accesses to begin with.
    let found = [1, 2, 3].map(|info| unsafe { phys_addr(info, 0x10) });
    assert_eq!(found, [None, None, Some(3 << 32 | 0x10)]);
}

#[test]
fn a_qemu_without_our_additions_is_noticed() {
    assert!(Walker::find().is_none());
    assert!(RegisterFlush::find().is_none());
    assert!(RegisterEvents::find().is_none());
    // SAFETY: no CPU begins to exist, and it does not come so far.
    assert!(unsafe { RegisterList::new() }.is_none());
    assert!(Reader::new().is_none());
}

/// The layout that include/qemu/qemu-plugin.h gives these: five entries of 24 bytes between words.
#[test]
fn a_walk_has_qemu_s_layout() {
    use std::mem::offset_of;
    assert_eq!((size_of::<WalkEntry>(), size_of::<Walk>()), (24, 160));
    let entry = (offset_of!(WalkEntry, value), offset_of!(WalkEntry, level));
    assert_eq!(entry, (8, 16));
    assert_eq!(offset_of!(WalkEntry, index_bits), 17);
    let walk = [
        offset_of!(Walk, root),
        offset_of!(Walk, paddr),
        offset_of!(Walk, page_size),
        offset_of!(Walk, prot),
    ];
    assert_eq!(walk, [128, 136, 144, 152]);
    assert_eq!(Walk::default().entries().len(), 0);
}
