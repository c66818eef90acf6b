// SPDX-License-Identifier: MIT OR Apache-2.0
//! GUPS by the rules of HPC Challenge's RandomAccess: updates at random places of a table, then the
//! same updates once more, after which every word must be back at its first value. With `--page-every-kib` each
//! page of the table lies anywhere in a stretch of its own, as in a large address space that is thinly used.

use fpt_workloads::ensure;
use fpt_workloads::error::{Error, Result};
use fpt_workloads::mark;
use fpt_workloads::options::Options;
use fpt_workloads::outcome::{self, Outcome};

/// The polynomial of the rules' generator, without its highest power.
const POLY: u64 = 7;
/// Its period.
const PERIOD: u64 = 1_317_624_576_693_539_401;
/// Streams that are advanced side by side; the rules allow a look-ahead of 1024.
const STREAMS: usize = 128;

fn step(ran: u64) -> u64 {
    (ran << 1) ^ if (ran as i64) < 0 { POLY } else { 0 }
}

/// The `n`-th number of the sequence, number 0 being 1.
fn start(n: u64) -> u64 {
    let mut n = n % PERIOD;
    // square[i] is x^(2^i) modulo the polynomial, on which products are sums of shifted steps.
    let times = |a: u64, b: u64| {
        let mut out = 0;
        let mut power = a;
        for i in 0..64 {
            if b >> i & 1 == 1 {
                out ^= power;
            }
            power = step(power);
        }
        out
    };
    let (mut out, mut square) = (1, 2);
    while n > 0 {
        if n & 1 == 1 {
            out = times(out, square);
        }
        square = times(square, square);
        n >>= 1;
    }
    out
}

const PAGE_WORDS: usize = 512;

