#!/usr/bin/env python3
"""Draws charts (SVG) from the results of scripts/compare.sh and scripts/bench.sh.

    scripts/charts.py RESULTS…                    into docs/benchmarks
    scripts/charts.py --out DIR RESULTS…

RESULTS are files that `--results FILE` wrote. Each figure gets one chart with a panel for each workload, and each build or
system a line through the medians over rounds; a thin bar shows the lowest and the highest round. The CPU of a put against
the puts in a record group gets a chart of its own, with the fitted curve a + b/n.
"""

import argparse
import json
import math
import statistics
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from report import fit  # noqa: E402 (its folder is not a package)

# Name in the file, title, unit of the axis, divisor.
FIGURES = (
    ("throughput", "Throughput", "operations per second", 1),
    ("p50_us", "Median latency", "ms", 1000),
    ("p99_us", "99th percentile of latency", "ms", 1000),
    ("server_cpu_us_per_op", "CPU of all server processes", "µs per operation", 1),
    ("switches_per_op", "Context switches of all server processes", "per operation", 1),
    ("syncs_per_op", "Synchronisations of the disk, all server processes", "per operation", 1),
)
FILES = {"throughput": "throughput", "p50_us": "latency-p50", "p99_us": "latency-p99", "server_cpu_us_per_op": "cpu",
         "switches_per_op": "switches", "syncs_per_op": "syncs"}
WORKLOADS = {"put": "put", "get": "get, linearizable", "ycsb-a": "YCSB A, half updates", "ycsb-b": "YCSB B, 5 % updates",
             "ycsb-c": "YCSB C, reads only", "ycsb-d": "YCSB D, read latest", "ycsb-e": "YCSB E, short ranges",
             "ycsb-f": "YCSB F, read-modify-write", "txn": "transaction, 2 reads + 2 writes"}
TITLES = {"synodkv": "SynodKV, 3 processes", "standalone": "SynodKV, standalone", "one-process": "SynodKV, 3 in 1 process",
          "etcd": "etcd, 3 processes", "zookeeper": "ZooKeeper, 3 processes", "redis": "Redis, 1 process"}
# Colour on light, colour on dark, dashes, marker.
STYLES = (("#0b5fc4", "#6cb0ff", "", "circle"), ("#b84a00", "#ff9d5c", "", "square"), ("#13713a", "#58d07f", "", "triangle"),
          ("#8a34a8", "#d993f2", "", "diamond"), ("#0b5fc4", "#6cb0ff", "6 3", "circle"),
          ("#5a6472", "#aab4c0", "2 3", "square"))
ORDER = ("synodkv", "etcd", "zookeeper", "redis", "standalone", "one-process")
PANEL_WIDTH, PANEL_HEIGHT = 300, 230
# Space around the plot of a panel: left, top, right, bottom.
MARGINS = (58, 30, 14, 42)
HEAD, FOOT = 52, 34


def main():
    parser = argparse.ArgumentParser(prog="scripts/charts.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="files that --results wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="where to write (docs/benchmarks)")
    opts = parser.parse_args()
    rows = [row for path in opts.results for row in read(path)]
    if not rows:
        sys.exit("error: no results in these files")
    opts.out.mkdir(parents=True, exist_ok=True)
    for name, text in charts(rows):
        path = opts.out / f"{name}.svg"
        path.write_text(text, encoding="utf-8")
        print(path)


