#!/usr/bin/env python3
"""The benchmark of this server alone, or of two builds of it; scripts/bench.sh starts it."""

import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import options
import procs
import servers
from load import Generator, measure
from report import Results, number, print_fit, print_table, ratio, say, version_of, warn_if_busy

NAMES = ("disk", "standalone", "synodkv", "one-process")
TITLES = {"standalone": "standalone", "synodkv": "three processes", "one-process": "three replicas in one process"}
PUT_CLIENTS, YCSB_CLIENTS = [1, 16, 64, 256], [64]
# The order that the authors of YCSB prescribe: workloads that insert come last, on freshly loaded records.
YCSB_BEFORE_INSERTS = ("ycsb-a", "ycsb-b", "ycsb-c", "ycsb-f", "ycsb-d")
FEW_RECORDS = 1000
DESCRIPTION = """\
Measures the disk, raw RocksDB, a standalone server and three processes, in turns, because a machine is not equally fast at
all times: puts with keys of 16 and values of 100 bytes, or YCSB A to F and transactions. With --against, measures two
builds of this server in turns and compares them."""
EPILOG = """\
systems:  disk         the disk and raw RocksDB; only for puts, and not with --against
          standalone   one process without replication
          synodkv      three processes
          one-process  three replicas in one process

The columns, all of them medians over the rounds: operations per second; p50 and p99 in ms; CPU of all server processes in
µs per operation; their context switches and synchronisations of the log per operation; puts in a record group, which one
synchronisation covers; CPU of the client in µs per operation. Puts go to the primary, YCSB to all replicas.

From three group sizes on, the cost of a put is split into a part for each put and a part that a group shares."""


def main():
    made = options.parser("scripts/bench.sh", DESCRIPTION, EPILOG)
    made.set_defaults(clients=None)
    made.add_argument("rounds_and_seconds", nargs="*", type=options.positive, metavar="ROUNDS SECONDS",
                      help="the same as --rounds and --seconds")
    made.add_argument("--ycsb", action="store_true",
                      help="YCSB and transactions instead of puts; --clients is 64 then, unless given")
    made.add_argument("--systems", type=options.one_of(*NAMES), metavar="LIST",
                      help="which systems (disk,standalone,synodkv)")
    made.add_argument("--against", type=Path, metavar="BINARY", help="another build of the server to compare with")
    opts = made.parse_args()
    if len(opts.rounds_and_seconds) > 2:
        made.error("expected ROUNDS and SECONDS at most")
    for name, value in zip(("rounds", "seconds"), opts.rounds_and_seconds):
        setattr(opts, name, value)
    opts.clients = opts.clients or (YCSB_CLIENTS if opts.ycsb else PUT_CLIENTS)
    opts.systems = opts.systems or ["disk", "standalone", "synodkv"]
    if opts.ycsb or opts.against:
        opts.systems = [name for name in opts.systems if name != "disk"]
    bench(opts)


def bench(opts):
    with ExitStack() as stack:
        quota = options.prepare(opts)
        if quota:
            stack.callback(quota.remove)
        if opts.against and not opts.against.is_file():
            raise procs.Failure(f"--against {opts.against}: there is no such file")
        builds = {"this": opts.binary, **({"against": opts.against} if opts.against else {})}
        warn_if_busy()
        folder = procs.work_folder(opts.dir)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        results = Results(opts.results, about(opts, builds))
        for round_number in range(1, opts.rounds + 1):
            say(f"round {round_number} of {opts.rounds}")
            # The other build is first in every second round.
            order = list(builds)[::-1] if round_number % 2 == 0 else list(builds)
            for name in opts.systems:
                for build in order:
                    measured = measure_one(opts, name, builds[build], folder, quota)
                    for row in measured:
                        row.update(build=build, round=round_number)
                        results.add(row)
        print_results(opts, results)


def measure_one(opts, name, binary, folder, quota):
    """Measures a system on an empty data directory, and yields rows."""
    if name == "disk":
        yield from measure_disk(opts, folder / "disk")
        return
    system = servers.make(name, binary, folder / name, quota)
    system.start()
    try:
        for row in (measure_ycsb if opts.ycsb else measure_puts)(opts, system, binary):
            row["system"] = name
            yield row
    finally:
        system.stop()
        shutil.rmtree(system.folder)


