// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual CPU: what its instructions and accesses do to the models and the counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fpt_walksim_model::config::{Config, LINE};
use fpt_walksim_model::core::{Core, Shared as SharedCaches};
use fpt_walksim_model::report::{Instructions, Phase};
use fpt_walksim_model::walk::{is_kernel, Flush, Size, Walk, Walker};

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
}

/// Line that no fetch has.
pub const NO_LINE: u64 = u64::MAX;

/// What a virtual CPU wants from QEMU.
pub trait Host {
    /// The architectural walk, as the tables are.
    fn walk(&mut self, va: u64) -> Option<Walk>;
    /// Where QEMU's own translation led the access that is being reported; `None` if it does not say or it
    /// was to a device.
    fn translation(&mut self, info: u32, va: u64) -> Option<u64>;
    /// Bytes of the access that is being reported.
    fn bytes(&self, info: u32) -> u64;
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

/// Code pages that are known to be where they were when they were translated.
const VERIFIED: usize = 64;

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
    /// By task: user, kernel.
    tasks: HashMap<u64, (u64, u64)>,
}

pub struct Vcpu<H> {
    pub host: H,
    core: Core,
    /// More machines on the same stream.
    others: Vec<Core>,
    shared: Arc<Shared>,
    index: u32,
    /// Data accesses in user and kernel mode.
    data: [u64; 2],
    /// Half instructions of REP strings in user and kernel mode, not yet in `counts`.
    halves: [u64; 2],
    counts: Counts,
    calls: Calls,
    path: Path,
    task: u64,
    epoch: u64,
    fetch_size: Size,
    /// Data accesses that are still warm-up, and those that were.
    warm: u64,
    warmed: u64,
    verified: [(u64, u64); VERIFIED],
    checks: Checks,
    /// Instructions since the first mark.
    total: u64,
}

#[derive(Default)]
struct Checks {
    every: u64,
    walks: u64,
    hits: u64,
    found: output::Found,
}

/// The walker that the models see during one access.
struct Eyes<'a, H> {
    host: &'a mut H,
    checks: &'a mut Checks,
    /// Handle of the data access; none for fetches.
    info: Option<u32>,
    /// Of this access: other machines ask for the same one.
    known: Option<Option<Walk>>,
}

impl<H: Host> Walker for Eyes<'_, H> {
    fn walk(&mut self, va: u64) -> Option<Walk> {
        if let Some(known) = self.known {
            return known;
        }
        let walk = self.host.walk(va);
        self.known = Some(walk);
        let Some(info) = self.info else { return walk };
        let Some(found) = walk else {
            self.checks.found.stale += 1;
            return None;
        };
        self.checks.walks += 1;
        if self.checks.every > 0 && self.checks.walks % self.checks.every == 0 {
            if let Some(theirs) = self.host.translation(info, va) {
                self.checks.found.walks += 1;
                let ours = found.page | va & ((1 << found.size.shift()) - 1);
                if ours != theirs {
                    self.checks.found.mismatch(format!(
                        "the walk of {va:#x} ends at {ours:#x}, QEMU translated it to {theirs:#x}"
                    ));
                }
            }
        }
        walk
    }

    fn stlb_hit(&mut self, va: u64, page: u64, size: Size) {
        let Some(info) = self.info else { return };
        self.checks.hits += 1;
        if self.checks.every > 0 && self.checks.hits % self.checks.every == 0 {
            if let Some(theirs) = self.host.translation(info, va) {
                self.checks.found.hits += 1;
                let ours = page | va & ((1 << size.shift()) - 1);
                if ours != theirs {
                    self.checks.found.mismatch(format!(
                        "the TLB holds {ours:#x} for {va:#x}, QEMU translated it to {theirs:#x}"
                    ));
                }
            }
        }
    }
}

impl<H: Host> Vcpu<H> {
    pub fn new(host: H, shared: Arc<Shared>, index: u32) -> Result<Vcpu<H>, String> {
        let mut cores = Vec::new();
        for (i, machine) in shared.machines.iter().enumerate() {
            let mut core = Core::new(machine, shared.caches.get(i)).map_err(|e| e.to_string())?;
            if shared.options.helper {
                // Without a thread all is as it should be, but slower.
                if let Err(e) = core.help() {
                    eprintln!("fpt-walksim: no second thread: {e}");
                }
            }
            cores.push(core);
        }
        let every = shared.machines.first().map_or(0, |m| m.sim.check_every);
        let mut cores = cores.into_iter();
        let core = cores.next().ok_or("no machine is configured")?;
        Ok(Vcpu {
            host,
            core,
            others: cores.collect(),
            shared,
            index,
            data: [0; 2],
            halves: [0; 2],
            counts: Counts::default(),
            calls: Calls::new(),
            // Until the first task is known: boot, or the idle task of this CPU.
            path: Path::new(Category::Other),
            task: 0,
            epoch: 0,
            fetch_size: Size::Small,
            warm: 0,
            warmed: 0,
            verified: [(NO_LINE, 0); VERIFIED],
            checks: Checks {
                every,
                ..Checks::default()
            },
            total: 0,
        })
    }

