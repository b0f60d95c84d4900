//! Turns the settings as written into a valid configuration: fills in defaults that depend on other
//! keys, and checks every value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kv_api::{DEFAULT_COLUMN_FAMILY, Limits, family_name_fault};
use tls_files::FRAME_LIMIT;

use super::consistency;
use super::settings::{ReplicaEntry, ReplicationSettings, Settings, TlsSettings};
use super::sources::Sources;
use super::{
    Address, AuthSettings, ChangesSettings, Config, ConfigError, DEFAULT_PIN_SECONDS, LogSettings, PeerTlsConfig,
    ReplicaConfig, ReplicationConfig, ServerSettings, StorageSettings,
};

use crate::access::AuditSettings;
use crate::mode::Mode;
use crate::tls::TlsMode;

const MAX_REPLICAS: usize = 7;
/// The limit where the list is only a hint: as many voters and observers as a cluster may have.
const MAX_HINTS: usize = 15;
/// Ids are 8 bits wide in consensus.
const HIGHEST_ID: u32 = 254;
/// Number of replicas in one process if no list is given.
const DEFAULT_REPLICAS: u32 = 3;

pub(super) fn complete(raw: Settings, sources: &Sources) -> Result<Config, ConfigError> {
    let mode = mode(&raw, sources)?;
    // Also checked if no mode is set, because then the list would be ignored.
    let lacks_node_id = raw.mode != Some(Mode::Standalone) && lacks_node_id(&raw.replication);
    let Settings { mut server, admin, storage, limits, replication, changes, auth, audit, log, .. } = raw;
    if mode == Mode::Replicated {
        pick_listeners(&mut server, &replication, sources)?;
    }
    if let Some(port) = sources.thrift_port.filter(|_| !sources.overridden.iter().any(|k| k == "server.thrift_addr")) {
        server.thrift_addr = server.thrift_addr.with_port(port);
    }
    check_server(&server, sources)?;
    consistency::check_listener_tls(&server.tls, "server.tls", sources)?;
    consistency::check_listener_tls(&admin.tls, "admin.tls", sources)?;
    check_storage(&storage, sources)?;
    check_changes(&changes, &storage, sources)?;
    check_limits(&limits, sources)?;
    let limits = consistency::fit_limits(limits, &server, sources)?;
    check_timing(&replication, sources)?;
    check_staleness(&auth, replication.heartbeat_ms, sources)?;
    let replication = complete_replication(replication, &server, sources)?;
    let replication = ReplicationConfig { lacks_node_id, ..replication };
    check_auth(&auth, sources)?;
    check_audit(&audit, sources)?;
    check_log(&log, sources)?;
    if mode == Mode::Replicated {
        consistency::check_addresses(&server, &replication, sources)?;
    }
    let (warnings, origins) = (sources.warnings.clone(), BTreeMap::new());
    Ok(Config {
        mode,
        server,
        admin,
        storage,
        limits,
        replication,
        changes,
        auth,
        audit,
        log,
        same_data_dir: None,
        warnings,
        origins,
    })
}

/// A node id implies replicated mode, unless the mode is set, too.
fn mode(raw: &Settings, sources: &Sources) -> Result<Mode, ConfigError> {
    match (raw.mode, raw.replication.node_id) {
        (Some(Mode::Standalone), Some(id)) if sources.overridden.iter().any(|key| key == "replication.node_id") => {
            let origin = sources.origin("replication.node_id");
            let wanted = format!("needs mode = \"replicated\", and mode is \"standalone\"{}", sources.origin("mode"));
            Err(ConfigError::value("replication.node_id", id, &wanted, &origin))
        }
        (Some(mode), _) => Ok(mode),
        (None, Some(_)) => Ok(Mode::Replicated),
        (None, None) => Ok(Mode::Standalone),
    }
}

/// Whether the entries have different Thrift or admin addresses, which replicas of one process
/// share.
fn lacks_node_id(replication: &ReplicationSettings) -> bool {
    let differ = |address: fn(&ReplicaEntry) -> Option<&Address>| {
        let mut given = replication.replicas.iter().filter_map(address);
        let first = given.next();
        given.any(|other| Some(other) != first)
    };
    replication.node_id.is_none() && (differ(|entry| entry.thrift.as_ref()) || differ(|entry| entry.admin.as_ref()))
}

