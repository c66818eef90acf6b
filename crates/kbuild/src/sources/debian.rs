// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Debian provider: apt with lists, cache and state in this project's cache folder, so
//! that neither root nor a change to the system is needed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{aptlists, release_of, Base, Entry, PackageKind, Project, Source};
use fpt_kit::{fail, hash, store, Cmd, Ctx, Fail, Result, Stage, Steps};

/// Names of suites that mean the machine's own release.
const ALIASES: [&str; 3] = ["stable", "oldstable", "testing"];

/// apt that knows only the given source entries.
pub struct Apt {
    /// The folder with apt's private state.
    pub dir: PathBuf,
}

impl Apt {
    /// Private state with the given source entries.
    pub fn new(ctx: &Ctx, name: &str, stanzas: &[String]) -> Result<Apt> {
        let text = stanzas.join("\n");
        let key = hash::of_text(&text);
        let dir = ctx
            .cache
            .join("apt")
            .join(format!("{name}-{}", hash::short(&key)));
        if !ctx.dry_run {
            for sub in ["lists/partial", "cache/archives/partial", "parts"] {
                store::make_dir(&dir.join(sub))?;
            }
            store::write_if_changed(&dir.join("parts/fpt.sources"), text.as_bytes())?;
        }
        Ok(Apt { dir })
    }

    /// `program` of apt with this state.
    pub fn cmd(&self, program: &str) -> Cmd {
        let mut cmd = Cmd::new(program);
        for option in [
            "Dir::Etc::SourceList=/dev/null".to_string(),
            format!("Dir::Etc::SourceParts={}", self.dir.join("parts").display()),
            format!("Dir::State={}", self.dir.display()),
            format!("Dir::State::Lists={}", self.dir.join("lists").display()),
            format!("Dir::Cache={}", self.dir.join("cache").display()),
            // The user's own folders are not readable for apt's download user.
            "APT::Sandbox::User=".to_string(),
            "Acquire::Retries=3".to_string(),
            "Acquire::Languages=none".to_string(),
        ] {
            cmd = cmd.arg("-o").arg(option);
        }
        cmd.env("LC_ALL", "C")
    }

    /// Gets the lists.
    pub fn update(&self, ctx: &Ctx, stage: &Stage, log: &Path) -> Result<()> {
        let cmd = self
            .cmd("apt-get")
            .args(["-o", "APT::Update::Error-Mode=any", "update"]);
        ctx.step(stage, log, &cmd).map_err(|err| {
            let (line, code) = fail::report(&err);
            Fail::new(
                code,
                "the Debian archive cannot be read",
                line,
                "is there a network? A tarball will do: `cargo xtask fetch linux --provider upstream --from FILE --sha256 HEX`",
            )
            .into()
        })
    }

    /// Versions that the archive has, newest first.
    fn versions(&self, ctx: &Ctx, package: &str, kind: PackageKind) -> Result<Vec<String>> {
        let text = ctx.read(&self.cmd("apt-cache").args(["madison", package]))?;
        let wanted = |place: &str| match kind {
            PackageKind::Binary => place.ends_with("Packages"),
            PackageKind::Source => place.ends_with("Sources"),
        };
        let mut out: Vec<String> = Vec::new();
        for line in text.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if let [name, version, place] = cells.as_slice() {
                if *name == package && wanted(place) && !out.iter().any(|v| v == version) {
                    out.push(version.to_string());
                }
            }
        }
        Ok(out)
    }
}

/// The machine's apt configuration; another folder only in tests.
fn apt_etc() -> PathBuf {
    std::env::var_os("FPT_APT_ETC").map_or_else(|| PathBuf::from("/etc/apt"), PathBuf::from)
}

/// Entries of the machine's own Debian release.
pub fn own_entries() -> Result<Vec<Entry>> {
    let etc = apt_etc();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = os
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .map(|v| v.trim_matches('"').to_string())
        .unwrap_or_default();
    let mut entries = aptlists::read(&etc)?;
    entries.retain(|e| {
        let base = e.base_suite();
        e.components.iter().any(|c| c == "main") && (base == codename || ALIASES.contains(&base))
    });
    if !entries.iter().any(Entry::is_main_suite) {
        return Err(Fail::infra(
            "no Debian archive found",
            format!(
                "{} has no entry for suite '{codename}' with component main",
                etc.display()
            ),
            "add one, or use `cargo xtask fetch PROJECT --provider upstream --from PATH|URL --sha256 HEX`",
        ));
    }
    Ok(entries)
}

