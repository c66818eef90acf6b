// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says on its console, and which of it must never be said.

use serde::{Deserialize, Serialize};

/// Lines of the console that are shown when a guest dies.
pub const TAIL: usize = 40;

/// Written to the kernel log by init, so that a splat can be given to the program that ran.
pub const BEGIN: &str = "fpt-init: begin ";
/// What init writes to the kernel's log at the end of a command, before the mark.
pub const END: &str = "fpt-init: end ";

/// Substrings that make a run red. Kernel messages only; `strip_time` has removed the stamp.
const SPLATS: [&str; 34] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "Oops[",
    "Kernel panic - not syncing",
    "general protection fault",
    "unable to handle kernel",
    "unable to handle page fault",
    "double fault: ",
    "stack guard page was hit",
    "UBSAN: ",
    "KASAN: ",
    "KCSAN: ",
    "KFENCE: ",
    "kmemleak: ",
    "INFO: possible ",
    "INFO: trying to register non-static key",
    "INFO: task ",
    "INFO: rcu",
    "rcu: INFO: ",
    "detected stalls on CPUs",
    "self-detected stall",
    "rcu_sched kthread starved",
    "soft lockup",
    "hard LOCKUP",
    "DEBUG_LOCKS_WARN_ON",
    "non-zero pgtables_bytes",
    "Bad rss-counter state",
    "Bad page ",
    ": bad p",
    "page allocation failure: ",
    "corruption. ",
    "refcount_t: ",
];

/// Of these the machine does not come back.
const FATAL: [&str; 1] = ["Kernel panic - not syncing"];

/// A complaint of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splat {
    /// Its first line.
    pub line: String,
    /// The program that ran, as init marked it; empty outside any.
    pub program: String,
}

/// An accepted message, always with a reason.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Part of the line that is allowed.
    pub pattern: String,
    /// Only while one of these runs; anywhere if empty.
    #[serde(default)]
    pub programs: Vec<String>,
    /// Why it is allowed.
    pub reason: String,
}

/// Whether a line of the console begins a complaint.
pub fn is_splat(line: &str) -> bool {
    let line = fpt_verdict::tap::strip_time(line);
    // "bad pgd", "bad p4d", "bad pud", "bad pmd", but not any other word with p.
    SPLATS.iter().any(|s| {
        line.contains(s)
            && (*s != ": bad p"
                || ["bad pgd", "bad p4d", "bad pud", "bad pmd"]
                    .iter()
                    .any(|b| line.contains(b)))
    })
}

/// Whether the kernel does not go on after this line.
pub fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|s| line.contains(s))
}

/// Every splat that no entry of the allow-list covers.
pub fn scan<'a>(lines: impl IntoIterator<Item = &'a str>, allow: &[Allow]) -> Vec<Splat> {
    let mut program = String::new();
    let mut found = Vec::new();
    for raw in lines {
        let line = fpt_verdict::tap::strip_time(raw.trim_end());
        if let Some(name) = line.strip_prefix(BEGIN) {
            program = name.to_string();
        } else if line.starts_with(END) {
            program.clear();
        } else if is_splat(line) {
            let fits = |a: &Allow| {
                line.contains(&a.pattern)
                    && (a.programs.is_empty() || a.programs.contains(&program))
            };
            if !allow.iter().any(fits) {
                found.push(Splat {
                    line: line.to_string(),
                    program: program.clone(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
[    0.100000] Linux version 6.12.117
[    1.000000] fpt-init: begin mm/cow
[    1.100000] WARNING: CPU: 0 PID: 99 at mm/memory.c:1 foo+0x1/0x2
[    1.200000] fpt-init: end mm/cow
[    1.300000] BUG: non-zero pgtables_bytes on freeing mm: 4096
[    1.400000] mm/pgtable-generic.c:54: bad pmd ffff888003c8e000(00000000deadbeef)
[    1.500000] usb: bad port
[    1.600000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[    1.700000] INFO: task x:12 blocked for more than 122 seconds.
[    1.800000] ======================================================
[    1.800000] WARNING: possible circular locking dependency detected
";

    #[test]
    fn finds_each_kind() {
        let found = scan(TEXT.lines(), &[]);
        assert_eq!(found.len(), 6, "{found:#?}");
        assert_eq!(found[0].program, "mm/cow");
        assert!(found[1..].iter().all(|s| s.program.is_empty()));
    }

    #[test]
    fn allow_list_is_narrow() {
        let allow = |programs: &[&str]| Allow {
            pattern: "at mm/memory.c:1 ".into(),
            programs: programs.iter().map(|p| p.to_string()).collect(),
            reason: "test".into(),
        };
        assert_eq!(scan(TEXT.lines(), &[allow(&["mm/cow"])]).len(), 5);
        assert_eq!(scan(TEXT.lines(), &[allow(&[])]).len(), 5);
        assert_eq!(scan(TEXT.lines(), &[allow(&["mm/other"])]).len(), 6);
    }

    #[test]
    fn an_ordinary_boot_is_clean() {
        let text = "[    0.0] x86/fpu: x87 FPU will use FXSAVE\n[    0.1] Spectre V2 : Mitigation\n[    0.2] fpt: mode l3l2 (command line), policy eager\n[    0.3] debug: ignoring loglevel setting.\n";
        assert_eq!(scan(text.lines(), &[]), []);
    }
}
