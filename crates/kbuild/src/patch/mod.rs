// SPDX-License-Identifier: MIT OR Apache-2.0
//! The patch queues and the trees that they are applied to.
//!
//! A queue becomes commits through a private index, never through the work tree; the work
//! tree then moves from one commit to the other, so that only files that really differ are
//! written and the next build compiles no more than it must.

mod check;
mod queue;
mod refresh;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::doctor;
use crate::sources::{self, git, Project, Source};
use crate::toolchain::Arch;
use fpt_kit::{code, hash, proc, store, Cmd, Ctx, ExitCode, Fail, Result, Stage};

pub use check::{check, Check};
pub use queue::Queue;

/// Apply, refresh or check the patch queues.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Say which queue the trees hold
    Status {
        #[arg(value_enum)]
        project: Option<Project>,
    },
    /// Bring the trees to the queues of this checkout
    Apply {
        #[arg(value_enum)]
        project: Option<Project>,
        /// Throw away commits and edits in the tree
        #[arg(long)]
        force: bool,
    },
    /// Write the commits of a tree back to the queue
    Refresh {
        #[arg(value_enum)]
        project: Project,
        /// The git tree [default: the one that `status` names]
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// First commit that is not part of the queue [default: the tag `base`, else the root commit]
        #[arg(long, value_name = "REV")]
        from: Option<String>,
    },
    /// Check the queues: order, fit, style, sign-off, licences, re-export
    Check {
        #[arg(value_enum)]
        project: Option<Project>,
        /// Also build mm/, fs/proc/ and arch/x86/mm/ after each kernel patch, option off and, where it can be, on (long)
        #[arg(long)]
        each: bool,
        /// Also build mm/ for other architectures, patched and unpatched, and look for symbols that nobody has (minutes each)
        #[arg(long, value_enum, value_name = "ARCH[,ARCH...]", value_delimiter = ',')]
        arch: Vec<Arch>,
    },
}

/// A tree that holds the queue.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The patched tree.
    pub dir: PathBuf,
    /// What it was before.
    pub source: Source,
    /// The last commit of the queue.
    pub commit: String,
}

/// Checks that build; builds lie above this module.
#[derive(Clone, Copy, Debug)]
pub struct Builds {
    /// Builds after each patch.
    pub each: fn(&Ctx) -> Result<Vec<Check>>,
    /// Builds mm/ for other architectures.
    pub archs: fn(&Ctx, &[Arch]) -> Result<Vec<Check>>,
}

/// Runs the command.
///
/// # Errors
///
/// A patch does not apply, or a check of the queue fails.
pub fn main(ctx: &Ctx, args: Args, builds: Builds) -> Result<ExitCode> {
    let some = |p: Option<Project>| p.map_or(Project::ALL.to_vec(), |p| vec![p]);
    doctor::require(ctx, doctor::For::Patch)?;
    match args.command {
        Command::Status { project } => {
            for project in some(project) {
                status(ctx, project)?;
            }
            Ok(code::OK)
        }
        Command::Apply { project, force } => {
            for project in some(project) {
                let source = sources::ensure(ctx, project)?;
                let _lock = tree_lock(ctx, project, &source)?;
                let applied = apply_with(ctx, project, &source, force)?;
                fpt_kit::say!(
                    "\n",
                    "{project} {}: {}",
                    source.release,
                    applied.dir.display()
                );
            }
            Ok(code::OK)
        }
        Command::Refresh {
            project,
            tree,
            from,
        } => refresh::refresh(ctx, project, tree, from),
        Command::Check {
            project,
            each,
            arch,
        } => {
            let mut failed = false;
            for project in some(project) {
                for check in check::check(ctx, project)? {
                    failed |= !check.ok();
                    fpt_kit::say!("\n", "{check}");
                }
                if project != Project::Linux {
                    continue;
                }
                let mut built = Vec::new();
                if each {
                    built.extend((builds.each)(ctx)?);
                }
                built.extend((builds.archs)(ctx, &arch)?);
                for check in built {
                    failed |= !check.ok();
                    fpt_kit::say!("\n", "{check}");
                }
            }
            Ok(ExitCode::of_check(!failed))
        }
    }
}

