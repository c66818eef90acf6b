// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a matrix is made of: kernel, QEMU, simulator, its configuration, guest image, disk images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::catalogue::{Kind, Workload};
use super::Args;
use crate::api::{hash, Cmd, Ctx, Fail, Result};
use crate::build::{self, artefact, Profile};
use crate::guest::parts::{self, Parts};
use crate::image;

pub struct BenchParts {
    pub guest: Parts,
    pub plugin: PathBuf,
    pub plugin_hash: String,
    /// Complete configuration of the simulator, TOML.
    pub config: String,
    /// Disk image of each workload that has one.
    pub images: BTreeMap<String, PathBuf>,
    /// Commit of the checkout, if it is one.
    pub commit: String,
}

impl BenchParts {
    /// An image is in a folder that is named by its content.
    pub fn image_hash(&self, workload: &str) -> String {
        self.images
            .get(workload)
            .and_then(|p| p.parent()?.file_name())
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// The simulator's configuration: preset, then `--config`, then each `--set`.
pub fn config(args: &Args) -> Result<String> {
    let text = match &args.config {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| {
            Fail::usage(
                format!("cannot read {}", path.display()),
                e.to_string(),
                "name an existing file with --config",
            )
        })?),
    };
    let mut sets = Vec::new();
    for set in &args.set {
        let Some((key, value)) = set.split_once('=') else {
            return Err(Fail::usage(
                format!("--set {set} sets nothing"),
                "there is no = in it",
                "for example --set cycles.memory=200",
            ));
        };
        sets.push((key.trim().to_string(), value.trim().to_string()));
    }
    let config =
        fpt_walksim_model::config::resolve(&args.preset, text.as_deref(), &sets).map_err(|e| {
            Fail::usage(
                "the simulator's configuration is not right",
                e.to_string(),
                "",
            )
        })?;
    Ok(config.to_toml())
}

pub fn build(ctx: &Ctx, workloads: &[Workload], config: &str) -> Result<BenchParts> {
    let kernel = parts::kernel(ctx, Profile::Fpt)?;
    let qemu = parts::qemu(ctx, false)?;
    let plugin = match parts::named("FPT_WALKSIM", "simulator")? {
        Some(path) => path,
        None => plugin(ctx)?,
    };
    let programs = match std::env::var_os("FPT_INITRD") {
        Some(_) => Vec::new(),
        None => image::programs(ctx)?,
    };
    for w in workloads {
        let there = programs.is_empty() || programs.iter().any(|(name, _)| *name == w.binary);
        if !there {
            return Err(Fail::usage(
                format!("workload '{}' names binary '{}'", w.name, w.binary),
                "the workloads crate has none of this name",
                "correct workloads/workloads.toml",
            ));
        }
    }
    let root = parts::image(ctx, |tree| {
        for (name, path) in &programs {
            tree.file(&format!("workloads/{name}"), path)?;
        }
        Ok(())
    })?;
    let mut images = BTreeMap::new();
    for w in workloads.iter().filter(|w| w.kind == Kind::Image) {
        let packages: Vec<&str> = w.packages.iter().map(String::as_str).collect();
        images.insert(w.name.clone(), image::image(ctx, &packages)?);
    }
    let plugin_hash = if ctx.dry_run && !plugin.is_file() {
        String::new()
    } else {
        hash::of_file(&plugin)?
    };
    Ok(BenchParts {
        guest: Parts {
            kernel,
            qemu,
            image: root,
        },
        plugin,
        plugin_hash,
        config: config.to_string(),
        images,
        commit: commit(ctx),
    })
}

/// The simulator: a shared object for QEMU.
fn plugin(ctx: &Ctx) -> Result<PathBuf> {
    let target = build::cargo(
        ctx,
        "build the simulator",
        &[
            "build",
            "--profile",
            "plugin",
            "--locked",
            "-p",
            "fpt-walksim",
        ],
        &[],
    )?;
    let built = target.join("plugin/libfpt_walksim.so");
    if ctx.dry_run {
        return Ok(built);
    }
    // Guests load it one after the other, and someone may build another meanwhile.
    let hash = hash::of_file(&built)?;
    let kept = artefact::dir(ctx, "walksim", &hash).join("libfpt_walksim.so");
    if !kept.is_file() {
        artefact::create(ctx, "walksim", &hash, &artefact::Meta::new(), |dir| {
            artefact::copy(&built, &dir.join("libfpt_walksim.so"))
        })?;
    }
    Ok(kept)
}

fn commit(ctx: &Ctx) -> String {
    let git = |args: &[&str]| Cmd::new("git").args(args).cwd(&ctx.root).output().ok();
    let Some(head) = git(&["rev-parse", "HEAD"]).filter(|o| o.status.success()) else {
        return String::new();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|o| !o.stdout.trim().is_empty());
    format!(
        "{}{}",
        head.stdout.trim(),
        if changed { "+changes" } else { "" }
    )
}
