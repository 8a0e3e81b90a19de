//! What an operator decides: a TOML file with environment overrides, checked before anything starts.
//!
//! Every key is explained where people look for it, in `cluster-configs/`. Unknown keys are refused, and whatever is
//! wrong is reported with its key and its line, or with the environment variable that it came from.

mod source;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::consensus::RaftTiming;
use crate::storage::DiskLimits;
use crate::types::NodeId;

use source::Source;
pub use tls::{TlsConfig, TlsFileError};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Elections need several heartbeats to be lost, not one late one.
const ELECTION_HEARTBEATS_MIN: u64 = 3;

/// A day: whoever wants more wants 0.
const PARK_AFTER_MS_MAX: u64 = 24 * 3600 * 1_000;

/// One node's configuration, valid as a whole.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which node this is: from 1, unique in the cluster, never reused.
    pub node_id: NodeId,
    /// Failure domain; replicas of a group go to distinct zones where there are enough.
    #[serde(default)]
    pub zone: String,
    /// Everything the node keeps. Relative to the working directory.
    pub data_dir: PathBuf,
    /// The gRPC API.
    #[serde(default = "Listener::client_default")]
    pub client: Listener,
    /// Other nodes.
    #[serde(default = "Listener::peer_default")]
    pub peer: Listener,
    /// Metrics and health.
    #[serde(default = "Listener::http_default")]
    pub http: Listener,
    /// Heartbeats and elections.
    #[serde(default)]
    pub raft: RaftConfig,
    /// Memory and disk.
    #[serde(default)]
    pub storage: StorageConfig,
    /// Bounds that differ between installations.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// What the node writes to standard error.
    #[serde(default)]
    pub log: LogConfig,
}

/// A port.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// IP address and port to bind.
    #[serde(deserialize_with = "socket_address")]
    pub listen: SocketAddr,
    /// host:port that others are told to use; see [`Listener::advertised`].
    #[serde(default)]
    pub advertise: Option<String>,
    /// Certificates; without them the port is not encrypted.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Allows a listener off loopback without TLS.
    #[serde(default)]
    pub insecure: bool,
}

/// Heartbeats and elections.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// How often a leader says that it leads. 10 to 10,000.
    pub heartbeat_interval_ms: u64,
    /// Shortest wait for a leader before an election. At least three heartbeats.
    pub election_timeout_min_ms: u64,
    /// Longest such wait, and the leader's lease. Above the shortest, at most 60,000.
    pub election_timeout_max_ms: u64,
    /// How long nothing has to happen in a group before it is parked. 0 for never; otherwise
    /// 1,000 to 86,400,000. Not before `election_timeout_max_ms` all the same.
    pub park_after_ms: u64,
}

/// Memory and disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Below this much free disk, leaders refuse appends.
    pub disk_soft_free_bytes: u64,
    /// Below this much free disk, replication is refused too, and nothing is compacted.
    pub disk_hard_free_bytes: u64,
    /// Size of a file that people may delete on a full disk to get room; 0 for none. It is made at a start that finds room
    /// for it above `disk_soft_free_bytes`.
    pub ballast_bytes: u64,
    /// Cache of what is read from the databases.
    pub block_cache_bytes: u64,
    /// Memory for the newest part of the log, before it reaches a file. Whenever the log has grown by half of it, the state is
    /// flushed.
    pub log_memtable_bytes: u64,
    /// Memory for the newest part of the state, before it reaches a file.
    pub state_memtable_bytes: u64,
    /// How much of each group's log is kept behind the durable mark while a replica is away.
    pub log_keep_bytes: u64,
    /// Longest time between flushes of the state; they also come with the log.
    pub flush_interval_ms: u64,
}

/// Bounds that differ between installations.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// How long after `issued_at` an append may be retried. 1 to 3,650.
    pub dedup_horizon_days: u32,
}

/// What the node writes to standard error.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// What is written: `info`, or directives such as `info,quorate::consensus=debug`.
    pub filter: String,
}

/// Form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
}

