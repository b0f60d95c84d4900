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
# One database without consensus, and the same with TLS; three replicas in one process; three processes of one replica each.
MODES = ["standalone", "encrypted", "replicated", "cluster"]
WITHOUT_CONSENSUS = ["standalone", "encrypted"]
COLUMN_FAMILY = "interop"


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
        self._processes = []
        try:
            if mode == "cluster":
                self._start_cluster(program, engine, folder)
            else:
                self._start_single(program, engine, folder)
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def _start_single(self, program, engine, folder):
        thrift_port = free_ports(5)
        admin_port, first_peer_port = thrift_port + 1, thrift_port + 2
        environment = {"SYNODKV_REPLICATION_FIRST_PEER_ADDR": f"{HOST}:{first_peer_port}"}
        if self.mode == "encrypted":
            environment |= self._make_certificates(program, folder)
        mode = "standalone" if self.mode in WITHOUT_CONSENSUS else self.mode
        arguments = ["--mode", mode, "--data-dir", str(folder / "data")]
        arguments += ["--thrift-addr", f"{HOST}:{thrift_port}", "--admin-addr", f"{HOST}:{admin_port}"]
        self._processes.append(Process(program, engine, arguments, environment, admin_port))
        self.addresses = [(HOST, thrift_port)]

    def _make_certificates(self, program, folder):
        """Returns the settings that use them. The admin interface, which is not tested here, goes without."""
        certificates = folder / "certs"
        for arguments in (["init"], ["issue", "server"]):
            subprocess.run([program, "cert", *arguments, "--dir", str(certificates)], check=True, stdout=subprocess.DEVNULL)
        self.ca = str(certificates / "ca.pem")
        return {
            "SYNODKV_SERVER_TLS_CERTIFICATE": str(certificates / "server.pem"),
            "SYNODKV_SERVER_TLS_KEY": str(certificates / "server.key"),
            "SYNODKV_ADMIN_TLS_MODE": "off",
        }

    def _start_cluster(self, program, engine, folder):
        first = free_ports(3 * self.nodes)
        ports = [(first + 3 * node, first + 3 * node + 1, first + 3 * node + 2) for node in range(self.nodes)]
        lines = ['mode = "replicated"']
        for node, (thrift, admin, peer) in enumerate(ports):
            lines += ["[[replication.replicas]]", f"id = {node}", f'peer = "{HOST}:{peer}"']
            lines += [f'thrift = "{HOST}:{thrift}"', f'admin = "{HOST}:{admin}"']
        config = folder / "cluster.toml"
        config.write_text("\n".join(lines) + "\n")
        for node, (_, admin, _) in enumerate(ports):
            arguments = ["--config", str(config), "--node-id", str(node), "--data-dir", str(folder / f"data-{node}")]
            self._processes.append(Process(program, engine, arguments, {}, admin))
        self.addresses = [(HOST, thrift) for thrift, _, _ in ports]

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
        self._admin = f"http://{HOST}:{admin_port}"
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
            with urllib.request.urlopen(f"{self._admin}/status", timeout=READY_DEADLINE_S) as answer:
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
