//! The memory that all connections of the process share. A connection reserves memory before it
//! uses it, and waits until it is available.
//!
//! A connection has a little of its own ([`OWN_BYTES`], [`OWN_INPUT_BYTES`]), so that small calls
//! reserve nothing. There are four pools, and waiting for them cannot deadlock:
//!
//! | pool | for what | returned when | what a waiter may hold |
//! |---|---|---|---|
//! | `input` | a request that is arriving, up to [`INPUT_BYTES`] | its call has ended | nothing, or replies |
//! | `large_input` | a longer one | its call has ended | `input` |
//! | `replies` | replies that are certainly short, and first attempts | the client has read them | input, no replies |
//! | `large_replies` | long replies, one per connection | the client has read it | input and replies; only the first call of a connection waits |
//!
//! The first call of a connection depends only on its client, which `write_timeout_ms` bounds. So
//! `large_replies` become free, then `replies`, then input.
//!
//! The length of a range's reply is not known in advance, and few are long. So a range is first
//! tried with [`TRY_BYTES`]. If that is too little, the call is made again, alone, with
//! [`MORE_ROOM`] times as much, and so on up to the longest reply allowed. Reserving the longest at
//! once would keep all other calls waiting.
//!
//! A client that does not read its replies keeps their memory in use. While others wait for that
//! memory, the client is disconnected sooner (`spared_idle_ms`).

use std::pin::Pin;
use std::task::{Context, Poll};

use kv_api::thrift::ThriftCall;
use kv_api::thrift::generated::{AtomicCommitRequest, Operation};
use kv_store::{MAX_REPORTED_CONFLICTS, STAMP_BYTES};

use super::ThriftServerOptions;
use crate::byte_budget::{ByteBudget, Reserved};
use crate::changes::{DEFAULT_BYTES, MAX_BYTES};

/// Bytes of calls and replies that a connection may hold without a reservation.
pub(super) const OWN_BYTES: usize = 8 << 10;
/// Size of an input buffer that needs no reservation.
pub(super) const OWN_INPUT_BYTES: usize = 8 << 10;
/// Size of an input buffer that most requests fit in.
pub(super) const INPUT_BYTES: usize = 256 << 10;
/// Memory for the first attempt at a range.
const TRY_BYTES: usize = 256 << 10;
/// Memory for the first attempt at changes: less than a connection has of its own.
pub(crate) const POLL_BYTES: usize = 2 << 10;
/// The factor from one attempt to the next. It is large, so that the rows read in vain are few
/// compared with those of the last attempt.
const MORE_ROOM: usize = 8;
/// Larger reservations for one reply come from the pool of large replies.
const SMALL_BYTES: usize = 4 << 20;
/// A reply's rows exist three times: as read, in the reply's struct, and encoded.
const FORMS_OF_ROWS: usize = 3;
/// Overhead of a value in a reply, or of an error text.
const ENVELOPE_BYTES: usize = 512;
/// Overhead of a row in a reply.
const ROW_BYTES: usize = 32;

/// Requests of at least this size keep their part of the input buffer's reservation while they run.
const COUNTED_REQUEST_BYTES: usize = 4 << 10;

/// A reservation that is being waited for.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Reserved> + Send>>;

/// The memory pools that all connections share.
#[derive(Clone, Debug)]
pub struct Pools {
    /// For requests of medium length.
    pub input: ByteBudget,
    /// For long requests.
    pub large_input: ByteBudget,
    /// For short replies.
    pub replies: ByteBudget,
    /// For long replies.
    pub large_replies: ByteBudget,
}

impl Pools {
    pub(super) fn new(options: &ThriftServerOptions) -> Pools {
        let (requests, replies) = (options.max_request_memory_bytes, options.max_reply_memory_bytes);
        // The longest message needs twice its length: as received, and decoded.
        let large_input = (requests / 2).max((2 * options.max_message_bytes).min(requests / 4 * 3));
        Pools {
            input: ByteBudget::new(requests - large_input),
            large_input: ByteBudget::new(large_input),
            replies: ByteBudget::new(replies / 4),
            large_replies: ByteBudget::new(replies - replies / 4),
        }
    }
}

/// The memory that a call reserves before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Bytes to reserve.
    pub bytes: usize,
    /// Whether it comes from the pool of large replies.
    pub is_large: bool,
    /// Longest reply that fits the reservation.
    pub room_bytes: usize,
}

