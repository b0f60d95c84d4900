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
        raise pytest.UsageError(f"{option}: unknown {unknown}, allowed are {allowed}")
    return values


def pytest_configure(config):
    config.addinivalue_line("markers", "extensions: needs what SynodKV added to the interface")
    ApacheClient.find_classes_in(config.getoption("--build"))
    config.pluginmanager.register(Results(), "interoperability-results")


def pytest_generate_tests(metafunc):
    clients = chosen(metafunc.config, "--clients", CLIENTS)
    if "server" in metafunc.fixturenames:
        modes = chosen(metafunc.config, "--modes", MODES)
        metafunc.parametrize("server", modes, indirect=True, scope="session")
    if "client" in metafunc.fixturenames:
        extensions = metafunc.definition.get_closest_marker("extensions")
        kinds = KINDS if "python" in clients else []
        kinds = [kind for kind in kinds if kind.interface == "current" or not extensions]
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
    client = request.param.connect(server.addresses)
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
