"""Scenario, extensions: what only clients made from the present interface have."""

import time

import pytest
from checks import (
    FUTURE,
    commit,
    failed,
    get,
    get_range,
    keys,
    mutate,
    put,
    read_version,
    snapshot_get,
    snapshot_get_range,
    stamp,
    succeeded,
)
from server import COLUMN_FAMILY, USER
from test_ranges import FAMILY, letters  # noqa: F401 - a fixture

pytestmark = pytest.mark.extensions

# A token that nobody has.
UNKNOWN_TOKEN = f"synodkv_{255:016x}_{0:064x}"


def test_replies_of_reads_carry_an_error_code(client, key):
    types, future = client.types, read_version(client) + FUTURE
    for response, code in (
        (client.get(types.GetRequest(key=b"")), "KEY_EMPTY"),
        (client.get(types.GetRequest(key=key, column_family="nowhere")), "UNKNOWN_COLUMN_FAMILY"),
        (client.snapshotGet(types.SnapshotGetRequest(key=key, read_version=future)), "FUTURE_VERSION"),
        (
            client.setVersionstampedKey(types.SetVersionstampedKeyRequest(key_prefix=bytes(9), value=b"x")),
            "INVALID_OPERATION",
        ),
    ):
        assert response.error_code == code


def test_a_stale_read_needs_no_agreement(client, key):
    put(client, key)
    # The state that this replica has applied may be older than the write.
    assert get(client, key, consistency="stale") in (b"x", None)
    assert keys(get_range(client, key, key + b"\xff", consistency="stale")) in ([key], [])
    assert get(client, key, consistency="linearizable") == b"x"
    failed(client.get(client.types.GetRequest(key=key, consistency="whatever")), "", "INVALID_OPERATION")


def test_a_range_can_be_read_from_its_end(client, key):
    names = [key + b"%d" % number for number in range(5)]
    succeeded(commit(client, [("set", name, b"x") for name in names]))
    ends = (key, key + b"\xff")
    for fields, expected, has_more in (({}, names[::-1], False), ({"limit": 2}, [names[4], names[3]], True)):
        for response in (
            get_range(client, *ends, reverse=True, **fields),
            snapshot_get_range(client, read_version(client), *ends, reverse=True, **fields),
        ):
            assert (keys(response), response.has_more) == (expected, has_more)


def test_a_range_may_be_cut_short_by_bytes_when_asked(client, key):
    names = [key + b"%d" % number for number in range(5)]
    succeeded(commit(client, [("set", name, bytes(100)) for name in names]))
    part = get_range(client, key, key + b"\xff", target_bytes=250)
    assert 1 <= len(part.key_values) < 5 and part.has_more
    assert keys(part) == names[: len(part.key_values)]
    least = get_range(client, key, key + b"\xff", target_bytes=1)
    assert (keys(least), least.has_more) == (names[:1], True)


def test_key_selectors_choose_the_ends_of_a_range(letters):  # noqa: F811
    def selectors(begin, end=None):
        fields = {"begin_selector": letters.types.KeySelector(*begin), **FAMILY}
        return fields | ({"end_selector": letters.types.KeySelector(*end)} if end else {})

    for begin, end, expected in (
        ((b"c", False, 1), (b"e", False, 1), b"c d"),
        ((b"c", True, 1), None, b"d e"),
        ((b"c", True, 0), (b"d", True, 1), b"c d"),
        ((b"c", False, 0), None, b"b c d e"),
        ((b"b", False, 2), None, b"c d e"),
        ((b"bb", True, 0), (b"bb", True, 1), b"b"),
    ):
        assert b" ".join(keys(get_range(letters, **selectors(begin, end)))) == expected
    then = snapshot_get_range(letters, read_version(letters), **selectors((b"c", False, 1), (b"e", False, 1)))
    assert b" ".join(keys(then)) == b"c d"


def test_a_pinned_snapshot_can_be_unpinned(client, key):
    one = client.one()
    put(one, key, b"old")
    version = read_version(one)
    pinned = succeeded(one.pinSnapshot(one.types.PinSnapshotRequest(read_version=version, ttl_ms=30_000)))
    assert 25_000 < pinned.expires_at_ms - time.time_ns() // 1_000_000 < 35_000
    put(one, key, b"new")
    assert snapshot_get(one, key, version) == b"old"
    for _ in range(2):
        succeeded(one.unpinSnapshot(one.types.UnpinSnapshotRequest(read_version=version)))


