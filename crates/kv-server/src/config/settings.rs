//! The keys that a configuration file may hold, with their types and defaults.

use std::path::PathBuf;

use kv_api::Limits;
use kv_store::{EngineKind, ResourceOptions};
use serde::{Deserialize, Serialize};

use super::{Address, AdminSettings, AutoFinalize, ChangesSettings, ListenerTls};
use crate::access::{AuditSettings, JwtSettings};
use crate::mode::Mode;
use crate::thrift_server::ThriftServerOptions;

/// The reaction of a standalone server to a failed write of its database. Only opening the database
/// again shows what that write left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnWriteFailure {
    /// Opens the database again by itself. Closes all connections.
    Restart,
    /// Exits with status 1, so that a supervisor restarts the process.
    Exit,
}

/// A whole file, before defaults that depend on other keys are filled in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Standalone by default, or replicated if `replication.node_id` is set.
    pub mode: Option<Mode>,
    pub server: ServerSettings,
    pub admin: AdminSettings,
    pub storage: StorageSettings,
    pub limits: Limits,
    pub replication: ReplicationSettings,
    pub changes: ChangesSettings,
    pub auth: AuthSettings,
    pub audit: AuditSettings,
    pub log: LogSettings,
}

/// How long a pin lasts if its request says nothing about it.
pub(crate) const DEFAULT_PIN_SECONDS: u64 = 60;

/// `[server]`: what clients and operators connect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Where Thrift clients connect.
    pub thrift_addr: Address,
    /// Where the admin interface listens.
    pub admin_addr: Address,
    /// Lets clients inject faults through `setFaultInjection`. For tests.
    pub allow_fault_injection: bool,
    /// Every request is answered within this time, with an error if necessary.
    pub request_timeout_ms: u64,
    /// How long a request waits for a primary before it is answered with `NO_PRIMARY`.
    pub no_primary_wait_ms: u64,
    /// How long a stopping server waits for running requests.
    pub shutdown_timeout_ms: u64,
    /// Longest time that a client may pin a version.
    pub max_pin_seconds: u64,
    /// Maximum number of client connections. One more closes the one that has been idle longest; if
    /// none has been idle for some seconds, it is refused.
    pub max_connections: usize,
    /// Maximum number of connections to the admin interface.
    pub max_admin_connections: usize,
    /// A connection without a request for this long is closed. 0: never.
    pub idle_timeout_seconds: u64,
    /// A request must arrive completely within this time of its first byte. 0: no limit.
    pub message_timeout_ms: u64,
    /// A client that reads none of its replies for this long is disconnected. 0: never.
    pub write_timeout_ms: u64,
    /// Memory for replies being made or waiting to be read, for all clients together.
    pub max_reply_memory_mb: usize,
    /// Memory for requests of more than a few KiB that are arriving or being worked on, for all
    /// clients together.
    pub max_request_memory_mb: usize,
    /// Memory that this process may use. 0: as much as its control group allows, or the machine
    /// has.
    pub memory_limit_mb: usize,
    /// Longest request.
    pub max_message_bytes: usize,
    /// Maximum number of elements of one list in a request.
    pub max_list_elements: usize,
    /// Maximum number of requests of one connection that run at a time; more wait in the socket.
    pub max_pipelined_requests: usize,
    /// Maximum bytes of replies that wait for the client of one connection; beyond, the server
    /// reads nothing more from it.
    pub max_buffered_reply_bytes: usize,
    /// Longest reply on a framed connection; existing clients refuse longer frames.
    pub max_framed_reply_bytes: usize,
    /// Lets clients and operators of other machines connect without TLS.
    pub allow_insecure: bool,
    /// `[server.tls]`.
    pub tls: ListenerTls,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let thrift = ThriftServerOptions::default();
        ServerSettings {
            thrift_addr: "127.0.0.1:9090".parse().expect("a valid default"),
            admin_addr: "127.0.0.1:9190".parse().expect("a valid default"),
            allow_fault_injection: false,
            request_timeout_ms: 10_000,
            no_primary_wait_ms: 5_000,
            shutdown_timeout_ms: 5_000,
            max_pin_seconds: 3_600,
            max_connections: thrift.max_connections,
            max_admin_connections: 64,
            idle_timeout_seconds: thrift.idle_timeout_s,
            message_timeout_ms: thrift.message_timeout_ms,
            write_timeout_ms: thrift.write_timeout_ms,
            max_reply_memory_mb: thrift.max_reply_memory_bytes >> 20,
            max_request_memory_mb: thrift.max_request_memory_bytes >> 20,
            memory_limit_mb: 0,
            max_message_bytes: thrift.max_message_bytes,
            max_list_elements: thrift.max_container,
            max_pipelined_requests: thrift.max_pipelined,
            max_buffered_reply_bytes: thrift.max_buffered_reply_bytes,
            max_framed_reply_bytes: thrift.max_framed_reply_bytes,
            allow_insecure: false,
            tls: ListenerTls::default(),
        }
    }
}

