// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removes caches.

use std::path::Path;

use fpt_kit::{code, store, Ctx, ExitCode, Result};

/// Remove caches.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Build folders (artefacts stay)
    #[arg(long)]
    builds: bool,
    /// Finished kernels, QEMUs, selftests, simulators, workloads and guest images
    #[arg(long)]
    artefacts: bool,
    /// Fetched sources and unpacked trees
    #[arg(long)]
    sources: bool,
    /// Everything, installed helper tools included
    #[arg(long)]
    all: bool,
}

/// Without an option: build folders, artefacts, logs and leftovers of killed runs; fetched
/// sources and tools stay.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let chosen = args.builds || args.artefacts || args.sources;
    let mut names: Vec<&str> = Vec::new();
    if args.all || args.builds || !chosen {
        names.extend(["build", "init/target", "workloads/target", "logs", "tmp"]);
    }
    if args.all || args.artefacts || !chosen {
        // What was made of artefacts, or finds them, goes along.
        names.extend(["artefacts", "images", "init", "workloads"]);
    }
    if args.all || args.sources {
        names.extend(["sources", "trees", "apt"]);
    }
    if args.all {
        names.extend(["tools", "debs"]);
    }
    // Parts of what goes as a whole.
    let whole = names.clone();
    names.retain(|n| {
        n.split_once('/')
            .is_none_or(|(parent, _)| !whole.contains(&parent))
    });
    let mut freed = 0;
    // A build that runs now must not lose its folder.
    let _locks = if ctx.dry_run {
        Vec::new()
    } else {
        all_locks(ctx)?
    };
    for name in names {
        let dir = ctx.cache.join(name);
        if !dir.exists() {
            continue;
        }
        let bytes = size(&dir);
        if ctx.dry_run {
            ctx.ui
                .command(&fpt_kit::Cmd::new("rm").args(["-rf", "--"]).arg(&dir));
        } else {
            std::fs::remove_dir_all(&dir).map_err(|e| {
                anyhow::Error::new(e).context(format!("cannot remove {}", dir.display()))
            })?;
            fpt_kit::say!("\n", "removed {} ({} MB)", dir.display(), bytes / 1_000_000);
        }
        freed += bytes;
    }
    fpt_kit::say!(
        "\n",
        "{} MB {}",
        freed / 1_000_000,
        if ctx.dry_run {
            "would be freed"
        } else {
            "freed"
        }
    );
    Ok(code::OK)
}

fn all_locks(ctx: &Ctx) -> Result<Vec<store::Lock>> {
    let mut out = Vec::new();
    let Ok(entries) = std::fs::read_dir(ctx.cache.join("locks")) else {
        return Ok(out);
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| {
            e.file_name()
                .to_string_lossy()
                .strip_suffix(".lock")
                .map(str::to_string)
        })
        .collect();
    names.sort();
    for name in names {
        out.push(store::lock(ctx, &name)?);
    }
    Ok(out)
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => size(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
