// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases of a guest that knows what is to be found: each says so before it begins.

use fpt_tlbsan_model::{Finding, Rule};

/// The number that ends the last case.
pub const END: u64 = u64::MAX;
/// Failures that are kept word for word.
const KEPT: usize = 100;

/// Rules, a bit each, and the CPUs that hold, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub rules: u8,
    pub cpus: u64,
}

const RULES: [Rule; 8] = [
    Rule::R0,
    Rule::R1,
    Rule::R1Reused,
    Rule::R2,
    Rule::R3,
    Rule::R4,
    Rule::R5,
    Rule::R6,
];

impl Found {
    /// As the guest says it: rules in bits 7 to 0, CPUs above.
    pub fn of(word: u64) -> Found {
        Found {
            rules: (word & 0xff) as u8,
            cpus: word >> 8,
        }
    }

    /// The bit of a rule.
    pub fn bit(rule: Rule) -> u8 {
        1 << RULES.iter().position(|r| *r == rule).unwrap_or(0)
    }

    fn add(&mut self, finding: &Finding) {
        self.rules |= Found::bit(finding.rule);
        for holder in &finding.holders {
            self.cpus |= 1 << (holder.cpu.0 & 63);
        }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.rules == 0 {
            return f.write_str("nothing");
        }
        let bits = (0..8).filter(|b| self.rules >> b & 1 != 0);
        let names: Vec<&str> = bits.filter_map(|b| Some(RULES.get(b)?.name())).collect();
        write!(f, "{} by CPUs {:#b}", names.join(" "), self.cpus)
    }
}

#[derive(Debug, Default)]
pub struct Cases {
    open: Option<(u64, Found)>,
    found: Found,
    texts: Vec<String>,
    pub checks: u64,
    pub failed: u64,
    pub failures: Vec<String>,
    /// The last case was ended.
    pub ended: bool,
}

impl Cases {
    /// A case begins; the one before ends.
    pub fn begin(&mut self, id: u64, expected: Found) {
        self.close();
        self.ended = id == END;
        self.open = (!self.ended).then_some((id, expected));
    }

    fn close(&mut self) {
        let found = std::mem::take(&mut self.found);
        let texts = std::mem::take(&mut self.texts);
        let (what, expected) = match self.open.take() {
            Some((id, expected)) => {
                self.checks += 1;
                (format!("case {id:#x}"), expected)
            }
            None => ("outside of cases".to_owned(), Found::default()),
        };
        if found != expected {
            self.failed += 1;
            if self.failures.len() < KEPT {
                let texts = texts.join("; ");
                self.failures
                    .push(format!("{what}: found {found}, not {expected}. {texts}"));
            }
        }
    }

    pub fn found(&mut self, finding: &Finding) {
        self.found.add(finding);
        self.texts.push(finding.to_string());
    }

    /// What came after the last case must be nothing, and a case must not be left open.
    pub fn finish(&mut self) {
        if self.open.is_some() {
            self.failed += 1;
            self.failures.push("the last case was not ended".to_owned());
        }
        self.close();
        if self.checks == 0 {
            self.failed += 1;
            self.failures.push("the guest had no cases".to_owned());
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use fpt_tlbsan_model::{
        Certainty, CpuId, Frame, Geometry, Holder, Mode, Origin, Site, Task, Why,
    };

    pub fn finding(rule: Rule, cpus: &[u8]) -> Finding {
        let holder = |cpu: &u8| Holder {
            cpu: CpuId(*cpu),
            pcid: 0,
            mode: Mode::Kernel,
            root: None,
            flushes: Vec::new(),
        };
        Finding {
            rule,
            certainty: Certainty::Error,
            why: Why::Loaded(Geometry::x86(true, 40).root(0x1000)),
            frame: Frame(1),
            frames: 1,
            taken: None,
            holders: cpus.iter().map(holder).collect(),
            by: Origin {
                cpu: CpuId(0),
                task: Task(0),
                site: Site(0),
                time: 0,
            },
        }
    }

    fn run(expected: u64, findings: &[Finding]) -> Cases {
        let mut cases = Cases::default();
        cases.begin(7, Found::of(expected));
        findings.iter().for_each(|f| cases.found(f));
        cases.begin(END, Found::default());
        cases.finish();
        cases
    }

    #[test]
    fn exactly_what_was_said() {
        let r1 = [finding(Rule::R1, &[1])];
        for (expected, found, failed) in [
            (0, &[][..], 0),
            (2 | 2 << 8, &r1, 0),
            // Not found, found too much, another rule, another CPU.
            (2 | 2 << 8, &[], 1),
            (0, &r1, 1),
            (4 | 2 << 8, &r1, 1),
            (2 | 3 << 8, &r1, 1),
        ] {
            let cases = run(expected, found);
            assert_eq!((cases.checks, cases.failed), (1, failed), "{cases:?}");
            assert!(cases.ended);
        }
        let both = [finding(Rule::R2, &[0]), finding(Rule::R3, &[1])];
        assert_eq!(run(8 | 16 | 3 << 8, &both).failed, 0);
        let text = &run(0, &r1).failures[0];
        assert!(
            text.contains("case 0x7: found R1 by CPUs 0b10, not nothing"),
            "{text}"
        );
    }

    #[test]
    fn nothing_outside_of_cases() {
        let mut cases = Cases::default();
        cases.found(&finding(Rule::R0, &[0]));
        cases.begin(1, Found::default());
        cases.begin(END, Found::default());
        cases.found(&finding(Rule::R0, &[0]));
        cases.finish();
        assert_eq!((cases.checks, cases.failed), (1, 2));
    }

    #[test]
    fn no_cases_are_a_failure() {
        let mut cases = Cases::default();
        cases.finish();
        assert_eq!(cases.failed, 1);
        let mut cases = Cases::default();
        cases.begin(1, Found::default());
        cases.finish();
        assert_eq!((cases.checks, cases.failed, cases.ended), (1, 1, false));
    }
}
