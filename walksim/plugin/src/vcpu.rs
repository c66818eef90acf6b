// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual CPU: what its instructions and accesses do to the models and the counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fpt_walksim_model::cache::SYNTHETIC;
use fpt_walksim_model::config::{Config, LINE};
use fpt_walksim_model::core::{Core, Shared as SharedCaches};
use fpt_walksim_model::report::{Categories, Instructions, Phase};
use fpt_walksim_model::stream::{Place, Stream};
use fpt_walksim_model::walk::{is_kernel, Flush, Size, Walk};

use crate::args::Options;
use crate::decode::Return;
use crate::kernel::{self, Calls, Category, Path};
use crate::output::{self, Results};
use crate::symbols::{Event, Symbols};

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

/// Accesses to known pages are so many times as frequent as walks, or more.
const HITS_PER_WALK: u64 = 16;

/// What a virtual CPU wants from QEMU.
pub trait Host {
    /// The architectural walk, as the tables are.
    fn walk(&mut self, va: u64) -> Option<Walk>;
    /// Where QEMU's own translation led the access that is being reported; `None` if it does not say or it
    /// was to a device.
    fn translation(&mut self, info: u32, va: u64) -> Option<u64>;
    /// Bytes of the access that is being reported.
    fn bytes(&self, info: u32) -> u64;
    /// Reads the kernel's memory; false if it cannot be.
    fn read(&mut self, va: u64, to: &mut [u8]) -> bool;
    fn slot(&mut self) -> &mut Slot;
}

/// What all virtual CPUs have in common.
pub struct Shared {
    pub options: Options,
    pub machines: Vec<Config>,
    pub symbols: Option<Symbols>,
    pub vcpus: u32,
    caches: Vec<SharedCaches>,
    /// Number of the open phase plus one in the low half; the high half changes with each change.
    epoch: AtomicU64,
    pub results: Mutex<Results>,
    tasks: Mutex<HashMap<u64, Path>>,
}

/// A lock whose holder died still guards data that can be shown.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(
        options: Options,
        config: Config,
        symbols: Option<Symbols>,
        vcpus: u32,
    ) -> Result<Shared, String> {
        let machines = config.machines().map_err(|e| e.to_string())?;
        let caches = if vcpus > 1 {
            machines.iter().map(SharedCaches::new).collect()
        } else {
            Vec::new()
        };
        Ok(Shared {
            results: Mutex::new(Results::new(config, &options.label, vcpus)),
            options,
            machines,
            symbols,
            vcpus,
            caches,
            epoch: AtomicU64::new(0),
            tasks: Mutex::new(HashMap::new()),
        })
    }

    /// A begin mark. All CPUs see the new phase at their next entry of the kernel or slow access.
    pub fn begin(&self, id: u8, instructions: u64) {
        let mut results = lock(&self.results);
        if let Some(open) = results.open() {
            let what = format!(
                "phase '{}' began inside phase '{open}'",
                output::phase_name(id)
            );
            results.error(what);
        }
        let number = results.begin(id, instructions);
        self.change(number as u64 + 1);
    }

    /// An end mark. False if there is nothing to end.
    pub fn end(&self, id: u8) -> bool {
        let mut results = lock(&self.results);
        let ended = results.end(id);
        if ended {
            self.change(0);
        }
        ended
    }

    fn change(&self, open: u64) {
        let turn = (self.epoch.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.epoch.store(turn << 32 | open, Ordering::Release);
    }

    /// Are the models to run also outside of the phases?
    pub fn always(&self) -> bool {
        let first = self.machines.first();
        first.is_some_and(|m| m.sim.simulate_outside)
    }

    /// Are translations to be compared?
    pub fn checking(&self) -> bool {
        let first = self.machines.first();
        first.is_some_and(|m| m.sim.check_every > 0)
    }

    pub fn error(&self, what: String) {
        lock(&self.results).error(what);
    }
}

/// Where a line of code was found when it was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeLine {
    pub va: u64,
    /// `u64::MAX` if not known.
    pub pa: u64,
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
    root: u64,
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

