//! The budget of memory: how much each part may take, and which settings are lowered until the sum
//! fits.
//!
//! Every part in the sum is bounded by the code that uses it. Memory that grows with the data or
//! with the clients' requests, and that only their number bounds, is listed separately
//! ([`Growing`]): it is rarely in use, and reserving it would be too expensive.

use super::fit::{Want, fit};
use super::host::{MemoryLimit, MemoryOrigin};
use super::{Line, Shape, Threads, TooSmall};
use crate::config::Config;
use crate::mode::Mode;
use kv_store::EngineKind;

pub(super) const MIB: u64 = 1 << 20;
/// The program itself, the runtime, metrics, and RocksDB's memory other than caches and buffers.
const PROGRAM: u64 = 48 * MIB;
/// The used part of a thread's stack, and its allocator cache.
const THREAD: u64 = 256 << 10;
/// The task of a connection and its own buffers. Memory beyond that is reserved from a shared
/// budget.
pub(super) const CONNECTION: u64 = 32 << 10;
const ADMIN_CONNECTION: u64 = 64 << 10;
const LEAST_CONNECTIONS: u64 = 16;
/// For each database: 200,000 entries of the conflict index at some 250 bytes, and its known keys.
const CONFLICT_INDEX: u64 = 64 * MIB;
/// Commits that wait for the thread of a standalone database.
const GROUP_COMMIT_QUEUE: u64 = 64 * MIB;
/// One remembered idempotency id with its result, in two maps.
const IDEMPOTENCY_RECORD: u64 = 200;

/// The sizes that were decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The limit of the process.
    pub limit: MemoryLimit,
    /// The part of the limit that is distributed. The rest covers the allocator's overhead and
    /// errors of the estimates.
    pub usable: u64,
    /// Bytes needed for everything that the settings allow.
    pub wanted: u64,
    /// Client connections that may be open.
    pub connections: u64,
    /// Bytes of the block cache of all databases.
    pub block_cache: u64,
    /// Bytes of the row caches of all databases.
    pub row_cache: u64,
    /// Bytes of the write buffers of all databases.
    pub write_buffers: u64,
    /// Bytes of replies of all clients.
    pub replies: u64,
    /// Bytes of requests of all clients.
    pub requests: u64,
    /// The share of each replica, in `rsml`.
    pub replica: ReplicaMemory,
    /// The shares, as a table.
    pub lines: Vec<Line>,
    /// Memory outside the sum.
    pub growing: Vec<Growing>,
    /// Explicit settings ask for more than the limit.
    pub is_overcommitted: bool,
}

/// Bytes that one replica's consensus may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaMemory {
    /// The newest entries of the log, applied or not.
    pub log_cache: usize,
    /// Entries that are not applied yet.
    pub unapplied: usize,
    /// Requests without an outcome.
    pub requests: usize,
    /// Received messages that are not processed yet.
    pub received: usize,
    /// Messages that wait to be sent to one peer.
    pub peer_queue: usize,
}

/// Memory that grows with use and is not part of the sum.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Growing {
    /// Its name in the table.
    pub name: &'static str,
    /// Its bound, if there is one.
    pub at_most_bytes: Option<u64>,
    /// The bound in words.
    pub bound: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Fixed,
    Connections,
    BlockCache,
    RowCache,
    WriteBuffers,
    Replies,
    Requests,
    LogCache,
    Unapplied,
    ReplicaRequests,
    Received,
    PeerQueues,
}

struct Row {
    what: What,
    name: &'static str,
    want: Want,
    formula: String,
    enforced: &'static str,
    /// The setting of this size. If it is set explicitly, it is not lowered.
    key: Option<&'static str>,
}

impl Memory {
    /// Whether the limit is less than what is wanted.
    pub fn is_short(&self) -> bool {
        self.wanted > self.usable
    }

