"""Exact optima of many families beside POT's network simplex; run ``python benchmarks/compare/families.py``.

Prints a Markdown table with medians of the times of ``otkit.solve(C, a, b)``, with its value, bounds and sparse plan,
and of ``ot.emd2(a, b, C)``, which take turns in one process. The largest cost is 1. `HELD_OUT` families were never
used to choose a constant. With ``--json``, problems of earlier runs are kept, so that a long survey may be made in
parts.
"""

import json
import sys
from pathlib import Path
from statistics import geometric_mean, median

sys.path.insert(0, str(Path(__file__).parents[1]))

import ot
from common import described, in_turns, parser, save, timed
from suite.families import FAMILIES, TUNED, problem

import otkit
from compare.tables import heading, human, line

PACKAGES = ("otkit", "pot", "numpy", "scipy", "numba")
# The optima may differ by this, relative to the largest cost.
EQUAL = 1e-10


def ours(C, a, b):
    result = otkit.solve(C, a, b)
    plan = result.plan_sparse()
    return float(result.value), plan, result


def theirs(C, a, b):
    return ot.emd2(a, b, C, numItermax=10**9)


def measure(name, n, seed, rounds):
    """The record of a problem; an error if the optima differ or the plan has too many entries."""
    ours(*problem(name, min(n, 1100), seed))  # imports and compiles
    C, a, b = problem(name, n, seed)
    found = in_turns({"otkit": lambda: timed(ours, C, a, b), "emd": lambda: timed(theirs, C, a, b)}, rounds)
    (value, plan, result), _ = found["otkit"][-1]
    optimum, _ = found["emd"][-1]
    if abs(value - optimum) > EQUAL or plan.mass.size > sum(C.shape) - 1 or not result.converged:
        raise AssertionError(f"{name}, {n}: {value - optimum}, {plan.mass.size} entries, {result.status}")
    sweeps = sum(stage.n_iter for stage in result.stages)
    return {
        "problem": name,
        "n": n,
        "seed": seed,
        "held_out": name not in TUNED,
        "size": f"{len(a)}×{len(b)}",
        "otkit": [seconds for _, seconds in found["otkit"]],
        "emd": [seconds for _, seconds in found["emd"]],
        "difference": value - optimum,
        "sweeps": sweeps,
        "pivots": result.n_iter - sweeps,
    }


def ratio(row):
    return median(row["emd"]) / median(row["otkit"])


def print_row(row):
    kind, times = "held out" if row["held_out"] else "tuned", [median(row[name]) for name in ("otkit", "emd")]
    line(row["problem"], kind, row["size"], *map(human, times), f"{ratio(row):.2f}", row["sweeps"], row["pivots"])


def print_ratios(rows):
    """The ratios of every family, with a column for each size, and their worst and geometric mean."""
    sizes = sorted({row["n"] for row in rows})
    heading(", ".join(["family", *map(str, sizes)]))
    found = {(row["problem"], row["n"]): ratio(row) for row in rows}
    for name in FAMILIES:
        known = (found.get((name, n)) for n in sizes)
        line(name if name in TUNED else f"*{name}*".replace("'", "’"), *(f"{r:.2f}" if r else "–" for r in known))
    for title, f in (("**worst**", min), ("**geometric mean**", geometric_mean)):
        line(title, *(f"{f([ratio(row) for row in rows if row['n'] == n]):.2f}" for n in sizes))


def print_means(rows):
    """The worst ratio and the geometric mean of each size, of all families and of those held out."""
    heading("n, families, worst, geometric mean, worst held out, geometric mean held out")
    for n in sorted({row["n"] for row in rows}):
        every = [row for row in rows if row["n"] == n]
        groups = [[ratio(row) for row in part] for part in (every, [row for row in every if row["held_out"]])]
        cells = (f"{f(group):.2f}" if group else "–" for group in groups for f in (min, geometric_mean))
        line(n, len(every), *cells)


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 2000, 4000])
    options.add_argument("--only", nargs="+", default=[""], metavar="SUBSTRING", help="of the name of a family")
    options.add_argument("--kind", choices=("tuned", "held out"), help="default: both")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--show", metavar="FILE", help="print the ratios in a file of results, held out in italics")
    args = options.parse_args()
    if args.show:
        print_ratios(json.loads(Path(args.show).read_text())["rows"])
        return
    kinds = {name: "tuned" if name in TUNED else "held out" for name in FAMILIES}
    wanted = [name for name in FAMILIES if any(part in name for part in args.only)]
    names = [name for name in wanted if args.kind in (None, kinds[name])]
    rows = []
    heading("family, kind, size, otkit, emd, emd / otkit, sweeps, pivots")
    for n in args.sizes:
        for name in names:
            rows.append(measure(name, n, args.seed, args.repeat))
            print_row(rows[-1])
    new, commands = {(row["problem"], row["n"], row["seed"]) for row in rows}, []
    if args.json and Path(args.json).exists():
        old = json.loads(Path(args.json).read_text())
        rows += [row for row in old["rows"] if (row["problem"], row["n"], row["seed"]) not in new]
        commands = [*old["earlier"], old["command"]]
    print_means(rows)
    save(args.json, described(args, *PACKAGES) | {"earlier": commands, "rows": rows})


if __name__ == "__main__":
    main()
