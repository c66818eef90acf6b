// SPDX-License-Identifier: MIT OR Apache-2.0
//! The marks that others copy into their programs are the bytes that the simulator looks for.

#[path = "../include/fpt_mark.rs"]
mod fpt_mark;

use std::path::Path;
use std::process::Command;

/// How often an image has the mark of this id and edge.
fn marks(image: &[u8], id: u8, edge: u8) -> usize {
    // Built at run time, or this test's own image would have one more.
    let mark = [0x0f, 0x1f, 0x80, id, edge, 0x50, std::hint::black_box(0x46)];
    image.windows(mark.len()).filter(|w| *w == mark).count()
}

#[test]
fn the_rust_module() {
    let sum = fpt_mark::phase::<{ fpt_mark::LOAD }, u32>(|| 1)
        + fpt_mark::phase::<{ fpt_mark::RUN }, u32>(|| 2)
        + fpt_mark::phase::<0x99, u32>(|| 4);
    assert_eq!(sum, 7);
    let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for id in [0x4c, 0x52, 0x99] {
        for edge in [0xb1, 0xe1] {
            assert!(marks(&image, id, edge) >= 1, "{id:02x} {edge:02x}");
        }
    }
}

#[test]
fn the_c_header() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let dir = tempfile::tempdir().unwrap();
    let (source, object) = (dir.path().join("m.c"), dir.path().join("m.o"));
    let text = "#include \"fpt_mark.h\"\nint main(void)\n{\n\tfpt_mark_begin(FPT_LOAD);\n\tfpt_mark_end(FPT_LOAD);\n\
                \tfpt_mark_begin(FPT_RUN);\n\tfpt_mark_end(FPT_RUN);\n\tfpt_mark_begin(0xff);\n\tfpt_mark_end(0xff);\n\
                \treturn 0;\n}\n";
    std::fs::write(&source, text).unwrap();
    for (language, standard) in [("c", "-std=c99"), ("c++", "-std=c++11")] {
        let out = Command::new("cc")
            .args([
                "-x",
                language,
                standard,
                "-pedantic",
                "-Wall",
                "-Werror",
                "-O2",
                "-c",
            ])
            .arg("-I")
            .arg(&include)
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if language == "c++" && said.contains("cc1plus") {
            // A C compiler alone is enough for everything else.
            continue;
        }
        assert!(out.status.success(), "{said}");
        let image = std::fs::read(&object).unwrap();
        for id in [0x4c, 0x52, 0xff] {
            for edge in [0xb1, 0xe1] {
                assert_eq!(marks(&image, id, edge), 1, "{id:02x} {edge:02x}");
            }
        }
    }
}
