// SPDX-License-Identifier: MIT OR Apache-2.0
//! A root file system with Debian packages: apt with private state resolves and downloads them, each
//! is unpacked, and mke2fs writes the folder into an image. No package script is run, so this needs
//! no root, no name space and no working copy of the packages' own machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::build::artefact;
use crate::doctor;
use crate::sources::debian::{own_entries, stanzas, Apt};
use crate::sources::PackageKind;
use crate::toolchain::find_program;
use fpt_kit::{hash, store, Cmd, Ctx, Fail, Result, Stage, Steps};

const KIND: &str = "image";
/// To be raised when the way of making changes.
const RECIPE: &str = "2";
/// In every image: programs of packages call system(3).
const ALWAYS: [&str; 1] = ["dash"];
/// An empty folder of packages.
const NOTHING: &str = "nothing";
/// How long an image is used before the archive is asked for newer packages.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
/// What no program needs at run time.
const PRUNED: [&str; 9] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/i18n",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/doc-base",
    "usr/include",
];

/// One package file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Deb {
    file: String,
    sha256: String,
}

/// What a list of packages became.
#[derive(Debug, Serialize, Deserialize)]
struct Resolved {
    hash: String,
    debs: Vec<Deb>,
}

/// An ext4 image with `packages` and all that they depend on, kept by the hash of the versions. To be
/// attached as a virtio disk; `/workloads/in-image /dev/vda CMD...` runs CMD inside it.
///
/// # Errors
/// If a name is no package, the archive has no such package or cannot be reached and no image was made
/// before, or a tool is missing.
pub fn image<S: AsRef<str>>(ctx: &Ctx, packages: &[S]) -> Result<PathBuf> {
    let mut wanted: BTreeSet<&str> = packages.iter().map(AsRef::as_ref).collect();
    if let Some(bad) = wanted.iter().find(|p| !is_package_name(p)) {
        return Err(Fail::usage(
            format!("'{bad}' is no Debian package"),
            "names have small letters, digits, '+', '-' and '.'",
            "give names as `apt-cache search` prints them",
        ));
    }
    wanted.extend(ALWAYS);
    let wanted: Vec<&str> = wanted.into_iter().collect();
    let list = wanted.join(" ");
    let stanzas = stanzas(&own_entries()?, None, PackageKind::Binary);
    let mut inputs = hash::Inputs::new();
    let key = inputs
        .text("recipe", RECIPE)
        .text("packages", &list)
        .text("archive", &stanzas.join("\n"))
        .finish();
    let index = ctx
        .cache
        .join("images")
        .join(format!("{}.json", hash::short(&key)));
    if let Some(image) = known(ctx, &index, Some(FRESH)) {
        return Ok(image);
    }
    doctor::require(ctx, doctor::For::Image)?;
    let mke2fs = find_program("mke2fs").unwrap_or_else(|| "mke2fs".into());
    let _lock = (!ctx.dry_run).then(|| store::lock(ctx, KIND)).transpose()?;
    if let Some(image) = known(ctx, &index, Some(FRESH)) {
        return Ok(image);
    }
    let stage = ctx
        .ui
        .stage(&format!("make an image with {}", packages_of(packages)));
    let log = ctx.log_dir().join("image.log");
    let apt = Private::new(Apt::new(ctx, KIND, &stanzas)?, ctx)?;
    if let Err(error) = apt.0.update(ctx, &stage, &log) {
        // Offline, an old image is better than none.
        let Some(image) = known(ctx, &index, None) else {
            return Err(error);
        };
        ctx.ui
            .warn("the archive cannot be reached: the image that was made before is used");
        stage.done("as it was");
        return Ok(image);
    }
    if ctx.dry_run {
        ctx.step(&stage, &log, &apt.install(&["--download-only"], &wanted))?;
        stage.done("dry run");
        return Ok(artefact::dir(ctx, KIND, "dry-run").join("image.ext4"));
    }
    let debs = apt.download(ctx, &stage, &log, &wanted)?;
    let mut inputs = hash::Inputs::new();
    inputs.text("recipe", RECIPE);
    for deb in &debs {
        inputs.text(&deb.file, &deb.sha256);
    }
    let hash = inputs.finish();
    let made = image_of(ctx, &hash);
    let how = if made.is_file() {
        "up to date".to_string()
    } else {
        let mut meta = artefact::Meta::new();
        meta.insert("packages".into(), list);
        meta.insert(
            "files".into(),
            debs.iter()
                .map(|d| d.file.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        );
        artefact::create(ctx, KIND, &hash, &meta, |dir| {
            let steps = Steps {
                ctx,
                stage: &stage,
                log: &log,
            };
            apt.make(steps, &mke2fs, &debs, &hash, dir)
        })?;
        let bytes = made.metadata().map_or(0, |m| m.len());
        format!("{} packages, {} MB", debs.len(), bytes / 1_000_000)
    };
    store::write_atomic(
        &index,
        serde_json::to_string_pretty(&Resolved { hash, debs })?.as_bytes(),
    )?;
    stage.done(&how);
    Ok(made)
}

fn packages_of<S: AsRef<str>>(packages: &[S]) -> String {
    packages
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}

/// An image that was made for this list before, if it is not older than `limit`.
fn known(ctx: &Ctx, index: &Path, limit: Option<Duration>) -> Option<PathBuf> {
    let text = std::fs::read_to_string(index).ok()?;
    let age = SystemTime::now().duration_since(index.metadata().ok()?.modified().ok()?);
    if limit.is_some_and(|l| age.is_ok_and(|a| a > l)) {
        return None;
    }
    let resolved: Resolved = serde_json::from_str(&text).ok()?;
    artefact::find(ctx, KIND, &resolved.hash)?;
    let image = image_of(ctx, &resolved.hash);
    image.is_file().then_some(image)
}

/// The file says by its name what is in it.
fn file_name(hash: &str) -> String {
    format!("{}.ext4", hash::short(hash))
}

fn image_of(ctx: &Ctx, hash: &str) -> PathBuf {
    artefact::dir(ctx, KIND, hash).join(file_name(hash))
}

/// Debian policy 5.6.1.
fn is_package_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() >= 2
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.".contains(c))
}

