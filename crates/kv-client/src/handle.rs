//! What all transactions of a [`crate::Database`] share, and the requests that they send.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::thrift::generated::{AtomicCommitRequest, SnapshotGetRangeRequest, SnapshotGetRequest};
use kv_api::{KeyRef, Rows, Version};
use tokio::time::Instant;

use crate::cluster::{Answer, Cluster};
use crate::idempotency::Ids;
use crate::limits::KnownLimits;
use crate::options::{Options, ReadFrom};
use crate::request::{Access, CallOptions, RangeRead, Target};
use crate::results::Committed;
use crate::versions::ReadVersions;
use crate::{ClientError, convert};

/// Estimated memory for a reply in addition to its rows.
const REPLY_BYTES: usize = 256;

pub(crate) struct DatabaseHandle {
    cluster: Arc<Cluster>,
    pub versions: Arc<ReadVersions>,
    pub ids: Ids,
    pub options: Options,
}

impl DatabaseHandle {
    pub fn new(cluster: Cluster, options: Options) -> Self {
        let cluster = Arc::new(cluster);
        let versions = ReadVersions::new(cluster.clone());
        DatabaseHandle { cluster, versions, ids: Ids::new(), options }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn limits(&self) -> &KnownLimits {
        self.cluster.limits()
    }

    pub fn max_transaction_bytes(&self) -> usize {
        self.options.max_transaction_bytes.unwrap_or_else(|| self.limits().get().max_transaction_bytes)
    }

    fn read_options(&self, deadline: Instant, cost_bytes: usize) -> CallOptions {
        let target = match self.options.read_from {
            ReadFrom::AnyReplica => Target::Any,
            ReadFrom::Primary => Target::Primary,
        };
        CallOptions { target, access: Access::Read, has_id: false, deadline, cost_bytes }
    }

    pub async fn get(&self, key: KeyRef, version: Version, deadline: Instant) -> Result<Option<Bytes>, ClientError> {
        let options = self.read_options(deadline, key.key.len() + REPLY_BYTES);
        let request: SnapshotGetRequest = convert::snapshot_get(key, version);
        let answer = self.cluster.call(request, options, |response| {
            convert::value(
                response.found,
                response.value,
                response.error,
                response.error_code,
                response.leader_endpoint,
            )
        });
        Ok(answer.await?.value)
    }

    pub async fn get_range(&self, range: RangeRead, version: Version, deadline: Instant) -> Result<Rows, ClientError> {
        let target_bytes = range.target_bytes.unwrap_or(self.options.range_page_bytes) as usize;
        let options = self.read_options(deadline, target_bytes + REPLY_BYTES);
        let request: SnapshotGetRangeRequest = convert::snapshot_get_range(range, version);
        let answer = self.cluster.call(request, options, |response| {
            convert::success(response.success, response.error, response.error_code, response.leader_endpoint)?;
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
        let options = CallOptions { target: Target::Primary, access: Access::Write, has_id, deadline, cost_bytes };
        self.cluster.call(request, options, convert::committed).await
    }
}
