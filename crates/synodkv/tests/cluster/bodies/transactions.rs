//! Tests of the client library's transactions against real servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kv_client::{Bytes, ClientError, Database, KeySelector, Range, Stamped, Transaction};
use tokio::task::JoinSet;

use crate::cluster::{Settings, TestCluster};
use crate::on_clusters;

on_clusters! {
    a_transaction_commits_what_it_read_of_its_own_writes(Settings::default()): standalone, tcp;
    transactions_happen_once_whichever_replicas_are_killed(Settings::default()): in_memory, processes;
    every_job_of_a_queue_is_taken_by_one_worker_in_order(Settings::default()): standalone, in_memory, processes;
    a_range_is_streamed_from_all_replicas_at_one_version(Settings::default()): standalone, processes;
}

/// Repeatable choices (an LCG with the constants of Knuth's MMIX).
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn key(&mut self) -> String {
        format!("self/{:02}", self.below(20))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.below(4);
        (0..length).map(|_| [0, 1, 0x7F, 0xFF][self.below(4)]).collect()
    }
}

fn change_something(tx: &Transaction, choices: &mut Choices) {
    let (key, operand) = (choices.key(), choices.bytes());
    match choices.below(16) {
        0..=2 => tx.set(key, operand),
        3 => tx.delete(key),
        4 => tx.clear_range(key, choices.key()),
        5 => tx.add(key, operand),
        6 => tx.min(key, operand),
        7 => tx.max(key, operand),
        8 => tx.byte_min(key, operand),
        9 => tx.byte_max(key, operand),
        10 => tx.bit_and(key, operand),
        11 => tx.bit_or(key, operand),
        12 => tx.bit_xor(key, operand),
        13 => tx.append_if_fits(key, operand),
        _ => tx.compare_and_clear(key, operand),
    }
}

async fn everything(tx: &Transaction) -> Result<Vec<(Bytes, Bytes)>, ClientError> {
    let forward = tx.get_range(Range::prefix("self/")).all().await?;
    let mut backward = tx.get_range(Range::prefix("self/").reverse()).all().await?;
    backward.reverse();
    assert_eq!(forward, backward);
    Ok(forward.into_iter().map(|row| (row.key, row.value)).collect())
}

async fn a_transaction_commits_what_it_read_of_its_own_writes<C: TestCluster>(cluster: &mut C) {
    let db = cluster.database().await;
    let mut choices = Choices(1);
    for round in 0..60 {
        let tx = db.transaction();
        (0..choices.below(12)).for_each(|_| change_something(&tx, &mut choices));
        let before = everything(&tx).await.expect("rows");
        let selector = KeySelector::first_greater_than(choices.key()).offset_by(choices.below(5) as i32 - 2);
        let key = tx.get_key(&selector).await.expect("an answer");
        tx.commit().await.expect("nobody else writes here");
        let after = db.transaction();
        assert_eq!(everything(&after).await.expect("rows"), before, "round {round}");
        assert_eq!(after.get_key(&selector).await.expect("an answer"), key, "round {round}: {selector:?}");
    }
}

/// Blind additions would show every commit that happened twice, and transfers every one that was
/// lost or half applied.
async fn transactions_happen_once_whichever_replicas_are_killed<C: TestCluster>(cluster: &mut C) {
    const ACCOUNTS: usize = 8;
    let db = cluster.database().await;
    let added = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let (db, added, stopped) = (db.clone(), added.clone(), stopped.clone());
        tasks.spawn(async move {
            let mut choices = Choices(task);
            while !*stopped.borrow() {
                let (from, to) = (choices.below(ACCOUNTS), choices.below(ACCOUNTS));
                // No failure of the cluster may reach these transactions.
                db.run(|tx| async move {
                    tx.add("added", 1u64.to_le_bytes());
                    Ok::<_, ClientError>(())
                })
                .await
                .expect("an addition");
                added.fetch_add(1, Ordering::SeqCst);
                db.run(|tx| async move { transfer(&tx, from, to).await }).await.expect("a transfer");
            }
        });
    }
    for _ in 0..2 {
        more(&added, 50).await;
        let primary = cluster.primary().await;
        cluster.kill(primary).await;
        more(&added, 50).await;
        cluster.restart(primary).await;
        cluster.ready().await;
    }
    more(&added, 50).await;
    stop.send_replace(true);
    tasks.join_all().await;

    let tx = db.transaction();
    assert_eq!(number(tx.get("added").await.expect("a value")), added.load(Ordering::SeqCst) as i64);
    let rows = tx.get_range(Range::prefix("account/")).all().await.expect("rows");
    assert_eq!(rows.into_iter().map(|row| number(Some(row.value))).sum::<i64>(), 0);
    cluster.assert_replicas_agree().await;
}

