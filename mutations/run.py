"""Plants mutations one at a time and reports the check that finds each; called by scripts/mutations.sh, which explains the
options.

Each patch is applied to a copy of the working tree outside of the repository, built there, and then hunted: by the fast
tests of the changed crate, then by the simulator with fresh seeds, and, if neither finds it, by the simulator's chosen
scenes, by the model check if the patch asks for it, and with `--glue` by the tests of whole servers. Most patches are built
together, each behind a switch (`switched.py`); the others, and with `--apart` all, one by one.

A patch that does not apply or does not compile is an error, never a kill. A seed on which the program fails without the
patch as well is no kill: each failing seed is run once more without the patch. Tests that fail without any patch end the
run. The copies and their builds stay for the next run.
"""

import argparse
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from switched import NotSwitchable, Switched, VARIABLE
from table import first_line, is_killed, print_markdown, tell, verdict

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "mutations"
HEADER = re.compile(r"^(Plants|Rule|Source|Simulate|Model|Harmless): *(.*)$")
TEST_SECONDS = 600
BUILD_SECONDS = 3600
# Chosen scenes of the simulator: the tests in modules. The other tests draw seeds, which the simulator does itself.
SCENES = "scenes"
# Arguments of `cargo test` per crate that a patch changes. Without RocksDB everywhere: it takes longer than the rest.
TESTS = {
    "rsml": ["-p", "rsml", "--lib", "--test", "transcripts"],
    "kv-store": ["-p", "kv-store", "--no-default-features", "--tests"],
    "kv-server": ["-p", "kv-server", "--no-default-features", "--lib"],
    "kv-api": ["-p", "kv-api"],
    "kv-client": ["-p", "kv-client"],
    SCENES: ["-p", "proof", "--test", "simulation"],
}
# Code that the simulator never runs: threads, sockets, RocksDB, servers, clients.
NOT_SIMULATED = re.compile(r"crates/(kv-client|synodkv|rsml/src/(driver|transport)|kv-api/src/thrift|kv-store/src/engine/rocks|"
                           r"kv-server/src(?!/(?:replication|router)))/")
# With --glue also these, in this order: the code around the core, with RocksDB, sockets, threads and processes. Each is a
# crate and, unless all of its test programs are meant, the name of one.
GLUE = {
    "rsml": {"rsml driver": ("rsml", "driver")},
    "kv-store": {"kv-store with RocksDB": ("kv-store", None)},
    "kv-server": {"kv-server with RocksDB": ("kv-server", None)},
    "synodkv": {"synodkv": ("synodkv", None)},
}
# For every patch, whichever crate it changes.
POWER = "loss of power"
EVERYWHERE = {POWER: ("synodkv", "field"), "processes": ("synodkv", "cluster")}
# The build of these suites. A part of the workspace could choose other features, and RocksDB would be built once more.
WITH_ROCKSDB = ["--workspace"]
# Of these suites only some tests: the arguments of the test program.
FILTERS = {SCENES: ["::"], POWER: ["power::"]}


SUITES = {name: told for suites in [*GLUE.values(), EVERYWHERE] for name, told in suites.items()}


class Broken(Exception):
    """The patch could not be tried."""


class Unsound(Exception):
    """A test or a seed fails without any patch."""


class Patch:
    def __init__(self, path):
        self.path = Path(path).resolve()
        self.name = self.path.stem
        self.fields = {"Simulate": []}
        text = self.path.read_text()
        for line in text.splitlines():
            if line.startswith(("diff ", "--- ")):
                break
            if match := HEADER.match(line):
                key, value = match.groups()
                if key == "Simulate":
                    self.fields[key].append(value.split())
                else:
                    self.fields[key] = value
        self.touches = sorted(set(re.findall(r"^(?:\+\+\+ b|--- a)/(\S+)", text, re.M)))

    def crates(self):
        return sorted({name.split("/")[1] for name in self.touches if name.startswith("crates/")})

    def tested(self):
        """The crates whose tests are run: those that the patch changes. What a call of kv-api means shows in kv-server."""
        return list(dict.fromkeys([*self.crates(), *(["kv-server"] if "kv-api" in self.crates() else [])]))

    def simulations(self):
        """The arguments of the simulator, one after the other; `Simulate: none`: it never runs the changed code."""
        if self.fields["Simulate"] == [["none"]] or all(map(NOT_SIMULATED.match, self.touches)):
            return []
        return self.fields["Simulate"] or [[]]

    def glue(self):
        suites = {}
        for crate in self.crates():
            suites |= GLUE.get(crate, {})
        return suites | EVERYWHERE


