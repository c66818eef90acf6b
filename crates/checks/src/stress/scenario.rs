// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stress does: scenarios, their stressors, and the order in which these have their turns.

use std::collections::VecDeque;
use std::fmt;

use fpt_init::proto::Exec;
use serde::{Serialize, Serializer};

/// What goes on in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    Vm,
    Storm,
    Swap,
    Ksm,
    Threads,
    Compact,
    Hotplug,
    Demote,
    /// Only judges: it runs whatever was chosen.
    Check,
}

impl Scenario {
    pub(super) const ALL: [Scenario; 9] = [
        Scenario::Vm,
        Scenario::Storm,
        Scenario::Swap,
        Scenario::Ksm,
        Scenario::Threads,
        Scenario::Compact,
        Scenario::Hotplug,
        Scenario::Demote,
        Scenario::Check,
    ];

    /// Its word on the command line, in files and for `stress.sh`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Scenario::Vm => "vm",
            Scenario::Storm => "storm",
            Scenario::Swap => "swap",
            Scenario::Ksm => "ksm",
            Scenario::Threads => "threads",
            Scenario::Compact => "compact",
            Scenario::Hotplug => "hotplug",
            Scenario::Demote => "demote",
            Scenario::Check => "check",
        }
    }

    /// What it is, in a line.
    pub(super) const fn about(self) -> &'static str {
        match self {
            Scenario::Vm => "stress-ng's class vm",
            Scenario::Storm => "processes that are made and replaced",
            Scenario::Swap => "more memory than a group may have, with swap",
            Scenario::Ksm => "pages that are merged and unmerged",
            Scenario::Threads => "fpt_stress: threads that check what they wrote",
            Scenario::Compact => "compaction of all memory, again and again",
            Scenario::Hotplug => "blocks of memory taken out and put back",
            Scenario::Demote => "nodes turned into conventional tables",
            Scenario::Check => "the tables of every process verified, whatever else runs",
        }
    }
}

/// Files list them by name.
impl Ord for Scenario {
    fn cmp(&self, other: &Scenario) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Scenario {
    fn partial_cmp(&self, other: &Scenario) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Scenario {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Members of class vm that do not run, and why.
pub(super) const EXCLUDED: [(&str, &str); 2] = [
    (
        "mlockmany",
        "stress-ng itself holds it back: it may hang a machine",
    ),
    (
        "watchdog",
        "stress-ng itself holds it back: it is about a device that resets the machine",
    ),
];

/// Not as root: madvise would poison its own pages and call the SIGBUS a failure, in radix too; the others refuse.
pub(super) const AS_USER: [&str; 3] = ["madvise", "exec", "spawn"];

/// stress-ng's makers of processes.
pub(super) const STORM: [&str; 5] = ["fork", "vfork", "clone", "exec", "spawn"];

/// stress-ng in a memory cgroup that is smaller than what it uses.
pub(super) const SWAP: [(&str, &[&str]); 2] = [
    ("vm", &["--vm-bytes", "160M", "--vm-keep"]),
    ("mmap", &["--mmap-bytes", "160M"]),
];

/// Pages with equal contents, for merging.
pub(super) const KSM: (&str, &[&str]) = (
    "vm",
    &[
        "--vm-bytes",
        "32M",
        "--vm-madvise",
        "mergeable",
        "--vm-method",
        "zero-one",
        // Once written, nothing changes it but merging.
        "--vm-hang",
        "0",
    ],
);

/// After its own time a stressor may clean up so long.
pub(super) const GRACE_S: u64 = 100;

/// Numbers for the order; the same for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            list.swap(n, self.below(n + 1));
        }
    }
}

/// A scenario and a stressor in it; a scenario's own loop is called "loop".
pub(super) type Stressor = (Scenario, String);

/// One command for a slice of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) scenario: Scenario,
    pub(super) name: String,
    /// In what surroundings: "swap" is the small cgroup, "user" is not root.
    pub(super) place: Option<&'static str>,
    pub(super) args: &'static [&'static str],
}

impl Turn {
    pub(super) fn new(scenario: Scenario, name: &str) -> Turn {
        Turn {
            scenario,
            name: name.into(),
            place: AS_USER.contains(&name).then_some("user"),
            args: &[],
        }
    }

    pub(super) fn exec(&self, id: u64, seconds: u64, seed: u32) -> Exec {
        let (s, seed) = (seconds.to_string(), seed.to_string());
        let mut argv: Vec<&str> = Vec::new();
        let option = format!("--{}", self.name);
        let mut cwd = None;
        if self.scenario == Scenario::Threads {
            argv.extend(["./fpt_stress", "-t", &s, "-s", &seed, "-j", "3"]);
            cwd = Some("/selftests/fpt".to_string());
        } else {
            argv.extend(["fpt-stress", "image"]);
            argv.extend(self.place);
            // Swap files need a file system on a block device.
            let temp = if self.name == "swap" {
                "/var/tmp"
            } else {
                "/tmp"
            };
            argv.extend(["stress-ng", &option, "1"]);
            argv.extend(self.args);
            argv.extend(["--timeout", &s, "--metrics-brief", "--verify", "--oomable"]);
            argv.extend(["--seed", &seed, "--temp-path", temp]);
        }
        Exec {
            id,
            argv: argv.into_iter().map(str::to_string).collect(),
            cwd,
            timeout_s: seconds + GRACE_S,
            mark: Some(format!("stress/{}", self.name)),
            ..Exec::default()
        }
    }
}

/// Turns of one kind, one at a time, over and over.
pub(super) struct Lane {
    pub(super) turns: VecDeque<Turn>,
    pub(super) slice: u64,
    pub(super) running: Option<Running>,
}

pub(super) struct Running {
    pub(super) id: u64,
    pub(super) turn: Turn,
    pub(super) text: String,
}

impl Lane {
    pub(super) fn new(turns: Vec<Turn>, slice: u64) -> Lane {
        Lane {
            turns: turns.into(),
            slice,
            running: None,
        }
    }

    /// The next turn, which will come again after all others.
    pub(super) fn next(&mut self) -> Option<Turn> {
        let turn = self.turns.pop_front()?;
        self.turns.push_back(turn.clone());
        Some(turn)
    }
}

/// The names after `class 'vm' stressors:`.
pub(super) fn vm_class(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text
        .lines()
        .find_map(|l| l.split_once("stressors:"))
        .map(|(_, rest)| rest.split_whitespace().map(str::to_string).collect())
        .unwrap_or_default();
    if names.len() < 10 {
        return Err(format!("it says: {text}"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| {
            let mut list: Vec<u32> = (0..20).collect();
            Random(seed).shuffle(&mut list);
            list
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_class_is_read() {
        let list = "class 'vm' stressors: a b c d e f g h i j\n";
        assert_eq!(vm_class(list).unwrap().len(), 10);
        assert!(vm_class("class 'vm' stressors: a\n").is_err());
        assert!(vm_class("error\n").is_err());
    }
}
