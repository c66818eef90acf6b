// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of code: functions by symbols, and files with lines and inlined functions where there is DWARF.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{Object as _, ObjectSegment as _};

use crate::program::Program;

/// Where an instruction is, from the outside to the inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The program, the library, or the kernel.
    pub object: String,
    /// The function, and after it what was inlined there.
    pub functions: Vec<String>,
    /// `file.c:21`, if it is known.
    pub line: Option<String>,
}

impl Place {
    /// The innermost function.
    pub fn function(&self) -> &str {
        self.functions.last().map_or(UNKNOWN, String::as_str)
    }
}

pub const UNKNOWN: &str = "[unknown]";
pub const KERNEL: &str = "kernel";

struct Object {
    loader: Loader,
    /// Offset in the file, size, address.
    segments: Vec<(u64, u64, u64)>,
}

impl Object {
    fn load(path: &Path) -> Option<Object> {
        let data = std::fs::read(path).ok()?;
        let file = object::File::parse(&*data).ok()?;
        let segments = file.segments().map(|s| {
            let (offset, size) = s.file_range();
            (offset, size, s.address())
        });
        Some(Object {
            segments: segments.collect(),
            loader: Loader::new(path).ok()?,
        })
    }

    fn address(&self, offset: u64) -> Option<u64> {
        let mut all = self.segments.iter();
        all.find_map(|(start, size, address)| {
            let inside = offset.checked_sub(*start).filter(|n| n < size)?;
            Some(address + inside)
        })
    }

    fn place(&self, object: &str, address: u64) -> Place {
        let mut functions = Vec::new();
        let mut line = None;
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                if line.is_none() {
                    line = frame.location.as_ref().and_then(|l| {
                        let file = Path::new(l.file?).file_name()?.to_string_lossy();
                        Some(format!("{file}:{}", l.line?))
                    });
                }
                if let Some(name) = frame.function.as_ref().and_then(|f| f.demangle().ok()) {
                    functions.push(name.into_owned());
                }
            }
        }
        functions.reverse();
        if functions.is_empty() {
            let symbol = self.loader.find_symbol(address);
            functions.extend(symbol.map(|s| addr2line::demangle_auto(s.into(), None).into_owned()));
        }
        if functions.is_empty() {
            functions.push(UNKNOWN.to_string());
        }
        Place {
            object: object.to_string(),
            functions,
            line,
        }
    }
}

/// Files are read once, addresses looked up once.
pub struct Symbols<'a> {
    program: &'a Program,
    kernel: PathBuf,
    objects: BTreeMap<PathBuf, Option<Object>>,
    kernel_places: HashMap<u64, Place>,
}

impl<'a> Symbols<'a> {
    pub fn new(program: &'a Program, kernel: &Path) -> Symbols<'a> {
        Symbols {
            program,
            kernel: kernel.to_path_buf(),
            objects: BTreeMap::new(),
            kernel_places: HashMap::new(),
        }
    }

    fn object(&mut self, path: &Path) -> Option<&Object> {
        let load = || Object::load(path);
        let entry = self.objects.entry(path.to_path_buf());
        entry.or_insert_with(load).as_ref()
    }

    /// A function of the kernel; lines and inlined functions only if its image has DWARF.
    pub fn kernel(&mut self, address: u64) -> Place {
        if let Some(known) = self.kernel_places.get(&address) {
            return known.clone();
        }
        let path = self.kernel.clone();
        let place = match self.object(&path) {
            Some(object) => object.place(KERNEL, address),
            None => unknown(KERNEL),
        };
        self.kernel_places.insert(address, place.clone());
        place
    }

    /// Code that the guest has from this offset of a file.
    pub fn file(&mut self, guest: &str, offset: u64) -> Place {
        let path = Path::new(guest);
        let name = path
            .file_name()
            .map_or(guest.into(), |n| n.to_string_lossy());
        // A library may be under the name that the guest's loader looks for.
        let own = self.program.files.get(path);
        let host = own.or_else(|| self.program.libraries.get(name.as_ref()));
        let host = host.cloned().unwrap_or_else(|| path.to_path_buf());
        let found = self.object(&host).and_then(|object| {
            let address = object.address(offset)?;
            Some(object.place(&name, address))
        });
        found.unwrap_or_else(|| unknown(&name))
    }
}

pub fn unknown(object: &str) -> Place {
    Place {
        object: object.to_string(),
        functions: vec![UNKNOWN.to_string()],
        line: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn something_with_a_name(n: u64) -> u64 {
        std::hint::black_box(n) + 1
    }

    #[test]
    fn a_function_of_this_test_has_its_name_and_line() {
        let exe = std::env::current_exe().unwrap();
        let program = Program {
            path: exe.clone(),
            files: BTreeMap::from([(PathBuf::from("/guest/prog"), exe.clone())]),
            ..Program::default()
        };
        assert_eq!(something_with_a_name(1), 2);
        let at = something_with_a_name as *const () as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let areas = crate::maps::parse(&maps);
        let area = areas.iter().find(|a| a.holds(at)).unwrap();
        let offset = at - area.start + area.offset;
        let mut symbols = Symbols::new(&program, Path::new("/no/kernel"));
        let place = symbols.file("/guest/prog", offset);
        assert!(
            place.function().contains("something_with_a_name"),
            "{place:?}"
        );
        assert_eq!(place.object, "prog");
        assert!(place.line.is_some_and(|l| l.starts_with("symbols.rs:")));
        assert_eq!(symbols.file("/no/such/file", 0).function(), UNKNOWN);
        assert_eq!(symbols.kernel(1 << 63).function(), UNKNOWN);
    }
}
