// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the kernel's and QEMU's sources come from: the distribution's archive, or a
//! tarball that the caller names. What was fetched is recorded with its hash.

mod aptlists;
pub mod debian;
mod upstream;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::doctor;
use crate::toml_file;
use fpt_kit::{code, hash, store, Cmd, Ctx, ExitCode, Fail, Result, Stage};

pub use aptlists::Entry;

/// The two projects that have a patch queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Project {
    /// The kernel.
    Linux,
    /// The emulator.
    Qemu,
}

impl Project {
    /// Both, the kernel first.
    pub const ALL: [Project; 2] = [Project::Linux, Project::Qemu];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Project::Linux => "linux",
            Project::Qemu => "qemu",
        }
    }

    /// The folder of its patches in the checkout.
    pub fn queue_dir(self, root: &Path) -> PathBuf {
        root.join(format!("{}-patches", self.name()))
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Project::Linux => "Linux",
            Project::Qemu => "QEMU",
        })
    }
}

/// Where sources come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Provider {
    /// The Debian archive, through apt with private state
    #[default]
    Debian,
    /// A tarball given by --from and --sha256
    Upstream,
}

/// Get the sources of the kernel and of QEMU.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which source [default: both]
    #[arg(value_enum)]
    project: Option<Project>,
    /// Where from
    #[arg(long, value_enum, default_value_t)]
    provider: Provider,
    /// Path or URL of the tarball, for the upstream provider
    #[arg(long, value_name = "PATH|URL")]
    from: Option<String>,
    /// Hash that the tarball must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Look for a newer release although one is in the cache
    #[arg(long)]
    update: bool,
}

/// `BASE` of a queue: what it applies to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The name of the project.
    pub name: String,
    /// Release line, such as 6.12.
    pub line: String,
    /// Release that is taken where it can be had.
    pub tested: String,
    /// Where Debian has it.
    pub debian: DebianBase,
    /// Debian version to hash.
    #[serde(default)]
    pub known: BTreeMap<String, String>,
}

/// A package of Debian with the sources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianBase {
    /// The name of the package.
    pub package: String,
    /// How the package holds them.
    pub kind: PackageKind,
    /// Suites to look in, in order; none means the machine's own.
    #[serde(default)]
    pub suites: Vec<String>,
}

/// How a Debian package holds sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// A tarball inside of a binary package.
    Binary,
    /// A source package.
    Source,
}

impl Base {
    /// Reads `BASE` of a project's queue.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn load(root: &Path, project: Project) -> Result<Base> {
        toml_file::load(
            &project.queue_dir(root).join("BASE"),
            "see docs/reference/xtask.md for its keys",
        )
    }

    /// Whether an upstream release belongs to the line of this base.
    pub fn accepts(&self, release: &str) -> bool {
        release == self.line
            || release
                .strip_prefix(&self.line)
                .is_some_and(|rest| rest.starts_with('.'))
    }

    fn check_known(&self, version: &str, sha256: &str) -> Result<()> {
        match self.known.get(version) {
            Some(want) if want != sha256 => Err(Fail::infra(
                format!("{} {version} is not the file that BASE names", self.name),
                format!("sha256 {sha256}, expected {want}"),
                "remove it with `cargo xtask clean --sources` and fetch again",
            )),
            _ => Ok(()),
        }
    }
}

/// A fetched source.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Source {
    /// Who gave it: the name of a [`Provider`].
    pub provider: String,
    /// Full version as the provider names it.
    pub version: String,
    /// Upstream release, such as 6.12.117.
    pub release: String,
    /// Tarball, or .dsc with its files beside it.
    pub file: PathBuf,
    /// The SHA-256 of `file`, in hexadecimal.
    pub sha256: String,
}