/// The newest acceptable version; the tested one wins.
fn choose(base: &Base, versions: &[String]) -> Option<String> {
    versions
        .iter()
        .find(|v| release_of(v) == base.tested)
        .or_else(|| versions.iter().find(|v| base.accepts(&release_of(v))))
        .cloned()
}

/// Gets the sources that `base` names through apt.
///
/// # Errors
///
/// The archive cannot be reached, has no such version, or gives another hash.
pub fn fetch(ctx: &Ctx, project: Project, base: &Base) -> Result<Source> {
    if let Some(source) = installed(ctx, base)? {
        return Ok(source);
    }
    let own = own_entries()?;
    let stage = ctx.ui.stage(&format!("fetch {project} {}", base.line));
    let log = ctx.log_dir().join(format!("fetch-{}.log", project.name()));
    let suites: Vec<Option<&str>> = if base.debian.suites.is_empty() {
        vec![None]
    } else {
        base.debian
            .suites
            .iter()
            .map(|s| Some(s.as_str()))
            .collect()
    };
    let mut seen = Vec::new();
    for suite in suites {
        let stanzas = stanzas(&own, suite, base.debian.kind);
        let apt = Apt::new(ctx, project.name(), &stanzas)?;
        apt.update(ctx, &stage, &log)?;
        if ctx.dry_run {
            let package = format!("{}={}*", base.debian.package, base.tested);
            ctx.step(&stage, &log, &download_cmd(&apt, base, &package))?;
            stage.done("dry run");
            return super::planned(ctx, project);
        }
        let versions = apt.versions(ctx, &base.debian.package, base.debian.kind)?;
        let Some(version) = choose(base, &versions) else {
            seen.extend(versions);
            continue;
        };
        stage.note(&format!("{} {version}", base.debian.package));
        let steps = Steps {
            ctx,
            stage: &stage,
            log: &log,
        };
        let source = download(steps, project, base, &apt, &version)?;
        stage.done(&format!(
            "{version}, sha256 {}",
            hash::short(&source.sha256)
        ));
        return Ok(source);
    }
    Err(Fail::infra(
        format!("the archive has no {} {}.*", base.debian.package, base.line),
        if seen.is_empty() {
            "it knows no version at all".to_string()
        } else {
            format!("it has {}", seen.join(", "))
        },
        "use `cargo xtask fetch PROJECT --provider upstream --from PATH|URL --sha256 HEX`",
    ))
}

/// The entries as deb822 stanzas, for one suite of the main mirror or, without, as they are.
pub fn stanzas(own: &[Entry], suite: Option<&str>, kind: PackageKind) -> Vec<String> {
    let kind = match kind {
        PackageKind::Binary => "deb",
        PackageKind::Source => "deb-src",
    };
    match suite {
        None => own.iter().map(|e| e.stanza(kind, &e.suite)).collect(),
        Some(suite) => own
            .iter()
            .find(|e| e.is_main_suite())
            .map(|e| e.stanza(kind, suite))
            .into_iter()
            .collect(),
    }
}

fn download_cmd(apt: &Apt, base: &Base, package: &str) -> Cmd {
    match base.debian.kind {
        PackageKind::Binary => apt.cmd("apt-get").args(["download", package]),
        PackageKind::Source => apt
            .cmd("apt-get")
            .args(["source", "--download-only", package]),
    }
}

