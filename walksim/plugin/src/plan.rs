// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to do at which instruction of a translated block. Pure: the glue to QEMU only carries it out.

use fpt_walksim_model::addr::VirtAddr;
use fpt_walksim_model::config::LINE;
use fpt_walksim_model::walk::is_kernel;

use crate::decode::{self, Factory, Mark, Rep, Return};
use crate::symbols::{Event, Symbols};

/// Counters that QEMU itself adds to, per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Low half: instructions but REP strings. High half: those without data access.
    Packed { kernel: bool },
    /// REP string instructions.
    Strings { kernel: bool },
    /// Fetches of the second line of an instruction.
    Second { kernel: bool },
}

/// In the order in which they are to happen at an instruction; accesses come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Event(Event),
    /// Fetch from the line of this address, unless the last fetch was from it. An instruction that crosses
    /// a line has a second one.
    Fetch {
        va: u64,
        second: bool,
    },
    Add(Counter, u64),
    /// If in a page fault: this many instructions of a function.
    Function {
        function: u32,
        n: u32,
    },
    /// A phase border.
    Mark(Mark),
    Return(Return),
    /// Each data access: `loads` and `stores` are half instructions per access of a REP string.
    Access {
        kernel: bool,
        loads: u8,
        stores: u8,
        function: u32,
    },
    /// The access is to the field of the previous task in which its stack is kept.
    LeaveTask,
    /// The access is to that field of the next task.
    TakeTask,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Where the kernel is entered and left, and marks: before the first mark.
    Entries,
    Everything,
}

pub struct Insn<'a> {
    pub va: u64,
    pub bytes: &'a [u8],
}

