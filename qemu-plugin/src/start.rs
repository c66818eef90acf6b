// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a plugin begins and ends.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::panic::{catch_unwind, UnwindSafe};

use crate::raw::{self, RawInfo};
use crate::{AtExit, OnCpu, OnFlush, OnReset, OnTranslation};

/// The version of the interface that is declared here.
pub const VERSION: c_int = 4;

/// What QEMU knows a plugin by.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id(u64);

/// What QEMU says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// Versions of the interface that it has, from and to.
    pub versions: (c_int, c_int),
    /// A whole machine, not a program.
    pub system_emulation: bool,
    /// CPUs there are, and there can be.
    pub cpus: (c_int, c_int),
}

impl Info {
    /// The number of CPUs that there are or can be, of a machine with the walks and flushes of our QEMU.
    ///
    /// # Errors
    ///
    /// It is no machine, another QEMU, or has more than `most` CPUs.
    pub fn machine(&self, most: usize) -> Result<usize, String> {
        if !self.system_emulation {
            return Err("this is user-mode emulation, which has no page tables".into());
        }
        let (from, to) = self.versions;
        if to < VERSION || from > VERSION {
            return Err(format!(
                "this QEMU has plugin interface {from} to {to}, not {VERSION}: use the QEMU of `fpt build-qemu`"
            ));
        }
        let cpus = usize::try_from(self.cpus.1.max(self.cpus.0)).unwrap_or(1);
        let cpus = cpus.max(1);
        if cpus > most {
            return Err(format!("{cpus} CPUs: this plugin knows {most} at most"));
        }
        Ok(cpus)
    }
}

/// Runs a plugin's `install`, says why it failed, and never unwinds into QEMU. For [`plugin!`](crate::plugin).
///
/// # Safety
/// `info` is null or points at a `qemu_info_t`; `argv` holds `argc` C strings.
pub unsafe fn install(
    name: &str,
    info: *const c_void,
    (argc, argv): (c_int, *mut *mut c_char),
    f: impl FnOnce(Option<Info>, &[String]) -> Result<(), String> + UnwindSafe,
) -> c_int {
    let args: Vec<String> = (0..usize::try_from(argc).unwrap_or(0))
        .map(|i| {
            // SAFETY: i < argc; QEMU's strings end with a zero byte.
            let arg = unsafe { CStr::from_ptr(*argv.add(i)) };
            arg.to_string_lossy().into_owned()
        })
        .collect();
    // SAFETY: null, or as QEMU promises.
    let info = unsafe { info.cast::<RawInfo>().as_ref() };
    let info = info.map(|i| Info {
        versions: (i.version_min, i.version_cur),
        system_emulation: i.system_emulation,
        cpus: (i.smp_vcpus, i.max_vcpus),
    });
    match catch_unwind(|| f(info, &args)) {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => {
            eprintln!("{name}: {why}");
            1
        }
        Err(_) => 1,
    }
}

/// Makes a library a plugin: `plugin!("its name", install)`, where `install` is a
/// `fn(Id, Option<Info>, &[String]) -> Result<(), String>`.
#[macro_export]
macro_rules! plugin {
    ($name:literal, $install:path) => {
        /// QEMU reads this symbol to learn which interface the plugin was written for.
        #[no_mangle]
        pub static qemu_plugin_version: std::ffi::c_int = $crate::VERSION;

        /// Called by QEMU when it has loaded the library.
        ///
        /// # Safety
        /// `info` is null or points at a `qemu_info_t`; `argv` holds `argc` C strings. QEMU promises both.
        #[no_mangle]
        pub unsafe extern "C" fn qemu_plugin_install(
            id: $crate::Id,
            info: *const std::ffi::c_void,
            argc: std::ffi::c_int,
            argv: *mut *mut std::ffi::c_char,
        ) -> std::ffi::c_int {
            // SAFETY: as QEMU promises.
            unsafe {
                $crate::install($name, info, (argc, argv), |info, args| {
                    $install(id, info, args)
                })
            }
        }
    };
}

