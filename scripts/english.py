#!/usr/bin/env python3
"""Measures the English of the comments and looks for retired words.

    scripts/english.py              measures by crate, per 1,000 comment lines
    scripts/english.py --docs       the same for the Markdown files
    scripts/english.py --list       every sentence and phrase that counts, with its place
    scripts/english.py --check      both; exit status 1 beyond a limit or on a retired word; scripts/test.sh runs this
    scripts/english.py core wal     only files whose path contains one of these words

Three measures catch most sentences that read like a translation: a clause that begins with a bare "Who" or "Whoever" as
the subject, one that begins with "What", and phrases that a native speaker would not use here. Each has a limit, because a
few of them are good English. A retired word has no limit: docs/GLOSSARY.md has the word to use instead.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter, namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Most per 1,000 lines of comment.
LIMITS = {"who": 0.3, "what": 3.0, "odd": 4.0}
# Not written by us, or bytes of a fixture.
SKIPPED = re.compile(r"(^|/)(generated\.rs|fixtures|corpus|regressions|node_modules|target)(/|$)")
ODD = re.compile(
    r"\b(so many|surely|anew|beside|the own|for want of|none the less|without a word|as ever|of no meaning|of before"
    r"|(?:is|are|was|were|be|been|being) told|carr(?:y|ies|ied|ying) out|go(?:es)? on|went on|gone on|going on"
    r"|who lags|what becomes of|what became of|whatever becomes|all the same|would else|must else|could else)\b", re.I)

Sentence = namedtuple("Sentence", "file line text")
Retired = namedtuple("Retired", "pattern use_instead where")


def retired(words, use_instead, where=r"\.(rs|md|sh|py|toml)$"):
    return Retired(re.compile(words), use_instead, re.compile(where))


RUST = r"\.rs$"
RSML = r"crates/rsml/.*\.rs$"
CLIENT = r"crates/kv-client/src/.*\.rs$"
PROOF = r"crates/proof/.*\.rs$"
STORE = r"crates/kv-(store|server)/.*\.rs$"
# A word that is retired in one sense only is looked for as a phrase or as an identifier, and only where it had that sense.
RETIRED = [
    retired(r"\bis_learner\b", "is_observer"),
    # In the core it is Paxos' learner.
    retired(r"\b(?:a|the|non-voting) learners?\b|\blearners (?:and|have|follow)\b", "observer",
            r"^(?!crates/rsml/src/core/).*\.(rs|md|sh|py)$"),
    retired(r"\btake_orders\b|\bOrderRecord\b|\brenumber_orders\b|\bpersist orders?\b|\bdisk orders?\b", "write, log write"),
    retired(r"\b[Tt]ickets?\b", "WriteId, write id"),
    retired(r"\bSeat(?:Lock)?\b|\b(?:the|a) seat\b|\bseat\.|\bsitting\b", "CoreRunner, CoreLock"),
    retired(r"\bcarry_out\b|\.bring\(|\bfn bring\b", "dispatch (outputs), submit (an input)", RUST),
    retired(r"\bStanding\b(?! for)|\b[Hh]eirs?\b|\bno_witness\b|\bcast_out\b",
            "DigestVote: computed, inherited, unknown; outvoted", r"crates/(rsml|proof|kv-server/src/replication)/.*\.rs$|\.md$"),
    retired(r"\bStrays?\b|\bstrays?\b|\bhas_strays\b", "diverged peer; misplaced group; duplicates in flight", RUST),
    retired(r"\bvoid_lease\b|\bvoided: View\b", "revoke_lease, revoked"),
    retired(r"\bhush(?:ed|es)?\b|\bfn suspect\b|\.suspect\(", "reset_election_timer, expire_election_timer_soon", RSML),
    retired(r"\bfn (?:see|hear)\(|\.(?:see|hear)\(", "observe_view, observe_commit", RSML),
    retired(r"\.(?:told|owed|mourned)\b|^\s*(?:pub |pub\(\w+\) )?(?:told|owed|mourned): ", "last_sent, pending, or the thing itself", RSML),
    retired(r"\b[Ll]essors?\b", "grantor"),
    retired(r"\b[Mm]ending\b|\b[Hh]eal(?:s|ed|ing)?\b", "log repair", r"crates/rsml/src/(core|driver|wal)/.*\.rs$"),
    retired(r"\bInstant as Clock\b", "Instant as StdInstant", RUST),
    retired(r"\bstruct Transfer\b", "SnapshotFetch", r"crates/rsml/src/core/.*\.rs$"),
    retired(r"\bHandover\b", "LeadershipTransfer", RUST),
    retired(r"\bGate\b", "ClosableSink", RSML),
    retired(r"\bSeldom\b|\bmod seldom\b|\bseldom::", "LogThrottle", RUST),
    retired(r"\btransport::Sender\b", "message::MessageHeader", RSML),
    retired(r"\b[Hh]orizons?\b", "oldest readable version", r"crates/(kv-|proof).*\.rs$|\.md$"),
    retired(r"\b[Ss]weepers?\b|\b[Ss]weeps?\b|\bswept\b", "garbage collector, collection, collected",
            r"crates/(kv-|proof).*\.rs$|\.md$"),
    retired(r"\bpassing_time\b|\bPassingTime\b", "clock_tick, clock tick entry"),
    retired(r"\bReplicatedKvStore\b", "LocalReplicas"),
    retired(r"\bErrand\b", "CallOptions"),
    retired(r"\benum Kind\b|\bKind::", "Access", CLIENT),
    retired(r"\b[Ss]craps?\b", "scratch keys"),
    retired(r"\bFace\b|\bface\(|\bmod face\b", "observed state", PROOF),
    retired(r"\bmod (?:traps|figures|openings|ledger)\b|\bHabits?\b|\bhabits\b|\bLook\b|\bSight\b",
            "lease scenarios, counters, starting situations, expected log, workload profile, snapshot, observation", PROOF),
    retired(r"\bmod (?:once|room|sweep)\b|\bonce::", "idempotency, memory_budget, gc", STORE),
    retired(r"\banew\b", "again"),
    retired(r"\b(?:hears?|heard) (?:no |a |an |the |any |its )?(?:primary|quorum|majority|nobody|everybody)\b", "hears from, heard from"),
    retired(r"\bbehind (?:the |a |an |its |that |each )?(?:blank )?(?:end|last|clear|damage|groups?|hole|gap|loss|snapshot|copy|head|table"
            r"|marker|truncations?)\b", "after", r"\.(rs|md)$"),
    retired(r"\bbirth record\b", "bootstrap record", r"\.(rs|md)$"),
    retired(r"//[/!] Most (?!systems|writes|likely|of the)\w+ |\bMOST_[A-Z]", "maximum number of, MAX_", RUST),
    retired(r"(?<!as )\ballowed (?:are|is)\b", "allowed: …"),
    retired(r"\bDuty\b|\bstruct Feed\b|\bis_roomy\b", "Fitness, AcceptContext, has_ample_space", RUST),
]
# Names that outlive their words: metrics, wire, files of a data directory, names of planted bugs.
KEPT = re.compile(r"synodkv_\w+|\"learner\"|`learner`|\blearner:|\.learner\b|[\w-]+\.patch\b|\bswept_versions\b")
# They quote names of tests and headers of patches, or list the retired words themselves.
QUOTING = re.compile(r"^(scripts/english\.py|docs/GLOSSARY\.md|docs/testing/MUTATIONS\.md)$")


def tracked(*patterns):
    names = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [name for name in names.splitlines() if not SKIPPED.search(name) and (ROOT / name).is_file()]


def crate_of(name):
    parts = name.split("/")
    return parts[1] if parts[0] == "crates" else parts[0]


def rust_blocks(text):
    """Runs of comment lines: (first line number, texts without the marker)."""
    block, first = [], 0
    for number, line in enumerate(text.splitlines() + [""], 1):
        marked = re.match(r"\s*//[/!]? ?(.*)$", line)
        if marked:
            first = first if block else number
            block.append(marked[1])
        elif block:
            yield first, block
            block = []


def markdown_blocks(text):
    yield 1, text.splitlines()


def sentences(name, first, block):
    """The sentences of a block. Code blocks and tables' rules are none; a list item and a table row begin one."""
    said, at, in_code = "", first, False
    for number, line in enumerate([*block, ""], first):
        in_code ^= line.lstrip().startswith("```")
        if not line.strip() or in_code or re.match(r"\s*([-*#|]|\d+\.) ?", line) or line.lstrip().startswith("```"):
            yield from split(name, at, said)
            said, at = "", number
            if in_code or line.lstrip().startswith("```"):
                continue
        said += line.strip().lstrip("-*#| ") + "\n"
    yield from split(name, at, said)


