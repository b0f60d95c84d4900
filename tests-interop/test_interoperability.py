"""What clients of the interface rely on, method by method, as stock Thrift libraries see it."""

import threading
import time

import pytest
from clients import KINDS
from server import HOST

CONFLICTS_CLIENT_SIDE = "Conflict detection handled client-side in FoundationDB model"


def supported(response):
    """Skips the test where the server says plainly that it cannot do this yet: a false success would not pass."""
    if not getattr(response, "success", True) and "not supported yet" in (response.error or ""):
        pytest.skip(response.error)
    return response


def succeeded(response):
    supported(response)
    assert response.success, response.error
    # An empty text counts as a failure in existing clients: absent is absent.
    assert response.error is None
    return response


def failed(response, text, code=None):
    assert not response.success
    assert text in response.error
    if code is not None:
        assert response.error_code == code
    return response


def put(client, key, value):
    succeeded(client.setKey(client.types.SetRequest(key=key, value=value)))


def get(client, key):
    response = client.get(client.types.GetRequest(key=key))
    assert response.error is None
    return response.value if response.found else None


def read_version(client):
    return succeeded(client.getReadVersion(client.types.GetReadVersionRequest())).read_version


def commit(client, operations, version=0, conflicts=(), **fields):
    operations = [client.types.Operation(type=kind, key=key, value=value) for kind, key, value in operations]
    request = client.types.AtomicCommitRequest(
        read_version=version, operations=operations, read_conflict_keys=list(conflicts), **fields
    )
    return client.atomicCommit(request)


def rows(response):
    return [(row.key, row.value) for row in succeeded(response).key_values]


def test_ping_echoes_message_and_timestamp(client):
    before = time.time_ns() // 1000
    response = client.ping(client.types.PingRequest(message=b"hello\x00", timestamp=42))
    assert (response.message, response.timestamp) == (b"hello\x00", 42)
    assert abs(response.server_timestamp - before) < 60_000_000


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
    assert (response.found, response.value) == (True, b"")


def test_an_empty_key_is_an_error(client):
    assert "key cannot be empty" in client.get(client.types.GetRequest(key=b"")).error
    failed(client.setKey(client.types.SetRequest(key=b"", value=b"x")), "key cannot be empty", "KEY_EMPTY")
    failed(client.deleteKey(client.types.DeleteRequest(key=b"")), "key cannot be empty", "KEY_EMPTY")


def test_an_unknown_column_family_is_an_error(client, key):
    text = "Column family 'nowhere' not found"
    assert text in client.get(client.types.GetRequest(key=key, column_family="nowhere")).error
    failed(client.setKey(client.types.SetRequest(key=key, value=b"x", column_family="nowhere")), text)


def test_a_deleted_key_is_gone_and_deleting_it_again_succeeds(client, key):
    put(client, key, b"x")
    for _ in range(2):
        succeeded(client.deleteKey(client.types.DeleteRequest(key=key)))
        assert get(client, key) is None


def test_a_large_value_passes_unharmed(client, key):
    value = bytes(range(256)) * 390
    put(client, key, value)
    assert get(client, key) == value


def test_a_value_above_the_limit_is_refused_with_its_code(client, key):
    request = client.types.SetRequest(key=key, value=b"x" * 100_001)
    failed(client.setKey(request), "100000", "VALUE_TOO_LARGE")


def test_a_read_version_covers_what_was_written_before(client, key):
    before = read_version(client)
    put(client, key, b"x")
    assert 1 <= before < read_version(client)


@pytest.mark.parametrize("method", ["snapshotRead", "snapshotGet"])
def test_a_snapshot_does_not_see_later_commits(client, key, method):
    put(client, key, b"old")
    version = read_version(client)
    put(client, key, b"new")
    request = getattr(client.types, method[0].upper() + method[1:] + "Request")
    then = supported(getattr(client, method)(request(key=key, read_version=version)))
    now = getattr(client, method)(request(key=key, read_version=read_version(client)))
    missing = getattr(client, method)(request(key=key + b"missing", read_version=version))
    assert (then.found, then.value, then.error) == (True, b"old", None)
    assert (now.found, now.value) == (True, b"new")
    assert (missing.found, missing.value, missing.error) == (False, b"", None)


