"""Backups in a real S3 server behind a proxy that fails; see scripts/backup-s3.sh."""

import argparse
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from moto.server import ThreadedMotoServer

PATIENCE_S = 60


class Faults:
    """Which requests go wrong: every third one, in turn with an error, a cut reply, and a late one."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = 0
        self.counts = {"error": 0, "cut": 0, "late": 0}
        self.is_on = False

    def next(self, method):
        with self.lock:
            self.requests += 1
            if not self.is_on or self.requests % 3 != 0:
                return None
            kinds = ["error", "cut", "late"] if method == "GET" else ["error", "late"]
            kind = kinds[self.requests // 3 % len(kinds)]
            self.counts[kind] += 1
            return kind


def proxy(upstream, faults):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def forward(self):
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            fault = faults.next(self.command)
            if fault == "error":
                self.send_response(500)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            if fault == "late":
                time.sleep(0.5)
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=PATIENCE_S)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            size = reply.getheader("content-length") if self.command == "HEAD" else len(content)
            self.send_header("content-length", str(size or 0))
            self.end_headers()
            if fault == "cut" and len(content) > 1:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Program:
    def __init__(self, path, environment):
        self.path, self.environment = path, environment

    def run(self, *arguments, expect=0, text=None):
        done = subprocess.run(
            [self.path, *map(str, arguments)], env=self.environment, input=text, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, f"{arguments}: {done.returncode}, not {expect}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def serve(self, data_dir, thrift, admin):
        process = subprocess.Popen(
            [self.path, "serve", "--data-dir", data_dir, "--thrift-addr", f"127.0.0.1:{thrift}",
             "--admin-addr", f"127.0.0.1:{admin}"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/health/ready", timeout=5).read()
                return process
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, "the server does not start"
                time.sleep(0.05)


def row_hash(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/rows/hash?limit=1000000", timeout=30) as reply:
        document = json.load(reply)
    return document["hash"], document["count"]


def archive_and_restore(program, folder, url, store, key):
    """Archives changes through the faults, and restores each version in between."""
    hashes = {}
    for number in range(3):
        program.run("txn", "-e", f"set point {number}", "-e", "add counter 1", "-e", "clear key000000 key000002")
        admin = program.environment["SYNODKV_ADMIN"].rsplit(":", 1)[1]
        program.run("backup", "watch", "--to", url, *store, "--once", "--encrypt-with", key)
        listed = json.loads(program.run("backup", "list", url, *store, "--format", "json"))
        hashes[listed["restorable"][-1]["to_version"]] = row_hash(admin)
    assert len(hashes) == 3, hashes
    program.run("backup", "verify", url, *store, "--key-file", key)
    for version, original in hashes.items():
        data = folder / f"at-{version}"
        program.run("restore", "--from", url, *store, "--data-dir", data, "--key-file", key, "--at", version)
        thrift, admin = free_port(), free_port()
        server = program.serve(data, thrift, admin)
        try:
            assert row_hash(admin) == original, version
        finally:
            server.kill()
            server.wait()
    said = program.run("restore", "--from", url, *store, "--data-dir", folder / "new", "--key-file", key, "--at", 99999, expect=2)
    assert "cannot be restored; what can be" in said, said
    return len(hashes)


def scenario(synodkv, folder):
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    upstream = moto.get_host_and_port()[1]
    faults = Faults()
    endpoint = f"http://127.0.0.1:{proxy(upstream, faults)}"
    credentials = folder / "credentials"
    credentials.write_text(
        f"AWS_ACCESS_KEY_ID=test\nAWS_SECRET_ACCESS_KEY=test\nAWS_REGION=us-east-1\nAWS_ENDPOINT_URL={endpoint}\n"
    )
    thrift, admin = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SYNODKV_"))}
    environment |= {"SYNODKV_ADDR": f"127.0.0.1:{thrift}", "SYNODKV_ADMIN": f"127.0.0.1:{admin}"}
    program = Program(synodkv, environment)
    server = program.serve(folder / "data", thrift, admin)
    try:
        rows = "".join(f"key{n:06}\t{os.urandom(400).hex()}\n" for n in range(5000))
        program.run("import", "--no-header", text=rows)
        original = row_hash(admin)
        url, store = "s3://bucket/cluster", ["--credentials", credentials]

        credentials.chmod(0o644)
        assert "chmod 600" in program.run("backup", "check", url, *store, expect=2)
        credentials.chmod(0o600)
        said = program.run("backup", "create", "--to", url, *store, expect=2)
        assert "the bucket does not exist" in said, said
        request = urllib.request.Request(f"http://127.0.0.1:{upstream}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=30).read()

        faults.is_on = True
        assert "can hold backups" in program.run("backup", "check", url, *store)
        key = folder / "backup.key"
        program.run("backup", "key", "--out", key)
        for options in ([], ["--encrypt-with", key]):
            program.run("backup", "create", "--to", url, *store, *options)
        listed = json.loads(program.run("backup", "list", url, *store, "--format", "json"))["backups"]
        assert [backup["state"] for backup in listed] == ["complete"] * 2, listed
        program.run("backup", "verify", url, *store, "--all", "--key-file", key)
        program.run("backup", "verify", url, *store, "--restore-test", "--key-file", key)
        points = archive_and_restore(program, folder, url, store, key)
        assert "it is the newest" in program.run("backup", "prune", url, *store, "--keep", "0s", "--dry-run")

        restored = folder / "restored"
        said = program.run("restore", "--from", url, *store, "--data-dir", restored, expect=2)
        assert "needs the key file" in said and not restored.exists(), said
        newest = listed[-1]["version"]
        program.run("restore", "--from", url, *store, "--data-dir", restored, "--key-file", key, "--at", newest)
        second_thrift, second_admin = free_port(), free_port()
        second = program.serve(restored, second_thrift, second_admin)
        try:
            assert row_hash(second_admin) == original
        finally:
            second.kill()
            second.wait()
        assert all(faults.counts.values()), f"the store did not fail in every way: {faults.counts}"
        return faults.counts, points
    finally:
        server.kill()
        server.wait()
        moto.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--synodkv", required=True, help="the program")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="synodkv-s3-"))
    try:
        counts, points = scenario(os.path.abspath(arguments.synodkv), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"ok: backups in S3, and {points} versions restored from an archive, with {counts} faults on the way")


if __name__ == "__main__":
    main()
