//! Tests of clusters whose members change, as an operator changes them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_client::{ClientError, Database, Options, Transaction};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Cluster, Server, Setup, assert_exit, run, text};
use crate::ports::free_address;
use crate::waiting::eventually;

/// A cluster that begins with one replica.
async fn of_one() -> Cluster {
    let peer = vec![free_address()];
    let mut cluster = Cluster::with_peers(peer.clone(), &peer, Setup::default());
    cluster.servers[0].start();
    cluster.ready().await;
    cluster
}

impl Cluster {
    /// Makes a new machine an observer, and starts its server.
    async fn join(&mut self, id: usize) {
        assert_eq!(self.servers.len(), id);
        let (peer, thrift, admin) = (free_address(), free_address(), free_address());
        let (config, data) =
            (self.folder.path().join(format!("{id}.toml")), self.folder.path().join(format!("data-{id}")));
        let (id, file, dir) = (id.to_string(), config.display().to_string(), data.display().to_string());
        let place = ["--peer", &peer, "--thrift", &thrift, "--admin", &admin, "--config", &file, "--data-dir", &dir];
        let joined = self.cli(&[&["join", "--id", &id][..], &place].concat());
        assert_exit(&joined, 0);
        let mut server = Server::with_config(&config, &thrift, &admin, &data);
        server.start();
        server.live().await;
        self.servers.push(server);
    }

    async fn restart(&mut self, server: usize) {
        self.servers[server].start();
        self.servers[server].live().await;
    }

    /// Waits until these vote, one of them leads, and each of them says so.
    async fn voters_are(&self, expected: &[usize]) {
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

/// A client that is given one address, and soon learns of new members.
async fn client_of(server: &Server) -> Database {
    let options = Options { refresh_interval: Duration::from_millis(100), ..Options::default() };
    Database::connect([server.thrift.clone()], options).await.expect("a client")
}

/// Writers that go on whatever happens, and note what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicU64>,
    /// The last error.
    refusal: Arc<Mutex<String>>,
    writers: JoinSet<()>,
}

impl Load {
    async fn start(cluster: &Cluster) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            count: Arc::default(),
            refusal: Arc::default(),
            writers: JoinSet::new(),
        };
        for writer in 0..8 {
            let client = client_of(&cluster.servers[0]).await;
            let (stop, acknowledged, count) = (load.stop.clone(), load.acknowledged.clone(), load.count.clone());
            let refusal = load.refusal.clone();
            load.writers.spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("load/{writer}/{number}");
                    // A write whose outcome is unknown is just not noted.
                    let set = |tx: Transaction| {
                        let key = key.clone();
                        async move {
                            tx.set(&key, "value");
                            Ok::<_, ClientError>(())
                        }
                    };
                    match client.run(set).await {
                        Ok(()) => {
                            acknowledged.lock().expect("no panic").push(key);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => *refusal.lock().expect("no panic") = error.to_string(),
                    }
                }
            });
        }
        load
    }

    /// Waits until more writes were acknowledged.
    async fn goes_on(&self) {
        let before = self.count.load(Ordering::Relaxed);
        eventually("more writes are acknowledged", async || match self.count.load(Ordering::Relaxed) - before {
            more if more >= 50 => Ok(()),
            more => Err(format!("only {more}: {}", self.refusal.lock().expect("no panic"))),
        })
        .await;
    }

    /// Ends the writers, and checks that everything acknowledged is there.
    async fn end(mut self, client: &Database) {
        self.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock().expect("no panic"));
        let tx = client.transaction();
        for key in &acknowledged {
            let value = tx.get(key).await.expect("a value");
            assert_eq!(value.as_deref(), Some(&b"value"[..]), "{key} of {} acknowledged", acknowledged.len());
        }
    }
}

#[test]
fn a_cluster_grows_heals_and_shrinks_under_load_with_its_replicas_killed_in_turns() {
    run(async {
        let mut cluster = of_one().await;
        let load = Load::start(&cluster).await;
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
            let server = &mut cluster.servers[id];
            assert!(server.stop().await.success());
            let file = std::fs::read_to_string(&server.config).expect("a configuration");
            let own = file.find(&format!("[[replication.replicas]]\nid = {id}\n")).expect("its entry");
            let (before, entry) = file.split_at(own);
            let address = |name: &str| {
                let begin = entry.find(&format!("{name} = \"")).expect("an address") + name.len() + 4;
                entry[begin..].split('"').next().expect("a string").to_string()
            };
            let mut moved = entry.to_string();
            let (thrift, admin) = (free_address(), free_address());
            for (old, new) in [
                (address("peer"), free_address()),
                (address("thrift"), thrift.clone()),
                (address("admin"), admin.clone()),
            ] {
                moved = moved.replacen(&old, &new, 1);
            }
            std::fs::write(&server.config, format!("{before}{moved}")).expect("a configuration");
            if id == 2 {
                std::fs::remove_dir_all(&server.data_dir).expect("its data");
            }
            *server = Server::with_config(&server.config.clone(), &thrift, &admin, &server.data_dir.clone());
            cluster.restart(id).await;
            cluster.voters_are(&[0, 1, 2]).await;
            eventually("the cluster knows its address", async || {
                let status = cluster.servers[0].status().await?;
                if status["replicas"][id]["thrift"] == thrift { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
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
