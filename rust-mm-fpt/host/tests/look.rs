// SPDX-License-Identifier: GPL-2.0

//! What `fpt-look` says of an address space does not depend on the shape of its tables, and is right.

use fpt_core::addr::PhysAddr;
use fpt_core::entry::{ACCESSED, DIRTY, NX, PRESENT, PSE, RW, USER};
use fpt_core::geometry::{Mode, NODE_BYTES};
use fpt_core::walk::{Cfg, PhysMem};
use fpt_host::look::{walk_text, FileMem, Seen, Shape};
use fpt_host::mm::Mm;
use fpt_host::world::{Fail, World};

const GIB: u64 = 1 << 30;
const SPAN: u64 = 1 << 39;
const CFG: Cfg = Cfg {
    fpte: true,
    nxe: true,
    phys_bits: 52,
};

/// Small pages on both sides of every border.
fn pages() -> Vec<u64> {
    let mut out = Vec::new();
    for border in [2 << 20, GIB, 3 * GIB, SPAN, 5 * SPAN, SPAN + GIB] {
        out.extend((0..6).map(|p| border - 0x3000 + p * 0x1000));
    }
    out.sort_unstable();
    out
}

fn leaf(va: u64) -> u64 {
    // As Linux uses the software bits of a leaf, bit 52 among them.
    (va >> 3 & 0x000f_ffff_f000) | PRESENT | RW | USER | ACCESSED | DIRTY | NX | 1 << 52 | 1 << 58
}

fn space(mode: Mode, fail: Fail) -> (World, Mm) {
    let mut world = World {
        fail,
        ..World::default()
    };
    let mut mm = Mm::new(&mut world, mode, None).unwrap();
    for va in pages() {
        mm.map(&mut world, va, leaf(va)).unwrap();
    }
    (world, mm)
}

fn sum(mem: &impl PhysMem, mm: &Mm) -> Seen {
    let mut seen = Seen::default();
    for (start, end) in [
        (0, 4 * GIB),
        (SPAN - GIB, SPAN + 2 * GIB),
        (5 * SPAN - 0x3000, 5 * SPAN + 0x3000),
    ] {
        seen.add(mem, mm.l4, start, end).unwrap();
    }
    seen
}

/// The sum over a list, without any table.
fn wanted() -> Seen {
    let mut hash = 0u64;
    for va in pages() {
        for word in [va, leaf(va) & !(ACCESSED | DIRTY | 1 << 58)] {
            hash = (hash ^ word).wrapping_mul(0x61c8_8646_80b5_83eb);
        }
    }
    Seen {
        ptes: pages().len() as u64,
        hash,
        ..Seen::default()
    }
}

#[test]
fn one_sum_in_every_shape() {
    for mode in Mode::ALL {
        // Every shape that one failing request makes, and the one without failure.
        for fail in 0..8 {
            let (world, mm) = space(mode, Fail::NodeAt(fail));
            assert_eq!(sum(&world.mem, &mm), wanted(), "{mode:?} {fail}");
            let shape = Shape::of(&world.mem, mm.cr3()).unwrap();
            assert_eq!(
                shape.root + shape.mid + shape.bottom,
                mm.flat_nodes,
                "{mode:?}"
            );
            assert_eq!(
                (shape.tables * 4096 + (shape.mid + shape.bottom) * NODE_BYTES) as i64,
                mm.pgtables_bytes,
                "{mode:?} {fail} {shape:?}"
            );
        }
    }
}

#[test]
fn a_changed_entry_changes_the_sum() {
    for mode in Mode::ALL {
        let (mut world, mm) = space(mode, Fail::NodeAt(u64::MAX));
        let before = sum(&world.mem, &mm);
        for (bits, same) in [
            (ACCESSED | DIRTY | 1 << 58, true),
            (0x1000, false),
            (RW, false),
            (1 << 52, false),
        ] {
            mm.for_each_leaf(&mut world, GIB, GIB + 0x1000, |v| v ^ bits);
            assert_eq!(sum(&world.mem, &mm) == before, same, "{mode:?} {bits:#x}");
            mm.for_each_leaf(&mut world, GIB, GIB + 0x1000, |v| v ^ bits);
            assert_eq!(sum(&world.mem, &mm), before);
        }
    }
}

/// Memory of a few words.
struct Words(Vec<(u64, u64)>);

impl PhysMem for Words {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        let pa = pa.as_u64();
        (pa < 1 << 30).then(|| self.0.iter().find(|w| w.0 == pa).map_or(0, |w| w.1))
    }
}

/// What Linux keeps at level 2 without a table: large pages, also without access, and migration entries.
#[test]
fn entries_of_level_2() {
    let table = PRESENT | RW | USER;
    let large = 0x20_0000 | PRESENT | PSE | DIRTY;
    let none = !0x40_0000u64 & 0x000f_ffff_ffe0_0000 | PSE | 1 << 8 | ACCESSED;
    let swap = 30 << 59 | 0x1234 << 14;
    let mem = Words(vec![
        (0x1000, 0x2000 | table),
        (0x2000, 0x3000 | table),
        (0x3000, large),
        (0x3008, none),
        (0x3010, swap),
        // A huge page at level 3, and a swap entry where Linux has none.
        (0x2008, 0x4000_0000 | PRESENT | PSE),
        (0x2010, swap),
    ]);
    let l4 = PhysAddr::new(0x1000);
    let mut seen = Seen::default();
    assert_eq!(seen.add(&mem, l4, 0, 2 * GIB), Ok(()));
    assert_eq!((seen.ptes, seen.pmds, seen.puds), (0, 3, 1));
    assert_eq!(seen.add(&mem, l4, 2 * GIB, 3 * GIB), Err(2 * GIB));
}

#[test]
fn files_and_text() {
    let (world, mm) = space(Mode::L4L3L2L1, Fail::NodeAt(u64::MAX));
    let text = walk_text(&world.mem, mm.cr3(), GIB, &CFG);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("entry 3 PDPTE pa 0x") && lines[0].ends_with(" bits 18"),
        "{text}"
    );
    assert!(lines[2].ends_with(" size 4096 perm rw-u"), "{text}");
    assert!(
        lines[3].starts_with("software leaf slot 0x") && lines[3].ends_with(" shift 12"),
        "{text}"
    );
    let text = walk_text(&world.mem, mm.cr3(), GIB + 0x10_0000, &CFG);
    assert!(
        text.contains("fault error_code 0x0\nsoftware absent slot"),
        "{text}"
    );
    let text = walk_text(&world.mem, mm.cr3(), 1 << 47, &CFG);
    assert!(text.starts_with("error non-canonical address\n"), "{text}");

    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("look-memory");
    let mut raw = vec![0; 0x3000];
    raw[0x1008..0x1010].copy_from_slice(&0x0123_4567_89ab_cdefu64.to_le_bytes());
    std::fs::write(&path, &raw).unwrap();
    let mem = FileMem::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(mem.load(PhysAddr::new(0x1008)), Some(0x0123_4567_89ab_cdef));
    assert_eq!(mem.load(PhysAddr::new(0x2ff8)), Some(0));
    for outside in [0x3000, 0x1004, u64::MAX] {
        assert_eq!(mem.load(PhysAddr::new(outside)), None);
    }
    assert!(mem.error().is_none());
    // Memory that shrinks under the reader is an error, not a zero.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(mem.load(PhysAddr::new(0)), None);
    assert!(mem.error().is_some());
}
