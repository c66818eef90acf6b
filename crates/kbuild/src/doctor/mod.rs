// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tool needs from the machine: checked before work starts, each missing thing
//! with the line that installs it.

mod setup;
mod table;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::toolchain::{self, Compiler};
use fpt_kit::{code, ui, Cmd, Ctx, ExitCode, Fail, Result};

pub use setup::{setup, SetupArgs};
pub use table::{meson_wheel, system_meson, BROWSERS};
use table::{Item, TABLE};

/// What an item is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Getting sources.
    Fetch,
    /// Applying patches.
    Patch,
    /// Building QEMU.
    Qemu,
    /// Building a kernel with LLVM.
    Kernel,
    /// Building a kernel with GCC.
    KernelGcc,
    /// Building selftests.
    Selftests,
    /// Running guests.
    Guest,
    /// Making disk images.
    Image,
    /// Comparing with the distribution's QEMU.
    StockQemu,
    /// Debugging a kernel.
    Gdb,
    /// The tests of the report's page.
    Browser,
    /// The stage `lint` of `test`.
    Lint,
}

impl For {
    /// Building a kernel with this compiler.
    pub fn kernel(compiler: Compiler) -> For {
        match compiler {
            Compiler::Llvm => For::Kernel,
            Compiler::Gcc => For::KernelGcc,
        }
    }

    fn command(self) -> &'static str {
        match self {
            For::Fetch => "fetch",
            For::Patch => "patch",
            For::Qemu => "build-qemu",
            For::Kernel => "build-kernel",
            For::KernelGcc => "build-kernel --gcc",
            For::Selftests => "selftest",
            For::Guest => "run",
            For::Image => "build-image",
            For::StockQemu | For::Browser | For::Lint => "test",
            For::Gdb => "gdb",
        }
    }

    /// A build fetches and patches first.
    fn includes(self, other: For) -> bool {
        self == other
            || match self {
                For::Qemu | For::Kernel | For::KernelGcc | For::Selftests => {
                    matches!(other, For::Fetch | For::Patch)
                }
                _ => false,
            }
    }
}

/// The distribution release, as far as package names depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distro {
    /// Debian 12, bookworm.
    Debian12,
    /// Debian 13, trixie.
    Debian13,
    /// Something else.
    Other,
}

impl Distro {
    /// The host's distribution, by /etc/os-release.
    pub fn detect() -> Distro {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Distro::from_os_release(&text)
    }

    fn from_os_release(text: &str) -> Distro {
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name))
                .map(|v| v.trim_matches('"'))
                .unwrap_or("")
        };
        match (field("ID="), field("VERSION_ID=")) {
            ("debian", "12") => Distro::Debian12,
            ("debian", "13") => Distro::Debian13,
            _ => Distro::Other,
        }
    }
}

/// Say what is installed, what is missing and the line that installs it.
#[derive(clap::Args, Debug)]
pub struct DoctorArgs {}

/// Everything missing for `wanted`, in the order of the table.
fn missing(ctx: &Ctx, wanted: Option<For>) -> Vec<&'static Item> {
    TABLE
        .iter()
        .filter(|i| wanted.is_none_or(|w| i.needed.iter().any(|n| w.includes(*n))))
        .filter(|i| (i.check)(ctx).is_err())
        .collect()
}

