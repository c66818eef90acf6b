// SPDX-License-Identifier: MIT OR Apache-2.0
//! The compilers of the kernel build, by absolute path: a user's own Rust toolchain that
//! stands first in PATH must not get into the kernel.

use std::path::{Path, PathBuf};

use fpt_kit::{Cmd, Ctx, Fail, Result};

/// The kernel's Rust: release line, and LLVM release of both compilers.
pub const RUST_LINE: &str = "1.85";
/// The version of LLVM that kernels are built with.
pub const LLVM: &str = "19";
/// The version of bindgen that kernels are built with.
pub const BINDGEN: &str = "0.71.1";

/// Which C compiler builds the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// Clang and lld.
    Llvm,
    /// GCC and binutils.
    Gcc,
}

impl Compiler {
    /// The end of names of what this compiler built.
    pub fn suffix(self) -> &'static str {
        match self {
            Compiler::Llvm => "",
            Compiler::Gcc => "-gcc",
        }
    }
}

/// An architecture that the queue must leave alone; clang builds for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// 32 bits, two or three levels
    I386,
    /// Entries are changed by break-before-make
    Arm64,
    /// Levels are found out at boot
    Riscv,
    /// Each process has as many levels as it needs
    S390,
}

impl Arch {
    /// The word that the kernel's make takes.
    pub fn name(self) -> &'static str {
        match self {
            Arch::I386 => "i386",
            Arch::Arm64 => "arm64",
            Arch::Riscv => "riscv",
            Arch::S390 => "s390",
        }
    }
}

/// Search path of the build tools; `FPT_PATH` replaces it.
pub fn search_path() -> String {
    std::env::var("FPT_PATH").unwrap_or_else(|_| {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string()
    })
}

/// A program in [`search_path`].
pub fn find_program(name: &str) -> Option<PathBuf> {
    search_path()
        .split(':')
        .filter(|d| !d.is_empty())
        .map(|d| Path::new(d).join(name))
        .find(|p| p.is_file())
}

/// Environment of all builds: nothing of the user's that changes the result.
pub fn clean_env(mut cmd: Cmd) -> Cmd {
    for name in [
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "CFLAGS",
        "CPPFLAGS",
        "CXXFLAGS",
        "LDFLAGS",
        "ARCH",
        "CROSS_COMPILE",
        "LLVM",
        "CC",
        "LD",
        "KCFLAGS",
        "KBUILD_OUTPUT",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "RUST_LIB_SRC",
        "CARGO",
        "CARGO_TARGET_DIR",
        "BINDGEN_EXTRA_CLANG_ARGS",
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PYENV_VERSION",
    ] {
        cmd = cmd.env_remove(name);
    }
    cmd.env("PATH", search_path()).env("LC_ALL", "C")
}

/// Everything that builds a kernel.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The C compiler.
    pub compiler: Compiler,
    /// The Rust compiler.
    pub rustc: PathBuf,
    /// The sources of Rust's core library.
    pub rust_lib_src: PathBuf,
    /// The program that writes Rust declarations of the kernel's C.
    pub bindgen: PathBuf,
    /// First lines of every tool's version output: part of the artefact's hash.
    pub versions: Vec<String>,
}

/// Where Debian's Rust compiler is.
pub fn rustc_path() -> PathBuf {
    PathBuf::from("/usr/bin/rustc")
}

/// Release and LLVM release of a rustc.
pub fn rustc_versions(rustc: &Path) -> Option<(String, String)> {
    let text = Cmd::new(rustc).arg("-vV").read().ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(|v| v.trim().to_string())
    };
    Some((field("release:")?, field("LLVM version:")?))
}

/// LLVM release of clang.
pub fn clang_version(clang: &Path) -> Option<String> {
    let text = Cmd::new(clang).arg("--version").read().ok()?;
    let words: Vec<&str> = text.lines().next()?.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "version")?;
    words.get(at + 1).map(|v| v.to_string())
}

/// Where the sources of this release's core library are.
pub fn rust_lib_src(release: &str) -> PathBuf {
    PathBuf::from(format!("/usr/src/rustc-{release}/library"))
}