/// Actions by index of the instruction, ascending.
pub fn plan(
    block: &[Insn<'_>],
    symbols: Option<&Symbols>,
    depth: Depth,
    factory: &mut Factory,
    out: &mut Vec<(usize, Action)>,
) {
    out.clear();
    let mut line = None;
    // The run of instructions that are counted at its first one.
    let mut run: Option<Run> = None;
    for (i, insn) in block.iter().enumerate() {
        let kernel = is_kernel(VirtAddr::new(insn.va));
        let facts = factory.facts(insn.bytes);
        let symbols = symbols.filter(|_| kernel);
        let event = symbols.and_then(|s| s.event(insn.va));
        if let Some(event) = event {
            end(&mut run, out);
            out.push((i, Action::Event(event)));
        }
        let mark = if kernel {
            None
        } else {
            decode::mark(insn.bytes)
        };
        if depth == Depth::Everything {
            if mark.is_some() {
                end(&mut run, out);
            }
            let first = insn.va / LINE;
            let last = insn.va.wrapping_add(insn.bytes.len().max(1) as u64 - 1) / LINE;
            if line != Some(first) {
                out.push((
                    i,
                    Action::Fetch {
                        va: insn.va,
                        second: false,
                    },
                ));
            }
            line = Some(last);
            let function = symbols.map_or(0, |s| s.function(insn.va));
            if let Some(rep) = facts.rep {
                end(&mut run, out);
                out.push((i, Action::Add(Counter::Strings { kernel }, 1)));
                let (loads, stores) = match rep {
                    Rep::Stores => (0, 2),
                    Rep::Loads => (2, 0),
                    Rep::LoadPairs => (1, 0),
                };
                out.push((
                    i,
                    Action::Access {
                        kernel,
                        loads,
                        stores,
                        function,
                    },
                ));
            } else {
                // Functions change by calls and jumps only, which end a block; but one may follow another.
                if run.as_ref().is_some_and(|r| r.function != function) {
                    end(&mut run, out);
                }
                let r = run.get_or_insert(Run {
                    at: i,
                    kernel,
                    n: 0,
                    silent: 0,
                    function,
                });
                r.n += 1;
                r.silent += u64::from(!facts.accesses);
                if !facts.plain || mark.is_some() {
                    end(&mut run, out);
                }
                out.push((
                    i,
                    Action::Access {
                        kernel,
                        loads: 0,
                        stores: 0,
                        function,
                    },
                ));
            }
            if last != first {
                out.push((i, Action::Add(Counter::Second { kernel }, 1)));
                out.push((
                    i,
                    Action::Fetch {
                        va: last * LINE,
                        second: true,
                    },
                ));
            }
        }
        if let Some(mark) = mark {
            out.push((i, Action::Mark(mark)));
        }
        if let Some(s) = symbols {
            if let Some(r) = facts.returns.filter(|_| s.is_entry_text(insn.va)) {
                end(&mut run, out);
                out.push((i, Action::Return(r)));
            }
            if s.is_switch(insn.va) {
                if decode::leaves_stack(insn.bytes) {
                    out.push((i, Action::LeaveTask));
                } else if decode::takes_stack(insn.bytes) {
                    out.push((i, Action::TakeTask));
                }
            }
        }
    }
    end(&mut run, out);
    // A run is put in at its end, but belongs to its first instruction.
    out.sort_by_key(|(i, action)| (*i, rank(action)));
}

struct Run {
    at: usize,
    kernel: bool,
    n: u64,
    silent: u64,
    function: u32,
}

fn end(run: &mut Option<Run>, out: &mut Vec<(usize, Action)>) {
    let Some(r) = run.take() else { return };
    let packed = Counter::Packed { kernel: r.kernel };
    out.push((r.at, Action::Add(packed, r.n | r.silent << 32)));
    if r.kernel {
        out.push((
            r.at,
            Action::Function {
                function: r.function,
                n: r.n as u32,
            },
        ));
    }
}

/// Order at one instruction: what it belongs to, its fetch, its count, what it does.
fn rank(action: &Action) -> u8 {
    match action {
        Action::Event(_) => 0,
        Action::Fetch { second: false, .. } => 1,
        Action::Add(Counter::Packed { .. } | Counter::Strings { .. }, _) => 2,
        Action::Function { .. } => 3,
        Action::Add(Counter::Second { .. }, _) => 4,
        Action::Fetch { .. } => 5,
        Action::Mark(_) | Action::Return(_) => 6,
        Action::Access { .. } => 7,
        Action::LeaveTask | Action::TakeTask => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(block: &[(u64, &[u8])], depth: Depth) -> Vec<(usize, Action)> {
        let insns: Vec<Insn<'_>> = block
            .iter()
            .map(|(va, bytes)| Insn { va: *va, bytes })
            .collect();
        let mut out = Vec::new();
        plan(&insns, None, depth, &mut Factory::new(), &mut out);
        out
    }

    const ADD: &[u8] = &[0x48, 0x01, 0xd8];
    const LOAD: &[u8] = &[0x48, 0x8b, 0x07];

    #[test]
    fn runs_are_counted_at_their_start() {
        let all = actions(
            &[
                (0x1000, ADD),
                (0x1003, LOAD),
                (0x1006, ADD),
                (0x1009, ADD),
                (0x100c, &[0xc3]),
            ],
            Depth::Everything,
        );
        let adds: Vec<_> = all
            .iter()
            .filter(|(_, a)| matches!(a, Action::Add(..)))
            .collect();
        let packed =
            |n: u64, silent: u64| Action::Add(Counter::Packed { kernel: false }, n | silent << 32);
        assert_eq!(adds, [&(0, packed(2, 1)), &(2, packed(3, 2))]);
        let fetches = all
            .iter()
            .filter(|(_, a)| matches!(a, Action::Fetch { .. }))
            .count();
        assert_eq!(fetches, 1);
        let accesses = all
            .iter()
            .filter(|(_, a)| matches!(a, Action::Access { .. }))
            .count();
        assert_eq!(accesses, 5);
    }

    #[test]
    fn lines() {
        // the second instruction crosses a line
        let all = actions(
            &[(0x103b, ADD), (0x103e, LOAD), (0x1041, ADD)],
            Depth::Everything,
        );
        let fetches: Vec<_> = all
            .iter()
            .filter(|(_, a)| {
                matches!(
                    a,
                    Action::Fetch { .. } | Action::Add(Counter::Second { .. }, _)
                )
            })
            .copied()
            .collect();
        assert_eq!(
            fetches,
            [
                (
                    0,
                    Action::Fetch {
                        va: 0x103b,
                        second: false
                    }
                ),
                (1, Action::Add(Counter::Second { kernel: false }, 1)),
                (
                    1,
                    Action::Fetch {
                        va: 0x1040,
                        second: true
                    }
                ),
            ]
        );
    }

    #[test]
    fn strings_and_marks() {
        let all = actions(
            &[
                (0x1000, ADD),
                (0x1003, &[0xf3, 0x48, 0xab]),
                (0x1006, &[0x0f, 0x1f, 0x80, 0x52, 0xb1, 0x50, 0x46]),
                (0x100d, ADD),
            ],
            Depth::Everything,
        );
        assert!(all.contains(&(1, Action::Add(Counter::Strings { kernel: false }, 1))));
        assert!(all.contains(&(
            1,
            Action::Access {
                kernel: false,
                loads: 0,
                stores: 2,
                function: 0
            }
        )));
        let mark = all
            .iter()
            .position(|a| *a == (2, Action::Mark(Mark::Begin(0x52))))
            .unwrap();
        // the mark itself is counted before it acts, what follows afterwards
        let packed = |i: usize| {
            all.iter()
                .position(|(j, a)| *j == i && matches!(a, Action::Add(Counter::Packed { .. }, _)))
        };
        assert!(packed(2).unwrap() < mark && packed(3).unwrap() > mark);
    }

    #[test]
    fn before_the_first_mark_only_marks() {
        let all = actions(
            &[
                (0x1000, LOAD),
                (0x1006, &[0x0f, 0x1f, 0x80, 0x4c, 0xb1, 0x50, 0x46]),
            ],
            Depth::Entries,
        );
        assert_eq!(all, [(1, Action::Mark(Mark::Begin(0x4c)))]);
    }
}
