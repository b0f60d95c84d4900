"""Compiles many patches into one program, each behind a switch, because a build for each takes hours.

A patch that changes nothing but bodies of functions of a library is added next to the original: the body becomes
`{ match crate::planted::planted() { 7 => { the patched body } _ => { the original } } }`, and the environment variable
`PLANTED=7` chooses it when the program starts. Nothing else differs from a program that was built from the patch alone,
and without the variable it is the program without any patch. A patch that changes anything else (a signature, a field, a
constant), or that does not compile here, needs a build of its own: so no patch wrongly counts as broken or as planted.
"""

import re

VARIABLE = "PLANTED"

SWITCH = f"""
/// Which patch is planted; see the runner of mutations.
pub(crate) mod planted {{
    pub(crate) fn planted() -> u32 {{
        static NUMBER: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
        *NUMBER.get_or_init(|| std::env::var("{VARIABLE}").map_or(0, |number| number.parse().expect("a number")))
    }}
}}
"""

# Text that may hold braces or the word `fn` and is no code. A quote without a closing one begins a lifetime.
NO_CODE = re.compile(r"""//[^\n]*|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\])'""", re.S)
COMMENT = re.compile(r"/\*|\*/")
FUNCTION = re.compile(r"\bfn\s+\w+")
BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


class NotSwitchable(Exception):
    """The patch needs a build of its own."""


def code_of(text):
    """The text with blanks in place of comments and literals."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])

    text = NO_CODE.sub(blank, text)
    if COMMENT.search(text):
        raise NotSwitchable("has block comments")
    return text


def end_of_block(code, opening):
    depth = 0
    for place in range(opening, len(code)):
        depth += BRACKETS.get(code[place], 0)
        if depth == 0:
            return place + 1
    raise NotSwitchable("braces do not match")


def bodies(text):
    """Where the bodies of functions begin and end, braces included; those inside of others are part of these."""
    code, found, place = code_of(text), [], 0
    while match := FUNCTION.search(code, place):
        depth, place = 0, match.end()
        while depth > 0 or code[place] not in "{;":
            depth += BRACKETS.get(code[place], 0)
            place += 1
        if code[place] == "{":
            end = end_of_block(code, place)
            if not re.search(r"\bconst\s+(?:unsafe\s+)?$", code[: match.start()]):
                found.append((place, end))
            place = end
    return found


def changed_bodies(original, patched):
    """For each body that differs: its place in the original, and the patched one."""
    before, after = bodies(original), bodies(patched)

    def rest(text, parts):
        starts, ends = [0, *(end for _, end in parts)], [*(start for start, _ in parts), len(text)]
        return [text[start:end] for start, end in zip(starts, ends)]

    if rest(original, before) != rest(patched, after):
        raise NotSwitchable("changes more than bodies of functions")
    pairs = [(old, patched[slice(*new)]) for old, new in zip(before, after)]
    return [(old, body) for old, body in pairs if original[slice(*old)] != body]


class Switched:
    """Any number of patches behind switches. `originals`: the texts of the tree without any, by name."""

    def __init__(self, originals):
        self.originals = originals
        # Per file, per place of a body in the original: the patched bodies by number.
        self.changes = {}
        # Per file: (first line, last line, number) of each patched body, as written.
        self.lines = {}

    def add(self, number, patched):
        """Takes a patch over, given as the files that it changes; or raises NotSwitchable."""
        wanted = {}
        for name, text in patched.items():
            in_library = re.match(r"(crates/[^/]+/src/)(?!bin/|main\.rs)", name)
            if not in_library or in_library[1] + "lib.rs" not in self.originals:
                raise NotSwitchable(f"changes {name}, which is not part of a library")
            wanted[name] = changed_bodies(self.originals.get(name, ""), text)
        for name, found in wanted.items():
            for place, body in found:
                self.changes.setdefault(name, {}).setdefault(place, {})[number] = body

    def drop(self, number):
        for places in self.changes.values():
            for alternatives in places.values():
                alternatives.pop(number, None)

    def files(self):
        """The files that differ from the originals, with their texts."""
        self.lines = {}
        written = {name: self.with_switches(name, places) for name, places in self.changes.items()}
        for crate in {name.split("/")[1] for name, places in self.changes.items() if any(places.values())}:
            library = f"crates/{crate}/src/lib.rs"
            written[library] = written.get(library, self.originals[library]) + SWITCH
        return written

    def with_switches(self, name, places):
        text, written, end = self.originals[name], "", 0
        for (start, stop), alternatives in sorted(places.items()):
            written += text[end:start]
            end = stop
            if not alternatives:
                written += text[start:stop]
                continue
            written += "{ match crate::planted::planted() {\n"
            for number, body in sorted(alternatives.items()):
                first = written.count("\n") + 1
                written += f"{number} => {body}\n"
                self.lines.setdefault(name, []).append((first, written.count("\n"), number))
            first = written.count("\n") + 1
            written += f"_ => {text[start:stop]}\n}} }}"
            # What the compiler sees in the original lies at those beside it: their types may be others.
            self.lines.setdefault(name, []).extend((first, written.count("\n") + 1, number) for number in alternatives)
        return written + text[end:]

    def culprits(self, output):
        """The numbers of the patches in whose lines the compiler sees errors (`--message-format short`)."""
        found = set()
        for name, line in re.findall(r"^(crates/\S+?):(\d+):\d+: error", output, re.M):
            found |= {number for first, last, number in self.lines.get(name, []) if first <= int(line) <= last}
        return found
