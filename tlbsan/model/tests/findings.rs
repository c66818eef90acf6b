// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings, and beside each the stale states that are legal (docs/explanation/tlbsan.md, "What is legal").

mod common;

use common::*;
use fpt_tlbsan_model::*;

const VA: u64 = 0x7000_1234_5000;

fn guest() -> Guest {
    Guest::loaded(Knobs::default())
}

fn behind(guest: &mut Guest, entry: u64) -> u64 {
    guest.peek(entry) >> 12 & 0xff_ffff_ffff
}

#[test]
fn r0_a_loaded_root() {
    let mut g = guest();
    g.free(g.root, 1);
    assert_eq!(g.found(), vec![(Rule::R0, vec![0, 1])]);

    let mut g = guest();
    let (root, other) = (g.root, g.other);
    g.load(0, other);
    g.load(1, other);
    g.free(root, 1);
    g.quiet();
}

#[test]
fn r1_says_who_took_it_away_who_holds_it_and_who_freed() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    let pde = g.entry(g.root, VA, 2);
    let table = behind(&mut g, pde);
    g.set(pte, 0);
    let old = g.peek(pde);
    g.set(pde, 0);
    let by = g.by(0);
    g.flush(0, Invalidation::Everything);
    let later = g.by(1);
    g.ledger.halts(&later).unwrap();
    g.retire(table, 1);
    let findings = g.ledger.take_findings();
    let [finding] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!((finding.rule, finding.why), (Rule::R1, Why::Pending));
    assert_eq!((finding.frame, finding.frames), (Frame(table), 1));
    assert_eq!(finding.certainty, Certainty::Error);
    let taken = finding.taken.unwrap();
    assert_eq!((taken.entry, taken.old, taken.new), (pde, old, 0));
    assert_eq!((taken.level, taken.va), (Level(2), VA & !0x1f_ffff));
    assert_eq!(taken.by.time + 1, by.time);
    assert!(finding.by.time > later.time);
    let [holder] = finding.holders.as_slice() else {
        panic!("{finding:?}");
    };
    assert_eq!((holder.cpu, holder.mode), (CpuId(1), Mode::Halted));
    assert_eq!(
        holder.root,
        Some(Root {
            frame: Frame(g.root),
            flat: false
        })
    );
    // Its only flush was loading the root, before the store.
    let [past] = holder.flushes.as_slice() else {
        panic!("{holder:?}");
    };
    assert!(past.seq < taken.seq && matches!(past.what, Flushed::Cr3(Some(_))));
    assert_eq!(
        finding.to_string(),
        format!(
            "R1: page-table memory freed that a CPU may still walk through: frame {table:#x}, CPU 1, va 0x700012200000, was {old:#x}"
        )
    );
}

#[test]
fn r1_a_table_that_is_still_linked() {
    let mut g = guest();
    g.map(VA, to(7, USER));
    let pde = g.entry(g.root, VA, 2);
    let table = behind(&mut g, pde);
    g.free(table, 1);
    let findings = g.ledger.take_findings();
    let place = Place {
        level: Level(1),
        va: VA & !0x1f_ffff,
        first: 0,
    };
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].why, Why::StillLinked(place));
}

#[test]
fn r1_lazy_cpus_are_asked_too_and_their_flush_helps() {
    for flushed in [false, true] {
        let mut g = guest();
        g.user(0);
        let pde = g.entry(g.root, VA, 2);
        let table = g.table();
        g.set(pde, to(table, TABLE));
        g.set(pde, 0);
        g.flush(0, Invalidation::Current);
        // CPU 1 is in the kernel with this root, and stays there.
        if flushed {
            g.flush(1, Invalidation::Current);
        }
        g.free(table, 1);
        assert_eq!(g.found().is_empty(), flushed);
    }
}

