// SPDX-License-Identifier: MIT OR Apache-2.0
//! All contents of a CPU's caches, one by one: a set of sets, in which a processor may add any entry
//! that it can walk to from what it has, and drop any. Shows that the oracle's single set says the
//! same: every content is a part of it, and every part of it is a content.

use std::collections::BTreeSet;

use super::brute::{Brute, Event, Items};
use super::toy::{entry, start, to, va, LOW, MID, PAGE, READ, ROOT_A, TABLE, USER};
use crate::finding::What;
use crate::geometry::Rights;
use crate::rules::Psc;

/// All contents that can follow from some, by adding and dropping.
fn closure(brute: &Brute, from: BTreeSet<Items>) -> BTreeSet<Items> {
    let mut all = from.clone();
    let mut todo: Vec<Items> = from.into_iter().collect();
    while let Some(content) = todo.pop() {
        for next in one_step(brute, &content) {
            if all.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    all
}

fn one_step(brute: &Brute, content: &Items) -> Vec<Items> {
    let mut next = Vec::new();
    for item in content {
        let mut less = content.clone();
        less.remove(item);
        next.push(less);
    }
    // A walk from the root or from a cached entry reads down to the leaf, and may keep of what it reads
    // as little as it likes.
    let mut reachable = Items::new();
    if brute.cpus[0].root.is_some() {
        reachable.extend(brute.step((ROOT_A, 3, 0, 0), Rights::ALL, true));
    }
    let mut walk: Vec<_> = content.iter().chain(&reachable).copied().collect();
    while let Some(item) = walk.pop() {
        if let What::Table(p) = item.2 {
            let page = (p.frame.0, p.level.0, item.0, 0);
            for below in brute.step(page, p.rights, true) {
                if reachable.insert(below) {
                    walk.push(below);
                }
            }
        }
    }
    for item in reachable {
        let mut more = content.clone();
        if more.insert(item) {
            next.push(more);
        }
    }
    next
}

fn invalidate(
    contents: BTreeSet<Items>,
    gone: impl Fn(&super::brute::Item) -> bool,
) -> BTreeSet<Items> {
    let without = |c: Items| c.into_iter().filter(|i| !gone(i)).collect();
    contents.into_iter().map(without).collect()
}

fn subsets(of: &Items) -> BTreeSet<Items> {
    let items: Vec<_> = of.iter().copied().collect();
    (0..1u32 << items.len())
        .map(|mask| {
            let taken = items.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0);
            taken.map(|(_, item)| *item).collect()
        })
        .collect()
}

fn check(brute: &Brute, contents: &BTreeSet<Items>, depth: u32, seen: &mut u64) {
    *seen += 1;
    let all = &brute.cpus[0].cache;
    if all.len() <= 8 {
        assert_eq!(*contents, subsets(all));
    }
    if depth == 0 {
        return;
    }
    let events = [
        Event::Store(entry(ROOT_A, 0), 0),
        Event::Store(entry(MID, 0), 0),
        Event::Store(entry(MID, 0), to(LOW, TABLE)),
        Event::Store(entry(LOW, 0), 0),
        Event::Store(entry(LOW, 0), to(PAGE, READ)),
        Event::Store(entry(LOW, 0), to(PAGE, USER)),
        Event::Page(0, va(0, 0, 0)),
        Event::Fault(0, va(0, 1, 0)),
        Event::Everything(0),
    ];
    for event in events {
        let mut next = brute.clone();
        next.event(event);
        if next.cpus[0].cache.len() > 8 {
            continue;
        }
        let kept = match event {
            Event::Everything(_) => invalidate(contents.clone(), |_| true),
            Event::Page(_, _) => invalidate(contents.clone(), |i| match i.2 {
                What::Table(_) => true,
                What::Leaf(_) => i.0 == 0,
            }),
            // No page lies there; the path is the top entry's.
            Event::Fault(_, _) => invalidate(contents.clone(), |i| {
                matches!(i.2, What::Table(_)) && i.1 .0 == 3
            }),
            _ => contents.clone(),
        };
        let contents = closure(&next, kept);
        check(&next, &contents, depth - 1, seen);
    }
}

#[test]
fn one_set_stands_for_all_contents() {
    let mut memory = start();
    memory.put(entry(ROOT_A, 2), 0);
    memory.put(entry(LOW, 1), 0);
    let mut brute = Brute::new(memory, Psc::Intel);
    brute.event(Event::Cr3(0, ROOT_A));
    let contents = closure(&brute, BTreeSet::from([Items::new()]));
    let mut seen = 0;
    check(&brute, &contents, 4, &mut seen);
    assert!(seen > 5000, "{seen}");
}
