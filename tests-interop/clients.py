"""Stock Thrift clients of several makes behind one shape: `client.method(request)` and `client.types.Struct(...)`.

Nothing here comes from SynodKV but the interface files: whatever these libraries send and expect, the server must
understand and send.
"""

import importlib
import itertools
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import thriftpy2
from thrift.protocol import TBinaryProtocol, TCompactProtocol
from thrift.transport import TSocket, TSSLSocket, TTransport
from thriftpy2.protocol import TBinaryProtocolFactory, TCompactProtocolFactory
from thriftpy2.protocol.cybin import TCyBinaryProtocolFactory
from thriftpy2.rpc import make_client
from thriftpy2.transport import TBufferedTransportFactory, TFramedTransportFactory

HERE = Path(__file__).resolve().parent
# The present interface, and the one that existing clients were made from. Each name is also that of its Python package.
INTERFACES = {
    "current": HERE.parent / "crates" / "kv-api" / "thrift" / "kvstore.thrift",
    "legacy": HERE / "legacy.thrift",
}
TIMEOUT_MS = 30_000

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

thriftpy_interfaces = {
    name: thriftpy2.load(str(path), module_name=f"{name}_thrift") for name, path in INTERFACES.items()
}


@dataclass(frozen=True)
class Kind:
    """One way to speak: a library, the interface that its code was made from, a protocol, a transport."""

    library: str
    interface: str
    protocol: str
    transport: str

    def __str__(self):
        return f"{self.library}-{self.interface}-{self.protocol}-{self.transport}"

    def connect(self, server):
        client = ApacheClient if self.library == "thrift" else ThriftpyClient
        clients = [client(self, *address, server) for address in server.addresses]
        if self.authenticates(server):
            for each in clients:
                response = each.authenticate(each.types.AuthenticateRequest(token=server.token))
                assert response.success, response.error
        return InTurn(clients)

    def authenticates(self, server):
        """Existing clients know no tokens: a certificate says who they are."""
        return server.token is not None and self.interface == "current"

    def certificate(self, server):
        """The files of the certificate and its key, or None."""
        return None if server.certificate is None or self.authenticates(server) else (server.certificate, server.key)


def _kinds(library, protocols, transports):
    """Each encoding with the present interface; what existing clients speak, and framed, with the legacy one."""
    kinds = [Kind(library, "current", protocol, transport) for protocol in protocols for transport in transports]
    return kinds + [Kind(library, "legacy", "binary", transport) for transport in transports]


KINDS = _kinds("thrift", APACHE_PROTOCOLS, APACHE_TRANSPORTS)
KINDS += _kinds("thriftpy2", THRIFTPY_PROTOCOLS, THRIFTPY_TRANSPORTS)


class InTurn:
    """A connection to each server; every call goes to the next one."""

    def __init__(self, clients):
        self._clients = clients
        self._next = itertools.cycle(clients)
        self.types = clients[0].types

    def __getattr__(self, method):
        return getattr(next(self._next), method)

    def one(self):
        """A single one of the connections."""
        return next(self._next)

    def close(self):
        for client in self._clients:
            client.close()


class ApacheClient:
    """The PyPI package `thrift`, with classes made by the Apache Thrift compiler."""

    def __init__(self, kind, host, port, server):
        package = INTERFACES[kind.interface].stem
        self.types = importlib.import_module(f"{package}.ttypes")
        service = importlib.import_module(f"{package}.TransactionalKV")
        if server.ca is None:
            socket = TSocket.TSocket(host, port)
        else:
            certificate, key = kind.certificate(server) or (None, None)
            socket = TSSLSocket.TSSLSocket(
                host, port, cert_reqs=ssl.CERT_REQUIRED, ca_certs=server.ca, certfile=certificate, keyfile=key
            )
        socket.setTimeout(TIMEOUT_MS)
        self._transport = APACHE_TRANSPORTS[kind.transport](socket)
        self._client = service.Client(APACHE_PROTOCOLS[kind.protocol](self._transport))
        self._transport.open()

    @staticmethod
    def find_classes_in(build):
        """`build` holds what the compiler made of each interface."""
        sys.path[:0] = [str(Path(build) / "python" / interface) for interface in INTERFACES]

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._transport.close()


class ThriftpyClient:
    """The PyPI package `thriftpy2`, which reads the interface file as it stands."""

    def __init__(self, kind, host, port, server):
        certificate, key = kind.certificate(server) or (None, None)
        self.types = thriftpy_interfaces[kind.interface]
        self._client = make_client(
            self.types.TransactionalKV,
            host,
            port,
            proto_factory=THRIFTPY_PROTOCOLS[kind.protocol](),
            trans_factory=THRIFTPY_TRANSPORTS[kind.transport](),
            timeout=TIMEOUT_MS,
            **({} if server.ca is None else {"cafile": server.ca, "certfile": certificate, "keyfile": key}),
        )

    def __getattr__(self, method):
        return getattr(self._client, method)

    def close(self):
        self._client.close()
