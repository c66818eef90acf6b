// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of `workloads/`, static, so that they run in any guest.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Context as _;

use fpt_kit::{hash, store, Cmd, Ctx, Result, Work};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PACKAGE: &str = "fpt-workloads";
/// To be raised when the way of building changes.
const RECIPE: &str = "1";
/// A build from nothing: it took 4 minutes of two CPUs with other work.
pub const WORK: Work = Work::seconds(500);

/// Name and file of each program of `workloads/src/bin`, built if need be and kept by the hash of
/// their sources.
///
/// # Errors
/// If the build fails.
pub fn programs(ctx: &Ctx) -> Result<Vec<(String, PathBuf)>> {
    let source = ctx.root.join("workloads");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut inputs = hash::Inputs::new();
    inputs
        .text("recipe", RECIPE)
        .file("Cargo.lock", &ctx.root.join("Cargo.lock"))?
        .file("Cargo.toml", &source.join("Cargo.toml"))?
        .tree("src", &source.join("src"))?
        .text("rustc", &ctx.read(&Cmd::new(&rustc).arg("-Vv"))?);
    let hash = inputs.finish();
    let done = ctx.cache.join("workloads").join(hash::short(&hash));
    let names = names(&source.join("src/bin"))?;
    let list = names.iter().map(|n| (n.clone(), done.join(n))).collect();
    if done.is_dir() {
        return Ok(list);
    }
    let _lock = (!ctx.dry_run)
        .then(|| store::lock(ctx, "workloads"))
        .transpose()?;
    if done.is_dir() {
        return Ok(list);
    }
    let target = ctx.cache.join("workloads/target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Named target: else the flags would reach build scripts and procedural macros, which cannot be static.
    let cmd = Cmd::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            PACKAGE,
            "--bins",
        ])
        .args(["--target", TARGET, "--jobs"])
        .arg(ctx.jobs.to_string())
        .arg("--target-dir")
        .arg(&target)
        .cwd(&ctx.root)
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C panic=abort -C strip=symbols",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    let made = target.join(TARGET).join("release");
    let stage = ctx.ui.stage(&WORK.title(ctx, "build the workloads", &made));
    ctx.step(&stage, &ctx.log_dir().join("workloads.log"), &cmd)?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(list);
    }
    let new = store::NewDir::new(&done)?;
    for name in &names {
        let built = target.join(TARGET).join("release").join(name);
        let to = new.path().join(name);
        std::fs::copy(&built, &to).with_context(|| format!("cannot copy {}", built.display()))?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot change {}", to.display()))?;
    }
    new.commit()?;
    stage.done(&format!("{} programs", names.len()));
    Ok(list)
}

/// Cargo makes one program of each file here.
fn names(dir: &std::path::Path) -> Result<Vec<String>> {
    let mut out: Vec<String> = std::fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter_map(|n| n.strip_suffix(".rs").map(str::to_string))
        .collect();
    out.sort();
    Ok(out)
}
