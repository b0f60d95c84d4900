//! Tests of a witness: a voter that has the log, and no data.

use serde_json::Value;

use crate::harness::{Cluster, assert_exit, run, text};
use crate::load::{Load, client_of};
use crate::members::of_one;
use crate::waiting::eventually;

const WITNESS: usize = 2;

/// Two replicas with data, 0 and 1, and a witness.
async fn with_witness() -> (Cluster, Load) {
    let mut cluster = of_one().await;
    let load = Load::start(&cluster.servers[0]).await;
    load.goes_on().await;
    cluster.join(1).await;
    cluster.join_with(WITNESS, &["--witness"]).await;
    assert_exit(&cluster.cli(&["member", "promote", "1", "2"]), 0);
    all_vote(&cluster).await;
    (cluster, load)
}

async fn all_vote(cluster: &Cluster) {
    eventually("two with data and a witness vote", async || {
        for server in &cluster.servers {
            let status = server.status().await?;
            let mut roles: Vec<String> = status["replicas"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|replica| format!("{} {}", replica["id"], replica["role"].as_str().unwrap_or("")))
                .collect();
            roles.sort();
            if ![["0 primary", "1 secondary", "2 witness"], ["0 secondary", "1 primary", "2 witness"]]
                .iter()
                .any(|expected| roles == expected)
            {
                return Err(format!("{}: {roles:?}, {}", server.admin, status["problems"]));
            }
        }
        Ok(())
    })
    .await;
}

#[test]
fn a_witness_lets_either_of_two_replicas_go_on_alone() {
    run(async {
        let (mut cluster, load) = with_witness().await;
        for server in [0, 1, WITNESS, 0, 1] {
            cluster.servers[server].kill().await;
            load.goes_on().await;
            cluster.restart(server).await;
            all_vote(&cluster).await;
        }
        let verified = cluster.cli(&["verify", "--format", "json"]);
        assert_exit(&verified, 0);
        let report: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
        let rows = |place: usize| report["replicas"][place]["rows"].as_u64();
        assert_eq!(report["replicas"].as_array().map(Vec::len), Some(2), "a witness has no rows: {report}");
        assert!(rows(0) == rows(1) && rows(0) > Some(100), "{report}");
        let last = client_of(&cluster.servers[0]).await;
        load.end(&last).await;
    });
}

#[test]
fn what_only_the_witness_and_a_lost_replica_held_is_there_afterwards() {
    run(async {
        let (mut cluster, load) = with_witness().await;
        // The first one would found a cluster of its own with an empty directory, as its settings say.
        let (other, primary) = (0, 1);
        if cluster.primary().await == other {
            assert_exit(&cluster.cli(&["failover", "--to", "1"]), 0);
        }
        cluster.servers[other].kill().await;
        for _ in 0..5 {
            load.goes_on().await;
        }
        // Nobody but the witness has the writes of that time, and it has restarted meanwhile.
        cluster.servers[WITNESS].kill().await;
        cluster.restart(WITNESS).await;
        load.goes_on().await;
        cluster.servers[primary].kill().await;
        std::fs::remove_dir_all(&cluster.servers[primary].data_dir).expect("its data");
        cluster.restart(other).await;
        load.goes_on().await;
        cluster.restart(primary).await;
        all_vote(&cluster).await;
        let last = client_of(&cluster.servers[other]).await;
        load.end(&last).await;
    });
}

#[test]
fn a_witness_serves_nobody_never_leads_and_stays_what_it_is() {
    run(async {
        let (mut cluster, load) = with_witness().await;
        let witness = &cluster.servers[WITNESS];
        for command in [&["get", "k"][..], &["set", "k", "v"]] {
            let refused = witness.cli(command);
            assert!(!refused.status.success(), "{command:?}: {}", text(&refused.stdout));
        }
        let (code, body) = witness.get("/health/ready").await.expect("an answer");
        assert_eq!(code, 503, "{body}");
        assert_eq!(witness.get("/health/live").await.expect("an answer").0, 200);
        let refused = cluster.cli(&["failover", "--to", "2"]);
        assert_ne!(refused.status.code(), Some(0));
        assert!(text(&refused.stderr).contains("witness"), "{}", text(&refused.stderr));
        // A disk of data is none of a witness.
        assert!(cluster.servers[WITNESS].stop().await.success());
        let file = cluster.folder.path().join("2.toml");
        let written = std::fs::read_to_string(&file).expect("its configuration");
        std::fs::write(&file, written.replace("witness = true\n", "")).expect("it is written");
        cluster.servers[WITNESS].start();
        assert!(!cluster.servers[WITNESS].ended().await.success());
        let log = cluster.servers[WITNESS].log_text();
        assert!(log.contains("replica 2, a witness, in replicated mode"), "{log}");
        std::fs::write(&file, written).expect("it is written");
        // A lost one comes back by itself.
        std::fs::remove_dir_all(&cluster.servers[WITNESS].data_dir).expect("its data");
        cluster.restart(WITNESS).await;
        all_vote(&cluster).await;
        let members = cluster.cli(&["member", "list"]);
        assert!(text(&members.stdout).contains("witness"), "{}", text(&members.stdout));
        let last = client_of(&cluster.servers[0]).await;
        load.end(&last).await;
    });
}
