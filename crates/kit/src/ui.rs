// SPDX-License-Identifier: MIT OR Apache-2.0
//! Progress that a person can follow: stages with elapsed time and a rolling window of
//! the newest output on a terminal, plain lines elsewhere. Everything goes to stderr, so
//! that stdout holds only what was asked for.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use console::{style, Term};

use super::{Cmd, Program};

/// A result on standard output. A reader that has gone (`| head`) is no error of ours.
#[macro_export]
macro_rules! say {
    ($end:literal, $($text:tt)*) => {{
        use std::io::Write as _;
        if !$crate::ui::is_json() {
            let _ = write!(std::io::stdout(), "{}{}", format_args!($($text)*), $end);
        }
    }};
}

/// Lines of a failed stage that are shown.
pub const TAIL: usize = 40;
/// Lines of the rolling window.
const WINDOW: usize = 8;
/// A piped stage says that it is alive this often.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Standard output belongs to one JSON value.
static JSON: AtomicBool = AtomicBool::new(false);

/// Makes results JSON from here on.
pub fn be_json() {
    JSON.store(true, Ordering::SeqCst);
}

/// Whether results go out as JSON.
pub fn is_json() -> bool {
    JSON.load(Ordering::SeqCst)
}

/// The result of a command whose result is a path.
pub fn path(path: &Path) {
    let text = if is_json() {
        serde_json::json!({ "path": path.display().to_string() }).to_string()
    } else {
        path.display().to_string()
    };
    json_or_text(&text);
}

