// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which task runs, by which entry of the kernel, and what counts for it.

use std::sync::atomic::Ordering;

use super::{lock, Host, Task, Vcpu};
use crate::decode::Return;
use crate::kernel::{self, Category, Path};
use crate::symbols::Event;

impl<H: Host> Vcpu<H> {
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
        if self.attributes {
            let number = lock(&self.shared.attribution).program(&self.task.comm);
            self.stream.program(number);
        }
    }

    /// The task does not run any more, or its figures are wanted.
    pub(super) fn end_stint(&mut self) {
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
}
