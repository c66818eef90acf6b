// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's monitor: QMP, and the human commands that it passes on.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use fpt_kit::{locked, Fail, Result};

use super::channels::Writer;

/// A connection that is made when QEMU starts and greeted when it is first used.
pub(crate) struct Monitor {
    stream: Writer,
    buffer: Vec<u8>,
    greeted: bool,
}

impl Monitor {
    pub(crate) fn new(stream: Writer) -> Monitor {
        Monitor {
            stream,
            buffer: Vec::new(),
            greeted: false,
        }
    }

    /// A command of the human monitor; its text.
    pub(crate) fn command(&mut self, line: &str) -> Result<String> {
        if !self.greeted {
            self.qmp("qmp_capabilities", None)?;
            self.greeted = true;
        }
        let value = self.qmp(
            "human-monitor-command",
            Some(serde_json::json!({ "command-line": line })),
        )?;
        Ok(value.as_str().unwrap_or("").replace("\r\n", "\n"))
    }

    /// Another command of QMP; its answer.
    pub(crate) fn qmp(
        &mut self,
        name: &str,
        args: Option<serde_json::Value>,
    ) -> Result<serde_json::Value> {
        let broken = |why: String| {
            Fail::infra(
                "the monitor does not answer",
                why,
                "see qemu.log of the run folder",
            )
        };
        let mut request = serde_json::json!({ "execute": name });
        if let Some(args) = args {
            request["arguments"] = args;
        }
        // QEMU connected before the guest began, but the thread that accepts may be late on a busy host.
        let give_up = Instant::now() + Duration::from_secs(5);
        let mut stream = loop {
            if let Some(stream) = locked(&self.stream).as_ref() {
                break stream.try_clone().map_err(|e| broken(e.to_string()))?;
            }
            if Instant::now() >= give_up {
                return Err(broken("QEMU never connected".into()));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(|e| broken(e.to_string()))?;
        stream
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|e| broken(e.to_string()))?;
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let value: serde_json::Value =
                    serde_json::from_slice(&line).map_err(|e| broken(e.to_string()))?;
                if let Some(error) = value.get("error") {
                    return Err(broken(error.to_string()));
                }
                if let Some(answer) = value.get("return") {
                    return Ok(answer.clone());
                }
            }
            let mut raw = [0; 4096];
            match stream.read(&mut raw) {
                Ok(0) => return Err(broken("it was closed".into())),
                Ok(len) => self.buffer.extend_from_slice(&raw[..len]),
                Err(e) => return Err(broken(e.to_string())),
            }
        }
    }
}