fn number(value: Option<Bytes>) -> i64 {
    value.map_or(0, |bytes| i64::from_le_bytes(bytes[..].try_into().expect("numbers of eight bytes")))
}

async fn transfer(tx: &Transaction, from: usize, to: usize) -> Result<(), ClientError> {
    let key = |account: usize| format!("account/{account}");
    let left = number(tx.get(key(from)).await?);
    tx.set(key(from), (left - 1).to_le_bytes());
    // Sees its own write if both accounts are the same.
    let right = number(tx.get(key(to)).await?);
    tx.set(key(to), (right + 1).to_le_bytes());
    Ok(())
}

async fn more(count: &AtomicU64, amount: u64) {
    let enough = count.load(Ordering::SeqCst) + amount;
    crate::waiting::eventually("work goes on", async || {
        let now = count.load(Ordering::SeqCst);
        if now >= enough { Ok(()) } else { Err(format!("{now} of {enough}")) }
    })
    .await;
}

async fn every_job_of_a_queue_is_taken_by_one_worker_in_order<C: TestCluster>(cluster: &mut C) {
    const PRODUCERS: usize = 3;
    const JOBS: usize = 30;
    let db = cluster.database().await;
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        let db = db.clone();
        producers.spawn(async move {
            for job in 0..JOBS {
                let name = format!("{producer} {job:03}");
                db.run(|tx| {
                    tx.set_versionstamped_key(Stamped::after("jobs/"), name.clone());
                    async { Ok::<_, ClientError>(()) }
                })
                .await
                .expect("a job is put in");
            }
        });
    }
    let mut workers = JoinSet::new();
    for _ in 0..3 {
        workers.spawn(work(db.clone(), PRODUCERS * JOBS));
    }
    producers.join_all().await;
    let taken: BTreeMap<Bytes, String> = workers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), PRODUCERS * JOBS, "no job is taken twice");
    // Keys are in the order of commits, so each producer's jobs are in the order in which it put
    // them in.
    for producer in 0..PRODUCERS {
        let own: Vec<&String> = taken.values().filter(|name| name.starts_with(&format!("{producer} "))).collect();
        let expected: Vec<String> = (0..JOBS).map(|job| format!("{producer} {job:03}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

/// Takes jobs from the head of the queue until all workers together have taken `all` jobs.
async fn work(db: Database, all: usize) -> Vec<(Bytes, String)> {
    let mut taken = Vec::new();
    loop {
        let (job, done) = db
            .run(|tx| async move {
                let done = number(tx.get("done").await?) as usize;
                let Some(job) = tx.get_range(Range::prefix("jobs/").limit(1)).next().await? else {
                    return Ok((None, done));
                };
                tx.delete(&job.key);
                tx.set("done", (done as i64 + 1).to_le_bytes());
                Ok::<_, ClientError>((Some(job), done + 1))
            })
            .await
            .expect("a look at the queue");
        taken.extend(job.map(|job| (job.key, String::from_utf8_lossy(&job.value).into_owned())));
        if done == all {
            return taken;
        }
    }
}

async fn a_range_is_streamed_from_all_replicas_at_one_version<C: TestCluster>(cluster: &mut C) {
    const ROWS: usize = 3_000;
    let db = cluster.database().await;
    let (db_ref, key) = (&db, |row: usize| format!("row/{row:05}"));
    let fill = async |value: u8| {
        for batch in (0..ROWS).step_by(500) {
            db_ref
                .run(async |tx| {
                    (batch..batch + 500).for_each(|row| tx.set(key(row), vec![value; 500]));
                    Ok::<_, ClientError>(())
                })
                .await
                .expect("rows are written");
        }
    };
    fill(1).await;
    let tx = db.transaction();
    tx.read_version().await.expect("a version");
    fill(2).await;
    tx.clear_range(key(1_000), key(2_000));
    for is_reverse in [false, true] {
        let range = if is_reverse { Range::prefix("row/").reverse() } else { Range::prefix("row/") };
        let rows = tx.get_range(range).all().await.expect("rows");
        assert_eq!(rows.len(), ROWS - 1_000);
        assert!(rows.iter().all(|row| row.value[0] == 1), "nothing that came after its version");
        let first = if is_reverse { key(ROWS - 1) } else { key(0) };
        assert_eq!(rows[0].key, first);
    }
    let error = tx.commit().await.expect_err("what it has read was written since");
    assert!(error.is_retryable() && !error.maybe_committed());
}
