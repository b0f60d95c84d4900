//! The budget of file descriptors: how many each part needs, and which part shrinks first when
//! there are few.

use super::fit::{Want, fit};
use super::{Line, Shape, TooSmall};
use crate::config::Config;
use kv_store::EngineKind;

/// Standard streams, listeners, the runtime's poller, the lock of the data directory, and files
/// opened briefly.
const PROCESS: u64 = 32;
/// Files of a database other than its tables: log, manifest, lock, directories, outputs of a flush
/// and a compaction.
const DATABASE_OTHER: u64 = 16;
const LEAST_DATABASE_FILES: u64 = 32;
const LEAST_CONNECTIONS: u64 = 16;
const LEAST_ADMIN_CONNECTIONS: u64 = 8;
/// Descriptors of the log beyond those of the retained segments: two each for the segment that is
/// written and the one that is prepared, and two for segments not yet removed.
const LOG_MARGIN: u64 = 6;
const LEAST_LOG_FILES: u64 = 8;
/// Connections to a replica's peer address that have not identified themselves yet.
const STRANGERS: u64 = 128;
const LEAST_STRANGERS: u64 = 4;

/// Files that a replica's log may take beyond its share while it is retained for a copy; see
/// `rsml`'s log thread.
const HELD_LOG_FILES: u64 = 256;

/// The distribution of the process's descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit of the process.
    pub limit: u64,
    /// Descriptors needed for everything that the settings allow.
    pub wanted: u64,
    /// Client connections that may be open.
    pub connections: u64,
    /// Admin connections that may be open.
    pub admin_connections: u64,
    /// Table files that each database keeps open.
    pub database_files: u64,
    /// Segments of each replica's log.
    pub log_files: u64,
    /// Unidentified peer connections of each replica.
    pub strangers: u64,
    /// The shares, as a table.
    pub lines: Vec<Line>,
}

impl Descriptors {
    /// Whether the limit is less than what is wanted.
    pub fn is_short(&self) -> bool {
        self.wanted > self.limit
    }