#[test]
fn r1_reuse_without_a_free() {
    // A pool gives the table to another process.
    let mut g = guest();
    let pde = g.entry(g.root, VA, 2);
    let table = g.table();
    g.set(pde, to(table, TABLE));
    let (other, pool) = (g.other, table);
    g.load(0, other);
    g.load(0, g.root);
    g.set(pde, 0);
    let there = g.entry(other, VA, 2);
    g.set(there, to(pool, TABLE));
    assert_eq!(g.found(), vec![(Rule::R1Reused, vec![0, 1])]);

    // A list pointer is written into it; an even one, and zeroes, are no entries.
    let mut g = guest();
    let pde = g.entry(g.root, VA, 2);
    let table = g.table();
    g.set(pde, to(table, TABLE));
    g.set(pde, 0);
    g.set(table << 12, 0xffff_8880_0000_1000);
    g.quiet();
    g.set(table << 12 | 8, 0xffff_8880_0000_1001);
    assert_eq!(g.found(), vec![(Rule::R1Reused, vec![0, 1])]);

    // It becomes somebody's page.
    let mut g = guest();
    let pde = g.entry(g.root, VA, 2);
    let table = g.table();
    g.set(pde, to(table, TABLE));
    g.set(pde, 0);
    g.map(VA + (1 << 30), to(table, USER));
    assert_eq!(g.found(), vec![(Rule::R1Reused, vec![0, 1])]);
}

#[test]
fn legal_a_table_is_moved_before_the_flush() {
    // As mremap does: cleared, linked elsewhere in the same tree, flushed.
    for flushed in [true, false] {
        let mut g = guest();
        for n in 0..3 {
            g.map(VA + (n << 12), to(7 + n, USER));
        }
        let (from, there) = (g.entry(g.root, VA, 2), VA + (1 << 30));
        let to_entry = g.entry(g.root, there, 2);
        let pde = g.peek(from);
        g.set(from, 0);
        g.set(to_entry, pde);
        if flushed {
            g.flush(0, Invalidation::Current);
            g.flush(1, Invalidation::Current);
        }
        g.user(0);
        assert_eq!(g.found().len(), if flushed { 0 } else { 3 });
    }
}

#[test]
fn legal_a_table_comes_back_to_its_place() {
    // As a collapse that gives up.
    let mut g = guest();
    g.map(VA, to(7, USER));
    let pde = g.entry(g.root, VA, 2);
    let value = g.peek(pde);
    g.set(pde, 0);
    g.set(pde, value);
    g.user(0);
    g.quiet();
}

#[test]
fn legal_an_index_page_goes_on_beside_a_node() {
    let mut g = guest();
    g.map(VA, to(7, USER));
    let (slot, pde) = (g.entry(g.root, VA, 3), g.entry(g.root, VA, 2));
    let index = behind(&mut g, slot);
    let (node, n) = (g.node(), (pde & 0xfff) >> 3);
    g.poke((node + n) << 12 | (VA >> 12 & 511) << 3, to(7, USER));
    g.set(pde, to(node + n, TABLE));
    for cpu in [0, 1] {
        g.flush(cpu, Invalidation::Everything);
    }
    // Hardware reads the node now; what CPUs keep of the index page leads to the same.
    g.set(slot, to(node, TABLE | FLAT));
    let next = |i: u64| index << 12 | ((n + i) & 511) << 3;
    g.set(next(1), to(node + ((n + 1) & 511), TABLE));
    assert_eq!(g.found(), vec![]);
    // Another slice, and a table of somebody else, are not what the node has there.
    g.set(next(2), to(node + ((n + 3) & 511), TABLE));
    assert_eq!(g.found(), vec![(Rule::R1Reused, vec![0, 1])]);
    let foreign = g.table();
    g.set(next(4), to(foreign, TABLE));
    assert_eq!(g.found(), vec![(Rule::R1Reused, vec![0, 1])]);
}

#[test]
fn r2_fires_when_user_code_may_use_the_page() {
    for flushed in [false, true] {
        let mut g = guest();
        let pte = g.map(VA, to(7, USER));
        g.user(1);
        g.kernel(1);
        g.set(pte, 0);
        g.free(7, 1);
        g.quiet();
        if flushed {
            g.flush(1, Invalidation::Page(VA));
        }
        g.user(1);
        let expected = if flushed {
            vec![]
        } else {
            vec![(Rule::R2, vec![1])]
        };
        assert_eq!(g.found(), expected);
        // Once.
        g.kernel(1);
        g.user(1);
        g.quiet();
    }
}

