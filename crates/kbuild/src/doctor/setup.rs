// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installs what is missing: apt packages through apt-get, the rest into the cache folder.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::table::{cargo_part, meson_requirement, meson_wheel, rust_packages, CargoPart, How};
use super::{missing, Distro};
use crate::toolchain::{self, BINDGEN, RUST_LINE};
use fpt_kit::{code, proc, store, Cmd, Ctx, ExitCode, Fail, Result, Stage};

/// Install what is missing.
#[derive(clap::Args, Debug)]
pub struct SetupArgs {
    /// Do not ask before installing
    #[arg(long, short)]
    yes: bool,
    /// Then fetch and build what the other commands use, so that they find it: everything but the disk images of `bench`
    #[arg(long)]
    all: bool,
}

impl SetupArgs {
    /// Whether what the other commands use is to be built.
    pub fn all(&self) -> bool {
        self.all
    }
}

/// What `setup` would do.
#[derive(Debug, Default)]
struct Plan {
    packages: Vec<String>,
    /// Components of rustup's toolchain.
    components: Vec<&'static str>,
    rust: bool,
    bindgen: bool,
    meson: bool,
}

impl Plan {
    fn make(ctx: &Ctx, distro: Distro) -> Plan {
        let mut plan = Plan::default();
        for item in missing(ctx, None) {
            match item.how {
                How::Apt(package) => plan.packages.push(package.to_string()),
                How::Rust => plan.rust = true,
                How::Cargo(part) => match cargo_part(part, distro) {
                    CargoPart::Rustup(part) => plan.components.push(part),
                    CargoPart::Apt(package) => plan.packages.push(package),
                },
                How::Bindgen => plan.bindgen = true,
                How::Meson => plan.meson = true,
            }
        }
        plan.packages.sort_unstable();
        plan.packages.dedup();
        plan
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && self.components.is_empty()
            && !self.rust
            && !self.bindgen
            && !self.meson
    }

    fn describe(&self, ctx: &Ctx, distro: Distro) -> String {
        let mut lines = Vec::new();
        if !self.packages.is_empty() {
            lines.push(format!(
                "  from the Debian archive: {}",
                self.packages.join(" ")
            ));
        }
        if !self.components.is_empty() {
            lines.push(format!("  through rustup: {}", self.components.join(" ")));
        }
        if self.rust {
            lines.push(format!(
                "  from the Debian archive, release {RUST_LINE}: {}",
                rust_packages(distro).join(" ")
            ));
        }
        if self.bindgen {
            lines.push(format!(
                "  through cargo, into {}: bindgen-cli {BINDGEN}",
                toolchain::bindgen_root(ctx).display()
            ));
        }
        if self.meson {
            lines.push(format!("  through pip, as {}", meson_wheel(ctx).display()));
        }
        lines.join("\n")
    }
}