/// Calls back for each block that is translated from now on.
pub fn on_translation(id: Id, cb: OnTranslation) {
    // SAFETY: only QEMU makes ids; the callback lives as long as the library.
    unsafe { raw::qemu_plugin_register_vcpu_tb_trans_cb(id, cb) };
}

/// Calls back when QEMU ends.
pub fn at_exit(id: Id, cb: AtExit) {
    // SAFETY: as above.
    unsafe { raw::qemu_plugin_register_atexit_cb(id, cb, std::ptr::null_mut()) };
}

/// Throws all translations and registrations out; calls back when no CPU runs, so that new ones can
/// be made.
///
/// # Safety
/// Called in a CPU's context.
pub unsafe fn reset(id: Id, cb: OnReset) {
    // SAFETY: as above, and the caller's promise.
    unsafe { raw::qemu_plugin_reset(id, cb) };
}

type RegisterFlushFn = unsafe extern "C" fn(Id, OnFlush);

/// QEMU's callback on invalidations, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct RegisterFlush(RegisterFlushFn);

impl RegisterFlush {
    /// Looks for it.
    pub fn find() -> Option<RegisterFlush> {
        let found = raw::optional(c"qemu_plugin_register_vcpu_tlb_flush_cb")?;
        // SAFETY: the name determines the type.
        Some(RegisterFlush(unsafe {
            std::mem::transmute::<*mut c_void, RegisterFlushFn>(found)
        }))
    }
}

/// Calls back when the guest invalidates.
pub fn on_tlb_flush(id: Id, register: RegisterFlush, cb: OnFlush) {
    // SAFETY: as above.
    unsafe { (register.0)(id, cb) };
}

/// QEMU's callback on all that changes what a TLB may hold, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct RegisterEvents(RegisterFlushFn);

impl RegisterEvents {
    /// Looks for it.
    pub fn find() -> Option<RegisterEvents> {
        let found = raw::optional(c"qemu_plugin_register_vcpu_tlb_event_cb")?;
        // SAFETY: the name determines the type.
        Some(RegisterEvents(unsafe {
            std::mem::transmute::<*mut c_void, RegisterFlushFn>(found)
        }))
    }
}

/// Calls back when the guest invalidates, when the architecture does, and when walks begin elsewhere.
/// Later QEMUs may have more kinds.
pub fn on_tlb_event(id: Id, register: RegisterEvents, cb: OnFlush) {
    // SAFETY: as above.
    unsafe { (register.0)(id, cb) };
}

/// What happens to a CPU as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuEvent {
    /// It begins to exist.
    Exists,
    /// It waits.
    Waits,
    /// It runs again.
    Runs,
}

/// Calls back when this happens to a CPU, in its context.
pub fn on_cpu(id: Id, event: CpuEvent, cb: OnCpu) {
    // SAFETY: as above.
    unsafe {
        match event {
            CpuEvent::Exists => raw::qemu_plugin_register_vcpu_init_cb(id, cb),
            CpuEvent::Waits => raw::qemu_plugin_register_vcpu_idle_cb(id, cb),
            CpuEvent::Runs => raw::qemu_plugin_register_vcpu_resume_cb(id, cb),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_will_do() {
        let good = Info {
            versions: (VERSION - 2, VERSION),
            system_emulation: true,
            cpus: (2, 4),
        };
        assert_eq!(good.machine(8), Ok(4));
        let why = |info: Info| info.machine(8).unwrap_err();
        let user = Info {
            system_emulation: false,
            ..good
        };
        assert!(why(user).contains("user-mode"));
        let old = Info {
            versions: (1, VERSION - 1),
            ..good
        };
        assert!(why(old).contains("build-qemu"));
        let large = Info {
            cpus: (1, 9),
            ..good
        };
        assert!(why(large).contains("9 CPUs"));
    }
}
