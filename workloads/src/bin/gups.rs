// SPDX-License-Identifier: MIT OR Apache-2.0
//! GUPS by the rules of HPC Challenge's RandomAccess: updates at random places of a table, then the
//! same updates once more, after which every word must be back at its first value.

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

/// `updates` is a multiple of `STREAMS`, the table's length a power of two.
fn update(table: &mut [u64], updates: u64) {
    let mask = table.len() - 1;
    let each = updates / STREAMS as u64;
    let mut streams: [u64; STREAMS] = std::array::from_fn(|i| start(each * i as u64));
    for _ in 0..each {
        for ran in &mut streams {
            *ran = step(*ran);
            table[*ran as usize & mask] ^= *ran;
        }
    }
}

fn init(words: usize) -> Vec<u64> {
    (0..words as u64).collect()
}

/// Words that are not what they were at first.
fn errors(table: &[u64]) -> u64 {
    table
        .iter()
        .zip(0u64..)
        .filter(|(word, i)| *word != i)
        .count() as u64
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let log2 = options.number("log2-words", 20u32, 7, 40)?;
    let updates = options.number("updates", 4u64 << log2, STREAMS as u64, 1 << 50)?;
    options.finish()?;
    if updates % STREAMS as u64 != 0 {
        return Err(Error::Usage(format!(
            "--updates {updates} is no multiple of {STREAMS}"
        )));
    }

    let mut table = mark::load(|| init(1 << log2));
    mark::run(|| update(&mut table, updates));
    let changed = errors(&table);
    ensure!(changed > 0, "no word of the table has changed");
    update(&mut table, updates);
    let left = errors(&table);
    // The rules allow 1 % for races between processors; there is only one here.
    ensure!(left == 0, "{left} words differ after undoing all updates");
    Ok(Outcome::new(format!(
        "{updates} updates changed {changed} words; undone, all are as before"
    ))
    .figure("table_bytes", 8u64 << log2)
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
        let mut table = init(1 << 10);
        assert_eq!(errors(&table), 0);
        update(&mut table, 1 << 16);
        assert!(errors(&table) > 900);
        update(&mut table, 1 << 16);
        assert_eq!(errors(&table), 0);
        table[77] ^= 1;
        assert_eq!(errors(&table), 1);
    }

    proptest! {
        /// Against the definition: one stream, one update at a time.
        #[test]
        fn streams_make_the_same_updates(log2 in 7u32..12, rounds in 1u64..40) {
            let updates = rounds * STREAMS as u64;
            let mut fast = init(1 << log2);
            update(&mut fast, updates);
            let mut slow = init(1 << log2);
            let mut ran = 1;
            for _ in 0..updates {
                ran = step(ran);
                let at = ran as usize % slow.len();
                slow[at] ^= ran;
            }
            prop_assert_eq!(fast, slow);
        }
    }
}
