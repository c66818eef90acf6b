// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching: hashes, interrupted downloads, two runs at once, a full disk, a local archive.

mod host_common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use host_common::{sha256, Lab, Out};

fn upstream<'a>(from: &'a str, hash: &'a str) -> [&'a str; 8] {
    [
        "fetch",
        "linux",
        "--provider",
        "upstream",
        "--from",
        from,
        "--sha256",
        hash,
    ]
}

#[test]
fn tarball_by_path_is_taken_only_with_its_hash() {
    let lab = Lab::new();
    let (path, hash) = lab.tarball();
    let wrong = "0".repeat(64);
    lab.run(&upstream(&path, &wrong))
        .code(69)
        .error_has(&["not the expected file", &hash]);
    assert!(!lab.path("cache/sources/linux").join(&wrong).exists());
    lab.run(&upstream(&path, &hash)).code(0);
    lab.run(&upstream(&path, "12ab"))
        .code(2)
        .error_has(&["64 hexadecimal digits"]);
    lab.run(&upstream("nowhere/linux-6.12.1.tar.xz", &hash))
        .code(2)
        .error_has(&["no file"]);
}

#[test]
fn tarball_of_another_line_is_refused() {
    let lab = Lab::new();
    let (path, hash) = lab.tarball();
    let other = lab.path("linux-6.1.5.tar.xz");
    fs::copy(path, &other).expect("copied");
    lab.run(&upstream(&other.display().to_string(), &hash))
        .code(2)
        .error_has(&["not a Linux 6.12 tarball"]);
}

/// An HTTP server that sends only the first half of its file, for the first `cut` requests.
fn server(data: Vec<u8>, cut: usize, delay: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let at = seen.fetch_add(1, Ordering::SeqCst);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let from: usize = text
                .split("range: bytes=")
                .nth(1)
                .and_then(|r| r.split('-').next())
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            let rest = data.get(from..).unwrap_or(&[]);
            let status = if from > 0 {
                "206 Partial Content"
            } else {
                "200 OK"
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nConnection: close\r\n\r\n",
                rest.len(),
                data.len().saturating_sub(1),
                data.len()
            );
            std::thread::sleep(delay);
            let send = if at < cut { rest.len() / 2 } else { rest.len() };
            let _ = stream.write_all(&rest[..send]);
        }
    });
    (
        format!("http://127.0.0.1:{port}/linux-6.12.999.tar.xz"),
        count,
    )
}

#[test]
fn cut_download_is_never_taken_for_whole_and_is_continued() {
    let lab = Lab::new();
    let (path, hash) = lab.tarball();
    let data = fs::read(path).expect("the tarball");
    let (url, count) = server(data, 1, Duration::ZERO);
    lab.run(&upstream(&url, &hash)).code(69);
    let place = lab.path("cache/sources/linux").join(&hash);
    assert!(
        !place.exists(),
        "half a file must not get the place of the whole one"
    );
    lab.run(&upstream(&url, &hash)).code(0);
    assert_eq!(sha256(&place.join("linux-6.12.999.tar.xz")), hash);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn two_runs_at_once_download_once() {
    let lab = Lab::new();
    let (path, hash) = lab.tarball();
    let data = fs::read(path).expect("the tarball");
    let (url, count) = server(data, 0, Duration::from_millis(500));
    let args = upstream(&url, &hash);
    let first = lab
        .command(&args)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("xtask starts");
    let second = lab.run(&args);
    let mut first = first;
    assert!(first.wait().expect("it ends").success());
    second.code(0);
    assert_eq!(
        count.load(Ordering::SeqCst),
        1,
        "the second run must wait for the first"
    );
}

/// A shell in its own mount namespace, if this user may have one.
fn private_mounts() -> Option<Vec<&'static str>> {
    [vec!["unshare", "-m"], vec!["unshare", "-r", "-m"]]
        .into_iter()
        .find(|argv| {
            Command::new(argv[0])
                .args(&argv[1..])
                .args(["mount", "-t", "tmpfs", "none", "/mnt"])
                .output()
                .is_ok_and(|o| o.status.success())
        })
}