def read(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            sys.exit(f"error: {path}:{number}: {error}")
        if row.get("kind") == "result" and row.get("workload") in WORKLOADS:
            yield row


def charts(rows):
    lines = sorted({line_of(row) for row in rows}, key=rank_of)
    styles = {line: STYLES[place % len(STYLES)] for place, line in enumerate(lines)}
    clients = sorted({row["concurrency"] for row in rows})
    for figure, title, unit, divisor in FIGURES:
        panels = []
        for workload in (name for name in WORKLOADS if any(row["workload"] == name for row in rows)):
            curves = {}
            for line in lines:
                points = values(rows, line, workload, figure, divisor)
                if points:
                    curves[line] = points
            if curves:
                panels.append((WORKLOADS[workload], curves))
        if panels:
            yield FILES[figure], draw(title, unit, "requests in flight", panels, styles, Categories(clients))
    groups = group_curves(rows, lines)
    if groups:
        sizes = [n for points, _ in groups.values() for n, *_ in points]
        yield "cpu-by-group", draw("CPU of a put, and the fit a + b/n", "µs per put", "puts in a record group (n)",
                                   [("put", {line: points for line, (points, _) in groups.items()})], styles,
                                   Logarithm(min(sizes), max(sizes)), {line: curve for line, (_, curve) in groups.items()})


def line_of(row):
    """What one line of a chart stands for: a system, and the build where there are two."""
    return row["system"], row.get("build", "this")


def rank_of(line):
    system, build = line
    return ORDER.index(system) if system in ORDER else len(ORDER), build != "this"


def label_of(line, lines):
    system, build = line
    title = TITLES.get(system, system)
    return f"{title} ({build})" if len({build for _, build in lines}) > 1 else title


def values(rows, line, workload, figure, divisor):
    """[(clients, median, lowest, highest)] of a line."""
    by_clients = {}
    # Of transactions on several numbers of keys, the largest counts.
    chosen = [row for row in rows if line_of(row) == line and row["workload"] == workload]
    most = max((row.get("keys") or 0 for row in chosen), default=0)
    for row in chosen:
        if row.get(figure) and (row.get("keys") or 0) == most:
            by_clients.setdefault(row["concurrency"], []).append(row[figure] / divisor)
    return [(clients, statistics.median(found), min(found), max(found)) for clients, found in sorted(by_clients.items())]


def group_curves(rows, lines):
    """Puts of systems that count their groups: points over the group size, and the fitted curve."""
    curves = {}
    for line in lines:
        sizes = {clients: median for clients, median, *_ in values(rows, line, "put", "ops_per_group", 1)}
        costs = values(rows, line, "put", "server_cpu_us_per_op", 1)
        points = sorted((sizes[clients], *rest) for clients, *rest in costs if clients in sizes)
        fitted = fit([(n, median) for n, median, *_ in points])
        if fitted:
            each, shared, _ = fitted
            low, high = math.log(points[0][0]), math.log(points[-1][0])
            steps = [math.exp(low + (high - low) * step / 60) for step in range(61)]
            curves[line] = (points, [(n, each + shared / n) for n in steps if each + shared / n > 0])
    return curves


class Categories:
    """An axis with the same distance between all values."""

    def __init__(self, known):
        self.known = known

    def place(self, value):
        return (self.known.index(value) + 0.5) / len(self.known)

    def ticks(self):
        return self.known


class Logarithm:
    """A logarithmic axis, from a round number below the lowest value to one above the highest. It spans a factor of 5 at
    least, so that small differences look small."""

    STEPS, LEAST_SPAN = (1, 2, 5), 5

    def __init__(self, low, high):
        marks = [step * 10.0 ** power for power in range(-6, 10) for step in self.STEPS]
        self.low = max(mark for mark in marks if mark <= low * 1.0001)
        self.high = min(mark for mark in marks if mark >= max(high * 0.9999, self.low * self.LEAST_SPAN))
        self.marks = [mark for mark in marks if self.low <= mark <= self.high]

    def place(self, value):
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self):
        """All marks, or those of whole decades if there are too many."""
        if len(self.marks) <= 9:
            return self.marks
        return [mark for mark in self.marks if abs(math.log10(mark) - round(math.log10(mark))) < 1e-9]


def draw(title, unit, x_title, panels, styles, x_axis, extra=None):
    """One SVG: a title, panels in rows of up to three, and a legend."""
    columns = min(3, len(panels))
    width = max(columns * PANEL_WIDTH + 16, 640 if len(styles) > 2 else 480)
    body, lines = [], [line for line in styles if any(line in curves for _, curves in panels)]
    legend, legend_height = draw_legend(lines, styles, width)
    top = HEAD + legend_height
    left = (width - columns * PANEL_WIDTH) / 2
    for place, (name, curves) in enumerate(panels):
        x, y = left + place % columns * PANEL_WIDTH, top + place // columns * PANEL_HEIGHT
        body.append(f'<g transform="translate({x:.0f} {y:.0f})">')
        body += draw_panel(name, x_title, curves, styles, x_axis, extra or {})
        body.append("</g>")
    height = top + math.ceil(len(panels) / columns) * PANEL_HEIGHT + FOOT - 24
    head = [f'<text class="title" x="16" y="26">{escape(title)}</text>',
            f'<text class="unit" x="16" y="44">{escape(unit)}; medians, with the range over rounds; logarithmic</text>']
    label = escape(f"{title}, {unit}", quote=True)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">',
        style_sheet(styles), f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" rx="6"/>', *head, *legend, *body,
        "</svg>\n"])


