//! Tests of clusters whose members change, as an operator changes them.

use serde_json::{Value, json};

use crate::harness::{Cluster, Server, Setup, assert_exit, run, text};
use crate::load::{Load, client_of};
use crate::ports::free_address;
use crate::waiting::eventually;

/// A cluster that begins with one replica.
pub async fn of_one() -> Cluster {
    let peer = vec![free_address()];
    let mut cluster = Cluster::with_peers(peer.clone(), &peer, Setup::default());
    cluster.servers[0].start();
    cluster.ready().await;
    cluster
}

impl Cluster {
    /// Makes a new machine an observer, and starts its server.
    pub async fn join(&mut self, id: usize) {
        self.join_with(id, &[]).await;
    }

    /// The same, with more options of `join`.
    pub async fn join_with(&mut self, id: usize, options: &[&str]) {
        assert_eq!(self.servers.len(), id);
        let (peer, thrift, admin) = (free_address(), free_address(), free_address());
        let (config, data) =
            (self.folder.path().join(format!("{id}.toml")), self.folder.path().join(format!("data-{id}")));
        let (id, file, dir) = (id.to_string(), config.display().to_string(), data.display().to_string());
        let place = ["--peer", &peer, "--thrift", &thrift, "--admin", &admin, "--config", &file, "--data-dir", &dir];
        let joined = self.cli(&[&["join", "--id", &id][..], &place, options].concat());
        assert_exit(&joined, 0);
        let mut server = Server::with_config(&config, &thrift, &admin, &data);
        server.start();
        server.live().await;
        self.servers.push(server);
    }

    pub async fn restart(&mut self, server: usize) {
        self.servers[server].start();
        self.servers[server].live().await;
    }

    /// Waits until these vote, one of them leads, and each of them says so.
    pub async fn voters_are(&self, expected: &[usize]) {
        eventually(&format!("{expected:?} vote"), async || {
            for server in expected {
                let status = self.servers[*server].status().await?;
                let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
                let votes =
                    |replica: &&Value| ["primary", "secondary"].contains(&replica["role"].as_str().unwrap_or(""));
                let voters: Vec<u64> =
                    replicas.iter().filter(votes).filter_map(|replica| replica["id"].as_u64()).collect();
                if !voters.iter().eq(expected.iter().map(|id| *id as u64).collect::<Vec<_>>().iter()) {
                    return Err(format!("as server {server} sees it: {voters:?}; {}", status["problems"]));
                }
            }
            Ok(())
        })
        .await;
    }
}

#[test]
fn a_cluster_grows_heals_and_shrinks_under_load_with_its_replicas_killed_in_turns() {
    run(async {
        let mut cluster = of_one().await;
        let load = Load::start(&cluster.servers[0]).await;
        load.goes_on().await;
        cluster.join(1).await;
        cluster.join(2).await;
        assert_exit(&cluster.cli(&["member", "promote", "1", "2"]), 0);
        cluster.voters_are(&[0, 1, 2]).await;
        // Each of the three is gone for a while.
        for server in 0..3 {
            cluster.servers[server].kill().await;
            load.goes_on().await;
            cluster.restart(server).await;
            cluster.voters_are(&[0, 1, 2]).await;
        }
        cluster.join(3).await;
        cluster.join(4).await;
        assert_exit(&cluster.cli(&["member", "promote", "3", "4"]), 0);
        cluster.voters_are(&[0, 1, 2, 3, 4]).await;
        // One loses its disk, and another one is killed meanwhile.
        let primary = cluster.primary().await;
        let [wiped, killed] = [1, 2].map(|step| (primary + step) % 5);
        cluster.servers[wiped].kill().await;
        std::fs::remove_dir_all(&cluster.servers[wiped].data_dir).expect("its data");
        cluster.restart(wiped).await;
        cluster.servers[killed].kill().await;
        load.goes_on().await;
        cluster.restart(killed).await;
        cluster.voters_are(&[0, 1, 2, 3, 4]).await;
        let epoch = cluster.servers[0].status().await.expect("a status")["epoch"].clone();
        // Four observers, two promotions, and the disk.
        assert_eq!(epoch, 8);
        // The first three go, the primary among them or not.
        assert_exit(&cluster.cli(&["member", "remove", "0", "1"]), 0);
        cluster.voters_are(&[2, 3, 4]).await;
        load.goes_on().await;
        assert_exit(&cluster.cli(&["member", "remove", "2", "3"]), 0);
        cluster.voters_are(&[4]).await;
        load.goes_on().await;
        for server in 0..4 {
            let removed = eventually("a removed replica may be stopped", async || {
                let status = cluster.servers[server].status().await?;
                let problems = status["problems"].as_array().cloned().unwrap_or_default();
                let removed = problems.into_iter().find(|problem| problem["kind"] == "removed");
                let may_stop =
                    |problem: &Value| problem["remedy"].as_str().is_some_and(|text| text.contains("stop its server"));
                removed.filter(|problem| may_stop(problem)).ok_or_else(|| format!("{status}"))
            });
            removed.await;
            assert!(cluster.servers[server].stop().await.success());
        }
        let last = client_of(&cluster.servers[4]).await;
        load.end(&last).await;
    });
}

