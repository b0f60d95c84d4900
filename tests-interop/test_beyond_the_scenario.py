"""Checks of the scenario itself and of the interface files, and properties that no step of one client can show."""

import ast
import threading
from pathlib import Path

from checks import commit, failed, get, put, read_version, succeeded
from clients import KINDS, thriftpy_interfaces
from scenario import STEPS

HERE = Path(__file__).resolve().parent


def steps_in(path):
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {node.name.removeprefix("test_").replace("_", " ") for node in functions if node.name.startswith("test_")}


def test_these_tests_are_the_steps_of_the_scenario():
    of_legacy = ["test_single_keys.py", "test_versions_and_commits.py", "test_ranges.py", "test_stamps_and_the_rest.py"]
    assert set().union(*(steps_in(HERE / name) for name in of_legacy)) == {step.lower() for step in STEPS["legacy"]}
    assert steps_in(HERE / "test_extensions.py") == {step.lower().replace("_", " ") for step in STEPS["extensions"]}


def type_names(inner):
    """The types inside a list, by name: a struct of either interface is another class."""
    if isinstance(inner, (list, tuple)):
        return [type_names(each) for each in inner]
    return getattr(inner, "__name__", inner)


def test_the_present_interface_holds_the_legacy_one_unchanged():
    current, legacy = thriftpy_interfaces["current"], thriftpy_interfaces["legacy"]

    def shape(struct):
        """Of each field: number, name, type, whether it is required, default."""
        defaults = dict(struct.default_spec)
        described = {}
        for number, (kind, name, *inner, required) in struct.thrift_spec.items():
            described[number] = (kind, name, type_names(inner), required, defaults[name])
        return described

    for struct in legacy.__thrift_meta__["structs"]:
        now = shape(getattr(current, struct.__name__))
        then = shape(struct)
        assert {number: now.get(number) for number in then} == then, struct.__name__
        added = {number: field for number, field in now.items() if number not in then}
        assert all(number >= 100 and not field[3] for number, field in added.items()), (struct.__name__, added)
    assert set(legacy.TransactionalKV.thrift_services) <= set(current.TransactionalKV.thrift_services)


def test_of_concurrent_increments_none_is_lost(server, key):
    """Each worker reads and writes in a transaction, and runs it again when it conflicts."""
    workers, increments = 4, 10
    failures = []

    def increment(client):
        while True:
            version = read_version(client)
            request = client.types.SnapshotReadRequest(key=key, read_version=version)
            count = int(client.snapshotRead(request).value or b"0")
            response = commit(client, [("set", key, b"%d" % (count + 1))], version, [key])
            if response.success:
                return
            assert response.error_code == "CONFLICT", response.error

    def work():
        try:
            client = KINDS[0].connect(server)
            for _ in range(increments):
                increment(client)
            client.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    client = KINDS[0].connect(server)
    assert get(client, key) == b"%d" % (workers * increments)
    client.close()


def poll(client, after, key, **fields):
    """One poll of the keys that begin with this one."""
    types = client.types
    whole = types.ChangeRange(begin_key=key, end_key=key + b"\xff")
    return client.pollChanges(types.PollChangesRequest(after_version=after, ranges=[whole], **fields))


def follow(client, after, until, key, **fields):
    """All changes after a version, up to another one; each poll goes to the next server."""
    changes = []
    while after < until:
        reply = succeeded(poll(client, after, key, max_wait_ms=5_000, **fields))
        assert reply.through_version >= after
        changes.extend(reply.changes)
        after = reply.through_version
    return [change for change in changes if change.version <= until]


def test_changes_come_once_each_and_in_order_from_any_server(server, key):
    for kind in (kind for kind in KINDS if kind.interface == "current"):
        client = kind.connect(server)
        begin = read_version(client)
        put(client, key + b"a", b"1")
        second = succeeded(commit(client, [("set", key + b"b", b"\x01"), ("add", key + b"b", b"\x02")])).committed_version
        cleared = ("clear_range", key + b"a", key + b"b")
        last = succeeded(commit(client, [cleared, ("delete", key + b"c", None)])).committed_version
        changes = follow(client, begin, last, key)
        told = [[(each.type, each.key, each.value, each.end_key) for each in change.operations] for change in changes]
        assert told == [
            [("set", key + b"a", b"1", None)],
            [("set", key + b"b", b"\x03", None)],
            [("clear_range", key + b"a", None, key + b"b"), ("delete", key + b"c", None, None)],
        ]
        versions = [change.version for change in changes]
        assert versions == sorted(set(versions)) and versions[1:] == [second, last]
        # From the middle on, the rest comes, and nothing else; also in the smallest replies.
        assert follow(client, second, last, key, max_versions=1) == changes[2:]
        assert follow(client, begin, last, key, max_versions=1) == changes
        # Nothing else happens: the wait ends by itself.
        idle = succeeded(poll(client, last, key, max_wait_ms=100))
        assert idle.changes == [] and idle.through_version >= last
        watched = client.types.KeyRef(key=key + b"b")
        changed = client.watchKeys(client.types.WatchKeysRequest(keys=[watched], at_version=begin, max_wait_ms=5_000))
        assert [each.key for each in succeeded(changed).changed] == [key + b"b"]
        failed(poll(client, 0, key), "after_version", "INVALID_OPERATION")
        client.close()
