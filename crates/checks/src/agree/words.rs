// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guest programs, the kernel and QEMU's monitor print, read back.

use fpt_geometry::{Level, NodeKind};
use fpt_kit::Fail;

use super::answers::{Shape, Software, Sum};

pub(super) fn odd(what: &str, text: &str) -> anyhow::Error {
    Fail::infra(
        format!("{what} is not understood"),
        format!("'{}'", text.trim()),
        "are kernel, QEMU and this tool of one checkout?",
    )
}

/// `WORD pte 1 pmd 2 pud 3 hash 4` by word.
pub(super) fn sum(line: &str) -> Option<(&str, Sum)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [who, "pte", ptes, "pmd", pmds, "pud", puds, "hash", hash] => Some((
            who,
            Sum {
                ptes: ptes.parse().ok()?,
                pmds: pmds.parse().ok()?,
                puds: puds.parse().ok()?,
                hash: u64::from_str_radix(hash, 16).ok()?,
            },
        )),
        _ => None,
    }
}

/// `root 1 mid 2 bottom 3`, and `VmPTE: 4 kB` or `kib 4`.
pub(super) fn shape(text: &str) -> Option<Shape> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(Shape {
        root: value(NodeKind::Root.name())?,
        mid: value(NodeKind::Mid.name())?,
        bottom: value(NodeKind::Bottom.name())?,
        kib: value("VmPTE:").or_else(|| value("kib"))?,
    })
}

pub(super) fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// `software leaf|absent slot S value V shift|level N`, or `software bad level N`.
pub(super) fn software(line: &str) -> Option<Result<Software, String>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["software", sort, "slot", slot, "value", value, key, n] => {
            let n: u32 = n.parse().ok()?;
            let (shift, level) = match (*sort, *key) {
                ("leaf", "shift") => (Some(n), Level::from_shift(n)?),
                ("absent", "level") => (None, Level::from_number(n)?),
                _ => return None,
            };
            Some(Ok(Software {
                slot: hex(slot)?,
                value: hex(value)?,
                shift,
                level,
            }))
        }
        ["software", "bad", "level", n] => Some(Err(format!("a bad entry in level {n}"))),
        _ => None,
    }
}

/// `vmemmap 0xADDR page N word1 N`: where the kernel has its `struct page`s, for `fpt-look`.
pub(super) fn layout(text: &str) -> Option<[String; 3]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["vmemmap", vmemmap, "page", page, "word1", word1] = words.as_slice() else {
        return None;
    };
    hex(vmemmap)?;
    let decimal = |word: &str| word.parse::<u64>().ok();
    (decimal(page)? > decimal(word1)?).then(|| [vmemmap, page, word1].map(|w| w.to_string()))
}

/// The value of a register in `info registers`.
pub(super) fn register(text: &str, name: &str) -> Option<u64> {
    let at = text.find(&format!("{name}="))? + name.len() + 1;
    let end = text[at..]
        .find(|c: char| !c.is_ascii_hexdigit())
        .map_or(text.len(), |n| at + n);
    u64::from_str_radix(&text[at..end], 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_init::sample::TOKEN;

    #[test]
    fn lines() {
        assert_eq!(
            sum("tentry   pte 10 pmd 2 pud 0 hash 00000000000000ff\n"),
            Some((
                "tentry",
                Sum {
                    ptes: 10,
                    pmds: 2,
                    puds: 0,
                    hash: 255
                }
            ))
        );
        assert_eq!(sum("equal"), None);
        let text =
            "EAX=1 CR3=0010000012345000 CR4=40000020\nR12=46500000000000ff\nEFER=0000000000000d01";
        assert_eq!(register(text, "CR3"), Some(0x0010_0000_1234_5000));
        assert_eq!(register(text, "R12"), Some(TOKEN | 0xff));
        assert_eq!(register(text, "EFER"), Some(0xd01));
        assert_eq!(register(text, "CR8"), None);
        assert!(software("software leaf slot 0x1 value 0x2 level 1").is_none());
        assert!(software("software bad level 4").unwrap().is_err());
        assert!(software("").is_none());
        let numbers = ["0xffffea0000000000", "64", "8"].map(String::from);
        let line = "vmemmap 0xffffea0000000000 page 64 word1 8\n";
        assert_eq!(layout(line), Some(numbers));
        for bad in [
            "",
            "vmemmap 0xffffea0000000000 page 64",
            "vmemmap ffffea0000000000 page 64 word1 8",
            "vmemmap 0xffffea0000000000 page 64 word1 64",
            "cat: can't open 'layout': No such file or directory",
        ] {
            assert_eq!(layout(bad), None, "{bad}");
        }
    }
}