/// Debian version `1:10.0.13+ds-0+deb13u1` to release `10.0.13`.
pub fn release_of(version: &str) -> String {
    let no_epoch = version.split_once(':').map_or(version, |(_, v)| v);
    no_epoch
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .next()
        .unwrap_or("")
        .trim_end_matches('.')
        .to_string()
}

fn record_path(ctx: &Ctx, project: Project) -> Result<PathBuf> {
    let base = project.queue_dir(&ctx.root).join("BASE");
    let key = hash::of_file(&base)?;
    Ok(source_dir(ctx, project).join(format!("for-{}.json", hash::short(&key))))
}

fn source_dir(ctx: &Ctx, project: Project) -> PathBuf {
    ctx.cache.join("sources").join(project.name())
}

fn recorded(ctx: &Ctx, project: Project) -> Result<Option<Source>> {
    let Ok(text) = std::fs::read_to_string(record_path(ctx, project)?) else {
        return Ok(None);
    };
    // An unreadable record is only a cache miss.
    let source = serde_json::from_str::<Source>(&text).ok();
    Ok(source.map(|s| moved(&source_dir(ctx, project), s)))
}

/// A record has the path of the cache that it was written in; the cache may have been copied to another place.
fn moved(dir: &Path, source: Source) -> Source {
    let inside = source
        .file
        .iter()
        .skip_while(|part| *part != source.sha256.as_str());
    let here: PathBuf = dir.join(inside.collect::<PathBuf>());
    if !source.file.is_file() && here.is_file() {
        Source {
            file: here,
            ..source
        }
    } else {
        source
    }
}

fn record(ctx: &Ctx, project: Project, source: &Source) -> Result<()> {
    let text = serde_json::to_string_pretty(source)?;
    store::write_atomic(&record_path(ctx, project)?, text.as_bytes())
}

/// Runs the command.
///
/// # Errors
///
/// The sources cannot be had, or have another hash than they must.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    if args.provider == Provider::Upstream {
        let (Some(project), Some(from), Some(sha256)) = (args.project, &args.from, &args.sha256)
        else {
            return Err(Fail::usage(
                "the upstream provider needs to know what to fetch",
                "",
                "cargo xtask fetch linux --provider upstream --from PATH|URL --sha256 HEX",
            ));
        };
        doctor::require(ctx, doctor::For::Fetch)?;
        let _lock = store::lock(ctx, &format!("source-{}", project.name()))?;
        let base = Base::load(&ctx.root, project)?;
        let source = upstream::fetch(ctx, project, &base, from, sha256)?;
        if !ctx.dry_run {
            record(ctx, project, &source)?;
            print_source(project, &source);
        }
        return Ok(code::OK);
    }
    if args.from.is_some() || args.sha256.is_some() {
        return Err(Fail::usage(
            "--from and --sha256 belong to the upstream provider",
            "",
            "add --provider upstream",
        ));
    }
    doctor::require(ctx, doctor::For::Fetch)?;
    let projects = match args.project {
        Some(p) => vec![p],
        None => Project::ALL.to_vec(),
    };
    for project in projects {
        let source = fetch(ctx, project, args.update)?;
        if !ctx.dry_run {
            print_source(project, &source);
        }
    }
    Ok(code::OK)
}

fn print_source(project: Project, source: &Source) {
    fpt_kit::say!(
        "\n",
        "{project} {} ({}), sha256 {}",
        source.version,
        source.provider,
        source.sha256
    );
}

/// The source for the queue of this checkout, from the cache or the archive.
pub fn ensure(ctx: &Ctx, project: Project) -> Result<Source> {
    fetch(ctx, project, false)
}

/// What would be used, without fetching: for dry runs.
pub fn planned(ctx: &Ctx, project: Project) -> Result<Source> {
    if let Some(source) = recorded(ctx, project)? {
        return Ok(source);
    }
    let base = Base::load(&ctx.root, project)?;
    let known = base
        .known
        .iter()
        .find(|(v, _)| release_of(v) == base.tested);
    let (version, sha256) = match known {
        Some((v, h)) => (v.clone(), h.clone()),
        None => (base.tested.clone(), "0".repeat(64)),
    };
    Ok(Source {
        provider: "debian".into(),
        release: base.tested.clone(),
        file: source_dir(ctx, project).join(&sha256).join("source"),
        version,
        sha256,
    })
}

