// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual CPU: what its instructions and accesses do to the models and the counters.
mod accesses;
mod shared;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use fpt_walksim_model::addr::{PhysAddr, VirtAddr};
use fpt_walksim_model::core::Core;
use fpt_walksim_model::report::{Categories, Instructions, Phase};
use fpt_walksim_model::stream::Stream;
use fpt_walksim_model::walk::{Size, Walk};

use self::accesses::{Checks, HITS_PER_WALK};
pub use self::shared::{lock, Shared};
use crate::kernel::{self, Calls, Category, Path};

/// What QEMU's code adds to between callbacks. The order of the fields is part of no interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// Low half: instructions but REP strings; high half: those without data access. Emptied at each
    /// entry of the kernel, so that no half overflows.
    pub user: u64,
    pub kernel: u64,
    pub user_strings: u64,
    pub kernel_strings: u64,
    /// Fetches of second lines.
    pub user_second: u64,
    pub kernel_second: u64,
    /// Virtual line of the last fetch.
    pub fetch_line: u64,
    /// 1 if the innermost entry is a page fault.
    pub in_page_fault: u64,
    /// Kernel instructions but REP strings once more, never emptied: categories and tasks must add up to them.
    pub kernel_sum: u64,
}

/// Line that no fetch has.
pub const NO_LINE: u64 = u64::MAX;

/// What a virtual CPU wants from QEMU.
pub trait Host {
    /// The architectural walk, as the tables are.
    fn walk(&mut self, va: VirtAddr) -> Option<Walk>;
    /// Where QEMU's own translation led the access that is being reported; `None` if it does not say or it
    /// was to a device.
    fn translation(&mut self, info: u32, va: VirtAddr) -> Option<PhysAddr>;
    /// Bytes of the access that is being reported.
    fn bytes(&self, info: u32) -> u64;
    /// Reads the kernel's memory; false if it cannot be.
    fn read(&mut self, va: u64, to: &mut [u8]) -> bool;
    fn slot(&mut self) -> &mut Slot;
}

/// Where a line of code was found when it was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLine {
    pub va: VirtAddr,
    /// [`CodeLine::NOWHERE`] if not known.
    pub pa: PhysAddr,
}

impl CodeLine {
    /// Where code is whose place is not known.
    pub const NOWHERE: PhysAddr = PhysAddr::new(u64::MAX);
}

/// Marks the user data of an access.
pub mod access {
    /// Packs it in one number.
    pub fn pack(kernel: bool, halves: u8, function: u32) -> usize {
        usize::from(kernel) | usize::from(halves) << 1 | (function as usize) << 3
    }
    pub fn kernel(data: usize) -> bool {
        data & 1 != 0
    }
    pub fn halves(data: usize) -> u64 {
        (data >> 1 & 3) as u64
    }
    pub fn function(data: usize) -> u32 {
        (data >> 3) as u32
    }
    /// The same with the address of the instruction in place of its function.
    pub fn pack_pc(kernel: bool, halves: u8, pc: u64) -> usize {
        usize::from(kernel) | usize::from(halves) << 1 | (pc as usize) << 3
    }
    /// A canonical address: the bits that were lost are those of the highest that was kept.
    #[inline(always)]
    pub fn pc(data: usize) -> u64 {
        (data as i64 >> 3) as u64
    }
}

#[derive(Default)]
struct Counts {
    instructions: Instructions,
    fetches: [u64; 2],
    entries: Categories,
    /// User, kernel.
    tasks: HashMap<Task, (u64, u64)>,
}

/// A task: where its `task_struct` is, and its name. A new program has a new name, and so has a new task at an old place as
/// a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    pub address: u64,
    pub comm: [u8; 16],
}

pub struct Vcpu<H> {
    pub host: H,
    stream: Stream,
    shared: Arc<Shared>,
    /// Walks are counted by their causes.
    attributes: bool,
    index: u32,
    /// Data accesses in user and kernel mode.
    data: [u64; 2],
    /// Half instructions of REP strings in user and kernel mode, not yet in `counts`.
    halves: [u64; 2],
    counts: Counts,
    calls: Calls,
    path: Path,
    task: Task,
    /// User and kernel instructions of the task since it runs, that are not yet in `counts`.
    stint: (u64, u64),
    /// `Slot::kernel_sum` at the beginning of the phase, and the half instructions of REP strings since.
    kernel_before: u64,
    kernel_halves: u64,
    /// CR3 was written: is the root another one?
    root: PhysAddr,
    root_unsure: bool,
    /// `Checks::fetches_left`, meanwhile.
    fetches_kept: u64,
    epoch: u64,
    /// Size of the page that the last fetch was from.
    fetch_size: Size,
    /// Fetches that the stream has been told of.
    fetched: u64,
    /// Data accesses that are still warm-up, and those that were.
    warm: u64,
    warmed: u64,
    checks: Checks,
    /// Instructions since the first mark.
    total: u64,
}

