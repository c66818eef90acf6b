// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells an installed `fpt --version` which commit it was built from. A build for development asks git when it is
//! asked: to compile everything again after each commit would cost more than it says.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_string())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut commit = String::new();
    if std::env::var("PROFILE").is_ok_and(|p| p == "release") {
        // A commit moves HEAD's log; without git (an unpacked archive) there is nothing to watch.
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
            println!("cargo::rerun-if-changed={log}");
        }
        commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    }
    println!("cargo::rustc-env=FPT_COMMIT={commit}");
}
