// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each rule of docs/explanation/tlbsan.md on either side of its border, on x86-64's own format.

mod common;

use common::*;
use fpt_tlbsan_model::*;

const VA: u64 = 0x7000_1234_5000;

fn guest() -> Guest {
    Guest::loaded(Knobs::default())
}

fn tce() -> Guest {
    Guest::loaded(Knobs {
        psc: Psc::Tce,
        ..Knobs::default()
    })
}

fn pcids() -> Guest {
    Guest::new(Knobs {
        pcid: true,
        ..Knobs::default()
    })
}

/// The table page that an entry leads to.
fn behind(guest: &mut Guest, entry: u64) -> u64 {
    guest.peek(entry) >> 12 & 0xff_ffff_ffff
}

#[test]
fn c1_an_entry_with_a_clear_is_not_cached() {
    for (flags, found) in [(READ & !A, vec![]), (READ, vec![(Rule::R2, vec![1])])] {
        let mut g = guest();
        let pte = g.map(VA, to(7, flags));
        g.user(1);
        g.set(pte, 0);
        g.free(7, 1);
        assert_eq!(g.found(), found);
    }
}

#[test]
fn c1_a_plain_store_does_not_tell() {
    let mut g = guest();
    let pte = g.map(VA, to(7, READ & !A));
    g.user(1);
    g.mov(pte, 0);
    g.free(7, 1);
    assert_eq!(g.found(), vec![(Rule::R2, vec![1])]);
}

#[test]
fn c1_clearing_a_drops_nothing() {
    let mut g = guest();
    let pte = g.map(VA, to(7, READ));
    g.user(1);
    g.set(pte, to(7, READ & !A));
    g.set(pte, 0);
    g.free(7, 1);
    assert_eq!(g.found(), vec![(Rule::R2, vec![1])]);
}

#[test]
fn c1_hardware_sets_a_before_it_caches() {
    let mut g = guest();
    let pte = g.map(VA, to(7, READ & !A));
    g.poke(pte, to(7, READ));
    g.user(1);
    g.set(pte, 0);
    g.free(7, 1);
    assert_eq!(g.found(), vec![(Rule::R2, vec![1])]);
}

#[test]
fn c1_reserved_bits_are_not_cached() {
    for (bad, n) in [(1 << 40, 0), (0, 2)] {
        let mut g = guest();
        let pte = g.map(VA, to(7, READ) | bad);
        g.set(pte, 0);
        let pending = g.ledger.pending_count();
        assert_eq!(pending.leaves, n);
    }
    // PS in a PML4E, and a node that is not aligned.
    let mut g = guest();
    let pml4e = g.entry(g.root, VA, 4);
    g.set(pml4e, to(0x2000, TABLE | PS));
    g.set(pml4e, to(0x2001, TABLE | FLAT));
    g.set(pml4e, 0);
    assert_eq!(g.ledger.pending_count(), Ended::default());
}

#[test]
fn c2_nobody_need_access_anything_but_the_root_must_be_loaded() {
    let mut g = Guest::new(Knobs::default());
    g.load(0, g.root);
    g.load(1, g.other);
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    assert_eq!(g.ledger.pending_on(CpuId(0)).len(), 1);
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 0);
}

