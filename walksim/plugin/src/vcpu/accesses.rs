// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data accesses, fetches and invalidations: what a virtual CPU tells its stream, and what it compares on the way.

use std::sync::atomic::Ordering;

use fpt_walksim_model::addr::{PhysAddr, PhysLine, VirtAddr, VirtLine};
use fpt_walksim_model::cache::SYNTHETIC;
use fpt_walksim_model::config::LINE;
use fpt_walksim_model::stream::Place;
use fpt_walksim_model::walk::{is_kernel, Flush};

use super::{access, CodeLine, Host, Vcpu, NO_LINE};
use crate::output;

/// Accesses to known pages are so many times as frequent as walks, or more.
pub(super) const HITS_PER_WALK: u64 = 16;

#[derive(Default)]
pub(super) struct Checks {
    pub(super) every: u64,
    pub(super) walks: u64,
    /// Accesses to known pages until the next is compared; fetches from known pages.
    pub(super) left: u64,
    pub(super) fetches_left: u64,
    pub(super) found: output::Found,
}

impl Checks {
    /// Compares where the access that is being reported should be with where QEMU's own translation led it. False if
    /// QEMU does not say.
    fn compare(&mut self, host: &mut impl Host, info: u32, va: VirtAddr, place: Place) -> bool {
        let Some(theirs) = host.translation(info, va) else {
            return false;
        };
        let ours = place.address(va);
        if ours != theirs {
            self.found.mismatch(format!(
                "the tables lead from {:#x} to {:#x}, QEMU translated it to {:#x}",
                va.as_u64(),
                ours.as_u64(),
                theirs.as_u64()
            ));
        }
        true
    }
}

/// The number of the 4 KiB page.
fn page(pa: PhysAddr) -> u64 {
    pa.as_u64() >> 12
}

impl<H: Host> Vcpu<H> {
    /// The common case of [`Vcpu::data`]; false if this is another.
    #[inline(always)]
    pub fn data_fast(&mut self, va: VirtAddr, info: u32, data: usize) -> bool {
        if data & 6 != 0 || self.warm > 0 {
            return false;
        }
        let at = va.as_u64() % LINE;
        if at > LINE - 16 && at + self.host.bytes(info) > LINE {
            return false;
        }
        if !self.stream.repeats(va) {
            let Some(place) = self.stream.known(va) else {
                return false;
            };
            // Wraps if nothing is to be compared.
            self.checks.left = self.checks.left.wrapping_sub(1);
            if self.checks.left == 0 {
                return false;
            }
            self.stream.data_by(va, place.size(), access::pc(data));
        }
        if let Some(n) = self.data.get_mut(data & 1) {
            *n += 1;
        }
        true
    }

    /// A data access.
    pub fn data(&mut self, va: VirtAddr, info: u32, data: usize) {
        if self.warm > 0 || self.epoch != self.shared.epoch.load(Ordering::Acquire) {
            self.catch_up();
        }
        let kernel = usize::from(access::kernel(data));
        let halves = access::halves(data);
        if halves > 0 {
            if let Some(n) = self.halves.get_mut(kernel) {
                *n += halves;
            }
            if kernel == 1 {
                self.kernel_halves += halves;
            }
            if self.path.in_page_fault() && kernel == 1 {
                let function = self.function_of(data);
                self.calls.count(&mut self.path, function, halves);
            }
        }
        self.one(va, Some(info), data);
        let last = (va.as_u64()).wrapping_add(self.host.bytes(info).max(1) - 1);
        if VirtLine::of(VirtAddr::new(last)) != VirtLine::of(va) {
            // The second page of an access that crosses pages is not what QEMU's handle is about.
            self.one(VirtAddr::new(last & !(LINE - 1)), None, data);
        }
    }

    /// The kernel's function that made an access.
    fn function_of(&self, data: usize) -> u32 {
        match (&self.shared.symbols, self.attributes) {
            (Some(symbols), true) => symbols.function(access::pc(data)),
            _ => access::function(data),
        }
    }

    fn one(&mut self, va: VirtAddr, info: Option<u32>, data: usize) {
        if let Some(n) = self.data.get_mut(data & 1) {
            *n += 1;
        }
        if self.stream.repeats(va) {
            return;
        }
        let place = match (self.stream.known(va), info) {
            (Some(place), Some(info)) if self.checks.every > 0 && self.checks.left == 0 => {
                self.checks.left = self.checks.every * HITS_PER_WALK;
                if self.checks.compare(&mut self.host, info, va, place) {
                    self.checks.found.hits += 1;
                }
                self.check(va);
                Some(place)
            }
            (Some(place), _) => Some(place),
            (None, info) => self.learn(va, info),
        };
        match place {
            Some(place) => self.stream.data_by(va, place.size(), access::pc(data)),
            None => self.stream.data_nowhere(),
        }
    }

