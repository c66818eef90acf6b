// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is tested, and against whom. Radix on our image runs our generic code, too, so a bug there is invisible to
//! who compares modes with it; the unpatched kernel shares nothing with us.

use std::fmt;

use fpt_init::proto::Exec;
use serde::{Serialize, Serializer};

use fpt_geometry::{Boot, Mode};
use fpt_kbuild::build::{Kernel, Profile};
use fpt_kit::{Fail, Result};
use fpt_vm::tables;
use fpt_vm::vm::Guest;

/// For `--kernel`: a kernel that is none of ours.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherKernel {
    /// The distribution's, as it is
    Unpatched,
}

/// A kernel, and the tables it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The distribution's kernel as it is, which knows no modes.
    Unpatched,
    /// Our image, booted with that choice.
    Ours(Boot),
}

impl Subject {
    /// Our kernel with conventional tables.
    pub const RADIX: Subject = Subject::Ours(Boot::Mode(Mode::Radix));

    /// As tables, reports and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Unpatched => "unpatched",
            Subject::Ours(boot) => boot.name(),
        }
    }

    /// A boot choice of a profile's image.
    pub fn of(profile: Profile, mode: Boot) -> Subject {
        match profile {
            Profile::Unpatched | Profile::UnpatchedTlbsan => Subject::Unpatched,
            Profile::Fpt | Profile::OptionOff | Profile::Debug => Subject::Ours(mode),
            Profile::Gdb => Subject::Ours(mode),
            Profile::Kasan | Profile::Tlbsan | Profile::Mutants => Subject::Ours(mode),
            Profile::Preempt | Profile::Rt | Profile::Numa => Subject::Ours(mode),
        }
    }

    /// What `--profile`, `--mode` and `--kernel` name, each once and in that order.
    pub fn asked_for(
        profile: Profile,
        modes: &[Boot],
        kernel: Option<OtherKernel>,
    ) -> Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        for mode in modes {
            profile.check_mode(*mode)?;
            let subject = Subject::of(profile, *mode);
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        match kernel {
            Some(OtherKernel::Unpatched) if !subjects.contains(&Subject::Unpatched) => {
                subjects.push(Subject::Unpatched);
            }
            Some(OtherKernel::Unpatched) | None => {}
        }
        Ok(subjects)
    }

    /// Whose results it must have.
    pub fn reference(self) -> Option<Subject> {
        match self {
            Subject::Unpatched => None,
            Subject::Ours(Boot::Mode(Mode::Radix)) => Some(Subject::Unpatched),
            Subject::Ours(Boot::Mode(Mode::L4L3 | Mode::L3L2 | Mode::L4L3L2L1) | Boot::Mixed) => {
                Some(Subject::RADIX)
            }
        }
    }

    /// `fpt=` of the kernel. The unpatched one would pass the word on to init.
    pub fn mode(self) -> Option<Boot> {
        match self {
            Subject::Unpatched => None,
            Subject::Ours(mode) => Some(mode),
        }
    }

    /// The tables that its processes can have.
    pub fn tables(self) -> Boot {
        self.mode().unwrap_or(Boot::Mode(Mode::Radix))
    }

    /// Can its tables be flattened?
    pub fn is_flat(self) -> bool {
        self.tables().kinds().next().is_some()
    }

    /// A guest that is another than was asked for would compare something with itself and find everything equal.
    pub fn check(self, guest: &mut Guest) -> Result<()> {
        match self {
            Subject::Unpatched => check_unpatched(guest),
            Subject::Ours(mode) => check_mode(guest, mode),
        }
    }
}