/// With one replica per process, the server listens at the addresses in the list, unless a flag or
/// a variable gives others.
fn pick_listeners(
    server: &mut ServerSettings,
    replication: &ReplicationSettings,
    sources: &Sources,
) -> Result<(), ConfigError> {
    let Some(id) = replication.node_id else { return Ok(()) };
    let origin = sources.origin("replication.node_id");
    if replication.replicas.is_empty() {
        let wanted = "one replica per process needs the list of all replicas: give --config FILE with \
                      [[replication.replicas]] entries of id, peer, thrift and admin";
        return Err(ConfigError::value("replication.node_id", id, wanted, &origin));
    }
    let Some(entry) = replication.replicas.iter().find(|entry| entry.id == id) else {
        let mut ids: Vec<u32> = replication.replicas.iter().map(|entry| entry.id).collect();
        ids.sort_unstable();
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let wanted = format!("no such replica: [[replication.replicas]] has the ids {}", ids.join(", "));
        return Err(ConfigError::value("replication.node_id", id, &wanted, &origin));
    };
    let given = |key: &str| sources.overridden.iter().any(|overridden| overridden == key);
    if let Some(thrift) = entry.thrift.as_ref().filter(|_| !given("server.thrift_addr")) {
        server.thrift_addr = thrift.clone();
    }
    if let Some(admin) = entry.admin.as_ref().filter(|_| !given("server.admin_addr")) {
        server.admin_addr = admin.clone();
    }
    Ok(())
}

fn complete_replication(
    raw: ReplicationSettings,
    server: &ServerSettings,
    sources: &Sources,
) -> Result<ReplicationConfig, ConfigError> {
    let is_listed = !raw.replicas.is_empty();
    let entries = if is_listed { raw.replicas } else { default_replicas(&raw, sources)? };
    let origin = sources.origin("replication.replicas");
    let (one_per_process, limit) = (raw.node_id.is_some(), if raw.join { MAX_HINTS } else { MAX_REPLICAS });
    check_replica_list(&entries, one_per_process, limit, &origin)?;
    if raw.join && !one_per_process {
        let wanted = "is for one replica per process: give replication.node_id, too, or leave it out";
        return Err(ConfigError::value("replication.join", true, wanted, &sources.origin("replication.join")));
    }
    if raw.witness && !raw.join {
        let wanted = "is for a replica that joins a cluster: give replication.join = true, too, or leave it out";
        return Err(ConfigError::value("replication.witness", true, wanted, &sources.origin("replication.witness")));
    }
    let tls = raw.tls.map(|tls| complete_tls(tls, &entries, sources)).transpose()?;
    if let Some(address) = raw.listen_addr.as_ref().filter(|_| !one_per_process) {
        let wanted = "is for one replica per process: give replication.node_id, too, or leave it out";
        let key = "replication.listen_addr";
        return Err(ConfigError::value(key, address, wanted, &sources.origin(key)));
    }
    let complete = |entry: ReplicaEntry| {
        // The list says where others reach a replica, even if it listens on another address (for
        // example 0.0.0.0). Replicas in one process share its listeners.
        let (thrift, admin) = if one_per_process { (entry.thrift, entry.admin) } else { (None, None) };
        ReplicaConfig {
            id: entry.id,
            peer: entry.peer,
            thrift: thrift.unwrap_or_else(|| server.thrift_addr.clone()),
            admin: admin.unwrap_or_else(|| server.admin_addr.clone()),
        }
    };
    let mut replicas: Vec<ReplicaConfig> = entries.into_iter().map(complete).collect();
    replicas.sort_by_key(|replica| replica.id);
    Ok(ReplicationConfig {
        node_id: raw.node_id,
        replicas,
        is_listed,
        listen_addr: raw.listen_addr,
        lacks_node_id: false,
        heartbeat_ms: raw.heartbeat_ms,
        election_timeout_min_ms: raw.election_timeout_min_ms,
        election_timeout_max_ms: raw.election_timeout_max_ms,
        retry_ms: raw.retry_ms,
        lease_ms: raw.lease_ms,
        auto_finalize: raw.auto_finalize,
        join: raw.join,
        witness: raw.witness,
        readmit_replaced_disk: raw.readmit_replaced_disk,
        max_batch_bytes: raw.max_batch_bytes,
        max_in_flight_values: raw.max_in_flight_values,
        wal_segment_mb: raw.wal_segment_mb,
        wal_direct_writes: raw.wal_direct_writes,
        log_keep_mb: raw.log_keep_mb,
        log_flush_mb: raw.log_flush_mb,
        snapshot_mb_per_second: raw.snapshot_mb_per_second,
        allow_insecure: raw.allow_insecure,
        tls,
    })
}