    /// Compares the walk that is kept for an address with a new one.
    fn check(&mut self, va: VirtAddr) {
        match self.host.walk(va).filter(|w| w.page.as_u64() < SYNTHETIC) {
            Some(fresh) => self.stream.check(&fresh),
            None => self.checks.found.stale += 1,
        }
    }

    /// Walks for a page that is not known, for a data access (its handle) or a fetch.
    fn learn(&mut self, va: VirtAddr, info: Option<u32>) -> Option<Place> {
        let Some(walk) = self.host.walk(va).filter(|w| w.page.as_u64() < SYNTHETIC) else {
            self.checks.found.stale += u64::from(info.is_some());
            return None;
        };
        self.stream.learn(&walk);
        let place = Place::new(&walk);
        if let Some(info) = info {
            let checks = &mut self.checks;
            checks.walks += 1;
            if checks.every > 0
                && checks.walks % checks.every == 0
                && checks.compare(&mut self.host, info, va, place)
            {
                checks.found.walks += 1;
            }
        }
        Some(place)
    }

    /// The common case of [`Vcpu::fetch`].
    #[inline(always)]
    pub fn fetch_fast(&mut self, line: &CodeLine) -> bool {
        self.host.slot().fetch_line = line.va.as_u64() / LINE;
        let Some(place) = self.stream.known(line.va) else {
            return false;
        };
        if place.size() != self.fetch_size
            || PhysLine::of(place.address(line.va)) != PhysLine::of(line.pa)
        {
            return false;
        }
        self.checks.fetches_left = self.checks.fetches_left.wrapping_sub(1);
        if self.checks.fetches_left == 0 {
            return false;
        }
        self.stream.fetch(line.va);
        self.fetched += 1;
        true
    }

    /// A fetch from another line than the one before.
    pub fn fetch(&mut self, line: &CodeLine) {
        let CodeLine { va, pa } = *line;
        if self.root_unsure {
            self.find_root(va);
        }
        let place = match self.stream.known(va) {
            Some(place) => {
                if self.checks.fetches_left == 0 {
                    self.checks.fetches_left = self.checks.every * HITS_PER_WALK;
                    if self.checks.every > 0 {
                        self.check(va);
                    }
                }
                Some(place)
            }
            None => {
                let place = self.learn(va, None);
                self.compare_code(va, pa, place);
                place
            }
        };
        // Is the code mapped here where it was when QEMU translated it? QEMU uses the translation of a physical page
        // wherever it is mapped.
        let anywhere = is_kernel(va) || pa == CodeLine::NOWHERE;
        match place {
            Some(place) if anywhere || page(place.address(va)) == page(pa) => {
                if place.size() != self.fetch_size {
                    // Repeats up to here were from a page of the size before.
                    let before = self.fetch_total();
                    self.repeats(before.saturating_sub(self.fetched));
                    self.fetch_size = place.size();
                }
                self.stream.fetch(va);
            }
            None if anywhere => self.stream.fetch_nowhere(),
            _ => self.stream.fetch_physical(pa),
        }
        self.fetched += 1;
    }

    /// Compares where a new walk for a fetch leads with where the code was when QEMU translated it. User code may be at two
    /// addresses; such fetches count as `untranslated.fetch`.
    fn compare_code(&mut self, va: VirtAddr, pa: PhysAddr, place: Option<Place>) {
        let Some(ours) = place
            .map(|p| p.address(va))
            .filter(|_| pa != CodeLine::NOWHERE)
        else {
            return;
        };
        let found = &mut self.checks.found;
        if page(ours) == page(pa) {
            found.fetches += 1;
        } else if is_kernel(va) && self.checks.every > 0 {
            found.fetches += 1;
            found.mismatch(format!(
                "the tables lead from {:#x} to {:#x}, its code was at {:#x}",
                va.as_u64(),
                ours.as_u64(),
                pa.as_u64()
            ));
        }
    }

    /// After a write to CR3: kernel pages keep their translations, but not the entry in the root that leads to them.
    fn find_root(&mut self, va: VirtAddr) {
        if let Some(walk) = self.host.walk(va) {
            self.root_unsure = false;
            self.checks.fetches_left = self.fetches_kept;
            if walk.root != self.root {
                self.root = walk.root;
                self.stream.root_changed();
            }
        } else {
            self.checks.fetches_left = 1;
        }
    }

    pub(super) fn repeats(&mut self, n: u64) {
        self.stream.fetch_repeats(n, self.fetch_size);
        self.fetched += n;
    }

    pub fn flush(&mut self, what: Flush) {
        self.host.slot().fetch_line = NO_LINE;
        if !matches!(what, Flush::Page { .. }) && !self.root_unsure {
            self.root_unsure = true;
            // The next fetch looks.
            self.fetches_kept = std::mem::replace(&mut self.checks.fetches_left, 1);
        }
        self.stream.flush(what);
    }
}
