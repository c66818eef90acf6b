// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

pub mod examples;
pub mod manual;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::defaults::{self, Defaults};
use fpt_checks::{agree, fuzz, kcount, selftest, stress, tlbsan, walk};
use fpt_ci::{claims, docs, lint, test};
use fpt_kbuild::build::Targets;
use fpt_kbuild::{build, clean, doctor, editor, image, patch, sources};
use fpt_kit::{code, fail, proc, ui, Cmd, Ctx, ExitCode, Fail, Program, Result};
use fpt_lab::{gdb, ready, run};
use fpt_report::sweep;

/// The end of the help.
fn after_help() -> String {
    let codes: String = ExitCode::OURS
        .iter()
        .map(|c| format!("  {:<5}{}\n", c.number(), c.about()))
        .collect();
    format!(
        "Exit codes:\n{codes}  `run -- CMD` and `sim -- PROG` pass the exit code of the program on.\n\n\
         Modes: radix (conventional tables), l4l3, l3l2, l4l3-l2l1. `run`, `sim`, `bench`,\n\
         `selftest`, `stress` and `fuzz` take mixed, too: nodes of every kind.\n\n\
         `cargo xtask`, `./fpt` in a checkout and an installed `fpt` are the same program.\n\
         Defaults come from fpt.toml in the checkout, then from fpt-linux/fpt.toml in\n\
         $XDG_CONFIG_HOME (~/.config); an option comes before both.\n\
         Long output goes to log files in the cache folder ($FPT_CACHE, else\n\
         $XDG_CACHE_HOME/fpt-linux, else ~/.cache/fpt-linux)."
    )
}

/// The version with its commit: of the build, else that of the checkout it was built in.
fn version() -> String {
    let commit = match env!("FPT_COMMIT") {
        "" => Cmd::new("git")
            .args([
                "-C",
                env!("CARGO_MANIFEST_DIR"),
                "rev-parse",
                "--short=12",
                "HEAD",
            ])
            .read()
            .map_or("unknown".into(), |text| text.trim().to_string()),
        commit => commit.to_string(),
    };
    format!("{} (commit {commit})", env!("CARGO_PKG_VERSION"))
}