def style_sheet(styles):
    """Plain rules instead of variables, which some programs do not know. The second half holds on a dark page."""
    used = sorted({STYLES.index(each) for each in styles.values()})

    def colours(paper, ink, soft, grid, shade):
        rules = [f".paper{{fill:{paper}}}text{{fill:{ink}}}.unit,.tick,.axis{{fill:{soft}}}.grid{{stroke:{grid}}}"
                 f".base{{stroke:{soft}}}"]
        rules += [f".c{place} .line,.c{place} .range{{stroke:{STYLES[place][shade]}}}"
                  f".c{place} .mark{{fill:{STYLES[place][shade]}}}" for place in used]
        return "".join(rules)

    return f"""<style>
text{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px}}
.title{{font-size:16px;font-weight:600}}.panel{{font-weight:600}}.tick{{font-size:11px}}
.line{{fill:none;stroke-width:2}}.range{{opacity:.7}}
{colours("#ffffff", "#1c2128", "#57606a", "#d8dee4", 0)}
@media (prefers-color-scheme: dark){{{colours("#0d1117", "#e6edf3", "#9aa4af", "#30363d", 1)}}}
</style>"""


def draw_legend(lines, styles, width):
    """Returns elements and their height."""
    parts, x, y = [], 16, HEAD + 8
    for line in lines:
        text = label_of(line, lines)
        needed = 44 + 6.6 * len(text)
        if x + needed > width and x > 16:
            x, y = 16, y + 20
        index = STYLES.index(styles[line])
        parts += [f'<g class="c{index}"><path class="line" d="M{x:.0f} {y}h24"{dashes(styles[line])}/>',
                  marker(styles[line][3], x + 12, y), f'</g><text x="{x + 30:.0f}" y="{y + 4}">{escape(text)}</text>']
        x += needed
    return parts, y - HEAD + 16


def draw_panel(name, x_title, curves, styles, x_axis, extra):
    left, top, right, bottom = MARGINS
    width, height = PANEL_WIDTH - left - right, PANEL_HEIGHT - top - bottom
    shown = [value for points in curves.values() for _, *found in points for value in found]
    shown += [value for line in curves for _, value in extra.get(line, [])]
    y_axis = Logarithm(min(shown), max(shown))

    def x_of(value):
        return left + width * x_axis.place(value)

    def y_of(value):
        return top + height * (1 - y_axis.place(value))

    parts = [f'<text class="panel" x="{left}" y="{top - 12}">{escape(name)}</text>']
    for tick in y_axis.ticks():
        parts += [f'<path class="grid" d="M{left} {y_of(tick):.1f}h{width}"/>',
                  f'<text class="tick" x="{left - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>']
    parts.append(f'<path class="base" d="M{left} {top + height}h{width}"/>')
    for tick in x_axis.ticks():
        parts.append(f'<text class="tick" x="{x_of(tick):.1f}" y="{top + height + 16}" text-anchor="middle">{short(tick)}</text>')
    parts.append(f'<text class="axis" x="{left + width / 2}" y="{top + height + 33}" text-anchor="middle">{escape(x_title)}</text>')
    for line, points in curves.items():
        parts += draw_line(points, styles[line], x_of, y_of, extra.get(line))
    return parts


def draw_line(points, style, x_of, y_of, curve):
    """`curve` replaces the line between the points."""
    path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in (curve or [point[:2] for point in points]))
    parts = [f'<g class="c{STYLES.index(style)}">']
    if len(curve or points) > 1:
        parts.append(f'<path class="line" d="M{path}"{dashes(style)}/>')
    for x, middle, low, high in points:
        if high > low:
            parts.append(f'<path class="range" d="M{x_of(x):.1f} {y_of(low):.1f}V{y_of(high):.1f}"/>')
        parts.append(marker(style[3], x_of(x), y_of(middle)))
    return [*parts, "</g>"]


def dashes(style):
    return f' stroke-dasharray="{style[2]}"' if style[2] else ""


def marker(shape, x, y):
    if shape == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    path = {"square": "m-3.5-3.5h7v7h-7z", "triangle": "m0-4.5l4.5 8h-9z", "diamond": "m0-5l5 5l-5 5l-5-5z"}[shape]
    return f'<path class="mark" d="M{x:.1f} {y:.1f}{path}"/>'


def short(value):
    """A tick's text: 200, 1k, 50k, 0.05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


if __name__ == "__main__":
    main()
