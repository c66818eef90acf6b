// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask walk`: which page-table entries the hardware visits for one address of a program, in a
//! mode and in radix side by side. The answer is checked against the guest's own /proc/self/pagemap.

use std::time::Duration;

use fpt_geometry::Level;
use fpt_init::proto::Exec;
use serde::Serialize;

use fpt_geometry::Mode;
use fpt_kbuild::build::Profile;
use fpt_kbuild::modes;
use fpt_kit::say;
use fpt_kit::{code, store, Ctx, ExitCode, Fail, Result};
use fpt_lab::parts::{self, Parts};
use fpt_lab::subject::check_mode;
use fpt_verdict::rundir::{self, RunDir};
use fpt_vm::qemu::Spec;
use fpt_vm::tables;
use fpt_vm::vm::Guest;

const FLAT: u64 = 1 << 52;

/// Show which page-table entries hardware visits for an address.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Modes, separated by commas, each beside radix
    #[arg(long, alias = "modes", value_name = "M[,M...]", value_delimiter = ',', required = true, value_parser = modes::Parser)]
    mode: Vec<Mode>,
    /// An address within a 2 MiB page
    #[arg(long)]
    huge: bool,
    /// User address to map and walk, hexadecimal
    #[arg(long, value_parser = hex)]
    addr: Option<u64>,
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Profile::Fpt)]
    profile: Profile,
    /// More words for the kernel's command line
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
}

fn hex(text: &str) -> Result<u64, String> {
    let value = u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .map_err(|_| "not a hexadecimal number".to_string())?;
    if (1 << 16..1 << 47).contains(&value) {
        Ok(value)
    } else {
        Err("not a user address that can be mapped (0x10000 to 0x7fffffffffff)".into())
    }
}

/// An entry that a walk visited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The level of the entry.
    pub level: Level,
    /// The entry's name: `PML4E`, `PDPTE`, `PDE`, `PTE`.
    pub name: String,
    /// The physical address of the entry.
    pub pa: u64,
    /// What the entry holds.
    pub value: u64,
    /// Width of the index that selected this entry.
    pub bits: u32,
}

/// How a walk ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum End {
    /// A page was found.
    Page {
        /// Where the address is in physical memory.
        pa: u64,
        /// The size of the page in bytes.
        size: u64,
        /// What may be done with it.
        perm: String,
    },
    /// A page fault, with its error code.
    Fault(u64),
    /// No walk was made: what was said.
    Error(String),
}

/// A walk, as hardware makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Walk {
    /// The entries, from the root on.
    pub entries: Vec<Entry>,
    /// How it ended.
    pub end: End,
}

/// The text of the monitor's `info walk`.
pub fn parse(text: &str) -> Result<Walk> {
    let bad = |line: &str| {
        Fail::infra(
            "the monitor's answer is not understood",
            format!("'{line}'"),
            "is this QEMU built from qemu-patches/?",
        )
    };
    let mut entries = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let num = |at: usize| {
            words
                .get(at)
                .and_then(|w| w.strip_prefix("0x"))
                .and_then(|w| u64::from_str_radix(w, 16).ok())
        };
        let dec = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok());
        let end = match words.as_slice() {
            ["entry", _, name, "pa", _, "value", _, "bits", _] => {
                let level = dec(1).and_then(|n| Level::from_number(n as u32));
                let (Some(level), Some(pa), Some(value), Some(bits)) =
                    (level, num(4), num(6), dec(8))
                else {
                    return Err(bad(line));
                };
                entries.push(Entry {
                    level,
                    name: name.to_string(),
                    pa,
                    value,
                    bits: bits as u32,
                });
                continue;
            }
            ["page", "pa", _, "size", _, "perm", perm] => {
                let (Some(pa), Some(size)) = (num(2), dec(4)) else {
                    return Err(bad(line));
                };
                End::Page {
                    pa,
                    size,
                    perm: perm.to_string(),
                }
            }
            ["fault", "error_code", _] => End::Fault(num(2).ok_or_else(|| bad(line))?),
            ["error", ..] => End::Error(line["error".len()..].trim().to_string()),
            _ => return Err(bad(line)),
        };
        return Ok(Walk { entries, end });
    }
    Err(bad(text.trim()))
}