#[test]
fn c3_an_empty_table_is_as_dangerous_as_a_full_one() {
    for flushed in [false, true] {
        let mut g = guest();
        let pde = g.entry(g.root, VA, 2);
        let table = g.table();
        g.set(pde, to(table, TABLE));
        g.set(pde, 0);
        if flushed {
            g.flush(0, Invalidation::Everything);
            g.flush(1, Invalidation::Page(0));
        }
        g.free(table, 1);
        let expected = if flushed {
            vec![]
        } else {
            vec![(Rule::R1, vec![0, 1])]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn c4_a_stale_entry_leads_into_tables_as_they_are_now() {
    // The PDE goes, then a page below it. Only CPU 0 flushes in between.
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    let pde = g.entry(g.root, VA, 2);
    g.set(pde, 0);
    g.flush(0, Invalidation::Everything);
    g.set(pte, to(7, USER | PCD));
    assert_eq!(g.ledger.pending_on(CpuId(0)).len(), 0);
    // The table, the page as it was, the page as it is.
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 3);
}

#[test]
fn c5_rights_of_the_whole_path_count() {
    // The page is writable; an upper entry that is not makes the change harmless.
    for (upper, late) in [(TABLE, true), (TABLE & !RW, false)] {
        let mut g = guest();
        let pte = g.map(VA, to(7, USER));
        let pdpte = g.entry(g.root, VA, 3);
        let table = behind(&mut g, pdpte);
        g.set(pdpte, to(table, upper));
        g.flush(0, Invalidation::Everything);
        g.flush(1, Invalidation::Everything);
        g.set(pte, to(7, USER & !RW));
        g.user(0);
        assert_eq!(!g.found().is_empty(), late);
    }
}

#[test]
fn c5_fewer_rights_above_concern_all_pages_below() {
    let mut g = guest();
    for n in 0..5 {
        g.map(VA + (n << 12), to(7 + n, USER));
    }
    let pml4e = g.entry(g.root, VA, 4);
    let table = behind(&mut g, pml4e);
    g.set(pml4e, to(table, TABLE & !RW));
    // Five pages; the entries of three levels, which hold rights too.
    let pending = g.ledger.pending_count();
    assert_eq!((pending.leaves, pending.tables), (10, 6));
    g.user(0);
    assert_eq!(g.found().len(), 5);
}

#[test]
fn c5_a_clean_page_is_not_written_to_without_a_walk() {
    for (flags, found) in [(USER & !D, vec![]), (USER, vec![(Rule::R3, vec![0])])] {
        let mut g = guest();
        let pte = g.map(VA, to(7, flags));
        g.set(pte, to(7, READ));
        g.user(0);
        assert_eq!(g.found(), found);
    }
}

#[test]
fn c5_memory_type_and_key_count() {
    for change in [PCD, PWT, PS, 3 << 59] {
        let mut g = guest();
        let pte = g.map(VA, to(7, USER));
        g.set(pte, to(7, USER | change));
        g.user(0);
        assert_eq!(g.found(), vec![(Rule::R3, vec![0])]);
    }
    // The key of a supervisor page is ignored.
    let mut g = guest();
    let pte = g.map(HIGH, to(7, KERNEL));
    g.set(pte, to(7, KERNEL | 3 << 59));
    assert_eq!(g.ledger.pending_count(), Ended::default());
}

#[test]
fn c6_invlpg_drops_all_of_a_large_page() {
    let mut g = guest();
    let pde = g.entry(g.root, VA, 2);
    g.set(pde, to(0x4_0000, USER | PS));
    g.set(pde, 0);
    assert_eq!(g.flush(0, Invalidation::Page(VA ^ 0x1f_f000)).leaves, 1);
    assert_eq!(g.flush(1, Invalidation::Page(VA ^ 0x20_0000)).leaves, 0);
}

#[test]
fn c6_pieces_from_before_a_promotion_are_pages_of_their_own() {
    let mut g = guest();
    let base = VA & !0x1f_ffff;
    for n in 0..512 {
        g.map(base + (n << 12), to(0x4_0000 + n, USER));
    }
    let pde = g.entry(g.root, VA, 2);
    // In place: the same frames and rights. Nobody owes a flush.
    g.set(pde, to(0x4_0000, USER | PS));
    g.user(0);
    g.kernel(0);
    g.quiet();
    g.set(pde, 0);
    // One INVLPG is enough for the large page, and for one piece.
    assert_eq!(g.flush(0, Invalidation::Page(VA)).leaves, 2);
    g.user(0);
    assert_eq!(g.found().len(), 511);
}

#[test]
fn c7_a_node_is_one_entry_and_512_pages() {
    for n in [0, 1, 511] {
        let mut g = guest();
        let pml4e = g.entry(g.root, VA, 4);
        let node = g.node();
        g.set(pml4e, to(node, TABLE | FLAT));
        // A page of 2 MiB, straight from the node.
        let pde = (node << 12) + ((VA >> 21 & 0x3_ffff) << 3);
        g.set(pde, to(0x4_0000, USER | PS));
        g.set(pml4e, 0);
        let pending = g.ledger.pending_on(CpuId(1));
        assert_eq!(pending.len(), 2);
        assert_eq!(pending[1].0, VA & !0x1f_ffff);
        g.retire(node + n, 1);
        assert_eq!(g.found(), vec![(Rule::R1, vec![0, 1])]);
    }
}

#[test]
fn c7_a_flat_root_gives_pdptes_and_its_index_page_only_the_kernels_half() {
    let mut g = Guest::new(Knobs::default());
    let block = g.node();
    let page = block + 256;
    // What software keeps in the user half of the index page is not read.
    g.poke(page << 12, to(block, TABLE));
    let pdpte = (block << 12) + ((VA >> 30) << 3);
    let node = g.node();
    g.poke(pdpte, to(node, TABLE | FLAT));
    let pte = (node << 12) + ((VA >> 12 & 0x3_ffff) << 3);
    g.poke(pte, to(7, USER));
    g.cr3(1, page << 12 | FLAT, false);
    g.set(page << 12, 0);
    assert_eq!(g.ledger.pending_count(), Ended::default());
    g.set(pte, 0);
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 1);
    g.set(pdpte, 0);
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 2);
    g.free(block + 5, 1);
    assert_eq!(g.found(), vec![(Rule::R0, vec![1])]);
}

