// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verdict on one case, from all its outcomes in a subject and in the subject's reference.

use std::collections::{BTreeMap, BTreeSet};

use super::list::Program;
use fpt_lab::subject::Subject;
use fpt_verdict::tap::Status;

/// A case of this name stands for a test that could not even start: red, in both subjects too.
pub const PREPARE: &str = "preparation";
/// So begins the outcome of a program that did not end in time: red, in both subjects too, for nobody knows what
/// would have come after it.
pub const LIMIT: &str = "ran into the limit";

/// The outcomes of one case over all runs.
pub type Outcomes = BTreeSet<(String, Status)>;
/// All cases of a program, in the reference and in the subject.
pub type Table = BTreeMap<String, (Outcomes, Outcomes)>;

/// Who is judged, and by whose results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The reference.
    pub base: Subject,
    /// What is judged by it.
    pub subject: Subject,
}

/// What a case of a subject is, beside its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not what the reference does: red.
    Differs,
    /// As in the reference, and red all the same.
    Bad,
    /// Fails at times, as in the reference, and the list does not say why: red.
    Unexplained,
    /// Fails each time everywhere, as the list says that it must.
    Cannot,
    /// The list says that it cannot pass, and it did not fail each time: red.
    Unexpected,
    /// Always skipped.
    Skipped,
    /// Always passed.
    Passed,
    /// Anything else that both do, such as failures that the program expects.
    Alike,
}

impl Verdict {
    /// Whether it makes the run fail.
    pub fn is_red(self) -> bool {
        match self {
            Verdict::Differs | Verdict::Bad | Verdict::Unexplained | Verdict::Unexpected => true,
            Verdict::Cannot | Verdict::Skipped | Verdict::Passed | Verdict::Alike => false,
        }
    }
}

impl Pair {
    /// With its reference, if it has one.
    pub fn of(subject: Subject) -> Option<Pair> {
        let base = subject.reference()?;
        Some(Pair { base, subject })
    }

    /// Two kernels, or two modes of one?
    pub fn of_kernels(&self) -> bool {
        match self.base {
            Subject::Unpatched => true,
            Subject::Ours(_) => false,
        }
    }

    /// The one rule. `table` has all cases of the program.
    pub fn verdict(&self, program: &Program, table: &Table, case: &str) -> Verdict {
        let Some((base, subject)) = table.get(case) else {
            return Verdict::Differs;
        };
        let has = |set: &Outcomes, status| set.iter().any(|s| s.1 == status);
        let failed = has(subject, Status::Fail) || (program.compare && has(base, Status::Fail));
        let strict = program.must_pass() || case == PREPARE || subject.iter().any(is_limit);
        if self.differ(program, table, case) {
            Verdict::Differs
        } else if strict && failed {
            Verdict::Bad
        } else if program.cannot_pass(case).is_some() {
            if all(base, &[Status::Fail]) && all(subject, &[Status::Fail]) {
                Verdict::Cannot
            } else {
                Verdict::Unexpected
            }
        } else if all(subject, &[Status::Skip]) {
            Verdict::Skipped
        } else if all(subject, &[Status::Pass]) {
            Verdict::Passed
        } else if has(subject, Status::Fail) {
            Verdict::Unexplained
        } else {
            Verdict::Alike
        }
    }

    /// Is there a case that runs on a busy host may have made red? Runs again decide what it is worth.
    pub fn any_doubt(&self, program: &Program, table: &Table) -> bool {
        let doubt = |case: &String| match self.verdict(program, table, case) {
            Verdict::Differs | Verdict::Unexplained | Verdict::Unexpected => true,
            Verdict::Bad | Verdict::Cannot => false,
            Verdict::Skipped | Verdict::Passed | Verdict::Alike => false,
        };
        table.keys().any(doubt)
    }

    fn differ(&self, program: &Program, table: &Table, case: &str) -> bool {
        let Some((base, subject)) = table.get(case).filter(|_| program.compare) else {
            return false;
        };
        if self.of_kernels() && program.only_fpt.iter().any(|c| c == case) {
            // It asks our kernel about itself. The other must not know an answer.
            return !all(base, &[Status::Skip]);
        }
        // Our own programs may skip in radix what only flattened tables can do.
        let only_flat = !self.of_kernels()
            && program.dir == "fpt"
            && all(base, &[Status::Skip])
            && all(subject, &[Status::Pass]);
        base != subject && !only_flat && !(always_good(table) && luckier(base, subject))
    }
}

fn is_limit(seen: &(String, Status)) -> bool {
    seen.0.starts_with(LIMIT)
}