/// What the running program said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Target {
    addr: u64,
    pfn: u64,
}

fn target(line: &str) -> Option<Target> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let num = |key: &str| {
        let at = words.iter().position(|w| *w == key)?;
        u64::from_str_radix(words.get(at + 1)?.strip_prefix("0x")?, 16).ok()
    };
    Some(Target {
        addr: num("addr")?,
        pfn: num("pfn")?,
    })
}

#[derive(Debug, Serialize)]
struct Side {
    mode: Mode,
    target: Target,
    walk: Walk,
}

/// Entries that a walk of the mode visits where every node could be flattened.
pub fn expected(mode: Mode, huge: bool) -> usize {
    mode.visits(if huge { Level::L2 } else { Level::L1 })
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let mut modes = modes::each_once(&args.mode);
    for mode in &modes {
        args.profile.check_mode(*mode)?;
    }
    if !modes.contains(&Mode::Radix) {
        modes.push(Mode::Radix);
    }
    let kernel = parts::kernel(ctx, args.profile)?;
    let qemu = parts::qemu(ctx, false)?;
    let image = parts::image(ctx, |_| Ok(()))?;
    let parts = Parts {
        kernel,
        qemu,
        image,
    };
    let spec = |mode: Mode| spec(&parts, mode, &args.append);
    if ctx.dry_run {
        for mode in modes {
            ctx.ui
                .command(&spec(mode).command(&parts.qemu, &std::env::temp_dir().join("fpt")));
        }
        return Ok(code::OK);
    }
    ctx.ui.info(&tables::all_described(&modes, &args.append));
    let run = RunDir::new(ctx, "walk")?;
    parts.record(&run);
    rundir::recorded(&run, || {
        let stage = ctx.ui.stage(&format!("boot {} guests", modes.len()));
        let mut guests = Vec::new();
        for mode in &modes {
            let name = mode.name();
            guests.push(Guest::start(ctx, &run, &parts.qemu, &spec(*mode), name)?);
        }
        let mut sides = Vec::new();
        for (guest, mode) in guests.iter_mut().zip(modes.iter().copied()) {
            guest.wait_ready(Some(&stage))?;
            check_mode(guest, mode)?;
            let (target, walk) = look(guest, args.addr, args.huge)?;
            sides.push(Side { mode, target, walk });
            guest.quit_clean()?;
        }
        stage.done("");
        let text = serde_json::to_string_pretty(&sides)?;
        store::write_atomic(&run.path.join("walk.json"), text.as_bytes())?;
        say!("", "{}", draw(&sides, screen()));
        let mut bad = 0;
        for side in &sides {
            match check(side, args.huge) {
                Ok(text) => say!("\n", "{}: {text}", side.mode),
                Err(text) => {
                    bad += 1;
                    say!("\n", "{}: WRONG: {text}", side.mode);
                }
            }
        }
        ctx.ui.info(&format!("results: {}", run.path.display()));
        Ok(ExitCode::of_check(bad == 0))
    })
}

fn spec(parts: &Parts, mode: Mode, append: &[String]) -> Spec {
    Spec {
        mode: Some(mode.into()),
        // One CPU: what it runs is the program.
        smp: 1,
        mem: "1G".into(),
        append: append.to_vec(),
        ..parts.spec()
    }
}

/// One mode by itself, for `cargo xtask test`.
pub fn test(ctx: &Ctx, run: &RunDir, parts: &Parts, mode: Mode, huge: bool) -> Result<String> {
    let name = format!("walk-{mode}{}", if huge { "-huge" } else { "" });
    let mut guest = Guest::start(ctx, run, &parts.qemu, &spec(parts, mode, &[]), &name)?;
    guest.wait_ready(None)?;
    check_mode(&mut guest, mode)?;
    let (target, walk) = look(&mut guest, None, huge)?;
    guest.quit_clean()?;
    check(&Side { mode, target, walk }, huge)
        .map_err(|why| Fail::test("the walk is wrong", why, ""))
}