#[test]
fn c7_flat_is_software_s_where_the_machine_has_no_fpt() {
    let geometry = Geometry::x86(false, 40);
    assert_eq!(
        geometry.root(to(7, FLAT)),
        Root {
            frame: Frame(7),
            flat: false
        }
    );
    let mut guest = Guest::new(Knobs::default());
    let table = guest.table();
    let mut ledger = Ledger::new(geometry, Knobs::default(), 1, Ram::default());
    let by = guest.by(0);
    ledger.load_cr3(&by, Some(7 << 12), false).unwrap();
    ledger
        .store(&by, 7 << 12, None, to(table, TABLE | FLAT))
        .unwrap();
    assert!(ledger.watches(Frame(table)) && !ledger.watches(Frame(table + 1)));
}

#[test]
fn i1_invlpg_drops_all_upper_entries_or_those_on_the_path() {
    for (mut g, elsewhere) in [(guest(), 1), (tce(), 0)] {
        let pde = g.entry(g.root, VA, 2);
        let table = g.table();
        g.set(pde, to(table, TABLE));
        g.set(pde, 0);
        assert_eq!(
            g.flush(0, Invalidation::Page(VA + (1 << 30))).tables,
            elsewhere
        );
        assert_eq!(g.flush(1, Invalidation::Page(VA + 0x1000)).tables, 1);
    }
}

#[test]
fn i1_invlpg_drops_global_pages_of_the_address() {
    let mut g = guest();
    let pte = g.map(HIGH, to(7, KERNEL));
    g.set(pte, 0);
    assert_eq!(g.flush(0, Invalidation::Page(HIGH + 0x1000)).leaves, 0);
    assert_eq!(g.flush(0, Invalidation::Page(HIGH)).leaves, 1);
}

#[test]
fn i2_cr3_leaves_global_pages() {
    let mut g = guest();
    let global = g.map(HIGH, to(7, KERNEL));
    let local = g.map(HIGH + 0x1000, to(8, KERNEL & !G));
    g.set(global, 0);
    g.set(local, 0);
    let (root, other) = (g.root, g.other);
    assert_eq!(g.load(0, root).leaves, 1);
    assert_eq!(g.load(1, other).leaves, 1);
    assert_eq!(g.ledger.pending_count().leaves, 2);
    assert_eq!(g.flush(0, Invalidation::AllContexts).leaves, 0);
    assert_eq!(g.flush(0, Invalidation::Everything).leaves, 1);
}

#[test]
fn i2_bit_63_keeps_what_the_pcid_has() {
    for keep in [false, true] {
        let mut g = pcids();
        let (root, other) = (g.root << 12, g.other << 12);
        g.cr3(0, root | 1, false);
        let pte = g.map(VA, to(7, USER));
        g.cr3(0, other | 2, false);
        g.set(pte, 0);
        g.free(7, 1);
        g.user(0);
        g.kernel(0);
        // Another PCID is in use: armed at most.
        g.quiet();
        g.cr3(0, root | 1, keep);
        g.user(0);
        // The task that unmapped it returns here as well.
        let both = vec![(Rule::R2, vec![0]), (Rule::R3, vec![0])];
        assert_eq!(g.found(), if keep { both } else { vec![] });
    }
}

