// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a tarball and a queue to a cached image, with a made-up kernel.

mod host_common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use host_common::{numbered, Lab, Out};

/// A mail-formatted patch that changes one line of code.c.
fn patch(line: usize, to: &str, sign: bool) -> String {
    let old = numbered(60);
    let lines: Vec<&str> = old.lines().collect();
    let at = |n: usize| lines[n - 1];
    format!(
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n\
         From: A Uthor <a@example.org>\nDate: Wed, 1 Jan 2025 00:00:00 +0000\n\
         Subject: [PATCH] code: change line {line}\n\nBecause.\n{}\n---\n code.c | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)\n\n\
         diff --git a/code.c b/code.c\n--- a/code.c\n+++ b/code.c\n\
         @@ -{},7 +{},7 @@\n {}\n {}\n {}\n-{}\n+{to}\n {}\n {}\n {}\n",
        if sign { "\nSigned-off-by: A Uthor <a@example.org>" } else { "" },
        line - 3,
        line - 3,
        at(line - 3),
        at(line - 2),
        at(line - 1),
        at(line),
        at(line + 1),
        at(line + 2),
        at(line + 3),
    )
}

fn queue(lab: &Lab, patches: &[(&str, String)]) {
    let mut series = String::from("# SPDX\n\n# group\n");
    for (name, text) in patches {
        lab.write(&format!("root/linux-patches/{name}"), text);
        series.push_str(&format!("{name}\n"));
    }
    lab.write("root/linux-patches/series", &series);
}

fn mtime(path: &Path) -> SystemTime {
    fs::metadata(path)
        .expect("there")
        .modified()
        .expect("a time")
}

fn image(out: &Out) -> String {
    fs::read_to_string(out.stdout.trim()).expect("the image that was named")
}

fn builds(lab: &Lab) -> usize {
    fs::read_dir(lab.path("cache/build"))
        .expect("build folders")
        .flatten()
        .map(|e| {
            fs::read_to_string(e.path().join("builds"))
                .unwrap_or_default()
                .lines()
                .count()
        })
        .sum()
}

#[test]
fn build_is_cached_by_content_and_touches_only_what_changed() {
    let lab = Lab::new();
    lab.fetched();
    queue(
        &lab,
        &[(
            "0001-code-change-line-10.patch",
            patch(10, "int first;", true),
        )],
    );
    let out = lab.run(&["build-kernel", "--mode", "l3l2"]);
    out.code(0);
    assert!(image(&out).contains("int first;") && image(&out).contains("// root"));
    assert!(!image(&out).contains("// host only"));
    let again = lab.run(&["build-kernel", "--mode", "radix"]);
    again.code(0);
    assert!(again.stderr.contains("up to date"), "{}", again.stderr);
    assert_eq!(again.stdout, out.stdout, "one image serves every mode");
    assert_eq!(builds(&lab), 1);

    let tree = lab.tree();
    let before = mtime(&tree.join("other.c"));
    let rust = mtime(&tree.join("arch/x86/mm/fpt/fpt_core/addr.rs"));
    let config = fs::read_dir(lab.path("cache/build"))
        .expect("builds")
        .flatten()
        .next()
        .expect("one")
        .path()
        .join(".config");
    let config_time = mtime(&config);
    std::thread::sleep(Duration::from_millis(20));
    queue(
        &lab,
        &[(
            "0001-code-change-line-10.patch",
            patch(10, "int second;", true),
        )],
    );
    let changed = lab.run(&["build-kernel"]);
    changed.code(0);
    assert!(image(&changed).contains("int second;"));
    assert_eq!(
        mtime(&tree.join("other.c")),
        before,
        "a file that no patch changed"
    );
    assert_eq!(mtime(&tree.join("arch/x86/mm/fpt/fpt_core/addr.rs")), rust);
    assert_eq!(mtime(&config), config_time, "an unchanged configuration");
    assert!(mtime(&tree.join("code.c")) > before);

    lab.write("root/rust-mm-fpt/geometry/src/addr.rs", "// addr 2\n");
    lab.write("root/rust-mm-fpt/kernel/more.rs", "// more\n");
    let rusty = lab.run(&["build-kernel"]);
    rusty.code(0);
    assert!(image(&rusty).contains("// more"));
    let asked = config.with_file_name("questions");
    assert_eq!(
        fs::read_to_string(asked).expect("written").lines().count(),
        1,
        "neither a C nor a Rust change asks Kconfig again"
    );
    fs::remove_file(lab.path("root/rust-mm-fpt/kernel/more.rs")).expect("removed");
    lab.run(&["build-kernel"]).code(0);
    assert!(
        !tree.join("arch/x86/mm/fpt/more.rs").exists(),
        "a removed file goes from the tree"
    );

    // Back to the first content: no build.
    queue(
        &lab,
        &[(
            "0001-code-change-line-10.patch",
            patch(10, "int first;", true),
        )],
    );
    lab.write("root/rust-mm-fpt/geometry/src/addr.rs", "// addr\n");
    let n = builds(&lab);
    let back = lab.run(&["build-kernel"]);
    assert_eq!(back.stdout, out.stdout);
    assert_eq!(builds(&lab), n);
}

