/*
 * The interface of SynodKV, a replicated transactional key-value store.
 *
 * Transport: TCP, strict binary protocol, unframed; the server also recognises framed and compact connections by their
 * first byte. There is no multiplexed-service prefix. Several requests may be sent on a connection without waiting:
 * the replies come in the order of the requests.
 *
 * Errors travel inside the replies: `success`, `error` (text for people) and `error_code` (for programs). A Thrift
 * exception (TApplicationException) answers only a call that could not be read: an unknown method, a missing required field,
 * a field of the wrong type, an exceeded server limit. `error` is absent when a call succeeded.
 *
 * Any replica serves any request: one that is not primary forwards it. A reply says `NO_PRIMARY` only if there has been no
 * primary for the server's `no_primary_wait`. When a primary is known but could not be reached, `error`
 * reads `Not leader, try leader at: HOST:PORT (node N)`, and `leader_endpoint` holds that HOST:PORT for programs.
 *
 * Versions count committed transactions. They start at 1 (the empty database), never decrease, and mean the same on every
 * replica. They stay readable for a window (60 seconds, unless the server's settings say otherwise), and beyond that while
 * they are pinned; then they are TRANSACTION_TOO_OLD.
 *
 * A column family that is absent or empty means the default family. Others are created and dropped by an operator (admin
 * interface, `synodkv family`), or created by the first write where the server's configuration names them.
 *
 * Limits (defaults; the server's settings decide, and getClusterHealth returns them): key 10,000 bytes, value 100,000 bytes;
 * transaction 10,000,000 bytes counting keys, values, both ends of ranges to clear, conflict keys and conflict ranges;
 * 100,000 conflict keys and ranges.
 *
 * Error codes. "Not committed" is certain; "perhaps" means that the commit may have happened.
 *
 *   code                   retry?                       committed?
 *   CONFLICT               yes, with a new read version not committed  a key that was read has been written since
 *   TRANSACTION_TOO_OLD    yes, with a new read version not committed  the read version has left the readable window
 *   FUTURE_VERSION         yes                          not committed  the read version does not exist yet
 *   TIMEOUT                yes                          not committed  the deadline passed before the request was passed
 *                                                                      on, or during a read: ask for fewer rows
 *   NO_PRIMARY             yes                          not committed  there is no primary, or it cannot be reached
 *   OVERLOADED             yes, after a pause           not committed  too many requests are waiting
 *   STORAGE_FULL           yes, once there is space     not committed  the disk is full
 *   COMMIT_UNKNOWN_RESULT  yes, with the same           perhaps        the answer was lost; an idempotency id makes the
 *                          idempotency id, or after                    retry safe
 *                          reading
 *   INVALID_OPERATION      no                           not committed  unknown type, missing value, bad stamp buffer
 *   KEY_EMPTY              no                           not committed
 *   KEY_TOO_LARGE          no                           not committed
 *   VALUE_TOO_LARGE        no                           not committed
 *   TRANSACTION_TOO_LARGE  no: make smaller ones        not committed  too many bytes, or conflict keys and ranges
 *   UNKNOWN_COLUMN_FAMILY  no                           not committed  `error` names those that exist, and what creates one
 *   RESULT_TOO_LARGE       no: ask for fewer rows       a read
 *   CLUSTER_CHANGED        no: start again              a read         the versions are those of another cluster
 *   UNAUTHENTICATED        no: authenticate first       not committed  nobody knows who asks, or the token is not valid
 *   FORBIDDEN              no                           not committed  the user may not do this; `error` names the verb
 *   NOT_SUPPORTED          no                           not committed  this server does not support it
 *   OPERATION_FAILED       no                           not acknowledged  the storage failed
 *   COMMIT_FAILED          no                           not acknowledged  the same, of a commit
 *   PUT_FAILED             no                           not acknowledged  the same, of setKey
 *   DELETE_FAILED          no                           not acknowledged  the same, of deleteKey
 *
 * Fields and methods are never renumbered or renamed. Field ids from 100 up are additions of SynodKV; all are optional, so
 * that clients generated from an older file keep working.
 */

namespace rs kvstore
namespace py kvstore
namespace java kvstore
namespace go kvstore

// Parts of requests and replies

