// SPDX-License-Identifier: GPL-2.0

//! The differential test: random page tables in the memory of a stopped QEMU, and its `info walk`
//! compared, text for text, with the core's [`hw_walk`].
//!
//! Guest memory is a file that QEMU maps shared, so tables are written without its help. The
//! virtual CPU never runs. Monitor commands go through the gdb stub (`qRcmd`): the monitors proper
//! read their input byte by byte, with two system calls for each. One *table* is a random tree with its CR3 and CR4; from a seed the
//! n-th table is always the same.

use fpt_core::addr::{PhysAddr, VirtAddr};
use fpt_core::entry::{
    ACCESSED, ADDR_MASK, CR3_FLAT, CR4_FPTE, DIRTY, FLAT, NX, PRESENT, PSE, RW, USER,
};
use fpt_core::geometry::Level;
use fpt_core::walk::{hw_walk, Cfg, HwWalk, Outcome, PhysMem};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Guest memory in bytes. One linear range from 0 in a q35 machine of this size.
pub const RAM_BYTES: u64 = 256 << 20;
/// Tables lie above this address: below there are ROMs and holes.
pub const TABLES_FROM: u64 = 16 << 20;
const CR4_PAE: u64 = 1 << 5;

/// A random page table.
pub struct Table {
    /// CR3 to walk from.
    pub cr3: u64,
    /// CR4 to walk with: PAE, and FPTE or not.
    pub cr4: u64,
    /// What the walk depends on.
    pub cfg: Cfg,
    /// Every word that is not zero.
    pub words: BTreeMap<u64, u64>,
    /// Addresses to ask for.
    pub queries: Vec<u64>,
}

impl PhysMem for Table {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        let pa = pa.as_u64();
        (TABLES_FROM..RAM_BYTES)
            .contains(&pa)
            .then(|| self.words.get(&pa).copied().unwrap_or(0))
    }
}

fn random_node(rng: &mut ChaCha8Rng) -> u64 {
    rng.random_range(TABLES_FROM >> 21..RAM_BYTES >> 21) << 21
}

fn random_page(rng: &mut ChaCha8Rng) -> u64 {
    // Often in few pages: tables that overlap nodes, and tables that are their own children.
    if rng.random_ratio(1, 8) {
        random_node(rng) | rng.random_range(0..8) << 12
    } else {
        rng.random_range(TABLES_FROM >> 12..RAM_BYTES >> 12) << 12
    }
}

fn random_index(rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..4) {
        0 => rng.random_range(0..3),
        1 => rng.random_range(509..512),
        _ => rng.random_range(0..512),
    }
}

fn random_va(rng: &mut ChaCha8Rng) -> u64 {
    let mut va = 0;
    for _ in 0..4 {
        va = va << 9 | random_index(rng);
    }
    VirtAddr::new(va << 12 | rng.random_range(0..4096))
        .canonicalised()
        .as_u64()
}

