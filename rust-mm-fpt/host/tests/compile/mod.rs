// SPDX-License-Identifier: GPL-2.0

//! The core's files, compiled as the kernel compiles them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders whose files are the core's modules.
pub const FOLDERS: [&str; 2] = ["../core/src", "../geometry/src"];

/// Every module of the core.
pub const MODULES: [&str; 9] = [
    "addr", "counters", "entry", "geometry", "node", "policy", "pool", "span", "walk",
];

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The object of the core's modules in a crate root of their own, with `glue` beside them.
pub fn compile(name: &str, glue: &str) -> Vec<u8> {
    let mut root = String::from(
        "//! A kernel-like root.\n#![no_std]\n#![deny(warnings)]\n/// The core.\n\
         pub mod fpt_core {\n#![forbid(unsafe_code)]\n",
    );
    for module in MODULES {
        let path = FOLDERS
            .map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{dir}/{module}.rs")))
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("no file of module {module}"));
        root += &format!("#[path = {:?}]\npub mod {module};\n", path);
    }
    root += "}\n";
    root += glue;
    let dir = scratch(name);
    let (source, object) = (dir.join("root.rs"), dir.join("root.o"));
    std::fs::write(&source, root).unwrap();
    let rustc = std::env::var_os("FPT_RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(&rustc)
        .args([
            "--edition=2021",
            "--crate-type=rlib",
            "--emit=obj",
            "-Copt-level=2",
        ])
        .args([
            "-Cpanic=abort",
            "-Ccodegen-units=1",
            "-Coverflow-checks=on",
            "-Cembed-bitcode=no",
        ])
        .args([
            "-Csymbol-mangling-version=v0",
            "-Wmissing_docs",
            "-Wunreachable_pub",
        ])
        .args(["-Wrust_2018_idioms", "-Dnon_ascii_idents", "-o"])
        .arg(&object)
        .arg(&source)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {rustc:?}: {e}"));
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    std::fs::read(&object).unwrap()
}

/// Does the word occur anywhere?
pub fn mentions(object: &[u8], word: &[u8]) -> bool {
    object.windows(word.len()).any(|w| w == word)
}
