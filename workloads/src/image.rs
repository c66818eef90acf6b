// SPDX-License-Identifier: MIT OR Apache-2.0
//! Going into the root file system of a disk image.

use std::fs;
use std::path::Path;

use rustix::mount::{mount, mount_bind, MountFlags};

use crate::error::{Error, Result};
use crate::options::Options;

/// Where the image is mounted before it becomes the root.
const ROOT: &str = "/mnt";

/// Reads `--image DEVICE`: by default /dev/vda; `none` for a system that has the servers itself.
pub fn wanted(options: &mut Options) -> Option<String> {
    match options.text("image") {
        Some(word) if word == "none" => None,
        device => Some(device.unwrap_or_else(|| "/dev/vda".into())),
    }
}

/// Makes the file system of `device` the root of this process: read-only, with proc, sys, dev, the
/// programs at /workloads, and memory at /tmp, /run and /dev/shm. Without a device, does nothing.
///
/// # Errors
/// `System`, naming the mount that failed.
pub fn enter(device: Option<&str>) -> Result<()> {
    device.map_or(Ok(()), enter_device)
}

fn enter_device(device: &str) -> Result<()> {
    if !Path::new(device).exists() {
        return Err(Error::System(format!(
            "no disk {device}: start the guest with the image of `cargo xtask build-image` (run --disk IMAGE)"
        )));
    }
    fs::create_dir_all(ROOT).map_err(Error::system(format!("create {ROOT}")))?;
    let none = MountFlags::empty();
    let at = |source: &str, place: &str, kind: &str, flags, data: &std::ffi::CStr| {
        mount(source, place, kind, flags, data)
            .map_err(|e| Error::System(format!("cannot mount {source} ({kind}) on {place}: {e}")))
    };
    at(device, ROOT, "ext4", MountFlags::RDONLY, c"")?;
    for (kind, place, data) in [
        ("proc", "proc", c""),
        ("sysfs", "sys", c""),
        ("devtmpfs", "dev", c""),
        ("tmpfs", "dev/shm", c"mode=1777"),
        // Data of servers: as large as the guest's memory allows.
        ("tmpfs", "tmp", c"mode=1777,size=90%"),
        ("tmpfs", "run", c"mode=1777"),
    ] {
        let place = format!("{ROOT}/{place}");
        if kind == "tmpfs" {
            // The image has its folders; in dev there may be none yet.
            let _ = fs::create_dir(&place);
        }
        at(kind, &place, kind, none, data)?;
    }
    if let Some(programs) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        mount_bind(programs, format!("{ROOT}/workloads")).map_err(|e| {
            Error::System(format!(
                "cannot bind {} into the image: {e}",
                programs.display()
            ))
        })?;
    }
    std::os::unix::fs::chroot(ROOT).map_err(Error::system(format!("change the root to {ROOT}")))?;
    std::env::set_current_dir("/").map_err(Error::system("change to the new root"))
}
