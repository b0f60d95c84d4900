#!/usr/bin/env python3
"""Compares SynodKV with etcd, ZooKeeper and Redis on this machine; scripts/compare.sh starts it."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import options
import procs
import servers
from load import Generator, measure
from report import Results, number, print_table, ratio, say, version_of, warn_if_busy

NAMES = ("synodkv", "standalone", "one-process", "etcd", "zookeeper", "redis")
WORKLOADS = ("put", "get", "ycsb-a", "ycsb-b", "ycsb-c", "txn")
TITLES = {"put": "put", "get": "get, linearizable", "ycsb-a": "YCSB A, half updates", "ycsb-b": "YCSB B, 5 % updates",
          "ycsb-c": "YCSB C, reads only", "txn": "transaction, 2 reads and 2 writes"}
OURS = "synodkv"
# Both generators do nearly everything in one thread.
BUSY_CLIENT = 0.85
DESCRIPTION = """\
Measures this server, etcd and ZooKeeper as three processes each, and one Redis that synchronises every write, on
127.0.0.1, in turns: in each round each system is started on empty data directories, loaded, measured and stopped, so
that no other one runs meanwhile. Keys, values, connections and requests in flight are the same for all."""
EPILOG = """\
systems:    synodkv     three processes of this server
            standalone  one process of this server without replication
            one-process three replicas of this server in one process
            etcd, zookeeper, redis
workloads:  put, get    uniform keys of 16 bytes, up to 8 connections; a get is linearizable
            ycsb-a, ycsb-b, ycsb-c
                        zipfian keys of 23 bytes, a connection for each request in flight
            txn         read two records, write both if neither has changed; not with Redis

A get is etcd's default range, ZooKeeper's sync and getData, Redis' GET. A transaction is a conflict-checked commit of our
Rust client, etcd's Txn that compares two revisions and puts two keys, ZooKeeper's multi of two setData with versions.

The columns, all of them medians over the rounds: operations per second and their ratio to ours; p50 and p99 in ms; CPU
seconds of all server processes per 1,000 operations and their ratio to ours; context switches and synchronisations of the
disk of all server processes per operation; CPU seconds of the client per 1,000 operations, because it shares the machine.

