//! Converts a transaction as clients describe it to the operation that replicas agree on.

use std::time::Duration;

use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, KeyRange, KeyRef, KvError, KvOperation, MAX_IDEMPOTENCY_ID_BYTES, Mutation,
    MutationKind,
};
use kv_store::STAMP_BYTES;
use tokio::time::Instant;

use super::KvServiceCore;
use crate::router::RequestContext;

/// Maximum number of finished ids that one commit may name.
const MAX_FINISHED_IDS: usize = 1_000;
/// Maximum number of versionstamps of one commit, because two bytes count them.
const MAX_STAMPED: usize = 65_536;
/// Longest timeout that a client may set; the server's own deadline is shorter in practice.
const MAX_TIMEOUT_SECONDS: i64 = 3600;

/// One operation of a transaction. `None` means that the client left the field out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationRequest {
    /// The operation's name, in upper or lower case.
    pub kind: String,
    /// The key; of `clear_range`, the first key.
    pub key: Bytes,
    /// The value or operand; of `clear_range`, the end of the range (exclusive).
    pub value: Option<Bytes>,
    /// The column family; absent or empty for the default one.
    pub column_family: Option<String>,
    /// Where the versionstamp begins; absent for the last 10 bytes.
    pub stamp_offset: Option<i32>,
}

/// A request to commit a transaction. In conflicts, an empty column family means the default one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitRequest {
    /// The version that the transaction read; used only if it has conflicts.
    pub read_version: i64,
    /// The operations, in order.
    pub operations: Vec<OperationRequest>,
    /// Checked in every family.
    pub read_conflict_keys: Vec<Bytes>,
    /// Checked in their families.
    pub read_conflicts: Vec<KeyRef>,
    /// Checked in their families.
    pub read_conflict_ranges: Vec<KeyRange>,
    /// Shortens the request's deadline. 0 or less has no effect.
    pub timeout_seconds: Option<i64>,
    /// The idempotency id, if the client chose one.
    pub idempotency_id: Option<Bytes>,
    /// Ids of earlier commits whose results may be forgotten.
    pub finished_ids: Vec<Bytes>,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The commit version; the read version of a transaction without operations.
    pub version: i64,
    /// `None` if nothing was written.
    pub result: Option<CommitResult>,
}

impl Committed {
    /// The first versionstamp of this commit, whether an operation used it or not.
    pub fn versionstamp(&self) -> Option<[u8; STAMP_BYTES]> {
        let result = self.result.as_ref()?;
        let mut stamp = [0; STAMP_BYTES];
        stamp[..8].copy_from_slice(&result.version.to_be_bytes());
        Some(stamp)
    }
}

impl KvServiceCore {
    /// Commits a transaction: all its operations, or none.
    pub async fn atomic_commit(&self, request: CommitRequest, context: &RequestContext) -> Result<Committed, KvError> {
        let context = with_timeout(context, request.timeout_seconds);
        let read_version = request.read_version;
        let commit = self.validated(request)?;
        if commit.mutations.is_empty() {
            self.check(&KvOperation::AtomicCommit(commit), &context)?;
            // Nothing to decide: all its reads were at one consistent version.
            return Ok(Committed { version: read_version, result: None });
        }
        let result = self.commit(commit, &context).await?;
        let version = i64::try_from(result.version).expect("versions count commits and stay far below 2^63");
        Ok(Committed { version, result: Some(result) })
    }

    fn validated(&self, request: CommitRequest) -> Result<AtomicCommit, KvError> {
        let invalid = |message: String| Err(KvError::InvalidOperation(message));
        let idempotency_id = request.idempotency_id.unwrap_or_default();
        for id in request.finished_ids.iter().chain([&idempotency_id]) {
            if id.len() > MAX_IDEMPOTENCY_ID_BYTES {
                let length = id.len();
                return invalid(format!(
                    "an idempotency id of {length} bytes: at most {MAX_IDEMPOTENCY_ID_BYTES} are allowed"
                ));
            }
        }
        let finished = request.finished_ids.len();
        if finished > MAX_FINISHED_IDS {
            return invalid(format!("{finished} finished_idempotency_ids: at most {MAX_FINISHED_IDS} are allowed"));
        }
        let mutations: Vec<Mutation> =
            request.operations.into_iter().map(|operation| self.mutation(operation)).collect::<Result<_, _>>()?;
        let stamped = mutations.iter().filter(|mutation| is_stamped(mutation.kind())).count();
        if stamped > MAX_STAMPED {
            return invalid(format!("{stamped} versionstamped operations: a commit may hold {MAX_STAMPED}"));
        }
        let mut commit = AtomicCommit {
            mutations,
            // Nobody can write the empty key, so it never conflicts.
            read_conflict_keys: request.read_conflict_keys.into_iter().filter(|key| !key.is_empty()).collect(),
            idempotency_id,
            finished_ids: request.finished_ids,
            ..AtomicCommit::default()
        };
        for KeyRef { key, column_family } in request.read_conflicts.into_iter().filter(|c| !c.key.is_empty()) {
            commit.read_conflicts.push(KeyRef { key, column_family: self.family(Some(column_family))? });
        }
        // An empty range, or one whose ends are swapped, holds no key and cannot conflict.
        for range in request.read_conflict_ranges.into_iter().filter(|range| range.begin < range.end) {
            let column_family = self.family(Some(range.column_family))?;
            commit.read_conflict_ranges.push(KeyRange { column_family, ..range });
        }
        self.check_size(&commit)?;
        if commit.has_read_conflicts() {
            commit.read_version = match u64::try_from(request.read_version) {
                Ok(version) => version,
                Err(_) => return invalid(format!("read_version = {}: it cannot be negative", request.read_version)),
            };
        }
        Ok(commit)
    }

