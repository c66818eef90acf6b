// SPDX-License-Identifier: MIT OR Apache-2.0
//! Canaries: flushes that a kernel leaves out on purpose, and says so (mark 58). A run that does not find
//! them finds nothing.

use std::collections::VecDeque;

use fpt_tlbsan_model::{Finding, Frame, Rule, Seq};
use serde_json::{json, Value};

use crate::cases::Found;

/// Announcements that are remembered: the kernel makes two at a time.
const KEPT: usize = 8;

/// Findings of some rules about a frame.
#[derive(Debug)]
struct Announced {
    frame: Frame,
    rules: Found,
    /// The entry that was taken away, once it was found. Several CPUs may hold it.
    seq: Option<Seq>,
}

#[derive(Debug, Default)]
pub struct Canaries {
    open: VecDeque<Announced>,
    announced: u64,
    tables: u64,
    pages: u64,
}

impl Canaries {
    /// The next finding of these rules about this frame is on purpose, as are those about the same entry.
    pub fn announce(&mut self, frame: u64, rules: Found) {
        self.announced += 1;
        if self.open.len() >= KEPT {
            self.open.pop_front();
        }
        self.open.push_back(Announced {
            frame: Frame(frame),
            rules,
            seq: None,
        });
    }

    /// Was the finding announced?
    pub fn take(&mut self, finding: &Finding) -> bool {
        let Some(seq) = finding.taken.as_ref().map(|t| t.seq) else {
            return false;
        };
        let wanted = |a: &&mut Announced| {
            let entry = a.seq.is_none_or(|s| s == seq);
            a.frame == finding.frame && a.rules.rules & Found::bit(finding.rule) != 0 && entry
        };
        let Some(announced) = self.open.iter_mut().find(wanted) else {
            return false;
        };
        announced.seq = Some(seq);
        match finding.rule {
            Rule::R1 => self.tables += 1,
            Rule::R2 => self.pages += 1,
            _ => {}
        }
        true
    }

    /// What came of them; `marked` if the kernel has some.
    pub fn json(&self, marked: bool) -> Value {
        json!({
            "marked": marked,
            "announced": self.announced,
            "tables": self.tables,
            "pages": self.pages,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::finding;
    use fpt_tlbsan_model::{Level, Pointer, Rights, Taken, What};

    /// About frame 1 and an entry that was taken away at `seq`.
    fn about(rule: Rule, seq: u64) -> Finding {
        let mut finding = finding(rule, &[0]);
        finding.taken = Some(Taken {
            what: What::Table(Pointer {
                frame: Frame(1),
                frames: 1,
                level: Level(1),
                rights: Rights::WRITE,
            }),
            level: Level(2),
            va: 0,
            entry: 0,
            old: 0,
            new: 0,
            seq: Seq(seq),
            by: finding.by,
        });
        finding
    }

    #[test]
    fn one_entry_each() {
        let mut canaries = Canaries::default();
        assert!(!canaries.take(&about(Rule::R1, 5)), "not announced");
        canaries.announce(1, Found::of(0x02));
        canaries.announce(1, Found::of(0x18));
        assert!(canaries.take(&about(Rule::R1, 5)) && canaries.take(&about(Rule::R2, 6)));
        assert!(canaries.take(&about(Rule::R3, 6)));
        // Another CPU that holds the same.
        assert!(canaries.take(&about(Rule::R2, 6)));
        // Another entry is a finding.
        assert!(!canaries.take(&about(Rule::R1, 7)) && !canaries.take(&about(Rule::R2, 7)));
        let expected = json!({"marked": true, "announced": 2, "tables": 1, "pages": 2});
        assert_eq!(canaries.json(true), expected);
    }

    #[test]
    fn about_that_frame_only() {
        let mut canaries = Canaries::default();
        canaries.announce(2, Found::of(0x02));
        assert!(!canaries.take(&about(Rule::R1, 5)));
        canaries.announce(1, Found::of(0x08));
        assert!(!canaries.take(&about(Rule::R1, 5)));
        assert!(!canaries.take(&finding(Rule::R2, &[0])), "still linked");
        // The oldest is forgotten.
        for _ in 0..KEPT {
            canaries.announce(9, Found::of(0x02));
        }
        assert!(!canaries.take(&about(Rule::R2, 5)));
    }
}
