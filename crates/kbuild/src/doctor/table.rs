// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of prerequisites.

use std::path::{Path, PathBuf};

use super::{dpkg_version, Distro, For};
use crate::toolchain::{self, find_program, BINDGEN, RUST_LINE};
use fpt_kit::{Cmd, Ctx};

/// The meson release that is taken where the system's is too old for QEMU.
const MESON: &str = "1.5.0";
pub const MESON_SHA256: &str = "52b34f4903b882df52ad0d533146d4b992c018ea77399f825579737672ae7b20";

/// Something that the host must have.
pub struct Item {
    /// The name on the screen.
    pub name: &'static str,
    /// What needs it.
    pub needed: &'static [For],
    /// Its version, or why it will not do.
    pub check: fn(&Ctx) -> Result<String, String>,
    /// How it is installed.
    pub how: How,
}

/// How something is installed.
pub enum How {
    /// An apt package, for Debian 12 and 13.
    Apt(&'static str),
    /// Part of the Debian Rust toolchain of [`RUST_LINE`].
    Rust,
    /// A part of the toolchain whose cargo runs this program, by the name that rustup has for it.
    Cargo(&'static str),
    /// cargo install into the cache folder.
    Bindgen,
    /// A wheel into the cache folder.
    Meson,
}

impl Item {
    /// The command that installs it on this distribution, or what else to do.
    pub fn install_line(&self, distro: Distro) -> String {
        match self.how {
            How::Apt(package) => format!("apt-get install {package}"),
            How::Rust => rust_line(distro),
            How::Cargo(part) => cargo_part(part, distro).line(),
            How::Bindgen => "cargo xtask setup".into(),
            How::Meson => "cargo xtask setup".into(),
        }
    }
}

/// What shows the report's page without a screen, by package and program: the smallest first.
pub const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// The packages of the kernel's Rust toolchain.
pub fn rust_packages(distro: Distro) -> &'static [&'static str] {
    match distro {
        Distro::Debian12 => &[
            "rustc-web",
            "libstd-rust-web-dev",
            "libstd-rust-web-1.85",
            "rust-web-src",
        ],
        _ => &["rustc", "libstd-rust-dev", "rust-src"],
    }
}

/// Where a part of cargo's own toolchain comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CargoPart {
    /// The toolchain is rustup's.
    Rustup(&'static str),
    /// A package beside the one that cargo is from, in its version.
    Apt(String),
}

impl CargoPart {
    /// The command that installs it.
    pub fn line(&self) -> String {
        match self {
            CargoPart::Rustup(part) => format!("rustup component add {part}"),
            CargoPart::Apt(package) => format!("apt-get install {package}"),
        }
    }
}

/// How a part of the toolchain is installed that runs this program.
pub fn cargo_part(part: &'static str, distro: Distro) -> CargoPart {
    // Debian 12 has cargo twice: `cargo` is too old for us.
    let (cargo, package) = match (distro, part) {
        (Distro::Debian12, "clippy") => ("cargo-web", "rust-web-clippy"),
        (Distro::Debian12, _) => ("cargo-web", "rustfmt-web"),
        (_, "clippy") => ("cargo", "rust-clippy"),
        _ => ("cargo", "rustfmt"),
    };
    // Debian 13's is a link to a folder of its release.
    let from_apt = cargo_path().is_some_and(|cargo| {
        ["/usr/bin", "/usr/lib"]
            .iter()
            .any(|d| cargo.starts_with(d))
    });
    match (from_apt, dpkg_version(cargo)) {
        (true, Some(version)) => CargoPart::Apt(format!("{package}={version}")),
        (true, None) => CargoPart::Apt(package.into()),
        (false, _) => CargoPart::Rustup(part),
    }
}

/// The cargo that runs this program; of an installed program, the one that a shell finds.
fn cargo_path() -> Option<PathBuf> {
    let by_name = || {
        let path = std::env::var_os("PATH")?;
        let mut all = std::env::split_paths(&path).map(|dir| dir.join("cargo"));
        all.find(|file| file.is_file())
    };
    (std::env::var_os("CARGO").map(PathBuf::from)).or_else(by_name)
}

/// The version of a command of cargo that is a program of its own.
fn cargo_command(name: &str) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    match Cmd::new(cargo).args([name, "--version"]).output() {
        Ok(out) if out.status.success() => Ok(out.stdout.trim().to_string()),
        _ => Err("not installed".into()),
    }
}

