//! Tests that a consumer of changes sees each version once, whatever is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_client::{
    Change, ChangesRequest, Client, ClientError, Database, Effect, KeyRef, Options, Start, Version, prefix_range,
};

use crate::harness::{Cluster, ENGINE, Server, Setup, assert_exit, run, text};
use crate::waiting::eventually;

fn options() -> Options {
    Options { request_timeout: Duration::from_secs(20), ..Options::default() }
}

async fn database(cluster: &Cluster) -> Database {
    let addresses = cluster.servers.iter().map(|server| server.thrift.clone());
    Database::connect(addresses, options()).await.expect("a server answers")
}

/// Writes numbered rows `k/N` until it is told to stop; returns how many.
async fn write(db: Database, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) -> u64 {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = &format!("k/{number:08}");
        let set = db.run(|tx| async move {
            tx.set(key, "v");
            Ok::<_, ClientError>(())
        });
        set.await.expect("a majority comes back");
        written.store(number, Ordering::Relaxed);
    }
    number
}

/// Counts each change in a row of its own, in the consumer's transaction.
async fn consume(db: Database) -> ClientError {
    let consumer = db.changes(KeyRef::new("position"), vec![prefix_range("", b"k/")]);
    let consumer = consumer.start(Start::After(Version::EMPTY));
    let ended = consumer.run(|batch, tx| async move {
        for effect in batch.changes.iter().flat_map(|change| &change.effects) {
            let Effect::Set { key, .. } = &effect.effect else { panic!("nothing else happens: {effect:?}") };
            tx.add([&b"seen/"[..], &key[2..]].concat(), 1u32.to_le_bytes());
            tx.add("total", 1u64.to_le_bytes());
        }
        Ok::<(), ClientError>(())
    });
    match ended.await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn number(db: &Database, key: &str) -> u64 {
    let value = db.run(|tx| async move { tx.get(key).await }).await.expect("a read").unwrap_or_default();
    let mut bytes = [0; 8];
    bytes[..value.len()].copy_from_slice(&value);
    u64::from_le_bytes(bytes)
}

/// All changes that one server tells.
async fn told_by(server: &Server, after: u64, through: u64) -> Result<Vec<Change>, String> {
    let client = Client::connect([server.thrift.clone()], options()).await.map_err(|error| error.to_string())?;
    let mut request = ChangesRequest::after(Version(after), Vec::new());
    request.max_wait = Duration::from_secs(1);
    let mut changes = Vec::new();
    while request.after < Version(through) {
        let batch = client.poll_changes(&request).await.map_err(|error| error.to_string())?;
        if batch.through == request.after {
            return Err(format!("it stands at {}", batch.through));
        }
        changes.extend(batch.changes);
        request.after = batch.through;
    }
    changes.retain(|change| change.version <= Version(through));
    Ok(changes)
}

#[test]
fn a_consumer_handles_each_version_once_while_it_and_the_replicas_are_killed() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writing = tokio::spawn(write(database(&cluster).await, stop.clone(), written.clone()));
        for round in 0..6usize {
            // Two at a time: they exclude each other.
            let consumers = [(); 2].map(|()| cluster.servers.iter().map(|server| server.thrift.clone()));
            let mut running = Vec::new();
            for addresses in consumers {
                let db = Database::connect(addresses, options()).await.expect("a server answers");
                running.push(tokio::spawn(consume(db)));
            }
            let victim = round % 3;
            cluster.servers[victim].kill().await;
            let before = written.load(Ordering::Relaxed);
            eventually("writing goes on", async || match written.load(Ordering::Relaxed) {
                now if now > before + 20 => Ok(()),
                now => Err(format!("{now} after {before}")),
            })
            .await;
            cluster.servers[victim].start();
            cluster.servers[victim].live().await;
            // Wherever they are: a killed process stops just as suddenly.
            running.iter().for_each(tokio::task::JoinHandle::abort);
        }
        stop.store(true, Ordering::Relaxed);
        let count = writing.await.expect("no panic");
        cluster.ready().await;
        let db = database(&cluster).await;
        let last = tokio::spawn(consume(database(&cluster).await));
        eventually("everything is handled", async || match number(&db, "total").await {
            total if total >= count => Ok(()),
            total => Err(format!("{total} of {count}")),
        })
        .await;
        last.abort();
        assert_eq!(number(&db, "total").await, count, "some version was handled twice");
        for row in 1..=count {
            assert_eq!(number(&db, &format!("seen/{row:08}")).await, 1, "row {row} of {count}");
        }
        // Every replica tells the same, whatever became of it meanwhile.
        let newest = db.run(|tx| async move { tx.read_version().await }).await.expect("a version").0;
        let mut told = Vec::new();
        for server in &cluster.servers {
            told.push(eventually("a replica tells everything", async || told_by(server, 1, newest).await).await);
        }
        let versions: Vec<u64> = told[0].iter().map(|change| change.version.0).collect();
        assert_eq!(versions, (2..=newest).collect::<Vec<_>>(), "each of them changed a row");
        assert!(told.iter().all(|other| *other == told[0]), "the replicas differ");
    });
}

