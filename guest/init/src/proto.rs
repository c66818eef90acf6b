// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control channel: one JSON object per line in each direction over the virtio port `fpt.ctl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the virtio port.
pub const PORT: &str = "fpt.ctl";
/// Raised whenever a message changes its meaning; the host refuses a guest with another number.
pub const VERSION: u32 = 1;
/// The guest says that it is alive this often, also while a command runs silently.
pub const HEARTBEAT_S: u64 = 5;

/// Host to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Run a command.
    Exec(Exec),
    /// Input for command `id`.
    In {
        /// The command.
        id: u64,
        /// The bytes.
        #[serde(flatten)]
        data: Bytes,
    },
    /// End of input for command `id`.
    Eof {
        /// The command.
        id: u64,
    },
    /// New terminal size for command `id`.
    Resize {
        /// The command.
        id: u64,
        /// Lines of the terminal.
        rows: u16,
        /// Characters in a line.
        cols: u16,
    },
    /// Deliver a signal to the process group of command `id`.
    Signal {
        /// The command.
        id: u64,
        /// The signal's number.
        signal: i32,
    },
    /// End the guest.
    Poweroff,
}

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The number that names it in later messages; the host chooses it.
    pub id: u64,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the guest's default environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The folder to run in; /root without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// 0: no limit. At the limit the whole process group is killed.
    #[serde(default)]
    pub timeout_s: u64,
    /// Give the command a pseudo terminal of its own (job control works there).
    #[serde(default)]
    pub tty: bool,
    /// Lines of its terminal.
    #[serde(default)]
    pub rows: u16,
    /// Characters in a line of its terminal.
    #[serde(default)]
    pub cols: u16,
    /// Open a pipe for `In`; otherwise standard input is /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// After it ended, kill every other process of the guest: the next command starts clean.
    #[serde(default)]
    pub solo: bool,
    /// Written to the kernel log as `fpt-init: begin MARK` and `fpt-init: end MARK`, so that console
    /// messages can be given to the command that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Bytes of output that are passed on; what comes after them is read and dropped. 0: all.
    #[serde(default)]
    pub most_output: u64,
}

/// A process at its end, as `fpt-init mark` writes it down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The number of the process.
    pub pid: i32,
    /// Its name, as the kernel has it.
    pub comm: String,
    /// Its page tables, in KiB.
    pub page_tables_kb: u64,
    /// The most of its memory that was resident at a time, in KiB.
    pub most_resident_kb: u64,
    /// Its `/proc/PID/maps`.
    pub maps: String,
}

/// A stream that a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Guest to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Ev {
    /// First message: mounts are done, commands are accepted.
    Ready {
        /// The version of this protocol.
        version: u32,
        /// The kernel, as `uname -a` says it.
        uname: String,
        /// Time from the start of the kernel's clock to the start of init.
        boot_ms: u64,
        /// Is the shared host folder mounted at /host?
        #[serde(default)]
        host: bool,
    },
    /// Output of a command.
    Out {
        /// The command.
        id: u64,
        /// The stream that it wrote to.
        stream: Stream,
        /// The bytes.
        #[serde(flatten)]
        data: Bytes,
    },
    /// The end of a command.
    Exit {
        /// The command.
        id: u64,
        /// Exit status; 0 when a signal ended it; 126 or 127 when it could not be started.
        code: i32,
        /// Signal number, 0 if none.
        signal: i32,
        /// Whether it was killed because it took too long.
        timeout: bool,
        /// How long it ran, in milliseconds.
        ms: u64,
    },
    /// Sent every `HEARTBEAT_S` seconds.
    Alive {
        /// Milliseconds since the guest began.
        up_ms: u64,
    },
    /// Something the host should show, e.g. a request that cannot be served.
    Note {
        /// The words.
        text: String,
    },
}

/// Bytes as JSON: text where they are UTF-8, base64 where not. Nothing is lost either way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64: Option<String>,
}

impl Bytes {
    /// Bytes on their way through JSON.
    pub fn new(raw: &[u8]) -> Self {
        match std::str::from_utf8(raw) {
            Ok(text) => Self {
                data: Some(text.to_owned()),
                b64: None,
            },
            Err(_) => Self {
                data: None,
                b64: Some(b64_encode(raw)),
            },
        }
    }

    /// `None` if the sender's base64 is broken.
    pub fn to_vec(&self) -> Option<Vec<u8>> {
        match (&self.data, &self.b64) {
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(text)) => b64_decode(text),
            (None, None) => Some(Vec::new()),
            (Some(_), Some(_)) => None,
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn b64_encode(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len().div_ceil(3) * 4);
    for part in raw.chunks(3) {
        let byte = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            if i <= part.len() {
                out.push(char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn b64_decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() & 3 != 0 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for (n, part) in text.chunks(4).enumerate() {
        let last = (n + 1) * 4 == text.len();
        let pad = part.iter().rev().take_while(|c| **c == b'=').count();
        if pad > 2 || (pad > 0 && !last) {
            return None;
        }
        let mut word = 0u32;
        for c in &part[..4 - pad] {
            let value = ALPHABET.iter().position(|a| a == c)?;
            word = word << 6 | value as u32;
        }
        word <<= 6 * pad as u32;
        out.extend_from_slice(&word.to_be_bytes()[1..4 - pad]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive() {
        for len in 0..70usize {
            let raw: Vec<u8> = (0..len).map(|i| (i * 37 + 129) as u8).collect();
            let line = serde_json::to_string(&Ev::Out {
                id: 1,
                stream: Stream::Stdout,
                data: Bytes::new(&raw),
            })
            .unwrap();
            assert!(!line.contains('\n'));
            match serde_json::from_str(&line).unwrap() {
                Ev::Out { data, .. } => assert_eq!(data.to_vec().unwrap(), raw),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(b64_encode(b"fo"), "Zm8=");
        assert_eq!(b64_decode("Zm9vYg=="), Some(b"foob".to_vec()));
        assert_eq!(b64_decode("Zm9"), None);
        assert_eq!(b64_decode("Zg==Zg=="), None);
        assert_eq!(b64_decode("Z@=="), None);
    }

    #[test]
    fn exec_has_defaults() {
        let op: Op = serde_json::from_str(r#"{"op":"exec","id":7,"argv":["true"]}"#).unwrap();
        assert_eq!(
            op,
            Op::Exec(Exec {
                id: 7,
                argv: vec!["true".into()],
                ..Exec::default()
            })
        );
    }

    #[test]
    fn text_stays_readable() {
        let line = serde_json::to_string(&Op::In {
            id: 2,
            data: Bytes::new(b"ls\n"),
        })
        .unwrap();
        assert_eq!(line, r#"{"op":"in","id":2,"data":"ls\n"}"#);
    }
}
