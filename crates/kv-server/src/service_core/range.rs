//! The meaning of a range request: its defaults, its inclusive and exclusive ends, and the
//! arithmetic of its offsets.

use bytes::Bytes;
use kv_api::{KeySelector, KvError, MAX_SELECTOR_OFFSET, RangeQuery};

/// A range as clients describe it. `None` means that the client left the field out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// As in the Thrift interface.
    pub begin: Option<Bytes>,
    /// As in the Thrift interface.
    pub end: Option<Bytes>,
    /// As in the Thrift interface.
    pub begin_offset: Option<i32>,
    /// As in the Thrift interface.
    pub begin_or_equal: Option<bool>,
    /// As in the Thrift interface.
    pub end_offset: Option<i32>,
    /// As in the Thrift interface.
    pub end_or_equal: Option<bool>,
    /// Maximum number of rows; 1000 if absent, unlimited if 0 or less.
    pub limit: Option<i32>,
    /// The column family; absent or empty for the default one.
    pub column_family: Option<String>,
    /// Last row first.
    pub reverse: bool,
    /// The reply may end once it holds this many bytes; 0 has no effect.
    pub target_bytes: Option<i32>,
    /// Replaces `begin`, `begin_offset` and `begin_or_equal`.
    pub begin_selector: Option<KeySelector>,
    /// Replaces `end`, `end_offset` and `end_or_equal`.
    pub end_selector: Option<KeySelector>,
}

const DEFAULT_END: &[u8] = &[0xFF];
const DEFAULT_LIMIT: i32 = 1000;

/// Converts a request to inclusive begin, exclusive end, rows to skip, and limit. The resulting
/// range may be empty.
pub(super) fn normalise(
    request: RangeRequest,
    column_family: String,
    max_key_bytes: usize,
    max_reply_bytes: u64,
) -> Result<RangeQuery, KvError> {
    check_selector("begin_selector", request.begin_selector.as_ref())?;
    check_selector("end_selector", request.end_selector.as_ref())?;
    let target_bytes = match request.target_bytes {
        // Some generated clients send 0 for a field that was left out.
        None | Some(0) => None,
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                return Err(KvError::InvalidOperation(format!("target_bytes = {bytes}: it cannot be negative")));
            }
        },
    };
    let begin = request.begin.unwrap_or_default();
    let begin = if request.begin_or_equal.unwrap_or(true) { begin } else { first_key_after(&begin) };
    let end = request.end.unwrap_or_else(|| Bytes::from_static(DEFAULT_END));
    let end = step(end, request.end_offset.unwrap_or(0), max_key_bytes);
    let end = if request.end_or_equal.unwrap_or(false) { first_key_after(&end) } else { end };
    let skip = if request.begin_selector.is_some() { 0 } else { request.begin_offset.unwrap_or(0) };
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT);
    Ok(RangeQuery {
        begin,
        end,
        begin_selector: request.begin_selector,
        end_selector: request.end_selector,
        column_family,
        skip: u64::try_from(skip).unwrap_or(0),
        limit: u64::try_from(limit).ok().filter(|limit| *limit > 0),
        reverse: request.reverse,
        target_bytes,
        max_bytes: max_reply_bytes,
    })
}

fn check_selector(field: &str, selector: Option<&KeySelector>) -> Result<(), KvError> {
    match selector.map(|selector| selector.offset) {
        Some(offset) if offset.unsigned_abs() > MAX_SELECTOR_OFFSET => Err(KvError::InvalidOperation(format!(
            "{field}.offset = {offset}; allowed: -{MAX_SELECTOR_OFFSET} to {MAX_SELECTOR_OFFSET}; every key on the way \
             is looked at"
        ))),
        _ => Ok(()),
    }
}

fn first_key_after(key: &[u8]) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    Bytes::from(after)
}

