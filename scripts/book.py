#!/usr/bin/env python3
"""The parts of scripts/book.sh that are not mdBook.

    scripts/book.py excerpts        every block after `<!-- excerpt: FILE -->` in docs/ is in that file, line by line
    scripts/book.py stage DIR       copies what mdBook needs to DIR, with links that work within the book
    scripts/book.py links DIR       every link and anchor in the pages of the finished book leads somewhere
"""

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Pages from the root of the repository that are chapters, too. mdBook would rename a README.
FROM_ROOT = {"README.md": "introduction.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
EXCERPT = re.compile(r"<!-- excerpt: (\S+) -->\n```\w*\n(.*?)```", re.S)


def excerpts():
    wrong, count = [], 0
    for page in sorted(DOCS.rglob("*.md")):
        for match in EXCERPT.finditer(page.read_text()):
            count += 1
            if match[2] not in (ROOT / match[1]).read_text():
                wrong.append(f"{page.relative_to(ROOT)}: a block is no excerpt of {match[1]} any more:\n{match[2]}")
    if wrong or not count:
        sys.exit("\n".join(wrong) or "no excerpt found: has the comment before them changed?")


def chapters():
    """Where each file of the repository is in the book."""
    places = {path: path.relative_to(DOCS) for path in DOCS.rglob("*") if path.is_file()}
    places |= {ROOT / name: Path(place) for name, place in FROM_ROOT.items()}
    return places


def moved(text, source, place, places):
    """The links of a page at `source`, which is at `place` in the book. A link to a file that is no chapter becomes text."""

    def change(match):
        file, hash, anchor = match[2].partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        target = places.get((source.parent / file).resolve())
        if target is None:
            return match[1] + "#BEYOND" + match[3]
        up = "../" * len(place.parent.parts)
        return f"{match[1]}{up}{target.as_posix()}{hash}{anchor}{match[3]}"

    return re.sub(r"\[([^\]]*)\]\(#BEYOND\)", r"\1", LINK.sub(change, text))


def stage(folder):
    shutil.copy(ROOT / "book.toml", folder / "book.toml")
    places = chapters()
    for source, place in places.items():
        target = folder / "docs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(moved(source.read_text(), source, place, places))
        else:
            shutil.copy(source, target)
    summary = (folder / "docs" / "SUMMARY.md").read_text()
    listed = {match[2] for match in LINK.finditer(summary)}
    pages = {place.as_posix() for place in places.values() if place.suffix == ".md"} - {"SUMMARY.md"}
    if pages - listed:
        sys.exit(f"docs/SUMMARY.md lists no {', '.join(sorted(pages - listed))}")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.ids.add(attributes["id"])
        for name in ["href", "src"]:
            if attributes.get(name) and tag in ["a", "img"]:
                self.links.append(attributes[name])


def links(folder):
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    broken = []
    # The page for printing repeats all others, with changed ids.
    for path, page in pages.items():
        if path.name in ["print.html", "404.html", "toc.html"]:
            continue
        for link in page.links:
            file, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (path.parent / file).resolve() if file else path
            if not target.exists():
                broken.append(f"{path.relative_to(folder)}: {link}: no such page")
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.append(f"{path.relative_to(folder)}: {link}: no such heading")
    if broken or len(pages) < 10:
        sys.exit("\n".join(broken) or f"only {len(pages)} pages in {folder}")
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links", file=sys.stderr)


def main():
    match sys.argv[1:]:
        case ["excerpts"]:
            excerpts()
        case ["stage", folder]:
            stage(Path(folder))
        case ["links", folder]:
            links(Path(folder).resolve())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
