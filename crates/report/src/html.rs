// SPDX-License-Identifier: MIT OR Apache-2.0
//! One page that holds everything: no script, no font, no picture from elsewhere.

use super::figure::{Figure, PHASES};
use super::markup::{esc, table};
use super::metrics::{Of, Table, GRAPHS};
use super::published::{Over, CITED, PUBLISHED};
use super::text::{counted, number, percent, percent_in, readable, Grid};
use super::{detail, headline, sensitivity};
use fpt_geometry::Boot;
use fpt_kit::hash;

const CSS: &str = "
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 0 16px 48px; color: #222; background: #fff;
  font: 16px/1.5 system-ui, 'Noto Sans', 'DejaVu Sans', sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6em; line-height: 1.2; margin: 24px 0 8px; }
h2 { font-size: 1.25em; margin: 40px 0 8px; border-top: 1px solid #ddd; padding-top: 16px; }
p { margin: 8px 0; max-width: 72ch; }
nav { font-size: .9em; margin: 12px 0; }
nav a { margin-right: 12px; display: inline-block; }
a { color: #1f5a9c; }
figure { margin: 12px 0; }
figure svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
@media (max-width: 799px) { .wide { display: none; } .narrow { display: block; } }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .82em; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { border: 1px solid #ddd; padding: 3px 8px; text-align: right; vertical-align: top; }
th { background: #f4f4f4; font-weight: 600; }
td:first-child, th:first-child, td.text, th.text { text-align: left; }
td { white-space: nowrap; }
td.text { white-space: normal; min-width: 6em; }
.words td.text { min-width: 10em; }
.words td.text:first-child { min-width: 7em; }
td:first-child, th:first-child { position: sticky; left: 0; background-clip: padding-box; }
td:first-child { background-color: #fff; }
summary { cursor: pointer; color: #1f5a9c; margin: 6px 0; }
.bad { border-left: 4px solid #c43c39; background: #fdf1f0; padding: 8px 12px; margin: 12px 0; }
.note { border-left: 4px solid #2f6db5; background: #f0f5fb; padding: 8px 12px; margin: 12px 0; }
code { font-size: .9em; background: #f4f4f4; padding: 1px 4px; }
figure { background: #fff; }
nav { position: sticky; top: 0; background: #fff; padding: 6px 0; z-index: 1; }
@media (max-width: 799px) { nav { position: static; } }
@media (prefers-color-scheme: dark) {
  body, nav, td:first-child { background-color: #16181c; color: #ddd; }
  a, summary { color: #8ab8ee; }
  th, code { background: #262a30; }
  th, td, h2 { border-color: #3a3f47; }
  .bad { background: #3a1f1e; }
  .note { background: #1c2836; }
}
@media print { details > * { display: block; } nav { position: static; } }
";

/// A whole document.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        esc(title)
    )
}

fn words(head: &[&str], rows: Vec<Vec<String>>) -> Grid {
    Grid {
        head: head.iter().map(|h| h.to_string()).collect(),
        rows,
    }
}

/// A figure: for wide pages and for narrow ones, as drawn before.
pub struct Drawn {
    pub phase: &'static str,
    pub wide: String,
    pub narrow: String,
}

/// SVG as a part of an HTML page: without its XML head, and as wide as its place.
fn inline(svg: &str, class: &str, label: &str) -> String {
    let start = svg.find("<svg ").unwrap_or(0);
    let svg = &svg[start..];
    let Some(end) = svg.find('>') else {
        return String::new();
    };
    let size = |name: &str| {
        let key = format!(" {name}=\"");
        let from = svg[..end].find(&key).map(|at| at + key.len())?;
        svg[from..end].split('"').next()?.parse::<u32>().ok()
    };
    let (width, height) = (size("width").unwrap_or(1000), size("height").unwrap_or(500));
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\" \
         xmlns=\"http://www.w3.org/2000/svg\">{}",
        esc(label),
        &svg[end + 1..]
    )
}

pub fn pictures(drawn: &Drawn, what: &str) -> String {
    let label = format!("{what}; the numbers are in the table below");
    format!(
        "<figure>{}{}</figure>\n",
        inline(&drawn.wide, "wide", &label),
        inline(&drawn.narrow, "narrow", &label)
    )
}

pub fn figure(figure: &Figure, drawn: &[Drawn]) -> String {
    let mut out = format!(
        "<h2 id=\"{}\">{}</h2>\n<p>{}</p>\n",
        figure.id,
        esc(figure.title),
        esc(figure.text)
    );
    for (n, d) in drawn.iter().enumerate() {
        let phase = PHASES.iter().find(|p| p.0 == d.phase).map_or("", |p| p.1);
        let pictures = pictures(d, &format!("{}, {phase}", figure.title));
        if n == 0 {
            out.push_str(&pictures);
        } else {
            let phase = esc(phase);
            out.push_str(&format!(
                "<details><summary>The same, {phase}</summary>\n{pictures}</details>\n"
            ));
        }
    }
    out.push_str("<details><summary>The numbers</summary>\n");
    out.push_str(&table(&figure.table, &[0, 1, 2]));
    out.push_str("</details>\n");
    out
}

/// What came out, mode by mode, in means.
fn summary(t: &Table) -> String {
    let workloads = t.matrix.workloads();
    // What is seen without scrolling is what has an effect.
    let modes = headline::by_effect(t);
    if modes.is_empty() {
        return "<p>Only radix was run: there is nothing to compare it with.</p>\n".into();
    }
    let mut head = vec!["against radix, geometric mean".to_string()];
    for mode in &modes {
        for (phase, _) in PHASES {
            head.push(format!("{mode}, {phase}"));
        }
    }
    let rows = Of::ALL
        .iter()
        .map(|of| {
            let mut row = vec![of.title().to_string()];
            for mode in modes.iter().copied() {
                for (phase, _) in PHASES {
                    row.push(
                        t.mean(&workloads, mode, phase, *of)
                            .map_or("-".into(), |(m, _)| {
                                percent_in(m, t.mean_range(&workloads, mode, phase, *of))
                            }),
                    );
                }
            }
            row
        })
        .collect();
    let mut out = table(&Grid { head, rows }, &[]);
    let counted = modes
        .iter()
        .map(|m| {
            let n = t
                .mean(&workloads, *m, super::metrics::ALL, Of::KernelInstructions)
                .map_or(0, |(_, n)| n);
            format!("{m}: {n} of {} workloads", workloads.len())
        })
        .collect::<Vec<_>>()
        .join("; ");
    out.push_str(&format!(
        "<p>Means are over {}; those of instructions without workloads for which, in this phase, \
         they are less than {} % of all instructions.</p>\n",
        esc(&counted),
        super::metrics::LITTLE * 100.0
    ));
    out
}

/// End-to-end cycles under other assumptions.
fn sensitivity(t: &Table) -> String {
    let modes = headline::by_effect(t);
    if modes.is_empty() {
        return String::new();
    }
    format!(
        "<h2 id=\"sensitivity\">How much hangs on the model's assumptions</h2>\n<p>Change of mean cycles against radix when the same counts \
         are charged otherwise: a TLB hit for nothing, several walks at a time, other overlap of data accesses, slower memory. Nothing was run \
         again. The span of these lines is the honest width of any end-to-end figure on this page; intervals over runs are far narrower, as \
         they know nothing of it. A line without figures needs counts that this matrix does not have.</p>\n{}",
        table(&sensitivity::table(t, &modes, &[super::metrics::ALL, "run"]), &[0])
    )
}

fn published(t: &Table) -> String {
    let rows = PUBLISHED
        .iter()
        .map(|p| {
            let set: Vec<&str> = match p.over {
                Over::All => t.matrix.workloads(),
                Over::Graphs => GRAPHS.to_vec(),
                Over::One(name) => vec![name],
            };
            let ours = t.mean(&set, p.mode, p.phase, p.of);
            let theirs = if p.low == p.high {
                percent(p.low)
            } else {
                format!("{} to {}", percent(p.low), percent(p.high))
            };
            let mut what = format!("{}: {}", p.mode, p.of.title());
            if p.phase != super::metrics::ALL {
                what.push_str(&format!(", {} phase", p.phase));
            }
            match p.over {
                Over::All => {}
                Over::Graphs => what.push_str(", graphs"),
                Over::One(name) => what.push_str(&format!(", {name}")),
            }
            vec![
                what,
                theirs,
                ours.map_or("not run".into(), |(m, n)| {
                    let range = t.mean_range(&set, p.mode, p.phase, p.of);
                    format!("{} (n = {n})", percent_in(m, range))
                }),
                p.source.to_string(),
                p.note.to_string(),
            ]
        })
        .collect();
    let grid = words(&["what", "published", "here", "source", "remark"], rows);
    let mut out = String::from(
        "<h2 id=\"published\">Published figures beside ours</h2>\n<p>Both are changes against radix. Published walk latencies \
         are given there as speed-ups, radix over the mode; they are turned round here. Where no phase is named, both together; where no \
         workload is, all: not the same ones at the same size, so that equal numbers are not to be expected.</p>\n",
    );
    out.push_str(&format!(
        "<div class=\"words\">{}</div>\n",
        table(&grid, &[0, 3, 4])
    ));
    out.push_str("<ul>\n");
    for line in CITED {
        out.push_str(&format!("<li>{}</li>\n", esc(line)));
    }
    out.push_str("</ul>\n");
    out
}

fn real_or_not() -> &'static str {
    "<h2 id=\"kinds\">What is real and what is counterfactual</h2>\n\
     <p><b>Real</b>: the mode's bars and columns. The guest's kernel ran in this mode, and each walk is the walk through the tables \
     that it really built, at their real physical addresses. Kernel instructions are counted, never estimated.</p>\n\
     <p><b>Counterfactual</b>: hatched bars, and columns with *. Computed for the same accesses of the radix guest, as if its tables \
     were organised otherwise: <code>ecpt</code> (elastic cuckoo tables), <code>ideal</code> (translation costs nothing), <code>radix</code> \
     (a walk of four levels, computed from the leaf; in the radix guest it must agree with the real one). Kernel instructions stay those \
     of radix: what an ECPT kernel would execute is not measured here.</p>\n\
     <p>Cycles are those of a model with fixed latencies, not of a machine: see docs/explanation/evaluation.md for the formulas and limits.</p>\n"
}

/// What the simulator says of itself, and the computed radix walk beside the real one.
fn checks(t: &Table) -> String {
    let mut rows = Vec::new();
    for cell in &t.matrix.cells {
        let Some(report) = cell.figures() else {
            continue;
        };
        let synthetic = (cell.mode == Boot::RADIX)
            .then(|| {
                let real = t.real(&cell.workload, Boot::RADIX, super::metrics::ALL)?;
                let made = t.row(&cell.workload, Boot::RADIX, super::metrics::ALL, "radix")?;
                Some(made.walk_latency? / real.walk_latency?)
            })
            .flatten();
        rows.push(vec![
            cell.workload.clone(),
            cell.label(),
            report.checks.walks_checked.to_string(),
            report.checks.hits_checked.to_string(),
            report.checks.mismatches.to_string(),
            report.checks.stale.to_string(),
            report.checks.lost_entries.to_string(),
            (report.phases.iter())
                .map(|p| p.untranslated.fetch)
                .sum::<u64>()
                .to_string(),
            report.checks.conservation.clone(),
            synthetic.map_or("-".into(), percent),
        ]);
    }
    let grid = words(
        &[
            "workload",
            "mode",
            "walks checked",
            "hits checked",
            "mismatches",
            "stale",
            "lost entries",
            "untranslated fetches",
            "conservation",
            "computed radix / real",
        ],
        rows,
    );
    format!(
        "<h2 id=\"checks\">What was checked</h2>\n<p>Each cell's program checked its own result. Walks and TLB hits were compared with \
         what QEMU's own walk and translation give; a mismatch makes the cell fail, and so does a cell in which nothing was compared. The last column is the latency of the computed radix walk against \
         the real one in the radix guest.</p>\n<details><summary>The numbers</summary>\n{}</details>\n",
        table(&grid, &[0, 1])
    )
}

/// What policy auto did: in guests of mixed.
const OF_AUTO: [&str; 5] = [
    "promoted",
    "promote_refused_budget",
    "promote_refused_memory",
    "promote_refused_huge",
    "trimmed",
];

fn tables_of_kernel(t: &Table) -> String {
    let auto = if t.matrix.modes().contains(&Boot::Mixed) {
        &OF_AUTO[..]
    } else {
        &[]
    };
    let names: Vec<&str> = [
        "root_installs",
        "mid_installs",
        "bottom_installs",
        "root_fallbacks",
        "mid_fallbacks",
        "bottom_fallbacks",
        "mid_pool_hits",
        "refused_policy",
        "demotions",
        "flat_bytes",
    ]
    .iter()
    .chain(auto)
    .copied()
    .filter(|n| {
        t.matrix
            .cells
            .iter()
            .any(|c| c.guest.fpt_stats.contains_key(*n))
    })
    .collect();
    if names.is_empty() {
        return String::new();
    }
    let mut head = vec!["workload".to_string(), "mode".to_string()];
    head.extend(names.iter().map(|n| n.replace('_', " ")));
    let rows = t
        .matrix
        .cells
        .iter()
        .filter(|c| !c.guest.fpt_stats.is_empty())
        .map(|c| {
            let mut row = vec![c.workload.clone(), c.label()];
            row.extend(names.iter().map(|n| {
                let after = c.guest.fpt_stats.get(*n).copied();
                let before = c.guest.fpt_stats_before.get(*n).copied().unwrap_or(0);
                match (after, *n) {
                    (Some(v), "flat_bytes") => v.to_string(),
                    (Some(v), _) => (v - before).to_string(),
                    (None, _) => "-".into(),
                }
            }));
            row
        })
        .collect();
    format!(
        "<h2 id=\"kernel\">What the kernel did with flattened nodes</h2>\n<p>Counters of the kernel over the program's life (flat bytes: in \
         use at its end).</p>\n<details><summary>The numbers</summary>\n{}</details>\n",
        table(&Grid { head, rows }, &[0, 1])
    )
}

fn provenance(t: &Table, command: &str) -> String {
    let mut out = String::from("<h2 id=\"provenance\">Where the figures come from</h2>\n");
    let Some(cell) = t.matrix.cells.first() else {
        return out;
    };
    let p = &cell.provenance;
    let mut facts: Vec<(&str, String)> = vec![
        ("matrix", t.matrix.name.clone()),
        ("its hash", hash::short(&t.matrix.hash()).into()),
        ("command of the first cell", p.command.clone()),
        ("command of this report", command.to_string()),
        ("scale", cell.scale.name().into()),
        ("preset", cell.preset.clone()),
        ("transparent huge pages", cell.thp.name().into()),
        ("virtual CPUs", cell.vcpus.to_string()),
        (
            "clock",
            if p.icount {
                "counts instructions: runs nearly repeat".into()
            } else {
                "the host's: runs differ a little".to_string()
            },
        ),
        (
            "kernel",
            format!("{} {}", p.kernel_version, hash::short(&p.kernel_hash)),
        ),
        ("kernel's own name", cell.guest.uname.clone()),
        ("kernel's command line", p.kernel_args.clone()),
        (
            "QEMU",
            format!("{} {}", p.qemu_version, hash::short(&p.qemu_hash)),
        ),
        ("simulator", hash::short(&p.plugin_hash).into()),
        ("its configuration", hash::short(&p.config_hash).into()),
        ("guest image", hash::short(&p.initramfs_hash).into()),
        ("commit", p.commit.clone()),
        ("host", format!("{}, {} CPUs", p.host_cpu, p.host_cpus)),
    ];
    let seconds: f64 = t.matrix.cells.iter().map(|c| c.seconds).sum();
    facts.push((
        "time in guests",
        format!("{} s over {} cells", number(seconds), t.matrix.cells.len()),
    ));
    let rows = facts
        .into_iter()
        .map(|(k, v)| vec![k.to_string(), v])
        .collect();
    out.push_str(&table(&words(&["what", "value"], rows), &[0, 1]));
    let rows = t
        .matrix
        .cells
        .iter()
        .map(|c| {
            vec![
                c.workload.clone(),
                c.label(),
                c.began_utc.clone(),
                format!("{:.0}", c.seconds),
                c.memory_mib.to_string(),
                hash::short(&c.hash).to_string(),
                c.provenance.argv.join(" "),
            ]
        })
        .collect();
    out.push_str("<details><summary>Each cell</summary>\n");
    out.push_str(&table(
        &words(
            &[
                "workload",
                "mode",
                "began (UTC)",
                "seconds",
                "guest MiB",
                "hash",
                "program",
            ],
            rows,
        ),
        &[0, 1, 2, 5, 6],
    ));
    if let Some(report) = t.matrix.cells.iter().find_map(|c| c.figures()) {
        out.push_str(&format!(
            "</details>\n<details><summary>The simulator's configuration</summary>\n<div class=\"scroll\"><pre>{}</pre></div>\n",
            esc(&report.config.to_toml())
        ));
    }
    out.push_str("</details>\n");
    out
}

fn failures(t: &Table) -> String {
    let mut out = String::new();
    let failed: Vec<_> = t
        .matrix
        .cells
        .iter()
        .filter_map(|c| Some((c.name(), c.error.as_ref()?)))
        .collect();
    if !failed.is_empty() {
        out.push_str("<div class=\"bad\"><b>Cells that failed and have no figures:</b><ul>\n");
        for (name, why) in failed {
            out.push_str(&format!("<li>{}: {}</li>\n", esc(&name), esc(&why.line)));
        }
        out.push_str("</ul></div>\n");
    }
    let missing = t.matrix.missing();
    if !missing.is_empty() {
        out.push_str(&format!(
            "<div class=\"bad\"><b>Cells that were not run:</b> {}</div>\n",
            esc(&missing.join(", "))
        ));
    }
    let differences = t.matrix.differences();
    if !differences.is_empty() {
        out.push_str("<div class=\"bad\"><b>Cells that were not made alike</b>, so that their figures should not be compared:<ul>\n");
        for line in differences {
            out.push_str(&format!("<li>{}</li>\n", esc(&line)));
        }
        out.push_str("</ul></div>\n");
    }
    out
}

/// How to have it again, and the files beside the page.
fn again(t: &Table, command: &str) -> String {
    let bench = t
        .matrix
        .cells
        .first()
        .map(|c| c.provenance.command.as_str());
    let lines: Vec<String> = (bench.into_iter().chain([command]))
        .map(|line| format!("<code>{}</code>", esc(line)))
        .collect();
    let mut files = vec!["report.csv", "report.json", "functions.csv", "tasks.csv"];
    if t.matrix.repeat() > 1 {
        files.insert(1, "runs.csv");
    }
    let mut links: Vec<String> = (files.iter())
        .map(|f| format!("<a href=\"{f}\">{f}</a>"))
        .collect();
    links.push("<a href=\"figures/\">pictures</a>".into());
    format!(
        "<p>Repeat it: {}. Data: {}.</p>\n",
        lines.join(", then "),
        links.join(", ")
    )
}

/// The page of one matrix.
pub fn page(t: &Table, figures: &[(Figure, Vec<Drawn>)], command: &str, date: &str) -> String {
    let first = t.matrix.cells.first();
    let what = first.map_or(String::new(), |c| {
        format!(
            "scale {}, preset {}, THP {}, {} virtual CPU{}",
            c.scale.name(),
            c.preset,
            c.thp.name(),
            c.vcpus,
            if c.vcpus == 1 { "" } else { "s" }
        )
    });
    let title = format!("Flattened page tables on Linux: {}", t.matrix.name);
    let mut body = format!(
        "<h1>{}</h1>\n<p>{}; {} in {}; written {}.</p>\n",
        esc(&title),
        esc(&what),
        counted(t.matrix.workloads().len(), "workload"),
        counted(t.matrix.modes().len(), "mode"),
        esc(&readable(date))
    );
    body.push_str(&failures(t));
    body.push_str(&headline::section(t));
    body.push_str("<nav>");
    let links = figures.iter().map(|(f, _)| (f.id, f.title)).chain([
        ("means", "All means"),
        ("sensitivity", "Sensitivity"),
        ("functions", "Page-fault path by function"),
        ("tasks", "Instructions by process"),
        ("published", "Published figures"),
        ("kinds", "Real or not"),
        ("checks", "Checks"),
        ("provenance", "Provenance"),
    ]);
    for (id, title) in links {
        body.push_str(&format!("<a href=\"#{id}\">{}</a>", esc(title)));
    }
    body.push_str("</nav>\n");
    body.push_str(&again(t, command));
    body.push_str(
        "<div class=\"note\">Plain bars are real: the guest's kernel ran in this mode. Hatched bars are counterfactual: computed \
         for the same accesses. Cycles come from a model.</div>\n",
    );
    let repeat = t.matrix.repeat();
    if repeat > 1 {
        body.push_str(&format!(
            "<div class=\"note\">Figures are means of n = {repeat} runs of each cell, each with memory in another order. The thin line over a bar, and what \
             stands in brackets, are 95 % t-intervals: of values over the runs, of changes over each run against radix's run with the \
             same seed. Where the interval of a change holds zero, no change is shown. Page faults by function and instructions by process are of one run.</div>\n"
        ));
    }
    let mut figures = figures.iter();
    if let Some((f, drawn)) = figures.next() {
        body.push_str(&figure(f, drawn));
    }
    body.push_str("<h2 id=\"means\">All means</h2>\n");
    body.push_str(&summary(t));
    body.push_str(&sensitivity(t));
    for (f, drawn) in figures {
        body.push_str(&figure(f, drawn));
    }
    body.push_str(&detail::functions_page(t));
    body.push_str(&detail::tasks_page(t));
    body.push_str(&published(t));
    body.push_str(real_or_not());
    body.push_str(&checks(t));
    body.push_str(&tables_of_kernel(t));
    body.push_str(&provenance(t, command));
    document(&title, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_foreign_gets_through_as_markup() {
        let grid = words(&["<b>"], vec![vec!["a & \"b\" <script>".into()]]);
        let text = table(&grid, &[]);
        assert!(text.contains("a &amp; &quot;b&quot; &lt;script&gt;") && !text.contains("<b>"));
    }

    #[test]
    fn svg_becomes_a_part_of_the_page() {
        let text = inline(
            "<?xml?>\n<svg width=\"380\" height=\"90\" viewBox=\"0 0 380 90\" xmlns=\"x\"><rect/></svg>",
            "narrow",
            "a \"b\"",
        );
        assert!(
            text.starts_with("<svg class=\"narrow\" viewBox=\"0 0 380 90\""),
            "{text}"
        );
        assert!(text.ends_with("<rect/></svg>") && !text.contains("<?xml"));
        assert_eq!(inline("", "x", ""), "");
    }
}
