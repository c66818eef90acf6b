// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user's program on the host: where it is, what it needs to run, and whether it marks phases.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use object::elf;
use object::read::elf::FileHeader as _;
use object::{Endianness, FileKind};

use fpt_kit::{Fail, Result};
use fpt_vm::elf::Needs;

/// A program and the files of the host that it cannot run without.
#[derive(Debug, Default)]
pub struct Program {
    /// Its own path, absolute; the guest has it there.
    pub path: PathBuf,
    /// Path in the guest and file of the host: the program, its loader, its libraries.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// Libraries by the name that the loader looks for.
    pub libraries: BTreeMap<String, PathBuf>,
    /// The loader; a C library asks for it by its name, too.
    pub loader: Option<PathBuf>,
    /// It, or a library of it, has marks of phases.
    pub marked: bool,
    /// What its own segments take in memory, in bytes.
    pub memory: u64,
}

impl Program {
    /// Libraries beside the loader.
    pub fn library_count(&self) -> usize {
        let is_loader = |name: &&String| self.loader.as_ref().is_some_and(|l| l.ends_with(name));
        self.libraries.len() - self.libraries.keys().filter(is_loader).count()
    }

    pub fn is_dynamic(&self) -> bool {
        self.files.len() > 1
    }
}

/// Why a file is none that the guest can run.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    NotElf,
    Machine(String),
    Damaged,
}

type Header = elf::FileHeader64<Endianness>;

fn machine(data: &[u8]) -> String {
    let Some(low) = data.get(18..20) else {
        return "an unknown machine".into();
    };
    let big = data.get(5) == Some(&2);
    let number = if big {
        u16::from_be_bytes([low[0], low[1]])
    } else {
        u16::from_le_bytes([low[0], low[1]])
    };
    let name = match number {
        elf::EM_386 => "i386",
        elf::EM_ARM => "ARM",
        elf::EM_AARCH64 => "AArch64",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_X86_64 => "x86-64 with 32-bit addresses (x32)",
        n => return format!("machine number {n}"),
    };
    name.into()
}

fn needs(data: &[u8]) -> std::result::Result<Needs, Unfit> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf64) if data.get(18..20) == Some(&[62, 0]) => {}
        Ok(FileKind::Elf64 | FileKind::Elf32) => return Err(Unfit::Machine(machine(data))),
        _ if data.starts_with(b"\x7fELF") => return Err(Unfit::Damaged),
        _ => return Err(Unfit::NotElf),
    }
    // Object files and memory dumps are ELF as well.
    let kind = Header::parse(data).and_then(|h| Ok(h.e_type(h.endian()?)));
    match kind {
        Ok(elf::ET_EXEC | elf::ET_DYN) => fpt_vm::elf::parse(data).ok_or(Unfit::Damaged),
        _ => Err(Unfit::Damaged),
    }
}

/// Is there a mark of `workloads/include/fpt_mark.h`: `0f 1f 80 ID EDGE 50 46`?
pub fn has_marks(data: &[u8]) -> bool {
    data.windows(7)
        .any(|w| matches!(w, [0x0f, 0x1f, 0x80, _, 0xb1 | 0xe1, 0x50, 0x46]))
}

