#!/usr/bin/env python3
"""Wipes each of three disks in turn, under light load, and prints the seconds until its replica votes again.

  scripts/lost-disks.py --program PATH/TO/synodkv                       # 1,000 MiB of rows of 1 KiB
  scripts/lost-disks.py --program PATH/TO/synodkv --mib 200 --rate 50   # smaller, for a build without optimization

Three processes listen on 127.0.0.1, each with a directory of its own. A disk is wiped as if it had failed: kill -9, then an
empty directory, then the same command as before. No other command is given. Exit status 1 if a replica does not vote again
in time, an acknowledged write is missing, or the replicas differ in the end. The folder with data and logs is removed after
success (not with --keep).
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

LOOK_AGAIN_S = 0.1
# The light load is measured in pieces of this length.
LOAD_SECONDS = 5
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failed(Exception):
    """The run is over; the text says why."""


def free_ports(count):
    """Ports below those of outgoing connections that nobody listens on."""
    found = []
    for port in range(26_000, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise Failed("there are no free ports from 26000 to 32000")


class Cluster:
    """Three servers, their addresses, and the folder with everything."""

    def __init__(self, program, folder):
        self.program, self.folder, self.processes = program, folder, [None] * 3
        ports = free_ports(9)
        self.thrift = [f"127.0.0.1:{port}" for port in ports[3:6]]
        self.admin = [f"127.0.0.1:{port}" for port in ports[6:]]
        text = 'mode = "replicated"\n'
        for replica in range(3):
            text += (
                f'\n[[replication.replicas]]\nid = {replica}\npeer = "127.0.0.1:{ports[replica]}"\n'
                f'thrift = "{self.thrift[replica]}"\nadmin = "{self.admin[replica]}"\n'
            )
        self.config = os.path.join(folder, "cluster.toml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def data(self, replica):
        return os.path.join(self.folder, f"data-{replica}")

    def start(self, replica):
        log = open(os.path.join(self.folder, f"{replica}.log"), "ab")
        words = ["serve", "--config", self.config, "--node-id", str(replica), "--data-dir", self.data(replica)]
        self.processes[replica] = subprocess.Popen(
            [self.program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
        )
        log.close()

    def kill(self, replica):
        if self.processes[replica] is not None:
            self.processes[replica].kill()
            self.processes[replica].wait()
            self.processes[replica] = None

    def client(self, *words):
        environment = {**os.environ, "SYNODKV_ADDR": ",".join(self.thrift), "SYNODKV_ADMIN": ",".join(self.admin)}
        return subprocess.run([self.program, *words], env=environment, capture_output=True, text=True, check=False)

    def must(self, *words):
        done = self.client(*words)
        if done.returncode != 0:
            raise Failed(f"`synodkv {' '.join(words)}` ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def status(self, replica):
        """What a server says of the cluster; nothing while it does not answer."""
        process = self.processes[replica]
        if process is not None and process.poll() is not None:
            raise Failed(f"the server of replica {replica} ended by itself, with {process.returncode}: see its log")
        try:
            with DIRECT.open(f"http://{self.admin[replica]}/status", timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return {}

    def voters(self, replica):
        """The replicas that vote, as one of them sees it."""
        shown = self.status(replica).get("replicas", [])
        return sorted(other["id"] for other in shown if other["role"] in ("primary", "secondary"))

    def wait_for_three_voters(self, seconds):
        """Waits until each server says that all three vote and one of them leads."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if all(self.voters(replica) == [0, 1, 2] for replica in range(3)):
                return time.monotonic() - began
            time.sleep(LOOK_AGAIN_S)
        views = [self.voters(replica) for replica in range(3)]
        raise Failed(f"after {seconds} s not all three vote; each of them sees {views}")


