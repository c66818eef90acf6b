// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder that each run leaves: what was run, what came out, and the line that repeats it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::{json, Map, Value};

use super::results::Report;
use fpt_kit::{locked, proc, store, ui, Ctx, ExitCode, Result};

/// The folder of a run: logs and results. It is complete or says why not.
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
    command: String,
    start: Instant,
    began: String,
    meta: Mutex<Map<String, Value>>,
}

/// The file with a command's result in its run folder; no command writes two of them.
const RESULTS: [&str; 5] = [
    "results.json",
    "walk.json",
    "kcount.json",
    "bench.json",
    "sim.json",
];

impl RunDir {
    /// `target/fpt/runs/<utc>-<command>`; `latest` points at the newest.
    pub fn new(ctx: &Ctx, command: &str) -> Result<RunDir> {
        let base = match std::env::var_os("FPT_RUNS") {
            Some(dir) => PathBuf::from(dir),
            None => ctx.root.join("target/fpt/runs"),
        };
        store::make_dir(&base)?;
        let began = utc(SystemTime::now());
        let mut name = format!("{began}-{command}");
        let mut n = 1;
        let path = loop {
            let path = base.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    n += 1;
                    name = format!("{began}-{command}.{n}");
                }
                Err(e) => {
                    return Err(
                        anyhow::Error::new(e).context(format!("cannot create {}", path.display()))
                    )
                }
            }
        };
        let link = base.join(format!(".latest-{}", std::process::id()));
        // Two runs at once: the rename decides, and a reader always finds a link.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&name, &link)
            .and_then(|()| fs::rename(&link, base.join("latest")))
            .with_context(|| format!("cannot write {}", base.join("latest").display()))?;
        let run = RunDir {
            path,
            command: command.to_string(),
            start: Instant::now(),
            began,
            meta: Mutex::default(),
        };
        run.append("reproduce.txt", &format!("{}\n", reproducer()))?;
        Ok(run)
    }

    /// A folder in this one, for a part whose files have the names of another part's.
    pub fn part(&self, name: &str) -> Result<RunDir> {
        let path = self.path.join(name);
        store::make_dir(&path)?;
        Ok(RunDir {
            path,
            command: self.command.clone(),
            start: Instant::now(),
            began: utc(SystemTime::now()),
            meta: Mutex::default(),
        })
    }

    /// Notes a fact in `run.json`.
    pub fn set(&self, key: &str, value: impl Into<Value>) {
        let mut meta = self.meta.lock().unwrap_or_else(|e| e.into_inner());
        meta.insert(key.to_string(), value.into());
    }

    /// Adds text to a file of the folder.
    pub fn append(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// A new log of this name.
    pub fn log(&self, name: &str) -> Result<Log> {
        Log::create(&self.path.join(name))
    }

    /// TAP, JSON and JUnit of a run with test cases.
    pub fn results(&self, report: &Report) -> Result<()> {
        let write =
            |name: &str, text: String| store::write_atomic(&self.path.join(name), text.as_bytes());
        write("results.tap", report.tap())?;
        write("results.json", report.json()?)?;
        write("junit.xml", report.junit(&self.command))
    }

    /// The run for `--json`: where it is, how it ended, and its result, if it came to one.
    fn json(&self, exit: ExitCode) -> String {
        let result = RESULTS.iter().find_map(|name| {
            let text = fs::read_to_string(self.path.join(name)).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        });
        let error = locked(&self.meta).get("error").cloned();
        json!({
            "schema": 1,
            "command": self.command,
            "exit": exit.number(),
            "error": error,
            "run": self.path.display().to_string(),
            "result": result,
        })
        .to_string()
    }

    /// Writes meta.json; called at every end that this tool reaches.
    pub fn finish(&self, exit: ExitCode) -> Result<()> {
        let mut meta = self.meta.lock().unwrap_or_else(|e| e.into_inner()).clone();
        meta.insert("schema".into(), json!(1));
        meta.insert("command".into(), json!(self.command));
        meta.insert("began_utc".into(), json!(self.began));
        meta.insert(
            "seconds".into(),
            json!((self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0),
        );
        meta.insert("exit".into(), json!(exit.number()));
        meta.insert("reproduce".into(), json!(reproducer()));
        meta.insert("host".into(), json!(host()));
        let text = serde_json::to_string_pretty(&Value::Object(meta))
            .context("cannot encode meta.json")?;
        store::write_atomic(&self.path.join("meta.json"), format!("{text}\n").as_bytes())
    }
}

/// Runs `body` and leaves meta.json with its exit code, also when it fails.
pub fn recorded(run: &RunDir, body: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    let result = body();
    let code = match &result {
        Ok(code) => *code,
        Err(err) => {
            let (line, code) = fpt_kit::fail::report(err);
            run.set("error", line);
            code
        }
    };
    if ui::is_json() {
        ui::json_or_text(&run.json(code));
    }
    match run.finish(code) {
        // The first error is the one to tell.
        Err(_) if result.is_err() => result,
        Err(err) => Err(err),
        Ok(()) => result,
    }
}

/// The command line of this process, as a line to type again.
pub fn reproducer() -> String {
    let args = std::env::args_os().skip(1);
    let words: Vec<String> = args.map(|a| proc::quote(&a)).collect();
    format!("cargo xtask {}", words.join(" "))
}

fn host() -> Value {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpus": std::thread::available_parallelism().map_or(1, |n| n.get()),
        "cpu": read("/proc/cpuinfo").lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches(['\t', ' ', ':']).to_string()),
        "xtask": env!("CARGO_PKG_VERSION"),
    })
}

/// A log whose write errors are not lost: a full disk must end the run, not thin it out.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// A new file, and the folders above it.
    pub fn create(path: &Path) -> Result<Log> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Log {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Adds these bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.file
            .write_all(data)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// `20261123T114634Z`.
pub fn utc(time: SystemTime) -> String {
    let s = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (s / 86400, s % 86400);
    // Days since 1 March of year 0, in eras of 400 years.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |s| utc(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_795_434_394), "20261123T114634Z");
    }

    #[test]
    fn a_full_disk_is_told() {
        let mut log = Log {
            file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
            path: "/dev/full".into(),
        };
        let (line, code) = fpt_kit::fail::report(&log.write(b"x").unwrap_err());
        assert_eq!(code, fpt_kit::code::INFRA);
        assert!(line.contains("the disk is full"), "{line}");
    }
}