    /// `connections`: as many as the descriptors allow.
    pub(super) fn plan(
        config: &Config,
        shape: Shape,
        threads: Threads,
        connections: u64,
        limit: MemoryLimit,
    ) -> Result<Memory, TooSmall> {
        // A control group kills a process that takes more, but everything below its limit is ours;
        // a machine has other processes, too.
        let parts = if limit.origin == MemoryOrigin::Machine { 8 } else { 9 };
        let usable = limit.bytes / 10 * parts;
        let rows = rows(config, shape, threads, connections);
        let is_set = |row: &Row| row.key.is_some_and(|key| config.is_set(key));
        let pinned = |row: &Row| if is_set(row) { Want::fixed(row.want.wanted) } else { row.want };
        let least: u64 = rows.iter().map(|row| row.want.least.min(row.want.wanted)).sum();
        let (given, is_overcommitted) = match fit(usable, &rows.iter().map(pinned).collect::<Vec<_>>()) {
            Some(given) => (given, false),
            // The minimum would fit: explicit settings get what they ask for, and everything else
            // its least amount.
            None if least <= usable => (rows.iter().map(|row| pinned(row).least.min(row.want.wanted)).collect(), true),
            None => {
                return Err(TooSmall {
                    what: "memory",
                    limit: format!("{} MiB ({})", limit.bytes / MIB, limit.origin),
                    needed: format!("{} MiB", (least / parts * 10).div_ceil(MIB)),
                    remedy: "give it more, or let it need less: see \"Resource budget\" in docs/OPERATIONS.md",
                });
            }
        };
        let amount =
            |what: What| rows.iter().zip(&given).filter(|(row, _)| row.what == what).map(|(_, g)| g).sum::<u64>();
        let of_replica = |what: What| (amount(what) / shape.replicas.max(1)) as usize;
        let lines = rows.iter().zip(&given).map(|(row, given)| Line {
            name: row.name,
            amount: *given,
            wanted: row.want.wanted,
            formula: row.formula.clone(),
            enforced: row.enforced,
        });
        Ok(Memory {
            usable,
            wanted: rows.iter().map(|row| row.want.wanted).sum(),
            connections: amount(What::Connections) / CONNECTION,
            block_cache: amount(What::BlockCache),
            row_cache: amount(What::RowCache),
            write_buffers: amount(What::WriteBuffers),
            replies: amount(What::Replies),
            requests: amount(What::Requests),
            replica: ReplicaMemory {
                log_cache: of_replica(What::LogCache),
                unapplied: of_replica(What::Unapplied),
                requests: of_replica(What::ReplicaRequests),
                received: of_replica(What::Received),
                peer_queue: of_replica(What::PeerQueues) / shape.peers.max(1) as usize,
            },
            lines: lines.collect(),
            growing: growing(config, shape),
            is_overcommitted,
            limit,
        })
    }

    /// Lowers the settings to the allotted amounts.
    pub(super) fn lower(&self, config: &mut Config) {
        let lower_mb = |setting: &mut usize, bytes: u64| *setting = (*setting).min((bytes / MIB).max(1) as usize);
        if config.storage.engine == EngineKind::RocksDb {
            lower_mb(&mut config.storage.block_cache_mb, self.block_cache);
            lower_mb(&mut config.storage.write_buffer_mb, self.write_buffers);
        }
        config.storage.row_cache_mb = config.storage.row_cache_mb.min((self.row_cache / MIB) as usize);
        lower_mb(&mut config.server.max_reply_memory_mb, self.replies);
        lower_mb(&mut config.server.max_request_memory_mb, self.requests);
        config.server.max_connections = config.server.max_connections.min(self.connections.max(1) as usize);
    }
}

