// SPDX-License-Identifier: MIT OR Apache-2.0
//! `selftests/list.toml` and `selftests/console-allow.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use fpt_kbuild::build::Targets;
use fpt_kit::fail::did_you_mean;
use fpt_kit::{Fail, Result};
use fpt_vm::console::Allow;

fn yes() -> bool {
    true
}

/// Cases that fail on every kernel in this guest, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cannot {
    /// Names of the cases.
    pub cases: Vec<String>,
    /// Why they cannot pass.
    pub why: String,
}

/// A program of the list, and how it is judged.
/// The head of `selftests/list.toml` explains the keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The name in results.
    pub name: String,
    /// The folder in the guest that it runs in.
    pub dir: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Seconds until it is given up.
    pub timeout_s: u64,
    /// Must print TAP with a complete plan; otherwise the exit code alone judges.
    #[serde(default = "yes")]
    pub tap: bool,
    /// Without TAP: lines of standard output with one of these beginnings are cases.
    #[serde(default)]
    pub cases: Vec<String>,
    /// A line that comes again is no other case.
    #[serde(default)]
    pub unique: bool,
    /// Lines `# figure NAME: N` must not be larger than in radix.
    #[serde(default)]
    pub figures: bool,
    /// Huge pages of 2 MiB that are set aside for it.
    #[serde(default)]
    pub hugepages: u32,
    /// Huge pages of 1 GiB that are set aside for it.
    #[serde(default)]
    pub hugepages_1g: u32,
    /// What the guest must have for it.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Shell commands before it.
    #[serde(default)]
    pub setup: String,
    /// Shell commands after it.
    #[serde(default)]
    pub teardown: String,
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Too long for `test`, which leaves it to `selftest`.
    #[serde(default)]
    pub long: bool,
    /// Whether its cases are compared with the reference's.
    #[serde(default = "yes")]
    pub compare: bool,
    /// Lines of its output that say nothing.
    #[serde(default)]
    pub ignore_lines: Vec<String>,
    /// Cases of a program that must pass which may be skipped in every mode.
    #[serde(default)]
    pub may_skip: Vec<String>,
    /// Runs on the unpatched kernel, too, and is compared with it.
    #[serde(default = "yes")]
    pub unpatched: bool,
    /// Cases of ours that ask the kernel about its flattened tables: the unpatched one must make them skip.
    #[serde(default)]
    pub only_fpt: Vec<String>,
    /// Cases that must fail, each time and on each kernel.
    #[serde(default)]
    pub cannot: Vec<Cannot>,
    /// Why the entry is as it is.
    #[serde(default)]
    pub reason: String,
}

impl Program {
    /// Whether it needs swap space.
    pub fn swap(&self) -> bool {
        self.needs.iter().any(|n| n == "swap")
    }

    /// Files of the host that it needs.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.needs.iter().filter_map(|n| n.strip_prefix("files:"))
    }

    /// Why this case cannot pass, if it cannot.
    pub fn cannot_pass(&self, case: &str) -> Option<&str> {
        let holds = |c: &&Cannot| c.cases.iter().any(|name| name == case);
        self.cannot.iter().find(holds).map(|c| c.why.as_str())
    }

    /// Each case that cannot pass.
    pub fn all_that_cannot(&self) -> impl Iterator<Item = &str> {
        self.cannot
            .iter()
            .flat_map(|c| &c.cases)
            .map(String::as_str)
    }

    /// Our own programs must pass, in every mode.
    pub fn must_pass(&self) -> bool {
        self.dir == "fpt" || !self.compare
    }
}