fn rust_line(distro: Distro) -> String {
    match distro {
        // The newest version there is too new for the kernel: the line needs the version.
        Distro::Debian12 => format!(
            "V=$(apt-cache madison rustc-web | awk '$3 ~ /^{RUST_LINE}/ {{print $3; exit}}'); apt-get install --allow-downgrades {}",
            rust_packages(distro).iter().map(|p| format!("{p}=$V")).collect::<Vec<_>>().join(" ")
        ),
        _ => format!("apt-get install {}", rust_packages(distro).join(" ")),
    }
}

macro_rules! program {
    ($name:literal, $package:literal, $needed:expr) => {
        Item {
            name: $name,
            needed: $needed,
            check: |_| program_path($name),
            how: How::Apt($package),
        }
    };
}

macro_rules! header {
    ($package:literal, $needed:expr) => {
        Item {
            name: $package,
            needed: $needed,
            check: |_| dpkg_version($package).ok_or_else(|| "not installed".to_string()),
            how: How::Apt($package),
        }
    };
}

use For::{
    Browser, Fetch, Gdb, Guest, Image, Kernel, KernelGcc, Lint, Patch, Qemu, Selftests, StockQemu,
};

/// Everything that any command needs.
pub const TABLE: &[Item] = &[
    program!("apt-get", "apt", &[Fetch, Image]),
    program!("dpkg-source", "dpkg-dev", &[Fetch]),
    program!("tar", "tar", &[Fetch]),
    program!("xz", "xz-utils", &[Fetch]),
    program!("patch", "patch", &[Fetch]),
    program!("curl", "curl", &[Fetch]),
    program!("git", "git", &[Fetch, Patch, Lint]),
    program!("perl", "perl", &[Patch, Kernel, KernelGcc]),
    program!("make", "make", &[Qemu, Kernel, KernelGcc, Selftests]),
    program!("gcc", "gcc", &[Qemu, KernelGcc, Selftests]),
    header!("libc6-dev", &[Qemu, Kernel, KernelGcc, Selftests, Guest]),
    program!("ninja", "ninja-build", &[Qemu]),
    program!(
        "pkg-config",
        "pkg-config",
        &[Qemu, Kernel, KernelGcc, Selftests]
    ),
    Item {
        name: "python3 with venv",
        needed: &[Qemu],
        check: |_| {
            let ok = Cmd::new("/usr/bin/python3")
                .args(["-c", "import ensurepip, venv"])
                .succeeds();
            if ok {
                Ok(String::new())
            } else {
                Err("not installed".into())
            }
        },
        how: How::Apt("python3-venv"),
    },
    Item {
        name: "meson",
        needed: &[Qemu],
        check: |ctx| {
            if let Some(version) = system_meson() {
                return Ok(version);
            }
            let wheel = meson_wheel(ctx);
            if wheel.is_file() {
                return Ok(format!("{MESON}, in the cache"));
            }
            Err(format!("none of at least {MESON}"))
        },
        how: How::Meson,
    },
    header!("libglib2.0-dev", &[Qemu]),
    header!("libfdt-dev", &[Qemu]),
    header!("libcap-ng-dev", &[Qemu]),
    header!("libattr1-dev", &[Qemu]),
    header!("zlib1g-dev", &[Qemu]),
    file_item(
        "seabios",
        &[Qemu],
        |_| file_there("/usr/share/seabios/bios-256k.bin"),
        "seabios",
    ),
    program!("clang-19", "clang-19", &[Kernel]),
    program!("ld.lld-19", "lld-19", &[Kernel]),
    program!("llvm-objcopy-19", "llvm-19", &[Kernel]),
    file_item(
        "libclang-19",
        &[Kernel, KernelGcc],
        |_| file_there("/usr/lib/llvm-19/lib/libclang-19.so.1"),
        "libclang1-19",
    ),
    program!("flex", "flex", &[Kernel, KernelGcc]),
    program!("bison", "bison", &[Kernel, KernelGcc]),
    program!("bc", "bc", &[Kernel, KernelGcc]),
    header!("libelf-dev", &[Kernel, KernelGcc]),
    Item {
        name: "rustc of the kernel",
        needed: &[Kernel, KernelGcc],
        check: |_| rustc_right(),
        how: How::Rust,
    },
    Item {
        name: "Rust library source",
        needed: &[Kernel, KernelGcc],
        check: |_| {
            let (release, _) = toolchain::rustc_versions(&toolchain::rustc_path())
                .ok_or("no rustc to go with it")?;
            let dir = toolchain::rust_lib_src(&release);
            if dir.join("core/src/lib.rs").is_file() {
                Ok(dir.display().to_string())
            } else {
                Err(format!("none of rustc {release}"))
            }
        },
        how: How::Rust,
    },
    Item {
        name: "bindgen",
        needed: &[Kernel, KernelGcc],
        check: |ctx| match toolchain::find_bindgen(ctx) {
            Some(path) => Ok(format!("{BINDGEN} {}", path.display())),
            None => Err(format!("none of release {BINDGEN}")),
        },
        how: How::Bindgen,
    },
    header!("libcap-dev", &[Selftests]),
    header!("libnuma-dev", &[Selftests]),
    header!("liburing-dev", &[Selftests]),
    program!("rsync", "rsync", &[Selftests]),
    program!("busybox", "busybox-static", &[Guest]),
    program!("dpkg-deb", "dpkg", &[Image]),
    program!("mke2fs", "e2fsprogs", &[Image]),
    program!("qemu-system-x86_64", "qemu-system-x86", &[StockQemu]),
    program!("gdb", "gdb", &[Gdb]),
    program!("codespell", "codespell", &[Lint]),
    program!("shellcheck", "shellcheck", &[Lint]),
    Item {
        name: "clippy",
        needed: &[Lint],
        check: |_| cargo_command("clippy"),
        how: How::Cargo("clippy"),
    },
    Item {
        name: "rustfmt",
        needed: &[Lint],
        check: |_| cargo_command("fmt"),
        how: How::Cargo("rustfmt"),
    },
    Item {
        name: "a browser",
        needed: &[Browser],
        check: |_| {
            BROWSERS
                .iter()
                .find_map(|name| program_path(name).ok())
                .ok_or_else(|| "not installed".into())
        },
        how: How::Apt(BROWSERS[0]),
    },
];

