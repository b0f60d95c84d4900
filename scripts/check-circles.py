#!/usr/bin/env python3
"""Finds import circles between sibling modules, and fails on one that is not listed below.

Two modules are siblings if the same module declares them; a sibling counts with everything inside it. An arrow leads from the
one that names something (in a `use`, or as a path that begins with `crate::` or `super::`) to the one that defines it:
re-exports are followed to their source. What parents and children take from each other is free, and tests count for nothing.

usage: scripts/check-circles.py [--self-test] [CRATE...]
  --self-test  tries the finder on small made-up crates instead
  CRATE        looks at these only (`kv-server`); by default at all of crates/
"""

import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

BY_SUBJECT = "the methods of Replica are spread over files by subject, which work on all of its parts"

# Arrows that may close a circle: (crate, importer, imported) and why. An entry that closes none fails the check, too.
TOLERATED = {
    ("rsml", f"core::{subject}", "core::replica"): BY_SUBJECT
    for subject in ("catch_up", "epochs", "fitness", "freshness", "lease", "level", "reconfigure", "secondary", "transfer", "trimming", "upkeep")
}
NOT_YET = "test code that is not taken apart yet"
TOLERATED |= {
    ("fuzz-targets", "wal::script", "wal::damage"): NOT_YET,
    ("proof", "chaos::nemesis", "chaos::records"): NOT_YET,
    ("proof", "simulator::claims", "simulator::expected_log"): NOT_YET,
    ("proof", "simulator::claims", "simulator::watch"): NOT_YET,
    ("proof", "simulator::clients", "simulator::cluster"): NOT_YET,
    ("proof", "simulator::operations", "simulator::scratch"): NOT_YET,
}

Module = tuple[str, ...]


def without_comments(text):
    """The code alone; lines keep their numbers. Strings become empty."""
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/|r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'""",
        re.DOTALL,
    )

    def blank(found):
        lines = "\n" * found.group().count("\n")
        return lines if found.group().startswith("/") else '""' + lines

    return token.sub(blank, text)


def end_of_item(code, start):
    """The position after the item that begins at `start`: its semicolon, or its outermost closing brace."""
    depth = 0
    for place in range(start, len(code)):
        if code[place] in "{([":
            depth += 1
        elif code[place] in "})]":
            depth -= 1
            if depth == 0 and code[place] == "}":
                return place + 1
        elif code[place] == ";" and depth == 0:
            return place + 1
    return len(code)


def without_tests(code):
    """The code without items under `#[cfg(test)]`, and the names of the modules among these that are files."""
    tests = set()
    while found := re.search(r"#\[cfg\(test\)\]", code):
        end = end_of_item(code, found.end())
        item = code[found.end():end]
        if declared := re.search(r"\bmod (\w+);", item):
            tests.add(declared.group(1))
        code = code[:found.start()] + "\n" * item.count("\n") + code[end:]
    return code, tests


def paths_of_tree(tree, prefix=()):
    """(path, name under which it is known) for each leaf of a use tree: `a::{b, c as d, self}`."""
    tree = tree.strip()
    if not tree:
        return
    if "{" in tree:
        head, _, rest = tree.partition("{")
        prefix += tuple(part.strip() for part in head.split("::") if part.strip())
        depth, leaf = 0, ""
        for sign in rest[:rest.rindex("}")] + ",":
            depth += (sign == "{") - (sign == "}")
            if sign == "," and depth == 0:
                yield from paths_of_tree(leaf, prefix)
                leaf = ""
            else:
                leaf += sign
        return
    path, _, alias = tree.partition(" as ")
    path = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
    if path[-1] == "self":
        path = path[:-1]
    yield path, alias.strip() or path[-1]


