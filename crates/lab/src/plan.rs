// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the guests of a check are made and started.

use std::path::Path;

use fpt_geometry::Boot;

use super::parts::{self, Parts};
use super::sanitize::{self, Sanitize, Watched};
use super::subject::Subject;
use fpt_kbuild::build::{self, Kernel, Profile, Targets};
use fpt_kit::{Ctx, Result};
use fpt_verdict::results::Case;
use fpt_verdict::rundir::RunDir;
use fpt_vm::elf;
use fpt_vm::qemu::{self, Program, Spec};

/// Kernel, QEMU and an image with these selftests.
pub fn build_parts(ctx: &Ctx, kernel: Kernel, tests: &Targets) -> Result<Parts> {
    let qemu = parts::qemu(ctx, false)?;
    let tests = match std::env::var_os("FPT_KSELFTESTS") {
        Some(dir) => dir.into(),
        None if std::env::var_os("FPT_INITRD").is_some() => std::path::PathBuf::new(),
        None => build::kselftests(ctx, tests)?,
    };
    let image = parts::image(ctx, |tree| {
        tree.folder("selftests", &tests)?;
        tree.text(
            "bin/fpt-prep",
            0o755,
            include_str!("../../../guest/prep.sh"),
        );
        tree.text(
            "bin/fpt-stress",
            0o755,
            include_str!("../../../guest/stress.sh"),
        );
        tree.text(
            "bin/fpt-fuzz",
            0o755,
            include_str!("../../../guest/fuzz.sh"),
        );
        // Upstream's scripts are written for it; without, their programs are red.
        let bash = Path::new("/bin/bash");
        if bash.exists() {
            tree.program("bin/bash", bash)?;
        }
        // exec/non-regular starts it under another name, which busybox would take for an applet's.
        tree.text("bin/true", 0o755, "#!/bin/sh\nexit 0\n");
        // No program names it, but the C library loads it when a thread is cancelled.
        if let Some(gcc) = elf::find_library(Path::new("libgcc_s.so.1")) {
            tree.file("lib64/libgcc_s.so.1", &gcc)?;
            tree.link("lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/libgcc_s.so.1");
        }
        Ok(())
    })?;
    Ok(Parts {
        kernel,
        qemu,
        image,
    })
}

// clap would take a doc comment for the help of the command that these options are part of.
#[allow(missing_docs)]
#[derive(clap::Args, Debug)]
pub struct GuestOptions {
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    pub profile: Profile,
    /// Virtual CPUs of each guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=qemu::MAX_CPUS))]
    pub smp: u32,
    /// Memory of each guest
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub mem: String,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    pub append: Vec<String>,
    // No doc comment: rustdoc would take the brackets for links.
    #[arg(long, value_name = "tlb", help = sanitize::HELP)]
    pub sanitize: Option<Sanitize>,
}

impl GuestOptions {
    /// The guests that were asked for.
    ///
    /// # Errors
    ///
    /// QEMU does not take the size of the memory, or the sanitizer cannot watch so much.
    pub fn plan(&self, ctx: &Ctx) -> Result<Plan> {
        qemu::check_size(&self.mem)?;
        Ok(Plan {
            smp: self.smp,
            mem: self.mem.clone(),
            append: self.append.clone(),
            sanitize: Watched::new(ctx, self.sanitize.as_ref(), &self.mem)?,
            ..Plan::default()
        })
    }
}

/// What guests of these subjects are made of, and the unpatched kernel where one of them is it.
///
/// # Errors
///
/// A build that failed.
pub fn parts_of(
    ctx: &Ctx,
    profile: Profile,
    subjects: &[Subject],
) -> Result<(Parts, Option<Kernel>)> {
    let unpatched = if subjects.contains(&Subject::Unpatched) {
        Some(parts::unpatched(ctx)?)
    } else {
        None
    };
    // Without a mode nobody needs the image.
    let ours = match unpatched.clone().filter(|_| subjects.len() == 1) {
        Some(kernel) => kernel,
        None => parts::kernel(ctx, profile)?,
    };
    Ok((build_parts(ctx, ours, &Targets::ours())?, unpatched))
}

/// How the guests of a comparison are started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Virtual CPUs of each guest.
    pub smp: u32,
    /// Memory of each guest, as QEMU's `-m` takes it.
    pub mem: String,
    /// More words for the kernels' command lines.
    pub append: Vec<String>,
    /// How often everything runs.
    pub repeat: usize,
    /// Percentage of order-9 allocations that fail.
    pub mixed: Option<u32>,
    /// Watches all guests.
    pub sanitize: Option<Watched>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            smp: 2,
            mem: "4G".into(),
            append: Vec::new(),
            repeat: 1,
            mixed: None,
            sanitize: None,
        }
    }
}

impl Plan {
    /// A guest of this plan in a mode.
    pub fn spec(&self, parts: &Parts, mode: impl Into<Boot>) -> Spec {
        self.spec_of(parts, &parts.kernel, Subject::Ours(mode.into()))
    }

    /// Lets the sanitizer watch a guest, if it is asked for.
    pub fn watch(&self, run: &RunDir, guest: &str, program: &Program, spec: &mut Spec) {
        if let Some(watched) = &self.sanitize {
            watched.attach(&run.path, guest, program, spec);
        }
    }

    /// What the sanitizer found in all guests.
    pub fn sanitizer_cases(&self, run: &RunDir) -> Vec<Case> {
        let watched = self.sanitize.as_ref();
        watched.map_or(Vec::new(), |w| w.cases(&run.path))
    }

    /// A guest of this plan with the kernel of a subject.
    pub fn spec_of(&self, parts: &Parts, kernel: &Kernel, subject: Subject) -> Spec {
        Spec {
            mode: subject.mode(),
            smp: self.smp,
            mem: self.mem.clone(),
            append: self.append.clone(),
            ..Spec::new(&kernel.vmlinux, &parts.image.path)
        }
    }
}