const LONGEST_TLS_NAME: usize = 253;

fn complete_tls(raw: TlsSettings, entries: &[ReplicaEntry], sources: &Sources) -> Result<PeerTlsConfig, ConfigError> {
    let file = |name: &str, given: Option<PathBuf>| {
        let wanted = "TLS between replicas needs the files of ca, certificate and key";
        let key = format!("replication.tls.{name}");
        match given {
            Some(path) if path.as_os_str().is_empty() => {
                Err(ConfigError::value(&key, "\"\"", wanted, &sources.origin(&key)))
            }
            Some(path) => Ok(path),
            None => Err(ConfigError::new(format!("`{key}` is missing{}: {wanted}", sources.origin("replication.tls")))),
        }
    };
    Ok(PeerTlsConfig {
        ca: file("ca", raw.ca)?,
        certificate: file("certificate", raw.certificate)?,
        key: file("key", raw.key)?,
        crl: raw.crl,
        names: tls_names(entries, &sources.origin("replication.replicas"))?,
    })
}

fn tls_names(entries: &[ReplicaEntry], origin: &str) -> Result<BTreeMap<u32, String>, ConfigError> {
    let mut names = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some(name) = &entry.tls_name else { continue };
        let invalid = |wanted| {
            let key = format!("replication.replicas[{index}].tls_name");
            Err(ConfigError::value(&key, format!("\"{name}\""), wanted, origin))
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        let is_name = name.len() <= LONGEST_TLS_NAME && name.bytes().all(allowed);
        if !is_name || name.split('.').any(str::is_empty) || name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return invalid("must be a DNS name: letters, digits, - and . between them");
        }
        let is_taken = entries.iter().any(|other| {
            let default = || format!("replica-{}", other.id);
            other.id != entry.id && other.tls_name.clone().unwrap_or_else(default).eq_ignore_ascii_case(name)
        });
        if is_taken {
            return invalid("two replicas cannot have the same name: each could impersonate the other");
        }
        names.insert(entry.id, name.clone());
    }
    Ok(names)
}

fn default_replicas(raw: &ReplicationSettings, sources: &Sources) -> Result<Vec<ReplicaEntry>, ConfigError> {
    let first = &raw.first_peer_addr;
    (0..DEFAULT_REPLICAS)
        .map(|id| {
            let port = u32::from(first.port()) + id;
            let port = u16::try_from(port).map_err(|_| {
                let wanted = "leaves no ports for three replicas: the port must be 65533 or less";
                let key = "replication.first_peer_addr";
                ConfigError::value(key, first, wanted, &sources.origin(key))
            })?;
            Ok(ReplicaEntry { id, peer: first.with_port(port), thrift: None, admin: None, tls_name: None })
        })
        .collect()
}

fn check_replica_list(
    entries: &[ReplicaEntry],
    one_per_process: bool,
    limit: usize,
    origin: &str,
) -> Result<(), ConfigError> {
    let key = "replication.replicas";
    if entries.len() > limit {
        let wanted = format!(
            "1 to {MAX_REPLICAS} replicas are allowed, and up to {MAX_HINTS} with replication.join = true: further \
             members need not be listed"
        );
        return Err(ConfigError::value(key, format!("({} entries)", entries.len()), &wanted, origin));
    }
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("{key}[{index}]");
        if entries[..index].iter().any(|other| other.id == entry.id) {
            return Err(ConfigError::value(&format!("{place}.id"), entry.id, "ids must be unique", origin));
        }
        if entry.id > HIGHEST_ID {
            let wanted = format!("ids are 0 to {HIGHEST_ID}");
            return Err(ConfigError::value(&format!("{place}.id"), entry.id, &wanted, origin));
        }
        if entries[..index].iter().any(|other| other.peer == entry.peer && entry.peer.port() != 0) {
            let wanted = "two replicas cannot have the same peer address";
            return Err(ConfigError::value(&format!("{place}.peer"), &entry.peer, wanted, origin));
        }
        if one_per_process {
            let missing = [("thrift", entry.thrift.is_none()), ("admin", entry.admin.is_none())];
            if let Some((name, _)) = missing.iter().find(|(_, missing)| *missing) {
                return Err(ConfigError::new(format!(
                    "`{place}.{name}` is missing{origin}: with one replica per process every replica needs id, peer, \
                     thrift and admin"
                )));
            }
        }
    }
    Ok(())
}

