//! Scenario, extensions: what only clients made from the present interface have.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::generated::*;
use crate::kv::*;
use crate::ranges::{fill_letters, in_family, joined};
use crate::stamps_and_the_rest::{set_stamped_key, ROOM};

/// A token that nobody has.
const UNKNOWN_TOKEN: &str =
    "synodkv_00000000000000ff_0000000000000000000000000000000000000000000000000000000000000000";

pub const STEPS: &[Step] = &[
    ("replies of reads carry an error code", replies_of_reads_carry_an_error_code),
    ("a stale read needs no agreement", a_stale_read_needs_no_agreement),
    ("a range can be read from its end", a_range_can_be_read_from_its_end),
    ("a range may be cut short by bytes when asked", a_range_may_be_cut_short_by_bytes_when_asked),
    ("key selectors choose the ends of a range", key_selectors_choose_the_ends_of_a_range),
    ("a pinned snapshot can be unpinned", a_pinned_snapshot_can_be_unpinned),
    ("a range that was read conflicts with writes inside it", a_range_that_was_read_conflicts_with_writes_inside_it),
    ("a conflict with a family counts only there", a_conflict_with_a_family_counts_only_there),
    ("a conflict says what it met and what to do", a_conflict_says_what_it_met_and_what_to_do),
    ("a mistake is not to be tried again", a_mistake_is_not_to_be_tried_again),
    ("a commit tells the keys and values that it made", a_commit_tells_the_keys_and_values_that_it_made),
    ("a reply holds no details that its client may not know", a_reply_holds_no_details_that_its_client_may_not_know),
    ("clear_range removes its range", clear_range_removes_its_range),
    ("add counts", add_counts),
    ("min and max compare as numbers", min_and_max_compare_as_numbers),
    ("byte_min and byte_max compare as bytes", byte_min_and_byte_max_compare_as_bytes),
    ("bits are combined", bits_are_combined),
    ("append_if_fits appends", append_if_fits_appends),
    ("compare_and_clear clears what is equal", compare_and_clear_clears_what_is_equal),
    ("operations of a commit are executed in their order", operations_of_a_commit_are_executed_in_their_order),
    ("a repeated commit returns the first result", a_repeated_commit_returns_the_first_result),
    ("a finished idempotency id is forgotten", a_finished_idempotency_id_is_forgotten),
    ("authenticate tells the user of the connection", authenticate_tells_the_user_of_the_connection),
    (
        "a token of nobody takes the identity of a connection away",
        a_token_of_nobody_takes_the_identity_of_a_connection_away,
    ),
    ("a token in a request counts for that request", a_token_in_a_request_counts_for_that_request),
    ("the limits of the server are reported", the_limits_of_the_server_are_reported),
];

fn set_all(names: &[Vec<u8>], value: impl AsRef<[u8]>) -> Vec<Operation> {
    names.iter().map(|name| operation("set", name, &value)).collect()
}

fn replies_of_reads_carry_an_error_code(kv: &mut Kv, key: &[u8]) {
    let future = kv.version() + FUTURE;
    assert_eq!(kv.try_get("", None).error_code.as_deref(), Some("KEY_EMPTY"));
    assert_eq!(kv.try_get(key, Some("nowhere")).error_code.as_deref(), Some("UNKNOWN_COLUMN_FAMILY"));
    assert_eq!(kv.try_snapshot_get(key, future).error_code.as_deref(), Some("FUTURE_VERSION"));
    assert_eq!(set_stamped_key(kv, vec![0; 9]).error_code.as_deref(), Some("INVALID_OPERATION"));
}

