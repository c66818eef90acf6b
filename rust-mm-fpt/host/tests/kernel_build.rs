// SPDX-License-Identifier: GPL-2.0

//! The core's files as the kernel compiles them: submodules of another crate root, without
//! warnings, with overflow checks. The life cycle is instantiated over `extern "C"` functions, as
//! in the kernel glue, and the object must not refer to any panic.

mod compile;

use compile::{compile, mentions, FOLDERS, MODULES};
use std::path::Path;

const GLUE: &str = r#"
use fpt_core::{addr::*, counters::*, entry::*, geometry::*, node::*, policy::*, pool::*, walk::*};
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
    fn alloc(&mut self, k: NodeKind) -> Option<Block> { match call(3, k as u64, 0, 0) { 0 => None, v => Some(Block(v)) } }
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
    fn lock(&mut self) { call(14, self.0, 0, 0); }
    fn unlock(&mut self) { call(15, self.0, 0, 0); }
    fn load(&mut self) -> Entry { Entry::new(call(16, self.0, 0, 0)) }
    fn publish(&mut self, e: Entry) { call(17, self.0, e.as_u64(), 0); }
    fn clear(&mut self) { call(18, self.0, 0, 0); }
    fn account(&mut self, k: NodeKind) { call(19, self.0, k as u64, 0); }
    fn unaccount(&mut self, k: NodeKind) { call(20, self.0, k as u64, 0); }
    fn tainted(&self) -> bool { call(21, self.0, 0, 0) != 0 }
}
impl NodeDemote for Ops {
    type Table = u64;
    fn alloc_table(&mut self, _k: NodeKind) -> Option<u64> { match call(24, 0, 0, 0) { 0 => None, v => Some(v) } }
    fn table_phys(&self, t: &u64) -> PhysAddr { PhysAddr::new(*t) }
    fn free_table(&mut self, _k: NodeKind, t: u64) { call(25, t, 0, 0); }
    fn store_table(&mut self, t: &u64, i: u32, e: Entry) { call(26, *t, i as u64, e.as_u64()); }
    fn slice_in_use(&mut self, _k: NodeKind, s: u32) -> bool { call(27, s as u64, 0, 0) != 0 }
    fn split_block(&mut self, _k: NodeKind, pa: PhysAddr) { call(28, pa.as_u64(), 0, 0); }
    fn account_demoted(&mut self, _k: NodeKind) { call(29, 0, 0, 0); }
    fn flush(&mut self, _k: NodeKind) { call(30, 0, 0, 0); }
    fn free_slice(&mut self, _k: NodeKind, pa: PhysAddr) { call(31, pa.as_u64(), 0, 0); }
}
impl PhysMem for Ops {
    fn load(&self, pa: PhysAddr) -> Option<u64> { Some(call(32, pa.as_u64(), 0, 0)) }
}
/// Everything, by number.
#[no_mangle]
pub extern "C" fn fpt_all(op: u32, a: u64, b: u64, text: &[u8; 9]) -> u64 {
    let mut ops = Ops(a);
    let kind = match NodeKind::from_u8(b as u8) { Some(k) => k, None => return 0 };
    match op {
        0 => matches!(install_node(&mut ops, kind, b), InstallOutcome::Installed) as u64,
        1 => match detach_node(&mut ops) { Some(d) => { let (block, tag) = d.into_raw(); block.0 | tag as u64 } None => 0 },
        2 => match Detached::from_raw(Block(a), b as u8) { Ok(d) => retire_node(&mut ops, d) as u64, Err(_) => 9 },
        3 => drain_pool(&mut ops, kind, b as u32) as u64,
        4 => match install_root(&mut ops) { Ok(pa) => pa.as_u64(), Err(e) => e as u64 },
        5 => detach_root(&mut ops, PhysAddr::new(a)).into_raw().0.0,
        6 => matches!(demote_node(&mut ops, b), DemoteOutcome::Demoted) as u64,
        7 => hw_walk(&ops, a, VirtAddr::new(b), &Cfg { fpte: true, nxe: true, phys_bits: b as u32 }).visited() as u64,
        8 => matches!(sw_walk(&ops, PhysAddr::new(a), VirtAddr::new(b)), SwOutcome::Leaf { .. }) as u64,
        9 => Mode::from_str_bytes(text).map_or(0, |m| m.name().len() as u64),
        10 => Counter::from_index(a as usize).map_or(0, |c| (c.c_name().to_bytes().len() ^ c.name().len()) as u64),
        11 => { let mut slots = [a; 8]; let mut len = b as u32; let mut p = PoolView::new(&mut slots, &mut len, op); let _ = p.push(a); p.pop().unwrap_or(0) }
        12 => cap_nodes(a, b),
        _ => {
            let facts = SpanFacts { mode: Mode::L3L2, kind, policy: Policy::Size, min_span: a, mm_total_vm: b, vma_excluded: false, mm_flat_nodes: a, mm_cap: b, global_flat_nodes: a, global_cap: b, parent_choice: None };
            match decide(&facts) { Decision::Flatten => 0, Decision::Conventional(why) => why.index() as u64 }
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