fn download(
    steps: Steps,
    project: Project,
    base: &Base,
    apt: &Apt,
    version: &str,
) -> Result<Source> {
    let ctx = steps.ctx;
    let package = format!("{}={version}", base.debian.package);
    // apt checks hashes and signatures; the folder gets its name only when all is there.
    let new = store::NewDir::new(&super::source_dir(ctx, project).join("new"))?;
    steps.run(&download_cmd(apt, base, &package).cwd(new.path()))?;
    let file = match base.debian.kind {
        PackageKind::Source => find(new.path(), ".dsc")?,
        PackageKind::Binary => {
            let deb = find(new.path(), ".deb")?;
            let out = new.path().join("deb");
            steps.run(&Cmd::new("dpkg-deb").arg("-x").arg(&deb).arg(&out))?;
            let tarball = find(&out.join("usr/src"), ".tar.xz")?;
            let name = tarball.file_name().context("a file has a name")?;
            let to = new.path().join(name);
            std::fs::rename(&tarball, &to)
                .with_context(|| format!("cannot move {}", tarball.display()))?;
            std::fs::remove_dir_all(&out)?;
            std::fs::remove_file(&deb)?;
            to
        }
    };
    let sha256 = hash::of_file(&file)?;
    let name = file
        .file_name()
        .context("a file has a name")?
        .to_os_string();
    let dir = new.commit_as(&super::source_dir(ctx, project).join(&sha256))?;
    Ok(Source {
        provider: "debian".into(),
        version: version.to_string(),
        release: release_of(version),
        file: dir.join(name),
        sha256,
    })
}

/// A source tarball package that is installed already, if it is the tested release.
fn installed(ctx: &Ctx, base: &Base) -> Result<Option<Source>> {
    let package = &base.debian.package;
    let file = PathBuf::from(format!("/usr/src/{package}.tar.xz"));
    if base.debian.kind != PackageKind::Binary
        || !file.is_file()
        || std::env::var_os("FPT_APT_ETC").is_some()
    {
        return Ok(None);
    }
    let out = Cmd::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Abbrev} ${Version}", package])
        .output()?;
    let Some(version) = out
        .stdout
        .strip_prefix("ii ")
        .map(|v| v.trim().to_string())
        .filter(|v| out.status.success() && release_of(v) == base.tested)
    else {
        return Ok(None);
    };
    let sha256 = hash::of_file(&file)?;
    if base.known.get(&version) != Some(&sha256) {
        return Ok(None);
    }
    ctx.ui
        .info(&format!("using the installed package {package} {version}"));
    Ok(Some(Source {
        provider: "debian".into(),
        release: release_of(&version),
        version,
        file,
        sha256,
    }))
}

/// The one file in `dir` whose name ends so.
fn find(dir: &Path, end: &str) -> Result<PathBuf> {
    let mut hits: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.to_string_lossy().ends_with(end))
        .collect();
    hits.sort();
    hits.into_iter().next().ok_or_else(|| {
        Fail::infra(
            "the package does not hold what was expected",
            format!("no *{end} in it"),
            "is `debian.package` in BASE right?",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(tested: &str) -> Base {
        toml::from_str(&format!(
            "name='linux'\nline='6.12'\ntested='{tested}'\n[debian]\npackage='p'\nkind='binary'"
        ))
        .expect("a valid BASE")
    }

    #[test]
    fn tested_release_wins_else_newest_of_the_line() {
        let have: Vec<String> = ["6.13.1-1", "6.12.120-1", "6.12.117-1~deb12u1"]
            .map(String::from)
            .to_vec();
        assert_eq!(
            choose(&base("6.12.117"), &have).as_deref(),
            Some("6.12.117-1~deb12u1")
        );
        assert_eq!(
            choose(&base("6.12.90"), &have).as_deref(),
            Some("6.12.120-1")
        );
        assert_eq!(choose(&base("6.12.90"), &have[..1]), None);
    }

    #[test]
    fn other_suite_comes_from_the_main_mirror() {
        let own = |suite: &str, uri: &str| Entry {
            uri: uri.into(),
            suite: suite.into(),
            components: vec!["main".into()],
            fields: Vec::new(),
        };
        let own = [
            own("bookworm-security", "http://s.example"),
            own("bookworm", "http://m.example"),
        ];
        let got = stanzas(&own, Some("trixie"), PackageKind::Source);
        assert_eq!(
            got,
            ["Types: deb-src\nURIs: http://m.example\nSuites: trixie\nComponents: main\n"]
        );
        assert_eq!(stanzas(&own, None, PackageKind::Binary).len(), 2);
    }
}