def split(name, line, said):
    offset = 0
    for part in re.split(r"(?<=[.!?])(\s+)(?=[A-Z`*(\"])", said):
        if part.strip():
            yield Sentence(name, line + said[:offset].count("\n"), " ".join(part.split()))
        offset += len(part)


def findings(sentence):
    text = sentence.text.lstrip("*_(\"")
    if re.match(r"Who(ever|mever|m)?\b", text) and not text.endswith("?"):
        yield "who", text
    if re.match(r"What(ever)?\b", text) and not text.endswith("?"):
        yield "what", text
    for match in ODD.finditer(sentence.text):
        yield "odd", f"{match[0]}: …{sentence.text[max(0, match.start() - 50):match.end() + 40]}…"


def measure(names, blocks_of, group_of):
    lines, counts, places = Counter(), Counter(), []
    for name in names:
        if QUOTING.match(name):
            continue
        group = group_of(name)
        for first, block in blocks_of((ROOT / name).read_text()):
            lines[group] += sum(bool(line.strip()) for line in block)
            for sentence in sentences(name, first, block):
                for kind, text in findings(sentence):
                    counts[group, kind] += 1
                    places.append((kind, sentence.file, sentence.line, text))
    return lines, counts, places


def print_measures(lines, counts):
    """Prints the table and returns the measures that exceed their limits, over all groups."""
    print(f"{'per 1,000 lines':42} {'lines':>6}  {'Who…':>5}  {'What…':>5}  {'odd':>5}")
    rows = [(group, lines[group], {kind: counts[group, kind] for kind in LIMITS}) for group in sorted(lines)]
    total = {kind: sum(count[kind] for _, _, count in rows) for kind in LIMITS}
    rows.append(("all", sum(lines.values()), total))
    for group, size, count in rows:
        rates = "  ".join(f"{1000 * count[kind] / max(size, 1):5.1f}" for kind in LIMITS)
        print(f"{group:42} {size:6}  {rates}")
    size = max(rows[-1][1], 1)
    return [kind for kind, limit in LIMITS.items() if 1000 * total[kind] / size > limit]


