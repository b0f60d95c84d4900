//! Writers under all that happens to servers, and a check of everything that was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_client::{ClientError, Database, Options, Transaction};
use tokio::task::JoinSet;

use crate::harness::Server;
use crate::waiting::eventually;

/// Keys that are read in one transaction.
const READ_AT_ONCE: usize = 100;

/// A client that is given one address, and soon learns of new members.
pub async fn client_of(server: &Server) -> Database {
    let options = Options { refresh_interval: Duration::from_millis(100), ..Options::default() };
    Database::connect([server.thrift.clone()], options).await.expect("a client")
}

/// Writers that never give up, and note each acknowledged key.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicU64>,
    /// The last error.
    refusal: Arc<Mutex<String>>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts them, with the addresses of this server alone.
    pub async fn start(server: &Server) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            count: Arc::default(),
            refusal: Arc::default(),
            writers: JoinSet::new(),
        };
        for writer in 0..8 {
            let client = client_of(server).await;
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
    pub async fn goes_on(&self) {
        let before = self.count.load(Ordering::Relaxed);
        eventually("more writes are acknowledged", async || match self.count.load(Ordering::Relaxed) - before {
            more if more >= 50 => Ok(()),
            more => Err(format!("only {more}: {}", self.refusal.lock().expect("no panic"))),
        })
        .await;
    }

    /// Ends the writers, and checks that everything acknowledged is there.
    pub async fn end(mut self, client: &Database) {
        self.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock().expect("no panic"));
        // A transaction has a deadline, so each reads only some.
        for keys in acknowledged.chunks(READ_AT_ONCE) {
            let tx = client.transaction();
            for key in keys {
                let value = tx.get(key).await.expect("a value");
                assert_eq!(value.as_deref(), Some(&b"value"[..]), "{key} of {} acknowledged", acknowledged.len());
            }
        }
    }
}
