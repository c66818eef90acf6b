// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own commands of gdb, which begin with lx-: files that its build makes, kept beside `vmlinux`.

use std::path::Path;

use anyhow::Context as _;

use super::{artefact, Profile};
use fpt_kit::{Fail, Result};

/// What gdb loads by itself with a `vmlinux` in the same folder.
pub const SCRIPT: &str = "vmlinux-gdb.py";
/// What it imports.
const MODULES: &str = "scripts/gdb/linux";

/// What make builds besides `vmlinux`.
pub fn targets(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Gdb => &["scripts_gdb"],
        Profile::Fpt | Profile::Unpatched | Profile::OptionOff | Profile::Debug => &[],
        Profile::Kasan | Profile::Tlbsan | Profile::UnpatchedTlbsan | Profile::Mutants => &[],
        Profile::Preempt | Profile::Rt | Profile::Numa => &[],
    }
}

/// Copies the commands out of the build folder, whose files are links into a tree that changes.
///
/// # Errors
///
/// They are not there, or cannot be copied.
pub fn copy(out: &Path, to: &Path) -> Result<()> {
    let (from, modules) = (out.join(MODULES), to.join(MODULES));
    std::fs::create_dir_all(&modules)
        .with_context(|| format!("cannot create {}", modules.display()))?;
    artefact::copy(&out.join(SCRIPT), &to.join(SCRIPT))?;
    let entries =
        std::fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|e| e == "py") {
            artefact::copy(&from.join(&name), &modules.join(&name))?;
            names.push(name);
        }
    }
    // This one is made by the build, and the others import it.
    if names.iter().any(|n| n == "constants.py") {
        Ok(())
    } else {
        Err(Fail::infra(
            "the kernel's commands of gdb were not built",
            format!("{} has no constants.py", from.display()),
            "see the log of the build",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_files_and_a_lack_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| {
            let path = at(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, name).expect("written");
        };
        write("tree/vmlinux-gdb.py");
        write("tree/utils.py");
        write("out/scripts/gdb/linux/.constants.py.cmd");
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(at(from), at(to)).expect("linked");
        };
        link("tree/vmlinux-gdb.py", "out/vmlinux-gdb.py");
        link("tree/utils.py", "out/scripts/gdb/linux/utils.py");
        let lack = copy(&at("out"), &at("none")).expect_err("no constants");
        assert!(format!("{lack:?}").contains("constants.py"), "{lack:?}");
        write("out/scripts/gdb/linux/constants.py");
        copy(&at("out"), &at("kept")).expect("copied");
        std::fs::remove_dir_all(at("tree")).expect("removed");
        for (name, text) in [
            (SCRIPT, "tree/vmlinux-gdb.py"),
            ("scripts/gdb/linux/utils.py", "tree/utils.py"),
        ] {
            let kept = std::fs::read_to_string(at("kept").join(name)).expect("a file");
            assert_eq!(kept, text);
        }
        assert!(!at("kept/scripts/gdb/linux/.constants.py.cmd").exists());
    }

    #[test]
    fn the_profile_asks_for_what_gdb_needs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = std::fs::read_to_string(root.join("configs/gdb.config")).expect("the fragment");
        for line in ["CONFIG_DEBUG_INFO_DWARF5=y", "CONFIG_GDB_SCRIPTS=y"] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert_eq!(targets(Profile::Gdb), ["scripts_gdb"]);
        assert!(targets(Profile::Fpt).is_empty());
    }
}
