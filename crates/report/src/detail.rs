// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted finer than the figures show: page faults by kernel function, instructions by process.

use std::collections::BTreeMap;

use fpt_geometry::Boot;
use serde::Serialize;

use fpt_walksim_machine::report::Task;

use super::cells::Matrix;
use super::markup::{esc, table};
use super::metrics::Table;
use super::text::{number, percent, Grid};
use fpt_formats::cell::Cell;

/// Functions on the page.
const TOP: usize = 30;
/// Processes of each cell on the page; the busiest 20 are in the file.
const TASKS: usize = 4;

/// A line of `functions.csv`.
#[derive(Serialize)]
pub struct FunctionRow {
    workload: String,
    mode: Boot,
    phase: String,
    function: String,
    instructions: u64,
}

/// A line of `tasks.csv`.
#[derive(Serialize)]
pub struct TaskRow {
    workload: String,
    mode: Boot,
    phase: String,
    task: String,
    /// Of the program; empty if the simulator did not say.
    name: String,
    instructions_user: u64,
    instructions_kernel: u64,
}

fn phases<T>(
    matrix: &Matrix,
    rows: impl Fn(&Cell, &fpt_walksim_machine::report::Phase) -> Vec<T>,
) -> Vec<T> {
    let mut out = Vec::new();
    for cell in matrix.firsts() {
        for phase in cell.figures().iter().flat_map(|r| &r.phases) {
            out.extend(rows(cell, phase));
        }
    }
    out
}

pub fn functions(matrix: &Matrix) -> Vec<FunctionRow> {
    phases(matrix, |cell, phase| {
        let row = |f: &fpt_walksim_machine::report::Function| FunctionRow {
            workload: cell.workload.clone(),
            mode: cell.mode,
            phase: phase.name.clone(),
            function: f.name.clone(),
            instructions: f.instructions,
        };
        phase.page_fault_functions.iter().map(row).collect()
    })
}

pub fn tasks(matrix: &Matrix) -> Vec<TaskRow> {
    phases(matrix, |cell, phase| {
        let row = |t: &Task| TaskRow {
            workload: cell.workload.clone(),
            mode: cell.mode,
            phase: phase.name.clone(),
            task: t.task.clone(),
            name: name(t),
            instructions_user: t.user,
            instructions_kernel: t.kernel,
        };
        phase.tasks.iter().map(row).collect()
    })
}

/// By its field in the file, which not every version of the simulator writes.
fn name(task: &Task) -> String {
    let value = serde_json::to_value(task).unwrap_or_default();
    let name = value.get("comm").and_then(|n| n.as_str());
    name.unwrap_or_default().to_string()
}

/// Sums of some cells: by function, and of the whole path.
#[derive(Default)]
struct Path<'a> {
    by: BTreeMap<&'a str, u64>,
    all: u64,
}

impl<'a> Path<'a> {
    fn add(&mut self, cell: &'a Cell) {
        for phase in cell.figures().iter().flat_map(|r| &r.phases) {
            self.all += phase.instructions.kernel_by_innermost_entry.page_fault;
            for f in &phase.page_fault_functions {
                *self.by.entry(&f.name).or_default() += f.instructions;
            }
        }
    }
}

/// The path of page faults in each mode, functions in the order of the first one.
fn grid(paths: &[(Boot, Path)]) -> Grid {
    let mut head = vec!["function".to_string()];
    for (mode, _) in paths {
        head.push(mode.to_string());
        head.push(match *mode {
            Boot::RADIX => "part".into(),
            _ => "against radix".to_string(),
        });
    }
    let base = paths.iter().find(|(mode, _)| *mode == Boot::RADIX);
    let line = |name: &str, of: &dyn Fn(&Path) -> Option<u64>| {
        let mut row = vec![name.to_string()];
        let radix = base.and_then(|(_, p)| of(p)).filter(|n| *n > 0);
        for (mode, path) in paths {
            let value = of(path);
            row.push(value.map_or("-".into(), |n| number(n as f64)));
            row.push(match (value, radix) {
                (Some(n), _) if *mode == Boot::RADIX && path.all > 0 => {
                    format!("{:.1} %", n as f64 * 100.0 / path.all as f64)
                }
                (Some(n), Some(radix)) if *mode != Boot::RADIX => percent(n as f64 / radix as f64),
                _ => "-".into(),
            });
        }
        row
    };
    let mut order: Vec<(&str, u64)> = Vec::new();
    for (_, path) in base.into_iter().chain(paths) {
        let mut new: Vec<(&str, u64)> = path
            .by
            .iter()
            .filter(|(name, _)| order.iter().all(|(o, _)| o != *name))
            .map(|(name, n)| (*name, *n))
            .collect();
        order.append(&mut new);
    }
    order.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    order.truncate(TOP);
    let mut rows: Vec<Vec<String>> = order
        .iter()
        .map(|(name, _)| line(name, &|p: &Path| p.by.get(name).copied()))
        .collect();
    rows.push(line("whole path", &|p: &Path| Some(p.all)));
    Grid { head, rows }
}

