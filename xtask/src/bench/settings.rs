// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all cells of a matrix share: `matrix.json`, `fpt-matrix/1`. `--resume` takes it from there, so that
//! a matrix is never replaced by another one cell by cell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fpt_geometry::Mode;
use serde::{Deserialize, Serialize};

use super::catalogue::Scale;
use super::schema::Cell;
use super::{parts, Args, Thp};
use crate::api::{hash, Fail, Result};

pub const SCHEMA: &str = "fpt-matrix/1";
const FILE: &str = "matrix.json";
pub const CONFIG: &str = "config.toml";

/// Edges that graph programs read instead of generating them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    pub file: PathBuf,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub schema: String,
    pub scale: Scale,
    pub preset: String,
    pub thp: Thp,
    pub vcpus: u32,
    pub append: Vec<String>,
    pub all_organisations: bool,
    pub edges: Option<Edges>,
    /// Runs of each cell.
    #[serde(default = "super::schema::one")]
    pub repeat: u32,
    /// Modes and workloads that were asked for so far.
    pub modes: Vec<Mode>,
    pub workloads: Vec<String>,
    /// Complete configuration of the simulator, TOML; in a file of its own.
    #[serde(skip)]
    pub config: String,
}

/// A matrix that is there already.
pub struct Old {
    pub name: String,
    pub settings: Settings,
    /// Does it have a cell that other options would replace?
    pub has_cells: bool,
}

fn cells(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder.join("cells"))
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| !n.to_string_lossy().starts_with('.'))
        })
        .collect()
}

impl Old {
    /// `None` if nothing is there.
    pub fn load(folder: &Path) -> Result<Option<Old>> {
        let cells = cells(folder);
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let path = folder.join(FILE);
        let mut settings = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str::<Settings>(&text)
                .map_err(|e| e.to_string())
                .and_then(|s| match s.schema.as_str() {
                    SCHEMA => Ok(s),
                    other => Err(format!("its schema is {other}")),
                })
                .map_err(|why| {
                    Fail::usage(
                        format!("{} cannot be read", path.display()),
                        why,
                        "choose another --name",
                    )
                })?,
            // A matrix of an older version of this tool: its cells say the most.
            Err(_) => match of_cells(&cells) {
                Some(settings) => settings,
                None => return Ok(None),
            },
        };
        settings.config = std::fs::read_to_string(folder.join(CONFIG)).unwrap_or_default();
        Ok(Some(Old {
            name,
            settings,
            has_cells: !cells.is_empty(),
        }))
    }
}

fn of_cells(files: &[PathBuf]) -> Option<Settings> {
    let cells: Vec<Cell> = files
        .iter()
        .filter_map(|p| serde_json::from_str(&std::fs::read_to_string(p).ok()?).ok())
        .collect();
    let first = cells.first()?;
    let modes: BTreeSet<Mode> = cells.iter().map(|c| c.mode).collect();
    let workloads: BTreeSet<&String> = cells.iter().map(|c| &c.workload).collect();
    Some(Settings {
        schema: SCHEMA.into(),
        scale: <Scale as clap::ValueEnum>::from_str(&first.scale, false).ok()?,
        preset: first.preset.clone(),
        thp: <Thp as clap::ValueEnum>::from_str(&first.thp, false).ok()?,
        vcpus: first.vcpus,
        append: Vec::new(),
        all_organisations: true,
        edges: None,
        repeat: cells.iter().map(|c| c.run).max().unwrap_or(1),
        modes: modes.into_iter().collect(),
        workloads: workloads.into_iter().cloned().collect(),
        config: String::new(),
    })
}