def test_a_commit_writes_all_its_operations_at_one_version(client, key):
    put(client, key + b"gone", b"x")
    operations = [("set", key + b"a", b"1"), ("SET", key + b"b", b"2"), ("delete", key + b"gone", None)]
    response = succeeded(commit(client, operations))
    assert response.committed_version >= 2
    assert [get(client, key + name) for name in (b"a", b"b", b"gone")] == [b"1", b"2", None]
    request = client.types.SnapshotReadRequest(key=key + b"b", read_version=response.committed_version)
    assert client.snapshotRead(request).value == b"2"


def test_a_commit_whose_read_key_was_written_meanwhile_conflicts(client, key):
    put(client, key, b"1")
    version = read_version(client)
    put(client, key, b"2")
    response = commit(client, [("set", key, b"3")], version, [key])
    failed(response, "", "CONFLICT")
    assert response.committed_version is None
    assert get(client, key) == b"2"


def test_a_commit_whose_read_key_is_unchanged_succeeds(client, key):
    put(client, key, b"1")
    succeeded(commit(client, [("set", key, b"2")], read_version(client), [key]))
    assert get(client, key) == b"2"


def test_an_empty_commit_succeeds_at_its_read_version(client):
    version = read_version(client)
    assert succeeded(commit(client, [], version)).committed_version == version


def test_an_unknown_operation_type_is_refused_as_a_whole(client, key):
    failed(commit(client, [("set", key, b"1"), ("frobnicate", key, b"2")]), "frobnicate", "INVALID_OPERATION")
    assert get(client, key) is None


def test_a_set_without_value_is_refused(client, key):
    failed(commit(client, [("set", key, None)]), "", "INVALID_OPERATION")


def test_a_range_is_ordered_and_says_whether_there_is_more(client, key):
    expected = [(key + b"%d" % i, b"value %d" % i) for i in range(5)]
    for row in reversed(expected):
        put(client, *row)
    whole = client.getRange(client.types.GetRangeRequest(begin_key=key, end_key=key + b"\xff"))
    part = client.getRange(client.types.GetRangeRequest(begin_key=key, end_key=key + b"\xff", limit=2))
    exact = client.getRange(client.types.GetRangeRequest(begin_key=key, end_key=key + b"\xff", limit=5))
    assert (rows(whole), whole.has_more) == (expected, False)
    assert (rows(part), part.has_more) == (expected[:2], True)
    assert (rows(exact), exact.has_more) == (expected, False)


def test_an_inverted_range_is_empty(client, key):
    response = client.getRange(client.types.GetRangeRequest(begin_key=key + b"b", end_key=key + b"a"))
    assert (rows(response), response.has_more) == ([], False)


def test_a_snapshot_range_does_not_see_later_commits(client, key):
    put(client, key + b"a", b"old")
    version = read_version(client)
    put(client, key + b"a", b"new")
    put(client, key + b"b", b"new")
    request = client.types.SnapshotGetRangeRequest(begin_key=key, end_key=key + b"\xff", read_version=version)
    assert rows(client.snapshotGetRange(request)) == [(key + b"a", b"old")]


def test_calls_of_the_stateful_protocol_are_refused_politely(client, key):
    types = client.types
    failed(client.addReadConflict(types.AddReadConflictRequest(key=key)), CONFLICTS_CLIENT_SIDE)
    request = types.AddReadConflictRangeRequest(start_key=key, end_key=key + b"\xff")
    failed(client.addReadConflictRange(request), CONFLICTS_CLIENT_SIDE)
    failed(
        client.setReadVersion(types.SetReadVersionRequest(version=7)),
        "Read version managed client-side in FoundationDB model",
    )
    response = client.getCommittedVersion(types.GetCommittedVersionRequest())
    failed(response, "Committed version managed client-side in FoundationDB model")
    assert response.version == 0


