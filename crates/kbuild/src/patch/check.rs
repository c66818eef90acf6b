// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every queue must fulfil.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use super::queue::{Patch, Queue};
use super::{refresh, Scratch};
use crate::sources::{self, Project};
use fpt_kit::{proc, Cmd, Ctx, Result};

/// The outcome of one check.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// What is wrong; none if the check held.
    pub problems: Vec<String>,
    /// Remarks that fail nothing.
    pub notes: Vec<String>,
}

impl Check {
    pub(crate) fn new(project: Project, what: &str) -> Check {
        Check {
            name: format!("{}-patches: {what}", project.name()),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether it is as it must be.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            if self.ok() { "ok    " } else { "not ok" },
            self.name
        )?;
        for problem in &self.problems {
            write!(f, "\n    {problem}")?;
        }
        for note in &self.notes {
            write!(f, "\n    note: {note}")?;
        }
        Ok(())
    }
}

/// Run every quick check of one queue.
pub fn check(ctx: &Ctx, project: Project) -> Result<Vec<Check>> {
    let source = sources::ensure(ctx, project)?;
    if ctx.dry_run {
        return Ok(Vec::new());
    }
    let queue = Queue::load(&ctx.root, project)?;
    let _lock = super::tree_lock(ctx, project, &source)?;
    let dir = sources::tree(ctx, project, &source)?;
    let stage = ctx.ui.stage(&format!("check {}-patches", project.name()));
    let mut out = Vec::new();

    let mut series = Check::new(project, "series names every file once");
    series.problems = queue.strays()?;
    out.push(series);

    let mut fit = Check::new(project, "every patch applies without fuzz or offset");
    let scratch = Scratch::new(ctx, &dir)?;
    let mut head = super::rev(&dir, "base")?;
    let tested = source.release == queue.base.tested;
    let total = queue.patches.len();
    for (n, patch) in queue.patches.iter().enumerate() {
        stage.line(&format!("[{}/{total}] {}", n + 1, patch.name));
        match scratch.commit(&head, patch) {
            Ok((commit, offsets)) => {
                head = commit;
                if tested {
                    fit.problems.extend(offsets);
                } else {
                    fit.notes.extend(offsets);
                }
            }
            Err(err) => {
                fit.problems.push(err.to_string());
                break;
            }
        }
    }
    let fits = fit.ok();
    out.push(fit);

    let mut export = Check::new(project, "re-export gives the same files");
    if fits {
        let tmp = tempfile::tempdir_in(refresh::store_dir(ctx)?)?;
        let _guard = proc::remove_on_exit(tmp.path());
        let names = refresh::export(&dir, "base", &head, tmp.path())?;
        let listed: Vec<&String> = queue.patches.iter().map(|p| &p.name).collect();
        if names.iter().collect::<Vec<_>>() != listed {
            export.problems.push(format!(
                "names differ: {}",
                names
                    .iter()
                    .filter(|n| !listed.contains(n))
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        let mut moved = 0;
        for patch in queue.patches.iter().filter(|p| names.contains(&p.name)) {
            if fs::read(tmp.path().join(&patch.name))? == fs::read(&patch.path)? {
                continue;
            }
            if tested {
                export.problems.push(format!(
                    "{} differs: `cargo xtask patch refresh {}` writes it",
                    patch.name,
                    project.name()
                ));
            } else {
                moved += 1;
            }
        }
        // Line numbers and hashes of files in a patch are those of the tested release.
        if moved > 0 {
            export.notes.push(format!(
                "{moved} of {} would differ: they are written for {}, this is {}",
                names.len(),
                queue.base.tested,
                source.release
            ));
        }
    } else {
        export
            .problems
            .push("not possible: a patch does not apply".into());
    }
    out.push(export);

    let beside = Queue::beside(&ctx.root, project)?;
    if fits && !beside.is_empty() {
        let mut check = Check::new(project, "patches of other profiles apply after the queue");
        let mut head = head.clone();
        for patch in &beside {
            match scratch.commit(&head, patch) {
                // Offsets do not matter: these are never exported.
                Ok((commit, _offsets)) => head = commit,
                Err(err) => {
                    check.problems.push(err.to_string());
                    break;
                }
            }
        }
        out.push(check);
    }

    let mut sign = Check::new(project, "every patch is signed off");
    let mut spdx = Check::new(project, "every new file names its licence");
    let mut rust = Check::new(project, "no Rust text in patches (rust-mm-fpt/ holds it)");
    for patch in &queue.patches {
        let text = String::from_utf8_lossy(&fs::read(&patch.path)?).into_owned();
        sign.problems.extend(unsigned(patch, &text));
        spdx.problems.extend(unlicensed(patch, &text));
        rust.problems.extend(rust_text(patch, &text));
    }
    out.extend([sign, spdx, rust]);

    out.push(style(project, &queue, &dir)?);
    stage.done("");
    Ok(out)
}

fn unsigned(patch: &Patch, text: &str) -> Option<String> {
    let message = text.split("\n---\n").next().unwrap_or("");
    (!message.lines().any(|l| l.starts_with("Signed-off-by: ")))
        .then(|| format!("{} has no Signed-off-by", patch.name))
}

/// New files without an SPDX line in their head.
fn unlicensed(patch: &Patch, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for part in text.split("\ndiff --git ").skip(1) {
        if !part.lines().any(|l| l.starts_with("new file mode")) {
            continue;
        }
        let name = part
            .lines()
            .find_map(|l| l.strip_prefix("+++ b/"))
            .unwrap_or("?");
        let head = part
            .lines()
            .skip_while(|l| !l.starts_with("@@"))
            .skip(1)
            .take(12)
            .any(|l| l.contains("SPDX-License-Identifier:"));
        // A .gitignore of one line and binary blobs cannot be told apart otherwise.
        if !head && name != "?" {
            out.push(format!("{}: {name} has no SPDX line", patch.name));
        }
    }
    out
}

fn rust_text(patch: &Patch, text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.strip_prefix("+++ b/"))
        .filter(|n| n.ends_with(".rs") && n.contains("/fpt"))
        .map(|n| format!("{}: {n}", patch.name))
        .collect()
}

/// The tree's own checkpatch; errors fail, warnings are counted.
fn style(project: Project, queue: &Queue, dir: &Path) -> Result<Check> {
    let mut check = Check::new(project, "checkpatch has no error");
    let mut files = vec![];
    files.extend(queue.patches.iter());
    let mut warnings = BTreeSet::new();
    for patch in files {
        let mut cmd = Cmd::new("perl")
            .arg("scripts/checkpatch.pl")
            .args(["--terse", "--no-summary"]);
        if project == Project::Linux {
            cmd = cmd.args(["--strict", "--show-types"]);
        }
        let out = cmd.arg(&patch.path).cwd(dir).output()?;
        let mut seen = 0;
        for line in out.stdout.lines() {
            let said = line.replace(&*patch.path.to_string_lossy(), &patch.name);
            if said.contains("ERROR:") {
                seen += 1;
                check.problems.push(said);
            } else if said.contains("WARNING:") || said.contains("CHECK:") {
                seen += 1;
                warnings.insert(said);
            }
        }
        // Neither clean nor explained: checkpatch itself did not run.
        if !out.status.success() && seen == 0 {
            check.problems.push(format!(
                "{}: checkpatch failed: {}",
                patch.name,
                out.stderr.trim()
            ));
        }
    }
    if !warnings.is_empty() {
        check.notes.push(format!("{} warnings", warnings.len()));
        check.notes.extend(warnings.into_iter().take(20));
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch() -> Patch {
        Patch {
            name: "0001-x.patch".into(),
            path: "0001-x.patch".into(),
        }
    }

    #[test]
    fn sign_off_must_stand_in_the_message() {
        assert!(unsigned(
            &patch(),
            "Subject: x\n\nSigned-off-by: A <a@b>\n---\n f | 1 +\n"
        )
        .is_none());
        assert!(unsigned(
            &patch(),
            "Subject: x\n\nbody\n---\n+Signed-off-by: A <a@b>\n"
        )
        .is_some());
    }

    #[test]
    fn new_files_need_a_licence() {
        let with = "x\ndiff --git a/f b/f\nnew file mode 100644\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+// SPDX-License-Identifier: GPL-2.0\n";
        assert!(unlicensed(&patch(), with).is_empty());
        assert_eq!(
            unlicensed(&patch(), &with.replace("SPDX-License-Identifier: ", "")).len(),
            1
        );
        let edit = "x\ndiff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n+x\n";
        assert!(unlicensed(&patch(), edit).is_empty());
    }

    #[test]
    fn rust_text_is_found() {
        assert_eq!(
            rust_text(&patch(), "+++ b/arch/x86/mm/fpt/core.rs\n").len(),
            1
        );
        assert!(rust_text(&patch(), "+++ b/arch/x86/mm/fpt/Makefile\n").is_empty());
    }
}
