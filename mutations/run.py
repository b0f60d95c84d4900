"""Plants mutations one at a time and tells what finds them; called by scripts/mutations.sh, where the options are told.

Each patch is applied to a copy of the working tree outside of the repository, built there, and then hunted: by the fast
tests of the core and the log, then by the simulator with fresh seeds, then, where the patch says so, by the model check.
A patch that does not apply or does not compile is an error, never a kill, and a seed on which the program fails without
the patch as well kills nothing: each seed that fails is run once more without it. The copies and what was built in them
stay for the next run, so that only what a patch changes is built again.
"""

import argparse
import hashlib
import json
import os
import queue
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "mutations"
HEADER = re.compile(r"^(Plants|Rule|Source|Simulate|Model|Harmless): *(.*)$")
TEST_SECONDS = 600
BUILD_SECONDS = 1800


def sources():
    """The files of the working tree, committed or not."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE).stdout.decode()
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def fingerprint():
    """Of all that the simulator is built from."""
    digest = hashlib.sha256()
    for name in sorted(name for name in sources() if name.startswith(("crates/", "Cargo."))):
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()


class Broken(Exception):
    """The patch could not be tried."""


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
        self.touches = sorted(set(re.findall(r"^\+\+\+ b/(crates/[^/]+)", text, re.M)))

    def simulations(self):
        return self.fields["Simulate"] or [[]]


def run(command, cwd, seconds, env=None):
    """Runs a command in a process group of its own, which ends with it. Returns (status, output); None: out of time."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


class Worker:
    """One copy of the tree, and what is built in it."""

    def __init__(self, place, options):
        self.options = options
        # The simulator without any patch; all workers share it.
        self.sound = place.parent / "sim-without-patch"
        self.tree = place / "tree"
        self.target = place / "target"
        self.tree.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, "CARGO_TARGET_DIR": str(self.target), "CARGO_INCREMENTAL": "1",
                    "GIT_CEILING_DIRECTORIES": str(place), "RUST_BACKTRACE": "0"}

    def restore(self):
        """Makes the copy equal to the working tree; what is equal is not touched, so that it isn't built again."""
        wanted = sources()
        for found in [path for path in self.tree.rglob("*") if path.is_file()]:
            if str(found.relative_to(self.tree)) not in wanted:
                found.unlink()
        for name in wanted:
            source, copy = ROOT / name, self.tree / name
            if not copy.is_file() or copy.read_bytes() != source.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)

    def apply(self, patch):
        status, output = run(["git", "apply", "--whitespace=nowarn", str(patch.path)], self.tree, 60, self.env)
        if status != 0:
            raise Broken(f"does not apply: {output.strip()}")
        if not patch.touches:
            raise Broken("changes no crate")

    def cargo(self, arguments):
        started = time.monotonic()
        status, output = run(["cargo", *arguments], self.tree, BUILD_SECONDS, self.env)
        if status != 0:
            raise Broken("does not compile:\n" + "\n".join(output.splitlines()[-25:]))
        return time.monotonic() - started

    def build_simulator(self):
        return self.cargo(["build", "--release", "--locked", "--quiet", "-p", "proof", "--bin", "sim"])

    def tests(self, patch):
        """Commands of the fast tests for what a patch changes."""
        commands = []
        if "crates/rsml" in patch.touches:
            commands.append(["-p", "rsml", "--lib", "--test", "transcripts"])
        if "crates/kv-store" in patch.touches:
            commands.append(["-p", "kv-store", "--no-default-features", "--lib"])
        if "crates/kv-server" in patch.touches:
            commands.append(["-p", "kv-server", "--no-default-features", "--lib"])
        return [["test", "--release", "--locked", "--quiet", *command, "--no-fail-fast"] for command in commands]

    def run_tests(self, patch):
        """The tests that fail; the build is timed apart."""
        failed, took = [], 0.0
        for command in self.tests(patch):
            took += self.cargo([*command, "--no-run"])
            status, output = run(["cargo", *command], self.tree, TEST_SECONDS, self.env)
            failed += re.findall(r"^    (\S+(?:::\S+)*)$", output.split("\nfailures:\n")[-1], re.M) if status == 101 else []
            failed += ["tests hang"] if status is None else []
            if status not in (0, None) and not failed:
                failed.append("tests abort")
        return list(dict.fromkeys(failed)), took

    def build_without_patch(self):
        """Builds the simulator that tells whether a seed fails because of the patch, unless it is there."""
        mark = self.sound.with_suffix(".sha256")
        wanted = fingerprint()
        if not (self.sound.is_file() and mark.is_file() and mark.read_text() == wanted):
            print("building the simulator without any patch", flush=True)
            self.restore()
            self.build_simulator()
            shutil.copy2(self.target / "release" / "sim", self.sound)
            mark.write_text(wanted)

    def simulate(self, arguments, first_seed):
        """Returns (seeds needed, why), or (None, how far it came)."""
        options, seed, unsound = self.options, first_seed, 0
        end, until = first_seed + options.seeds, time.monotonic() + options.minutes * 60
        while seed < end:
            failed, why = self.first_failure(arguments, seed, end - seed, until - time.monotonic())
            if failed is None:
                return None, why or f"{options.seeds} seeds"
            sound = [str(self.sound), "--seeds", "1", "--threads", "1", "--first-seed", str(failed), *arguments]
            if run(sound, self.tree, 120, self.env)[0] == 0:
                return failed - first_seed + 1 - unsound, why
            print(f"          seed {failed} fails without the patch as well: {why[0]}", flush=True)
            seed, unsound = failed + 1, unsound + 1
        return None, f"{options.seeds} seeds"

    def first_failure(self, arguments, seed, count, seconds):
        command = [str(self.target / "release" / "sim"), "--seeds", str(count), "--first-seed", str(seed), "--threads",
                   str(self.options.threads), *arguments]
        status, output = run(command, self.tree, max(seconds, 1), self.env)
        if status == 0:
            return None, None
        failures = re.findall(r"^seed (\d+) FAILED: (.*(?:\n(?!replay: ).*)*)\nreplay: (.*)$", output, re.M)
        if failures:
            failed, reason, replay = min(failures, key=lambda failure: int(failure[0]))
            return int(failed), (first_line(reason), replay)
        if status is None:
            return None, f"{self.options.minutes:g} minutes"
        return seed, (f"ended with status {status}: {output.strip().splitlines()[-1:]}", " ".join(command))

    def check_model(self, arguments):
        self.cargo(["build", "--release", "--locked", "--quiet", "-p", "proof", "--features", "model", "--bin", "model"])
        status, output = run([str(self.target / "release" / "model"), *arguments.split()], self.tree,
                             self.options.minutes * 60, self.env)
        return None if status in (0, None) else first_line(output.strip().splitlines()[-1])


