// SPDX-License-Identifier: MIT OR Apache-2.0
//! The selftests of the kernel's own tree, and ours beside them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::artefact::{self, Meta};
use super::{kernel, Compiler, Profile};
use crate::doctor;
use crate::patch::{self, Queue};
use crate::sources::{self, Project, Source};
use crate::toml_file;
use crate::toolchain::clean_env;
use fpt_kit::{hash, Cmd, Ctx, Fail, Result, Steps, Work};

const RECIPE: &str = "2";
/// The kind of artefact.
const KIND: &str = "kselftests";
/// The user-space headers of the kernel.
const HEADERS: Work = Work::seconds(18);

/// A folder of selftests, which make builds by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Upstream's tests of memory management.
    Mm,
    /// Upstream's tests of mincore.
    Mincore,
    /// Upstream's tests of /proc.
    Proc,
    /// Upstream's tests of exec.
    Exec,
    /// Upstream's tests of what only x86 has.
    X86,
    /// Upstream's tests of control groups.
    Cgroup,
    /// Ours.
    Fpt,
    /// Upstream's tests of memfd.
    Memfd,
}

impl Target {
    /// All, in the order in which they are built.
    pub const ALL: [Target; 8] = [
        Target::Mm,
        Target::Mincore,
        Target::Proc,
        Target::Exec,
        Target::X86,
        Target::Cgroup,
        Target::Fpt,
        Target::Memfd,
    ];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Target::Mm => "mm",
            Target::Mincore => "mincore",
            Target::Proc => "proc",
            Target::Exec => "exec",
            Target::X86 => "x86",
            Target::Cgroup => "cgroup",
            Target::Fpt => "fpt",
            Target::Memfd => "memfd",
        }
    }

    /// The target with this folder.
    pub fn named(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|t| t.name() == name)
    }

    /// The targets that a program of `selftests/list.toml` needs: its folder, and those that its command line names.
    pub fn of(dir: &str, argv: &[String]) -> BTreeSet<Target> {
        let named = programs_in(dir, argv).into_iter().map(|(dir, _)| dir);
        named
            .chain([dir.to_string()])
            .filter_map(|dir| Target::named(&dir))
            .collect()
    }

    /// What make is told besides the folder.
    fn vars(self) -> &'static [&'static str] {
        match self {
            // The other programs of this folder are for FUSE and need its library.
            Target::Memfd => &["TEST_GEN_FILES="],
            Target::Mm | Target::Mincore | Target::Proc | Target::Exec => &[],
            Target::X86 | Target::Cgroup | Target::Fpt => &[],
        }
    }

    /// The CPU time of a build from nothing.
    fn work(self) -> Work {
        Work::seconds(match self {
            Target::Mm => 31,
            Target::Mincore => 1,
            Target::Proc => 2,
            Target::Exec => 2,
            Target::X86 => 4,
            Target::Cgroup => 2,
            Target::Fpt => 44,
            Target::Memfd => 1,
        })
    }
}

/// Which targets somebody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(BTreeSet<Target>);

impl Targets {
    /// All of them.
    pub fn all() -> Targets {
        Targets(Target::ALL.into())
    }

    /// Ours alone.
    pub fn ours() -> Targets {
        Targets([Target::Fpt].into())
    }

    /// Those of these programs, each with its folder and its command line; none of a command line alone is ours.
    pub fn of<'a>(programs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Targets {
        let all = programs.into_iter();
        Targets(all.flat_map(|(dir, argv)| Target::of(dir, argv)).collect())
    }

    /// The CPU time of a build from nothing.
    pub fn work(&self) -> Work {
        self.0.iter().map(|t| t.work()).chain([HEADERS]).sum()
    }

    fn names(&self) -> String {
        let names: Vec<&str> = Target::ALL
            .into_iter()
            .filter(|t| self.0.contains(t))
            .map(Target::name)
            .collect();
        names.join(" ")
    }
}

fn input_hash(ctx: &Ctx, source: &Source, gcc: &str, wanted: &Targets) -> Result<String> {
    let mut inputs = hash::Inputs::new();
    inputs
        .text("recipe", RECIPE)
        .text("source", &source.sha256)
        .text("gcc", gcc.lines().next().unwrap_or(""));
    if *wanted != Targets::all() {
        inputs.text("targets", &wanted.names());
    }
    Queue::load(&ctx.root, Project::Linux)?.add_to(&mut inputs)?;
    if wanted.0.contains(&Target::Fpt) {
        inputs.tree("fpt", &ctx.root.join("selftests/fpt"))?;
    }
    Ok(inputs.finish())
}