impl Cost {
    /// The cost of a call. `is_reserved` says whether the request's own bytes are reserved already.
    /// `reply_limit` is the longest reply allowed.
    pub fn of(
        call: &ThriftCall,
        request_bytes: usize,
        is_reserved: bool,
        reply_limit: usize,
        options: &ThriftServerOptions,
    ) -> Cost {
        let message_bytes = if is_reserved { 0 } else { request_bytes };
        let row = options.max_key_bytes + options.max_value_bytes + ROW_BYTES;
        let range = |limit: Option<i32>, target_bytes: Option<i32>| {
            let rows = usize::try_from(limit.unwrap_or(1000)).ok().filter(|rows| *rows > 0);
            let target = target_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
            let by_rows = rows.map_or(usize::MAX, |rows| rows.saturating_mul(row));
            let by_target = target.map_or(usize::MAX, |target| target.saturating_add(row));
            let longest = by_rows.min(by_target).saturating_add(ENVELOPE_BYTES).min(reply_limit);
            if longest.saturating_mul(FORMS_OF_ROWS) <= SMALL_BYTES && (target.is_some() || longest <= TRY_BYTES) {
                // With the full limit, because the reply cannot be longer than reserved; the
                // service refuses one that is.
                return Cost {
                    bytes: FORMS_OF_ROWS * longest + message_bytes,
                    is_large: false,
                    room_bytes: reply_limit,
                };
            }
            match target {
                Some(_) => {
                    Cost { bytes: longest.saturating_mul(FORMS_OF_ROWS), is_large: true, room_bytes: reply_limit }
                }
                None => {
                    let room_bytes = TRY_BYTES.min(reply_limit);
                    Cost { bytes: FORMS_OF_ROWS * room_bytes + message_bytes, is_large: false, room_bytes }
                }
            }
        };
        let reply_bytes = match call {
            ThriftCall::GetRange(request) => return range(request.limit, request.target_bytes),
            ThriftCall::SnapshotGetRange(request) => return range(request.limit, request.target_bytes),
            ThriftCall::Get(_) | ThriftCall::SnapshotGet(_) | ThriftCall::SnapshotRead(_) => {
                options.max_value_bytes + ENVELOPE_BYTES
            }
            // A call that waits holds next to nothing. When there is something, it is made again with
            // the memory for it.
            ThriftCall::PollChanges(_) | ThriftCall::WatchKeys(_) => {
                let room_bytes = POLL_BYTES.min(reply_limit);
                return Cost { bytes: FORMS_OF_ROWS * room_bytes, is_large: false, room_bytes };
            }
            // These replies contain at most parts of the request.
            ThriftCall::Ping(request) => request.message.as_ref().map_or(0, Vec::len) + ENVELOPE_BYTES,
            ThriftCall::SetVersionstampedKey(_) | ThriftCall::SetVersionstampedValue(_) => {
                request_bytes + ENVELOPE_BYTES
            }
            ThriftCall::AtomicCommit(request) => commit_reply_bytes(request, options.max_key_bytes),
            _ => ENVELOPE_BYTES,
        };
        let bytes = reply_bytes.min(reply_limit) + message_bytes;
        Cost { bytes, is_large: bytes > SMALL_BYTES, room_bytes: reply_limit }
    }

    /// The cost of the next attempt at a call whose reply did not fit, if a longer reply is allowed.
    pub fn next(self, call: &ThriftCall, reply_limit: usize) -> Option<Cost> {
        let room_bytes = match call {
            // What was asked for and its overhead, then what a single version may need.
            ThriftCall::PollChanges(request) if self.room_bytes <= POLL_BYTES => {
                let asked = usize::try_from(request.max_bytes.unwrap_or(DEFAULT_BYTES)).unwrap_or(0);
                2 * asked.min(MAX_BYTES as usize) + TRY_BYTES
            }
            ThriftCall::PollChanges(_) => reply_limit,
            _ => self.room_bytes.saturating_mul(MORE_ROOM),
        };
        let room_bytes = room_bytes.min(reply_limit);
        let cost = Cost { bytes: room_bytes.saturating_mul(FORMS_OF_ROWS), is_large: true, room_bytes };
        (room_bytes > self.room_bytes).then_some(cost)
    }
}

/// The longest reply to a commit: keys and values completed by versionstamps, or conflicting keys,
/// which for ranges may be any key within.
fn commit_reply_bytes(request: &AtomicCommitRequest, max_key_bytes: usize) -> usize {
    let is_stamped = |operation: &&Operation| operation.type_.contains("versionstamp");
    let stamped = request.operations.iter().filter(is_stamped);
    let completed = |operation: &Operation| {
        operation.key.len() + operation.value.as_ref().map_or(0, Vec::len) + STAMP_BYTES + ROW_BYTES
    };
    let conflicts = request.read_conflict_keys.len()
        + request.read_conflicts.as_ref().map_or(0, Vec::len)
        + request.read_conflict_ranges.as_ref().map_or(0, Vec::len);
    let reported = conflicts.min(MAX_REPORTED_CONFLICTS) * (max_key_bytes + ROW_BYTES);
    stamped.map(completed).sum::<usize>().max(reported) + ENVELOPE_BYTES
}