#[derive(Default)]
struct Checks {
    every: u64,
    walks: u64,
    /// Accesses to known pages until the next is compared; fetches from known pages.
    left: u64,
    fetches_left: u64,
    found: output::Found,
}

impl Checks {
    /// Compares where the access that is being reported should be with where QEMU's own translation led it. False if
    /// QEMU does not say.
    fn compare(&mut self, host: &mut impl Host, info: u32, va: u64, place: Place) -> bool {
        let Some(theirs) = host.translation(info, va) else {
            return false;
        };
        let ours = place.address(va);
        if ours != theirs {
            self.found.mismatch(format!(
                "the tables lead from {va:#x} to {ours:#x}, QEMU translated it to {theirs:#x}"
            ));
        }
        true
    }
}

impl<H: Host> Vcpu<H> {
    pub fn new(host: H, shared: Arc<Shared>, index: u32) -> Result<Vcpu<H>, String> {
        let mut cores = Vec::new();
        for (i, machine) in shared.machines.iter().enumerate() {
            cores.push(Core::new(machine, shared.caches.get(i)).map_err(|e| e.to_string())?);
        }
        let every = shared.machines.first().map_or(0, |m| m.sim.check_every);
        let mut stream = Stream::new(cores, every);
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
            root: 0,
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

    /// The common case of [`Vcpu::data`]; false if this is another.
    #[inline(always)]
    pub fn data_fast(&mut self, va: u64, info: u32, data: usize) -> bool {
        if data & 6 != 0 || self.warm > 0 {
            return false;
        }
        if va % LINE > LINE - 16 && va % LINE + self.host.bytes(info) > LINE {
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
            self.stream.data(va, place.size());
        }
        if let Some(n) = self.data.get_mut(data & 1) {
            *n += 1;
        }
        true
    }

    /// A data access.
    pub fn data(&mut self, va: u64, info: u32, data: usize) {
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
                self.calls
                    .count(&mut self.path, access::function(data), halves);
            }
        }
        self.one(va, Some(info), kernel);
        let last = va.wrapping_add(self.host.bytes(info).max(1) - 1);
        if last / LINE != va / LINE {
            // The second page of an access that crosses pages is not what QEMU's handle is about.
            self.one(last & !(LINE - 1), None, kernel);
        }
    }

    fn one(&mut self, va: u64, info: Option<u32>, kernel: usize) {
        if let Some(n) = self.data.get_mut(kernel) {
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
            Some(place) => self.stream.data(va, place.size()),
            None => self.stream.data_nowhere(),
        }
    }

    /// Compares the walk that is kept for an address with a new one.
    fn check(&mut self, va: u64) {
        match self.host.walk(va).filter(|w| w.page < SYNTHETIC) {
            Some(fresh) => self.stream.check(&fresh),
            None => self.checks.found.stale += 1,
        }
    }

    /// Walks for a page that is not known, for a data access (its handle) or a fetch.
    fn learn(&mut self, va: u64, info: Option<u32>) -> Option<Place> {
        let Some(walk) = self.host.walk(va).filter(|w| w.page < SYNTHETIC) else {
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
        self.host.slot().fetch_line = line.va / LINE;
        let Some(place) = self.stream.known(line.va) else {
            return false;
        };
        if place.size() != self.fetch_size || place.address(line.va) / LINE != line.pa / LINE {
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
        let anywhere = is_kernel(va) || pa == u64::MAX;
        match place {
            Some(place) if anywhere || place.address(va) >> 12 == pa >> 12 => {
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
    fn compare_code(&mut self, va: u64, pa: u64, place: Option<Place>) {
        let Some(ours) = place.map(|p| p.address(va)).filter(|_| pa != u64::MAX) else {
            return;
        };
        let found = &mut self.checks.found;
        if ours >> 12 == pa >> 12 {
            found.fetches += 1;
        } else if is_kernel(va) && self.checks.every > 0 {
            found.fetches += 1;
            found.mismatch(format!(
                "the tables lead from {va:#x} to {ours:#x}, its code was at {pa:#x}"
            ));
        }
    }

    /// After a write to CR3: kernel pages keep their translations, but not the entry in the root that leads to them.
    fn find_root(&mut self, va: u64) {
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

    fn repeats(&mut self, n: u64) {
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

    fn moved(&mut self) {
        let inside = self.path.in_page_fault();
        self.host.slot().in_page_fault = u64::from(inside);
    }

    pub fn event(&mut self, event: Event) {
        let from_user = self.drain();
        if self.epoch != self.shared.epoch.load(Ordering::Relaxed) {
            self.look_at_task();
        }
        self.catch_up();
        match event {
            Event::Enter(category) => {
                kernel::count(&mut self.counts.entries, category, 1);
                self.path.enter(category, from_user);
            }
            // It is the child's half of a system call, until it turns out to be a kernel thread.
            Event::NewTask => self.path = Path::new(Category::Syscall),
            Event::KernelThread => self.path = Path::new(Category::KernelThread),
        }
        self.moved();
    }

    pub fn returns(&mut self, _how: Return) {
        self.drain();
        self.path.leave();
        self.moved();
    }

    /// Is vmlinux the kernel that runs? In a callback of this CPU only.
    pub fn look_at_kernel(&mut self) {
        let Some(symbols) = &self.shared.symbols else {
            return;
        };
        let (address, ours) = &symbols.notes;
        let mut theirs = vec![0; ours.len()];
        if !ours.is_empty() && self.host.read(*address, &mut theirs) && theirs != *ours {
            let what =
                "vmlinux= is not the kernel that the guest runs: its notes (build id) differ";
            self.shared.error(what.into());
        }
    }

    /// Reads the name of the current task, which a new program changes. In a callback of this CPU only.
    pub fn look_at_task(&mut self) {
        let offset = self.shared.symbols.as_ref().and_then(|s| s.comm());
        let (Some(offset), true) = (offset, self.task.address != 0) else {
            return;
        };
        let mut comm = [0; 16];
        if self
            .host
            .read(self.task.address.wrapping_add(offset), &mut comm)
        {
            // What is behind the end is of an older name.
            let mut end = false;
            for byte in &mut comm {
                end |= *byte == 0;
                *byte = if end { 0 } else { *byte };
            }
            self.task.comm = comm;
        }
    }

    /// The task does not run any more, or its figures are wanted.
    fn end_stint(&mut self) {
        let (user, kernel) = std::mem::take(&mut self.stint);
        if user + kernel > 0 {
            let task = self.counts.tasks.entry(self.task).or_default();
            task.0 += user;
            task.1 += kernel;
        }
    }

    /// Of the address of the field in which a task's stack is kept.
    fn task_at(&self, stack: u64) -> u64 {
        let symbols = self.shared.symbols.as_ref();
        stack.wrapping_sub(symbols.map_or(0, |s| s.stack()))
    }

    /// The current task turns out to be this one.
    pub fn leave_task(&mut self, stack: u64) {
        self.drain();
        self.task.address = self.task_at(stack);
        self.look_at_task();
        self.end_stint();
    }

    pub fn take_task(&mut self, stack: u64) {
        self.drain();
        self.end_stint();
        let mut tasks = lock(&self.shared.tasks);
        tasks.insert(self.task.address, std::mem::take(&mut self.path));
        let address = self.task_at(stack);
        // One that was never seen has been made and not run yet: see `Event::NewTask`.
        let new = || Path::new(Category::Syscall);
        self.path = tasks.remove(&address).unwrap_or_else(new);
        drop(tasks);
        self.path.resume(self.index);
        self.task = Task {
            address,
            ..Task::default()
        };
        self.look_at_task();
        self.moved();
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
        let mut results = lock(&self.shared.results);
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

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_walksim_model::config::resolve;
    use fpt_walksim_model::report::Report;
    use fpt_walksim_model::walk::{Entry, MAX_ENTRIES};

    /// Every page at its own address plus `shift`; QEMU's translation is `lie` further on.
    #[derive(Default)]
    struct Fake {
        slot: Slot,
        shift: u64,
        lie: u64,
        absent: bool,
        /// The tables' own shift.
        elsewhere: u64,
        root: u64,
        global: bool,
        walks: u64,
        comm: &'static str,
    }

    impl Host for Fake {
        fn walk(&mut self, va: u64) -> Option<Walk> {
            let low = va & 0xff_ffff_f000;
            self.walks += 1;
            let mut entries = [Entry::default(); MAX_ENTRIES];
            for (i, e) in entries.iter_mut().take(4).enumerate() {
                let level = 4 - i as u8;
                let pa = (u64::from(level) << 40) + (low >> (12 + 9 * (level - 1))) * 8;
                let pa = pa + self.elsewhere;
                *e = Entry {
                    pa,
                    level,
                    index_bits: 9,
                };
            }
            let page = low + self.shift;
            let walk = Walk {
                va,
                root: self.root,
                entries,
                n: 4,
                page,
                size: Size::Small,
                global: self.global,
            };
            (!self.absent).then_some(walk)
        }
        fn translation(&mut self, _info: u32, va: u64) -> Option<u64> {
            Some((va & 0xff_ffff_ffff) + self.shift + self.lie)
        }
        fn bytes(&self, info: u32) -> u64 {
            u64::from(info)
        }
        fn read(&mut self, va: u64, to: &mut [u8]) -> bool {
            let name = format!("{}-{va:x}\0and-older-names", self.comm);
            to.copy_from_slice(name.as_bytes().get(..to.len()).unwrap());
            true
        }
        fn slot(&mut self) -> &mut Slot {
            &mut self.slot
        }
    }

    fn shared(sets: &[(&str, &str)], vcpus: u32) -> Arc<Shared> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let mut all = vec![("sim.check_every".to_owned(), "1".to_owned())];
        all.extend(sets.iter().map(own));
        let config = resolve("emt", None, &all).unwrap();
        Arc::new(Shared::new(Options::default(), config, None, vcpus).unwrap())
    }

    fn cpu(shared: &Arc<Shared>, host: Fake, index: u32) -> Vcpu<Fake> {
        Vcpu::new(host, shared.clone(), index).unwrap()
    }

    fn done(shared: &Shared) -> Report {
        lock(&shared.results).report(&shared.machines, true)
    }

    fn access(v: &mut Vcpu<Fake>, va: u64, bytes: u32) {
        let data = access::pack(is_kernel(va), 0, 0);
        if !v.data_fast(va, bytes, data) {
            v.data(va, bytes, data);
        }
    }

    fn exec(v: &mut Vcpu<Fake>, va: u64, n: u64) {
        let line = CodeLine {
            va,
            pa: (va & 0xff_ffff_ffff) + v.host.shift,
        };
        if v.host.slot.fetch_line != va / LINE && !v.fetch_fast(&line) {
            v.fetch(&line);
        }
        let packed = n | n << 32;
        *(if is_kernel(va) {
            v.host.slot.kernel_sum += n;
            &mut v.host.slot.kernel
        } else {
            &mut v.host.slot.user
        }) += packed;
    }

    /// A load phase of a little of everything.
    fn busy(v: &mut Vcpu<Fake>) {
        for i in 0..3000u64 {
            exec(v, 0x40_0000 + i % 700 * 32, 3);
            access(v, 0x7000_0000 + i * 200, 8);
            if i % 100 == 0 {
                v.event(Event::Enter(Category::Syscall));
                exec(v, 0xffff_ffff_8100_0000 + i, 10);
                access(v, 0xffff_8880_0000_003c, 8);
                v.event(Event::Enter(Category::PageFault));
                v.function(7, 20);
                exec(v, 0xffff_ffff_8100_4000 + i, 20);
                v.returns(Return::Iret);
                v.returns(Return::Sysret);
            }
        }
    }

    #[test]
    fn a_phase_obeys_the_laws() {
        let s = shared(&[("also", "[\"server\"]")], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        busy(&mut v);
        assert!(s.end(b'L'));
        v.catch_up();
        let r = done(&s);
        assert_eq!((r.complete, &r.errors[..]), (true, &[][..]));
        let p = &r.phases[0];
        assert_eq!((p.instructions.user, p.instructions.kernel), (9000, 900));
        assert_eq!(p.instructions.kernel_by_category.syscall, 900);
        assert_eq!(p.instructions.kernel_by_innermost_entry.page_fault, 600);
        assert_eq!(p.page_fault_functions[0].instructions, 600);
        // 8 bytes at offset 3c: two lines
        assert_eq!((p.accesses.kernel_data, p.accesses.user_data), (60, 3000));
        assert_eq!(p.organisations.len(), 8);
        assert!(r.checks.walks_checked > 100);
        assert_eq!(r.checks.mismatches, 0);
    }

    #[test]
    fn a_wrong_translation_is_an_error() {
        let s = shared(&[], 1);
        let mut v = cpu(
            &s,
            Fake {
                lie: 4096,
                ..Fake::default()
            },
            0,
        );
        s.begin(b'R', 0);
        v.catch_up();
        access(&mut v, 0x1000, 8);
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        assert_eq!(r.checks.mismatches, 1);
        assert!(
            r.errors[0].contains("QEMU translated it to 0x2000"),
            "{:?}",
            r.errors
        );
    }

    #[test]
    fn a_lost_invalidation_is_an_error() {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'R', 0);
        v.catch_up();
        access(&mut v, 0x10_0000, 8);
        v.host.shift = 0x10_0000;
        (1..=HITS_PER_WALK).for_each(|i| access(&mut v, 0x10_0000 + i * LINE, 8));
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        // by QEMU's translation, and by the tables
        assert_eq!((r.checks.hits_checked, r.checks.mismatches), (1, 2));
        assert!(r.errors[0].contains("QEMU translated it to 0x200400"));
        assert!(r.errors[1].contains("nothing was invalidated"));
    }

    #[test]
    fn entries_are_compared_and_not_only_the_page() {
        for (fetch, invalidated) in [(false, false), (false, true), (true, false), (true, true)] {
            let s = shared(&[], 1);
            let mut v = cpu(&s, Fake::default(), 0);
            s.begin(b'R', 0);
            v.catch_up();
            let go = |v: &mut Vcpu<Fake>| {
                for i in 0..=HITS_PER_WALK {
                    let va = 0x10_0000 + i * LINE;
                    if fetch {
                        exec(v, va, 1);
                    } else {
                        access(v, va, 8);
                    }
                }
            };
            go(&mut v);
            // the same page by other entries
            v.host.elsewhere = 4096;
            go(&mut v);
            if invalidated {
                v.flush(Flush::Page {
                    va: 0x10_0000,
                    pcid: 0,
                });
            }
            s.end(b'R');
            v.catch_up();
            let r = done(&s);
            let expected = (2, u64::from(!invalidated), u64::from(invalidated));
            let c = &r.checks;
            assert_eq!((c.entries_checked, c.mismatches, c.stale), expected);
            assert_eq!(r.errors.is_empty(), invalidated, "{:?}", r.errors);
        }
    }

    #[test]
    fn code_of_the_kernel_is_where_it_was_translated() {
        for (va, errors) in [(0xffff_ffff_8100_0000, 1), (0x40_0000, 0)] {
            let s = shared(&[], 1);
            let mut v = cpu(&s, Fake::default(), 0);
            s.begin(b'R', 0);
            v.catch_up();
            let pa = 0x9000;
            assert!(!v.fetch_fast(&CodeLine { va, pa }));
            v.fetch(&CodeLine { va, pa });
            v.host.slot.user += 1;
            exec(&mut v, va + 0x1000, 1);
            s.end(b'R');
            v.catch_up();
            let r = done(&s);
            assert_eq!(r.checks.mismatches, errors, "{:?}", r.errors);
            assert_eq!(r.checks.fetches_checked, 1 + errors);
            assert_eq!(r.phases[0].untranslated.fetch, 1 - errors);
        }
    }

    #[test]
    fn kernel_pages_follow_the_root() {
        let s = shared(&[("organisations", "[\"real\"]")], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        v.host.global = true;
        s.begin(b'R', 0);
        v.catch_up();
        let kernel = 0xffff_8880_0000_0000;
        // code and data, and one to see what the root is
        for (root, walks) in [(0x1000, 3), (0x1000, 1), (0x2000, 3), (0x2000, 1)] {
            v.host.root = root;
            v.host.walks = 0;
            v.flush(Flush::AddressSpace { pcid: 0 });
            exec(&mut v, 0xffff_ffff_8100_0000, 1);
            access(&mut v, kernel, 8);
            assert_eq!(v.host.walks, walks);
        }
        s.end(b'R');
        v.catch_up();
        assert_eq!(done(&s).errors.len(), 0);
    }

    #[test]
    fn lost_kernel_instructions_are_an_error() {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        busy(&mut v);
        v.host.slot.kernel_sum += 1;
        s.end(b'L');
        v.catch_up();
        let r = done(&s);
        assert_eq!(
            r.checks.conservation,
            "load: kernel instructions by category: 900 is not 901"
        );
        assert_eq!(r.errors.len(), 1);
    }

    #[test]
    fn a_kernel_that_the_symbols_are_not_of_shows() {
        let config = resolve("emt", None, &[]).unwrap();
        for (known, errors) in [(true, 0), (false, 1)] {
            let symbols = Some(Symbols::default());
            let new = Shared::new(Options::default(), config.clone(), symbols, 1);
            let s = Arc::new(new.unwrap());
            let mut v = cpu(&s, Fake::default(), 0);
            s.begin(b'L', 0);
            v.catch_up();
            for _ in 0..100 {
                exec(&mut v, 0x40_0000, 7);
                if known {
                    v.event(Event::Enter(Category::Syscall));
                }
                exec(&mut v, 0xffff_ffff_8100_0000, 3);
                if known {
                    v.returns(Return::Sysret);
                }
            }
            s.end(b'L');
            v.catch_up();
            let r = done(&s);
            assert_eq!(r.errors.len(), errors, "{:?}", r.errors);
            assert_eq!(r.checks.lost_entries, 300 * errors as u64);
            let p = &r.phases[0];
            assert_eq!(p.entries.sum(), if known { 100 } else { 0 });
            if !known {
                assert!(r.errors[0].contains("is vmlinux= the kernel"));
                assert_eq!(p.instructions.kernel_by_category.other, 300);
            }
        }
    }

    #[test]
    fn nothing_is_compared_if_nothing_is_to_be() {
        let s = shared(&[("sim.check_every", "0")], 1);
        let lie = Fake {
            lie: 4096,
            ..Fake::default()
        };
        let mut v = cpu(&s, lie, 0);
        s.begin(b'R', 0);
        v.catch_up();
        (0..1000u64).for_each(|i| access(&mut v, 0x1000 + i * 68, 8));
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        assert_eq!((r.checks.walks_checked, r.checks.hits_checked), (0, 0));
        assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
    }

    #[test]
    fn invalidation_lets_the_new_page_in() {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'R', 0);
        v.catch_up();
        for what in [
            Flush::All,
            Flush::AddressSpace { pcid: 0 },
            Flush::Page {
                va: 0x1000,
                pcid: 0,
            },
        ] {
            access(&mut v, 0x1000, 8);
            v.host.shift += 0x10_0000;
            v.flush(what);
        }
        access(&mut v, 0x1000, 8);
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        assert_eq!(
            (r.checks.mismatches, r.phases[0].organisations[0].walks),
            (0, 4)
        );
    }

    #[test]
    fn stale_accesses_and_code_at_two_addresses_are_told() {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'R', 0);
        v.catch_up();
        let line = CodeLine {
            va: 0x40_0000,
            pa: 0x9000,
        };
        assert!(!v.fetch_fast(&line));
        v.fetch(&line);
        v.host.slot.user += 1;
        v.host.absent = true;
        access(&mut v, 0x5000, 8);
        s.end(b'R');
        v.catch_up();
        let r = done(&s);
        assert_eq!((r.checks.stale, &r.errors[..]), (1, &[][..]));
        let u = r.phases[0].untranslated;
        assert_eq!((u.data, u.fetch, u.fetch_without_address), (1, 1, 0));
    }

    #[test]
    fn warm_up_is_in_no_figure() {
        let s = shared(&[("sim.warmup_accesses", "1000")], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        busy(&mut v);
        s.end(b'L');
        v.catch_up();
        let r = done(&s);
        let p = &r.phases[0];
        assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
        assert!(
            p.warmup_accesses >= 1000 && p.warmup_accesses < 1010,
            "{}",
            p.warmup_accesses
        );
        assert_eq!(p.accesses.data() + p.warmup_accesses, 3060);
        assert!(p.instructions.user < 9000);
    }

    #[test]
    fn two_cpus_make_one_phase() {
        let s = shared(&[], 2);
        let (mut a, mut b) = (cpu(&s, Fake::default(), 0), cpu(&s, Fake::default(), 1));
        s.begin(b'L', 0);
        a.catch_up();
        busy(&mut b);
        busy(&mut a);
        s.end(b'L');
        a.catch_up();
        b.finish();
        let r = done(&s);
        assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
        let p = &r.phases[0];
        assert!(p.accesses.user_data > 3000 && p.accesses.user_data <= 6000);
        assert_eq!(
            p.instructions.kernel_by_category.sum(),
            p.instructions.kernel
        );
    }

    #[test]
    fn tasks_keep_their_entries_while_they_sleep() {
        let s = shared(&[], 1);
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        v.leave_task(0x100);
        exec(&mut v, 0x40_0000, 1);
        v.event(Event::Enter(Category::PageFault));
        exec(&mut v, 0xffff_ffff_8100_0000, 5);
        v.take_task(0x200);
        v.event(Event::NewTask);
        v.event(Event::KernelThread);
        exec(&mut v, 0xffff_ffff_8100_0000, 7);
        v.leave_task(0x200);
        v.take_task(0x100);
        exec(&mut v, 0xffff_ffff_8100_0000, 11);
        v.function(1, 16);
        v.returns(Return::Iret);
        s.end(b'L');
        v.catch_up();
        let r = done(&s);
        let p = &r.phases[0];
        assert_eq!(p.instructions.kernel_by_category.page_fault, 16);
        assert_eq!(p.instructions.kernel_by_category.kernel_thread, 7);
        assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
        let tasks: Vec<_> = p
            .tasks
            .iter()
            .map(|t| (t.task.as_str(), t.comm.as_str(), t.kernel))
            .collect();
        assert_eq!(tasks, [("0x100", "", 16), ("0x200", "", 7)]);
    }

    #[test]
    fn another_build_of_the_kernel_is_an_error() {
        let config = resolve("emt", None, &[]).unwrap();
        for (notes, errors) in [("-1000\0and", 0), ("-1000\0AND", 1), ("", 0)] {
            let mut symbols = Symbols::of_task(0, 0);
            symbols.notes = (0x1000, notes.into());
            let new = Shared::new(Options::default(), config.clone(), Some(symbols), 1);
            let s = Arc::new(new.unwrap());
            cpu(&s, Fake::default(), 0).look_at_kernel();
            let told = done(&s).errors;
            let told = told.iter().filter(|e| e.contains("is not the kernel"));
            assert_eq!(told.count(), errors);
        }
    }

    #[test]
    fn tasks_have_names() {
        let config = resolve("emt", None, &[]).unwrap();
        let symbols = Some(Symbols::of_task(0x98, 0x10));
        let new = Shared::new(Options::default(), config, symbols, 1);
        let s = Arc::new(new.unwrap());
        let mut v = cpu(&s, Fake::default(), 0);
        s.begin(b'L', 0);
        v.catch_up();
        v.host.comm = "sh";
        exec(&mut v, 0x40_0000, 1);
        v.leave_task(0x1098);
        v.take_task(0x2098);
        v.host.comm = "bfs";
        exec(&mut v, 0x40_0000, 2);
        // another program
        v.host.comm = "dfs";
        v.look_at_task();
        s.end(b'L');
        v.catch_up();
        let r = done(&s);
        assert_eq!(r.errors.len(), 0, "{:?}", r.errors);
        let tasks: Vec<_> = r.phases[0]
            .tasks
            .iter()
            .map(|t| (t.task.as_str(), t.comm.as_str(), t.user))
            .collect();
        assert_eq!(tasks, [("0x2000", "dfs-2010", 2), ("0x1000", "sh-1010", 1)]);
    }
}
