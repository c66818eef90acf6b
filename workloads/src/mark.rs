// SPDX-License-Identifier: MIT OR Apache-2.0
//! Glue: the instructions that tell a plugin of the emulator where a phase begins and ends.
//!
//! `nopl disp32(%rax)` does nothing on any CPU; the displacement says which phase and which end.

#![allow(unsafe_code)]

use std::arch::asm;

macro_rules! mark {
    ($name:ident, $id:literal, $edge:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline(never)]
        pub fn $name() {
            // SAFETY: a no-op: it accesses no memory, changes no register and no flag. It is not
            // declared `nomem`, so that no access of the phase moves across it.
            unsafe {
                asm!(
                    concat!(".byte 0x0f, 0x1f, 0x80, ", $id, ", ", $edge, ", 0x50, 0x46"),
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

mark!(
    load_begin,
    "0x4c",
    "0xb1",
    "The loading phase ('L') begins."
);
mark!(load_end, "0x4c", "0xe1", "The loading phase ('L') ends.");
mark!(run_begin, "0x52", "0xb1", "The running phase ('R') begins.");
mark!(run_end, "0x52", "0xe1", "The running phase ('R') ends.");

/// Runs `work` as the loading phase.
pub fn load<T>(work: impl FnOnce() -> T) -> T {
    load_begin();
    let out = work();
    load_end();
    out
}

/// Runs `work` as the running phase, and then sees how big the page tables are.
pub fn run<T>(work: impl FnOnce() -> T) -> T {
    run_begin();
    let out = work();
    run_end();
    crate::outcome::note_page_tables();
    out
}

#[cfg(test)]
mod tests {
    /// The bytes are in this test's own image, each exactly once: a plugin finds them there.
    #[test]
    fn bytes_are_what_the_plugin_looks_for() {
        super::load(|| super::run(|| ()));
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for id in [0x4c, 0x52] {
            for edge in [0xb1, 0xe1] {
                // Built at run time, or the pattern itself would be found.
                let want: Vec<u8> = [0x0f, 0x1f, 0x80, id, edge, 0x50]
                    .into_iter()
                    .chain(std::iter::once(std::hint::black_box(0x46)))
                    .collect();
                let hits = image.windows(7).filter(|w| *w == want).count();
                assert_eq!(hits, 1, "{want:02x?}");
            }
        }
    }
}
