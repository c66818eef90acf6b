// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stages, in the order in which they run.

use fpt_kit::{fail, Fail, Result};

/// In the order in which they run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Lint,
    Host,
    Claims,
    Patches,
    Build,
    Differential,
    Qemu,
    Boot,
    Walk,
    Agree,
    Kunit,
    Selftest,
    Stress,
    Fuzz,
    Tlbsan,
    OptionOff,
    Kcount,
    Bench,
}

impl Stage {
    pub(super) fn all() -> &'static [Stage] {
        <Stage as clap::ValueEnum>::value_variants()
    }

    /// Its name, whether `--quick` has it, what it does.
    pub(super) fn row(self) -> (&'static str, bool, &'static str) {
        match self {
            Stage::Lint => ("lint", true, "text: format, lints, spelling, licences, links, command lines"),
            Stage::Host => ("host", true, "cargo test of the workspace"),
            Stage::Claims => (
                "claims",
                true,
                "what the documents say was measured, against the committed data",
            ),
            Stage::Patches => ("patches", true, "the patch queues"),
            Stage::Build => ("build", true, "QEMU, two kernels, selftests"),
            Stage::Differential => ("differential", true, "QEMU's walk against the Rust core's"),
            Stage::Qemu => ("qemu", true, "bare-metal programs on QEMU"),
            Stage::Boot => (
                "boot",
                true,
                "every mode on the patched QEMU, radix on the distribution's",
            ),
            Stage::Walk => ("walk", true, "what hardware visits, against pagemap"),
            Stage::Agree => (
                "agree",
                true,
                "core, kernel, QEMU and pagemap on live processes",
            ),
            Stage::Kunit => ("kunit", true, "the kernel's unit tests"),
            Stage::Selftest => (
                "selftest",
                true,
                "selftests: radix compared with the unpatched kernel, modes with radix",
            ),
            Stage::Stress => (
                "stress",
                false,
                "everything at once for a minute a mode; page tables are given back",
            ),
            Stage::Fuzz => (
                "fuzz",
                false,
                "random calls against a model of memory, for a minute a mode and on the unpatched kernel",
            ),
            Stage::Tlbsan => (
                "tlbsan",
                false,
                "the flush sanitizer on kernels with and without mistakes; only with --long, or named",
            ),
            Stage::OptionOff => (
                "option-off",
                false,
                "code with CONFIG_X86_FPT=n against the unpatched tree",
            ),
            Stage::Kcount => ("kcount", false, "kernel instructions against their limits"),
            Stage::Bench => (
                "bench",
                false,
                "every workload at scale tiny in every mode under the simulator, and their report",
            ),
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    pub(super) fn is_quick(self) -> bool {
        self.row().1
    }

    /// Kernels of its own take CI longer to build than it has.
    pub(super) fn is_long(self) -> bool {
        self == Stage::Tlbsan
    }

    pub(super) fn what(self) -> &'static str {
        self.row().2
    }

    pub(super) fn parse(word: &str) -> Result<Stage> {
        let named = Stage::all().iter().find(|s| s.name() == word);
        named.copied().ok_or_else(|| {
            let names = Stage::all().iter().map(|s| s.name());
            let hint = match fail::did_you_mean(word, names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "`cargo xtask test --list` shows them".to_string(),
            };
            Fail::usage(format!("unknown stage '{word}'"), "", hint)
        })
    }
}
