//! The laws of the codebase, as tests. Each failure says where, what and why; CONTRIBUTING.md says what to do instead.

#[path = "tidy/source.rs"]
mod source;

use source::{Source, files, without_comments_and_strings};

/// From the lowest up. A file imports only from its own floor and those below.
const FLOORS: [&str; 9] =
    ["seams", "types", "storage", "log", "consensus", "transport", "service", "server", "cli"];

const LINES_MAX: usize = 500;

/// A word that code may use only in some places.
struct Ban {
    /// A path or an identifier; it begins and ends at a word boundary.
    word: &'static str,
    /// Where the law holds: folders or files.
    within: &'static [&'static str],
    /// Where it does not.
    except: &'static [&'static str],
    reason: &'static str,
}

const EVERYWHERE: &[&str] = &["src", "client/src"];
const BELOW_TRANSPORT: &[&str] = &["src/types", "src/storage", "src/log", "src/consensus"];
const PURE: &[&str] = &["src/types", "src/log"];

const BANS: &[Ban] = &[
    Ban {
        word: "openraft",
        within: EVERYWHERE,
        except: &["src/consensus", "src/transport"],
        reason: "consensus is behind one handle for each group, so that its library can be exchanged",
    },
    Ban {
        word: "rocksdb",
        within: EVERYWHERE,
        except: &["src/storage/rocks", "src/storage/rocks.rs"],
        reason: "everything above runs in a simulation without RocksDB",
    },
    Ban {
        word: "tonic",
        within: BELOW_TRANSPORT,
        except: &[],
        reason: "gRPC stops at transport and service",
    },
    Ban {
        word: "quorate_client",
        within: BELOW_TRANSPORT,
        except: &[],
        reason: "wire types stop at transport and service",
    },
    Ban {
        word: "SystemTime",
        within: EVERYWHERE,
        // A service that calls us stamps its messages with its own clock.
        except: &["src/server/clock.rs", "client/src"],
        reason: "time is an argument: take a types::Clock",
    },
    Ban {
        word: "std::time::Instant",
        within: &["src"],
        except: &[],
        reason: "tokio::time::Instant follows simulated time",
    },
    Ban {
        word: "std::thread",
        within: EVERYWHERE,
        except: &["src/storage/rocks", "src/storage/rocks.rs", "src/server/client_threads.rs"],
        reason: "whole clusters run in one simulated thread",
    },
    Ban {
        word: "spawn_blocking",
        within: EVERYWHERE,
        except: &["src/storage/rocks", "src/storage/rocks.rs", "src/server/client_threads.rs"],
        reason: "use Engine::offload: whole clusters run in one simulated thread",
    },
    Ban {
        word: "unbounded_channel",
        within: EVERYWHERE,
        except: &[],
        reason: "everything that queues is bounded",
    },
    Ban {
        word: "mpsc::unbounded",
        within: EVERYWHERE,
        except: &[],
        reason: "everything that queues is bounded",
    },
    Ban { word: "tokio", within: PURE, except: &[], reason: "the state machine is pure" },
    Ban { word: "async", within: PURE, except: &[], reason: "the state machine is pure" },
    Ban {
        word: "std::fs",
        within: PURE,
        except: &["src/log/tests"],
        reason: "the core does no I/O",
    },
    Ban { word: "std::net", within: PURE, except: &[], reason: "the core does no I/O" },
    Ban {
        word: "rand",
        within: &["src/types", "src/storage", "src/log"],
        except: &["src/log/tests"],
        reason: "randomness is an argument",
    },
    Ban {
        word: "anyhow",
        within: &["src", "client/src"],
        except: &["src/main.rs", "src/cli", "src/server/node.rs", "src/server/node"],
        reason: "an operation has an error enum of its own",
    },
];

/// Words of others for what glossary and API name otherwise, and words that name nothing.
const WORDS_NOT_USED: [&str; 11] = [
    "partition",
    "topic",
    "broker",
    "shard",
    "offset",
    "manager",
    "helper",
    "util",
    "utils",
    "common",
    "misc",
];