fn status(ctx: &Ctx, project: Project) -> Result<()> {
    let queue = Queue::load(&ctx.root, project)?;
    let source = sources::planned(ctx, project)?;
    let dir = sources::tree_dir(ctx, project, &source);
    fpt_kit::say!(
        "\n",
        "{project}: {} patches for {}.*, source {} ({})",
        queue.patches.len(),
        queue.base.line,
        source.version,
        hash::short(&source.sha256)
    );
    if !dir.is_dir() {
        fpt_kit::say!(
            "\n",
            "  tree: not unpacked yet (`cargo xtask patch apply {}`)",
            project.name()
        );
        return Ok(());
    }
    fpt_kit::say!("\n", "  tree: {}", dir.display());
    let head = rev(&dir, "HEAD")?;
    let wanted = git(&dir)
        .args(["rev-parse", "-q", "--verify", &queue_ref(&dir, &queue)?])
        .output()?;
    let state = if has_own_commits(&dir)? {
        let count = ctx.read(&git(&dir).args(["rev-list", "--count", "base..HEAD"]))?;
        format!(
            "has commits of its own ({} on top of the base): `patch refresh {}` exports them",
            count.trim(),
            project.name()
        )
    } else if wanted.status.success() && wanted.stdout.trim() == head {
        "holds the queue of this checkout".to_string()
    } else {
        format!(
            "holds another queue: `patch apply {}` changes it",
            project.name()
        )
    };
    fpt_kit::say!("\n", "  {state}");
    let dirty = edits(&dir)?;
    if !dirty.is_empty() {
        fpt_kit::say!("\n", "  edited, not committed: {}", dirty.join(", "));
    }
    Ok(())
}

/// The lock that guards a project's work tree: hold it as long as the tree must not move.
pub fn tree_lock(ctx: &Ctx, project: Project, source: &Source) -> Result<Option<store::Lock>> {
    if ctx.dry_run {
        return Ok(None);
    }
    let name = format!("tree-{}-{}", project.name(), hash::short(&source.sha256));
    store::lock(ctx, &name).map(Some)
}

pub(crate) fn rev(dir: &Path, name: &str) -> Result<String> {
    let text = git(dir).args(["rev-parse", "--verify", name]).read()?;
    Ok(text.trim().to_string())
}

/// Whether the tree stands at a commit that this program has not made or exported.
fn has_own_commits(dir: &Path) -> Result<bool> {
    let known = git(dir)
        .args([
            "for-each-ref",
            "--points-at",
            "HEAD",
            "refs/fpt",
            "refs/tags/base",
        ])
        .read()?;
    Ok(known.trim().is_empty())
}

/// Tracked files that differ from the last commit.
fn edits(dir: &Path) -> Result<Vec<String>> {
    let text = git(dir)
        .args(["status", "--porcelain", "--untracked-files=no"])
        .read()?;
    Ok(text
        .lines()
        .filter_map(|l| l.get(3..).map(str::to_string))
        .collect())
}

fn queue_ref(dir: &Path, queue: &Queue) -> Result<String> {
    let base = rev(dir, "base")?;
    let mut inputs = hash::Inputs::new();
    inputs.text("base", &base);
    queue.add_to(&mut inputs)?;
    Ok(format!("refs/fpt/queue/{}", inputs.finish()))
}

/// Bring the tree to the queue. The caller holds [`tree_lock`].
pub fn apply(ctx: &Ctx, project: Project, source: &Source) -> Result<Applied> {
    apply_with(ctx, project, source, false)
}

/// The same for a queue that has more than `series` names.
pub fn apply_queue(ctx: &Ctx, project: Project, source: &Source, queue: &Queue) -> Result<Applied> {
    apply_these(ctx, project, (source, queue), false)
}

fn apply_with(ctx: &Ctx, project: Project, source: &Source, force: bool) -> Result<Applied> {
    let queue = Queue::load(&ctx.root, project)?;
    apply_these(ctx, project, (source, &queue), force)
}

/// Brings the unpatched tree to the base and these patches of `linux-patches/extra`.
pub fn move_unpatched(ctx: &Ctx, work: &Path, extra: &[&str]) -> Result<()> {
    if ctx.dry_run {
        return Ok(());
    }
    let mut queue = Queue::load(&ctx.root, Project::Linux)?;
    queue.patches = Queue::extra(&ctx.root, extra)?;
    let stage = ctx.ui.stage("bring the unpatched tree to its state");
    let commit = match extra {
        [] => rev(work, "base")?,
        _ => commit_queue(ctx, work, &queue, &stage)?.0,
    };
    if rev(work, "HEAD")? != commit {
        git(work).args(["reset", "-q", "--keep", &commit]).read()?;
    }
    stage.done("");
    Ok(())
}

