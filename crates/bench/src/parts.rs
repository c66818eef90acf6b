// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a matrix is made of: kernel, QEMU, simulator, its configuration, guest image, disk images.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::catalogue::{Kind, Workload};
use super::Args;
use fpt_formats::cell::Edges;
use fpt_formats::matrix::{Scale, Settings};
use fpt_kbuild::build::{self, artefact, Profile};
use fpt_kbuild::image;
use fpt_kit::{hash, Cmd, Ctx, Fail, Result};
use fpt_lab::parts::{self, Parts};

pub struct BenchParts {
    pub guest: Parts,
    pub plugin: PathBuf,
    pub plugin_hash: String,
    /// The simulator's configuration in other modes than radix, if it is another.
    pub config_of_others: Option<String>,
    /// Disk image of each workload that has one.
    pub images: BTreeMap<String, PathBuf>,
    /// What graph programs read, as a disk.
    pub edges: Option<PathBuf>,
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
pub fn config(args: &Args, preset: &str) -> Result<String> {
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
    let bad = |why: String| Fail::usage("the simulator's configuration is not right", why, "");
    if let (Some(path), Some(text)) = (&args.config, &text) {
        // Its own mistakes are told with its name.
        if let Err(e) = fpt_walksim_machine::config::resolve(preset, Some(text), &[]) {
            let line = line_of(text, &e.0).map_or(String::new(), |n| format!(":{n}"));
            return Err(bad(format!("{}{line}: {e}", path.display())));
        }
    }
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
    let config = fpt_walksim_machine::config::resolve(preset, text.as_deref(), &sets)
        .map_err(|e| bad(e.to_string()))?;
    Ok(config.to_toml())
}

/// The line of a configuration that has the key which a complaint names first in quotes.
fn line_of(text: &str, complaint: &str) -> Option<usize> {
    let key = complaint.split('\'').nth(1)?;
    let last = key.rsplit('.').next()?;
    let has = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix(last)
            .is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
            || line.starts_with(&format!("[{key}]"))
    };
    Some(text.lines().position(has)? + 1)
}

/// Without the computed organisations, which are looked at on radix's accesses only. `None`: as it is, since
/// organisations were chosen by hand or there is nothing to leave out.
fn real_only(settings: &Settings) -> Result<Option<String>> {
    if settings.all_organisations {
        return Ok(None);
    }
    let bad = |e: fpt_walksim_machine::config::ConfigError| {
        Fail::usage(
            "the simulator's configuration is not right",
            e.to_string(),
            "choose another --name",
        )
    };
    let mut config = fpt_walksim_machine::config::parse(&settings.config).map_err(bad)?;
    let usual = fpt_walksim_machine::config::resolve(&settings.preset, None, &[]).map_err(bad)?;
    if config.organisations != usual.organisations
        || !config.organisations.iter().any(|o| o == REAL)
    {
        return Ok(None);
    }
    config.organisations = vec![REAL.into()];
    Ok(Some(config.to_toml()))
}

const REAL: &str = "real";

/// Sizes in MiB of the images that these workloads need and that are not there yet, each once. (One that is
/// older than a week may be made anew.)
pub fn images_to_make(ctx: &Ctx, workloads: &[Workload], scale: Scale) -> Vec<u64> {
    let there = images_there(&ctx.cache.join("artefacts/image"));
    let mut sizes: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
    for w in workloads.iter().filter(|w| w.kind == Kind::Image) {
        let mut packages: Vec<&str> = w.packages.iter().map(String::as_str).collect();
        packages.sort_unstable();
        packages.dedup();
        let mib = w.scale.get(&scale).map_or(0, |s| s.disk_mib);
        if !there.iter().any(|t| made_of(t, &packages)) {
            let size = sizes.entry(packages).or_default();
            *size = (*size).max(mib);
        }
    }
    sizes.into_values().collect()
}

const SECTOR: u64 = 512;
const EDGES: &str = "edges";

/// The copy of a file of edges that is to be made, if QEMU cannot take the file itself: a disk has whole sectors.
fn edges_copy(ctx: &Ctx, edges: &Edges) -> Result<Option<PathBuf>> {
    let size = edges.file.metadata().map_err(|e| {
        Fail::usage(
            format!("cannot read {}", edges.file.display()),
            e.to_string(),
            "name an existing file with --edges",
        )
    })?;
    let copy = artefact::dir(ctx, EDGES, &edges.sha256).join(EDGES);
    Ok((size.len() % SECTOR != 0).then_some(copy))
}

/// Its size in MiB, if it is not there.
pub fn edges_to_copy(ctx: &Ctx, settings: &Settings) -> Result<Option<u64>> {
    let Some(edges) = &settings.edges else {
        return Ok(None);
    };
    let copy = edges_copy(ctx, edges)?.filter(|c| !c.is_file());
    Ok(copy.and_then(|_| Some((edges.file.metadata().ok()?.len() >> 20) + 1)))
}

/// The file as a disk, filled up with empty lines.
fn edges_disk(ctx: &Ctx, edges: &Edges) -> Result<PathBuf> {
    let Some(copy) = edges_copy(ctx, edges)?.filter(|_| !ctx.dry_run) else {
        return Ok(edges.file.clone());
    };
    if !copy.is_file() {
        artefact::create(ctx, EDGES, &edges.sha256, &artefact::Meta::new(), |dir| {
            let made = dir.join(EDGES);
            artefact::copy(&edges.file, &made)?;
            fill_up(&made).with_context(|| format!("cannot write {}", made.display()))
        })?;
    }
    Ok(copy)
}

fn fill_up(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    let rest = file.metadata()?.len() % SECTOR;
    if rest > 0 {
        file.write_all(&vec![b'\n'; (SECTOR - rest) as usize])?;
    }
    Ok(())
}

/// Lists of packages of the images in the cache.
fn images_there(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| std::fs::read_to_string(e.ok()?.path().join("meta.json")).ok())
        .filter_map(|text| serde_json::from_str::<artefact::Meta>(&text).ok())
        .filter_map(|mut meta| meta.remove("packages"))
        .collect()
}

/// Is that the list of an image with `packages` and what is in every image?
fn made_of(list: &str, packages: &[&str]) -> bool {
    let list: Vec<&str> = list.split(' ').collect();
    packages.iter().all(|p| list.contains(p)) && list.len() <= packages.len() + 1
}

pub fn build(ctx: &Ctx, workloads: &[Workload], settings: &Settings) -> Result<BenchParts> {
    let config_of_others = real_only(settings)?;
    let kernel = parts::kernel(ctx, Profile::Fpt)?;
    let qemu = parts::qemu(ctx, false)?;
    let plugin = match parts::named("FPT_WALKSIM", "simulator")? {
        Some(path) => path,
        None => build::plugin(ctx, "build the simulator", "walksim")?,
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
    let edges = settings.edges.as_ref();
    let edges = edges.map(|e| edges_disk(ctx, e)).transpose()?;
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
        config_of_others,
        images,
        edges,
        commit: commit(ctx),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_has_its_line() {
        let text = "# entriesx\n[tlb.stlb.small]\n  entriesx = 5\n";
        let of = |complaint: &str| line_of(text, complaint);
        assert_eq!(of("unknown key 'tlb.stlb.small.entriesx': did"), Some(3));
        assert_eq!(of("unknown key 'tlb.stlb.small': did"), Some(2));
        assert_eq!(of("unknown key 'x': did"), None);
        assert_eq!(of("not TOML"), None);
    }
}
