// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program whose page-table walk `cargo xtask walk` shows: it maps memory at a fixed address,
//! touches it, tells address and frame number, and stays in user mode on its CPU.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::sys;

/// In a 512 GiB span (and so under a PML4 entry) where no library or stack ever is, with
/// different index bits on every level so that the printed walk can be read.
const DEFAULT: usize = 0x1234_5678_9000;
const HUGE: usize = 2 << 20;
const PAGE: usize = 4 << 10;

pub fn main(args: &[String]) -> i32 {
    let (mut huge, mut addr) = (false, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--huge" => huge = true,
            "--addr" => {
                addr = rest
                    .next()
                    .and_then(|text| usize::from_str_radix(text.trim_start_matches("0x"), 16).ok());
                if addr.is_none() {
                    eprintln!("walk-target: --addr needs a hexadecimal address");
                    return 2;
                }
            }
            other => {
                eprintln!("walk-target: unknown argument {other}");
                return 2;
            }
        }
    }
    match run(addr.unwrap_or(DEFAULT), huge) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("walk-target: {error}");
            1
        }
    }
}

fn run(addr: usize, huge: bool) -> Result<i32, String> {
    let size = if huge { HUGE } else { PAGE };
    let base = addr & !(size - 1);
    let got = sys::map_at(base, size)
        .map_err(|e| format!("cannot map {size} bytes at {base:#x}: {e}"))?;
    if got != base {
        return Err(format!("asked for {base:#x}, got {got:#x}"));
    }
    if huge {
        sys::want_huge(base, size).map_err(|e| format!("the kernel gives no huge pages: {e}"))?;
    }
    sys::touch(addr);
    let frame = frame_of(addr)?;
    println!("target addr {addr:#x} size {size} pfn {frame:#x}");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    // In user mode and on the CPU, so that CR3 is this process's when the host looks.
    loop {
        std::hint::spin_loop();
    }
}

fn frame_of(addr: usize) -> Result<u64, String> {
    let file = File::open("/proc/self/pagemap").map_err(|e| format!("/proc/self/pagemap: {e}"))?;
    let mut raw = [0; 8];
    let offset = (addr / PAGE) as u64 * 8;
    file.read_exact_at(&mut raw, offset)
        .map_err(|e| format!("/proc/self/pagemap: {e}"))?;
    let value = u64::from_ne_bytes(raw);
    if value >> 63 == 0 {
        return Err("pagemap says that the page is not present".into());
    }
    Ok(value & ((1 << 55) - 1))
}
