//! The rules for requests: what is valid, the defaults, the limits, and what existing clients
//! expect of old calls. Each request becomes at most one [`KvOperation`], which is routed.
//!
//! This module knows no protocol and no mode. Requests are plain values, from Thrift, from the
//! admin interface or from a test, and failures are [`KvError`]s. Nothing waits before a write has
//! been routed (see [`crate::router`]).

mod access;
mod changes;
mod cluster_info;
mod commit;
mod families;
mod pins;
mod range;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
pub use changes::{PollRequest, Polled, WatchRequest, Watched};
pub use cluster_info::{ClusterHealth, DatabaseFigures};
pub use commit::{CommitRequest, Committed, OperationRequest};
pub use families::Family;
use kv_api::{
    AtomicCommit, CommitResult, DEFAULT_COLUMN_FAMILY, KeyRef, KvError, KvOperation, KvOutcome, Limits, Mutation,
    MutationKind, ReadAt, Rows, Version,
};
use kv_store::{STAMP_BYTES, key_codec::MAX_FAMILY_BYTES};
pub use range::RangeRequest;

use crate::access::{Gate, check_needs};
use crate::cluster::{ClusterView, LocalDatabases};
use crate::fault_injection::{FaultInjector, FaultRequest};
use crate::metrics::ServerMetrics;
use crate::request_watch::RequestWatch;
use crate::router::{RequestContext, RequestRouter};

/// The parts that the core uses.
pub struct CoreParts {
    /// Executes operations.
    pub router: Arc<dyn RequestRouter>,
    /// Reports the cluster.
    pub cluster: Arc<dyn ClusterView>,
    /// The databases of this process.
    pub replicas: Arc<dyn LocalDatabases>,
    /// The metrics of the server.
    pub metrics: Arc<ServerMetrics>,
    /// The injected faults.
    pub faults: Arc<FaultInjector>,
    /// The limits of requests.
    pub limits: Limits,
    /// Column families that the first write to them creates.
    pub column_families: Vec<String>,
    /// Longest time that a version may be pinned.
    pub max_pin: Duration,
    /// Decides which requests are served.
    pub gate: Arc<Gate>,
    /// Watches requests for operators.
    pub watch: Arc<RequestWatch>,
}

/// The service behind all interfaces.
pub struct KvServiceCore {
    parts: CoreParts,
}

impl KvServiceCore {
    /// A core on these parts.
    pub fn new(parts: CoreParts) -> Self {
        KvServiceCore { parts }
    }

    /// The limits of requests.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }

