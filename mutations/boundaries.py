"""Changes comparisons, sums and conditions of a crate, one at a time, and lists the changes that no test notices; called by
scripts/boundaries.sh, which explains the options.

cargo-mutants lists the possible changes. All of them are built at once, each behind a switch (`switched.py`), in a copy of
the tree. Then the tests run for each change, those of the changed module first and then the quick ones, until one fails, and
for the consensus core the simulator with fixed seeds. A change that does not compile is skipped. If the tests fail without
any change, the run ends.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from run import ROOT, Broken, Copy, run, sources
from switched import VARIABLE, NotSwitchable, Switched

# Files whose comparisons decide verdicts, versions or votes.
FILES = {
    "kv-store": ["commit/conflict_index", "commit/conflicts", "commit/idempotency", "engine/superseded", "gc/range_clears",
                 "gc/step/cleared_ranges", "gc/step/deleted_keys", "gc/step/mod", "gc/step/run", "gc/window", "read/readers",
                 "read/selectors"],
    "rsml": ["core/*", "wal/format", "wal/index", "wal/reading", "wal/recovery", "wal/scan", "wal/segment", "wal/storage", "wal/window"],
}
TESTS = {
    "kv-store": ["-p", "kv-store", "--no-default-features", "--tests"],
    "rsml": ["-p", "rsml", "--lib", "--test", "transcripts"],
}
# Unit tests that are skipped: they are unrelated to the changed files, and take long.
SKIPPED = {"rsml": ["driver::", "transport::"]}
# Runs of the simulator that must notice the changes that no test notices: fixed seeds, which pass without any change.
SIMULATED = {"rsml": [["--replicas", "mix"], ["--leases"], ["--corruption"]]}
EDGES = {"<": "<=", ">": ">=", "<=": "<", ">=": ">"}
OPERATORS = r"replace (==|!=|<|<=|>|>=|&&|\|\||[-+*/%|&^]|<<|>>|[-+*/%|&]=) with|delete !"


def options():
    parser = argparse.ArgumentParser(prog="scripts/boundaries.sh", description=__doc__.split("\n\n")[0],
                                     epilog="Needs cargo-mutants: cargo install cargo-mutants --locked. The exit status is 2 if a "
                                            "change was left.")
    parser.add_argument("crate", choices=sorted(FILES))
    parser.add_argument("files", nargs="*", metavar="FILE", help="in the crate's src, such as gc/window.rs; default: the list of the crate")
    parser.add_argument("--survivors", action="store_true", help="only the survivors of the last run")
    parser.add_argument("--edges", action="store_true", help="only < for <=, > for >=, and the reverse")
    parser.add_argument("--sample", type=int, metavar="N", help="N of the changes, drawn at random")
    parser.add_argument("--seeds", type=int, default=40, help="seeds of each run of the simulator (40)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="changes that are tried at the same time (1)")
    parser.add_argument("--place", type=Path, help="folder for the copy, the build and the results")
    return parser.parse_args()


def mutants(crate, files):
    """The changes that cargo-mutants proposes."""
    command = ["cargo", "mutants", "--list", "--json", "--package", crate, "--re", OPERATORS]
    paths = [f"crates/{crate}/src/{file}" for file in files or [name + ".rs" for name in FILES[crate]]]
    listed = subprocess.run([*command, *(word for path in paths for word in ("--file", path))], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    return json.loads(listed)


def edges(found):
    """Of all changes of a comparison, only the one to its neighbour; cargo-mutants has no >= for > and no <= for <."""
    kept = {}
    for mutant in found:
        match = re.search(r"replace (<=?|>=?) with (\S+)", mutant["name"])
        if match:
            now, to = match.group(1), EDGES[match.group(1)]
            place = (mutant["file"], *mutant["span"]["start"].values())
            name = mutant["name"].replace(f"{now} with {match.group(2)}", f"{now} with {to}")
            kept[place] = {**mutant, "name": name, "replacement": to}
    return list(kept.values())


def changed(text, mutant):
    """The file with the change."""
    lines = text.splitlines(keepends=True)
    ends = [sum(map(len, lines[:at["line"] - 1])) + at["column"] - 1 for at in (mutant["span"]["start"], mutant["span"]["end"])]
    return text[:ends[0]] + mutant["replacement"] + text[ends[1]:]


def build(copy, crate, found):
    """Builds all changes at once. Returns (program, directory) of each kind of test, and the changes in them by number."""
    originals = sources()
    texts = {name: content.decode() for name, content in originals.items() if name.endswith(".rs")}
    switched, planted = Switched(texts), {}
    for number, mutant in enumerate(found, 1):
        try:
            switched.add(number, {mutant["file"]: changed(texts[mutant["file"]], mutant)})
            planted[number] = mutant
        except NotSwitchable as reason:
            print(f"not tried: {mutant['name']}: it {reason}", flush=True)
    while True:
        copy.fill({**originals, **{name: text.encode() for name, text in switched.files().items()}})
        try:
            return copy.build_tests(TESTS[crate]), planted
        except Broken as reason:
            culprits = switched.culprits(str(reason)) & planted.keys()
            if not culprits:
                raise
            for number in culprits:
                switched.drop(number)
                del planted[number]


def module_of(file):
    """The filter of the tests of a file's module."""
    return re.sub(r"(/mod)?\.rs$", "", file.split("/src/")[1]).replace("/", "::").split("::")[0] + "::"