/// Runs the command.
///
/// # Errors
///
/// Something cannot be installed.
pub fn setup(ctx: &Ctx, args: SetupArgs) -> Result<ExitCode> {
    let distro = Distro::detect();
    let plan = Plan::make(ctx, distro);
    if plan.is_empty() {
        fpt_kit::say!("\n", "Everything is there; nothing to install.");
        return Ok(code::OK);
    }
    fpt_kit::say!("\n", "To be installed:\n{}", plan.describe(ctx, distro));
    if distro == Distro::Other {
        return Err(Fail::infra(
            "cannot install packages here",
            "this is neither Debian 12 nor Debian 13",
            "install the above by hand; `cargo xtask doctor` says what is still missing",
        ));
    }
    if !args.yes && !ctx.dry_run && !confirmed()? {
        fpt_kit::say!("\n", "Nothing was installed.");
        return Ok(code::OK);
    }
    let _lock = if ctx.dry_run {
        None
    } else {
        Some(store::lock(ctx, "setup")?)
    };
    let log = ctx.log_dir().join("setup.log");
    if !plan.packages.is_empty() || plan.rust {
        let root = Root::new(ctx)?;
        let stage = ctx.ui.stage("install Debian packages");
        ctx.step(&stage, &log, &root.apt(&["update"]))?;
        if !plan.packages.is_empty() {
            let mut line = vec!["install", "-y", "--no-install-recommends"];
            line.push("--allow-downgrades");
            line.extend(plan.packages.iter().map(String::as_str));
            ctx.step(&stage, &log, &root.apt(&line))?;
        }
        if plan.rust {
            install_rust(ctx, &stage, &log, &root, distro)?;
        }
        stage.done("");
    }
    if !plan.components.is_empty() {
        let stage = ctx.ui.stage("add parts of the Rust toolchain");
        let add = Cmd::new("rustup")
            .args(["component", "add"])
            .args(&plan.components);
        ctx.step(&stage, &log, &add)?;
        stage.done("");
    }
    if plan.bindgen {
        let stage = ctx.ui.stage(&format!("build bindgen {BINDGEN}"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let cmd = Cmd::new(cargo)
            .args([
                "install",
                "bindgen-cli",
                "--locked",
                "--version",
                BINDGEN,
                "--root",
            ])
            .arg(toolchain::bindgen_root(ctx))
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        ctx.step(&stage, &log, &cmd)?;
        stage.done("");
    }
    if plan.meson {
        fetch_meson(ctx, &log)?;
    }
    if ctx.dry_run {
        return Ok(code::OK);
    }
    let left: Vec<&str> = missing(ctx, None).iter().map(|i| i.name).collect();
    if !left.is_empty() {
        return Err(Fail::infra(
            format!("still missing: {}", left.join(", ")),
            "the installation said that it succeeded",
            format!("see {} and `cargo xtask doctor`", log.display()),
        ));
    }
    fpt_kit::say!("\n", "Everything is there.");
    Ok(code::OK)
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Fail::usage(
            "setup asks before it installs",
            "and there is no terminal to ask on",
            "add --yes",
        ));
    }
    print!("Install? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// How to become root for apt.
struct Root {
    sudo: bool,
}

impl Root {
    fn new(ctx: &Ctx) -> Result<Root> {
        if rustix::process::geteuid().is_root() {
            return Ok(Root { sudo: false });
        }
        if toolchain::find_program("sudo").is_none() {
            return Err(Fail::infra(
                "cannot install packages",
                "not root, and there is no sudo",
                "run `cargo xtask setup` as root, or install what `cargo xtask doctor` names",
            ));
        }
        // Asks for the password while it still has the terminal.
        if !ctx.dry_run && !Cmd::new("sudo").arg("-v").run_foreground()?.success() {
            return Err(Fail::infra(
                "sudo refused",
                "",
                "install what `cargo xtask doctor` names in another way",
            ));
        }
        Ok(Root { sudo: true })
    }

    fn apt(&self, args: &[&str]) -> Cmd {
        let base = if self.sudo {
            Cmd::new("sudo").args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
        } else {
            Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive")
        };
        base.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
            .args(args)
            .env("LC_ALL", "C")
    }
}

/// Install the Rust toolchain at exactly one version. The archive's newest may be too new,
/// and the right one may leave it: the packages are kept in the cache folder.
fn install_rust(ctx: &Ctx, stage: &Stage, log: &Path, root: &Root, distro: Distro) -> Result<()> {
    let packages = rust_packages(distro);
    let first = packages.first().copied().unwrap_or("rustc");
    let kept = ctx.cache.join("debs");
    let text = ctx.read(
        &Cmd::new("apt-cache")
            .args(["madison", first])
            .env("LC_ALL", "C"),
    )?;
    let install = [
        "install",
        "-y",
        "--no-install-recommends",
        "--allow-downgrades",
    ];
    if let Some(version) = pick_version(&text, RUST_LINE) {
        stage.note(&format!("{first} {version}"));
        let wanted: Vec<String> = packages.iter().map(|p| format!("{p}={version}")).collect();
        let args: Vec<&str> = install
            .into_iter()
            .chain(wanted.iter().map(String::as_str))
            .collect();
        keep_debs(ctx, stage, log, &kept, &wanted);
        return ctx.step(stage, log, &root.apt(&args));
    }
    let debs: Vec<String> = packages
        .iter()
        .filter_map(|p| kept_deb(&kept, p))
        .map(|p| p.display().to_string())
        .collect();
    if debs.len() != packages.len() {
        return Err(Fail::infra(
            format!("no rustc {RUST_LINE} for the kernel"),
            format!("the archive's versions are {}", versions(&text).join(", ")),
            format!(
                "put {} packages of release {RUST_LINE} into {} and run setup again",
                packages.join(", "),
                kept.display()
            ),
        ));
    }
    stage.note("from the packages kept in the cache folder");
    let args: Vec<&str> = install
        .into_iter()
        .chain(debs.iter().map(String::as_str))
        .collect();
    ctx.step(stage, log, &root.apt(&args))
}

/// Download the packages beside installing them. Only a convenience for a later day:
/// failing to do it fails nothing.
fn keep_debs(ctx: &Ctx, stage: &Stage, log: &Path, kept: &Path, wanted: &[String]) {
    let cmd = Cmd::new("apt-get")
        .args(["-o", "APT::Sandbox::User=", "download"])
        .args(wanted)
        .cwd(kept);
    if ctx.dry_run {
        ctx.ui.command(&cmd);
        return;
    }
    let done = store::make_dir(kept).and_then(|()| ctx.step(stage, log, &cmd));
    if done.is_err() {
        stage.note("the packages could not be kept in the cache folder");
    }
}

fn kept_deb(dir: &Path, package: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            let name = p.file_name().map(|n| n.to_string_lossy().into_owned());
            name.is_some_and(|n| {
                n.starts_with(&format!("{package}_{RUST_LINE}.")) && n.ends_with(".deb")
            })
        })
}

