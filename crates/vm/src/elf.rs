// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ELF files say of the loader and the libraries that they need.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use object::elf;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::Endianness;

use fpt_kit::{Fail, Result};

/// What a program needs beside itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The dynamic linker; `None` for static programs and libraries.
    pub interp: Option<String>,
    /// Names of its libraries.
    pub libraries: Vec<String>,
    /// Folders of DT_RPATH or DT_RUNPATH, `$ORIGIN` not yet replaced.
    pub paths: Vec<String>,
    /// What its own segments take in memory, in bytes.
    pub memory: u64,
}

/// What a file needs to run; `None` if it is no 64-bit x86 ELF file.
///
/// # Errors
///
/// The file cannot be read, or its tables point outside of it.
pub fn needs(path: &Path) -> Result<Option<Needs>> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !data.starts_with(b"\x7fELF\x02\x01") || data.get(18..20) != Some(&[62, 0]) {
        return Ok(None);
    }
    parse(&data).map(Some).ok_or_else(|| {
        Fail::infra(
            format!("{} is a damaged program", path.display()),
            "its ELF tables point outside the file",
            "build it again",
        )
    })
}

/// What a 64-bit ELF file needs; `None` if its tables point outside of it.
pub fn parse(data: &[u8]) -> Option<Needs> {
    let header = elf::FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let mut needs = Needs::default();
    let segments = header.program_headers(endian, data).ok()?;
    let (mut names, mut paths, mut strings) = (Vec::new(), Vec::new(), None);
    for segment in segments {
        match segment.p_type(endian) {
            elf::PT_LOAD => needs.memory = needs.memory.saturating_add(segment.p_memsz(endian)),
            elf::PT_INTERP => {
                let raw = segment.data(endian, data).ok()?;
                let text = raw.split(|b| *b == 0).next().unwrap_or_default();
                needs.interp = Some(String::from_utf8(text.to_vec()).ok()?);
            }
            elf::PT_DYNAMIC => {
                for entry in segment.dynamic(endian, data).ok()?? {
                    let value = entry.d_val(endian);
                    match entry.tag32(endian) {
                        Some(elf::DT_NULL) => break,
                        Some(elf::DT_NEEDED) => names.push(value),
                        Some(elf::DT_RPATH | elf::DT_RUNPATH) => paths.push(value),
                        Some(elf::DT_STRTAB) => strings = Some(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if names.is_empty() && paths.is_empty() {
        return Some(needs);
    }
    let at = strings?;
    let table = segments.iter().find_map(|s| {
        if s.p_type(endian) != elf::PT_LOAD {
            return None;
        }
        let inside = at.checked_sub(s.p_vaddr(endian))?;
        let offset = s.p_offset(endian).checked_add(inside)?;
        (inside < s.p_filesz(endian)).then(|| data.get(usize::try_from(offset).ok()?..))?
    })?;
    let text = |offset: u64| {
        let rest = table.get(usize::try_from(offset).ok()?..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    };
    for name in names {
        needs.libraries.push(text(name)?);
    }
    for path in paths {
        let list = text(path)?;
        needs.paths.extend(list.split(':').map(str::to_string));
    }
    Some(needs)
}

/// Where a library of this name, or the dynamic linker with this path, lies on the host.
pub fn find_library(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return name.exists().then(|| name.to_path_buf());
    }
    const DIRS: [&str; 7] = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
        "/usr/local/lib",
    ];
    DIRS.iter()
        .map(|d| Path::new(d).join(name))
        .find(|p| p.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_binary() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert!(
            needs.libraries.iter().any(|l| l.starts_with("libc.so")),
            "{needs:?}"
        );
        assert!(needs.memory > 0 && needs.interp.unwrap().contains("ld-linux"));
    }

    #[test]
    fn damaged_file_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut data = vec![0xff; 100];
        data[..6].copy_from_slice(b"\x7fELF\x02\x01");
        data[18..20].copy_from_slice(&[62, 0]);
        std::fs::write(&path, &data).unwrap();
        assert!(needs(&path).is_err());
        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        assert_eq!(needs(&path).unwrap(), None);
    }
}
