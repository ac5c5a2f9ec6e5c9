"""Distances between images, beside POT; run ``python benchmarks/compare/images.py``.

Prints time, peak memory of the process so far, and the answer: of otkit the proved interval, of POT a number. POT has
the pixels with mass as points, and is left out above ``--pot`` pixels along a side.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.images import KINDS, pair

# Sides of images of each cost: larger ones take minutes in the city-block distance, whose answer is exact.
SIDES = {"sqeuclidean": (128, 256, 1024), "cityblock": (128, 256)}


def of_otkit(a, b, metric):
    import otkit

    result = otkit.solve_grid(a, b, metric=metric)
    return result.lower, result.upper, f"{result.method} {result.status.name}"


def of_pot(a, b, metric):
    import ot

    x, y = np.argwhere(a > 0) * 1.0, np.argwhere(b > 0) * 1.0
    value, log = ot.emd2(a[a > 0], b[b > 0], ot.dist(x, y, metric), numItermax=10**8, log=True)
    return value, value, f"emd {log['warning'] or 'optimal'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--metrics", nargs="+", default=list(SIDES))
    parser.add_argument("--sides", type=int, nargs="+", help="by default those that take seconds")
    parser.add_argument("--pot", type=int, default=64)
    arguments = parser.parse_args()
    for metric in arguments.metrics:
        for side in arguments.sides or SIDES.get(metric, SIDES["cityblock"]):
            of_otkit(*pair(arguments.images[0], side), metric)  # compilation
            for kind in arguments.images:
                for solve in (of_otkit, of_pot)[: 2 if side <= arguments.pot else 1]:
                    began = time.perf_counter()
                    lower, upper, how = solve(*pair(kind, side), metric)
                    spent, memory = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                    answer = f"[{lower:.10g}, {upper:.10g}] gap {upper - lower:.2g}, {how}"
                    print(
                        f"{metric:12} {side:5} {kind:7} {spent:8.2f} s {memory / 2**20:6.2f} GiB  {answer}", flush=True
                    )
