// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every subcommand shares: context, errors with exit codes, progress,
//! child processes, locks and cached artefacts.

pub mod fail;
pub mod hash;
pub mod lanes;
pub mod proc;
pub mod program;
pub mod store;
pub mod ui;
pub mod work;

use std::path::{Path, PathBuf};

pub use fail::{code, did_you_mean, ExitCode, Fail};
pub use proc::{Cmd, Job};
pub use program::Program;
pub use ui::{Stage, Ui};
pub use work::Work;

/// A result whose error is for people to read.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// What the mutex holds, also if a thread that held it panicked.
pub fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// One invocation of the tool.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The checkout.
    pub root: PathBuf,
    /// The user's cache folder for this project, shared by all checkouts.
    pub cache: PathBuf,
    /// Print commands instead of running them.
    pub dry_run: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Parallel jobs of make, ninja and cargo.
    pub jobs: usize,
    /// Guests at a time, if somebody said a number.
    pub guests: Option<usize>,
    /// The terminal.
    pub ui: Ui,
}

impl Ctx {
    /// A context for the checkout at `root` with everything else from the environment.
    pub fn new(root: &Path, cache: PathBuf) -> Ctx {
        Ctx {
            root: root.to_path_buf(),
            cache,
            dry_run: false,
            verbose: 0,
            jobs: std::thread::available_parallelism().map_or(1, |n| n.get()),
            guests: None,
            ui: Ui::from_env(),
        }
    }

    /// Guests at a time, where the command's own number is `usual`.
    pub fn guests_or(&self, usual: usize) -> usize {
        self.guests.unwrap_or(usual)
    }

    /// The folder for long output of build steps.
    pub fn log_dir(&self) -> PathBuf {
        self.cache.join("logs")
    }

    /// Run a command under a progress stage, output to `log`; with `--dry-run` only print it.
    pub fn step(&self, stage: &Stage, log: &Path, cmd: &Cmd) -> Result<()> {
        if self.dry_run {
            self.ui.command(cmd);
            return Ok(());
        }
        if self.verbose > 0 {
            stage.note(&format!("$ {}", cmd.quoted()));
        }
        cmd.run_logged(stage, log)
    }

    /// Run a quick command and return its standard output; runs under `--dry-run` too,
    /// so only for commands that change nothing.
    pub fn read(&self, cmd: &Cmd) -> Result<String> {
        if self.verbose > 1 {
            self.ui.info(&format!("$ {}", cmd.quoted()));
        }
        cmd.read()
    }
}

/// Where the commands of one piece of work show themselves: its stage and its log.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    /// What every command has.
    pub ctx: &'a Ctx,
    /// Where progress is shown.
    pub stage: &'a Stage,
    /// The file that takes the output of commands.
    pub log: &'a Path,
}

impl Steps<'_> {
    /// See [`Ctx::step`].
    pub fn run(&self, cmd: &Cmd) -> Result<()> {
        self.ctx.step(self.stage, self.log, cmd)
    }
}
