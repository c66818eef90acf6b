// SPDX-License-Identifier: GPL-2.0

//! The differential test, where a QEMU is at hand: `FPT_QEMU` names the binary, `FPT_QEMU_DATA` its
//! firmware directory.

use fpt_host::diff::{run, Stop};
use std::path::PathBuf;

#[test]
fn qemu_walks_as_the_core_does() {
    let Some(bin) = std::env::var_os("FPT_QEMU") else {
        eprintln!("skipped: FPT_QEMU is not set; `fpt-diff --qemu PATH` makes this test");
        return;
    };
    let firmware = std::env::var_os("FPT_QEMU_DATA").map(PathBuf::from);
    match run(&PathBuf::from(bin), firmware.as_deref(), 0x5eed, 120_000) {
        Ok(seen) => {
            eprintln!("{seen:?}");
            assert!(seen.translations >= 120_000);
            assert_eq!(seen.missing(), None);
        }
        Err(Stop::Mismatch(report)) => panic!("{report}"),
        Err(Stop::Broken(why)) => panic!("{why}"),
    }
}