def test_a_versionstamped_key_gets_its_stamp(client, key):
    request = client.types.SetVersionstampedKeyRequest(key_prefix=key + bytes(10), value=b"x")
    generated = succeeded(client.setVersionstampedKey(request)).generated_key
    assert generated.startswith(key) and len(generated) == len(key) + 10 and generated != key + bytes(10)
    assert get(client, generated) == b"x"


def test_a_versionstamped_value_gets_its_stamp(client, key):
    request = client.types.SetVersionstampedValueRequest(key=key, value_prefix=b"at " + bytes(10))
    generated = succeeded(client.setVersionstampedValue(request)).generated_value
    assert generated.startswith(b"at ") and generated != b"at " + bytes(10)
    assert get(client, key) == generated


def test_a_stamped_operation_of_a_commit_carries_the_committed_version(client, key):
    response = succeeded(commit(client, [("SET_VERSIONSTAMPED_VALUE", key, bytes(10))]))
    assert get(client, key) == response.committed_version.to_bytes(8, "big") + bytes(2)


def test_an_injected_fault_hits_commits_until_it_is_cleared(client, key):
    request = client.types.FaultInjectionRequest
    succeeded(client.setFaultInjection(request(fault_type="TIMEOUT", probability=1.0, target_operation="commit")))
    try:
        failed(commit(client, [("set", key, b"1")]), "", "TIMEOUT")
    finally:
        succeeded(client.setFaultInjection(request(fault_type="TIMEOUT", probability=0.0, target_operation="commit")))
    succeeded(commit(client, [("set", key, b"2")]))
    assert get(client, key) == b"2"


def test_cluster_health_counts_its_nodes(client, server):
    response = succeeded(client.getClusterHealth(client.types.GetClusterHealthRequest()))
    health = response.cluster_health
    assert health.total_nodes_count == len(health.nodes) == (3 if server.mode == "replicated" else 1)
    assert health.cluster_status == "healthy"
    assert health.healthy_nodes_count == health.total_nodes_count
    assert health.leader.is_leader


def test_database_statistics_count_commits(client, key):
    def committed():
        response = succeeded(client.getDatabaseStats(client.types.GetDatabaseStatsRequest()))
        return response.database_stats.committed_transactions

    before = committed()
    put(client, key, b"x")
    assert committed() > before


def test_node_information_is_given_and_an_unknown_node_is_an_error(client):
    request = client.types.GetNodeInfoRequest
    assert succeeded(client.getNodeInfo(request(node_id=0))).node_info.node_id == 0
    failed(client.getNodeInfo(request(node_id=77)), "Node 77 not found")


def test_a_pinned_snapshot_can_be_unpinned(client):
    version = read_version(client)
    succeeded(client.pinSnapshot(client.types.PinSnapshotRequest(read_version=version)))
    succeeded(client.unpinSnapshot(client.types.UnpinSnapshotRequest(read_version=version)))


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_of_concurrent_increments_none_is_lost(server, key, kind):
    """Each worker reads and writes in a transaction, and runs it again when it conflicts."""
    workers, increments = 4, 10
    failures = []

    def work():
        try:
            client = kind.connect(HOST, server.thrift_port)
            for _ in range(increments):
                while True:
                    version = read_version(client)
                    request = client.types.SnapshotReadRequest(key=key, read_version=version)
                    count = int(client.snapshotRead(request).value or b"0")
                    response = commit(client, [("set", key, b"%d" % (count + 1))], version, [key])
                    if response.success:
                        break
                    assert response.error_code == "CONFLICT", response.error
            client.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    client = kind.connect(HOST, server.thrift_port)
    assert get(client, key) == b"%d" % (workers * increments)
    client.close()
