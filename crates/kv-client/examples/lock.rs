//! A lock service. A lock has one holder, which renews it. If the holder falls silent, another one
//! takes over, without comparing the clocks of two machines. The lock guards a counter in the same
//! store; each holder increments it, and none of them is ever overtaken.
//!
//! ```sh
//! cargo run -p kv-client --example lock -- 127.0.0.1:9090
//! ```

use std::time::{Duration, Instant};

use kv_client::{ClientError, Database, Options, Transaction};

const LOCK: &str = "example/lock/printer";
const COUNTER: &str = "example/lock/printed";
/// A holder that has not renewed its lock for this long has lost it to whoever asks next.
const LEASE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
enum LockError {
    #[error("another one holds the lock now")]
    Lost,
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The record of a lock: its holder, and how often that one has renewed it.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    holder: String,
    renewals: u64,
}

async fn read(tx: &Transaction) -> Result<Option<Record>, ClientError> {
    let Some(text) = tx.get(LOCK).await? else { return Ok(None) };
    let text = String::from_utf8_lossy(&text).into_owned();
    let (holder, renewals) = text.rsplit_once(' ').expect("only this program writes it");
    Ok(Some(Record { holder: holder.to_string(), renewals: renewals.parse().expect("a number") }))
}

fn write(tx: &Transaction, holder: &str, renewals: u64) {
    tx.set(LOCK, format!("{holder} {renewals}"));
}

/// Waits until the lock is free, or its holder has been silent for [`LEASE`]. Only the waiter's own
/// clock counts: it watches the record stay the same.
async fn acquire(db: &Database, me: &str) -> Result<(), ClientError> {
    let mut seen: Option<(Record, Instant)> = None;
    loop {
        let silent = seen.as_ref().filter(|(_, since)| since.elapsed() > LEASE).map(|(record, _)| record.clone());
        let found = db
            .run(|tx| {
                let silent = silent.clone();
                async move {
                    let record = read(&tx).await?;
                    // Nobody holds it, or the holder has not renewed it since this waiter looked.
                    if record.is_none() || record == silent {
                        write(&tx, me, 0);
                        return Ok::<_, ClientError>(None);
                    }
                    Ok(record)
                }
            })
            .await?;
        let Some(found) = found else { return Ok(()) };
        if seen.as_ref().is_none_or(|(record, _)| *record != found) {
            seen = Some((found, Instant::now()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Checks that the lock is still ours, in the transaction that needs it: if another holder takes
/// over meanwhile, this transaction conflicts, and fails here when it runs again.
async fn held(tx: &Transaction, me: &str) -> Result<Record, LockError> {
    read(tx).await?.filter(|record| record.holder == me).ok_or(LockError::Lost)
}

async fn renew(db: &Database, me: &str) -> Result<(), LockError> {
    db.run(|tx| async move {
        let record = held(&tx, me).await?;
        write(&tx, me, record.renewals + 1);
        Ok(())
    })
    .await
}

async fn release(db: &Database, me: &str) -> Result<(), LockError> {
    db.run(|tx| async move {
        held(&tx, me).await?;
        tx.delete(LOCK);
        Ok(())
    })
    .await
}

/// The guarded work.
async fn print(db: &Database, me: &str) -> Result<u64, LockError> {
    db.run(|tx| async move {
        held(&tx, me).await?;
        let text = tx.get(COUNTER).await?.unwrap_or_default();
        let printed = String::from_utf8_lossy(&text).parse::<u64>().unwrap_or(0) + 1;
        tx.set(COUNTER, printed.to_string());
        Ok(printed)
    })
    .await
}

async fn work(db: Database, me: String) -> Result<(), LockError> {
    acquire(&db, &me).await?;
    for _ in 0..3 {
        let page = print(&db, &me).await?;
        println!("{me} printed page {page}");
        renew(&db, &me).await?;
    }
    if me == "worker 0" {
        println!("{me} falls silent, with the lock");
        return Ok(());
    }
    release(&db, &me).await
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;
    db.run(|tx| async move {
        tx.clear_prefix("example/lock/");
        Ok::<_, ClientError>(())
    })
    .await?;

    // The first holder never releases the lock.
    work(db.clone(), "worker 0".to_string()).await?;
    let since = Instant::now();
    let workers: Vec<_> = (1..4).map(|number| tokio::spawn(work(db.clone(), format!("worker {number}")))).collect();
    for worker in workers {
        worker.await.expect("a worker does not panic")?;
    }
    assert!(since.elapsed() >= LEASE, "nobody took the lock before its time");

    // The one that was silent finds out as soon as it wants to work again.
    let late = print(&db, "worker 0").await.expect_err("it has lost the lock");
    println!("worker 0: {late}");
    let pages = db.run(|tx| async move { tx.get(COUNTER).await }).await?;
    assert_eq!(pages.as_deref(), Some("12".as_bytes()), "four holders, three pages each");
    Ok(())
}