/// The versions of `apt-cache madison`.
fn versions(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.split('|').nth(1))
        .map(|v| v.trim().to_string())
        .collect()
}

fn pick_version(text: &str, line: &str) -> Option<String> {
    versions(text)
        .into_iter()
        .find(|v| v.starts_with(&format!("{line}.")))
}

/// Get the meson wheel through the pip of a throw-away environment.
fn fetch_meson(ctx: &Ctx, log: &Path) -> Result<()> {
    let stage = ctx.ui.stage("fetch meson for QEMU");
    let tmp_parent = ctx.cache.join("tmp");
    if ctx.dry_run {
        ctx.ui
            .command(&Cmd::new("/usr/bin/python3").args(["-m", "venv", "VENV"]));
        ctx.ui.command(
            &Cmd::new("VENV/bin/pip")
                .args([
                    "download",
                    "--no-deps",
                    "--require-hashes",
                    "-r",
                    "REQUIREMENTS",
                    "-d",
                ])
                .arg(ctx.cache.join("tools")),
        );
        stage.done("dry run");
        return Ok(());
    }
    store::make_dir(&tmp_parent)?;
    let tmp = tempfile::tempdir_in(&tmp_parent)?;
    let _guard = proc::remove_on_exit(tmp.path());
    let venv = tmp.path().join("venv");
    let requirements = tmp.path().join("requirements");
    std::fs::write(&requirements, meson_requirement())?;
    let make = Cmd::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv);
    ctx.step(&stage, log, &toolchain::clean_env(make))?;
    let get = Cmd::new(venv.join("bin/pip"))
        .args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "-r",
        ])
        .arg(&requirements)
        .arg("-d")
        .arg(tmp.path());
    ctx.step(&stage, log, &toolchain::clean_env(get))?;
    let wheel = meson_wheel(ctx);
    if let (Some(dir), Some(name)) = (wheel.parent(), wheel.file_name()) {
        store::make_dir(dir)?;
        std::fs::rename(tmp.path().join(name), &wheel)?;
    }
    stage.done("");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = " rustc-web | 1.96.0+dfsg1-1~deb12u2 | http://m.example bookworm-security/main amd64 Packages\n rustc-web | 1.85.0+dfsg3-1~deb12u3 | http://m.example bookworm/main amd64 Packages\n";

    #[test]
    fn the_right_line_is_picked_though_a_newer_one_is_there() {
        assert_eq!(
            pick_version(MADISON, "1.85").as_deref(),
            Some("1.85.0+dfsg3-1~deb12u3")
        );
        assert_eq!(pick_version(MADISON, "1.8"), None);
        assert_eq!(pick_version("", "1.85"), None);
    }

    #[test]
    fn kept_packages_are_found_by_line() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("rustc-web_1.96.0_amd64.deb"), "").expect("written");
        assert_eq!(kept_deb(dir.path(), "rustc-web"), None);
        std::fs::write(dir.path().join("rustc-web_1.85.0+x_amd64.deb"), "").expect("written");
        assert!(kept_deb(dir.path(), "rustc-web").is_some());
    }
}