/// Why there is no configuration. `Display` is one line that names the place and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {}{reason}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
    Invalid {
        /// File and line, or environment variable.
        place: String,
        /// Dotted; empty where the file is not TOML.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Config {
    /// Reads a file, or only the environment if there is none, with `QUORATE_…` variables of this process on top:
    /// `QUORATE_CLIENT__LISTEN` sets `client.listen`.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        Config::load_with(file, variables)
    }

    /// Like [`Config::load`], with other variables than those of this process.
    pub fn load_with(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        Config::parse(file, &source::read(file)?, variables)
    }

    /// The configuration that a text and variables make. `file` is where the text is from, for messages about it.
    pub fn parse(
        file: Option<&Path>,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let variables = source::overrides(variables);
        let source = Source::parse(file, text, &variables)?;
        let config: Config = source.deserialize()?;
        config.validate(&source)?;
        Ok(config)
    }

    fn validate(&self, source: &Source<'_>) -> Result<(), ConfigError> {
        if self.node_id.0 == 0 {
            return Err(source.invalid("node_id", "node ids count from 1"));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(source.invalid("data_dir", "it is empty"));
        }
        self.validate_listeners(source)?;
        self.raft.validate(source)?;
        self.storage.validate(source)?;
        within(
            source,
            "limits.dedup_horizon_days",
            self.limits.dedup_horizon_days.into(),
            1,
            3_650,
        )?;
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            return Err(source.invalid("log.filter", format!("not a log filter: {error}")));
        }
        Ok(())
    }
}

impl Config {
    fn validate_listeners(&self, source: &Source<'_>) -> Result<(), ConfigError> {
        let listeners = [("client", &self.client), ("peer", &self.peer), ("http", &self.http)];
        for (at, (name, listener)) in listeners.iter().enumerate() {
            listener.validate(name, source)?;
            let same = listeners[..at].iter().find(|(_, other)| other.listen == listener.listen);
            if let Some((other, _)) = same {
                let [own, other] = [name, other].map(|name| format!("{name}.listen"));
                let (key, holder) = match source.sets_only_second(&own, &other) {
                    true => (other, own),
                    false => (own, other),
                };
                let default = if source.sets(&holder) { "" } else { ", by default" };
                let reason = format!("{} is {holder} already{default}", listener.listen);
                return Err(source.invalid(&key, reason));
            }
        }
        Ok(())
    }
}

impl Listener {
    /// host:port that others are told to use: `advertise`, or else `listen`.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    fn on_loopback(port: u16) -> Listener {
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        Listener { listen, advertise: None, tls: None, insecure: false }
    }

    fn client_default() -> Listener {
        Listener::on_loopback(7101)
    }

    fn peer_default() -> Listener {
        Listener::on_loopback(7201)
    }

    fn http_default() -> Listener {
        Listener::on_loopback(7301)
    }

    fn validate(&self, name: &str, source: &Source<'_>) -> Result<(), ConfigError> {
        if let Some(tls) = &self.tls {
            let checked = match name {
                "peer" => tls.for_peers().map(|_| ()),
                _ => tls.for_server(&[]).map(|_| ()),
            };
            checked.map_err(|error| {
                source.invalid(&format!("{name}.tls.{}", error.key), error.reason)
            })?;
        }
        let listen = format!("{name}.listen");
        if self.listen.port() == 0 {
            return Err(source.invalid(&listen, "the port must be 1 to 65535"));
        }
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.insecure {
            let reason = format!(
                "{} is not loopback, and there is no TLS: set {name}.tls, or {name}.insecure = true to allow it",
                self.listen
            );
            return Err(source.invalid(&listen, reason));
        }
        match &self.advertise {
            Some(address) => check_host_and_port(address)
                .map_err(|reason| source.invalid(&format!("{name}.advertise"), reason)),
            None if self.listen.ip().is_unspecified() => Err(source.invalid(
                &listen,
                format!("nobody can be told to connect to {}: set {name}.advertise", self.listen),
            )),
            None => Ok(()),
        }
    }
}

impl Default for RaftConfig {
    fn default() -> Self {
        RaftConfig {
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 500,
            election_timeout_max_ms: 1_000,
            park_after_ms: 5_000,
        }
    }
}

impl RaftConfig {
    /// As the replicas take it.
    pub fn timing(&self) -> RaftTiming {
        RaftTiming {
            heartbeat_interval_ms: self.heartbeat_interval_ms,
            election_timeout_min_ms: self.election_timeout_min_ms,
            election_timeout_max_ms: self.election_timeout_max_ms,
            park_after_ms: self.park_after_ms,
        }
    }