/// An entry for a slot of `level`.
fn random_entry(rng: &mut ChaCha8Rng, level: Level, cfg: &Cfg) -> u64 {
    let mut flags = PRESENT;
    for (bit, ratio) in [(RW, 3), (USER, 3), (ACCESSED, 2), (DIRTY, 2)] {
        if rng.random_ratio(ratio, 4) {
            flags |= bit;
        }
    }
    if rng.random_ratio(1, 5) {
        flags |= NX;
    }
    if rng.random_ratio(1, 4) {
        // Cache bits, global, software bits 9..11, 53..58 and protection keys: all ignored.
        flags |= rng.random::<u64>() & 0x7fe0_0000_0000_0f18;
    }
    let leaf_addr = |rng: &mut ChaCha8Rng, shift: u32| {
        rng.random_range(0..1u64 << (cfg.phys_bits - shift)) << shift
    };
    if level == Level::L1 {
        if rng.random_ratio(1, 12) {
            return rng.random::<u64>() & !PRESENT;
        }
        let rsvd = if rng.random_ratio(1, 16) {
            1 << rng.random_range(cfg.phys_bits..52)
        } else {
            0
        };
        let ignored = rng.random::<u64>() & (FLAT | PSE);
        return leaf_addr(rng, 12) | flags | ignored | rsvd;
    }
    let upper = matches!(level, Level::L4 | Level::L3);
    match rng.random_range(0..100) {
        // Absent, whatever the other bits.
        0..6 => rng.random::<u64>() & !PRESENT & !1,
        // A flattened node; in level 2 the bit means nothing and the address is a table's.
        6..46 if upper => random_node(rng) | flags | FLAT,
        // A misaligned one.
        46..52 if upper => random_node(rng) | 1 << rng.random_range(12..21) | flags | FLAT,
        // A reserved address bit.
        52..56 => random_page(rng) | 1 << rng.random_range(cfg.phys_bits..52) | flags,
        // Large leaves, some misaligned; in level 4 the bit is reserved.
        56..72 => {
            let shift = level.shift().min(30);
            let mut addr = leaf_addr(rng, shift);
            if rng.random_ratio(1, 3) {
                addr |= 1 << 12;
            }
            if rng.random_ratio(1, 8) {
                addr |= 1 << rng.random_range(13..shift);
            }
            addr | flags | PSE | rng.random::<u64>() & FLAT
        }
        _ => {
            let software = if upper { 0 } else { rng.random::<u64>() & FLAT };
            random_page(rng) | flags | software
        }
    }
}

impl Table {
    /// Table number `number` of `seed`.
    pub fn random(seed: u64, number: u64, phys_bits: u32) -> Table {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let rng = &mut rng;
        let fpte = rng.random_ratio(7, 8);
        let cfg = Cfg {
            fpte,
            nxe: true,
            phys_bits,
        };
        let root = if rng.random_ratio(1, 2) {
            // The second half of a block, usually its first page.
            let page = if rng.random_ratio(3, 4) {
                256
            } else {
                rng.random_range(256..512)
            };
            random_node(rng) | page << 12
        } else {
            random_page(rng)
        };
        // A root in the first half of a block must not be flat; ask for it once in a while.
        let flat = if fpte && root & (1 << 20) != 0 {
            rng.random_ratio(9, 10)
        } else {
            rng.random_ratio(1, 50)
        };
        let low = if rng.random_ratio(1, 4) {
            rng.random_range(0..4096)
        } else {
            0
        };
        let mut table = Table {
            cr3: root | low | if flat { CR3_FLAT } else { 0 },
            cr4: CR4_PAE | if fpte { CR4_FPTE } else { 0 },
            cfg,
            words: BTreeMap::new(),
            queries: Vec::new(),
        };
        let mut targets: Vec<u64> = (0..16).map(|_| random_va(rng)).collect();
        for i in 0..16 {
            // Another page of the same table, or of the next slice.
            let near = targets[i] ^ (rng.random_range(1..1 << 11) << 12);
            targets.push(near);
        }
        for va in &targets {
            // Fill in the entry at which the walk stops, until it gets somewhere.
            for _ in 0..5 {
                let walk = table.walk(*va);
                match (walk.outcome, walk.steps().last()) {
                    (Outcome::Fault { error_code: 0 }, Some(last)) if last.value.as_u64() == 0 => {
                        let entry = random_entry(rng, last.level, &cfg);
                        table.words.insert(last.pa.as_u64(), entry);
                    }
                    _ => break,
                }
            }
        }
        for va in targets {
            table.queries.push(va);
            for _ in 0..2 {
                let near = match rng.random_range(0..8) {
                    0 => va.wrapping_add(4096),
                    1 => va.wrapping_sub(4096),
                    2 => va ^ 0xffff_8000_0000_0000,
                    3 => va ^ 1 << rng.random_range(30..47),
                    4 => va ^ 1 << rng.random_range(48..64),
                    _ => va ^ rng.random_range(1..1 << 21),
                };
                table.queries.push(near);
            }
        }
        // Where an address leads out of memory the answer is the machine's, not the walk's.
        let queries = std::mem::take(&mut table.queries);
        table.queries = queries
            .into_iter()
            .filter(|va| !matches!(table.walk(*va).outcome, Outcome::NoMemory { .. }))
            .collect();
        table
    }

