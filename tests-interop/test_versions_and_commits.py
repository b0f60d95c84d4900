"""Scenario, legacy part: versions and commits."""

from checks import FUTURE, commit, delete, failed, get, put, read_version, rows, snapshot_get, snapshot_get_range, succeeded
from server import COLUMN_FAMILY

SNAPSHOT_READS = [("snapshotRead", "SnapshotReadRequest"), ("snapshotGet", "SnapshotGetRequest")]


def test_a_read_version_covers_what_was_written_before(client, key):
    before = read_version(client)
    put(client, key)
    assert 1 <= before < read_version(client)


def test_a_snapshot_does_not_see_later_commits(client, key):
    put(client, key, b"old")
    then = read_version(client)
    put(client, key, b"new")
    now = read_version(client)
    for method, request in SNAPSHOT_READS:

        def read(key, version):
            response = getattr(client, method)(getattr(client.types, request)(key=key, read_version=version))
            return response.found, response.value, response.error

        assert read(key, then) == (True, b"old", None)
        assert read(key, now) == (True, b"new", None)
        assert read(key + b"missing", then) == (False, b"", None)


def test_a_snapshot_still_sees_what_was_deleted_later(client, key):
    put(client, key)
    then = read_version(client)
    delete(client, key)
    assert snapshot_get(client, key, then) == b"x"
    assert snapshot_get(client, key, read_version(client)) is None


def test_a_snapshot_range_does_not_see_later_commits(client, key):
    put(client, key + b"a", b"old")
    version = read_version(client)
    put(client, key + b"a", b"new")
    put(client, key + b"b", b"new")
    response = snapshot_get_range(client, version, key, key + b"\xff")
    assert (rows(response), response.has_more) == ([(key + b"a", b"old")], False)


def test_a_version_of_the_future_is_an_error(client, key):
    types, version = client.types, read_version(client) + FUTURE
    for response in (
        client.snapshotRead(types.SnapshotReadRequest(key=key, read_version=version)),
        client.snapshotGet(types.SnapshotGetRequest(key=key, read_version=version)),
        client.snapshotGetRange(types.SnapshotGetRangeRequest(begin_key=key, read_version=version)),
    ):
        failed(response, "newer than", "FUTURE_VERSION")


def test_a_commit_writes_all_its_operations_at_one_version(client, key):
    put(client, key + b"gone")
    operations = [("set", key + b"a", b"1"), ("SET", key + b"b", b"2"), ("delete", key + b"gone", None)]
    version = succeeded(commit(client, operations)).committed_version
    assert version >= 2
    assert [get(client, key + name) for name in (b"a", b"b", b"gone")] == [b"1", b"2", None]
    for at, expected in ((version, b"2"), (version - 1, b"")):
        request = client.types.SnapshotReadRequest(key=key + b"b", read_version=at)
        assert client.snapshotRead(request).value == expected


def test_of_several_operations_on_one_key_the_last_one_counts(client, key):
    a, b = key + b"a", key + b"b"
    operations = [("set", a, b"1"), ("delete", a, None), ("set", a, b"2"), ("set", b, b"1"), ("delete", b, None)]
    succeeded(commit(client, operations))
    assert (get(client, a), get(client, b)) == (b"2", None)


def test_a_commit_whose_read_key_was_written_meanwhile_conflicts(client, key):
    put(client, key, b"1")
    version = read_version(client)
    put(client, key, b"2")
    response = failed(commit(client, [("set", key, b"3")], version, [key]), "", "CONFLICT")
    assert response.committed_version is None
    assert get(client, key) == b"2"


def test_a_commit_whose_read_key_was_deleted_meanwhile_conflicts(client, key):
    put(client, key, b"1")
    version = read_version(client)
    delete(client, key)
    failed(commit(client, [("set", key + b"x", b"2")], version, [key]), "", "CONFLICT")
    assert get(client, key + b"x") is None


def test_a_commit_whose_read_key_is_unchanged_succeeds(client, key):
    put(client, key, b"1")
    succeeded(commit(client, [("set", key, b"2")], read_version(client), [key]))
    assert get(client, key) == b"2"


def test_a_conflict_key_counts_in_every_family(client, key):
    version = read_version(client)
    put(client, key, b"1", column_family=COLUMN_FAMILY)
    failed(commit(client, [("set", key + b"x", b"2")], version, [key]), "", "CONFLICT")


def test_without_conflict_keys_the_read_version_is_not_looked_at(client, key):
    put(client, key, b"1")
    succeeded(commit(client, [("set", key, b"2")], 0))
    succeeded(commit(client, [("set", key, b"3")], read_version(client) + FUTURE))
    assert get(client, key) == b"3"


def test_a_commit_that_has_read_the_future_is_refused(client, key):
    version = read_version(client) + FUTURE
    failed(commit(client, [("set", key, b"1")], version, [key]), "newer than", "FUTURE_VERSION")
    assert get(client, key) is None


def test_an_unknown_operation_type_is_refused_as_a_whole(client, key):
    failed(commit(client, [("set", key, b"1"), ("frobnicate", key, b"2")]), "frobnicate", "INVALID_OPERATION")
    assert get(client, key) is None


def test_a_set_without_value_is_refused(client, key):
    failed(commit(client, [("set", key, None)]), "", "INVALID_OPERATION")


def test_an_empty_commit_succeeds_at_its_read_version(client):
    version = read_version(client)
    assert succeeded(commit(client, [], version)).committed_version == version