def first_line(text):
    """What failed, and in which file."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing was said"]
    place = re.match(r"panicked at (?:crates/)?(\S+?):\d+:\d+:$", lines[0])
    said = f"{place[1].replace('/src/', '/')}: {lines[1]}" if place and len(lines) > 1 else lines[0]
    return re.sub(r"[^ -~]", "?", said)[:200]


def kind(said):
    """The check behind a message: without ids, numbers and what was found."""
    return re.sub(r"[\[({]?\b\d+(?![ab]\b).*", "", said)[:90].rstrip(" :,([{")


def try_patch(worker, patch, first_seed):
    options, result = worker.options, {"name": patch.name, "plants": patch.fields.get("Plants", ""),
                                       "rule": patch.fields.get("Rule", ""), "source": patch.fields.get("Source", "")}
    worker.restore()
    worker.apply(patch)
    tests, build_s = ([], 0.0) if options.no_tests else worker.run_tests(patch)
    result["tests"] = tests
    if options.all or not tests:
        build_s += worker.build_simulator()
        seeds, reasons = [], []
        for number in range(options.runs):
            for arguments in patch.simulations():
                needed, why = worker.simulate(arguments, first_seed + number * 1_000_000)
                if needed is not None:
                    break
            if needed is None:
                result["survived"] = why
                break
            seeds.append(needed)
            reasons.append(why)
        result["seeds"] = seeds
        result["reasons"] = reasons
        model = patch.fields.get("Model")
        if model is not None and (options.all or not (tests or seeds)):
            result["model"] = worker.check_model(model)
    result["build_s"] = round(build_s, 1)
    return result


def is_killed(result):
    return bool(result.get("tests") or result.get("seeds") or result.get("model"))


def killers(result):
    """By whom, in words: the check of the simulator that saw it most often, the first test."""
    said = []
    if result.get("reasons"):
        kinds = [kind(reason[0]) for reason in result["reasons"]]
        said.append(max(kinds, key=kinds.count))
    if result.get("tests"):
        more = len(result["tests"]) - 1
        said.append(f"{result['tests'][0]}{f' and {more} more' if more else ''}")
    if result.get("model"):
        said.append(f"model check: {result['model']}")
    return said


def seeds_text(result):
    if result.get("seeds"):
        missed = f" (one run of {len(result['seeds']) + 1} missed it)" if "survived" in result else ""
        return f"{statistics.median(result['seeds']):g}{missed}"
    if "survived" in result:
        return f"not in {result['survived']}"
    return "not tried"


def verdict(result):
    if "broken" in result:
        return "ERROR"
    if is_killed(result):
        return "killed"
    return "harmless" if result.get("harmless") else "SURVIVED"


def print_markdown(results):
    print("| Mutation | Plants | Source | Found by | Seeds (median) |\n|---|---|---|---|---|")
    for result in results:
        found = "; ".join(f"`{said}`" for said in killers(result)).replace("|", "\\|") or f"**{verdict(result)}**"
        print(f"| {result['name']} | {result['plants']} | {result['source']} | {found} | {seeds_text(result)} |")


def tell(result):
    print(f"{verdict(result):9} {result['name']:44} seeds {seeds_text(result):18} build {result.get('build_s', 0):6.1f} s  "
          f"{' | '.join(killers(result))}", flush=True)
    if "broken" in result:
        print(f"          {result['broken']}", flush=True)


def parse():
    parser = argparse.ArgumentParser(prog="scripts/mutations.sh", description="Plants known bugs, one at a time, and "
                                     "tells what finds them. Exit status 1 if one survives or can't be planted.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these patches of mutations/ only")
    parser.add_argument("--patch", nargs="+", metavar="FILE", help="patches from outside, instead of those in mutations/")
    parser.add_argument("--sample", type=int, metavar="N", help="N patches drawn at random, one run each")
    parser.add_argument("--seeds", type=int, default=2000, help="most seeds of one run of the simulator (2000)")
    parser.add_argument("--minutes", type=float, default=3, help="most minutes of one run of the simulator (3)")
    parser.add_argument("--runs", type=int, default=5, help="runs of the simulator, for the median of seeds (5)")
    parser.add_argument("--first-seed", type=int, help="of the first run; else drawn, and printed")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the simulator (one per processor)")
    parser.add_argument("--jobs", type=int, default=1, help="patches tried at the same time, each in a copy of its own (1)")
    parser.add_argument("--all", action="store_true", help="the simulator must try also what a test has found already")
    parser.add_argument("--no-tests", action="store_true", help="the simulator alone")
    parser.add_argument("--check", action="store_true", help="only whether every patch applies")
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


def main():
    options = parse()
    if options.report:
        return report(options.report)
    patches = choose(options)
    place = Path(os.environ.get("SYNODKV_MUTATIONS_DIR") or Path(os.environ.get("TMPDIR", "/tmp")) / "synodkv-mutations")
    first_seed = options.first_seed if options.first_seed is not None else random.randrange(10**12)
    print(f"{len(patches)} mutations: {', '.join(patch.name for patch in patches)}\nseeds from {first_seed} on; in {place}",
          flush=True)
    waiting, results, lock = queue.SimpleQueue(), [], threading.Lock()
    for patch in patches:
        waiting.put(patch)

    def work(number):
        worker = Worker(place / str(number), options)
        while True:
            try:
                patch = waiting.get_nowait()
            except queue.Empty:
                return worker.restore()
            try:
                if options.check:
                    worker.restore()
                    worker.apply(patch)
                    continue
                result = try_patch(worker, patch, first_seed)
            except Broken as broken:
                result = {"name": patch.name, "plants": patch.fields.get("Plants", ""), "source": "", "broken": str(broken)}
            result["harmless"] = patch.fields.get("Harmless")
            with lock:
                results.append(result)
                tell(result)
                if options.results:
                    with open(options.results, "a") as file:
                        file.write(json.dumps(result) + "\n")

    if not options.check:
        Worker(place / "0", options).build_without_patch()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.sort(key=lambda result: result["name"])
    if options.check and not results:
        print("every patch applies")
        return 0
    if options.markdown:
        print_markdown(results)
    bad = [result["name"] for result in results if verdict(result) in ("ERROR", "SURVIVED")]
    print(f"{sum(map(is_killed, results))} of {len(results)} killed" + (f"; not: {', '.join(bad)}" if bad else ""))
    return 1 if bad or (not options.check and len(results) < len(patches)) else 0


if __name__ == "__main__":
    sys.exit(main())
