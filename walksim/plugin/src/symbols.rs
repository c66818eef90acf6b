// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's symbols: its entries, its task switch, its functions.

use std::collections::HashMap;
use std::path::Path;

use fpt_vmlinux::{Functions, Symbol, Vmlinux};

use crate::decode;
use crate::kernel::Category;

/// What happens where an instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The processor came here by itself: an exception, an interrupt or a system call.
    Enter(Category),
    /// A task runs for the first time.
    NewTask,
    /// The current task is a kernel thread.
    KernelThread,
}

#[derive(Default)]
pub struct Symbols {
    events: HashMap<u64, Event>,
    /// Stubs of interrupt vectors, each of which is an entry.
    stubs: Vec<(u64, u64, u64)>,
    /// Code where IRET and SYSRET leave the kernel, not itself.
    entry_text: (u64, u64),
    switch: (u64, u64),
    functions: Functions,
    /// Offsets in a `task_struct`: of the stack pointer that a task switch keeps, of the name.
    stack: u64,
    comm: Option<u64>,
    /// Where the kernel has its notes, with its build id, and what they are.
    pub notes: (u64, Vec<u8>),
}

/// Vectors that have a stub of their own.
const FIRST_VECTOR: u64 = 32;
/// Where device vectors end and system vectors begin.
const SYSTEM_VECTORS: [u64; 2] = [236, 256];

impl Symbols {
    pub fn load(path: &Path) -> Result<Symbols, String> {
        let data = fpt_vmlinux::read(path)?;
        let file = Vmlinux::parse(path, &data)?;
        let mut symbols = Symbols::from_list(&file.code());
        if symbols.entry_text.0 == 0 || symbols.switch.0 == 0 {
            return Err(file.lacks("symbols __entry_text_start and __switch_to_asm"));
        }
        let (start, end) = symbols.switch;
        symbols.stack = stack_offset(file.bytes(start, end - start)).unwrap_or(0);
        if let Some((address, notes)) = file.section(".notes") {
            symbols.notes = (address, notes.to_vec());
        }
        if let (Some(task), true) = (file.symbol("init_task"), symbols.stack > 0) {
            symbols.comm = comm_offset(file.bytes(task.address, task.size));
        }
        Ok(symbols)
    }

    /// Where the stack pointer of a task that does not run is in its `task_struct`; 0 if that is not known.
    pub fn stack(&self) -> u64 {
        self.stack
    }

    /// Where a task's name is in its `task_struct`.
    pub fn comm(&self) -> Option<u64> {
        self.comm
    }

    /// With nothing but the fields of a task.
    #[cfg(test)]
    pub fn of_task(stack: u64, comm: u64) -> Symbols {
        Symbols {
            stack,
            comm: Some(comm),
            ..Symbols::default()
        }
    }

