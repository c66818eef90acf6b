// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who asked for each flush, and what it ended: the calls on the kernel's stack when a CPU invalidates, or, where
//! another CPU sent it an interrupt to do so, on that one's.

use std::collections::HashMap;

use fpt_tlbsan_model::Ended;
use serde_json::{json, Value};

use crate::symbols::Symbols;

/// So many words of a stack are looked through,
pub const WORDS: usize = 256;
/// and so many functions named.
const DEEP: usize = 10;
/// How far the caller of a function may be from it before another one is taken for it: a function that jumps to
/// its last callee leaves no trace.
const NEAR: usize = 48;
/// Different stacks at most.
const ROWS: usize = 20_000;
/// A CPU that is in here does what another one asked for.
const REMOTE: &str = "__flush_smp_call_function_queue";

/// What an invalidation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// One page, and by `psc=intel` all upper entries.
    Page,
    /// The root that is loaded already, again.
    Reload,
    /// A bit of CR4.
    Everything,
    /// Another root: a switch, which has to be.
    Switch,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Page => "INVLPG",
            What::Reload => "CR3 again",
            What::Everything => "CR4",
            What::Switch => "another CR3",
        }
    }
}

/// What the bytes before an address are, if they are a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Direct(u64),
    Indirect,
}

/// The seven bytes before `at`.
fn call_before(code: &[u8; 7], at: u64) -> Option<Call> {
    let [b0, b1, b2, b3, b4, b5, b6] = *code;
    // FF /2: the register field of the byte behind it says that it is a call.
    let indirect = |opcode: u8, modrm: u8, modes: &[u8]| {
        opcode == 0xff && modrm >> 3 & 7 == 2 && modes.contains(&(modrm >> 6))
    };
    if b2 == 0xe8 {
        let distance = i32::from_le_bytes([b3, b4, b5, b6]);
        return Some(Call::Direct(at.wrapping_add_signed(distance.into())));
    }
    let found = indirect(b5, b6, &[0, 3])
        || indirect(b4, b5, &[1])
        || indirect(b1, b2, &[0, 2])
        || indirect(b0, b1, &[2]);
    found.then_some(Call::Indirect)
}

/// The functions that are being executed, innermost first, as far as the words of a stack tell. `code` reads the
/// seven bytes before an address.
pub fn callers(
    pc: u64,
    words: &[u64],
    symbols: &Symbols,
    mut code: impl FnMut(u64) -> Option<[u8; 7]>,
) -> Vec<u64> {
    let mut inner = symbols.start(pc);
    let mut chain: Vec<u64> = inner.into_iter().collect();
    let mut rest = words;
    while chain.len() < DEEP {
        let mut loose = None;
        let mut found = None;
        for (n, word) in rest.iter().enumerate() {
            if n == NEAR && loose.is_some() {
                break;
            }
            let Some(start) = symbols.start(*word) else {
                continue;
            };
            let call = code(*word).and_then(|c| call_before(&c, *word));
            let exact = match call {
                Some(Call::Direct(to)) => inner == Some(to) || symbols.is_thunk(to),
                Some(Call::Indirect) => true,
                None => continue,
            };
            if exact {
                found = Some((n, start));
                break;
            }
            loose = loose.or(Some((n, start)));
        }
        let Some((n, start)) = found.or(loose) else {
            break;
        };
        chain.push(start);
        inner = Some(start);
        rest = rest.get(n + 1..).unwrap_or(&[]);
    }
    chain
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: u64,
    idle: u64,
    leaves: u64,
    tables: u64,
}

/// All flushes of a run, by who asked.
#[derive(Default)]
pub struct Askers {
    /// The stack of each CPU at its last flush.
    own: Vec<Vec<u64>>,
    /// Who sent an interrupt last: the CPU, and its stack.
    sent: Vec<(u32, Vec<u64>)>,
    rows: HashMap<(What, bool, Vec<u64>), Row>,
    /// Flushes beyond [`ROWS`] stacks.
    lost: u64,
}

impl Askers {
    /// A CPU is about to invalidate.
    pub fn flushing(&mut self, cpu: u32, stack: Vec<u64>) {
        let n = cpu as usize;
        if self.own.len() <= n {
            self.own.resize(n + 1, Vec::new());
        }
        if let Some(own) = self.own.get_mut(n) {
            *own = stack;
        }
    }

    /// A CPU is about to send others an interrupt, and waits until they have done what it asks for.
    pub fn asking(&mut self, cpu: u32, stack: Vec<u64>) {
        self.sent.retain(|s| s.0 != cpu);
        self.sent.push((cpu, stack));
    }

