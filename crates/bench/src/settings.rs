// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of a call against those that its matrix was made with.

use std::path::Path;

use super::parts;
use super::Args;
use fpt_formats::cell::Edges;
use fpt_formats::matrix::{Old, Scale, Settings, Thp, SCHEMA};
use fpt_kit::{hash, Fail, Result};

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