/// The folders that must be built for these programs.
pub fn targets(programs: &[Program]) -> Targets {
    Targets::of(programs.iter().map(|p| (p.dir.as_str(), &p.argv[..])))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    program: Vec<Program>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowFile {
    #[serde(default)]
    allow: Vec<Allow>,
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn bad(path: &Path, why: impl ToString) -> anyhow::Error {
    Fail::infra(
        format!("{} is not right", path.display()),
        why.to_string(),
        "correct the file; its head explains the keys",
    )
}

/// Reads the list.
///
/// # Errors
///
/// The file cannot be read, or an entry is wrong.
pub fn programs(path: &Path) -> Result<Vec<Program>> {
    let list: ListFile = toml::from_str(&read(path)?).map_err(|e| bad(path, e))?;
    let mut names = std::collections::BTreeSet::new();
    for p in &list.program {
        let mut once = std::collections::BTreeSet::new();
        let fault = if !names.insert(&p.name) {
            "its name is there twice"
        } else if p.argv.is_empty() {
            "argv is empty"
        } else if p.timeout_s == 0 {
            "timeout_s is 0"
        } else if p.tap && !p.cases.is_empty() {
            "cases are for programs without TAP"
        } else if p.figures && !p.compare {
            "figures are for programs that are compared"
        } else if p.unique && p.cases.is_empty() {
            "unique is for programs with cases"
        } else if !p.ignore_lines.is_empty() && p.reason.is_empty() {
            "ignore_lines needs a reason"
        } else if !p.may_skip.is_empty() && p.reason.is_empty() {
            "may_skip needs a reason"
        } else if !p.may_skip.is_empty() && !p.must_pass() {
            "may_skip is for programs that must pass"
        } else if !p.cannot.is_empty() && p.must_pass() {
            "a program that must pass has no cases that cannot"
        } else if p.cannot.iter().any(|c| c.cases.is_empty()) {
            "cannot names no case"
        } else if p.cannot.iter().any(|c| c.why.trim().is_empty()) {
            "cannot says no reason (why)"
        } else if !p.all_that_cannot().all(|c| once.insert(c)) {
            "cannot names a case twice"
        } else if !p.unpatched && p.reason.is_empty() {
            "unpatched = false needs a reason"
        } else if !p.only_fpt.is_empty() && p.dir != "fpt" {
            "only_fpt is for programs of ours"
        } else if !p.only_fpt.is_empty() && !p.unpatched {
            "only_fpt is for programs that run on the unpatched kernel"
        } else if let Some(word) = p
            .needs
            .iter()
            .find(|n| *n != "swap" && !n.starts_with("files:"))
        {
            return Err(bad(path, format!("{}: unknown need '{word}'", p.name)));
        } else {
            continue;
        };
        return Err(bad(path, format!("{}: {fault}", p.name)));
    }
    let mut programs = list.program;
    // Huge pages of 1 GiB are taken at boot and given back after the programs that need them.
    programs.sort_by_key(|p| p.hugepages_1g == 0);
    Ok(programs)
}

/// Reads which complaints of the kernel are allowed.
///
/// # Errors
///
/// The file cannot be read, or an entry is wrong.
pub fn allowed(path: &Path) -> Result<Vec<Allow>> {
    let file: AllowFile = toml::from_str(&read(path)?).map_err(|e| bad(path, e))?;
    if let Some(a) = file
        .allow
        .iter()
        .find(|a| a.reason.trim().is_empty() || a.pattern.trim().len() < 4)
    {
        return Err(bad(
            path,
            format!(
                "'{}' needs a reason and a pattern that is not nearly empty",
                a.pattern
            ),
        ));
    }
    Ok(file.allow)
}

/// Those whose name holds one of the filters (all without filters). A filter that fits nothing is a mistake.
pub fn select(programs: Vec<Program>, filters: &[String]) -> Result<Vec<Program>> {
    for filter in filters {
        if !programs.iter().any(|p| p.name.contains(filter.as_str())) {
            let short = |p: &Program| p.name.rsplit('/').next().unwrap_or("").to_string();
            let names: Vec<String> = programs
                .iter()
                .flat_map(|p| [p.name.clone(), short(p)])
                .collect();
            let hint = match did_you_mean(filter, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "`cargo xtask selftest --list` shows all names".to_string(),
            };
            return Err(Fail::usage(
                format!("no program's name contains '{filter}'"),
                "",
                hint,
            ));
        }
    }
    Ok(programs
        .into_iter()
        .filter(|p| filters.is_empty() || filters.iter().any(|f| p.name.contains(f.as_str())))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Program>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.toml");
        std::fs::write(&path, text).unwrap();
        programs(&path)
    }

    const GOOD: &str = "[[program]]\nname='mm/cow'\ndir='mm'\nargv=['./cow']\ntimeout_s=60\n";

    #[test]
    fn good_and_bad_lists() {
        assert!(parse(GOOD).unwrap()[0].tap);
        for (bad, why) in [
            (format!("{GOOD}{GOOD}"), "twice"),
            (format!("{GOOD}timeot=3\n"), "timeot"),
            (format!("{GOOD}ignore_lines=['x']\n"), "reason"),
            (format!("{GOOD}needs=['swp']\n"), "swp"),
            (format!("{GOOD}may_skip=['x']\ncompare=false\n"), "reason"),
            (format!("{GOOD}may_skip=['x']\nreason='x'\n"), "must pass"),
            (format!("{GOOD}unique=true\n"), "unique"),
            (format!("{GOOD}cannot=[{{cases=['x']}}]\n"), "why"),
            (format!("{GOOD}cannot=[{{cases=['x'],why=' '}}]\n"), "why"),
            (format!("{GOOD}cannot=[{{cases=[],why='y'}}]\n"), "no case"),
            (
                format!("{GOOD}cannot=[{{cases=['x','x'],why='y'}}]\n"),
                "twice",
            ),
            (
                format!("{GOOD}compare=false\ncannot=[{{cases=['x'],why='y'}}]\n"),
                "must pass",
            ),
            (format!("{GOOD}unpatched=false\n"), "reason"),
            (format!("{GOOD}only_fpt=['x']\n"), "programs of ours"),
            (
                format!("{GOOD}only_fpt=['x']\nunpatched=false\nreason='x'\n")
                    .replace("'mm'", "'fpt'"),
                "run on the unpatched",
            ),
            (format!("{GOOD}figures=true\ncompare=false\n"), "figures"),
            (GOOD.replace("60", "0"), "timeout_s"),
            (GOOD.replace("['./cow']", "[]"), "argv"),
        ] {
            let err = parse(&bad).unwrap_err().to_string();
            assert!(err.contains(why), "{err}");
        }
    }

    #[test]
    fn cases_that_cannot_pass_have_a_reason() {
        let text = format!(
            "{GOOD}[[program.cannot]]\ncases=['a','b']\nwhy='no memory'\n\
             [[program.cannot]]\ncases=['c']\nwhy='no time'\n"
        );
        let program = &parse(&text).unwrap()[0];
        assert_eq!(program.cannot_pass("b"), Some("no memory"));
        assert_eq!(program.cannot_pass("c"), Some("no time"));
        assert_eq!(program.cannot_pass("d"), None);
        let all: Vec<&str> = program.all_that_cannot().collect();
        assert_eq!(all, ["a", "b", "c"]);
    }

    #[test]
    fn filters() {
        let list = parse(&format!("{GOOD}{}", GOOD.replace("cow", "mremap_test"))).unwrap();
        assert_eq!(select(list.clone(), &["cow".into()]).unwrap().len(), 1);
        assert_eq!(select(list.clone(), &[]).unwrap().len(), 2);
        let err = select(list, &["mremap_tset".into()])
            .unwrap_err()
            .to_string();
        assert!(err.contains("did you mean 'mremap_test'"), "{err}");
    }

    #[test]
    fn the_committed_lists_are_right() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../selftests");
        assert!(programs(&root.join("list.toml")).unwrap().len() > 40);
        // An entry that fits no splat allows nothing.
        for allow in allowed(&root.join("console-allow.toml")).unwrap() {
            assert!(fpt_vm::console::is_splat(&allow.pattern), "{allow:?}");
        }
    }
}