/// A key, its value and the allowed range.
type Bound<'a> = (&'a str, u64, std::ops::RangeInclusive<u64>);

fn check_bounds(bounds: &[Bound<'_>], sources: &Sources) -> Result<(), ConfigError> {
    for (key, value, allowed) in bounds {
        if !allowed.contains(value) {
            let wanted = format!("must be {} to {}", allowed.start(), allowed.end());
            return Err(ConfigError::value(key, value, &wanted, &sources.origin(key)));
        }
    }
    Ok(())
}

const HOUR_MS: u64 = 3_600_000;
const GIB: u64 = 1 << 30;

fn check_server(server: &ServerSettings, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("server.max_connections", server.max_connections as u64, 1..=1_000_000),
            ("server.idle_timeout_seconds", server.idle_timeout_seconds, 0..=365 * 86_400),
            ("server.max_admin_connections", server.max_admin_connections as u64, 1..=10_000),
            ("server.message_timeout_ms", server.message_timeout_ms, 0..=HOUR_MS),
            ("server.write_timeout_ms", server.write_timeout_ms, 0..=HOUR_MS),
            ("server.max_reply_memory_mb", server.max_reply_memory_mb as u64, 1..=1_048_576),
            ("server.max_request_memory_mb", server.max_request_memory_mb as u64, 1..=1_048_576),
            ("server.memory_limit_mb", server.memory_limit_mb as u64, 0..=1_048_576),
            ("server.max_message_bytes", server.max_message_bytes as u64, 1024..=GIB),
            ("server.max_list_elements", server.max_list_elements as u64, 1..=100_000_000),
            ("server.max_pipelined_requests", server.max_pipelined_requests as u64, 1..=65_536),
            ("server.max_buffered_reply_bytes", server.max_buffered_reply_bytes as u64, 1..=GIB),
            ("server.max_framed_reply_bytes", server.max_framed_reply_bytes as u64, 1024..=GIB),
            ("server.request_timeout_ms", server.request_timeout_ms, 1..=HOUR_MS),
            ("server.no_primary_wait_ms", server.no_primary_wait_ms, 0..=HOUR_MS),
            ("server.shutdown_timeout_ms", server.shutdown_timeout_ms, 0..=HOUR_MS),
            // The default lifetime of a pin must always be allowed.
            ("server.max_pin_seconds", server.max_pin_seconds, DEFAULT_PIN_SECONDS..=7 * 86_400),
        ],
        sources,
    )?;
    // With both protocols on one port, the first byte of a frame's length must not look like TLS.
    let most = FRAME_LIMIT - 1;
    if server.tls.mode() == TlsMode::Allow && server.max_message_bytes > most {
        let key = "server.max_message_bytes";
        let wanted = format!("must be at most {most} with server.tls.mode = \"allow\"");
        return Err(ConfigError::value(key, server.max_message_bytes, &wanted, &sources.origin(key)));
    }
    let (thrift, admin) = (&server.thrift_addr, &server.admin_addr);
    if thrift == admin && thrift.port() != 0 {
        let wanted = format!("is the same as server.thrift_addr{}", sources.origin("server.thrift_addr"));
        return Err(ConfigError::value("server.admin_addr", admin, &wanted, &sources.origin("server.admin_addr")));
    }
    Ok(())
}

