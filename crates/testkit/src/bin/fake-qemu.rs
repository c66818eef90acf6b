// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stand-in for QEMU in the tests of the runner: it takes QEMU's command line, prints a console, speaks the
//! control channel, and misbehaves as the kernel word `fake=WHAT` says, or the variable `FAKE_QEMU_DO`. Nothing is
//! emulated.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fpt_geometry::{Boot, Mode};
use fpt_init::proto::{Bytes, Ev, Exec, Op, Stream, VERSION};

struct Fake {
    ctl: UnixStream,
    what: String,
    mode: Boot,
    /// Nobody asked for a mode: it is another kernel.
    unpatched: bool,
    /// Its options: where a simulator would leave its result.
    plugin: String,
    thp: String,
    /// How often the state was asked for.
    states: i64,
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|at| args.get(at + 1))
            .cloned()
    };
    if args.iter().any(|a| a == "--version") {
        return say("QEMU emulator version 0.0 (fake)");
    }
    if after("-cpu").as_deref() == Some("help") {
        return say("  de pse fpt tsc");
    }
    let append = after("-append").unwrap_or_default();
    let word = |key: &str| {
        append
            .split(' ')
            .filter_map(|w| w.strip_prefix(key))
            .next_back()
            .unwrap_or("")
            .to_string()
    };
    let plugin = after("-plugin").unwrap_or_default();
    let option = |key: &str| {
        plugin
            .split(',')
            .find_map(|o| o.strip_prefix(key))
            .map(str::to_string)
    };
    let label = option("label=").unwrap_or_default();
    // "what@label": only under the simulator that has this label.
    let what = match std::env::var("FAKE_QEMU_DO") {
        Ok(what) => what,
        Err(_) => word("fake="),
    };
    let what = match what.split_once('@') {
        Some((what, only)) if only == label => what.to_string(),
        Some(_) => String::new(),
        None => what,
    };
    if let Some(path) = std::env::var_os("FAKE_QEMU_PID").map(std::path::PathBuf::from) {
        let _ = std::fs::write(&path, std::process::id().to_string());
        // The test fills a disk as soon as it sees the file above, and says when it has.
        let full = path.with_extension("full");
        while what == "until-full" && !full.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if let (true, Some(log)) = (what.starts_with("triple"), after("-D")) {
        let text = "CPU Reset (CPU 0)\nRIP=000000000000fff0\nTriple fault\nCPU Reset (CPU 1)\n\
                    RAX=0000000000000000\nRIP=ffffffff81000123 RFL=00000046\n";
        let _ = std::fs::write(log, text);
    }
    if what == "no-start" {
        eprintln!("fake-qemu: could not load kernel 'vmlinux'");
        std::process::exit(1);
    }
    let socket = |id: &str| {
        let start = format!("socket,id={id},path=");
        let path = args
            .iter()
            .find_map(|a| a.strip_prefix(&start))
            .expect("socket on the command line");
        UnixStream::connect(path).expect("the runner listens")
    };
    let ctl = socket("ctl");
    let monitor = socket("mon");
    let mode: Boot = match word("fpt=").as_str() {
        "" => Mode::Radix.into(),
        word => word.parse().expect("a mode on the command line"),
    };
    std::thread::spawn(move || serve_monitor(&monitor, mode));
    say("[    0.000000] Linux version 6.12.0-fake");
    match what.as_str() {
        "hang-boot" => forever(),
        "triple-boot" => return,
        "panic-boot" => return panic_lines(),
        _ => {}
    }
    let mut fake = Fake {
        ctl,
        what,
        mode,
        unpatched: word("fpt=").is_empty(),
        thp: word("transparent_hugepage="),
        plugin,
        states: 0,
    };
    fake.send(&Ev::Ready {
        version: VERSION,
        uname: "Linux fake".into(),
        boot_ms: 10,
        host: true,
    });
    let reader = BufReader::new(fake.ctl.try_clone().expect("clone"));
    for line in reader.lines() {
        let Ok(line) = line else { return };
        match serde_json::from_str(&line).expect("a request of the protocol") {
            Op::Exec(exec) => fake.exec(&exec),
            Op::Poweroff => {
                fake.leave_figures();
                return say("[    9.000000] reboot: Restarting system");
            }
            _ => {}
        }
    }
}