impl Settings {
    /// What the options say; where they say nothing, what the matrix has that they go on with.
    pub fn resolve(args: &Args, old: Option<&Old>) -> Result<Settings> {
        let was = old.map(|o| &o.settings);
        let preset = settle(
            old,
            "--preset",
            args.preset.clone(),
            was.map(|w| w.preset.clone()),
            "emt".into(),
            |p| p.clone(),
        )?;
        let own = was
            .filter(|w| w.preset == preset && !w.config.is_empty())
            .map(|w| w.config.clone());
        let given = match (&own, args.config.is_some() || !args.set.is_empty()) {
            (Some(_), false) => None,
            _ => Some(parts::config(args, &preset)?),
        };
        Ok(Settings {
            schema: SCHEMA.into(),
            scale: settle(
                old,
                "--scale",
                args.scale,
                was.map(|w| w.scale),
                Scale::Small,
                |s| s.name().into(),
            )?,
            preset,
            thp: settle(
                old,
                "--thp",
                args.thp,
                was.map(|w| w.thp),
                Thp::Never,
                |t| t.name().into(),
            )?,
            vcpus: settle(
                old,
                "--vcpus",
                args.vcpus,
                was.map(|w| w.vcpus),
                1,
                u32::to_string,
            )?,
            append: settle(
                old,
                "--append",
                (!args.append.is_empty()).then(|| args.append.clone()),
                was.map(|w| w.append.clone()),
                Vec::new(),
                |a| format!("'{}'", a.join(" ")),
            )?,
            all_organisations: settle(
                old,
                "--all-organisations",
                args.all_organisations.then_some(true),
                was.map(|w| w.all_organisations),
                false,
                |a| if *a { "on".into() } else { "off".into() },
            )?,
            edges: settle(
                old,
                "--edges",
                args.edges.as_deref().map(edges).transpose()?.map(Some),
                match was.map(|w| &w.edges) {
                    // The file may have changed: then its cells have, too.
                    Some(Some(e)) if args.edges.is_none() => Some(Some(edges(&e.file)?)),
                    other => other.cloned(),
                },
                None,
                |e| {
                    e.as_ref().map_or("none".into(), |e| {
                        format!("{} ({})", e.file.display(), hash::short(&e.sha256))
                    })
                },
            )?,
            // More runs replace none.
            repeat: args.repeat.max(was.map(|w| w.repeat)).unwrap_or(1),
            modes: Vec::new(),
            workloads: Vec::new(),
            config: settle(
                old,
                "--set or --config",
                given,
                own,
                String::new(),
                |text: &String| format!("(configuration {})", hash::short(&hash::of_text(text))),
            )?,
        })
    }

    /// Adds to what was asked for before.
    pub fn asked(&mut self, old: Option<&Old>, modes: &[Mode], workloads: Vec<String>) {
        let (m, w) = old.map_or((Vec::new(), Vec::new()), |o| {
            (o.settings.modes.clone(), o.settings.workloads.clone())
        });
        fn union<T: Clone + Ord>(mut all: Vec<T>, new: &[T]) -> Vec<T> {
            all.extend(new.iter().cloned());
            let mut seen = BTreeSet::new();
            all.retain(|n| seen.insert(n.clone()));
            all
        }
        self.modes = union(m, modes);
        self.workloads = union(w, &workloads);
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        crate::api::store::write_atomic(&folder.join(FILE), format!("{text}\n").as_bytes())?;
        crate::api::store::write_atomic(&folder.join(CONFIG), self.config.as_bytes())
    }
}

fn edges(file: &Path) -> Result<Edges> {
    let bad = |why: String| {
        Fail::usage(
            format!("cannot read {}", file.display()),
            why,
            "name a file of edges with --edges (docs/reference/workloads.md)",
        )
    };
    let path = file.canonicalize().map_err(|e| bad(e.to_string()))?;
    let meta = path.metadata().map_err(|e| bad(e.to_string()))?;
    if !meta.is_file() || meta.len() == 0 {
        return Err(bad("it is no file, or empty".into()));
    }
    Ok(Edges {
        sha256: hash::of_file(&path)?,
        file: path,
    })
}

/// An option of a matrix: as given, else as the matrix was made, else the default. A matrix with cells
/// is not gone on with under another value.
fn settle<T: PartialEq + Clone>(
    old: Option<&Old>,
    option: &str,
    given: Option<T>,
    was: Option<T>,
    default: T,
    text: impl Fn(&T) -> String,
) -> Result<T> {
    match (given, was, old) {
        (Some(new), Some(was), Some(old)) if old.has_cells && new != was => Err(Fail::usage(
            format!(
                "matrix '{}' was made with another {option}: {}, not {}",
                old.name,
                text(&was),
                text(&new)
            ),
            "going on would replace its cells by others",
            "leave the option out to go on with it, or choose another --name",
        )),
        (Some(new), _, _) => Ok(new),
        (None, Some(was), _) => Ok(was),
        (None, None, _) => Ok(default),
    }
}
