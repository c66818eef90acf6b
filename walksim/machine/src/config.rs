// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parameters of the simulated machine: a preset, a TOML file over it, single values over that. Strict: a key
//! that does not exist is refused, as a figure from a misspelt parameter looks like any other.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use crate::parameters::ORGANISATIONS;
use crate::parameters::{check_front, check_org, FRONTS};

/// Names and texts of the presets.
const PRESETS: [(&str, &str); 3] = [
    ("emt", include_str!("../presets/emt.toml")),
    ("equal", include_str!("../presets/equal.toml")),
    ("server", include_str!("../presets/server.toml")),
];

/// Bytes in a line of every cache.
pub const LINE: u64 = 64;

/// What is wrong, and what to do about it; one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A complete configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the preset that the values started from.
    pub preset: String,
    /// Presets of more machines on the same stream.
    pub also: Vec<String>,
    /// Page-table organisations to simulate.
    pub organisations: Vec<String>,
    /// What is simulated and checked.
    pub sim: Sim,
    /// The TLBs.
    pub tlb: Tlb,
    /// The page-walk caches.
    pub pwc: Pwc,
    /// The data and instruction caches.
    pub cache: Caches,
    /// What things cost.
    pub cycles: Cycles,
    /// Parameters of the organisation `ecpt`.
    pub ecpt: Ecpt,
    /// Parameters of organisations, by their names; each knows its own.
    pub org: BTreeMap<String, Table>,
    /// Parameters of fronts, in the same way.
    pub front: BTreeMap<String, Table>,
}

/// What is simulated, and how much of it is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sim {
    /// Whether the models also run before the first mark.
    pub simulate_outside: bool,
    /// The first accesses of each phase, which are in no figure.
    pub warmup_accesses: u64,
    /// One of so many walks is compared with QEMU's translation; 0: none.
    pub check_every: u64,
    /// Length of the list of functions in page faults.
    pub top_functions: u32,
    /// Of L2 and the last level of every organisation but the first one of so many sets is simulated; 1: all.
    pub sample_sets: u32,
}

/// The translation look-aside buffers of a core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tlb {
    /// Are entries tagged with the PCID? QEMU's TCG has none, so that a guest never uses more than one.
    pub pcid: bool,
    /// What fills the TLBs: one of [`FRONTS`].
    pub front: String,
    /// First level, for instruction fetches.
    pub l1i: TlbLevel,
    /// First level, for data accesses.
    pub l1d: TlbLevel,
    /// Second level, for both.
    pub stlb: TlbLevel,
}

/// One TLB: an array for each size of pages.
/// Without entries of its own a size shares the array of the next smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlbLevel {
    /// Entries for pages of 4 KiB.
    pub small: Sets,
    /// Entries for pages of 2 MiB.
    pub large: Sets,
    /// Entries for pages of 1 GiB.
    pub huge: Sets,
}

/// `entries` in sets of `ways`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sets {
    /// Entries in all sets; 0: there is no such array.
    pub entries: u32,
    /// Entries in each set.
    pub ways: u32,
}

/// Page-walk caches by the level of the entries that they hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pwc {
    /// One array for the entries of all levels; then the others have none.
    pub unified: Sets,
    /// Holds PML4 entries.
    pub l4: Sets,
    /// Holds entries of page-directory-pointer tables.
    pub l3: Sets,
    /// Holds entries of page directories.
    pub l2: Sets,
}

/// The data and instruction caches of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caches {
    /// First level, for instructions.
    pub l1i: Cache,
    /// First level, for data.
    pub l1d: Cache,
    /// Second level, of one core.
    pub l2: Cache,
    /// Last level, shared by all cores.
    pub llc: Cache,
    /// Whether a miss of L1D brings the next line as well.
    pub prefetch: bool,
    /// The cache that walks ask first.
    pub walks_from: WalksFrom,
    /// Which line of a set leaves L2.
    pub l2_replacement: Replacement,
    /// Which line of a set leaves the last level.
    pub llc_replacement: Replacement,
}

