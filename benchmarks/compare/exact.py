"""Exact optima beside the network simplex of POT; run ``python benchmarks/compare/exact.py``.

Prints a Markdown table with medians of three times: those of ``otkit.solve(C, a, b)``, of ``ot.emd(a, b, C)`` and of
``emd`` started from the optimal potentials (the best that a warm start could know). It also has the memory of each
beyond the peak of forming the costs, and the difference of the first two optima. The largest cost is 1.
"""

import multiprocessing
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, parser, peak_memory, save, timed
from suite.problems import PROBLEMS, costs

from compare.tables import heading, line

LIBRARIES = {"otkit": "otkit", "emd": "POT", "emd warm": "POT, warm"}
PACKAGES = ("otkit", "pot", "numpy", "scipy", "numba")
TITLES = "problem, size, otkit s, emd s, emd warm s, emd / otkit, pivots, otkit MiB, emd MiB, difference"


def measure(library, name, n, repeat):
    """The times, the optimum, the pivots and the peak beyond the costs in MiB; in a process of its own."""
    if library == "otkit":
        import otkit

        def solve():
            result = otkit.solve(C, a, b)
            result.plan_sparse()
            return float(result.value), result.n_iter - sum(stage.n_iter for stage in result.stages)

    else:
        import ot

        def solve():
            return float((ot.emd(a, b, C, numItermax=10**9, potentials_init=known) * C).sum()), None

    C, a, b = costs("2-D cloud", 300)
    known = None
    solve()  # imports and compiles
    C, a, b = costs(name, n)
    if library == "POT, warm":
        log = ot.emd(a, b, C, numItermax=10**9, log=True)[1]
        known = log["u"], log["v"]
    before = peak_memory()
    times = []
    for _ in range(repeat):
        (value, pivots), seconds = timed(solve)
        times.append(seconds)
    memory = (peak_memory() - before) / 2**20
    return {"seconds": times, "value": value, "pivots": pivots, "memory": memory, "size": f"{len(a)}×{len(b)}"}


def print_row(row):
    ours, theirs = row["otkit"], row["emd"]
    times = [median(row[name]["seconds"]) for name in LIBRARIES]
    memory = (f"{one['memory']:.0f}" for one in (ours, theirs))
    seconds, ratio = (f"{time:.3g}" for time in times), f"{times[1] / times[0]:.2f}"
    difference = f"{ours['value'] - theirs['value']:.0e}"
    line(row["problem"], ours["size"], *seconds, ratio, ours["pivots"], *memory, difference)


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    options.add_argument("--only", default="", metavar="SUBSTRING", help="of the name of a problem")
    options.add_argument("--repeat", type=int, default=3)
    args = options.parse_args()
    heading(TITLES)
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for n in args.sizes:
            for name in (p for p in PROBLEMS if args.only in p):
                row = {"problem": name, "n": n}
                for key, library in LIBRARIES.items():
                    row[key] = pool.apply(measure, (library, name, n, args.repeat))
                rows.append(row)
                print_row(row)
    save(args.json, described(args, *PACKAGES) | {"rows": rows})


if __name__ == "__main__":
    main()
