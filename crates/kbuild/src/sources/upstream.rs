// SPDX-License-Identifier: MIT OR Apache-2.0
//! The upstream provider: a tarball by path or URL, accepted only with the right hash. A
//! download that stops half-way is kept under another name and continued.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Base, Project, Source};
use fpt_kit::{hash, store, Cmd, Ctx, Fail, Result};

pub fn fetch(ctx: &Ctx, project: Project, base: &Base, from: &str, sha256: &str) -> Result<Source> {
    let sha256 = sha256.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Fail::usage(
            "--sha256 is not a SHA-256 hash",
            "it has 64 hexadecimal digits",
            "copy it from the project's signed list of checksums",
        ));
    }
    let name = file_name(from)?;
    let release = release_in(&name);
    if !base.accepts(&release) {
        return Err(Fail::usage(
            format!("'{name}' is not a {project} {} tarball", base.line),
            if release.is_empty() {
                "its name holds no release".to_string()
            } else {
                format!("it is release {release}")
            },
            format!("give one such as {}-{}.tar.xz", project.name(), base.tested),
        ));
    }
    let dir = super::source_dir(ctx, project);
    let target = dir.join(&sha256).join(&name);
    let source = Source {
        provider: "upstream".into(),
        version: release.clone(),
        release,
        file: target.clone(),
        sha256: sha256.clone(),
    };
    let stage = ctx.ui.stage(&format!("fetch {name}"));
    if target.is_file() {
        stage.done("in the cache");
        return Ok(source);
    }
    let part = dir.join(format!("{}.part", hash::short(&sha256)));
    let log = ctx.log_dir().join(format!("fetch-{}.log", project.name()));
    if !ctx.dry_run {
        store::make_dir(&dir)?;
    }
    let local = local_path(from);
    let cmd = match &local {
        Some(path) => Cmd::new("cp").arg("--").arg(path).arg(&part),
        None => Cmd::new("curl")
            .args(["--fail", "--location", "--silent", "--show-error"])
            .args(["--retry", "3", "--continue-at", "-", "--output"])
            .arg(&part)
            .arg(from),
    };
    ctx.step(&stage, &log, &cmd)?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(source);
    }
    let got = hash::of_file(&part)?;
    if got != sha256 {
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        return Err(Fail::infra(
            format!("{name} is not the expected file"),
            format!("sha256 {got}, expected {sha256}"),
            "it was removed; check the hash and the address and fetch again",
        ));
    }
    store::make_dir(target.parent().unwrap_or(Path::new(".")))?;
    fs::rename(&part, &target).with_context(|| format!("cannot create {}", target.display()))?;
    stage.done("sha256 right");
    Ok(source)
}

fn local_path(from: &str) -> Option<PathBuf> {
    (!from.contains("://")).then(|| PathBuf::from(from))
}

fn file_name(from: &str) -> Result<String> {
    let last = from.rsplit('/').next().unwrap_or("");
    let last = last.split(['?', '#']).next().unwrap_or("");
    if last.is_empty() || !last.contains(".tar") {
        return Err(Fail::usage(
            format!("'{from}' does not name a tarball"),
            "",
            "give the path or URL of a .tar.xz or .tar.gz",
        ));
    }
    if let Some(path) = local_path(from).filter(|p| !p.is_file()) {
        return Err(Fail::usage(
            format!("no file {}", path.display()),
            "",
            "give the path or URL of a tarball",
        ));
    }
    Ok(last.to_string())
}

/// `linux-6.12.5.tar.xz` to `6.12.5`.
fn release_in(name: &str) -> String {
    let stem = name.split(".tar").next().unwrap_or("");
    let at = stem
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(stem.len());
    super::release_of(stem.get(at..).unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(release_in("linux-6.12.5.tar.xz"), "6.12.5");
        assert_eq!(release_in("qemu-10.0.2.tar.bz2"), "10.0.2");
        assert_eq!(release_in("linux.tar.xz"), "");
        assert_eq!(
            file_name("http://h.example/a/linux-6.12.tar.gz?x=1")
                .ok()
                .as_deref(),
            Some("linux-6.12.tar.gz")
        );
        assert!(file_name("http://h.example/").is_err());
        assert!(file_name("nowhere/linux-6.12.tar.xz").is_err());
    }
}
