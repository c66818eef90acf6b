// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's symbols: names of code, and where it switches tasks.

use std::path::Path;

use fpt_vmlinux::{Functions, Symbol, Vmlinux};

#[derive(Debug, Default)]
pub struct Symbols {
    functions: Functions,
    switch: Option<u64>,
    marked: bool,
}

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
        let find = |name: &str| code.iter().find(|s| s.name == name);
        Symbols {
            functions: Functions::of(code.iter().copied()),
            switch: find(SWITCH).map(|s| s.address),
            marked: find(MARKS).is_some(),
        }
    }

    /// Where a CPU goes on with another task, whose address is in RSI.
    pub fn switch(&self) -> Option<u64> {
        self.switch
    }

    /// Does the kernel say what it frees, and make canaries?
    pub fn marked(&self) -> bool {
        self.marked
    }

    /// `function+0x12`, or the address.
    pub fn name(&self, pc: u64) -> String {
        match self.functions.get(self.functions.number(pc)) {
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
