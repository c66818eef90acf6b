// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask docs`: the pages of this repository as a book, by mdBook.
//!
//! Pages lie in several folders, and mdBook wants them in one. So what it reads is a copy with the repository's own
//! paths, in which every link keeps its meaning.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use fpt_kit::{code, store, ui, Cmd, Ctx, ExitCode, Fail, Result};

use crate::lint::markdown;
use crate::lint::tree::Tree;

/// The table of contents, with links as of its own folder.
const SUMMARY: &str = "docs/SUMMARY.md";
/// Settings of mdBook.
const BOOK: &str = "docs/book.toml";
/// What mdBook calls the page of errors of a web server; its links are those of a server.
const NOT_FOUND: &str = "404.html";

/// Make a book of the documentation, by mdBook
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to write [default: target/book]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, no mdBook, or a link that leads nowhere.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let out = match args.out {
        Some(dir) => std::path::absolute(&dir)
            .with_context(|| format!("cannot find the place of {}", dir.display()))?,
        None => ctx.root.join("target/book"),
    };
    let copy = ctx.root.join("target/fpt/book");
    let mdbook = Cmd::new("mdbook")
        .arg("build")
        .arg(&copy)
        .arg("--dest-dir")
        .arg(&out);
    if ctx.dry_run {
        ctx.ui.command(&mdbook);
        return Ok(code::OK);
    }
    if !Cmd::new("mdbook").arg("--version").succeeds() {
        return Err(Fail::infra(
            "mdbook does not run",
            "it makes the book; the pages themselves are plain Markdown",
            "install it (`apt-get install mdbook` on Debian 13, else `cargo install mdbook --locked`), or read docs/README.md",
        ));
    }
    let tree = Tree::read(ctx)?;
    let stage = ctx.ui.stage("the book");
    arrange(&tree, &ctx.root, &copy)?;
    ctx.step(&stage, &ctx.log_dir().join("docs.log"), &mdbook)?;
    let broken = broken(&out)?;
    if let Some(first) = broken.first() {
        broken.iter().for_each(|line| stage.note(line));
        return Err(Fail::test(
            format!("{} links of the book lead nowhere", broken.len()),
            first.clone(),
            format!("is the page in {SUMMARY}?"),
        ));
    }
    stage.done("every link leads somewhere");
    ui::path(&out.join("index.html"));
    Ok(code::OK)
}

