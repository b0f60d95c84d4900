#!/usr/bin/env python3
"""Checks the links of the documentation; scripts/test.sh runs this.

Three things must exist: the target of every relative link in a Markdown file, the heading that its #anchor names, and every
docs/….md that any tracked text file mentions, with the section if it follows in quotes: docs/CLI.md, "Exit status".
Links to other hosts are not followed.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: +(\S+)", re.M)
MENTION = re.compile(r"\bdocs/[\w/-]+\.md\b(?:[,:]? (?:under )?\"([^\"\n]+)\")?")


def without_code(text):
    """The same text with code blanked out, line by line, so that places stay right."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    return re.sub(r"`[^`\n]*`", blank, re.sub(r"^ *```.*?^ *```", blank, text, flags=re.M | re.S))


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def headings(path):
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.M | re.S)
    return [match.strip() for match in re.findall(r"^#{1,6} +(.+)$", text, re.M)]


@cache
def anchors(path):
    seen, found = {}, set()
    for heading in headings(path):
        name = slug(heading)
        count = seen[name] = seen.get(name, -1) + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def broken_links(path):
    text = without_code(path.read_text())
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        line = text.count("\n", 0, match.start()) + 1
        if not other.exists():
            yield line, f"{target}: no such file"
        elif anchor and other.suffix == ".md" and anchor not in anchors(other):
            yield line, f"{target}: no such heading"


def broken_mentions(text):
    for match in MENTION.finditer(text):
        path = ROOT / re.match(r"\S+?\.md", match[0])[0]
        line = text.count("\n", 0, match.start()) + 1
        if not path.exists():
            yield line, f"{path.relative_to(ROOT)}: no such file"
        elif match[1] and match[1].rstrip(".") not in headings(path):
            yield line, f"{path.relative_to(ROOT)} has no section \"{match[1]}\""


def main():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    failures = 0
    for name in names:
        path = ROOT / name
        if name.startswith("fuzz/corpus") or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = [*broken_mentions(text), *(broken_links(path) if name.endswith(".md") else [])]
        for line, said in sorted(found):
            print(f"{name}:{line}: {said}")
        failures += len(found)
    if failures:
        sys.exit(f"error: {failures} broken links")


if __name__ == "__main__":
    main()