#[test]
fn dropped_option_is_an_error_that_names_it() {
    let lab = Lab::new();
    lab.write("kernel/linux-6.12.999/drop", "CONFIG_GUEST=y\n");
    lab.write(
        "kernel/linux-6.12.999/mm/Kconfig",
        "config GUEST\n\tbool \"x\"\n\tdepends on HYPERVISOR\n",
    );
    lab.fetched();
    let out = lab.run(&["build-kernel"]);
    out.code(69).error_has(&[
        "CONFIG_GUEST",
        "configs/guest.config",
        "came out as n",
        "depends on HYPERVISOR",
    ]);
    assert!(!lab.path("cache/artefacts/kernel").exists());
}

#[test]
fn unknown_option_is_said_to_be_unknown() {
    let lab = Lab::new();
    lab.write("kernel/linux-6.12.999/drop", "CONFIG_FPT=y\n");
    lab.fetched();
    lab.run(&["build-kernel"])
        .code(69)
        .error_has(&["CONFIG_FPT of configs/fpt.config", "no such option"]);
}

#[test]
fn patch_that_does_not_fit_stops_the_build() {
    let lab = Lab::new();
    lab.fetched();
    let bad = patch(10, "int x;", true).replace("-int v10;", "-int w10;");
    queue(&lab, &[("0001-bad.patch", bad)]);
    lab.run(&["build-kernel"])
        .code(69)
        .error_has(&["0001-bad.patch does not apply", "code.c"]);
}

#[test]
fn edits_in_the_tree_are_not_lost() {
    let lab = Lab::new();
    lab.fetched();
    lab.run(&["patch", "apply", "linux"]).code(0);
    let file = lab.tree().join("other.c");
    fs::write(&file, "int mine;\n").expect("written");
    queue(
        &lab,
        &[("0001-code-change-line-10.patch", patch(10, "int x;", true))],
    );
    lab.run(&["patch", "apply", "linux"]).code(69).error_has(&[
        "not in the queue",
        "other.c",
        "--force",
    ]);
    assert_eq!(fs::read_to_string(&file).expect("there"), "int mine;\n");
    lab.run(&["patch", "apply", "linux", "--force"]).code(0);
    assert_eq!(fs::read_to_string(&file).expect("there"), "int other;\n");
}

#[test]
fn tree_that_an_interrupt_left_half_moved_is_mended() {
    let lab = Lab::new();
    lab.fetched();
    lab.run(&["patch", "apply", "linux"]).code(0);
    let tree = lab.tree();
    fs::write(tree.join(".git/fpt-moving"), "").expect("written");
    fs::write(tree.join(".git/index.lock"), "").expect("written");
    fs::write(tree.join("other.c"), "half").expect("written");
    queue(
        &lab,
        &[("0001-code-change-line-10.patch", patch(10, "int x;", true))],
    );
    lab.run(&["patch", "apply", "linux"]).code(0);
    let text = fs::read_to_string(tree.join("other.c")).expect("there");
    assert_eq!(text, "int other;\n");
    lab.run(&["patch", "apply", "linux"]).code(0);
}

#[test]
fn commits_in_the_tree_are_not_lost() {
    let lab = Lab::new();
    lab.fetched();
    lab.run(&["patch", "apply", "linux"]).code(0);
    let tree = lab.tree();
    fs::write(tree.join("other.c"), "int mine;\n").expect("written");
    git(&tree, &["commit", "-q", "-a", "-s", "-m", "other: mine"]);
    lab.run(&["build-kernel"])
        .code(69)
        .error_has(&["not in the queue", "patch refresh linux"]);
    let out = lab.run(&["patch", "status", "linux"]);
    assert!(
        out.stdout.contains("commits of its own (1 on top"),
        "{}",
        out.stdout
    );
    lab.run(&["patch", "refresh", "linux"]).code(0);
    lab.run(&["build-kernel"]).code(0);
    let text = fs::read_to_string(tree.join("other.c")).expect("there");
    assert_eq!(text, "int mine;\n");
}

