"""Small problems beside a Python loop over POT; run ``python benchmarks/compare/small.py``.

Prints a Markdown table: the median time of ``otkit.solve(C, a, b).value`` and of ``ot.emd2(a, b, C)``, once and for
each item of a batch; of all pairs of some clouds, beside a loop over ``ot.dist`` and ``ot.emd2``; and of
``otkit.solve_sample(x, y, a, b).value`` for points on a line, beside ``ot.wasserstein_1d``. With a `reg`, in units of
the largest cost, the linear part of the value is compared with ``ot.sinkhorn2`` in the log domain, at the same
tolerance. Both take turns. The clouds are random points at squared distances, in the plane or on a line, with random
weights but in pairs.
"""

import itertools
import sys
import warnings
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from common import described, in_turns, parser, save, timed

from compare.tables import heading, human, line

SINGLE = (5, 10, 20, 50, 100, 200)
BATCHES = ((2000, 8), (500, 32), (200, 64))
PAIRS = ((60, 20), (40, 100))
ENTROPIC, REGS, TOL = (5, 10, 20, 50), (1e-1, 1e-2, 1e-3, 1e-4), 1e-6
LINES = (1000, 100_000)
PACKAGES = ("otkit", "pot", "numpy", "scipy", "numba")
TITLES = "problem, otkit, POT, POT / otkit, largest difference, largest width or error"


def clouds(rng, items, n):
    """Costs and weights of a batch."""
    x, y = rng.normal(size=(2, items, n, 2)) + np.array([0.0, 0.5])[:, None, None, None]
    C = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    return C, rng.dirichlet(np.ones(n), items), rng.dirichlet(np.ones(n), items)


def calls(rng, items, n):
    """The calls of both libraries for a batch; each returns the values, and otkit's the widths of the intervals too."""
    import ot

    import otkit

    C, a, b = clouds(rng, items, n)
    if items == 1:
        C, a, b = C[0], a[0], b[0]

        def theirs():
            return np.array([ot.emd2(a, b, C)])
    else:

        def theirs():
            return np.array([ot.emd2(a[k], b[k], C[k]) for k in range(items)])

    def ours():
        result = otkit.solve(C, a, b)
        return result.value, result

    return ours, theirs


def entropic(rng, n, share):
    """The calls of both libraries for a problem with a `reg`."""
    import ot

    import otkit

    C, a, b = (v[0] for v in clouds(rng, 1, n))
    reg = share * float(C.max())

    def theirs():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its maximum number of iterations
            return np.array([ot.sinkhorn2(a, b, C, reg, method="sinkhorn_log", stopThr=TOL)])

    def ours():
        result = otkit.solve(C, a, b, reg=reg, tol=TOL)
        return result.value_linear, result

    return ours, theirs


def pairs(rng, count, n):
    """The calls of both libraries for all pairs of clouds: squared distances W2²."""
    import ot

    import otkit

    measures = [rng.normal(size=(n, 2)) + rng.normal(size=2) for _ in range(count)]
    index = np.triu_indices(count, 1)

    def theirs():
        return np.array([ot.emd2([], [], ot.dist(x, y)) for x, y in itertools.combinations(measures, 2)])

    def ours():
        result = otkit.pairwise(measures)
        return result.distance[index] ** 2, result

    return ours, theirs


def on_line(rng, n, weighted):
    """The calls of both libraries for points on a line; the cost is W2²."""
    import ot

    import otkit

    x, y = rng.normal(size=(n, 1)), rng.normal(size=(n, 1)) + 0.5
    a, b = rng.dirichlet(np.ones(n), 2) if weighted else (None, None)

    def theirs():
        return np.array([ot.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=2)])

    def ours():
        result = otkit.solve_sample(x, y, a, b)
        return result.value, result

    return ours, theirs


def compared(name, ours, theirs, rounds):
    """A row: the times of both in turns, the largest difference of values, and the largest width of an interval.

    With a `reg` it has the error in place of the width.
    """
    for call in (ours, theirs) * 2:  # imports and compiles
        call()
    found = in_turns({"otkit": lambda: timed(ours), "POT": lambda: timed(theirs)}, rounds)
    seconds = {key: [time for _, time in runs] for key, runs in found.items()}
    (values, result), wanted = found["otkit"][-1][0], found["POT"][-1][0]
    exact = "reg" not in name
    return {
        "problem": name,
        "seconds": seconds,
        "difference": float(abs(values - wanted).max()),
        "width": float(np.max(result.upper - result.lower if exact else result.error)),
    }


def print_row(row):
    ours, theirs = (median(row["seconds"][key]) for key in ("otkit", "POT"))
    line(
        row["problem"],
        human(ours),
        human(theirs),
        f"{theirs / ours:.2f}",
        f"{row['difference']:.0e}",
        f"{row['width']:.0e}",
    )


def main():
    options = parser(__doc__)
    options.add_argument(
        "--repeat", type=int, default=5, help="rounds of a batch; a single problem has 20 times as many"
    )
    options.add_argument("--only", default="", metavar="SUBSTRING", help="of the name of a problem")
    args = options.parse_args()
    rng, rows = np.random.default_rng(20), []
    heading(TITLES)
    cases = [(f"{n} × {n}", calls(rng, 1, n), 20 * args.repeat) for n in SINGLE]
    cases += [(f"{items} of {n} × {n}", calls(rng, items, n), args.repeat) for items, n in BATCHES]
    cases += [(f"all pairs of {count} clouds of {n} points", pairs(rng, count, n), args.repeat) for count, n in PAIRS]
    cases += [(f"{n} × {n}, reg {r:g}", entropic(rng, n, r), args.repeat) for n in ENTROPIC for r in REGS]
    for n, weighted in itertools.product(LINES, (False, True)):
        name = f"{n} points on a line{', weighted' if weighted else ''}"
        cases.append((name, on_line(rng, n, weighted), 20 * args.repeat if n < 10_000 else args.repeat))
    for name, both, rounds in (case for case in cases if args.only in case[0]):
        rows.append(compared(name, *both, rounds))
        print_row(rows[-1])
    save(args.json, described(args, *PACKAGES) | {"rows": rows})


if __name__ == "__main__":
    main()
