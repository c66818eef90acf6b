// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of the checkout, as the checks see them.

use std::collections::BTreeSet;

use fpt_kit::{Cmd, Ctx, Fail, Result};

/// One text file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path below the root, with `/`.
    pub path: String,
    pub text: String,
}

/// Text files that somebody writes by hand.
#[derive(Debug)]
pub struct Tree {
    pub files: Vec<Source>,
    /// Every path of the checkout, folders and pictures too: what a link may lead to.
    pub paths: BTreeSet<String>,
}

/// Made by a program of ours or of others.
const GENERATED: [&str; 2] = ["docs/results/", "Cargo.lock"];

/// The words of others.
const FOREIGN: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "COPYING"];

impl Source {
    pub fn has_extension(&self, any: &[&str]) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
        any.contains(&extension)
    }

    /// A patch holds lines of the patched project; `patch check` is for it.
    pub fn is_patch(&self) -> bool {
        self.has_extension(&["patch"])
    }

    pub fn is_shell(&self) -> bool {
        let first = self.text.lines().next().unwrap_or_default();
        self.has_extension(&["sh"])
            || (first.starts_with("#!")
                && first.split(['/', ' ']).any(|w| w == "sh" || w == "bash"))
    }

    /// Its lines, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(n, l)| (n + 1, l))
    }

    /// A complaint about one of its lines.
    pub fn complaint(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

impl Tree {
    /// What git tracks, and what it would if asked to.
    pub fn read(ctx: &Ctx) -> Result<Tree> {
        let git = Cmd::new("git").arg("-C").arg(&ctx.root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let names = git.read().map_err(|err| {
            Fail::infra(
                "cannot list the files of the checkout",
                err.to_string(),
                "lint needs a git checkout; clone the repository",
            )
        })?;
        let mut tree = Tree {
            files: Vec::new(),
            paths: BTreeSet::new(),
        };
        for path in names.split('\0').filter(|p| !p.is_empty()) {
            // A deleted file is in the index until the next commit.
            let Ok(raw) = std::fs::read(ctx.root.join(path)) else {
                continue;
            };
            let mut folder = path;
            while let Some((above, _)) = folder.rsplit_once('/') {
                tree.paths.insert(above.to_string());
                folder = above;
            }
            tree.paths.insert(path.to_string());
            let by_hand =
                !GENERATED.iter().any(|g| path.starts_with(g)) && !FOREIGN.contains(&path);
            if let (true, Ok(text)) = (
                by_hand || path.ends_with("README.md"),
                String::from_utf8(raw),
            ) {
                tree.files.push(Source {
                    path: path.to_string(),
                    text,
                });
            }
        }
        if tree.files.is_empty() {
            return Err(Fail::infra(
                "the checkout has no files",
                format!("git knows none below {}", ctx.root.display()),
                "clone the repository",
            ));
        }
        Ok(tree)
    }

    pub fn with(&self, extensions: &'static [&'static str]) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|f| f.has_extension(extensions))
    }

    /// A tree of one file, for the tests of the checks.
    #[cfg(test)]
    pub fn of(path: &str, text: &str) -> Tree {
        Tree {
            files: vec![Source {
                path: path.into(),
                text: text.into(),
            }],
            paths: BTreeSet::from([path.into()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn kinds_of_files() {
        assert!(source("a/b.rs", "").has_extension(&["c", "rs"]));
        assert!(!source("a.rs/b", "").has_extension(&["rs"]));
        assert!(source("fpt", "#!/bin/sh\n").is_shell());
        assert!(source(".ci/run", "#!/usr/bin/env bash\n").is_shell());
        assert!(source("a.sh", "").is_shell());
        assert!(!source("a.py", "#!/usr/bin/python3\n").is_shell());
    }
}