impl From<Mode> for Subject {
    fn from(mode: Mode) -> Subject {
        Subject::Ours(mode.into())
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What page tables the guests of a run have, in one line.
pub fn described(subjects: &[Subject], append: &[String]) -> String {
    let of = |subject: &Subject| match subject {
        Subject::Unpatched => "unpatched kernel".to_string(),
        Subject::Ours(boot) => tables::described(*boot, append),
    };
    subjects.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// The kernels of a comparison.
#[derive(Clone, Copy)]
pub struct Kernels<'a> {
    /// The patched kernel.
    pub ours: &'a Kernel,
    /// Not there: nothing is compared with it.
    pub unpatched: Option<&'a Kernel>,
}

impl<'a> Kernels<'a> {
    /// The kernel of a subject.
    ///
    /// # Errors
    ///
    /// It was not built.
    pub fn of(&self, subject: Subject) -> Result<&'a Kernel> {
        match subject {
            Subject::Ours(_) => Ok(self.ours),
            Subject::Unpatched => self.unpatched.ok_or_else(|| {
                Fail::infra(
                    "there is no unpatched kernel",
                    "this comparison did without",
                    "this is a mistake in xtask",
                )
            }),
        }
    }

    /// The subjects with all that they are compared with, as far as the kernels are there: references first, each once.
    pub fn with_references(&self, subjects: &[Subject]) -> Vec<Subject> {
        let mut all: Vec<Subject> = Vec::new();
        for subject in subjects {
            let mut chain: Vec<Subject> =
                std::iter::successors(Some(*subject), |s| s.reference()).collect();
            chain.reverse();
            for one in chain {
                let there = one != Subject::Unpatched || self.unpatched.is_some();
                if there && !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}

/// A guest in the wrong mode would compare radix with radix and find everything equal.
pub fn check_mode(guest: &mut Guest, mode: impl Into<Boot>) -> Result<()> {
    let mode = mode.into();
    let (exit, text) = guest.run(Exec {
        argv: vec!["cat".into(), "/sys/kernel/debug/fpt/mode".into()],
        timeout_s: 30,
        ..Exec::default()
    })?;
    let found = text.trim();
    // A kernel without flattened tables can only be radix.
    if (exit.status() == 0 && found == mode.name())
        || (exit.status() != 0 && mode == Mode::Radix.into())
        || std::env::var_os("FPT_ANY_MODE").is_some()
    {
        return Ok(());
    }
    let found = if exit.status() == 0 {
        format!("it says '{found}'")
    } else {
        format!("it does not say: {found}")
    };
    Err(Fail::test(
        format!("the guest is not in mode {mode}"),
        found,
        "look for the line 'fpt: mode' in the console log",
    ))
}

/// Debugfs is there, and nothing of ours is in it.
fn check_unpatched(guest: &mut Guest) -> Result<()> {
    let (exit, text) = guest.run(Exec {
        argv: vec!["ls".into(), "/sys/kernel/debug".into()],
        timeout_s: 30,
        ..Exec::default()
    })?;
    let mut names = text.split_whitespace();
    if exit.status() == 0 && !text.trim().is_empty() && !names.any(|n| n == "fpt" || n == "emt") {
        return Ok(());
    }
    let found = match exit.status() {
        0 if text.trim().is_empty() => "its debugfs is empty, which proves nothing".to_string(),
        0 => "its debugfs has fpt or emt".to_string(),
        n => format!("its debugfs cannot be read (exit code {n}): {text}"),
    };
    Err(Fail::test(
        "the guest does not run the unpatched kernel",
        found,
        "was FPT_VMLINUX_UNPATCHED meant to name another kernel?",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Subject = Subject::Ours(Boot::Mode(Mode::L3L2));

    #[test]
    fn each_has_one_reference() {
        let (radix, flat) = (Subject::RADIX, FLAT);
        assert_eq!(flat.reference(), Some(radix));
        assert_eq!(radix.reference(), Some(Subject::Unpatched));
        assert_eq!(Subject::Unpatched.reference(), None);
        assert!(flat.is_flat() && !radix.is_flat() && !Subject::Unpatched.is_flat());
        assert_eq!(Subject::Unpatched.mode(), None);
        assert_eq!(
            Subject::of(Profile::Unpatched, Mode::Radix.into()),
            Subject::Unpatched
        );
        assert_eq!(Subject::of(Profile::Debug, Mode::Radix.into()), radix);
        let mixed = Subject::Ours(Boot::Mixed);
        assert_eq!(mixed.reference(), Some(radix));
        assert!(mixed.is_flat());
    }

    #[test]
    fn references_come_first_and_once() {
        let (radix, flat) = (Subject::RADIX, FLAT);
        let kernel = Kernel {
            vmlinux: "/k".into(),
            build_dir: "/".into(),
            src_dir: "/".into(),
            version: String::new(),
            hash: String::new(),
        };
        let all = |unpatched, list: &[Subject]| {
            let kernels = Kernels {
                ours: &kernel,
                unpatched,
            };
            kernels.with_references(list)
        };
        let three = [Subject::Unpatched, radix, flat];
        assert_eq!(all(Some(&kernel), std::slice::from_ref(&flat)), three);
        assert_eq!(all(Some(&kernel), &[flat, radix]), three);
        assert_eq!(all(None, std::slice::from_ref(&flat)), [radix, flat]);
        assert_eq!(
            all(Some(&kernel), &[Subject::Unpatched]),
            [Subject::Unpatched]
        );
    }
}
