// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finished results, kept by the hash of what they were made from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use fpt_kit::{store, Ctx, Result};

/// Facts about an artefact, kept beside it.
pub type Meta = BTreeMap<String, String>;

/// Artefacts of one kind that are kept when new ones come.
const KEEP: usize = 8;

/// The folder in the cache of what has this kind and this hash.
pub fn dir(ctx: &Ctx, kind: &str, hash: &str) -> PathBuf {
    ctx.cache.join("artefacts").join(kind).join(hash)
}

/// The facts of a finished artefact, if it is there.
pub fn find(ctx: &Ctx, kind: &str, hash: &str) -> Option<Meta> {
    let dir = dir(ctx, kind, hash);
    let text = fs::read_to_string(dir.join("meta.json")).ok()?;
    let meta = serde_json::from_str(&text).ok()?;
    match damaged(&dir) {
        None => Some(meta),
        Some(file) => {
            ctx.ui.warn(&format!(
                "{} is not as it was built; it is built again",
                file.display()
            ));
            if !ctx.dry_run {
                // What is left would stand in the way of its successor.
                let _ = fs::remove_dir_all(&dir);
            }
            None
        }
    }
}

/// The folder of [`remember`], below that of a kind.
const OF: &str = ".of";

/// Notes which artefact came of `inputs`, the hash of everything but the tools: a machine without compilers finds it by
/// that. A cache that cannot be written to keeps what it has.
pub fn remember(ctx: &Ctx, kind: &str, inputs: &str, hash: &str) {
    let note = ctx.cache.join("artefacts").join(kind).join(OF).join(inputs);
    if !ctx.dry_run && !fs::read_to_string(&note).is_ok_and(|old| old == hash) {
        let _ = store::write_atomic(&note, hash.as_bytes());
    }
}

/// The hash of the artefact that came of `inputs` last.
pub fn recall(ctx: &Ctx, kind: &str, inputs: &str) -> Option<String> {
    let note = ctx.cache.join("artefacts").join(kind).join(OF).join(inputs);
    fs::read_to_string(note)
        .ok()
        .filter(|hash| !hash.is_empty())
}

/// The file that says how long each file of an artefact is.
const SIZES: &str = "sizes.json";

/// Paths below the artefact's folder, and the bytes of each file.
type Sizes = BTreeMap<PathBuf, u64>;

fn sizes(dir: &Path) -> Result<Sizes> {
    fn walk(root: &Path, dir: &Path, out: &mut Sizes) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                walk(root, &path, out)?;
            } else if kind.is_file() {
                let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
                out.insert(name, entry.metadata()?.len());
            }
        }
        Ok(())
    }
    let mut out = Sizes::new();
    walk(dir, dir, &mut out).with_context(|| format!("cannot list {}", dir.display()))?;
    Ok(out)
}

/// A file that is shorter or longer than it was, or gone. An artefact from before sizes were kept has none.
fn damaged(dir: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(dir.join(SIZES)).ok()?;
    let sizes: Sizes = serde_json::from_str(&text).unwrap_or_default();
    let wrong = |(name, len): &(&PathBuf, &u64)| {
        let now = dir.join(name).metadata().map(|m| m.len());
        !now.is_ok_and(|now| now == **len)
    };
    if sizes.is_empty() {
        return Some(dir.join(SIZES));
    }
    sizes.iter().find(wrong).map(|(name, _)| dir.join(name))
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
    let sizes = serde_json::to_string(&sizes(new.path())?)?;
    store::write_atomic(&new.path().join(SIZES), sizes.as_bytes())?;
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

/// Copies a file, the folders above it made.
///
/// # Errors
///
/// The error names both files.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artefact_is_found_by_its_sources() {
        let dir = tempfile::tempdir().expect("a folder");
        let ctx = Ctx::new(dir.path(), dir.path().join("cache"));
        assert_eq!(recall(&ctx, "kernel", "a"), None);
        remember(&ctx, "kernel", "a", "1");
        remember(&ctx, "kernel", "b", "2");
        remember(&ctx, "kernel", "a", "3");
        assert_eq!(recall(&ctx, "kernel", "a").as_deref(), Some("3"));
        assert_eq!(recall(&ctx, "qemu", "a"), None);
        let kept = create(&ctx, "kernel", "3", &Meta::new(), |_| Ok(())).expect("made");
        assert!(kept.is_dir());
        assert_eq!(recall(&ctx, "kernel", "b").as_deref(), Some("2"));
    }

    #[test]
    fn a_file_that_was_cut_off_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        fs::create_dir(dir.join("sub")).expect("made");
        fs::write(dir.join("sub/vmlinux"), "12345").expect("written");
        assert_eq!(damaged(dir), None, "from before sizes were kept");
        let text = serde_json::to_string(&sizes(dir).expect("listed")).expect("JSON");
        fs::write(dir.join(SIZES), text).expect("written");
        assert_eq!(damaged(dir), None);
        fs::write(dir.join("sub/vmlinux"), "123").expect("written");
        assert_eq!(damaged(dir), Some(dir.join("sub/vmlinux")));
        fs::remove_file(dir.join("sub/vmlinux")).expect("removed");
        assert_eq!(damaged(dir), Some(dir.join("sub/vmlinux")));
    }
}