fn all(set: &Outcomes, status: &[Status]) -> bool {
    !set.is_empty() && set.iter().all(|s| status.contains(&s.1))
}

/// Does the program sometimes fail in the reference, and never in the subject?
fn always_good(table: &Table) -> bool {
    let Some((base, subject)) = table.get("exit") else {
        return false;
    };
    all(subject, &[Status::Pass]) && !all(base, &[Status::Pass])
}

/// A program that ended well in the subject each time, and not in the reference, has had luck there if the subject's
/// results are what the reference's are too when it ends well: passes that it has as well, skips that it may not have
/// come to, and no sign of failures that it sometimes has.
fn luckier(base: &Outcomes, subject: &Outcomes) -> bool {
    let not_come_to = || {
        let there = base.iter().filter(|s| s.1 != Status::Absent);
        there.cloned().collect::<Outcomes>() == *subject
    };
    (all(subject, &[Status::Pass, Status::Xfail]) && subject.is_subset(base))
        || (all(subject, &[Status::Skip]) && not_come_to())
        || (all(subject, &[Status::Absent]) && all(base, &[Status::Fail, Status::Absent]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    fn program(dir: &str, more: &str) -> Program {
        let text = format!("name='{dir}/x'\ndir='{dir}'\nargv=['./x']\ntimeout_s=5\n{more}");
        toml::from_str(&text).unwrap()
    }

    fn modes() -> Pair {
        Pair::of(Subject::from(Mode::L3L2)).unwrap()
    }

    fn kernels() -> Pair {
        Pair::of(Subject::RADIX).unwrap()
    }

    fn set(list: &[&str]) -> Outcomes {
        let one = |s: &&str| match *s {
            "fail" => ((*s).to_string(), Status::Fail),
            "skip" => ((*s).to_string(), Status::Skip),
            "xfail" => ((*s).to_string(), Status::Xfail),
            "absent" => ((*s).to_string(), Status::Absent),
            "limit" => (format!("{LIMIT} of 5 s"), Status::Fail),
            _ => ((*s).to_string(), Status::Pass),
        };
        list.iter().map(one).collect()
    }

    /// Of a case `a` of a program that exits as told.
    fn of(
        pair: &Pair,
        program: &Program,
        exit: (&[&str], &[&str]),
        a: (&[&str], &[&str]),
    ) -> Verdict {
        let pair_of = |p: (&[&str], &[&str])| (set(p.0), set(p.1));
        let table = [
            ("exit".to_string(), pair_of(exit)),
            ("a".to_string(), pair_of(a)),
        ]
        .into();
        pair.verdict(program, &table, "a")
    }

    const WELL: (&[&str], &[&str]) = (&["pass"], &["pass"]);

    #[test]
    fn the_rule_for_what_is_equal() {
        use Verdict::*;
        let (mm, ours) = (program("mm", ""), program("fpt", ""));
        for pair in [kernels(), modes()] {
            for (outcome, of_mm, of_ours) in [
                ("pass", Passed, Passed),
                ("skip", Skipped, Skipped),
                ("xfail", Alike, Alike),
                ("fail", Unexplained, Bad),
                ("limit", Bad, Bad),
            ] {
                let both: (&[&str], &[&str]) = (&[outcome], &[outcome]);
                assert_eq!(of(&pair, &mm, WELL, both), of_mm, "{outcome}");
                assert_eq!(of(&pair, &ours, WELL, both), of_ours, "{outcome}");
            }
            assert_eq!(
                of(&pair, &mm, WELL, (&["pass", "fail"], &["pass", "fail"])),
                Unexplained
            );
        }
        let table = [(PREPARE.to_string(), (set(&["fail"]), set(&["fail"])))].into();
        assert_eq!(kernels().verdict(&mm, &table, PREPARE), Bad);
        assert_eq!(kernels().verdict(&mm, &table, "not there"), Differs);
        for verdict in [Differs, Bad, Unexplained, Unexpected] {
            assert!(verdict.is_red());
        }
        for verdict in [Cannot, Skipped, Passed, Alike] {
            assert!(!verdict.is_red());
        }
    }

    #[test]
    fn what_cannot_pass_must_fail_each_time() {
        use Verdict::*;
        let p = program("mm", "cannot=[{cases=['a'],why='x'}]\n");
        for pair in [kernels(), modes()] {
            let table = |both: &[&str]| -> Table {
                let one = |case: &str, set: Outcomes| (case.to_string(), (set.clone(), set));
                [one("a", set(both)), one("exit", set(&["pass"]))].into()
            };
            for (both, want, again) in [
                (&["fail"][..], Cannot, false),
                (&["pass"], Unexpected, true),
                (&["skip"], Unexpected, true),
                (&["xfail"], Unexpected, true),
                (&["absent"], Unexpected, true),
                (&["fail", "pass"], Unexpected, true),
                (&["limit"], Bad, false),
            ] {
                let table = table(both);
                assert_eq!(pair.verdict(&p, &table, "a"), want, "{both:?}");
                assert_eq!(pair.any_doubt(&p, &table), again, "{both:?}");
            }
            // One kernel that passes it is a difference, and luck is none.
            assert_eq!(of(&pair, &p, WELL, (&["fail"], &["pass"])), Differs);
            let lucky: (&[&str], &[&str]) = (&["fail", "pass"], &["pass"]);
            let got = of(&pair, &p, lucky, (&["fail", "pass"], &["pass"]));
            assert_eq!(got, Unexpected);
            // What the list does not name is not excused by what it names.
            let other = program("mm", "cannot=[{cases=['b'],why='x'}]\n");
            assert_eq!(of(&pair, &other, WELL, (&["fail"], &["fail"])), Unexplained);
            assert!(pair.any_doubt(&other, &table(&["fail"])));
        }
    }

    #[test]
    fn the_rule_for_what_differs() {
        let mm = program("mm", "");
        for pair in [kernels(), modes()] {
            for base in ["pass", "fail", "skip", "absent"] {
                for subject in ["pass", "fail", "skip", "absent"] {
                    let want = base != subject;
                    let got = of(&pair, &mm, WELL, (&[base], &[subject])) == Verdict::Differs;
                    assert_eq!(got, want, "{base} {subject}");
                }
            }
        }
    }

    #[test]
    fn only_flat_tables_do_more_than_radix() {
        let ours = program("fpt", "");
        let more: (&[&str], &[&str]) = (&["skip"], &["pass"]);
        assert_eq!(of(&modes(), &ours, WELL, more), Verdict::Passed);
        // Radix on our image can do nothing that the unpatched kernel cannot.
        assert_eq!(of(&kernels(), &ours, WELL, more), Verdict::Differs);
    }

    #[test]
    fn cases_about_our_kernel_are_skipped_on_the_other() {
        let p = program("fpt", "only_fpt=['a']\nreason='x'\n");
        for (base, subject, want) in [
            ("skip", "pass", Verdict::Passed),
            ("skip", "skip", Verdict::Skipped),
            ("skip", "fail", Verdict::Bad),
            ("pass", "pass", Verdict::Differs),
            ("fail", "pass", Verdict::Differs),
            ("absent", "pass", Verdict::Differs),
        ] {
            let got = of(&kernels(), &p, WELL, (&[base], &[subject]));
            assert_eq!(got, want, "{base} {subject}");
        }
        // Between modes the key says nothing.
        let got = of(&modes(), &p, WELL, (&["pass"], &["fail"]));
        assert_eq!(got, Verdict::Differs);
    }

    #[test]
    fn failing_less_than_the_reference_is_no_difference() {
        let p = program("mm", "");
        for pair in [kernels(), modes()] {
            let differs = |exit: (&[&str], &[&str]), a: (&[&str], &[&str])| {
                of(&pair, &p, exit, a) == Verdict::Differs
            };
            let lucky: (&[&str], &[&str]) = (&["fail", "pass"], &["pass"]);
            assert!(!differs(lucky, (&["fail", "pass"], &["pass"])));
            assert!(differs(WELL, (&["fail", "pass"], &["pass"])));
            assert!(differs(lucky, (&["fail", "pass"], &["fail"])));
            assert!(differs(lucky, (&["pass"], &["fail", "pass"])));
            // It did not always end well itself.
            for exit in [&["fail", "pass"][..], &["fail"], &[]] {
                let both: (&[&str], &[&str]) = (&["fail", "pass"], exit);
                assert!(differs(both, (&["fail", "pass"], &["pass"])));
            }
            let differs = |base: &[&str], subject: &[&str]| differs(lucky, (base, subject));
            // What the subject skips or has not, the reference at times passes.
            assert!(differs(&["pass"], &["skip"]));
            assert!(differs(&["pass", "skip"], &["skip"]));
            assert!(differs(&["pass", "absent"], &["absent"]));
            assert!(differs(&["fail", "absent", "pass"], &["absent"]));
            assert!(differs(&["fail", "skip"], &["skip"]));
            assert!(differs(&["fail", "absent"], &["fail"]));
            // What the reference, when it fails, does not come to, or says only then.
            assert!(!differs(&["pass", "absent"], &["pass"]));
            assert!(!differs(&["skip", "absent"], &["skip"]));
            assert!(!differs(&["fail", "absent"], &["absent"]));
        }
    }
}
