// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content hashes: the names of cached things.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use super::{Fail, Result};

/// What to say when inputs are others than those whose hash is the name of the result: `what` was
/// edited between the two moments, and a result under that name would be a wrong one for ever.
pub fn changed(what: &str, done: &str) -> anyhow::Error {
    Fail::infra(
        format!("{what} changed while being {done}"),
        "somebody edits the checkout",
        "run the command again",
    )
}

/// Collects named inputs into one hash; every part is length-prefixed so that
/// no two different lists of inputs give the same bytes.
#[derive(Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Inputs {
        Inputs::default()
    }

    /// Adds a named input.
    pub fn bytes(&mut self, name: &str, data: &[u8]) -> &mut Self {
        for part in [name.as_bytes(), data] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a named input that is text.
    pub fn text(&mut self, name: &str, data: &str) -> &mut Self {
        self.bytes(name, data.as_bytes())
    }

    /// Adds the contents of a file as a named input.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn file(&mut self, name: &str, path: &Path) -> Result<&mut Self> {
        let data =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.bytes(name, &data))
    }

    /// Every file below `dir`, by relative name, in sorted order.
    pub fn tree(&mut self, name: &str, dir: &Path) -> Result<&mut Self> {
        for rel in files_below(dir)? {
            self.file(&format!("{name}/{}", rel.display()), &dir.join(&rel))?;
        }
        Ok(self)
    }

    /// The hash of all inputs, in hexadecimal.
    pub fn finish(&self) -> String {
        hex(&self.0.clone().finalize())
    }
}

/// Relative paths of all regular files below `dir`, sorted; none if it does not exist.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    fn walk(base: &Path, rel: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(base.join(rel))? {
            let entry = entry?;
            let rel = rel.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                walk(base, &rel, out)?;
            } else {
                out.push(rel);
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    if dir.is_dir() {
        walk(dir, Path::new(""), &mut out)
            .with_context(|| format!("cannot list {}", dir.display()))?;
    }
    out.sort();
    Ok(out)
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
///
/// The file cannot be read.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buf)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buf[..n]);
    }
}

/// The SHA-256 of a text, in hexadecimal.
pub fn of_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Short form for people.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