/// Bytes of the longest reply besides its rows. The limit of a range counts rows only, so the
/// message may be this much longer.
const REPLY_ENVELOPE_BYTES: usize = 4096;

impl ServerSettings {
    /// The options of the Thrift server that follow from these settings and `limits`.
    pub fn thrift_options(&self, limits: &Limits) -> ThriftServerOptions {
        ThriftServerOptions {
            max_connections: self.max_connections,
            idle_timeout_s: self.idle_timeout_seconds,
            request_timeout_ms: self.request_timeout_ms,
            message_timeout_ms: self.message_timeout_ms,
            write_timeout_ms: self.write_timeout_ms,
            max_reply_memory_bytes: self.max_reply_memory_mb << 20,
            max_request_memory_bytes: self.max_request_memory_mb << 20,
            max_key_bytes: limits.max_key_bytes,
            max_value_bytes: limits.max_value_bytes,
            drain_timeout_ms: self.shutdown_timeout_ms,
            max_message_bytes: self.max_message_bytes,
            max_container: self.max_list_elements,
            max_pipelined: self.max_pipelined_requests,
            max_buffered_reply_bytes: self.max_buffered_reply_bytes,
            max_reply_bytes: limits.max_reply_bytes + REPLY_ENVELOPE_BYTES,
            max_framed_reply_bytes: self.max_framed_reply_bytes,
            ..ThriftServerOptions::default()
        }
    }
}

/// `[storage]`: where and how rows are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSettings {
    /// The data directory.
    pub data_dir: PathBuf,
    /// `memory` is for tests: the rows are lost at exit. In replicated mode the log, which is then
    /// never trimmed, brings them back.
    pub engine: EngineKind,
    /// Column families other than `default` that the first write to them creates.
    pub column_families: Vec<String>,
    /// How long versions stay readable, in milliseconds of replicated time. At most half of the
    /// time that idempotency ids are remembered: a late copy of a commit whose id is forgotten must
    /// find its read version too old.
    pub readable_window_ms: u64,
    /// Memory for rows not yet written to files, for all databases in this process together.
    pub write_buffer_mb: usize,
    /// Memory for cached blocks, for all databases in this process together.
    pub block_cache_mb: usize,
    /// Memory for rows that were read, for all databases in this process together. 0: none.
    pub row_cache_mb: usize,
    /// Threads for flushes and compactions, for all databases in this process together.
    pub background_threads: u32,
    /// Writes are refused while the data's disk has less than this free. 0: never.
    pub min_free_mb: u64,
    /// Reaction of a standalone server; a replica always stops.
    pub on_write_failure: OnWriteFailure,
}

impl StorageSettings {
    /// `min_free_mb` in bytes.
    pub fn min_free_bytes(&self) -> u64 {
        self.min_free_mb << 20
    }

    /// The options of the resources that this many databases share. `max_open_files` applies to
    /// each of them.
    pub fn resources(&self, databases: usize, max_open_files: u32) -> ResourceOptions {
        ResourceOptions {
            max_open_files,
            block_cache_bytes: self.block_cache_mb << 20,
            row_cache_bytes: (self.row_cache_mb << 20) / databases.max(1),
            write_buffers_bytes: self.write_buffer_mb << 20,
            background_threads: self.background_threads,
        }
    }
}