    /// Decides which requests are served.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.parts.gate
    }

    /// Slow requests and the most used keys.
    pub fn watch(&self) -> &RequestWatch {
        &self.parts.watch
    }

    /// The databases of this process.
    pub fn replicas(&self) -> &Arc<dyn LocalDatabases> {
        &self.parts.replicas
    }

    /// A version that covers every commit acknowledged before the call.
    pub async fn read_version(&self, context: &RequestContext) -> Result<Version, KvError> {
        match self.route(KvOperation::ReadVersion, context).await? {
            KvOutcome::ReadVersion(version) => Ok(version),
            other => Err(mismatch("a read version", &other)),
        }
    }

    /// Reads a key. For `consistency` see [`read_at`].
    pub async fn get(
        &self,
        key: Bytes,
        column_family: Option<String>,
        consistency: Option<&str>,
        context: &RequestContext,
    ) -> Result<Option<Bytes>, KvError> {
        self.get_at(key, column_family, read_at(consistency)?, context).await
    }

    /// Reads a key at a version.
    pub async fn snapshot_get(
        &self,
        key: Bytes,
        read_version: i64,
        column_family: Option<String>,
        context: &RequestContext,
    ) -> Result<Option<Bytes>, KvError> {
        self.get_at(key, column_family, ReadAt::Version(snapshot_version(read_version)?), context).await
    }

    async fn get_at(
        &self,
        key: Bytes,
        column_family: Option<String>,
        at: ReadAt,
        context: &RequestContext,
    ) -> Result<Option<Bytes>, KvError> {
        let key = KeyRef { key: self.key(key)?, column_family: self.family(column_family)? };
        match self.route(KvOperation::Get { key, at }, context).await {
            Ok(KvOutcome::Value(value)) => Ok(value),
            Ok(other) => Err(mismatch("a value", &other)),
            Err(error) => self.nothing_yet(error, context),
        }
    }

    /// Reads a range. `max_rows_bytes` is how much the reply can hold, if that is less than the
    /// server's limit.
    pub async fn get_range(
        &self,
        request: RangeRequest,
        consistency: Option<&str>,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Result<Rows, KvError> {
        self.get_range_at(request, read_at(consistency)?, max_rows_bytes, context).await
    }

    /// Reads a range at a version. `max_rows_bytes`: see [`Self::get_range`].
    pub async fn snapshot_get_range(
        &self,
        request: RangeRequest,
        read_version: i64,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Result<Rows, KvError> {
        let at = ReadAt::Version(snapshot_version(read_version)?);
        self.get_range_at(request, at, max_rows_bytes, context).await
    }

    async fn get_range_at(
        &self,
        mut request: RangeRequest,
        at: ReadAt,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Result<Rows, KvError> {
        let family = self.family(request.column_family.take())?;
        let limits = &self.parts.limits;
        let max_bytes = max_rows_bytes.min(limits.max_reply_bytes as u64);
        // An empty range is read, too, because only the database knows whether its family exists.
        let query = range::normalise(request, family, limits.max_key_bytes, max_bytes)?;
        match self.route(KvOperation::GetRange { query, at }, context).await {
            Ok(KvOutcome::Rows(rows)) => Ok(rows),
            Ok(other) => Err(mismatch("rows", &other)),
            Err(error) => self.nothing_yet(error, context),
        }
    }

    /// Sets a key without a conflict check.
    pub async fn set(
        &self,
        key: Bytes,
        value: Bytes,
        column_family: Option<String>,
        context: &RequestContext,
    ) -> Result<CommitResult, KvError> {
        let mutation = Mutation {
            key: self.key(key)?,
            value: self.value(value)?,
            column_family: self.family(column_family)?,
            ..Mutation::default()
        };
        self.commit(AtomicCommit::of(vec![mutation]), context).await
    }

    /// Deletes a key without a conflict check.
    pub async fn delete(
        &self,
        key: Bytes,
        column_family: Option<String>,
        context: &RequestContext,
    ) -> Result<CommitResult, KvError> {
        let column_family = self.family(column_family)?;
        let mutation = Mutation { column_family, ..Mutation::delete(self.key(key)?) };
        self.commit(AtomicCommit::of(vec![mutation]), context).await
    }

    /// The old call for one key. If the last 10 bytes of `buffer` are zero, the versionstamp
    /// replaces them; otherwise the buffer is the key. Returns the key as stored.
    pub async fn set_versionstamped_key(
        &self,
        buffer: Bytes,
        value: Bytes,
        column_family: Option<String>,
        context: &RequestContext,
    ) -> Result<Bytes, KvError> {
        let stamped = asks_for_stamp("key_prefix", &buffer)?;
        let kind = if stamped { MutationKind::SetVersionstampedKey } else { MutationKind::Set };
        let mutation = Mutation {
            kind: kind as i32,
            key: self.key(buffer.clone())?,
            value: self.value(value)?,
            column_family: self.family(column_family)?,
            stamp_offset: None,
        };
        let result = self.commit(AtomicCommit::of(vec![mutation]), context).await?;
        Ok(result.generated_keys.into_iter().next().unwrap_or(buffer))
    }

    /// Like [`Self::set_versionstamped_key`], for the value. Returns the value as stored.
    pub async fn set_versionstamped_value(
        &self,
        key: Bytes,
        buffer: Bytes,
        column_family: Option<String>,
        context: &RequestContext,
    ) -> Result<Bytes, KvError> {
        let stamped = asks_for_stamp("value_prefix", &buffer)?;
        let kind = if stamped { MutationKind::SetVersionstampedValue } else { MutationKind::Set };
        let mutation = Mutation {
            kind: kind as i32,
            key: self.key(key)?,
            value: self.value(buffer.clone())?,
            column_family: self.family(column_family)?,
            stamp_offset: None,
        };
        let result = self.commit(AtomicCommit::of(vec![mutation]), context).await?;
        Ok(result.generated_values.into_iter().next().unwrap_or(buffer))
    }

    /// Sets or clears a fault.
    pub fn set_fault_injection(&self, request: FaultRequest) -> Result<(), KvError> {
        self.parts.faults.set(request)
    }

    /// The answer to `ping`: the echoed message and timestamp, and the server's clock in
    /// microseconds since 1970.
    pub fn ping(&self, message: Option<Bytes>, timestamp: Option<i64>) -> (Bytes, i64, i64) {
        (
            message.unwrap_or_else(|| Bytes::from_static(b"pong")),
            timestamp.unwrap_or(0),
            micros_since_1970(SystemTime::now()),
        )
    }

    /// Routes a complete and valid commit.
    async fn commit(&self, commit: AtomicCommit, context: &RequestContext) -> Result<CommitResult, KvError> {
        let _active = self.parts.metrics.begin_transaction();
        match self.route(KvOperation::AtomicCommit(commit), context).await {
            Ok(KvOutcome::Committed(result)) => Ok(result),
            Ok(other) => Err(mismatch("a commit result", &other)),
            Err(error) => Err(self.with_families(error, context)),
        }
    }

    /// The result of a read in a family that does not exist: nothing, if the first write would
    /// create the family.
    fn nothing_yet<T: Default>(&self, error: KvError, context: &RequestContext) -> Result<T, KvError> {
        match error {
            KvError::UnknownColumnFamily { name, .. } if self.parts.column_families.contains(&name) => Ok(T::default()),
            error => Err(self.with_families(error, context)),
        }
    }

    /// Adds the existing families to an error about an unknown one, if the caller may know them.
    /// Replicas do not agree on that list, so their verdict lacks it.
    fn with_families(&self, error: KvError, context: &RequestContext) -> KvError {
        match error {
            KvError::UnknownColumnFamily { name, .. } if context.caller.sees_all_families() => {
                KvError::UnknownColumnFamily { name, existing: self.column_families() }
            }
            error => error,
        }
    }

    /// The only way to the router: whatever is not allowed ends here.
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError> {
        let begun = self.parts.watch.begin(&operation);
        let allowed = self.check(&operation, context);
        let audit = self.parts.gate.audit();
        let recording = audit.and_then(|audit| audit.begin(&operation, &context.caller, allowed.is_err()));
        let outcome = match allowed {
            Ok(()) => self.pass_on(operation, context).await,
            Err(denial) => Err(denial),
        };
        if let Some(recording) = recording {
            recording.end_with(&outcome).await;
        }
        self.parts.watch.end(begun, &outcome, context);
        outcome
    }

    async fn pass_on(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError> {
        if tokio::time::Instant::now() >= context.deadline {
            return Err(KvError::Timeout("the deadline passed before the request was passed on".to_string()));
        }
        // Replicas check the authority of a write when they apply it.
        let is_read = matches!(
            operation,
            KvOperation::ReadVersion
                | KvOperation::Get { .. }
                | KvOperation::GetRange { .. }
                | KvOperation::ReadChanges(_)
        );
        let outcome = self.parts.router.route(operation, context).await?;
        if is_read {
            context.caller.check_still(&**self.parts.gate.source())?;
        }
        Ok(outcome)
    }

    /// Refuses an operation that the caller may not make.
    fn check(&self, operation: &KvOperation, context: &RequestContext) -> Result<(), KvError> {
        check_needs(operation, &mut |need| context.caller.check(need))
    }

    fn key(&self, key: Bytes) -> Result<Bytes, KvError> {
        let limit = self.parts.limits.max_key_bytes;
        match key.len() {
            0 => Err(KvError::KeyEmpty),
            length if length > limit => Err(KvError::KeyTooLarge { length, limit }),
            _ => Ok(key),
        }
    }

    fn value(&self, value: Bytes) -> Result<Bytes, KvError> {
        let (length, limit) = (value.len(), self.parts.limits.max_value_bytes);
        if length > limit { Err(KvError::ValueTooLarge { length, limit }) } else { Ok(value) }
    }

    /// The internal name of a family: empty for the default one. Only the database checks whether
    /// it exists.
    pub fn family(&self, name: Option<String>) -> Result<String, KvError> {
        match name {
            None => Ok(String::new()),
            Some(name) if name.is_empty() || name == DEFAULT_COLUMN_FAMILY => Ok(String::new()),
            Some(name) if name.len() > MAX_FAMILY_BYTES => {
                Err(KvError::UnknownColumnFamily { name, existing: Vec::new() })
            }
            Some(name) => Ok(name),
        }
    }
}

/// The error for a router that broke its contract and returned another kind of outcome.
fn mismatch(wanted: &str, found: &KvOutcome) -> KvError {
    KvError::Storage(format!("asked the router for {wanted}, got {found:?}"))
}

/// Parses a consistency: `linearizable`, the default, or `stale`.
fn read_at(consistency: Option<&str>) -> Result<ReadAt, KvError> {
    match consistency {
        None | Some("" | "linearizable") => Ok(ReadAt::Linearizable),
        Some("stale") => Ok(ReadAt::Stale),
        Some(other) => Err(KvError::InvalidOperation(format!(
            "consistency = \"{other}\"; allowed: \"linearizable\" and \"stale\""
        ))),
    }
}

fn snapshot_version(version: i64) -> Result<Version, KvError> {
    match u64::try_from(version) {
        Ok(version) if version >= Version::EMPTY.0 => Ok(Version(version)),
        _ => Err(KvError::InvalidOperation(format!("read_version = {version}: versions start at {}", Version::EMPTY))),
    }
}

fn asks_for_stamp(field: &str, buffer: &[u8]) -> Result<bool, KvError> {
    match buffer.last_chunk::<STAMP_BYTES>() {
        Some(last) => Ok(last.iter().all(|byte| *byte == 0)),
        None => Err(KvError::InvalidOperation(format!(
            "{field} has {} bytes: it needs at least {STAMP_BYTES}, the last {STAMP_BYTES} of them zero where the stamp \
             shall go",
            buffer.len()
        ))),
    }
}

/// A timestamp for the wire, in microseconds since 1970; earlier times become 0.
pub(crate) fn micros_since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