/** A key of one column family. */
struct KeyRef {
  1: required binary key,
  2: optional string column_family
}

/** The keys `begin_key <= key < end_key` of one column family. */
struct KeyRange {
  1: required binary begin_key,
  2: required binary end_key,
  3: optional string column_family
}

/**
 * Names a key by its position among the existing keys, like FoundationDB's key selectors. Take the last key that is less
 * than `key` (less or equal, when `or_equal`), then go `offset` keys forward (backward when negative). "First key >= k" is
 * {k, false, 1}; "first key > k" is {k, true, 1}; "last key <= k" is {k, true, 0}; "last key < k" is {k, false, 0}.
 *
 * Keys are those of the request's column family that exist at the version of the read. A selector that leaves them stops at
 * that end of the family. `offset` is -100,000 to 100,000, because every key on the way is visited.
 */
struct KeySelector {
  1: required binary key,
  2: required bool or_equal,
  3: required i32 offset
}

struct KeyValue {
  1: required binary key,
  2: required binary value
}

// ---------------------------------------------------------------------------------------------------------------------
// Single keys

struct GetRequest {
  1: required binary key,
  2: optional string column_family,
  /** `linearizable` (default): sees everything acknowledged before the call. `stale`: sees what this replica has applied. */
  110: optional string consistency,
  /**
   * The token of the user on whose behalf this one request is made, where one connection serves several. It takes the place
   * of what `authenticate` or a client certificate says about the connection.
   */
  190: optional string auth_token
}

/** A missing key is no error: `found` is false and `value` is empty. */
struct GetResponse {
  1: required binary value,
  2: required bool found,
  3: optional string error,
  100: optional string error_code,
  /** With NO_PRIMARY, when a primary is known but could not be reached: its HOST:PORT, as in `error`. */
  110: optional string leader_endpoint
}