def is_noticed(programs, env, filters, seconds):
    """Whether a test fails, or does not end."""
    return any(run([program, "--quiet", *filters], directory, seconds, env)[0] != 0 for program, directory in programs)


def fails_simulated(simulator, crate, seeds, env):
    """Whether one of the fixed seeds fails, or does not end."""
    command = [simulator, "--first-seed", "1", "--seeds", str(seeds), "--threads", "1"]
    return any(run([*command, *arguments], ROOT, 60 + 10 * seeds, env)[0] != 0 for arguments in SIMULATED[crate])


def main():
    opts = options()
    if shutil.which("cargo-mutants") is None:
        sys.exit("error: cargo-mutants is not installed: cargo install cargo-mutants --locked")
    place = opts.place or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "boundaries" / opts.crate
    place.mkdir(parents=True, exist_ok=True)
    left_file = place / "left.txt"
    found = mutants(opts.crate, opts.files)
    if opts.survivors:
        left = [re.sub(r":\d+:\d+:", ":", line) for line in left_file.read_text().splitlines()]
        found = [mutant for mutant in found if re.sub(r":\d+:\d+:", ":", mutant["name"]) in left]
    if opts.edges:
        found = edges(found)
    if opts.sample:
        found = random.sample(found, min(opts.sample, len(found)))
    copy = Copy(place / "tree")
    programs, planted = build(copy, opts.crate, found)
    simulator = copy.build_simulator() if opts.crate in SIMULATED else None
    skipped = [word for name in SKIPPED.get(opts.crate, []) for word in ("--skip", name)]
    units = [program for program in programs if Path(program[0]).name.startswith(opts.crate.replace("-", "_"))]
    lasted = {}
    for program in programs:
        started = time.monotonic()
        if is_noticed([program], copy.env, skipped, 1800):
            sys.exit(f"error: tests fail without any change: {program[0]}")
        lasted[program] = time.monotonic() - started
    if simulator and fails_simulated(simulator, opts.crate, opts.seeds, copy.env):
        sys.exit("error: the simulator fails without any change")
    # Quick tests first.
    programs.sort(key=lasted.get)
    seconds = 30 + 10 * max(lasted.values())

    def by_whom(number, file):
        """Who notices this change: the tests, the simulator, or None."""
        env = {**copy.env, VARIABLE: str(number)}
        if is_noticed(units, env, [module_of(file)], seconds) or is_noticed(programs, env, skipped, seconds):
            return "tests"
        return "simulator" if simulator and fails_simulated(simulator, opts.crate, opts.seeds, env) else None

    left, noticed, all_of, simulated = [], Counter(), Counter(), []
    with ThreadPoolExecutor(opts.jobs) as pool:
        answers = pool.map(by_whom, planted, [mutant["file"] for mutant in planted.values()])
        for mutant, caught in zip(planted.values(), answers):
            noticed[mutant["file"]] += caught is not None
            all_of[mutant["file"]] += 1
            if caught == "simulator":
                simulated.append(mutant["name"])
                print(f"by the simulator alone: {mutant['name']}", flush=True)
            if caught is None:
                left.append(mutant["name"])
                print(f"not noticed: {mutant['name']}", flush=True)
    left_file.write_text("".join(f"{name}\n" for name in left))
    for file in sorted(all_of):
        print(f"{noticed[file]:4} of {all_of[file]:4}  {file}")
    total = all_of.total()
    print(f"{noticed.total():4} of {total:4}  in all, {100 * noticed.total() / max(total, 1):.1f} %; {len(found) - total} do not compile "
          "or cannot be switched")
    if simulator:
        print(f"{len(simulated):4} of these by the simulator alone")
    sys.exit(2 if left else 0)


if __name__ == "__main__":
    main()