/// The cache that walks ask first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WalksFrom {
    /// The first-level data cache; takes one organisation.
    L1d,
    /// The second-level cache.
    L2,
}

/// Which line of a set has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replacement {
    /// The least recently used.
    Lru,
    /// The least recently used that holds no page table, if there is one.
    PageTablesFirst,
    /// The least recently used; lines that walks read are not kept at all.
    NoPageTables,
}

/// A set-associative cache of [`LINE`]-byte lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Its size in KiB.
    pub kib: u32,
    /// Lines in each set.
    pub ways: u32,
}

/// The cost model, in cycles; `docs/explanation/walksim.md` has the formulas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycles {
    /// Cycles of every access, for its look-up in the first-level TLB.
    pub tlb: f64,
    /// Cycles of a first-level miss, for the look-up in the second level.
    pub stlb: f64,
    /// Cycles of every walk, for the page-walk caches.
    pub pwc: f64,
    /// Cycles of an access that hits the first-level cache.
    pub l1: f64,
    /// Cycles of an access that hits L2.
    pub l2: f64,
    /// Cycles of an access that hits the last level.
    pub llc: f64,
    /// Cycles of an access to memory.
    pub memory: f64,
    /// Cycles of an instruction without data access.
    pub instruction: f64,
    /// How many data accesses overlap: their cycles are divided by it. It is an assumption.
    pub data_parallelism: f64,
    /// Whether instruction fetches that miss L1I cost cycles.
    pub charge_fetch: bool,
}

/// Parameters of elastic cuckoo page tables.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ecpt {
    /// Ways of each table, 2 to 8.
    pub ways: u32,
    /// Slots of 64 bytes, 8 translations each, in a way of a new table.
    pub initial_slots: u32,
    /// The part of the slots in use at which a table grows to twice its size.
    pub max_load: f64,
    /// Slots moved to the larger table with each insertion.
    pub rehash_step: u32,
    /// Cycles of the hash functions; a walk pays this or `cwc_cycles`, whichever is more.
    pub hash_cycles: f64,
    /// Cycles of a look-up in the cuckoo-walk caches.
    pub cwc_cycles: f64,
    /// Entries of the cuckoo-walk cache for 1 GiB regions.
    pub cwc_pud: u32,
    /// Entries of the cuckoo-walk cache for 2 MiB regions.
    pub cwc_pmd: u32,
    /// Whether probes of ways that turn out wrong are charged, overlapped as data accesses are.
    pub charge_wasted: bool,
}

/// Names of the presets.
pub fn presets() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// A preset, with the values of `file` (TOML text) over it, with `sets` (`a.b` and a TOML value; a bare
/// word is taken as a string) over both.
pub fn resolve(
    preset: &str,
    file: Option<&str>,
    sets: &[(String, String)],
) -> Result<Config, ConfigError> {
    let mut table = preset_table(preset)?;
    if let Some(text) = file {
        let over: Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError(format!("not TOML: {}", one_line(&e))))?;
        merge(&mut table, over, "")?;
    }
    for (path, text) in sets {
        let mut over = value(text);
        for key in path.rsplit('.') {
            over = Value::Table(Table::from_iter([(key.to_owned(), over)]));
        }
        if let Value::Table(over) = over {
            merge(&mut table, over, "")?;
        }
    }
    let named = table.get("preset").and_then(Value::as_str).unwrap_or("");
    if named != preset {
        return Err(ConfigError(format!(
            "the configuration says preset = '{named}', but '{preset}' was asked for: drop the line, or ask for '{named}'"
        )));
    }
    finish(table)
}

/// A complete configuration, as [`Config::to_toml`] writes it.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError(format!("not TOML: {}", one_line(&e))))?;
    let name = table.get("preset").and_then(Value::as_str);
    let name = name.ok_or_else(|| ConfigError("no 'preset': it names the defaults".into()))?;
    resolve(name, Some(text), &[])
}

