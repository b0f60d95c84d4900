//! The programs of a run: transactions of all kinds, and single requests in between.

use std::cell::{Cell, RefCell};

use kv_client::{Client, ClientError, Database, KeyRef, Range, Transaction, TransactionOptions};

use super::TIMEOUT;
use super::history::{History, Outcome, token};
use super::trouble::Draw;
use crate::store::{Map, Store};

const KEYS: u64 = 12;
const CALLS: usize = 5;

pub struct Program {
    db: Database,
    client: Client,
    store: Store,
    history: History,
    draw: RefCell<Draw>,
}

/// The reads and writes of one transaction.
struct Plan {
    reads: Vec<String>,
    range: Option<(String, String, bool)>,
    writes: Vec<String>,
}

impl Program {
    pub fn new(db: Database, client: Client, store: Store, history: History, draw: Draw) -> Self {
        Program { db, client, store, history, draw: RefCell::new(draw) }
    }

    fn below(&self, bound: u64) -> u64 {
        self.draw.borrow_mut().below(bound)
    }

    fn key(&self) -> String {
        format!("k{:02}", self.below(KEYS))
    }

    fn some_keys(&self, most: u64) -> Vec<String> {
        (0..self.below(most + 1)).map(|_| self.key()).collect()
    }

    pub async fn run(&self) {
        for _ in 0..CALLS {
            match self.below(10) {
                0 => self.get_one().await,
                1 => self.set_one().await,
                2 | 3 => self.ask_version().await,
                _ => self.transact(self.below(4) > 0).await,
            }
        }
    }

    async fn transact(&self, idempotent: bool) {
        let mut plan = Plan { reads: self.some_keys(3), range: None, writes: self.some_keys(2) };
        if self.below(3) == 0 {
            let (one, other) = (self.key(), self.key());
            plan.range = Some((one.clone().min(other.clone()), one.max(other), self.below(2) == 0));
        }
        plan.writes.push(self.key());
        let (number, attempts) = (self.history.new_write(), Cell::new(0));
        let options = TransactionOptions { timeout: TIMEOUT, max_retries: None, idempotent };
        let running = self.history.begin(TIMEOUT);
        let run = self.db.run_with(options, async |tx| {
            attempts.set(attempts.get() + 1);
            self.attempt(&tx, &plan, number, attempts.get()).await
        });
        let result = run.await.map(|((), committed)| (attempts.get(), Some(committed.version.0 as i64)));
        drop(running);
        self.history.end_write(number, Outcome::of(result));
    }

    async fn attempt(&self, tx: &Transaction, plan: &Plan, number: usize, attempt: u32) -> Result<(), ClientError> {
        if !plan.reads.is_empty() || plan.range.is_some() {
            let acknowledged = self.history.acknowledged();
            let version = tx.read_version().await?.0 as i64;
            assert!(version >= acknowledged, "version {version} does not cover {acknowledged}");
            self.history.acknowledge(version);
            let rows = self.store.contents().rows(version).clone();
            for key in &plan.reads {
                let value = tx.get(key).await?;
                assert_eq!(value.as_deref(), rows.get(key.as_bytes()).map(|value| &value[..]), "{key} at {version}");
                self.history.record_read(number, attempt, version, &[key.clone().into()]);
            }
            if let Some((begin, end, reverse)) = &plan.range {
                check_range(tx, begin, end, *reverse, &rows).await?;
                let keys = (0..KEYS).map(|key| format!("k{key:02}")).filter(|key| begin <= key && key < end);
                let keys: Vec<Vec<u8>> = keys.map(String::into_bytes).collect();
                self.history.record_read(number, attempt, version, &keys);
            }
        }
        plan.writes.iter().for_each(|key| tx.set(key, token(number, attempt)));
        Ok(())
    }

    /// Checks that a single read covers everything that was acknowledged before.
    async fn get_one(&self) {
        let (key, acknowledged) = (self.key(), self.history.acknowledged());
        let running = self.history.begin(TIMEOUT);
        let result = self.client.get(KeyRef::new(key.clone())).await;
        drop(running);
        let Ok(value) = result else { return };
        let contents = self.store.contents();
        let mut since = acknowledged.max(1)..=contents.newest();
        let is_one =
            since.any(|version| contents.rows(version).get(key.as_bytes()).map(|v| &v[..]) == value.as_deref());
        assert!(is_one, "{key} was never {value:?} since version {acknowledged}");
    }

    async fn set_one(&self) {
        let number = self.history.new_write();
        let running = self.history.begin(TIMEOUT);
        let result = self.client.set(KeyRef::new(self.key()), token(number, 1)).await;
        drop(running);
        self.history.end_write(number, Outcome::of(result.map(|()| (1, None))));
    }

    async fn ask_version(&self) {
        let acknowledged = self.history.acknowledged();
        let running = self.history.begin(TIMEOUT);
        let result = match self.below(2) {
            0 => self.client.read_version().await,
            _ => self.db.transaction().read_version().await,
        };
        drop(running);
        let Ok(version) = result else { return };
        assert!(version.0 as i64 >= acknowledged, "{version:?} does not cover {acknowledged}");
        self.history.acknowledge(version.0 as i64);
    }

    /// Checks that a new transaction succeeds once the replicas serve again: the client must
    /// abandon connections and rounds that hang before the transaction's time is up.
    pub async fn check_recovery(&self) {
        let (number, attempts) = (self.history.new_write(), Cell::new(0));
        let result = self.db.run_with(
            TransactionOptions { timeout: TIMEOUT * 4, ..TransactionOptions::default() },
            async |tx| {
                attempts.set(attempts.get() + 1);
                tx.get("k00").await?;
                tx.set("k00", token(number, attempts.get()));
                Ok::<_, ClientError>(())
            },
        );
        let committed = result.await.expect("the replicas serve again").1;
        self.history.end_write(number, Outcome::Committed(attempts.get(), Some(committed.version.0 as i64)));
    }
}

async fn check_range(tx: &Transaction, begin: &str, end: &str, reverse: bool, rows: &Map) -> Result<(), ClientError> {
    let mut range = Range::new(begin, end);
    let mut expected: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if begin < end {
        let between = rows.range(begin.as_bytes().to_vec()..end.as_bytes().to_vec());
        expected.extend(between.map(|(key, value)| (key.clone(), value.clone())));
    }
    if reverse {
        range = range.reverse();
        expected.reverse();
    }
    let found = tx.get_range(range).all().await?;
    let found: Vec<_> = found.into_iter().map(|row| (row.key.to_vec(), row.value.to_vec())).collect();
    assert_eq!(found, expected, "from {begin} to {end}");
    Ok(())
}