The Debian packages of the others: apt-get install etcd-server zookeeper redis-server. They must not run as services
meanwhile: systemctl disable --now etcd zookeeper redis-server."""


def main():
    made = options.parser("scripts/compare.sh", DESCRIPTION, EPILOG)
    made.add_argument("--systems", type=options.one_of(*NAMES), default=["synodkv", "etcd", "zookeeper", "redis"],
                      metavar="LIST", help="which systems (synodkv,etcd,zookeeper,redis)")
    made.add_argument("--workloads", type=options.one_of(*WORKLOADS), default=list(WORKLOADS), metavar="LIST",
                      help=f"which workloads ({','.join(WORKLOADS)})")
    made.add_argument("--value-size", type=options.positive, default=100, metavar="BYTES", help="length of a value (100)")
    made.add_argument("--target", choices=("all", "leader"), default="all",
                      help="connect to all processes in turn, or only to the one that leads (all)")
    made.add_argument("--peer-bench", type=Path, default=options.TARGET / "release/peer-bench", metavar="PATH",
                      help="the load generator of the others; the script builds it")
    opts = made.parse_args()
    compare(opts)


def compare(opts):
    with ExitStack() as stack:
        quota = options.prepare(opts)
        if quota:
            stack.callback(quota.remove)
        for name in opts.systems:
            if name in servers.PEERS:
                servers.PEERS[name].check()
                if not opts.peer_bench.is_file():
                    raise procs.Failure(f"{opts.peer_bench} does not exist; scripts/compare.sh builds it")
        warn_if_busy()
        folder = procs.work_folder(opts.dir)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        results = Results(opts.results, about(opts))
        generator = Generator(opts.binary, opts.peer_bench, opts.records, opts.value_size)
        for round_number in range(1, opts.rounds + 1):
            # Another one is first in each round.
            turn = (round_number - 1) % len(opts.systems)
            for name in opts.systems[turn:] + opts.systems[:turn]:
                say(f"round {round_number} of {opts.rounds}: {name}")
                system = servers.make(name, opts.binary, folder / f"{name}-{round_number}", quota)
                measure_system(opts, generator, system, results, round_number)
                shutil.rmtree(system.folder)
        print_results(opts, results)


def measure_system(opts, generator, system, results, round_number):
    system.start()
    try:
        loaded = set()
        for workload in opts.workloads:
            if workload == "txn" and system.name == "redis":
                continue
            is_ycsb = workload.startswith("ycsb")
            if is_ycsb not in loaded:
                generator.fill(system, is_ycsb)
                loaded.add(is_ycsb)
            for clients in opts.clients:
                row = measure(generator, system, workload, clients, opts, opts.target)
                row.update(system=system.name, workload=workload, concurrency=clients, round=round_number)
                results.add(row)
                say(f"  {workload} {clients}: {number(row['throughput'])}/s, {row['errors']} errors")
    finally:
        system.stop()


def about(opts):
    versions = {"etcd": ("etcd", "--version"), "redis": ("redis-server", "--version")}
    found = {name: version_of(*command) for name, command in versions.items() if name in opts.systems}
    if "zookeeper" in opts.systems:
        found["zookeeper"] = version_of("dpkg-query", "-W", "zookeeper") if shutil.which("dpkg-query") else "?"
        found["java"] = version_of("java", "-version")
    found["synodkv"] = version_of(opts.binary, "--version")
    return {"benchmark": "compare", "versions": found, "rounds": opts.rounds, "seconds": opts.seconds,
            "warmup": opts.warmup, "target": opts.target, "records": opts.records, "value_size": opts.value_size, "cpu_quota": opts.cpu_quota, "perf": opts.perf}


def print_results(opts, results):
    medians = results.medians("workload", "concurrency", "system")
    header = ["clients, system", "ops/s", "to ours", "p50 ms", "p99 ms", "CPU s/1000", "to ours", "switches/op", "syncs/op",
              "client CPU s/1000"]
    for workload in opts.workloads:
        rows = []
        for clients in opts.clients:
            ours = medians.get((workload, clients, OURS), {})
            for name in opts.systems:
                row = medians.get((workload, clients, name))
                if row:
                    rows.append([f"{clients:>4}  {name}", *cells(row, ours)])
        print_table(f"{TITLES[workload]} (medians of {opts.rounds})", header, rows)
    print_sources(results)


def cells(row, ours):
    cpu, client = row["server_cpu_us_per_op"] / 1000, row["client_cpu_us_per_op"] / 1000
    return [number(row["throughput"]), number(ratio(row["throughput"], ours.get("throughput"))),
            number(row["p50_us"] / 1000), number(row["p99_us"] / 1000), number(cpu),
            number(ratio(row["server_cpu_us_per_op"], ours.get("server_cpu_us_per_op"))),
            number(row["switches_per_op"]), number(row.get("syncs_per_op")), number(client)]


def print_sources(results):
    sources = {row["system"]: row["syncs_source"] for row in results.rows}
    print("\nSynchronisations are counted by " + "; ".join(
        f"{name}: {source or 'n/a (see --perf)'}" for name, source in sources.items()))
    busy = [f"{system} {workload} {clients}" for (system, workload, clients), row
            in results.medians("system", "workload", "concurrency").items() if row["client_cpus"] > BUSY_CLIENT]
    if busy:
        print(f"The client used more than {BUSY_CLIENT:.0%} of a processor, and may have been the limit, at: "
              + ", ".join(busy))
    for name in sorted({row["system"] for row in results.rows if row["errors"]}):
        errors = {}
        for row in results.rows:
            if row["system"] == name:
                for code, count in row["errors_by_code"].items():
                    errors[code] = errors.get(code, 0) + count
        print(f"errors of {name}: " + ", ".join(f"{code} {count}" for code, count in errors.items()))


if __name__ == "__main__":
    options.run(main)