/// Build them from this checkout's patched tree; a folder with one sub-folder per target. The one with all targets
/// serves everybody if it is there.
pub fn kselftests(ctx: &Ctx, wanted: &Targets) -> Result<PathBuf> {
    doctor::require(ctx, doctor::For::Selftests)?;
    let source = sources::ensure(ctx, Project::Linux)?;
    let gcc = ctx.read(&clean_env(Cmd::new("gcc")).arg("--version"))?;
    let hash = input_hash(ctx, &source, &gcc, wanted)?;
    let every = Targets::all();
    let all = if *wanted == every {
        hash.clone()
    } else {
        input_hash(ctx, &source, &gcc, &every)?
    };
    let found = || {
        let there = |hash: &&String| artefact::find(ctx, KIND, hash).is_some();
        [&all, &hash].into_iter().find(there)
    };
    if let Some(hash) = found() {
        let stage = ctx.ui.stage("kernel selftests");
        stage.done(&format!("up to date, {}", hash::short(hash)));
        return Ok(artefact::dir(ctx, KIND, hash));
    }
    let _lock = patch::tree_lock(ctx, Project::Linux, &source)?;
    if let Some(hash) = found() {
        return Ok(artefact::dir(ctx, KIND, hash));
    }
    let src = kernel::prepare_tree(ctx, Profile::Fpt, &source)?;
    if input_hash(ctx, &source, &gcc, wanted)? != hash {
        return Err(hash::changed("patches or selftests", "placed"));
    }
    let own = ctx.root.join("selftests/fpt/Makefile").is_file();
    let there = |t: &Target| wanted.0.contains(t) && (own || *t != Target::Fpt);
    let targets: Vec<Target> = Target::ALL.into_iter().filter(there).collect();
    let out = kernel::build_dir(ctx, "kselftests", Compiler::Llvm, &source);
    let title = format!("build kernel selftests ({})", wanted.names());
    let made = |t: &Target| out.join("kselftest").join(t.name()).exists();
    let stage = if targets.iter().all(made) {
        ctx.ui.stage(&title)
    } else {
        ctx.ui
            .stage(&format!("{title}, {}", wanted.work().about(ctx)))
    };
    let log = ctx.log_dir().join("kselftests.log");
    if !ctx.dry_run {
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        fpt_kit::store::make_dir(&out)?;
    }
    let steps = Steps {
        ctx,
        stage: &stage,
        log: &log,
    };
    let install = out.join("install");
    make(steps, &targets, &src, &out, &install)?;
    if ctx.dry_run {
        stage.done("dry run");
        return Ok(artefact::dir(ctx, KIND, &hash));
    }
    nothing_left_out(&ctx.root, &targets, &install, &log)?;
    let mut meta = Meta::new();
    meta.insert(
        "source".into(),
        format!("{} {}", source.version, source.sha256),
    );
    meta.insert("targets".into(), wanted.names());
    let done = artefact::create(ctx, KIND, &hash, &meta, |dir| copy_tree(&install, dir))?;
    stage.done(hash::short(&hash));
    Ok(done)
}

/// Compiles the targets in `out` and puts what is to run into `install`.
fn make(steps: Steps, targets: &[Target], src: &Path, out: &Path, install: &Path) -> Result<()> {
    let ctx = steps.ctx;
    let headers = Cmd::new("make")
        .arg("-C")
        .arg(src)
        .arg(format!("O={}", out.display()))
        .arg(format!("-j{}", ctx.jobs))
        .args(["ARCH=x86_64", "headers"]);
    steps.run(&clean_env(headers))?;
    if !ctx.dry_run && install.exists() {
        std::fs::remove_dir_all(install)?;
    }
    for vars in [&[][..], Target::Memfd.vars()] {
        let group = targets.iter().filter(|t| t.vars() == vars);
        let names: Vec<&str> = group.map(|t| t.name()).collect();
        if names.is_empty() {
            continue;
        }
        let make = Cmd::new("make")
            .arg("-C")
            .arg(src.join("tools/testing/selftests"))
            .arg(format!("O={}", out.display()))
            .arg(format!("-j{}", ctx.jobs))
            .args(["ARCH=x86_64", "CC=gcc"])
            .arg(format!("TARGETS={}", names.join(" ")))
            // mm/khugepaged.c of 6.12 uses KSFT_SKIP without including its definition, and one
            // program that does not compile takes its whole folder with it.
            .arg("EXTRA_CFLAGS=-DKSFT_SKIP=4")
            .args(vars)
            .arg(format!("INSTALL_PATH={}", install.display()))
            .arg("install");
        steps.run(&clean_env(make))?;
    }
    Ok(())
}

