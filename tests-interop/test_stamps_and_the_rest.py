"""Scenario, legacy part: versionstamps, what is refused, faults, and the cluster."""

from checks import commit, failed, get, put, read_version, stamp, succeeded

STAMP_BYTES = 10
CONFLICTS_CLIENT_SIDE = "Conflict detection handled client-side in FoundationDB model"


def set_stamped_key(client, buffer, value=b"x"):
    return client.setVersionstampedKey(client.types.SetVersionstampedKeyRequest(key_prefix=buffer, value=value))


def set_stamped_value(client, key, buffer):
    return client.setVersionstampedValue(client.types.SetVersionstampedValueRequest(key=key, value_prefix=buffer))


def is_stamp_after(version, text):
    assert len(text) == STAMP_BYTES
    return int.from_bytes(text[:8], "big") > version and text[8:] == bytes(2)


def test_a_versionstamped_key_gets_its_stamp(client, key):
    version = read_version(client)
    generated = succeeded(set_stamped_key(client, key + bytes(10))).generated_key
    assert generated.startswith(key) and is_stamp_after(version, generated[len(key) :])
    assert get(client, generated) == b"x"


def test_a_versionstamped_value_gets_its_stamp(client, key):
    version = read_version(client)
    generated = succeeded(set_stamped_value(client, key, b"at " + bytes(10))).generated_value
    assert generated.startswith(b"at ") and is_stamp_after(version, generated[3:])
    assert get(client, key) == generated


def test_a_buffer_that_does_not_end_in_zeros_is_stored_as_it_is(client, key):
    buffer = b"no stamp!!"
    assert succeeded(set_stamped_key(client, key + buffer)).generated_key == key + buffer
    assert get(client, key + buffer) == b"x"
    assert succeeded(set_stamped_value(client, key, buffer)).generated_value == buffer
    assert get(client, key) == buffer


def test_a_buffer_without_room_for_a_stamp_is_an_error(client, key):
    short = bytes(STAMP_BYTES - 1)
    failed(set_stamped_key(client, short), "", "INVALID_OPERATION")
    failed(set_stamped_value(client, key, short), "", "INVALID_OPERATION")
    failed(commit(client, [("SET_VERSIONSTAMPED_KEY", short, b"x")]), "", "INVALID_OPERATION")
    failed(commit(client, [("SET_VERSIONSTAMPED_VALUE", key, short)]), "", "INVALID_OPERATION")


def test_stamped_operations_of_a_commit_carry_its_version_and_are_counted(client, key):
    operations = [
        ("SET_VERSIONSTAMPED_KEY", key + b"k" + b"\xff" * 10, b"x"),
        ("set_versionstamped_value", key + b"v", b"at " + bytes(10)),
    ]
    version = succeeded(commit(client, operations)).committed_version
    assert get(client, key + b"k" + stamp(version, 0)) == b"x"
    assert get(client, key + b"v") == b"at " + stamp(version, 1)


def test_calls_of_the_stateful_protocol_are_refused_politely(client, key):
    types = client.types
    conflict_range = types.AddReadConflictRangeRequest(start_key=key, end_key=key + b"\xff")
    committed = client.getCommittedVersion(types.GetCommittedVersionRequest())
    for response, text in (
        (client.addReadConflict(types.AddReadConflictRequest(key=key)), CONFLICTS_CLIENT_SIDE),
        (client.addReadConflictRange(conflict_range), CONFLICTS_CLIENT_SIDE),
        (
            client.setReadVersion(types.SetReadVersionRequest(version=7)),
            "Read version managed client-side in FoundationDB model",
        ),
        (committed, "Committed version managed client-side in FoundationDB model"),
    ):
        assert (response.success, response.error) == (False, text)
    assert committed.version == 0


def test_an_injected_fault_hits_commits_until_it_is_cleared(client, key):
    one = client.one()

    def inject(probability):
        request = one.types.FaultInjectionRequest(
            fault_type="TIMEOUT", probability=probability, target_operation="commit"
        )
        succeeded(one.setFaultInjection(request))

    inject(1.0)
    try:
        failed(commit(one, [("set", key, b"1")]), "", "TIMEOUT")
    finally:
        inject(0.0)
    succeeded(commit(one, [("set", key, b"2")]))
    assert get(one, key) == b"2"


def test_cluster_health_counts_its_nodes(client, server):
    for _ in server.addresses:
        health = succeeded(client.getClusterHealth(client.types.GetClusterHealthRequest())).cluster_health
        assert health.total_nodes_count == health.healthy_nodes_count == len(health.nodes) == server.nodes
        assert {node.status for node in health.nodes} == {health.cluster_status} == {"healthy"}
        assert health.leader.is_leader
        assert health.current_term >= 0


def test_database_statistics_count_commits(client, key):
    one = client.one()

    def committed():
        response = succeeded(one.getDatabaseStats(one.types.GetDatabaseStatsRequest()))
        return response.database_stats.committed_transactions

    before = committed()
    put(one, key)
    assert committed() > before


def test_node_information_is_given_and_an_unknown_node_is_an_error(client):
    request = client.types.GetNodeInfoRequest
    assert succeeded(client.getNodeInfo(request(node_id=0))).node_info.node_id == 0
    failed(client.getNodeInfo(request(node_id=77)), "Node 77 not found")
