//! Addresses where other machines connect, and the number of voters, as configured.

use kv_server::config::Address;
use kv_server::tls::TlsMode;
use kv_server::{Config, Mode};

use super::finding::Report;

pub fn check(config: &Config, report: &mut Report) {
    report.check("listeners");
    for (key, address, mode) in listeners(config).into_iter().filter(|(_, address, _)| !address.is_loopback()) {
        let advice = match mode {
            TlsMode::Require => continue,
            TlsMode::Allow => "set mode = \"require\" once all clients use TLS",
            TlsMode::Off => "configure TLS: see docs/SECURITY.md",
        };
        let text = format!("{key} = {address}: other machines can connect there without TLS and read what is sent");
        refused_or_allowed("listener_without_tls", text, advice, config.server.allow_insecure, report);
    }
    peers(config, report);
    if config.server.allow_fault_injection {
        let text = "server.allow_fault_injection = true: clients can make requests fail on purpose";
        report.warn("fault_injection_allowed", text, "remove that line from the configuration of a production server");
    }
}

fn listeners(config: &Config) -> [(&'static str, &Address, TlsMode); 2] {
    [
        ("server.thrift_addr", &config.server.thrift_addr, config.server.tls.mode()),
        ("server.admin_addr", &config.server.admin_addr, config.admin_tls().mode()),
    ]
}

/// Whether the configuration lets other machines connect as clients or operators.
pub fn serves_a_network(config: &Config) -> bool {
    listeners(config).iter().any(|(_, address, _)| !address.is_loopback())
}

fn peers(config: &Config, report: &mut Report) {
    let replication = &config.replication;
    if config.mode != Mode::Replicated || replication.tls.is_some() {
        return;
    }
    let replicas = replication.local_ids().into_iter().filter_map(|id| replication.replica(id));
    for replica in replicas.filter(|replica| !replication.listens_at(replica).is_loopback()) {
        let key = replication.peer_key(replica.id);
        let text = format!("{key} = {}: any machine there can act as a replica", replication.listens_at(replica));
        refused_or_allowed(
            "peers_without_tls",
            text,
            "configure [replication.tls]: see docs/SECURITY.md",
            replication.allow_insecure,
            report,
        );
    }
}

/// An error if a server refuses it at its start, a warning if somebody set `allow_insecure`.
fn refused_or_allowed(name: &str, text: String, remedy: &str, is_allowed: bool, report: &mut Report) {
    match is_allowed {
        true => report.warn(name, format!("{text} (allow_insecure = true)"), remedy),
        false => report.error(name, format!("{text}; a server refuses to start like this"), remedy),
    }
}

/// The list of replicas says who votes at the first start only.
pub fn voters(config: &Config, report: &mut Report) {
    report.check("voters");
    if config.mode == Mode::Replicated {
        count(config.replication.replicas.len(), "the configuration lists", report);
    }
}

/// Warns about an even number of voters, and about one that survives nothing.
pub fn count(voters: usize, who: &str, report: &mut Report) {
    let tolerated = voters.saturating_sub(1) / 2;
    if voters > 0 && voters.is_multiple_of(2) {
        report.warn(
            "even_number_of_voters",
            format!(
                "{who} {voters} voters: they survive {tolerated} failures, as {} would, and wait for more answers",
                voters - 1
            ),
            "make one of them an observer (`synodkv member demote`), or add a voter",
        );
    } else if voters == 1 {
        report.warn(
            "single_voter",
            format!("{who} 1 voter: nothing is served while it is down, and its disk is the only copy"),
            "add members: see \"Members\" in docs/OPERATIONS.md",
        );
    }
}