    /// The common case of [`Vcpu::data`]; false if this is another.
    #[inline(always)]
    pub fn data_fast(&mut self, va: u64, info: u32, data: usize) -> bool {
        if data & 6 != 0 || !self.others.is_empty() {
            return false;
        }
        if va % LINE > LINE - 16 && va % LINE + self.host.bytes(info) > LINE {
            return false;
        }
        if !self.core.data_fast(va) {
            return false;
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
        let mut eyes = Eyes {
            host: &mut self.host,
            checks: &mut self.checks,
            info,
            known: None,
        };
        self.core.data(va, &mut eyes);
        for core in &mut self.others {
            core.data(va, &mut eyes);
        }
    }

    /// The common case of [`Vcpu::fetch`].
    #[inline(always)]
    pub fn fetch_fast(&mut self, line: &CodeLine) -> bool {
        self.host.slot().fetch_line = line.va / LINE;
        self.others.is_empty() && self.core.fetch_fast(line.va, line.pa, self.fetch_size)
    }

    /// A fetch from another line than the one before.
    pub fn fetch(&mut self, line: &CodeLine) {
        let CodeLine { va, pa } = *line;
        let before = self.fetch_total();
        if is_kernel(va) || pa == u64::MAX || self.is_there(va, pa) {
            let mut eyes = Eyes {
                host: &mut self.host,
                checks: &mut self.checks,
                info: None,
                known: None,
            };
            self.core.fetch(va, &mut eyes);
            for core in &mut self.others {
                core.fetch(va, &mut eyes);
            }
        } else {
            self.core.fetch_physical(pa);
            for core in &mut self.others {
                core.fetch_physical(pa);
            }
        }
        let now = self.core.fetch_size();
        if now != self.fetch_size {
            // Repeats up to here were from a page of the size before; this fetch itself is not among them.
            let simulated = self.core.simulated().1.saturating_sub(1);
            self.repeats(before.saturating_sub(simulated));
            self.fetch_size = now;
        }
    }

    fn repeats(&mut self, n: u64) {
        let size = self.fetch_size;
        self.core.fetch_repeats(n, size);
        for core in &mut self.others {
            core.fetch_repeats(n, size);
        }
    }

    /// Is the code page mapped here where it was when QEMU translated it? QEMU uses the translation of a
    /// physical page wherever it is mapped.
    fn is_there(&mut self, va: u64, pa: u64) -> bool {
        let (v, p) = (va >> 12, pa >> 12);
        let slot = v as usize % VERIFIED;
        if self.verified.get(slot) == Some(&(v, p)) {
            return true;
        }
        let here = self.host.walk(va).is_some_and(|w| {
            let offset = va & ((1 << w.size.shift()) - 1);
            (w.page | offset) >> 12 == p
        });
        if let Some(place) = self.verified.get_mut(slot).filter(|_| here) {
            *place = (v, p);
        }
        here
    }

    pub fn flush(&mut self, what: Flush) {
        self.verified = [(NO_LINE, 0); VERIFIED];
        self.host.slot().fetch_line = NO_LINE;
        self.core.flush(what);
        for core in &mut self.others {
            core.flush(what);
        }
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
        i.kernel += kernel;
        i.kernel_strings_once += low(s.kernel) + s.kernel_strings;
        i.without_data_access += (s.user >> 32) + (s.kernel >> 32);
        let [user_fetches, kernel_fetches] = &mut self.counts.fetches;
        *user_fetches += low(s.user) + s.user_strings + s.user_second;
        *kernel_fetches += low(s.kernel) + s.kernel_strings + s.kernel_second;
        self.total += user + kernel;
        if kernel > 0 {
            let inside_phase = self.epoch & u64::from(u32::MAX) != 0;
            if inside_phase && self.path.outermost().is_none() {
                self.checks.found.lost += kernel;
            }
            let outer = self.path.outermost().unwrap_or(Category::Other);
            let inner = self.path.innermost().unwrap_or(Category::Other);
            kernel::count(&mut i.kernel_by_category, outer, kernel);
            kernel::count(&mut i.kernel_by_innermost_entry, inner, kernel);
        }
        if user + kernel > 0 {
            let task = self.counts.tasks.entry(self.task).or_default();
            task.0 += user;
            task.1 += kernel;
        }
        s.user != 0 || s.user_strings != 0
    }

    fn moved(&mut self) {
        let inside = self.path.in_page_fault();
        self.host.slot().in_page_fault = u64::from(inside);
    }

    pub fn event(&mut self, event: Event) {
        let from_user = self.drain();
        self.catch_up();
        match event {
            Event::Enter(category) => self.path.enter(category, from_user),
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

    /// The current task turns out to be this one.
    pub fn leave_task(&mut self, task: u64) {
        self.drain();
        if self.task == 0 {
            if let Some(n) = self.counts.tasks.remove(&0) {
                self.counts.tasks.insert(task, n);
            }
        }
        self.task = task;
    }

    pub fn take_task(&mut self, task: u64) {
        self.drain();
        let mut tasks = lock(&self.shared.tasks);
        tasks.insert(self.task, std::mem::take(&mut self.path));
        // One that was never seen has been made and not run yet: see `Event::NewTask`.
        let new = || Path::new(Category::Syscall);
        self.path = tasks.remove(&task).unwrap_or_else(new);
        drop(tasks);
        self.path.resume(self.index);
        self.task = task;
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

    /// From here on everything counts anew. What QEMU counted so far has been drained.
    fn reset(&mut self) {
        self.drain();
        self.data = [0; 2];
        self.counts = Counts::default();
        self.calls.reset_counters();
        self.core.reset_counters();
        for core in &mut self.others {
            core.reset_counters();
        }
    }

    /// Hands in the figures of the phase that this CPU is in.
    fn close(&mut self) {
        self.drain();
        let found = std::mem::take(&mut self.checks.found);
        let number = (self.epoch & u64::from(u32::MAX)).checked_sub(1);
        let Some(number) = number else {
            lock(&self.shared.results).found(found);
            return;
        };
        let seen = self.core.simulated().1;
        let total = self.fetch_total();
        self.repeats(total.saturating_sub(seen));
        let [user_data, kernel_data] = self.data;
        let [user_fetch, kernel_fetch] = self.counts.fetches;
        let (data, fetch) = (user_data + kernel_data, user_fetch + kernel_fetch);
        let mut organisations = self.core.report(data, fetch);
        for core in &mut self.others {
            organisations.extend(core.report(data, fetch));
        }
        if self.core.broken() || self.others.iter().any(Core::broken) {
            let what = "internal error of an organisation, see QEMU's output";
            self.shared.error(what.into());
        }
        let phase = Phase {
            warmup_accesses: self.warmed,
            instructions: self.counts.instructions.clone(),
            accesses: fpt_walksim_model::report::Accesses {
                user_data,
                user_fetch,
                kernel_data,
                kernel_fetch,
            },
            untranslated: self.core.untranslated(),
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
    }

    impl Host for Fake {
        fn walk(&mut self, va: u64) -> Option<Walk> {
            let low = va & 0xff_ffff_f000;
            let mut entries = [Entry::default(); MAX_ENTRIES];
            for (i, e) in entries.iter_mut().take(4).enumerate() {
                let level = 4 - i as u8;
                let pa = (u64::from(level) << 40) + (low >> (12 + 9 * (level - 1))) * 8;
                *e = Entry {
                    pa,
                    level,
                    index_bits: 9,
                };
            }
            let page = low + self.shift;
            let walk = Walk {
                va,
                root: 0,
                entries,
                n: 4,
                page,
                size: Size::Small,
                global: false,
            };
            (!self.absent).then_some(walk)
        }
        fn translation(&mut self, _info: u32, va: u64) -> Option<u64> {
            Some((va & 0xff_ffff_ffff) + self.shift + self.lie)
        }
        fn bytes(&self, info: u32) -> u64 {
            u64::from(info)
        }
        fn slot(&mut self) -> &mut Slot {
            &mut self.slot
        }
    }

    fn shared(sets: &[(&str, &str)], vcpus: u32) -> Arc<Shared> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let mut sets: Vec<_> = sets.iter().map(own).collect();
        sets.push(("sim.check_every".into(), "1".into()));
        let config = resolve("emt", None, &sets).unwrap();
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
        // out of the first level, still in the second
        (0..40u64).for_each(|i| access(&mut v, 0x10_0000 + i * 4096 * 16, 8));
        v.host.shift = 0x10_0000;
        access(&mut v, 0x10_0000, 8);
        s.end(b'R');
        v.catch_up();
        assert!(done(&s).errors[0].contains("the TLB holds 0x100000"));
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
        assert_eq!(p.tasks.len(), 2);
        assert_eq!((p.tasks[0].task.as_str(), p.tasks[0].kernel), ("0x100", 16));
    }
}