impl Default for Config {
    /// The preset `emt`.
    fn default() -> Self {
        match resolve("emt", None, &[]) {
            Ok(config) => config,
            // The preset is a part of the program; a test resolves each.
            Err(e) => unreachable!("preset emt: {e}"),
        }
    }
}

impl Config {
    /// TOML text that [`parse`] reads back to the same values.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// This machine and those of `also`, each with its own parameters and without further machines.
    pub fn machines(&self) -> Result<Vec<Config>, ConfigError> {
        let mut all = vec![Config {
            also: Vec::new(),
            ..self.clone()
        }];
        for name in &self.also {
            all.push(Config {
                sim: self.sim.clone(),
                organisations: self.organisations.clone(),
                ..resolve(name, None, &[])?
            });
        }
        Ok(all)
    }

    /// The parameters of an organisation: what `[org.NAME]` says over its defaults.
    pub fn org<T: Default + serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<T, ConfigError> {
        self.parameters("org", &self.org, name)
    }

    /// The same of what `[KIND.NAME]` says in `tables`.
    pub fn parameters<T: Default + serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        tables: &BTreeMap<String, Table>,
        name: &str,
    ) -> Result<T, ConfigError> {
        let Some(table) = tables.get(name) else {
            return Ok(T::default());
        };
        let parsed = Value::Table(table.clone()).try_into();
        parsed.map_err(|e: toml::de::Error| ConfigError(format!("{kind}.{name}: {}", one_line(&e))))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let err = |text: String| Err(ConfigError(text));
        for name in &self.also {
            preset_table(name)?;
        }
        if self.organisations.is_empty() {
            return err("organisations is empty: name at least one, e.g. [\"real\"]".into());
        }
        for (i, name) in self.organisations.iter().enumerate() {
            if !ORGANISATIONS.contains(&name.as_str()) {
                return err(unknown("organisation", name, ORGANISATIONS.iter().copied()));
            }
            if self.organisations.iter().take(i).any(|n| n == name) {
                return err(format!("organisations names '{name}' twice"));
            }
        }
        for name in self.org.keys() {
            if !ORGANISATIONS.contains(&name.as_str()) {
                return err(unknown("organisation", name, ORGANISATIONS.iter().copied()));
            }
            check_org(name, self)?;
        }
        for name in self.front.keys().chain([&self.tlb.front]) {
            if !FRONTS.contains(&name.as_str()) {
                return err(unknown("front", name, FRONTS.iter().copied()));
            }
            check_front(name, self)?;
        }
        if self.cache.walks_from == WalksFrom::L1d && self.organisations.len() > 1 {
            return err(
                "cache.walks_from = \"l1d\" takes one organisation, as all share L1D: name one, e.g. organisations = [\"real\"]"
                    .into(),
            );
        }
        match self.sim.sample_sets {
            1 | 2 | 4 | 8 | 16 | 32 => {}
            n => {
                return err(format!(
                    "sim.sample_sets is {n}: expected 1, 2, 4, 8, 16 or 32"
                ))
            }
        }
        let t = &self.tlb;
        for (name, level) in [("l1i", t.l1i), ("l1d", t.l1d), ("stlb", t.stlb)] {
            if level.small.entries == 0 {
                return err(format!(
                    "tlb.{name}.small.entries is 0: every TLB needs an array for 4 KiB pages"
                ));
            }
            for (size, s) in [
                ("small", level.small),
                ("large", level.large),
                ("huge", level.huge),
            ] {
                sets(&format!("tlb.{name}.{size}"), s)?;
            }
        }
        let p = &self.pwc;
        if p.unified.entries > 0 && p.l4.entries + p.l3.entries + p.l2.entries > 0 {
            return err(
                "pwc.unified has entries and so has pwc.l4, l3 or l2: set entries = 0 in one of the two"
                    .into(),
            );
        }
        for (name, s) in [
            ("unified", self.pwc.unified),
            ("l4", self.pwc.l4),
            ("l3", self.pwc.l3),
            ("l2", self.pwc.l2),
        ] {
            sets(&format!("pwc.{name}"), s)?;
        }
        let c = &self.cache;
        for (name, c) in [("l1i", c.l1i), ("l1d", c.l1d), ("l2", c.l2), ("llc", c.llc)] {
            if c.kib == 0 || c.kib > 1 << 20 {
                return err(format!(
                    "cache.{name}.kib is {}: expected 1 to 1048576",
                    c.kib
                ));
            }
            let lines = c_lines(c);
            if lines / c.ways.max(1) < 64 {
                return err(format!(
                    "cache.{name}: {} KiB in {} ways are fewer than 64 sets",
                    c.kib, c.ways
                ));
            }
            sets(
                &format!("cache.{name}"),
                Sets {
                    entries: lines,
                    ways: c.ways,
                },
            )?;
        }
        for (name, cache, replacement) in [
            ("l2", c.l2, c.l2_replacement),
            ("llc", c.llc, c.llc_replacement),
        ] {
            let lines = c_lines(cache);
            if replacement != Replacement::Lru && lines / cache.ways.max(1) < 128 {
                return err(format!(
                    "cache.{name}_replacement needs 128 sets or more to be anything but \"lru\": make cache.{name} larger"
                ));
            }
        }
        let y = &self.cycles;
        for (name, v) in [
            ("cycles.tlb", y.tlb),
            ("cycles.stlb", y.stlb),
            ("cycles.pwc", y.pwc),
            ("cycles.l1", y.l1),
            ("cycles.l2", y.l2),
            ("cycles.llc", y.llc),
            ("cycles.memory", y.memory),
            ("cycles.instruction", y.instruction),
            ("ecpt.hash_cycles", self.ecpt.hash_cycles),
            ("ecpt.cwc_cycles", self.ecpt.cwc_cycles),
        ] {
            if !v.is_finite() || v < 0.0 {
                return err(format!(
                    "{name} is {v}: expected a number of cycles, 0 or more"
                ));
            }
        }
        if !y.data_parallelism.is_finite() || y.data_parallelism < 1.0 {
            return err(format!(
                "cycles.data_parallelism is {}: expected 1 or more",
                y.data_parallelism
            ));
        }
        let e = &self.ecpt;
        if !(2..=8).contains(&e.ways) {
            return err(format!("ecpt.ways is {}: expected 2 to 8", e.ways));
        }
        if !e.initial_slots.is_power_of_two() || e.initial_slots > 1 << 24 {
            return err(format!(
                "ecpt.initial_slots is {}: expected a power of two up to 2^24",
                e.initial_slots
            ));
        }
        if !(0.1..=0.9).contains(&e.max_load) {
            return err(format!(
                "ecpt.max_load is {}: expected 0.1 to 0.9",
                e.max_load
            ));
        }
        // With less, a table would be full before the old one is empty.
        if !(2..=64).contains(&e.rehash_step) {
            return err(format!(
                "ecpt.rehash_step is {}: expected 2 to 64",
                e.rehash_step
            ));
        }
        if !(1..=4096).contains(&e.cwc_pud) || !(1..=4096).contains(&e.cwc_pmd) {
            return err("ecpt.cwc_pud and ecpt.cwc_pmd: expected 1 to 4096".into());
        }
        Ok(())
    }
}

