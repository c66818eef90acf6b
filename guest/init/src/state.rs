// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt-init state`: what page tables exist besides process 1's and this one's own, and the counters of
//! the kernel that tell what happened since boot. One process without children, so that two readings
//! far apart can be compared.

use std::fs;
use std::io::Write;

use fpt_geometry::NodeKind;

use crate::sys;

const KHUGEPAGED_SLEEP: &str =
    "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
const FPT: &str = "/sys/kernel/debug/fpt";
const NODE: i64 = 2 << 20;
/// Events of /proc/vmstat.
const EVENTS: [&str; 8] = [
    "pswpin",
    "pswpout",
    "oom_kill",
    "compact_migrate_scanned",
    "compact_success",
    "pgmigrate_success",
    "ksm_swpin_copy",
    "pgfault",
];

pub fn main() -> i32 {
    match run() {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("state: {why}");
            1
        }
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

/// The number behind `name` in lines of `name value` or `name: value kB`.
fn value(text: &str, name: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        (first.trim_end_matches(':') == name).then(|| words.next()?.parse().ok())?
    })
}

/// Nodes of one process, in the order of `NodeKind::ALL`; none on a kernel without them.
fn nodes(pid: i32) -> Result<[i64; NodeKind::COUNT], String> {
    let path = format!("{FPT}/mm");
    if fs::metadata(&path).is_err() {
        return Ok([0; NodeKind::COUNT]);
    }
    let text = sys::ask(&path, &format!("{pid}")).map_err(|e| format!("{path}: {e}"))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = [0; NodeKind::COUNT];
    for (n, kind) in found.iter_mut().zip(NodeKind::ALL) {
        *n = words
            .windows(2)
            .find(|w| w[0] == kind.name())
            .and_then(|w| w[1].parse().ok())
            .ok_or_else(|| format!("{path} has no '{kind}': {text}"))?;
    }
    Ok(found)
}

fn run() -> Result<(), String> {
    // khugepaged keeps an address space that it was about to scan, for up to ten seconds; a write wakes it.
    if let Ok(same) = fs::read_to_string(KHUGEPAGED_SLEEP) {
        fs::write(KHUGEPAGED_SLEEP, same).map_err(|e| format!("{KHUGEPAGED_SLEEP}: {e}"))?;
    }
    // A CPU that went idle keeps the address space of the process that ran there last, also after
    // its end, until another one runs.
    sys::visit_cpus().map_err(|e| format!("cannot visit every CPU: {e}"))?;
    let flat = fs::metadata(FPT).is_ok();
    if flat {
        fs::write(format!("{FPT}/drain"), "1").map_err(|e| format!("{FPT}/drain: {e}"))?;
    }
    // What CPUs have counted for themselves joins the sums.
    fs::write("/proc/sys/vm/stat_refresh", "1").map_err(|e| format!("stat_refresh: {e}"))?;
    let mut out = String::new();
    let mut say = |name: &str, n: i64| out.push_str(&format!("{name} {n}\n"));
    let table_kb = |pid: &str| -> Result<i64, String> {
        Ok(value(&read(&format!("/proc/{pid}/status"))?, "VmPTE").unwrap_or(0))
    };
    let (init, me) = (nodes(1)?, nodes(sys::pid())?);
    let memory = read("/proc/meminfo")?;
    let all = value(&memory, "PageTables").ok_or("no PageTables in /proc/meminfo")?;
    say("others_kb", all - table_kb("1")? - table_kb("self")?);
    if flat {
        let stats = read(&format!("{FPT}/stats"))?;
        let mut known = 0;
        for (n, kind) in NodeKind::ALL.into_iter().enumerate() {
            let live = value(&stats, &format!("{kind}_live")).unwrap_or(0);
            known += init[n] + me[n];
            say(&format!("others_{kind}"), live - init[n] - me[n]);
        }
        let bytes = value(&stats, "flat_bytes").unwrap_or(0);
        say("others_bytes", bytes - known * NODE);
        for line in stats.lines() {
            if let Some((name, n)) = line
                .split_once(' ')
                .and_then(|(name, n)| Some((name, n.trim().parse().ok()?)))
            {
                say(name, n);
            }
        }
    }
    say("free_kb", value(&memory, "MemFree").unwrap_or(0));
    say("page_tables_kb", all);
    let events = read("/proc/vmstat").unwrap_or_default();
    for name in EVENTS {
        if let Some(n) = value(&events, name) {
            say(name, n);
        }
    }
    if let Ok(text) = fs::read_to_string("/sys/kernel/debug/fail_page_alloc/times") {
        say("injections_left", text.trim().parse().unwrap_or(-1));
    }
    std::io::stdout()
        .write_all(out.as_bytes())
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let text = "PageTables:      1234 kB\nSecPageTables: 7 kB\nmid_live 3\n";
        assert_eq!(value(text, "PageTables"), Some(1234));
        assert_eq!(value(text, "mid_live"), Some(3));
        assert_eq!(value(text, "mid"), None);
        assert_eq!(value("x y\n", "x"), None);
    }
}