#[test]
fn a_removed_replica_names_the_members_and_changes_are_compared_and_set() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        cluster.primary().await;
        // The others report a few times a second that they have applied the feature level.
        eventually("all voters have reported", async || {
            let dry = cluster.cli(&["member", "remove", "1", "2", "--dry-run", "--format", "json"]);
            let checks: Value = serde_json::from_slice(&dry.stdout).map_err(|_| text(&dry.stderr))?;
            if dry.status.success() && checks["allowed"] == true { Ok(()) } else { Err(checks.to_string()) }
        })
        .await;
        let even = cluster.cli(&["member", "remove", "2", "--dry-run"]);
        assert_exit(&even, 1);
        assert!(text(&even.stdout).contains("2 members would vote"), "{}", text(&even.stdout));
        // Another epoch than the present one.
        let client = crate::harness::http_client().build().expect("a client");
        let members: Vec<Value> = (0..3).map(|id| json!({"id": id, "role": "voter"})).collect();
        let primary = cluster.primary().await;
        let late = client.post(format!("http://{}/members", cluster.servers[primary].admin));
        let late =
            late.body(json!({"expected_epoch": 7, "members": members}).to_string()).send().await.expect("an answer");
        assert_eq!(late.status(), 409);
        let answer: Value = serde_json::from_str(&late.text().await.expect("a body")).expect("JSON");
        assert_eq!(answer["present"]["epoch"], 1, "{answer}");
        let leaving = (primary + 1) % 3;
        let (gone, other) = (leaving.to_string(), ((primary + 2) % 3).to_string());
        assert_exit(&cluster.cli(&["member", "demote", &other, "--force"]), 0);
        assert_exit(&cluster.cli(&["member", "remove", &gone]), 0);
        cluster.voters_are(&[primary]).await;
        let refused = eventually("the removed replica knows", async || {
            let refused = cluster.servers[leaving].cli(&["set", "k", "v"]);
            let said = text(&refused.stderr);
            if said.contains("no member of the cluster any more") { Ok(said) } else { Err(said) }
        })
        .await;
        assert!(refused.contains(&cluster.servers[primary].thrift), "{refused}");
        // Its server stays one that observes and serves.
        cluster.servers[(primary + 2) % 3].ready().await;
        cluster.servers[leaving].kill().await;
    });
}

#[test]
fn a_member_whose_addresses_change_is_found_again_and_its_disk_may_be_lost_meanwhile() {
    run(async {
        let mut cluster = of_one().await;
        cluster.join(1).await;
        cluster.join(2).await;
        assert_exit(&cluster.cli(&["member", "promote", "1", "2"]), 0);
        cluster.voters_are(&[0, 1, 2]).await;
        for id in 1..3 {
            assert!(cluster.servers[id].stop().await.success());
            cluster.servers[id].take_new_addresses(id);
            if id == 2 {
                std::fs::remove_dir_all(&cluster.servers[id].data_dir).expect("its data");
            }
            cluster.restart(id).await;
            cluster.voters_are(&[0, 1, 2]).await;
            cluster.servers[0].knows_where_it_is(&cluster.servers[id], id).await;
        }
        // The two that moved make up a majority.
        cluster.servers[0].kill().await;
        eventually("they serve", async || {
            let set = cluster.servers[1].cli(&["set", "k", "v"]);
            if set.status.success() { Ok(()) } else { Err(text(&set.stderr)) }
        })
        .await;
    });
}