    fn check_size(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let limits = self.limits();
        let (size, limit) = (commit.size_bytes(), limits.max_transaction_bytes);
        if size > limit {
            return Err(KvError::TransactionTooLarge { size, limit });
        }
        let named = commit.read_conflicts.len() + commit.read_conflict_ranges.len();
        // A key without a family is checked in each family, and commits are decided one after the
        // other.
        let conflicts = |families: usize| named + commit.read_conflict_keys.len() * families;
        if conflicts(kv_store::MAX_COLUMN_FAMILIES + 1) <= limits.max_conflicts {
            return Ok(());
        }
        match conflicts(self.column_families().len()) {
            count if count > limits.max_conflicts => {
                Err(KvError::TooManyConflicts { count, limit: limits.max_conflicts })
            }
            _ => Ok(()),
        }
    }

    fn mutation(&self, operation: OperationRequest) -> Result<Mutation, KvError> {
        let kind = kind_of(&operation.kind)?;
        let column_family = self.family(operation.column_family)?;
        if kind == MutationKind::ClearRange {
            let (key, value) = self.cleared(operation.key, operation.value)?;
            return Ok(Mutation { kind: kind as i32, key, value, column_family, stamp_offset: None });
        }
        let key = self.key(operation.key)?;
        let value = match (kind, operation.value) {
            // Some clients always send a value, even if it means nothing here.
            (MutationKind::Delete, _) => Bytes::new(),
            (_, Some(value)) => self.value(value)?,
            (_, None) => {
                let message = format!("operation '{}' needs a value", operation.kind);
                return Err(KvError::InvalidOperation(message));
            }
        };
        let stamp_offset = match kind {
            MutationKind::SetVersionstampedKey => stamp_offset("key", &key, operation.stamp_offset)?,
            MutationKind::SetVersionstampedValue => stamp_offset("value", &value, operation.stamp_offset)?,
            _ => None,
        };
        Ok(Mutation { kind: kind as i32, key, value, column_family, stamp_offset })
    }
}

impl KvServiceCore {
    /// The ends of a range to clear. The first may be empty: before every key.
    fn cleared(&self, begin: Bytes, end: Option<Bytes>) -> Result<(Bytes, Bytes), KvError> {
        // The end of a range need not be a valid key: the first one after the longest key is one
        // byte longer.
        let limit = self.limits().max_key_bytes + 1;
        let Some(end) = end else {
            return Err(KvError::InvalidOperation(
                "operation 'clear_range' needs a value: the end of the range".into(),
            ));
        };
        if let Some(length) = [begin.len(), end.len()].into_iter().find(|length| *length > limit) {
            return Err(KvError::KeyTooLarge { length, limit });
        }
        if begin > end {
            return Err(KvError::InvalidOperation("a range to clear ends before it begins".to_string()));
        }
        Ok((begin, end))
    }
}

fn with_timeout(context: &RequestContext, timeout_seconds: Option<i64>) -> RequestContext {
    let seconds = timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(MAX_TIMEOUT_SECONDS);
    let patience = Duration::from_secs(seconds.min(MAX_TIMEOUT_SECONDS) as u64);
    RequestContext { deadline: context.deadline.min(Instant::now() + patience), ..context.clone() }
}

fn is_stamped(kind: MutationKind) -> bool {
    matches!(kind, MutationKind::SetVersionstampedKey | MutationKind::SetVersionstampedValue)
}

/// Operation types by their lower-case names.
const KINDS: [(&str, MutationKind); 15] = [
    ("set", MutationKind::Set),
    ("delete", MutationKind::Delete),
    ("set_versionstamped_key", MutationKind::SetVersionstampedKey),
    ("set_versionstamped_value", MutationKind::SetVersionstampedValue),
    ("clear_range", MutationKind::ClearRange),
    ("add", MutationKind::Add),
    ("min", MutationKind::Min),
    ("max", MutationKind::Max),
    ("byte_min", MutationKind::ByteMin),
    ("byte_max", MutationKind::ByteMax),
    ("bit_and", MutationKind::BitAnd),
    ("bit_or", MutationKind::BitOr),
    ("bit_xor", MutationKind::BitXor),
    ("append_if_fits", MutationKind::AppendIfFits),
    ("compare_and_clear", MutationKind::CompareAndClear),
];

fn kind_of(name: &str) -> Result<MutationKind, KvError> {
    let found = KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let allowed = KINDS.map(|(known, _)| known).join(", ");
        KvError::InvalidOperation(format!("unknown operation type '{name}'; allowed: {allowed}"))
    })
}

/// Checks the offset of the stamp. `None` means the last 10 bytes.
fn stamp_offset(field: &str, buffer: &[u8], offset: Option<i32>) -> Result<Option<u32>, KvError> {
    let length = buffer.len();
    let invalid = |message: String| Err(KvError::InvalidOperation(message));
    match offset {
        None if length < STAMP_BYTES => {
            invalid(format!("a versionstamped {field} of {length} bytes: it needs at least {STAMP_BYTES}"))
        }
        None => Ok(None),
        Some(offset) => match u32::try_from(offset) {
            Ok(place) if (place as usize).saturating_add(STAMP_BYTES) <= length => Ok(Some(place)),
            _ => invalid(format!(
                "stamp_offset = {offset}: {STAMP_BYTES} bytes from there do not fit in a {field} of {length} bytes"
            )),
        },
    }
}
