// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's symbols: names of code, and where it switches tasks.

use std::path::Path;

use fpt_vmlinux::{Functions, Symbol, Vmlinux};

#[derive(Debug, Default)]
pub struct Symbols {
    functions: Functions,
    switch: Option<u64>,
    sends: Option<u64>,
    marked: bool,
    /// Begin and end of the kernel's code.
    text: (u64, u64),
}

/// A CPU asks others to do something.
const SENDS: &str = "smp_call_function_many_cond";
const THUNK: &str = "__x86_indirect_thunk_";
const SWITCH: &str = "__switch_to_asm";
/// A kernel with marks has this function, which makes canaries.
const MARKS: &str = "tlb_marks_init";

impl Symbols {
    pub fn load(path: &Path) -> Result<Symbols, String> {
        let data = fpt_vmlinux::read(path)?;
        let file = Vmlinux::parse(path, &data)?;
        let symbols = Symbols::of(&file.code());
        match symbols.switch {
            Some(_) => Ok(symbols),
            None => Err(file.lacks(&format!("symbol {SWITCH}"))),
        }
    }

    /// `code` is sorted by address.
    pub fn of(code: &[Symbol<'_>]) -> Symbols {
        let find = |name: &str| code.iter().find(|s| s.name == name).map(|s| s.address);
        let border = |name: &str| find(name).unwrap_or(0);
        Symbols {
            functions: Functions::of(code.iter().copied()),
            switch: find(SWITCH),
            sends: find(SENDS),
            marked: find(MARKS).is_some(),
            text: (border("_stext"), border("_etext")),
        }
    }

    /// Where a CPU goes on with another task, whose address is in RSI.
    pub fn switch(&self) -> Option<u64> {
        self.switch
    }

    /// Where a CPU asks others to do something, and waits for it.
    pub fn sends(&self) -> Option<u64> {
        self.sends
    }

    fn at(&self, pc: u64) -> Option<(u64, &str)> {
        self.functions.get(self.functions.number(pc))
    }

    /// The first instruction of the function of an address, if that is the kernel's code.
    pub fn start(&self, pc: u64) -> Option<u64> {
        let (first, end) = self.text;
        let inside = (first..end).contains(&pc);
        self.at(pc).filter(|_| inside).map(|f| f.0)
    }

    /// The name of the function of an address; empty if there is none.
    pub fn function(&self, pc: u64) -> &str {
        self.at(pc).map_or("", |f| f.1)
    }

    /// Is this address in the function of that name?
    pub fn is(&self, pc: u64, name: &str) -> bool {
        self.function(pc) == name
    }

    /// Does it go on to wherever a register says?
    pub fn is_thunk(&self, pc: u64) -> bool {
        self.function(pc).starts_with(THUNK)
    }

    /// Does the kernel say what it frees, and make canaries?
    pub fn marked(&self) -> bool {
        self.marked
    }

    /// `function+0x12`, or the address.
    pub fn name(&self, pc: u64) -> String {
        match self.at(pc) {
            Some((start, name)) => format!("{name}+{:#x}", pc - start),
            None => format!("{pc:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        const K: u64 = 0xffff_ffff_8100_0000;
        let symbol = |address, name| Symbol {
            address,
            size: 8,
            name,
        };
        let code = [
            symbol(K, SWITCH),
            symbol(K + 0x40, "b"),
            symbol(K + 0x40, "b_alias"),
            symbol(K + 0x44, ".Ltmp"),
        ];
        let symbols = Symbols::of(&code);
        assert_eq!(symbols.switch(), Some(K));
        assert!(!symbols.marked());
        let marks = Symbols::of(&[symbol(K, MARKS)]);
        assert!(marks.marked());
        assert_eq!(symbols.name(K + 0x45), "b+0x5");
        assert_eq!(symbols.name(K + 0x3f), "__switch_to_asm+0x3f");
        assert_eq!(symbols.name(0x11), "0x11");
    }

    #[test]
    fn files_without_them() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let why = Symbols::load(&here.join("Cargo.toml")).unwrap_err();
        assert!(why.contains("no ELF file"), "{why}");
        let why = Symbols::load(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(why.contains(SWITCH), "{why}");
        assert!(Symbols::load(&here.join("absent")).is_err());
    }
}
