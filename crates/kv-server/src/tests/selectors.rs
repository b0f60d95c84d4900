//! Tests of ranges between key selectors, through a client.

use super::ranges::{five_keys, keys, snapshot};
use super::*;

fn selector(key: &[u8], or_equal: bool, offset: i32) -> Option<wire::KeySelector> {
    Some(wire::KeySelector { key: key.to_vec(), or_equal, offset })
}

fn from(begin: Option<wire::KeySelector>) -> wire::GetRangeRequest {
    wire::GetRangeRequest { begin_selector: begin, ..everything() }
}

#[tokio::test]
async fn a_selector_stands_for_the_fields_of_its_end() {
    let (_server, mut client) = five_keys().await;
    let to = |request, end| wire::GetRangeRequest { end_selector: end, ..request };
    let first_from_c = || selector(b"c", false, 1);
    let table: Vec<(&str, wire::GetRangeRequest, &str, bool)> = vec![
        ("first key >= c", from(first_from_c()), "cde", false),
        ("first key > c", from(selector(b"c", true, 1)), "de", false),
        ("last key <= c", from(selector(b"c", true, 0)), "cde", false),
        ("last key < c", from(selector(b"c", false, 0)), "bcde", false),
        ("two keys before", from(selector(b"c", false, -1)), "abcde", false),
        ("far beyond the end", from(selector(b"c", false, 100)), "", false),
        ("far before the begin", from(selector(b"c", false, -100)), "abcde", false),
        ("up to the last key", to(everything(), selector(b"\xff", false, 0)), "abcd", false),
        ("up to the end", to(everything(), selector(b"\xff", false, 1)), "abcde", false),
        ("between two", to(from(first_from_c()), selector(b"e", true, 0)), "cd", false),
        (
            "limited",
            wire::GetRangeRequest { limit: Some(2), ..to(from(first_from_c()), selector(b"e", true, 1)) },
            "cd",
            true,
        ),
        ("backward", wire::GetRangeRequest { reverse: Some(true), limit: Some(2), ..from(first_from_c()) }, "ed", true),
        ("inverted", to(from(selector(b"e", true, 0)), selector(b"b", false, 1)), "", false),
        (
            "other fields of that end say nothing",
            wire::GetRangeRequest {
                begin_key: Some(b"e".to_vec()),
                begin_offset: Some(4),
                begin_or_equal: Some(false),
                end_key: Some(b"d".to_vec()),
                ..from(first_from_c())
            },
            "c",
            false,
        ),
        (
            "the other end keeps its fields",
            wire::GetRangeRequest { begin_offset: Some(1), end_offset: Some(7), ..to(everything(), first_from_c()) },
            "b",
            false,
        ),
    ];
    for (what, request, expected, has_more) in table {
        let reply = client.call(request).await;
        assert_eq!((keys(&reply).as_str(), reply.has_more), (expected, has_more), "{what}");
    }
}

#[tokio::test]
async fn selectors_are_resolved_at_the_version_of_the_read() {
    let (_server, mut client) = five_keys().await;
    let before = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    client.call(delete(b"b")).await;
    let clear = wire::Operation {
        type_: "clear_range".into(),
        key: b"c".to_vec(),
        value: Some(b"e".to_vec()),
        column_family: None,
        stamp_offset: None,
    };
    assert!(client.call(commits::commit(0, vec![clear])).await.success);
    let before_e = || from(selector(b"e", false, -1));
    let then = client.call(snapshot(before_e(), before)).await;
    let then: Vec<u8> = then.key_values.into_iter().flat_map(|row| row.key).collect();
    assert_eq!(then, b"cde");
    let now = client.call(before_e()).await;
    assert_eq!(keys(&now), "ae");
}

#[tokio::test]
async fn a_selector_that_goes_too_far_and_an_unknown_family_are_refused() {
    let (_server, mut client) = five_keys().await;
    let reply = client.call(from(selector(b"a", true, 100_001))).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("INVALID_OPERATION")));
    assert!(reply.error.expect("an error").contains("begin_selector.offset = 100001"));
    assert!(client.call(from(selector(b"a", true, 100_000))).await.success);
    let elsewhere = wire::GetRangeRequest { column_family: Some("nobody".into()), ..from(selector(b"a", true, 1)) };
    assert_eq!(client.call(elsewhere).await.error_code.as_deref(), Some("UNKNOWN_COLUMN_FAMILY"));
}
