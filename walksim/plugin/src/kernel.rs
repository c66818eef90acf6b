// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the kernel runs: the entries that led to where a task is, and the functions of its page faults.

use std::collections::HashMap;

use fpt_walksim_model::report::Categories;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Category {
    PageFault,
    Syscall,
    Timer,
    Interrupt,
    KernelThread,
    Other,
}

pub fn count(by: &mut Categories, category: Category, n: u64) {
    *match category {
        Category::PageFault => &mut by.page_fault,
        Category::Syscall => &mut by.syscall,
        Category::Timer => &mut by.timer,
        Category::Interrupt => &mut by.interrupt,
        Category::KernelThread => &mut by.kernel_thread,
        Category::Other => &mut by.other,
    } += n;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    category: Category,
    /// Where in the tree of calls this entry's page fault is.
    node: u32,
}

/// Nesting beyond this is no nesting of entries.
const MAX_DEPTH: usize = 16;

/// The entries that a task is inside of, outermost first. Empty in user mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    frames: Vec<Frame>,
    /// Whose tree the nodes belong to.
    cpu: u32,
    /// The first frame is where the task began, which no return leaves: a kernel thread, an idle task, or
    /// one whose first return to user mode the next entry will show.
    rooted: bool,
}

impl Path {
    pub fn new(category: Category) -> Path {
        Path {
            frames: vec![Frame { category, node: 0 }],
            cpu: 0,
            rooted: true,
        }
    }

    /// An entry: from user mode, or nested.
    pub fn enter(&mut self, category: Category, from_user: bool) {
        if from_user {
            self.frames.clear();
            self.rooted = false;
        } else if self.frames.len() >= MAX_DEPTH {
            self.frames.truncate(1);
        }
        self.frames.push(Frame { category, node: 0 });
    }

    pub fn leave(&mut self) {
        if !(self.rooted && self.frames.len() == 1) {
            self.frames.pop();
        }
    }

    pub fn outermost(&self) -> Option<Category> {
        self.frames.first().map(|f| f.category)
    }

    pub fn innermost(&self) -> Option<Category> {
        self.frames.last().map(|f| f.category)
    }

    pub fn in_page_fault(&self) -> bool {
        self.innermost() == Some(Category::PageFault)
    }

    /// The task goes on on this CPU.
    pub fn resume(&mut self, cpu: u32) {
        if self.cpu != cpu {
            self.cpu = cpu;
            self.frames.iter_mut().for_each(|f| f.node = 0);
        }
    }

    fn node(&mut self) -> Option<&mut u32> {
        self.frames.last_mut().map(|f| &mut f.node)
    }
}

#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    function: u32,
    /// Instructions, in halves.
    count: u64,
}

/// Most paths of calls that are told apart; further ones count for their caller.
const MAX_NODES: usize = 1 << 18;

/// Functions that page faults execute, by the path of calls. A function that is already on the path is
/// taken to have been returned to.
pub struct Calls {
    nodes: Vec<Node>,
    children: HashMap<(u32, u32), u32>,
}

impl Calls {
    pub fn new() -> Calls {
        Calls {
            nodes: vec![Node {
                parent: 0,
                function: 0,
                count: 0,
            }],
            children: HashMap::new(),
        }
    }

    fn get(&self, node: u32) -> Node {
        let none = Node {
            parent: 0,
            function: 0,
            count: 0,
        };
        self.nodes.get(node as usize).copied().unwrap_or(none)
    }

    fn step(&mut self, from: u32, function: u32) -> u32 {
        let mut node = from;
        while node != 0 {
            let n = self.get(node);
            if n.function == function {
                return node;
            }
            node = n.parent;
        }
        if let Some(child) = self.children.get(&(from, function)) {
            return *child;
        }
        if self.nodes.len() >= MAX_NODES {
            return from;
        }
        let child = self.nodes.len() as u32;
        self.nodes.push(Node {
            parent: from,
            function,
            count: 0,
        });
        self.children.insert((from, function), child);
        child
    }

    /// `halves` half instructions of `function`, in the innermost page fault of `path`.
    #[inline]
    pub fn count(&mut self, path: &mut Path, function: u32, halves: u64) {
        let Some(cursor) = path.node() else { return };
        if *cursor == 0 || self.get(*cursor).function != function {
            *cursor = self.step(*cursor, function);
        }
        if let Some(node) = self.nodes.get_mut(*cursor as usize) {
            node.count += halves;
        }
    }

    /// Instructions by path of functions (outermost first), of paths that have any.
    pub fn paths(&self) -> impl Iterator<Item = (Vec<u32>, u64)> + '_ {
        self.nodes.iter().filter(|n| n.count > 0).map(|n| {
            let mut path = vec![n.function];
            let mut up = n.parent;
            while up != 0 {
                let node = self.get(up);
                path.push(node.function);
                up = node.parent;
            }
            path.reverse();
            (path, n.count)
        })
    }

    pub fn reset_counters(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.count = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_nest() {
        let mut p = Path::default();
        assert_eq!(p.outermost(), None);
        p.enter(Category::Syscall, true);
        p.enter(Category::PageFault, false);
        assert_eq!(p.outermost(), Some(Category::Syscall));
        assert!(p.in_page_fault());
        p.enter(Category::Timer, false);
        assert!(!p.in_page_fault());
        p.leave();
        assert!(p.in_page_fault());
        p.leave();
        assert_eq!(p.innermost(), Some(Category::Syscall));
        // a return that was not seen is made good by the next entry from user mode
        p.enter(Category::Timer, true);
        assert_eq!(p.outermost(), Some(Category::Timer));
        p.leave();
        p.leave();
        assert_eq!(p.innermost(), None);
    }

    #[test]
    fn a_kernel_thread_stays_one() {
        let mut p = Path::new(Category::KernelThread);
        p.enter(Category::Interrupt, false);
        p.leave();
        p.leave();
        assert_eq!(p.outermost(), Some(Category::KernelThread));
        p.enter(Category::Syscall, true);
        p.leave();
        assert_eq!(p.outermost(), None);
    }

    #[test]
    fn paths_of_functions() {
        let mut c = Calls::new();
        let mut p = Path::new(Category::PageFault);
        for (function, n) in [(1, 2), (2, 4), (3, 6), (2, 2), (1, 2), (3, 8)] {
            c.count(&mut p, function, n);
        }
        let mut paths: Vec<_> = c.paths().collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                (vec![1], 4),
                (vec![1, 2], 6),
                (vec![1, 2, 3], 6),
                (vec![1, 3], 8)
            ]
        );
        c.reset_counters();
        assert_eq!(c.paths().count(), 0);
        c.count(&mut Path::default(), 1, 1);
        assert_eq!(c.paths().count(), 0);
    }
}
