// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt-init`: process 1 of the test guest. It mounts what tests expect, says `ready` on the
//! control channel, runs the commands that the host sends, and restarts the machine when told to.
//! Not as process 1 it is a small program: behind `cargo xtask walk` (`walk-target`), behind
//! `cargo xtask agree` (`agree-target`, `agree-read`), the one that tells `cargo xtask stress` which
//! page tables are left (`state`), one that keeps a signal from a test (`withhold`), one that breaks memory up (`fragment`), or one that marks the run of a
//! program for the simulator (`mark`). Under the name `fptctl` it is the user's program for choosing page tables per
//! process.

#![deny(unsafe_code)]

mod agree;
mod fptctl;
mod fragment;
mod mark;
mod state;
mod supervise;
#[allow(unsafe_code)]
mod sys;
mod walk_target;
mod withhold;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fpt_init::proto::PORT;

fn main() {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    if sys::pid() == 1 {
        let boot_ms = sys::uptime_ms();
        let why = init(boot_ms);
        eprintln!("fpt-init: {why}");
        let error = sys::restart();
        eprintln!("fpt-init: cannot restart the machine: {error}");
        std::process::exit(1);
    }
    if Path::new(&called).file_name() == Some(fptctl::NAME.as_ref()) {
        std::process::exit(fptctl::main(&args));
    }
    let code = match args.split_first() {
        Some((name, rest)) if name == "walk-target" => walk_target::main(rest),
        Some((name, [])) if name == "state" => state::main(),
        Some((name, [])) if name == "agree-target" => agree::target(),
        Some((name, rest)) if name == "agree-read" => agree::read(rest),
        Some((name, rest)) if name == "withhold" => withhold::main(rest),
        Some((name, rest)) if name == "fragment" => fragment::main(rest),
        Some((name, rest)) if name == "mark" => mark::main(rest),
        Some((name, rest)) if name == "mark-exec" => mark::exec(rest),
        _ => {
            eprintln!(
                "usage: fpt-init walk-target [--huge] [--addr HEX] | state | agree-target | agree-read PID | withhold SIGNAL PROGRAM [ARGS] | fragment PERCENT PROGRAM [ARGS] | mark PROGRAM [ARGS]; as process 1: no arguments"
            );
            2
        }
    };
    std::process::exit(code);
}

/// Runs the guest until the host lets it go. Returns the reason for the end.
fn init(boot_ms: u64) -> String {
    let host = mounts();
    canaries();
    if let Err(error) = sys::loopback_up() {
        // A kernel without networking is no fault.
        let _ = error;
    }
    let _ = fs::write("/proc/sys/kernel/hostname", "fpt");
    std::env::set_current_dir("/").ok();
    let port = match open_port() {
        Ok(port) => port,
        Err(why) => return why,
    };
    match supervise::Supervisor::new(port, boot_ms, host) {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => format!("cannot start: {error}"),
    }
}

/// A kernel with marks for the flush sanitizer leaves out two flushes on request, which it must find. The way
/// back from the kernel may happen to flush: ask more than once.
fn canaries() {
    let ask = |_| fs::write("/sys/kernel/debug/tlb_canary", "1").is_ok();
    (0..10).all(ask);
}

/// Mounts what exists in this kernel; a missing file system is left out silently, since kernels of
/// several configurations boot this image. Returns whether the host's folder is there.
fn mounts() -> bool {
    // devtmpfs first: the kernel opened the console before, but the rest needs device nodes.
    const TABLE: [(&str, &str, &str, &str); 12] = [
        ("dev", "/dev", "devtmpfs", "mode=0755"),
        ("proc", "/proc", "proc", ""),
        ("sys", "/sys", "sysfs", ""),
        ("debugfs", "/sys/kernel/debug", "debugfs", ""),
        ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
        ("devpts", "/dev/pts", "devpts", "ptmxmode=0666,mode=0620"),
        ("shm", "/dev/shm", "tmpfs", "mode=1777"),
        ("hugetlbfs", "/dev/hugepages", "hugetlbfs", ""),
        ("tmp", "/tmp", "tmpfs", "mode=1777"),
        ("run", "/run", "tmpfs", "mode=0755"),
        (
            "host",
            "/host",
            "9p",
            "trans=virtio,version=9p2000.L,msize=262144,access=any",
        ),
    ];
    let mut host = false;
    for (source, target, fstype, data) in TABLE {
        let _ = fs::create_dir_all(target);
        let done = sys::mount(source, target, fstype, data).is_ok();
        if target == "/host" {
            host = done;
        }
    }
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(to, link);
    }
    host
}

/// The port is created by a work item of the virtio driver and may come a moment after init.
fn open_port() -> Result<File, String> {
    let start = Instant::now();
    loop {
        if let Some(device) = find_port() {
            return File::options()
                .read(true)
                .write(true)
                .open(&device)
                .map_err(|e| format!("cannot open {device}: {e}"));
        }
        if start.elapsed() > Duration::from_secs(20) {
            return Err(format!("no virtio port named {PORT}: the kernel lacks VIRTIO_CONSOLE or QEMU was started without it"));
        }
        let _ = std::io::stderr().flush();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn find_port() -> Option<String> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()? {
        let entry = entry.ok()?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        if name.trim_end() == PORT && Path::new(&device).exists() {
            return Some(device);
        }
    }
    None
}
