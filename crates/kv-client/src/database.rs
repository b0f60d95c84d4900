//! The handle that programs use: transactions over a whole cluster.

use std::sync::Arc;

use crate::ClientError;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::handle::DatabaseHandle;
use crate::options::{Options, TransactionOptions};
use crate::transaction::Transaction;

/// A handle to a database. Clones share connections and everything else.
#[derive(Clone)]
pub struct Database {
    pub(crate) shared: Arc<DatabaseHandle>,
}

impl Client {
    /// A handle for transactions over the whole cluster, which shares the connections of this
    /// client. Each call starts background work of its own, so clone the result instead of calling
    /// this again.
    pub fn database(&self) -> Database {
        let cluster = Cluster::start(self.shared_endpoints(), self.options(), self.known_limits().clone());
        Database { shared: Arc::new(DatabaseHandle::new(cluster, self.options().clone())) }
    }
}

impl Database {
    /// Finds the cluster through the first of `addresses` that answers. Each is the `HOST:PORT` of
    /// a replica.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Database, ClientError> {
        let client = Client::connect(addresses, options).await?;
        if client.options().discovery {
            client.limits().await?;
        }
        Ok(client.database())
    }

    /// A transaction for the caller to commit. [`Database::run`] also repeats it after a conflict
    /// or a failure.
    ///
    /// ```no_run
    /// # async fn example(db: kv_client::Database) -> Result<(), kv_client::ClientError> {
    /// let mut tx = db.transaction();
    /// loop {
    ///     tx.set("hello", "world");
    ///     match tx.commit().await {
    ///         Ok(_) => break Ok(()),
    ///         Err(error) => tx = tx.on_error(error).await?,
    ///     }
    /// }
    /// # }
    /// ```
    pub fn transaction(&self) -> Transaction {
        self.transaction_with(self.shared.options.transaction)
    }

    /// As [`Database::transaction`], with other settings.
    pub fn transaction_with(&self, options: TransactionOptions) -> Transaction {
        Transaction::begin(self.shared.clone(), options)
    }

    /// The addresses of the replicas that are in use.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.cluster().addresses()
    }

    /// The address of the primary, if it is known.
    pub fn primary(&self) -> Option<String> {
        self.shared.cluster().primary()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}
