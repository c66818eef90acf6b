// SPDX-License-Identifier: MIT OR Apache-2.0
//! Results of all CPUs, and the files that they go to.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use fpt_walksim_model::config::Config;
use fpt_walksim_model::report::{self, Checks, Function, Phase, Report, SCHEMA};
use fpt_walksim_model::result::{conservation, finish, Add};

use crate::vcpu::Task;

/// Errors beyond these are counted only.
const MAX_ERRORS: usize = 20;
/// One in so many kernel instructions may be without a known entry.
const MAX_LOST: u64 = 1000;
/// Tasks listed in a phase.
const MAX_TASKS: usize = 20;

/// What checks found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub walks: u64,
    pub hits: u64,
    pub entries: u64,
    pub fetches: u64,
    pub code: u64,
    pub stale: u64,
    pub lost: u64,
    pub mismatches: u64,
    /// The first few mismatches.
    pub texts: Vec<String>,
}

impl Found {
    pub fn mismatch(&mut self, text: String) {
        self.mismatches += 1;
        if self.texts.len() < 3 {
            self.texts.push(text);
        }
    }
}

struct Open {
    id: u8,
    phase: Phase,
    /// Half instructions by path of functions.
    paths: HashMap<Vec<String>, u64>,
    tasks: HashMap<Task, (u64, u64)>,
    since: Option<f64>,
    began: Instant,
    /// CPUs that have handed their figures in.
    cpus: u32,
}

pub struct Results {
    config: Config,
    label: String,
    vcpus: u32,
    checks: Checks,
    errors: Vec<String>,
    more_errors: u64,
    phases: Vec<Open>,
}

pub fn phase_name(id: u8) -> String {
    match id {
        b'L' => "load".to_owned(),
        b'R' => "run".to_owned(),
        b'W' => "whole".to_owned(),
        _ => format!("phase-{id:02x}"),
    }
}

/// CPU time of this thread so far, which other load on the host changes less than wall-clock time.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(ns as f64 / 1e9)
}

impl Results {
    pub fn new(config: Config, label: &str, vcpus: u32) -> Results {
        Results {
            config,
            label: label.to_owned(),
            vcpus,
            checks: Checks::default(),
            errors: Vec::new(),
            more_errors: 0,
            phases: Vec::new(),
        }
    }

