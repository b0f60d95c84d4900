#!/usr/bin/env python3
"""Rolling upgrades of three real processes under load, from one release to another.

    scripts/upgrade-test.py --old PROGRAM --new PROGRAM [--orders 0-1-2,2-0-1] [--keep DIR]

For each order of the replicas (by default all six):

    all replicas run the old program          -> load begins, and does not end before the upgrade does
    one after the other is stopped (SIGTERM), and started with the new program; `upgrade wait` lets the next one go.
                                                 In each mixture every replica leads once, and all hold the same rows
    the first order also goes back            -> one replica of a mixture, then all of them, while the level is the old one
    upgrade finalize                          -> then the old program refuses the data, and the new one still serves them
    every write that was acknowledged is there

The old program is the one of the release before: build it once, in a worktree of its tag, and keep it outside of the
repository. The test needs some five minutes, and asks the system for free ports.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IDS = [0, 1, 2]


class Failed(Exception):
    pass


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def check(what, holds):
    if not holds:
        raise Failed(what)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    def __init__(self, folder, new):
        self.folder, self.new = folder, new
        self.processes, self.programs = {}, {}
        ports = iter(free_ports(9))
        self.thrift, self.admin = [], []
        text = 'mode = "replicated"\n[storage]\nwrite_buffer_mb = 16\nblock_cache_mb = 8\n[replication]\nwal_segment_mb = 4\n'
        for id in IDS:
            peer, thrift, admin = (f"127.0.0.1:{next(ports)}" for _ in range(3))
            text += f'[[replication.replicas]]\nid = {id}\npeer = "{peer}"\nthrift = "{thrift}"\nadmin = "{admin}"\n'
            self.thrift.append(thrift)
            self.admin.append(admin)
        (folder / "cluster.toml").write_text(text)

    def start(self, id, program):
        log = open(self.folder / f"{id}.log", "a")
        log.write(f"--- {program}\n")
        log.flush()
        command = [program, "serve", "--config", str(self.folder / "cluster.toml"), "--node-id", str(id)]
        command += ["--data-dir", str(self.folder / f"data-{id}")]
        self.processes[id] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.programs[id] = program

    def stop(self, id):
        process = self.processes.pop(id)
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
        check(f"replica {id} ends with status {status} after SIGTERM", status == 0)

    def kill_all(self):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def command(self, *arguments, expected=0, program=None):
        """A command of the new program, which knows all replicas."""
        variables = {**os.environ, "SYNODKV_ADDR": ",".join(self.thrift), "SYNODKV_ADMIN": ",".join(self.admin)}
        done = subprocess.run([program or self.new, *map(str, arguments)], env=variables, capture_output=True, text=True, timeout=300)
        said = done.stdout + done.stderr
        check(f"{' '.join(map(str, arguments))}: status {done.returncode}, expected {expected}: {said}", done.returncode == expected)
        return said

    def wait(self, *ids):
        self.command("upgrade", "wait", *itertools.chain(*(("--node", id) for id in ids)), "--timeout-seconds", 120)

    def exchange(self, id, program):
        """Restarts a replica with another program."""
        self.stop(id)
        self.start(id, program)
        self.wait(id)

    def levels(self):
        return json.loads(self.command("upgrade", "status", "--format", "json"))

    def use(self, what):
        """Every replica leads once; each answers with what was written through another; all hold the same rows."""
        for id in IDS:
            self.lead(id)
            value = f"{what}-{id}"
            self.command("set", "probe", value, "--addr", self.thrift[id])
            for other in IDS:
                said = self.command("get", "probe", "--addr", self.thrift[other])
                check(f"replica {other} reads {said}, expected {value}", said == value)
        self.command("verify")

    def lead(self, id):
        """A transfer may be refused at the moment of an election."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.command("failover", "--to", id)
            except Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


class Load:
    """Unique keys, each written once, with a record of those that were acknowledged."""

    def __init__(self, cluster):
        self.record = cluster.folder / "acknowledged"
        command = [cluster.new, "bench", "--workload", "put", "--unique", "--acknowledged", str(self.record)]
        command += ["--seconds", "3600", "--connections", "8", "--addr", ",".join(cluster.thrift)]
        self.log = open(cluster.folder / "load.log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def end(self):
        check(f"the load ended by itself: {Path(self.log.name).read_text()[-2000:]}", self.process.poll() is None)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def upgrade(order, old, new, folder, goes_back):
    cluster = Cluster(folder, new)
    load = None
    try:
        for id in IDS:
            cluster.start(id, old)
        cluster.wait(*IDS)
        load = Load(cluster)
        before = cluster.levels()
        for place, id in enumerate(order):
            cluster.exchange(id, new)
            cluster.use(f"mixture-{place}")
            if goes_back and place == 1:
                say(f"  replica {id} goes back, and on again")
                cluster.exchange(id, old)
                cluster.use("back")
                cluster.exchange(id, new)
        after = cluster.levels()
        check(f"the level rose by itself: {before} -> {after}", before["feature_level"] in (None, after["feature_level"]))
        if goes_back:
            say("  all replicas go back, and on again")
            for program in [old, new]:
                for id in order:
                    cluster.exchange(id, program)
                cluster.use("all-back" if program == old else "all-on")
        cluster.command("upgrade", "plan")
        raised = after["next_feature_level"] is not None and after["next_feature_level"] > (after["feature_level"] or 0)
        cluster.command("upgrade", "finalize")
        cluster.use("finalized")
        if raised:
            refuses(cluster, order[0], old)
        load.end()
        check_load(cluster, load)
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name} ends so\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
    finally:
        if load:
            load.kill()
        cluster.kill_all()


def refuses(cluster, id, old):
    """The old program must neither serve data of a level that it does not execute, nor harm them."""
    cluster.stop(id)
    cluster.start(id, old)
    try:
        status = cluster.processes[id].wait(60)
    except subprocess.TimeoutExpired:
        raise Failed("the old program serves data of a newer level") from None
    check("the old program ends with status 0", status != 0)
    cluster.processes.pop(id)
    cluster.start(id, cluster.new)
    cluster.wait(id)
    cluster.command("verify")


def check_load(cluster, load):
    said = cluster.command("bench", "check", "--acknowledged", load.record, "--format", "json")
    say(f"  acknowledged writes: {said.strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, metavar="PROGRAM")
    parser.add_argument("--new", required=True, metavar="PROGRAM")
    parser.add_argument("--orders", metavar="LIST", help="for example 0-1-2,2-1-0; by default all six")
    parser.add_argument("--keep", metavar="DIR", help="keep data and logs there")
    given = parser.parse_args()
    orders = list(itertools.permutations(IDS))
    if given.orders:
        orders = [tuple(int(id) for id in order.split("-")) for order in given.orders.split(",")]
        for order in orders:
            if sorted(order) != IDS:
                sys.exit(f"--orders: {order}: expected each of 0, 1 and 2 once, such as 2-0-1")
    for which in [given.old, given.new]:
        if not os.access(which, os.X_OK):
            sys.exit(f"{which}: no program")
    root = Path(given.keep or tempfile.mkdtemp())
    for place, order in enumerate(orders):
        say(f"order {'-'.join(map(str, order))}")
        folder = root / "-".join(map(str, order))
        folder.mkdir(parents=True)
        try:
            upgrade(order, given.old, given.new, folder, goes_back=place == 0)
        except Failed as failure:
            sys.exit(f"error: order {order}: {failure}")
    if not given.keep:
        shutil.rmtree(root)
    say(f"{len(orders)} orders: every mixture served, and every acknowledged write is there")


if __name__ == "__main__":
    main()