fn look(guest: &mut Guest, addr: Option<u64>, huge: bool) -> Result<(Target, Walk)> {
    let mut argv = vec!["/init".to_string(), "walk-target".into()];
    if huge {
        argv.push("--huge".into());
    }
    if let Some(addr) = addr {
        argv.extend(["--addr".into(), format!("{addr:#x}")]);
    }
    let id = guest.new_id();
    guest.start_exec(Exec {
        id,
        argv,
        ..Exec::default()
    })?;
    let line = guest.wait_line(id, "target ", Duration::from_secs(60))?;
    let target = target(&line)
        .ok_or_else(|| Fail::infra("the program in the guest said something else", line, ""))?;
    // The timer or init may be on the CPU when it is stopped: look again a moment later.
    let mut last = String::new();
    for _ in 0..50 {
        guest.monitor("stop")?;
        let registers = guest.monitor("info registers")?;
        let user = registers.contains("CPL=3");
        let text = if user {
            guest.monitor(&format!("info walk {:#x}", target.addr))?
        } else {
            String::new()
        };
        guest.monitor("cont")?;
        if user {
            let walk = parse(&text)?;
            if matches!(walk.end, End::Page { .. }) {
                return Ok((target, walk));
            }
            last = text;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let why = if last.is_empty() {
        "the CPU was never seen in user mode".into()
    } else {
        last
    };
    Err(Fail::test(
        format!("the hardware finds no page at {:#x}", target.addr),
        why,
        "see walk.json and the console logs",
    ))
}

/// Does hardware's answer agree with the kernel's, and is it as short as the mode promises?
fn check(side: &Side, huge: bool) -> Result<String, String> {
    let End::Page { pa, size, .. } = &side.walk.end else {
        return Err("the walk ends without a page".into());
    };
    let want = if huge { 2 << 20 } else { 4 << 10 };
    if *size != want {
        return Err(format!(
            "a page of {size} bytes where {want} were asked for"
        ));
    }
    let pfn = (pa + (side.target.addr & (size - 1))) >> 12;
    if pfn != side.target.pfn {
        return Err(format!(
            "hardware finds frame {pfn:#x}, /proc/self/pagemap says {:#x}",
            side.target.pfn
        ));
    }
    let visited = side.walk.entries.len();
    let n = expected(side.mode, huge);
    if n != visited {
        return Err(format!(
            "{visited} entries visited where this mode needs {n}: a node was not flattened (no memory, or a policy that keeps it small)"
        ));
    }
    Ok(format!(
        "{visited} entries visited; frame {pfn:#x}, as /proc/self/pagemap says"
    ))
}

fn flags(entry: &Entry) -> String {
    let leaf = entry.level == Level::L1 || entry.value & 1 << 7 != 0;
    let names = [
        (0, "P"),
        (1, "W"),
        (2, "U"),
        (5, "A"),
        (6, if leaf { "D" } else { "" }),
        (7, if entry.level > Level::L1 { "PS" } else { "" }),
        (63, "NX"),
        (52, "FLAT"),
        (54, "SLICE"),
    ];
    let on = names
        .iter()
        .filter(|(bit, name)| !name.is_empty() && entry.value >> bit & 1 == 1);
    on.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

const WIDTH: usize = 44;

fn column(side: &Side) -> Vec<String> {
    let mut out = vec![
        format!("{}: {} entries visited", side.mode, side.walk.entries.len()),
        "─".repeat(WIDTH - 4),
    ];
    for entry in &side.walk.entries {
        let low = entry.level.shift();
        let index = side.target.addr >> low & ((1u64 << entry.bits.min(48)) - 1);
        out.push(format!(
            "{:<6} VA[{}:{}] {:>2} bits = {index:#x}",
            entry.name,
            low + entry.bits - 1,
            low,
            entry.bits
        ));
        out.push(format!("  │ at    {:#018x}", entry.pa));
        out.push(format!("  │ value {:#018x}", entry.value));
        out.push(format!("  │ {}", flags(entry)));
        let to = entry.value & 0x000f_ffff_ffff_f000;
        let leaf =
            entry.level == Level::L1 || (entry.level < Level::L4 && entry.value & 1 << 7 != 0);
        out.push(
            match (leaf, entry.level > Level::L2 && entry.value & FLAT != 0) {
                (true, _) => "  ▼ the page".to_string(),
                (false, true) => format!("  ▼ flattened node, 2 MiB, at {to:#x}"),
                (false, false) => format!("  ▼ table, 4 KiB, at {to:#x}"),
            },
        );
    }
    out.push(match &side.walk.end {
        End::Page { pa, size, perm } => format!("page at {pa:#x}, {} KiB, {perm}", size >> 10),
        End::Fault(code) => format!("page fault, error code {code:#x}"),
        End::Error(text) => format!("error: {text}"),
    });
    out
}

/// Characters of a line of the screen; of a file, those of two columns.
fn screen() -> usize {
    match console::Term::stdout().size_checked() {
        Some((_, columns)) => usize::from(columns),
        None => 2 * WIDTH,
    }
}

/// As many walks beside each other as the screen is wide, the others below.
fn draw(sides: &[Side], screen: usize) -> String {
    let mut out = String::new();
    if let Some(side) = sides.first() {
        out.push_str(&format!("virtual address {:#018x}\n\n", side.target.addr));
    }
    for some in sides.chunks((screen / WIDTH).max(1)) {
        out.push_str(&beside(some));
    }
    out
}

fn beside(sides: &[Side]) -> String {
    let columns: Vec<Vec<String>> = sides.iter().map(column).collect();
    let mut out = String::new();
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let mut line = String::new();
        for column in &columns {
            let text = column.get(row).map_or("", String::as_str);
            line.push_str(text);
            line.push_str(&" ".repeat(WIDTH.saturating_sub(text.chars().count())));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
entry 4 PML4E pa 0x0000000001234120 value 0x0010000012200067 bits 9
entry 2 PDE pa 0x0000000012212340 value 0x0000000002a00067 bits 18
entry 1 PTE pa 0x0000000002a00c48 value 0x8000000012345867 bits 9
page pa 0x0000000012345000 size 4096 perm rw-u
";

    fn side() -> Side {
        Side {
            mode: Mode::L3L2,
            target: Target {
                addr: 0x1234_5678_9000,
                pfn: 0x12345,
            },
            walk: parse(TEXT).unwrap(),
        }
    }

    #[test]
    fn parses_and_checks() {
        let side = side();
        assert_eq!(side.walk.entries.len(), 3);
        assert_eq!(side.walk.entries[1].bits, 18);
        assert!(check(&side, false)
            .unwrap()
            .starts_with("3 entries visited; frame 0x12345"));
        assert!(check(&side, true).is_err());
        let wrong = Side {
            target: Target {
                addr: 0x1234_5678_9000,
                pfn: 0x12346,
            },
            ..side
        };
        assert!(check(&wrong, false).unwrap_err().contains("pagemap"));
    }

    #[test]
    fn a_conventional_walk_in_a_flat_mode_is_wrong() {
        let mut side = side();
        side.walk.entries.insert(1, side.walk.entries[0].clone());
        assert!(check(&side, false)
            .unwrap_err()
            .contains("4 entries visited where this mode needs 3"));
    }

    #[test]
    fn other_ends() {
        assert_eq!(parse("fault error_code 0x9\n").unwrap().end, End::Fault(9));
        assert_eq!(
            parse("error non-canonical address\n").unwrap().end,
            End::Error("non-canonical address".into())
        );
        assert!(parse("unknown command: 'info walk'\n").is_err());
        assert!(parse("").is_err());
        assert!(parse("entry x PML4E pa 0x1 value 0x2 bits 9\n").is_err());
    }

    #[test]
    fn drawing_shows_the_node() {
        let text = draw(&[side()], 80);
        assert!(
            text.contains("flattened node, 2 MiB, at 0x12200000"),
            "{text}"
        );
        assert!(text.contains("VA[38:21] 18 bits"));
    }

    #[test]
    fn a_narrow_screen_has_one_below_the_other() {
        let rows = |screen: usize| draw(&[side(), side()], screen).lines().count();
        assert!(rows(40) > rows(2 * WIDTH) + 3);
        assert_eq!(rows(2 * WIDTH), rows(200));
    }

    #[test]
    fn target_line() {
        assert_eq!(
            target("target addr 0x1000 size 4096 pfn 0x2a"),
            Some(Target {
                addr: 0x1000,
                pfn: 0x2a
            })
        );
        assert_eq!(target("target addr"), None);
    }
}