fn fetch(ctx: &Ctx, project: Project, update: bool) -> Result<Source> {
    let base = Base::load(&ctx.root, project)?;
    let usable = |ctx: &Ctx| -> Result<Option<Source>> {
        Ok(recorded(ctx, project)?
            .filter(|s| s.file.is_file() || tree_dir(ctx, project, s).is_dir()))
    };
    if !update {
        if let Some(source) = usable(ctx)? {
            return Ok(source);
        }
    }
    if ctx.dry_run {
        debian::fetch(ctx, project, &base)?;
        return planned(ctx, project);
    }
    let _lock = store::lock(ctx, &format!("source-{}", project.name()))?;
    if !update {
        // Another run may have fetched it while this one waited.
        if let Some(source) = usable(ctx)? {
            return Ok(source);
        }
    }
    let source = debian::fetch(ctx, project, &base)?;
    base.check_known(&source.version, &source.sha256)?;
    if source.release != base.tested {
        ctx.ui.warn(&format!(
            "{project} {} is not the release that the queue was tested with ({}); its patches must fit exactly or the build stops",
            source.release, base.tested
        ));
    }
    record(ctx, project, &source)?;
    Ok(source)
}

/// Where the source of a project lies unpacked, as a git work tree.
pub fn tree_dir(ctx: &Ctx, project: Project, source: &Source) -> PathBuf {
    ctx.cache.join("trees").join(format!(
        "{}-{}",
        project.name(),
        hash::short(&source.sha256)
    ))
}

/// A `git` that no configuration of the user's can change.
pub fn git(dir: &Path) -> Cmd {
    let mut cmd = Cmd::new("git").arg("-C").arg(dir);
    for setting in [
        "core.hooksPath=/dev/null",
        "core.autocrlf=false",
        "core.compression=1",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
        "commit.gpgSign=false",
    ] {
        cmd = cmd.arg("-c").arg(setting);
    }
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_EXTERNAL_DIFF",
    ] {
        cmd = cmd.env_remove(name);
    }
    cmd.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "FPT-Linux")
        .env("GIT_AUTHOR_EMAIL", "fpt@localhost")
        .env("GIT_AUTHOR_DATE", "2025-01-01T00:00:00Z")
        .env("GIT_COMMITTER_NAME", "FPT-Linux")
        .env("GIT_COMMITTER_EMAIL", "fpt@localhost")
        .env("GIT_COMMITTER_DATE", "2025-01-01T00:00:00Z")
        .env("LC_ALL", "C")
}

/// The unpacked source as a git work tree with one commit, tagged `base`. The caller
/// holds the project's tree lock.
pub fn tree(ctx: &Ctx, project: Project, source: &Source) -> Result<PathBuf> {
    let dir = tree_dir(ctx, project, source);
    if dir.is_dir() {
        return Ok(dir);
    }
    let stage = ctx
        .ui
        .stage(&format!("unpack {project} {}", source.release));
    let log = ctx.log_dir().join(format!("unpack-{}.log", project.name()));
    if ctx.dry_run {
        unpack(ctx, &stage, &log, source, &dir)?;
        commit_base(ctx, &stage, &log, &dir, source)?;
        stage.done("dry run");
        return Ok(dir);
    }
    let new = store::NewDir::new(&dir)?;
    let work = new.path().join("tree");
    unpack(ctx, &stage, &log, source, &work)?;
    commit_base(ctx, &stage, &log, &work, source)?;
    new.commit_inner("tree")?;
    stage.done(&format!("in {}", dir.display()));
    Ok(dir)
}