struct SetRequest {
  1: required binary key,
  2: required binary value,
  3: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SetResponse {
  1: required bool success,
  2: optional string error,
  3: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

struct DeleteRequest {
  1: required binary key,
  2: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

/** Deleting a key that does not exist succeeds. */
struct DeleteResponse {
  1: required bool success,
  2: optional string error,
  3: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

// ---------------------------------------------------------------------------------------------------------------------
// Ranges

/**
 * The rows between two keys, in key order.
 *
 * The range begins at `begin_key` (absent: before every key; excluded when `begin_or_equal` is false) and ends before
 * `end_key` (absent: the one byte 0xFF; included when `end_or_equal`). `begin_offset` skips that many rows of the range
 * (negative: none). `end_offset` moves the end key itself: its bytes, read as one big-endian number, are increased or
 * decreased by this much; a carry out of the first byte appends a zero byte to a key of all 0xFF. A selector replaces the
 * fields of its end: `begin_selector` 1, 3 and 4, `end_selector` 2, 5 and 6; the range is that from the one key up to, not
 * including, the other. An inverted range is empty, which is a success.
 */
struct GetRangeRequest {
  1: optional binary begin_key,
  2: optional binary end_key,
  3: optional i32 begin_offset = 0,
  4: optional bool begin_or_equal = true,
  5: optional i32 end_offset = 0,
  6: optional bool end_or_equal = false,
  /** Maximum number of rows to return; 0 or less: no limit. */
  7: optional i32 limit = 1000,
  8: optional string column_family,
  /** Last row first; `limit` then keeps the rows nearest the end. */
  100: optional bool reverse,
  /** Permission to end the reply once it holds about this many bytes; `has_more` is then true. Without it a reply is never cut. */
  101: optional i32 target_bytes,
  102: optional KeySelector begin_selector,
  103: optional KeySelector end_selector,
  /** As in GetRequest. */
  110: optional string consistency,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct GetRangeResponse {
  1: required list<KeyValue> key_values,
  2: required bool success,
  3: optional string error,
  /** True exactly when another row exists in range. */
  4: required bool has_more = false,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

// ---------------------------------------------------------------------------------------------------------------------
// Reads of the past

/** Reads the value that the key had at `read_version`: commits after it stay invisible. */
struct SnapshotGetRequest {
  1: required binary key,
  2: required i64 read_version,
  3: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SnapshotGetResponse {
  1: required binary value,
  2: required bool found,
  3: optional string error,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

/** Like GetRangeRequest, as of `read_version`. */
struct SnapshotGetRangeRequest {
  1: optional binary begin_key,
  2: optional binary end_key,
  3: optional i32 begin_offset = 0,
  4: optional bool begin_or_equal = true,
  5: optional i32 end_offset = 0,
  6: optional bool end_or_equal = false,
  7: required i64 read_version,
  8: optional i32 limit = 1000,
  9: optional string column_family,
  100: optional bool reverse,
  101: optional i32 target_bytes,
  102: optional KeySelector begin_selector,
  103: optional KeySelector end_selector,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SnapshotGetRangeResponse {
  1: required list<KeyValue> key_values,
  2: required bool success,
  3: optional string error,
  4: required bool has_more = false,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

struct SnapshotReadRequest {
  1: required binary key,
  2: required i64 read_version,
  3: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SnapshotReadResponse {
  1: required binary value,
  2: required bool found,
  3: optional string error,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

struct GetReadVersionRequest {
  /** As in GetRequest. */
  190: optional string auth_token
}

struct GetReadVersionResponse {
  1: required i64 read_version,
  2: required bool success,
  3: optional string error,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

/**
 * Keeps `read_version` readable for `ttl_ms` milliseconds, even after it has left the window in which every version is
 * readable: at the server that is asked, and at no other. A pin ends with its time, with unpinSnapshot, with the server, and when the server's replica
 * gets a copy of another one's database; then reads say TRANSACTION_TOO_OLD. It does not help commits: their read version
 * must lie within the window.
 *
 * A version that is no longer readable is TRANSACTION_TOO_OLD, one that does not exist FUTURE_VERSION. Each pin is counted: a
 * version pinned twice needs two unpins. A server keeps 1,000 pins at a time; more are OVERLOADED.
 */
struct PinSnapshotRequest {
  1: required i64 read_version,
  /** 1 to the server's maximum (3,600,000, unless its settings say otherwise). */
  2: optional i64 ttl_ms = 60000,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct PinSnapshotResponse {
  1: required bool success,
  2: optional string error,
  /** When the pin ends by itself, in milliseconds since 1970 by the server's clock. */
  3: optional i64 expires_at_ms,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

struct UnpinSnapshotRequest {
  1: required i64 read_version,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct UnpinSnapshotResponse {
  1: required bool success,
  2: optional string error,
  100: optional string error_code
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions

/**
 * One change. `type`, upper or lower case alike:
 *
 *   set                       value
 *   delete
 *   SET_VERSIONSTAMPED_KEY    value; 10 bytes of `key` are overwritten by the commit's stamp
 *   SET_VERSIONSTAMPED_VALUE  value; 10 bytes of `value` are overwritten by the commit's stamp
 *   clear_range               removes every key from `key` up to, not including, `value`
 *   add, min, max, byte_min, byte_max, bit_and, bit_or, bit_xor, append_if_fits, compare_and_clear
 *                             change the stored value by the operand `value`, with the meaning that FoundationDB documents
 *                             (numbers are little-endian); no read conflict arises
 *
 * The stamp: 8 bytes big-endian commit version, then 2 bytes big-endian that count the stamped operations of the
 * commit from 0. A commit may hold 65,536 of them.
 */
struct Operation {
  1: required string type,
  2: required binary key,
  3: optional binary value,
  4: optional string column_family,
  /** Where the stamp begins in the key (value); absent: it takes the last 10 bytes. */
  100: optional i32 stamp_offset
}

/** All operations take effect at one version, or none does. */
struct AtomicCommitRequest {
  /** Used only if the request has conflicts. */
  1: required i64 read_version,
  2: required list<Operation> operations,
  /** Keys that were read. They carry no family: a write of such a key in any family is a conflict. */
  3: required list<binary> read_conflict_keys,
  /**
   * How long the caller waits. It can only shorten the server's own deadline (10 seconds, unless its settings say
   * otherwise); 0 or less has no effect. After that, the reply is TIMEOUT (certainly not committed) or
   * COMMIT_UNKNOWN_RESULT.
   */
  4: optional i64 timeout_seconds = 60,
  /** Ranges that were read: any write, delete or clear within one is a conflict. */
  100: optional list<KeyRange> read_conflict_ranges,
  /**
   * At most 255 bytes, chosen by the client, unique among all clients (16 random bytes will do). A repeat of a commit that
   * succeeded returns the first result instead of committing again, whichever replica is asked, for ten minutes. The
   * repeat must be the same in all else; another commit under the same id is INVALID_OPERATION. Only successes are
   * remembered. When the server remembers as many as it can, new ids are refused with OVERLOADED.
   */
  101: optional binary idempotency_id,
  /** Keys that were read, each in its family. */
  102: optional list<KeyRef> read_conflicts,
  /**
   * Idempotency ids of earlier commits whose replies have arrived. The server forgets their results at once instead of
   * after ten minutes, and so has room for more. Only commits that were sent once belong here: a copy of one that was sent
   * again may still be in flight, and would be executed again. At most 1,000. No effect if the commit has no operations.
   */
  103: optional list<binary> finished_idempotency_ids,
  /**
   * Whether the reply may carry fields 100 to 103. Stock Thrift libraries (Python, Rust) fail on a binary field that they do
   * not know, so clients that were made from an older file must not get them. Absent: yes if the request, or an
   * operation of it, has another field from 100 up, because then the client knows these.
   */
  104: optional bool include_details,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct AtomicCommitResponse {
  1: required bool success,
  2: optional string error,
  3: optional string error_code,
  /** Set on success. A commit without operations succeeds at its read version and writes nothing. */
  4: optional i64 committed_version,
  // Fields 100 to 103: see AtomicCommitRequest.include_details
  /** The 8 + 2 bytes of the first stamp of this commit, whether an operation used it or not. */
  100: optional binary versionstamp,
  /** Keys completed by SET_VERSIONSTAMPED_KEY, in the order of the operations. */
  101: optional list<binary> generated_keys,
  /** Values completed by SET_VERSIONSTAMPED_VALUE, in the order of the operations. */
  102: optional list<binary> generated_values,
  /**
   * With CONFLICT: those of the keys read that were written meanwhile, at most 100. For a cleared range, the place where
   * the clear begins in it.
   */
  103: optional list<KeyRef> conflicting_keys,
  /** Whether the transaction may succeed if it is run again from its reads. */
  104: optional bool retryable,
  /** Whether the commit may have happened despite the error. */
  105: optional bool maybe_committed,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

// ---------------------------------------------------------------------------------------------------------------------
// Versionstamps, one key at a time

/**
 * `key_prefix` is the whole key, despite its name, and has at least 10 bytes. When its last 10 bytes are zero the stamp
 * replaces them; otherwise the key is stored as it is.
 */
struct SetVersionstampedKeyRequest {
  1: required binary key_prefix,
  2: required binary value,
  3: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SetVersionstampedKeyResponse {
  1: required binary generated_key,
  2: required bool success,
  3: optional string error,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

/** `value_prefix` is the whole value, despite its name; otherwise as SetVersionstampedKeyRequest. */
struct SetVersionstampedValueRequest {
  1: required binary key,
  2: required binary value_prefix,
  3: optional string column_family,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct SetVersionstampedValueResponse {
  1: required binary generated_value,
  2: required bool success,
  3: optional string error,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

// ---------------------------------------------------------------------------------------------------------------------
// Calls of a stateful protocol that this service does not speak: conflicts and versions live in the client

struct AddReadConflictRequest {
  1: required binary key,
  2: optional string column_family
}

struct AddReadConflictResponse {
  1: required bool success,
  2: optional string error,
  100: optional string error_code
}

struct AddReadConflictRangeRequest {
  1: required binary start_key,
  2: required binary end_key,
  3: optional string column_family
}

struct AddReadConflictRangeResponse {
  1: required bool success,
  2: optional string error,
  100: optional string error_code
}

struct SetReadVersionRequest {
  1: required i64 version
}

struct SetReadVersionResponse {
  1: required bool success,
  2: optional string error,
  100: optional string error_code
}

struct GetCommittedVersionRequest {
}

struct GetCommittedVersionResponse {
  1: required i64 version,
  2: required bool success,
  3: optional string error,
  100: optional string error_code
}

// ---------------------------------------------------------------------------------------------------------------------
// Changes

/** The keys `begin_key <= key < end_key` of one column family; without `begin_key` from its first, without `end_key` to its end. */
struct ChangeRange {
  1: optional string column_family,
  2: optional binary begin_key,
  3: optional binary end_key
}

/**
 * Asks for the changes after a version. The call waits until there are some, but not longer than `max_wait_ms`. To go on,
 * send the `through_version` of the reply as the next `after_version`, to any server of the cluster: then each version comes
 * exactly once and in order.
 *
 * Replies leave a connection in the order of its requests. So a call that waits ends early, with what there is, when
 * another request arrives behind it. Use a connection of its own for it.
 */
struct PollChangesRequest {
  /** At least 1. Above the newest version the call waits. */
  1: required i64 after_version,
  /** At most 1,000; absent or empty: every key of every family. The caller needs `watch` and `read` on all of it. */
  2: optional list<ChangeRange> ranges,
  /** 0 to 30,000. */
  3: optional i32 max_wait_ms = 0,
  /** The reply ends before the version that would exceed this, but holds at least one. 1 to 16,777,216. */
  4: optional i32 max_bytes = 1048576,
  /** At least 1. */
  5: optional i32 max_versions,
  /** Whether set operations carry their values. */
  6: optional bool with_values = true,
  /** The `cluster_id` of an earlier reply. A server of another cluster refuses with CLUSTER_CHANGED. */
  7: optional string cluster_id,
  /** As in GetRequest. */
  190: optional string auth_token
}

/** What happened to a key or a range within the ranges that were asked for. */
struct ChangeOperation {
  /** "set", "delete" or "clear_range". Atomic mutations and versionstamps appear as the set that they resulted in. */
  1: required string type,
  2: required binary key,
  3: optional binary value,
  /** Of clear_range: the end of the range (exclusive); absent: the end of the family. */
  4: optional binary end_key,
  5: optional string column_family,
  /** "family_dropped", if a dropped family is why; otherwise absent. */
  6: optional string cause
}

struct ChangedVersion {
  1: required i64 version,
  /** Time of the cluster's log, which runs while the cluster does: it measures intervals, and is no time of day. */
  2: required i64 log_time_ms,
  /** Applied in this order. Ranges come first, and no key appears twice. */
  3: required list<ChangeOperation> operations
}

struct PollChangesResponse {
  1: required bool success,
  2: optional string error,
  /** Whole versions, in order. */
  3: required list<ChangedVersion> changes,
  /** Every version up to this one that touches the ranges is in `changes`, or was before. */
  4: required i64 through_version,
  /** Whether later versions exist already. */
  5: required bool has_more,
  /** Also with TRANSACTION_TOO_OLD: the lowest `after_version` that this server can continue from. */
  6: optional i64 oldest_version,
  /** Absent if the server is standalone. */
  7: optional string cluster_id,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

/** Waits until one of some keys changes. No conflict is involved, and values are not sent: read the keys that changed. */
struct WatchKeysRequest {
  /** At most 10,000. The caller needs `watch` and `read` on them. */
  1: required list<KeyRef> keys,
  /** The version at which the keys were read. */
  2: required i64 at_version,
  /** 0 to 30,000. */
  3: optional i32 max_wait_ms = 0,
  /** As in PollChangesRequest. */
  4: optional string cluster_id,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct WatchKeysResponse {
  1: required bool success,
  2: optional string error,
  /** The keys that were set, deleted or cleared after `at_version`, each once; empty when the time is up. */
  3: required list<KeyRef> changed,
  /** No other key has changed up to this version: the next `at_version`. */
  4: required i64 through_version,
  /** As in PollChangesResponse. */
  5: optional i64 oldest_version,
  6: optional string cluster_id,
  100: optional string error_code,
  /** As in GetResponse. */
  110: optional string leader_endpoint
}

// ---------------------------------------------------------------------------------------------------------------------
// Identity

/**
 * Says who uses this connection: every later request on it is made on behalf of the user of `token`, until another
 * `authenticate` succeeds. One that fails leaves the connection without a user, unless the server hears of the token later.
 * Requests need not wait for the reply.
 */
struct AuthenticateRequest {
  /** A token of `synodkv auth token create`, or a JWT that the server's settings accept. */
  1: required string token
}

struct AuthenticateResponse {
  1: required bool success,
  /** The user; absent while the server checks nothing, because authentication is not enabled. */
  2: optional string user,
  3: optional string error,
  100: optional string error_code
}

// ---------------------------------------------------------------------------------------------------------------------
// Testing aids

/**
 * Makes operations fail on purpose: `fault_type` becomes the `error_code` of `target_operation` with `probability` (up to
 * 1), after `duration_ms`, at the latest at the request's deadline. Targets: `commit` (every write), `get` and `range` (also
 * those of the past), `read_version`; absent: all. `retryable` and `maybe_committed` are what they would be with a real
 * error of that code. A probability of 0 or less clears the faults of that code; of all codes, when it is empty, `none` or
 * `all`. The fault acts in the server that was asked and touches no data. FORBIDDEN unless the server was started with fault
 * injection allowed.
 */
struct FaultInjectionRequest {
  1: required string fault_type,
  2: optional double probability = 0.0,
  3: optional i32 duration_ms = 0,
  4: optional string target_operation,
  /** As in GetRequest. */
  190: optional string auth_token
}

struct FaultInjectionResponse {
  1: required bool success,
  2: optional string error,
  100: optional string error_code
}

struct PingRequest {
  /** Echoed; absent: the reply says `pong`. */
  1: optional binary message,
  /** Echoed; absent: the reply says 0. */
  2: optional i64 timestamp
}

struct PingResponse {
  1: required binary message,
  2: required i64 timestamp,
  /** Microseconds since 1970. */
  3: required i64 server_timestamp
}

// ---------------------------------------------------------------------------------------------------------------------
// Reports of the cluster about itself

struct NodeStatus {
  1: required i32 node_id,
  2: required string endpoint,
  /** `healthy`, `degraded`, `unreachable` or `unknown`. */
  3: required string status,
  /** Whether this replica is primary. */
  4: required bool is_leader,
  /** Microseconds since 1970. */
  5: required i64 last_seen_timestamp,
  /** The replica's view number. */
  6: required i64 term,
  7: optional i64 uptime_seconds
}

struct ClusterHealth {
  1: required list<NodeStatus> nodes,
  2: required i32 healthy_nodes_count,
  3: required i32 total_nodes_count,
  4: optional NodeStatus leader,
  /** `healthy`, `degraded` or `unhealthy`. */
  5: required string cluster_status,
  /** The view number. */
  6: required i64 current_term
}

/** Statistics of the answering replica, since its process started unless stated otherwise. */
struct DatabaseStats {
  /** Visible rows; an estimate. Those of a cleared range count until they are removed. */
  1: required i64 total_keys,
  2: required i64 total_size_bytes,
  3: required i64 write_operations_count,
  4: required i64 read_operations_count,
  /** Of reads and writes, from the request's arrival to its reply. */
  5: required double average_response_time_ms,
  /** Commits in progress at this server. */
  6: required i64 active_transactions,
  /** Those of all clients of the cluster, because every replica decides every commit. */
  7: required i64 committed_transactions,
  8: required i64 aborted_transactions,
  9: optional i64 cache_hit_rate_percent,
  10: optional i64 compaction_pending_bytes
}

/** The limits of the answering server, in bytes unless stated otherwise. */
struct ServerLimits {
  /** Longest key. */
  1: required i64 max_key_bytes,
  /** Longest value. */
  2: required i64 max_value_bytes,
  /** Largest transaction: keys, values, both ends of ranges to clear, conflict keys, both ends of conflict ranges. */
  3: required i64 max_transaction_bytes,
  /** Maximum number of conflict keys and ranges of one commit; a count. */
  4: required i64 max_conflicts,
  /** Largest reply of a range. */
  5: required i64 max_reply_bytes
}

struct GetClusterHealthRequest {
  1: optional string auth_token
}

struct GetClusterHealthResponse {
  1: required bool success,
  2: optional ClusterHealth cluster_health,
  3: optional string error,
  100: optional string error_code,
  /** Present on success. Servers of one cluster should have the same limits, and each reports its own. */
  101: optional ServerLimits limits
}

struct GetDatabaseStatsRequest {
  1: optional string auth_token,
  2: optional bool include_detailed_stats = false
}

struct GetDatabaseStatsResponse {
  1: required bool success,
  2: optional DatabaseStats database_stats,
  3: optional string error,
  100: optional string error_code
}

struct GetNodeInfoRequest {
  1: optional string auth_token,
  /** Absent: the replica that answers. An unknown one is an error that contains `Node N not found`. */
  2: optional i32 node_id
}

struct GetNodeInfoResponse {
  1: required bool success,
  2: optional NodeStatus node_info,
  3: optional string error,
  100: optional string error_code
}

// ---------------------------------------------------------------------------------------------------------------------

service TransactionalKV {
  /** A version, at least 1, that covers every commit acknowledged before this call by any replica. */
  GetReadVersionResponse getReadVersion(1: GetReadVersionRequest request),

  /** The value as of a version; the same as snapshotGet, under its older name. */
  SnapshotReadResponse snapshotRead(1: SnapshotReadRequest request),

  /** Commits a transaction: all or nothing, durable when it returns. */
  AtomicCommitResponse atomicCommit(1: AtomicCommitRequest request),

  /** Reads one key; linearizable unless asked otherwise. */
  GetResponse get(1: GetRequest request),

  /** Writes one key, without conflict check. */
  SetResponse setKey(1: SetRequest request),

  /** Deletes one key, without conflict check. */
  DeleteResponse deleteKey(1: DeleteRequest request),

  /**
   * Reads a range. The reply is complete up to `limit`; one that would exceed the server's largest reply fails with
   * RESULT_TOO_LARGE unless `target_bytes` allows the server to cut it.
   */
  GetRangeResponse getRange(1: GetRangeRequest request),

  /** The value as of a version. */
  SnapshotGetResponse snapshotGet(1: SnapshotGetRequest request),

  /** A range as of a version. */
  SnapshotGetRangeResponse snapshotGetRange(1: SnapshotGetRangeRequest request),

  /** Always `success=false`: conflicts are collected by the client and sent with atomicCommit. */
  AddReadConflictResponse addReadConflict(1: AddReadConflictRequest request),

  /** Always `success=false`, as addReadConflict. */
  AddReadConflictRangeResponse addReadConflictRange(1: AddReadConflictRangeRequest request),

  /** Always `success=false`: the client keeps its read version. */
  SetReadVersionResponse setReadVersion(1: SetReadVersionRequest request),

  /** Always `success=false` with version 0: atomicCommit returns the committed version. */
  GetCommittedVersionResponse getCommittedVersion(1: GetCommittedVersionRequest request),

  SetVersionstampedKeyResponse setVersionstampedKey(1: SetVersionstampedKeyRequest request),

  SetVersionstampedValueResponse setVersionstampedValue(1: SetVersionstampedValueRequest request),

  FaultInjectionResponse setFaultInjection(1: FaultInjectionRequest request),

  /**
   * Says who uses this connection. As long as authentication is enabled, only this and `ping` are answered without it, unless
   * a client certificate or a token in the request says who asks; all else is UNAUTHENTICATED.
   */
  AuthenticateResponse authenticate(1: AuthenticateRequest request),

  /** Answered by the server that receives it, without the cluster. */
  PingResponse ping(1: PingRequest request),

  GetClusterHealthResponse getClusterHealth(1: GetClusterHealthRequest request),

  GetDatabaseStatsResponse getDatabaseStats(1: GetDatabaseStatsRequest request),

  GetNodeInfoResponse getNodeInfo(1: GetNodeInfoRequest request),

  /** Keeps a version readable for a while. Each pin is counted: a version pinned twice needs two unpins, or time. */
  PinSnapshotResponse pinSnapshot(1: PinSnapshotRequest request),

  /** Takes one pin of this version away; without a pin it does nothing and succeeds. */
  UnpinSnapshotResponse unpinSnapshot(1: UnpinSnapshotRequest request),

  /** The changes after a version, as soon as there are some: whole versions, in order, each once. */
  PollChangesResponse pollChanges(1: PollChangesRequest request),

  /** Waits until one of some keys has changed. */
  WatchKeysResponse watchKeys(1: WatchKeysRequest request)
}
