// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel: one image for every mode, in a build folder per profile and compiler.

use std::path::{Path, PathBuf};

use super::artefact::{self, Meta};
use super::{compare, config, gdb, hot, Compiler, Kernel, Profile};
use crate::doctor;
use crate::modes;
use crate::patch::{self, Queue};
use crate::sources::{self, git, Project, Source};
use crate::toolchain;
use fpt_geometry::Mode;
use fpt_kit::{code, hash, proc, ui, Ctx, ExitCode, Fail, Result, Steps, Work};

/// Raised when the way of building changes in a way that the other inputs do not show.
const RECIPE: &str = "2";

/// A build of profile fpt from nothing: it took 9 to 10 minutes of two CPUs.
pub const WORK: Work = Work::seconds(1200);

/// The kind of artefact.
const KIND: &str = "kernel";

/// What rustc makes for clang to link into the objects of mm/.
const HOT_BITCODE: &str = "arch/x86/mm/fpt/fpt_hot.bc";

/// Build a kernel.
#[derive(clap::Args, Debug)]
pub struct KernelArgs {
    /// Page-table modes to boot it with: checked here; one image serves all modes
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', value_parser = modes::Parser)]
    mode: Vec<Mode>,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// Compile the C code with gcc instead of clang
    #[arg(long)]
    gcc: bool,
    /// Compare the machine code of mm/, fs/proc/ and arch/x86/mm/ with CONFIG_X86_FPT=n
    /// to that of the unpatched tree; builds these objects only
    #[arg(long, conflicts_with_all = ["profile", "mode", "gcc"])]
    compare_off: bool,
}

/// Runs the command.
///
/// # Errors
///
/// Something is missing, or a step failed; the error names the log.
pub fn main(ctx: &Ctx, args: KernelArgs) -> Result<ExitCode> {
    if args.compare_off {
        let result = compare::compare_off(ctx)?;
        if ctx.dry_run {
            return Ok(code::OK);
        }
        fpt_kit::say!("\n", "{result}");
        return Ok(ExitCode::of_check(result.same()));
    }
    for mode in args.mode.iter().copied() {
        args.profile.check_mode(mode)?;
    }
    let compiler = if args.gcc {
        Compiler::Gcc
    } else {
        Compiler::Llvm
    };
    let kernel = kernel_with(ctx, args.profile, compiler)?;
    if !ctx.dry_run {
        ui::path(&kernel.vmlinux);
        for mode in args.mode.iter().copied() {
            ctx.ui.info(&format!(
                "Linux {} ({}); boot it with: {}",
                kernel.version,
                hash::short(&kernel.hash),
                boot_line(&kernel.vmlinux, args.profile, compiler, mode)
            ));
        }
    }
    Ok(code::OK)
}

/// The command that boots this kernel; `run` by itself builds with clang.
fn boot_line(vmlinux: &Path, profile: Profile, compiler: Compiler, mode: Mode) -> String {
    let file = match compiler {
        Compiler::Llvm => String::new(),
        Compiler::Gcc => format!("FPT_VMLINUX={} ", proc::quote(vmlinux.as_os_str())),
    };
    let profile = match profile {
        Profile::Fpt => String::new(),
        other => format!(" --profile {}", other.name()),
    };
    format!("{file}cargo xtask run --mode {mode}{profile}")
}

/// Build with clang, or return what was built from the same inputs.
pub fn kernel(ctx: &Ctx, profile: Profile) -> Result<Kernel> {
    kernel_with(ctx, profile, Compiler::Llvm)
}