/// Lays out what mdBook reads: its settings, the contents, each page of the contents, and the files that pages show or
/// link.
fn arrange(tree: &Tree, root: &Path, copy: &Path) -> Result<()> {
    let read = |path: &str| {
        let file = root.join(path);
        std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let src = copy.join("src");
    if src.exists() {
        std::fs::remove_dir_all(&src)
            .with_context(|| format!("cannot remove {}", src.display()))?;
    }
    store::write_atomic(&copy.join("book.toml"), &read(BOOK)?)?;
    let contents = String::from_utf8_lossy(&read(SUMMARY)?).into_owned();
    store::write_atomic(&src.join("SUMMARY.md"), of_root(&contents).as_bytes())?;
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (from, to) in markdown::all_links(tree) {
        if !to.ends_with(".md") || from == SUMMARY {
            wanted.insert(to);
        }
    }
    let below = |path: &&String| {
        wanted.contains(*path)
            || wanted.iter().any(|w| {
                path.strip_prefix(w.as_str())
                    .is_some_and(|r| r.starts_with('/'))
            })
    };
    for path in tree
        .paths
        .iter()
        .filter(below)
        .filter(|p| root.join(p).is_file())
    {
        let raw = read(path)?;
        let text = if path.ends_with(".md") {
            for_mdbook(&String::from_utf8_lossy(&raw)).into_bytes()
        } else {
            raw
        };
        store::write_atomic(&src.join(path), &text)?;
    }
    Ok(())
}

/// A page with each link as `to` says.
fn with_links(page: &str, to: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("](") {
        let (target, tail) = after.split_once(')').unwrap_or((after, ""));
        out.push_str(&format!("{before}]({})", to(target)));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// The contents with links as of the root.
fn of_root(contents: &str) -> String {
    with_links(contents, |target| markdown::join(SUMMARY, target))
}

/// A page as mdBook wants it: README.md becomes index.html there, and a link to it does not.
fn for_mdbook(page: &str) -> String {
    with_links(page, |target| target.replace("README.md", "index.md"))
}

/// Links of the pages in `dir` that lead to no file of it, or to a place that its page does not have.
fn broken(dir: &Path) -> Result<Vec<String>> {
    let pages: Vec<PathBuf> = fpt_kit::hash::files_below(dir)?
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "html"))
        .filter(|p| p.file_name().is_some_and(|n| n != NOT_FOUND))
        .collect();
    let mut out = Vec::new();
    for page in &pages {
        let text = page_text(&dir.join(page))?;
        for target in targets(&text) {
            let outside = target.contains(':') || target.is_empty() || target.starts_with("//");
            if outside {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => dir.join(page),
                path => dir.join(page).parent().unwrap_or(dir).join(path),
            };
            if !to.exists() {
                out.push(format!("{}: {target}", page.display()));
            } else if !anchor.is_empty() && to.extension().is_some_and(|e| e == "html") {
                let there = page_text(&to)?.contains(&format!("id=\"{anchor}\""));
                if !there {
                    out.push(format!("{}: {target}", page.display()));
                }
            }
        }
    }
    Ok(out)
}

/// Where the links of a page lead, and what its pictures are; not what mdBook's own frame refers to.
fn targets(html: &str) -> impl Iterator<Item = &str> {
    let tags = html
        .split('<')
        .filter(|t| t.starts_with("a ") || t.starts_with("img "));
    tags.filter_map(|tag| {
        let tag = tag.split('>').next()?;
        let at = ["href=\"", "src=\""].iter().find_map(|k| tag.split_once(k));
        at?.1.split('"').next()
    })
}

fn page_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_those_of_the_root() {
        let text = "# S\n\n[Docs](README.md)\n- [A](tutorial/first-walk.md)\n- [B](../ARCHITECTURE.md)\nend";
        assert_eq!(
            of_root(text),
            "# S\n\n[Docs](docs/README.md)\n- [A](docs/tutorial/first-walk.md)\n- [B](ARCHITECTURE.md)\nend"
        );
    }

    #[test]
    fn pages_and_what_they_show_are_laid_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let (root, copy) = (dir.path().join("root"), dir.path().join("copy"));
        let files = [
            (BOOK, "[book]\n"),
            (SUMMARY, "- [A](kernel.md)\n"),
            (
                "docs/kernel.md",
                "[b](../b.rs) ![c](c/c.svg) [d](README.md) [e](e/)\n",
            ),
            ("docs/c/c.svg", ""),
            ("docs/README.md", ""),
            ("docs/e/e.csv", ""),
            ("docs/f.csv", ""),
            ("b.rs", ""),
        ];
        let mut tree = Tree::of("docs/kernel.md", files[2].1);
        tree.files.extend(Tree::of(SUMMARY, files[1].1).files);
        for (path, text) in files {
            store::write_atomic(&root.join(path), text.as_bytes()).expect("written");
            tree.paths.insert(path.into());
        }
        store::write_atomic(&copy.join("src/old.md"), b"").expect("written");
        arrange(&tree, &root, &copy).expect("arranged");
        let there = fpt_kit::hash::files_below(&copy).expect("listed");
        let there: Vec<&str> = there.iter().filter_map(|p| p.to_str()).collect();
        assert_eq!(
            there,
            [
                "book.toml",
                "src/SUMMARY.md",
                "src/b.rs",
                "src/docs/c/c.svg",
                "src/docs/e/e.csv",
                "src/docs/kernel.md",
            ]
        );
    }

    #[test]
    fn a_link_that_leads_nowhere_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            store::write_atomic(&dir.path().join(name), text.as_bytes()).expect("written");
        };
        write(
            "a/b.html",
            "<h2 id=\"x\">x</h2><a href=\"../c.html\"><a class=\"y\" href=\"#x\">",
        );
        write(
            "c.html",
            "<a href=\"a/b.html#x\"><a href=\"https://example.org/y\">",
        );
        write(NOT_FOUND, "<a href=\"gone\">");
        assert_eq!(broken(dir.path()).expect("read"), [""; 0]);
        write("c.html", "<a href=\"a/b.html#y\"><a href=\"d.html\">");
        assert_eq!(
            broken(dir.path()).expect("read"),
            ["c.html: a/b.html#y", "c.html: d.html"]
        );
    }
}