    /// A CPU has invalidated.
    pub fn ended(&mut self, cpu: u32, what: What, ended: Ended, symbols: &Symbols) {
        let own = self.own.get_mut(cpu as usize).map(std::mem::take);
        let own = own.unwrap_or_default();
        let remote = own.iter().any(|at| symbols.is(*at, REMOTE));
        let sent = self.sent.iter().rev().find(|s| s.0 != cpu && remote);
        let key = (what, remote, sent.map_or(own, |s| s.1.clone()));
        if self.rows.len() >= ROWS && !self.rows.contains_key(&key) {
            self.lost += 1;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.count += 1;
        row.idle += u64::from(ended == Ended::default());
        row.leaves += ended.leaves;
        row.tables += ended.tables;
    }

    /// Those that ended nothing most often come first.
    pub fn json(&self, symbols: &Symbols) -> Value {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|a, b| (b.1.idle, b.1.count, a.0).cmp(&(a.1.idle, a.1.count, b.0)));
        let rows = rows.into_iter().map(|((what, remote, stack), row)| {
            let names = stack.iter().map(|at| symbols.function(*at));
            json!({
                "what": what.name(),
                "remote": remote,
                "stack": names.collect::<Vec<_>>(),
                "count": row.count,
                "idle": row.idle,
                "leaves": row.leaves,
                "tables": row.tables,
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "lost": self.lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_vmlinux::Symbol;

    const K: u64 = 0xffff_ffff_8100_0000;

    fn symbols() -> Symbols {
        let names = [
            (0, "_stext"),
            (0, "_first"),
            (0x10, "inner"),
            (0x100, "middle"),
            (0x200, "outer"),
            (0x300, "__x86_indirect_thunk_rax"),
            (0x400, REMOTE),
            (0x500, "_etext"),
        ];
        // The end has another name, too.
        let names = names.into_iter().chain([(0x500, "__end")]);
        let mut code: Vec<Symbol<'_>> = names
            .map(|(at, name)| Symbol {
                address: K + at,
                size: 0,
                name,
            })
            .collect();
        code.sort_unstable();
        Symbols::of(&code)
    }

    fn direct(at: u64, to: u64) -> [u8; 7] {
        let d = (to.wrapping_sub(at) as i32).to_le_bytes();
        [0x90, 0x90, 0xe8, d[0], d[1], d[2], d[3]]
    }

    #[test]
    fn calls() {
        let of = |code: [u8; 7]| call_before(&code, K);
        assert_eq!(of(direct(K, K + 0x10)), Some(Call::Direct(K + 0x10)));
        // call *%rax; call *8(%rax); call *0x10(%rip); call *disp32(%rax,%rbx,8)
        for code in [
            [0, 0, 0, 0, 0, 0xff, 0xd0],
            [0, 0, 0, 0, 0xff, 0x50, 8],
            [0, 0xff, 0x15, 0x10, 0, 0, 0],
            [0xff, 0x94, 0xd8, 0, 1, 0, 0],
        ] {
            assert_eq!(of(code), Some(Call::Indirect), "{code:x?}");
        }
        // jmp *%rax; push (%rax); nothing
        for code in [
            [0, 0, 0, 0, 0, 0xff, 0xe0],
            [0, 0, 0, 0, 0, 0xff, 0x30],
            [0x90; 7],
        ] {
            assert_eq!(of(code), None, "{code:x?}");
        }
    }

    #[test]
    fn stacks() {
        let symbols = symbols();
        let (a, b, c, stale) = (K + 0x120, K + 0x220, K + 0x230, K + 0x240);
        let code = |at: u64| {
            Some(match at {
                _ if at == a => direct(at, K + 0x10),
                _ if at == b => direct(at, K + 0x100),
                // By a thunk, or to a function that is not on the way.
                _ if at == c => direct(at, K + 0x300),
                _ if at == stale => direct(at, K + 0x200),
                _ => return None,
            })
        };
        let of = |words: &[u64]| callers(K + 0x18, words, &symbols, code);
        let all = vec![K + 0x10, K + 0x100, K + 0x200];
        assert_eq!(of(&[1, a, K + 0x104, 7, b]), all);
        // What an earlier call left there
        assert_eq!(of(&[stale, a, stale, b]), all);
        assert_eq!(of(&[c]), [K + 0x10, K + 0x200]);
        // The one that called `inner` jumped there.
        assert_eq!(of(&[b]), [K + 0x10, K + 0x200]);
        assert_eq!(of(&[K + 0x104, 0, 0x500]), [K + 0x10]);
    }

    #[test]
    fn who_asked() {
        let symbols = symbols();
        let mut askers = Askers::default();
        let nothing = Ended::default();
        let some = Ended {
            leaves: 2,
            tables: 1,
        };
        askers.flushing(0, vec![K + 0x10, K + 0x100]);
        askers.ended(0, What::Page, nothing, &symbols);
        askers.flushing(0, vec![K + 0x10, K + 0x100]);
        askers.ended(0, What::Page, some, &symbols);
        askers.asking(0, vec![K + 0x200]);
        askers.flushing(1, vec![K + 0x10, K + 0x400]);
        askers.ended(1, What::Reload, nothing, &symbols);
        let value = askers.json(&symbols);
        let rows = value["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["stack"], json!(["inner", "middle"]));
        assert_eq!(rows[0]["count"], 2);
        assert_eq!(
            (&rows[0]["idle"], &rows[0]["leaves"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(rows[1]["stack"], json!(["outer"]));
        assert_eq!(rows[1]["remote"], true);
        assert_eq!(rows[1]["what"], "CR3 again");
    }
}
