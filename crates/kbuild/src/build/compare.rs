// SPDX-License-Identifier: MIT OR Apache-2.0
//! With the option off the patched tree must give the unpatched tree's machine code.
//!
//! Both trees' objects are built with the same options, paths and with `__LINE__` set to
//! 0, so that neither line numbers in instructions nor those in bug tables differ where a
//! patch adds lines. Then every executable section is compared byte by byte, and so is
//! what each of its relocations points to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionFlags};

use super::kernel::{objects, prepare_tree, OBJECT_DIRS};
use super::{objfile, Compiler, Profile};
use crate::patch;
use crate::sources::{self, Project};
use fpt_kit::{hash, Ctx, Result};

/// Objects whose source the queue changes whatever the option says: four that the EMT layer rewrites,
/// the LRU_GEN walker, which is given a PUD slot in place of a copy of it, and the rmap walk, which looks
/// at the PMD again under the lock. What they cost is counted instead:
/// `cargo xtask kcount --kernel unpatched`.
const REWRITTEN: [&str; 6] = [
    "mm/memory.o",
    "mm/mprotect.o",
    "mm/mremap.o",
    "mm/page_vma_mapped.o",
    "mm/pgtable-generic.o",
    "mm/vmscan.o",
];

/// The outcome of the comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Objects that were compared.
    pub compared: usize,
    /// Bytes of code in them.
    pub bytes: u64,
    /// Object and what differs.
    pub different: Vec<(String, String)>,
    /// The same for objects that are expected to differ.
    pub rewritten: Vec<(String, String)>,
    /// Objects that only one tree has.
    pub only: Vec<String>,
}

impl Comparison {
    /// Whether nothing differs but what is expected to.
    pub fn same(&self) -> bool {
        self.compared > 0 && self.different.is_empty() && self.only.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, why) in &self.different {
            writeln!(f, "differs: {name}: {why}")?;
        }
        for (name, why) in &self.rewritten {
            writeln!(f, "changed for all: {name}: {why}")?;
        }
        for name in &self.only {
            writeln!(f, "only in one tree: {name}")?;
        }
        write!(
            f,
            "CONFIG_X86_FPT=n against the unpatched tree: {} objects, {} bytes of code, {} differ, {} rewritten, {} only in one",
            self.compared,
            self.bytes,
            self.different.len(),
            self.rewritten.len(),
            self.only.len()
        )
    }
}

/// Compares the kernel with the option off with the unpatched one, object by object.
///
/// # Errors
///
/// A build failed, or a tree has no objects.
pub fn compare_off(ctx: &Ctx) -> Result<Comparison> {
    let source = sources::ensure(ctx, Project::Linux)?;
    let _lock = patch::tree_lock(ctx, Project::Linux, &source)?;
    let patched_src = prepare_tree(ctx, Profile::OptionOff, &source)?;
    let base_src = prepare_tree(ctx, Profile::Unpatched, &source)?;
    let patched = objects(
        ctx,
        Profile::OptionOff,
        Compiler::Llvm,
        &patched_src,
        "text",
    )?;
    let base = objects(ctx, Profile::Unpatched, Compiler::Llvm, &base_src, "text")?;
    if ctx.dry_run {
        return Ok(Comparison::default());
    }
    let stage = ctx.ui.stage("compare machine code");
    let result = compare(&base, &patched)?;
    stage.done(&format!("{} objects", result.compared));
    Ok(result)
}

fn compare(base: &Path, patched: &Path) -> Result<Comparison> {
    let mut out = Comparison::default();
    let (left, right) = (
        object_files(base, &OBJECT_DIRS)?,
        object_files(patched, &OBJECT_DIRS)?,
    );
    for name in left.symmetric_difference(&right) {
        // An object without code has none that could differ.
        let dir = if left.contains(name) { base } else { patched };
        if !sections(&dir.join(name))?.is_empty() {
            out.only.push(name.display().to_string());
        }
    }
    for name in left.intersection(&right) {
        let (a, b) = (sections(&base.join(name))?, sections(&patched.join(name))?);
        out.compared += 1;
        out.bytes += a.values().map(|s| s.code.len() as u64).sum::<u64>();
        if let Some(why) = difference(&a, &b) {
            let name = name.display().to_string();
            if REWRITTEN.contains(&name.as_str()) {
                out.rewritten.push((name, why));
            } else {
                out.different.push((name, why));
            }
        }
    }
    Ok(out)
}

/// Objects of some folders of a build, relative to it.
pub fn object_files(build: &Path, dirs: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let mut out = BTreeSet::new();
    for dir in dirs {
        for rel in hash::files_below(&build.join(dir))? {
            let name = rel.to_string_lossy().into_owned();
            if name.ends_with(".o") && !name.ends_with(".mod.o") && name != "built-in.o" {
                out.insert(Path::new(dir).join(rel));
            }
        }
    }
    Ok(out)
}

#[derive(Debug, PartialEq, Eq)]
struct Code {
    code: Vec<u8>,
    /// Offset, and what the relocation there says.
    relocations: Vec<(u64, String)>,
}

/// The executable sections of an object.
fn sections(path: &Path) -> Result<BTreeMap<String, Code>> {
    objfile::with(path, sections_in)
}

