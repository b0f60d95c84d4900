"""Stock Thrift clients of several makes behind one shape: `client.method(request)` and `client.types.Struct(...)`.

Nothing here comes from SynodKV but the interface file: whatever these libraries send and expect, the server must
understand and send.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import thriftpy2
from thrift.protocol import TBinaryProtocol, TCompactProtocol
from thrift.transport import TSocket, TTransport
from thriftpy2.protocol import TBinaryProtocolFactory, TCompactProtocolFactory
from thriftpy2.protocol.cybin import TCyBinaryProtocolFactory
from thriftpy2.rpc import make_client
from thriftpy2.transport import TBufferedTransportFactory, TFramedTransportFactory

HERE = Path(__file__).resolve().parent
INTERFACE = HERE.parent / "crates" / "kv-api" / "thrift" / "kvstore.thrift"
TIMEOUT_MS = 30_000

sys.path.insert(0, str(HERE / "generated"))
from kvstore import TransactionalKV, ttypes  # noqa: E402

APACHE_PROTOCOLS = {
    "binary": TBinaryProtocol.TBinaryProtocol,
    "binary-accelerated": TBinaryProtocol.TBinaryProtocolAccelerated,
    "compact": TCompactProtocol.TCompactProtocol,
    "compact-accelerated": TCompactProtocol.TCompactProtocolAccelerated,
}
APACHE_TRANSPORTS = {"buffered": TTransport.TBufferedTransport, "framed": TTransport.TFramedTransport}

THRIFTPY_PROTOCOLS = {
    "binary": TBinaryProtocolFactory,
    "binary-accelerated": TCyBinaryProtocolFactory,
    "compact": TCompactProtocolFactory,
}
THRIFTPY_TRANSPORTS = {"buffered": TBufferedTransportFactory, "framed": TFramedTransportFactory}

thriftpy_interface = thriftpy2.load(str(INTERFACE), module_name="synodkv_interop_thrift")


@dataclass(frozen=True)
class Kind:
    """One way to speak: a library, a protocol, a transport."""

    library: str
    protocol: str
    transport: str

    def __str__(self):
        return f"{self.library}-{self.protocol}-{self.transport}"

    def connect(self, host, port):
        return (ApacheClient if self.library == "apache" else ThriftpyClient)(self, host, port)


KINDS = [Kind("apache", p, t) for p in APACHE_PROTOCOLS for t in APACHE_TRANSPORTS] + [
    Kind("thriftpy2", p, t) for p in THRIFTPY_PROTOCOLS for t in THRIFTPY_TRANSPORTS
]


class ApacheClient:
    """The PyPI package `thrift`, with classes made by the Apache Thrift compiler."""

    types = ttypes

    def __init__(self, kind, host, port):
        socket = TSocket.TSocket(host, port)
        socket.setTimeout(TIMEOUT_MS)
        self._transport = APACHE_TRANSPORTS[kind.transport](socket)
        self._client = TransactionalKV.Client(APACHE_PROTOCOLS[kind.protocol](self._transport))
        self._transport.open()

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._transport.close()


class ThriftpyClient:
    """The PyPI package `thriftpy2`, which reads the interface file as it stands."""

    types = thriftpy_interface

    def __init__(self, kind, host, port):
        self._client = make_client(
            thriftpy_interface.TransactionalKV,
            host,
            port,
            proto_factory=THRIFTPY_PROTOCOLS[kind.protocol](),
            trans_factory=THRIFTPY_TRANSPORTS[kind.transport](),
            timeout=TIMEOUT_MS,
        )

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._client.close()
