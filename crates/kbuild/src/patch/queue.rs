// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue on disk: `BASE`, `series` and numbered patch files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::sources::{Base, Project};
use fpt_kit::{hash, Fail, Result};

/// The patches of a project, in their order.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The folder of the patches.
    pub dir: PathBuf,
    /// What they apply to.
    pub base: Base,
    /// The patches, the first first.
    pub patches: Vec<Patch>,
}

/// A patch of a queue.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The name of the file.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The file with the cover letter, which is no patch.
pub const COVER: &str = "0000-cover-letter.patch";

impl Queue {
    /// Read it; every file named in `series` must be there.
    pub fn load(root: &Path, project: Project) -> Result<Queue> {
        let dir = project.queue_dir(root);
        let base = Base::load(root, project)?;
        let series = dir.join("series");
        let text = fs::read_to_string(&series)
            .with_context(|| format!("cannot read {}", series.display()))?;
        let mut patches = Vec::new();
        for name in names(&text) {
            let path = dir.join(name);
            if !path.is_file() {
                return Err(Fail::infra(
                    format!("{} names {name}", series.display()),
                    "there is no such file",
                    "restore it with git, or take the line out",
                ));
            }
            patches.push(Patch {
                name: name.to_string(),
                path,
            });
        }
        Ok(Queue { dir, base, patches })
    }

    /// Patches beside the queue, which only some profiles have.
    pub fn extra(root: &Path, names: &[&str]) -> Result<Vec<Patch>> {
        let dir = Project::Linux.queue_dir(root).join("extra");
        let of = |name: &&str| {
            let path = dir.join(name);
            if !path.is_file() {
                return Err(Fail::infra(
                    format!("{} is missing", path.display()),
                    "a profile of the kernel needs it",
                    "restore it with git",
                ));
            }
            let name = (*name).to_string();
            Ok(Patch { name, path })
        };
        names.iter().map(of).collect()
    }

    /// All patches beside the queue of `project`, in their order.
    pub fn beside(root: &Path, project: Project) -> Result<Vec<Patch>> {
        let dir = project.queue_dir(root).join("extra");
        let mut names: Vec<String> = match fs::read_dir(&dir) {
            Ok(entries) => entries
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|name| name.ends_with(".patch"))
                .collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match project {
            Project::Linux => Queue::extra(root, &names),
            Project::Qemu => Ok(Vec::new()),
        }
    }

    /// The queue, and patches beside it.
    pub fn with_extra(mut self, root: &Path, names: &[&str]) -> Result<Queue> {
        self.patches.extend(Queue::extra(root, names)?);
        Ok(self)
    }

    /// Everything that the applied tree depends on.
    pub fn add_to(&self, inputs: &mut hash::Inputs) -> Result<()> {
        for patch in &self.patches {
            inputs.file("patch", &patch.path)?;
        }
        Ok(())
    }

    /// Patch files that `series` does not name, and names that occur twice.
    pub fn strays(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let listed = self.patches.iter().filter(|p| p.name == name).count();
            if name == COVER {
                if listed != 0 {
                    out.push(format!("{name} must not be in series"));
                }
            } else if name.ends_with(".patch") && listed != 1 {
                out.push(format!("{name} stands {listed} times in series"));
            }
        }
        out.sort();
        Ok(out)
    }
}

/// The patch names of a `series` text.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|l| l.split('#').next().unwrap_or("").trim())
        .filter(|l| !l.is_empty())
}

/// A new `series` text: the old one's comments stay in front of the patch that they stood
/// in front of, which is found by its title where its number has changed.
pub fn rewrite_series(old: &str, new: &[String]) -> String {
    let title = |n: &str| {
        n.trim_start_matches(|c: char| c.is_ascii_digit())
            .to_string()
    };
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let mut pending = Vec::new();
    // The file's own header, up to the first empty line, belongs to no patch.
    let top = old.lines().take_while(|l| names(l).next().is_none());
    let mut header: Vec<&str> = top.clone().take_while(|l| !l.trim().is_empty()).collect();
    if header.len() < top.count() {
        header.push("");
    }
    for line in old.lines().skip(header.len()) {
        match names(line).next() {
            Some(name) => groups.push((title(name), std::mem::take(&mut pending))),
            None => pending.push(line.to_string()),
        }
    }
    let mut out: String = header.iter().map(|l| format!("{l}\n")).collect();
    for (at, name) in new.iter().enumerate() {
        let lead = groups
            .iter()
            .position(|(t, _)| *t == title(name))
            .map(|i| groups.remove(i).1);
        for line in lead.into_iter().flatten() {
            // A group that moved to the top needs no empty line before it.
            if at > 0 || !line.is_empty() {
                out.push_str(&line);
                out.push('\n');
            }
        }
        out.push_str(name);
        out.push('\n');
    }
    for line in pending {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_with_comments() {
        let text = "# SPDX\n\n# group\n0001-a.patch # why\n 0002-b.patch\n";
        assert_eq!(
            names(text).collect::<Vec<_>>(),
            ["0001-a.patch", "0002-b.patch"]
        );
    }

    #[test]
    fn rewrite_keeps_groups() {
        let old = "# SPDX\n0001-a.patch\n\n# second\n0002-b.patch\n# end\n";
        let new = ["0001-a.patch", "0002-new.patch", "0003-b.patch"].map(String::from);
        assert_eq!(
            rewrite_series(old, &new),
            "# SPDX\n0001-a.patch\n0002-new.patch\n\n# second\n0003-b.patch\n# end\n"
        );
        assert_eq!(
            rewrite_series("# SPDX\n\n# g\n0001-gone.patch\n", &["0001-a.patch".into()]),
            "# SPDX\n\n0001-a.patch\n"
        );
        assert_eq!(
            rewrite_series(old, &["0001-a.patch".into(), "0002-b.patch".into()]),
            old
        );
    }
}