#[derive(Parser, Debug)]
#[command(
    name = "fpt",
    bin_name = "fpt",
    about = "Builds, runs and tests FPT-Linux",
    version,
    after_help = after_help(),
    propagate_version = true
)]
struct Cli {
    /// The checkout [default: FPT_ROOT, the one around the current folder, or `root` of the user's fpt.toml]
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    root: Option<PathBuf>,
    /// Print the commands, shell-quoted, instead of running them
    #[arg(long, global = true, help_heading = GLOBAL)]
    dry_run: bool,
    /// Say more (twice: also the small commands)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    verbose: u8,
    /// Say nothing but results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    quiet: bool,
    /// Print the result as JSON, and nothing else, to standard output
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Parallel jobs of make, ninja and cargo [default: number of CPUs]
    #[arg(short, long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = GLOBAL)]
    jobs: Option<u16>,
    /// Guests at a time, where a command boots several [default: 2]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), help_heading = GLOBAL)]
    guests: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

/// The options that every command has come after its own.
const GLOBAL: &str = "Options of every command";

// The help of a command with options of its own stands at the type of these.
#[derive(Subcommand, Debug)]
enum Command {
    Doctor(doctor::DoctorArgs),
    Setup(doctor::SetupArgs),
    Fetch(sources::Args),
    Patch(patch::Args),
    BuildQemu(build::QemuArgs),
    BuildKernel(build::KernelArgs),
    /// Build the selftests of the kernel's tree and ours
    BuildSelftests,
    /// Make a disk image with Debian packages for guests, and print its path
    BuildImage {
        /// Debian packages
        #[arg(required = true, value_name = "PACKAGE")]
        packages: Vec<String>,
    },
    Run(run::Args),
    Walk(walk::Args),
    Agree(agree::Args),
    Selftest(selftest::Args),
    Stress(stress::Args),
    Fuzz(fuzz::Args),
    Tlbsan(tlbsan::Args),
    Test(test::Args),
    Gdb(gdb::Args),
    Kcount(kcount::Args),
    Bench(fpt_bench::Args),
    Sim(fpt_sim::Args),
    Report(fpt_report::Args),
    Claims(claims::Args),
    Sweep(sweep::Args),
    Docs(docs::Args),
    Clean(clean::Args),
    /// Write rust-project.json and compile_commands.json for the patched kernel
    Editor,
    /// Print the completions of a shell
    Completions {
        shell: clap_complete::Shell,
    },
    /// Write the manual, one page for each command
    Man(manual::Args),
}

impl Command {
    /// Whether it has a result that can be JSON; the others say their result as text or write files.
    fn has_json(&self) -> bool {
        match self {
            Command::Doctor(_)
            | Command::BuildQemu(_)
            | Command::BuildKernel(_)
            | Command::BuildSelftests
            | Command::BuildImage { .. }
            | Command::Walk(_)
            | Command::Agree(_)
            | Command::Selftest(_)
            | Command::Stress(_)
            | Command::Fuzz(_)
            | Command::Test(_)
            | Command::Kcount(_)
            | Command::Bench(_)
            | Command::Sim(_)
            | Command::Docs(_)
            | Command::Report(_) => true,
            Command::Setup(_)
            | Command::Fetch(_)
            | Command::Patch(_)
            | Command::Run(_)
            | Command::Gdb(_)
            | Command::Claims(_)
            | Command::Sweep(_)
            | Command::Clean(_)
            | Command::Editor
            | Command::Completions { .. }
            | Command::Tlbsan(_)
            | Command::Man(_) => false,
        }
    }
}

/// The whole command line, with examples and defaults.
pub fn command(defaults: &Defaults) -> clap::Command {
    Cli::command().mut_subcommands(|sub| {
        let name = sub.get_name().to_string();
        let guest = ["run", "gdb"].contains(&name.as_str());
        let mut sub = sub;
        if let Some(text) = examples::of(&name) {
            sub = sub.after_help(text);
        }
        sub.mut_args(|arg| {
            let id = arg.get_id().as_str().to_string();
            match (id.as_str(), defaults.mode, &defaults.mem, defaults.smp) {
                // `run` needs none with --process-mode.
                ("mode", Some(mode), _, _) if arg.is_required_set() || name == "run" => arg
                    .required(false)
                    .required_unless_present(clap::builder::Resettable::Reset)
                    .default_value(mode.name()),
                ("mem", _, Some(mem), _) if guest => arg.default_value(mem.clone()),
                ("smp", _, _, Some(smp)) if guest => arg.default_value(smp.to_string()),
                _ => arg,
            }
        })
    })
}

/// Whether the tool takes these words, which are those after its name.
pub fn parse(words: &[String]) -> Result<(), clap::Error> {
    let name = std::iter::once("fpt".to_string());
    let all = name.chain(words.iter().cloned());
    command(&Defaults::default())
        .try_get_matches_from(all)
        .map(drop)
}

/// Parse, run, report; the process's exit code.
pub fn main() -> i32 {
    Program {
        install: "run `cargo xtask doctor`",
        free_space: "free some space (`cargo xtask clean` empties this project's cache) and run the same command again",
        plain: "FPT_PLAIN",
    }
    .introduce();
    match parsed().and_then(|(cli, user)| run(cli, &user)) {
        Ok(code) => code.number(),
        Err(err) => {
            let (line, code) = fail::report(&err);
            ui::Ui::from_env().error(&own_name(line));
            code.number()
        }
    }
}

/// An installed program is not called through cargo, and neither are the commands that it recommends.
fn own_name(line: String) -> String {
    match std::env::var_os("CARGO") {
        Some(_) => line,
        None => line.replace("`cargo xtask ", "`fpt "),
    }
}

/// The command line, with the defaults of the files that were found.
fn parsed() -> Result<(Cli, Defaults)> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let user = Defaults::of_user()?;
    let root = find_root(root_option(&words).as_deref(), &user);
    let all = match &root {
        Ok(root) => Defaults::of_checkout(root, &user)?,
        // It may be a command that needs none.
        Err(_) => user,
    };
    let mut command = command(&all);
    if words
        .iter()
        .take_while(|w| *w != "--")
        .any(|w| w == "--version" || w == "-V")
    {
        command = command.version(version());
    }
    let matches = match command.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(err) => refuse(&err),
    };
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => Ok((cli, all)),
        Err(err) => err.exit(),
    }
}

