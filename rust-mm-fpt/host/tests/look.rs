// SPDX-License-Identifier: GPL-2.0

//! What `fpt-look` says of an address space does not depend on the shape of its tables, and is right.

use fpt_core::addr::PhysAddr;
use fpt_core::entry::{ACCESSED, DIRTY, NX, PRESENT, PSE, RW, USER};
use fpt_core::geometry::{Level, Mode, NodeKind, NODE_BYTES};
use fpt_core::span::{Event, Span, State};
use fpt_core::walk::{Cfg, IndexPages, PhysMem};
use fpt_host::look::{walk_text, FileMem, Guest, Layout, Seen, Shape};
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

fn sum<M: PhysMem + IndexPages>(mem: &M, mm: &Mm) -> Seen {
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

/// A node without small pages, one with both sorts, and one that was split.
fn mixed(mode: Mode) -> (World, Mm) {
    let (mut world, mut mm) = space(mode, Fail::NodeAt(u64::MAX));
    let level = match mode {
        Mode::L3L2 => Level::L3,
        _ => Level::L2,
    };
    for (va, event) in [
        (2 * SPAN + 4 * GIB, Event::Leaf),
        (GIB, Event::Leaf),
        (5 * SPAN, Event::Hugetlb),
    ] {
        let va = (va + 3 * level.span_bytes()) & !(level.span_bytes() - 1);
        let huge = va | PRESENT | PSE | USER | NX;
        mm.map_huge(&mut world, va, level, huge, event).unwrap();
    }
    world.grace_period();
    (world, mm)
}

#[test]
fn nodes_that_hardware_does_not_use_count() {
    for mode in [Mode::L3L2, Mode::L4L3L2L1] {
        let (world, mm) = mixed(mode);
        let attached = |n: &&fpt_host::world::Node| n.span.state() == State::Attached;
        assert_eq!(world.nodes.values().filter(attached).count(), 2);
        let shape = Shape::of(&world.mem, mm.cr3()).unwrap();
        assert_eq!(shape.root + shape.mid + shape.bottom, mm.flat_nodes);
        assert_eq!(
            (shape.tables * 4096 + (shape.mid + shape.bottom) * NODE_BYTES) as i64,
            mm.pgtables_bytes,
            "{shape:?}"
        );
    }
}

/// An index page that does not say what its node holds is an error.
#[test]
fn index_pages_are_compared_with_their_nodes() {
    for mode in [Mode::L3L2, Mode::L4L3L2L1] {
        let (mut world, mm) = space(mode, Fail::NodeAt(u64::MAX));
        let flat = |n: &(&PhysAddr, &fpt_host::world::Node)| n.1.span.state() == State::Flat;
        let (block, node) = world.nodes.iter().find(flat).unwrap();
        let (block, index) = (*block, node.index);
        let used: Vec<bool> = (0..512).map(|i| node.span.is_used(i)).collect();
        let of = |used: &[bool], which| used.iter().position(|u| *u == which).unwrap() as u64;
        let (own, free) = (of(&used, true), of(&used, false));
        let other = block.offset(4096 * ((own + 1) % 512)).as_u64();
        let foreign = other | PRESENT | RW | USER | ACCESSED;
        let slice = block.offset(free * 4096 + 8 * 7);
        for (at, value, why) in [
            (index.offset(own * 8), 0, "the slice is in use"),
            (index.offset(own * 8), foreign, "not its slice"),
            (index.offset(free * 8), foreign, "not its slice"),
            (slice, 1 << 40, "the slice is in use"),
        ] {
            let before = world.mem.read(at);
            world.mem.write(at, value);
            let said = Shape::of(&world.mem, mm.cr3()).unwrap_err();
            assert!(said.ends_with(why), "{said}");
            world.mem.write(at, before);
            assert!(Shape::of(&world.mem, mm.cr3()).is_ok());
        }
        let at = index.offset(own * 8);
        let value = world.mem.read(at);
        world.mem.write(at, value & !ACCESSED);
        let said = Shape::of(&world.mem, mm.cr3()).unwrap_err();
        assert!(said.ends_with("not accessed"), "{said}");
    }
}

const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
const DIRECT: u64 = 0xffff_8880_0000_0000;
const LAYOUT: Layout = Layout {
    vmemmap: VMEMMAP,
    page: 64,
    word1: 8,
};

/// The memory as a file, with what a kernel has beside user tables: a direct mapping, a `struct page` of
/// each page and the descriptors of nodes. `stale`: what words 1 of pages that are no slices hold.
fn kernel_image(world: &World, mm: &Mm, name: &str, stale: u64) -> std::path::PathBuf {
    use std::os::unix::fs::FileExt;
    const TABLES: u64 = 256 << 20;
    const PAGES: u64 = 320 << 20;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(512 << 20).unwrap();
    let put = |at: u64, value: u64| file.write_all_at(&value.to_le_bytes(), at).unwrap();
    let pages = TABLES / 4096;
    for page in (0..pages).map(|p| PhysAddr::new(p * 4096)) {
        if world.mem.load(page).is_some() {
            for (i, value) in world.mem.words(page) {
                put(page.as_u64() + u64::from(i) * 8, value);
            }
        }
        let word1 = match world.mem.index_page(page) {
            Some(index) => DIRECT + index.as_u64(),
            None => stale,
        };
        put(PAGES + page.as_u64() / 4096 * 64 + 8, word1);
    }
    // Both areas: level 4, level 3, and one large page.
    for (n, va, leaf) in [(0, VMEMMAP, PAGES), (1, DIRECT, 0)] {
        let tables = TABLES + n * 0x2000;
        put(mm.l4.as_u64() + (va >> 39 & 511) * 8, tables | 0x63);
        let at = tables + (va >> 30 & 511) * 8;
        if leaf == 0 {
            put(at, 0x1e3);
            continue;
        }
        put(at, (tables + 0x1000) | 0x63);
        for i in 0..2 {
            let leaf = leaf + (i << 21);
            put(tables + 0x1000 + ((va >> 21 & 511) + i) * 8, leaf | 0x1e3);
        }
    }
    for (n, (block, node)) in world.nodes.iter().enumerate() {
        let at = TABLES + 0x10_0000 + n as u64 * 256;
        let span = std::mem::size_of::<Span>() as u64;
        let kind = node.span.kind() as u64;
        put(at, node.span.state() as u64 | kind << 8);
        put(at + span, block.as_u64());
        put(at + span + 8, node.index.as_u64());
        put(PAGES + node.index.as_u64() / 4096 * 64 + 8, DIRECT + at);
    }
    path
}

#[test]
fn a_kernel_s_memory_is_read_through_its_own_tables() {
    for (mode, kind) in [
        (Mode::L3L2, NodeKind::Mid),
        (Mode::L4L3L2L1, NodeKind::Bottom),
    ] {
        let (world, mm) = mixed(mode);
        // Words 1 that lead nowhere, to a table, and to what looks like a node's beginning.
        for stale in [0, DIRECT + (300 << 20), DIRECT + (257 << 20), u64::MAX] {
            let path = kernel_image(&world, &mm, &format!("look-kernel-{}", mode.name()), stale);
            let guest = |layout| Guest {
                mem: FileMem::new(std::fs::File::open(&path).unwrap()).unwrap(),
                cr3: mm.cr3(),
                cfg: CFG,
                layout,
            };
            let with = guest(Some(LAYOUT));
            for va in pages() {
                let text = walk_text(&with, mm.cr3(), va, &CFG);
                assert_eq!(text, walk_text(&world.mem, mm.cr3(), va, &CFG));
            }
            assert_eq!(sum(&with, &mm), sum(&world.mem, &mm));
            let shape = Shape::of(&with, mm.cr3());
            assert_eq!(shape, Shape::of(&world.mem, mm.cr3()));
            assert!(shape.unwrap().tables > 0, "{kind:?}");
            assert!(with.mem.error().is_none());
            // The same memory says less to those who do not know where struct pages are.
            let without = guest(None);
            let said = Shape::of(&without, mm.cr3()).unwrap_err();
            assert!(said.ends_with("has no index page"), "{said}");
            let elsewhere = guest(Some(Layout {
                word1: 16,
                ..LAYOUT
            }));
            assert!(Shape::of(&elsewhere, mm.cr3()).is_err());
        }
    }
}

#[test]
fn layouts() {
    assert_eq!(Layout::new(VMEMMAP, 64, 8), Ok(LAYOUT));
    for (vmemmap, page, word1) in [
        (0x1000, 64, 8),
        (VMEMMAP + 4, 64, 8),
        (VMEMMAP, 0, 0),
        (VMEMMAP, 60, 8),
        (VMEMMAP, 64, 64),
        (VMEMMAP, 64, 4),
    ] {
        assert!(Layout::new(vmemmap, page, word1).is_err());
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

impl IndexPages for Words {
    fn index_page(&self, _slice: PhysAddr) -> Option<PhysAddr> {
        None
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
