// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all virtual CPUs have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fpt_walksim_model::config::Config;
use fpt_walksim_model::core::Shared as SharedCaches;

use crate::args::Options;
use crate::attribution::Attribution;
use crate::kernel::Path;
use crate::output::{self, Results};
use crate::symbols::Symbols;

/// What all virtual CPUs have in common.
pub struct Shared {
    pub options: Options,
    pub machines: Vec<Config>,
    pub symbols: Option<Symbols>,
    pub vcpus: u32,
    pub(super) caches: Vec<SharedCaches>,
    /// Number of the open phase plus one in the low half; the high half changes with each change.
    pub(super) epoch: AtomicU64,
    pub results: Mutex<Results>,
    pub(super) tasks: Mutex<HashMap<u64, Path>>,
    pub attribution: Mutex<Attribution>,
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
        if let Some(m) = machines.iter().find(|m| m.tlb.front != "plain") {
            return Err(format!(
                "tlb.front is '{}', which needs the neighbours of entries, and QEMU does not tell them: use \"plain\" here, or the model alone",
                m.tlb.front
            ));
        }
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
            attribution: Mutex::default(),
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