fn unpack(ctx: &Ctx, stage: &Stage, log: &Path, source: &Source, work: &Path) -> Result<()> {
    if source.file.extension().is_some_and(|e| e == "dsc") {
        // apt has checked the hashes; dpkg-source applies Debian's own patches.
        let cmd = Cmd::new("dpkg-source")
            .args(["--no-check", "-x"])
            .arg(&source.file)
            .arg(work);
        ctx.step(stage, log, &cmd)?;
        if !ctx.dry_run && work.join(".pc").is_dir() {
            std::fs::remove_dir_all(work.join(".pc"))?;
        }
        return Ok(());
    }
    if !ctx.dry_run {
        store::make_dir(work)?;
    }
    let cmd = Cmd::new("tar")
        .args(["--strip-components=1", "--no-same-owner", "-C"])
        .arg(work)
        .arg("-xf")
        .arg(&source.file);
    ctx.step(stage, log, &cmd)
}

fn commit_base(ctx: &Ctx, stage: &Stage, log: &Path, work: &Path, source: &Source) -> Result<()> {
    let message = format!("{} ({})", source.version, source.provider);
    ctx.step(stage, log, &git(work).args(["init", "-q", "-b", "fpt"]))?;
    // -f: ignore rules of the tree itself may cover files that it ships.
    ctx.step(stage, log, &git(work).args(["add", "-f", "-A"]))?;
    ctx.step(
        stage,
        log,
        &git(work).args(["commit", "-q", "--no-verify", "-m", &message]),
    )?;
    ctx.step(stage, log, &git(work).args(["tag", "base"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_may_be_copied_to_another_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("ab12/linux.tar.xz");
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        let source = |file: &Path| Source {
            provider: "debian".into(),
            version: "6.12.117-1".into(),
            release: "6.12.117".into(),
            file: file.into(),
            sha256: "ab12".into(),
        };
        let old = source(Path::new("/nowhere/sources/linux/ab12/linux.tar.xz"));
        assert_eq!(moved(dir.path(), old.clone()), old, "it is not here");
        std::fs::write(&file, "x").expect("written");
        assert_eq!(moved(dir.path(), old), source(&file));
        assert_eq!(moved(Path::new("/elsewhere"), source(&file)), source(&file));
    }

    fn base() -> Base {
        toml::from_str(
            r#"
            name = "linux"
            line = "6.12"
            tested = "6.12.117"
            [debian]
            package = "linux-source-6.12"
            kind = "binary"
            [known]
            "6.12.117-1" = "aa"
            "#,
        )
        .expect("a valid BASE")
    }

    #[test]
    fn releases() {
        assert_eq!(release_of("6.12.117-1~deb12u1"), "6.12.117");
        assert_eq!(release_of("1:10.0.13+ds-0+deb13u1"), "10.0.13");
        assert_eq!(release_of("6.12~rc3-1"), "6.12");
        assert_eq!(release_of(""), "");
    }

    #[test]
    fn line_is_not_a_plain_prefix() {
        let base = base();
        assert!(base.accepts("6.12") && base.accepts("6.12.1"));
        assert!(!base.accepts("6.1") && !base.accepts("6.120.1") && !base.accepts(""));
    }

    #[test]
    fn known_version_with_another_hash_is_refused() {
        let base = base();
        assert!(base.check_known("6.12.117-1", "aa").is_ok());
        assert!(base.check_known("6.12.118-1", "bb").is_ok());
        let err = base.check_known("6.12.117-1", "bb").expect_err("differs");
        assert!(err.to_string().contains("expected aa"), "{err}");
    }

    #[test]
    fn unknown_key_in_base_is_refused() {
        assert!(toml::from_str::<Base>(
            "name = 'x'\nline='1'\ntested='1'\nfrob=1\n[debian]\npackage='p'\nkind='binary'"
        )
        .is_err());
    }
}
