//! The handle to a transaction: one attempt, and how it leads to the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_api::Version;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until};

use super::state::{Phase, State};
use crate::ClientError;
use crate::backoff::{Backoff, deadline_after};
use crate::handle::DatabaseHandle;
use crate::options::TransactionOptions;
use crate::results::Committed;

/// A transaction. Clones are handles to the same transaction, so that reads can run concurrently.
///
/// It reads at one version, which it obtains at its first read, and sees its own writes on top. It
/// records what it reads from the database: the commit fails with a conflict if any of that was
/// written since. Writes stay in this process until [`Transaction::commit`].
///
/// Keys belong to the column family of the handle, which is the default one unless
/// [`Transaction::family`] chose another.
#[derive(Clone)]
pub struct Transaction {
    pub(super) inner: Arc<Inner>,
    /// An empty name stands for the default family.
    pub(super) family: Arc<str>,
}

pub(super) struct Inner {
    pub database: Arc<DatabaseHandle>,
    pub options: TransactionOptions,
    pub retry: Retry,
    pub read_version: OnceCell<Version>,
    state: Mutex<State>,
}

/// The budget that all attempts at a transaction share.
#[derive(Clone)]
pub(super) struct Retry {
    pub deadline: Instant,
    count: u32,
    backoff: Backoff,
}

impl Transaction {
    pub(crate) fn begin(database: Arc<DatabaseHandle>, options: TransactionOptions) -> Self {
        let deadline = deadline_after(options.timeout);
        let backoff = Backoff::new(&database.options);
        Transaction::attempt(database, options, Retry { deadline, count: 0, backoff })
    }

    fn attempt(database: Arc<DatabaseHandle>, options: TransactionOptions, retry: Retry) -> Self {
        let state = Mutex::new(State::new());
        let inner = Inner { database, options, retry, read_version: OnceCell::new(), state };
        Transaction { inner: Arc::new(inner), family: "".into() }
    }

    /// A handle to the same transaction for the keys of a column family. Both `""` and `"default"`
    /// stand for the default family.
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
        // Use one of the two names, so that a key of the default family does not count as two keys.
        let family = if name == kv_api::DEFAULT_COLUMN_FAMILY { "" } else { name };
        Transaction { inner: self.inner.clone(), family: family.into() }
    }

    /// The version at which the transaction reads. If it has none yet, it obtains one that covers
    /// everything acknowledged before this call.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn read_version(&self) -> Result<Version, ClientError> {
        self.inner.state().check()?;
        let version = self.inner.read_version.get_or_try_init(async || {
            let version = self.inner.database.versions.get(self.inner.retry.deadline).await?;
            self.inner.state().writes.set_read_version(version);
            Ok(version)
        });
        self.inner.observe(version.await.copied())
    }

    /// Makes the transaction read at this version instead of obtaining a new one.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] if the transaction has a read version already.
    pub fn set_read_version(&self, version: Version) -> Result<(), ClientError> {
        self.inner.state().check()?;
        let message = "the transaction has a read version already: set it before the first read";
        self.inner.read_version.set(version).map_err(|_| ClientError::InvalidArgument(message.to_string()))?;
        self.inner.state().writes.set_read_version(version);
        Ok(())
    }

    /// The result of the commit; `None` unless it has succeeded.
    pub fn committed(&self) -> Option<Committed> {
        match &self.inner.state().phase {
            Phase::Committed(committed) => Some(committed.clone()),
            Phase::Active | Phase::Ended(_) => None,
        }
    }

    /// Size of the keys and values to be written, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.inner.state().writes.size_bytes()
    }

    /// Ends this transaction after a failure, pauses, and returns a new transaction in which to
    /// repeat all reads and writes.
    ///
    /// # Errors
    /// Returns `error` itself if a repetition would not help or is not allowed: `error` is not
    /// retryable, the transaction may have been committed, or its time or its retries are used up.
    pub async fn on_error(self, error: ClientError) -> Result<Transaction, ClientError> {
        self.end("it was given up for another attempt");
        let Inner { database, options, retry, .. } = &*self.inner;
        let mut retry = retry.clone();
        let resume_at = Instant::now() + retry.backoff.pause();
        let is_exhausted = options.max_retries.is_some_and(|max| retry.count >= max) || resume_at >= retry.deadline;
        if is_exhausted || !error.is_retryable() || error.maybe_committed() {
            return Err(error);
        }
        tracing::debug!(%error, retries = retry.count + 1, "repeating a transaction");
        sleep_until(resume_at).await;
        retry.count += 1;
        Ok(Transaction::attempt(database.clone(), *options, retry))
    }

    pub(super) fn has_read_version(&self) -> bool {
        self.inner.read_version.get().is_some()
    }

    /// The first failure after which the transaction should be repeated.
    pub(crate) fn failure(&self) -> Option<ClientError> {
        self.inner.state().failure.clone()
    }

    /// Makes every later call fail with `reason`.
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
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic while this was locked cannot have left it inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a failure that calls for a repetition.
    pub fn observe<T>(&self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if let Err(error) = &result
            && error.is_retryable()
        {
            self.state().failure.get_or_insert_with(|| error.clone());
        }
        result
    }
}
