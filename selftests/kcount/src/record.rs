// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions that are open, and the line written when one ends.

use crate::decode::UNIT;

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

/// `out=PATH` among the plugin's arguments.
pub fn output_path(args: &[String]) -> Result<String, String> {
    let mut path = None;
    for arg in args {
        match arg.split_once('=') {
            Some(("out", value)) if !value.is_empty() => path = Some(value.to_owned()),
            _ => return Err(format!("unknown argument '{arg}': expected out=FILE")),
        }
    }
    path.ok_or_else(|| "missing argument: expected out=FILE".to_owned())
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
        assert_eq!(output_path(&s(&["out=/tmp/x"])), Ok("/tmp/x".to_owned()));
        assert!(output_path(&s(&[])).is_err());
        assert!(output_path(&s(&["out="])).is_err());
        assert!(output_path(&s(&["out=/x", "y=1"])).is_err());
    }
}