fn rows(config: &Config, shape: Shape, threads: Threads, connections: u64) -> Vec<Row> {
    let Shape { databases, replicas, peers } = shape;
    let fixed = |name, bytes, formula: &str| Row {
        what: What::Fixed,
        name,
        want: Want::fixed(bytes),
        formula: formula.to_string(),
        enforced: "by its kind",
        key: None,
    };
    let has_files = config.storage.engine == EngineKind::RocksDb;
    let files = |megabytes: usize, least: u64| match has_files {
        true => at_least(least * MIB, megabytes as u64 * MIB),
        false => Want::fixed(0),
    };
    let server = &config.server;
    // Every queue must have room for one largest transaction and its envelope.
    let transaction = (config.limits.max_transaction_bytes as u64) * 3 / 2;
    let message = 2 * server.max_message_bytes as u64;
    let consensus = rsml::core::CoreOptions::new(rsml::ReplicaId(0), vec![rsml::ReplicaId(0)], 0);
    let each_replica = |what, name, least: u64, wanted: usize, formula: &str, enforced| Row {
        what,
        name,
        want: scaled(replicas, at_least(least, wanted as u64)),
        formula: format!("{formula}, for each replica here"),
        enforced,
        key: None,
    };
    let waiting = rsml::ReplicaOptions::MAX_WAITING_BYTES;
    let queue = rsml::transport::TcpOptions::QUEUE_BYTES as u64;
    let mut rows = vec![
        fixed("program", PROGRAM, "48 MiB"),
        fixed("threads", threads.all() * THREAD, "256 KiB for each thread"),
        fixed("admin connections", server.max_admin_connections as u64 * ADMIN_CONNECTION, "64 KiB for each"),
        fixed("conflict index", databases * CONFLICT_INDEX, "64 MiB for each database"),
        Row {
            what: What::Connections,
            name: "client connections",
            want: at_least(LEAST_CONNECTIONS.min(connections) * CONNECTION, connections * CONNECTION),
            formula: "server.max_connections x 32 KiB".into(),
            enforced: "the Thrift listener",
            key: Some("server.max_connections"),
        },
        Row {
            what: What::Replies,
            name: "replies",
            want: at_least(64 * MIB, server.max_reply_memory_mb as u64 * MIB),
            formula: "server.max_reply_memory_mb".into(),
            enforced: "reserved before a call starts",
            key: Some("server.max_reply_memory_mb"),
        },
        Row {
            what: What::Requests,
            name: "requests",
            want: at_least((2 * message).max(16 * MIB), server.max_request_memory_mb as u64 * MIB),
            formula: "server.max_request_memory_mb".into(),
            enforced: "reserved before a buffer grows",
            key: Some("server.max_request_memory_mb"),
        },
        Row {
            what: What::BlockCache,
            name: "block cache",
            want: files(config.storage.block_cache_mb, 8),
            formula: "storage.block_cache_mb".into(),
            enforced: "RocksDB",
            key: Some("storage.block_cache_mb"),
        },
        Row {
            what: What::RowCache,
            name: "row cache",
            want: at_least(0, config.storage.row_cache_mb as u64 * MIB),
            formula: "storage.row_cache_mb".into(),
            enforced: "the cache",
            key: Some("storage.row_cache_mb"),
        },
        Row {
            what: What::WriteBuffers,
            name: "write buffers",
            want: files(config.storage.write_buffer_mb, 32),
            formula: "storage.write_buffer_mb".into(),
            enforced: "RocksDB, which flushes",
            key: Some("storage.write_buffer_mb"),
        },
    ];
    if config.mode == Mode::Standalone {
        rows.push(fixed("commits in the queue", GROUP_COMMIT_QUEUE, "64 MiB"));
        return rows;
    }
    rows.extend([
        each_replica(
            What::LogCache,
            "newest log entries",
            4 * MIB,
            consensus.log_cache_bytes,
            "64 MiB",
            "older ones are read from disk",
        ),
        each_replica(
            What::Unapplied,
            "entries not applied",
            transaction.max(16 * MIB),
            consensus.max_unapplied_bytes,
            "128 MiB",
            "the primary proposes no more",
        ),
        each_replica(
            What::ReplicaRequests,
            "requests without outcome",
            transaction.max(16 * MIB),
            consensus.max_request_bytes,
            "256 MiB",
            "more are refused",
        ),
        each_replica(
            What::Received,
            "messages of peers",
            transaction.max(16 * MIB),
            waiting,
            "256 MiB",
            "more are dropped, and sent again",
        ),
        Row {
            what: What::PeerQueues,
            name: "queues to peers",
            want: scaled(replicas * peers, at_least(transaction.max(8 * MIB), queue)),
            formula: "64 MiB for each peer, for each replica here".into(),
            enforced: "more is dropped, and sent again",
            key: None,
        },
    ]);
    rows
}

/// A demand for `wanted`, or for `least` if that is less.
fn at_least(least: u64, wanted: u64) -> Want {
    Want { least: least.min(wanted), wanted }
}

fn scaled(count: u64, want: Want) -> Want {
    Want { least: count * want.least, wanted: count * want.wanted }
}

