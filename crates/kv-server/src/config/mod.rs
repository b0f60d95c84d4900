//! The one configuration of a server: read and checked once, before anything is opened.
//!
//! A value comes from the first of these that has it: a command-line flag, an environment variable,
//! the configuration file (TOML), the default. This module knows every key. An unknown key, a value
//! of the wrong type and a value out of range are errors that name the key, the value, what is
//! allowed, and where the value came from. A [`Config`] is typed and valid, so no other code checks
//! a setting again.
//!
//! It opens no file but the configuration itself, resolves no host name and binds nothing.

mod address;
mod auto_finalize;
mod changes;
mod changes_settings;
mod consistency;
mod error;
mod insecure;
mod settings;
mod shared;
mod sources;
#[cfg(test)]
mod tests;
mod tls;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

pub use address::Address;
pub use auto_finalize::AutoFinalize;
pub use changes_settings::ChangesSettings;
pub use error::ConfigError;
use kv_api::Limits;
use serde::{Deserialize, Serialize};
pub(crate) use settings::DEFAULT_PIN_SECONDS;
pub use settings::{AuthSettings, LogFormat, LogSettings, OnWriteFailure, ServerSettings, StorageSettings};
pub use sources::Environment;
pub use tls::{AdminSettings, ClientCertificates, ListenerTls, OldestTls};

use crate::access::AuditSettings;
use crate::directory_id::DirectoryId;
use crate::mode::Mode;

/// The settings from the command line, which override all other sources.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--mode`.
    pub mode: Option<String>,
    /// `--node-id`.
    pub node_id: Option<u32>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--thrift-addr`.
    pub thrift_addr: Option<String>,
    /// `--admin-addr`.
    pub admin_addr: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--log-file`.
    pub log_file: Option<PathBuf>,
    /// Any other key, as `section.key` and text as the environment would give it.
    pub other: Vec<(String, String)>,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// `mode`.
    pub mode: Mode,
    /// `[server]`.
    pub server: ServerSettings,
    /// `[admin]`.
    pub admin: AdminSettings,
    /// `[storage]`.
    pub storage: StorageSettings,
    /// `[limits]`.
    pub limits: Limits,
    /// Meaningful in replicated mode only; the defaults otherwise.
    pub replication: ReplicationConfig,
    /// `[changes]`.
    pub changes: ChangesSettings,
    /// `[auth]`.
    pub auth: AuthSettings,
    /// `[audit]`.
    pub audit: AuditSettings,
    /// `[log]`.
    pub log: LogSettings,
    /// The data directory of an earlier start in this process. If set, the next start must find the
    /// same one.
    #[serde(skip)]
    pub same_data_dir: Option<DirectoryId>,
    /// Sentences about ignored settings; logged when a server starts.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// The origin of each explicitly set value, as text for messages.
    #[serde(skip)]
    pub origins: BTreeMap<String, String>,
}

