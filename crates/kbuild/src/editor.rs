// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt editor`: rust-project.json for rust-analyzer and compile_commands.json for clangd, in the patched kernel's tree.
//! The kernel has a script for each; the one for Rust does not look into arch/, where our crates are.

use anyhow::Context as _;
use serde_json::{json, Value};

use crate::build::{self, Compiler, Profile};
use crate::toolchain;
use fpt_kit::{code, store, Cmd, Ctx, ExitCode, Fail, Result};

/// The roots of our crates, in the folder of the tree that holds them.
const FOLDER: &str = "arch/x86/mm/fpt";
const ROOTS: [&str; 2] = ["fpt_rust", "fpt_hot"];

/// Runs the command.
///
/// # Errors
///
/// The tree was not built, or a file cannot be written.
pub fn main(ctx: &Ctx) -> Result<ExitCode> {
    let kernel = build::kernel(ctx, Profile::Fpt)?;
    let (src, out) = (&kernel.src_dir, &kernel.build_dir);
    // A finished kernel of the cache may have outlived the folder that it was built in.
    if !ctx.dry_run && !out.join("include/generated/rustc_cfg").is_file() {
        return Err(Fail::infra(
            "the kernel's build folder is not there",
            format!("{} has no configuration for Rust", out.display()),
            "run `cargo xtask clean --artefacts`, then this again: it builds the kernel",
        ));
    }
    let tools = toolchain::detect(ctx, Compiler::Llvm)?;
    let stage = ctx.ui.stage("files for editors");
    let log = ctx.log_dir().join("editor.log");
    let commands = src.join("compile_commands.json");
    let of_c = Cmd::new("/usr/bin/python3")
        .arg(src.join("scripts/clang-tools/gen_compile_commands.py"))
        .arg("-d")
        .arg(out)
        .arg("-o")
        .arg(&commands);
    ctx.step(&stage, &log, &toolchain::clean_env(of_c))?;
    let of_rust = tools.make(src, out, ctx.jobs).arg("rust-analyzer");
    ctx.step(&stage, &log, &of_rust)?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(code::OK);
    }
    let made = out.join("rust-project.json");
    let text = std::fs::read_to_string(&made)
        .with_context(|| format!("cannot read {}", made.display()))?;
    let project = src.join("rust-project.json");
    let with_ours = with_ours(&text, &src.join(FOLDER).display().to_string())?;
    store::write_atomic(&project, with_ours.as_bytes())?;
    stage.done("");
    fpt_kit::say!("\n", "{}\n{}", commands.display(), project.display());
    ctx.ui.info(&format!(
        "open {} in the editor; edit our Rust in rust-mm-fpt/, from where it is placed into the tree",
        src.display()
    ));
    Ok(code::OK)
}

/// The project of the kernel's own script with our crates, which see what the crate `kernel` sees, and itself.
fn with_ours(text: &str, folder: &str) -> Result<String> {
    let mut project: Value = serde_json::from_str(text).context("rust-project.json is no JSON")?;
    let crates = project
        .get_mut("crates")
        .and_then(Value::as_array_mut)
        .context("rust-project.json has no crates")?;
    let at = crates
        .iter()
        .position(|c| c["display_name"] == "kernel")
        .context("rust-project.json does not have the crate `kernel`")?;
    let mut ours = crates[at].clone();
    if let Some(fields) = ours.as_object_mut() {
        fields.remove("source");
    }
    if let Some(deps) = ours["deps"].as_array_mut() {
        deps.push(json!({ "crate": at, "name": "kernel" }));
    }
    for root in ROOTS {
        ours["display_name"] = json!(root);
        ours["root_module"] = json!(format!("{folder}/{root}.rs"));
        crates.push(ours.clone());
    }
    Ok(serde_json::to_string_pretty(&project)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_crates_come_behind_those_of_the_kernel() {
        let kernel = json!({
            "display_name": "kernel", "root_module": "/s/rust/kernel/lib.rs", "cfg": ["CONFIG_X"],
            "deps": [{ "crate": 0, "name": "core" }], "source": { "include_dirs": [] },
        });
        let all = json!({ "sysroot": "/r", "crates": [{ "display_name": "core" }, kernel] });
        let got: Value =
            serde_json::from_str(&with_ours(&all.to_string(), "/s/f").unwrap()).unwrap();
        let crates = got["crates"].as_array().unwrap();
        assert_eq!(crates.len(), 2 + ROOTS.len());
        assert_eq!(crates[2]["root_module"], "/s/f/fpt_rust.rs");
        assert_eq!(crates[2]["cfg"], json!(["CONFIG_X"]));
        assert_eq!(
            crates[2]["deps"][1],
            json!({ "crate": 1, "name": "kernel" })
        );
        assert!(crates[2].get("source").is_none());
        assert_eq!(got["sysroot"], "/r");
        assert!(with_ours("{\"crates\": []}", "/s").is_err());
    }
}