fn growing(config: &Config, shape: Shape) -> Vec<Growing> {
    let ids = kv_store::MAX_IDEMPOTENCY_RECORDS as u64;
    let mut growing = vec![
        Growing {
            name: "idempotency ids",
            at_most_bytes: Some(shape.databases * ids * IDEMPOTENCY_RECORD),
            bound: "1,000,000 ids for each database, of some 200 bytes; more are refused, and clients report finished ones",
        },
        Growing {
            name: "keys of the conflict index",
            at_most_bytes: Some(shape.databases * 200_000 * config.limits.max_key_bytes as u64),
            bound: "200,000 keys for each database; only keys of more than 100 bytes take more than is in the sum",
        },
        Growing { name: "range clears", at_most_bytes: None, bound: "those within the readable window" },
        Growing {
            name: "rows of very few bytes in a reply",
            at_most_bytes: None,
            bound: "a row takes some 200 bytes besides its own while its reply is built, two or three replies at a time",
        },
    ];
    if config.storage.engine == EngineKind::Memory {
        growing.push(Growing { name: "rows", at_most_bytes: None, bound: "storage.engine = \"memory\" keeps all" });
    }
    growing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};

    const STANDALONE: Shape = Shape { databases: 1, replicas: 0, peers: 0 };
    const ONE_OF_THREE: Shape = Shape { databases: 1, replicas: 1, peers: 2 };
    const THREE: Shape = Shape { databases: 3, replicas: 3, peers: 2 };

    fn config(settings: &[(&str, &str)]) -> Config {
        let other = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Config::load(None, &Environment::empty(), &Overrides { other, ..Overrides::default() }).expect("valid")
    }

    fn plan(config: &Config, shape: Shape, mib: u64) -> Result<Memory, TooSmall> {
        let limit = MemoryLimit { bytes: mib * MIB, origin: MemoryOrigin::Setting };
        Memory::plan(config, shape, Threads::plan(config, shape, 2), config.server.max_connections as u64, limit)
    }

    fn sum(memory: &Memory) -> u64 {
        memory.lines.iter().map(|line| line.amount).sum()
    }

    fn mode_of(shape: Shape) -> &'static str {
        if shape.replicas == 0 { "standalone" } else { "replicated" }
    }

    #[test]
    fn plenty_lowers_nothing() {
        for shape in [STANDALONE, ONE_OF_THREE, THREE] {
            let config = config(&[("mode", mode_of(shape))]);
            let planned = plan(&config, shape, 64 << 10).expect("plenty");
            assert!(!planned.is_short() && !planned.is_overcommitted);
            assert_eq!(sum(&planned), planned.wanted);
            let mut lowered = config.clone();
            planned.lower(&mut lowered);
            assert_eq!(lowered, config);
        }
    }

    #[test]
    fn one_gib_suffices_out_of_the_box_even_for_three_replicas() {
        for shape in [STANDALONE, ONE_OF_THREE, THREE] {
            let mut config = config(&[("mode", mode_of(shape))]);
            let planned = plan(&config, shape, 1024).expect("enough to serve");
            assert!(planned.is_short() && !planned.is_overcommitted);
            assert!(sum(&planned) <= planned.usable && planned.usable < 1024 * MIB, "{planned:?}");
            planned.lower(&mut config);
            assert!(config.storage.block_cache_mb >= 8 && config.storage.write_buffer_mb >= 32);
            assert!(config.server.max_connections >= 16);
        }
    }

    #[test]
    fn explicit_settings_are_kept_and_the_rest_is_lowered() {
        let config = config(&[("storage.block_cache_mb", "400")]);
        let planned = plan(&config, STANDALONE, 1024).expect("enough to serve");
        assert_eq!(planned.block_cache, 400 * MIB);
        assert!(!planned.is_overcommitted && sum(&planned) <= planned.usable);
    }

    #[test]
    fn explicit_settings_are_kept_even_if_they_do_not_fit_with_a_warning() {
        let config = config(&[("storage.block_cache_mb", "4096")]);
        let planned = plan(&config, STANDALONE, 1024).expect("the minimum would fit");
        assert!(planned.is_overcommitted);
        assert_eq!((planned.block_cache, planned.write_buffers), (4096 * MIB, 32 * MIB));
    }

    #[test]
    fn too_little_for_the_minimum_is_an_error_that_says_how_much_is_needed() {
        let config = config(&[]);
        let TooSmall { limit, needed, .. } = plan(&config, STANDALONE, 128).expect_err("too little");
        assert_eq!(limit, "128 MiB (server.memory_limit_mb)");
        let needed: u64 = needed.strip_suffix(" MiB").and_then(|mib| mib.parse().ok()).expect("a number of MiB");
        assert!(plan(&config, STANDALONE, needed - 2).is_err() && plan(&config, STANDALONE, needed + 1).is_ok());
    }

    #[test]
    fn three_replicas_in_one_process_count_three_times() {
        let config = config(&[("mode", "replicated")]);
        let line = |shape, name| {
            let planned = plan(&config, shape, 64 << 10).expect("plenty");
            planned.lines.iter().find(|line| line.name == name).expect("a line").amount
        };
        for name in ["newest log entries", "requests without outcome", "queues to peers", "conflict index"] {
            assert_eq!(line(THREE, name), 3 * line(ONE_OF_THREE, name), "{name}");
        }
    }
}
