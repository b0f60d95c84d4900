"""Runs one load against a started system, and measures what it cost the servers and the client."""

import json
import os
import subprocess
import time

from procs import Cost, Failure, PerfSyncs
from servers import OURS

# Requests of `put` and `get` share this many connections. With YCSB each has its own, and a transaction uses few.
SHARED_CONNECTIONS = 8
TXN_CONNECTIONS = 4


class Generator:
    """Knows the command lines of `synodkv bench` and of peer-bench."""

    def __init__(self, synodkv, peer_bench, records, value_size):
        self.synodkv, self.peer_bench = synodkv, peer_bench
        self.records, self.value_size = records, value_size

    def fill(self, system, ycsb):
        """Writes all records."""
        sizes = ["--records", self.records, "--value-size", self.value_size]
        addresses = ",".join(system.addresses)
        if system.name in OURS:
            workload = "ycsb-a" if ycsb else "txn"
            command = [self.synodkv, "bench", "load", "--addr", addresses, "--workload", workload, *sizes]
        else:
            command = [self.peer_bench, "--system", system.name, "--addr", addresses, "--workload", "load",
                       "--keys", "ycsb" if ycsb else "hex", "--concurrency", 512, "--connections", 6, *sizes]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        report = {} if system.name in OURS or done.returncode else json.loads(done.stdout)
        if done.returncode or report.get("errors"):
            raise Failure(f"{system.name}: loading failed: {done.stdout}{done.stderr}\n{system.log_ends()}")

    def command(self, system, workload, concurrency, seconds, target, options=()):
        """`target` is `all` or `leader`. A transaction of our client always knows all addresses."""
        ours = system.name in OURS
        addresses = ",".join(system.targets("all" if workload == "txn" else target))
        common = ["--addr", addresses, "--workload", workload, "--concurrency", concurrency, "--seconds", seconds,
                  "--records", self.records, "--value-size", self.value_size]
        if ours:
            command = [self.synodkv, "bench", "--format", "json", "--no-load", *common, *options]
        else:
            command = [self.peer_bench, "--system", system.name, "--handshake", *common]
        if not (ours and workload == "txn"):
            command += ["--connections", connections(workload, concurrency)]
        return [str(word) for word in command]


def connections(workload, concurrency):
    if workload.startswith("ycsb"):
        return concurrency
    return min(concurrency, TXN_CONNECTIONS if workload == "txn" else SHARED_CONNECTIONS)


def measure(generator, system, workload, clients, opts, target, options=()):
    """Runs a load for a while, and then again with measurements. Returns its report with what the run cost."""
    def command(seconds):
        return generator.command(system, workload, clients, seconds, target, options)

    if opts.warmup:
        measure_once(system, command(opts.warmup))
    return measure_once(system, command(opts.seconds), opts.perf)


def measure_once(system, command, use_perf=False):
    system.check_alive()
    perf = PerfSyncs(system.pids()) if use_perf else None
    meter = Meter(system, perf)
    report, client = (_run_with_handshake if "--handshake" in command else _run_plain)(command, meter)
    if report["operations"] == 0:
        raise Failure(f"{system.name}: not one request succeeded: {json.dumps(report)}\n{system.log_ends()}")
    system.check_alive()
    return {**report, **meter.figures(report["operations"]), **client_figures(client, report)}


class Meter:
    """Readings of the servers before and after a run."""

    def __init__(self, system, perf):
        self.system, self.perf = system, perf

    def begin(self):
        self.counters = self.system.counters()
        self.cost, self.begun = Cost(self.system.pids()), time.monotonic()
        if self.perf:
            self.perf.begin()

    def end(self):
        self.perf_syncs = self.perf.end() if self.perf else None
        self.cpu, self.switches = Cost(self.system.pids()).since(self.cost)
        self.seconds = time.monotonic() - self.begun
        after = self.system.counters()
        self.counted = {name: after[name] - before for name, before in self.counters.items() if name in after}

    def figures(self, operations):
        syncs, source = self.perf_syncs, "perf stat"
        if syncs is None:
            syncs, source = self.counted.get("syncs"), self.system.syncs_source
        metric = self.counted.get("syncs")
        executed, groups = self.counted.get("executed"), metric
        if executed is None and self.perf_syncs is not None and len(self.system.processes) == 1:
            executed, groups = operations, self.perf_syncs
        return {
            "server_cpu_us_per_op": 1e6 * self.cpu / operations,
            "server_cpus": self.cpu / self.seconds,
            "switches_per_op": self.switches / operations,
            "syncs_per_op": None if syncs is None else syncs / operations,
            # For a comparison of the two counts.
            "metric_syncs_per_op": None if metric is None else metric / operations,
            "syncs_source": None if syncs is None else source,
            # Both are counted at every replica, so this is a mean over the replicas.
            "ops_per_group": executed / groups if executed and groups else None,
            "ops_per_entry": executed / self.counted["entries"] if executed and self.counted.get("entries") else None,
        }


def client_figures(usage, report):
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "client_cpu_us_per_op": 1e6 * cpu / report["operations"],
        "client_cpus": cpu / report["seconds"],
    }


def _start(command):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run_plain(command, meter):
    """`synodkv bench`: the readings enclose the whole process, which opens its connections in a few milliseconds."""
    meter.begin()
    process = _start(command)
    output = process.stdout.read()
    return _finish(process, output, meter.end)


def _run_with_handshake(command, meter):
    """peer-bench: the readings enclose the requests, not the opening and closing of sessions."""
    process = _start(command)
    for word, take in (("begin", meter.begin), ("end", meter.end)):
        if process.stdout.readline().strip() != word:
            return _finish(process, "", lambda: None)
        take()
        process.stdin.write("\n")
        process.stdin.flush()
    return _finish(process, process.stdout.read(), lambda: None)


def _finish(process, output, take):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    take()
    if process.returncode != 0:
        raise Failure(f"{' '.join(process.args)}: status {process.returncode}\n{output}{process.stderr.read()}")
    return json.loads(output), usage