/// Says what is wrong with the command line, and ends; a mode that lacks gets the list of all.
fn refuse(err: &clap::Error) -> ! {
    // To a closed pipe nothing is said.
    let _ = err.print();
    let text = err.to_string();
    if err.kind() == clap::error::ErrorKind::MissingRequiredArgument && text.contains("--mode <") {
        let names = fpt_geometry::Mode::ALL.map(fpt_geometry::Mode::name);
        eprintln!("\nModes: {}.", names.join(", "));
    }
    std::process::exit(err.exit_code());
}

/// `--root` before everything is parsed: the defaults of the checkout are needed for that.
fn root_option(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter().take_while(|w| *w != "--");
    while let Some(word) = words.next() {
        if word == "--root" {
            return words.next().map(PathBuf::from);
        }
        if let Some(dir) = word.to_str().and_then(|w| w.strip_prefix("--root=")) {
            return Some(PathBuf::from(dir));
        }
    }
    None
}

fn run(cli: Cli, all: &Defaults) -> Result<ExitCode> {
    proc::handle_signals()?;
    // These say something about the program and nothing about a checkout.
    match cli.command {
        Command::Completions { shell } => return manual::completions(shell),
        Command::Man(args) => return manual::main(args, cli.dry_run),
        _ => {}
    }
    if cli.json {
        if !cli.command.has_json() {
            return Err(Fail::usage(
                "this command has no result in JSON",
                "what it prints is text, or another program's",
                "leave --json out",
            ));
        }
        ui::be_json();
    }
    let mut ctx = Ctx::new(&find_root(cli.root.as_deref(), all)?, defaults::cache()?);
    ctx.dry_run = cli.dry_run;
    ctx.verbose = cli.verbose;
    if cli.quiet {
        ctx.ui.be_quiet();
    }
    if let Some(jobs) = cli.jobs.or(all.jobs) {
        ctx.jobs = usize::from(jobs);
    }
    ctx.guests = cli.guests.or(all.guests).map(usize::from);
    match cli.command {
        Command::Doctor(args) => doctor::doctor(&ctx, args),
        Command::Setup(args) => ready::setup(&ctx, args),
        Command::Fetch(args) => sources::main(&ctx, args),
        Command::Patch(args) => patch::main(&ctx, args, BUILDS),
        Command::BuildQemu(args) => build::qemu_main(&ctx, args),
        Command::BuildKernel(args) => build::kernel_main(&ctx, args),
        Command::BuildSelftests => made(&ctx, &build::kselftests(&ctx, &Targets::all())?),
        Command::BuildImage { packages } => made(&ctx, &image::image(&ctx, &packages)?),
        Command::Run(args) => run::main(&ctx, args),
        Command::Walk(args) => walk::main(&ctx, args),
        Command::Agree(args) => agree::main(&ctx, args),
        Command::Selftest(args) => selftest::main(&ctx, args),
        Command::Stress(args) => stress::main(&ctx, args),
        Command::Fuzz(args) => fuzz::main(&ctx, args),
        Command::Tlbsan(args) => tlbsan::main(&ctx, args),
        Command::Test(args) => test::main(&ctx, args, COMMAND_LINE),
        Command::Gdb(args) => gdb::main(&ctx, args),
        Command::Kcount(args) => kcount::main(&ctx, args),
        Command::Bench(args) => fpt_bench::main(&ctx, args, fpt_report::in_short),
        Command::Sim(args) => fpt_sim::main(&ctx, args),
        Command::Report(args) => fpt_report::main(&ctx, args),
        Command::Claims(args) => claims::main(&ctx, args),
        Command::Sweep(args) => sweep::main(&ctx, args),
        Command::Docs(args) => docs::main(&ctx, args),
        Command::Clean(args) => clean::main(&ctx, args),
        Command::Editor => editor::main(&ctx),
        Command::Completions { .. } | Command::Man(_) => Ok(code::OK),
    }
}