#[test]
fn a_standalone_server_that_is_killed_tells_what_it_wrote_and_nothing_else() {
    if ENGINE == "memory" {
        return;
    }
    run(async {
        let mut server = Server::standalone(Setup::default()).await;
        let mut rows = BTreeMap::new();
        for round in 0..4 {
            let db = Database::connect([server.thrift.clone()], options()).await.expect("it answers");
            let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
            let writing = tokio::spawn(write(db, stop.clone(), written.clone()));
            eventually("rows are written", async || match written.load(Ordering::Relaxed) {
                30.. => Ok(()),
                few => Err(few.to_string()),
            })
            .await;
            server.kill().await;
            server.start();
            server.live().await;
            stop.store(true, Ordering::Relaxed);
            writing.await.expect("no panic");
            let client = Client::connect([server.thrift.clone()], options()).await.expect("it answers");
            let newest = client.read_version().await.expect("a version").0;
            let changes = eventually("it tells everything", async || told_by(&server, 1, newest).await).await;
            let versions: Vec<u64> = changes.iter().map(|change| change.version.0).collect();
            assert_eq!(versions, (2..=newest).collect::<Vec<_>>(), "round {round}");
            rows.clear();
            for effect in changes.iter().flat_map(|change| &change.effects) {
                let Effect::Set { key, value } = &effect.effect else { panic!("{effect:?}") };
                rows.insert(text(key), text(value));
            }
            let found = text(&server.cli(&["range", "--limit", "0"]).stdout);
            let expected: String = rows.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
            assert_eq!(found, expected, "round {round}");
        }
    });
}

#[test]
fn the_command_watches_and_says_what_is_too_old() {
    run(async {
        let small = "[changes]\nmax_mb = 1\n[storage]\nreadable_window_ms = 1000\n";
        let mut cluster = Cluster::start(Setup::toml(small)).await;
        assert_exit(&cluster.cli(&["set", "a", "1"]), 0);
        assert_exit(&cluster.cli(&["txn", "-e", "clear a b", "-e", "set n x"]), 0);
        let output = cluster.cli(&["watch", "--after", "1", "--count", "2"]);
        assert_exit(&output, 0);
        assert_eq!(text(&output.stdout), "2\tset\ta\t1\n3\tclear\ta\tb\n3\tset\tn\tx\n");
        let output = cluster.cli(&["watch", "--after", "1", "--count", "1", "--prefix", "n", "--format", "json"]);
        assert!(text(&output.stdout).contains(r#""version":3"#), "{}", text(&output.stdout));
        let value = "v".repeat(90_000);
        for number in 0..40 {
            assert_exit(&cluster.cli(&["set", &format!("k{number}"), &value]), 0);
        }
        // Every server forgets; one of them is down.
        cluster.servers[0].kill().await;
        let output = cluster.cli(&["watch", "--after", "1", "--timeout-seconds", "3"]);
        assert_exit(&output, 1);
        let error = text(&output.stderr);
        assert!(
            error.contains("the changes after version 1 are not kept any more") && error.contains("--after"),
            "{error}"
        );
    });
}
