//! What a configuration comes to: each `*.txt` is a configuration, a divider, and the resolved model.
//!
//! In the model `name = value` differs from the level around and `name < value` is as it is there; what is
//! by default everywhere is left out. `make golden` writes the models anew: read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test says what is wrong by panicking.

use std::fs;
use std::path::Path;

use edgewater::conf::{build, dump};

const DIVIDER: &str = "\n----------------------------------------\n";

#[test]
fn configurations_come_to_what_is_written_below_them() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = fs::read_dir(home.join("tests/golden"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "the goldens are not where they belong");
    let mut wrong = String::new();
    for path in names {
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(DIVIDER).unwrap_or((&text, ""));
        let model = resolve(home, input);
        if model == expected {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, format!("{}{DIVIDER}{model}", input.trim_end_matches('\n'))).unwrap();
        } else {
            wrong.push_str(&format!("{}:\n{}", path.display(), difference(expected, &model)));
        }
    }
    assert!(wrong.is_empty(), "{wrong}If this is right: make golden");
}

/// The model of `input`, in whose place stands nothing of this machine.
fn resolve(home: &Path, input: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for name in ["dev.pem", "dev.key"] {
        fs::copy(home.join("certs").join(name), dir.path().join(name)).unwrap();
    }
    let model = match build::load_text(dir.path(), input) {
        Ok(config) => {
            let plain =
                build::load_text(dir.path(), "events {}\nhttp { server { location / { } } }").unwrap();
            dump::dump(&config, &plain)
        }
        Err(error) => format!("{error}\n"),
    };
    model.replace(&dir.path().display().to_string(), "{prefix}")
}

/// The lines that only one side has.
fn difference(expected: &str, model: &str) -> String {
    let missing =
        expected.lines().filter(|line| !model.lines().any(|l| l == *line)).map(|l| format!("- {l}\n"));
    let new = model.lines().filter(|line| !expected.lines().any(|l| l == *line)).map(|l| format!("+ {l}\n"));
    let lines: String = missing.chain(new).collect();
    if lines.is_empty() { "the same lines in another order\n".into() } else { lines }
}
