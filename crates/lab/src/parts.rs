// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is made of: kernel, QEMU, root file system. Built here if missing.
//!
//! For work on this tool itself, `FPT_VMLINUX`, `FPT_VMLINUX_UNPATCHED`, `FPT_QEMU` (with `FPT_QEMU_DATA`), `FPT_INITRD` and
//! `FPT_BUSYBOX` name files to use as they are instead of what would be built.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use fpt_kbuild::build::{self, artefact, Kernel, Profile};
use fpt_kbuild::doctor;
use fpt_kit::{hash, store, Cmd, Ctx, Fail, Result};
use fpt_verdict::rundir::RunDir;
use fpt_vm::initramfs::{self, Image, Tree};
use fpt_vm::qemu::{Program, Spec};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The file that an environment variable names; none where it is not set.
///
/// # Errors
///
/// There is no such file.
pub fn named(var: &str, what: &str) -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(var).map(PathBuf::from) else {
        return Ok(None);
    };
    if path.is_file() {
        return Ok(Some(path));
    }
    Err(Fail::infra(
        format!("no {what} at {}", path.display()),
        format!("{var} names it"),
        format!("unset {var} or correct it"),
    ))
}

/// The kernel of a profile: built where it is not there, or the one that FPT_VMLINUX names.
pub fn kernel(ctx: &Ctx, profile: Profile) -> Result<Kernel> {
    named_or_built(ctx, "FPT_VMLINUX", profile)
}

/// The distribution's kernel as it is, which shares no bug of ours.
pub fn unpatched(ctx: &Ctx) -> Result<Kernel> {
    named_or_built(ctx, "FPT_VMLINUX_UNPATCHED", Profile::Unpatched)
}

fn named_or_built(ctx: &Ctx, var: &str, profile: Profile) -> Result<Kernel> {
    let Some(vmlinux) = named(var, "kernel")? else {
        return build::kernel(ctx, profile);
    };
    let dir = vmlinux.parent().unwrap_or(Path::new("/")).to_path_buf();
    let hash = hash::of_file(&vmlinux)?;
    Ok(Kernel {
        vmlinux,
        build_dir: dir.clone(),
        src_dir: dir,
        version: var.into(),
        hash,
    })
}