    fn validate(&self, source: &Source<'_>) -> Result<(), ConfigError> {
        let heartbeat = ("raft.heartbeat_interval_ms", self.heartbeat_interval_ms);
        let shortest = ("raft.election_timeout_min_ms", self.election_timeout_min_ms);
        let longest = ("raft.election_timeout_max_ms", self.election_timeout_max_ms);
        within(source, heartbeat.0, heartbeat.1, 10, 10_000)?;
        let least = ELECTION_HEARTBEATS_MIN * heartbeat.1;
        if shortest.1 < least && source.sets_only_second(shortest.0, heartbeat.0) {
            let most = shortest.1 / ELECTION_HEARTBEATS_MIN;
            let reason = format!(
                "{} is too long: at most {most} with the default election_timeout_min_ms = {}",
                heartbeat.1, shortest.1
            );
            return Err(source.invalid(heartbeat.0, reason));
        }
        if shortest.1 < least {
            let reason = format!(
                "{} is too short: at least {ELECTION_HEARTBEATS_MIN} × heartbeat_interval_ms = {least}",
                shortest.1
            );
            return Err(source.invalid(shortest.0, reason));
        }
        above(source, longest, shortest, "the difference keeps elections apart")?;
        within(source, longest.0, longest.1, 1, 60_000)?;
        match self.park_after_ms {
            0 => Ok(()),
            after => within(source, "raft.park_after_ms", after, 1_000, PARK_AFTER_MS_MAX),
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig {
            disk_soft_free_bytes: 4 * GIB,
            disk_hard_free_bytes: GIB,
            ballast_bytes: 256 * MIB,
            block_cache_bytes: 256 * MIB,
            log_memtable_bytes: 128 * MIB,
            state_memtable_bytes: 256 * MIB,
            log_keep_bytes: 64 * MIB,
            flush_interval_ms: 30_000,
        }
    }
}

impl StorageConfig {
    /// Its marks.
    pub fn disk_limits(&self) -> DiskLimits {
        DiskLimits {
            soft_free_bytes: self.disk_soft_free_bytes,
            hard_free_bytes: self.disk_hard_free_bytes,
        }
    }

    fn validate(&self, source: &Source<'_>) -> Result<(), ConfigError> {
        let soft = ("storage.disk_soft_free_bytes", self.disk_soft_free_bytes);
        let hard = ("storage.disk_hard_free_bytes", self.disk_hard_free_bytes);
        above(source, soft, hard, "appends stop before replication does")?;
        // RocksDB needs room to write its manifest and to flush what is in memory when it opens again.
        within(source, hard.0, hard.1, 16 * MIB, u64::MAX)?;
        within(source, "storage.block_cache_bytes", self.block_cache_bytes, MIB, u64::MAX)?;
        within(source, "storage.log_memtable_bytes", self.log_memtable_bytes, MIB, 16 * GIB)?;
        within(source, "storage.state_memtable_bytes", self.state_memtable_bytes, MIB, 16 * GIB)?;
        within(source, "storage.flush_interval_ms", self.flush_interval_ms, 100, 3_600_000)
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig { dedup_horizon_days: 30 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Text, filter: "info,openraft=error".to_owned() }
    }
}

fn within(
    source: &Source<'_>,
    key: &str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = match most {
        u64::MAX => format!("at least {least}"),
        _ => format!("{least} to {most}"),
    };
    Err(source.invalid(key, format!("{value} is out of range: {range}")))
}

/// Refuses two values of which the first is not above the second.
fn above(
    source: &Source<'_>,
    (high_key, high): (&str, u64),
    (low_key, low): (&str, u64),
    why: &str,
) -> Result<(), ConfigError> {
    if high > low {
        return Ok(());
    }
    if source.sets_only_second(high_key, low_key) {
        let high_name = last_name(high_key);
        let reason = format!("{low} must be below the default {high_name} = {high}: {why}");
        return Err(source.invalid(low_key, reason));
    }
    let reason = format!("{high} must be above {} = {low}: {why}", last_name(low_key));
    Err(source.invalid(high_key, reason))
}

/// The name of a dotted key in its table.
fn last_name(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

fn check_host_and_port(address: &str) -> Result<(), String> {
    let problem = match address.rsplit_once(':') {
        None => "it has no port",
        Some(("", _)) => "it has no host",
        Some((_, port)) if !port.parse::<u16>().is_ok_and(|port| port > 0) => {
            "the port must be 1 to 65535"
        }
        Some(_) => return Ok(()),
    };
    Err(format!("{address:?} is not host:port: {problem}"))
}

fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let problem = match text.rsplit_once(':') {
            None => "it has no port",
            Some((_, port)) if port.parse::<u16>().is_err() => "the port must be 1 to 65535",
            Some(_) => "the host must be an IP address, such as 127.0.0.1 or [::1]",
        };
        serde::de::Error::custom(format!("{text:?} cannot be listened on: {problem}"))
    })
}