class Crate:
    def __init__(self, root):
        self.root = root
        self.code: dict[Module, str] = {}
        self.file: dict[Module, Path] = {}
        self.imports: dict[Module, list[tuple[int, Module, str]]] = {}
        for top in ("lib.rs", "main.rs"):
            if (root / top).exists() and () not in self.code:
                self.read((), root / top, root)
        self.names = {
            module: {name: path for _, path, name in imports if name != "*"}
            for module, imports in self.imports.items()
        }

    def read(self, module, file, folder):
        """Reads a module's file, and those of its children."""
        code, tests = without_tests(without_comments(file.read_text()))
        self.code[module], self.file[module] = code, file
        children = [name for name in re.findall(r"\bmod (\w+);", code) if name not in tests]
        uses = []
        for found in re.finditer(r"^[ \t]*(?:pub(?:\([^)]*\))? )?use ([^;]+);", code, re.MULTILINE):
            line = code.count("\n", 0, found.start(1)) + 1
            uses += [(line, path, name) for path, name in paths_of_tree(" ".join(found.group(1).split()))]
        self.imports[module] = uses
        for name in children:
            for child in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if child.exists():
                    self.read(module + (name,), child, folder / name)

    def absolute(self, module, path):
        """The path from the crate's root, or None for one that leads out of the crate."""
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return module + path[1:]
        base = module
        while path and path[0] == "super":
            base, path = base[:-1], path[1:]
            if not path or path[0] != "super":
                return base + path
        return module + path if module + path[:1] in self.code else None

    def defines(self, module, name):
        kinds = "struct|enum|union|fn|trait|type|const|static|mod|macro_rules!"
        return re.search(rf"\b(?:{kinds}) {name}\b", self.code[module]) is not None

    def home(self, path, visited=frozenset()):
        """The module in whose file the item of this absolute path is written."""
        module = ()
        for at, name in enumerate(path):
            if module + (name,) in self.code:
                module += (name,)
                continue
            if (module, name) in visited or self.defines(module, name):
                return module
            sources = [self.names[module][name]] if name in self.names[module] else []
            if not sources:
                globs = [source[:-1] for _, source, shown in self.imports[module] if shown == "*"]
                sources = [source + (name,) for source in globs]
            for source in sources:
                target = self.absolute(module, source)
                if target is None:
                    continue
                found = self.home(target + path[at + 1:], visited | {(module, name)})
                if name in self.names[module] or self.defines(found, name):
                    return found
            return module
        return module

    def arrows(self):
        """{parent: {(importer, imported): places}} between siblings."""
        found = defaultdict(lambda: defaultdict(list))
        for module, imports in self.imports.items():
            named = [(line, path) for line, path, _ in imports]
            for inline in re.finditer(r"\b((?:crate|super)(?:::\w+)+)", self.code[module]):
                line = self.code[module].count("\n", 0, inline.start()) + 1
                named.append((line, tuple(inline.group(1).split("::"))))
            for line, path in named:
                target = self.absolute(module, path)
                if target is None:
                    continue
                target = self.home(target)
                depth = next((at for at, (a, b) in enumerate(zip(module, target)) if a != b), None)
                if depth is not None:
                    place = f"{self.file[module].relative_to(self.root)}:{line}"
                    places = found[module[:depth]][module[depth], target[depth]]
                    if place not in places:
                        places.append(place)
        return found


def circles(arrows):
    """Sets of modules that reach each other."""
    reached = {}
    for start in {name for arrow in arrows for name in arrow}:
        seen, waiting = set(), [start]
        while waiting:
            name = waiting.pop()
            following = {after for before, after in arrows if before == name} - seen
            seen |= following
            waiting += following
        reached[start] = seen
    found = {frozenset(other for other in seen if start in reached[other]) for start, seen in reached.items()}
    return sorted((circle for circle in found if len(circle) > 1), key=sorted)