    /// The core's walk.
    pub fn walk(&self, va: u64) -> HwWalk {
        hw_walk(self, self.cr3, VirtAddr::new(va), &self.cfg)
    }

    /// The monitor command for one address.
    pub fn command(&self, va: u64) -> String {
        format!("info walk {va:#x} {:#x} {:#x}", self.cr3, self.cr4)
    }

    /// All of it, for a report.
    pub fn describe(&self) -> String {
        let mut s = format!("cr3 {:#018x} cr4 {:#x}\n", self.cr3, self.cr4);
        for (pa, v) in &self.words {
            let _ = writeln!(s, "  [{pa:#018x}] = {v:#018x}");
        }
        s
    }
}

/// The lines of `info walk` for the entries that this walk visits.
pub fn render_entries(walk: &HwWalk) -> String {
    let mut s = String::new();
    for step in walk.steps() {
        let _ = writeln!(
            s,
            "entry {} {} pa {:#018x} value {:#018x} bits {}",
            step.level.number(),
            step.level.entry_name(),
            step.pa.as_u64(),
            step.value.as_u64(),
            step.bits
        );
    }
    s
}

/// What `info walk` prints for this walk. Refusals are "error" only: their wording is QEMU's.
pub fn render(walk: &HwWalk) -> String {
    let mut s = render_entries(walk);
    let _ = match walk.outcome {
        Outcome::Page { base, shift, perm } => writeln!(
            s,
            "page pa {:#018x} size {} perm r{}{}{}",
            base.as_u64(),
            1u64 << shift,
            if perm.write { 'w' } else { '-' },
            if perm.exec { 'x' } else { '-' },
            if perm.user { 'u' } else { '-' },
        ),
        Outcome::Fault { error_code } => writeln!(s, "fault error_code {error_code:#x}"),
        Outcome::NonCanonical => writeln!(s, "error non-canonical address"),
        Outcome::BadCr3 => writeln!(s, "error"),
        Outcome::NoMemory { pa } => writeln!(s, "no memory at {:#x}", pa.as_u64()),
    };
    s
}

fn same(want: &str, got: &str) -> bool {
    if want == "error\n" {
        got.starts_with("error ") && got != "error non-canonical address\n"
    } else {
        want == got
    }
}

/// How often each situation was compared.
#[derive(Copy, Clone, Default, Debug)]
#[allow(missing_docs)]
pub struct Coverage {
    pub translations: u64,
    pub flat_root: u64,
    pub mid_node: u64,
    pub bottom_node: u64,
    pub mixed: u64,
    pub page_4k: u64,
    pub page_2m: u64,
    pub page_1g: u64,
    pub large_in_node: u64,
    pub absent: u64,
    pub reserved: u64,
    pub misaligned_node: u64,
    pub kernel_half: u64,
    pub fpte_off: u64,
    pub non_canonical: u64,
    pub bad_cr3: u64,
    /// Answers to tables that were changed behind the core's back: all must differ.
    pub controls: u64,
    pub steps_2: u64,
    pub steps_3: u64,
    pub steps_4: u64,
}