impl<H: Host> Vcpu<H> {
    pub fn new(host: H, shared: Arc<Shared>, index: u32) -> Result<Vcpu<H>, String> {
        let mut cores = Vec::new();
        for (i, machine) in shared.machines.iter().enumerate() {
            cores.push(Core::new(machine, shared.caches.get(i)).map_err(|e| e.to_string())?);
        }
        let every = shared.machines.first().map_or(0, |m| m.sim.check_every);
        let mut stream = Stream::new(cores, every);
        let attributes = shared.options.walks.is_some();
        if attributes {
            stream.attribute();
        }
        if shared.options.helper {
            // Without a thread all is as it should be, but slower.
            if let Err(e) = stream.help() {
                eprintln!("fpt-walksim: no second thread: {e}");
            }
        }
        Ok(Vcpu {
            host,
            stream,
            shared,
            attributes,
            index,
            data: [0; 2],
            halves: [0; 2],
            counts: Counts::default(),
            calls: Calls::new(),
            // Until the first task is known: boot, or the idle task of this CPU.
            path: Path::new(Category::Other),
            task: Task::default(),
            stint: (0, 0),
            kernel_before: 0,
            kernel_halves: 0,
            root: PhysAddr::new(0),
            root_unsure: true,
            fetches_kept: every * HITS_PER_WALK,
            epoch: 0,
            fetch_size: Size::Small,
            fetched: 0,
            warm: 0,
            warmed: 0,
            checks: Checks {
                every,
                left: every * HITS_PER_WALK,
                fetches_left: 1,
                ..Checks::default()
            },
            total: 0,
        })
    }

    /// Instructions of a function in a page fault.
    #[inline]
    pub fn function(&mut self, function: u32, n: u64) {
        self.calls.count(&mut self.path, function, n * 2);
    }

    /// Fetches so far, of this phase.
    fn fetch_total(&mut self) -> u64 {
        let counted: u64 = self.counts.fetches.iter().sum();
        let s = self.host.slot();
        let low = |packed: u64| packed & u64::from(u32::MAX);
        counted
            + low(s.user)
            + low(s.kernel)
            + s.user_strings
            + s.kernel_strings
            + s.user_second
            + s.kernel_second
    }

    /// Moves what QEMU counted to where it belongs. True if user instructions were among it.
    fn drain(&mut self) -> bool {
        let slot = self.host.slot();
        let s = std::mem::replace(
            slot,
            Slot {
                fetch_line: slot.fetch_line,
                in_page_fault: slot.in_page_fault,
                kernel_sum: slot.kernel_sum,
                ..Slot::default()
            },
        );
        let low = |packed: u64| packed & u64::from(u32::MAX);
        let [user_halves, kernel_halves] = &mut self.halves;
        let user = low(s.user) + *user_halves / 2;
        let kernel = low(s.kernel) + *kernel_halves / 2;
        *user_halves %= 2;
        *kernel_halves %= 2;
        let i = &mut self.counts.instructions;
        i.user += user;
        i.kernel_strings_once += low(s.kernel) + s.kernel_strings;
        i.without_data_access += (s.user >> 32) + (s.kernel >> 32);
        let [user_fetches, kernel_fetches] = &mut self.counts.fetches;
        *user_fetches += low(s.user) + s.user_strings + s.user_second;
        *kernel_fetches += low(s.kernel) + s.kernel_strings + s.kernel_second;
        self.total += user + kernel;
        if kernel > 0 {
            let inside_phase = self.epoch & u64::from(u32::MAX) != 0;
            // An entry that is known shows before its first instruction, a return after its last.
            let mixed = user > 0 && self.shared.symbols.is_some();
            if inside_phase && (mixed || self.path.outermost().is_none()) {
                self.checks.found.lost += kernel;
            }
            let outer = self.path.outermost().unwrap_or(Category::Other);
            let inner = self.path.innermost().unwrap_or(Category::Other);
            kernel::count(&mut i.kernel_by_category, outer, kernel);
            kernel::count(&mut i.kernel_by_innermost_entry, inner, kernel);
        }
        self.stint.0 += user;
        self.stint.1 += kernel;
        s.user != 0 || s.user_strings != 0
    }