fn a_stale_read_needs_no_agreement(kv: &mut Kv, key: &[u8]) {
    let request = |consistency: &str| GetRequest {
        key: key.to_vec(),
        column_family: None,
        consistency: Some(consistency.into()),
        auth_token: None,
    };
    kv.put(key, "x");
    // The state that this replica has applied may be older than the write.
    let stale = value_of(kv.next().get(request("stale")).expect("a reply"), |reply| (reply.found, reply.value));
    assert!(stale.is_none() || stale.as_deref() == Some(b"x"));
    let range = Range::new(key, join(key, b"\xff")).now();
    let range = kv.next().get_range(GetRangeRequest { consistency: Some("stale".into()), ..range });
    assert!(succeeded(range.expect("a reply")).key_values.len() <= 1);
    let agreed = value_of(kv.next().get(request("linearizable")).expect("a reply"), |reply| (reply.found, reply.value));
    assert_eq!(agreed.as_deref(), Some(&b"x"[..]));
    failed(kv.next().get(request("whatever")).expect("a reply"), "", "INVALID_OPERATION");
}

fn a_range_can_be_read_from_its_end(kv: &mut Kv, key: &[u8]) {
    let all = names(key, "4 3 2 1 0");
    kv.commit_all(set_all(&all, "x"));
    for (limit, count, has_more) in [(None, 5, false), (Some(2), 2, true)] {
        let range = Range { reverse: Some(true), limit, ..Range::new(key, join(key, b"\xff")) };
        let now = kv.range(range.clone());
        let version = kv.version();
        let then = kv.snapshot_range(version, range);
        assert_eq!((now.keys(), now.has_more), (all[..count].to_vec(), has_more));
        assert_eq!(then, now);
    }
}

fn a_range_may_be_cut_short_by_bytes_when_asked(kv: &mut Kv, key: &[u8]) {
    let all = names(key, "0 1 2 3 4");
    kv.commit_all(set_all(&all, [b'x'; 100]));
    let mut cut = |bytes| kv.range(Range { target_bytes: Some(bytes), ..Range::new(key, join(key, b"\xff")) });
    let (part, least) = (cut(250), cut(1));
    assert!((1..5).contains(&part.rows.len()) && part.has_more);
    assert_eq!(part.keys(), all[..part.rows.len()]);
    assert_eq!((least.keys(), least.has_more), (all[..1].to_vec(), true));
}

fn key_selectors_choose_the_ends_of_a_range(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    let selector = |(key, or_equal, offset): (&str, bool, i32)| KeySelector { key: key.into(), or_equal, offset };
    let selectors = |begin, end: Option<(&str, bool, i32)>| {
        let (begin_selector, end_selector) = (Some(selector(begin)), end.map(selector));
        in_family(Range { begin_selector, end_selector, ..Range::default() })
    };
    for (begin, end, expected) in [
        (("c", false, 1), Some(("e", false, 1)), "c d"),
        (("c", true, 1), None, "d e"),
        (("c", true, 0), Some(("d", true, 1)), "c d"),
        (("c", false, 0), None, "b c d e"),
        (("b", false, 2), None, "c d e"),
        (("bb", true, 0), Some(("bb", true, 1)), "b"),
    ] {
        assert_eq!(joined(&kv.range(selectors(begin, end))), expected);
    }
    let version = kv.version();
    let then = kv.snapshot_range(version, selectors(("c", false, 1), Some(("e", false, 1))));
    assert_eq!(joined(&then), "c d");
}

fn a_pinned_snapshot_can_be_unpinned(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        kv.put(key, "old");
        let read_version = kv.version();
        let pin = PinSnapshotRequest { read_version, ttl_ms: Some(30_000), auth_token: None };
        let pinned = succeeded(kv.next().pin_snapshot(pin).expect("a reply"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        let ahead = pinned.expires_at_ms.expect("a time") - now;
        assert!((25_000..35_000).contains(&ahead), "{ahead} ms ahead");
        kv.put(key, "new");
        assert_eq!(kv.snapshot_get(key, read_version).as_deref(), Some(&b"old"[..]));
        for _ in 0..2 {
            succeeded(
                kv.next().unpin_snapshot(UnpinSnapshotRequest { read_version, auth_token: None }).expect("a reply"),
            );
        }
    });
}

