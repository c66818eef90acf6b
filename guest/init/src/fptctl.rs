// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fptctl`: which page tables a process has, chosen and looked at from a shell in the guest.
//! The calls behind it: docs/reference/pgtables.md.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use fpt_geometry::{Mode, NodeKind};

use crate::sys;

/// The name of the program; init has it as a link to itself.
pub const NAME: &str = "fptctl";

const USAGE: &str = "usage: fptctl exec TABLES [--] CMD [ARGS]   run CMD with these tables
       fptctl get [PID]                   say what was chosen here, or the nodes of process PID
       fptctl flatten PID [START-END]     move the tables of PID, or of these addresses (hex), into nodes
       fptctl unflatten PID [START-END]   and back
TABLES: system, auto, or a mode: radix, l4l3, l3l2, l4l3-l2l1
exit codes: 0 done; 1 refused by the kernel; 2 wrong usage; 126, 127 CMD cannot be started; else CMD's";

const REFUSED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const CANNOT_START: i32 = 126;
const NOT_FOUND: i32 = 127;

const PR_SET_PGTABLES: i32 = 0x4650_5401;
const PR_GET_PGTABLES: i32 = 0x4650_5402;

/// What a process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// Nothing: what the boot and the policy say.
    System,
    /// A mode, with nodes at first touch.
    Mode(Mode),
    /// Nodes where they pay.
    Auto,
}

impl Request {
    const ALL: [Request; 6] = [
        Request::System,
        Request::Mode(Mode::Radix),
        Request::Mode(Mode::L4L3),
        Request::Mode(Mode::L3L2),
        Request::Mode(Mode::L4L3L2L1),
        Request::Auto,
    ];

    /// The kernel's number.
    fn number(self) -> u64 {
        match self {
            Request::System => 0,
            Request::Mode(mode) => 1 + mode as u64,
            Request::Auto => 5,
        }
    }

    fn from_number(number: i32) -> Option<Request> {
        let is = |r: &Request| Ok(r.number()) == u64::try_from(number);
        Request::ALL.into_iter().find(is)
    }

    fn parse(word: &str) -> Option<Request> {
        Request::ALL.into_iter().find(|r| r.name() == word)
    }

    fn name(self) -> &'static str {
        match self {
            Request::System => "system",
            Request::Mode(mode) => mode.name(),
            Request::Auto => "auto",
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which tables a request is about.
#[derive(Clone, Copy)]
enum When {
    Now = 1,
    Exec = 2,
}

pub fn main(args: &[String]) -> i32 {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exec", tables, "--", program, rest @ ..] | ["exec", tables, program, rest @ ..]
            if *program != "--" =>
        {
            exec(tables, program, rest)
        }
        ["get"] => own(),
        ["get", pid] => of(pid),
        ["flatten", pid] => advise(Advice::Flatten, pid, None),
        ["flatten", pid, range] => advise(Advice::Flatten, pid, Some(range)),
        ["unflatten", pid] => advise(Advice::Unflatten, pid, None),
        ["unflatten", pid, range] => advise(Advice::Unflatten, pid, Some(range)),
        ["help" | "-h" | "--help"] => {
            println!("{USAGE}");
            0
        }
        _ => {
            eprintln!("{USAGE}");
            WRONG_USAGE
        }
    }
}

fn exec(tables: &str, program: &str, rest: &[&str]) -> i32 {
    let Some(request) = Request::parse(tables) else {
        let names = Request::ALL.map(Request::name).join(", ");
        eprintln!("{NAME}: no tables '{tables}'; one of: {names}");
        return WRONG_USAGE;
    };
    let args = [request.number(), When::Exec as u64, 0, 0];
    if let Err(why) = sys::prctl(PR_SET_PGTABLES, args) {
        eprintln!("{NAME}: cannot choose {request}: {}", because(&why));
        return REFUSED;
    }
    let why = Command::new(program).args(rest).exec();
    eprintln!("{NAME}: cannot start {program}: {why}");
    match why.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_START,
    }
}

/// What this process would pass on: it came from the shell that called.
fn own() -> i32 {
    let get = |when: When| sys::prctl(PR_GET_PGTABLES, [when as u64, 0, 0, 0]);
    match (get(When::Now), get(When::Exec)) {
        (Ok(now), Ok(exec)) => {
            let name = |n| Request::from_number(n).map_or("unknown", Request::name);
            println!("now {}\nexec {}", name(now), name(exec));
            0
        }
        (Err(why), _) | (_, Err(why)) => {
            eprintln!("{NAME}: nothing can be chosen: {}", because(&why));
            REFUSED
        }
    }
}

/// The nodes of a process. What another one chose is its own affair: the kernel has no call for that.
fn of(pid: &str) -> i32 {
    let Some(pid) = process(pid) else {
        return WRONG_USAGE;
    };
    let path = "/sys/kernel/debug/fpt/mm";
    let text = match sys::ask(path, &pid.to_string()) {
        Ok(text) => text,
        Err(why) => {
            eprintln!("{NAME}: cannot look at process {pid}: {path}: {why}");
            return REFUSED;
        }
    };
    for kind in NodeKind::ALL {
        println!("{kind} {}", count(&text, kind.name()).unwrap_or(0));
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if let Some(kb) = count(&status, "VmPTE:") {
        println!("tables_kb {kb}");
    }
    0
}

/// What is asked for a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Advice {
    Flatten = 0x4650_5403,
    Unflatten = 0x4650_5404,
}

/// 1 GiB, what one node covers.
const SPAN: u64 = 1 << 30;

