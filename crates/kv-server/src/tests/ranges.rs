//! Tests of `getRange` and `snapshotGetRange` through a client.

use kv_api::thrift::wire::{Encoding, Protocol};

use super::*;

pub fn snapshot(range: wire::GetRangeRequest, read_version: i64) -> wire::SnapshotGetRangeRequest {
    wire::SnapshotGetRangeRequest {
        begin_key: range.begin_key,
        end_key: range.end_key,
        begin_offset: range.begin_offset,
        begin_or_equal: range.begin_or_equal,
        end_offset: range.end_offset,
        end_or_equal: range.end_or_equal,
        read_version,
        limit: range.limit,
        column_family: range.column_family,
        reverse: range.reverse,
        target_bytes: range.target_bytes,
        begin_selector: range.begin_selector,
        end_selector: range.end_selector,
        auth_token: None,
    }
}

fn between(begin: &[u8], end: &[u8]) -> wire::GetRangeRequest {
    wire::GetRangeRequest { begin_key: Some(begin.to_vec()), end_key: Some(end.to_vec()), ..everything() }
}

/// A server with the keys a, b, c, d, e, and a client.
pub async fn five_keys() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for key in [b"a", b"b", b"c", b"d", b"e"] {
        assert!(client.call(set(key, &key.to_ascii_uppercase())).await.success);
    }
    (server, client)
}

pub fn keys(reply: &wire::GetRangeResponse) -> String {
    assert!(reply.success, "{reply:?}");
    assert_eq!((&reply.error, &reply.error_code), (&None, &None));
    reply.key_values.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned()).collect()
}

#[tokio::test]
async fn ranges_mean_what_the_interface_says() {
    let (_server, mut client) = five_keys().await;
    let all = everything;
    // A request of clients that send every field that has a default.
    let spelled_out = || wire::GetRangeRequest {
        begin_offset: Some(0),
        begin_or_equal: Some(true),
        end_offset: Some(0),
        end_or_equal: Some(false),
        limit: Some(1000),
        column_family: Some(String::new()),
        target_bytes: Some(0),
        consistency: Some(String::new()),
        ..all()
    };
    let table: Vec<(&str, wire::GetRangeRequest, &str, bool)> = vec![
        ("everything", all(), "abcde", false),
        ("everything, with the defaults spelled out", spelled_out(), "abcde", false),
        ("begin inclusive, end exclusive", between(b"b", b"d"), "bc", false),
        ("begin exclusive", wire::GetRangeRequest { begin_or_equal: Some(false), ..between(b"b", b"d") }, "c", false),
        ("end inclusive", wire::GetRangeRequest { end_or_equal: Some(true), ..between(b"b", b"d") }, "bcd", false),
        ("inverted", between(b"d", b"b"), "", false),
        ("empty", between(b"b", b"b"), "", false),
        ("limit below", wire::GetRangeRequest { limit: Some(2), ..all() }, "ab", true),
        ("limit as many", wire::GetRangeRequest { limit: Some(5), ..all() }, "abcde", false),
        ("limit 0", wire::GetRangeRequest { limit: Some(0), ..all() }, "abcde", false),
        ("limit negative", wire::GetRangeRequest { limit: Some(-3), ..all() }, "abcde", false),
        ("begin offset", wire::GetRangeRequest { begin_offset: Some(2), ..all() }, "cde", false),
        ("begin offset negative", wire::GetRangeRequest { begin_offset: Some(-2), ..all() }, "abcde", false),
        ("begin offset past all", wire::GetRangeRequest { begin_offset: Some(9), ..all() }, "", false),
        (
            "begin offset and limit",
            wire::GetRangeRequest { begin_offset: Some(1), limit: Some(2), ..all() },
            "bc",
            true,
        ),
        ("end offset forth", wire::GetRangeRequest { end_offset: Some(2), ..between(b"a", b"b") }, "abc", false),
        ("end offset back", wire::GetRangeRequest { end_offset: Some(-2), ..between(b"a", b"d") }, "a", false),
        ("reverse", wire::GetRangeRequest { reverse: Some(true), limit: Some(2), ..all() }, "ed", true),
        ("target bytes", wire::GetRangeRequest { target_bytes: Some(1), ..all() }, "a", true),
    ];
    for (what, request, expected, has_more) in table {
        let reply = client.call(request).await;
        assert_eq!((keys(&reply).as_str(), reply.has_more), (expected, has_more), "{what}");
    }
}

