// SPDX-License-Identifier: MIT OR Apache-2.0
//! The brute-force CPUs.

use std::collections::{BTreeMap, BTreeSet};

use crate::cpu::Mode;
use crate::finding::{Rule, What};
use crate::geometry::{Frame, Leaf, Level, Pointer, Rights};
use crate::geometry::{A, D, FLAT, G, P, PS, RW, US, XD};
use crate::rules::Psc;

use super::toy::{Memory, ENTRIES};

/// Something cached: address, level of the entry, contents.
pub(super) type Item = (u64, Level, What);
pub(super) type Items = BTreeSet<Item>;
/// Rule and CPU; no CPU: a table is linked.
pub(super) type Found = BTreeSet<(Rule, Option<u8>)>;

pub(super) const CPUS: usize = 2;
const PAGES: u64 = 64;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Physical address and value, by CPU 0's task.
    Store(u64, u64),
    /// The processor sets bits in an entry.
    Hardware(u64, u64),
    Cr3(u8, u64),
    Everything(u8),
    Page(u8, u64),
    Fault(u8, u64),
    Free(u64, u64),
    Freeze(u64),
    User(u8),
    Kernel(u8),
    Stac(u8),
    Halt(u8),
    Resume(u8),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Cpu {
    pub(super) root: Option<u64>,
    pub(super) cache: Items,
    mode: Mode,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Waiting {
    cpu: usize,
    rule: Rule,
    frame: u64,
    item: Item,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Brute {
    pub(super) memory: Memory,
    pub(super) cpus: [Cpu; CPUS],
    psc: Psc,
    known: BTreeSet<u64>,
    armed: BTreeSet<Waiting>,
    /// What the task of CPU 0 owes, and whether another page was there at once.
    owed: BTreeMap<(usize, Item), bool>,
}

fn shift(level: u8) -> u32 {
    10 + 2 * u32::from(level)
}

fn grant(value: u64) -> Rights {
    let mut r = Rights::ALL;
    if value & RW == 0 {
        r = r.without(Rights::WRITE);
    }
    if value & US == 0 {
        r = r.without(Rights::USER);
    }
    if value & XD != 0 {
        r = r.without(Rights::EXEC);
    }
    r
}

/// Table pages behind something: frame, level of the entries, first address, first entry.
type Page = (u64, u8, u64, usize);

fn root_pages(root: u64) -> Vec<Page> {
    if root == super::toy::ROOT_F {
        return vec![(4, 2, 0, 0), (5, 2, 1 << shift(3), 0), (6, 3, 0, 2)];
    }
    vec![(root, 3, 0, 0)]
}

fn item_pages(item: &Item) -> Vec<Page> {
    let What::Table(p) = item.2 else {
        return Vec::new();
    };
    (0..p.frames)
        .map(|i| {
            let step = 1 << shift(p.level.0 + 1);
            (p.frame.0 + i, p.level.0, item.0 + i * step, 0)
        })
        .collect()
}

fn read(level: u8, va: u64, value: u64, above: Rights) -> Option<Item> {
    if value & P == 0 {
        return None;
    }
    let rights = above.and(grant(value));
    let frame = value >> 12 & 0xff_ffff;
    let large = level == 2 && value & PS != 0;
    let what = if level == 1 || large {
        What::Leaf(Leaf {
            frame: Frame(frame),
            level: Level(level),
            rights: if value & D == 0 {
                rights.without(Rights::WRITE)
            } else {
                rights
            },
            global: value & G != 0,
            memory_type: (value >> 3 & 3) as u8 | if level == 1 && value & PS != 0 { 4 } else { 0 },
            key: 0,
        })
    } else {
        let flat = level == 3 && value & FLAT != 0;
        What::Table(Pointer {
            frame: Frame(frame),
            frames: if flat { 4 } else { 1 },
            level: Level(if flat { 1 } else { level - 1 }),
            rights,
        })
    };
    Some((va, Level(level), what))
}

fn rights(item: &Item) -> Rights {
    match item.2 {
        What::Leaf(l) => l.rights,
        What::Table(p) => p.rights,
    }
}

fn frames(leaf: &Leaf) -> u64 {
    1 << (shift(leaf.level.0) - 12)
}

/// The frame that a leaf item has at an address.
fn frame_at(item: &Item, va: u64) -> Option<u64> {
    let What::Leaf(leaf) = item.2 else {
        return None;
    };
    let offset = va.checked_sub(item.0)? >> 12;
    (offset < frames(&leaf)).then_some(leaf.frame.0 + offset)
}

fn is_kernel(va: u64) -> bool {
    va >> (shift(3) + 1) != 0
}

impl Brute {
    pub(super) fn new(memory: Memory, psc: Psc) -> Brute {
        Brute {
            memory,
            cpus: Default::default(),
            psc,
            known: BTreeSet::new(),
            armed: BTreeSet::new(),
            owed: BTreeMap::new(),
        }
    }

    /// What one reads from a table page.
    pub(super) fn step(&self, page: Page, above: Rights, need_a: bool) -> Vec<Item> {
        let (frame, level, va, first) = page;
        (first..ENTRIES)
            .filter_map(|i| {
                let value = self.memory.get(super::toy::entry(frame, i as u64))?;
                if need_a && value & A == 0 {
                    return None;
                }
                read(level, va + ((i as u64) << shift(level)), value, above)
            })
            .collect()
    }

    /// All that can be cached, beginning with a root and what is cached.
    fn closure(&self, root: Option<u64>, from: &Items, need_a: bool) -> Items {
        let mut all = from.clone();
        let mut todo: Vec<Item> = from.iter().copied().collect();
        for page in root.map_or(Vec::new(), root_pages) {
            todo.extend(self.step(page, Rights::ALL, need_a));
        }
        while let Some(item) = todo.pop() {
            let fresh = all.insert(item) || from.contains(&item);
            if !fresh {
                continue;
            }
            for page in item_pages(&item) {
                let below = self.step(page, rights(&item), need_a);
                todo.extend(below.into_iter().filter(|i| !all.contains(i)));
            }
        }
        all
    }

    pub(super) fn fresh(&self, cpu: usize) -> Items {
        self.closure(self.cpus[cpu].root, &Items::new(), true)
    }

    fn saturate(&mut self) {
        for cpu in 0..CPUS {
            let c = &self.cpus[cpu];
            self.cpus[cpu].cache = self.closure(c.root, &c.cache, true);
        }
    }

    /// A walk: the leaf for an address, whatever A says.
    fn walk(&self, root: Option<u64>, va: u64) -> Option<Item> {
        let all = self.closure(root, &Items::new(), false);
        all.into_iter().find(|i| frame_at(i, va).is_some())
    }

    /// All leaves of a root by page; cheaper than walks one by one.
    fn map(&self, root: Option<u64>) -> BTreeMap<u64, Item> {
        let mut map = BTreeMap::new();
        for item in self.closure(root, &Items::new(), false) {
            if let What::Leaf(leaf) = item.2 {
                for n in 0..frames(&leaf) {
                    map.insert(item.0 + (n << 12), item);
                }
            }
        }
        map
    }

    fn covered(map: &BTreeMap<u64, Item>, item: &Item) -> bool {
        let What::Leaf(leaf) = item.2 else {
            return true;
        };
        (0..frames(&leaf)).all(|n| {
            let va = item.0 + (n << 12);
            map.get(&va).is_some_and(|now| {
                let What::Leaf(l) = now.2 else { return false };
                frame_at(now, va) == frame_at(item, va)
                    && l.memory_type == leaf.memory_type
                    && l.rights.has(leaf.rights)
            })
        })
    }

    /// Table pages of known roots: frame, level, first address.
    fn linked(&self) -> BTreeSet<(u64, u8, u64)> {
        let mut all = BTreeSet::new();
        for root in &self.known {
            all.extend(self.tree(*root));
        }
        all
    }

    fn tree(&self, root: u64) -> BTreeSet<(u64, u8, u64)> {
        let mut all: BTreeSet<(u64, u8, u64)> = root_pages(root)
            .into_iter()
            .map(|p| (p.0, p.1, p.2))
            .collect();
        for item in self.closure(Some(root), &Items::new(), false) {
            all.extend(item_pages(&item).into_iter().map(|p| (p.0, p.1, p.2)));
        }
        all
    }

    /// CPUs that may reach a frame as a table by what they hold: CPU, level, address of the entry.
    fn holding(&self, frame: u64) -> Vec<(usize, u8, u64)> {
        let mut found = Vec::new();
        for (cpu, c) in self.cpus.iter().enumerate() {
            for item in &c.cache {
                for page in item_pages(item) {
                    if page.0 == frame {
                        found.push((cpu, page.1, item.0));
                    }
                }
            }
        }
        found
    }

    fn forget(&mut self, cpu: usize, gone: impl Fn(&Item) -> bool) {
        self.cpus[cpu].cache.retain(|i| !gone(i));
        let cache = &self.cpus[cpu].cache;
        self.armed
            .retain(|w| w.cpu != cpu || cache.contains(&w.item));
        self.owed.retain(|(c, i), _| *c != cpu || cache.contains(i));
    }

    pub(super) fn event(&mut self, event: Event) -> Found {
        let mut found = Found::new();
        match event {
            Event::Store(pa, value) => self.store(pa, value, &mut found),
            Event::Hardware(pa, bits) => {
                let value = self.memory.get(pa).unwrap_or(0);
                if value & P != 0 {
                    self.memory.put(pa, value | bits);
                }
            }
            Event::Cr3(cpu, root) => {
                let before = self.linked();
                let holding = self.dead_tables(&before);
                self.known.insert(root);
                self.relinked(&before, &holding, &mut found);
                self.forget(
                    usize::from(cpu),
                    |i| !matches!(i.2, What::Leaf(l) if l.global),
                );
                self.cpus[usize::from(cpu)].root = Some(root);
            }
            Event::Everything(cpu) => self.forget(usize::from(cpu), |_| true),
            Event::Page(cpu, va) => {
                let all = self.psc == Psc::Intel;
                self.forget(usize::from(cpu), |i| match i.2 {
                    What::Leaf(_) => frame_at(i, va).is_some(),
                    What::Table(_) => all || i.0 == va >> shift(i.1 .0) << shift(i.1 .0),
                });
            }
            Event::Fault(cpu, va) => self.forget(usize::from(cpu), |i| match i.2 {
                What::Leaf(_) => frame_at(i, va).is_some(),
                What::Table(_) => i.0 == va >> shift(i.1 .0) << shift(i.1 .0),
            }),
            Event::Free(frame, n) => self.free(frame, n, &mut found),
            Event::Freeze(frame) => self.ask(Rule::R5, frame, &mut found),
            Event::User(cpu) => {
                self.cpus[usize::from(cpu)].mode = Mode::User;
                self.fire(usize::from(cpu), |w| w.rule != Rule::R4, &mut found);
                if cpu == 0 {
                    self.late(&mut found);
                }
            }
            Event::Kernel(cpu) => self.cpus[usize::from(cpu)].mode = Mode::Kernel,
            Event::Stac(cpu) => self.fire(usize::from(cpu), |w| w.rule != Rule::R4, &mut found),
            Event::Halt(cpu) => self.cpus[usize::from(cpu)].mode = Mode::Halted,
            Event::Resume(cpu) => {
                self.cpus[usize::from(cpu)].mode = Mode::Kernel;
                self.fire(usize::from(cpu), |w| w.rule == Rule::R4, &mut found);
            }
        }
        self.saturate();
        found
    }

    /// Is the item something that the CPU's tree does not give, as far as the rule cares?
    fn stale(&self, waiting: &Waiting) -> bool {
        let root = self.cpus[waiting.cpu].root;
        let What::Leaf(leaf) = waiting.item.2 else {
            return true;
        };
        let need = match waiting.rule {
            Rule::R2 => Rights::USER,
            Rule::R5 => Rights::WRITE,
            _ => return !Brute::covered(&self.map(root), &waiting.item),
        };
        let va = waiting.item.0 + ((waiting.frame - leaf.frame.0) << 12);
        !self.walk(root, va).is_some_and(|now| {
            let raw = self.raw_rights(root, va);
            frame_at(&now, va) == Some(waiting.frame) && raw.has(need)
        })
    }

    /// Rights without regard to D.
    fn raw_rights(&self, root: Option<u64>, va: u64) -> Rights {
        let mut dirty = self.clone();
        for frame in &mut dirty.memory.0 {
            for value in frame {
                *value |= D;
            }
        }
        dirty
            .walk(root, va)
            .map_or(Rights::ALL.without(Rights::ALL), |i| rights(&i))
    }

    fn ask(&mut self, rule: Rule, frame: u64, found: &mut Found) {
        let need = if rule == Rule::R2 {
            Rights::USER
        } else {
            Rights::WRITE
        };
        for cpu in 0..CPUS {
            for item in self.cpus[cpu].cache.clone() {
                let What::Leaf(leaf) = item.2 else { continue };
                let has = (leaf.frame.0..leaf.frame.0 + frames(&leaf)).contains(&frame);
                let waiting = Waiting {
                    cpu,
                    rule,
                    frame,
                    item,
                };
                let promised = rule == Rule::R5 && !leaf.rights.has(Rights::USER);
                if !has || promised || !leaf.rights.has(need) || !self.stale(&waiting) {
                    continue;
                }
                let user = self.cpus[cpu].mode == Mode::User;
                if user || !leaf.rights.has(Rights::USER) {
                    found.insert((rule, Some(cpu as u8)));
                } else {
                    self.armed.insert(waiting);
                }
            }
        }
    }

    fn fire(&mut self, cpu: usize, wanted: impl Fn(&Waiting) -> bool, found: &mut Found) {
        for waiting in self.armed.clone() {
            if waiting.cpu == cpu && wanted(&waiting) {
                self.armed.remove(&waiting);
                if self.stale(&waiting) {
                    found.insert((waiting.rule, Some(cpu as u8)));
                }
            }
        }
    }

    fn late(&mut self, found: &mut Found) {
        for ((cpu, item), replaced) in std::mem::take(&mut self.owed) {
            let What::Leaf(leaf) = item.2 else { continue };
            let user = leaf.rights.has(Rights::USER);
            let waiting = Waiting {
                cpu,
                rule: Rule::R3,
                frame: leaf.frame.0,
                item,
            };
            if !self.stale(&waiting) || (!user && !replaced) {
                continue;
            }
            if !user || self.cpus[cpu].mode == Mode::User {
                found.insert((Rule::R3, Some(cpu as u8)));
            } else {
                self.armed.insert(waiting);
            }
        }
    }

    /// Tables that are linked nowhere and that CPUs hold.
    fn dead_tables(
        &self,
        linked: &BTreeSet<(u64, u8, u64)>,
    ) -> BTreeMap<u64, Vec<(usize, u8, u64)>> {
        let mut dead = BTreeMap::new();
        for frame in 0..super::toy::FRAMES as u64 {
            let holding = self.holding(frame);
            if !holding.is_empty() && !linked.iter().any(|l| l.0 == frame) {
                dead.insert(frame, holding);
            }
        }
        dead
    }

    fn relinked(
        &self,
        before: &BTreeSet<(u64, u8, u64)>,
        dead: &BTreeMap<u64, Vec<(usize, u8, u64)>>,
        found: &mut Found,
    ) {
        let now = self.linked();
        let revived: BTreeSet<u64> = now.difference(before).map(|l| l.0).collect();
        for frame in revived {
            for (cpu, was, at) in dead.get(&frame).into_iter().flatten() {
                let tree = self.cpus[*cpu].root.map(|r| self.tree(r));
                let home = tree.into_iter().flatten().any(|(f, level, va)| {
                    f == frame && level == *was && is_kernel(va) == is_kernel(*at)
                });
                if !home {
                    found.insert((Rule::R1Reused, Some(*cpu as u8)));
                }
            }
        }
    }

    /// By something that the CPU holds, would a value at `pa` lead it to what its own tree has not there?
    fn leads_away(&self, cpu: usize, pa: u64, value: u64) -> bool {
        let own = self.cpus[cpu]
            .root
            .map_or(BTreeSet::new(), |r| self.tree(r));
        let held = self.cpus[cpu].cache.iter().flat_map(item_pages);
        let mut places = held.filter(|page| page.0 == pa >> 12);
        places.any(|(_, level, va, _)| {
            let va = va + (((pa & 0xfff) / 8) << shift(level));
            let below = read(level, va, value, Rights::ALL);
            let pages = below.as_ref().map_or(Vec::new(), item_pages);
            pages.is_empty() || !pages.iter().all(|p| own.contains(&(p.0, p.1, p.2)))
        })
    }

    fn store(&mut self, pa: u64, value: u64, found: &mut Found) {
        let old = self.memory.get(pa).unwrap_or(0);
        let before = self.linked();
        let dead = self.dead_tables(&before);
        let own = old & P != 0 && (old ^ value) >> 12 & 0xff_ffff == 0;
        if value & P != 0 && !own {
            for cpu in 0..CPUS {
                if dead.contains_key(&(pa >> 12)) && self.leads_away(cpu, pa, value) {
                    found.insert((Rule::R1Reused, Some(cpu as u8)));
                }
            }
        }
        let maps: Vec<_> = self.cpus.iter().map(|c| self.map(c.root)).collect();
        let known: Vec<_> = self.known.iter().map(|r| self.map(Some(*r))).collect();
        self.memory.put(pa, value);
        self.relinked(&before, &dead, found);
        let linked = self.linked();
        for (root, was) in self.known.iter().zip(&known) {
            for (va, item) in self.map(Some(*root)) {
                let frame = frame_at(&item, va).unwrap_or(0);
                let had = was.get(&va).and_then(|i| frame_at(i, va)) == Some(frame);
                if had || linked.iter().any(|l| l.0 == frame) {
                    continue;
                }
                for (cpu, ..) in dead.get(&frame).into_iter().flatten() {
                    found.insert((Rule::R1Reused, Some(*cpu as u8)));
                }
            }
        }
        for (cpu, was) in maps.iter().enumerate() {
            let now = self.map(self.cpus[cpu].root);
            for item in self.cpus[cpu].cache.clone() {
                if Brute::covered(was, &item) && !Brute::covered(&now, &item) {
                    self.owed.insert((cpu, item), now.contains_key(&item.0));
                }
            }
            self.reuse(cpu, was, &now, found);
        }
    }

    fn reuse(
        &mut self,
        cpu: usize,
        was: &BTreeMap<u64, Item>,
        now: &BTreeMap<u64, Item>,
        found: &mut Found,
    ) {
        for va in (0..PAGES).map(|n| n << 12).filter(|va| is_kernel(*va)) {
            let (None, Some(new)) = (was.get(&va), now.get(&va)) else {
                continue;
            };
            let What::Leaf(n) = new.2 else { continue };
            if n.rights.has(Rights::USER) {
                continue;
            }
            for item in self.cpus[cpu].cache.clone() {
                let (What::Leaf(o), Some(frame)) = (item.2, frame_at(&item, va)) else {
                    continue;
                };
                if Some(frame) == frame_at(new, va) && o.memory_type == n.memory_type {
                    continue;
                }
                if self.cpus[cpu].mode == Mode::Halted {
                    self.armed.insert(Waiting {
                        cpu,
                        rule: Rule::R4,
                        frame,
                        item,
                    });
                } else {
                    found.insert((Rule::R4, Some(cpu as u8)));
                }
            }
        }
    }

    fn free(&mut self, frame: u64, n: u64, found: &mut Found) {
        let range = frame..frame + n;
        for root in self.known.clone() {
            let block = root_pages(root);
            // A flattened root is its whole block.
            let all = if block.len() > 1 {
                4..8
            } else {
                root..root + 1
            };
            if all.into_iter().all(|f| !range.contains(&f)) {
                continue;
            }
            for (cpu, c) in self.cpus.iter().enumerate() {
                if c.root == Some(root) {
                    found.insert((Rule::R0, Some(cpu as u8)));
                }
            }
            self.known.remove(&root);
        }
        let linked = self.linked();
        for one in range {
            if linked.iter().any(|l| l.0 == one) {
                found.insert((Rule::R1, None));
            }
            for cpu in 0..CPUS {
                let fresh = self.closure(self.cpus[cpu].root, &Items::new(), false);
                let stale = self.cpus[cpu].cache.difference(&fresh);
                if stale.flat_map(item_pages).any(|p| p.0 == one) {
                    found.insert((Rule::R1, Some(cpu as u8)));
                }
            }
            self.ask(Rule::R2, one, found);
        }
    }
}