    /// `all` is sorted by address.
    fn from_list(all: &[Symbol<'_>]) -> Symbols {
        let at = |wanted: &str| {
            let found = all.iter().find(|s| s.name == wanted);
            found.map(|s| (s.address, s.size))
        };
        let next = |from: u64| all.iter().map(|s| s.address).find(|a| *a > from);
        let mut s = Symbols::default();
        let bounds = |name: &str| {
            at(name).map(|(start, size)| {
                let end = if size > 0 {
                    Some(start + size)
                } else {
                    next(start)
                };
                (start, end.unwrap_or(start))
            })
        };
        for symbol in all {
            if let Some(event) = event(symbol.name) {
                s.events.insert(symbol.address, event);
            }
        }
        for name in ["irq_entries_start", "spurious_entries_start"] {
            if let Some((start, _)) = at(name) {
                // The table's size tells how far apart the stubs are; both tables end at the next symbol.
                let end = next(start).unwrap_or(start);
                let lengths = [
                    SYSTEM_VECTORS[0] - FIRST_VECTOR,
                    SYSTEM_VECTORS[1] - SYSTEM_VECTORS[0],
                ];
                let count = if name.starts_with("irq") {
                    lengths[0]
                } else {
                    lengths[1]
                };
                let step = (end - start) / count;
                let step = if step >= 16 { 16 } else { 8 };
                s.stubs.push((start, end, step));
            }
        }
        if let (Some((a, _)), Some((b, _))) = (at("__entry_text_start"), at("__entry_text_end")) {
            s.entry_text = (a, b);
        }
        s.switch = bounds("__switch_to_asm").unwrap_or_default();
        s.functions = Functions::of(all.iter().copied());
        s
    }

    pub fn event(&self, address: u64) -> Option<Event> {
        if let Some(event) = self.events.get(&address) {
            return Some(*event);
        }
        let stub = |(start, end, step): &(u64, u64, u64)| {
            (*start..*end).contains(&address) && (address - start) % step == 0
        };
        self.stubs
            .iter()
            .any(stub)
            .then_some(Event::Enter(Category::Interrupt))
    }

    pub fn is_entry_text(&self, address: u64) -> bool {
        (self.entry_text.0..self.entry_text.1).contains(&address)
    }

    pub fn is_switch(&self, address: u64) -> bool {
        (self.switch.0..self.switch.1).contains(&address)
    }

    /// Number of the function that holds the address; 0 is none.
    pub fn function(&self, address: u64) -> u32 {
        self.functions.number(address)
    }

    pub fn name(&self, function: u32) -> &str {
        self.functions.get(function).map_or("[unknown]", |f| f.1)
    }
}

/// From the code of the task switch.
fn stack_offset(code: &[u8]) -> Option<u64> {
    let at = (0..code.len()).find(|i| code.get(*i..).is_some_and(decode::leaves_stack))?;
    let (kind, rest) = (code.get(at + 2)?, code.get(at + 3..)?);
    Some(match kind {
        0x67 => u64::from(*rest.first()?),
        _ => u64::from(u32::from_le_bytes(rest.get(..4)?.try_into().ok()?)),
    })
}

/// From the first task, which is there before the kernel runs.
fn comm_offset(task: &[u8]) -> Option<u64> {
    const NAME: &[u8; 16] = b"swapper\0\0\0\0\0\0\0\0\0";
    let at = task.windows(NAME.len()).position(|w| w == NAME)?;
    Some(at as u64)
}

fn event(name: &str) -> Option<Event> {
    Some(match name {
        "asm_exc_page_fault" => Event::Enter(Category::PageFault),
        "entry_SYSCALL_64"
        | "entry_SYSCALL_compat"
        | "entry_SYSENTER_compat"
        | "asm_int80_emulation" => Event::Enter(Category::Syscall),
        "asm_sysvec_apic_timer_interrupt" => Event::Enter(Category::Timer),
        "ret_from_fork_asm" => Event::NewTask,
        "kthread" => Event::KernelThread,
        // reached from a stub
        "asm_common_interrupt" | "asm_spurious_interrupt" => return None,
        _ if name.starts_with("asm_sysvec_") => Event::Enter(Category::Interrupt),
        _ if name.starts_with("asm_exc_") => Event::Enter(Category::Other),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 0xffff_ffff_8100_0000;

    fn symbols() -> Symbols {
        let all = [
            (K, 0x20, "__switch_to_asm"),
            (K + 0x50, 0x20, "ret_from_fork_asm"),
            (K + 0x100, 0x40, "kthread"),
            (K + 0x200, 0, "__entry_text_start"),
            (K + 0x210, 8, "entry_SYSCALL_64"),
            (K + 0x240, 0, "irq_entries_start"),
            (K + 0x240 + 204 * 8, 0, "spurious_entries_start"),
            (K + 0x240 + 224 * 8, 0x20, "asm_exc_page_fault"),
            (K + 0x260 + 224 * 8, 0x20, "asm_sysvec_apic_timer_interrupt"),
            (K + 0x280 + 224 * 8, 0x20, "asm_sysvec_reschedule_ipi"),
            (K + 0x2a0 + 224 * 8, 0x20, "asm_exc_int3"),
            (K + 0x2c0 + 224 * 8, 0, "__entry_text_end"),
        ];
        let symbol = |(address, size, name)| Symbol {
            address,
            size,
            name,
        };
        Symbols::from_list(&all.map(symbol))
    }

    #[test]
    fn entries() {
        let s = symbols();
        let enter = |a| match s.event(a) {
            Some(Event::Enter(c)) => Some(c),
            _ => None,
        };
        assert_eq!(enter(K + 0x210), Some(Category::Syscall));
        assert_eq!(enter(K + 0x211), None);
        assert_eq!(enter(K + 0x240), Some(Category::Interrupt));
        assert_eq!(enter(K + 0x248), Some(Category::Interrupt));
        assert_eq!(enter(K + 0x242), None);
        assert_eq!(enter(K + 0x240 + 223 * 8), Some(Category::Interrupt));
        assert_eq!(enter(K + 0x240 + 224 * 8), Some(Category::PageFault));
        assert_eq!(enter(K + 0x260 + 224 * 8), Some(Category::Timer));
        assert_eq!(enter(K + 0x2a0 + 224 * 8), Some(Category::Other));
        assert_eq!(s.event(K + 0x50), Some(Event::NewTask));
        assert!(s.is_entry_text(K + 0x300) && !s.is_entry_text(K + 0x100));
        assert!(s.is_switch(K + 4) && !s.is_switch(K + 0x20));
    }

    #[test]
    fn fields_of_a_task() {
        // push %rbp; mov %rsp,0x598(%rdi); mov 0x598(%rsi),%rsp
        let code = [
            0x55, 0x48, 0x89, 0xa7, 0x98, 5, 0, 0, 0x48, 0x8b, 0xa6, 0x98, 5, 0, 0,
        ];
        assert_eq!(stack_offset(&code), Some(0x598));
        assert_eq!(stack_offset(&[0x48, 0x89, 0x67, 0x18]), Some(0x18));
        assert_eq!((stack_offset(&code[..6]), stack_offset(&[])), (None, None));
        let mut task = vec![1; 100];
        assert_eq!(comm_offset(&task), None);
        task[40..56].copy_from_slice(b"swapper\0\0\0\0\0\0\0\0\0");
        assert_eq!(comm_offset(&task), Some(40));
    }

    #[test]
    fn functions() {
        let s = symbols();
        assert_eq!(s.name(s.function(K + 0x101)), "kthread");
        assert_eq!(s.name(s.function(K)), "__switch_to_asm");
        assert_eq!(s.name(s.function(K - 1)), "[unknown]");
        assert_eq!(s.name(s.function(u64::MAX)), "[unknown]");
        assert_eq!(s.name(u32::MAX), "[unknown]");
    }
}
