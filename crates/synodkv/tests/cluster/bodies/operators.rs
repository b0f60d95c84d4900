//! Tests of what the admin interface and the client commands report about a cluster.

use std::collections::BTreeMap;
use std::process::Output;

use kv_client::KeyRef;
use serde_json::Value;

use crate::cluster::{Settings, TestCluster, http_get};
use crate::clusters::{ProcessTestCluster, program};
use crate::load::Load;
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    the_status_is_correct(Settings::default()): standalone, in_memory, tcp, processes;
    the_status_shows_figures_that_fit_together(Settings::default()): in_memory, tcp, processes;
    the_metrics_count_what_happened(Settings::default()): standalone, in_memory, tcp, processes;
    a_replica_without_a_majority_is_alive_and_not_ready(Settings::impatient()): in_memory, processes;
    the_status_shows_missing_replicas(Settings::default()): in_memory, processes;
    the_client_commands_work_with_any_server_that_is_left(Settings::default()): processes;
    the_failover_command_finds_the_primary_and_says_what_it_did(Settings::default()): processes;
    verify_agrees_under_load_and_fails_without_a_replica(Settings::default()): processes;
}

/// Metrics by name and labels.
async fn metrics(cluster: &impl TestCluster, server: usize) -> BTreeMap<String, f64> {
    let (code, page) = http_get(&cluster.admin(server), "/metrics").await.expect("the metrics");
    assert_eq!(code, 200, "{page}");
    let figures = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        (name.to_string(), value.parse().unwrap_or_else(|_| panic!("not a figure: {line}")))
    };
    figures.map(figure).collect()
}

pub async fn metric(cluster: &impl TestCluster, server: usize, name: &str) -> f64 {
    let all = metrics(cluster, server).await;
    *all.get(name).unwrap_or_else(|| panic!("no metric {name}"))
}

/// The sum of a metric with this label over all servers.
async fn sum(cluster: &impl TestCluster, name: &str, label: &str) -> f64 {
    let mut sum = 0.0;
    for server in cluster.running() {
        let all = metrics(cluster, server).await;
        let wanted = all.iter().filter(|(key, _)| key.starts_with(&format!("{name}{{")) && key.contains(label));
        sum += wanted.map(|(_, figure)| figure).sum::<f64>();
    }
    sum
}

/// The number of log values with more than one operation, summed over the replicas that applied
/// them. `None` without a log.
pub async fn values_with_several_operations(cluster: &impl TestCluster) -> Option<u64> {
    // The last bound is above every size.
    const LAST_BOUND: u64 = (1 << 23) - 1;
    if cluster.replicas() == 1 {
        return None;
    }
    let mut several = 0.0;
    for server in cluster.running() {
        // All from one scrape, because the counts keep growing.
        let all = metrics(cluster, server).await;
        for replica in (0..cluster.replicas()).filter(|replica| cluster.server_of(*replica) == server) {
            let upto = |bound| all[&format!("synodkv_batch_size_values_total{{le=\"{bound}\",replica=\"{replica}\"}}")];
            several += upto(LAST_BOUND) - upto(1);
        }
    }
    Some(several as u64)
}

async fn the_status_is_correct<C: TestCluster>(cluster: &mut C) {
    for number in 0..20 {
        cluster.client(0).await.set(KeyRef::new(format!("{number}")), "value").await.expect("set");
    }
    cluster.assert_replicas_agree().await;
    let is_replicated = cluster.replicas() > 1;
    let mut cluster_ids = Vec::new();
    for server in 0..cluster.servers() {
        let status = settled_status(cluster, server).await;
        assert_eq!(status["mode"], if is_replicated { "replicated" } else { "standalone" });
        assert_eq!(status["column_families"], serde_json::json!(["default"]));
        assert_eq!(status["cluster_id"].is_string(), is_replicated, "{status}");
        cluster_ids.push(status["cluster_id"].clone());
        if cluster.servers() > 1 {
            assert_eq!(status["node_id"], server);
        }
        for (place, replica) in status["replicas"].as_array().expect("a list").iter().enumerate() {
            assert_eq!(replica["id"], place, "{status}");
            assert_eq!(replica["thrift"], cluster.thrift(cluster.server_of(place)), "{status}");
            assert_eq!(replica["admin"], cluster.admin(cluster.server_of(place)), "{status}");
            if is_replicated {
                // The bootstrap record and 20 writes, one after the other.
                assert!(replica["applied"].as_u64() >= Some(21), "{status}");
            }
        }
    }
    assert!(cluster_ids.iter().all(|id| *id == cluster_ids[0]), "one cluster, one id: {cluster_ids:?}");
}

