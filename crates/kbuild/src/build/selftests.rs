// SPDX-License-Identifier: MIT OR Apache-2.0
//! The selftests of the kernel's own tree, and ours beside them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::artefact::{self, Meta};
use super::{kernel, Compiler, Profile};
use crate::doctor;
use crate::patch::{self, Queue};
use crate::sources::{self, Project, Source};
use crate::toolchain::clean_env;
use fpt_kit::{hash, Cmd, Ctx, Fail, Result};

const RECIPE: &str = "2";

/// Folders, and what make is told about them besides.
const UPSTREAM: [(&[&str], &[&str]); 2] = [
    (&["mm", "mincore", "proc", "exec", "x86", "cgroup"], &[]),
    // The other programs of this folder are for FUSE and need its library.
    (&["memfd"], &["TEST_GEN_FILES="]),
];
const OURS: &str = "fpt";

fn input_hash(ctx: &Ctx, source: &Source, gcc: &str) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    inputs
        .text("recipe", RECIPE)
        .text("source", &source.sha256)
        .text("gcc", gcc.lines().next().unwrap_or(""));
    Queue::load(&ctx.root, Project::Linux)?.add_to(&mut inputs)?;
    inputs.tree("fpt", &ctx.root.join("selftests/fpt"))?;
    Ok(inputs.finish())
}

/// Build them from this checkout's patched tree; a folder with one sub-folder per target.
pub fn kselftests(ctx: &Ctx) -> Result<PathBuf> {
    doctor::require(ctx, doctor::For::Selftests)?;
    let source = sources::ensure(ctx, Project::Linux)?;
    let gcc = ctx.read(&clean_env(Cmd::new("gcc")).arg("--version"))?;
    let hash = input_hash(ctx, &source, &gcc)?;
    let target = artefact::dir(ctx, "kselftests", &hash);
    let found = || !ctx.dry_run && artefact::find(ctx, "kselftests", &hash).is_some();
    if found() {
        let stage = ctx.ui.stage("kernel selftests");
        stage.done(&format!("up to date, {}", hash::short(&hash)));
        return Ok(target);
    }
    let _lock = patch::tree_lock(ctx, Project::Linux, &source)?;
    if found() {
        return Ok(target);
    }
    let src = kernel::prepare_tree(ctx, Profile::Fpt, &source)?;
    if input_hash(ctx, &source, &gcc)? != hash {
        return Err(hash::changed("patches or selftests", "placed"));
    }
    let mut groups: Vec<(Vec<&str>, &[&str])> =
        UPSTREAM.map(|(dirs, vars)| (dirs.to_vec(), vars)).to_vec();
    if ctx.root.join("selftests/fpt/Makefile").is_file() {
        groups[0].0.push(OURS);
    }
    let targets: Vec<&str> = groups.iter().flat_map(|(dirs, _)| dirs.clone()).collect();
    let out = kernel::build_dir(ctx, "kselftests", Compiler::Llvm, &source);
    let stage = ctx.ui.stage(&format!(
        "build kernel selftests, some minutes: {}",
        targets.join(" ")
    ));
    let log = ctx.log_dir().join("kselftests.log");
    if !ctx.dry_run {
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        fpt_kit::store::make_dir(&out)?;
    }
    let headers = Cmd::new("make")
        .arg("-C")
        .arg(&src)
        .arg(format!("O={}", out.display()))
        .arg(format!("-j{}", ctx.jobs))
        .args(["ARCH=x86_64", "headers"]);
    ctx.step(&stage, &log, &clean_env(headers))?;
    let install = out.join("install");
    if !ctx.dry_run && install.exists() {
        std::fs::remove_dir_all(&install)?;
    }
    for (dirs, vars) in &groups {
        let make = Cmd::new("make")
            .arg("-C")
            .arg(src.join("tools/testing/selftests"))
            .arg(format!("O={}", out.display()))
            .arg(format!("-j{}", ctx.jobs))
            .args(["ARCH=x86_64", "CC=gcc"])
            .arg(format!("TARGETS={}", dirs.join(" ")))
            // mm/khugepaged.c of 6.12 uses KSFT_SKIP without including its definition, and one
            // program that does not compile takes its whole folder with it.
            .arg("EXTRA_CFLAGS=-DKSFT_SKIP=4")
            .args(*vars)
            .arg(format!("INSTALL_PATH={}", install.display()))
            .arg("install");
        ctx.step(&stage, &log, &clean_env(make))?;
    }
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(target);
    }
    // make ignores the failure of a whole folder: look for every program that will be run.
    let mut missing = Vec::new();
    for (dir, program) in listed_programs(&ctx.root)? {
        if targets.contains(&dir.as_str()) && !install.join(&dir).join(&program).is_file() {
            missing.push(format!("{dir}/{program}"));
        }
    }
    for name in &targets {
        if !install.join(name).is_dir() {
            missing.push(name.to_string());
        }
    }
    if !missing.is_empty() {
        return Err(Fail::infra(
            format!("the selftest build left out {}", missing.join(", ")),
            "make does not say so by its exit code",
            format!("the compiler's errors are in {}", log.display()),
        ));
    }
    let mut meta = Meta::new();
    meta.insert(
        "source".into(),
        format!("{} {}", source.version, source.sha256),
    );
    meta.insert("targets".into(), targets.join(" "));
    artefact::create(ctx, "kselftests", &hash, &meta, |dir| {
        copy_tree(&install, dir)
    })?;
    stage.done(hash::short(&hash));
    Ok(target)
}

/// Folder and file of every built program that `selftests/list.toml` names.
fn listed_programs(root: &Path) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct List {
        program: Vec<Program>,
    }
    #[derive(serde::Deserialize)]
    struct Program {
        dir: String,
        argv: Vec<String>,
    }
    let path = root.join("selftests/list.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let list: List = toml::from_str(&text).map_err(|e| {
        Fail::infra(
            format!("{} is not valid", path.display()),
            e.message().to_string(),
            "docs/reference/guest.md says what it may hold",
        )
    })?;
    Ok(list
        .program
        .into_iter()
        .flat_map(|p| programs_in(&p.dir, &p.argv))
        .collect())
}

/// What an argv starts: ./NAME in its folder, or /selftests/FOLDER/NAME in a line for a shell.
fn programs_in(dir: &str, argv: &[String]) -> Vec<(String, String)> {
    let own = argv.first().and_then(|a| a.strip_prefix("./"));
    let named = argv
        .iter()
        .flat_map(|a| a.split_whitespace())
        .filter_map(|w| w.strip_prefix("/selftests/")?.split_once('/'));
    own.map(|file| (dir, file))
        .into_iter()
        .chain(named)
        .map(|(dir, file)| (dir.to_string(), file.to_string()))
        .collect()
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let cmd = Cmd::new("cp").arg("-a").arg(from.join(".")).arg(to);
    cmd.read().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_shell_lines_too() {
        let of = |argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(|a| a.to_string()).collect();
            programs_in("mm", &argv)
        };
        let one = |dir: &str, file: &str| vec![(dir.to_string(), file.to_string())];
        assert_eq!(of(&["./cow", "-x"]), one("mm", "cow"));
        let line = "cd /tmp && exec /selftests/cgroup/test_memcontrol";
        assert_eq!(of(&["sh", "-c", line]), one("cgroup", "test_memcontrol"));
        assert_eq!(of(&["bash", "./x.sh"]), vec![]);
    }
}
