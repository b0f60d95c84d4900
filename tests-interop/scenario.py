"""The steps that SCENARIO.md names, by part."""

import re
from pathlib import Path

SCENARIO = Path(__file__).resolve().parent / "SCENARIO.md"
PARTS = {"Legacy part": "legacy", "Extensions": "extensions"}


def _read():
    steps = {part: [] for part in PARTS.values()}
    part = None
    for line in SCENARIO.read_text().splitlines():
        if line.startswith("## "):
            part = PARTS[line[3:]]
        elif step := re.match(r"\| `([^`]+)` \|", line):
            steps[part].append(step[1])
    return steps


STEPS = _read()


def steps_of(interface):
    """The steps for a client that was made from this interface."""
    return STEPS["legacy"] + (STEPS["extensions"] if interface == "current" else [])
