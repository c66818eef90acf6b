// SPDX-License-Identifier: MIT OR Apache-2.0
//! PostgreSQL: Debian's server on a table in memory, filled by COPY, then read row by row through a
//! prepared statement. The protocol is spoken directly: a client library would be in the figures.

use std::fs;
use std::path::{Path, PathBuf};

use fpt_workloads::ensure;
use fpt_workloads::error::{Error, Result};
use fpt_workloads::image;
use fpt_workloads::mark;
use fpt_workloads::options::Options;
use fpt_workloads::outcome::{self, Outcome};
use fpt_workloads::rng::{mix, Rng};
use fpt_workloads::server::{self, Connection, Server};

const DATA: &str = "/tmp/data";
const SOCKET: &str = "/tmp/.s.PGSQL.5432";
const USER: &str = "bench";
/// Longest message that is taken from the server.
const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of rows in one COPY message.
const COPY_CHUNK: usize = 64 << 10;

/// Front end of protocol version 3.
struct Session {
    connection: Connection,
    out: Vec<u8>,
    message: Vec<u8>,
}

fn with_length(out: &mut Vec<u8>, kind: Option<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The text of an error message's fields.
fn complaint(body: &[u8]) -> String {
    let field = |kind: u8| {
        body.split(|b| *b == 0)
            .find(|f| f.first() == Some(&kind))
            .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
    };
    format!(
        "postgres refuses: {} ({})",
        field(b'M').unwrap_or_default(),
        field(b'C').unwrap_or_default()
    )
}

/// The first column of a row.
fn first_column(body: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, len: usize| {
        let bytes = body.get(at..at + len)?;
        Some(bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)))
    };
    (number(0, 2)? >= 1).then_some(())?;
    let len = number(2, 4)?;
    body.get(6..6usize.checked_add(len)?)
}

impl Session {
    fn start(connection: Connection) -> Result<Session> {
        let mut session = Session {
            connection,
            out: Vec::new(),
            message: Vec::new(),
        };
        with_length(&mut session.out, None, |out| {
            out.extend_from_slice(&(3u32 << 16).to_be_bytes());
            for word in ["user", USER, "database", "postgres"] {
                text(out, word);
            }
            out.push(0);
        });
        session.send()?;
        session.until_ready(|kind, body| match (kind, body) {
            (b'R', [0, 0, 0, 0]) | (b'S' | b'K', _) => Ok(()),
            (b'R', _) => Err(Error::System("postgres asks for a password".into())),
            _ => Err(unexpected(kind)),
        })?;
        Ok(session)
    }

