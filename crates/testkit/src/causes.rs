// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up causes of walks for the tests of this tool: the stand-in for QEMU writes them. Nothing of this is measured.

use fpt_geometry::Boot;
use fpt_walksim_machine::attribution::{Block, Cost, File, Instruction, Phase, SCHEMA};
use fpt_walksim_machine::report::Kind;

use crate::synthetic;

/// Where the made-up program has its memory.
const HEAP: u64 = 0x5555_5555_a000;
const CODE: u64 = 0x5555_5555_5000;
const KERNEL: u64 = 0xffff_ffff_8100_0000;

/// Of each phase three quarters of the walks for the program, the rest for the kernel.
pub fn causes(mode: Boot) -> File {
    let report = synthetic::report(mode, "");
    let phases = report.phases.iter().map(|p| {
        let real = p.organisations.iter().find(|o| o.kind == Kind::Real);
        let (walks, cycles) = real.map_or((0, 0.0), |o| (o.walks, o.walk_cycles));
        let part = |n: u64| Cost {
            walks: n,
            reads: 2 * n,
            cycles: cycles * n as f64 / walks.max(1) as f64,
        };
        let (mine, theirs) = (part(walks - walks / 4), part(walks / 4));
        Phase {
            name: p.name.clone(),
            instructions: vec![Instruction(1, CODE, mine), Instruction(1, KERNEL, theirs)],
            block_bytes: 4096,
            blocks: vec![
                Block(1, HEAP, mine),
                Block(1, 0xffff_8880_0000_0000, theirs),
            ],
        }
    });
    File {
        schema: SCHEMA.into(),
        programs: vec![String::new(), "prog".into()],
        phases: phases.collect(),
    }
}

/// The end of that program, as the guest's init writes it down.
pub fn seen() -> fpt_init::proto::Seen {
    fpt_init::proto::Seen {
        pid: 9,
        comm: "prog".into(),
        page_tables_kb: 4112,
        most_resident_kb: 9000,
        maps: "555555555000-555555556000 r-xp 00000000 00:02 7 /no/such/prog\n\
               55555555a000-55555557b000 rw-p 00000000 00:00 0 [heap]\n"
            .into(),
    }
}

/// Leaves them where the plugin's options say; a full disk is the runner's to notice.
pub fn leave(option: impl Fn(&str) -> Option<String>, mode: Boot, what: &str) {
    let Some(path) = option("walks=").filter(|_| what != "no-causes") else {
        return;
    };
    let mut file = causes(mode);
    if what == "lost-walks" {
        file.phases.truncate(1);
    }
    let _ = std::fs::write(path, serde_json::to_string(&file).unwrap_or_default());
}