/// For the stage `lint`, which holds the docs against it.
/// What `patch check` builds.
const BUILDS: patch::Builds = patch::Builds {
    each: build::each,
    archs: build::archs,
};

const COMMAND_LINE: lint::CommandLine = lint::CommandLine {
    takes: |words| parse(words),
    reference: manual::markdown,
};

/// Says what was built: its path.
fn made(ctx: &Ctx, path: &Path) -> Result<ExitCode> {
    if !ctx.dry_run {
        ui::path(path);
    }
    Ok(code::OK)
}

fn is_root(dir: &Path) -> bool {
    dir.join("xtask/Cargo.toml").is_file()
}

/// The checkout: as told, else where cargo or the person stands, else as the user's file says.
fn find_root(option: Option<&Path>, user: &Defaults) -> Result<PathBuf> {
    let named = |dir: &Path, by: &str| match dir.canonicalize() {
        Ok(full) if full.join("xtask").is_dir() => Ok(full),
        _ => Err(Fail::usage(
            format!("{} is no checkout of FPT-Linux", dir.display()),
            format!("{by} names it"),
            "name the folder of a clone",
        )),
    };
    if let Some(dir) = option {
        return named(dir, "--root");
    }
    if let Some(dir) = std::env::var_os("FPT_ROOT") {
        return named(Path::new(&dir), "FPT_ROOT");
    }
    let here = std::env::current_dir()?;
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let starts = from_cargo.as_deref().into_iter().chain([here.as_path()]);
    for dir in starts.flat_map(Path::ancestors) {
        if is_root(dir) {
            return Ok(dir.to_path_buf());
        }
    }
    if let Some(dir) = &user.root {
        return named(dir, "the user's fpt.toml");
    }
    let file = defaults::user_file().map_or("fpt.toml".into(), |f| f.display().to_string());
    Err(Fail::usage(
        "not in a checkout of FPT-Linux",
        format!("no parent folder of {} is one", here.display()),
        format!("change into one, or name it with --root, FPT_ROOT, or `root` in {file}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_has_two_examples_that_it_takes() {
        for sub in Cli::command().get_subcommands() {
            let name = sub.get_name();
            let of_it = examples::EXAMPLES.iter().find(|(n, _)| *n == name);
            let (_, lines) = of_it.unwrap_or_else(|| panic!("{name} has no examples"));
            assert!(lines.len() >= 2, "{name}");
            for (line, _) in *lines {
                assert!(line.starts_with(&format!("fpt {name}")), "{line}");
            }
        }
        assert_eq!(
            examples::EXAMPLES.len(),
            Cli::command().get_subcommands().count()
        );
    }

    #[test]
    fn every_mode_is_taken_in_the_same_way() {
        let mut seen = 0;
        for sub in Cli::command().get_subcommands() {
            let Some(arg) = sub.get_arguments().find(|a| a.get_long() == Some("mode")) else {
                assert!(!sub.get_arguments().any(|a| a.get_long() == Some("modes")));
                continue;
            };
            seen += 1;
            let name = sub.get_name();
            assert_eq!(arg.get_all_aliases(), Some(vec!["modes"]), "{name}");
            assert_eq!(arg.get_visible_aliases(), Some(vec![]), "{name}");
            assert_eq!(arg.get_value_delimiter(), Some(','), "{name}");
        }
        assert!(seen >= 10, "{seen}");
    }

    #[test]
    fn a_default_mode_is_for_commands_that_need_one() {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        assert!(parse(&words("run -- true")).is_err());
        let with = Defaults {
            mode: Some(fpt_geometry::Mode::L3L2),
            ..Defaults::default()
        };
        for line in ["fpt run -- true", "fpt walk", "fpt gdb"] {
            assert!(
                command(&with).try_get_matches_from(words(line)).is_ok(),
                "{line}"
            );
        }
        assert!(command(&with)
            .try_get_matches_from(words("fpt stress"))
            .is_err());
    }

    #[test]
    fn root_is_found_before_the_rest() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(root_option(&words("fpt --root a run")), Some("a".into()));
        assert_eq!(root_option(&words("fpt run --root=b")), Some("b".into()));
        assert_eq!(root_option(&words("fpt run -- ls --root c")), None);
    }
}