/// What the sanitizer's plugin leaves.
fn leave_findings(out: &str, what: &str) {
    let (errors, stores) = match what {
        "no-findings" => return,
        "finding" => (1, 9),
        "unseen" => (0, 0),
        _ => (0, 9),
    };
    let findings = match errors {
        0 => serde_json::json!([]),
        n => {
            serde_json::json!([{ "rule": "R3", "warning": false, "count": n, "text": "TLBSAN R3: no flush before the task went on\n" }])
        }
    };
    let result = serde_json::json!({
        "schema": "fpt-tlbsan/2", "errors": errors, "warnings": 0, "findings": findings,
        "canaries": { "marked": false, "announced": 0, "tables": 0, "pages": 0 },
        "cases": null, "run_error": null, "internal": [],
        "events": { "stores": stores, "flushes": 2, "idle_flushes": 1, "frees": 0, "switches": 3 },
    });
    // A full disk is the runner's to notice.
    let _ = std::fs::write(out, result.to_string());
}

/// The monitor of a guest whose only program is at `walk-target`.
fn serve_monitor(stream: &UnixStream, mode: Boot) {
    let root = "entry 4 PML4E pa 0x0000000001234120 value 0x0000000012200067 bits 9\n";
    let upper = match mode.mode() {
        Some(Mode::Radix) | None => {
            "entry 3 PDPTE pa 0x0000000012200120 value 0x0000000012212067 bits 9\n\
             entry 2 PDE pa 0x0000000012212340 value 0x0000000002a00067 bits 9\n"
        }
        Some(Mode::L4L3 | Mode::L3L2 | Mode::L4L3L2L1) => {
            "entry 2 PDE pa 0x0000000012212340 value 0x0000000002a00067 bits 18\n"
        }
    };
    let rest = "entry 1 PTE pa 0x0000000002a00c48 value 0x8000000012345867 bits 9\n\
                page pa 0x0000000012345000 size 4096 perm rw-u\n";
    let walk = format!("{root}{upper}{rest}");
    let mut answers = stream;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let text = if line.contains("info registers") {
            "CPL=3"
        } else if line.contains("info walk") {
            &walk
        } else {
            ""
        };
        let answer = serde_json::json!({ "return": text });
        let _ = writeln!(answers, "{answer}");
    }
}

/// Has no other guest of this checkout asked so far?
fn first_time() -> bool {
    let pid = std::env::var_os("FAKE_QEMU_PID").expect("the tests set it");
    let mark = std::path::PathBuf::from(pid).with_extension("once");
    std::fs::File::create_new(mark).is_ok()
}

fn panic_lines() {
    say("[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000");
    say("[    1.000001] Kernel panic - not syncing: Fatal exception");
    say("[    1.000002] ---[ end Kernel panic - not syncing: Fatal exception ]---");
}

impl Fake {
    fn leave_figures(&self) {
        let option = |key: &str| {
            let mut all = self.plugin.split(',');
            all.find_map(|o| o.strip_prefix(key)).map(str::to_string)
        };
        if let (Some(out), Some(_)) = (option("out="), option("fpt=")) {
            leave_findings(&out, &self.what);
        }
        fpt_testkit::causes::leave(option, self.mode, &self.what);
        fpt_testkit::synthetic::leave(option, self.mode, &self.what);
    }

    fn send(&mut self, ev: &Ev) {
        let line = serde_json::to_string(ev).expect("an event");
        // The runner may have gone, which is its right.
        let _ = writeln!(self.ctl, "{line}");
    }

