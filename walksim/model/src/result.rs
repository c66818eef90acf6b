// SPDX-License-Identifier: MIT OR Apache-2.0
//! From counters to figures: sums over cores, cycles, and the laws that the counters must obey.

use crate::config::Config;
use crate::core::FROM_L1D;
use crate::report::{
    Accesses, ByCache, BySize, Caches, Categories, Flushes, HitMiss, Instructions, Organisation,
    Phase, TlbLevel, Tlbs, Untranslated,
};

/// Adds the counts of another core.
pub trait Add {
    /// Adds the counts of another result.
    fn add(&mut self, other: &Self);
}

impl Add for u64 {
    fn add(&mut self, other: &u64) {
        *self += other;
    }
}

macro_rules! add_fields {
    ($($type:ty: $($field:ident)*;)*) => {
        $(impl Add for $type {
            fn add(&mut self, other: &Self) {
                $(self.$field.add(&other.$field);)*
            }
        })*
    };
}

add_fields! {
    Categories: page_fault syscall timer interrupt kernel_thread other;
    Instructions: user kernel kernel_strings_once kernel_by_category kernel_by_innermost_entry without_data_access;
    Accesses: user_data user_fetch kernel_data kernel_fetch;
    Untranslated: data fetch fetch_without_address;
    BySize: small large huge;
    ByCache: l2 llc memory;
    HitMiss: hits misses;
    Flushes: all address_space page;
    TlbLevel: accesses hits misses;
    Tlbs: l1i l1d stlb flushes;
    Caches: l1i l1d l2 llc l2_walk llc_walk data_misses fetch_misses prefetches prefetches_from_memory
        prefetch_reads l2_lookups llc_lookups;
}

impl Add for Organisation {
    fn add(&mut self, other: &Self) {
        self.tlb.add(&other.tlb);
        self.walks += other.walks;
        self.walks_by_page_size.add(&other.walks_by_page_size);
        self.walk_entry_reads += other.walk_entry_reads;
        self.walk_cycles += other.walk_cycles;
        for (name, n) in &other.entry_reads_by_level {
            *self.entry_reads_by_level.entry(name.clone()).or_default() += n;
        }
        self.entry_reads_by_cache.add(&other.entry_reads_by_cache);
        for (name, n) in &other.pwc {
            self.pwc.entry(name.clone()).or_default().add(n);
        }
        self.caches.add(&other.caches);
        for (name, n) in &other.details {
            *self.details.entry(name.clone()).or_default() += n;
        }
    }
}

impl Add for Phase {
    /// Lists of functions and tasks are the caller's.
    fn add(&mut self, other: &Self) {
        self.warmup_accesses += other.warmup_accesses;
        self.instructions.add(&other.instructions);
        self.entries.add(&other.entries);
        self.accesses.add(&other.accesses);
        self.untranslated.add(&other.untranslated);
        if self.organisations.is_empty() {
            self.organisations.clone_from(&other.organisations);
        } else {
            for (mine, theirs) in self.organisations.iter_mut().zip(&other.organisations) {
                mine.add(theirs);
            }
        }
    }
}

