// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which addresses of a process to compare page-table walks at: mapped pages and holes.

/// First address that user space cannot map: the last page of its half stays free.
pub const USER_END: u64 = (1 << 47) - PAGE;
/// Bits 48..63 of R12 while a process waits to be looked at; its pid is below.
pub const TOKEN: u64 = 0x4650 << 48;

const PAGE: u64 = 1 << 12;
/// Addresses at which one more index bit changes on both sides: tables, nodes, spans end there.
const BORDERS: [u64; 3] = [1 << 21, 1 << 30, 1 << 39];

/// A mapping of a process, by its first address and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
    /// What is mapped there.
    pub sort: Sort,
}

/// What the kernel's walkers make of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Ordinary memory.
    Plain,
    /// Huge pages from a pool: walks of their own.
    Hugetlb,
    /// Frames without pages, such as the vDSO's data: pagemap takes it for a hole.
    Pfnmap,
}

/// The user mappings of /proc/PID/smaps (`maps` serves too: then all are plain).
pub fn areas(smaps: &str) -> Vec<Area> {
    let mut out: Vec<Area> = Vec::new();
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(last) = out.last_mut() {
                for flag in flags.split_whitespace() {
                    match flag {
                        "ht" => last.sort = Sort::Hugetlb,
                        "pf" => last.sort = Sort::Pfnmap,
                        _ => {}
                    }
                }
            }
            continue;
        }
        let Some((start, end)) = line
            .split_whitespace()
            .next()
            .and_then(|w| w.split_once('-'))
        else {
            continue;
        };
        let hex = |text| u64::from_str_radix(text, 16).ok();
        if let (Some(start), Some(end)) = (hex(start), hex(end)) {
            if start < end {
                out.push(Area {
                    start,
                    end,
                    sort: Sort::Plain,
                });
            }
        }
    }
    // The vsyscall page is shown with every process, but is not in its user tables.
    out.retain(|a| a.end <= USER_END);
    out
}

/// Addresses to ask for, in order, each once: every page of small mappings, of large ones what lies
/// around borders and, with `seed`, some more; of holes their ends, what lies around borders, and
/// the middle. Never page aligned only: offsets within the page differ.
pub fn addresses(areas: &[Area], seed: u64) -> Vec<u64> {
    const WHOLE: u64 = 64;
    const SOME: u64 = 32;
    let mut out = Vec::new();
    let mut random = seed | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut before = 0;
    for area in areas.iter().copied().chain([Area {
        start: USER_END,
        end: USER_END,
        sort: Sort::Plain,
    }]) {
        let hole = area.start.saturating_sub(before);
        if hole > 0 {
            out.extend([
                before,
                area.start - PAGE,
                before + ((hole / 2) & !(PAGE - 1)),
            ]);
            out.extend(around(before, area.start));
        }
        before = area.end;
        let pages = (area.end - area.start) / PAGE;
        if pages == 0 {
            continue;
        }
        if pages <= WHOLE {
            out.extend((0..pages).map(|p| area.start + p * PAGE));
        } else {
            out.extend([area.start, area.end - PAGE]);
            out.extend(around(area.start, area.end));
            out.extend((0..SOME).map(|_| area.start + next() % pages * PAGE));
            // Neighbours, as a range walker steps.
            let run = area.start + next() % (pages - SOME) * PAGE;
            out.extend((0..SOME).map(|p| run + p * PAGE));
        }
    }
    out.retain(|a| *a < USER_END);
    for addr in &mut out {
        *addr = (*addr & !(PAGE - 1)) | ((*addr >> 9) & (PAGE - 1));
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// The pages on both sides of the first and the last border of each size within a range.
fn around(start: u64, end: u64) -> Vec<u64> {
    let mut out = Vec::new();
    for size in BORDERS {
        let first = start.next_multiple_of(size);
        let last = end / size * size;
        for border in [first, first + size, last.saturating_sub(size), last] {
            for page in [border.wrapping_sub(PAGE), border] {
                if (start..end).contains(&page) {
                    out.push(page);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
100000000000-100000200000 rw-p 00000000 00:00 0
Size:               2048 kB
VmFlags: rd wr mr mw me ac
10003ff00000-100040100000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me de ht
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [vvar]
VmFlags: rd mr pf io de dd sd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";

    #[test]
    fn mappings() {
        let list = areas(SMAPS);
        assert_eq!(list.len(), 3, "{list:x?}");
        assert_eq!(
            list.iter().map(|a| a.sort).collect::<Vec<_>>(),
            [Sort::Plain, Sort::Hugetlb, Sort::Pfnmap]
        );
        assert_eq!(list[0].end, 0x1000_0020_0000);
    }

    #[test]
    fn choice() {
        let list = areas(SMAPS);
        let chosen = addresses(&list, 7);
        assert_eq!(chosen, addresses(&list, 7));
        assert!(chosen.is_sorted_by(|a, b| a < b));
        let has = |page: u64| chosen.iter().any(|a| a & !(PAGE - 1) == page);
        // Both sides of the border within a mapping, the ends of mappings and of holes.
        for page in [
            0x1000_3fff_f000,
            0x1000_4000_0000,
            0x1000_001f_f000,
            0x1000_0020_0000,
            0x0fff_ffff_f000,
            0x1000_0000_0000,
            0,
            USER_END - PAGE,
        ] {
            assert!(has(page), "{page:#x}");
        }
        // Every page of the small one.
        assert!((0x7fff_fffd_e000..0x7fff_ffff_f000).step_by(4096).all(has));
        let mapped = |a: &u64| list.iter().any(|v| (v.start..v.end).contains(a));
        let inside = chosen.iter().filter(|a| mapped(a)).count();
        assert!(
            inside > 100 && chosen.len() - inside > 20,
            "{inside} of {}",
            chosen.len()
        );
    }

    #[test]
    fn nothing_mapped() {
        let chosen = addresses(&[], 1);
        assert!(!chosen.is_empty() && chosen.iter().all(|a| *a < USER_END));
        assert!(areas("nonsense\n12-\n-\nVmFlags: ht\n").is_empty());
    }
}
