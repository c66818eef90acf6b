// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the objects that the queue touches after each patch. Long, run by hand.

use super::queue::Queue;
use super::{Check, Scratch};
use crate::api::{hash, Ctx, Result};
use crate::build::{self, Compiler, Profile};
use crate::sources::{self, git, Project};

pub fn each(ctx: &Ctx) -> Result<Vec<Check>> {
    let project = Project::Linux;
    let source = sources::ensure(ctx, project)?;
    let queue = Queue::load(&ctx.root, project)?;
    let _lock = super::tree_lock(ctx, project, &source)?;
    let dir = sources::tree(ctx, project, &source)?;
    if ctx.dry_run {
        return Ok(Vec::new());
    }
    // A work tree of its own: the one for builds keeps its place and its times.
    let work = dir.with_file_name(format!("linux-{}-each", hash::short(&source.sha256)));
    if !work.join(".git").exists() {
        git(&dir)
            .args(["worktree", "add", "-q", "--force", "--detach"])
            .arg(&work)
            .arg("base")
            .read()?;
    }
    let scratch = Scratch::new(ctx, &dir)?;
    let mut head = super::rev(&dir, "base")?;
    let mut out = Vec::new();
    for patch in &queue.patches {
        let (commit, _) = scratch.commit(&head, patch)?;
        head = commit;
        git(&work).args(["reset", "-q", "--hard", &head]).read()?;
        for (from, to) in super::placed_files(&ctx.root)? {
            crate::api::store::write_if_changed(&work.join(to), &std::fs::read(from)?)?;
        }
        for profile in [Profile::OptionOff, Profile::Fpt] {
            let mut check = Check::new(
                project,
                &format!("{} builds ({})", patch.name, profile.name()),
            );
            if let Err(err) = build::objects(ctx, profile, Compiler::Llvm, &work, "each") {
                check.problems.push(err.to_string());
            }
            out.push(check);
        }
    }
    Ok(out)
}
