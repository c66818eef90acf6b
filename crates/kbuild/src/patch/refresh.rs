// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commits of a tree back to patch files.

use std::fs;
use std::path::{Path, PathBuf};

use super::queue::{self, Queue};
use crate::sources::{self, git, Project};
use fpt_kit::{code, proc, store, Ctx, ExitCode, Fail, Result};

pub fn refresh(
    ctx: &Ctx,
    project: Project,
    tree: Option<PathBuf>,
    from: Option<String>,
) -> Result<ExitCode> {
    let dir = match tree {
        Some(dir) => dir,
        None => sources::tree_dir(ctx, project, &sources::planned(ctx, project)?),
    };
    if !dir.join(".git").exists() {
        return Err(Fail::usage(
            format!("{} is not a git work tree", dir.display()),
            "",
            format!("`cargo xtask patch apply {}` makes one", project.name()),
        ));
    }
    let dirty = super::edits(&dir)?;
    if !dirty.is_empty() {
        return Err(Fail::usage(
            format!("{} has edits that are not committed", dir.display()),
            dirty.join(", "),
            "commit them first",
        ));
    }
    let from = match from {
        Some(from) => from,
        None => first(&dir)?,
    };
    let queue_dir = project.queue_dir(&ctx.root);
    let tmp = tempfile::tempdir_in(store_dir(ctx)?)?;
    let _guard = proc::remove_on_exit(tmp.path());
    let new = export(&dir, &from, "HEAD", tmp.path())?;
    if new.is_empty() {
        return Err(Fail::usage(
            format!("no commit in {from}..HEAD of {}", dir.display()),
            "",
            "--from names the commit before the first patch",
        ));
    }
    let series = queue_dir.join("series");
    let old = fs::read_to_string(&series).unwrap_or_default();
    let mut changed = 0;
    for name in queue::names(&old).filter(|n| !new.iter().any(|m| m == n)) {
        changed += 1;
        fpt_kit::say!("\n", "- {name}");
        if !ctx.dry_run {
            let _ = fs::remove_file(queue_dir.join(name));
        }
    }
    for name in &new {
        let data = fs::read(tmp.path().join(name))?;
        let path = queue_dir.join(name);
        let sign = if path.exists() { "~" } else { "+" };
        if fs::read(&path).is_ok_and(|o| o == data) {
            continue;
        }
        changed += 1;
        fpt_kit::say!("\n", "{sign} {name}");
        if !ctx.dry_run {
            store::write_atomic(&path, &data)?;
        }
    }
    if !ctx.dry_run {
        store::write_if_changed(&series, queue::rewrite_series(&old, &new).as_bytes())?;
    }
    fpt_kit::say!("\n", "{project}: {} patches, {changed} changed", new.len());
    if !ctx.dry_run {
        // The queue now names what stands there.
        Queue::load(&ctx.root, project)?;
        let own = sources::tree_dir(ctx, project, &sources::planned(ctx, project)?);
        if own == dir {
            git(&dir)
                .args(["update-ref", "refs/fpt/exported", "HEAD"])
                .read()?;
        }
    }
    Ok(code::OK)
}

pub(super) fn store_dir(ctx: &Ctx) -> Result<PathBuf> {
    let dir = ctx.cache.join("tmp");
    store::make_dir(&dir)?;
    Ok(dir)
}

fn first(dir: &Path) -> Result<String> {
    if let Ok(base) = super::rev(dir, "refs/tags/base") {
        return Ok(base);
    }
    let roots = git(dir)
        .args(["rev-list", "--max-parents=0", "HEAD"])
        .read()?;
    Ok(roots.lines().next().unwrap_or("").to_string())
}

/// Patch files of `from..to` in `out`, the same bytes on every machine; their names in order.
pub(super) fn export(dir: &Path, from: &str, to: &str, out: &Path) -> Result<Vec<String>> {
    let text = git(dir)
        .args([
            "format-patch",
            "--zero-commit",
            "--no-signature",
            "--no-numbered",
            "--no-base",
            "--no-color",
            "--abbrev=12",
            "--find-renames",
            "--diff-algorithm=myers",
            "--stat=72",
            "--filename-max-length=64",
            "-o",
        ])
        .arg(out)
        .arg(format!("{from}..{to}"))
        .read()?;
    Ok(text
        .lines()
        .filter_map(|l| Path::new(l).file_name())
        .map(|n| n.to_string_lossy().into_owned())
        .collect())
}