/// make ignores the failure of a whole folder: looks for every program that will be run.
fn nothing_left_out(root: &Path, targets: &[Target], install: &Path, log: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for (dir, program) in listed_programs(root)? {
        let built = Target::named(&dir).is_some_and(|t| targets.contains(&t));
        if built && !install.join(&dir).join(&program).is_file() {
            missing.push(format!("{dir}/{program}"));
        }
    }
    for target in targets {
        if !install.join(target.name()).is_dir() {
            missing.push(target.name().to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Fail::infra(
        format!("the selftest build left out {}", missing.join(", ")),
        "make does not say so by its exit code",
        format!("the compiler's errors are in {}", log.display()),
    ))
}

/// Folder and file of every built program that `selftests/list.toml` names.
fn listed_programs(root: &Path) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct List {
        program: Vec<Program>,
    }
    #[derive(serde::Deserialize)]
    struct Program {
        dir: String,
        argv: Vec<String>,
    }
    let list: List = toml_file::load(
        &root.join("selftests/list.toml"),
        "docs/reference/guest.md says what it may hold",
    )?;
    Ok(list
        .program
        .into_iter()
        .flat_map(|p| programs_in(&p.dir, &p.argv))
        .collect())
}

/// What an argv starts: ./NAME in its folder, or /selftests/FOLDER/NAME in a line for a shell.
fn programs_in(dir: &str, argv: &[String]) -> Vec<(String, String)> {
    let own = argv.first().and_then(|a| a.strip_prefix("./"));
    let named = argv
        .iter()
        .flat_map(|a| a.split_whitespace())
        .filter_map(|w| w.strip_prefix("/selftests/")?.split_once('/'));
    own.map(|file| (dir, file))
        .into_iter()
        .chain(named)
        .map(|(dir, file)| (dir.to_string(), file.to_string()))
        .collect()
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let cmd = Cmd::new("cp").arg("-a").arg(from.join(".")).arg(to);
    cmd.read().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_shell_lines_too() {
        let of = |argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(|a| a.to_string()).collect();
            programs_in("mm", &argv)
        };
        let one = |dir: &str, file: &str| vec![(dir.to_string(), file.to_string())];
        assert_eq!(of(&["./cow", "-x"]), one("mm", "cow"));
        let line = "cd /tmp && exec /selftests/cgroup/test_memcontrol";
        assert_eq!(of(&["sh", "-c", line]), one("cgroup", "test_memcontrol"));
        assert_eq!(of(&["bash", "./x.sh"]), vec![]);
    }

    #[test]
    fn one_program_needs_one_folder_and_a_shell_line_what_it_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let argv = |words: &[&str]| words.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        let (cow, line) = (
            argv(&["./cow"]),
            argv(&["sh", "-c", "exec /selftests/x86/sigreturn_64"]),
        );
        let of = |all: &[(&str, &[String])]| Targets::of(all.iter().copied()).names();
        assert_eq!(of(&[("mm", &cow)]), "mm");
        assert_eq!(of(&[("proc", &line), ("mm", &cow)]), "mm proc x86");
        // Each folder of the list is known.
        let listed = listed_programs(&root).expect("the list");
        assert!(listed.len() > 50);
        for (dir, _) in listed {
            assert!(Target::named(&dir).is_some(), "{dir}");
        }
    }

    #[test]
    fn what_is_needed_is_a_part_of_the_name_unless_it_is_all() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("linux-patches/series", "");
        write(
            "linux-patches/BASE",
            include_str!("../../../../linux-patches/BASE"),
        );
        let ctx = Ctx::new(dir.path(), dir.path().join("cache"));
        let source = Source {
            version: "1".into(),
            release: "6.12".into(),
            sha256: "0".into(),
            provider: "debian".into(),
            file: "/x".into(),
        };
        let mm = Targets([Target::Mm].into());
        let all = || [Targets::all(), Targets::ours(), mm.clone()];
        let hashes = || all().map(|t| input_hash(&ctx, &source, "gcc 1", &t).expect("hashed"));
        let old = hashes();
        assert!(old[0] != old[1] && old[1] != old[2] && old[0] != old[2]);
        // Ours concerns those who have ours.
        write("selftests/fpt/a.c", "int main(void) { return 0; }");
        let new = hashes();
        assert!(old[0] != new[0] && old[1] != new[1] && old[2] == new[2]);
    }
}
