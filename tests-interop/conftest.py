"""Every test runs for each mode of the server and each kind of client."""

import itertools

import pytest
from clients import KINDS
from server import HOST, Server

MODES = ["standalone", "replicated"]
key_numbers = itertools.count()


def pytest_addoption(parser):
    parser.addoption("--synodkv", default="synodkv", help="the program to test")
    parser.addoption("--modes", default=",".join(MODES), help="modes of the server to test, separated by commas")


def pytest_generate_tests(metafunc):
    if "server" in metafunc.fixturenames:
        modes = metafunc.config.getoption("--modes").split(",")
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown:
            raise pytest.UsageError(f"--modes: unknown {unknown}, allowed are {MODES}")
        metafunc.parametrize("server", modes, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    server = Server(request.config.getoption("--synodkv"), request.param, tmp_path_factory.mktemp("synodkv") / "data")
    yield server
    assert server.stop() == 0, server.output()


@pytest.fixture(params=KINDS, ids=str)
def client(request, server):
    client = request.param.connect(HOST, server.thrift_port)
    yield client
    client.close()


@pytest.fixture
def key():
    """A prefix that no other test uses; with bytes that are no text."""
    return b"interop\x00\xff%06d/" % next(key_numbers)