/// Stop with one line that names what is missing for a command, before work starts.
pub fn require(ctx: &Ctx, wanted: For) -> Result<()> {
    if ctx.dry_run {
        return Ok(());
    }
    let missing = missing(ctx, Some(wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let distro = Distro::detect();
    let names: Vec<&str> = missing.iter().map(|i| i.name).collect();
    let mut lines: Vec<String> = missing.iter().map(|i| i.install_line(distro)).collect();
    lines.sort();
    lines.dedup();
    Err(Fail::infra(
        format!("`{}` needs {}", wanted.command(), names.join(", ")),
        "not installed",
        if lines.len() == 1 {
            format!(
                "install it with `{}`, or everything with `cargo xtask setup`",
                lines.join("")
            )
        } else {
            "run `cargo xtask setup`, or see `cargo xtask doctor` for each line".to_string()
        },
    ))
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn doctor(ctx: &Ctx, _args: DoctorArgs) -> Result<ExitCode> {
    let distro = Distro::detect();
    if ui::is_json() {
        return as_json(ctx, distro);
    }
    let mut bad = 0;
    for item in TABLE {
        let used: Vec<&str> = item.needed.iter().map(|n| n.command()).collect();
        match (item.check)(ctx) {
            Ok(version) => fpt_kit::say!("\n", "ok       {:<22} {version}", item.name),
            Err(why) => {
                bad += 1;
                fpt_kit::say!(
                    "\n",
                    "missing  {:<22} {why}; for {}: {}",
                    item.name,
                    used.join(", "),
                    item.install_line(distro)
                );
            }
        }
    }
    fpt_kit::say!("\n", "{}", compilers());
    fpt_kit::say!("\n", "{}", disk(ctx));
    fpt_kit::say!("\n", "{}", finished(&ctx.cache));
    if distro == Distro::Other {
        fpt_kit::say!("\n", "This is neither Debian 12 nor 13: package names are Debian 13's, `setup` installs nothing here.");
    }
    if bad > 0 {
        return Err(Fail::infra(
            format!("{bad} of {} prerequisites are missing", TABLE.len()),
            "",
            "`cargo xtask setup` installs them",
        ));
    }
    fpt_kit::say!("\n", "Everything is there.");
    Ok(code::OK)
}

/// The table for a program: what is there in which version, and the line that installs what is not.
fn as_json(ctx: &Ctx, distro: Distro) -> Result<ExitCode> {
    let mut all = true;
    let items: Vec<serde_json::Value> = TABLE
        .iter()
        .map(|item| {
            let needed: Vec<&str> = item.needed.iter().map(|n| n.command()).collect();
            match (item.check)(ctx) {
                Ok(version) => json!({
                    "name": item.name, "needed_for": needed, "there": true, "version": version,
                }),
                Err(why) => {
                    all = false;
                    json!({
                        "name": item.name, "needed_for": needed, "there": false, "why": why,
                        "install": item.install_line(distro),
                    })
                }
            }
        })
        .collect();
    ui::json_or_text(&json!({ "schema": 1, "complete": all, "items": items }).to_string());
    Ok(if all { code::OK } else { code::INFRA })
}

/// Whether clang and rustc of the kernel build share one LLVM.
fn compilers() -> String {
    let rustc = toolchain::rustc_versions(&toolchain::rustc_path());
    let clang = toolchain::find_program("clang-19").and_then(|p| toolchain::clang_version(&p));
    match (rustc, clang) {
        (Some((release, rust)), Some(clang)) if rust == clang => {
            format!("LLVM: rustc {release} and clang both use {clang}")
        }
        (Some((release, rust)), Some(clang)) => format!(
            "LLVM: rustc {release} uses {rust}, clang is {clang}: Rust and C cannot be linked as one bitcode"
        ),
        _ => "LLVM: not known, a compiler is missing".into(),
    }
}

fn disk(ctx: &Ctx) -> String {
    let mut dir = ctx.cache.clone();
    while !dir.exists() && dir.pop() {}
    match free_bytes(&dir) {
        Some(free) => format!(
            "Cache: {}, {} GB free (a full set of builds takes about 12 GB)",
            ctx.cache.display(),
            free / 1_000_000_000
        ),
        None => format!("Cache: {}", ctx.cache.display()),
    }
}

/// What was built before, so that nobody wonders what the next command will build.
fn finished(cache: &Path) -> String {
    let count = |kind: &str| {
        let entries = std::fs::read_dir(cache.join("artefacts").join(kind));
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name());
        names
            .filter(|n| !n.to_string_lossy().starts_with('.'))
            .count()
    };
    let kinds = [
        ("kernel", "kernels"),
        ("qemu", "QEMUs"),
        ("kselftests", "sets of selftests"),
        ("walksim", "simulators"),
        ("image", "images of packages"),
    ];
    let all: Vec<String> = (kinds.iter())
        .map(|(kind, name)| format!("{name} {}", count(kind)))
        .collect();
    format!("Built before, of any sources: {}", all.join(", "))
}

fn free_bytes(dir: &PathBuf) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Run a dpkg query for one package: its version if it is installed.
fn dpkg_version(package: &str) -> Option<String> {
    let out = Cmd::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Abbrev}${Version}", package])
        .output()
        .ok()?;
    out.stdout.strip_prefix("ii ").map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["kernel/a", "kernel/b", "kernel/.of", "qemu/c"] {
            let path = dir.path().join("artefacts").join(name);
            std::fs::create_dir_all(path).expect("made");
        }
        let text = finished(dir.path());
        assert!(text.contains("kernels 2, QEMUs 1, "), "{text}");
        assert!(finished(Path::new("/nowhere")).contains("kernels 0"));
    }

    #[test]
    fn releases() {
        assert_eq!(
            Distro::from_os_release("ID=debian\nVERSION_ID=\"12\"\n"),
            Distro::Debian12
        );
        assert_eq!(
            Distro::from_os_release("VERSION_ID=\"13\"\nID=debian\n"),
            Distro::Debian13
        );
        assert_eq!(
            Distro::from_os_release("ID=fedora\nVERSION_ID=40\n"),
            Distro::Other
        );
    }

    #[test]
    fn builds_need_what_fetching_needs() {
        assert!(For::Kernel.includes(For::Fetch) && For::Kernel.includes(For::Kernel));
        assert!(!For::Kernel.includes(For::Qemu) && !For::Guest.includes(For::Fetch));
    }

    #[test]
    fn every_item_can_be_installed() {
        for item in TABLE {
            for distro in [Distro::Debian12, Distro::Debian13, Distro::Other] {
                assert!(!item.install_line(distro).is_empty(), "{}", item.name);
            }
            assert!(!item.needed.is_empty(), "{}", item.name);
        }
    }
}
