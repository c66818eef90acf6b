// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--fragment`: a command runs while a share of the guest's free memory has no block of 2 MiB.

/// The words that start a command while this share of memory, in per cent, is in pieces; without a share the command as it is.
pub fn started(percent: Option<u32>, command: Vec<String>) -> Vec<String> {
    match percent {
        None => command,
        Some(percent) => {
            let words = ["/init".into(), "fragment".into(), percent.to_string()];
            words.into_iter().chain(command).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_keeps_its_words() {
        let command = ["sh", "-c", "exec a  b"].map(String::from).to_vec();
        assert_eq!(started(None, command.clone()), command);
        assert_eq!(
            started(Some(90), command),
            ["/init", "fragment", "90", "sh", "-c", "exec a  b"]
        );
    }
}