    fn out(&mut self, id: u64, stream: Stream, text: &str) {
        self.send(&Ev::Out {
            id,
            stream,
            data: Bytes::new(text.as_bytes()),
        });
    }

    fn exit(&mut self, id: u64, code: i32, timeout: bool) {
        let signal = if timeout { 9 } else { 0 };
        self.send(&Ev::Exit {
            id,
            code,
            signal,
            timeout,
            ms: 1,
        });
    }

    fn exec(&mut self, exec: &Exec) {
        let id = exec.id;
        let argv: Vec<&str> = exec.argv.iter().map(String::as_str).collect();
        // Tables are all the same to it.
        let argv = match argv.as_slice() {
            ["fptctl", "exec", _, "--", command @ ..] => command.to_vec(),
            _ => argv,
        };
        match argv.as_slice() {
            // What the runner itself asks.
            ["cat", "/sys/kernel/debug/fpt/mode"] => {
                let mode = match self.what.as_str() {
                    "wrong-mode" => Mode::Radix.into(),
                    _ => self.mode,
                };
                self.out(id, Stream::Stdout, &format!("{mode}\n"));
                self.exit(id, 0, false);
            }
            ["ls", "/sys/kernel/debug"] => {
                let names = match (self.what.as_str(), self.unpatched) {
                    ("no-debugfs", _) => "",
                    ("not-unpatched", _) => "bdi\nemt\nfpt\n",
                    (_, true) => "bdi\nx86\n",
                    (_, false) => "bdi\nfpt\nx86\n",
                };
                self.out(id, Stream::Stdout, names);
                self.exit(id, 0, false);
            }
            [_, "-c", line] if line.contains("fpt/stats") => {
                let said = match self.what.as_str() {
                    "no-nodes" => "mid_live 0\n",
                    _ => "mid_live 3\nroot_installs 3\nmid_installs 3\nbottom_installs 3\nflat_bytes 6291456\n",
                };
                self.out(id, Stream::Stdout, said);
                self.exit(id, 0, false);
            }
            [.., "-c", line] if line.starts_with("fpt-prep") => {
                self.out(id, Stream::Stdout, "ok\n");
                self.exit(id, 0, false);
            }
            ["fpt-fuzz", _] => self.exit(id, 0, false),
            ["fpt-stress", rest @ ..] if !rest.contains(&"--timeout") => {
                let said = match rest {
                    ["ready", "demote"] if self.what == "no-demotion" => {
                        "kernel without demotion\n"
                    }
                    ["ready", "hotplug"] => "kernel without MEMORY_HOTPLUG\n",
                    ["ready", _] => "ok\n",
                    [.., "vm?"] => "class 'vm' stressors: a b c d e f g h i j watchdog\n",
                    ["compact", _] => "compactions 3\n",
                    ["ksm", _] => "ksm_scanned 5\n",
                    ["check", _] if self.what == "tables-wrong" => {
                        "checks 3\nprocess 9 (x): the tables are wrong\nBAD I1 entry\n"
                    }
                    ["check", _] if self.what == "no-check" => "checks 0\n",
                    ["check", _] => "checks 7\n",
                    _ => "",
                };
                self.out(id, Stream::Stdout, said);
                self.exit(id, i32::from(said.contains("BAD")), false);
            }
            ["test", "-e", file] => {
                let code = i32::from(file.contains("missing"));
                self.exit(id, code, false);
            }
            ["fpt-init", "state"] => {
                let text = self.state();
                self.out(id, Stream::Stdout, &text);
                self.exit(id, 0, false);
            }
            _ => self.command(exec, &argv),
        }
    }

