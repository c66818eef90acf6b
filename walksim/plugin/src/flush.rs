// SPDX-License-Identifier: MIT OR Apache-2.0
//! What QEMU calls an invalidation, as the models know it.

use fpt_qemu_plugin::{FLUSH_ALL, FLUSH_ASID, FLUSH_PAGE};
use fpt_walksim_model::addr::VirtAddr;
use fpt_walksim_model::walk::Flush;

/// Nothing for a kind that is not known: a QEMU that has more of them means something else by them.
pub fn flush(what: u32, va: u64, asid: u64) -> Option<Flush> {
    let pcid = (asid & 0xfff) as u16;
    match what {
        FLUSH_ALL => Some(Flush::All),
        FLUSH_ASID => Some(Flush::AddressSpace { pcid }),
        FLUSH_PAGE => Some(Flush::Page {
            va: VirtAddr::new(va),
            pcid,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_qemu_plugin::{FLUSH_FAULT, FLUSH_INIT, NEW_ROOT};

    #[test]
    fn known_kinds_are_told_apart() {
        assert!(matches!(flush(FLUSH_ALL, 1, 2), Some(Flush::All)));
        assert!(matches!(
            flush(FLUSH_ASID, 1, 0x1002),
            Some(Flush::AddressSpace { pcid: 2 })
        ));
        assert_eq!(
            flush(FLUSH_PAGE, 0x5000, 2),
            Some(Flush::Page {
                va: VirtAddr::new(0x5000),
                pcid: 2
            })
        );
    }

    #[test]
    fn others_are_ignored() {
        for what in [FLUSH_INIT, FLUSH_FAULT, NEW_ROOT, 6, u32::MAX] {
            assert!(flush(what, 0x5000, 0).is_none(), "{what}");
        }
    }
}
