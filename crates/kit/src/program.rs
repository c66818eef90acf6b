// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kit says of the program that it is a part of.

use std::sync::OnceLock;

/// Words of the program in the kit's errors, and its own variables of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What to do where another program is missing.
    pub install: &'static str,
    /// What to do where the disk is full.
    pub free_space: &'static str,
    /// The variable that asks for output without colours and moving lines; empty for none.
    pub plain: &'static str,
}

const ANY: Program = Program {
    install: "install it",
    free_space: "free some space and run the same command again",
    plain: "",
};

static PROGRAM: OnceLock<Program> = OnceLock::new();

impl Program {
    /// From here on the kit speaks for this program. Only the first call counts.
    pub fn introduce(self) {
        let _ = PROGRAM.set(self);
    }

    /// The program that was introduced, or any.
    pub(crate) fn this() -> Program {
        PROGRAM.get().copied().unwrap_or(ANY)
    }
}

#[cfg(test)]
mod tests {
    /// The kit is of use to any program, so its code names none.
    #[test]
    fn no_word_of_this_project() {
        let words = ["fpt", "xtask", "qemu", "radix"];
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("program.rs") {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            for word in words {
                assert!(!text.contains(word), "{word} in {}", path.display());
            }
        }
        assert!(files >= 6);
    }
}
