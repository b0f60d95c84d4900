"""Options that both benchmarks share."""

import argparse
import os
import signal
import sys
from pathlib import Path

from cgroup import CpuQuota
from procs import Failure, PerfSyncs, require

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or os.environ.get("SYNODKV_TARGET_DIR")
              or Path.home() / ".cache/synodkv/target")


def parser(program, description, epilog):
    made = argparse.ArgumentParser(prog=program, description=description, epilog=epilog, add_help=True,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=positive, default=3, metavar="N", help="how often everything is measured; medians "
                      "are printed (3)")
    made.add_argument("--seconds", type=positive, default=5, metavar="S", help="length of one measurement (5)")
    made.add_argument("--warmup", type=int, default=1, metavar="S",
                      help="run each load for so long before it is measured; 0: not at all (1)")
    made.add_argument("--clients", type=numbers, default=[1, 16, 64, 256], metavar="LIST",
                      help="requests in flight, in a closed loop (1,16,64,256)")
    made.add_argument("--records", type=positive, default=int(os.environ.get("SYNODKV_BENCH_RECORDS", 100_000)),
                      metavar="N", help="number of keys (SYNODKV_BENCH_RECORDS, or 100000)")
    made.add_argument("--binary", type=Path, default=TARGET / "release/synodkv", metavar="PATH",
                      help="our server; without this option the script builds it")
    made.add_argument("--results", metavar="FILE", help="append every figure to this file, as lines of JSON")
    made.add_argument("--dir", type=Path, default=Path(os.environ.get("SYNODKV_BENCH_DIR", TARGET)), metavar="DIR",
                      help="where data directories are made, and removed at the end (SYNODKV_BENCH_DIR, or the folder of "
                      "builds)")
    made.add_argument("--cpu-quota", type=float, metavar="CPUS", help="limit each server process to so many processors, "
                      "such as 0.4; needs root and control groups")
    made.add_argument("--perf", action="store_true", help="count synchronisations of the disk by `perf stat`, for every "
                      "system alike; needs root. Without it, each system's own metrics are used")
    return made


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def numbers(text):
    return [positive(word) for word in text.split(",")]


def one_of(*allowed):
    def check(text):
        words = text.split(",")
        unknown = [word for word in words if word not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; allowed: {', '.join(allowed)}")
        return words
    return check


def prepare(opts):
    """Checks what the options need. Returns the limit on the CPU, if there is one."""
    if not opts.binary.is_file():
        raise Failure(f"{opts.binary} does not exist; build it, or name another by --binary")
    require("stat", "coreutils")
    if opts.perf:
        PerfSyncs.check()
    return CpuQuota(opts.cpu_quota) if opts.cpu_quota is not None else None


def run(main):
    """Runs `main`. A failure ends the program with its text; SIGTERM ends it as Ctrl-C does."""
    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
