// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings as text and JSON.

use std::fmt::Write as _;

use fpt_tlbsan_model::{
    Certainty, Finding, Flushed, Geometry, Holder, Invalidation, Mode, Origin, Rule, Site, What,
    Why,
};
use serde_json::{json, Value};

use crate::symbols::Symbols;

/// The layout of the result.
pub const SCHEMA: &str = "fpt-tlbsan/2";

/// Equal findings: the same rule, who took away, who freed.
struct Kept {
    key: (Rule, Option<Site>, Site),
    certainty: Certainty,
    count: u64,
    text: String,
    json: Value,
}

/// What was found, equal findings once.
#[derive(Default)]
pub struct Findings(Vec<Kept>);

/// Different findings at most.
const KEPT: usize = 1000;

impl Findings {
    pub fn add(&mut self, finding: &Finding, geometry: &Geometry, symbols: &Symbols) {
        let taken = finding.taken.as_ref().map(|t| t.by.site);
        let key = (finding.rule, taken, finding.by.site);
        if let Some(kept) = self.0.iter_mut().find(|k| k.key == key) {
            kept.count += 1;
            return;
        }
        if self.0.len() >= KEPT {
            // All further ones count for the last.
            if let Some(last) = self.0.last_mut() {
                last.count += 1;
            }
            return;
        }
        self.0.push(Kept {
            key,
            certainty: finding.certainty,
            count: 1,
            text: text(finding, geometry, symbols),
            json: json(finding, geometry, symbols),
        });
    }

    fn sum(&self, certainty: Certainty) -> u64 {
        let of = self.0.iter().filter(|k| k.certainty == certainty);
        of.map(|k| k.count).sum()
    }

    pub fn errors(&self) -> u64 {
        self.sum(Certainty::Error)
    }

    pub fn warnings(&self) -> u64 {
        self.sum(Certainty::Warning)
    }

    pub fn texts(&self) -> Vec<String> {
        let times = |k: &Kept| match k.count {
            1 => String::new(),
            n => format!("  and {} more of the kind\n", n - 1),
        };
        self.0
            .iter()
            .map(|k| format!("{}{}", k.text, times(k)))
            .collect()
    }

    pub fn json(&self) -> Value {
        let all = self.0.iter().map(|k| {
            let mut value = k.json.clone();
            if let Value::Object(map) = &mut value {
                map.insert("count".into(), k.count.into());
            }
            value
        });
        Value::Array(all.collect())
    }
}

fn who(by: &Origin, symbols: &Symbols) -> String {
    let task = match by.task.0 {
        0 => String::new(),
        task => format!(", task {task:#x}"),
    };
    let site = match by.site.0 {
        0 => String::new(),
        pc => format!(", {}", symbols.name(pc)),
    };
    let micros = by.time;
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    format!("CPU {}{task}{site}, at {seconds}.{micros:06} s", by.cpu.0)
}

fn doing(holder: &Holder) -> String {
    let mode = match holder.mode {
        Mode::Kernel => "in the kernel",
        Mode::User => "in user mode",
        Mode::Halted => "halted",
    };
    match holder.root {
        Some(root) => format!("{mode}, root {:#x}", root.frame.address()),
        None => format!("{mode}, no root"),
    }
}

fn flush(what: &Flushed) -> String {
    match what {
        Flushed::By(Invalidation::Page(va)) => format!("INVLPG {va:#x}"),
        Flushed::By(Invalidation::Fault(va)) => format!("page fault at {va:#x}"),
        Flushed::By(Invalidation::Everything) => "everything".into(),
        Flushed::By(other) => format!("{other:?}"),
        Flushed::Cr3(Some(root)) => format!("CR3 {:#x}", root.frame.address()),
        Flushed::Cr3NoFlush(Some(root)) => format!("CR3 {:#x}, no flush", root.frame.address()),
        Flushed::Cr3(None) | Flushed::Cr3NoFlush(None) => "no root".into(),
    }
}

