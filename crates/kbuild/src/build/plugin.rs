// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plugins of this workspace and programs like them: built for speed, kept by the hash of what they are built from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{artefact, cargo, cargo_target};
use crate::toml_file;
use fpt_kit::{hash, Cmd, Ctx, Result, Work};

/// To be raised when the way of building changes.
const RECIPE: &str = "1";

/// The simulator, the largest of them, from nothing: it took 6 to 9 minutes of two CPUs with other work.
pub const WORK: Work = Work::seconds(600);

/// What is built.
struct Part<'a> {
    /// Its name in the cache.
    kind: &'a str,
    /// The package, and its folder from the root.
    package: &'a str,
    folder: &'a Path,
    /// The file in the target folder.
    file: &'a str,
}

/// A plugin (a shared object): package `fpt-NAME` in folder `NAME/plugin`.
///
/// # Errors
/// If it must be built and cargo fails.
pub fn plugin(ctx: &Ctx, title: &str, name: &str) -> Result<PathBuf> {
    let part = Part {
        kind: name,
        package: &format!("fpt-{name}"),
        folder: &Path::new(name).join("plugin"),
        file: &format!("libfpt_{name}.so"),
    };
    built(ctx, title, &part)
}

/// The program that runs the simulator's model without a guest.
///
/// # Errors
/// If it must be built and cargo fails.
pub fn sweep(ctx: &Ctx) -> Result<PathBuf> {
    let part = Part {
        kind: "sweep",
        package: "fpt-walksim-model",
        folder: Path::new("walksim/model"),
        file: "fpt-sweep",
    };
    built(ctx, "build the model", &part)
}

fn built(ctx: &Ctx, title: &str, part: &Part) -> Result<PathBuf> {
    let (name, file) = (part.kind, part.file);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Cmd::new(rustc).arg("-Vv").read().unwrap_or_default();
    let inputs = inputs(ctx, part.folder, &version)?;
    // Checkouts that have the same sources share it.
    if let Some(hash) = artefact::recall(ctx, name, &inputs) {
        let kept = artefact::dir(ctx, name, &hash).join(file);
        if !ctx.dry_run && artefact::find(ctx, name, &hash).is_some() && kept.is_file() {
            return Ok(kept);
        }
    }
    let args = [
        "build",
        "--profile",
        "plugin",
        "--locked",
        "-p",
        part.package,
    ];
    let built = cargo_target(ctx).join("plugin").join(file);
    cargo(ctx, &WORK.title(ctx, title, &built), &args, &[])?;
    if ctx.dry_run {
        return Ok(built);
    }
    // It is named by its content: guests load it one after the other, and someone may build another meanwhile.
    let hash = hash::of_file(&built)?;
    let kept = artefact::dir(ctx, name, &hash).join(file);
    if !kept.is_file() {
        artefact::create(ctx, name, &hash, &artefact::Meta::new(), |dir| {
            artefact::copy(&built, &dir.join(file))
        })?;
    }
    if self::inputs(ctx, part.folder, &version)? != inputs {
        return Err(hash::changed(&format!("the sources of {file}"), "compiled"));
    }
    artefact::remember(ctx, name, &inputs, &hash);
    // Without a compiler it is what was built last.
    artefact::remember(ctx, name, &self::inputs(ctx, part.folder, "")?, &hash);
    Ok(kept)
}

/// The hash of the sources: the crate in this folder, the crates of ours below it, and the compiler's version.
fn inputs(ctx: &Ctx, folder: &Path, rustc: &str) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    inputs
        .text("recipe", RECIPE)
        .text("rustc", rustc)
        .text("flags", &flags)
        .file("Cargo.lock", &ctx.root.join("Cargo.lock"))?
        .file("Cargo.toml", &ctx.root.join("Cargo.toml"))?;
    for dir in crates(&ctx.root, folder)? {
        let path = ctx.root.join(&dir);
        let name = dir.display().to_string();
        inputs.file(&name, &path.join("Cargo.toml"))?;
        for part in ["src", "presets"] {
            inputs.tree(&format!("{name}/{part}"), &path.join(part))?;
        }
    }
    Ok(inputs.finish())
}

