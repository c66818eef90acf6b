// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command line says of itself: manual pages and completions, made from its definition.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::command;
use crate::defaults::Defaults;
use fpt_kit::{code, did_you_mean, store, ui, ExitCode, Fail, Result};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder to write into
    #[arg(value_name = "DIR", required_unless_present_any = ["print", "markdown"])]
    dir: Option<PathBuf>,
    /// Print the page of this command instead
    #[arg(long, value_name = "COMMAND", conflicts_with = "dir")]
    print: Option<String>,
    /// Print docs/reference/cli.md instead: the help of every command
    #[arg(long, conflicts_with_all = ["dir", "print"])]
    markdown: bool,
}

/// A page: its file name and its text for man.
struct Page {
    command: String,
    text: Vec<u8>,
}

/// The definition with the options of every command in each of them.
fn whole() -> clap::Command {
    let mut whole = command(&Defaults::default()).disable_help_subcommand(true);
    whole.build();
    whole
}

fn pages() -> Result<Vec<Page>> {
    let whole = whole();
    let mut all = vec![page(whole.clone(), "fpt".into())?];
    for sub in whole.get_subcommands() {
        all.push(page(sub.clone(), format!("fpt-{}", sub.get_name()))?);
    }
    Ok(all)
}

/// Characters of a line of the reference.
const WIDTH: usize = 100;

/// The help of the whole and of each command as a page of the docs.
pub fn markdown() -> String {
    // Not built: the options of every command stand once, with the whole.
    let whole = command(&Defaults::default()).disable_help_subcommand(true);
    let mut out = String::from(
        "<!-- SPDX-License-Identifier: MIT OR Apache-2.0 -->\n# Command line\n\n\
         The help of every command, made by `fpt man --markdown`; stage `lint` of the tests compares.\n",
    );
    let all = std::iter::once(&whole).chain(whole.get_subcommands());
    for command in all {
        let name = match command.get_name() {
            "fpt" => "fpt".to_string(),
            other => format!("fpt {other}"),
        };
        let help = command
            .clone()
            .bin_name(&name)
            .term_width(WIDTH)
            .render_long_help()
            .to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        out.push_str(&format!(
            "\n## {name}\n\n```text\n{}\n```\n",
            lines.join("\n").trim_end()
        ));
    }
    out
}

fn page(command: clap::Command, name: String) -> Result<Page> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .title(&name)
        .source(format!("fpt {}", env!("CARGO_PKG_VERSION")))
        .manual("FPT-Linux")
        .render(&mut text)
        .context("cannot write a manual page")?;
    Ok(Page {
        command: name,
        text,
    })
}

pub fn main(args: Args, dry_run: bool) -> Result<ExitCode> {
    if args.markdown {
        let _ = std::io::stdout().write_all(markdown().as_bytes());
        return Ok(code::OK);
    }
    let pages = pages()?;
    if let Some(name) = args.print {
        let wanted = match name.as_str() {
            "fpt" => "fpt".to_string(),
            other => format!("fpt-{other}"),
        };
        let Some(page) = pages.iter().find(|p| p.command == wanted) else {
            let known = pages.iter().map(|p| p.command.trim_start_matches("fpt-"));
            let hint = did_you_mean(&name, known).map(|k| format!("did you mean '{k}'?"));
            return Err(Fail::usage(
                format!("no command '{name}'"),
                "",
                hint.unwrap_or_else(|| "`fpt --help` lists them".into()),
            ));
        };
        let _ = std::io::stdout().write_all(&page.text);
        return Ok(code::OK);
    }
    let dir = args.dir.unwrap_or_default();
    for page in pages {
        let path = dir.join(format!("{}.1", page.command));
        if !dry_run {
            store::make_dir(&dir)?;
            store::write_atomic(&path, &page.text)?;
        }
        ui::json_or_text(&path.display().to_string());
    }
    Ok(code::OK)
}

pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(&Defaults::default()), "fpt", &mut text);
    let _ = std::io::stdout().write_all(&text);
    Ok(code::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options_and_examples() {
        let pages = pages().unwrap();
        let run = pages.iter().find(|p| p.command == "fpt-run").unwrap();
        let text = String::from_utf8(run.text.clone()).unwrap();
        for word in ["fpt run", "share", "Examples:", "FPT"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        assert_eq!(pages[0].command, "fpt");
    }

    #[test]
    fn every_shell_completes_the_commands() {
        for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command(&Defaults::default()), "fpt", &mut text);
            assert!(
                String::from_utf8(text).unwrap().contains("build-kernel"),
                "{shell}"
            );
        }
    }
}
