// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions that are open, and the line written when one ends.

use crate::decode::UNIT;
use fpt_qemu_plugin::arguments;
use std::collections::HashMap;

/// Sums over all CPUs, in half instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub kernel: u64,
    /// The part of `kernel` that is elements of REP string instructions.
    pub kernel_string: u64,
    pub user: u64,
}

#[derive(Clone, Copy, Default)]
struct Region {
    start: Option<Totals>,
    runs: u64,
}

/// Regions by id. They may nest; a region inside itself starts anew.
pub struct Regions {
    by_id: Vec<Region>,
}

impl Regions {
    pub fn new() -> Self {
        Regions {
            by_id: vec![Region::default(); 256],
        }
    }

    pub fn begin(&mut self, id: u8, now: Totals) {
        if let Some(region) = self.by_id.get_mut(usize::from(id)) {
            region.start = Some(now);
        }
    }

    /// The line for the output file; an end without a begin is reported as such,
    /// because a silent gap would look like a region that was never run.
    pub fn end(&mut self, id: u8, now: Totals) -> String {
        let Some(region) = self.by_id.get_mut(usize::from(id)) else {
            return String::new();
        };
        let run = region.runs;
        region.runs = region.runs.wrapping_add(1);
        match region.start.take() {
            None => format!("{{\"region\":{id},\"run\":{run},\"error\":\"end without begin\"}}\n"),
            Some(start) => format!(
                "{{\"region\":{id},\"run\":{run},\"kernel\":{},\"kernel_string\":{},\"user\":{}}}\n",
                now.kernel.wrapping_sub(start.kernel) / UNIT,
                now.kernel_string.wrapping_sub(start.kernel_string) / UNIT,
                now.user.wrapping_sub(start.user) / UNIT,
            ),
        }
    }
}

/// Arguments of the plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the lines go.
    pub out: String,
    /// Where counts by address go, and of which region.
    pub profile: Option<(String, u8)>,
}

const USAGE: &str = "expected out=FILE[,profile=FILE,region=ID]";