#[tokio::test]
async fn a_range_stops_at_1000_rows_when_no_limit_is_given() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let operations = (0..1001u32).map(|n| wire::Operation {
        type_: "set".to_string(),
        key: n.to_be_bytes().to_vec(),
        value: Some(Vec::new()),
        column_family: None,
        stamp_offset: None,
    });
    assert!(client.call(commits::commit(0, operations.collect())).await.success);
    let reply = client.call(everything()).await;
    assert_eq!((reply.key_values.len(), reply.has_more), (1000, true));
    let reply = client.call(wire::GetRangeRequest { limit: Some(0), ..everything() }).await;
    assert_eq!((reply.key_values.len(), reply.has_more), (1001, false));
}

#[tokio::test]
async fn a_snapshot_range_sees_its_version() {
    let (_server, mut client) = five_keys().await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    client.call(delete(b"b")).await;
    client.call(set(b"c", b"new")).await;
    client.call(set(b"f", b"new")).await;
    let reply = client.call(snapshot(everything(), version)).await;
    assert!(reply.success && reply.error.is_none(), "{reply:?}");
    let values: Vec<u8> = reply.key_values.iter().flat_map(|row| row.value.clone()).collect();
    assert_eq!(values, b"ABCDE");
    let reply = client.call(everything()).await;
    assert_eq!(keys(&reply), "acdef");
    let reply = client.call(snapshot(everything(), version + 100)).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("FUTURE_VERSION")));
}

#[tokio::test]
async fn a_reply_above_the_limit_is_refused_and_never_cut() {
    let server = TestServer::with(|config| config.limits.max_reply_bytes = 1024).await;
    let mut client = server.client().await;
    for key in 0..20u8 {
        client.call(set(&[key], &[0; 100])).await;
    }
    let reply = client.call(everything()).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("RESULT_TOO_LARGE")));
    assert!(reply.key_values.is_empty());
    let with_target = wire::GetRangeRequest { target_bytes: Some(10_000), ..everything() };
    let reply = client.call(with_target).await;
    assert!(reply.success && reply.has_more && !reply.key_values.is_empty(), "{:?}", reply.error);
}

#[tokio::test]
async fn a_range_too_long_for_a_frame_is_refused_in_the_reply() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for key in 0..200u8 {
        assert!(client.call(set(&[key], &[7; 100_000])).await.success);
    }
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    client.encoding = Encoding { protocol: Protocol::Binary, framed: true };
    let reply = client.call(everything()).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("RESULT_TOO_LARGE")));
    let reply = client.call(snapshot(everything(), version)).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("RESULT_TOO_LARGE")));
    let with_target = wire::GetRangeRequest { target_bytes: Some(i32::MAX), ..everything() };
    let reply = client.call(with_target).await;
    assert!(reply.success && reply.has_more && reply.key_values.len() > 150, "{:?}", reply.error);
    // The same reply fits without frames.
    client.encoding.framed = false;
    assert_eq!(client.call(everything()).await.key_values.len(), 200);
}

#[tokio::test]
async fn the_longest_range_that_is_allowed_fits_into_a_frame_of_any_encoding() {
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let server = TestServer::with(|config| config.server.max_framed_reply_bytes = 1024).await;
        let mut client = server.client().await;
        for key in 0..60u8 {
            client.call(set(&[key], b"")).await;
        }
        client.encoding = Encoding { protocol, framed: true };
        let mut longest = 0;
        for limit in 1..=60 {
            let reply = client.call(wire::GetRangeRequest { limit: Some(limit), ..everything() }).await;
            if reply.success {
                longest = reply.key_values.len();
            } else {
                assert_eq!(reply.error_code.as_deref(), Some("RESULT_TOO_LARGE"));
            }
        }
        assert!(longest > 30, "{longest}");
    }
}

#[tokio::test]
async fn senseless_targets_are_refused() {
    let (_server, mut client) = five_keys().await;
    let request = wire::GetRangeRequest { target_bytes: Some(-1), ..everything() };
    assert_eq!(client.call(request).await.error_code.as_deref(), Some("INVALID_OPERATION"));
    let family = Some("nobody".to_string());
    let request = wire::GetRangeRequest { column_family: family, ..between(b"b", b"a") };
    assert_eq!(client.call(request).await.error_code.as_deref(), Some("UNKNOWN_COLUMN_FAMILY"));
}
