"""The plots of the pages, from the files of results and from an example; run ``python benchmarks/compare/plots.py``.

Measures nothing, and writes SVG files to docs/images. In docs/performance.md, a marker is the median of a library over
seven problems, each at the fastest configuration of the library that reaches the error. A thin line is the range. A
problem that a library does not solve counts as slower than all others. Where this leaves no median, because most
problems are not solved, a hollow marker stands in a zone above the times.
"""

import argparse
import json
import runpy
import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1]))

from compare.tables import stored

ROOT = Path(__file__).parents[2]
INK = "#747c86"  # readable on a white page and on a dark one, as are the colours below
LOOKS = {  # colours of one lightness that the colour-blind tell apart, and markers
    "otkit": ("#1f86e0", "o"),
    "OTT-JAX": ("#0f9c76", "s"),
    "POT": ("#d9621e", "^"),
    "regot": ("#a77f1c", "D"),
    "GeomLoss": ("#bd6aa6", "v"),
    "POT emd": ("#d9621e", "^"),
    "warm emd": ("#a77f1c", "D"),
}
PEERS = ("OTT-JAX", "POT", "regot", "GeomLoss")
EXACT = {"otkit": "otkit", "POT emd": "emd", "warm emd": "emd warm"}
TIMES = {1e-2: "10 ms", 1e-1: "100 ms", 1: "1 s", 10: "10 s", 100: "100 s"}
STEP = 1.65  # between two libraries in the zone
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "otkit",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans", "sans-serif"],
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)


@dataclass(frozen=True)
class Point:
    """The median and the range of the times of several problems, infinite where a problem is not solved."""

    x: float
    middle: float
    low: float
    high: float

    @staticmethod
    def of(x, times):
        return Point(x, median(times), min(times), max(times))


def best_time(row, library):
    """The time of the fastest configuration of a library that reaches the error, infinite where none does."""
    if library == "otkit":
        return row["otkit"]["seconds"] if row["otkit"]["status"] == "ok" else inf
    records = [record for name, record in row["peers"].items() if name.split()[0] == library]
    good = [record for record in records if record["status"] == "ok" and record["error"] <= row["accept"]]
    rounds = [record for record in good if "rounds" in record]  # medians, which single calls are not
    return min((record["seconds"] for record in rounds or good), default=inf)


def plan_lines(groups):
    """The points of every library, from rows of plans by x."""
    return {
        name: [Point.of(x, [best_time(row, name) for row in rows]) for x, rows in groups.items()]
        for name in ("otkit", *PEERS)
    }


def exact_lines(rows):
    """The points of otkit and of `emd`, from rows of exact optima."""
    sizes = sorted({row["n"] for row in rows})
    return {
        name: [Point.of(n, [median(row[key]["seconds"]) for row in rows if row["n"] == n]) for n in sizes]
        for name, key in EXACT.items()
    }


def zone(panels):
    """The height of every library that lacks a median, above all times that are known."""
    points = [(name, point) for lines in panels for name, found in lines.items() for point in found]
    top = max(time for _, point in points for time in (point.middle, point.high) if time < inf)
    lacking = [name for name in LOOKS if any(name == other and point.middle == inf for other, point in points)]
    return {name: top * STEP ** (k + 1.5) for k, name in enumerate(lacking)}


def draw(axes, lines, heights, dodge):
    """Draw every library, dashed where a median is lacking and a factor `dodge` beside the next. Return the ends."""
    ends = {}
    for k, (name, points) in enumerate(lines.items()):
        colour, marker = LOOKS[name]
        above = heights.get(name, inf)
        x = [point.x * dodge ** (k - (len(lines) - 1) / 2) for point in points]
        y = [min(point.middle, above) for point in points]
        known = [point.middle < inf for point in points]
        for i in range(len(points) - 1):
            style = "-" if known[i] and known[i + 1] else (0, (2, 2))
            axes.plot(x[i : i + 2], y[i : i + 2], color=colour, lw=2.8 if name == "otkit" else 1.5, ls=style)
        ranges = [(u, point.low, min(point.high, above)) for u, point in zip(x, points, strict=True) if point.low < inf]
        if ranges:
            axes.vlines(*zip(*ranges, strict=True), color=colour, lw=1, alpha=0.6)
        for face, wanted in ((colour, True), ("none", False)):
            some = [i for i in range(len(points)) if known[i] == wanted]
            where = [x[i] for i in some], [y[i] for i in some]
            axes.plot(*where, marker, ms=7, mfc=face, mec=colour, mew=1.5, zorder=5, clip_on=False)
        ends[name] = y[-1]
    return ends


