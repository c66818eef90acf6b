// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's symbols: names of code, and where it switches tasks.

use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};

#[derive(Debug, Default)]
pub struct Symbols {
    /// Start and name, ascending.
    functions: Vec<(u64, String)>,
    switch: Option<u64>,
    marked: bool,
}

const SWITCH: &str = "__switch_to_asm";
/// A kernel with marks has this function, which makes canaries.
const MARKS: &str = "tlb_marks_init";

impl Symbols {
    pub fn load(path: &Path) -> Result<Symbols, String> {
        let shown = path.display();
        let data = std::fs::read(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
        let file =
            object::File::parse(&*data).map_err(|e| format!("{shown} is no ELF file: {e}"))?;
        let symbols = Symbols::of(file.symbols().filter_map(|s| {
            let code = matches!(s.kind(), SymbolKind::Text | SymbolKind::Unknown);
            Some((s.address(), s.name().ok().filter(|_| code)?.to_owned()))
        }));
        match symbols.switch {
            Some(_) => Ok(symbols),
            None => Err(format!(
                "{shown} has no symbol {SWITCH}: give the vmlinux that the guest boots, with its symbol table"
            )),
        }
    }

    pub fn of(all: impl Iterator<Item = (u64, String)>) -> Symbols {
        let kernel = all.filter(|(at, name)| at >> 63 != 0 && !name.is_empty());
        let mut functions: Vec<(u64, String)> =
            kernel.filter(|(_, name)| !name.starts_with(".L")).collect();
        functions.sort_unstable();
        functions.dedup_by_key(|f| f.0);
        let switch = functions.iter().find(|f| f.1 == SWITCH).map(|f| f.0);
        let marked = functions.iter().any(|f| f.1 == MARKS);
        Symbols {
            functions,
            switch,
            marked,
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
        let n = self.functions.partition_point(|f| f.0 <= pc);
        match n.checked_sub(1).and_then(|n| self.functions.get(n)) {
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
        let list = [
            (K + 0x40, "b"),
            (K, SWITCH),
            (K + 0x44, ".Ltmp"),
            (K + 0x40, "b_alias"),
            (0x10, "low"),
        ];
        let symbols = Symbols::of(list.into_iter().map(|(at, name)| (at, name.to_owned())));
        assert_eq!(symbols.switch(), Some(K));
        assert!(!symbols.marked());
        let marks = Symbols::of([(K, MARKS.to_owned())].into_iter());
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
