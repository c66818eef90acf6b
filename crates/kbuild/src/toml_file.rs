// SPDX-License-Identifier: MIT OR Apache-2.0
//! TOML files of a checkout.

use std::path::Path;

use anyhow::Context as _;
use fpt_kit::{Fail, Result};
use serde::de::DeserializeOwned;

/// What a file says; `fix` is the advice where it is not valid.
///
/// # Errors
///
/// The file cannot be read, or is not what is expected.
pub(crate) fn load<T: DeserializeOwned>(path: &Path, fix: &str) -> Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).map_err(|e| {
        Fail::infra(
            format!("{} is not valid", path.display()),
            e.message().to_string(),
            fix,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("BASE");
        let said = || format!("{:#}", load::<toml::Table>(&path, "mend it").unwrap_err());
        assert!(said().contains("cannot read"));
        std::fs::write(&path, "a = ").unwrap();
        let text = said();
        assert!(
            text.contains("BASE is not valid") && text.contains("mend it"),
            "{text}"
        );
        std::fs::write(&path, "a = 1").unwrap();
        assert_eq!(load::<toml::Table>(&path, "").unwrap().len(), 1);
    }
}