/// apt with private state and no package installed, so that it resolves all dependencies.
struct Private(Apt);

impl Private {
    fn new(apt: Apt, ctx: &Ctx) -> Result<Private> {
        if !ctx.dry_run {
            store::write_if_changed(&apt.dir.join("status"), b"")?;
            store::make_dir(&apt.dir.join(NOTHING).join("partial"))?;
        }
        Ok(Private(apt))
    }

    fn install(&self, options: &[&str], packages: &[&str]) -> Cmd {
        self.0
            .cmd("apt-get")
            .arg("-o")
            .arg(format!(
                "Dir::State::status={}",
                self.0.dir.join("status").display()
            ))
            .args([
                "-o",
                "Debug::NoLocking=1",
                "--yes",
                "--no-install-recommends",
            ])
            .args(options)
            .arg("install")
            .args(packages)
    }

    /// The package files that apt would install, sorted by name.
    fn resolve(&self, packages: &[&str]) -> Result<Vec<String>> {
        // apt does not name files that it has downloaded before.
        let archives = format!(
            "Dir::Cache::Archives={}",
            self.0.dir.join(NOTHING).display()
        );
        let out = self
            .install(&["--print-uris", "-o", &archives], packages)
            .output()?;
        if !out.status.success() {
            let why = out
                .stderr
                .lines()
                .find(|l| l.starts_with("E: "))
                .unwrap_or("apt gave no reason")
                .trim_start_matches("E: ")
                .to_string();
            return Err(Fail::infra(
                format!("apt cannot resolve {}", packages.join(", ")),
                why,
                "correct the name, or the apt sources of this machine",
            ));
        }
        let mut files = parse_uris(&out.stdout)
            .and_then(|files| {
                if files.is_empty() {
                    Err("no file at all".into())
                } else {
                    Ok(files)
                }
            })
            .map_err(|line| {
                Fail::infra(
                    format!(
                        "cannot tell which files apt takes for {}",
                        packages.join(", ")
                    ),
                    format!("its output has: {line}"),
                    "look at `apt-get --print-uris install` of these packages",
                )
            })?;
        files.sort();
        Ok(files)
    }

