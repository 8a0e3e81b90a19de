//! What the packages bring with them: licenses, banned crates, and that services which link the client library get
//! neither RocksDB nor openraft. `deny.toml` holds the lists, for `cargo deny check` too, which takes minutes to build.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for what is linked; `dev` or `build` otherwise.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    allow: Vec<String>,
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
}

impl Metadata {
    /// Everything that the workspace's packages may bring, on any platform.
    fn read() -> Metadata {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo metadata: {complaint}");
        serde_json::from_slice(&output.stdout).expect("cargo's JSON")
    }

    fn package(&self, name: &str) -> &Package {
        self.packages.iter().find(|package| package.name == name).expect("the package is there")
    }

    /// The names of all that is linked into whoever depends on a package.
    fn linked_with(&self, name: &str) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|package| (&*package.id, &*package.name)).collect();
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
        let mut found = BTreeSet::new();
        let mut next = vec![&*self.package(name).id];
        while let Some(id) = next.pop() {
            if found.insert(id) {
                let linked = nodes[id].deps.iter().filter(|dependency| {
                    dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
                });
                next.extend(linked.map(|dependency| &*dependency.pkg));
            }
        }
        found.into_iter().map(|id| names[id]).collect()
    }
}

fn deny() -> Deny {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    toml::from_str(&std::fs::read_to_string(path).unwrap()).expect("deny.toml")
}

/// Whether a package may be taken under licenses that are allowed.
fn permitted<'a>(license: &str, allowed: impl IntoIterator<Item = &'a String>) -> bool {
    let parse = |license: &String| spdx::Licensee::parse(license).expect("a license in deny.toml");
    let allowed: Vec<_> = allowed.into_iter().map(parse).collect();
    let expression = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX);
    expression.is_ok_and(|expression| {
        expression.evaluate(|needed| allowed.iter().any(|license| license.satisfies(needed)))
    })
}

#[test]
fn licenses_are_permissive_and_no_banned_crate_comes_along() {
    let metadata = Metadata::read();
    let Deny { licenses, bans } = deny();
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let license = package.license.as_deref().unwrap_or("none");
        let exception = licenses.exceptions.iter().find(|known| known.name == package.name);
        let allowed = licenses.allow.iter().chain(exception.iter().flat_map(|known| &known.allow));
        if !permitted(license, allowed) {
            breaches.push(format!("{} {}: license {license}", package.name, package.version));
        }
        if bans.deny.iter().any(|banned| banned.name == package.name) {
            breaches.push(format!("{} {} is banned", package.name, package.version));
        }
        let registry = package.source.as_deref().is_none_or(|s| s.starts_with("registry+"));
        if !registry {
            breaches.push(format!("{} {} is from no registry", package.name, package.version));
        }
    }
    assert!(breaches.is_empty(), "see deny.toml:\n{}", breaches.join("\n"));
    assert!(metadata.packages.len() > 100, "all packages were looked at");
}

#[test]
fn the_client_library_brings_neither_rocksdb_nor_openraft() {
    let metadata = Metadata::read();
    let client = metadata.linked_with("quorate-client");
    for heavy in ["quorate", "rocksdb", "librocksdb-sys", "openraft"] {
        assert!(!client.contains(heavy), "services would link {heavy}");
    }
    for exception in &deny().licenses.exceptions {
        assert!(!client.contains(&*exception.name), "services would link {}", exception.name);
    }
    // It looks at the right tree: what the client does need is there, and what the server needs is found.
    assert!(client.contains("tonic") && client.contains("tokio"), "{client:?}");
    let server = metadata.linked_with("quorate");
    assert!(server.contains("librocksdb-sys") && server.contains("openraft"), "{server:?}");
}

#[test]
fn the_rule_about_licenses_can_fail() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    for fine in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "MIT AND Apache-2.0"] {
        assert!(permitted(fine, &allowed), "{fine}");
    }
    for not in ["GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0+", "none", ""] {
        assert!(!permitted(not, &allowed), "{not}");
    }
}