def retired_words(names):
    for name in names:
        if QUOTING.match(name):
            continue
        words = [word for word in RETIRED if word.where.search(name)]
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            for word in words:
                for match in word.pattern.finditer(KEPT.sub(" ", line)):
                    yield f"{name}:{number}: `{match[0]}` is retired: use {word.use_instead}"


def main():
    parser = argparse.ArgumentParser(prog="scripts/english.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="*", help="only files whose path contains one of these words")
    parser.add_argument("--docs", action="store_true", help="the Markdown files instead of the comments")
    parser.add_argument("--list", action="store_true", help="every place that counts")
    parser.add_argument("--check", action="store_true", help="fail beyond a limit, and on a retired word")
    opts = parser.parse_args()

    def chosen(*patterns):
        names = tracked(*patterns)
        return [name for name in names if not opts.paths or any(word in name for word in opts.paths)]

    def measured(names, blocks_of, group_of):
        lines, counts, places = measure(names, blocks_of, group_of)
        if opts.list:
            for kind, name, line, text in places:
                print(f"{name}:{line}: {kind}: {text}")
        return print_measures(lines, counts)

    exceeded = []
    if opts.check or not opts.docs:
        exceeded += measured(chosen("*.rs"), rust_blocks, crate_of)
    if opts.check or opts.docs:
        exceeded += measured(chosen("*.md"), markdown_blocks, str)
    if not opts.check:
        return
    for kind in exceeded:
        print(f"error: more than {LIMITS[kind]} of `{kind}` per 1,000 lines; --list shows the places")
    words = list(retired_words(chosen("*.rs", "*.md", "*.sh", "*.py", "*.toml")))
    print("\n".join(words))
    if words:
        print(f"error: {len(words)} retired words; docs/GLOSSARY.md explains the ones in use")
    sys.exit(1 if exceeded or words else 0)


if __name__ == "__main__":
    main()
