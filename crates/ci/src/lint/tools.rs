// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks by programs of the distribution and of the Rust toolchain.

use std::path::Path;

use super::tree::Tree;
use super::Found;
use fpt_kit::{proc, Cmd, Ctx, Result};
use fpt_verdict::rundir::RunDir;

/// A program that looks at the whole checkout.
pub struct Tool {
    pub name: &'static str,
    pub run: fn(&Ctx, &RunDir, &Tree) -> Found,
}

/// The cheap ones first.
pub const ALL: [Tool; 5] = [
    Tool {
        name: "shellcheck",
        run: shellcheck,
    },
    Tool {
        name: "spelling",
        run: codespell,
    },
    Tool {
        name: "rustfmt",
        run: rustfmt,
    },
    Tool {
        name: "clippy",
        run: clippy,
    },
    Tool {
        name: "rustdoc",
        run: rustdoc,
    },
];

/// Lines of a program's output that are shown when none of them looks like a complaint.
const TAIL: usize = 20;

fn shellcheck(ctx: &Ctx, run: &RunDir, tree: &Tree) -> Found {
    let scripts = tree.files.iter().filter(|f| f.is_shell()).map(|f| &f.path);
    let cmd = Cmd::new("shellcheck")
        .args(["--format", "gcc"])
        .args(scripts);
    let is_complaint = |line: &str| {
        line.contains(": warning:") || line.contains(": error:") || line.contains(": note:")
    };
    look(ctx, run, "shellcheck", &cmd, is_complaint)
}

/// Its settings, and the words that are none of its business, are in `.codespellrc`.
fn codespell(ctx: &Ctx, run: &RunDir, tree: &Tree) -> Found {
    let files = tree.files.iter().filter(|f| !f.is_patch()).map(|f| &f.path);
    let cmd = Cmd::new("codespell").args(files);
    look(ctx, run, "codespell", &cmd, |line| line.contains(" ==> "))
}

fn cargo(command: &str) -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Cmd::new(cargo)
        .arg(command)
        .env("CARGO_TERM_COLOR", "never")
}

fn rustfmt(ctx: &Ctx, run: &RunDir, _: &Tree) -> Found {
    let cmd = cargo("fmt").args(["--all", "--check"]);
    look(ctx, run, "rustfmt", &cmd, |line| {
        line.starts_with("Diff in ")
    })
}

/// The lints of each crate's `Cargo.toml`, as those that keep panics out of the core, are among these.
fn clippy(ctx: &Ctx, run: &RunDir, _: &Tree) -> Found {
    let cmd = cargo("clippy")
        .args(["--workspace", "--all-targets", "--locked", "--keep-going"])
        .args(["--message-format", "short", "--jobs", &ctx.jobs.to_string()])
        .args(["--", "-D", "warnings"])
        // Both ask for more in Debian's 1.85 than in any later release, which took that back.
        .args(["-A", "clippy::precedence", "-A", "clippy::format_collect"]);
    look(ctx, run, "clippy", &cmd, is_rust)
}

/// Links between names. Private items are documented for those who read them: a link to one is good.
fn rustdoc(ctx: &Ctx, run: &RunDir, _: &Tree) -> Found {
    let cmd = cargo("doc")
        .args([
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--locked",
        ])
        .args(["--keep-going", "--message-format", "short"])
        .args(["--jobs", &ctx.jobs.to_string()])
        .env(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links",
        );
    look(ctx, run, "rustdoc", &cmd, is_rust)
}

fn is_rust(line: &str) -> bool {
    line.contains(": error")
        || line.contains(": warning")
        || line.starts_with("error: could not compile")
}

/// Runs the program in the checkout; its complaints, if it ended otherwise than well.
fn look(
    ctx: &Ctx,
    run: &RunDir,
    name: &str,
    cmd: &Cmd,
    is_complaint: impl Fn(&str) -> bool,
) -> Found {
    let log = run.path.join(format!("lint-{name}.log"));
    let stage = ctx.ui.stage(name);
    let status = cmd.clone().cwd(&ctx.root).run_logged_status(&stage, &log)?;
    if status.success() {
        stage.done("");
        return Ok(Vec::new());
    }
    stage.failed("");
    let text = read(&log)?;
    let mut found: Vec<String> = text
        .lines()
        .filter(|l| is_complaint(l))
        .map(str::to_string)
        .collect();
    if found.is_empty() {
        let lines: Vec<&str> = text.lines().collect();
        found.extend(
            lines[lines.len().saturating_sub(TAIL)..]
                .iter()
                .map(|l| l.to_string()),
        );
    }
    found.push(format!(
        "{name}: {}; see {}",
        proc::describe(status),
        log.display()
    ));
    Ok(found)
}

fn read(log: &Path) -> Result<String> {
    use anyhow::Context as _;
    std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))
}
