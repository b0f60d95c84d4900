"""Scenario, legacy part: connection and single keys."""

import time

from checks import commit, delete, failed, get, get_range, put, read_version, rows, succeeded
from server import COLUMN_FAMILY


def test_ping_echoes_message_and_timestamp(client):
    response = client.ping(client.types.PingRequest(message=b"hello\x00", timestamp=42))
    assert (response.message, response.timestamp) == (b"hello\x00", 42)
    assert abs(response.server_timestamp - time.time_ns() // 1000) < 60_000_000


def test_ping_without_arguments_says_pong(client):
    response = client.ping(client.types.PingRequest())
    assert (response.message, response.timestamp) == (b"pong", 0)


def test_a_written_key_is_read_back(client, key):
    put(client, key, b"value\x00\xff")
    assert get(client, key) == b"value\x00\xff"


def test_a_missing_key_is_no_error(client, key):
    response = client.get(client.types.GetRequest(key=key))
    assert (response.found, response.value, response.error) == (False, b"", None)


def test_an_empty_value_is_found(client, key):
    put(client, key, b"")
    response = client.get(client.types.GetRequest(key=key))
    assert (response.found, response.value, response.error) == (True, b"", None)


def test_an_empty_key_is_an_error(client):
    types, version = client.types, read_version(client)
    for response in (
        client.get(types.GetRequest(key=b"")),
        client.setKey(types.SetRequest(key=b"", value=b"x")),
        client.deleteKey(types.DeleteRequest(key=b"")),
        client.snapshotRead(types.SnapshotReadRequest(key=b"", read_version=version)),
        client.snapshotGet(types.SnapshotGetRequest(key=b"", read_version=version)),
    ):
        failed(response, "key cannot be empty", "KEY_EMPTY")


def test_an_unknown_column_family_is_an_error(client, key):
    types, version, family = client.types, read_version(client), {"column_family": "nowhere"}
    for response in (
        client.get(types.GetRequest(key=key, **family)),
        client.setKey(types.SetRequest(key=key, value=b"x", **family)),
        client.deleteKey(types.DeleteRequest(key=key, **family)),
        client.getRange(types.GetRangeRequest(begin_key=key, **family)),
        client.snapshotRead(types.SnapshotReadRequest(key=key, read_version=version, **family)),
        client.snapshotGetRange(types.SnapshotGetRangeRequest(begin_key=key, read_version=version, **family)),
        commit(client, [("set", key, b"x", family)]),
    ):
        failed(response, "Column family 'nowhere' not found", "UNKNOWN_COLUMN_FAMILY")


def test_a_column_family_has_keys_of_its_own(client, key):
    put(client, key, b"other", column_family=COLUMN_FAMILY)
    assert get(client, key, column_family=COLUMN_FAMILY) == b"other"
    assert get(client, key) is None
    assert get(client, key, column_family="default") is None
    put(client, key, b"d")
    assert get(client, key, column_family="default") == b"d"
    assert get(client, key, column_family=COLUMN_FAMILY) == b"other"


def test_a_deleted_key_is_gone_and_deleting_it_again_succeeds(client, key):
    put(client, key)
    for _ in range(2):
        delete(client, key)
        assert get(client, key) is None


def test_a_large_value_passes_unharmed(client, key):
    value = bytes(range(256)) * 390
    put(client, key, value)
    assert get(client, key) == value
    delete(client, key)


def test_a_value_above_the_limit_is_refused_with_its_code(client, key):
    request = client.types.SetRequest(key=key, value=b"x" * 100_001)
    failed(client.setKey(request), "100000", "VALUE_TOO_LARGE")
    assert get(client, key) is None


def test_keys_are_ordered_by_their_bytes(client, key):
    tails = [b"", b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"\x7f", b"\x80", b"\xff", b"\xff\x00"]
    expected = [(key + tail, b"%d" % number) for number, tail in enumerate(tails)]
    succeeded(commit(client, [("set", *row) for row in reversed(expected)]))
    assert rows(get_range(client, key, key + b"\xff\xff")) == expected


def test_many_requests_get_each_its_own_reply(client, key):
    """These libraries send one request at a time."""
    one = client.one()
    for number in range(20):
        put(one, key + b"%d" % number, b"value %d" % number)
    assert [get(one, key + b"%d" % number) for number in range(20)] == [b"value %d" % number for number in range(20)]
