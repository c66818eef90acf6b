// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows as CSV and, with means, published figures and provenance, as JSON: `fpt-report/2`.

use anyhow::Context as _;
use fpt_geometry::Boot;
use serde::Serialize;
use serde_json::{json, Value};

use super::figure::PHASES;
use super::metrics::{Of, Range, Row, Table, GRAPHS};
use super::published::{CITED, PUBLISHED};
use fpt_kit::Result;

pub const SCHEMA: &str = "fpt-report/2";

/// One line per row, columns by the names of the fields, in their order. Empty: no figure. The last column
/// says in each line what the columns mean.
pub fn csv<T: Serialize>(rows: &[T], schema: &str) -> Result<String> {
    let bad = |e: String| anyhow::anyhow!("cannot encode the rows: {e}");
    let mut plain = csv::Writer::from_writer(Vec::new());
    for row in rows {
        plain.serialize(row).context("cannot encode a row")?;
    }
    let plain = plain.into_inner().map_err(|e| bad(e.to_string()))?;
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(plain.as_slice());
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (n, record) in reader.records().enumerate() {
        let mut record = record.context("cannot encode a row")?;
        record.push_field(if n == 0 { "schema" } else { schema });
        writer
            .write_record(&record)
            .context("cannot encode a row")?;
    }
    let raw = writer.into_inner().map_err(|e| bad(e.to_string()))?;
    String::from_utf8(raw).context("cannot encode the rows")
}

#[derive(Serialize)]
pub struct Mean {
    mode: Boot,
    phase: String,
    of: Of,
    /// `all` or `graphs`.
    workloads: &'static str,
    /// Geometric mean of mode over radix.
    ratio: f64,
    /// From the runs, with 95 % confidence, if there are several.
    interval: Range,
    /// The number of workloads that the figure is the mean of.
    count: usize,
}

/// A mode against radix in one figure of one workload.
#[derive(Serialize)]
struct Ratio {
    workload: String,
    mode: Boot,
    phase: String,
    of: Of,
    ratio: f64,
    /// From the runs, with 95 % confidence, if there are several.
    interval: Range,
}

fn ratios(table: &Table) -> Vec<Ratio> {
    let mut out = Vec::new();
    for workload in table.matrix.workloads() {
        for mode in table
            .matrix
            .modes()
            .into_iter()
            .filter(|m| *m != Boot::RADIX)
        {
            for (phase, _) in PHASES {
                for of in Of::ALL {
                    if let Some(ratio) = table.ratio(workload, mode, phase, of) {
                        out.push(Ratio {
                            workload: workload.to_string(),
                            mode,
                            phase: phase.into(),
                            of,
                            ratio,
                            interval: table.range(workload, mode, phase, of),
                        });
                    }
                }
            }
        }
    }
    out
}

/// Each mode against radix, as geometric means over workloads.
pub fn means(table: &Table) -> Vec<Mean> {
    let mut out = Vec::new();
    let sets = [
        ("all", table.matrix.workloads()),
        ("graphs", GRAPHS.to_vec()),
    ];
    for mode in table
        .matrix
        .modes()
        .into_iter()
        .filter(|m| *m != Boot::RADIX)
    {
        for (phase, _) in PHASES {
            for (name, set) in &sets {
                for of in Of::ALL {
                    if let Some((ratio, count)) = table.mean(set, mode, phase, of) {
                        out.push(Mean {
                            mode,
                            phase: phase.into(),
                            of,
                            workloads: name,
                            ratio,
                            interval: table.mean_range(set, mode, phase, of),
                            count,
                        });
                    }
                }
            }
        }
    }
    out
}

pub fn json(table: &Table, command: &str, date: &str) -> Result<String> {
    let cells: Vec<Value> = table
        .matrix
        .cells
        .iter()
        .map(|c| {
            json!({
                "workload": c.workload,
                "mode": c.mode,
                "scale": c.scale,
                "preset": c.preset,
                "thp": c.thp,
                "vcpus": c.vcpus,
                "memory_mib": c.memory_mib,
                "run": c.run,
                "seconds": c.seconds,
                "began_utc": c.began_utc,
                "hash": c.hash,
                "error": c.error,
                "checks": c.walksim.as_ref().map(|w| &w.checks),
                "guest": c.guest,
                "provenance": c.provenance,
            })
        })
        .collect();
    let rows: &[Row] = &table.rows;
    let value = json!({
        "schema": SCHEMA,
        "matrix": table.matrix.name,
        "matrix_hash": table.matrix.hash(),
        "written_utc": date,
        "command": command,
        "differences": table.matrix.differences(),
        "cells": cells,
        "rows": rows,
        "ratios": ratios(table),
        "means": means(table),
        "published": PUBLISHED,
        "cited": CITED,
    });
    Ok(format!(
        "{}\n",
        serde_json::to_string_pretty(&value).context("cannot encode the report")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::matrix;
    use fpt_geometry::Mode;

    #[test]
    fn csv_is_whole() {
        let matrix = matrix();
        let table = Table::new(&matrix);
        let text = csv(&table.rows, SCHEMA).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), table.rows.len() + 1);
        assert!(
            lines[0].starts_with("workload,mode,phase,organisation,kind,preset,instructions_user")
        );
        assert!(lines[0].ends_with(",untranslated_data,untranslated_fetch,run,runs,schema"));
        assert!(lines[1..].iter().all(|l| l.ends_with(",fpt-report/2")));
        let columns = lines[0].split(',').count();
        assert!(lines.iter().all(|l| l.split(',').count() == columns));
        assert!(lines
            .iter()
            .any(|l| l.starts_with("bfs,l3l2,all,ideal,counterfactual,emt,")));
    }

    #[test]
    fn json_has_means_and_published_figures() {
        let matrix = matrix();
        let table = Table::new(&matrix);
        let value: Value = serde_json::from_str(&json(&table, "cmd", "now").unwrap()).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        let mean = value["means"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| {
                m["mode"] == Mode::L3L2.name()
                    && m["of"] == "walk_latency"
                    && m["workloads"] == "graphs"
            })
            .unwrap();
        assert_eq!(mean["count"], 2);
        assert!((mean["ratio"].as_f64().unwrap() - 0.95).abs() < 1e-12);
        assert_eq!(value["cells"].as_array().unwrap().len(), 9);
        assert_eq!(value["published"][0]["mode"], "l3l2");
        assert_eq!(mean["interval"], Value::Null);
        let matrix = crate::metrics::tests::repeated();
        let text = json(&Table::new(&matrix), "cmd", "now").unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let ratio = (value["ratios"].as_array().unwrap().iter())
            .find(|r| {
                r["mode"] == Mode::L3L2.name() && r["of"] == "walk_latency" && r["phase"] == "run"
            })
            .unwrap();
        let range = |n: usize| ratio["interval"][n].as_f64().unwrap();
        assert!(range(0) < 0.95 && range(1) > 0.95);
    }
}