def test_a_range_that_was_read_conflicts_with_writes_inside_it(client, key):
    version = read_version(client)
    put(client, key + b"b")

    def commit_having_read(begin, end):
        ranges = [client.types.KeyRange(begin_key=key + begin, end_key=key + end)]
        return commit(client, [("set", key + b"x", b"1")], version, read_conflict_ranges=ranges)

    failed(commit_having_read(b"a", b"c"), "", "CONFLICT")
    succeeded(commit_having_read(b"c", b"d"))
    succeeded(commit_having_read(b"a", b"b"))


def test_a_conflict_with_a_family_counts_only_there(client, key):
    version = read_version(client)
    put(client, key, column_family=COLUMN_FAMILY)

    def commit_having_read(**family):
        conflicts = [client.types.KeyRef(key=key, **family)]
        return commit(client, [("set", key + b"x", b"1")], version, read_conflicts=conflicts)

    succeeded(commit_having_read())
    failed(commit_having_read(column_family=COLUMN_FAMILY), "", "CONFLICT")


def test_a_conflict_says_what_it_met_and_what_to_do(client, key):
    version = read_version(client)
    put(client, key + b"a")
    conflicts = [client.types.KeyRef(key=key + name) for name in (b"a", b"b")]
    response = commit(client, [("set", key + b"x", b"1")], version, read_conflicts=conflicts)
    failed(response, "", "CONFLICT")
    assert [conflict.key for conflict in response.conflicting_keys] == [key + b"a"]
    assert response.retryable and not response.maybe_committed


def test_a_mistake_is_not_to_be_tried_again(client, key):
    response = failed(commit(client, [("frobnicate", key, b"1")]), "", "INVALID_OPERATION")
    assert not response.retryable and not response.maybe_committed


def test_a_commit_tells_the_keys_and_values_that_it_made(client, key):
    operations = [
        ("SET_VERSIONSTAMPED_KEY", key + b"k" + bytes(10), b"x"),
        ("set", key, b"y"),
        ("SET_VERSIONSTAMPED_VALUE", key + b"v", bytes(10) + b"!", {"stamp_offset": 0}),
    ]
    # The stamp_offset says that this client knows the fields that were added, also those of the reply.
    response = succeeded(commit(client, operations))
    first, second = (stamp(response.committed_version, counter) for counter in (0, 1))
    assert response.versionstamp == first
    assert response.generated_keys == [key + b"k" + first]
    assert response.generated_values == [second + b"!"]
    assert (get(client, key + b"k" + first), get(client, key + b"v")) == (b"x", second + b"!")


def test_a_reply_holds_no_details_that_its_client_may_not_know(client, key):
    operation = ("SET_VERSIONSTAMPED_KEY", key + bytes(10), b"x")
    for fields, expected in (({}, False), ({"include_details": True}, True)):
        response = succeeded(commit(client, [operation], **fields))
        assert [field is not None for field in (response.versionstamp, response.generated_keys)] == [expected] * 2


def test_clear_range_removes_its_range(client, key):
    def named(text):
        return [key + name for name in text.split()]

    succeeded(commit(client, [("set", name, b"old") for name in named(b"a b c d e")]))
    version = read_version(client)
    operations = [
        ("set", key + b"bb", b"1"),
        ("clear_range", key + b"b", key + b"d"),
        ("set", key + b"c", b"new"),
    ]
    succeeded(commit(client, operations))
    ends = (key, key + b"\xff")
    assert keys(get_range(client, *ends)) == named(b"a c d e")
    assert get(client, key + b"c") == b"new"
    failed(commit(client, [("set", key + b"x", b"1")], version, [key + b"b"]), "", "CONFLICT")
    assert keys(snapshot_get_range(client, version, *ends)) == named(b"a b c d e")


def test_add_counts(client, key):
    assert mutate(client, "add", key, b"\x01\x00") == b"\x01\x00"
    assert mutate(client, "add", key, b"\xff\x00") == b"\x00\x01"
    assert mutate(client, "add", key, b"\xff\xfe") == b"\xff\xff"
    assert mutate(client, "add", key, b"\x01\x00\x00") == b"\x00\x00\x01"
    assert mutate(client, "add", key, b"\x05") == b"\x05"


def test_min_and_max_compare_as_numbers(client, key):
    put(client, key, b"\x05\x00")
    assert mutate(client, "min", key, b"\x03\x01") == b"\x05\x00"
    assert mutate(client, "min", key, b"\x02\x00") == b"\x02\x00"
    assert mutate(client, "max", key, b"\x00\x01") == b"\x00\x01"
    assert mutate(client, "max", key, b"\x01\x00") == b"\x00\x01"
    assert mutate(client, "min", key + b"min", b"\x07") == b"\x07"
    assert mutate(client, "max", key + b"max", b"\x07") == b"\x07"