    pub(super) fn plan(config: &Config, shape: Shape, limit: u64) -> Result<Descriptors, TooSmall> {
        let Shape { databases, replicas, peers } = shape;
        let has_files = config.storage.engine == EngineKind::RocksDb;
        // A copy arriving from a peer is another database next to the live one.
        let open_databases = if has_files { databases + u64::from(replicas > 0) } else { 0 };
        let replication = &config.replication;
        let log_files = (replication.log_keep_mb + replication.log_flush_mb).div_ceil(replication.wal_segment_mb);
        let each =
            |count: u64, least: u64, wanted: u64| Want { least: count * least, wanted: count * wanted.max(least) };
        let server = &config.server;
        let rows: [(&'static str, Want, &'static str, &'static str); 8] = [
            ("process", Want::fixed(PROCESS), "32", "-"),
            (
                "client connections",
                each(1, LEAST_CONNECTIONS.min(server.max_connections as u64), server.max_connections as u64),
                "server.max_connections",
                "the Thrift listener",
            ),
            (
                "admin connections",
                each(
                    1,
                    LEAST_ADMIN_CONNECTIONS.min(server.max_admin_connections as u64),
                    server.max_admin_connections as u64,
                ),
                "server.max_admin_connections",
                "the admin listener",
            ),
            (
                "table files",
                each(open_databases, LEAST_DATABASE_FILES, kv_store::ResourceOptions::default().max_open_files.into()),
                "1000 for each database, and for a copy that a peer sends",
                "RocksDB (max_open_files)",
            ),
            ("other database files", Want::fixed(open_databases * DATABASE_OTHER), "16 for each database", "-"),
            (
                "log segments",
                each(replicas, LEAST_LOG_FILES, log_files + LOG_MARGIN),
                "(replication.log_keep_mb + log_flush_mb) / wal_segment_mb + 6, for each replica",
                "log_keep_mb and log_flush_mb are lowered",
            ),
            ("peers", Want::fixed(replicas * (1 + 2 * peers)), "1 + 2 for each peer, for each replica", "-"),
            (
                "peers not yet known",
                each(replicas, LEAST_STRANGERS, STRANGERS),
                "128 for each replica",
                "the peer listener",
            ),
        ];
        let wants = rows.map(|(_, want, _, _)| want);
        let given = fit(limit, &wants).ok_or_else(|| TooSmall {
            what: "open files (RLIMIT_NOFILE)",
            limit: limit.to_string(),
            needed: wants.iter().map(|want| want.least).sum::<u64>().to_string(),
            remedy: "raise it with `ulimit -n`, LimitNOFILE= of systemd or --ulimit nofile= of a container",
        })?;
        let of_each = |count: u64, amount: u64| amount.checked_div(count).unwrap_or(0);
        let lines = rows.iter().zip(&given).map(|((name, want, formula, enforced), given)| Line {
            name,
            amount: *given,
            wanted: want.wanted,
            formula: (*formula).to_string(),
            enforced,
        });
        Ok(Descriptors {
            limit,
            wanted: wants.iter().map(|want| want.wanted).sum(),
            connections: given[1],
            admin_connections: given[2],
            database_files: of_each(open_databases, given[3]),
            log_files: of_each(replicas, given[5]),
            strangers: of_each(replicas, given[7]),
            lines: lines.collect(),
        })
    }

    /// Whether the logs of this many replicas may grow beyond their shares while peers fetch copies
    /// of databases. When descriptors are short they may not: the server would accept clients, and
    /// then its log could not continue.
    pub fn has_room_for_held_logs(&self, replicas: u64) -> bool {
        let given: u64 = self.lines.iter().map(|line| line.amount).sum();
        self.limit.saturating_sub(given) >= replicas * HELD_LOG_FILES
    }

    /// Lowers the settings to the allotted amounts. The only cost of a shorter log is that peers
    /// need copies of databases sooner.
    pub(super) fn lower(&self, config: &mut Config) {
        let lower = |setting: &mut usize, to: u64| *setting = (*setting).min(to as usize);
        lower(&mut config.server.max_connections, self.connections);
        lower(&mut config.server.max_admin_connections, self.admin_connections);
        if self.log_files == 0 {
            return;
        }
        let replication = &mut config.replication;
        let room_mb = self.log_files.saturating_sub(LOG_MARGIN).max(2) * replication.wal_segment_mb;
        if replication.log_keep_mb + replication.log_flush_mb > room_mb {
            replication.log_flush_mb = replication.log_flush_mb.min((room_mb / 3).max(1));
            replication.log_keep_mb = replication.log_keep_mb.min(room_mb - replication.log_flush_mb);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDALONE: Shape = Shape { databases: 1, replicas: 0, peers: 0 };
    const ONE_OF_THREE: Shape = Shape { databases: 1, replicas: 1, peers: 2 };
    const THREE: Shape = Shape { databases: 3, replicas: 3, peers: 2 };

    fn plan(shape: Shape, limit: u64) -> Result<Descriptors, TooSmall> {
        let planned = Descriptors::plan(&Config::standalone(), shape, limit);
        if let Ok(planned) = &planned {
            assert!(planned.lines.iter().map(|line| line.amount).sum::<u64>() <= limit, "{planned:?}");
        }
        planned
    }

    #[test]
    fn a_large_limit_lowers_nothing() {
        let planned = plan(THREE, 1 << 20).expect("enough");
        assert!(!planned.is_short());
        assert_eq!((planned.connections, planned.database_files, planned.strangers), (10_000, 1_000, 128));
        let mut config = Config::standalone();
        planned.lower(&mut config);
        assert_eq!(config, Config::standalone());
    }

    #[test]
    fn the_usual_limit_leaves_storage_its_files_and_caps_the_clients() {
        for shape in [STANDALONE, ONE_OF_THREE, THREE] {
            let planned = plan(shape, 1_024).expect("enough to serve");
            assert!(planned.is_short());
            assert!(planned.connections >= 300, "{planned:?}");
            assert!(planned.database_files >= LEAST_DATABASE_FILES, "{planned:?}");
        }
    }

    #[test]
    fn logs_are_held_for_copies_only_where_descriptors_are_left_over() {
        let allows = |limit| plan(ONE_OF_THREE, limit).expect("enough").has_room_for_held_logs(1);
        let wanted = plan(ONE_OF_THREE, 1 << 20).expect("enough").wanted;
        assert!(!allows(1_024) && !allows(wanted + HELD_LOG_FILES - 1) && allows(wanted + HELD_LOG_FILES));
    }

    #[test]
    fn even_256_files_suffice_for_three_replicas() {
        for shape in [STANDALONE, ONE_OF_THREE] {
            assert!(plan(shape, 256).expect("enough to serve").connections >= 40);
        }
        let mut config = Config::standalone();
        config.storage.engine = EngineKind::Memory;
        assert!(Descriptors::plan(&config, THREE, 256).expect("enough to serve").connections >= 16);
    }

    #[test]
    fn too_few_is_an_error_that_says_how_many_are_needed() {
        let TooSmall { limit, needed, .. } = plan(STANDALONE, 100).expect_err("too few");
        assert_eq!((limit.as_str(), needed.as_str()), ("100", "104"));
        assert!(plan(STANDALONE, 104).is_ok());
    }

    #[test]
    fn a_log_of_many_small_segments_is_kept_shorter() {
        let mut config = Config::standalone();
        config.replication.wal_segment_mb = 1;
        let planned = Descriptors::plan(&config, ONE_OF_THREE, 1_024).expect("enough to serve");
        planned.lower(&mut config);
        let replication = &config.replication;
        assert!(replication.log_keep_mb + replication.log_flush_mb + LOG_MARGIN <= planned.log_files, "{planned:?}");
        assert!(replication.log_flush_mb > 0 && replication.log_keep_mb > 0);
    }
}