/// `out=FILE[,profile=FILE,region=ID]`
pub fn options(args: &[String]) -> Result<Options, String> {
    let (mut out, mut profile, mut region) = (None, None, None);
    arguments(args, USAGE, |key, value| {
        match (key, value) {
            ("out", v) if !v.is_empty() => out = Some(v.to_owned()),
            ("profile", v) if !v.is_empty() => profile = Some(v.to_owned()),
            ("region", v) => {
                let id = v.parse::<u8>();
                let bad = |_| format!("region={v}: expected an id from 0 to 255");
                region = Some(id.map_err(bad)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let profile = match (profile, region) {
        (Some(path), Some(id)) => Some((path, id)),
        (None, None) => None,
        _ => return Err("profile=FILE and region=ID go together".to_owned()),
    };
    Ok(Options {
        out: out.ok_or_else(|| format!("missing argument out=: {USAGE}"))?,
        profile,
    })
}

/// Counts by address of one region: each address has a slot in an array of
/// counters that QEMU keeps.
pub struct Profile {
    slots: HashMap<u64, usize>,
    max: usize,
    start: Option<Vec<u64>>,
    sum: Vec<u64>,
    runs: u64,
}

impl Profile {
    pub fn new(max: usize) -> Self {
        Profile {
            slots: HashMap::new(),
            max,
            start: None,
            sum: Vec::new(),
            runs: 0,
        }
    }

    /// The slot of an address; none when all are taken.
    pub fn slot(&mut self, address: u64) -> Option<usize> {
        let next = self.slots.len();
        if let Some(slot) = self.slots.get(&address) {
            return Some(*slot);
        }
        if next >= self.max {
            return None;
        }
        self.slots.insert(address, next);
        Some(next)
    }

    pub fn begin(&mut self, now: &[u64]) {
        self.start = Some(now.to_vec());
    }

    /// Adds what was counted since `begin`.
    pub fn end(&mut self, now: &[u64]) {
        let Some(start) = self.start.take() else {
            return;
        };
        self.runs = self.runs.wrapping_add(1);
        self.sum.resize(now.len(), 0);
        // addresses that were first translated inside the region start from 0
        let before = start.into_iter().chain(std::iter::repeat(0));
        for ((sum, now), before) in self.sum.iter_mut().zip(now).zip(before) {
            *sum = sum.wrapping_add(now.wrapping_sub(before));
        }
    }

    /// `ADDRESS COUNT` lines in order of addresses; counts are of all runs.
    pub fn text(&self) -> String {
        let mut lines: Vec<(u64, u64)> = self
            .slots
            .iter()
            .filter_map(|(address, slot)| Some((*address, *self.sum.get(*slot)? / UNIT)))
            .filter(|(_, count)| *count > 0)
            .collect();
        lines.sort_unstable();
        let mut text = format!("# runs {}\n", self.runs);
        for (address, count) in lines {
            text.push_str(&format!("{address:x} {count}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kernel: u64, kernel_string: u64, user: u64) -> Totals {
        Totals {
            kernel: kernel * UNIT,
            kernel_string: kernel_string * UNIT,
            user: user * UNIT,
        }
    }

    #[test]
    fn a_line_is_the_difference() {
        let mut r = Regions::new();
        r.begin(3, at(100, 10, 7));
        assert_eq!(
            r.end(3, at(150, 12, 9)),
            "{\"region\":3,\"run\":0,\"kernel\":50,\"kernel_string\":2,\"user\":2}\n"
        );
        r.begin(3, at(200, 20, 20));
        assert!(r
            .end(3, at(201, 20, 20))
            .contains("\"run\":1,\"kernel\":1,"));
    }

    #[test]
    fn regions_nest() {
        let mut r = Regions::new();
        r.begin(1, at(0, 0, 0));
        r.begin(2, at(10, 0, 0));
        assert!(r.end(2, at(15, 0, 0)).contains("\"kernel\":5,"));
        assert!(r.end(1, at(20, 0, 0)).contains("\"kernel\":20,"));
    }

    #[test]
    fn an_end_without_a_begin_is_told() {
        let mut r = Regions::new();
        assert!(r.end(9, at(1, 1, 1)).contains("end without begin"));
        r.begin(9, at(1, 1, 1));
        r.end(9, at(2, 1, 1));
        assert!(r.end(9, at(3, 1, 1)).contains("end without begin"));
    }

    #[test]
    fn arguments() {
        let s = |v: &[&str]| v.iter().map(|x| (*x).to_owned()).collect::<Vec<_>>();
        let plain = Options {
            out: "/x".to_owned(),
            profile: None,
        };
        assert_eq!(options(&s(&["out=/x"])), Ok(plain));
        let full = Options {
            out: "/x".to_owned(),
            profile: Some(("/p".to_owned(), 7)),
        };
        assert_eq!(options(&s(&["out=/x", "profile=/p", "region=7"])), Ok(full));
        assert!(options(&s(&[])).is_err());
        assert!(options(&s(&["out="])).is_err());
        assert!(options(&s(&["out=/x", "y=1"])).is_err());
        assert!(options(&s(&["out=/x", "profile=/p"])).is_err());
        assert!(options(&s(&["out=/x", "region=1"])).is_err());
        assert!(options(&s(&["out=/x", "profile=/p", "region=256"])).is_err());
    }

    #[test]
    fn a_profile_adds_up_its_runs() {
        let mut p = Profile::new(2);
        assert_eq!(p.slot(0x10), Some(0));
        assert_eq!(p.slot(0x08), Some(1));
        assert_eq!(p.slot(0x10), Some(0));
        assert_eq!(p.slot(0x20), None);
        p.begin(&[10 * UNIT]);
        p.end(&[13 * UNIT, 5 * UNIT]);
        p.begin(&[20 * UNIT, 5 * UNIT]);
        p.end(&[21 * UNIT, 5 * UNIT]);
        assert_eq!(p.text(), "# runs 2\n8 5\n10 4\n");
        p.end(&[99 * UNIT, 99 * UNIT]);
        assert_eq!(p.text(), "# runs 2\n8 5\n10 4\n");
    }
}