/// Advice for each GiB of a process that has a mapping, or of a range of it.
fn advise(advice: Advice, pid: &str, range: Option<&str>) -> i32 {
    let Some(pid) = process(pid) else {
        return WRONG_USAGE;
    };
    let range = match range.map(|text| (text, addresses(text))) {
        None => 0..u64::MAX,
        Some((_, Some(range))) => range,
        Some((text, None)) => {
            eprintln!("{NAME}: '{text}' is no range; give START-END, in hexadecimal, as in /proc/PID/maps");
            return WRONG_USAGE;
        }
    };
    let opened =
        sys::pidfd(pid).and_then(|fd| Ok((fd, fs::read_to_string(format!("/proc/{pid}/maps"))?)));
    let (fd, maps) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            eprintln!("{NAME}: cannot look at process {pid}: {why}");
            return REFUSED;
        }
    };
    let (mut done, mut refused) = (0, 0);
    for part in spans(&maps, &range) {
        match sys::advise_other(fd.as_fd(), part.start, part.end - part.start, advice as i32) {
            Ok(()) => done += 1,
            Err(why) => {
                refused += 1;
                eprintln!("{NAME}: {:x}-{:x}: {}", part.start, part.end, refusal(&why));
            }
        }
    }
    println!("done {done}\nrefused {refused}");
    match (done, refused) {
        (0, 0) => {
            eprintln!("{NAME}: process {pid} has nothing mapped there");
            REFUSED
        }
        (0, _) => REFUSED,
        _ => 0,
    }
}

/// `START-END`, hexadecimal.
fn addresses(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    let hex = |n: &str| u64::from_str_radix(n.trim_start_matches("0x"), 16).ok();
    Some(hex(start)?..hex(end)?).filter(|range| range.start < range.end)
}

/// What is mapped of each GiB inside of `range`, by the first mapping there.
fn spans(maps: &str, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    let user = maps.lines().filter(|line| !line.ends_with("[vsyscall]"));
    for mapped in user.filter_map(|line| addresses(line.split(' ').next()?)) {
        let (mut at, end) = (mapped.start.max(range.start), mapped.end.min(range.end));
        while at < end {
            let next = (at / SPAN + 1) * SPAN;
            if spans
                .last()
                .is_none_or(|last| last.start / SPAN != at / SPAN)
            {
                spans.push(at..end.min(next));
            }
            at = next;
        }
    }
    spans
}

fn refusal(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(libc::EBUSY) => "a huge page, hugetlb or an L3+L2 node is there".to_string(),
        Some(libc::EAGAIN) => {
            "no block of 2 MiB is free, or the tables changed; try again".to_string()
        }
        Some(libc::ENOSPC) => {
            "there are as many nodes as fpt.cap_percent or fpt.mm_cap allows".to_string()
        }
        Some(libc::EPERM) => "the process is another user's".to_string(),
        _ => because(why),
    }
}

/// A process's number; says what is wrong with it.
fn process(pid: &str) -> Option<u32> {
    let number = pid.parse::<u32>().ok().filter(|pid| *pid > 0);
    if number.is_none() {
        eprintln!("{NAME}: '{pid}' is no process; give its number");
    }
    number
}

/// The number behind a word.
fn count(text: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair.first() == Some(&word))?;
    pair.last()?.parse().ok()
}

fn because(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this boot has no such nodes; fpt=mixed has all, and radix none".to_string()
        }
        Some(libc::EINVAL) => "this kernel does not know the call".to_string(),
        _ => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> i32 {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        main(&words)
    }

    #[test]
    fn a_request_is_its_number_and_its_name() {
        for (n, request) in (0..).zip(Request::ALL) {
            assert_eq!(request.number(), n as u64);
            assert_eq!(Request::from_number(n), Some(request));
            assert_eq!(Request::parse(request.name()), Some(request));
        }
        for n in [-1, 6] {
            assert_eq!(Request::from_number(n), None);
        }
        assert_eq!(Request::parse("mixed"), None);
    }

    #[test]
    fn wrong_words_are_refused() {
        for line in [
            "",
            "exec",
            "exec l3l2",
            "exec l3l2 --",
            "exec mixed -- true",
            "get x",
            "get 0",
            "get 1 2",
            "flatten",
            "flatten x",
            "flatten 1 2",
            "flatten 1 2-1",
            "unflatten 1 2-x",
        ] {
            assert_eq!(run(line), WRONG_USAGE, "{line}");
        }
        assert_eq!(run("--help"), 0);
    }

    #[test]
    fn each_gib_with_a_mapping_once() {
        let maps = "00400000-00500000 r-xp 00000000 00:02 7  /bin/x\n\
                    00600000-00700000 rw-p 00000000 00:00 0  [heap]\n\
                    7fff00000000-7fff60000000 rw-p 00000000 00:00 0\n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n";
        let all = spans(maps, &(0..u64::MAX));
        let high = 0x7fff_0000_0000;
        let (gib, end) = (high + SPAN, high + SPAN * 3 / 2);
        assert_eq!(all, [0x40_0000..0x50_0000, high..gib, gib..end]);
        let page = gib..gib + 0x1000;
        assert_eq!(spans(maps, &page), std::slice::from_ref(&page));
        assert_eq!(spans(maps, &(0..0x1000)), []);
        assert_eq!(spans("", &(0..u64::MAX)), []);
    }

    #[test]
    fn numbers_behind_words() {
        let text = "root 1 mid 0\nbottom 12\nVmPTE:\t 44 kB\n";
        assert_eq!(count(text, "bottom"), Some(12));
        assert_eq!(count(text, "VmPTE:"), Some(44));
        assert_eq!(count(text, "kB"), None);
    }
}
