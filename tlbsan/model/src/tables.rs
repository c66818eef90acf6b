// SPDX-License-Identifier: MIT OR Apache-2.0
//! Table pages with copies of their entries, and the places that they have in trees.

use std::collections::HashMap;

use crate::finding::What;
use crate::geometry::{Frame, Geometry, Level, Place, Reading, Rights, Root, G, P};
use crate::memory::GuestMemory;

/// A place of a table page, and how many entries (or roots) give it that place.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Role {
    place: Place,
    links: u32,
}

/// A table page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Table {
    /// Nothing: all zero.
    values: Option<Box<[u64]>>,
    roles: Vec<Role>,
    /// Entries in which hardware set bits while the table was unlinked.
    pub(crate) marks: Vec<(usize, Place)>,
}

impl Table {
    pub(crate) fn value(&self, index: usize) -> u64 {
        self.values
            .as_ref()
            .and_then(|v| v.get(index))
            .map_or(0, |v| *v)
    }

    fn used(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.values
            .iter()
            .flat_map(|v| v.iter().enumerate())
            .map(|(i, v)| (i, *v))
            .filter(|(_, v)| v & P != 0)
    }

    /// Places in the trees of known roots.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.roles.iter().map(|r| r.place).collect()
    }

    /// Does no known root lead here?
    pub(crate) fn is_dead(&self) -> bool {
        self.roles.is_empty()
    }
}

/// An entry as a walk meets it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct At {
    /// Its physical address.
    pub(crate) entry: u64,
    pub(crate) level: Level,
    /// First address that it translates.
    pub(crate) va: u64,
    pub(crate) value: u64,
    /// What the entries above grant.
    pub(crate) above: Rights,
}

/// A step of a walk.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: At,
    pub(crate) place: Option<Place>,
    pub(crate) reading: Reading,
}

/// The entries of a walk, from the root down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path {
    steps: [Option<Step>; 4],
    len: usize,
}

impl Path {
    fn push(&mut self, step: Step) {
        if let Some(slot) = self.steps.get_mut(self.len) {
            *slot = Some(step);
            self.len += 1;
        }
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flatten()
    }

    /// The page, if there is one.
    pub(crate) fn leaf(&self) -> Option<(crate::geometry::Leaf, At)> {
        let step = self.steps().last()?;
        match step.reading {
            Reading::Leaf(leaf) => Some((leaf, step.at)),
            _ => None,
        }
    }
}

/// What linking brought to light.
#[derive(Default)]
pub(crate) struct Linked {
    /// Tables that had no place before, and their first one.
    pub(crate) revived: Vec<(Frame, Place)>,
    /// Was there a global page in the user's half?
    pub(crate) user_globals: bool,
}

/// All table pages that are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pages: HashMap<Frame, Table>,
    /// Places in all.
    places: usize,
}

impl Tables {
    pub(crate) fn get(&self, frame: Frame) -> Option<&Table> {
        self.pages.get(&frame)
    }

    pub(crate) fn get_mut(&mut self, frame: Frame) -> Option<&mut Table> {
        self.pages.get_mut(&frame)
    }

    /// Pages, or places where they are more.
    pub(crate) fn size(&self) -> usize {
        self.pages.len().max(self.places)
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.pages.keys().copied()
    }

    pub(crate) fn set(&mut self, frame: Frame, index: usize, value: u64, entries: usize) {
        let Some(table) = self.pages.get_mut(&frame) else {
            return;
        };
        if table.values.is_none() && value == 0 {
            return;
        }
        let values = table
            .values
            .get_or_insert_with(|| vec![0; entries].into_boxed_slice());
        if let Some(slot) = values.get_mut(index) {
            *slot = value;
        }
    }

    /// Reads a table page from memory if it is not known. False if there is no memory.
    fn load(&mut self, geometry: &Geometry, memory: &impl GuestMemory, frame: Frame) -> bool {
        if self.pages.contains_key(&frame) {
            return true;
        }
        let mut values = vec![0; geometry.entries()].into_boxed_slice();
        if !memory.read_table(frame.address(), &mut values) {
            return false;
        }
        let empty = values.iter().all(|v| *v == 0);
        let table = Table {
            values: (!empty).then_some(values),
            ..Table::default()
        };
        self.pages.insert(frame, table);
        true
    }

    /// The pages behind an entry, without giving them a place: only an unlinked table leads to them.
    pub(crate) fn load_below(&mut self, geometry: &Geometry, memory: &impl GuestMemory, at: At) {
        let Reading::Table(pointer) = geometry.read(at.level, at.value, at.above) else {
            return;
        };
        for (frame, place) in geometry.tables(pointer, at.va) {
            if self.pages.contains_key(&frame) || !self.load(geometry, memory, frame) {
                continue;
            }
            for below in self.entries(geometry, frame, place, pointer.rights) {
                self.load_below(geometry, memory, below);
            }
        }
    }

    /// Present entries of a page.
    fn entries(&self, geometry: &Geometry, frame: Frame, place: Place, above: Rights) -> Vec<At> {
        let Some(table) = self.pages.get(&frame) else {
            return Vec::new();
        };
        table
            .used()
            .filter(|(index, _)| *index >= usize::from(place.first))
            .map(|(index, value)| At {
                entry: frame.address() + (index as u64) * 8,
                level: place.level,
                va: geometry.va_of(place, index),
                value,
                above,
            })
            .collect()
    }