fn git(tree: &Path, args: &[&str]) {
    let ok = Command::new("git")
        .arg("-C")
        .arg(tree)
        .args(["-c", "user.name=A Uthor", "-c", "user.email=a@example.org"])
        .args(args)
        .status()
        .expect("git")
        .success();
    assert!(ok, "{args:?}");
}

#[test]
fn refresh_and_check_agree() {
    let lab = Lab::new();
    lab.fetched();
    lab.run(&["patch", "apply", "linux"]).code(0);
    let tree = lab.tree();
    let code = tree.join("code.c");
    fs::write(&code, numbered(60).replace("int v10;", "int ten;")).expect("written");
    git(&tree, &["commit", "-q", "-a", "-s", "-m", "code: one"]);
    fs::write(
        &code,
        numbered(60)
            .replace("int v10;", "int ten;")
            .replace("int v40;", "int forty;"),
    )
    .expect("written");
    git(&tree, &["commit", "-q", "-a", "-s", "-m", "code: two"]);
    lab.write("root/linux-patches/series", "# SPDX\n");
    lab.run(&["patch", "refresh", "linux"]).code(0);
    assert_eq!(
        lab.read("root/linux-patches/series"),
        "# SPDX\n0001-code-one.patch\n0002-code-two.patch\n"
    );
    let out = lab.run(&["patch", "check", "linux"]);
    out.code(0);
    assert_eq!(out.stdout.matches("ok     ").count(), 7, "{}", out.stdout);
    // A second refresh changes nothing.
    let out = lab.run(&["patch", "refresh", "linux"]);
    assert!(
        out.stdout.contains("2 patches, 0 changed"),
        "{}",
        out.stdout
    );

    let cases: [(&str, &dyn Fn(), &str); 5] = [
        (
            "stray file",
            &|| lab.write("root/linux-patches/0009-x.patch", "x"),
            "0009-x.patch stands 0 times",
        ),
        (
            "no sign-off",
            &|| {
                let t = lab
                    .read("root/linux-patches/0002-code-two.patch")
                    .replace("Signed-off-by", "Reviewed-by");
                lab.write("root/linux-patches/0002-code-two.patch", &t);
            },
            "0002-code-two.patch has no Signed-off-by",
        ),
        (
            "offset",
            &|| {
                let t = lab
                    .read("root/linux-patches/0002-code-two.patch")
                    .replace("@@ -37,7 +37,7 @@", "@@ -33,7 +33,7 @@");
                lab.write("root/linux-patches/0002-code-two.patch", &t);
            },
            "offset 4",
        ),
        (
            "edited by hand",
            &|| {
                let t = lab
                    .read("root/linux-patches/0001-code-one.patch")
                    .replace("---\n code.c", "---\n  code.c");
                lab.write("root/linux-patches/0001-code-one.patch", &t);
            },
            "0001-code-one.patch differs",
        ),
        (
            "style",
            &|| {
                fs::write(
                    tree.join("scripts/checkpatch.pl"),
                    "print \"$ARGV[-1]:7: ERROR:SPACING: no\\n\"; exit 1;\n",
                )
                .expect("written");
            },
            "ERROR:SPACING",
        ),
    ];
    for (name, spoil, said) in cases {
        let kept: Vec<(std::path::PathBuf, Vec<u8>)> = fs::read_dir(lab.path("root/linux-patches"))
            .expect("patches")
            .flatten()
            .map(|e| (e.path(), fs::read(e.path()).expect("read")))
            .collect();
        spoil();
        let out = lab.run(&["patch", "check", "linux"]);
        assert_eq!(out.code, Some(1), "{name}: {}{}", out.stdout, out.stderr);
        assert!(
            out.stdout.contains("not ok") && out.stdout.contains(said),
            "{name}: {}",
            out.stdout
        );
        let _ = fs::remove_file(lab.path("root/linux-patches/0009-x.patch"));
        for (path, data) in kept {
            fs::write(path, data).expect("restored");
        }
    }
}

