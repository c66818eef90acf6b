// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache: locks against two runs at once, files and folders that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{flock, FlockOperation};

use super::{proc, Ctx, Fail, Result};

/// An exclusive lock; the kernel drops it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Take the lock called `name`, waiting for another run that holds it.
pub fn lock(ctx: &Ctx, name: &str) -> Result<Lock> {
    let dir = ctx.cache.join("locks");
    make_dir(&dir)?;
    let path = dir.join(format!("{name}.lock"));
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(e) if e == rustix::io::Errno::WOULDBLOCK || e == rustix::io::Errno::INTR => {}
            Err(e) => {
                return Err(Fail::infra(
                    format!("cannot lock {}", path.display()),
                    e.to_string(),
                    "put the cache folder on a local file system",
                ))
            }
        }
        if !told {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            ctx.ui.info(&format!(
                "waiting for another run that holds the '{name}' lock (pid {})",
                if owner.trim().is_empty() {
                    "unknown"
                } else {
                    owner.trim()
                }
            ));
            told = true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // Only a hint for the message above; failing to write it is no reason to stop.
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = write!(file, "{}", std::process::id());
    Ok(Lock { _file: file })
}

/// Makes a folder and those above it.
///
/// # Errors
///
/// The error names the folder.
pub fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Write a file so that readers see the old text or the new, never half.
pub fn write_atomic(path: &Path, data: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dir(dir)?;
    let mut tmp = tempfile::Builder::new()
        .prefix(".part-")
        .tempfile_in(dir)
        .with_context(|| format!("cannot create a file in {}", dir.display()))?;
    let _guard = proc::remove_on_exit(tmp.path());
    // Temporary files are private; this one is to be read like any other.
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o644))
        .with_context(|| format!("cannot write {}", path.display()))?;
    tmp.write_all(data)
        .and_then(|()| tmp.as_file().sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    tmp.persist(path)
        .map_err(|e| e.error)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Write only if the text differs, so that unchanged files keep their times.
/// Returns whether it wrote.
pub fn write_if_changed(path: &Path, data: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == data) {
        return Ok(false);
    }
    write_atomic(path, data)?;
    Ok(true)
}

/// A folder that is filled under a temporary name and then renamed into place.
pub struct NewDir {
    tmp: Option<tempfile::TempDir>,
    _guard: proc::RemoveOnExit,
    target: PathBuf,
}

impl NewDir {
    /// An empty folder beside `target`, which it will replace.
    pub fn new(target: &Path) -> Result<NewDir> {
        let parent = target.parent().unwrap_or(Path::new("."));
        make_dir(parent)?;
        let tmp = tempfile::Builder::new()
            .prefix(".part-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot create a folder in {}", parent.display()))?;
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o755))?;
        Ok(NewDir {
            _guard: proc::remove_on_exit(tmp.path()),
            tmp: Some(tmp),
            target: target.to_path_buf(),
        })
    }

    /// Where the folder is now.
    pub fn path(&self) -> &Path {
        self.tmp.as_ref().map_or(&self.target, |t| t.path())
    }

    /// Put the folder in its place, replacing what was there.
    pub fn commit(self) -> Result<PathBuf> {
        self.place("")
    }

    /// Put it in another place than planned, such as one named by the content's hash.
    pub fn commit_as(mut self, target: &Path) -> Result<PathBuf> {
        self.target = target.to_path_buf();
        self.place("")
    }

    /// Put only a folder inside it in the place; the rest goes.
    pub fn commit_inner(self, name: &str) -> Result<PathBuf> {
        self.place(name)
    }

    fn place(mut self, inner: &str) -> Result<PathBuf> {
        if let Some(tmp) = self.tmp.take() {
            if self.target.exists() {
                fs::remove_dir_all(&self.target)
                    .with_context(|| format!("cannot replace {}", self.target.display()))?;
            }
            fs::rename(tmp.path().join(inner), &self.target)
                .with_context(|| format!("cannot create {}", self.target.display()))?;
            if inner.is_empty() {
                // It is no longer at its temporary name: nothing to remove.
                let _ = tmp.keep();
            }
        }
        Ok(self.target.clone())
    }
}
