// SPDX-License-Identifier: MIT OR Apache-2.0
//! The patched QEMU: one system emulator with the devices that the guests use, its option
//! ROMs, and the distribution's SeaBIOS.

use std::path::Path;

use anyhow::Context as _;

use super::artefact::{self, Meta};
use super::Qemu;
use crate::doctor;
use crate::patch::{self, Queue};
use crate::sources::{self, Project, Source};
use crate::toolchain::clean_env;
use fpt_kit::{code, hash, ui, Cmd, Ctx, ExitCode, Fail, Result, Stage, Work};

const RECIPE: &str = "1";

/// A build from nothing: it took 3 minutes of two CPUs.
pub const WORK: Work = Work::seconds(370);

/// The kind of artefact.
const KIND: &str = "qemu";

/// In place of gcc's version, where it does not matter which it was.
const ANY_GCC: &str = "any";

const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";

const ROMS: [&str; 6] = [
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot.bin",
    "multiboot_dma.bin",
    "pvh.bin",
];

const CONFIGURE: [&str; 17] = [
    "--python=/usr/bin/python3",
    "--disable-download",
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=fpt",
    "--enable-system",
    "--enable-tcg",
    "--enable-plugins",
    "--enable-virtfs",
    "--enable-attr",
    "--enable-cap-ng",
    "--enable-fdt=system",
    "--disable-install-blobs",
    "--disable-docs",
    "--disable-tools",
    "--disable-debug-info",
];

/// Build the patched QEMU.
#[derive(clap::Args, Debug)]
pub struct QemuArgs {}

/// Runs the command.
///
/// # Errors
///
/// Something is missing, or a step failed; the error names the log.
pub fn main(ctx: &Ctx, _args: QemuArgs) -> Result<ExitCode> {
    let qemu = qemu(ctx)?;
    if !ctx.dry_run {
        ui::path(&qemu.bin);
    }
    Ok(code::OK)
}

fn input_hash(ctx: &Ctx, source: &Source, gcc: &str) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    inputs
        .text("recipe", RECIPE)
        .text("source", &source.sha256)
        .text("gcc", gcc.lines().next().unwrap_or(""))
        .text("configure", &CONFIGURE.join("\n"));
    // It is a part of the artefact, and a machine that only runs QEMU needs none.
    if gcc != ANY_GCC && Path::new(SEABIOS).is_file() {
        inputs.file("seabios", Path::new(SEABIOS))?;
    }
    Queue::load(&ctx.root, Project::Qemu)?.add_to(&mut inputs)?;
    Ok(inputs.finish())
}

/// Build it, or return what was built from the same inputs.
pub fn qemu(ctx: &Ctx) -> Result<Qemu> {
    if let Err(missing) = doctor::require(ctx, doctor::For::Qemu) {
        return finished(ctx)?.ok_or(missing);
    }
    let source = sources::ensure(ctx, Project::Qemu)?;
    let gcc = match ctx.read(&clean_env(Cmd::new("gcc")).arg("--version")) {
        Ok(gcc) => gcc,
        // A dry run requires nothing.
        Err(missing) => match finished(ctx)? {
            Some(qemu) => return Ok(qemu),
            None if ctx.dry_run => String::new(),
            None => return Err(missing),
        },
    };
    let hash = input_hash(ctx, &source, &gcc)?;
    if let Some(qemu) = cached(ctx, &hash) {
        let stage = ctx.ui.stage("QEMU");
        stage.done(&format!("up to date, {}", hash::short(&hash)));
        artefact::remember(ctx, KIND, &input_hash(ctx, &source, ANY_GCC)?, &hash);
        return Ok(qemu);
    }
    let _lock = patch::tree_lock(ctx, Project::Qemu, &source)?;
    if let Some(qemu) = cached(ctx, &hash) {
        return Ok(qemu);
    }
    let applied = patch::apply(ctx, Project::Qemu, &source)?;
    if input_hash(ctx, &source, &gcc)? != hash {
        return Err(hash::changed("the patches of QEMU", "applied"));
    }
    let src = applied.dir;
    let out = ctx
        .cache
        .join("build")
        .join(format!("qemu-{}", hash::short(&source.sha256)));
    let title = format!("build QEMU {}", source.release);
    let made = out.join("qemu-system-x86_64");
    let stage = ctx.ui.stage(&WORK.title(ctx, &title, &made));
    let log = ctx.log_dir().join("qemu.log");
    if !ctx.dry_run {
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        fpt_kit::store::make_dir(&out)?;
    }
    configure(ctx, &stage, &log, &src, &out)?;
    let ninja = Cmd::new("ninja")
        .arg("-C")
        .arg(&out)
        .arg(format!("-j{}", ctx.jobs))
        .arg("qemu-system-x86_64");
    ctx.step(&stage, &log, &clean_env(ninja))?;
    option_roms(ctx, &stage, &log, &src, &out)?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(at(&artefact::dir(ctx, KIND, &hash), &source.release, &hash));
    }
    let mut meta = Meta::new();
    meta.insert("version".into(), source.release.clone());
    meta.insert(
        "source".into(),
        format!("{} {}", source.version, source.sha256),
    );
    meta.insert("built_in".into(), fpt_kit::ui::elapsed(stage.elapsed()));
    artefact::create(ctx, KIND, &hash, &meta, |dir| {
        let bin = dir.join("qemu-system-x86_64");
        artefact::copy(&out.join("qemu-system-x86_64"), &bin)?;
        let data = dir.join("share");
        let include = dir.join("include");
        std::fs::create_dir(&data)?;
        std::fs::create_dir(&include)?;
        for rom in ROMS {
            artefact::copy(&out.join("pc-bios/optionrom").join(rom), &data.join(rom))?;
        }
        artefact::copy(Path::new(SEABIOS), &data.join("bios-256k.bin"))?;
        artefact::copy(
            &src.join("include/qemu/qemu-plugin.h"),
            &include.join("qemu-plugin.h"),
        )?;
        // A binary that does not start must not get into the cache.
        let said = Cmd::new(&bin)
            .arg("-L")
            .arg(&data)
            .arg("--version")
            .read()?;
        stage.note(said.lines().next().unwrap_or(""));
        Ok(())
    })?;
    artefact::remember(ctx, KIND, &input_hash(ctx, &source, ANY_GCC)?, &hash);
    stage.done(hash::short(&hash));
    cached(ctx, &hash).ok_or_else(|| {
        Fail::infra(
            "QEMU was built but is not in the cache",
            "",
            "is another run cleaning it?",
        )
    })
}

