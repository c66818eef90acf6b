// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ELF file of the kernel that a guest boots: its code symbols, its bytes, its functions by address.

use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

/// A symbol of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol<'a> {
    /// The virtual address.
    pub address: u64,
    /// Bytes; 0 for most of what is written in assembly.
    pub size: u64,
    /// The name, which several symbols may have.
    pub name: &'a str,
}

/// A kernel's file that was read.
pub struct Vmlinux<'a> {
    file: ElfFile64<'a>,
    shown: String,
}

/// The bytes of a kernel's file, for [`Vmlinux::parse`].
///
/// # Errors
///
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

impl<'a> Vmlinux<'a> {
    /// What `data` says, which was read from `path`.
    ///
    /// # Errors
    ///
    /// It is no ELF file of a 64-bit machine.
    pub fn parse(path: &Path, data: &'a [u8]) -> Result<Vmlinux<'a>, String> {
        let shown = path.display().to_string();
        let file = ElfFile64::parse(data).map_err(|e| format!("{shown} is no ELF file: {e}"))?;
        Ok(Vmlinux { file, shown })
    }

    /// The error of a file without what a plugin needs.
    pub fn lacks(&self, symbols: &str) -> String {
        format!(
            "{} has no {symbols}: give the vmlinux that the guest boots, with its symbol table",
            self.shown
        )
    }

    /// The symbols of the kernel's code, by address, size and name.
    pub fn code(&self) -> Vec<Symbol<'_>> {
        let is_code = |s: &object::read::elf::ElfSymbol64<'_, '_>| {
            let section = s.section_index();
            let section = section.and_then(|i| self.file.section_by_index(i).ok());
            section.is_some_and(|x| x.kind() == SectionKind::Text)
        };
        // Entries in assembly have neither type nor size.
        let mut all: Vec<Symbol<'_>> = self
            .file
            .symbols()
            .filter(|s| s.kind() != SymbolKind::Section && is_code(s))
            .filter_map(|s| {
                Some(Symbol {
                    address: s.address(),
                    size: s.size(),
                    name: s.name().ok()?,
                })
            })
            .filter(|s| s.address >> 63 != 0 && !s.name.is_empty())
            .collect();
        all.sort_unstable();
        all
    }

    /// Any symbol of this name.
    pub fn symbol(&self, name: &str) -> Option<Symbol<'_>> {
        let found = self.file.symbols().find(|s| s.name() == Ok(name))?;
        Some(Symbol {
            address: found.address(),
            size: found.size(),
            name: found.name().ok()?,
        })
    }

    /// The bytes from a virtual address on; none where the file does not hold all of them.
    pub fn bytes(&self, address: u64, size: u64) -> &'a [u8] {
        let mut all = self.file.sections();
        let found = all.find_map(|s| s.data_range(address, size).ok().flatten());
        found.unwrap_or_default()
    }

    /// The virtual address and the bytes of a section.
    pub fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let section = self.file.section_by_name(name)?;
        Some((section.address(), section.data().unwrap_or_default()))
    }
}

/// Functions by address. A function has a number from 1 on; 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// First address and name, ascending.
    starts: Vec<(u64, String)>,
    /// The address after the last one.
    end: u64,
}

impl Functions {
    /// The functions among symbols that are sorted by address.
    pub fn of<'a>(code: impl IntoIterator<Item = Symbol<'a>>) -> Functions {
        let mut functions = Functions::default();
        for symbol in code {
            functions.end = symbol.address.saturating_add(symbol.size.max(1));
            // The first of several names; compiler-made labels are no functions.
            let known = |last: &(u64, String)| last.0 == symbol.address;
            if !symbol.name.starts_with(".L") && !functions.starts.last().is_some_and(known) {
                let name = symbol.name.to_owned();
                functions.starts.push((symbol.address, name));
            }
        }
        functions
    }

    /// The number of the function that holds the address.
    pub fn number(&self, address: u64) -> u32 {
        if address >= self.end {
            return 0;
        }
        self.starts.partition_point(|f| f.0 <= address) as u32
    }

    /// The first address and the name of a function.
    pub fn get(&self, number: u32) -> Option<(u64, &str)> {
        let at = (number as usize).checked_sub(1)?;
        self.starts.get(at).map(|f| (f.0, f.1.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 0xffff_ffff_8100_0000;

    fn symbol(address: u64, size: u64, name: &str) -> Symbol<'_> {
        Symbol {
            address,
            size,
            name,
        }
    }

    #[test]
    fn functions_by_address() {
        let all = [
            symbol(K, 0x20, "a"),
            symbol(K + 0x40, 4, "b"),
            symbol(K + 0x40, 4, "b_alias"),
            symbol(K + 0x42, 0, ".Ltmp"),
        ];
        let functions = Functions::of(all);
        let at = |address| functions.get(functions.number(address));
        assert_eq!(at(K), Some((K, "a")));
        assert_eq!(at(K + 0x3f), Some((K, "a")));
        assert_eq!(at(K + 0x42), Some((K + 0x40, "b")));
        assert_eq!(at(K + 0x43), None, "past the end");
        assert_eq!(at(K - 1), None);
        assert_eq!(functions.get(u32::MAX), None);
        assert_eq!(Functions::default().number(K), 0);
    }

    #[test]
    fn files_that_are_no_kernel() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(read(&here.join("absent")).unwrap_err().contains("absent"));
        let path = here.join("Cargo.toml");
        let data = read(&path).unwrap();
        let why = Vmlinux::parse(&path, &data).err().unwrap();
        assert!(why.contains("no ELF file"), "{why}");
        // A program of the host has code, and none of it is a kernel's.
        let path = std::env::current_exe().unwrap();
        let data = read(&path).unwrap();
        let program = Vmlinux::parse(&path, &data).unwrap();
        assert_eq!(program.code(), []);
        let (address, text) = program.section(".text").unwrap();
        assert_eq!(program.bytes(address, 16), &text[..16]);
        assert_eq!(program.bytes(K, 16), []);
        let main = program.symbol("main").unwrap();
        assert_eq!(main.name, "main");
        let why = program.lacks("symbol x");
        assert!(why.contains("has no symbol x: give the vmlinux"), "{why}");
    }
}
