// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memcached: Debian's, one worker thread, under the load of `kv`, 80 % reads unless told.

use std::io::BufRead;
use std::path::Path;

use fpt_workloads::ensure;
use fpt_workloads::error::{Error, Result};
use fpt_workloads::image;
use fpt_workloads::kv::{Client, Load, Protocol, MAX_VALUE};
use fpt_workloads::options::Options;
use fpt_workloads::outcome::{self, Outcome};
use fpt_workloads::server::{self, Connection, Server};

const SOCKET: &str = "/tmp/memcached.sock";

/// The text protocol.
struct Text;

fn unexpected(line: &[u8]) -> Error {
    Error::Wrong(format!(
        "memcached answers '{}'",
        String::from_utf8_lossy(line)
    ))
}

impl Protocol for Text {
    fn ask_put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        out.extend_from_slice(b"set ");
        out.extend_from_slice(key);
        out.extend_from_slice(format!(" 0 0 {}\r\n", value.len()).as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    fn ask_get(out: &mut Vec<u8>, key: &[u8]) {
        out.extend_from_slice(b"get ");
        out.extend_from_slice(key);
        out.extend_from_slice(b"\r\n");
    }

    fn put_answer(input: &mut impl BufRead, scratch: &mut Vec<u8>) -> Result<()> {
        match server::read_line(input, scratch)? {
            b"STORED" => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn get_answer(
        input: &mut impl BufRead,
        scratch: &mut Vec<u8>,
        key: &[u8],
        value: &mut Vec<u8>,
    ) -> Result<Option<()>> {
        let line = server::read_line(input, scratch)?;
        if line == b"END" {
            return Ok(None);
        }
        let words: Vec<&[u8]> = line.split(|c| *c == b' ').collect();
        let len = match words.as_slice() {
            [b"VALUE", name, b"0", len] if *name == key => server::length(len, MAX_VALUE)?,
            _ => return Err(unexpected(line)),
        };
        value.resize(len + 2, 0);
        server::read_exact(input, value)?;
        ensure!(
            value.ends_with(b"\r\n"),
            "memcached sends a value of another length than it says"
        );
        value.truncate(len);
        match server::read_line(input, scratch)? {
            b"END" => Ok(Some(())),
            other => Err(unexpected(other)),
        }
    }
}

/// The number of items, after the check that none was thrown out.
fn count(connection: &mut Connection) -> Result<u64> {
    connection.send(b"stats\r\n")?;
    let (mut items, mut evictions) = (None, None);
    let mut scratch = Vec::new();
    loop {
        let line = server::read_line(connection.input(), &mut scratch)?;
        if line == b"END" {
            break;
        }
        let words: Vec<&[u8]> = line.split(|c| *c == b' ').collect();
        match words.as_slice() {
            [b"STAT", b"curr_items", n] => items = Some(server::length(n, usize::MAX)? as u64),
            [b"STAT", b"evictions", n] => evictions = Some(server::length(n, usize::MAX)?),
            [b"STAT", ..] => {}
            _ => return Err(unexpected(line)),
        }
    }
    ensure!(
        evictions == Some(0),
        "memcached threw out {evictions:?} items"
    );
    items.ok_or_else(|| Error::Wrong("memcached does not say how many items it has".into()))
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let load = Load::from_options(&mut options, 80)?;
    // An item has some 80 bytes besides the value, slabs waste up to a quarter, classes a page each.
    let items = u64::from(load.keys) * (load.value as u64 + 80) * 4 / 3;
    let memory = options.number("memory-mib", items / (1 << 20) + 128, 64, 1 << 24)?;
    let device = image::wanted(&mut options);
    options.finish()?;
    image::enter(device.as_deref())?;
    let mut command = server::unprivileged(&server::program("memcached")?);
    command
        .args(["-s", SOCKET, "-a", "0777", "-t", "1", "-M", "-m"])
        .arg(memory.to_string());
    let mut server = Server::start("memcached", command)?;
    let connection = server.connect(Path::new(SOCKET))?;
    let outcome = Client::<Text>::new(connection, load).measure(count);
    server.alive()?;
    outcome
}

fn main() {
    outcome::end("memcached", measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let mut out = Vec::new();
        Text::ask_put(&mut out, b"k", b"va");
        Text::ask_get(&mut out, b"k");
        assert_eq!(out, b"set k 0 0 2\r\nva\r\nget k\r\n");
    }

    #[test]
    fn answers() {
        let get = |text: &[u8]| {
            let mut value = Vec::new();
            let found = Text::get_answer(&mut &text[..], &mut Vec::new(), b"k", &mut value);
            found.map(|f| f.map(|()| value))
        };
        assert_eq!(
            get(b"VALUE k 0 2\r\nva\r\nEND\r\n"),
            Ok(Some(b"va".to_vec()))
        );
        assert_eq!(get(b"END\r\n"), Ok(None));
        for bad in [
            &b"VALUE x 0 2\r\nva\r\nEND\r\n"[..],
            b"VALUE k 0 3\r\nva\r\nEND\r\n",
            b"VALUE k 0 2\r\nva\r\nVALUE\r\n",
            b"SERVER_ERROR out of memory\r\n",
            b"",
        ] {
            assert!(get(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