fn c_lines(cache: Cache) -> u32 {
    cache.kib.saturating_mul(1024 / LINE as u32)
}

fn sets(name: &str, s: Sets) -> Result<(), ConfigError> {
    if s.entries == 0 {
        return Ok(());
    }
    let err = |why: &str| {
        Err(ConfigError(format!(
            "{name}: {} entries in {} ways {why}",
            s.entries, s.ways
        )))
    };
    if s.ways == 0 || s.ways > 64 {
        return err("(expected 1 to 64 ways)");
    }
    if s.entries % s.ways != 0 || !(s.entries / s.ways).is_power_of_two() {
        return err("do not make a number of sets that is a power of two");
    }
    Ok(())
}

fn preset_table(name: &str) -> Result<Table, ConfigError> {
    let Some((_, text)) = PRESETS.iter().find(|(n, _)| *n == name) else {
        return Err(ConfigError(unknown("preset", name, presets())));
    };
    text.parse()
        .map_err(|e: toml::de::Error| ConfigError(format!("preset {name}: {}", one_line(&e))))
}

/// `over` replaces what `base` has; what it does not have is an error.
fn merge(base: &mut Table, over: Table, path: &str) -> Result<(), ConfigError> {
    for (key, new) in over {
        let full = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        // What an organisation or a front takes stands in `parameters.rs`, which refuses the rest.
        let own = ["org", "front"].iter().any(|kind| {
            path.strip_prefix(kind)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        if own && !base.contains_key(&key) {
            base.insert(key, new);
            continue;
        }
        let Some(old) = base.get_mut(&key) else {
            // A level was left out: the word itself is right.
            let below = deeper(base, path, &key);
            if !below.is_empty() {
                return Err(ConfigError(format!(
                    "unknown key '{full}': did you mean '{}'?",
                    below.join("' or '")
                )));
            }
            let known = base.keys().map(String::as_str);
            let known: Vec<String> = known.map(|k| join(path, k)).collect();
            let known = known.iter().map(String::as_str);
            return Err(ConfigError(unknown("key", &full, known)));
        };
        match (old, new) {
            (Value::Table(old), Value::Table(new)) => merge(old, new, &full)?,
            (Value::Float(old), Value::Integer(new)) => *old = new as f64,
            (old, new) if old.type_str() == new.type_str() => *old = new,
            (old, new) => {
                return Err(ConfigError(format!(
                    "{full} = {new}: expected {}, for example {old}",
                    article(old.type_str())
                )))
            }
        }
    }
    Ok(())
}

/// Full names of the keys below `base` that are called `key`.
fn deeper(base: &Table, path: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in base {
        let full = join(path, name);
        if let Value::Table(inner) = value {
            if inner.contains_key(key) {
                found.push(join(&full, key));
            }
            found.extend(deeper(inner, &full, key));
        }
    }
    found.truncate(3);
    found
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

fn value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok();
    parsed
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(k, name), k))
        .min();
    match near {
        Some((distance, k)) if distance <= name.len() / 3 + 1 => {
            format!("unknown {what} '{name}': did you mean '{k}'?")
        }
        _ => format!(
            "unknown {what} '{name}': expected one of {}",
            known.join(", ")
        ),
    }
}

