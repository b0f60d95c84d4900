"""Checks of the scenario itself and of the interface files, and properties that no step of one client can show."""

import ast
import threading
from pathlib import Path

from checks import commit, get, read_version
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