/// Where a word lies if each page has `every` pages of memory, a power of two, for itself. Pages at equal distances would have
/// their page-table entries in few sets of the caches.
#[inline(always)]
fn place(word: usize, every: usize) -> usize {
    let page = word / PAGE_WORDS;
    // these bits of a product with an odd number are as good as random
    let at = (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (page * every + (at as usize & (every - 1))) * PAGE_WORDS + word % PAGE_WORDS
}

/// The rules' table: 2^log2 words, each page of them in a stretch of `every` pages.
struct Table {
    memory: Vec<u64>,
    /// First word of `memory` that is used: the pages are the system's.
    skip: usize,
    words: usize,
    every: usize,
}

impl Table {
    fn new(log2: u32, every: usize) -> Result<Table> {
        let words = 1usize << log2;
        let pages = words.div_ceil(PAGE_WORDS);
        if every > 1 {
            let file = "/sys/kernel/mm/transparent_hugepage/enabled";
            if std::fs::read_to_string(file).is_ok_and(|text| text.contains("[always]")) {
                return Err(Error::Usage(format!(
                    "pages apart would become 2 MiB each; set {file} to madvise or never"
                )));
            }
            // Most of what is reserved is never touched. (In a guest, which is gone afterwards.)
            let file = "/proc/sys/vm/overcommit_memory";
            std::fs::write(file, "1").map_err(Error::system(format!("write {file}")))?;
        }
        let used = words.max(pages * PAGE_WORDS * every);
        let apart = every > 1;
        let memory = vec![0; used + if apart { PAGE_WORDS } else { 0 }];
        let skip = match memory.as_ptr().align_offset(PAGE_WORDS * 8) {
            words if apart && words < PAGE_WORDS => words,
            _ => 0,
        };
        Ok(Table {
            memory,
            skip,
            words,
            every,
        })
    }

    #[inline(always)]
    fn place(&self, word: usize) -> usize {
        self.skip + place(word, self.every)
    }

    fn init(mut self) -> Table {
        for word in 0..self.words {
            let place = self.place(word);
            self.memory[place] = word as u64;
        }
        self
    }

    /// Words that are not what they were at first.
    fn errors(&self) -> u64 {
        let wrong = |word: &usize| self.memory[self.place(*word)] != *word as u64;
        (0..self.words).filter(wrong).count() as u64
    }

    fn update(&mut self, updates: u64) {
        if self.every == 1 {
            update(&mut self.memory, self.words, updates, |word| word);
        } else {
            let every = self.every;
            let place = |word| place(word, every);
            update(&mut self.memory[self.skip..], self.words, updates, place);
        }
    }
}

/// `updates` is a multiple of `STREAMS`, the number of words a power of two.
fn update(table: &mut [u64], words: usize, updates: u64, place: impl Fn(usize) -> usize) {
    let mask = words - 1;
    let each = updates / STREAMS as u64;
    let mut streams: [u64; STREAMS] = std::array::from_fn(|i| start(each * i as u64));
    for _ in 0..each {
        for ran in &mut streams {
            *ran = step(*ran);
            table[place(*ran as usize & mask)] ^= *ran;
        }
    }
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let log2 = options.number("log2-words", 20u32, 7, 40)?;
    let updates = options.number("updates", 4u64 << log2, STREAMS as u64, 1 << 50)?;
    let every_kib = options.number("page-every-kib", 4usize, 4, 1 << 20)?;
    options.finish()?;
    if !every_kib.is_power_of_two() {
        return Err(Error::Usage(format!(
            "--page-every-kib {every_kib} is no power of two"
        )));
    }
    if updates % STREAMS as u64 != 0 {
        return Err(Error::Usage(format!(
            "--updates {updates} is no multiple of {STREAMS}"
        )));
    }

    let table = Table::new(log2, every_kib / 4)?;
    let mut table = mark::load(|| table.init());
    mark::run(|| table.update(updates));
    let changed = table.errors();
    ensure!(changed > 0, "no word of the table has changed");
    table.update(updates);
    let left = table.errors();
    // The rules allow 1 % for races between processors; there is only one here.
    ensure!(left == 0, "{left} words differ after undoing all updates");
    Ok(Outcome::new(format!(
        "{updates} updates changed {changed} words; undone, all are as before"
    ))
    .figure("table_bytes", 8u64 << log2)
    .figure("span_bytes", (table.memory.len() - table.skip) as u64 * 8)
    .figure("updates", updates))
}

fn main() {
    outcome::end("gups", measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn start_is_stepping() {
        let mut ran = 1;
        for n in 0..5000 {
            assert_eq!(start(n), ran, "{n}");
            ran = step(ran);
        }
    }

    #[test]
    fn wrong_tables_are_found() {
        let mut table = Table::new(10, 1).unwrap().init();
        assert_eq!(table.errors(), 0);
        table.update(1 << 16);
        assert!(table.errors() > 900);
        table.update(1 << 16);
        assert_eq!(table.errors(), 0);
        table.memory[77] ^= 1;
        assert_eq!(table.errors(), 1);
    }

    #[test]
    fn pages_apart_make_the_same_updates() {
        let mut near = Table::new(12, 1).unwrap().init();
        let mut far = Table {
            memory: vec![0; 4096 * 16 + 3],
            skip: 3,
            words: 4096,
            every: 16,
        }
        .init();
        near.update(1 << 14);
        far.update(1 << 14);
        assert_eq!(near.memory.len(), 4096);
        for word in 0..4096 {
            assert_eq!(near.memory[word], far.memory[far.place(word)]);
        }
        let places: std::collections::BTreeSet<usize> = (0..4096).map(|w| far.place(w)).collect();
        assert_eq!(places.len(), 4096);
        assert!(far
            .memory
            .iter()
            .enumerate()
            .all(|(i, w)| *w == 0 || places.contains(&i)));
    }

    proptest! {
        /// Against the definition: one stream, one update at a time.
        #[test]
        fn streams_make_the_same_updates(log2 in 7u32..12, rounds in 1u64..40) {
            let updates = rounds * STREAMS as u64;
            let mut fast = Table::new(log2, 1).unwrap().init();
            fast.update(updates);
            let mut slow: Vec<u64> = (0..1 << log2).collect();
            let mut ran = 1;
            for _ in 0..updates {
                ran = step(ran);
                let at = ran as usize % slow.len();
                slow[at] ^= ran;
            }
            prop_assert_eq!(&fast.memory[..slow.len()], &slow[..]);
        }
    }
}
