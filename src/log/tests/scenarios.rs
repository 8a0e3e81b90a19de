//! Scenarios in text: `tests/scenarios/*.txt`.
//!
//! A file is one replica's life, in blocks: comments (`#`) and commands, one a line, then `----`, then what they
//! print, up to an empty line. After every block the invariants are checked. With `UPDATE_SCENARIOS=1` in the
//! environment the expected output is written anew instead of compared: read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};

use super::scenario_commands::Scene;

const SEPARATOR: &str = "----";
const REPEAT: &str = "UPDATE_SCENARIOS=1 cargo test -p quorate --lib log::tests::scenarios";

#[test]
fn scenarios_print_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the scenarios are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no scenarios in {}", folder.display());
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut different = Vec::new();
    for path in files {
        let expected = fs::read_to_string(&path).expect("a scenario is UTF-8");
        let actual = play(&path, &expected);
        if actual == expected {
            continue;
        }
        if update {
            fs::write(&path, actual).expect("the scenario can be written");
        } else {
            different.push(difference(&path, &expected, &actual));
        }
    }
    let different = different.join("\n");
    assert!(different.is_empty(), "{different}\nif that is right: {REPEAT}");
}

/// The file with the output that its commands print now.
fn play(path: &Path, text: &str) -> String {
    let mut scene = Scene::default();
    let mut played = String::new();
    let mut output = String::new();
    let mut within_output = false;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{}:{}", path.display(), number + 1);
        match (within_output, line) {
            (true, "") => {
                within_output = false;
                played += "\n";
            }
            (true, _) => {}
            (false, SEPARATOR) => {
                within_output = true;
                played += &format!("{SEPARATOR}\n{output}");
                output.clear();
                let violations = scene.violations();
                assert!(violations.is_empty(), "{place}: {violations:#?}");
            }
            (false, line) => {
                played += &format!("{line}\n");
                if !line.is_empty() && !line.starts_with('#') {
                    output += &scene.play(line).unwrap_or_else(|error| panic!("{place}: {error}"));
                }
            }
        }
    }
    assert!(output.is_empty(), "{}: the last block has no {SEPARATOR}", path.display());
    played
}

fn difference(path: &Path, expected: &str, actual: &str) -> String {
    let first = expected
        .lines()
        .zip(actual.lines())
        .enumerate()
        .find(|(_, (expected, actual))| expected != actual);
    match first {
        Some((number, (expected, actual))) => {
            format!("{}:{}\n  expected {expected}\n  printed  {actual}", path.display(), number + 1)
        }
        None => format!("{}: one is longer than the other", path.display()),
    }
}
