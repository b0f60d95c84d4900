//! The loop around a transaction: it is repeated until it commits, must not be repeated, or time is up.

use crate::ClientError;
use crate::client::Committed;
use crate::database::Database;
use crate::options::TransactionOptions;
use crate::transaction::Transaction;

impl Database {
    /// Runs `body` in a transaction and commits it. When another transaction interferes, or the cluster is in trouble,
    /// `body` runs again, after a pause, in a new transaction, until [`TransactionOptions::timeout`].
    ///
    /// So `body` may run several times, and should change nothing but the transaction. What it returns comes out once it is
    /// committed. An error of its own ends the transaction without a commit and comes out as it is, unless a read of the
    /// transaction failed before in a way that calls for a repetition. `?` works for errors of the client and for all that
    /// convert into `E`.
    ///
    /// ```no_run
    /// # async fn example(db: kv_client::Database) -> Result<(), kv_client::ClientError> {
    /// use kv_client::ClientError;
    ///
    /// let visits = db
    ///     .run(|tx| async move {
    ///         let text = tx.get("visits").await?.unwrap_or_default();
    ///         let visits = String::from_utf8_lossy(&text).parse::<u64>().unwrap_or(0) + 1;
    ///         tx.set("visits", visits.to_string());
    ///         Ok::<_, ClientError>(visits)
    ///     })
    ///     .await?;
    /// # drop(visits);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `body`; and of the client, when the last attempt failed. Only if [`ClientError::maybe_committed`] is true for
    /// such an error can the transaction have happened.
    pub async fn run<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<ClientError>,
    {
        Ok(self.run_with(self.shared.options.transaction, body).await?.0)
    }

    /// As [`Database::run`], with other settings; also returns what the commit told.
    ///
    /// # Errors
    /// As [`Database::run`].
    pub async fn run_with<T, E, F, Fut>(&self, options: TransactionOptions, mut body: F) -> Result<(T, Committed), E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<ClientError>,
    {
        let mut transaction = self.transaction_with(options);
        loop {
            let outcome = body(transaction.clone()).await;
            let (reason, own) = match outcome {
                Ok(value) => match transaction.commit().await {
                    Ok(committed) => return Ok((value, committed)),
                    Err(error) => (error, None),
                },
                Err(own) => match transaction.failure() {
                    Some(reason) => (reason, Some(own)),
                    None => {
                        transaction.end("its body returned an error");
                        return Err(own);
                    }
                },
            };
            transaction = transaction.on_error(reason).await.map_err(|error| own.unwrap_or_else(|| error.into()))?;
        }
    }
}