/// bindgen of the right release: this project's own, or one in the search path.
pub fn find_bindgen(ctx: &Ctx) -> Option<PathBuf> {
    let own = bindgen_root(ctx).join("bin/bindgen");
    let from_env = std::env::var_os("FPT_BINDGEN").map(PathBuf::from);
    [Some(own), from_env, find_program("bindgen")]
        .into_iter()
        .flatten()
        .find(|p| {
            p.is_file()
                && Cmd::new(p)
                    .arg("--version")
                    .read()
                    .is_ok_and(|v| v.split_whitespace().any(|w| w == BINDGEN))
        })
}

/// The folder in the cache that bindgen is installed in.
pub fn bindgen_root(ctx: &Ctx) -> PathBuf {
    ctx.cache.join("tools").join(format!("bindgen-{BINDGEN}"))
}

/// Looks for everything that builds a kernel.
///
/// # Errors
///
/// The first thing that is missing, and how to get it.
pub fn detect(ctx: &Ctx, compiler: Compiler) -> Result<Toolchain> {
    let missing = |what: &str| {
        Fail::infra(
            format!("{what} is missing"),
            "the kernel build needs it",
            "run `cargo xtask setup`",
        )
    };
    let rustc = rustc_path();
    let (release, rust_llvm) =
        rustc_versions(&rustc).ok_or_else(|| missing(&format!("{}", rustc.display())))?;
    let bindgen = find_bindgen(ctx).ok_or_else(|| missing(&format!("bindgen {BINDGEN}")))?;
    let mut versions = vec![
        format!("rustc {release} LLVM {rust_llvm}"),
        format!("bindgen {BINDGEN}"),
    ];
    let tools: &[&str] = match compiler {
        Compiler::Llvm => &["clang-19", "ld.lld-19"],
        Compiler::Gcc => &["gcc", "ld"],
    };
    for tool in tools {
        let path = find_program(tool).ok_or_else(|| missing(tool))?;
        let text = ctx.read(&Cmd::new(&path).arg("--version"))?;
        versions.push(text.lines().next().unwrap_or("").to_string());
    }
    Ok(Toolchain {
        compiler,
        rust_lib_src: rust_lib_src(&release),
        rustc,
        bindgen,
        versions,
    })
}

/// The tools as `setup` would install them, for dry runs.
pub fn planned(ctx: &Ctx, compiler: Compiler) -> Toolchain {
    Toolchain {
        compiler,
        rustc: rustc_path(),
        rust_lib_src: rust_lib_src(&format!("{RUST_LINE}.0")),
        bindgen: bindgen_root(ctx).join("bin/bindgen"),
        versions: Vec::new(),
    }
}

impl Toolchain {
    /// `make` for the kernel with every tool named.
    pub fn make(&self, src: &Path, out: &Path, jobs: usize) -> Cmd {
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut cmd = Cmd::new("make")
            .arg("-C")
            .arg(src)
            .arg(format!("O={}", out.display()))
            .arg(format!("-j{jobs}"))
            .arg("ARCH=x86_64");
        cmd = match self.compiler {
            Compiler::Llvm => cmd.arg(format!("LLVM=-{LLVM}")),
            Compiler::Gcc => cmd.arg("CC=gcc"),
        };
        cmd = cmd
            .arg(set("RUSTC", &self.rustc))
            .arg(set("HOSTRUSTC", &self.rustc))
            .arg(set("BINDGEN", &self.bindgen))
            .arg(set("RUST_LIB_SRC", &self.rust_lib_src))
            // An empty one keeps the state of the git tree out of `uname -r`.
            .arg("LOCALVERSION=")
            .arg("KBUILD_BUILD_USER=fpt")
            .arg("KBUILD_BUILD_HOST=fpt-linux")
            .arg("KBUILD_BUILD_VERSION=1")
            .arg("KBUILD_BUILD_TIMESTAMP=Wed Jan  1 00:00:00 UTC 2025");
        clean_env(cmd).env("LIBCLANG_PATH", format!("/usr/lib/llvm-{LLVM}/lib"))
    }
}