/// The key `offset` steps away, treating keys as big-endian numbers of their own length. The step
/// after all-0xFF appends a 0x00; nothing lies below all-0x00. The cost depends on the key's
/// length, not on the offset.
fn step(key: Bytes, offset: i32, max_key_bytes: usize) -> Bytes {
    if offset == 0 {
        return key;
    }
    let mut number = key.to_vec();
    let steps = u64::from(offset.unsigned_abs());
    if offset < 0 {
        subtract(&mut number, steps);
    } else if let Some(beyond) = add(&mut number, steps) {
        append(&mut number, beyond, max_key_bytes);
    }
    Bytes::from(number)
}

/// Adds in place. If the sum exceeds all-0xFF, leaves all-0xFF and returns the excess.
fn add(number: &mut [u8], steps: u64) -> Option<u64> {
    // Only the last 8 bytes can absorb `steps`; beyond them there is at most a carry of one. A
    // distance to all-0xFF that does not fit in 64 bits is large enough.
    let distance = number
        .iter()
        .try_fold(0u64, |distance, byte| distance.checked_mul(256).and_then(|d| d.checked_add(u64::from(0xFF - byte))));
    if let Some(distance) = distance.filter(|distance| *distance < steps) {
        number.fill(0xFF);
        return Some(steps - distance);
    }
    let mut carry = steps;
    for byte in number.iter_mut().rev() {
        carry += u64::from(*byte);
        *byte = carry as u8;
        carry >>= 8;
    }
    None
}

/// Moves `steps` >= 1 beyond all-0xFF: the first appends 0x00, the next 255 increment that byte,
/// and so on.
fn append(number: &mut Vec<u8>, steps: u64, max_key_bytes: usize) {
    let full = (steps - 1) / 256;
    let last = ((steps - 1) % 256) as u8;
    let room = (max_key_bytes + 1).saturating_sub(number.len()) as u64;
    if full >= room {
        // This is already beyond the longest possible key; growing further would only use memory.
        number.resize(number.len().max(max_key_bytes + 1), 0xFF);
        return;
    }
    number.resize(number.len() + full as usize, 0xFF);
    number.push(last);
}

