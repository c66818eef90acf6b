// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad input and missing tools: one clear line and the right exit code.

mod host_common;

use host_common::Lab;

#[test]
fn help_names_the_exit_codes() {
    let lab = Lab::new();
    let out = lab.run(&["--help"]);
    out.code(0);
    for word in ["doctor", "build-kernel", "69", "71", "124", "130"] {
        assert!(out.stdout.contains(word), "{word}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let lab = Lab::new();
    for args in [
        &["frobnicate"][..],
        &[],
        &["build-kernel", "--profile", "nope"],
        &["build-kernel", "-j", "0"],
        &["build-kernel", "--compare-off", "--gcc"],
        &["fetch", "linux", "--provider", "upstream"],
        &["fetch", "--sha256", "00"],
        &["patch"],
        &["patch", "refresh"],
    ] {
        assert_eq!(lab.run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn misspelt_subcommand_gets_a_suggestion() {
    let lab = Lab::new();
    let out = lab.run(&["build-kernal"]);
    out.code(2);
    assert!(out.stderr.contains("'build-kernel'"), "{}", out.stderr);
}

#[test]
fn a_mode_is_one_of_those_that_there_are() {
    let lab = Lab::new();
    lab.run(&["build-kernel", "--mode", "l3l1"])
        .code(2)
        .error_has(&["unknown mode 'l3l1'", "did you mean 'l3l2'?"]);
    lab.run(&["build-kernel", "--mode", "xyzzyxyzzy"])
        .code(2)
        .error_has(&["one of: radix, l4l3, l3l2, l4l3-l2l1"]);
    lab.run(&["stress", "--mode", "l3l2,l4"])
        .code(2)
        .error_has(&["unknown mode 'l4'"]);
    lab.run(&["build-kernel", "--profile", "option-off", "--mode", "l3l2"])
        .code(2)
        .error_has(&["built without FPT"]);
}

#[test]
fn missing_tools_are_named_before_work_starts() {
    let lab = Lab::new();
    let out = lab
        .command(&["fetch", "linux"])
        .env("FPT_PATH", lab.path("bin"))
        .output()
        .expect("xtask starts");
    let out = host_common::Out::from(out);
    out.code(69)
        .error_has(&["`fetch` needs", "dpkg-source", "xz", "cargo xtask setup"]);
    assert!(!lab.path("cache/sources").exists(), "no work was begun");
}

#[test]
fn one_missing_tool_comes_with_its_line() {
    let lab = Lab::new();
    for tool in [
        "apt-get",
        "dpkg-source",
        "tar",
        "xz",
        "patch",
        "git",
        "perl",
    ] {
        lab.script(&format!("bin/{tool}"), "#!/bin/sh\n");
    }
    let out = lab
        .command(&["fetch", "linux"])
        .env("FPT_PATH", lab.path("bin"))
        .output()
        .expect("xtask starts");
    host_common::Out::from(out)
        .code(69)
        .error_has(&["needs curl", "apt-get install curl"]);
}

#[test]
fn doctor_lists_what_is_missing_and_fails() {
    let lab = Lab::new();
    let out = lab
        .command(&["doctor"])
        .env("FPT_PATH", lab.path("bin"))
        .output()
        .expect("xtask starts");
    let out = host_common::Out::from(out);
    out.code(69);
    let line = out
        .stdout
        .lines()
        .find(|l| l.starts_with("missing  clang-19"));
    assert!(
        line.is_some_and(|l| l.contains("apt-get install clang-19")),
        "{}",
        out.stdout
    );
}

#[test]
fn setup_asks_and_without_a_terminal_wants_yes() {
    let lab = Lab::new();
    let out = lab
        .command(&["setup"])
        .env("FPT_PATH", lab.path("bin"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("xtask starts");
    let out = host_common::Out::from(out);
    assert!(out.stdout.contains("To be installed:"), "{}", out.stdout);
    out.code(2).error_has(&["add --yes"]);
}

#[test]
fn setup_dry_run_prints_shell_lines() {
    let lab = Lab::new();
    let out = lab
        .command(&["setup", "--dry-run"])
        .env("FPT_PATH", lab.path("bin"))
        .output()
        .expect("xtask starts");
    let out = host_common::Out::from(out);
    out.code(0);
    assert!(out.stdout.contains("apt-get "), "{}", out.stdout);
    assert!(
        out.stdout.contains("install -y --no-install-recommends"),
        "{}",
        out.stdout
    );
}

#[test]
fn outside_a_checkout() {
    let lab = Lab::new();
    let out = lab
        .command(&["doctor"])
        .env_remove("FPT_ROOT")
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .expect("xtask starts");
    host_common::Out::from(out)
        .code(2)
        .error_has(&["not in a checkout"]);
}

#[test]
fn the_checkout_is_named_by_an_option_or_the_users_file() {
    let lab = Lab::new();
    let root = lab.path("root").display().to_string();
    let bare = |args: &[&str]| {
        let mut cmd = lab.command(args);
        cmd.env_remove("FPT_ROOT")
            .env_remove("CARGO_MANIFEST_DIR")
            .env("XDG_CONFIG_HOME", lab.path("config"));
        host_common::Out::from(cmd.output().expect("fpt starts"))
    };
    let status = ["patch", "status", "linux", "--dry-run"];
    bare(&status).code(2).error_has(&[
        "--root, FPT_ROOT, or `root` in",
        "config/fpt-linux/fpt.toml",
    ]);
    let with: Vec<&str> = ["--root", &root].into_iter().chain(status).collect();
    bare(&with).code(0);
    lab.write(
        "config/fpt-linux/fpt.toml",
        &format!("root = '{root}'\nmode = 'l3l2'\n"),
    );
    bare(&status).code(0);
    bare(&["--root", "/nonexistent", "doctor"])
        .code(2)
        .error_has(&["/nonexistent is no checkout"]);
    lab.write("root/fpt.toml", "moed = 'l3l2'\n");
    bare(&status)
        .code(2)
        .error_has(&["fpt.toml is not valid", "did you mean 'mode'?"]);
}

#[test]
fn what_says_something_of_the_program_needs_no_checkout() {
    let lab = Lab::new();
    for (args, word) in [
        (&["completions", "zsh"][..], "#compdef fpt"),
        (&["man", "--print", "walk"], ".TH fpt-walk"),
        (&["--version"], "(commit "),
        (&["run", "--help"], "Examples:"),
    ] {
        let out = lab
            .command(args)
            .env_remove("FPT_ROOT")
            .env_remove("CARGO_MANIFEST_DIR")
            .output()
            .expect("fpt starts");
        let out = host_common::Out::from(out);
        out.code(0);
        assert!(out.stdout.contains(word), "{word} in {}", out.stdout);
    }
    lab.run(&["man", "man"]).code(0);
    assert!(lab.read("man/fpt-build-kernel.1").contains("fpt build"));
    lab.run(&["man", "--print", "wlak"])
        .code(2)
        .error_has(&["did you mean 'walk'?"]);
}

#[test]
fn json_is_one_value_or_refused() {
    let lab = Lab::new();
    let out = lab
        .command(&["doctor", "--json"])
        .env("FPT_PATH", lab.path("bin"))
        .output()
        .expect("fpt starts");
    let out = host_common::Out::from(out);
    out.code(69);
    let all: serde_json::Value = serde_json::from_str(&out.stdout).expect("JSON");
    assert_eq!(all["complete"], false);
    assert!(all["items"].as_array().is_some_and(|a| a.len() > 20));
    lab.run(&["clean", "--json"])
        .code(2)
        .error_has(&["no result in JSON"]);
}

#[test]
fn quiet_is_quiet_and_errors_are_not() {
    let lab = Lab::new();
    lab.fetched();
    let loud = lab.run(&["patch", "apply", "linux"]);
    let quiet = lab.run(&["patch", "apply", "linux", "-q"]);
    loud.code(0);
    quiet.code(0);
    assert!(!loud.stderr.is_empty());
    assert_eq!(quiet.stderr, "");
    lab.run(&["-q", "patch", "status", "nope"]).code(2);
}

#[test]
fn bad_base_file() {
    let lab = Lab::new();
    lab.write("root/linux-patches/BASE", "name = 'linux'\nfrob = 1\n");
    lab.run(&["patch", "status", "linux"])
        .code(69)
        .error_has(&["linux-patches/BASE is not valid"]);
}

#[test]
fn series_names_a_file_that_is_not_there() {
    let lab = Lab::new();
    lab.write("root/linux-patches/series", "0001-gone.patch\n");
    lab.run(&["patch", "status", "linux"])
        .code(69)
        .error_has(&["0001-gone.patch", "no such file"]);
}