fn apply_these(
    ctx: &Ctx,
    project: Project,
    (source, queue): (&Source, &Queue),
    force: bool,
) -> Result<Applied> {
    let dir = sources::tree(ctx, project, source)?;
    let stage = ctx.ui.stage(&format!(
        "apply {} patches to {project} {}",
        queue.patches.len(),
        source.release
    ));
    if ctx.dry_run {
        for patch in &queue.patches {
            ctx.ui
                .command(&git(&dir).args(["apply", "--cached"]).arg(&patch.path));
        }
        ctx.ui
            .command(&git(&dir).args(["reset", "-q", "--keep", "QUEUE"]));
        stage.done("dry run");
        return Ok(Applied {
            dir,
            source: source.clone(),
            commit: "QUEUE".into(),
        });
    }
    recover(&dir)?;
    let (commit, offsets) = commit_queue(ctx, &dir, queue, &stage)?;
    for line in &offsets {
        stage.note(line);
    }
    let head = rev(&dir, "HEAD")?;
    let own = has_own_commits(&dir)?;
    let edited = edits(&dir)?;
    // A run that was interrupted while it moved the tree left a state that is nobody's.
    let moving = dir.join(".git/fpt-moving");
    let force = force || moving.exists();
    if !force && (own || !edited.is_empty()) {
        return Err(Fail::infra(
            format!("{} has changes that are not in the queue", dir.display()),
            if edited.is_empty() {
                "commits on top of the queue".to_string()
            } else {
                edited.join(", ")
            },
            format!(
                "keep them with `cargo xtask patch refresh {0}`, or drop them with `cargo xtask patch apply {0} --force`",
                project.name()
            ),
        ));
    }
    let mut changed = 0;
    if head != commit || !edited.is_empty() {
        let list = git(&dir)
            .args(["diff", "--name-only", &head, &commit])
            .read()?;
        changed = list.lines().count();
        let how = if force { "--hard" } else { "--keep" };
        store::write_atomic(&moving, commit.as_bytes())?;
        git(&dir).args(["reset", "-q", how, &commit]).read()?;
        std::fs::remove_file(&moving)
            .with_context(|| format!("cannot remove {}", moving.display()))?;
    }
    let placed = place(ctx, project, &dir)?;
    stage.done(&match (changed, placed) {
        (0, 0) => "nothing to change".to_string(),
        (c, p) => format!("{c} tree files and {p} placed files changed"),
    });
    Ok(Applied {
        dir,
        source: source.clone(),
        commit,
    })
}

/// An interrupted git leaves its own lock file; the tree lock is ours, so nobody uses it.
fn recover(dir: &Path) -> Result<()> {
    let lock = dir.join(".git/index.lock");
    if lock.exists() {
        std::fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
    }
    Ok(())
}

/// The queue as commits on top of `base`; made once per content. Also the places where a
/// patch fitted only at another line.
fn commit_queue(
    ctx: &Ctx,
    dir: &Path,
    queue: &Queue,
    stage: &Stage,
) -> Result<(String, Vec<String>)> {
    let name = queue_ref(dir, queue)?;
    let have = git(dir)
        .args(["rev-parse", "-q", "--verify", &name])
        .output()?;
    if have.status.success() {
        return Ok((have.stdout.trim().to_string(), Vec::new()));
    }
    let scratch = Scratch::new(ctx, dir)?;
    let mut parent = rev(dir, "base")?;
    let mut offsets = Vec::new();
    for patch in &queue.patches {
        stage.line(&patch.name);
        let (commit, moved) = scratch.commit(&parent, patch)?;
        parent = commit;
        offsets.extend(moved);
    }
    // The name is kept for good: it must be that of the patches that were read.
    if queue_ref(dir, queue)? != name {
        return Err(hash::changed("the patch queue", "applied"));
    }
    git(dir).args(["update-ref", &name, &parent]).read()?;
    Ok((parent, offsets))
}

/// A private index in which patches become commits.
pub(crate) struct Scratch {
    dir: PathBuf,
    tmp: tempfile::TempDir,
    _guard: proc::RemoveOnExit,
}

impl Scratch {
    pub(crate) fn new(ctx: &Ctx, dir: &Path) -> Result<Scratch> {
        let parent = ctx.cache.join("tmp");
        store::make_dir(&parent)?;
        let tmp = tempfile::tempdir_in(&parent)
            .with_context(|| format!("cannot create a folder in {}", parent.display()))?;
        let scratch = Scratch {
            dir: dir.to_path_buf(),
            _guard: proc::remove_on_exit(tmp.path()),
            tmp,
        };
        scratch.git().args(["read-tree", "base"]).read()?;
        Ok(scratch)
    }

    fn git(&self) -> Cmd {
        git(&self.dir).env("GIT_INDEX_FILE", self.tmp.path().join("index"))
    }