/// A part of the page: one table over all workloads, and one for each.
pub fn functions_page(t: &Table) -> String {
    let modes = t.matrix.modes();
    let cells = |workload: &str| -> Option<Vec<&Cell>> {
        modes
            .iter()
            .map(|m| {
                let cell = t.matrix.cell(workload, *m)?;
                cell.figures().map(|_| cell)
            })
            .collect()
    };
    let whole: Vec<(&str, Vec<&Cell>)> = t
        .matrix
        .workloads()
        .into_iter()
        .filter_map(|w| Some((w, cells(w)?)))
        .collect();
    let paths = |of: &[&(&str, Vec<&'_ Cell>)]| -> Grid {
        let mut paths: Vec<(Boot, Path)> = modes.iter().map(|m| (*m, Path::default())).collect();
        for (_, cells) in of {
            for ((_, path), cell) in paths.iter_mut().zip(cells) {
                path.add(cell);
            }
        }
        grid(&paths)
    };
    let mut out = format!(
        "<h2 id=\"functions\">Page-fault path by function</h2>\n<p>Kernel instructions whose innermost entry is a page \
         fault, by the function that executes them, both phases together; the first {TOP} functions. A dash: not among the \
         first of that cell. All phases are in <code>functions.csv</code>, and the stacks for flame graphs beside the cells \
         (<code>cells/*.folded</code>).</p>\n"
    );
    if whole.is_empty() {
        out.push_str("<p>No workload has figures in every mode.</p>\n");
        return out;
    }
    let all: Vec<&(&str, Vec<&Cell>)> = whole.iter().collect();
    out.push_str(&format!(
        "<details><summary>Sum over {} workloads</summary>\n{}</details>\n",
        whole.len(),
        table(&paths(&all), &[0])
    ));
    for one in &whole {
        out.push_str(&format!(
            "<details><summary>{}</summary>\n{}</details>\n",
            esc(one.0),
            table(&paths(&[one]), &[0])
        ));
    }
    out
}

/// A part of the page: who executes the instructions.
pub fn tasks_page(t: &Table) -> String {
    let mut rows = Vec::new();
    for cell in t.matrix.firsts() {
        let Some(report) = cell.figures() else {
            continue;
        };
        let mut by: BTreeMap<(&str, String), (u64, u64)> = BTreeMap::new();
        for task in report.phases.iter().flat_map(|p| &p.tasks) {
            let sum = by.entry((&task.task, name(task))).or_default();
            sum.0 += task.user;
            sum.1 += task.kernel;
        }
        let kernel: u64 = report.phases.iter().map(|p| p.instructions.kernel).sum();
        let mut by: Vec<_> = by.into_iter().collect();
        by.sort_by_key(|(task, (user, kernel))| (std::cmp::Reverse(user + kernel), task.clone()));
        for (n, ((task, name), (user, own))) in by.into_iter().take(TASKS).enumerate() {
            rows.push(vec![
                cell.workload.clone(),
                cell.mode.to_string(),
                (n + 1).to_string(),
                if name.is_empty() { "-".into() } else { name },
                number(user as f64),
                number(own as f64),
                match kernel {
                    0 => "-".into(),
                    all => format!("{:.1} %", own as f64 * 100.0 / all as f64),
                },
                task.to_string(),
            ]);
        }
    }
    let head = [
        "workload",
        "mode",
        "no.",
        "name",
        "user",
        "kernel",
        "part of kernel",
        "task_struct",
    ]
    .map(String::from)
    .to_vec();
    format!(
        "<h2 id=\"tasks\">Instructions by process</h2>\n<p>The busiest {TASKS} tasks of each cell, both phases together. A task is \
         known by the address of its <code>task_struct</code> and by its name, if the simulator says it. More \
         of them, by phase, are in <code>tasks.csv</code>.</p>\n<details><summary>The numbers</summary>\n{}</details>\n",
        table(&Grid { head, rows }, &[0, 1, 3, 7])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::matrix;
    use fpt_geometry::Mode;

    #[test]
    fn functions_stand_side_by_side() {
        let matrix = matrix();
        let t = Table::new(&matrix);
        let mut paths: Vec<(Boot, Path)> = [Mode::Radix, Mode::L3L2]
            .map(|m| (m.into(), Path::default()))
            .into();
        for (mode, path) in &mut paths {
            path.add(t.matrix.cell("bfs", *mode).unwrap());
        }
        let grid = grid(&paths);
        let rows: Vec<Vec<&str>> = grid
            .rows
            .iter()
            .map(|r| r.iter().map(String::as_str).collect())
            .collect();
        // Of 300 in a fault, clearing takes 100 in both modes, the descent 40 and 2 % fewer.
        assert_eq!(grid.head[1..], ["radix", "part", "l3l2", "against radix"]);
        assert_eq!(
            rows[0],
            ["clear_page_orig", "500.0 k", "33.3 %", "500.0 k", "0 %"]
        );
        assert_eq!(
            rows[1],
            ["handle_mm_fault", "200.0 k", "13.3 %", "196.0 k", "-2.0 %"]
        );
        assert_eq!(
            rows[2],
            ["whole path", "1.500 M", "100.0 %", "1.470 M", "-2.0 %"]
        );
        let page = functions_page(&t);
        assert!(
            page.contains("Sum over 3 workloads") && page.contains("4.410 M"),
            "{page}"
        );
        assert_eq!(functions(&matrix).len(), 9 * 2 * 2);
    }

    #[test]
    fn tasks_are_listed() {
        let matrix = matrix();
        let page = tasks_page(&Table::new(&matrix));
        assert!(
            page.contains("0xffff888000001000") && page.contains("4.995 M"),
            "{page}"
        );
        assert_eq!(tasks(&matrix).len(), 9 * 2 * 2);
    }

    #[test]
    fn a_function_that_one_mode_lacks_is_a_dash() {
        let mut matrix = matrix();
        for cell in matrix
            .cells
            .iter_mut()
            .filter(|c| c.mode == Mode::L3L2.into())
        {
            for phase in &mut cell.walksim.as_mut().unwrap().phases {
                phase.page_fault_functions[1].name = "only_here".into();
            }
        }
        let page = functions_page(&Table::new(&matrix));
        assert!(
            page.contains("only_here</td><td>-</td><td>-</td>"),
            "{page}"
        );
    }
}