/// Where and what, without the parser's picture of the line.
fn one_line(e: &toml::de::Error) -> String {
    let what: Vec<&str> = e.message().split_whitespace().collect();
    let all = e.to_string();
    let place = all.lines().next().and_then(|l| l.split_once(" at "));
    match place {
        Some((_, place)) => format!("{place}: {}", what.join(" ")),
        None => what.join(" "),
    }
}

fn finish(table: Table) -> Result<Config, ConfigError> {
    let config: Config = Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| ConfigError(one_line(&e)))?;
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &str, value: &str) -> Result<Config, ConfigError> {
        resolve("emt", None, &[(path.to_owned(), value.to_owned())])
    }

    fn refused(result: Result<Config, ConfigError>, why: &str) {
        let text = result.expect_err("accepted").to_string();
        assert!(text.contains(why), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn presets_are_complete() {
        for name in presets() {
            let config = resolve(name, None, &[]).unwrap();
            assert_eq!(config.preset, name);
            assert_eq!(parse(&config.to_toml()).unwrap(), config);
            assert_eq!(config.machines().unwrap().len(), 1);
        }
    }

    #[test]
    fn organisations_have_parameters_of_their_own() {
        let config = set("org.hashed.slots_log2", "18").unwrap();
        assert_eq!(parse(&config.to_toml()).unwrap(), config);
        refused(
            set("org.hashed.slots", "18"),
            "org.hashed: unknown field `slots`",
        );
        refused(
            set("org.hashed.slots_log2", "'x'"),
            "org.hashed: invalid type",
        );
        refused(set("org.hashed.slots_log2", "99"), "expected 10 to 30");
        refused(set("org.hash.slots_log2", "18"), "did you mean 'hashed'?");
        refused(set("org.radix.x", "1"), "radix takes no parameters");
    }

    #[test]
    fn layers() {
        let config = resolve(
            "emt",
            Some("[cycles]\nmemory = 200\n[tlb.l1d.small]\nentries = 32"),
            &[
                ("cycles.memory".into(), "190".into()),
                ("organisations".into(), "[\"real\"]".into()),
                ("tlb.pcid".into(), "true".into()),
                ("also".into(), "[\"server\"]".into()),
            ],
        )
        .unwrap();
        assert_eq!(config.cycles.memory, 190.0);
        assert_eq!(
            config.tlb.l1d.small,
            Sets {
                entries: 32,
                ways: 4
            }
        );
        assert_eq!(config.organisations, ["real"]);
        assert!(config.tlb.pcid);
        let machines = config.machines().unwrap();
        assert_eq!(machines[1].preset, "server");
        assert_eq!(machines[1].organisations, ["real"]);
        assert!(machines.iter().all(|m| m.also.is_empty()));
    }

    #[test]
    fn what_is_refused() {
        refused(resolve("emd", None, &[]), "did you mean 'emt'?");
        refused(resolve("", None, &[]), "expected one of emt, equal, server");
        refused(set("cylces.memory", "1"), "did you mean 'cycles'?");
        refused(set("cycles.memroy", "1"), "did you mean 'cycles.memory'?");
        let text = set("tlb.stlb.small.way", "1").unwrap_err().to_string();
        assert!(
            text.ends_with("did you mean 'tlb.stlb.small.ways'?"),
            "{text}"
        );
        refused(
            set("tlb.stlb.entries", "2048"),
            "did you mean 'tlb.stlb.huge.entries' or 'tlb.stlb.large.entries' or 'tlb.stlb.small.entries'?",
        );
        let text = resolve("emt", Some("\n[tlb.stlb"), &[]).unwrap_err();
        assert!(
            text.to_string()
                .starts_with("not TOML: line 2, column 10: ")
                && !text.0.contains('|'),
            "{text}"
        );
        refused(set("cycles.memory", "fast"), "expected a float");
        refused(set("cycles.memory", "-1.0"), "0 or more");
        refused(set("cycles.memory", "nan"), "0 or more");
        refused(set("cycles.data_parallelism", "0"), "1 or more");
        refused(set("cycles", "1"), "expected a table");
        refused(set("", "1"), "unknown key");
        refused(set("tlb.l1d.small.entries", "0"), "every TLB");
        refused(set("tlb.l1d.small.entries", "63"), "power of two");
        refused(set("tlb.l1d.small.entries", "-1"), "");
        refused(set("tlb.l1d.small.ways", "0"), "1 to 64 ways");
        refused(set("cache.llc.kib", "0"), "cache.llc.kib");
        refused(set("cache.llc.kib", "99999999999"), "");
        refused(set("organisations", "[\"reel\"]"), "did you mean 'real'?");
        refused(set("organisations", "[\"real\", \"real\"]"), "twice");
        refused(set("organisations", "[]"), "at least one");
        refused(set("also", "[\"x\"]"), "unknown preset");
        refused(set("preset", "server"), "asked for");
        refused(set("ecpt.initial_slots", "3"), "power of two");
        refused(resolve("emt", Some("a ="), &[]), "not TOML");
        refused(
            resolve("emt", Some("[sim]\nwarm = 1"), &[]),
            "unknown key 'sim.warm'",
        );
        refused(parse("[sim]"), "preset");
    }
}
