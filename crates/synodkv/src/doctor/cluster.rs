//! The running cluster: what its servers say about themselves and each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::Instant;

use super::finding::{Report, Severity};
use super::listeners;
use crate::admin::{AdminClient, Gathered};
use crate::targets::AdminTarget;

const PATIENCE: Duration = Duration::from_secs(3);
/// Clocks that differ more than this, and more than could be measured.
const CLOCKS_DIFFER_MS: f64 = 500.0;
/// A replica that is more entries behind the primary lags.
const LAG: u64 = 100_000;

/// The clock of a server, compared with that of this machine.
struct Clock {
    address: String,
    /// How far it is ahead.
    ahead_ms: f64,
    /// Half the round trip, within which the difference is not known.
    uncertain_ms: f64,
}

pub async fn check(client: &AdminClient, target: &AdminTarget, serves_a_network: bool, report: &mut Report) {
    report.check("reachability");
    let gathered = match client.gather(target).await {
        Ok(gathered) => gathered,
        Err(failure) => {
            report.error(
                "no_server_answers",
                failure.to_string(),
                "start the servers, or give --admin and the access flags",
            );
            return ["problems", "versions", "settings", "clocks", "voters"]
                .into_iter()
                .for_each(|check| report.skip(check, "no server answers"));
        }
    };
    reachability(&gathered, report);
    problems(&gathered, report);
    versions(&gathered, report);
    settings(&gathered, report);
    access(&gathered, serves_a_network, report);
    let mut clocks = Vec::new();
    for answer in &gathered.answers {
        clocks.extend(clock(client, &answer.address).await);
    }
    compare_clocks(&clocks, report);
    voters(client, &gathered, report).await;
}

fn reachability(gathered: &Gathered, report: &mut Report) {
    for (address, reason) in &gathered.unanswered {
        let text = format!("{address} does not answer: {reason}");
        report.error(
            "server_unreachable",
            text,
            "start it, or look for a firewall, a wrong address or a wrong certificate",
        );
    }
    let status = &gathered.best().status;
    let remedy = "start the replicas that are down; a majority of the voters must reach each other";
    if status.primary.is_none() {
        report.error("no_primary", "there is no primary: writes wait", remedy);
    }
    for replica in status.replicas.iter().filter(|replica| !replica.reachable) {
        let text = format!("the other replicas do not hear from replica {}", replica.id);
        report.error(
            "replica_unreachable",
            text,
            "start it, and check that its peer address is reached from the others",
        );
    }
    let ahead = status.replicas.iter().filter_map(|replica| replica.applied).max().unwrap_or(0);
    for replica in &status.replicas {
        let behind = replica.applied.map_or(0, |applied| ahead.saturating_sub(applied));
        if behind > LAG {
            let text = format!("replica {} is {behind} entries behind", replica.id);
            report.warn("replica_lags", text, "compare its disk and its load with those of the others; a long-lived lag ends in a copy of the database");
        }
    }
}

/// The problems that the servers report themselves.
fn problems(gathered: &Gathered, report: &mut Report) {
    report.check("problems");
    for answer in &gathered.answers {
        for problem in &answer.status.problems {
            let whose = match problem.replica {
                Some(id) => format!("replica {id}"),
                None => answer.address.clone(),
            };
            report.add(Severity::Warning, &*problem.kind, format!("{whose}: {}", problem.text), &*problem.remedy);
        }
    }
}

fn versions(gathered: &Gathered, report: &mut Report) {
    report.check("versions");
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in &gathered.answers {
        let version = answer.document["version"].as_str().unwrap_or("unknown (older)");
        by_version.entry(version).or_default().push(&answer.address);
    }
    if by_version.len() > 1 {
        let each = by_version.iter().map(|(version, servers)| format!("{version} on {}", servers.join(", ")));
        let text = format!("the servers run different releases: {}", each.collect::<Vec<_>>().join("; "));
        report.warn("version_skew", text, "finish the upgrade: `synodkv upgrade plan` says in which order");
    }
    let status = &gathered.best().status;
    let levels: BTreeSet<_> = status.replicas.iter().filter_map(|replica| replica.highest_level).collect();
    if levels.len() > 1 {
        let text = format!("the replicas execute different feature levels, up to {levels:?}");
        report.warn("feature_level_skew", text, "finish the upgrade: `synodkv upgrade plan` says in which order");
    } else if let Some(next) = status.next_feature_level {
        let text = format!("feature level {next} is available, and the cluster is below it");
        report.note(
            "upgrade_not_finalised",
            text,
            "`synodkv upgrade finalize`, once the previous release is not needed any more",
        );
    }
}

