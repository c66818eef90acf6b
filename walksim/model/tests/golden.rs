// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures as they were: what makes the model faster or gives it another shape changes none of them.
//!
//! `tests/golden.txt` has a line for each machine, mode and organisation: a few counts to see what moved, and a hash of all.
//! A change that is meant to move figures writes it anew: `FPT_BLESS=1 cargo test -p fpt-walksim-model --test golden`.

mod common;

use common::Tables;
use fpt_geometry::Mode;
use fpt_walksim_model::addr::{PhysAddr, VirtAddr};
use fpt_walksim_model::config::{resolve, Config};
use fpt_walksim_model::core::Core;
use fpt_walksim_model::report::{Organisation, Phase};
use fpt_walksim_model::result::{conservation, finish};
use fpt_walksim_model::walk::Flush;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Data anywhere in 1 GiB and near each other, code of a user and of the kernel, pages of two sizes, invalidations.
fn phase(config: &Config, mode: Mode) -> Phase {
    const STEPS: u64 = 400_000;
    let mut tables = Tables::new(mode);
    tables.large = |va| va >> 63 != 0 && va >> 21 & 1 == 0;
    let mut core = Core::new(config, None).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut data, mut fetch) = (0, 0);
    for i in 0..STEPS {
        if i == STEPS / 4 {
            core.reset_counters();
            (data, fetch) = (0, 0);
        }
        let r = random.next();
        let far = (r >> 20) & ((1 << 30) - 1);
        match r % 64 {
            0..=23 => core.data(VirtAddr::new(0x7f00_0000_0000 + far), &mut tables),
            24..=31 => core.data(VirtAddr::new(0x7e00_0000_0000 + i * 24), &mut tables),
            32..=35 => core.data(VirtAddr::new(0xffff_8880_0000_0000 + far), &mut tables),
            36..=60 => core.fetch(VirtAddr::new(0x40_0000 + ((i * 4) & 0xf_ffff)), &mut tables),
            61 => core.fetch(
                VirtAddr::new(0xffff_ffff_8100_0000 + (far & 0x3f_ffff)),
                &mut tables,
            ),
            62 => core.fetch_physical(PhysAddr::new(far)),
            _ => core.data_nowhere(),
        }
        match r % 64 {
            0..=35 | 63 => data += 1,
            _ => fetch += 1,
        }
        match r >> 40 & 0xffff {
            0 => core.flush(Flush::All),
            1..=4 => core.flush(Flush::AddressSpace { pcid: 0 }),
            5..=40 => core.flush(Flush::Page {
                va: VirtAddr::new(0x7f00_0000_0000 + far),
                pcid: 0,
            }),
            _ => {}
        }
    }
    let mut phase = Phase {
        organisations: core.report(data, fetch),
        untranslated: core.untranslated(),
        ..Phase::default()
    };
    (phase.accesses.user_data, phase.accesses.user_fetch) = (data, fetch);
    phase.instructions.user = fetch;
    conservation(&phase).unwrap();
    finish(&mut phase, std::slice::from_ref(config));
    phase
}

/// FNV-1a of everything that a result would hold.
fn digest(o: &Organisation) -> u64 {
    let text = serde_json::to_string(o).unwrap();
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn figures_are_what_they_were() {
    let mut now = String::from("# SPDX-License-Identifier: MIT OR Apache-2.0\n");
    for preset in ["emt", "equal", "server"] {
        let config = resolve(preset, None, &[]).unwrap();
        for mode in Mode::ALL {
            for o in phase(&config, mode).organisations {
                let walk = &o.entry_reads_by_cache;
                now += &format!(
                    "{preset} {} {}: {} walks, {} reads ({} {} {}), {} cycles, hash {:016x}\n",
                    mode.name(),
                    o.name,
                    o.walks,
                    o.walk_entry_reads,
                    walk.l2,
                    walk.llc,
                    walk.memory,
                    o.walk_cycles,
                    digest(&o)
                );
            }
        }
    }
    if std::env::var_os("FPT_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt");
        std::fs::write(path, &now).unwrap();
        return;
    }
    let then = include_str!("golden.txt");
    for (was, is) in then.lines().zip(now.lines()) {
        assert_eq!(was, is);
    }
    assert_eq!(then.lines().count(), now.lines().count());
}