fn a_range_that_was_read_conflicts_with_writes_inside_it(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    kv.put(join(key, "b"), "x");
    let mut commit_having_read = |begin: &str, end: &str| {
        let range = KeyRange { begin_key: join(key, begin), end_key: join(key, end), column_family: None };
        kv.commit(AtomicCommitRequest {
            read_conflict_ranges: Some(vec![range]),
            ..commit(version, vec![operation("set", join(key, "x"), "1")], &[])
        })
    };
    failed(commit_having_read("a", "c"), "", "CONFLICT");
    succeeded(commit_having_read("c", "d"));
    succeeded(commit_having_read("a", "b"));
}

fn commit_having_read(kv: &mut Kv, key: &[u8], version: i64, read: Vec<KeyRef>) -> AtomicCommitResponse {
    let request = commit(version, vec![operation("set", join(key, "x"), "1")], &[]);
    kv.commit(AtomicCommitRequest { read_conflicts: Some(read), ..request })
}

fn a_conflict_with_a_family_counts_only_there(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    succeeded(kv.try_put(key, "x", FAMILY));
    let read = |family: Option<&str>| vec![KeyRef { key: key.to_vec(), column_family: family.map(str::to_string) }];
    succeeded(commit_having_read(kv, key, version, read(None)));
    failed(commit_having_read(kv, key, version, read(FAMILY)), "", "CONFLICT");
}

fn a_conflict_says_what_it_met_and_what_to_do(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    kv.put(join(key, "a"), "x");
    let read = names(key, "a b").into_iter().map(|key| KeyRef { key, column_family: None }).collect();
    let reply = failed(commit_having_read(kv, key, version, read), "", "CONFLICT");
    let conflicting: Vec<_> = reply.conflicting_keys.expect("keys").into_iter().map(|found| found.key).collect();
    assert_eq!(conflicting, names(key, "a"));
    assert_eq!(reply.retryable, Some(true));
    assert_ne!(reply.maybe_committed, Some(true));
}

fn a_mistake_is_not_to_be_tried_again(kv: &mut Kv, key: &[u8]) {
    let reply = kv.commit(commit(0, vec![operation("frobnicate", key, "1")], &[]));
    let reply = failed(reply, "", "INVALID_OPERATION");
    assert_ne!(reply.retryable, Some(true));
    assert_ne!(reply.maybe_committed, Some(true));
}

fn a_commit_tells_the_keys_and_values_that_it_made(kv: &mut Kv, key: &[u8]) {
    let (stamped_key, stamped_value) = (join(key, "k"), join(key, "v"));
    let last = operation("SET_VERSIONSTAMPED_VALUE", &stamped_value, join(&ROOM, "!"));
    let operations = vec![
        operation("SET_VERSIONSTAMPED_KEY", join(&stamped_key, ROOM), "x"),
        operation("set", key, "y"),
        Operation { stamp_offset: Some(0), ..last },
    ];
    let reply = succeeded(kv.commit(commit(0, operations, &[])));
    let version = reply.committed_version.expect("a version");
    let (generated_key, generated_value) = (join(&stamped_key, stamp(version, 0)), join(&stamp(version, 1), "!"));
    assert_eq!(reply.versionstamp, Some(stamp(version, 0)));
    assert_eq!(reply.generated_keys, Some(vec![generated_key.clone()]));
    assert_eq!(reply.generated_values, Some(vec![generated_value.clone()]));
    assert_eq!(kv.get(generated_key).as_deref(), Some(&b"x"[..]));
    assert_eq!(kv.get(stamped_value), Some(generated_value));
}

fn a_reply_holds_no_details_that_its_client_may_not_know(kv: &mut Kv, key: &[u8]) {
    let request = commit(0, vec![operation("SET_VERSIONSTAMPED_KEY", join(key, ROOM), "x")], &[]);
    let without = succeeded(kv.commit(request.clone()));
    assert_eq!((without.versionstamp, without.generated_keys), (None, None));
    let with = succeeded(kv.commit(AtomicCommitRequest { include_details: Some(true), ..request }));
    assert!(with.versionstamp.is_some() && with.generated_keys.is_some());
}