/// Paths of one machine, and hosts that packages come from: they hold nowhere else.
const MACHINE: [&str; 6] =
    ["/root/", "/home/", "/Users/", "/work/", "index.crates.io", "registry+http"];
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// Fails with all breaches at once.
fn assert_none(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn rust_files() -> Vec<Source> {
    files(".rs")
}

/// Whether `line` has `word` as whole words.
fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
    })
}

/// The modules at the root of the crate that a line names: `crate::a::b`, `crate::{a::x, b}`.
fn imported(line: &str) -> Vec<&str> {
    let first_word = |path: &'_ str| -> usize {
        path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len())
    };
    let mut modules = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let path = &line[at + "crate::".len()..];
        match path.strip_prefix('{') {
            None => modules.push(&path[..first_word(path)]),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && depth == 0 && c.is_alphabetic() => {
                            modules.push(&list[at..at + first_word(&list[at..])]);
                            start = false;
                        }
                        _ => {}
                    }
                    if depth < 0 {
                        break;
                    }
                }
            }
        }
    }
    modules
}

/// The words of an identifier in any case: `TopicId` and `topic_id` are both of `topic` and `id`.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in identifier.chars() {
        if c == '_'
            || (c.is_uppercase() && words.last().is_some_and(|w| !w.ends_with(char::is_uppercase)))
        {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().expect("there is one").push(c);
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).map(|word| word.to_lowercase()).collect()
}

fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn floors_import_only_downwards() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        let path = file.path.strip_prefix("src/").unwrap_or("");
        let module = path.split('/').next().unwrap_or("").trim_end_matches(".rs");
        let Some(floor) = FLOORS.iter().position(|floor| *floor == module) else { continue };
        // Imports may span lines, so the file is looked at as one.
        let code = without_comments_and_strings(&file.text).replace('\n', " ");
        for import in imported(&code) {
            if FLOORS.iter().position(|floor| *floor == import) > Some(floor) {
                breaches
                    .push(format!("{}: {module} imports from {import}, a floor above", file.path));
            }
        }
    }
    assert_none(breaches);
}

#[test]
fn everything_in_src_is_on_a_floor() {
    let known = |path: &str| {
        path == "lib.rs"
            || path == "main.rs"
            || FLOORS.contains(&path.split('/').next().unwrap_or("").trim_end_matches(".rs"))
    };
    let files = rust_files();
    let strays =
        files.iter().filter_map(|file| file.path.strip_prefix("src/")).filter(|p| !known(p));
    assert_none(strays.map(|path| format!("src/{path} is on no floor")).collect());
}

#[test]
fn banned_words_stay_where_they_are_allowed() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        let bans: Vec<&Ban> =
            BANS.iter().filter(|ban| file.is_in(ban.within) && !file.is_in(ban.except)).collect();
        for (number, line) in file.code() {
            for ban in bans.iter().filter(|ban| has_word(&line, ban.word)) {
                breaches.push(format!("{}:{number}: `{}`: {}", file.path, ban.word, ban.reason));
            }
        }
    }
    assert_none(breaches);
}

#[test]
fn nothing_is_exported_by_glob() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        for (number, line) in file.code() {
            if line.trim_start().starts_with("pub")
                && has_word(&line, "use")
                && line.contains("::*")
            {
                breaches.push(format!("{}:{number}: name what is exported", file.path));
            }
        }
    }
    assert_none(breaches);
}

/// As a test and not as clippy's lint, which reads generated code too.
#[test]
fn every_exception_from_a_lint_has_its_reason() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        let code = without_comments_and_strings(&file.text);
        for opening in ["[allow(", "[expect("] {
            for (at, _) in code.match_indices(opening) {
                let attribute = code[at..].split(")]").next().unwrap_or("");
                if !has_word(attribute, "reason") {
                    let number = code[..at].lines().count();
                    breaches.push(format!("{}:{number}: an exception without a reason", file.path));
                }
            }
        }
    }
    assert_none(breaches);
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long = |file: &Source| file.text.lines().count() > LINES_MAX;
    let files = rust_files();
    let breaches = files.iter().filter(|file| long(file));
    assert_none(
        breaches
            .map(|f| {
                format!("{}: {} lines, past {LINES_MAX}: split it", f.path, f.text.lines().count())
            })
            .collect(),
    );
}