impl Coverage {
    fn add(&mut self, table: &Table, va: u64, walk: &HwWalk) {
        self.translations += 1;
        let steps: Vec<_> = walk.steps().collect();
        let wide = steps.iter().filter(|s| s.bits == 18).count();
        for s in &steps {
            match (s.bits, s.level) {
                (18, Level::L3) => self.flat_root += 1,
                (18, Level::L2) => self.mid_node += 1,
                (18, _) => self.bottom_node += 1,
                _ => {}
            }
        }
        self.mixed += u64::from(wide > 0 && wide < steps.len());
        self.kernel_half += u64::from(va >> 63 == 1);
        self.fpte_off += u64::from(!table.cfg.fpte);
        match walk.outcome {
            Outcome::Page { shift, .. } => {
                match shift {
                    12 => self.page_4k += 1,
                    21 => self.page_2m += 1,
                    _ => self.page_1g += 1,
                }
                let last_wide = steps.last().is_some_and(|s| s.bits == 18);
                self.large_in_node += u64::from(shift > 12 && last_wide);
                match (shift, steps.len()) {
                    (12, 2) => self.steps_2 += 1,
                    (12, 3) => self.steps_3 += 1,
                    (12, _) => self.steps_4 += 1,
                    _ => {}
                }
            }
            Outcome::Fault { error_code: 0 } => self.absent += 1,
            Outcome::Fault { .. } => {
                self.reserved += 1;
                let bad = steps.last().map_or(0, |s| s.value.as_u64());
                let node = bad & (FLAT | PSE) == FLAT && bad & ADDR_MASK & 0x1f_f000 != 0;
                self.misaligned_node += u64::from(node && table.cfg.fpte);
            }
            Outcome::NonCanonical => self.non_canonical += 1,
            Outcome::BadCr3 => self.bad_cr3 += 1,
            Outcome::NoMemory { .. } => {}
        }
    }

    /// The first situation that never occurred, if any.
    pub fn missing(&self) -> Option<&'static str> {
        [
            (self.flat_root, "flattened root"),
            (self.mid_node, "L3+L2 node"),
            (self.bottom_node, "L2+L1 node"),
            (self.mixed, "mixture"),
            (self.page_4k, "4 KiB page"),
            (self.page_2m, "2 MiB page"),
            (self.page_1g, "1 GiB page"),
            (self.large_in_node, "large leaf in a node"),
            (self.absent, "absent entry"),
            (self.reserved, "reserved bit"),
            (self.misaligned_node, "misaligned node"),
            (self.kernel_half, "kernel half"),
            (self.fpte_off, "CR4.FPTE clear"),
            (self.non_canonical, "non-canonical address"),
            (self.bad_cr3, "refused CR3"),
            (self.controls, "control"),
            (self.steps_2, "walk of 2 entries"),
            (self.steps_3, "walk of 3 entries"),
            (self.steps_4, "walk of 4 entries"),
        ]
        .into_iter()
        .find_map(|(n, what)| (n == 0).then_some(what))
    }
}