fn clear_range_removes_its_range(kv: &mut Kv, key: &[u8]) {
    let whole = Range::new(key, join(key, b"\xff"));
    kv.commit_all(set_all(&names(key, "a b c d e"), "old"));
    let version = kv.version();
    kv.commit_all(vec![
        operation("set", join(key, "bb"), "1"),
        operation("clear_range", join(key, "b"), join(key, "d")),
        operation("set", join(key, "c"), "new"),
    ]);
    assert_eq!(kv.range(whole.clone()).keys(), names(key, "a c d e"));
    assert_eq!(kv.get(join(key, "c")).as_deref(), Some(&b"new"[..]));
    let having_read = commit(version, vec![operation("set", join(key, "x"), "1")], &[&join(key, "b")]);
    failed(kv.commit(having_read), "", "CONFLICT");
    assert_eq!(kv.snapshot_range(version, whole).keys(), names(key, "a b c d e"));
}

/// Commits one operation after the other: type, operand, and what the key then holds.
#[track_caller]
fn mutate(kv: &mut Kv, key: impl AsRef<[u8]>, changes: &[(&str, &[u8], &[u8])]) {
    for (kind, operand, expected) in changes {
        kv.commit_all(vec![operation(kind, &key, operand)]);
        assert_eq!(kv.get(&key).as_deref(), Some(*expected), "after {kind} {operand:x?}");
    }
}

fn add_counts(kv: &mut Kv, key: &[u8]) {
    mutate(
        kv,
        key,
        &[
            ("add", b"\x01\x00", b"\x01\x00"),
            ("add", b"\xff\x00", b"\x00\x01"),
            ("add", b"\xff\xfe", b"\xff\xff"),
            ("add", b"\x01\x00\x00", b"\x00\x00\x01"),
            ("add", b"\x05", b"\x05"),
        ],
    );
}

fn min_and_max_compare_as_numbers(kv: &mut Kv, key: &[u8]) {
    kv.put(key, b"\x05\x00");
    mutate(
        kv,
        key,
        &[
            ("min", b"\x03\x01", b"\x05\x00"),
            ("min", b"\x02\x00", b"\x02\x00"),
            ("max", b"\x00\x01", b"\x00\x01"),
            ("max", b"\x01\x00", b"\x00\x01"),
        ],
    );
    mutate(kv, join(key, "min"), &[("min", b"\x07", b"\x07")]);
    mutate(kv, join(key, "max"), &[("max", b"\x07", b"\x07")]);
}

fn byte_min_and_byte_max_compare_as_bytes(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "m");
    mutate(
        kv,
        key,
        &[("byte_min", b"mm", b"m"), ("byte_min", b"b", b"b"), ("byte_max", b"a", b"b"), ("byte_max", b"z", b"z")],
    );
    mutate(kv, join(key, "min"), &[("byte_min", b"q", b"q")]);
    mutate(kv, join(key, "max"), &[("byte_max", b"q", b"q")]);
}

fn bits_are_combined(kv: &mut Kv, key: &[u8]) {
    kv.put(key, b"\x0c");
    mutate(kv, key, &[("bit_and", b"\x0a", b"\x08"), ("bit_or", b"\x03", b"\x0b"), ("bit_xor", b"\xff", b"\xf4")]);
    for kind in ["bit_and", "bit_or", "bit_xor"] {
        mutate(kv, join(key, kind), &[(kind, b"\x05", b"\x05")]);
    }
}

fn append_if_fits_appends(kv: &mut Kv, key: &[u8]) {
    mutate(
        kv,
        key,
        &[
            ("append_if_fits", b"ab", b"ab"),
            ("append_if_fits", b"cd", b"abcd"),
            ("append_if_fits", &[b'x'; 99_997], b"abcd"),
        ],
    );
}

fn compare_and_clear_clears_what_is_equal(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "x");
    mutate(kv, key, &[("compare_and_clear", b"y", b"x")]);
    kv.commit_all(vec![operation("compare_and_clear", key, "x")]);
    assert_eq!(kv.get(key), None);
}

