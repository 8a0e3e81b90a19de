use std::io::Write;

use super::*;

const LEAST: &str = "node_id = 1\ndata_dir = \"data\"\n";

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Config::load_with(Some(file.path()), variables)
        .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
}

fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
    load(text, variables).expect_err("the configuration is wrong")
}

#[test]
fn two_keys_are_enough_on_one_machine() {
    let config = load(LEAST, &[]).unwrap();
    assert_eq!(config.node_id, NodeId(1));
    assert_eq!(config.client.advertised(), "127.0.0.1:7101");
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn the_environment_alone_is_enough_in_a_container() {
    let variables = [
        ("QUORATE_NODE_ID", "7"),
        ("QUORATE_DATA_DIR", "/data"),
        ("QUORATE_CLIENT__LISTEN", "0.0.0.0:7101"),
        ("QUORATE_CLIENT__ADVERTISE", "seven.example:7101"),
        ("QUORATE_CLIENT__INSECURE", "true"),
        ("QUORATE_RAFT__HEARTBEAT_INTERVAL_MS", "50"),
        ("QUORATE_ZONE", "\"2\""),
        ("PATH", "/bin"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load_with(None, variables).unwrap();
    assert_eq!(config.node_id, NodeId(7));
    assert_eq!(config.client.advertised(), "seven.example:7101");
    assert_eq!(config.raft.heartbeat_interval_ms, 50);
    assert_eq!(config.zone, "2");
}

#[test]
fn a_variable_wins_over_the_file_and_is_named_when_it_is_wrong() {
    let config = load(LEAST, &[("QUORATE_NODE_ID", "3")]).unwrap();
    assert_eq!(config.node_id, NodeId(3));
    let refusals = [
        (
            ("QUORATE_NODE_ID", "three"),
            "environment variable QUORATE_NODE_ID: node_id: invalid type",
        ),
        (("QUORATE_NODE_ID", "0"), "environment variable QUORATE_NODE_ID: node_id: node ids count"),
        (("QUORATE_NODEID", "3"), "environment variable QUORATE_NODEID: nodeid: unknown field"),
        (
            ("QUORATE_NODE_ID__X", "3"),
            "environment variable QUORATE_NODE_ID__X: node_id.x: part of",
        ),
        (("QUORATE_RAFT__X", "3"), "environment variable QUORATE_RAFT__X: raft.x: unknown field"),
    ];
    for (variable, expected) in refusals {
        let refusal = refusal(LEAST, &[variable]);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn what_a_container_platform_or_the_command_line_sets_is_no_configuration() {
    let foreign = [
        ("QUORATE_SERVICE_HOST", "10.0.0.1"),
        ("QUORATE_CLIENT_SERVICE_PORT", "7101"),
        ("QUORATE_CLIENT_PORT_7101_TCP_ADDR", "10.0.0.1"),
        ("QUORATE_PORT", "tcp://10.0.0.1:7101"),
        ("QUORATE_ENDPOINTS", "127.0.0.1:7101"),
    ];
    load(LEAST, &foreign).unwrap();
}

#[test]
fn every_mistake_is_named_with_its_key_and_line() {
    let cases = [
        ("[raft]\nheartbeat = 5\n", "FILE line 4: raft.heartbeat: unknown field `heartbeat`"),
        ("nodes = 3\n", "FILE line 3: nodes: unknown field `nodes`"),
        ("zone = 3\n", "FILE line 3: zone: invalid type: integer `3`, expected a string"),
        ("zone = \"a\n", "FILE line 3: invalid basic string, expected `\"`: `zone = \"a`"),
        ("node_id = 2\n", "FILE line 3: duplicate key: `node_id = 2`"),
        (
            "[client]\nlisten = \"127.0.0.1:70000\"\n",
            "FILE line 4: client.listen: \"127.0.0.1:70000\" cannot",
        ),
        (
            "[client]\nlisten = \"127.0.0.1:0\"\n",
            "FILE line 4: client.listen: the port must be 1 to 65535",
        ),
        (
            "[client]\nlisten = \"localhost:7101\"\n",
            "FILE line 4: client.listen: \"localhost:7101\" cannot",
        ),
        ("[client]\ninsecure = true\n", "FILE line 3: client: missing field `listen`"),
        (
            "[peer]\nlisten = \"10.0.0.1:7201\"\n",
            "FILE line 4: peer.listen: 10.0.0.1:7201 is not loopback",
        ),
        (
            "[http]\ninsecure = true\nlisten = \"0.0.0.0:7301\"\n",
            "FILE line 5: http.listen: nobody can be told",
        ),
        (
            "[peer]\nlisten = \"127.0.0.1:7201\"\nadvertise = \"here\"\n",
            "FILE line 5: peer.advertise: \"here\" is not host:port: it has no port",
        ),
        (
            "[peer]\nlisten = \"127.0.0.1:7201\"\ntls = { cert = \"c\", key = \"k\", ca = \"a\" }\n",
            "FILE line 5: peer.tls.ca: a: No such file",
        ),
        (
            "[peer]\nlisten = \"127.0.0.1:7101\"\n",
            "FILE line 4: peer.listen: 127.0.0.1:7101 is client.listen already",
        ),
        (
            "[raft]\nheartbeat_interval_ms = 5\n",
            "FILE line 4: raft.heartbeat_interval_ms: 5 is out",
        ),
        (
            "[raft]\nelection_timeout_min_ms = 299\n",
            "FILE line 4: raft.election_timeout_min_ms: 299 is too short: at least 3 × \
             heartbeat_interval_ms = 300",
        ),
        (
            "[storage]\ndisk_soft_free_bytes = 1\n",
            "FILE line 4: storage.disk_soft_free_bytes: 1 must",
        ),
        ("[storage]\nballast_bytes = -1\n", "FILE line 4: storage.ballast_bytes: invalid value"),
        ("[limits]\ndedup_horizon_days = 0\n", "FILE line 4: limits.dedup_horizon_days: 0 is out"),
        ("[log]\nformat = \"xml\"\n", "FILE line 4: log.format: unknown variant `xml`"),
        ("[log]\nfilter = \"quorate=loud\"\n", "FILE line 4: log.filter: not a log filter"),
    ];
    for (addition, expected) in cases {
        let refusal = refusal(&format!("{LEAST}{addition}"), &[]);
        assert!(refusal.starts_with(expected), "{refusal}\nexpected: {expected}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn of_two_keys_that_do_not_go_together_the_one_that_is_set_is_named() {
    let cases = [
        (
            "[raft]\nelection_timeout_min_ms = 1000\n",
            "FILE line 4: raft.election_timeout_min_ms: 1000 must be below the default \
             election_timeout_max_ms = 1000: the difference",
        ),
        (
            "[raft]\nelection_timeout_min_ms = 900\nelection_timeout_max_ms = 900\n",
            "FILE line 5: raft.election_timeout_max_ms: 900 must be above election_timeout_min_ms = 900",
        ),
        (
            "[raft]\nheartbeat_interval_ms = 200\n",
            "FILE line 4: raft.heartbeat_interval_ms: 200 is too long: at most 166 with the default \
             election_timeout_min_ms = 500",
        ),
        (
            "[raft]\nheartbeat_interval_ms = 200\nelection_timeout_min_ms = 500\n",
            "FILE line 5: raft.election_timeout_min_ms: 500 is too short: at least 3 × \
             heartbeat_interval_ms = 600",
        ),
        (
            "[storage]\nballast_bytes = 0\ndisk_hard_free_bytes = 4294967296\n",
            "FILE line 5: storage.disk_hard_free_bytes: 4294967296 must be below the default \
             disk_soft_free_bytes = 4294967296: appends stop",
        ),
        (
            "[client]\nlisten = \"127.0.0.1:7301\"\n",
            "FILE line 4: client.listen: 127.0.0.1:7301 is http.listen already, by default",
        ),
    ];
    for (addition, expected) in cases {
        let refusal = refusal(&format!("{LEAST}{addition}"), &[]);
        assert!(refusal.starts_with(expected), "{refusal}\nexpected: {expected}");
    }
    let variable = ("QUORATE_RAFT__ELECTION_TIMEOUT_MIN_MS", "1000");
    let refusal = refusal(&format!("{LEAST}[raft]\nheartbeat_interval_ms = 100\n"), &[variable]);
    let expected =
        format!("environment variable {}: raft.election_timeout_min_ms: 1000", variable.0);
    assert!(refusal.starts_with(&expected), "{refusal}");
}

/// Every key, with what is wrong in it and what is then said.
const OUT_OF_RANGE: [(&str, &str, &str, &str); 28] = [
    ("", "node_id", "0", "node ids count from 1"),
    ("", "node_id", "4294967296", "invalid value"),
    ("", "node_id", "-1", "invalid value"),
    ("", "data_dir", "\"\"", "it is empty"),
    ("raft", "heartbeat_interval_ms", "9", "9 is out of range: 10 to 10000"),
    ("raft", "heartbeat_interval_ms", "10001", "10001 is out of range"),
    ("raft", "election_timeout_min_ms", "0", "0 is too short"),
    ("raft", "election_timeout_max_ms", "60001", "60001 is out of range"),
    ("raft", "election_timeout_max_ms", "500", "500 must be above"),
    ("raft", "park_after_ms", "999", "999 is out of range: 1000 to 86400000"),
    ("raft", "park_after_ms", "86400001", "86400001 is out of range"),
    ("storage", "disk_soft_free_bytes", "1073741824", "1073741824 must be above"),
    ("storage", "disk_hard_free_bytes", "16777215", "16777215 is out of range: at least 16777216"),
    ("storage", "block_cache_bytes", "1048575", "1048575 is out of range"),
    ("storage", "log_memtable_bytes", "0", "0 is out of range"),
    ("storage", "log_memtable_bytes", "17179869185", "17179869185 is out of range"),
    ("storage", "state_memtable_bytes", "1", "1 is out of range"),
    ("storage", "log_keep_bytes", "-1", "invalid value"),
    ("storage", "flush_interval_ms", "99", "99 is out of range: 100 to 3600000"),
    ("storage", "flush_interval_ms", "3600001", "3600001 is out of range"),
    ("limits", "dedup_horizon_days", "3651", "3651 is out of range: 1 to 3650"),
    ("log", "filter", "\"=\"", "not a log filter"),
    ("client", "listen", "\"\"", "cannot be listened on: it has no port"),
    ("peer", "listen", "\"127.0.0.1:x\"", "the port must be 1 to 65535"),
    ("http", "listen", "\"127.0.0.1:65536\"", "the port must be 1 to 65535"),
    ("client", "advertise", "\"host:0\"", "the port must be 1 to 65535"),
    ("peer", "advertise", "\":7201\"", "it has no host"),
    ("http", "advertise", "\"host\"", "it has no port"),
];

/// Every key of every section.
const KEYS: [(&str, &[&str]); 8] = [
    ("", &["node_id", "zone", "data_dir"]),
    ("client", &["listen", "advertise", "insecure", "tls"]),
    ("peer", &["listen", "advertise", "insecure", "tls"]),
    ("http", &["listen", "advertise", "insecure", "tls"]),
    (
        "raft",
        &[
            "heartbeat_interval_ms",
            "election_timeout_min_ms",
            "election_timeout_max_ms",
            "park_after_ms",
        ],
    ),
    (
        "storage",
        &[
            "disk_soft_free_bytes",
            "disk_hard_free_bytes",
            "ballast_bytes",
            "block_cache_bytes",
            "log_memtable_bytes",
            "state_memtable_bytes",
            "log_keep_bytes",
            "flush_interval_ms",
        ],
    ),
    ("limits", &["dedup_horizon_days"]),
    ("log", &["format", "filter"]),
];

/// A configuration that is right but for one key, and the line and name of that key.
fn with_key(section: &str, key: &str, value: &str) -> (String, String) {
    let mut lines: Vec<String> = [("node_id", "1"), ("data_dir", "\"data\"")]
        .into_iter()
        .filter(|(name, _)| !section.is_empty() || *name != key)
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if !section.is_empty() {
        lines.push(format!("[{section}]"));
    }
    if ["client", "peer", "http"].contains(&section) && key != "listen" {
        lines.push("listen = \"127.0.0.1:9\"".to_owned());
    }
    lines.push(format!("{key} = {value}"));
    let name = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    (lines.join("\n") + "\n", format!("FILE line {}: {name}", lines.len()))
}

#[test]
fn impossible_values_are_named_with_key_line_and_range() {
    for (section, key, value, reason) in OUT_OF_RANGE {
        let (text, place) = with_key(section, key, value);
        let refusal = refusal(&text, &[]);
        assert!(refusal.starts_with(&place), "{refusal}\nexpected: {place}");
        assert!(refusal.contains(reason), "{refusal}\nexpected: {reason}");
    }
}

#[test]
fn every_key_refuses_what_is_no_value_of_its_kind() {
    for (section, keys) in KEYS {
        for key in keys {
            let (text, place) = with_key(section, key, "[1]");
            let refusal = refusal(&text, &[]);
            assert!(refusal.starts_with(&place), "{refusal}\nexpected: {place}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
        let (text, place) = with_key(section, "no_such_key", "1");
        let refusal = refusal(&text, &[]);
        assert!(refusal.starts_with(&format!("{place}: unknown field")), "{refusal}");
        for key in keys {
            assert!(refusal.contains(&format!("`{key}`")), "{key} is not offered: {refusal}");
        }
    }
}

#[test]
fn what_is_quoted_from_the_file_stays_on_one_line() {
    let tls = "[client]\ntls = { cert = \"a\\nb\", key = \"c\" }\n";
    for text in ["\"no\\nkey\" = 1\n", tls, "[log]\nfilter = \"a=\\u001b[2J\"\n"] {
        let refusal = refusal(&format!("{LEAST}{text}"), &[]);
        assert!(!refusal.contains(char::is_control), "{refusal:?}");
    }
}

#[test]
fn a_file_that_is_no_text_is_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0xff, 0xfe, 0]).unwrap();
    let error = Config::load_with(Some(file.path()), []).unwrap_err();
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}

#[test]
fn a_missing_key_and_a_missing_file_are_named() {
    assert_eq!(refusal("data_dir = \"data\"\n", &[]), "FILE: missing field `node_id`");
    let error = Config::load_with(Some(Path::new("/no/such/file.toml")), []).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration file /no/such/file.toml");
}

/// Certificate and key of one node, and the key of another, in a folder.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let make = || rcgen::generate_simple_self_signed(["node.example".to_owned()]).unwrap();
    let (own, other) = (make(), make());
    for (name, text) in [
        ("own.pem", own.cert.pem()),
        ("own.key", own.signing_key.serialize_pem()),
        ("other.key", other.signing_key.serialize_pem()),
        ("empty.pem", String::new()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn certificates_are_read_with_the_configuration_and_each_mistake_names_key_and_file() {
    let folder = certificates();
    let load_tls = |port: &str, tls: &str| {
        let tls = tls.replace("F/", &format!("{}/", folder.path().display()));
        let listen = "listen = \"10.0.0.1:7201\"";
        let text = format!("{LEAST}[{port}]\n{listen}\ntls = {{ {tls} }}\n");
        load(&text, &[]).map_err(|error| error.replace(&folder.path().display().to_string(), "F"))
    };
    let own = "cert = \"F/own.pem\", key = \"F/own.key\"";
    let with_ca = format!("{own}, ca = \"F/own.pem\"");
    for port in ["client", "http"] {
        load_tls(port, own).expect("TLS is enough off loopback");
    }
    load_tls("peer", &with_ca).expect("nodes have certificates and authorities");
    for (port, tls, expected) in [
        ("client", own.replace("own.pem", "none.pem"), "client.tls.cert: F/none.pem: No such file"),
        (
            "client",
            own.replace("own.pem", "empty.pem"),
            "client.tls.cert: F/empty.pem: has no cert",
        ),
        ("http", own.replace("own.key", "own.pem"), "http.tls.key: F/own.pem: has no private key"),
        ("http", own.replace("own.key", "other.key"), "http.tls.key: F/other.key: does not fit"),
        ("client", format!("{own}, ca = \"F/empty.pem\""), "client.tls.ca: F/empty.pem: has no"),
    ] {
        let refused = load_tls(port, &tls).expect_err(expected);
        assert!(refused.starts_with(&format!("FILE line 5: {expected}")), "{refused}");
    }
    let refused = load_tls("peer", own).expect_err("nodes need authorities");
    assert!(refused.starts_with("FILE line 5: peer.tls.ca: it is missing"), "{refused}");
}
