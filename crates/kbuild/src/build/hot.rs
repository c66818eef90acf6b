// SPDX-License-Identifier: MIT OR Apache-2.0
//! Are the Rust hooks of the page-table walkers inlined into the C objects on the hot paths?
//!
//! With clang and rustc on the same LLVM the hooks are linked into these objects as bitcode; what
//! was not inlined would be called, and a call leaves a relocation.

use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

use super::objfile;
use fpt_kit::Result;

/// Objects on the hot paths.
pub const OBJECTS: [&str; 6] = [
    "mm/memory.o",
    "mm/gup.o",
    "mm/mprotect.o",
    "mm/mremap.o",
    "mm/pagewalk.o",
    "mm/pgtable-generic.o",
];

/// `pub extern "C"` functions of rust-mm-fpt/kernel/hot.rs.
const HOOKS: [&str; 2] = ["fpt_below_flat", "fpt_below_slice"];

/// Name of the file in a kernel's artefact that [`report`] makes.
pub const FILE: &str = "hot-calls.txt";

/// How often code in `object` refers to each hook: `(hook, places)`.
pub fn calls(object: &Path) -> Result<Vec<(String, usize)>> {
    objfile::with(object, calls_in)
}

fn calls_in(file: &object::File<'_>) -> Result<Vec<(String, usize)>> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for section in file.sections() {
        for (_, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(index)?;
            let name = symbol.name().unwrap_or_default();
            if !HOOKS.contains(&name) {
                continue;
            }
            match found.iter_mut().find(|f| f.0 == name) {
                Some(f) => f.1 += 1,
                None => found.push((name.to_string(), 1)),
            }
        }
    }
    Ok(found)
}

/// A line for each object of a build folder: `mm/gup.o` and the hooks that it still calls.
pub fn report(build: &Path) -> Result<String> {
    let mut out = String::new();
    for name in OBJECTS {
        out.push_str(name);
        for (hook, places) in calls(&build.join(name))? {
            out.push_str(&format!(" {hook}:{places}"));
        }
        out.push('\n');
    }
    Ok(out)
}

/// What is wrong with a report: each object must be there, without a call.
pub fn problems(report: &str) -> Vec<String> {
    let mut out: Vec<String> = OBJECTS
        .iter()
        .filter(|o| !report.lines().any(|l| l.split(' ').next() == Some(*o)))
        .map(|o| format!("{o} was not looked at"))
        .collect();
    out.extend(
        report
            .lines()
            .filter(|l| l.contains(' '))
            .map(|l| format!("{} calls", l.replacen(' ', ": ", 1))),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(dir: &Path, name: &str, text: &str) {
        let (source, out) = (dir.join("x.c"), dir.join(name));
        std::fs::create_dir_all(out.parent().expect("a folder")).expect("made");
        std::fs::write(&source, text).expect("written");
        let cc = fpt_kit::Cmd::new("gcc").args(["-O2", "-c", "-o"]);
        cc.arg(&out).arg(&source).read().expect("compiled");
    }

    /// A hook of another name would be looked for in vain.
    #[test]
    fn hooks_are_those_of_the_kernel() {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust-mm-fpt/kernel/hot.rs");
        let text = std::fs::read_to_string(at).expect("readable");
        let names: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("pub extern \"C\" fn "))
            .filter_map(|l| l.split('(').next())
            .collect();
        assert_eq!(names, HOOKS);
    }

    #[test]
    fn a_call_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in OBJECTS {
            built(dir.path(), name, "int f(void) { return 1; }");
        }
        let clean = report(dir.path()).expect("read");
        assert!(problems(&clean).is_empty(), "{clean}");
        built(
            dir.path(),
            OBJECTS[1],
            "long fpt_below_slice(long, long); long f(long v) { return fpt_below_slice(fpt_below_slice(v, 1), 2) + 1; }",
        );
        let dirty = report(dir.path()).expect("read");
        assert_eq!(problems(&dirty), ["mm/gup.o: fpt_below_slice:2 calls"]);
        std::fs::remove_file(dir.path().join(OBJECTS[0])).expect("removed");
        assert!(report(dir.path()).is_err());
        assert_eq!(problems("").len(), OBJECTS.len());
    }
}