def run(command, cwd, seconds, env=None):
    """Runs a command in a process group of its own, which ends with it. Returns (status, output); None: out of time."""
    process = subprocess.Popen([str(word) for word in command], cwd=cwd, env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def sources():
    """The files of the working tree, committed or not."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE).stdout.decode()
    return {name: (ROOT / name).read_bytes() for name in listed.split("\0") if name and (ROOT / name).is_file()}


class Copy:
    """A copy of the tree, and its build. Each copy has a target directory of its own: otherwise cargo would take the build
    of one copy for that of the other."""

    def __init__(self, tree):
        self.tree, self.target = tree, tree.parent / f"{tree.name}-target"
        self.tree.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, "CARGO_TARGET_DIR": str(self.target), "CARGO_INCREMENTAL": "1",
                    "GIT_CEILING_DIRECTORIES": str(tree.parent), "RUST_BACKTRACE": "0"}
        self.env.pop(VARIABLE, None)

    def fill(self, wanted):
        """Gives the copy these files. Equal files are not touched, so that they are not built again."""
        for found in [path for path in self.tree.rglob("*") if path.is_file()]:
            if str(found.relative_to(self.tree)) not in wanted:
                found.unlink()
        for name, content in wanted.items():
            copy = self.tree / name
            if not copy.is_file() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)

    def apply(self, patch):
        """The files that the patch changes, with their new texts."""
        if not patch.crates():
            raise Broken("changes no crate")
        status, output = run(["git", "apply", "--whitespace=nowarn", patch.path], self.tree, 60, self.env)
        if status != 0:
            raise Broken(f"does not apply: {output.strip()}")
        present = [name for name in patch.touches if (self.tree / name).is_file()]
        return {name: (self.tree / name).read_text() for name in present}

    def restore(self, patch, wanted):
        """Takes a patch out of a copy that was filled with these files."""
        for name in patch.touches:
            (self.tree / name).unlink(missing_ok=True)
            if name in wanted:
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                (self.tree / name).write_bytes(wanted[name])

    def cargo(self, *arguments):
        """The messages of cargo, as JSON; an error of the compiler is raised in its short form."""
        command = ["cargo", *arguments, "--release", "--locked", "--quiet"]
        status, output = run([*command, "--message-format", "json"], self.tree, BUILD_SECONDS, self.env)
        if status != 0:
            _, output = run([*command, "--message-format", "short"], self.tree, BUILD_SECONDS, self.env)
            raise Broken(f"does not compile:\n{output.strip()}")
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def build_tests(self, arguments):
        """The programs of tests: each with its name, and the directory of its crate, in which it runs."""
        said = self.cargo("test", *arguments, "--no-run")
        programs = [entry for entry in said if entry.get("executable") and entry["profile"]["test"]]
        return [(entry["target"]["name"], Path(entry["manifest_path"]).parent, entry["executable"]) for entry in programs]

    def build_simulator(self):
        self.cargo("build", "-p", "proof", "--bin", "sim")
        return self.target / "release" / "sim"

    def build_model(self):
        self.cargo("build", "-p", "proof", "--features", "model", "--bin", "model")
        return self.target / "release" / "model"


class Programs:
    """The programs of one copy, each built when it is first needed; `number` chooses the patch, 0 none."""

    def __init__(self, copy):
        self.copy, self.built, self.lock = copy, {}, threading.RLock()

    def get(self, name, build):
        with self.lock:
            if name not in self.built:
                started = time.monotonic()
                self.built[name] = build()
                print(f"          {name}: {time.monotonic() - started:.0f} s", flush=True)
            return self.built[name]

    def simulator(self):
        return self.get("sim", self.copy.build_simulator)

    def model(self):
        return self.get("model", self.copy.build_model)

    def tests(self, crate):
        """(program, directory, arguments) of the tests of this crate, of the scenes, or of a suite of the glue."""
        if crate in SUITES:
            folder, name = SUITES[crate]
            built = self.get("tests with RocksDB", lambda: self.copy.build_tests(WITH_ROCKSDB))
            built = [program for program in built if program[1].name == folder and name in (None, program[0])]
        else:
            built = self.get(f"tests of {crate}", lambda: self.copy.build_tests(TESTS[crate])) if crate in TESTS else []
        return [(program, directory, FILTERS.get(crate, [])) for _, directory, program in built]

    def seconds_of_tests(self, crate):
        """How long the tests of this crate take without any patch; they are run for it, once."""
        def measure():
            started = time.monotonic()
            if failed := self.run_tests(crate, 0):
                raise Unsound(f"tests fail without any patch: {', '.join(failed)}")
            return time.monotonic() - started

        self.tests(crate)
        return self.get(f"time of the tests of {crate}", measure)

    def env(self, number):
        return {**self.copy.env, VARIABLE: str(number)} if number else self.copy.env

    def run_tests(self, crate, number, seconds=TEST_SECONDS):
        """The tests that fail. The first program in which some do is the last that runs."""
        for program, directory, arguments in self.tests(crate):
            status, output = run([program, "--quiet", *arguments], directory, seconds, self.env(number))
            if status == 0:
                continue
            if status is None:
                return ["tests hang"]
            failed = re.findall(r"^    (\S+)$", output.split("\nfailures:\n")[-1], re.M) if status == 101 else []
            return list(dict.fromkeys(failed)) or ["tests abort"]
        return []


class Hunt:
    """Tries one patch: `programs` and `number` say where it is planted; `sound` has no patch."""

    def __init__(self, options, programs, number, sound):
        self.options, self.programs, self.number, self.sound = options, programs, number, sound

    def tests(self, crate):
        """The tests of this crate, or the scenes, that fail."""
        if crate not in TESTS | SUITES or self.options.no_tests:
            return []
        # A patch may make them slower, but one that does so by this much makes them hang.
        return self.programs.run_tests(crate, self.number, 60 + 5 * self.sound.seconds_of_tests(crate))

    def simulate(self, arguments, first_seed):
        """Returns (seeds needed, why), or (None, how far it came)."""
        options, seed, unsound = self.options, first_seed, 0
        end, until = first_seed + options.seeds, time.monotonic() + options.minutes * 60
        while seed < end:
            failed, why = self.first_failure(arguments, seed, end - seed, until - time.monotonic())
            if failed is None:
                return None, why or f"{options.seeds} seeds"
            sound = [self.sound.simulator(), "--seeds", "1", "--threads", "1", "--first-seed", str(failed), *arguments]
            if run(sound, ROOT, 120, self.sound.env(0))[0] == 0:
                return failed - first_seed + 1 - unsound, why
            print(f"          seed {failed} fails without the patch as well: {why[0]}", flush=True)
            seed, unsound = failed + 1, unsound + 1
        return None, f"{options.seeds} seeds"

    def first_failure(self, arguments, seed, count, seconds):
        command = [self.programs.simulator(), "--seeds", str(count), "--first-seed", str(seed), "--threads",
                   str(self.options.threads), *arguments]
        status, output = run(command, ROOT, max(seconds, 1), self.programs.env(self.number))
        if status == 0:
            return None, None
        failures = re.findall(r"^seed (\d+) FAILED: (.*(?:\n(?!replay: ).*)*)\nreplay: (.*)$", output, re.M)
        if failures:
            failed, reason, replay = min(failures, key=lambda failure: int(failure[0]))
            return int(failed), (first_line(reason), replay)
        if status is None:
            return None, f"{self.options.minutes:g} minutes"
        return seed, (f"ended with status {status}: {output.strip().splitlines()[-1:]}", " ".join(map(str, command)))

    def check_model(self, arguments):
        command = [self.programs.model(), *arguments.split()]
        status, output = run(command, ROOT, self.options.minutes * 60, self.programs.env(self.number))
        return None if status in (0, None) else first_line(output.strip().splitlines()[-1])

    def run(self, patch, first_seed):
        options, result = self.options, {name.lower(): patch.fields.get(name, "") for name in ("Plants", "Rule", "Source")}
        tests = next(filter(None, map(self.tests, patch.tested())), [])
        if options.all or not tests:
            seeds, reasons = [], []
            for number in range(options.runs if patch.simulations() else 0):
                for arguments in patch.simulations():
                    needed, why = self.simulate(arguments, first_seed + number * 1_000_000)
                    if needed is not None:
                        break
                if needed is None:
                    result["survived"] = why
                    break
                seeds.append(needed)
                reasons.append(why)
            result["seeds"] = seeds
            result["reasons"] = reasons
            tests = tests or ([] if seeds or not patch.simulations() else self.tests(SCENES))
            model = patch.fields.get("Model")
            if model is not None and (options.all or not (tests or seeds)):
                result["model"] = self.check_model(model)
            if options.glue and not (tests or seeds or result.get("model")):
                tests = next(filter(None, map(self.tests, patch.glue())), [])
        result["tests"] = tests
        return result


def parse():
    parser = argparse.ArgumentParser(prog="scripts/mutations.sh", description="Plants known bugs, one at a time, and "
                                     "reports the check that finds each. Exit status 1 if one survives or can't be planted.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these patches of mutations/ only")
    parser.add_argument("--patch", nargs="+", metavar="FILE", help="patches from outside, instead of those in mutations/")
    parser.add_argument("--sample", type=int, metavar="N", help="N patches drawn at random, one run each")
    parser.add_argument("--seeds", type=int, default=2000, help="most seeds of one run of the simulator (2000)")
    parser.add_argument("--minutes", type=float, default=3, help="most minutes of one run of the simulator (3)")
    parser.add_argument("--runs", type=int, default=5, help="runs of the simulator, for the median of seeds (5)")
    parser.add_argument("--first-seed", type=int, help="of the first run; else drawn, and printed")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the simulator (one per processor)")
    parser.add_argument("--jobs", type=int, default=1, help="patches tried at the same time (1)")
    parser.add_argument("--apart", action="store_true", help="a build for each patch, instead of one with switches")
    parser.add_argument("--all", action="store_true", help="the simulator also tries patches that a test has already found")
    parser.add_argument("--no-tests", action="store_true", help="the simulator alone")
    parser.add_argument("--glue", action="store_true", help="tests with RocksDB, sockets, threads and processes must find "
                        "the patches that no other check found; builds RocksDB in the copy first")
    parser.add_argument("--check", action="store_true", help="only check that every patch applies")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown, at the end")
    parser.add_argument("--results", metavar="FILE", help="adds each result to this file, a line of JSON each")
    parser.add_argument("--report", metavar="FILE", nargs="+", help="prints the table of such files; runs nothing")
    return parser.parse_args()


def choose(options):
    if options.patch:
        return [Patch(path) for path in options.patch]
    patches = [Patch(path) for path in sorted(PATCHES.glob("*.patch"))]
    if options.only:
        unknown = set(options.only) - {patch.name for patch in patches}
        if unknown:
            sys.exit(f"no such mutation: {', '.join(sorted(unknown))}")
        patches = [patch for patch in patches if patch.name in options.only]
    if options.sample:
        patches = random.sample([patch for patch in patches if "Harmless" not in patch.fields], options.sample)
        options.runs = 1
    return patches


def report(files):
    newest = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            result = json.loads(line)
            newest[result["name"]] = result
    print_markdown([newest[name] for name in sorted(newest)])


def plant_together(together, scratch, originals, patches, apart):
    """Fills a copy with all patches that can be switched. Returns {path: number} of those, and {path: why not} of those
    that can't be planted at all. `apart`: plant none, but see whether each applies."""
    texts = {name: content.decode() for name, content in originals.items() if name.endswith(".rs")}
    switched, numbers, broken = Switched(texts), {}, {}
    scratch.fill(originals)
    for number, patch in enumerate(patches, 1):
        try:
            changed = scratch.apply(patch)
            scratch.restore(patch, originals)
            if not apart:
                switched.add(number, changed)
                numbers[patch.path] = number
        except NotSwitchable as reason:
            print(f"          {patch.name} gets a build of its own: it {reason}", flush=True)
        except Broken as reason:
            broken[patch.path] = str(reason)
    while True:
        together.fill({**originals, **{name: text.encode() for name, text in switched.files().items()}})
        try:
            together.cargo("check", "-p", "proof", "--lib")
            return numbers, broken
        except Broken as reason:
            culprits = switched.culprits(str(reason))
            named = [path for path, number in numbers.items() if number in culprits]
            if not named:
                raise
            for path in named:
                print(f"          {path.stem} gets a build of its own: its switch does not compile", flush=True)
                switched.drop(numbers.pop(path))


class Runner:
    def __init__(self, options, place):
        self.options, self.place = options, place
        self.originals = sources()
        self.results, self.lock = [], threading.Lock()
        self.unsound = None

    def prepare(self, patches):
        together = Copy(self.place / "together")
        # Always all, so that the next run with others finds them built.
        known = {patch.path: patch for patch in [*map(Patch, sorted(PATCHES.glob("*.patch"))), *patches]}
        self.numbers, self.broken = plant_together(together, Copy(self.place / "0"), self.originals,
                                                   known.values(), self.options.apart)
        self.sound = Programs(together)
        self.sound.simulator()

    def result_of(self, patch, worker, first_seed):
        if patch.path in self.broken:
            raise Broken(self.broken[patch.path])
        if number := self.numbers.get(patch.path):
            programs = self.sound
        else:
            copy = Copy(self.place / str(worker))
            copy.fill(self.originals)
            copy.apply(patch)
            programs, number = Programs(copy), 0
        return Hunt(self.options, programs, number, self.sound).run(patch, first_seed)

    def work(self, worker, waiting, first_seed):
        while True:
            try:
                patch = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.monotonic()
            try:
                result = self.result_of(patch, worker, first_seed)
            except Broken as broken:
                result = {"broken": str(broken)}
            except Unsound as unsound:
                self.unsound = unsound
                return
            result |= {"name": patch.name, "plants": patch.fields.get("Plants", ""),
                       "source": patch.fields.get("Source", ""), "harmless": patch.fields.get("Harmless"),
                       "took_s": round(time.monotonic() - started, 1)}
            with self.lock:
                self.results.append(result)
                tell(result)
                if self.options.results:
                    with open(self.options.results, "a") as file:
                        file.write(json.dumps(result) + "\n")

    def run(self, patches, first_seed):
        self.prepare(patches)
        waiting = queue.SimpleQueue()
        for patch in patches:
            waiting.put(patch)
        threads = [threading.Thread(target=self.work, args=(number, waiting, first_seed))
                   for number in range(self.options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.unsound:
            sys.exit(str(self.unsound))
        self.results.sort(key=lambda result: result["name"])
        return self.results


def check(patches, place):
    """Whether every patch applies."""
    originals, copy, bad = sources(), Copy(place / "0"), 0
    copy.fill(originals)
    for patch in patches:
        try:
            copy.apply(patch)
            copy.restore(patch, originals)
        except Broken as broken:
            bad += 1
            print(f"{patch.name}: {broken}")
    print(f"{bad} of {len(patches)} patches do not apply" if bad else "every patch applies")
    return 1 if bad else 0


def main():
    options = parse()
    if options.report:
        return report(options.report)
    patches = choose(options)
    place = Path(os.environ.get("SYNODKV_MUTATIONS_DIR") or Path(os.environ.get("TMPDIR", "/tmp")) / "synodkv-mutations")
    if options.check:
        return check(patches, place)
    first_seed = options.first_seed if options.first_seed is not None else random.randrange(10**12)
    print(f"{len(patches)} mutations: {', '.join(patch.name for patch in patches)}\nseeds from {first_seed} on; in {place}",
          flush=True)
    results = Runner(options, place).run(patches, first_seed)
    if options.markdown:
        print_markdown(results)
    bad = [result["name"] for result in results if verdict(result) in ("ERROR", "SURVIVED")]
    print(f"{sum(map(is_killed, results))} of {len(results)} killed" + (f"; not: {', '.join(bad)}" if bad else ""))
    return 1 if bad or len(results) < len(patches) else 0


if __name__ == "__main__":
    sys.exit(main())