fn sections_in(file: &object::File<'_>) -> Result<BTreeMap<String, Code>> {
    let mut out = BTreeMap::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if sh_flags & u64::from(object::elf::SHF_EXECINSTR) == 0 || section.size() == 0 {
            continue;
        }
        let name = section.name().unwrap_or("?").to_string();
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = file.symbol_by_index(index)?;
                    match symbol.name() {
                        Ok(n) if !n.is_empty() => unnumbered(n),
                        _ => match symbol.section_index() {
                            Some(at) => file.section_by_index(at)?.name()?.to_string(),
                            None => "?".to_string(),
                        },
                    }
                }
                _ => "?".to_string(),
            };
            relocations.push((offset, format!("{target}{:+#x}", relocation.addend())));
        }
        relocations.sort();
        out.insert(
            name,
            Code {
                code: section.data()?.to_vec(),
                relocations,
            },
        );
    }
    Ok(out)
}

/// Local statics carry a running number that moves when another one comes before.
fn unnumbered(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
        .to_string()
}

fn difference(a: &BTreeMap<String, Code>, b: &BTreeMap<String, Code>) -> Option<String> {
    for name in a.keys().chain(b.keys()) {
        match (a.get(name), b.get(name)) {
            (Some(x), Some(y)) if x.code != y.code => {
                return Some(format!(
                    "{name} differs ({} bytes unpatched, {} patched)",
                    x.code.len(),
                    y.code.len()
                ));
            }
            (Some(x), Some(y)) if x.relocations != y.relocations => {
                let pair = x
                    .relocations
                    .iter()
                    .zip(&y.relocations)
                    .find(|(p, q)| p != q);
                return Some(match pair {
                    Some((p, q)) => format!(
                        "{name}+{:#x} refers to {} unpatched, {} patched",
                        p.0, p.1, q.1
                    ),
                    None => format!("{name} has another number of references"),
                });
            }
            (Some(_), Some(_)) => {}
            (Some(_), None) => return Some(format!("{name} only unpatched")),
            (None, _) => return Some(format!("{name} only patched")),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(code: &[u8], target: &str) -> BTreeMap<String, Code> {
        BTreeMap::from([(
            ".text".to_string(),
            Code {
                code: code.to_vec(),
                relocations: vec![(1, target.to_string())],
            },
        )])
    }

    #[test]
    fn differences_are_seen() {
        let a = one(&[1, 2], "f+0x0");
        assert_eq!(difference(&a, &a), None);
        assert!(difference(&a, &one(&[1, 3], "f+0x0")).is_some_and(|d| d.contains("differs")));
        assert!(difference(&a, &one(&[1, 2], "g+0x0")).is_some_and(|d| d.contains("refers")));
        assert!(difference(&a, &BTreeMap::new()).is_some());
        assert!(difference(&BTreeMap::new(), &a).is_some());
    }

    /// A build folder whose mm/x.o is compiled from `text`.
    fn built(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for sub in OBJECT_DIRS {
            std::fs::create_dir_all(dir.path().join(sub)).expect("a folder");
        }
        let source = dir.path().join("x.c");
        std::fs::write(&source, text).expect("written");
        let out = dir.path().join("mm/x.o");
        let cc = fpt_kit::Cmd::new("gcc").args(["-O2", "-c", "-o"]);
        cc.arg(&out).arg(&source).read().expect("compiled");
        dir
    }

    #[test]
    fn real_objects() {
        let base = "extern int g(int), h(int); int x; int f(void) { return g(3) + x; }";
        let a = built(base);
        let outcome = |text: &str| compare(a.path(), built(text).path()).expect("compared");
        let same = outcome(&format!("/* another line */\n{base}\nint unused;"));
        assert!(
            same.same() && same.compared == 1 && same.bytes > 0,
            "{same}"
        );
        for other in [
            base.replace('3', "4"),
            base.replace("g(3)", "h(3)"),
            format!("{base} int k(void) {{ return 1; }}"),
        ] {
            let result = outcome(&other);
            assert!(
                !result.same() && result.to_string().contains("mm/x.o"),
                "{result}"
            );
        }
    }

    #[test]
    fn object_of_one_tree_only_is_a_difference() {
        let a = built("int f(void) { return 1; }");
        let b = built("int f(void) { return 1; }");
        std::fs::copy(b.path().join("mm/x.o"), b.path().join("mm/y.o")).expect("copied");
        let result = compare(a.path(), b.path()).expect("compared");
        assert_eq!(result.only, ["mm/y.o"]);
        assert!(!result.same());
    }

    #[test]
    fn only_named_objects_may_be_rewritten() {
        let (a, b) = (built("int x;"), built("int x;"));
        for (dir, text) in [
            (&a, "int f(void) { return 1; }"),
            (&b, "int f(void) { return 2; }"),
        ] {
            let other = built(text);
            std::fs::copy(other.path().join("mm/x.o"), dir.path().join("mm/memory.o"))
                .expect("copied");
        }
        let result = compare(a.path(), b.path()).expect("compared");
        assert!(result.same() && result.rewritten.len() == 1, "{result}");
        std::fs::rename(a.path().join("mm/memory.o"), a.path().join("mm/other.o"))
            .expect("renamed");
        std::fs::rename(b.path().join("mm/memory.o"), b.path().join("mm/other.o"))
            .expect("renamed");
        assert!(!compare(a.path(), b.path()).expect("compared").same());
    }

    #[test]
    fn nothing_compared_is_no_success() {
        assert!(!Comparison::default().same());
    }
}
