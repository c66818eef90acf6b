// SPDX-License-Identifier: GPL-2.0

//! The core's files as the kernel compiles them: submodules of another crate root, without
//! warnings, with overflow checks. The life cycle is instantiated over `extern "C"` functions, as
//! in the kernel glue, and the object must not refer to any panic.

mod compile;

use compile::{compile, mentions, FOLDERS, MODULES};
use std::path::Path;

const GLUE: &str = r#"
use fpt_core::{addr::*, counters::*, entry::*, geometry::*, node::*, policy::*, pool::*, span, span::{Event, Span, State, View}, walk::*};
/// A block.
pub struct Block(u64);
struct Ops(u64);
extern "C" {
    fn c(op: u32, a: u64, b: u64, c: u64) -> u64;
}
fn call(op: u32, a: u64, b: u64, d: u64) -> u64 {
    // SAFETY: never run: this object is compiled and looked at, not linked.
    unsafe { c(op, a, b, d) }
}
impl NodeAlloc for Ops {
    type Block = Block;
    fn take_pooled(&mut self, k: NodeKind) -> Option<Block> { match call(0, k as u64, 0, 0) { 0 => None, v => Some(Block(v)) } }
    fn put_pooled(&mut self, k: NodeKind, b: Block) -> Result<(), Block> { if call(1, k as u64, b.0, 0) == 0 { Ok(()) } else { Err(b) } }
    fn pool_bypassed(&self, _k: NodeKind) -> bool { call(2, 0, 0, 0) != 0 }
    fn alloc(&mut self, k: NodeKind, patient: bool) -> Option<Block> { match call(3, k as u64, patient as u64, 0) { 0 => None, v => Some(Block(v)) } }
    fn free(&mut self, _k: NodeKind, b: Block) { call(4, b.0, 0, 0); }
    fn phys(&self, b: &Block) -> PhysAddr { PhysAddr::new(call(5, b.0, 0, 0)) }
    fn prepare_slice(&mut self, k: NodeKind, b: &Block, s: u32) -> bool { call(6, k as u64, b.0, s as u64) != 0 }
    fn unprepare_slice(&mut self, k: NodeKind, b: &Block, s: u32) { call(7, k as u64, b.0, s as u64); }
    fn store_l4(&mut self, l4: PhysAddr, i: u32, e: Entry) { call(22, l4.as_u64(), i as u64, e.as_u64()); }
    fn charge(&mut self, k: NodeKind, b: &Block) -> bool { call(8, k as u64, b.0, 0) != 0 }
    fn uncharge(&mut self, k: NodeKind, b: &Block) { call(9, k as u64, b.0, 0); }
    fn is_zero(&self, _k: NodeKind, b: &Block) -> bool { call(10, b.0, 0, 0) != 0 }
    fn claim(&mut self, _k: NodeKind, pa: PhysAddr) -> Block { Block(pa.as_u64()) }
    fn count(&mut self, c: Counter, d: i64) { call(11, c.index() as u64, d as u64, 0); }
}
impl NodeMem for Ops {
    fn reserve(&mut self, k: NodeKind) -> bool { call(12, self.0, k as u64, 0) != 0 }
    fn unreserve(&mut self, k: NodeKind) { call(13, self.0, k as u64, 0); }
    fn account(&mut self, k: NodeKind) { call(19, self.0, k as u64, 0); }
    fn unaccount(&mut self, k: NodeKind) { call(20, self.0, k as u64, 0); }
    fn account_dissolved(&mut self, k: NodeKind, n: u32) { call(14, self.0, k as u64, n as u64); }
    fn waste(&mut self, n: i32) { call(23, self.0, n as u64, 0); }
    fn tainted(&self) -> bool { call(21, self.0, 0, 0) != 0 }
}
impl RootShed for Ops {
    fn split_root(&mut self, b: Block, l4: PhysAddr) { call(24, b.0, l4.as_u64(), 0); }
}
impl IndexPages for Ops {
    fn index_page(&self, s: PhysAddr) -> Option<PhysAddr> { match call(25, s.as_u64(), 0, 0) { 0 => None, v => Some(PhysAddr::new(v)) } }
}
impl PhysMem for Ops {
    fn load(&self, pa: PhysAddr) -> Option<u64> { Some(call(32, pa.as_u64(), 0, 0)) }
}
fn dissolved(mm: u64, loose: &span::Loose<'_>) -> u64 {
    dissolve_node(&mut Ops(mm), loose);
    loose.nr_unused() as u64 | (loose.kind() as u64) << 16 | (loose.is_counted() as u64) << 24
}
/// The life of a span, in memory that is C's.
///
/// # Safety
///
/// `span` is valid.
#[no_mangle]
pub unsafe extern "C" fn fpt_span(span: *mut Span, op: u32, a: u64, b: u64) -> u64 {
    // SAFETY: by the caller.
    let span = unsafe { &mut *span };
    let (block, index) = (PhysAddr::new(a), PhysAddr::new(b));
    match (op, span.view()) {
        (0, View::Ready(ready)) => publish_node(&mut Ops(a), ready, block).map_or(0, |(_, e)| e.as_u64()),
        (1, View::Flat(flat)) => flat.unflat(index).map_or(0, |(unflushed, e)| { call(26, e.as_u64(), 0, 0); dissolved(a, &unflushed.flushed().detach()) }),
        (2, View::Flat(flat)) => { gather_node(&mut Ops(a), &flat.gather()); 1 }
        (2, View::Attached(attached)) => { gather_node(&mut Ops(a), &attached.gather()); 1 }
        (3, View::Attached(attached)) => { let u = attached.unflushed(); call(27, 0, 0, 0); dissolved(a, &u.flushed().detach()) }
        (4, View::Gathered(mut g)) => g.must_look() as u64 | (g.retire(Entry::new(a)) as u64) << 1,
        (10, View::Ready(ready)) => { let _ = attach_node(&mut Ops(a), ready); 1 }
        (11, View::Attached(attached)) => attached.flatten(block, |i| Entry::new(call(28, i as u64, 0, 0))).map_or(0, |(_, e)| e.as_u64()),
        (5, _) => with_slices(&mut Ops(a), span, |span| span.take(block, b as u32)).map_or(0, Entry::as_u64),
        (6, _) => with_slices(&mut Ops(a), span, |span| span.put(block, op, Entry::new(b))) as u64,
        (12, _) => with_slices(&mut Ops(a), span, |span| span.adopt(block, b as u32, Entry::new(b))).map_or(0, Entry::as_u64),
        (14, _) => { uncount_node(&mut Ops(a), span); 1 }
        (13, _) => { span.count(b != 0); span.is_counted() as u64 | (span.nr_unused() as u64) << 1 }
        (7, _) => span.slot_entry(block, index).map_or(0, Entry::as_u64),
        (8, _) => span.is_used(b as u32) as u64 | (span.nr_used() as u64) << 1,
        (9, _) => { *span = Span::new(NodeKind::Mid); span.kind() as u64 | (span.state() as u64) << 8 }
        _ => Event::from_u8(b as u8).map_or(0, |e| (e.demands() == State::Loose) as u64 | span::own_entry(block, op).as_u64()),
    }
}
fn budget(a: u64, b: u64) -> Budget {
    Budget { resident: a, wasted: b, permille: call(29, 0, 0, 0), wasted_by_all: b, cap: a }
}
/// Everything, by number.
#[no_mangle]
pub extern "C" fn fpt_all(op: u32, a: u64, b: u64, text: &[u8; 9]) -> u64 {
    let mut ops = Ops(a);
    let kind = match NodeKind::from_u8(b as u8) { Some(k) => k, None => return 0 };
    match op {
        0 => match acquire_node(&mut ops, kind, match b & 24 { 0 => Source::Any, 8 => Source::Pool, _ => Source::Patient }) { Ok(ready) => ready.into_raw().0, Err(why) => why as u64 },
        2 => match Detached::from_raw(Block(a), b as u8) { Ok(d) => retire_node(&mut ops, d) as u64, Err(_) => 9 },
        3 => drain_pool(&mut ops, kind, b as u32) as u64,
        4 => match install_root(&mut ops) { Ok(pa) => pa.as_u64(), Err(e) => e as u64 },
        5 => detach_root(&mut ops, PhysAddr::new(a)).into_raw().0.0,
        7 => hw_walk(&ops, a, VirtAddr::new(b), &Cfg { fpte: true, nxe: true, phys_bits: b as u32 }).visited() as u64,
        8 => matches!(sw_walk(&ops, PhysAddr::new(a), VirtAddr::new(b)), SwOutcome::Leaf { .. }) as u64,
        9 => Mode::from_str_bytes(text).map_or(0, |m| m.name().len() as u64),
        10 => Counter::from_index(a as usize).map_or(0, |c| (c.c_name().to_bytes().len() ^ c.name().len()) as u64),
        11 => { let mut slots = [a; 8]; let mut len = b as u32; let mut p = PoolView::new(&mut slots, &mut len, op); let _ = p.push(a); p.pop().unwrap_or(0) }
        12 => cap_nodes(a, b),
        13 => { release_node(&mut ops, Ready::from_raw(kind, Block(b))); 0 }
        14 => { shed_root(&mut ops, PhysAddr::new(b)); 0 }
        15 => below(Entry::new(a), b as u32).into_raw(),
        16 => Request::from_u8(a as u8).map_or(9, |r| {
            let boot = match Boot::from_u8(b as u8) { Some(boot) => boot, None => Boot::DEFAULT };
            r.possible(boot) as u64 | (r.mode(boot) as u64) << 8 | (r.policy(Policy::of_boot(boot)) as u64) << 16
        }),
        17 => {
            let rest = match Rest::from_u8(op as u8) { Some(rest) => rest, None => Rest::None };
            decide_promotion(&PromotionFacts { tables: a as u32, leaves: b as u32, attached: a & 1 << 40 != 0, hugetlb: a & 1 << 41 != 0, wants_huge: a & 1 << 42 != 0, rest, budget: budget(a, b) }) as u64
        }
        18 => budget(a, b).overdrawn() as u64,
        _ => {
            let policy = match Policy::from_u8(op as u8) { Some(policy) => policy, None => Policy::Size };
            let facts = SpanFacts { mode: Mode::L4L3L2L1, kind, policy, min_span: a, mm_total_vm: b, vma_excluded: false, mm_flat_nodes: a, mm_cap: b, global_flat_nodes: a, global_cap: b, parent_choice: None, parent_nodes: a as u32, parent_slices: b as u32, below_slices: a as u32, locked: a & 1 != 0, budget: budget(a, b) };
            match decide(&facts) { Decision::Flatten => 0, Decision::Recycle => 99, Decision::Conventional(why) => why.index() as u64 }
        }
    }
}
"#;

#[test]
fn compiles_as_kernel_modules_without_a_panic() {
    let object = compile("kernel-like", GLUE);
    assert!(mentions(&object, b"fpt_all"));
    assert!(
        !mentions(&object, b"panicking"),
        "the object refers to a panic"
    );
}

/// The check above can fail.
#[test]
fn a_panic_would_be_seen() {
    let object = compile(
        "with-panic",
        "/// Overflows.\n#[no_mangle]\npub extern \"C\" fn f(a: u64) -> u64 { a + 1 }\n",
    );
    assert!(mentions(&object, b"panicking"));
}

/// Every file of the core is in the list above, so none escapes the kernel-like build.
#[test]
fn the_list_of_modules_is_complete() {
    let mut found: Vec<String> = FOLDERS
        .iter()
        .flat_map(|dir| std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap())
        .map(|e| {
            e.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .filter(|name| name != "lib")
        .collect();
    found.sort();
    assert_eq!(found, MODULES);
}