impl Default for StorageSettings {
    fn default() -> Self {
        let resources = ResourceOptions::default();
        StorageSettings {
            data_dir: PathBuf::from("./data"),
            engine: EngineKind::RocksDb,
            column_families: Vec::new(),
            readable_window_ms: kv_api::DEFAULT_READABLE_WINDOW_MS,
            write_buffer_mb: resources.write_buffers_bytes >> 20,
            block_cache_mb: resources.block_cache_bytes >> 20,
            row_cache_mb: resources.row_cache_bytes >> 20,
            background_threads: resources.background_threads,
            min_free_mb: 256,
            on_write_failure: OnWriteFailure::Restart,
        }
    }
}

/// `[replication]` as written in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReplicationSettings {
    pub node_id: Option<u32>,
    pub replicas: Vec<ReplicaEntry>,
    /// Where the first of three replicas in one process listens for its peers when `replicas` is
    /// empty; the others take the ports after it.
    pub first_peer_addr: Address,
    /// Where this process listens for its peers, if not at the `peer` address in the list.
    pub listen_addr: Option<Address>,
    pub heartbeat_ms: u64,
    pub election_timeout_min_ms: u64,
    pub election_timeout_max_ms: u64,
    pub retry_ms: u64,
    pub lease_ms: u64,
    pub auto_finalize: AutoFinalize,
    pub join: bool,
    pub witness: bool,
    pub readmit_replaced_disk: bool,
    pub max_batch_bytes: usize,
    pub max_in_flight_values: usize,
    pub wal_segment_mb: u64,
    pub wal_direct_writes: bool,
    pub log_keep_mb: u64,
    pub log_flush_mb: u64,
    pub snapshot_mb_per_second: u64,
    pub allow_insecure: bool,
    pub tls: Option<TlsSettings>,
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        ReplicationSettings {
            node_id: None,
            replicas: Vec::new(),
            first_peer_addr: "127.0.0.1:6001".parse().expect("a valid default"),
            listen_addr: None,
            heartbeat_ms: 50,
            election_timeout_min_ms: 300,
            election_timeout_max_ms: 600,
            retry_ms: 200,
            lease_ms: 0,
            auto_finalize: AutoFinalize::Off,
            join: false,
            witness: false,
            readmit_replaced_disk: true,
            max_batch_bytes: 1 << 20,
            max_in_flight_values: 4,
            wal_segment_mb: 64,
            wal_direct_writes: true,
            log_keep_mb: 1024,
            log_flush_mb: 256,
            snapshot_mb_per_second: 100,
            allow_insecure: false,
            tls: None,
        }
    }
}

/// One `[[replication.replicas]]`. `thrift` and `admin` may be left out only where one process runs
/// all replicas.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaEntry {
    pub id: u32,
    pub peer: Address,
    pub thrift: Option<Address>,
    pub admin: Option<Address>,
    pub tls_name: Option<String>,
}

/// `[replication.tls]`. All of ca, certificate and key or none; optional here only so that the error can name the
/// missing one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsSettings {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub crl: Option<PathBuf>,
}

/// `[auth]`. Users, roles and tokens are no settings, but replicated with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The public keys of the issuer of JWTs (JWKS, a JSON file). `None`: JWTs are not accepted.
    pub jwt_keys: Option<PathBuf>,
    /// The issuer that JWTs must name.
    pub jwt_issuer: Option<String>,
    /// The audience that JWTs must name.
    pub jwt_audience: Option<String>,
    /// With authentication, a replica that has not heard from a primary for this long answers nothing: its
    /// users and roles may be out of date.
    pub max_staleness_ms: u64,
}

impl Default for AuthSettings {
    fn default() -> Self {
        AuthSettings { jwt_keys: None, jwt_issuer: None, jwt_audience: None, max_staleness_ms: 5_000 }
    }
}

impl AuthSettings {
    /// What a JWT must say; `None` if none is accepted.
    pub fn jwt(&self) -> Option<JwtSettings> {
        Some(JwtSettings {
            keys: self.jwt_keys.clone()?,
            issuer: self.jwt_issuer.clone()?,
            audience: self.jwt_audience.clone()?,
        })
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,rsml=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// The file that the log is written to; `None` for standard error.
    pub file: Option<PathBuf>,
    /// A request that takes this long gets a line. 0: none does.
    pub slow_ms: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_string(), format: LogFormat::Text, file: None, slow_ms: 100 }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
