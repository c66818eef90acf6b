// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of the plugin.

use std::path::PathBuf;
use std::time::Duration;

use fpt_qemu_plugin::{arguments, required};
use fpt_tlbsan_model::Psc;

/// How tasks are told apart, for finding R3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tasks {
    /// By Linux's task switch, if there is a vmlinux; else not at all.
    #[default]
    Linux,
    /// What a CPU runs is one task.
    Cpu,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Result, JSON.
    pub out: PathBuf,
    /// The guest's kernel, for symbols.
    pub vmlinux: Option<PathBuf>,
    pub psc: Psc,
    /// The guest's page tables may be flattened.
    pub fpt: bool,
    /// Judge unmapped kernel pages by the letter.
    pub strict_kernel: bool,
    /// Warn of what has been pending for longer, where tasks are not known.
    pub late: Option<Duration>,
    pub tasks: Tasks,
    /// The guest says what is to be found (mark 58), and each difference is a failure.
    pub cases: bool,
    /// Keep who asked for each flush, and what it ended.
    pub flushes: bool,
}

pub const USAGE: &str = "expected out=FILE[,vmlinux=FILE][,fpt=on|off][,psc=intel|tce][,kernel=strict|lazy][,late=SECONDS][,tasks=linux|cpu][,cases=on|off][,flushes=on|off]";

pub fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options::default();
    arguments(args, USAGE, |key, value| {
        match (key, value) {
            ("out", v) if !v.is_empty() => o.out = v.into(),
            ("vmlinux", v) if !v.is_empty() => o.vmlinux = Some(v.into()),
            ("fpt", v @ ("on" | "off")) => o.fpt = v == "on",
            ("psc", "intel") => o.psc = Psc::Intel,
            ("psc", "tce") => o.psc = Psc::Tce,
            ("kernel", v @ ("strict" | "lazy")) => o.strict_kernel = v == "strict",
            ("late", v) => {
                let seconds = v.parse().ok().filter(|s| *s > 0);
                let late = seconds.map(Duration::from_secs);
                o.late = Some(late.ok_or(format!("late={v}: expected a number of seconds"))?);
            }
            ("tasks", "linux") => o.tasks = Tasks::Linux,
            ("tasks", "cpu") => o.tasks = Tasks::Cpu,
            ("cases", v @ ("on" | "off")) => o.cases = v == "on",
            ("flushes", v @ ("on" | "off")) => o.flushes = v == "on",
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    required(&[("out", &o.out)], USAGE)?;
    Ok(o)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Options, String> {
        options(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_accepted() {
        let o = of(&[
            "out=/o",
            "vmlinux=/v",
            "fpt=on",
            "psc=tce",
            "kernel=strict",
            "late=2",
            "tasks=cpu",
            "cases=on",
            "flushes=on",
        ]);
        let expected = Options {
            out: "/o".into(),
            vmlinux: Some("/v".into()),
            psc: Psc::Tce,
            fpt: true,
            strict_kernel: true,
            late: Some(Duration::from_secs(2)),
            tasks: Tasks::Cpu,
            cases: true,
            flushes: true,
        };
        assert_eq!(o.unwrap(), expected);
        let o = of(&["out=/o", "fpt=off", "psc=intel", "kernel=lazy"]).unwrap();
        assert!(!o.fpt && !o.strict_kernel && !o.cases && o.psc == Psc::Intel);
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            &[][..],
            &["out="],
            &["out=/o", "psc=amd"],
            &["out=/o", "late=0"],
            &["out=/o", "late=x"],
            &["out=/o", "x=1"],
            &["out=/o", "fpt"],
        ] {
            assert!(of(bad).unwrap_err().contains("expected"), "{bad:?}");
        }
    }
}
