//! Tests that a consumer of changes which is a process of its own, and is killed again and again, sees each
//! version once. It stores its position in the transaction in which it handles a batch.
//!
//! `SYNODKV_TEST_KILLS=1000` kills it a thousand times; see docs/TESTING.md.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kv_client::{ClientError, Database, Effect, KeyRef, Options, Range, Start, Transaction, Version, prefix_range};
use rand::random_range;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{Cluster, Setup, run};
use crate::waiting::eventually;

/// Tells the process of a consumer where its server is.
const ADDRESS: &str = "SYNODKV_TEST_CONSUMER";
/// The writer is at most this far ahead of what is handled, so that the end of the feed is met, too.
const AHEAD: u64 = 200;

fn kills() -> u32 {
    std::env::var("SYNODKV_TEST_KILLS").map_or(100, |text| text.parse().expect("a number of kills"))
}

async fn database(address: &str) -> Database {
    let options = Options { request_timeout: Duration::from_secs(20), ..Options::default() };
    Database::connect([address.to_string()], options).await.expect("a server answers")
}

/// Counts each version, in the consumer's transaction, in a row that is named after it. Says on standard
/// output when a batch comes and when the next one shows that it was committed.
async fn consume(address: &str) {
    let db = database(address).await;
    let consumer = db.changes(KeyRef::new("position"), vec![prefix_range("", b"k/")]);
    let consumer = consumer.start(Start::After(Version::EMPTY)).max_bytes(200);
    let ended = consumer.run(|batch, tx| async move {
        for change in &batch.changes {
            let [effect] = &change.effects[..] else { panic!("one row for each version: {change:?}") };
            assert!(matches!(effect.effect, Effect::Set { .. }), "{effect:?}");
            tx.add(format!("seen/{:016x}", change.version.0), 1u32.to_le_bytes());
            tx.add("total", 1u64.to_le_bytes());
        }
        let mut out = std::io::stdout();
        writeln!(out, "batch through {}", batch.through).and_then(|()| out.flush()).expect("somebody reads");
        Ok::<(), ClientError>(())
    });
    match ended.await {
        Err(error) => panic!("{error}"),
        Ok(never) => match never {},
    }
}

/// The process of a consumer; nothing else runs this.
#[test]
#[ignore = "a part of the other test, which starts it"]
fn consumer_process() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    run(consume(&address));
}

fn start_consumer(address: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "consumers::consumer_process", "--ignored", "--nocapture"]).env(ADDRESS, address);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts")
}

/// Writes a row, and so a version, at a time, until it has to stop. Returns how many.
async fn write(db: Database, stop: Arc<AtomicBool>, handled: Arc<AtomicU64>) -> u64 {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        if number > handled.load(Ordering::Relaxed) + AHEAD {
            tokio::task::yield_now().await;
            handled.store(count(&db, "total").await, Ordering::Relaxed);
            continue;
        }
        number += 1;
        let key = &format!("k/{number:08}");
        let set = db.run(|tx| async move {
            tx.set(key, "v");
            Ok::<_, ClientError>(())
        });
        set.await.expect("the cluster works");
    }
    number
}

async fn count(db: &Database, key: &str) -> u64 {
    let value = db.run(|tx| async move { tx.get(key).await }).await.expect("a read").unwrap_or_default();
    let mut bytes = [0; 8];
    bytes[..value.len()].copy_from_slice(&value);
    u64::from_le_bytes(bytes)
}

/// How often each version was handled.
async fn seen(db: &Database) -> BTreeMap<Vec<u8>, u32> {
    let tx: Transaction = db.transaction();
    let rows = tx.get_range(Range::prefix("seen/")).all().await.expect("rows");
    rows.into_iter()
        .map(|row| (row.key.to_vec(), u32::from_le_bytes(row.value[..].try_into().expect("a counter"))))
        .collect()
}

#[test]
fn a_process_that_is_killed_again_and_again_handles_each_version_once_at_any_replica() {
    let kills = kills();
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        let addresses: Vec<String> = cluster.servers.iter().map(|server| server.thrift.clone()).collect();
        let (stop, handled) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writing = tokio::spawn(write(database(&addresses[0]).await, stop.clone(), handled));
        let began = Instant::now();
        let mut batches = 0;
        for _ in 0..kills {
            let mut consumer = start_consumer(&addresses[random_range(0..3)]);
            let mut lines = BufReader::new(consumer.stdout.take().expect("piped")).lines();
            // Some die before their first batch; the others while one of the first is being committed, or just after.
            let mut left = random_range(0..5);
            while left > 0 {
                let line = lines.next_line().await.expect("a pipe").expect("it ends only when it is killed");
                left -= u32::from(line.starts_with("batch"));
                batches += u32::from(line.starts_with("batch"));
            }
            let end = Instant::now() + Duration::from_micros(random_range(0..4_000));
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            consumer.kill().await.expect("it runs");
        }
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        let written = writing.await.expect("no panic");
        let db = database(&addresses[1]).await;
        let last = start_consumer(&addresses[2]);
        eventually("everything is handled", async || match count(&db, "total").await {
            total if total >= written => Ok(()),
            total => Err(format!("{total} of {written}")),
        })
        .await;
        drop(last);
        let seen = seen(&db).await;
        let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
        assert!(twice.is_empty(), "handled another number of times than once: {twice:?}");
        assert_eq!(seen.len() as u64, written, "versions that were handled, and rows that were written");
        assert_eq!(count(&db, "total").await, written, "the sum of all");
        println!(
            "{kills} kills, {batches} batches, {written} versions, each handled once; {:.1} s",
            took.as_secs_f64()
        );
    });
}
