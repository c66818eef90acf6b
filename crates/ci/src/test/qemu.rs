// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stages about QEMU alone: its walk against the core's, and programs without a kernel.

use std::path::Path;
use std::time::Instant;

use fpt_kbuild::sources::{self, Project};
use fpt_kbuild::{build, patch};
use fpt_kit::{proc, store, Cmd, Result};
use fpt_lab::{parts, sanitize};
use fpt_verdict::results::{Case, Outcome};
use fpt_vm::qemu::Program;

use super::Tests;

pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Translations of the differential test.
pub(super) const TRANSLATIONS: u32 = 120_000;

impl Tests<'_> {
    pub(super) fn differential(&mut self) -> Result<Vec<Case>> {
        let target = build::cargo(
            self.ctx,
            "build the differential test",
            &["build", "--release", "-p", "fpt-host", "--bin", "fpt-diff"],
            &[],
        )?;
        let qemu = parts::qemu(self.ctx, false)?;
        let mut cmd = Cmd::new(target.join("release/fpt-diff"))
            .arg("--qemu")
            .arg(&qemu.bin)
            .args(["--count", &TRANSLATIONS.to_string()]);
        if let Some(dir) = &qemu.datadir {
            cmd = cmd.arg("-L").arg(dir);
        }
        self.program(
            "differential",
            &format!("{TRANSLATIONS} random translations"),
            &cmd,
            |out| {
                let compared = out
                    .split_whitespace()
                    .next()
                    .and_then(|w| w.parse::<u64>().ok())
                    .unwrap_or(0);
                if compared >= u64::from(TRANSLATIONS) && out.contains("all equal") {
                    return Ok(());
                }
                Err(format!("it compared {compared}"))
            },
        )
        .map(|case| vec![case])
    }

    /// Runs a program of the host; its exit code and what `judge` says of its output decide.
    fn program(
        &self,
        suite: &str,
        name: &str,
        cmd: &Cmd,
        judge: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Case> {
        let start = Instant::now();
        let stage = self.ctx.ui.stage(name);
        let out = cmd.output()?;
        let all = format!("$ {}\n{}{}", cmd.quoted(), out.stdout, out.stderr);
        let mut lines = out.stdout.lines();
        let first = lines.next().unwrap_or("");
        let said = lines.find(|l| l.starts_with("PASS: ")).unwrap_or(first);
        let log = format!("{suite}.log");
        self.run.append(&log, &all)?;
        let ms = start.elapsed().as_millis() as u64;
        let verdict = if out.status.success() {
            judge(&out.stdout)
        } else {
            Err(proc::describe(out.status))
        };
        Ok(match verdict {
            Ok(()) => {
                stage.done(said);
                Case::new(suite, name, Outcome::Passed, said, ms)
            }
            Err(why) => {
                stage.failed(&why);
                Case::failed(suite, name, format!("{why}\n{}", tail(&all)), ms)
            }
        })
    }

    /// QEMU's bare-metal programs, built from the patched tree: they need a C compiler and nothing else.
    pub(super) fn bare_metal(&mut self) -> Result<Vec<Case>> {
        let qemu = parts::qemu(self.ctx, false)?;
        let source = sources::ensure(self.ctx, Project::Qemu)?;
        let lock = patch::tree_lock(self.ctx, Project::Qemu, &source)?;
        let tree = patch::apply(self.ctx, Project::Qemu, &source)?.dir;
        let tcg = tree.join("tests/tcg");
        let system = tcg.join("x86_64/system");
        let out = self.run.path.join("bare-metal");
        store::make_dir(&out)?;
        let cc = |more: &[&str]| {
            Cmd::new("cc")
                .args([
                    "-nostdlib",
                    "-ggdb",
                    "-O0",
                    "-mno-red-zone",
                    "-mgeneral-regs-only",
                    "-m64",
                    "-mcx16",
                ])
                .args([
                    "-ffreestanding",
                    "-fno-stack-protector",
                    "-fno-pie",
                    "-isystem",
                ])
                .arg(tcg.join("minilib"))
                .args(more)
                .cwd(&out)
        };
        cc(&["-Wa,--noexecstack", "-c", "-o", "boot.o"])
            .arg(system.join("boot.S"))
            .read()?;
        cc(&["-c", "-o", "printf.o"])
            .arg(tcg.join("minilib/printf.c"))
            .read()?;
        for (name, source, define) in [
            ("fpt", "fpt.c", "-DFPT_TEST"),
            ("fpt-off", "fpt.c", "-DEXPECT_FPT=0"),
            ("fpt-hold", "fpt.c", "-DHOLD"),
            ("tlbsan", "tlbsan.c", "-DPSC_TCE=0"),
            ("tlbsan-tce", "tlbsan.c", "-DPSC_TCE=1"),
        ] {
            cc(&[define, "-o", name])
                .arg(system.join(source))
                .arg(format!("-Wl,-T{}", system.join("kernel.ld").display()))
                .args([
                    "-Wl,-melf_x86_64",
                    "-static",
                    "-no-pie",
                    "boot.o",
                    "printf.o",
                    "-lgcc",
                ])
                .read()?;
        }
        drop(lock);
        let run = |cpu: &str, smp: &str, name: &str| {
            let mut cmd = Cmd::new(&qemu.bin);
            if let Some(dir) = &qemu.datadir {
                cmd = cmd.arg("-L").arg(dir);
            }
            cmd.args([
                "-M",
                "q35",
                "-nodefaults",
                "-display",
                "none",
                "-vga",
                "none",
                "-no-reboot",
                "-accel",
                "tcg,thread=multi",
            ])
            .args([
                "-chardev",
                "stdio,id=output",
                "-device",
                "isa-debugcon,chardev=output",
            ])
            .args([
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=0x4",
                "-cpu",
                cpu,
                "-smp",
                smp,
                "-kernel",
            ])
            .arg(out.join(name))
        };
        // A triple fault ends QEMU with 0, too: only the line counts.
        let judge = |text: &str| match text
            .lines()
            .find(|l| l.starts_with("PASS: ") && l.ends_with(" 0 failed"))
        {
            Some(_) => Ok(()),
            None => Err("no line 'PASS: N checks, 0 failed'".to_string()),
        };
        let monitor = {
            let mut cmd = Cmd::new(system.join("fpt-monitor.py")).arg(&qemu.bin);
            if let Some(dir) = &qemu.datadir {
                cmd = cmd.arg("-L").arg(dir);
            }
            cmd.arg(out.join("fpt-hold")).cwd(&out)
        };
        Ok(vec![
            self.program(
                "qemu",
                "walks, faults and control registers, two CPUs",
                &run("max,fpt=on", "2", "fpt"),
                judge,
            )?,
            self.program(
                "qemu",
                "nothing changes with the feature off",
                &run("max", "1", "fpt-off"),
                judge,
            )?,
            self.program("qemu", "monitor, memory dump, migration", &monitor, judge)?,
            self.sanitizer_cases(&qemu, &out, ("tlbsan", "psc=intel"))?,
            self.sanitizer_cases(&qemu, &out, ("tlbsan-tce", "psc=tce"))?,
        ])
    }

    /// Page tables that change under two CPUs: the flush sanitizer must find what the program says.
    fn sanitizer_cases(
        &self,
        qemu: &Program,
        dir: &Path,
        (name, psc): (&str, &str),
    ) -> Result<Case> {
        let plugin = sanitize::plugin(self.ctx)?;
        let result = dir.join(format!("{name}.json"));
        let cmd = sanitize::cases_command(qemu, &plugin, (&dir.join(name), psc), &result);
        self.program(
            "qemu",
            &format!("what the flush sanitizer finds, {psc}"),
            &cmd,
            |said| sanitize::judge_cases(said, &result),
        )
    }
}