const fn file_item(
    name: &'static str,
    needed: &'static [For],
    check: fn(&Ctx) -> Result<String, String>,
    package: &'static str,
) -> Item {
    Item {
        name,
        needed,
        check,
        how: How::Apt(package),
    }
}

fn program_path(name: &str) -> Result<String, String> {
    find_program(name)
        .map(|p| p.display().to_string())
        .ok_or_else(|| "not installed".into())
}

fn file_there(path: &str) -> Result<String, String> {
    if Path::new(path).is_file() {
        Ok(path.to_string())
    } else {
        Err(format!("no {path}"))
    }
}

fn rustc_right() -> Result<String, String> {
    let path = toolchain::rustc_path();
    let Some((release, llvm)) = toolchain::rustc_versions(&path) else {
        return Err(format!("no {}", path.display()));
    };
    if !release.starts_with(&format!("{RUST_LINE}.")) {
        return Err(format!(
            "{} is {release}, the kernel needs {RUST_LINE}",
            path.display()
        ));
    }
    Ok(format!("{release}, LLVM {llvm}"))
}

/// The version of the system's meson, if QEMU's configure accepts it.
pub fn system_meson() -> Option<String> {
    let path = find_program("meson")?;
    let text = Cmd::new(path).arg("--version").read().ok()?;
    let version = text.trim().to_string();
    let number = |v: &str| -> Vec<u32> { v.split('.').map(|p| p.parse().unwrap_or(0)).collect() };
    (number(&version) >= number(MESON)).then_some(version)
}

/// The file in the cache that `setup` installs meson from.
pub fn meson_wheel(ctx: &Ctx) -> PathBuf {
    ctx.cache
        .join("tools")
        .join(format!("meson-{MESON}-py3-none-any.whl"))
}

/// What pip is asked for.
pub fn meson_requirement() -> String {
    format!("meson=={MESON} --hash=sha256:{MESON_SHA256}\n")
}
