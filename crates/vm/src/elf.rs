// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of ELF as it takes to find the shared objects of a program.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use fpt_kit::{Fail, Result};

/// What a program needs beside itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The dynamic linker; `None` for static programs and libraries.
    pub interp: Option<String>,
    /// Names of its libraries.
    pub libs: Vec<String>,
}

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    fn num(&self, at: u64, len: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.0.get(at..at.checked_add(len)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, b| sum << 8 | u64::from(*b)),
        )
    }

    fn text(&self, at: u64) -> Option<String> {
        let rest = self.0.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    }
}

/// What a file needs to run; `None` if it is no 64-bit x86 ELF file.
pub fn needs(path: &Path) -> Result<Option<Needs>> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !data.starts_with(b"\x7fELF\x02\x01") || Raw(&data).num(18, 2) != Some(62) {
        return Ok(None);
    }
    parse(&Raw(&data)).map(Some).ok_or_else(|| {
        Fail::infra(
            format!("{} is a damaged program", path.display()),
            "its ELF tables point outside the file",
            "build it again",
        )
    })
}

fn parse(raw: &Raw<'_>) -> Option<Needs> {
    let (phoff, phentsize, phnum) = (raw.num(32, 8)?, raw.num(54, 2)?, raw.num(56, 2)?);
    let mut loads = Vec::new();
    let mut dynamic = None;
    let mut needs = Needs::default();
    for i in 0..phnum {
        let at = phoff.checked_add(i * phentsize)?;
        let (kind, offset, vaddr, filesz) = (
            raw.num(at, 4)?,
            raw.num(at + 8, 8)?,
            raw.num(at + 16, 8)?,
            raw.num(at + 32, 8)?,
        );
        match kind {
            PT_LOAD => loads.push((vaddr, offset, filesz)),
            PT_DYNAMIC => dynamic = Some((offset, filesz)),
            PT_INTERP => needs.interp = Some(raw.text(offset)?),
            _ => {}
        }
    }
    let Some((start, size)) = dynamic else {
        return Some(needs);
    };
    let mut names = Vec::new();
    let mut strtab = None;
    for at in (start..start.checked_add(size)?).step_by(16) {
        match (raw.num(at, 8)?, raw.num(at + 8, 8)?) {
            (0, _) => break,
            (DT_NEEDED, offset) => names.push(offset),
            (DT_STRTAB, vaddr) => strtab = Some(vaddr),
            _ => {}
        }
    }
    if !names.is_empty() {
        let strtab = strtab?;
        let (vaddr, offset, _) = loads
            .iter()
            .find(|(v, _, size)| strtab >= *v && strtab - v < *size)?;
        let base = strtab - vaddr + offset;
        for name in names {
            needs.libs.push(raw.text(base.checked_add(name)?)?);
        }
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
            needs.libs.iter().any(|l| l.starts_with("libc.so")),
            "{needs:?}"
        );
        assert!(needs.interp.unwrap().contains("ld-linux"));
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