    /// What a guest would tell of its page tables: counters grow, and what is left in the end does not.
    fn state(&mut self) -> String {
        self.states += 1;
        let n = self.states;
        let leak = i64::from(n > 1 && self.what == "leak");
        let grown = if n > 1 && self.what == "leak-kb" {
            500
        } else {
            0
        };
        let fallbacks = if self.what == "no-mixing" { 7 } else { n };
        let left = if self.what == "no-injection" {
            1000
        } else {
            1000 - n
        };
        let roots = if self.mode == Boot::Mixed { n } else { 0 };
        format!(
            "others_kb {}\nothers_root 0\nothers_mid {leak}\nothers_bottom 0\nothers_bytes 0\n\
             root_installs {roots}\nbottom_installs {roots}\nmid_installs {n}\nmid_fallbacks {fallbacks}\ndemotions {n}\ntainted {}\n\
             pswpout {n}\noom_kill 0\ninjections_left {left}\n",
            100 + grown,
            i64::from(self.what == "tainted"),
        )
    }

    /// Only where the end of the word says so: "-m" in modes other than radix; "-once" there, and only the first
    /// time; "-u" on a kernel without modes; "-ours" on one with modes, "-ours-once" the first time.
    fn misdeed(&self, exec: &Exec) -> String {
        let once = || exec.mark.is_some() && first_time();
        let flat = self.mode != Mode::Radix.into();
        let ours = !self.unpatched;
        let ends = |end: &str| self.what.strip_suffix(end);
        let (what, here) = if let Some(what) = ends("-ours-once") {
            (what, ours && once())
        } else if let Some(what) = ends("-once") {
            (what, flat && once())
        } else if let Some(what) = ends("-m") {
            (what, flat)
        } else if let Some(what) = ends("-u") {
            (what, !ours)
        } else if let Some(what) = ends("-ours") {
            (what, ours)
        } else {
            (self.what.as_str(), true)
        };
        if here {
            what.to_string()
        } else {
            String::new()
        }
    }

