"""Exact optima beside the network simplex of POT; run ``python benchmarks/compare/exact.py`` in the repository's root.

Prints a Markdown table: the time of ``otkit.solve(C, a, b)``, of ``ot.emd(a, b, C)`` and of ``emd`` started from the
optimal potentials (the best that a warm start could know), medians, the memory that each takes beyond the peak of
forming the costs, and the difference of the first two optima. The largest cost is 1.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.problems import costs

PROBLEMS = (
    "uniform costs", "2-D cloud", "64-D cloud", "digits, L1", "digits, squared L2", "fields, L1", "fields, squared L2",
)  # fmt: skip


def measure(library, name, n, repeat):
    """In a process of its own, for the memory: the times, the optimum, the peak beyond the costs in MiB, the pivots."""
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        value, pivots = solve()
        times.append(time.perf_counter() - start)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": times, "value": value, "pivots": pivots, "memory": memory, "size": f"{len(a)}×{len(b)}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="of the name of a problem")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print("| problem | size | otkit s | emd s | emd warm s | emd / otkit | pivots | otkit MiB | emd MiB | difference |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for n in args.sizes:
            for name in (p for p in PROBLEMS if args.only in p):
                ours, theirs, warm = (
                    pool.apply(measure, (library, name, n, args.repeat)) for library in ("otkit", "POT", "POT, warm")
                )
                rows.append({"problem": name, "n": n, "otkit": ours, "emd": theirs, "emd warm": warm})
                times = [median(one["seconds"]) for one in (ours, theirs, warm)]
                cells = (
                    name,
                    ours["size"],
                    *(f"{seconds:.3g}" for seconds in times),
                    f"{times[1] / times[0]:.2f}",
                    ours["pivots"],
                    *(f"{one['memory']:.0f}" for one in (ours, theirs)),
                    f"{ours['value'] - theirs['value']:.0e}",
                )
                print("", *cells, "", sep=" | ", flush=True)
    if args.json:
        versions = {name: version(name) for name in ("otkit", "pot", "numpy", "scipy", "numba")}
        content = {"arguments": vars(args), "versions": versions, "rows": rows}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