class Load:
    """Writes a few rows a second until it is stopped, and notes what was acknowledged."""

    def __init__(self, cluster, rate, value_bytes):
        self.cluster, self.rate, self.value_bytes = cluster, rate, value_bytes
        self.files, self.failures, self.is_over = [], [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.is_over.is_set():
            file = os.path.join(self.cluster.folder, f"acknowledged-{len(self.files)}.txt")
            words = ["--workload", "put", "--unique", "--acknowledged", file, "--seconds", str(LOAD_SECONDS)]
            words += ["--rate", str(self.rate), "--value-size", str(self.value_bytes)]
            done = self.cluster.client("bench", *words)
            if done.returncode != 0:
                self.failures.append(done.stderr.strip())
                return
            self.files.append(file)

    def stop(self):
        self.is_over.set()
        self.thread.join()


def wiped_bytes(directory):
    sizes = (os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(directory) for name in names)
    return sum(sizes)


def wipe(cluster, replica, limit_seconds):
    """Returns the seconds from the start of the server with an empty disk until three replicas vote, and the bytes wiped."""
    epoch = cluster.status((replica + 1) % 3)["epoch"]
    cluster.kill(replica)
    size = wiped_bytes(cluster.data(replica))
    shutil.rmtree(cluster.data(replica))
    began = time.monotonic()
    cluster.start(replica)
    # The old disk counts as a voter until the new one takes over its vote, in a new epoch.
    while cluster.status((replica + 1) % 3).get("epoch", 0) <= epoch:
        if time.monotonic() - began > limit_seconds:
            raise Failed(f"replica {replica} does not vote again after {limit_seconds} s")
        time.sleep(LOOK_AGAIN_S)
    cluster.wait_for_three_voters(limit_seconds)
    return time.monotonic() - began, size


def run(arguments, folder):
    cluster = Cluster(arguments.program, folder)
    load = None
    try:
        for replica in range(3):
            cluster.start(replica)
        cluster.wait_for_three_voters(60)
        rows = arguments.mib * (1 << 20) // arguments.value_bytes
        began = time.monotonic()
        sizes = ["--keys", str(rows), "--value-size", str(arguments.value_bytes)]
        cluster.must("bench", "load", "--workload", "get", *sizes)
        print(f"{rows} rows of {arguments.value_bytes} bytes were written in {time.monotonic() - began:.0f} s", flush=True)
        load = Load(cluster, arguments.rate, arguments.value_bytes)
        for replica in range(3):
            seconds, size = wipe(cluster, replica, arguments.limit_seconds)
            print(f"replica {replica}: {size >> 20} MiB wiped, {seconds:.1f} s until it votes again", flush=True)
        load.stop()
        if load.failures:
            raise Failed(f"not one write succeeded in {LOAD_SECONDS} s: {load.failures[0]}")
        for file in load.files:
            cluster.must("bench", "check", "--acknowledged", file)
        print(f"every write acknowledged meanwhile is there ({len(load.files)} files were checked)")
        print(cluster.must("verify").strip().splitlines()[-1])
    finally:
        if load is not None:
            load.stop()
        for replica in range(3):
            cluster.kill(replica)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, metavar="PATH", help="the synodkv to run")
    parser.add_argument("--mib", type=int, default=1000, help="MiB of values (%(default)s)")
    parser.add_argument("--value-bytes", type=int, default=1024, help="length of a value (%(default)s)")
    parser.add_argument("--rate", type=int, default=200, help="writes a second while disks are wiped (%(default)s)")
    parser.add_argument("--limit-seconds", type=int, default=600, help="for each disk (%(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="where data and logs go (a new folder in the system's one)")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    arguments = parser.parse_args()
    arguments.program = os.path.abspath(arguments.program)
    if min(arguments.mib, arguments.value_bytes, arguments.rate, arguments.limit_seconds) < 1:
        parser.error("--mib, --value-bytes, --rate and --limit-seconds are at least 1")
    if not os.access(arguments.program, os.X_OK):
        parser.error(f"--program {arguments.program}: there is no such program")
    folder = tempfile.mkdtemp(prefix="lost-disks-", dir=arguments.folder)
    try:
        run(arguments, folder)
    except (Failed, KeyboardInterrupt) as reason:
        print(f"failed: {reason or 'interrupted'}; data and logs stay in {folder}", file=sys.stderr)
        return 1
    if not arguments.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