def test_byte_min_and_byte_max_compare_as_bytes(client, key):
    put(client, key, b"m")
    assert mutate(client, "byte_min", key, b"mm") == b"m"
    assert mutate(client, "byte_min", key, b"b") == b"b"
    assert mutate(client, "byte_max", key, b"a") == b"b"
    assert mutate(client, "byte_max", key, b"z") == b"z"
    assert mutate(client, "byte_min", key + b"min", b"q") == b"q"
    assert mutate(client, "byte_max", key + b"max", b"q") == b"q"


def test_bits_are_combined(client, key):
    put(client, key, b"\x0c")
    assert mutate(client, "bit_and", key, b"\x0a") == b"\x08"
    assert mutate(client, "bit_or", key, b"\x03") == b"\x0b"
    assert mutate(client, "bit_xor", key, b"\xff") == b"\xf4"
    for kind in ("bit_and", "bit_or", "bit_xor"):
        assert mutate(client, kind, key + kind.encode(), b"\x05") == b"\x05"


def test_append_if_fits_appends(client, key):
    assert mutate(client, "append_if_fits", key, b"ab") == b"ab"
    assert mutate(client, "append_if_fits", key, b"cd") == b"abcd"
    assert mutate(client, "append_if_fits", key, b"x" * 99_997) == b"abcd"


def test_compare_and_clear_clears_what_is_equal(client, key):
    put(client, key, b"x")
    assert mutate(client, "compare_and_clear", key, b"y") == b"x"
    assert mutate(client, "compare_and_clear", key, b"x") is None


def test_operations_of_a_commit_are_executed_in_their_order(client, key):
    other = key + b"b"
    operations = [
        ("set", key, b"\x01"),
        ("add", key, b"\x02"),
        ("set", other, b"x"),
        ("compare_and_clear", other, b"x"),
        ("add", key, b"\x04"),
    ]
    succeeded(commit(client, operations))
    assert (get(client, key), get(client, other)) == (b"\x07", None)


def test_a_repeated_commit_returns_the_first_result(client, key):
    def add(operand):
        return commit(client, [("add", key, operand)], idempotency_id=key + b"id")

    first = succeeded(add(b"\x01")).committed_version
    assert succeeded(add(b"\x01")).committed_version == first
    assert get(client, key) == b"\x01"
    failed(add(b"\x02"), "", "INVALID_OPERATION")
    assert get(client, key) == b"\x01"


def test_a_finished_idempotency_id_is_forgotten(client, key):
    def add(operand):
        return succeeded(commit(client, [("add", key, operand)], idempotency_id=key + b"id")).committed_version

    first = add(b"\x01")
    succeeded(commit(client, [("set", key + b"x", b"1")], finished_idempotency_ids=[key + b"id"]))
    assert add(b"\x02") > first
    assert get(client, key) == b"\x03"


def identify(client, server, token=None):
    token = token or server.token or UNKNOWN_TOKEN
    return client.authenticate(client.types.AuthenticateRequest(token=token))


def refused(server, response):
    """Where nothing is checked, everything succeeds."""
    return succeeded(response) if server.token is None else failed(response, "not valid", "UNAUTHENTICATED")


def test_authenticate_tells_the_user_of_the_connection(client, server, key):
    one = client.one()
    assert succeeded(identify(one, server)).user == (None if server.token is None else USER)
    assert get(one, key) is None


def test_a_token_of_nobody_takes_the_identity_of_a_connection_away(client, server, key):
    one = client.one()
    refused(server, identify(one, server, UNKNOWN_TOKEN))
    refused(server, one.get(one.types.GetRequest(key=key)))
    succeeded(identify(one, server))
    assert get(one, key) is None


def test_a_token_in_a_request_counts_for_that_request(client, server, key):
    one = client.one()
    assert get(one, key, auth_token=server.token or UNKNOWN_TOKEN) is None
    refused(server, one.get(one.types.GetRequest(key=key, auth_token=UNKNOWN_TOKEN)))
    assert get(one, key) is None


def test_the_limits_of_the_server_are_reported(client):
    limits = succeeded(client.getClusterHealth(client.types.GetClusterHealthRequest())).limits
    assert (limits.max_key_bytes, limits.max_value_bytes) == (10_000, 100_000)
    assert (limits.max_transaction_bytes, limits.max_conflicts) == (10_000_000, 100_000)
    assert limits.max_reply_bytes == 64 << 20
