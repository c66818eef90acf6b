// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--process-mode`: one program with tables of a mode of its own, in a guest that has nodes of every kind.

use fpt_geometry::{Boot, Mode};

/// The program of the guest that chooses tables and then becomes the command.
const FPTCTL: &str = "fptctl";

/// The words that start a command with tables of this mode.
pub fn started(mode: Mode, command: Vec<String>) -> Vec<String> {
    let choice = [FPTCTL, "exec", mode.name(), "--"].map(String::from);
    choice.into_iter().chain(command).collect()
}

/// The words that start the nth command of a load: under mixed with the tables of each mode in turn, and
/// every fifth with what comes without asking; else as it is.
pub fn dealt(boot: Boot, n: usize, command: Vec<String>) -> Vec<String> {
    match boot {
        Boot::Mode(_) => command,
        Boot::Mixed => match Mode::ALL.get(n % (Mode::COUNT + 1)) {
            Some(mode) => started(*mode, command),
            None => command,
        },
    }
}

/// As tools print it, after what the guest has.
pub fn described(mode: Mode) -> String {
    format!("process mode {mode}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_keeps_its_words() {
        let command = ["sh", "-c", "exec a  b"].map(String::from).to_vec();
        assert_eq!(
            started(Mode::L4L3L2L1, command),
            ["fptctl", "exec", "l4l3-l2l1", "--", "sh", "-c", "exec a  b"]
        );
        assert_eq!(described(Mode::L3L2), "process mode l3l2");
    }

    #[test]
    fn a_mixed_load_has_processes_of_every_mode() {
        let of = |boot, n| dealt(boot, n, vec!["x".into()]);
        let plain = vec!["x".to_string()];
        for (n, mode) in Mode::ALL.into_iter().enumerate() {
            assert_eq!(of(Boot::Mixed, n), started(mode, plain.clone()));
            assert_eq!(of(mode.into(), n), plain);
        }
        assert_eq!(of(Boot::Mixed, 4), plain);
        assert_eq!(of(Boot::Mixed, 5), of(Boot::Mixed, 0));
    }
}
