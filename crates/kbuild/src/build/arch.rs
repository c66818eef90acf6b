// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds mm/ for other architectures, patched and as it was. Long, run by hand.
//!
//! Objects are not linked, so what does not link is looked for, too: a symbol that patched objects
//! ask for, that none of them has, and that the unpatched ones do not ask for.

use std::collections::BTreeSet;
use std::path::Path;

use object::{Object, ObjectSymbol};

use super::compare::object_files;
use super::kernel::{build_dir, prepare_tree, start_log};
use super::{objfile, Compiler, Profile};
use crate::doctor;
use crate::patch::{self, Check};
use crate::sources::{self, Project};
use crate::toolchain::{self, Arch};
use fpt_kit::{Ctx, Fail, Result, Steps};

/// Builds mm/ for each of `archs`, and says of each whether it builds and could link.
///
/// # Errors
///
/// A tool is missing, or a tree cannot be brought to the queue.
pub fn archs(ctx: &Ctx, archs: &[Arch]) -> Result<Vec<Check>> {
    doctor::require(ctx, doctor::For::kernel(Compiler::Llvm))?;
    let source = sources::ensure(ctx, Project::Linux)?;
    let _lock = patch::tree_lock(ctx, Project::Linux, &source)?;
    let mut out = Vec::new();
    for arch in archs {
        let mut check = Check::new(Project::Linux, &format!("mm/ builds for {}", arch.name()));
        let mut built = Vec::new();
        for profile in [Profile::Unpatched, Profile::OptionOff] {
            let src = prepare_tree(ctx, profile, &source)?;
            let tag = format!("{}-{}", arch.name(), profile.name());
            let dir = build_dir(ctx, &tag, Compiler::Llvm, &source);
            match objects(ctx, *arch, &src, &dir, &tag) {
                Ok(()) => built.push(symbols(ctx, &dir)?),
                Err(err) => check.problems.push(format!("{}: {err}", profile.name())),
            }
        }
        if let [before, after] = built.as_slice() {
            let new = after.asked.difference(&before.asked);
            let lost: Vec<&str> = new
                .filter(|s| !after.had.contains(*s))
                .map(String::as_str)
                .collect();
            if !lost.is_empty() {
                let names = lost.join(", ");
                check.problems.push(format!("nobody has {names}"));
            }
            check.notes.push(format!("{} objects", after.objects));
        }
        out.push(check);
    }
    Ok(out)
}

fn objects(ctx: &Ctx, arch: Arch, src: &Path, out: &Path, tag: &str) -> Result<()> {
    let tools = toolchain::detect(ctx, Compiler::Llvm)?;
    let stage = ctx.ui.stage(&format!("build mm/, {tag}"));
    let log = ctx.log_dir().join(format!("objects-{tag}.log"));
    start_log(ctx, &log)?;
    let steps = Steps {
        ctx,
        stage: &stage,
        log: &log,
    };
    let make = || {
        tools
            .make(src, out, ctx.jobs)
            .arg(format!("ARCH={}", arch.name()))
    };
    let fragment = ctx.root.join("configs/arch.config");
    steps.run(&make().env("KCONFIG_ALLCONFIG", fragment).arg("allnoconfig"))?;
    steps.run(&make().arg("mm/"))?;
    stage.done("");
    Ok(())
}

/// Names of a folder's objects, over all of them.
#[derive(Debug, Default)]
struct Symbols {
    asked: BTreeSet<String>,
    had: BTreeSet<String>,
    objects: usize,
}

impl Symbols {
    fn add(&mut self, file: &object::File<'_>) {
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name.is_empty() {
                continue;
            }
            let names = if symbol.is_undefined() {
                &mut self.asked
            } else {
                &mut self.had
            };
            names.insert(name.to_string());
        }
        self.objects += 1;
    }
}

fn symbols(ctx: &Ctx, dir: &Path) -> Result<Symbols> {
    let mut out = Symbols::default();
    if ctx.dry_run {
        return Ok(out);
    }
    for name in object_files(dir, &["mm"])? {
        objfile::with(&dir.join(&name), |file| {
            out.add(file);
            Ok(())
        })?;
    }
    if out.objects == 0 {
        return Err(Fail::infra(
            format!("{} has no objects", dir.display()),
            "the build made none",
            "remove the folder and try again",
        ));
    }
    Ok(out)
}
