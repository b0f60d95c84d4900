"""Results: a file of JSON lines, medians over rounds, tables, and a fit."""

import json
import operator
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


class Results:
    """Collects results, and appends each to a file at once, so that an interrupted run keeps what it has."""

    def __init__(self, path, about):
        self.rows, self.path = [], Path(path) if path else None
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"kind": "run", **machine(), **about})

    def add(self, row):
        self.rows.append(row)
        if self.path:
            self._append({"kind": "result", **row})

    def _append(self, row):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def medians(self, *keys):
        """{(values of keys): {figure: median over rounds}}, in the order of first appearance."""
        groups = {}
        for row in self.rows:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
        return {key: median_of(rows) for key, rows in groups.items()}


def median_of(rows):
    figures = {}
    for name in rows[0]:
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        if values:
            figures[name] = statistics.median(values)
    figures["rounds"] = len(rows)
    return figures


def machine():
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "cpus": os.cpu_count(), "cpu": models[0] if models else "?",
            "kernel": platform.release(), "load_average": os.getloadavg()[0]}


def warn_if_busy():
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: the load average is {load:.1f}: something else runs here, so the figures will be worth little")


def version_of(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "?"


def say(text):
    print(text, file=sys.stderr, flush=True)


def number(value, digits=3):
    """A figure with so many significant digits, whole ones with all; a dash for none."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def ratio(value, base):
    return None if value is None or not base else value / base


def print_table(title, header, rows):
    """The first column is text, the others are numbers."""
    print(f"\n{title}")
    cells = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(header))]
    for index, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                         for place, (cell, width) in enumerate(zip(row, widths)))
        print(line.rstrip())
        if index == 0:
            print("  ".join("-" * width for width in widths))


def fit(points):
    """Fits cost = a + b / n to points (n, cost) so that the squares of relative deviations are least. Returns (a, b,
    largest relative deviation), or `None` if fewer than three points differ in n."""
    points = [(1 / n, cost) for n, cost in points if n and cost]
    if len({round(x, 6) for x, _ in points}) < 3:
        return None
    weights = [1 / cost ** 2 for _, cost in points]

    def mean(values):
        return sum(map(operator.mul, weights, values)) / sum(weights)

    mean_x, mean_y = mean([x for x, _ in points]), mean([y for _, y in points])
    slope = mean([(x - mean_x) * (y - mean_y) for x, y in points]) / mean([(x - mean_x) ** 2 for x, _ in points])
    start = mean_y - slope * mean_x
    return start, slope, max(abs(start + slope * x - y) / y for x, y in points)


def print_fit(name, medians):
    """Prints the CPU of a put as a part for each put and a part that the puts of a group share."""
    fitted = fit([(row.get("ops_per_group"), row.get("server_cpu_us_per_op")) for row in medians])
    if fitted:
        each, shared, deviation = fitted
        print(f"{name}: CPU of a put = {each:.1f} µs + {shared:.1f} µs / n, where n puts share a record group "
              f"(largest deviation {100 * deviation:.0f} %)")
    elif any(row.get("ops_per_group") for row in medians):
        print(f"{name}: no fit of a + b/n: that needs three different group sizes (--clients)")
