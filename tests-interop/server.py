"""Starts a real `synodkv serve` on free ports of the loopback interface, and stops it as a terminal would."""

import os
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack

READY_DEADLINE_S = 60
STOP_DEADLINE_S = 30
HOST = "127.0.0.1"


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
    def __init__(self, program, mode, data_dir):
        self.mode = mode
        first_port = free_ports(5)
        self.thrift_port, self.admin_port, first_peer_port = first_port, first_port + 1, first_port + 2
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNODKV_")}
        environment.pop("THRIFT_PORT", None)
        environment["REPLICATED_MODE"] = "true" if mode == "replicated" else "false"
        environment["SYNODKV_SERVER_ALLOW_FAULT_INJECTION"] = "true"
        if mode == "replicated":
            environment["SYNODKV_REPLICATION_FIRST_PEER_ADDR"] = f"{HOST}:{first_peer_port}"
        command = [program, "serve", "--data-dir", str(data_dir)]
        command += ["--thrift-addr", f"{HOST}:{self.thrift_port}", "--admin-addr", f"{HOST}:{self.admin_port}"]
        self._lines = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(READY_DEADLINE_S) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError(f"{' '.join(command)} did not become ready; it said:\n{self.output()}")

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith("ready"):
                self._ready.set()
        self._ready.set()

    def output(self):
        return "".join(self._lines)

    def stop(self):
        """Ctrl-C; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join()
        return status