    /// Gets what is not there yet; apt checks signatures and hashes.
    fn download(
        &self,
        ctx: &Ctx,
        stage: &Stage,
        log: &Path,
        packages: &[&str],
    ) -> Result<Vec<Deb>> {
        let files = self.resolve(packages)?;
        ctx.step(stage, log, &self.install(&["--download-only"], packages))?;
        files
            .into_iter()
            .map(|file| {
                let sha256 = hash::of_file(&self.deb(&file))?;
                Ok(Deb { file, sha256 })
            })
            .collect()
    }

    fn deb(&self, file: &str) -> PathBuf {
        self.0.dir.join("cache/archives").join(file)
    }

    fn make(
        &self,
        steps: Steps,
        mke2fs: &Path,
        debs: &[Deb],
        hash: &str,
        dir: &Path,
    ) -> Result<()> {
        let root = dir.join("root");
        store::make_dir(&root)?;
        for deb in debs {
            let file = self.deb(&deb.file);
            steps.stage.line(&deb.file);
            Cmd::new("dpkg-deb")
                .arg("-x")
                .arg(&file)
                .arg(&root)
                .read()?;
        }
        for dir in ["bin", "sbin", "lib", "lib64"] {
            merge_usr(&root, dir)?;
        }
        for dir in PRUNED {
            let dir = root.join(dir);
            if dir.is_dir() {
                std::fs::remove_dir_all(&dir)
                    .with_context(|| format!("cannot remove {}", dir.display()))?;
            }
        }
        finish_root(&root)?;
        let image = dir.join(file_name(hash));
        // A file of holes: only what is written takes space.
        let blocks = blocks_for(&root)?;
        let uuid = uuid_of(hash);
        let cmd = Cmd::new(mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"])
            // Read-only, and the same bytes for the same packages.
            .args([
                "-O",
                "^has_journal,^metadata_csum_seed,^orphan_file",
                "-U",
                &uuid,
            ])
            .args([
                "-E",
                &format!("hash_seed={uuid},root_owner=0:0,lazy_itable_init=0"),
            ])
            .arg("-d")
            .arg(&root)
            .arg(&image)
            .arg(blocks.to_string())
            .env("E2FSPROGS_FAKE_TIME", "1700000000")
            .env("SOURCE_DATE_EPOCH", "1700000000");
        steps.run(&cmd)?;
        std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
    }
}

/// File names in the lines `'URI' FILE SIZE [HASH]` of `apt-get --print-uris`; the first line that is
/// otherwise, as an error.
fn parse_uris(text: &str) -> Result<Vec<String>, String> {
    text.lines()
        .filter(|l| l.starts_with('\''))
        .map(|l| match l.split_whitespace().nth(1) {
            Some(file) if file.ends_with(".deb") && !file.contains('/') => Ok(file.to_string()),
            _ => Err(l.to_string()),
        })
        .collect()
}

/// Moves `root/dir` into `root/usr/dir` and leaves a link: packages of both layouts find each other.
fn merge_usr(root: &Path, dir: &str) -> Result<()> {
    let (old, new) = (root.join(dir), root.join("usr").join(dir));
    if old.is_symlink() {
        return Ok(());
    }
    store::make_dir(&new)?;
    if old.is_dir() {
        merge(&old, &new)?;
    }
    std::os::unix::fs::symlink(format!("usr/{dir}"), &old)
        .with_context(|| format!("cannot create {}", old.display()))
}

fn merge(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot move {} to {}", from.display(), to.display());
    for entry in std::fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let both_folders = entry.file_type().with_context(failed)?.is_dir()
            && new.symlink_metadata().is_ok_and(|m| m.is_dir());
        if both_folders {
            merge(&old, &new)?;
        } else {
            std::fs::rename(&old, &new).with_context(failed)?;
        }
    }
    std::fs::remove_dir(from).with_context(failed)
}

