// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the machine's apt source entries, one-line and deb822 style, to derive private
//! ones from: the mirror and its keys are the machine's own choice.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use fpt_kit::Result;

/// One archive: an URI with one suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The archive's address.
    pub uri: String,
    /// The suite, such as `trixie`.
    pub suite: String,
    /// The components, such as `main`.
    pub components: Vec<String>,
    /// Fields to keep, in deb822 spelling; values may span lines (inline keys).
    pub fields: Vec<(String, String)>,
}

impl Entry {
    /// As a deb822 stanza for another suite or type.
    pub fn stanza(&self, kind: &str, suite: &str) -> String {
        let mut text = format!(
            "Types: {kind}\nURIs: {}\nSuites: {suite}\nComponents: {}\n",
            self.uri,
            self.components.join(" ")
        );
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }

    /// The suite without `-security` and the like; `-` alone if none.
    pub fn base_suite(&self) -> &str {
        self.suite.split(['-', '/']).next().unwrap_or(&self.suite)
    }

    /// Whether it is a release itself, not its updates or backports.
    pub fn is_main_suite(&self) -> bool {
        self.base_suite() == self.suite
    }
}

const KEPT: [&str; 3] = ["Signed-By", "Trusted", "Check-Valid-Until"];

/// All binary-package entries below an apt configuration folder.
pub fn read(etc: &Path) -> Result<Vec<Entry>> {
    let mut out = Vec::new();
    let main = etc.join("sources.list");
    if main.is_file() {
        out.extend(one_line(&read_text(&main)?));
    }
    let dir = etc.join("sources.list.d");
    if dir.is_dir() {
        let mut files: Vec<_> = fs::read_dir(&dir)
            .with_context(|| format!("cannot list {}", dir.display()))?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .collect();
        files.sort();
        for path in files {
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => out.extend(one_line(&read_text(&path)?)),
                Some("sources") => out.extend(deb822(&read_text(&path)?)),
                _ => {}
            }
        }
    }
    out.retain(|e| !e.uri.starts_with("cdrom:"));
    Ok(out)
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn one_line(text: &str) -> Vec<Entry> {
    let mut out = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t']))
        else {
            continue;
        };
        let mut rest = rest.trim_start();
        let mut fields = Vec::new();
        if let Some(inner) = rest.strip_prefix('[') {
            let Some((options, tail)) = inner.split_once(']') else {
                continue;
            };
            for option in options.split_whitespace() {
                if let Some((name, value)) = option.split_once('=') {
                    if let Some(kept) = KEPT.iter().find(|k| k.eq_ignore_ascii_case(name)) {
                        fields.push((kept.to_string(), value.to_string()));
                    }
                }
            }
            rest = tail;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = words.as_slice() {
            out.push(Entry {
                uri: uri.to_string(),
                suite: suite.trim_end_matches('/').to_string(),
                components: components.iter().map(|c| c.to_string()).collect(),
                fields,
            });
        }
    }
    out
}

fn deb822(text: &str) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            out.extend(entries_of(&std::mem::take(&mut stanza)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_string(), value.trim().to_string()));
        }
    }
    out
}

fn entries_of(stanza: &[(String, String)]) -> Vec<Entry> {
    let get = |name: &str| {
        stanza
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        get(name)
            .unwrap_or("")
            .split_whitespace()
            .map(str::to_string)
            .collect()
    };
    let off = get("Enabled").is_some_and(|v| matches!(v, "no" | "false" | "0"));
    if off || !words("Types").iter().any(|t| t == "deb") {
        return Vec::new();
    }
    let fields: Vec<(String, String)> = KEPT
        .iter()
        .filter_map(|k| get(k).map(|v| (k.to_string(), v.to_string())))
        .collect();
    let mut out = Vec::new();
    for uri in words("URIs") {
        for suite in words("Suites") {
            out.push(Entry {
                uri: uri.clone(),
                suite: suite.trim_end_matches('/').to_string(),
                components: words("Components"),
                fields: fields.clone(),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_style() {
        let got = one_line(
            "# deb http://no x main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib # c\n\
             deb-src http://m.example/debian bookworm main\n\
             debx http://bad x\n\
             deb [trusted=yes] file:/repo bookworm-security main\n",
        );
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].uri, "http://m.example/debian");
        assert_eq!(got[0].components, ["main", "contrib"]);
        assert_eq!(got[0].fields, [("Signed-By".into(), "/k.gpg".into())]);
        assert!(got[0].is_main_suite() && !got[1].is_main_suite());
        assert_eq!(got[1].base_suite(), "bookworm");
    }

    #[test]
    fn deb822_style_with_inline_key_and_disabled_stanza() {
        let got = deb822(
            "Types: deb deb-src\nURIs: http://a.example/ http://b.example/\nSuites: trixie trixie-updates\n\
             Components: main\nSigned-By:\n -----BEGIN\n .\n abc\n\n# note\nTypes: deb\nURIs: http://c.example/\n\
             Suites: trixie\nEnabled: no\n",
        );
        assert_eq!(got.len(), 4);
        let stanza = got[0].stanza("deb-src", "sid");
        assert!(stanza.contains("Suites: sid\n"));
        assert!(stanza.contains("Signed-By: \n -----BEGIN\n .\n abc\n"));
    }
}