fn why(finding: &Finding, geometry: &Geometry) -> String {
    match &finding.why {
        Why::Loaded(_) => "it is loaded".into(),
        Why::StillLinked(place) => format!(
            "a table of {}s at va {:#x}, still linked",
            Geometry::entry_name(place.level),
            geometry.canonical(place.va)
        ),
        Why::Pending => "no invalidation in between".into(),
        Why::Relinked(place) => format!(
            "linked as a table of {}s at va {:#x}",
            Geometry::entry_name(place.level),
            geometry.canonical(place.va)
        ),
        Why::Overwritten { entry, value } => format!("{value:#x} stored to {entry:#x}"),
        Why::Mapped { va } => format!("mapped as a page at {va:#x}"),
        Why::Returned => "the task is back in user mode".into(),
        Why::Overdue { age } => format!("{} ms later", age / 1000),
        Why::MappedAnew { va, leaf } => format!("va {va:#x} now has frame {:#x}", leaf.frame.0),
        Why::BitsLost { entry } => format!("set in {entry:#x}, which is gone"),
    }
}

/// The text of a finding, as docs/explanation/tlbsan.md shows it.
pub fn text(finding: &Finding, geometry: &Geometry, symbols: &Symbols) -> String {
    let mut s = format!("TLBSAN {finding}\n");
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(s, "  {key:<9}{value}");
    };
    if let Some(t) = &finding.taken {
        let flat = match t.what {
            What::Table(p) if p.frames > 1 => " (FLAT)",
            _ => "",
        };
        let end = t.va.wrapping_add(geometry.span(t.level) - 1);
        line(
            "entry",
            &format!(
                "{} at {:#x}, va {:#x}-{end:#x}: {:#x}{flat} -> {:#x}",
                Geometry::entry_name(t.level),
                t.entry,
                t.va,
                t.old,
                t.new
            ),
        );
        line("removed", &who(&t.by, symbols));
    }
    line("why", &why(finding, geometry));
    for holder in &finding.holders {
        line(
            "held by",
            &format!("CPU {}: {}", holder.cpu.0, doing(holder)),
        );
        for past in holder.flushes.iter().rev().take(3) {
            let when = finding.by.time.saturating_sub(past.origin.time);
            line("", &format!("{}, {when} us before", flush(&past.what)));
        }
    }
    line("now", &who(&finding.by, symbols));
    line(
        "rule",
        &format!(
            "docs/explanation/tlbsan.md#{}",
            finding.rule.name().trim_end_matches('\'').to_lowercase()
        ),
    );
    s
}

fn origin(by: &Origin, symbols: &Symbols) -> Value {
    json!({
        "cpu": by.cpu.0,
        "task": by.task.0,
        "site": symbols.name(by.site.0),
        "us": by.time,
    })
}

fn json(finding: &Finding, geometry: &Geometry, symbols: &Symbols) -> Value {
    let taken = finding.taken.as_ref().map(|t| {
        json!({
            "entry": t.entry,
            "name": Geometry::entry_name(t.level),
            "va": t.va,
            "old": t.old,
            "new": t.new,
            "by": origin(&t.by, symbols),
        })
    });
    let holders = finding.holders.iter().map(|h| {
        let flushes = h.flushes.iter().map(|f| flush(&f.what));
        json!({
            "cpu": h.cpu.0,
            "doing": doing(h),
            "flushes": flushes.collect::<Vec<_>>(),
        })
    });
    json!({
        "rule": finding.rule.name(),
        "warning": finding.certainty == Certainty::Warning,
        "why": why(finding, geometry),
        "frame": finding.frame.0,
        "frames": finding.frames,
        "taken": taken,
        "holders": holders.collect::<Vec<_>>(),
        "by": origin(&finding.by, symbols),
        "text": text(finding, geometry, symbols),
    })
}
