// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finished results, kept by the hash of what they were made from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::api::{store, Ctx, Result};

/// Facts about an artefact, kept beside it.
pub type Meta = BTreeMap<String, String>;

/// Artefacts of one kind that are kept when new ones come.
const KEEP: usize = 8;

pub fn dir(ctx: &Ctx, kind: &str, hash: &str) -> PathBuf {
    ctx.cache.join("artefacts").join(kind).join(hash)
}

/// The facts of a finished artefact, if it is there.
pub fn find(ctx: &Ctx, kind: &str, hash: &str) -> Option<Meta> {
    let text = fs::read_to_string(dir(ctx, kind, hash).join("meta.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Fill a folder through `make` and give it the name of its hash; whole or not at all.
pub fn create(
    ctx: &Ctx,
    kind: &str,
    hash: &str,
    meta: &Meta,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let target = dir(ctx, kind, hash);
    let new = store::NewDir::new(&target)?;
    make(new.path())?;
    store::write_atomic(
        &new.path().join("meta.json"),
        serde_json::to_string_pretty(meta)?.as_bytes(),
    )?;
    let out = new.commit()?;
    prune(&ctx.cache.join("artefacts").join(kind), &target);
    Ok(out)
}

/// Keep the newest few. Failing to remove an old one is no reason to fail the build.
fn prune(parent: &Path, keep: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    let mut dirs: Vec<_> = entries
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .filter(|(_, p)| p != keep)
        .collect();
    dirs.sort();
    let excess = (dirs.len() + 1).saturating_sub(KEEP);
    for (_, path) in dirs.into_iter().take(excess) {
        let _ = fs::remove_dir_all(path);
    }
}

pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