/// The kernel of a profile, built by this compiler where it is not there.
pub fn kernel_with(ctx: &Ctx, profile: Profile, compiler: Compiler) -> Result<Kernel> {
    if let Err(missing) = doctor::require(ctx, doctor::For::kernel(compiler)) {
        return finished(ctx, profile, compiler)?.ok_or(missing);
    }
    let tools = match toolchain::detect(ctx, compiler) {
        Ok(tools) => tools,
        // A dry run requires nothing.
        Err(missing) => match finished(ctx, profile, compiler)? {
            Some(kernel) => return Ok(kernel),
            None if ctx.dry_run => toolchain::planned(ctx, compiler),
            None => return Err(missing),
        },
    };
    let fragments = config::fragments(&ctx.root, profile)?;
    let source = sources::ensure(ctx, Project::Linux)?;
    let hash = input_hash(ctx, profile, &tools.versions, &fragments, &source)?;
    let out = build_dir(ctx, profile.name(), compiler, &source);
    let src = src_dir(ctx, profile, &source);
    if let Some(kernel) = cached(ctx, &hash, &out, &src) {
        let stage = ctx
            .ui
            .stage(&format!("kernel {}{}", profile.name(), compiler.suffix()));
        stage.done(&format!("up to date, {}", hash::short(&hash)));
        let inputs = input_hash(ctx, profile, &any_tools(compiler), &fragments, &source)?;
        artefact::remember(ctx, KIND, &inputs, &hash);
        return Ok(kernel);
    }
    let _lock = patch::tree_lock(ctx, Project::Linux, &source)?;
    if let Some(kernel) = cached(ctx, &hash, &out, &src) {
        // Another run built it while this one waited for the tree.
        return Ok(kernel);
    }
    let src = prepare_tree(ctx, profile, &source)?;
    if input_hash(ctx, profile, &tools.versions, &fragments, &source)? != hash {
        return Err(hash::changed("patches, Rust or configuration", "placed"));
    }
    let title = format!(
        "build kernel {}{} ({})",
        profile.name(),
        compiler.suffix(),
        source.release
    );
    let stage = ctx.ui.stage(&WORK.title(ctx, &title, &out.join("vmlinux")));
    let log = ctx.log_dir().join(format!(
        "kernel-{}{}.log",
        profile.name(),
        compiler.suffix()
    ));
    start_log(ctx, &log)?;
    let steps = Steps {
        ctx,
        stage: &stage,
        log: &log,
    };
    config::configure(steps, &tools, &src, &out, &fragments)?;
    let make = tools.make(&src, &out, ctx.jobs).arg("vmlinux");
    steps.run(&make.args(gdb::targets(profile)))?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(Kernel {
            vmlinux: artefact::dir(ctx, KIND, &hash).join("vmlinux"),
            build_dir: out,
            src_dir: src,
            version: source.release,
            hash,
        });
    }
    let version = std::fs::read_to_string(out.join("include/config/kernel.release"))?
        .trim()
        .to_string();
    let mut meta = Meta::new();
    meta.insert("version".into(), version);
    meta.insert("profile".into(), profile.name().into());
    meta.insert(
        "source".into(),
        format!("{} {}", source.version, source.sha256),
    );
    meta.insert("tools".into(), tools.versions.join("; "));
    meta.insert("built_in".into(), fpt_kit::ui::elapsed(stage.elapsed()));
    // Without the bitcode (gcc, another LLVM) the hooks are ordinary calls.
    let hot_calls = if profile == Profile::Fpt && out.join(HOT_BITCODE).is_file() {
        Some(hot::report(&out)?)
    } else {
        None
    };
    artefact::create(ctx, KIND, &hash, &meta, |dir| {
        artefact::copy(&out.join("vmlinux"), &dir.join("vmlinux"))?;
        artefact::copy(&out.join("System.map"), &dir.join("System.map"))?;
        if let Some(calls) = &hot_calls {
            std::fs::write(dir.join(hot::FILE), calls)?;
        }
        if profile == Profile::Gdb {
            gdb::copy(&out, dir)?;
        }
        artefact::copy(&config::config_path(&out), &dir.join("config"))
    })?;
    let inputs = input_hash(ctx, profile, &any_tools(compiler), &fragments, &source)?;
    artefact::remember(ctx, KIND, &inputs, &hash);
    stage.done(hash::short(&hash));
    cached(ctx, &hash, &out, &src).ok_or_else(|| {
        Fail::infra(
            "the kernel was built but is not in the cache",
            "",
            "is another run cleaning it?",
        )
    })
}

/// In place of the tools' versions, where it does not matter which they were.
fn any_tools(compiler: Compiler) -> [String; 1] {
    [format!("any{}", compiler.suffix())]
}

/// A kernel of these sources, whatever tools it was built by: nothing has to be built for it, so nothing has to be
/// installed.
fn finished(ctx: &Ctx, profile: Profile, compiler: Compiler) -> Result<Option<Kernel>> {
    let fragments = config::fragments(&ctx.root, profile)?;
    let source = sources::planned(ctx, Project::Linux)?;
    let inputs = input_hash(ctx, profile, &any_tools(compiler), &fragments, &source)?;
    let Some(hash) = artefact::recall(ctx, KIND, &inputs) else {
        return Ok(None);
    };
    let out = build_dir(ctx, profile.name(), compiler, &source);
    let kernel = cached(ctx, &hash, &out, &src_dir(ctx, profile, &source));
    if kernel.is_some() {
        let stage = ctx
            .ui
            .stage(&format!("kernel {}{}", profile.name(), compiler.suffix()));
        stage.done(&format!("as in the cache, {}", hash::short(&hash)));
    }
    Ok(kernel)
}