fn check_storage(storage: &StorageSettings, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("storage.write_buffer_mb", storage.write_buffer_mb as u64, 8..=65_536),
            ("storage.block_cache_mb", storage.block_cache_mb as u64, 1..=1_048_576),
            ("storage.row_cache_mb", storage.row_cache_mb as u64, 0..=1_048_576),
            ("storage.background_threads", u64::from(storage.background_threads), 2..=64),
            ("storage.readable_window_ms", storage.readable_window_ms, 1_000..=300_000),
            ("storage.min_free_mb", storage.min_free_mb, 0..=GIB),
        ],
        sources,
    )?;
    let origin = |key| sources.origin(key);
    if storage.data_dir.as_os_str().is_empty() {
        let key = "storage.data_dir";
        return Err(ConfigError::value(key, "\"\"", "a directory is needed, for example ./data", &origin(key)));
    }
    let key = "storage.column_families";
    for (index, name) in storage.column_families.iter().enumerate() {
        let shown = format!("\"{name}\"");
        if name == DEFAULT_COLUMN_FAMILY {
            return Err(ConfigError::value(key, shown, "this family is always there: leave it out", &origin(key)));
        }
        if let Some(fault) = family_name_fault(name) {
            return Err(ConfigError::value(key, shown, &fault, &origin(key)));
        }
        if storage.column_families[..index].contains(name) {
            return Err(ConfigError::value(key, shown, "named twice", &origin(key)));
        }
    }
    Ok(())
}

fn check_changes(changes: &ChangesSettings, storage: &StorageSettings, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("changes.retention_ms", changes.retention_ms, 1_000..=30 * 86_400_000),
            ("changes.max_mb", changes.max_mb, 1..=16 << 20),
            ("changes.max_polls", changes.max_polls as u64, 1..=1_000_000),
        ],
        sources,
    )?;
    let (key, window_ms) = ("changes.retention_ms", storage.readable_window_ms);
    if changes.enabled && changes.retention_ms < window_ms {
        let wanted = format!(
            "at least {window_ms}, the value of storage.readable_window_ms: whoever reads rows at a version must be able \
             to go on with the changes after it"
        );
        return Err(ConfigError::value(key, changes.retention_ms, &wanted, &sources.origin(key)));
    }
    Ok(())
}

fn check_limits(limits: &Limits, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("limits.max_key_bytes", limits.max_key_bytes as u64, 1..=1 << 20),
            ("limits.max_value_bytes", limits.max_value_bytes as u64, 1..=GIB),
            ("limits.max_transaction_bytes", limits.max_transaction_bytes as u64, 1..=GIB),
            ("limits.max_conflicts", limits.max_conflicts as u64, 1..=10_000_000),
            ("limits.max_reply_bytes", limits.max_reply_bytes as u64, 1024..=GIB),
        ],
        sources,
    )
}

fn check_timing(raw: &ReplicationSettings, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("replication.heartbeat_ms", raw.heartbeat_ms, 1..=60_000),
            ("replication.election_timeout_min_ms", raw.election_timeout_min_ms, 2..=600_000),
            ("replication.election_timeout_max_ms", raw.election_timeout_max_ms, 3..=600_000),
            ("replication.retry_ms", raw.retry_ms, 1..=60_000),
            ("replication.lease_ms", raw.lease_ms, 0..=600_000),
            ("replication.max_batch_bytes", raw.max_batch_bytes as u64, 1024..=64 << 20),
            ("replication.max_in_flight_values", raw.max_in_flight_values as u64, 1..=65_536),
            ("replication.wal_segment_mb", raw.wal_segment_mb, 1..=1024),
            ("replication.log_keep_mb", raw.log_keep_mb, 1..=1 << 30),
            ("replication.log_flush_mb", raw.log_flush_mb, 1..=1 << 20),
            ("replication.snapshot_mb_per_second", raw.snapshot_mb_per_second, 0..=1 << 20),
        ],
        sources,
    )?;
    let ascending = [
        ("replication.heartbeat_ms", raw.heartbeat_ms),
        ("replication.election_timeout_min_ms", raw.election_timeout_min_ms),
        ("replication.election_timeout_max_ms", raw.election_timeout_max_ms),
    ];
    for pair in ascending.windows(2) {
        let ((lower_key, lower), (key, value)) = (pair[0], pair[1]);
        if lower >= value {
            let wanted = format!("must be greater than {lower_key} = {lower}{}", sources.origin(lower_key));
            return Err(ConfigError::value(key, value, &wanted, &sources.origin(key)));
        }
    }
    check_lease(raw, sources)
}

