// SPDX-License-Identifier: MIT OR Apache-2.0
//! Object files of a build.

use std::path::Path;

use anyhow::Context as _;

use fpt_kit::Result;

/// What `look` finds in an object file.
///
/// # Errors
///
/// The file cannot be read or is no object file, or `look` fails.
pub fn with<T>(path: &Path, look: impl FnOnce(&object::File<'_>) -> Result<T>) -> Result<T> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*data)
        .with_context(|| format!("{} is not an object file", path.display()))?;
    look(&file)
}
