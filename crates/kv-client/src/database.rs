//! The handle that programs use: transactions over a whole cluster.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::thrift::generated::{AtomicCommitRequest, SnapshotGetRangeRequest, SnapshotGetRequest};
use kv_api::{KeyRef, Rows, Version};
use tokio::time::Instant;

use crate::client::{Client, Committed, Kind, RangeRead};
use crate::cluster::{Answer, Cluster, Errand, Target};
use crate::idempotency::Ids;
use crate::limits::KnownLimits;
use crate::options::{Options, ReadFrom, TransactionOptions};
use crate::transaction::Transaction;
use crate::versions::ReadVersions;
use crate::{ClientError, convert};

/// A handle to a database; clones share everything. See the crate's documentation.
#[derive(Clone)]
pub struct Database {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    cluster: Arc<Cluster>,
    pub versions: Arc<ReadVersions>,
    pub ids: Ids,
    pub options: Options,
}

impl Database {
    /// Finds the cluster through the first of `addresses` (each `HOST:PORT` of a replica) that answers.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Database, ClientError> {
        let client = Client::connect(addresses, options).await?;
        if client.options().discovery {
            // An older server does not tell; then the defaults stand in.
            client.limits().await?;
        }
        Ok(client.database())
    }

    pub(crate) fn new(cluster: Cluster, options: Options) -> Self {
        let cluster = Arc::new(cluster);
        let versions = ReadVersions::new(cluster.clone());
        Database { shared: Arc::new(Shared { cluster, versions, ids: Ids::new(), options }) }
    }

    /// A transaction to be committed by hand; [`Database::run`] also repeats it when it has to be.
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
        self.shared.cluster.addresses()
    }

    /// The address of the primary, as far as it is known.
    pub fn primary(&self) -> Option<String> {
        self.shared.cluster.primary()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// What a reply is thought to need beside its rows.
const REPLY_BYTES: usize = 256;

impl Shared {
    pub fn limits(&self) -> &KnownLimits {
        self.cluster.limits()
    }

    pub fn max_transaction_bytes(&self) -> usize {
        self.options.max_transaction_bytes.unwrap_or_else(|| self.limits().get().max_transaction_bytes)
    }

    fn read_errand(&self, deadline: Instant, cost_bytes: usize) -> Errand {
        let target = match self.options.read_from {
            ReadFrom::AnyReplica => Target::Any,
            ReadFrom::Primary => Target::Primary,
        };
        Errand { target, kind: Kind::Read, has_id: false, deadline, cost_bytes }
    }

    pub async fn get(&self, key: KeyRef, version: Version, deadline: Instant) -> Result<Option<Bytes>, ClientError> {
        let errand = self.read_errand(deadline, key.key.len() + REPLY_BYTES);
        let request: SnapshotGetRequest = convert::snapshot_get(key, version);
        let answer = self.cluster.call(request, errand, |response| {
            convert::value(response.found, response.value, response.error, response.error_code)
        });
        Ok(answer.await?.value)
    }

    pub async fn get_range(&self, range: RangeRead, version: Version, deadline: Instant) -> Result<Rows, ClientError> {
        let target_bytes = range.target_bytes.unwrap_or(self.options.range_page_bytes) as usize;
        let errand = self.read_errand(deadline, target_bytes + REPLY_BYTES);
        let request: SnapshotGetRangeRequest = convert::snapshot_get_range(range, version);
        let answer = self.cluster.call(request, errand, |response| {
            convert::success(response.success, response.error, response.error_code)?;
            Ok(convert::rows(response.key_values, response.has_more))
        });
        Ok(answer.await?.value)
    }

    pub async fn commit(
        &self,
        request: AtomicCommitRequest,
        cost_bytes: usize,
        deadline: Instant,
    ) -> Result<Answer<Committed>, ClientError> {
        let has_id = request.idempotency_id.is_some();
        let errand = Errand { target: Target::Primary, kind: Kind::Write, has_id, deadline, cost_bytes };
        self.cluster.call(request, errand, convert::committed).await
    }
}
