"""The coarse correction of conjugate gradients, and doing without it; run ``python benchmarks/compare/coarse.py``.

Prints the iterations of conjugate gradients in each Newton step, with and without the correction, on clouds in the
plane.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.problems import costs

import otkit
from otkit.kernels.numba import cg
from otkit.solvers.sns import newton


def iterations(n, reg, plain):
    """The iterations in each Newton step, where `plain` of them come before the correction."""
    C, a, b = costs("2-D cloud", n, None)
    found, solve, before = [], newton.solve_coupled, cg._PLAIN

    def watched(*args):
        found.append(solve(*args))
        return found[-1]

    newton.solve_coupled, cg._PLAIN = watched, plain
    try:
        otkit.solve(C, a, b, reg=reg, tol=1e-8)
    finally:
        newton.solve_coupled, cg._PLAIN = solve, before
    return [solution.steps for solution in found]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--reg", type=float, default=1e-4, help="in units of the largest cost")
    arguments = parser.parse_args()
    for n in arguments.sizes:
        print(n, f"without: {iterations(n, arguments.reg, 10**6)}, with: {iterations(n, arguments.reg, 0)}")