/// A line of standard output that is there in either form.
pub fn json_or_text(line: &str) {
    // A closed pipe (`| head`) is no error of ours.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The terminal, shared by all who write to it.
#[derive(Clone, Debug)]
pub struct Ui {
    inner: Arc<Mutex<Screen>>,
}

#[derive(Debug)]
struct Screen {
    term: Term,
    tty: bool,
    quiet: bool,
    /// Lines of the window now on the screen, below which the cursor stands.
    drawn: usize,
    open: Vec<OpenStage>,
    next_id: u64,
}

#[derive(Debug)]
struct OpenStage {
    id: u64,
    title: String,
    start: Instant,
    last_beat: Instant,
    last_draw: Option<Instant>,
    lines: VecDeque<String>,
}

impl Ui {
    /// The terminal as the environment describes it.
    pub fn from_env() -> Ui {
        let term = Term::stderr();
        let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
        let plain = Program::this().plain;
        let plain = !plain.is_empty() && std::env::var_os(plain).is_some();
        let tty = term.is_term() && !dumb && !plain;
        Ui::with(term, tty, false)
    }

    /// From here on only warnings and errors are said.
    pub fn be_quiet(&self) {
        self.screen().quiet = true;
    }

    /// Says nothing; for tests and for callers that want only the result.
    pub fn quiet() -> Ui {
        Ui::with(Term::stderr(), false, true)
    }

    fn with(term: Term, tty: bool, quiet: bool) -> Ui {
        Ui {
            inner: Arc::new(Mutex::new(Screen {
                term,
                tty,
                quiet,
                drawn: 0,
                open: Vec::new(),
                next_id: 0,
            })),
        }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A line for the person.
    pub fn info(&self, text: &str) {
        self.screen().print(text);
    }

    /// Shows a warning: something odd that does not stop the command.
    pub fn warn(&self, text: &str) {
        let mark = style("warning:").for_stderr().yellow().to_string();
        self.screen().print_always(&format!("{mark} {text}"));
    }

    /// Shows an error.
    pub fn error(&self, text: &str) {
        let mark = style("error:").for_stderr().red().bold().to_string();
        self.screen().print_always(&format!("{mark} {text}"));
    }

    /// A command of a dry run: shell-quoted, on stdout.
    pub fn command(&self, cmd: &Cmd) {
        // A closed pipe (`| head`) is no error of ours.
        let _ = writeln!(std::io::stdout(), "{}", cmd.quoted());
    }

    /// Open a stage. Ended by [`Stage::done`]; dropped without it, it has failed.
    pub fn stage(&self, title: &str) -> Stage {
        let mut screen = self.screen();
        let id = screen.next_id;
        screen.next_id += 1;
        let now = Instant::now();
        if !screen.tty {
            screen.print(&format!("==> {title}"));
        }
        screen.open.push(OpenStage {
            id,
            title: title.to_string(),
            start: now,
            last_beat: now,
            last_draw: None,
            lines: VecDeque::new(),
        });
        screen.redraw();
        Stage {
            ui: self.clone(),
            id,
            open: true,
        }
    }
}

/// One step of the work.
#[derive(Debug)]
pub struct Stage {
    ui: Ui,
    id: u64,
    open: bool,
}

impl Stage {
    /// One line of output of the step: shown in the window, kept for a failure.
    pub fn line(&self, text: &str) {
        let mut screen = self.ui.screen();
        let (tty, quiet) = (screen.tty, screen.quiet);
        let mut beat = None;
        let mut draw = false;
        if let Some(stage) = screen.stage(self.id) {
            let now = Instant::now();
            stage
                .lines
                .push_back(console::strip_ansi_codes(text).into_owned());
            if stage.lines.len() > TAIL {
                stage.lines.pop_front();
            }
            if tty {
                // A fast build prints more lines than an eye or a terminal can follow.
                draw = stage
                    .last_draw
                    .is_none_or(|t| now - t > Duration::from_millis(60));
                if draw {
                    stage.last_draw = Some(now);
                }
            } else if !quiet && now - stage.last_beat >= HEARTBEAT {
                stage.last_beat = now;
                beat = Some(format!(
                    "    {} ... {}: {}",
                    stage.title,
                    elapsed(stage.start.elapsed()),
                    text.trim()
                ));
            }
        }
        if draw {
            screen.redraw();
        }
        if let Some(beat) = beat {
            screen.print(&beat);
        }
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        self.ui.screen().print(&format!("    {text}"));
    }

    /// The step succeeded; `how` is a short remark such as "up to date".
    pub fn done(mut self, how: &str) {
        self.close(true, how);
    }

    /// The step failed: the newest lines are shown. The error itself is reported by the caller.
    pub fn failed(mut self, how: &str) {
        self.close(false, how);
    }

    /// The time since it began.
    pub fn elapsed(&self) -> Duration {
        self.ui
            .screen()
            .stage(self.id)
            .map_or(Duration::ZERO, |s| s.start.elapsed())
    }

    fn close(&mut self, ok: bool, how: &str) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let mut screen = self.ui.screen();
        let Some(at) = screen.open.iter().position(|s| s.id == self.id) else {
            return;
        };
        let stage = screen.open.remove(at);
        screen.erase();
        let mark = if ok {
            style("ok").for_stderr().green().to_string()
        } else {
            style("FAILED").for_stderr().red().bold().to_string()
        };
        let remark = if how.is_empty() {
            String::new()
        } else {
            format!(", {how}")
        };
        if !ok {
            for line in &stage.lines {
                screen.print_always(&format!("    | {line}"));
            }
        }
        screen.print(&format!(
            "{mark}  {} ({}{remark})",
            stage.title,
            elapsed(stage.start.elapsed())
        ));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.close(false, "");
    }
}

impl Screen {
    fn stage(&mut self, id: u64) -> Option<&mut OpenStage> {
        self.open.iter_mut().find(|s| s.id == id)
    }

    fn print(&mut self, text: &str) {
        if !self.quiet {
            self.print_always(text);
        }
    }

    fn print_always(&mut self, text: &str) {
        self.erase();
        // Nothing sensible can be done about a broken stderr.
        let _ = self.term.write_line(text);
        self.redraw();
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            let _ = self.term.clear_last_lines(self.drawn);
            self.drawn = 0;
        }
    }

    fn redraw(&mut self) {
        if !self.tty || self.quiet {
            return;
        }
        self.erase();
        let width = usize::from(self.term.size().1).saturating_sub(1).max(20);
        let mut rows = Vec::new();
        for stage in &self.open {
            rows.push(format!(
                "{} {} ({})",
                style("=>").for_stderr().cyan(),
                console::truncate_str(&stage.title, width.saturating_sub(20), "..."),
                elapsed(stage.start.elapsed())
            ));
        }
        if let Some(stage) = self.open.last() {
            let skip = stage.lines.len().saturating_sub(WINDOW);
            for line in stage.lines.iter().skip(skip) {
                let clean: String = line.chars().filter(|c| !c.is_control()).collect();
                let cut =
                    console::truncate_str(&clean, width.saturating_sub(4), "...").into_owned();
                rows.push(format!("    {}", style(cut).for_stderr().dim()));
            }
        }
        for row in &rows {
            let _ = self.term.write_line(row);
        }
        self.drawn = rows.len();
    }
}

/// `4.2s`, `3m07s`, `1h02m`.
pub fn elapsed(d: Duration) -> String {
    let s = d.as_secs();
    if s < 60 {
        format!("{:.1}s", d.as_secs_f64())
    } else if s < 3600 {
        format!("{}m{:02}s", s / 60, s % 60)
    } else {
        format!("{}h{:02}m", s / 3600, s % 3600 / 60)
    }
}