#[test]
fn one_word_for_one_thing() {
    let mut breaches = Vec::new();
    let mut look = |place: String, identifier: &str| {
        for word in words(identifier).iter().filter(|word| WORDS_NOT_USED.contains(&word.as_str()))
        {
            breaches.push(format!("{place}: `{identifier}` uses the word `{word}`"));
        }
    };
    for file in rust_files().iter().filter(|file| file.is_in(EVERYWHERE)) {
        for segment in file.path.trim_end_matches(".rs").split('/') {
            look(file.path.clone(), segment);
        }
        for (number, line) in file.code() {
            let line = line.trim_start();
            // A public item up to where its value or its type's own words begin.
            if line.starts_with("pub ") && !line.starts_with("pub use ") {
                let declared = line.split(['=', '{', '(', ':']).next().unwrap_or("");
                identifiers(declared)
                    .for_each(|word| look(format!("{}:{number}", file.path), word));
            }
        }
    }
    for file in files(".proto") {
        for (number, line) in file.code() {
            identifiers(&line).for_each(|word| look(format!("{}:{number}", file.path), word));
        }
    }
    assert_none(breaches);
}

#[test]
fn everything_in_the_api_has_a_comment() {
    const ITEMS: [&str; 5] = ["message ", "enum ", "service ", "rpc ", "oneof "];
    let mut breaches = Vec::new();
    for file in files(".proto") {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("").trim();
            let is_field = code.contains(" = ")
                && code.ends_with(';')
                && !["syntax", "option", "reserved"].iter().any(|word| code.starts_with(word));
            let is_item = is_field || ITEMS.iter().any(|item| code.starts_with(item));
            let commented = number > 0 && lines[number - 1].starts_with("//");
            if is_item && !commented {
                breaches.push(format!("{}:{}: no comment: {line}", file.path, number + 1));
            }
        }
    }
    assert_none(breaches);
}

#[test]
fn nothing_names_one_machine() {
    let mut breaches = Vec::new();
    for file in files("") {
        // This file names them to forbid them, and a container's paths are the container's.
        if file.is_in(&["tests/tidy.rs", "LICENSE"]) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let found = MACHINE.iter().filter(|word| line.contains(**word));
            for word in found.filter(|_| !(file.path == "Cargo.lock" && line == REGISTRY)) {
                breaches.push(format!("{}:{}: `{word}`", file.path, number + 1));
            }
        }
    }
    assert_none(breaches);
}

/// The laws would hold of anything if these were blind.
#[test]
fn the_eyes_of_the_laws_see() {
    let code = without_comments_and_strings(
        "let a = \"openraft\"; // openraft\nlet b = r#\"x\"openraft\"#; /* a\nb */ f::<'a>('\"', '\\'', tonic);",
    );
    assert!(!code.contains("openraft"), "{code}");
    assert!(has_word(&code, "tonic") && code.lines().count() == 3, "{code}");
    assert!(has_word("use rand::Rng;", "rand") && !has_word("operand", "rand"));
    assert!(
        has_word("std::thread::spawn", "std::thread") && !has_word("std::threads", "std::thread")
    );
    assert_eq!(imported("use crate::types::Seq; crate::cli::main()"), ["types", "cli"]);
    assert_eq!(imported("use crate::{log::{self, x}, cli}; y"), ["log", "cli"]);
    assert_eq!(words("TopicPartition_idX"), ["topic", "partition", "id", "x"]);
    let file = Source { path: "src/storage/rocks/view.rs".to_owned(), text: String::new() };
    assert!(file.is_in(&["src/storage/rocks"]) && !file.is_in(&["src/storage/rock"]));
}