/// `[replication]`, completed: the replica list is never empty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplicationConfig {
    /// The one replica that this process runs; `None` if it runs all of them.
    pub node_id: Option<u32>,
    /// The replicas that bootstrap the cluster, by ascending id: 1 to 7. In a cluster whose members
    /// changed, or with `join`, only a hint where some of them are reached: up to 15.
    pub replicas: Vec<ReplicaConfig>,
    /// Whether the configuration lists the replicas; otherwise their peer addresses follow from
    /// `replication.first_peer_addr`.
    pub is_listed: bool,
    /// Where the one replica of this process listens for its peers; `None` means at its `peer`
    /// address.
    pub listen_addr: Option<Address>,
    /// The list describes one process per replica, and no setting says which one this process runs.
    pub lacks_node_id: bool,
    /// Interval of the primary's heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest time without the primary after which a replica campaigns.
    pub election_timeout_min_ms: u64,
    /// Longest time without the primary after which a replica campaigns.
    pub election_timeout_max_ms: u64,
    /// Interval at which unanswered messages are sent again, and the longest pause between attempts
    /// to reconnect.
    pub retry_ms: u64,
    /// Duration of a primary's lease; 0 means no leases.
    pub lease_ms: u64,
    /// Whether a primary raises the feature level by itself after an upgrade.
    pub auto_finalize: AutoFinalize,
    /// Whether this replica joins a cluster that exists already: with an empty directory it never
    /// bootstraps one.
    pub join: bool,
    /// Whether this replica is a witness: it votes, keeps the log, has no rows and serves no client.
    pub witness: bool,
    /// Whether a voter that came back with an empty disk votes again by itself.
    pub readmit_replaced_disk: bool,
    /// Maximum bytes of operations that go into one value of the log.
    pub max_batch_bytes: usize,
    /// Maximum number of values proposed and not yet committed.
    pub max_in_flight_values: usize,
    /// Size of a log segment.
    pub wal_segment_mb: u64,
    /// Whether the log is written past the page cache where the file system allows it.
    pub wal_direct_writes: bool,
    /// The log keeps entries that lagging or absent replicas still need up to this size; beyond it
    /// they get a copy of a database.
    pub log_keep_mb: u64,
    /// Databases are flushed whenever the log has grown by this much.
    pub log_flush_mb: u64,
    /// Limit on the rate at which a copy of a database is fetched from another replica; 0 means
    /// none.
    pub snapshot_mb_per_second: u64,
    /// Lets replicas of other machines connect without TLS.
    pub allow_insecure: bool,
    /// `None`: replicas do not authenticate each other, and their connections are not encrypted.
    pub tls: Option<PeerTlsConfig>,
}

/// `[replication.tls]`: files in PEM, not opened yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerTlsConfig {
    /// Certificates of the authorities that sign the replicas' certificates.
    pub ca: PathBuf,
    /// The certificate of this process's replicas, with its chain.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// Revocation lists, one for each authority in the chain of a replica's certificate.
    pub crl: Option<PathBuf>,
    /// The names in the certificates of those replicas whose name is not `replica-<id>`.
    pub names: BTreeMap<u32, String>,
}

impl ReplicationConfig {
    /// The ids of the replicas that this process runs.
    pub fn local_ids(&self) -> Vec<u32> {
        match self.node_id {
            Some(id) => vec![id],
            None => self.replicas.iter().map(|replica| replica.id).collect(),
        }
    }

    /// The replica with this id.
    pub fn replica(&self, id: u32) -> Option<&ReplicaConfig> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// Where a replica of this process listens for its peers.
    pub fn listens_at<'c>(&'c self, replica: &'c ReplicaConfig) -> &'c Address {
        self.listen_addr.as_ref().unwrap_or(&replica.peer)
    }

    /// The name of the setting that gives the peer address of a replica, for error messages.
    pub fn peer_key(&self, id: u32) -> String {
        match self.is_listed {
            _ if self.listen_addr.is_some() => "replication.listen_addr".to_string(),
            true => format!("replication.replicas[].peer of id {id}"),
            false => "replication.first_peer_addr and the two ports after it".to_string(),
        }
    }
}

/// One replica and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaConfig {
    /// The replica's id, from 0.
    pub id: u32,
    /// Where the other replicas reach it.
    pub peer: Address,
    /// Where Thrift clients reach it.
    pub thrift: Address,
    /// Where its admin interface is.
    pub admin: Address,
}