#[test]
fn i2_a_table_under_another_pcid_is_harmless_until_it_is_back() {
    for keep in [false, true] {
        let mut g = pcids();
        let (root, other) = (g.root << 12, g.other << 12);
        g.cr3(0, root | 1, false);
        let pde = g.entry(g.root, VA, 2);
        let table = g.table();
        g.set(pde, to(table, TABLE));
        g.cr3(0, other | 2, false);
        g.set(pde, 0);
        g.free(table, 1);
        g.quiet();
        g.cr3(0, root | 1, keep);
        let expected = if keep {
            vec![(Rule::R1, vec![0])]
        } else {
            vec![]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn i3_invpcid_and_control_registers() {
    use Invalidation::*;
    // Of (a page, an upper entry) under PCID 1 and 2, and a global page: what is left.
    let cases = [
        (Everything, 0, 0),
        (AllContexts, 1, 0),
        (Context(1), 2, 1),
        (Context(3), 3, 2),
        (Current, 2, 1),
        (PageOf(1, VA), 2, 1),
        (PageOf(1, VA + 0x20_0000), 3, 2),
        (Page(HIGH), 2, 1),
    ];
    for (what, leaves, tables) in cases {
        let mut g = pcids();
        let (root, other) = (g.root, g.other);
        let global = g.entry(root, HIGH, 1);
        g.set(global, to(7, KERNEL));
        for (pcid, root) in [(1, root), (2, other)] {
            let pte = g.entry(root, VA, 1);
            g.set(pte, to(8, USER));
            g.cr3(0, root << 12 | pcid, false);
        }
        for root in [root, other] {
            let pde = g.entry(root, VA, 2);
            g.set(pde, 0);
        }
        g.set(global, 0);
        assert_eq!(
            g.ledger.pending_count(),
            Ended {
                leaves: 3,
                tables: 2
            }
        );
        if !matches!(what, Page(_)) {
            g.cr3(0, root << 12 | 1, true);
        }
        g.flush(0, what);
        assert_eq!(
            g.ledger.pending_count(),
            Ended { leaves, tables },
            "{what:?}"
        );
    }
}

#[test]
fn i4_a_page_fault_drops_its_own_address() {
    let mut g = guest();
    let near = g.map(VA, to(7, USER));
    let far = g.map(VA + (1 << 30), to(8, USER));
    for pte in [near, far] {
        g.set(pte, 0);
    }
    for va in [VA, VA + (1 << 30)] {
        let pde = g.entry(g.root, va, 2);
        g.set(pde, 0);
    }
    assert_eq!(
        g.flush(1, Invalidation::Fault(VA)),
        Ended {
            leaves: 1,
            tables: 1
        }
    );
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 2);
    assert_eq!(g.ledger.pending_on(CpuId(0)).len(), 4);
}

#[test]
fn i5_nothing_else_drops() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    let by = g.by(1);
    g.user(1);
    g.kernel(1);
    g.ledger.halts(&by).unwrap();
    g.ledger.resumes(&by).unwrap();
    g.ledger.stac(&by).unwrap();
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 1);
}

#[test]
fn n1_no_flush_is_owed_for_more_rights_and_software_bits() {
    let before = to(7, READ);
    let harmless = [
        to(7, READ | RW),
        to(7, READ & !XD),
        to(7, READ | 1 << 9 | 1 << 58),
        to(7, READ & !A),
        to(7, READ | D),
        to(7, READ | G),
    ];
    for after in harmless {
        let mut g = guest();
        let pte = g.map(VA, before);
        g.set(pte, after);
        g.user(0);
        g.user(1);
        assert_eq!(g.found(), vec![], "{after:#x}");
    }
    for after in [0, to(7, READ & !US), to(8, READ), to(7, READ) & !P] {
        let mut g = guest();
        let pte = g.map(VA, before);
        g.set(pte, after);
        g.user(0);
        assert_eq!(g.found(), vec![(Rule::R3, vec![0])], "{after:#x}");
    }
}

#[test]
fn n1_other_tables_that_give_the_same_pages() {
    // A node becomes conventional tables, as demotion does it: the slices stay.
    let mut g = guest();
    let pdpte = g.entry(g.root, VA, 3);
    let node = g.node();
    g.set(pdpte, to(node, TABLE | FLAT));
    for n in 0..3u64 {
        g.set((node << 12) + ((n * 700) << 3), to(0x200 + n, USER));
    }
    let pd = g.table();
    for slice in 0..512 {
        g.poke((pd << 12) + (slice << 3), to(node + slice, TABLE));
    }
    g.set(pdpte, to(pd, TABLE));
    // The upper entry is another one. No page is.
    assert_eq!(
        g.ledger.pending_count(),
        Ended {
            leaves: 0,
            tables: 2
        }
    );
    g.user(0);
    g.kernel(0);
    g.quiet();
    // A slice that goes without a flush is still led to by the old entry.
    g.set((pd << 12) + (2 << 3), 0);
    g.free(node + 2, 1);
    let found = g.found();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|f| *f == (Rule::R1, vec![0, 1])));
}

#[test]
fn n2_a_frame_may_wait_for_the_flush_and_a_table_may_not() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    let pde = g.entry(g.root, VA, 2);
    let table = behind(&mut g, pde);
    g.set(pte, 0);
    g.free(7, 1);
    g.quiet();
    g.set(pde, 0);
    g.free(table, 1);
    assert_eq!(g.found(), vec![(Rule::R1, vec![0, 1])]);
}