def complaints(crate, name, tolerated):
    """What is wrong with a crate, one text for each circle and for each entry of the list that is out of date."""
    allowed = {(importer, imported) for of, importer, imported in tolerated if of == name}
    used = set()
    for parent, arrows in sorted(crate.arrows().items()):
        full = {(before, after): ("::".join(parent + (before,)), "::".join(parent + (after,))) for before, after in arrows}
        for circle in circles(arrows):
            used |= {full[arrow] for arrow in arrows if set(arrow) <= circle} & allowed
        kept = {arrow: places for arrow, places in arrows.items() if full[arrow] not in allowed}
        for circle in circles(kept):
            lines = [f"{name}: a circle of imports among the children of {'::'.join(('crate',) + parent)}:"]
            for arrow in sorted(arrow for arrow in kept if set(arrow) <= circle):
                places = kept[arrow]
                more = f" and {len(places) - 3} more" if len(places) > 3 else ""
                lines.append(f"    {full[arrow][0]} -> {full[arrow][1]}  ({', '.join(places[:3])}{more})")
            yield "\n".join(lines)
    for importer, imported in sorted(allowed - used):
        yield f"{name}: {importer} -> {imported} is tolerated, but closes no circle: remove it from the list"


def self_test():
    def crate(files):
        root = Path(tempfile.mkdtemp(dir=folder))
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return Crate(root)

    def check(what, files, *, finds, tolerated=()):
        found = list(complaints(crate(files), "it", {("it", *arrow): "" for arrow in tolerated}))
        assert len(found) == finds, f"{what}: {found}"

    ab = "mod a;\nmod b;\n"
    with tempfile.TemporaryDirectory() as folder:
        one_way = {"lib.rs": ab, "a.rs": "use crate::b::B;", "b.rs": "pub struct B;"}
        check("one way", one_way, finds=0)
        circle = {"lib.rs": ab, "a.rs": "use crate::b::B;\npub struct A;", "b.rs": "use super::a::{A};\npub struct B;"}
        check("there and back", circle, finds=1)
        check("a tolerated circle", circle, tolerated=[("b", "a")], finds=0)
        check("a tolerated arrow without a circle", one_way, tolerated=[("a", "b")], finds=1)
        check("a path without a use", circle | {"b.rs": "fn f() -> crate::a::A { crate::a::A }"}, finds=1)
        check("in a comment", circle | {"b.rs": "// use crate::a::A;\n/* crate::a::A */ pub struct B;"}, finds=0)
        check("in a string", circle | {"b.rs": 'pub struct B; const T: &str = "crate::a::A";'}, finds=0)
        check("in tests", circle | {"b.rs": "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }"}, finds=0)
        test_file = circle | {"b.rs": "pub struct B;\n#[cfg(test)]\nmod tests;", "b/tests.rs": "use crate::a::A;"}
        check("in a file of tests", test_file, finds=0)
        shown = {"lib.rs": ab + "pub use a::A as Shown;", "a.rs": "use crate::b::B; pub struct A;"}
        check("through a re-export", shown | {"b.rs": "use crate::{Shown}; pub struct B;"}, finds=1)
        starred = {"lib.rs": ab + "pub use a::*;", "a.rs": "use crate::b::B; pub struct A;"}
        check("through a re-exported glob", starred | {"b.rs": "use crate::A; pub struct B;"}, finds=1)
        family = {"lib.rs": "mod a;", "a/mod.rs": "mod b;\nuse b::B;\npub struct A;", "a/b.rs": "use super::A; pub struct B;"}
        check("parent and child", family, finds=0)
        deep = {"lib.rs": ab, "a/mod.rs": "mod c;", "a/c.rs": "use crate::b::B;", "b.rs": "use crate::a::c; pub struct B;"}
        check("through a sibling's child", deep, finds=1)
        inner = {"lib.rs": "mod p;", "p.rs": ab, "p/a.rs": "use super::b::B; pub struct A;"}
        check("below the root", inner | {"p/b.rs": "use super::a::A; pub struct B;"}, finds=1)
    print("check-circles: the self-test passed")


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    if any(argument.startswith("-") for argument in arguments):
        sys.exit(__doc__)
    crates = Path(__file__).resolve().parent.parent / "crates"
    names = arguments or sorted(file.parent.name for file in crates.glob("*/Cargo.toml"))
    found = [text for name in names for text in complaints(Crate(crates / name / "src"), name, TOLERATED)]
    if found:
        sys.exit("\n".join(found))
    print(f"check-circles: none in {', '.join(names)}")


if __name__ == "__main__":
    main()
