// SPDX-License-Identifier: GPL-2.0

//! Spans in use that become flat: what kflatd does, and MADV_FLATTEN.

use crate::space::Mm;
use crate::world::World;
use fpt_core::addr::{PhysAddr, PAGE_SIZE};
use fpt_core::counters::Counter;
use fpt_core::entry::{Class, Entry, ACCESSED};
use fpt_core::geometry::{Level, NodeKind};
use fpt_core::node::{self, Source};
use fpt_core::policy::{decide_promotion, Promotion, PromotionFacts};
use fpt_core::span::{is_own, State, View};

/// Who wants a span to be flat.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Policy auto, if it pays.
    Policy,
    /// The process, whatever it costs.
    Asked,
}

/// What became of the wish.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Promoted {
    /// There is no table of level 2, or no node may be there.
    Nothing,
    /// The policy is against it.
    Refused(Promotion),
    /// No block, charge or cap.
    NoMemory,
    /// Something else than tables stands there: the node stays attached.
    Attached,
    /// Hardware reads the node.
    Flat,
}

impl Mm {
    /// What the policy is told of the table at `table`, in use.
    fn promotion_facts(&self, w: &World, table: PhysAddr) -> PromotionFacts {
        let words = w.mem.words(table);
        let is_table = |v: &u64| matches!(Entry::new(*v).classify(Level::L2), Class::Table { .. });
        let tables = words.iter().filter(|(_, v)| is_table(v)).count() as u32;
        PromotionFacts {
            tables,
            leaves: words.len() as u32 - tables,
            attached: w.blocks.contains_key(&table),
            hugetlb: false,
            wants_huge: w.wants_huge,
            rest: w.rest,
            budget: self.budget(w),
        }
    }

    /// Makes the span of 1 GiB around `va` flat (T8 to T10).
    pub fn promote(&mut self, w: &mut World, va: u64, wish: Wish) -> Promoted {
        let slot = match self.lookup(w, va, Level::L3) {
            Some(slot) if self.mode.flattens(NodeKind::Bottom) => slot,
            _ => return Promoted::Nothing,
        };
        let table = match Entry::new(w.mem.read(slot)).classify(Level::L3) {
            Class::Table { pa } => pa,
            Class::Node { .. } => return Promoted::Flat,
            _ => return Promoted::Nothing,
        };
        let facts = self.promotion_facts(w, table);
        match (wish, decide_promotion(&facts)) {
            (Wish::Asked, _) | (Wish::Policy, Promotion::Now) => {}
            (Wish::Policy, why) => return Promoted::Refused(why),
        }
        if !facts.attached && !self.attach(w, slot, table, wish) {
            return Promoted::NoMemory;
        }
        let block = w.blocks[&table];
        if wish == Wish::Asked {
            let mut node = w.nodes.remove(&block).expect("a node");
            node::uncount_node(&mut self.ops(w), &mut node.span);
            w.nodes.insert(block, node);
        }
        for (i, _) in w.mem.words(table) {
            self.migrate(w, block, i);
        }
        // synchronize_rcu()
        w.grace_period();
        self.reflatten(w, block)
    }

    /// T8. The block's own index page goes: the table takes its place.
    fn attach(&mut self, w: &mut World, slot: PhysAddr, table: PhysAddr, wish: Wish) -> bool {
        let Ok(ready) = self.acquire(w, NodeKind::Bottom, Source::Patient) else {
            w.counters[Counter::PROMOTE_REFUSED_MEMORY.index()] += 1;
            return false;
        };
        let block = ready.into_raw().into_pa();
        let mut node = w.nodes.remove(&block).expect("a node");
        w.blocks.remove(&node.index);
        w.mem.free_table(node.index, Level::L2);
        w.mem.rename(block, table);
        (node.index, node.slot) = (table, Some(slot));
        node.span.count(wish == Wish::Policy);
        let View::Ready(span) = node.span.view() else {
            panic!("a node that was not attached is ready");
        };
        let _attached = node::attach_node(&mut self.ops(w), span);
        w.nodes.insert(block, node);
        w.blocks.insert(table, block);
        true
    }

    /// T9, of what stands at index `i`.
    fn migrate(&mut self, w: &mut World, block: PhysAddr, i: u32) {
        let at = w.node(block).index.offset(u64::from(i) * 8);
        let now = Entry::new(w.mem.read(at));
        let adopted = self.slices(w, block, |span| span.adopt(block, i, now));
        let Some(own) = adopted else {
            return;
        };
        for (j, word) in w.mem.words(now.addr()) {
            let at = |table: PhysAddr| table.offset(u64::from(j) * 8);
            w.mem.write(at(own.addr()), word);
            w.mem.write(at(now.addr()), 0);
        }
        w.mem.write(at, own.as_u64());
        w.flush();
        w.mem.free_table(now.addr(), Level::L1);
        // mm_dec_nr_ptes()
        self.pgtables_bytes -= PAGE_SIZE as i64;
        w.counters[Counter::MIGRATED_TABLES.index()] += 1;
    }

    /// T10
    fn reflatten(&mut self, w: &mut World, block: PhysAddr) -> Promoted {
        let mut node = w.nodes.remove(&block).expect("a node");
        assert_eq!(node.span.state(), State::Attached);
        let (index, mem) = (node.index, &mut w.mem);
        let at = |i: u32| index.offset(u64::from(i) * 8);
        let entry = match node.span.view() {
            View::Attached(span) => span
                .flatten(block, |i| Entry::new(mem.read(at(i))))
                .map(|(_flat, entry)| entry),
            _ => None,
        };
        if let Some(entry) = entry {
            // I8
            for (i, word) in mem.words(index) {
                assert!(is_own(block, i, Entry::new(word)));
                mem.write(at(i), word | ACCESSED);
            }
            mem.write(node.slot.expect("in a tree"), entry.as_u64());
            w.counters[Counter::REFLATTENED.index()] += 1;
        }
        w.nodes.insert(block, node);
        match entry {
            Some(_) => Promoted::Flat,
            None => Promoted::Attached,
        }
    }
}