#[test]
fn another_release_of_the_line_may_move_patches() {
    let lab = Lab::new();
    let base = lab.read("root/linux-patches/BASE");
    lab.write(
        "root/linux-patches/BASE",
        &base.replace("6.12.999", "6.12.900"),
    );
    lab.fetched();
    lab.run(&["patch", "apply", "linux"]).code(0);
    let tree = lab.tree();
    let text = numbered(60).replace("int v40;", "int forty;");
    fs::write(tree.join("code.c"), text).expect("written");
    git(&tree, &["commit", "-q", "-a", "-s", "-m", "code: one"]);
    lab.run(&["patch", "refresh", "linux"]).code(0);
    let patch = "root/linux-patches/0001-code-one.patch";
    let moved = lab
        .read(patch)
        .replace("@@ -37,7 +37,7 @@", "@@ -33,7 +33,7 @@");
    lab.write(patch, &moved);
    let out = lab.run(&["patch", "check", "linux"]);
    out.code(0);
    for note in [
        "note: 0001-code-one.patch: Hunk #1 succeeded at 37 (offset 4 lines).",
        "note: 1 of 1 would differ: they are written for 6.12.900, this is 6.12.999",
    ] {
        assert!(out.stdout.contains(note), "{}", out.stdout);
    }
}

/// Processes whose command line holds a word.
fn processes(word: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
        .map(|c| String::from_utf8_lossy(&c).replace('\0', " "))
        .filter(|c| c.contains(word))
        .collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ctrl_c_leaves_no_child_no_lock_no_half_file() {
    for signal in ["INT", "TERM"] {
        let lab = Lab::new();
        // A number that no other process has on its command line.
        let nap = format!("98{}", std::process::id());
        lab.write("kernel/linux-6.12.999/slow", &nap);
        lab.fetched();
        let mut child = lab
            .command(&["build-kernel"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("xtask starts");
        let sleeping = format!("sleep {nap}");
        wait_until("the long build", || !processes(&sleeping).is_empty());
        let pid = child.id().to_string();
        assert!(Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .expect("kill")
            .success());
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(130), "SIG{signal}");
        assert_eq!(
            processes(&sleeping),
            Vec::<String>::new(),
            "a child outlived SIG{signal}"
        );
        assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
        // The lock is free and the tree is usable.
        fs::write(lab.tree().join("slow"), "0").expect("written");
        let out = lab.run(&["patch", "apply", "linux", "--force"]);
        out.code(0);
        assert!(!out.stderr.contains("waiting for"), "{}", out.stderr);
    }
}

#[test]
fn a_failed_build_shows_its_last_lines_and_the_log() {
    let lab = Lab::new();
    lab.write(
        "kernel/linux-6.12.999/Makefile",
        &host_common::MAKEFILE.replace(
            "\t@mkdir -p $(O)/include/config\n",
            "\t@echo code.c:7: broken; exit 3\n",
        ),
    );
    lab.fetched();
    let out = lab.run(&["build-kernel"]);
    out.code(69).error_has(&["'make' failed", "kernel-fpt.log"]);
    assert!(out.stderr.contains("| code.c:7: broken"), "{}", out.stderr);
    assert!(lab
        .read("cache/logs/kernel-fpt.log")
        .contains("code.c:7: broken"));
}

#[test]
fn two_builds_at_once_build_once() {
    let lab = Lab::new();
    lab.write("kernel/linux-6.12.999/slow", "1");
    lab.fetched();
    let mut first = lab
        .command(&["build-kernel"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("xtask starts");
    let second = lab.run(&["build-kernel"]);
    assert!(first.wait().expect("it ends").success());
    second.code(0);
    assert_eq!(builds(&lab), 1);
}

#[test]
fn dry_run_changes_nothing() {
    let lab = Lab::new();
    let out = lab.run(&["--dry-run", "build-kernel", "--profile", "debug"]);
    out.code(0);
    for word in [
        "make -C",
        "vmlinux",
        "merge_config.sh",
        "RUSTC=/usr/bin/rustc",
    ] {
        assert!(out.stdout.contains(word), "{word} in:\n{}", out.stdout);
    }
    assert!(!lab.path("cache").exists(), "a dry run must not write");
}

#[test]
fn clean_removes_builds_and_keeps_sources() {
    let lab = Lab::new();
    lab.fetched();
    lab.run(&["build-kernel"]).code(0);
    // Made by other commands.
    let others = ["images", "init/target", "workloads/target"].map(|d| lab.path("cache").join(d));
    others
        .iter()
        .for_each(|d| std::fs::create_dir_all(d).unwrap());
    lab.run(&["clean", "--builds"]).code(0);
    assert_eq!(others.clone().map(|d| d.exists()), [true, false, false]);
    lab.run(&["build-kernel"]).code(0);
    lab.run(&["clean"]).code(0);
    assert!(others.iter().all(|d| !d.exists()));
    assert!(!lab.path("cache/build").exists() && !lab.path("cache/artefacts").exists());
    assert!(lab.path("cache/sources").exists() && lab.path("cache/trees").exists());
    lab.run(&["build-kernel"]).code(0);
    lab.run(&["clean", "--all"]).code(0);
    assert!(!lab.path("cache/trees").exists());
}
