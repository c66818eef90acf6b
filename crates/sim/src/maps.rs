// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings: of a process from `/proc/PID/maps`, and of the kernel as x86-64 lays it out.

use std::path::Path;

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    pub start: u64,
    pub end: u64,
    /// Where it begins in its file.
    pub offset: u64,
    /// The file, or `[heap]` and the like; empty if it is anonymous.
    pub name: String,
}

impl Area {
    pub fn holds(&self, at: u64) -> bool {
        (self.start..self.end).contains(&at)
    }

    pub fn is_file(&self) -> bool {
        self.name.starts_with('/')
    }

    /// How a person is told of it.
    pub fn title(&self) -> String {
        if self.is_file() {
            let name = Path::new(&self.name).file_name();
            return name.map_or(self.name.clone(), |n| n.to_string_lossy().into_owned());
        }
        match self.name.is_empty() {
            true => format!(
                "anonymous {:#x}, {}",
                self.start,
                size(self.end - self.start)
            ),
            false if self.name == "[heap]" => format!("[heap] {}", size(self.end - self.start)),
            false => self.name.clone(),
        }
    }
}

/// A size in the largest unit that divides it nearly.
pub fn size(bytes: u64) -> String {
    match bytes {
        n if n >= 10 << 30 => format!("{} GiB", n >> 30),
        n if n >= 10 << 20 => format!("{} MiB", n >> 20),
        n => format!("{} KiB", n >> 10),
    }
}

/// The lines of a `maps` file that can be read, ascending.
pub fn parse(text: &str) -> Vec<Area> {
    let line = |line: &str| {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let hex = |t: &str| u64::from_str_radix(t, 16).ok();
        Some(Area {
            start: hex(start)?,
            end: hex(end)?,
            offset: hex(offset)?,
            name: words.nth(2).unwrap_or("").trim().to_string(),
        })
    };
    let mut out: Vec<Area> = text.lines().filter_map(line).collect();
    out.sort_by_key(|a| a.start);
    out
}

/// The area of most of the `bytes` from `at` on.
pub fn area_of(areas: &[Area], at: u64, bytes: u64) -> Option<&Area> {
    let end = at.saturating_add(bytes);
    let first = areas.partition_point(|a| a.end <= at);
    let near = areas.get(first..)?.iter().take_while(|a| a.start < end);
    near.max_by_key(|a| a.end.min(end) - a.start.max(at))
}

/// Where in the kernel's half an address is, without randomised layout and with tables of four levels.
pub fn kernel_area(at: u64) -> &'static str {
    const AREAS: [(u64, &str); 6] = [
        (0xffff_ffff_8000_0000, "kernel image"),
        (
            0xffff_fe00_0000_0000,
            "kernel: CPU entry areas, fixed mappings",
        ),
        (0xffff_ea00_0000_0000, "kernel: array of struct page"),
        (
            0xffff_c900_0000_0000,
            "kernel: vmalloc (stacks, per-CPU data)",
        ),
        (0xffff_8880_0000_0000, "kernel: direct map of memory"),
        (0, "kernel: other"),
    ];
    let found = AREAS.iter().find(|(start, _)| at >= *start);
    found.map_or("kernel: other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
555555554000-555555556000 r-xp 00001000 00:02 77                         /srv/a b/prog
555555557000-555555578000 rw-p 00000000 00:00 0                          [heap]
7ffff0000000-7ffff4000000 rw-p 00000000 00:00 0 
7ffff4000000-7ffff5000000 ---p 00000000 00:00 0
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
nonsense
";

    #[test]
    fn areas() {
        let all = parse(MAPS);
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!((all[0].offset, all[0].title()), (0x1000, "prog".into()));
        assert_eq!(all[2].title(), "anonymous 0x7ffff0000000, 64 MiB");
        assert_eq!(all[1].title(), "[heap] 132 KiB");
        let at = |a, bytes| area_of(&all, a, bytes).map(|a| a.start);
        assert_eq!(at(0x5555_5555_4000, 4096), Some(0x5555_5555_4000));
        assert_eq!(at(0x7fff_f3ff_f000, 4096), Some(0x7fff_f000_0000));
        // Most of the block is in the second.
        assert_eq!(at(0x7fff_f3ff_f000, 1 << 20), Some(0x7fff_f400_0000));
        assert_eq!(at(0x1000, 4096), None);
        assert_eq!(at(0x7fff_f500_0000, 4096), None);
    }

    #[test]
    fn the_kernels_half() {
        assert_eq!(kernel_area(0xffff_ffff_8123_4567), "kernel image");
        assert!(kernel_area(0xffff_8880_1234_5678).contains("direct map"));
        assert!(kernel_area(0xffff_ea00_0000_0040).contains("struct page"));
        assert!(kernel_area(0xffff_c900_0000_4000).contains("vmalloc"));
    }
}