/// A lease must outlast heartbeats, or it would never hold, and must end before any replica may
/// start an election.
fn check_lease(raw: &ReplicationSettings, sources: &Sources) -> Result<(), ConfigError> {
    let (least, most) = (raw.heartbeat_ms, raw.election_timeout_min_ms);
    if raw.lease_ms == 0 || (raw.lease_ms > least && raw.lease_ms < most) {
        return Ok(());
    }
    let key = "replication.lease_ms";
    let wanted = format!(
        "must be 0 (no leases), or greater than replication.heartbeat_ms = {least}{} and less than \
         replication.election_timeout_min_ms = {most}{}",
        sources.origin("replication.heartbeat_ms"),
        sources.origin("replication.election_timeout_min_ms")
    );
    Err(ConfigError::value(key, raw.lease_ms, &wanted, &sources.origin(key)))
}

/// A JWT is accepted only if it says where it comes from and for whom it is meant.
fn check_auth(auth: &AuthSettings, sources: &Sources) -> Result<(), ConfigError> {
    let given = [
        ("auth.jwt_keys", auth.jwt_keys.as_ref().map(|path| !path.as_os_str().is_empty())),
        ("auth.jwt_issuer", auth.jwt_issuer.as_ref().map(|issuer| !issuer.is_empty())),
        ("auth.jwt_audience", auth.jwt_audience.as_ref().map(|audience| !audience.is_empty())),
    ];
    let wanted = "JWTs need all three of auth.jwt_keys (a JWKS file), auth.jwt_issuer and auth.jwt_audience";
    if let Some((key, _)) = given.iter().find(|(_, given)| *given == Some(false)) {
        return Err(ConfigError::value(key, "\"\"", wanted, &sources.origin(key)));
    }
    let some = given.iter().find(|(_, given)| given.is_some());
    let missing = given.iter().find(|(_, given)| given.is_none());
    if let (Some((some, _)), Some((missing, _))) = (some, missing) {
        return Err(ConfigError::new(format!("`{missing}` is missing{}: {wanted}", sources.origin(some))));
    }
    Ok(())
}

/// A healthy replica hears from the primary with every heartbeat, and must not refuse requests in between.
fn check_staleness(auth: &AuthSettings, heartbeat_ms: u64, sources: &Sources) -> Result<(), ConfigError> {
    let (key, value) = ("auth.max_staleness_ms", auth.max_staleness_ms);
    check_bounds(&[(key, value, 100..=3_600_000)], sources)?;
    let other = "replication.heartbeat_ms";
    match value >= 2 * heartbeat_ms {
        true => Ok(()),
        false => {
            let wanted = format!("must be at least twice {other} = {heartbeat_ms}{}", sources.origin(other));
            Err(ConfigError::value(key, value, &wanted, &sources.origin(key)))
        }
    }
}

fn check_audit(audit: &AuditSettings, sources: &Sources) -> Result<(), ConfigError> {
    match audit.file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        true => {
            let wanted = "a path is needed; leave it out to have no audit log";
            Err(ConfigError::value("audit.file", "\"\"", wanted, &sources.origin("audit.file")))
        }
        false => Ok(()),
    }
}

fn check_log(log: &LogSettings, sources: &Sources) -> Result<(), ConfigError> {
    check_bounds(&[("log.slow_ms", log.slow_ms, 0..=HOUR_MS)], sources)?;
    if log.file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        let wanted = "a path is needed; leave it out to log to standard error";
        return Err(ConfigError::value("log.file", "\"\"", wanted, &sources.origin("log.file")));
    }
    let level = &log.level;
    let is_level = |text: &str| {
        matches!(text.to_ascii_lowercase().as_str(), "off" | "error" | "warn" | "info" | "debug" | "trace")
    };
    let valid = |directive: &str| is_level(directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim());
    if level.split(',').all(valid) {
        return Ok(());
    }
    let wanted = "allowed: error, warn, info, debug, trace, off, and lists such as info,rsml=debug";
    Err(ConfigError::value("log.level", format!("\"{level}\""), wanted, &sources.origin("log.level")))
}