    fn send(&mut self) -> Result<()> {
        self.connection.send(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The next message's kind; its body is in `self.message`. Notices are skipped.
    fn receive(&mut self) -> Result<u8> {
        loop {
            let mut head = [0; 5];
            server::read_exact(self.connection.input(), &mut head)?;
            let [kind, len @ ..] = head;
            let len = u32::from_be_bytes(len) as usize;
            ensure!(
                (4..=MAX_MESSAGE).contains(&len),
                "postgres sends a message of {len} bytes"
            );
            self.message.resize(len - 4, 0);
            server::read_exact(self.connection.input(), &mut self.message)?;
            match kind {
                b'N' => {}
                b'E' => return Err(Error::Wrong(complaint(&self.message))),
                kind => return Ok(kind),
            }
        }
    }

    /// Hands each message to `take` until the server is ready for more.
    fn until_ready(&mut self, mut take: impl FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        loop {
            match self.receive()? {
                b'Z' => return Ok(()),
                kind => take(kind, &self.message)?,
            }
        }
    }

    /// Runs SQL; the first column of the last row, if there is one.
    fn query(&mut self, sql: &str) -> Result<Option<Vec<u8>>> {
        with_length(&mut self.out, Some(b'Q'), |out| text(out, sql));
        self.send()?;
        let mut row = None;
        self.until_ready(|kind, body| {
            match kind {
                b'D' => row = first_column(body).map(<[u8]>::to_vec),
                b'T' | b'C' | b'I' => {}
                _ => return Err(unexpected(kind)),
            }
            Ok(())
        })?;
        Ok(row)
    }

    fn copy_in(&mut self, sql: &str, rows: u32, width: usize) -> Result<()> {
        with_length(&mut self.out, Some(b'Q'), |out| text(out, sql));
        self.send()?;
        let kind = self.receive()?;
        ensure!(kind == b'G', "{}", unexpected(kind));
        let mut id = 0;
        while id < rows {
            with_length(&mut self.out, Some(b'd'), |out| {
                let full = out.len() + COPY_CHUNK;
                if id == 0 {
                    // Signature, no flags, no extension.
                    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
                    out.extend_from_slice(&[0; 8]);
                }
                while id < rows && out.len() < full {
                    out.extend_from_slice(&2u16.to_be_bytes());
                    out.extend_from_slice(&4u32.to_be_bytes());
                    out.extend_from_slice(&id.to_be_bytes());
                    out.extend_from_slice(&(width as u32).to_be_bytes());
                    payload(id, width, out);
                    id += 1;
                }
                if id == rows {
                    out.extend_from_slice(&(-1i16).to_be_bytes());
                }
            });
            self.send()?;
        }
        with_length(&mut self.out, Some(b'c'), |_| {});
        self.send()?;
        let mut tag = String::new();
        self.until_ready(|kind, body| match kind {
            b'C' => {
                tag = String::from_utf8_lossy(body)
                    .trim_end_matches('\0')
                    .to_string();
                Ok(())
            }
            _ => Err(unexpected(kind)),
        })?;
        ensure!(
            tag == format!("COPY {rows}"),
            "postgres says '{tag}' to {rows} rows"
        );
        Ok(())
    }

    fn prepare(&mut self, name: &str, sql: &str) -> Result<()> {
        with_length(&mut self.out, Some(b'P'), |out| {
            text(out, name);
            text(out, sql);
            out.extend_from_slice(&[0, 0]);
        });
        with_length(&mut self.out, Some(b'S'), |_| {});
        self.send()?;
        self.until_ready(|kind, _| match kind {
            b'1' => Ok(()),
            _ => Err(unexpected(kind)),
        })
    }

    /// Executes a prepared statement with one argument; its only row's first column is in `row`.
    fn execute(&mut self, name: &str, argument: &str, row: &mut Vec<u8>) -> Result<()> {
        with_length(&mut self.out, Some(b'B'), |out| {
            text(out, "");
            text(out, name);
            // No format codes, one argument as text, no result codes.
            out.extend_from_slice(&[0, 0, 0, 1]);
            out.extend_from_slice(&(argument.len() as u32).to_be_bytes());
            out.extend_from_slice(argument.as_bytes());
            out.extend_from_slice(&[0, 0]);
        });
        with_length(&mut self.out, Some(b'E'), |out| {
            text(out, "");
            out.extend_from_slice(&[0; 4]);
        });
        with_length(&mut self.out, Some(b'S'), |_| {});
        self.send()?;
        let mut rows = 0;
        self.until_ready(|kind, body| {
            match kind {
                b'D' => {
                    rows += 1;
                    row.clear();
                    row.extend_from_slice(first_column(body).unwrap_or_default());
                }
                b'2' | b'C' => {}
                _ => return Err(unexpected(kind)),
            }
            Ok(())
        })?;
        ensure!(rows == 1, "{rows} rows have key {argument}");
        Ok(())
    }
}

fn unexpected(kind: u8) -> Error {
    Error::Wrong(format!(
        "postgres sends an unexpected message '{}'",
        char::from(kind)
    ))
}

/// What row `id` holds: `width` letters that depend on it. Eight at a time, as the client's
/// instructions are in the figures.
fn payload(id: u32, width: usize, out: &mut Vec<u8>) {
    let mut word = mix(u64::from(id));
    let end = out.len() + width;
    while out.len() < end {
        let letters = (word & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161;
        out.extend_from_slice(&letters.to_le_bytes());
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    out.truncate(end);
}

/// The folder with the server's programs, of whatever version the image has.
fn programs() -> Result<PathBuf> {
    let base = Path::new("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = fs::read_dir(base)
        .map(|dir| dir.flatten().map(|e| e.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|d| d.join("postgres").is_file() && d.join("initdb").is_file());
    found.sort();
    found.pop().ok_or_else(|| {
        Error::System("no postgres here: add postgresql to `packages` in workloads.toml".into())
    })
}

fn start(bin: &Path, buffers: u64) -> Result<Server> {
    let mut init = server::unprivileged(&bin.join("initdb"));
    init.args(["--pgdata", DATA, "--username", USER, "--auth", "trust"])
        .args([
            "--no-locale",
            "--encoding",
            "UTF8",
            "--no-sync",
            "--no-instructions",
        ]);
    let out = init.output().map_err(Error::system("start initdb"))?;
    if !out.status.success() {
        return Err(Error::System(format!(
            "initdb ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        )));
    }
    let mut command = server::unprivileged(&bin.join("postgres"));
    command.args(["-D", DATA, "-k", "/tmp"]);
    for setting in [
        "listen_addresses=",
        // Memory is lost with the guest anyway.
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "wal_level=minimal",
        "max_wal_senders=0",
        // Nothing that comes at its own time; no huge pages but by the guest's policy.
        "autovacuum=off",
        "jit=off",
        "huge_pages=off",
        "max_connections=10",
        "max_parallel_workers_per_gather=0",
        "max_parallel_maintenance_workers=0",
        &format!("shared_buffers={buffers}MB"),
    ] {
        command.args(["-c", setting]);
    }
    Server::start("postgres", command)
}

fn measured() -> Result<Outcome> {
    let mut options = Options::from_env()?;
    let rows = options.number("rows", 10_000u32, 1, i32::MAX as u32)?;
    let width = options.number("width", 100usize, 8, 1900)?;
    let requests = options.number("requests", 1000u64, 1, u64::MAX)?;
    let size = u64::from(rows) * (width as u64 + 80);
    let buffers = options.number("buffers-mib", (size >> 20) + 32, 16, 1 << 24)?;
    let seed = options.number("seed", 1u64, 0, u64::MAX)?;
    let device = image::wanted(&mut options);
    options.finish()?;
    image::enter(device.as_deref())?;
    let mut server = start(&programs()?, buffers)?;
    let mut session = loop {
        match Session::start(server.connect(Path::new(SOCKET))?) {
            // It listens before it has read its files.
            Err(Error::Wrong(why)) if why.contains("57P03") => server.alive()?,
            session => break session?,
        }
    };
    mark::load(|| -> Result<()> {
        session.query("CREATE TABLE usertable (id integer NOT NULL, field text NOT NULL)")?;
        // Statistics of letters would cost more than the rows, and so would COPY's text format.
        session.query("ALTER TABLE usertable ALTER COLUMN field SET STATISTICS 0")?;
        session.copy_in("COPY usertable FROM STDIN (FORMAT binary)", rows, width)?;
        session.query("ALTER TABLE usertable ADD PRIMARY KEY (id)")?;
        session.query("VACUUM ANALYZE usertable")?;
        Ok(())
    })?;
    session.prepare("get", "SELECT field FROM usertable WHERE id = $1::integer")?;
    let (mut row, mut want) = (Vec::new(), Vec::new());
    mark::run(|| -> Result<()> {
        let mut rng = Rng::new(seed);
        for _ in 0..requests {
            let id = rng.below(u64::from(rows)) as u32;
            session.execute("get", &id.to_string(), &mut row)?;
            want.clear();
            payload(id, width, &mut want);
            ensure!(row == want, "row {id} is not what was stored");
        }
        Ok(())
    })?;
    let sum: u64 = (0..u64::from(rows)).sum();
    let got = session.query("SELECT count(*) || ' ' || sum(id) FROM usertable")?;
    let got = String::from_utf8_lossy(&got.unwrap_or_default()).into_owned();
    ensure!(
        got == format!("{rows} {sum}"),
        "count and sum of all rows are '{got}'"
    );
    server.alive()?;
    Ok(Outcome::new(format!(
        "{rows} rows stored, {requests} reads returned what was stored"
    ))
    .figure("rows", rows)
    .figure("requests", requests)
    .figure("row_bytes", width as u64))
}

fn main() {
    outcome::end("postgres", measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        with_length(&mut out, Some(kind), |out| out.extend_from_slice(body));
        out
    }

    fn row(value: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
        message(b'D', &body)
    }

    /// A session with a server that says just this.
    fn session(answers: &[&[u8]]) -> (Session, UnixStream) {
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&answers.concat()).unwrap();
        let session = Session {
            connection: Connection::new(mine).unwrap(),
            out: Vec::new(),
            message: Vec::new(),
        };
        (session, theirs)
    }

    #[test]
    fn answers() {
        let ready = message(b'Z', b"I");
        let (mut s, _keep) = session(&[
            &message(b'2', b""),
            &row(b"abc"),
            &message(b'C', b"SELECT 1\0"),
            &ready,
        ]);
        let mut out = Vec::new();
        s.execute("get", "7", &mut out).unwrap();
        assert_eq!(out, b"abc");

        for bad in [
            [message(b'2', b""), message(b'C', b"SELECT 0\0")].concat(),
            [row(b"a"), row(b"b")].concat(),
            message(b'E', b"SERROR\0C42P01\0Mno table\0\0"),
            message(b'?', b""),
            vec![b'D', 0, 0, 0, 1],
            vec![b'D', 0xff, 0xff, 0xff, 0xff],
        ] {
            let (mut s, _keep) = session(&[&bad, &ready]);
            assert!(
                matches!(s.execute("get", "7", &mut out), Err(Error::Wrong(_))),
                "{bad:?}"
            );
        }
        let (mut s, theirs) = session(&[]);
        drop(theirs);
        assert!(matches!(s.query("SELECT 1"), Err(Error::System(_))));
    }

    #[test]
    fn columns() {
        assert_eq!(first_column(&[0, 1, 0, 0, 0, 2, 7, 8]), Some(&[7u8, 8][..]));
        for bad in [
            &[0, 0][..],
            &[0, 1, 0, 0, 0, 3, 7, 8],
            &[0, 1, 0xff, 0xff, 0xff, 0xff],
            &[],
        ] {
            assert_eq!(first_column(bad), None);
        }
    }

    #[test]
    fn payloads() {
        let make = |id, width| {
            let mut out = Vec::new();
            payload(id, width, &mut out);
            out
        };
        assert_eq!(make(1, 30), make(1, 30));
        assert_ne!(make(1, 30), make(2, 30));
        assert!(make(3, 100).iter().all(u8::is_ascii_alphanumeric));
        assert_eq!(make(3, 100).len(), 100);
    }
}