/// Objects of the folders that the queue touches, in a given tree; for checks.
pub fn objects(
    ctx: &Ctx,
    profile: Profile,
    compiler: Compiler,
    src: &Path,
    tag: &str,
) -> Result<PathBuf> {
    doctor::require(ctx, doctor::For::kernel(compiler))?;
    let tools = toolchain::detect(ctx, compiler)?;
    let source = sources::ensure(ctx, Project::Linux)?;
    let mut fragments = config::fragments(&ctx.root, profile)?;
    if profile != Profile::Fpt {
        // Without Rust nothing of these folders changes and the build is minutes shorter.
        fragments.push(config::Fragment {
            name: "without Rust".into(),
            text: "# CONFIG_RUST is not set\n".into(),
        });
    }
    let out = build_dir(ctx, &format!("{tag}-{}", profile.name()), compiler, &source);
    let stage = ctx
        .ui
        .stage(&format!("build objects, {tag} {}", profile.name()));
    let log = ctx
        .log_dir()
        .join(format!("objects-{tag}-{}.log", profile.name()));
    start_log(ctx, &log)?;
    let steps = Steps {
        ctx,
        stage: &stage,
        log: &log,
    };
    config::configure(steps, &tools, src, &out, &fragments)?;
    let make = tools
        .make(src, &out, ctx.jobs)
        // Line numbers in the code would differ wherever a patch adds a line above.
        .arg("KCFLAGS=-Wno-builtin-macro-redefined -D__LINE__=0")
        .args(OBJECT_DIRS);
    ctx.step(&stage, &log, &make)?;
    stage.done("");
    Ok(out)
}

/// Folders of the tree whose objects are compared with the unpatched kernel's.
pub const OBJECT_DIRS: [&str; 3] = ["mm/", "fs/proc/", "arch/x86/mm/"];

pub(super) fn start_log(ctx: &Ctx, log: &Path) -> Result<()> {
    if !ctx.dry_run && log.exists() {
        std::fs::remove_file(log)?;
    }
    Ok(())
}

fn cached(ctx: &Ctx, hash: &str, out: &Path, src: &Path) -> Option<Kernel> {
    let meta = artefact::find(ctx, KIND, hash)?;
    let vmlinux = artefact::dir(ctx, KIND, hash).join("vmlinux");
    vmlinux.is_file().then(|| Kernel {
        vmlinux,
        build_dir: out.to_path_buf(),
        src_dir: src.to_path_buf(),
        version: meta.get("version").cloned().unwrap_or_default(),
        hash: hash.to_string(),
    })
}

/// The folder of a build in the cache.
pub fn build_dir(ctx: &Ctx, name: &str, compiler: Compiler, source: &Source) -> PathBuf {
    ctx.cache.join("build").join(format!(
        "linux-{}-{name}{}",
        hash::short(&source.sha256),
        compiler.suffix()
    ))
}

fn src_dir(ctx: &Ctx, profile: Profile, source: &Source) -> PathBuf {
    let dir = sources::tree_dir(ctx, Project::Linux, source);
    if !profile.has_queue() {
        return dir.with_file_name(format!("linux-{}-unpatched", hash::short(&source.sha256)));
    }
    dir
}

/// The tree of a profile, brought to the right state. The caller holds the tree lock.
pub fn prepare_tree(ctx: &Ctx, profile: Profile, source: &Source) -> Result<PathBuf> {
    if profile.has_queue() {
        let queue =
            Queue::load(&ctx.root, Project::Linux)?.with_extra(&ctx.root, profile.extra())?;
        return Ok(patch::apply_queue(ctx, Project::Linux, source, &queue)?.dir);
    }
    let dir = sources::tree(ctx, Project::Linux, source)?;
    let work = src_dir(ctx, profile, source);
    if work.join("Makefile").is_file() {
        patch::move_unpatched(ctx, &work, profile.extra())?;
        return Ok(work);
    }
    let stage = ctx.ui.stage("check out the unpatched tree");
    let log = ctx.log_dir().join("unpatched.log");
    let add = git(&dir)
        .args(["worktree", "add", "-q", "--force", "--detach"])
        .arg(&work)
        .arg("base");
    ctx.step(&stage, &log, &git(&dir).args(["worktree", "prune"]))?;
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    ctx.step(&stage, &log, &add)?;
    stage.done("");
    patch::move_unpatched(ctx, &work, profile.extra())?;
    Ok(work)
}

/// Everything of the patched tree that is not the base.
pub fn add_tree_inputs(ctx: &Ctx, inputs: &mut hash::Inputs) -> Result<()> {
    Queue::load(&ctx.root, Project::Linux)?.add_to(inputs)?;
    for (from, to) in patch::placed_files(&ctx.root)? {
        // Selftests do not get into the image.
        if !to.starts_with("tools") {
            inputs.file(&to.to_string_lossy(), &from)?;
        }
    }
    Ok(())
}

fn input_hash(
    ctx: &Ctx,
    profile: Profile,
    tools: &[String],
    fragments: &[config::Fragment],
    source: &Source,
) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    inputs
        .text("recipe", RECIPE)
        .text("source", &source.sha256)
        .text("tools", &tools.join("\n"));
    for fragment in fragments {
        inputs.text("fragment", &fragment.text);
    }
    if profile.has_queue() {
        add_tree_inputs(ctx, &mut inputs)?;
    }
    for patch in Queue::extra(&ctx.root, profile.extra())? {
        inputs.file("extra patch", &patch.path)?;
    }
    Ok(inputs.finish())
}
