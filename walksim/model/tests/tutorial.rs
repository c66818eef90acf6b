// SPDX-License-Identifier: MIT OR Apache-2.0
//! The organisation of `docs/tutorial/own-organisation.md` compiles, walks, and goes where the page says.

use fpt_walksim_model::{addr, cache, org, report, walk};

#[path = "tutorial/probe.rs"]
mod probe;

const PAGE: &str = include_str!("../../../docs/tutorial/own-organisation.md");

#[test]
fn the_page_shows_it_as_it_is() {
    assert!(PAGE.contains(include_str!("tutorial/probe.rs")));
    let this: &dyn org::Organisation = &probe::Probe;
    assert_eq!(
        (this.name(), this.kind()),
        ("probe", report::Kind::Counterfactual)
    );
    assert!(this.walks() && this.reads().len() == 1);
}

/// What the page lets people add for `probe` is there for `ideal` and `hashed`.
#[test]
fn the_page_names_each_place_that_an_organisation_has() {
    const MAKE: &str = include_str!("../src/org/mod.rs");
    const CONFIG: &str = include_str!("../../machine/src/parameters.rs");
    const CATALOGUE: &str = include_str!("../src/catalogue.rs");
    let line = "\"probe\" => Ok(Box::new(probe::Probe)),";
    let like = |text: &str, name: &str, ty: &str| text.replace("probe", name).replace("Probe", ty);
    assert!(PAGE.contains(line) && MAKE.contains(&like(line, "ideal", "Ideal")));
    assert!(PAGE.contains("`mod probe;`") && MAKE.contains("mod ideal;"));
    assert!(PAGE.contains("`\"probe\"` in `ORGANISATIONS`"));
    let names = CONFIG
        .lines()
        .find(|l| l.starts_with("pub const ORGANISATIONS"));
    assert!(names.is_some_and(|l| l.contains("\"ideal\"")));
    let (head, tail) = (
        "    Design {\n        part: Part::Organisation,\n        name: \"probe\",\n",
        "        figures: &[],\n    },\n",
    );
    assert!(PAGE.contains(head) && PAGE.contains(tail));
    assert!(CATALOGUE.contains(&like(head, "hashed", "")) && CATALOGUE.contains(tail));
    // No other file of the model's knows an organisation by its name.
    let mut files = Vec::new();
    let mut rest = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    while let Some(dir) = rest.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else if std::fs::read_to_string(&path)
                .unwrap()
                .contains("\"hashed\"")
            {
                files.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    assert_eq!(files, ["catalogue.rs", "hashed.rs", "mod.rs"]);
}
