// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks of phases for the simulator of FPT-Linux (`fpt sim -- PROG`), as one file to copy: `mod fpt_mark;`.
//!
//! A mark is one instruction that does nothing on any x86-64 CPU. Phases do not nest; one may come several times.
//! Ids other than these two are called phase-XX, with the id in hexadecimal.

#![allow(unsafe_code)]

/// The loading phase.
pub const LOAD: u8 = 0x4c;
/// The running phase.
pub const RUN: u8 = 0x52;

/// Runs `work` as phase `ID`.
pub fn phase<const ID: u8, T>(work: impl FnOnce() -> T) -> T {
    begin::<ID>();
    let out = work();
    end::<ID>();
    out
}

/// Phase `ID` begins.
#[inline(always)]
pub fn begin<const ID: u8>() {
    // SAFETY: `nopl disp32(%rax)` accesses no memory and changes no register and no flag. It is not declared `nomem`, so
    // that no access of the phase moves across it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            ".byte 0x0f, 0x1f, 0x80, {id}, 0xb1, 0x50, 0x46",
            id = const ID,
            options(nostack, preserves_flags)
        );
    }
}

/// Phase `ID` ends.
#[inline(always)]
pub fn end<const ID: u8>() {
    // SAFETY: as in `begin`.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            ".byte 0x0f, 0x1f, 0x80, {id}, 0xe1, 0x50, 0x46",
            id = const ID,
            options(nostack, preserves_flags)
        );
    }
}
