// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask tlbsan flushes`: which flushes of a program ended nothing, and so are ones that no hardware could
//! have needed; by the calls that led to them, in each mode.

use std::path::{Path, PathBuf};

use fpt_geometry::Boot;
use fpt_init::proto::Exec;
use fpt_kbuild::build::Profile;
use fpt_kbuild::modes;
use fpt_kit::{code, say, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::sanitize::{self, Asked, Outcome, Sanitize};
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::{self, Share, Spec};
use fpt_vm::vm::Guest;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', required = true, value_parser = modes::BootParser)]
    mode: Vec<Boot>,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Tlbsan)]
    profile: Profile,
    /// Virtual CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    smp: u32,
    /// Memory of the guest
    #[arg(long, default_value = "2G")]
    mem: String,
    /// Print so many stacks of each mode; all of them are in the run folder
    #[arg(long, default_value_t = 12)]
    top: usize,
    /// What to run, in the guest; this folder is /host there
    #[arg(last = true, value_name = "CMD", required = true)]
    command: Vec<String>,
}

pub fn main(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    for mode in &args.mode {
        args.profile.check_mode(*mode)?;
    }
    qemu::check_size(&args.mem)?;
    let sanitize = Sanitize::with_askers();
    sanitize.check(&args.mem, false)?;
    let parts = Parts {
        kernel: parts::kernel(ctx, args.profile)?,
        qemu: parts::qemu(ctx, false)?,
        image: parts::image(ctx, |_| Ok(()))?,
    };
    let plugin = sanitize::plugin(ctx)?;
    let dir = std::env::current_dir()?;
    if ctx.dry_run {
        for mode in &args.mode {
            let spec = spec(&parts, args, *mode, &dir);
            ctx.ui
                .command(&spec.command(&parts.qemu, &std::env::temp_dir().join("fpt")));
        }
        return Ok(code::OK);
    }
    let run = RunDir::new(ctx, "flushes")?;
    parts.record(&run);
    rundir::recorded(&run, || {
        let mut end = code::OK;
        for mode in &args.mode {
            let mut spec = spec(&parts, args, *mode, &dir);
            let out = run.path.join(format!("tlbsan-{mode}.json"));
            sanitize.attach(&plugin, &out, &parts.qemu, &mut spec);
            one(ctx, &run, &parts, &spec, args)?;
            let outcome = Outcome::read(&out)?;
            if let Some(why) = outcome.broken_linux() {
                return Err(judged_nothing(why, out));
            }
            let asked = outcome.asked.as_ref();
            let asked = asked.ok_or_else(|| judged_nothing("it kept no stacks", out))?;
            run.append("flushes.txt", &table(*mode, asked, usize::MAX))?;
            say!("\n", "{}", table(*mode, asked, args.top));
            if outcome.errors > 0 {
                run.append("tlbsan.txt", &outcome.text())?;
                ctx.ui
                    .warn(&outcome.text().lines().take(1).collect::<String>());
                end = code::TEST_FAILED;
            }
        }
        Ok(end)
    })
}

fn judged_nothing(why: &str, out: PathBuf) -> anyhow::Error {
    let see = format!("see {}", out.display());
    Fail::infra("the sanitizer judged nothing", why, see)
}

fn spec(parts: &Parts, args: &Args, mode: Boot, dir: &Path) -> Spec {
    Spec {
        mode: Some(mode),
        smp: args.smp,
        mem: args.mem.clone(),
        share: Some(Share {
            dir: dir.to_path_buf(),
            writable: false,
            more: Vec::new(),
        }),
        ..Spec::new(&parts.kernel.vmlinux, &parts.image.path)
    }
}

fn one(ctx: &Ctx, run: &RunDir, parts: &Parts, spec: &Spec, args: &Args) -> Result<()> {
    let label = spec.mode.map(|m| m.to_string()).unwrap_or_default();
    let mut guest = Guest::start(ctx, run, &parts.qemu, spec, &label)?;
    guest.wait_ready(None)?;
    let (exit, text) = guest.run(Exec {
        argv: args.command.clone(),
        timeout_s: 3600,
        ..Exec::default()
    })?;
    run.append(&format!("{label}.log"), &text)?;
    guest.quit()?;
    match exit.status() {
        0 => Ok(()),
        status => Err(Fail::test(
            format!("{} ended with {status} in {label}", args.command.join(" ")),
            text,
            format!("see {}", run.path.display()),
        )),
    }
}

/// The flushes of a mode, those first that ended nothing most often.
fn table(mode: Boot, asked: &Asked, top: usize) -> String {
    let mut text = format!(
        "{mode}\n{:>10}{:>10}{:>10}{:>10}  what, and who asked\n",
        "flushes", "in vain", "pages", "tables"
    );
    let number = |n: u64| format!("{n:>10}");
    for what in ["INVLPG", "CR3 again", "CR4", "another CR3"] {
        let of = asked.rows.iter().filter(|r| r.what == what);
        let sum = of.fold([0; 4], |s, r| {
            [
                s[0] + r.count,
                s[1] + r.idle,
                s[2] + r.leaves,
                s[3] + r.tables,
            ]
        });
        text.push_str(&format!("{}  {what}, all\n", sum.map(number).concat()));
    }
    // A switch to another address space cannot be left out.
    let rows = asked.rows.iter().filter(|r| r.what != "another CR3");
    for r in rows.take(top) {
        let numbers = [r.count, r.idle, r.leaves, r.tables].map(number).concat();
        let there = if r.remote { ", on another CPU" } else { "" };
        text.push_str(&format!(
            "{numbers}  {}{there}: {}\n",
            r.what,
            r.stack.join(" < ")
        ));
    }
    if asked.lost > 0 {
        text.push_str(&format!(
            "{}  of stacks beyond the limit\n",
            number(asked.lost)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    #[test]
    fn tables() {
        let asked: Asked = serde_json::from_str(
            r#"{"lost":2,"rows":[
                {"what":"another CR3","remote":false,"stack":["s"],"count":90,"idle":80,"leaves":1,"tables":0},
                {"what":"INVLPG","remote":true,"stack":["f","g"],"count":9,"idle":7,"leaves":3,"tables":1},
                {"what":"INVLPG","remote":false,"stack":["h"],"count":4,"idle":1,"leaves":5,"tables":0}]}"#,
        )
        .unwrap();
        let text = table(Mode::L3L2.into(), &asked, 1);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "l3l2");
        assert_eq!(
            lines[2],
            "        13         8         8         1  INVLPG, all"
        );
        assert_eq!(
            lines[6],
            "         9         7         3         1  INVLPG, on another CPU: f < g"
        );
        assert_eq!(lines[7], "         2  of stacks beyond the limit");
        assert_eq!(lines.len(), 8);
    }
}