#[test]
fn full_disk_gives_one_line_and_leaves_nothing() {
    let lab = Lab::new();
    // Random bytes: the tarball cannot shrink below the disk.
    let blob: Vec<u8> = {
        let mut seed = 1_u64;
        (0..3_000_000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect()
    };
    fs::write(lab.path("kernel/linux-6.12.999/blob"), blob).expect("written");
    let (path, hash) = lab.tarball();
    let args = upstream(&path, &hash);
    let out = match private_mounts() {
        Some(argv) => {
            fs::create_dir_all(lab.path("cache")).expect("a folder");
            let inner = lab.command(&args);
            let mut cmd = Command::new(argv[0]);
            cmd.args(&argv[1..]).args([
                "sh",
                "-c",
                "mount -t tmpfs -o size=1m none \"$FPT_CACHE\" && \"$@\"; code=$?; \
                 find \"$FPT_CACHE\" -name '*.tar.xz' >&2; exit $code",
                "sh",
            ]);
            cmd.arg(inner.get_program()).args(inner.get_args());
            for (name, value) in inner.get_envs() {
                if let Some(value) = value {
                    cmd.env(name, value);
                }
            }
            Out::from(cmd.output().expect("unshare starts"))
        }
        None => {
            // No private mounts here: a `cp` that meets a full disk.
            lab.script(
                "full/cp",
                "#!/bin/sh\necho 'cp: No space left on device' >&2; exit 1\n",
            );
            let path = format!("{}:/usr/bin:/bin", lab.path("full").display());
            Out::from(
                lab.command(&args)
                    .env("PATH", path)
                    .output()
                    .expect("xtask starts"),
            )
        }
    };
    out.code(69).error_has(&["disk is full", "free some space"]);
    assert!(
        !out.stderr.contains(&format!("{hash}/linux")),
        "{}",
        out.stderr
    );
}

#[test]
fn debian_archive_gives_the_tested_release() {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let Some(code) = os.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")) else {
        panic!("this project is developed on Debian");
    };
    let lab = Lab::new();
    let (tarball, hash) = lab.tarball();
    lab.write("deb/DEBIAN/control", "Package: linux-source-6.12\nVersion: 6.12.999-1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n");
    fs::create_dir_all(lab.path("deb/usr/src")).expect("a folder");
    fs::copy(&tarball, lab.path("deb/usr/src/linux-source-6.12.tar.xz")).expect("copied");
    let pool = lab.path("repo/pool");
    fs::create_dir_all(&pool).expect("a folder");
    let deb = pool.join("linux-source-6.12_6.12.999-1_all.deb");
    let built = Command::new("dpkg-deb")
        .args(["--root-owner-group", "-b"])
        .arg(lab.path("deb"))
        .arg(&deb)
        .output()
        .expect("dpkg-deb");
    assert!(built.status.success());
    let size = fs::metadata(&deb).expect("built").len();
    let packages = format!(
        "Package: linux-source-6.12\nVersion: 6.12.999-1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n\
         Filename: pool/linux-source-6.12_6.12.999-1_all.deb\nSize: {size}\nSHA256: {}\n",
        sha256(&deb)
    );
    let dist = format!("repo/dists/{code}");
    lab.write(&format!("{dist}/main/binary-amd64/Packages"), &packages);
    let index = lab.path(&format!("{dist}/main/binary-amd64/Packages"));
    lab.write(
        &format!("{dist}/Release"),
        &format!(
            "Origin: T\nLabel: T\nSuite: {code}\nCodename: {code}\nArchitectures: amd64\nComponents: main\nDate: Wed, 01 Jan 2025 00:00:00 UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
            sha256(&index),
            packages.len()
        ),
    );
    lab.write(
        "etc/sources.list",
        &format!(
            "deb [trusted=yes] file:{} {code} main\n",
            lab.path("repo").display()
        ),
    );
    let fetch = || {
        Out::from(
            lab.command(&["fetch", "linux"])
                .env("FPT_APT_ETC", lab.path("etc"))
                .output()
                .expect("xtask starts"),
        )
    };
    let out = fetch();
    out.code(0);
    assert!(
        out.stdout
            .contains(&format!("6.12.999-1 (debian), sha256 {hash}")),
        "{}",
        out.stdout
    );
    assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
    // From the cache now: the archive may be gone.
    fs::remove_dir_all(lab.path("repo")).expect("removed");
    fetch().code(0);
}

#[test]
fn archive_without_an_entry_for_this_release() {
    let lab = Lab::new();
    lab.write(
        "etc/sources.list",
        "deb http://127.0.0.1:9/ elsewhere main\n",
    );
    let out = lab
        .command(&["fetch", "linux"])
        .env("FPT_APT_ETC", lab.path("etc"))
        .output()
        .expect("xtask starts");
    Out::from(out)
        .code(69)
        .error_has(&["no Debian archive found", "--provider upstream"]);
}