/// A QEMU of these sources, whatever compiler built it, and whatever SeaBIOS the machine has now.
fn finished(ctx: &Ctx) -> Result<Option<Qemu>> {
    let source = sources::planned(ctx, Project::Qemu)?;
    let Some(hash) = artefact::recall(ctx, KIND, &input_hash(ctx, &source, ANY_GCC)?) else {
        return Ok(None);
    };
    let qemu = cached(ctx, &hash);
    if qemu.is_some() {
        let stage = ctx.ui.stage("QEMU");
        stage.done(&format!("as in the cache, {}", hash::short(&hash)));
    }
    Ok(qemu)
}

fn cached(ctx: &Ctx, hash: &str) -> Option<Qemu> {
    let meta = artefact::find(ctx, KIND, hash)?;
    let qemu = at(
        &artefact::dir(ctx, KIND, hash),
        meta.get("version").map_or("", String::as_str),
        hash,
    );
    qemu.bin.is_file().then_some(qemu)
}

fn at(dir: &Path, version: &str, hash: &str) -> Qemu {
    Qemu {
        bin: dir.join("qemu-system-x86_64"),
        datadir: dir.join("share"),
        include: dir.join("include"),
        version: version.to_string(),
        hash: hash.to_string(),
    }
}

/// Run configure once per list of options; ninja runs it again itself when files change.
fn configure(ctx: &Ctx, stage: &Stage, log: &Path, src: &Path, out: &Path) -> Result<()> {
    let stamp = out.join("fpt-configured");
    let line = format!("{} {}", src.display(), CONFIGURE.join(" "));
    if !ctx.dry_run
        && out.join("build.ninja").is_file()
        && std::fs::read_to_string(&stamp).is_ok_and(|t| t == line)
    {
        return Ok(());
    }
    if doctor::system_meson().is_none() {
        provide_meson(ctx, src)?;
    }
    let cmd = Cmd::new(src.join("configure")).args(CONFIGURE).cwd(out);
    ctx.step(stage, log, &clean_env(cmd))?;
    if !ctx.dry_run {
        fpt_kit::store::write_atomic(&stamp, line.as_bytes())?;
    }
    Ok(())
}

/// Where the system's meson is too old, configure takes a wheel from the source tree.
fn provide_meson(ctx: &Ctx, src: &Path) -> Result<()> {
    let wheel = doctor::meson_wheel(ctx);
    let name = wheel.file_name().context("a wheel has a name")?;
    let to = src.join("python/wheels").join(name);
    if ctx.dry_run {
        ctx.ui.command(&Cmd::new("cp").arg(&wheel).arg(&to));
        return Ok(());
    }
    if !to.is_file() {
        fpt_kit::store::make_dir(to.parent().unwrap_or(src))?;
        artefact::copy(&wheel, &to)?;
    }
    Ok(())
}

/// The option ROMs: configure leaves them out without a 32-bit libgcc, which they do not need.
fn option_roms(ctx: &Ctx, stage: &Stage, log: &Path, src: &Path, out: &Path) -> Result<()> {
    let dir = out.join("pc-bios/optionrom");
    let config = format!(
        "TOPSRC_DIR={}\nCC=gcc\nOBJCOPY=objcopy\nPYTHON=/usr/bin/python3\nEXTRA_CFLAGS=-m32\n",
        src.display()
    );
    if !ctx.dry_run {
        fpt_kit::store::make_dir(&dir)?;
        fpt_kit::store::write_if_changed(&dir.join("config.mak"), config.as_bytes())?;
        let makefile = dir.join("Makefile");
        if !makefile.exists() {
            artefact::copy(&src.join("pc-bios/optionrom/Makefile"), &makefile)?;
        }
    }
    let cmd = Cmd::new("make").arg("-C").arg(&dir);
    ctx.step(stage, log, &clean_env(cmd))
}
