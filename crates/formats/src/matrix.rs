// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all cells of a matrix share: `matrix.json`, `fpt-matrix/1`. `--resume` takes it from there, so that
//! a matrix is never replaced by another one cell by cell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fpt_geometry::Boot;
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Edges};
use fpt_kit::{store, Ctx, Fail, Result};

/// How much each program works.
#[derive(
    clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Seconds: to see that everything works
    Tiny,
    /// Minutes: the default
    Small,
    /// Hours
    Medium,
    /// The sizes of the paper's table 1: for a big host
    Paper,
}

impl Scale {
    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Tiny => "tiny",
            Scale::Small => "small",
            Scale::Medium => "medium",
            Scale::Paper => "paper",
        }
    }
}

/// Transparent huge pages in the guest.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thp {
    /// No page is huge.
    Never,
    /// Only where a program asks for it.
    Madvise,
    /// Wherever it fits.
    Always,
}

impl Thp {
    /// The name on the command line and in files, which is the kernel's.
    pub fn name(self) -> &'static str {
        match self {
            Thp::Never => "never",
            Thp::Madvise => "madvise",
            Thp::Always => "always",
        }
    }
}

/// Name and version of the format.
pub const SCHEMA: &str = "fpt-matrix/1";

const FILE: &str = "matrix.json";

/// The file of a matrix with the simulator's configuration.
pub const CONFIG: &str = "config.toml";

/// What all cells of a matrix have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// [`SCHEMA`]
    pub schema: String,
    /// How much each program works.
    pub scale: Scale,
    /// The preset of the simulated machine.
    pub preset: String,
    /// Transparent huge pages in the guests.
    pub thp: Thp,
    /// Virtual CPUs of each guest.
    pub vcpus: u32,
    /// More words for the kernel's command line.
    pub append: Vec<String>,
    /// Whether every organisation is computed in every mode, not in radix only.
    pub all_organisations: bool,
    /// A graph that programs read instead of generating one.
    pub edges: Option<Edges>,
    /// Runs of each cell.
    #[serde(default = "super::cell::one")]
    pub repeat: u32,
    /// Modes (mixed may be one) and workloads that were asked for so far.
    pub modes: Vec<Boot>,
    /// The workloads among them.
    pub workloads: Vec<String>,
    /// Complete configuration of the simulator, TOML; in a file of its own.
    #[serde(skip)]
    pub config: String,
}

/// A matrix that is there already.
pub struct Old {
    /// The name of the matrix.
    pub name: String,
    /// What its cells have in common.
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
    let modes: BTreeSet<Boot> = cells.iter().map(|c| c.mode).collect();
    let workloads: BTreeSet<&String> = cells.iter().map(|c| &c.workload).collect();
    Some(Settings {
        schema: SCHEMA.into(),
        scale: first.scale,
        preset: first.preset.clone(),
        thp: first.thp,
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
    /// Adds to what was asked for before.
    pub fn asked(&mut self, old: Option<&Old>, modes: &[Boot], workloads: Vec<String>) {
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

    /// Writes the settings into the folder of their matrix.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        store::write_atomic(&folder.join(FILE), format!("{text}\n").as_bytes())?;
        store::write_atomic(&folder.join(CONFIG), self.config.as_bytes())
    }
}

/// The folder of all matrices.
pub fn base(ctx: &Ctx) -> PathBuf {
    ctx.root.join("target/fpt/bench")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    #[test]
    fn what_was_asked_for_is_added_to() {
        let text = r#"{"schema":"fpt-matrix/1","scale":"tiny","preset":"emt","thp":"never","vcpus":1,
            "append":[],"all_organisations":false,"edges":null,"modes":["radix","l3l2"],"workloads":["bfs"]}"#;
        let old = Old {
            name: "m".into(),
            settings: serde_json::from_str(text).unwrap(),
            has_cells: true,
        };
        let mut settings = old.settings.clone();
        let asked = [Boot::RADIX, Boot::Mixed];
        settings.asked(Some(&old), &asked, vec!["gups".into()]);
        let all = [Boot::RADIX, Mode::L3L2.into(), Boot::Mixed];
        assert_eq!(settings.modes, all);
        assert_eq!(settings.workloads, ["bfs", "gups"]);
        let text = serde_json::to_string(&settings).unwrap();
        assert!(
            text.contains(r#""modes":["radix","l3l2","mixed"]"#),
            "{text}"
        );
    }
}
