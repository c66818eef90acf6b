// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load on key-value servers: fill with all keys, then reads and writes of random keys in a
//! given mix. Every answer is compared with what was written last.

use std::io::BufRead;

use crate::ensure;
use crate::error::{Error, Result};
use crate::mark;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::rng::{mix, Rng};
use crate::server::Connection;

/// How a server is spoken to. Answers come in the order of requests.
pub trait Protocol {
    /// Appends the request that stores `value`.
    fn ask_put(out: &mut Vec<u8>, key: &[u8], value: &[u8]);
    /// Appends the request for the value.
    fn ask_get(out: &mut Vec<u8>, key: &[u8]);
    /// # Errors
    /// `Wrong` unless the answer says that the value was stored.
    fn put_answer(input: &mut impl BufRead, scratch: &mut Vec<u8>) -> Result<()>;
    /// Reads the value into `value`; `None` if the server has none.
    ///
    /// # Errors
    /// `Wrong` for an answer that is no value.
    fn get_answer(
        input: &mut impl BufRead,
        scratch: &mut Vec<u8>,
        key: &[u8],
        value: &mut Vec<u8>,
    ) -> Result<Option<()>>;
}

/// Largest value in bytes.
pub const MAX_VALUE: usize = 64 << 10;
/// Bytes of requests that may be under way: they and their answers must fit into socket buffers, or
/// both sides could wait for each other.
const UNDER_WAY: usize = 96 << 10;

/// What a client asks of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The number of keys.
    pub keys: u32,
    /// The length of a value, in bytes.
    pub value: usize,
    /// Requests in all.
    pub requests: u64,
    /// Percent of requests that read.
    pub reads: u32,
    /// Requests under way at a time.
    pub pipeline: usize,
    /// Where random numbers begin; equal seeds give equal requests.
    pub seed: u64,
}

impl Load {
    /// Reads `--keys --value --requests --reads --pipeline --seed`.
    pub fn from_options(options: &mut Options, reads: u32) -> Result<Load> {
        let load = Load {
            keys: options.number("keys", 10_000, 1, u32::MAX)?,
            value: options.number("value", 64, 8, MAX_VALUE)?,
            requests: options.number("requests", 10_000, 1, u64::MAX)?,
            reads: options.number("reads", reads, 0, 100)?,
            pipeline: options.number("pipeline", 32, 1, 1024)?,
            seed: options.number("seed", 1, 0, u64::MAX)?,
        };
        if load.pipeline * (load.value + 64) > UNDER_WAY {
            return Err(Error::Usage(format!(
                "--pipeline {} with --value {} is more than {UNDER_WAY} bytes under way: lower one",
                load.pipeline, load.value
            )));
        }
        Ok(load)
    }
}

fn key_of(key: u32, out: &mut [u8; 20]) -> &[u8] {
    out.copy_from_slice(b"key:0000000000000000");
    for (i, byte) in out[4..].iter_mut().rev().enumerate().take(8) {
        *byte = b"0123456789abcdef"[(key >> (4 * i) & 15) as usize];
    }
    out
}

/// The value that the `version`-th write of a key stores. Cheap, as it is made for each answer too:
/// the client's instructions are in the figures.
fn value_of(key: u32, version: u8, out: &mut [u8]) {
    let mut word = mix((u64::from(key) << 8) | u64::from(version));
    let mut chunks = out.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    let rest = chunks.into_remainder();
    rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
}

/// The client, and what it knows the server should have.
pub struct Client<P: Protocol> {
    connection: Connection,
    load: Load,
    /// Of each key, how often it was written; 0 before the fill. Wraps around.
    versions: Vec<u8>,
    asked: Vec<(u32, Option<u8>)>,
    out: Vec<u8>,
    want: Vec<u8>,
    got: Vec<u8>,
    scratch: Vec<u8>,
    protocol: std::marker::PhantomData<P>,
}

