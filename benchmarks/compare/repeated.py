"""Small problems with a `reg`, solved again and again; run ``python benchmarks/compare/repeated.py``.

Prints a Markdown table with a row for each size and `reg`, in units of the largest cost: of the families in
`suite.families` the median over all, and the family that takes longest, by the least and by the median of the times of
many calls of ``otkit.solve(C, a, b, reg=reg).value``, one after the other. Turns of these calls take turns with as many
of ``ot.emd2(a, b, C)`` without a `reg`, whose time says what kind of machine it is.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import ot
from common import described, in_turns, parser, save, timed
from suite.families import FAMILIES, problem

import otkit
from compare.tables import heading, human, line


def measure(name, n, share, seed, calls, turns):
    """The record of a problem: the least and the median time of a call, and those of POT's `emd2`."""
    C, a, b = problem(name, n, seed)
    reg = share * float(C.max())
    result = otkit.solve(C, a, b, reg=reg)
    if not result.converged:
        raise AssertionError(f"{name}, {n}, reg {reg}: {result.status}")

    def ours():
        return float(otkit.solve(C, a, b, reg=reg).value)

    def emd():
        return ot.emd2(a, b, C)

    def many(call):
        call()
        return [timed(call)[1] for _ in range(calls)]

    found = in_turns({"otkit": lambda: many(ours), "emd": lambda: many(emd)}, turns)
    times = {key: sorted(t for run in runs for t in run) for key, runs in found.items()}
    return {
        "problem": name,
        "size": f"{len(a)}×{len(b)}",
        "n": n,
        "reg": share,
        "least": {key: t[0] for key, t in times.items()},
        "median": {key: median(t) for key, t in times.items()},
    }


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[5, 20, 50])
    options.add_argument("--regs", type=float, nargs="+", default=[1e-1, 1e-2, 1e-3, 1e-4])
    options.add_argument("--only", nargs="+", default=[""], metavar="SUBSTRING", help="of the name of a family")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--calls", type=int, default=50)
    options.add_argument("--turns", type=int, default=4)
    args, rows = options.parse_args(), []
    names = [name for name in FAMILIES if any(part in name for part in args.only)]
    heading("n, reg, least: median of families, least: longest, median: median of families, median: longest, of emd2")
    for n in args.sizes:
        for reg in args.regs:
            found = [measure(name, n, reg, args.seed, args.calls, args.turns) for name in names]
            rows += found
            cells = []
            for kind in ("least", "median"):
                longest = max(found, key=lambda row, kind=kind: row[kind]["otkit"])
                cells.append(human(median(row[kind]["otkit"] for row in found)))
                cells.append(f"{human(longest[kind]['otkit'])}, {longest['problem']} ({longest['size']})")
            line(n, f"{reg:g}", *cells, human(median(row["median"]["emd"] for row in found)))
    save(args.json, described(args, "otkit", "pot", "numpy", "numba") | {"rows": rows})


if __name__ == "__main__":
    main()
