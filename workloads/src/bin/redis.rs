// SPDX-License-Identifier: MIT OR Apache-2.0
//! Redis: Debian's redis-server without persistence, under the load of `kv`, half reads unless told.

use std::io::BufRead;
use std::path::Path;
use std::process::Command;

use fpt_workloads::ensure;
use fpt_workloads::error::{Error, Result};
use fpt_workloads::image;
use fpt_workloads::kv::{Client, Load, Protocol, MAX_VALUE};
use fpt_workloads::options::Options;
use fpt_workloads::outcome::{self, Outcome};
use fpt_workloads::server::{self, Connection, Server};

const SOCKET: &str = "/tmp/redis.sock";

/// RESP2.
struct Resp;

/// `write!` would be a good part of the client's instructions.
fn head(out: &mut Vec<u8>, kind: u8, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    head(out, b'*', words.len());
    for word in words {
        head(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn unexpected(line: &[u8]) -> Error {
    Error::Wrong(format!("redis answers '{}'", String::from_utf8_lossy(line)))
}

impl Protocol for Resp {
    fn ask_put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        words(out, &[b"SET", key, value]);
    }

    fn ask_get(out: &mut Vec<u8>, key: &[u8]) {
        words(out, &[b"GET", key]);
    }

    fn put_answer(input: &mut impl BufRead, scratch: &mut Vec<u8>) -> Result<()> {
        match server::read_line(input, scratch)? {
            b"+OK" => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn get_answer(
        input: &mut impl BufRead,
        scratch: &mut Vec<u8>,
        _key: &[u8],
        value: &mut Vec<u8>,
    ) -> Result<Option<()>> {
        let len = match server::read_line(input, scratch)? {
            b"$-1" => return Ok(None),
            [b'$', len @ ..] => server::length(len, MAX_VALUE)?,
            other => return Err(unexpected(other)),
        };
        value.resize(len + 2, 0);
        server::read_exact(input, value)?;
        ensure!(
            value.ends_with(b"\r\n"),
            "redis sends a value of another length than it says"
        );
        value.truncate(len);
        Ok(Some(()))
    }
}

fn count(connection: &mut Connection) -> Result<u64> {
    let mut ask = Vec::new();
    words(&mut ask, &[b"DBSIZE"]);
    connection.send(&ask)?;
    let mut scratch = Vec::new();
    match server::read_line(connection.input(), &mut scratch)? {
        [b':', number @ ..] => Ok(server::length(number, usize::MAX)? as u64),
        other => Err(unexpected(other)),
    }
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let load = Load::from_options(&mut options, 50)?;
    let device = image::wanted(&mut options);
    options.finish()?;
    image::enter(device.as_deref())?;
    let mut command: Command = server::unprivileged(&server::program("redis-server")?);
    command
        .args(["--port", "0", "--unixsocket", SOCKET, "--dir", "/tmp"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        // Whether there are huge pages is the guest's policy.
        .args(["--disable-thp", "no"]);
    let mut server = Server::start("redis", command)?;
    let connection = server.connect(Path::new(SOCKET))?;
    let outcome = Client::<Resp>::new(connection, load).measure(count);
    server.alive()?;
    outcome
}

fn main() {
    outcome::end("redis", measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let mut out = Vec::new();
        head(&mut out, b'$', 0);
        head(&mut out, b'$', 10_240);
        assert_eq!(out, b"$0\r\n$10240\r\n");
        let mut out = Vec::new();
        Resp::ask_put(&mut out, b"k", b"va");
        Resp::ask_get(&mut out, b"k");
        assert_eq!(
            out,
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nva\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
        );
    }

    #[test]
    fn answers() {
        let get = |text: &[u8]| {
            let mut value = Vec::new();
            let found = Resp::get_answer(&mut &text[..], &mut Vec::new(), b"k", &mut value);
            found.map(|f| f.map(|()| value))
        };
        assert_eq!(get(b"$2\r\nva\r\n"), Ok(Some(b"va".to_vec())));
        assert_eq!(get(b"$-1\r\n"), Ok(None));
        for bad in [
            &b"$3\r\nva\r\n!"[..],
            b"-ERR no\r\n",
            b"$99999999\r\n",
            b"$x\r\n",
            b"junk",
            b"",
        ] {
            assert!(get(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(Resp::put_answer(&mut &b"+OK\r\n"[..], &mut Vec::new()).is_ok());
        assert!(Resp::put_answer(&mut &b"-OOM\r\n"[..], &mut Vec::new()).is_err());
    }
}
