// SPDX-License-Identifier: GPL-2.0

//! Statements about the core that hold for every input, not only for those that a test tries.
//!
//! Each statement is a function of unconstrained arguments that asserts it. It is compiled with the core's own
//! files, as the kernel compiles them; where the object refers to no panic, the optimiser has shown that the
//! assertions cannot fail, for any argument, and removed them. Nothing here is run. A statement that LLVM
//! cannot show fails this test although it may be true: it is a statement for the exhaustive tests then.

mod compile;

use compile::{compile, mentions};

/// Name and text. Arguments are what C could pass: any value at all.
const STATEMENTS: [(&str, &str); 21] = [
    (
        "an index splits into two in range and joins to itself",
        "fn s(i: u32) { let (slice, slot) = split_index(i);
            assert!(slice < SLICES && slot < 512 && join_index(slice, slot) == i & 0x3_ffff); }",
    ),
    (
        "slice and slot join to an index in range and split to themselves",
        "fn s(a: u32, b: u32) { let i = join_index(a, b);
            assert!(i < NODE_ENTRIES && split_index(i) == (a & 511, b & 511)); }",
    ),
    (
        "the index in a node is the indices in the tables that it replaces: Root",
        "fn s(va: u64) { let va = VirtAddr::new(va);
            assert!(node_index(NodeKind::Root, va) == join_index(Level::L4.index(va), Level::L3.index(va))); }",
    ),
    (
        "the index in a node is the indices in the tables that it replaces: Mid",
        "fn s(va: u64) { let va = VirtAddr::new(va);
            assert!(node_index(NodeKind::Mid, va) == join_index(Level::L3.index(va), Level::L2.index(va))); }",
    ),
    // LLVM does not see the same of a bottom node; it follows from the next two.
    (
        "the four indices and the offset make up the address",
        "fn s(va: u64) { let v = VirtAddr::new(va);
            let joined = (Level::L4.index(v) as u64) << 39 | (Level::L3.index(v) as u64) << 30
                | (Level::L2.index(v) as u64) << 21 | (Level::L1.index(v) as u64) << 12 | va & 0xfff;
            assert!(joined == va & 0xffff_ffff_ffff); }",
    ),
    (
        "so do the indices of two nodes",
        "fn s(va: u64) { let v = VirtAddr::new(va);
            let joined = (node_index(NodeKind::Root, v) as u64) << 30 | (node_index(NodeKind::Bottom, v) as u64) << 12 | va & 0xfff;
            assert!(joined == va & 0xffff_ffff_ffff); }",
    ),
    (
        "an address differs from its span's first in the bits below the span only",
        "fn s(va: u64) { let v = VirtAddr::new(va);
            for kind in [NodeKind::Root, NodeKind::Mid, NodeKind::Bottom] {
                let base = span_base(kind, v).as_u64();
                assert!(va & !(span_bytes(kind) - 1) == base && va ^ base < span_bytes(kind)); } }",
    ),
    (
        "and from its slice's first in the bits below the slice",
        "fn s(va: u64) { let v = VirtAddr::new(va);
            for kind in [NodeKind::Mid, NodeKind::Bottom] {
                let slice = slice_base(kind, v, slice_of(kind, v)).as_u64();
                assert!(va ^ slice < span_bytes(kind) >> 9); } }",
    ),
    (
        "an entry made for a node is decoded to what it was made from",
        "fn s(pa: u64, flags: u64) { assert!(Entry::node(PhysAddr::new(pa), NodeKind::Root, flags).is_none());
            for kind in [NodeKind::Mid, NodeKind::Bottom] {
                let Some(e) = Entry::node(PhysAddr::new(pa), kind, flags) else { return };
                assert!(pa & 0x1f_ffff == 0 && e.addr().as_u64() == pa && e.flags() & !FPT_BITS == flags);
                assert!(e.is_flat() && !e.is_none() && e.as_u64() & FLAT_SLICE == 0);
                let level = if matches!(kind, NodeKind::Mid) { Level::L4 } else { Level::L3 };
                assert!(e.node_kind(level).is_some_and(|k| k as u8 == kind as u8)); } }",
    ),
    (
        "an entry made for a table is never taken for a node",
        "fn s(pa: u64, flags: u64) { let Some(e) = Entry::table(PhysAddr::new(pa), flags) else { return };
            assert!(e.addr().as_u64() == pa && e.flags() == flags && e.is_present() && !e.is_flat());
            assert!(e.node_kind(Level::L4).is_none() && e.node_kind(Level::L3).is_none()); }",
    ),
    (
        "software's root entry leads to the slice that hardware indexes",
        "fn s(block: u64, i: u32, flags: u64) { let Some(e) = Entry::root_slice(PhysAddr::new(block), i, flags) else { return };
            assert!(i < 256 && !e.is_flat() && e.is_present() && e.as_u64() & FLAT_SLICE != 0);
            assert!(e.addr().as_u64() == block.wrapping_add((i as u64) << 12)); }",
    ),
    (
        "CR3 of a flattened root is one that the processor takes",
        "fn s(l4: u64, low: u64) { let Some(cr3) = cr3_flat(PhysAddr::new(l4), low) else { return };
            assert!(cr3_is_valid(cr3, &Cfg { fpte: true, nxe: true, phys_bits: 52 }));
            assert!(!cr3_is_valid(cr3, &Cfg { fpte: false, nxe: true, phys_bits: 52 }));
            assert!(Entry::new(cr3).addr().as_u64() == l4); }",
    ),
    (
        "what is below an entry is what the kernel's C text of it says",
        "fn s(val: u64, i: u32) { let pa = val & 0x000f_ffff_ffff_f000;
            let c = if val & FLAT != 0 { pa.wrapping_add((i as u64) << 12) | 1 } else { pa };
            assert!(below(Entry::new(val), i).into_raw() == c); }",
    ),
    (
        "software finds a slice below a node's entry and a table below a table's, at their addresses",
        "fn s(pa: u64, i: u32, flags: u64) { if i >= SLICES { return }
            if let Some(e) = Entry::node(PhysAddr::new(pa), NodeKind::Bottom, flags) {
                assert!(matches!(below(e, i), Below::Slice(s) if s.as_u64() == pa + (i as u64) * 4096 && s.as_u64() >> 21 == pa >> 21)); }
            if let Some(e) = Entry::table(PhysAddr::new(pa), flags) {
                assert!(matches!(below(e, i), Below::Table(t) if t.as_u64() == pa)); } }",
    ),
    (
        "an own entry is told from every other value, whatever its accessed bit",
        "fn s(block: u64, i: u32, val: u64) { let block = PhysAddr::new(block);
            let own = own_entry(block, i).as_u64();
            assert!(is_own(block, i, Entry::new(val)) == (val & !ACCESSED == own & !ACCESSED)); }",
    ),
    (
        "a node that is in no tree brings no table and has no entry",
        "fn s(block: u64, index: u64, i: u32) { let mut span = Span::new(NodeKind::Bottom);
            let (b, p) = (PhysAddr::new(block), PhysAddr::new(index));
            assert!(span.slot_entry(b, p).is_none() && span.take(b, i).is_none() && span.nr_used() == 0); }",
    ),
    (
        "a node that is in no tree adopts no table",
        "fn s(block: u64, i: u32, val: u64) { let mut span = Span::new(NodeKind::Bottom);
            assert!(span.adopt(PhysAddr::new(block), i, Entry::new(val)).is_none() && span.nr_used() == 0 && span.nr_unused() == 512); }",
    ),
    (
        "where huge pages are, no span in use becomes flat",
        "fn s(tables: u32, leaves: u32, attached: bool, hugetlb: bool, wants_huge: bool, rest: u8, b: &[u64; 5]) {
            let budget = Budget { resident: b[0], wasted: b[1], permille: b[2], wasted_by_all: b[3], cap: b[4] };
            let rest = match Rest::from_u8(rest) { Some(rest) => rest, None => return };
            let p = decide_promotion(&PromotionFacts { tables, leaves, attached, hugetlb, wants_huge, rest, budget });
            if matches!(p, Promotion::Now) { assert!(!hugetlb && leaves == 0); } }",
    ),
    (
        "nor where there was one less than a minute ago",
        "fn s(tables: u32, leaves: u32, attached: bool, hugetlb: bool, wants_huge: bool, rest: u8, b: &[u64; 5]) {
            let budget = Budget { resident: b[0], wasted: b[1], permille: b[2], wasted_by_all: b[3], cap: b[4] };
            let rest = match Rest::from_u8(rest) { Some(rest) => rest, None => return };
            let p = decide_promotion(&PromotionFacts { tables, leaves, attached, hugetlb, wants_huge, rest, budget });
            if matches!(p, Promotion::Now) { assert!(!matches!(rest, Rest::Short)); } }",
    ),
    (
        "what wastes nothing and adds nothing keeps to any share",
        "fn s(resident: u64, permille: u64, cap: u64) {
            let b = Budget { resident, wasted: 0, permille, wasted_by_all: 0, cap };
            assert!(b.allows(0) && !b.overdrawn()); }",
    ),
    (
        "who asks for auto gets it, from a kernel that may have L2+L1 nodes",
        "fn s(n: u8, boot: u8) { let (r, boot) = match (Request::from_u8(n), Boot::from_u8(boot)) { (Some(r), Some(b)) => (r, b), _ => return };
            if let Request::Auto = r {
                assert!(n == 5 && r.possible(boot) == boot.allows(NodeKind::Bottom) && matches!(r.policy(Policy::Eager), Policy::Auto)); } }",
    ),
];