/// The status once the cluster is at rest: all replicas healthy, one primary, all logs equally long
/// and applied.
async fn settled_status(cluster: &impl TestCluster, server: usize) -> Value {
    eventually(&format!("server {server} shows a cluster at rest"), async || {
        let status = cluster.status(server).await?;
        let replicas = status["replicas"].as_array().expect("a list");
        let leaders = replicas.iter().filter(|replica| replica["role"] == "primary");
        let primaries: Vec<&Value> = leaders.map(|replica| &replica["id"]).collect();
        let mut figures =
            replicas.iter().flat_map(|replica| ["applied", "committed", "last_sequence"].map(|f| &replica[f]));
        let at_rest = figures.all(|figure| *figure == replicas[0]["applied"])
            && replicas.iter().all(|replica| replica["view"] == status["view"] && replica["reachable"] == true)
            && replicas.len() == cluster.replicas()
            && primaries == [&status["primary"]]
            && status["cluster_status"] == "healthy";
        if at_rest { Ok(status.clone()) } else { Err(status.to_string()) }
    })
    .await
}

/// Also while they change: a replica applies only committed entries, and its commit point is never
/// beyond its log.
async fn the_status_shows_figures_that_fit_together<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    for _ in 0..20 {
        load.more(10).await;
        for server in 0..cluster.servers() {
            let status = cluster.status(server).await.expect("a status");
            for replica in status["replicas"].as_array().expect("a list") {
                // A replica that has not reported yet has none.
                let figures = ["applied", "committed", "last_sequence"].map(|name| replica[name].as_u64());
                assert!(
                    figures.is_sorted() || figures.contains(&None),
                    "{figures:?} of {replica}, as {server} shows it"
                );
            }
        }
    }
    load.stop().await;
}

async fn the_metrics_count_what_happened<C: TestCluster>(cluster: &mut C) {
    let requests = |method: &str| format!("synodkv_requests_total{{method=\"{method}\"}}");
    let server = cluster.servers() - 1;
    let before = metrics(cluster, server).await;
    let client = cluster.client(server).await;
    for number in 0..25 {
        client.set(KeyRef::new(format!("key {number}")), "value").await.expect("set");
    }
    for number in 0..10 {
        client.get(KeyRef::new(format!("key {number}"))).await.expect("get");
    }
    client.get(KeyRef::new("")).await.expect_err("an empty key");
    let after = metrics(cluster, server).await;
    for (method, count) in [("setKey", 25.0), ("get", 11.0)] {
        let name = requests(method);
        let difference = after[&name] - before.get(&name).copied().unwrap_or(0.0);
        assert_eq!(difference, count, "{name}");
        let name = format!("synodkv_request_seconds_count{{method=\"{method}\"}}");
        assert_eq!(after[&name], after[&requests(method)], "every request has a latency");
    }
    assert_eq!(after["synodkv_request_errors_total{code=\"KEY_EMPTY\",method=\"get\"}"], 1.0);
    if cluster.replicas() == 1 {
        return;
    }
    cluster.assert_replicas_agree().await;
    eventually("one replica leads", async || match sum(cluster, "synodkv_is_primary", "").await {
        1.0 => Ok(()),
        leaders => Err(format!("{leaders} lead")),
    })
    .await;
    for replica in 0..cluster.replicas() {
        let label = format!("replica=\"{replica}\"");
        let executed = sum(cluster, "synodkv_requests_executed_total", &label).await;
        assert_eq!(executed, 25.0, "every replica applies every write once; replica {replica}");
        assert!(sum(cluster, "synodkv_fsyncs_total", &label).await > 0.0, "replica {replica} syncs its log");
        assert!(sum(cluster, "synodkv_view_changes_total", &label).await > 0.0, "there was an election");
    }
    // The metrics of the log are refreshed only periodically.
    eventually("25 writes, one after the other, took at least as many proposals", async || {
        match sum(cluster, "synodkv_proposals_total", "").await {
            25.0.. => Ok(()),
            fewer => Err(format!("{fewer} proposals")),
        }
    })
    .await;
}

