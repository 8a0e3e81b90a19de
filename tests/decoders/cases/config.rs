//! A configuration: the file, a byte 0, and variables, one `NAME=value` a line.

use std::path::Path;

use quorate::server::Config;

use super::Case;

pub const CASE: Case = Case { seeds, check };

const FILE: &str = "node.toml";
/// Every shipped file has every key.
const SHIPPED: &str = include_str!("../../../cluster-configs/one-node.toml");

fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Certificates are read while a configuration is checked, and a device may have no end.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let (text, variables) = text.split_once('\0').unwrap_or((text, ""));
    let variables = || {
        let pairs = variables.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let parse = || Config::parse(Some(Path::new(FILE)), text, variables());
    match parse() {
        Ok(config) => {
            sound(&config);
            assert_eq!(format!("{config:?}"), format!("{:?}", parse().unwrap()));
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "not one line: {line}");
        }
    }
}

/// What the node relies on.
fn sound(config: &Config) {
    assert!(config.node_id.0 > 0 && !config.data_dir.as_os_str().is_empty());
    for port in [&config.client, &config.peer, &config.http] {
        assert!(port.listen.port() > 0 && port.advertised().contains(':'));
        assert!(port.listen.ip().is_loopback() || port.tls.is_some() || port.insecure);
    }
    let raft = &config.raft;
    assert!(raft.heartbeat_interval_ms >= 10);
    assert!(raft.election_timeout_min_ms >= 3 * raft.heartbeat_interval_ms);
    assert!((raft.election_timeout_min_ms + 1..=60_000).contains(&raft.election_timeout_max_ms));
    assert!(matches!(raft.park_after_ms, 0 | 1_000..=86_400_000));
    assert!(config.storage.disk_soft_free_bytes > config.storage.disk_hard_free_bytes);
    assert!((1..=3_650).contains(&config.limits.dedup_horizon_days));
}

fn seeds() -> Vec<Vec<u8>> {
    let least = "node_id = 1\ndata_dir = \"data\"\n";
    let tables = "[client]\nlisten = \"10.0.0.1:7101\"\ntls = { cert = \"a\", key = \"b\" }\n";
    let variables = [
        "QUORATE_NODE_ID=2",
        "QUORATE_DATA_DIR=data",
        "QUORATE_CLIENT__LISTEN=[::1]:7101",
        "QUORATE_CLIENT__ADVERTISE=node.example:7101",
        "QUORATE_PEER__INSECURE=true",
        "QUORATE_RAFT__HEARTBEAT_INTERVAL_MS=100",
        "QUORATE_LIMITS__DEDUP_HORIZON_DAYS=7",
        "QUORATE_LOG__FILTER=info,quorate::consensus=debug",
    ]
    .join("\n");
    let quoted = format!("{least}\"two\\nlines\" = 1\n");
    let seeds = [
        SHIPPED.to_owned(),
        least.to_owned(),
        format!("{least}{tables}"),
        format!("\0{variables}"),
        quoted,
    ];
    seeds.map(String::into_bytes).to_vec()
}