/// What the policy says is true, whatever the numbers: for each mode, kind, policy and parent.
fn policy() -> Vec<(String, String)> {
    const TEXT: &str = "fn s(huge: bool, total: u64, min: u64, nodes: u64, cap: u64, all: u64, all_cap: u64, has: u32, slices: u32, below: u32, locked: bool, b: &[u64; 5]) {
        let budget = Budget { resident: b[0], wasted: b[1], permille: b[2], wasted_by_all: b[3], cap: b[4] };
        let auto = matches!(Policy::POLICY, Policy::Auto);
        let facts = SpanFacts { mode: Mode::MODE, kind: NodeKind::KIND, policy: Policy::POLICY, min_span: min, mm_total_vm: total,
            vma_excluded: huge, mm_flat_nodes: nodes, mm_cap: cap, global_flat_nodes: all, global_cap: all_cap, parent_choice: PARENT,
            parent_nodes: has, parent_slices: slices, below_slices: below, locked, budget };
        let (f, p) = (&facts, facts.parent_choice);
        match decide(f) {
            Decision::Flatten => assert!(f.mode.flattens(f.kind) && !huge && all < all_cap && nodes < cap
                && !matches!(p, Some(Choice::Radix)) && (auto || p.is_some() || matches!(f.policy, Policy::Eager) || total >= min)
                && (!auto || matches!(f.kind, NodeKind::Bottom))),
            Decision::Recycle => assert!(!auto && f.mode.flattens(f.kind) && !huge && all < all_cap && nodes < cap
                && matches!(p, Some(Choice::Flat)) && has >= FORK_NODES && slices < FORK_SLICES),
            Decision::Conventional(Reason::NotInMode) => assert!(!f.mode.flattens(f.kind)),
            Decision::Conventional(Reason::VmaExcluded) => assert!(huge),
            Decision::Conventional(Reason::GlobalCap) => assert!(all >= all_cap),
            Decision::Conventional(Reason::MmCap) => assert!(nodes >= cap),
            Decision::Conventional(Reason::ParentRadix) => assert!(matches!(p, Some(Choice::Radix))),
            Decision::Conventional(Reason::BelowMinSpan) => assert!(p.is_none() && matches!(f.policy, Policy::Size) && total < min),
            Decision::Conventional(Reason::OverBudget) => assert!(auto && matches!(f.kind, NodeKind::Bottom)),
            Decision::Conventional(Reason::TooSparse) => assert!(auto),
        } }";
    let mut out = Vec::new();
    for mode in ["Radix", "L4L3", "L3L2", "L4L3L2L1"] {
        for kind in ["Root", "Mid", "Bottom"] {
            for policy in ["Eager", "Size", "Auto"] {
                for parent in ["None", "Some(Choice::Flat)", "Some(Choice::Radix)"] {
                    let text = TEXT
                        .replace("Mode::MODE", &format!("Mode::{mode}"))
                        .replace("KIND", kind)
                        .replace("POLICY", policy)
                        .replace("PARENT", parent);
                    out.push((format!("policy: {mode} {kind} {policy} {parent}"), text));
                }
            }
        }
    }
    out
}