impl<P: Protocol> Client<P> {
    /// A client that has not asked anything yet.
    pub fn new(connection: Connection, load: Load) -> Client<P> {
        Client {
            connection,
            versions: vec![0; load.keys as usize],
            asked: Vec::with_capacity(load.pipeline),
            out: Vec::with_capacity(UNDER_WAY),
            want: vec![0; load.value],
            got: Vec::with_capacity(load.value),
            scratch: Vec::new(),
            load,
            protocol: std::marker::PhantomData,
        }
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let version = &mut self.versions[key as usize];
        *version = version.wrapping_add(1);
        value_of(key, *version, &mut self.want);
        P::ask_put(&mut self.out, key_of(key, &mut [0; 20]), &self.want);
        self.asked.push((key, None));
        self.full()
    }

    fn get(&mut self, key: u32) -> Result<()> {
        P::ask_get(&mut self.out, key_of(key, &mut [0; 20]));
        self.asked.push((key, Some(self.versions[key as usize])));
        self.full()
    }

    fn full(&mut self) -> Result<()> {
        if self.asked.len() >= self.load.pipeline {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Sends what was asked and checks every answer.
    fn flush(&mut self) -> Result<()> {
        self.connection.send(&self.out)?;
        self.out.clear();
        let input = self.connection.input();
        for (key, version) in self.asked.drain(..) {
            let Some(version) = version else {
                P::put_answer(input, &mut self.scratch)?;
                continue;
            };
            let name = &mut [0; 20];
            let name = key_of(key, name);
            let found = P::get_answer(input, &mut self.scratch, name, &mut self.got)?;
            ensure!(found.is_some(), "the server has lost key {key}");
            value_of(key, version, &mut self.want);
            ensure!(
                self.got == self.want,
                "the server has another value of key {key} than write {version} stored"
            );
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        (0..self.load.keys).try_for_each(|key| self.put(key))?;
        self.flush()
    }

    /// Returns the number of reads.
    fn requests(&mut self) -> Result<u64> {
        let mut rng = Rng::new(self.load.seed);
        let mut reads = 0;
        for _ in 0..self.load.requests {
            let draw = rng.draw();
            let key = (((draw >> 32) * u64::from(self.load.keys)) >> 32) as u32;
            if (draw as u32 % 100) < self.load.reads {
                reads += 1;
                self.get(key)?;
            } else {
                self.put(key)?;
            }
        }
        self.flush()?;
        Ok(reads)
    }

    /// Both phases, then some keys read once more; `count` asks the server how many keys it has.
    ///
    /// # Errors
    /// `Wrong` for any answer that is not what was written.
    pub fn measure(
        mut self,
        count: impl FnOnce(&mut Connection) -> Result<u64>,
    ) -> Result<Outcome> {
        mark::load(|| self.fill())?;
        let reads = mark::run(|| self.requests())?;
        let step = (self.load.keys / 1000).max(1) as usize;
        (0..self.load.keys)
            .step_by(step)
            .try_for_each(|key| self.get(key))?;
        self.flush()?;
        let keys = count(&mut self.connection)?;
        ensure!(
            keys == u64::from(self.load.keys),
            "the server has {keys} keys, not {}",
            self.load.keys
        );
        let writes = self.load.requests - reads;
        Ok(Outcome::new(format!(
            "{keys} keys stored, {reads} reads of {} requests returned what was written last",
            self.load.requests
        ))
        .figure("keys", keys)
        .figure("reads", reads)
        .figure("writes", writes)
        .figure("value_bytes", self.load.value as u64))
    }
}

/// What tests need to stand in for a server.
#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::{BufReader, Write};
    use std::os::unix::net::UnixStream;

    /// Lines `P key hex` and `G key`.
    struct Plain;

    impl Protocol for Plain {
        fn ask_put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
            out.extend_from_slice(b"P ");
            out.extend_from_slice(key);
            out.push(b' ');
            out.extend(value.iter().flat_map(|b| format!("{b:02x}").into_bytes()));
            out.extend_from_slice(b"\r\n");
        }
        fn ask_get(out: &mut Vec<u8>, key: &[u8]) {
            out.extend_from_slice(b"G ");
            out.extend_from_slice(key);
            out.extend_from_slice(b"\r\n");
        }
        fn put_answer(input: &mut impl BufRead, scratch: &mut Vec<u8>) -> Result<()> {
            let line = crate::server::read_line(input, scratch)?;
            ensure!(line == b"ok", "not stored");
            Ok(())
        }
        fn get_answer(
            input: &mut impl BufRead,
            scratch: &mut Vec<u8>,
            _: &[u8],
            value: &mut Vec<u8>,
        ) -> Result<Option<()>> {
            let line = crate::server::read_line(input, scratch)?;
            value.clear();
            for pair in line.chunks(2) {
                let text = std::str::from_utf8(pair).unwrap_or("");
                value.push(u8::from_str_radix(text, 16).unwrap_or(0));
            }
            Ok((!line.is_empty()).then_some(()))
        }
    }

    /// A server that forgets the `lose`-th write.
    fn serve(stream: UnixStream, lose: usize) {
        let mut out = stream.try_clone().unwrap();
        let mut have: HashMap<String, String> = HashMap::new();
        let mut writes = 0;
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let words: Vec<&str> = line.split(' ').collect();
            let answer = match words[0] {
                "P" => {
                    if writes != lose {
                        have.insert(words[1].into(), words[2].into());
                    }
                    writes += 1;
                    "ok".to_string()
                }
                _ => have.get(words[1]).cloned().unwrap_or_default(),
            };
            if out.write_all(format!("{answer}\r\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn measure(lose: usize, keys: u64) -> Result<Outcome> {
        let (mine, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(theirs, lose));
        let load = Load {
            keys: 50,
            value: 20,
            requests: 2000,
            reads: 80,
            pipeline: 8,
            seed: 3,
        };
        let client = Client::<Plain>::new(Connection::new(mine).unwrap(), load);
        let out = client.measure(|_| Ok(keys));
        server.join().unwrap();
        out
    }

    #[test]
    fn a_right_server_passes_and_the_mix_is_as_asked() {
        let outcome = measure(usize::MAX, 50).unwrap();
        let reads = outcome.figures["reads"].as_u64().unwrap();
        assert!((1500..1700).contains(&reads), "{reads}");
        assert_eq!(reads + outcome.figures["writes"].as_u64().unwrap(), 2000);
    }

    #[test]
    fn lost_writes_are_found() {
        let error = measure(7, 50).unwrap_err();
        assert!(
            matches!(&error, Error::Wrong(t) if t.contains("lost key 7")),
            "{error}"
        );
        let error = measure(60, 50).unwrap_err();
        assert!(
            matches!(&error, Error::Wrong(t) if t.contains("another value")),
            "{error}"
        );
        let error = measure(usize::MAX, 49).unwrap_err();
        assert!(
            matches!(&error, Error::Wrong(t) if t.contains("has 49 keys")),
            "{error}"
        );
    }

    #[test]
    fn keys_and_values_differ() {
        assert_eq!(key_of(0xab, &mut [0; 20]), b"key:00000000000000ab");
        let value = |k, v| {
            let mut out = [0; 21];
            value_of(k, v, &mut out);
            out
        };
        assert_ne!(value(1, 1), value(1, 2));
        assert_ne!(value(1, 1), value(2, 1));
        assert_eq!(value(1, 1), value(1, 1));
    }

    #[test]
    fn too_much_under_way_is_refused() {
        let mut o = Options::from_words(&["--pipeline", "1024", "--value", "1024"]).unwrap();
        assert!(matches!(
            Load::from_options(&mut o, 50),
            Err(Error::Usage(_))
        ));
    }
}
