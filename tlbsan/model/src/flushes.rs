// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes to CR3 and invalidations.

use crate::cpu::{Class, Cpu, CpuId, CpuSet, Ended, Flushed, Invalidation, Origin, Past};
use crate::finding::{RunError, What};
use crate::geometry::{Frame, Level, Place, Rights, Root, A, ADDRESS, D, FLAT};
use crate::ledger::{Group, Ledger, Side};
use crate::memory::GuestMemory;
use crate::records::{Id, Record};
use crate::rules::{Broken, Psc};
use crate::tables::{At, Linked};

impl<M: GuestMemory> Ledger<M> {
    /// A CPU loads a root. `keep` is bit 63, which counts where PCIDs do: nothing is dropped. No value:
    /// paging is off, or the tables are nested ones.
    pub fn load_cr3(
        &mut self,
        by: &Origin,
        cr3: Option<u64>,
        keep: bool,
    ) -> Result<Ended, RunError> {
        self.begin(by)?;
        let (now, keep) = (self.now, keep && self.knobs.pcid);
        let root = cr3.map(|v| self.geometry.root(v & (ADDRESS | FLAT)));
        let mut ended = Ended::default();
        let what = if keep {
            Flushed::Cr3NoFlush(root)
        } else {
            Flushed::Cr3(root)
        };
        let past = Past {
            what,
            seq: now,
            origin: *by,
        };
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.remember(past);
        }
        let before = self.cpu(by.cpu).and_then(Cpu::root);
        if let (Some(root), Some(cr3)) = (root, cr3) {
            let pcid = if self.knobs.pcid {
                (cr3 & 0xfff) as u16
            } else {
                0
            };
            self.register(by, root);
            self.leave(by, root, pcid, keep);
            let globals = self.knobs.is_broken(Broken::Cr3DropsGlobals);
            let tables = !self.knobs.is_broken(Broken::Cr3LeavesTables);
            if let Some(cpu) = self.cpu_mut(by.cpu) {
                if !keep {
                    ended.leaves = cpu.drop_leaves(pcid, now);
                    if tables {
                        ended.tables = cpu.drop_tables(pcid, now);
                    }
                    if globals {
                        cpu.drop_globals(now);
                    }
                }
                cpu.select(pcid, root, now);
            }
        } else if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.current = None;
        }
        if let Some(before) = before {
            self.perhaps_idle(before);
        }
        self.came_back(by);
        self.end()?;
        Ok(ended)
    }

    fn is_registered(&self, root: Root) -> bool {
        let (first, _) = self.geometry.root_frames(root);
        self.roots.get(&first).is_some_and(|r| r.contains(&root))
    }

    fn register(&mut self, by: &Origin, root: Root) {
        self.idle.retain(|r| *r != root);
        if self.is_registered(root) {
            return;
        }
        let (first, _) = self.geometry.root_frames(root);
        self.roots.entry(first).or_default().push(root);
        let mut linked = Linked::default();
        let pages: Vec<(Frame, Place)> = self.geometry.root_tables(root).collect();
        for page in pages {
            self.link(page, &mut linked);
        }
        self.user_globals |= linked.user_globals;
        let revived = self.revived(&linked);
        self.relinked(by, revived);
    }

    /// Forgets a root and what only it led to.
    pub(crate) fn unregister(&mut self, root: Root) {
        let (first, _) = self.geometry.root_frames(root);
        if let Some(roots) = self.roots.get_mut(&first) {
            roots.retain(|r| *r != root);
            if roots.is_empty() {
                self.roots.remove(&first);
            }
        }
        self.idle.retain(|r| *r != root);
        let pages: Vec<(Frame, Place)> = self.geometry.root_tables(root).collect();
        let mut dead = Vec::new();
        for (frame, place) in pages {
            self.tables.unlink(&self.geometry, frame, place, &mut dead);
        }
        self.drop_dead(dead);
    }

    fn perhaps_idle(&mut self, root: Root) {
        let used = |c: &Cpu| c.contexts.iter().any(|x| x.root == root);
        if self.cpus.iter().any(used) || !self.is_registered(root) {
            return;
        }
        self.idle.push_back(root);
        while self.idle.len() > self.knobs.idle_roots {
            if let Some(oldest) = self.idle.pop_front() {
                self.unregister(oldest);
            }
        }
    }

    /// What stays cached of the tree that a CPU leaves: global pages, and everything under a PCID
    /// that gets another root without being dropped.
    fn leave(&mut self, by: &Origin, root: Root, pcid: u16, keep: bool) {
        let Some(cpu) = self.cpu(by.cpu) else { return };
        let last = cpu.last_root.filter(|r| *r != root);
        let other = cpu
            .context(pcid)
            .map(|c| c.root)
            .filter(|r| keep && *r != root);
        let cpus = CpuSet::one(by.cpu);
        let (geometry, user_globals) = (self.geometry.clone(), self.user_globals);
        let mut differing = |from: Root, globals: bool| {
            let wanted = |p: Place| {
                let span = geometry.span(p.level) << geometry.index_bits;
                !globals || user_globals || geometry.kernel_half(p.va + span - 1)
            };
            let group = Group {
                cpus,
                pcid,
                above: Rights::ALL,
            };
            for at in self.tables.root_entries(&self.geometry, from, wanted) {
                if globals && !user_globals && !geometry.kernel_half(at.va) {
                    continue;
                }
                let path = self.tables.walk(&self.geometry, root, at.va);
                let same = path.steps().next().is_some_and(|s| {
                    s.at.level == at.level && (s.at.value ^ at.value) & !(A | D) == 0
                });
                if !same {
                    self.lose_from(by, &group, at, root, globals);
                }
            }
        };
        if let Some(last) = last {
            differing(last, true);
        }
        if let Some(other) = other {
            differing(other, false);
        }
    }

    fn lose_from(&mut self, by: &Origin, group: &Group, old: At, root: Root, globals: bool) {
        let mut lost = Vec::new();
        let mut look = |at: &At, what: What| {
            let global = matches!(what, What::Leaf(leaf) if leaf.global);
            if globals && !global {
                return;
            }
            lost.extend(self.missing(by, at, what, Side::Root(root), None));
        };
        self.tables.visit(&self.geometry, old, &mut look);
        for record in lost {
            // Nobody took anything away; other entries may be found missing later.
            let record = Record {
                pcid: group.pcid,
                cpus: group.cpus,
                restrictive: false,
                ..record
            };
            self.note(record);
        }
    }

    /// A CPU invalidates. Returns what that ended.
    pub fn invalidate(&mut self, by: &Origin, what: Invalidation) -> Result<Ended, RunError> {
        self.begin(by)?;
        let now = self.now;
        if let Some(cpu) = self.cpu_mut(by.cpu) {
            cpu.remember(Past {
                what: Flushed::By(what),
                seq: now,
                origin: *by,
            });
        }
        let current = self.cpu(by.cpu).and_then(|c| c.current).unwrap_or(0);
        let mut ended = Ended::default();
        match what {
            Invalidation::Everything => {
                let all = self.knobs.is_broken(Broken::AllIsEverybodys);
                let targets: Vec<CpuId> = self.ids().filter(|c| all || *c == by.cpu).collect();
                for target in targets {
                    self.drop_contexts(target, None, &mut ended);
                    let keep = self.knobs.is_broken(Broken::AllLeavesGlobals);
                    if let Some(cpu) = self.cpu_mut(target).filter(|_| !keep) {
                        ended.leaves += cpu.drop_globals(now);
                        cpu.last_root = cpu.root();
                    }
                }
            }
            Invalidation::AllContexts => self.drop_contexts(by.cpu, None, &mut ended),
            Invalidation::Context(pcid) => self.drop_contexts(by.cpu, Some(pcid), &mut ended),
            Invalidation::Current => self.drop_contexts(by.cpu, Some(current), &mut ended),
            Invalidation::Page(va) => {
                let globals = !self.knobs.is_broken(Broken::PageLeavesGlobals);
                self.drop_page(by.cpu, va, current, globals, &mut ended);
                let tce = self.knobs.psc == Psc::Tce;
                if tce != self.knobs.is_broken(Broken::OtherPsc) {
                    self.drop_path(by.cpu, va, current, &mut ended);
                } else if let Some(cpu) = self.cpu_mut(by.cpu) {
                    ended.tables += cpu.drop_tables(current, now);
                }
            }
            Invalidation::PageOf(pcid, va) => {
                self.drop_page(by.cpu, va, pcid, false, &mut ended);
                self.drop_path(by.cpu, va, pcid, &mut ended);
            }
            Invalidation::Fault(_) if self.knobs.is_broken(Broken::FaultDropsNothing) => {}
            Invalidation::Fault(va) => {
                self.drop_page(by.cpu, va, current, true, &mut ended);
                self.drop_path(by.cpu, va, current, &mut ended);
                let all = self.knobs.is_broken(Broken::FaultDropsTables);
                if let Some(cpu) = self.cpu_mut(by.cpu).filter(|_| all) {
                    cpu.drop_tables(current, now);
                }
            }
        }
        self.end()?;
        Ok(ended)
    }

    fn drop_contexts(&mut self, cpu: CpuId, pcid: Option<u16>, ended: &mut Ended) {
        let now = self.now;
        let Some(cpu) = self.cpu_mut(cpu) else { return };
        let all: Vec<u16> = cpu.contexts.iter().map(|c| c.pcid).collect();
        for one in all.into_iter().filter(|p| pcid.is_none_or(|q| q == *p)) {
            ended.leaves += cpu.drop_leaves(one, now);
            ended.tables += cpu.drop_tables(one, now);
        }
    }

    fn drop_page(&mut self, cpu: CpuId, va: u64, pcid: u16, globals: bool, ended: &mut Ended) {
        let level = if self.knobs.is_broken(Broken::PageDropsNeighbours) {
            2
        } else {
            1
        };
        let bytes = self.geometry.span(Level(level));
        let va = self.geometry.base(Level(level), self.geometry.strip(va));
        for id in self.records.leaves_in(&self.geometry, va, bytes) {
            let wanted = self.records.get(id).is_some_and(|r| match r.class() {
                Class::Global => globals,
                _ => r.pcid == pcid,
            });
            if wanted && self.strike(id, cpu) {
                ended.leaves += 1;
            }
        }
    }

    fn drop_path(&mut self, cpu: CpuId, va: u64, pcid: u16, ended: &mut Ended) {
        let va = self.geometry.strip(va);
        for id in self.records.tables_on(&self.geometry, va) {
            let wanted = self.records.get(id).is_some_and(|r| r.pcid == pcid);
            if wanted && self.strike(id, cpu) {
                ended.tables += 1;
            }
        }
    }

    /// Takes a CPU out of a record; was it in there?
    pub(crate) fn strike(&mut self, id: Id, cpu: CpuId) -> bool {
        let Some(record) = self.records.get(id) else {
            return false;
        };
        let (class, pcid) = (record.class(), record.pcid);
        if !self.pending(record).has(cpu) {
            return false;
        }
        if let Some(record) = self.records.get_mut(id) {
            record.cpus = record.cpus.without(CpuSet::one(cpu));
        }
        if let Some(cpu) = self.cpu_mut(cpu) {
            cpu.count(class, pcid, false);
        }
        true
    }
}