/// What the packages' scripts would have made, as far as programs need it.
fn finish_root(root: &Path) -> Result<()> {
    let failed = || format!("cannot write to {}", root.display());
    for dir in [
        "proc",
        "sys",
        "dev",
        "tmp",
        "run",
        "workloads",
        "etc",
        "root",
        "var/tmp",
    ] {
        store::make_dir(&root.join(dir))?;
    }
    for (name, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nuser:x:1000:\n"),
        ("etc/hosts", "127.0.0.1 localhost fpt\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
    ] {
        std::fs::write(root.join(name), text).with_context(failed)?;
    }
    let sh = root.join("usr/bin/sh");
    if sh.symlink_metadata().is_err() {
        std::os::unix::fs::symlink("dash", &sh).with_context(failed)?;
    }
    Ok(())
}

/// 4 KiB blocks for the folder's files with room for the file system's own.
fn blocks_for(root: &Path) -> Result<u64> {
    let (mut blocks, mut files) = (0, 0);
    for file in hash::files_below(root)? {
        let meta = root
            .join(&file)
            .symlink_metadata()
            .with_context(|| format!("cannot read {}", file.display()))?;
        blocks += meta.len().div_ceil(4096);
        files += 1;
    }
    // Inodes take 256 bytes; folders a block each, of which there are fewer than files.
    Ok(blocks + blocks / 16 + files / 2 + 8192)
}

/// Any 128 bits of the hash, spelled as a UUID.
fn uuid_of(hash: &str) -> String {
    let h: String = hash
        .chars()
        .chain(std::iter::repeat('0'))
        .take(32)
        .collect();
    format!(
        "{}-{}-{}-{}-{}",
        &h[..8],
        &h[8..12],
        &h[12..16],
        &h[16..20],
        &h[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["redis-server", "libstdc++6", "postgresql-15", "7zip"] {
            assert!(is_package_name(good), "{good}");
        }
        for bad in ["", "a", "-x", "Redis", "a b", "x;y", "../x", "--yes", "x=1"] {
            assert!(!is_package_name(bad), "{bad}");
        }
    }

    #[test]
    fn uris() {
        let good = "Reading package lists...\n\
            'http://m.example/pool/r/redis_7%3a1_amd64.deb' redis_7%3a1_amd64.deb 12 SHA256:ab\n";
        assert_eq!(
            parse_uris(good),
            Ok(vec!["redis_7%3a1_amd64.deb".to_string()])
        );
        for bad in [
            "'http://m.example/x' ../x.deb 12 SHA256:ab",
            "'http://m.example/x'",
        ] {
            assert_eq!(parse_uris(&format!("{good}{bad}\n")), Err(bad.to_string()));
        }
    }

    #[test]
    fn both_layouts_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (file, text) in [
            ("lib/x/a", "a"),
            ("usr/lib/x/b", "b"),
            ("lib/c", "c"),
            ("usr/bin/d", "d"),
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        for dir in ["bin", "lib"] {
            merge_usr(root, dir).unwrap();
            merge_usr(root, dir).unwrap();
        }
        for (file, text) in [
            ("lib/x/a", "a"),
            ("lib/x/b", "b"),
            ("usr/lib/c", "c"),
            ("bin/d", "d"),
        ] {
            assert_eq!(std::fs::read_to_string(root.join(file)).unwrap(), text);
        }
        finish_root(root).unwrap();
        assert!(blocks_for(root).unwrap() > 8192);
    }

    #[test]
    fn uuid() {
        assert_eq!(
            uuid_of(&"0123456789abcdef".repeat(4)),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
    }
}
