// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask claims`: each measured result that the documents print, against the data that it is from.

mod check;
mod grid;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use check::{Check, Data};
use fpt_kit::say;
use fpt_kit::{code, Cmd, Ctx, ExitCode, Fail, Result};

/// The list, from the root of the checkout.
const FILE: &str = "docs/claims.toml";

/// Hold what the documents say was measured against the data.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also run the commands of claims that committed data cannot answer
    #[arg(long)]
    run: bool,
    /// Only claims whose name contains this
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Another list
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// One result as a document prints it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    name: String,
    /// Which document, from the root of the checkout.
    document: PathBuf,
    /// A piece of its text, letter by letter but for line breaks.
    #[serde(default)]
    text: String,
    /// What makes the data, or checks the claim itself.
    command: String,
    check: Check,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "claim")]
    claims: Vec<Claim>,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// What was found agrees.
    Holds(String),
    /// What was found does not agree.
    Fails(String),
    /// Only its command can say.
    NotRun,
}

/// Every claim that committed data can answer, with its outcome; the others are run or left.
pub fn all(ctx: &Ctx, run: bool) -> Result<Vec<(String, Outcome)>> {
    judge(ctx, &ctx.root.join(FILE), run, None)
}

/// Runs the command; what it finds is its exit code.
///
/// # Errors
///
/// Bad input, or a step that failed.
pub fn main(ctx: &Ctx, args: Args) -> Result<ExitCode> {
    let file = args.file.unwrap_or_else(|| ctx.root.join(FILE));
    if ctx.dry_run {
        for claim in load(&file)?.claims {
            say!("\n", "{:<40} {}", claim.name, claim.command);
        }
        return Ok(code::OK);
    }
    let outcomes = judge(ctx, &file, args.run, args.only.as_deref())?;
    if outcomes.is_empty() {
        return Err(Fail::usage(
            "no claim to check",
            format!("{} has none of this name", file.display()),
            "leave --only out to see all",
        ));
    }
    let (mut failed, mut left) = (0, 0);
    for (name, outcome) in &outcomes {
        let (word, why) = match outcome {
            Outcome::Holds(found) => ("ok", found.as_str()),
            Outcome::Fails(why) => {
                failed += 1;
                ("FAIL", why.as_str())
            }
            Outcome::NotRun => {
                left += 1;
                ("-", "not run; --run runs its command")
            }
        };
        say!("\n", "{word:<5}{name:<44}{why}");
    }
    let hold = outcomes.len() - failed - left;
    say!(
        "\n",
        "{hold} claims hold, {failed} do not, {left} were not run"
    );
    Ok(ExitCode::of_check(failed == 0))
}

fn load(file: &Path) -> Result<List> {
    let bad = |why: String| {
        Fail::usage(
            format!("{} is no list of claims", file.display()),
            why,
            "see docs/explanation/evaluation.md for its form",
        )
    };
    let text = std::fs::read_to_string(file).map_err(|e| bad(e.to_string()))?;
    let list: List = toml::from_str(&text).map_err(|e| {
        bad(e
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "))
    })?;
    let mut names: Vec<&str> = list.claims.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(bad(format!("two claims are called '{}'", twice[0]))),
        None => Ok(list),
    }
}

fn judge(ctx: &Ctx, file: &Path, run: bool, only: Option<&str>) -> Result<Vec<(String, Outcome)>> {
    let list = load(file)?;
    let mut data = Data::new(&ctx.root);
    let chosen = (list.claims.iter()).filter(|c| only.is_none_or(|word| c.name.contains(word)));
    chosen
        .map(|claim| Ok((claim.name.clone(), one(ctx, claim, run, &mut data)?)))
        .collect()
}

fn one(ctx: &Ctx, claim: &Claim, run: bool, data: &mut Data) -> Result<Outcome> {
    let document = ctx.root.join(&claim.document);
    let Ok(text) = std::fs::read_to_string(&document) else {
        return Ok(Outcome::Fails(format!(
            "{} cannot be read",
            claim.document.display()
        )));
    };
    if !plain(&text).contains(&plain(&claim.text)) {
        return Ok(Outcome::Fails(format!(
            "{} no longer says \"{}\"",
            claim.document.display(),
            claim.text
        )));
    }
    if claim.check.is_fresh() {
        if !run {
            return Ok(Outcome::NotRun);
        }
        for line in claim.command.split(" && ") {
            if let Some(failed) = command(ctx, line) {
                return Ok(failed);
            }
        }
    }
    claim.check.judge(&text, data)
}