/// Folders of a crate and of the crates of this workspace that it is made of, from the root.
fn crates(root: &Path, of: &Path) -> Result<BTreeSet<PathBuf>> {
    let workspace = manifest(root)?;
    let mut seen = BTreeSet::new();
    let mut rest = vec![of.to_path_buf()];
    while let Some(dir) = rest.pop() {
        let manifest = manifest(&root.join(&dir))?;
        let tables = ["dependencies", "build-dependencies"];
        let all = tables.iter().filter_map(|t| manifest.get(t)?.as_table());
        for (name, value) in all.flatten() {
            let path = |v: &toml::Value| Some(v.get("path")?.as_str()?.to_string());
            let shared = || path(workspace.get("workspace")?.get("dependencies")?.get(name)?);
            let found = match path(value) {
                Some(near) => Some(dir.join(near)),
                None if value.get("workspace").is_some() => shared().map(PathBuf::from),
                None => None,
            };
            rest.extend(found.map(|f| plain(&f)).filter(|f| !seen.contains(f)));
        }
        seen.insert(dir);
    }
    Ok(seen)
}

fn manifest(dir: &Path) -> Result<toml::Value> {
    toml_file::load(&dir.join("Cargo.toml"), "correct it")
}

/// `a/../b` as `b`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path {
        match part.to_str() {
            Some("..") => drop(out.pop()),
            Some(".") => {}
            _ => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        plain(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
    }

    #[test]
    fn what_the_simulator_is_made_of() {
        let of = crates(&root(), Path::new("walksim/plugin")).expect("read");
        let of: Vec<&str> = of.iter().filter_map(|p| p.to_str()).collect();
        for dir in [
            "qemu-plugin",
            "rust-mm-fpt/geometry",
            "walksim/machine",
            "walksim/model",
            "walksim/plugin",
        ] {
            assert!(of.contains(&dir), "{dir}: {of:?}");
        }
        for dir in of {
            // A file beside these folders would be missed.
            let text = std::fs::read_dir(root().join(dir)).expect("listed");
            for entry in text.flatten().map(|e| e.file_name()) {
                let name = entry.to_string_lossy().into_owned();
                let known = [
                    "Cargo.toml",
                    "src",
                    "presets",
                    "tests",
                    "examples",
                    "benches",
                ];
                let page = name.ends_with(".md");
                let other = root().join(dir).join(&name).join("Cargo.toml").is_file();
                assert!(
                    known.contains(&name.as_str()) || page || other,
                    "{dir}/{name}"
                );
            }
        }
    }

    #[test]
    fn a_change_of_any_part_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("Cargo.lock", "");
        write(
            "Cargo.toml",
            "[workspace.dependencies]\nm = { path = \"x/model\" }\n",
        );
        write(
            "x/plugin/Cargo.toml",
            "[dependencies]\nm.workspace = true\nserde = \"1\"\n",
        );
        write("x/plugin/src/lib.rs", "");
        write(
            "x/model/Cargo.toml",
            "[dependencies]\ng = { path = \"../../g\" }\n",
        );
        write("x/model/presets/a.toml", "");
        write("g/Cargo.toml", "");
        write("other/src/lib.rs", "");
        let ctx = Ctx::new(dir.path(), dir.path().join("cache"));
        let mut last = inputs(&ctx, Path::new("x/plugin"), "1.85").expect("read");
        for part in [
            "x/plugin/src/lib.rs",
            "x/model/presets/a.toml",
            "g/src/lib.rs",
        ] {
            write(part, "// new");
            let now = inputs(&ctx, Path::new("x/plugin"), "1.85").expect("read");
            assert_ne!(now, last, "{part}");
            last = now;
        }
        write("other/src/lib.rs", "// new");
        assert_eq!(
            inputs(&ctx, Path::new("x/plugin"), "1.85").expect("read"),
            last
        );
    }
}
