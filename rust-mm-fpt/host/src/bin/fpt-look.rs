// SPDX-License-Identifier: GPL-2.0

//! `fpt-look`: walks of a stopped guest's page tables by the core, from a file that is its memory.
//!
//! Exit status: 0 answered, 2 bad usage, 69 the memory could not be read.

use fpt_core::entry::{Entry, CR4_FPTE};
use fpt_core::geometry::NODE_BYTES;
use fpt_core::walk::Cfg;
use fpt_host::look::{walk_text, FileMem, Guest, Layout, Seen, Shape};
use std::fs::File;
use std::io::{BufRead, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: fpt-look MEMORY CR3 CR4 EFER PHYS-BITS [VMEMMAP PAGE WORD1]

MEMORY is a file: guest-physical memory from address 0 on, which nobody may change meanwhile. The last three are
what the kernel's debugfs file fpt/layout says; without them no index page is found. Questions come on standard input, one a line, answers go to standard output:
  walk ADDR        the entries that hardware visits, as QEMU's `info walk` prints them, and where the kernel's walk ends
  area START END   adds a mapping to the sum that `sum` prints
  sum              what the kernel's emt/check sees in the mappings added so far
  shape            nodes below CR3 and KiB of all tables but a conventional root, user half; an error if an index
                   page does not say what the slices of a flattened node hold
Numbers are hexadecimal with 0x, or decimal. Each answer ends with a line `ok` or `error: WHY`.";

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number from 0 to 2^64-1"))
}

struct Look {
    guest: Guest,
    seen: Seen,
}

impl Look {
    fn new(args: &[String]) -> Result<Look, (u8, String)> {
        let usage = |why: String| (2, format!("{why}\n{USAGE}"));
        let [path, cr3, cr4, efer, bits, rest @ ..] = args else {
            return Err(usage("five or eight arguments are needed".into()));
        };
        let number = |text: &String| number(text).map_err(usage);
        let layout = match rest {
            [] => None,
            [vmemmap, page, word1] => {
                let layout = Layout::new(number(vmemmap)?, number(page)?, number(word1)?);
                Some(layout.map_err(usage)?)
            }
            _ => return Err(usage("five or eight arguments are needed".into())),
        };
        let (cr3, cr4, efer, bits) = (number(cr3)?, number(cr4)?, number(efer)?, number(bits)?);
        if !(32..=52).contains(&bits) {
            return Err(usage(format!("{bits} physical address bits: 32 to 52")));
        }
        let mem = File::open(path)
            .and_then(FileMem::new)
            .map_err(|e| (69, format!("cannot read {path}: {e}")))?;
        let cfg = Cfg {
            fpte: cr4 & CR4_FPTE != 0,
            nxe: efer & 1 << 11 != 0,
            phys_bits: bits as u32,
        };
        Ok(Look {
            guest: Guest {
                mem,
                cr3,
                cfg,
                layout,
            },
            seen: Seen::default(),
        })
    }

    fn answer(&mut self, question: &str) -> Result<String, String> {
        let guest = &self.guest;
        let words: Vec<&str> = question.split_whitespace().collect();
        match words.as_slice() {
            ["walk", addr] => Ok(walk_text(guest, guest.cr3, number(addr)?, &guest.cfg)),
            ["area", start, end] => {
                let (start, end) = (number(start)?, number(end)?);
                if start >= end || end > 1 << 47 || (start | end) & 0xfff != 0 {
                    return Err(format!("{start:#x} to {end:#x} is no mapping"));
                }
                self.seen
                    .add(guest, Entry::new(guest.cr3).addr(), start, end)
                    .map(|()| String::new())
                    .map_err(|addr| format!("no kernel has such an entry at {addr:#x}"))
            }
            ["sum"] => Ok(format!(
                "sum pte {} pmd {} pud {} hash {:016x}\n",
                self.seen.ptes, self.seen.pmds, self.seen.puds, self.seen.hash
            )),
            ["shape"] => Shape::of(guest, guest.cr3).map(|s| {
                format!(
                    "shape root {} mid {} bottom {} kib {}\n",
                    s.root,
                    s.mid,
                    s.bottom,
                    s.tables * 4 + (s.root + s.mid + s.bottom) * (NODE_BYTES >> 10)
                )
            }),
            _ => Err(format!("'{question}' is no question")),
        }
    }
}

fn run(args: &[String]) -> Result<(), (u8, String)> {
    let mut look = Look::new(args)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let failed = |e: std::io::Error| (69, e.to_string());
    for line in std::io::stdin().lock().lines() {
        let answer = look.answer(&line.map_err(failed)?);
        if let Some(e) = look.guest.mem.error() {
            return Err((69, format!("cannot read the memory: {e}")));
        }
        match answer {
            Ok(text) => writeln!(out, "{text}ok"),
            Err(why) => writeln!(out, "error: {why}"),
        }
        .map_err(failed)?;
    }
    out.flush().map_err(failed)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "-h" || a == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            eprintln!("fpt-look: {why}");
            ExitCode::from(code)
        }
    }
}
