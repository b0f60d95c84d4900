//! The settings that all servers of a cluster should have in common, for operators to compare.

use serde_json::{Map, Value};

use super::{Config, flat};

/// Keys, or sections with a dot behind. No paths, addresses or secrets.
const SHARED: &[&str] = &[
    "mode",
    "limits.",
    "server.no_primary_wait_ms",
    "server.allow_insecure",
    "server.allow_fault_injection",
    "storage.engine",
    "storage.column_families",
    "storage.readable_window_ms",
    "storage.min_free_mb",
    "replication.heartbeat_ms",
    "replication.election_timeout_min_ms",
    "replication.election_timeout_max_ms",
    "replication.retry_ms",
    "replication.lease_ms",
    "replication.auto_finalize",
    "replication.readmit_replaced_disk",
    "replication.max_batch_bytes",
    "replication.max_in_flight_values",
    "auth.max_staleness_ms",
    "auth.jwt_issuer",
    "auth.jwt_audience",
];

impl Config {
    /// The settings in force that should be the same on every server, by key. Shown in `/status`.
    pub fn shared_settings(&self) -> Map<String, Value> {
        let is_shared = |key: &str| SHARED.iter().any(|own| key == *own || own.ends_with('.') && key.starts_with(own));
        flat(self).into_iter().filter(|(key, _)| is_shared(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shared_key_exists_and_no_path_or_address_is_among_them() {
        let settings = Config::standalone().shared_settings();
        for own in SHARED {
            assert!(settings.keys().any(|key| key == own || own.ends_with('.') && key.starts_with(own)), "{own}");
        }
        assert!(settings.keys().all(|key| !key.contains("tls") && !key.contains("addr") && !key.contains("dir")));
    }
}
