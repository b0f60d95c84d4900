//! A queue. Jobs are put in under versionstamped keys, so they are ordered by their commits.
//! Several workers take jobs out, each job by exactly one of them.
//!
//! ```sh
//! cargo run -p kv-client --example job_queue -- 127.0.0.1:9090
//! ```

use kv_client::{ClientError, Database, Options, Range, Stamped, Transaction};

const QUEUE: &str = "example/jobs/";
const JOBS: usize = 100;
const WORKERS: usize = 4;
/// Each worker chooses among this many jobs at the head of the queue, so that two workers seldom
/// want the same one.
const REACH: usize = 8;

/// Adds a job to the end of the queue. Its key is known once the transaction is committed.
fn put(tx: &Transaction, job: &str) {
    tx.set_versionstamped_key(Stamped::after(QUEUE), job);
}

/// Takes a job; returns `None` if the queue is empty.
async fn take(tx: &Transaction, worker: usize) -> Result<Option<String>, ClientError> {
    // A snapshot read causes no conflict: other workers may take the neighbouring jobs in the
    // meantime.
    let head = tx.snapshot().get_range(Range::prefix(QUEUE).limit(REACH)).all().await?;
    if head.is_empty() {
        return Ok(None);
    }
    let job = &head[worker % head.len()];
    // The job itself must conflict: if another worker takes it first, this transaction runs again.
    tx.add_read_conflict_key(&job.key);
    tx.delete(&job.key);
    Ok(Some(String::from_utf8_lossy(&job.value).into_owned()))
}

async fn work(db: Database, worker: usize) -> Result<Vec<String>, ClientError> {
    let mut done = Vec::new();
    while let Some(job) = db.run(|tx| async move { take(&tx, worker).await }).await? {
        done.push(job);
    }
    Ok(done)
}

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;
    db.run(|tx| async move {
        tx.clear_prefix(QUEUE);
        Ok::<_, ClientError>(())
    })
    .await?;

    let options = Options::default().transaction;
    let (_, committed) = db
        .run_with(options, |tx| async move {
            (0..JOBS).for_each(|number| put(&tx, &format!("job {number}")));
            Ok::<_, ClientError>(())
        })
        .await?;
    println!("{} jobs at version {}", committed.generated_keys.len(), committed.version);

    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(work(db.clone(), worker))).collect();
    let mut all = Vec::new();
    for (number, worker) in workers.into_iter().enumerate() {
        let done = worker.await.expect("a worker does not panic")?;
        println!("worker {number} did {} jobs", done.len());
        all.extend(done);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), JOBS, "every job is done, and by one worker");
    Ok(())
}
