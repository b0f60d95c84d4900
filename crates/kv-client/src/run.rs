//! Repeats a transaction until it commits, must not be repeated, or its time is up.

use crate::ClientError;
use crate::database::Database;
use crate::options::TransactionOptions;
use crate::results::Committed;
use crate::transaction::Transaction;

impl Database {
    /// Runs `body` in a transaction and commits it. If another transaction interferes or a request
    /// fails, `body` runs again in a new transaction after a pause, until
    /// [`TransactionOptions::timeout`].
    ///
    /// `body` may therefore run several times, and should have no effect other than through the
    /// transaction. Once the transaction has committed, this function returns the result of `body`.
    /// If `body` returns an error, the transaction ends without a commit and the error is returned
    /// unchanged, unless a read of the transaction had failed in a way that calls for a repetition.
    /// In `body`, `?` accepts [`ClientError`] and everything else that converts into `E`.
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
    /// The error of `body`, or the [`ClientError`] of the last attempt. The transaction can have
    /// happened only if [`ClientError::maybe_committed`] is true for that error.
    pub async fn run<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<ClientError>,
    {
        Ok(self.run_with(self.shared.options.transaction, body).await?.0)
    }

    /// As [`Database::run`], with other settings. Also returns what the commit reported.
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
            let (reason, body_error) = match outcome {
                Ok(value) => match transaction.commit().await {
                    Ok(committed) => return Ok((value, committed)),
                    Err(error) => (error, None),
                },
                Err(body_error) => match transaction.failure() {
                    Some(reason) => (reason, Some(body_error)),
                    None => {
                        transaction.end("its body returned an error");
                        return Err(body_error);
                    }
                },
            };
            let retried = transaction.on_error(reason).await;
            transaction = retried.map_err(|error| body_error.unwrap_or_else(|| error.into()))?;
        }
    }
}
