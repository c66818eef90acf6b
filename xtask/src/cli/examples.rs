// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two examples for each command, at the end of its help.

/// The command, then lines with what they do.
pub type Examples = (&'static str, &'static [(&'static str, &'static str)]);

pub const EXAMPLES: &[Examples] = &[
    (
        "doctor",
        &[
            ("fpt doctor", "what is there and what is missing"),
            ("fpt doctor --json", "the same for a program"),
        ],
    ),
    (
        "setup",
        &[
            ("fpt setup", "ask, then install what is missing"),
            (
                "fpt setup --yes --all",
                "do not ask, and build what the other commands use",
            ),
        ],
    ),
    (
        "fetch",
        &[
            ("fpt fetch", "the sources of the kernel and of QEMU"),
            ("fpt fetch linux", "those of the kernel"),
        ],
    ),
    (
        "patch",
        &[
            (
                "fpt patch status linux",
                "where the patched tree is, and what was edited there",
            ),
            (
                "fpt patch check qemu",
                "does every patch apply, and is it well-formed",
            ),
        ],
    ),
    (
        "build-qemu",
        &[
            ("fpt build-qemu", "build it, print its path"),
            ("fpt build-qemu --jobs 1", "beside other work"),
        ],
    ),
    (
        "build-kernel",
        &[
            (
                "fpt build-kernel --mode l3l2",
                "build it, print the path of vmlinux and how to boot it",
            ),
            (
                "fpt build-kernel --profile debug",
                "with lockdep and other checks",
            ),
        ],
    ),
    (
        "build-selftests",
        &[
            ("fpt build-selftests", "build them, print their folder"),
            ("fpt build-selftests --json", "the same for a program"),
        ],
    ),
    (
        "build-image",
        &[
            (
                "fpt build-image strace",
                "a disk with one package and what it needs",
            ),
            ("fpt build-image redis-server memcached", "one with two"),
        ],
    ),
    (
        "run",
        &[
            ("fpt run --mode l3l2", "a shell in the guest"),
            (
                "fpt run --mode l4l3-l2l1 --rw -- sh -c 'dmesg >/host/dmesg.txt'",
                "one command, which may write to this folder",
            ),
        ],
    ),
    (
        "walk",
        &[
            (
                "fpt walk --mode l3l2",
                "beside radix, for an address of a small program",
            ),
            (
                "fpt walk --mode l4l3-l2l1 --huge",
                "for an address in a 2 MiB page",
            ),
        ],
    ),
    (
        "agree",
        &[
            ("fpt agree", "in every mode"),
            ("fpt agree --mode l3l2,l4l3-l2l1", "in two"),
        ],
    ),
    (
        "tlbsan",
        &[
            ("fpt tlbsan mutants", "all flushes, one after the other"),
            ("fpt tlbsan mutants --only 1,12", "two of them"),
            ("fpt tlbsan fuzz-mutants --only 3", "what fork gets wrong"),
            (
                "fpt tlbsan flushes --mode radix,l3l2 -- ls -lR /proc/sys",
                "flushes that ended nothing",
            ),
        ],
    ),
    (
        "selftest",
        &[
            (
                "fpt selftest --mode l3l2",
                "everything in selftests/list.toml",
            ),
            (
                "fpt selftest --mode l3l2 --same-image --filter fpt/",
                "our own programs, against radix alone",
            ),
        ],
    ),
    (
        "stress",
        &[
            ("fpt stress --mode l3l2", "two minutes"),
            (
                "fpt stress --mode l4l3,l3l2,l4l3-l2l1 --minutes 30 --profile debug",
                "a thorough run",
            ),
        ],
    ),
    (
        "fuzz",
        &[
            ("fpt fuzz --mode l3l2", "a minute"),
            (
                "fpt fuzz --mode l3l2 --seed 7 --minutes 10",
                "the same calls again",
            ),
        ],
    ),
    (
        "test",
        &[
            ("fpt test", "what CI runs"),
            (
                "fpt test --only lint --only host",
                "the stages that need no kernel",
            ),
        ],
    ),
    (
        "gdb",
        &[
            ("fpt gdb --mode l3l2", "stop at the first instruction"),
            (
                "fpt gdb --mode l3l2 -x 'hbreak fpt_node_acquire' -- true",
                "stop where nodes are made",
            ),
        ],
    ),
    (
        "kcount",
        &[
            ("fpt kcount", "in every mode, three runs"),
            (
                "fpt kcount --mode radix,l3l2 --quick --runs 1",
                "to see that it works",
            ),
        ],
    ),
    (
        "bench",
        &[
            (
                "fpt bench --scale tiny --workloads gups,bfs",
                "minutes: to see that it works",
            ),
            ("fpt bench --resume", "go on with the newest matrix"),
        ],
    ),
    (
        "sim",
        &[
            (
                "fpt sim -- ./prog 600",
                "the whole run of a program, on radix and on l4l3-l2l1",
            ),
            (
                "fpt sim --mode radix,l3l2 --preset server --files /data --json -- ./prog /data/in",
                "other modes and hardware, with a folder of data, for a program",
            ),
        ],
    ),
    (
        "report",
        &[
            ("fpt report", "of the newest matrix"),
            (
                "fpt report --compare before after",
                "two matrices of bench by their names",
            ),
        ],
    ),
    (
        "claims",
        &[
            (
                "fpt claims",
                "every figure of the documents against the committed data",
            ),
            (
                "fpt claims --only sweep",
                "those with this word in their name",
            ),
        ],
    ),
    (
        "sweep",
        &[
            ("fpt sweep", "every machine, stream and footprint"),
            (
                "fpt sweep --pattern gups --from 1024 --to 8192",
                "one stream, from 1 to 8 GiB",
            ),
        ],
    ),
    (
        "docs",
        &[
            ("fpt docs", "into target/book, and print its first page"),
            ("fpt docs --out /tmp/book", "into another folder"),
        ],
    ),
    (
        "clean",
        &[
            ("fpt clean --dry-run", "what would go, and how large it is"),
            ("fpt clean --all", "everything, the sources too"),
        ],
    ),
    (
        "editor",
        &[
            (
                "fpt editor",
                "for rust-analyzer and clangd in the patched kernel",
            ),
            ("fpt editor --dry-run", "only say which files"),
        ],
    ),
    (
        "completions",
        &[
            (
                "fpt completions bash >~/.local/share/bash-completion/completions/fpt",
                "for bash",
            ),
            (
                "fpt completions fish >~/.config/fish/completions/fpt.fish",
                "for fish",
            ),
        ],
    ),
    (
        "man",
        &[
            (
                "fpt man ~/.local/share/man/man1",
                "write a page for each command",
            ),
            ("fpt man --print run", "one page, to read at once"),
        ],
    ),
];

/// The examples of a command, as its help ends.
pub fn of(command: &str) -> Option<String> {
    let (_, lines) = EXAMPLES.iter().find(|(name, _)| *name == command)?;
    let shown: Vec<String> = lines
        .iter()
        .map(|(line, what)| format!("  {line}\n      {what}"))
        .collect();
    Some(format!("Examples:\n{}", shown.join("\n")))
}
