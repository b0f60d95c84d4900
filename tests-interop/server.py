"""Starts real `synodkv serve` processes on free ports of the loopback interface, and stops them as a terminal would."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

READY_DEADLINE_S = 60
STOP_DEADLINE_S = 30
POLL_S = 0.05
HOST = "127.0.0.1"
# One database without consensus, and the same with TLS; three replicas in one process; three processes of one replica each,
# and the same with TLS and authentication.
MODES = ["standalone", "encrypted", "replicated", "cluster", "guarded"]
WITHOUT_CONSENSUS = ["standalone", "encrypted"]
WITH_TLS = ["encrypted", "guarded"]
COLUMN_FAMILY = "interop"
# With authentication, all clients are this user. It has what the steps of the scenario need.
USER = "client"
GRANTS = ["read,watch,write *", "admin:status,fault *"]


def free_ports(count):
    """The first of so many consecutive ports that nobody listened on a moment ago."""
    while True:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            try:
                sockets[0].bind((HOST, 0))
                first = sockets[0].getsockname()[1]
                for offset, each in enumerate(sockets[1:], 1):
                    each.bind((HOST, first + offset))
                return first
            except (OSError, OverflowError):
                continue


class Server:
    """The servers of one mode: `addresses` of one server or of three."""

    def __init__(self, program, mode, engine, folder):
        self.mode = mode
        self.nodes = 1 if mode in WITHOUT_CONSENSUS else 3
        # The authority that clients must believe, or None for servers without TLS.
        self.ca = None
        # With authentication: the user's token, and, for clients that cannot send one, files of a certificate and its key.
        self.token = self.certificate = self.key = None
        self._program, self._folder = program, folder
        self._processes = []
        try:
            if mode in ("cluster", "guarded"):
                self._start_cluster(program, engine, folder)
            else:
                self._start_single(program, engine, folder)
            self._wait_until_healthy()
            if mode == "guarded":
                self._enable_authentication()
        except BaseException:
            self.stop()
            raise

    def _start_single(self, program, engine, folder):
        thrift_port = free_ports(5)
        admin_port, first_peer_port = thrift_port + 1, thrift_port + 2
        environment = {"SYNODKV_REPLICATION_FIRST_PEER_ADDR": f"{HOST}:{first_peer_port}"}
        environment |= self._make_certificates()
        mode = "standalone" if self.mode in WITHOUT_CONSENSUS else self.mode
        arguments = ["--mode", mode, "--data-dir", str(folder / "data")]
        arguments += ["--thrift-addr", f"{HOST}:{thrift_port}", "--admin-addr", f"{HOST}:{admin_port}"]
        self._processes.append(Process(program, engine, arguments, environment, admin_port))
        self.addresses = [(HOST, thrift_port)]

    def _run(self, *arguments):
        """Runs a command that must succeed; returns its output."""
        ended = subprocess.run([self._program, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return ended.stdout.strip()

    def _make_certificates(self):
        """Returns the settings that use them. The admin interface, which is not tested here, goes without."""
        if self.mode not in WITH_TLS:
            return {}
        certificates = self._folder / "certs"
        for arguments in (["init"], ["issue", "server"], ["issue", "client", USER]):
            self._run("cert", *arguments, "--dir", str(certificates))
        self.ca = str(certificates / "ca.pem")
        settings = {
            "SYNODKV_SERVER_TLS_CERTIFICATE": str(certificates / "server.pem"),
            "SYNODKV_SERVER_TLS_KEY": str(certificates / "server.key"),
            "SYNODKV_ADMIN_TLS_MODE": "off",
        }
        if self.mode == "guarded":
            self.certificate, self.key = (str(certificates / f"client-{USER}.{end}") for end in ("pem", "key"))
            settings["SYNODKV_SERVER_TLS_CLIENT_CA"] = self.ca
            settings["SYNODKV_SERVER_TLS_CLIENT_CERTIFICATES"] = "optional"
        return settings

    def _enable_authentication(self):
        root = self._folder / "root.token"
        target = ["--admin", self._processes[0].admin_addr]
        self._run("auth", "enable", "--root-token-file", str(root), *target)
        target += ["--token-file", str(root)]
        grants = [word for grant in GRANTS for word in ("--grant", grant)]
        self._run("auth", "role", "set", "of-client", *grants, *target)
        self._run("auth", "user", "add", USER, "--role", "of-client", *target)
        self.token = self._run("auth", "token", "create", USER, *target)
        for host, port in self.addresses:
            self._wait_until_known(f"{host}:{port}")

    def _start_cluster(self, program, engine, folder):
        first = free_ports(3 * self.nodes)
        ports = [(first + 3 * node, first + 3 * node + 1, first + 3 * node + 2) for node in range(self.nodes)]
        lines = ['mode = "replicated"']
        for node, (thrift, admin, peer) in enumerate(ports):
            lines += ["[[replication.replicas]]", f"id = {node}", f'peer = "{HOST}:{peer}"']
            lines += [f'thrift = "{HOST}:{thrift}"', f'admin = "{HOST}:{admin}"']
        config = folder / "cluster.toml"
        config.write_text("\n".join(lines) + "\n")
        environment = self._make_certificates()
        for node, (_, admin, _) in enumerate(ports):
            arguments = ["--config", str(config), "--node-id", str(node), "--data-dir", str(folder / f"data-{node}")]
            self._processes.append(Process(program, engine, arguments, environment, admin))
        self.addresses = [(HOST, thrift) for thrift, _, _ in ports]

    def _wait_until_known(self, address):
        """Until the server at this address has heard of the user's token, which another one has made."""
        file = self._folder / "client.token"
        file.write_text(self.token)
        command = [self._program, "range", "--limit", "1", "--addr", address, "--ca", self.ca, "--token-file", str(file)]
        deadline = time.monotonic() + READY_DEADLINE_S
        while (ended := subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{address} does not know the token: {ended.stdout}")
            time.sleep(POLL_S)

    def _wait_until_healthy(self):
        deadline = time.monotonic() + READY_DEADLINE_S
        for process in self._processes:
            process.wait_until_ready(deadline)
        for process in self._processes:
            process.wait_until_healthy(deadline)

    def output(self):
        return "\n".join(process.output() for process in self._processes)

    def stop(self):
        """Ctrl-C for each; returns the exit statuses."""
        for process in self._processes:
            process.interrupt()
        return [process.wait() for process in self._processes]


class Process:
    """One `synodkv serve`."""

    def __init__(self, program, engine, arguments, environment, admin_port):
        self.admin_addr = f"{HOST}:{admin_port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYNODKV_")}
        for name in ("THRIFT_PORT", "REPLICATED_MODE"):
            inherited.pop(name, None)
        environment = environment | {
            "SYNODKV_SERVER_ALLOW_FAULT_INJECTION": "true",
            "SYNODKV_STORAGE_ENGINE": engine,
            "SYNODKV_STORAGE_COLUMN_FAMILIES": COLUMN_FAMILY,
        }
        self._command = [program, "serve", *arguments]
        self._lines = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            self._command,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith("ready"):
                self._ready.set()
        self._ready.set()

    def wait_until_ready(self, deadline):
        if not self._ready.wait(max(0, deadline - time.monotonic())) or self._process.poll() is not None:
            raise self._failure("did not become ready")

    def wait_until_healthy(self, deadline):
        """Until it has a primary and sees all replicas."""
        while not self._is_healthy():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise self._failure("is not healthy")
            time.sleep(POLL_S)

    def _is_healthy(self):
        try:
            with urllib.request.urlopen(f"http://{self.admin_addr}/status", timeout=READY_DEADLINE_S) as answer:
                return json.load(answer)["cluster_status"] == "healthy"
        except urllib.error.URLError:
            return False

    def _failure(self, what):
        return RuntimeError(f"{' '.join(self._command)} {what}; it said:\n{self.output()}")

    def output(self):
        return "".join(self._lines)

    def interrupt(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self):
        try:
            status = self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join()
        return status
