// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel configuration from small fragments: merged, completed by Kconfig, and then
//! compared line by line with what was asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Profile, Toolchain};
use crate::sources::git;
use fpt_kit::{hash, store, Cmd, Ctx, Fail, Result, Steps};

/// A fragment's name (for messages) and text.
#[derive(Clone, Debug)]
pub struct Fragment {
    pub name: String,
    pub text: String,
}

/// The fragments of a profile, in order; later ones win.
pub fn fragments(root: &Path, profile: Profile) -> Result<Vec<Fragment>> {
    let mut names = vec!["base", "guest"];
    match profile {
        Profile::Unpatched | Profile::OptionOff => names.push("selftests"),
        Profile::Fpt => names.extend(["selftests", "fpt"]),
        Profile::Debug => names.extend(["selftests", "fpt", "debug"]),
        Profile::Kasan => names.extend(["selftests", "fpt", "kasan"]),
        Profile::Preempt => names.extend(["selftests", "fpt", "preempt"]),
        Profile::Rt => names.extend(["selftests", "fpt", "rt"]),
        Profile::Numa => names.extend(["selftests", "fpt", "numa"]),
        Profile::UnpatchedTlbsan => names.extend(["selftests", "tlbsan"]),
        Profile::Tlbsan => names.extend(["selftests", "fpt", "tlbsan"]),
        Profile::Mutants => names.extend(["selftests", "fpt", "tlbsan", "mutants"]),
        Profile::Gdb => names.extend(["selftests", "fpt", "gdb"]),
    }
    let mut out = Vec::new();
    for name in names {
        let path = root.join("configs").join(format!("{name}.config"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        out.push(Fragment {
            name: format!("configs/{name}.config"),
            text,
        });
    }
    if profile == Profile::OptionOff {
        out.push(Fragment {
            name: "profile option-off".into(),
            text: "# CONFIG_X86_FPT is not set\n".into(),
        });
    }
    Ok(out)
}

/// Options of a text: name without CONFIG_ to value, `n` for those not set.
fn options(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("# CONFIG_") {
            if let Some(name) = rest.strip_suffix(" is not set") {
                out.insert(name.to_string(), "n".to_string());
            }
        } else if let Some(rest) = line.strip_prefix("CONFIG_") {
            if let Some((name, value)) = rest.split_once('=') {
                out.insert(name.to_string(), value.to_string());
            }
        }
    }
    out
}

/// What was asked for, with the fragment that asked last.
fn wanted(fragments: &[Fragment]) -> BTreeMap<String, (String, String)> {
    let mut out = BTreeMap::new();
    for fragment in fragments {
        for (name, value) in options(&fragment.text) {
            out.insert(name, (value, fragment.name.clone()));
        }
    }
    out
}

/// An option that did not come out as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub name: String,
    pub wanted: String,
    pub got: String,
    pub fragment: String,
}

/// Compare a finished configuration with the fragments.
pub fn verify(fragments: &[Fragment], config: &str) -> Vec<Dropped> {
    let have = options(config);
    wanted(fragments)
        .into_iter()
        .filter_map(|(name, (value, fragment))| {
            let got = have.get(&name).map_or("n", String::as_str);
            (got != value).then(|| Dropped {
                name,
                wanted: value,
                got: got.to_string(),
                fragment,
            })
        })
        .collect()
}

/// Make `.config` in `out`; its text. Nothing is touched if it would come out the same.
pub fn configure(
    steps: Steps,
    tools: &Toolchain,
    src: &Path,
    out: &Path,
    fragments: &[Fragment],
) -> Result<String> {
    let ctx = steps.ctx;
    let dir = out.join("fpt-config");
    let config = out.join(".config");
    let stamp = dir.join("stamp");
    let inputs = stamp_of(ctx, tools, src, fragments)?;
    if !ctx.dry_run {
        if let Ok(text) = std::fs::read_to_string(&config) {
            let now = format!("{inputs} {}", hash::of_text(&text));
            if std::fs::read_to_string(&stamp).is_ok_and(|old| old == now) {
                return Ok(text);
            }
        }
    }
    let mut files = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        let file = dir.join(format!("{at:02}.config"));
        if !ctx.dry_run {
            store::write_if_changed(&file, fragment.text.as_bytes())?;
        }
        files.push(file);
    }
    let merged = dir.join("merged");
    if !ctx.dry_run {
        store::make_dir(&merged)?;
    }
    let merge = Cmd::new(src.join("scripts/kconfig/merge_config.sh"))
        .args(["-m", "-Q", "-O"])
        .arg(&merged)
        .args(&files)
        .cwd(src);
    // merge_config.sh's own warnings do not stop it: the comparison below does.
    steps.run(&crate::toolchain::clean_env(merge))?;
    let full = dir.join("full");
    if !ctx.dry_run {
        store::make_dir(&full)?;
    }
    let all = tools
        .make(src, out, ctx.jobs)
        .arg(format!("KCONFIG_CONFIG={}", full.join("config").display()))
        .env("KCONFIG_ALLCONFIG", merged.join(".config"));
    steps.run(&all.arg("allnoconfig"))?;
    if ctx.dry_run {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(full.join("config"))
        .context("the configuration step wrote no .config")?;
    let dropped = verify(fragments, &text);
    if let Some(first) = dropped.first() {
        for d in &dropped {
            steps.stage.note(&format!(
                "CONFIG_{} = {} wanted by {}, got {}: {}",
                d.name,
                d.wanted,
                d.fragment,
                d.got,
                reason(src, &d.name)
            ));
        }
        return Err(Fail::infra(
            format!(
                "Kconfig dropped {} option{}: CONFIG_{} of {} came out as {}",
                dropped.len(),
                if dropped.len() == 1 { "" } else { "s" },
                first.name,
                first.fragment,
                first.got
            ),
            reason(src, &first.name),
            "add what it depends on to the fragment, or take it out",
        ));
    }
    store::write_if_changed(&config, text.as_bytes())?;
    let now = format!("{inputs} {}", hash::of_text(&text));
    store::write_if_changed(&stamp, now.as_bytes())?;
    Ok(text)
}

