//! The configuration files that are shipped parse, agree with each other, and name and explain every key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quorate::server::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All shipped files, below `cluster-configs/`.
fn shipped() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("cluster-configs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert!(path.extension().is_some_and(|e| e == "toml"), "{}", path.display());
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn load(path: &Path) -> Config {
    Config::load_with(Some(path), []).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn each_shipped_file_is_valid() {
    let files = shipped();
    assert_eq!(files.len(), 1 + 3 + 5);
    for file in files {
        let config = load(&file);
        let stem = file.file_stem().unwrap().to_string_lossy();
        let node_id = if stem == "one-node" { "1" } else { &*stem };
        assert_eq!(config.node_id.0.to_string(), node_id, "{}", file.display());
    }
}

#[test]
fn nodes_of_one_cluster_do_not_collide() {
    for folder in ["three-nodes", "five-nodes-three-zones"] {
        let mut addresses = BTreeSet::new();
        let mut zones = BTreeSet::new();
        let files: Vec<_> =
            shipped().into_iter().filter(|f| f.parent().unwrap().ends_with(folder)).collect();
        for file in &files {
            let config = load(file);
            for listener in [&config.client, &config.peer, &config.http] {
                assert!(addresses.insert(listener.advertised()), "{}", listener.advertised());
            }
            zones.insert(config.zone);
        }
        assert_eq!(addresses.len(), 3 * files.len());
        assert_eq!(zones.len(), if folder == "three-nodes" { 1 } else { 3 });
    }
}

/// What the files say are the defaults are the defaults: a file cut down to what is required means the same.
#[test]
fn the_values_in_the_one_node_file_are_the_defaults() {
    let full = load(&root().join("cluster-configs/one-node.toml"));
    let variables = [("QUORATE_NODE_ID", "1"), ("QUORATE_DATA_DIR", "data/one-node")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let least = Config::load_with(None, variables).unwrap();
    assert_eq!(format!("{full:?}"), format!("{least:?}"));
}

#[test]
fn each_key_has_its_comment() {
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let before = number.checked_sub(1).map_or("", |before| lines[before]);
            assert!(before.starts_with("# "), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

/// A key that `Config` knows and the shipped files do not mention is a key that nobody finds.
#[test]
fn every_key_is_in_every_file() {
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let error = Config::load_with(None, [("QUORATE_X".to_owned(), String::new())]).unwrap_err();
        let mut tables = vec![(String::new(), error.to_string())];
        for table in ["client", "raft", "storage", "limits", "log"] {
            let variable = format!("QUORATE_{}__X", table.to_uppercase());
            let error = Config::load_with(None, [(variable, String::new())]).unwrap_err();
            tables.push((table.to_owned(), error.to_string()));
        }
        for (table, refusal) in tables {
            let (_, expected) = refusal.split_once("expected ").unwrap_or(("", &refusal));
            let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            assert!(!keys.is_empty(), "{refusal}");
            for key in keys {
                let mentioned = text.lines().any(|line| {
                    let line = line.trim_start_matches("# ");
                    line.starts_with(&format!("{key} = ")) || line == format!("[{key}]")
                });
                assert!(mentioned, "{} does not mention {table}.{key}", file.display());
            }
        }
    }
}

#[test]
fn a_mistake_in_a_shipped_file_is_reported_with_key_and_line() {
    let text = std::fs::read_to_string(root().join("cluster-configs/one-node.toml")).unwrap();
    let line_of = |text: &str, start: &str| {
        text.lines().position(|line| line.starts_with(start)).expect("the line is there") + 1
    };
    for (old, new, key) in [
        ("heartbeat_interval_ms = 100", "heartbeat_ms = 100", "raft.heartbeat_ms"),
        (
            "election_timeout_min_ms = 500",
            "election_timeout_min_ms = 100",
            "raft.election_timeout_min_ms",
        ),
        ("listen = \"127.0.0.1:7201\"", "listen = \"127.0.0.1:72010\"", "peer.listen"),
        ("flush_interval_ms = 30000", "flush_interval_ms = 0", "storage.flush_interval_ms"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        assert!(text.contains(old), "{old}");
        let changed = text.replace(old, new);
        std::fs::write(&path, &changed).unwrap();
        let error = Config::load_with(Some(&path), []).unwrap_err().to_string();
        let expected = format!("{} line {}: {key}: ", path.display(), line_of(&changed, new));
        assert!(error.starts_with(&expected), "{error}\nexpected: {expected}");
    }
}
