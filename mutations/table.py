"""Results of a run, as text."""

import re
import statistics


def first_line(text):
    """The failure and its file."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    place = re.match(r"panicked at (?:crates/)?(\S+?):\d+:\d+:$", lines[0])
    said = f"{place[1].replace('/src/', '/')}: {lines[1]}" if place and len(lines) > 1 else lines[0]
    return re.sub(r"[^ -~]", "?", said)[:200]


def kind(said):
    """The check behind a message: without ids, numbers and the values found."""
    return re.sub(r"[\[({]?\b\d+(?![ab]\b).*", "", said)[:90].rstrip(" :,([{")


def is_killed(result):
    return bool(result.get("tests") or result.get("seeds") or result.get("model"))


def killers(result):
    """The finders, as text: the check of the simulator that failed most often, the first test."""
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
    print(f"{verdict(result):9} {result['name']:44} seeds {seeds_text(result):18} {result.get('took_s', 0):6.1f} s  "
          f"{' | '.join(killers(result))}", flush=True)
    if "broken" in result:
        print(f"          {result['broken']}", flush=True)