    fn command(&mut self, exec: &Exec, argv: &[&str]) {
        let id = exec.id;
        if let Some(mark) = &exec.mark {
            say(&format!("[    2.000000] fpt-init: begin {mark}"));
        }
        let what = self.misdeed(exec);
        let mut tap = "TAP version 13\n1..2\nok 1 one\nok 2 two\n".to_string();
        match what.as_str() {
            "panic" => {
                panic_lines();
                std::process::exit(0);
            }
            "triple" => std::process::exit(0),
            "hang" => forever(),
            "warn" => say("[    3.000000] WARNING: CPU: 0 PID: 7 at mm/memory.c:1 foo+0x1/0x2"),
            "out-of-memory" => {
                say("[    3.000000] Out of memory: Killed process 9 (prog) total-vm:9kB");
            }
            "flood" => {
                for n in 0..40_000 {
                    say(&format!(
                        "[    3.000000] line {n} of a console that never ends"
                    ));
                }
            }
            "not-ok" => tap = tap.replace("ok 2", "not ok 2"),
            "skip" => tap = tap.replace("ok 2 two", "ok 2 two # SKIP"),
            "no-plan" => tap = tap.replace("1..2\n", ""),
            "short" => tap = tap.replace("ok 2 two\n", ""),
            "timeout" => return self.exit(id, 0, true),
            "cannot-start" => {
                self.out(id, Stream::Stderr, "./one: No such file or directory\n");
                return self.exit(id, 127, false);
            }
            _ => {}
        }
        match argv {
            ["exit", code] => {
                self.out(id, Stream::Stdout, "to stdout\n");
                self.out(id, Stream::Stderr, "to stderr\n");
                self.exit(id, code.parse().expect("a number"), false);
            }
            ["sleep"] => {}
            ["/init", "mark", ..] => {
                let text = match what.as_str() {
                    "other-output" => "other\n",
                    _ => "hello\n",
                };
                self.out(id, Stream::Stdout, text);
                let (code, signal) = match what.as_str() {
                    "forever" => return,
                    "exit-7" => (7, 0),
                    "segv" => (0, 11),
                    "out-of-memory" => (0, 9),
                    _ => (0, 0),
                };
                self.send(&Ev::Exit {
                    id,
                    code,
                    signal,
                    timeout: false,
                    ms: 1,
                });
            }
            ["cat", "/.sim/seen"] => {
                let text = serde_json::to_string(&fpt_testkit::causes::seen());
                self.out(id, Stream::Stdout, &text.expect("JSON"));
                self.exit(id, 0, false);
            }
            ["/init", "walk-target", ..] => {
                self.out(
                    id,
                    Stream::Stdout,
                    "target addr 0x123456789000 pfn 0x12345\n",
                );
            }
            [_, "-c", line] if line.contains("transparent_hugepage") => {
                let set = match what.as_str() {
                    "no-thp" => "never",
                    _ => self.thp.as_str(),
                };
                self.out(id, Stream::Stdout, &format!("always madvise [{set}]\n"));
                self.exit(id, 0, false);
            }
            [_, "-c", "cat /proc/meminfo"] => {
                self.out(id, Stream::Stdout, "PageTables:         100 kB\n");
                self.exit(id, 0, false);
            }
            ["fpt-stress", "image", ..] => {
                std::thread::sleep(Duration::from_millis(50));
                let name = argv.iter().find_map(|a| a.strip_prefix("--")).unwrap_or("");
                match (what.as_str(), name) {
                    ("stressor-fails", "b") => {
                        self.out(
                            id,
                            Stream::Stderr,
                            "stress-ng: fail: [9] b: wrong contents\n",
                        );
                        return self.exit(id, 2, false);
                    }
                    ("not-here", "b") => return self.exit(id, 3, false),
                    ("killed", "b") => return self.exit(id, 5, false),
                    _ => {}
                }
                let line = format!("stress-ng: metrc: [9] {name}    12   1.0   0.5\n");
                self.out(id, Stream::Stdout, &line);
                self.exit(id, 0, false);
            }
            ["./fpt_fuzz", "-R", rest @ ..] => {
                std::thread::sleep(Duration::from_millis(300));
                let warm_up = rest.first() == Some(&"-n");
                let bad = what == "mismatch" && !warm_up;
                let mut text = format!(
                    "fuzz seed 7\nfuzz call_munmap 30\nfuzz steps 200\nfuzz checks 4000\nfuzz table_checks 5\nfuzz mismatches {}\n",
                    i32::from(bad)
                );
                if bad {
                    text.insert_str(
                        0,
                        "# MISMATCH seed 62 step 9 (munmap): read: expected signal 11, got 0; page 0x1200 (cell 3)\n\
                         # again: fpt_fuzz -s 62 -R -r 3,9\n",
                    );
                }
                match (what.as_str(), warm_up) {
                    // A program that says nothing and is content
                    ("silent", false) => self.exit(id, 0, false),
                    ("not-root", _) => self.exit(id, 2, false),
                    _ => {
                        self.out(id, Stream::Stdout, &text);
                        self.exit(id, i32::from(bad), false);
                    }
                }
            }
            ["./fpt_stress", ..] => {
                std::thread::sleep(Duration::from_millis(50));
                self.out(id, Stream::Stdout, "# 7 map\n# 8 touch\nok 1 contents\n");
                self.exit(id, 0, false);
            }
            [program, ..] if program.starts_with("/workloads/") => {
                let ok = what != "check-fails";
                let line = format!(
                    "{{\"workload\":\"x\",\"ok\":{ok},\"check\":\"made up\",\"page_tables_kb\":4112}}\n"
                );
                match what.as_str() {
                    "forever" => return,
                    "silent" => {}
                    _ => self.out(id, Stream::Stdout, &line),
                }
                self.exit(id, i32::from(!ok), false);
            }
            _ => {
                self.out(id, Stream::Stdout, &tap);
                if exec.mark.is_some() {
                    say("[    4.000000] fpt-init: end x");
                }
                self.exit(id, 0, false);
            }
        }
    }
}
