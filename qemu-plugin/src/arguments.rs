// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of a plugin: `key=value`, as QEMU hands them over.

use std::path::Path;

/// Gives each argument to `take`, which says whether it knows this key with this value.
///
/// # Errors
///
/// An argument that is not known, with `usage` for what was expected; or what `take` has against it.
pub fn arguments(
    args: &[String],
    usage: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<(), String> {
    for arg in args {
        let known = match arg.split_once('=') {
            Some((key, value)) => take(key, value)?,
            None => false,
        };
        if !known {
            return Err(format!("unknown argument '{arg}': {usage}"));
        }
    }
    Ok(())
}

/// Asks for the arguments that there must be: pairs of key and path, which is empty without the argument.
///
/// # Errors
///
/// The first that is missing, with `usage` for what was expected.
pub fn required(paths: &[(&str, &Path)], usage: &str) -> Result<(), String> {
    match paths.iter().find(|(_, path)| path.as_os_str().is_empty()) {
        Some((key, _)) => Err(format!("missing argument {key}=: {usage}")),
        None => Ok(()),
    }
}

/// Makes sure that `path` can be written and is not there: a result of an earlier run must not be taken for this
/// one's.
///
/// # Errors
///
/// It cannot be written.
pub fn fresh(path: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    std::fs::write(path, "").map_err(failed)?;
    std::fs::remove_file(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let mut out = String::new();
        arguments(&args, "expected out=FILE", |key, value| match key {
            "out" if value == "/" => Err("out=/ is no file".into()),
            "out" => {
                out = value.to_owned();
                Ok(true)
            }
            _ => Ok(false),
        })?;
        required(&[("out", Path::new(&out))], "expected out=FILE")?;
        Ok(out)
    }

    #[test]
    fn each_is_known_or_refused() {
        assert_eq!(of(&["out=a=b"]).unwrap(), "a=b");
        assert_eq!(
            of(&["x=1"]).unwrap_err(),
            "unknown argument 'x=1': expected out=FILE"
        );
        assert!(of(&["out"]).unwrap_err().starts_with("unknown argument"));
        assert_eq!(of(&["out=/"]).unwrap_err(), "out=/ is no file");
        assert_eq!(
            of(&[]).unwrap_err(),
            "missing argument out=: expected out=FILE"
        );
    }

    #[test]
    fn an_old_result_goes() {
        let path = std::env::temp_dir().join(format!("fpt-fresh-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        fresh(&path).unwrap();
        assert!(!path.exists());
        assert!(fresh(Path::new("/absent/x"))
            .unwrap_err()
            .contains("/absent/x"));
    }
}