/// Reserves at once if possible; otherwise waits its turn, which wakes the task.
pub(super) fn wait(
    waiting: &mut Option<Waiting>,
    pool: &ByteBudget,
    bytes: usize,
    cx: &mut Context<'_>,
) -> Option<Reserved> {
    if waiting.is_none()
        && let Some(room) = pool.try_reserve(bytes)
    {
        return Some(room);
    }
    let turn = waiting.get_or_insert_with(|| Box::pin(pool.reserve(bytes)));
    match turn.as_mut().poll(cx) {
        Poll::Pending => None,
        Poll::Ready(room) => {
            *waiting = None;
            Some(room)
        }
    }
}

/// Splits the memory of a decoded request off the buffer's reservation, if that leaves enough for
/// the buffer.
pub(super) fn room_of_request(room: &mut Option<Reserved>, bytes: usize, buffer_bytes: usize) -> Option<Reserved> {
    let room = room.as_mut()?;
    let is_enough = bytes >= COUNTED_REQUEST_BYTES && room.bytes() >= bytes + buffer_bytes;
    is_enough.then(|| room.split(bytes)).flatten()
}

#[cfg(test)]
mod tests {
    use kv_api::thrift::generated::{GetRangeRequest, GetRequest, PingRequest, SetRequest, SnapshotGetRangeRequest};

    use super::*;

    const LIMIT: usize = 64 << 20;

    fn cost(call: impl Into<ThriftCall>) -> Cost {
        Cost::of(&call.into(), 100, false, LIMIT, &ThriftServerOptions::default())
    }

    fn range(limit: Option<i32>, target_bytes: Option<i32>) -> Cost {
        cost(GetRangeRequest::new(
            None,
            None,
            None,
            None,
            None,
            None,
            limit,
            None,
            None,
            target_bytes,
            None,
            None,
            None,
            None,
        ))
    }

    #[test]
    fn small_calls_need_less_than_a_connection_has() {
        assert!(cost(SetRequest::new(b"k".to_vec(), b"v".to_vec(), None, None)).bytes < OWN_BYTES);
        assert!(cost(PingRequest::default()).bytes < OWN_BYTES);
    }

    #[test]
    fn a_read_of_one_row_reserves_the_longest_value() {
        let cost = cost(GetRequest::new(b"k".to_vec(), None, None, None));
        assert!(cost.bytes >= 100_000 && cost.bytes < 110_000 && !cost.is_large, "{cost:?}");
    }

    #[test]
    fn a_range_is_tried_with_little_unless_it_says_how_much_it_wants() {
        for cost in [range(None, None), range(Some(0), None), range(Some(-1), None), range(Some(5_000), None)] {
            assert_eq!((cost.is_large, cost.room_bytes), (false, TRY_BYTES));
            assert!(cost.bytes >= 3 * TRY_BYTES);
        }
        let one = range(Some(1), None);
        assert_eq!((one.is_large, one.room_bytes), (false, LIMIT), "one row fits for sure");
        let page = range(None, Some(1 << 20));
        assert_eq!((page.is_large, page.room_bytes), (false, LIMIT));
        assert!(page.bytes > 3 << 20);
        let large = range(None, Some(10 << 20));
        assert!(large.is_large && large.bytes > 30 << 20, "{large:?}");
    }

    #[test]
    fn room_grows_up_to_the_limit() {
        let call = ThriftCall::from(GetRangeRequest::default());
        let steps = std::iter::successors(Some(range(None, None)), |cost| cost.next(&call, LIMIT));
        let rooms: Vec<usize> = steps.map(|cost| cost.room_bytes).collect();
        assert_eq!(rooms, [256 << 10, 2 << 20, 16 << 20, 64 << 20]);
    }

    #[test]
    fn both_kinds_of_ranges_are_counted_alike() {
        let snapshot = cost(SnapshotGetRangeRequest::new(
            None, None, None, None, None, None, 1, 7, None, None, None, None, None, None,
        ));
        assert_eq!(snapshot, range(Some(7), None));
    }

    #[test]
    fn an_echo_is_counted_and_a_large_one_uses_the_large_pool() {
        let call = ThriftCall::from(PingRequest { message: Some(vec![0; 10 << 20]), timestamp: None });
        let cost = Cost::of(&call, 10 << 20, true, LIMIT, &ThriftServerOptions::default());
        assert!(cost.is_large && cost.bytes > 10 << 20);
    }

    #[test]
    fn the_longest_message_fits_its_pool() {
        let options = ThriftServerOptions::default();
        let pools = Pools::new(&options);
        assert!(pools.large_input.bytes() >= 2 * options.max_message_bytes);
        assert!(pools.large_replies.bytes() >= 3 * options.max_reply_bytes);
        assert!(pools.input.bytes() + pools.large_input.bytes() <= options.max_request_memory_bytes);
        assert!(pools.replies.bytes() + pools.large_replies.bytes() <= options.max_reply_memory_bytes);
    }
}