/// Ours, or the distribution's with `stock`.
pub fn qemu(ctx: &Ctx, stock: bool) -> Result<Program> {
    if stock {
        let bin = build::stock_qemu(ctx)?;
        let version = first_line(&Cmd::new(&bin).arg("--version").read()?);
        let hash = hash::of_text(&version);
        return Ok(Program {
            bin,
            datadir: None,
            fpt: false,
            version,
            hash,
        });
    }
    if let Some(bin) = named("FPT_QEMU", "QEMU")? {
        let fpt = Cmd::new(&bin)
            .args(["-cpu", "help"])
            .read()?
            .split_whitespace()
            .any(|w| w == "fpt");
        let version = first_line(&Cmd::new(&bin).arg("--version").read()?);
        let hash = hash::of_file(&bin)?;
        let datadir = std::env::var_os("FPT_QEMU_DATA").map(PathBuf::from);
        return Ok(Program {
            bin,
            datadir,
            fpt,
            version,
            hash,
        });
    }
    let qemu = build::qemu(ctx)?;
    Ok(Program {
        bin: qemu.bin,
        datadir: Some(qemu.datadir),
        fpt: true,
        version: qemu.version,
        hash: qemu.hash,
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").to_string()
}

/// The guest's init, static; cached by the hash of its sources.
pub fn init(ctx: &Ctx) -> Result<PathBuf> {
    let mut inputs = hash::Inputs::new();
    let source = ctx.root.join("guest/init");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    inputs
        .file("Cargo.lock", &ctx.root.join("Cargo.lock"))?
        .file("Cargo.toml", &source.join("Cargo.toml"))?
        .tree("src", &source.join("src"))?;
    let of = inputs.finish();
    let at = |hash: &str| {
        let dir = ctx.cache.join("init").join(hash::short(hash));
        dir.join("fpt-init")
    };
    let version = match Cmd::new(&rustc).arg("-Vv").read() {
        Ok(version) => version,
        // Nothing can be built, and nothing has to be if it was built before.
        Err(missing) => {
            let last = artefact::recall(ctx, "init", &of).map(|hash| at(&hash));
            return last.filter(|file| file.is_file()).ok_or(missing);
        }
    };
    let hash = inputs.text("rustc", &version).finish();
    let done = at(&hash);
    if done.is_file() {
        artefact::remember(ctx, "init", &of, &hash);
        return Ok(done);
    }
    doctor::require(ctx, doctor::For::Guest)?;
    let _lock = store::lock(ctx, "init")?;
    if done.is_file() {
        return Ok(done);
    }
    // Cargo takes the same file of two checkouts for one: a folder for each.
    let root = hash::of_text(&ctx.root.to_string_lossy());
    let target = ctx
        .cache
        .join("init")
        .join(format!("target-{}", hash::short(&root)));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Named target: else the flag would reach build scripts and procedural macros, which cannot be static.
    let cmd = Cmd::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "fpt-init",
            "--bin",
            "fpt-init",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target)
        .cwd(&ctx.root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C panic=abort")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    let stage = ctx.ui.stage("build the guest's init");
    ctx.step(&stage, &ctx.log_dir().join("init.log"), &cmd)?;
    stage.done("");
    if !ctx.dry_run {
        let built = target.join(TARGET).join("release/fpt-init");
        let data =
            std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        store::write_atomic(&done, &data)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&done, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot change {}", done.display()))?;
    }
    Ok(done)
}

/// The root file system; `add` puts more into it.
pub fn image(ctx: &Ctx, add: impl FnOnce(&mut Tree) -> Result<()>) -> Result<Image> {
    if let Some(path) = named("FPT_INITRD", "initramfs")? {
        let hash = hash::of_file(&path)?;
        return Ok(Image { path, hash });
    }
    let init = init(ctx)?;
    let busybox = match named("FPT_BUSYBOX", "busybox")? {
        Some(path) => path,
        None => build::busybox(ctx)?,
    };
    let applets: Vec<String> = ctx
        .read(&Cmd::new(&busybox).arg("--list"))?
        .lines()
        .map(str::to_string)
        .collect();
    if ctx.dry_run {
        return Ok(Image {
            path: ctx.root.join("target/fpt/initramfs/guest.cpio"),
            hash: String::new(),
        });
    }
    let mut tree = initramfs::base(&init, &busybox, &applets)?;
    add(&mut tree)?;
    initramfs::write(ctx, &tree)
}

/// Everything for a guest, and its hashes in the run's meta data.
pub struct Parts {
    /// The kernel.
    pub kernel: Kernel,
    /// The emulator.
    pub qemu: Program,
    /// The root file system.
    pub image: Image,
}

impl Parts {
    /// A guest of these parts, with the defaults of [`Spec::new`].
    pub fn spec(&self) -> Spec {
        Spec::new(&self.kernel.vmlinux, &self.image.path)
    }

    /// Notes in the run folder what the guests are made of.
    pub fn record(&self, run: &RunDir) {
        run.set("kernel", kernel_facts(&self.kernel));
        run.set("qemu", serde_json::json!({ "version": self.qemu.version, "hash": self.qemu.hash, "bin": self.qemu.bin }));
        run.set("initramfs", serde_json::json!({ "hash": self.image.hash }));
    }
}

/// What the run folder says of a kernel.
pub fn kernel_facts(kernel: &Kernel) -> serde_json::Value {
    serde_json::json!({ "version": kernel.version, "hash": kernel.hash, "vmlinux": kernel.vmlinux })
}