/// Text without its line breaks.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a command; what is wrong if it does not end with exit code 0.
fn command(ctx: &Ctx, line: &str) -> Option<Outcome> {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else {
        return Some(Outcome::Fails("it has no command".into()));
    };
    match Cmd::new(program).args(words).cwd(&ctx.root).output() {
        Ok(out) if out.status.success() => None,
        Ok(_) => Some(Outcome::Fails(format!("`{line}` failed"))),
        Err(err) => Some(Outcome::Fails(fpt_kit::fail::report(&err).0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: &str = "workload,mode,phase,organisation,kind,preset,instructions_user,instructions_kernel,\
instructions_kernel_strings_once,kernel_page_fault,kernel_syscall,kernel_timer,kernel_interrupt,kernel_thread,kernel_other,walks,\
entry_reads,entry_reads_l2,entry_reads_llc,entry_reads_memory,accesses_per_walk,walk_latency,tlb_mpki,ipc,cycles,cycles_walk,\
cycles_data,cycles_instruction,cycles_tlb,page_table_kb,untranslated_data,untranslated_fetch,run,runs,schema\n";

    fn row(mode: &str, latency: f64, run: &str) -> String {
        format!("gups,{mode},run,real,real,emt,1000,1000,1000,0,0,0,0,0,0,100,150,150,0,0,1.5,{latency},1,1,1000,{},100,100,0,,0,0,{run},3,fpt-report/1\n", latency * 100.0)
    }

    fn checkout(claims: &str, document: &str) -> (tempfile::TempDir, Ctx) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("docs/m")).unwrap();
        std::fs::write(at(FILE), claims).unwrap();
        std::fs::write(at("page.md"), document).unwrap();
        let mut mean = MATRIX.to_string();
        mean.push_str(&row("radix", 100.0, ""));
        mean.push_str(&row("l3l2", 95.0, ""));
        std::fs::write(at("docs/m/report.csv"), mean).unwrap();
        let mut runs = MATRIX.to_string();
        for (run, latency) in [("1", 94.9), ("2", 95.0), ("3", 95.1)] {
            runs.push_str(&row("radix", 100.0, run));
            runs.push_str(&row("l3l2", latency, run));
        }
        std::fs::write(at("docs/m/runs.csv"), runs).unwrap();
        let ctx = Ctx::new(dir.path(), dir.path().join("cache"));
        (dir, ctx)
    }

    fn claim(text: &str, check: &str) -> String {
        format!(
            "[[claim]]\nname = \"c\"\ndocument = \"page.md\"\ntext = \"{text}\"\ncommand = \"true\"\ncheck = {{ {check} }}\n"
        )
    }

    fn outcome(text: &str, check: &str, document: &str) -> Outcome {
        let (_dir, ctx) = checkout(&claim(text, check), document);
        all(&ctx, false).unwrap().remove(0).1
    }

    #[test]
    fn claims_hold_or_not() {
        let mean = |value: &str, more: &str| {
            format!(
                "kind = 'mean', at = {{ matrix = 'docs/m', mode = 'l3l2', phase = 'run' }}, of = 'walk_latency', value = {value}, tolerance = 0.1{more}"
            )
        };
        let page = "Walks are five\nper cent shorter.";
        let good = outcome("five per cent", &mean("-5.0", ""), page);
        assert!(matches!(good, Outcome::Holds(_)), "{good:?}");
        let shown = outcome("five per cent", &mean("-5.0", ", shows = 'change'"), page);
        assert!(matches!(shown, Outcome::Holds(_)), "{shown:?}");
        for (text, check, why) in [
            ("six per cent", mean("-5.0", ""), "no longer says"),
            ("five", mean("-4.8", ""), "-5.0 %"),
            ("five", mean("-5.0", ", shows = 'no-change'"), "interval"),
        ] {
            match outcome(text, &check, page) {
                Outcome::Fails(said) => assert!(said.contains(why), "{said}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(outcome("five", "kind = 'command'", page), Outcome::NotRun);
        let absent = outcome("five", &mean("-5.0", "").replace("docs/m", "docs/x"), page);
        assert!(matches!(absent, Outcome::Fails(_)), "{absent:?}");
    }

    #[test]
    fn tables_hold_cell_by_cell() {
        let check = "kind = 'table', matrix = 'docs/m', phase = 'run', head = 'program', modes = ['l3l2'], columns = ['walk_latency', 'ipc']";
        let page = |cells: &str| {
            format!("| program | walks | IPC |\n|---|---|---|\n| gups | {cells} |\n\nend")
        };
        let of = |cells: &str| outcome("program", check, &page(cells));
        assert!(
            matches!(of("-5.0 | 0"), Outcome::Holds(_)),
            "{:?}",
            of("-5.0 | 0")
        );
        for bad in ["-5.2 | 0", "-5.0 | +1.0", "-5.0", "x | 0"] {
            assert!(matches!(of(bad), Outcome::Fails(_)), "{bad}");
        }
        let none = outcome("end", check, "end");
        assert!(matches!(none, Outcome::Fails(_)));
    }

    #[test]
    fn commands_are_run_when_asked_for() {
        let list = claim("five", "kind = 'command'");
        let (_dir, ctx) = checkout(&list, "five");
        assert!(matches!(all(&ctx, true).unwrap()[0].1, Outcome::Holds(_)));
        // Data that are not committed are judged after the command.
        let fresh = claim("five", "kind = 'share', at = { matrix = 'target/m', mode = 'l3l2', phase = 'run' }, part = 'walks', low = 950, high = 950");
        let fresh = fresh.replace("\"true\"", "\"mkdir target && cp -r docs/m target/m\"");
        let (_dir, ctx) = checkout(&fresh, "five");
        assert_eq!(all(&ctx, false).unwrap()[0].1, Outcome::NotRun);
        let ran = all(&ctx, true).unwrap();
        assert!(matches!(ran[0].1, Outcome::Holds(_)), "{ran:?}");
        let bad = list.replace("\"true\"", "\"true && false\"");
        let (_dir, ctx) = checkout(&bad, "five");
        assert!(matches!(all(&ctx, true).unwrap()[0].1, Outcome::Fails(_)));
    }

    #[test]
    fn lists_are_read_strictly() {
        for (list, why) in [
            ("x = 1", "unknown field"),
            (&claim("a", "kind = 'guess'") as &str, "unknown variant"),
            (
                &format!("{0}{0}", claim("a", "kind = 'command'")),
                "two claims",
            ),
        ] {
            let (_dir, ctx) = checkout(list, "a");
            let said = format!("{:#}", all(&ctx, false).unwrap_err());
            let said = format!(
                "{said} {:?}",
                fpt_kit::fail::report(&all(&ctx, false).unwrap_err())
            );
            assert!(said.contains(why), "{said}");
        }
    }
}