    /// Apply one patch to the index and commit the result.
    pub(crate) fn commit(
        &self,
        parent: &str,
        patch: &queue::Patch,
    ) -> Result<(String, Vec<String>)> {
        let out = self
            .git()
            .args(["apply", "--cached", "--verbose", "--whitespace=nowarn"])
            .arg(&patch.path)
            .output()?;
        if !out.status.success() {
            let why: Vec<&str> = out
                .stderr
                .lines()
                .filter(|l| l.starts_with("error:"))
                .collect();
            return Err(Fail::infra(
                format!("{} does not apply", patch.name),
                why.join(" "),
                "refresh the queue for this base, or fetch the release that BASE calls tested",
            ));
        }
        let offsets = out
            .stderr
            .lines()
            .filter(|l| l.contains("offset") || l.contains("fuzz"))
            .map(|l| format!("{}: {l}", patch.name))
            .collect();
        let tree = self.git().arg("write-tree").read()?;
        let message = self.tmp.path().join("message");
        let rest = self.tmp.path().join("rest");
        let info = git(&self.dir)
            .args(["mailinfo", "--no-scissors", "--encoding=UTF-8"])
            .arg(&message)
            .arg(&rest)
            .stdin(&patch.path)
            .read()?;
        let field = |name: &str| {
            info.lines()
                .find_map(|l| l.strip_prefix(name))
                .map(str::trim)
                .unwrap_or("")
                .to_string()
        };
        let body = std::fs::read_to_string(&message)?;
        let text = format!("{}\n\n{}", field("Subject:"), body.trim_start_matches('\n'));
        std::fs::write(&message, text)?;
        let commit = git(&self.dir)
            .args(["commit-tree", tree.trim(), "-p", parent, "-F"])
            .arg(&message)
            .env("GIT_AUTHOR_NAME", field("Author:"))
            .env("GIT_AUTHOR_EMAIL", field("Email:"))
            .env("GIT_AUTHOR_DATE", field("Date:"))
            .read()?;
        Ok((commit.trim().to_string(), offsets))
    }
}

/// A folder of the checkout that is placed into the kernel tree: from, to, which files.
type Placed = (&'static str, &'static str, fn(&str) -> bool);
const PLACED: [Placed; 4] = [
    ("rust-mm-fpt/kernel", "arch/x86/mm/fpt", is_rust),
    ("rust-mm-fpt/core/src", "arch/x86/mm/fpt/fpt_core", is_core),
    (
        "rust-mm-fpt/geometry/src",
        "arch/x86/mm/fpt/fpt_core",
        is_core,
    ),
    ("selftests/fpt", "tools/testing/selftests/fpt", is_any),
];

fn is_rust(name: &str) -> bool {
    name.ends_with(".rs")
}

/// `lib.rs` is the root of a host build only.
fn is_core(name: &str) -> bool {
    name.ends_with(".rs") && name != "lib.rs"
}

fn is_any(_: &str) -> bool {
    true
}

/// The placed files: source and place in the tree.
pub(crate) fn placed_files(root: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut out = Vec::new();
    for (from, to, wanted) in PLACED {
        let from = root.join(from);
        for rel in hash::files_below(&from)? {
            let name = rel.to_string_lossy();
            if wanted(&name) && !name.starts_with('.') && !name.ends_with(".orig") {
                out.push((from.join(&rel), Path::new(to).join(&rel)));
            }
        }
    }
    Ok(out)
}

/// Put the Rust text and our selftests into the kernel tree; files that did not change
/// keep their times, files that are gone are removed. Returns how many changed.
fn place(ctx: &Ctx, project: Project, dir: &Path) -> Result<usize> {
    if project != Project::Linux {
        return Ok(0);
    }
    let mut changed = 0;
    let manifest = dir.join(".git/fpt-placed");
    let files = placed_files(&ctx.root)?;
    let now: Vec<String> = files
        .iter()
        .map(|(_, to)| to.to_string_lossy().into_owned())
        .collect();
    let before = std::fs::read_to_string(&manifest).unwrap_or_default();
    for old in before.lines().filter(|o| !now.iter().any(|n| n == o)) {
        let path = dir.join(old);
        if path.is_file() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
            changed += 1;
        }
    }
    // The list first: whatever is placed can also be found again after an interrupt.
    store::write_if_changed(&manifest, (now.join("\n") + "\n").as_bytes())?;
    let exclude: String = now.iter().map(|n| format!("/{n}\n")).collect();
    store::write_if_changed(&dir.join(".git/info/exclude"), exclude.as_bytes())?;
    for (from, to) in &files {
        let data =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let to = dir.join(to);
        if store::write_if_changed(&to, &data)? {
            changed += 1;
        }
        let mode = std::fs::metadata(from)?.permissions();
        if std::fs::metadata(&to)?.permissions() != mode {
            std::fs::set_permissions(&to, mode)?;
        }
    }
    Ok(changed)
}
