//! Scenario, legacy part: connection and single keys.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::generated::*;
use crate::kv::*;

pub const STEPS: &[Step] = &[
    ("ping echoes message and timestamp", ping_echoes_message_and_timestamp),
    ("ping without arguments says pong", ping_without_arguments_says_pong),
    ("a written key is read back", a_written_key_is_read_back),
    ("a missing key is no error", a_missing_key_is_no_error),
    ("an empty value is found", an_empty_value_is_found),
    ("an empty key is an error", an_empty_key_is_an_error),
    ("an unknown column family is an error", an_unknown_column_family_is_an_error),
    ("a column family has keys of its own", a_column_family_has_keys_of_its_own),
    ("a deleted key is gone and deleting it again succeeds", a_deleted_key_is_gone_and_deleting_it_again_succeeds),
    ("a large value passes unharmed", a_large_value_passes_unharmed),
    ("a value above the limit is refused with its code", a_value_above_the_limit_is_refused_with_its_code),
    ("keys are ordered by their bytes", keys_are_ordered_by_their_bytes),
    ("many requests get each its own reply", many_requests_get_each_its_own_reply),
];

fn ping_echoes_message_and_timestamp(kv: &mut Kv, _: &[u8]) {
    let request = PingRequest {
        message: Some(b"hello\0".to_vec()),
        timestamp: Some(42),
    };
    let reply = kv.next().ping(request).expect("a reply");
    assert_eq!((reply.message.as_slice(), reply.timestamp), (&b"hello\0"[..], 42));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    assert!((reply.server_timestamp - now).abs() < 60_000_000);
}

fn ping_without_arguments_says_pong(kv: &mut Kv, _: &[u8]) {
    let reply = kv.next().ping(PingRequest { message: None, timestamp: None }).expect("a reply");
    assert_eq!((reply.message.as_slice(), reply.timestamp), (&b"pong"[..], 0));
}

fn a_written_key_is_read_back(kv: &mut Kv, key: &[u8]) {
    kv.put(key, b"value\x00\xff");
    assert_eq!(kv.get(key).as_deref(), Some(&b"value\x00\xff"[..]));
}

fn a_missing_key_is_no_error(kv: &mut Kv, key: &[u8]) {
    let reply = kv.try_get(key, None);
    assert_eq!((reply.found, reply.value, reply.error), (false, Vec::new(), None));
}

fn an_empty_value_is_found(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "");
    let reply = kv.try_get(key, None);
    assert_eq!((reply.found, reply.value, reply.error), (true, Vec::new(), None));
}

fn an_empty_key_is_an_error(kv: &mut Kv, _: &[u8]) {
    let (text, code) = ("key cannot be empty", "KEY_EMPTY");
    let version = kv.version();
    failed(kv.try_get("", None), text, code);
    failed(kv.try_put("", "x", None), text, code);
    failed(kv.try_delete(b"", None), text, code);
    failed(kv.try_snapshot_read(b"", version, None), text, code);
    failed(kv.try_snapshot_get(b"", version), text, code);
}

fn an_unknown_column_family_is_an_error(kv: &mut Kv, key: &[u8]) {
    let (text, code) = ("Column family 'nowhere' not found", "UNKNOWN_COLUMN_FAMILY");
    let nowhere = Some("nowhere");
    let range = Range { begin_key: Some(key.to_vec()), column_family: nowhere.map(str::to_string), ..Range::default() };
    let version = kv.version();
    failed(kv.try_get(key, nowhere), text, code);
    failed(kv.try_put(key, "x", nowhere), text, code);
    failed(kv.try_delete(key, nowhere), text, code);
    failed(kv.next().get_range(range.clone().now()).expect("a reply"), text, code);
    failed(kv.try_snapshot_read(key, version, nowhere), text, code);
    failed(kv.next().snapshot_get_range(range.at(version)).expect("a reply"), text, code);
    failed(kv.commit(commit(0, vec![operation_in(nowhere, "set", key, Some(b"x"))], &[])), text, code);
}

fn a_column_family_has_keys_of_its_own(kv: &mut Kv, key: &[u8]) {
    succeeded(kv.try_put(key, "other", FAMILY));
    assert_eq!(kv.get_in(FAMILY, key).as_deref(), Some(&b"other"[..]));
    assert_eq!(kv.get(key), None);
    assert_eq!(kv.get_in(Some("default"), key), None);
    kv.put(key, "d");
    assert_eq!(kv.get_in(Some("default"), key).as_deref(), Some(&b"d"[..]));
    assert_eq!(kv.get_in(FAMILY, key).as_deref(), Some(&b"other"[..]));
}

fn a_deleted_key_is_gone_and_deleting_it_again_succeeds(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "x");
    for _ in 0..2 {
        succeeded(kv.try_delete(key, None));
        assert_eq!(kv.get(key), None);
    }
}

fn a_large_value_passes_unharmed(kv: &mut Kv, key: &[u8]) {
    let value: Vec<u8> = (0..=255).cycle().take(390 * 256).collect();
    kv.put(key, &value);
    assert!(kv.get(key) == Some(value));
    succeeded(kv.try_delete(key, None));
}

fn a_value_above_the_limit_is_refused_with_its_code(kv: &mut Kv, key: &[u8]) {
    failed(kv.try_put(key, vec![b'x'; 100_001], None), "100000", "VALUE_TOO_LARGE");
    assert_eq!(kv.get(key), None);
}

fn keys_are_ordered_by_their_bytes(kv: &mut Kv, key: &[u8]) {
    let tails: [&[u8]; 9] = [b"", b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"\x7f", b"\x80", b"\xff", b"\xff\x00"];
    let expected: Vec<_> =
        tails.iter().enumerate().map(|(number, tail)| (join(key, tail), number.to_string().into_bytes())).collect();
    kv.commit_all(expected.iter().rev().map(|(name, value)| operation("set", name, value)).collect());
    assert_eq!(kv.range(Range::new(key, join(key, b"\xff\xff"))).rows, expected);
}

/// This library sends one request at a time.
fn many_requests_get_each_its_own_reply(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        for number in 0..20 {
            kv.put(join(key, number.to_string()), format!("value {number}"));
        }
        for number in 0..20 {
            assert_eq!(kv.get(join(key, number.to_string())), Some(format!("value {number}").into_bytes()));
        }
    });
}