def measure_disk(opts, folder):
    clients = ",".join(map(str, opts.clients))
    done = subprocess.run([opts.binary, "bench-disk", "--data-dir", folder, "--seconds", str(opts.seconds),
                           "--concurrency", clients, "--format", "json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise procs.Failure(f"bench-disk: {done.stderr}")
    for row in json.loads(done.stdout):
        yield {**row, "system": "disk", "workload": row["what"]}


def measure_puts(opts, system, binary):
    # The client is always that of --binary, so that only servers differ.
    generator = Generator(opts.binary, None, opts.records, 100)
    for clients in opts.clients:
        row = measure(generator, system, "put", clients, opts, "leader", ["--key-size", "16"])
        yield {**row, "workload": "put", "concurrency": clients}
        say(f"  {system.name} of {binary}: put {clients}: {number(row['throughput'])}/s, {row['errors']} errors")


def measure_ycsb(opts, system, binary):
    records, txns = Generator(opts.binary, None, opts.records, 1000), Generator(opts.binary, None, opts.records, 100)
    few = Generator(opts.binary, None, FEW_RECORDS, 100)

    def runs(generator, workload):
        for clients in opts.clients:
            row = measure(generator, system, workload, clients, opts, "all")
            yield {**row, "workload": workload, "concurrency": clients}
            say(f"  {system.name} of {binary}: {workload} {clients}: {number(row['throughput'])}/s, {row['errors']} errors")

    records.fill(system, ycsb=True)
    for workload in YCSB_BEFORE_INSERTS:
        yield from runs(records, workload)
    subprocess.run([opts.binary, "txn", "--addr", ",".join(system.addresses), "-e", "clear --prefix user"], check=True,
                   stdout=subprocess.DEVNULL)
    records.fill(system, ycsb=True)
    yield from runs(records, "ycsb-e")
    txns.fill(system, ycsb=False)
    yield from runs(txns, "txn")
    yield from runs(few, "txn")


def about(opts, builds):
    return {"benchmark": "bench", "builds": {name: version_of(path, "--version") for name, path in builds.items()},
            "rounds": opts.rounds, "seconds": opts.seconds, "warmup": opts.warmup, "records": opts.records, "ycsb": opts.ycsb,
            "cpu_quota": opts.cpu_quota, "perf": opts.perf}


def print_results(opts, results):
    medians = results.medians("system", "workload", "keys", "concurrency", "build")
    print_disk(opts, medians)
    for name in opts.systems:
        if name == "disk":
            continue
        rows = {key: row for key, row in medians.items() if key[0] == name}
        if opts.against:
            print_ratios(TITLES[name], opts, rows)
        else:
            print_figures(TITLES[name], opts, rows, results)
        if not opts.ycsb:
            print()
            for build in ("this", "against") if opts.against else ("this",):
                title = f"{TITLES[name]}, {build}" if opts.against else TITLES[name]
                print_fit(title, [row for key, row in rows.items() if key[-1] == build])
    errors = sum(row.get("errors", 0) for row in results.rows)
    print(f"\nerrors: {errors}")


def print_disk(opts, medians):
    rows = [[f"{workload}, {clients}", number(row["throughput"]), number(row["p50_us"] / 1000),
             number(row["p99_us"] / 1000)]
            for (name, workload, _, clients, _), row in medians.items() if name == "disk"]
    if rows:
        print_table(f"disk (medians of {opts.rounds})", ["what, threads or clients", "per s", "p50 ms", "p99 ms"], rows)


def label(workload, keys, clients):
    return f"{workload}, {keys} keys, {clients}" if workload == "txn" else f"{workload}, {clients}"


def print_figures(title, opts, rows, results):
    header = ["workload, clients", "ops/s", "p50 ms", "p99 ms", "CPU µs/op", "switches/op", "syncs/op", "puts/group",
              "client CPU µs/op", "conflicts"]
    table = []
    for (name, workload, keys, clients, _), row in rows.items():
        table.append([label(workload, keys, clients), number(row["throughput"]), number(row["p50_us"] / 1000),
                      number(row["p99_us"] / 1000), number(row["server_cpu_us_per_op"]), number(row["switches_per_op"]),
                      number(row.get("syncs_per_op")), number(row.get("ops_per_group")),
                      number(row["client_cpu_us_per_op"]), number(row.get("conflicts"))])
        for operation, part in parts_of(results, name, workload, keys, clients).items():
            table.append([f"    {operation}", "", number(part["p50_us"] / 1000), number(part["p99_us"] / 1000), *[""] * 6])
    print_table(f"{title} (medians of {opts.rounds})", header, table)


def parts_of(results, *wanted):
    """Medians of the kinds of operations of a workload."""
    parts = Results(None, {})
    for row in results.rows:
        if tuple(row.get(key) for key in ("system", "workload", "keys", "concurrency")) == wanted:
            for operation, part in row.get("by_operation", {}).items():
                parts.add({**part, "operation": operation})
    return {operation: part for (operation,), part in parts.medians("operation").items()}


def print_ratios(title, opts, rows):
    header = ["workload, clients", "ops/s", "against", "ratio", "CPU µs/op", "against", "ratio", "p50 ms", "ratio", "p99 ms",
              "ratio", "switches/op", "ratio"]
    table = []
    for (name, workload, keys, clients, build), this in rows.items():
        against = rows.get((name, workload, keys, clients, "against"))
        if build != "this" or not against:
            continue

        def compared(figure, scale=1):
            return [number(this[figure] / scale), number(ratio(this[figure], against[figure]))]

        table.append([label(workload, keys, clients), number(this["throughput"]), number(against["throughput"]),
                      number(ratio(this["throughput"], against["throughput"])), number(this["server_cpu_us_per_op"]),
                      number(against["server_cpu_us_per_op"]),
                      number(ratio(this["server_cpu_us_per_op"], against["server_cpu_us_per_op"])),
                      *compared("p50_us", 1000), *compared("p99_us", 1000), *compared("switches_per_op")])
    print_table(f"{title}: this build, and its ratio to the other (medians of {opts.rounds})", header, table)


if __name__ == "__main__":
    options.run(main)