/// Everything that the configuration depends on. Kconfig asks the compilers hundreds of
/// questions, which takes longer than compiling one changed file.
fn stamp_of(ctx: &Ctx, tools: &Toolchain, src: &Path, fragments: &[Fragment]) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    inputs.text("tools", &tools.versions.join("\n"));
    for fragment in fragments {
        inputs.text("fragment", &fragment.text);
    }
    if !ctx.dry_run {
        let tree = ctx.read(&git(src).args(["ls-tree", "-r", "HEAD"]))?;
        let kconfig: Vec<&str> = tree.lines().filter(|l| l.contains("Kconfig")).collect();
        inputs.text("Kconfig", &kconfig.join("\n"));
    }
    Ok(inputs.finish())
}

/// Why an option may have been dropped: it does not exist, or what it depends on.
fn reason(src: &Path, name: &str) -> String {
    let out = git(src)
        .args(["grep", "-h", "-A", "12", "-E"])
        .arg(format!("^[[:space:]]*(menu)?config {name}$"))
        .args(["--", "*Kconfig*"])
        .output();
    let Ok(out) = out else {
        return "its dependencies are not met".into();
    };
    if out.stdout.trim().is_empty() {
        return "this kernel has no such option".into();
    }
    let depends: Vec<&str> = out
        .stdout
        .lines()
        .skip(1)
        .take_while(|l| {
            let t = l.trim_start();
            !(t.starts_with("config ") || t.starts_with("menuconfig ") || t == "--")
        })
        .filter_map(|l| l.trim().strip_prefix("depends on "))
        .collect();
    if depends.is_empty() {
        "its dependencies are not met".into()
    } else {
        format!("it depends on {}", depends.join(" && "))
    }
}

/// Where the merged fragments are kept, for messages.
pub fn config_path(out: &Path) -> PathBuf {
    out.join(".config")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(name: &str, text: &str) -> Fragment {
        Fragment {
            name: name.into(),
            text: text.into(),
        }
    }

    #[test]
    fn each_way_of_dropping_is_seen() {
        let fragments = [
            fragment("a", "CONFIG_ON=y\nCONFIG_GONE=y\nCONFIG_NUM=8\n# CONFIG_OFF is not set\nCONFIG_STR=\"\"\n"),
            fragment("b", "# CONFIG_LATER is not set\nCONFIG_N=n\n"),
        ];
        let good = "CONFIG_ON=y\nCONFIG_GONE=y\nCONFIG_NUM=8\nCONFIG_STR=\"\"\n# CONFIG_LATER is not set\n";
        assert_eq!(verify(&fragments, good), []);
        let bad = "CONFIG_ON=m\nCONFIG_NUM=4\nCONFIG_OFF=y\nCONFIG_STR=\"x\"\nCONFIG_N=y\n";
        let names: Vec<String> = verify(&fragments, bad)
            .into_iter()
            .map(|d| d.name)
            .collect();
        assert_eq!(names, ["GONE", "N", "NUM", "OFF", "ON", "STR"]);
    }

    #[test]
    fn later_fragment_wins() {
        let fragments = [
            fragment("a", "CONFIG_X=y\n"),
            fragment("b", "# CONFIG_X is not set\n"),
        ];
        assert_eq!(verify(&fragments, ""), []);
        assert_eq!(verify(&fragments, "CONFIG_X=y\n")[0].fragment, "b");
    }

    #[test]
    fn comments_are_no_options() {
        assert!(options("# CONFIG_X is what\n#CONFIG_Y=y\n# text\n").is_empty());
    }
}
