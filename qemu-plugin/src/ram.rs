// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory, where QEMU keeps it in a file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::raw;

const PROT_READ: i32 = 1;
const MAP_SHARED: i32 = 1;

/// The guest's memory, as a map of a file of QEMU's. Never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Ram(&'static [AtomicU64]);

/// From so many bytes on, machine q35 leaves a hole for devices.
const HOLE_FROM: u64 = 0xb000_0000;
/// Where the hole begins then, and where it ends.
const HOLE: (u64, u64) = (2 << 30, 4 << 30);

impl Ram {
    /// The file that a `memory-backend-memfd` of this very process is.
    pub fn of_this_process() -> Result<Ram, String> {
        Ram::among(Path::new("/proc/self/fd"))
    }

    fn among(dir: &Path) -> Result<Ram, String> {
        let read = |e: std::io::Error| format!("cannot read {}: {e}", dir.display());
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let link = std::fs::read_link(&path).unwrap_or_default();
            if link.to_string_lossy().contains("memory-backend-memfd") {
                return Ram::open(&path);
            }
        }
        Err(
            "the guest's memory is in no file: give QEMU a memory-backend-memfd with share=on"
                .into(),
        )
    }

    /// A file.
    pub fn open(path: &Path) -> Result<Ram, String> {
        let failed = |e: std::io::Error| format!("cannot map {}: {e}", path.display());
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len() as usize;
        if bytes == 0 || bytes % 8 != 0 {
            return Err(format!(
                "{} has {bytes} bytes, which is no memory",
                path.display()
            ));
        }
        // SAFETY: a new map, wherever the kernel puts it.
        let at = unsafe {
            raw::mmap(
                std::ptr::null_mut(),
                bytes,
                PROT_READ,
                MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at.addr() == usize::MAX {
            return Err(failed(std::io::Error::last_os_error()));
        }
        // SAFETY: the map has so many bytes, is aligned to pages and never unmapped. The guest writes to
        // it, so it is read as atomics are.
        let words = unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), bytes / 8) };
        Ok(Ram(words))
    }

    /// Its size.
    pub fn bytes(self) -> u64 {
        self.0.len() as u64 * 8
    }

    /// Where physical addresses end.
    pub fn end(self) -> u64 {
        match self.bytes() {
            n if n < HOLE_FROM => n,
            n => n + HOLE.1 - HOLE.0,
        }
    }

    /// Where the file has a physical address: machine q35 has what does not fit below its hole above it.
    #[inline]
    fn offset(self, pa: u64) -> Option<u64> {
        if self.bytes() < HOLE_FROM || pa < HOLE.0 {
            return Some(pa);
        }
        let beyond = pa.checked_sub(HOLE.1)?;
        HOLE.0.checked_add(beyond)
    }

    /// The 8 bytes that hold a physical address.
    #[inline]
    pub fn read(self, pa: u64) -> Option<u64> {
        let index = usize::try_from(self.offset(pa)? / 8).ok()?;
        self.0.get(index).map(|w| w.load(Ordering::Relaxed))
    }

    /// What begins at a physical address, a multiple of 8; false if it ends beyond the memory.
    pub fn read_words(self, pa: u64, to: &mut [u64]) -> bool {
        let from = self.offset(pa).and_then(|o| usize::try_from(o / 8).ok());
        let Some(words) = from.and_then(|f| self.0.get(f..f.checked_add(to.len())?)) else {
            return false;
        };
        for (slot, word) in to.iter_mut().zip(words) {
            *slot = word.load(Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn temporary(name: &str, text: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("fpt-ram-{}-{name}", std::process::id()));
        File::create(&path).unwrap().write_all(text).unwrap();
        path
    }

    #[test]
    fn a_file_is_read_as_it_is_now() {
        let path = temporary("a", &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x80]);
        let ram = Ram::open(&path).unwrap();
        assert_eq!(ram.bytes(), 16);
        let all = [0, 7, 8, 16, u64::MAX].map(|pa| ram.read(pa));
        assert_eq!(all, [Some(1), Some(1), Some(2 | 1 << 63), None, None]);
        let mut to = [0; 2];
        assert!(ram.read_words(0, &mut to) && to == [1, 2 | 1 << 63]);
        assert!(!ram.read_words(8, &mut to) && !ram.read_words(u64::MAX - 7, &mut to));
        std::os::unix::fs::FileExt::write_all_at(
            &File::options().write(true).open(&path).unwrap(),
            &[9],
            8,
        )
        .unwrap();
        assert_eq!(ram.read(8), Some(9 | 1 << 63));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_hole_of_q35() {
        let path = temporary("c", &[]);
        let file = File::options().write(true).open(&path).unwrap();
        // A file without blocks.
        file.set_len(4 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7], 2 << 30).unwrap();
        let ram = Ram::open(&path).unwrap();
        assert_eq!(ram.end(), 6 << 30);
        let all = [(2 << 30) - 8, 2 << 30, (4 << 30) - 8, 4 << 30, 6 << 30].map(|pa| ram.read(pa));
        assert_eq!(all, [Some(0), None, None, Some(7), None]);
        let mut to = [0; 2];
        assert!(ram.read_words(4 << 30, &mut to) && to == [7, 0]);
        assert!(!ram.read_words(3 << 30, &mut to));
        file.set_len(2 << 30).unwrap();
        let ram = Ram::open(&path).unwrap();
        assert_eq!((ram.end(), ram.read(4 << 30)), (2 << 30, None));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_memory() {
        let path = temporary("b", &[1, 2, 3]);
        let why = Ram::open(&path).unwrap_err();
        assert!(why.contains("3 bytes"), "{why}");
        std::fs::remove_file(path).unwrap();
        assert!(Ram::of_this_process()
            .unwrap_err()
            .contains("memory-backend-memfd"));
    }
}
