"""Clients in other languages: each is a program that goes through the scenario and reports step by step.

A program takes `--addresses HOST:PORT,... --protocol P --transport T --prefix TEXT --nodes N`, `--ca FILE` for TLS, and with
authentication `--token TOKEN`, or `--cert FILE --key FILE` where its interface has no tokens; it prints a line per step
(`ok STEP` or `FAILED STEP: why`), and ends with status 0 when none failed, 1 when some did.
"""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

DEADLINE_S = 120
LANGUAGES = ["node", "cpp", "rust"]
INTERFACES = ["current", "legacy"]


@dataclass(frozen=True)
class Program:
    """One way to speak: a language, the interface that its code was made from, a protocol, a transport."""

    language: str
    interface: str
    protocol: str
    transport: str

    def __str__(self):
        return f"{self.language}-{self.interface}-{self.protocol}-{self.transport}"

    def _command(self, build):
        folder = Path(build) / self.language / self.interface
        if self.language == "node":
            return ["node", str(folder / "main.js")]
        return [str(folder / ("target/debug/client" if self.language == "rust" else "client"))]

    def run(self, build, server, prefix):
        command = self._command(build)
        command += ["--addresses", ",".join(f"{host}:{port}" for host, port in server.addresses), "--prefix", prefix]
        command += ["--protocol", self.protocol, "--transport", self.transport, "--nodes", str(server.nodes)]
        if server.ca is not None:
            command += ["--ca", server.ca]
        if server.token is not None and self.interface == "current":
            command += ["--token", server.token]
        elif server.token is not None:
            command += ["--cert", server.certificate, "--key", server.key]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S
        )
        return Outcome.of(ended.returncode, ended.stdout)


@dataclass
class Outcome:
    status: int
    output: str
    passed: list = field(default_factory=list)
    # Step: why
    failed: dict = field(default_factory=dict)

    @staticmethod
    def of(status, output):
        outcome = Outcome(status, output)
        for line in output.splitlines():
            if line.startswith("ok "):
                outcome.passed.append(line[3:])
            elif line.startswith("FAILED "):
                step, _, why = line[7:].partition(": ")
                outcome.failed[step] = why
        return outcome


PROGRAMS = [
    Program(language, interface, protocol, transport)
    for language in LANGUAGES
    for interface in INTERFACES
    for protocol in ("binary", "compact")
    for transport in ("buffered", "framed")
    if interface == "current" or protocol == "binary"
]
