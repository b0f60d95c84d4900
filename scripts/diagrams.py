#!/usr/bin/env python3
"""Draws the diagrams in docs/diagrams: a write, a read, a failover, as SVG.

    scripts/diagrams.py             writes the files
    scripts/diagrams.py --check     exit status 1 if a file is not what this script draws; scripts/book.sh runs this

A diagram is a list of lanes and of steps from top to bottom:
(from, to, text) is a message, (lane, text) is work in a lane, (text,) is a remark over the whole width.
"""

import sys
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "diagrams"
WIDTH, LANE, TOP, STEP = 190, 150, 64, 50

DIAGRAMS = {
    "write": (
        "A write: acknowledged once it is on the disks of a majority",
        ["client", "secondary 1", "primary 0", "secondary 2"],
        [
            (0, 1, "atomicCommit"),
            (1, "checks it, numbers it"),
            (1, 2, "forward"),
            (2, "packs all waiting requests\ninto entry 7"),
            (2, 1, "accept: entry 7"),
            (2, 3, "accept: entry 7"),
            (2, "log: one durable write"),
            (1, "log: one durable write"),
            (3, "log: one durable write"),
            (1, 2, "accepted: durable to 7"),
            (2, "two of three: chosen"),
            (2, 1, "commit point 7"),
            (1, "applies entry 7,\ndecides conflicts"),
            (1, 0, "reply with the version"),
            ("The primary and secondary 2 apply the same entry, with the same outcome. Nobody waits for it.",),
        ],
    ),
    "read": (
        "A linearizable read: it sees every write that was acknowledged before",
        ["client", "secondary 1", "primary 0", "secondary 2"],
        [
            (0, 1, "get"),
            (1, 2, "read point?"),
            (2, "one round for all waiting reads"),
            (2, 1, "accept with round 12"),
            (2, 3, "accept with round 12"),
            (3, 2, "accepted, round 12"),
            (2, "a majority: it still leads"),
            (2, 1, "read point: commit point 7"),
            (1, "applies up to 7, if it has not"),
            (1, "reads its own database"),
            (1, 0, "value"),
            ("With leases the primary answers at once. A read at a version asks nobody, once that version is applied.",),
        ],
    ),
    "failover": (
        "A failover: the primary is gone, and no acknowledged write is",
        ["client", "replica 0 (primary)", "replica 1", "replica 2"],
        [
            (0, 2, "atomicCommit"),
            (2, 1, "forward"),
            (1, "dies"),
            (2, "its connection is closed"),
            (2, 3, "pre-vote: would you follow?"),
            (3, 2, "yes: I heard from none either"),
            (2, 3, "prepare: view 512"),
            (3, "promises, durably:\nnothing older any more"),
            (3, 2, "promise, with the log's end"),
            (2, "holds all that was chosen:\nleads view 512"),
            (2, 3, "accept: what was under way"),
            (3, 2, "accepted, durable"),
            (2, 0, "reply: executed once"),
            ("Replica 0 comes back, hears of view 512, follows, and gets what it lacks.",),
        ],
    ),
}

STYLE = """text{font:13px sans-serif;fill:#1f2933}.head{font-weight:600}.title{font-size:15px;font-weight:600}
.lane{stroke:#9aa5b1;stroke-dasharray:3 4}.box{fill:#fff;stroke:#3e4c59}.work{fill:#e3f0fb;stroke:#2b6cb0}
.message{stroke:#2b6cb0;stroke-width:1.5;marker-end:url(#tip)}.remark{fill:#fdf6e3;stroke:#b7791f}"""


def text(x, y, words, css="", anchor="middle"):
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def box(x, y, lines, css, width):
    height = 10 + 17 * len(lines)
    parts = [f'<rect class="{css}" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="4"/>']
    parts += [text(x, f"{y - height / 2 + 17 + 17 * place:g}", line) for place, line in enumerate(lines)]
    return parts


def draw(name):
    title, lanes, steps = DIAGRAMS[name]
    width = WIDTH * len(lanes) + 20
    height = TOP + STEP * len(steps) + 20
    middle = [10 + WIDTH * place + WIDTH / 2 for place in range(len(lanes))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#2b6cb0"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(width / 2, 20, title, "title"),
    ]
    end = TOP + STEP * (len(steps) - 1) + 20
    for place, lane in enumerate(lanes):
        parts.append(f'<line class="lane" x1="{middle[place]:g}" y1="{TOP - 8}" x2="{middle[place]:g}" y2="{end}"/>')
        parts += box(middle[place], TOP - 16, [lane], "box", LANE)
    for place, step in enumerate(steps):
        y = TOP + STEP * place + 34
        if len(step) == 3:
            source, target, words = step
            away = 4 if target > source else -4
            parts.append(f'<line class="message" x1="{middle[source]:g}" y1="{y}" x2="{middle[target] - away:g}" y2="{y}"/>')
            x = (middle[source] + middle[target]) / 2
            # A background, so that lanes do not cross the words.
            parts.append(f'<rect x="{x - 3.5 * len(words):g}" y="{y - 20}" width="{7 * len(words)}" height="14" fill="#fff"/>')
            parts.append(text(f"{x:g}", y - 7, words))
        elif len(step) == 2:
            parts += box(middle[step[0]], y, step[1].split("\n"), "work", WIDTH - 8)
        else:
            parts += box(width / 2, y + 4, [step[0]], "remark", width - 40)
    return "\n".join(parts + ["</svg>", ""])


def main():
    stale = []
    for name in DIAGRAMS:
        path, drawn = FOLDER / f"{name}.svg", draw(name)
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != drawn:
                stale.append(path.name)
        else:
            path.write_text(drawn)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what scripts/diagrams.py draws; run it, and commit its files")


if __name__ == "__main__":
    main()
