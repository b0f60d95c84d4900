"""Every test of a step runs for each mode of the server and each kind of Python client; every program for each mode."""

import itertools

import pytest

pytest.register_assert_rewrite("checks")

from clients import KINDS, ApacheClient  # noqa: E402
from programs import LANGUAGES, PROGRAMS  # noqa: E402
from results import Results  # noqa: E402
from server import MODES, Server  # noqa: E402

CLIENTS = ["python", *LANGUAGES]
ENGINES = ["rocksdb", "memory"]
# These do not belong to one client.
OF_NO_CLIENT = "test_beyond_the_scenario.py"
OF_PROGRAMS = "test_programs.py"
clients_key, modes_key = pytest.StashKey(), pytest.StashKey()
numbers = itertools.count()


def pytest_addoption(parser):
    parser.addoption("--synodkv", default="synodkv", help="the program to test")
    parser.addoption("--engine", default="rocksdb", choices=ENGINES, help="where it keeps its rows")
    parser.addoption("--build", required=True, help="where scripts/interop.sh has put generated code and programs")
    parser.addoption("--clients", default="python", help=f"of {CLIENTS}, separated by commas")
    parser.addoption("--modes", default=",".join(MODES), help=f"of {MODES}, separated by commas")


def chosen(config, option, allowed):
    values = config.getoption(option).split(",")
    if unknown := [value for value in values if value not in allowed]:
        raise pytest.UsageError(f"{option}: unknown {unknown}; allowed: {allowed}")
    return values


def pytest_configure(config):
    config.addinivalue_line("markers", "extensions: needs what SynodKV added to the interface")
    config.stash[clients_key] = chosen(config, "--clients", CLIENTS)
    config.stash[modes_key] = chosen(config, "--modes", MODES)
    ApacheClient.find_classes_in(config.getoption("--build"))
    config.pluginmanager.register(Results(), "interoperability-results")


def pytest_ignore_collect(collection_path, config):
    """Tests of clients that were not chosen are not there at all, rather than skipped."""
    name, clients = collection_path.name, config.stash[clients_key]
    if name == OF_PROGRAMS:
        return True if clients == ["python"] else None
    if name.startswith("test_") and name != OF_NO_CLIENT:
        return True if "python" not in clients else None
    return None


def pytest_generate_tests(metafunc):
    clients, modes = metafunc.config.stash[clients_key], metafunc.config.stash[modes_key]
    if "server" in metafunc.fixturenames:
        metafunc.parametrize("server", modes, indirect=True, scope="session")
    if "client" in metafunc.fixturenames:
        extensions = metafunc.definition.get_closest_marker("extensions")
        kinds = [kind for kind in KINDS if kind.interface == "current" or not extensions]
        metafunc.parametrize("client", kinds, indirect=True, ids=str)
    if "program" in metafunc.fixturenames:
        metafunc.parametrize("program", [each for each in PROGRAMS if each.language in clients], ids=str)


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    program, engine = request.config.getoption("--synodkv"), request.config.getoption("--engine")
    server = Server(program, request.param, engine, tmp_path_factory.mktemp("synodkv"))
    yield server
    assert set(server.stop()) == {0}, server.output()


@pytest.fixture
def client(request, server):
    client = request.param.connect(server)
    yield client
    client.close()


@pytest.fixture
def run_number():
    """A number that no other test of this run has."""
    return next(numbers)


@pytest.fixture
def key(run_number):
    """A prefix that no other test uses; with bytes that are no text."""
    return b"interop\x00\xff%06d/" % run_number