/// A stopped QEMU. Killed, and its files removed, on drop.
pub struct Qemu {
    child: Child,
    dir: PathBuf,
    ram: File,
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn fail<T>(what: impl Into<String>) -> Result<T, String> {
    Err(what.into())
}

impl Qemu {
    /// Starts `bin`, with `-L firmware` if given.
    pub fn start(bin: &Path, firmware: Option<&Path>, phys_bits: u32) -> Result<Qemu, String> {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() {
            base.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("fpt-diff-{}-{phys_bits}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        let result = Self::start_in(&dir, bin, firmware, phys_bits);
        if result.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        result
    }

    fn start_in(
        dir: &Path,
        bin: &Path,
        firmware: Option<&Path>,
        phys_bits: u32,
    ) -> Result<Qemu, String> {
        let ram_path = dir.join("ram");
        let ram = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&ram_path)
            .and_then(|f| f.set_len(RAM_BYTES).map(|()| f))
            .map_err(|e| format!("cannot make {}: {e}", ram_path.display()))?;
        let socket = dir.join("gdb");
        let log_path = dir.join("log");
        let log = File::create(&log_path).map_err(|e| format!("{}: {e}", log_path.display()))?;
        let mut cmd = Command::new(bin);
        if let Some(firmware) = firmware {
            cmd.arg("-L").arg(firmware);
        }
        cmd.args([
            "-S",
            "-M",
            "q35,memory-backend=ram",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-display", "none", "-accel", "tcg", "-cpu"])
        .arg(format!("max,fpt=on,phys-bits={phys_bits}"))
        .args(["-m", &format!("{}M", RAM_BYTES >> 20), "-object"])
        .arg(format!(
            "memory-backend-file,id=ram,share=on,size={RAM_BYTES},mem-path={}",
            ram_path.display()
        ))
        .arg("-chardev")
        .arg(format!(
            "socket,id=gdb,path={},server=on,wait=off",
            socket.display()
        ))
        .args(["-gdb", "chardev:gdb"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
        let mut child = cmd
            .spawn()
            .map_err(|e| format!("cannot start QEMU {}: {e}", bin.display()))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let output = loop {
            match UnixStream::connect(&socket) {
                Ok(s) => break s,
                Err(e) => {
                    let dead = !matches!(child.try_wait(), Ok(None));
                    if dead || Instant::now() > deadline {
                        let _ = child.kill();
                        let _ = child.wait();
                        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                        let what = if dead {
                            "QEMU ended at once"
                        } else {
                            "no monitor"
                        };
                        return fail(format!("{what} ({e}): {}", log.trim()));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let timeout = Some(Duration::from_secs(30));
        let stream = output
            .set_read_timeout(timeout)
            .and_then(|()| output.try_clone());
        let input = match stream {
            Ok(s) => BufReader::new(s),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return fail(format!("monitor: {e}"));
            }
        };
        let qemu = Qemu {
            child,
            dir: dir.to_path_buf(),
            ram,
            input,
            output,
        };
        Ok(qemu)
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        self.output
            .write_all(text.as_bytes())
            .map_err(|e| format!("gdb stub: {e}"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        match self.input.read_exact(&mut byte) {
            Ok(()) => Ok(byte[0]),
            Err(e) => {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                fail(format!("no answer from QEMU ({e}): {}", log.trim()))
            }
        }
    }

    /// The contents of the next packet.
    fn packet(&mut self) -> Result<Vec<u8>, String> {
        while self.byte()? != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                b => text.push(b),
            }
        }
        // The checksum; the socket is reliable.
        self.byte()?;
        self.byte()?;
        Ok(text)
    }

    /// What one monitor command printed.
    fn answer(&mut self) -> Result<String, String> {
        let mut out = Vec::new();
        loop {
            let packet = self.packet()?;
            match packet.as_slice() {
                b"OK" => {
                    let text = String::from_utf8_lossy(&out).replace('\r', "");
                    return Ok(text);
                }
                [b'O', hex @ ..] => {
                    for pair in hex.chunks(2) {
                        let byte = std::str::from_utf8(pair)
                            .ok()
                            .and_then(|s| u8::from_str_radix(s, 16).ok());
                        match byte {
                            Some(byte) => out.push(byte),
                            None => return fail("gdb stub: bad hex"),
                        }
                    }
                }
                other => {
                    return fail(format!("gdb stub: {}", String::from_utf8_lossy(other)));
                }
            }
        }
    }

    /// Runs monitor commands and returns what each printed. Commands are sent in batches without
    /// acknowledging the answers: QEMU takes the next packet for one.
    pub fn monitor(&mut self, commands: &[String]) -> Result<Vec<String>, String> {
        let mut out = Vec::with_capacity(commands.len());
        for batch in commands.chunks(32) {
            let mut text = String::new();
            for command in batch {
                let mut packet = String::from("qRcmd,");
                for byte in command.bytes() {
                    let _ = write!(packet, "{byte:02x}");
                }
                let sum = packet.bytes().fold(0u8, u8::wrapping_add);
                let _ = write!(text, "${packet}#{sum:02x}");
            }
            self.send(&text)?;
            for _ in batch {
                out.push(self.answer()?);
            }
        }
        Ok(out)
    }

    /// Writes one word of guest memory.
    pub fn poke(&self, pa: u64, value: u64) -> Result<(), String> {
        self.ram
            .write_all_at(&value.to_le_bytes(), pa)
            .map_err(|e| format!("guest memory: {e}"))
    }

    /// Reads one word of guest memory.
    pub fn peek(&self, pa: u64) -> Result<u64, String> {
        let mut word = [0; 8];
        self.ram
            .read_exact_at(&mut word, pa)
            .map_err(|e| format!("guest memory: {e}"))?;
        Ok(u64::from_le_bytes(word))
    }
}

/// Why a comparison ended early.
#[derive(Debug)]
pub enum Stop {
    /// QEMU and the core differ: a report with the table.
    Mismatch(String),
    /// The test could not be made.
    Broken(String),
}

impl From<String> for Stop {
    fn from(s: String) -> Self {
        Stop::Broken(s)
    }
}

/// Compares at least `count` translations of tables `first..` of `seed`.
pub fn compare(
    qemu: &mut Qemu,
    seed: u64,
    first: u64,
    count: u64,
    phys_bits: u32,
    seen: &mut Coverage,
) -> Result<(), Stop> {
    let goal = seen.translations + count;
    let mut number = first;
    while seen.translations < goal {
        let table = Table::random(seed, number, phys_bits);
        for (pa, v) in &table.words {
            qemu.poke(*pa, *v)?;
        }
        let commands: Vec<String> = table.queries.iter().map(|va| table.command(*va)).collect();
        let answers = qemu.monitor(&commands)?;
        for (va, got) in table.queries.iter().zip(&answers) {
            let walk = table.walk(*va);
            let want = render(&walk);
            if !same(&want, got) {
                return Err(Stop::Mismatch(format!(
                    "seed {seed} table {number} phys-bits {phys_bits} address {va:#018x}\n\
                     the core says:\n{want}QEMU says:\n{got}the table:\n{}",
                    table.describe()
                )));
            }
            seen.add(&table, *va, &walk);
        }
        // The monitor's walk has no side effects.
        for (pa, v) in &table.words {
            let now = qemu.peek(*pa)?;
            if now != *v {
                return Err(Stop::Mismatch(format!(
                    "seed {seed} table {number}: info walk changed [{pa:#x}] from {v:#x} to \
                     {now:#x}\n{}",
                    table.describe()
                )));
            }
        }
        if number % 16 == 0 {
            control(qemu, &table, seen)?;
        }
        for pa in table.words.keys() {
            qemu.poke(*pa, 0)?;
        }
        number += 1;
    }
    Ok(())
}

/// Shows that the comparison can fail: an entry is changed in guest memory only.
fn control(qemu: &mut Qemu, table: &Table, seen: &mut Coverage) -> Result<(), Stop> {
    let page = table.queries.iter().find_map(|va| {
        let walk = table.walk(*va);
        let last = *walk.steps().last()?;
        matches!(walk.outcome, Outcome::Page { .. }).then_some((*va, last, render(&walk)))
    });
    if let Some((va, last, want)) = page {
        qemu.poke(last.pa.as_u64(), last.value.as_u64() ^ PRESENT)?;
        let got = qemu.monitor(&[table.command(va)])?;
        qemu.poke(last.pa.as_u64(), last.value.as_u64())?;
        if got.first().is_some_and(|got| same(&want, got)) {
            return Err(Stop::Mismatch(format!(
                "address {va:#x}: QEMU's answer does not depend on the entry\n{}",
                table.describe()
            )));
        }
        seen.controls += 1;
    }
    Ok(())
}

/// The whole test: the given number of translations, three quarters of them with 40 physical address
/// bits (QEMU's default), the rest with 46.
pub fn run(bin: &Path, firmware: Option<&Path>, seed: u64, count: u64) -> Result<Coverage, Stop> {
    let mut seen = Coverage::default();
    for (phys_bits, first, share) in [(40, 0, count - count / 4), (46, 1 << 32, count / 4)] {
        let mut qemu = Qemu::start(bin, firmware, phys_bits)?;
        compare(&mut qemu, seed, first, share, phys_bits, &mut seen)?;
    }
    Ok(seen)
}