    /// Gives a table page a place, and all below it theirs.
    pub(crate) fn link(
        &mut self,
        geometry: &Geometry,
        memory: &impl GuestMemory,
        (frame, place): (Frame, Place),
        linked: &mut Linked,
        limit: usize,
    ) {
        if self.size() > limit || !self.load(geometry, memory, frame) {
            return;
        }
        let Some(table) = self.pages.get_mut(&frame) else {
            return;
        };
        if let Some(role) = table.roles.iter_mut().find(|r| r.place == place) {
            role.links += 1;
            return;
        }
        if table.roles.is_empty() {
            linked.revived.push((frame, place));
        }
        table.roles.push(Role { place, links: 1 });
        self.places += 1;
        for at in self.entries(geometry, frame, place, Rights::ALL) {
            linked.user_globals |= at.value & G != 0 && !geometry.kernel_half(at.va);
            if let Reading::Table(pointer) = geometry.read(at.level, at.value, at.above) {
                for child in geometry.tables(pointer, at.va) {
                    self.link(geometry, memory, child, linked, limit);
                }
            }
        }
    }

    /// Takes a place away, and those below it. `dead` gets the pages that have none left.
    pub(crate) fn unlink(
        &mut self,
        geometry: &Geometry,
        frame: Frame,
        place: Place,
        dead: &mut Vec<Frame>,
    ) {
        let Some(table) = self.pages.get_mut(&frame) else {
            return;
        };
        let Some(index) = table.roles.iter().position(|r| r.place == place) else {
            return;
        };
        if let Some(role) = table.roles.get_mut(index) {
            role.links = role.links.saturating_sub(1);
            if role.links > 0 {
                return;
            }
        }
        table.roles.swap_remove(index);
        self.places = self.places.saturating_sub(1);
        if table.roles.is_empty() {
            dead.push(frame);
        }
        for at in self.entries(geometry, frame, place, Rights::ALL) {
            if let Reading::Table(pointer) = geometry.read(at.level, at.value, at.above) {
                for (below, place) in geometry.tables(pointer, at.va) {
                    self.unlink(geometry, below, place, dead);
                }
            }
        }
    }

    /// Forgets a page, and its children's places below it.
    pub(crate) fn forget(&mut self, geometry: &Geometry, frame: Frame, dead: &mut Vec<Frame>) {
        let places = self.pages.get(&frame).map_or(Vec::new(), Table::places);
        for place in places {
            if let Some(role) = self
                .pages
                .get_mut(&frame)
                .and_then(|t| t.roles.iter_mut().find(|r| r.place == place))
            {
                role.links = 1;
            }
            self.unlink(geometry, frame, place, dead);
        }
        self.pages.remove(&frame);
    }

    /// A walk of `va` that begins with an entry.
    pub(crate) fn follow(&self, geometry: &Geometry, first: At, va: u64) -> Path {
        let mut path = Path::default();
        let (mut at, mut place) = (first, None);
        loop {
            let reading = geometry.read(at.level, at.value, at.above);
            path.push(Step { at, place, reading });
            let Reading::Table(pointer) = reading else {
                return path;
            };
            let (frame, next) = geometry.table_for(pointer, at.va, va);
            let Some(below) = self.entry(geometry, frame, next, pointer.rights, va) else {
                return path;
            };
            (at, place) = (below, Some(next));
        }
    }

    fn entry(
        &self,
        geometry: &Geometry,
        frame: Frame,
        place: Place,
        above: Rights,
        va: u64,
    ) -> Option<At> {
        let index = geometry.index(place, va)?;
        Some(At {
            entry: frame.address() + (index as u64) * 8,
            level: place.level,
            va: geometry.va_of(place, index),
            value: self.pages.get(&frame)?.value(index),
            above,
        })
    }

    /// A walk of `va` from a root.
    pub(crate) fn walk(&self, geometry: &Geometry, root: Root, va: u64) -> Path {
        let (frame, place) = geometry.start(root, va);
        let Some(first) = self.entry(geometry, frame, place, Rights::ALL, va) else {
            return Path::default();
        };
        let mut path = self.follow(geometry, first, va);
        if let Some(Some(step)) = path.steps.first_mut() {
            step.place = Some(place);
        }
        path
    }

    /// Everything that can be cached by way of an entry.
    pub(crate) fn visit(&self, geometry: &Geometry, at: At, f: &mut dyn FnMut(&At, What)) {
        match geometry.read(at.level, at.value, at.above) {
            Reading::Nothing => {}
            Reading::Leaf(leaf) => f(&at, What::Leaf(leaf)),
            Reading::Table(pointer) => {
                f(&at, What::Table(pointer));
                for (frame, place) in geometry.tables(pointer, at.va) {
                    let Some(table) = self.pages.get(&frame) else {
                        continue;
                    };
                    for (index, value) in table.used() {
                        let below = At {
                            entry: frame.address() + (index as u64) * 8,
                            level: place.level,
                            va: geometry.va_of(place, index),
                            value,
                            above: pointer.rights,
                        };
                        self.visit(geometry, below, f);
                    }
                }
            }
        }
    }

    /// The present entries of a root's own table pages.
    pub(crate) fn root_entries(
        &self,
        geometry: &Geometry,
        root: Root,
        wanted: impl Fn(Place) -> bool,
    ) -> Vec<At> {
        geometry
            .root_tables(root)
            .filter(|(_, place)| wanted(*place))
            .flat_map(|(frame, place)| self.entries(geometry, frame, place, Rights::ALL))
            .collect()
    }
}
