//! One attempt at a transaction: what it has read, what it will write, and where it stands.

mod commit;
mod conflicts;
mod merge;
#[cfg(test)]
mod model_tests;
mod mutate;
mod range_set;
mod read;
mod stream;
mod writes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_api::Version;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until};

use crate::ClientError;
use crate::backoff::{Backoff, deadline_after};
use crate::client::Committed;
use crate::database;
use crate::options::TransactionOptions;
use conflicts::Conflicts;
use writes::Writes;

pub use read::Snapshot;
pub use stream::RangeStream;

/// A transaction. Clones are handles to the same one, so that reads can run side by side.
///
/// It reads at one version, which it takes at its first read, and sees its own writes on top. What it reads from the
/// database is noted: the commit fails with a conflict if any of it was written since. Writes stay in this process until
/// [`Transaction::commit`].
///
/// Keys belong to the default column family, or to that of the handle: see [`Transaction::family`].
#[derive(Clone)]
pub struct Transaction {
    inner: Arc<Inner>,
    /// Empty: the default one.
    family: Arc<str>,
}

struct Inner {
    database: Arc<database::Shared>,
    options: TransactionOptions,
    retry: Retry,
    read_version: OnceCell<Version>,
    state: Mutex<State>,
}

/// How far the attempts at a transaction have come.
#[derive(Clone)]
struct Retry {
    deadline: Instant,
    count: u32,
    backoff: Backoff,
}

struct State {
    writes: Writes,
    conflicts: Conflicts,
    phase: Phase,
    /// A call that makes no sense, where it could not be told at once; every later one tells.
    misuse: Option<ClientError>,
    /// The first failure after which the transaction should be repeated.
    failure: Option<ClientError>,
}

enum Phase {
    Active,
    Committed(Committed),
    Ended(&'static str),
}

impl Transaction {
    pub(crate) fn begin(database: Arc<database::Shared>, options: TransactionOptions) -> Self {
        let deadline = deadline_after(options.timeout);
        let backoff = Backoff::new(&database.options);
        Transaction::attempt(database, options, Retry { deadline, count: 0, backoff })
    }

    fn attempt(database: Arc<database::Shared>, options: TransactionOptions, retry: Retry) -> Self {
        let state = Mutex::new(State {
            writes: Writes::new(),
            conflicts: Conflicts::default(),
            phase: Phase::Active,
            misuse: None,
            failure: None,
        });
        let inner = Inner { database, options, retry, read_version: OnceCell::new(), state };
        Transaction { inner: Arc::new(inner), family: "".into() }
    }

    /// The same transaction, for the keys of a column family; `""` and `"default"` are the default one.
    ///
    /// ```no_run
    /// # async fn example(tx: kv_client::Transaction) -> Result<(), kv_client::ClientError> {
    /// let users = tx.family("users");
    /// users.set("ada", "Lovelace");
    /// assert_eq!(tx.get("ada").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn family(&self, name: &str) -> Transaction {
        // One name, so that the same key is not taken for two.
        let family = if name == kv_api::DEFAULT_COLUMN_FAMILY { "" } else { name };
        Transaction { inner: self.inner.clone(), family: family.into() }
    }

    /// The version at which it reads; takes one, if there is none yet, that covers everything acknowledged before.
    ///
    /// # Errors
    /// Those of the client.
    pub async fn read_version(&self) -> Result<Version, ClientError> {
        self.inner.state().check()?;
        let version = self.inner.read_version.get_or_try_init(async || {
            let version = self.inner.database.versions.get(self.inner.retry.deadline).await?;
            self.inner.state().writes.set_read_version(version);
            Ok(version)
        });
        self.inner.observe(version.await.copied())
    }

    /// Reads at this version, instead of a new one.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when it has a read version already.
    pub fn set_read_version(&self, version: Version) -> Result<(), ClientError> {
        self.inner.state().check()?;
        let message = "the transaction has a read version already: set it before the first read";
        self.inner.read_version.set(version).map_err(|_| ClientError::InvalidArgument(message.to_string()))?;
        self.inner.state().writes.set_read_version(version);
        Ok(())
    }

    /// What the commit told, once it has succeeded.
    pub fn committed(&self) -> Option<Committed> {
        match &self.inner.state().phase {
            Phase::Committed(committed) => Some(committed.clone()),
            Phase::Active | Phase::Ended(_) => None,
        }
    }

    /// Bytes of the keys and values that it will write.
    pub fn size_bytes(&self) -> usize {
        self.inner.state().writes.size_bytes()
    }

    /// After a failure: a new transaction to try everything again, after a pause. This one has ended.
    ///
    /// # Errors
    /// `error` itself, when a repetition would not help or is not allowed: it is not retryable, the transaction may have
    /// been committed, or its time or its retries are used up.
    pub async fn on_error(self, error: ClientError) -> Result<Transaction, ClientError> {
        self.end("it was given up for another attempt");
        let Inner { database, options, retry, .. } = &*self.inner;
        let mut retry = retry.clone();
        let resume_at = Instant::now() + retry.backoff.pause();
        let is_exhausted = options.max_retries.is_some_and(|max| retry.count >= max) || resume_at >= retry.deadline;
        if is_exhausted || !error.is_retryable() || error.maybe_committed() {
            return Err(error);
        }
        tracing::debug!(%error, retries = retry.count + 1, "a transaction is tried again");
        sleep_until(resume_at).await;
        retry.count += 1;
        Ok(Transaction::attempt(database.clone(), *options, retry))
    }

    fn has_read_version(&self) -> bool {
        self.inner.read_version.get().is_some()
    }

    /// The first failure of an operation after which the transaction should be repeated.
    pub(crate) fn failure(&self) -> Option<ClientError> {
        self.inner.state().failure.clone()
    }

    /// Nothing can be done with it any more.
    pub(crate) fn end(&self, reason: &'static str) {
        let mut state = self.inner.state();
        if matches!(state.phase, Phase::Active) {
            state.end(reason);
        }
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = self.inner.read_version.get();
        f.debug_struct("Transaction").field("read_version", &version).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is right after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a failure that calls for a repetition.
    fn observe<T>(&self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if let Err(error) = &result
            && error.is_retryable()
        {
            self.state().failure.get_or_insert_with(|| error.clone());
        }
        result
    }
}

impl State {
    /// Whether anything can be done yet.
    fn check(&self) -> Result<(), ClientError> {
        match (&self.misuse, &self.phase) {
            (Some(misuse), _) => Err(misuse.clone()),
            (None, Phase::Active) => Ok(()),
            (None, Phase::Committed(_)) => Err(ClientError::TransactionEnded("it is committed")),
            (None, Phase::Ended(reason)) => Err(ClientError::TransactionEnded(reason)),
        }
    }

    fn end(&mut self, reason: &'static str) {
        self.phase = Phase::Ended(reason);
        // Somebody may keep a handle for long.
        self.writes = Writes::new();
        self.conflicts = Conflicts::default();
    }
}