impl Config {
    /// Reads and checks the configuration of this process.
    ///
    /// # Errors
    /// The first error found, in one line for the user. A program should print it and exit with
    /// status 2.
    pub fn load(
        file: Option<&std::path::Path>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Config, ConfigError> {
        let sources = sources::Sources::gather(file, environment, overrides)?;
        let raw: settings::Settings = sources.extract()?;
        let mut config = validate::complete(raw, &sources)?;
        let keys = flat(&config);
        let origin = |key: String| Some((key.clone(), sources.origin(&key))).filter(|(_, origin)| !origin.is_empty());
        config.origins = keys.into_iter().filter_map(|(key, _)| origin(key)).collect();
        Ok(config)
    }

    /// Whether this key (`section.key`) was set explicitly, so that its value is not the default.
    pub fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Every key (`section.key`) with its value.
    pub(crate) fn values(&self) -> Vec<(String, Value)> {
        flat(self)
    }

    /// This configuration as a file, each value with its origin. `original` is the configuration
    /// before `lowered_by` lowered some of its values.
    pub fn describe(&self, original: &Config, lowered_by: &str) -> String {
        let before: BTreeMap<String, Value> = flat(original).into_iter().collect();
        let mut text = String::new();
        let mut section = "";
        let values = flat(self);
        for (key, value) in &values {
            let (own, name) = key.rsplit_once('.').unwrap_or(("", key));
            if own != section {
                text.push_str(&format!("\n[{own}]\n"));
                section = own;
            }
            let origin = match (before.get(key), self.origins.get(key)) {
                (Some(old), _) if old != value => format!("lowered from {} by {lowered_by}", toml(old)),
                (_, Some(origin)) => origin.trim().trim_start_matches('(').trim_end_matches(')').to_string(),
                (_, None) => "default".to_string(),
            };
            match value {
                Value::Null => text.push_str(&format!("# {name} is not set\n")),
                value => text.push_str(&format!("{name} = {}  # {origin}\n", toml(value))),
            }
        }
        text
    }

    /// Refuses a list that describes one process per replica if none of them was chosen: nearly
    /// always somebody forgot `--node-id`. Not part of [`Config::load`], because an embedder may
    /// want to run them all.
    ///
    /// # Errors
    /// One line for the user, like those of [`Config::load`].
    pub fn refuse_forgotten_node_id(&self) -> Result<(), ConfigError> {
        if !self.replication.lacks_node_id {
            return Ok(());
        }
        let ids: Vec<String> = self.replication.replicas.iter().map(|replica| replica.id.to_string()).collect();
        Err(ConfigError::new(format!(
            "[[replication.replicas]] gives the replicas addresses of their own (thrift, admin), one process for each, \
             and nothing says which one to run here: give --node-id N (replication.node_id), with N one of {}; to run \
             all of them in this process leave thrift and admin out of the list",
            ids.join(", ")
        )))
    }

    /// Logs the ignored settings. This is a step of its own because the configuration itself says
    /// how to log.
    pub fn log_warnings(&self) {
        self.warnings.iter().for_each(|warning| tracing::warn!("configuration: {warning}"));
    }

    /// All defaults, for standalone mode: a starting point for tests and embedders.
    pub fn standalone() -> Config {
        Config::load(None, &Environment::empty(), &Overrides::default()).expect("the defaults are valid")
    }

    /// The replicas of this process that hold data: empty in standalone mode.
    pub fn local_replica_ids(&self) -> Vec<u32> {
        match self.mode {
            Mode::Standalone => Vec::new(),
            Mode::Replicated => self.replication.local_ids(),
        }
    }
}

/// Values that follow from other keys and cannot be set in a file.
const DERIVED: &[&str] = &["replication.is_listed", "replication.lacks_node_id", "replication.tls.names"];

/// Every key with its value, those outside a section first.
fn flat(config: &Config) -> Vec<(String, Value)> {
    fn collect(prefix: &str, value: Value, into: &mut Vec<(String, Value)>) {
        let Value::Object(table) = value else { return into.push((prefix.to_string(), value)) };
        // In TOML, a nested table ends the table around it, so it comes last.
        let (tables, plain): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, value)| value.is_object());
        for (key, value) in plain.into_iter().chain(tables) {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            if !DERIVED.contains(&key.as_str()) {
                collect(&key, value, into);
            }
        }
    }
    let mut keys = Vec::new();
    collect("", serde_json::to_value(config).expect("a configuration is plain data"), &mut keys);
    keys
}

/// A value as TOML on one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!("[{}]", elements.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // TOML and JSON write numbers, and strings without control characters, alike.
        value => value.to_string(),
    }
}