def label(axes, ends):
    """Write the names of the libraries beside the ends of their lines."""
    last = 0.0
    for name, y in sorted(ends.items(), key=lambda end: end[1]):
        last = max(y, last * STEP)
        weight = "bold" if name == "otkit" else "normal"
        where = dict(xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center")
        axes.annotate(name, (1, last), (5, 0), color=LOOKS[name][0], weight=weight, **where)


def figure(path, panels, x_label, ticks, dodge):
    """Write an SVG file of panels by their titles, with texts for the ticks of x."""
    fig, row = plt.subplots(1, len(panels), figsize=(6.3, 4.2), sharey=True, squeeze=False)
    fig.subplots_adjust(left=0.14, right=0.83, bottom=0.14, top=0.93, wspace=0.1)
    heights = zone(panels.values())
    for axes, (title, lines) in zip(row[0], panels.items(), strict=True):
        axes.set(xscale="log", yscale="log", title=title, xlabel=x_label)
        axes.margins(x=0.13)
        ends = draw(axes, lines, heights, dodge)
        axes.set_xticks(list(ticks), ticks.values())
        axes.set_xticks([], minor=True)
        if list(ticks) == sorted(ticks, reverse=True):
            axes.invert_xaxis()
    low, high = axes.get_ylim()
    shown = {time: text for time, text in TIMES.items() if low < time < min([high, *heights.values()])}
    for axes in row[0]:
        axes.hlines(list(shown), 0, 1, transform=axes.get_yaxis_transform(), color=INK, alpha=0.3, lw=0.6, zorder=0)
    if heights:
        edges = min(heights.values()) / STEP**0.7, max(heights.values()) * STEP**0.7
        for axes in row[0]:
            axes.axhspan(*edges, color=INK, alpha=0.13, lw=0)
        axes.set_ylim(low, edges[1])
        shown[(edges[0] * edges[1]) ** 0.5] = "not\nreached"
    axes.set_yticks(list(shown), shown.values())
    label(axes, ends)
    save(fig, path)


def save(fig, path):
    """Write a figure to an SVG file, the same bytes every time."""
    fig.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(fig)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER")
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(STYLE)
    rows = {n: found for (dtype, n), found in stored(args.results / "plans.json").items() if dtype == "float64"}
    regs = sorted({row["reg"] for found in rows.values() for row in found}, reverse=True)

    def where(n, reg):
        return [row for row in rows[n] if row["reg"] == reg]

    by_reg = {f"about {n} points": plan_lines({reg: where(n, reg) for reg in regs}) for n in rows}
    figure(args.out / "plans_by_reg.svg", by_reg, "reg", {reg: f"{reg:g}" for reg in regs}, 1.08)
    by_size = {f"reg = {reg:g}": plan_lines({n: where(n, reg) for n in rows}) for reg in regs}
    figure(args.out / "plans_by_size.svg", by_size, "points", {n: f"{n}" for n in rows}, 1.03)
    exact = json.loads((args.results / "exact.json").read_text())["rows"]
    sizes = sorted({row["n"] for row in exact})
    figure(args.out / "exact_by_size.svg", {"": exact_lines(exact)}, "points", {n: f"{n}" for n in sizes}, 1.04)
    cells = runpy.run_path(str(ROOT / "examples" / "plot_cells.py"))["figure"]
    save(cells, args.out / "cells.svg")


if __name__ == "__main__":
    main()