/// Subtracts in place, but never below all-0x00.
fn subtract(number: &mut [u8], steps: u64) {
    let mut borrow = steps;
    for byte in number.iter_mut().rev() {
        let take = (borrow & 0xFF) as u8;
        let (difference, below) = byte.overflowing_sub(take);
        *byte = difference;
        borrow = (borrow >> 8) + u64::from(below);
    }
    if borrow > 0 {
        number.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(request: RangeRequest) -> RangeQuery {
        normalise(request, String::new(), 100, 1 << 20).unwrap()
    }

    fn bytes(bytes: &[u8]) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_range_without_fields_is_everything_below_0xff_up_to_1000_rows() {
        let query = query(RangeRequest::default());
        assert_eq!((&query.begin[..], &query.end[..]), (&[][..], &[0xFF][..]));
        assert_eq!((query.skip, query.limit, query.reverse), (0, Some(1000), false));
    }

    #[test]
    fn ends_are_normalised_to_inclusive_and_exclusive() {
        let cases: [(bool, bool, &[u8], &[u8]); 4] = [
            (true, false, b"a", b"b"),
            (false, false, b"a\0", b"b"),
            (true, true, b"a", b"b\0"),
            (false, true, b"a\0", b"b\0"),
        ];
        for (begin_or_equal, end_or_equal, begin, end) in cases {
            let request = RangeRequest {
                begin: bytes(b"a"),
                end: bytes(b"b"),
                begin_or_equal: Some(begin_or_equal),
                end_or_equal: Some(end_or_equal),
                ..RangeRequest::default()
            };
            let query = query(request);
            assert_eq!((&query.begin[..], &query.end[..]), (begin, end), "{begin_or_equal} {end_or_equal}");
        }
    }

    #[test]
    fn a_limit_of_0_or_less_is_no_limit_and_a_negative_begin_offset_is_0() {
        for limit in [0, -1, i32::MIN] {
            let request = RangeRequest { limit: Some(limit), begin_offset: Some(-5), ..RangeRequest::default() };
            let query = query(request);
            assert_eq!((query.limit, query.skip), (None, 0));
        }
    }

    #[test]
    fn a_selector_stands_for_the_fields_of_its_end() {
        let from = KeySelector::last_less_than("m");
        let request = RangeRequest {
            begin: bytes(b"z"),
            end: bytes(b"x"),
            begin_offset: Some(3),
            end_offset: Some(1),
            begin_selector: Some(from.clone()),
            ..RangeRequest::default()
        };
        let query = query(request);
        assert_eq!((query.begin_selector, query.skip), (Some(from), 0));
        assert_eq!((query.end_selector, &query.end[..]), (None, &b"y"[..]));
    }

    #[test]
    fn a_selector_that_goes_too_far_is_refused_with_what_is_allowed() {
        for offset in [100_001, -100_001, i32::MIN] {
            let end_selector = Some(KeySelector { key: "m".into(), or_equal: true, offset });
            let request = RangeRequest { end_selector, ..RangeRequest::default() };
            let error = normalise(request, String::new(), 100, 1 << 20).unwrap_err().to_string();
            assert!(error.contains("end_selector.offset") && error.contains("-100000 to 100000"), "{error}");
        }
    }

    #[test]
    fn the_end_steps_as_a_number_with_carry() {
        let table: &[(&[u8], i32, &[u8])] = &[
            (b"a", 0, b"a"),
            (b"a", 1, b"b"),
            (b"b", -1, b"a"),
            (&[0x01, 0xFF], 1, &[0x02, 0x00]),
            (&[0x01, 0x00], -1, &[0x00, 0xFF]),
            (&[0x01, 0x00, 0x00], -0x10000, &[0x00, 0x00, 0x00]),
            (&[0x00, 0x00], -1, &[0x00, 0x00]),
            (&[0x05], -6, &[0x00]),
            (&[0xFE], 1, &[0xFF]),
            (&[0xFF], 1, &[0xFF, 0x00]),
            (&[0xFF], 2, &[0xFF, 0x01]),
            (&[0xFF], 256, &[0xFF, 0xFF]),
            (&[0xFF], 257, &[0xFF, 0xFF, 0x00]),
            (&[0xFE], 2, &[0xFF, 0x00]),
            (&[], 1, &[0x00]),
            (&[0x00; 12], i32::MAX, &[0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF]),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE], 1, &[0xFF; 10]),
        ];
        for (key, offset, expected) in table {
            let stepped = step(Bytes::copy_from_slice(key), *offset, 100);
            assert_eq!(&stepped[..], *expected, "{key:x?} {offset:+}");
        }
    }

    #[test]
    fn a_huge_offset_does_not_grow_the_end_beyond_the_longest_key() {
        let stepped = step(Bytes::from_static(&[0xFF]), i32::MAX, 100);
        assert_eq!(&stepped[..], &[0xFF; 101]);
    }

    fn one_step_at_a_time(key: &[u8], offset: i32) -> Vec<u8> {
        let mut key = key.to_vec();
        for _ in 0..offset.unsigned_abs() {
            if offset > 0 {
                match key.iter().rposition(|byte| *byte != 0xFF) {
                    Some(place) => {
                        key[place] += 1;
                        key[place + 1..].fill(0);
                    }
                    None => key.push(0),
                }
            } else if let Some(place) = key.iter().rposition(|byte| *byte != 0) {
                key[place] -= 1;
                key[place + 1..].fill(0xFF);
            }
        }
        key
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_stepping_one_at_a_time(
            key in prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..12),
            offset in -3000i32..3000,
        ) {
            let stepped = step(Bytes::from(key.clone()), offset, 100);
            prop_assert_eq!(stepped.to_vec(), one_step_at_a_time(&key, offset));
        }
    }
}
