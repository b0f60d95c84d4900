//! Checks settings against each other. Each value is already within its own bounds.

use kv_api::Limits;

use super::sources::Sources;
use super::{Address, ClientCertificates, ConfigError, ListenerTls, ReplicationConfig, ServerSettings};
use crate::tls::TlsMode;

/// The room that a message or a reply needs besides the one key and the one value in it.
const ENVELOPE_BYTES: usize = 4096;

/// The largest value allowed must fit into the transaction that writes it and into the reply that
/// returns it; the largest transaction must fit into its message. A limit that was not set is
/// lowered to what the other limits leave room for.
pub(super) fn fit_limits(
    mut limits: Limits,
    server: &ServerSettings,
    sources: &Sources,
) -> Result<Limits, ConfigError> {
    let outer = [
        ("server.max_message_bytes", server.max_message_bytes),
        ("limits.max_reply_bytes", limits.max_reply_bytes),
        ("server.max_framed_reply_bytes", server.max_framed_reply_bytes),
    ];
    let message = outer[0];
    fit("limits.max_transaction_bytes", &mut limits.max_transaction_bytes, 0, message, sources)?;
    let transaction = ("limits.max_transaction_bytes", limits.max_transaction_bytes);
    fit("limits.max_key_bytes", &mut limits.max_key_bytes, 0, transaction, sources)?;
    for outer in [transaction].into_iter().chain(outer) {
        fit("limits.max_value_bytes", &mut limits.max_value_bytes, limits.max_key_bytes, outer, sources)?;
    }
    Ok(limits)
}

/// Checks that `inner` and `with_key` bytes of a key fit into `outer` together.
fn fit(
    key: &str,
    inner: &mut usize,
    with_key: usize,
    (outer_key, outer): (&str, usize),
    sources: &Sources,
) -> Result<(), ConfigError> {
    let envelope = if outer_key == "limits.max_transaction_bytes" { 0 } else { ENVELOPE_BYTES.min(outer / 4) };
    let room = outer.saturating_sub(with_key + envelope);
    if *inner <= room {
        return Ok(());
    }
    let is_default = sources.origin(key).is_empty();
    if is_default && room > 0 {
        *inner = room;
        return Ok(());
    }
    let with = if with_key > 0 { format!(" with a key of limits.max_key_bytes = {with_key}") } else { String::new() };
    let wanted = format!(
        "must fit{with} into {outer_key} = {outer}{}; allowed: 1 to {room}, or make {outer_key} larger",
        sources.origin(outer_key)
    );
    Err(ConfigError::value(key, *inner, &wanted, &sources.origin(key)))
}

/// One address that a process listens on.
struct Listener<'a> {
    key: String,
    /// The replica whose process listens there; replicas of one process share it.
    process: Option<u32>,
    address: &'a Address,
}

/// Checks that no two listeners share an address, and that replicas can be reached at the addresses
/// in the list.
pub(super) fn check_addresses(
    server: &ServerSettings,
    replication: &ReplicationConfig,
    sources: &Sources,
) -> Result<(), ConfigError> {
    let origin = sources.origin("replication.replicas");
    let one_per_process = replication.node_id.is_some();
    let mut listeners = Vec::new();
    for replica in &replication.replicas {
        let process = one_per_process.then_some(replica.id);
        let key = |name: &str| match replication.is_listed {
            true => format!("replication.replicas[].{name} of id {}", replica.id),
            false => format!("the peer address of replica {} (from replication.first_peer_addr)", replica.id),
        };
        listeners.push(Listener { key: key("peer"), process, address: &replica.peer });
        if one_per_process {
            listeners.push(Listener { key: key("thrift"), process, address: &replica.thrift });
            listeners.push(Listener { key: key("admin"), process, address: &replica.admin });
        }
    }
    if one_per_process {
        // A cluster with one member has nobody who would have to reach it.
        if replication.replicas.len() > 1 {
            refuse_unspecified(&listeners, &origin)?;
        }
    } else {
        listeners.push(Listener { key: "server.thrift_addr".into(), process: None, address: &server.thrift_addr });
        listeners.push(Listener { key: "server.admin_addr".into(), process: None, address: &server.admin_addr });
    }
    refuse_shared(&listeners, &origin)
}

/// Nobody can connect to `0.0.0.0`; it is only an address to listen on.
fn refuse_unspecified(listeners: &[Listener<'_>], origin: &str) -> Result<(), ConfigError> {
    match listeners.iter().find(|listener| listener.address.is_unspecified()) {
        None => Ok(()),
        Some(Listener { key, address, .. }) => {
            let wanted = "the other replicas cannot connect to it: give the address or the name at which \
                          they reach this replica (to listen elsewhere, for example on all interfaces, set replication.listen_addr, \
                          server.thrift_addr and server.admin_addr outside of the list)";
            Err(ConfigError::value(key, address, wanted, origin))
        }
    }
}

fn refuse_shared(listeners: &[Listener<'_>], origin: &str) -> Result<(), ConfigError> {
    for (index, listener) in listeners.iter().enumerate() {
        let clashes = |other: &&Listener<'_>| {
            let same_process = other.process == listener.process;
            let overlap = same_process && (other.address.is_unspecified() || listener.address.is_unspecified());
            let same = other.address == listener.address;
            listener.address.port() != 0 && other.address.port() == listener.address.port() && (same || overlap)
        };
        if let Some(other) = listeners[..index].iter().find(clashes) {
            let wanted = format!("is taken by {} = {}: each needs an address of its own", other.key, other.address);
            return Err(ConfigError::value(&listener.key, listener.address, &wanted, origin));
        }
    }
    Ok(())
}

/// Checks the settings of a listener against each other. `section` is their place in the file.
pub(super) fn check_listener_tls(tls: &ListenerTls, section: &str, sources: &Sources) -> Result<(), ConfigError> {
    let files =
        [("certificate", &tls.certificate), ("key", &tls.key), ("client_ca", &tls.client_ca), ("crl", &tls.crl)];
    let missing = |name: &str, why: &str| {
        let origin = sources.origin(section);
        Err(ConfigError::new(format!("`{section}.{name}` is missing{origin}: {why}")))
    };
    for (name, path) in files {
        if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            let key = format!("{section}.{name}");
            return Err(ConfigError::value(&key, "\"\"", "a file is needed", &sources.origin(&key)));
        }
    }
    if tls.mode() != TlsMode::Off || tls.certificate.is_some() || tls.key.is_some() {
        let why = "TLS needs the files of certificate and key";
        if tls.certificate.is_none() {
            return missing("certificate", why);
        }
        if tls.key.is_none() {
            return missing("key", why);
        }
    }
    if tls.client_certificates() != ClientCertificates::None && tls.client_ca.is_none() {
        return missing("client_ca", "the certificates of clients are verified with it");
    }
    if tls.crl.is_some() && tls.client_certificates() == ClientCertificates::None {
        return missing("client_ca", "a list of revoked certificates of clients is of no use without it");
    }
    Ok(())
}