/// Settings that should be the same everywhere, as each server has them in force.
fn settings(gathered: &Gathered, report: &mut Report) {
    report.check("settings");
    let mut known: BTreeMap<&str, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for answer in &gathered.answers {
        let Some(settings) = answer.document["settings"].as_object() else { continue };
        for (key, value) in settings {
            known.entry(key).or_default().entry(value.to_string()).or_default().push(&answer.address);
        }
    }
    if known.is_empty() {
        return report.skip("settings", "the servers do not show them (an older release)");
    }
    for (key, values) in known.iter().filter(|(_, values)| values.len() > 1) {
        let each = values.iter().map(|(value, servers)| format!("{value} on {}", servers.join(", ")));
        let text = format!("{key} differs: {}", each.collect::<Vec<_>>().join("; "));
        report.warn("settings_differ", text, "give all servers the same value, and restart them one by one");
    }
}

fn access(gathered: &Gathered, serves_a_network: bool, report: &mut Report) {
    let Some(access) = &gathered.best().status.access else { return };
    report.check("access");
    let is_far = |address: &String| {
        let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let replicas = &gathered.best().status.replicas;
    let is_far = serves_a_network || replicas.iter().filter_map(|replica| replica.thrift.as_ref()).any(is_far);
    if !access.enabled && is_far {
        let text = "other machines can connect, and authentication is not enabled: everybody there may read and write";
        report.warn("no_authentication", text, "`synodkv auth enable`: see docs/SECURITY.md");
    }
}

/// `None` if the server does not show its clock.
async fn clock(client: &AdminClient, address: &str) -> Option<Clock> {
    let (asked, begun) = (now_ms(), Instant::now());
    let document: Value = client.get(address, "/status", &[], PATIENCE).await.ok()?;
    let uncertain_ms = begun.elapsed().as_secs_f64() * 500.0;
    let shown = document["time_ms"].as_f64()?;
    Some(Clock { address: address.to_string(), ahead_ms: shown - asked - uncertain_ms, uncertain_ms })
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn compare_clocks(clocks: &[Clock], report: &mut Report) {
    report.check("clocks");
    if clocks.is_empty() {
        return report.skip("clocks", "the servers do not show theirs (an older release)");
    }
    for clock in clocks {
        report.measured(&format!("clock_ahead_ms {}", clock.address), clock.ahead_ms.round());
    }
    let order = |one: &&Clock, other: &&Clock| one.ahead_ms.total_cmp(&other.ahead_ms);
    let (Some(slow), Some(fast)) = (clocks.iter().min_by(order), clocks.iter().max_by(order)) else { return };
    let remedy = "run chrony or systemd-timesyncd everywhere; consensus does not depend on clocks, but certificates, tokens and logs do";
    let (difference, uncertain) = (fast.ahead_ms - slow.ahead_ms, fast.uncertain_ms + slow.uncertain_ms);
    if difference - uncertain > CLOCKS_DIFFER_MS {
        let text = format!("the clock of {} is {difference:.0} ms ahead of that of {}", fast.address, slow.address);
        return report.warn("clocks_differ", text, remedy);
    }
    if fast.ahead_ms.abs() - fast.uncertain_ms > CLOCKS_DIFFER_MS {
        let text =
            format!("the clock of {} and that of this machine differ by {:.0} ms", fast.address, fast.ahead_ms.abs());
        report.warn("clocks_differ", text, remedy);
    }
}

async fn voters(client: &AdminClient, gathered: &Gathered, report: &mut Report) {
    let best = gathered.best();
    if best.status.mode != "replicated" {
        return;
    }
    report.check("voters");
    let members: Result<Value, _> = client.get(&best.address, "/members", &[], PATIENCE).await;
    let members = match members {
        Ok(members) => members["members"].as_array().cloned().unwrap_or_default(),
        Err(no_answer) => return report.skip("voters", format!("/members of {}: {no_answer}", best.address)),
    };
    listeners::count(members.iter().filter(|member| member["role"] == "voter").count(), "the cluster has", report);
}
