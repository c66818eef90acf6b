// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fpt-init fragment PERCENT PROGRAM [ARGS]`: a program runs while a share of the free memory has no
//! block of 2 MiB, as on a machine that has been up for long. Behind `--fragment`.
//!
//! All free memory is filled with pages. Of PERCENT of the blocks that are whole, one page stays, at
//! another place in each; it is locked, and the kernel is told not to compact what is locked. The
//! rest is given back. What came out is read from /proc/buddyinfo and said on standard error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::sys::{self, Advice, Backing, Region};

const PAGE: usize = 4096;
/// Pages in a block of 2 MiB: what a node needs.
const PAGES: u64 = 512;
/// The order of such a block in /proc/buddyinfo.
const ORDER: usize = 9;
/// Where the filling lies; nothing else of this small program is near.
const BASE: usize = 0x2000_0000_0000;
/// Bytes that stay free while memory is filled, for page tables and for the kernel.
const SPARE: usize = 24 << 20;
/// Bytes filled between two looks at what is free.
const STEP: usize = 4 << 20;

/// Runs it; the exit code is the program's, as a shell gives it.
pub fn main(args: &[String]) -> i32 {
    let (Some(percent), Some((program, rest))) = (
        args.first()
            .and_then(|p| p.parse().ok())
            .filter(|p| *p <= 100),
        args.get(1..).and_then(<[String]>::split_first),
    ) else {
        eprintln!("usage: fpt-init fragment PERCENT PROGRAM [ARGS]; PERCENT is 0 to 100");
        return 2;
    };
    // The pages stay for as long as this process does.
    let _pages = match fragment(percent) {
        Ok(pages) => pages,
        Err(error) => {
            eprintln!("fragment: memory cannot be broken up: {error}");
            return 126;
        }
    };
    match Command::new(program).args(rest).status() {
        Ok(status) => sys::shell_code(status.into_raw()),
        Err(error) => {
            eprintln!("fragment: cannot start {program}: {error}");
            127
        }
    }
}

fn fragment(percent: u64) -> io::Result<Region> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    unless_missing(fs::write("/proc/sys/vm/compact_unevictable_allowed", "0"))?;
    let len = free_bytes()?.next_multiple_of(STEP);
    let region = Region::map(BASE, len, Backing::Private)?;
    unless_missing(region.advise(0, len, Advice::NoHugePage))?;
    let mut filled = 0;
    while filled + STEP <= len && free_bytes()? > SPARE + STEP {
        for at in (filled..filled + STEP).step_by(PAGE) {
            region.write(at)?;
        }
        filled += STEP;
    }
    let frames = frames(filled / PAGE)?;
    let kept = kept(&frames, percent);
    // First: when the last whole block goes, the kernel starts to move what is not locked.
    for keep in &kept {
        region.lock(keep * PAGE, PAGE)?;
    }
    // From the first page that goes to the next that stays
    let mut from = 0;
    for keep in kept.into_iter().chain([filled / PAGE]) {
        if keep > from {
            region.advise(from * PAGE, (keep - from) * PAGE, Advice::DontNeed)?;
        }
        from = keep + 1;
    }
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let (without, free) = shares(&fs::read_to_string("/proc/buddyinfo")?);
    eprintln!(
        "fragment: {:.1} % of {} MiB of free memory have no block of 2 MiB, asked for {percent} %",
        100.0 * without as f64 / free.max(1) as f64,
        free >> 8
    );
    Ok(region)
}

/// What a kernel without compaction or huge pages does not have need not be turned off.
fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, NotFound};
    match done {
        Err(error) if matches!(error.kind(), NotFound | InvalidInput) => Ok(()),
        other => other,
    }
}

/// `MemFree`, in bytes.
fn free_bytes() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|l| {
            l.strip_prefix("MemFree:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<usize>()
                .ok()
        })
        .map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemFree"))
}

/// The page frames of the first `pages` of the filling.
fn frames(pages: usize) -> io::Result<Vec<u64>> {
    const FRAME: u64 = (1 << 55) - 1;
    let map = File::open("/proc/self/pagemap")?;
    let mut raw = vec![0; pages * 8];
    map.read_exact_at(&mut raw, (BASE / PAGE * 8) as u64)?;
    let words = raw
        .chunks_exact(8)
        .map(|c| c.try_into().map_or(0, u64::from_le_bytes));
    Ok(words.map(|word| word & FRAME).collect())
}

/// Which pages stay, ascending: one of each block that is broken, of those that are whole, evenly spread.
fn kept(frames: &[u64], percent: u64) -> Vec<usize> {
    let mut blocks: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (page, frame) in frames.iter().enumerate().filter(|(_, frame)| **frame != 0) {
        blocks.entry(frame / PAGES).or_default().push(page);
    }
    let whole = blocks.values().filter(|pages| pages.len() as u64 == PAGES);
    let broken = whole
        .zip(0u64..)
        .filter(|(_, n)| n * percent / 100 != (n + 1) * percent / 100);
    let mut kept: Vec<usize> = broken
        .filter_map(|(pages, n)| {
            pages
                .get((n.wrapping_mul(0x9e37_79b9) % PAGES) as usize)
                .copied()
        })
        .collect();
    kept.sort_unstable();
    kept
}

/// Free pages that are in no block of 2 MiB, and all, of /proc/buddyinfo's text.
fn shares(buddyinfo: &str) -> (u64, u64) {
    let (mut without, mut all) = (0, 0);
    for line in buddyinfo.lines() {
        let counts = line.split_whitespace().skip_while(|w| *w != "zone").skip(2);
        for (order, count) in counts.enumerate() {
            let pages = count.parse::<u64>().unwrap_or(0) << order;
            all += pages;
            if order < ORDER {
                without += pages;
            }
        }
    }
    (without, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_of_each_broken_block_stays() {
        // Four whole blocks in reverse, and half of a fifth.
        let mut frames: Vec<u64> = (PAGES * 10..PAGES * 14).rev().collect();
        frames.extend(PAGES * 20..PAGES * 20 + PAGES / 2);
        for (percent, blocks) in [(0, 0), (25, 1), (50, 2), (75, 3), (100, 4)] {
            let kept = kept(&frames, percent);
            let mut of: Vec<u64> = kept.iter().map(|page| frames[*page] / PAGES).collect();
            of.sort_unstable();
            of.dedup();
            assert_eq!((kept.len(), of.len()), (blocks, blocks), "{percent} %");
            assert!(kept.is_sorted() && of.iter().all(|block| (10..14).contains(block)));
        }
    }

    #[test]
    fn pages_nobody_knows_of_are_left_out() {
        assert!(kept(&[0; 2048], 100).is_empty());
    }

    #[test]
    fn a_kernel_without_huge_pages_will_do() {
        let of = |errno| unless_missing(Err(io::Error::from_raw_os_error(errno)));
        assert!(unless_missing(Ok(())).is_ok());
        // No such file in /proc/sys; advice that the kernel does not know.
        assert!(of(libc::ENOENT).is_ok() && of(libc::EINVAL).is_ok());
        assert!(of(libc::EACCES).is_err() && of(libc::ENOMEM).is_err());
    }

    #[test]
    fn what_buddyinfo_says() {
        let text = "Node 0, zone      DMA      1      0      0      0      0      0      0      0      0      1      2\n\
                    Node 0, zone    DMA32      3      1      0      0      0      0      0      0      1      0      0\n";
        assert_eq!(
            shares(text),
            (1 + 3 + 2 + 256, 1 + 512 + 2048 + 3 + 2 + 256)
        );
    }
}