async fn a_replica_without_a_majority_is_alive_and_not_ready<C: TestCluster>(cluster: &mut C) {
    let left = cluster.primary().await;
    for server in 0..cluster.servers() {
        if server != left {
            cluster.kill(server).await;
        }
    }
    let refused = cluster.is_ready(left).await.expect_err("nobody confirms a read point");
    assert!(refused.contains("503"), "{refused}");
    assert_eq!(http_get(&cluster.admin(left), "/health/live").await.expect("an answer").0, 200);
    eventually("the status says that the cluster does not work", async || {
        let status = cluster.status(left).await?;
        if status["cluster_status"] == "unhealthy" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    cluster.restart_all().await;
}

async fn the_status_shows_missing_replicas<C: TestCluster>(cluster: &mut C) {
    let gone = (cluster.primary().await + 1) % cluster.servers();
    cluster.kill(gone).await;
    let seen_by = cluster.running()[0];
    eventually("the status shows that one is unreachable", async || {
        let status = cluster.status(seen_by).await?;
        let replica = &status["replicas"][gone];
        let shown = replica["reachable"] == false && status["cluster_status"] == "degraded";
        if shown { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    cluster.restart(gone).await;
    eventually("the status shows that all are there again", async || {
        let status = cluster.status(seen_by).await?;
        if status["cluster_status"] == "healthy" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Runs a client command with the addresses of all servers.
fn command(cluster: &ProcessTestCluster, words: &[&str]) -> Output {
    let all = |address: &dyn Fn(usize) -> String| (0..cluster.servers()).map(address).collect::<Vec<_>>().join(",");
    let thrift = all(&|server| cluster.thrift(server));
    let admin = all(&|server| cluster.admin(server));
    let mut program = program();
    program.env("SYNODKV_ADDR", thrift).env("SYNODKV_ADMIN", admin).args(words);
    program.output().expect("the program runs")
}

#[track_caller]
fn printed(output: &Output, status: i32) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(status), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

async fn the_failover_command_finds_the_primary_and_says_what_it_did(cluster: &mut ProcessTestCluster) {
    let old = cluster.primary().await;
    let new = (old + 1) % 3;
    let asked = cluster.admin((old + 2) % 3);
    let said = printed(&command(cluster, &["failover", "--to", &new.to_string(), "--admin", &asked]), 0);
    assert!(said.starts_with(&format!("replica {new} leads now (view ")), "{said}");
    assert!(said.contains(&format!("and replica {old} follows; writes waited ")), "{said}");
    assert_eq!(cluster.primary().await, new);
    let said = printed(&command(cluster, &["failover", "--to", &new.to_string()]), 0);
    assert!(said.starts_with(&format!("replica {new} leads already")), "{said}");
    let json = printed(&command(cluster, &["failover", "--format", "json"]), 0);
    let done: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(done["old_primary"], new, "{json}");

    // The first address is that of a stopped server, and so is the replica that should lead.
    let leads = cluster.primary().await;
    let gone = (leads + 1) % 3;
    cluster.kill(gone).await;
    let addresses = format!("{},{}", cluster.admin(gone), cluster.admin((leads + 2) % 3));
    let refused = eventually("the primary misses the replica that is gone", async || {
        let words = ["failover", "--to", &gone.to_string(), "--admin", &addresses];
        let output = command(cluster, &words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(1) if error.contains("409") => Ok(error),
            code => Err(format!("{code:?} {error}")),
        }
    })
    .await;
    assert!(refused.contains(&format!("replica {gone} was not heard lately: start it")), "{refused}");
    assert_eq!(cluster.primary().await, leads);
}

async fn the_client_commands_work_with_any_server_that_is_left(cluster: &mut ProcessTestCluster) {
    printed(&command(cluster, &["set", "hello", "world"]), 0);
    for server in 0..cluster.servers() {
        let words = ["get", "hello", "--addr", &cluster.thrift(server)];
        assert_eq!(printed(&command(cluster, &words), 0), "world", "server {server}");
    }
    let primary = cluster.primary().await;
    cluster.kill(primary).await;
    assert_eq!(printed(&command(cluster, &["get", "hello"]), 0), "world");
    printed(&command(cluster, &["set", "hello", "again"]), 0);
    assert_eq!(printed(&command(cluster, &["get", "hello"]), 0), "again");
    assert_eq!(printed(&command(cluster, &["get", "nothing"]), 1), "");
    let next = cluster.primary().await;
    assert!(printed(&command(cluster, &["status"]), 0).contains(&format!("primary  replica {next}")));
    cluster.restart(primary).await;
    cluster.assert_replicas_agree().await;
    let verified = printed(&command(cluster, &["verify"]), 0);
    assert!(verified.contains("all replicas hold the same rows"), "{verified}");
}

async fn verify_agrees_under_load_and_fails_without_a_replica(cluster: &mut ProcessTestCluster) {
    let load = Load::on_all(cluster).await;
    load.more(100).await;
    for _ in 0..3 {
        let report = printed(&command(cluster, &["verify", "--format", "json", "--page", "50"]), 0);
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["agree"], true, "{report}");
        assert!(report["replicas"][2]["rows"].as_u64().is_some_and(|rows| rows >= 100), "{report}");
        load.more(50).await;
    }
    load.stop().await;
    let secondary = (cluster.primary().await + 1) % cluster.servers();
    cluster.kill(secondary).await;
    let report = printed(&command(cluster, &["verify"]), 3);
    assert!(report.contains("INCOMPLETE") && report.contains("not compared"), "{report}");
}