#[test]
fn r2_at_once_for_a_cpu_in_user_mode_and_at_stac() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.user(1);
    g.set(pte, 0);
    g.free(7, 1);
    assert_eq!(g.found(), vec![(Rule::R2, vec![1])]);
    let by = g.by(0);
    g.ledger.stac(&by).unwrap();
    assert_eq!(g.found(), vec![(Rule::R2, vec![0])]);
}

#[test]
fn legal_pages_are_freed_after_the_flush() {
    let mut g = guest();
    let ptes: Vec<u64> = (0..100)
        .map(|n| g.map(VA + (n << 12), to(0x100 + n, USER)))
        .collect();
    g.user(1);
    for pte in ptes {
        g.set(pte, 0);
    }
    let ended = g.flush(1, Invalidation::Current);
    assert_eq!(
        ended,
        Ended {
            leaves: 100,
            tables: 0
        }
    );
    g.flush(0, Invalidation::Current);
    g.free(0x100, 100);
    g.user(0);
    g.quiet();
}

#[test]
fn legal_lazy_cpus_flush_before_they_run_user_code() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    let (root, other) = (g.root, g.other);
    g.set(pte, 0);
    g.flush(0, Invalidation::Page(VA));
    g.free(7, 1);
    g.user(0);
    // CPU 1 goes on in the kernel, then runs something else, then this again.
    g.load(1, other);
    g.user(1);
    g.kernel(1);
    g.load(1, root);
    g.user(1);
    g.quiet();
}

#[test]
fn legal_a_shared_page_is_unmapped_and_not_freed() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    g.flush(0, Invalidation::Page(VA));
    g.quiet();
}

#[test]
fn legal_the_same_page_at_the_same_place() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    g.set(pte, to(7, USER));
    g.user(0);
    g.kernel(0);
    g.free(7, 1);
    g.user(1);
    g.quiet();
}

#[test]
fn r3_when_the_task_goes_on() {
    for (task, found) in [(100, vec![(Rule::R3, vec![0])]), (100 + 7, vec![])] {
        let mut g = guest();
        let pte = g.map(VA, to(7, USER));
        g.set(pte, to(7, READ));
        // Another task runs first: it owes nothing.
        let by = Origin {
            task: Task(task),
            ..g.by(0)
        };
        g.ledger.enters_user(&by).unwrap();
        assert_eq!(g.found(), found);
    }
}

#[test]
fn r3_arms_other_cpus() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, to(7, READ));
    g.flush(0, Invalidation::Page(VA));
    g.user(0);
    g.quiet();
    g.user(1);
    let findings = g.ledger.take_findings();
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].rule, findings[0].why),
        (Rule::R3, Why::Returned)
    );
    assert_eq!(findings[0].holders[0].cpu, CpuId(1));
}

#[test]
fn r3_by_time_is_a_warning_and_said_once() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.user(1);
    g.set(pte, 0);
    for (age, n) in [(1000, 0), (0, 1), (0, 0)] {
        let by = g.by(1);
        g.ledger.late(&by, age).unwrap();
        let findings = g.ledger.take_findings();
        assert_eq!(findings.len(), n);
        assert!(findings.iter().all(|f| f.certainty == Certainty::Warning));
    }
}

#[test]
fn legal_the_kernel_s_lazy_unmaps() {
    // vfree: unmapped and freed, flushed when addresses run out. The letter of the manual is a knob.
    for strict in [false, true] {
        let mut g = Guest::loaded(Knobs {
            strict_kernel: strict,
            ..Knobs::default()
        });
        let pte = g.map(HIGH, to(7, KERNEL));
        g.set(pte, 0);
        g.free(7, 1);
        assert_eq!(!g.found().is_empty(), strict);
        g.user(0);
        assert_eq!(!g.found().is_empty(), strict);
    }
}

