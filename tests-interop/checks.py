"""The common parts of the steps: short calls, and the checks of a success and a failure."""

FUTURE = 1_000_000


def succeeded(response):
    assert getattr(response, "success", True), response.error
    # An empty text counts as a failure in existing clients: absent is absent.
    assert response.error is None
    return response


def failed(response, text, code=None):
    """`code` counts where the reply has a field for it: those of a legacy client often have none."""
    assert not getattr(response, "success", False)
    assert text in response.error
    if code is not None and hasattr(response, "error_code"):
        assert response.error_code == code
    return response


def put(client, key, value=b"x", **fields):
    succeeded(client.setKey(client.types.SetRequest(key=key, value=value, **fields)))


def delete(client, key):
    succeeded(client.deleteKey(client.types.DeleteRequest(key=key)))


def get(client, key, **fields):
    """The value, or None where there is none."""
    response = succeeded(client.get(client.types.GetRequest(key=key, **fields)))
    if not response.found:
        assert response.value == b""
        return None
    return response.value


def snapshot_get(client, key, version):
    response = succeeded(client.snapshotGet(client.types.SnapshotGetRequest(key=key, read_version=version)))
    if not response.found:
        assert response.value == b""
        return None
    return response.value


def read_version(client):
    return succeeded(client.getReadVersion(client.types.GetReadVersionRequest())).read_version


def commit(client, operations, version=0, conflicts=(), **fields):
    """`operations`: (type, key, value) or (type, key, value, further fields)."""
    operations = [
        client.types.Operation(type=kind, key=key, value=value, **(rest[0] if rest else {}))
        for kind, key, value, *rest in operations
    ]
    request = client.types.AtomicCommitRequest(
        read_version=version, operations=operations, read_conflict_keys=list(conflicts), **fields
    )
    return client.atomicCommit(request)


def mutate(client, kind, key, operand):
    """Commits one operation; returns what the key then holds."""
    succeeded(commit(client, [(kind, key, operand)]))
    return get(client, key)


def get_range(client, begin=None, end=None, **fields):
    return succeeded(client.getRange(client.types.GetRangeRequest(begin_key=begin, end_key=end, **fields)))


def snapshot_get_range(client, version, begin=None, end=None, **fields):
    request = client.types.SnapshotGetRangeRequest(begin_key=begin, end_key=end, read_version=version, **fields)
    return succeeded(client.snapshotGetRange(request))


def rows(response):
    return [(row.key, row.value) for row in response.key_values]


def keys(response):
    return [row.key for row in response.key_values]


def stamp(version, counter=0):
    return version.to_bytes(8, "big") + counter.to_bytes(2, "big")