/// Computes cycles, latencies and IPC from the counts. `machines` has the parameters of each preset.
pub fn finish(phase: &mut Phase, machines: &[Config]) {
    let accesses = (phase.accesses.data() + phase.accesses.fetch()) as f64;
    let all = (phase.instructions.user + phase.instructions.kernel) as f64;
    let plain = phase.instructions.without_data_access as f64;
    for org in &mut phase.organisations {
        let Some(machine) = machines.iter().find(|m| m.preset == org.preset) else {
            continue;
        };
        let c = &machine.cycles;
        let behind = |by: &ByCache| {
            by.l2 as f64 * c.l2 + by.llc as f64 * c.llc + by.memory as f64 * c.memory
        };
        let first_misses = (org.tlb.l1d.misses.sum() + org.tlb.l1i.misses.sum()) as f64;
        let cycles = &mut org.cycles;
        // An ideal TLB is never missed.
        let second = if org.name == "ideal" {
            0.0
        } else {
            first_misses * c.stlb
        };
        cycles.tlb = accesses * c.tlb + second;
        cycles.walk = org.walk_cycles;
        cycles.data = (org.caches.l1d.hits as f64 * c.l1 + behind(&org.caches.data_misses))
            / c.data_parallelism;
        cycles.instruction = plain * c.instruction;
        if c.charge_fetch {
            cycles.instruction += behind(&org.caches.fetch_misses);
        }
        cycles.total = cycles.tlb + cycles.walk + cycles.data + cycles.instruction;
        org.walk_latency = ratio(org.walk_cycles, org.walks as f64);
        org.ipc = ratio(all, cycles.total);
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 {
        a / b
    } else {
        0.0
    }
}

/// The first law that a phase breaks. The two sides of each are counted at different places: what is computed here or
/// in a core from the same number is no law.
pub fn conservation(phase: &Phase) -> Result<(), String> {
    let name = &phase.name;
    let law = |what: &str, left: u64, right: u64| {
        if left == right {
            Ok(())
        } else {
            Err(format!("{name}: {what}: {left} is not {right}"))
        }
    };
    let i = &phase.instructions;
    law(
        "kernel instructions by category",
        i.kernel_by_category.sum(),
        i.kernel,
    )?;
    law(
        "kernel instructions by innermost entry",
        i.kernel_by_innermost_entry.sum(),
        i.kernel,
    )?;
    for org in &phase.organisations {
        let name = format!("{} on {}", org.name, org.preset);
        let law = |what: &str, left: u64, right: u64| law(&format!("{name}: {what}"), left, right);
        let (data, fetch) = (phase.accesses.data(), phase.accesses.fetch());
        let u = &phase.untranslated;
        let t = &org.tlb;
        for (level, l) in [("L1D", &t.l1d), ("L1I", &t.l1i), ("second-level", &t.stlb)] {
            law(
                &format!("{level} TLB hits + misses"),
                l.hits.sum() + l.misses.sum(),
                l.accesses,
            )?;
        }
        law(
            "second-level TLB accesses",
            t.stlb.accesses,
            t.l1d.misses.sum() + t.l1i.misses.sum(),
        )?;
        if org.name != "ideal" {
            law("walks", org.walks, t.stlb.misses.sum())?;
            let (by, missed) = (&org.walks_by_page_size, &t.stlb.misses);
            law("walks of 4 KiB pages", by.small, missed.small)?;
            law("walks of 2 MiB pages", by.large, missed.large)?;
            law("walks of 1 GiB pages", by.huge, missed.huge)?;
        }
        // From the lowest level up, each is asked for what the one before does not have.
        if matches!(org.name.as_str(), "real" | "radix") {
            let mut asked = org.walks;
            for name in ["pd", "pdpt", "pml4"] {
                if let Some(level) = org.pwc.get(name) {
                    law(
                        &format!("page-walk cache {name} hits + misses"),
                        level.hits + level.misses,
                        asked,
                    )?;
                    asked = level.misses;
                }
            }
        }
        let c = &org.caches;
        let sum = |h: &HitMiss| h.hits + h.misses;
        law("L1D accesses", sum(&c.l1d) + u.data, data)?;
        law("L1I accesses", sum(&c.l1i) + u.fetch_without_address, fetch)?;
        law("L1D misses", c.data_misses.sum(), c.l1d.misses)?;
        law("L1I misses", c.fetch_misses.sum(), c.l1i.misses)?;
        let in_l1d = org.details.get(FROM_L1D).copied().unwrap_or(0);
        law("prefetches", c.prefetch_reads.sum(), c.prefetches)?;
        law(
            "entry reads by level",
            org.entry_reads_by_level.values().sum(),
            org.walk_entry_reads,
        )?;
        law(
            "entry reads by cache",
            org.entry_reads_by_cache.sum() + in_l1d,
            org.walk_entry_reads,
        )?;
        law(
            "L2 lookups",
            c.l2_lookups,
            c.l1d.misses + c.l1i.misses + c.prefetches + org.walk_entry_reads - in_l1d,
        )?;
        let beyond = |by: &ByCache| by.llc + by.memory;
        law(
            "LLC lookups",
            c.llc_lookups,
            beyond(&c.data_misses)
                + beyond(&c.fetch_misses)
                + beyond(&c.prefetch_reads)
                + beyond(&org.entry_reads_by_cache),
        )?;
    }
    Ok(())
}