/// Where the program of this name is, as a shell in `cwd` would find it.
fn find(name: &str, cwd: &Path) -> Result<PathBuf> {
    let candidate = |path: PathBuf| {
        let meta = path.metadata().ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(path)
    };
    if name.contains('/') {
        let path = normal(&cwd.join(name));
        let meta = path.metadata().map_err(|e| {
            Fail::usage(
                format!("cannot run {name}"),
                e.to_string(),
                "name an existing program of this machine",
            )
        })?;
        if meta.is_dir() {
            return Err(Fail::usage(
                format!("cannot run {name}"),
                "it is a folder",
                "name a program",
            ));
        }
        return candidate(path).ok_or_else(|| {
            Fail::usage(
                format!("cannot run {name}"),
                "it is not executable",
                format!("chmod +x {name}"),
            )
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find_map(|dir| candidate(normal(&cwd.join(dir).join(name))))
        .ok_or_else(|| {
            let here = cwd.join(name).is_file();
            Fail::usage(
                format!("there is no program '{name}'"),
                "no folder of PATH has it",
                if here {
                    format!("the current folder has one: say ./{name}")
                } else {
                    "name it with its folder".to_string()
                },
            )
        })
}

/// Without `.` and `..`, as far as that is certain without a look at the disk.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// What of this file makes it unfit, in one line.
fn refuse(shown: &str, data: &[u8], why: Unfit) -> anyhow::Error {
    match why {
        Unfit::NotElf if data.starts_with(b"#!") => {
            let line = data.get(2..).unwrap_or_default();
            let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).trim().to_string();
            let fix = match line.split_whitespace().next() {
                Some(first) if !first.ends_with("/env") => format!("say: sim -- {line} {shown}"),
                _ => format!("say: sim -- INTERPRETER {shown}"),
            };
            Fail::usage(
                format!("{shown} is no ELF program"),
                format!("it is a script for '{line}'"),
                fix,
            )
        }
        Unfit::NotElf => Fail::usage(
            format!("{shown} is no ELF program"),
            "it does not begin as one",
            "name a compiled program for Linux on x86-64",
        ),
        Unfit::Machine(machine) => Fail::usage(
            format!("{shown} is for another processor"),
            format!("it is for {machine}, the guest is x86-64"),
            "compile it for x86-64 (64 bits)",
        ),
        Unfit::Damaged => Fail::usage(
            format!("{shown} is no program, or a damaged one"),
            "its ELF tables are not those of an executable",
            "link it again",
        ),
    }
}

/// The program with all that it needs. `library_path` is what LD_LIBRARY_PATH will be in the guest.
pub fn load(name: &str, cwd: &Path, library_path: Option<&str>) -> Result<Program> {
    let path = find(name, cwd)?;
    let data = read(&path)?;
    let first = needs(&data).map_err(|why| refuse(name, &data, why))?;
    let mut program = Program {
        path: path.clone(),
        marked: has_marks(&data),
        memory: first.memory,
        ..Program::default()
    };
    program.files.insert(path.clone(), path.clone());
    if let Some(interp) = &first.interp {
        let loader = PathBuf::from(interp);
        if !loader.is_file() {
            return Err(missing(name, interp));
        }
        program.files.insert(loader.clone(), loader.clone());
        program.loader = Some(loader);
    }
    let folders = Folders::new(library_path, cwd);
    // A loader searches the paths of the program for its libraries' libraries, too.
    let own = origins(&first.paths, &path);
    let mut todo = VecDeque::from([(path, first)]);
    let mut seen = BTreeSet::new();
    while let Some((of, needs)) = todo.pop_front() {
        let paths: Vec<PathBuf> = origins(&needs.paths, &of)
            .into_iter()
            .chain(own.iter().cloned())
            .collect();
        for library in needs.libraries {
            if !seen.insert(library.clone()) {
                continue;
            }
            let (found, data, needs) = folders
                .find(&library, &paths)
                .ok_or_else(|| missing(&of.display().to_string(), &library))?;
            program.marked |= has_marks(&data);
            program.files.insert(found.clone(), found.clone());
            program.libraries.insert(library, found.clone());
            todo.push_back((found, needs));
        }
    }
    Ok(program)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn missing(of: &str, library: &str) -> anyhow::Error {
    Fail::usage(
        format!("{of} needs {library}"),
        "no folder of libraries on this machine has it for x86-64",
        "install the package that has it, set LD_LIBRARY_PATH with --env, or link with -static",
    )
}

fn origins(paths: &[String], of: &Path) -> Vec<PathBuf> {
    // The loader goes by where the file is, not by a link to it.
    let real = of.canonicalize().unwrap_or_else(|_| of.to_path_buf());
    let origin = real.parent().unwrap_or(Path::new("/")).to_string_lossy();
    paths
        .iter()
        .filter(|p| !p.is_empty())
        .map(|p| {
            normal(Path::new(
                &p.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin),
            ))
        })
        .collect()
}

/// Where the host's loader looks.
struct Folders {
    first: Vec<PathBuf>,
    last: Vec<PathBuf>,
}

const USUAL: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

impl Folders {
    fn new(library_path: Option<&str>, cwd: &Path) -> Folders {
        let words = library_path.unwrap_or("").split(':');
        let first = words
            .filter(|w| !w.is_empty())
            .map(|w| normal(&cwd.join(w)));
        let mut last = configured(Path::new("/etc/ld.so.conf"), 0);
        last.extend(USUAL.map(PathBuf::from));
        Folders {
            first: first.collect(),
            last,
        }
    }

    /// A library, what is in it, and what it needs.
    fn find(&self, name: &str, paths: &[PathBuf]) -> Option<(PathBuf, Vec<u8>, Needs)> {
        let fits = |path: PathBuf| {
            let data = std::fs::read(&path).ok()?;
            let needs = needs(&data).ok()?;
            Some((path, data, needs))
        };
        if name.contains('/') {
            return fits(PathBuf::from(name));
        }
        let all = paths.iter().chain(&self.first).chain(&self.last);
        all.map(|dir| dir.join(name)).find_map(fits)
    }
}

/// Folders that a file such as /etc/ld.so.conf names.
fn configured(file: &Path, depth: u32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut out = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("include ") {
            Some(pattern) if depth == 0 => {
                let dir = Path::new(pattern.trim()).parent();
                let mut files: Vec<PathBuf> = dir
                    .and_then(|d| std::fs::read_dir(d).ok())
                    .into_iter()
                    .flatten()
                    .filter_map(|e| Some(e.ok()?.path()))
                    .filter(|p| p.extension().is_some_and(|e| e == "conf"))
                    .collect();
                files.sort();
                out.extend(files.iter().flat_map(|f| configured(f, depth + 1)));
            }
            Some(_) => {}
            None if line.starts_with('/') => out.push(PathBuf::from(line)),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(err: &anyhow::Error) -> String {
        fpt_kit::fail::report(err).0
    }

    #[test]
    fn a_dynamic_program_and_its_libraries() {
        let exe = std::env::current_exe().unwrap();
        let program = load(exe.to_str().unwrap(), Path::new("/"), None).unwrap();
        assert!(program.is_dynamic() && program.memory > 100_000);
        assert!(program.libraries.contains_key("libc.so.6"), "{program:?}");
        assert!(program
            .files
            .contains_key(Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert!(program.files.values().all(|f| f.is_file()));
    }

    #[test]
    fn what_is_no_program_is_told_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, data: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, data).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16] = 2;
        elf[20] = 1;
        elf[18] = 183;
        put("arm", &elf);
        elf[18] = 62;
        elf[32] = 0xff;
        elf[54] = 56;
        elf[56] = 9;
        put("damaged", &elf);
        elf[4] = 1;
        elf[18] = 3;
        put("small", &elf);
        put("script", b"#!/usr/bin/python3 -u\nprint(1)\n");
        put("env", b"#!/usr/bin/env bash\n");
        put("text", b"hello");
        put("empty", b"");
        std::fs::write(dir.path().join("plain"), &elf).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        for (name, words) in [
            ("./arm", "AArch64"),
            ("./small", "i386"),
            ("./damaged", "damaged"),
            ("./script", "say: sim -- /usr/bin/python3 -u ./script"),
            ("./env", "INTERPRETER ./env"),
            ("./text", "no ELF program"),
            ("./empty", "no ELF program"),
            ("./plain", "not executable"),
            ("./folder", "a folder"),
            ("./nothing", "No such file"),
            ("no-such-program-xyz", "no folder of PATH"),
        ] {
            let err = load(name, dir.path(), None).unwrap_err();
            let text = line(&err);
            assert!(text.contains(words), "{name}: {text}");
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(fpt_kit::fail::report(&err).1, fpt_kit::code::USAGE);
        }
    }

    #[test]
    fn marks_are_found() {
        assert!(has_marks(&[0, 0x0f, 0x1f, 0x80, 7, 0xb1, 0x50, 0x46]));
        assert!(!has_marks(&[0x0f, 0x1f, 0x80, 7, 0xb2, 0x50, 0x46]));
        assert!(!has_marks(&[]));
    }

    #[test]
    fn paths_of_a_program() {
        let of = Path::new("/no/such/bin/prog");
        let paths = [
            "$ORIGIN/../lib".to_string(),
            "${ORIGIN}".into(),
            String::new(),
        ];
        let found = origins(&paths, of);
        assert_eq!(
            found,
            [Path::new("/no/such/lib"), Path::new("/no/such/bin")]
        );
        assert_eq!(normal(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }
}
