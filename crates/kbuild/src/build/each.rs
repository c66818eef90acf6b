// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the objects that the queue touches after each patch. Long, run by hand.
//!
//! With the option off that is every patch; with it on, those from which on Kconfig offers it. Before
//! that nobody can switch it on, and the options that other parts of our configuration ask for do
//! not exist yet.

use anyhow::Context as _;

use super::{objects, Compiler, Profile};
use crate::patch::{self, Check, Queue, Scratch};
use crate::sources::{self, git, Project};
use fpt_kit::{hash, Ctx, Result};

/// Builds the kernel after each patch of the queue, and says of each whether it builds.
pub fn each(ctx: &Ctx) -> Result<Vec<Check>> {
    let project = Project::Linux;
    let source = sources::ensure(ctx, project)?;
    let queue = Queue::load(&ctx.root, project)?;
    let _lock = patch::tree_lock(ctx, project, &source)?;
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
    let mut head = patch::rev(&dir, "base")?;
    let mut out = Vec::new();
    let mut offered = false;
    for patch in &queue.patches {
        let (commit, _) = scratch.commit(&head, patch)?;
        head = commit;
        git(&work).args(["reset", "-q", "--hard", &head]).read()?;
        for (from, to) in patch::placed_files(&ctx.root)? {
            fpt_kit::store::write_if_changed(&work.join(to), &std::fs::read(from)?)?;
        }
        let kconfig = work.join("arch/x86/Kconfig");
        let text = std::fs::read_to_string(&kconfig)
            .with_context(|| format!("cannot read {}", kconfig.display()))?;
        let mut profiles = vec![Profile::OptionOff];
        if selectable(&text, "X86_FPT") {
            profiles.push(Profile::Fpt);
            offered = true;
        }
        for profile in profiles {
            let mut check = Check::new(
                project,
                &format!("{} builds ({})", patch.name, profile.name()),
            );
            if let Err(err) = objects(ctx, profile, Compiler::Llvm, &work, "each") {
                check.problems.push(err.to_string());
            }
            out.push(check);
        }
    }
    if !offered {
        let mut check = Check::new(project, "the option can be switched on");
        check
            .problems
            .push("no patch gives CONFIG_X86_FPT a prompt".into());
        out.push(check);
    }
    Ok(out)
}

/// Has the symbol a prompt of its own?
fn selectable(kconfig: &str, symbol: &str) -> bool {
    let start = format!("config {symbol}");
    let mut lines = kconfig
        .lines()
        .skip_while(|l| l.trim_end() != start)
        .skip(1);
    // Its attributes are indented.
    let mut body = lines.by_ref().take_while(|l| l.starts_with([' ', '\t']));
    body.any(|l| {
        let words: Vec<&str> = l.split_whitespace().collect();
        matches!(words.as_slice(), ["bool" | "tristate" | "prompt", text, ..] if text.starts_with('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts() {
        let text = "config A\n\tbool\n\tselect B\n\nconfig B\n\tbool \"B, in words\"\n\thelp\n\t  bool\n\nconfig AB\n\tdef_bool A\n";
        assert!(!selectable(text, "A"));
        assert!(selectable(text, "B"));
        assert!(!selectable(text, "AB"));
        assert!(!selectable(text, "C"));
    }
}