fn operations_of_a_commit_are_executed_in_their_order(kv: &mut Kv, key: &[u8]) {
    let other = join(key, "b");
    kv.commit_all(vec![
        operation("set", key, [1]),
        operation("add", key, [2]),
        operation("set", &other, "x"),
        operation("compare_and_clear", &other, "x"),
        operation("add", key, [4]),
    ]);
    assert_eq!((kv.get(key), kv.get(other)), (Some(vec![7]), None));
}

fn a_repeated_commit_returns_the_first_result(kv: &mut Kv, key: &[u8]) {
    let add = |operand: u8| AtomicCommitRequest {
        idempotency_id: Some(join(key, "id")),
        ..commit(0, vec![operation("add", key, [operand])], &[])
    };
    let first = succeeded(kv.commit(add(1))).committed_version;
    assert_eq!(succeeded(kv.commit(add(1))).committed_version, first);
    assert_eq!(kv.get(key), Some(vec![1]));
    failed(kv.commit(add(2)), "", "INVALID_OPERATION");
    assert_eq!(kv.get(key), Some(vec![1]));
}

fn a_finished_idempotency_id_is_forgotten(kv: &mut Kv, key: &[u8]) {
    let id = join(key, "id");
    let add = |operand: u8| AtomicCommitRequest {
        idempotency_id: Some(id.clone()),
        ..commit(0, vec![operation("add", key, [operand])], &[])
    };
    let first = succeeded(kv.commit(add(1))).committed_version;
    let other = commit(0, vec![operation("set", join(key, "x"), "1")], &[]);
    succeeded(kv.commit(AtomicCommitRequest { finished_idempotency_ids: Some(vec![id.clone()]), ..other }));
    assert!(succeeded(kv.commit(add(2))).committed_version > first);
    assert_eq!(kv.get(key), Some(vec![3]));
}

fn identify(kv: &mut Kv, token: &str) -> AuthenticateResponse {
    kv.next().authenticate(AuthenticateRequest::new(token.to_string())).expect("a reply")
}

fn own_token(kv: &Kv) -> String {
    kv.token.clone().unwrap_or_else(|| UNKNOWN_TOKEN.to_string())
}

fn get_with(kv: &mut Kv, key: &[u8], token: Option<String>) -> GetResponse {
    let request = GetRequest { key: key.to_vec(), column_family: None, consistency: None, auth_token: token };
    kv.next().get(request).expect("a reply")
}

/// Where nothing is checked, everything succeeds.
#[track_caller]
fn refused<R: Reply>(kv: &Kv, reply: R) {
    match kv.token {
        Some(_) => failed(reply, "not valid", "UNAUTHENTICATED"),
        None => succeeded(reply),
    };
}

fn authenticate_tells_the_user_of_the_connection(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        let token = own_token(kv);
        let user = succeeded(identify(kv, &token)).user;
        assert_eq!(user.as_deref(), kv.token.as_ref().map(|_| "client"));
        assert_eq!(kv.get(key), None);
    });
}

fn a_token_of_nobody_takes_the_identity_of_a_connection_away(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        let reply = identify(kv, UNKNOWN_TOKEN);
        refused(kv, reply);
        let reply = get_with(kv, key, None);
        refused(kv, reply);
        let token = own_token(kv);
        succeeded(identify(kv, &token));
        assert_eq!(kv.get(key), None);
    });
}

fn a_token_in_a_request_counts_for_that_request(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        let token = own_token(kv);
        succeeded(get_with(kv, key, Some(token)));
        let reply = get_with(kv, key, Some(UNKNOWN_TOKEN.to_string()));
        refused(kv, reply);
        assert_eq!(kv.get(key), None);
    });
}

fn the_limits_of_the_server_are_reported(kv: &mut Kv, _: &[u8]) {
    let request = GetClusterHealthRequest { auth_token: None };
    let reply = succeeded(kv.next().get_cluster_health(request).expect("a reply"));
    let told = ServerLimits::new(10_000, 100_000, 10_000_000, 100_000, 64 << 20);
    assert_eq!(reply.limits, Some(told));
}