/// False for one argument of 2^32: what a test of some arguments would not notice.
const FALSE: &str =
    "fn s(i: u32) { assert!(join_index(split_index(i).0, split_index(i).1) != 0x2_7183 || i >> 18 != 0x1bcd); }";

fn glue(bodies: &[&str]) -> String {
    let mut out = String::from(
        "#[allow(unused_imports)]\nuse fpt_core::{addr::*, entry::*, geometry::*, policy::*, span::*, walk::*};\n",
    );
    for (n, body) in bodies.iter().enumerate() {
        let body = body.replacen("fn s(", &format!("pub extern \"C\" fn s{n}("), 1);
        out += &format!("/// A statement.\n#[no_mangle]\n{body}\n");
    }
    out
}

fn shown(name: &str, bodies: &[&str]) -> bool {
    let object = compile(name, &glue(bodies));
    assert!(mentions(&object, b"s0"));
    !mentions(&object, b"panicking")
}

#[test]
fn no_statement_can_fail() {
    let fixed = STATEMENTS.map(|(name, text)| (name.to_string(), text.to_string()));
    let all: Vec<(String, String)> = fixed.into_iter().chain(policy()).collect();
    let texts: Vec<&str> = all.iter().map(|s| s.1.as_str()).collect();
    if shown("proofs", &texts) {
        return;
    }
    let open: Vec<&str> = all
        .iter()
        .filter(|s| !shown("proofs", &[&s.1]))
        .map(|s| s.0.as_str())
        .collect();
    panic!("not shown for every argument: {open:#?}");
}

#[test]
fn a_false_statement_is_refused() {
    assert!(!shown("false-statement", &[FALSE]));
}
