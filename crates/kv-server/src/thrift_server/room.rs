//! Memory of the whole process that connections share: reserved before it is used, and waited for.
//!
//! A connection has a little of its own ([`OWN_BYTES`], [`OWN_INPUT_BYTES`]), so that small calls reserve nothing. There
//! are four pools. None can be waited for in a circle:
//!
//! | pool | for what | given back when | who waits for it |
//! |---|---|---|---|
//! | `input` | a request that is arriving, up to [`INPUT_BYTES`] | its call has ended | holds nothing, or replies |
//! | `large_input` | a longer one | its call has ended | may hold `input` |
//! | `replies` | replies that are short for sure, or tried | the client has taken them | may hold input, no replies |
//! | `large_replies` | long replies, one for each connection | the client has taken it | may hold input and replies; its call is the first of its connection |
//!
//! The first call of a connection depends on nobody but its client, whom `write_timeout_ms` bounds; so `large_replies` come
//! back, then `replies`, then input.
//!
//! How long the reply to a range will be is not known before. Few are long: so it is tried with [`TRY_BYTES`], and only
//! where that does not suffice it is made again, alone, with [`MORE_ROOM`] times as much, and so on up to the longest that is
//! allowed. Room for the longest at once would keep everybody else waiting.
//!
//! A client that takes nothing of its replies holds what it was sent. While somebody waits for that memory, it is
//! disconnected sooner (`spared_idle_ms`).

use std::pin::Pin;
use std::task::{Context, Poll};

use kv_api::thrift::ThriftCall;
use kv_api::thrift::generated::{AtomicCommitRequest, Operation};
use kv_store::{MAX_REPORTED_CONFLICTS, STAMP_BYTES};

use super::ThriftServerOptions;
use crate::budget::{ByteBudget, Reserved};

/// What a connection may hold of calls and replies without reserving.
pub(super) const OWN_BYTES: usize = 8 << 10;
/// Size of an input buffer that needs no reservation.
pub(super) const OWN_INPUT_BYTES: usize = 8 << 10;
/// Size of an input buffer that most requests fit in.
pub(super) const INPUT_BYTES: usize = 256 << 10;
/// With how much room a range is tried.
const TRY_BYTES: usize = 256 << 10;
/// The step from one try to the next: what was read in vain is then little beside what is read in the end.
const MORE_ROOM: usize = 8;
/// Reservations for one reply beyond this are made in the pool of large ones.
const SMALL_BYTES: usize = 4 << 20;
/// Rows as they were read, the reply's struct, and its encoding.
const FORMS_OF_ROWS: usize = 3;
/// What surrounds a value in a reply, an error text included.
const ENVELOPE_BYTES: usize = 512;
/// What surrounds a row in a reply.
const ROW_BYTES: usize = 32;

/// Requests from this on are counted in the reservation they came with.
const COUNTED_REQUEST_BYTES: usize = 4 << 10;

/// Memory that is waited for.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Reserved> + Send>>;

/// The memory that all connections share.
#[derive(Clone, Debug)]
pub struct Pools {
    pub input: ByteBudget,
    pub large_input: ByteBudget,
    pub replies: ByteBudget,
    pub large_replies: ByteBudget,
}

impl Pools {
    pub(super) fn new(options: &ThriftServerOptions) -> Pools {
        let (requests, replies) = (options.max_request_memory_bytes, options.max_reply_memory_bytes);
        // The longest message needs twice its length: as it came, and decoded.
        let large_input = (requests / 2).max((2 * options.max_message_bytes).min(requests / 4 * 3));
        Pools {
            input: ByteBudget::new(requests - large_input),
            large_input: ByteBudget::new(large_input),
            replies: ByteBudget::new(replies / 4),
            large_replies: ByteBudget::new(replies - replies / 4),
        }
    }
}

/// What a call reserves before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    pub bytes: usize,
    /// In which pool.
    pub is_large: bool,
    /// How long its reply may be.
    pub room_bytes: usize,
}

impl Cost {
    /// `is_reserved`: the request's own bytes are. `reply_limit`: the longest reply.
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
                // With the full limit: a reply that is longer than it can be is for the service to refuse.
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
            // These answer with parts of the request, at most.
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

    /// For a range that did not fit, if a longer reply is allowed.
    pub fn next(self, reply_limit: usize) -> Option<Cost> {
        let room_bytes = self.room_bytes.saturating_mul(MORE_ROOM).min(reply_limit);
        let cost = Cost { bytes: room_bytes.saturating_mul(FORMS_OF_ROWS), is_large: true, room_bytes };
        (room_bytes > self.room_bytes).then_some(cost)
    }
}

/// Keys and values that were completed by the version, or keys that are in conflict: of ranges, any key within.
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

/// At once if possible; else in turn, and the task is woken then.
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

/// Takes what a decoded request needs out of what was reserved for the buffer, as long as that leaves enough for the buffer.
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
        ))
    }

    #[test]
    fn small_calls_need_less_than_a_connection_has() {
        assert!(cost(SetRequest::new(b"k".to_vec(), b"v".to_vec(), None)).bytes < OWN_BYTES);
        assert!(cost(PingRequest::default()).bytes < OWN_BYTES);
    }

    #[test]
    fn a_read_of_one_row_reserves_the_longest_value() {
        let cost = cost(GetRequest::new(b"k".to_vec(), None, None));
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
        let steps = std::iter::successors(Some(range(None, None)), |cost| cost.next(LIMIT));
        let rooms: Vec<usize> = steps.map(|cost| cost.room_bytes).collect();
        assert_eq!(rooms, [256 << 10, 2 << 20, 16 << 20, 64 << 20]);
    }

    #[test]
    fn both_kinds_of_ranges_are_counted_alike() {
        let snapshot =
            cost(SnapshotGetRangeRequest::new(None, None, None, None, None, None, 1, 7, None, None, None, None, None));
        assert_eq!(snapshot, range(Some(7), None));
    }

    #[test]
    fn what_is_echoed_is_counted_and_large_ones_go_to_their_own_pool() {
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
