// SPDX-License-Identifier: MIT OR Apache-2.0
//! The person's terminal while a shell of the guest uses it.

use std::io;

use anyhow::Context as _;
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, OptionalActions, Termios};

use fpt_kit::Result;

/// Every key goes to the guest. Dropped, the terminal is as before.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Gives every key to the guest until the value goes.
    ///
    /// # Errors
    ///
    /// Standard input is no terminal.
    pub fn enter() -> Result<RawTerminal> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)
            .context("cannot change the terminal's settings")?;
        Ok(RawTerminal { before })
    }

    /// Lines and characters in a line.
    pub fn size(&self) -> (u16, u16) {
        size()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns.
pub fn size() -> (u16, u16) {
    tcgetwinsize(io::stdin()).map_or((24, 80), |s| (s.ws_row, s.ws_col))
}