#[test]
fn legal_frames_are_exchanged_and_flushed_once() {
    // As for huge pages' own descriptions: present to present, the flush before it returns.
    for flushed in [true, false] {
        let mut g = guest();
        for n in 0..4 {
            let pte = g.map(HIGH + (n << 12), to(7 + n, KERNEL));
            g.set(pte, to(0x70, KERNEL));
        }
        g.quiet();
        if flushed {
            g.flush(0, Invalidation::Everything);
            g.flush(1, Invalidation::Everything);
        }
        g.user(0);
        let expected = if flushed {
            vec![]
        } else {
            vec![(Rule::R3, vec![0, 1]); 4]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn r4_an_address_of_the_kernel_gets_another_page() {
    for (flushed, frame) in [(false, 8), (true, 8), (false, 7)] {
        let mut g = guest();
        let pte = g.map(HIGH, to(7, KERNEL));
        g.set(pte, 0);
        g.flush(0, Invalidation::Everything);
        if flushed {
            g.flush(1, Invalidation::Everything);
        }
        g.set(pte, to(frame, KERNEL));
        let expected = if flushed || frame == 7 {
            vec![]
        } else {
            vec![(Rule::R4, vec![1])]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn r4_a_halted_cpu_is_judged_when_it_executes() {
    for reset in [false, true] {
        let mut g = guest();
        let pte = g.map(HIGH, to(7, KERNEL));
        let by = g.by(1);
        g.ledger.halts(&by).unwrap();
        g.set(pte, 0);
        g.flush(0, Invalidation::Everything);
        g.set(pte, to(8, KERNEL));
        g.quiet();
        if reset {
            // INIT.
            g.flush(1, Invalidation::Everything);
        }
        g.ledger.resumes(&by).unwrap();
        let expected = if reset {
            vec![]
        } else {
            vec![(Rule::R4, vec![1])]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn r4_through_tables_that_are_filled_before_they_are_linked() {
    let mut g = guest();
    let pte = g.map(HIGH, to(7, KERNEL));
    let pde = g.entry(g.root, HIGH, 2);
    g.set(pte, 0);
    g.set(pde, 0);
    let table = g.table();
    g.poke(table << 12 | (HIGH >> 12 & 511) << 3, to(8, KERNEL));
    g.set(pde, to(table, TABLE));
    assert_eq!(g.found(), vec![(Rule::R4, vec![0, 1])]);
}

#[test]
fn r5_contents_that_may_still_change() {
    for (flags, user, expected) in [
        (USER, true, vec![(Rule::R5, vec![1])]),
        (USER, false, vec![]),
        (USER & !D, true, vec![]),
        (READ, true, vec![]),
    ] {
        let mut g = guest();
        let pte = g.map(VA, to(7, flags));
        if user {
            g.user(1);
        }
        g.set(pte, 0);
        g.flush(0, Invalidation::Page(VA));
        g.freeze(7);
        assert_eq!(g.found(), expected);
        // A CPU in the kernel, lazy perhaps, has until it runs user code.
        g.user(1);
        let late = flags == USER && !user;
        assert_eq!(
            g.found(),
            if late {
                vec![(Rule::R5, vec![1])]
            } else {
                vec![]
            }
        );
    }
}

#[test]
fn r5_the_kernel_keeps_its_promises() {
    for strict_kernel in [false, true] {
        let mut g = Guest::loaded(Knobs {
            strict_kernel,
            ..Knobs::default()
        });
        let pte = g.map(HIGH, to(7, KERNEL));
        g.set(pte, 0);
        g.freeze(7);
        assert_eq!(g.found().is_empty(), !strict_kernel);
    }
}

#[test]
fn r6_a_dirty_bit_that_hardware_set_in_the_old_table() {
    for copied in [false, true] {
        let mut g = guest();
        let pte = g.map(VA, to(7, USER & !D));
        let pde = g.entry(g.root, VA, 2);
        let old = behind(&mut g, pde);
        let table = g.table();
        let index = VA >> 12 & 511;
        g.poke(table << 12 | index << 3, to(7, USER & !D));
        assert_eq!(g.ledger.may_set_bits(pte, D), None);
        g.set(pde, to(table, TABLE));
        assert_eq!(g.ledger.may_set_bits(pte, D), Some(CpuId(0)));
        let by = g.by(0);
        g.poke(pte, to(7, USER));
        g.ledger.bits_set(&by, pte, D).unwrap();
        for cpu in [0, 1] {
            g.flush(cpu, Invalidation::Everything);
        }
        assert_eq!(g.ledger.may_set_bits(pte, D), None);
        if copied {
            g.poke(table << 12 | index << 3, to(7, USER));
        }
        g.free(old, 1);
        let expected = if copied {
            vec![]
        } else {
            vec![(Rule::R6, vec![])]
        };
        assert_eq!(g.found(), expected);
    }
}

#[test]
fn legal_a_mapping_that_only_one_cpu_has_loaded() {
    // text_poke: a root of its own, a local flush.
    let mut g = guest();
    let other = g.other;
    g.load(0, other);
    let pte = g.entry(other, VA, 1);
    g.set(pte, to(7, KERNEL & !G));
    g.set(pte, 0);
    g.flush(0, Invalidation::Page(VA));
    assert_eq!(g.ledger.pending_count(), Ended::default());
}

#[test]
fn legal_paging_is_off_or_nested() {
    let mut g = guest();
    let by = g.by(1);
    g.ledger.invalidate(&by, Invalidation::Everything).unwrap();
    g.ledger.load_cr3(&by, None, false).unwrap();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    // Off: nothing is cached. The model leaves the root in place, and loading one drops it.
    g.load(1, g.root);
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 0);
}

#[test]
fn global_pages_of_a_tree_that_was_left() {
    let mut g = guest();
    let lone = g.table();
    g.load(1, lone);
    // The kernel's half is not there: the page may be cached all the same.
    g.map(HIGH, to(7, KERNEL));
    g.load(1, g.root);
    g.load(1, lone);
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 1);
    g.flush(1, Invalidation::Page(HIGH));
    assert_eq!(g.ledger.pending_on(CpuId(1)).len(), 0);
}

#[test]
fn flushes_that_end_nothing_are_known() {
    let mut g = guest();
    let pte = g.map(VA, to(7, USER));
    g.set(pte, 0);
    assert_eq!(
        g.flush(0, Invalidation::Current),
        Ended {
            leaves: 1,
            tables: 0
        }
    );
    assert_eq!(g.flush(0, Invalidation::Current), Ended::default());
}

#[test]
fn limits_are_errors_that_stay() {
    let limits = Limits {
        records: 16,
        tables: 1 << 17,
    };
    let mut g = Guest::loaded(Knobs {
        limits,
        ..Knobs::default()
    });
    let ptes: Vec<u64> = (0..17)
        .map(|n| g.map(VA + (n << 12), to(7 + n, USER)))
        .collect();
    // Flushed ones do not count.
    for _ in 0..10 {
        for pte in &ptes[..16] {
            let value = g.peek(*pte);
            g.set(*pte, 0);
            g.set(*pte, value);
        }
        g.flush(0, Invalidation::Current);
        g.flush(1, Invalidation::Current);
    }
    for pte in &ptes[..16] {
        g.set(*pte, 0);
    }
    let by = g.by(0);
    let error = g.ledger.store(&by, ptes[16], None, 0).unwrap_err();
    assert_eq!(error, RunError::TooManyRecords(16));
    assert!(error.to_string().contains("raise the limit"));
    assert_eq!(g.ledger.enters_user(&by), Err(error));

    let limits = Limits {
        tables: 5,
        ..Limits::default()
    };
    let mut g = Guest::loaded(Knobs {
        limits,
        ..Knobs::default()
    });
    let by = g.by(0);
    let root = g.root;
    let node = g.node();
    let error = g
        .ledger
        .store(&by, root << 12 | 16, None, to(node, TABLE | FLAT));
    assert_eq!(error, Err(RunError::TooManyTables(5)));

    let mut g = guest();
    let by = Origin {
        cpu: CpuId(2),
        ..g.by(0)
    };
    assert_eq!(g.ledger.stac(&by), Err(RunError::NoSuchCpu(CpuId(2))));
}

#[test]
fn idle_roots_are_forgotten_where_nobody_reports_frees() {
    for (idle_roots, watched) in [(0, false), (8, true)] {
        let mut g = Guest::loaded(Knobs {
            idle_roots,
            ..Knobs::default()
        });
        let pte = g.map(VA, to(7, USER));
        let other = g.other;
        g.load(0, other);
        assert!(g.ledger.watches(Frame::of(pte)));
        g.load(1, other);
        assert_eq!(g.ledger.watches(Frame::of(pte)), watched);
        assert_eq!(g.ledger.watched().any(|f| f == Frame::of(pte)), watched);
    }
}