    pub fn error(&mut self, what: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(what);
        } else {
            self.more_errors += 1;
        }
    }

    /// Name of the phase that has begun and not ended.
    pub fn open(&self) -> Option<&str> {
        let last = self.phases.last().filter(|p| !p.phase.ended);
        last.map(|p| p.phase.name.as_str())
    }

    /// Name of a phase by its number.
    pub fn name(&self, number: usize) -> Option<&str> {
        self.phases.get(number).map(|p| p.phase.name.as_str())
    }

    /// Number of the new phase.
    pub fn begin(&mut self, id: u8, instructions: u64) -> usize {
        self.phases.push(Open {
            id,
            phase: Phase {
                name: phase_name(id),
                begin_insn: instructions,
                ..Phase::default()
            },
            paths: HashMap::new(),
            tasks: HashMap::new(),
            since: cpu_seconds(),
            began: Instant::now(),
            cpus: 0,
        });
        self.phases.len() - 1
    }

    pub fn end(&mut self, id: u8) -> bool {
        match self.phases.last_mut() {
            Some(p) if p.id == id && !p.phase.ended => {
                p.phase.ended = true;
                // For the person only: time is no result.
                if let (Some(now), Some(then)) = (cpu_seconds(), p.since) {
                    eprintln!(
                        "fpt-walksim: {}: {:.2} s, {:.2} s of them the CPU's own thread ran",
                        p.phase.name,
                        p.began.elapsed().as_secs_f64(),
                        now - then
                    );
                }
                true
            }
            _ => {
                self.error(format!("phase '{}' ended without a begin", phase_name(id)));
                false
            }
        }
    }

    pub fn found(&mut self, found: Found) {
        self.checks.walks_checked += found.walks;
        self.checks.hits_checked += found.hits;
        self.checks.entries_checked += found.entries;
        self.checks.fetches_checked += found.fetches;
        self.checks.code_checked += found.code;
        self.checks.stale += found.stale;
        self.checks.lost_entries += found.lost;
        self.checks.mismatches += found.mismatches;
        for text in found.texts {
            self.error(text);
        }
    }

    /// A CPU's figures of a phase.
    pub fn add(
        &mut self,
        number: usize,
        phase: &Phase,
        paths: Vec<(Vec<String>, u64)>,
        tasks: &HashMap<Task, (u64, u64)>,
    ) {
        let Some(open) = self.phases.get_mut(number) else {
            return;
        };
        open.phase.add(phase);
        open.cpus += 1;
        for (path, n) in paths {
            *open.paths.entry(path).or_default() += n;
        }
        for (task, (user, kernel)) in tasks {
            let sum = open.tasks.entry(*task).or_default();
            sum.0 += user;
            sum.1 += kernel;
        }
    }

    /// The result as it is. `at_exit`: the guest is gone, what did not end never will.
    pub fn report(&self, machines: &[Config], at_exit: bool) -> Report {
        let mut checks = self.checks.clone();
        let mut errors = self.errors.clone();
        if self.more_errors > 0 {
            errors.push(format!("{} more errors", self.more_errors));
        }
        checks.conservation = "ok".to_owned();
        let top = self.config.sim.top_functions as usize;
        let phases: Vec<Phase> = self.phases.iter().map(|p| p.done(machines, top)).collect();
        for (phase, open) in phases.iter().zip(&self.phases).filter(|(p, _)| p.ended) {
            let laws = conservation(phase)
                .and_then(|()| open.functions_add_up())
                .and_then(|()| open.tasks_add_up());
            if let Err(law) = laws {
                errors.push(format!("a conservation law does not hold: {law}"));
                checks.conservation = law;
            }
        }
        if checks.mismatches > 0 {
            errors.push(format!(
                "{} of {} compared translations differ from QEMU's",
                checks.mismatches,
                checks.walks_checked
                    + checks.hits_checked
                    + checks.entries_checked
                    + checks.fetches_checked
                    + checks.code_checked
            ));
        }
        let kernel: u64 = phases.iter().map(|p| p.instructions.kernel).sum();
        if checks.lost_entries > kernel / MAX_LOST {
            errors.push(format!(
                "no known entry led to {} of {kernel} kernel instructions: is vmlinux= the kernel that the guest runs?",
                checks.lost_entries
            ));
        }
        if at_exit {
            if phases.is_empty() {
                errors.push("no phase was marked: the figures are empty".to_owned());
            }
            for phase in phases.iter().filter(|p| !p.ended) {
                errors.push(format!(
                    "phase '{}' did not end before the guest did",
                    phase.name
                ));
            }
        }
        Report {
            schema: SCHEMA.to_owned(),
            label: self.label.clone(),
            config: self.config.clone(),
            vcpus: self.vcpus,
            complete: at_exit && !phases.is_empty() && phases.iter().all(|p| p.ended),
            errors,
            checks,
            phases,
        }
    }

    /// Input of flame graph programs: `phase;page_fault;function;function count`.
    pub fn flame(&self) -> String {
        let mut lines = Vec::new();
        for p in &self.phases {
            for (path, halves) in &p.paths {
                if *halves >= 2 {
                    lines.push(format!(
                        "{};page_fault;{} {}",
                        p.phase.name,
                        path.join(";"),
                        halves / 2
                    ));
                }
            }
        }
        lines.sort_unstable();
        let mut text = String::new();
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Open {
    /// Instructions of page faults, counted by function and by category. A pair of loads of CMPS may be
    /// on both sides of a border.
    fn functions_add_up(&self) -> Result<(), String> {
        let by_function = self.paths.values().sum::<u64>() / 2;
        let by_category = self.phase.instructions.kernel_by_innermost_entry.page_fault;
        if by_function.abs_diff(by_category) <= u64::from(self.cpus) {
            return Ok(());
        }
        Err(format!(
            "{}: page faults by function: {by_function} is not {by_category}",
            self.phase.name
        ))
    }

    /// Kernel instructions, counted by QEMU all in all and by task.
    fn tasks_add_up(&self) -> Result<(), String> {
        let by_task: u64 = self.tasks.values().map(|(_, kernel)| kernel).sum();
        let kernel = self.phase.instructions.kernel;
        if by_task == kernel {
            return Ok(());
        }
        Err(format!(
            "{}: kernel instructions by task: {by_task} is not {kernel}",
            self.phase.name
        ))
    }

    fn done(&self, machines: &[Config], top: usize) -> Phase {
        let mut phase = self.phase.clone();
        finish(&mut phase, machines);
        let mut functions: HashMap<&str, u64> = HashMap::new();
        for (path, halves) in &self.paths {
            if let Some(last) = path.last() {
                *functions.entry(last).or_default() += halves;
            }
        }
        let mut functions: Vec<Function> = functions
            .into_iter()
            .map(|(name, halves)| Function {
                name: name.to_owned(),
                instructions: halves / 2,
            })
            .collect();
        functions.sort_by(|a, b| (b.instructions, &a.name).cmp(&(a.instructions, &b.name)));
        functions.truncate(top);
        phase.page_fault_functions = functions;
        let mut tasks: Vec<(Task, (u64, u64))> = self.tasks.iter().map(|(t, n)| (*t, *n)).collect();
        tasks.sort_by_key(|(task, (user, kernel))| (std::cmp::Reverse(user + kernel), *task));
        tasks.truncate(MAX_TASKS);
        phase.tasks = tasks
            .into_iter()
            .map(|(task, (user, kernel))| report::Task {
                task: format!("{:#x}", task.address),
                comm: String::from_utf8_lossy(&task.comm)
                    .trim_end_matches('\0')
                    .to_owned(),
                user,
                kernel,
            })
            .collect();
        phase
    }
}

/// Writes a whole file or none: a temporary file beside it takes its name.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        format!("cannot write {}: {e}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_begin_and_end() {
        let mut r = Results::new(Config::default(), "x", 1);
        assert!(r.report(&[], true).errors[0].contains("no phase"));
        assert!(!r.end(b'R'));
        r.begin(b'R', 5);
        assert_eq!(r.open(), Some("run"));
        let report = r.report(&[], true);
        assert!(!report.complete);
        assert!(report.errors.iter().any(|e| e.contains("did not end")));
        assert!(r.end(b'R'));
        assert!(!r.end(b'R'));
        assert_eq!(r.open(), None);
        assert!(r.report(&[], true).complete && !r.report(&[], false).complete);
    }

    #[test]
    fn mismatches_are_errors() {
        let mut r = Results::new(Config::default(), "", 1);
        let mut found = Found {
            walks: 10,
            ..Found::default()
        };
        (0..9).for_each(|i| found.mismatch(format!("m{i}")));
        r.found(found);
        let report = r.report(&[], false);
        assert_eq!(report.checks.mismatches, 9);
        assert_eq!(report.errors.len(), 4);
    }

    /// Is a phase with so many kernel instructions, all of one category, in order with these lists?
    fn adds_up(kernel: u64, paths: Vec<(Vec<String>, u64)>, by_task: u64) -> bool {
        let mut r = Results::new(Config::default(), "", 1);
        let n = r.begin(b'R', 0);
        let mut phase = Phase::default();
        phase.instructions.kernel = kernel;
        phase.instructions.kernel_by_category.page_fault = kernel;
        phase.instructions.kernel_by_innermost_entry.page_fault = kernel;
        let tasks = HashMap::from([(Task::default(), (9, by_task))]);
        r.add(n, &phase, paths, &tasks);
        r.end(b'R');
        let report = r.report(&[], true);
        assert_eq!(
            report.errors.is_empty(),
            report.checks.conservation == "ok",
            "{:?}",
            report.errors
        );
        report.errors.is_empty()
    }

    #[test]
    fn tasks_must_add_up() {
        let paths = |halves| vec![(vec!["fault".into()], halves)];
        assert!(adds_up(10, paths(20), 10));
        assert!(!adds_up(10, paths(20), 11));
    }

    #[test]
    fn functions_must_add_up() {
        // Halves of instructions, and one CPU: one instruction may be on the other side of a border.
        for (halves, good) in [(20, true), (18, true), (16, false), (24, false), (0, false)] {
            assert_eq!(adds_up(10, vec![(vec!["fault".into()], halves)], 10), good);
        }
    }

    #[test]
    fn functions_and_stacks() {
        let mut r = Results::new(Config::default(), "", 1);
        let n = r.begin(7, 0);
        let path = |p: &[&str], n: u64| (p.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), n);
        let paths = vec![path(&["a"], 4), path(&["a", "b"], 7), path(&["c", "b"], 3)];
        let task = Task {
            address: 16,
            comm: *b"bfs\0\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let tasks = HashMap::from([(task, (1, 2))]);
        r.add(n, &Phase::default(), paths, &tasks);
        let report = r.report(&[], false);
        let phase = &report.phases[0];
        assert_eq!(phase.name, "phase-07");
        assert_eq!(
            phase.page_fault_functions[0],
            Function {
                name: "b".into(),
                instructions: 5
            }
        );
        let task = &phase.tasks[0];
        assert_eq!((task.task.as_str(), task.comm.as_str()), ("0x10", "bfs"));
        assert_eq!(
            r.flame(),
            "phase-07;page_fault;a 2\nphase-07;page_fault;a;b 3\nphase-07;page_fault;c;b 1\n"
        );
    }

    #[test]
    fn files_are_whole() {
        let dir = std::env::temp_dir().join(format!("fpt-walksim-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        write(&dir.join("x"), "one").unwrap();
        write(&dir.join("x"), "two").unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("x")).unwrap(), "two");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(write(&dir.join("no/x"), "")
            .unwrap_err()
            .contains("cannot write"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