    /// Instructions since the first mark.
    pub fn executed(&mut self) -> u64 {
        self.drain();
        self.total
    }

    /// Takes note of a phase that has begun or ended, and of the end of the warm-up.
    pub fn catch_up(&mut self) {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch != self.epoch {
            self.close();
            self.epoch = epoch;
            let sim = self.shared.machines.first().map(|m| m.sim.clone());
            self.warm = sim.map_or(0, |s| s.warmup_accesses);
            self.warmed = 0;
            self.reset();
        } else if self.warm > 0 {
            let seen: u64 = self.data.iter().sum();
            if seen >= self.warm {
                self.drain();
                self.warm = 0;
                self.warmed = seen;
                self.reset();
            }
        }
    }

    /// Begins anew: everything counts from here on. What QEMU counted so far has been drained.
    fn reset(&mut self) {
        self.drain();
        self.data = [0; 2];
        self.halves = [0; 2];
        self.kernel_halves = 0;
        self.kernel_before = self.host.slot().kernel_sum;
        self.stint = (0, 0);
        self.counts = Counts::default();
        self.calls.reset_counters();
        self.fetched = 0;
        self.stream.reset_counters();
    }

    /// Hands in the figures of the phase that this CPU is in.
    fn close(&mut self) {
        self.drain();
        self.end_stint();
        let mut found = std::mem::take(&mut self.checks.found);
        let compared = self.stream.settled(|_, compared| compared);
        found.stale += compared.first().map_or(0, |c| c.stale);
        for one in compared {
            found.hits += one.hits;
            found.entries += one.entries;
            found.mismatches += one.mismatches;
            found.texts.extend(one.texts);
        }
        let number = (self.epoch & u64::from(u32::MAX)).checked_sub(1);
        let Some(number) = number else {
            lock(&self.shared.results).found(found);
            return;
        };
        let total = self.fetch_total();
        self.repeats(total.saturating_sub(self.fetched));
        let [user_data, kernel_data] = self.data;
        let [user_fetch, kernel_fetch] = self.counts.fetches;
        let (data, fetch) = (user_data + kernel_data, user_fetch + kernel_fetch);
        let (untranslated, organisations) = self.stream.settled(|cores, _| {
            let untranslated = cores
                .first()
                .map_or_else(Default::default, |c| c.untranslated());
            let all = cores.iter_mut().flat_map(|c| c.report(data, fetch));
            (untranslated, all.collect())
        });
        if self.stream.broken() {
            let what = "internal error of an organisation, see QEMU's output";
            self.shared.error(what.into());
        }
        let plain = self.host.slot().kernel_sum;
        let plain = plain.wrapping_sub(self.kernel_before);
        let phase = Phase {
            warmup_accesses: self.warmed,
            instructions: Instructions {
                kernel: plain + self.kernel_halves / 2,
                ..self.counts.instructions.clone()
            },
            entries: self.counts.entries,
            accesses: fpt_walksim_model::report::Accesses {
                user_data,
                user_fetch,
                kernel_data,
                kernel_fetch,
            },
            untranslated,
            organisations,
            ..Phase::default()
        };
        let name = |function: u32| {
            let symbols = self.shared.symbols.as_ref();
            symbols.map_or("[unknown]", |s| s.name(function)).to_owned()
        };
        let paths: Vec<(Vec<String>, u64)> = self
            .calls
            .paths()
            .map(|(path, n)| (path.into_iter().map(name).collect(), n))
            .collect();
        let causes = self.stream.settled(|cores, _| {
            let first = cores.first_mut();
            first.and_then(|core| core.take_attribution())
        });
        let mut results = lock(&self.shared.results);
        if let (Some(causes), Some(name)) = (causes, results.name(number as usize)) {
            lock(&self.shared.attribution).add(name, &causes);
        }
        results.found(found);
        results.add(number as usize, &phase, paths, &self.counts.tasks);
    }

    /// The guest is gone.
    pub fn finish(&mut self) {
        self.close();
        self.epoch = 0;
        self.reset();
    }
}
